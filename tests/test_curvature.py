"""Preconditioners are the inverse of the curvature they name, whatever form they take."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import Array, objective_of

from gpusoftmax import reference
from gpusoftmax.array import Backend, resolve
from gpusoftmax.objective import Objective
from gpusoftmax.solvers import curvature
from gpusoftmax.solvers.curvature import (
    ClassWise,
    GramSample,
    Joint,
    Preconditioner,
    Shared,
    precondition,
    refresh,
    refresh_cost,
)
from gpusoftmax.solvers.factors import Cholesky, Diagonal

NUMPY = resolve("numpy", n_threads=1)
SHAPES = {"cholesky": (40, 6), "low rank": (7, 20)}
INTERCEPTS = {
    "free": {},
    "penalised": {"penalize_intercept": True},
    "none": {"fit_intercept": False},
}


def written_out(X: Array, share: Array, l2: float, kappa: float, intercept: str) -> Array:
    """kappa sum_i share_i [x_i, 1][x_i, 1]' + l2 diag(1, ..., 1, 0 or 1), inverted; zero for an intercept held at 0."""
    d = X.shape[1]
    rows = np.hstack([X, np.ones((len(X), 1))])
    M = kappa * rows.T @ (share[:, None] * rows) + l2 * np.eye(d + 1)
    if intercept == "free":
        M[d, d] -= l2
    if intercept == "none":
        inverse = np.zeros((d + 1, d + 1))
        inverse[:d, :d] = np.linalg.inv(M[:d, :d])
        return inverse
    return np.linalg.inv(M)


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_it_inverts_the_curvature_at_equal_probabilities(
    kind: str, intercept: str, weighted: bool, loss: str, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    n, d = SHAPES[kind]
    c, l2 = 3, np.array([0.5, 0.02])
    X, shift, scale = rng.standard_normal((n, d)) + 1, rng.standard_normal(d), rng.random(d) + 0.5
    weights = rng.random((n, 2)) if weighted else None
    objective = objective_of(
        X, rng.integers(0, c, n), NUMPY, c=c, K=2, loss=loss, l2=l2, weights=weights, shift=shift, scale=scale,
        **INTERCEPTS[intercept],
    )  # fmt: skip
    sample = GramSample(objective, seed=0)
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        metric = Preconditioner([sample.metric(objective, k) for k in range(2)], n)
    assert f"preconditioner: {kind}, from {n} of {n} rows" in caplog.text
    g = rng.standard_normal((d + 1, 2, c))
    found = metric.apply(g, np.empty_like(g))
    for k in range(2):
        share = np.full(n, 1 / n) if weights is None else weights[:, k] / weights[:, k].sum()
        kappa = 1 / c if loss == "softmax" else 4.0
        inverse = written_out((X - shift) / scale, share, l2[k], kappa, intercept)
        # float64, and a condition of some hundreds
        np.testing.assert_allclose(found[:, k], inverse @ g[:, k], rtol=1e-9, atol=1e-9 * np.abs(inverse).max())


def test_it_may_be_applied_in_place(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), NUMPY, c=3, K=2, l2=0.1)
    metric, g = precondition(objective, seed=0), rng.standard_normal((5, 2, 3))
    expected = metric.apply(g, np.empty_like(g))
    np.testing.assert_array_equal(metric.apply(g, g), expected)


def test_without_memory_for_more_it_is_the_diagonal(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "FULL_FEATURES", 2)
    monkeypatch.setattr(curvature, "LOW_RANK_ELEMENTS", 100)  # 25 rows of 4 features, fewer than are worth while
    X = rng.standard_normal((300, 4))
    metric = precondition(objective_of(X, rng.integers(0, 3, 300), NUMPY, c=3, l2=0.1), seed=0)
    assert [type(of.inverse) for of in metric.metrics if isinstance(of, Shared)] == [Diagonal]
    assert metric.rows == 32


@pytest.mark.parametrize(("n", "d", "c", "at_once"), [(3000, 50, 3, True), (40, 50, 3, False), (2100, 2000, 2, False)])
def test_a_metric_that_costs_much_waits_until_the_diagonal_has_proved_slow(
    n: int, d: int, c: int, at_once: bool, rng: np.random.Generator
) -> None:
    objective = objective_of(rng.standard_normal((n, d), dtype=np.float32), np.arange(n) % c, NUMPY, c=c, l2=0.1)
    assert GramSample(objective, seed=0).at_once == at_once
    (first,) = precondition(objective, seed=0).metrics
    assert isinstance(first, Shared)
    assert isinstance(first.inverse, Cholesky if at_once else Diagonal)


def test_a_sample_is_multiplied_once_for_many_penalties(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((60, 4)), rng.integers(0, 3, 60), NUMPY, c=3, l2=0.1)
    sample, other = GramSample(objective, seed=0), replace(objective, l2=np.array([3.0]))
    sample.precondition(objective)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curvature, "Rows", None)  # would be called
        found = sample.precondition(other)
    g = rng.standard_normal((5, 1, 3))
    expected = precondition(other, seed=0).apply(g, np.empty_like(g))
    np.testing.assert_array_equal(found.apply(g, np.empty_like(g)), expected)


def test_a_part_of_the_models_keeps_its_own(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), NUMPY, c=3, K=3, l2=[0.1, 1.0, 10.0])
    metric, g = precondition(objective, seed=0), rng.standard_normal((5, 3, 3))
    whole = metric.apply(g, np.empty_like(g))
    part = metric.of([2, 0]).apply(g[:, [2, 0]], np.empty((5, 2, 3)))
    np.testing.assert_array_equal(part, whole[:, [2, 0]])


def test_models_alike_share_a_factor(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), NUMPY, c=3, K=3, l2=[0.1, 0.1, 1.0])
    first, second, third = precondition(objective, seed=0).metrics
    assert first is second
    assert second is not third


@pytest.mark.parametrize("columns", ["constant", "repeated", "of very different sizes"])
def test_it_is_finite_and_positive_definite_whatever_the_columns(
    columns: str, rng: np.random.Generator, backend: Backend
) -> None:
    X = rng.standard_normal((50, 6)).astype(np.float32)
    if columns == "constant":
        X[:] = 1
    elif columns == "repeated":
        X[:, 1:] = X[:, :1]
    else:
        X *= 10.0 ** np.arange(-6, 6, 2, dtype=np.float32)
    metric = precondition(objective_of(X, rng.integers(0, 3, 50), backend, c=3, l2=0.0), seed=0)  # no penalty
    for g in rng.standard_normal((5, 7, 1, 3)).astype(np.float32):
        moved: Any = backend.asarray(g)
        found = backend.to_numpy(metric.apply(moved, backend.xp.empty_like(moved)))
        assert float((g * found).sum(dtype=np.float64)) > 0


def test_a_model_whose_rows_all_weigh_nothing_in_the_sample_has_the_unweighted_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "SMALLEST_SAMPLE", 1)
    X, weights = rng.standard_normal((40, 2)), np.zeros((40, 1))
    labels = rng.integers(0, 3, 40)
    sampled = precondition(objective_of(X, labels, NUMPY, c=3, l2=0.1, weights=np.ones((40, 1))), seed=0)
    assert sampled.rows == 4
    weights[[i for i in range(40) if i not in _rows_of_the_sample(40, 4)]] = 1
    unweighted = precondition(objective_of(X, labels, NUMPY, c=3, l2=0.1, weights=weights), seed=0)
    g = rng.standard_normal((3, 1, 3))
    np.testing.assert_array_equal(unweighted.apply(g, np.empty_like(g)), sampled.apply(g, np.empty_like(g)))


# ---- at a point


def hessian_times(objective: Objective, point: Array, u: Array) -> Array:
    """The Hessian of the specification at a point (d + 1, c), applied to a direction, by central differences."""
    step = 1e-5

    def gradient(at: Array) -> Array:
        dW, db = reference.loss_and_gradient(
            objective.features.sample(np.arange(objective.features.n)), objective.labels, at[:-1, None], at[-1:],
            loss=reference.LOSSES[objective.loss], l2=objective.l2, weights=objective.weights,
            penalize_intercept=objective.penalize_intercept,
        )[1:]  # fmt: skip
        whole = np.concatenate([dW[:, 0], db])
        if not objective.fit_intercept:
            whole[-1] = 0
        return whole

    return (gradient(point + step * u) - gradient(point - step * u)) / (2 * step)


def confident_problem(
    rng: np.random.Generator, loss: str, intercept: str, c: int = 3, backend: Backend = NUMPY
) -> tuple[Objective, Array]:
    """40 rows of 5 features, weighted, and a point where probabilities are far from equal."""
    X, shift, scale = rng.standard_normal((40, 5)) + 1, rng.standard_normal(5), rng.random(5) + 0.5
    objective = objective_of(
        X, rng.integers(0, c, 40), backend, c=c, loss=loss, l2=0.02, weights=rng.random((40, 1)), shift=shift,
        scale=scale, **INTERCEPTS[intercept],
    )  # fmt: skip
    point = 2 * rng.standard_normal((6, c))
    if intercept == "none":
        point[-1] = 0
    return objective, point


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_joint_metric_inverts_the_hessian_at_the_point(
    loss: str, intercept: str, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    objective, point = confident_problem(rng, loss, intercept)
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        metric, rows = refresh(objective, 0, point, seed=0, times=0)
    assert (type(metric), rows) == (Joint, 40)
    assert "preconditioner: joint, from" in caplog.text
    u = rng.standard_normal(point.shape)
    u -= u.mean(axis=1, keepdims=True)  # a shift of all classes changes no loss: along it only the penalty counts
    if intercept == "none":
        u[-1] = 0
    # the differences are good to 1e-10 / 1e-5, and the hinge's kinks are further away than the step
    np.testing.assert_allclose(metric.solve(hessian_times(objective, point, u)), u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_class_wise_metric_inverts_each_class_of_its_own_between_projections(
    loss: str, intercept: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "JOINT", 0)
    monkeypatch.setattr(curvature, "SAMPLE_PER_FEATURE", 100)  # all rows
    objective, point = confident_problem(rng, loss, intercept)
    metric, _ = refresh(objective, 0, point, seed=0, times=0)
    assert isinstance(metric, ClassWise)
    size = 5 if intercept == "none" else 6
    v = np.zeros((6, 3))
    v[:size] = rng.standard_normal((size, 3))
    common = v.mean(axis=1, keepdims=True)
    expected = np.zeros((6, 3))
    for j in range(3):
        units = np.zeros((6, 6, 3))
        units[np.arange(6), np.arange(6), j] = 1
        block = np.stack([hessian_times(objective, point, unit)[:, j] for unit in units], axis=1)[:size, :size]
        expected[:size, j] = np.linalg.solve(block, (v - common)[:size, j])
    expected -= expected.mean(axis=1, keepdims=True)
    expected[:5] += common[:5] / 0.02  # what classes share knows the penalty alone
    if intercept == "penalised":
        expected[5] += common[5] / 0.02
    np.testing.assert_allclose(metric.solve(v), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("joint", [2000, 0], ids=["joint", "class-wise"])
def test_metrics_at_a_point_are_alike_on_all_back_ends(
    joint: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "JOINT", joint)
    solutions = []
    for device in (NUMPY, backend):
        rng = np.random.default_rng(0)
        objective, point = confident_problem(rng, "softmax", "free", backend=device)
        metric, _ = refresh(objective, 0, device.asarray(point), seed=0, times=0)
        solutions.append(device.to_numpy(metric.solve(device.asarray(point))))
    np.testing.assert_allclose(*solutions, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("joint", [2000, 0], ids=["joint", "class-wise"])
def test_metrics_at_a_point_have_the_same_bits_at_any_thread_count(
    joint: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "JOINT", joint)
    X, y, point = rng.standard_normal((3000, 20)).astype(np.float32), rng.integers(0, 9, 3000), rng.random((21, 9))
    point = point.astype(np.float32)
    digests = set()
    for threads in (1, 2, 7):
        metric, _ = refresh(objective_of(X, y, resolve("cpu", threads), c=9, l2=0.01), 0, point, seed=3, times=1)
        digests.add(metric.solve(point).tobytes())
    assert len(digests) == 1


def test_rows_are_drawn_by_their_curvature_and_weighed_with_the_inverse() -> None:
    weights = np.array([0.0, 1.0, 10.0, 100.0] * 1000)
    counts, total = np.zeros(4), 0.0
    for seed in range(20):
        chosen, scale = curvature._important(weights, 400, np.random.default_rng(seed))
        counts += np.bincount(chosen % 4, minlength=4)
        total += (weights[chosen] * scale).sum() / 20
    assert counts[0] == 0
    # 20 draws of 400 expected rows: 3.6, 36 and 360 of each kind a draw, with Poisson's spread
    np.testing.assert_allclose(counts[1:] / 20, [3.6, 36.04, 360.4], atol=4 * np.sqrt(360 / 20))
    np.testing.assert_allclose(total, weights.sum(), rtol=4 / np.sqrt(20 * 400))


def test_a_model_without_curvature_left_has_the_penalty_alone(rng: np.random.Generator) -> None:
    """All rows certain: their probabilities are 0 and 1 to the last digit."""
    X = np.eye(3)[rng.integers(0, 3, 30)]
    objective = objective_of(X, X.argmax(axis=1), NUMPY, c=3, l2=0.25, fit_intercept=False)
    metric, _ = refresh(objective, 0, np.vstack([2000 * np.eye(3), np.zeros((1, 3))]), seed=0, times=0)
    v = rng.standard_normal((4, 3))
    v[-1] = 0
    np.testing.assert_allclose(metric.solve(v), v / 0.25, rtol=1e-12)


def test_what_a_metric_costs_is_told_in_reads() -> None:
    def cost(n: int, d: int, c: int) -> float:
        y = np.arange(n) % c
        return refresh_cost(objective_of(np.zeros((n, d), np.float32), y, NUMPY, c=c, l2=0.1))

    assert cost(1797, 64, 10) < 100  # joint
    assert cost(20_000, 768, 100) < 100  # class-wise
    assert cost(5000, 3072, 10) > 100
    assert cost(20_000, 64, 10) < cost(2000, 64, 10)
    assert cost(9000, 9000, 10) == float("inf")  # 10 x 9000 x 9000 numbers


def _rows_of_the_sample(n: int, size: int) -> list[int]:
    rng = np.random.Generator(np.random.Philox(key=np.array([0, 2**63 + 1], np.uint64)))
    return rng.choice(n, size, replace=False).tolist()
