"""The hyperparameter search of cs231n, assignment 1: all learning rates and penalties side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checks.messages import describe_candidate
from gpusoftmax.checks.scalars import check_number, check_pair
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.fitting import set_fitted
from gpusoftmax.plots.figures import new_figure
from gpusoftmax.plots.sweeps import heat_map
from gpusoftmax.protocols.cs231n.recipe import train_side_by_side
from gpusoftmax.reports.accuracy import measure
from gpusoftmax.search.result import choose, edges
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.trainer import Progress

Classifier = SoftmaxClassifier | LinearSVMClassifier


@dataclass(eq=False, repr=False)
class CourseSweep:
    """The result of cs231n's exercise: accuracies on a grid of learning rates and penalties.

    Attributes
    ----------
    results : dict
        {(learning rate, reg): (training accuracy, validation accuracy)}; NaN if training diverged.
    best : (float, float)
        The learning rate and reg with the largest validation accuracy; among equals the strongest penalty, then the
        smallest learning rate.
    ties : list of (float, float)
        Other pairs with the same validation accuracy.
    edges : dict
        {"learning_rate": "largest"}: the best value is at that end of the grid, so a better one may lie beyond it.
    best_estimator : SoftmaxClassifier or LinearSVMClassifier
        Fitted; the model that `train_cs231n` makes with `best`.
    estimators : dict
        {(learning rate, reg): fitted estimator}, without those that diverged.
    test_accuracy : float or None
        The test accuracy of the best model; None without a test set.
    interrupted : bool
        Whether Ctrl-C ended training before all iterations were done.
    seconds : float
        The total time.
    """

    results: dict[tuple[float, float], tuple[float, float]]
    best: tuple[float, float]
    ties: list[tuple[float, float]]
    edges: dict[str, str]
    estimators: dict[tuple[float, float], Classifier]
    test_accuracy: float | None = None
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def best_estimator(self) -> Classifier:
        """The model with the largest validation accuracy."""
        return self.estimators[self.best]

    @property
    def best_validation_accuracy(self) -> float:
        """The validation accuracy of the best model, in [0, 1]."""
        return self.results[self.best][1]

    @property
    def report(self) -> str:
        """The lines that the course's notebooks print, and the choice."""
        lines = [
            f"lr {rate:e} reg {reg:e} "
            + ("diverged" if math.isnan(training) else f"train accuracy: {training:f} val accuracy: {validation:f}")
            for (rate, reg), (training, validation) in sorted(self.results.items())
        ]
        lines.append(f"best validation accuracy achieved during cross-validation: {self.best_validation_accuracy:f}")
        lines.append(f"chosen: {describe_candidate(_named(self.best))}")
        if self.ties:
            lines.append(f"same accuracy: {'; '.join(describe_candidate(_named(pair)) for pair in self.ties)}")
        lines += [
            f"{name} is the {end} value that was tried: a better one may lie beyond it"
            for name, end in self.edges.items()
        ]
        if self.interrupted:
            lines.append("interrupted: not all iterations were done")
        if self.test_accuracy is not None:
            lines.append(f"test accuracy: {self.test_accuracy:f}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report

    def __repr__(self) -> str:
        best, accuracy = describe_candidate(_named(self.best)), self.best_validation_accuracy
        return f"<CourseSweep: {len(self.results)} models, best {best}, validation accuracy {accuracy:.4g}>"

    def plot(self, axes: Any = None) -> Any:
        """Plot training and validation accuracy over learning rate (across) and reg (up); needs matplotlib.

        Parameters
        ----------
        axes : pair of matplotlib Axes, optional
            The axes to draw on. Default: the axes of a new figure.

        Returns
        -------
        pair of matplotlib Axes

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        if axes is None:
            axes = new_figure(11.0, 4.0).subplots(1, 2)
        candidates, best = [_named(pair) for pair in self.results], _named(self.best)
        measured = zip(("training", "validation"), zip(*self.results.values(), strict=True), strict=True)
        for ax, (rows, accuracies) in zip(axes, measured, strict=True):
            heat_map(ax, candidates, accuracies, list(best), best, f"{rows} accuracy; ○ chosen")
        return axes


def _named(pair: tuple[float, float]) -> dict[str, float]:
    return {"learning_rate": pair[0], "reg": pair[1]}


def sweep_cs231n(
    X: Any,
    y: Any,
    validation: tuple[Any, Any],
    *,
    learning_rates: Sequence[float],
    regs: Sequence[float],
    loss: str = "softmax",
    seed: int = 0,
    n_iterations: int = 1500,
    batch_size: int = 200,
    test: tuple[Any, Any] | None = None,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> CourseSweep:
    """Do the exercise of cs231n, assignment 1: train with all pairs of learning rates and penalties, and choose.

    All models are trained together on the same batches from the same initial weights, so that each of them is the model
    that `train_cs231n` makes with its learning rate, reg and seed: identical to the bit with backend "cpu". A model
    that diverges is dropped, and does not affect the others. The test set is not used before the choice is made.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Raw features; uint8 pixels stay uint8.
    y : array-like of shape (n,)
        Labels.
    validation : (X, y)
        Rows to choose by; the course uses the last 1000 of CIFAR-10's 50,000 training images.
    learning_rates, regs : sequences of float
        Learning rates greater than 0, and penalties that are not negative. For CIFAR-10 np.logspace(-6.3, -5.6, 8) and
        np.logspace(2, 4, 8); for the SVM np.logspace(-7.3, -6.3, 8) and np.logspace(3, 4.5, 8).
    loss : {"softmax", "hinge"}
        See `train_cs231n`, also for the parameters that follow, except `test`.
    seed : int
    n_iterations : int
    batch_size : int
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
    progress : Progress, optional
    test : (X, y), optional
        Rows to measure the best model on.

    Returns
    -------
    CourseSweep
        It holds all models: learning rates x regs x (d + 1) x c numbers. Training needs about five times as much.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be used; the message names it and the fix.
    DivergenceError
        Every model diverged.

    Notes
    -----
    Source: https://cs231n.github.io/assignments2021/assignment1/, softmax.ipynb and svm.ipynb.
    """
    started = time.perf_counter()
    rates = _values("learning_rates", learning_rates, above=True)
    pairs = [(rate, reg) for rate in rates for reg in _values("regs", regs)]
    check_pair("validation", validation)
    if test is not None:
        check_pair("test", test)
    resolved_backend = get_backend_for(backend, n_threads, X=X)
    with resolved_backend.active():
        problem, estimators, trained = train_side_by_side(
            resolved_backend, X, y, validation, pairs, loss, seed, n_iterations, batch_size, progress, backend=backend,
            n_threads=n_threads,
        )  # fmt: skip
        assert problem.validation is not None
        no_penalties = np.zeros(len(pairs))
        diverged = np.array([reason == StopReason.DIVERGED for reason in trained.reasons])
        accuracies = np.empty((2, len(pairs)))
        for i, (name, rows) in enumerate({"X": problem.objective, "validation[0]": problem.validation}.items()):
            losses, accuracies[i] = map(
                resolved_backend.to_numpy, rows.for_penalties(no_penalties).losses(trained.W, trained.b)
            )
            if not np.isfinite(losses[~diverged]).all():
                rows.features.check_finite(name)
        accuracies[:, diverged] = np.nan
        fitted = {}
        for k, (pair, estimator) in enumerate(zip(pairs, estimators, strict=True)):
            if trained.reasons[k] != StopReason.DIVERGED:
                objective = problem.objective.for_penalties(np.array([estimator.l2]))
                single = replace(problem, objective=objective, validation=None)
                fitted[pair] = set_fitted(estimator, single, trained.for_model(k))
    pair_rates, pair_regs = np.array(pairs).T
    best, ties = choose(accuracies[1:], pair_regs, pair_rates, "best")
    found = CourseSweep(
        {pair: (train, held_out) for pair, (train, held_out) in zip(pairs, accuracies.T.tolist(), strict=True)},
        pairs[best],
        [pairs[k] for k in ties],
        edges([_named(pair) for pair in pairs], best),
        fitted,
        interrupted=trained.reason == StopReason.INTERRUPTED,
    )
    if test is not None:
        found.test_accuracy = measure(found.best_estimator, *test).top_1
    found.seconds = time.perf_counter() - started
    return found


def _values(name: str, values: Any, above: bool = False) -> list[float]:
    """Check that the values are at least 0, or above 0, and drop duplicates."""
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise TypeError(f"{name}={values!r} is a {type(values).__name__}; pass a list of numbers")
    if len(values) == 0:
        raise ValueError(f"{name} is empty; pass at least one number")
    numbers = [check_number(f"{name}[{i}]", value, least=0, above=above) for i, value in enumerate(values)]
    return list(dict.fromkeys(numbers))
