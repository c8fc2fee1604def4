"""Ours with K models side by side, and a path with several C's side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from bench.common.ours import backend_for, objective_over, sweep_over_C
from bench.sweeping.cases import CLASSES, SCALE, SEED, Problem
from bench.sweeping.contenders.base import Outcome, Watch, Work
from bench.sweeping.contenders.ours import descend, options_of, recipe_objective
from gpusoftmax.search import exact

ROUNDS = 3  # whose medians count


def passes(problem: Problem, watch: Watch) -> Work:
    """One value and gradient over all rows."""
    backend = backend_for("auto")
    d = problem.X.shape[1]
    scale = problem.mean, np.full(d, SCALE)
    base = objective_over(backend, backend.asarray(problem.X), problem.y, CLASSES, [1e-3], *scale)
    rng = np.random.default_rng(SEED)
    W = (0.01 * rng.standard_normal((d, max(problem.size.models), CLASSES))).astype(np.float32)
    values: dict[int, float] = {}

    def run(K: int) -> int:
        objective = base.for_penalties(np.full(K, 1e-3))
        weights = np.ascontiguousarray(W[:, :K])
        values[K] = float(objective.value_and_gradient(weights, np.zeros((K, CLASSES), np.float32)).value[0])
        return K

    def work() -> Callable[[], Outcome]:
        numbers = per_model(problem, watch, run)
        alone = values[problem.size.models[0]]
        numbers["apart"] = {str(K): abs(value / alone - 1) for K, value in values.items()}
        return lambda: Outcome(numbers)

    return work


def steps(problem: Problem, watch: Watch) -> Work:
    """A minibatch step of the recipe, with its part of the time that the start takes."""
    objective, count = recipe_objective(problem), problem.size.model_steps

    def run(K: int) -> int:
        descend(objective, problem, [problem.pairs[k % len(problem.pairs)] for k in range(K)], count)
        return K * count

    def work() -> Callable[[], Outcome]:
        numbers = per_model(problem, watch, run)
        return lambda: Outcome(numbers)

    return work


def per_model(problem: Problem, watch: Watch, run: Callable[[int], int]) -> dict[str, Any]:
    """Milliseconds a model by the number of models side by side; `run` returns by how many a call is to be divided.

    Medians of rounds in turn, after one that does not count; when the time is up, of the rounds that are done.
    """
    found: dict[int, list[float]] = {}
    for number in range(ROUNDS + 1):
        for K in problem.size.models:
            if watch.enough():
                break
            started = time.perf_counter()
            divisor = run(K)
            if number:
                found.setdefault(K, []).append(1e3 * (time.perf_counter() - started) / divisor)
    return {"milliseconds": {str(K): statistics.median(times) for K, times in found.items()}}


def widths(problem: Problem, watch: Watch) -> Work:
    """The path, with several C's side by side."""

    def work() -> Callable[[], Outcome]:
        numbers: dict[str, Any] = {"seconds_by_width": {}, "passes_by_width": {}}
        best: Any = None
        for width in problem.size.widths:
            if watch.enough():
                break
            times = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                with mock.patch.object(exact, "width", lambda *_, width=width: width):
                    found = sweep_over_C(
                        problem.X, problem.y, problem.Cs, options_of(problem), refit=False, keep_models=False,
                        validation=problem.validation,
                    )  # fmt: skip
                times.append(time.perf_counter() - started)
                if watch.enough():
                    break
            objective = found.trials.objective[0]
            best = objective if best is None else np.minimum(best, objective)
            numbers["seconds_by_width"][str(width)] = statistics.median(times)
            numbers["passes_by_width"][str(width)] = float(found.trials.passes.mean())
            numbers["apart"] = float(abs(objective / best - 1).max())
        return lambda: Outcome(numbers)

    return work
