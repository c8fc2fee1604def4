"""Values and gradients over all rows, and minibatch steps: the contenders of `bench throughput` on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.gpu.contenders.availability import jax_module, torch_module
from bench.gpu.device import torch_device
from bench.throughput.cases import Problem
from bench.throughput.contenders import by_hand as hand
from bench.throughput.contenders import jax as throughput_jax
from bench.throughput.contenders import ours as throughput_ours
from bench.throughput.contenders import torch as throughput_torch
from bench.throughput.contenders.base import Prepared, queued


def ours(problem: Problem) -> Prepared:
    """What the solvers call."""
    return throughput_ours.prepare(problem, "cuda")


def by_hand(problem: Problem) -> Prepared:
    """Plain CuPy."""
    return hand.cupy(problem)


def torch(problem: Problem, compiled: bool) -> Prepared:
    """PyTorch, with products in float32 as it has them by default."""
    torch_module(compiled)
    kinds = {
        ("cuda", False): throughput_torch.on_gpu, ("cuda", True): throughput_torch.compiled_on_gpu,
        ("cpu", False): throughput_torch.eager, ("cpu", True): throughput_torch.compiled,
    }  # fmt: skip
    return kinds[torch_device(), compiled](problem)


def jax(problem: Problem) -> Prepared:
    """JAX, with products in float32: the environment of this process asks for the highest precision."""
    jax_module()
    return throughput_jax.prepare(problem)


def two_products(problem: Problem) -> Prepared:
    """The way without a kernel for few classes: rows converted to float32, a product, the row kernel, a product.

    Chunk by chunk, as `gpusoftmax.cuda.gradients` does it where there are many classes; without its tree of sums.
    """
    import cupy

    from gpusoftmax.cuda.blas import product
    from gpusoftmax.cuda.chunks import chunk_rows, converted
    from gpusoftmax.cuda.row_losses import GRADIENT, SOFTMAX, no_bad_row, row_loss

    case, single = problem.case, np.dtype(np.float32)
    n, d, c = case.n, case.d, case.c
    X, labels = cupy.asarray(problem.X), cupy.asarray(problem.y.astype(np.int32))
    W, b = cupy.asarray(np.ascontiguousarray(problem.W[:, 0])), cupy.asarray(problem.b)
    step, l2, bad_row = chunk_rows(d, c), np.float32(problem.l2[0]), no_bad_row()
    scores = cupy.empty((min(step, n), c), dtype=single)
    ones, dW, db = (cupy.ones(shape, dtype=single) for shape in ((min(step, n), 1), (d, c), (1, c)))

    def queue() -> Any:
        total = cupy.zeros(1, dtype=np.float64)
        for first in range(0, n, step):
            m, beta = min(step, n - first), float(first > 0)
            x, Z = converted(X, None, first, m, single), scores[:m]
            product(x, W, Z)
            losses, _ = row_loss(Z.reshape(m, 1, c), b, labels[first : first + m], None, SOFTMAX, GRADIENT, bad_row)
            total += losses.sum(dtype=np.float64)
            product(x, Z, dW, transpose_a=True, beta=beta)
            product(ones[:m], Z, db, transpose_a=True, beta=beta)
        return total, dW / np.float32(n) + W * l2, db / np.float32(n)

    def wait(result: Any) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def read(result: Any) -> tuple[Any, ...]:
        total, slope, slope_b = result
        penalty = 0.5 * float(l2) * float((problem.W.astype(np.float64) ** 2).sum())
        return total.get() / n + penalty, slope.get(), slope_b.get()

    return queued(queue, wait, read, gpu=True)
