"""Models side by side on the same minibatches of SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.estimators.fitting import make_solver
from gpusoftmax.estimators.solver_choice import sgd_settings
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import Progress, TrainResult, train

MOST_BYTES = 1 << 29  # of the models side by side, with velocities and gradients


def width(d: int, c: int, weighted: int) -> int:
    """How many models are trained side by side; `weighted` rows of X have weights, which each model has a copy of."""
    return max(1, MOST_BYTES // ((6 * (d + 1) * c + 2 * weighted) * 8))


@dataclass(frozen=True)
class Recipe:
    """What a training that others described has of its own, beside the parameters of an estimator.

    Attributes
    ----------
    steps : int
        Minibatches in all.
    start : callable
        (d, c) -> W (d, 1, c), b (1, c), of the scaled features: where every model starts.
    replacement : bool
        Batches are drawn with replacement, instead of from permutations.
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
) -> TrainResult:
    """The models of some estimators; each of them is what its estimator alone would be.

    They start from zero, unless a recipe says where. The estimators differ in learning rates and momentum alone;
    `objective` is of one of them, and l2 (K,) are theirs.
    """
    solver = make_solver(estimators[0], objective)
    assert isinstance(solver, SGD)
    if solver.learning_rate != "auto":
        solver = replace(solver, learning_rate=np.array([float(sgd_settings(one).learning_rate) for one in estimators]))
    solver = replace(solver, momentum=np.array([float(sgd_settings(one).momentum) for one in estimators]))
    features, K, c = objective.features, len(l2), objective.n_classes
    if recipe is None:
        W, b = (objective.backend.xp.zeros(shape, features.dtype) for shape in ((features.d, K, c), (K, c)))
    else:
        solver = replace(solver, steps=recipe.steps, plan=replace(solver.plan, replacement=recipe.replacement))
        W, b = (
            objective.backend.asarray(np.repeat(part.astype(features.dtype), K, axis))
            for part, axis in zip(recipe.start(features.d, c), (1, 0), strict=True)
        )
    return train(objective.for_penalties(l2), solver, W, b, progress=progress)
