"""Register tiles: the innermost loops, written as LLVM vector operations.

A register tile is a small block of a matrix product whose sums stay in vector registers. Compilers do not find this
blocking in plain loops, which were 2 to 4 times slower. LLVM translates the same operations to AVX-512, AVX2 or NEON;
only the size of a tile depends on the processor that Numba compiles for (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES apply).

Layouts. A *block* is BLOCK rows. Features are grouped into *slabs* of S features, which fill 2 vectors. W and dW are
packed as (slabs, q, S), with zeros beyond the last feature, so that each is read as one stream without gaps. Scores are
(q, BLOCK), rows side by side: the loss is computed for as many rows at once as a vector holds. Our own buffers start on
a cache line. A user's X is read wherever it starts: vectors that cross a cache line made no measurable difference (21.9
and 22.0 ms for a pass over CIFAR-10), while slabs aligned to cache lines cost 4 ms for the two that are then cut.

    score_tiles      acc[i, j] (a vector)  +=  x_i W_j             over some slabs
    row_sums         z[j, i]                =  b_j + sum acc[i, j]
    loss_rows        z[:, i]               <-  s_i * gradient of the loss of row i; adds to losses, correct, db
    gradient_tiles   dW[:, j]              +=  sum_i z[j, i] x_i    over some slabs

The columns of W are divided into groups, each as wide as a tile at most, and tiles are compiled for the widths that
occur. Each of these functions is compiled by itself (`compiling.emitted`) and called by its address. All pointers are
addresses, too, so that read-only, memory-mapped and sliced arrays share one compilation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpusoftmax._typing import Array
from gpusoftmax.cpu.compiling import emitted
from gpusoftmax.cpu.vectors import (
    FLOATS,
    I1,
    I8,
    I16,
    I32,
    I64,
    MACHINE,
    SIZES,
    V,
    constant,
    exponential,
    like,
    load,
    logarithm,
    logarithm_1p,
    loop,
    pointer,
    splat,
    store,
)

BFLOAT16 = types.uint16  # as bits, see dtypes.py
STORED = {**FLOATS, types.uint8: I8, types.float16: I16, BFLOAT16: I16}  # features in memory
LINE = 64  # bytes of a cache line
BLOCK = 16  # rows that are worked on while they are in the second-level cache
SOFTMAX, HINGE, SQUARED_HINGE = 0, 1, 2  # codes, as in losses.py
# what a row of `column_groups` has: the first column, the number of columns, and addresses of functions for as many
FIRST, COUNT, SCORES, COPIED_SCORES, GRADIENT, COPIED_GRADIENT = range(6)


def fetch(b: Any, address: Any, n_bytes: int) -> None:
    """Prefetch bytes of memory into the second-level cache."""
    function = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
    for line in range(0, n_bytes, LINE):
        b.call(prefetch, [pointer(b, b.add(address, I64(line)), I8), I32(0), I32(2), I32(1)])


def to_number(b: Any, raw: Any, marker: Any, computed: Any) -> Any:
    """Convert features, a number or a vector as they are stored in the type of `marker`, to the type of computation."""
    kind = like(raw.type, FLOATS[computed])
    if marker == computed:
        return raw
    if marker == types.uint8:
        return b.uitofp(raw, kind)
    if marker == types.float16 and MACHINE.halves:
        return b.fpext(b.bitcast(raw, like(kind, ir.HalfType())), kind)
    wide = like(kind, I32)
    bits = b.zext(raw, wide)
    if marker == BFLOAT16:
        return b.bitcast(b.shl(bits, constant(wide, 16)), kind)
    # float16 without the instruction: shift exponent and mantissa, then multiply by 2^112; right for subnormals too
    magnitude = b.shl(b.and_(bits, constant(wide, 0x7FFF)), constant(wide, 13))
    special = b.icmp_signed(">=", magnitude, constant(wide, 0x7C00 << 13))
    infinite = b.bitcast(b.or_(magnitude, constant(wide, 0x7F800000)), kind)
    finite = b.fmul(b.bitcast(magnitude, kind), constant(kind, 2.0**112))
    sign = b.shl(b.and_(bits, constant(wide, 0x8000)), constant(wide, 16))
    return b.bitcast(b.or_(b.bitcast(b.select(special, infinite, finite), wide), sign), kind)


def _features(b: Any, address: Any, marker: Any, computed: Any) -> Any:
    """Load a vector of features, and convert them to the type of computation."""
    raw = load(b, address, ir.VectorType(STORED[marker], MACHINE.vector // SIZES[computed]), SIZES[marker])
    return to_number(b, raw, marker, computed)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return V(b, x).fma(V(b, y), V(b, z)).value


def _start(b: Any, fresh: Any, addresses: list[Any], vector: Any) -> list[Any]:
    """Load the vectors at some addresses, or zeros if `fresh` is not 0."""
    read, after, before = b.append_basic_block("read"), b.append_basic_block("started"), b.block
    b.cbranch(b.icmp_signed("!=", fresh, I64(0)), after, read)
    b.position_at_end(read)
    loaded = [load(b, address, vector, MACHINE.vector) for address in addresses]
    b.branch(after)
    b.position_at_end(after)
    started = []
    for value in loaded:
        phi = b.phi(vector)
        phi.add_incoming(value, read)
        phi.add_incoming(ir.Constant(vector, [0.0] * vector.count), before)
        started.append(phi)
    return started


@emitted
def score_tiles(b, table, offset, W, acc, n_slabs, q, fresh, ahead, *, marker, computed, columns):
    """acc[i, j] += x_i W_j over n_slabs >= 1 slabs, for the BLOCK rows in `table` and a group of columns.

    table: address of the rows' addresses. offset: bytes from a row's address to its first slab. W: address of the first
    column in the first slab of the packed (slabs, q, S). acc: address of vectors (BLOCK, columns). fresh: 1 if acc
    starts at zero. ahead: bytes in the table from a row's entry to that of the row to prefetch, or 0.
    """
    lanes, size, item = MACHINE.vector // SIZES[computed], SIZES[computed], SIZES[marker]
    vector = ir.VectorType(FLOATS[computed], lanes)
    column, slab_bytes, rows = 2 * lanes * size, 2 * lanes * item, MACHINE.rows(columns)

    def group(i: Any, _: list[Any]) -> list[Any]:
        at = b.add(table, b.mul(i, I64(8)))
        entries = [b.add(at, I64(8 * r)) for r in range(rows)]
        x = [b.add(load(b, entry, I64, 8), offset) for entry in entries]
        later = [b.add(load(b, b.add(entry, ahead), I64, 8), offset) for entry in entries]
        first = b.add(acc, b.mul(i, I64(columns * MACHINE.vector)))
        places = [b.add(first, I64((r * columns + j) * MACHINE.vector)) for r in range(rows) for j in range(columns)]

        def slab(s: Any, sums: list[Any]) -> list[Any]:
            w, here = b.add(W, b.mul(s, b.mul(q, I64(column)))), b.mul(s, I64(slab_bytes))
            for row in later:
                fetch(b, b.add(row, here), slab_bytes)
            for t in range(2):
                at = b.add(here, I64(t * lanes * item))
                xs = [_features(b, b.add(x[r], at), marker, computed) for r in range(rows)]
                for j in range(columns):
                    wj = load(b, b.add(w, I64(j * column + t * MACHINE.vector)), vector, MACHINE.vector)
                    for r in range(rows):
                        sums[r * columns + j] = _fma(b, xs[r], wj, sums[r * columns + j])
            return sums

        sums = loop(b, I64(0), n_slabs, 1, _start(b, fresh, places, vector), slab)
        for place, value in zip(places, sums, strict=True):
            store(b, value, place, MACHINE.vector)
        return []

    loop(b, I64(0), I64(BLOCK), rows, [], group)


@emitted
def row_sums(b, acc, count, bias, z, *, computed):
    """z[j, i] = bias_j + the sum of the vector acc[i, j], for a group of `count` columns: a transposition that adds.

    acc: address of vectors (BLOCK, count). bias: address of the group's intercepts. z: that of its scores (count,
    BLOCK).
    """
    lanes, size = MACHINE.vector // SIZES[computed], SIZES[computed]
    vector = ir.VectorType(FLOATS[computed], lanes)
    stride = b.mul(count, I64(MACHINE.vector))

    def column(j: Any, _: list[Any]) -> list[Any]:
        first, out = b.add(acc, b.mul(j, I64(MACHINE.vector))), b.add(z, b.mul(j, I64(BLOCK * size)))
        every = splat(b, load(b, b.add(bias, b.mul(j, I64(size))), FLOATS[computed], size), vector)
        for part in range(0, BLOCK, lanes):
            vectors = [
                load(b, b.add(first, b.mul(stride, I64(i))), vector, MACHINE.vector) for i in range(part, part + lanes)
            ]
            width = 1
            while len(vectors) > 1:  # in each vector, every run of `width` neighbours belongs to one row
                runs = range(0, lanes, 2 * width)
                order = [h + k for base in runs for h in (0, lanes) for k in range(base, base + width)]
                left = ir.Constant(ir.VectorType(I32, lanes), order)
                right = ir.Constant(ir.VectorType(I32, lanes), [k + width for k in order])
                vectors = [
                    b.fadd(b.shuffle_vector(u, v, left), b.shuffle_vector(u, v, right))
                    for u, v in zip(vectors[::2], vectors[1::2], strict=True)
                ]
                width *= 2
            store(b, b.fadd(vectors[0], every), b.add(out, I64(part * size)), size)
        return []

    loop(b, I64(0), count, 1, [], column)


@emitted
def gradient_tiles(b, table, z, dW, n_rows, n_slabs, q, fresh, ahead, *, marker, computed, columns):
    """dW[:, j] += sum_i z[j, i] x_i over n_slabs >= 1 slabs, for n_rows >= 1 rows in `table` and a group of columns.

    z: address of the first column's scores. dW: address of the first column in the first slab. fresh: 1 if dW starts at
    zero. table and ahead are those of score_tiles.
    """
    lanes, size, item = MACHINE.vector // SIZES[computed], SIZES[computed], SIZES[marker]
    vector = ir.VectorType(FLOATS[computed], lanes)
    column, slab_bytes = 2 * lanes * size, 2 * lanes * item

    def slab(s: Any, _: list[Any]) -> list[Any]:
        out = b.add(dW, b.mul(s, b.mul(q, I64(column))))
        places = [b.add(out, I64(j * column + t * MACHINE.vector)) for j in range(columns) for t in range(2)]
        here = b.mul(s, I64(slab_bytes))

        def row(i: Any, sums: list[Any]) -> list[Any]:
            entry = b.add(table, b.mul(i, I64(8)))
            x = b.add(load(b, entry, I64, 8), here)
            later = b.add(load(b, b.add(entry, ahead), I64, 8), here)
            fetch(b, later, slab_bytes)
            xs = [_features(b, b.add(x, I64(t * lanes * item)), marker, computed) for t in range(2)]
            weights = b.add(z, b.mul(i, I64(size)))
            for j in range(columns):
                weight = load(b, b.add(weights, I64(j * BLOCK * size)), FLOATS[computed], size)
                every = splat(b, weight, vector)
                for t in range(2):
                    sums[2 * j + t] = _fma(b, xs[t], every, sums[2 * j + t])
            return sums

        sums = loop(b, I64(0), n_rows, 1, _start(b, fresh, places, vector), row)
        for place, value in zip(places, sums, strict=True):
            store(b, value, place, MACHINE.vector)
        return []

    loop(b, I64(0), n_slabs, 1, [], slab)


@emitted
def loss_rows(b, z, labels, s, c, losses, correct, db, *, computed, loss):
    """Replace the scores z (c, BLOCK) of one model by s_i g_i, where g_i is the gradient of row i's loss.

    labels (BLOCK,) are int32; s (BLOCK,) are weights. Adds s_i loss_i to losses (BLOCK,), s_i to correct (BLOCK,) where
    the first of the largest scores is the label's, and s_i g_i to db (c, BLOCK); losses and correct are float64. loss
    is a code. See `reference.row_loss_loops`.
    """
    lanes, size = MACHINE.vector // SIZES[computed], SIZES[computed]

    element = FLOATS[computed]
    vector, whole = ir.VectorType(element, lanes), ir.VectorType(I32, lanes)
    zero, lowest = V(b, constant(vector, 0.0)), V(b, constant(vector, float("-inf")))

    def place(base: Any, j: Any, part: int) -> Any:
        return b.add(base, b.add(b.mul(j, I64(BLOCK * size)), I64(part * size)))

    def each_column(part: int, carried: list[V], body: Any) -> list[V]:
        """Emit a loop over columns: body(scores, mask of rows with this label, address, column, carried values)."""
        label = load(b, b.add(labels, I64(4 * part)), whole, 4)

        def column(j: Any, values: list[Any]) -> list[Any]:
            target = V(b, b.icmp_signed("==", splat(b, b.trunc(j, I32), whole), label))
            at = place(z, j, part)
            scores = V(b, load(b, at, vector, size))
            return [v.value for v in body(scores, target, at, j, [V(b, value) for value in values])]

        return [V(b, value) for value in loop(b, I64(0), c, 1, [v.value for v in carried], column)]

    def finish(part: int, value: V, right: V, weight: V) -> None:
        for at, x in ((losses, value * weight), (correct, right)):
            for half in range(0, lanes, 8):  # at most 8 doubles at a time
                n = min(8, lanes)
                picked = ir.Constant(ir.VectorType(I32, n), list(range(half, half + n)))
                piece = b.shuffle_vector(x.value, ir.Constant(vector, ir.Undefined), picked)
                wide = ir.VectorType(ir.DoubleType(), n)
                piece = piece if size == 8 else b.fpext(piece, wide)
                place = b.add(at, I64(8 * (part + half)))
                store(b, b.fadd(load(b, place, wide, 8), piece), place, 8)

    def keep(gradient: V, at: Any, j: Any, part: int) -> None:
        store(b, gradient.value, at, size)
        sums = place(db, j, part)
        store(b, b.fadd(load(b, sums, vector, size), gradient.value), sums, size)

    def rows(part: int) -> None:
        weight = V(b, load(b, b.add(s, I64(part * size)), vector, size))

        def look(x: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
            top, z_t, first = carried  # first: 1 where the first of the largest scores so far is the label's
            above = x > top
            return [x.where(above, top), x.where(target, z_t), (zero + 1.0).where(target, 0.0).where(above, first)]

        top, z_t, first = each_column(part, [lowest, lowest, zero], look)
        right = weight * first
        if loss == SOFTMAX:

            def power(x: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                others, e_t = carried
                e = exponential(x - top)
                store(b, e.value, at, size)
                return [others + zero.where(target, e), e.where(target, e_t)]

            others, e_t = each_column(part, [zero, zero], power)
            total = others + e_t
            factor = weight / total
            # z_t - top is 0, or NaN where both are infinite
            value = (logarithm_1p(others) + (z_t - top)).where(z_t.same(top), (top - z_t) + logarithm(total))

            def gradient(e: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                keep((-(others * factor)).where(target, e * factor), at, j, part)
                return []

            each_column(part, [], gradient)
        else:

            def margins(x: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                value, slope = carried
                margin = (x - z_t) + 1.0
                margin = zero.where(target, zero.where(margin < 0.0, margin))  # NaN stays NaN
                if loss == SQUARED_HINGE:
                    value, g = margin.fma(margin, value), margin + margin
                else:
                    value, g = value + margin, (zero + 1.0).where(margin > 0.0, margin)
                store(b, g.value, at, size)
                return [value, slope + g]

            value, slope = each_column(part, [zero, zero], margins)

            def gradient(g: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                keep((-slope).where(target, g) * weight, at, j, part)
                return []

            each_column(part, [], gradient)
        finish(part, value, right, weight)

    for part in range(0, BLOCK, lanes):
        rows(part)


@cache
def column_groups(q: int, marker: Any, computed: Any, direct: bool, copied: bool, gradient: bool) -> Array:
    """The groups into which q columns are divided, with the functions for them, which are compiled if necessary.

    Groups differ by one column at most. direct, copied: whether there are slabs that are read where they are, and that
    are copied; gradient: whether a gradient is computed. Returns int64 (groups, 6), with columns FIRST, COUNT, ...
    """
    n = -(-q // MACHINE.columns)
    counts = [q // n + (g < q % n) for g in range(n)]
    table = np.zeros((n, 6), np.int64)
    table[:, FIRST], table[:, COUNT] = np.cumsum([0, *counts[:-1]]), counts
    for g, columns in enumerate(counts):
        for used, kind, scores, gradients in (
            (direct, marker, SCORES, GRADIENT), (copied, computed, COPIED_SCORES, COPIED_GRADIENT)
        ):  # fmt: skip
            if used:
                table[g, scores] = score_tiles.address(marker=kind, computed=computed, columns=columns)
            if used and gradient:
                table[g, gradients] = gradient_tiles.address(marker=kind, computed=computed, columns=columns)
    return table


def _row_loop(b: Any, z: Any, c: Any, element: Any, carried: V, body: Any) -> V:
    """Emit a loop over a row of c numbers, a vector at a time: body(scores, carried) -> new scores, carried.

    Scores beyond the row are -inf, and are not written. None for new scores leaves them as they are.
    """
    lanes = carried.value.type.count
    vector, size = carried.value.type, 4 if element == ir.FloatType() else 8
    masks, whole = ir.VectorType(I1, lanes), ir.VectorType(I64, lanes)
    suffix = f"v{lanes}f{8 * size}.p0"
    masked_load = ir.FunctionType(vector, [vector.as_pointer(), I32, masks, vector])
    masked_store = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), I32, masks])
    masked_load = cgutils.get_or_insert_function(b.module, masked_load, f"llvm.masked.load.{suffix}")
    masked_store = cgutils.get_or_insert_function(b.module, masked_store, f"llvm.masked.store.{suffix}")
    numbers = ir.Constant(whole, list(range(lanes)))
    lowest = constant(vector, float("-inf"))

    def step(j: Any, values: list[Any]) -> list[Any]:
        place = pointer(b, b.add(z, b.mul(j, I64(size))), vector)
        mask = b.icmp_signed("<", numbers, splat(b, b.sub(c, j), whole))
        x = b.call(masked_load, [place, I32(size), mask, lowest])
        replaced, new = body(V(b, x), V(b, values[0]))
        if replaced is not None:
            b.call(masked_store, [replaced.value, place, I32(size), mask])
        return [new.value]

    return V(b, loop(b, I64(0), c, lanes, [carried.value], step)[0])


def _reduced(b: Any, name: str, x: V, *start: Any) -> Any:
    """Call llvm.vector.reduce.<name>, whose order depends only on the vector's length."""
    kind = x.value.type
    suffix = f"v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}"
    function = ir.FunctionType(kind.element, [*(kind.element for _ in start), kind])
    found = cgutils.get_or_insert_function(b.module, function, f"llvm.vector.reduce.{name}.{suffix}")
    return b.call(found, [*start, x.value], fastmath=("reassoc",) if start else ())


@intrinsic
def row_maximum(typing, z, c, computed):
    """The largest of the c scores at the address z; NaN is ignored."""
    element, lanes = FLOATS[computed], MACHINE.vector // SIZES[computed]

    def emit(context, b, signature, args):
        lowest = V(b, constant(ir.VectorType(element, lanes), float("-inf")))
        top = _row_loop(b, args[0], args[1], element, lowest, lambda x, top: (None, x.where(x > top, top)))
        return _reduced(b, "fmax", top)

    return computed(types.int64, types.int64, computed), emit


@intrinsic
def row_powers(typing, z, c, top, computed):
    """Replace the c scores at the address z by exp(z - top); return their sum."""
    element, lanes = FLOATS[computed], MACHINE.vector // SIZES[computed]

    def emit(context, b, signature, args):
        vector = ir.VectorType(element, lanes)
        every = V(b, splat(b, args[2], vector))

        def powers(x: V, total: V) -> tuple[V, V]:
            e = exponential(x - every)
            return e, total + e

        total = _row_loop(b, args[0], args[1], element, V(b, constant(vector, 0.0)), powers)
        return _reduced(b, "fadd", total, ir.Constant(element, 0.0))

    return computed(types.int64, types.int64, computed, computed), emit
