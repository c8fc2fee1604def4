"""SGD: each step follows its formula, the automatic learning rate is safe, and bits do not depend on threads."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from gpusoftmax import reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu import sparse as sparse_kernels_of_cpu
from gpusoftmax.cpu import threads
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.read import read_features
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Evaluation, LinearTerm
from gpusoftmax.solvers import SGD, sgd
from gpusoftmax.solvers.sgd import SCHEDULES, automatic_learning_rate
from gpusoftmax.trainer import train
from tests.support.cases import (
    DETERMINISTIC,
    Array,
    blobs,
    evaluated,
    objective_of,
    on_host,
    random_problem,
    run,
    sha256,
    zeros_for,
)

PLAN = BatchPlan(n=20, batch_size=8, seed=3)  # three steps an epoch, the last one shorter
NUMPY = get_backend("numpy", n_threads=1)


def written_out(
    X: Array, y: Array, W: Array, b: Array, *, steps: int, rate: float, momentum: float, nesterov: bool, l2: float
) -> tuple[Array, Array]:
    """One model, softmax, unweighted: the equation of the module, from the reference's gradients."""
    W, b = W.copy(), b.copy()
    velocities = [np.zeros_like(W), np.zeros_like(b)]
    for step in range(steps):
        epoch, batch = divmod(step, PLAN.steps_per_epoch)
        rows = PLAN.epoch(epoch)[batch]
        _, *gradients = reference.loss_and_gradient(X[rows], y[rows], W, b, l2=l2)
        for parameter, g, v in zip((W, b), gradients, velocities, strict=True):
            v *= momentum
            v += g
            parameter -= rate * (g + momentum * v if nesterov else v)
    return W, b


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.0, True), (0.9, False), (0.9, True)],
    ids=["plain", "Nesterov without momentum", "momentum", "Nesterov"],
)  # fmt: skip
def test_steps_are_the_formula(backend: Backend, momentum: float, nesterov: bool) -> None:
    problem = random_problem(0, dtype="float64", n=20, d=5, c=3)
    objective = objective_of(problem.X, problem.labels, backend, c=3, l2=0.1)
    solver = SGD(PLAN, 7, 0.3, momentum, nesterov, "constant")
    state = run(solver, objective, problem.W, problem.b)
    W, b = written_out(
        problem.X, problem.labels, problem.W, problem.b,
        steps=7, rate=0.3, momentum=momentum, nesterov=nesterov, l2=0.1,
    )  # fmt: skip
    # float64, 7 steps of some 20 terms
    np.testing.assert_allclose(state.W, W, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state.b, b, rtol=0, atol=1e-13)
    assert (state.step, state.passes) == (7, 7 / 3)


@pytest.mark.parametrize("c", [3, 30])  # 30: many columns side by side, few alone
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_models_side_by_side_equal_single_models_to_rounding(backend: Backend, loss: str, c: int) -> None:
    K = 3
    problem = random_problem(0, dtype="float64", n=20, d=5, c=c, K=K, weighted=True)
    X, y, W, b, weights = problem.X, problem.labels, problem.W, problem.b, problem.weights
    l2, rates, momenta = np.array([0.0, 0.1, 0.2]), np.array([0.003, 0.001, 0.002]), np.array([0.0, 0.5, 0.9])
    options = {"c": c, "loss": loss}
    solver = SGD(PLAN, 9, rates, momenta)
    together = run(solver, objective_of(X, y, backend, K=K, l2=l2, weights=weights, **options), W, b)
    for k in range(K):
        one = objective_of(X, y, backend, l2=l2[k], weights=weights[:, k : k + 1].copy(), **options)
        alone = run(replace(solver, learning_rate=rates[k], momentum=momenta[k]), one, W[:, [k]], b[[k]])
        # float64; 9 steps
        np.testing.assert_allclose(together.W[:, [k]], alone.W, rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.b[[k]], alone.b, rtol=0, atol=1e-12)


def test_how_often_one_looks_does_not_change_the_weights(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(0)
    objective = objective_of(X, y, backend)
    solver = SGD(BatchPlan(120, 16), 20)
    long = run(solver, objective, *zeros_for(objective))
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 1)
    short = run(solver, objective, *zeros_for(objective))
    assert sha256(long.W, long.b) == sha256(short.W, short.b)


def test_a_stretch_reports_means_over_its_rows_before_their_updates(backend: Backend) -> None:
    X, y = blobs(0, n=20)
    objective = objective_of(X, y, backend, l2=0.1)
    state = SGD(PLAN, 3, 0.1, 0.0).step(objective, SGD(PLAN, 3, 0.1, 0.0).init(objective, *zeros_for(objective)))
    W, b = map(backend.to_numpy, zeros_for(objective))
    expected = np.zeros(3)
    for rows in PLAN.epoch(0):
        result = evaluated(objective, W, b, rows)
        expected += len(rows) * np.array([result.value[0], result.loss[0], result.accuracy[0]]) / 20
        W, b = W - np.float32(0.1) * result.dW, b - np.float32(0.1) * result.db
    assert state.rows == 20
    np.testing.assert_allclose([state.value[0], state.loss[0], state.accuracy[0]], expected, rtol=1e-6)


def test_the_start_is_copied(backend: Backend) -> None:
    X, y = blobs(0)
    objective = objective_of(X, y, backend)
    W, b = zeros_for(objective)
    run(SGD(BatchPlan(120, 16), 5), objective, W, b)
    assert not backend.to_numpy(W).any()
    assert not backend.to_numpy(b).any()


FACTORS = {
    "constant": [1, 1, 1, 1, 1, 1],
    "step": [1, 1, 0.1, 0.1, 0.01, 0.01],
    "cosine": [(1 + math.cos(math.pi * p / 6)) / 2 for p in range(6)],
    "inverse": [1, 1 / 1.5, 1 / 2, 1 / 2.5, 1 / 3, 1 / 3.5],  # two steps an epoch
}


@pytest.mark.parametrize("schedule", FACTORS)
def test_a_schedule_multiplies_the_learning_rate(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 1)  # each step is a stretch
    X, y = blobs(0)
    objective = objective_of(X, y, NUMPY)
    solver = SGD(BatchPlan(120, 60), 6, 0.5, schedule=schedule)
    state = solver.init(objective, *zeros_for(objective))
    rates = [solver.step(objective, state).learning_rate[0] for _ in range(6)]
    np.testing.assert_allclose(rates, 0.5 * np.array(FACTORS[schedule]), rtol=1e-14)


@pytest.mark.parametrize("schedule", ["step", "constant"])
def test_the_weights_move_by_the_scheduled_rate(backend: Backend, schedule: str) -> None:
    X, y = blobs(0)
    objective = objective_of(X, y, backend)
    solver = SGD(BatchPlan(120, 120), 3, 0.5, 0.0, schedule=schedule)
    state = solver.init(objective, *zeros_for(objective))
    state = solver.step(objective, state)
    before = state.W.copy()
    gradient = evaluated(objective, state.W, state.b).dW
    state = solver.step(objective, state)
    factor = 0.1 if schedule == "step" else 1.0
    np.testing.assert_allclose(backend.to_numpy(before - state.W), 0.5 * factor * gradient, rtol=1e-4, atol=1e-7)


class ScriptedObjective:
    """A gradient of ones, and values (epochs, K) by script; the batches of an epoch scatter around its mean."""

    features = SimpleNamespace(n=12, row_numbers=lambda places: places)

    def __init__(self, backend: Backend, plan: BatchPlan, values: Any) -> None:
        self.backend, self.plan, self.values, self.calls = backend, plan, np.asarray(values, np.float64), 0

    @property
    def n_models(self) -> int:
        return self.values.shape[1]

    def weight_sums(self) -> Array:
        return self.backend.xp.full(self.n_models, 12.0)

    def select(self, models: Array) -> ScriptedObjective:
        part = ScriptedObjective(self.backend, self.plan, self.values[:, models])
        part.calls = self.calls
        return part

    def sgd_steps(self, *arguments: Any) -> None:
        """It has no steps in one call."""

    def value_and_gradient(self, W: Array, b: Array, rows: Array | None, sums: Array) -> Evaluation:
        epoch, batch = divmod(self.calls, self.plan.steps_per_epoch)
        self.calls += 1
        scatter = 0.5 * (batch - (self.plan.steps_per_epoch - 1) / 2)  # of batches of one size the mean is 0
        value = self.backend.asarray(self.values[epoch] + scatter)
        return Evaluation(value, value, value, self.backend.xp.ones(W.shape), self.backend.xp.ones(b.shape))

    def start(self) -> tuple[Array, Array]:
        """W and b of zeros, of two classes."""
        return self.backend.xp.zeros((1, self.n_models, 2)), self.backend.xp.zeros((self.n_models, 2))


@pytest.fixture
def epochs_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of five epochs, even of a single step each."""
    monkeypatch.setattr(sgd, "PATIENT_STEPS", 1)


@pytest.mark.usefixtures("epochs_alone_count")
@pytest.mark.parametrize(
    "plan",
    [BatchPlan(12, 12), BatchPlan(12, 4), BatchPlan(12, 4, replacement=True), BatchPlan(12, 5, replacement=True)],
    ids=["full batch", "minibatches", "with replacement", "with replacement, more rows than there are"],
)
def test_adaptive_shortens_the_steps_of_a_stuck_model_only(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, plan: BatchPlan
) -> None:
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 8)  # an epoch of minibatches is two stretches
    epochs = np.arange(13.0)[:, None]
    # stuck; making progress; making little, which adds up to tol within five epochs; too little
    objective: Any = ScriptedObjective(backend, plan, 1 - epochs * [0.0, 0.01, 0.00003, 0.000018])
    solver = SGD(plan, 13 * plan.steps_per_epoch, np.array([1.0, 2.0, 3.0, 4.0]), tol=1e-4)
    state = solver.init(objective, *objective.start())
    rates = []
    while not state.reason:
        state = solver.step(objective, state)
        if state.step % plan.steps_per_epoch == 0:
            rates.append(state.learning_rate.tolist())
    # the first epoch sets the mark; after every five without progress the next epoch's rate is a fifth
    expected = np.ones((13, 4)) * [1.0, 2.0, 3.0, 4.0]
    expected[6:, [0, 3]] /= 5
    expected[11:, 0] /= 5
    expected[12:, 3] /= 5  # an epoch later: at the seventh it had fallen by tol in all
    np.testing.assert_allclose(rates, expected, rtol=1e-14)


def test_adaptive_stops_the_momentum_of_a_model_that_got_worse_only(backend: Backend) -> None:
    plan = BatchPlan(12, 12)
    objective: Any = ScriptedObjective(backend, plan, [[3.0, 3.0], [2.0, 2.0], [1.0, 2.5], [0.5, 2.0]])
    solver = SGD(plan, 4, 1.0, momentum=0.5, nesterov=False)
    state = solver.init(objective, *objective.start())
    moved = []
    for _ in range(4):
        before = state.b.copy()
        state = solver.step(objective, state)
        moved.append(backend.to_numpy(before - state.b)[:, 0].tolist())
    # v <- v / 2 + 1; after the third epoch the second model starts anew
    assert moved == [[1, 1], [1.5, 1.5], [1.75, 1.75], [1.875, 1]]


CONVERGENCE = {
    "no progress at all": ([5, 4, 3, 3, 3, 3, 3, 3, 3, 3], 8),
    "less than tol in five passes is none": ([5, *np.arange(4.0, 3.0, -0.015)], 7),
    "small steps add up to progress": ([5, 4, 3.96, 3.92, 3.88, 3.88, 3.88, 3.88, 3.88, 3.88, 3.88], 10),
    "progress starts the count anew": ([5, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3], 12),
    "getting worse is no progress": ([5, 4, 5, 6, 7, 6, 5, 4.5, 3], 7),
}


def scripted(values: Any, schedule: str = "constant", tol: float = 0.1, backend: Backend = NUMPY) -> Any:
    """The state at the end of SGD with steps of 1 that see these values, a step each."""
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    plan = BatchPlan(12, 12)
    objective: Any = ScriptedObjective(backend, plan, table)
    return run(SGD(plan, len(table), 1.0, 0.0, False, schedule, tol), objective, *objective.start())


@pytest.mark.usefixtures("epochs_alone_count")
@pytest.mark.parametrize("case", CONVERGENCE)
def test_a_model_converges_after_five_epochs_without_progress(case: str) -> None:
    values, epochs = CONVERGENCE[case]
    state = scripted(values)
    assert (state.reason, state.reasons, state.step) == ("converged", ["converged"], epochs)


@pytest.mark.usefixtures("epochs_alone_count")
def test_adaptive_tries_shorter_steps_before_it_gives_up() -> None:
    state = scripted([1.0] * 20, "adaptive")
    assert (state.reason, state.step) == ("converged", 1 + 15)


@pytest.mark.parametrize(("schedule", "waits"), [("constant", 1), ("adaptive", 3)])
def test_where_epochs_are_short_twenty_steps_are_waited_for(schedule: str, waits: int) -> None:
    state = scripted([1.0] * 100, schedule)
    assert (state.reason, state.step) == ("converged", 1 + 20 * waits)


def test_without_a_tolerance_adaptive_shortens_the_steps_of_a_stuck_model_twice_and_no_more() -> None:
    state = scripted([1.0] * 300, "adaptive", tol=0.0)
    assert (state.reason, state.learning_rate.tolist()) == ("finished", [1 / 25])


def test_adaptive_shortens_the_steps_twice_more_after_progress() -> None:
    state = scripted([1.0] * 100 + [0.5] * 100, "adaptive", tol=0.0)
    np.testing.assert_allclose(state.learning_rate, [1 / 625], rtol=1e-14)


@pytest.mark.parametrize(("schedule", "tol"), [("constant", 0.0), ("adaptive", 0.0), ("step", 0.1), ("cosine", 0.1)])
def test_a_plan_is_carried_out_without_a_tolerance_and_where_it_is_fixed(schedule: str, tol: float) -> None:
    state = scripted([1.0] * 20, schedule, tol)
    assert (state.reason, state.reasons, state.step) == ("finished", [""], 20)


@pytest.mark.usefixtures("epochs_alone_count")
def test_a_converged_model_leaves_and_keeps_its_weights_while_others_go_on(backend: Backend) -> None:
    values = [[5.0, 9.0 - epoch, 5.0 - min(epoch, 2)] for epoch in range(9)]
    state = scripted(values, backend=backend)
    assert (state.reason, state.reasons) == ("finished", ["converged", "", "converged"])
    np.testing.assert_array_equal(state.W[0, :, 0], [-6.0, -9.0, -8.0])  # a gradient of ones: the steps it took
    np.testing.assert_array_equal(state.b[:, 1], [-6.0, -9.0, -8.0])
    np.testing.assert_array_equal(state.value, [5.0, 1.0, 3.0])


def test_a_model_that_runs_away_does_not_touch_the_others(backend: Backend) -> None:
    X, y = blobs(3)
    plan = BatchPlan(len(X), 16)

    def trained(rates: list[float]) -> Any:
        objective = objective_of(X, y, backend, c=3, K=len(rates), l2=0.1)
        result = train(objective, SGD(plan, 40, np.array(rates), 0.9), *zeros_for(objective))
        return on_host(result, backend)

    together, alone = trained([0.05, 1e4, 0.01]), trained([0.05, 0.01])
    assert together.reasons == ["finished", "diverged", "finished"]
    np.testing.assert_allclose(together.W[:, [0, 2]], alone.W, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_that_are_planned_to_their_end_are_not_cut_short(schedule: str) -> None:
    assert SGD(PLAN, 9, schedule=schedule).may_stop_early == (schedule not in ("step", "cosine"))


def curvature_of(X: Array, y: Array, s: Array, c: int, loss: str, batch: int) -> float:
    """Largest eigenvalue of H as automatic_learning_rate defines it, from the whole matrix, plus trace / batch."""
    rows, n = np.hstack([X, np.ones((len(X), 1))]), len(X)
    H = np.zeros((rows.shape[1] * c,) * 2)
    for x, t, weight in zip(rows, y, s * n / s.sum(), strict=True):
        e = np.eye(c)
        if loss == "softmax":
            U = (e - 1 / c) / 2
        else:
            U = 2 * sum(np.outer(e[j] - e[t], e[j] - e[t]) for j in range(c) if j != t)
        H += weight * np.kron(np.outer(x, x), U) / n
    per_row = {"softmax": 0.5, "squared_hinge": 2.0 * c}[loss]
    trace = per_row * (s * n / s.sum() @ (rows**2).sum(axis=1)) / n
    return float(np.linalg.eigvalsh(H)[-1] + trace / batch)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("batch_size", [60, 7])
def test_the_automatic_learning_rate_is_one_over_the_largest_curvature(
    backend: Backend, loss: str, batch_size: int
) -> None:
    problem = random_problem(0, dtype="float64", n=60, d=4, c=3, weighted=True)
    X, y, s = problem.X * [3.0, 1.0, 1.0, 0.5], problem.labels, problem.weights
    objective = objective_of(X, y, backend, c=3, loss=loss, l2=0.7, weights=s)
    rate = automatic_learning_rate(objective, BatchPlan(60, batch_size))
    # power iteration stops when it gains less than 1e-3
    assert rate[0] == pytest.approx(1 / (curvature_of(X, y, s[:, 0], 3, loss, batch_size) + 0.7), rel=0.01)


def test_the_automatic_learning_rate_is_that_of_the_scaled_features(backend: Backend) -> None:
    problem = random_problem(0, dtype="float64", n=60, d=4, c=3)
    shift, scale = np.array([5.0, 0.0, -3.0, 1.0]), np.array([2.0, 1.0, 0.1, 1.0])
    folded = objective_of(problem.X * scale + shift, problem.labels, backend, c=3, shift=shift, scale=scale)
    explicit = objective_of(problem.X, problem.labels, backend, c=3)
    plan = BatchPlan(60, 60)
    np.testing.assert_allclose(
        automatic_learning_rate(folded, plan), automatic_learning_rate(explicit, plan), rtol=1e-10
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_the_automatic_learning_rate_of_a_model_does_not_depend_on_its_neighbours(backend: Backend, loss: str) -> None:
    problem = random_problem(0, dtype="float64", n=60, d=4, c=3, K=3, weighted=True)
    X, y, weights, l2 = problem.X, problem.labels, problem.weights, np.array([0.0, 0.1, 1.0])
    options: dict[str, Any] = {"c": 3, "loss": loss}
    plan = BatchPlan(60, 60)
    together = automatic_learning_rate(objective_of(X, y, backend, K=3, l2=l2, weights=weights, **options), plan)
    alone = [
        automatic_learning_rate(objective_of(X, y, backend, l2=l2[k], weights=weights[:, [k]], **options), plan)[0]
        for k in range(3)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_the_automatic_learning_rate_does_not_depend_on_the_threads_of_blas() -> None:
    problem = random_problem(0, n=1000, d=300, c=10)
    objective = objective_of(problem.X, problem.labels, NUMPY, c=10)
    rates = []
    for n_threads in (1, 2, 3):
        with threadpool_limits(n_threads, user_api="blas"):
            rates.append(automatic_learning_rate(objective, BatchPlan(1000, 100))[0])
    assert rates == rates[:1] * 3


@pytest.mark.slow
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 8),
    c=st.integers(2, 6),
    loss=st.sampled_from(["softmax", "squared_hinge"]),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 10.0]),
    l2=st.sampled_from([0.0, 0.1, 100.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(DETERMINISTIC, max_examples=150)
def test_gradient_descent_at_the_automatic_rate_never_increases_the_objective(
    cpu_backend: Backend,
    n: int,
    d: int,
    c: int,
    loss: str,
    size: float,
    offset: float,
    l2: float,
    weighted: bool,
    seed: int,
) -> None:
    problem = random_problem(seed, dtype="float64", n=n, d=d, c=c, weighted=weighted, size=size)
    if problem.weights is not None:
        problem.weights[0] = 1.0
    X = (problem.X + offset * size) * np.random.default_rng(seed).random(d)  # columns of several sizes
    objective = objective_of(X, problem.labels, cpu_backend, c=c, loss=loss, l2=l2, weights=problem.weights)
    solver = SGD(BatchPlan(n, n), 20, momentum=0.0, schedule="constant")
    state = solver.init(objective, cpu_backend.asarray(problem.W), cpu_backend.asarray(problem.b))
    values = [solver.step(objective, state).value[0] for _ in range(20)]
    rounding = 1e-12 * values[0]
    assert (np.diff(values) <= rounding).all()


def pixels() -> tuple[Array, Array]:
    """500 images of 48 pixels around 120, of ten classes; uint8."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 500)
    light = rng.normal(0, 40, (500, 1))  # as in photographs, one direction varies far more than the others
    X = 120 + light + rng.normal(0, 30, (10, 48))[y] + rng.normal(0, 20, (500, 48))
    return np.clip(X, 0, 255).astype(np.uint8), y


@pytest.mark.parametrize("loss", LOSSES)
def test_on_centred_pixels_the_automatic_rate_neither_diverges_nor_crawls(backend: Backend, loss: str) -> None:
    X, y = pixels()
    objective = objective_of(X, y, backend, c=10, loss=loss, shift=X.mean(axis=0))
    solver = SGD(BatchPlan(500, 50), 50)
    state = solver.init(objective, *zeros_for(objective))
    values = [solver.step(objective, state).value[0] for _ in range(5)]
    start = objective.value_at_zero()
    assert max(values) < start
    assert values[-1] < start / 4


@pytest.mark.parametrize("loss", LOSSES)
def test_on_raw_pixels_the_automatic_rate_does_not_diverge(backend: Backend, loss: str) -> None:
    X, y = pixels()
    objective = objective_of(X, y, backend, c=10, loss=loss)
    solver = SGD(BatchPlan(500, 50), 50)
    state = solver.init(objective, *zeros_for(objective))
    values = [solver.step(objective, state).value[0] for _ in range(5)]
    assert values[-1] < objective.value_at_zero()


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_features_of_all_zeros_leave_the_weights_at_zero(backend: Backend, loss: str, fit_intercept: bool) -> None:
    objective = objective_of(
        np.zeros((30, 4), np.float32), np.arange(30) % 3, backend, loss=loss, fit_intercept=fit_intercept
    )
    state = run(SGD(BatchPlan(30, 8), 12), objective, *zeros_for(objective))
    assert not state.W.any()
    assert np.isfinite(state.b).all()
    assert np.isfinite(state.learning_rate).all()


@pytest.mark.parametrize("c", [5, 70])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_three_epochs_have_the_same_bits_for_any_number_of_threads(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, dtype: str, c: int
) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # leaves of 64 rows for 5 classes, of 280 for 70
    n = 20 * c + 13
    problem = random_problem(0, dtype=dtype, n=n, d=9, c=c, weighted=True)

    def digest(n_threads: int) -> str:
        objective = objective_of(
            problem.X, problem.labels, get_backend(cpu_backend.name, n_threads), c=c, l2=0.01, weights=problem.weights,
            shift=np.full(9, 0.5), scale=np.full(9, 2.0),
        )  # fmt: skip
        plan = BatchPlan(n, 1000 if c == 70 else 90)
        state = run(SGD(plan, 3 * plan.steps_per_epoch), objective, *zeros_for(objective))
        return sha256(state.W, state.b, state.value)

    assert {digest(n_threads) for n_threads in (1, 2, 3, 7)} == {digest(1)}


@pytest.mark.skipif(not get_backend("cpu").ops.kernels.COMPILED, reason="Numba is not installed")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("flags", [{}, {"penalize_intercept": True}, {"fit_intercept": False}], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("linear", [False, True])
def test_steps_in_one_call_are_the_steps_one_by_one(
    linear: bool, dtype: str, flags: dict[str, bool], loss: str, nesterov: bool, momentum: float
) -> None:
    K, d, plan = 2, 37, BatchPlan(50, 20)
    problem = random_problem(0, dtype=dtype, n=50, d=d, c=3, K=K, weighted=True, size=100.0)
    rng = np.random.default_rng(1)
    objective = objective_of(
        problem.X, problem.labels, get_backend("cpu", 1), c=3, K=K, loss=loss, l2=[0.1, 0.5], weights=problem.weights,
        shift=rng.normal(100, 20, d), scale=rng.uniform(50, 100, d), **flags,
    )  # fmt: skip
    term = LinearTerm(rng.standard_normal((d, K, 3)), rng.standard_normal((K, 3))) if linear else None
    penalty = replace(objective.penalty, factors=rng.uniform(0.5, 2, d))
    objective = replace(objective, penalty=penalty, linear_term=term)
    solver = SGD(plan, 9, np.array([0.005, 0.01]), momentum, nesterov, "constant")
    rates, inertia = np.full((3, K), [0.005, 0.01], problem.W.dtype), np.full(K, momentum, problem.W.dtype)
    states = [solver.init(objective, problem.W, problem.b) for _ in range(2)]
    for epoch in range(3):
        batches = plan.epoch(epoch)
        one_by_one = solver._steps(states[0].models, batches, rates, inertia)
        models = states[1].models
        together = objective.sgd_steps(
            models.W, models.b, models.velocity, batches, models.weight_sums, rates, inertia, nesterov
        )
        rtol = 1e-9 if dtype == "float64" else 1e-4
        for found, expected in zip(together, one_by_one, strict=True):
            np.testing.assert_allclose(found, expected, rtol=rtol)
    for name in ("W", "b", "velocity"):
        found, expected = (getattr(state.models, name) for state in states)
        if expected is not None:
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


@pytest.mark.skipif(not get_backend("cpu").ops.kernels.COMPILED, reason="Numba is not installed")
def test_a_batch_longer_than_a_leaf_is_no_step_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # leaves of 64 rows
    X, y = blobs(0, n=200)
    objective = objective_of(X, y, get_backend("cpu", 2), c=3)
    W, b = zeros_for(objective)
    rates, sums = np.ones((1, 1), np.float32), np.full(1, 200.0)
    assert objective.sgd_steps(W, b, None, [np.arange(65)], sums, rates, rates[0], False) is None
    assert not W.any()
    assert objective.sgd_steps(W, b, None, [np.arange(64)], sums, rates, rates[0], False) is not None
    assert W.any()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "weights"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_models_that_threads_share_have_the_bits_that_each_has_alone(momentum: float, weighted: bool) -> None:
    problem = random_problem(3, n=90, d=7, c=10, K=9, weighted=weighted)
    rates, l2, plan = np.geomspace(1e-3, 1e-1, 9), np.geomspace(1e-3, 1, 9), BatchPlan(90, 16)

    def trained(models: list[int], threads: int) -> Any:
        weights = None if problem.weights is None else np.ascontiguousarray(problem.weights[:, models])
        objective = objective_of(
            problem.X, problem.labels, get_backend("cpu", threads), c=10, K=len(models), l2=l2[models], weights=weights
        )
        return run(SGD(plan, 24, rates[models], momentum), objective)

    together = [trained(list(range(9)), threads) for threads in (1, 2, 5)]
    assert len({sha256(state.W, state.b, state.value) for state in together}) == 1
    alone = [trained([k], 1) for k in range(9)]
    np.testing.assert_array_equal(together[0].W, np.concatenate([state.W for state in alone], axis=1))
    np.testing.assert_array_equal(together[0].value, np.concatenate([state.value for state in alone]))


# sparse features: steps that change only the weights of features that occur


SPARSE_CASES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "hinge": {"loss": "hinge"},
    "squared hinge": {"loss": "squared_hinge"},
    "scale": {"scale": np.linspace(0.5, 2, 8)},
    "weights": {"weights": np.random.default_rng(0).random((60, 2))},
    "penalised intercept": {"penalize_intercept": True},
    "no intercept": {"fit_intercept": False},
    "strong penalty": {"l2": [3.0, 9.0]},  # each step multiplies the weights by 0.7 and by 0.1
}


@pytest.mark.compiled
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("options", SPARSE_CASES.values(), ids=SPARSE_CASES)
def test_sparse_steps_are_those_of_dense_features(
    options: dict[str, Any], n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, taken = sparse_kernels_of_cpu.sgd_steps, []
    monkeypatch.setattr(sparse_kernels_of_cpu, "sgd_steps", lambda *args: taken.append(len(args[7])) or steps(*args))
    rng, backend = np.random.default_rng(1), get_backend("cpu", n_threads)
    X = rng.standard_normal((60, 8)) * (rng.random((60, 8)) < 0.3)
    y = rng.integers(0, 3, 60)
    dense = objective_of(X, y, backend, K=2, **{"l2": [0.1, 0.01], **options})
    features = read_features(csr_array(X), backend).with_scaling(None, options.get("scale"))
    solver = SGD(BatchPlan(60, 7), steps=40, learning_rate=0.1, momentum=0.0, schedule="constant")
    expected, found = run(solver, dense), run(solver, replace(dense, features=features))
    # 40 steps of some 10 roundings each, none of which grows
    for one, other in ((found.W, expected.W), (found.b, expected.b), (found.value, expected.value)):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.accuracy, expected.accuracy, rtol=1e-12)
    assert sum(taken) == 40  # in compiled code, and not one by one


@pytest.mark.compiled
def test_what_would_change_all_weights_is_left_to_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_kernels_of_cpu, "sgd_steps", None)  # not called
    rng, backend = np.random.default_rng(1), get_backend("cpu", 1)
    X = rng.standard_normal((60, 8)) * (rng.random((60, 8)) < 0.3)
    dense = objective_of(X, rng.integers(0, 3, 60), backend, l2=0.1, shift=X.mean(axis=0))
    sparse = replace(dense, features=read_features(csr_array(X), backend).with_scaling(X.mean(axis=0), None))
    for solver in (
        SGD(BatchPlan(60, 7), steps=40, learning_rate=0.1, momentum=0.0, schedule="constant"),
        SGD(BatchPlan(60, 7), steps=40, learning_rate=0.1, momentum=0.5, schedule="constant"),
    ):
        np.testing.assert_allclose(run(solver, sparse).W, run(solver, dense).W, rtol=1e-10, atol=1e-12)


def test_the_automatic_rate_of_sparse_features_is_that_of_dense_ones() -> None:
    rng, backend = np.random.default_rng(1), get_backend("auto", 1)
    X = rng.standard_normal((60, 8)) * (rng.random((60, 8)) < 0.3)
    dense = objective_of(X, rng.integers(0, 3, 60), backend, l2=0.1, scale=np.linspace(0.5, 2, 8))
    sparse = replace(dense, features=read_features(csr_array(X), backend).with_scaling(None, np.linspace(0.5, 2, 8)))
    plan = BatchPlan(60, 7)
    assert automatic_learning_rate(sparse, plan) == pytest.approx(automatic_learning_rate(dense, plan), rel=1e-10)
