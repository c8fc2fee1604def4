"""What surrounds the tiles of a block: looking rows up, copying features, sums over the block, and adding nodes.

Written as LLVM operations like tiles.py, where the layouts are described.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from gpusoftmax.cpu.compiling import emitted
from gpusoftmax.cpu.tiles import BLOCK, STORED, fetch, to_number
from gpusoftmax.cpu.vectors import (
    FLOATS,
    I32,
    I64,
    MACHINE,
    SIZES,
    constant,
    either,
    halved_sum,
    load,
    loop,
    pointer,
    store,
)

# Columns that lie apart are in different pages. With more pages than the processor has address translations for,
# prefetching scattered rows only translates each address twice (3072 columns of uint8: a third slower).
FETCHED_COLUMNS = 1024


def _at(b: Any, address: Any, index: Any, size: int) -> Any:
    """The address of an element of an array whose elements have `size` bytes."""
    return b.add(address, b.mul(index, I64(size)))


def _smaller(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.icmp_signed("<", x, y), x, y)


def _row(b: Any, indices: Any, i: Any) -> Any:
    """The number in X of the i-th row of a pass."""
    (number,) = either(b, indices, lambda: [load(b, _at(b, indices, i, 8), I64, 8)], lambda: [i])
    return number


@emitted
def look_up(b, X, row_stride, indices, first, m, last, table):
    """Write the addresses of the block of m rows from `first` on, and of the BLOCK rows after it, to the table.

    A block of fewer than BLOCK rows is filled with its last row, and so is the next with the last row of the pass.
    """

    def entry(i: Any, _: list[Any]) -> list[Any]:
        own = b.add(first, _smaller(b, i, b.sub(m, I64(1))))
        next_one = _smaller(b, b.add(first, i), b.sub(last, I64(1)))
        number = _row(b, indices, b.select(b.icmp_signed("<", i, I64(BLOCK)), own, next_one))
        store(b, b.add(X, b.mul(number, row_stride)), _at(b, table, i, 8), 8)
        return []

    loop(b, I64(0), I64(2 * BLOCK), 1, [], entry)


@emitted
def look_up_labels(b, indices, labels, weights, first, m, K, block_labels, block_weights, *, computed):
    """Copy labels (BLOCK,) and weights (K, BLOCK) of the rows that `look_up` found; rows that fill up have weight 0."""
    size, kind = SIZES[computed], FLOATS[computed]

    def row(i: Any, _: list[Any]) -> list[Any]:
        number = _row(b, indices, b.add(first, _smaller(b, i, b.sub(m, I64(1)))))
        store(b, load(b, _at(b, labels, number, 4), I32, 4), _at(b, block_labels, i, 4), 4)

        def model(k: Any, _: list[Any]) -> list[Any]:
            at = _at(b, weights, b.add(b.mul(number, K), k), size)
            (s,) = either(b, weights, lambda: [load(b, at, kind, size)], lambda: [constant(kind, 1.0)])
            s = b.select(b.icmp_signed("<", i, m), s, constant(kind, 0.0))
            store(b, s, _at(b, block_weights, b.add(b.mul(k, I64(BLOCK)), i), size), size)
            return []

        loop(b, I64(0), K, 1, [], model)
        return []

    loop(b, I64(0), I64(BLOCK), 1, [], row)


@emitted
def copy_features(b, table, copies, features, first, d, stride, row_bytes, *, marker, computed):
    """Convert the features of a block's rows, from the one numbered `first` < d on, to the address `features`.

    table: address of the rows' addresses, and of those of the next block. Writes the address of each row's copy to
    `copies` (BLOCK,); copies are row_bytes apart, and keep what lies beyond the last feature. stride: bytes from column
    to column. Columns that lie apart are prefetched for the next block: they are more streams than a processor's own
    prefetcher follows (400,000 rows of 41 columns: scores in 30 ms instead of 45).
    """
    item, stored = SIZES[marker], STORED[marker]

    def row(i: Any, _: list[Any]) -> list[Any]:
        copied = b.add(features, b.mul(i, row_bytes))
        store(b, copied, _at(b, copies, i, 8), 8)
        x, later = (load(b, _at(b, table, b.add(i, I64(ahead)), 8), I64, 8) for ahead in (0, BLOCK))
        raw, out = pointer(b, x, stored), pointer(b, copied, FLOATS[computed])

        def convert(p: Any, feature: Any) -> None:
            b.store(to_number(b, feature, marker, computed), b.gep(out, [b.sub(p, first)]))

        def adjacent(p: Any, _: list[Any]) -> list[Any]:
            convert(p, b.load(b.gep(raw, [p])))
            return []

        def apart(p: Any, _: list[Any]) -> list[Any]:
            convert(p, load(b, b.add(x, b.mul(p, stride)), stored, item))
            return []

        def fetched(p: Any, _: list[Any]) -> list[Any]:
            fetch(b, b.add(later, b.mul(p, stride)), 1)
            return apart(p, _)

        few = b.zext(b.icmp_signed("<=", d, I64(FETCHED_COLUMNS)), I64)

        def columns(body: Any) -> Any:
            return lambda: loop(b, first, d, 1, [], body)

        either(b, b.sub(stride, I64(item)), lambda: either(b, few, columns(fetched), columns(apart)), columns(adjacent))
        return []

    loop(b, I64(0), I64(BLOCK), 1, [], row)


@emitted
def write_scores(b, scores, m, q, out, *, computed):
    """Write the scores (q, BLOCK) of a block's m rows to `out` (m, q)."""
    size, kind = SIZES[computed], FLOATS[computed]

    def row(i: Any, _: list[Any]) -> list[Any]:
        def column(j: Any, _: list[Any]) -> list[Any]:
            x = load(b, _at(b, scores, b.add(b.mul(j, I64(BLOCK)), i), size), kind, size)
            store(b, x, _at(b, out, b.add(b.mul(i, q), j), size), size)
            return []

        return loop(b, I64(0), q, 1, [], column)

    loop(b, I64(0), m, 1, [], row)


@emitted
def read_scores(b, given, m, q, scores, db, *, computed):
    """Read the scores (q, BLOCK) of a block's m rows from `given` (m, q), and add them to db (q, BLOCK)."""
    size, kind = SIZES[computed], FLOATS[computed]

    def row(i: Any, _: list[Any]) -> list[Any]:
        def column(j: Any, _: list[Any]) -> list[Any]:
            x, at = load(b, _at(b, given, b.add(b.mul(i, q), j), size), kind, size), b.add(b.mul(j, I64(BLOCK)), i)
            store(b, x, _at(b, scores, at, size), size)
            total = _at(b, db, at, size)
            store(b, b.fadd(load(b, total, kind, size), x), total, size)
            return []

        return loop(b, I64(0), q, 1, [], column)

    loop(b, I64(0), m, 1, [], row)


@emitted
def clear(b, first, end):
    """Set memory that vectors fill to 0."""
    nothing = constant(ir.VectorType(FLOATS[types.float64], MACHINE.vector // 8), 0.0)

    def piece(at: Any, _: list[Any]) -> list[Any]:
        store(b, nothing, at, MACHINE.vector)
        return []

    loop(b, first, end, MACHINE.vector, [], piece)


@emitted
def sum_block(b, losses, correct, db, K, q, loss_sums, correct_sums, db_sums, *, computed):
    """Sum losses and correct (K, BLOCK), and db (q, BLOCK), over the rows of a block."""

    def sum_all(x: Any, n: Any, out: Any, number: Any) -> None:
        size = SIZES[number]

        def one(j: Any, _: list[Any]) -> list[Any]:
            store(b, _sum(b, _at(b, x, j, BLOCK * size), number), _at(b, out, j, size), size)
            return []

        loop(b, I64(0), n, 1, [], one)

    sum_all(losses, K, loss_sums, types.float64)
    sum_all(correct, K, correct_sums, types.float64)
    sum_all(db, q, db_sums, computed)


def _sum(b: Any, address: Any, number: Any) -> Any:
    """The sum of BLOCK numbers: of some lanes, whose sums are added by halves, and of what is left after the last."""
    kind, size = FLOATS[number], SIZES[number]
    lanes = min(32 // size, MACHINE.vector // 8)
    rest = BLOCK - (BLOCK - 1) % lanes

    def read(i: int, what: Any) -> Any:
        return load(b, b.add(address, I64(size * i)), what, size)

    vector = ir.VectorType(kind, lanes)
    total = b.insert_element(constant(vector, 0.0), read(0, kind), I32(0))
    for i in range(1, rest, lanes):
        total = b.fadd(read(i, vector), total)
    total = halved_sum(b, total)
    for i in range(rest, BLOCK):
        total = b.fadd(total, read(i, kind))
    return total


@emitted
def add_vectors(b, into, other, n_bytes, *, computed):
    """Add numbers that fill vectors to others."""
    vector = ir.VectorType(FLOATS[computed], MACHINE.vector // SIZES[computed])

    def piece(at: Any, _: list[Any]) -> list[Any]:
        to, x = b.add(into, at), load(b, b.add(other, at), vector, MACHINE.vector)
        store(b, b.fadd(load(b, to, vector, MACHINE.vector), x), to, MACHINE.vector)
        return []

    loop(b, I64(0), n_bytes, MACHINE.vector, [], piece)
