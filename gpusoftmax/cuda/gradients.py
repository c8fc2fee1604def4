"""Losses and gradients on the GPU, summed over rows along the tree.

For each chunk of rows there are two cuBLAS products, and a row kernel between them. With few columns of scores,
`few_classes` computes gradients in one read of X instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax.cuda import few_classes, row_losses
from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.chunks import Chunk, chunk_rows, count, leaf_rows, live_leaves, tree_over_chunks
from gpusoftmax.cuda.operands import operands
from gpusoftmax.cuda.row_losses import GRADIENT, LOSSES, add_up, no_bad_row, row_loss
from gpusoftmax.dtypes import computation_dtype
from gpusoftmax.tree import Nodes, Partial, TreeSum

ROUNDING_BYTES = 1 << 15  # added by rounding up the sizes of some twenty allocations


def gradient_leaf(W: Any) -> int:
    """Rows of a leaf of the sums for W (d, K, c): a function of the shape alone."""
    d, K, c = W.shape
    return leaf_rows(chunk_rows(d, K * c))


def pass_bytes(dtype: Any, n: int, d: int, q: int, K: int, precision: str) -> int:
    """Return what `GradientSums.over` allocates for n rows and q columns of scores, an upper bound."""
    step = chunk_rows(d, q)
    n_leaves = -(-n // leaf_rows(step))
    gradient = (d + 1) * q * np.dtype(computation_dtype(dtype)).itemsize
    chunk = _chunk_bytes(dtype, min(step, n), d, q, K, precision)
    products = live_leaves(n_leaves) * gradient + n_leaves * K * 16 + chunk
    if not few_classes.suits(dtype, d, K, q // K, precision):
        return products
    return max(products, few_classes.pass_bytes(dtype, n, d, K, q // K) + ROUNDING_BYTES)  # of losses, and of gradients


def _chunk_bytes(dtype: Any, m: int, d: int, q: int, K: int, precision: str) -> int:
    """Return the bytes for a chunk of m rows: scores, losses, best columns and converted operands."""
    multiplied = operands(dtype, precision)
    scores = m * (q + 1) * multiplied.computed.itemsize
    converted = 0 if multiplied.type == dtype else m * d * multiplied.type.itemsize
    converted += multiplied.bytes_of((d + m) * q)  # the weights, and the gradients with respect to the scores
    return scores + row_losses.bytes_of(m, K, multiplied.computed.itemsize) + converted + ROUNDING_BYTES


@dataclass(frozen=True)
class GradientTree:
    """Sums over some rows, as nodes of the tree of all rows.

    Each has losses (K,), correct (K,), dW (d, K c) and db (K c,), on the device; without a gradient the last two are
    empty.
    """

    tree: TreeSum

    def parts(self) -> Nodes:
        """Return the sums so far by (level, index); see `TreeSum.parts`."""
        return {place: _unpacked(node) for place, node in self.tree.parts().items()}

    def total(self, n_leaves: int) -> Partial:
        """Return the sums over all leaves; see `TreeSum.total`."""
        return _unpacked(self.tree.total(n_leaves))


def _unpacked(packed: Partial) -> Partial:
    """From two arrays, which are added in two launches, to four: totals (K, 2), and dW and db in (d + 1, K c)."""
    totals, sums = packed
    return totals[:, 0], totals[:, 1], sums[:-1], sums[-1:].reshape(-1)


@dataclass(frozen=True)
class GradientSums:
    """Sums of losses, correct weights and gradients at one point W, b; see `Operations.linear_gradient`.

    `precision` is that of float32 products, see `CudaOperations`.
    """

    W: Any
    b: Any
    loss: int
    with_gradient: bool
    precision: str

    def over(self, X: Any, labels: Any, weights: Any, rows: Any = None, first_row: int = 0) -> GradientTree:
        """Sum over all rows of X, or over `rows`; the first of them has the number `first_row` in a longer pass.

        That is a multiple of `gradient_leaf`. Labels and weights are those of the rows of X.
        """
        import cupy

        (d, K, c), dtype = self.W.shape, self.W.dtype
        if self.with_gradient and few_classes.suits(X.dtype, d, K, c, self.precision):
            over = X, labels, weights, rows, first_row
            return GradientTree(few_classes.gradient_tree(self.W, self.b, self.loss, *over))
        n, q, step = count(X, rows), K * c, chunk_rows(d, K * c)
        most, multiplied = min(step, n), operands(X.dtype, self.precision)
        mode = GRADIENT if self.with_gradient else LOSSES
        W, bad_row = multiplied.of(self.W.reshape(d, q)), no_bad_row()
        totals = iter(cupy.zeros((-(-n // leaf_rows(step)), K, 2), dtype=np.float64))
        scores, ones = cupy.empty((most, q), dtype=dtype), cupy.ones((most, 1), dtype=dtype)

        def new_leaf() -> Partial:
            return next(totals), cupy.empty((d + 1 if self.with_gradient else 0, q), dtype=dtype)

        def add(chunk: Chunk, leaf: Partial, beta: float) -> None:
            (own_totals, sums), m, picked = leaf, len(chunk), chunk.picked
            x, Z = chunk.converted(multiplied.type), scores[:m]
            multiplied.multiply(x, W, Z)
            t, s = labels[picked], None if weights is None else weights[picked]
            losses, best = row_loss(Z.reshape(m, K, c), self.b, t, s, self.loss, mode, bad_row)
            add_up(losses, best, t, s, own_totals)
            if self.with_gradient:
                multiplied.multiply(x, multiplied.of(Z), sums[:d], transpose=True, beta=beta)
                product(ones[:m], Z, sums[d:], transpose_a=True, beta=beta)

        return GradientTree(tree_over_chunks(new_leaf, add, X, rows, step, first_row))
