"""The right answer in float64, by plain array operations on the device, and what is wrong with another.

None of our kernels is in it. On the CPU, float64 for ImageNet's shape would take longer than all that is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.gpu.cases import Case
from bench.gpu.data import SCALE
from bench.throughput.cases import Problem
from bench.throughput.truth import Truth

Array = npt.NDArray[Any]

BLOCK = 1 << 15  # rows in float64 at a time: 0.3 GB of scores for 1000 classes
NEAR = 1e-4  # how far above the optimum a fit may be, relative
# of rows: float32 sums of millions of losses; bfloat16 has 8 bits, and some contenders keep the sum in it
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
GRADIENT_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def sums(X: Any, y: Any, W: Any, b: Any, shift: Any = None, scale: float = 1.0) -> tuple[float, Array, Array]:
    """Sums of the losses and gradients of rows ((x - shift) / scale), with X (n, d), y (n,), W (d, c) and b (c,).

    X and y are on the device, the others on the host.
    """
    import cupy

    (d, c), total, double = W.shape, 0.0, np.float64
    dW, db = cupy.zeros((d, c), dtype=double), cupy.zeros(c, dtype=double)
    weights, intercept, classes = (cupy.asarray(np.asarray(a, double)) for a in (W, b, np.arange(c)))
    centre = None if shift is None else cupy.asarray(np.asarray(shift, double))
    for first in range(0, len(y), BLOCK):
        x, labels = X[first : first + BLOCK].astype(double), y[first : first + BLOCK]
        if centre is not None:
            x = (x - centre) / scale
        Z = x @ weights + intercept
        Z -= Z.max(axis=1).reshape(-1, 1)
        target = (labels.reshape(-1, 1) == classes).astype(double)
        E = cupy.exp(Z)
        norms = E.sum(axis=1)
        total += float((cupy.log(norms) - (Z * target).sum(axis=1)).sum())
        G = E / norms.reshape(-1, 1) - target
        dW += x.T @ G
        db += G.sum(axis=0)
    return total, dW.get(), db.get()


def gradient(problem: Problem, X: Any, y: Any) -> Truth:
    """The answer to a problem of `throughput` with one model; X and y are on the device."""
    n, W, l2 = problem.case.n, problem.W[:, 0].astype(np.float64), float(problem.l2[0])
    total, dW, db = sums(X, y, W, problem.b[0])
    loss = np.array([total / n + 0.5 * l2 * (W * W).sum()])
    return Truth("gradient", (loss, (dW / n + l2 * W)[:, None], db[None] / n))


@dataclass(frozen=True)
class FitProblem:
    """X (n, d) as it is stored and labels y (n,), on the host; the penalty is meant for (X - shift) / scale."""

    case: Case
    X: Array
    y: Array
    origin: str

    @cached_property
    def on_device(self) -> tuple[Any, Any]:
        """X as it is stored, and y, on the device."""
        import cupy

        return cupy.asarray(self.X), cupy.asarray(self.y)

    @cached_property
    def shift(self) -> Array | None:
        """The mean image; embeddings are taken as they are."""
        return self.X.mean(axis=0, dtype=np.float64) if self.X.dtype == np.uint8 else None

    @property
    def scale(self) -> float:
        """The course's, for pixels."""
        return SCALE if self.X.dtype == np.uint8 else 1.0

    @property
    def scaling(self) -> Any:
        """The parameter `scaling` of our estimators."""
        return None if self.shift is None else (self.shift, np.full(self.X.shape[1], self.scale))

    @cached_property
    def scaled(self) -> Any:
        """X for contenders that fold no scaling, float32, on the device; made block by block."""
        import cupy

        X, _ = self.on_device
        if self.shift is None:
            return X.astype(np.float32)
        scaled, shift = cupy.empty(X.shape, dtype=np.float32), cupy.asarray(self.shift)
        for first in range(0, len(X), BLOCK):
            part = slice(first, first + BLOCK)
            scaled[part] = ((X[part].astype(np.float64) - shift) / self.scale).astype(np.float32)
        return scaled

    @property
    def n_classes(self) -> int:
        """c."""
        return self.case.c

    def objective(self, C: float, W: Array, b: Array) -> float:
        """scikit-learn's objective over n at W (d, c) and b (c,) of the scaled features."""
        n = len(self.y)
        total = sums(*self.on_device, W, b, self.shift, self.scale)[0]
        return total / n + 0.5 * float((W.astype(np.float64) ** 2).sum()) / (C * n)


@dataclass(frozen=True)
class RowsProblem:
    """Scores of some rows (8, c), which are repeated up to case.n rows, and labels of the 8."""

    case: Case
    scores: Array
    labels: Array

    def stored(self) -> Array:
        """The scores in the type of the case; bfloat16 as its bits."""
        return self.scores if self.case.dtype == "float32" else (self.scores.view(np.uint32) >> 16).astype(np.uint16)

    def repeated(self) -> tuple[Any, Any]:
        """Scores (n, 1, c) and labels (n,) on the device."""
        import cupy

        times = self.case.n // 8
        scores = cupy.tile(cupy.asarray(self.stored().reshape(8, 1, -1)), (times, 1, 1))
        return scores, cupy.tile(cupy.asarray(self.labels), (times,))


def rows_problem(case: Case) -> RowsProblem:
    """Eight rows; in one of them exp overflows without the row's maximum."""
    rng = np.random.default_rng(case.c)
    scores = (3 * rng.standard_normal((8, case.c))).astype(np.float32)
    scores[0, 0] = 100.0
    if case.dtype == "bfloat16":  # numbers that it has
        scores = (scores.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return RowsProblem(case, scores, rng.integers(0, case.c, 8).astype(np.int32))


@dataclass(frozen=True)
class RowsTruth:
    """The total loss of all rows and the gradient of the first eight, which an answer has to have."""

    dtype: str
    total: float
    G: Array

    def fault(self, answer: tuple[Any, ...]) -> str:
        """What is wrong with an answer; empty if nothing is."""
        total, G = float(answer[0]), np.asarray(answer[1], np.float64).reshape(self.G.shape)
        if not abs(total - self.total) <= LOSS_TOLERANCE[self.dtype] * self.total:
            return f"wrong: loss {total:.7g} for {self.total:.7g}"
        error = float(np.abs(G - self.G).max())
        return "" if error <= GRADIENT_TOLERANCE[self.dtype] else f"wrong: the gradient is off by {error:.1e}"


def rows_truth(problem: RowsProblem) -> RowsTruth:
    """The answer, by the reference."""
    from gpusoftmax import reference

    losses, G = reference.row_loss(problem.scores.astype(np.float64), problem.labels, "softmax")
    return RowsTruth(problem.case.dtype, float(losses.sum()) * (problem.case.n // 8), G)
