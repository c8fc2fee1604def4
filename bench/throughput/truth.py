"""The right answer in float64, over all rows, and what is wrong with another: correctness comes before the clock.

Products by BLAS and rows by `gpusoftmax.reference.row_loss`, block by block; a test compares this with
`reference.loss_and_gradient`, whose own products take minutes at this size.

Tolerance: float32 sums of millions of rows are good to some 1e-5. One row of the two million of the tall case that is
left out changes the gradient by 2e-4 of its norm, so 1e-4 finds even that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.ours import BatchPlan
from bench.throughput.cases import MOMENTUM, Problem
from gpusoftmax import reference

Array = npt.NDArray[Any]
Answer = tuple[Any, ...]

BLOCK = 2048
LOSS_TOLERANCE, GRADIENT_TOLERANCE, TIE = 1e-5, 1e-4, 1e-4


@dataclass(frozen=True)
class Truth:
    """`answer` is (losses (K,), dW, db) of a gradient, (W, b) after the steps, or (best class (n, K), its lead over
    the second, the size of the scores)."""

    work: str
    answer: Answer

    def fault(self, answer: Answer) -> str:
        """What is wrong with an answer of the same layout; empty if nothing is."""
        if self.work == "predict":
            best, lead, size = self.answer
            given = np.asarray(answer[0]).reshape(best.shape)
            # where two scores are equal to rounding either may win
            wrong = (given != best) & (lead > TIE * size)
            return f"wrong: {wrong.sum()} of {wrong.size} predictions" if wrong.any() else ""
        names = ("W", "b") if self.work == "step" else ("dW", "db")
        if self.work == "gradient":
            losses, given = self.answer[0], np.ravel(np.asarray(answer[0], np.float64))
            if not np.allclose(given, losses, rtol=LOSS_TOLERANCE, atol=0):
                return f"wrong: loss {given[0]:.7g} for {losses[0]:.7g}"
        for name, right, array in zip(names, self.answer[-2:], answer[-2:], strict=True):
            error = np.linalg.norm(np.asarray(array, np.float64).reshape(right.shape) - right)
            # a NaN compares false, too
            if not error <= GRADIENT_TOLERANCE * np.linalg.norm(right):
                return f"wrong: {name} is off by {error / np.linalg.norm(right):.1e} of its norm"
        return ""


def truth(problem: Problem) -> Truth:
    """The answer to a problem."""
    kinds = {"gradient": _gradient, "predict": _predictions, "step": _steps}
    return Truth(problem.case.work, kinds[problem.case.work](problem))


def _gradient(problem: Problem) -> Answer:
    W, l2 = problem.W.astype(np.float64), problem.l2
    losses, dW, db = _sums(problem.X, problem.y, W, problem.b.astype(np.float64))
    n = problem.case.n
    return losses / n + 0.5 * l2 * (W**2).sum(axis=(0, 2)), dW / n + l2[:, None] * W, db / n


def _sums(X: Array, y: Array, W: Array, b: Array) -> tuple[Array, Array, Array]:
    """Sums over rows of the losses and of their gradients."""
    d, K, c = W.shape
    losses, dW, db = np.zeros(K), np.zeros((d, K, c)), np.zeros((K, c))
    for start in range(0, X.shape[0], BLOCK):
        x = X[start : start + BLOCK].astype(np.float64)
        m = x.shape[0]
        Z = (x @ W.reshape(d, K * c)).reshape(m, K, c) + b
        values, G = reference.row_loss(Z.reshape(m * K, c), np.repeat(y[start : start + BLOCK], K), "softmax")
        losses += values.reshape(m, K).sum(axis=0)
        dW += (x.T @ G.reshape(m, K * c)).reshape(d, K, c)
        db += G.reshape(m, K, c).sum(axis=0)
    return losses, dW, db


def _steps(problem: Problem) -> Answer:
    """An epoch of momentum steps from zero weights, where float32 loses least."""
    case = problem.case
    W, b = np.zeros(problem.W.shape), np.zeros(problem.b.shape)
    vW, vb = np.zeros_like(W), np.zeros_like(b)
    for rows in BatchPlan(case.n, case.batch).epoch(0):
        picked: Any = slice(None) if rows is None else rows
        x, y = problem.X[picked], problem.y[picked]
        _, dW, db = _sums(x, y, W, b)
        vW = MOMENTUM * vW + dW / len(x) + problem.l2[:, None] * W
        vb = MOMENTUM * vb + db / len(x)
        W, b = W - problem.rate * vW, b - problem.rate * vb
    return W, b


def _predictions(problem: Problem) -> Answer:
    d, K, c = problem.W.shape
    W, b = problem.W.astype(np.float64).reshape(d, K * c), problem.b.astype(np.float64)
    best, lead, size = (np.empty((problem.case.n, K), t) for t in (np.int64, np.float64, np.float64))
    for start in range(0, problem.case.n, BLOCK):
        part = slice(start, start + BLOCK)
        Z = (problem.X[part].astype(np.float64) @ W).reshape(-1, K, c) + b
        best[part] = Z.argmax(axis=2)
        top = np.partition(Z, c - 2, axis=2)[:, :, c - 2 :]
        lead[part], size[part] = top[:, :, 1] - top[:, :, 0], np.abs(Z).max(axis=2)
    return best, lead, size
