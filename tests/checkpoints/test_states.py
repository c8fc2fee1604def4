"""States of solvers: put into a file and back after every step, they go on with the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.checkpoints.file import read, write
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import LBFGS, SGD, block_search, newton, sgd
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.solvers.preconditioners import hessian, woodbury
from tests.support.cases import blobs, objective_of, zeros_for

NUMPY = get_backend("numpy", n_threads=1)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short stretches of SGD, so that an epoch has several steps, and no waiting for the disk."""
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 32)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def narrow(backend: Backend, K: int = 1) -> Objective:
    """Rows of two dimensions that are hard to tell apart, so that L-BFGS takes many steps with weak penalties."""
    X, y = blobs(4, n=90, d=4, apart=1.0)
    l2 = [1e-8, 1e-2, 1e-6][:K]
    weights = None if K == 1 else np.random.default_rng(0).integers(1, 3, (90, K)).astype(np.float64)
    return objective_of(X.astype(np.float64), y, backend, K=K, l2=l2, weights=weights)


SOLVERS: dict[str, Callable[[], Any]] = {
    "L-BFGS": lambda: LBFGS(60, tol=1e-9),
    "SGD": lambda: SGD(BatchPlan(90, 16, seed=3), 6 * 12, tol=1e-3),
    "SGD without momentum": lambda: SGD(BatchPlan(90, 16), 6 * 8, 0.05, momentum=0.0, schedule="cosine"),
}


def through_a_file(tree: Any, path: Path) -> Any:
    write(path, {}, {"solver": tree})
    found = read(path)
    assert found is not None
    return found[2]["solver"]


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_state_goes_on_with_the_same_bits(
    name: str, K: int, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    objective, solver = narrow(backend, K), SOLVERS[name]()
    start = (
        zeros_for(objective)[0] + backend.asarray(np.random.default_rng(0).standard_normal((4, K, 3))),
        zeros_for(objective)[1],
    )
    steps, refreshes = goes_on_with_the_same_bits(objective, solver, start, tmp_path)
    assert steps > 10
    assert name != "L-BFGS" or refreshes > 0


@pytest.mark.parametrize("K", [1, 3])
def test_a_state_whose_preconditioner_is_scaled_for_each_class_goes_on_with_the_same_bits(
    K: int, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    monkeypatch.setattr(hessian, "FULL_SIZE", 0)
    objective = narrow(backend, K)
    due = []
    original = LBFGS.step
    monkeypatch.setattr(LBFGS, "step", lambda *each: due.append(each[2].models.is_due.any()) or original(*each))  # type: ignore[func-returns-value]
    _, refreshes = goes_on_with_the_same_bits(objective, LBFGS(30, tol=1e-9), zeros_for(objective), tmp_path)
    assert refreshes > 0
    assert any(due) == backend.queues_work


@pytest.mark.parametrize("K", [1, 3])
def test_a_state_of_block_search_goes_on_with_the_same_bits(
    K: int, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(woodbury, "LEAST_PASS", 0.0)
    monkeypatch.setattr(woodbury, "FEWEST", 32)
    monkeypatch.setattr(block_search, "LEAST_QUEUED_PASS", 0.0)
    X, y = blobs(4, n=600, d=100, c=2, apart=0.2)
    objective = objective_of(X, y, backend, K=K, l2=[0.5, 0.1, 2.0][:K])
    steps, _ = goes_on_with_the_same_bits(objective, LBFGS(60, tol=1e-6), zeros_for(objective), tmp_path)
    assert steps > 5


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("K", [1, 3])
def test_a_state_of_newton_goes_on_with_the_same_bits(
    K: int, at_once: bool, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if at_once:
        monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    monkeypatch.setattr(newton, "PRODUCTS_PER_COLUMN", 0.5)  # so that blocks of classes take over
    X, y = blobs(3, n=90, d=8, c=4, apart=1.5)
    objective = objective_of(X.astype(np.float64), y, backend, K=K, c=4, loss="squared_hinge", l2=[1e-6, 1.0, 1e-3][:K])
    steps, _ = goes_on_with_the_same_bits(objective, LBFGS(100, tol=1e-6), zeros_for(objective), tmp_path)
    assert steps > 5


def goes_on_with_the_same_bits(objective: Objective, solver: Any, start: Any, folder: Path) -> tuple[int, int]:
    """Put the state into a file and back after every step; returns how many there were, and the most refreshes."""
    backend = objective.backend
    alone, state = solver.init(objective, *start), solver.init(objective, *start)
    steps, refreshes = 0, 0
    while not alone.reason:
        alone = solver.step(objective, alone)
        kept = through_a_file(solver.to_arrays(state), folder / "run.ckpt")
        state = solver.step(objective, solver.from_arrays(solver.init(objective, *start), kept))
        steps += 1
        refreshes = max([refreshes, *getattr(alone.models, "refreshes", [])])
        for field in ("W", "b", "value", "loss", "accuracy", "learning_rate", "gradient_norm", "iterations"):
            ours, theirs = (getattr(one, field) for one in (state, alone))
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert backend.to_numpy(ours).tobytes() == backend.to_numpy(theirs).tobytes(), (steps, field)
        assert (state.reasons, state.passes, state.step) == (alone.reasons, alone.passes, alone.step)
    assert all(isinstance(reason, StopReason) for reason in state.reasons)
    return steps, refreshes


# what a forged file may hold

FORGED: dict[str, tuple[str, Any]] = {
    "weights of another shape": ("W", np.zeros((5, 3, 3))),
    "weights of another type": ("W", np.zeros((4, 3, 3), np.float32)),
    "weights as numbers": ("W", [1.0]),
    "a reason that is none": ("reasons", ["", "tired", ""]),
    "too few reasons": ("reasons", [""]),
    "passes as a text": ("passes", "many"),
    "steps as a flag": ("step", True),
    "a field too many": ("extra", 1),
    "models that do not exist": ("models/indices", np.array([0, 1, 3])),
    "a model twice": ("models/indices", np.array([0, 1, 1])),
    "no models": ("models/indices", np.array([], np.int64)),
    "other slots": ("models/pairs/slots", [0, 1, 2, 3, 99]),
    "a slot twice": ("models/pairs/slots", [0, 1, 1]),
    "slots as texts": ("models/pairs/slots", ["0"]),
    "pairs of another shape": ("models/pairs/vectors", np.zeros((3, 5, 2, 14))),
    "a point of another shape": ("models/point", {"x": np.zeros(3)}),
    "refreshes without points": ("models/refreshes", np.array([1, 0, 0])),
    "points without refreshes": ("points", {"0": np.zeros((5, 3))}),
    "no models at all": ("models", 3),
}


@pytest.mark.parametrize(("field", "value"), FORGED.values(), ids=FORGED)
def test_a_forged_state_is_refused_before_a_kernel_sees_it(field: str, value: Any) -> None:
    objective, solver = narrow(NUMPY, 3), LBFGS(60, tol=1e-9)
    state = solver.init(objective, *zeros_for(objective))
    for _ in range(5):
        state = solver.step(objective, state)
    kept = copy.deepcopy(solver.to_arrays(state))
    *path, last = field.split("/")
    place = kept
    for name in path:
        place = place[name]
    place[last] = value
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        solver.from_arrays(solver.init(objective, *zeros_for(objective)), kept)
