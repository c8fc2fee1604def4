"""The peers with a framework: PyTorch, eager and compiled, and JAX, each at its best settings.

Imported only when they take part. Who needs float32 gets it outside the clock, and the note says so. The public
functions are what `contenders.Contender.absent` and `prepare` are.
"""

from __future__ import annotations

import shutil
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.throughput.cases import MOMENTUM, NotForThisError, Prepared, Problem
from bench.throughput.contenders.by_hand import conversion_note, rows_of
from bench.throughput.truth import Answer
from gpusoftmax.array import default_threads
from gpusoftmax.features.batches import BatchPlan

# ---- PyTorch


def no_torch() -> str:
    """Why PyTorch is absent."""
    return "" if find_spec("torch") else "PyTorch is not installed"


@cache
def no_compiler() -> str:
    """Why torch.compile is absent: on a CPU it needs a C++ compiler."""
    if no_torch():
        return no_torch()
    return "" if any(map(shutil.which, ("g++", "clang++", "cl"))) else "torch.compile finds no C++ compiler"


@cache
def no_torch_gpu() -> str:
    """Why PyTorch on a GPU is absent."""
    if no_torch():
        return no_torch()
    import torch

    return "" if torch.cuda.is_available() else "PyTorch finds no GPU"


def _torch(problem: Problem, device: str, compiled: bool) -> Prepared:
    import torch

    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
    X = torch.from_numpy(problem.X).to(device).float()  # no copy where it is so already
    y = torch.from_numpy(problem.y).to(device)
    l2 = torch.from_numpy(problem.l2).float().to(device)
    # (K c, d), as nn.Linear has it: with (d, K c) the gradient takes four times as long where classes are few
    W = torch.from_numpy(problem.W.reshape(d, K * c).T.copy()).to(device)
    b = torch.from_numpy(problem.b.reshape(K * c).copy()).to(device)
    threads = case.threads or default_threads()

    def losses_of(X: Any, y: Any, W: Any, b: Any) -> Any:
        Z = torch.nn.functional.linear(X, W, b)
        if K == 1:
            losses = torch.nn.functional.cross_entropy(Z, y)[None]
        else:
            # (m, c, K): one cross-entropy for all models
            Z = Z.view(-1, K, c).transpose(1, 2)
            losses = torch.nn.functional.cross_entropy(Z, y[:, None].expand(-1, K), reduction="none").mean(0)
        return losses + 0.5 * l2 * (W * W).view(K, -1).sum(1)

    def best_of(X: Any, W: Any, b: Any) -> Any:
        return torch.nn.functional.linear(X, W, b).view(-1, K, c).argmax(2)

    def batch_losses(X: Any, y: Any, rows: Any, W: Any, b: Any) -> Any:
        return losses_of(X[rows], y[rows], W, b)

    if compiled:
        # after eight shapes of one function it would fall back to eager without a word, hence the reset; and shapes
        # that it took for variable would be slower
        torch._dynamo.reset()
        losses_of, best_of, batch_losses = (torch.compile(f, dynamic=False) for f in (losses_of, best_of, batch_losses))

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def read(results: Any) -> Answer:
        arrays = [result.detach().cpu().numpy() for result in results]
        return tuple(arrays) if case.work == "predict" else (*arrays[:-2], arrays[-2].T, arrays[-1])

    options = {"note": conversion_note(problem), "gpu": device != "cpu"}
    if case.work == "step":
        plan, epochs = BatchPlan(n, case.batch), iter(range(1 << 40))
        W, b = torch.zeros_like(W).requires_grad_(), torch.zeros_like(b).requires_grad_()
        optimizer = torch.optim.SGD([W, b], lr=problem.rate, momentum=MOMENTUM, fused=True)

        def epoch() -> Any:
            torch.set_num_threads(threads)
            for rows in plan.epoch(next(epochs)):
                picked = rows_of(None if rows is None else torch.from_numpy(rows).to(device))
                optimizer.zero_grad(set_to_none=True)
                batch_losses(X, y, picked, W, b).sum().backward()
                optimizer.step()
            wait()
            return W, b

        return Prepared(epoch, read, **options)

    def call() -> Any:
        torch.set_num_threads(threads)
        if case.work == "predict":
            with torch.inference_mode():
                result: Any = (best_of(X, W, b),)
        else:
            losses = losses_of(X, y, W, b)
            result = (losses, *torch.autograd.grad(losses.sum(), (W, b)))
        wait()
        return result

    if case.work == "gradient":
        W.requires_grad_()
        b.requires_grad_()
    return Prepared(call, read, **options)


def torch_eager(problem: Problem) -> Prepared:
    """cross_entropy of linear, and autograd."""
    return _torch(problem, "cpu", compiled=False)


def torch_compiled(problem: Problem) -> Prepared:
    """The same through torch.compile; steps by the fused optimizer."""
    return _torch(problem, "cpu", compiled=True)


def torch_gpu(problem: Problem) -> Prepared:
    """The same on a GPU."""
    return _torch(problem, "cuda", compiled=False)


# ---- JAX


def no_jax() -> str:
    """Why JAX is absent."""
    return "" if find_spec("jax") and find_spec("jaxlib") else "JAX is not installed"


def jax_jit(problem: Problem) -> Prepared:
    """value_and_grad under jit; a step is one jitted function whose weights are donated."""
    import jax
    import jax.numpy as jnp

    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
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
        return Prepared(
            lambda: jax.block_until_ready(best(X, W, b)), lambda r: (np.asarray(r),), conversion_note(problem), gpu=gpu
        )
    function = jax.jit(value_and_grad)

    def read(result: Any) -> Answer:
        (_, losses), slopes = result
        return np.asarray(losses), np.asarray(slopes[0]).T, np.asarray(slopes[1])

    return Prepared(lambda: jax.block_until_ready(function(W, b, X, y)), read, conversion_note(problem), gpu=gpu)
