"""The solver protocol that the trainer runs, the state of a solver, and the reasons to stop.

A solver trains K models side by side. Its `SolverState` covers all of them. Inside it, a subclass of `ActiveModels`
holds what the solver needs of the active models, those still being trained; a model is dropped from it when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.objective.objective import Objective


class StopReason(StrEnum):
    """Why the training of one model, or of all, ended. `RUNNING` is the empty string, and so is false."""

    RUNNING = ""
    CONVERGED = "converged"  # SGD: no more progress; L-BFGS: the gradient is within tol
    PRECISION = "precision"  # tol is not reached, but rounding prevents further progress
    FINISHED = "finished"  # all steps are taken
    EARLY_STOPPING = "early_stopping"  # no more progress on the validation set
    CALLBACK = "callback"  # a callback asked for it
    INTERRUPTED = "interrupted"  # Ctrl-C
    DIVERGED = "diverged"  # the loss became infinite or NaN, or far larger than at the start


def per_model(axis: Any = 0, **options: Any) -> Any:
    """Mark a dataclass field as an array with one entry per model along `axis`; a tuple of arrays has several axes."""
    return field(metadata={"axis": axis}, **options)


class PerModel:
    """Base of dataclasses with `per_model` fields, from which `select` takes the entries of some models.

    Such a field may hold None, an array on the host or the device, a tuple of arrays, a list of `PerModel` records, or
    any object with a method `select(models)`.
    """

    def select(self, models: Array, backend: Backend) -> Self:
        """Select some of the models by their places in this record."""
        index = backend.asarray(models)

        def part(value: Any, axis: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, tuple):
                return tuple(part(one, its_axis) for one, its_axis in zip(value, axis, strict=True))
            if isinstance(value, list):
                return [one.select(models, backend) for one in value]
            if hasattr(value, "select"):
                return value.select(models)
            if isinstance(value, np.ndarray):
                return np.take(value, models, axis=axis)
            return backend.xp.take(value, index, axis=axis)

        marked = [(one.name, one.metadata["axis"]) for one in fields(self) if "axis" in one.metadata]  # type: ignore[arg-type]
        changes = {name: part(getattr(self, name), axis) for name, axis in marked}
        return replace(self, **changes)  # type: ignore[type-var]


@dataclass
class ActiveModels(PerModel):
    """The models still being trained, side by side. Each solver adds fields of its own.

    Attributes
    ----------
    numbers : ndarray of int, (active models,)
        Their places among all K models.
    objective : Objective
        The objective of the active models.
    """

    numbers: Array = per_model()
    objective: Objective = per_model()


Active = TypeVar("Active", bound=ActiveModels)


@dataclass
class SolverState:
    """State of a solver between two steps. `Solver.step` updates its arrays in place, so copy what is to be kept.

    Attributes
    ----------
    W, b : ndarray
        Weights (d, K, c) and intercepts (K, c) of all models, on the device. SGD: the last ones. L-BFGS: those with the
        lowest objective.
    value, loss, accuracy : ndarray of float64, (K,)
        SGD: means over the rows of the last stretch, each row measured before the update that used it. L-BFGS: at W, b.
    learning_rate : ndarray of float64, (K,)
        SGD: learning rate of the last step. L-BFGS: length of the last step, relative to the full step.
    start : ndarray of float64, (K,)
        Objective at the start; for SGD, of the first minibatch.
    reasons : list of StopReason, K
        Why each model ended, or RUNNING.
    gradient_norm : ndarray of float64, (K,), or None
        Largest absolute entry of the gradient at W, b. None for SGD, which would need another pass to compute it.
    iterations : ndarray of int, (K,), or None
        Steps that each model has taken; None if all have taken the same number.
    passes : float
        Passes over the data so far, including those for preconditioners.
    step : int
        SGD: minibatches so far. L-BFGS: passes over the data, one at the start and one for each trial point.
    rows : int
        Rows that the last step used.
    reason : StopReason
        Why the solver ended, or RUNNING.
    """

    W: Array
    b: Array
    value: Array
    loss: Array
    accuracy: Array
    learning_rate: Array
    start: Array
    reasons: list[StopReason]
    gradient_norm: Array | None = None
    iterations: Array | None = None
    passes: float = 0.0
    step: int = 0
    rows: int = 0
    reason: StopReason = StopReason.RUNNING

    def end(self, active: Active, ended: Array, reasons: list[StopReason]) -> Active:
        """Record why some of the active models ended (True in `ended`), and return the remaining ones.

        If none would remain, `active` is returned unchanged.
        """
        for k in np.flatnonzero(ended).tolist():
            self.reasons[int(active.numbers[k])] = reasons[k]
        if ended.all() or not ended.any():
            return active
        return active.select(np.flatnonzero(~ended), active.objective.backend)


class Solver(Protocol):
    """Methods and properties that the trainer needs from a solver."""

    @property
    def passes(self) -> float:
        """Number of passes over the data if all steps are taken."""

    @property
    def open_ended(self) -> bool:
        """Whether training may stop as soon as a validation set shows no more progress."""

    def init(self, objective: Objective, W: Array, b: Array) -> Any:
        """Return the `SolverState` at the start W (d, K, c) and b (K, c), which are copied."""

    def step(self, objective: Objective, state: Any) -> Any:
        """Train for one stretch and return the new state."""

    def why_it_diverged(self, state: Any) -> str:
        """Tell the user why the objective became infinite or far too large, and what helps."""

    def give_up(self, state: Any, lost: Array) -> None:
        """End the models that have diverged, those with True in `lost` (K,)."""
