"""Soft labels and label smoothing: the objective against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, INTERCEPTS, Array, assert_within, blobs, evaluated, objective_of, random_problem, run, sha256

from gpusoftmax import reference
from gpusoftmax.array import Backend, resolve
from gpusoftmax.batches import BatchPlan
from gpusoftmax.certificate import certify
from gpusoftmax.cpu import pool
from gpusoftmax.objective import Objective
from gpusoftmax.soft_labels import soften
from gpusoftmax.solvers import LBFGS

D, CLASSES = 6, 4


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
    return soften(hard, P, smoothing)


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
    found = evaluated(soften(hard, smoothing=0.2), problem.W, problem.b)
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
    some = evaluated(objective.of(np.array([2, 0])), problem.W[:, [2, 0]], problem.b[[2, 0]])
    # the same rows through wider tiles
    np.testing.assert_allclose(some.value, whole.value[[2, 0]], rtol=1e-6)
    np.testing.assert_allclose(some.dW, whole.dW[:, [2, 0]], atol=1e-6 * np.abs(whole.dW).max())


@pytest.mark.parametrize("n_threads", [2, 7])
def test_soft_labels_have_the_same_bits_for_any_number_of_threads(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    monkeypatch.setattr(pool, "LEAF_ELEMENTS", 1)
    problem, P = random_problem(8, n=64 * 9 + 17, d=7, c=CLASSES, weighted=True), proportions(6, 64 * 9 + 17)

    def digest(threads: int) -> str:
        term = softened(problem, P, resolve(cpu_backend.name, threads)).linear_term
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
        weights=rng.random((120, 2)) if weighted else None, penalty_factors=backend.asarray(rng.random(5) + 0.5),
        **options,
    )  # fmt: skip
    objective = soften(hard, P, 0.1)
    optimum = run(LBFGS(500, tol=1e-11), objective).value
    for passes in (1, 3, 8, 500):
        state = run(LBFGS(passes, tol=1e-11), objective)
        for k, found in enumerate(certify(objective, backend.asarray(state.W), backend.asarray(state.b))):
            assert found.bound is not None
            assert state.value[k] - optimum[k] <= found.bound + 1e-14
            assert found.objective == pytest.approx(state.value[k], rel=1e-12)
            if passes == 500:
                assert found.bound < 1e-12


def test_an_intercept_that_is_off_does_not_deceive_it_with_soft_labels() -> None:
    X, _ = blobs(1, n=200, d=3, c=3)
    P, backend = proportions(8, 200, 3), resolve("numpy", n_threads=1)
    arguments = (X.astype(np.float64), P.argmax(axis=1), backend)
    objective = soften(objective_of(*arguments, c=3, l2=0.1), P)
    optimum = run(LBFGS(500, tol=1e-11), objective)
    fixed = soften(objective_of(*arguments, c=3, l2=0.1, fit_intercept=False), P)
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
    together = run(LBFGS(500, tol=1e-10), soften(hard, P))
    assert together.reasons == ["converged"] * 3
    for k in range(3):
        one = objective_of(
            problem.X, labels, backend, c=CLASSES, l2=l2[k], weights=problem.weights[:, k : k + 1].copy()
        )
        alone = run(LBFGS(500, tol=1e-10), soften(one, P))
        # gradients of 1e-10 over curvatures of l2
        np.testing.assert_allclose(together.W[:, k], alone.W[:, 0], atol=1e-6)
