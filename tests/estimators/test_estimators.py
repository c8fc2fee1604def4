"""The estimators: they reach the optimum, have the right shapes, and follow the scikit-learn API."""

from __future__ import annotations

import math
import pickle
import re
import signal
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator

from gpusoftmax import (
    DivergenceError,
    EarlyStopping,
    LinearSVMClassifier,
    Record,
    SoftmaxClassifier,
    get_backend,
    load_digits,
    reference,
)
from gpusoftmax.estimators.fitting import set_fitted
from gpusoftmax.estimators.problem import prepare
from gpusoftmax.estimators.solver_choice import choose_solver
from gpusoftmax.features.read import read_features
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.trainer import TrainResult
from tests.support.marks import cpu_only, on_each_device

# every test runs on the CPU and on a GPU: "auto" takes it
pytestmark = on_each_device

# Full batches at a constant rate are gradient descent with momentum 0.9: along curvature m the error falls by
# exp(-10 m / L) a pass, at least. On the data below l2 / L is above 2e-3, so 1500 passes leave exp(-30) = 1e-13.
CONVERGED = {"batch_size": "full", "schedule": "constant", "tol": 0.0, "max_iter": 1500}
SOLVERS = {"sgd": CONVERGED, "lbfgs": {"solver": "lbfgs", "tol": 1e-10}}
CONVERGING = pytest.mark.parametrize(
    ("solver", "classes"), [("lbfgs", 2), ("lbfgs", 3), pytest.param("sgd", 3, marks=pytest.mark.slow)]
)
# a handful of passes, where it does not matter how good the model is
SHORT = {"schedule": "cosine", "max_iter": 4}

ESTIMATORS = [
    pytest.param(SoftmaxClassifier, {}, id="softmax"),
    pytest.param(LinearSVMClassifier, {}, id="squared hinge"),
    pytest.param(LinearSVMClassifier, {"loss": "hinge"}, id="hinge"),
]


def standardised(X: Any) -> Any:
    return (X - X.mean(axis=0)) / X.std(axis=0)


def iris(classes: int) -> tuple[Any, Any]:
    """Standardised iris; of two classes, the pair that overlaps."""
    X, y = load_iris(return_X_y=True)
    return (standardised(X), y) if classes == 3 else (standardised(X[50:]), y[50:])


@pytest.fixture
def ctrl_c() -> Any:
    """Presses Ctrl-C; the handler is Python's own, whatever the tests were started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda record: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def small(rng: np.random.Generator) -> tuple[Any, Any]:
    """40 rows, 3 features, 3 classes that overlap."""
    y = np.arange(40) % 3
    return rng.standard_normal((40, 3)) + 0.7 * y[:, None], y


@pytest.fixture
def separate(rng: np.random.Generator) -> tuple[Any, Any]:
    """60 rows in 3 clusters that any of the models tells apart."""
    codes = np.arange(60) % 3
    return rng.standard_normal((60, 3)) + 20 * np.eye(3)[codes], codes


def per_class(model: Any) -> tuple[Any, Any]:
    """coef_ and intercept_ with a row for every class, as W (d, 1, c) and b (1, c)."""
    coef, intercept = model.coef_.astype(float), model.intercept_.astype(float)
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return coef.T[:, None, :], intercept[None, :]


# the optimum


@cpu_only
@pytest.mark.parametrize(
    ("class_weight", "weighted"),
    [
        (None, False),
        (None, True),
        ("balanced", False),  # with weights: below, since older scikit-learns count rows there
        ({1: 2.0, 2: 0.5}, False),
        ({1: 2.0, 2: 0.5}, True),
    ],
)
@pytest.mark.parametrize("C", [0.1, 1.0])
@CONVERGING
def test_the_optimum_is_that_of_logistic_regression(
    solver: str, classes: int, C: float, class_weight: Any, weighted: bool, rng: np.random.Generator
) -> None:
    X, y = iris(classes)
    weights = rng.integers(1, 4, len(y)).astype(float) if weighted else None
    ours = SoftmaxClassifier(C=C, class_weight=class_weight, **SOLVERS[solver]).fit(X, y, weights)
    theirs = LogisticRegression(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-10).fit(X, y, weights)
    # they stop at a gradient of 1e-10; divided by the least curvature, above 1e-3, that is 1e-7
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    expected = theirs.intercept_ - (theirs.intercept_.mean() if classes > 2 else 0)
    np.testing.assert_allclose(ours.intercept_, expected, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@cpu_only
def test_ten_classes_have_the_optimum_of_logistic_regression(rng: np.random.Generator) -> None:
    digits = load_digits()
    X, y = digits.X_train.astype(np.float64), digits.y_train
    weights = rng.random(len(y)) + 0.5
    ours = SoftmaxClassifier(class_weight="balanced", tol=1e-9).fit(X, y, weights)
    theirs = LogisticRegression(class_weight="balanced", solver="newton-cg", tol=1e-10).fit(X, y, weights)
    # within 1e-9 * sqrt(640) / l2 = 3e-5 of the optimum, l2 = 1 / 1197, and so are they
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


@cpu_only
@pytest.mark.parametrize("full_size", [2000, 0], ids=["full", "block-diagonal"])
def test_an_exact_fit_has_the_same_bits_at_any_thread_count(full_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each of its preconditioners: confident digits want new ones."""
    monkeypatch.setattr("gpusoftmax.cpu.threads.LEAF_ELEMENTS", 1)
    monkeypatch.setattr("gpusoftmax.solvers.preconditioners.hessian.FULL_SIZE", full_size)
    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.REFRESH_COST_FACTOR", 0.0)
    digits = load_digits()
    X, y = (16 * digits.X_train).astype(np.uint8), digits.y_train
    fits = [SoftmaxClassifier(C=1e-2, n_threads=threads, tol=1e-4).fit(X, y) for threads in (1, 2, 7)]
    assert len({bits(fit) for fit in fits}) == 1
    assert fits[0].fit_report_.passes > fits[0].n_iter_ + 1  # a second preconditioner was made


@cpu_only
@pytest.mark.parametrize("load", [load_iris, load_wine])
@pytest.mark.parametrize("batch_size", ["auto", "full", 32])
def test_a_fit_that_says_converged_is_near_the_optimum(load: Any, batch_size: Any) -> None:
    X, y = load(return_X_y=True)
    X = standardised(X)
    ours = SoftmaxClassifier(tol=1e-6, max_iter=5000, batch_size=batch_size).fit(X, y)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)

    def objective(model: Any) -> float:
        return float(reference.loss_and_gradient(X, y, *per_class(model), l2=1 / len(y))[0][0])

    # it stops when 5 passes together gain less than tol, so a thousand times that is generous
    assert ours.stop_reason_ == "converged"
    assert objective(ours) - objective(theirs) < 1e-3


@pytest.mark.slow
@cpu_only
def test_ten_classes_of_digits_are_those_of_logistic_regression() -> None:
    digits = load_digits()
    X, y = digits.X_train.astype(np.float64), digits.y_train
    weights = np.random.default_rng(0).random(len(y))
    ours = SoftmaxClassifier(class_weight="balanced", solver="lbfgs", tol=1e-8).fit(X, y, weights)
    theirs = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-8).fit(X, y, weights)
    assert ours.stop_reason_ == "converged"
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


@cpu_only
@pytest.mark.parametrize(("dtype", "tol", "words"), [("float32", 1e-12, "float64"), ("float64", 1e-9, "max_iter")])
def test_a_warning_says_how_far_the_gradient_is_and_what_helps(
    dtype: str, tol: float, words: str, small: tuple[Any, Any]
) -> None:
    X, y = small
    model = SoftmaxClassifier(solver="lbfgs", tol=tol, max_iter=60 if dtype == "float32" else 2)
    with pytest.warns(ConvergenceWarning, match=rf"largest entry of the gradient is .* above tol={tol:g}.*{words}"):
        model.fit(X.astype(dtype), y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("d", [3, 50], ids=["few features", "more than rows"])
def test_the_exact_solver_names_a_number_that_is_not_finite(bad: float, d: int, rng: np.random.Generator) -> None:
    X, y = rng.standard_normal((20, d)), np.arange(20) % 3
    X[7, 2] = bad
    for parameters in ({}, {"penalize_intercept": True}):
        with pytest.raises(ValueError, match=r"X\[7, 2\] is (nan|inf)"):
            SoftmaxClassifier(solver="lbfgs", **parameters).fit(X, y)


def test_the_exact_solver_has_no_use_for_a_loss_without_curvature(small: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"loss='hinge' has no curvature.*squared_hinge.*solver='sgd'"):
        LinearSVMClassifier(loss="hinge", solver="lbfgs").fit(*small)


def test_the_exact_solver_measures_a_validation_set_and_obeys_callbacks(small: tuple[Any, Any]) -> None:
    seen = []
    model = SoftmaxClassifier(solver="lbfgs", tol=0.0, callbacks=[lambda record: seen.append(record) or len(seen) == 3])
    model.fit(*small, validation=small)
    assert (model.stop_reason_, model.history_, len(seen)) == ("callback", seen, 3)
    assert seen[-1].validation_loss == pytest.approx(seen[-1].loss, rel=1e-6)


SETTINGS = {
    "default": {},
    "l2": {"l2": 0.05},
    "no intercept": {"fit_intercept": False},
    "penalised intercept": {"penalize_intercept": True},
    "standard": {"scaling": "standard"},
    "shift and scale": {"scaling": (0.5, np.array([1.0, 2.0, 0.5]))},
    "shift without a free intercept": {"scaling": (np.array([0.5, -1.0, 0.0]), None), "penalize_intercept": True},
    "scale without an intercept": {"scaling": (None, 2.0), "fit_intercept": False},
    "class weights": {"class_weight": {0: 3.0}},
}


@cpu_only
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize(("cls", "loss"), [(SoftmaxClassifier, "softmax"), (LinearSVMClassifier, "squared_hinge")])
@CONVERGING
def test_a_converged_fit_is_stationary_for_the_documented_objective(
    solver: str, cls: Any, loss: str, classes: int, settings: Any, small: tuple[Any, Any]
) -> None:
    X, y = small[0], small[1] % classes
    model = cls(**settings, **SOLVERS[solver]).fit(X, y)
    weights = np.where(y == 0, settings.get("class_weight", {0: 1.0})[0], 1.0)
    l2 = settings.get("l2", (2 if classes == 2 else 1) / weights.sum())
    scaling = settings.get("scaling")
    shift, scale = (X.mean(axis=0), X.std(axis=0)) if scaling == "standard" else (scaling or (None, None))
    shift = np.broadcast_to(0.0 if shift is None else shift, 3)
    scale = np.broadcast_to(1.0 if scale is None else scale, 3)
    W, b = per_class(model)
    b = b + shift @ W[:, 0]  # of the scaled features
    _, dW, db = reference.loss_and_gradient(
        X, y, W * scale[:, None, None], b, l2=l2, loss=loss, weights=weights, shift=shift, scale=scale,
        penalize_intercept=settings.get("penalize_intercept", False),
    )  # fmt: skip
    db = db if settings.get("fit_intercept", True) else 0 * db
    # two classes: published as a difference, which keeps the symmetric part of db only
    assert max(abs(dW).max(), abs(db - db.mean()).max()) < 1e-9


@pytest.mark.parametrize("classes", [2, 3])
def test_C_infinite_is_no_penalty(classes: int, small: tuple[Any, Any]) -> None:
    X, y = small[0], small[1] % classes
    np.testing.assert_array_equal(
        SoftmaxClassifier(C=math.inf, **SHORT).fit(X, y).coef_, SoftmaxClassifier(l2=0.0, **SHORT).fit(X, y).coef_
    )


def test_without_a_penalty_the_weights_are_centred_over_the_classes(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(l2=0.0, **SHORT).fit(*small)
    # the mean of three numbers around 1 is subtracted from each of them: a few units of 1e-16
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-14)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_a_free_intercept_is_centred_over_the_classes(cls: Any, small: tuple[Any, Any]) -> None:
    model = cls(**SHORT).fit(small[0] + 3, small[1])
    np.testing.assert_allclose(model.intercept_.sum(), 0, atol=1e-13)


@pytest.mark.parametrize(
    ("parameters", "over_W", "over_b"),
    [
        ({"l2": 0.0}, 3.0, 7.0),
        ({"l2": 0.1}, 0.0, 7.0),
        ({"l2": 0.0, "penalize_intercept": True}, 3.0, 0.0),
        ({"l2": 0.0, "fit_intercept": False}, 3.0, 0.0),
    ],
)
def test_what_the_objective_leaves_open_does_not_show(
    parameters: Any, over_W: float, over_b: float, small: tuple[Any, Any]
) -> None:
    # a solver may return any of the weights that differ by a shift over the classes
    X, y = small
    W, b = np.arange(9.0).reshape(3, 1, 3), np.array([[1.0, -1.0, 5.0]])
    models = []
    for shift_W, shift_b in ((0.0, 0.0), (over_W, over_b)):
        estimator = SoftmaxClassifier(**parameters)
        result = TrainResult(W + shift_W, b + shift_b, [], StopReason.FINISHED, 0.0, 0, [StopReason.FINISHED])
        models.append(
            set_fitted(estimator, prepare(estimator, read_features(X, get_backend("cpu")), y, None, None), result)
        )
    np.testing.assert_allclose(models[1].coef_, models[0].coef_, atol=1e-14)
    if "fit_intercept" not in parameters and "penalize_intercept" not in parameters:
        np.testing.assert_allclose(models[1].intercept_, models[0].intercept_, atol=1e-13)


def test_a_penalised_intercept_is_published_as_it_is(small: tuple[Any, Any]) -> None:
    estimator = SoftmaxClassifier(l2=0.1, penalize_intercept=True)
    problem = prepare(estimator, read_features(small[0], get_backend("cpu")), small[1], None, None)
    result = TrainResult(
        np.zeros((3, 1, 3)), np.array([[1.0, -1.0, 5.0]]), [], StopReason.FINISHED, 0.0, 0, [StopReason.FINISHED]
    )
    assert set_fitted(estimator, problem, result).intercept_.tolist() == [1.0, -1.0, 5.0]


def test_a_free_intercept_absorbs_the_mean_of_the_features(small: tuple[Any, Any]) -> None:
    # raw pixels lie around 120: SGD would crawl along their mean. 8 steps in float64, on numbers of size 100
    X, y = small
    np.testing.assert_allclose(
        SoftmaxClassifier(**SHORT).fit(X + 100, y).coef_, SoftmaxClassifier(**SHORT).fit(X, y).coef_, atol=1e-11
    )


def test_without_an_intercept_it_is_zero(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(fit_intercept=False, **SHORT).fit(*small)
    np.testing.assert_array_equal(model.intercept_, 0)


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_digits_are_told_apart(cls: Any, parameters: Any) -> None:
    digits = load_digits()
    model = cls(scaling="standard", schedule="cosine", max_iter=20, **parameters).fit(digits.X_train, digits.y_train)
    # 0.95 to 0.97 were measured; 300 rows carry a standard error of 0.012
    assert model.score(digits.X_test, digits.y_test) >= 0.94


@pytest.mark.parametrize(
    ("cls", "parameters", "expected"),
    [
        (SoftmaxClassifier, {}, math.log(3)),
        (LinearSVMClassifier, {}, 2.0),
        (LinearSVMClassifier, {"loss": "hinge"}, 2.0),
    ],
)
def test_the_first_objective_is_that_of_zero_weights(
    cls: Any, parameters: Any, expected: float, small: tuple[Any, Any]
) -> None:
    model = cls(batch_size="full", **SHORT, **parameters).fit(*small)
    assert model.loss_curve_[0] == pytest.approx(expected, rel=1e-14)


# weights


@cpu_only
@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
@pytest.mark.parametrize("scaling", [None, "standard"])
def test_an_integer_weight_equals_repeated_rows_step_by_step(
    cls: Any, parameters: Any, scaling: Any, small: tuple[Any, Any], rng: np.random.Generator
) -> None:
    X, y = small
    times = rng.integers(0, 4, len(y))
    settings = {"batch_size": "full", "learning_rate": 0.1, "tol": 0.0, "max_iter": 50, "scaling": scaling}
    weighted = cls(**settings, **parameters).fit(X, y, times)
    repeated = cls(**settings, **parameters).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-5)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=1e-5)


@pytest.mark.slow
@cpu_only
def test_an_integer_weight_equals_repeated_rows_at_the_optimum(
    small: tuple[Any, Any], rng: np.random.Generator
) -> None:
    X, y = small
    times = rng.integers(0, 4, len(y))
    weighted = SoftmaxClassifier(**CONVERGED).fit(X, y, times)
    repeated = SoftmaxClassifier(**CONVERGED).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-5)


@pytest.mark.slow
@cpu_only
def test_balanced_classes_count_weights_as_repeated_rows(small: tuple[Any, Any], rng: np.random.Generator) -> None:
    X, y = small
    times = rng.integers(1, 4, len(y)) + 3 * (y == 0)
    settings = {"class_weight": "balanced", **CONVERGED}
    weighted = SoftmaxClassifier(**settings).fit(X, y, times)
    repeated = SoftmaxClassifier(**settings).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-5)


def test_class_weight_multiplies_sample_weight(small: tuple[Any, Any], rng: np.random.Generator) -> None:
    X, y = small
    weights, factors = rng.random(len(y)), np.array([2.0, 1.0, 0.25])
    by_class = SoftmaxClassifier(class_weight=dict(enumerate(factors)), **SHORT).fit(X, y, weights)
    np.testing.assert_array_equal(by_class.coef_, SoftmaxClassifier(**SHORT).fit(X, y, weights * factors[y]).coef_)


def test_class_weights_go_by_the_users_labels(small: tuple[Any, Any]) -> None:
    X, codes = small
    named = SoftmaxClassifier(class_weight={"b": 5.0}, **SHORT).fit(X, np.array(["c", "b", "a"])[codes])
    coded = SoftmaxClassifier(class_weight={1: 5.0}, **SHORT).fit(X, 2 - codes)
    np.testing.assert_array_equal(named.coef_, coded.coef_)


def test_a_class_whose_weights_are_zero_stays_a_class(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(**SHORT).fit(X, y, (y != 1).astype(float))
    assert model.classes_.tolist() == [0, 1, 2]


# unscaled features, and types of X


@pytest.mark.parametrize("scaling", [None, "standard", (2.0, np.array([1.0, 3.0, 0.1])), (None, 4.0), (1.0, None)])
@pytest.mark.parametrize("classes", [2, 3])
def test_coef_belongs_to_raw_features(scaling: Any, classes: int, small: tuple[Any, Any]) -> None:
    X, y = 10 * small[0] + 100, small[1] % classes
    model = SoftmaxClassifier(scaling=scaling, **SHORT).fit(X, y)
    scores = X @ model.coef_.T + model.intercept_
    # products of size 1e3 at most, 4 terms, float64
    np.testing.assert_allclose(model.decision_function(X), scores[:, 0] if classes == 2 else scores, atol=1e-11)


@cpu_only
def test_standard_scaling_equals_standardised_data(small: tuple[Any, Any]) -> None:
    X, y = 10 * small[0] + 100, small[1]
    folded = SoftmaxClassifier(scaling="standard", **CONVERGED).fit(X, y)
    outside = SoftmaxClassifier(**CONVERGED).fit(standardised(X), y)
    np.testing.assert_allclose(folded.coef_ * X.std(axis=0), outside.coef_, atol=1e-9)


def test_a_constant_column_is_harmless_under_standard_scaling(small: tuple[Any, Any]) -> None:
    X = np.hstack([small[0], np.full((40, 1), 7.0)])
    model = SoftmaxClassifier(scaling="standard", **SHORT).fit(X, small[1])
    # 7 times a sum of 40 gradients that cancel to a few units of 1e-16
    np.testing.assert_allclose(model.coef_[:, 3], 0, atol=1e-13)


@cpu_only
@pytest.mark.parametrize("scaling", [None, "standard", (127.5, 64.0)])
@pytest.mark.parametrize("narrow", [np.uint8, np.float16, np.float32])
def test_narrow_features_give_the_model_of_their_float64_copy(
    narrow: Any, scaling: Any, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (300, 10)).astype(narrow)
    y = (pixels[:, 0] > 100).astype(int) + (pixels[:, 0] > 200)
    settings = {"scaling": scaling, "schedule": "constant", "max_iter": 20, "tol": 0.0}
    model = SoftmaxClassifier(**settings).fit(pixels, y)
    exact = SoftmaxClassifier(**settings).fit(pixels.astype(np.float64), y)
    # 40 steps in float32, each of which rounds by 6e-8 of the largest weight and passes errors on undamped: 2.4e-6
    np.testing.assert_allclose(model.coef_, exact.coef_, atol=1e-5 * abs(exact.coef_).max())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float64, np.float64), (np.float32, np.float32), (np.float16, np.float32), (np.uint8, np.float32)],
)
def test_the_type_of_computation_follows_the_features(dtype: Any, expected: Any, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**SHORT).fit(abs(small[0]).astype(dtype), small[1])
    assert (model.coef_.dtype, model.intercept_.dtype) == (expected, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
def test_features_may_be_readonly_and_stay_as_they_are(dtype: Any, small: tuple[Any, Any]) -> None:
    X = (10 * abs(small[0])).astype(dtype)
    before = X.copy()
    X.flags.writeable = False
    SoftmaxClassifier(scaling="standard", **SHORT).fit(X, small[1], validation=(X, small[1])).predict(X)
    np.testing.assert_array_equal(X, before)


def test_features_may_be_mapped_from_a_file(tmp_path: Path, small: tuple[Any, Any]) -> None:
    np.save(tmp_path / "X.npy", small[0])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = SoftmaxClassifier(**SHORT).fit(mapped, small[1])
    np.testing.assert_array_equal(model.coef_, SoftmaxClassifier(**SHORT).fit(*small).coef_)


@cpu_only
@pytest.mark.parametrize("batch_size", ["auto", "full"])
def test_features_are_not_copied(batch_size: Any, rng: np.random.Generator) -> None:
    X = rng.integers(0, 256, (100_000, 256), dtype=np.uint8)
    y = X[:, 0] // 64
    model = SoftmaxClassifier(scaling="standard", schedule="cosine", max_iter=1, batch_size=batch_size)
    model.fit(X[:1000], y[:1000]).predict(X[:1000])  # compiles
    tracemalloc.start()
    try:
        model.fit(X, y).predict(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 25.6 MB of X; labels, indices and scores are a few MB, and a copy in float32 would be 102
    assert peak < X.nbytes / 2


# labels, and two classes


LABELS = {
    "strings": np.array(["cat", "ant", "bee"]),
    "strings as objects": np.array(["cat", "ant", "bee"], dtype=object),
    "negative integers": np.array([3, -5, 0]),
    "floats": np.array([2.0, 1.0, 7.0]),
    "small integers": np.array([2, 1, 7], dtype=np.uint8),
    "two strings": np.array(["yes", "no"]),
    "two floats": np.array([2.0, 1.0]),
    "booleans": np.array([True, False]),
}


@cpu_only
@pytest.mark.parametrize("names", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_predictions_are_the_users_labels(cls: Any, names: Any, separate: tuple[Any, Any]) -> None:
    X, codes = separate
    y = names[codes % len(names)]
    keep = codes < len(names)
    predicted = cls(scaling="standard", schedule="cosine", max_iter=50).fit(X[keep], y[keep]).predict(X[keep])
    assert (predicted.dtype, predicted.tolist()) == (y.dtype, y[keep].tolist())


@pytest.mark.parametrize("names", LABELS.values(), ids=LABELS.keys())
def test_classes_are_the_sorted_labels(names: Any, separate: tuple[Any, Any]) -> None:
    X, codes = separate
    model = SoftmaxClassifier(**SHORT).fit(X, names[codes % len(names)])
    assert model.classes_.tolist() == sorted(names.tolist())


@pytest.mark.parametrize("y", [[0, 1] * 20, tuple("ab" * 20)], ids=["list", "tuple"])
def test_labels_may_be_a_sequence(y: Any, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**SHORT).fit(small[0], y)
    assert model.classes_.tolist() == sorted(set(y))


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
@pytest.mark.parametrize(("classes", "rows"), [(2, 1), (3, 3)])
def test_fitted_shapes(cls: Any, parameters: Any, classes: int, rows: int, small: tuple[Any, Any]) -> None:
    X, y = small[0], small[1] % classes
    model = cls(**SHORT, **parameters).fit(X, y)
    shapes = (model.classes_.shape, model.coef_.shape, model.intercept_.shape, model.decision_function(X).shape)
    assert shapes == ((classes,), (rows, 3), (rows,), (40,) if classes == 2 else (40, 3))


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_a_positive_score_means_the_second_class(cls: Any, parameters: Any, separate: tuple[Any, Any]) -> None:
    X, codes = separate
    y = np.array(["no", "yes"])[(codes == 2).astype(int)]
    model = cls(scaling="standard", schedule="cosine", max_iter=50, **parameters).fit(X, y)
    np.testing.assert_array_equal(model.decision_function(X) > 0, y == "yes")


def test_one_row_can_be_predicted(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**SHORT).fit(*small)
    assert model.predict(small[0][:1])[0] == model.predict(small[0])[0]


# probabilities


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_probabilities_are_the_softmax_of_the_scores(classes: int, dtype: Any, small: tuple[Any, Any]) -> None:
    X, y = small[0].astype(dtype), small[1] % classes
    model = SoftmaxClassifier(**SHORT).fit(X, y)
    z = model.decision_function(X).astype(float)
    z = np.stack([0 * z, z], axis=1) if classes == 2 else z
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_probabilities_sum_to_one(classes: int, dtype: Any, small: tuple[Any, Any]) -> None:
    X, y = small[0].astype(dtype), small[1] % classes
    sums = SoftmaxClassifier(**SHORT).fit(X, y).predict_proba(X).sum(axis=1)
    # three terms below 1, each exact to a few units in the last place
    np.testing.assert_allclose(sums, 1, atol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_log_probabilities_of_scores_of_ten_thousand_are_those_scores(
    classes: int, dtype: Any, small: tuple[Any, Any]
) -> None:
    X = np.eye(3, dtype=dtype)
    model = SoftmaxClassifier(**SHORT).fit(small[0].astype(dtype), small[1] % classes)
    model.coef_ = (1e4 * np.eye(3, dtype=dtype))[: len(model.coef_)]
    model.intercept_ = np.zeros_like(model.intercept_)
    expected = {
        2: [[-1e4, 0], [-math.log(2), -math.log(2)], [-math.log(2), -math.log(2)]],
        3: [[0, -1e4, -1e4], [-1e4, 0, -1e4], [-1e4, -1e4, 0]],
    }[classes]
    np.testing.assert_allclose(model.predict_log_proba(X), expected, rtol=4 * np.finfo(dtype).eps)


@cpu_only
@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba"])
def test_an_svm_has_no_probabilities(method: str) -> None:
    assert not hasattr(LinearSVMClassifier(), method)


# validation, history, stopping


@pytest.fixture
def overfitting(rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of fit: 30 rows of 20 features without much in them, and a validation set whose loss soon rises."""
    X, V = rng.standard_normal((30, 20)), rng.standard_normal((200, 20))
    return {
        "X": X,
        "y": (X[:, 0] + 2 * rng.standard_normal(30) > 0).astype(int),
        "validation": (V, (V[:, 0] + 2 * rng.standard_normal(200) > 0).astype(int)),
    }


def log_loss(model: Any, X: Any, y: Any) -> float:
    return float(-np.mean(model.predict_log_proba(X)[np.arange(len(y)), y]))


def test_the_weights_with_the_smallest_validation_loss_are_kept(overfitting: dict[str, Any]) -> None:
    model = SoftmaxClassifier(C=100, schedule="constant", max_iter=200, tol=0.0).fit(**overfitting)
    losses = [record.validation_loss for record in model.history_]
    assert losses.index(min(losses)) < len(losses) - 1  # or the test would say nothing
    assert log_loss(model, *overfitting["validation"]) == pytest.approx(min(losses), rel=1e-12)


@pytest.mark.parametrize(
    ("callbacks", "patience"), [([], 10), ([EarlyStopping(patience=3)], 3), ([EarlyStopping(patience=7)], 7)]
)
def test_training_stops_when_the_validation_loss_has_not_fallen(
    callbacks: Any, patience: int, overfitting: dict[str, Any]
) -> None:
    model = SoftmaxClassifier(
        C=100, schedule="constant", learning_rate=0.05, momentum=0.0, max_iter=500, tol=0.0, callbacks=callbacks
    ).fit(**overfitting)
    losses = [record.validation_loss for record in model.history_]
    # slow steps: the loss falls by more than 1e-4 a pass until close to its minimum, then rises for good
    progress = [i for i in range(1, len(losses)) if losses[i] < min(losses[:i]) - 1e-4]
    assert (model.stop_reason_, model.n_iter_ - 1 - progress[-1]) == ("early_stopping", patience)


def test_one_early_stopping_object_serves_many_fits(overfitting: dict[str, Any]) -> None:
    stopping = EarlyStopping(patience=3)
    settings = {"C": 100, "schedule": "constant", "max_iter": 200, "tol": 0.0, "callbacks": [stopping]}
    first, second = (SoftmaxClassifier(**settings).fit(**overfitting).n_iter_ for _ in range(2))
    assert first == second


def test_the_validation_set_may_have_another_type_than_the_training_set(small: tuple[Any, Any]) -> None:
    X, y = np.round(10 * small[0]), small[1]
    wide = SoftmaxClassifier(**SHORT).fit(X.astype(np.float32), y, validation=(X, y))
    same = SoftmaxClassifier(**SHORT).fit(X.astype(np.float32), y, validation=(X.astype(np.float32), y))
    assert wide.history_[-1].validation_loss == same.history_[-1].validation_loss


def test_validation_is_measured_without_class_weights(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(class_weight={0: 9.0}, schedule="cosine", max_iter=1).fit(X, y, validation=(X, y))
    assert model.history_[0].validation_loss == pytest.approx(log_loss(model, X, y), rel=1e-12)


def test_history_has_a_record_for_each_pass(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(batch_size=16, **SHORT).fit(*small)
    assert [(record.passes, record.step) for record in model.history_] == [(1, 3), (2, 6), (3, 9), (4, 12)]


def test_history_is_of_plain_numbers(small: tuple[Any, Any]) -> None:
    record = SoftmaxClassifier(**SHORT).fit(*small, validation=small).history_[-1]
    assert isinstance(record, Record)
    assert {type(value) for value in record.as_dict().values()} == {int, float}


def test_without_validation_its_measures_are_none(small: tuple[Any, Any]) -> None:
    record = SoftmaxClassifier(**SHORT).fit(*small).history_[-1]
    assert (record.validation_loss, record.validation_accuracy) == (None, None)


def test_the_objective_in_the_history_is_the_loss_plus_the_penalty(small: tuple[Any, Any]) -> None:
    X, y = small
    seen: list[Any] = []
    model = SoftmaxClassifier(l2=0.3, batch_size="full", callbacks=[seen.append], **SHORT).fit(X, y)
    again = SoftmaxClassifier(l2=0.3, batch_size="full", schedule="cosine", max_iter=4)
    again.callbacks = [lambda record: record.passes == 3]
    before = again.fit(X, y)  # the weights from which the fourth pass was measured
    W, b = per_class(before)
    loss, penalty = reference.loss_and_gradient(X, y, W, b)[0][0], 0.15 * (W**2).sum()
    assert (seen[3].loss, seen[3].objective) == pytest.approx((loss, loss + penalty), rel=1e-12)
    assert seen == model.history_


def test_fitted_attributes_summarise_the_history(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**SHORT).fit(*small)
    assert model.loss_curve_ == [record.objective for record in model.history_]
    assert model.n_iter_ == len(model.history_) == 4


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"schedule": "cosine", "max_iter": 3}, "finished"),
        ({"max_iter": 3, "tol": 0.0}, "finished"),
        ({"tol": 0.5}, "converged"),
        ({"callbacks": [lambda record: True]}, "callback"),
    ],
)
def test_the_stop_reason_says_why(parameters: Any, reason: str, small: tuple[Any, Any]) -> None:
    assert SoftmaxClassifier(**parameters).fit(*small).stop_reason_ == reason


def test_backend_says_who_computed_and_why(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(backend="numpy", **SHORT).fit(*small)
    assert model.backend_ == "numpy: asked for"


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("sgd", r"max_iter=3 passes: increase max_iter or tol, or set scaling"),
        ("lbfgs", r"above tol=1e-09; all max_iter=3 iterations were made: increase max_iter or tol"),
    ],
)
def test_max_iter_without_convergence_warns_of_it_by_name(solver: str, message: str, small: tuple[Any, Any]) -> None:
    with pytest.warns(ConvergenceWarning, match=message):
        SoftmaxClassifier(solver=solver, max_iter=3, tol=1e-9).fit(*small)


def test_the_convergence_warning_points_at_the_users_line(small: tuple[Any, Any]) -> None:
    with pytest.warns(ConvergenceWarning) as caught:
        SoftmaxClassifier(max_iter=3).fit(*small)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("parameters", [{"schedule": "cosine"}, {"schedule": "step"}, {"tol": 0.0}], ids=str)
def test_a_plan_that_is_carried_out_does_not_warn(parameters: Any, small: tuple[Any, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SoftmaxClassifier(max_iter=3, **parameters).fit(*small)
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_planned_schedule_takes_all_its_passes(schedule: str, small: tuple[Any, Any]) -> None:
    assert SoftmaxClassifier(schedule=schedule, max_iter=30, tol=10.0).fit(*small).n_iter_ == 30


@pytest.mark.parametrize(("schedule", "patience"), [("constant", 5), ("inverse", 5), ("adaptive", 15)])
def test_an_open_schedule_stops_after_passes_without_progress(
    schedule: str, patience: int, small: tuple[Any, Any]
) -> None:
    # no pass gains 10 nats: the first sets the mark, the others wait in vain
    assert SoftmaxClassifier(schedule=schedule, batch_size=4, max_iter=30, tol=10.0).fit(*small).n_iter_ == 1 + patience


@pytest.mark.parametrize("l2", [1e-2, 1e-4])
def test_gradient_descent_on_all_rows_goes_to_the_optimum(l2: float) -> None:
    # momentum takes the objective below what follows; the first such low once ended training, 3e-3 above the optimum
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4))
    y = np.digitize(X[:, 0] + 0.5 * rng.standard_normal(300), [-0.5, 0.5])
    best = SoftmaxClassifier(l2=l2, tol=1e-8).fit(X, y).fit_report_.objective
    model = SoftmaxClassifier(l2=l2, batch_size="full").fit(X, y)
    assert model.stop_reason_ == "converged"
    assert model.fit_report_.objective < best + 1e-6


def test_the_plain_hinge_comes_near_its_optimum_by_default() -> None:
    rng = np.random.default_rng(0)
    n, l2 = 300, 0.01
    X = rng.standard_normal((n, 4))
    y = X[:, 0] + 0.8 * rng.standard_normal(n) > 0
    # two classes are LinearSVC's problem: margins are those of w = w_1 - w_0, and ||W||^2 is ||w||^2 / 2
    theirs = LinearSVC(loss="hinge", C=2 / (l2 * n), fit_intercept=False, tol=1e-8, max_iter=10**6).fit(X, y)
    w = theirs.coef_[0]
    best = np.maximum(0, 1 - np.where(y, 1, -1) * (X @ w)).mean() + l2 / 4 * (w @ w)
    model = LinearSVMClassifier(loss="hinge", l2=l2, fit_intercept=False).fit(X, y)
    assert best - 1e-9 < model.fit_report_.objective < best + 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_by_returning_true(solver: str, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(solver=solver, callbacks=[lambda record: record.step >= 3]).fit(*small)
    assert (model.stop_reason_, model.history_[-1].step) == ("callback", 3)


@pytest.mark.parametrize(
    ("parameters", "solver"),
    [
        ({}, "lbfgs"), ({"batch_size": 7}, "sgd"), ({"momentum": 0.5}, "sgd"), ({"schedule": "cosine"}, "sgd"),
        ({"loss": "hinge"}, "sgd"), ({"loss": "squared_hinge"}, "lbfgs"), ({"solver": "sgd"}, "sgd"),
    ],
    ids=str,
)  # fmt: skip
def test_the_automatic_solver_is_the_exact_one_unless_only_sgd_will_do(
    parameters: Any, solver: str, small: tuple[Any, Any]
) -> None:
    cls = LinearSVMClassifier if "loss" in parameters else SoftmaxClassifier
    assert cls(max_iter=40, tol=0.0, **parameters).fit(*small).fit_report_.solver == solver


# ---- where training starts


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scaling", [None, "standard"])
def test_training_that_starts_at_the_optimum_stays_there(classes: int, scaling: Any) -> None:
    X, y = iris(classes)
    X = 3 * X + 5
    settings = {"C": 0.5, "scaling": scaling, "tol": 1e-7}
    first = SoftmaxClassifier(**settings).fit(X, y)
    again = SoftmaxClassifier(**settings).fit(X, y, start_from=first)
    assert first.n_iter_ > 1
    assert again.n_iter_ == 0
    np.testing.assert_allclose(again.coef_, first.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(again.intercept_, first.intercept_, rtol=1e-9, atol=1e-12)


def test_a_model_of_scikit_learn_is_a_start_too() -> None:
    X, y = iris(3)
    theirs = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit(X, y)
    assert SoftmaxClassifier(C=0.5, tol=1e-5).fit(X, y, start_from=theirs).n_iter_ == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_warm_start_goes_on_from_the_models_own_weights(solver: str) -> None:
    X, y = iris(3)
    model = SoftmaxClassifier(warm_start=True, **SOLVERS[solver] | {"tol": 0.0, "max_iter": 4}).fit(X, y)
    before = model.loss_curve_[-1]
    assert model.fit(X, y).loss_curve_[0] <= before * (1 + 1e-12)
    assert model.set_params(warm_start=False).fit(X, y).loss_curve_[0] == pytest.approx(np.log(3))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@cpu_only
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (SoftmaxClassifier, {}),
        (SoftmaxClassifier, {"fit_intercept": False}),
        (SoftmaxClassifier, {"scaling": "standard"}),
        (SoftmaxClassifier, {"solver": "sgd", "batch_size": 16}),
        (LinearSVMClassifier, {}),
        (LinearSVMClassifier, {"loss": "hinge", "batch_size": 16}),
    ],
    ids=str,
)
def test_a_loop_of_single_iterations_learns(cls: Any, parameters: Any, classes: int, dtype: Any) -> None:
    X, y = iris(classes)
    model = cls(max_iter=1, warm_start=True, **parameters)
    for _ in range(20):
        model.fit(X.astype(dtype), y)
        assert model.n_iter_ <= 1
    whole = cls(**{**parameters, "max_iter": 100}).fit(X.astype(dtype), y)
    assert model.score(X, y) >= whole.score(X, y) - 0.04  # single steps have no memory, and come near slowly


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_single_steps_from_near_the_optimum_come_nearer() -> None:
    X, y = iris(3)
    model = SoftmaxClassifier(tol=1e-2).fit(X, y)
    model.set_params(tol=1e-9, max_iter=1, warm_start=True)
    reached = [model.fit(X, y).fit_report_.objective for _ in range(4)]
    assert (np.diff(reached) < 0).all()  # without L-BFGS's memory of earlier steps, which each fit makes anew


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_that_are_averaged_by_hand_learn_from_all_parts() -> None:
    X, y = iris(3)
    parts = [slice(start, None, 3) for start in range(3)]
    models = [SoftmaxClassifier(max_iter=1, warm_start=True) for _ in parts]
    for _ in range(15):
        for model, part in zip(models, parts, strict=True):
            model.fit(X[part], y[part])
        means = [np.mean([getattr(model, name) for model in models], axis=0) for name in ("coef_", "intercept_")]
        for model in models:
            model.coef_, model.intercept_ = means
    assert models[0].score(X, y) > 0.9


@pytest.mark.parametrize("other", [SVC(kernel="linear"), RandomForestClassifier(3), "zero"], ids=lambda x: str(x)[:12])
def test_a_start_that_is_no_linear_classifier_is_refused(other: Any) -> None:
    X, y = iris(3)
    X, y = np.vstack([X, X + 9]), np.append(y, np.full(len(y), 3))  # of four classes SVC has six pairs
    if hasattr(other, "fit"):
        other.fit(X, y)
    with pytest.raises(ValueError, match=r"start_from is a .* one row of weights per class"):
        SoftmaxClassifier().fit(X, y, start_from=other)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinite"), (1e200, "not finite at the start")])
def test_a_start_of_unusable_numbers_is_refused(value: float, message: str) -> None:
    X, y = iris(3)
    start = SoftmaxClassifier().fit(X, y)
    start.coef_[0, 0] = value
    with pytest.raises((ValueError, DivergenceError), match=message):
        SoftmaxClassifier().fit(X, y, start_from=start)


def test_a_warm_start_without_an_intercept_drops_it() -> None:
    X, y = iris(3)
    first = SoftmaxClassifier().fit(X + 2, y)
    again = SoftmaxClassifier(fit_intercept=False).fit(X + 2, y, start_from=first)
    assert not again.intercept_.any()


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (2, [0, 1, 2], r"X has 2 features, but the model .* has 4; fit from zero"),
        (4, [0, 1, 5], r"y has the classes \[0, 1, 5\], but the model .* has \[0, 1, 2\]"),
        (4, [0, 1, 1], r"y has the classes \[0, 1\], but"),
    ],
)
def test_a_start_of_another_shape_is_refused_and_the_model_stays(columns: int, names: list[int], message: str) -> None:
    X, y = iris(3)
    model = SoftmaxClassifier(warm_start=True).fit(X, y)
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier().fit(X[:, :columns], np.array(names)[y], start_from=model)
    np.testing.assert_array_equal(model.coef_, before)


def test_every_callback_is_told_of_every_pass(small: tuple[Any, Any]) -> None:
    told: list[list[float]] = [[], []]
    callbacks = [
        lambda record: told[0].append(record.passes),
        lambda record: record.passes >= 4,
        lambda record: told[1].append(record.passes),
    ]
    SoftmaxClassifier(callbacks=callbacks).fit(*small)
    assert told == [[3, 4], [3, 4]]  # the first reads of so few rows are for the preconditioner and for Newton's steps


def test_ctrl_c_ends_training_and_is_the_stop_reason(ctrl_c: Any, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(callbacks=[lambda record: record.step == 3 and ctrl_c(record)]).fit(*small)
    assert (model.stop_reason_, model.history_[-1].step) == ("interrupted", 3)


def test_after_ctrl_c_the_model_predicts(ctrl_c: Any, small: tuple[Any, Any]) -> None:
    assert SoftmaxClassifier(callbacks=[ctrl_c]).fit(*small).predict(small[0]).shape == (40,)


def test_ctrl_c_is_pythons_own_again_after_a_fit(ctrl_c: Any, small: tuple[Any, Any]) -> None:
    SoftmaxClassifier(callbacks=[ctrl_c]).fit(*small)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_quits_at_once(ctrl_c: Any, small: tuple[Any, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        SoftmaxClassifier(callbacks=[lambda record: (ctrl_c(record), ctrl_c(record))]).fit(*small)


def test_a_learning_rate_that_is_too_large_is_an_error_with_advice(small: tuple[Any, Any]) -> None:
    with pytest.raises(DivergenceError, match=r"learning_rate=.*Use a learning_rate ten times smaller") as caught:
        SoftmaxClassifier(learning_rate=1e6).fit(*small)
    assert caught.value.result.reason == "diverged"


def test_a_start_that_is_too_large_for_the_type_is_an_error_with_advice(small: tuple[Any, Any]) -> None:
    X, y = small
    start = SoftmaxClassifier().fit(X, y)
    start.coef_ = start.coef_ * 1e37
    with pytest.raises(DivergenceError, match=r"not finite at the start.*pass X in float64"):
        SoftmaxClassifier().fit(X.astype(np.float32), y, start_from=start)


# reproducibility


def bits(model: Any) -> bytes:
    return bytes(model.coef_.tobytes() + model.intercept_.tobytes())


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_two_fits_give_equal_bits(cls: Any, parameters: Any, small: tuple[Any, Any]) -> None:
    first, second = (cls(batch_size=8, **SHORT, **parameters).fit(*small) for _ in range(2))
    assert bits(first) == bits(second)


@pytest.mark.parametrize("state", [lambda: None, lambda: 7, lambda: np.random.RandomState(7)])
def test_equal_random_states_give_equal_bits(state: Any, small: tuple[Any, Any]) -> None:
    first, second = (SoftmaxClassifier(batch_size=8, random_state=state(), **SHORT).fit(*small) for _ in range(2))
    assert bits(first) == bits(second)


def test_different_random_states_differ(small: tuple[Any, Any]) -> None:
    models = [SoftmaxClassifier(batch_size=8, random_state=seed, **SHORT).fit(*small) for seed in range(3)]
    assert len({bits(model) for model in models}) == 3


def test_random_state_none_is_zero(small: tuple[Any, Any]) -> None:
    none, zero = (SoftmaxClassifier(batch_size=8, random_state=state, **SHORT).fit(*small) for state in (None, 0))
    assert bits(none) == bits(zero)


@pytest.fixture(scope="module")
def several_leaves() -> tuple[Any, Any]:
    """1700 rows of 4096 features: leaves of 512 rows each, and a shorter one."""
    X = np.random.default_rng(0).integers(0, 256, (1700, 4096), dtype=np.uint8)
    return X, X[:, 0] // 64


@pytest.mark.slow
@cpu_only
@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_the_number_of_threads_does_not_change_a_bit(name: str, several_leaves: tuple[Any, Any]) -> None:
    settings = {"backend": name, "scaling": "standard", "batch_size": "full", "schedule": "cosine", "max_iter": 2}
    models = [SoftmaxClassifier(n_threads=t, **settings).fit(*several_leaves) for t in (1, 2, 3, 7)]
    assert len({bits(model) for model in models}) == 1


@cpu_only
@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_the_number_of_threads_does_not_change_a_prediction(name: str, several_leaves: tuple[Any, Any]) -> None:
    X, y = several_leaves
    model = SoftmaxClassifier(backend=name, scaling="standard", schedule="cosine", max_iter=1).fit(X[:300], y[:300])
    scores = [model.set_params(n_threads=t).decision_function(X).tobytes() for t in (1, 2, 3, 7)]
    assert len(set(scores)) == 1


@cpu_only
def test_the_environment_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", "3")
    assert get_backend().n_threads == 3


@cpu_only
def test_n_threads_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", "3")
    assert get_backend(n_threads=2).n_threads == 2


@cpu_only
def test_the_estimator_follows_the_environment(monkeypatch: pytest.MonkeyPatch, small: tuple[Any, Any]) -> None:
    used = []

    def spy(backend: Any, n_threads: Any, **arrays: Any) -> Any:
        used.append(get_backend(backend, n_threads).n_threads)
        return get_backend(backend, n_threads)

    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", "3")
    for module in ("cluster.placing", "estimators.prediction"):
        monkeypatch.setattr(f"gpusoftmax.{module}.get_backend_for", spy)
    SoftmaxClassifier(**SHORT).fit(*small).predict(small[0])
    assert used == [3, 3]


# scikit-learn's manners


EVERY_PARAMETER = {
    "C": 2.0, "fit_intercept": False, "penalize_intercept": False, "scaling": (None, 2.0), "class_weight": {0: 2.0},
    "label_smoothing": 0.0, "solver": "sgd", "max_iter": 3, "tol": 0.0, "batch_size": 8, "learning_rate": 0.01,
    "momentum": 0.5, "nesterov": False, "schedule": "constant", "random_state": 5, "warm_start": True,
    "backend": "numpy", "n_threads": 1, "callbacks": (), "verbose": 0, "l2": None,
}  # fmt: skip


@cpu_only
@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_parameters_come_back_as_they_were_passed(cls: Any) -> None:
    parameters = cls(**EVERY_PARAMETER).get_params()
    loss = parameters.pop("loss")
    assert (parameters, loss in cls._losses) == (EVERY_PARAMETER, True)


def test_set_params_is_obeyed_by_the_next_fit(small: tuple[Any, Any]) -> None:
    changed = SoftmaxClassifier().set_params(**EVERY_PARAMETER).fit(*small)
    assert bits(changed) == bits(SoftmaxClassifier(**EVERY_PARAMETER).fit(*small))


def test_a_clone_is_unfitted_and_fits_the_same(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**EVERY_PARAMETER).fit(*small)
    twin = clone(model)
    assert not hasattr(twin, "coef_")
    assert bits(twin.fit(*small)) == bits(model)


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_a_pickled_model_predicts_the_same(cls: Any, parameters: Any, small: tuple[Any, Any]) -> None:
    model = cls(callbacks=[EarlyStopping()], **SHORT, **parameters).fit(*small, validation=small)
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.decision_function(small[0]).tobytes() == model.decision_function(small[0]).tobytes()


def test_fit_returns_the_estimator(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(**SHORT)
    assert model.fit(*small) is model


def test_a_second_fit_forgets_the_first(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(**SHORT).fit(np.hstack([X, X]), y)
    assert bits(model.fit(X, y % 2)) == bits(SoftmaxClassifier(**SHORT).fit(X, y % 2))


def test_the_number_of_features_is_recorded(small: tuple[Any, Any]) -> None:
    assert SoftmaxClassifier(**SHORT).fit(*small).n_features_in_ == 3


def not_for_us(estimator: Any, check: Any) -> bool:
    """Whether a check of scikit-learn's asks for what SGD cannot do: it compares n rows with weights to other rows in
    their place, which are visited in another order. The exact solver passes all of them."""
    name = getattr(check, "func", check).__name__
    return name.startswith("check_sample_weight_equivalence_on_") and choose_solver(estimator).name == "sgd"


def scikit_learns_checks() -> list[Any]:
    """Every check of scikit-learn's for every estimator on the CPU, and for the exact softmax classifier on a GPU."""
    estimators = [
        ("CPU", SoftmaxClassifier()),
        ("CPU", SoftmaxClassifier(solver="sgd")),
        ("CPU", LinearSVMClassifier()),
        ("CPU", LinearSVMClassifier(loss="hinge")),
        ("GPU", SoftmaxClassifier()),
    ]
    return [
        pytest.param(
            device,
            estimator,
            check,
            id=f"{device}-{getattr(check, 'func', check).__name__}-{estimator.loss}-{estimator.solver}",
            marks=pytest.mark.emulated if device == "GPU" else (),
        )
        for device, one in estimators
        for estimator, check in estimator_checks_generator(one)
        if not not_for_us(estimator, check)
    ]


@pytest.mark.parametrize(("device", "estimator", "check"), scikit_learns_checks(), indirect=["device"])
def test_scikit_learns_own_check(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks stop fits after a few passes
        check(estimator)


# silence


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_a_fit_is_silent(cls: Any, parameters: Any, small: tuple[Any, Any], capfd: Any) -> None:
    cls(**SHORT, **parameters).fit(*small, validation=small).predict(small[0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, True])
def test_verbose_shows_passes_on_the_standard_error_alone(verbose: Any, small: tuple[Any, Any], capfd: Any) -> None:
    SoftmaxClassifier(verbose=verbose, **SHORT).fit(*small)
    out, err = capfd.readouterr()
    assert (out, re.findall(r"pass \d of \d", err)) == ("", ["pass 1 of 4", "pass 4 of 4"])


def test_the_log_says_who_computes_and_why_it_ended(small: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="gpusoftmax"):
        SoftmaxClassifier(backend="numpy", **SHORT).fit(*small)
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "backend numpy: asked for",
        "memory: X takes 0.0 MB; a pass over it at most 0.0 MB more",
        "finished after 4.00 passes",
    ]


@cpu_only
def test_the_two_estimators_take_the_same_parameters() -> None:
    assert list(SoftmaxClassifier().get_params()) == list(LinearSVMClassifier().get_params())
