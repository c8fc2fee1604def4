"""NumPy by hand, as its users would write it well, and the same text on a GPU by CuPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common.ours import BatchPlan, backend_for
from bench.throughput.cases import MOMENTUM, Problem
from bench.throughput.contenders.base import Prepared, blas_threads, conversion_note, needs_dense, queued, rows_of


def _by_hand(problem: Problem, xp: Any, wait: Callable[[], Any], to_numpy: Callable[[Any], Any]) -> Prepared:
    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
    if xp is not np:
        needs_dense(problem)
    X = (problem.X if case.entries else xp.asarray(problem.X)).astype(np.float32, copy=False)
    l2 = xp.asarray(problem.l2.astype(np.float32))
    W, b = xp.asarray(problem.W.reshape(d, K * c)), xp.asarray(problem.b.reshape(K * c))
    y = xp.asarray(problem.y)
    penalties = xp.repeat(l2, c)
    limit = blas_threads(case.threads)

    def gradient(X: Any, y: Any, W: Any, b: Any) -> Any:
        labels = y if K == 1 else xp.repeat(y, K)
        Z = X @ W
        Z += b
        Z = Z.reshape(-1, c)
        Z -= Z.max(axis=1, keepdims=True)
        picked = xp.arange(len(Z)), labels
        target = Z[picked]
        xp.exp(Z, out=Z)
        total = Z.sum(axis=1, keepdims=True)
        losses = (xp.log(total[:, 0]) - target).reshape(-1, K).mean(axis=0)
        Z /= total
        Z[picked] -= 1
        Z = Z.reshape(-1, K * c)
        dW = X.T @ Z
        dW /= X.shape[0]
        dW += penalties * W
        norms = (W * W).reshape(d, K, c).sum(axis=(0, 2))
        return losses + 0.5 * l2 * norms, dW, Z.mean(axis=0)

    if case.work == "step":
        plan = BatchPlan(n, case.batch)
        W, b = xp.zeros_like(W), xp.zeros_like(b)
        vW, vb = xp.zeros_like(W), xp.zeros_like(b)
        epochs = iter(range(1 << 40))

        def epoch() -> Any:
            with limit():
                for rows in plan.epoch(next(epochs)):
                    picked = rows_of(None if rows is None else xp.asarray(rows))
                    _, dW, db = gradient(X[picked], y[picked], W, b)
                    for parameter, velocity, slope in ((W, vW, dW), (b, vb, db)):
                        velocity *= np.float32(MOMENTUM)
                        velocity += slope
                        parameter -= np.float32(problem.rate) * velocity
                wait()
            return W, b

        return Prepared(epoch, lambda r: tuple(map(to_numpy, r)), conversion_note(problem))

    def predict() -> Any:
        return ((X @ W + b).reshape(n, K, c).argmax(axis=2),)

    def queue() -> Any:
        with limit():
            return predict() if case.work == "predict" else gradient(X, y, W, b)

    options = {"note": conversion_note(problem), "gpu": xp is not np}
    return queued(queue, lambda _: wait(), lambda r: tuple(map(to_numpy, r)), **options)


def numpy(problem: Problem) -> Prepared:
    """What people write themselves."""
    return _by_hand(problem, np, lambda: None, np.asarray)


def cupy(problem: Problem) -> Prepared:
    """Plain CuPy, what our kernels have to beat on a GPU."""
    backend = backend_for("cuda")
    with backend.active():
        return _by_hand(problem, backend.xp, backend.synchronize, backend.to_numpy)
