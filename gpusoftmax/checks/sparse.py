"""Checks of sparse matrices: from any of SciPy's kinds, or a data frame of sparse columns, to one canonical form."""

from __future__ import annotations

import sys
from copy import copy
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
    uint8: booleans are viewed as uint8; other integers of up to 16 bits become float32, and wider ones float64, as in
    `arrays.check_features`. Explicit zeros stay. The indices are checked, because kernels read memory by them. NaN and
    infinity are not.

    Raises
    ------
    ValueError, TypeError
        X is not a matrix of real numbers, it is empty, or its indices are damaged; the message says what to pass.
    """
    if is_sparse_on_gpu(X):
        X = X.get()
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        X = _from_frame(X, name)
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
    _check_indices(X, name)
    with np.errstate(over="ignore"):
        matrix = _in_readable_type(_as_csr(X, name), name)
    return _canonical(matrix, matrix is X or matrix.indices is getattr(X, "indices", None))


def _from_frame(frame: Any, name: str) -> Any:
    """Convert a pandas data frame whose columns are all sparse, with zeros left out, to a COO matrix."""
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if not _is_sparse_type(dtype):
            raise TypeError(
                f"{name} has sparse columns, but column {shown(column)} is dense ({dtype}); pass "
                f"scipy.sparse.csr_array({name}.astype(float)), or {name}.astype(float) if that fits in memory"
            )
        if dtype.kind not in "fiub":
            raise ValueError(f"{name} has dtype {dtype} in column {shown(column)}, {NOT_NUMERIC}")
        if dtype.fill_value != 0:
            raise ValueError(
                f"{name} leaves out the value {dtype.fill_value!r} in the sparse column {shown(column)}, where a "
                f"sparse matrix leaves out zeros; pass {name}.astype(pandas.SparseDtype(float, 0.0))"
            )
    return frame.sparse.to_coo()


def _check_indices(X: Any, name: str) -> None:
    """Raise if rows, columns or pointers are out of range, before any compiled code reads memory by them."""
    damaged = f"{name} is a damaged {X.format.upper()} matrix"
    if X.format in ("csr", "csc"):
        n, width = X.shape if X.format == "csr" else X.shape[::-1]
        indptr, indices = np.asarray(X.indptr), np.asarray(X.indices)
        kinds = {indptr.dtype.kind, indices.dtype.kind}
        if not kinds <= set("iu") or indptr.ndim != 1 or indices.ndim != 1 or X.data.ndim != 1:
            raise ValueError(f"{damaged}: indptr, indices and data must be 1-D, and the first two integers")
        stored = min(len(indices), len(X.data))
        if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] > stored or (indptr[1:] < indptr[:-1]).any():
            raise ValueError(
                f"{damaged}: its indptr must have {n + 1} entries, start at 0, never fall, and end at the number of "
                f"stored entries, of which there are {stored}; build it again, for example from a COO matrix"
            )
        _check_range(indices[: int(indptr[-1])], width, damaged, "column" if X.format == "csr" else "row")
    elif X.format == "coo":
        if not len(X.row) == len(X.col) == len(X.data):
            raise ValueError(f"{damaged}: row, col and data have lengths {len(X.row)}, {len(X.col)} and {len(X.data)}")
        _check_range(np.asarray(X.row), X.shape[0], damaged, "row")
        _check_range(np.asarray(X.col), X.shape[1], damaged, "column")
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
    """Convert X to a csr_array; a CSR matrix shares its arrays with X."""
    from scipy.sparse import csr_array

    if X.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {X.dtype}. Complex data not supported; pass {name}.real or abs({name})")
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {X.dtype}, {NOT_NUMERIC}")
    if X.format == "csr":
        return X if isinstance(X, csr_array) else csr_array((X.data, X.indices, X.indptr), X.shape)
    if X.format in ("csc", "coo"):  # other formats have no duplicates; these would keep them
        X = X.copy()
        X.sum_duplicates()
    return csr_array(X.tocsr())


def _in_readable_type(matrix: Any, name: str) -> Any:
    """Convert the values to a type that the kernels read."""
    data = matrix.data
    if data.dtype == np.bool_:
        data = data.view(np.uint8)
    elif data.dtype.name not in ("float64", "float32", "uint8") or not data.dtype.isnative:
        narrow = (data.dtype.kind in "iu" and data.dtype.itemsize <= 2) or data.dtype.name in ("float16", "float32")
        data = data.astype(np.float32 if narrow else np.float64)
    return matrix if data is matrix.data else _with(matrix, data)


def _with(matrix: Any, data: Array) -> Any:
    """Return the matrix with other values, and the same indices."""
    found = copy(matrix)  # the constructor would convert indices, to have one type for both kinds
    found.data = data
    return found


def _canonical(matrix: Any, shared: bool) -> Any:
    """Sort the columns of each row and add up duplicates, in a copy if the arrays are `shared` with the user's.

    Whether this is needed is read from the indices: the flags of a matrix may be older than its arrays.
    """
    end = int(matrix.indptr[-1])
    indices = matrix.indices[:end]
    rises = np.ones(end + 1, bool)
    rises[1:end] = indices[1:] > indices[:-1]
    rises[matrix.indptr] = True
    if rises.all():
        return matrix
    values = matrix.data[:end]
    # duplicates may add up to more than uint8 holds
    matrix = _with(matrix, values.astype(np.float32) if values.dtype == np.uint8 else values)
    matrix = matrix.copy() if shared else matrix
    matrix.has_sorted_indices = matrix.has_canonical_format = False
    matrix.sort_indices()
    matrix.sum_duplicates()
    return matrix
