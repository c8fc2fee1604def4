"""What a contender gives to be timed, and what several contenders need for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.sweeping.cases import Array, Problem
from bench.sweeping.truth import Models, choices

TRIED = 20  # steps by which numbers of threads are compared


@dataclass
class Outcome:
    """What a contender found: numbers for JSON, and those drawn models that it has, W (c, d) and b (c,)."""

    numbers: dict[str, Any] = field(default_factory=dict)
    models: Models = field(default_factory=dict)


@dataclass
class Watch:
    """Counts the models that are done, in a file so that other processes can count along; says when the time is up."""

    tally: Path | None = None
    budget: float = float("inf")
    stopped: bool = False

    def start(self) -> None:
        """The time begins."""
        self.started, self.stopped = time.perf_counter(), False
        if self.tally is not None:
            self.tally.write_bytes(b"")

    def tell(self) -> None:
        """One more model is done."""
        count(self.tally)

    def enough(self) -> bool:
        """Whether the time is up; a contender that asks stops then."""
        self.stopped = time.perf_counter() - self.started > self.budget
        return self.stopped


def count(tally: Path | None, models: int = 1) -> None:
    """Appends a byte for each model, which several processes can do at once."""
    if tally is not None:
        with tally.open("ab") as file:
            file.write(b"." * models)


Work = Callable[[], Callable[[], Outcome]]
Run = Callable[[Problem, Watch], Work]


def measured(accuracy: Any, log_loss: Any) -> dict[str, Any]:
    """The C that is best by each, and the means over folds, for (folds, C's)."""
    means = {"accuracy": np.mean(accuracy, axis=0).tolist(), "log_loss": np.mean(log_loss, axis=0).tolist()}
    return choices(accuracy, log_loss) | means


def scores(P: Array, y: Array) -> tuple[float, float]:
    """Accuracy and log loss of probabilities P (n, c)."""
    of_targets = np.maximum(P[np.arange(len(y)), y], np.finfo(P.dtype).tiny)
    return float((P.argmax(axis=1) == y).mean()), float(-np.log(of_targets, dtype=np.float64).mean())


def one_by_one(problem: Problem, watch: Watch, fit: Callable[[float, float], tuple[Array, Array]]) -> Outcome:
    """A model for one pair of learning rate and regularization after another, until the time is up."""
    models = {}
    for model in problem.models:
        if watch.enough():
            break
        found = fit(*problem.pairs[model[1]])
        if model in problem.drawn:
            models[model] = found
        watch.tell()
    return Outcome({}, models)


def quickest(attempt: Callable[[int], Any]) -> int:
    """One thread or all, whichever takes less time in a second call."""
    seconds = {}
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        attempt(threads)
        started = time.perf_counter()
        attempt(threads)
        seconds[threads] = time.perf_counter() - started
    return min(seconds, key=lambda threads: seconds[threads])
