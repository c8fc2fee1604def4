"""SoftmaxClassifierCV has the attributes of scikit-learn's LogisticRegressionCV."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import get_scorer
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut
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
@pytest.mark.parametrize("scoring", ["accuracy", pytest.param("neg_log_loss", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_scorer_is_called_once_for_each_model() -> None:
    calls = []

    def scorer(model: Any, X: Any, y: Any) -> float:
        calls.append((model, len(y)))
        return -abs(getattr(model, "C", 3.0) - 0.1)

    X, y = iris()
    model = SoftmaxClassifierCV(CS, cv=3, scoring=scorer).fit(X, y)
    assert sorted((one.C, rows) for one, rows in calls) == [(C, 50) for C in CS for _ in range(3)]
    assert model.C_ == 0.1
    assert model.score(X, y) == -2.9
    assert calls[9:] == [(model, 150)]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "neg_brier_score", "f1", "precision"])
def test_folds_that_lack_classes_are_scored_as_theirs(classes: int, scoring: str) -> None:
    X, y = iris(classes)
    names, n = np.array(["setosa", "versicolor", "virginica"])[y], 50 * classes
    scoring = f"{scoring}_macro" if scoring in ("f1", "precision") and classes == 3 else scoring
    folds = [(np.delete(np.arange(n), test), test) for _, test in KFold(classes).split(X)]  # one class each
    folds.append((np.arange(n), np.arange(n - 60, n)))
    common: dict[str, Any] = {"Cs": CS, "cv": folds, "fit_intercept": False, "scoring": scoring, "tol": 1e-8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # precision of a class that is not predicted
        theirs = LogisticRegressionCV(**common, max_iter=5000, l1_ratios=(0.0,), use_legacy_attributes=False)
        theirs.fit(X, names)
        ours = SoftmaxClassifierCV(**common).fit(X, names)
    np.testing.assert_allclose(ours.scores_, theirs.scores_, atol=1e-5)
    assert ours.C_ == theirs.C_


@pytest.mark.slow
@pytest.mark.parametrize("requested", [False, True])
def test_a_scorer_can_decline_weights(requested: bool) -> None:
    X, y = iris()
    weights = np.where(y == 1, 5.0, 1.0)
    with config_context(enable_metadata_routing=True):
        scorer = get_scorer("accuracy").set_score_request(sample_weight=requested)
        common: dict[str, Any] = {"Cs": CS, "cv": 3, "scoring": scorer, "tol": 1e-8}
        theirs = LogisticRegressionCV(**common, max_iter=5000, l1_ratios=(0.0,), use_legacy_attributes=False)
        theirs.fit(X, y, sample_weight=weights)
        ours = SoftmaxClassifierCV(**common).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(ours.scores_, theirs.scores_)


@pytest.mark.slow
def test_weights_and_groups_reach_it_through_a_pipeline() -> None:
    X, y = iris()
    weights, groups = np.arange(150) % 3 + 1.0, np.arange(150) // 10
    alone = SoftmaxClassifierCV(CS, cv=GroupKFold(3))
    scaled = StandardScaler().fit_transform(X)
    alone.fit(scaled, y, weights, groups=groups)
    with config_context(enable_metadata_routing=True):
        model = clone(alone).set_fit_request(sample_weight=True, groups=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(X, y, sample_weight=weights, groups=groups)
    np.testing.assert_array_equal(pipeline[-1].scores_, alone.scores_)
    np.testing.assert_array_equal(pipeline[-1].coef_, alone.coef_)
    assert not np.array_equal(alone.coef_, clone(alone).fit(scaled, y, groups=groups).coef_)
    with pytest.raises(ValueError, match="groups"):
        clone(alone).fit(scaled, y, weights)


def test_it_shows_its_sweep() -> None:
    pytest.importorskip("matplotlib")
    model = SoftmaxClassifierCV(CS, cv=3).fit(*iris())
    assert model.sweep_.best_params_ == {"C": model.C_}
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


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_scikit_learns_own_check(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_ctrl_c_keeps_the_values_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusoftmax.search import exact

    solve, calls = exact.Path.solve, []

    def press(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:  # two values on three folds, and one fold of the third
            raise KeyboardInterrupt
        return solve(self, *arguments)

    monkeypatch.setattr(exact.Path, "solve", press)
    with pytest.warns(UserWarning, match="interrupted: C_ is the best of the 2 of 3 values that were done"):
        model = SoftmaxClassifierCV(CS, cv=3).fit(*iris())
    assert model.Cs_.tolist() == CS[:2]
    assert (model.scores_.shape, model.n_iter_.shape) == ((3, 1, 2), (3, 1, 2))


def test_one_standard_error_needs_a_refit() -> None:
    with pytest.raises(ValueError, match="rule='1se' needs refit=True"):
        SoftmaxClassifierCV(CS, rule="1se", refit=False).fit(*iris())


def test_a_score_knows_all_classes() -> None:
    X, y = iris(2)
    names = np.array(["a", "b"])[y - 1]
    model = SoftmaxClassifierCV(CS, cv=3, scoring="f1").fit(X, names)
    assert model.score(X, names) > 0.8
    log_loss = SoftmaxClassifierCV(CS, cv=3, scoring="log_loss").fit(X, names)
    assert log_loss.score(X[names == "a"], names[names == "a"]) < 0


def test_a_second_fit_forgets_the_first_ones_names() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = iris()
    model = SoftmaxClassifierCV(CS, cv=3).fit(pandas.DataFrame(X, columns=list("abcd")), y).fit(X, y)
    assert not hasattr(model, "feature_names_in_")
