"""Losses and gradients on the CPU, summed over rows along the tree.

There are three ways, for few, many and very many columns of scores: register tiles (see packed.py), two BLAS products
for each leaf, and products of which threads divide the columns, because not every thread can have a gradient of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.blas import product
from gpusoftmax.cpu.packed import PackedSums
from gpusoftmax.cpu.row_blocks import Block, blocks, picked, tree_over_rows
from gpusoftmax.cpu.threads import for_each, leaf_rows, single_threaded_blas
from gpusoftmax.dtypes import computation_dtype, widen
from gpusoftmax.tree import Partial, TreeSum

# Up to so many columns of scores register tiles are faster than two products: with AVX-512, and for features that BLAS
# has to have converted first, up to MORE_COLUMNS. (20,000 x 512 x 160 on AMD Zen 4: 37 ms for 42, with AVX2 48 for 42.)
FEW_COLUMNS, MORE_COLUMNS = 112, 256
BLAS_BLOCK = 512  # rows of a product: 430 of 480 GFLOP/s at 768 x 1000
LARGE_GRADIENT = 32 << 20  # bytes above which threads divide a gradient's columns, instead of having a copy each
BLAS_LEAF = 2048  # fewest rows of a leaf with more columns, so that adding its gradient to others takes little time
LARGE_LEAF = 1 << 17  # fewest rows of a leaf then: so many that adding its gradient to others takes no noticeable time
TILE_COLUMNS = 512  # columns that a thread then multiplies at a time
SCORE_BYTES = 32 << 20  # bytes of the scores of a block then
LOSS_ROWS = 64  # rows of scores for which a thread then computes the loss

NO_WEIGHTS: dict[type, Array] = {t: np.empty((0, 0), t) for t in (np.float32, np.float64)}


def row_loss(
    kernels: ModuleType, Z: Array, labels: Array, weights: Array | None, loss: int, losses: Array, correct: Array
) -> None:
    """Call `kernels.row_loss` for rows that have these labels and weights."""
    s = NO_WEIGHTS[Z.dtype.type] if weights is None else weights
    kernels.row_loss(Z, labels, s, loss, losses, correct, kernels.SOURCE)


def is_tiled(kernels: ModuleType, d: int, columns: int, dtype: Any) -> bool:
    """Whether register tiles are used for d features of type `dtype` and so many columns of scores."""
    size = np.dtype(computation_dtype(dtype)).itemsize
    more = (kernels.COMPILED and kernels.VECTOR == 64) or np.dtype(dtype).itemsize < size
    most = MORE_COLUMNS if more and d * columns * size <= LARGE_GRADIENT else FEW_COLUMNS
    return bool(kernels.COMPILED) and columns <= most


def gradient_leaf(kernels: ModuleType, W: Array) -> int:
    """Rows of a leaf of the sums for W (d, K, c): a function of the shape and the type alone.

    They are `leaf_rows(d)`, doubled until BLAS has enough: every leaf begins where one of `leaf_rows(d)` does, and X
    can be divided there among processes. These may have other processors, on which tiles are used for fewer columns.
    """
    d, K, c = W.shape
    rows, least = leaf_rows(d), BLAS_LEAF if K * c > MORE_COLUMNS else 0
    if W.nbytes > LARGE_GRADIENT and not (kernels.COMPILED and K * c <= FEW_COLUMNS):
        least = LARGE_LEAF
    while rows < least:
        rows *= 2
    return rows


@dataclass(frozen=True)
class GradientSums:
    """Sums of losses, correct weights and gradients at one point W, b; see `Operations.linear_gradient`.

    The parts of the sums are losses (K,), correct (K,), dW (d, K c), which is empty without `with_gradient`, and
    db (K c,).
    """

    kernels: ModuleType
    n_threads: int
    W: Array
    b: Array
    loss: int
    with_gradient: bool

    def over(
        self, X: Any, labels: Array, weights: Array | None, rows: Array | None = None, first_row: int = 0
    ) -> PackedSums | TreeSum:
        """Sum over all rows of X, or over `rows`; the first of them has the number `first_row` in a longer pass.

        That is a multiple of `gradient_leaf`. Labels and weights are those of the rows of X.
        """
        before = first_row // gradient_leaf(self.kernels, self.W)
        if is_tiled(self.kernels, len(self.W), self.b.size, X.dtype):
            return self._by_tiles(X, labels, weights, rows, before)
        if self.W.nbytes <= LARGE_GRADIENT:
            return self._by_leaves(X, labels, weights, rows, before)
        return self._by_columns(X, labels, weights, rows, before)

    def _by_tiles(self, X: Any, labels: Array, weights: Array | None, rows: Array | None, before: int) -> PackedSums:
        sums = PackedSums(self.kernels, self.W, self.b, self.loss, self.with_gradient, self.n_threads)
        step = gradient_leaf(self.kernels, self.W)
        for block in blocks(X, rows, step):
            own = slice(block.first, block.stop) if rows is None else slice(None)
            s = None if weights is None else weights[own]
            sums.add(block.array, labels[own], s, rows, before + block.first // step)
        return sums

    def _by_leaves(self, X: Any, labels: Array, weights: Array | None, rows: Array | None, before: int) -> TreeSum:
        (d, K, c), dtype = self.W.shape, self.W.dtype
        q, step = K * c, gradient_leaf(self.kernels, self.W)
        W, b = self.W.reshape(d, q), self.b.reshape(q)

        def sums_of(block: Block, part: slice) -> Partial:
            losses, correct, db = np.zeros(K), np.zeros(K), np.zeros(q, dtype)
            dW = np.zeros((d, q) if self.with_gradient else (0, 0), dtype)
            scores = np.empty((min(BLAS_BLOCK, part.stop - part.start), q), dtype)
            for first in range(part.start, part.stop, BLAS_BLOCK):
                here = slice(first, min(first + BLAS_BLOCK, part.stop))
                x = widen(block.take(here.start, here.stop), dtype)
                Z = scores[: len(x)]
                product(x, W, Z)
                Z += b
                self._row_loss(Z.reshape(-1, K, c), labels, weights, picked(rows, here), losses, correct)
                if self.with_gradient:
                    db += Z.sum(axis=0)
                    product(x, Z, dW, transpose_a=True, beta=1.0)
            return losses, correct, dW, db

        with single_threaded_blas():
            return tree_over_rows(sums_of, X, rows, step, self.n_threads, before)

    def _by_columns(self, X: Any, labels: Array, weights: Array | None, rows: Array | None, before: int) -> TreeSum:
        (d, K, c), dtype, tree = self.W.shape, self.W.dtype, TreeSum()
        q, leaf_length = K * c, gradient_leaf(self.kernels, self.W)
        W, b = self.W.reshape(d, q), self.b.reshape(q)
        step = 1 << (max(LOSS_ROWS, min(BLAS_BLOCK, SCORE_BYTES // (q * self.W.itemsize))).bit_length() - 1)
        scores = np.empty((step, q), dtype)
        tiles = [slice(first, min(first + TILE_COLUMNS, q)) for first in range(0, q, TILE_COLUMNS)]

        def nothing() -> Partial:
            dW = np.zeros((d, q) if self.with_gradient else (0, 0), dtype)
            return np.zeros(K), np.zeros(K), dW, np.zeros(q, dtype)

        def add(x: Array, here: Any, leaf: Partial) -> None:
            """Add some rows to the sums of a leaf."""
            losses, correct, dW, db = leaf
            Z, t, s = scores[: len(x)], labels[here], None if weights is None else weights[here]
            runs = [slice(i, min(i + LOSS_ROWS, len(x))) for i in range(0, len(x), LOSS_ROWS)]
            sums = np.zeros((len(runs), 2, K))

            def multiply(run: range) -> None:
                for tile in tiles[run.start : run.stop]:
                    product(x, W[:, tile], Z[:, tile])
                    Z[:, tile] += b[tile]

            def lose(run: range) -> None:
                for i in run:
                    Z_run = Z[runs[i]].reshape(-1, K, c)
                    self._row_loss(Z_run, t, s, runs[i], sums[i, 0], sums[i, 1])

            def accumulate(run: range) -> None:
                for tile in tiles[run.start : run.stop]:
                    db[tile] += Z[:, tile].sum(axis=0)
                    product(x, Z[:, tile], dW[:, tile], transpose_a=True, beta=1.0)

            for_each(multiply, len(tiles), self.n_threads)
            for_each(lose, len(runs), self.n_threads)
            if self.with_gradient:
                for_each(accumulate, len(tiles), self.n_threads)
            losses += sums[:, 0].sum(axis=0)
            correct += sums[:, 1].sum(axis=0)

        leaf: Partial | None = None
        with single_threaded_blas():
            for block in blocks(X, rows, step, leaf_length):
                for first in range(block.first, block.stop, step):
                    if first % leaf_length == 0:
                        if leaf is not None:
                            tree.add(0, before + first // leaf_length - 1, leaf)
                        leaf = nothing()
                    here = slice(first, min(first + step, block.stop))
                    assert leaf is not None
                    add(widen(block.take(here.start, here.stop), dtype), picked(rows, here), leaf)
                    last = first // leaf_length
        if leaf is not None:
            tree.add(0, before + last, leaf)
        return tree

    def _row_loss(
        self, Z: Array, labels: Array, weights: Array | None, here: Any, losses: Array, correct: Array
    ) -> None:
        s = None if weights is None else weights[here]
        row_loss(self.kernels, Z, labels[here], s, self.loss, losses, correct)
