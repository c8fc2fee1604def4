"""Trains several models together by SGD, on the same minibatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.estimators.fitting import make_solver
from gpusoftmax.estimators.solver_choice import sgd_settings
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import Progress, TrainResult, train

MOST_BYTES = 1 << 29  # memory of the models that are trained together, with velocities and gradients


def width(d: int, c: int, weighted: int) -> int:
    """How many models to train together; each keeps a copy of the weights of `weighted` rows."""
    return max(1, MOST_BYTES // ((6 * (d + 1) * c + 2 * weighted) * 8))


@dataclass(frozen=True)
class Recipe:
    """Settings of a published training that an estimator has no parameters for.

    Attributes
    ----------
    steps : int
        The total number of minibatches.
    start : callable
        (d, c) -> W (d, 1, c), b (1, c): the weights of the scaled features from which every model starts.
    replacement : bool
        Draw batches with replacement, instead of from permutations.
    """

    steps: int
    start: Callable[[int, int], tuple[Array, Array]]
    replacement: bool = False


def train_group(
    estimators: list[Any],
    objective: Objective,
    l2: Array,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainResult:
    """Train the models of several estimators together; each model is the same as if it were trained alone.

    Models start from zero, unless a recipe says otherwise. The estimators may differ only in penalty, learning rate and
    momentum; `objective` is the objective of one of them, and l2 (K,) has the penalties of all.
    """
    solver = make_solver(estimators[0], objective)
    assert isinstance(solver, SGD)
    if solver.learning_rate != "auto":
        solver = replace(solver, learning_rate=np.array([float(sgd_settings(one).learning_rate) for one in estimators]))
    is_sparse = objective.features.is_sparse
    solver = replace(solver, momentum=np.array([float(sgd_settings(one, is_sparse).momentum) for one in estimators]))
    features, K, c = objective.features, len(l2), objective.n_classes
    if recipe is None:
        W, b = (objective.backend.xp.zeros(shape, features.dtype) for shape in ((features.d, K, c), (K, c)))
    else:
        solver = replace(solver, steps=recipe.steps, plan=replace(solver.plan, replacement=recipe.replacement))
        W, b = (
            objective.backend.asarray(np.repeat(part.astype(features.dtype), K, axis))
            for part, axis in zip(recipe.start(features.d, c), (1, 0), strict=True)
        )
    return train(objective.for_penalties(l2), solver, W, b, progress=progress, checkpoint=checkpoint)
