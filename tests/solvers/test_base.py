"""The records that solvers keep of their models: a part of one is the record of that part."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.solvers import LBFGS, SGD
from gpusoftmax.solvers.base import PerModel, StopReason, per_model
from tests.support.cases import blobs, objective_of, zeros_for

SOLVERS = {
    "L-BFGS": LBFGS(30, 1e-3),
    "SGD": SGD(BatchPlan(90, 16), steps=60, learning_rate=0.1),
}


@dataclass
class Inner(PerModel):
    numbers: Any = per_model()


@dataclass
class Outer(PerModel):
    numbers: Any = per_model()
    points: Any = per_model(1)
    pair: Any = per_model((1, 0))
    nothing: Any = per_model()
    records: Any = per_model()
    shared: Any = None


def test_a_part_of_a_record_has_those_models_in_every_field(backend: Backend) -> None:
    points = np.arange(12.0).reshape(2, 3, 2)
    whole = Outer(
        numbers=np.arange(3), points=backend.asarray(points), nothing=None, records=[Inner(np.array([7, 8, 9]))],
        pair=(backend.asarray(points), backend.asarray(points[0])), shared="all",
    )  # fmt: skip
    part = whole.select(np.array([2, 0]), backend)
    assert part.numbers.tolist() == [2, 0]
    assert backend.to_numpy(part.points).tolist() == points[:, [2, 0]].tolist()
    assert [backend.to_numpy(one).tolist() for one in part.pair] == [
        points[:, [2, 0]].tolist(),
        points[0][[2, 0]].tolist(),
    ]
    assert (part.nothing, part.records[0].numbers.tolist(), part.shared) == (None, [9, 7], "all")
    assert whole.numbers.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", SOLVERS)
def test_every_field_of_the_active_models_is_marked_or_shared(name: str) -> None:
    """A field that is forgotten would keep the numbers of models that have ended."""
    X, y = blobs(0, n=90, d=4, c=3)
    objective = objective_of(X, y, get_backend("numpy", 1), K=3, l2=[0.1, 0.2, 0.3])
    solver: Any = SOLVERS[name]
    state = solver.step(objective, solver.step(objective, solver.init(objective, *zeros_for(objective))))
    unmarked = {one.name for one in fields(state.models) if "axis" not in one.metadata}
    assert unmarked <= {"sample"}
    part = state.models.select(np.array([1]), objective.backend)
    assert part.objective.n_models == 1
    for one in fields(part):
        value, axis = getattr(part, one.name), one.metadata.get("axis")
        if isinstance(value, np.ndarray):
            assert value.shape[axis] == 1, one.name


@pytest.mark.parametrize("name", SOLVERS)
def test_a_model_that_ends_leaves_and_its_reason_is_known_by_its_number(name: str) -> None:
    X, y = blobs(0, n=90, d=4, c=3)
    objective = objective_of(X, y, get_backend("numpy", 1), K=3, l2=[0.1, 0.2, 0.3])
    solver: Any = SOLVERS[name]
    state = solver.init(objective, *zeros_for(objective))
    solver.end_diverged(state, np.array([False, True, False]))
    assert state.reasons == [StopReason.RUNNING, StopReason.DIVERGED, StopReason.RUNNING]
    assert (state.models.indices.tolist(), state.reason) == ([0, 2], StopReason.RUNNING)
    solver.end_diverged(state, np.array([True, False, True]))
    assert state.reason == StopReason.DIVERGED


def test_only_running_is_false_and_reasons_are_the_text_that_users_see() -> None:
    assert [reason for reason in StopReason if not reason] == [StopReason.RUNNING]
    assert "converged" == StopReason.CONVERGED
    assert str(StopReason.EARLY_STOPPING) == "early_stopping"
