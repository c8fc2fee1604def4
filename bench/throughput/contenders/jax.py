"""JAX under jit, at its best settings. It is imported only when it takes part."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.common.ours import BatchPlan, default_threads
from bench.throughput.cases import MOMENTUM, Problem
from bench.throughput.contenders.base import Prepared, conversion_note, needs_dense, queued
from bench.throughput.truth import Answer


def prepare(problem: Problem) -> Prepared:
    """value_and_grad under jit; a step is one jitted function whose weights are donated."""
    import jax
    import jax.numpy as jnp

    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
    needs_dense(problem)
    if case.threads not in (None, default_threads()):
        raise NotForThisError("its threads are fixed when it starts")
    X, y = jnp.asarray(problem.X, jnp.float32), jnp.asarray(problem.y.astype(np.int32))
    # (K c, d): with (d, K c) the gradient takes four times as long where classes are few
    W, b = jnp.asarray(problem.W.reshape(d, K * c).T), jnp.asarray(problem.b.reshape(K * c))
    l2 = jnp.asarray(problem.l2.astype(np.float32))

    def total(W: Any, b: Any, X: Any, y: Any) -> Any:
        Z = jax.nn.log_softmax((X @ W.T + b).reshape(-1, K, c))
        losses = -jnp.take_along_axis(Z, y[:, None, None], axis=2).mean(axis=(0, 2))
        losses += 0.5 * l2 * (W * W).reshape(K, -1).sum(axis=1)
        return losses.sum(), losses

    value_and_grad = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    gpu = jax.default_backend() != "cpu"
    if case.work == "step":
        plan, epochs = BatchPlan(n, case.batch), iter(range(1 << 40))

        def one(weights: Any, X: Any, y: Any, rows: Any) -> Any:
            parameters, velocities = weights
            _, slopes = value_and_grad(*parameters, X[rows], y[rows])
            velocities = tuple(MOMENTUM * v + g for v, g in zip(velocities, slopes, strict=True))
            return tuple(p - problem.rate * v for p, v in zip(parameters, velocities, strict=True)), velocities

        step = jax.jit(one, donate_argnums=0)
        state = [tuple((jnp.zeros_like(W), jnp.zeros_like(b)) for _ in range(2))]

        def epoch() -> Any:
            for rows in plan.epoch(next(epochs)):
                picked = np.arange(n, dtype=np.int32) if rows is None else rows.astype(np.int32)
                state[0] = step(state[0], X, y, picked)
            return jax.block_until_ready(state[0])[0]

        return Prepared(
            epoch,
            lambda r: (np.asarray(r[0]).T, np.asarray(r[1])),
            conversion_note(problem),
            gpu=gpu,
        )
    if case.work == "predict":
        best = jax.jit(lambda X, W, b: (X @ W.T + b).reshape(-1, K, c).argmax(axis=2))
        options = {"note": conversion_note(problem), "gpu": gpu}
        return queued(lambda: best(X, W, b), jax.block_until_ready, lambda r: (np.asarray(r),), **options)
    function = jax.jit(value_and_grad)

    def read(result: Any) -> Answer:
        (_, losses), slopes = result
        return np.asarray(losses), np.asarray(slopes[0]).T, np.asarray(slopes[1])

    options = {"note": conversion_note(problem), "gpu": gpu}
    return queued(lambda: function(W, b, X, y), jax.block_until_ready, read, **options)
