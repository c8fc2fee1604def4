"""Sums over the rows of X along the tree: moments of its columns, and products with other columns."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.blas import product
from gpusoftmax.cpu.gradients import BLAS_BLOCK, is_tiled
from gpusoftmax.cpu.packed import PackedProducts
from gpusoftmax.cpu.row_blocks import Block, blocks, picked, tree_over_rows
from gpusoftmax.cpu.threads import leaf_rows, single_threaded_blas
from gpusoftmax.dtypes import computation_dtype, widen
from gpusoftmax.tree import Partial, TreeSum

TAKEN_FEATURES = 1 << 20  # whose moments are added at a time; where rows are picked they are copied
COEFFICIENTS = 1 << 22  # that are made at a time


def moment_sums(
    kernels: ModuleType, X: Any, weights: Array | None, centre: Array, rows: Array | None, n_threads: int,
    first_row: int = 0,
) -> TreeSum:  # fmt: skip
    """Sum weights s (1,), s (x - centre) and s (x - centre)^2, (d,), over rows; see `GradientSums.over`."""
    d = X.shape[1]
    step, block_rows, centre = leaf_rows(d), max(8, min(256, TAKEN_FEATURES // d)), np.ascontiguousarray(centre)

    def leaf(block: Block, part: slice) -> Partial:
        total, first_moment, second_moment = np.zeros(1), np.zeros(d), np.zeros(d)
        for first in range(part.start, part.stop, block_rows):
            here = slice(first, min(first + block_rows, part.stop))
            s = np.ones(here.stop - first) if weights is None else weights[picked(rows, here)].astype(np.float64)
            total += s.sum()
            kernels.add_moments(block.take(here.start, here.stop), s, centre, first_moment, second_moment)
        return total, first_moment, second_moment

    with single_threaded_blas():
        return tree_over_rows(leaf, X, rows, step, n_threads, first_row // step)


def moments_from(sums: Partial, centre: Array) -> tuple[Array, Array]:
    """Compute mean and variance (d,) of the columns from the sums of `moment_sums`."""
    total, first_moment, second_moment = sums
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks for infinite features
        mean = first_moment / total
        return centre + mean, np.maximum(second_moment / total - mean * mean, 0.0)


def product_sums(
    kernels: ModuleType, X: Any, coefficients: Callable[[slice], Array], columns: slice, dtype: Any, squared: bool,
    rows: Array | None, n_threads: int, first_row: int = 0,
) -> PackedProducts | TreeSum:  # fmt: skip
    """Sum x_i^T q_i and q_i for some columns of q, over rows; see `GradientSums.over`.

    `coefficients` returns q for the rows at some positions.
    """
    d, step = X.shape[1], leaf_rows(X.shape[1])
    tiled = is_tiled(kernels, d, columns.stop - columns.start, X.dtype) and computation_dtype(X.dtype) == dtype
    if tiled and not squared:
        return _products_by_tiles(kernels, X, coefficients, columns, rows, n_threads, first_row)

    def leaf(block: Block, part: slice) -> Partial:
        totals = np.zeros(columns.stop - columns.start, dtype)
        sums = np.zeros((d, len(totals)), dtype)
        for first in range(part.start, part.stop, BLAS_BLOCK):
            here = slice(first, min(first + BLAS_BLOCK, part.stop))
            q, x = coefficients(here)[:, columns], widen(block.take(here.start, here.stop), dtype)
            product(x * x if squared else x, np.ascontiguousarray(q), sums, transpose_a=True, beta=1.0)
            totals += q.sum(axis=0)
        return sums, totals

    with single_threaded_blas():
        return tree_over_rows(leaf, X, rows, step, n_threads, first_row // step)


def _products_by_tiles(
    kernels: ModuleType, X: Any, coefficients: Callable[[slice], Array], columns: slice, rows: Array | None,
    n_threads: int, first_row: int,
) -> PackedProducts:  # fmt: skip
    d, c, step = X.shape[1], columns.stop - columns.start, leaf_rows(X.shape[1])
    sums = PackedProducts(kernels, d, c, computation_dtype(X.dtype), n_threads)
    length = step * max(1, COEFFICIENTS // (step * c))
    for block in blocks(X, rows, step):
        for first in range(block.first, block.stop, length):
            here = slice(first, min(first + length, block.stop))
            array = block.array if rows is not None else block.take(here.start, here.stop)
            numbers = None if rows is None else rows[here]
            sums.add_products(array, coefficients(here)[:, columns], numbers, (first_row + first) // step)
    return sums
