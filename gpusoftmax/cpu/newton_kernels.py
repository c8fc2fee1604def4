"""Products with the Hessian of few rows; see `operations.RowCurvature`.

Written as LLVM operations like tiles.py. Rows come in blocks of BLOCK: what belongs to a class or a column of features
is one vector, for which LLVM takes as many registers as it fills. A block stays in the cache between the two products
with its features. Sums are in float32 within GROUP blocks, in float64 beyond.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from gpusoftmax._typing import Array
from gpusoftmax.cpu.compiling import SOURCE, call, compiled, emitted
from gpusoftmax.cpu.packed import aligned
from gpusoftmax.cpu.vectors import I32, I64, MACHINE, V, constant, halved_sum, load, loop, only_if, splat, store
from gpusoftmax.operations import RowCurvature

BLOCK = 64
BYTES = 4 * BLOCK  # of a vector with a number for each row of a block
LANES = MACHINE.vector // 4
GROUP = 8  # blocks; adding up the lanes of the sums takes as long as the products of a block
REGISTERS = 8  # in which sums are made side by side, so that none waits for the one before
SINGLE, DOUBLE = ir.FloatType(), ir.DoubleType()
ROWS, LABELS, PIECE = ir.VectorType(SINGLE, BLOCK), ir.VectorType(I32, BLOCK), ir.VectorType(SINGLE, LANES)


@emitted
def product_with_blocks(b, x, factors, labels, weights, v, U, sums, out, blocks, c, columns, *, smooth):
    """out += sum_i s_i C_i v x_i x_i' over blocks >= 1 blocks.

    All are addresses but for the last three: x (blocks, columns, BLOCK), factors (blocks, c, BLOCK), weights (blocks,
    BLOCK) and v (c, columns), float32; labels (blocks, BLOCK), int32, which are not read if the loss is `smooth`, that
    is softmax; out (c, columns), float64. U (c, BLOCK) and sums (c, columns, LANES), float32, are scratch memory that
    starts on a cache line; sums are zero before and after. columns is a multiple of 4.
    """
    zero = V(b, constant(ROWS, 0.0))

    def each(n: Any, carried: list[V], body: Any, step: int = 1) -> list[V]:
        """Emit a loop over range(0, n, step): body(index, carried values) -> new values."""

        def emit(j: Any, values: list[Any]) -> list[Any]:
            return [new.value for new in body(j, [V(b, value) for value in values])]

        return [V(b, value) for value in loop(b, I64(0), n, step, [one.value for one in carried], emit)]

    def at(base: Any, index: Any, n_bytes: int) -> Any:
        return b.add(base, b.mul(index, I64(n_bytes)))

    def rows(base: Any, index: Any) -> V:
        return V(b, load(b, at(base, index, BYTES), ROWS, 4))

    def put(value: V, j: Any) -> list[V]:
        store(b, value.value, at(U, j, BYTES), MACHINE.vector)
        return []  # nothing is carried

    def block(i: Any, _: list[Any]) -> list[Any]:
        features, own_factors = at(x, b.mul(i, columns), BYTES), at(factors, b.mul(i, c), BYTES)
        each(c, [], lambda j, _: multiply(features, j))
        if smooth:
            apply_softmax(own_factors, rows(weights, i))
        else:
            apply_hinge(own_factors, rows(weights, i) * 2.0, load(b, at(labels, i, BYTES), LABELS, 4))
        each(c, [], lambda j, _: project(features, j))
        following = b.add(i, I64(1))
        last = b.icmp_signed("==", following, blocks)
        whole = b.icmp_signed("==", b.and_(following, I64(GROUP - 1)), I64(0))
        only_if(b, b.zext(b.or_(whole, last), I64), lambda: each(b.mul(c, columns), [], add_up))
        return []

    def multiply(features: Any, j: Any) -> list[V]:
        """U_j = v_j x."""
        row = at(v, b.mul(j, columns), 4)
        together = max(1, REGISTERS * LANES // BLOCK)

        def add(p: Any, totals: list[V]) -> list[V]:
            for k in range(together):
                column = b.add(p, I64(k))
                weight = V(b, splat(b, load(b, at(row, column, 4), SINGLE, 4), ROWS))
                totals[k] = rows(features, column).fma(weight, totals[k])
            return totals

        totals = each(columns, [zero] * together, add, together)
        return put(sum(totals[1:], start=totals[0]), j)

    def apply_softmax(p: Any, s: V) -> None:
        """U = s (diag(p) - p p') U."""
        (mean,) = each(c, [zero], lambda j, total: [rows(p, j).fma(rows(U, j), total[0])])
        each(c, [], lambda j, _: put(s * rows(p, j) * (rows(U, j) - mean), j))

    def apply_hinge(a: Any, s: V, label: Any) -> None:
        """U = s (diag(a) + A e_y e_y' - a e_y' - e_y a') U."""

        def own(j: Any) -> V:
            return V(b, b.icmp_signed("==", splat(b, b.trunc(j, I32), LABELS), label))

        def scale(j: Any, total: list[V]) -> list[V]:
            u = s * rows(a, j) * (rows(U, j) - own_u)
            put(u, j)
            return [total[0] + u]

        (own_u,) = each(c, [zero], lambda j, found: [rows(U, j).where(own(j), found[0])])
        (total,) = each(c, [zero], scale)
        each(c, [], lambda j, _: put((-total).where(own(j), rows(U, j)), j))

    def project(features: Any, j: Any) -> list[V]:
        """sums_j += U_j x'."""
        u, row = rows(U, j), at(sums, b.mul(j, columns), MACHINE.vector)

        def pieces(value: V) -> list[V]:
            starts = range(0, BLOCK, LANES)
            orders = [ir.Constant(ir.VectorType(I32, LANES), list(range(k, k + LANES))) for k in starts]
            return [V(b, b.shuffle_vector(value.value, value.value, order)) for order in orders]

        def add(p: Any, _: list[V]) -> list[V]:
            place = at(row, p, MACHINE.vector)
            total = V(b, load(b, place, PIECE, MACHINE.vector))
            for one, other in zip(pieces(u), pieces(rows(features, p)), strict=True):
                total = one.fma(other, total)
            store(b, total.value, place, MACHINE.vector)
            return []

        each(columns, [], add)
        return []

    def add_up(k: Any, _: list[V]) -> list[V]:
        """out += the sums of the lanes of `sums`, which are cleared."""
        place, to = at(sums, k, MACHINE.vector), at(out, k, 8)
        total = b.fpext(halved_sum(b, load(b, place, PIECE, MACHINE.vector)), DOUBLE)
        store(b, constant(PIECE, 0.0), place, MACHINE.vector)
        store(b, b.fadd(load(b, to, DOUBLE, 8), total), to, 8)
        return []

    loop(b, I64(0), blocks, 1, [], block)


@compiled
def _multiply(function, x, factors, labels, weights, v, U, sums, out, blocks, c, columns, source):
    call(function, (x, factors, labels, weights, v, U, sums, out, blocks, c, columns))


class HessianProduct:
    """Multiplies a Hessian by v (c, q), float64, for one thread at a time; see `operations.HessianProducts`."""

    def __init__(self, curvature: RowCurvature) -> None:
        (blocks, columns, _), c = curvature.x.shape, curvature.factors.shape[1]
        self.curvature = curvature  # its arrays are read by their addresses
        self.v, self.out = np.zeros((c, columns), np.float32), np.empty((c, columns))
        self.scratch = aligned(c * (BYTES + columns * MACHINE.vector))
        self.scratch[:] = 0
        labels = 0 if curvature.labels is None else curvature.labels.ctypes.data
        U = self.scratch.ctypes.data
        self.arguments = (
            product_with_blocks.address(smooth=curvature.labels is None), curvature.x.ctypes.data,
            curvature.factors.ctypes.data, labels, curvature.weights.ctypes.data, self.v.ctypes.data, U,
            U + c * BYTES, self.out.ctypes.data, blocks, c, columns, SOURCE,
        )  # fmt: skip

    def __call__(self, v: Array) -> Array:
        q = v.shape[1]
        self.v[:, :q] = v
        self.out.fill(0)
        if len(self.curvature.x):  # with the squared hinge, perhaps no row violates a margin
            _multiply(*self.arguments)
        return self.out[:, :q].copy()
