"""Register tiles: the innermost loops, written as LLVM vector operations by Numba intrinsics.

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

All pointers are addresses (int64), so that read-only, memory-mapped and sliced arrays share one compilation.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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
    load,
    logarithm,
    logarithm_1p,
    loop,
    outlined,
    pointer,
    splat,
    store,
)

LINE = 64  # bytes of a cache line
BLOCK = 16  # rows that are worked on while they are in the second-level cache
SOFTMAX, HINGE, SQUARED_HINGE = 0, 1, 2  # codes, as in losses.py


def _fetch(b: Any, address: Any, n_bytes: int) -> None:
    """Prefetch bytes of memory into the second-level cache."""
    function = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
    for line in range(0, n_bytes, LINE):
        b.call(prefetch, [pointer(b, b.add(address, I64(line)), I8), I32(0), I32(2), I32(1)])


@intrinsic
def fetch_line(typing, address):
    """Prefetch the cache line that contains `address` into the second-level cache."""

    def emit(context, b, signature, args):
        _fetch(b, args[0], 1)
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _features(b: Any, address: Any, marker: Any, computed: Any) -> Any:
    """Load a vector of features, stored in the type of `marker`, and convert it to the type of computation."""
    lanes = MACHINE.vector // SIZES[computed]
    vector = ir.VectorType(FLOATS[computed], lanes)
    if marker == computed:
        return load(b, address, vector, SIZES[marker])
    if marker == types.uint8:
        return b.uitofp(load(b, address, ir.VectorType(I8, lanes), 1), vector)
    raw = load(b, address, ir.VectorType(I16, lanes), 2)
    if marker == types.uint16 and MACHINE.halves:  # float16
        return b.fpext(b.bitcast(raw, ir.VectorType(ir.HalfType(), lanes)), vector)
    wide = ir.VectorType(I32, lanes)
    bits = b.zext(raw, wide)
    if marker == types.int16:  # bfloat16
        return b.bitcast(b.shl(bits, constant(wide, 16)), vector)
    # float16 without the instruction: shift exponent and mantissa, then multiply by 2^112; right for subnormals too
    magnitude = b.shl(b.and_(bits, constant(wide, 0x7FFF)), constant(wide, 13))
    special = b.icmp_signed(">=", magnitude, constant(wide, 0x7C00 << 13))
    infinite = b.bitcast(b.or_(magnitude, constant(wide, 0x7F800000)), vector)
    finite = b.fmul(b.bitcast(magnitude, vector), ir.Constant(vector, [2.0**112] * lanes))
    sign = b.shl(b.and_(bits, constant(wide, 0x8000)), constant(wide, 16))
    return b.bitcast(b.or_(b.bitcast(b.select(special, infinite, finite), wide), sign), vector)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return V(b, x).fma(V(b, y), V(b, z)).value


def _for_each_count(b: Any, count: Any, emit: Any) -> None:
    """Emit a switch over the number of columns of a tile, with a case for each: `emit(1)`, `emit(2)`, ..."""
    end = b.append_basic_block("end")
    switch = b.switch(count, end)
    for n in range(1, MACHINE.columns + 1):
        case = b.append_basic_block(f"columns{n}")
        switch.add_case(I64(n), case)
        b.position_at_end(case)
        emit(n)
        b.branch(end)
    b.position_at_end(end)


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


@intrinsic
def score_tiles(typing, table, offset, W, acc, n_slabs, q, count, fresh, ahead, marker, computed):
    """acc[i, j] += x_i W_j over n_slabs >= 1 slabs, for the BLOCK rows in `table` and `count` columns.

    table: address of the rows' addresses. offset: bytes from a row's address to its first slab. W: address of the first
    column in the first slab of the packed (slabs, q, S). acc: address of vectors (BLOCK, count). fresh: 1 if acc starts
    at zero. ahead: bytes in the table from a row's entry to that of the row to prefetch, or 0.
    """
    lanes, size, item = MACHINE.vector // SIZES[computed], SIZES[computed], SIZES[marker]

    def body(b, args):
        table, offset, W, acc, n_slabs, q, count, fresh, ahead = args
        vector = ir.VectorType(FLOATS[computed], lanes)
        column, slab_bytes = 2 * lanes * size, 2 * lanes * item

        def tile(n: int) -> None:
            rows = MACHINE.rows(n)

            def group(i: Any, _: list[Any]) -> list[Any]:
                at = b.add(table, b.mul(i, I64(8)))
                entries = [b.add(at, I64(8 * r)) for r in range(rows)]
                x = [b.add(load(b, entry, I64, 8), offset) for entry in entries]
                later = [b.add(load(b, b.add(entry, ahead), I64, 8), offset) for entry in entries]
                first = b.add(acc, b.mul(i, I64(n * MACHINE.vector)))
                places = [b.add(first, I64((r * n + j) * MACHINE.vector)) for r in range(rows) for j in range(n)]

                def slab(s: Any, sums: list[Any]) -> list[Any]:
                    w, here = b.add(W, b.mul(s, b.mul(q, I64(column)))), b.mul(s, I64(slab_bytes))
                    for row in later:
                        _fetch(b, b.add(row, here), slab_bytes)
                    for t in range(2):
                        at = b.add(here, I64(t * lanes * item))
                        xs = [_features(b, b.add(x[r], at), marker, computed) for r in range(rows)]
                        for j in range(n):
                            wj = load(b, b.add(w, I64(j * column + t * MACHINE.vector)), vector, MACHINE.vector)
                            for r in range(rows):
                                sums[r * n + j] = _fma(b, xs[r], wj, sums[r * n + j])
                    return sums

                sums = loop(b, I64(0), n_slabs, 1, _start(b, fresh, places, vector), slab)
                for place, value in zip(places, sums, strict=True):
                    store(b, value, place, MACHINE.vector)
                return []

            loop(b, I64(0), I64(BLOCK), rows, [], group)

        _for_each_count(b, count, tile)

    def emit(context, b, signature, args):
        outlined(f"score_tiles_{marker}_{computed}", b, args[:9], body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, marker, computed), emit


@intrinsic
def row_sums(typing, acc, stride, bias, z, computed):
    """z[i] = bias + the sum of the vector at acc + i stride, for i < BLOCK: a transposition that adds as it goes."""
    lanes, size = MACHINE.vector // SIZES[computed], SIZES[computed]

    def emit(context, b, signature, args):
        acc, stride, bias, z = args[:4]
        vector = ir.VectorType(FLOATS[computed], lanes)
        every = splat(b, bias, vector)
        for part in range(0, BLOCK, lanes):
            vectors = [
                load(b, b.add(acc, b.mul(stride, I64(i))), vector, MACHINE.vector) for i in range(part, part + lanes)
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
            store(b, b.fadd(vectors[0], every), b.add(z, I64(part * size)), size)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, computed, types.int64, computed), emit


@intrinsic
def gradient_tiles(typing, table, offset, z, dW, n_rows, n_slabs, q, count, fresh, ahead, marker, computed):
    """dW[:, j] += sum_i z[j, i] x_i over n_slabs slabs, for n_rows >= 1 rows in `table` and `count` columns.

    z: address of the first column's scores. dW: address of the first column in the first slab. fresh: 1 if dW starts at
    zero. table, offset and ahead are those of score_tiles.
    """
    lanes, size, item = MACHINE.vector // SIZES[computed], SIZES[computed], SIZES[marker]

    def body(b, args):
        table, offset, z, dW, n_rows, n_slabs, q, count, fresh, ahead = args
        vector = ir.VectorType(FLOATS[computed], lanes)
        column, slab_bytes = 2 * lanes * size, 2 * lanes * item

        def tile(n: int) -> None:
            def slab(s: Any, _: list[Any]) -> list[Any]:
                out = b.add(dW, b.mul(s, b.mul(q, I64(column))))
                places = [b.add(out, I64(j * column + t * MACHINE.vector)) for j in range(n) for t in range(2)]
                here = b.add(offset, b.mul(s, I64(slab_bytes)))

                def row(i: Any, sums: list[Any]) -> list[Any]:
                    entry = b.add(table, b.mul(i, I64(8)))
                    x = b.add(load(b, entry, I64, 8), here)
                    later = b.add(load(b, b.add(entry, ahead), I64, 8), here)
                    _fetch(b, later, slab_bytes)
                    xs = [_features(b, b.add(x, I64(t * lanes * item)), marker, computed) for t in range(2)]
                    weights = b.add(z, b.mul(i, I64(size)))
                    for j in range(n):
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

        _for_each_count(b, count, tile)

    def emit(context, b, signature, args):
        outlined(f"gradient_tiles_{marker}_{computed}", b, args[:10], body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, marker, computed), emit


@intrinsic
def loss_rows(typing, z, labels, s, c, loss, losses, correct, db, computed):
    """Replace the scores z (c, BLOCK) of one model by s_i g_i, where g_i is the gradient of row i's loss.

    labels (BLOCK,) are int32; s (BLOCK,) are weights. Adds s_i loss_i to losses (BLOCK,), s_i to correct (BLOCK,) where
    the first of the largest scores is the label's, and s_i g_i to db (c, BLOCK); losses and correct are float64. See
    `reference.row_loss_loops`.
    """
    lanes, size = MACHINE.vector // SIZES[computed], SIZES[computed]

    def body(b, args):
        z, labels, s, c, loss, losses, correct, db = args
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

        def rows(part: int, kind: int) -> None:
            weight = V(b, load(b, b.add(s, I64(part * size)), vector, size))

            def look(x: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                top, z_t, first = carried  # first: 1 where the first of the largest scores so far is the label's
                above = x > top
                return [x.where(above, top), x.where(target, z_t), (zero + 1.0).where(target, 0.0).where(above, first)]

            top, z_t, first = each_column(part, [lowest, lowest, zero], look)
            right = weight * first
            if kind == SOFTMAX:

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
                    loss, slope = carried
                    margin = (x - z_t) + 1.0
                    margin = zero.where(target, zero.where(margin < 0.0, margin))  # NaN stays NaN
                    if kind == SQUARED_HINGE:
                        loss, g = margin.fma(margin, loss), margin + margin
                    else:
                        loss, g = loss + margin, (zero + 1.0).where(margin > 0.0, margin)
                    store(b, g.value, at, size)
                    return [loss, slope + g]

                value, slope = each_column(part, [zero, zero], margins)

                def gradient(g: V, target: V, at: Any, j: Any, carried: list[V]) -> list[V]:
                    keep((-slope).where(target, g) * weight, at, j, part)
                    return []

                each_column(part, [], gradient)
            finish(part, value, right, weight)

        end = b.append_basic_block("end")
        switch = b.switch(loss, end)
        for kind in (SOFTMAX, HINGE, SQUARED_HINGE):
            case = b.append_basic_block(f"loss{kind}")
            switch.add_case(I64(kind), case)
            b.position_at_end(case)
            for part in range(0, BLOCK, lanes):
                rows(part, kind)
            b.branch(end)
        b.position_at_end(end)

    def emit(context, b, signature, args):
        outlined(f"loss_rows_{computed}", b, args[:8], body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8, computed), emit


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
