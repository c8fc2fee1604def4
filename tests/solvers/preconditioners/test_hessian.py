"""Hessian preconditioners are inverses of the Hessian at a point, whole or by blocks of one class."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from gpusoftmax import reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners import hessian
from gpusoftmax.solvers.preconditioners.base import BlockDiagonal, FullHessian
from gpusoftmax.solvers.preconditioners.hessian import refresh, refresh_cost
from tests.support.cases import INTERCEPTS, Array, objective_of

NUMPY = get_backend("numpy", n_threads=1)


def hessian_times(objective: Objective, point: Array, u: Array) -> Array:
    """The Hessian of the specification at a point (d + 1, c), applied to a direction, by central differences."""
    step = 1e-5

    def gradient(at: Array) -> Array:
        dW, db = reference.loss_and_gradient(
            objective.features.sample(np.arange(objective.features.n)), objective.labels, at[:-1, None], at[-1:],
            loss=objective.loss.name, l2=objective.penalty.strengths, weights=objective.weights,
            penalize_intercept=objective.penalty.on_intercept,
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
def test_the_full_hessian_inverts_the_hessian_at_the_point(
    loss: str, intercept: str, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    objective, point = confident_problem(rng, loss, intercept)
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        preconditioner, rows = refresh(objective, 0, point, seed=0, n_refreshes=0)
    assert (type(preconditioner), rows) == (FullHessian, 40)
    assert "preconditioner: full Hessian, from" in caplog.text
    u = rng.standard_normal(point.shape)
    u -= u.mean(axis=1, keepdims=True)  # a shift of all classes changes no loss: along it only the penalty counts
    if intercept == "none":
        u[-1] = 0
    # the differences are good to 1e-10 / 1e-5, and the hinge's kinks are further away than the step
    np.testing.assert_allclose(preconditioner.solve(hessian_times(objective, point, u)), u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_block_diagonal_inverts_each_class_of_its_own_between_projections(
    loss: str, intercept: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessian, "FULL_SIZE", 0)
    monkeypatch.setattr(hessian, "CLASS_ROWS_PER_FEATURE", 100)  # all rows
    objective, point = confident_problem(rng, loss, intercept)
    preconditioner, _ = refresh(objective, 0, point, seed=0, n_refreshes=0)
    assert isinstance(preconditioner, BlockDiagonal)
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
    np.testing.assert_allclose(preconditioner.solve(v), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("full_size", [2000, 0], ids=["full", "block-diagonal"])
def test_preconditioners_at_a_point_are_alike_on_all_backends(
    full_size: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessian, "FULL_SIZE", full_size)
    solutions = []
    for device in (NUMPY, backend):
        rng = np.random.default_rng(0)
        objective, point = confident_problem(rng, "softmax", "free", backend=device)
        preconditioner, _ = refresh(objective, 0, device.asarray(point), seed=0, n_refreshes=0)
        solutions.append(device.to_numpy(preconditioner.solve(device.asarray(point))))
    np.testing.assert_allclose(*solutions, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("full_size", [2000, 0], ids=["full", "block-diagonal"])
def test_preconditioners_at_a_point_have_the_same_bits_at_any_thread_count(
    full_size: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessian, "FULL_SIZE", full_size)
    X, y, point = rng.standard_normal((3000, 20)).astype(np.float32), rng.integers(0, 9, 3000), rng.random((21, 9))
    point = point.astype(np.float32)
    digests = set()
    for threads in (1, 2, 7):
        preconditioner, _ = refresh(
            objective_of(X, y, get_backend("cpu", threads), c=9, l2=0.01), 0, point, seed=3, n_refreshes=1
        )
        digests.add(preconditioner.solve(point).tobytes())
    assert len(digests) == 1


def test_rows_are_drawn_by_their_curvature_and_weighed_with_the_inverse() -> None:
    weights = np.array([0.0, 1.0, 10.0, 100.0] * 1000)
    counts, total = np.zeros(4), 0.0
    for seed in range(20):
        chosen, scale = hessian._draw_rows(weights, 400, np.random.default_rng(seed))
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
    preconditioner, _ = refresh(objective, 0, np.vstack([2000 * np.eye(3), np.zeros((1, 3))]), seed=0, n_refreshes=0)
    v = rng.standard_normal((4, 3))
    v[-1] = 0
    np.testing.assert_allclose(preconditioner.solve(v), v / 0.25, rtol=1e-12)


def test_what_a_preconditioners_costs_is_told_in_reads() -> None:
    def cost(n: int, d: int, c: int, K: int = 1) -> float:
        y = np.arange(n) % c
        return refresh_cost(objective_of(np.zeros((n, d), np.float32), y, NUMPY, c=c, K=K, l2=[0.1] * K))

    assert cost(1797, 64, 10) < 100  # joint
    assert cost(20_000, 768, 100) < 100  # class-wise
    assert cost(5000, 3072, 10) > 100
    assert cost(20_000, 64, 10) < cost(2000, 64, 10)
    assert cost(9000, 9000, 10) == float("inf")  # 10 x 9000 x 9000 numbers
    assert cost(1797, 64, 10, K=1000) == float("inf")  # 1000 x 650 x 650
