"""sweep: each model equals one fitted alone with its settings, and the best of them is chosen."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from gpusoftmax import (
    DivergenceError,
    LinearSVMClassifier,
    SoftmaxClassifier,
    load_digits,
    load_model,
    save_model,
    sweep,
)
from gpusoftmax.search import exact, minibatch
from gpusoftmax.solvers.base import StopReason
from tests.support.cases import blobs, sha256, sweep_with

CS = [1e-3, 1e-2, 1e-1, 1.0]
EXACT = 1e-8  # tol: two fits to it are equal to some 1e-8 / l2


@pytest.fixture
def data() -> tuple[Any, Any]:
    """Overlapping classes, few rows and many features, so that too weak a penalty does harm."""
    X, y = blobs(0, n=180, d=20, c=4, apart=0.5)
    return X.astype(np.float64), y


def held_out_loss(model: Any, X: Any, y: Any) -> float:
    return float(-np.mean(model.predict_log_proba(X)[np.arange(len(y)), y]))


@pytest.mark.parametrize(
    ("device", "weighted", "scaling", "class_weight"),
    [
        *itertools.product(["CPU"], [False, True], [None, "standard"], [None, "balanced"]),
        pytest.param("GPU", True, "standard", "balanced", marks=pytest.mark.emulated),
    ],
    indirect=["device"],
)
@pytest.mark.usefixtures("device")
def test_an_exact_model_is_that_of_its_fold_alone(
    data: Any, weighted: bool, scaling: Any, class_weight: Any, rng: np.random.Generator
) -> None:
    X, y = data
    s = rng.integers(1, 4, len(y)).astype(float) if weighted else None
    options: dict[str, Any] = {"scaling": scaling, "class_weight": class_weight, "tol": EXACT}
    result = sweep_with(X, y, {"C": CS}, cv=3, sample_weight=s, scoring="log_loss", **options)
    for i, (train, test) in enumerate(StratifiedKFold(3).split(X, y)):
        for k, C in enumerate(CS):
            alone = SoftmaxClassifier(C=C, **options).fit(X[train], y[train], None if s is None else s[train])
            model = result.models_[i, k]
            np.testing.assert_allclose(model.coef_, alone.coef_, rtol=0, atol=1e-5)
            np.testing.assert_allclose(model.intercept_, alone.intercept_, rtol=0, atol=1e-5)
            assert result.trials.objective[i, k] == pytest.approx(alone.fit_report_.objective, abs=1e-9)
            if s is None:
                assert result.trials.loss[i, k] == pytest.approx(held_out_loss(alone, X[test], y[test]), abs=1e-5)
            accuracy = alone.score(X[test], y[test], None if s is None else s[test])
            assert result.trials.accuracy[i, k] == pytest.approx(accuracy)
    assert result.trials.score == pytest.approx(-result.trials.loss)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.0, "schedule": "cosine"}])
def test_a_model_of_sgd_is_that_of_its_fold_alone(data: Any, options: Any) -> None:
    X, y = data
    grid = {"learning_rate": [0.01, 0.1, 1.0], "C": [0.01, 1.0]}
    common: dict[str, Any] = {"max_iter": 4, "batch_size": 16, "tol": 0.0, **options}
    result = sweep_with(X, y, grid, cv=3, refit=False, **common)
    for i, (train, _) in enumerate(StratifiedKFold(3).split(X, y)):
        for k, candidate in enumerate(result.candidates):
            alone = SoftmaxClassifier(**candidate, **common).fit(X[train], y[train])
            np.testing.assert_allclose(result.models_[i, k].coef_, alone.coef_, rtol=1e-9, atol=1e-10)


def test_sgd_with_its_own_rate_is_that_of_its_fold_alone(data: Any) -> None:
    """It balances features by the penalty, so that models of different penalties have different coordinates."""
    X, y = data
    common: dict[str, Any] = {"solver": "sgd", "max_iter": 3, "tol": 0.0}
    result = sweep_with(X, y, {"C": [0.01, 1.0], "momentum": [0.5, 0.9]}, cv=2, refit=False, **common)
    for i, (train, _) in enumerate(StratifiedKFold(2).split(X, y)):
        for k, candidate in enumerate(result.candidates):
            alone = SoftmaxClassifier(**candidate, **common).fit(X[train], y[train])
            np.testing.assert_allclose(result.models_[i, k].coef_, alone.coef_, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_a_loss_of_hinges_makes_it_an_svm(data: Any, loss: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = sweep_with(*data, {"C": [0.01, 0.1]}, cv=2, loss=loss, max_iter=20, scoring="loss")
    assert isinstance(result.best_estimator_, LinearSVMClassifier)
    assert (result.trials.score < 0).all()


@pytest.mark.parametrize("grid", [{"C": CS}, {"learning_rate": [0.01, 0.1], "C": CS}], ids=["exact", "SGD"])
def test_the_number_of_threads_does_not_change_a_bit(grid: Any) -> None:
    digits = load_digits()
    X, y = digits.X_train, digits.y_train
    digests = set()
    for threads in (1, 2, 5):
        result = sweep(SoftmaxClassifier(n_threads=threads, max_iter=5, tol=0.0), grid, X, y, cv=3)
        models = [result.models_[i, k].coef_ for i in range(3) for k in range(len(result.candidates))]
        digests.add(sha256(*models, result.trials.score, result.best_estimator_.coef_))
    assert len(digests) == 1


@pytest.mark.parametrize(("module", "grid"), [(exact, {"C": CS}), (minibatch, {"learning_rate": [0.01, 0.03, 0.1]})])
def test_groups_that_fit_in_memory_give_the_same_models(
    data: Any, module: Any, grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(SoftmaxClassifier(tol=EXACT if module is exact else 0.0, max_iter=50), grid, *data, cv=2)
    monkeypatch.setattr(module, "width", lambda *shape: 2)
    parts = sweep(SoftmaxClassifier(tol=EXACT if module is exact else 0.0, max_iter=50), grid, *data, cv=2)
    np.testing.assert_allclose(parts.trials.loss, whole.trials.loss, atol=1e-6)


def test_the_best_is_the_one_with_the_largest_mean_score(data: Any) -> None:
    result = sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=4, scoring="log_loss")
    means = result.trials.score.mean(axis=0)
    assert result.best_index_ == int(np.argmax(means))
    assert (result.best_params_, result.best_score_) == ({"C": CS[result.best_index_]}, means.max())


def test_refit_is_a_fit_to_all_rows(data: Any) -> None:
    result = sweep(SoftmaxClassifier(tol=EXACT), {"C": CS}, *data, cv=4)
    alone = SoftmaxClassifier(C=result.best_params_["C"], tol=EXACT).fit(*data)
    np.testing.assert_allclose(result.best_estimator_.coef_, alone.coef_, rtol=0, atol=1e-5)
    assert result.best_estimator_.fit_report_.reason == "converged"
    assert sweep(SoftmaxClassifier(), {"C": CS}, *data, refit=False).best_estimator_ is None


def test_a_validation_set_of_the_users_own_is_measured_on(data: Any) -> None:
    X, y = data
    result = sweep(SoftmaxClassifier(tol=EXACT), {"C": CS}, X[:120], y[:120], validation=(X[120:], y[120:]))
    for k, C in enumerate(CS):
        alone = SoftmaxClassifier(C=C, tol=EXACT).fit(X[:120], y[:120])
        assert result.trials.accuracy[0, k] == pytest.approx(alone.score(X[120:], y[120:]))
    assert result.n_splits_ == 1


def test_a_share_is_held_out(data: Any) -> None:
    result = sweep(SoftmaxClassifier(random_state=3), {"C": CS}, *data, validation=0.25)
    again = sweep(SoftmaxClassifier(random_state=3), {"C": CS}, *data, validation=0.25)
    np.testing.assert_array_equal(result.trials.score, again.trials.score)


def test_groups_go_to_the_splitter(data: Any) -> None:
    groups = np.arange(180) // 10
    result = sweep(SoftmaxClassifier(), {"C": [0.1]}, *data, cv=GroupKFold(3), groups=groups)
    assert result.n_splits_ == 3


@pytest.mark.parametrize(
    ("scoring", "expected"),
    [
        ("balanced_accuracy", lambda model, X, y: balanced_accuracy_score(y, model.predict(X))),
        ("neg_log_loss", lambda model, X, y: -held_out_loss(model, X, y)),
        (lambda model, X, y: float(model.coef_[0, 0]), lambda model, X, y: float(model.coef_[0, 0])),
    ],
    ids=["a scorer's name", "a loss", "a function"],
)
def test_scores_are_those_of_the_scorer(data: Any, scoring: Any, expected: Any) -> None:
    X, y = data
    result = sweep(SoftmaxClassifier(tol=EXACT), {"C": [0.01, 1.0]}, X, y, cv=3, scoring=scoring)
    for i, (_, test) in enumerate(StratifiedKFold(3).split(X, y)):
        for k in range(2):
            score = expected(result.models_[i, k], X[test], y[test])
            assert result.trials.score[i, k] == pytest.approx(score, abs=1e-6)


def test_a_scorer_sees_the_users_data_frames_and_labels() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = blobs(0, n=60)
    frame, names = pandas.DataFrame(X, columns=list("abcde")), np.array(["x", "y", "z"])[y]
    seen = []

    def scorer(model: Any, X: Any, y: Any) -> float:
        seen.append((list(X.columns), sorted(set(y)), list(model.feature_names_in_)))
        return float(model.score(X, y))

    sweep(SoftmaxClassifier(), {"C": [1.0]}, frame, names, cv=2, scoring=scorer)
    assert seen == [(list("abcde"), ["x", "y", "z"], list("abcde"))] * 2


def test_soft_labels_are_measured_as_such(data: Any, rng: np.random.Generator) -> None:
    X, y = data
    soft = 0.7 * np.eye(4)[y] + 0.3 * rng.dirichlet(np.ones(4), len(y))
    result = sweep(SoftmaxClassifier(tol=EXACT), {"C": [0.1, 1.0]}, X, soft, cv=KFold(3))
    for i, (train, test) in enumerate(KFold(3).split(X)):
        alone = SoftmaxClassifier(C=0.1, tol=EXACT).fit(X[train], soft[train])
        np.testing.assert_allclose(result.models_[i, 0].coef_, alone.coef_, rtol=0, atol=1e-5)
        loss = -(soft[test] * alone.predict_log_proba(X[test])).sum(axis=1).mean()
        assert result.trials.loss[i, 0] == pytest.approx(loss, abs=1e-6)


def test_a_class_that_a_fold_has_not_stays_a_class() -> None:
    X, y = blobs(0, n=60, c=3)
    y[:] = np.arange(60) % 2
    y[:3] = 2
    cv = [(np.arange(20, 60), np.arange(20))]
    for class_weight in (None, "balanced"):
        result = sweep(SoftmaxClassifier(class_weight=class_weight), {"C": [0.1, 1.0]}, X, y, cv=cv)
        assert result.models_[0, 0].coef_.shape == (3, 5)
        assert result.models_[0, 0].predict_proba(X)[:, 2].max() < 0.5


def test_predictions_out_of_fold_are_those_of_the_model_that_has_not_seen_the_row(data: Any) -> None:
    X, y = data
    names = np.array(["a", "b", "c", "d"])[y]
    result = sweep(SoftmaxClassifier(), {"C": CS}, X, names, cv=4, out_of_fold=True)
    for i, (_, test) in enumerate(StratifiedKFold(4).split(X, names)):
        model = result.models_[i, result.best_index_]
        np.testing.assert_array_equal(result.out_of_fold_predictions_[test], model.predict(X[test]))
        np.testing.assert_allclose(result.out_of_fold_probabilities_[test], model.predict_proba(X[test]), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "why"), [({"validation": 0.5, "out_of_fold": True}, "folds that hold out each row once"), ({}, "pass")]
)
def test_without_a_partition_or_if_not_asked_for_there_are_none_and_it_says_why(
    data: Any, options: Any, why: str
) -> None:
    result = sweep_with(*data, {"C": [0.1]}, **options)
    with pytest.raises(AttributeError, match=why):
        result.out_of_fold_predictions_  # noqa: B018


def test_models_need_not_be_kept(data: Any) -> None:
    result = sweep(SoftmaxClassifier(tol=EXACT), {"C": [0.1, 1.0]}, *data, keep_models=False)
    kept = sweep(SoftmaxClassifier(tol=EXACT), {"C": [0.1, 1.0]}, *data)
    assert (result.models_, len(kept.models_)) == ({}, 10)
    np.testing.assert_array_equal(result.trials.score, kept.trials.score)
    np.testing.assert_allclose(result.best_estimator_.coef_, kept.best_estimator_.coef_, atol=1e-6)


@pytest.mark.parametrize("grid", [{"C": [0.1, 1.0]}, {"learning_rate": [0.1]}], ids=["exact", "SGD"])
def test_a_kept_model_is_saved_and_becomes_scikit_learns(data: Any, grid: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = sweep(SoftmaxClassifier(max_iter=9), grid, *data, cv=2, refit=False).models_[1, 0]
    save_model(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_model(tmp_path / "model.safetensors").predict(data[0]), model.predict(data[0]))
    np.testing.assert_allclose(model.to_sklearn().predict_proba(data[0]), model.predict_proba(data[0]), rtol=1e-9)


def test_an_svm_has_predictions_but_no_probabilities_out_of_fold(data: Any) -> None:
    result = sweep(LinearSVMClassifier(loss="squared_hinge"), {"C": [0.01]}, *data, cv=3, out_of_fold=True)
    assert result.out_of_fold_predictions_.shape == (180,)
    with pytest.raises(AttributeError, match="an SVM has no probabilities"):
        result.out_of_fold_probabilities_  # noqa: B018


@pytest.mark.slow
def test_patience_ends_a_path_that_only_gets_worse(data: Any) -> None:
    grid = {"C": np.logspace(-4, 4, 17)}
    result = sweep(SoftmaxClassifier(), grid, *data, cv=3, scoring="log_loss", patience=2)
    tried = ~np.isnan(result.mean_scores_)
    whole = sweep(SoftmaxClassifier(), grid, *data, cv=3, scoring="log_loss")
    assert result.best_params_ == whole.best_params_
    assert tried.tolist() == [True] * (result.best_index_ + 3) + [False] * (17 - result.best_index_ - 3)
    assert set(result.trials.status[:, ~tried].ravel()) == {""}


def test_patience_waits_while_scores_are_equal() -> None:
    """Strong penalties all predict the largest class: a flat start is no reason to stop."""
    X, y = blobs(0, n=200, d=5, c=2, apart=1.0)
    y = (X[:, 0] > np.quantile(X[:, 0], 0.8)).astype(int)
    result = sweep(SoftmaxClassifier(), {"C": np.logspace(-9, 1, 11)}, X, y, cv=3, patience=2)
    assert result.best_score_ > 0.9


def test_nan_in_a_validation_set_is_named(data: Any) -> None:
    X, y = data
    Xv = X[:20].copy()
    Xv[3, 1] = np.nan
    for grid in ({"C": CS}, {"learning_rate": [0.01]}):
        with pytest.raises(ValueError, match=r"Input validation\[0\] contains NaN: validation\[0\]\[3, 1\]"):
            sweep(SoftmaxClassifier(max_iter=3, tol=0.0), grid, X, y, validation=(Xv, y[:20]))


def test_columns_of_a_validation_set_in_another_order_are_refused(data: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(data[0], columns=[f"f{i}" for i in range(20)])
    with pytest.raises(ValueError, match="same order"):
        sweep(SoftmaxClassifier(), {"C": [1.0]}, frame, data[1], validation=(frame[frame.columns[::-1]], data[1]))


@pytest.mark.parametrize(("half", "words"), [(slice(None, 90), "training"), (slice(90, None), "held-out")])
def test_weights_of_zero_on_all_of_a_side_are_refused(data: Any, half: slice, words: str) -> None:
    s = np.ones(180)
    s[half] = 0
    cv = [(np.arange(90), np.arange(90, 180))]
    with pytest.raises(ValueError, match=f"sample_weight is 0 for all {words} rows of cv split 0"):
        sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=cv, sample_weight=s)


def test_a_function_that_knows_no_weights_goes_without(data: Any) -> None:
    plain = sweep(
        SoftmaxClassifier(),
        {"C": [0.1]},
        *data,
        cv=3,
        scoring=lambda model, X, y: model.score(X, y),
        sample_weight=np.arange(180),
    )
    told = sweep(
        SoftmaxClassifier(), {"C": [0.1]}, *data, cv=3, sample_weight=np.arange(180),
        scoring=lambda model, X, y, sample_weight: model.score(X, y, sample_weight),
    )  # fmt: skip
    assert plain.best_score_ != told.best_score_
    np.testing.assert_allclose(told.trials.score, told.trials.accuracy)


def test_a_score_that_is_nan_is_not_called_divergence(data: Any) -> None:
    with pytest.raises(ValueError, match="is NaN for every configuration on some split, such as split 0"):
        sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=3, scoring=lambda model, X, y: np.nan)


def test_a_penalty_too_strong_for_the_type_does_not_end_the_sweep(data: Any) -> None:
    result = sweep(SoftmaxClassifier(), {"l2": [1e38, 0.1]}, data[0].astype(np.float32), data[1], cv=2)
    assert result.best_params_ == {"l2": 0.1}


def test_ctrl_c_within_a_rung_falls_back_to_the_one_before(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train_group, calls = minibatch.train_group, []

    def press(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # two splits of the first rung, one of the second
            raise KeyboardInterrupt
        return train_group(*arguments)

    monkeypatch.setattr(minibatch, "train_group", press)
    grid, common = {"learning_rate": [0.001, 0.01, 0.1]}, {"cv": 2, "tol": 0.0, "refit": False, "scoring": "loss"}
    result = sweep_with(*data, grid, halving=3, max_iter=9, **common)
    monkeypatch.undo()
    assert result.interrupted_
    first = sweep_with(*data, grid, max_iter=3, **common)
    np.testing.assert_array_equal(result.trials.score[:, result.best_index_], first.trials.score.max(axis=1))


def test_ctrl_c_keeps_models_of_sgd_as_they_are(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = minibatch.train

    def pressed(*arguments: Any, **options: Any) -> Any:
        result = train(*arguments, **options)
        interrupted = StopReason.INTERRUPTED
        return replace(result, reason=interrupted, reasons=[interrupted] * len(result.reasons))

    monkeypatch.setattr(minibatch, "train", pressed)
    result = sweep(
        SoftmaxClassifier(max_iter=3, tol=0.0), {"learning_rate": [0.01, 0.1]}, *data, validation=0.3, refit=False
    )
    assert (result.interrupted_, np.isnan(result.trials.score).any()) == (True, False)
    assert set(result.trials.status.ravel()) == {"interrupted"}


@pytest.mark.slow
def test_weak_penalties_are_solved_to_a_gradient_that_is_small_beside_the_objective() -> None:
    """A predicted start passed for the solution, with twice its loss on rows held out."""
    digits = load_digits()
    aside = digits.X_validation, digits.y_validation
    common: dict[str, Any] = {"validation": aside, "scoring": "log_loss", "refit": False}
    path = sweep_with(digits.X_train, digits.y_train, {"C": np.logspace(-3, 2, 11)}, **common)
    exact_ = sweep_with(digits.X_train, digits.y_train, {"C": [100.0]}, tol=1e-9, **common)
    assert path.trials.loss[0, -1] == pytest.approx(exact_.trials.loss[0, 0], rel=0.02)


def test_a_metric_in_place_of_a_scorer_is_told_of(data: Any) -> None:
    with pytest.raises(ValueError, match=r"scoring=accuracy_score is a metric .*make_scorer\(accuracy_score\)"):
        sweep(SoftmaxClassifier(), {"C": [1.0]}, *data, cv=2, scoring=accuracy_score)


def test_a_scorer_that_is_nan_for_some_is_told_of(data: Any) -> None:
    with pytest.warns(UserWarning, match=r"is NaN for 3 of 6 models, whose configurations cannot be chosen"):
        result = sweep(
            SoftmaxClassifier(),
            {"C": [0.1, 1.0]},
            *data,
            cv=3,
            scoring=lambda model, X, y: np.nan if model.C == 0.1 else 1.0,
        )
    assert result.best_params_ == {"C": 1.0}


def test_within_a_standard_error_the_better_of_equal_penalties_is_taken(data: Any) -> None:
    result = sweep(
        SoftmaxClassifier(max_iter=30, tol=0.0), {"learning_rate": [1e-4, 0.1]}, *data, cv=5, rule="1se", scoring="loss"
    )
    assert result.best_params_ == {"learning_rate": 0.1}


def test_halving_keeps_one_in_so_many_for_the_last_rung(data: Any) -> None:
    grid = {"learning_rate": np.logspace(-4, 0, 9).tolist()}
    result = sweep(SoftmaxClassifier(max_iter=9, tol=0.0), grid, *data, cv=2, halving=3, scoring="loss")
    status, passes = result.trials.status, result.trials.passes
    assert [(status[0] == "halved").sum(), (status[0] == "finished").sum()] == [8, 1]
    assert sorted(passes[0].tolist()) == [1.0] * 6 + [3.0] * 2 + [9.0]
    assert status[0, result.best_index_] == "finished"
    alone = sweep(
        SoftmaxClassifier(max_iter=9, tol=0.0), {"learning_rate": [result.best_params_["learning_rate"]]}, *data, cv=2
    )
    np.testing.assert_allclose(result.trials.loss[:, result.best_index_], alone.trials.loss[:, 0], rtol=1e-9)


def test_one_that_diverges_does_not_disturb_the_others(data: Any) -> None:
    grid = {"learning_rate": [0.01, 1e6, 0.1]}
    result = sweep(SoftmaxClassifier(max_iter=5, tol=0.0), grid, *data, cv=2)
    assert result.trials.status[:, 1].tolist() == ["diverged", "diverged"]
    assert np.isnan(result.trials.score[:, 1]).all()
    assert result.best_params_["learning_rate"] in (0.01, 0.1)


def test_where_all_diverge_it_says_so(data: Any) -> None:
    with pytest.raises(DivergenceError, match="every configuration diverged"):
        sweep(SoftmaxClassifier(max_iter=5), {"learning_rate": [1e6, 1e7]}, *data, cv=2)


@pytest.mark.parametrize("done", [1, 3])
def test_ctrl_c_keeps_what_is_done(data: Any, done: int) -> None:
    told = []

    def press(row: Any) -> None:
        told.append(row)
        if len(told) == done:
            raise KeyboardInterrupt

    result = sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=3, on_candidate=press)
    assert result.interrupted_
    assert (~np.isnan(result.mean_scores_)).sum() == done
    assert result.best_estimator_ is not None
    assert f"interrupted: {4 - done} configurations were not done" in result.report


def test_ctrl_c_before_anything_is_done_is_an_interrupt(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exact.Path, "solve", press)
    with pytest.raises(KeyboardInterrupt):
        sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=3)


def test_it_is_silent_unless_asked(data: Any, capfd: Any) -> None:
    sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=3)
    assert capfd.readouterr() == ("", "")


def test_progress_says_what_is_running(data: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.progress.SECONDS_BETWEEN_LINES", 0.0)
    sweep(SoftmaxClassifier(), {"C": CS}, *data, cv=3, verbose=1, refit=False)
    out, err = capfd.readouterr()
    assert out == ""
    assert "model 0 of 12  C=0.001, split 1 of 3; pass 1" in err
    assert "model 11 of 12  C=1, split 3 of 3; best accuracy so far 0." in err
    sweep(SoftmaxClassifier(), "auto", *data, cv=3, verbose=1, refit=False)
    assert "model 4  C=0.001, split 2 of 3; best accuracy so far 0." in capfd.readouterr().err


def test_models_short_of_their_optimum_are_told_of(data: Any) -> None:
    with pytest.warns(ConvergenceWarning, match=r"\d of 12 models are not within tol=1e-10 of their optima after"):
        sweep(SoftmaxClassifier(max_iter=3, tol=1e-10), {"C": CS}, *data, cv=3, refit=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "2se"}, ValueError, "rule='2se' is not known"),
        ({"rule": "1se", "validation": 0.5}, ValueError, "rule='1se' needs the scatter between folds"),
        ({"scoring": "nonsense"}, ValueError, "scoring='nonsense' is not known; use .accuracy."),
        ({"validation": np.zeros((3, 20))}, TypeError, "validation is a ndarray; pass a pair"),
        ({"scoring": 3}, TypeError, "scoring=3 is a int"),
        ({"scoring": "log_loss", "loss": "hinge"}, ValueError, "scoring='log_loss' needs probabilities"),
        ({"halving": 3}, ValueError, "halving=3 is for solver='sgd'"),
        ({"patience": 2, "solver": "sgd"}, ValueError, "patience=2 is for solver='lbfgs'"),
        ({"patience": 0}, ValueError, "patience=0 is out of range"),
        ({"refit": "yes"}, TypeError, "refit='yes' is a str"),
        ({"C": 1.0}, ValueError, "C is in the grid and set in the estimator"),
        ({"out_of_fold": True, "keep_models": False}, ValueError, "out_of_fold=True needs keep_models=True"),
        ({"validation": 0.5, "groups": np.zeros(180)}, ValueError, "groups is for a splitter"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight has length 1"),
        ({"validation": (np.zeros((2, 3)), [0, 1])}, ValueError, "has 3 features"),
    ],
)
def test_what_cannot_be_is_refused(data: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        sweep_with(*data, {"C": CS}, **options)
