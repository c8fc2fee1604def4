"""Sweeps that find their penalties: from the constant model on to weaker ones, then between those."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, SoftmaxClassifierCV, fit_path, sweep
from gpusoftmax.array import get_backend
from gpusoftmax.search import auto_grid, exact
from gpusoftmax.search.auto_grid import STEPS, Constant, Tried, at_constant, between, errors_of, first_step, weaker
from gpusoftmax.solvers.lbfgs import LBFGS
from tests.support.cases import blobs, objective_of, run, sweep_with

NUMPY = get_backend("numpy", n_threads=1)
EXACT = 1e-8


@pytest.fixture
def data() -> tuple[Any, Any]:
    """Overlapping classes, few rows and many features, so that too weak a penalty does harm."""
    X, y = blobs(0, n=180, d=20, c=4, apart=0.5)
    return X.astype(np.float64), y


def tried(means: Any, steps: Any = None, *, error: Any = 0.01, losses: Any = None, finished: Any = None) -> Tried:
    """Penalties a factor of ten apart, with these scores on one split."""
    scores = np.array([means], float)
    m = scores.shape[1]
    return Tried(
        np.arange(m) * STEPS if steps is None else np.array(steps),
        scores,
        2 - scores if losses is None else np.array([losses], float),
        np.broadcast_to(error, m),
        np.broadcast_to(error, m),
        np.zeros(m, bool) if finished is None else np.array(finished),
    )


# the strongest penalty


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_strongest_penalty_gives_a_constant_model(loss: str, fit_intercept: bool) -> None:
    """Its loss is lower than the constant one's by at most ||G||^2 / l2, which is 1% of it."""
    X, y = blobs(1, n=240, d=6, c=4)
    y = np.arange(240) % 4
    if loss == "softmax" and fit_intercept:
        y[np.arange(240) % 3 > 0] = 0  # the intercepts then lower the loss, too
    X += np.eye(4, 6)[y]
    objective = objective_of(X - X.mean(axis=0), y, NUMPY, c=4, loss=loss, fit_intercept=fit_intercept)
    constant = at_constant(objective)
    fractions = np.bincount(y) / 240
    entropy = float(-(fractions * np.log(fractions)).sum())
    assert constant.loss == pytest.approx(entropy if loss == "softmax" else 3.0, rel=1e-6)
    l2 = constant.squared_norm / (auto_grid.EXPLAINED * constant.loss)
    loss_there, loss_of_a_tenth = (
        float(run(LBFGS(100, 1e-9), objective.for_penalties(np.array([one]))).loss[0]) for one in (l2, l2 / 10)
    )
    assert 0.99 * constant.loss <= loss_there < 0.999 * constant.loss
    assert loss_of_a_tenth < 0.98 * constant.loss  # and it is not stronger than it needs to be


def test_the_first_value_is_a_power_of_ten_whatever_the_units() -> None:
    for scale in (1e-3, 1.0, 1e3):  # l2 = 2 scale^2, C = 1 / (200 scale^2)
        constant = Constant(loss=1.0, squared_norm=0.02 * scale**2)
        steps = [first_step(name, constant, weight_sum=100.0, n_classes=3) for name in ("C", "l2")]
        values = [auto_grid.value_at(name, step) for name, step in zip(("C", "l2"), steps, strict=True)]
        assert values == pytest.approx([1e-3 / scale**2, 10 * scale**2])
        assert [step % STEPS for step in steps] == [0, 0]


def test_features_that_say_nothing_have_one_path_all_the_same() -> None:
    assert first_step("C", Constant(1.0, 0.0), 100.0, 3) == 0
    result = sweep(SoftmaxClassifier(), "auto", np.ones((40, 3)), np.arange(40) % 2, cv=2)
    assert [one["C"] for one in result.candidates] == [1.0, 10.0, 100.0]


# weaker penalties


@pytest.mark.parametrize(
    ("means", "options", "expected"),
    [
        ([], {}, [0]),
        ([0.5], {}, [8, 16]),
        ([0.5, 0.6], {}, [16, 24]),
        ([0.5, 0.6, 0.595], {}, [24]),  # worse, but within a standard error
        ([0.5, 0.6, 0.595, 0.6], {}, []),  # two without a gain
        ([0.5, 0.6, 0.602, 0.604], {}, [32, 40]),  # small gains add up to one
        ([0.5, 0.6, 0.58], {}, []),  # worse by more than a standard error
        ([0.5, 0.5, 0.5], {"losses": [1.0, 0.9, 0.8]}, [24, 32]),  # the score is flat, but the loss falls
        ([0.5, 0.4], {"losses": [1.0, 0.9]}, [16, 24]),
        ([0.5, 0.6], {"finished": [False, True]}, []),  # a weaker penalty would take even longer
        ([0.5, 0.6], {"losses": [1.0, 0.9e-3]}, []),  # nothing is left to gain
        ([np.nan], {}, [8]),  # the strongest may be too strong for float32
        ([np.nan, np.nan], {}, []),
        ([np.nan, 0.5], {}, [16, 24]),
        (np.arange(24.0), {"losses": np.ones(24)}, [192]),
        (np.arange(25.0), {"losses": np.ones(25)}, []),  # 25 at most
    ],
)
def test_weaker_penalties_are_tried_until_there_is_no_gain(means: Any, options: Any, expected: Any) -> None:
    assert weaker(tried(means, **options), 0, 2, constant_loss=1.0) == expected


def test_patience_is_the_number_of_values_without_a_gain() -> None:
    flat = tried([0.5, 0.6, 0.6, 0.6])
    assert [weaker(flat, 0, patience, 1.0) for patience in (1, 2, 3, 5)] == [[], [], [32], [32, 40, 48]]


# penalties between


@pytest.mark.parametrize(
    ("means", "steps", "rule", "expected"),
    [
        ([0.5, 0.6, 0.55], [0, 8, 16], "best", [4, 12]),
        ([0.5, 0.6, 0.599], [0, 8, 16], "best", [4]),  # the right neighbour is as good
        ([0.599, 0.6, 0.599], [0, 8, 16], "best", []),
        ([0.6, 0.5, 0.4], [0, 8, 16], "best", [4]),  # the strongest is the best
        ([0.5, 0.6, 0.55, 0.62, 0.58], [0, 8, 16, 12, 4], "best", [10, 14]),  # in the order in which they were tried
        ([0.5, 0.6, 0.5], [0, 1, 2], "best", []),  # an eighth of a decade apart
        ([0.5, 0.595, 0.6, 0.5], [0, 8, 16, 24], "1se", [4, 12, 20]),  # next to the chosen one and to the best
        ([np.nan, 0.6, 0.5], [0, 8, 16], "best", [12]),
        ([np.nan, np.nan], [0, 8], "best", []),
    ],
)
def test_the_intervals_next_to_the_best_are_halved(means: Any, steps: Any, rule: str, expected: Any) -> None:
    several = tried(means, steps)
    noise = np.array([[0.01], [-0.01], [0.0]])  # so that the rule has a standard error: 0.0058
    several = Tried(several.steps, several.scores + noise, several.losses, *(several.errors,) * 2, several.finished)
    assert between(several, rule) == expected


def test_there_are_no_more_values_than_the_limit() -> None:
    steps = np.arange(24) * 8
    assert between(tried(-abs(steps - 96.0), steps), "best") == [92]
    assert between(tried(-abs(np.arange(25) * 8 - 96.0)), "best") == []


def test_standard_errors_are_over_splits_or_over_rows() -> None:
    scores = np.array([[0.8, 0.9], [0.9, 0.9], [0.7, 0.9]])
    assert errors_of(scores, 50, accuracy=True) == pytest.approx([0.1 / np.sqrt(3), 0.0])
    assert errors_of(scores[:1], 100, accuracy=True) == pytest.approx([0.04, 0.03])
    assert errors_of(scores[:1], 100, accuracy=False) == pytest.approx([0.08, 0.09])


# whole sweeps


@pytest.mark.parametrize("device", ["CPU", pytest.param("GPU", marks=pytest.mark.emulated)], indirect=["device"])
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("scoring", ["log_loss", "accuracy"])
def test_it_finds_a_score_that_a_fine_grid_has_too(data: Any, scoring: str) -> None:
    fine = sweep(SoftmaxClassifier(), {"C": np.logspace(-5, 1, 49)}, *data, cv=3, scoring=scoring, refit=False)
    result = sweep(SoftmaxClassifier(), "auto", *data, cv=3, scoring=scoring, refit=False)
    assert len(result.candidates) <= 14
    best = fine.best_index_
    assert result.best_score_ >= fine.best_score_ - 0.5 * fine.standard_errors_[best]
    assert not result.edges_


def test_values_are_sorted_and_their_models_and_trials_go_with_them(data: Any) -> None:
    X, y = data
    heard: list[float] = []
    result = sweep_with(
        X, y, {"C": "auto"}, cv=3, scoring="log_loss", tol=EXACT, out_of_fold=True,
        on_candidate=lambda one: heard.append(one["C"]),
    )  # fmt: skip
    values = [one["C"] for one in result.candidates]
    assert values == sorted(values) == sorted(heard)
    assert heard != sorted(heard)
    assert [one.C for one in result.estimators_] == values
    assert sorted(result.models_) == list(itertools.product(range(3), range(len(values))))
    for (i, k), model in result.models_.items():
        assert model.C == values[k]
        loss = -result.trials.score[i, k]
        assert result.trials.loss[i, k] == loss
    alone = SoftmaxClassifier(C=result.best_params_["C"], tol=EXACT).fit(X, y)
    np.testing.assert_allclose(result.best_estimator_.coef_, alone.coef_, rtol=0, atol=1e-5)
    probabilities = result.out_of_fold_probabilities_[np.arange(len(y)), y]
    assert -np.log(probabilities).mean() == pytest.approx(-result.best_score_, rel=1e-6)


def test_l2_and_class_weights_are_searched_for_each_combination(data: Any) -> None:
    X, y = data
    keep = (y > 0) | (np.arange(len(y)) % 4 == 0)
    grid = {"class_weight": [None, "balanced"], "l2": "auto"}
    result = sweep(SoftmaxClassifier(), grid, X[keep], y[keep], cv=3, scoring="log_loss", rule="1se")
    paths = [[one["l2"] for one in result.candidates if one["class_weight"] == weight] for weight in (None, "balanced")]
    assert [len(path) > 4 for path in paths] == [True, True]
    assert all(path == sorted(path, reverse=True) for path in paths)
    assert [one["class_weight"] for one in result.candidates] == [None] * len(paths[0]) + ["balanced"] * len(paths[1])


def test_a_penalty_depends_on_the_unit_of_the_features_alone(data: Any) -> None:
    X, y = data
    plain, scaled = (
        sweep(SoftmaxClassifier(tol=1e-7), "auto", factor * X, y, cv=3, scoring="log_loss", refit=False)
        for factor in (1.0, 1e3)
    )
    assert [one["C"] for one in scaled.candidates] == pytest.approx([one["C"] / 1e6 for one in plain.candidates])


def test_svms_and_validation_rows_and_scorers(data: Any) -> None:
    X, y = data
    svm = sweep(LinearSVMClassifier(loss="squared_hinge"), "auto", X, y, validation=0.3, scoring="loss")
    assert len(svm.candidates) > 3
    assert not svm.edges_
    balanced = sweep(SoftmaxClassifier(), "auto", X, y, validation=0.3, scoring="balanced_accuracy", refit=False)
    assert balanced.best_score_ == balanced.mean_scores_.max()


def test_equal_at_any_number_of_threads(data: Any) -> None:
    results = [
        sweep(SoftmaxClassifier(n_threads=threads), "auto", *data, cv=3, scoring="log_loss") for threads in (1, 2, 7)
    ]
    for result in results[1:]:
        assert result.candidates == results[0].candidates
        np.testing.assert_array_equal(result.trials.score, results[0].trials.score)
        np.testing.assert_array_equal(result.best_estimator_.coef_, results[0].best_estimator_.coef_)


@pytest.mark.usefixtures("gpu")
def test_penalties_that_are_solved_together_give_the_same_choice(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sweep(SoftmaxClassifier(tol=EXACT), "auto", *data, cv=2, scoring="log_loss")
    monkeypatch.setattr(exact, "width", lambda *shape: 2)
    two = sweep(SoftmaxClassifier(tol=EXACT), "auto", *data, cv=2, scoring="log_loss")
    assert two.candidates == one.candidates
    np.testing.assert_allclose(two.trials.loss, one.trials.loss, atol=1e-6)


def test_labels_that_are_noise_take_few_models() -> None:
    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((400, 10)), generator.integers(0, 3, 400)
    result = sweep(SoftmaxClassifier(), "auto", X, y, cv=4, scoring="log_loss", rule="1se")
    assert result.best_params_ == result.candidates[0]
    assert len(result.candidates) <= 6


def test_ctrl_c_leaves_the_values_that_were_done(data: Any) -> None:
    def interrupt(one: dict[str, Any]) -> None:
        if one["C"] >= 0.01:
            raise KeyboardInterrupt

    result = sweep(SoftmaxClassifier(), "auto", *data, cv=3, on_candidate=interrupt, refit=False)
    assert result.interrupted_
    assert [one["C"] for one in result.candidates][-1] == 0.01
    assert not np.isnan(result.mean_scores_[:-1]).any()


def test_classifier_cv_and_fit_path_take_auto(data: Any) -> None:
    X, y = data
    model = SoftmaxClassifierCV("auto", cv=3, scoring="log_loss").fit(X, y)
    assert (np.diff(model.Cs_) > 0).all()
    assert model.scores_.shape == (3, 1, len(model.Cs_))
    assert model.coefs_paths_.shape == (3, 1, len(model.Cs_), 4, 21)
    assert model.C_ in model.Cs_
    path = fit_path(SoftmaxClassifier(), X, y, validation=0.3, Cs="auto", patience=None)
    assert path.best_params_["C"] in [one["C"] for one in path.candidates]


@pytest.mark.parametrize(
    ("estimator", "grid", "options", "message"),
    [
        (SoftmaxClassifier(solver="sgd"), "auto", {}, "'auto' in a grid is for L-BFGS, and solver='sgd', which means"),
        (SoftmaxClassifier(momentum=0.5), {"C": "auto"}, {}, "and momentum is set, which means SGD; pass values of C"),
        (SoftmaxClassifier(), {"C": "auto", "learning_rate": [0.1]}, {}, "and learning_rate is set"),
        (LinearSVMClassifier(loss="hinge"), "auto", {}, "loss='hinge' has no curvature"),
        (SoftmaxClassifier(C=1.0), "auto", {}, "C is in the grid and set in the estimator"),
        (SoftmaxClassifier(), [{"C": "auto"}, {"l2": [1.0]}], {}, "'auto' in some dictionaries and lists in others"),
        (SoftmaxClassifier(), {"C": "auto", "l2": [1.0]}, {}, "both C and l2"),
        (SoftmaxClassifier(), "auto", {"halving": 2}, "halving=2 is for solver='sgd'"),
        (SoftmaxClassifier(), "auto", {"patience": 0}, "patience"),
    ],
)
def test_what_cannot_be_found_is_refused(data: Any, estimator: Any, grid: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(estimator, grid, *data, **options)
