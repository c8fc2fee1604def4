"""PyTorch, eager and compiled, at its best settings. It is imported only when it takes part."""

from __future__ import annotations

import shutil
from functools import cache, partial
from typing import Any

import numpy as np

from bench.common.harness import lacks
from bench.common.ours import BatchPlan, default_threads
from bench.throughput.cases import MOMENTUM, Problem
from bench.throughput.contenders.base import Prepared, conversion_note, needs_dense, queued, rows_of
from bench.throughput.truth import Answer

no_torch = lacks("torch")


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


def _prepare(problem: Problem, device: str, compiled: bool) -> Prepared:
    import torch

    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
    if compiled or device != "cpu":
        needs_dense(problem)
    if case.entries:
        entries = problem.X.astype(np.float32)
        X = torch.sparse_csr_tensor(*map(torch.from_numpy, (entries.indptr, entries.indices, entries.data)), (n, d))
    else:
        X = torch.from_numpy(problem.X).to(device).float()  # no copy where it is so already
    y = torch.from_numpy(problem.y).to(device)
    l2 = torch.from_numpy(problem.l2).float().to(device)
    # (K c, d), as nn.Linear has it: with (d, K c) the gradient takes four times as long where classes are few
    W = torch.from_numpy(problem.W.reshape(d, K * c).T.copy()).to(device)
    b = torch.from_numpy(problem.b.reshape(K * c).copy()).to(device)
    threads = case.threads or default_threads()

    def losses_of(X: Any, y: Any, W: Any, b: Any) -> Any:
        Z = X @ W.T + b if case.entries else torch.nn.functional.linear(X, W, b)
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

    def queue() -> Any:
        torch.set_num_threads(threads)
        if case.work == "predict":
            with torch.inference_mode():
                return (best_of(X, W, b),)
        losses = losses_of(X, y, W, b)
        return (losses, *torch.autograd.grad(losses.sum(), (W, b)))

    if case.work == "gradient":
        W.requires_grad_()
        b.requires_grad_()
    return queued(queue, lambda _: wait(), read, **options)


eager = partial(_prepare, device="cpu", compiled=False)
compiled = partial(_prepare, device="cpu", compiled=True)
on_gpu = partial(_prepare, device="cuda", compiled=False)
compiled_on_gpu = partial(_prepare, device="cuda", compiled=True)
