"""Losses and gradients on the GPU, summed over rows along the tree.

For each chunk of rows there are two cuBLAS products, and a row kernel between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax.cuda import row_losses
from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.chunks import Chunk, chunk_rows, converted, count, leaf_rows, live_leaves, tree_over_chunks
from gpusoftmax.cuda.row_losses import GRADIENT, LOSSES, add_up, no_bad_row, row_loss
from gpusoftmax.dtypes import BFLOAT16, computation_dtype
from gpusoftmax.tree import Nodes, Partial, TreeSum

ROUNDING_BYTES = 1 << 15  # added by rounding up the sizes of some twenty allocations


def gradient_leaf(W: Any) -> int:
    """Rows of a leaf of the sums for W (d, K, c): a function of the shape alone."""
    d, K, c = W.shape
    return leaf_rows(chunk_rows(d, K * c))


def operand_type(dtype: Any, precision: str) -> np.dtype[Any]:
    """Return the type in which numbers of `dtype` are multiplied."""
    if dtype == np.float64:
        return np.dtype(np.float64)
    return BFLOAT16 if precision == "medium" else np.dtype(np.float32)


def operand(x: Any, precision: str) -> Any:
    """Return weights or scores (m, q), contiguous, in the type in which they are multiplied."""
    return converted(x, None, 0, len(x), operand_type(x.dtype, precision))


def pass_bytes(dtype: Any, n: int, d: int, q: int, K: int, precision: str) -> int:
    """Return what `GradientSums.over` allocates for n rows and q columns of scores, an upper bound."""
    step = chunk_rows(d, q)
    n_leaves = -(-n // leaf_rows(step))
    gradient = (d + 1) * q * np.dtype(computation_dtype(dtype)).itemsize
    return live_leaves(n_leaves) * gradient + n_leaves * K * 16 + _chunk_bytes(dtype, min(step, n), d, q, K, precision)


def _chunk_bytes(dtype: Any, m: int, d: int, q: int, K: int, precision: str) -> int:
    """Return the bytes for a chunk of m rows: scores, losses, best columns and converted operands."""
    computed, multiplied = np.dtype(computation_dtype(dtype)), operand_type(dtype, precision)
    scores = m * (q + 1) * computed.itemsize
    converted = 0 if multiplied == dtype else m * d * multiplied.itemsize
    if multiplied != computed:  # the weights, and the gradients with respect to the scores, in bfloat16
        converted += (d + m) * q * multiplied.itemsize
    return scores + row_losses.bytes_of(m, K, computed.itemsize) + converted + ROUNDING_BYTES


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

        (d, K, c), dtype, precision = self.W.shape, self.W.dtype, self.precision
        n, q, step = count(X, rows), K * c, chunk_rows(d, K * c)
        most, multiplied = min(step, n), operand_type(X.dtype, precision)
        mode = GRADIENT if self.with_gradient else LOSSES
        W, bad_row = operand(self.W.reshape(d, q), precision), no_bad_row()
        totals = iter(cupy.zeros((-(-n // leaf_rows(step)), K, 2), dtype=np.float64))
        scores, ones = cupy.empty((most, q), dtype=dtype), cupy.ones((most, 1), dtype=dtype)

        def new_leaf() -> Partial:
            return next(totals), cupy.empty((d + 1 if self.with_gradient else 0, q), dtype=dtype)

        def add(chunk: Chunk, leaf: Partial, beta: float) -> None:
            (own_totals, sums), m, picked = leaf, len(chunk), chunk.picked
            x, Z = chunk.converted(multiplied), scores[:m]
            product(x, W, Z, precision=precision)
            t, s = labels[picked], None if weights is None else weights[picked]
            losses, best = row_loss(Z.reshape(m, K, c), self.b, t, s, self.loss, mode, bad_row)
            add_up(losses, best, t, s, own_totals)
            if self.with_gradient:
                product(x, operand(Z, precision), sums[:d], transpose_a=True, beta=beta, precision=precision)
                product(ones[:m], Z, sums[d:], transpose_a=True, beta=beta)

        return GradientTree(tree_over_chunks(new_leaf, add, X, rows, step, first_row))
