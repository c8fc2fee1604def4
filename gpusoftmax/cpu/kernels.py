"""Serial Numba kernels that release the GIL: visits of row leaves by register tiles, and the loss of a block of scores.

Features are read through an address and two byte strides, and specialised by the type of a `marker` scalar, so that
read-only, memory-mapped and sliced arrays share one compilation; so do all numbers of classes and models. float16 and
bfloat16, which Numba lacks, come as their bits in uint16 and int16. Kernels are cached on disk, so they
must stay free of closures over other jitted functions.

Compile options: `contract` and `reassoc` let products fuse and row sums vectorise. Never `fastmath=True`: it makes
the result undefined for the NaN and infinite scores that must come out as a non-finite loss.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core.caching import FunctionCache
from numba.extending import (
    NativeValue,
    intrinsic,
    models,
    overload,
    register_jitable,
    register_model,
    typeof_impl,
    unbox,
)

from gpusoftmax._log import log
from gpusoftmax.cpu.tiles import (
    BLOCK,
    SOFTMAX,
    SQUARED_HINGE,
    fetch_line,
    gradient_tiles,
    loss_rows,
    row_maximum,
    row_powers,
    row_sums,
    score_tiles,
)
from gpusoftmax.cpu.vectors import FLOATS, MACHINE, V, exponential, pointer

FAST = {"contract", "reassoc"}


@cache
def _say_once(text: str) -> None:
    log.warning(text)


def _say_that_none_is_kept() -> None:
    _say_once(
        "compiled kernels cannot be kept, so that each process compiles them anew, for some seconds; set "
        "NUMBA_CACHE_DIR to a folder that can be written to"
    )


class _KernelsOnDisk(FunctionCache):
    """Numba's files of compiled code, whose damage is mended: a full disk or a power cut can leave them cut short.

    Numba would raise an error in this and each later process, until somebody deletes the file.
    """

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # what a damaged pickle raises can be anything
            _say_once(f"compiled kernels in {self.cache_path} are damaged ({error!r}); they are compiled anew")
            with suppress(OSError):  # a full disk still: then they are not kept, which is told below
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _say_once(f"compiled kernels cannot be kept in {self.cache_path} ({error!r}); free some space there")


def _compiled(function):
    """`njit`, kept on disk wherever there is a place for it: beside this file, in the user's cache, NUMBA_CACHE_DIR."""
    dispatcher = njit(nogil=True, fastmath=FAST)(function)
    try:
        dispatcher._cache = _KernelsOnDisk(function)  # as cache=True does with Numba's own
    except RuntimeError:  # package and home are read-only, as in many containers
        _say_that_none_is_kept()
    return dispatcher


class Source:
    """An argument whose type names the text of kernels and tiles, so that Numba's cache on disk tells versions apart.

    The cache looks at this file's date and length alone: after a change of tiles.py it would run the old tiles on new
    scratches, and so it did; and dates in a wheel are all the same.
    """


class _SourceType(types.Opaque):
    def __init__(self):
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        super().__init__(f"Source({digest.hexdigest()[:16]})")


_SOURCE_TYPE = _SourceType()
SOURCE = Source()
register_model(_SourceType)(models.OpaqueModel)


@typeof_impl.register(Source)
def _typeof_source(value, context):
    return _SOURCE_TYPE


@unbox(_SourceType)
def _unbox_source(kind, value, context):
    return NativeValue(context.context.get_dummy_value())


VECTOR, COLUMNS = MACHINE.vector, MACHINE.columns
CHUNK = 8
ALIGNMENT = 64  # bytes: of our buffers, and of the parts of a scratch
# From a row's entry in the table of addresses to that of the row to be fetched. Scores and gradients both ask for the
# same lines: on AVX-512 and AVX2 that was as fast as either alone, or faster; predictions have scores only.
PREFETCH = 8 * BLOCK
# Columns that lie apart are a page each. Beyond the pages whose addresses a processor keeps, asking ahead for scattered
# rows only looks up each page twice (3072 columns of uint8: a third slower).
FETCHED_COLUMNS = 1024


@intrinsic
def _pointer(typing, address, marker):
    """The address as a pointer to the type of `marker`."""

    def emit(context, builder, signature, args):
        return pointer(builder, args[0], context.get_value_type(marker))

    return types.CPointer(marker)(types.int64, marker), emit


@intrinsic
def _peek(typing, address, like):
    """The number of the type of `like` at the address."""

    def emit(context, builder, signature, args):
        return builder.load(pointer(builder, args[0], context.get_value_type(like)))

    return like(types.int64, like), emit


@intrinsic
def _poke(typing, address, value):
    """The number is written to the address."""

    def emit(context, builder, signature, args):
        builder.store(args[1], pointer(builder, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(types.int64, value), emit


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
def direct_slabs(d, contiguous, size):
    """How many slabs, from the first on, are read where they are: full ones, of features that lie side by side."""
    return d // (2 * VECTOR // size) if contiguous else 0


@register_jitable
def _copy_features(table, copies, column_stride, item, marker, d, first, size, out, computed, row_floats):
    """The features from `first` on of BLOCK rows, converted, to out (BLOCK, row_floats), which stays zero elsewhere.

    The table `copies` gets the addresses. Columns that lie apart are fetched for the next rows meanwhile: they are more
    streams than a processor follows by itself (400,000 rows of 41 columns: scores in 30 ms in place of 45).
    """
    rows = carray(_pointer(table, np.int64(0)), (2 * BLOCK,))
    places = carray(_pointer(copies, np.int64(0)), (BLOCK,))
    for i in range(BLOCK):
        places[i] = out + i * row_floats * size
        x = carray(_pointer(out, computed), (BLOCK, row_floats))[i]
        if column_stride == item:
            raw = carray(_pointer(rows[i], marker), (d,))
            for p in range(first, d):
                x[p - first] = _feature(raw[p])
        else:
            for p in range(d):
                x[p] = _feature(_peek(rows[i] + p * column_stride, marker))
                if d <= FETCHED_COLUMNS:
                    fetch_line(rows[BLOCK + i] + p * column_stride)


@register_jitable
def _groups(q):
    """Into how many groups q columns fall, each as wide as a tile at most."""
    return (q + COLUMNS - 1) // COLUMNS


@register_jitable
def _group(index, q):
    """The first column and the number of columns of a group: all of them nearly equal, and no wider than a tile."""
    n = _groups(q)
    base, extra = q // n, q % n
    return index * base + min(index, extra), base + (1 if index < extra else 0)


@register_jitable
def _row(rows, i):
    """The i-th row that is visited: an index from `rows`, or i itself where that is 0."""
    return _peek(rows + 8 * i, np.int64(0)) if rows else i


@register_jitable
def _look_up(address, row_stride, rows, first, m, last, table):
    """Addresses of BLOCK rows from `first`, and of the BLOCK after them; beyond the m-th and the last: repeated."""
    at = carray(_pointer(table, np.int64(0)), (2 * BLOCK,))
    for i in range(2 * BLOCK):
        number = first + min(i, m - 1) if i < BLOCK else min(first + i, last - 1)
        at[i] = address + _row(rows, number) * row_stride


@register_jitable
def _look_up_labels(rows, labels, weights, first, m, K, size, label, weight, computed):
    """Labels (BLOCK,) and weights (K, BLOCK) of the rows of _look_up; 0 for those that are repeated."""
    for i in range(BLOCK):
        number = _row(rows, first + min(i, m - 1))
        _poke(label + 4 * i, _peek(labels + 4 * number, np.int32(0)))
        for k in range(K):
            s = _as(1.0 if i < m else 0.0, computed)
            if weights and i < m:
                s = _peek(weights + size * (number * K + k), computed)
            _poke(weight + size * (k * BLOCK + i), s)


@register_jitable
def _add_scores(table, offset, n_slabs, item, q, size, W, acc, fresh, ahead, marker, computed):
    """acc += the part of the scores that n_slabs slabs give, which begin `offset` bytes after the rows of `table`.

    ahead: from a row's place in the table to that of the row to be fetched meanwhile, or 0.
    """
    width = 2 * VECTOR // size
    for chunk in range(0, n_slabs, CHUNK):
        at, slabs = offset + chunk * width * item, min(CHUNK, n_slabs - chunk)
        for index in range(_groups(q)):
            j, count = _group(index, q)
            score_tiles(
                table, at, W + (chunk * q + j) * width * size, acc + j * BLOCK * VECTOR, slabs, q, count, fresh,
                ahead if index == 0 else 0, marker, computed,
            )  # fmt: skip
        fresh = 0
    return fresh


@register_jitable
def _block_scores(table, copies, copied, column_stride, d, n_slabs, size, item, q, W, bias, acc, z, marker, computed):
    """Scores z (q, BLOCK) of the rows in `table`. Features outside the direct slabs are copied first, to `copied`."""
    width = 2 * VECTOR // size
    direct = direct_slabs(d, column_stride == item, size)
    others = n_slabs - direct
    if others:
        _copy_features(
            table, copies, column_stride, item, marker, d, direct * width, size, copied, computed, others * width
        )
    fresh = _add_scores(table, 0, direct, item, q, size, W, acc, 1, PREFETCH, marker, computed)
    rest = W + direct * q * width * size
    _add_scores(copies, 0, others, size, q, size, rest, acc, fresh, 0, computed, computed)
    b = carray(_pointer(bias, computed), (q,))
    for index in range(_groups(q)):
        j, count = _group(index, q)
        for k in range(count):
            row_sums(acc + (j * BLOCK + k) * VECTOR, count * VECTOR, b[j + k], z + (j + k) * BLOCK * size, computed)


@register_jitable
def _block_gradient(table, copies, m, column_stride, d, n_slabs, size, item, q, z, dW, fresh, marker, computed):
    """dW += z x over the first m rows of a block whose scores have just been made into gradients."""
    column = 2 * VECTOR
    direct = direct_slabs(d, column_stride == item, size)
    for index in range(_groups(q)):
        j, count = _group(index, q)
        scores, out = z + j * BLOCK * size, dW + j * column
        ahead = PREFETCH if index == 0 else 0
        if direct:
            gradient_tiles(table, 0, scores, out, m, direct, q, count, fresh, ahead, marker, computed)
        if n_slabs > direct:
            rest = out + direct * q * column
            gradient_tiles(copies, 0, scores, rest, m, n_slabs - direct, q, count, fresh, 0, computed, computed)


@register_jitable
def _sum(x):
    total = x[0]
    for i in range(1, len(x)):
        total += x[i]
    return total


@register_jitable
def _leaf(
    address, row_stride, column_stride, item, d, n_slabs, q, K, size, loss, rows, labels, weights, last_row,
    start, stop, W, bias, scratch, out, scores, with_gradient, marker, computed,
):  # fmt: skip
    """Sums over the rows [start, stop), in the parts of `out`; or, if `scores` (rows, q) is not 0, scores alone."""
    c = q // K
    parts = scratch_parts(q, K, size, n_slabs - direct_slabs(d, column_stride == item, size))
    table, label, weight, acc = scratch + parts[0], scratch + parts[1], scratch + parts[2], scratch + parts[3]
    z, copied, copies = scratch + parts[4], scratch + parts[8], scratch + 2 * BLOCK * 8
    losses = carray(_pointer(scratch + parts[5], np.float64(0)), (K, BLOCK))
    correct = carray(_pointer(scratch + parts[6], np.float64(0)), (K, BLOCK))
    db = carray(_pointer(scratch + parts[7], computed), (q, BLOCK))
    for i in range(BLOCK):  # loops: a slice that is assigned to takes half a second to compile
        for k in range(K):
            losses[k, i], correct[k, i] = 0, 0
        for j in range(q):
            db[j, i] = 0
    out_parts = partial_parts(q, K, size, n_slabs)
    for row in range(start, stop, BLOCK):
        m = min(BLOCK, stop - row)
        _look_up(address, row_stride, rows, row, m, last_row, table)
        _block_scores(
            table, copies, copied, column_stride, d, n_slabs, size, item, q, W, bias, acc, z, marker, computed
        )
        if scores:
            for i in range(m):
                for j in range(q):
                    _poke(scores + ((row + i) * q + j) * size, _peek(z + (j * BLOCK + i) * size, computed))
            continue
        _look_up_labels(rows, labels, weights, row, m, K, size, label, weight, computed)
        for k in range(K):
            loss_rows(
                z + k * c * BLOCK * size, label, weight + k * BLOCK * size, c, loss, losses.ctypes.data + k * BLOCK * 8,
                correct.ctypes.data + k * BLOCK * 8, db.ctypes.data + k * c * BLOCK * size, computed,
            )  # fmt: skip
        if with_gradient:
            fresh = 1 if row == start else 0
            _block_gradient(
                table, copies, m, column_stride, d, n_slabs, size, item, q, z, out + out_parts[3], fresh,
                marker, computed,
            )  # fmt: skip
    if scores:
        return
    sums = carray(_pointer(out, np.float64(0)), (K,))
    hits = carray(_pointer(out + out_parts[1], np.float64(0)), (K,))
    bias_sums = carray(_pointer(out + out_parts[2], computed), (q,))
    for k in range(K):
        sums[k], hits[k] = _sum(losses[k]), _sum(correct[k])
    for j in range(q):
        bias_sums[j] = _sum(db[j])


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


@register_jitable
def _add_linear(W, G, linear, j, scale, share):
    """The linear term's part of column j: to the sums over rows G, as if they had it; -> its value."""
    value = 0.0
    for slab in range(len(W)):
        w, g, T, by = W[slab, j], G[slab, j], linear[slab, j], scale[slab]
        for t in range(len(w)):
            g[t] += T[t] / share
            value += np.float64(T[t] * by[t]) * np.float64(w[t])
    return value


@register_jitable
def _step(
    W, b, velocity, velocity_b, shift, scale, factors, linear, linear_b, partial, m, n, K, size, sums, l2, rates,
    momentum, nesterov, fit_intercept, penalize_intercept, totals, computed,
):  # fmt: skip
    """One step of SGD with the sums over m of n rows in `partial`; totals: m times values, losses, accuracies more."""
    n_slabs, q, width = W.shape
    c = q // K
    parts = partial_parts(q, K, size, n_slabs)
    losses = carray(_pointer(partial, np.float64(0)), (K,))
    correct = carray(_pointer(partial + parts[1], np.float64(0)), (K,))
    db = carray(_pointer(partial + parts[2], computed), (q,))
    G = carray(_pointer(partial + parts[3], computed), (n_slabs, q, width))
    for k in range(K):
        share = n / (m * sums[k])
        rate, strength, inertia = rates[k], l2[k], momentum[k]
        loss, norm = losses[k] * share, 0.0
        for j in range(k * c, (k + 1) * c):
            slope = db[j] * share
            if len(linear) > 0:
                loss += _add_linear(W, G, linear, j, scale, _as(share, computed)) + linear_b[j] * b[j]
            norm += _descend(
                W, G, velocity, j, shift, scale, factors, _as(slope, computed), _as(share, computed),
                _as(strength, computed), rate, inertia, nesterov,
            )  # fmt: skip
            if len(linear) > 0:
                slope += linear_b[j]
            if penalize_intercept:
                norm += b[j] * b[j]
                slope += strength * b[j]
            if fit_intercept:
                if len(velocity) > 0:
                    velocity_b[j] = inertia * velocity_b[j] + slope
                    slope = slope + inertia * velocity_b[j] if nesterov else velocity_b[j]
                b[j] -= rate * slope
        totals[0, k] += m * (loss + 0.5 * strength * norm)
        totals[1, k] += m * loss
        totals[2, k] += m * correct[k] * share


@_compiled
def visit(
    address, row_stride, column_stride, item, d, n_slabs, q, K, size, loss, rows, labels, weights, bounds,
    first, last, W, b, scratch, partials, nodes, scores, with_gradient,
    n, velocity, velocity_b, shift, scale, factors, linear, linear_b, sums, l2, rates, momentum, nesterov,
    fit_intercept, penalize_intercept, W_folded, b_folded, totals, marker, computed, source,
):  # fmt: skip
    """Visit rows of X, part after part: part i is rows [bounds[i], bounds[i + 1]), `first` <= i < `last`.

    X is at `address`, features of `item` bytes `column_stride` bytes apart. Rows are those of `rows` (an address of
    int64 indices) if it is not 0. W (slabs, q, S) is packed, b (q). One function for all that is done with rows, since
    the tiles in it take seconds to compile:

    * scores (an address, (rows, q)) is not 0: nothing but scores. Returns 0.
    * rates is empty: parts are leaves, summed along the fixed tree (pool.TreeSum) as far as it goes within them. Each
      node that is left is in its part of `partials`, in order; its level and index are written to nodes (int64, pairs).
      Returns their number.
    * rates (steps, K) is not empty: parts are the batches of as many steps of SGD, which change W, b and velocity (0
      slabs: none); see solvers.SGD. There are n rows in all, whose weights add up to sums (K). The features' shift
      (float64), inverse scale and the penalty's factors are packed, and so is the linear term times the scale (0 slabs:
      none), with linear_b (q) float64. momentum, l2 (K). totals (3, K): values, losses
      and accuracies of the steps, times their rows, are added up; totals[:, K:] get those of the first step. Returns 0.
    """
    length = partial_parts(q, K, size, n_slabs)[4]
    stepping = len(rates) > 0
    count = 0
    for part in range(first, last):
        start, stop = bounds[part], bounds[part + 1]
        W_address, b_address = W.ctypes.data, b.ctypes.data
        if stepping:
            _fold(W, b, shift, scale, W_folded, b_folded)
            W_address, b_address = W_folded.ctypes.data, b_folded.ctypes.data
        _leaf(
            address, row_stride, column_stride, item, d, n_slabs, q, K, size, loss, rows, labels, weights,
            bounds[-1], start, stop, W_address, b_address, scratch, partials + count * length, scores, with_gradient,
            marker, computed,
        )  # fmt: skip
        if stepping:
            _step(
                W, b, velocity, velocity_b, shift, scale, factors, linear, linear_b, partials, stop - start, n, K,
                size, sums, l2, rates[part], momentum, nesterov, fit_intercept, penalize_intercept, totals, computed,
            )  # fmt: skip
            if part == first:
                for i in range(3):
                    for k in range(K):
                        totals[i, K + k] = totals[i, k]
        elif not scores:
            level, index = 0, part
            while count > 0 and nodes[count - 1, 0] == level and index % 2 == 1 and nodes[count - 1, 1] == index - 1:
                _add_partial(
                    partials + (count - 1) * length, partials + count * length, q, K, size, n_slabs, with_gradient,
                    computed,
                )  # fmt: skip
                count, level, index = count - 1, level + 1, index // 2
            nodes[count, 0], nodes[count, 1] = level, index
            count += 1
    return count


@register_jitable
def _softmax_row(z, t, s):
    """Scores z (c,) of one row to s times the gradient of its loss, in place; see reference.row_loss_loops.

    Returns the loss, and whether the first largest score is the target's.
    """
    zero = z.dtype.type(0)
    address = z.ctypes.data
    top = row_maximum(address, len(z), zero)
    z_t = z[t]
    first = z_t == top
    if first:
        for j in range(t):
            first &= z[j] != top
    z[t] = -np.inf  # kept apart from the sum
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
def _hinge_row(z, t, s, squared):
    """As _softmax_row, for the Weston-Watkins hinge or its square."""
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


@_compiled
def row_loss(Z, labels, weights, loss, losses, correct, source):
    """Scores to weighted loss gradients, in place, for rows of many classes.

    Z (m, K, c) scores -> s_ik * gradient of the loss of row i under model k. labels (m,) int32 in [0, c);
    weights (m, K), or (0, 0) for all ones; loss: a code, see losses.py. losses (K,) and correct (K,), float64, are
    increased by s_ik * loss and by s_ik where the largest score is the target's (the first of equals).
    """
    for i in range(Z.shape[0]):
        for k in range(Z.shape[1]):
            s = weights[i, k] if len(weights) else Z.dtype.type(1)
            if loss == SOFTMAX:
                value, first = _softmax_row(Z[i, k], labels[i], s)
            else:
                value, first = _hinge_row(Z[i, k], labels[i], s, loss == SQUARED_HINGE)
            losses[k] += s * value
            correct[k] += s if first else 0.0
