"""Sparse products and sums on the CPU: divides rows among threads, and calls the kernels, or SciPy without Numba."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.threads import for_each
from gpusoftmax.operations import SgdSteps, SparseRows


def _address(array: Array | None) -> int:
    """The address of an array, or 0 for None."""
    return 0 if array is None else int(array.ctypes.data)


def _addresses(A: SparseRows) -> tuple[int, int, int]:
    """The addresses of indptr, indices and values."""
    return _address(A.indptr), _address(A.indices), _address(A.values)


def _marker(values: Array | None, computed: Any) -> Any:
    """A number of the type of the values, by which kernels are compiled."""
    return np.dtype(computed).type(0) if values is None else values.dtype.type(0)


def _in_parts(work: Callable[[int, int], None], indptr: Array, n_threads: int) -> None:
    """Call `work(first, stop)` in threads for runs of rows that have about equally many entries, by their indptr."""
    work_before = indptr - indptr[0] + np.arange(len(indptr))  # a row without entries takes time, too
    places = np.linspace(0, int(work_before[-1]), n_threads + 1)[1:-1]
    cuts = [0, *np.searchsorted(work_before, places).tolist(), len(indptr) - 1]

    def part(run: range) -> None:
        for i in run:
            work(cuts[i], cuts[i + 1])

    for_each(part, n_threads, n_threads)


def product(
    kernels: ModuleType, A: SparseRows, M: Array, bias: Array | None, rows: Array | None, squared: bool, n_threads: int
) -> Array:
    """See `operations.Operations.sparse_product`."""
    out: Array = np.empty((len(A) if rows is None else len(rows), M.shape[1]), M.dtype)
    if not kernels.COMPILED:
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = (_as_scipy(A, M.dtype, squared) if rows is None else _as_scipy(A, M.dtype, squared)[rows]) @ M
        return out if bias is None else out + bias

    def work(first: int, stop: int) -> None:
        kernels.multiply_rows(
            *_addresses(A), len(A.indices), _address(M), _address(bias), _address(rows), out, first, stop, int(squared),
            _marker(A.values, M.dtype), kernels.SOURCE,
        )  # fmt: skip

    _in_parts(work, A.indptr if rows is None else np.arange(len(rows) + 1), n_threads)
    return out


def sgd_steps(
    kernels: ModuleType, A: SparseRows, labels: Array, W: Array, b: Array, weights: Array | None, loss: int,
    batches: list[Array | None], steps: SgdSteps, n_threads: int,
) -> tuple[Array, Array]:  # fmt: skip
    """See `operations.SgdStretch.sparse_sgd_steps`; threads share the models."""
    K, totals = W.shape[1], np.zeros((4, W.shape[1]))
    rows = np.concatenate([np.arange(len(A)) if batch is None else batch for batch in batches])
    bounds = np.cumsum([0, *(len(A) if batch is None else len(batch) for batch in batches)])
    scale = np.empty(0, W.dtype) if steps.scale is None else (1 / steps.scale).astype(W.dtype)

    def work(run: range) -> None:
        kernels.take_sparse_steps(
            *_addresses(A), labels, np.empty((0, 0), W.dtype) if weights is None else weights, W, b, run.start,
            run.stop, rows, bounds, scale, loss, steps.n, steps.weight_sums, steps.penalty.strengths, steps.rates,
            steps.fit_intercept, steps.penalty.on_intercept, totals, _marker(A.values, W.dtype), kernels.SOURCE,
        )  # fmt: skip

    for_each(work, K, n_threads)
    return totals[:3], totals[3]


def column_sums(kernels: ModuleType, columns: SparseRows, weights: Array, centre: Array, n_threads: int) -> Array:
    """See `operations.Operations.sparse_column_sums`."""
    out = np.zeros((len(columns), 3))
    if not kernels.COMPILED:
        x = np.ones(len(columns.indices)) if columns.values is None else columns.values.astype(np.float64)
        of, s = np.repeat(np.arange(len(columns)), np.diff(columns.indptr)), weights[columns.indices]
        with np.errstate(over="ignore", invalid="ignore"):
            for j, terms in enumerate((s, s * x, s * (x - centre[of]) ** 2)):
                out[:, j] = np.bincount(of, terms, len(columns))
        return out

    def work(first: int, stop: int) -> None:
        kernels.sum_columns(
            *_addresses(columns), _address(weights), _address(centre), out, first, stop,
            _marker(columns.values, np.float64), kernels.SOURCE,
        )  # fmt: skip

    _in_parts(work, columns.indptr, n_threads)
    return out


def gram(kernels: ModuleType, rows: SparseRows, weights: Array, columns: Array, smallest: float) -> Array:
    """See `operations.Operations.sparse_gram`; it runs in the caller's thread."""
    if not kernels.COMPILED:
        used = np.flatnonzero(weights > smallest)
        x = _as_scipy(rows, np.dtype(np.float64), squared=False)[used][:, columns]
        return np.asarray(np.tril((x.T @ (x * weights[used][:, None])).toarray()))
    place, G = np.full(rows.width, -1, np.int32), np.zeros((len(columns), len(columns)))
    place[columns] = np.arange(len(columns), dtype=np.int32)
    kernels.gram_of_columns(
        *_addresses(rows), _address(weights), len(rows), place, smallest, G, _marker(rows.values, np.float64),
        kernels.SOURCE,
    )  # fmt: skip
    lower: Array = np.tril(G)
    return lower + np.triu(G, 1).T


def _as_scipy(A: SparseRows, dtype: np.dtype[Any], squared: bool) -> Any:
    """Convert to a csr_array with values in `dtype`, squared if asked for."""
    from scipy.sparse import csr_array

    entries = slice(int(A.indptr[0]), int(A.indptr[-1]))  # some rows of a matrix share its entries
    indices = A.indices[entries]
    values = np.ones(len(indices), dtype) if A.values is None else A.values[entries].astype(dtype)
    return csr_array((values * values if squared else values, indices, A.indptr - A.indptr[0]), (len(A), A.width))
