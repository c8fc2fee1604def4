"""The course's exercise, number by number: its objective, its settings, and what it reaches on CIFAR-10."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import (
    BackendUnavailableError,
    DivergenceError,
    LinearSVMClassifier,
    SoftmaxClassifier,
    load_cifar10,
    loss_and_gradient,
    train_cs231n,
)
from gpusoftmax.batches import BatchPlan

N, D, CLASSES = 120, 48, 10
LEARNING_RATE, REG = 1e-7, 2.5e4  # the course's, and the defaults
LOSSES = ["softmax", "hinge"]

# every test runs on the CPU and on a GPU: "auto" takes it
pytestmark = pytest.mark.usefixtures("device")
cpu_only = pytest.mark.parametrize("device", ["CPU"], indirect=True)  # what is the CPU's own, and long trainings


@pytest.fixture
def pixels(rng: np.random.Generator) -> tuple[Any, Any]:
    """Raw pixels, one of which is bright for each class."""
    y = np.arange(N) % CLASSES
    X = rng.integers(60, 120, (N, D), dtype=np.uint8)
    X[np.arange(N), y] += 100
    return X, y


def start(seed: int) -> Any:
    """The weights at the start, the bias as the last row: 0.001 times a standard normal, stored as float32."""
    normal = np.random.default_rng(seed).standard_normal((D + 1, CLASSES))
    return (0.001 * normal).astype(np.float32).astype(np.float64)


def course(X: Any, y: Any, W: Any, loss: str, rows: Any) -> tuple[float, Any]:
    """The objective of a batch and its gradient as the course's notebooks have them, in float64: the mean of all rows
    subtracted, a column of ones appended, mean loss + reg * sum(W * W), no 1/2, the bias in W."""
    X = X.astype(np.float64)
    X = np.hstack([X - X.mean(axis=0), np.ones((len(X), 1))])[rows]
    y, own = y[rows], (np.arange(len(rows)), y[rows])
    scores = X @ W
    if loss == "softmax":
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        losses, dscores = -np.log(probabilities[own]), probabilities
        dscores[own] -= 1
    else:
        margins = np.maximum(0, scores - scores[own][:, None] + 1)
        margins[own] = 0
        losses, dscores = margins.sum(axis=1), (margins > 0).astype(float)
        dscores[own] = -dscores.sum(axis=1)
    return losses.mean() + REG * (W * W).sum(), X.T @ dscores / len(y) + 2 * REG * W


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_first_objective_is_the_courses(loss: str, seed: int, pixels: tuple[Any, Any]) -> None:
    model = train_cs231n(*pixels, loss=loss, seed=seed, n_iterations=1, batch_size=N)
    (rows,) = BatchPlan(N, N, replacement=True, seed=seed).epoch(0)
    expected, _ = course(*pixels, start(seed), loss, rows)
    # float32: 49 products of size 0.1 give scores to 3e-7 each, against an objective above 10
    assert model.loss_curve_[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_first_step_is_the_courses(loss: str, seed: int, pixels: tuple[Any, Any]) -> None:
    X, y = pixels
    model = train_cs231n(X, y, loss=loss, seed=seed, n_iterations=1, batch_size=N)
    (rows,) = BatchPlan(N, N, replacement=True, seed=seed).epoch(0)
    W = start(seed)
    W -= LEARNING_RATE * course(X, y, W, loss, rows)[1]
    # weights of 0.001 in float32 carry 1e-10; a step is 1e-5
    np.testing.assert_allclose(model.coef_, W[:-1].T, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_intercept_takes_raw_pixels(loss: str, pixels: tuple[Any, Any]) -> None:
    X, y = pixels
    model = train_cs231n(X, y, loss=loss, n_iterations=1, batch_size=N)
    (rows,) = BatchPlan(N, N, replacement=True, seed=0).epoch(0)
    W = start(0)
    W -= LEARNING_RATE * course(X, y, W, loss, rows)[1]
    centred = np.hstack([X - X.mean(axis=0), np.ones((N, 1))])
    # 49 products of pixels up to 220 and weights of 0.003 in float32: 49 x 0.7 x 6e-8
    np.testing.assert_allclose(model.decision_function(X), centred @ W, atol=2e-6)


@pytest.mark.parametrize(("loss", "cls"), [("softmax", SoftmaxClassifier), ("hinge", LinearSVMClassifier)])
def test_it_is_an_estimator_with_the_courses_settings(loss: str, cls: Any, pixels: tuple[Any, Any]) -> None:
    model = train_cs231n(*pixels, loss=loss, seed=4, n_iterations=30)
    names = (
        "l2", "penalize_intercept", "batch_size", "learning_rate", "momentum", "nesterov", "schedule", "random_state",
        "loss", "tol",
    )  # fmt: skip
    stored = [getattr(model, name) for name in names]
    assert (type(model), stored) == (cls, [2 * REG, True, 200, LEARNING_RATE, 0.0, False, "constant", 4, loss, 0.0])


def test_the_mean_pixel_is_stored_as_the_shift(pixels: tuple[Any, Any]) -> None:
    model = train_cs231n(*pixels, n_iterations=1)
    np.testing.assert_allclose(model.scaling[0], pixels[0].mean(axis=0), rtol=1e-13)


def test_settings_are_the_callers_to_change(pixels: tuple[Any, Any]) -> None:
    model = train_cs231n(*pixels, learning_rate=1e-6, reg=10.0, n_iterations=7, batch_size=50)
    assert (model.learning_rate, model.l2, model.history_[-1].step, model.batch_size) == (1e-6, 20.0, 7, 50)


@cpu_only
@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_raw_pixels(loss: str, pixels: tuple[Any, Any]) -> None:
    X, y = pixels
    # the bright pixel is 3 standard deviations and more above the rest; chance is 0.1
    assert train_cs231n(X, y, loss=loss).score(X, y) > 0.9


def test_labels_may_be_names(pixels: tuple[Any, Any]) -> None:
    X, y = pixels
    names = np.array(list("abcdefghij"))
    model = train_cs231n(X, names[y], n_iterations=5)
    np.testing.assert_array_equal(model.predict(X), names[train_cs231n(X, y, n_iterations=5).predict(X)])


def test_equal_seeds_give_equal_bits(pixels: tuple[Any, Any]) -> None:
    first, second = (train_cs231n(*pixels, seed=1, n_iterations=20, n_threads=t) for t in (1, 2))
    assert first.coef_.tobytes() == second.coef_.tobytes()


def test_seeds_differ(pixels: tuple[Any, Any]) -> None:
    models = [train_cs231n(*pixels, seed=seed, n_iterations=20) for seed in range(3)]
    assert len({model.coef_.tobytes() for model in models}) == 3


def test_progress_is_told_and_closed(pixels: tuple[Any, Any]) -> None:
    told = []

    class Recorder:
        def update(self, passes: float, total: float, record: Any) -> None:
            told.append((passes, total))

        def close(self) -> None:
            told.append("closed")

    train_cs231n(*pixels, n_iterations=3, batch_size=N, progress=Recorder())
    assert told == [(1, 3), (2, 3), (3, 3), "closed"]


REFUSED = {
    "loss": ({"loss": "squared_hinge"}, ValueError, "loss='squared_hinge'"),
    "seed negative": ({"seed": -1}, ValueError, "seed=-1"),
    "seed 1.5": ({"seed": 1.5}, TypeError, "seed=1.5"),
    "learning_rate 0": ({"learning_rate": 0}, ValueError, "learning_rate=0"),
    "learning_rate a word": ({"learning_rate": "auto"}, (TypeError, ValueError), "learning_rate='auto'"),
    "reg negative": ({"reg": -1.0}, ValueError, "reg=-1.0"),
    "reg a word": ({"reg": "a"}, TypeError, "reg='a'"),
    "n_iterations 0": ({"n_iterations": 0}, ValueError, "n_iterations=0"),
    "n_iterations 2.5": ({"n_iterations": 2.5}, TypeError, "n_iterations=2.5"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size=0"),
    "batch_size a word": ({"batch_size": "full"}, (TypeError, ValueError), "batch_size='full'"),
    "n_threads 0": ({"n_threads": 0}, ValueError, "n_threads=0"),
    "no such GPU": ({"backend": "cuda:99"}, BackendUnavailableError, "backend='cuda:99'"),
    "y too short": ({"y": [0, 1]}, ValueError, "y has length 2"),
    "X 1-D": ({"X": np.zeros(4)}, ValueError, "X has shape (4,)"),
    "X with NaN": ({"X": np.full((N, D), np.nan)}, ValueError, "X[0, 0]"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_argument_is_refused_by_its_own_name(case: Any, pixels: tuple[Any, Any]) -> None:
    changes, error, words = case
    with pytest.raises(error) as caught:
        train_cs231n(**{"X": pixels[0], "y": pixels[1], "n_iterations": 2, **changes})
    assert words in str(caught.value)


def test_a_learning_rate_that_is_too_large_is_an_error_with_advice(pixels: tuple[Any, Any]) -> None:
    with pytest.raises(DivergenceError, match="learning_rate ten times smaller"):
        train_cs231n(*pixels, learning_rate=1e-3)


# CIFAR-10


@pytest.fixture(scope="module")
def cifar10(cifar10_folder: Path) -> Any:
    """The data set, loaded once for this module."""
    return load_cifar10(cifar10_folder)


@cpu_only
@pytest.mark.parametrize(("loss", "least"), [("softmax", 0.325), ("hinge", 0.355)])
def test_mean_test_accuracy_over_five_seeds(loss: str, least: float, cifar10: Any) -> None:
    # 33.0% and 36.4% were measured; a mean of five seeds on 10000 images has a standard error below half a point
    models = [train_cs231n(cifar10.X_train, cifar10.y_train, loss=loss, seed=seed) for seed in range(5)]
    assert np.mean([model.score(cifar10.X_test, cifar10.y_test) for model in models]) >= least


@cpu_only
def test_the_loss_of_zero_weights_is_ln_10(cifar10: Any) -> None:
    X, y = cifar10.X_train, cifar10.y_train
    loss, _, _ = loss_and_gradient(X, y, np.zeros((3072, 10)), np.zeros(10), shift=X[:1000].mean(axis=0))
    assert abs(loss - math.log(10)) < 1e-6  # each row's loss is ln 10 to float32's 1e-7, whatever its pixels


@cpu_only
def test_the_loss_of_tiny_weights_is_near_ln_10(cifar10: Any, rng: np.random.Generator) -> None:
    X, y = cifar10.X_train, cifar10.y_train
    W = 1e-4 * rng.standard_normal((3072, 10))
    loss, _, _ = loss_and_gradient(X, y, W, np.zeros(10), shift=X.mean(axis=0))
    # the course's sanity check. Scores have a variance of 3072 x 1e-8 x 64^2 = 0.13, and the loss rises by half of it
    assert abs(loss - math.log(10)) < 0.1 * math.log(10)
