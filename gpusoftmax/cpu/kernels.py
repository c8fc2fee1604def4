"""Serial Numba kernels that release the GIL: passes over rows by register tiles.

`write_scores`, `sum_leaves` and `sgd_steps` are Python functions over one compiled function, `pass_over_rows`. Their
arguments are the NamedTuples of arguments.py, which the compiled functions pass on. Three things shaped this:

* The tiles dominate the time to compile. Numba optimises a function's code again in each function that calls it, so
  `pass_over_rows` calls the three functions with tiles directly. With a function for each of the three jobs, and one
  for the sums over a leaf, the tiles were seven functions deep, and the first call took 33 s of processor time instead
  of 20. Inlined by Numba, the same functions took 106 s.
* A call has to be cheap: 64 rows take 0.1 ms in all. Numba recognises NamedTuples slowly: such a call took 10 us,
  against 2 us with 41 positional arguments and 3 us with plain tuples. So plain tuples are passed, and named inside.
* Numba specialises by type. Features are read through an address and two strides in bytes, and the type of a scalar
  says what they are, so that read-only, memory-mapped and sliced arrays share one compilation; so do all numbers of
  classes and models. float16 and bfloat16, which Numba lacks, are given as their bits, in uint16 and int16.

compiling.py has the decorator `compiled`, and says what holds for all kernels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload, register_jitable

from gpusoftmax.cpu.arguments import Layout, Matrix, Model, Output, Parts, Rows, Scratch, Steps, Sums
from gpusoftmax.cpu.compiling import SOURCE, as_type, compiled, peek, pointer_to, poke
from gpusoftmax.cpu.row_losses import row_loss as row_loss
from gpusoftmax.cpu.sparse_kernels import gram_of_columns as gram_of_columns
from gpusoftmax.cpu.sparse_kernels import multiply_rows as multiply_rows
from gpusoftmax.cpu.sparse_kernels import sum_columns as sum_columns
from gpusoftmax.cpu.sparse_sgd import take_sparse_steps as take_sparse_steps
from gpusoftmax.cpu.tiles import (
    BLOCK,
    fetch_line,
    gradient_tiles,
    loss_rows,
    row_sums,
    score_tiles,
)
from gpusoftmax.cpu.vector_kernels import RUN as RUN
from gpusoftmax.cpu.vector_kernels import finish_gradient as finish_gradient
from gpusoftmax.cpu.vector_kernels import fold_weights as fold_weights
from gpusoftmax.cpu.vector_kernels import pair_products as pair_products
from gpusoftmax.cpu.vector_kernels import solve_diagonals as solve_diagonals
from gpusoftmax.cpu.vectors import MACHINE

COMPILED = True  # unlike fallback.py
WRITE_SCORES, SUM_LOSSES, SUM_GRADIENTS, TAKE_STEPS = range(4)  # the jobs of pass_over_rows
VECTOR, COLUMNS = MACHINE.vector, MACHINE.columns
CHUNK = 8  # slabs that are multiplied at a time
ALIGNMENT = 64  # bytes: buffers, and the parts of scratch memory, begin at multiples of this
# Bytes in the table of addresses from a row's entry to that of the row to prefetch. Scores and gradients both prefetch
# the same lines: on AVX-512 and AVX2 that was at least as fast as either alone, and predictions have scores only.
PREFETCH = 8 * BLOCK
# Columns that lie apart are in different pages. With more pages than the processor has address translations for,
# prefetching scattered rows only translates each address twice (3072 columns of uint8: a third slower).
FETCHED_COLUMNS = 1024


@intrinsic
def _float_from_bits(typing, bits):
    """The float32 whose bits are the int32 `bits`."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), emit


@register_jitable(inline="always")
def _half_to_float(h):
    """float32 from the bits of a float16: shift exponent and mantissa, then multiply by 2^112; right for subnormals."""
    magnitude = np.int32(h & 0x7FFF) << 13
    infinite = 0x7F800000 if magnitude >= (0x7C00 << 13) else 0
    rescaled = _float_from_bits(np.int32(magnitude)) * np.float32(2.0**112)
    special = _float_from_bits(np.int32(magnitude | infinite))
    value = special if infinite else rescaled
    return -value if h & 0x8000 else value


def _feature(raw):
    """Convert a stored feature to a number, in compiled code."""
    raise NotImplementedError("only compiled code can call this")


@overload(_feature, inline="always")
def _overload_feature(raw):
    if raw == types.uint16:
        return lambda raw: _half_to_float(raw)
    if raw == types.int16:
        return lambda raw: _float_from_bits(np.int32(raw) << 16)
    return lambda raw: raw


@intrinsic
def _named(typing, values, kind):
    """Convert a plain tuple to the NamedTuple `kind`."""
    named = types.NamedTuple(tuple(values), kind.instance_class)

    def emit(context, builder, signature, args):
        elements = cgutils.unpack_tuple(builder, args[0])
        return impl_ret_borrowed(context, builder, named, context.make_tuple(builder, named, elements))

    return named(values, kind), emit


@register_jitable
def _aligned(n_bytes):
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@register_jitable
def direct_slabs(X, layout):
    """The number of slabs that tiles read directly from X: full ones, from the first on, if features are contiguous."""
    return layout.d // (2 * VECTOR // layout.size) if X.column_stride == X.item_size else 0


@register_jitable
def scratch_at(address, X, layout):
    """The parts of scratch memory that begins at an address."""
    K, q, size = layout.K, layout.q, layout.size
    copies = address + 2 * BLOCK * 8
    labels = address + _aligned(3 * BLOCK * 8)
    weights = labels + _aligned(4 * BLOCK)
    accumulators = weights + _aligned(K * BLOCK * size)
    scores = accumulators + _aligned(BLOCK * q * VECTOR)
    losses = scores + _aligned(q * BLOCK * size)
    correct = losses + _aligned(K * BLOCK * 8)
    db = correct + _aligned(K * BLOCK * 8)
    features = db + _aligned(q * BLOCK * size)
    end = features + _aligned(BLOCK * (layout.n_slabs - direct_slabs(X, layout)) * 2 * VECTOR)
    return Scratch(address, copies, labels, weights, accumulators, scores, losses, correct, db, features, end)


@register_jitable
def sums_at(address, layout):
    """The parts of sums that begin at an address."""
    correct = address + _aligned(8 * layout.K)
    db = correct + _aligned(8 * layout.K)
    dW = db + _aligned(layout.q * layout.size)
    return Sums(address, correct, db, dW, dW + layout.n_slabs * layout.q * 2 * VECTOR)


@register_jitable
def _copy_features(X, layout, scratch, first, row_floats):
    """Convert a block's features, from the one numbered `first` on, to scratch.features (BLOCK, row_floats).

    What lies beyond the last feature stays zero. Columns that lie apart are prefetched for the next block: they are
    more streams than a processor's own prefetcher follows (400,000 rows of 41 columns: scores in 30 ms instead of 45).
    """
    rows = carray(pointer_to(scratch.table, np.int64(0)), (2 * BLOCK,))
    copies = carray(pointer_to(scratch.copies, np.int64(0)), (BLOCK,))
    d, stride, element = layout.d, X.column_stride, X.element
    for i in range(BLOCK):
        copies[i] = scratch.features + i * row_floats * layout.size
        x = carray(pointer_to(scratch.features, layout.zero), (BLOCK, row_floats))[i]
        if stride == X.item_size:
            raw = carray(pointer_to(rows[i], element), (d,))
            for p in range(first, d):
                x[p - first] = _feature(raw[p])
        else:
            for p in range(d):
                x[p] = _feature(peek(rows[i] + p * stride, element))
                if d <= FETCHED_COLUMNS:
                    fetch_line(rows[BLOCK + i] + p * stride)


@register_jitable
def _groups(q):
    """The number of groups into which q columns are divided, each as wide as a tile at most."""
    return (q + COLUMNS - 1) // COLUMNS


@register_jitable
def _group(index, q):
    """The first column and the number of columns of a group. Groups differ by one column at most."""
    n = _groups(q)
    base, extra = q // n, q % n
    return index * base + min(index, extra), base + (1 if index < extra else 0)


@register_jitable
def _row(indices, i):
    """The number in X of the i-th row of a pass."""
    return peek(indices + 8 * i, np.int64(0)) if indices else i


@register_jitable
def _look_up(X, indices, first, m, last, table):
    """Write the addresses of the block of m rows from `first` on, and of the BLOCK rows after it, to the table.

    A block of fewer than BLOCK rows is filled with its last row, and so is the next with the last row of the pass.
    """
    at = carray(pointer_to(table, np.int64(0)), (2 * BLOCK,))
    for i in range(2 * BLOCK):
        number = first + min(i, m - 1) if i < BLOCK else min(first + i, last - 1)
        at[i] = X.address + _row(indices, number) * X.row_stride


@register_jitable
def _look_up_labels(layout, rows, scratch, first, m):
    """Copy labels and weights of the rows that `_look_up` found; the rows that fill a block up have weight 0."""
    K, size, zero = layout.K, layout.size, layout.zero
    for i in range(BLOCK):
        number = _row(rows.indices, first + min(i, m - 1))
        poke(scratch.labels + 4 * i, peek(rows.labels + 4 * number, np.int32(0)))
        for k in range(K):
            s = as_type(1.0 if i < m else 0.0, zero)
            if rows.weights and i < m:
                s = peek(rows.weights + size * (number * K + k), zero)
            poke(scratch.weights + size * (k * BLOCK + i), s)


@register_jitable(inline="always")
def _add_scores(table, n_slabs, item_size, element, layout, W, accumulators, fresh, ahead):
    """Add to the accumulators what n_slabs slabs contribute to the scores of the rows whose addresses are in `table`.

    fresh: 1 if the accumulators start at zero. ahead: bytes in the table from a row's entry to that of the row to
    prefetch, or 0. Returns `fresh` for the slabs that follow.

    Inlined by Numba, because LLVM duplicates it otherwise: 33,000 lines of assembly instead of 27,000.
    """
    q, size = layout.q, layout.size
    width = 2 * VECTOR // size
    for chunk in range(0, n_slabs, CHUNK):
        offset, slabs = chunk * width * item_size, min(CHUNK, n_slabs - chunk)
        for index in range(_groups(q)):
            j, count = _group(index, q)
            score_tiles(
                table, offset, W + (chunk * q + j) * width * size, accumulators + j * BLOCK * VECTOR, slabs, q, count,
                fresh, ahead if index == 0 else 0, element, layout.zero,
            )  # fmt: skip
        fresh = 0
    return fresh


@register_jitable
def _block_scores(X, layout, rows, W, b, scratch, first, m, last):
    """Compute the scores of the block of m rows from `first` on.

    W and b are addresses; `last` is the number of rows of the whole pass.
    """
    _look_up(X, rows.indices, first, m, last, scratch.table)
    q, size, accumulators = layout.q, layout.size, scratch.accumulators
    width = 2 * VECTOR // size
    direct = direct_slabs(X, layout)
    others = layout.n_slabs - direct
    if others:
        _copy_features(X, layout, scratch, direct * width, others * width)
    fresh = _add_scores(scratch.table, direct, X.item_size, X.element, layout, W, accumulators, 1, PREFETCH)
    rest = W + direct * q * width * size
    _add_scores(scratch.copies, others, size, layout.zero, layout, rest, accumulators, fresh, 0)
    intercepts = carray(pointer_to(b, layout.zero), (q,))
    for index in range(_groups(q)):
        j, count = _group(index, q)
        for k in range(count):
            row_sums(
                accumulators + (j * BLOCK + k) * VECTOR, count * VECTOR, intercepts[j + k],
                scratch.scores + (j + k) * BLOCK * size, layout.zero,
            )  # fmt: skip


@register_jitable
def _block_losses(layout, loss, scratch):
    """Replace a block's scores by the gradients of the loss; add to losses, correct and db."""
    K, c, size = layout.K, layout.q // layout.K, layout.size
    for k in range(K):
        loss_rows(
            scratch.scores + k * c * BLOCK * size, scratch.labels, scratch.weights + k * BLOCK * size, c, loss,
            scratch.losses + k * BLOCK * 8, scratch.correct + k * BLOCK * 8, scratch.db + k * c * BLOCK * size,
            layout.zero,
        )  # fmt: skip


@register_jitable
def _block_gradient(X, layout, scratch, m, dW, fresh):
    """Add sum_i g_i x_i over a block's first m rows to dW, or write it there if fresh; g comes from `_block_losses`."""
    q, zero = layout.q, layout.zero
    column = 2 * VECTOR
    direct = direct_slabs(X, layout)
    others = layout.n_slabs - direct
    for index in range(_groups(q)):
        j, count = _group(index, q)
        g, out = scratch.scores + j * BLOCK * layout.size, dW + j * column
        ahead = PREFETCH if index == 0 else 0
        if direct:
            gradient_tiles(scratch.table, 0, g, out, m, direct, q, count, fresh, ahead, X.element, zero)
        if others:
            rest = out + direct * q * column
            gradient_tiles(scratch.copies, 0, g, rest, m, others, q, count, fresh, 0, zero, zero)


@register_jitable
def _sum(x):
    total = x[0]
    for i in range(1, len(x)):
        total += x[i]
    return total


@register_jitable
def _clear_sums(layout, scratch):
    """Set the sums in scratch memory to 0."""
    losses = carray(pointer_to(scratch.losses, np.float64(0)), (layout.K, BLOCK))
    correct = carray(pointer_to(scratch.correct, np.float64(0)), (layout.K, BLOCK))
    db = carray(pointer_to(scratch.db, layout.zero), (layout.q, BLOCK))
    for i in range(BLOCK):  # loops, because an assignment to a slice takes half a second to compile
        for k in range(layout.K):
            losses[k, i], correct[k, i] = 0, 0
        for j in range(layout.q):
            db[j, i] = 0


@register_jitable
def _sum_blocks(layout, scratch, sums):
    """Add up losses, correct and db over the rows of a block, and write them to `sums`."""
    losses = carray(pointer_to(scratch.losses, np.float64(0)), (layout.K, BLOCK))
    correct = carray(pointer_to(scratch.correct, np.float64(0)), (layout.K, BLOCK))
    db = carray(pointer_to(scratch.db, layout.zero), (layout.q, BLOCK))
    loss_sums = carray(pointer_to(sums.losses, np.float64(0)), (layout.K,))
    correct_sums = carray(pointer_to(sums.correct, np.float64(0)), (layout.K,))
    db_sums = carray(pointer_to(sums.db, layout.zero), (layout.q,))
    for k in range(layout.K):
        loss_sums[k], correct_sums[k] = _sum(losses[k]), _sum(correct[k])
    for j in range(layout.q):
        db_sums[j] = _sum(db[j])


@register_jitable
def _write_block(layout, scratch, m, out):
    """Write the scores of a block's m rows to the address `out`, row by row."""
    q, size = layout.q, layout.size
    for i in range(m):
        for j in range(q):
            poke(out + (i * q + j) * size, peek(scratch.scores + (j * BLOCK + i) * size, layout.zero))


@register_jitable
def _add_sums(layout, into, other, with_gradient):
    """Add the sums `other` to the sums `into`."""
    for a, b in ((into.losses, other.losses), (into.correct, other.correct)):
        x, y = carray(pointer_to(a, np.float64(0)), (layout.K,)), carray(pointer_to(b, np.float64(0)), (layout.K,))
        for k in range(layout.K):
            x[k] += y[k]
    n = (into.end - into.dW) // layout.size if with_gradient else 0
    for a, b, length in ((into.db, other.db, layout.q), (into.dW, other.dW, n)):
        u, v = carray(pointer_to(a, layout.zero), (length,)), carray(pointer_to(b, layout.zero), (length,))
        for k in range(length):
            u[k] += v[k]


@register_jitable
def _add_leaf(layout, output, count, leaf, with_gradient):
    """Take the sums of a leaf, behind `count` nodes in output.out, into the tree; return how many nodes there are then.

    While the last node is the right sibling of the one before, the two are added; see `threads.TreeSum`.
    """
    nodes, length = output.nodes, sums_at(0, layout).end
    level, index = 0, leaf
    while count > 0 and nodes[count - 1, 0] == level and index % 2 == 1 and nodes[count - 1, 1] == index - 1:
        left, right = output.out + (count - 1) * length, output.out + count * length
        _add_sums(layout, sums_at(left, layout), sums_at(right, layout), with_gradient)
        count, level, index = count - 1, level + 1, index // 2
    nodes[count, 0], nodes[count, 1] = level, index
    return count + 1


@register_jitable
def _fold(model, steps):
    """Write W' = W / scale and b' = b - shift W', the model for the features as they are stored.

    b' is summed in float64: for pixels around 120 its two terms are far larger than their difference.
    """
    W, b = model.W, model.b
    shift, scale, W_folded, b_folded = steps.shift, steps.inverse_scale, steps.folded_W, steps.folded_b
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
def _descend(W, G, j, steps, db, fraction, strength, rate, momentum):
    """Update column j of W by one step; return the sum of factors W^2 over that column before the step."""
    shift, scale, factors, velocity = steps.shift, steps.inverse_scale, steps.factors, steps.velocity_W
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
                gradient = (g[t] * fraction - as_type(of[t], db) * db) * by[t] + strength * penalised
                v[t] = momentum * v[t] + gradient
                w[t] -= rate * (gradient + momentum * v[t] if steps.nesterov else v[t])
        else:
            for t in range(width):
                penalised = r[t] * w[t]
                norm += np.float64(penalised) * np.float64(w[t])
                w[t] -= rate * ((g[t] * fraction - as_type(of[t], db) * db) * by[t] + strength * penalised)
    return norm


@register_jitable
def _add_linear(W, G, j, steps, fraction):
    """Add the linear term's gradient to column j of the sums G, as if rows contributed it; return the term's value."""
    linear, scale = steps.linear_W, steps.inverse_scale
    value = 0.0
    for slab in range(len(W)):
        w, g, T, by = W[slab, j], G[slab, j], linear[slab, j], scale[slab]
        for t in range(len(w)):
            g[t] += T[t] / fraction
            value += np.float64(T[t] * by[t]) * np.float64(w[t])
    return value


@register_jitable
def _step(model, layout, steps, sums, m, rates):
    """Take one step of SGD with the sums over a batch of m rows, and add to the totals."""
    W, b, velocity_b, totals = model.W, model.b, steps.velocity_b, steps.totals
    K, q, zero = layout.K, layout.q, layout.zero
    c = q // K
    losses = carray(pointer_to(sums.losses, np.float64(0)), (K,))
    correct = carray(pointer_to(sums.correct, np.float64(0)), (K,))
    db = carray(pointer_to(sums.db, zero), (q,))
    G = carray(pointer_to(sums.dW, zero), W.shape)
    has_linear, has_velocity = len(steps.linear_W) > 0, len(steps.velocity_W) > 0
    for k in range(K):
        fraction = steps.n / (m * steps.weight_sums[k])
        rate, strength, momentum = rates[k], steps.strengths[k], steps.momentum[k]
        loss, norm = losses[k] * fraction, 0.0
        for j in range(k * c, (k + 1) * c):
            slope = db[j] * fraction
            if has_linear:
                loss += _add_linear(W, G, j, steps, as_type(fraction, zero)) + steps.linear_b[j] * b[j]
            norm += _descend(
                W, G, j, steps, as_type(slope, zero), as_type(fraction, zero), as_type(strength, zero), rate, momentum
            )
            if has_linear:
                slope += steps.linear_b[j]
            if steps.penalize_intercept:
                norm += b[j] * b[j]
                slope += strength * b[j]
            if steps.fit_intercept:
                if has_velocity:
                    velocity_b[j] = momentum * velocity_b[j] + slope
                    slope = slope + momentum * velocity_b[j] if steps.nesterov else velocity_b[j]
                b[j] -= rate * slope
        totals[0, k] += m * (loss + 0.5 * strength * norm)
        totals[1, k] += m * loss
        totals[2, k] += m * correct[k] * fraction


@compiled
def pass_over_rows(job, X, layout, rows, parts, model, output, steps, source):
    """Do the job of `write_scores`, `sum_leaves` or `sgd_steps`; call those instead.

    Groups of arguments are plain tuples, with the fields of the classes in arguments.py.
    """
    X, layout, rows = _named(X, Matrix), _named(layout, Layout), _named(rows, Rows)
    parts, model = _named(parts, Parts), _named(model, Model)
    output, steps = _named(output, Output), _named(steps, Steps)
    scratch, length = scratch_at(output.scratch, X, layout), sums_at(0, layout).end
    first, last = parts.bounds[parts.first], parts.bounds[-1]
    W, b, count = model.W.ctypes.data, model.b.ctypes.data, 0
    for part in range(parts.first, parts.stop):
        start, stop = parts.bounds[part], parts.bounds[part + 1]
        sums = sums_at(output.out + count * length, layout)
        if job == TAKE_STEPS:
            _fold(model, steps)
            W, b = steps.folded_W.ctypes.data, steps.folded_b.ctypes.data
        if job != WRITE_SCORES:
            _clear_sums(layout, scratch)
        for row in range(start, stop, BLOCK):
            m = min(BLOCK, stop - row)
            _block_scores(X, layout, rows, W, b, scratch, row, m, last)
            if job == WRITE_SCORES:
                _write_block(layout, scratch, m, output.out + (row - first) * layout.q * layout.size)
            else:
                _look_up_labels(layout, rows, scratch, row, m)
                _block_losses(layout, rows.loss, scratch)
                if job != SUM_LOSSES:
                    _block_gradient(X, layout, scratch, m, sums.dW, 1 if row == start else 0)
        if job == WRITE_SCORES:
            continue
        _sum_blocks(layout, scratch, sums)
        if job == TAKE_STEPS:
            _step(model, layout, steps, sums, stop - start, steps.rates[part])
            if part == parts.first:
                for i in range(3):
                    for k in range(layout.K):
                        steps.totals[i, layout.K + k] = steps.totals[i, k]
        else:
            count = _add_leaf(layout, output, count, part, job == SUM_GRADIENTS)
    return count


@cache
def _no_steps(dtype):
    return tuple(Steps.none(dtype))


def _pass(job, X, layout, rows, parts, model, output, steps):
    return pass_over_rows(
        job, tuple(X), tuple(layout), tuple(rows), tuple(parts), tuple(model), tuple(output), steps, SOURCE
    )


def write_scores(X: Matrix, layout: Layout, rows: Rows, parts: Parts, model: Model, output: Output) -> None:
    """Write the scores of the rows of some parts to output.out (rows of these parts, q). Labels are not needed."""
    _pass(WRITE_SCORES, X, layout, rows, parts, model, output, _no_steps(model.b.dtype))


def sum_leaves(
    X: Matrix, layout: Layout, rows: Rows, parts: Parts, model: Model, output: Output, with_gradient: bool
) -> int:
    """Sum over parts, which are leaves, along the tree of `threads.TreeSum` as far as it lies within them.

    Writes the sums of each remaining node to output.out, its level and index to output.nodes, and returns the number of
    these nodes. Without a gradient, dW is not written.
    """
    return _pass(
        SUM_GRADIENTS if with_gradient else SUM_LOSSES, X, layout, rows, parts, model, output, _no_steps(model.b.dtype)
    )


def sgd_steps(X: Matrix, layout: Layout, rows: Rows, parts: Parts, model: Model, output: Output, steps: Steps) -> None:
    """Take one step of SGD for each part, which is a batch; see `solvers.SGD`.

    Updates the model and the velocity in place, and adds to steps.totals. output.out holds one batch's sums meanwhile.
    """
    _pass(TAKE_STEPS, X, layout, rows, parts, model, output, tuple(steps))
