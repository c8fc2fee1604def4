"""What L-BFGS measures gradients with: the inverse of an approximate Hessian, M^-1, of each of K models.

Each is over the weights and the intercepts of one model, (d + 1, c) with the intercepts in the last row. A free
intercept absorbs a mean m of the features: in the coordinates b + m'W it does not couple with W. A penalised one is one
more feature that is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from gpusoftmax.solvers.preconditioners.inverses import Inverse


class Preconditioner(Protocol):
    """M^-1 of one model."""

    def solve(self, v: Any) -> Any:
        """M^-1 v for v (d + 1, c), the intercepts' part in the last row."""


@dataclass(frozen=True)
class SharedBlock:
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
class BlockDiagonal:
    """An inverse for each class, between projections onto what classes do not share.

    A part that all classes share changes no loss, and each inverse alone would make one: without the projections some
    problems took three times as many steps. Along it there is the penalty alone: `shared` (d + 1, 1), inf where there
    is none.
    """

    classes: list[SharedBlock]
    shared: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        c = len(self.classes)
        common = v.sum(axis=1)[:, None] / c
        v = v - common
        solution = 0 * v
        for j, preconditioner in enumerate(self.classes):
            solution[:, j : j + 1] = preconditioner.solve(v[:, j : j + 1])
        return solution - solution.sum(axis=1)[:, None] / c + common / self.shared


@dataclass(frozen=True)
class FullHessian:
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
class Preconditioners:
    """M^-1 over K models.

    Attributes
    ----------
    preconditioners : list of Preconditioner, one a model
    rows : int
        Of the sample that was read.
    """

    of_models: list[Preconditioner]
    rows: int

    def apply(self, g: Any, out: Any) -> Any:
        """M^-1 g, both (d + 1, K, c) with the intercepts' part in the last row; -> out."""
        for k, preconditioner in enumerate(self.of_models):
            out[:, k] = preconditioner.solve(g[:, k])
        return out

    def select(self, models: list[int]) -> Preconditioners:
        """The same for some of the models."""
        return replace(self, of_models=[self.of_models[k] for k in models])

    def replaced(self, k: int, preconditioner: Preconditioner) -> Preconditioners:
        """The same with another preconditioner for model k."""
        return replace(self, of_models=[*self.of_models[:k], preconditioner, *self.of_models[k + 1 :]])
