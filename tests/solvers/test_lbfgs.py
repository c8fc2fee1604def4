"""L-BFGS: the gradient vanishes at its result, models do not affect each other, and the reason to stop is right."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import load_cifar10, reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import LBFGS, LBFGSState, newton
from gpusoftmax.solvers.lbfgs import REFRESH_COST_FACTOR
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.preconditioners.hessian import refresh
from gpusoftmax.trainer import train
from tests.support.cases import Array, blobs, evaluated, objective_of, random_problem, run, sha256, zeros_for

NUMPY = get_backend("numpy", n_threads=1)


@pytest.fixture(autouse=True)
def _without_newton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are so small that it would take over."""
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)


def gradient_at(X: Array, y: Array, state: LBFGSState, **options: Any) -> float:
    """The largest entry of the float64 gradient of the specification."""
    _, dW, db = reference.loss_and_gradient(
        X.astype(np.float64), y, state.W.astype(np.float64), state.b.astype(np.float64), **options
    )
    return float(max(np.abs(dW).max(), np.abs(db).max()))


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("penalize_intercept", [False, True])
def test_the_gradient_vanishes_where_it_ends(backend: Backend, loss: str, penalize_intercept: bool) -> None:
    X, y = blobs(0, n=150, d=6, c=4)
    X = X.astype(np.float64)
    objective = objective_of(X, y, backend, loss=loss, l2=0.01, penalize_intercept=penalize_intercept)
    state = run(LBFGS(200, tol=1e-9), objective)
    assert (state.reason, state.reasons) == ("converged", ["converged"])
    found = gradient_at(X, y, state, l2=0.01, loss=loss, penalize_intercept=penalize_intercept)
    assert found <= 1e-9 + 1e-13  # the sum over 150 rows rounds


def test_without_an_intercept_it_stays_zero(backend: Backend) -> None:
    X, y = blobs(1, n=100, d=4)
    state = run(LBFGS(200, tol=1e-6), objective_of(X, y, backend, l2=0.1, fit_intercept=False))
    assert state.reason == "converged"
    assert not state.b.any()


def test_features_of_very_different_sizes_cost_no_more_passes() -> None:
    X, y = blobs(2, n=300, d=5, apart=0.7)
    sizes = 10.0 ** np.arange(-2, 3)
    plain = run(LBFGS(300, tol=1e-5), objective_of(X.astype(np.float64), y, NUMPY))
    # no penalty, which would tell the two apart
    uneven = run(LBFGS(300, tol=1e-5 * sizes.min()), objective_of(X * sizes, y, NUMPY))
    assert plain.reason == uneven.reason == "converged"
    assert uneven.step <= 1.5 * plain.step
    np.testing.assert_allclose(uneven.value, plain.value, rtol=1e-8)


@pytest.mark.parametrize(("n", "d", "passes", "near"), [(400, 5, 10, 1e-5), (12, 40, 20, 1e-3)])
def test_few_passes_suffice(n: int, d: int, passes: int, near: float) -> None:
    """Fewer rows than features are separable: scores have far to go."""
    X, y = blobs(3, n=n, d=d, apart=1.0)
    objective = objective_of(X, y, NUMPY, l2=0.05)
    optimum = run(LBFGS(500, tol=1e-9), objective_of(X.astype(np.float64), y, NUMPY, l2=0.05)).value[0]
    state = run(LBFGS(passes, tol=0.0), objective)
    assert state.value[0] <= optimum * (1 + near)


def test_models_side_by_side_arrive_where_each_arrives_alone(backend: Backend) -> None:
    X, y = blobs(4, n=90, d=4)
    X = X.astype(np.float64)
    l2, weights = np.array([1.0, 0.1, 0.003]), np.random.default_rng(0).integers(0, 3, (90, 3)).astype(np.float64)
    together = run(LBFGS(200, tol=1e-8), objective_of(X, y, backend, K=3, l2=l2, weights=weights))
    assert together.reasons == ["converged"] * 3
    for k in range(3):
        alone = run(LBFGS(200, tol=1e-8), objective_of(X, y, backend, l2=l2[k], weights=weights[:, k : k + 1]))
        # strongly convex: both are within tol * sqrt(numbers) / l2 of the optimum
        np.testing.assert_allclose(together.W[:, k], alone.W[:, 0], atol=2 * 1e-8 * 4 / l2[k])
        np.testing.assert_allclose(together.value[k], alone.value[0], rtol=1e-12)


def test_models_that_have_arrived_are_not_visited_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(5, n=90, d=4)
    seen = []
    evaluate = Objective.value_and_gradient

    def spy(self: Objective, W: Array, b: Array, **named: Any) -> Any:
        seen.append(W.shape[1])
        return evaluate(self, W, b, **named)

    monkeypatch.setattr(Objective, "value_and_gradient", spy)
    run(LBFGS(200, tol=1e-6), objective_of(X.astype(np.float64), y, NUMPY, K=3, l2=[10.0, 1e-2, 1e-4]))
    assert seen[0] == 3
    assert seen[-1] == 1
    assert seen == sorted(seen, reverse=True)


def test_the_weights_are_added_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(5, n=90, d=4)
    seen = []
    weight_sums = Objective.weight_sums

    def spy(self: Objective) -> Any:
        seen.append(self)
        return weight_sums(self)

    monkeypatch.setattr(Objective, "weight_sums", spy)
    run(LBFGS(200, tol=1e-6), objective_of(X.astype(np.float64), y, NUMPY, l2=1e-2))
    assert len(seen) == 1


def test_it_never_goes_up(backend: Backend) -> None:
    problem = random_problem(6, n=60, d=100, c=3, size=30.0)
    objective = objective_of(problem.X, problem.labels, backend, l2=1e-6)  # separable: scores grow, steps are refused
    solver, values = LBFGS(60, tol=1e-7), []
    state = solver.init(objective, *zeros_for(objective))
    while not state.reason:
        state = solver.step(objective, state)
        values.append(float(state.value[0]))
    eps = float(np.finfo(np.float32).eps)
    assert all(later <= earlier * (1 + 16 * eps) for earlier, later in pairwise(values))
    assert values[-1] < 0.01 * values[0]


def test_a_step_that_is_too_long_is_tried_again_nearer_by() -> None:
    X, y = blobs(7, n=60, d=3)
    objective = objective_of(X.astype(np.float64), y, NUMPY, l2=0.01)
    solver = LBFGS(100, tol=1e-9)
    state = solver.step(objective, solver.init(objective, *zeros_for(objective)))
    state.models.direction *= 1e3
    state.models.slope *= 1e3
    before = state.value.copy()
    state = solver.step(objective, state)
    assert state.value == before  # refused: the point stays
    assert 0.1 <= state.models.length[0] <= 0.5
    while not state.reason:
        state = solver.step(objective, state)
    assert state.reason == "converged"


def test_an_overflowing_step_is_refused_too() -> None:
    X, y = blobs(7, n=60, d=3)
    objective = objective_of(X, y, NUMPY, l2=0.01)
    solver = LBFGS(100, tol=1e-5)
    state = solver.step(objective, solver.init(objective, *zeros_for(objective)))
    state.models.direction *= 1e38
    with np.errstate(over="ignore", invalid="ignore"):
        state = solver.step(objective, state)
    assert state.models.length[0] == 0.1
    assert np.isfinite(state.value[0])


def test_at_the_optimum_one_read_is_enough(backend: Backend) -> None:
    X, y = blobs(8)
    objective = objective_of(X, y, backend, l2=0.1)
    first = run(LBFGS(100, tol=1e-5), objective)
    again = run(LBFGS(100, tol=1e-5), objective, first.W, first.b)
    assert (again.step, again.reason) == (1, "converged")
    assert sha256(again.W, again.b) == sha256(first.W, first.b)


def test_with_nothing_left_but_rounding_it_stops_and_says_so(backend: Backend) -> None:
    X, y = blobs(9, n=200, d=5)
    objective = objective_of(X, y, backend, l2=0.01)
    state = run(LBFGS(1000, tol=0.0), objective)
    assert state.reason == "precision"
    assert state.step < 100
    # each entry is a mean over the rows of terms of size |x| <= 10, rounded to float32
    assert state.gradient_norm[0] < 100 * np.finfo(np.float32).eps


def test_steps_that_run_out_end_it_and_the_read_at_the_start_is_none() -> None:
    X, y = blobs(10)
    state = run(LBFGS(3, tol=0.0), objective_of(X, y, NUMPY, l2=1e-4))
    assert (state.reason, state.reasons) == ("finished", ["finished"])
    assert (state.iterations.tolist(), state.step) == ([3], 4)


def test_a_single_step_moves_and_goes_down(backend: Backend) -> None:
    X, y = blobs(10)
    objective = objective_of(X, y, backend, l2=1e-4)
    state = run(LBFGS(1, tol=0.0), objective)
    assert state.value[0] < 0.5 * state.start[0]
    assert abs(backend.to_numpy(state.W)).max() > 0


def test_a_refused_trial_is_no_step() -> None:
    X, y = blobs(7, n=60, d=3)
    objective = objective_of(X.astype(np.float64), y, NUMPY, l2=0.01)
    solver = LBFGS(1, tol=0.0)
    state = solver.step(objective, solver.init(objective, *zeros_for(objective)))
    state.models.direction *= 1e3
    state.models.slope *= 1e3
    before = state.value.copy()
    while not state.reason:
        state = solver.step(objective, state)
    assert (state.reason, state.iterations.tolist()) == ("finished", [1])
    assert state.step > 2  # the start, trials that were refused, and the step
    assert state.value < before


@pytest.mark.parametrize("slope", [1.0, np.inf])
def test_trials_that_are_always_refused_end(slope: float) -> None:
    """No trial is as low as the slope promises, which rounding never excuses."""
    X, y = blobs(7, n=60, d=3)
    objective = objective_of(X.astype(np.float64), y, NUMPY, l2=0.01)
    solver = LBFGS(10**9, tol=0.0)
    state = solver.step(objective, solver.init(objective, *zeros_for(objective)))
    state.models.direction *= -1  # uphill
    state.models.slope[:] = slope
    state.models.value[:] = 1e-300
    while not state.reason and state.step < 1000:
        state = solver.step(objective, state)
    assert (state.reason, state.iterations.tolist()) == ("precision", [0])
    assert state.step < 130


def test_models_side_by_side_take_their_own_steps() -> None:
    X, y = blobs(4, n=90, d=4)
    l2 = [10.0, 1e-4]
    state = run(LBFGS(4, tol=1e-3), objective_of(X.astype(np.float64), y, NUMPY, K=2, l2=l2))
    alone = [run(LBFGS(4, tol=1e-3), objective_of(X.astype(np.float64), y, NUMPY, l2=one)) for one in l2]
    assert state.reasons == ["converged", "finished"]
    assert state.reason == "finished"
    assert state.iterations.tolist() == [int(one.iterations[0]) for one in alone]


def test_a_model_whose_neighbour_is_refused_keeps_the_pair_of_its_step() -> None:
    X, y = blobs(4, n=90, d=4, apart=1.0)
    objective = objective_of(X.astype(np.float64), y, NUMPY, K=3, l2=[1e-8, 1e-2, 1e-6])
    W, b = zeros_for(objective)
    solver, uneven = LBFGS(60, tol=0.0), 0
    state = solver.init(objective, W + 3 * np.random.default_rng(0).standard_normal(W.shape), b)
    while len(state.models.indices) == 3 and not state.models.refreshes.any():
        before, pairs = state.iterations.copy(), state.models.pairs.valid.sum(axis=1)
        state = solver.step(objective, state)
        if len(state.models.indices) == 3 and not state.models.refreshes.any() and pairs.max() < 10:
            taken = state.iterations - before
            uneven += 0 < taken.sum() < 3
            np.testing.assert_array_equal(state.models.pairs.valid.sum(axis=1), pairs + taken)
    assert uneven


def test_what_it_reports_is_of_the_weights_it_holds(backend: Backend) -> None:
    X, y = blobs(11)
    objective = objective_of(X, y, backend, K=2, l2=[0.1, 0.01])
    solver = LBFGS(5, tol=0.0)
    state = solver.init(objective, *zeros_for(objective))
    while not state.reason:
        state = solver.step(objective, state)
        expected = evaluated(objective, state.W, state.b)
        for name in ("value", "loss", "accuracy"):
            np.testing.assert_allclose(getattr(state, name), getattr(expected, name), rtol=1e-6)
        largest = np.maximum(np.abs(expected.dW).max(axis=(0, 2)), np.abs(expected.db).max(axis=1))
        np.testing.assert_allclose(state.gradient_norm, largest, rtol=1e-2, atol=1e-6)


def test_passes_count_the_sample_of_the_preconditioner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.solvers.preconditioners.gram.SMALLEST_SAMPLE", 10)
    X, y = blobs(12, n=100, d=3)
    state = run(LBFGS(2, tol=0.0), objective_of(X, y, NUMPY, l2=0.1))
    assert state.passes == pytest.approx(state.step + 0.1)  # 10 of 100 rows


@pytest.mark.parametrize("c", [3, 120], ids=["tiles", "blocks"])
def test_the_bits_do_not_depend_on_the_number_of_threads(c: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.cpu.threads.LEAF_ELEMENTS", 1)
    rng = np.random.default_rng(13)
    X, y = rng.integers(0, 256, (700, 300), dtype=np.uint8), rng.integers(0, c, 700)
    digests = set()
    for threads in (1, 2, 7):
        objective = objective_of(X, y, get_backend("cpu", threads), c=c, l2=1.0, shift=np.full(300, 128.0))
        state = run(LBFGS(6, tol=0.0), objective)
        digests.add(sha256(state.W, state.b, state.value))
    assert len(digests) == 1


def test_two_runs_have_the_same_bits(backend: Backend) -> None:
    X, y = blobs(14)
    objective = objective_of(X, y, backend, l2=0.01)
    first, second = (run(LBFGS(10, tol=0.0, seed=3), objective) for _ in range(2))
    assert sha256(first.W, first.b) == sha256(second.W, second.b)


def test_weights_count_rows() -> None:
    X, y = blobs(15, n=60, d=3)
    X = X.astype(np.float64)
    times = np.random.default_rng(0).integers(1, 4, 60)
    weighted = objective_of(X, y, NUMPY, l2=0.1, weights=times[:, None].astype(np.float64))
    repeated = objective_of(np.repeat(X, times, axis=0), np.repeat(y, times), NUMPY, l2=0.1)
    one, other = (run(LBFGS(200, tol=1e-10), objective) for objective in (weighted, repeated))
    np.testing.assert_allclose(one.W, other.W, atol=1e-8)
    np.testing.assert_allclose(one.value, other.value, rtol=1e-12)


def confident(seed: int, noise: float = 0.1) -> tuple[Array, Array]:
    """Rows of 2000 embeddings of 24 features, 8 classes; some labels are wrong."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 8, 2000)
    X = 0.8 * rng.standard_normal((8, 24))[y] + rng.standard_normal((2000, 24))
    return X, np.where(rng.random(2000) < noise, rng.integers(0, 8, 2000), y)


@pytest.mark.slow
@pytest.mark.parametrize("full_size", [2000, 0], ids=["full", "block-diagonal"])
def test_a_new_preconditioners_saves_passes_for_confident_models(
    full_size: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusoftmax.solvers.preconditioners.hessian.FULL_SIZE", full_size)
    X, y = confident(0, noise=0.0)  # separable: without noise the optimum is far away
    objective = objective_of(X, y, backend, c=8, l2=1e-5)
    with_it = run(LBFGS(500, tol=1e-6), objective)
    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.REFRESH_AFTER", 10_000)
    without = run(LBFGS(500, tol=1e-6), objective)
    assert with_it.reason == without.reason == "converged"
    assert with_it.step < 0.7 * without.step
    np.testing.assert_allclose(with_it.value, without.value, rtol=1e-4)
    assert with_it.passes > with_it.step + 1  # the rows that were looked at count


def test_models_side_by_side_have_new_preconditioners_at_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = confident(1)
    l2 = np.array([10.0, 1e-6])
    made = []

    def spy(objective: Objective, k: int, *rest: Any) -> Any:
        made.append(float(objective.penalty.strengths[k]))
        return refresh(objective, k, *rest)

    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.refresh", spy)
    together = run(LBFGS(200, tol=1e-7), objective_of(X, y, NUMPY, c=8, K=2, l2=l2))
    assert set(made) == {1e-6}  # the other one had arrived
    for k in range(2):
        alone = run(LBFGS(200, tol=1e-7), objective_of(X, y, NUMPY, c=8, l2=l2[k]))
        np.testing.assert_allclose(together.value[k], alone.value[0], rtol=1e-7)


def test_where_rows_are_few_the_gram_matrix_comes_after_the_diagonal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpusoftmax.solvers.preconditioners.gram.AFFORDABLE_PASSES", 0.0)
    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.REFRESH_COST_FACTOR", 0.0)
    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.STEPS_TO_GO", 4)
    X, y = blobs(16, n=40, d=60, apart=0.3)
    with caplog.at_level("INFO", "gpusoftmax"):
        state = run(LBFGS(400, tol=1e-9), objective_of(X.astype(np.float64), y, NUMPY, l2=1e-5))
    kinds = re.findall("preconditioner: ([a-z -]+),", caplog.text)
    assert kinds[:2] == ["diagonal", "low rank"]
    assert state.reason == "converged"


def test_the_gram_matrix_of_few_rows_waits_for_the_passes_that_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(16)
    X, y = rng.standard_normal((300, 2500)).astype(np.float32), np.arange(300) % 10
    objective = objective_of(X, y, NUMPY, c=10, l2=0.03)
    sample = GramSample(objective, 0)
    assert not sample.at_once
    assert REFRESH_COST_FACTOR * sample.cost > 12
    with caplog.at_level("INFO", "gpusoftmax"):
        run(LBFGS(12, tol=1e-8), objective)
    assert re.findall("preconditioner: ([a-z -]+),", caplog.text) == ["diagonal"]


@pytest.mark.parametrize(("C", "optimum"), [(1e-2, 1.607079), (3e-4, 1.711579), (1e-4, 1.763991)])
def test_cifar10_is_solved_in_few_reads(C: float, optimum: float, cifar10_folder: Path) -> None:
    data = load_cifar10(cifar10_folder)
    backend = get_backend("cpu")
    mean, _ = backend.ops.column_moments(data.X_train, None)
    objective = objective_of(
        data.X_train, data.y_train, backend, c=10, l2=1 / (C * 49000), shift=mean, scale=np.full(3072, 64.0)
    )
    solver = LBFGS(18, tol=0.0)
    state, values = solver.init(objective, *zeros_for(objective)), []
    while not state.reason:
        state = solver.step(objective, state)
        values.append((state.passes, state.value[0]))
    assert min(passes for passes, value in values if value <= optimum * (1 + 1e-4)) <= 12
    assert min(passes for passes, value in values if value <= optimum * (1 + 1e-6)) <= 18


def test_of_several_models_those_whose_start_is_not_finite_have_diverged(cpu_backend: Backend) -> None:
    X, y = blobs(1)
    objective = objective_of(X, y, cpu_backend, K=3, l2=[0.1, 0.1, 0.1])
    W, b = zeros_for(objective)
    W[:, 1] = 1e38
    result = train(objective, LBFGS(100, tol=1e-5), W, b)
    assert result.reasons == ["converged", "diverged", "converged"]
    assert np.isfinite(result.W[:, [0, 2]]).all()
