"""Weights that a user sets: every prediction method accepts them, or says what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, SoftmaxClassifierCV, load_model, save_model
from gpusoftmax.reports.accuracy import measure

ALL = [SoftmaxClassifier, LinearSVMClassifier, SoftmaxClassifierCV]
X = np.random.default_rng(0).standard_normal((9, 4))
W = np.random.default_rng(1).standard_normal((3, 4))
WEIGHTS: dict[str, Any] = {  # classes_, coef_, intercept_
    "three classes": (np.arange(3), W, np.array([0.5, 0.0, -0.5])),
    "lists": (["ant", "bee", "cat"], W.tolist(), [0, 0, 1]),
    "whole numbers": (np.arange(3), np.eye(3, 4, dtype=int), np.zeros(3, int)),
    "two classes": (np.array(["no", "yes"]), W[:1], np.array([0.1])),
    "two classes in another order": (np.array(["yes", "no"]), W[:1], np.array([0.1])),
}


def by_hand(cls: Any, weights: Any, **parameters: Any) -> Any:
    model = cls(**parameters)
    model.classes_, model.coef_, model.intercept_ = weights
    return model


def scikit_learns(weights: Any) -> Any:
    model = LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = map(np.asarray, weights)
    model.n_features_in_ = 4
    return model


def labels(weights: Any) -> Any:
    return np.asarray(weights[0])[np.arange(9) % len(weights[0])]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_were_set_by_hand_predict(cls: Any, weights: Any) -> None:
    model, theirs, y = by_hand(cls, weights), scikit_learns(weights), labels(weights)
    assert model.predict(X).tolist() == theirs.predict(X).tolist()
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), rtol=1e-12)
    assert model.score(X, y) == measure(model, X, y).top_1 == np.mean(theirs.predict(X) == y)
    if cls is not LinearSVMClassifier:
        np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
        np.testing.assert_allclose(model.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-9)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("weights", [w for name, w in WEIGHTS.items() if "another" not in name])
def test_weights_that_were_set_by_hand_are_saved(cls: Any, weights: Any, tmp_path: Path) -> None:
    model = by_hand(cls, weights)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.n_features_in_, loaded.predict(X).tolist()) == (4, model.predict(X).tolist())
    save_model(loaded, tmp_path / "again.safetensors")


def test_weights_that_were_set_by_hand_become_scikit_learns() -> None:
    for weights in WEIGHTS.values():
        model = by_hand(SoftmaxClassifier, weights)
        assert model.to_sklearn().predict(X).tolist() == model.predict(X).tolist()
    with pytest.raises(ValueError, match="set by hand have no chosen C"):
        by_hand(SoftmaxClassifierCV, WEIGHTS["lists"]).to_sklearn()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_training_goes_on_from_weights_that_were_set_by_hand(cls: Any, weights: Any) -> None:
    y = labels(weights)
    warm = by_hand(cls, weights, max_iter=1, warm_start=True).fit(X, y)
    start = cls(max_iter=1).fit(X, y, start_from=by_hand(cls, weights))
    cold = cls(max_iter=1).fit(X, y)
    np.testing.assert_array_equal(warm.coef_, start.coef_)
    assert abs(warm.coef_ - cold.coef_).max() > 1e-3
    assert (warm.classes_.tolist(), warm.n_features_in_) == (sorted(set(y.tolist())), 4)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_partial_fit_goes_on_from_weights_that_were_set_by_hand(cls: Any, weights: Any) -> None:
    model, before = by_hand(cls, weights, learning_rate=1e-9), by_hand(cls, weights)
    model.partial_fit(X[:5], labels(weights)[:5])
    assert (model.n_features_in_, model.weight_sum_) == (4, 5)
    assert model.predict(X).tolist() == before.predict(X).tolist()
    with pytest.raises(ValueError, match="X has 3 features"):
        by_hand(cls, weights).partial_fit(X[:, :3], labels(weights))


UNUSABLE: dict[str, Any] = {
    "rows of coef_": (([0, 1, 2], np.eye(4), np.zeros(3)), ValueError, r"coef_ .* \(4, 4\).* the 3 classes .*\(3, d\)"),
    "two classes, two rows": (([0, 1], np.eye(2, 4), np.zeros(2)), ValueError, r"\(2, 4\) .* set coef_ .*\(1, d\)"),
    "a vector": (([0, 1], np.ones(4), [0.0]), ValueError, r"coef_ of this SoftmaxClassifier has shape \(4,\)"),
    "intercept_": (([0, 1, 2], W, np.zeros(2)), ValueError, r"intercept_ \(2,\).* intercept_ with \(3,\)"),
    "a number": (([0, 1], W[:1], 0.0), ValueError, r"intercept_ \(\)"),
    "one class": (([0], W[:1], [0.0]), ValueError, r"classes_ of this SoftmaxClassifier has shape \(1,\)"),
    "text": (([0, 1], [["a"] * 4], [0.0]), TypeError, "coef_ of this SoftmaxClassifier has dtype <U1"),
    "NaN": (([0, 1], np.full((1, 4), np.nan), [0.0]), ValueError, "coef_ of this SoftmaxClassifier holds NaN"),
}


@pytest.mark.parametrize(("weights", "error", "message"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_weights_of_other_shapes_are_refused_by_name(weights: Any, error: Any, message: str, method: str) -> None:
    with pytest.raises(error, match=message):
        getattr(by_hand(SoftmaxClassifier, weights), method)(X)


def test_weights_that_are_missing_are_named() -> None:
    model = SoftmaxClassifier()
    model.coef_ = W
    with pytest.raises(NotFittedError, match="this SoftmaxClassifier has no classes_: call fit, or set classes_"):
        model.predict(X)


def test_weights_of_other_features_than_those_of_the_fit_are_refused() -> None:
    model = SoftmaxClassifier().fit(X, np.arange(9) % 3)
    model.coef_ = model.coef_[:, :3]
    with pytest.raises(ValueError, match=r"coef_ .* has shape \(3, 3\), but n_features_in_ is 4"):
        model.predict(X)
