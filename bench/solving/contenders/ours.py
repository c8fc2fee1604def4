"""Our solver, through the estimator; or that of another checkout, in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.solving.cases import Problem
from bench.solving.truth import EnoughError, Trace
from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier


def run(problem: Problem, trace: Trace) -> None:
    """The estimator on X as it is, checks and preparation included, which reports the judge's objective itself."""

    def watch(record: Any) -> bool:
        try:
            trace.add(record.passes, float(record.objective))
        except EnoughError:
            return True
        return False

    options: dict[str, Any] = {"scaling": problem.scaling, "solver": "lbfgs", "tol": 0.0, "max_iter": 5000}
    kind = SoftmaxClassifier if problem.case.loss == "softmax" else LinearSVMClassifier
    model = kind(C=problem.case.C, loss=problem.case.loss, callbacks=[watch], **options)
    trace.started = time.perf_counter()
    model.fit(problem.X, problem.y)
    shift, scale = (0.0, 1.0) if problem.scaling is None else problem.scaling
    coef = model.coef_.astype(np.float64)
    trace.last = coef * scale, model.intercept_ + coef @ np.broadcast_to(shift, problem.X.shape[1])
