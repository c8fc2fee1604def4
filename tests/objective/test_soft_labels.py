"""Soft labels and label smoothing: the objective compared with the reference, the estimator with repeated rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu import threads
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.objective.objective import Objective
from gpusoftmax.objective.soft_labels import with_soft_labels
from gpusoftmax.solvers import LBFGS
from gpusoftmax.solvers.certificate import certify
from tests.support.cases import (
    DTYPES,
    INTERCEPTS,
    Array,
    assert_bounds_hold,
    assert_within,
    blobs,
    evaluated,
    objective_of,
    random_problem,
    run,
    sha256,
)
from tests.support.marks import on_each_device

D, CLASSES = 6, 4
EXACT = {"tol": 1e-10, "max_iter": 500}


def proportions(seed: int, n: int, c: int = CLASSES) -> Array:
    """Rows that sum to 1, some of them nearly all of one class."""
    return np.random.default_rng(seed).dirichlet(np.full(c, 0.5), n)


def smoothed(P: Array, smoothing: float) -> Array:
    return (1 - smoothing) * P + smoothing / P.shape[1]


def softened(problem: Any, P: Array, backend: Backend, smoothing: float = 0.0, **options: Any) -> Objective:
    """The objective of a random problem's features with the soft labels P."""
    K = problem.W.shape[1]
    hard = objective_of(
        problem.X,
        P.argmax(axis=1),
        backend,
        c=P.shape[1],
        K=K,
        weights=problem.weights,
        l2=np.arange(K) / 10,
        **options,
    )
    return with_soft_labels(hard, P, smoothing)


# the objective


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_objective_of_soft_labels_equals_the_reference(
    backend: Backend, dtype: str, K: int, scaled: bool, smoothing: float
) -> None:
    n = 50
    problem = random_problem(K, dtype=dtype, n=n, d=D, c=CLASSES, K=K, weighted=K == 2)
    x, P = problem.X.astype(np.float64), proportions(0, n)
    shift, scale = (x.mean(axis=0), x.std(axis=0)) if scaled else (np.zeros(D), np.ones(D))
    W, b = problem.W * scale[:, None, None].astype(problem.W.dtype), problem.b
    given = {"shift": shift, "scale": scale} if scaled else {}
    found = evaluated(softened(problem, P.astype(problem.W.dtype), backend, smoothing, **given), W, b)
    f, dW, db = reference.loss_and_gradient(
        x, smoothed(P, smoothing), W, b, l2=np.arange(K) / 10, weights=problem.weights, shift=shift, scale=scale
    )
    # scores, and so probabilities, are off by the roundings of their terms; each sum over rows by sqrt(n) of its own
    eps = np.finfo(W.dtype).eps
    reach = (np.abs(x).max(axis=0) + np.abs(shift)) / scale
    score_off = 4 * np.sqrt(D + 2) * eps * (np.einsum("p,pkj->kj", reach, np.abs(W)) + np.abs(b)).max()
    slope_off = score_off + 3 * 4 * np.sqrt(n) * eps  # hard labels', those at zero, and the proportions'
    bound = slope_off * reach[:, None, None] + 4 * eps * np.abs(W)
    value_off = (bound * np.abs(W)).sum(axis=(0, 2)) + slope_off * np.abs(b).sum(axis=1) + 16 * eps * f
    assert_within(found.value, f, value_off, "value")
    assert_within(found.dW, dW, bound, "dW")
    assert_within(found.db, db, slope_off, "db")


@pytest.mark.parametrize("options", INTERCEPTS.values(), ids=INTERCEPTS)
def test_the_gradient_of_soft_labels_is_that_of_the_value(backend: Backend, options: Any) -> None:
    problem = random_problem(2, dtype="float64", n=30, d=3, c=3, K=2, weighted=True)
    shift, scale = np.full(3, 0.5), np.array([1.0, 2.0, 0.5])
    objective = softened(problem, proportions(1, 30, 3), backend, 0.1, shift=shift, scale=scale, **options)
    here, h = evaluated(objective, problem.W, problem.b), 1e-5
    for array, gradient in ((problem.W, here.dW), (problem.b, here.db)):
        for index in np.ndindex(array.shape):
            k, old = index[-2], array[index]
            array[index] = old + h
            above = evaluated(objective, problem.W, problem.b).value[k]
            array[index] = old - h
            below = evaluated(objective, problem.W, problem.b).value[k]
            array[index] = old
            if array is problem.b and not objective.fit_intercept:
                assert gradient[index] == 0
            else:  # rounding eps f / h, and h^2 f''' / 6
                assert (above - below) / (2 * h) == pytest.approx(gradient[index], abs=1e-9)


def test_smoothing_alone_reads_no_proportions(backend: Backend) -> None:
    problem = random_problem(3, dtype="float64", n=40, d=D, c=CLASSES, K=2, weighted=True)
    labels = problem.labels.astype(int)
    hard = objective_of(problem.X, labels, backend, c=CLASSES, K=2, weights=problem.weights)
    found = evaluated(with_soft_labels(hard, smoothing=0.2), problem.W, problem.b)
    f, dW, db = reference.loss_and_gradient(
        problem.X, smoothed(np.eye(CLASSES)[labels], 0.2), problem.W, problem.b, weights=problem.weights
    )
    for actual, expected in ((found.value, f), (found.dW, dW), (found.db, db)):
        np.testing.assert_allclose(actual, expected, atol=1e-13 * np.abs(expected).max())


def test_proportions_that_nearly_sum_to_one_leave_a_shift_of_all_scores_free(backend: Backend) -> None:
    """Else the objective would have no minimum."""
    problem = random_problem(4, dtype="float64", n=40, d=D, c=CLASSES)
    objective = softened(problem, proportions(2, 40) * (1 + 1e-3 * np.random.default_rng(0).random((40, 1))), backend)
    values = [evaluated(objective, problem.W + shift, problem.b - shift).loss[0] for shift in (0.0, 1e4)]
    assert values[1] == pytest.approx(values[0], abs=1e-10)  # scores of 1e4 are rounded by 1e-12


def test_the_gradient_of_a_minibatch_of_soft_labels_is_unbiased(backend: Backend) -> None:
    problem = random_problem(5, n=50, d=D, c=CLASSES, K=2, weighted=True)
    objective = softened(problem, proportions(3, 50), backend, shift=np.full(D, 0.5))
    whole = evaluated(objective, problem.W, problem.b)
    batches = BatchPlan(50, 8).epoch(0)
    parts = [evaluated(objective, problem.W, problem.b, rows) for rows in batches]
    for name in ("value", "loss", "dW", "db"):
        mean = sum(len(rows) / 50 * getattr(part, name) for rows, part in zip(batches, parts, strict=True))
        expected = getattr(whole, name)
        np.testing.assert_allclose(mean, expected, atol=100 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_the_loss_alone_is_that_of_the_evaluation(backend: Backend) -> None:
    problem = random_problem(6, dtype="float64", n=40, d=D, c=CLASSES, K=2, weighted=True)
    objective = softened(problem, proportions(4, 40), backend)
    found = evaluated(objective, problem.W, problem.b)
    loss, accuracy = objective.losses(*map(backend.asarray, (problem.W, problem.b)))
    np.testing.assert_allclose(backend.to_numpy(loss), found.loss, rtol=1e-13)
    np.testing.assert_allclose(backend.to_numpy(accuracy), found.accuracy, rtol=1e-13)


def test_some_of_the_models_keep_their_own_labels(backend: Backend) -> None:
    problem = random_problem(7, n=40, d=D, c=CLASSES, K=3, weighted=True)
    objective = softened(problem, proportions(5, 40), backend)
    whole = evaluated(objective, problem.W, problem.b)
    some = evaluated(objective.select(np.array([2, 0])), problem.W[:, [2, 0]], problem.b[[2, 0]])
    # the same rows through wider tiles
    np.testing.assert_allclose(some.value, whole.value[[2, 0]], rtol=1e-6)
    np.testing.assert_allclose(some.dW, whole.dW[:, [2, 0]], atol=1e-6 * np.abs(whole.dW).max())


@pytest.mark.parametrize("n_threads", [2, 7])
def test_soft_labels_have_the_same_bits_for_any_number_of_threads(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)
    problem, P = random_problem(8, n=64 * 9 + 17, d=7, c=CLASSES, weighted=True), proportions(6, 64 * 9 + 17)

    def digest(threads: int) -> str:
        term = softened(problem, P, get_backend(cpu_backend.name, threads)).linear_term
        assert term is not None
        return sha256(term.T, term.t)

    assert digest(n_threads) == digest(1)


# solvers and what they prove


@pytest.mark.parametrize("options", INTERCEPTS.values(), ids=INTERCEPTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bound_holds_for_soft_labels_wherever_a_fit_ends(
    weighted: bool, options: Any, backend: Backend, rng: np.random.Generator
) -> None:
    X, _ = blobs(0, n=120, d=5, c=4)
    P = proportions(7, 120)
    hard = objective_of(
        X.astype(np.float64), P.argmax(axis=1), backend, K=2, c=4, l2=[0.3, 0.01],
        weights=rng.random((120, 2)) if weighted else None, penalty_factors=rng.random(5) + 0.5,
        **options,
    )  # fmt: skip
    objective = with_soft_labels(hard, P, 0.1)
    assert_bounds_hold(objective)


def test_an_intercept_that_is_off_does_not_deceive_it_with_soft_labels() -> None:
    X, _ = blobs(1, n=200, d=3, c=3)
    P, backend = proportions(8, 200, 3), get_backend("numpy", n_threads=1)
    arguments = (X.astype(np.float64), P.argmax(axis=1), backend)
    objective = with_soft_labels(objective_of(*arguments, c=3, l2=0.1), P)
    optimum = run(LBFGS(500, tol=1e-11), objective)
    fixed = with_soft_labels(objective_of(*arguments, c=3, l2=0.1, fit_intercept=False), P)
    held = run(LBFGS(500, tol=1e-11), fixed, np.zeros((3, 1, 3)), np.array([[3.0, 0.0, -3.0]]))
    (found,) = certify(objective, held.W, held.b)
    distance = float(evaluated(objective, held.W, held.b).value[0] - optimum.value[0])
    assert distance > 0.1
    assert found.bound is not None
    assert found.intercept_gradient_norm is not None
    assert found.bound >= distance
    assert found.intercept_gradient_norm < 1e-9


def test_models_side_by_side_end_at_their_own_optima(backend: Backend) -> None:
    """The ones that arrive first leave the arrays."""
    problem, P = random_problem(9, dtype="float64", n=80, d=D, c=CLASSES, K=3, weighted=True), proportions(9, 80)
    l2 = np.array([1.0, 1e-1, 1e-3])
    labels = P.argmax(axis=1)
    hard = objective_of(problem.X, labels, backend, c=CLASSES, K=3, l2=l2, weights=problem.weights)
    together = run(LBFGS(500, tol=1e-10), with_soft_labels(hard, P))
    assert together.reasons == ["converged"] * 3
    for k in range(3):
        one = objective_of(
            problem.X, labels, backend, c=CLASSES, l2=l2[k], weights=problem.weights[:, k : k + 1].copy()
        )
        alone = run(LBFGS(500, tol=1e-10), with_soft_labels(one, P))
        # gradients of 1e-10 over curvatures of l2
        np.testing.assert_allclose(together.W[:, k], alone.W[:, 0], atol=1e-6)


# the estimator


@pytest.fixture
def small(rng: np.random.Generator) -> tuple[Array, Array]:
    """60 rows of 3 features, and proportions of 3 classes that depend on them."""
    X = rng.standard_normal((60, 3))
    P = np.exp(X + 0.5 * rng.standard_normal((60, 3)))
    P[0] = 0.0, 1.0, 0.0
    return X, P / P.sum(axis=1, keepdims=True)


def repeated(X: Array, P: Array, weights: Array | None = None) -> tuple[Array, Array, Array]:
    """Each row once for each class, with the proportion as its weight."""
    n, c = P.shape
    s = np.ones(n) if weights is None else weights
    return X.repeat(c, axis=0), np.tile(np.arange(c), n), (s[:, None] * P).ravel()


SETTINGS = {
    "default": {},
    "no penalty to speak of": {"C": 1e3},
    "standard": {"scaling": "standard"},
    "shift and scale": {"scaling": (0.5, 2.0)},
    "no intercept": {"fit_intercept": False},
    "penalised intercept": {"penalize_intercept": True},
    "class weights": {"class_weight": {0: 3.0, 2: 0.5}},
    "balanced": {"class_weight": "balanced"},
    "a class without weight": {"class_weight": {1: 0.0}, "penalize_intercept": True},  # a free one has no optimum
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("c", [2, 3])
def test_a_soft_label_equals_the_row_repeated_for_each_class(
    c: int, settings: Any, weighted: bool, small: tuple[Array, Array], rng: np.random.Generator
) -> None:
    X, P = small[0], small[1][:, :c] / small[1][:, :c].sum(axis=1, keepdims=True)
    weights = rng.random(60) if weighted else None
    settings = {"class_weight": {1: 0.5}} if c == 2 and "class_weight" in settings else settings
    soft = SoftmaxClassifier(**settings, **EXACT).fit(X, P, weights)
    X, y, s = repeated(X, P, weights)
    hard = SoftmaxClassifier(**settings, **EXACT).fit(X, y, s)
    assert (soft.stop_reason_, soft.classes_.tolist()) == ("converged", list(range(c)))
    assert soft.coef_.shape == ((1, 3) if c == 2 else (c, 3))
    # both within a gradient of 1e-10, over curvatures of some l2 > 1e-5
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-5)
    np.testing.assert_allclose(soft.intercept_, hard.intercept_, atol=1e-5)
    assert soft.fit_report_.objective == pytest.approx(hard.fit_report_.objective, rel=1e-12)


@pytest.mark.parametrize("c", [2, 3])
def test_the_optimum_of_soft_labels_is_scikit_learns_on_repeated_rows(c: int, small: tuple[Array, Array]) -> None:
    X, P = small[0], small[1][:, :c] / small[1][:, :c].sum(axis=1, keepdims=True)
    ours = SoftmaxClassifier(**EXACT).fit(X, P)
    X, y, s = repeated(X, P)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y, s)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)


@on_each_device
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("soft", [False, True], ids=["hard labels", "soft labels"])
def test_smoothing_equals_the_soft_labels_that_it_stands_for(
    soft: bool, smoothing: float, small: tuple[Array, Array]
) -> None:
    X, P = small
    y = P if soft else P.argmax(axis=1)
    expected = SoftmaxClassifier(**EXACT).fit(X, smoothed(P if soft else np.eye(3)[y], smoothing))
    model = SoftmaxClassifier(label_smoothing=smoothing, **EXACT).fit(X, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, atol=1e-7)
    assert model.fit_report_.objective == pytest.approx(expected.fit_report_.objective, rel=1e-12)


@on_each_device
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("parameters", [{}, {"batch_size": 16, "max_iter": 3, "schedule": "cosine"}])
def test_one_hot_labels_have_the_bits_of_hard_ones(parameters: Any, dtype: Any, small: tuple[Array, Array]) -> None:
    X, y = small[0], small[1].argmax(axis=1)
    hard = SoftmaxClassifier(**parameters).fit(X, y, validation=(X, y))
    one_hot = SoftmaxClassifier(**parameters).fit(X, np.eye(3, dtype=dtype)[y], validation=(X, np.eye(3)[y]))
    assert sha256(one_hot.coef_, one_hot.intercept_) == sha256(hard.coef_, hard.intercept_)
    assert one_hot.loss_curve_ == hard.loss_curve_


@on_each_device
@pytest.mark.parametrize("labels", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_narrow_features_with_soft_labels_give_the_model_of_their_float64_copy(
    dtype: Any, labels: Any, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (300, 10)).astype(dtype)
    P = rng.dirichlet(np.ones(4), 300)
    P[:, 0] += pixels[:, 0] / 100
    P = (P / P.sum(axis=1, keepdims=True)).astype(labels)
    model = SoftmaxClassifier(scaling="standard", C=0.1).fit(pixels, P)
    exact = SoftmaxClassifier(scaling="standard", C=0.1, tol=1e-8).fit(pixels.astype(np.float64), P)
    # a gradient of tol = 1e-4, over l2 = 1 / 30 and more, in raw pixels of 74 times the size
    np.testing.assert_allclose(model.coef_, exact.coef_, atol=3e-3 / 74)


@pytest.mark.slow
@on_each_device
def test_sgd_comes_near_the_optimum_of_soft_labels(small: tuple[Array, Array]) -> None:
    X, P = small
    exact = SoftmaxClassifier(label_smoothing=0.1, **EXACT).fit(X, P)
    model = SoftmaxClassifier(label_smoothing=0.1, batch_size="full", schedule="constant", tol=0.0, max_iter=400).fit(
        X, P
    )
    np.testing.assert_allclose(model.coef_, exact.coef_, atol=1e-6)
    minibatches = SoftmaxClassifier(label_smoothing=0.1, batch_size=16, schedule="cosine", max_iter=50).fit(X, P)
    np.testing.assert_allclose(minibatches.coef_, exact.coef_, atol=0.1)


@on_each_device
def test_the_history_is_of_the_soft_loss(small: tuple[Array, Array]) -> None:
    X, P = small
    model = SoftmaxClassifier(label_smoothing=0.2, **EXACT).fit(X, P, validation=(X, P))
    scores = np.log(model.predict_proba(X))
    # kept are the weights with the smallest validation loss, without the smoothing
    kept = min(model.history_, key=lambda record: record.validation_loss)
    assert kept.validation_loss == pytest.approx(-(P * scores).sum() / 60, rel=1e-9)
    assert kept.loss == pytest.approx(-(smoothed(P, 0.2) * scores).sum() / 60, rel=1e-9)
    assert kept.accuracy == pytest.approx((scores.argmax(axis=1) == P.argmax(axis=1)).mean())


@on_each_device
def test_a_validation_set_may_be_hard_where_training_is_soft_and_the_other_way_round(
    small: tuple[Array, Array],
) -> None:
    X, P = small
    y = np.array(["a", "b", "c"])[P.argmax(axis=1)]
    for labels, held_out, expected in ((P, P.argmax(axis=1), np.eye(3)[P.argmax(axis=1)]), (y, P, P)):
        model = SoftmaxClassifier(max_iter=20).fit(X, labels, validation=(X, held_out))
        loss = min(record.validation_loss for record in model.history_)
        assert loss == pytest.approx(-(expected * np.log(model.predict_proba(X))).sum() / 60, rel=1e-9)


def test_the_columns_of_a_data_frame_are_the_classes(small: tuple[Array, Array]) -> None:
    pandas = pytest.importorskip("pandas")
    X, P = small
    frame = pandas.DataFrame(P, columns=["cat", "ant", "bee"])
    named = SoftmaxClassifier().fit(X, frame, validation=(X, frame[["bee", "cat", "ant"]]))
    coded = SoftmaxClassifier().fit(X, P[:, [1, 2, 0]], validation=(X, P[:, [1, 2, 0]]))
    assert named.classes_.tolist() == ["ant", "bee", "cat"]  # sorted, as always
    assert sha256(named.coef_, named.intercept_) == sha256(coded.coef_, coded.intercept_)
    assert set(named.predict(X)) <= {"ant", "bee", "cat"}


def test_proportions_are_not_changed_and_may_be_in_any_order(small: tuple[Array, Array]) -> None:
    X, P = small
    expected = SoftmaxClassifier().fit(X, P)
    given = np.asfortranarray(P)
    given.flags.writeable = False
    for labels in (given, P.tolist(), P.astype(object)):
        model = SoftmaxClassifier().fit(X, labels)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-12)
    np.testing.assert_array_equal(given, P)


def test_a_class_that_no_row_has_any_of_stays_a_class(small: tuple[Array, Array]) -> None:
    X, P = small
    P = np.hstack([P, np.zeros((60, 1))])
    for class_weight in (None, "balanced"):
        model = SoftmaxClassifier(class_weight=class_weight, max_iter=2000).fit(X, P)
        assert model.classes_.tolist() == [0, 1, 2, 3]
        assert model.fit_report_.bound is not None


def test_features_that_are_not_finite_are_named_with_soft_labels(small: tuple[Array, Array]) -> None:
    X, P = small
    X[7, 2] = np.inf
    for parameters in ({}, {"penalize_intercept": True}, {"solver": "sgd"}):
        with pytest.raises(ValueError, match=r"X\[7, 2\] is inf"):
            SoftmaxClassifier(label_smoothing=0.1, **parameters).fit(X, P)


def test_a_soft_fit_that_is_cut_short_warns_as_any_other(small: tuple[Array, Array]) -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        SoftmaxClassifier(max_iter=1).fit(*small)


# what is refused

N = 12
SOFT = proportions(10, N, 3)


def changed(row: int, column: int, value: float) -> Array:
    copy = SOFT.copy()
    copy[row, column] = value
    return copy


BAD_LABELS = {
    "too few rows": (SOFT[:5], "y has length 5"),
    "negative": (changed(3, 1, -0.25), r"y\[3, 1\] is -0.25; .*not negative"),
    "NaN": (changed(3, 1, np.nan), r"y\[3, 1\] is nan; .*finite"),
    "infinite": (changed(3, 1, np.inf), r"y\[3, 1\] is inf; .*finite"),
    "percent": (100 * SOFT, r"y\[0\] sums to 100: .*sum to 1 within 0.001"),
    "multilabel": (
        np.tile([[1, 1, 0]], (N, 1)),
        r"y has shape \(12, 3\), and y\[0\] sums to 2: pass one label per row",
    ),
    "no label": (np.zeros((N, 3)), r"y\[0\] sums to 0"),
    "strings": (np.full((N, 3), "a"), "y should be a 1d array"),
    "strings as objects": (np.full((N, 3), "a", object), "y=.* is not numeric"),
    "complex": (SOFT + 1j, "y should be a 1d array"),
}


@pytest.mark.parametrize(("y", "words"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_proportions_that_are_none_are_refused(y: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        SoftmaxClassifier().fit(np.zeros((N, 2)), y)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (SOFT[:, :2] / SOFT[:, :2].sum(axis=1, keepdims=True), r"validation\[1\] has 2 columns, but y has 3 classes"),
        (changed(2, 0, -1.0), r"validation\[1\]\[2, 0\] is -1.0"),
        (2 * SOFT, r"validation\[1\]\[0\] sums to 2"),
    ],
)
def test_a_validation_set_of_other_proportions_is_refused(y: Any, words: str) -> None:
    X = np.random.default_rng(0).standard_normal((N, 2))
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier().fit(X, SOFT, validation=(X, y))


def test_columns_that_are_no_classes_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).standard_normal((N, 2))
    with pytest.raises(ValueError, match=r"y has columns .*named after it"):
        SoftmaxClassifier().fit(X, pandas.DataFrame(SOFT, columns=["a", "a", "b"]))
    with pytest.raises(ValueError, match=r"y has columns \[1, 'a', 'b'\]; .*of one type"):
        SoftmaxClassifier().fit(X, pandas.DataFrame(SOFT, columns=[1, "a", "b"]))
    frame = pandas.DataFrame(SOFT, columns=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"validation\[1\] .*pass a column for each of \['a', 'b', 'c'\]"):
        SoftmaxClassifier().fit(X, frame, validation=(X, frame.rename(columns={"c": "d"})))


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_a_margin_takes_no_proportions(loss: str) -> None:
    X, y = np.random.default_rng(0).standard_normal((N, 2)), np.arange(N) % 3
    with pytest.raises(ValueError, match=r"y has shape \(12, 3\): soft labels.*SoftmaxClassifier.*one right class"):
        LinearSVMClassifier(loss=loss).fit(X, SOFT)
    with pytest.raises(ValueError, match=r"validation\[1\] has shape \(12, 3\): soft labels"):
        LinearSVMClassifier(loss=loss).fit(X, y, validation=(X, SOFT))
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 needs loss='softmax'.*one right class"):
        LinearSVMClassifier(loss=loss, label_smoothing=0.1).fit(X, y)


def test_a_class_weight_below_zero_is_refused_though_a_mixture_may_be_above() -> None:
    with pytest.raises(ValueError, match=r"class_weight\[0\] is -1.0; .*not negative"):
        SoftmaxClassifier(class_weight={0: -1.0}).fit(np.zeros((N, 2)), SOFT)


@pytest.mark.parametrize("value", [-0.1, 1.0, np.nan])
def test_a_smoothing_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=.* at least 0 and less than 1"):
        SoftmaxClassifier(label_smoothing=value).fit(np.zeros((N, 2)), np.arange(N) % 3)
