"""Matrix products with cuBLAS, with a precision for each call instead of CuPy's setting for the whole process."""

from __future__ import annotations

from typing import Any

import numpy as np

PRECISIONS = ("highest", "high", "medium")

_R_32F, _R_64F, _R_16BF = 0, 1, 14  # cudaDataType


def product(
    a: Any, b: Any, out: Any, *, transpose_a: bool = False, beta: float = 0.0, precision: str = "highest"
) -> None:
    """Compute out = a b + beta out, or out = a' b + beta out, for C-contiguous device arrays.

    out (m, n) is float32 or float64. a and b have the same type as out, or both are bfloat16, as bits in uint16.
    float32 operands are multiplied as they are ("highest") or rounded to TF32, which has a mantissa of 10 bits
    ("high"). Sums are accumulated in the type of out.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas

    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    kinds = {np.dtype(np.float32): _R_32F, np.dtype(np.float64): _R_64F, np.dtype(np.uint16): _R_16BF}
    compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if precision == "high" else cublas.CUBLAS_COMPUTE_32F
    compute = cublas.CUBLAS_COMPUTE_64F if out.dtype == np.float64 else compute
    scalars = np.array([1.0, beta], dtype=out.dtype)
    one, other = scalars.ctypes.data, scalars.ctypes.data + scalars.itemsize
    # cuBLAS is column-major: it sees a row-major (m, n) as its transpose (n, m), so this computes out' = b' a'
    cublas.gemmEx(
        cupy.cuda.device.get_cublas_handle(),
        cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T if transpose_a else cublas.CUBLAS_OP_N,
        n, m, k,
        one, b.data.ptr, kinds[b.dtype], n,
        a.data.ptr, kinds[a.dtype], a.shape[1],
        other, out.data.ptr, kinds[out.dtype], n,
        compute, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
