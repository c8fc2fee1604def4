"""The operations of the CUDA backend: sums and scores, for one chunk of rows after another.

Names and arguments are those of `operations.Operations`, which documents them for all backends. All work is queued on
the caller's current stream; only rows that are not on the device are copied on another one. No function waits for the
device unless its docstring says so; with such rows, each waits for the last copy.

The same shapes give the same bits on a GPU, wherever X is and however much memory is free: see `chunks`.

Peak memory beyond X and the weights: some gradients, d K c numbers each, and one chunk of scores (and one of converted
features, if X is not in the type of the product; two of stored ones, if X is not on the device), of CHUNK_BYTES each.
`pass_bytes` computes it in advance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax import epilogue
from gpusoftmax.cuda import gradients, sparse
from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.chunks import (
    Chunk,
    chunk_rows,
    converted,
    copy_bytes,
    count,
    explained,
    float64_rows,
    for_each_chunk,
    is_on_device,
    leaf_rows,
    live_leaves,
    picked,
)
from gpusoftmax.cuda.column_sums import DOUBLE, moment_sums, moments_from, product_sums
from gpusoftmax.cuda.gradients import GradientSums, gradient_leaf
from gpusoftmax.cuda.operands import operands
from gpusoftmax.cuda.row_losses import GRADIENT, LOSSES, PROBABILITIES, SOFTMAX, add_up, no_bad_row, row_loss
from gpusoftmax.operations import Diagonals, SparseRows
from gpusoftmax.penalties import L2
from gpusoftmax.tree import Partial


@dataclass(frozen=True)
class CudaOperations:
    """The operations on the current device.

    `precision` is that of products with features, unless they are float64: "highest" has 22 bits or more (float32
    features: float32 products; of 16 bits or fewer: see `operands`), "high" is TF32 and "medium" bfloat16.
    """

    precision: str = "highest"

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        losses, correct, dW, db = self._sums(X, labels, W, b, weights, loss, rows, True)
        return losses, correct, dW.reshape(W.shape), db.reshape(b.shape)

    def linear_losses(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any]:
        losses, correct = self._sums(X, labels, W, b, weights, loss, rows, False)[:2]
        return losses, correct

    def _sums(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any, with_gradient: bool
    ) -> Partial:
        n, (d, K, c) = count(X, rows), W.shape
        sums = GradientSums(W, b, loss, with_gradient, self.precision)
        with explained(self._bytes_on(X, n, K, c), f"{n} rows of {d} features for {K} x {c} scores a row", X):
            return sums.over(X, labels, weights, rows).total(-(-n // gradient_leaf(W)))

    def fold(self, W: Any, shift: Any, scale: Any) -> tuple[Any, Any]:
        return epilogue.fold(W, shift, scale)

    def finish_gradient(
        self, dW: Any, db: Any, W: Any, row_scale: Any, shift: Any, scale: Any, penalty: L2, T: Any
    ) -> tuple[Any, Any]:
        return epilogue.finish_gradient(dW, db, W, row_scale, shift, scale, penalty, T)

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        return gradients.pass_bytes(dtype, n, d, K * c, K, self.precision)

    def _bytes_on(self, X: Any, n: int, K: int, c: int) -> int:
        """Return what a pass over n rows of X allocates at most, with the buffers that X needs if it is not there."""
        d = X.shape[1]
        return self.pass_bytes(X.dtype, n, d, K, c) + copy_bytes(X, chunk_rows(d, K * c))

    def linear_scores(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        def finish(Z: Any, out: Any) -> None:
            Z += b

        return self._scores(X, W, rows, finish, W.shape[1:], W.dtype)

    def linear_probabilities(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        def finish(Z: Any, out: Any) -> None:
            self._softmax(Z, b)

        return self._scores(X, W, rows, finish, W.shape[1:], W.dtype)

    def linear_best(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        def finish(Z: Any, out: Any) -> None:
            out[...] = self._best(Z, b)

        return self._scores(X, W, rows, finish, W.shape[1:2], np.dtype(np.int32))

    def _scores(
        self, X: Any, W: Any, rows: Any, finish: Callable[[Any, Any], None], shape: tuple[int, ...], dtype: Any
    ) -> Any:
        """Return an array (n, *shape), filled chunk by chunk.

        `finish` is called with scores (m, K, c), without b, and the part of the result that they belong to. If the
        result has the shape of the scores, they are computed in it.
        """
        import cupy

        n, (d, K, c) = count(X, rows), W.shape
        q, step, multiplied = K * c, chunk_rows(d, K * c), operands(X.dtype, self.precision)

        def work(chunk: Chunk) -> None:
            part = out[chunk.here]
            Z = part if scores is None else scores[: len(chunk)]
            multiplied.multiply(chunk.converted(multiplied.type), weights, Z.reshape(len(chunk), q))
            finish(Z, part)

        needed = n * int(np.prod(shape)) * dtype.itemsize + self._bytes_on(X, n, K, c)
        with explained(needed, f"{n} rows of {d} features for {K} x {c} scores a row", X):
            weights, out = multiplied.of(W.reshape(d, q)), cupy.empty((n, *shape), dtype=dtype)
            scores = None if shape == (K, c) else cupy.empty((min(step, n), K, c), dtype=W.dtype)
            for_each_chunk(work, X, rows, step)
        return out

    def softmax(self, Z: Any) -> None:
        self._softmax(Z, None)

    def _softmax(self, Z: Any, b: Any) -> None:
        """Replace the scores Z (m, K, c), without the bias b (K, c) or None, by the softmax of each row's."""
        row_loss(Z, b, None, None, SOFTMAX, PROBABILITIES, no_bad_row(), best=False)

    def best(self, Z: Any) -> Any:
        return self._best(Z, None)

    def _best(self, Z: Any, b: Any) -> Any:
        """Do what `best` does, for scores without the bias b (K, c) or None."""
        return row_loss(Z, b, None, None, SOFTMAX, LOSSES, no_bad_row())[1].reshape(Z.shape[:2])

    def pair_products(
        self, new: tuple[Any, Any, Any], old: tuple[Any, Any, Any], vectors: Any, pair: int
    ) -> tuple[Any, Any]:
        import cupy

        products, norms = epilogue.pair_products(new, old, vectors, pair)
        return cupy.stack(products), cupy.stack(norms)

    def solve_diagonals(self, diagonals: Diagonals, v: Any, own: Any, out: Any) -> Any:
        return epilogue.solve_diagonals(diagonals, v, own, out)

    def column_sums(self, Z: Any) -> Any:
        import cupy

        sums = cupy.zeros((1, Z.shape[1]), dtype=Z.dtype)
        if len(Z):
            product(cupy.ones((len(Z), 1), dtype=Z.dtype), Z, sums, transpose_a=True)
        return sums.reshape(-1)

    def sparse_product(self, A: SparseRows, M: Any, bias: Any = None, rows: Any = None, squared: bool = False) -> Any:
        """Cut long rows into segments; the first call with a matrix waits for the device."""
        return sparse.product(A, M, bias, rows, squared)

    def sparse_column_sums(self, columns: SparseRows, weights: Any, centre: Any) -> Any:
        """Cut long columns into segments; the first call with a matrix waits for the device."""
        return sparse.column_sums(columns, weights, centre)

    def sparse_gram(self, rows: SparseRows, weights: Any, columns: Any, smallest: float) -> Any:
        """Multiply chunks of a dense copy of the columns, and copy the result to the host, for which it waits.

        The weights and the columns are on the host, too.
        """
        return sparse.gram(rows, weights, columns, smallest, float64_rows(len(columns), len(columns)))

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Let the kernel check the labels, which were not checked on the host, and wait for the device to report."""
        import cupy

        totals = cupy.zeros((Z.shape[1], 2), dtype=np.float64)
        if len(Z) == 0:  # a grid has at least one block
            return totals[:, 0], totals[:, 1]
        first_bad = no_bad_row()
        losses, best = row_loss(Z, None, labels, weights, loss, GRADIENT, first_bad)
        add_up(losses, best, labels, weights, totals)
        bad_row = int(cupy.asnumpy(first_bad)[0])
        if bad_row < Z.shape[0] * Z.shape[1]:
            row, c = bad_row // Z.shape[1], Z.shape[2]
            raise ValueError(
                f"labels[{row}] is {int(cupy.asnumpy(labels[row : row + 1])[0])}, but there are {c} classes; class "
                f"indices go from 0 to {c - 1}"
            )
        return totals[:, 0], totals[:, 1]

    def column_moments(self, X: Any, weights: Any, rows: Any = None, origin: int | None = None) -> tuple[Any, Any]:
        n, d = count(X, rows), X.shape[1]
        step = float64_rows(d, 1)
        needed = 2 * min(step, n) * d * 8 + copy_bytes(X, step)
        with explained(needed, f"{n} rows of {d} features for their moments", X):
            centre = _row(X, rows, origin)
            return moments_from(moment_sums(X, weights, centre, rows).total(-(-n // leaf_rows(step))), centre)

    def label_sums(
        self, X: Any, labels: Any, weights: Any, class_weight: Any, proportions: Any, rows: Any = None
    ) -> tuple[Any, Any]:
        def coefficients(part: slice) -> Any:
            here = picked(rows, part)
            soft = None if proportions is None else proportions[here]
            return self.label_coefficients(labels[here], weights[here], class_weight, soft)

        return self._column_products(X, coefficients, len(class_weight), DOUBLE, False, rows)

    def label_coefficients(self, labels: Any, weights: Any, class_weight: Any, proportions: Any) -> Any:
        import cupy

        m, c, double = len(labels), len(class_weight), np.dtype(np.float64)
        z = cupy.zeros((m, 1, c), dtype=double)
        row_loss(z, None, labels, None, SOFTMAX, GRADIENT, no_bad_row())  # 1 / c - e_y
        z = -1.0 * z.reshape(m, c)
        if proportions is not None:
            p = cupy.ascontiguousarray(proportions * class_weight)
            z += 1 / c - p / cupy.maximum(p.sum(axis=1), np.finfo(double).tiny).reshape(m, 1)
        z *= weights.reshape(m, 1)
        return z

    def column_products(self, X: Any, Q: Any, squared: bool = False, rows: Any = None) -> Any:
        return self._column_products(X, lambda part: Q[part], Q.shape[1], Q.dtype, squared, rows)[0]

    def _column_products(
        self, X: Any, coefficients: Callable[[slice], Any], c: int, dtype: Any, squared: bool, rows: Any
    ) -> tuple[Any, Any]:
        """Sum x_i^T q_i (d, c) and q_i (c,) over the rows used; `coefficients(part)` returns q for some positions."""
        n, d, item = count(X, rows), X.shape[1], np.dtype(dtype).itemsize
        step = float64_rows(d, c)
        n_leaves = -(-n // leaf_rows(step))
        needed = live_leaves(n_leaves) * (d + 1) * c * item + copy_bytes(X, step)
        needed += min(step, n) * ((1 + squared) * d + 3 * c) * item
        with explained(needed, f"{n} rows of {d} features for products with {c} columns", X):
            tree = product_sums(X, coefficients, slice(0, c), dtype, squared, rows)
            sums, totals = tree.total(n_leaves)
            return sums, totals


def _row(X: Any, rows: Any, origin: int | None) -> Any:
    """Return the row number `origin` of X, or by default the first of the rows used, (d,) float64 on the device."""
    import cupy

    if is_on_device(X):
        row = converted(X, rows, 0, 1, DOUBLE) if origin is None else converted(X, None, origin, 1, DOUBLE)
    else:
        row = converted(cupy.asarray(X[origin or 0]).reshape(1, -1), None, 0, 1, DOUBLE)
    return row.reshape(-1)


def array_module() -> ModuleType:
    """Return CuPy for modules outside this folder, which must not import it themselves."""
    import cupy

    module: ModuleType = cupy
    return module
