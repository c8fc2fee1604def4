"""What a solver is, and what it leaves behind: the protocol that the trainer runs, the state, the reasons to stop.

A solver trains K models side by side. Its state has one record of all models, `SolverState`, and one of those that are
still being trained, a subclass of `ActiveModels`, from which models are dropped as they end.
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
    """Why training ended, of one model or of all. `RUNNING`, the empty one, is false."""

    RUNNING = ""
    CONVERGED = "converged"  # SGD: no more progress; L-BFGS: the gradient is within tol
    PRECISION = "precision"  # short of tol, but only rounding is left
    FINISHED = "finished"  # all steps are done
    EARLY_STOPPING = "early_stopping"  # no more progress on the validation set
    CALLBACK = "callback"  # a callback said so
    INTERRUPTED = "interrupted"  # Ctrl-C
    DIVERGED = "diverged"  # the loss became infinite or NaN, or ran away


def per_model(axis: Any = 0, **options: Any) -> Any:
    """A dataclass field whose array has one entry per model along `axis`; several axes for a tuple of arrays."""
    return field(metadata={"axis": axis}, **options)


class PerModel:
    """A dataclass with some fields marked by `per_model`, which `select` takes a part of.

    A field may hold None, an array on the host or the device, a tuple of arrays, a list of records like this one, or
    anything with a method `select(models)` of its own.
    """

    def select(self, models: Array, backend: Backend) -> Self:
        """The record of some of the models, given by their places."""
        index = backend.asarray(models)

        def part(value: Any, axis: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, tuple):
                return tuple(part(one, of_one) for one, of_one in zip(value, axis, strict=True))
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
    """The models that are still being trained, side by side; each solver adds what it needs of each.

    Attributes
    ----------
    numbers : ndarray of int, (active models,)
        Which of all models they are.
    objective : Objective
        Theirs alone.
    """

    numbers: Array = per_model()
    objective: Objective = per_model()


Active = TypeVar("Active", bound=ActiveModels)


@dataclass
class SolverState:
    """Where a solver stands. Arrays are updated in place by `Solver.step`: copy what is to be kept.

    Attributes
    ----------
    W, b : ndarray
        Weights (d, K, c) and intercepts (K, c) of all models, on the device: SGD's last, L-BFGS's best.
    value, loss, accuracy : ndarray of float64, (K,)
        SGD: means over the rows of the last stretch, each row taken before the update that it caused. L-BFGS: at W, b.
    learning_rate : ndarray of float64, (K,)
        SGD: of the last step. L-BFGS: the last step's length in units of its own.
    start : ndarray of float64, (K,)
        The value that training began with; SGD's of the first minibatch.
    reasons : list of StopReason, K
        Why each model ended, or RUNNING.
    gradient_norm : ndarray of float64, (K,), or None
        The largest absolute entry of the gradient at W, b; SGD, which would need a pass for it, has none.
    iterations : ndarray of int, (K,), or None
        Steps that each model has taken, where that differs between models.
    passes : float
        Passes over the data so far, with those that preconditioners took.
    step : int
        SGD: minibatches so far. L-BFGS: passes over X, one at the start and one for each trial point.
    rows : int
        Rows that the last step visited.
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
        """Record why some of the active models ended (True in `ended`), and return those that remain.

        If none would remain, the record of the active models is returned as it is.
        """
        for k in np.flatnonzero(ended).tolist():
            self.reasons[int(active.numbers[k])] = reasons[k]
        if ended.all() or not ended.any():
            return active
        return active.select(np.flatnonzero(~ended), active.objective.backend)


class Solver(Protocol):
    """What the trainer asks of a solver."""

    @property
    def passes(self) -> float:
        """Passes over the data if all steps are taken."""

    @property
    def open_ended(self) -> bool:
        """Whether training may stop as soon as there is no more progress on a validation set."""

    def init(self, objective: Objective, W: Array, b: Array) -> Any:
        """The state, a `SolverState`, at the start W (d, K, c) and b (K, c), which are copied."""

    def step(self, objective: Objective, state: Any) -> Any:
        """The state after one more stretch of training."""

    def give_up(self, state: Any, lost: Array) -> None:
        """End the models with a True in `lost` (K,): they have diverged."""
