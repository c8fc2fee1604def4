"""The training loop: history, reasons to stop, best weights, divergence, Ctrl-C and progress.

Most tests use a solver that reports scripted values, and whose weights are the number of its steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import SGD, sgd
from gpusoftmax.trainer import EarlyStopping, Record, TrainResult, train
from tests.support.cases import Array, blobs, evaluated, objective_of, on_host, zeros_for

NUMPY = get_backend("numpy", n_threads=1)


def three_rows(backend: Backend, K: int = 1) -> Objective:
    """An objective of three classes: its value at zero is ln 3."""
    return objective_of(np.eye(3, dtype=np.float32), np.arange(3), backend, K=K)


OBJECTIVE = three_rows(NUMPY)


class Script:
    """A solver whose steps have the given values, each step a pass over ten rows; W and b are the number of steps."""

    may_stop_early = True

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.float64).reshape(len(values), -1)

    @property
    def passes(self) -> float:
        return float(len(self.values))

    def init(self, objective: Objective, W: Array, b: Array) -> Any:
        return SimpleNamespace(
            W=W.copy(), b=b.copy(), step=0, passes=0.0, rows=10, reason="", gradient_norm=None, start=self.values[0],
            value=None, loss=None, accuracy=None, learning_rate=np.full(self.values.shape[1], 0.25), iterations=None,
            reasons=[""] * self.values.shape[1],
        )  # fmt: skip

    def step(self, objective: Objective, state: Any) -> Any:
        state.value = self.values[state.step]
        state.loss, state.accuracy = state.value / 2, state.value / 4
        state.step += 1
        state.passes += 1.0
        state.W += 1
        state.b += 1
        state.reason = "finished" if state.step == len(self.values) else ""
        return state

    def why_it_diverged(self, state: Any) -> str:
        return f"the value is {state.value.max():.3g} after {state.step} steps"

    def end_diverged(self, state: Any, diverged: Array) -> None:
        for k in np.flatnonzero(diverged):
            state.reasons[k] = "diverged"


def follow(values: Any, backend: Backend = NUMPY, **options: Any) -> TrainResult:
    """Train by script; the result is of NumPy arrays."""
    solver = Script(values)
    objective = three_rows(backend, K=solver.values.shape[1])
    result: TrainResult = on_host(train(objective, solver, *zeros_for(objective), **options), backend)
    return result


def validation_of(losses: Any, backend: Backend = NUMPY) -> Any:
    """A validation set on which the weights of step t have losses[t - 1]."""
    table = np.asarray(losses, np.float64).reshape(len(losses), -1)

    def measure(W: Array, b: Array) -> tuple[Array, Array]:
        values = table[int(backend.to_numpy(W)[0, 0, 0]) - 1]
        return backend.asarray(values), backend.asarray(values / 8)

    return SimpleNamespace(losses=measure, backend=backend)


def steps_of(result: TrainResult) -> list[int]:
    """The step after which the weights of each model were taken."""
    assert (result.W == result.W[:1, :, :1]).all()
    np.testing.assert_array_equal(result.b, result.W[0])
    return [int(step) for step in result.W[0, :, 0]]


def test_the_history_is_what_was_measured(backend: Backend) -> None:
    X, y = blobs(0, n=100)
    objective = objective_of(X[:80], y[:80], backend, c=3, l2=0.1)
    validation = objective_of(X[80:], y[80:], backend, c=3, l2=0.1)
    solver = SGD(BatchPlan(80, 80), 4, 0.2, schedule="inverse")
    state = solver.init(objective, *zeros_for(objective))
    expected = []
    for step in range(1, 5):
        before = evaluated(objective, state.W, state.b)
        state = solver.step(objective, state)
        loss, accuracy = map(backend.to_numpy, validation.losses(state.W, state.b))
        expected.append(
            [step, step, before.value[0], before.loss[0], before.accuracy[0], loss[0], accuracy[0], 0.2 / step]
        )
    result = train(objective, solver, *zeros_for(objective), validation=validation)
    names = [field.name for field in fields(Record)]
    assert names[:8] == [
        "passes", "step", "objective", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"
    ]  # fmt: skip
    np.testing.assert_allclose(
        [[getattr(record, name) for name in names[:8]] for record in result.history], expected, rtol=1e-6
    )


def test_the_history_has_a_clock() -> None:
    history = follow([3.0, 2.0, 1.0]).history
    seconds = [record.seconds for record in history]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    # ten rows a pass
    np.testing.assert_allclose([record.rows_per_second for record in history[1:]], 10 / np.diff(seconds), rtol=1e-6)


def test_a_record_of_one_model_holds_numbers_and_none_without_validation() -> None:
    record = follow([3.0]).history[0].as_dict()
    assert (record["objective"], record["loss"], record["accuracy"], record["learning_rate"]) == (3.0, 1.5, 0.75, 0.25)
    assert (record["validation_loss"], record["validation_accuracy"]) == (None, None)
    assert type(record["objective"]) is float


def test_a_record_of_several_models_holds_arrays(backend: Backend) -> None:
    record = follow(
        [[3.0, 4.0], [1.0, 2.0]], backend, validation=validation_of([[5.0, 6.0], [7.0, 8.0]], backend)
    ).history[1]
    for name, expected in [("objective", [1, 2]), ("loss", [0.5, 1]), ("accuracy", [0.25, 0.5]),
                           ("learning_rate", [0.25, 0.25]), ("validation_loss", [7, 8])]:  # fmt: skip
        np.testing.assert_array_equal(getattr(record, name), expected, err_msg=name)


def test_a_record_is_the_mean_over_a_pass_of_several_stretches(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs(0, n=50)
    objective = objective_of(X, y, backend, l2=0.1)
    solver = SGD(BatchPlan(50, 8), 14)  # two passes; the last batch of each is shorter
    whole = train(objective, solver, *zeros_for(objective)).history
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 16)
    parts = train(objective, solver, *zeros_for(objective)).history
    assert [record.passes for record in parts] == [record.passes for record in whole] == [1.0, 2.0]
    for name in ("objective", "loss", "accuracy"):
        np.testing.assert_allclose([getattr(r, name) for r in parts], [getattr(r, name) for r in whole], rtol=1e-12)


def test_a_fit_that_ends_within_a_pass_records_what_it_has(backend: Backend) -> None:
    X, y = blobs(0, n=50)
    objective = objective_of(X, y, backend)
    result = train(objective, SGD(BatchPlan(50, 10), 7), *zeros_for(objective))
    assert [(record.passes, record.step) for record in result.history] == [(1.0, 5), (1.4, 7)]
    assert (result.reason, result.passes, result.step) == ("finished", 1.4, 7)


def test_a_finished_fit_returns_the_last_weights(backend: Backend) -> None:
    result = follow([1.0, 0.5, 0.9], backend)
    assert (result.reason, steps_of(result), len(result.history)) == ("finished", [3], 3)


def test_with_a_validation_set_each_models_best_weights_are_returned(backend: Backend) -> None:
    validation = validation_of([[3.0, 5.0], [1.0, 4.0], [2.0, 3.0], [1.5, 3.5]], backend)
    result = follow(np.ones((4, 2)), backend, validation=validation)
    assert (result.reason, steps_of(result)) == ("finished", [2, 3])


def test_training_ends_only_when_the_last_model_has_diverged() -> None:
    values = [[1.0, 1.0], [np.nan, 0.9], [np.nan, 0.8]]
    result = follow(values)
    assert (result.reason, result.reasons) == ("finished", ["diverged", "finished"])
    with pytest.raises(DivergenceError):
        follow([*values, [np.nan, np.inf], [1.0, 1.0]])


def test_a_callback_ends_training_by_returning_true() -> None:
    result = follow([1.0] * 9, callbacks=[lambda record: record.step == 3])
    assert (result.reason, result.passes, steps_of(result)) == ("callback", 3, [3])


def test_every_callback_is_told_whoever_says_stop() -> None:
    told: list[int] = []
    follow([1.0] * 9, callbacks=[lambda record: record.step == 3, lambda record: told.append(record.step)])
    assert told == [1, 2, 3]


def test_early_stopping_waits_patience_passes_and_the_best_weights_are_returned(backend: Backend) -> None:
    losses = [5.0, 3.0, 2.0, 2.5, 1.95, 2.4, 9.0, 9.0]  # 1.95 is better by less than tol
    stop = EarlyStopping(patience=3, tol=0.1)
    result = follow([1.0] * 8, backend, validation=validation_of(losses, backend), callbacks=[stop])
    assert (result.reason, result.passes, steps_of(result)) == ("early_stopping", 6, [5])


def test_one_early_stopping_serves_many_fits() -> None:
    stop = EarlyStopping(patience=2)
    passes = [follow([1.0] * 8, validation=validation_of([3.0] * 8), callbacks=[stop]).passes for _ in range(2)]
    assert passes == [3, 3]


def test_early_stopping_without_a_validation_set_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"EarlyStopping needs a validation set; pass validation=\(X, y\)"):
        follow([1.0] * 8, callbacks=[EarlyStopping()])


def test_divergence_keeps_the_best_weights_and_the_history(backend: Backend) -> None:
    with pytest.raises(DivergenceError) as caught:
        follow([1.0, 0.5, 0.7, np.nan], backend)
    result = on_host(caught.value.result, backend)
    assert (result.reason, steps_of(result), result.step) == ("diverged", [2], 4)
    assert [record.objective for record in result.history] == [1.0, 0.5, 0.7]


@pytest.mark.parametrize("first", [np.nan, np.inf])
def test_divergence_in_the_first_pass_keeps_the_start(backend: Backend, first: float) -> None:
    with pytest.raises(DivergenceError) as caught:
        follow([first], backend)
    assert steps_of(on_host(caught.value.result, backend)) == [0]


@pytest.mark.parametrize("K", [1, 2])
def test_a_loss_of_ten_times_the_start_is_divergence(K: int) -> None:
    start, high = [2.0] * K, [20.1] * K
    with pytest.raises(DivergenceError):
        follow([start, high, start])


def test_a_loss_below_ten_times_the_start_may_come_down_again() -> None:
    assert follow([2.0, 19.9, 2.0]).reason == "finished"


def test_a_start_below_the_loss_of_zero_weights_is_measured_by_that() -> None:
    # a warm start near the optimum: ten times a loss of 0.001 is nothing
    assert follow([0.001, 1.0, 0.001]).reason == "finished"


@pytest.mark.parametrize("rate", [1.0, 1e3, 1e6])  # at the last one float32 overflows within a pass
def test_too_long_steps_raise_divergence_with_finite_weights_and_advice(backend: Backend, rate: float) -> None:
    X, y = blobs(0, apart=0.5)  # they overlap: no weights, however large, have a loss of 0
    objective = objective_of(X, y, backend, loss="squared_hinge")
    with pytest.raises(DivergenceError, match=r"learning_rate=1.*learning_rate ten times smaller") as caught:
        train(objective, SGD(BatchPlan(120, 16), 800, rate, schedule="constant"), *zeros_for(objective))
    result = on_host(caught.value.result, backend)
    assert np.isfinite(result.W).all()
    assert np.isfinite(result.b).all()


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_bad_features_are_named_by_row_and_column(backend: Backend, dtype: str, value: float, kind: str) -> None:
    X, y = blobs(0)
    X = X.astype(dtype)
    X[77, 3] = X[90, 1] = value
    objective = objective_of(X, y, backend)
    with pytest.raises(ValueError, match=rf"Input X contains {kind}: X\[77, 3\] is {value}"):
        train(objective, SGD(BatchPlan(120, 16), 80), *zeros_for(objective))


@pytest.mark.parametrize("loss", LOSSES)
def test_bad_features_for_validation_are_named_by_row_and_column(backend: Backend, loss: str) -> None:
    X, y = blobs(0)
    bad = X.copy()
    bad[77, 3] = np.nan
    objective, validation = objective_of(X, y, backend, loss=loss), objective_of(bad, y, backend, loss=loss)
    with pytest.raises(ValueError, match=r"validation\[0\]\[77, 3\] is nan"):
        train(objective, SGD(BatchPlan(120, 16), 80), *zeros_for(objective), validation=validation)


@pytest.fixture
def default_handler() -> Iterator[None]:
    """Handle Ctrl-C as in a terminal: a background shell ignores it, and so do programs started by it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(times: int, at_step: int) -> Callable[[Record], None]:
    """A callback that presses Ctrl-C."""

    def callback(record: Record) -> None:
        if record.step == at_step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.usefixtures("default_handler")
def test_ctrl_c_ends_training_with_the_best_weights(backend: Backend) -> None:
    result = follow([3.0, 1.0, 2.0, 2.0, 2.0], backend, callbacks=[press(1, at_step=4)])
    assert (result.reason, result.passes, steps_of(result)) == ("interrupted", 4, [2])


@pytest.mark.usefixtures("default_handler")
def test_a_second_ctrl_c_quits_at_once() -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        follow([3.0, 1.0, 2.0], callbacks=[press(2, at_step=2), lambda record: told.append(record.step)])
    assert told == [1]


@pytest.mark.usefixtures("default_handler")
@pytest.mark.parametrize("presses", [0, 1, 2])
def test_the_handler_of_ctrl_c_is_put_back(presses: int) -> None:
    try:
        follow([3.0, 1.0, 2.0], callbacks=[press(presses, at_step=2)])
    except KeyboardInterrupt:
        assert presses == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_handler")
def test_a_programs_own_handler_of_ctrl_c_stays_in_charge() -> None:
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    result = follow([3.0, 1.0, 2.0], callbacks=[press(1, at_step=2)])
    assert (result.reason, caught) == ("finished", [signal.SIGINT])


@pytest.mark.usefixtures("default_handler")
def test_in_another_thread_no_handler_is_touched() -> None:
    seen: list[Any] = []
    results: list[TrainResult] = []
    watch = lambda record: seen.append(signal.getsignal(signal.SIGINT))
    thread = threading.Thread(target=lambda: results.append(follow([3.0, 1.0], callbacks=[watch])))
    thread.start()
    thread.join()
    assert results[0].reason == "finished"
    assert seen == [signal.default_int_handler] * 2


class Watch:
    """A progress display that remembers its calls."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float, int | None]] = []
        self.closed = 0

    def update(self, passes: float, total: float, record: Record | None) -> None:
        self.updates.append((passes, total, None if record is None else record.step))

    def close(self) -> None:
        self.closed += 1


def test_progress_is_told_after_each_stretch_and_closed_at_the_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 30)
    X, y = blobs(0)
    objective, progress = objective_of(X, y, backend), Watch()
    train(objective, SGD(BatchPlan(120, 30), 8), *zeros_for(objective), progress=progress)
    assert [passes for passes, _, _ in progress.updates] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert {total for _, total, _ in progress.updates} == {2.0}
    assert [step for _, _, step in progress.updates] == [None] * 3 + [4] * 4 + [8]
    assert progress.closed == 1


def fail(*arguments: Any) -> None:
    raise LookupError


class BrokenSolver(Script):
    """Fails before its first step, as where the automatic learning rate cannot be found."""

    init = fail


@pytest.mark.usefixtures("default_handler")
@pytest.mark.parametrize(
    ("solver", "callbacks", "error"),
    [
        pytest.param(Script([1.0, 1.0]), [fail], LookupError, id="in a callback"),
        pytest.param(Script([1.0, np.nan]), [], DivergenceError, id="divergence"),
        pytest.param(Script([1.0, 1.0]), [press(2, at_step=1)], KeyboardInterrupt, id="Ctrl-C twice"),
        pytest.param(BrokenSolver([1.0]), [], LookupError, id="in the solver's start"),
    ],
)
def test_progress_is_closed_whatever_happens(solver: Script, callbacks: list[Any], error: type[BaseException]) -> None:
    progress = Watch()
    with pytest.raises(error):
        train(OBJECTIVE, solver, *zeros_for(OBJECTIVE), callbacks=callbacks, progress=progress)
    assert progress.closed == 1


def test_the_start_is_left_as_it_is(backend: Backend) -> None:
    objective = three_rows(backend)
    W, b = zeros_for(objective)
    train(objective, SGD(BatchPlan(3, 3), 5), W, b)
    assert not backend.to_numpy(W).any()
    assert not backend.to_numpy(b).any()
