"""The two classifiers, with scikit-learn's API; `fitting` and `trainer.train` do the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checkpoints.checkpoint import EVERY, check_checkpoint, keeping
from gpusoftmax.checks.parameters import explained, named_in_errors
from gpusoftmax.cluster.placing import frame_or_array, place
from gpusoftmax.estimators.fitting import (
    AllOrNothing,
    make_stream_solver,
    set_fitted,
    start_stream,
    start_weights,
    stream_after,
)
from gpusoftmax.estimators.parameters import check_parameters
from gpusoftmax.estimators.prediction import (
    LinearPredictor,
    Probabilities,
    check_columns,
    record_columns,
    weights_of,
    with_all_classes,
)
from gpusoftmax.estimators.problem import C_from_l2, prepare
from gpusoftmax.estimators.resuming import checkpoint_of_fit
from gpusoftmax.estimators.solver_choice import SolverChoice, without_old_defaults
from gpusoftmax.estimators.solving import solve
from gpusoftmax.features.read import read_features
from gpusoftmax.progress import progress_display
from gpusoftmax.trainer import Callback, train


def _learns_from_streams(estimator: Any) -> bool:
    """Whether partial_fit exists: as in scikit-learn, the method is missing if the solver needs all rows."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "solver='lbfgs' needs all rows at once, and partial_fit makes steps of SGD; use solver='auto' or 'sgd'"
        )
    return True


Method = TypeVar("Method")


def _available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """scikit-learn's available_if with types: without them a type checker sees the method as Any."""
    return available_if(check)


@explained
@dataclass(kw_only=True, eq=False, repr=False)
class _LinearClassifier(LinearPredictor):
    """Code that both classifiers share. The constructor stores parameters as passed, as scikit-learn requires."""

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
        """Restore a pickled estimator; 0.1.0 pickled SGD's default values where there is None today."""
        state = dict(state)
        old = state.pop("_none_for_defaults", None) is None
        super().__setstate__(without_old_defaults(state) if old else state)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with a mark that distinguishes it from a pickle of 0.1.0."""
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
        client: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = EVERY,
    ) -> Self:
        """Fit the model to data.

        Parameters
        ----------
        X : array-like or sparse matrix, (n, d)
            float64, float32, float16, bfloat16 and uint8 are read in place and never copied or scaled in memory. Data
            frames and tables with several column types are copied and converted once, as are data sets in files (h5py,
            zarr). SciPy's sparse matrices and arrays, and data frames of sparse columns, are never made dense: they
            are stored by rows, in place if they are canonical CSR of float64, float32, uint8 or bool, and in a copy by
            columns.
        y : array-like, (n,) or (n, c)
            Labels of any type, with at least two classes. For softmax also soft labels: for each row the proportions of
            c classes, not negative, with sum 1 (within 0.001; they are divided by their sum). The classes are then 0 to
            c - 1, or the sorted column names of a data frame. A soft label is equivalent to one copy of the row for
            each class, with the proportion as its weight, and needs no additional pass. `score` needs hard labels:
            y.argmax(axis=1).
        sample_weight : array-like, (n,), optional
            Not negative; weight k is equivalent to k copies of the row. Rows with weight 0 are skipped: their values
            must be finite, but do not matter otherwise.
        validation : (X, y), optional
            Validation data, measured after each pass; y is hard or soft, with a column for each of `classes_`. The
            weights with the smallest validation loss are kept, and training stops early once that loss has not fallen
            for 10 passes (pass an `EarlyStopping` in `callbacks` to change that; the schedules "step" and "cosine",
            which are planned over max_iter, run to their end). L-BFGS needs few passes, so it stops early only if an
            `EarlyStopping` is passed. A pipeline does not transform these data: pass X as this estimator sees it.
        start_from : fitted classifier, optional
            Training starts from its coef_ and intercept_; a model fitted with a similar C saves passes. This can be any
            linear classifier with scikit-learn's attributes and one row of weights per class (a single row for two
            classes), for the same classes and features. Default: zeros, or with warm_start=True the current model.
        client : distributed.Client, optional
            The Dask cluster that computes, if X is on one: a dask array or data frame, a list of futures of arrays, or
            files that all workers can read. Default: the current client for Dask's collections and futures. y and
            sample_weight may be Dask's, too; they are collected here. Only L-BFGS runs on a cluster. With
            backend="cuda" the workers compute on their GPUs, one process for each, and this process needs none; with
            "auto" on their CPUs, and then the result has the bits of a fit in memory.
        checkpoint : str or os.PathLike, optional
            A file for the state of the training. If it is there, training continues from it, and gives the same bits
            as without the interruption; a finished one gives its result at once. The last two are kept:
            "run.ckpt" and "run.ckpt.previous". Callbacks are not called again for passes that were made before.
        checkpoint_every : float
            Seconds between two checkpoints. There is also one at the end, after Ctrl-C, and on SIGTERM.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            A parameter or the data cannot be used; the message names it and the fix. The model is left unchanged. Or
            the checkpoint belongs to another run: the message says what differs.
        DivergenceError
            The learning rate is too large; the message says what to change. The model is left unchanged.
        ClusterError
            The cluster has no workers, or rows cannot be loaded or computed with, or a worker has no GPU; the message
            names them. The model is left unchanged.
        BadFileError
            The checkpoint is damaged, and so is the one before.
        OSError
            The checkpoint cannot be written or read. One that was there is intact.
        SystemExit
            SIGTERM was received during a fit with a checkpoint, which is written first. The exit status is 143. This
            happens in the main thread, and if SIGTERM has no handler of the program's own.
        """
        check_parameters(self)
        path, seconds = check_checkpoint(checkpoint, checkpoint_every)
        placed = place(X, y, sample_weight, validation, client, self.backend, self.n_threads)
        with AllOrNothing(self), placed.backend.active():
            features = read_features(placed.rows, placed.backend)
            record_columns(self, frame_or_array(X), features)
            problem = prepare(self, features, placed.y, placed.sample_weight, placed.validation)
            if validation is not None:
                check_columns(self, frame_or_array(validation[0]), names_expected=False)
            if start_from is None and self.warm_start and hasattr(self, "coef_"):
                start_from = self
            start = start_weights(start_from, problem)
            kept = checkpoint_of_fit(self, problem, start, path, seconds)
            with keeping(kept):
                warning = solve(self, problem, start, checkpoint=kept)
        if warning:
            # stacklevel 3 is the user's line, because named_in_errors is in between
            warnings.warn(warning, ConvergenceWarning, stacklevel=3)
        return self

    def to_torch(self) -> Any:
        """Convert the model to a layer of PyTorch that computes its scores from raw features.

        Returns
        -------
        torch.nn.Linear
            From d features to c scores, on the CPU, in the type of coef_. The argmax of the scores is the position of
            the predicted label in classes_; for a SoftmaxClassifier, their softmax gives the probabilities. With two
            classes, the score of the first is 0. Shift and scale of the training are part of weight and bias.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ImportError
            PyTorch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise ImportError(f"to_torch needs PyTorch ({error}); pip install torch") from error
        coef, intercept = with_all_classes(*weights_of(self)[1:])
        weight = torch.tensor(coef)
        layer = torch.nn.Linear(*weight.shape[::-1], dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(torch.tensor(intercept))
        return layer

    @_available_if(_learns_from_streams)
    @named_in_errors
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Continue training from the current weights: one pass of minibatch SGD over these rows.

            v <- momentum v + g,    W <- W - lr (g + momentum v)        (Nesterov)

        with g the gradient of the objective of `fit`, where S and the mean weight are those of all rows so far,
        including the rows of an earlier `fit`. The velocity is kept between calls. With learning_rate="auto" the
        coordinates follow the mean and variance of the rows so far, and the rate is determined again once their number
        has doubled. schedule="auto" means "constant" here; with "inverse" the rate of the t-th call is divided by t.
        max_iter, tol and warm_start are not used.

        With C the penalty l2 = 1 / (C S) falls as S grows, as it should for new rows. If the same n rows are passed
        several times, set l2 = 1 / (C n) instead.

        Parameters
        ----------
        X : array-like, (n, d)
            Any number of rows, even a single one, in any form that `fit` accepts.
        y : array-like, (n,)
            Labels, all of which must be among the classes.
        classes : array-like, (c,), optional
            All labels that will ever occur, in any order; used in the first call. Default: the labels in y. Later
            calls, and the first call after `fit`, omit it or pass the same classes.
        sample_weight : array-like, (n,), optional
            Not negative.

        Returns
        -------
        self
            history_, n_iter_ and fit_report_ describe this call only; losses and accuracies are relative to the mean
            weight of the rows so far.

        Raises
        ------
        ValueError, TypeError
            The classes differ from those of the first call; a label is unknown; the number of features has changed;
            scaling="standard", class_weight="balanced" or a planned schedule is set, which need all rows at once; or as
            for `fit`. The model is left unchanged.
        AttributeError
            solver="lbfgs" is set.
        DivergenceError
            The learning rate is too large; the message says what to change. The model is left unchanged.
        """
        check_parameters(self)
        first, stream = not hasattr(self, "coef_"), start_stream(self, classes)
        backend = get_backend_for(self.backend, self.n_threads, X=X)
        with AllOrNothing(self), backend.active():
            features = read_features(X, backend)
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
            set_fitted(self, problem, result, SolverChoice("sgd", "partial_fit takes steps of SGD"))
            self._stream = stream_after(self, problem, solver)
        return self


class SoftmaxClassifier(Probabilities, _LinearClassifier):
    """Multinomial logistic regression: softmax cross-entropy of linear scores, with an L2 penalty.

        min over W, b of  (1 / S) sum_i s_i (logsumexp(z_i) - z_{i, y_i}) + (l2 / 2) ||W||^2,    z_i = x'_i W + b

    where x' = (x - shift) / scale, s_i is the product of sample and class weight, and S their sum. By default this is
    scikit-learn's LogisticRegression: C = 1, no scaling, the intercept not penalised, one coefficient vector for two
    classes. With soft labels p_i, which `fit` accepts, or smoothed labels, sum_j p_ij z_ij replaces z_{i, y_i}.

    Parameters
    ----------
    C, l2 : float, optional
        Inverse strength of the penalty on a sum of losses, as in scikit-learn, or its strength on the mean loss:
        l2 = 1 / (C S), for two classes l2 = 2 / (C S). Default: C = 1. Passing both is an error.
    loss : {"softmax"}
    fit_intercept : bool
    penalize_intercept : bool
        Include the intercept in ||W||, as if X had a column of ones.
    scaling : None, "standard" or (shift, scale)
        Train on (x - shift) / scale; "standard" uses the mean and standard deviation of the training rows. X itself is
        not changed, and the penalty acts on the weights of the scaled features. Columns whose standard deviation is
        within the rounding error of their mean count as constant, and get weight 0.
    class_weight : dict, "balanced", optional
        Multiplies sample_weight, as in scikit-learn. A soft label counts as one row for each of its classes, each with
        the weight of that class.
    label_smoothing : float
        In [0, 1). A row counts as 1 - label_smoothing of its label and label_smoothing / c of each class, after class
        weights. Validation labels are not smoothed.
    solver : {"auto", "lbfgs", "sgd"}
        "lbfgs" finds the optimum of the full batch, in ten to a hundred passes, see `solvers.LBFGS`; "sgd" uses
        minibatches and stops near the optimum. batch_size, learning_rate, momentum, nesterov and schedule apply to SGD
        only: "auto" means "sgd" if one of them is set, to whatever value, or if the loss is "hinge", which has no
        curvature; otherwise "lbfgs". `fit_report_` says which one was used, and why.
    max_iter : int
        The largest number of steps of L-BFGS, each of which takes one pass over the data, or occasionally more; the
        largest number of epochs of SGD. With max_iter=1 and warm_start=True each call of `fit` makes one.
    tol : float
        L-BFGS stops when no entry of the gradient of the mean objective is larger than tol. The gradient is taken in
        the coordinates of the scaled and, with a free intercept, centred features; scikit-learn's tol means the same
        without centring.
        SGD stops when the training objective has fallen by less than tol (nats) in 5 epochs ("adaptive": in 15, after
        two reductions of the learning rate); with fewer than 4 steps per epoch, in 20 steps (60). 0: never. The
        schedules "step" and "cosine" are planned over max_iter epochs and always run all of them.
    batch_size : int, "auto" or "full", optional
        For SGD: rows per step. "auto", the default, is 256, and 32 for sparse X. If there are fewer rows, all of them
        are used.
    learning_rate : float or "auto", optional
        For SGD. "auto", the default: 1 / the largest curvature of the objective, estimated by power iteration on a
        sample of rows.
    momentum : float, optional
        For SGD, in [0, 1). Default: 0.9; for sparse X 0, and other values are refused, since each step would change
        all weights.
    nesterov : bool, optional
        For SGD: look ahead along the velocity. Default: True.
    schedule : {"auto", "adaptive", "constant", "step", "cosine", "inverse"}, optional
        For SGD: how the learning rate changes, see `solvers.SGD`. "auto", the default, is "adaptive".
    warm_start : bool
        Start from the current weights when `fit` is called again; classes and features must be the same.
    random_state : int, RandomState, optional
        Seed for the order of the rows, and for samples of rows. None means 0, so that two runs give equal results.
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
        See `get_backend`; on a cluster, `client` in `fit`.
    n_threads : int, optional
        CPU threads; the result is the same to the bit for any number. Default: as for `get_backend`.
    callbacks : sequence
        Functions that are called with a `Record` after each pass, and that stop training by returning True; or
        `EarlyStopping`, `CsvLogger`, `TensorBoardLogger`, `MlflowLogger`, or any object whose method `fresh` returns
        such a function for one fit.
    verbose : int
        1 shows progress on standard error.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
    coef_ : ndarray of shape (c, d), or (1, d) for two classes
        Weights of the raw features.
    intercept_ : ndarray, (c,) or (1,)
        With mean 0 over the classes if the objective does not determine the mean.
    n_iter_ : int
        The steps of L-BFGS, 0 if the start was already within tol; the epochs of SGD. fit_report_.passes counts all
        passes over the data.
    loss_curve_ : list of float
        The training objective after each pass.
    history_ : list of Record
    stop_reason_ : str
        See `trainer.TrainResult`.
    weight_sum_ : float
        S, the sum of the weights of the rows.
    fit_report_ : FitReport
        How the fit ended: passes, gradient, and for L-BFGS a bound on how far the objective is above its optimum.
    backend_ : str
        The backend that was used, and why.
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
        """Convert the model to scikit-learn's LogisticRegression, which can be used without gpusoftmax.

        Scores, probabilities and predictions are equal.

        Returns
        -------
        sklearn.linear_model.LogisticRegression
            Fitted: classes_, coef_ (c, d) or (1, d), intercept_, n_iter_ and the feature names are copies of this
            model's. It gets the parameters that both classifiers have: fit_intercept, class_weight, max_iter, tol,
            warm_start, random_state, verbose, and C, which for l2 is 1 / (l2 S), for two classes 2 / (l2 S), and
            infinite without a penalty. Fitting it again finds the same minimum, unless scaling or penalize_intercept
            were set: LogisticRegression does not have them, and fits another model. Predictions are not affected,
            because coef_ applies to raw features.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError
            l2 is set, and the model was loaded from a file that does not store S.
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

    with p = 2 for loss "squared_hinge" and 1 for "hinge"; otherwise like `SoftmaxClassifier`. It has no
    predict_proba, because scores are not probabilities, and no to_sklearn, because LinearSVC has other losses: one
    class against the rest, or Crammer and Singer's.

    Parameters
    ----------
    loss : {"squared_hinge", "hinge"}
        The plain hinge has no curvature, which L-BFGS needs: solver="auto" means "sgd" for it.
    label_smoothing : float
        Must be 0: a margin has one correct class.
    C, l2, fit_intercept, penalize_intercept, scaling, class_weight, solver, max_iter, tol, batch_size, learning_rate,
    momentum, nesterov, schedule, warm_start, random_state, backend, n_threads, callbacks, verbose
        See `SoftmaxClassifier`, also for the attributes.

    Notes
    -----
    Source: J. Weston and C. Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999.
    """

    _losses = ("squared_hinge", "hinge")
    loss: str = "squared_hinge"


Estimator = SoftmaxClassifier | LinearSVMClassifier
