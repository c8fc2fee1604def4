"""Estimators in scikit-learn's manner, thin over `fitting` and `trainer.train`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checks.parameters import explained, named_in_errors
from gpusoftmax.estimators.fitting import (
    AllOrNothing,
    make_stream_solver,
    set_fitted,
    start_stream,
    start_weights,
    stream_after,
)
from gpusoftmax.estimators.parameters import check_parameters
from gpusoftmax.estimators.prediction import LinearPredictor, Probabilities, check_columns, record_columns, weights_of
from gpusoftmax.estimators.problem import C_from_l2, prepare
from gpusoftmax.estimators.solver_choice import without_old_defaults
from gpusoftmax.estimators.solving import solve
from gpusoftmax.features.dense import read_features
from gpusoftmax.progress import progress_display
from gpusoftmax.trainer import Callback, train


def _learns_from_streams(estimator: Any) -> bool:
    """Whether there is a partial_fit: as in scikit-learn it is missing where the solver needs all rows."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "solver='lbfgs' needs all rows at once, and partial_fit makes steps of SGD; use solver='auto' or 'sgd'"
        )
    return True


Method = TypeVar("Method")


def _available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """scikit-learn's available_if, typed: a method behind it would be anything to a type checker."""
    return available_if(check)


@explained
@dataclass(kw_only=True, eq=False, repr=False)
class _LinearClassifier(LinearPredictor):
    """What the two estimators share. Parameters are stored as they are passed, as scikit-learn wants it."""

    _losses: ClassVar[tuple[str, ...]]

    C: float | None = None
    l2: float | None = None
    loss: str = "softmax"
    fit_intercept: bool = True
    penalize_intercept: bool = False
    scaling: Any = None
    class_weight: Any = None
    label_smoothing: float = 0.0
    solver: str = "auto"
    max_iter: int = 1000
    tol: float = 1e-4
    batch_size: int | str | None = None
    learning_rate: float | str | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    schedule: str | None = None
    warm_start: bool = False
    random_state: Any = None
    backend: str | Backend = "auto"
    n_threads: int | None = None
    callbacks: Sequence[Callback] = ()
    verbose: int = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled estimator; 0.1.0 pickled the defaults of SGD where None stands today."""
        state = dict(state)
        old = state.pop("_none_for_defaults", None) is None
        super().__setstate__(without_old_defaults(state) if old else state)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, with a mark that tells it from what 0.1.0 pickled."""
        return {**super().__getstate__(), "_none_for_defaults": True}

    @named_in_errors
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        start_from: Any = None,
    ) -> Self:
        """Fit to data.

        Parameters
        ----------
        X : array-like of shape (n, d)
            float64, float32, float16, bfloat16 and uint8 are read in place and never copied or scaled in memory. Data
            frames and tables of several types are converted in one copy, as are data sets of files (h5py, zarr).
        y : array-like of shape (n,) or (n, c)
            Labels of any type, of at least two classes. Or, for softmax, soft labels: each row's proportions of c
            classes, not negative, of sum 1 (within 0.001; they are divided by it). Classes are then 0 to c - 1, or the
            names of a data frame's columns, sorted. A soft label equals the row once for each class, with the
            proportion as its weight, and costs no pass more. `score` wants hard labels: y.argmax(axis=1).
        sample_weight : array-like of shape (n,), optional
            Not negative; weight k equals the row k times. Rows of weight 0 are not visited: what they hold does not
            matter, as long as it is finite.
        validation : (X, y), optional
            Data of the user's own, measured after each pass; y hard or soft, with a column for each of `classes_`. The
            weights with the smallest loss on it are kept, and training stops early, once that loss has not fallen for
            10 passes (pass an `EarlyStopping` in `callbacks` to change that; the schedules "step" and "cosine", which
            are planned over max_iter, run to their end). L-BFGS, whose passes are few, runs to its end unless an
            `EarlyStopping` is passed. A pipeline does not transform it: pass X as this estimator sees it.
        start_from : fitted classifier, optional
            Training starts from its coef_ and intercept_, such as those of a neighbouring C, which saves passes. Any
            linear classifier with scikit-learn's attributes and one row of weights per class (one in all for two
            classes); same classes, same features. Default: from zero, or with warm_start=True from the model as it is.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter or the data is not usable; the message names it and the fix. The model stays as it was.
        DivergenceError
            The learning rate is too large; says what to change. The model stays as it was.
        """
        check_parameters(self)
        device = get_backend_for(self.backend, self.n_threads, X=X)
        with AllOrNothing(self), device.active():
            features = read_features(X, device)
            record_columns(self, X, features)
            problem = prepare(self, features, y, sample_weight, validation)
            if validation is not None:
                check_columns(self, validation[0], names_expected=False)
            if start_from is None and self.warm_start and hasattr(self, "coef_"):
                start_from = self
            missed = solve(self, problem, start_from)
        if missed:
            warnings.warn(missed, ConvergenceWarning, stacklevel=3)  # the user's line: named_in_errors is in between
        return self

    @_available_if(_learns_from_streams)
    @named_in_errors
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go on from the weights as they are: one pass of minibatch SGD over these rows.

            v <- momentum v + g,    W <- W - lr (g + momentum v)        (Nesterov)

        with g the gradient of the objective as `fit` has it, S and the mean weight being those of all rows given so
        far, those of an earlier `fit` included. Between calls the velocity goes on, and with learning_rate="auto" the
        coordinates follow the mean and variance of the rows so far; the rate is found anew once their number has
        doubled. schedule="auto" is "constant" here, and with "inverse" the rate of the t-th call is divided by t.
        max_iter, tol and warm_start have no part in it.

        With C the penalty l2 = 1 / (C S) falls as S grows, as it should for new rows. Where the same rows come several
        times, pass l2 = 1 / (C n).

        Parameters
        ----------
        X : array-like of shape (n, d)
            Some rows; a single one will do. As for `fit`.
        y : array-like of shape (n,)
            Labels, all of which have to be among the classes.
        classes : array-like of shape (c,), optional
            All labels that will ever come, in any order: for the first call. Default: those in y. Later calls, and the
            first after `fit`, go without, or pass the same.
        sample_weight : array-like of shape (n,), optional
            Not negative.

        Returns
        -------
        self
            history_, n_iter_ and fit_report_ are of this call alone, with losses and accuracies relative to the mean
            weight of a row so far.

        Raises
        ------
        ValueError, TypeError
            Other classes than in the first call, a label or a number of features that is unknown;
            scaling="standard", class_weight="balanced" or a planned schedule, which need all rows at once; or as in
            `fit`. The model stays as it was.
        AttributeError
            solver="lbfgs".
        DivergenceError
            The learning rate is too large; says what to change. The model stays as it was.
        """
        check_parameters(self)
        first, stream = not hasattr(self, "coef_"), start_stream(self, classes)
        device = get_backend_for(self.backend, self.n_threads, X=X)
        with AllOrNothing(self), device.active():
            features = read_features(X, device)
            record_columns(self, X, features, first)
            problem = prepare(self, features, y, sample_weight, None, stream)
            solver = make_stream_solver(self, problem)
            result = train(
                problem.objective,
                solver,
                *start_weights(None if first else self, problem),
                callbacks=list(self.callbacks),
                progress=progress_display() if self.verbose else None,
            )
            set_fitted(self, problem, result)
            self._stream = stream_after(self, problem, solver)
        return self


class SoftmaxClassifier(Probabilities, _LinearClassifier):
    """Multinomial logistic regression: softmax cross-entropy of linear scores, with an L2 penalty.

        min over W, b of  (1 / S) sum_i s_i (logsumexp(z_i) - z_{i, y_i}) + (l2 / 2) ||W||^2,    z_i = x'_i W + b

    where x' = (x - shift) / scale, s_i is the product of sample and class weight, and S their sum. By default this is
    scikit-learn's LogisticRegression: C = 1, no scaling, the intercept not penalised, one coefficient vector for two
    classes. With soft labels p_i, which `fit` takes, or smoothed ones sum_j p_ij z_ij stands in place of z_{i, y_i}.

    Parameters
    ----------
    C, l2 : float, optional
        Inverse strength of the penalty on a sum of losses as in scikit-learn, or its strength on the mean loss:
        l2 = 1 / (C S), for two classes l2 = 2 / (C S). Neither: C = 1. Both: an error.
    loss : {"softmax"}
    fit_intercept : bool
    penalize_intercept : bool
        The intercept is part of ||W||, as with a column of ones in X.
    scaling : None, "standard" or (shift, scale)
        Features are seen as (x - shift) / scale: with "standard", their mean and standard deviation on the training
        rows. X itself is not changed, and the penalty acts on the weights of the scaled features. Columns whose
        deviation is within the rounding of their mean are constant, and have weight 0.
    class_weight : dict, "balanced", optional
        Multiplies sample_weight, as in scikit-learn. Of a soft label each class has its own weight, as if it were a
        row of its own.
    label_smoothing : float
        In [0, 1): a row counts as 1 - label_smoothing of its label and label_smoothing / c of each class, after class
        weights; validation data are not smoothed.
    solver : {"auto", "lbfgs", "sgd"}
        "lbfgs" goes to the optimum of the full batch, in ten to a hundred passes, see `solvers.LBFGS`; "sgd" takes
        minibatches and stops near it. batch_size, learning_rate, momentum, nesterov and schedule are SGD's alone:
        "auto" takes "sgd" where one of them is set, whatever to, and for loss "hinge", which has no curvature; else
        "lbfgs". `fit_report_` says which it took, and why.
    max_iter : int
        Steps of L-BFGS at most, each of which moves the weights and takes a pass over the data or, now and then, some
        more; passes of SGD. With max_iter=1 and warm_start=True each fit makes one.
    tol : float
        L-BFGS stops when no entry of the gradient of the mean objective, in the coordinates of the scaled and, with a
        free intercept, centred features, is larger (scikit-learn's tol: the same, not centred).
        SGD stops when the training objective has not fallen by this much (nats) in 5 passes ("adaptive": in 15, after
        it has shortened the steps twice); with fewer than 4 steps a pass, in 20 steps (60). 0: never. The schedules
        "step" and "cosine" are planned over max_iter passes and take them all.
    batch_size : int, "auto" or "full", optional
        For SGD: rows per step. "auto", the default, is 256. More than there are rows: all rows.
    learning_rate : float or "auto", optional
        For SGD. "auto", the default: 1 / the largest curvature of the objective, found by power iteration on a sample
        of rows.
    momentum : float, optional
        For SGD, in [0, 1). Default: 0.9.
    nesterov : bool, optional
        For SGD: look ahead along the velocity. Default: True.
    schedule : {"auto", "adaptive", "constant", "step", "cosine", "inverse"}, optional
        For SGD: how the learning rate changes, see `solvers.SGD`. "auto", the default, is "adaptive".
    warm_start : bool
        Fitting again starts from the weights that the model has, which have to be of the same classes and features.
    random_state : int, RandomState, optional
        Of the order of the rows, and of samples. None: 0, so that two runs are equal.
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
        CPU threads; the result has the same bits for any number. Default: as of `get_backend`.
    callbacks : sequence
        Functions that are called with a `Record` after each pass and stop training by returning True; or
        `EarlyStopping`.
    verbose : int
        1 shows progress on the standard error.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
    coef_ : ndarray of shape (c, d), or (1, d) for two classes
        Weights of the raw features.
    intercept_ : ndarray of shape (c,) or (1,)
        Centred over the classes where the objective leaves that open.
    n_iter_ : int
        Steps that L-BFGS took, 0 from a start that is within tol; passes of SGD. fit_report_.passes counts all reads of
        the data.
    loss_curve_ : list of float
        Training objective, pass by pass.
    history_ : list of Record
    stop_reason_ : str
        See `trainer.TrainResult`.
    weight_sum_ : float
        S, the sum of the weights of the rows.
    fit_report_ : FitReport
        How the fit ended: reads, gradient, and for L-BFGS a bound on how far the objective is above its optimum.
    backend_ : str
        Who computed, and why.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxClassifier(scaling="standard", max_iter=200, tol=1e-3).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    _losses = ("softmax",)

    def to_sklearn(self) -> Any:
        """This model as scikit-learn's, for who does not have gpusoftmax: equal scores, probabilities and predictions.

        Returns
        -------
        sklearn.linear_model.LogisticRegression
            Fitted: classes_, coef_ (c, d) or (1, d), intercept_, n_iter_ and the features' names are copies of ours. Of
            the parameters it has those that both know: fit_intercept, class_weight, max_iter, tol, warm_start,
            random_state, verbose, and C, which for l2 is 1 / (l2 S), for two classes 2 / (l2 S), and infinite without
            a penalty. Its fit comes to our minimum, except where scaling or penalize_intercept were set: it has no
            counterpart for them, and fits another model. Predictions do not depend on that: coef_ is of raw features.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError
            The model was given l2, and comes from a file that does not hold S.
        """
        from sklearn.linear_model import LogisticRegression

        check_is_fitted(self)
        classes, coef, intercept = weights_of(self)
        C = 1.0 if self.C is None else self.C
        if self.l2 is not None:
            if not hasattr(self, "weight_sum_") and self.l2 > 0:
                raise ValueError(
                    f"l2={self.l2!r} has no known C = 1 / (l2 S): the model comes from a file that does not hold S; "
                    "fit it again, or set weight_sum_ to the sum of the weights of the rows"
                )
            C = C_from_l2(self.l2, getattr(self, "weight_sum_", 1.0), len(classes))
        parameters = ("fit_intercept", "class_weight", "max_iter", "tol", "warm_start", "random_state", "verbose")
        model = LogisticRegression(C=C, **{name: getattr(self, name) for name in parameters})
        model.classes_, model.coef_, model.intercept_ = classes.copy(), coef.copy(), intercept.copy()
        model.n_features_in_ = coef.shape[1]
        if hasattr(self, "feature_names_in_"):
            model.feature_names_in_ = self.feature_names_in_.copy()
        if hasattr(self, "n_iter_"):
            model.n_iter_ = np.array([self.n_iter_], np.int32)
        return model


@explained
@dataclass(kw_only=True, eq=False, repr=False)
class LinearSVMClassifier(_LinearClassifier):
    """Linear multiclass support vector machine after Weston and Watkins, with an L2 penalty.

        min over W, b of  (1 / S) sum_i s_i sum_{j != y_i} max(0, z_ij - z_{i, y_i} + 1)^p + (l2 / 2) ||W||^2

    with p = 2 for loss "squared_hinge" and 1 for "hinge"; otherwise as `SoftmaxClassifier`. It has no predict_proba:
    its scores are not probabilities; and no to_sklearn: the losses of LinearSVC are others, one class against the rest,
    or Crammer and Singer's.

    Parameters
    ----------
    loss : {"squared_hinge", "hinge"}
        The plain hinge has no curvature from which steps could be found: "auto" takes solver="sgd" for it.
    label_smoothing : float
        0: a margin has one right class.
    C, l2 : float, optional
        See `SoftmaxClassifier` for these and the parameters that follow, and for the attributes.
    fit_intercept : bool
    penalize_intercept : bool
    scaling : None, "standard" or (shift, scale)
    class_weight : dict, "balanced", optional
    solver : {"auto", "lbfgs", "sgd"}
    max_iter : int
    tol : float
    batch_size : int, "auto" or "full"
    learning_rate : float or "auto"
    momentum : float
    nesterov : bool
    schedule : {"auto", "adaptive", "constant", "step", "cosine", "inverse"}
    warm_start : bool
    random_state : int, RandomState, optional
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
    callbacks : sequence
    verbose : int

    Notes
    -----
    Source: J. Weston and C. Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999.
    """

    _losses = ("squared_hinge", "hinge")
    loss: str = "squared_hinge"


Estimator = SoftmaxClassifier | LinearSVMClassifier
