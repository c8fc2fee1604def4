"""The checker names each mistake that a student can make, and finds nothing wrong with what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpusoftmax.protocols.cs231n import check_loss_function

Loss = Callable[..., Any]


def correct(kind: str) -> Loss:
    """A right solution."""

    def function(W: Any, X: Any, y: Any, reg: float) -> Any:
        rows, scores = np.arange(len(y)), X @ W
        if kind == "softmax":
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            total = p.sum(axis=1)
            shifted = scores - scores.max(axis=1, keepdims=True)
            value, g = (np.log(total) - shifted[rows, y]).mean(), p / total[:, None]
            g[rows, y] -= 1
        else:
            margins = np.maximum(0, scores - scores[rows, y][:, None] + 1)
            margins[rows, y] = 0
            value, g = margins.sum() / len(y), (margins > 0).astype(float)
            g[rows, y] = -g.sum(axis=1)
        return value + reg * (W * W).sum(), X.T @ g / len(y) + 2 * reg * W

    return function


@pytest.mark.parametrize("kind", ["softmax", "hinge"])
@pytest.mark.parametrize("seed", range(5))
def test_a_right_solution_is_right(kind: str, seed: int) -> None:
    found = check_loss_function(correct(kind), kind, seed)
    assert (found.ok, found.findings) == (True, ())
    assert str(found).startswith("right")


def changed(change: Callable[..., Any]) -> Loss:
    """A softmax loss with a mistake: change(data loss, its gradient, W, X, y, reg) -> (loss, dW)."""
    right = correct("softmax")

    def function(W: Any, X: Any, y: Any, reg: float) -> Any:
        value, dW = right(W, X, y, 0.0)
        return change(value, dW, W, X, y, reg)

    return function


def squares(W: Any) -> Any:
    return (W * W).sum()


MISTAKES = {
    "sum where it should be a mean": lambda L, G, W, X, y, reg: (
        len(y) * L + reg * squares(W), len(y) * G + 2 * reg * W
    ),
    "penalty is missing": lambda L, G, W, X, y, reg: (L, G + 2 * reg * W),
    "gradient of the penalty is missing": lambda L, G, W, X, y, reg: (L + reg * squares(W), G),
    "the course has no factor 1/2": lambda L, G, W, X, y, reg: (L + reg / 2 * squares(W), G + reg * W),
    "gradient of the penalty lacks a factor": lambda L, G, W, X, y, reg: (L + reg * squares(W), G + reg * W),
    "leaves out the last row of W": lambda L, G, W, X, y, reg: (
        L + reg * squares(W[:-1]), G + 2 * reg * W * np.append(np.ones(len(W) - 1), 0)[:, None]
    ),
    "the norm of W where it should be its square": lambda L, G, W, X, y, reg: (
        L + reg * np.sqrt(squares(W)), G + 2 * reg * W
    ),
    "sums absolute values": lambda L, G, W, X, y, reg: (L + reg * abs(W).sum(), G + 2 * reg * W),
    "gradient without penalty has the wrong sign": lambda L, G, W, X, y, reg: (L + reg * squares(W), -G + 2 * reg * W),
    "loss without penalty has the wrong sign": lambda L, G, W, X, y, reg: (-L + reg * squares(W), G + 2 * reg * W),
    "gradient without penalty is twice": lambda L, G, W, X, y, reg: (L + reg * squares(W), 2 * G + 2 * reg * W),
    "another base than e": lambda L, G, W, X, y, reg: (L / np.log(2) + reg * squares(W), G + 2 * reg * W),
    "divided by the 12 rows twice": lambda L, G, W, X, y, reg: (L + reg * squares(W), G / len(y) + 2 * reg * W),
    "gradient without penalty is always 0": lambda L, G, W, X, y, reg: (L + reg * squares(W), 2 * reg * W),
    "lacks what the score of the label contributes": lambda L, G, W, X, y, reg: (
        L + reg * squares(W), G + X.T @ np.eye(W.shape[1])[y] / len(y) + 2 * reg * W
    ),
    "in none of the ways": lambda L, G, W, X, y, reg: (L + 0.37 + reg * squares(W), G + 2 * reg * W),
    "returns float": lambda L, G, W, X, y, reg: L,
    "the loss is array": lambda L, G, W, X, y, reg: (np.array([L]), G),
    "dW has shape": lambda L, G, W, X, y, reg: (L, G.T),
}  # fmt: skip


@pytest.mark.parametrize("words", MISTAKES)
def test_each_mistake_is_named(words: str) -> None:
    found = check_loss_function(changed(MISTAKES[words]))
    assert not found.ok
    assert words in str(found)


def test_a_gradient_of_another_loss_is_shown() -> None:
    found = check_loss_function(changed(lambda L, G, W, X, y, reg: (L + reg * squares(W), 1.5 * G + 2 * reg * W)))
    assert "dW is not the gradient of the loss that you compute" in str(found)


def test_overflow_is_found() -> None:
    def naive(W: Any, X: Any, y: Any, reg: float) -> Any:
        p = np.exp(X @ W)
        p /= p.sum(axis=1, keepdims=True)
        value = -np.log(p[np.arange(len(y)), y]).mean() + reg * squares(W)
        p[np.arange(len(y)), y] -= 1
        return value, X.T @ p / len(y) + 2 * reg * W

    found = check_loss_function(naive)
    assert [finding.partition(":")[0] for finding in found.findings] == ["large scores overflow"]


def test_the_margin_of_the_label_does_not_count() -> None:
    right = correct("hinge")

    def function(W: Any, X: Any, y: Any, reg: float) -> Any:
        value, dW = right(W, X, y, reg)
        return value + 1, dW

    assert "counts the label's own margin" in str(check_loss_function(function, "hinge"))


def test_a_function_that_changes_its_arguments_is_told() -> None:
    def careless(W: Any, X: Any, y: Any, reg: float) -> Any:
        found = correct("softmax")(W, X, y, reg)
        X *= 0
        return found

    assert "the function changes X" in str(check_loss_function(careless))


def test_large_scores_that_are_clipped_are_found() -> None:
    def clipped(W: Any, X: Any, y: Any, reg: float) -> Any:
        value, dW = correct("softmax")(np.clip(W, -5, 5), X, y, reg)
        return value, dW

    assert "large scores give another loss" in str(check_loss_function(clipped))


def test_an_overflow_that_raises_is_a_finding() -> None:
    def careful(W: Any, X: Any, y: Any, reg: float) -> Any:
        if abs(X @ W).max() > 500:
            raise OverflowError("too large")
        return correct("softmax")(W, X, y, reg)

    assert "the function raises OverflowError" in str(check_loss_function(careful))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value, dW: (None, dW), "the loss is None"),
        (lambda value, dW: (str(value), dW), "it should be one real number"),
        (lambda value, dW: (value, dW + 0j), "dW has dtype complex128"),
        (lambda value, dW: (value, dW.astype(object)), "dW has dtype object"),
    ],
)
def test_other_types_than_real_numbers_are_told(change: Any, words: str) -> None:
    found = check_loss_function(lambda *arguments: change(*correct("softmax")(*arguments)))
    assert words in str(found)


def test_float32_is_not_held_to_differences() -> None:
    assert check_loss_function(lambda *given: tuple(np.float32(part) for part in correct("softmax")(*given))).ok


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="pass the function itself"):
        check_loss_function(3.0)  # type: ignore[arg-type]
