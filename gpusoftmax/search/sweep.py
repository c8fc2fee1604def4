"""`sweep`: fits many configurations on many folds of one X, and chooses the best."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checkpoints.checkpoint import EVERY, check_checkpoint, keeping
from gpusoftmax.checks.arrays import by_rows
from gpusoftmax.checks.messages import describe_candidate, warn_user
from gpusoftmax.checks.parameters import explain_unknown, in_place_of
from gpusoftmax.checks.scalars import check_choice, check_count, check_flag, check_random_seed, check_verbose
from gpusoftmax.cluster.placing import frame_or_array, place
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.estimators.classifiers import Estimator, SoftmaxClassifier
from gpusoftmax.estimators.fitting import start_weights
from gpusoftmax.estimators.prediction import best_classes, check_columns, outputs
from gpusoftmax.estimators.problem import load, problem_of
from gpusoftmax.estimators.solver_choice import sgd_settings
from gpusoftmax.estimators.solving import solve
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.features.read import read_features
from gpusoftmax.progress import Tally
from gpusoftmax.search.auto_grid import MOST_VALUES, PATIENCE
from gpusoftmax.search.grid import combinations, configured, penalty_to_find
from gpusoftmax.search.minibatch import Recipe
from gpusoftmax.search.result import DONE, SweepResult, choose, edges
from gpusoftmax.search.resuming import checkpoint_of_sweep
from gpusoftmax.search.runner import SweepRun
from gpusoftmax.search.scoring import make_scoring
from gpusoftmax.search.splits import Split, is_partition, make_splits


def _instead(name: str) -> str:
    """What to use instead of an argument that sweep does not have."""
    if name in inspect.signature(SoftmaxClassifier).parameters:
        return f"it is a parameter of the estimator, as in sweep(SoftmaxClassifier({name}=...), grid, X, y)"
    return in_place_of(name, inspect.signature(sweep).parameters)


@explain_unknown(_instead)
def sweep(
    estimator: Any,
    grid: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = None,
    validation: Any = None,
    scoring: Any = "accuracy",
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
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = EVERY,
    client: Any = None,
) -> SweepResult:
    """Fit an estimator with every combination of a grid, on every fold, and choose the best.

    Each model minimises, over the training rows of its fold,

        f(W, b) = (1 / S) sum_i s_i loss(x_i W + b, y_i) + (l2 / 2) ||W||^2,    S = sum_i s_i

    and is, within the solver's tolerance, the same model as if it were fitted alone. L-BFGS goes from strong penalties
    to weak ones: each model starts from a prediction made from those before it, all share one preconditioner, and each
    needs about four passes over its rows. SGD trains all configurations together on the same minibatches.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        Its parameters apply to all models, except for those in the grid. It is cloned, not fitted. callbacks and
        warm_start cannot be set. solver="auto" means what it means in `fit`, and gives all configurations the same
        solver.
    grid : dict, list of dict, or "auto"
        Lists of values for C or l2, learning_rate, momentum, class_weight, by name. If solver is "auto", a
        learning_rate or momentum makes it SGD. For L-BFGS, "auto" in place of the list for C or l2 lets the sweep find
        the values, at most 25 of them; see the notes. grid="auto" means {"C": "auto"}.
    X : array-like of shape (n, d)
        As for `fit`: read in place, and never copied for a fold.
    y : array-like of shape (n,) or (n, c)
        Labels, or proportions of the classes; see `SoftmaxClassifier.fit`.
    cv : int, splitter or iterable of (training, held out), optional
        Folds of X: a number for StratifiedKFold, not shuffled; one of scikit-learn's splitters; or pairs of row
        numbers. Default: 5, unless validation is given.
    validation : (X, y) or float, optional
        A single set of rows to measure all models on: validation data, or a fraction of X to hold out, stratified and
        drawn with random_state.
    scoring : str or callable
        "accuracy"; "log_loss", in nats and negated, so that larger is better; "loss", the estimator's own loss,
        negated; the name of one of scikit-learn's scorers; or a function of (estimator, X, y), which gets a copy of the
        held-out rows on the host. sample_weight is used too, unless a function does not take it, or a scorer does not
        request it (set_score_request).
    refit : bool
        Fit the best configuration to all rows of X, as `best_estimator_`. With validation=(X, y), all rows of X are
        training rows.
    rule : {"best", "1se"}
        "1se" chooses the strongest penalty whose mean score is within one standard error of the best. If several
        candidates are equally good, both rules choose the one with the strongest penalty.
    sample_weight : array-like of shape (n,), optional
        Not negative; weight k is equivalent to k copies of the row. Folds are drawn from all rows, as in scikit-learn,
        including those with weight 0, which have no effect otherwise.
    groups : array-like of shape (n,), optional
        For splitters that use groups, such as GroupKFold.
    halving : int, optional
        For SGD: train all configurations for max_iter / halving^k epochs, keep the best 1 / halving of them and train
        these for `halving` times as many epochs, and so on, until the last ones are trained for max_iter epochs
        (successive halving, Jamieson and Talwalkar, 2016).
    patience : int, optional
        For L-BFGS: stop after this many penalties in a row that scored worse than a stronger one. If the sweep finds
        the values: after this many factors of ten without a gain (default: 2).
    keep_models : bool
        Keep the weights of every model of every split, `models_`: splits x candidates x (d + 1) x c numbers.
        Out-of-fold predictions need them, and refit starts from them.
    out_of_fold : bool
        Predict each row with the best candidate's model that was not trained on it: `out_of_fold_predictions_` and
        `out_of_fold_probabilities_`, n x c.
    verbose : int
        1 shows progress on standard error.
    on_candidate : callable, optional
        Called after each configuration, with its row of the table.
    recipe : Recipe, optional
        For SGD with refit=False: where models start, the number of batches instead of max_iter epochs, and how batches
        are drawn.
    checkpoint : str or os.PathLike, optional
        A file for the models that are trained, and for the state of the one under way. If it is there, the sweep
        continues from it, and gives the same bits as without the interruption. Models that it has are not trained
        again, but are scored again, and on_candidate is called for them. The last two files are kept: "run.ckpt" and
        "run.ckpt.previous".
    checkpoint_every : float
        Seconds between two checkpoints. There is also one at the end, after Ctrl-C, and on SIGTERM.
    client : distributed.Client, optional
        The Dask cluster that computes, if X is on one; see `SoftmaxClassifier.fit`. The models of all folds, and of as
        many penalties as the row weights of 1 GB allow, share each pass. Only L-BFGS runs on a cluster, and scoring is
        "accuracy", "log_loss" or "loss".

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError, TypeError
        An argument cannot be used; the message names it and the fix. Or the checkpoint belongs to another run: the
        message says what differs.
    DivergenceError
        Every configuration diverged.
    BadFileError
        The checkpoint is damaged, and so is the one before.
    OSError
        The checkpoint cannot be written or read. One that was there is intact.
    SystemExit
        SIGTERM was received during a sweep with a checkpoint, which is written first; see `SoftmaxClassifier.fit`.
    KeyboardInterrupt
        Ctrl-C came before any configuration was done on all splits. Later, Ctrl-C ends the sweep with the results so
        far, and `interrupted_` is True: models that SGD was training, and the last fit, are used in their current
        state. What a checkpoint has is not changed by that: the same sweep continues from there.

    Notes
    -----
    If the sweep finds the values of C, it starts where the model is constant to within 1% of its loss, and multiplies C
    by ten until there is no gain, which is a gain in score, or in loss on the held-out rows, of more than a quarter of
    the standard error; or until the score is worse than the best by more than its standard error. Then it halves the
    intervals next to the best value, in log C, down to an eighth of a decade, until the scores of its neighbours are
    within a quarter of the standard error, and also those next to the value that rule="1se" chooses. All values are
    powers of ten or lie between two of them. The standard error is that over the splits; with a single split, that of a
    mean over its held-out rows.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> result = sweep(SoftmaxClassifier(), {"C": [0.01, 0.1, 1.0, 10.0]}, X / 16, y, cv=3)
    >>> result.best_params_
    {'C': 0.1}
    >>> result = sweep(SoftmaxClassifier(), "auto", X / 16, y, cv=3)
    >>> [float(f"{one['C']:.3g}") for one in result.candidates]
    [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0, 3.16, 5.62, 7.5, 10.0, 31.6, 100.0, 1000.0]
    >>> result.best_params_ == {"C": 10 ** (7 / 8)}
    True
    """
    started = time.perf_counter()
    _check_estimator(estimator)
    candidates = combinations(grid)
    for name in sorted({name for one in candidates for name in one}):
        if getattr(estimator, name) is not None:
            raise ValueError(f"{name} is in the grid and set in the estimator; set it in one of the two")
    softmax, finds = isinstance(estimator, SoftmaxClassifier), penalty_to_find(candidates[0]) is not None
    scorer = make_scoring(scoring, softmax)
    check_choice("rule", rule, ("best", "1se"))
    check_flag("refit", refit)
    check_flag("keep_models", keep_models)
    verbose = max(check_verbose(verbose), check_verbose(estimator.verbose))
    if check_flag("out_of_fold", out_of_fold) and not keep_models:
        raise ValueError("out_of_fold=True needs keep_models=True: these models make the predictions")
    estimators = configured(estimator, candidates)
    sgd = estimators[0].solver == "sgd"
    if halving is not None and not sgd:
        raise ValueError(
            f"halving={halving!r} is for solver='sgd'; L-BFGS needs few passes for each penalty: leave it out"
        )
    if patience is not None and sgd:
        raise ValueError(
            f"patience={patience!r} is for solver='lbfgs', which tries penalties one after another; use halving"
        )
    if halving is not None:
        check_count("halving", halving, least=2)
    if patience is not None:
        check_count("patience", patience)
    if recipe is not None and (not sgd or refit or halving is not None):
        raise ValueError(
            f"recipe={recipe!r} says where SGD starts and how many batches it takes; pass refit=False, no halving, and "
            "learning_rate in the grid, or an estimator with solver='sgd'"
        )
    path, seconds = check_checkpoint(checkpoint, checkpoint_every)
    validation_data: Any = validation if isinstance(validation, tuple | list) else None
    placed = place(X, y, sample_weight, validation_data, client, estimator.backend, estimator.n_threads)
    backend, on_cluster = placed.backend, isinstance(placed.rows, ClusterRows)
    if on_cluster and scorer.function is not None:
        raise ValueError(
            f"scoring={scorer.name!r} is computed from all held-out rows in one place, and X is on a cluster; pass "
            "'accuracy', 'log_loss' or 'loss', which are sums over rows"
        )
    X = frame_or_array(X) if on_cluster else by_rows(X)
    with backend.active():
        features = read_features(placed.rows if on_cluster else X, backend)
        data = load(estimator, features, placed.y, placed.sample_weight, placed.validation)
        seed, labels = check_random_seed(estimator.random_state), data.classes[data.labels]
        splits = make_splits(cv, validation, labels, seed, None if on_cluster or backend.gpu is not None else X, groups)
        if rule == "1se" and len(splits) < 2:
            raise ValueError("rule='1se' needs the scatter between folds; pass cv=5, or rule='best'")
        most, c = len(candidates) * (MOST_VALUES if finds else 1), len(data.classes)
        models = most * len(splits)
        log.info(
            "sweep: %s%d configurations x %d splits; the models that are kept take %.1f MB",
            "up to " * finds, most, len(splits),
            keep_models * models * (features.d + 1) * c * np.dtype(features.dtype).itemsize / 2**20,
        )  # fmt: skip
        _check_weights(data.weights, splits)
        run = SweepRun(
            X, labels, validation_data, data, splits, *(([], []) if finds else (candidates, estimators)),
            scorer.with_classes(data.classes), keep_models, seed, None, on_candidate, recipe,
        )  # fmt: skip
        options = {
            "scoring": run.scoring.name, "refit": refit, "rule": rule, "halving": halving, "patience": patience,
            "keep_models": keep_models, "recipe": None if recipe is None else [recipe.steps, recipe.replacement],
        }  # fmt: skip
        run.checkpoint = checkpoint_of_sweep(estimator, candidates, models, data, splits, options, path, seconds)
        if validation_data is not None:
            check_columns(run.with_columns(estimators[0]), frame_or_array(validation_data[0]), names_expected=False)
        run.tally = Tally(None if finds else models) if verbose else None
        if sgd:
            train = partial(run.by_sgd, halving)
        elif finds:
            train = partial(run.along_new_paths, candidates, estimators, patience or PATIENCE, rule)
        else:
            train = partial(run.along_paths, patience)
        with keeping(run.checkpoint):
            interrupted = _train(run, train)
            result = _finish(run, rule, interrupted, out_of_fold, refit, verbose)
    result.seconds_ = time.perf_counter() - started
    return result


def _train(run: SweepRun, train: Callable[[], None]) -> bool:
    """Train all candidates by a method of the run; returns whether Ctrl-C ended that.

    Raises
    ------
    DivergenceError, ValueError
        No candidate has a score.
    KeyboardInterrupt
        Ctrl-C came before any candidate was done on all splits.
    """
    interrupted = False
    try:
        train()
    except KeyboardInterrupt:
        interrupted = True
        if run.checkpoint is not None:
            run.checkpoint.close()  # the last fit is now of another candidate, maybe
        run.fall_back()
        if not run.has_any():
            raise
    finally:
        if run.tally is not None:
            run.tally.close()
    if not run.has_any():
        _raise_no_score(run)
    return interrupted


def _finish(run: SweepRun, rule: str, interrupted: bool, out_of_fold: bool, refit: bool, verbose: int) -> SweepResult:
    """Choose the best candidate, and fit it to all rows; Ctrl-C leaves out what is not done."""
    result = None
    try:
        result = _make_result(run, rule, interrupted)
        if out_of_fold:
            _predict_out_of_fold(result, run)
        if refit:
            result.best_estimator_ = _refit(result, run, verbose)
            result.interrupted_ |= result.best_estimator_.stop_reason_ == "interrupted"
    except KeyboardInterrupt:
        result = result or _make_result(run, rule, interrupted)
        result.interrupted_ = True
        if out_of_fold and result.out_of_fold_ is None:
            result.why_no_out_of_fold = "Ctrl-C came before they were made"
        if refit and result.best_estimator_ is None:
            _do_without_last_fit(result, run)
    return result


def _check_weights(weights: Array | None, splits: list[Split]) -> None:
    """Check that each split has rows with a positive weight, both to train on and to measure on."""
    for i, split in enumerate(splits):
        for kind, rows in (("training", split.train), ("held-out", split.held_out)):
            if weights is not None and rows is not None and not weights[rows].sum() > 0:
                raise ValueError(
                    f"sample_weight is 0 for all {kind} rows of cv split {i}; pass other folds, or drop such rows"
                )


def _raise_no_score(run: SweepRun) -> None:
    """Raise the error that says why no candidate has a score."""
    if (run.trials.status == "diverged").any():
        parameters = "; ".join(describe_candidate(one) for one in run.candidates[:5])
        more = f"; and {len(run.candidates) - 5} more" if len(run.candidates) > 5 else ""
        raise DivergenceError(
            f"every configuration diverged on some split ({parameters}{more}): use a smaller learning_rate, or 'auto', "
            "or a larger C"
        )
    i = int(np.isnan(run.trials.score).any(axis=1).argmax())
    raise ValueError(f"scoring={run.scoring.name!r} is NaN for every configuration on some split, such as split {i}")


def _check_estimator(estimator: Any) -> None:
    """Refuse objects that are not one of our estimators, and parameters that have no meaning in a sweep."""
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}; pass the estimator, the grid, and then the data, as in "
            "sweep(SoftmaxClassifier(scaling='standard'), {'C': [0.1, 1, 10]}, X, y)"
        )
    for name, fix in (
        ("callbacks", "pass on_candidate to sweep"),
        ("warm_start", "leave it out: models already start from their neighbours"),
    ):
        if getattr(estimator, name):
            raise ValueError(f"{name}={getattr(estimator, name)!r} is for fit, not for a sweep; {fix}")


def _make_result(run: SweepRun, rule: str, interrupted: bool) -> SweepResult:
    """The result of a run, with the best candidate; warns of models that fell short."""
    trials, estimators = run.trials, run.estimators
    settings = [sgd_settings(one).learning_rate for one in estimators]
    rates = np.array([0.0 if rate == "auto" else float(rate) for rate in settings])
    best, ties = choose(run.eligible, run.strengths(), rates, rule)
    tried = [one for one, status in zip(run.candidates, trials.status.T, strict=True) if status.any()]
    short = int(((trials.status == "finished") & np.array([one.solver == "lbfgs" for one in estimators])).sum())
    if short and estimators[0].tol > 0:
        warn_user(
            f"{short} of {trials.score.size} models are not within tol={estimators[0].tol:g} of their optima after "
            f"max_iter={estimators[0].max_iter} steps (status 'finished' in the table): increase max_iter or tol",
            ConvergenceWarning,
        )
    lost = int((np.isnan(trials.score) & np.isin(trials.status, DONE)).sum())
    if lost:
        warn_user(
            f"scoring={run.scoring.name!r} is NaN for {lost} of {trials.score.size} models, whose configurations "
            "cannot be chosen",
            UserWarning,
        )
    return SweepResult(
        run.candidates, trials, run.scoring.name, rule, best, ties, edges(tried, tried.index(run.candidates[best])),
        run.data.classes, estimators, models_=run.models, interrupted_=interrupted,
    )  # fmt: skip


def _predict_out_of_fold(result: SweepResult, run: SweepRun) -> None:
    """Predict each row with the best candidate's model that was not trained on it."""
    data, n = run.data, len(run.data.labels)
    if not is_partition(run.splits, n):
        result.why_no_out_of_fold = "they need folds that hold out each row once; pass cv=5, or another partition"
        return
    best, probabilities = np.empty(n, np.int64), None
    for i, split in enumerate(run.splits):
        outputs_of = partial(outputs, run.models[i, result.best_index_], data.features.select(split.held_out))
        best[split.held_out] = best_classes(outputs_of)
        if isinstance(run.estimators[0], SoftmaxClassifier):
            found = outputs_of("probabilities")
            probabilities = np.empty((n, len(data.classes)), found.dtype) if probabilities is None else probabilities
            probabilities[split.held_out] = found
    result.out_of_fold_ = data.classes[best], probabilities


def _do_without_last_fit(result: SweepResult, run: SweepRun) -> None:
    """Say that the fit to all rows is missing; use the model from the sweep if that was trained on all rows."""
    result.why_no_last_fit = "the best one's fit to all rows was not made"
    if run.models and all(split.train is None for split in run.splits):
        result.best_estimator_ = run.models[0, result.best_index_]
        result.why_no_last_fit += ", its model from the sweep is used"


def _refit(result: SweepResult, run: SweepRun, verbose: int) -> Any:
    """Fit the best candidate's estimator to all rows; L-BFGS starts from the mean of the folds' models."""
    best = result.best_index_
    estimator = run.estimator(best).set_params(verbose=verbose)
    models = [run.models[i, best] for i in range(result.n_splits_) if run.models]
    start = None
    if models and estimator.solver == "lbfgs":
        start = clone(models[0])
        start.classes_ = result.classes_
        start.coef_ = np.mean([model.coef_ for model in models], axis=0)
        start.intercept_ = np.mean([model.intercept_ for model in models], axis=0)
    problem = problem_of(estimator, replace(run.data, validation=None))
    warning = solve(estimator, problem, start_weights(start, problem), run.samples.get(best), run.checkpoint)
    if warning:
        warn_user(warning, ConvergenceWarning)
    return estimator.set_params(verbose=0)
