"""Temperature scaling: a minimum of the log loss, and the one that scikit-learn finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from gpusoftmax import (
    LinearSVMClassifier,
    SoftmaxClassifier,
    load_model,
    make_table_classifier,
    save_model,
    scale_temperature,
)
from gpusoftmax.estimators import temperature


def blobs(rng: np.random.Generator, c: int, n: int = 400) -> tuple[Any, Any]:
    """Rows of c classes that overlap, with labels in words."""
    y = rng.integers(0, c, n)
    return rng.normal(size=(n, 6)) + 0.8 * np.eye(c, 6)[y], np.array(list("dcba"))[y]


@pytest.fixture(params=[2, 4])
def fitted(request: pytest.FixtureRequest, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A model that is too confident, and validation rows."""
    model = SoftmaxClassifier(C=1e4).fit(*blobs(rng, request.param, 60))
    return model, *blobs(rng, request.param)


def test_no_other_temperature_has_a_smaller_loss(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    scaled = scale_temperature(model, X, y)

    def loss(T: float) -> float:
        z = model.predict_log_proba(X) / T
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return float(log_loss(y, p / p.sum(axis=1, keepdims=True)))

    best = loss(scaled.temperature_)
    assert scaled.temperature_ > 1
    assert all(best <= loss(scaled.temperature_ * factor) for factor in (0.5, 0.99, 1.01, 2.0))
    assert log_loss(y, scaled.predict_proba(X)) == pytest.approx(best, rel=1e-12)


def test_scikit_learn_finds_the_same(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(X, y)
    # scikit-learn minimises over log(1 / T) with a tolerance of 64 eps on its function value
    np.testing.assert_allclose(scale_temperature(model, X, y).predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_labels_stay_and_the_model_is_not_changed(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    before = model.coef_.copy()
    scaled = scale_temperature(model, X, y)
    assert (scaled.predict(X) == model.predict(X)).all()
    np.testing.assert_array_equal(model.coef_, before)
    np.testing.assert_allclose(scaled.coef_ * scaled.temperature_, model.coef_, rtol=1e-14)
    assert not hasattr(model, "temperature_")


def test_a_weight_counts_as_so_many_rows(fitted: tuple[Any, Any, Any], rng: np.random.Generator) -> None:
    model, X, y = fitted
    s = rng.integers(0, 4, len(y))
    weighted, repeated = scale_temperature(model, X, y, s), scale_temperature(model, X.repeat(s, 0), y.repeat(s))
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=1e-12)


def test_pieces_of_rows_do_not_matter(fitted: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scale_temperature(*fitted).temperature_
    monkeypatch.setattr(temperature, "AT_ONCE", 50)
    assert scale_temperature(*fitted).temperature_ == pytest.approx(whole, rel=1e-12)


def test_rows_that_are_all_right_have_no_best_temperature(fitted: tuple[Any, Any, Any]) -> None:
    model, X, _ = fitted
    with pytest.raises(ValueError, match="falls with the temperature for ever"):
        scale_temperature(model, X, model.predict(X))


def test_scores_that_say_nothing_have_no_temperature(fitted: tuple[Any, Any, Any]) -> None:
    model, X, _ = fitted
    worst = model.classes_[model.predict_proba(X).argmin(axis=1)]
    with pytest.raises(ValueError, match="no temperature makes these probabilities better"):
        scale_temperature(model, X, worst)


def test_an_svm_is_refused(rng: np.random.Generator) -> None:
    X, y = blobs(rng, 3)
    with pytest.raises(TypeError, match=r"LinearSVMClassifier, whose scores .* CalibratedClassifierCV"):
        scale_temperature(LinearSVMClassifier().fit(X, y), X, y)  # type: ignore[arg-type]


def test_a_pipeline_is_refused(rng: np.random.Generator) -> None:
    table, y = {"a": list("xyxyxy")}, [0, 1, 0, 1, 1, 0]
    with pytest.raises(TypeError, match="Pipeline, whose scores"):
        scale_temperature(make_table_classifier().fit(table, y), table, y)


def test_another_fit_ends_the_temperature(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    assert not hasattr(scale_temperature(model, X, y).fit(X, y), "temperature_")


def test_a_file_keeps_the_temperature(fitted: tuple[Any, Any, Any], tmp_path: Path) -> None:
    scaled = scale_temperature(*fitted)
    save_model(scaled, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.temperature_ == scaled.temperature_
    np.testing.assert_array_equal(loaded.predict_proba(fitted[1]), scaled.predict_proba(fitted[1]))
