"""Means and standard deviations of columns, compared with mpmath; and columns that are constant up to rounding."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, sweep
from gpusoftmax.array import Backend
from gpusoftmax.estimators.partial_fit import Moments
from gpusoftmax.estimators.problem import constant_columns, load, objective_for
from gpusoftmax.features.read import read_features
from tests.support.cases import Array

EPS = float(np.finfo(np.float64).eps)
N = 40


def exact_moments(X: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and variance of the columns, in 60 digits."""
    with mpmath.workdps(60):
        s = [mpmath.mpf(float(w)) for w in weights]
        total, means, variances = mpmath.fsum(s), [], []
        for column in X.T:
            x = [mpmath.mpf(float(value)) for value in column]
            mean = mpmath.fsum(a * b for a, b in zip(s, x, strict=True)) / total
            means.append(float(mean))
            variances.append(float(mpmath.fsum(a * (b - mean) ** 2 for a, b in zip(s, x, strict=True)) / total))
    return np.array(means), np.array(variances)


def moments_of(X: Array, weights: Array | None, backend: Backend) -> Any:
    """What a fit knows of the columns."""
    estimator = SoftmaxClassifier(scaling="standard")
    return objective_for(estimator, load(estimator, read_features(X, backend), np.arange(len(X)) % 2, weights), None)[2]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8"])
@pytest.mark.parametrize("weighted", ["equal", "random", "some zero", "one large", "a tiny first"])
def test_moments_are_those_of_mpmath(dtype: str, weighted: str, backend: Backend) -> None:
    """Offsets up to 1e8 deviations, in any order of rows.

    The error of the mean is that of n additions of numbers as far from the mean as the row that differences are taken
    from is at most, and that of the variance of their squares.
    """
    rng = np.random.default_rng(0)
    scales, offsets = np.array([1e-3, 1.0, 1e3, 1.0, 1.0]), np.array([0.0, 5.0, 1e5, 1e4, 1e8])
    x = offsets + scales * rng.standard_normal((N, 5))
    x[3, 3] = 4e4  # an outlier
    if dtype in ("float16", "uint8"):
        x = np.clip(x, 0, 255 if dtype == "uint8" else 6e4)
    weights: Array | None = {
        "equal": None, "random": rng.random(N) + 0.1, "some zero": rng.random(N) * (np.arange(N) % 3 > 0),
        "one large": np.where(np.arange(N) == 5, 1e3, 1.0), "a tiny first": np.where(np.arange(N) == 0, 1e-25, 1.0),
    }[weighted]  # fmt: skip
    if weighted == "a tiny first":
        x[0] = 250
    for order in (np.arange(N), np.argsort(x[:, 3], kind="stable"), np.argsort(-x[:, 3], kind="stable")):
        rows = np.ascontiguousarray(x[order]).astype(dtype)
        s = None if weights is None else weights[order].astype("f8" if dtype == "float64" else "f4")
        mean, variance = exact_moments(rows, np.ones(N) if s is None else s)
        found = moments_of(rows, s, backend)
        counted = rows if s is None else rows[s > 1e-3 * s.mean()]
        reach = abs(counted.astype("f8") - mean).max(axis=0)
        mean_error = 4 * N * EPS * reach + 2 * EPS * abs(mean)
        assert (abs(found.mean - mean) <= mean_error).all()
        assert (abs(found.variance - variance) <= 8 * N * EPS * reach**2 + mean_error**2).all()


def test_a_first_row_of_next_to_no_weight_does_not_set_the_scale(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, 3)), np.arange(N) % 2
    weights = np.ones(N)
    weights[0] = 1e-30
    expected = SoftmaxClassifier(scaling="standard", tol=1e-10, backend=backend).fit(X, y, weights)
    X[0] = 1e9
    found = SoftmaxClassifier(scaling="standard", tol=1e-10, backend=backend).fit(X, y, weights)
    # its part in the variance is 1e-30 1e18 / n
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-8)


COLUMNS = {
    "rounding": lambda rng: np.where(rng.random(200) < 0.5, 0.3, 0.1 + 0.2),
    "rounding of a spreadsheet": lambda rng: (a := rng.random(200)) * 3 / a,
    "one large number": lambda rng: np.full(200, 1e6),
    "one number that is no binary fraction": lambda rng: np.full(200, 0.1),
    "zeros": lambda rng: np.zeros(200),
}
MODELS: dict[str, Any] = {
    "softmax": SoftmaxClassifier(),
    "standardised": SoftmaxClassifier(scaling="standard"),
    "standardised without intercept": SoftmaxClassifier(scaling="standard", fit_intercept=False),
    "standardised with penalised intercept": SoftmaxClassifier(scaling="standard", penalize_intercept=True),
    "smoothed": SoftmaxClassifier(scaling="standard", label_smoothing=0.1),
    "squared hinge": LinearSVMClassifier(scaling="standard"),
    "minibatches": SoftmaxClassifier(
        scaling="standard", batch_size=20, learning_rate=0.1, label_smoothing=0.1, max_iter=5, tol=0
    ),
    "no penalty": SoftmaxClassifier(scaling="standard", l2=0.0, max_iter=5, tol=0),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("model", MODELS)
def test_a_column_of_one_number_has_weight_zero_and_changes_nothing(model: str, column: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((200, 3)), COLUMNS[column](rng)
    y = (X[:, 0] + rng.standard_normal(200) > 0).astype(int)
    wide = np.column_stack([X[:, :2], noise, X[:, 2]]).astype(dtype)
    found, expected = MODELS[model].fit(wide, y).coef_.copy(), MODELS[model].fit(X.astype(dtype), y).coef_
    assert found[0, 2] == 0
    # sums over three and four columns round differently; a solver may stop a step apart: tol is 1e-4
    np.testing.assert_allclose(found[:, [0, 1, 3]], expected, atol=2e-3)


def test_where_the_learning_rate_is_automatic_too_a_column_of_one_number_has_weight_zero() -> None:
    """Nothing more: the search for the rate starts from a random vector with a number for each column."""
    rng = np.random.default_rng(0)
    X, y = np.column_stack([rng.standard_normal((200, 2)), COLUMNS["rounding"](rng)]), np.arange(200) % 2
    assert SoftmaxClassifier(scaling="standard", batch_size=20, max_iter=5, tol=0).fit(X, y).coef_[0, 2] == 0


def test_a_column_of_one_number_has_weight_zero_on_a_gpu(gpu: None) -> None:
    rng = np.random.default_rng(0)
    X, y = np.column_stack([rng.standard_normal((50, 2)), np.full(50, 1e6)]).astype("f4"), np.arange(50) % 2
    for model in (SoftmaxClassifier(scaling="standard"), SoftmaxClassifier(batch_size=10, max_iter=2, tol=0)):
        assert model.set_params(backend="cuda").fit(X, y).coef_[0, 2] == 0


def test_scikit_learns_standardised_fit_is_ours_where_a_column_is_constant_but_for_rounding() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    y = (X[:, 0] + rng.standard_normal(500) > 0).astype(int)
    wide = np.column_stack([X, np.where(rng.random(500) < 0.5, 0.3, 0.1 + 0.2)])
    ours = SoftmaxClassifier(scaling="standard", tol=1e-8).fit(wide, y)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(wide, y)
    np.testing.assert_allclose(ours.predict_proba(wide), theirs.predict_proba(wide), atol=1e-6)


def test_a_column_that_varies_little_about_a_large_mean_is_no_constant() -> None:
    """Times in seconds since 1970, within a few hours: scikit-learn standardises them, too."""
    rng = np.random.default_rng(0)
    late = rng.random(300) < 0.5
    times = 1.7e9 + 3600 * late + rng.random(300)
    model = SoftmaxClassifier(scaling="standard").fit(times[:, None], late)
    assert model.score(times[:, None], late) == 1.0


def test_folds_have_their_own_constant_columns() -> None:
    """What varies in one fold alone has weight 0 where that is held out."""
    rng = np.random.default_rng(0)
    X, y = np.column_stack([rng.standard_normal((90, 2)), np.full(90, 7.0)]), np.arange(90) % 3
    X[:30, 2] = rng.standard_normal(30)
    fold = np.repeat([0, 1, 2], 30)
    cv = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    found = sweep(SoftmaxClassifier(scaling="standard"), {"C": [0.1, 1.0]}, X, y, cv=cv, keep_models=True)
    assert not found.models_[0, 0].coef_[:, 2].any()
    assert found.models_[1, 0].coef_[:, 2].any()


def test_a_warm_start_forgets_the_weight_of_a_column_that_is_constant_by_now() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 3)), np.arange(90) % 3
    first = SoftmaxClassifier(scaling="standard").fit(X, y)
    X[:, 1] = 5.0
    again = SoftmaxClassifier(scaling="standard").fit(X, y, start_from=first)
    assert not again.coef_[:, 1].any()
    np.testing.assert_allclose(again.coef_, SoftmaxClassifier(scaling="standard").fit(X, y).coef_, atol=1e-3)


def test_constant_is_what_deviates_by_no_more_than_rounding() -> None:
    deviations = np.array([0.0, 1e-16, 1e-13, 1e-9, 1e-6])  # of columns of mean 1, of 100 rows
    moments = Moments(100, 100.0, np.ones(5), deviations**2)
    assert constant_columns(moments, np.float64).tolist() == [True, True, False, False, False]
    assert constant_columns(moments, np.float32).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("scaling", [None, "standard"])
def test_squares_that_overflow_are_told_by_row_and_column(scaling: Any, backend: Backend) -> None:
    X = np.random.default_rng(0).standard_normal((20, 3))
    X[4, 1], X[5, 1] = 1e200, -1e300
    with pytest.raises(ValueError, match=r"X\[5, 1\] is -1e\+300: the squares of this column overflow; divide"):
        SoftmaxClassifier(scaling=scaling, backend=backend).fit(X, np.arange(20) % 2)


def test_the_advice_of_a_fit_that_rounding_stopped_is_not_what_was_done_already() -> None:
    rng = np.random.default_rng(0)
    X, y = (1e5 + rng.standard_normal((300, 3))).astype("f4"), np.arange(300) % 2
    with pytest.warns(UserWarning, match="pass X in float64") as caught:
        SoftmaxClassifier(scaling="standard", tol=1e-9).fit(X, y)
    assert "scaling='standard'" not in str(caught[0].message)


def test_the_advice_of_a_fit_that_rounding_stopped_names_a_column_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 3)), np.arange(300) % 2
    X[:, 1] += 1e6
    with pytest.warns(UserWarning, match=r"subtract the mean of column 1 \(1e\+06, 1e\+06 times its deviation\)"):
        SoftmaxClassifier(tol=1e-9).fit(X.astype("f4"), y)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (1e38, r"sums of this column overflow in float32"),
        (1e-42, r"of column 2 of X is 9.7e-43, .* by in float32; multiply"),
    ],
)
def test_columns_without_weights_in_float32_are_told_of(size: float, words: str, backend: Backend) -> None:
    X = np.random.default_rng(0).standard_normal((20, 3))
    X[:, 2] = size * (np.arange(20) % 3 - 1) * 1.2
    model = SoftmaxClassifier(scaling="standard", backend=backend)
    with pytest.raises(ValueError, match=words):
        model.fit(X.astype("f4"), np.arange(20) % 2)
    model.fit(X, np.arange(20) % 2)  # float64 has the range
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize(("size", "dtype"), [(2e38, "float32"), (1e200, "float64")])
def test_a_constant_column_may_be_of_any_size(size: float, dtype: str, backend: Backend) -> None:
    X = np.random.default_rng(0).standard_normal((20, 3)).astype(dtype)
    X[:, 1] = size
    model = SoftmaxClassifier(scaling="standard", tol=1e-6, backend=backend)
    found = model.fit(X, np.arange(20) % 2).coef_[0]
    assert found[1] == 0
    expected = model.fit(X[:, ::2], np.arange(20) % 2).coef_[0]
    # both gradients of 6 numbers are below tol, and l2 = 1 / 20: each is within 1e-6 sqrt(6) 20 of the optimum
    np.testing.assert_allclose(found[::2], expected, atol=1e-4)
