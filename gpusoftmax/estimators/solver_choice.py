"""Which solver an estimator's parameters ask for, and the settings of SGD: the one place that knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gpusoftmax.losses import LOSSES

# parameters that only SGD has a use for, and what None means; 0.1.0 had these values as the constructors' defaults
SGD_DEFAULTS: dict[str, Any] = {
    "batch_size": "auto",
    "learning_rate": "auto",
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "auto",
}


@dataclass(frozen=True)
class SolverChoice:
    """A solver, "lbfgs" or "sgd", and why solver="auto" means it; `why` is empty where the user named it."""

    name: str
    why: str = ""


@dataclass(frozen=True)
class SgdSettings:
    """The parameters of SGD, with defaults in place of None; see `SoftmaxClassifier`."""

    batch_size: int | str
    learning_rate: float | str
    momentum: float
    nesterov: bool
    schedule: str


def given_for_sgd(estimator: Any) -> list[str]:
    """The parameters of SGD that the user has set."""
    return [name for name in SGD_DEFAULTS if getattr(estimator, name) is not None]


def choose_solver(estimator: Any, varying: Collection[str] = ()) -> SolverChoice:
    """The solver that an estimator's parameters ask for; `varying` are parameters that a grid sets.

    solver="auto" means SGD where one of its parameters is set, in the estimator or the grid, and for a loss without
    curvature, else L-BFGS.
    """
    if estimator.solver != "auto":
        return SolverChoice(str(estimator.solver))
    given = [name for name in SGD_DEFAULTS if name in varying or getattr(estimator, name) is not None]
    if given:
        return SolverChoice("sgd", f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} set")
    if not LOSSES[estimator.loss].has_curvature:
        return SolverChoice("sgd", f"loss={estimator.loss!r} has no curvature")
    return SolverChoice("lbfgs", "no parameter of SGD is set")


def sgd_settings(estimator: Any) -> SgdSettings:
    """The settings of SGD that an estimator asks for."""
    given = {name: getattr(estimator, name) for name in SGD_DEFAULTS}
    return SgdSettings(**{name: SGD_DEFAULTS[name] if value is None else value for name, value in given.items()})


def without_old_defaults(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as 0.1.0 stored them, with None for those of SGD if they were all left at their defaults there.

    Today a value that is set, even to the default, asks for SGD.
    """
    untouched = all(name in parameters and parameters[name] == value for name, value in SGD_DEFAULTS.items())
    return parameters | dict.fromkeys(SGD_DEFAULTS) if untouched else parameters
