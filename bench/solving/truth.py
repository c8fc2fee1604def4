"""The objective where a solver is, measured without its help, and the record of a run.

What solvers say of themselves does not count: where rows are certain, losses in float32 are wrong by percents in some
of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bench.common.ours import LBFGS, Objective, backend_for, objective_over, train
from bench.solving.cases import Problem

SHORT = 10.0  # seconds up to which a run is made twice
PASSES = 6  # by which the time of a pass is measured
SMALL = 20_000_000  # features up to which the objective is measured in float64


class EnoughError(Exception):
    """The goal is reached, or the time is up."""


@dataclass(frozen=True)
class Judge:
    """Measures the objective of a problem."""

    problem: Problem

    @cached_property
    def objective(self) -> Objective:
        """The objective over scaled features."""
        X = self.problem.scaled()
        X = X.astype(np.float64) if X.size <= SMALL else X
        problem = self.problem
        return objective_over(
            backend_for("cpu"), X, problem.y, problem.n_classes, [problem.l2], loss=problem.case.loss
        )  # fmt: skip

    def __call__(self, W: Any, b: Any) -> float:
        """The objective at W (c, d) and b (c,) of the scaled features."""
        dtype = self.objective.features.dtype
        W, b = np.ascontiguousarray(W.T[:, None], dtype), np.ascontiguousarray(b[None], dtype)
        return float((self.objective.losses(W, b)[0] + self.objective.penalty.value(W, b))[0])


@dataclass
class Trace:
    """Where a solver was: seconds since it started, passes over X, objective. The clock stops while it is paused."""

    judge: Judge
    goal: float
    budget: float
    points: list[tuple[float, float, float]] = field(default_factory=list)
    last: tuple[Any, Any] | None = None
    once: bool = False  # short runs, too, are made once
    started: float = field(default_factory=time.perf_counter)

    @property
    def lowest(self) -> float:
        """The smallest objective."""
        return min(point[2] for point in self.points)

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger for a better run: whether it is at the goal, and how soon."""
        return self.lowest <= self.goal, -self.points[-1][0]

    def show(self, passes: float, W: Any, b: Any, seconds: float | None = None) -> None:
        """A point W (c, d), b (c,); ends the run at the goal, or when the time is up."""
        with self.paused():
            seconds = time.perf_counter() - self.started if seconds is None else seconds
            self.last = np.array(W, np.float64), np.array(b, np.float64)
            value = self.judge(*self.last)
        self.add(passes, value, seconds)

    def add(self, passes: float, value: float, seconds: float | None = None) -> None:
        """A point whose objective is known."""
        self.points.append((time.perf_counter() - self.started if seconds is None else seconds, passes, value))
        if value <= self.goal or self.points[-1][0] > self.budget:
            raise EnoughError

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context for what is not the solver's work."""
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before


def pass_seconds(problem: Problem) -> float:
    """Seconds of our pass over X as it is, a value and gradient: the best of several calls, after one to warm up."""
    shift, scale = (None, None) if problem.scaling is None else problem.scaling
    objective = objective_over(
        backend_for("cpu"), problem.X, problem.y, problem.n_classes, [problem.l2], shift, scale, problem.case.loss
    )  # fmt: skip
    dtype, shape = objective.features.dtype, (1, problem.n_classes)
    W, b, seconds = np.zeros((objective.features.d, *shape), dtype), np.zeros(shape, dtype), []
    for _ in range(PASSES):
        started = time.perf_counter()
        objective.value_and_gradient(W, b)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def best_known(judge: Judge) -> float:
    """The objective where our solver ends, in float64 if the data are small."""
    objective = judge.objective
    dtype, shape = objective.features.dtype, (1, judge.problem.n_classes)
    start = np.zeros((objective.features.d, *shape), dtype), np.zeros(shape, dtype)
    return float(train(objective, LBFGS(2000, 0.0), *start).history[-1].objective)


def in_float64(problem: Problem, W: Any, b: Any) -> float:
    """The objective in plain float64 NumPy at W (c, d) and b (c,) of the scaled features."""
    X, total = problem.scaled(), 0.0
    n = X.shape[0]
    for start in range(0, n, 4096):
        z = X[start : start + 4096].astype(np.float64) @ W.T + b
        labels = problem.y[start : start + 4096]
        margins = z - z[np.arange(len(z)), labels][:, None]  # the target's is 0 to the last digit
        margins[np.arange(len(z)), labels] = -np.inf
        if problem.case.loss == "squared_hinge":
            total += float((np.maximum(margins + 1, 0) ** 2).sum())
            continue
        top = np.maximum(margins.max(axis=1), 0.0)
        others = np.exp(margins - top[:, None]).sum(axis=1)
        total += float((top + np.where(top > 0, np.log(others + np.exp(-top)), np.log1p(others))).sum())
    return total / n + 0.5 * problem.l2 * float((W * W).sum())
