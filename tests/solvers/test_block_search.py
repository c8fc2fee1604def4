"""Block search: its model of the objective, and that L-BFGS takes over where the sample is no guide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import LBFGS, block_search, newton
from gpusoftmax.solvers.block_search import BlockSearch
from gpusoftmax.solvers.preconditioners import woodbury
from gpusoftmax.solvers.preconditioners.gram import GramSample
from tests.support.cases import Array, objective_of, run, sha256, zeros_for

NUMPY = get_backend("numpy", n_threads=1)
N, D, C = 3000, 100, 2


@pytest.fixture(autouse=True)
def _for_small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(woodbury, "FEWEST", 32)
    monkeypatch.setattr(woodbury, "FEWEST_OTHERS", 600)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 0.0)
    monkeypatch.setattr(block_search, "LEAST_QUEUED_PASS", 0.0)
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)


def rows(seed: int = 0, n: int = N, d: int = D, c: int = C) -> tuple[Array, Array]:
    """Classes that overlap, in features whose variances decay."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    spread = 1 / np.sqrt(1 + np.arange(d))
    return (rng.standard_normal((c, d))[y] * 0.5 + rng.standard_normal((n, d))) * spread, y


def objective_with(backend: Backend = NUMPY, *, dtype: Any = np.float64, c: int = C, **options: Any) -> Objective:
    X, y = rows(c=c)
    return objective_of(X.astype(dtype), y, backend, c=c, **{"l2": 0.02, **options})


def started(objective: Objective) -> tuple[BlockSearch, Any]:
    """The guide of model 0 at its start, and its preconditioner."""
    sample = GramSample(objective, 0)
    (preconditioner,) = sample.preconditioners(objective).by_model
    others = sample.other_rows(preconditioner)
    assert others is not None
    return BlockSearch(objective, 0, others), preconditioner


def at(objective: Objective, x: Array) -> tuple[float, Array]:
    """The objective and its gradient (d + 1, c) at x."""
    found = objective.value_and_gradient(x[:-1, None], x[-1:])
    return float(found.value[0]), np.concatenate([found.dW[:, 0], found.db])


@pytest.mark.parametrize("options", [{}, {"penalize_intercept": True}, {"fit_intercept": False}])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_the_optimum_is_that_of_lbfgs_alone(
    loss: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objective_with(loss=loss, l2=0.3 if loss == "squared_hinge" else 0.02, **options)
    guided = run(LBFGS(200, tol=1e-9), objective)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 1e15)
    alone = run(LBFGS(200, tol=1e-9), objective)
    assert guided.reasons == alone.reasons == ["converged"]
    # both gradients are below 1e-9 and the curvature is above l2 = 0.02: 1e-9 sqrt(202) / 0.02 = 7e-7
    np.testing.assert_allclose(guided.W, alone.W, atol=1e-6)


def test_it_takes_fewer_passes_than_lbfgs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows(n=6000, d=200, c=4)
    objective = objective_of(X, y, NUMPY, c=4, l2=0.003)
    guided = run(LBFGS(200, tol=1e-4), objective)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 1e15)
    alone = run(LBFGS(200, tol=1e-4), objective)
    assert guided.reasons == alone.reasons == ["converged"]
    assert guided.step <= alone.step - 2


def test_the_directions_are_orthonormal_in_the_metric() -> None:
    objective = objective_with(l2=0.02)
    guide, preconditioner = started(objective)
    x = guide.start(np.zeros((D + 1, C)), preconditioner)
    for _ in range(7):  # more than it keeps
        _, g = at(objective, x)
        found = guide.direction(x, g, preconditioner.solve(g))
        assert found is not None
        x = x - found[0]
    Gram = guide.kappa * (guide.Phi * guide.weights).T @ guide.Phi + (guide.D * guide.penalty).T @ guide.D
    assert 1 + C < guide.D.shape[1] <= 1 + woodbury.BLOCKS * C
    np.testing.assert_allclose(Gram, np.eye(len(Gram)), atol=1e-6)  # near the optimum the new ones are nearly dependent
    # the scores of the sample at x follow without a product with X
    guide.Z = guide.Z + guide.Phi @ guide.A
    np.testing.assert_allclose(guide.Z, guide._scores(x), atol=1e-10)


def test_a_direction_has_the_slope_that_it_says() -> None:
    objective = objective_with()
    guide, preconditioner = started(objective)
    x = guide.start(np.zeros((D + 1, C)), preconditioner)
    f, g = at(objective, x)
    found = guide.direction(x, g, preconditioner.solve(g))
    assert found is not None
    direction, slope = found
    assert slope == pytest.approx(float((g * direction).sum()), rel=1e-9)
    assert at(objective, x - direction)[0] < f - 0.3 * slope  # a good model: half the slope in the quadratic case


def test_the_start_is_better_than_zero_without_a_pass() -> None:
    objective = objective_with()
    state = run(LBFGS(1, tol=0.0), objective)
    assert state.start[0] < objective.value_at_zero()


def test_a_sample_that_misleads_costs_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first point is worse than zero, from which training then starts without it."""
    objective = objective_with()
    alone = run(LBFGS(200, tol=1e-9), objective)

    def away(guide: BlockSearch, x: Any, preconditioner: Any) -> Any:
        guide.moved = True
        return x + 10.0

    monkeypatch.setattr(BlockSearch, "start", away)
    state = run(LBFGS(200, tol=1e-9), objective)
    assert state.reasons == ["converged"]
    assert state.start[0] == pytest.approx(objective.value_at_zero())
    np.testing.assert_allclose(state.W, alone.W, atol=1e-6)


def test_lbfgs_takes_over_where_a_step_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, calls = objective_with(), []
    original = BlockSearch.direction

    def too_long(guide: BlockSearch, *arguments: Any) -> Any:
        calls.append(1)
        found = original(guide, *arguments)
        return (found[0] * 100, found[1] * 100) if found is not None and len(calls) == 3 else found

    monkeypatch.setattr(BlockSearch, "direction", too_long)
    state = run(LBFGS(200, tol=1e-9), objective)
    assert (len(calls), state.reasons) == (3, ["converged"])
    assert state.iterations[0] == state.step - 2  # the start, and one trial that was rejected


@pytest.mark.parametrize("K", [1, 3])
def test_models_side_by_side_arrive_where_each_arrives_alone(backend: Backend, K: int) -> None:
    l2 = np.array([0.3, 0.02, 0.05])[:K]
    weights = None if K == 1 else np.random.default_rng(0).integers(1, 3, (N, K)).astype(np.float64)
    together = run(LBFGS(200, tol=1e-8), objective_with(backend, K=K, l2=l2, weights=weights))
    for k in range(K):
        own = None if weights is None else weights[:, k : k + 1]
        alone = run(LBFGS(200, tol=1e-8), objective_with(backend, l2=l2[k], weights=own))
        # strongly convex: both are within tol * sqrt(numbers) / l2 = 1e-8 * 15 / 0.02 of the optimum
        np.testing.assert_allclose(together.W[:, k], alone.W[:, 0], atol=2e-5)


def test_threads_do_not_change_the_bits() -> None:
    found = set()
    for threads in (1, 2, 7):
        objective = objective_with(get_backend("cpu", threads), dtype=np.float32, c=3)
        state = run(LBFGS(50, tol=1e-4), objective)
        found.add(sha256(state.W, state.b))
    assert len(found) == 1


def test_soft_labels_and_scaling_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear term of soft labels covers all rows, and is not in the objective of the sample."""
    from gpusoftmax.objective.objective import LinearTerm

    rng = np.random.default_rng(1)
    term = LinearTerm(0.05 * rng.standard_normal((D, 1, C)), np.zeros((1, C)))
    scale, shift = rng.uniform(0.5, 2, D), rng.standard_normal(D)
    objective = objective_with(scale=scale, shift=shift, linear_term=term)
    guided = run(LBFGS(200, tol=1e-9), objective)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 1e15)
    alone = run(LBFGS(200, tol=1e-9), objective)
    assert guided.reasons == ["converged"]
    np.testing.assert_allclose(guided.W, alone.W, atol=1e-6)


def test_a_search_ends_at_the_minimum_of_a_quadratic() -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((8, 8))
    H, target = A @ A.T / 8 + np.eye(8), rng.standard_normal((8, 1))

    def value_and_gradient(x: Array) -> tuple[float, Array]:
        return 0.5 * float(((x - target) * (H @ (x - target))).sum()), H @ (x - target)

    found = block_search._minimise(value_and_gradient, *value_and_gradient(np.zeros((8, 1))), 1e-3)
    assert np.linalg.norm(H @ (found - target)) <= 1e-3


def test_it_continues_a_start_that_is_not_zero() -> None:
    objective = objective_with()
    W, b = zeros_for(objective)
    W += 0.1
    state = run(LBFGS(200, tol=1e-9), objective, W, b)
    assert state.start[0] == pytest.approx(at(objective, np.concatenate([W[:, 0], b]))[0])
    assert state.reasons == ["converged"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.filterwarnings("ignore:the largest entry of the gradient")
def test_features_that_are_not_finite_are_reported_as_without_it(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one row, so that samples may miss it, and in all."""
    from gpusoftmax import SoftmaxClassifier

    X, y = rows(n=900)
    for where in (slice(400, 401), slice(None)):
        broken = X.astype(np.float32)
        broken[where, 3] = bad
        if np.isfinite(bad):
            assert np.isfinite(SoftmaxClassifier(l2=0.5, max_iter=5).fit(broken, y).coef_).all()
        else:
            with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
                SoftmaxClassifier(l2=0.5).fit(broken, y)
