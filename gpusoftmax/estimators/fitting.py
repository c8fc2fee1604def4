"""Makes the solver for an objective, and writes its solution as fitted attributes.

`make_solver` makes the solver, `trainer.train` runs it, and `set_fitted` writes the attributes, for unscaled features.
"""

from __future__ import annotations

import math
import reprlib
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.labels import check_classes
from gpusoftmax.checks.messages import brief, warn_user
from gpusoftmax.checks.scalars import check_random_seed
from gpusoftmax.estimators.partial_fit import Stream
from gpusoftmax.estimators.prediction import weights_of
from gpusoftmax.estimators.problem import Problem
from gpusoftmax.estimators.solver_choice import SgdSettings, SolverChoice, choose_solver, sgd_settings
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import Solver
from gpusoftmax.solvers.certificate import Certificate, FitReport, Measured, certify
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.sgd import SGD, automatic_learning_rate
from gpusoftmax.trainer import TrainResult

AUTOMATIC_BATCH = 256  # rows: enough that the overhead of a step does not matter, few enough for many steps per epoch
FEWEST_CLASSES = 0.5  # of those that a block of rows would have in random order: below it, a warning says so
SPARSE_BATCH = 32  # the same for sparse features, where a step takes time in proportion to the entries of its rows


def make_solver(estimator: Any, objective: Objective, sample: GramSample | None = None) -> Solver:
    """The solver that the parameters ask for; in a sweep with L-BFGS, `sample` is shared by all models."""
    seed = check_random_seed(estimator.random_state)
    if choose_solver(estimator).name == "lbfgs":
        return LBFGS(int(estimator.max_iter), float(estimator.tol), seed, sample, relative=sample is not None)
    settings = sgd_settings(estimator, objective.features.is_sparse)
    plan = _plan(settings, objective, seed)
    if plan.blocks is not None and plan.size < plan.n:
        _warn_of_sorted_rows(objective, plan.blocks)
    return SGD(
        plan,
        steps=plan.steps_per_epoch * int(estimator.max_iter),
        learning_rate=settings.learning_rate,
        momentum=float(settings.momentum),
        nesterov=bool(settings.nesterov),
        schedule="adaptive" if settings.schedule == "auto" else settings.schedule,
        tol=float(estimator.tol),
    )


def _warn_of_sorted_rows(objective: Objective, blocks: tuple[int, int]) -> None:
    """Warn if blocks of rows that are shuffled together miss most of the classes: the rows are sorted by label."""
    labels = objective.backend.to_numpy(objective.labels)[
        objective.features.row_numbers(np.arange(objective.features.n))
    ]
    rows, c = blocks[0], objective.n_classes
    firsts = range(0, len(labels) - rows + 1, rows)
    if len(firsts) < 2:
        return
    expected = float((1 - (1 - np.bincount(labels, minlength=c) / len(labels)) ** rows).sum())  # classes in a block
    found = float(np.mean([len(np.unique(labels[first : first + rows])) for first in firsts]))
    if found < FEWEST_CLASSES * expected:
        warn_user(
            f"the rows in the files are sorted: a block of {rows} rows has {found:.1f} classes, where in random order "
            f"it would have {expected:.1f}, and SGD shuffles the rows of some blocks at a time. Write the rows in "
            "random order once, or use solver='lbfgs', which does not depend on their order",
            UserWarning,
        )


def _plan(settings: SgdSettings, objective: Objective, seed: int) -> BatchPlan:
    n = objective.features.n
    sizes = {"auto": SPARSE_BATCH if objective.features.is_sparse else AUTOMATIC_BATCH, "full": n}
    size = sizes[settings.batch_size] if isinstance(settings.batch_size, str) else int(settings.batch_size)
    return BatchPlan(n, size, seed=seed, blocks=objective.features.shuffled_blocks)


def start_stream(estimator: Any, classes: Any) -> Stream:
    """The stream that a call of partial_fit continues: the model's, or a new one that starts at the current model.

    Raises
    ------
    ValueError
        `classes` are not those of the model, or a parameter has no meaning when rows arrive in parts.
    """
    _check_for_stream(estimator)
    known = None
    if hasattr(estimator, "coef_"):
        known = np.sort(weights_of(estimator)[0])
    if classes is not None:
        classes = check_classes(classes)
        if known is not None and not np.array_equal(classes, known):
            raise ValueError(
                f"classes={reprlib.repr(classes.tolist())} is not the same as on last call to partial_fit or fit, "
                f"was: {reprlib.repr(known.tolist())}; leave classes out, or clone the estimator to start anew"
            )
    if known is None:
        return Stream(classes)
    fitted = hasattr(estimator, "n_iter_")  # otherwise the weights were set by hand, and no row has been seen yet
    if estimator.l2 is None and fitted and not hasattr(estimator, "weight_sum_"):
        raise ValueError(
            "the model comes from a file that does not say how many rows it has seen, which C needs; pass l2 instead"
        )
    return getattr(estimator, "_stream", None) or Stream(known, getattr(estimator, "weight_sum_", 0.0))


def _check_for_stream(estimator: Any) -> None:
    """Refuse parameters that need all rows at once, rather than ignore them."""
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
    """SGD for one pass over the next rows of a stream, with the velocity left by the previous call."""
    objective, stream = problem.objective, problem.stream
    settings = sgd_settings(estimator, objective.features.is_sparse)
    plan = _plan(settings, objective, check_random_seed(estimator.random_state))
    rate: Any = settings.learning_rate
    if rate == "auto":
        rate = float(automatic_learning_rate(objective, plan)[0]) if stream.needs_new_rate(plan.size) else stream.rate
    velocity = None
    if settings.momentum > 0:
        W, b = start_weights(None, problem) if stream.last_step is None else _to_coordinates(problem, *stream.last_step)
        velocity = W / rate, b / rate
    return SGD(
        plan,
        steps=plan.steps_per_epoch,
        learning_rate=rate,
        momentum=float(settings.momentum),
        nesterov=bool(settings.nesterov),
        schedule="constant" if settings.schedule == "auto" else settings.schedule,
        epochs_before=stream.calls - 1,
        velocity=velocity,
    )


def stream_after(estimator: Any, problem: Problem, solver: SGD) -> Stream:
    """The stream after the pass that `solver` has made."""
    stream, rate, last_step = problem.stream, float(solver.learning_rate), None
    if solver.velocity is not None:
        W, b = problem.objective.features.fold(*(rate * velocity for velocity in solver.velocity))
        last_step = problem.backend.to_numpy(W)[:, 0].T, problem.backend.to_numpy(b)[0]
    stream = replace(stream, last_step=last_step)
    if sgd_settings(estimator).learning_rate != "auto" or rate == stream.rate:
        return stream
    return replace(stream, rate=rate, rate_rows=stream.rows, rate_batch=solver.plan.size)


def start_weights(model: Any, problem: Problem) -> tuple[Array, Array]:
    """W (d, 1, c) and b (1, c) to start from, on the device, in the problem's coordinates: the model's, or zeros.

    Raises
    ------
    ValueError
        The model has other classes, or another number of features.
    """
    features, c = problem.objective.features, len(problem.classes)
    xp = problem.backend.xp
    if model is None:
        return xp.zeros((features.d, 1, c), features.dtype), xp.zeros((1, c), features.dtype)
    try:
        known, coef, b = weights_of(model)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"start_from is a {type(model).__name__} without classes_, coef_ (c, d), or (1, d) for two classes, and "
            "intercept_ (c,) or (1,), as arrays; pass a fitted linear classifier that has one row of weights per class "
            f"({brief(error)})"
        ) from None
    order = np.argsort(known)  # classes that were set by hand may not be sorted
    known = known[order]
    if known.shape != problem.classes.shape or (known != problem.classes).any():
        raise ValueError(
            f"y has the classes {reprlib.repr(problem.classes.tolist())}, but the model that training is to start from "
            f"has {reprlib.repr(known.tolist())}; fit from zero instead (without start_from, warm_start=False)"
        )
    if coef.shape[1] != features.d:
        raise ValueError(
            f"X has {features.d} features, but the model that training is to start from has {coef.shape[1]}; "
            "fit from zero instead (without start_from, warm_start=False)"
        )
    coef, b = coef.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(coef).all() and np.isfinite(b).all()):
        raise ValueError("start_from has weights that are NaN or infinite; fit from zero instead")
    if c == 2:
        coef, b = np.vstack([-coef, coef]) / 2, np.append(-b, b) / 2
    return _to_coordinates(problem, coef[order], b[order])


def _to_coordinates(problem: Problem, coef: Array, b: Array) -> tuple[Array, Array]:
    """Return W (d, 1, c) and b (1, c) in the problem's coordinates, on the device, from those of unscaled features."""
    features, asarray = problem.objective.features, problem.backend.asarray
    W, b = features.scaled_weights(coef, b)
    if not problem.objective.fit_intercept:
        b = np.zeros(len(b))
    return (
        asarray(np.ascontiguousarray(W[:, None], features.dtype)),
        asarray(np.ascontiguousarray(b[None], features.dtype)),
    )


class AllOrNothing:
    """Restore the estimator's attributes if the block ends with an exception; Ctrl-C raises one at any place."""

    def __init__(self, estimator: Any) -> None:
        self.estimator, self.before = estimator, vars(estimator).copy()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self.estimator.__dict__ = self.before


def set_fitted(estimator: Any, problem: Problem, result: TrainResult, choice: SolverChoice | None = None) -> Any:
    """Write the fitted attributes: NumPy arrays for unscaled features, whichever backend was used.

    `choice` is the solver that was used; by default the one that the parameters ask for.
    """
    set_weights(estimator, problem.objective, problem.classes, result.W, result.b)
    estimator.fit_report_ = _report(problem, result, float(estimator.tol), choice or choose_solver(estimator))
    set_history(estimator, problem, result)
    return estimator


def set_history(estimator: Any, problem: Problem, result: TrainResult) -> None:
    """Write the fitted attributes that describe the training, besides the report."""
    estimator.n_features_in_ = problem.objective.features.d  # not set yet if the weights were set by hand
    estimator.n_iter_ = n_iterations(result)
    estimator.history_ = result.history
    estimator.loss_curve_ = [float(record.objective) for record in result.history]
    estimator.stop_reason_ = result.reason.value
    estimator.weight_sum_ = problem.stream.weight
    estimator._stream = problem.stream
    estimator.backend_ = f"{problem.backend.name}: {problem.backend.reason}"


def n_iterations(result: TrainResult) -> int:
    """The steps of L-BFGS or the epochs of SGD, which max_iter limits."""
    return math.ceil(result.passes) if result.iterations is None else int(result.iterations[0])


def set_weights(estimator: Any, objective: Objective, classes: Array, W: Array, b: Array) -> None:
    """Write classes_, coef_ and intercept_ from W (d, 1, c) and b (1, c) in the objective's coordinates."""
    W, b = objective.features.fold(W, b)
    W, b = objective.backend.fetch(W[:, 0], b[0])
    if objective.has_free_intercept:
        b = b - b.mean()  # the objective does not depend on the mean; backends and solvers must agree
    if objective.penalty_on_host.is_zero()[0]:  # then the objective depends on no feature's mean weight either
        W = W - W.mean(axis=1, keepdims=True)
    if len(classes) == 2:
        W, b = W[:, 1:] - W[:, :1], b[1:] - b[:1]
    vars(estimator).pop("temperature_", None)  # that of an earlier fit
    estimator.classes_ = classes
    estimator.coef_ = np.ascontiguousarray(W.T)
    estimator.intercept_ = np.ascontiguousarray(b)


def _report(problem: Problem, result: TrainResult, tol: float, choice: SolverChoice) -> FitReport:
    """How the fit ended; for L-BFGS with a bound on the distance from the optimum."""
    started, exact, kept = time.perf_counter(), result.gradient_norm is not None, None
    if exact:
        measured, norm = result.measured, result.gradient_norm
        known = None if measured is None or norm is None else Measured(*measured, norm)
        found = certify(problem.objective, result.W, result.b, result.passes, known)[0]
    else:
        last = float(result.history[-1].objective) if result.history else math.nan  # interrupted in the first pass
        found = Certificate(last, None, None, None, "SGD does not go to the optimum")
    if problem.validation is not None and result.history:
        kept = min(result.history, key=lambda record: float(record.validation_loss)).passes
    return FitReport(
        solver=choice.name,
        reason=result.reason.value,
        n_iter=n_iterations(result),
        passes=result.passes,
        seconds=result.seconds + time.perf_counter() - started,
        tol=tol,
        kept=kept,
        why_solver=choice.why,
        note=problem.objective.features.note,
        **asdict(found),
    )
