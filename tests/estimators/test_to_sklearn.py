"""A model converted to scikit-learn predicts the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier

NAMES = np.array(["setosa", "versicolor", "virginica"])


def data(classes: int) -> tuple[Any, Any]:
    X, y = load_iris(return_X_y=True)
    return (X, NAMES[y]) if classes == 3 else (X[50:], NAMES[y[50:]])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"l2": 0.01}, {"scaling": "standard"}, {"penalize_intercept": True}, {"fit_intercept": False}, {"C": 1e-4}],
    ids=str,
)
@pytest.mark.parametrize("classes", [2, 3])
def test_predictions_are_equal_to_rounding(classes: int, parameters: Any, dtype: Any) -> None:
    X, y = data(classes)
    ours = SoftmaxClassifier(tol=1e-3, **parameters).fit(X.astype(dtype), y)
    theirs = ours.to_sklearn()
    close = {"rtol": 100 * np.finfo(dtype).eps, "atol": 1000 * np.finfo(dtype).eps}  # scores are up to 30
    assert theirs.predict(X.astype(dtype)).tolist() == ours.predict(X.astype(dtype)).tolist()
    for method in ("decision_function", "predict_proba"):
        expected = getattr(ours, method)(X.astype(dtype))
        np.testing.assert_allclose(getattr(theirs, method)(X.astype(dtype)), expected, **close)


@pytest.mark.parametrize("classes", [2, 3])
def test_fitted_attributes_have_the_shapes_of_their_own(classes: int) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = data(classes)
    frame = pandas.DataFrame(X, columns=list("abcd"))
    ours = SoftmaxClassifier(tol=1e-3).fit(frame, y).to_sklearn()
    theirs = LogisticRegression(max_iter=1000).fit(frame, y)
    check_is_fitted(ours)
    assert set(vars(ours)) == set(vars(theirs))
    for name in ("coef_", "intercept_", "classes_", "n_iter_", "feature_names_in_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.n_features_in_ == 4
    assert ours.predict(frame).shape == (len(y),)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", [{}, {"C": 0.2}, {"l2": 0.03}, {"C": math.inf}, {"l2": 0}], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_fitted_again_there_it_is_the_same_model(classes: int, parameters: Any, weighted: bool) -> None:
    X, y = data(classes)
    X = (X - X.mean(axis=0))[::3] + np.random.default_rng(0).standard_normal((len(X[::3]), 4))  # not separable
    y = y[::3]
    weights = np.linspace(0.5, 3, len(y)) if weighted else None
    ours = SoftmaxClassifier(class_weight="balanced", tol=1e-8, **parameters).fit(X, y, weights)
    theirs = ours.to_sklearn()
    assert theirs.C == math.inf if parameters in ({"C": math.inf}, {"l2": 0}) else math.isfinite(theirs.C)
    before = theirs.predict_proba(X)
    theirs.fit(X, y, weights)
    np.testing.assert_allclose(theirs.predict_proba(X), before, atol=1e-5)


def test_parameters_that_both_know_are_kept() -> None:
    X, y = data(3)
    ours = SoftmaxClassifier(class_weight={NAMES[0]: 2.0}, max_iter=77, tol=0.02, random_state=5, warm_start=True)
    theirs = ours.fit(X, y).to_sklearn()
    kept = ("class_weight", "max_iter", "tol", "random_state", "warm_start", "fit_intercept")
    assert [getattr(theirs, name) for name in kept] == [getattr(ours, name) for name in kept]


def test_what_is_handed_over_are_copies() -> None:
    X, y = data(3)
    ours = SoftmaxClassifier(tol=1e-3).fit(X, y)
    ours.to_sklearn().coef_[:] = 0
    assert ours.coef_.any()


def test_it_has_to_be_fitted() -> None:
    with pytest.raises(NotFittedError):
        SoftmaxClassifier().to_sklearn()


def test_a_model_that_does_not_know_how_many_rows_it_has_seen_has_no_C() -> None:
    X, y = data(3)
    model = SoftmaxClassifier(l2=0.1).fit(X, y)
    del model.weight_sum_  # as from a file of an earlier version
    with pytest.raises(ValueError, match=r"l2=0.1 has no known C .* fit it again"):
        model.to_sklearn()
    model.set_params(l2=None, C=0.1).to_sklearn()


def test_an_svm_is_not_handed_over() -> None:
    """LinearSVC's losses are others: one against the rest, or Crammer and Singer's."""
    assert not hasattr(LinearSVMClassifier(), "to_sklearn")
