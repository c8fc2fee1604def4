"""Preconditioners of L-BFGS: for each of K models the inverse M^-1 of an approximate Hessian M.

A preconditioner acts on the weights and the intercepts of one model, (d + 1, c) with the intercepts in the last row. If
the intercept is not penalised, b + m'W, with m the mean of the features, is used in place of b: it does not couple with
W. A penalised intercept is the weight of one more feature, which is always 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from gpusoftmax.solvers.preconditioners.inverses import Inverse


class Preconditioner(Protocol):
    """The inverse M^-1 for one model."""

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v for v (d + 1, c), with the intercepts in the last row."""


@dataclass(frozen=True)
class SharedBlock:
    """One inverse that all classes share.

    `centre` (d, 1) is m, or None if there is no unpenalised intercept; kappa is the intercepts' curvature.
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


@dataclass(frozen=True)
class BlockDiagonal:
    """One inverse for each class, applied after the mean over classes is removed.

    Adding the same to the weights of all classes changes no loss, but the inverses of single classes would add such a
    part. It is therefore projected out before and after; without that, some problems took three times as many steps.
    In its direction only the penalty has curvature: `shared` (d + 1, 1), inf where nothing is penalised.
    """

    classes: list[SharedBlock]
    shared: Any

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        c = len(self.classes)
        common = v.sum(axis=1)[:, None] / c
        v = v - common
        solution = 0 * v
        for j, preconditioner in enumerate(self.classes):
            solution[:, j : j + 1] = preconditioner.solve(v[:, j : j + 1])
        return solution - solution.sum(axis=1)[:, None] / c + common / self.shared


@dataclass(frozen=True)
class FullHessian:
    """One inverse over all weights and intercepts of a model, feature by feature, with the classes of each together."""

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
    """

    by_model: list[Preconditioner]
    rows: int

    def apply(self, g: Any, out: Any) -> Any:
        """Write M^-1 g to `out` and return it; both are (d + 1, K, c), with the intercepts in the last row."""
        for k, preconditioner in enumerate(self.by_model):
            out[:, k] = preconditioner.solve(g[:, k])
        return out

    def select(self, models: list[int]) -> Preconditioners:
        """Select some of the models."""
        return replace(self, by_model=[self.by_model[k] for k in models])

    def replaced(self, k: int, preconditioner: Preconditioner) -> Preconditioners:
        """Replace the preconditioner of model k."""
        return replace(self, by_model=[*self.by_model[:k], preconditioner, *self.by_model[k + 1 :]])
