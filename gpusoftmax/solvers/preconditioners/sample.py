"""Samples of rows from which preconditioners are made: drawing them, their features and weights, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.features.base import Features
from gpusoftmax.losses import RowHessians
from gpusoftmax.objective.objective import Objective

BLOCK = 512  # rows of a block: allocating memory for all rows in float64 would take more time than the arithmetic
PASS_OVERHEAD = 2e7  # cost of a pass over the data besides its matrix products, in flops of a matrix product


def uniform_rows(features: Features, size: int, rng: np.random.Generator) -> Array:
    """Draw `size` row numbers without replacement, or take all if there are fewer; in increasing order."""
    n = features.n
    return features.row_numbers(np.sort(rng.choice(n, size, replace=False)) if size < n else np.arange(n))


def penalty_diagonal(objective: Objective) -> Array:
    """Return the diagonal of the penalty Hessian for l2 = 1, on the host; (d,), or (d + 1,) with b penalised."""
    return objective.penalty_on_host.relative_diagonal(objective.features.d)


def weight_fractions(objective: Objective, k: int, rows: Array) -> Array:
    """Return model k's weights of some rows, divided by their sum, float64; equal fractions if all weights are zero."""
    if objective.weights is None:
        return np.full(len(rows), 1 / len(rows))
    return objective.backend.to_numpy(fractions_on_device(objective, k, objective.backend.asarray(rows)))


def fractions_on_device(objective: Objective, k: int, rows: Any) -> Any:
    """Do what `weight_fractions` does, for row numbers on the device, without waiting for it."""
    xp = objective.backend.xp
    if objective.weights is None:
        return xp.full(len(rows), 1 / len(rows))
    s = objective.weights[rows][:, k].astype(np.float64)
    total = s.sum()
    return xp.where(total > 0, s, 1.0) / xp.where(total > 0, total, float(len(rows)))


def penalty_strength(objective: Objective, k: int) -> float:
    """Return l2 of model k."""
    return float(objective.penalty_on_host.strengths[k])


def penalty_curvature(objective: Objective, k: int) -> Array:
    """Return the diagonal of the Hessian of model k's penalty, on the host; see `penalty_diagonal`."""
    return penalty_strength(objective, k) * penalty_diagonal(objective)


def hessians_at(objective: Objective, k: int, point: Any, features: Features, numbers: Array) -> RowHessians:
    """Return the Hessians of the rows of some features for model k at its point (d + 1, c), on the device.

    `numbers` are those of the rows in the objective's features. It does not wait for the device.
    """
    xp, rows = objective.backend.xp, objective.backend.asarray(numbers)
    W, b = features.fold(xp.ascontiguousarray(point[:-1, None]), point[-1:])
    scores = features.scores(W, b)[:, 0].astype(np.float64)
    return objective.loss.row_hessians(scores, objective.labels[rows], fractions_on_device(objective, k, rows), xp)


def fetched_rows(objective: Objective, rows: Array) -> Any:
    """Return the scaled features of some rows in the type of computation, with ones if the intercept is penalised.

    They are on the device. Rows are read once, as they are stored, and converted by all threads.
    """
    features, backend = objective.features, objective.backend
    copied = features.copied(rows)
    x: Any = backend.xp.ones((len(rows), features.d + objective.penalty.on_intercept), features.dtype)

    def convert(run: range) -> None:
        for block in run:
            part = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(rows)))
            x[part[0] : part[-1] + 1, : features.d] = copied.sample_on_device(part, features.dtype)

    backend.for_each_on_device(convert, -(-len(rows) // BLOCK))
    return x


def inverse_cost(kind: str, m: int, d: int) -> float:
    """Estimate the cost of making an inverse from m rows of d features, in flops of a matrix product."""
    if kind == "diagonal":
        return 2.0 * m * d
    if kind == "low rank":
        return 2.0 * m**2 * d + 9.0 * m**3
    if kind == "spectrum":
        return m * d**2 + 6000.0 * d**2  # mainly products with some 600 vectors
    return m * d**2 + 3.0 * d**3


def pass_cost(objective: Objective) -> float:
    """Estimate the cost of one model's pass over the data, in flops of a matrix product."""
    return objective.features.pass_cost(objective.n_classes) + PASS_OVERHEAD
