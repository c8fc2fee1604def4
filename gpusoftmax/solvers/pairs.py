"""The pairs of L-BFGS and its inverse Hessian H, for K models side by side.

A pair (s, t) is a step and the change of the gradient along it; the literature calls it (s, y), but y stands for the
labels here. With M the preconditioner and rho_i = 1 / s_i't_i,

    H = H_m,    H_i = (I - rho_i s_i t_i') H_{i-1} (I - rho_i t_i s_i') + rho_i s_i s_i',    H_0 = gamma M^-1

    gamma = s_m't_m / t_m'M^-1 t_m

The two-loop recursion computes H g by some forty operations on vectors. The compact representation (Byrd, Nocedal and
Schnabel, 1994, theorem 2.2) is the same in exact arithmetic. It needs only inner products of the vectors, and is a
linear combination of M^-1 g, of the s_i and of the u_i = M^-1 t_i:

    H g = gamma M^-1 g + sum_i e_i s_i - gamma sum_i alpha_i u_i

    R alpha = S'g,    R'e = D alpha - gamma (U'g - U'T alpha),    R_ij = s_i't_j for i <= j, else 0,    D = diag(R)

So a step reads each vector twice: for the new inner products, and for the linear combination. The t_i themselves are
not stored, since only their inner products are needed later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.linalg.lapack import dtrtrs

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.solvers.base import PerModel, per_model

MEMORY = 10  # pairs that are kept
MEMORY_DIAGONALS = 5  # with sparse features: the vectors take longer than a pass, and more pairs saved no passes
LEAST_CURVATURE = 1e-10  # smallest s't of a pair relative to |s| |t|: below it, rounding errors may decide its sign


@dataclass
class Point(PerModel):
    """Points x, the gradients g there and M^-1 g: each (d + 1, K, c) on the device, the intercepts in the last row."""

    x: Any = per_model(1)
    g: Any = per_model(1)
    preconditioned_g: Any = per_model(1)

    def block(self, rows: slice, k: int, xp: Any) -> tuple[Any, Any, Any]:
        """Return some rows of model k's x, M^-1 g and g, each as one contiguous vector."""
        x, u, g = (xp.ascontiguousarray(one[rows, k]).reshape(-1) for one in (self.x, self.preconditioned_g, self.g))
        return x, u, g

    def replace_where(self, marked: Array, new: Point, backend: Backend) -> Point:
        """Return points that are those of `new` for the models with True in `marked` (K,), and these for the others."""
        if marked.all():
            return new
        where = backend.asarray(marked)[None, :, None]
        both = (new.x, self.x), (new.g, self.g), (new.preconditioned_g, self.preconditioned_g)
        return Point(*(backend.xp.where(where, *each) for each in both))


@dataclass(frozen=True)
class Products:
    """Inner products of the vectors of pairs at new points of K models: all that the host needs for the next direction.

    Attributes
    ----------
    slot : int
        Where the step to the new points and its u were written.
    arrays : tuple of ndarray
        On the device: those of t and of g with all s and all u, (K, 2, 2 used slots), those of t with itself and of s
        with itself, (K, 2), and, if the device's work is queued, those of g and M^-1 g, (K,).
    """

    slot: int
    arrays: tuple[Any, ...]


@dataclass
class Pairs(PerModel):
    """The last pairs of K models. A pair that some model lacks is not `valid` for it.

    Attributes
    ----------
    slots : list of int
        The slots of the pairs, oldest first. Of memory + 1 slots at least one is free, for the next pair.
    vectors : ndarray, (K, memory + 1, 2, (d + 1) c)
        In each slot the s and the u = M^-1 t of a pair, on the device.
    st, ut : ndarray of float64, (K, memory + 1, memory + 1)
        s_i't_j of the pairs in slots i and j, if i is not younger than j, and u_i't_j.
    valid : ndarray of bool, (K, memory + 1)
    gamma : ndarray of float64, (K,)
        1 for a model without pairs.
    """

    slots: list[int]
    vectors: Any = per_model()
    st: Array = per_model()
    ut: Array = per_model()
    valid: Array = per_model()
    gamma: Array = per_model()

    @classmethod
    def none(cls, x: Any, backend: Backend, memory: int = MEMORY) -> Pairs:
        """Return no pairs, with room for `memory` of each of the models at x (d + 1, K, c)."""
        d, K, c = x.shape
        vectors = backend.xp.empty((K, memory + 1, 2, d * c), x.dtype)
        square = np.zeros((K, memory + 1, memory + 1))
        return cls([], vectors, square, square.copy(), np.zeros((K, memory + 1), bool), np.ones(K))

    @property
    def memory(self) -> int:
        """How many pairs are kept."""
        return self.valid.shape[1] - 1

    def to_arrays(self, backend: Backend) -> dict[str, Any]:
        """See `Kept.to_arrays`. Slots that were never written, and which hold anything, are left out."""
        written = replace(self, vectors=self.vectors[:, : max(self.slots, default=-1) + 1])
        return super(Pairs, written).to_arrays(backend)

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """See `Kept.from_arrays`."""
        slots = kept.get("slots")
        if type(slots) is not list or any(type(slot) is not int for slot in slots):
            raise TypeError("slots of pairs are not whole numbers")
        if len(set(slots)) != len(slots) or len(slots) > self.memory or not set(slots) <= set(range(self.memory + 1)):
            raise ValueError(f"slots {slots} of {self.memory} pairs")
        used = max(slots, default=-1) + 1
        like = replace(self, slots=slots, vectors=self.vectors[:, :used])
        found = super(Pairs, like).from_arrays(kept, backend)
        self.vectors[:, :used] = found.vectors
        return replace(found, vectors=self.vectors)

    def forget(self, k: int) -> None:
        """Discard the pairs of one model."""
        self.valid[k], self.gamma[k] = False, 1.0
        self.slots = [slot for slot in self.slots if self.valid[:, slot].any()]

    def advance(
        self, new: Point, products: Products, fetched: list[Array], accepted: Array, backend: Backend
    ) -> tuple[Any, Array]:
        """Add the pair up to `new` for the models with True in `accepted` (K,), and compute H g at `new`.

        `products` are what `begin` returned, and `fetched` their arrays on the host. A step along which the curvature
        is not positive beyond rounding errors gives no pair. Returns H g, and the inner product of g and H g for each
        model, (K,) float64 on the host.
        """
        slot, K = products.slot, new.x.shape[1]
        of_t, of_g = fetched[0].astype(np.float64).reshape(K, 2, -1, 2).swapaxes(0, 1)
        tt, ss = fetched[1].astype(np.float64).T
        st = of_t[:, slot, 0]
        valid = accepted & (st > LEAST_CURVATURE * np.sqrt(ss * tt))
        self.valid[:, slot] = valid
        if valid.any():
            for k in np.flatnonzero(~valid).tolist():  # a rejected trial may be infinite, and 0 times that is NaN
                self.vectors[k, slot], of_t[k] = 0, 0
            self.slots, used = [*self.slots, slot][-self.memory :], of_t.shape[1]
            self.st[:, :used, slot], self.ut[:, :used, slot] = of_t[:, :, 0], of_t[:, :, 1]
            self.ut[:, slot] = self.ut[:, :, slot]  # M is symmetric
            tMt = self.ut[:, slot, slot]
            scaled = valid & (tMt > 0)
            self.gamma = np.where(scaled, st / np.where(scaled, tMt, 1.0), self.gamma)
        coefficients = self._coefficients(of_g[:, :, 0], of_g[:, :, 1])
        direction, slope = self._combine(new, coefficients, backend)
        if not backend.queues_work:
            return direction, backend.to_numpy(slope)
        # of what H g is made of, so that there is nothing to wait for
        used = of_g.shape[1]
        return direction, self.gamma * fetched[2] + (coefficients[:, :used] * of_g).sum(axis=(1, 2))

    def begin(self, old: Point, new: Point, backend: Backend) -> Products:
        """Write the step from `old` to `new` and its u into a free slot, and compute inner products on the device."""
        (d, K, c), xp = new.x.shape, backend.xp
        slot = next(i for i in range(self.memory + 1) if i not in self.slots)
        used = max([slot, *self.slots]) + 1

        def part(rows: slice) -> tuple[Array, ...]:
            found = []
            for k in range(K):
                after, before = new.block(rows, k, xp), old.block(rows, k, xp)
                found.append(backend.ops.pair_products(after, before, self._block(k, used, rows, c), 2 * slot))
            return tuple(one[0][None] if K == 1 else xp.stack(one) for one in zip(*found, strict=True))

        products = backend.sum_over_blocks(part, d, K * c)
        if backend.queues_work:
            products = *products, (new.g * new.preconditioned_g).sum(axis=(0, 2), dtype=np.float64)
        return Products(slot, products)

    def _block(self, k: int, used: int, rows: slice, c: int) -> Any:
        """Return a view of some rows of model k's vectors in the first `used` slots, (2 used, rows c)."""
        return self.vectors[k, :used].reshape(2 * used, -1)[:, rows.start * c : rows.stop * c]

    def _coefficients(self, sg: Array, ug: Array) -> Array:
        """Compute the coefficients of all s and u in H g, (K, memory + 1, 2).

        They follow from the inner products of g with all s and all u, each (K, used slots).
        """
        coefficients, order = np.zeros((*self.valid.shape, 2)), np.array(self.slots, int)
        for k, gamma in enumerate(self.gamma.tolist()):
            kept = order[self.valid[k, order]]
            if len(kept):
                R, UT = (matrix[k, kept[:, None], kept] for matrix in (self.st, self.ut))
                R = np.asfortranarray(R)  # otherwise dtrtrs would copy it twice; it uses the upper triangle alone
                alpha = dtrtrs(R, sg[k, kept])[0]
                e = dtrtrs(R, np.diagonal(R) * alpha - gamma * (ug[k, kept] - UT @ alpha), trans=1)[0]
                coefficients[k, kept, 0], coefficients[k, kept, 1] = e, -gamma * alpha
        return coefficients

    def _combine(self, point: Point, coefficients: Array, backend: Backend) -> tuple[Any, Array]:
        """Compute H g from the coefficients of all s and u, and its inner product with g, on the device."""
        (d, K, c), dtype = point.g.shape, point.g.dtype
        used = max(self.slots, default=-1) + 1
        factors = [backend.asarray(coefficients[k, :used].reshape(-1).astype(dtype)) for k in range(K)]
        direction = backend.xp.empty_like(point.g)

        def part(rows: slice) -> tuple[Array, ...]:
            for k in range(K):
                out = direction[rows, k]
                out[:] = point.preconditioned_g[rows, k]
                out *= dtype.type(self.gamma[k])
                if used:
                    out += (factors[k] @ self._block(k, used, rows, c)).reshape(-1, c)
            return (inner_products(point.g[rows], direction[rows]),)

        (slope,) = backend.sum_over_blocks(part, d, K * c)
        return direction, slope


def inner_products(u: Any, v: Any) -> Any:
    """Compute the inner product of some rows of u and v (rows, K, c) for each model, (K,) float64 on the device."""
    if u.shape[1] == 1:  # BLAS reads both once, and its sums in float32 are accurate enough for a block
        return (u.reshape(-1) @ v.reshape(-1)).astype(np.float64).reshape(1)
    return (u * v).sum(axis=(0, 2), dtype=np.float64)
