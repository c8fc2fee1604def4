"""SoftmaxClassifierCV: the attributes of scikit-learn's LogisticRegressionCV, over a sweep."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from gpusoftmax import SoftmaxClassifierCV

CS = [0.01, 0.1, 1.0]


def iris(classes: int = 3) -> tuple[Any, Any]:
    X, y = load_iris(return_X_y=True)
    return X[y >= 3 - classes], y[y >= 3 - classes]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss"])
def test_its_attributes_are_those_of_logistic_regression_cv(classes: int, fit_intercept: bool, scoring: str) -> None:
    X, y = iris(classes)
    common: dict[str, Any] = {"Cs": CS, "cv": 3, "fit_intercept": fit_intercept, "scoring": scoring, "tol": 1e-8}
    theirs = LogisticRegressionCV(**common, max_iter=5000, l1_ratios=(0.0,), use_legacy_attributes=False).fit(X, y)
    ours = SoftmaxClassifierCV(**common).fit(X, y)
    assert ours.C_ == theirs.C_
    assert isinstance(ours.C_, float)
    np.testing.assert_array_equal(ours.Cs_, theirs.Cs_)
    for name in ("scores_", "coefs_paths_", "n_iter_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
    np.testing.assert_allclose(ours.scores_, theirs.scores_, atol=1e-6)
    if classes == 3 and fit_intercept:  # theirs leaves the sum of the intercepts where it began
        theirs.coefs_paths_[..., -1] -= theirs.coefs_paths_[..., -1].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-4)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-6)
    assert (ours.l1_ratio_, list(ours.l1_ratios_)) == (theirs.l1_ratio_, list(theirs.l1_ratios_))


def test_without_a_refit_coefficients_are_means_of_each_folds_best() -> None:
    X, y = iris()
    common: dict[str, Any] = {"Cs": CS, "cv": 4, "refit": False, "tol": 1e-8}
    theirs = LogisticRegressionCV(
        **common, max_iter=5000, l1_ratios=(0.0,), use_legacy_attributes=False, scoring="accuracy"
    ).fit(X, y)
    ours = SoftmaxClassifierCV(**common).fit(X, y)
    assert ours.C_ == pytest.approx(theirs.C_)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    with pytest.raises(ValueError, match="use refit=True"):
        ours.to_sklearn()


def test_a_number_of_values_is_spread_from_1e_4_to_1e4() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SoftmaxClassifierCV(Cs=5, cv=2).fit(*iris())
    np.testing.assert_allclose(model.Cs_, [1e-4, 1e-2, 1.0, 1e2, 1e4])


def test_it_goes_by_weights_and_groups() -> None:
    X, y = iris()
    weights, groups = np.arange(150) % 3 + 1.0, np.arange(150) % 5
    cv = LeaveOneGroupOut()
    model = SoftmaxClassifierCV(CS, cv=cv, tol=1e-9).fit(X, y, weights, groups=groups)
    repeated = np.repeat(np.arange(150), weights.astype(int))
    again = SoftmaxClassifierCV(CS, cv=list(cv.split(repeated, groups=groups[repeated])), tol=1e-9)
    again.fit(X[repeated], y[repeated])
    np.testing.assert_allclose(model.scores_, again.scores_)
    np.testing.assert_allclose(model.coef_, again.coef_, atol=1e-5)


@pytest.mark.parametrize("scoring", [None, "accuracy", "log_loss", "balanced_accuracy"])
def test_its_score_is_by_its_scoring(scoring: Any) -> None:
    X, y = iris()
    model = SoftmaxClassifierCV(CS, cv=3, scoring=scoring).fit(X, y)
    expected = -np.log(model.predict_proba(X)[np.arange(150), y]).mean()
    assert model.score(X, y) == pytest.approx(-expected if scoring == "log_loss" else (model.predict(X) == y).mean())


def test_it_shows_its_sweep() -> None:
    pytest.importorskip("matplotlib")
    model = SoftmaxClassifierCV(CS, cv=3).fit(*iris())
    assert model.sweep_.out_of_fold_probabilities_.shape == (150, 3)
    assert model.plot().get_xlabel() == "C"


def test_it_becomes_scikit_learns() -> None:
    X, y = iris()
    model = SoftmaxClassifierCV(CS, cv=3).fit(X, y)
    theirs = model.to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(X), model.predict_proba(X), rtol=1e-12)
    assert theirs.C == model.C_


def test_it_is_cloned_pickled_and_put_into_pipelines() -> None:
    X, y = iris()
    model = make_pipeline(StandardScaler(), clone(SoftmaxClassifierCV(CS, cv=3))).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def checks() -> list[Any]:
    # a tol that is met to rounding, and penalties at which that is possible: weights are compared with repeated rows
    model = SoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3, tol=1e-10)
    return [
        pytest.param(estimator, check, id=getattr(check, "func", check).__name__)
        for estimator, check in estimator_checks_generator(model)
    ]


@pytest.mark.parametrize(("estimator", "check"), checks())
def test_scikit_learns_own_check(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)
