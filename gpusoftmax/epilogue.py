"""What is done with weights and gradients before and after a pass over the data, in plain array operations.

GPUs and plain NumPy use these functions. For large weights the CPU backend has compiled ones, which read each array
once (`cpu.vector_kernels`). `operations.Operations` says what they compute.
"""

from __future__ import annotations

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.operations import Diagonals
from gpusoftmax.penalties import L2


def fold(W: Array, shift: Array | None, scale: Array | None) -> tuple[Array, Array | None]:
    """See `operations.Operations.fold`."""
    folded = W if scale is None else (W / scale[:, None, None]).astype(W.dtype)
    if shift is None:
        return folded, None
    offset = shift if scale is None else shift / scale
    # in float64: in the scores, x W' and b' nearly cancel each other (think of pixels around 120)
    return folded, (offset @ W.reshape(len(W), -1).astype(np.float64)).reshape(W.shape[1:])


def unfold(dW: Array, db: Array, shift: Array | None, scale: Array | None) -> None:
    """Replace the gradient dW with respect to W' = W / scale by that with respect to W, in place."""
    if shift is not None:
        dW -= shift.astype(dW.dtype)[:, None, None] * db
    if scale is not None:
        dW /= scale.astype(dW.dtype)[:, None, None]


def finish_gradient(
    dW: Array, db: Array, W: Array, row_scale: Array, shift: Array | None, scale: Array | None, penalty: L2,
    T: Array | None,
) -> tuple[Array, Array | None]:  # fmt: skip
    """See `operations.Operations.finish_gradient`."""
    dW *= row_scale[:, None]
    unfold(dW, db, shift, scale)
    b = db[:, :0]  # the penalty of the weights alone
    penalty.add_gradient(W, b, dW, b)
    value = penalty.value(W, b)
    if T is None:
        return value, None
    dW += T
    return value, (T * W).sum(axis=(0, 2))


def pair_products(
    new: tuple[Array, Array, Array], old: tuple[Array, Array, Array], vectors: Array, pair: int
) -> tuple[list[Array], list[Array]]:
    """See `operations.Operations.pair_products`; returns the rows of its results."""
    step, u = vectors[pair : pair + 2]
    step[:] = new[0] - old[0]
    u[:] = new[1] - old[1]
    t = new[2] - old[2]
    return [vectors @ t, vectors @ new[2]], [t @ t, step @ step]


def solve_diagonals(diagonals: Diagonals, v: Array, own: Array, out: Array) -> Array:
    """See `operations.Operations.solve_diagonals`."""
    c = v.shape[1]
    mean = v.sum(axis=1)[:, None] / c
    z = v - mean
    if diagonals.centre is not None:
        z -= diagonals.centre * own
    z *= diagonals.inverse
    out[:] = z - z.sum(axis=1)[:, None] / c + mean * diagonals.mean_inverse
    sums: Array = 0 * own if diagonals.centre is None else (diagonals.centre * z).sum(axis=0)
    return sums
