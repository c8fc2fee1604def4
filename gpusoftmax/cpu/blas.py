"""Matrix products by SciPy's BLAS, for what NumPy's `@` cannot do: write to a part of an array, or add to it."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from gpusoftmax._typing import Array


@cache
def _gemm(name: str) -> Any:
    """sgemm or dgemm, as SciPy exports it to compiled code; the call releases the GIL."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(get_pointer(capsule, get_name(capsule)))


def product(a: Array, b: Array, out: Array, *, transpose_a: bool = False, beta: float = 0.0) -> None:
    """out = a b + beta out, or a' b + beta out.

    Arrays have one type, and contiguous rows, with or without gaps between them. With beta = 0 `out` may hold anything.
    `cuda.blas.product` is its counterpart on GPUs.
    """
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    number = ctypes.c_float if out.dtype == np.float32 else ctypes.c_double
    size = out.itemsize
    whole = [
        ctypes.byref(ctypes.c_int(x)) for x in (n, m, k, *(max(x.strides[0] // size, x.shape[1]) for x in (b, a, out)))
    ]
    # BLAS is column-major and takes a row-major (m, n) for (n, m), so this is out' = b' a'
    _gemm("sgemm" if number is ctypes.c_float else "dgemm")(
        b"N", b"T" if transpose_a else b"N", *whole[:3], ctypes.byref(number(1.0)),
        b.ctypes.data, whole[3], a.ctypes.data, whole[4], ctypes.byref(number(beta)), out.ctypes.data, whole[5],
    )  # fmt: skip
