"""From an estimator and a user's data to a solver and an objective, and from a solution to fitted attributes.

`prepare` turns what the user passed into objectives, `make_solver` picks the solver, `trainer.train` runs it, and
`publish` writes the attributes, in raw feature space. Estimators do little else.
"""

from __future__ import annotations

import inspect
import logging
import math
import reprlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.utils import compute_class_weight

from gpusoftmax.array import Backend, gpu_of
from gpusoftmax.batches import BatchPlan
from gpusoftmax.certificate import Certificate, FitReport, certify
from gpusoftmax.dtypes import computation_dtype, from_bits
from gpusoftmax.features import DenseFeatures
from gpusoftmax.objective import Objective
from gpusoftmax.soft_labels import class_sums, row_sums, soften
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import Solver, TrainResult
from gpusoftmax.validation import (
    check_finite_features,
    check_loss,
    check_n_features,
    check_random_seed,
    check_sample_weight,
    check_shift_and_scale,
    encode_known_labels,
    encode_labels,
    encode_proportions,
)

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")

ONLY_FOR_SGD = ("batch_size", "learning_rate", "momentum", "nesterov", "schedule")
AUTOMATIC_BATCH = 256  # rows: long enough that a step's own cost does not count, short enough for many steps a pass


@dataclass(frozen=True)
class Problem:
    """What `prepare` makes of a user's data: objectives over scaled features, and the labels' names."""

    objective: Objective
    validation: Objective | None
    classes: Array
    backend: Backend


def changed_for_sgd(estimator: Any) -> dict[str, Any]:
    """Parameters that only SGD has a use for and that are not at their defaults, which are the values."""
    parameters = inspect.signature(type(estimator)).parameters
    defaults = {name: parameters[name].default for name in ONLY_FOR_SGD}
    return {name: default for name, default in defaults.items() if getattr(estimator, name) != default}


def solver_of(estimator: Any) -> str:
    """The solver's name, "lbfgs" or "sgd": what solver="auto" means for this estimator."""
    if estimator.solver != "auto":
        return str(estimator.solver)
    return "sgd" if estimator.loss == "hinge" or changed_for_sgd(estimator) else "lbfgs"


def l2_from_C(C: float, weight_sum: float, n_classes: int) -> float:
    """The l2 of our mean objective that equals scikit-learn's C.

    C multiplies a sum of losses, so l2 = 1 / (C S), S the sum of the weights. With two classes scikit-learn has one
    vector w where we have two, -w/2 and w/2, whose squares add up to half as much: l2 = 2 / (C S). C = inf: no penalty.
    """
    return (2.0 if n_classes == 2 else 1.0) / (C * weight_sum)


@dataclass(frozen=True)
class Data:
    """A user's rows, checked.

    Attributes
    ----------
    X : ndarray, (n, d)
        On the device; the rest is on the host.
    labels : ndarray of int32, (n,)
        Indices of classes: of soft labels the largest.
    proportions : ndarray, (n, c), or None
        Soft labels.
    classes : ndarray, (c,)
    weights : ndarray, (n,), or None
        Of rows.
    validation : (X, labels, proportions) or None
        Rows of the user's own that training does not see.
    backend : Backend
    """

    X: Array
    labels: Array
    proportions: Array | None
    classes: Array
    weights: Array | None
    validation: tuple[Array, Array, Array | None] | None
    backend: Backend


def load(
    estimator: Any, device: Backend, X: Array, y: Any, sample_weight: Any = None,
    validation: tuple[Any, Any] | None = None,
) -> Data:  # fmt: skip
    """Data from X, which is checked and on the device already, and the rest as a user passed it."""
    y, sample_weight = (device.to_numpy(part) if gpu_of(part) is not None else part for part in (y, sample_weight))
    log.info("backend %s: %s", device.name, device.reason)
    (n, d), dtype = X.shape, computation_dtype(X.dtype)
    soft = encode_proportions(y, n, estimator.loss)
    classes, labels, proportions = soft or (*encode_labels(y, n), None)
    weights = check_sample_weight(sample_weight, n, 1, dtype)
    aside = None
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(f"validation is a {type(validation).__name__}; pass a pair (X, y)")
        Xv = device.features(validation[0], "validation[0]")
        check_n_features(Xv, d, "validation[0]", type(estimator).__name__)
        yv = validation[1] if gpu_of(validation[1]) is None else device.to_numpy(validation[1])
        soft = encode_proportions(yv, len(Xv), estimator.loss, "validation[1]", classes)
        codes, shares = soft[1:] if soft else (encode_known_labels(yv, classes, "validation[1]"), None)
        if len(codes) != len(Xv):
            raise ValueError(f"validation[1] has length {len(codes)}, but validation[0] has {len(Xv)} rows")
        aside = (from_bits(Xv).astype(dtype) if computation_dtype(Xv.dtype) != dtype else Xv), codes, shares
    return Data(X, labels, proportions, classes, None if weights is None else weights[:, 0], aside, device)


def pose(estimator: Any, data: Data, rows: Array | None = None) -> Objective:
    """What the estimator minimises over the data, or over some of its rows (their numbers, on the host)."""
    device, asarray, (n, d), c = data.backend, data.backend.asarray, data.X.shape, len(data.classes)
    features = DenseFeatures(data.X, device, rows=None if rows is None else asarray(rows))
    s, of_classes = data.weights, None
    if estimator.class_weight is not None:
        of_classes, of_rows = _class_weights(estimator.class_weight, data, slice(None) if rows is None else rows)
        s = of_rows if s is None else s * of_rows
    weights = check_sample_weight(s, n, 1, features.dtype, "class_weight * sample_weight")
    here = weights if weights is None or rows is None else weights[rows]
    l2 = l2_of(estimator, float(features.n) if here is None else float(here.sum(dtype=np.float64)), c)
    log.info(
        "memory: X takes %.1f MB; a pass over it at most %.1f MB more, and weights %.1f MB",
        data.X.nbytes / 2**20, device.ops.pass_bytes(data.X.dtype, features.n, d, 1, c) / 2**20,
        d * c * np.dtype(features.dtype).itemsize / 2**20,
    )  # fmt: skip
    weights = None if weights is None else asarray(weights)
    coordinates = _coordinates(estimator, features, weights, l2)
    shift, scale, factors = (None if side is None else asarray(side) for side in coordinates)
    objective = Objective(
        replace(features, shift=shift, scale=scale), asarray(data.labels), c, weights, asarray(np.array([l2])),
        check_loss(estimator.loss), estimator.fit_intercept, estimator.penalize_intercept, factors,
    )  # fmt: skip
    if data.proportions is None and not estimator.label_smoothing:
        return objective
    return soften(objective, data.proportions, estimator.label_smoothing, of_classes)


def held_out(objective: Objective, data: Data, rows: Array | None = None) -> Objective:
    """The same objective over rows that it does not train on: some of the data's, by their sample weights, or its own.

    Neither class weights nor label smoothing count there.
    """
    asarray, features = data.backend.asarray, objective.features
    if rows is not None:
        weights = None if data.weights is None else asarray(np.ascontiguousarray(data.weights[:, None]))
        aside = replace(objective, features=replace(features, rows=asarray(rows)), weights=weights, linear_term=None)
        proportions = data.proportions
    else:
        assert data.validation is not None
        Xv, codes, proportions = data.validation
        features = replace(features, X=Xv, rows=None)
        aside = replace(objective, features=features, labels=asarray(codes), weights=None, linear_term=None)
    return aside if proportions is None else soften(aside, proportions)


def _class_weights(class_weight: Any, data: Data, rows: Any) -> tuple[Array, Array]:
    """scikit-learn's weights of the classes (c,), of some rows' counts, and what they make of each row (n,).

    A soft label counts as one row for each of its classes, with the class's weight.
    """
    classes, proportions = data.classes, data.proportions
    s = np.ones(len(data.labels)) if data.weights is None else data.weights
    sums = np.ones(len(s)) if proportions is None else row_sums(proportions)
    if proportions is None:
        counts = np.bincount(data.labels[rows], s[rows], len(classes))
    else:
        counts = class_sums(proportions[rows], (s / sums)[rows])
    with np.errstate(divide="ignore"):
        weights = compute_class_weight(class_weight, classes=classes, y=classes, sample_weight=counts)
    weights = np.where((counts == 0) & np.isinf(weights), 0.0, weights)  # "balanced" where there is nothing to balance
    if not (np.isfinite(weights) & (weights >= 0)).all():
        j = int((~(np.isfinite(weights) & (weights >= 0))).argmax())
        raise ValueError(
            f"class_weight[{classes[j : j + 1].tolist()[0]!r}] is {weights[j]}; weights must be finite and not negative"
        )
    return weights, weights[data.labels] if proportions is None else row_sums(proportions, weights) / sums


def l2_of(estimator: Any, weight_sum: float, n_classes: int) -> float:
    """The penalty of the mean objective that the estimator's C or l2 means."""
    if estimator.l2 is not None:
        return float(estimator.l2)
    return l2_from_C(1.0 if estimator.C is None else estimator.C, weight_sum, n_classes)


def prepare(
    estimator: Any,
    device: Backend,
    X: Array,
    y: Any,
    sample_weight: Any,
    validation: tuple[Any, Any] | None,
) -> Problem:
    """Objectives for X, checked and on the device, in the estimator's terms."""
    data = load(estimator, device, X, y, sample_weight, validation)
    objective = pose(estimator, data)
    return Problem(objective, None if validation is None else held_out(objective, data), data.classes, device)


def _coordinates(
    estimator: Any, features: DenseFeatures, weights: Array | None, l2: float
) -> tuple[Array | None, Array | None, Array | None]:
    """Shift and scale (d,) in which to solve, and the factors of the penalty there.

    The objective is the user's, the course is not. A free intercept absorbs any shift, so features are centred: without
    that SGD would crawl on raw pixels, whose mean is their largest direction by far. And where SGD's learning rate is
    ours to choose, each feature is divided by t_p = sqrt(variance + 2 l2), which makes all curvatures along single
    features about equal (Jacobi's preconditioner): without it columns of very different sizes would never converge. A
    penalty on W is then one on the new weights t W, with factors 1 / t^2.
    """
    given: tuple[Any, Any] = estimator.scaling if isinstance(estimator.scaling, tuple) else (None, None)
    shift, scale = check_shift_and_scale(given[0], given[1], features.d)
    free = estimator.fit_intercept and not estimator.penalize_intercept
    ours = solver_of(estimator) == "sgd" and estimator.learning_rate == "auto"
    if not (free or ours or estimator.scaling == "standard"):
        return shift, scale, None
    s = None if weights is None else weights[:, 0]
    moments = features.backend.ops.column_moments(features.X, s, features.rows)
    mean, variance = map(features.backend.to_numpy, moments)
    if not np.isfinite(mean).all():
        check_finite_features(features.backend.to_numpy(features.X))
    if isinstance(estimator.scaling, str):
        shift, scale = check_shift_and_scale(mean, np.sqrt(variance), features.d)
    if free:
        shift = mean
    if not ours:
        return shift, scale, None
    size = variance + (mean - (0.0 if shift is None else shift)) ** 2
    user_scale = np.ones(features.d) if scale is None else scale
    t = np.sqrt(size / user_scale**2 + 2 * l2)
    t[t == 0] = 1.0  # a constant column without a penalty: any weight will do
    return shift, user_scale * t, 1 / t**2


def make_solver(estimator: Any, objective: Objective) -> Solver:
    """The solver that the estimator's parameters ask for."""
    n, seed = objective.features.n, check_random_seed(estimator.random_state)
    if solver_of(estimator) == "lbfgs":
        return LBFGS(int(estimator.max_iter), float(estimator.tol), seed)
    sizes = {"auto": AUTOMATIC_BATCH, "full": n}
    size = sizes[estimator.batch_size] if isinstance(estimator.batch_size, str) else int(estimator.batch_size)
    plan = BatchPlan(n, size, seed=seed)
    schedule = estimator.schedule
    if schedule == "auto":
        schedule = "inverse" if estimator.loss == "hinge" else "adaptive"
    return SGD(
        plan,
        steps=plan.steps_per_epoch * int(estimator.max_iter),
        learning_rate=estimator.learning_rate,
        momentum=float(estimator.momentum),
        nesterov=bool(estimator.nesterov),
        schedule=schedule,
        tol=float(estimator.tol),
    )


def start_weights(model: Any, problem: Problem) -> tuple[Array, Array]:
    """W (d, 1, c) and b (1, c), on the device, in the problem's coordinates: a fitted model's, or zeros without one.

    Raises
    ------
    ValueError
        The model knows other classes, or another number of features.
    """
    features, c = problem.objective.features, len(problem.classes)
    xp, asarray = problem.backend.xp, problem.backend.asarray
    if model is None:
        return xp.zeros((features.d, 1, c), features.dtype), xp.zeros((1, c), features.dtype)
    shapes = np.shape(getattr(model, "coef_", 0.0)), np.shape(getattr(model, "intercept_", 0.0))
    known = np.asarray(getattr(model, "classes_", ()))
    rows = 1 if len(known) == 2 else len(known)
    if len(shapes[0]) != 2 or shapes[0][0] != rows or shapes[1] != (rows,) or issparse(model.coef_):
        raise ValueError(
            f"start_from is a {type(model).__name__} without classes_, coef_ (c, d), or (1, d) for two classes, and "
            "intercept_ (c,) or (1,), as arrays; pass a fitted linear classifier that has one row of weights per class"
        )
    if known.shape != problem.classes.shape or (known != problem.classes).any():
        raise ValueError(
            f"y has the classes {reprlib.repr(problem.classes.tolist())}, but the model that training is to start from "
            f"has {reprlib.repr(known.tolist())}; fit from zero instead (without start_from, warm_start=False)"
        )
    if model.coef_.shape[1] != features.d:
        raise ValueError(
            f"X has {features.d} features, but the model that training is to start from has {model.coef_.shape[1]}; "
            "fit from zero instead (without start_from, warm_start=False)"
        )
    coef, b = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if not (np.isfinite(coef).all() and np.isfinite(b).all()):
        raise ValueError("start_from has weights that are NaN or infinite; fit from zero instead")
    if c == 2:
        coef, b = np.vstack([-coef, coef]) / 2, np.append(-b, b) / 2
    if not problem.objective.fit_intercept:
        b = np.zeros(c)
    elif features.shift is not None:
        b = b + coef @ problem.backend.to_numpy(features.shift)
    W = coef.T if features.scale is None else coef.T * problem.backend.to_numpy(features.scale)[:, None]
    return (
        asarray(np.ascontiguousarray(W[:, None], features.dtype)),
        asarray(np.ascontiguousarray(b[None], features.dtype)),
    )


def publish(estimator: Any, problem: Problem, result: TrainResult) -> Any:
    """Write the fitted attributes: NumPy arrays in raw feature space, whatever the device was."""
    write_weights(estimator, problem.objective, problem.classes, result.W, result.b)
    estimator.fit_report_ = _report(problem, result, float(estimator.tol))
    estimator.n_iter_ = estimator.fit_report_.n_iter
    estimator.history_ = result.history
    estimator.loss_curve_ = [float(record.objective) for record in result.history]
    estimator.stop_reason_ = result.reason
    estimator.backend_ = f"{problem.backend.name}: {problem.backend.reason}"
    return estimator


def write_weights(estimator: Any, objective: Objective, classes: Array, W: Array, b: Array) -> None:
    """classes_, coef_ and intercept_ from W (d, 1, c) and b (1, c) in the objective's coordinates."""
    W, b = objective.features.fold(W, b)
    W, b = objective.backend.to_numpy(W)[:, 0], objective.backend.to_numpy(b)[0]
    if objective.has_free_intercept:
        b = b - b.mean()  # the objective does not care; back ends and solvers are to agree
    if float(objective.l2[0]) == 0:
        W = W - W.mean(axis=1, keepdims=True)
    if len(classes) == 2:
        W, b = W[:, 1:] - W[:, :1], b[1:] - b[:1]
    estimator.classes_ = classes
    estimator.coef_ = np.ascontiguousarray(W.T)
    estimator.intercept_ = np.ascontiguousarray(b)


def _report(problem: Problem, result: TrainResult, tol: float) -> FitReport:
    """How the fit ended, with the certificate of a solver that goes to the optimum."""
    exact, kept = result.gradient_norm is not None, None
    if exact:
        found = certify(problem.objective, result.W, result.b)[0]
    else:
        last = float(result.history[-1].objective) if result.history else math.nan  # interrupted in the first pass
        found = Certificate(last, None, None, None, "SGD does not go to the optimum")
    if problem.validation is not None and result.history:
        kept = min(result.history, key=lambda record: float(record.validation_loss)).passes
    return FitReport(
        solver="lbfgs" if exact else "sgd",
        reason=result.reason,
        n_iter=result.step if exact else math.ceil(result.passes),
        passes=result.passes,
        seconds=result.seconds,
        tol=tol,
        kept=kept,
        **asdict(found),
    )
