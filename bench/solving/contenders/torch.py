"""PyTorch's L-BFGS and Adam."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.solving.cases import Problem
from bench.solving.truth import EnoughError, Trace

ADAM_RATES, ADAM_BATCH = (3e-4, 3e-3), 1024


def _torch(problem: Problem) -> Any:
    import torch

    X = problem.scaled()
    is_sparse = not isinstance(X, np.ndarray)
    if is_sparse:
        X = torch.sparse_csr_tensor(*map(torch.from_numpy, (X.indptr, X.indices, X.data)), X.shape)
    else:
        X = torch.from_numpy(np.ascontiguousarray(X))
    y = torch.from_numpy(problem.y.astype(np.int64))
    # classes first: with features first each product takes four times as long
    W = torch.zeros(problem.n_classes, problem.X.shape[1], dtype=X.dtype, requires_grad=True)
    b = torch.zeros(problem.n_classes, dtype=X.dtype, requires_grad=True)

    def loss(rows: Any = None) -> Any:
        x, labels = (X, y) if rows is None else (X[rows], y[rows])
        scores = x @ W.T + b if is_sparse else torch.nn.functional.linear(x, W, b)
        if problem.case.loss == "softmax":
            mean = torch.nn.functional.cross_entropy(scores, labels)
        else:  # the target's own margin is 1
            margins = torch.relu(scores - scores.gather(1, labels[:, None]) + 1)
            mean = (margins * margins).sum() / len(labels) - 1
        return mean + 0.5 * problem.l2 * (W * W).sum()

    return torch, W, b, loss


def lbfgs(problem: Problem, trace: Trace) -> None:
    """PyTorch's L-BFGS with its line search, on the full batch."""
    torch, W, b, loss = _torch(problem)
    solver = torch.optim.LBFGS(
        [W, b], max_iter=100_000, max_eval=100_000, tolerance_grad=0, tolerance_change=0, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    passes = 0

    def closure() -> Any:
        nonlocal passes
        solver.zero_grad()
        value = loss()
        value.backward()
        passes += 1
        trace.show(passes, W.detach().numpy(), b.detach().numpy())
        return value

    trace.started = time.perf_counter()
    solver.step(closure)


def adam(problem: Problem, trace: Trace) -> None:
    """PyTorch's Adam on minibatches, at the better of two rates; half of the time for each."""
    if not isinstance(problem.X, np.ndarray):
        raise NotForThisError("rows of a sparse tensor cannot be picked")
    best: Trace | None = None
    for rate in ADAM_RATES:
        torch, W, b, loss = _torch(problem)
        torch.manual_seed(0)
        solver = torch.optim.Adam([W, b], lr=rate)
        run, epoch = Trace(trace.judge, trace.goal, trace.budget / 2), 0
        try:
            while True:
                for rows in torch.randperm(len(problem.y)).split(ADAM_BATCH):
                    solver.zero_grad()
                    loss(rows).backward()
                    solver.step()
                epoch += 1
                run.show(epoch, W.detach().numpy(), b.detach().numpy())
        except EnoughError:
            pass
        if best is None or run.lowest < best.lowest:
            best = run
    assert best is not None
    trace.points, trace.last = best.points, best.last
