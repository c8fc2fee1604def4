"""cs231n's loop in NumPy, as a student of the course would write it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from bench.sweeping.cases import Array, Problem
from bench.sweeping.contenders.base import TRIED, Outcome, Watch, Work, one_by_one, quickest


def loop(X: Array, y: Array, W: Array, batches: list[Array], rate: float, reg: float) -> Array:
    """SGD over the batches: X (n, d + 1) with a column of ones, W (d + 1, c)."""
    for rows in batches:
        x, labels, each = X[rows], y[rows], np.arange(len(rows))
        scores = x @ W
        scores -= scores.max(axis=1, keepdims=True)
        P = np.exp(scores)
        P /= P.sum(axis=1, keepdims=True)
        _ = -np.log(P[each, labels]).mean() + reg * (W * W).sum()  # the loss, which it would plot
        P[each, labels] -= 1
        W = W - np.float32(rate) * (x.T @ P / np.float32(len(rows)) + np.float32(2 * reg) * W)
    return W


def recipes(problem: Problem, watch: Watch) -> Work:
    """The loop for each pair, with as many threads as suit it."""
    X = np.empty((len(problem.y), problem.X.shape[1] + 1), np.float32)
    X[:, :-1], X[:, -1] = problem.X - problem.mean.astype(np.float32), 1
    batches = problem.batches()

    def fit(rate: float, reg: float, steps: int = problem.size.steps) -> tuple[Array, Array]:
        W = loop(X, problem.y, problem.start(), batches[:steps], rate, reg)
        return W[:-1].T, W[-1]

    def attempt(threads: int) -> None:
        with threadpool_limits(threads):
            fit(*problem.pairs[0], steps=TRIED)

    threads = quickest(attempt)

    def work() -> Callable[[], Outcome]:
        with threadpool_limits(threads):
            outcome = one_by_one(problem, watch, fit)
        outcome.numbers["threads"] = threads
        return lambda: outcome

    return work
