"""Displays draw the numbers of the model: artists are read back from the axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, load_digits, sweep
from gpusoftmax.plots import (
    FitHistoryDisplay,
    MistakesDisplay,
    ReliabilityDisplay,
    SweepDisplay,
    WeightTemplatesDisplay,
)
from gpusoftmax.plots.images import as_images, check_image_shape, on_unit_scale
from gpusoftmax.reliability import reliability_curve

figures = pytest.importorskip("matplotlib.figure")


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_digits()


@pytest.fixture(scope="module")
def model(digits: Any) -> Any:
    return SoftmaxClassifier(C=0.1).fit(digits.X_train, digits.y_train)


# templates


def test_templates_are_the_weights_on_one_scale(model: Any) -> None:
    display = WeightTemplatesDisplay.from_estimator(model)
    least, most = model.coef_.min(), model.coef_.max()
    for ax, weights, label in zip(display.axes_, model.coef_, model.classes_, strict=True):
        expected = ((weights - least) / (most - least)).reshape(8, 8)
        # between 0 and 1, from float32 differences and a quotient: each rounds by 2^-24 of the range
        np.testing.assert_allclose(ax.images[0].get_array(), expected, atol=4 * 2.0**-24)
        assert ax.get_title() == str(label)


def test_two_classes_have_one_template(digits: Any) -> None:
    some = digits.y_train < 2
    model = SoftmaxClassifier().fit(digits.X_train[some], digits.y_train[some])
    display = WeightTemplatesDisplay.from_estimator(model, names=["nought", "one"])
    assert [ax.get_title() for ax in display.axes_] == ["one"]


def test_channels_may_come_first_or_last(rng: np.random.Generator) -> None:
    pixels = rng.random((2, 4, 5, 3))
    last = as_images(pixels.reshape(2, -1), check_image_shape((4, 5, 3), 60))
    first = as_images(pixels.transpose(0, 3, 1, 2).reshape(2, -1), check_image_shape((3, 4, 5), 60))
    np.testing.assert_array_equal(last, pixels)
    np.testing.assert_array_equal(first, pixels)


def test_one_channel_is_grey(rng: np.random.Generator) -> None:
    rows = rng.random((2, 20))
    assert as_images(rows, check_image_shape((1, 4, 5), 20)).shape == (2, 4, 5)
    assert as_images(rows, check_image_shape((4, 5, 1), 20)).shape == (2, 4, 5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 3), "9 pixels, but there are 8"), ((2, 2, 2), "no image"), ((8,), "no image"), (None, "no square image")],
)
def test_shapes_that_are_no_image_are_refused(shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_image_shape(shape, 8)


def test_images_without_contrast_are_grey() -> None:
    np.testing.assert_array_equal(on_unit_scale(np.full((2, 3, 3), 7.0)), 0.5)


def test_a_name_for_each_class_is_asked_for(model: Any) -> None:
    with pytest.raises(ValueError, match="is not a list of 10 names"):
        WeightTemplatesDisplay.from_estimator(model, names=["a", "b"])


def test_dollars_in_names_are_no_formulas(model: Any) -> None:
    names = [f"$x_{j}" for j in range(10)]
    WeightTemplatesDisplay.from_estimator(model, names=names).figure_.canvas.draw()


# history


def test_curves_are_the_history(digits: Any) -> None:
    model = SoftmaxClassifier(solver="sgd", max_iter=4, tol=0).fit(
        *digits.parts["train"], validation=digits.parts["validation"]
    )
    losses, accuracies = FitHistoryDisplay.from_estimator(model).axes_
    by_label = {line.get_label(): line.get_ydata() for line in losses.lines}
    np.testing.assert_allclose(by_label["training, with penalty"], model.loss_curve_)
    np.testing.assert_allclose(by_label["validation"], [one.validation_loss for one in model.history_])
    assert [line.get_label() for line in accuracies.lines] == ["training", "validation"]


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history is empty"):
        FitHistoryDisplay([]).plot()


# sweeps


def test_a_sweep_is_drawn_on_the_axes_it_is_given(digits: Any) -> None:
    result = sweep(SoftmaxClassifier(), {"C": [1e-3, 1e-2, 0.1]}, *digits.parts["train"], cv=3)
    ax = figures.Figure().add_subplot()
    display = SweepDisplay.from_result(result, ax=ax)
    assert display.ax_ is ax
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), result.mean_scores_)


# reliability


def test_the_diagram_is_the_curve(model: Any, digits: Any) -> None:
    X, y = digits.parts["test"]
    display = ReliabilityDisplay.from_estimator(model, X, y)
    P = model.predict_proba(X)
    curve = reliability_curve(P.max(axis=1), P.argmax(axis=1) == y)
    drawn = display.ax_.lines[1]
    np.testing.assert_allclose(drawn.get_xdata(), curve.confidence[curve.counts > 0])
    np.testing.assert_allclose(drawn.get_ydata(), curve.accuracy[curve.counts > 0])
    assert f"{curve.error:.2%}" in drawn.get_label()


def test_predictions_need_a_column_for_each_class() -> None:
    with pytest.raises(ValueError, match="probabilities has shape"):
        ReliabilityDisplay.from_predictions([0, 1, 2], np.full((3, 2), 0.5))


# mistakes


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_the_most_confident_mistakes_come_first(cls: Any, digits: Any) -> None:
    X, y = digits.parts["test"]
    model = cls(C=1e-5).fit(*digits.parts["train"])
    display = MistakesDisplay.from_estimator(model, X, y, n=5)
    assert (np.diff(display.confidence) <= 0).all()
    shown = [ax.get_title().replace("taken for ", "").split("\n")[:2] for ax in display.axes_]
    wrong = {(str(a), str(b)) for a, b in zip(y, model.predict(X), strict=True) if a != b}
    assert {tuple(pair) for pair in shown} <= wrong
    assert len(shown) == 5


def test_a_model_without_mistakes_says_so(model: Any, digits: Any) -> None:
    X = digits.X_test
    with pytest.raises(ValueError, match="no mistake to show"):
        MistakesDisplay.from_estimator(model, X, model.predict(X))
