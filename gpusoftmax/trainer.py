"""The training loop: runs any solver; history, progress, early stopping, Ctrl-C, divergence and checkpoints."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.checkpoints.file import Tree
from gpusoftmax.checks.scalars import check_count, check_number
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import Solver, StopReason, checked_array

# A model has diverged if its objective is not finite, or more than this many times the larger of two others: its
# objective at the start, and that of zero weights.
DIVERGENCE_FACTOR = 10.0


# the fields of a Record that have a number for each model
MEASURES = ("objective", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate")


@dataclass(frozen=True)
class Record:
    """One entry of the history, written after each pass over the data, and at the end.

    A pass of L-BFGS evaluates one trial point for each model. Measures are numbers for one model, and arrays for K
    models side by side.

    Attributes
    ----------
    passes : float
        Passes over the data so far; for L-BFGS including those for preconditioners.
    step : int
        SGD: minibatches so far. L-BFGS: evaluations of the objective so far, one at the start and one for each trial
        point.
    objective, loss, accuracy : float, or ndarray of float64, (K,)
        Training objective (with penalty), loss (without it, in nats for softmax) and accuracy. SGD: means over the rows
        of the pass, each row measured before the update that used it. L-BFGS: at the weights with the lowest objective
        so far.
    validation_loss, validation_accuracy : float, or ndarray of float64, (K,), or None
        Loss and accuracy on the validation set after the pass; None without a validation set.
    learning_rate : float, or ndarray of float64, (K,)
        SGD: learning rate of the last step. L-BFGS: length of the last step, relative to the full step.
    seconds : float
        Time from the start of training to the end of the pass, before its validation.
    rows_per_second : float
        Rows of the pass, divided by the time since the end of the pass before. That time includes the validation and
        the callbacks in between; for the first pass it includes the preparations of the solver.
    """

    passes: float
    step: int
    objective: Any
    loss: Any
    accuracy: Any
    validation_loss: Any
    validation_accuracy: Any
    learning_rate: Any
    seconds: float
    rows_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """Convert the record to a plain dictionary.

        Returns
        -------
        dict
            The attributes by name.
        """
        return asdict(self)

    def for_model(self, k: int) -> Record:
        """Extract the record of one of several models; passes, steps, seconds and speed remain those of all.

        Parameters
        ----------
        k : int
            Index of the model, from 0.

        Returns
        -------
        Record
            The record, with numbers in place of arrays.
        """
        measured = {name: getattr(self, name) for name in MEASURES}
        own: dict[str, Any] = {
            n: None if value is None else float(np.atleast_1d(value)[k]) for n, value in measured.items()
        }
        return replace(self, **own)


def _history_to_arrays(history: list[Record]) -> Tree:
    """Return a history as an array for each field of its records, (records,), or (records, K) for K models."""
    columns = {field.name: [getattr(record, field.name) for record in history] for field in fields(Record)}
    return {name: np.array([one for one in values if one is not None]) for name, values in columns.items()}


def _history_from_arrays(kept: Tree, K: int, validated: bool) -> list[Record]:
    """Return the history of K models; `validated` tells whether there is a validation set."""
    n, columns = len(kept["passes"]), {}
    for field in fields(Record):
        name = field.name
        if name.startswith("validation") and not validated:
            columns[name] = [None] * n
            continue
        dtype = np.int64 if name == "step" and n else np.float64
        shape = (n, K) if name in MEASURES and K > 1 and n else (n,)
        column = checked_array(name, kept[name], dtype, shape)
        columns[name] = list(column) if column.ndim == 2 else column.tolist()
    return [Record(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes
    ----------
    W, b : ndarray of float32 or float64, the type of the computation
        Weights (d, K, c) of the scaled features and intercepts (K, c), on the device. If there was a validation set, or
        if training was interrupted or all models diverged, each model has the weights that it had after the pass with
        its smallest validation loss or, without a validation set, its smallest training objective. Otherwise they are
        the final weights of the solver. Where no pass was recorded, they are the last ones if training was interrupted,
        and those of the start if all models diverged.
    history : list of Record
        One record for each pass.
    reason : StopReason
        Why training ended.
    passes : float
        Passes over the data.
    step : int
        Steps of the solver, counted as in `Record`.
    reasons : list of StopReason
        Why the training of each of the K models ended; some may end before others.
    gradient_norm : ndarray of float64, (K,), or None
        Largest absolute entry of the gradient at the last weights; None if the solver does not compute it.
    iterations : ndarray of int, (K,), or None
        Steps that each model took; None if the solver does not count them for each model.
    seconds : float
        Time of the whole training.
    measured : pair of ndarray of float64, (K,), or None
        Objective and loss at W and b; None if the solver has not measured them at exactly these.
    """

    W: Array
    b: Array
    history: list[Record]
    reason: StopReason
    passes: float
    step: int
    reasons: list[StopReason]
    gradient_norm: Array | None = None
    iterations: Array | None = None
    seconds: float = 0.0
    measured: tuple[Array, Array] | None = None

    def for_model(self, k: int) -> TrainResult:
        """Extract the result of one of several models; passes, steps and seconds remain those of all.

        Parameters
        ----------
        k : int
            Index of the model, from 0.

        Returns
        -------
        TrainResult
            The result, whose arrays and list of reasons hold one model.
        """
        return replace(
            self,
            W=self.W[:, k : k + 1],
            b=self.b[k : k + 1],
            history=[record.for_model(k) for record in self.history],
            reason=self.reasons[k],
            reasons=self.reasons[k : k + 1],
            gradient_norm=None if self.gradient_norm is None else self.gradient_norm[k : k + 1],
            iterations=None if self.iterations is None else self.iterations[k : k + 1],
            measured=None if self.measured is None else (self.measured[0][k : k + 1], self.measured[1][k : k + 1]),
        )

    def to_arrays(self, backend: Backend) -> Tree:
        """Return what a checkpoint keeps of the result.

        Parameters
        ----------
        backend : Backend
            The one that has computed it.

        Returns
        -------
        dict
            Arrays on the host and plain values, by name.
        """
        measured = None if self.measured is None else dict(zip(("value", "loss"), self.measured, strict=True))
        arrays = {"W": backend.to_numpy(self.W), "b": backend.to_numpy(self.b)}
        return {**vars(self), **arrays, "history": _history_to_arrays(self.history), "measured": measured}

    @classmethod
    def from_arrays(cls, kept: Tree, W: Array, validated: bool, backend: Backend) -> TrainResult:
        """Return the result that a checkpoint keeps.

        Parameters
        ----------
        kept : dict
            What `to_arrays` returned.
        W : ndarray, (d, K, c)
            The weights at the start of the training.
        validated : bool
            Whether there was a validation set.
        backend : Backend
            The one that is to have W and b.

        Returns
        -------
        TrainResult
            The result.

        Raises
        ------
        ValueError, TypeError, LookupError
            `kept` comes from a damaged or forged file.
        """
        _, K, c = W.shape
        per_model = {
            name: None if kept[name] is None else checked_array(name, kept[name], dtype, (K,))
            for name, dtype in (("gradient_norm", np.float64), ("iterations", np.int64))
        }
        measured = kept["measured"]
        if measured is not None:
            measured = tuple(checked_array(name, measured[name], np.float64, (K,)) for name in ("value", "loss"))
        if len(kept["reasons"]) != K:
            raise ValueError(f"{len(kept['reasons'])} reasons for {K} models")
        return cls(
            W=backend.asarray(checked_array("W", kept["W"], W.dtype, W.shape)),
            b=backend.asarray(checked_array("b", kept["b"], W.dtype, (K, c))),
            history=_history_from_arrays(kept["history"], K, validated),
            reason=StopReason(kept["reason"]),
            passes=check_number("passes", kept["passes"], least=0),
            step=check_count("step", kept["step"], least=0),
            reasons=[StopReason(reason) for reason in kept["reasons"]],
            **per_model,
            seconds=check_number("seconds", kept["seconds"], least=0),
            measured=measured,
        )


class Progress(Protocol):
    """A display of the progress of training."""

    def update(self, passes: float, total: float, record: Record | None) -> None:
        """Show progress; called after each call of `Solver.step`.

        `total` is the number of passes if the solver takes all its steps. `record` is the last one of the history, None
        before the first.
        """

    def close(self) -> None:
        """Finish the display; called once at the end, even if training failed."""


class EarlyStopping:
    """Ends training once the validation loss has stopped falling; passed among the callbacks.

    Of several models side by side, progress of any one counts.

    Parameters
    ----------
    patience : int
        Number of passes in a row without progress after which training ends; at least 1.
    tol : float
        The loss has to fall by more than this (nats for softmax) to count as progress; not negative.

    Raises
    ------
    ValueError
        `patience` or `tol` is out of range.
    TypeError
        `patience` is not a whole number, or `tol` not a number.
    """

    def __init__(self, patience: int = 10, tol: float = 1e-4) -> None:
        self.patience, self.tol = check_count("patience", patience), check_number("tol", tol, least=0)

    def fresh(self) -> Callable[[Record], bool]:
        """Create a callback without any history, so that one EarlyStopping can serve many fits.

        Returns
        -------
        callable
            Takes the `Record` of each pass and returns whether to stop. It raises ValueError if the record has no
            validation loss.
        """
        return _Plateau(self.patience, self.tol)


class PerFit(Protocol):
    """A callback that makes one for each fit, such as `EarlyStopping` and the loggers.

    If what it makes has a method `close`, that is called once at the end, even if training failed.
    """

    def fresh(self) -> Callable[[Record], Any]:
        """Create the callback of one fit."""


Callback = Callable[[Record], Any] | PerFit


class _Plateau:
    """A callback that stops once no model's validation loss has fallen by more than tol in `patience` passes.

    `best` (K,) is the loss that the next has to be below, and `since` the number of passes without progress.
    """

    def __init__(self, patience: int, tol: float) -> None:
        self.patience, self.tol, self.since = patience, tol, 0
        self.best: Any = np.array(np.inf)

    def __call__(self, record: Record) -> bool:
        value = record.validation_loss
        if value is None:
            raise ValueError("EarlyStopping needs a validation set; pass validation=(X, y) to fit")
        progress = np.asarray(value) < np.asarray(self.best) - self.tol
        self.best = np.where(progress, value, self.best)  # kept without progress, so that small decreases add up
        self.since = 0 if progress.any() else self.since + 1
        return self.since >= self.patience


class _Best:
    """Copies of each model's weights at its smallest value so far."""

    def __init__(self, W: Array, b: Array) -> None:
        self.W, self.b, self.value = W.copy(), b.copy(), np.full(W.shape[1], np.inf)

    def offer(self, value: Array, W: Array, b: Array) -> None:
        """Copy the weights of the models whose value (K,) is smaller than all before; NaN is not."""
        for k in np.flatnonzero(value < self.value).tolist():
            self.W[:, k], self.b[k], self.value[k] = W[:, k], b[k], value[k]


class _Account:
    """What `train` keeps of a training besides the solver's state: a checkpoint has both.

    Attributes
    ----------
    history : list of Record
    totals : ndarray, (3, K)
        Sums of objective, loss and accuracy over the rows of the pass under way.
    rows : int
        The number of these rows.
    best : _Best
    functions : list of callable
        The callbacks of this fit. A checkpoint has the memory of those that come from an EarlyStopping; users'
        functions keep their own.
    started, pass_started : float
        When the training began, and the pass under way, as `time.perf_counter` has it.
    """

    def __init__(self, W: Array, b: Array, callbacks: Sequence[Callback]) -> None:
        self.started = self.pass_started = time.perf_counter()
        self.history: list[Record] = []
        self.totals, self.rows, self.best = np.zeros((3, W.shape[1])), 0, _Best(W, b)
        made = {i: c.fresh() for i, c in enumerate(callbacks) if hasattr(c, "fresh")}
        self.functions: list[Any] = [made.get(i, c) for i, c in enumerate(callbacks)]
        self.closed_at_end = [function for function in made.values() if hasattr(function, "close")]

    @property
    def seconds(self) -> float:
        """Time since the training began; the time between a checkpoint and the start that continues it is left out."""
        return time.perf_counter() - self.started

    def add(self, state: Any) -> None:
        """Add what a step has measured."""
        self.totals = self.totals + state.rows * np.array([state.value, state.loss, state.accuracy])
        self.rows += state.rows

    def end_pass(self, state: Any, validation: Objective | None) -> Record:
        """Write the record of a pass that has ended, and keep the best weights."""
        now = time.perf_counter()
        speed = self.rows / (now - self.pass_started)
        record = _record(state, self.totals / self.rows, speed, now - self.started, validation)
        self.history.append(record)
        self.totals, self.rows, self.pass_started = np.zeros_like(self.totals), 0, now
        monitored = record.objective if validation is None else record.validation_loss
        self.best.offer(np.atleast_1d(monitored), state.W, state.b)
        log.debug("%s", record)
        return record

    def close(self) -> None:
        """Tell the callbacks that were made for this fit that it has ended."""
        for function in self.closed_at_end:
            function.close()

    def _plateaus(self) -> list[_Plateau]:
        return [function for function in self.functions if isinstance(function, _Plateau)]

    def to_arrays(self, backend: Backend) -> Tree:
        """Return what a checkpoint keeps: arrays on the host and plain values."""
        best, now = self.best, time.perf_counter()
        return {
            "history": _history_to_arrays(self.history),
            "totals": self.totals,
            "rows": self.rows,
            "best": {"W": backend.to_numpy(best.W), "b": backend.to_numpy(best.b), "value": best.value},
            "plateaus": {
                str(i): {"best": np.broadcast_to(one.best, best.value.shape), "since": one.since}
                for i, one in enumerate(self._plateaus())
            },
            "seconds": now - self.started,
            "seconds_of_pass": now - self.pass_started,
        }

    def from_arrays(self, kept: Tree, validated: bool, backend: Backend) -> None:
        """Continue from what `to_arrays` returned.

        Raises
        ------
        ValueError, TypeError, LookupError
            `kept` comes from a damaged or forged file.
        """
        best, W, b = self.best, kept["best"]["W"], kept["best"]["b"]
        self.history = _history_from_arrays(kept["history"], len(best.value), validated)
        self.totals = checked_array("totals", kept["totals"], np.float64, self.totals.shape)
        self.rows = check_count("rows", kept["rows"], least=0)
        best.W = backend.asarray(checked_array("best/W", W, best.W.dtype, best.W.shape))
        best.b = backend.asarray(checked_array("best/b", b, best.b.dtype, best.b.shape))
        best.value = checked_array("best/value", kept["best"]["value"], np.float64, best.value.shape)
        for i, plateau in enumerate(self._plateaus()):
            own = kept["plateaus"][str(i)]
            plateau.best = checked_array("plateaus/best", own["best"], np.float64, best.value.shape)
            plateau.since = check_count("plateaus/since", own["since"], least=0)
        now = time.perf_counter()
        self.started = now - check_number("seconds", kept["seconds"], least=0)
        self.pass_started = now - check_number("seconds_of_pass", kept["seconds_of_pass"], least=0)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C and yield a function that tells whether it was pressed; a second one quits at once.

    Ctrl-C is left alone if the program has a handler of its own, and in threads other than the main one, since only the
    main thread may set handlers.
    """
    pressed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on Ctrl-C raises KeyboardInterrupt
        log.warning("interrupted: finishing the current step; press Ctrl-C again to quit at once")

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def train(
    objective: Objective,
    solver: Solver,
    W: Array,
    b: Array,
    *,
    validation: Objective | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainResult:
    """Run a solver to its end, or until a callback or Ctrl-C stops it.

    A validation set alone does not stop it; that takes an EarlyStopping among the callbacks.

    Parameters
    ----------
    objective : Objective
        The objective to minimise.
    solver : Solver
        The solver to run.
    W, b : ndarray
        The start, (d, K, c) and (K, c), in the type of the computation and on the device of the objective; not changed.
    validation : Objective, optional
        Evaluated after each pass; each model then gets the weights with its smallest validation loss.
    callbacks : sequence
        Functions that are called with the Record of each pass and end training by returning True, or objects that make
        one for each fit (`PerFit`), such as EarlyStopping.
    progress : Progress, optional
        Updated after each step of the solver, and closed at the end.
    checkpoint : Checkpoint, optional
        Keeps the training, and continues it: its result, if it has one, is returned at once. Callbacks are not called
        again for passes that were made before.

    Returns
    -------
    TrainResult
        The weights, the history, and why training ended.

    Raises
    ------
    DivergenceError
        The objective of every model became non-finite or far too large; the error carries the result so far.
    ValueError
        The objective of every model became non-finite or far too large, and X holds NaN or infinity; or a validation
        loss is not finite, and the validation X holds them. The message names the first row and column. Or there is an
        EarlyStopping, but no validation set.
    SystemExit
        SIGTERM was received during a training with a checkpoint.
    """
    if checkpoint is not None and not checkpoint.is_open:
        checkpoint = None
    account = _Account(W, b, callbacks)
    backend, at_zero = objective.backend, objective.value_at_zero()

    def result(reason: StopReason, W: Array, b: Array) -> TrainResult:
        """The result with these weights; models that are still being trained end for `reason`."""
        reasons = [each or reason for each in state.reasons]
        # without a gradient norm, value and loss are means over minibatches, not those at W and b
        measured = (state.value, state.loss) if W is state.W and state.gradient_norm is not None else None
        return TrainResult(
            W, b, account.history, reason, state.passes, state.step, reasons, state.gradient_norm, state.iterations,
            account.seconds, measured,
        )  # fmt: skip

    def chosen(reason: StopReason) -> TrainResult:
        """The result with the best or with the last weights, whichever a training that ends for `reason` gets."""
        if account.history and (validation is not None or reason == StopReason.INTERRUPTED):
            return result(reason, account.best.W, account.best.b)
        return result(reason, state.W, state.b)

    try:
        if checkpoint is not None and (kept := checkpoint.recall()) is not None:
            _check_strengths(checkpoint, kept, objective)
            return _recalled(checkpoint, kept, objective, solver, W, validation is not None)
        state = solver.init(objective, W, b)
        if checkpoint is not None and (kept := checkpoint.resume()) is not None:
            _check_strengths(checkpoint, kept, objective)
            state = _continued(checkpoint, kept, solver, state, account, validation is not None, backend)
        reason = StopReason(state.reason)
        with _interruptible() as interrupted:
            while not reason:
                with np.errstate(over="ignore", invalid="ignore"):  # a non-finite loss is reported below
                    state = solver.step(objective, state)
                account.add(state)
                limit = DIVERGENCE_FACTOR * np.maximum(state.start, at_zero)
                diverged = ~(np.isfinite(state.value) & (state.value <= limit))
                if diverged.any():
                    # models that diverged earlier keep their values, and are not ended again
                    diverged &= np.array([each != StopReason.DIVERGED for each in state.reasons])
                if diverged.any():
                    solver.end_diverged(state, diverged)
                    if all(each == StopReason.DIVERGED for each in state.reasons):
                        objective.features.check_finite("X")
                        why = solver.why_it_diverged(state)
                        best = result(StopReason.DIVERGED, account.best.W, account.best.b)
                        if checkpoint is not None:
                            checkpoint.finish(_finished(best, objective, solver, why))
                        raise DivergenceError(why, best)
                if state.reason or state.passes >= len(account.history) + 1:
                    record = account.end_pass(state, validation)
                    stops = [function(record) for function in account.functions]  # all, even if an earlier one stops
                    if any(stops):
                        first = callbacks[[bool(stop) for stop in stops].index(True)]
                        early = isinstance(first, EarlyStopping)
                        reason = StopReason.EARLY_STOPPING if early else StopReason.CALLBACK
                if progress is not None:
                    progress.update(state.passes, solver.passes, account.history[-1] if account.history else None)
                reason = reason or StopReason(state.reason)
                if not reason and interrupted():
                    reason = StopReason.INTERRUPTED
                under_way = reason in (StopReason.RUNNING, StopReason.INTERRUPTED)
                if checkpoint is not None and under_way and (reason or checkpoint.terminated or checkpoint.due()):
                    parts = {"solver": solver.to_arrays(state), "account": account.to_arrays(backend)}
                    checkpoint.save({"strengths": _strengths(objective), **parts})
                    checkpoint.exit_if_terminated()
        if checkpoint is not None and reason != StopReason.INTERRUPTED:
            checkpoint.finish(_finished(chosen(reason), objective, solver))
        if interrupted():  # Ctrl-C may have come after the last check
            reason = StopReason.INTERRUPTED
            if checkpoint is not None:
                checkpoint.close()
    finally:
        if progress is not None:
            progress.close()
        account.close()
    log.info("%s after %.2f passes, %.2f s", reason, state.passes, account.seconds)
    return chosen(reason)


def _continued(
    checkpoint: Checkpoint, kept: Tree, solver: Solver, start: Any, account: _Account, validated: bool, backend: Backend
) -> Any:
    """Return the state that a checkpoint keeps, given that at the start, and put what it has into the account."""
    with checkpoint.reading():
        account.from_arrays(kept["account"], validated, backend)
        return solver.from_arrays(start, kept["solver"])


def _finished(result: TrainResult, objective: Objective, solver: Solver, why: str | None = None) -> Tree:
    """Return what a checkpoint keeps of a training that has ended; `why` says why it diverged."""
    backend = objective.backend
    kept = {"result": result.to_arrays(backend), "shared": solver.to_share(backend), "why": why}
    return {"strengths": _strengths(objective), **kept}


def _strengths(objective: Objective) -> Array:
    """The penalty of each model, on the host."""
    return objective.penalty_on_host.strengths


def _check_strengths(checkpoint: Checkpoint, kept: Tree, objective: Objective) -> None:
    """Raise ValueError if the training that a checkpoint keeps has other penalties than this one.

    A sweep that goes by scores, such as one that finds its penalties, then had other scores before.
    """
    with checkpoint.reading():
        before = checked_array("strengths", kept["strengths"], np.float64, np.shape(kept["strengths"]))
    if not np.array_equal(before, _strengths(objective)):
        raise ValueError(
            f"{checkpoint.path} has a training with l2={before.tolist()}, where this run now has "
            f"l2={_strengths(objective).tolist()}: the scores differ from those of the run before. A scorer has to "
            "give equal models equal scores; to start anew, pass another path"
        )


def _recalled(
    checkpoint: Checkpoint, kept: Tree, objective: Objective, solver: Solver, W: Array, validated: bool
) -> TrainResult:
    """Return the result of a training that a checkpoint keeps, or raise the DivergenceError that it ended with."""
    with checkpoint.reading():
        result = TrainResult.from_arrays(kept["result"], W, validated, objective.backend)
        solver.share(objective, kept.get("shared", {}))
        why = kept["why"]
    if why is not None:
        raise DivergenceError(str(why), result)
    return result


def _record(state: Any, means: Array, speed: float, seconds: float, validation: Objective | None) -> Record:
    """Evaluate the validation set, and make the record of a pass.

    `means` (3, K) are the means of objective, loss and accuracy over the pass; `speed` is in rows per second.
    """

    def plain(values: Array) -> Any:
        """A number for one model, else a copy of the values (K,), since solvers update theirs in place."""
        return float(values[0]) if len(values) == 1 else values.copy()

    measured = (None, None)
    if validation is not None:
        losses, accuracies = validation.backend.fetch(*validation.losses(state.W, state.b))
        if not np.isfinite(losses).all():
            validation.features.check_finite("validation[0]")
        measured = (plain(losses), plain(accuracies))
    return Record(
        passes=state.passes,
        step=state.step,
        objective=plain(means[0]),
        loss=plain(means[1]),
        accuracy=plain(means[2]),
        validation_loss=measured[0],
        validation_accuracy=measured[1],
        learning_rate=plain(state.learning_rate),
        seconds=seconds,
        rows_per_second=speed,
    )
