"""The training loop: runs any solver and handles history, progress, early stopping, Ctrl-C and divergence."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.scalars import check_count, check_number
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import Solver, StopReason

# A model has diverged if its objective is not finite, or more than this many times the larger of two others: its
# objective at the start, and that of zero weights.
DIVERGENCE_FACTOR = 10.0


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
        names = ("objective", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate")
        measured = {name: getattr(self, name) for name in names}
        own: dict[str, Any] = {
            n: None if value is None else float(np.atleast_1d(value)[k]) for n, value in measured.items()
        }
        return replace(self, **own)


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
        has_stalled = _Plateau(self.patience, self.tol)

        def stop(record: Record) -> bool:
            if record.validation_loss is None:
                raise ValueError("EarlyStopping needs a validation set; pass validation=(X, y) to fit")
            return has_stalled(record.validation_loss)

        return stop


Callback = Callable[[Record], Any] | EarlyStopping


class _Plateau:
    """A function of each pass's values, () or (K,): True once none has fallen by more than tol in `patience` passes."""

    def __init__(self, patience: int, tol: float) -> None:
        self.patience, self.tol, self.since = patience, tol, 0
        self.best: Any = np.inf

    def __call__(self, value: Any) -> bool:
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
        Functions that are called with the Record of each pass and end training by returning True; or EarlyStopping.
    progress : Progress, optional
        Updated after each step of the solver, and closed at the end.

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
    """
    started = time.perf_counter()
    history: list[Record] = []
    functions = [c.fresh() if isinstance(c, EarlyStopping) else c for c in callbacks]
    totals, rows, pass_started = np.zeros((3, objective.n_models)), 0, started
    at_zero = objective.value_at_zero()
    reason = StopReason.RUNNING

    def result(reason: StopReason, W: Array, b: Array) -> TrainResult:
        """The result with these weights; models that are still being trained end for `reason`."""
        seconds = time.perf_counter() - started
        reasons = [each or reason for each in state.reasons]
        # without a gradient norm, value and loss are means over minibatches, not those at W and b
        measured = (state.value, state.loss) if W is state.W and state.gradient_norm is not None else None
        return TrainResult(
            W, b, history, reason, state.passes, state.step, reasons, state.gradient_norm, state.iterations, seconds,
            measured,
        )  # fmt: skip

    try:
        state, best = solver.init(objective, W, b), _Best(W, b)
        with _interruptible() as interrupted:
            while not reason:
                with np.errstate(over="ignore", invalid="ignore"):  # a non-finite loss is reported below
                    state = solver.step(objective, state)
                measured = np.array([state.value, state.loss, state.accuracy])
                totals, rows = totals + state.rows * measured, rows + state.rows
                limit = DIVERGENCE_FACTOR * np.maximum(state.start, at_zero)
                diverged = ~(np.isfinite(state.value) & (state.value <= limit))
                if diverged.any():
                    # models that diverged earlier keep their values, and are not ended again
                    diverged &= np.array([each != StopReason.DIVERGED for each in state.reasons])
                if diverged.any():
                    solver.end_diverged(state, diverged)
                    if all(each == StopReason.DIVERGED for each in state.reasons):
                        objective.features.check_finite("X")
                        raise DivergenceError(
                            solver.why_it_diverged(state), result(StopReason.DIVERGED, best.W, best.b)
                        )
                if state.reason or state.passes >= len(history) + 1:
                    now = time.perf_counter()
                    record = _record(state, totals / rows, rows / (now - pass_started), now - started, validation)
                    history.append(record)
                    totals, rows, pass_started = np.zeros_like(totals), 0, now
                    monitored = record.objective if validation is None else record.validation_loss
                    best.offer(np.atleast_1d(monitored), state.W, state.b)
                    log.debug("%s", record)
                    stops = [function(record) for function in functions]  # all are called, even if an earlier one stops
                    if any(stops):
                        first = callbacks[[bool(stop) for stop in stops].index(True)]
                        early = isinstance(first, EarlyStopping)
                        reason = StopReason.EARLY_STOPPING if early else StopReason.CALLBACK
                if progress is not None:
                    progress.update(state.passes, solver.passes, history[-1] if history else None)
                reason = reason or (StopReason.INTERRUPTED if interrupted() else state.reason)
        if interrupted():  # Ctrl-C came after the last check
            reason = StopReason.INTERRUPTED
    finally:
        if progress is not None:
            progress.close()
    log.info("%s after %.2f passes, %.2f s", reason, state.passes, time.perf_counter() - started)
    keep_best = validation is not None or reason == StopReason.INTERRUPTED
    return result(reason, best.W, best.b) if keep_best and history else result(reason, state.W, state.b)


def _record(state: Any, means: Array, speed: float, seconds: float, validation: Objective | None) -> Record:
    """Evaluate the validation set, and make the record of a pass.

    `means` (3, K) are the means of objective, loss and accuracy over the pass; `speed` is in rows per second.
    """

    def plain(values: Array) -> Any:
        """A number for one model, else a copy of the values (K,), since solvers update theirs in place."""
        return float(values[0]) if len(values) == 1 else values.copy()

    measured = (None, None)
    if validation is not None:
        losses, accuracies = map(validation.backend.to_numpy, validation.losses(state.W, state.b))
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
