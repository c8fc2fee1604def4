"""CIFAR-10 from the official files, pickled or binary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpusoftmax.datasets import pickled
from gpusoftmax.datasets.base import Dataset, aligned_empty
from gpusoftmax.exceptions import BadFileError

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEATURE_SHAPE = (3, 32, 32)

_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_BATCH_ROWS = 10_000
_VALIDATION_ROWS = 1_000
_MAX_NAMES_BYTES = 4096


def load_cifar10(folder: str | Path) -> Dataset:
    """Load CIFAR-10 with the splits of the course cs231n.

    Training is the first 49000 rows of data_batch_1 to data_batch_5, validation the last 1000, and the test set all
    10000 of test_batch. The pickled layout is read without unpickling: see `gpusoftmax.datasets.pickled`.

    Parameters
    ----------
    folder : str or pathlib.Path
        cifar-10-batches-bin, cifar-10-batches-py, or the folder that holds either. Of both the binary one is taken: it
        is the faster to read.

    Returns
    -------
    Dataset
        X uint8 of shape (n, 3072), channel-major (all red, all green, all blue, each 32x32 row by row), 64-byte
        aligned, X_train and X_validation being views of one buffer; y int64; class names from batches.meta.txt or
        batches.meta if it is there; feature_shape (3, 32, 32).

    Raises
    ------
    FileNotFoundError
        If none of those folders holds all six batches; the message lists what each one lacks.
    BadFileError
        If a file is not what it should be.

    Notes
    -----
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    folder, layout = _find(Path(folder))
    *train, test = (layout.batch(folder, name) for name in _BATCHES)
    X, y = _read(layout, train)
    X_test, y_test = _read(layout, [test])
    split = len(y) - _VALIDATION_ROWS
    return Dataset(
        name="cifar10",
        X_train=X[:split],
        y_train=y[:split],
        X_validation=X[split:],
        y_validation=y[split:],
        X_test=X_test,
        y_test=y_test,
        class_names=_class_names(folder / layout.names, layout),
        feature_shape=FEATURE_SHAPE,
    )


def read_binary_batch(path: Path, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one binary batch: `rows` records of a label byte and 3072 pixel bytes.

    Parameters
    ----------
    path : pathlib.Path
        The file, such as cifar-10-batches-bin/data_batch_1.bin.
    rows : int
        How many records it has to hold; 10000 in the official files.

    Returns
    -------
    X : ndarray of uint8, shape (rows, 3072)
        The images, channel-major; not contiguous, as it is a view of the records.
    y : ndarray of int64, shape (rows,)
        Their classes, 0..9.

    Raises
    ------
    BadFileError
        If the file has another size, which is checked before anything is read, or a label is above 9.
    """
    record = 1 + pickled.COLUMNS
    size = path.stat().st_size
    if size != rows * record:
        raise BadFileError(path, reason=f"{size} bytes", expected=f"{rows * record} bytes: {rows} records of {record}")
    records = np.fromfile(path, np.uint8).reshape(rows, record)
    labels = records[:, 0]
    if labels.max() >= pickled.CLASSES:
        row = int(labels.argmax())
        raise BadFileError(path, place=f"byte {row * record}", reason=f"label {labels[row]}", expected="a label 0..9")
    return records[:, 1:], labels.astype(np.int64)


def read_text_names(path: Path) -> tuple[str, ...]:
    """Read the names of the ten classes from batches.meta.txt, one a line.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    tuple of str, length 10
        The names, in the order of the labels.

    Raises
    ------
    BadFileError
        If it is not a short ASCII text of ten lines; empty lines do not count, and the official file ends in one.
    """
    expected = f"ten lines of ASCII, one name each, in at most {_MAX_NAMES_BYTES} bytes"
    size = path.stat().st_size
    if size > _MAX_NAMES_BYTES:
        raise BadFileError(path, reason=f"{size} bytes", expected=expected)
    try:
        names = tuple(line for line in path.read_text("ascii").splitlines() if line)
    except UnicodeDecodeError as error:
        raise BadFileError(path, place=f"byte {error.start}", reason="not ASCII", expected=expected) from error
    if len(names) != pickled.CLASSES:
        raise BadFileError(path, reason=f"{len(names)} names", expected=expected)
    return names


@dataclass(frozen=True)
class _Layout:
    """How one of the two official archives stores the batches."""

    folder: str
    suffix: str
    names: str
    read_batch: Callable[[Path, int], tuple[NDArray[np.uint8], NDArray[np.int64]]]
    read_names: Callable[[Path], tuple[str, ...]]

    def batch(self, folder: Path, name: str) -> Path:
        return folder / f"{name}{self.suffix}"


_LAYOUTS = (  # the preferred one first
    _Layout("cifar-10-batches-bin", ".bin", "batches.meta.txt", read_binary_batch, read_text_names),
    _Layout("cifar-10-batches-py", "", "batches.meta", pickled.read_batch, pickled.read_class_names),
)


def _find(folder: Path) -> tuple[Path, _Layout]:
    """Return the first folder that holds all six batches, and their layout."""
    lacks = []
    for layout in _LAYOUTS:
        for place in (folder / layout.folder, folder):
            missing = [path.name for name in _BATCHES if not (path := layout.batch(place, name)).is_file()]
            if not missing:
                return place, layout
            lacks.append(f"\n  {place} lacks {', '.join(missing)}")
    raise FileNotFoundError(f"CIFAR-10 is not complete in {folder}:{''.join(lacks)}\nIts home is {URL}")


def _read(layout: _Layout, paths: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read batches into one aligned buffer, one after the other, so that only one of them is held twice."""
    rows = len(paths) * _BATCH_ROWS
    X, y = aligned_empty((rows, pickled.COLUMNS), np.uint8), np.empty(rows, np.int64)
    for i, path in enumerate(paths):
        part = slice(i * _BATCH_ROWS, (i + 1) * _BATCH_ROWS)
        X[part], y[part] = layout.read_batch(path, _BATCH_ROWS)
    return X, y


def _class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    if not path.is_file():
        return CLASS_NAMES
    names = layout.read_names(path)
    for name in names:
        if not name.isprintable():  # an escape sequence would reach the terminal
            raise BadFileError(path, reason=f"class name {name[:40]!r}", expected="printable class names")
    return names
