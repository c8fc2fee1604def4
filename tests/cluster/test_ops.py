"""Operations on rows on a cluster: the bits of those in memory, whatever workers and chunks there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cluster import tasks
from gpusoftmax.cluster.executor import Worker
from gpusoftmax.cluster.placing import cluster_backend
from gpusoftmax.cluster.rows import partition_cuts, ranges_of_workers
from gpusoftmax.cpu import gradients, threads
from gpusoftmax.exceptions import ClusterError
from tests.support.blocks import InBlocks, operations_over_rows
from tests.support.cases import DTYPES, Problem, random_problem, sha256
from tests.support.in_process import on_cluster

N, D = 900, 7
WAYS = {"tiles": 5, "products": 300, "columns": 301}  # to compute a gradient, each with another number of classes
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # 64 rows
    monkeypatch.setattr(gradients, "BLAS_LEAF", 1)
    monkeypatch.setattr(gradients, "LARGE_GRADIENT", 4 * D * 300)
    monkeypatch.setattr(gradients, "LARGE_LEAF", 128)
    monkeypatch.setattr(gradients, "SCORE_BYTES", 1)  # 64 rows at a time


def problem_with(way: str, dtype: str = "float32", weighted: bool = True) -> Problem:
    return random_problem(0, dtype=dtype, n=N, d=D, c=WAYS[way], weighted=weighted)


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
@pytest.mark.parametrize("way", WAYS)
def test_every_operation_gives_the_bits_that_it_gives_in_memory(cpu_backend: Backend, way: str, workers: int) -> None:
    problem = problem_with(way)
    X = on_cluster(problem.X, workers)
    X.backend = cpu_backend.name
    ops = cluster_backend(cpu_backend, X.executor).ops
    for name, operation in operations_over_rows(problem).items():
        assert sha256(*operation(ops, X)) == sha256(*operation(cpu_backend.ops, problem.X)), name


@pytest.mark.parametrize("chunks", [[900], [0, 100, 0, 1, 799, 0], [64] * 14 + [4], [450, 450]], ids=str)
def test_chunks_of_any_length_give_the_same_bits(chunks: list[int]) -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X, 3, chunks)
    found = cluster_backend(backend, X.executor).ops.linear_gradient(X, *problem.arguments[1:])
    assert sha256(*found) == sha256(*backend.ops.linear_gradient(*problem.arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_type_and_rows_that_are_read_in_blocks_give_the_same_gradient(dtype: str) -> None:
    problem, backend = problem_with("tiles", dtype), get_backend("cpu", 1)
    expected = sha256(*backend.ops.linear_gradient(*problem.arguments))
    for options in ({}, {"wrap": InBlocks}):
        X = on_cluster(problem.X, **options)
        ops = cluster_backend(backend, X.executor).ops
        assert sha256(*ops.linear_gradient(X, *problem.arguments[1:])) == expected


def test_workers_that_come_and_go_between_passes_do_not_change_the_bits() -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X)
    ops = cluster_backend(backend, X.executor).ops
    found = []
    for names in (["a", "b"], ["a", "b", "c"], ["c"], ["d", "e", "f", "g"]):
        X.executor.names = names  # type: ignore[attr-defined]
        found.append(sha256(*ops.linear_gradient(X, *problem.arguments[1:])))
    assert len(set(found)) == 1


def test_rows_that_are_left_out_have_no_part_in_the_sums() -> None:
    problem, backend = problem_with("tiles", "float64"), get_backend("cpu", 1)
    X, rows = on_cluster(problem.X), np.arange(0, N, 3)
    ops = cluster_backend(backend, X.executor).ops
    s = problem.weights[:, 0]
    for weights in (problem.weights, None):
        arguments = (*problem.arguments[1:4], weights, problem.loss)
        found = ops.linear_gradient(X, *arguments, rows)
        expected = backend.ops.linear_gradient(problem.X, *arguments, rows)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        ops.column_moments(X, s, rows, 3), backend.ops.column_moments(problem.X, s, rows, 3), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_array_equal(
        ops.linear_scores(X, problem.W, problem.b, rows),
        backend.ops.linear_scores(problem.X, problem.W, problem.b, rows),
    )


def test_labels_and_weights_are_sent_once() -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X)
    ops = cluster_backend(backend, X.executor).ops
    ops.linear_gradient(X, *problem.arguments[1:])
    loads = X.executor.loads  # type: ignore[attr-defined]
    for _ in range(3):
        ops.linear_gradient(X, *problem.arguments[1:])
    assert X.executor.loads == loads == 3 * len(X.partitions(64))  # type: ignore[attr-defined]


def test_what_was_sent_is_forgotten_with_the_array() -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X)
    ops: Any = cluster_backend(backend, X.executor).ops
    for _ in range(3):
        ops.linear_losses(X, problem.labels.copy(), problem.W, problem.b, None, problem.loss)
    assert X._columns.found == {}


def test_a_pass_has_a_task_for_each_worker_at_most() -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X, 3, [64] * 14 + [4])
    ops = cluster_backend(backend, X.executor).ops
    ops.linear_gradient(X, *problem.arguments[1:])
    assert [len(run) for run in X.executor.runs] == [3]  # type: ignore[attr-defined]


def test_rows_are_loaded_once_whatever_is_asked_for_first() -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X)
    ops = cluster_backend(backend, X.executor).ops
    X[[3]]
    loads = X.executor.loads  # type: ignore[attr-defined]
    ops.linear_scores(X, problem.W, problem.b)
    ops.column_moments(X, None)
    assert X.executor.loads == loads  # type: ignore[attr-defined]


def test_rows_are_copied_by_number_in_the_order_given() -> None:
    problem = problem_with("tiles")
    X = on_cluster(problem.X)
    rows = np.array([899, 3, 3, 0, 450])
    np.testing.assert_array_equal(X[rows], problem.X[rows])
    np.testing.assert_array_equal(X[7], problem.X[7])


def test_the_first_nan_is_found_and_the_largest_entry() -> None:
    problem = problem_with("tiles", "float64")
    problem.X[500, 2] = -1e9
    X = on_cluster(problem.X)
    ops: Any = cluster_backend(get_backend("cpu", 1), X.executor).ops
    assert ops.first_not_finite(X) is None
    assert ops.largest(X, 2) == (500, -1e9)
    problem.X[[700, 800], 4] = np.nan, np.inf
    assert ops.first_not_finite(X)[:2] == (700, 4)


# where rows are


def test_partitions_begin_at_leaves_near_the_boundaries_of_chunks() -> None:
    two = [Worker("a", 1), Worker("b", 1)]
    assert partition_cuts([64, 128, 100, 8], 64, two) == [0, 64, 192, 300]
    assert partition_cuts([100, 100, 100], 64, two) == [0, 128, 192, 300]
    assert partition_cuts([300], 64, two) == [0, 128, 300]
    assert partition_cuts([3], 64, two) == [0, 3]


def test_partitions_are_divided_by_the_threads_of_the_workers() -> None:
    workers = [Worker("a", 1), Worker("b", 3)]
    assert ranges_of_workers(list(range(9)), workers) == [(workers[0], range(2)), (workers[1], range(2, 8))]
    assert ranges_of_workers([0, 5], workers) == [(workers[1], range(1))]


@pytest.mark.parametrize("seed", range(50))
def test_every_partition_is_given_to_one_worker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = [*rng.integers(0, 500, rng.integers(1, 20)).tolist(), 1]
    workers = [Worker(str(i), int(rng.integers(1, 5))) for i in range(rng.integers(1, 9))]
    cuts = partition_cuts(chunks, 64, workers)
    assert cuts == sorted(set(cuts))
    assert (cuts[0], cuts[-1]) == (0, sum(chunks))
    assert all(cut % 64 == 0 for cut in cuts[:-1])
    given = ranges_of_workers(cuts, workers)
    assert [i for _, own in given for i in own] == list(range(len(cuts) - 1))
    assert len(given) <= len(workers)


# failures


def test_rows_that_cannot_be_loaded_are_named() -> None:
    problem = problem_with("tiles")
    X = on_cluster(problem.X, bad=500)
    ops = cluster_backend(get_backend("cpu", 1), X.executor).ops
    with pytest.raises(ClusterError, match=r"rows 384 to 511 of X \(part 384\) cannot be loaded .* the disk is gone"):
        ops.linear_gradient(X, *problem.arguments[1:])


def test_a_task_that_fails_is_named_by_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_with("tiles")
    X = on_cluster(problem.X)
    ops = cluster_backend(get_backend("cpu", 1), X.executor).ops
    X.partitions(64)

    def fail(*arguments: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(tasks.Gradient, "over", fail)
    with pytest.raises(ClusterError, match=r"rows 0 to 511 of X .* cannot be computed with .* MemoryError: no room"):
        ops.linear_gradient(X, *problem.arguments[1:])


def test_a_worker_that_computes_otherwise_is_noted_and_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, backend = problem_with("tiles"), get_backend("cpu", 1)
    X = on_cluster(problem.X)
    ops: Any = cluster_backend(backend, X.executor).ops
    other = tasks.fingerprint("cpu") | {"vectors": "of 64 bits"}
    monkeypatch.setattr(tasks, "fingerprint", lambda backend: other)
    assert ops.note() == ""
    with pytest.warns(UserWarning, match="vectors of 64 bits instead of"):
        ops.linear_gradient(X, *problem.arguments[1:])
    ops.linear_gradient(X, *problem.arguments[1:])
    assert "may depend on which worker" in ops.note()
