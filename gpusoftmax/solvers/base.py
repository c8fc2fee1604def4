"""The solver protocol that the trainer runs, the state of a solver, and the reasons to stop.

A solver trains K models side by side, and its `SolverState` covers all of them. A model is active until its training
ends. A solver keeps what it needs only for the active models in a subclass of `ActiveModels`, in a field of its state.

For a checkpoint, `Solver.to_arrays` turns a state into arrays and plain values, and `Solver.from_arrays` puts these
into the state that `Solver.init` returns for the same objective. What follows from the objective is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_count, check_number
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


def per_model(axis: Any = 0, *, kept: bool = True, **options: Any) -> Any:
    """Mark a dataclass field that has one entry per model along `axis`; for a tuple of arrays, give a tuple of axes.

    A checkpoint has it unless it is not `kept`.
    """
    return field(metadata={"axis": axis, "kept": kept}, **options)


def not_kept(**options: Any) -> Any:
    """Mark a dataclass field that a checkpoint does not have."""
    return field(metadata={"kept": False}, **options)


class Kept:
    """Base of dataclasses whose fields a checkpoint keeps, except those that are marked.

    A field may hold None, a number, a reason to stop, an array on the host or the device, another such record, a tuple
    of these, or a list of reasons.
    """

    def to_arrays(self, backend: Backend) -> dict[str, Any]:
        """Return the fields by name: arrays on the host, records as dictionaries, anything else as it is."""
        return {name: _to_arrays(getattr(self, name), backend) for name in self._kept_fields()}

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """Return this record with what `to_arrays` returned for another one, which must have the same shapes and types.

        Raises
        ------
        ValueError, TypeError
            `kept` comes from a damaged or forged file; the message names the field.
        """
        names = self._kept_fields()
        if type(kept) is not dict or kept.keys() != set(names):
            raise ValueError(f"a {type(self).__name__} with {shown(sorted(kept))}")
        return replace(self, **{name: _from_arrays(name, getattr(self, name), kept[name], backend) for name in names})  # type: ignore[type-var]

    def _kept_fields(self) -> list[str]:
        return [one.name for one in fields(self) if one.metadata.get("kept", True)]  # type: ignore[arg-type]


def _to_arrays(value: Any, backend: Backend) -> Any:
    if isinstance(value, Kept):
        return value.to_arrays(backend)
    if isinstance(value, tuple):
        return {str(i): _to_arrays(one, backend) for i, one in enumerate(value)}
    if isinstance(value, list):
        return [_to_arrays(one, backend) for one in value]
    if value is None or isinstance(value, str | int | float | np.ndarray):
        return value
    return backend.to_numpy(value)


def _from_arrays(name: str, like: Any, kept: Any, backend: Backend) -> Any:
    """Return what was kept in the form of `like`, after checks of types and shapes."""
    if isinstance(like, Kept):
        return like.from_arrays(kept, backend)
    if isinstance(like, tuple):
        if type(kept) is not dict or kept.keys() != {str(i) for i in range(len(like))}:
            raise ValueError(f"{name} is not a tuple of {len(like)}")
        return tuple(_from_arrays(name, one, kept[str(i)], backend) for i, one in enumerate(like))
    if isinstance(like, list):
        if type(kept) is not list or len(kept) != len(like):
            raise ValueError(f"{name} is not a list of {len(like)}")
        return [_from_arrays(name, one, each, backend) for one, each in zip(like, kept, strict=True)]
    if isinstance(like, StopReason):
        return StopReason(kept)
    if like is None or isinstance(like, str | int | float):
        if type(kept) is not type(like):
            raise TypeError(f"{name} is a {type(kept).__name__}, not a {type(like).__name__}")
        return kept
    found = checked_array(name, kept, like.dtype, like.shape)
    return found if isinstance(like, np.ndarray) else backend.asarray(found)


def checked_array(name: str, kept: Any, dtype: Any, shape: tuple[int, ...]) -> Array:
    """Return an array from a checkpoint if it has this type and shape; kernels do not check either.

    Raises
    ------
    ValueError
        It is of another type or shape.
    """
    in_file = np.dtype(np.uint8) if np.dtype(dtype).kind == "b" else np.dtype(dtype)
    if not isinstance(kept, np.ndarray) or (kept.dtype, kept.shape) != (in_file, shape):
        raise ValueError(f"{name} is not an array of {np.dtype(dtype).name} of shape {shape}")
    return kept.astype(bool) if np.dtype(dtype).kind == "b" else kept


class PerModel(Kept):
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
    objective: Objective = per_model(kept=False)


Active = TypeVar("Active", bound=ActiveModels)


@dataclass
class SolverState(Kept):
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
    models : ActiveModels
        The active models.
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
    models: ActiveModels = field(kw_only=True)

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """See `Kept.from_arrays`; this state is that of the start, from which the models that have ended are removed.

        Arrays that the active models share with the state at the start, they share no more.
        """
        indices = kept.get("models", {}).get("indices")
        if not isinstance(indices, np.ndarray) or indices.dtype != np.int64 or indices.ndim != 1:
            raise ValueError("models have no indices")
        K = len(self.reasons)
        if not len(indices) or indices[0] < 0 or indices[-1] >= K or (np.diff(indices) <= 0).any():
            raise ValueError(f"active models {shown(indices.tolist())} of {K}")
        active = self if len(indices) == K else replace(self, models=self.models.select(indices, backend))
        state = super(SolverState, active).from_arrays(kept, backend)
        check_number("passes", state.passes, least=0)
        check_count("step", state.step, least=0)
        check_count("rows", state.rows, least=0)
        return state

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

    def to_arrays(self, state: Any) -> dict[str, Any]:
        """Return what a checkpoint keeps of a state: nested dictionaries of arrays on the host and plain values."""

    def to_share(self, backend: Backend) -> dict[str, Any]:
        """Return what the last solve has left in objects that later solves use, in the form of `to_arrays`."""

    def share(self, objective: Objective, kept: dict[str, Any]) -> None:
        """Leave there what a solve of this objective did, by what `to_share` returned after it."""

    def from_arrays(self, state: Any, kept: dict[str, Any]) -> Any:
        """Return the state that `to_arrays` was given, from what it returned and the state at the start, `init`'s.

        Training continues with the same bits. It raises ValueError or TypeError if `kept` does not fit the objective.
        """

    def why_it_diverged(self, state: Any) -> str:
        """Explain to the user why the objective became infinite or far too large, and how to prevent it."""

    def end_diverged(self, state: Any, diverged: Array) -> None:
        """End the training of the models with True in `diverged` (K,)."""
