"""The training of cs231n, assignment 1, with the course's settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checks.scalars import check_choice, check_count, check_number
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.fitting import set_fitted
from gpusoftmax.estimators.problem import Problem, prepare
from gpusoftmax.features.read import read_features, read_matrix
from gpusoftmax.search.minibatch import Recipe, train_group
from gpusoftmax.trainer import Progress, TrainResult


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
    """Train a linear classifier of Stanford's course cs231n, assignment 1, on raw pixels.

    The mean of the training rows is subtracted; the weights, including the bias, start at 0.001 x standard normal; each
    of `n_iterations` steps of plain SGD draws `batch_size` rows with replacement. The course's objective is the mean
    loss + reg (||W||^2 + ||b||^2), without 1/2 and with the bias in the norm: l2 = 2 reg, penalize_intercept=True.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Raw features; uint8 pixels stay uint8.
    y : array-like of shape (n,)
        Labels.
    loss : {"softmax", "hinge"}
        "hinge" is the course's multiclass SVM.
    seed : int
        Seed of the initial weights and of the batches.
    learning_rate : float
        The course's value is the default, here and for the next three parameters.
    reg : float
    n_iterations : int
    batch_size : int
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
        See `get_backend`.
    n_threads : int, optional
        See `get_backend`.
    progress : Progress, optional
        Told of each pass.

    Returns
    -------
    SoftmaxClassifier or LinearSVMClassifier
        Fitted; predicts from raw features.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be used.
    DivergenceError
        The learning rate is too large.

    Notes
    -----
    Source: https://cs231n.github.io/assignments2021/assignment1/, softmax.ipynb and svm.ipynb.
    """
    check_number("learning_rate", learning_rate, least=0, above=True)
    check_number("reg", reg, least=0)
    resolved_backend = get_backend_for(backend, n_threads, X=X)
    with resolved_backend.active():
        problem, (estimator,), result = train_side_by_side(
            resolved_backend, X, y, None, [(learning_rate, reg)], loss, seed, n_iterations, batch_size, progress,
            backend=backend, n_threads=n_threads,
        )  # fmt: skip
        return set_fitted(estimator, problem, result)


def train_side_by_side(
    resolved_backend: Backend,
    X: Any,
    y: Any,
    validation: Any,
    pairs: list[tuple[float, float]],
    loss: str,
    seed: int,
    n_iterations: int,
    batch_size: int,
    progress: Progress | None,
    **parameters: Any,
) -> tuple[Problem, list[Any], TrainResult]:
    """Train a model for each pair (learning rate, reg), all from the same initial weights on the same batches."""
    check_choice("loss", loss, ("softmax", "hinge"))
    check_count("n_iterations", n_iterations)
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    # read_matrix refuses a sparse X: the mean is subtracted in each step of SGD, so it would be dense anyway
    features = read_features(read_matrix(X, resolved_backend), resolved_backend)
    mean = resolved_backend.to_numpy(features.moments(None, None)[0])
    if not np.isfinite(mean).all():
        features.check_finite()
    cls = SoftmaxClassifier if loss == "softmax" else LinearSVMClassifier
    estimators = [
        cls(
            loss=loss, l2=2 * reg, penalize_intercept=True, scaling=(mean, None),
            max_iter=math.ceil(n_iterations * batch_size / features.n), tol=0.0, batch_size=batch_size,
            learning_rate=rate, momentum=0.0, nesterov=False, schedule="constant", solver="sgd", random_state=seed,
            **parameters,
        )
        for rate, reg in pairs
    ]  # fmt: skip
    for estimator in estimators:
        estimator.n_features_in_ = features.d

    def start(d: int, c: int) -> tuple[Array, Array]:
        weights = 0.001 * np.random.default_rng(seed).standard_normal((d + 1, 1, c))
        return weights[:-1], weights[-1]

    problem = prepare(estimators[0], features, y, None, validation)
    l2 = np.array([2.0 * reg for _, reg in pairs])
    recipe = Recipe(n_iterations, start, replacement=True)
    return problem, estimators, train_group(estimators, problem.objective, l2, progress, recipe)
