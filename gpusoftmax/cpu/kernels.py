"""Serial Numba kernels that release the GIL: visits of row leaves by register tiles, and the loss of a block of scores.

Features are read through an address and two byte strides, and specialised by the type of a `marker` scalar, so that
read-only, memory-mapped and sliced arrays share one compilation; so do all numbers of classes and models. float16 and
bfloat16, which Numba lacks, come as their bits in uint16 and int16. Kernels are cached on disk (`cache=True`), so they
must stay free of closures over other jitted functions.

Compile options: `contract` and `reassoc` let products fuse and row sums vectorise. Never `fastmath=True`: it makes
the result undefined for the NaN and infinite scores that must come out as a non-finite loss.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload, register_jitable

from gpusoftmax.cpu.tiles import (
    BLOCK,
    FLOATS,
    MACHINE,
    SOFTMAX,
    SQUARED_HINGE,
    V,
    exponential,
    gradient_tiles,
    loss_rows,
    row_sums,
    score_tiles,
)

FAST = {"contract", "reassoc"}
VECTOR, COLUMNS = MACHINE.vector, MACHINE.columns
CHUNK = 8
ALIGNMENT = 64  # bytes: of our buffers, and of the parts of a scratch
PREFETCH = 8 * BLOCK  # from a row's entry in the table of addresses to that of the row to be fetched


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


@intrinsic
def _exp(typing, x):
    """exp(x) for x <= 0, without a branch, so that loops over it become vectors."""

    def emit(context, builder, signature, args):
        return exponential(V(builder, args[0])).value

    return (x(x), emit) if x in FLOATS else None


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


@intrinsic
def _as(typing, number, like):
    """A float64 as the type of `like`."""

    def emit(context, builder, signature, args):
        return context.cast(builder, args[0], types.float64, like)

    return like(types.float64, like), emit


@register_jitable
def _aligned(n_bytes):
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@register_jitable
def scratch_parts(q, K, size, slabs):
    """Where the parts of a scratch begin, in bytes, and its length at the end; `slabs` of features are copied there.

    Row addresses (BLOCK rows, the BLOCK after them, the copies), labels, weights (K, BLOCK), accumulators (BLOCK, q)
    vectors, scores (q, BLOCK), sums of losses and of correct (K, BLOCK) float64 and of db (q, BLOCK), features (BLOCK,
    slabs S).
    """
    at0 = 0
    at1 = at0 + _aligned(3 * BLOCK * 8)
    at2 = at1 + _aligned(4 * BLOCK)
    at3 = at2 + _aligned(K * BLOCK * size)
    at4 = at3 + _aligned(BLOCK * q * VECTOR)
    at5 = at4 + _aligned(q * BLOCK * size)
    at6 = at5 + _aligned(K * BLOCK * 8)
    at7 = at6 + _aligned(K * BLOCK * 8)
    at8 = at7 + _aligned(q * BLOCK * size)
    return at0, at1, at2, at3, at4, at5, at6, at7, at8, at8 + _aligned(BLOCK * slabs * 2 * VECTOR)


@register_jitable
def partial_parts(q, K, size, n_slabs):
    """As scratch_parts, for the sums over a leaf: losses (K), correct (K) float64, db (q), dW (slabs, q, S)."""
    at1 = _aligned(8 * K)
    at2 = at1 + _aligned(8 * K)
    at3 = at2 + _aligned(q * size)
    return 0, at1, at2, at3, at3 + n_slabs * q * 2 * VECTOR


@register_jitable
def direct_slabs(d, n_slabs, lead, contiguous, size):
    """The slabs [first, last) that are read where they are; the others reach beyond the features, or are strided."""
    if not contiguous:
        return 0, 0
    first = 1 if lead else 0
    return first, max(first, (lead + d) // (2 * VECTOR // size))


@register_jitable
def _copy_features(table, copies, column_stride, marker, d, lead, first, last, width, size, out, computed, row_floats):
    """The features of slabs [0, first) and [last, ...) of BLOCK rows, converted, to out (BLOCK, row_floats), which is
    zero elsewhere and stays so; the table `copies` gets the addresses."""
    rows = carray(_pointer(table, np.int64(0)), (BLOCK,))
    places = carray(_pointer(copies, np.int64(0)), (BLOCK,))
    for i in range(BLOCK):
        places[i] = out + i * row_floats * size
        x = carray(_pointer(out, computed), (BLOCK, row_floats))[i]
        head = min(d, max(first * width - lead, 0))  # features before the direct slabs
        tail = min(d, max(last * width - lead, head))  # the first one after them
        shift = lead - (last - first) * width
        if column_stride == 0:
            raw = carray(_pointer(rows[i], marker), (d,))
            for p in range(head):
                x[p + lead] = _feature(raw[p])
            for p in range(tail, d):
                x[p + shift] = _feature(raw[p])
        else:
            for p in range(d):
                x[p] = _feature(carray(_pointer(rows[i] + p * column_stride, marker), (1,))[0])


@register_jitable
def _group(index, q):
    """The first column and the number of columns of a group: all of them nearly equal, and no wider than a tile."""
    n = (q + COLUMNS - 1) // COLUMNS
    base, extra = q // n, q % n
    return index * base + min(index, extra), base + (1 if index < extra else 0)


@register_jitable
def _look_up(address, row_stride, rows, first, m, last, table):
    """Addresses of BLOCK rows from `first`, and of the BLOCK after them; beyond the m-th and the last: repeated."""
    at = carray(_pointer(table, np.int64(0)), (2 * BLOCK,))
    for i in range(2 * BLOCK):
        number = first + min(i, m - 1) if i < BLOCK else min(first + i, last - 1)
        if rows:
            number = carray(_pointer(rows + 8 * number, np.int64(0)), (1,))[0]
        at[i] = address + number * row_stride


@register_jitable
def _add_scores(table, offset, slab, n_slabs, item, q, size, W, acc, fresh, marker, computed):
    """acc += the part of the scores that n_slabs slabs from `slab` on give; `offset`: bytes from a row to the first."""
    width = 2 * VECTOR // size
    for chunk in range(0, n_slabs, CHUNK):
        for index in range((q + COLUMNS - 1) // COLUMNS):
            j, count = _group(index, q)
            score_tiles(
                table, offset + chunk * width * item, W + ((slab + chunk) * q + j) * width * size,
                acc + j * BLOCK * VECTOR, min(CHUNK, n_slabs - chunk), q, count, fresh, marker, computed,
            )  # fmt: skip
        fresh = 0
    return fresh


@register_jitable
def _block_scores(
    table, copies, copied, column_stride, d, n_slabs, lead, size, item, q, W, bias, acc, z, marker, computed
):
    """Scores z (q, BLOCK) of the rows in `table`. Features outside the direct slabs are copied first, to `copied`."""
    width = 2 * VECTOR // size
    first, last = direct_slabs(d, n_slabs, lead, column_stride == 0, size)
    others = n_slabs - (last - first)
    if others:
        _copy_features(
            table, copies, column_stride, marker, d, lead, first, last, width, size, copied, computed, others * width
        )
    fresh = _add_scores(
        table, (first * width - lead) * item, first, last - first, item, q, size, W, acc, 1, marker, computed
    )
    fresh = _add_scores(copies, 0, 0, first, size, q, size, W, acc, fresh, computed, computed)
    _add_scores(copies, first * width * size, last, n_slabs - last, size, q, size, W, acc, fresh, computed, computed)
    b = carray(_pointer(bias, computed), (q,))
    for index in range((q + COLUMNS - 1) // COLUMNS):
        j, count = _group(index, q)
        for k in range(count):
            row_sums(acc + (j * BLOCK + k) * VECTOR, count * VECTOR, b[j + k], z + (j + k) * BLOCK * size, computed)


@register_jitable
def _block_gradient(table, copies, m, column_stride, d, n_slabs, lead, size, item, q, z, dW, fresh, marker, computed):
    """dW += z x over the first m rows of a block whose scores have just been made into gradients."""
    width = 2 * VECTOR // size
    column = width * size
    first, last = direct_slabs(d, n_slabs, lead, column_stride == 0, size)
    for index in range((q + COLUMNS - 1) // COLUMNS):
        j, count = _group(index, q)
        scores, out = z + j * BLOCK * size, dW + j * column
        ahead = PREFETCH if index == 0 else 0
        if last > first:
            gradient_tiles(
                table, (first * width - lead) * item, scores, out + first * q * column,
                m, last - first, q, count, fresh, ahead, marker, computed,
            )  # fmt: skip
        if first > 0:
            gradient_tiles(copies, 0, scores, out, m, first, q, count, fresh, 0, computed, computed)
        if n_slabs > last:
            gradient_tiles(
                copies, first * column, scores, out + last * q * column,
                m, n_slabs - last, q, count, fresh, 0, computed, computed,
            )  # fmt: skip


@register_jitable
def _leaf(
    address, row_stride, column_stride, item, lead, d, n_slabs, q, K, size, loss, rows, labels, weights, last_row,
    start, stop, W, bias, scratch, out, with_gradient, marker, computed,
):  # fmt: skip
    """Sums over the rows [start, stop), in the parts of `out`."""
    c = q // K
    first, last = direct_slabs(d, n_slabs, lead, column_stride == 0, size)
    parts = scratch_parts(q, K, size, n_slabs - (last - first))
    table, label, weight, acc = scratch + parts[0], scratch + parts[1], scratch + parts[2], scratch + parts[3]
    z, copied, copies = scratch + parts[4], scratch + parts[8], scratch + 2 * BLOCK * 8
    losses = carray(_pointer(scratch + parts[5], np.float64(0)), (K, BLOCK))
    correct = carray(_pointer(scratch + parts[6], np.float64(0)), (K, BLOCK))
    db = carray(_pointer(scratch + parts[7], computed), (q, BLOCK))
    losses[:], correct[:], db[:] = 0, 0, 0
    t = carray(_pointer(label, np.int32(0)), (BLOCK,))
    s = carray(_pointer(weight, computed), (K, BLOCK))
    out_parts = partial_parts(q, K, size, n_slabs)
    for row in range(start, stop, BLOCK):
        m = min(BLOCK, stop - row)
        _look_up(address, row_stride, rows, row, m, last_row, table)
        for i in range(BLOCK):
            number = row + min(i, m - 1)
            if rows:
                number = carray(_pointer(rows + 8 * number, np.int64(0)), (1,))[0]
            t[i] = carray(_pointer(labels + 4 * number, np.int32(0)), (1,))[0]
            for k in range(K):
                if i >= m:
                    s[k, i] = 0  # a repeated row
                elif weights:
                    s[k, i] = carray(_pointer(weights + size * (number * K + k), computed), (1,))[0]
                else:
                    s[k, i] = 1
        _block_scores(
            table, copies, copied, column_stride, d, n_slabs, lead, size, item, q, W, bias, acc, z, marker, computed
        )
        for k in range(K):
            loss_rows(
                z + k * c * BLOCK * size, label, weight + k * BLOCK * size, c, loss, losses.ctypes.data + k * BLOCK * 8,
                correct.ctypes.data + k * BLOCK * 8, db.ctypes.data + k * c * BLOCK * size, computed,
            )  # fmt: skip
        if with_gradient:
            fresh = 1 if row == start else 0
            _block_gradient(
                table, copies, m, column_stride, d, n_slabs, lead, size, item, q, z, out + out_parts[3], fresh,
                marker, computed,
            )  # fmt: skip
    sums = carray(_pointer(out, np.float64(0)), (K,))
    hits = carray(_pointer(out + out_parts[1], np.float64(0)), (K,))
    bias_sums = carray(_pointer(out + out_parts[2], computed), (q,))
    for k in range(K):
        sums[k], hits[k] = losses[k].sum(), correct[k].sum()
    for j in range(q):
        bias_sums[j] = db[j].sum()


@register_jitable
def _add_partial(into, other, q, K, size, n_slabs, with_gradient, computed):
    parts = partial_parts(q, K, size, n_slabs)
    for part in (0, 1):
        a, b = into + parts[part], other + parts[part]
        x, y = carray(_pointer(a, np.float64(0)), (K,)), carray(_pointer(b, np.float64(0)), (K,))
        for k in range(K):
            x[k] += y[k]
    n = (parts[4] - parts[3]) // size if with_gradient else 0
    for part, length in ((2, q), (3, n)):
        a, b = into + parts[part], other + parts[part]
        u, v = carray(_pointer(a, computed), (length,)), carray(_pointer(b, computed), (length,))
        for k in range(length):
            u[k] += v[k]


@njit(nogil=True, cache=True)
def visit_leaves(
    address, row_stride, column_stride, item, lead, d, n_slabs, q, K, size, loss, rows, labels, weights, last_row,
    first_leaf, last_leaf, step, W, bias, scratch, partials, nodes, with_gradient, marker, computed,
):  # fmt: skip
    """Sums over the leaves [first_leaf, last_leaf) along the fixed tree (pool.TreeSum), as far as it goes within them.

    X is at `address`, features `column_stride` bytes apart, or 0: side by side. Rows are those of `rows` (an address of
    int64 indices) if it is not 0; there are last_row of them, `step` to a leaf. Each node of the tree that is left is
    in its part of `partials`, in order; its level and index are written to nodes (int64, pairs). Returns their number.
    """
    length = partial_parts(q, K, size, n_slabs)[4]
    places = carray(_pointer(nodes, np.int64(0)), (128,))
    n = 0
    for leaf in range(first_leaf, last_leaf):
        _leaf(
            address, row_stride, column_stride, item, lead, d, n_slabs, q, K, size, loss, rows, labels, weights,
            last_row, leaf * step, min((leaf + 1) * step, last_row), W, bias, scratch, partials + n * length,
            with_gradient, marker, computed,
        )  # fmt: skip
        level, index = 0, leaf
        while n > 0 and places[2 * n - 2] == level and places[2 * n - 1] == index - 1 and index % 2 == 1:
            _add_partial(
                partials + (n - 1) * length, partials + n * length, q, K, size, n_slabs, with_gradient, computed
            )
            n, level, index = n - 1, level + 1, index // 2
        places[2 * n], places[2 * n + 1] = level, index
        n += 1
    return n


@njit(nogil=True, cache=True)
def score_rows(
    address, row_stride, column_stride, item, lead, d, n_slabs, q, size, n, W, bias, scratch, out, marker, computed
):
    """Scores of n rows into out (n, q); a row's bits do not depend on its neighbours."""
    first, last = direct_slabs(d, n_slabs, lead, column_stride == 0, size)
    parts = scratch_parts(q, 1, size, n_slabs - (last - first))
    table, acc, z, copied = scratch + parts[0], scratch + parts[3], scratch + parts[4], scratch + parts[8]
    scores = carray(_pointer(z, computed), (q, BLOCK))
    for row in range(0, n, BLOCK):
        m = min(BLOCK, n - row)
        _look_up(address, row_stride, 0, row, m, n, table)
        _block_scores(
            table, scratch + 2 * BLOCK * 8, copied, column_stride, d, n_slabs, lead, size, item, q, W, bias, acc, z,
            marker, computed,
        )  # fmt: skip
        results = carray(_pointer(out + row * q * size, computed), (m, q))
        for i in range(m):
            for j in range(q):
                results[i, j] = scores[j, i]


@register_jitable
def _fold(W, b, shift, scale, W_folded, b_folded):
    """W' = W / scale and b' = b - shift W': the weights of the features as they are; packed, `scale` inverted.

    In float64: for pixels around 120 the two terms of b' are far larger than their difference.
    """
    n_slabs, q, width = W.shape
    for j in range(q):
        moved = 0.0
        for slab in range(n_slabs):
            w, out, of, by = W[slab, j], W_folded[slab, j], shift[slab], scale[slab]
            for t in range(width):
                out[t] = w[t] * by[t]
                moved += of[t] * np.float64(out[t])
        b_folded[j] = b[j] - moved


@register_jitable
def _descend(W, G, velocity, j, shift, scale, factors, db, share, l2, rate, momentum, nesterov):
    """One step of column j, in place; -> the sum of factors W^2 before it. velocity (0 slabs): none."""
    n_slabs, _, width = W.shape
    has_velocity = len(velocity) > 0
    norm = 0.0
    for slab in range(n_slabs):
        w, g, of, by, r = W[slab, j], G[slab, j], shift[slab], scale[slab], factors[slab]
        if has_velocity:
            v = velocity[slab, j]
            for t in range(width):
                penalised = r[t] * w[t]
                norm += np.float64(penalised) * np.float64(w[t])
                gradient = (g[t] * share - _as(of[t], db) * db) * by[t] + l2 * penalised
                v[t] = momentum * v[t] + gradient
                w[t] -= rate * (gradient + momentum * v[t] if nesterov else v[t])
        else:
            for t in range(width):
                penalised = r[t] * w[t]
                norm += np.float64(penalised) * np.float64(w[t])
                w[t] -= rate * ((g[t] * share - _as(of[t], db) * db) * by[t] + l2 * penalised)
    return norm


@njit(nogil=True, cache=True, fastmath=FAST)
def sgd_steps(
    address, row_stride, column_stride, item, lead, d, n_slabs, q, K, size, loss, rows, labels, weights, last_row,
    starts, n, sums, l2, rates, momentum, nesterov, fit_intercept, penalize_intercept,
    W, b, velocity, velocity_b, shift, scale, factors, W_folded, b_folded, scratch, partial,
    totals, first_values, marker, computed,
):  # fmt: skip
    """Steps of SGD, one after another, each on rows that fit a leaf; see solvers.SGD, which says what a step is.

    Step i visits the rows [starts[i], starts[i + 1]) of `rows`; all rows where that is 0. Weights, velocity, the
    features' shift (float64), inverse scale and the penalty's factors are packed. velocity (0 slabs): no momentum.
    rates (steps, K); momentum, l2, sums of weights (K). totals (3, K): values, losses and accuracies of the steps,
    times their rows, are added up. first_values (K): of the first step.
    """
    c = q // K
    parts = partial_parts(q, K, size, n_slabs)
    losses = carray(_pointer(partial, np.float64(0)), (K,))
    correct = carray(_pointer(partial + parts[1], np.float64(0)), (K,))
    db = carray(_pointer(partial + parts[2], computed), (q,))
    G = carray(_pointer(partial + parts[3], computed), (n_slabs, q, 2 * VECTOR // size))
    has_velocity = len(velocity) > 0
    for step in range(len(rates)):
        start, stop = starts[step], starts[step + 1]
        _fold(W, b, shift, scale, W_folded, b_folded)
        _leaf(
            address, row_stride, column_stride, item, lead, d, n_slabs, q, K, size, loss, rows, labels, weights,
            last_row, start, stop, W_folded.ctypes.data, b_folded.ctypes.data, scratch, partial, True, marker, computed,
        )  # fmt: skip
        for k in range(K):
            share = n / ((stop - start) * sums[k])
            rate, strength, inertia = rates[step, k], l2[k], momentum[k]
            norm = 0.0
            for j in range(k * c, (k + 1) * c):
                slope = db[j] * share
                norm += _descend(
                    W, G, velocity, j, shift, scale, factors, _as(slope, computed), _as(share, computed),
                    _as(strength, computed), rate, inertia, nesterov,
                )  # fmt: skip
                if penalize_intercept:
                    norm += b[j] * b[j]
                    slope += strength * b[j]
                if fit_intercept:
                    if has_velocity:
                        velocity_b[j] = inertia * velocity_b[j] + slope
                        slope = slope + inertia * velocity_b[j] if nesterov else velocity_b[j]
                    b[j] -= rate * slope
            value = losses[k] * share + 0.5 * strength * norm
            if step == 0:
                first_values[k] = value
            totals[0, k] += (stop - start) * value
            totals[1, k] += (stop - start) * losses[k] * share
            totals[2, k] += (stop - start) * correct[k] * share


@njit(nogil=True, cache=True, fastmath=FAST)
def _softmax_row(z, t):
    """Scores z (c,) of one row to the gradient of its loss, in place; -> loss. See reference.row_loss_loops."""
    top = z[0]
    for j in range(1, len(z)):
        top = max(top, z[j])
    z_t = z[t]
    others = z.dtype.type(0)
    for j in range(len(z)):
        z[j] = _exp(z[j] - top)
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
    """Scores to weighted loss gradients, in place, for rows of many classes.

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
