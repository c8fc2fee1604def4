"""A check of a student's own loss function, which says what is wrong with it and not how to write it.

The function is called on small random problems. What it returns is compared with what single mistakes would give:
a sum in place of a mean, a penalty that is missing or has another factor, a gradient of the wrong sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_count
from gpusoftmax.objective.functional import loss_and_gradient

N, D, C = 12, 6, 4  # rows, features with the ones for the bias, classes; all different, so that factors tell them apart
REG = 0.7
NEAR = 1e-6  # relative: what float64 rounding and a clipped logarithm stay below
STEP = 1e-5  # of central differences
LARGE = 1e3  # scores of this size overflow exp


@dataclass(frozen=True)
class LossCheck:
    """What a check of a loss function found.

    Attributes
    ----------
    findings : tuple of str
        What is wrong, one sentence each; empty if nothing is.
    """

    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        if self.ok:
            return "right: the loss, its penalty, the gradient of both, and no overflow for large scores"
        return "\n".join(f"- {finding}" for finding in self.findings)


def check_loss_function(function: Callable[..., Any], loss: str = "softmax", seed: int = 0) -> LossCheck:
    """Check a loss function of assignment 1, and say which part of it is wrong.

        mean loss + reg sum(W * W),    dW = its gradient

    Parameters
    ----------
    function : callable
        As in the assignment, function(W, X, y, reg) -> (loss, dW), with W (D, C), X (N, D) whose last column is 1, and
        y (N,) of integers. It is called some twenty times on random problems with 12 rows.
    loss : {"softmax", "hinge"}
        What it is meant to compute; "hinge" is the course's multiclass SVM.
    seed : int
        Seed of the problems.

    Returns
    -------
    LossCheck
        Print it; `ok` says whether all is right.

    Raises
    ------
    ValueError, TypeError
        `loss` or `seed` cannot be used, or `function` is not callable.

    Examples
    --------
    >>> def my_loss(W, X, y, reg):
    ...     scores = X @ W
    ...     p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    ...     loss = -np.log(p[np.arange(len(y)), y]).sum() + reg * (W * W).sum()
    ...     p[np.arange(len(y)), y] -= 1
    ...     return loss, X.T @ p / len(y) + 2 * reg * W
    >>> print(check_loss_function(my_loss))
    - the loss without penalty is 12 times what it should be, for 12 rows: is it a sum where it should be a mean?
    - large scores overflow: for scores around 1000 the loss is not finite, though the true one is
    """
    if not callable(function):
        raise TypeError(
            f"function is a {type(function).__name__}; pass the function itself, such as softmax_loss_naive"
        )
    check_choice("loss", loss, ("softmax", "hinge"))
    problem = _Problem(loss, check_count("seed", seed, least=0))
    try:
        findings = list(_findings(function, problem))
    except _WrongAnswerError as wrong:
        findings = [str(wrong)]
    return LossCheck(tuple(findings))


class _WrongAnswerError(Exception):
    """The function returned something else than a number and an array, so that nothing can be compared."""


class _Problem:
    """A random problem: W (D, C), rows (N, D) with ones in the last column, y (N,)."""

    def __init__(self, loss: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.loss, self.W = loss, rng.normal(size=(D, C))
        self.rows = np.column_stack([rng.normal(size=(N, D - 1)), np.ones(N)])
        self.y = rng.permutation(np.arange(N) % C)

    def truth(self, W: Array) -> tuple[float, Array]:
        """The mean loss and its gradient."""
        value, dW, _ = loss_and_gradient(self.rows, self.y, W, np.zeros(C), loss=self.loss)
        return value, dW

    def without_labels(self) -> Array:
        """The part of the gradient that does not come from the scores of the labels."""
        labels = np.zeros((N, C))
        scores = self.rows @ self.W
        if self.loss == "softmax":
            labels[np.arange(N), self.y] = 1.0
        else:
            margins = scores - scores[np.arange(N), self.y][:, None] + 1
            labels[np.arange(N), self.y] = (margins > 0).sum(axis=1) - 1
        missing: Array = self.truth(self.W)[1] + self.rows.T @ labels / N
        return missing


def _call(function: Callable[..., Any], W: Array, problem: _Problem, reg: float) -> tuple[float, Array]:
    """The function's loss and gradient, checked for their shapes; the arrays that it gets are copies."""
    given = W.copy(), problem.rows.copy(), problem.y.copy()
    with np.errstate(all="ignore"):
        found = function(*given, reg)
    for name, before, after in zip(("W", "X", "y"), (W, problem.rows, problem.y), given, strict=True):
        if not np.array_equal(before, after):
            raise _WrongAnswerError(f"the function changes {name}, which is not its own; work on a copy")
    if not isinstance(found, tuple) or len(found) != 2:
        raise _WrongAnswerError(f"the function returns {type(found).__name__}; return a pair: loss, dW")
    value, dW = found
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "fiu":
        raise _WrongAnswerError(f"the loss is {shown(value)}; it should be one real number")
    if np.shape(dW) != (D, C):
        raise _WrongAnswerError(f"dW has shape {np.shape(dW)}; it should have that of W, {(D, C)}")
    if np.asarray(dW).dtype.kind not in "fiu":
        raise _WrongAnswerError(f"dW has dtype {np.asarray(dW).dtype}; it should hold real numbers")
    return float(value), np.asarray(dW, np.float64)


def _findings(function: Callable[..., Any], problem: _Problem) -> Iterable[str]:
    """Say what is wrong, part by part."""
    W = problem.W
    (bare, dW), (whole, dW_whole) = (_call(function, W, problem, reg) for reg in (0.0, REG))
    value, gradient = problem.truth(W)
    yield from _about(
        "the loss without penalty",
        bare,
        value,
        {
            f"is {N} times what it should be, for {N} rows: is it a sum where it should be a mean?": N * value,
            "has the wrong sign": -value,
            "is half of what it should be": value / 2,
            "is twice what it should be": 2 * value,
            "is a logarithm to another base than e": value / np.log(2) if problem.loss == "softmax" else np.nan,
            "counts the label's own margin, 1 for each row": value + 1 if problem.loss == "hinge" else np.nan,
            f"is divided by the {N} rows twice": value / N,
            "is always 0": 0.0,
        },
    )
    squares, own = (W * W).sum(), (whole - bare) / REG
    yield from _about(
        "the penalty",
        own,
        squares,
        {
            "is missing: the loss does not depend on reg": 0.0,
            "is half of what it should be: the course has no factor 1/2": squares / 2,
            "is twice what it should be": 2 * squares,
            f"is divided by the {N} rows": squares / N,
            "leaves out the last row of W, the bias, which the course penalises": (W[:-1] ** 2).sum(),
            "is the norm of W where it should be its square": np.sqrt(squares),
            "sums absolute values of W where it should sum squares": abs(W).sum(),
            "has the wrong sign": -squares,
        },
    )
    yield from _about(
        "the gradient without penalty",
        dW,
        gradient,
        {
            f"is {N} times what it should be, for {N} rows: is it a sum where it should be a mean?": N * gradient,
            "has the wrong sign": -gradient,
            "is half of what it should be": gradient / 2,
            "is twice what it should be": 2 * gradient,
            f"is divided by the {N} rows twice": gradient / N,
            "lacks what the score of the label contributes": problem.without_labels(),
            "is always 0": 0 * gradient,
        },
    )
    yield from _about(
        "the gradient of the penalty",
        (dW_whole - dW) / REG,
        2 * W,
        {
            "is missing: dW does not depend on reg": 0 * W,
            "lacks a factor: it is half of what the derivative of reg sum(W * W) is": W,
            "is twice what it should be": 4 * W,
            f"is divided by the {N} rows": 2 * W / N,
            "leaves out the last row of W, the bias, which the course penalises": 2 * W * _but_last(),
            "has the wrong sign": -2 * W,
        },
    )
    yield from _about_consistency(function, problem, dW)
    yield from _about_overflow(function, problem)


def _but_last() -> Array:
    """A column that is 1, and 0 in the last row."""
    return np.append(np.ones(D - 1), 0.0)[:, None]


def _near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=NEAR, atol=NEAR * float(abs(np.asarray(expected)).max())))


def _about(part: str, found: Any, expected: Any, mistakes: dict[str, Any]) -> Iterable[str]:
    """Say which mistake explains a part that is wrong, if one does."""
    if not np.isfinite(found).all():
        yield f"{part} is not finite for scores of ordinary size"
    elif not _near(found, expected):
        scale = float(abs(np.asarray(expected)).max())
        known = (words for words, wrong in mistakes.items() if np.allclose(found, wrong, rtol=NEAR, atol=NEAR * scale))
        yield f"{part} {next(known, 'is wrong, in none of the ways that are known here')}"


def _about_consistency(function: Callable[..., Any], problem: _Problem, dW: Array) -> Iterable[str]:
    """Say if dW is not the gradient of the function's own loss, by central differences at some coordinates."""
    found = function(problem.W.copy(), problem.rows.copy(), problem.y.copy(), 0.0)
    if any(np.asarray(part).dtype == np.float32 for part in found):
        return  # differences of a loss in float32 are rounding errors
    rng = np.random.default_rng(0)
    for flat in rng.choice(D * C, 5, replace=False).tolist():
        at = np.unravel_index(flat, (D, C))
        values = []
        for sign in (1, -1):
            W = problem.W.copy()
            W[at] += sign * STEP
            values.append(_call(function, W, problem, 0.0)[0])
        numeric = (values[0] - values[1]) / (2 * STEP)
        # central differences are right to STEP^2 and to the rounding error of the loss over STEP
        if np.isfinite(numeric) and abs(numeric - dW[at]) > 1e-5 * max(abs(numeric), abs(float(dW[at])), 1e-3):
            yield (
                f"dW is not the gradient of the loss that you compute: at W[{int(at[0])}, {int(at[1])}] it is "
                f"{dW[at]:.6g}, where differences of the loss give {numeric:.6g}"
            )
            return


def _about_overflow(function: Callable[..., Any], problem: _Problem) -> Iterable[str]:
    """Say if large scores overflow."""
    large = problem.W * (LARGE / abs(problem.rows @ problem.W).max())
    try:
        value, dW = _call(function, large, problem, 0.0)
    except ArithmeticError as error:
        yield f"large scores overflow: for scores around {LARGE:.0f} the function raises {type(error).__name__}"
        return
    if not (np.isfinite(value) and np.isfinite(dW).all()):
        yield f"large scores overflow: for scores around {LARGE:.0f} the loss is not finite, though the true one is"
    elif not _near(value, problem.truth(large)[0]):
        yield (
            f"large scores give another loss: for scores around {LARGE:.0f} it is {value:.6g} where it should be "
            f"{problem.truth(large)[0]:.6g}"
        )
