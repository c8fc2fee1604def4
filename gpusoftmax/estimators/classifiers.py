"""Estimators in scikit-learn's manner, thin over `fitting` and `trainer.train`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checks.parameters import LOSS_HINTS, RATES, SOLVERS, explained, hint, named_in_errors
from gpusoftmax.checks.validation import (
    check_batch_size,
    check_callbacks,
    check_choice,
    check_count,
    check_flag,
    check_learning_rate,
    check_number,
    check_verbose,
)
from gpusoftmax.estimators.fitting import (
    AllOrNothing,
    make_solver,
    make_stream_solver,
    set_fitted,
    start_stream,
    start_weights,
    stream_after,
)
from gpusoftmax.estimators.prediction import LinearPredictor, Probabilities, check_columns, record_columns, weights_of
from gpusoftmax.estimators.problem import C_from_l2, Problem, changed_for_sgd, far_from_zero, prepare
from gpusoftmax.features.dense import read_features
from gpusoftmax.losses import LOSSES
from gpusoftmax.progress import progress_display
from gpusoftmax.solvers.base import Solver, StopReason
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.sgd import SCHEDULES, SGD
from gpusoftmax.trainer import Callback, EarlyStopping, TrainResult, train

Array = npt.NDArray[Any]


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


class _LinearClassifier(LinearPredictor):
    """What the two estimators share."""

    _losses: tuple[str, ...]

    @explained
    def __init__(
        self,
        *,
        C: float | None = None,
        l2: float | None = None,
        loss: str = "softmax",
        fit_intercept: bool = True,
        penalize_intercept: bool = False,
        scaling: Any = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        solver: str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        momentum: float = 0.9,
        nesterov: bool = True,
        schedule: str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        backend: str | Backend = "auto",
        n_threads: int | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.l2 = l2
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.penalize_intercept = penalize_intercept
        self.scaling = scaling
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.schedule = schedule
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend
        self.n_threads = n_threads
        self.callbacks = callbacks
        self.verbose = verbose

    def _check_parameters(self) -> None:
        """Check the parameters of the constructor, which scikit-learn wants to be stored as they were passed."""
        check_choice("loss", self.loss, self._losses, hint(self.loss, LOSS_HINTS))
        if self.C is not None and self.l2 is not None:
            raise ValueError(
                f"C={self.C!r} and l2={self.l2!r} say the same thing twice; pass one: l2 = 1 / (C * n) for a mean loss "
                "over n rows"
            )
        if self.C is not None and (np.ndim(self.C) or self.C != math.inf):
            check_number("C", self.C, least=0, above=True, words="C must be greater than 0; math.inf means no penalty")
        if self.l2 is not None:
            check_number("l2", self.l2, least=0)
        for name in ("fit_intercept", "penalize_intercept", "nesterov", "warm_start"):
            check_flag(name, getattr(self, name))
        if self.penalize_intercept and not self.fit_intercept:
            raise ValueError("penalize_intercept=True needs fit_intercept=True: there is no intercept to penalise")
        check_number("label_smoothing", self.label_smoothing, least=0, most=1, below=True)
        if self.label_smoothing and not LOSSES[self.loss].gives_probabilities:
            raise ValueError(
                f"label_smoothing={self.label_smoothing!r} needs loss='softmax' (SoftmaxClassifier), since a margin "
                f"has one right class; leave it at 0 for loss={self.loss!r}"
            )
        check_choice("solver", self.solver, ("auto", "lbfgs", "sgd"), hint(self.solver, SOLVERS))
        if self.solver == "lbfgs":
            self._check_for_lbfgs()
        check_choice("schedule", self.schedule, ("auto", *SCHEDULES))
        check_count("max_iter", self.max_iter)
        check_number("tol", self.tol, least=0)
        check_batch_size(self.batch_size)
        check_learning_rate(self.learning_rate, hint(self.learning_rate, RATES))
        check_number("momentum", self.momentum, least=0, most=1, below=True)
        check_verbose(self.verbose)
        check_callbacks(self.callbacks)
        if isinstance(self.scaling, str):
            check_choice("scaling", self.scaling, ("standard",))
        elif self.scaling is not None and not (isinstance(self.scaling, tuple) and len(self.scaling) == 2):
            raise ValueError(f"scaling={self.scaling!r} is not known; pass None, 'standard' or a pair (shift, scale)")

    def _check_for_lbfgs(self) -> None:
        """What only SGD can do is refused, rather than ignored."""
        if not LOSSES[self.loss].has_curvature:
            raise ValueError(
                f"loss={self.loss!r} has no curvature, which solver='lbfgs' needs; use loss='squared_hinge', or "
                "solver='sgd'"
            )
        for name, default in changed_for_sgd(self).items():
            raise ValueError(
                f"{name}={getattr(self, name)!r} is for solver='sgd'; solver='lbfgs' reads all rows in each step and "
                f"finds its own steps: leave {name} at {default!r}"
            )

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
        X : array-like, (n, d)
            float64, float32, float16, bfloat16 and uint8 are read in place and never copied or scaled in memory. Data
            frames and tables of several types are converted in one copy, as are data sets of files (h5py, zarr).
        y : array-like, (n,) or (n, c)
            Labels of any type, of at least two classes. Or, for softmax, soft labels: each row's proportions of c
            classes, not negative, of sum 1 (within 0.001; they are divided by it). Classes are then 0 to c - 1, or the
            names of a data frame's columns, sorted. A soft label equals the row once for each class, with the
            proportion as its weight, and costs no pass more. `score` wants hard labels: y.argmax(axis=1).
        sample_weight : array-like, (n,), optional
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
        self._check_parameters()
        device = get_backend_for(self.backend, self.n_threads, X=X)
        with AllOrNothing(self), device.active():
            features = read_features(X, device)
            record_columns(self, X, features)
            problem = prepare(self, features, y, sample_weight, validation)
            if validation is not None:
                check_columns(self, validation[0], names_expected=False)
            if start_from is None and self.warm_start and hasattr(self, "coef_"):
                start_from = self
            missed = self._solve(problem, start_from)
        if missed:
            warnings.warn(missed, ConvergenceWarning, stacklevel=3)  # the user's line: named_in_errors is in between
        return self

    def _solve(self, problem: Problem, start_from: Any, sample: GramSample | None = None) -> str:
        """Train and write the fitted attributes; what is to be warned of, see `_missed`."""
        solver = make_solver(self, problem.objective, sample)
        callbacks: list[Callback] = list(self.callbacks)
        stops = any(isinstance(c, EarlyStopping) for c in callbacks)
        if problem.validation is not None and solver.open_ended and not stops:
            callbacks.append(EarlyStopping())
        result = train(
            problem.objective,
            solver,
            *start_weights(start_from, problem),
            validation=problem.validation,
            callbacks=callbacks,
            progress=progress_display() if self.verbose else None,
        )
        set_fitted(self, problem, result)
        return self._missed(result, solver, problem)

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
        X : array-like, (n, d)
            Some rows; a single one will do. As for `fit`.
        y : array-like, (n,)
            Labels, all of which have to be among the classes.
        classes : array-like, (c,), optional
            All labels that will ever come, in any order: for the first call. Default: those in y. Later calls, and the
            first after `fit`, go without, or pass the same.
        sample_weight : array-like, (n,), optional
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
        self._check_parameters()
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

    def _missed(self, result: TrainResult, solver: Solver, problem: Problem) -> str:
        """How far from tol training ended, and what helps; empty if it arrived, or was never to."""
        if self.tol == 0:
            return ""
        if isinstance(solver, SGD):
            if result.reason != StopReason.FINISHED or not solver.open_ended:
                return ""
            return (
                f"the training objective still fell by more than tol={self.tol:g} within the last "
                f"{solver.patience} of max_iter={self.max_iter} passes: increase max_iter or tol"
                + ", or set scaling='standard'"
                * (not isinstance(self.scaling, str))
            )
        if result.gradient_norm is None or result.reason not in (StopReason.FINISHED, StopReason.PRECISION):
            return ""
        advice = f"max_iter={self.max_iter} steps are taken: increase max_iter or tol"
        if result.reason == StopReason.PRECISION:
            dtype = np.dtype(problem.objective.features.dtype)
            helps = [] if dtype == np.float64 else ["pass X in float64"]
            if far := far_from_zero(problem):
                helps += [far]
            elif not isinstance(self.scaling, str):
                helps += ["set scaling='standard'"]
            advice = (
                f"rounding in {dtype.name} allows no further progress: "
                f"{', '.join([*helps, 'or pass a larger tol' if helps else 'pass a larger tol'])}"
            )
        return f"the largest entry of the gradient is {result.gradient_norm[0]:.2g}, not tol={self.tol:g} yet; {advice}"


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
        "auto" takes "sgd" where one of them is not at its default, and for loss "hinge", which has no curvature;
        else "lbfgs".
    max_iter : int
        Steps of L-BFGS at most, each of which moves the weights and takes a pass over the data or, now and then, some
        more; passes of SGD. With max_iter=1 and warm_start=True each fit makes one.
    tol : float
        L-BFGS stops when no entry of the gradient of the mean objective, in the coordinates of the scaled and, with a
        free intercept, centred features, is larger (scikit-learn's tol: the same, not centred).
        SGD stops when the training objective has not fallen by this much (nats) in 5 passes ("adaptive": in 15, after
        it has shortened the steps twice); with fewer than 4 steps a pass, in 20 steps (60). 0: never. The schedules
        "step" and "cosine" are planned over max_iter passes and take them all.
    batch_size : int, "auto" or "full"
        Rows a step. "auto": 256. More than there are rows: all rows.
    learning_rate : float or "auto"
        "auto": 1 / the largest curvature of the objective, found by power iteration on a sample of rows.
    momentum : float
        In [0, 1).
    nesterov : bool
    schedule : {"auto", "adaptive", "constant", "step", "cosine", "inverse"}
        Of the learning rate, see `solvers.SGD`. "auto": "adaptive".
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
    classes_ : ndarray, (c,)
    coef_ : ndarray, (c, d), or (1, d) for two classes
        Weights of the raw features.
    intercept_ : ndarray, (c,) or (1,)
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
    C, l2, fit_intercept, penalize_intercept, scaling, class_weight, solver, max_iter, tol, batch_size, learning_rate,
    momentum, nesterov, schedule, warm_start, random_state, backend, n_threads, callbacks, verbose
        As of `SoftmaxClassifier`, and so are the attributes.

    Notes
    -----
    Source: J. Weston and C. Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999.
    """

    _losses = ("squared_hinge", "hinge")

    @explained
    def __init__(
        self,
        *,
        C: float | None = None,
        l2: float | None = None,
        loss: str = "squared_hinge",
        fit_intercept: bool = True,
        penalize_intercept: bool = False,
        scaling: Any = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        solver: str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        momentum: float = 0.9,
        nesterov: bool = True,
        schedule: str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        backend: str | Backend = "auto",
        n_threads: int | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: int = 0,
    ) -> None:
        super().__init__(
            C=C,
            l2=l2,
            loss=loss,
            fit_intercept=fit_intercept,
            penalize_intercept=penalize_intercept,
            scaling=scaling,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            solver=solver,
            max_iter=max_iter,
            tol=tol,
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            schedule=schedule,
            warm_start=warm_start,
            random_state=random_state,
            backend=backend,
            n_threads=n_threads,
            callbacks=callbacks,
            verbose=verbose,
        )


Estimator = SoftmaxClassifier | LinearSVMClassifier
