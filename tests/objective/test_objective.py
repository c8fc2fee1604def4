"""Value and gradient from the public functions, compared with the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusoftmax import reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.functional import loss_and_gradient, softmax_cross_entropy
from gpusoftmax.solvers.certificate import certify
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.sgd import SGD
from tests.support.cases import (
    DETERMINISTIC,
    DTYPES,
    LAYOUTS,
    assert_within,
    evaluated,
    objective_of,
    random_problem,
    run,
    sha256,
)

D = 6


def assert_close(actual: Any, expected: Any, dtype: Any) -> None:
    """To 100 eps of the largest number.

    Sums of n <= 60 terms round to some sqrt(n) = 8 eps of their terms, which cancel to a tenth or so.
    """
    expected = np.asarray(expected)
    bound = 100 * np.finfo(dtype).eps * (np.abs(expected).max() + 1e-30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def computed(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


problems = given(
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    loss=st.sampled_from(list(LOSSES)),
    n=st.integers(2, 40),
    c=st.sampled_from([2, 3, 66]),
    K=st.sampled_from([None, 1, 3]),
    l2=st.sampled_from(["none", "one", "one per model"]),
    weights=st.sampled_from(["none", "one per row", "one per row and model"]),
    scaling=st.sampled_from(["none", "shift", "scale", "both", "numbers"]),
    penalize_intercept=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


def assert_objective_is_the_references(
    backend: Backend,
    dtype: str,
    layout: str,
    loss: str,
    n: int,
    c: int,
    K: int | None,
    l2: str,
    weights: str,
    scaling: str,
    penalize_intercept: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    models = 1 if K is None else K
    problem = random_problem(seed, dtype=dtype, n=n, d=D, c=c, layout=layout)
    X, y = problem.X, problem.labels
    x = X.astype(np.float64)
    mean = x.mean(axis=0)
    spread = np.abs(x).max(axis=0) * (rng.random(D) < 0.8)  # a scale of 0 counts as 1
    options: dict[str, Any] = {
        "loss": loss,
        "penalize_intercept": penalize_intercept,
        "l2": {"none": 0, "one": 0.3, "one per model": rng.random(models)}[l2],
        "shift": {"shift": mean, "both": mean, "numbers": 0.5}.get(scaling),
        "scale": {"scale": spread, "both": spread, "numbers": 2}.get(scaling),
    }
    if weights != "none":
        table = rng.random((n, models)) * (rng.random((n, models)) < 0.7)
        table[0] = 1.0
        options["sample_weight"] = table[:, 0] if weights == "one per row" else table
    shift = np.broadcast_to(0.0 if options["shift"] is None else options["shift"], (D,))
    scale = np.broadcast_to(1.0 if options["scale"] is None else options["scale"], (D,))
    scale = np.where(scale == 0, 1.0, scale)
    reach = (np.abs(x).max(axis=0) + np.abs(shift)) / scale  # the largest terms of a scaled feature
    W = (rng.standard_normal((D, models, c)) / (reach[:, None, None] + 0.1)).astype(computed(dtype))
    b = rng.standard_normal((models, c)).astype(computed(dtype))
    found = loss_and_gradient(X, y, W if K else W[:, 0], b if K else b[0], backend=backend, **options)
    given_weights = options.pop("sample_weight", None)
    options.update(shift=shift, scale=scale)
    f, dW, db = reference.loss_and_gradient(X, y, W, b, weights=given_weights, **options)
    # what a score is off by moves the loss by that much times the slope, and the slope by that times the curvature
    eps = np.finfo(W.dtype).eps
    score_off = 4 * np.sqrt(D + 2) * eps * (np.einsum("p,pkj->kj", reach, np.abs(W)) + np.abs(b)).max()
    Z = reference.scores(X, W, b, shift, scale).reshape(-1, c)
    slope = np.abs(reference.row_loss(Z, y.repeat(models), loss)[1]).max()
    curvature = {"softmax": 1.0, "hinge": 0.0, "squared_hinge": 2.0 * c}[loss]
    slope_off = score_off * curvature + 4 * np.sqrt(n) * eps * slope
    assert (type(found[0]) is float) == (K is None)
    assert (found[1].dtype, found[2].dtype) == (W.dtype, b.dtype)
    assert_within(found[0], f if K else f[0], 2 * score_off * slope + 16 * eps * f, "loss")
    bound = slope_off * reach[:, None, None] + 4 * eps * np.abs(W)
    assert_within(found[1], dW if K else dW[:, 0], bound if K else bound[:, 0], "dW")
    assert_within(found[2], db if K else db[0], slope_off + 4 * eps * np.abs(b).max(), "db")


@problems
@settings(DETERMINISTIC, max_examples=600)
def test_loss_and_gradient_equals_the_reference(cpu_backend: Backend, **problem: Any) -> None:
    assert_objective_is_the_references(cpu_backend, **problem)


@pytest.mark.usefixtures("gpu")
@problems
@settings(DETERMINISTIC, max_examples=40)  # kernels are tested by themselves; these are slow on the CPU
def test_loss_and_gradient_on_a_gpu_equals_the_reference(**problem: Any) -> None:
    assert_objective_is_the_references(get_backend("cuda"), **problem)


@pytest.mark.parametrize("container", ["lists", "int64", "int8", "bool", "read-only"])
def test_what_is_not_a_float_array_is_taken_by_its_values(backend: Backend, container: str) -> None:
    X = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1]])
    y, W, b = np.array([0, 1, 1, 0]), np.array([[1.0, 2.0], [0.0, -1.0], [0.5, 0.5]]), np.array([1.0, 0.0])
    weights = np.array([1.0, 2.0, 0.0, 3.0])
    expected = reference.loss_and_gradient(X, y, W[:, None], b[None], weights=weights, l2=0.1)
    arguments: list[Any] = [X, y, W, b]
    if container == "lists":
        arguments, weights = [a.tolist() for a in arguments], weights.tolist()
    elif container == "read-only":
        for array in (*arguments, weights):
            array.setflags(write=False)
    else:
        arguments[0] = X.astype(container)
    loss, dW, db = loss_and_gradient(*arguments, sample_weight=weights, l2=0.1, backend=backend)
    # narrow integers are computed in float32
    assert_close(loss, expected[0][0], np.float32)
    assert_close(dW, expected[1][:, 0], np.float32)
    assert_close(db, expected[2][0], np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "value"), [("softmax", np.log(10)), ("hinge", 9.0), ("squared_hinge", 9.0)])
def test_the_loss_of_zero_weights_is_known(backend: Backend, loss: str, value: float, dtype: str) -> None:
    problem = random_problem(0, dtype=dtype, n=1000, d=D, c=10)
    found, _, _ = loss_and_gradient(
        problem.X, problem.labels, np.zeros((D, 10)), np.zeros(10), loss=loss, backend=backend
    )
    assert abs(found - value) < 1e-6
    assert objective_of(problem.X, problem.labels, backend, loss=loss).value_at_zero() == value


@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_give_a_non_finite_loss_and_no_warning(
    backend: Backend, value: float, loss: str, c: int
) -> None:
    problem = random_problem(0, n=20, d=D, c=c)
    problem.X[7, 2] = value
    problem.X[8, 1] = -value
    arguments = problem.X, problem.labels, problem.W[:, 0], problem.b[0]
    found, _, _ = loss_and_gradient(*arguments, loss=loss, l2=0.1, shift=1.0, scale=2.0, backend=backend)
    assert not np.isfinite(found)


@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_three_equals_the_row_three_times(
    backend: Backend, loss: str, c: int, rng: np.random.Generator
) -> None:
    problem = random_problem(0, n=60, d=D, c=c)
    X, y, W, b = problem.X, problem.labels, problem.W[:, 0], problem.b[0]
    times = rng.integers(0, 4, 60)
    options: dict[str, Any] = {"loss": loss, "l2": 0.01, "backend": backend}
    weighted = loss_and_gradient(X, y, W, b, sample_weight=times, **options)
    repeated = loss_and_gradient(X.repeat(times, axis=0), y.repeat(times), W, b, **options)
    for a, e in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())


@pytest.mark.parametrize("c", [3, 30])  # 30: many columns side by side, few alone
@pytest.mark.parametrize("loss", LOSSES)
def test_models_side_by_side_equal_single_models_to_rounding(cpu_backend: Backend, loss: str, c: int) -> None:
    problem = random_problem(0, n=30, d=D, c=c, K=3, weighted=True)
    X, y, W, b, weights = problem.X, problem.labels, problem.W, problem.b, problem.weights
    l2, options = np.array([0.0, 0.1, 0.2]), {"loss": loss, "backend": cpu_backend}
    loss_of, dW, db = loss_and_gradient(X, y, W, b, l2=l2, sample_weight=weights, **options)
    for k in range(3):
        alone = loss_and_gradient(X, y, W[:, k], b[k], l2=l2[k], sample_weight=weights[:, k], **options)
        for a, e in zip((loss_of[k], dW[:, k], db[k]), alone, strict=True):
            assert_close(a, e, np.float32)


@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_minibatch_is_unbiased(backend: Backend, loss: str, c: int) -> None:
    problem = random_problem(0, n=50, d=D, c=c, K=2, weighted=True)
    objective = objective_of(
        problem.X, problem.labels, backend, c=c, K=2, loss=loss, l2=[0.1, 0.2], weights=problem.weights,
        shift=np.full(D, 0.5), scale=np.full(D, 2.0), penalize_intercept=True,
    )  # fmt: skip
    whole = evaluated(objective, problem.W, problem.b)
    batches = BatchPlan(50, 8).epoch(0)  # the last one is shorter
    parts = [evaluated(objective, problem.W, problem.b, rows) for rows in batches]
    for name in ("value", "loss", "accuracy", "dW", "db"):
        mean = sum(len(rows) / 50 * getattr(part, name) for rows, part in zip(batches, parts, strict=True))
        assert_close(mean, getattr(whole, name), np.float32)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_evaluation_holds_the_loss_without_penalty_and_the_weighted_accuracy(backend: Backend, loss: str) -> None:
    problem = random_problem(0, n=50, d=D, c=3, K=2, weighted=True)
    objective = objective_of(
        problem.X, problem.labels, backend, c=3, K=2, loss=loss, l2=[3.0, 5.0], weights=problem.weights
    )
    result = evaluated(objective, problem.W, problem.b)
    without, _, _ = reference.loss_and_gradient(
        problem.X, problem.labels, problem.W, problem.b, loss=loss, weights=problem.weights
    )
    right = reference.scores(problem.X, problem.W, problem.b).argmax(axis=2) == problem.labels[:, None]
    accuracy = [np.average(right[:, k], weights=problem.weights[:, k]) for k in range(2)]
    assert_close(result.loss, without, np.float32)
    np.testing.assert_allclose(result.accuracy, accuracy, rtol=1e-6)
    alone = objective.losses(backend.asarray(problem.W), backend.asarray(problem.b))
    for found, expected in zip(alone, (result.loss, result.accuracy), strict=True):
        np.testing.assert_allclose(backend.to_numpy(found), expected, rtol=1e-14)


def test_without_an_intercept_only_its_gradient_is_gone(backend: Backend) -> None:
    problem = random_problem(0, n=20, d=D, c=3)
    arguments, shift = (problem.X, problem.labels, backend), np.ones(D)
    fitted = evaluated(objective_of(*arguments, c=3, shift=shift), problem.W, problem.b)
    fixed = evaluated(objective_of(*arguments, c=3, shift=shift, fit_intercept=False), problem.W, problem.b)
    assert not fixed.db.any()
    assert sha256(fixed.dW, fixed.value) == sha256(fitted.dW, fitted.value)


def test_what_the_caller_passes_is_left_as_it_is(backend: Backend) -> None:
    problem = random_problem(0, n=20, d=D, c=3, weighted=True)
    shift, scale = np.ones(D), np.array([2.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    arrays = (problem.X, problem.labels, problem.W, problem.b)
    before = sha256(*arrays, problem.weights, shift, scale)
    loss_and_gradient(*arrays, sample_weight=problem.weights, shift=shift, scale=scale, backend=backend)
    assert sha256(*arrays, problem.weights, shift, scale) == before


@pytest.fixture(params=["host", pytest.param("GPU", marks=pytest.mark.emulated)])
def cross_entropy(request: pytest.FixtureRequest) -> Any:
    """softmax_cross_entropy of NumPy arrays, or of theirs on a GPU; the gradient comes back as NumPy's."""
    if request.param == "host":
        return softmax_cross_entropy
    request.getfixturevalue("gpu")
    device = get_backend("cuda")

    def on_gpu(logits: Any, labels: Any, sample_weight: Any = None) -> tuple[float, Any]:
        weights = None if sample_weight is None else device.asarray(sample_weight)
        loss, gradient = softmax_cross_entropy(
            device.xp.array(logits), device.asarray(labels), sample_weight=weights
        )  # array keeps Fortran's order
        return loss, device.to_numpy(gradient)

    return on_gpu


@given(
    n=st.integers(1, 30),
    c=st.sampled_from([2, 3, 10, 300]),
    dtype=st.sampled_from(["float64", "float32", "float16"]),
    spread=st.sampled_from([1.0, 30.0, 1e4]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(DETERMINISTIC, max_examples=100)
def test_softmax_cross_entropy_is_its_equation(
    cross_entropy: Any, n: int, c: int, dtype: str, spread: float, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = (spread * rng.standard_normal((n, c))).astype(dtype), rng.integers(0, c, n)
    before = logits.copy()
    s = rng.random(n) if weighted else np.ones(n)
    loss, gradient = cross_entropy(logits, labels, sample_weight=s if weighted else None)
    expected_loss, expected = reference.row_loss(logits, labels, "softmax")
    eps, tiny = float(np.finfo(computed(dtype)).eps), float(np.finfo(computed(dtype)).tiny)
    # the difference to the largest score is rounded, and exp with it; beyond 110 float32 has nothing left
    rounding = (min(12 * spread, 110.0) + 8 + 4 * np.sqrt(c)) * eps
    assert gradient.dtype == computed(dtype)
    np.testing.assert_allclose(gradient, expected * (s / s.sum())[:, None], rtol=rounding, atol=tiny)
    assert loss == pytest.approx(np.average(expected_loss, weights=s), rel=rounding, abs=tiny)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_softmax_cross_entropy_keeps_the_digits_of_a_confident_row(cross_entropy: Any, dtype: str) -> None:
    loss, gradient = cross_entropy(np.array([[17.0, 0.0], [0.0, 40.0]], dtype), [0, 1])
    p = np.exp([-17.0, -40.0]) / (1 + np.exp([-17.0, -40.0]))
    rounding = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, [[-p[0] / 2, p[0] / 2], [p[1] / 2, -p[1] / 2]], rtol=rounding)
    assert loss == pytest.approx(-np.log1p(-p).mean(), rel=rounding)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [0.0, np.nan], [0.0, np.inf], [np.inf, 0.0], [-np.inf, 0.0]], ids=str)
def test_softmax_cross_entropy_without_an_answer_is_not_finite(cross_entropy: Any, row: list[float]) -> None:
    assert not np.isfinite(cross_entropy([[1.0, 2.0], row], [0, 0])[0])


def test_softmax_cross_entropy_allows_minus_infinity_off_the_target(cross_entropy: Any) -> None:
    loss, gradient = cross_entropy([[0.0, -np.inf, 0.0]], [2])
    assert loss == pytest.approx(np.log(2))
    assert gradient.tolist() == [[0.5, 0.0, -0.5]]


@pytest.mark.parametrize("container", ["lists", "Fortran"])
def test_logits_may_be_in_any_order(cross_entropy: Any, container: str, rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((6, 4)), np.arange(6) % 4
    given = logits.tolist() if container == "lists" else np.asfortranarray(logits)
    losses, expected = reference.row_loss(logits.astype(np.float64), labels, "softmax")
    loss, gradient = cross_entropy(given, labels)
    assert loss == pytest.approx(losses.mean(), rel=1e-14)
    np.testing.assert_allclose(gradient, expected / 6, rtol=1e-13, atol=1e-16)


BAD_LABELS = {
    "too few": (np.zeros(3, int), ValueError, "labels has length 3 but logits has 4 rows"),
    "a column": (np.zeros((4, 1), int), ValueError, r"labels has shape \(4, 1\)"),
    "not whole": (np.zeros(4), TypeError, "labels has dtype float64; pass integers from 0 to 2"),
    "no such class": (np.array([0, 1, 3, 4]), ValueError, r"labels\[2\] is 3, but there are 3 classes"),
    "negative": (np.array([0, 1, 2, -1]), ValueError, r"labels\[3\] is -1, but there are 3 classes"),
    "class 0 in 32 bits": (np.array([0, 2**32, 1, 2]), ValueError, r"labels\[1\] is 4294967296, but there are 3 clas"),
}


@pytest.mark.parametrize(("labels", "error", "words"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_softmax_cross_entropy_refuses_labels_that_are_none(
    cross_entropy: Any, labels: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        cross_entropy(np.zeros((4, 3)), labels)


@pytest.mark.parametrize("solver", [SGD(BatchPlan(60, 16), 8), SGD(BatchPlan(60, 60), 2), LBFGS(4, 0.0)])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "weights"])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_a_solver_over_some_rows_is_the_solver_over_a_copy_of_them(
    backend: Backend, solver: Any, weighted: bool, loss: str
) -> None:
    problem = random_problem(3, n=100, d=D, c=3, K=2, weighted=weighted)
    rows = np.random.default_rng(0).choice(100, 60, replace=False)
    common: dict[str, Any] = {
        "c": 3,
        "K": 2,
        "loss": loss,
        "l2": 0.1,
        "shift": np.full(D, 0.5),
        "scale": np.full(D, 2.0),
    }
    whole = objective_of(problem.X, problem.labels, backend, weights=problem.weights, **common)
    part = replace(whole, features=replace(whole.features, rows=backend.asarray(rows)))
    copy = objective_of(
        problem.X[rows], problem.labels[rows], backend, weights=problem.weights[rows] if weighted else None, **common
    )
    found, expected = run(solver, part), run(solver, copy)
    assert sha256(found.W, found.b, found.value) == sha256(expected.W, expected.b, expected.value)
    W, b = backend.asarray(found.W), backend.asarray(found.b)
    assert certify(part, W, b) == certify(copy, W, b)
    np.testing.assert_array_equal(*(backend.to_numpy(one.losses(W, b)[0]) for one in (part, copy)))
