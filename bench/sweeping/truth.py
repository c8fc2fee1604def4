"""The right result, in float64, and what is wrong with another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.ours import sweep_over_C
from bench.sweeping.cases import Problem
from gpusoftmax import SoftmaxClassifier

Array = npt.NDArray[Any]

NEAR = 2e-4  # relative, above the optimum: what exact solvers may be
# Embeddings have a flat objective where penalties are weak: with tol = 1e-4 scikit-learn stops 1e-2 above the optimum.
NEAR_ON_EMBEDDINGS = 2e-3
ROUNDING = 1e-3  # relative to the norm of the weights: what float32 may differ by after all steps
CONVERGED = 1e-7  # tol of the reference
BLOCK = 4096  # rows in float64 at a time

Models = dict[tuple[int, int], tuple[Array, Array]]


def allowed(problem: Problem) -> float:
    """How far above the optimum a model may be, relative."""
    return NEAR_ON_EMBEDDINGS if problem.case == "minilm" else NEAR


def truth_of(problem: Problem) -> Any:
    """The truth that a case's results are checked against."""
    if problem.has_folds or problem.case == "path":
        return converged(problem)
    return descended(problem) if problem.case == "cs231n" else None


def value_and_slope(problem: Problem, model: tuple[int, int], W: Array, b: Array) -> tuple[float, float]:
    """The objective of model (split, number of C) at W (c, d), b (c,), and its gradient's largest entry.

    In plain NumPy, from the rows as they are stored, without any contender's code.
    """
    i, k = model
    rows, W = problem.splits[i][0], W.astype(np.float64)
    l2, total = 1.0 / (problem.Cs[k] * len(rows)), 0.0
    dW, db = np.zeros(W.shape), np.zeros(len(b))
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        x, each = problem.X[some].astype(np.float64) / problem.scale, np.arange(len(some))
        z = x @ W.T + b
        z -= z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z).sum(axis=1))
        total += float((log_sum - z[each, problem.y[some]]).sum())
        P = np.exp(z - log_sum[:, None])
        P[each, problem.y[some]] -= 1
        dW += P.T @ x
        db += P.sum(axis=0)
    slope = max(float(abs(dW / len(rows) + l2 * W).max()), float(abs(db / len(rows)).max()))
    return total / len(rows) + 0.5 * l2 * float((W * W).sum()), slope


def converged(problem: Problem) -> dict[str, Any]:
    """The optima of the drawn models, each fitted alone in float64, with their gradients; and which C is best."""
    found: dict[str, Any] = {"tol": CONVERGED, "objective": [], "gradient": []}
    X = problem.scaled(np.float64)
    options = {"tol": CONVERGED, "max_iter": 10_000, "solver": "lbfgs"}
    for i, k in problem.drawn:
        rows = problem.splits[i][0]
        model = SoftmaxClassifier(C=problem.Cs[k], **options).fit(X[rows], problem.y[rows])
        value, slope = value_and_slope(problem, (i, k), model.coef_, model.intercept_)
        found["objective"].append(value)
        found["gradient"].append(slope)
    if problem.has_folds:
        trials = sweep_over_C(
            X, problem.y, problem.Cs, options, cv=problem.splits, refit=False, keep_models=False
        ).trials  # fmt: skip
        found |= choices(trials.accuracy, trials.loss)
    return found


def choices(accuracy: Array, log_loss: Array) -> dict[str, int]:
    """The numbers of the C's that are best by their means over folds (rows); among equals the strongest penalty."""
    return {
        "by_accuracy": int(np.argmax(np.mean(accuracy, axis=0))),
        "by_log_loss": int(np.argmin(np.mean(log_loss, axis=0))),
    }


def distances(problem: Problem, truth: dict[str, Any], models: Models) -> dict[str, float]:
    """How far above its optimum each drawn model is, relative, where a contender has it."""
    return {
        f"{i},{k}": value_and_slope(problem, (i, k), *models[i, k])[0] / best - 1
        for (i, k), best in zip(problem.drawn, truth["objective"], strict=True)
        if (i, k) in models
    }


def descended(problem: Problem) -> Models:
    """cs231n's recipe for the drawn pairs, in float64: W (c, d) and b (c,) of centred pixels."""
    found, batches = {}, problem.batches()
    for model in problem.drawn:
        rate, reg = problem.pairs[model[1]]
        W = problem.start().astype(np.float64)
        for rows in batches:
            x = np.column_stack([problem.X[rows] - problem.mean, np.ones(len(rows))])
            W -= rate * recipe_gradient(x, problem.y[rows], W, reg)
        found[model] = W[:-1].T, W[-1]
    return found


def recipe_gradient(x: Array, y: Array, W: Array, reg: float) -> Array:
    """The gradient of the mean loss + reg ||W||^2 at W (d + 1, c), over the rows x (n, d + 1) of a batch."""
    P = x @ W
    P -= P.max(axis=1, keepdims=True)
    np.exp(P, out=P)
    P /= P.sum(axis=1, keepdims=True)
    P[np.arange(len(y)), y] -= 1
    gradient: Array = x.T @ P / len(y) + 2 * reg * W
    return gradient


def apart(truth: Models, models: Models) -> dict[str, float]:
    """How far each model is from that in float64, relative to the norm of its weights."""
    return {
        f"{i},{k}": float(np.linalg.norm(models[i, k][0] - W) / np.linalg.norm(W))
        for (i, k), (W, _) in truth.items()
        if (i, k) in models
    }


def fault(found: dict[str, float], limit: float) -> str:
    """What is wrong with distances, or an empty string. One below zero by more than rounding is wrong, too."""
    for name, distance in found.items():
        if not -1e-6 <= distance <= limit:
            return f"model {name} is {distance:.2g} from what float64 says, and may be {limit:g}"
    return ""
