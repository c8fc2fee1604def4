"""The thread pool, the order of summation, and BLAS limited to one thread."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusoftmax.cpu.threads import for_each, single_threaded_blas, sum_over_leaves
from gpusoftmax.tree import Partial, TreeSum
from tests.support.cases import DETERMINISTIC
from tests.support.processes import HANGS, blas, blas_threads, forks, run_script


def leaves_of_all_sizes(n: int) -> list[Partial]:
    """Numbers whose float32 sum depends on the order, in the two arrays of a partial result."""
    rng = np.random.default_rng(n)
    values = (rng.standard_normal((n, 16)) * 10.0 ** rng.uniform(-6, 6, (n, 16))).astype(np.float32)
    return [(v[:10].copy(), v[10:].copy().reshape(2, 3)) for v in values]


def pairwise(parts: list[Partial]) -> Partial:
    """The definition: neighbours are added level by level; one without a right neighbour moves up as it is."""
    while len(parts) > 1:
        parts = [
            tuple(a + b for a, b in zip(*parts[i : i + 2], strict=True)) if i + 1 < len(parts) else parts[i]
            for i in range(0, len(parts), 2)
        ]
    return parts[0]


def copied(partial: Partial) -> Partial:
    """For a holder that may overwrite it."""
    return tuple(a.copy() for a in partial)


def assert_same_bits(actual: Partial, expected: Partial) -> None:
    assert [a.tobytes() for a in actual] == [e.tobytes() for e in expected]


@pytest.mark.parametrize("n", range(1, 41))
def test_the_tree_sum_is_the_pairwise_sum_in_any_order_of_arrival(n: int) -> None:
    leaves = leaves_of_all_sizes(n)
    for seed in range(10):
        tree = TreeSum()
        for index in random.Random(seed).sample(range(n), n):
            tree.add(0, index, copied(leaves[index]))
        assert_same_bits(tree.total(n), pairwise(leaves))


@pytest.mark.slow
@given(n=st.integers(1, 40), n_trees=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(DETERMINISTIC, max_examples=200)
def test_trees_over_any_division_of_the_leaves_merge_into_the_pairwise_sum(n: int, n_trees: int, seed: int) -> None:
    leaves, rng = leaves_of_all_sizes(n), random.Random(seed)
    trees = [TreeSum() for _ in range(n_trees)]
    for index in rng.sample(range(n), n):
        rng.choice(trees).add(0, index, copied(leaves[index]))
    nodes = [(place, partial) for tree in trees for place, partial in tree.nodes.items()]
    rng.shuffle(nodes)
    merged = TreeSum()
    for (level, index), partial in nodes:
        merged.add(level, index, partial)
    assert_same_bits(merged.total(n), pairwise(leaves))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 13, 32, 40])
def test_the_sum_over_leaves_has_the_same_bits_for_any_number_of_threads(n: int) -> None:
    leaves = leaves_of_all_sizes(n)
    for n_threads in (*range(1, 9), 39, 40, 41):
        total = sum_over_leaves(lambda index: copied(leaves[index]), n, n_threads)
        assert_same_bits(total, pairwise(leaves))


@pytest.mark.parametrize(("n_items", "n_threads"), [(1, 1), (1, 5), (5, 1), (5, 2), (5, 5), (5, 9), (100, 7)])
def test_every_item_is_in_one_of_at_most_n_threads_runs(n_items: int, n_threads: int) -> None:
    runs = for_each(lambda run: run, n_items, n_threads)
    assert [item for run in runs for item in run] == list(range(n_items))
    assert all(len(run) for run in runs)
    assert len(runs) <= n_threads


def test_one_run_stays_in_the_callers_thread() -> None:
    assert for_each(lambda run: threading.current_thread(), 1, 8) == [threading.current_thread()]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_exception_of_any_run_is_raised_after_all_runs_have_ended(failing: int) -> None:
    meeting, ended = threading.Barrier(3), []

    def work(run: range) -> None:
        meeting.wait(HANGS)  # all three have started
        if run.start == failing:
            raise LookupError(f"run {failing}")
        sum(range(3_000_000))  # some 50 ms: longer than the caller takes to get away
        ended.append(run.start)

    with pytest.raises(LookupError, match=f"run {failing}"):
        for_each(work, 3, 3)
    assert sorted(ended) == [run for run in range(3) if run != failing]


def test_the_pool_works_after_an_exception_in_each_of_its_runs() -> None:
    def work(run: range) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        for_each(work, 3, 3)
    assert for_each(lambda run: run.start, 3, 3) == [0, 1, 2]


def test_runs_do_not_warn_about_non_finite_numbers() -> None:
    def work(run: range) -> float:
        return float(np.log(np.zeros(1))[0] - np.log(np.zeros(1))[0] + np.exp(np.full(1, 1e4))[0])

    with np.errstate(all="raise"):  # the caller's own setting, which only the caller's thread has
        assert all(np.isnan(value) for value in for_each(work, 3, 3))


def test_runs_may_use_the_pool_themselves() -> None:
    inner = for_each(lambda run: sum(for_each(lambda r: sum(r), 10, 4)), 4, 4)
    assert inner == [45] * 4


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_of_overlapping_holders_the_last_one_out_restores_the_setting_of_blas() -> None:
    with ExitStack() as second:
        with ExitStack() as first:
            first.enter_context(single_threaded_blas())
            second.enter_context(single_threaded_blas())
            assert blas_threads() == {1}
        assert blas_threads() == {1}, "the second is still inside"
    assert blas_threads() == {3}


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_an_exception_inside_restores_the_setting_of_blas() -> None:
    with pytest.raises(LookupError), single_threaded_blas():
        raise LookupError
    assert blas_threads() == {3}


FORK = """
import os, signal, sys
import numpy as np
from gpusoftmax.array import get_backend
from gpusoftmax.cpu import threads

rng = np.random.default_rng(0)
threads.LEAF_ELEMENTS = 1  # leaves of 64 rows
X, y = rng.standard_normal((300, 33)).astype(np.float32), rng.integers(0, 3, 300)
W, b = rng.standard_normal((33, 1, 3)).astype(np.float32), np.zeros((1, 3), np.float32)

def bits(n_threads):
    return [a.tobytes() for a in get_backend(sys.argv[1], n_threads).ops.linear_gradient(X, y, W, b, None, 0)]

expected = bits(2 if sys.argv[2] == "used" else 1)
child = os.fork()
if child == 0:
    signal.alarm(50)  # a child that waits for its parent's threads must not outlive the test
    os._exit(0 if bits(2) == expected else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "in the child"
assert bits(2) == expected, "in the parent"
"""


@pytest.mark.slow
@forks
@pytest.mark.parametrize("before", ["used", "unused"])
def test_operations_work_in_a_forked_child(cpu_backend: Any, before: str) -> None:
    done = run_script(FORK, cpu_backend.name, before)
    assert done.returncode == 0, done.stderr


FORK_INSIDE = """
import os, signal
from threadpoolctl import threadpool_info, threadpool_limits
import numpy, scipy.linalg.cython_blas
from gpusoftmax.cpu.threads import single_threaded_blas

def setting():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

threadpool_limits(3, user_api="blas")
with single_threaded_blas():
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        if setting() != {3}:
            os._exit(3)
        with single_threaded_blas():
            inside = setting()
        os._exit(0 if inside == {1} and setting() == {3} else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert setting() == {3}
"""


@pytest.mark.slow
@forks
@blas
def test_a_child_forked_in_the_middle_of_a_pass_has_the_users_setting_of_blas() -> None:
    done = run_script(FORK_INSIDE)
    assert done.returncode == 0, done.stderr


def test_the_interpreter_exits_although_the_pool_was_used() -> None:
    done = run_script("from gpusoftmax.cpu.threads import for_each; print(for_each(lambda run: sum(run), 8, 4))")
    assert (done.returncode, done.stdout) == (0, "[1, 5, 9, 13]\n")
