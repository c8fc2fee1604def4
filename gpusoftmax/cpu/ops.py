"""The operations of the CPU: sums over leaves of rows, by register tiles for few columns, by BLAS products for many.

`operations.Operations` documents names and arguments, once for all backends.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax import epilogue
from gpusoftmax._typing import Array
from gpusoftmax.cpu import sparse
from gpusoftmax.cpu.column_sums import moment_sums, moments_from, product_sums
from gpusoftmax.cpu.gradients import (
    BLAS_BLOCK,
    LARGE_GRADIENT,
    SCORE_BYTES,
    GradientSums,
    gradient_leaf,
    is_tiled,
    row_loss,
)
from gpusoftmax.cpu.newton import hessian_product
from gpusoftmax.cpu.packed import scorer, sgd_steps
from gpusoftmax.cpu.row_blocks import Block, blocks, picked
from gpusoftmax.cpu.threads import for_each, leaf_rows, single_threaded_blas, sum_over_blocks, sum_over_leaves
from gpusoftmax.dtypes import computation_dtype, widen
from gpusoftmax.operations import Diagonals, RowCurvature, SgdSteps, SparseRows
from gpusoftmax.penalties import L2
from gpusoftmax.tree import Partial

GROUP_COLUMNS = 32  # columns of the models that a thread trains together by SGD: their weights stay in its cache
SCORE_BLOCK = 64  # rows of a product in prediction; shorter blocks are padded
COMPARED_CLASSES = 5  # up to here comparing columns finds the largest scores faster than reducing along rows
SMALL_VECTORS = 1 << 16  # numbers up to which NumPy handles vectors, which saves compiling


def _block(array: Array | None, rows: slice) -> int:
    """The address of some rows of a C-contiguous array, or 0 for None."""
    return 0 if array is None else int(array[rows].ctypes.data)


def _doubles(array: Array | None) -> Array | None:
    """The array as C-contiguous float64, for kernels that go by addresses: a user's may be a column, or broadcast."""
    return None if array is None else np.ascontiguousarray(array, np.float64)


def _count(X: Any, rows: Array | None) -> int:
    """The number of rows of a pass."""
    return len(X) if rows is None else len(rows)


def _best(Z: Array) -> Array:
    """The first column (m, K) with the largest of the scores Z (m, K, c); -1 if that score is NaN or infinite."""
    if Z.shape[2] > COMPARED_CLASSES:
        return np.where(np.isfinite(Z.max(axis=2)), Z.argmax(axis=2), -1)
    largest, best = Z[..., 0].copy(), np.zeros(Z.shape[:2], np.int32)
    for j in range(1, Z.shape[2]):
        np.putmask(best, Z[..., j] > largest, j)
        np.maximum(largest, Z[..., j], out=largest)
    np.putmask(best, ~np.isfinite(largest), -1)
    return best


def _softmax(Z: Array) -> None:
    """Replace the scores Z (m, K, c) by their softmax."""
    Z -= Z.max(axis=2, keepdims=True)
    np.exp(Z, out=Z)
    Z /= Z.sum(axis=2, keepdims=True)


@dataclass(frozen=True)
class CpuOperations:
    """The operations with `n_threads` threads; `kernels` is the module kernels.py or, without Numba, fallback.py."""

    n_threads: int
    kernels: ModuleType

    def linear_gradient(
        self, X: Any, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        losses, correct, dW, db = self._sums(X, labels, W, b, weights, loss, rows, True)
        return losses, correct, dW.reshape(W.shape), db.reshape(b.shape)

    def linear_losses(
        self, X: Any, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array]:
        losses, correct = self._sums(X, labels, W, b, weights, loss, rows, False)[:2]
        return losses, correct

    def _sums(
        self, X: Any, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None,
        with_gradient: bool,
    ) -> Partial:  # fmt: skip
        sums = GradientSums(self.kernels, self.n_threads, W, b, loss, with_gradient).over(X, labels, weights, rows)
        return sums.total(-(-_count(X, rows) // gradient_leaf(self.kernels, W)))

    def sgd_steps(
        self,
        X: Array,
        labels: Array,
        W: Array,
        b: Array,
        weights: Array | None,
        loss: int,
        velocity: tuple[Array, Array] | None,
        batches: list[Array | None],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:
        d, K, c = W.shape
        longest = max(len(X) if batch is None else len(batch) for batch in batches)
        if not is_tiled(self.kernels, d, c, X.dtype) or longest > leaf_rows(d):
            return None
        each = max(1, GROUP_COLUMNS // c)
        groups = [slice(first, first + each) for first in range(0, K, each)]
        results: list[Any] = [None] * len(groups)

        def work(run: range) -> None:
            for i in run:
                part = groups[i]
                results[i] = sgd_steps(
                    self.kernels, X, labels, W[:, part], b[part], None if weights is None else weights[:, part], loss,
                    None if velocity is None else (velocity[0][:, part], velocity[1][part]), batches,
                    steps.select(part),
                )  # fmt: skip

        for_each(work, len(groups), self.n_threads)
        totals, first = (np.concatenate(parts, axis=-1) for parts in zip(*results, strict=True))
        return totals, first

    def sparse_sgd_steps(
        self, A: SparseRows, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any,
        batches: list[Array | None], steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        changes_all = velocity is not None or steps.shift is not None or steps.linear_term is not None
        if changes_all or steps.penalty.factors is not None or not self.kernels.COMPILED:
            return None
        return sparse.sgd_steps(self.kernels, A, labels, W, b, weights, loss, batches, steps, self.n_threads)

    def _by_kernels(self, vectors: Array) -> bool:
        """Whether compiled functions are used for weights, gradients and other vectors: not small ones."""
        return self.kernels.COMPILED and vectors.size > SMALL_VECTORS

    def fold(self, W: Array, shift: Array | None, scale: Array | None) -> tuple[Array, Array | None]:
        if not self._by_kernels(W) or (shift is None and scale is None):
            return epilogue.fold(W, shift, scale)
        d, K, c = W.shape
        weights = np.ascontiguousarray(W).reshape(d, K * c)
        folded = weights if scale is None else np.empty_like(weights)
        shift, scale = _doubles(shift), _doubles(scale)

        def part(rows: slice) -> Partial:
            offset = np.zeros(K * c)
            self.kernels.fold_weights(
                _block(weights, rows), _block(shift, rows), _block(scale, rows), _block(folded, rows), offset,
                rows.stop - rows.start, weights.dtype.type(0), self.kernels.SOURCE,
            )  # fmt: skip
            return (offset,)

        (offset,) = sum_over_blocks(part, d, K * c, self.n_threads)
        return folded.reshape(W.shape), None if shift is None else offset.reshape(K, c)

    def finish_gradient(
        self, dW: Array, db: Array, W: Array, row_scale: Array, shift: Array | None, scale: Array | None, penalty: L2,
        T: Array | None,
    ) -> tuple[Array, Array | None]:  # fmt: skip
        if not self._by_kernels(W) or not dW.flags.c_contiguous:
            return epilogue.finish_gradient(dW, db, W, row_scale, shift, scale, penalty, T)
        d, K, c = W.shape
        q, dtype = K * c, W.dtype
        gradient, weights = dW.reshape(d, q), np.ascontiguousarray(W).reshape(d, q)
        shift, scale, factors, linear = map(_doubles, (shift, scale, penalty.factors, T))
        columns = np.stack([np.repeat(row_scale, c), db.reshape(q), np.repeat(penalty.strengths, c).astype(dtype)])

        def part(rows: slice) -> Partial:
            sums = np.zeros((2, q))
            self.kernels.finish_gradient(
                _block(gradient, rows), _block(weights, rows), columns, _block(shift, rows), _block(scale, rows),
                _block(factors, rows), _block(linear, rows), sums, rows.stop - rows.start, self.kernels.SOURCE,
            )  # fmt: skip
            return (sums,)

        (sums,) = sum_over_blocks(part, d, q, self.n_threads)
        squares, products = sums.reshape(2, K, c).sum(axis=2)
        return 0.5 * penalty.strengths * squares, None if T is None else products

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        q, size = K * c, np.dtype(computation_dtype(dtype)).itemsize
        gradient = (d + 1) * q * size
        tiled, W = is_tiled(self.kernels, d, q, dtype), np.broadcast_to(computation_dtype(dtype)(0), (d, K, c))
        n_leaves = -(-n // gradient_leaf(self.kernels, W))
        if not tiled and d * q * size > LARGE_GRADIENT:  # as GradientSums decides
            return gradient * (1 + math.ceil(math.log2(n_leaves + 1))) + SCORE_BYTES
        threads = min(self.n_threads, n_leaves)
        partials = threads * (1 + math.ceil(math.log2(n_leaves // threads + 1)))  # one for each level of the tree
        block = 0 if tiled else BLAS_BLOCK * (d + q) * size
        return partials * gradient + threads * block

    def linear_scores(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), *W.shape[1:]), W.dtype)
        self._for_scores(X, W, b, rows, partial(operator.setitem, out))
        return out

    def linear_probabilities(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), *W.shape[1:]), W.dtype)

        def finish(part: slice, Z: Array) -> None:
            _softmax(Z)
            out[part] = Z

        self._for_scores(X, W, b, rows, finish)
        return out

    def linear_best(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), W.shape[1]), np.int32)

        def finish(part: slice, Z: Array) -> None:
            out[part] = _best(Z)

        self._for_scores(X, W, b, rows, finish)
        return out

    def _for_scores(
        self, X: Any, W: Array, b: Array, rows: Array | None, finish: Callable[[slice, Array], None]
    ) -> None:
        """Call `finish(part, scores (m, K, c))` for each block of rows, in any thread; it may change the scores."""
        d, K, c = W.shape
        q, step = K * c, -(-leaf_rows(d) // SCORE_BLOCK) * SCORE_BLOCK
        W_columns, b_flat = W.reshape(d, q), b.reshape(q)

        def by_tiles(block: Block) -> None:
            score = scorer(self.kernels, block.array, W, b, block.rows)
            before = 0 if block.rows is not None else block.first

            def work(run: range) -> None:
                start, stop = block.first + run.start * step, min(block.first + run.stop * step, block.stop)
                Z = np.empty((min(step, stop - start), K, c), W.dtype)
                for first in range(start, stop, step):
                    part = slice(first, min(first + step, stop))
                    score(slice(part.start - before, part.stop - before), Z)
                    finish(part, Z[: part.stop - first])

            for_each(work, len(block.leaves(step)), self.n_threads)

        def by_products(block: Block) -> None:
            def multiply(run: range) -> None:
                start, stop = block.first + run.start * step, min(block.first + run.stop * step, block.stop)
                x = np.zeros((SCORE_BLOCK, d), W.dtype)
                for first in range(start, stop, SCORE_BLOCK):
                    m = min(SCORE_BLOCK, stop - first)
                    # always the same shape, because OpenBLAS's bits change with the number of rows in the call (in its
                    # AVX2 kernel also with a row's place in the block: only the rows after it do not matter)
                    x[:m], x[m:] = widen(block.take(first, first + m), W.dtype), 0
                    Z = (x @ W_columns)[:m]
                    Z += b_flat
                    finish(slice(first, first + m), Z.reshape(m, K, c))

            with single_threaded_blas():
                for_each(multiply, len(block.leaves(step)), self.n_threads)

        for block in blocks(X, rows, step):
            by_tiles(block) if is_tiled(self.kernels, d, q, X.dtype) else by_products(block)

    def pair_products(
        self, new: tuple[Array, Array, Array], old: tuple[Array, Array, Array], vectors: Array, pair: int
    ) -> tuple[Array, Array]:
        if not self._by_kernels(vectors):
            of_vectors, of_pair = epilogue.pair_products(new, old, vectors, pair)
            return np.array(of_vectors, np.float64), np.array(of_pair, np.float64)
        products, norms, buffer = np.zeros((2, len(vectors))), np.zeros(2), np.empty(self.kernels.RUN, vectors.dtype)
        x, u, g, x_old, u_old, g_old = (array.ctypes.data for array in (*new, *old))
        self.kernels.pair_products(
            x, x_old, u, u_old, g, g_old, vectors.ctypes.data, vectors.strides[0], pair, vectors.shape[1], buffer,
            products, norms, vectors.itemsize, self.kernels.SOURCE,
        )  # fmt: skip
        return products, norms

    def solve_diagonals(self, diagonals: Diagonals, v: Array, own: Array, out: Array) -> Array:
        d, c = v.shape
        if self._by_kernels(v):
            width, stride, out_stride = diagonals.inverse.shape[1], v.strides[0], out.strides[0]

            def part(rows: slice) -> Partial:
                sums = np.zeros(c)
                self.kernels.solve_diagonals(
                    v[rows].ctypes.data, stride, _block(diagonals.inverse, rows), _block(diagonals.centre, rows), width,
                    _block(diagonals.mean_inverse, rows), own, out[rows].ctypes.data, out_stride, sums,
                    rows.stop - rows.start, v.itemsize, self.kernels.SOURCE,
                )  # fmt: skip
                return (sums,)
        else:

            def part(rows: slice) -> Partial:
                return (epilogue.solve_diagonals(diagonals.part(rows), v[rows], own, out[rows]).astype(np.float64),)

        return sum_over_blocks(part, d, c, self.n_threads)[0]

    def hessian_product(self, curvature: RowCurvature) -> Callable[[Array], Array]:
        kernels = self.kernels
        return kernels.HessianProduct(curvature) if kernels.COMPILED else partial(hessian_product, curvature)

    def column_sums(self, Z: Array) -> Array:
        step = leaf_rows(Z.shape[1])

        def leaf(index: int) -> Partial:
            return (Z[index * step : (index + 1) * step].sum(axis=0),)

        return sum_over_leaves(leaf, -(-len(Z) // step), self.n_threads)[0]

    def label_coefficients(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> Array:
        if proportions is None:
            z = np.full((len(labels), len(class_weight)), -1 / len(class_weight))
        else:
            z = np.multiply(proportions, -class_weight, order="C")
            total = z.sum(axis=1, keepdims=True)
            np.divide(z, -total, out=z, where=total < 0)
        z[np.arange(len(z)), labels] += 1
        z *= weights[:, None]
        return z

    def softmax(self, Z: Array) -> None:
        step = leaf_rows(Z.shape[1] * Z.shape[2])

        def work(run: range) -> None:
            for i in run:
                _softmax(Z[i * step : (i + 1) * step])

        for_each(work, -(-len(Z) // step), self.n_threads)

    def best(self, Z: Array) -> Array:
        step, out = leaf_rows(Z.shape[1] * Z.shape[2]), np.empty(Z.shape[:2], np.int32)

        def work(run: range) -> None:
            for i in run:
                out[i * step : (i + 1) * step] = _best(Z[i * step : (i + 1) * step])

        for_each(work, -(-len(Z) // step), self.n_threads)
        return out

    def sparse_product(
        self, A: SparseRows, M: Array, bias: Array | None = None, rows: Array | None = None, squared: bool = False
    ) -> Array:
        return sparse.product(self.kernels, A, M, bias, rows, squared, self.n_threads)

    def sparse_column_sums(self, columns: SparseRows, weights: Array, centre: Array) -> Array:
        return sparse.column_sums(self.kernels, columns, weights, centre, self.n_threads)

    def sparse_gram(self, rows: SparseRows, weights: Array, columns: Array, smallest: float) -> Array:
        return sparse.gram(self.kernels, rows, weights, columns, smallest)

    def row_loss(self, Z: Array, labels: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        m, K, c = Z.shape
        step = leaf_rows(c)

        def leaf(index: int) -> Partial:
            part = slice(index * step, (index + 1) * step)
            losses, correct = np.zeros(K), np.zeros(K)
            s = None if weights is None else weights[part]
            row_loss(self.kernels, Z[part], labels[part], s, loss, losses, correct)
            return losses, correct

        losses, correct = sum_over_leaves(leaf, -(-m // step), self.n_threads)
        return losses, correct

    def column_moments(
        self, X: Any, weights: Array | None, rows: Array | None = None, origin: int | None = None
    ) -> tuple[Array, Array]:
        centre = widen(X[origin if origin is not None else 0 if rows is None else rows[0]])
        n_leaves = -(-_count(X, rows) // leaf_rows(X.shape[1]))
        sums = moment_sums(self.kernels, X, weights, centre, rows, self.n_threads).total(n_leaves)
        return moments_from(sums, centre)

    def label_sums(
        self, X: Array, labels: Array, weights: Array, class_weight: Array, proportions: Array | None,
        rows: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        def coefficients(part: slice) -> Array:
            here = picked(rows, part)
            soft = None if proportions is None else proportions[here]
            return self.label_coefficients(labels[here], weights[here], class_weight, soft)

        return self._column_products(X, coefficients, len(class_weight), np.float64, False, rows)

    def column_products(self, X: Array, Q: Array, squared: bool = False, rows: Array | None = None) -> Array:
        return self._column_products(X, lambda part: Q[part], Q.shape[1], Q.dtype, squared, rows)[0]

    def _column_products(
        self, X: Any, coefficients: Callable[[slice], Array], c: int, dtype: Any, squared: bool, rows: Array | None
    ) -> tuple[Array, Array]:
        """Sum x_i^T q_i and q_i over the rows used; `coefficients(part)` returns q (m, c) for some positions."""
        d, n_leaves = X.shape[1], -(-_count(X, rows) // leaf_rows(X.shape[1]))
        width = max(1, LARGE_GRADIENT // (8 * d))  # too many columns for a copy per leaf take several passes
        groups = [slice(first, min(first + width, c)) for first in range(0, c, width)]
        parts = [
            product_sums(self.kernels, X, coefficients, columns, dtype, squared, rows, self.n_threads).total(n_leaves)
            for columns in groups
        ]
        sums, totals = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return sums, totals
