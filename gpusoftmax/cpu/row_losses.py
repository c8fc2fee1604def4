"""The loss and the gradient of single rows of scores, and `row_loss`, which goes through many rows."""

from __future__ import annotations

import math

import numpy as np
from numba.extending import intrinsic, register_jitable

from gpusoftmax.cpu.compiling import compiled
from gpusoftmax.cpu.tiles import SOFTMAX, SQUARED_HINGE, row_maximum, row_powers
from gpusoftmax.cpu.vectors import FLOATS, V, exponential


@intrinsic
def _exp(typing, x):
    """exp(x) for x <= 0, without a branch, so that loops over it are vectorised."""

    def emit(context, builder, signature, args):
        return exponential(V(builder, args[0])).value

    return (x(x), emit) if x in FLOATS else None


@register_jitable
def softmax_row(z, t, s):
    """Replace the scores z (c,) of one row by s times the gradient of its loss; see `reference.row_loss_loops`.

    Returns the loss, and whether the first of the largest scores is the target's.
    """
    zero = z.dtype.type(0)
    address = z.ctypes.data
    top = row_maximum(address, len(z), zero)
    z_t = z[t]
    first = z_t == top
    if first:
        for j in range(t):
            first &= z[j] != top
    z[t] = -np.inf  # excludes it from the sum
    others = row_powers(address, len(z), top, zero)
    e_t = _exp(z_t - top)
    factor = s / (others + e_t)
    for j in range(len(z)):
        z[j] *= factor
    z[t] = -others * factor
    if z_t == top:
        return math.log1p(others) + (z_t - top), first  # the difference is 0, or NaN where both are infinite
    return (top - z_t) + math.log(others + e_t), first


@register_jitable
def hinge_row(z, t, s, squared):
    """Do what `softmax_row` does, for the Weston-Watkins hinge loss or its square."""
    z_t = z[t]
    zero = z.dtype.type(0)
    loss, slope = zero, zero
    first = True
    for j in range(len(z)):
        first &= z[j] <= z_t if j >= t else z[j] < z_t
        margin = z[j] - z_t + 1
        if margin <= 0 or j == t:
            margin = zero
        if squared:
            loss += margin * margin
            margin += margin
        else:
            loss += margin
            margin = 1 if margin > 0 else margin  # a NaN margin stays NaN
        slope += margin
        z[j] = margin * s
    z[t] = -slope * s
    return loss, first


@compiled
def row_loss(Z, labels, weights, loss, losses, correct, source):
    """Replace scores by weighted gradients of the loss, for rows of many classes.

    The scores Z (m, K, c) become s_ik times the gradient of the loss of row i under model k. labels (m,) are int32 in
    [0, c); weights s (m, K), or (0, 0) if all are 1; loss is a code, see losses.py. Adds s_ik * loss to losses (K,)
    and, where the first of the largest scores is the target's, s_ik to correct (K,); both are float64.
    """
    for i in range(Z.shape[0]):
        for k in range(Z.shape[1]):
            s = weights[i, k] if len(weights) else Z.dtype.type(1)
            if loss == SOFTMAX:
                value, first = softmax_row(Z[i, k], labels[i], s)
            else:
                value, first = hinge_row(Z[i, k], labels[i], s, loss == SQUARED_HINGE)
            losses[k] += s * value
            correct[k] += s if first else 0.0
