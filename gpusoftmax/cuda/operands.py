"""The operands of products with features: in which type they are multiplied, and in how many terms of it.

A tensor core multiplies 16-bit numbers exactly and adds in float32, at many times the speed of float32 products. So
features that have 16 bits or fewer stay so, and weights and gradients, which have 24, become a sum of two or three
numbers of 16 bits, with a product for each:

    X W = scale (X T_1 + X T_2 [+ X T_3])

float16 and uint8 are exact in float16, of which two terms have 22 bits; bfloat16 takes three terms of 8 bits. See
kernels/split.cu for the terms, and Ootomo and Yokota, arXiv:2203.03341, for the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax.cuda.blas import product
from gpusoftmax.cuda.chunks import converted
from gpusoftmax.cuda.compile import KINDS, NOTHING, kernel
from gpusoftmax.dtypes import BFLOAT16, computation_dtype

THREADS = 256  # of split.cu


@dataclass(frozen=True)
class Operands:
    """How features of a type are multiplied.

    Attributes
    ----------
    type : dtype
        In which the features are multiplied, and the terms of what they are multiplied with.
    terms : int
        How many of them there are; one is the rounded number itself.
    computed : dtype
        The type of weights, gradients and sums.
    precision : str
        The precision of float32 products; see `blas.product`.
    """

    type: np.dtype[Any]
    terms: int
    computed: np.dtype[Any]
    precision: str

    @property
    def splits(self) -> bool:
        """Whether an operand is more than its conversion."""
        return self.terms > 1

    def of(self, x: Any) -> Terms:
        """Return weights or gradients (m, q), contiguous and of type `computed`, as terms."""
        if self.splits:
            return _split(x, self.type, self.terms)
        return Terms([converted(x, None, 0, len(x), self.type)], None)

    def bytes_of(self, n: int) -> int:
        """Return the bytes that `of` allocates for n numbers."""
        return 0 if self.type == self.computed else n * self.terms * self.type.itemsize

    def multiply(self, x: Any, terms: Terms, out: Any, *, transpose: bool = False, beta: float = 0.0) -> None:
        """Compute out = x T + beta out, or out = x' T + beta out; beta is 0 or 1, x of type `type`."""
        for number, term in enumerate(terms.arrays):
            product(
                x, term, out, transpose_a=transpose, beta=1.0 if number else beta, precision=self.precision,
                scalars=terms.scalars,
            )  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """A matrix as a sum: scale (arrays[0] + arrays[1] + ...).

    Attributes
    ----------
    arrays : list of ndarray, (m, q)
        The terms.
    scalars : ndarray of float32, (3,), or None
        scale, 0 and 1 on the device; None: scale is 1.
    """

    arrays: list[Any]
    scalars: Any


def operands(dtype: Any, precision: str) -> Operands:
    """Return how features of `dtype` are multiplied under `precision`; see `CudaOperations`."""
    dtype, computed = np.dtype(dtype), np.dtype(computation_dtype(dtype))
    if dtype == np.float64:
        return Operands(dtype, 1, computed, precision)
    if precision == "medium":
        return Operands(BFLOAT16, 1, computed, precision)
    if precision == "highest" and dtype == BFLOAT16:
        return Operands(BFLOAT16, 3, computed, precision)
    if precision == "highest" and dtype in (np.float16, np.uint8):
        return Operands(np.dtype(np.float16), 2, computed, precision)
    return Operands(np.dtype(np.float32), 1, computed, precision)


def _split(x: Any, target: np.dtype[Any], terms: int) -> Terms:
    import cupy

    n = x.size
    out, scalars, largest = cupy.empty((terms, *x.shape), dtype=target), cupy.empty(3, dtype=np.float32), NOTHING
    width = 4 if n % 4 == 0 and x.data.ptr % 16 == 0 else 1
    macros = {"TARGET": KINDS[target], "TERMS": terms, "WIDTH": width}
    if target == np.float16:
        largest = cupy.zeros(1, dtype=np.uint32)
        kernel("split.cu", "largest", **macros)((-(-n // (4 * THREADS)),), (THREADS,), (x, np.int64(n), largest))
    split = kernel("split.cu", "split", **macros)
    split((-(-n // (width * THREADS)),), (THREADS,), (x, np.int64(n), largest, out, scalars))
    return Terms([out[term] for term in range(terms)], scalars)
