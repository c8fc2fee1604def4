"""Runs a fit: the solver on the problem, and the warning if it stopped before it reached its tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.estimators.fitting import make_solver, set_fitted
from gpusoftmax.estimators.problem import Problem, far_from_zero
from gpusoftmax.progress import progress_display
from gpusoftmax.solvers.base import Solver, StopReason
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import Callback, EarlyStopping, TrainResult, train


def solve(
    estimator: Any,
    problem: Problem,
    start: tuple[Array, Array],
    sample: GramSample | None = None,
    checkpoint: Checkpoint | None = None,
) -> str:
    """Train from W (d, 1, c) and b (1, c), on the device, and write the fitted attributes.

    Returns the warning for the user, see `shortfall`.
    """
    solver = make_solver(estimator, problem.objective, sample)
    callbacks: list[Callback] = list(estimator.callbacks)
    stops = any(isinstance(c, EarlyStopping) for c in callbacks)
    if problem.validation is not None and solver.may_stop_early and not stops:
        callbacks.append(EarlyStopping())
    result = train(
        problem.objective,
        solver,
        *start,
        validation=problem.validation,
        callbacks=callbacks,
        progress=progress_display() if estimator.verbose else None,
        checkpoint=checkpoint,
    )
    set_fitted(estimator, problem, result)
    return shortfall(estimator, result, solver, problem)


def shortfall(estimator: Any, result: TrainResult, solver: Solver, problem: Problem) -> str:
    """How far from tol training ended, and what helps; empty if it reached tol, or was not meant to."""
    if estimator.tol == 0:
        return ""
    if isinstance(solver, SGD):
        if result.reason != StopReason.FINISHED or not solver.may_stop_early:
            return ""
        return (
            f"the training objective still fell by more than tol={estimator.tol:g} within the last "
            f"{solver.patience} of max_iter={estimator.max_iter} passes: increase max_iter or tol"
            + ", or set scaling='standard'"
            * (not isinstance(estimator.scaling, str))
        )
    if result.gradient_norm is None or result.reason not in (StopReason.FINISHED, StopReason.PRECISION):
        return ""
    advice = f"all max_iter={estimator.max_iter} iterations were made: increase max_iter or tol"
    if result.reason == StopReason.PRECISION:
        dtype = np.dtype(problem.objective.features.dtype)
        helps = [] if dtype == np.float64 else ["pass X in float64"]
        if far := far_from_zero(problem):
            helps += [far]
        elif not isinstance(estimator.scaling, str):
            helps += ["set scaling='standard'"]
        advice = (
            f"rounding in {dtype.name} allows no further progress: "
            f"{', '.join([*helps, 'or pass a larger tol' if helps else 'pass a larger tol'])}"
        )
    return f"the largest entry of the gradient is {result.gradient_norm[0]:.2g}, above tol={estimator.tol:g}; {advice}"
