"""The types of features, and the type in which computations with them are done.

NumPy has no bfloat16. Such features are passed around as their bits, in uint16. `checks.arrays.check_features` converts
a user's own uint16 to float32, so that uint16 means bfloat16 everywhere else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax._typing import Array

BFLOAT16 = np.dtype(np.uint16)  # as bits


def computation_dtype(dtype: npt.DTypeLike) -> type[np.floating[Any]]:
    """Return the type to compute in: float64 for float64 features, float32 for all narrower types."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def from_bits(x: Any) -> Any:
    """Convert bfloat16 to float32, exactly; return anything else as it is. Works for arrays on any device."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BFLOAT16 else x


def widen(x: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return features as a C-contiguous array of `dtype`, float32 or float64, copied only if necessary."""
    return np.ascontiguousarray(from_bits(x), dtype=dtype)


def weights_in_type(weights: Array | None, dtype: npt.DTypeLike) -> tuple[Array | None, float]:
    """Return sample weights in the type to compute in, and the power of two by which they were divided.

    The divisor is 1 unless the largest weight is so large or so small that products with it would leave the range of
    the type. A mean over weighted rows does not depend on it.
    """
    if weights is None:
        return None, 1.0
    exponent = math.frexp(weights.max())[1] - 1
    unit = 1.0 if abs(exponent) <= np.finfo(dtype).maxexp // 2 else math.ldexp(1.0, exponent)
    return (weights / unit).astype(dtype), unit
