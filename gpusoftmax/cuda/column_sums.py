"""Sums over the rows of X along the tree: moments of its columns, and products with other columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.chunks import Chunk, float64_rows, tree_over_chunks
from gpusoftmax.tree import Partial, TreeSum

DOUBLE = np.dtype(np.float64)


def moment_sums(X: Any, weights: Any, centre: Any, rows: Any = None, first_row: int = 0) -> TreeSum:
    """Sum weights s (1,), s (x - centre) and s (x - centre)^2, (d,), over rows; see `GradientSums.over`.

    `first_row` is a multiple of `leaf_rows(float64_rows(d, 1))`.
    """
    import cupy

    d = X.shape[1]

    def new_leaf() -> Partial:
        return cupy.zeros(1, dtype=DOUBLE), cupy.empty(d, dtype=DOUBLE), cupy.empty(d, dtype=DOUBLE)

    def add(chunk: Chunk, leaf: Partial, beta: float) -> None:
        total, first_moment, second_moment = leaf
        x, s = chunk.converted(DOUBLE) - centre, cupy.ones((len(chunk), 1), dtype=DOUBLE)
        if weights is not None:
            s *= weights[chunk.picked].reshape(-1, 1)
        total += s.sum()
        product(s, x, first_moment.reshape(1, d), transpose_a=True, beta=beta)
        x *= x
        product(s, x, second_moment.reshape(1, d), transpose_a=True, beta=beta)

    return tree_over_chunks(new_leaf, add, X, rows, float64_rows(d, 1), first_row)


def moments_from(sums: Partial, centre: Any) -> tuple[Any, Any]:
    """Compute mean and variance (d,) of the columns from the sums of `moment_sums`."""
    import cupy

    total, first_moment, second_moment = sums
    mean = first_moment / total
    return centre + mean, cupy.maximum(second_moment / total - mean * mean, 0.0)


def product_sums(
    X: Any, coefficients: Callable[[slice], Any], columns: slice, dtype: Any, squared: bool, rows: Any = None,
    first_row: int = 0,
) -> TreeSum:  # fmt: skip
    """Sum x_i^T q_i and q_i for some columns of q, over rows, in `dtype`; see `GradientSums.over`.

    `coefficients(part)` returns all columns of q (m, c) at some positions. `first_row` is a multiple of
    `leaf_rows(float64_rows(d, width))` for `width` columns.
    """
    import cupy

    d, width = X.shape[1], columns.stop - columns.start

    def new_leaf() -> Partial:
        return cupy.empty((d, width), dtype=dtype), cupy.empty(width, dtype=dtype)

    def add(chunk: Chunk, leaf: Partial, beta: float) -> None:
        sums, totals = leaf
        q, x = cupy.ascontiguousarray(coefficients(chunk.here)[:, columns]), chunk.converted(dtype)
        product(x * x if squared else x, q, sums, transpose_a=True, beta=beta)
        product(cupy.ones((len(chunk), 1), dtype=dtype), q, totals.reshape(1, width), transpose_a=True, beta=beta)

    return tree_over_chunks(new_leaf, add, X, rows, float64_rows(d, width), first_row)
