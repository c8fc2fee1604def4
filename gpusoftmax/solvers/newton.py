"""Truncated Newton: a guide for small data, whose Hessian products cost little.

At each point the Newton system H p = g is solved to ETA by conjugate gradients, and the step length is found exactly on
the scores of all rows, which are kept on the host. L-BFGS then tries that point in a pass over the data. This takes a
fifth of its own passes (digits: 5 instead of 25), and gets there where the squared hinge or a weak penalty needs
hundreds.

The Hessian is (1 / S) sum_i s_i kron(x_i x_i', C_i) + l2 diag(r). Rows whose curvature is far below the average are
left out: a confident softmax model has hardly any in most rows, and the squared hinge none in rows that violate no
margin, so that its step is a semismooth Newton step (Mangasarian, 2002). Conjugate gradients are preconditioned by the
blocks of the single classes, made anew at each point, with which they take two to five products for softmax.

For the squared hinge, the rows that violate a margin change so much in a step that the Newton step of a weak penalty is
far too long: raw digits took 62 steps, of a tenth of the length. There the penalty is weakened step by step instead
(continuation), from what the present weights are about optimal for. Raw digits then take 16 steps.

The data are small, so all of this is done on the host, even for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.losses import RowHessians
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import Kept, not_kept
from gpusoftmax.solvers.preconditioners.inverses import cholesky
from gpusoftmax.solvers.preconditioners.sample import BLOCK, penalty_diagonal, weight_fractions

# Residual of a Newton system, in the norm of the preconditioner and relative to the right side: a smoother loss needs
# less accuracy, because more steps correct it.
ETA = {"softmax": 0.1, "squared_hinge": 0.03}
MOST_PRODUCTS = 100  # with the Hessian, in a step
# Rows with less than this fraction of the mean curvature are left out of the Hessian, and of the block of a class.
DROPPED, DROPPED_OF_CLASS = 1e-3, 1e-2
ALL_ROWS = 0.75  # from this fraction of the rows on, a copy of them would take longer than it saves
WEAKEN = 3.0  # by which the penalty is divided in a step of continuation
FLAT = 0.1  # slope at which a line search ends, relative to that at its start
LONGEST = 1e6  # a line search goes no further


@dataclass(frozen=True)
class HostRows:
    """The rows of a small data set on the host, scaled and centred, which the guides of all models share.

    Attributes
    ----------
    objective : Objective
        That of all models.
    numbers : ndarray of int64, (n,)
        The numbers of the rows.
    x : ndarray of float64, (n, q)
        The features less `centre`; with an intercept, the last of the q columns is 1.
    centre : ndarray of float64, (d,), or None
        The mean of the features, if there is an intercept that is not penalised; else none is subtracted.
    labels : ndarray of int32, (n,)
    backend : Backend
        The one that computes on the host.
    """

    objective: Objective
    numbers: Array
    x: Array
    centre: Array | None
    labels: Array
    backend: Backend

    @classmethod
    def of(cls, objective: Objective) -> HostRows:
        """Copy the selected rows of an objective."""
        features, backend = objective.features, objective.backend
        numbers = features.row_numbers(np.arange(features.n))
        x = np.ones((features.n, features.d + objective.fit_intercept))
        for first in range(0, features.n, BLOCK):
            x[first : first + BLOCK, : features.d] = features.sample(numbers[first : first + BLOCK])
        centre = x[:, : features.d].mean(axis=0) if objective.has_free_intercept else None
        if centre is not None:
            x[:, : features.d] -= centre
        labels = backend.to_numpy(objective.labels)[numbers]
        host = backend if backend.gpu is None else get_backend("cpu")
        return cls(objective, numbers, x, centre, labels, host)

    @cached_property
    def x32(self) -> Array:
        """The features in float32, which is accurate enough for a Hessian."""
        return self.x.astype(np.float32)

    def gradients(self, Z: Array, fractions: Array | None = None) -> Array:
        """Replace the scores Z (n, c) by the gradients of the losses, times the rows' weights; returns Z."""
        weights = None if fractions is None else fractions[:, None]
        self.backend.ops.row_loss(Z[:, None], self.labels, weights, self.objective.loss.code)
        return Z


@dataclass(frozen=True)
class Newton(Kept):
    """Truncated Newton for model k of `rows.objective`; see `guides.Guide`. It has no state."""

    rows: HostRows = not_kept()
    k: int = not_kept()
    outlives_rejection: bool = field(default=True, init=False, metadata={"kept": False})
    moved: bool = field(default=False, init=False, metadata={"kept": False})

    @cached_property
    def fractions(self) -> Array:
        """The weights of the rows, divided by their sum, (n,)."""
        return weight_fractions(self.rows.objective, self.k, self.rows.numbers)

    @cached_property
    def relative_penalty(self) -> Array:
        """The diagonal of the penalty for l2 = 1, (q, 1)."""
        diagonal = penalty_diagonal(self.rows.objective)
        return np.append(diagonal, np.zeros(self.rows.x.shape[1] - len(diagonal)))[:, None]

    @cached_property
    def l2(self) -> float:
        """The strength of the penalty."""
        objective = self.rows.objective
        return float(objective.backend.to_numpy(objective.penalty.strengths)[self.k])

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # L-BFGS takes over from what is not finite
    def direction(self, x: Any, g: Any, preconditioned_g: Any) -> tuple[Any, float] | None:
        """See `guides.Guide`; x less the direction is the minimum along it."""
        to_numpy, rows = self.rows.objective.backend.to_numpy, self.rows
        point, gradient = (to_numpy(one).astype(np.float64) for one in (x, g))
        W, g_here = self._inside(point), self._gradient_inside(gradient)
        l2 = self._strength(W, g_here)
        g_here += (l2 - self.l2) * self.relative_penalty * W
        Z = rows.x @ W
        if not W.any():  # M^-1 g is the Newton direction at zero
            step = self._inside(to_numpy(preconditioned_g).astype(np.float64))
        else:
            G = rows.gradients(Z.copy()).astype(np.float32)
            hessians = rows.objective.loss.row_hessians_from(G, rows.labels, self.fractions.astype(np.float32))
            step = _newton_step(rows, hessians, l2 * self.relative_penalty, g_here, ETA[rows.objective.loss.name])
        step *= self._length(Z, step, g_here, l2)
        found = self._outside(step, point)
        slope = float((gradient * found).sum())
        if not (np.isfinite(found).all() and slope > 0):
            return None
        return rows.objective.backend.asarray(found.astype(x.dtype)), slope

    def _inside(self, W: Array) -> Array:
        """Return weights and intercepts (d + 1, c) as weights (q, c) of the centred features."""
        if self.rows.centre is not None:
            W = W.copy()
            W[-1] += self.rows.centre @ W[:-1]
        return W[: self.rows.x.shape[1]]

    def _gradient_inside(self, g: Array) -> Array:
        """Return the gradient (d + 1, c) with respect to what `_inside` returns; g is overwritten."""
        inside = g.copy()
        if self.rows.centre is not None:
            inside[:-1] -= self.rows.centre[:, None] * g[-1]
        return inside[: self.rows.x.shape[1]]

    def _outside(self, step: Array, like: Array) -> Array:
        """Undo `_inside`."""
        found = np.zeros_like(like)
        found[: len(step)] = step
        if self.rows.centre is not None:
            found[-1] -= self.rows.centre @ step[:-1]
        return found

    def _strength(self, W: Array, g: Array) -> float:
        """Return the l2 to take a step for: that of the objective, or a stronger one for a loss with kinks.

        The weights are optimal for l2 if the gradient of the loss is -l2 r W. The least-squares solution of that is
        what they are about optimal for.
        """
        if self.rows.objective.loss.has_smooth_gradient or not W.any():
            return self.l2
        penalty = self.relative_penalty * W
        of_loss = g - self.l2 * penalty
        return max(self.l2, -float((of_loss * W).sum() / (penalty * W).sum()) / WEAKEN)

    def _length(self, Z: Array, step: Array, g: Array, l2: float) -> float:
        """Return the a that minimises the objective with the penalty l2 at W - a step, by its derivative there."""
        V = self.rows.x @ step
        of_rows = V * self.fractions[:, None]
        slope = -float((g * step).sum())
        curvature = l2 * float((self.relative_penalty * step * step).sum())

        def along(a: float) -> float:
            """The derivative at a, except for what is linear in the weights: the penalty and soft labels."""
            return -float(np.vdot(self.rows.gradients(Z - a * V), of_rows)) + a * curvature

        return _root(along, slope - along(0.0), slope)


def _root(function: Callable[[float], float], offset: float, start: float) -> float:
    """Find a zero of an increasing function plus `offset`, whose value at 0 is `start` < 0, to FLAT of that.

    Regula falsi, kept away from the ends of the interval; 1 is tried first.
    """
    low, high, left, right = 0.0, 1.0, start, function(1.0) + offset
    if abs(right) < FLAT * abs(start):
        return 1.0
    while right < 0 and high < LONGEST:
        low, left, high = high, right, 4 * high
        right = function(high) + offset
    while high - low > 1e-3 * high:
        margin = 0.05 * (high - low)
        middle = min(max(low - left * (high - low) / (right - left), low + margin), high - margin)
        here = function(middle) + offset
        if abs(here) < FLAT / 2 * abs(start):
            return middle
        if here < 0:
            low, left = middle, here
        else:
            high, right = middle, here
    return low or high


def _newton_step(rows: HostRows, hessians: RowHessians, penalty: Array, g: Array, eta: float) -> Array:
    """Solve H p = g to `eta`, and return p (q, c); `penalty` (q, 1) is its diagonal in H, and g is (q, c)."""
    diagonals, x = hessians.diagonals(), rows.x32
    traces = diagonals.sum(axis=1)
    kept = np.flatnonzero(traces > DROPPED * traces.mean())
    if len(kept) < ALL_ROWS * len(x):
        x, diagonals, hessians = x[kept], diagonals[kept], hessians.select(kept, np.ones(1, x.dtype))

    def product(v: Array) -> Array:
        U = hessians.times(x @ v.astype(x.dtype))
        return (x.T @ U).astype(np.float64) + penalty * v

    return _conjugate_gradients(product, _ClassBlocks.of(x, diagonals, penalty, rows.backend).solve, g, eta)


def _conjugate_gradients(
    product: Callable[[Array], Array], solve: Callable[[Array], Array], g: Array, eta: float
) -> Array:
    """Solve H p = g for `product` with H, preconditioned by `solve`, until the residual is `eta` of g in its norm."""
    p, r = np.zeros_like(g), g.copy()
    z = solve(r)
    v, size = z, float(np.vdot(r, z))
    goal = eta**2 * size
    for _ in range(MOST_PRODUCTS):
        Hv = product(v)
        curvature = float(np.vdot(v, Hv))
        if not curvature > 0:  # rounding errors alone
            break
        a = size / curvature
        p += a * v
        r -= a * Hv
        z = solve(r)
        before, size = size, float(np.vdot(r, z))
        if size <= goal:
            break
        v = z + (size / before) * v
    return p


@dataclass(frozen=True)
class _ClassBlocks:
    """The inverses of the Hessian's blocks of single classes, with the mean over the classes apart.

    See `preconditioners.base.BlockDiagonal`, whose inverses are each applied by themselves, in more time.
    """

    inverses: Array  # (c, q, q)
    mean_inverse: Array  # (q, 1)

    @classmethod
    def of(cls, x: Array, diagonals: Array, penalty: Array, backend: Backend) -> _ClassBlocks:
        """Invert sum_i h_ij x_i x_i' + diag(penalty) for each class j; x is (m, q), h (m, c), and `penalty` (q, 1)."""
        (m, c), q = diagonals.shape, x.shape[1]
        inverses = np.empty((c, q, q), x.dtype)

        def work(run: range) -> None:
            for j in run:
                inverses[j] = _inverse(x, np.ascontiguousarray(diagonals[:, j]), penalty[:, 0])

        backend.for_each(work, c)
        return cls(inverses, np.divide(1.0, penalty, out=np.zeros_like(penalty), where=penalty > 0))

    def solve(self, v: Array) -> Array:
        """Compute M^-1 v for v (q, c)."""
        mean = v.mean(axis=1, keepdims=True)
        columns = np.ascontiguousarray((v - mean).T, self.inverses.dtype)[:, :, None]
        solution = np.matmul(self.inverses, columns)[:, :, 0].T.astype(np.float64)
        return solution - solution.mean(axis=1, keepdims=True) + mean * self.mean_inverse


def _inverse(x: Array, h: Array, penalty: Array) -> Array:
    """Invert sum_i h_i x_i x_i' + diag(penalty), (q, q), from the rows that have most of the curvature h (m,)."""
    total = float(h.sum())
    if not total > np.finfo(h.dtype).tiny * len(h):
        return np.diag(np.divide(1.0, penalty, out=np.ones_like(penalty), where=penalty > 0)).astype(x.dtype)
    kept = np.flatnonzero(h > DROPPED_OF_CLASS * total / len(h))
    a = x[kept]
    a *= np.sqrt(h[kept] / total)[:, None]
    M = a.T @ a
    scale = np.diagonal(M) + penalty / total
    scale = np.sqrt(np.where(scale > 0, scale, 1.0))
    M /= np.outer(scale, scale)
    R = cholesky(M, penalty / (total * scale**2))
    scale *= np.sqrt(total)
    if R is None:
        return np.diag(1 / scale**2).astype(x.dtype)
    R /= scale
    inverse: Array = R.T @ R
    return inverse
