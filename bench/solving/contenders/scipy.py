"""SciPy's L-BFGS-B over an objective in NumPy, for the squared hinge; for softmax it is scikit-learn's lbfgs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.solving.cases import Problem
from bench.solving.truth import Trace


def lbfgs(problem: Problem, trace: Trace) -> None:
    """L-BFGS-B with ten pairs, in float64, on the full batch."""
    from scipy.optimize import minimize

    if not isinstance(problem.X, np.ndarray):
        raise NotForThisError("it is written for dense X")
    X, y, c = problem.scaled().astype(np.float64), problem.y, problem.n_classes
    n, d = X.shape
    rows, passes = np.arange(n), 0

    def value_and_gradient(weights: Any) -> tuple[float, Any]:
        nonlocal passes
        W, b = weights[: c * d].reshape(c, d), weights[c * d :]
        margins = X @ W.T + b
        margins += 1 - margins[rows, y][:, None]
        np.maximum(margins, 0, out=margins)
        margins[rows, y] = 0
        value = float((margins * margins).sum()) / n + 0.5 * problem.l2 * float((W * W).sum())
        margins[rows, y] = -margins.sum(axis=1)
        margins *= 2 / n
        passes += 1
        trace.show(passes, W, b)
        return value, np.concatenate([(margins.T @ X + problem.l2 * W).ravel(), margins.sum(axis=0)])

    trace.started = time.perf_counter()
    options = {"maxcor": 10, "maxiter": 100_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 0.0}
    minimize(value_and_gradient, np.zeros(c * (d + 1)), jac=True, method="L-BFGS-B", options=options)
