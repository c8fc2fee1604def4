"""The row loss and the moments of kernels.py in plain NumPy, for machines without Numba and for backend="numpy"."""

from __future__ import annotations

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.dtypes import from_bits

SOFTMAX, HINGE, SQUARED_HINGE = 0, 1, 2  # codes, as in losses.py
COMPILED = False
SOURCE = None  # nothing is cached
CACHE_FLOATS = 1 << 16  # numbers that are worked on at a time: 512 KB, which the second-level cache holds


def row_loss(Z: Array, labels: Array, weights: Array, loss: int, losses: Array, correct: Array, source: None) -> None:
    """Replace scores by weighted gradients of the loss; see `kernels.row_loss`."""
    m, K, c = Z.shape
    z = Z.reshape(m * K, c)
    rows, t = np.arange(m * K), np.repeat(labels, K)
    right = (z.argmax(axis=1) == t).reshape(m, K)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a non-finite loss tells enough
        value = (_softmax_rows(z, t, rows) if loss == SOFTMAX else _hinge_rows(z, t, rows, loss)).reshape(m, K)
        if len(weights):
            Z *= weights[:, :, None]
            losses += (value * weights).sum(axis=0, dtype=np.float64)
            correct += (right * weights).sum(axis=0, dtype=np.float64)
        else:
            losses += value.sum(axis=0, dtype=np.float64)
            correct += right.sum(axis=0)


def add_moments(x: Array, weights: Array, centre: Array, first: Array, second: Array) -> None:
    """Add moments of columns; see `kernels.add_moments`."""
    step = max(8, CACHE_FLOATS // x.shape[1])
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        distances: Array = np.subtract(from_bits(x[part]), centre, order="C")  # BLAS's bits depend on the layout
        first += weights[part] @ distances
        second += weights[part] @ np.square(distances, out=distances)


def _softmax_rows(z: Array, t: Array, rows: Array) -> Array:
    top, z_t = z.max(axis=1), z[rows, t]
    z -= top[:, None]
    np.exp(z, out=z)
    e_t = z[rows, t]
    z[rows, t] = 0  # the target is not in the sum: for a confident model p_y - 1 would lose all digits
    others = z.sum(axis=1)
    q = 1 / (others + e_t)
    z *= q[:, None]
    z[rows, t] = -others * q
    return np.where(z_t == top, np.log1p(others) + (z_t - top), (top - z_t) + np.log(others + e_t))


def _hinge_rows(z: Array, t: Array, rows: Array, loss: int) -> Array:
    z -= (z[rows, t] - 1)[:, None]
    np.maximum(z, 0, out=z)
    z[rows, t] = 0
    if loss == SQUARED_HINGE:
        value: Array = (z * z).sum(axis=1)
        z *= 2
    else:
        value = z.sum(axis=1)
        np.copyto(z, 1, where=z > 0)  # NaN margins stay NaN
    z[rows, t] = -z.sum(axis=1)
    return value
