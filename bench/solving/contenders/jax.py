"""JAX: L-BFGS of optax, each step one compiled function."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.solving.cases import Problem
from bench.solving.truth import Trace

PAIRS = 10


def lbfgs(problem: Problem, trace: Trace) -> None:
    """L-BFGS with optax's zoom line search, in the type of the data; a step evaluates as often as the search asks.

    Compiling the step is outside the clock, as it is for kernels of ours that are in the cache.
    """
    import jax
    import jax.numpy as jnp
    import optax

    if not isinstance(problem.X, np.ndarray):
        raise NotForThisError("its sparse products are experimental")
    data = problem.scaled()
    with jax.enable_x64(data.dtype == np.float64):
        X, y = jnp.asarray(data), jnp.asarray(problem.y.astype(np.int32))
        # classes first, as in `throughput`
        start = (jnp.zeros((problem.n_classes, X.shape[1]), X.dtype), jnp.zeros(problem.n_classes, X.dtype))

        def objective(weights: Any) -> Any:
            W, b = weights
            scores = X @ W.T + b
            own = jnp.take_along_axis(scores, y[:, None], axis=1)
            if problem.case.loss == "softmax":
                mean = (jax.nn.logsumexp(scores, axis=1) - own[:, 0]).mean()
            else:  # the target's own margin is 1
                mean = (jax.nn.relu(scores - own + 1) ** 2).sum(axis=1).mean() - 1
            return mean + 0.5 * problem.l2 * (W * W).sum()

        solver = optax.lbfgs(memory_size=PAIRS)
        value_and_gradient = optax.value_and_grad_from_state(objective)

        @jax.jit
        def step(weights: Any, state: Any) -> Any:
            value, gradient = value_and_gradient(weights, state=state)
            updates, state = solver.update(
                gradient, state, weights, value=value, grad=gradient, value_fn=objective
            )  # fmt: skip
            return optax.apply_updates(weights, updates), state

        weights, state, passes = start, solver.init(start), 1.0
        jax.block_until_ready(step(*step(weights, state)))  # the types of the second call are others: it compiles, too
        trace.started = time.perf_counter()
        while True:
            weights, state = jax.block_until_ready(step(weights, state))
            passes += max(1.0, float(optax.tree_utils.tree_get(state, "num_linesearch_steps")))
            trace.show(passes, *map(np.asarray, weights))
