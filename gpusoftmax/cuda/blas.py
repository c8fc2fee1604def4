"""Matrix products with cuBLAS, with a precision for each call instead of CuPy's setting for the whole process."""

from __future__ import annotations

from typing import Any

import numpy as np

PRECISIONS = ("highest", "high", "medium")

_R_32F, _R_64F, _R_16F, _R_16BF = 0, 1, 2, 14  # cudaDataType


def product(
    a: Any, b: Any, out: Any, *, transpose_a: bool = False, beta: float = 0.0, precision: str = "highest",
    scalars: Any = None,
) -> None:  # fmt: skip
    """Compute out = a b + beta out, or out = a' b + beta out, for C-contiguous device arrays.

    out (m, n) is float32 or float64. a and b have the same type as out, or both are float16, or bfloat16, as bits in
    uint16. float32 operands are multiplied as they are ("highest") or rounded to TF32, which has a mantissa of 10 bits
    ("high"). Sums are accumulated in the type of out.

    `scalars` (3,), float32 on the device, has a factor of the product, 0 and 1; beta is then 0 or 1.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas

    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    kinds = {
        np.dtype(np.float32): _R_32F, np.dtype(np.float64): _R_64F, np.dtype(np.float16): _R_16F,
        np.dtype(np.uint16): _R_16BF,
    }  # fmt: skip
    compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if precision == "high" else cublas.CUBLAS_COMPUTE_32F
    compute = cublas.CUBLAS_COMPUTE_64F if out.dtype == np.float64 else compute
    handle = cupy.cuda.device.get_cublas_handle()
    if scalars is None:
        host = np.array([1.0, beta], dtype=out.dtype)
        alpha_at, beta_at = host.ctypes.data, host.ctypes.data + host.itemsize
    else:
        assert beta in (0.0, 1.0)
        alpha_at, beta_at = scalars.data.ptr, scalars.data.ptr + 4 * (1 + int(beta))
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_DEVICE)
    try:
        # cuBLAS is column-major: it sees a row-major (m, n) as its transpose (n, m), so this computes out' = b' a'
        cublas.gemmEx(
            handle,
            cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T if transpose_a else cublas.CUBLAS_OP_N,
            n, m, k,
            alpha_at, b.data.ptr, kinds[b.dtype], n,
            a.data.ptr, kinds[a.dtype], a.shape[1],
            beta_at, out.data.ptr, kinds[out.dtype], n,
            compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
    finally:
        if scalars is not None:
            cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)


def rank_k_product(a: Any, out: Any) -> None:
    """Compute the lower triangle of a'a in out (d, d), C-contiguous; the rest of it stays as it is.

    a (m, d) is C- or Fortran-contiguous and has the type of out, float32 or float64, in which it is multiplied and
    added up.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas

    (m, d), by_rows = a.shape, a.flags.c_contiguous
    if not by_rows and not a.T.flags.c_contiguous:
        a, by_rows = cupy.ascontiguousarray(a), True
    scalars = np.array([1.0, 0.0], dtype=out.dtype)
    multiply = cublas.ssyrk if out.dtype == np.float32 else cublas.dsyrk
    # cuBLAS is column-major: its upper triangle is our lower one, and rows (m, d) are its (d, m)
    multiply(
        cupy.cuda.device.get_cublas_handle(), cublas.CUBLAS_FILL_MODE_UPPER,
        cublas.CUBLAS_OP_N if by_rows else cublas.CUBLAS_OP_T, d, m,
        scalars.ctypes.data, a.data.ptr, d if by_rows else m,
        scalars.ctypes.data + scalars.itemsize, out.data.ptr, d,
    )  # fmt: skip
