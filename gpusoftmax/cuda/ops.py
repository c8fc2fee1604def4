"""The operations of the CUDA backend: for each chunk of rows two cuBLAS products, and a row kernel between them.

Names and arguments are those of `operations.Operations`, which documents them for all backends. All work is queued on
the caller's current stream, and no function waits for the device unless its docstring says so.

Peak memory beyond X and the weights: the gradient, d K c numbers, and one chunk of scores (and one of converted
features, if X is not in the type of the product), of CHUNK_BYTES each. `pass_bytes` computes it in advance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax import epilogue
from gpusoftmax._log import log
from gpusoftmax.cuda import buckets, sparse
from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.compile import KINDS, NOTHING, kernel, or_nothing
from gpusoftmax.cuda.memory import shortage
from gpusoftmax.dtypes import BFLOAT16, computation_dtype
from gpusoftmax.operations import Diagonals, SparseRows
from gpusoftmax.penalties import L2

CHUNK_BYTES = 256 << 20  # of scores, and of converted features: 65536 rows of 1024 float32 numbers
ROWS_A_SUM = 4096  # reduce.cu's ROWS_A_BLOCK
SUM_THREADS = 256
GRADIENT, LOSSES, PROBABILITIES = range(3)  # row_loss.cu's modes
SOFTMAX = 0
NO_BAD_ROW = 2**64 - 1
SMALLEST_CHUNK = 128  # rows
ROUNDING_BYTES = 1 << 15  # added by rounding up the sizes of some twenty allocations


def chunk_rows(d: int, columns: int) -> int:
    """Return the rows of a chunk: a function of the shape alone, so that sums have the same order on every device."""
    widest = max(d, columns, 1)
    return max(128, min(CHUNK_BYTES // (4 * widest), (2**31 - 1) // widest) // 128 * 128)


@dataclass(frozen=True)
class CudaOperations:
    """The operations on the current device.

    `precision` is that of float32 products: "highest", "high" (TF32) or "medium" (bfloat16).
    """

    precision: str = "highest"

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        d, K, c = W.shape
        totals, dW, db = self._visit(X, labels, W, b, weights, loss, rows, GRADIENT)
        return totals[:, 0], totals[:, 1], dW.reshape(d, K, c), db.reshape(K, c)

    def linear_losses(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any]:
        totals, _, _ = self._visit(X, labels, W, b, weights, loss, rows, LOSSES)
        return totals[:, 0], totals[:, 1]

    def _visit(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any, mode: int
    ) -> tuple[Any, Any, Any]:
        """Return totals (K, 2), dW (d, K c) and db (1, K c), summed over chunks; dW and db are None in mode LOSSES."""
        n = _count(X, rows)

        def visit(step: int) -> tuple[Any, Any, Any]:
            return self._visit_chunks(X, labels, W, b, weights, loss, rows, mode, n, step)

        return self._in_chunks_that_fit(visit, X, n, W, W.nbytes + b.nbytes if mode == GRADIENT else 0)

    def _in_chunks_that_fit(self, visit: Callable[[int], Any], X: Any, n: int, W: Any, result_bytes: int) -> Any:
        """Call `visit(step)` for n rows, `step` at a time; halve `step` while a chunk does not fit in GPU memory."""
        import cupy

        d, K, c = W.shape
        step = min(chunk_rows(d, K * c), n)
        while True:
            try:
                return visit(step)
            except cupy.cuda.memory.OutOfMemoryError as error:
                cupy.get_default_memory_pool().free_all_blocks()
                if step <= SMALLEST_CHUNK:
                    raise shortage(
                        result_bytes + self._chunk_bytes(X.dtype, step, d, K, c),
                        f"beside X and the weights, a pass over {n} rows of {d} features for {K} x {c} scores a row "
                        f"takes, at {step} rows a time,",
                        "use fewer models at a time, or backend='cpu'",
                    ) from error
                step = max(SMALLEST_CHUNK, step // 2 // SMALLEST_CHUNK * SMALLEST_CHUNK)
                log.warning("out of GPU memory: trying again with chunks of %d rows", step)

    def fold(self, W: Any, shift: Any, scale: Any) -> tuple[Any, Any]:
        return epilogue.fold(W, shift, scale)

    def finish_gradient(
        self, dW: Any, db: Any, W: Any, row_scale: Any, shift: Any, scale: Any, penalty: L2, T: Any
    ) -> tuple[Any, Any]:
        return epilogue.finish_gradient(dW, db, W, row_scale, shift, scale, penalty, T)

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        gradient = (d + 1) * K * c * np.dtype(computation_dtype(dtype)).itemsize
        return gradient + self._chunk_bytes(dtype, min(chunk_rows(d, K * c), n), d, K, c)

    def _chunk_bytes(self, dtype: Any, step: int, d: int, K: int, c: int) -> int:
        """Return the bytes of a chunk of `step` rows: scores, losses, best columns and converted operands."""
        q, computed, operand = K * c, np.dtype(computation_dtype(dtype)), self._operand_type(dtype)
        scores = step * q * computed.itemsize
        rows = step * (K * (computed.itemsize + 4) + computed.itemsize) + -(-step // ROWS_A_SUM) * K * 16
        converted = 0 if operand == dtype else step * d * operand.itemsize
        if operand != computed:  # the weights, and the gradients with respect to the scores, in bfloat16
            converted += (d + step) * q * operand.itemsize
        return scores + rows + converted + ROUNDING_BYTES

    def _visit_chunks(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any, mode: int, n: int, step: int
    ) -> tuple[Any, Any, Any]:
        import cupy

        d, K, c = W.shape
        q, dtype = K * c, W.dtype
        weight_operand = self._operand(W.reshape(d, q), None, 0, d)
        totals = cupy.zeros((K, 2), dtype=np.float64)
        dW = db = None
        if mode == GRADIENT:
            dW, db = cupy.zeros((d, q), dtype=dtype), cupy.zeros((1, q), dtype=dtype)
        scores, ones = cupy.empty((step, q), dtype=dtype), cupy.ones((step, 1), dtype=dtype)

        def visit(first: int) -> None:  # a function, so that the arrays of a chunk are freed at its end
            m = min(step, n - first)
            picked = _picked(rows, first, m)
            x = self._operand(X, rows, first, m)
            Z = scores[:m]
            product(x, weight_operand, Z, precision=self.precision)
            t, s = labels[picked], None if weights is None else weights[picked]
            losses, best, _ = self._row_loss(Z.reshape(m, K, c), b, t, s, loss, mode)
            self._add_up(losses, best, t, s, totals)
            if mode == GRADIENT:
                product(x, self._operand(Z, None, 0, m), dW, transpose_a=True, beta=1.0, precision=self.precision)
                product(ones[:m], Z, db, transpose_a=True, beta=1.0)

        for first in range(0, n, step):
            visit(first)
        return totals, dW, db

    def _operand(self, X: Any, rows: Any, first: int, m: int) -> Any:
        """Return rows [first, first + m) of X, or of those in `rows`, contiguous and in the type of the product."""
        return _converted(X, rows, first, m, self._operand_type(X.dtype))

    def _operand_type(self, dtype: Any) -> np.dtype[Any]:
        """Return the type in which numbers of `dtype` are multiplied."""
        if dtype == np.float64:
            return np.dtype(np.float64)
        return BFLOAT16 if self.precision == "medium" else np.dtype(np.float32)

    def _row_loss(
        self, Z: Any, b: Any, labels: Any, weights: Any, loss: int, mode: int, best: bool = True
    ) -> tuple[Any, Any, Any]:
        """Turn scores Z (m, K, c), C-contiguous, into weighted gradients or probabilities, in place.

        Returns the losses (m K,), the best columns (m K,) if `best`, and the first row with a bad label (1,).
        """
        import cupy

        m, K, c = Z.shape
        rows = m * K
        kind = KINDS[Z.dtype]
        bucket = buckets.choose(kind, c, c, Z.data.ptr)
        losses = cupy.empty(rows, dtype=Z.dtype)
        columns = cupy.empty(rows, dtype=np.int32) if best else NOTHING
        bad_row = cupy.full(1, NO_BAD_ROW, dtype=np.uint64)
        row_loss = kernel(
            "row_loss.cu", "row_loss", SCORE=kind, LOSS=loss, MODE=mode, BEST=int(best), **bucket.macros()
        )
        row_loss(
            (-(-rows // bucket.rows),),
            (bucket.threads,),
            (
                Z, np.int64(c), or_nothing(b), or_nothing(labels), or_nothing(weights),
                np.int64(rows), np.int32(c), np.int32(K), losses, columns, bad_row,
            ),
        )  # fmt: skip
        return losses, columns, bad_row

    def _add_up(self, losses: Any, best: Any, labels: Any, weights: Any, totals: Any) -> None:
        """Add the weighted losses and correct counts of rows (m K,) to totals (K, 2), in a fixed order."""
        import cupy

        m, K = len(labels), len(totals)
        kind, blocks = KINDS[losses.dtype], -(-m // ROWS_A_SUM)
        partials = cupy.empty((blocks, K, 2), dtype=np.float64)
        sum_rows = kernel("reduce.cu", "sum_rows", SCORE=kind)
        sum_rows((blocks, K), (SUM_THREADS,), (losses, best, labels, or_nothing(weights), np.int64(m), partials))
        add_partials = kernel("reduce.cu", "add_partials", SCORE=kind)
        add_partials((K,), (SUM_THREADS,), (partials, np.int32(blocks), totals))

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

        d, K, c = W.shape
        n, q = _count(X, rows), K * c

        def visit(step: int) -> Any:
            weight_operand = self._operand(W.reshape(d, q), None, 0, d)
            out = cupy.empty((n, *shape), dtype=dtype)
            scores = None if shape == (K, c) else cupy.empty((step, K, c), dtype=W.dtype)
            for first in range(0, n, step):
                m = min(step, n - first)
                part = out[first : first + m]
                Z = part if scores is None else scores[:m]
                product(self._operand(X, rows, first, m), weight_operand, Z.reshape(m, q), precision=self.precision)
                finish(Z, part)
            return out

        return self._in_chunks_that_fit(visit, X, n, W, n * int(np.prod(shape)) * dtype.itemsize)

    def softmax(self, Z: Any) -> None:
        self._softmax(Z, None)

    def _softmax(self, Z: Any, b: Any) -> None:
        """Replace the scores Z (m, K, c), without the bias b (K, c) or None, by the softmax of each row's."""
        self._row_loss(Z, b, None, None, SOFTMAX, PROBABILITIES, best=False)

    def best(self, Z: Any) -> Any:
        return self._best(Z, None)

    def _best(self, Z: Any, b: Any) -> Any:
        """Do what `best` does, for scores without the bias b (K, c) or None."""
        return self._row_loss(Z, b, None, None, SOFTMAX, LOSSES)[1].reshape(Z.shape[:2])

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
        step = max(1, chunk_rows(len(columns), len(columns)) // 4)  # two float64 chunks at a time
        return sparse.gram(rows, weights, columns, smallest, step)

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Let the kernel check the labels, which were not checked on the host, and wait for the device to report."""
        import cupy

        totals = cupy.zeros((Z.shape[1], 2), dtype=np.float64)
        if len(Z) == 0:  # a grid has at least one block
            return totals[:, 0], totals[:, 1]
        losses, best, first_bad = self._row_loss(Z, None, labels, weights, loss, GRADIENT)
        self._add_up(losses, best, labels, weights, totals)
        bad_row = int(cupy.asnumpy(first_bad)[0])
        if bad_row < Z.shape[0] * Z.shape[1]:
            row, c = bad_row // Z.shape[1], Z.shape[2]
            raise ValueError(
                f"labels[{row}] is {int(cupy.asnumpy(labels[row : row + 1])[0])}, but there are {c} classes; class "
                f"indices go from 0 to {c - 1}"
            )
        return totals[:, 0], totals[:, 1]

    def column_moments(self, X: Any, weights: Any, rows: Any = None, origin: int | None = None) -> tuple[Any, Any]:
        import cupy

        n, d = _count(X, rows), X.shape[1]
        double = np.dtype(np.float64)
        centre = _converted(X, rows, 0, 1, double) if origin is None else _converted(X, None, origin, 1, double)
        total = cupy.zeros((1, 1), dtype=np.float64)
        first_moment, second_moment = cupy.zeros((1, d), dtype=np.float64), cupy.zeros((1, d), dtype=np.float64)
        step = max(1, chunk_rows(d, 1) // 4)  # two float64 chunks at a time
        for first in range(0, n, step):
            m = min(step, n - first)
            x = _converted(X, rows, first, m, double) - centre
            s = cupy.ones((m, 1), dtype=np.float64)
            if weights is not None:
                s *= weights[_picked(rows, first, m)].reshape(-1, 1)
            total += s.sum()
            product(s, x, first_moment, transpose_a=True, beta=1.0)
            x *= x
            product(s, x, second_moment, transpose_a=True, beta=1.0)
        mean = first_moment / total
        variance = cupy.maximum(second_moment / total - mean * mean, 0.0)
        return (centre + mean).reshape(d), variance.reshape(d)

    def label_sums(
        self, X: Any, labels: Any, weights: Any, class_weight: Any, proportions: Any, rows: Any = None
    ) -> tuple[Any, Any]:
        def coefficients(first: int, m: int) -> Any:
            picked = _picked(rows, first, m)
            soft = None if proportions is None else proportions[picked]
            return self.label_coefficients(labels[picked], weights[picked], class_weight, soft)

        return self._column_products(X, coefficients, len(class_weight), np.dtype(np.float64), False, rows)

    def label_coefficients(self, labels: Any, weights: Any, class_weight: Any, proportions: Any) -> Any:
        import cupy

        m, c, double = len(labels), len(class_weight), np.dtype(np.float64)
        z = cupy.zeros((m, 1, c), dtype=double)
        self._row_loss(z, None, labels, None, SOFTMAX, GRADIENT)  # 1 / c - e_y
        z = -1.0 * z.reshape(m, c)
        if proportions is not None:
            p = cupy.ascontiguousarray(proportions * class_weight)
            z += 1 / c - p / cupy.maximum(p.sum(axis=1), np.finfo(double).tiny).reshape(m, 1)
        z *= weights.reshape(m, 1)
        return z

    def column_products(self, X: Any, Q: Any, squared: bool = False, rows: Any = None) -> Any:
        import cupy

        def coefficients(first: int, m: int) -> Any:
            return cupy.ascontiguousarray(Q[first : first + m])

        return self._column_products(X, coefficients, Q.shape[1], Q.dtype, squared, rows)[0]

    def _column_products(
        self, X: Any, coefficients: Callable[[int, int], Any], c: int, dtype: Any, squared: bool, rows: Any
    ) -> tuple[Any, Any]:
        """Sum x_i^T q_i (d, c) and q_i (c,) over the rows used; `coefficients(first, m)` returns q (m, c) for some."""
        import cupy

        n, d = _count(X, rows), X.shape[1]
        sums, totals = cupy.empty((d, 1, c), dtype=dtype), cupy.empty((1, c), dtype=dtype)

        def visit(step: int) -> None:
            sums[...], totals[...] = 0, 0
            step = -(-step // 4)  # several arrays of float64 at a time
            for first in range(0, n, step):
                m = min(step, n - first)
                q, x = coefficients(first, m), _converted(X, rows, first, m, dtype)
                product(x * x if squared else x, q, sums.reshape(d, c), transpose_a=True, beta=1.0)
                product(cupy.ones((m, 1), dtype=dtype), q, totals, transpose_a=True, beta=1.0)

        self._in_chunks_that_fit(visit, X, n, sums, sums.nbytes + totals.nbytes)
        return sums.reshape(d, c), totals.reshape(c)


def _count(X: Any, rows: Any) -> int:
    """Return the number of selected rows."""
    return len(X) if rows is None else len(rows)


def _picked(rows: Any, first: int, m: int) -> Any:
    """Return an index of m rows, starting with the one at `first`: a slice if all rows are selected."""
    return slice(first, first + m) if rows is None else rows[first : first + m]


def _converted(X: Any, rows: Any, first: int, m: int, target: np.dtype[Any]) -> Any:
    """Return rows [first, first + m) of X, or of those in `rows`, contiguous and in type `target`."""
    import cupy

    d, size = X.shape[1], X.dtype.itemsize
    if rows is None and target == X.dtype and X.flags.c_contiguous:
        return X[first : first + m]
    if X.strides[1] != size or X.strides[0] % size:
        X = cupy.ascontiguousarray(X[first : first + m] if rows is None else X[rows[first : first + m]])
        rows, first = None, 0
        if target == X.dtype:
            return X
    stride = X.strides[0] // size
    out = cupy.empty((m, d), dtype=target)
    wide = d % 4 == 0 and stride % 4 == 0 and X.data.ptr % (4 * size) == 0
    width = 4 if wide else 1
    gather = kernel("gather.cu", "gather", SOURCE=KINDS[X.dtype], TARGET=KINDS[target], WIDTH=width)
    indices = NOTHING if rows is None else rows[first : first + m]
    gather(
        (-(-m * d // (256 * width)),),
        (256,),
        (X, np.int64(stride), indices, np.int64(first), np.uint32(m), np.uint32(d), out),
    )
    return out


def array_module() -> ModuleType:
    """Return CuPy for modules outside this folder, which must not import it themselves."""
    import cupy

    module: ModuleType = cupy
    return module
