"""Checks of an estimator's parameters, one by one and in combination."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpusoftmax.checks.parameters import LOSS_HINTS, RATES, SOLVERS, hint
from gpusoftmax.checks.scalars import (
    check_batch_size,
    check_callbacks,
    check_choice,
    check_count,
    check_flag,
    check_learning_rate,
    check_number,
    check_verbose,
)
from gpusoftmax.estimators.solver_choice import given_for_sgd, sgd_settings
from gpusoftmax.losses import LOSSES
from gpusoftmax.solvers.sgd import SCHEDULES


def check_parameters(estimator: Any) -> None:
    """Check the constructor's parameters; the constructor itself does not, as scikit-learn requires.

    Raises
    ------
    ValueError, TypeError
        A parameter cannot be used, or not together with another; the message names it and the fix.
    """
    check_choice("loss", estimator.loss, estimator._losses, hint(estimator.loss, LOSS_HINTS))
    if estimator.C is not None and estimator.l2 is not None:
        raise ValueError(
            f"C={estimator.C!r} and l2={estimator.l2!r} say the same thing twice; pass one: l2 = 1 / (C * n) for a "
            "mean loss over n rows"
        )
    if estimator.C is not None and (np.ndim(estimator.C) or estimator.C != math.inf):
        check_number("C", estimator.C, least=0, above=True, words="C must be greater than 0; math.inf means no penalty")
    if estimator.l2 is not None:
        check_number("l2", estimator.l2, least=0)
    for name in ("fit_intercept", "penalize_intercept", "warm_start"):
        check_flag(name, getattr(estimator, name))
    if estimator.penalize_intercept and not estimator.fit_intercept:
        raise ValueError("penalize_intercept=True needs fit_intercept=True: there is no intercept to penalise")
    check_number("label_smoothing", estimator.label_smoothing, least=0, most=1, below=True)
    if estimator.label_smoothing and not LOSSES[estimator.loss].gives_probabilities:
        raise ValueError(
            f"label_smoothing={estimator.label_smoothing!r} needs loss='softmax' (SoftmaxClassifier), since a margin "
            f"has one right class; leave it at 0 for loss={estimator.loss!r}"
        )
    check_choice("solver", estimator.solver, ("auto", "lbfgs", "sgd"), hint(estimator.solver, SOLVERS))
    if estimator.solver == "lbfgs":
        _check_for_lbfgs(estimator)
    settings = sgd_settings(estimator)
    check_choice("schedule", settings.schedule, ("auto", *SCHEDULES))
    check_count("max_iter", estimator.max_iter)
    check_number("tol", estimator.tol, least=0)
    check_batch_size(settings.batch_size)
    check_learning_rate(settings.learning_rate, hint(settings.learning_rate, RATES))
    check_number("momentum", settings.momentum, least=0, most=1, below=True)
    check_flag("nesterov", settings.nesterov)
    check_verbose(estimator.verbose)
    check_callbacks(estimator.callbacks)
    if isinstance(estimator.scaling, str):
        check_choice("scaling", estimator.scaling, ("standard",))
    elif estimator.scaling is not None and not (isinstance(estimator.scaling, tuple) and len(estimator.scaling) == 2):
        raise ValueError(f"scaling={estimator.scaling!r} is not known; pass None, 'standard' or a pair (shift, scale)")


def _check_for_lbfgs(estimator: Any) -> None:
    """Refuse parameters and losses that only SGD can use, rather than ignore them."""
    if not LOSSES[estimator.loss].has_curvature:
        raise ValueError(
            f"loss={estimator.loss!r} has no curvature, which solver='lbfgs' needs; use loss='squared_hinge', or "
            "solver='sgd'"
        )
    for name in given_for_sgd(estimator):
        raise ValueError(
            f"{name}={getattr(estimator, name)!r} is for solver='sgd'; solver='lbfgs' uses all rows in each step and "
            f"finds its own step length: leave {name} out"
        )
