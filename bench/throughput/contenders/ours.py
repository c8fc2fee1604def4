"""Our backends, and the specification."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.common.ours import SGD, Backend, BatchPlan, Objective, backend_for, objective_over
from bench.throughput.cases import MOMENTUM, Problem
from bench.throughput.contenders.base import Prepared, needs_dense, queued
from bench.throughput.truth import Answer
from gpusoftmax import BackendUnavailableError, SoftmaxClassifier, reference

REFERENCE_WORK = 20_000_000  # n d K c of the cut: a tenth of a second


@cache
def absent(name: str) -> str:
    """Why a backend is absent, or an empty string."""
    try:
        found = backend_for(name)
    except BackendUnavailableError as error:
        return str(error)
    return "" if found.name.split(":")[0] == name else found.reason  # "cpu" falls back to NumPy without Numba


def prepare(problem: Problem, name: str) -> Prepared:
    """One of our backends."""
    backend = backend_for(name, problem.case.threads)
    kinds = {"gradient": _our_gradient, "step": _our_steps, "predict": _our_predictions}
    with backend.active():
        return kinds[problem.case.work](problem, backend)


def _objective(problem: Problem, backend: Backend) -> Objective:
    return objective_over(backend, problem.X, problem.y, problem.case.c, problem.l2)


def _our_gradient(problem: Problem, backend: Backend) -> Prepared:
    """What a solver asks for in each step; a fit checks labels and moves X once."""
    objective = _objective(problem, backend)
    W, b = backend.asarray(problem.W), backend.asarray(problem.b)

    def queue() -> Any:
        with backend.active():
            return objective.value_and_gradient(W, b)

    def wait(result: Any) -> None:
        with backend.active():
            backend.synchronize()

    def read(result: Any) -> Answer:
        return tuple(map(backend.to_numpy, (result.value, result.dW, result.db)))

    return queued(queue, wait, read, gpu=backend.gpu is not None)


def _our_steps(problem: Problem, backend: Backend) -> Prepared:
    """The solver that the trainer runs, epoch after epoch."""
    objective, case = _objective(problem, backend), problem.case
    plan = BatchPlan(case.n, case.batch)
    solver = SGD(
        plan, steps=1 << 40, learning_rate=problem.rate, momentum=MOMENTUM, nesterov=False, schedule="constant"
    )
    zero = [backend.asarray(np.zeros_like(array)) for array in (problem.W, problem.b)]
    state = solver.init(objective, *zero)

    def call() -> Any:
        with backend.active():
            stop = state.step + plan.steps_per_epoch
            while state.step < stop:
                solver.step(objective, state)
            backend.synchronize()
            return state

    def read(state: Any) -> Answer:
        return tuple(map(backend.to_numpy, (state.W, state.b)))

    return Prepared(call, read, gpu=backend.gpu is not None)


def _our_predictions(problem: Problem, backend: Backend) -> Prepared:
    """The estimator's predict, checks included."""
    if problem.case.K > 1:
        raise NotForThisError("an estimator is one model")
    model = SoftmaxClassifier(backend=backend)
    model.classes_, model.n_features_in_ = np.arange(problem.case.c), problem.case.d
    model.coef_, model.intercept_ = np.ascontiguousarray(problem.W[:, 0].T), problem.b[0]
    X = problem.X if problem.case.entries else backend.asarray(problem.X)
    return Prepared(lambda: model.predict(X), lambda result: (backend.to_numpy(result),), gpu=backend.gpu is not None)


def specification(problem: Problem) -> Prepared:
    """`gpusoftmax.reference`, float64 without BLAS, on a cut of the rows: on all of them a call would take minutes."""
    case = problem.case
    needs_dense(problem)
    if case.work == "step":
        raise NotForThisError("has no steps")
    cut = problem.first(max(1, REFERENCE_WORK // (case.d * case.K * case.c)))
    note = f"time of the first {cut.case.n} rows, scaled" if cut.case.n < case.n else ""
    if case.work == "predict":
        return Prepared(
            lambda: reference.scores(cut.X, cut.W, cut.b).argmax(axis=2), lambda best: (best,), note, rows=cut.case.n
        )
    return Prepared(
        lambda: reference.loss_and_gradient(cut.X, cut.y, cut.W, cut.b, l2=cut.l2), tuple, note, rows=cut.case.n
    )
