"""Sparse products and sums on the GPU: cuts long rows into segments, and launches the kernels of sparse.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cuda.blas import product as dense_product
from gpusoftmax.cuda.compile import KINDS, NOTHING, kernel, or_nothing
from gpusoftmax.operations import SparseRows

SEGMENT = 1024  # entries that a warp sums
THREADS, WARPS = 256, 8  # of a block
ONES = 5  # sparse.cu's VALUE for a matrix without values


@dataclass(frozen=True)
class Segments:
    """The segments of a matrix's long rows, on the device.

    Attributes
    ----------
    rows, firsts : ndarray of int64, (extra,)
        Row and first entry of each segment that is not the first of its row.
    long_rows : ndarray of int64, (n_long,)
        The rows that have such segments.
    starts : ndarray of int64, (n_long + 1,)
        The first of each long row's segments.
    """

    rows: Any
    firsts: Any
    long_rows: Any
    starts: Any

    def __len__(self) -> int:
        return len(self.rows)


_known: WeakKeyDictionary[SparseRows, Segments | None] = WeakKeyDictionary()


def segments(A: SparseRows) -> Segments | None:
    """Return the segments of a matrix, or None if it has no long rows.

    They are kept as long as the matrix. The first call waits for the device.
    """
    import cupy

    if A not in _known:
        indptr = cupy.asnumpy(A.indptr)
        extra = np.maximum(np.diff(indptr) - 1, 0) // SEGMENT
        (long_rows,) = np.nonzero(extra)
        starts = np.concatenate([[0], np.cumsum(extra[long_rows])])
        rows = np.repeat(long_rows, extra[long_rows])
        numbers = np.arange(len(rows)) - np.repeat(starts[:-1], extra[long_rows]) + 1
        arrays = rows, indptr[rows] + SEGMENT * numbers, long_rows, starts
        _known[A] = Segments(*map(cupy.asarray, arrays)) if len(rows) else None
    return _known[A]


def layout(q: int) -> tuple[int, int]:
    """Return the lanes of a warp that have columns of the result, and the columns of each, for q columns."""
    if q <= 32:
        return 1 << max(q - 1, 0).bit_length(), 1
    return 32, 2 if q <= 64 else 4


def product(A: SparseRows, M: Any, bias: Any, rows: Any, squared: bool) -> Any:
    """See `operations.Operations.sparse_product`.

    Long rows are cut into segments, unless `rows` are given: a warp then sums all of a row.
    """
    import cupy

    n, q = len(A) if rows is None else len(rows), M.shape[1]
    out = cupy.empty((n, q), dtype=M.dtype)
    if n == 0:
        return out
    cut = segments(A) if rows is None else None
    n_extra = 0 if cut is None else len(cut)
    partials = NOTHING if cut is None else cupy.empty((n_extra, q), dtype=M.dtype)
    lanes, columns = layout(q)
    multiply_rows = _kernel("multiply_rows", A, M.dtype, SQUARED=int(squared), LANES=lanes, COLUMNS=columns)
    multiply_rows(
        (-(-(n + n_extra) // WARPS), -(-q // (lanes * columns))),
        (THREADS,),
        (
            *_entries(A), M, or_nothing(bias), or_nothing(rows), np.int64(n), np.int32(q), *_extra(cut), partials, out,
        ),
    )  # fmt: skip
    _add_segments(A, cut, partials, bias, out)
    return out


def column_sums(columns: SparseRows, weights: Any, centre: Any) -> Any:
    """See `operations.Operations.sparse_column_sums`."""
    import cupy

    n, cut = len(columns), segments(columns)
    out, n_extra = cupy.empty((n, 3), dtype=np.float64), 0 if cut is None else len(cut)
    partials = NOTHING if cut is None else cupy.empty((n_extra, 3), dtype=np.float64)
    _kernel("sum_columns", columns, out.dtype)(
        (-(-(n + n_extra) // WARPS),),
        (THREADS,),
        (*_entries(columns), weights, centre, np.int64(n), *_extra(cut), partials, out),
    )
    _add_segments(columns, cut, partials, None, out)
    return out


def gram(rows: SparseRows, weights: Array, columns: Array, smallest: float, step: int) -> Array:
    """See `operations.Operations.sparse_gram`; `step` rows at a time are written to a dense matrix and multiplied.

    weights and columns are on the host, as the result is: it waits for the device.
    """
    import cupy

    k, used = len(columns), np.flatnonzero(weights > smallest)
    place = np.full(rows.width, -1, np.int32)
    place[columns] = np.arange(k, dtype=np.int32)
    G, on_device = cupy.zeros((k, k), dtype=np.float64), cupy.asarray(place)
    fill_columns = _kernel("fill_columns", rows, G.dtype)
    for first in range(0, len(used), step):
        numbers = used[first : first + step]
        m = len(numbers)
        x = cupy.zeros((m, k), dtype=np.float64)
        fill_columns(
            (-(-m // WARPS),),
            (THREADS,),
            (*_entries(rows), on_device, cupy.asarray(numbers), np.int64(m), np.int32(k), x),
        )
        dense_product(x, x * cupy.asarray(weights[numbers]).reshape(m, 1), G, transpose_a=True, beta=1.0)
    return np.asarray(cupy.asnumpy(G))


def _kernel(name: str, A: SparseRows, dtype: Any, **macros: int) -> Any:
    """Return a kernel of sparse.cu for the values of A and sums of type `dtype`."""
    value = ONES if A.values is None else KINDS[A.values.dtype]
    defaults = {"SQUARED": 0, "LANES": 32, "COLUMNS": 1, "SEGMENT": SEGMENT}
    return kernel("sparse.cu", name, VALUE=value, SCORE=KINDS[np.dtype(dtype)], **(defaults | macros))


def _entries(A: SparseRows) -> tuple[Any, Any, Any]:
    return A.indptr, A.indices, or_nothing(A.values)


def _extra(cut: Segments | None) -> tuple[Any, Any, np.int64]:
    return (NOTHING, NOTHING, np.int64(0)) if cut is None else (cut.rows, cut.firsts, np.int64(len(cut)))


def _add_segments(A: SparseRows, cut: Segments | None, partials: Any, bias: Any, out: Any) -> None:
    """Add the partial sums of long rows to their first segments' in `out` (n, q), and then the bias."""
    if cut is None:
        return
    n_long, q = len(cut.long_rows), out.shape[1]
    _kernel("add_segments", A, out.dtype)(
        (-(-n_long * q // THREADS),),
        (THREADS,),
        (partials, cut.long_rows, cut.starts, np.int64(n_long), np.int32(q), or_nothing(bias), out),
    )
