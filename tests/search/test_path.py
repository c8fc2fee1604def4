"""Paths of exact solutions: each starts from an extrapolation of earlier ones and reaches its own optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import load_digits
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.search import exact
from gpusoftmax.search.exact import Path, _lagrange, _nearest
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.preconditioners.gram import GramSample
from tests.support.cases import blobs, objective_of, run, zeros_for

NUMPY = get_backend("numpy", n_threads=1)
L2 = np.geomspace(1.0, 1e-4, 12)


def path_over(objective: Any, tol: float = 1e-9) -> Path:
    return Path(objective, GramSample(objective, 0, len(L2), share_gram=True), 200, tol, 0)


def problem(backend: Backend, **options: Any) -> Any:
    X, y = blobs(1, n=200, d=6, c=4, apart=0.5)
    return objective_of(X.astype(np.float64), y, backend, c=4, **options)


def assert_solutions_are_those_of_fits_from_zero(backend: Backend, loss: str, weighted: bool, wide: int) -> None:
    weights = np.random.default_rng(0).random((200, 1)) if weighted else None
    objective = problem(backend, loss=loss, weights=weights)
    path = path_over(objective)
    for start in range(0, len(L2), wide):
        part = L2[start : start + wide]
        result = path.solve(part)
        assert set(result.reasons) <= {"converged", "precision"}
        for k, l2 in enumerate(part):
            alone = run(LBFGS(300, 1e-10), objective.for_penalties(np.array([l2])))
            W = backend.to_numpy(result.W)[:, k]
            # strongly convex: a gradient of 1e-9 leaves sqrt(24) 1e-9 / l2, of weights of order 1
            np.testing.assert_allclose(W, alone.W[:, 0], rtol=0, atol=1e-8 / l2)


@pytest.mark.parametrize("wide", [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "weights"])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_each_solution_is_that_of_a_fit_from_zero(cpu_backend: Backend, loss: str, weighted: bool, wide: int) -> None:
    assert_solutions_are_those_of_fits_from_zero(cpu_backend, loss, weighted, wide)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_on_a_gpu_each_solution_is_that_of_a_fit_from_zero(loss: str) -> None:
    assert_solutions_are_those_of_fits_from_zero(get_backend("cuda"), loss, weighted=True, wide=5)


@pytest.mark.slow
def test_a_path_over_digits_takes_fewer_reads_than_fits_from_zero() -> None:
    digits = load_digits()
    objective = objective_of(digits.X_train, digits.y_train, NUMPY, c=10)
    path = path_over(objective, tol=1e-4)
    together = sum(path.solve(np.array([l2])).step for l2 in L2)
    alone = sum(run(LBFGS(300, 1e-4, relative=True), objective.for_penalties(np.array([l2]))).step for l2 in L2)
    assert together <= 0.8 * alone  # 449 and 638 were measured


def test_without_a_penalty_it_starts_from_the_last_solution() -> None:
    path = path_over(problem(NUMPY))
    last = path.solve(np.array([1e-3]))
    W, b = path.start(0.0)
    np.testing.assert_array_equal(W, last.W)
    np.testing.assert_array_equal(b, last.b)


def test_the_first_starts_from_zero() -> None:
    objective = problem(NUMPY)
    W, b = path_over(objective).start(1.0)
    assert (W.shape, b.shape, W.any(), b.any()) == ((6, 1, 4), (1, 4), False, False)
    assert W.dtype == zeros_for(objective)[0].dtype


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_polynomial_goes_through_its_nodes(degree: int) -> None:
    def f(x: Any) -> Any:
        return 3 - 2 * x**degree

    nodes = np.array([3.0, 2.0, 1.2])
    assert _lagrange(nodes, 0.6) @ f(nodes) == pytest.approx(f(0.6))


@pytest.mark.parametrize(
    ("nodes", "at", "expected"),
    [
        ([2.0, 1.0], -0.6, [0.0, 1.0]),  # further than 1.5 of their distance
        ([9.0, 5.0], 2.0, [0.0, 1.0]),  # further than a factor of ten in l2
        ([9.0, 1.0, 0.5], 0.0, None),
        ([1.0], 0.5, [1.0]),
    ],
)
def test_a_polynomial_is_not_followed_far(nodes: Any, at: float, expected: Any) -> None:
    shares = _lagrange(np.array(nodes), at)
    assert shares.sum() == pytest.approx(1.0)
    if expected is not None:
        assert shares.tolist() == expected


def test_nodes_that_are_close_are_passed_over() -> None:
    """Differences of near ones are mostly what tol has left, which the polynomial multiplies."""
    nodes: list[Any] = [(-0.1 * k, None, None) for k in range(12)]
    logs = [node[0] for node in _nearest(nodes, -1.2)]
    assert logs[-1] == pytest.approx(-1.1)
    assert (-np.diff(logs) >= exact.APART).all()
    assert len(logs) == exact.NODES


def test_the_nearest_nodes_are_taken_on_both_sides() -> None:
    nodes: list[Any] = [(log, None, None) for log in (0.0, -2.0, -4.0, -6.0, -8.0, -5.0, -4.7)]
    assert [node[0] for node in _nearest(nodes, -3.0)] == [-4.7, -4.0, -2.0]
    assert [node[0] for node in _nearest(nodes, -4.6)] == [-6.0, -4.0, -4.7]


def test_between_two_solutions_the_start_is_nearer_than_both() -> None:
    """A sweep that finds its penalties halves intervals between solutions."""
    path = path_over(problem(NUMPY))
    for l2 in (1.0, 0.1, 0.01, 1e-3):
        path.solve(np.array([l2]))
    middle = float(np.sqrt(0.1 * 0.01))
    start, neighbours = path.start(middle)[0], [node[1] for node in path.nodes[1:3]]
    solution = path.solve(np.array([middle])).W
    assert np.linalg.norm(start - solution) < 0.2 * min(np.linalg.norm(one - solution) for one in neighbours)


def test_penalties_that_come_twice_do_no_harm() -> None:
    path = path_over(problem(NUMPY))
    first, second = (path.solve(np.array([0.1])) for _ in range(2))
    np.testing.assert_allclose(first.W, second.W, atol=1e-7)
    assert second.step <= 2


@pytest.mark.usefixtures("gpu")
def test_a_cpu_takes_one_at_a_time_and_a_gpu_what_fits() -> None:
    assert exact.width(NUMPY, 1000, 10, 0, 4) == 1
    cuda = get_backend("cuda")
    assert exact.width(cuda, 2000, 10, 0, 4) > exact.width(cuda, 2000, 10, 10**7, 4) > 10
    assert exact.width(cuda, 100_000, 10_000, 0, 4) == 1
