"""Preconditioners of L-BFGS: for each of K models an approximate Hessian M, given by its inverse.

A preconditioner acts on the weights and the intercepts of one model, (d + 1, c) with the intercepts in the last row.
The Hessian couples an unpenalised intercept b with W, but hardly couples b + m'W with W, where m is the mean of the
features. These are therefore the variables of M, and unless it is the full Hessian, it has separate blocks for the two.
A penalised intercept is the weight of one more feature, which is always 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.inverses import Inverse


class Preconditioner(Protocol):
    """The preconditioner M of one model, given by its inverse."""

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v for v (d + 1, c), with the intercepts in the last row."""


@dataclass(frozen=True)
class SharedBlock:
    """One inverse, applied to the weights of every class.

    `centre` (d, 1) is m, or None without an unpenalised intercept. `kappa` is the curvature of the intercepts.
    `penalised` tells whether the intercept is penalised.
    """

    inverse: Inverse
    centre: Any
    kappa: float
    penalised: bool

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        if self.penalised:
            return self.inverse.solve(v)
        solution = 0 * v
        if self.centre is None:
            solution[:-1] = self.inverse.solve(v[:-1])
        else:
            solution[:-1] = self.inverse.solve(v[:-1] - self.centre * v[-1:])
            solution[-1:] = v[-1:] / self.kappa - self.centre.T @ solution[:-1]
        return solution


def without_class_mean(solve: Callable[[Any], Any], v: Any, mean_curvature: Any) -> Any:
    """Compute M^-1 v, where `solve` does so for each class alone; see `BlockDiagonal`."""
    c = v.shape[1]
    mean = v.sum(axis=1)[:, None] / c
    solution = solve(v - mean)
    return solution - solution.sum(axis=1)[:, None] / c + mean / mean_curvature


def mean_curvature_of(objective: Objective, penalty: Array) -> Any:
    """Return the `mean_curvature` of a `BlockDiagonal`, on the device; see `sample.penalty_curvature`."""
    curvature = np.where(penalty > 0, penalty, np.inf)
    if not objective.penalty.on_intercept:
        curvature = np.append(curvature, np.inf)
    return objective.backend.asarray(curvature.astype(objective.features.dtype)[:, None])


@dataclass(frozen=True)
class BlockDiagonal:
    """One inverse for each class, applied after the mean over the classes is removed.

    The loss does not change if the same vector is added to the weights of all classes, but the inverses of single
    classes would add such a vector. The mean over the classes is therefore removed before and after; without that, some
    problems took three times as many iterations. Along the mean only the penalty has curvature: `mean_curvature`
    (d + 1, 1), inf where nothing is penalised. On a CPU, the threads of `backend` share the classes.
    """

    classes: list[SharedBlock]
    mean_curvature: Any
    backend: Backend

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        return without_class_mean(self._solve_classes, v, self.mean_curvature)

    def _solve_classes(self, v: Any) -> Any:
        solution = 0 * v

        def work(run: range) -> None:
            for j in run:
                solution[:, j : j + 1] = self.classes[j].solve(v[:, j : j + 1])

        self.backend.for_each_on_device(work, len(self.classes))
        return solution


@dataclass(frozen=True)
class FullHessian:
    """One inverse over all weights and intercepts of a model, ordered by feature and then by class.

    `centre` and `penalised` are those of `SharedBlock`.
    """

    inverse: Inverse
    centre: Any
    penalised: bool

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        d, v = v.shape[0] - 1, v.copy()  # contiguous, so that it can be reshaped without another copy
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
class Preconditioners:
    """The preconditioners of K models.

    Attributes
    ----------
    by_model : list of Preconditioner
        One for each model.
    rows : int
        Number of rows that were read to make them.
    points : list of ndarray or None
        The point (d + 1, c) at which each was made, on the device; None for those of the start. A checkpoint keeps the
        points, from which the preconditioners are made again.
    """

    by_model: list[Preconditioner]
    rows: int
    points: list[Any]

    def apply(self, g: Any, xp: ModuleType) -> Any:
        """Compute M^-1 g for g (d + 1, K, c), with the intercepts in the last row."""
        solutions = [preconditioner.solve(g[:, k]) for k, preconditioner in enumerate(self.by_model)]
        return solutions[0][:, None] if len(solutions) == 1 else xp.stack(solutions, axis=1)  # no copy of one

    def select(self, models: list[int]) -> Preconditioners:
        """Return the preconditioners of some of the models."""
        return replace(self, by_model=[self.by_model[k] for k in models], points=[self.points[k] for k in models])

    def replaced(self, k: int, preconditioner: Preconditioner, point: Any) -> Preconditioners:
        """Return preconditioners with this one, made at `point`, in place of model k's."""
        by_model, points = self.by_model.copy(), self.points.copy()
        by_model[k], points[k] = preconditioner, point
        return replace(self, by_model=by_model, points=points)
