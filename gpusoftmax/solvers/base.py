"""The solver protocol that the trainer runs, the state of a solver, and the reasons to stop.

A solver trains K models side by side, and its `SolverState` covers all of them. A model is active until its training
ends. A solver keeps what it needs only for the active models in a subclass of `ActiveModels`, in a field of its state.
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
    """Why the training of one model, or of all of them, ended. `RUNNING` is the empty string, so it is false."""

    RUNNING = ""
    CONVERGED = "converged"  # SGD: no more progress; L-BFGS: the gradient is within tol
    PRECISION = "precision"  # tol is not reached, but rounding errors prevent further progress
    FINISHED = "finished"  # all steps have been taken
    EARLY_STOPPING = "early_stopping"  # no more progress on the validation set
    CALLBACK = "callback"  # a callback asked for it
    INTERRUPTED = "interrupted"  # Ctrl-C
    DIVERGED = "diverged"  # the objective became infinite or NaN, or far larger than at the start


def per_model(axis: Any = 0, **options: Any) -> Any:
    """Mark a dataclass field that has one entry per model along `axis`; for a tuple of arrays, give a tuple of axes."""
    return field(metadata={"axis": axis}, **options)


class PerModel:
    """Base of dataclasses with `per_model` fields: `select` takes the entries of some models from each of them.

    Such a field may hold None, an array on the host or the device, another such record, a tuple or a list of these, or
    any object that has a method `select(models)`.
    """

    def select(self, models: Array, backend: Backend) -> Self:
        """Return a record of some of the models, given by their positions in this one."""
        index = backend.asarray(models)

        def part(value: Any, axis: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, tuple):
                return tuple(part(one, its_axis) for one, its_axis in zip(value, axis, strict=True))
            if isinstance(value, list):
                return [part(one, axis) for one in value]
            if isinstance(value, PerModel):
                return value.select(models, backend)
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
    indices : ndarray of int, (active models,)
        Their positions among all K models.
    objective : Objective
        The objective of the active models.
    """

    indices: Array = per_model()
    objective: Objective = per_model()


Active = TypeVar("Active", bound=ActiveModels)


@dataclass
class SolverState:
    """State of a solver between two steps. `Solver.step` updates its arrays in place: copy those that you keep.

    Attributes
    ----------
    W, b : ndarray
        Weights (d, K, c) and intercepts (K, c) of all models, on the device. L-BFGS: those of the last accepted step,
        which have the lowest objective so far up to rounding. SGD: the latest.
    value, loss, accuracy : ndarray of float64, (K,)
        Objective, mean loss and accuracy. L-BFGS: at W, b. SGD: means over the rows of the last call of `Solver.step`,
        where each minibatch is measured before its update.
    learning_rate : ndarray of float64, (K,)
        SGD: learning rate of the last minibatch. L-BFGS: length of the last step as a fraction of the full step.
    start : ndarray of float64, (K,)
        Objective at the start. SGD: that of the first minibatch.
    reasons : list of StopReason, K
        Why the training of each model ended, or RUNNING.
    gradient_norm : ndarray of float64, (K,), or None
        Largest absolute entry of the gradient at W, b. None for SGD, which would need another pass to compute it.
    iterations : ndarray of int, (K,), or None
        Number of iterations of each model. None if the solver does not count them per model.
    passes : float
        Passes over the data so far, including those for preconditioners.
    step : int
        SGD: number of minibatches so far. L-BFGS: number of trial points so far; the first one is the start.
    rows : int
        Number of rows that the last call of `Solver.step` used.
    reason : StopReason
        Why the training of all models ended, or RUNNING.
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
        """End the training of the active models with True in `ended`, for `reasons`; returns those that remain active.

        If no model remains, `active` is returned unchanged.
        """
        for k in np.flatnonzero(ended).tolist():
            self.reasons[int(active.indices[k])] = reasons[k]
        if ended.all() or not ended.any():
            return active
        return active.select(np.flatnonzero(~ended), active.objective.backend)


class Solver(Protocol):
    """Methods and properties that the trainer needs from a solver."""

    @property
    def passes(self) -> float:
        """Number of passes over the data if all steps are taken."""

    @property
    def may_stop_early(self) -> bool:
        """Whether it makes sense to stop early, when the loss on a validation set no longer decreases."""

    def init(self, objective: Objective, W: Array, b: Array) -> Any:
        """Return the `SolverState` at the start. W (d, K, c) and b (K, c) are copied."""

    def step(self, objective: Objective, state: Any) -> Any:
        """Train for a while and return the new state: L-BFGS tries one point, SGD goes through some minibatches."""

    def why_it_diverged(self, state: Any) -> str:
        """Explain to the user why the objective became infinite or far too large, and how to prevent it."""

    def end_diverged(self, state: Any, diverged: Array) -> None:
        """End the training of the models with True in `diverged` (K,)."""
