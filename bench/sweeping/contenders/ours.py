"""Ours: a sweep, or one model after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common.ours import SGD, BatchPlan, Objective, backend_for, sweep_over_C, train
from bench.sweeping.cases import SEED, Array, Problem
from bench.sweeping.contenders.base import Outcome, Watch, Work, measured, one_by_one, scores
from bench.sweeping.truth import choices
from gpusoftmax import SoftmaxClassifier
from gpusoftmax.estimators.problem import prepare
from gpusoftmax.features.read import read_features
from gpusoftmax.protocols.cs231n import train_cs231n


def options_of(problem: Problem) -> dict[str, Any]:
    """Parameters of the estimator, which folds the scale."""
    return {"scaling": None if problem.scale == 1 else (None, problem.scale), "solver": "lbfgs"}


def scaled(model: Any, problem: Problem) -> tuple[Array, Array]:
    """W and b of the scaled features, from an estimator on X as it is stored."""
    return np.asarray(model.coef_, np.float64) * problem.scale, np.asarray(model.intercept_, np.float64)


# ---- cv and path


def sweep(problem: Problem, watch: Watch) -> Work:
    """One sweep, with the refit where there are folds."""
    folds, parameters = problem.has_folds, options_of(problem)
    held_out = {"cv": problem.size.folds} if folds else {"validation": problem.validation}

    def work() -> Callable[[], Outcome]:
        found = sweep_over_C(problem.X, problem.y, problem.Cs, parameters, refit=folds, **held_out)

        def outcome() -> Outcome:
            trials = found.trials
            numbers = measured(trials.accuracy, trials.loss) | {"passes": float(trials.passes.sum())}
            return Outcome(numbers, {model: scaled(found.models_[model], problem) for model in problem.drawn})

        return outcome

    return work


def found_grid(problem: Problem, watch: Watch) -> Work:
    """A sweep that finds its values of C, by log loss; they are its own, so there are no models of the grid's."""
    from gpusoftmax import sweep as find

    parameters = options_of(problem)

    def work() -> Callable[[], Outcome]:
        found = find(
            SoftmaxClassifier(**parameters), "auto", problem.X, problem.y, cv=problem.size.folds, scoring="log_loss"
        )  # fmt: skip
        values = [one["C"] for one in found.candidates]
        numbers = {"found_Cs": values, "found_C": found.best_params_["C"], "found_log_loss": -found.best_score_}
        return lambda: Outcome(numbers | {"passes": float(found.trials.passes.sum())})

    return work


def fits(problem: Problem, watch: Watch) -> Work:
    """A fit for each C and fold, and at last, where there are folds, one for the best C."""

    parameters = options_of(problem)

    def work() -> Callable[[], Outcome]:
        models, passes = {}, 0.0
        accuracy = np.full((len(problem.splits), len(problem.Cs)), np.nan)
        log_loss = accuracy.copy()
        for i, k in problem.models:
            if watch.enough():
                break
            rows, held_out = problem.splits[i]
            whole = problem.case == "path"
            X, y = (problem.X, problem.y) if whole else (problem.X[rows], problem.y[rows])
            X_held_out, y_held_out = problem.validation if whole else (problem.X[held_out], problem.y[held_out])
            model = SoftmaxClassifier(C=problem.Cs[k], **parameters).fit(X, y)
            accuracy[i, k], log_loss[i, k] = scores(model.predict_proba(X_held_out), y_held_out)
            passes += model.fit_report_.passes
            if (i, k) in problem.drawn:
                models[i, k] = scaled(model, problem)
            watch.tell()
        if not watch.stopped and problem.has_folds:
            best = choices(accuracy, log_loss)["by_accuracy"]
            SoftmaxClassifier(C=problem.Cs[best], **parameters).fit(problem.X, problem.y)
        found = {} if watch.stopped else measured(accuracy, log_loss)
        return lambda: Outcome(found | {"passes": passes}, models)

    return work


# ---- cs231n


def recipe_objective(problem: Problem) -> Objective:
    """The objective that `train_cs231n` minimises, for one model."""
    backend = backend_for("auto")
    features = read_features(problem.X, backend)
    mean = backend.to_numpy(features.moments(None, None)[0])
    estimator = SoftmaxClassifier(l2=1.0, penalize_intercept=True, scaling=(mean, None), solver="sgd", learning_rate=1)
    return prepare(estimator, features, problem.y, None, None).objective


def descend(
    objective: Objective, problem: Problem, pairs: list[tuple[float, float]], steps: int
) -> tuple[Array, Array]:
    """The recipe's steps for several pairs at once: W (d, K, c) and b (K, c) of the centred pixels."""
    rates, regs = map(np.array, zip(*pairs, strict=True))
    plan, backend = BatchPlan(len(problem.y), problem.size.batch, replacement=True, seed=SEED), objective.backend
    start = np.repeat(problem.start()[:, None], len(pairs), axis=1)
    solver = SGD(plan, steps, rates, 0.0, False, "constant", 0.0)
    result = train(
        objective.for_penalties(2 * regs), solver, backend.asarray(start[:-1]), backend.asarray(start[-1])
    )  # fmt: skip
    return backend.to_numpy(result.W), backend.to_numpy(result.b)


def side_by_side(problem: Problem, watch: Watch) -> Work:
    """All pairs of the recipe at once."""

    def work() -> Callable[[], Outcome]:
        W, b = descend(recipe_objective(problem), problem, problem.pairs, problem.size.steps)
        return lambda: Outcome({}, {model: (W[:, model[1]].T, b[model[1]]) for model in problem.drawn})

    return work


def recipes(problem: Problem, watch: Watch) -> Work:
    """`train_cs231n` for each pair."""
    size = problem.size

    def fit(rate: float, reg: float) -> tuple[Array, Array]:
        model = train_cs231n(
            problem.X, problem.y, seed=SEED, learning_rate=rate, reg=reg, n_iterations=size.steps,
            batch_size=size.batch,
        )  # fmt: skip
        return model.coef_, model.intercept_ + model.coef_.astype(np.float64) @ problem.mean

    def work() -> Callable[[], Outcome]:
        outcome = one_by_one(problem, watch, fit)
        return lambda: outcome

    return work
