"""The peers without a framework: NumPy (and CuPy) by hand, and scikit-learn, as their users would write them well.

Who needs float32 gets it outside the clock, and the note says so. The public functions are what
`contenders.Contender.prepare` is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bench.throughput.cases import MOMENTUM, NotForThisError, Prepared, Problem
from bench.throughput.truth import Answer
from gpusoftmax.array import default_threads
from gpusoftmax.features.batches import BatchPlan

CONVERTED = "X as float32, converted outside the clock"
MANY_SCORES = 1_000_000


def conversion_note(problem: Problem) -> str:
    """What is to be said of a contender that computes on float32."""
    return "" if problem.X.dtype == np.float32 else CONVERTED


def rows_of(index: Any) -> Any:
    """A batch of a plan as an index."""
    return slice(None) if index is None else index


# ---- NumPy and CuPy by hand


def _blas_threads(threads: int | None) -> Callable[[], AbstractContextManager[Any]]:
    """A context that holds BLAS at a number of threads; None leaves it alone."""
    if threads is None:
        return nullcontext
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()
    return lambda: controller.limit(limits=threads)


def _by_hand(problem: Problem, xp: Any, wait: Callable[[], Any], to_numpy: Callable[[Any], Any]) -> Prepared:
    case = problem.case
    n, d, K, c = case.n, case.d, case.K, case.c
    X, l2 = xp.asarray(problem.X).astype(np.float32, copy=False), xp.asarray(problem.l2.astype(np.float32))
    W, b = xp.asarray(problem.W.reshape(d, K * c)), xp.asarray(problem.b.reshape(K * c))
    y = xp.asarray(problem.y)
    penalties = xp.repeat(l2, c)
    limit = _blas_threads(case.threads)

    def gradient(X: Any, y: Any, W: Any, b: Any) -> Any:
        labels = y if K == 1 else xp.repeat(y, K)
        Z = X @ W
        Z += b
        Z = Z.reshape(-1, c)
        Z -= Z.max(axis=1, keepdims=True)
        picked = xp.arange(len(Z)), labels
        target = Z[picked]
        xp.exp(Z, out=Z)
        total = Z.sum(axis=1, keepdims=True)
        losses = (xp.log(total[:, 0]) - target).reshape(-1, K).mean(axis=0)
        Z /= total
        Z[picked] -= 1
        Z = Z.reshape(-1, K * c)
        dW = X.T @ Z
        dW /= len(X)
        dW += penalties * W
        norms = (W * W).reshape(d, K, c).sum(axis=(0, 2))
        return losses + 0.5 * l2 * norms, dW, Z.mean(axis=0)

    if case.work == "step":
        plan = BatchPlan(n, case.batch)
        W, b = xp.zeros_like(W), xp.zeros_like(b)
        vW, vb = xp.zeros_like(W), xp.zeros_like(b)
        epochs = iter(range(1 << 40))

        def epoch() -> Any:
            with limit():
                for rows in plan.epoch(next(epochs)):
                    picked = rows_of(None if rows is None else xp.asarray(rows))
                    _, dW, db = gradient(X[picked], y[picked], W, b)
                    for parameter, velocity, slope in ((W, vW, dW), (b, vb, db)):
                        velocity *= np.float32(MOMENTUM)
                        velocity += slope
                        parameter -= np.float32(problem.rate) * velocity
                wait()
            return W, b

        return Prepared(epoch, lambda r: tuple(map(to_numpy, r)), conversion_note(problem))

    def predict() -> Any:
        return ((X @ W + b).reshape(n, K, c).argmax(axis=2),)

    def call() -> Any:
        with limit():
            result = predict() if case.work == "predict" else gradient(X, y, W, b)
            wait()
        return result

    return Prepared(call, lambda r: tuple(map(to_numpy, r)), conversion_note(problem), gpu=xp is not np)


def numpy_by_hand(problem: Problem) -> Prepared:
    """What people write themselves."""
    return _by_hand(problem, np, lambda: None, np.asarray)


def cupy_by_hand(problem: Problem) -> Prepared:
    """The same text on a GPU: what our kernels have to beat."""
    from gpusoftmax import get_backend

    backend = get_backend("cuda")
    with backend.active():
        return _by_hand(problem, backend.xp, backend.synchronize, backend.to_numpy)


# ---- scikit-learn


def sklearn(problem: Problem) -> Prepared:
    """The loss that LogisticRegression's solvers call, and LogisticRegression.predict. K models are K calls."""
    case, limit = problem.case, _blas_threads(problem.case.threads)
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
