"""scikit-learn's searches: GridSearchCV around its own classifier or ours, and LogisticRegressionCV."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.sweeping.cases import Array, Problem
from bench.sweeping.contenders.base import Outcome, Watch, Work, count, measured, scores
from bench.sweeping.contenders.ours import options_of
from gpusoftmax import SoftmaxClassifier

ITERATIONS = 100  # scikit-learn's own limit


@dataclass(frozen=True)
class Scoring:
    """A scorer that counts along in whichever process it is called."""

    tally: Path | None

    def __call__(self, model: Any, X: Array, y: Array) -> dict[str, float]:
        """Scores as scikit-learn wants them."""
        accuracy, log_loss = scores(model.predict_proba(X), y)
        count(self.tally)
        return {"accuracy": accuracy, "log_loss": -log_loss}


def grid(problem: Problem, watch: Watch) -> Work:
    """GridSearchCV around LogisticRegression, on all cores."""
    from sklearn.linear_model import LogisticRegression

    return _grid(problem, watch, LogisticRegression(max_iter=ITERATIONS), problem.scaled(), os.cpu_count())


def grid_of_ours(problem: Problem, watch: Watch) -> Work:
    """GridSearchCV around our classifier, whose fits take all cores."""
    return _grid(problem, watch, SoftmaxClassifier(**options_of(problem)), problem.X, 1)


def _grid(problem: Problem, watch: Watch, model: Any, X: Array, n_jobs: int | None) -> Work:
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(
        model, {"C": problem.Cs}, cv=problem.splits, n_jobs=n_jobs, scoring=Scoring(watch.tally), refit="accuracy"
    )  # fmt: skip

    def work() -> Callable[[], Outcome]:
        results = search.fit(X, problem.y).cv_results_
        tables = {
            name: sign * np.array([results[f"split{i}_test_{name}"] for i in range(len(problem.splits))])
            for name, sign in (("accuracy", 1), ("log_loss", -1))
        }
        return lambda: Outcome(measured(**tables))

    return work


def count_fits(tally: Path | None) -> None:
    """Called in a worker of scikit-learn's: counts calls of lbfgs, which reports nothing until a whole fold is done."""
    from sklearn.linear_model import _logistic

    check = _logistic._check_optimize_result

    def counted(*arguments: Any, **options: Any) -> Any:
        count(tally)
        return check(*arguments, **options)

    _logistic._check_optimize_result = counted


def logistic_cv(problem: Problem, watch: Watch) -> Work:
    """LogisticRegressionCV: a path per fold, each C from the solution before it."""
    from joblib import parallel_config
    from sklearn.linear_model import LogisticRegressionCV

    X = problem.scaled()
    model = LogisticRegressionCV(
        Cs=problem.Cs, cv=problem.splits, max_iter=ITERATIONS, n_jobs=os.cpu_count(), solver="lbfgs",
        scoring="accuracy",
    )  # fmt: skip

    def outcome() -> Outcome:
        paths = model.coefs_paths_  # its form depends on the version
        if isinstance(paths, dict):
            paths = np.stack([paths[label] for label in model.classes_], axis=-2)
        paths = np.reshape(paths, (len(problem.splits), len(problem.Cs), problem.n_classes, -1)).astype(np.float64)
        tables = np.empty((2, *paths.shape[:2]))
        for i, (_, held_out) in enumerate(problem.splits):
            for k, W in enumerate(paths[i]):
                P = probabilities(X[held_out].astype(np.float64), W[:, :-1], W[:, -1])
                tables[:, i, k] = scores(P, problem.y[held_out])
        numbers = {"at_max_iter": int((np.asarray(model.n_iter_) >= ITERATIONS).sum())}
        drawn = {(i, k): (paths[i, k, :, :-1], paths[i, k, :, -1]) for i, k in problem.drawn}
        return Outcome(measured(*tables) | numbers, drawn)

    def work() -> Callable[[], Outcome]:
        with parallel_config(backend="loky", initializer=count_fits, initargs=(watch.tally,)):
            model.fit(X, problem.y)
        return outcome

    return work


def probabilities(X: Array, W: Array, b: Array) -> Array:
    """The softmax of X W' + b, (n, c)."""
    z = X @ W.T + b
    P: Array = np.exp(z - z.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    return P
