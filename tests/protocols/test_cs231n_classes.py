"""The course's classes against the course's loop, written out in NumPy with the same random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.protocols.cs231n import LinearSVM, Softmax

N, D, C = 60, 7, 4


def problem() -> tuple[Any, Any]:
    """Rows with a column of ones, and labels of all classes."""
    rng = np.random.default_rng(3)
    return np.column_stack([rng.normal(size=(N, D - 1)), np.ones(N)]), np.arange(N) % C


def loss_of(kind: str, W: Any, X: Any, y: Any, reg: float) -> tuple[float, Any]:
    """The course's loss and gradient."""
    scores, rows = X @ W, np.arange(len(y))
    if kind == "softmax":
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores)
        p /= p.sum(axis=1, keepdims=True)
        value, g = -np.log(p[rows, y]).mean(), p
        g[rows, y] -= 1
    else:
        margins = np.maximum(0, scores - scores[rows, y][:, None] + 1)
        margins[rows, y] = 0
        value, g = margins.sum() / len(y), (margins > 0).astype(float)
        g[rows, y] = -g.sum(axis=1)
    return value + reg * (W * W).sum(), X.T @ g / len(y) + 2 * reg * W


def trained_by_hand(kind: str, X: Any, y: Any, rate: float, reg: float, n: int, batch: int) -> tuple[Any, list[float]]:
    """The course's loop."""
    W, history = 0.001 * np.random.randn(X.shape[1], y.max() + 1), []
    for _ in range(n):
        rows = np.random.choice(len(X), batch)
        value, dW = loss_of(kind, W, X[rows], y[rows], reg)
        history.append(value)
        W = W - rate * dW
    return W, history


@pytest.mark.parametrize(("cls", "kind"), [(Softmax, "softmax"), (LinearSVM, "hinge")])
def test_training_is_the_courses_loop(cls: Any, kind: str) -> None:
    X, y = problem()
    np.random.seed(1)
    model = cls()
    history = model.train(X, y, learning_rate=0.05, reg=0.01, num_iters=40, batch_size=16)
    np.random.seed(1)
    W, expected = trained_by_hand(kind, X, y, 0.05, 0.01, 40, 16)
    # 40 steps in float64, each with rounding errors of some eps
    np.testing.assert_allclose(history, expected, rtol=1e-12)
    np.testing.assert_allclose(model.W, W, rtol=1e-11, atol=1e-13)
    assert all(type(value) is float for value in history)


@pytest.mark.parametrize(("cls", "kind"), [(Softmax, "softmax"), (LinearSVM, "hinge")])
def test_loss_and_predictions_are_the_courses(cls: Any, kind: str) -> None:
    X, y = problem()
    model = cls()
    model.W = np.random.default_rng(5).normal(size=(D, C))
    value, dW = model.loss(X, y, 0.3)
    expected, gradient = loss_of(kind, model.W, X, y, 0.3)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(dW, gradient, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(model.predict(X), (X @ model.W).argmax(axis=1))


def test_another_call_goes_on() -> None:
    X, y = problem()
    np.random.seed(0)
    model = Softmax()
    first = model.train(X, y, learning_rate=0.1, num_iters=30, batch_size=30)
    second = model.train(X, y, learning_rate=0.1, num_iters=30, batch_size=30)
    assert np.mean(second) < np.mean(first)


def test_verbose_prints_as_the_course_does(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = problem()
    np.random.seed(0)
    Softmax().train(X, y, num_iters=101, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["iteration 0 / 101", "iteration 100 / 101"]


def test_a_wrong_argument_leaves_W() -> None:
    X, y = problem()
    model = Softmax()
    with pytest.raises(ValueError, match="learning_rate"):
        model.train(X, y, learning_rate=-1.0)
    assert model.W is None
    model.train(X, y)
    with pytest.raises(ValueError, match="X has 3 columns, but W has 7 rows"):
        model.train(X[:, :3], y)


def test_an_untrained_one_says_so() -> None:
    with pytest.raises(ValueError, match="W is None: call train"):
        Softmax().predict(problem()[0])


@pytest.mark.parametrize(("y", "message"), [(["a"] * N, "has dtype"), (np.full(N, np.nan), "has dtype"), ([0, 1], "2")])
def test_labels_that_are_no_class_numbers_are_refused(y: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Softmax().train(problem()[0], y)
