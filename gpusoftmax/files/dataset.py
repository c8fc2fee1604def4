"""`Dataset`, the form that every data set takes, and memory for its arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from gpusoftmax._typing import Array

if TYPE_CHECKING:
    from gpusoftmax.tables.encoder import TableEncoder

_CACHE_LINE = 64


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A classification problem with a fixed split into training, validation and test rows.

    Attributes
    ----------
    name : str
        Its name on the command line.
    X_train, X_validation, X_test : ndarray or scipy.sparse.csr_array of shape (n, d)
        One sample per row, in the data set's own dtype. A part may have no rows.
    y_train, y_validation, y_test : ndarray of shape (n,)
        The class of each row. In the data sets that the library knows, an int64 from 0 to c - 1, the position of the
        class in `class_names`; in a user's own data, the label found there.
    class_names : tuple of str, length c
        Names for display; no computation uses them.
    feature_shape : tuple of int, or None
        The shape of a row before flattening, such as (3, 32, 32) for an image: channels, height, width.
    feature_names : tuple of str, length d, or None
        Names of the columns, if they have any.
    label_name : str or None
        Where labels of a user's own data come from: the name of their column or array, or "column 3" if it has no name.
    encoder : TableEncoder or None
        What made the features of a table that does not hold numbers alone; fitted to the training rows.
    """

    name: str
    X_train: Array
    y_train: Array
    X_validation: Array
    y_validation: Array
    X_test: Array
    y_test: Array
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...] | None
    feature_names: tuple[str, ...] | None = None
    label_name: str | None = None
    encoder: TableEncoder | None = None

    def __repr__(self) -> str:
        rows = ", ".join(f"{len(y)} {name}" for name, (_, y) in self.parts.items())
        return (
            f"<Dataset {self.name}: {rows} rows of {self.X_train.shape[1]} features, {len(self.class_names)} classes>"
        )

    @property
    def parts(self) -> dict[str, tuple[Array, Array]]:
        """The parts that have rows, of {"train": (X, y), "validation": (X, y), "test": (X, y)}."""
        parts = {
            "train": (self.X_train, self.y_train),
            "validation": (self.X_validation, self.y_validation),
            "test": (self.X_test, self.y_test),
        }
        return {name: (X, y) for name, (X, y) in parts.items() if X.shape[0]}


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised C-contiguous array that starts on a cache line.

    Large arrays that NumPy allocates start 16 bytes past a cache line, so that every 64-byte load crosses a line.

    Parameters
    ----------
    shape : tuple of int
        The shape of the array.
    dtype : dtype-like
        Its type; any type of plain numbers.

    Returns
    -------
    ndarray of `shape` and `dtype`
        Its address is a multiple of 64.

    Raises
    ------
    ValueError
        If a dimension is negative.
    TypeError
        If the dtype holds Python objects.
    """
    if min(shape, default=0) < 0:
        raise ValueError(f"shape: no dimension may be negative, but got {shape}")
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % _CACHE_LINE
    return buffer[start : start + size].view(dtype).reshape(shape)
