"""Makes the objective to minimise from an estimator and a user's data.

`load` checks the data; `objective_for` makes an objective over all or some of their rows, in coordinates that suit the
solver.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import compute_class_weight

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_n_features, check_same_length, check_sample_weight, check_shift_and_scale
from gpusoftmax.checks.labels import encode_known_labels, encode_labels, encode_proportions
from gpusoftmax.checks.messages import brief, shown
from gpusoftmax.checks.scalars import check_loss, check_pair
from gpusoftmax.dtypes import weights_in_type
from gpusoftmax.estimators.partial_fit import Moments, Stream
from gpusoftmax.estimators.solver_choice import choose_solver, sgd_settings
from gpusoftmax.features.base import Features
from gpusoftmax.features.read import read_features, rows_with_weight
from gpusoftmax.objective.objective import Objective
from gpusoftmax.objective.soft_labels import class_sums, row_sums, with_soft_labels
from gpusoftmax.penalties import L2

FAR = 1e-4  # times a column's standard deviation: a rounding error of its mean that the user is told about
LARGEST_WEIGHT = 1e3  # weights of standardised features may be this large and stay finite for raw features
LBFGS_ARRAYS, SGD_ARRAYS = 20, 4  # of the size of the weights, that training keeps at least
HEAVY = 1e-3  # times the mean weight: the least weight of the row that moments are computed relative to


@dataclass(frozen=True)
class Data:
    """A user's data, after all checks.

    Attributes
    ----------
    features : Features
        All of X, as stored: without shift and scale. On the device; the rest is on the host.
    labels : ndarray of int32, (n,)
        Class indices; for soft labels, the class with the largest proportion.
    proportions : ndarray, (n, c), or None
        Soft labels.
    classes : ndarray, (c,)
    weights : ndarray, (n,), or None
        Row weights, in the type of computation.
    unit : float
        What the user's weights were divided by to fit into that type: 1, or a power of two.
    validation : (features, labels, proportions) or None
        Validation data that the user passed, which are not trained on.
    """

    features: Features
    labels: Array
    proportions: Array | None
    classes: Array
    weights: Array | None
    unit: float
    validation: tuple[Features, Array, Array | None] | None

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return self.features.backend


@dataclass(frozen=True)
class Problem:
    """The result of `prepare`: objectives over scaled features, the classes, the backend, and the state of the stream
    that these rows begin or continue."""

    objective: Objective
    validation: Objective | None
    classes: Array
    backend: Backend
    stream: Stream


def l2_from_C(C: float, weight_sum: float, n_classes: int) -> float:
    """The l2 of our mean objective that is equivalent to scikit-learn's C.

    C multiplies a sum of losses, so l2 = 1 / (C S), S the sum of the weights. With two classes scikit-learn has one
    vector w where we have two, -w/2 and w/2, whose squares add up to half as much: l2 = 2 / (C S). C = inf: no penalty.
    """
    return (2.0 if n_classes == 2 else 1.0) / (C * weight_sum)


def C_from_l2(l2: float, weight_sum: float, n_classes: int) -> float:
    """The inverse of `l2_from_C`: C = 1 / (l2 S), with two classes 2 / (l2 S)."""
    return math.inf if l2 == 0 else l2_from_C(l2, weight_sum, n_classes)


def l2_of(estimator: Any, weight_sum: float, n_classes: int) -> float:
    """The l2 of the mean objective that the estimator's C or l2 asks for."""
    if estimator.l2 is not None:
        return float(estimator.l2)
    return l2_from_C(1.0 if estimator.C is None else estimator.C, weight_sum, n_classes)


def load(
    estimator: Any, features: Features, y: Any, sample_weight: Any = None,
    validation: tuple[Any, Any] | None = None, known: Array | None = None,
) -> Data:  # fmt: skip
    """Check what a user passed besides X; the features are already checked and on the device.

    `known` are the classes, if they are already known.
    """
    backend, n, dtype = features.backend, features.n, features.dtype
    y, sample_weight = map(backend.on_host, (y, sample_weight))
    log.info("backend %s: %s", backend.name, backend.reason)
    soft = encode_proportions(y, n, estimator.loss, known=known)
    classes, labels, proportions = soft or (*encode_labels(y, n, known), None)
    weights, unit = weights_in_type(check_sample_weight(sample_weight, n, 1, np.float64), dtype)
    validation_data = None
    if validation is not None:
        check_pair("validation", validation)
        held_out = read_features(validation[0], backend, "validation[0]")
        check_n_features(held_out, features.d, "validation[0]", type(estimator).__name__)
        yv = backend.on_host(validation[1])
        soft = encode_proportions(yv, held_out.n, estimator.loss, "validation[1]", classes, "validation[0]")
        codes, soft_labels = soft[1:] if soft else (encode_known_labels(yv, classes, "validation[1]"), None)
        check_same_length("validation[1]", codes, held_out.n, "validation[0]")
        validation_data = held_out.in_type_of(features), codes, soft_labels
    row_weights = None if weights is None else weights[:, 0]
    return Data(features, labels, proportions, classes, row_weights, unit, validation_data)


def prepare(
    estimator: Any,
    features: Features,
    y: Any,
    sample_weight: Any,
    validation: tuple[Any, Any] | None,
    stream: Stream | None = None,
) -> Problem:
    """Check the data and make the objectives that the estimator asks for. With a stream, these are its next rows."""
    known = None if stream is None else stream.classes
    data = load(estimator, features, y, sample_weight, validation, known)
    return problem_of(estimator, data, stream)


def problem_of(estimator: Any, data: Data, stream: Stream | None = None) -> Problem:
    """Make the objectives from data that are already checked."""
    objective, stream = _objective_and_stream(estimator, data, None, stream)
    validation = None if data.validation is None else held_out(objective, data)
    return Problem(objective, validation, data.classes, data.backend, stream)


def objective_for(
    estimator: Any, data: Data, rows: Array | None, moments: Moments | None = None
) -> tuple[Objective, float, Moments | None]:
    """The objective that the estimator minimises over all rows, or over `rows` (row numbers, on the host), and its S.

    Also returns the moments that the coordinates follow: those passed in, which may be those of more rows, or those of
    these rows, computed now; None if none were needed.
    """
    objective, stream = _objective_and_stream(estimator, data, rows, None, moments)
    return objective, stream.weight, stream.moments


def _objective_and_stream(
    estimator: Any, data: Data, rows: Array | None, stream: Stream | None, moments: Moments | None = None
) -> tuple[Objective, Stream]:
    asarray, (n, d), c = data.backend.asarray, data.features.shape, len(data.classes)
    s, class_weights = data.weights, None
    sgd = stream is not None or choose_solver(estimator).name == "sgd"
    if sgd and not data.features.has_minibatches:
        raise ValueError(
            "X is on a cluster, where there are no minibatches: "
            + (choose_solver(estimator).why or f"solver={estimator.solver!r}")
            + ", which means SGD; use solver='lbfgs' (and loss='squared_hinge' instead of 'hinge') without parameters "
            "of SGD, or fit to a sample of the rows in memory"
        )
    if data.backend.gpu is None:
        _check_memory(data.features, c, sgd)
    if estimator.class_weight is not None:
        class_weights, row_factors = _class_weights(estimator.class_weight, data, slice(None) if rows is None else rows)
        s = row_factors if s is None else s * row_factors
    s = check_sample_weight(s, n, 1, np.float64, "class_weight * sample_weight")
    s, unit = weights_in_type(s, data.features.dtype)
    unit *= data.unit
    rows = rows_with_weight(s, rows)
    if rows is not None and not len(rows):
        raise ValueError("class_weight * sample_weight is 0 for all training rows of a split; pass other folds")
    features = data.features.select(rows)
    here = s if s is None or rows is None else s[rows]
    total = float(features.n) if here is None else float(here.sum(dtype=np.float64)) * unit
    weights = None if s is None else asarray(s)
    sums = None
    if moments is None and (stream is not None or _needs_moments(estimator, sgd)):
        moments = _moments(features, s, total)
    elif moments is not None:  # mean and variance may be those of more rows, as for folds that share coordinates
        moments = replace(moments, rows=features.n, weight=total)
    if stream is None:
        stream = Stream(data.classes, 0.0 if moments else total, moments=moments)
    else:
        assert moments is not None
        stream = stream.with_rows(data.classes, moments)
        sums = asarray(np.array([features.n * stream.mean_weight / unit]))
    l2 = l2_of(estimator, stream.weight, c)
    log.info(
        "memory: X takes %.1f MB; a pass over it at most %.1f MB more, and weights %.1f MB",
        features.nbytes / 2**20, features.pass_bytes(1, c) / 2**20,
        d * c * np.dtype(features.dtype).itemsize / 2**20,
    )  # fmt: skip
    constant = None if moments is None or sums is not None else constant_columns(moments, features.dtype)
    shift, scale, penalty_factors = _coordinates(estimator, features, l2, stream.moments, sgd, constant)
    objective = Objective(
        features=features.with_scaling(shift, scale),
        labels=asarray(data.labels),
        n_classes=c,
        weights=weights,
        penalty=L2(np.array([l2]), penalty_factors, on_intercept=estimator.penalize_intercept).moved(asarray),
        loss=check_loss(estimator.loss),
        fit_intercept=estimator.fit_intercept,
        total=sums,
    )
    if data.proportions is not None or estimator.label_smoothing:
        objective = with_soft_labels(objective, data.proportions, estimator.label_smoothing, class_weights)
    return objective, stream


def _check_memory(features: Features, c: int, sgd: bool) -> None:
    """Raise if this machine cannot hold the arrays of the size of the weights that training keeps.

    A sparse file of a few bytes can have two billion columns. Linux would promise the memory, and kill the
    process when it is used.
    """
    arrays = SGD_ARRAYS if sgd else LBFGS_ARRAYS
    needed = arrays * (features.d + 1) * c * np.dtype(features.dtype).itemsize
    if needed > (memory := physical_memory()):
        raise MemoryError(
            f"X has {features.d} features, and there are {c} classes: training keeps some {arrays} arrays of the size "
            f"of the weights, {needed / 2**30:.0f} GiB in all, and this machine has {memory / 2**30:.0f} GiB. Hash the "
            "features into fewer columns" + (", or use solver='sgd', which keeps fewer arrays" if not sgd else "")
        )


def physical_memory() -> float:
    """Bytes of this machine's memory; infinity where the operating system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return math.inf


def held_out(objective: Objective, data: Data, rows: Array | None = None) -> Objective:
    """The objective over rows that are not trained on: `rows` of the data, by sample weight, or the validation data.

    Class weights and label smoothing do not apply there.
    """
    asarray, features = data.backend.asarray, objective.features
    if rows is not None:
        weights = None if data.weights is None else asarray(np.ascontiguousarray(data.weights[:, None]))
        rows = rows_with_weight(data.weights, rows)
        found = replace(objective, features=features.select(rows), weights=weights, linear_term=None)
        proportions = data.proportions
    else:
        assert data.validation is not None
        stored, codes, proportions = data.validation
        features = stored.with_scaling(features.shift, features.scale)
        found = replace(objective, features=features, labels=asarray(codes), weights=None, linear_term=None)
    return found if proportions is None else with_soft_labels(found, proportions)


def _class_weights(class_weight: Any, data: Data, rows: Any) -> tuple[Array, Array]:
    """scikit-learn's class weights (c,), from the class counts of some rows, and the factor of each row's weight (n,).

    A soft label counts as one row for each of its classes, with the weight of that class.
    """
    classes, proportions = data.classes, data.proportions
    s = np.ones(len(data.labels)) if data.weights is None else data.weights
    sums = np.ones(len(s)) if proportions is None else row_sums(proportions)
    if proportions is None:
        counts = np.bincount(data.labels[rows], s[rows], len(classes))
    else:
        counts = class_sums(proportions[rows], (s / sums)[rows])
    try:
        with np.errstate(divide="ignore"):
            weights = compute_class_weight(class_weight, classes=classes, y=classes, sample_weight=counts)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"class_weight={shown(class_weight)} has no weights for the classes {shown(classes.tolist())} "
            f"({brief(error)}); pass None, 'balanced', or a dictionary from classes to numbers"
        ) from None
    weights = np.where((counts == 0) & np.isinf(weights), 0.0, weights)  # "balanced" for a class without rows
    if not (np.isfinite(weights) & (weights >= 0)).all():
        j = int((~(np.isfinite(weights) & (weights >= 0))).argmax())
        raise ValueError(
            f"class_weight[{classes[j : j + 1].tolist()[0]!r}] is {weights[j]}; weights must be finite and not negative"
        )
    return weights, weights[data.labels] if proportions is None else row_sums(proportions, weights) / sums


def _moments(features: Features, weights: Array | None, total: float) -> Moments:
    """Moments of the columns of X, with row weights (n, 1), on the host, whose sum is `total`.

    Raises
    ------
    ValueError
        X holds NaN or infinity, or values whose squares overflow; the message names the first by row and column.
    """
    backend, origin = features.backend, None
    s = None if weights is None else weights[:, 0]
    if s is not None:
        numbers = features.row_numbers(np.arange(features.n))
        heavy = s[numbers] >= HEAVY * s[numbers].mean(dtype=np.float64)
        origin = int(numbers[heavy.argmax()])
    found = features.moments(None if s is None else backend.asarray(s), origin)
    mean, variance = backend.fetch(*found)
    infinite = ~(np.isfinite(mean) & np.isfinite(variance))
    if infinite.any():
        features.check_finite()
        raise _overflow(features, int(infinite.argmax()), "the squares of this column overflow")
    moments = Moments(features.n, total, mean, variance)
    sums = features.n * np.hypot(mean, np.sqrt(variance))
    too_large = (sums > np.finfo(features.dtype).max) & ~constant_columns(moments, features.dtype)
    if too_large.any():
        words = f"sums of this column overflow in {np.dtype(features.dtype).name}"
        raise _overflow(features, int((sums * too_large).argmax()), words)
    return moments


def _overflow(features: Features, column: int, words: str) -> ValueError:
    """The error for a column whose numbers are too large; its message names the largest."""
    row, value = features.largest(column)
    return ValueError(
        f"X[{row}, {column}] is {value:g}: {words}; divide the column by its largest absolute value, or leave it out"
    )


def constant_columns(moments: Moments, dtype: npt.DTypeLike) -> Array:
    """Which columns (d,) are constant: their standard deviation is within the rounding error of their mean.

    The rounding error is n eps |mean| of float64, as in scikit-learn's StandardScaler, or two units in the last place
    of the type of computation. Weights of such columns would amplify rounding errors.
    """
    rounding = max(moments.rows * float(np.finfo(np.float64).eps), 2 * float(np.finfo(dtype).eps))
    return np.asarray(np.sqrt(moments.variance) <= rounding * abs(moments.mean))


def far_from_zero(problem: Problem) -> str:
    """Advice about the column whose mean is farthest from zero, in standard deviations, if that costs digits; else "".

    Centring is folded into the weights and X is not changed: scores are differences of numbers as large as the mean,
    and have its rounding errors.
    """
    moments, dtype = problem.stream.moments, problem.objective.features.dtype
    if moments is None:
        return ""
    varies = ~constant_columns(moments, dtype)
    distances = np.divide(abs(moments.mean), np.sqrt(moments.variance), out=np.zeros(len(varies)), where=varies)
    column = int(distances.argmax())
    if distances[column] * np.finfo(dtype).eps < FAR:
        return ""
    return (
        f"subtract the mean of column {column} ({moments.mean[column]:.3g}, {distances[column]:.0e} times its "
        "deviation) beforehand, as sklearn's StandardScaler does"
    )


def _needs_moments(estimator: Any, sgd: bool) -> bool:
    """Whether the coordinates depend on the mean and variance of the data."""
    free = estimator.fit_intercept and not estimator.penalize_intercept
    return free or isinstance(estimator.scaling, str) or (sgd and sgd_settings(estimator).learning_rate == "auto")


def _coordinates(
    estimator: Any, features: Features, l2: float, moments: Moments | None, sgd: bool, constant: Array | None
) -> tuple[Array | None, Array | None, Array | None]:
    """Shift and scale (d,) of the coordinates in which to solve, and the penalty's factors there.

    This changes the optimiser's path, not the objective. A free intercept absorbs any shift, so features are centred:
    otherwise SGD would be very slow on raw pixels, whose mean is by far their largest direction. If SGD's learning rate
    is chosen automatically, each feature is also divided by t_p = sqrt(variance + 2 l2), which makes the curvatures
    along single features about equal (Jacobi's preconditioner): otherwise columns of very different sizes would never
    converge. A penalty on W becomes one on the new weights t W, with factors 1 / t^2. For sparse features, SGD does
    neither: each step would change the weights of all features.

    Columns that are `constant` (d,) get an infinite scale if features are centred: they have no effect on the scores,
    and their weights are 0. Columns of a sparse X that are zero throughout keep their scale.

    Raises
    ------
    ValueError
        A column varies so little that its weights might be infinite in the type of computation; or sparse features have
        a shift that the intercept does not absorb, and the solver is SGD.
    """
    d, dtype, sparse_sgd = features.d, features.dtype, sgd and features.is_sparse
    given: tuple[Any, Any] = estimator.scaling if isinstance(estimator.scaling, tuple) else (None, None)
    shift, scale = check_shift_and_scale(given[0], given[1], d, "scaling's ")
    free = estimator.fit_intercept and not estimator.penalize_intercept
    if sparse_sgd and not free and (shift is not None or isinstance(estimator.scaling, str)):
        raise ValueError(
            f"scaling={shown(estimator.scaling)} shifts the features, so each step of SGD would change the weights of "
            "all features, where sparse X needs to change only those that occur; leave the shift out, with "
            "scaling=(None, scale), leave the intercept free, or use solver='lbfgs'"
        )
    if moments is None or not _needs_moments(estimator, sgd):
        return (None if sparse_sgd else shift), scale, None
    mean, variance = moments.mean, moments.variance
    standard = isinstance(estimator.scaling, str)
    if standard:
        deviation = np.sqrt(variance)
        tiny = deviation < LARGEST_WEIGHT / np.finfo(dtype).max
        if constant is not None:
            tiny &= ~constant
        if tiny.any():
            column = int(tiny.argmax())
            raise ValueError(
                f"the standard deviation of column {column} of X is {deviation[column]:.2g}, which scaling='standard' "
                f"cannot divide by in {np.dtype(dtype).name}; multiply the column by a large number, or leave it out"
            )
        shift, scale = check_shift_and_scale(mean, deviation, d)
    if free:
        shift = None if sparse_sgd else mean
    factors = None
    if sgd and not sparse_sgd and sgd_settings(estimator).learning_rate == "auto":
        size = variance + (mean - (0.0 if shift is None else shift)) ** 2
        user_scale = np.ones(d) if scale is None else scale
        t = np.sqrt(size / user_scale**2 + 2 * l2)
        t[t == 0] = 1.0  # a constant column without a penalty: any weight will do
        scale, factors = user_scale * t, 1 / t**2
    if constant is not None and features.is_sparse:
        constant = constant & (mean != 0)  # features that never occur do no harm, and a scale costs time
    if constant is not None and constant.any() and (standard or free):
        scale = np.where(constant, np.inf, 1.0 if scale is None else scale)
    return shift, scale, factors
