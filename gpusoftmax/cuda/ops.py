"""The operations of the GPU: chunks of rows, two cuBLAS products and a row kernel in between, in place.

Names and arguments are those of `array.Operations`, which documents them once for every back end. Everything is queued
on the caller's current stream, and nothing here waits for the device but what says so.

Peak memory above X: the weights and the gradient, 2 d K c numbers, and one chunk of scores (and of converted features,
where X is not in the type of the product): CHUNK_BYTES each.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax.cuda import buckets
from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.compile import kernel

log = logging.getLogger("gpusoftmax")

CHUNK_BYTES = 256 << 20  # of scores, and of converted features: 65536 rows of 1000 classes
ROWS_A_SUM = 4096  # reduce.cu's ROWS_A_BLOCK
SUM_THREADS = 256
GRADIENT, LOSSES = 0, 1  # row_loss.cu's modes

KINDS = {
    np.dtype(np.float32): buckets.FLOAT32,
    np.dtype(np.float16): buckets.FLOAT16,
    np.dtype(np.float64): buckets.FLOAT64,
    np.dtype(np.uint8): buckets.UINT8,
    np.dtype(np.uint16): buckets.BFLOAT16,  # as bits
}


def chunk_rows(d: int, columns: int) -> int:
    """Rows of a chunk: a function of the shape alone, so that sums are taken in the same order everywhere."""
    widest = max(d, columns, 1)
    return max(128, min(CHUNK_BYTES // (4 * widest), (2**31 - 1) // widest) // 128 * 128)


@dataclass(frozen=True)
class CudaOperations:
    """Of the current device. `precision` of float32 products: "highest", "high" (TF32), "medium" (bfloat16)."""

    precision: str = "highest"

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        d, K, c = W.shape
        totals, dW, db = self._visit(X, labels, W, b, weights, loss, rows, GRADIENT)
        return totals[:, 0], totals[:, 1], dW.reshape(d, K, c), db.reshape(K, c)

    def linear_losses(self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        totals, _, _ = self._visit(X, labels, W, b, weights, loss, None, LOSSES)
        return totals[:, 0], totals[:, 1]

    def _visit(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any, mode: int
    ) -> tuple[Any, Any, Any]:
        """Totals (K, 2), dW (d, K c) and db (1, K c), summed chunk by chunk; a chunk that does not fit is halved."""
        import cupy

        d, K, c = W.shape
        n = len(X) if rows is None else len(rows)
        step = min(chunk_rows(d, K * c), n)
        while True:
            try:
                return self._visit_chunks(X, labels, W, b, weights, loss, rows, mode, n, step)
            except cupy.cuda.memory.OutOfMemoryError as error:
                cupy.get_default_memory_pool().free_all_blocks()
                if step <= 128:
                    raise MemoryError(
                        f"the GPU's memory does not hold a pass over {n} rows, even 128 at a time: weights and "
                        f"gradient of {d} features x {K} models x {c} classes take {2 * W.nbytes / 2**20:.0f} MB "
                        f"beside X ({error}); use fewer models at a time, or backend='cpu'"
                    ) from error
                step = max(128, step // 2 // 128 * 128)
                log.warning("out of GPU memory: trying again with chunks of %d rows", step)

    def _visit_chunks(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any, mode: int, n: int, step: int
    ) -> tuple[Any, Any, Any]:
        import cupy

        d, K, c = W.shape
        q, dtype = K * c, W.dtype
        weight_operand = self._operand(W.reshape(d, q), None, 0, d)
        totals = cupy.zeros((K, 2), dtype=np.float64)
        dW, db = cupy.zeros((d, q), dtype=dtype), cupy.zeros((1, q), dtype=dtype)
        scores, ones = cupy.empty((step, q), dtype=dtype), cupy.ones((step, 1), dtype=dtype)
        for first in range(0, n, step):
            m = min(step, n - first)
            picked = slice(first, first + m) if rows is None else rows[first : first + m]
            x = self._operand(X, rows, first, m)
            Z = scores[:m]
            product(x, weight_operand, Z, precision=self.precision)
            t, s = labels[picked], None if weights is None else weights[picked]
            self._row_loss(Z.reshape(m, K, c), b, t, s, loss, mode, totals)
            if mode == GRADIENT:
                product(x, self._operand(Z, None, 0, m), dW, transpose_a=True, beta=1.0, precision=self.precision)
                product(ones[:m], Z, db, transpose_a=True, beta=1.0)
        return totals, dW, db

    def _operand(self, X: Any, rows: Any, first: int, m: int) -> Any:
        """Rows [first, first + m) of X, or those that `rows` names there, in the type of the product, contiguous."""
        import cupy

        d, size = X.shape[1], X.dtype.itemsize
        narrow = np.uint16 if self.precision == "medium" else np.float32
        target: np.dtype[Any] = np.dtype(np.float64 if X.dtype == np.float64 else narrow)
        if rows is None and target == X.dtype and X.flags.c_contiguous:
            return X[first : first + m]
        if X.strides[1] != size or X.strides[0] % size:
            X = cupy.ascontiguousarray(X)
        stride = X.strides[0] // size
        out = cupy.empty((m, d), dtype=target)
        wide = d % 4 == 0 and stride % 4 == 0 and X.data.ptr % (4 * size) == 0
        width = 4 if wide else 1
        gather = kernel("gather.cu", "gather", SOURCE=KINDS[X.dtype], TARGET=KINDS[target], WIDTH=width)
        indices = np.uint64(0) if rows is None else rows[first : first + m]
        gather(
            (-(-m * d // (256 * width)),),
            (256,),
            (X, np.int64(stride), indices, np.int64(first), np.uint32(m), np.uint32(d), out),
        )
        return out

    def _row_loss(self, Z: Any, b: Any, labels: Any, weights: Any, loss: int, mode: int, totals: Any) -> Any:
        """Z (m, K, c), C-contiguous, to weighted gradients in place; adds to totals (K, 2); -> the first bad row."""
        import cupy

        m, K, c = Z.shape
        rows = m * K
        kind = KINDS[Z.dtype]
        bucket = buckets.choose(kind, c, c, Z.data.ptr)
        losses, best = cupy.empty(rows, dtype=Z.dtype), cupy.empty(rows, dtype=np.int32)
        bad_row = cupy.full(1, 2**64 - 1, dtype=np.uint64)
        nothing = np.uint64(0)  # a null pointer
        row_loss = kernel("row_loss.cu", "row_loss", SCORE=kind, LOSS=loss, MODE=mode, BEST=1, **bucket.macros())
        row_loss(
            (-(-rows // bucket.rows),),
            (bucket.threads,),
            (
                Z, np.int64(c), nothing if b is None else b, labels, nothing if weights is None else weights,
                np.int64(rows), np.int32(c), np.int32(K), losses, best, bad_row,
            ),
        )  # fmt: skip
        blocks = -(-m // ROWS_A_SUM)
        partials = cupy.empty((blocks, K, 2), dtype=np.float64)
        sum_rows = kernel("reduce.cu", "sum_rows", SCORE=kind)
        sum_rows(
            (blocks, K),
            (SUM_THREADS,),
            (losses, best, labels, nothing if weights is None else weights, np.int64(m), partials),
        )
        add_partials = kernel("reduce.cu", "add_partials", SCORE=kind)
        add_partials((K,), (SUM_THREADS,), (partials, np.int32(blocks), totals))
        return bad_row

    def linear_scores(self, X: Any, W: Any, b: Any) -> Any:
        import cupy

        d, K, c = W.shape
        n, q = len(X), K * c
        weight_operand = self._operand(W.reshape(d, q), None, 0, d)
        out = cupy.empty((n, q), dtype=W.dtype)
        step = chunk_rows(d, q)
        for first in range(0, n, step):
            m = min(step, n - first)
            product(self._operand(X, None, first, m), weight_operand, out[first : first + m], precision=self.precision)
        out += b.reshape(1, q)
        return out.reshape(n, K, c)

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Waits for the device: the labels of a user's own scores are checked by the kernel, not on the host."""
        import cupy

        totals = cupy.zeros((Z.shape[1], 2), dtype=np.float64)
        bad_row = int(cupy.asnumpy(self._row_loss(Z, None, labels, weights, loss, GRADIENT, totals))[0])
        if bad_row < Z.shape[0] * Z.shape[1]:
            row, c = bad_row // Z.shape[1], Z.shape[2]
            raise ValueError(
                f"labels[{row}] is {int(cupy.asnumpy(labels[row : row + 1])[0])}, but there are {c} classes; class "
                f"indices go from 0 to {c - 1}"
            )
        return totals[:, 0], totals[:, 1]

    def column_moments(self, X: Any, weights: Any) -> tuple[Any, Any]:
        import cupy

        n, d = X.shape
        origin = X[0:1].astype(np.float64)  # near the data, so that the difference of squares does not cancel
        total = cupy.zeros((1, 1), dtype=np.float64)
        first_moment, second_moment = cupy.zeros((1, d), dtype=np.float64), cupy.zeros((1, d), dtype=np.float64)
        step = max(1, chunk_rows(d, 1) // 4)  # two float64 chunks at a time
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            x = X[rows].astype(np.float64) - origin
            s = cupy.ones((len(x), 1), dtype=np.float64)
            if weights is not None:
                s *= weights[rows].reshape(-1, 1)
            total += s.sum()
            product(s, x, first_moment, transpose_a=True, beta=1.0)
            x *= x
            product(s, x, second_moment, transpose_a=True, beta=1.0)
        mean = first_moment / total
        variance = cupy.maximum(second_moment / total - mean * mean, 0.0)
        return (origin + mean).reshape(d), variance.reshape(d)


def array_module() -> ModuleType:
    """CuPy, for those who may not import it."""
    import cupy

    module: ModuleType = cupy
    return module
