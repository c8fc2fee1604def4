"""The types of features, and the type in which each of them is computed.

NumPy has no bfloat16. Such features travel as their bits, in uint16; a user's own uint16 is converted to float32 before
(`validation.check_features`), so that below it uint16 always means bfloat16.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax._typing import Array

BFLOAT16 = np.dtype(np.uint16)  # as bits


def computation_dtype(dtype: npt.DTypeLike) -> type[np.floating[Any]]:
    """float64 for float64 features, float32 for everything narrower."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def from_bits(x: Any) -> Any:
    """bfloat16 as float32, exactly; anything else as it is. For arrays of any device."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BFLOAT16 else x


def widen(x: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Features as a C-contiguous array of `dtype`, float32 or float64; not copied where they are one already."""
    return np.ascontiguousarray(from_bits(x), dtype=dtype)


def weights_in_type(weights: Array | None, dtype: npt.DTypeLike) -> tuple[Array | None, float]:
    """Weights of rows in the type of computation, and the power of two by which they were divided.

    It is 1 unless the largest weight is so large or so small that products with it would leave the type's range: a mean
    over weighted rows does not depend on it.
    """
    if weights is None:
        return None, 1.0
    exponent = math.frexp(weights.max())[1] - 1
    unit = 1.0 if abs(exponent) <= np.finfo(dtype).maxexp // 2 else math.ldexp(1.0, exponent)
    return (weights / unit).astype(dtype), unit
