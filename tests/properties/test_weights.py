"""Sample weights: rows of weight zero change nothing, whatever they hold, and only the ratios of weights matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import get_scorer

from gpusoftmax import (
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    loss_and_gradient,
    softmax_cross_entropy,
    sweep,
)
from gpusoftmax.array import Backend
from gpusoftmax.features.read import rows_with_weight
from tests.support.cases import Array, sweep_with

N, D, CLASSES = 60, 4, 3
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)), np.arange(N) % CLASSES
P = RNG.dirichlet(np.ones(CLASSES), N)
FOLD = np.arange(N + 1) // 7 % 3
FOLDS = [(np.flatnonzero(FOLD != k), np.flatnonzero(FOLD == k)) for k in range(3)]

FITS: dict[str, Any] = {
    "exact": lambda **k: SoftmaxClassifier(**k),
    "scaled": lambda **k: SoftmaxClassifier(scaling="standard", **k),
    "penalised intercept": lambda **k: SoftmaxClassifier(penalize_intercept=True, **k),
    "no intercept": lambda **k: SoftmaxClassifier(fit_intercept=False, **k),
    "balanced": lambda **k: SoftmaxClassifier(class_weight="balanced", **k),
    "smoothed": lambda **k: SoftmaxClassifier(label_smoothing=0.1, **k),
    "minibatches": lambda **k: SoftmaxClassifier(batch_size=8, max_iter=5, tol=0, **k),
    "full batches": lambda **k: SoftmaxClassifier(batch_size="full", scaling="standard", max_iter=5, tol=0, **k),
    "squared hinge": lambda **k: LinearSVMClassifier(**k),
    "hinge": lambda **k: LinearSVMClassifier(loss="hinge", max_iter=5, tol=0, **k),
}


def with_row(position: int, value: float, rows: Array = X, y: Array = Y) -> tuple[Array, Array, Array]:
    """The rows and labels with one more, of weight 0, that holds `value` everywhere."""
    weights = np.insert(np.linspace(1, 2, len(rows)), position, 0.0)
    return np.insert(rows, position, value, axis=0), np.insert(y, position, y[0], axis=0), weights


@pytest.mark.parametrize("name", FITS)
def test_a_fit_with_a_row_of_weight_zero_is_that_without_it(name: str, cpu_backend: Backend) -> None:
    expected = FITS[name](backend=cpu_backend).fit(X, Y, np.linspace(1, 2, N))
    for position, value in ((0, 1e300), (7, -1e15), (N, 1e100)):
        rows, y, weights = with_row(position, value)
        found = FITS[name](backend=cpu_backend).fit(rows, y, weights)
        np.testing.assert_array_equal(found.coef_, expected.coef_)
        np.testing.assert_array_equal(found.intercept_, expected.intercept_)
        assert found.stop_reason_ == expected.stop_reason_
        assert found.weight_sum_ == expected.weight_sum_


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8"])
def test_rows_of_weight_zero_are_not_visited_in_any_type(dtype: str, backend: Backend) -> None:
    rows = (50 * X + 100).astype(dtype)
    top = np.finfo(dtype).max if rows.dtype.kind == "f" else 255
    expected = SoftmaxClassifier(scaling="standard", backend=backend).fit(rows, Y, np.linspace(1, 2, N))
    more, y, weights = with_row(0, top, rows)
    found = SoftmaxClassifier(scaling="standard", backend=backend).fit(more, y, weights)
    np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_soft_labels_of_weight_zero_change_nothing(backend: Backend) -> None:
    expected = SoftmaxClassifier(scaling="standard", backend=backend).fit(X, P, np.linspace(1, 2, N))
    rows, proportions, weights = with_row(0, 1e300, y=P)
    found = SoftmaxClassifier(scaling="standard", backend=backend).fit(rows, proportions, weights)
    np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_a_class_of_weight_zero_changes_nothing() -> None:
    y, large = np.where(np.arange(N) < 5, CLASSES, Y), X.copy()
    large[:5] = 1e300
    weights = {**dict.fromkeys(range(CLASSES), 1.0), CLASSES: 0.0}
    found, expected = (SoftmaxClassifier(class_weight=weights, scaling="standard").fit(x, y) for x in (large, X))
    np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_a_stream_with_rows_of_weight_zero_is_that_without_them(backend: Backend) -> None:
    streams = [SoftmaxClassifier(backend=backend) for _ in range(2)]
    for start in range(0, N, 20):
        part, y = X[start : start + 20], Y[start : start + 20]
        streams[0].partial_fit(part, y, None if start else range(CLASSES), np.linspace(1, 2, 20))
        streams[1].partial_fit(*with_row(start % 3, 1e300, part, y)[:2], None if start else range(CLASSES),
                               with_row(start % 3, 1e300, part, y)[2])  # fmt: skip
    np.testing.assert_array_equal(streams[1].coef_, streams[0].coef_)


@pytest.mark.parametrize("grid", [{"C": [0.1, 1.0]}, {"learning_rate": [0.01, 0.1]}], ids=["exact", "SGD"])
@pytest.mark.parametrize("scoring", ["accuracy", "log_loss", "balanced_accuracy"])
def test_what_a_row_of_weight_zero_holds_does_not_matter_to_a_sweep(grid: Any, scoring: str) -> None:
    """Whether it is among the rows that train or those held out; the folds are drawn with it, as scikit-learn's are."""

    options: dict[str, Any] = {"max_iter": 5, "tol": 0.0} if "learning_rate" in grid else {}

    def swept(position: int, value: float) -> Any:
        rows, y, weights = with_row(position, value)
        return sweep_with(
            rows, y, grid, cv=FOLDS, scoring=scoring, scaling="standard", sample_weight=weights, **options
        )

    for position in (0, 1):
        expected, found = swept(position, 0.0), swept(position, 1e300)
        np.testing.assert_array_equal(found.trials.score, expected.trials.score)
        np.testing.assert_array_equal(found.trials.loss, expected.trials.loss)
        np.testing.assert_array_equal(found.best_estimator_.coef_, expected.best_estimator_.coef_)


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", get_scorer("f1_macro")], ids=["accuracy", "log loss", "F1"])
def test_what_a_row_of_weight_zero_holds_does_not_matter_to_cross_validation(scoring: Any) -> None:
    found, expected = (
        SoftmaxClassifierCV(Cs=[0.1, 1.0], cv=FOLDS, scoring=scoring, scaling="standard").fit(*with_row(0, value))
        for value in (1e300, 0.0)
    )
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    np.testing.assert_array_equal(found.scores_, expected.scores_)


@pytest.mark.parametrize("loss", ["softmax", "hinge", "squared_hinge"])
def test_a_row_of_weight_zero_has_no_part_in_loss_and_gradient(loss: str, backend: Backend) -> None:
    W, b = RNG.standard_normal((D, CLASSES)), RNG.standard_normal(CLASSES)
    rows, y, weights = with_row(3, 1e300)
    found = loss_and_gradient(rows, y, W, b, loss=loss, sample_weight=weights, backend=backend)
    expected = loss_and_gradient(X, Y, W, b, loss=loss, sample_weight=np.linspace(1, 2, N), backend=backend)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("device")
def test_logits_of_weight_zero_may_be_anything() -> None:
    logits, labels, weights = [[0.0, 1.0], [np.nan, np.inf]], [1, 0], [2.0, 0.0]
    loss, gradient = softmax_cross_entropy(logits, labels, sample_weight=weights)
    expected, own = softmax_cross_entropy(logits[:1], labels[:1])
    assert loss == expected
    np.testing.assert_array_equal(gradient, np.vstack([own, np.zeros(2)]))


@pytest.mark.parametrize("unit", [2.0**130, 2.0**-140, 2.0**1000], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights_beyond_the_range_of_the_type_count_by_their_ratios(unit: float, dtype: str, backend: Backend) -> None:
    x, weights = X.astype(dtype), np.linspace(1, 2, N).astype("f4").astype("f8")
    expected = SoftmaxClassifier(l2=0.1, backend=backend).fit(x, Y, weights)
    found = SoftmaxClassifier(l2=0.1, backend=backend).fit(x, Y, unit * weights)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=64 * np.finfo(dtype).eps)  # another order of rounding
    assert found.weight_sum_ == pytest.approx(unit * expected.weight_sum_)
    balanced = SoftmaxClassifier(l2=0.1, class_weight=dict.fromkeys(range(CLASSES), unit), backend=backend)
    np.testing.assert_allclose(balanced.fit(x, Y, weights).coef_, expected.coef_, rtol=64 * np.finfo(dtype).eps)


def test_the_penalty_knows_the_size_of_the_weights() -> None:
    """C multiplies a sum of losses, so weights of 2^130 and C / 2^130 are the plain fit; that of a sweep, too."""
    unit, x = 2.0**130, X.astype("f4")
    expected = SoftmaxClassifier(C=0.5).fit(x, Y)
    found = SoftmaxClassifier(C=0.5 / unit).fit(x, Y, np.full(N, unit))
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-5)
    swept = sweep(SoftmaxClassifier(), {"C": [0.5 / unit]}, x, Y, cv=3, sample_weight=np.full(N, unit))
    plain = sweep(SoftmaxClassifier(), {"C": [0.5]}, x, Y, cv=3)
    np.testing.assert_allclose(swept.trials.loss, plain.trials.loss, rtol=1e-5)
    assert swept.best_estimator_.weight_sum_ == N * unit


def test_rows_with_weight_are_those_with_a_weight_for_any_model() -> None:
    weights = np.array([[0, 0], [0, 1], [2, 0], [0, 0]], np.float32)
    found = rows_with_weight(weights)
    assert found is not None
    assert found.tolist() == [1, 2]
    some = rows_with_weight(weights, np.array([3, 2]))
    assert some is not None
    assert some.tolist() == [2]
    assert rows_with_weight(np.ones(3)) is None
    assert rows_with_weight(None) is None
