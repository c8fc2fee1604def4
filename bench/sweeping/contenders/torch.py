"""PyTorch: all pairs of cs231n's grid as the heads of one Linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.sweeping.cases import CLASSES, Problem
from bench.sweeping.contenders.base import TRIED, Outcome, Watch, Work, quickest


def heads(problem: Problem, watch: Watch) -> Work:
    """A loss and a learning rate for each head."""
    import torch

    X = torch.from_numpy(problem.X - problem.mean.astype(np.float32))
    y = torch.from_numpy(problem.y)
    K, batches = len(problem.pairs), [torch.from_numpy(rows) for rows in problem.batches()]
    rates, regs = (
        torch.tensor(side, dtype=torch.float32).repeat_interleave(CLASSES) for side in zip(*problem.pairs, strict=True)
    )
    start = torch.from_numpy(problem.start().T).repeat(K, 1)  # (K c, d + 1): classes first, which suits its products

    def descend(steps: int) -> Any:
        linear = torch.nn.Linear(X.shape[1], K * CLASSES)
        with torch.no_grad():
            linear.weight.copy_(start[:, :-1])
            linear.bias.copy_(start[:, -1])
        kept = 1 - 2 * rates * regs
        for rows in batches[:steps]:
            scores = linear(X[rows]).view(-1, CLASSES)
            labels = y[rows].repeat_interleave(K)
            linear.zero_grad(set_to_none=True)
            (torch.nn.functional.cross_entropy(scores, labels, reduction="sum") / len(rows)).backward()
            with torch.no_grad():
                linear.weight.mul_(kept[:, None]).sub_(linear.weight.grad.mul_(rates[:, None]))
                linear.bias.mul_(kept).sub_(linear.bias.grad.mul_(rates))
        return linear

    def attempt(threads: int) -> None:
        torch.set_num_threads(threads)
        descend(TRIED)

    threads = quickest(attempt)
    torch.set_num_threads(threads)

    def work() -> Callable[[], Outcome]:
        linear = descend(problem.size.steps)
        W = linear.weight.detach().numpy().reshape(K, CLASSES, -1)
        b = linear.bias.detach().numpy().reshape(K, CLASSES)
        return lambda: Outcome({"threads": threads}, {model: (W[model[1]], b[model[1]]) for model in problem.drawn})

    return work
