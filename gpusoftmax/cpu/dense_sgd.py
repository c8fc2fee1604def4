"""Steps of SGD with the sums over a batch of dense rows: folding shift and scale into the weights, and the update.

Written as LLVM operations like tiles.py, where the layouts are described. Both take the address of a `Steps`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpusoftmax.cpu.arguments import Steps
from gpusoftmax.cpu.compiling import emitted
from gpusoftmax.cpu.vectors import FLOATS, I32, I64, MACHINE, SIZES, V, constant, halved_sum, load, loop, splat, store

PIECE = 32  # bytes that are worked on at a time
F64 = ir.DoubleType()


class _Numbers:
    """Arrays of numbers of the type of computation: scalars by index, and pieces of packed weights."""

    def __init__(self, b: Any, computed: Any) -> None:
        self.b, self.kind, self.size = b, FLOATS[computed], SIZES[computed]
        self.vector = ir.VectorType(self.kind, PIECE // self.size)
        self.wide = ir.VectorType(F64, PIECE // self.size)

    def at(self, address: Any, index: Any, size: int | None = None) -> Any:
        return self.b.add(address, self.b.mul(index, I64(size or self.size)))

    def get(self, address: Any, index: Any) -> V:
        """A number, as float64."""
        return self.widened(load(self.b, self.at(address, index), self.kind, self.size))

    def put(self, x: V, address: Any, index: Any) -> None:
        store(self.b, self.narrowed(x).value, self.at(address, index), self.size)

    def double(self, address: Any, index: Any) -> V:
        """A number that is stored as float64."""
        return V(self.b, load(self.b, self.at(address, index, 8), F64, 8))

    def widened(self, x: Any) -> V:
        wide = self.wide if isinstance(x.type, ir.VectorType) else F64
        return V(self.b, x if self.size == 8 else self.b.fpext(x, wide))

    def narrowed(self, x: V) -> V:
        narrow = self.vector if isinstance(x.value.type, ir.VectorType) else self.kind
        return x if self.size == 8 else V(self.b, self.b.fptrunc(x.value, narrow))

    def every(self, x: V) -> V:
        """A piece whose numbers all are x, a float64."""
        return V(self.b, splat(self.b, self.narrowed(x).value, self.vector))

    def piece(self, address: Any) -> V:
        return V(self.b, load(self.b, address, self.vector, PIECE))

    def doubles(self, address: Any) -> V:
        """The numbers of a piece, which are stored as float64."""
        return V(self.b, load(self.b, address, self.wide, PIECE))


def _read(b: Any, address: Any) -> Steps:
    return Steps(*(load(b, b.add(address, I64(8 * i)), I64, 8) for i in range(len(Steps._fields))))


def _over_slabs(b: Any, steps: Steps, j: Any, x: _Numbers, start: V, body: Any, interleaved: int = 1) -> V:
    """Emit a loop over the pieces of column j: body(place in a packed matrix, in a vector, in one of float64) -> terms.

    Returns start + the sum of all terms, added up in float64.
    """
    column, size = 2 * MACHINE.vector, x.size

    def slab(s: Any, carried: list[Any]) -> list[Any]:
        nothing = constant(x.wide, 0.0)
        sums = [b.insert_element(nothing, carried[0], I32(0)), *[nothing] * (interleaved - 1)]
        first, own = b.mul(b.add(b.mul(s, steps.q), j), I64(column)), b.mul(s, I64(column))
        for i, offset in enumerate(range(0, column, PIECE)):
            at = b.add(own, I64(offset))
            terms = body(b.add(first, I64(offset)), at, b.mul(at, I64(8 // size)))
            sums[i % interleaved] = (V(b, sums[i % interleaved]) + terms).value
        total = sums[0]
        for other in sums[1:]:
            total = b.fadd(total, other)
        return [halved_sum(b, total)]

    return V(b, loop(b, I64(0), steps.n_slabs, 1, [start.value], slab)[0])


@emitted
def fold(b, steps, *, computed):
    """Write W' = W / scale and b' = b - shift W', the model for the features as they are stored.

    b' is summed in float64: for pixels around 120 its two terms are far larger than their difference.
    """
    steps, x = _read(b, steps), _Numbers(b, computed)

    def column(j: Any, _: list[Any]) -> list[Any]:
        def piece(matrix: Any, vector: Any, doubles: Any) -> V:
            out = x.piece(b.add(steps.W, matrix)) * x.piece(b.add(steps.inverse_scale, vector))
            store(b, out.value, b.add(steps.folded_W, matrix), PIECE)
            return x.doubles(b.add(steps.shift, doubles)) * x.widened(out.value)

        moved = _over_slabs(b, steps, j, x, V(b, constant(F64, 0.0)), piece)
        x.put(x.get(steps.b, j) - moved, steps.folded_b, j)
        return []

    loop(b, I64(0), steps.q, 1, [], column)


@emitted
def step(
    b, steps, losses, correct, db, G, m, number, *, computed, linear, velocity, nesterov, fit_intercept,
    penalize_intercept,
):  # fmt: skip
    """Take step `number` of SGD with the sums over a batch of m rows, see `Sums`, and add to the totals.

    linear: whether there is a linear term; velocity: whether there is momentum.
    """
    steps, x = _read(b, steps), _Numbers(b, computed)
    c = b.sdiv(steps.q, steps.K)
    rows, all_rows = V(b, b.sitofp(m, F64)), V(b, b.sitofp(steps.n, F64))
    zero = V(b, constant(F64, 0.0))

    def add_linear(j: Any, fraction: V) -> V:
        """Add the linear term's gradient to column j of the sums G, as if rows contributed it; return its value."""
        divisor = x.every(fraction)

        def piece(matrix: Any, vector: Any, doubles: Any) -> V:
            T, place = x.piece(b.add(steps.linear_W, matrix)), b.add(G, matrix)
            store(b, (x.piece(place) + T / divisor).value, place, PIECE)
            scaled = T * x.piece(b.add(steps.inverse_scale, vector))
            return x.widened(scaled.value) * x.widened(x.piece(b.add(steps.W, matrix)).value)

        return _over_slabs(b, steps, j, x, zero, piece, interleaved=2)

    def descend(j: Any, slope: V, fraction: V, strength: V, rate: V, momentum: V) -> V:
        """Update column j of W; return the sum of factors W^2 over that column before."""
        slope, fraction, strength, rate, momentum = map(x.every, (slope, fraction, strength, rate, momentum))

        def piece(matrix: Any, vector: Any, doubles: Any) -> V:
            place = b.add(steps.W, matrix)
            w, g = x.piece(place), x.piece(b.add(G, matrix))
            penalised = x.piece(b.add(steps.factors, vector)) * w
            terms = x.widened(penalised.value) * x.widened(w.value)
            shift = x.narrowed(x.doubles(b.add(steps.shift, doubles)))
            by = x.piece(b.add(steps.inverse_scale, vector))
            change = (g * fraction - shift * slope) * by + strength * penalised
            if velocity:
                moving = b.add(steps.velocity_W, matrix)
                v = momentum * x.piece(moving) + change
                store(b, v.value, moving, PIECE)
                change = change + momentum * v if nesterov else v
            store(b, (w - rate * change).value, place, PIECE)
            return terms

        return _over_slabs(b, steps, j, x, zero, piece, interleaved=2)

    def model(k: Any, _: list[Any]) -> list[Any]:
        fraction = all_rows / (rows * x.double(steps.weight_sums, k))
        strength, momentum = x.double(steps.strengths, k), x.get(steps.momentum, k)
        rate = x.get(steps.rates, b.add(b.mul(number, steps.K), k))

        def column(j: Any, carried: list[Any]) -> list[Any]:
            loss, norm = V(b, carried[0]), V(b, carried[1])
            intercept = x.get(steps.b, j)
            slope = x.get(db, j) * fraction
            if linear:
                loss = loss + (add_linear(j, fraction) + x.double(steps.linear_b, j) * intercept)
            norm = norm + descend(j, slope, fraction, strength, rate, momentum)
            if linear:
                slope = slope + x.double(steps.linear_b, j)
            if penalize_intercept:
                norm = norm + x.widened((x.narrowed(intercept) * x.narrowed(intercept)).value)
                slope = slope + strength * intercept
            if fit_intercept:
                if velocity:
                    kept = x.narrowed(momentum) * x.narrowed(x.get(steps.velocity_b, j))
                    v = x.narrowed(x.widened(kept.value) + slope)
                    store(b, v.value, x.at(steps.velocity_b, j), x.size)
                    ahead = x.widened((x.narrowed(momentum) * v).value)
                    slope = slope + ahead if nesterov else x.widened(v.value)
                x.put(intercept - rate * slope, steps.b, j)
            return [loss.value, norm.value]

        start = [(x.double(losses, k) * fraction).value, zero.value]
        loss, norm = (V(b, one) for one in loop(b, b.mul(k, c), b.mul(b.add(k, I64(1)), c), 1, start, column))
        right = rows * x.double(correct, k) * fraction
        added = rows * (loss + strength * 0.5 * norm), rows * loss, right
        for i, one in enumerate(added):
            row = b.mul(I64(2 * i), steps.K)
            total = x.double(steps.totals, b.add(row, k)) + one
            store(b, total.value, x.at(steps.totals, b.add(row, k), 8), 8)
            of_first = x.at(steps.totals, b.add(b.add(row, steps.K), k), 8)
            is_first = b.icmp_signed("==", number, I64(0))
            store(b, b.select(is_first, total.value, load(b, of_first, F64, 8)), of_first, 8)
        return []

    loop(b, I64(0), steps.K, 1, [], model)
