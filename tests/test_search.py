"""Choosing C: the path finds the smallest validation loss, stops when it only gets worse, and flags its edges."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from cases import Array, blobs

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.search import GRID, Step, choose_C

Data = tuple[Array, Array]


@pytest.fixture
def data() -> tuple[Data, Data]:
    """Overlapping classes, few rows and many features, so that too weak a penalty does harm."""
    X, y = blobs(0, n=400, d=40, c=4, apart=0.25)
    X = X.astype(np.float64)
    return (X[:150], y[:150]), (X[150:], y[150:])


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_the_choice_is_that_of_fits_from_zero(cls: Any, data: tuple[Data, Data]) -> None:
    training, validation = data
    grid = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    choice = choose_C(cls(), *training, validation, grid=grid)
    losses = {}
    for C in grid:
        model = cls(C=C, tol=1e-8).fit(*training)
        measured = cls(C=C, tol=1e-8, l2=None).fit(*training, validation=validation, start_from=model)
        losses[C] = measured.history_[0].validation_loss
    assert choice.C == min(losses, key=losses.__getitem__)
    for step in choice.path:  # the last pass of each gained less than 1e-4 nats
        if step.C <= 1e-2:
            assert step.validation_loss == pytest.approx(losses[step.C], rel=5e-3)
    assert choice.edge == ""


def test_l2_is_the_same_penalty_in_other_words(data: tuple[Data, Data]) -> None:
    choice = choose_C(SoftmaxClassifier(), *data[0], data[1], grid=[0.01, 0.1])
    assert choice.l2 == pytest.approx(1 / (choice.C * 150))
    assert [step.l2 * step.C * 150 for step in choice.path] == pytest.approx([1.0, 1.0])


def test_weaker_penalties_are_left_out_once_the_loss_has_risen_twice(data: tuple[Data, Data]) -> None:
    choice = choose_C(SoftmaxClassifier(), *data[0], data[1])
    losses = [step.validation_loss for step in choice.path]
    assert len(choice.path) < len(GRID)
    assert int(np.argmin(losses)) == len(losses) - 3
    assert [step.C for step in choice.path] == list(GRID[: len(losses)])


@pytest.mark.parametrize(("grid", "edge"), [([1e-6, 1e-5], "largest"), ([10.0, 1e3, 1e2], "smallest"), ([1.0], "")])
def test_a_best_value_at_the_edge_is_flagged(grid: list[float], edge: str, data: tuple[Data, Data]) -> None:
    assert choose_C(SoftmaxClassifier(), *data[0], data[1], grid=grid).edge == edge


def test_each_step_is_told_when_it_is_done(data: tuple[Data, Data]) -> None:
    told: list[Step] = []
    choice = choose_C(SoftmaxClassifier(), *data[0], data[1], on_step=told.append)
    assert told == choice.path


def test_a_warm_start_saves_passes(data: tuple[Data, Data]) -> None:
    path = choose_C(SoftmaxClassifier(), *data[0], data[1], grid=[1.0, 1.05]).path
    assert path[1].passes < path[0].passes


def test_the_estimator_stays_as_it_is(data: tuple[Data, Data]) -> None:
    model = SoftmaxClassifier(C=7.0)
    choose_C(model, *data[0], data[1], grid=[0.1, 1.0])
    assert model.C == 7.0
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize(
    ("estimator", "grid", "message"),
    [
        (SoftmaxClassifier(), [], "grid is empty"),
        (SoftmaxClassifier(), [1.0, -1.0], "grid must hold values of C greater than 0"),
        (SoftmaxClassifier(solver="sgd"), [1.0], "needs solver='lbfgs'"),
        (LinearSVMClassifier(loss="hinge"), [1.0], "needs solver='lbfgs'"),
        (SoftmaxClassifier(scaling="large"), [1.0], "scaling"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_from_is_refused(
    estimator: Any, grid: list[float], message: str, data: tuple[Data, Data]
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_C(estimator, *data[0], data[1], grid=grid)


def test_ctrl_c_ends_it(data: tuple[Data, Data], monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusoftmax.solvers.lbfgs import LBFGS

    step = LBFGS.step

    def pressed(self: Any, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(LBFGS, "step", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            choose_C(SoftmaxClassifier(), *data[0], data[1])
    finally:
        signal.signal(signal.SIGINT, before)
