"""Products and decompositions of dense matrices on the GPU, by cuBLAS and cuSOLVER.

`operations.LinearAlgebra` documents names and arguments, once for all backends. Gram matrices are computed in full
precision, whatever that of passes and CuPy's setting for the whole process: rounded ones could be indefinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gpusoftmax.cuda.blas import product, rank_k_product


class CudaLinearAlgebra:
    """Linear algebra on the current device."""

    def gram(self, a: Any, whole: bool = False) -> Any:
        import cupy

        d, out = a.shape[1], cupy.zeros((a.shape[1], a.shape[1]), dtype=a.dtype)
        if d and len(a):
            rank_k_product(a, out)
        return cupy.tril(out) + cupy.tril(out, -1).T if whole else out

    def column_squares(self, a: Any) -> Any:
        import cupy

        return cupy.square(a).sum(axis=0, dtype=np.float64)

    def times(self, S: Any, Q: Any) -> Any:
        import cupy

        S, Q = cupy.ascontiguousarray(S), cupy.ascontiguousarray(Q)
        out = cupy.empty((len(S), Q.shape[1]), dtype=Q.dtype)
        product(S, Q, out)
        return out

    def inverse_factors(self, matrices: Iterable[tuple[Any, Any]], jitters: tuple[float, ...]) -> Iterator[Any]:
        """Wait once for all matrices, and again for each jitter that some matrix needs."""
        import cupy

        given = list(matrices)
        found: list[Any] = [None] * len(given)
        left = [i for i, (M, _) in enumerate(given) if len(M)]
        for jitter in jitters:
            if not left:
                break
            tried = [_inverse_factor(*given[i], jitter) for i in left]
            failed = cupy.asnumpy(cupy.concatenate([bad for _, bad in tried]))
            for i, (R, _), bad in zip(left, tried, failed, strict=True):
                found[i] = None if bad else R
            left = [i for i, bad in zip(left, failed, strict=True) if bad]
        for i, (M, _) in enumerate(given):
            if not len(M):  # cuSOLVER takes no empty matrix
                found[i] = M.copy()
        return iter(found)

    def solve_factor(self, R: Any, v: Any) -> Any:
        return R.T @ (R @ v)

    def solve_low_rank(self, root: Any, V: Any, shrink: Any, v: Any) -> Any:
        u = v / root
        return (u - V @ (shrink * (V.T @ u))) / root

    def eigenpairs(self, M: Any) -> tuple[Any, Any]:
        import cupy

        values, vectors = cupy.linalg.eigh(M)
        return values, vectors

    def orthonormal(self, Q: Any) -> Any:
        import cupy

        return cupy.linalg.qr(Q)[0]

    def class_sums(self, labels: Any, values: Any, c: int) -> Any:
        """Sum a column for each class: `bincount` would add in any order."""
        return (_of_classes(labels, c) * values.reshape(-1, 1)).sum(axis=0, dtype=np.float64)

    def class_products(self, labels: Any, weights: Any, A: Any, c: int) -> Any:
        return (_of_classes(labels, c) * weights.reshape(-1, 1)).T @ A.astype(np.float64)


def _of_classes(labels: Any, c: int) -> Any:
    """Whether each row is of each class, (m, c) bool."""
    import cupy

    return labels.reshape(-1, 1) == cupy.arange(c, dtype=labels.dtype)


def _inverse_factor(M: Any, penalty: Any, jitter: float) -> tuple[Any, Any]:
    """Return R = L^-1 with L L' = M + diag(penalty), and whether there is none, (1,) bool; both on the device.

    cuSOLVER is called without CuPy's function around it, which keeps back whether a factor was found.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas, cusolver
    from cupyx.scipy.linalg import solve_triangular

    d, single = len(M), M.dtype == np.float32
    L, info = M.copy(), cupy.empty(1, dtype=np.int32)
    L.reshape(-1)[:: d + 1] = ((cupy.diagonal(M) + penalty) * (1 + jitter)).astype(M.dtype)
    potrf = cusolver.spotrf if single else cusolver.dpotrf
    buffer_size = cusolver.spotrf_bufferSize if single else cusolver.dpotrf_bufferSize
    handle, triangle = cupy.cuda.device.get_cusolver_handle(), cublas.CUBLAS_FILL_MODE_UPPER
    # cuSOLVER stores matrices by columns: its upper triangle is our lower one
    size = buffer_size(handle, triangle, d, L.data.ptr, d)
    workspace = cupy.empty(size, dtype=M.dtype)
    potrf(handle, triangle, d, L.data.ptr, d, workspace.data.ptr, size, info.data.ptr)
    R = solve_triangular(L, cupy.eye(d, dtype=M.dtype), lower=True, overwrite_b=True)
    # NaN in the matrix does not stop cuSOLVER, and is then in the last row
    return R, (info != 0) | ~cupy.isfinite(R[-1].sum())
