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
from gpusoftmax.dtypes import from_bits
from gpusoftmax.features import DenseFeatures
from gpusoftmax.objective import Objective
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.sgd import SGD, automatic_learning_rate
from gpusoftmax.stream import Moments, Stream
from gpusoftmax.trainer import Solver, TrainResult
from gpusoftmax.validation import (
    check_classes,
    check_finite_features,
    check_loss,
    check_n_features,
    check_random_seed,
    check_sample_weight,
    check_shift_and_scale,
    encode_known_labels,
    encode_labels,
)

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")

ONLY_FOR_SGD = ("batch_size", "learning_rate", "momentum", "nesterov", "schedule")
AUTOMATIC_BATCH = 256  # rows: long enough that a step's own cost does not count, short enough for many steps a pass


@dataclass(frozen=True)
class Problem:
    """What `prepare` makes of a user's data: objectives over scaled features, the labels' names, and where a stream
    stands that begins with these rows, or goes on with them."""

    objective: Objective
    validation: Objective | None
    classes: Array
    backend: Backend
    stream: Stream


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


def C_from_l2(l2: float, weight_sum: float, n_classes: int) -> float:
    """The other way: C = 1 / (l2 S), with two classes 2 / (l2 S)."""
    return math.inf if l2 == 0 else l2_from_C(l2, weight_sum, n_classes)


def prepare(
    estimator: Any,
    device: Backend,
    X: Array,
    y: Any,
    sample_weight: Any,
    validation: tuple[Any, Any] | None,
    stream: Stream | None = None,
) -> Problem:
    """Objectives for X, checked and on the device, in the estimator's terms. Labels and weights are looked at on the
    host. With a stream X is its next part."""
    y, sample_weight = (device.to_numpy(part) if gpu_of(part) is not None else part for part in (y, sample_weight))
    log.info("backend %s: %s", device.name, device.reason)
    n, d = X.shape
    classes, labels = encode_labels(y, n, None if stream is None else stream.classes)
    features = DenseFeatures(X, device)
    weights = check_sample_weight(sample_weight, n, 1, features.dtype)
    if estimator.class_weight is not None:
        per_class = compute_class_weight(
            estimator.class_weight,
            classes=classes,
            y=np.asarray(classes)[labels],
            sample_weight=None if weights is None else weights[:, 0],
        )
        product = per_class[labels] if weights is None else weights[:, 0] * per_class[labels]
        weights = check_sample_weight(product, n, 1, features.dtype, "class_weight * sample_weight")
    total = float(n) if weights is None else float(weights.sum(dtype=np.float64))
    device_weights = None if weights is None else device.asarray(weights)
    sgd = stream is not None or solver_of(estimator) == "sgd"
    moments, sums = None, None
    if stream is not None or _wants_moments(estimator, sgd):
        moments = _moments(features, device_weights, total)
    if stream is None:
        stream = Stream(classes, 0.0 if moments else total, moments=moments)
    else:
        assert moments is not None
        stream = stream.with_rows(classes, moments)
        sums = device.asarray(np.array([n * stream.mean_weight]))
    total = stream.weight
    C = 1.0 if estimator.C is None else estimator.C
    l2 = l2_from_C(C, total, len(classes)) if estimator.l2 is None else float(estimator.l2)
    log.info(
        "memory: X takes %.1f MB; a pass over it at most %.1f MB more, and weights %.1f MB",
        X.nbytes / 2**20, device.ops.pass_bytes(X.dtype, n, d, 1, len(classes)) / 2**20,
        d * len(classes) * np.dtype(features.dtype).itemsize / 2**20,
    )  # fmt: skip
    coordinates = _coordinates(estimator, features.d, l2, stream.moments, sgd)
    shift, scale, factors = (None if side is None else device.asarray(side) for side in coordinates)
    features = DenseFeatures(features.X, device, shift, scale)

    def objective(of: DenseFeatures, indices: Array, s: Array | None, S: Array | None = None) -> Objective:
        return Objective(
            of, device.asarray(indices), len(classes), s, device.asarray(np.array([l2])), check_loss(estimator.loss),
            estimator.fit_intercept, estimator.penalize_intercept, factors, S,
        )  # fmt: skip

    held_out = None
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(f"validation is a {type(validation).__name__}; pass a pair (X, y)")
        Xv = device.features(validation[0], "validation[0]")
        check_n_features(Xv, d, "validation[0]", type(estimator).__name__)
        codes = encode_known_labels(validation[1], classes, "validation[1]")
        if len(codes) != len(Xv):
            raise ValueError(f"validation[1] has length {len(codes)}, but validation[0] has {len(Xv)} rows")
        Xv = from_bits(Xv).astype(features.dtype) if DenseFeatures(Xv, device).dtype != features.dtype else Xv
        held_out = objective(DenseFeatures(Xv, device, shift, scale), codes, None)
    return Problem(objective(features, labels, device_weights, sums), held_out, classes, device, stream)


def _moments(features: DenseFeatures, weights: Array | None, total: float) -> Moments:
    """Of the columns of X, with weights (n, 1) that sum to `total`."""
    moments = features.backend.ops.column_moments(features.X, None if weights is None else weights[:, 0])
    mean, variance = map(features.backend.to_numpy, moments)
    if not np.isfinite(mean).all():
        check_finite_features(features.backend.to_numpy(features.X))
    return Moments(features.n, total, mean, variance)


def _wants_moments(estimator: Any, sgd: bool) -> bool:
    """Whether the coordinates depend on the data."""
    free = estimator.fit_intercept and not estimator.penalize_intercept
    return free or isinstance(estimator.scaling, str) or (sgd and estimator.learning_rate == "auto")


def _coordinates(
    estimator: Any, d: int, l2: float, moments: Moments | None, sgd: bool
) -> tuple[Array | None, Array | None, Array | None]:
    """Shift and scale (d,) in which to solve, and the factors of the penalty there.

    The objective is the user's, the course is not. A free intercept absorbs any shift, so features are centred: without
    that SGD would crawl on raw pixels, whose mean is their largest direction by far. And where SGD's learning rate is
    ours to choose, each feature is divided by t_p = sqrt(variance + 2 l2), which makes all curvatures along single
    features about equal (Jacobi's preconditioner): without it columns of very different sizes would never converge. A
    penalty on W is then one on the new weights t W, with factors 1 / t^2.
    """
    given: tuple[Any, Any] = estimator.scaling if isinstance(estimator.scaling, tuple) else (None, None)
    shift, scale = check_shift_and_scale(given[0], given[1], d)
    if moments is None or not _wants_moments(estimator, sgd):
        return shift, scale, None
    mean, variance = moments.mean, moments.variance
    if isinstance(estimator.scaling, str):
        shift, scale = check_shift_and_scale(mean, np.sqrt(variance), d)
    if estimator.fit_intercept and not estimator.penalize_intercept:
        shift = mean
    if not (sgd and estimator.learning_rate == "auto"):
        return shift, scale, None
    size = variance + (mean - (0.0 if shift is None else shift)) ** 2
    user_scale = np.ones(d) if scale is None else scale
    t = np.sqrt(size / user_scale**2 + 2 * l2)
    t[t == 0] = 1.0  # a constant column without a penalty: any weight will do
    return shift, user_scale * t, 1 / t**2


def make_solver(estimator: Any, objective: Objective) -> Solver:
    """The solver that the estimator's parameters ask for."""
    if solver_of(estimator) == "lbfgs":
        return LBFGS(int(estimator.max_iter), float(estimator.tol), check_random_seed(estimator.random_state))
    plan = _plan(estimator, objective.features.n)
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


def _plan(estimator: Any, n: int) -> BatchPlan:
    sizes = {"auto": AUTOMATIC_BATCH, "full": n}
    size = sizes[estimator.batch_size] if isinstance(estimator.batch_size, str) else int(estimator.batch_size)
    return BatchPlan(n, size, seed=check_random_seed(estimator.random_state))


def start_stream(estimator: Any, classes: Any) -> Stream:
    """The stream that a call of partial_fit goes on with: the model's, or a new one from the model as it is.

    Raises
    ------
    ValueError
        `classes` are not those of the model, or a parameter has no meaning where rows come in parts.
    """
    _check_for_stream(estimator)
    known = getattr(estimator, "classes_", None)
    if classes is not None:
        classes = check_classes(classes)
        if known is not None and not np.array_equal(classes, known):
            raise ValueError(
                f"classes={reprlib.repr(classes.tolist())} is not the same as on last call to partial_fit or fit, "
                f"was: {reprlib.repr(known.tolist())}; leave classes out, or clone the estimator to start anew"
            )
    if known is None:
        return Stream(classes)
    if estimator.l2 is None and not hasattr(estimator, "weight_sum_"):
        raise ValueError(
            "the model comes from a file that does not say how many rows it has seen, which C needs; pass l2 instead"
        )
    return getattr(estimator, "_stream", None) or Stream(known, getattr(estimator, "weight_sum_", 0.0))


def _check_for_stream(estimator: Any) -> None:
    """What needs all rows at once is refused, rather than ignored."""
    if isinstance(estimator.scaling, str):
        raise ValueError(
            "scaling='standard' needs the mean and standard deviation of all rows before the first of them; for "
            "partial_fit pass scaling=(shift, scale)"
        )
    if isinstance(estimator.class_weight, str):
        raise ValueError(
            f"class_weight={estimator.class_weight!r} is not supported for partial_fit, since it needs the counts of "
            "all rows; pass a dict {label: weight}, such as sklearn.utils.compute_class_weight finds on a large sample"
        )
    if estimator.schedule in ("adaptive", "step", "cosine"):
        raise ValueError(
            f"schedule={estimator.schedule!r} is for passes over the same rows, up to max_iter; for partial_fit use "
            "'constant', 'inverse' (the t-th call takes learning_rate / t) or 'auto'"
        )


def make_stream_solver(estimator: Any, problem: Problem) -> SGD:
    """One pass of SGD over the next part of a stream, with the velocity that the last one left."""
    objective, stream = problem.objective, problem.stream
    plan, rate = _plan(estimator, objective.features.n), estimator.learning_rate
    if rate == "auto":
        rate = float(automatic_learning_rate(objective, plan)[0]) if stream.wants_a_rate(plan.size) else stream.rate
    velocity = None
    if estimator.momentum > 0:
        W, b = start_weights(None, problem) if stream.last_step is None else _placed(problem, *stream.last_step)
        velocity = W / rate, b / rate
    return SGD(
        plan,
        steps=plan.steps_per_epoch,
        learning_rate=rate,
        momentum=float(estimator.momentum),
        nesterov=bool(estimator.nesterov),
        schedule="constant" if estimator.schedule == "auto" else estimator.schedule,
        epochs_before=stream.calls - 1,
        velocity=velocity,
    )


def stream_after(estimator: Any, problem: Problem, solver: SGD) -> Stream:
    """The stream once `solver` has made its pass."""
    stream, rate, last_step = problem.stream, float(solver.learning_rate), None
    if solver.velocity is not None:
        W, b = problem.objective.features.fold(*(rate * velocity for velocity in solver.velocity))
        last_step = problem.backend.to_numpy(W)[:, 0].T, problem.backend.to_numpy(b)[0]
    stream = replace(stream, last_step=last_step)
    if estimator.learning_rate != "auto" or rate == stream.rate:
        return stream
    return replace(stream, rate=rate, rate_rows=stream.rows, rate_batch=solver.plan.size)


def start_weights(model: Any, problem: Problem) -> tuple[Array, Array]:
    """W (d, 1, c) and b (1, c), on the device, in the problem's coordinates: a fitted model's, or zeros without one.

    Raises
    ------
    ValueError
        The model knows other classes, or another number of features.
    """
    features, c = problem.objective.features, len(problem.classes)
    xp = problem.backend.xp
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
    return _placed(problem, coef, b)


def _placed(problem: Problem, coef: Array, b: Array) -> tuple[Array, Array]:
    """W (d, 1, c) and b (1, c), on the device, in the problem's coordinates, from (c, d) and (c,) in raw space."""
    features, asarray = problem.objective.features, problem.backend.asarray
    if not problem.objective.fit_intercept:
        b = np.zeros(len(b))
    elif features.shift is not None:
        b = b + coef @ problem.backend.to_numpy(features.shift)
    W = coef.T if features.scale is None else coef.T * problem.backend.to_numpy(features.scale)[:, None]
    return (
        asarray(np.ascontiguousarray(W[:, None], features.dtype)),
        asarray(np.ascontiguousarray(b[None], features.dtype)),
    )


def publish(estimator: Any, problem: Problem, result: TrainResult) -> Any:
    """Write the fitted attributes: NumPy arrays in raw feature space, whatever the device was."""
    objective = problem.objective
    W, b = objective.features.fold(result.W, result.b)
    W, b = problem.backend.to_numpy(W)[:, 0], problem.backend.to_numpy(b)[0]
    if objective.has_free_intercept:
        b = b - b.mean()  # the objective does not care; back ends and solvers are to agree
    if float(objective.l2[0]) == 0:
        W = W - W.mean(axis=1, keepdims=True)
    if len(problem.classes) == 2:
        W, b = W[:, 1:] - W[:, :1], b[1:] - b[:1]
    estimator.classes_ = problem.classes
    estimator.coef_ = np.ascontiguousarray(W.T)
    estimator.intercept_ = np.ascontiguousarray(b)
    estimator.fit_report_ = _report(problem, result, float(estimator.tol))
    estimator.n_iter_ = estimator.fit_report_.n_iter
    estimator.history_ = result.history
    estimator.loss_curve_ = [float(record.objective) for record in result.history]
    estimator.stop_reason_ = result.reason
    estimator.weight_sum_ = problem.stream.weight
    estimator._stream = problem.stream
    estimator.backend_ = f"{problem.backend.name}: {problem.backend.reason}"
    return estimator


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
