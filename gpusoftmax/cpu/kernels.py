"""Serial Numba kernels that release the GIL: the loss of a block of scores, and the fused visit of a leaf.

Features are read through an address and two byte strides, and specialised by the type of a `marker` scalar, so that
read-only, memory-mapped and sliced arrays share one compilation. float16 and bfloat16, which Numba lacks, come as
their bits in uint16 and int16. Kernels are cached on disk (`cache=True`), so they must stay free of closures over other
jitted functions.

Compile options: `contract` and `reassoc` let products fuse and row sums vectorise. Never `fastmath=True`: it makes
the result undefined for the NaN and infinite scores that must come out as a non-finite loss.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload, register_jitable

FAST = {"contract", "reassoc"}
ROWS = 4  # rows that share each load of the weights
SOFTMAX, HINGE, SQUARED_HINGE = 0, 1, 2  # the index in reference.LOSSES


@intrinsic
def _pointer(typing, address, marker):
    """The address as a pointer to the type of `marker`."""

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(marker)(types.int64, marker), emit


@intrinsic
def _float_from_bits(typing, bits):
    """The float32 whose bits are the int32 `bits`."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), emit


@register_jitable(inline="always")
def _half_to_float(h):
    """float32 from the bits of a float16: exponent and mantissa moved, then times 2^112, which suits subnormals too."""
    magnitude = np.int32(h & 0x7FFF) << 13
    infinite = 0x7F800000 if magnitude >= (0x7C00 << 13) else 0
    rescaled = _float_from_bits(np.int32(magnitude)) * np.float32(2.0**112)
    special = _float_from_bits(np.int32(magnitude | infinite))
    value = special if infinite else rescaled
    return -value if h & 0x8000 else value


def _feature(raw):
    """One stored feature as a number; known to Numba only."""
    raise NotImplementedError("for compiled code")


@overload(_feature, inline="always")
def _overload_feature(raw):
    if raw == types.uint16:
        return lambda raw: _half_to_float(raw)
    if raw == types.int16:
        return lambda raw: _float_from_bits(np.int32(raw) << 16)
    return lambda raw: raw


@register_jitable
def _fetch(address, row_stride, column_stride, item, marker, row, out):
    """One row of X, converted, into `out` (d,)."""
    at = address + row * row_stride
    d = len(out)
    if column_stride == item:
        features = carray(_pointer(at, marker), (d,))
        for p in range(d):
            out[p] = _feature(features[p])
    else:
        for p in range(d):
            out[p] = _feature(carray(_pointer(at + p * column_stride, marker), (1,))[0])


@njit(nogil=True, cache=True, fastmath=FAST)
def _softmax_row(z, t):
    """Scores z (c,) of one row to the gradient of its loss, in place; -> loss. See reference.row_loss_loops."""
    top = z[0]
    for j in range(1, len(z)):
        top = max(top, z[j])
    z_t = z[t]
    others = z.dtype.type(0)
    for j in range(len(z)):
        z[j] = math.exp(z[j] - top)
    e_t = z[t]
    z[t] = 0
    for j in range(len(z)):
        others += z[j]
    q = 1 / (others + e_t)
    for j in range(len(z)):
        z[j] *= q
    z[t] = -others * q
    if z_t == top:
        return math.log1p(others) + (z_t - top)  # the difference is 0, or NaN where both are infinite
    return (top - z_t) + math.log(others + e_t)


@njit(nogil=True, cache=True, fastmath=FAST)
def _hinge_row(z, t, squared):
    """As _softmax_row, for the Weston-Watkins hinge or its square."""
    z_t = z[t]
    zero = z.dtype.type(0)
    loss, slope = zero, zero
    for j in range(len(z)):
        margin = z[j] - z_t + 1
        if margin <= 0 or j == t:
            margin = zero
        if squared:
            loss += margin * margin
            z[j] = margin + margin
        else:
            loss += margin
            z[j] = 1 if margin > 0 else margin  # a NaN margin stays NaN
        slope += z[j]
    z[t] = -slope
    return loss


@njit(nogil=True, cache=True)
def row_loss(Z, labels, weights, loss, losses, correct):
    """Scores to weighted loss gradients, in place.

    Z (m, K, c) scores -> s_ik * gradient of the loss of row i under model k. labels (m,) int32 in [0, c);
    weights (m, K), or (0, 0) for all ones; loss: index in reference.LOSSES. losses (K,) and correct (K,), float64, are
    increased by s_ik * loss and by s_ik where the largest score is the target's (the first of equals).
    """
    for i in range(Z.shape[0]):
        t = labels[i]
        for k in range(Z.shape[1]):
            z = Z[i, k]
            best = 0
            for j in range(1, len(z)):
                if z[j] > z[best]:
                    best = j
            value = _softmax_row(z, t) if loss == SOFTMAX else _hinge_row(z, t, loss == SQUARED_HINGE)
            if len(weights):
                s = weights[i, k]
                losses[k] += s * value
                correct[k] += s if best == t else 0.0
                for j in range(len(z)):
                    z[j] *= s
            else:
                losses[k] += value
                correct[k] += 1.0 if best == t else 0.0


@njit(nogil=True, cache=True, fastmath=FAST)
def _scores(x, W, b, Z):
    """Z (m, q) = x (m, d) W' + b with W (q, d); m is a multiple of ROWS, so that each row takes the same path."""
    for i in range(0, len(x), ROWS):
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(len(W)):
            w = W[j]
            a0 = a1 = a2 = a3 = W.dtype.type(0)
            for p in range(len(w)):
                a0 += x0[p] * w[p]
                a1 += x1[p] * w[p]
                a2 += x2[p] * w[p]
                a3 += x3[p] * w[p]
            Z[i, j], Z[i + 1, j], Z[i + 2, j], Z[i + 3, j] = a0 + b[j], a1 + b[j], a2 + b[j], a3 + b[j]


@njit(nogil=True, cache=True, fastmath=FAST)
def _accumulate(x, G, dW, db):
    """dW (q, d) += G' x and db (q,) += column sums of G (m, q); m is a multiple of ROWS."""
    for i in range(0, len(x), ROWS):
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(len(dW)):
            out = dW[j]
            g0, g1, g2, g3 = G[i, j], G[i + 1, j], G[i + 2, j], G[i + 3, j]
            db[j] += (g0 + g1) + (g2 + g3)
            for p in range(len(out)):
                out[p] += (g0 * x0[p] + g1 * x1[p]) + (g2 * x2[p] + g3 * x3[p])


@register_jitable
def _fill(address, row_stride, column_stride, item, marker, first, rows, m, x):
    """m rows of X into x, and zero rows up to a multiple of ROWS; -> that multiple."""
    padded = (m + ROWS - 1) // ROWS * ROWS
    for i in range(m):
        row = rows[first + i] if len(rows) else first + i
        _fetch(address, row_stride, column_stride, item, marker, row, x[i])
    x[m:padded] = 0
    return padded


@njit(nogil=True, cache=True)
def leaf_gradient(
    address, row_stride, column_stride, item, marker, start, stop, rows, labels, weights, W, b, K, loss, block,
    losses, correct, dW, db, with_gradient,
):  # fmt: skip
    """One visit of the rows [start, stop) (of `rows`, if it is not empty): scores, loss, gradient, block by block.

    W (K*c, d), b (K*c,) in the type of computation; labels (n,) and weights (n, K) or (0, 0) are those of all rows.
    losses, correct (K,), dW (K*c, d), db (K*c,) are added to. The float copy of a block of rows, some 200 KB, is the
    only one ever made, and it stays in the second-level cache.
    """
    q, d = W.shape
    c = q // K
    x = np.zeros((block, d), W.dtype)
    Z = np.zeros((block, q), W.dtype)
    t = np.zeros(block, np.int32)
    s = np.zeros((block, weights.shape[1]), weights.dtype)
    for first in range(start, stop, block):
        m = min(block, stop - first)
        padded = _fill(address, row_stride, column_stride, item, marker, first, rows, m, x)
        for i in range(m):
            row = rows[first + i] if len(rows) else first + i
            t[i] = labels[row]
            s[i] = weights[row] if len(weights) else s[i]
        _scores(x[:padded], W, b, Z[:padded])
        scale = s[:m] if len(weights) else weights
        row_loss(Z[:m].reshape((m, K, c)), t[:m], scale, loss, losses, correct)
        if with_gradient:
            Z[m:padded] = 0
            _accumulate(x[:padded], Z[:padded], dW, db)


@njit(nogil=True, cache=True)
def leaf_scores(address, row_stride, column_stride, item, marker, start, stop, W, b, block, out):
    """Scores of the rows [start, stop) into out (n, K*c); a row's bits do not depend on its neighbours."""
    q, d = W.shape
    x = np.zeros((block, d), W.dtype)
    Z = np.zeros((block, q), W.dtype)
    rows = np.zeros(0, np.int64)
    for first in range(start, stop, block):
        m = min(block, stop - first)
        padded = _fill(address, row_stride, column_stride, item, marker, first, rows, m, x)
        _scores(x[:padded], W, b, Z[:padded])
        out[first : first + m] = Z[:m]
