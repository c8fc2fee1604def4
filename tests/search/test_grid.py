"""Grids: every combination of the given values, in a fixed order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.search.grid import combinations, configured


def test_every_combination_comes_with_the_last_name_changing_fastest() -> None:
    found = combinations({"C": [1.0, 2.0], "momentum": [0.0, 0.9]})
    assert [tuple(one.values()) for one in found] == [(1.0, 0.0), (1.0, 0.9), (2.0, 0.0), (2.0, 0.9)]


def test_several_grids_come_one_after_another_and_equal_ones_once() -> None:
    grid = [{"C": [1.0, 2.0]}, {"l2": [0.5]}, {"C": [2.0, 3.0]}]
    assert combinations(grid) == [{"C": 1.0}, {"C": 2.0}, {"l2": 0.5}, {"C": 3.0}]


def test_a_penalty_may_be_left_to_the_sweep() -> None:
    assert combinations("auto") == [{"C": "auto"}]
    assert combinations({"l2": "auto", "class_weight": [None, "balanced"]}) == [
        {"l2": "auto", "class_weight": None},
        {"l2": "auto", "class_weight": "balanced"},
    ]


def test_numbers_become_pythons_own() -> None:
    assert type(combinations({"C": np.logspace(0, 1, 2)})[0]["C"]) is float


def test_class_weights_may_vary() -> None:
    assert len(combinations({"class_weight": [None, "balanced", {"a": 2.0}]})) == 3


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ([0.1, 1.0], TypeError, r"grid=\[0.1, 1.0\] is a list; pass a dictionary"),
        ({"penalty": ["l2"]}, ValueError, "grid has 'penalty', which is not a parameter: the penalty is L2"),
        ({"scaling": [None]}, ValueError, "grid has 'scaling', but only C, l2, learning_rate, momentum, class_weight"),
        ({"C": 1.0}, TypeError, r"grid\['C'\]=1.0 is a float; pass a list"),
        ({"class_weight": "balanced"}, TypeError, r"grid\['class_weight'\]='balanced' is a str; pass a list"),
        ("automatic", TypeError, "grid='automatic' is a str; pass a dictionary"),
        ({"C": "automatic"}, TypeError, r"grid\['C'\]='automatic' is a str; pass a list"),
        ({"momentum": "auto"}, TypeError, r"grid\['momentum'\]='auto' is a str; pass a list"),
        ({"C": []}, ValueError, r"grid\['C'\] is empty"),
        ({"C": [1.0], "l2": [1.0]}, ValueError, "both C and l2"),
        ({"C": [[1.0, 2.0]]}, TypeError, r"grid\['C'\]=\[\[1\.0, 2\.0\]\] is not a list of single values"),
        ([], ValueError, "grid is empty"),
        ({}, ValueError, "grid is empty"),
    ],
)
def test_what_is_no_grid_is_refused(grid: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        combinations(grid)


@pytest.mark.parametrize(
    ("estimator", "grid", "solver"),
    [
        (SoftmaxClassifier(), {"C": [1.0, 2.0]}, "lbfgs"),
        (SoftmaxClassifier(), {"momentum": [0.0, 0.9]}, "sgd"),
        (SoftmaxClassifier(), {"learning_rate": ["auto", 0.1]}, "sgd"),
        (SoftmaxClassifier(batch_size=32), {"C": [1.0]}, "sgd"),
        (LinearSVMClassifier(loss="hinge"), {"C": [1.0]}, "sgd"),
        (SoftmaxClassifier(solver="lbfgs"), {"C": [1.0]}, "lbfgs"),
    ],
)
def test_all_candidates_have_one_solver(estimator: Any, grid: Any, solver: str) -> None:
    assert {one.solver for one in configured(estimator, combinations(grid))} == {solver}


def test_a_candidate_is_checked_as_an_estimator_is() -> None:
    with pytest.raises(ValueError, match=r"C must be greater than 0"):
        configured(SoftmaxClassifier(), combinations({"C": [1.0, -1.0]}))
    with pytest.raises(ValueError, match=r"learning_rate=0\.1 is for solver='sgd'"):
        configured(SoftmaxClassifier(solver="lbfgs"), combinations({"learning_rate": [0.1]}))
