"""Loss and gradient of rows of scores, in place where a library can."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.gpu.contenders.availability import jax_module, torch_module
from bench.gpu.device import torch_device
from bench.gpu.truth import RowsProblem
from bench.throughput.contenders.base import Prepared, queued


def _wait(result: Any) -> None:
    import cupy

    cupy.cuda.get_current_stream().synchronize()


def _read(result: Any) -> tuple[Any, ...]:
    """The total loss, and the first eight rows of the gradient, from bfloat16's bits if they are such."""
    losses, G = result
    first = G[:8].get()
    first = first if first.dtype == np.float32 else (first.astype(np.uint32) << 16).view(np.float32)
    return float(losses.astype(np.float64).sum()), first


def ours(problem: RowsProblem) -> Prepared:
    """The row kernel, which writes the gradient over the scores: from the second call on, its scores are gradients."""
    from gpusoftmax.cuda.row_losses import GRADIENT, SOFTMAX, no_bad_row, row_loss

    (scores, labels), bad_row = problem.repeated(), no_bad_row()

    def queue() -> Any:
        losses, _ = row_loss(scores, None, labels, None, SOFTMAX, GRADIENT, bad_row)
        return losses, scores

    return queued(queue, _wait, _read, gpu=True)


def copy(problem: RowsProblem) -> Prepared:
    """A copy of as many bytes; what it is compared with is its own source."""
    import cupy

    from bench.gpu.truth import rows_truth

    scores, _ = problem.repeated()
    other, right = cupy.empty_like(scores), rows_truth(problem)

    def queue() -> Any:
        cupy.copyto(other, scores)
        return other

    def read(result: Any) -> tuple[Any, ...]:
        same = np.array_equal(result[:8].get(), scores[:8].get())
        return (right.total, right.G) if same else (np.nan, right.G)

    return queued(queue, _wait, read, gpu=True)


def torch(problem: RowsProblem, compiled: bool) -> Prepared:
    """Forward and backward of its cross-entropy, in float32."""
    torch, times = torch_module(compiled), problem.case.n // 8
    scores = torch.from_numpy(problem.scores).to(torch_device()).repeat(times, 1).requires_grad_()
    labels = torch.from_numpy(problem.labels.astype(np.int64)).to(torch_device()).repeat(times)
    function: Any = torch.nn.functional.cross_entropy
    if compiled:
        function = torch.compile(function, dynamic=False)

    def queue() -> Any:
        scores.grad = None
        loss = function(scores, labels, reduction="sum")
        loss.backward()
        return loss, scores.grad

    def wait(result: Any) -> None:
        if torch_device() == "cuda":
            torch.cuda.synchronize()

    def read(result: Any) -> tuple[Any, ...]:
        loss, G = result
        return float(loss.detach()), G[:8].cpu().numpy()

    return queued(queue, wait, read, gpu=True)


def jax(problem: RowsProblem) -> Prepared:
    """value_and_grad under jit, in float32."""
    jax, times = jax_module(), problem.case.n // 8
    import jax.numpy as jnp

    scores = jnp.tile(jnp.asarray(problem.scores), (times, 1))
    labels = jnp.tile(jnp.asarray(problem.labels), times)

    def total(scores: Any, labels: Any) -> Any:
        own = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(scores, axis=1) - own).sum()

    function = jax.jit(jax.value_and_grad(total))

    def read(result: Any) -> tuple[Any, ...]:
        loss, G = result
        return float(loss), np.asarray(G[:8])

    return queued(lambda: function(scores, labels), jax.block_until_ready, read, gpu=True)
