"""What identifies a fit, so that only the same fit continues from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.checkpoints.identity import digest_of, identity_of_machine, identity_of_objective
from gpusoftmax.estimators.problem import Problem
from gpusoftmax.trainer import EarlyStopping

WITHOUT_EFFECT = {"verbose", "n_threads", "backend", "warm_start"}  # on the bits; the backend is described by itself


def checkpoint_of_fit(
    estimator: Any, problem: Problem, start: tuple[Array, Array], path: Path | None, every: float
) -> Checkpoint | None:
    """Open the checkpoint of a fit from W (d, 1, c) and b (1, c), on the device; None if there is no path.

    Raises
    ------
    ValueError
        The file at `path` belongs to another run; the message says what differs.
    BadFileError, OSError
        It cannot be read.
    """
    if path is None:
        return None
    known = problem.stream.moments
    validation = {} if problem.validation is None else identity_of_objective(problem.validation)
    run = {
        "run": "fit",
        **identity_of_estimator(estimator),
        **identity_of_objective(problem.objective, None if known is None else (known.mean, known.variance)),
        "classes": digest_of(problem.classes),
        "start": digest_of(*map(problem.backend.to_numpy, start)),
        **{f"validation {name}": value for name, value in validation.items()},
        **identity_of_machine(problem.backend),
    }
    return Checkpoint(path, every, run)


def identity_of_estimator(estimator: Any) -> dict[str, Any]:
    """Identify an estimator by its class and those of its parameters that have an effect on the result."""
    parameters = estimator.get_params(deep=False)
    return {"estimator": type(estimator).__name__} | {
        name: plain_parameter(value) for name, value in parameters.items() if name not in WITHOUT_EFFECT
    }


def plain_parameter(value: Any) -> Any:
    """Return a parameter as JSON holds it: numbers and texts themselves, for anything else what identifies it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.random.RandomState):
        return f"RandomState {digest_of(*value.get_state(legacy=True))}"
    if isinstance(value, np.ndarray):
        return digest_of(value)
    if isinstance(value, dict):
        return sorted([repr(plain_parameter(key)), plain_parameter(one)] for key, one in value.items())
    if isinstance(value, tuple | list):
        return [plain_parameter(one) for one in value]
    if isinstance(value, EarlyStopping):
        return f"EarlyStopping(patience={value.patience}, tol={value.tol!r})"
    return type(value).__name__  # such as a user's function, whose memory is its own
