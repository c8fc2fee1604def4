"""scikit-learn: the loss that LogisticRegression's solvers call, and its predict."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.common.ours import default_threads
from bench.throughput.cases import Problem
from bench.throughput.contenders.base import Prepared, blas_threads, conversion_note
from bench.throughput.truth import Answer

MANY_SCORES = 1_000_000


def prepare(problem: Problem) -> Prepared:
    """K models are K calls."""
    case, limit = problem.case, blas_threads(problem.case.threads)
    X = problem.X.astype(np.float32, copy=False)
    if case.work == "step":
        raise NotForThisError("has no minibatches for this model")
    if case.c < 3:
        raise NotForThisError("its two-class loss has one column")
    if case.work == "predict":
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression()
        model.classes_, model.n_features_in_ = np.arange(case.c), case.d
        model.coef_, model.intercept_ = np.ascontiguousarray(problem.W[:, 0].T), problem.b[0]
        return Prepared(lambda: model.predict(X), lambda best: (best,), conversion_note(problem))
    from sklearn._loss.loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    loss = LinearModelLoss(HalfMultinomialLoss(n_classes=case.c), fit_intercept=True)
    y = problem.y.astype(np.float32)
    stacked = [np.vstack([problem.W[:, k], problem.b[k]]).T for k in range(case.K)]
    coefficients = [np.asfortranarray(array) for array in stacked]  # (c, d + 1), as its solvers hold them
    # its solvers pass 1; for few scores that is faster, since BLAS's idle threads are in the way of its others
    threads = (case.threads or default_threads()) if case.n * case.c > MANY_SCORES else 1

    def call() -> Any:
        with limit():
            return [
                loss.loss_gradient(w, X, y, l2_reg_strength=float(l2), n_threads=threads)
                for w, l2 in zip(coefficients, problem.l2, strict=True)
            ]

    def read(results: Any) -> Answer:
        losses = [float(value) for value, _ in results]
        gradients = np.stack([np.reshape(gradient, (case.c, case.d + 1), order="F") for _, gradient in results])
        return losses, gradients[:, :, :-1].transpose(2, 0, 1), gradients[:, :, -1]

    return Prepared(call, read, conversion_note(problem))
