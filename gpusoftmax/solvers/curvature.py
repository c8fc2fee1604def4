"""Approximate inverses of the objective's Hessian, from a sample of the rows: what preconditions L-BFGS.

The Hessian of the mean loss is (1 / S) sum_i s_i (x_i x_i') (x) C_i, with C_i (c, c) the loss's curvature in the scores
of row i: diag(p_i) - p_i p_i' for softmax. Three approximations, the first of which needs no point:

    Gram        kappa G for each class, G = (1 / S) sum_i s_i (x_i - m)(x_i - m)', kappa = 1 / c for softmax and 4 for
                the squared hinge: at equal probabilities it is exact, up to a shift that all classes share
    class-wise  (1 / S) sum_i s_i C_ijj (x_i - m_j)(x_i - m_j)' for class j
    joint       all of it, ((d + 1) c)^2 numbers, where d c is small

each with + l2 diag(r). A free intercept absorbs the mean m (of the rows, or weighted by s_i C_ijj): in the coordinates
b + m'W it does not couple with W. A penalised one is one more feature that is 1.

Where a model is confident, few rows have any curvature left. The last two draw row i with a probability proportional to
its curvature, and weigh it with the inverse of that, which leaves the expectation as it is.

Rows are centred before the product: correcting an uncentred product makes Cholesky fail at weak penalties.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpusoftmax.batches import NO_EPOCH, generator
from gpusoftmax.cpu.pool import for_each, single_threaded_blas
from gpusoftmax.objective import Objective
from gpusoftmax.reference import LOSSES
from gpusoftmax.solvers.factors import Cholesky, Diagonal, Inverse, Rows, cholesky

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")

FULL_FEATURES = 8192  # d up to which d x d matrices are made: 256 MB in float32
SAMPLE_PER_FEATURE, SMALLEST_SAMPLE = 2, 2048  # rows of the sample
LOW_RANK, LOW_RANK_ELEMENTS = 2048, 1 << 26  # rows of a low-rank sample at most, and its numbers
SMALLEST_LOW_RANK = 32  # with fewer, the diagonal
BLOCK = 512  # rows of the sample that are looked at at a time
JOINT = 2000  # (d + 1) c up to which the joint matrix is made
CLASS_WISE_ELEMENTS = 1 << 27  # numbers of all classes' factors at most
CANDIDATES_PER_FEATURE, FEWEST_CANDIDATES = 8, 8192  # rows whose curvature is looked at
AFFORDABLE = 100.0  # reads that a first metric may cost
CALL = 2e7  # operations that take as long as what a read of X costs besides its products
GRAM_CURVATURES: dict[str, Callable[[int], float]] = {"softmax": lambda c: 1.0 / c, "squared_hinge": lambda c: 4.0}


class Metric(Protocol):
    """M^-1 of one model."""

    def solve(self, v: Any) -> Any:
        """M^-1 v for v (d + 1, c), the intercepts' part in the last row."""


@dataclass(frozen=True)
class Shared:
    """One inverse for all classes that v has; `centre` (d, 1) is m, None without a free intercept."""

    inverse: Inverse
    centre: Any
    kappa: float
    penalised: bool

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        if self.penalised:
            return self.inverse.solve(v)
        solution = 0 * v
        if self.centre is None:
            solution[:-1] = self.inverse.solve(v[:-1])
        else:
            solution[:-1] = self.inverse.solve(v[:-1] - self.centre * v[-1:])
            solution[-1:] = v[-1:] / self.kappa - self.centre.T @ solution[:-1]
        return solution


@dataclass(frozen=True)
class ClassWise:
    """An inverse for each class, between projections onto what classes do not share.

    A part that all classes share changes no loss, and each inverse alone would make one: without the projections some
    problems took three times as many steps. Along it there is the penalty alone: `shared` (d + 1, 1), inf where there
    is none.
    """

    classes: list[Shared]
    shared: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        c = len(self.classes)
        common = v.sum(axis=1)[:, None] / c
        v = v - common
        solution = 0 * v
        for j, metric in enumerate(self.classes):
            solution[:, j : j + 1] = metric.solve(v[:, j : j + 1])
        return solution - solution.sum(axis=1)[:, None] / c + common / self.shared


@dataclass(frozen=True)
class Joint:
    """One inverse over all numbers of a model, class after class within a feature."""

    inverse: Inverse
    centre: Any
    penalised: bool

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        d, v = v.shape[0] - 1, v.copy()  # of one piece
        if self.penalised:
            return self.inverse.solve(v.reshape(-1, 1)).reshape(v.shape)
        solution = 0 * v
        if self.centre is None:
            solution[:-1] = self.inverse.solve(v[:-1].reshape(-1, 1)).reshape(d, -1)
        else:
            v[:-1] -= self.centre * v[-1:]
            solution[:] = self.inverse.solve(v.reshape(-1, 1)).reshape(v.shape)
            solution[-1:] -= self.centre.T @ solution[:-1]
        return solution


@dataclass(frozen=True)
class Preconditioner:
    """M^-1 over K models.

    Attributes
    ----------
    metrics : list of Metric, one a model
    rows : int
        Of the sample that was read.
    """

    metrics: list[Metric]
    rows: int

    def apply(self, g: Any, out: Any) -> Any:
        """M^-1 g, both (d + 1, K, c) with the intercepts' part in the last row; -> out."""
        for k, metric in enumerate(self.metrics):
            out[:, k] = metric.solve(g[:, k])
        return out

    def of(self, models: list[int]) -> Preconditioner:
        """The same for some of the models."""
        return replace(self, metrics=[self.metrics[k] for k in models])

    def with_metric(self, k: int, metric: Metric) -> Preconditioner:
        """The same with another metric for model k."""
        return replace(self, metrics=[*self.metrics[:k], metric, *self.metrics[k + 1 :]])


# ---- without a point


class GramSample:
    """Rows that `seed` draws, for Gram matrices in the form that fits the objective's shape.

    What all penalties share is made once. `cost` is what an inverse takes, in reads of X; `at_once` tells whether it is
    worth that before a cheaper one has proved slow.

    Parameters
    ----------
    objective : Objective
        Its weights and penalties may change later, its features may not.
    seed : int
        Draws the rows.
    """

    def __init__(self, objective: Objective, seed: int) -> None:
        n, d, c = objective.features.n, objective.features.d, objective.n_classes
        full = d <= FULL_FEATURES and n >= d
        wanted = max(SMALLEST_SAMPLE, SAMPLE_PER_FEATURE * d) if full else min(LOW_RANK, LOW_RANK_ELEMENTS // d)
        self.chosen = _uniform(n, wanted if full else max(wanted, SMALLEST_LOW_RANK), generator(seed, NO_EPOCH + 1))
        self.kind = "cholesky" if full else "low rank" if wanted >= len(self.chosen) else "diagonal"
        self.cost = _factor_cost(self.kind, len(self.chosen), d) / _read_cost(n, d, c)
        # with fewer rows than features, applying the inverse takes as long as a read, and the diagonal is often enough
        self.at_once = self.kind == "cholesky" and self.cost <= AFFORDABLE
        self._products: tuple[Any, Rows, Any] | None = None  # of the last shares of the weights

    def precondition(self, objective: Objective) -> Preconditioner:
        """The inverses of kappa G_k + l2_k diag(r), or of its diagonals if these are not to be made at once; logged."""
        kind = self.kind if self.at_once else "diagonal"
        metrics, last = list[Metric](), (b"", 0.0)
        with single_threaded_blas():
            for k in range(objective.n_models):
                share, l2 = self._key(objective, k)
                key = share.tobytes(), l2
                metrics.append(metrics[-1] if key == last else self.metric(objective, k, kind))  # neighbours may share
                last = key
        return Preconditioner(metrics, len(self.chosen))

    @np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
    def metric(self, objective: Objective, k: int, kind: str | None = None) -> Metric:
        """Model k's."""
        backend, kind = objective.backend, kind or self.kind
        kappa = GRAM_CURVATURES[LOSSES[objective.loss]](objective.n_classes)
        share, l2 = self._key(objective, k)
        key = kind, share.tobytes()
        if self._products is None or self._products[0] != key:
            log.info("preconditioner: %s, from %d of %d rows", kind, len(self.chosen), objective.features.n)
            a, mean, raw = _centred(objective, self.chosen, share, kappa)
            centre = backend.asarray(mean.astype(a.dtype)[:, None]) if _is_free(objective) else None
            self._products = key, Rows(kind, a, raw, backend, backend.n_threads), centre
        _, rows, centre = self._products
        return Shared(rows.inverse(l2 * _penalty(objective)), centre, kappa, objective.penalize_intercept)

    def _key(self, objective: Objective, k: int) -> tuple[Array, float]:
        """What tells one model's inverse from another's: shares of the weights, and l2."""
        return _shares(objective, k, self.chosen), float(objective.backend.to_numpy(objective.l2)[k])


def _factor_cost(kind: str, m: int, d: int) -> float:
    """Operations that an inverse from m rows of d features takes, LAPACK's at the rate of a product's."""
    if kind == "diagonal":
        return 2.0 * m * d
    return m * d**2 + 3.0 * d**3 if kind == "cholesky" else 2.0 * m**2 * d + 9.0 * m**3


def _read_cost(n: int, d: int, c: int) -> float:
    """Operations of a read of X by one model."""
    return 4.0 * n * d * c + CALL


def precondition(objective: Objective, seed: int) -> Preconditioner:
    """Of a sample that is used once."""
    return GramSample(objective, seed).precondition(objective)


def _uniform(n: int, size: int, rng: np.random.Generator) -> Array:
    """Row numbers in order: so many of n without repetition, or all."""
    return np.sort(rng.choice(n, size, replace=False)) if size < n else np.arange(n)


def _is_free(objective: Objective) -> bool:
    """Whether there is an intercept without a penalty."""
    return objective.fit_intercept and not objective.penalize_intercept


def _penalty(objective: Objective) -> Array:
    """diag(r): (d,), or (d + 1,) with a penalised intercept."""
    factors = objective.penalty_factors
    penalty = np.ones(objective.features.d) if factors is None else objective.backend.to_numpy(factors)
    return np.append(penalty, 1.0) if objective.penalize_intercept else penalty


def _shares(objective: Objective, k: int, rows: Array) -> Array:
    """s_i / S over some rows (float64, their sum 1); equal ones where none of model k's weights is positive there."""
    if objective.weights is None:
        return np.full(len(rows), 1 / len(rows))
    s = objective.backend.to_numpy(objective.weights)[rows, k].astype(np.float64)
    return s / s.sum() if s.sum() > 0 else np.full(len(rows), 1 / len(rows))


def _centred(objective: Objective, rows: Array, share: Array, kappa: float) -> tuple[Array, Array, Array]:
    """a (m, d): sqrt(kappa share_i) (x_i - centre), with a'a = kappa G; centre (d,); the diagonal of a'a uncentred.

    Block by block, since fresh memory for all rows in float64 costs more than the arithmetic.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    d = objective.features.d + objective.penalize_intercept
    mean, raw = np.zeros(d), np.zeros(d)
    for of in blocks:
        x = _block(objective, rows[of])
        mean += share[of] @ x
        raw += kappa * (share[of] @ (x * x))
    centre = mean if _is_free(objective) else np.zeros_like(mean)
    a: Array = np.empty((len(rows), d), objective.features.dtype)
    for of in blocks:
        x = _block(objective, rows[of])
        np.multiply(np.sqrt(kappa * share[of])[:, None], x - centre, out=a[of], casting="same_kind")
    return a, centre, raw


def _block(objective: Objective, rows: Array) -> Array:
    """Scaled features of some rows in float64, with a column of ones if the intercept is penalised."""
    x = objective.features.sample(rows)
    return np.hstack([x, np.ones((len(x), 1))]) if objective.penalize_intercept else x


# ---- at a point


def refresh_cost(objective: Objective) -> float:
    """What `refresh` of one model would take, in reads of X by that model; inf where memory forbids it."""
    n, d, c = objective.features.n, objective.features.d, objective.n_classes
    if is_joint(objective):
        size = (d + 1) * c
        return (_joint_rows(objective) * size**2 + 2 / 3 * size**3 + CALL) / _read_cost(n, d, c)
    m = _class_rows(objective)
    if c * d * min(d, m) > CLASS_WISE_ELEMENTS:
        return float("inf")
    return c * (_factor_cost("cholesky" if m >= d else "low rank", m, d) + CALL / 10) / _read_cost(n, d, c)


def _joint_rows(objective: Objective) -> int:
    return min(objective.features.n, max(512, 4 * objective.features.d))


def _class_rows(objective: Objective) -> int:
    return min(objective.features.n, SAMPLE_PER_FEATURE * objective.features.d)


@np.errstate(over="ignore", invalid="ignore")
def refresh(objective: Objective, k: int, point: Any, seed: int, times: int) -> tuple[Metric, int]:
    """The joint or the class-wise metric of model k at its point (d + 1, c), and how many rows were looked at.

    `times` tells the refreshes of a solve apart: each draws its own rows.
    """
    features, backend, c = objective.features, objective.backend, objective.n_classes
    d, dtype = features.d, features.dtype
    rng = generator(seed, NO_EPOCH + 2 + times)
    rows = _uniform(features.n, max(FEWEST_CANDIDATES, CANDIDATES_PER_FEATURE * d), rng)
    x, curvature, centre = _candidates(objective, k, rows, backend.to_numpy(point).astype(np.float64))
    penalty = float(backend.to_numpy(objective.l2)[k]) * _penalty(objective)
    free, penalised = _is_free(objective), objective.penalize_intercept
    with single_threaded_blas():
        if is_joint(objective):
            chosen, scale = _important(curvature.total(), _joint_rows(objective), rng)
            if free:
                x = np.hstack([x, np.ones((len(x), 1), dtype)])
                penalty = np.append(penalty, 0.0)
            inverse = _joint_inverse(x[chosen], curvature.of(chosen, scale), np.repeat(penalty, c), backend)
            log.info("preconditioner: joint, from %d of %d rows", len(chosen), features.n)
            metric: Metric = Joint(inverse, backend.asarray(centre.astype(dtype)[:, None]) if free else None, penalised)
            return metric, len(rows)
        size, seeds = _class_rows(objective), rng.integers(1 << 62, size=c)
        classes: list[Any] = [None] * c

        def work(run: range) -> None:
            for j in run:
                weights = curvature.diagonal(j)
                chosen, scale = _important(weights, size, np.random.default_rng(seeds[j]))
                share = (weights[chosen] * scale).astype(np.float64)
                classes[j] = _class_metric(objective, x[chosen], share, penalty, centre)

        for_each(work, c, backend.n_threads)
    log.info("preconditioner: class-wise, from at most %d of %d rows a class", size, features.n)
    shared = np.where(penalty > 0, penalty, np.inf)
    shared = shared if penalised else np.append(shared, np.inf)
    return ClassWise(classes, backend.asarray(shared.astype(dtype)[:, None])), len(rows)


def is_joint(objective: Objective) -> bool:
    """Whether `refresh` makes the joint matrix, which is as good as the Hessian."""
    return (objective.features.d + 1) * objective.n_classes <= JOINT


@dataclass(frozen=True)
class Curvature:
    """C_i of some rows, times their share of the weights.

    Softmax: diag(p) - pp'. Squared hinge, with a_j = 1 for the classes j != y whose margin is violated and A of them:
    2 (diag(a) + A e_y e_y' - a e_y' - e_y a').
    """

    share: Array  # (m,)
    p: Array  # (m, c): probabilities, or a
    target: Array | None  # (m, c): one-hot labels of the hinge

    def pair(self, j: int, k: int) -> Array:
        """(m,): entry j, k of each row."""
        p, t = self.p, self.target
        if t is None:
            return self.share * p[:, j] * ((1.0 if j == k else 0.0) - p[:, k])
        if j == k:
            return self.diagonal(j)
        return -2 * self.share * (p[:, j] * t[:, k] + p[:, k] * t[:, j])

    def diagonal(self, j: int) -> Array:
        """(m,): entry j, j."""
        p, t = self.p[:, j], self.target
        return self.share * (p * (1 - p) if t is None else 2 * (p + self.p.sum(axis=1) * t[:, j]))

    def total(self) -> Array:
        """(m,): the trace."""
        return np.sum([self.diagonal(j) for j in range(self.p.shape[1])], axis=0)

    def of(self, rows: Array, scale: Array) -> Curvature:
        """The same for some rows, each counted `scale` times."""
        return Curvature(self.share[rows] * scale, self.p[rows], None if self.target is None else self.target[rows])


def _candidates(objective: Objective, k: int, rows: Array, point: Array) -> tuple[Array, Curvature, Array]:
    """Features of the rows less their mean, with a column of ones if the intercept is penalised; C; that mean.

    The mean is 0 without a free intercept.
    """
    share = _shares(objective, k, rows)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    d = objective.features.d + objective.penalize_intercept
    free, softmax = _is_free(objective), LOSSES[objective.loss] == "softmax"
    x, centre = np.empty((len(rows), d), objective.features.dtype), np.zeros(d)
    p = np.empty((len(rows), objective.n_classes))
    labels = objective.backend.to_numpy(objective.labels)[rows]
    target = None if softmax else np.equal.outer(labels, np.arange(objective.n_classes)).astype(np.float64)
    for of in blocks if free else []:
        centre += share[of] @ _block(objective, rows[of])
    for of in blocks:
        block = _block(objective, rows[of])
        z = block @ point[:d] + (0 if objective.penalize_intercept else point[-1])
        x[of] = block - centre
        if target is None:
            p[of] = np.exp(z - z.max(axis=1, keepdims=True))
            p[of] /= p[of].sum(axis=1, keepdims=True)
        else:
            own = (z * target[of]).sum(axis=1, keepdims=True)
            p[of] = (z - own + 1 > 0) & (target[of] == 0)
    return x, Curvature(share, p, target), centre


def _important(weights: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """About `size` rows, drawn with probabilities proportional to their weights, and the inverse of these."""
    total = weights.sum()
    if not total > 0:
        return np.arange(0), np.empty(0)
    probability = np.minimum(1.0, size / total * weights) if len(weights) > size else (weights > 0).astype(np.float64)
    chosen = np.flatnonzero(rng.random(len(weights)) < probability)
    return chosen, 1 / probability[chosen]


def _class_metric(objective: Objective, x: Array, share: Array, penalty: Array, centre: Array) -> Shared:
    """The metric of one class from its rows x, less `centre`, and their curvatures."""
    backend, dtype, kappa = objective.backend, x.dtype, float(share.sum())
    free = _is_free(objective) and kappa > 0
    mean = share.astype(dtype) @ x / dtype.type(kappa) if free else np.zeros(x.shape[1], dtype)
    raw = share.astype(dtype) @ (x * x)
    x = (x - mean) * np.sqrt(share).astype(dtype)[:, None]
    kind = "cholesky" if len(x) >= x.shape[1] else "low rank" if len(x) else "diagonal"
    inverse = Rows(kind, x, raw, backend, 1).inverse(penalty)
    moved = backend.asarray((centre + mean).astype(dtype)[:, None]) if _is_free(objective) else None
    return Shared(inverse, moved, kappa or 1.0, objective.penalize_intercept)


def _joint_inverse(x: Array, curvature: Curvature, penalty: Array, backend: Any) -> Inverse:
    """Of sum_i (x_i x_i') (x) C_i + diag(penalty), (d c, d c) with the classes of a feature side by side."""
    d, c = x.shape[1], curvature.p.shape[1]
    M: Array = np.zeros((d, c, d, c), x.dtype)
    pairs = [(j, k) for j in range(c) for k in range(j + 1)]

    def work(run: range) -> None:
        for j, k in (pairs[i] for i in run):
            product = (x * curvature.pair(j, k)[:, None].astype(x.dtype)).T @ x
            M[:, j, :, k] = product
            M[:, k, :, j] = product

    for_each(work, len(pairs), backend.n_threads)
    # all classes together have no curvature but the penalty's: theirs is that of a class, so that rounding stays small
    for p in range(d):
        M[p, :, p, :] += np.trace(M[p, :, p, :]) / c**2
    M = M.reshape(d * c, d * c)
    scale = np.diagonal(M) + penalty
    scale = np.sqrt(np.where(scale > 0, scale, 1.0)).astype(x.dtype)
    M /= scale[:, None]
    M /= scale
    R = cholesky(M, penalty / scale.astype(np.float64) ** 2)
    if R is None:
        log.info("preconditioner: Cholesky failed; the diagonal instead")
        return Diagonal(backend.asarray((scale**2)[:, None]))
    R /= scale
    return Cholesky(backend.asarray(R))
