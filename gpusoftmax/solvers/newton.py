"""Truncated Newton: a guide for small data, whose Hessian products cost little.

At each point the Newton system H p = g is solved to ETA by conjugate gradients, and the step length is found on scores
that are kept. L-BFGS then tries that point in a pass over the data. That takes a fifth of the passes that L-BFGS takes
alone (digits: 5 for 25), and less where it takes hundreds, as for the squared hinge or a weak penalty.

The Hessian is sum_i s_i kron(x_i x_i', C_i) + l2 diag(r). Rows whose curvature is far below the mean are left out:
most rows of a confident model, and with the squared hinge all that violate no margin, so that its steps are those of a
semismooth Newton method (Mangasarian, 2002). There are two preconditioners. The first one is the Gram matrix of the
rows times a factor for each class. It is made once. Where it needs many products, the Hessian's blocks of the single
classes take over, made anew at each point.

With the squared hinge and a weak penalty, so many other rows violate a margin after a Newton step that only a tenth of
it helps. There the penalty is weakened in steps: each Newton step is for a penalty not much weaker than that for which
the weights are optimal (continuation). Raw digits then take 17 steps instead of 62.

The data are small, so all this is done in float32 on the host, even for a GPU: only the direction comes from here, the
objective and its gradient from passes over the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.files.dataset import aligned_empty
from gpusoftmax.objective.objective import Objective
from gpusoftmax.operations import HessianProducts, RowCurvature
from gpusoftmax.solvers.base import Kept, not_kept
from gpusoftmax.solvers.preconditioners.inverses import cholesky
from gpusoftmax.solvers.preconditioners.sample import (
    PASS_OVERHEAD,
    penalty_curvature,
    penalty_diagonal,
    penalty_strength,
    weight_fractions,
)

# Residual of a Newton system relative to g, in the norm of the preconditioner: the less smooth the loss, the less can
# the next step correct.
ETA, ETA_WITH_KINKS = 0.1, 0.03
BLOCK, COLUMNS = 64, 4  # rows of a block of `operations.RowCurvature`, and what its columns are a multiple of
MOST_PRODUCTS = 100  # with the Hessian, in a step
# Blocks of single classes are made after a step with more products than this, for each column of the features: they
# take as long as about so many.
PRODUCTS_PER_COLUMN = 1 / 4
# Rows with less than this fraction of the mean curvature are left out of the Hessian, and of the block of a class.
DROPPED, DROPPED_OF_CLASS = 1e-3, 1e-2
ALL_ROWS = 0.75  # from this fraction of the rows on, a copy of them would take longer than it saves
SMALLEST_FACTOR = 1e-6  # of a class in the first preconditioner, relative to the largest
WEAKEN = 3.0  # by which the penalty is divided in a step of continuation
FLAT = 0.1  # slope at which a line search ends, relative to that at its start
LONGEST = 1e3  # a line search goes no further
# A pass may take at most MOST_OPERATIONS, and the eigenpairs of the Gram matrix (EIGENPAIRS d^3 operations) as long as
# EIGENPAIRS_PASSES passes.
MOST_OPERATIONS, EIGENPAIRS, EIGENPAIRS_PASSES = 8e7, 9.0, 3.0
# It begins at once with a smooth loss, few classes, a pass that takes no longer than the rest of a step of L-BFGS, and
# a penalty with which the gradient does not vanish far from the optimum.
OPERATIONS_AT_ONCE, CLASSES_AT_ONCE, WEAKEST_AT_ONCE = 8e6, 20, 1e-6


def _suits(objective: Objective) -> bool:
    """Whether a step takes no longer than a few passes, by the shape alone."""
    features = objective.features
    if features.is_sparse or not objective.loss.has_curvature or features.n < features.d:
        return False
    cost = features.pass_cost(objective.n_classes)
    return cost <= MOST_OPERATIONS and EIGENPAIRS * features.d**3 <= EIGENPAIRS_PASSES * (cost + PASS_OVERHEAD)


def begins_at_once(objective: Objective) -> bool:
    """Whether the guide begins at the start, where L-BFGS alone is expected to be slower; else it waits."""
    return (
        _suits(objective)
        and objective.n_models == 1
        and objective.n_classes <= CLASSES_AT_ONCE
        and objective.features.pass_cost(objective.n_classes) <= OPERATIONS_AT_ONCE
        and objective.loss.has_smooth_gradient
        and float(objective.penalty_on_host.strengths.min()) >= WEAKEST_AT_ONCE
    )


def guides(objective: Objective) -> list[Newton | None]:
    """Return a guide for each model, or None where its steps would take too long."""
    if not _suits(objective):
        return [None] * objective.n_models
    rows, waiting = HostRows(objective), int(not begins_at_once(objective))
    return [Newton(rows, k, waiting) for k in range(objective.n_models)]


@dataclass(frozen=True)
class HostRows:
    """The rows of a small data set on the host, scaled and centred, which the guides of all models share.

    They are read once they are needed. Weights and directions are (c, q) here: with a row for each class, and a column
    for the intercept, if there is one.

    Attributes
    ----------
    objective : Objective
        That of all models.
    """

    objective: Objective

    @cached_property
    def numbers(self) -> Array:
        """The numbers of the rows, (n,)."""
        return self.objective.features.row_numbers(np.arange(self.objective.features.n))

    @cached_property
    def labels(self) -> Array:
        """Class indices of the rows, (n,)."""
        labels: Array = self.objective.backend.to_numpy(self.objective.labels)[self.numbers]
        return labels

    @cached_property
    def _centred(self) -> tuple[Array, Array | None]:
        objective, features = self.objective, self.objective.features
        sample = features.sample(self.numbers)
        centre = None
        if objective.has_free_intercept:  # weighted: in float32 a row that hardly counts must not move all others
            shares = [weight_fractions(objective, k, self.numbers) for k in range(objective.n_models)]
            centre = np.mean(shares, axis=0) @ sample
        x = np.ones((features.n, features.d + objective.fit_intercept), np.float32)
        np.subtract(sample, 0.0 if centre is None else centre, out=x[:, : features.d], casting="same_kind")
        return x, centre

    @property
    def x(self) -> Array:
        """The features less `centre`, (n, q) float32; with an intercept, the last column is 1."""
        return self._centred[0]

    @property
    def centre(self) -> Array | None:
        """The weighted mean of the features (d,), float64, if an unpenalised intercept is trained; else None."""
        return self._centred[1]

    @cached_property
    def blocks(self) -> Array:
        """The features in blocks; see `operations.RowCurvature`."""
        return in_blocks(self.x, COLUMNS)

    @cached_property
    def backend(self) -> Backend:
        """The backend of the host."""
        return self.objective.backend.on_this_host()

    @cached_property
    def host(self) -> HessianProducts:
        """What multiplies by Hessians."""
        return cast(HessianProducts, self.backend.ops)

    def inside(self, W: Array) -> Array:
        """Return weights and intercepts (d + 1, c) as weights (c, q) of the centred features."""
        found = W.T[:, : self.x.shape[1]].astype(np.float64)
        if self.centre is not None:
            found[:, -1] += self.centre @ W[:-1]
        return found

    def gradient_inside(self, g: Array) -> Array:
        """Return the gradient (d + 1, c) with respect to what `inside` returns."""
        found = g.T[:, : self.x.shape[1]].astype(np.float64)
        if self.centre is not None:
            found[:, :-1] -= np.outer(g[-1], self.centre)
        return found

    def outside(self, W: Array) -> Array:
        """Undo `inside`; an intercept that is not trained is 0."""
        found = np.zeros((self.objective.features.d + 1, len(W)))
        found[: W.shape[1]] = W.T
        if self.centre is not None:
            found[-1] -= W[:, :-1] @ self.centre
        return found

    def scores(self, W: Array) -> Array:
        """Scores of all rows (n, c), in Fortran's order: operations over classes are then operations on vectors."""
        return (W.astype(np.float32) @ self.x.T).T


def in_blocks(x: Array, multiple: int = 1) -> Array:
    """Copy x (m, q) to blocks (blocks, columns, BLOCK), where `columns` is q rounded up to a multiple; adds zeros."""
    m, q = x.shape
    whole = m // BLOCK
    blocks = aligned_empty((-(-m // BLOCK), -(-q // multiple) * multiple, BLOCK), x.dtype)
    blocks[:, q:], blocks[whole:] = 0, 0
    blocks[:whole, :q] = x[: whole * BLOCK].reshape(whole, BLOCK, q).transpose(0, 2, 1)
    if whole < len(blocks):
        blocks[whole, :q, : m - whole * BLOCK] = x[whole * BLOCK :].T
    return blocks


@dataclass
class Newton(Kept):
    """The guide of model k; see `guides.Guide`.

    Attributes
    ----------
    rows : HostRows
    k : int
    waiting : int
        1 while it waits, else 0.
    by_class : int
        1 if the Hessian's blocks of single classes are the preconditioner from now on, else 0.
    """

    rows: HostRows = not_kept()
    k: int = not_kept()
    waiting: int = 0
    by_class: int = 0
    outlives_rejection, moved = True, False

    @property
    def waits(self) -> bool:
        """See `guides.Guide`."""
        return self.waiting == 1

    def begin(self) -> None:
        """See `guides.Guide`."""
        self.waiting = 0

    @cached_property
    def fractions(self) -> Array:
        """The weights of the rows, divided by their sum, (n,)."""
        return weight_fractions(self.rows.objective, self.k, self.rows.numbers).astype(np.float32)

    @cached_property
    def relative_penalty(self) -> Array:
        """The diagonal of the penalty for l2 = 1, (q,)."""
        diagonal = penalty_diagonal(self.rows.objective)
        return np.append(diagonal, np.zeros(self.rows.x.shape[1] - len(diagonal)))

    @cached_property
    def l2(self) -> float:
        """The strength of the penalty."""
        return penalty_strength(self.rows.objective, self.k)

    @cached_property
    def gram(self) -> _Gram:
        """What the first preconditioner is made from."""
        return _Gram.of(self.rows, self.fractions, self.relative_penalty)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # L-BFGS takes over from what is not finite
    def direction(self, x: Any, g: Any, preconditioned_g: Any) -> tuple[Any, float] | None:
        """See `guides.Guide`."""
        rows, backend = self.rows, self.rows.objective.backend
        gradient = backend.to_numpy(g).astype(np.float64)
        W, g_inside = rows.inside(backend.to_numpy(x)), rows.gradient_inside(gradient)
        l2 = self._strength(W, g_inside)
        g_inside += (l2 - self.l2) * self.relative_penalty * W
        scores = rows.scores(W)
        if not np.isfinite(scores).all():
            return None
        # M^-1 g is the Newton step from zero
        of_zero = None if W.any() else rows.inside(backend.to_numpy(preconditioned_g))
        step = self._newton_step(scores, g_inside, l2) if of_zero is None else of_zero
        decrease = float((g_inside * step).sum())
        if not 0 < decrease < np.inf:
            return None
        step *= self._length(scores, step, decrease, l2)
        found = self._with_exact_class_mean(rows.outside(step), gradient)
        slope = float((gradient * found).sum())
        if not 0 < slope < np.inf:
            return None
        return backend.asarray(found.astype(rows.objective.features.dtype)), slope

    def _with_exact_class_mean(self, step: Array, g: Array) -> Array:
        """Replace the mean over the classes of a step (d + 1, c) by that of the Newton step; g is the gradient.

        The losses do not depend on the mean of the weights, and the penalty is quadratic. Rounding errors in float32
        would stay in the solution, whose mean is 0.
        """
        penalty = penalty_curvature(self.rows.objective, self.k)
        penalty = np.append(penalty, np.zeros(len(step) - len(penalty)))
        mean = np.divide(g.mean(axis=1), penalty, out=np.zeros_like(penalty), where=penalty > 0)
        exact: Array = step + (mean - step.mean(axis=1))[:, None]
        return exact

    def _strength(self, W: Array, g: Array) -> float:
        """Return the l2 to take a step for: that of the objective, or a stronger one if the loss has kinks.

        Weights are optimal for l2 if the gradient of the loss is -l2 r W. The least-squares solution of that is the l2
        for which W is about optimal.
        """
        if self.rows.objective.loss.has_smooth_gradient or not W.any():
            return self.l2
        penalty = self.relative_penalty * W
        of_loss = g - self.l2 * penalty
        return max(self.l2, -float((of_loss * W).sum() / (penalty * W).sum()) / WEAKEN)

    def _newton_step(self, scores: Array, g: Array, l2: float) -> Array:
        """Solve H p = g, and return p (c, q)."""
        rows, loss = self.rows, self.rows.objective.loss
        hessians = loss.row_hessians(scores.copy(order="K"), rows.labels, self.fractions)
        diagonals, penalty = hessians.diagonals(), l2 * self.relative_penalty
        traces = diagonals.sum(axis=1)
        kept = np.flatnonzero(traces > DROPPED * traces.mean())
        few = len(kept) < ALL_ROWS * len(rows.x)
        x, diagonals = (rows.x[kept], diagonals[kept]) if few else (rows.x, diagonals)
        if self.by_class:
            inverses = _class_inverses(x, diagonals, penalty, rows.backend)
        else:
            inverses = self.gram.inverses(diagonals.sum(axis=0, dtype=np.float64), l2)
        numbers = kept if few else slice(None)
        curvature = RowCurvature(
            x=in_blocks(x, COLUMNS) if few else rows.blocks,
            factors=in_blocks(hessians.factors[numbers]),
            labels=None if loss.has_smooth_gradient else in_blocks(rows.labels[numbers, None])[:, 0],
            weights=in_blocks(self.fractions[numbers, None])[:, 0],
        )
        hessian = rows.host.hessian_product(curvature)
        step, products = _conjugate_gradients(
            lambda v: hessian(v) + penalty * v,
            _Preconditioner(inverses, np.divide(1.0, penalty, out=np.zeros_like(penalty), where=penalty > 0)),
            g,
            ETA if loss.has_smooth_gradient else ETA_WITH_KINKS,
        )
        self.by_class = int(self.by_class or products > PRODUCTS_PER_COLUMN * x.shape[1])
        return step

    def _length(self, scores: Array, step: Array, decrease: float, l2: float) -> float:
        """Return the a > 0 at which the objective with this l2 is least along W - a step; at 0 it falls by `decrease`.

        It is 1 where rounding errors of the scores would decide: then the step is small, and the Hessian constant.
        """
        rows, change = self.rows, self.rows.scores(step)
        weighted = change * self.fractions[:, None]
        noise = float(np.finfo(change.dtype).eps) * (1 + abs(scores).max()) * float(abs(weighted).sum())
        if FLAT * decrease <= noise:
            return 1.0
        curvature = l2 * float((self.relative_penalty * step * step).sum())

        def derivative(a: float) -> float:
            """The derivative at a, less the part of it that does not depend on a: of the penalty and soft labels."""
            gradients = rows.objective.loss.row_gradients(scores - np.float32(a) * change, rows.labels)
            return a * curvature - float(np.vdot(gradients.T, weighted.T))

        constant = -decrease - derivative(0.0)
        return _root(lambda a: derivative(a) + constant, -decrease)


def _root(function: Callable[[float], float], start: float) -> float:
    """Find where an increasing function is zero, to FLAT of its value at 0, `start` < 0; 1 is tried first.

    Regula falsi, kept away from the ends of the interval.
    """
    low, high, left, right = 0.0, 1.0, start, function(1.0)
    if abs(right) < FLAT * abs(start):
        return 1.0
    while right < 0 and high < LONGEST:
        low, left, high = high, right, 4 * high
        right = function(high)
    if not right > 0:  # there is no minimum, or it is out of reach
        return high
    while high - low > 1e-3 * high:
        margin = 0.05 * (high - low)
        middle = min(max(low - left * (high - low) / (right - left), low + margin), high - margin)
        here = function(middle)
        if abs(here) < FLAT / 2 * abs(start):
            return middle
        if here < 0:
            low, left = middle, here
        else:
            high, right = middle, here
    return low or high


@dataclass(frozen=True)
class _Preconditioner:
    """M^-1 for each class (c, q, q), and for the mean over the classes (q,), which is removed before and after."""

    inverses: Array
    mean_inverse: Array

    def solve(self, v: Array) -> Array:
        """Compute M^-1 v for v (c, q)."""
        mean = v.sum(axis=0) / len(v)  # mean() takes twice as long for so few numbers
        solution = np.matmul(self.inverses, (v - mean).astype(self.inverses.dtype)[:, :, None])[:, :, 0]
        found: Array = solution.astype(np.float64) - solution.sum(axis=0) / len(v) + mean * self.mean_inverse
        return found


def _conjugate_gradients(
    product: Callable[[Array], Array], preconditioner: _Preconditioner, g: Array, eta: float
) -> tuple[Array, int]:
    """Solve H p = g until the residual is `eta` of g, in the norm of M^-1; `product` multiplies by H.

    Returns p and the number of products.
    """
    p, r, v = np.zeros_like(g), g.copy(), preconditioner.solve(g)
    size = float(np.vdot(g, v))
    goal = eta**2 * size
    for products in range(1, MOST_PRODUCTS + 1):
        Hv = product(v)
        curvature = float(np.vdot(v, Hv))
        if not curvature > 0:  # only rounding errors are left
            return p, products
        a = size / curvature
        p += a * v
        r -= a * Hv
        z = preconditioner.solve(r)
        before, size = size, float(np.vdot(r, z))
        if size <= goal:
            return p, products
        v = z + (size / before) * v
    return p, MOST_PRODUCTS


@dataclass(frozen=True)
class _Gram:
    """The Gram matrix G of the features, centred if the intercept is free, as eigenpairs of R^-1/2 G R^-1/2.

    R is the diagonal of the penalty for l2 = 1.
    """

    values: Array  # (d,), the penalised intercept included
    vectors: Array  # R^-1/2 V (d, d)
    mean: Array | None  # (d,), or None without a free intercept

    @classmethod
    def of(cls, rows: HostRows, fractions: Array, relative_penalty: Array) -> _Gram:
        """Compute the eigenpairs for rows with these weights."""
        d = len(relative_penalty) - (rows.centre is not None)
        mean = None if rows.centre is None else fractions @ rows.x[:, :d]
        root = np.sqrt(relative_penalty[:d])
        a = rows.x[:, :d] if mean is None else rows.x[:, :d] - mean
        a = a * np.sqrt(fractions)[:, None]
        G = (a.T @ a).astype(np.float64) / np.outer(root, root)
        G[np.diag_indices(d)] *= 1 + 8 * float(np.finfo(a.dtype).eps)  # columns may be of different sizes
        values, V = np.linalg.eigh(G)
        smallest = 8 * float(np.finfo(G.dtype).eps) * float(values[-1])
        return cls(np.maximum(values, smallest), V / root[:, None], mean)

    def inverses(self, factors: Array, l2: float) -> Array:
        """Invert factors_j G + l2 R for each class j: (c, q, q), for curvatures `factors` (c,) of the classes."""
        d, q = len(self.values), len(self.values) + (self.mean is not None)
        factors = np.maximum(factors, max(SMALLEST_FACTOR * factors.max(), np.finfo(np.float64).tiny))
        roots = self.vectors / np.sqrt(np.outer(factors, self.values) + l2)[:, None]
        inverses = np.empty((len(factors), q, q), np.float32)
        inverses[:, :d, :d] = roots @ roots.transpose(0, 2, 1)
        if self.mean is not None:
            coupling = -inverses[:, :d, :d] @ self.mean
            inverses[:, d, :d] = inverses[:, :d, d] = coupling
            inverses[:, d, d] = 1 / factors - coupling @ self.mean
        return inverses


def _class_inverses(x: Array, diagonals: Array, penalty: Array, backend: Backend) -> Array:
    """Invert sum_i h_ij x_i x_i' + diag(penalty) for each class j: (c, q, q); x is (m, q) and h (m, c)."""
    return np.stack([_inverse(x, diagonals[:, j], penalty, backend) for j in range(diagonals.shape[1])])


def _inverse(x: Array, h: Array, penalty: Array, backend: Backend) -> Array:
    """Invert sum_i h_i x_i x_i' + diag(penalty), (q, q), from the rows that have most of the curvature h (m,)."""
    total = float(h.sum())
    if not total > len(h) * float(np.finfo(h.dtype).tiny):
        return np.diag(np.divide(1.0, penalty, out=np.ones_like(penalty), where=penalty > 0)).astype(x.dtype)
    kept = np.flatnonzero(h > DROPPED_OF_CLASS * total / len(h))
    a = x[kept]
    a *= np.sqrt(h[kept] / total)[:, None]
    M = a.T @ a
    scale = np.diagonal(M) + penalty / total
    scale = np.sqrt(np.where(scale > 0, scale, 1.0))
    M /= np.outer(scale, scale)
    R = cholesky(M, penalty / (total * scale**2), backend)
    scale *= np.sqrt(total)
    if R is None:
        return np.diag(1 / scale**2).astype(x.dtype)
    R /= scale
    inverse: Array = R.T @ R
    return inverse
