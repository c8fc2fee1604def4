"""`SoftmaxClassifierCV`: chooses C by cross-validation; has the attributes of scikit-learn's LogisticRegressionCV."""

from __future__ import annotations

import numbers
import os
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.metrics import get_scorer
from sklearn.utils.validation import check_is_fitted

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checkpoints.checkpoint import EVERY
from gpusoftmax.checks.labels import check_labels
from gpusoftmax.checks.parameters import explained
from gpusoftmax.checks.scalars import check_count, check_flag
from gpusoftmax.estimators.classifiers import SoftmaxClassifier
from gpusoftmax.estimators.fitting import AllOrNothing
from gpusoftmax.estimators.prediction import Probabilities, on_host
from gpusoftmax.search.grid import AUTO
from gpusoftmax.search.result import SweepResult, choose
from gpusoftmax.search.scoring import make_scoring
from gpusoftmax.search.sweep import sweep

SHARED = (  # parameters that are passed on to every model
    *("fit_intercept", "penalize_intercept", "scaling", "class_weight", "label_smoothing"),
    *("max_iter", "tol", "random_state", "backend", "n_threads"),
)
SMALLEST, LARGEST = -4, 4  # powers of ten for C if only the number of values is given, as in scikit-learn


@explained
@dataclass(eq=False, repr=False)
class SoftmaxClassifierCV(Probabilities):
    """Multinomial logistic regression whose C is chosen by cross-validation, with all models in one `sweep`.

        min over W, b of  (1 / S) sum_i s_i (logsumexp(z_i) - z_{i, y_i}) + (l2 / 2) ||W||^2,    z_i = x'_i W + b

    with l2 = 1 / (C S), for two classes 2 / (C S), S the sum of the weights of a fold's training rows.

    Parameters
    ----------
    Cs : int, sequence of float, or "auto"
        Values of C, or how many values from 1e-4 to 1e4, with equal ratios. "auto": the values are found; see `sweep`.
    fit_intercept : bool
        See `SoftmaxClassifier`, also for the parameters that follow.
    penalize_intercept : bool
    scaling : None, "standard" or (shift, scale)
    class_weight : dict, "balanced", optional
        "balanced" counts the training rows of each fold.
    label_smoothing : float
    max_iter : int
    tol : float
    random_state : int, RandomState, optional
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
    cv : int, splitter or iterable of (training, held out), optional
        See `sweep`. None means 5 folds, stratified, not shuffled.
    scoring : str or callable
        See `sweep`. None means "accuracy", the default.
    refit : bool
        True: fit to all rows with the C whose mean score is best. False: coefficients, intercepts and C are means over
        the folds, each with its own best C.
    rule : {"best", "1se"}
        "1se" chooses the strongest penalty whose mean score is within one standard error of the best.
    verbose : int
        1 shows progress on standard error.

    Attributes
    ----------
    classes_, coef_, intercept_, n_features_in_, feature_names_in_
        See `SoftmaxClassifier`.
    Cs_ : ndarray of shape (n_Cs,)
        The values of C that were tried; with "auto" they are sorted.
    C_ : float
        The chosen C.
    scores_ : ndarray of shape (n_folds, 1, n_Cs)
        Scores on the held-out rows; larger is better. The axis of length 1 is scikit-learn's axis of l1 ratios.
    coefs_paths_ : ndarray of shape (n_folds, 1, n_Cs, c, d + 1), or (n_folds, 1, n_Cs, 1, d + 1) for two classes
        Weights of the raw features, with the intercept last; (..., d) without an intercept.
    n_iter_ : ndarray of int, shape (n_folds, 1, n_Cs)
        Steps of each model; 0 if its starting point on the path of penalties was already within tol.
    l1_ratio_ : float
        0.0, for programs that read it.
    l1_ratios_ : list of float
        [0.0], for programs that read it.
    sweep_ : SweepResult
        The whole result: table, ties, edges of the grid, out-of-fold predictions, plot().

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SoftmaxClassifierCV(Cs=[0.01, 0.1, 1.0], cv=3).fit(X / 16, y)
    >>> model.C_, model.scores_.shape
    (0.1, (3, 1, 3))
    """

    Cs: int | Sequence[float] | str = 10
    _: KW_ONLY
    fit_intercept: bool = True
    penalize_intercept: bool = False
    scaling: Any = None
    class_weight: Any = None
    label_smoothing: float = 0.0
    cv: Any = None
    scoring: Any = "accuracy"
    refit: bool = True
    rule: str = "best"
    max_iter: int = 1000
    tol: float = 1e-4
    random_state: Any = None
    backend: str | Backend = "auto"
    n_threads: int | None = None
    verbose: int = 0

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = EVERY,
    ) -> Self:
        """Fit all models, choose C, and fit to all rows with it.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,) or (n, c)
            Labels, or proportions of the classes; see `SoftmaxClassifier.fit`.
        sample_weight : array-like of shape (n,), optional
            Not negative; weight k is equivalent to k copies of the row, also among held-out rows.
        groups : array-like of shape (n,), optional
            Passed on to the splitter, if it uses groups.
        checkpoint : str or os.PathLike, optional
            A file from which an interrupted run continues; see `sweep`.
        checkpoint_every : float
            Seconds between two checkpoints.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter or the data cannot be used; the message names it and the fix.
        BadFileError, OSError, SystemExit
            See `sweep`; with a checkpoint only.
        """
        if not check_flag("refit", self.refit) and self.rule == "1se":
            raise ValueError("rule='1se' needs refit=True: with refit=False each fold has its own best C")
        Cs = self._values()
        estimator = SoftmaxClassifier(solver="lbfgs", **{name: getattr(self, name) for name in SHARED})
        result = sweep(
            estimator, {"C": Cs}, X, y, cv=self.cv, scoring=self._scoring(), refit=self.refit, rule=self.rule,
            sample_weight=sample_weight, groups=groups, verbose=self.verbose,
            checkpoint=checkpoint, checkpoint_every=checkpoint_every,
        )  # fmt: skip
        done = np.flatnonzero(~np.isnan(result.mean_scores_)).tolist()
        if result.interrupted_:
            of_all = "" if Cs == AUTO else f" of {len(Cs)}"
            message = f"interrupted: C_ is the best of the {len(done)}{of_all} values that were done, Cs_"
            if getattr(result.best_estimator_, "stop_reason_", "") == "interrupted":
                message += "; the last fit, to all rows, was not completed"
            if result.why_no_last_fit:
                message += (
                    "; the last fit, to all rows, was not made: coef_ and intercept_ are means of the folds' models"
                )
            warnings.warn(message, stacklevel=2)
        scores = result.trials.score[:, done]
        folds = [[result.models_[i, k] for k in done] for i in range(result.n_splits_)]
        with AllOrNothing(self):
            self.sweep_, self.Cs_ = result, np.array([result.candidates[k]["C"] for k in done])
            self.l1_ratio_, self.l1_ratios_ = 0.0, np.zeros(1)
            self.scores_ = scores[:, None, :]
            self.n_iter_ = np.array([[[model.n_iter_ for model in fold]] for fold in folds])
            self.coefs_paths_ = np.array([[[self._path_entry(model) for model in fold]] for fold in folds])
            best_of = [done.index(result.best_index_)] * len(folds)
            if not self.refit:
                best_of = [choose(own[None], -self.Cs_, 0 * self.Cs_, "best")[0] for own in scores]
            chosen = [fold[k] for fold, k in zip(folds, best_of, strict=True)]
            self.C_ = float(result.best_params_["C"]) if self.refit else float(np.mean([model.C for model in chosen]))
            models = chosen if result.best_estimator_ is None else [result.best_estimator_]
            self.coef_ = np.mean([model.coef_ for model in models], axis=0)
            self.intercept_ = np.mean([model.intercept_ for model in models], axis=0)
            self.classes_, self.n_features_in_ = result.classes_, folds[0][0].n_features_in_
            if hasattr(self, "feature_names_in_"):  # left by an earlier fit
                del self.__dict__["feature_names_in_"]
            if hasattr(folds[0][0], "feature_names_in_"):
                self.feature_names_in_ = folds[0][0].feature_names_in_
        return self

    def _values(self) -> list[float] | str:
        Cs: Any = self.Cs
        if isinstance(Cs, str) and Cs == AUTO:
            return AUTO
        if isinstance(Cs, numbers.Integral):
            return np.logspace(SMALLEST, LARGEST, check_count("Cs", Cs)).tolist()
        if isinstance(Cs, str) or not hasattr(Cs, "__len__"):
            raise TypeError(f"Cs={Cs!r} is a {type(Cs).__name__}; pass a list of values, how many, or 'auto'")
        return [float(C) for C in Cs]

    def _scoring(self) -> Any:
        return "accuracy" if self.scoring is None else self.scoring

    def _path_entry(self, model: Any) -> Array:
        entry: Array = np.column_stack([model.coef_, model.intercept_]) if self.fit_intercept else model.coef_
        return entry

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the score that `scoring` names on these data.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
            Labels.
        sample_weight : array-like of shape (n,), optional
            Not negative.

        Returns
        -------
        float
            Larger is better: losses are negated.
        """
        check_is_fitted(self)
        scoring = self._scoring()
        name = {"log_loss": "neg_log_loss", "loss": "neg_log_loss"}.get(str(scoring), scoring)
        scorer = make_scoring(name if callable(name) else get_scorer(name), softmax=True).with_classes(self.classes_)
        assert scorer.function is not None
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(scorer.function(self, on_host(X), check_labels(on_host(y), "y"), **weights))

    def to_sklearn(self) -> Any:
        """Convert the chosen model to scikit-learn's LogisticRegression; see `SoftmaxClassifier.to_sklearn`.

        Returns
        -------
        sklearn.linear_model.LogisticRegression
            Fitted.

        Raises
        ------
        ValueError
            There is no single C: refit=False averages several models, or the weights were set by hand.
        """
        check_is_fitted(self)
        if not self.refit:
            raise ValueError("refit=False: the mean of the folds' models is no LogisticRegression; use refit=True")
        if hasattr(self, "sweep_") and self.sweep_.best_estimator_ is None:
            raise ValueError("Ctrl-C came before the fit to all rows, and the mean of the folds' models is no optimum")
        if not hasattr(self, "sweep_"):
            raise ValueError("weights that were set by hand have no chosen C; set them on a SoftmaxClassifier instead")
        return self.sweep_.best_estimator_.to_sklearn()

    def plot(self, ax: Any = None) -> Any:
        """Plot the mean scores over C; see `SweepResult.plot`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on. Default: the axes of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        check_is_fitted(self)
        sweep_result: SweepResult = self.sweep_
        return sweep_result.plot(ax)
