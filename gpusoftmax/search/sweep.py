"""`sweep`: many configurations and folds over one X, and the best of them."""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from gpusoftmax.array import get_backend_for
from gpusoftmax.checks.parameters import in_place_of
from gpusoftmax.checks.validation import (
    by_rows,
    check_choice,
    check_count,
    check_flag,
    check_random_seed,
    check_verbose,
)
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.prediction import best_classes, check_columns, outputs
from gpusoftmax.estimators.problem import load, problem_of
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.features.dense import read_features
from gpusoftmax.progress import Tally
from gpusoftmax.search.grid import combinations, configured
from gpusoftmax.search.minibatch import Recipe
from gpusoftmax.search.result import DONE, SweepResult, choose, edges
from gpusoftmax.search.runner import Work
from gpusoftmax.search.scoring import make_scoring
from gpusoftmax.search.splits import Split, is_partition, make_splits
from gpusoftmax.search.words import candidate_in_words

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")


def sweep(
    X: Any,
    y: Any,
    grid: Any,
    *,
    cv: Any = None,
    validation: Any = None,
    scoring: Any = "accuracy",
    solver: str = "auto",
    refit: bool = True,
    rule: str = "best",
    sample_weight: Any = None,
    groups: Any = None,
    halving: int | None = None,
    patience: int | None = None,
    keep_models: bool = True,
    out_of_fold: bool = False,
    verbose: int = 0,
    on_candidate: Callable[[dict[str, Any]], Any] | None = None,
    recipe: Recipe | None = None,
    **parameters: Any,
) -> SweepResult:
    """Fit every combination of a grid, on every fold, and choose.

    Each model minimises, over the rows of its fold that it trains on,

        f(W, b) = (1 / S) sum_i s_i loss(x_i W + b, y_i) + (l2 / 2) ||W||^2,    S = sum_i s_i

    and is the model that its configuration alone would have been, to the solver's tolerance; rows that are held out are
    not visited. The exact solver goes along the penalties from strong to weak: each model starts where those before it
    point to, over curvature that all share, and takes some four reads of its rows. SGD takes all configurations
    through the same minibatches side by side.

    Parameters
    ----------
    X : array-like, (n, d)
        As for fit: read where it is, never copied for a fold.
    y : array-like, (n,)
        Labels.
    grid : dict or list of dict
        Names to lists of values: C or l2, learning_rate, momentum, class_weight. learning_rate or momentum make SGD
        the solver.
    cv : int, splitter or iterable of (training, held out), optional
        Folds of X: a number for StratifiedKFold, not shuffled; one of scikit-learn's splitters; or pairs of row
        numbers. Without cv and validation: 5.
    validation : (X, y) or float, optional
        One set of rows to measure all models on: the user's own, or a share of X that is drawn by random_state,
        stratified.
    scoring : str or callable
        "accuracy"; "log_loss", in nats and negated, so that larger is better; "loss", the estimator's own; the name of
        one of scikit-learn's scorers, or a function of (estimator, X, y), which gets a copy of the rows held out, on
        the host. They count by sample_weight, where a function takes that, and a scorer does not decline it
        (set_score_request).
    solver : {"auto", "lbfgs", "sgd"}
    refit : bool
        Fit the best configuration to all rows of X: `best_estimator_`. With validation=(X, y), these are the training
        rows.
    rule : {"best", "1se"}
        "1se": the strongest penalty whose mean score is within a standard error of the best one's. Of equals, either
        takes the strongest penalty.
    sample_weight : array-like, (n,), optional
        Not negative; weight k equals the row k times. Folds are drawn over all rows, as scikit-learn draws them; those
        of weight 0 then count nowhere.
    groups : array-like, (n,), optional
        For splitters that use them, such as GroupKFold.
    halving : int, optional
        For SGD: begin with max_iter / halving^k passes, and keep 1 in `halving` configurations for as many times more,
        until the last ones are trained for max_iter passes (successive halving, Jamieson and Talwalkar, 2016).
    patience : int, optional
        For the exact solver: after so many penalties in a row that scored worse than a stronger one, weaker ones are
        not tried any more.
    keep_models : bool
        Keep the weights of every model of every split, `models_`: splits x candidates x (d + 1) x c numbers.
        Out-of-fold predictions need them, and refit starts from them.
    out_of_fold : bool
        Predict each row by the best candidate's model that has not seen it: `out_of_fold_predictions_`, and n x c
        `out_of_fold_probabilities_`.
    verbose : int
        1 shows progress on the standard error.
    on_candidate : callable, optional
        Told of each configuration when it is done, by a row of the table.
    recipe : Recipe, optional
        For SGD with refit=False: where models start, how many batches they take instead of max_iter passes, and how
        these are drawn.
    **parameters
        Of the estimator, the same for all: scaling, loss, fit_intercept, penalize_intercept, class_weight, max_iter,
        tol, batch_size, nesterov, schedule, random_state, backend, n_threads, and what the grid does not name of C, l2,
        learning_rate, momentum. loss="hinge" or "squared_hinge" makes it a LinearSVMClassifier.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError, TypeError
        An argument is not usable; the message names it and the fix.
    DivergenceError
        Every configuration diverged.
    KeyboardInterrupt
        Ctrl-C before any configuration was done on all splits. Later it ends the sweep with what is done, and
        `interrupted_` is True: models of SGD that are under way, and the last fit, count as they are.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> result = sweep(X / 16, y, {"C": [0.01, 0.1, 1.0, 10.0]}, cv=3)
    >>> result.best_params_
    {'C': 0.1}
    """
    started = time.perf_counter()
    candidates = combinations(grid)
    estimator = _estimator(solver, parameters, {name for one in candidates for name in one})
    softmax = isinstance(estimator, SoftmaxClassifier)
    scorer = make_scoring(scoring, softmax)
    check_choice("rule", rule, ("best", "1se"))
    check_flag("refit", refit)
    check_flag("keep_models", keep_models)
    check_verbose(verbose)
    if check_flag("out_of_fold", out_of_fold) and not keep_models:
        raise ValueError("out_of_fold=True needs keep_models=True: it is these models that predict")
    estimators = configured(estimator, candidates)
    sgd = estimators[0].solver == "sgd"
    if halving is not None and not sgd:
        raise ValueError(
            f"halving={halving!r} is for solver='sgd'; the exact solver needs few passes for each penalty: leave it out"
        )
    if patience is not None and sgd:
        raise ValueError(f"patience={patience!r} is for solver='lbfgs', which goes along the penalties; use halving")
    if halving is not None:
        check_count("halving", halving, least=2)
    if patience is not None:
        check_count("patience", patience)
    if recipe is not None and (not sgd or refit or halving is not None):
        raise ValueError(
            f"recipe={recipe!r} says where SGD starts and how many batches it takes; pass refit=False, no halving, and "
            "learning_rate in the grid, or solver='sgd'"
        )
    device = get_backend_for(estimator.backend, estimator.n_threads, X=X)
    own: Any = validation if isinstance(validation, tuple | list) else None
    X = by_rows(X)
    with device.active():
        features = read_features(X, device)
        data = load(estimator, features, y, sample_weight, own)
        seed, labels = check_random_seed(estimator.random_state), data.classes[data.labels]
        splits = make_splits(cv, validation, labels, seed, X if device.gpu is None else None, groups)
        if rule == "1se" and len(splits) < 2:
            raise ValueError("rule='1se' needs the scatter between folds; pass cv=5, or rule='best'")
        models, c = len(candidates) * len(splits), len(data.classes)
        log.info(
            "sweep: %d configurations x %d splits; the models that are kept take %.1f MB", len(candidates), len(splits),
            keep_models * models * (features.d + 1) * c * np.dtype(features.dtype).itemsize / 2**20,
        )  # fmt: skip
        _check_weights(data.weights, splits)
        work = Work(
            X, labels, own, data, splits, candidates, estimators, scorer.knowing(data.classes), keep_models, seed,
            None, on_candidate, recipe,
        )  # fmt: skip
        if own is not None:
            check_columns(work.estimator(0), own[0], names_expected=False)
        work.tally = tally = Tally(models) if verbose else None
        interrupted = False
        try:
            work.by_sgd(halving) if sgd else work.along_paths(patience)
        except KeyboardInterrupt:
            interrupted = True
            work.fall_back()
            if not work.has_any():
                raise
        finally:
            if tally is not None:
                tally.close()
    if not work.has_any():
        _explain(work)
    result = None
    try:
        result = _chosen(work, rule, interrupted)
        with device.active():
            if out_of_fold:
                _predict_out_of_fold(result, work)
            if refit:
                result.best_estimator_ = _refit(result, work, verbose)
                result.interrupted_ |= result.best_estimator_.stop_reason_ == "interrupted"
    except KeyboardInterrupt:
        result = result or _chosen(work, rule, interrupted)
        result.interrupted_ = True
        if out_of_fold and result.out_of_fold_ is None:
            result.why_no_out_of_fold = "Ctrl-C came before they were made"
        if refit and result.best_estimator_ is None:
            _do_without_last_fit(result, work)
    result.seconds_ = time.perf_counter() - started
    return result


def _check_weights(weights: Array | None, splits: list[Split]) -> None:
    """Each split has rows that count, to train on and to measure on."""
    for i, split in enumerate(splits):
        for words, rows in (("training", split.train), ("held-out", split.held_out)):
            if weights is not None and rows is not None and not weights[rows].sum() > 0:
                raise ValueError(
                    f"sample_weight is 0 for all {words} rows of cv split {i}; pass other folds, or drop such rows"
                )


def _explain(work: Work) -> None:
    """Why no candidate has a score."""
    if (work.trials.status == "diverged").any():
        parameters = "; ".join(candidate_in_words(one) for one in work.candidates[:5])
        more = f"; and {len(work.candidates) - 5} more" if len(work.candidates) > 5 else ""
        raise DivergenceError(
            f"every configuration diverged on some split ({parameters}{more}): use a smaller learning_rate, or 'auto', "
            "or a larger C"
        )
    i = int(np.isnan(work.trials.score).any(axis=1).argmax())
    raise ValueError(f"scoring={work.scoring.name!r} is NaN for every configuration on some split, such as split {i}")


def _estimator(solver: str, parameters: dict[str, Any], varying: set[str]) -> Any:
    """The estimator that all configurations start from; what varies is not among its parameters."""
    cls = LinearSVMClassifier if parameters.get("loss") in ("hinge", "squared_hinge") else SoftmaxClassifier
    known = [name for name in inspect.signature(cls).parameters if name not in ("callbacks", "warm_start", "verbose")]
    for name in parameters:
        if name not in known:
            own = [one for one in inspect.signature(sweep).parameters if one != "parameters"]
            raise TypeError(f"sweep has no argument {name!r}: {in_place_of(name, [*own, *known])}")
    if twice := sorted(varying & set(parameters)):
        raise ValueError(f"{twice[0]} is in the grid and given beside it; pass it once")
    return cls(solver=solver, **parameters)


def _chosen(work: Work, rule: str, interrupted: bool) -> SweepResult:
    """The outcome of work that is done."""
    trials, estimators = work.trials, work.estimators
    rates = np.array([0.0 if one.learning_rate == "auto" else float(one.learning_rate) for one in estimators])
    best, ties = choose(work.eligible, work.strengths(), rates, rule)
    tried = [one for one, status in zip(work.candidates, trials.status.T, strict=True) if status.any()]
    short = int(((trials.status == "finished") & np.array([one.solver == "lbfgs" for one in estimators])).sum())
    if short and estimators[0].tol > 0:
        warnings.warn(
            f"{short} of {trials.score.size} models are not within tol={estimators[0].tol:g} of their optima after "
            f"max_iter={estimators[0].max_iter} steps (status 'finished' in the table): increase max_iter or tol",
            ConvergenceWarning,
            stacklevel=3,
        )
    lost = int((np.isnan(trials.score) & np.isin(trials.status, DONE)).sum())
    if lost:
        warnings.warn(
            f"scoring={work.scoring.name!r} is NaN for {lost} of {trials.score.size} models, whose configurations "
            "cannot be chosen",
            stacklevel=3,
        )
    return SweepResult(
        work.candidates, trials, work.scoring.name, rule, best, ties, edges(tried, tried.index(work.candidates[best])),
        work.data.classes, estimators, models_=work.models, interrupted_=interrupted,
    )  # fmt: skip


def _predict_out_of_fold(result: SweepResult, work: Work) -> None:
    """Of each row, what the best candidate's model says that has not seen it."""
    data, n = work.data, len(work.data.labels)
    if not is_partition(work.splits, n):
        result.why_no_out_of_fold = "they need folds that hold out each row once; pass cv=5, or another partition"
        return
    best, probabilities = np.empty(n, np.int64), None
    for i, split in enumerate(work.splits):
        of_rows = partial(outputs, work.models[i, result.best_index_], data.features.select(split.held_out))
        best[split.held_out] = best_classes(of_rows)
        if isinstance(work.estimators[0], SoftmaxClassifier):
            found = of_rows("probabilities")
            probabilities = np.empty((n, len(data.classes)), found.dtype) if probabilities is None else probabilities
            probabilities[split.held_out] = found
    result.out_of_fold_ = data.classes[best], probabilities


def _do_without_last_fit(result: SweepResult, work: Work) -> None:
    """The best candidate's model from the sweep, where that was trained on all rows, too."""
    result.why_no_last_fit = "the best one's fit to all rows was not made"
    if work.models and all(split.train is None for split in work.splits):
        result.best_estimator_ = work.models[0, result.best_index_]
        result.why_no_last_fit += ", its model from the sweep is taken"


def _refit(result: SweepResult, work: Work, verbose: int) -> Any:
    """The best candidate's estimator, fitted to all rows; the exact one from the mean of its folds' models."""
    best = result.best_index_
    estimator = work.estimator(best).set_params(verbose=verbose)
    models = [work.models[i, best] for i in range(result.n_splits_) if work.models]
    start = None
    if models and estimator.solver == "lbfgs":
        start = clone(models[0])
        start.classes_ = result.classes_
        start.coef_ = np.mean([model.coef_ for model in models], axis=0)
        start.intercept_ = np.mean([model.intercept_ for model in models], axis=0)
    problem = problem_of(estimator, replace(work.data, validation=None))
    missed = estimator._solve(problem, start, work.samples.get(best))
    if missed:
        warnings.warn(missed, ConvergenceWarning, stacklevel=3)
    return estimator.set_params(verbose=0)
