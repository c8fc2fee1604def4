"""Serial kernels for sparse matrices: one product for scores and gradients, sums over columns, Gram matrices.

A matrix is stored by rows or by columns (`operations.SparseRows`). Scores are the product of its rows with the weights,
and a gradient is the product of its columns with the rows' gradients, so one kernel, `multiply_rows`, computes both: a
row of the result is a sum of rows of the other matrix, picked by the indices of the entries. The sum stays in vector
registers. Fusing the two products would gain nothing, since picking rows is what takes the time: an entry has 4 to 12
bytes, and the row that it picks 4 q or 8 q. One row of the result is computed by one thread, in the order
of the entries, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpusoftmax.cpu.compiling import compiled, element, value_at
from gpusoftmax.cpu.vectors import (
    FLOATS,
    I1,
    I8,
    I32,
    I64,
    MACHINE,
    SIZES,
    V,
    constant,
    either,
    load,
    loop,
    outlined,
    pointer,
    splat,
    store,
)

VECTOR = MACHINE.vector
LINE = 64  # bytes of a cache line
AHEAD = 16  # how many entries ahead rows are prefetched; 4 to 32 made little difference
MOST_VECTORS = 8  # of a row that are summed at a time
# Longest plain sum, in entries. Longer rows are summed in segments, since rounding errors grow with the length.
SEGMENT = 2048


def _fetch(b: Any, address: Any, n_bytes: int) -> None:
    """Prefetch the cache lines of some bytes, which need not start at the beginning of a line."""
    function = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
    for place in [*range(0, n_bytes, LINE), n_bytes - 1]:
        b.call(prefetch, [pointer(b, b.add(address, I64(place)), I8), I32(0), I32(3), I32(1)])


def _value(b: Any, address: Any, squared: Any, marker: Any, computed: Any) -> Any:
    """Load an entry's value, stored in the type of `marker`, as a number in the type of computation, or its square."""
    kind = FLOATS.get(marker, I8)
    x = load(b, address, kind, SIZES[marker])
    if marker == types.uint8:
        x = b.uitofp(x, FLOATS[computed])
    elif marker != computed:
        x = b.fpext(x, FLOATS[computed])
    return b.select(b.icmp_signed("!=", squared, I64(0)), b.fmul(x, x), x)


@intrinsic
def _sum_of_rows(
    typing, indices, values, first, stop, end, M, row_bytes, start, out, count, last, q, squared, marker, computed
):
    """Write to `out` the sum of x_k M[index_k] over the entries first <= k < stop, at least one, plus that at `start`.

    indices: address of int32 indices. values: address of numbers in the type of `marker`, or 0 if all are 1. end: the
    number of stored entries. M: address of the part of the matrix's first row that is summed; row_bytes: bytes from one
    row to the next. start: address of what is added, or 0. count: number of vectors of the part; the last vector begins
    `last` bytes after the first, and may overlap with the one before. 0 stands for a part of q numbers that are fewer
    than a vector has. squared: 1 to use the squares of the values.
    """
    lanes, size = VECTOR // SIZES[computed], SIZES[computed]
    vector = ir.VectorType(FLOATS[computed], lanes)
    masks, whole = ir.VectorType(I1, lanes), ir.VectorType(I64, lanes)

    def body(b, args):
        indices, values, first, stop, end, M, row_bytes, start, out, count, last, q, squared = args
        suffix = f"v{lanes}f{8 * size}.p0"
        masked_load = ir.FunctionType(vector, [vector.as_pointer(), I32, masks, vector])
        masked_store = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), I32, masks])
        masked_load = cgutils.get_or_insert_function(b.module, masked_load, f"llvm.masked.load.{suffix}")
        masked_store = cgutils.get_or_insert_function(b.module, masked_store, f"llvm.masked.store.{suffix}")
        mask = b.icmp_signed("<", ir.Constant(whole, list(range(lanes))), splat(b, q, whole))
        zero, final = constant(vector, 0.0), b.sub(end, I64(1))

        def tile(n: int) -> None:
            is_short, n = n == 0, max(n, 1)
            places = [I64(v * VECTOR) for v in range(n - 1)] + [last]

            def read(base: Any, v: int) -> Any:
                at = b.add(base, places[v])
                if is_short:
                    return b.call(masked_load, [pointer(b, at, vector), I32(size), mask, zero])
                return load(b, at, vector, size)

            def row_of(k: Any) -> Any:
                index = load(b, b.add(indices, b.mul(k, I64(4))), I32, 4)
                return b.add(M, b.mul(b.sext(index, I64), row_bytes))

            def total(has_values: bool) -> list[Any]:
                def entry(k: Any, sums: list[Any]) -> list[Any]:
                    later = b.add(k, I64(AHEAD))
                    later = b.select(b.icmp_signed("<", later, final), later, final)
                    _fetch(b, row_of(later), size if is_short else n * VECTOR)
                    row = row_of(k)
                    if not has_values:
                        return [b.fadd(one, read(row, v)) for v, one in enumerate(sums)]
                    at = b.add(values, b.mul(k, I64(SIZES[marker])))
                    x = V(b, splat(b, _value(b, at, squared, marker, computed), vector))
                    return [V(b, read(row, v)).fma(x, V(b, one)).value for v, one in enumerate(sums)]

                return loop(b, first, stop, 1, [zero] * n, entry)

            sums = either(b, values, lambda: total(True), lambda: total(False))
            sums = either(b, start, lambda: [b.fadd(one, read(start, v)) for v, one in enumerate(sums)], lambda: sums)
            for place, one in zip(places, sums, strict=True):
                at = b.add(out, place)
                if is_short:
                    b.call(masked_store, [one, pointer(b, at, vector), I32(size), mask])
                else:
                    store(b, one, at, size)

        done = b.append_basic_block("done")
        switch = b.switch(count, done)
        for n in range(MOST_VECTORS + 1):
            case = b.append_basic_block(f"vectors{n}")
            switch.add_case(I64(n), case)
            b.position_at_end(case)
            tile(n)
            b.branch(done)
        b.position_at_end(done)

    def emit(context, b, signature, args):
        outlined(f"sum_of_rows_{marker}_{computed}", b, args[:13], body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 13, marker, computed), emit


@compiled
def multiply_rows(indptr, indices, values, end, M, bias, rows, out, first, stop, squared, marker, source):
    """out[i] = bias + sum_k x_k M[index_k] over the entries k of row i (of row rows[i] if there are any rows).

    It computes the rows `first` to `stop` - 1 of `out`, (m, q), C-contiguous. The other arrays are given by their
    addresses: indptr (n + 1,), int64; indices, int32; values, in the type of `marker`, or 0 if all are 1; M (d, q) and
    bias (q,), or 0, in the type of `out`; rows (m,), int64, or 0. There are `end` entries in all. With `squared` the
    squares of the values are used.
    """
    q, size, zero, whole = out.shape[1], out.itemsize, out.dtype.type(0), np.int64(0)
    lanes = VECTOR // size
    n_vectors = (q + lanes - 1) // lanes if q >= lanes else 0
    for i in range(first, stop):
        row = element(rows, i, whole) if rows != 0 else i
        begin, after = element(indptr, row, whole), element(indptr, row + 1, whole)
        to = out.ctypes.data + i * q * size
        if begin == after:
            for j in range(q):
                out[i, j] = element(bias, j, zero) if bias != 0 else zero
        for k in range(begin, after, SEGMENT):
            until, start = min(after, k + SEGMENT), bias if k == begin else to
            if n_vectors == 0:
                _sum_of_rows(indices, values, k, until, end, M, q * size, start, to, 0, 0, q, squared, marker, zero)
            v = 0
            while v < n_vectors:
                # The last vector may overlap with the one before, which must be of the same call: what a call wrote
                # would be added again by the next one.
                left, at = n_vectors - v, v * lanes * size
                count = MOST_VECTORS - 1 if left == MOST_VECTORS + 1 else min(MOST_VECTORS, left)
                last = min((v + count - 1) * lanes, q - lanes) * size - at
                _sum_of_rows(
                    indices, values, k, until, end, M + at, q * size, start + at if start != 0 else 0, to + at, count,
                    last, q, squared, marker, zero,
                )  # fmt: skip
                v += count


@compiled
def sum_columns(indptr, indices, values, weights, centre, out, first, stop, marker, source):
    """Add to out[p] (d, 3) the sums of s, of s x and of s (x - centre_p)^2 over the entries of column p.

    s is the weight of the entry's row. weights (n,) and centre (d,) are addresses of float64; indptr, indices and
    values are those of `multiply_rows`.
    """
    for p in range(first, stop):
        total, linear, square, middle = 0.0, 0.0, 0.0, element(centre, p, 0.0)
        for k in range(element(indptr, p, np.int64(0)), element(indptr, p + 1, np.int64(0))):
            s = element(weights, element(indices, k, np.int32(0)), 0.0)
            x = value_at(values, k, marker)
            total += s
            linear += s * x
            square += s * (x - middle) * (x - middle)
        out[p, 0] += total
        out[p, 1] += linear
        out[p, 2] += square


@compiled
def gram_of_columns(indptr, indices, values, weights, n, place, smallest, G, marker, source):
    """Add each product of sum_i s_i x_i x_i' over some columns to G (k, k) once, below or above the diagonal.

    The caller adds up the two triangles.

    place (d,), int32, is a column's row in G, or -1. Rows whose weight s_i is at most `smallest` are left out, of n.
    weights (n,) is the address of float64; indptr, indices and values are those of `multiply_rows`.
    """
    at, x = np.empty(len(G), np.int64), np.empty(len(G))
    for i in range(n):
        s = element(weights, i, 0.0)
        if s <= smallest:
            continue
        m = 0
        for k in range(element(indptr, i, np.int64(0)), element(indptr, i + 1, np.int64(0))):
            row = place[element(indices, k, np.int32(0))]
            if row >= 0:
                at[m] = row
                x[m] = value_at(values, k, marker)
                m += 1
        for a in range(m):
            scaled = s * x[a]
            for b in range(a + 1):
                G[at[a], at[b]] += scaled * x[b]
