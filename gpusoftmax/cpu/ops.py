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
from gpusoftmax.cpu.blas import product
from gpusoftmax.cpu.packed import scorer, sgd_steps, sums_over_rows
from gpusoftmax.cpu.threads import (
    Partial,
    for_each,
    leaf_rows,
    single_threaded_blas,
    sum_over_blocks,
    sum_over_leaves,
)
from gpusoftmax.dtypes import computation_dtype, widen
from gpusoftmax.operations import Diagonals, SgdSteps, SparseRows
from gpusoftmax.penalties import L2

FEW_COLUMNS = 112  # up to here register tiles are faster than two products
BLAS_BLOCK = 512  # rows of a product: 430 of 480 GFLOP/s at 768 x 1000
GROUP_COLUMNS = 32  # columns of the models that a thread trains together by SGD: their weights stay in its cache
LARGE_GRADIENT = 32 << 20  # bytes above which threads divide a gradient's columns, instead of having a copy each
TILE_COLUMNS = 512  # columns that a thread then multiplies at a time
SCORE_BYTES = 32 << 20  # bytes of the scores of a block then
SCORE_BLOCK = 64  # rows of a product in prediction; shorter blocks are padded
COMPARED_CLASSES = 5  # up to here comparing columns finds the largest scores faster than reducing along rows
CACHE_FLOATS = 1 << 16  # numbers in a block's float64 copy: 512 KB, which the second-level cache holds
SMALL_VECTORS = 1 << 16  # numbers up to which NumPy handles vectors, which saves compiling

NO_WEIGHTS: dict[type, Array] = {t: np.empty((0, 0), t) for t in (np.float32, np.float64)}


def _picked(rows: Array | None, first: int, stop: int) -> Any:
    """The index of some rows of a pass: a slice if the pass takes all rows in order."""
    return slice(first, stop) if rows is None else rows[first:stop]


def _block(array: Array | None, rows: slice) -> int:
    """The address of some rows of a C-contiguous array, or 0 for None."""
    return 0 if array is None else int(array[rows].ctypes.data)


def _doubles(array: Array | None) -> Array | None:
    """The array as C-contiguous float64, for kernels that go by addresses: a user's may be a column, or broadcast."""
    return None if array is None else np.ascontiguousarray(array, np.float64)


def _count(X: Array, rows: Array | None) -> int:
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

    def _tiled(self, columns: int) -> bool:
        return columns <= FEW_COLUMNS and self.kernels.COMPILED

    def linear_gradient(
        self, X: Array, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        losses, correct, dW, db = self._pass(X, labels, W, b, weights, loss, rows, True)
        d, K, c = W.shape
        return losses, correct, dW.reshape(d, K, c), db.reshape(K, c)

    def linear_losses(
        self, X: Array, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array]:
        losses, correct = self._pass(X, labels, W, b, weights, loss, rows, False)[:2]
        return losses, correct

    def _pass(
        self,
        X: Array,
        labels: Array,
        W: Array,
        b: Array,
        weights: Array | None,
        loss: int,
        rows: Array | None,
        with_gradient: bool,
    ) -> tuple[Array, Array, Array, Array]:
        """Sum losses, correct, dW (d, K*c) and db (K*c) over all rows or `rows`; without a gradient dW is empty."""
        n = _count(X, rows)
        if self._tiled(W.shape[1] * W.shape[2]):
            return sums_over_rows(self.kernels, X, labels, W, b, weights, loss, rows, with_gradient, self.n_threads)
        if W.nbytes > LARGE_GRADIENT:
            return self._pass_by_columns(X, labels, W, b, weights, loss, rows, with_gradient)
        d, K, c = W.shape
        q, step = K * c, leaf_rows(d)
        W_columns, b_flat = W.reshape(d, q), b.reshape(q)

        def leaf(index: int) -> Partial:
            start, stop = index * step, min((index + 1) * step, n)
            losses, correct, db = np.zeros(K), np.zeros(K), np.zeros(q, W.dtype)
            dW = np.zeros((d, q) if with_gradient else (0, 0), W.dtype)
            scores = np.empty((min(BLAS_BLOCK, stop - start), q), W.dtype)
            for first in range(start, stop, BLAS_BLOCK):
                picked = _picked(rows, first, min(first + BLAS_BLOCK, stop))
                x = widen(X[picked], W.dtype)
                Z = scores[: len(x)]
                product(x, W_columns, Z)
                Z += b_flat
                self._row_loss(Z.reshape(-1, K, c), labels[picked], weights, picked, loss, losses, correct)
                if with_gradient:
                    db += Z.sum(axis=0)
                    product(x, Z, dW, transpose_a=True, beta=1.0)
            return losses, correct, dW, db

        with single_threaded_blas():
            losses, correct, dW, db = sum_over_leaves(leaf, -(-n // step), self.n_threads)
        return losses, correct, dW, db

    def _pass_by_columns(
        self, X: Array, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None,
        with_gradient: bool,
    ) -> tuple[Array, Array, Array, Array]:  # fmt: skip
        """Do what `_pass` does, for a gradient too large for a copy per leaf: threads divide the columns of a block."""
        n, (d, K, c) = _count(X, rows), W.shape
        q = K * c
        W_columns, b_flat = W.reshape(d, q), b.reshape(q)
        losses, correct, db = np.zeros(K), np.zeros(K), np.zeros(q, W.dtype)
        dW = np.zeros((d, q) if with_gradient else (0, 0), W.dtype)
        block = max(64, min(BLAS_BLOCK, SCORE_BYTES // (q * W.itemsize) // 64 * 64))
        scores = np.empty((min(block, n), q), W.dtype)
        tiles = [slice(first, min(first + TILE_COLUMNS, q)) for first in range(0, q, TILE_COLUMNS)]

        def pass_block(first: int) -> None:
            picked = _picked(rows, first, min(first + block, n))
            x, t, s = widen(X[picked], W.dtype), labels[picked], None if weights is None else weights[picked]
            Z = scores[: len(x)]
            runs = [slice(i, min(i + SCORE_BLOCK, len(x))) for i in range(0, len(x), SCORE_BLOCK)]
            sums = np.zeros((len(runs), 2, K))

            def multiply(run: range) -> None:
                for tile in tiles[run.start : run.stop]:
                    product(x, W_columns[:, tile], Z[:, tile])
                    Z[:, tile] += b_flat[tile]

            def lose(run: range) -> None:
                for i in run:
                    part = Z[runs[i]].reshape(-1, K, c)
                    self._row_loss(part, t[runs[i]], s, runs[i], loss, sums[i, 0], sums[i, 1])

            def accumulate(run: range) -> None:
                for tile in tiles[run.start : run.stop]:
                    db[tile] += Z[:, tile].sum(axis=0)
                    product(x, Z[:, tile], dW[:, tile], transpose_a=True, beta=1.0)

            for_each(multiply, len(tiles), self.n_threads)
            for_each(lose, len(runs), self.n_threads)
            if with_gradient:
                for_each(accumulate, len(tiles), self.n_threads)
            losses[:] += sums[:, 0].sum(axis=0)
            correct[:] += sums[:, 1].sum(axis=0)

        with single_threaded_blas():
            for first in range(0, n, block):
                pass_block(first)
        return losses, correct, dW, db

    def _row_loss(
        self, Z: Array, labels: Array, weights: Array | None, picked: Any, loss: int, losses: Array, correct: Array
    ) -> None:
        """Call `kernels.row_loss` with the weights of the rows `picked`."""
        s = NO_WEIGHTS[Z.dtype.type] if weights is None else weights[picked]
        self.kernels.row_loss(Z, labels, s, loss, losses, correct, self.kernels.SOURCE)

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
        if not self._tiled(c) or longest > leaf_rows(d):
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
        if not self._tiled(q) and d * q * size > LARGE_GRADIENT:  # as _pass decides
            return gradient + SCORE_BYTES
        n_leaves = -(-n // leaf_rows(d))
        threads = min(self.n_threads, n_leaves)
        partials = threads * (1 + math.ceil(math.log2(n_leaves // threads + 1)))  # one for each level of the tree
        block = 0 if self._tiled(q) else BLAS_BLOCK * (d + q) * size
        return partials * gradient + threads * block

    def linear_scores(self, X: Array, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), *W.shape[1:]), W.dtype)
        self._for_scores(X, W, b, rows, partial(operator.setitem, out))
        return out

    def linear_probabilities(self, X: Array, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), *W.shape[1:]), W.dtype)

        def finish(part: slice, Z: Array) -> None:
            _softmax(Z)
            out[part] = Z

        self._for_scores(X, W, b, rows, finish)
        return out

    def linear_best(self, X: Array, W: Array, b: Array, rows: Array | None = None) -> Array:
        out = np.empty((_count(X, rows), W.shape[1]), np.int32)

        def finish(part: slice, Z: Array) -> None:
            out[part] = _best(Z)

        self._for_scores(X, W, b, rows, finish)
        return out

    def _for_scores(
        self, X: Array, W: Array, b: Array, rows: Array | None, finish: Callable[[slice, Array], None]
    ) -> None:
        """Call `finish(part, scores (m, K, c))` for each block of rows, in any thread; it may change the scores."""
        d, K, c = W.shape
        n, q = _count(X, rows), K * c
        step = -(-leaf_rows(d) // SCORE_BLOCK) * SCORE_BLOCK
        if self._tiled(q):
            score = scorer(self.kernels, X, W, b, rows)

            def work(run: range) -> None:
                start, stop = run.start * step, min(run.stop * step, n)
                Z = np.empty((min(step, stop - start), K, c), W.dtype)
                for first in range(start, stop, step):
                    part = slice(first, min(first + step, stop))
                    score(part, Z)
                    finish(part, Z[: part.stop - first])

            for_each(work, -(-n // step), self.n_threads)
            return
        W_columns, b_flat = W.reshape(d, q), b.reshape(q)

        def multiply(run: range) -> None:
            start, stop = run.start * step, min(run.stop * step, n)
            x = np.zeros((SCORE_BLOCK, d), W.dtype)
            for first in range(start, stop, SCORE_BLOCK):
                m = min(SCORE_BLOCK, stop - first)
                # always the same shape, because OpenBLAS's bits change with the number of rows in the call (in its AVX2
                # kernel also with a row's place in the block: only the rows after it do not matter)
                x[:m], x[m:] = widen(X[_picked(rows, first, first + m)], W.dtype), 0
                Z = (x @ W_columns)[:m]
                Z += b_flat
                finish(slice(first, first + m), Z.reshape(m, K, c))

        with single_threaded_blas():
            for_each(multiply, -(-n // step), self.n_threads)

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
            self._row_loss(Z[part], labels[part], weights, part, loss, losses, correct)
            return losses, correct

        losses, correct = sum_over_leaves(leaf, -(-m // step), self.n_threads)
        return losses, correct

    def column_moments(
        self, X: Array, weights: Array | None, rows: Array | None = None, origin: int | None = None
    ) -> tuple[Array, Array]:
        n, d = _count(X, rows), X.shape[1]
        step, block = leaf_rows(d), max(8, min(256, CACHE_FLOATS // d))
        centre = widen(X[origin if origin is not None else 0 if rows is None else rows[0]])

        def leaf(index: int) -> Partial:
            total, first_moment, second_moment = np.zeros(1), np.zeros(d), np.zeros(d)
            for first in range(index * step, min((index + 1) * step, n), block):
                picked = _picked(rows, first, min(first + block, (index + 1) * step, n))
                x = widen(X[picked]) - centre
                s = np.ones(len(x)) if weights is None else weights[picked].astype(np.float64)
                total += s.sum()
                first_moment += s @ x
                second_moment += s @ (x * x)
            return total, first_moment, second_moment

        with single_threaded_blas():
            total, first_moment, second_moment = sum_over_leaves(leaf, -(-n // step), self.n_threads)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks for infinite features
            mean = first_moment / total
            return centre + mean, np.maximum(second_moment / total - mean * mean, 0.0)

    def label_sums(
        self, X: Array, labels: Array, weights: Array, class_weight: Array, proportions: Array | None,
        rows: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        def coefficients(part: slice) -> Array:
            picked = _picked(rows, part.start, part.stop)
            soft = None if proportions is None else proportions[picked]
            return self.label_coefficients(labels[picked], weights[picked], class_weight, soft)

        return self._column_products(X, coefficients, len(class_weight), np.float64, False, rows)

    def column_products(self, X: Array, Q: Array, squared: bool = False, rows: Array | None = None) -> Array:
        return self._column_products(X, lambda part: Q[part], Q.shape[1], Q.dtype, squared, rows)[0]

    def _column_products(
        self, X: Array, coefficients: Callable[[slice], Array], c: int, dtype: Any, squared: bool, rows: Array | None
    ) -> tuple[Array, Array]:
        """Sum x_i^T q_i and q_i over the rows used; `coefficients(part)` returns q (m, c) for some of them."""
        n, d = _count(X, rows), X.shape[1]
        step, width = leaf_rows(d), max(1, LARGE_GRADIENT // (8 * d))

        def sums_of(columns: slice) -> Partial:
            def leaf(index: int) -> Partial:
                totals = np.zeros(columns.stop - columns.start, dtype)
                sums, stop = np.zeros((d, len(totals)), dtype), min((index + 1) * step, n)
                for first in range(index * step, stop, BLAS_BLOCK):
                    part = slice(first, min(first + BLAS_BLOCK, stop))
                    q, x = coefficients(part)[:, columns], widen(X[_picked(rows, part.start, part.stop)], dtype)
                    product(x * x if squared else x, np.ascontiguousarray(q), sums, transpose_a=True, beta=1.0)
                    totals += q.sum(axis=0)
                return sums, totals

            return sum_over_leaves(leaf, -(-n // step), self.n_threads)

        with single_threaded_blas():  # too many columns for a copy per leaf take several passes
            parts = [sums_of(slice(first, min(first + width, c))) for first in range(0, c, width)]
        sums, totals = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return sums, totals
