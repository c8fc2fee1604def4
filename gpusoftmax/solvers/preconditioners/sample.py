"""Rows of a sample: which ones, what they weigh, and what work on them costs."""

from __future__ import annotations

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.features.base import Features
from gpusoftmax.objective.objective import Objective

BLOCK = 512  # rows that are looked at at a time: fresh memory for all in float64 costs more than the arithmetic
CALL = 2e7  # operations that take as long as what a read of X costs besides its products


def uniform_rows(features: Features, size: int, rng: np.random.Generator) -> Array:
    """Numbers of rows in their order: so many without repetition, or all."""
    n = features.n
    return features.numbers(np.sort(rng.choice(n, size, replace=False)) if size < n else np.arange(n))


def penalty_diagonal(objective: Objective) -> Array:
    """diag(r): (d,), or (d + 1,) with a penalised intercept; on the host."""
    return objective.penalty.moved(objective.backend.to_numpy).diagonal(objective.features.d)


def row_shares(objective: Objective, k: int, rows: Array) -> Array:
    """s_i / S over some rows (float64, their sum 1); equal ones where none of model k's weights is positive there."""
    if objective.weights is None:
        return np.full(len(rows), 1 / len(rows))
    s = objective.backend.to_numpy(objective.weights)[rows, k].astype(np.float64)
    return s / s.sum() if s.sum() > 0 else np.full(len(rows), 1 / len(rows))


def scaled_rows(objective: Objective, rows: Array) -> Array:
    """Scaled features of some rows in float64, with a column of ones if the intercept is penalised."""
    x = objective.features.sample(rows)
    return np.hstack([x, np.ones((len(x), 1))]) if objective.penalty.on_intercept else x


def factor_cost(kind: str, m: int, d: int) -> float:
    """Operations that an inverse from m rows of d features takes, LAPACK's at the rate of a product's."""
    if kind == "diagonal":
        return 2.0 * m * d
    if kind == "low rank":
        return 2.0 * m**2 * d + 9.0 * m**3
    if kind == "spectrum":
        return m * d**2 + 6000.0 * d**2  # products with some 600 vectors, five times
    return m * d**2 + 3.0 * d**3


def read_cost(n: int, d: int, c: int) -> float:
    """Operations of a read of X by one model."""
    return 4.0 * n * d * c + CALL
