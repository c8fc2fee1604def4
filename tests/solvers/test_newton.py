"""Truncated Newton: its products, its directions, when it begins, and that it ends where L-BFGS does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import linalg

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import LinearTerm, Objective
from gpusoftmax.operations import RowCurvature
from gpusoftmax.solvers import LBFGS, newton
from gpusoftmax.solvers.certificate import certify
from gpusoftmax.solvers.newton import Newton, in_blocks
from gpusoftmax.solvers.preconditioners.gram import GramSample
from tests.support.cases import INTERCEPTS, Array, blobs, objective_of, run, sha256, zeros_for

NUMPY = get_backend("numpy", n_threads=1)
N, D, C = 300, 6, 4
LOSS_NAMES = ["softmax", "squared_hinge"]


def objective_with(backend: Backend = NUMPY, *, dtype: Any = np.float64, seed: int = 0, **options: Any) -> Objective:
    X, y = blobs(seed, n=N, d=D, c=C, apart=0.7)
    return objective_of(X.astype(dtype), y, backend, c=C, **{"l2": 0.01, **options})


def random_scaling() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {"scale": rng.uniform(0.1, 10, D), "shift": rng.standard_normal(D)}


def at(objective: Objective, x: Array) -> tuple[float, Array]:
    """The objective and its gradient (d + 1, c) at x."""
    found = objective.value_and_gradient(x[:-1, None], x[-1:])
    return float(found.value[0]), np.concatenate([found.dW[:, 0], found.db])


def dense_hessian(objective: Objective, x: Array) -> Array:
    """The Hessian with respect to x (d + 1, c), flattened, in float64 from the losses' Hessians of all rows."""
    features = objective.features
    rows = np.hstack([features.sample(np.arange(N)), np.ones((N, 1))])
    s = np.full(N, 1 / N) if objective.weights is None else objective.weights[:, 0] / objective.weights[:, 0].sum()
    hessians = objective.loss.row_hessians(rows @ x, objective.labels, s)
    H = np.empty((D + 1, C, D + 1, C))
    for j in range(C):
        for k in range(C):
            H[:, j, :, k] = (rows * hessians.entries(j, k)[:, None]).T @ rows
    l2 = np.full(D + 1, objective.penalty.strengths[0])
    l2[-1] *= objective.penalty.on_intercept
    H = H.reshape((D + 1) * C, -1)
    H[np.diag_indices(len(H))] += np.repeat(l2, C)
    return H


@pytest.mark.parametrize("m", [0, 1, 64, 150, 600])
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_a_product_with_the_hessian_is_that_of_float64(name: str, loss: str, m: int) -> None:
    rng = np.random.default_rng(m)
    x, V = rng.standard_normal((m, D)).astype(np.float32), rng.standard_normal((C, D))
    labels, weights = rng.integers(0, C, m).astype(np.int32), rng.uniform(0, 2, m).astype(np.float32)
    hessians = LOSSES[loss].row_hessians(rng.standard_normal((m, C)).astype(np.float32), labels, weights)
    curvature = RowCurvature(
        in_blocks(x, 4),
        in_blocks(hessians.factors),
        None if loss == "softmax" else in_blocks(labels[:, None])[:, 0],
        in_blocks(weights[:, None])[:, 0],
    )
    multiply = get_backend(name, 1).ops.hessian_product(curvature)
    multiply(2 * V)  # leaves nothing behind
    found = multiply(V)
    expected, size = np.zeros((C, D)), np.zeros((C, D))
    scores = x.astype(np.float64) @ V.T
    for j in range(C):
        for k in range(C):
            entries = hessians.entries(j, k).astype(np.float64)
            expected[j] += (entries * scores[:, k]) @ x
            size[j] += abs(entries) * (abs(x) @ abs(V[k])) @ abs(x)
    assert found.shape == (C, D)
    # sums of 6, 4 and m products in float32, and what each entry of a row's Hessian rounds
    assert (abs(found - expected) <= (2 * C + D + m + 8) * np.finfo(np.float32).eps * size).all()


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("by_class", [0, 1])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_a_direction_is_that_of_newton(
    loss: str, by_class: int, intercept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "WEAKEN", 1e9)  # the penalty of the objective, and not a stronger one
    weights = np.random.default_rng(1).integers(0, 4, (N, 1)).astype(np.float64)
    objective = objective_with(loss=loss, weights=weights, **INTERCEPTS[intercept], **random_scaling())
    x = 0.3 * np.random.default_rng(2).standard_normal((D + 1, C))
    trained = D + int(objective.fit_intercept)
    x[trained:] = 0
    _, g = at(objective, x)
    (guide,) = newton.guides(objective)
    assert guide is not None
    guide.by_class = by_class
    found = guide.direction(x, g, g)
    assert found is not None
    direction, slope = found
    assert slope == pytest.approx(float((g * direction).sum()), rel=1e-9)
    assert not direction[trained:].any()
    H = dense_hessian(objective, x)[: trained * C, : trained * C]
    g, direction = g[:trained].reshape(-1), direction[:trained].reshape(-1)
    exact = linalg.lstsq(H, g, cond=1e-12)[0]
    # with the residual r = g - H p in the norm of H^-1: cos^2 = 1 - r^2, whatever the step length; r is a few eta
    cosine = float(g @ direction) / np.sqrt(float(direction @ H @ direction) * float(g @ exact))
    assert cosine > 0.95


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_step_is_the_minimum_along_the_direction(loss: str) -> None:
    objective = objective_with(loss=loss)
    x = 0.3 * np.random.default_rng(2).standard_normal((D + 1, C))
    _, g = at(objective, x)
    (guide,) = newton.guides(objective)
    assert guide is not None
    found = guide.direction(x, g, g)
    assert found is not None
    direction, slope = found
    along = float((at(objective, x - direction)[1] * direction).sum())
    assert abs(along) <= (newton.FLAT + 0.01) * slope * (3 if loss == "squared_hinge" else 1)


@pytest.mark.parametrize("options", [*INTERCEPTS.values(), random_scaling(), {"dtype": np.float32}])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_optimum_is_that_of_lbfgs_alone(
    loss: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, tol = objective_with(loss=loss, **options), 1e-5 if "dtype" in options else 1e-9
    monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    guided = run(LBFGS(300, tol=tol), objective)
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    alone = run(LBFGS(300, tol=tol), objective)
    assert guided.reasons == alone.reasons == ["converged"]
    assert guided.step < alone.step
    # both are within tol sqrt(28) / l2 of the optimum
    np.testing.assert_allclose(guided.W, alone.W, atol=2 * tol * np.sqrt((D + 1) * C) / 0.01)


def test_soft_labels_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    term = LinearTerm(0.02 * np.random.default_rng(1).standard_normal((D, 1, C)), np.zeros((1, C)))
    objective = objective_with(linear_term=term)
    guided = run(LBFGS(300, tol=1e-9), objective)
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    alone = run(LBFGS(300, tol=1e-9), objective)
    assert guided.reasons == alone.reasons == ["converged"]
    np.testing.assert_allclose(guided.W, alone.W, atol=1e-6)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_bounds_hold(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    for seed in range(3):
        objective = objective_with(loss=loss, seed=seed)
        optimum = run(LBFGS(300, tol=1e-11), objective).value[0]
        for steps in (1, 2, 4):
            state = run(LBFGS(steps, tol=1e-9), objective)
            (certificate,) = certify(objective, state.W, state.b)
            assert certificate.bound is not None
            assert certificate.objective - optimum <= certificate.bound + 1e-14


def test_a_nearly_separable_squared_hinge_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that violate a margin change in each step; L-BFGS alone takes hundreds of passes, as for raw digits."""
    X, y = blobs(3, n=N, d=20, c=C, apart=1.5)
    objective = objective_of(X.astype(np.float64), y, NUMPY, c=C, loss="squared_hinge", l2=1e-6)
    state = run(LBFGS(500, tol=1e-6), objective)
    assert state.reasons == ["converged"]
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    assert state.step < 0.5 * run(LBFGS(500, tol=1e-6), objective).step


def test_it_waits_where_lbfgs_may_be_fast() -> None:
    def waits(**options: Any) -> bool:
        objective = objective_with(**options)
        return all(guide is not None and guide.waits for guide in newton.guides(objective))

    assert not waits()
    assert waits(loss="squared_hinge")
    assert waits(l2=1e-8)
    assert waits(K=2, l2=[0.1, 0.2])
    objective = objective_with(loss="hinge")
    assert newton.guides(objective) == [None]


def test_a_waiting_guide_takes_over_where_lbfgs_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    original = Newton.begin
    monkeypatch.setattr(Newton, "begin", lambda guide: (begun.append(guide.k), original(guide)))
    X, y = blobs(3, n=N, d=20, c=C, apart=1.5)
    objective = objective_of(X.astype(np.float64), y, NUMPY, K=2, c=C, loss="squared_hinge", l2=[1e-6, 30.0])
    state = run(LBFGS(500, tol=1e-6), objective)
    assert state.reasons == ["converged"] * 2
    assert begun == [0]


def test_at_zero_it_takes_the_direction_of_the_gram_matrix() -> None:
    objective = objective_with()
    (guide,) = newton.guides(objective)
    assert guide is not None
    x = np.zeros((D + 1, C))
    _, g = at(objective, x)
    preconditioned = GramSample(objective, 0).preconditioners(objective).by_model[0].solve(g)
    found = guide.direction(x, g, preconditioned)
    assert found is not None
    cosine = float((found[0] * preconditioned).sum()) / np.linalg.norm(found[0]) / np.linalg.norm(preconditioned)
    assert cosine == pytest.approx(1, abs=1e-12)


def test_lbfgs_takes_over_where_there_is_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, calls = objective_with(), []
    monkeypatch.setattr(Newton, "direction", lambda *arguments: calls.append(1))
    state = run(LBFGS(200, tol=1e-9), objective)
    assert (len(calls), state.reasons) == (1, ["converged"])


def test_a_feature_that_is_not_finite_in_float32_ends_it() -> None:
    X, y = blobs(0, n=N, d=D, c=C, apart=0.7)
    X = X.astype(np.float64)
    X[:, 0] *= 1e60
    state = run(LBFGS(50, tol=1e-6), objective_of(X, y, NUMPY, c=C, l2=0.01))
    assert np.isfinite(state.value).all()
    assert state.value[0] < np.log(C)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_threads_do_not_change_the_bits(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    monkeypatch.setattr(newton, "PRODUCTS_PER_COLUMN", 0.5)  # both preconditioners
    found = set()
    for threads in (1, 2, 7):
        objective = objective_with(get_backend("cpu", threads), dtype=np.float32, loss=loss)
        state = run(LBFGS(50, tol=1e-5), objective)
        found.add(sha256(state.W, state.b))
    assert len(found) == 1


def test_it_continues_a_start_that_is_not_zero() -> None:
    objective = objective_with()
    W, b = zeros_for(objective)
    near = run(LBFGS(200, tol=1e-6), objective)
    state = run(LBFGS(200, tol=1e-9), objective, W + near.W, b + near.b)
    assert state.reasons == ["converged"]
    assert state.step <= 5


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_mean_over_the_classes_vanishes(loss: str, intercept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    objective = objective_with(loss=loss, **INTERCEPTS[intercept])
    W, b = zeros_for(objective)
    for start in (0.0, 1.0):
        found = run(LBFGS(200, tol=1e-6), objective, W + start, b)
        # the smallest l2 is 0.01, by which rounding errors of gradients below 1 are divided
        np.testing.assert_allclose(found.W.mean(axis=2), 0, atol=100 * np.finfo(np.float64).eps / 0.01)


def test_the_root_of_an_increasing_function() -> None:
    assert newton._root(lambda a: a - 1.02, -1.02) == 1.0
    assert newton._root(lambda a: a - 300.0, -300.0) == pytest.approx(300, rel=newton.FLAT)
    assert newton._root(lambda a: np.sqrt(a) - 0.03, -0.03) == pytest.approx(0.03**2, abs=1e-4)
    assert newton._root(lambda a: -1.0, -1.0) >= newton.LONGEST
