"""Newton systems in plain NumPy, for machines without Numba; newton_kernels.py has the compiled form."""

from __future__ import annotations

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.operations import NewtonSystem

NO_LABELS = np.empty((0, 0), np.int32)


def hessian_product(system: NewtonSystem, v: Array) -> Array:
    """Compute H v for v (c, q)."""
    x, factors = system.x[:, : v.shape[1]], system.factors
    U = np.matmul(v.astype(x.dtype), x)
    if system.labels is None:
        U -= (factors * U).sum(axis=1, keepdims=True)
        U *= factors
        U *= system.weights[:, None]
    else:
        labels = system.labels[:, None]
        U -= np.take_along_axis(U, labels, axis=1)
        U *= factors
        U *= 2 * system.weights[:, None]
        np.put_along_axis(U, labels, -U.sum(axis=1, keepdims=True), axis=1)
    product: Array = np.matmul(U, x.transpose(0, 2, 1)).sum(axis=0, dtype=np.float64) + system.penalty * v
    return product


def precondition(system: NewtonSystem, v: Array) -> Array:
    """Compute M^-1 v for v (c, q)."""
    mean = v.mean(axis=0)
    solution = np.matmul(system.inverses, (v - mean)[:, :, None])[:, :, 0]
    found: Array = solution - solution.mean(axis=0) + mean * system.mean_inverse
    return found


def conjugate_gradients(system: NewtonSystem, g: Array, eta: float, most: int) -> tuple[Array, int]:
    """Solve H p = g; see `operations.NewtonSystems`."""
    p, r, v = np.zeros_like(g), g.copy(), precondition(system, g)
    size = float(np.vdot(g, v))
    goal = eta**2 * size
    for products in range(1, most + 1):
        Hv = hessian_product(system, v)
        curvature = float(np.vdot(v, Hv))
        if not curvature > 0:  # only rounding errors are left
            return p, products
        a = size / curvature
        p += a * v
        r -= a * Hv
        z = precondition(system, r)
        before, size = size, float(np.vdot(r, z))
        if size <= goal:
            return p, products
        v = z + (size / before) * v
    return p, most
