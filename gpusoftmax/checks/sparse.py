"""Checks of sparse matrices: from any of SciPy's kinds, or a data frame of sparse columns, to one canonical form."""

from __future__ import annotations

import sys
from copy import copy
from itertools import chain
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import NOT_NUMERIC, brief, shown

MOST_COLUMNS = np.iinfo(np.int32).max  # column numbers are stored in 32 bits


def is_sparse(X: Any) -> bool:
    """Whether X is a sparse matrix or array of SciPy or CuPy, or a pandas data frame that has sparse columns."""
    if hasattr(X, "tocsr") or (hasattr(X, "nnz") and hasattr(X, "toarray")):
        return True
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(X, pandas.DataFrame) and any(map(_is_sparse_type, X.dtypes))


def _is_sparse_type(dtype: Any) -> bool:
    return isinstance(dtype, sys.modules["pandas"].SparseDtype)


def is_sparse_on_gpu(X: Any) -> bool:
    """Whether X is a sparse matrix of CuPy."""
    return type(X).__module__.partition(".")[0] == "cupyx"


def check_sparse(X: Any, name: str = "X") -> Any:
    """Return X as a canonical `scipy.sparse.csr_array`: columns in increasing order in each row, no duplicates.

    Arrays that are canonical already are not copied, except from a GPU to the host. Values are float64, float32 or
    uint8: booleans are viewed as uint8; float16 and other integers of up to 16 bits become float32, and wider ones
    float64, as in `arrays.check_features`. Explicit zeros stay. The indices are checked, because kernels read memory by
    them. NaN and infinity are not.

    Raises
    ------
    ValueError, TypeError
        X is not a matrix of real numbers, it is empty, or its indices are damaged; the message says what to pass.
    """
    from scipy.sparse import issparse

    if is_sparse_on_gpu(X):
        X = X.get()
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        X = _from_frame(X, name)
    if not issparse(X):
        kind = f"{type(X).__module__}.{type(X).__qualname__}"
        raise TypeError(f"{name} is a {kind}, a sparse matrix of another library; pass {name}.tocsr(), SciPy's")
    if len(X.shape) != 2:
        raise ValueError(
            f"{name} has shape {X.shape}. Expected 2D array, got {len(X.shape)}D array instead: a sparse matrix needs "
            f"rows and columns; pass {name}.reshape(1, -1) if it is one sample"
        )
    for length, entry, fix in zip(X.shape, ("sample", "feature"), ("row", "column"), strict=True):
        if length == 0:
            raise ValueError(
                f"Found array with 0 {entry}(s) (shape={X.shape}) while a minimum of 1 is required: {name} is empty; "
                f"pass at least one {fix}"
            )
    if X.shape[1] > MOST_COLUMNS:
        raise ValueError(
            f"{name} has {X.shape[1]} columns, more than the {MOST_COLUMNS} that are possible; hash the features into "
            "fewer columns"
        )
    if X.format != "dok" and not isinstance(X.data, np.ndarray):
        raise ValueError(
            f"{name} is a damaged {X.format.upper()} matrix: its data are a {type(X.data).__name__}; pass an array"
        )
    if X.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {X.dtype}. Complex data not supported; pass {name}.real or abs({name})")
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {X.dtype}, {NOT_NUMERIC}")
    _check_indices(X, name)
    return _canonical(_in_readable_type(_as_csr(X, name)), X)


def row_of(entry: int, indptr: Array) -> int:
    """Return the row of an entry, given by its number, of a matrix that is stored by rows."""
    return int(np.searchsorted(indptr, entry, side="right")) - 1


def _from_frame(frame: Any, name: str) -> Any:
    """Convert a pandas data frame whose columns are all sparse, with zeros left out, to a COO matrix."""
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if not _is_sparse_type(dtype):
            raise TypeError(
                f"{name} has sparse columns, but column {shown(column)} is dense ({dtype}); pass "
                f"{name}.astype(pandas.SparseDtype(float, 0.0)), or {name}.astype(float) if that fits in memory"
            )
        if dtype.kind not in "fiub":
            raise ValueError(f"{name} has dtype {dtype} in column {shown(column)}, {NOT_NUMERIC}")
        if dtype.fill_value != 0:
            raise ValueError(
                f"{name} leaves out the value {dtype.fill_value!r} in the sparse column {shown(column)}, where a "
                f"sparse matrix leaves out zeros; pass {name}.astype(pandas.SparseDtype(float, 0.0))"
            )
    types = [dtype.subtype for dtype in frame.dtypes]
    kinds = {dtype.kind for dtype in types}
    if "b" in kinds and len(kinds) > 1:  # pandas would make objects of them
        common = np.result_type(*(np.uint8 if dtype == np.bool_ else dtype for dtype in types))
        frame = frame.astype(sys.modules["pandas"].SparseDtype(common, 0))
    return frame.sparse.to_coo()


def _check_indices(X: Any, name: str) -> None:
    """Raise if rows, columns or pointers are out of range, before any compiled code reads memory by them."""
    damaged = f"{name} is a damaged {X.format.upper()} matrix"
    if X.format in ("csr", "csc"):
        n, width = X.shape if X.format == "csr" else X.shape[::-1]
        indptr, indices = np.asarray(X.indptr), np.asarray(X.indices)
        kinds = {indptr.dtype.kind, indices.dtype.kind}
        if not kinds <= set("iu") or indptr.ndim != 1 or indices.ndim != 1 or X.data.ndim != 1:
            raise ValueError(
                f"{damaged}: indptr, indices and data must be 1-D, and the first two integers; build it again, for "
                "example from a COO matrix"
            )
        stored = min(len(indices), len(X.data))
        if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] > stored or (indptr[1:] < indptr[:-1]).any():
            raise ValueError(
                f"{damaged}: its indptr must have {n + 1} entries, start at 0, never fall, and end at the number of "
                f"stored entries, of which there are {stored}; build it again, for example from a COO matrix"
            )
        _check_range(indices[: int(indptr[-1])], width, damaged, "column" if X.format == "csr" else "row")
    elif X.format == "coo":
        if not {np.asarray(X.row).dtype.kind, np.asarray(X.col).dtype.kind} <= set("iu"):
            raise ValueError(f"{damaged}: its row and column numbers must be integers")
        if not len(X.row) == len(X.col) == len(X.data):
            raise ValueError(
                f"{damaged}: row, col and data have lengths {len(X.row)}, {len(X.col)} and {len(X.data)}; pass one of "
                "each for every entry"
            )
        _check_range(np.asarray(X.row), X.shape[0], damaged, "row")
        _check_range(np.asarray(X.col), X.shape[1], damaged, "column")
    elif X.format == "lil":
        if not len(X.rows) == len(X.data) == X.shape[0] or any(map(lambda a, b: len(a) != len(b), X.rows, X.data)):
            raise ValueError(f"{damaged}: rows and data must have a list for each row, as long as each other")
        _check_range(np.fromiter(chain.from_iterable(X.rows), np.int64), X.shape[1], damaged, "column")
    elif X.format == "dia" and np.asarray(X.offsets).dtype.kind not in "iu":
        raise ValueError(f"{damaged}: its offsets must be integers")
    elif X.format == "bsr":
        try:
            X.check_format(full_check=True)
        except ValueError as error:
            raise ValueError(f"{damaged}: {brief(error)}; build it again, for example from a COO matrix") from None


def _check_range(indices: Array, length: int, damaged: str, axis: str) -> None:
    if len(indices) and not (0 <= int(indices.min()) and int(indices.max()) < length):
        wrong = int(((indices < 0) | (indices >= length)).argmax())
        raise ValueError(
            f"{damaged}: entry {wrong} has the {axis} number {indices[wrong]}, but there are {length} {axis}s; build "
            "it again, for example from a COO matrix"
        )


def _as_csr(X: Any, name: str) -> Any:
    """Convert X to a csr_array, in which columns may be in any order, with duplicates.

    A CSR matrix shares its arrays with X. Others are widened first, because SciPy adds up duplicates in their own type.
    """
    from scipy.sparse import csr_array

    if X.format == "csr":
        end = int(X.indptr[-1])
        return X if isinstance(X, csr_array) else csr_array((X.data[:end], X.indices[:end], X.indptr), X.shape)
    try:
        with np.errstate(over="ignore"):  # of a type wider than float64; the infinity is found later, like any other
            found = csr_array(X.astype(_sum_type(X.dtype)).tocsr())
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is a damaged {X.format.upper()} matrix: {brief(error)}; build it again") from None
    _check_indices(found, name)  # those of DOK and DIA were not checked before
    return found if X.dtype not in (np.uint8, np.bool_) else _narrowed(found)


def _sum_type(dtype: Any) -> type:
    """The type in which duplicates are added up: float32 for integers of up to 16 bits, as for any such X."""
    narrow = (dtype.kind in "biu" and dtype.itemsize <= 2) or (dtype.kind == "f" and dtype.itemsize <= 4)
    return np.float32 if narrow else np.float64


def _narrowed(matrix: Any) -> Any:
    """Store values as uint8 again if none is larger than that can hold."""
    fits = not len(matrix.data) or matrix.data.max() <= np.iinfo(np.uint8).max
    return _with(matrix, matrix.data.astype(np.uint8)) if fits else matrix


def _in_readable_type(matrix: Any) -> Any:
    """Convert the values to a type that the kernels read."""
    data = matrix.data
    if data.dtype == np.bool_:
        return _with(matrix, data.view(np.uint8))
    if data.dtype.name in ("float64", "float32", "uint8") and data.dtype.isnative:
        return matrix
    with np.errstate(over="ignore"):
        return _with(matrix, data.astype(_sum_type(data.dtype)))


def _with(matrix: Any, data: Array) -> Any:
    """Return the matrix with other values, and the same indices."""
    found = copy(matrix)  # the constructor would convert indices, to have one type for both kinds
    found.data = data
    return found


def _canonical(matrix: Any, X: Any) -> Any:
    """Sort the columns of each row and add up duplicates; in a copy if X, the user's, may share arrays with the matrix.

    Whether this is needed is read from the indices: the flags of a matrix may be older than its arrays.
    """
    end = int(matrix.indptr[-1])
    indices = matrix.indices[:end]
    rises = np.ones(end + 1, bool)
    rises[1:end] = indices[1:] > indices[:-1]
    rises[matrix.indptr] = True
    if rises.all():
        return matrix
    is_small = matrix.dtype == np.uint8  # duplicates may add up to more than it holds
    values = matrix.data[:end].astype(np.float32) if is_small else matrix.data[:end]
    found = type(matrix)((values, indices, matrix.indptr), matrix.shape, copy=X.format == "csr")
    found.has_sorted_indices = found.has_canonical_format = False
    found.sort_indices()
    found.sum_duplicates()
    return _narrowed(found) if is_small else found
