"""Products with the Hessian of few rows in plain NumPy, for machines without Numba; see newton_kernels.py."""

from __future__ import annotations

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.operations import RowCurvature


def hessian_product(curvature: RowCurvature, v: Array) -> Array:
    """Multiply the Hessian by v (c, q); see `operations.HessianProducts`."""
    x, factors, weights = curvature.x[:, : v.shape[1]], curvature.factors, curvature.weights[:, None]
    U = np.matmul(v.astype(x.dtype), x)
    if curvature.labels is None:
        U -= (factors * U).sum(axis=1, keepdims=True)
        U *= factors
        U *= weights
    else:
        labels = curvature.labels[:, None]
        U -= np.take_along_axis(U, labels, axis=1)
        U *= factors
        U *= 2 * weights
        np.put_along_axis(U, labels, -U.sum(axis=1, keepdims=True), axis=1)
    product: Array = np.matmul(U, x.transpose(0, 2, 1)).sum(axis=0, dtype=np.float64)
    return product
