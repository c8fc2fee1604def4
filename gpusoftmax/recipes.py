"""Trainings that others have described, number by number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax.array import Backend, resolve_for
from gpusoftmax.batches import BatchPlan
from gpusoftmax.estimators import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.fitting import publish
from gpusoftmax.problem import prepare
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import Progress, train
from gpusoftmax.validation import check_choice, check_count, check_finite_features, check_number

Array = npt.NDArray[Any]


def train_cs231n(
    X: Any,
    y: Any,
    *,
    loss: str = "softmax",
    seed: int = 0,
    learning_rate: float = 1e-7,
    reg: float = 2.5e4,
    n_iterations: int = 1500,
    batch_size: int = 200,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> SoftmaxClassifier | LinearSVMClassifier:
    """The linear classifiers of Stanford's course cs231n, assignment 1, on raw pixels.

    The mean of the training rows is subtracted; weights, the bias row among them, start at 0.001 x standard normal;
    each of `n_iterations` steps of plain SGD takes `batch_size` rows with replacement. The course's objective is the
    mean loss + reg (||W||^2 + ||b||^2), no 1/2, the bias in the norm: l2 = 2 reg, penalize_intercept=True.

    Parameters
    ----------
    X : array-like, (n, d)
        Raw features; uint8 pixels stay uint8.
    y : array-like, (n,)
        Labels.
    loss : {"softmax", "hinge"}
        "hinge" is the course's multiclass SVM.
    seed : int
        Of the start and of the batches.
    learning_rate, reg, n_iterations, batch_size
        The course's values by default.
    backend, n_threads, progress
        As elsewhere.

    Returns
    -------
    SoftmaxClassifier or LinearSVMClassifier
        Fitted; predicts from raw features.

    Raises
    ------
    ValueError, TypeError
        An argument is not usable.
    DivergenceError
        The learning rate is too large.

    Notes
    -----
    Source: https://cs231n.github.io/assignments2021/assignment1/, softmax.ipynb and svm.ipynb.
    """
    check_choice("loss", loss, ("softmax", "hinge"))
    check_number("learning_rate", learning_rate, least=0, above=True)
    check_number("reg", reg, least=0)
    check_count("n_iterations", n_iterations)
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    device = resolve_for(backend, n_threads, X=X)
    with device.active():
        X = device.features(X)
        mean = device.to_numpy(device.ops.column_moments(X, None)[0])
        if not np.isfinite(mean).all():
            check_finite_features(device.to_numpy(X))
        options: dict[str, Any] = {
            "l2": 2 * reg, "penalize_intercept": True, "scaling": (mean, None),
            "max_iter": math.ceil(n_iterations * batch_size / len(X)), "tol": 0.0,
            "batch_size": batch_size, "learning_rate": learning_rate, "momentum": 0.0, "nesterov": False,
            "schedule": "constant", "solver": "sgd", "random_state": seed, "backend": backend, "n_threads": n_threads,
        }  # fmt: skip
        estimator = SoftmaxClassifier(**options) if loss == "softmax" else LinearSVMClassifier(loss=loss, **options)
        estimator.n_features_in_ = X.shape[1]
        problem = prepare(estimator, device, X, y, None, None)
        features = problem.objective.features
        plan = BatchPlan(features.n, batch_size, replacement=True, seed=seed)
        solver = SGD(plan, n_iterations, learning_rate, 0.0, False, "constant", 0.0)
        start = np.random.default_rng(seed).standard_normal((features.d + 1, 1, len(problem.classes)))
        start = device.asarray((0.001 * start).astype(features.dtype))
        return publish(estimator, problem, train(problem.objective, solver, start[:-1], start[-1], progress=progress))
