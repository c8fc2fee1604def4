"""gradient_check: it accepts right gradients, finds wrong ones, and avoids the kinks of the hinge losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.losses import LOSSES
from gpusoftmax.objective import gradcheck
from gpusoftmax.objective.functional import loss_and_gradient
from gpusoftmax.objective.gradcheck import GradientRecord, gradient_check

D, C, K = 5, 4, 2
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"l2": 0.3},
    "penalised intercept": {"l2": 0.3, "penalize_intercept": True},
    "weights": {"sample_weight": np.arange(12) % 4},
    "scaling": {"shift": np.linspace(-1, 1, D), "scale": [2.0, 0.5, 0.0, 1.0, 3.0]},
}


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[Any, ...]:
    return (
        rng.standard_normal((12, D)),
        rng.integers(0, C, 12),
        rng.standard_normal((D, C)),
        rng.standard_normal(C),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", OPTIONS)
def test_right_gradients_pass(backend: Any, problem: tuple[Any, ...], options: str, loss: str) -> None:
    records = gradient_check(*problem, n_checks=10**6, loss=loss, backend=backend, **OPTIONS[options])
    assert len(records) == D * C + C
    assert not any(record.near_kink for record in records)
    assert max(record.relative_error for record in records) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_right_gradients_of_several_models_pass(backend: Any, rng: np.random.Generator, loss: str) -> None:
    X, y = rng.standard_normal((12, D)), rng.integers(0, C, 12)
    W, b = rng.standard_normal((D, K, C)), rng.standard_normal((K, C))
    records = gradient_check(X, y, W, b, n_checks=10**6, loss=loss, l2=[0.1, 0.2], backend=backend)
    assert {record.coordinate[0]: len(record.coordinate) for record in records} == {"W": 4, "b": 3}
    assert len({record.coordinate for record in records}) == len(records) == D * K * C + K * C
    assert max(record.relative_error for record in records) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_narrow_features_are_checked_in_float64(backend: Any, rng: np.random.Generator, dtype: str) -> None:
    X = rng.integers(0, 9, (12, D)).astype(dtype)
    W, b = rng.standard_normal((D, C)).astype(np.float32), np.zeros(C, np.float32)
    records = gradient_check(X, rng.integers(0, C, 12), W, b, backend=backend)
    assert max(record.relative_error for record in records) < 1e-6


@pytest.mark.parametrize("parameter", ["W", "b"])
def test_a_wrong_gradient_is_noticed_where_it_is_wrong(
    problem: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, parameter: str
) -> None:
    def wrong(*arguments: Any, **options: Any) -> tuple[Any, ...]:
        loss, dW, db = loss_and_gradient(*arguments, **options)
        if parameter == "W":
            dW[2, ..., 1] *= 1.001
        else:
            db[..., 1] *= 1.001
        return loss, dW, db

    monkeypatch.setattr(gradcheck, "loss_and_gradient", wrong)
    records = gradient_check(*problem, n_checks=10**6, backend="numpy")
    noticed = [record.coordinate for record in records if record.relative_error > 1e-6]
    assert noticed == [("W", 2, 1) if parameter == "W" else ("b", 1)]


def kink(loss: str, margin: float) -> list[GradientRecord]:
    """Check one row of class 0 with that margin of class 1; class 2 is far from its kink, feature 1 is 0."""
    W, b = np.array([[0.0, margin - 1.0, -9.0], [1.0, 1.0, 1.0]]), np.zeros(3)
    return gradient_check([[1.0, 0.0]], [0], W, b, n_checks=99, loss=loss, backend="numpy")


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("margin", [0.0, 0.9e-5, -0.9e-5])
def test_coordinates_that_can_cross_a_kink_are_marked(loss: str, margin: float) -> None:
    marked = {record.coordinate for record in kink(loss, margin) if record.near_kink}
    assert marked == {("W", 0, 0), ("W", 0, 1), ("b", 0), ("b", 1)}


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("margin", [1.1e-5, -1.1e-5])
def test_coordinates_that_cannot_reach_a_kink_are_not_marked(loss: str, margin: float) -> None:
    assert not any(record.near_kink for record in kink(loss, margin))


def test_softmax_has_no_kinks() -> None:
    assert not any(record.near_kink for record in kink("softmax", 0.0))


def test_a_kink_is_where_the_scaled_features_have_it() -> None:
    W, b = np.array([[0.0, -1.0], [1.0, 1.0]]), np.zeros(2)  # margin 0 at x' = 1
    options: dict[str, Any] = {"loss": "hinge", "backend": "numpy", "n_checks": 99}
    scaled = gradient_check([[25.0, 7.0]], [0], W, b, shift=[5.0, 7.0], scale=[20.0, 0.0], **options)
    assert {record.coordinate for record in scaled if record.near_kink} == {
        ("W", 0, 0), ("W", 0, 1), ("b", 0), ("b", 1)
    }  # fmt: skip


def test_a_large_feature_does_not_mark_kinks_that_are_out_of_its_reach() -> None:
    W, b = np.array([[0.0, -1e-3]]), np.zeros(2)  # the step moves scores by 2, the margin is -199
    records = gradient_check([[2e5]], [0], W, b, loss="hinge", backend="numpy")
    assert not any(record.near_kink for record in records)


def test_two_zeros_differ_by_nothing() -> None:
    records = kink("hinge", -5.0)  # no margin is active
    assert {(record.numeric, record.analytic, record.relative_error) for record in records} == {(0.0, 0.0, 0.0)}


def test_coordinates_are_drawn_without_repetition_and_by_the_seed(problem: tuple[Any, ...]) -> None:
    def drawn(seed: int) -> list[tuple[Any, ...]]:
        return [record.coordinate for record in gradient_check(*problem, n_checks=12, seed=seed, backend="numpy")]

    assert len(set(drawn(0))) == 12
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_weights_that_cannot_be_written_to_are_checked_all_the_same(problem: tuple[Any, ...]) -> None:
    for array in problem:
        array.setflags(write=False)
    assert max(record.relative_error for record in gradient_check(*problem, backend="numpy")) < 1e-6


def test_the_callers_weights_are_never_changed(problem: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, W, b = problem
    W, b = W[:, None], b[None]  # with an axis of models: what needs no conversion
    before = W.copy(), b.copy()

    def watching(*arguments: Any, **options: Any) -> tuple[Any, ...]:
        np.testing.assert_array_equal(W, before[0])
        np.testing.assert_array_equal(b, before[1])
        return loss_and_gradient(*arguments, **options)

    monkeypatch.setattr(gradcheck, "loss_and_gradient", watching)
    gradient_check(*problem[:2], W, b, n_checks=99, backend="numpy")
