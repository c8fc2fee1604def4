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

DIVERGED = 10.0  # diverged: the objective exceeds this many times that of zero weights and that of the start


@dataclass(frozen=True)
class Record:
    """One entry of the history, written after each pass over the data.

    For several models side by side, each measure is an array (K,).

    Attributes
    ----------
    passes : float
        Passes over the data so far.
    step : int
        Solver steps so far.
    objective, loss, accuracy
        Training objective (with penalty), loss (in nats for softmax) and accuracy in [0, 1]. They are means over the
        rows of the pass, each row measured with the weights at the time.
    validation_loss, validation_accuracy
        Loss and accuracy on the validation set after the pass; None without a validation set.
    learning_rate
        Learning rate of the last step.
    seconds : float
        Time since training started.
    rows_per_second : float
        Speed of this pass.
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
        """Extract the record of one of several models.

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
    W, b : ndarray
        Weights (d, K, c) of the scaled features and intercepts (K, c). If there is a validation set, or if training was
        interrupted or diverged, they are the best ones found; else the last ones.
    history : list of Record
        One record for each pass.
    reason : StopReason
        Why training ended.
    passes : float
        Passes over the data.
    step : int
        Solver steps.
    reasons : list of StopReason
        Why the training of each model ended; some may end before others.
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
        """Extract the result of one of several models; passes, steps and seconds remain those of all."""
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
        """Show progress; called after each stretch. `record` belongs to the last complete pass."""

    def close(self) -> None:
        """Finish the display; called once at the end, even if training failed."""


class EarlyStopping:
    """A callback that ends training once the validation loss has stopped falling.

    Parameters
    ----------
    patience : int
        Number of passes without progress after which training ends.
    tol : float
        The loss has to fall by more than this (nats for softmax) to count as progress.
    """

    def __init__(self, patience: int = 10, tol: float = 1e-4) -> None:
        self.patience, self.tol = check_count("patience", patience), check_number("tol", tol, least=0)

    def fresh(self) -> Callable[[Record], bool]:
        """Create a callback without any history, so that one EarlyStopping can serve many fits.

        Returns
        -------
        callable
            Takes the `Record` of each pass and returns whether to stop. Raises ValueError without a validation set.
        """
        watch = _Plateau(self.patience, self.tol)

        def stop(record: Record) -> bool:
            if record.validation_loss is None:
                raise ValueError("EarlyStopping needs a validation set; pass validation=(X, y) to fit")
            return watch(record.validation_loss)

        return stop


Callback = Callable[[Record], Any] | EarlyStopping


class _Plateau:
    """Callable that returns True once no model's value has fallen by more than tol in `patience` values."""

    def __init__(self, patience: int, tol: float) -> None:
        self.patience, self.tol, self.since = patience, tol, 0
        self.best: Any = np.inf

    def __call__(self, value: Any) -> bool:
        progress = np.asarray(value) < np.asarray(self.best) - self.tol
        self.best = np.where(progress, value, self.best)  # kept until then, so that small decreases add up
        self.since = 0 if progress.any() else self.since + 1
        return self.since >= self.patience


class _Best:
    """Copies of each model's weights at its smallest value so far."""

    def __init__(self, W: Array, b: Array) -> None:
        self.W, self.b, self.value = W.copy(), b.copy(), np.full(W.shape[1], np.inf)

    def offer(self, value: Array, W: Array, b: Array) -> None:
        for k in np.flatnonzero(value < self.value).tolist():
            self.W[:, k], self.b[k], self.value[k] = W[:, k], b[k], value[k]


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C and yield a function that tells whether it was pressed; a second one quits at once.

    In other threads than the main one, which may not set handlers, and if the program has a handler of its own, Ctrl-C
    is left alone.
    """
    pressed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on Ctrl-C raises KeyboardInterrupt
        log.warning("interrupted: stopping after this stretch; press Ctrl-C again to quit at once")

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
    """Run a solver to its end, or until a callback, a validation set or Ctrl-C stops it.

    Parameters
    ----------
    objective : Objective
        The objective to minimise.
    solver : Solver
        The solver to run.
    W, b : ndarray
        The start, (d, K, c) and (K, c); not changed.
    validation : Objective, optional
        Evaluated after each pass; the weights with the smallest validation loss are returned.
    callbacks : sequence
        Functions that are called with the Record of each pass and end training by returning True; or EarlyStopping.
    progress : Progress, optional
        Updated after each stretch.

    Returns
    -------
    TrainResult

    Raises
    ------
    DivergenceError
        The objective of every model became non-finite or far too large; the error carries the result so far.
    ValueError
        The loss became non-finite because X holds NaN or infinity; names the first row and column.
    """
    started = time.perf_counter()
    history: list[Record] = []
    watchers = [c.fresh() if isinstance(c, EarlyStopping) else c for c in callbacks]
    totals, rows, pass_started = np.zeros((3, objective.n_models)), 0, started
    reason = StopReason.RUNNING

    def result(reason: StopReason, W: Array, b: Array) -> TrainResult:
        seconds = time.perf_counter() - started
        reasons = [each or reason for each in state.reasons]
        of_models = state.gradient_norm, state.iterations
        measured = (state.value, state.loss) if W is state.W and state.gradient_norm is not None else None
        return TrainResult(W, b, history, reason, state.passes, state.step, reasons, *of_models, seconds, measured)

    try:
        state, best = solver.init(objective, W, b), _Best(W, b)
        with _interruptible() as interrupted:
            while not reason:
                with np.errstate(over="ignore", invalid="ignore"):  # a non-finite loss is reported below
                    state = solver.step(objective, state)
                measured = np.stack([state.value, state.loss, state.accuracy])
                totals, rows = totals + state.rows * measured, rows + state.rows
                limit = DIVERGED * np.maximum(state.start, objective.value_at_zero())
                lost = ~(np.isfinite(state.value) & (state.value <= limit)) & np.array(
                    [each != StopReason.DIVERGED for each in state.reasons]
                )
                if lost.any():
                    solver.give_up(state, lost)
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
                    stops = [watch(record) for watch in watchers]  # all are called, even if an earlier one stops
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
    def plain(values: Array) -> Any:
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
