"""Seeded plans of minibatches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpusoftmax.features.batches import BatchPlan

PLANS = [BatchPlan(n, size) for n, size in [(10, 3), (10, 5), (10, 1), (1000, 64), (7, 6)]]


def rows_of(plan: BatchPlan, epoch: int) -> list[list[int]]:
    batches = plan.epoch(epoch)
    assert all(rows is not None and rows.dtype == np.int64 for rows in batches)
    return [rows.tolist() for rows in batches]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_an_epoch_visits_every_row_once(plan: BatchPlan) -> None:
    assert sorted(row for rows in rows_of(plan, 0) for row in rows) == list(range(plan.n))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_all_batches_are_full_but_the_last(plan: BatchPlan) -> None:
    sizes = [len(rows) for rows in rows_of(plan, 0)]
    assert len(sizes) == plan.steps_per_epoch
    assert sizes[:-1] == [plan.batch_size] * (len(sizes) - 1)
    assert sum(sizes) == plan.rows_per_epoch == plan.n


@pytest.mark.parametrize("replacement", [False, True])
def test_a_plan_is_a_function_of_seed_and_epoch_alone(replacement: bool) -> None:
    plan = BatchPlan(50, 8, replacement, seed=5)
    np.random.seed(1)  # noqa: NPY002
    first = rows_of(plan, 3)
    np.random.seed(2)  # noqa: NPY002
    rows_of(plan, 2)
    assert rows_of(replace(plan), 3) == first


def test_a_plan_leaves_numpys_global_generator_alone() -> None:
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    rows_of(BatchPlan(50, 8), 0)
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize("replacement", [False, True])
def test_epochs_and_seeds_differ(replacement: bool) -> None:
    plans = [BatchPlan(50, 8, replacement, seed) for seed in (0, 1, 2**31)]
    epochs = [str(rows_of(plan, epoch)) for plan in plans for epoch in range(3)]
    assert len(set(epochs)) == len(epochs)


@pytest.mark.parametrize("batch_size", [10, 11, 10**9])
def test_a_batch_of_all_rows_or_more_is_the_full_batch(batch_size: int) -> None:
    plan = BatchPlan(10, batch_size)
    assert (plan.size, plan.steps_per_epoch, plan.rows_per_epoch) == (10, 1, 10)
    assert plan.epoch(4) == [None]


@pytest.mark.parametrize(("batch_size", "steps"), [(3, 4), (5, 2), (10, 1), (99, 1)])
def test_with_replacement_every_batch_is_full(batch_size: int, steps: int) -> None:
    plan = BatchPlan(10, batch_size, replacement=True)
    size = min(batch_size, 10)
    assert [len(rows) for rows in rows_of(plan, 0)] == [size] * steps
    assert plan.rows_per_epoch == steps * size


def test_with_replacement_rows_are_drawn_uniformly_and_independently() -> None:
    plan = BatchPlan(10, 10, replacement=True)
    batches = np.array([rows_of(plan, epoch)[0] for epoch in range(1000)])
    counts = np.bincount(batches.ravel(), minlength=10)
    # binomial: 1000 of each row, standard deviation 30
    assert np.abs(counts - 1000).max() < 5 * 30
    # of ten draws with replacement 6.5 are distinct; a permutation would have 10
    distinct = np.mean([len(set(batch)) for batch in batches.tolist()])
    assert distinct == pytest.approx(10 * (1 - 0.9**10), abs=0.2)


def test_a_permutation_puts_every_row_everywhere() -> None:
    firsts = [rows_of(BatchPlan(10, 9), epoch)[0][0] for epoch in range(1000)]
    assert np.abs(np.bincount(firsts, minlength=10) - 100).max() < 5 * 10


def test_blocks_are_shuffled_and_so_are_the_rows_of_blocks_that_are_together() -> None:
    plan = BatchPlan(1003, 10, seed=3, blocks=(20, 4))
    first, second = np.concatenate(plan.epoch(0)), np.concatenate(plan.epoch(1))
    assert sorted(first) == list(range(1003))
    assert sorted(second) == list(range(1003))
    assert (first != second).any()
    for order in (first, second):
        for start in range(0, 960, 80):  # the last block, which is shorter, may be in any group
            assert len(set(order[start : start + 60] // 20)) <= 5
        assert (np.diff(order[:80]) != 1).any()
