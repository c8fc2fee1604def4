"""Later preconditioners: the Hessian at the current point, in full or one block per class, from a sample of rows.

The Hessian of the mean loss is sum_i kron(x_i x_i', C_i). There kron is the Kronecker product, and C_i (c, c) is the
Hessian of row i's loss with respect to its scores, times its weight s_i / S: (s_i / S) (diag(p_i) - p_i p_i') for
softmax (`losses.Loss.row_hessians`).

    full            all of it, ((d + 1) c)^2 entries, if d c is small
    block-diagonal  sum_i C_ijj (x_i - m_j)(x_i - m_j)' for class j; m_j is the mean of the rows weighted by C_ijj, or 0
                    without an unpenalised intercept

To either, l2 diag(r) is added. In a confident model only a few rows have any noticeable curvature. Row i is therefore
drawn with a probability proportional to its curvature and weighted by the inverse of that probability, which leaves the
expected value of the sum unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.features.base import Features
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.losses import RowHessians
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.base import (
    BlockDiagonal,
    FullHessian,
    Preconditioner,
    SharedBlock,
    mean_curvature_of,
)
from gpusoftmax.solvers.preconditioners.inverses import Cholesky, Diagonal, GramInverse, Inverse, cholesky
from gpusoftmax.solvers.preconditioners.sample import (
    PASS_OVERHEAD,
    hessians_at,
    inverse_cost,
    pass_cost,
    penalty_curvature,
    uniform_rows,
)

CLASS_DIAGONAL_COST = 1.5  # of `class_diagonal.sums_at_point`, in passes over the data
FULL_SIZE = 2000  # largest (d + 1) c for which the full Hessian is made
FULL_ROWS_PER_FEATURE, FEWEST_FULL_ROWS = 4, 512  # rows for the full Hessian; each raises its rank by up to c - 1
CLASS_ROWS_PER_FEATURE = 2  # rows for the block of one class
MOST_ELEMENTS = 1 << 27  # largest number of entries of all models' preconditioners: 512 MB in float32
CANDIDATES_PER_FEATURE, FEWEST_CANDIDATES = 8, 8192  # rows from which the sample is drawn, by curvature
MOST_PROBABILITIES = 1 << 26  # largest number of probabilities of these rows: 512 MB


def refresh_cost(objective: Objective) -> float:
    """Cost of `refresh` for one model, in passes over the data by that model; inf if it would take too much memory."""
    d, c = objective.features.d, objective.n_classes
    if by_diagonals(objective):
        return CLASS_DIAGONAL_COST
    if is_full(objective):
        size = (d + 1) * c
        if objective.n_models * size**2 > MOST_ELEMENTS:
            return float("inf")
        return (_full_rows(objective) * size**2 + 2 / 3 * size**3 + PASS_OVERHEAD) / pass_cost(objective)
    m = _class_rows(objective)
    if objective.n_models * c * d * min(d, m) > MOST_ELEMENTS:
        return float("inf")
    return c * (inverse_cost("cholesky" if m >= d else "low rank", m, d) + PASS_OVERHEAD / 10) / pass_cost(objective)


def _full_rows(objective: Objective) -> int:
    return min(objective.features.n, max(FEWEST_FULL_ROWS, FULL_ROWS_PER_FEATURE * objective.features.d))


def _class_rows(objective: Objective) -> int:
    return min(objective.features.n, CLASS_ROWS_PER_FEATURE * objective.features.d)


def by_diagonals(objective: Objective) -> bool:
    """Whether later preconditioners are diagonals with dense blocks for few features; see `class_diagonal`."""
    return objective.features.is_sparse and not is_full(objective)


@np.errstate(over="ignore", invalid="ignore")
def refresh(objective: Objective, k: int, point: Any, seed: int, n_refreshes: int) -> tuple[Preconditioner, int]:
    """Make the preconditioner of model k at its point (d + 1, c); returns it and the number of rows that were read.

    `n_refreshes` counts the earlier refreshes of the model in this solve: each draws other rows.
    """
    rng = generator(seed, NO_EPOCH + 2 + n_refreshes)
    candidates = _Candidates.draw(objective, k, point, rng)
    penalty = penalty_curvature(objective, k)
    with objective.backend.single_threaded_blas():
        make = _full if is_full(objective) else _block_diagonal
        return make(objective, candidates, penalty, rng), len(candidates.rows)


@dataclass(frozen=True)
class _Candidates:
    """The rows from which samples are drawn by their curvature."""

    features: Features  # of these rows, or of all where these are all
    rows: Array  # their numbers in `features`
    curvature: RowHessians
    penalised: bool  # whether the intercept is

    @classmethod
    def draw(cls, objective: Objective, k: int, point: Any, rng: np.random.Generator) -> _Candidates:
        """Draw rows, and compute their Hessians for model k at its point."""
        features = objective.features
        size = max(FEWEST_CANDIDATES, CANDIDATES_PER_FEATURE * features.d)
        if not is_full(objective):
            size = max(size, objective.n_classes * _class_rows(objective))
        most = min(MOST_PROBABILITIES // objective.n_classes, MOST_ELEMENTS // features.d)
        numbers = rows = uniform_rows(features, min(size, max(1, most)), rng)
        if len(numbers) < features.n:
            features, rows = features.copied(numbers), np.arange(len(numbers))
        hessians = hessians_at(objective, k, point, features, numbers)
        return cls(features, rows, hessians, objective.penalty.on_intercept)

    def x(self, chosen: Array) -> Any:
        """Return the scaled features of some of the rows, with a column of ones if the intercept is penalised."""
        x, xp = self.features.sample_on_device(self.rows[chosen], self.features.dtype), self.features.backend.xp
        return xp.concatenate([x, xp.ones((len(x), 1), x.dtype)], axis=1) if self.penalised else x


def _full(objective: Objective, candidates: _Candidates, penalty: Array, rng: np.random.Generator) -> FullHessian:
    """Make the full Hessian's inverse."""
    backend, dtype, free = objective.backend, objective.features.dtype, objective.has_free_intercept
    weights, xp, asarray = backend.to_numpy(candidates.curvature.traces()), backend.xp, backend.asarray
    chosen, scale = _draw_rows(weights, _full_rows(objective), rng)
    x, centre = candidates.x(chosen), None
    if free:
        mean = _mean(x, weights[chosen] * scale, backend)
        x = xp.concatenate([x - mean, xp.ones((len(x), 1), dtype)], axis=1)
        penalty, centre = np.append(penalty, 0.0), mean[:, None]
    c = objective.n_classes
    curvature = candidates.curvature.select(asarray(chosen), asarray(scale))
    inverse = _full_inverse(x, curvature, c, asarray(np.repeat(penalty, c)), backend)
    log.info("preconditioner: full Hessian, from %d of %d rows", len(chosen), objective.features.n)
    return FullHessian(inverse, centre, candidates.penalised)


def _block_diagonal(
    objective: Objective, candidates: _Candidates, penalty: Array, rng: np.random.Generator
) -> BlockDiagonal:
    """Make the inverse of one block for each class."""
    backend, c = objective.backend, objective.n_classes
    size, seeds = _class_rows(objective), rng.integers(1 << 62, size=c)
    classes: list[Any] = [None] * c

    def work(run: range) -> None:
        for j in run:
            weights = backend.to_numpy(candidates.curvature.diagonal(j))
            chosen, scale = _draw_rows(weights, size, np.random.default_rng(seeds[j]))
            classes[j] = _class_block(objective, candidates.x(chosen), weights[chosen] * scale, penalty)

    backend.for_each_on_device(work, c)
    log.info("preconditioner: block-diagonal, from at most %d of %d rows per class", size, objective.features.n)
    return BlockDiagonal(classes, mean_curvature_of(objective, penalty), backend)


def _mean(x: Any, weights: Array, backend: Backend) -> Any:
    """Return the weighted mean of the rows of x, in its type; 0 without weight. The weights are on the host."""
    total = float(weights.sum())
    return backend.asarray((weights / total if total > 0 else weights).astype(x.dtype)) @ x


def _with_one_thread(backend: Backend) -> Backend:
    return replace(backend, n_threads=1)


def is_full(objective: Objective) -> bool:
    """Whether `refresh` makes the full Hessian."""
    return (objective.features.d + 1) * objective.n_classes <= FULL_SIZE


def _draw_rows(weights: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw about `size` rows, with probabilities proportional to their weights.

    Returns the positions of these rows, and for each the inverse of its probability.
    """
    total = weights.sum()
    if not total > 0:
        return np.arange(0), np.empty(0)
    probability = np.minimum(1.0, size / total * weights) if len(weights) > size else (weights > 0).astype(np.float64)
    chosen = np.flatnonzero(rng.random(len(weights)) < probability)
    return chosen, 1 / probability[chosen]


def _class_block(objective: Objective, x: Any, curvatures: Array, penalty: Array) -> SharedBlock:
    """Make the preconditioner of one class from the features x of its rows, which are overwritten.

    The curvatures of the rows and the penalty are on the host.
    """
    backend, dtype, kappa = objective.backend, x.dtype, float(curvatures.sum())
    kappa = kappa if kappa > np.finfo(dtype).tiny else 0.0  # too small to divide by: the mean stays zero
    mean = backend.xp.zeros(x.shape[1], dtype)
    if objective.has_free_intercept and kappa > 0:
        mean = _mean(x, curvatures, backend)
        x -= mean
    x *= backend.asarray(np.sqrt(curvatures).astype(dtype)[:, None])
    kind = "cholesky" if len(x) >= x.shape[1] else "low rank" if len(x) else "diagonal"
    raw = kappa * mean.astype(np.float64) ** 2  # what centring has taken off the diagonal is all that rounding adds to
    inverse = GramInverse(kind, x, raw, _with_one_thread(backend)).inverse(penalty)
    centre = mean[:, None] if objective.has_free_intercept else None
    return SharedBlock(inverse, centre, kappa or 1.0, objective.penalty.on_intercept)


def _full_inverse(x: Any, curvature: RowHessians, c: int, penalty: Any, backend: Backend) -> Inverse:
    """Invert sum_i kron(x_i x_i', C_i) + diag(penalty), (d c, d c), ordered by feature and then by class."""
    xp, d = backend.xp, x.shape[1]
    M = xp.zeros((d, c, d, c), x.dtype)
    pairs = [(j, k) for j in range(c) for k in range(j + 1)]

    def work(run: range) -> None:
        for j, k in (pairs[i] for i in run):
            product = (x * curvature.entries(j, k)[:, None].astype(x.dtype)).T @ x
            M[:, j, :, k] = product
            M[:, k, :, j] = product

    backend.for_each_on_device(work, len(pairs))
    # In the direction that changes all classes alike, only the penalty has curvature. Without more, rounding errors
    # could make the matrix indefinite there, so the mean curvature of the single classes is added.
    of_features = M.strides[0] + M.strides[2], M.strides[1], M.strides[3]  # a view of the (c, c) blocks on the diagonal
    blocks = xp.lib.stride_tricks.as_strided(M, (d, c, c), of_features)
    blocks += xp.trace(blocks, axis1=1, axis2=2)[:, None, None] / c**2
    M = M.reshape(d * c, d * c)
    scale = xp.diagonal(M) + penalty
    scale = xp.sqrt(xp.where(scale > 0, scale, 1.0)).astype(x.dtype)
    M /= scale[:, None]
    M /= scale
    R = cholesky(M, penalty / scale.astype(np.float64) ** 2, backend)
    if R is None:
        log.info("preconditioner: Cholesky failed; the diagonal is used instead")
        return Diagonal((scale**2)[:, None])
    R /= scale
    return Cholesky(R, backend)
