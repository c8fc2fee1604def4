"""Decides which solver an estimator's parameters ask for, and the settings of SGD. Nothing else decides this."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gpusoftmax.losses import LOSSES

# parameters that only SGD uses, and the values that None stands for; in 0.1.0 these were the constructors' defaults
SGD_DEFAULTS: dict[str, Any] = {
    "batch_size": "auto",
    "learning_rate": "auto",
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "auto",
}


@dataclass(frozen=True)
class SolverChoice:
    """A solver, "lbfgs" or "sgd", and why solver="auto" means it; `why` is empty if the user named the solver."""

    name: str
    why: str = ""


@dataclass(frozen=True)
class SgdSettings:
    """The parameters of SGD, with default values in place of None; see `SoftmaxClassifier`."""

    batch_size: int | str
    learning_rate: float | str
    momentum: float
    nesterov: bool
    schedule: str


def given_for_sgd(estimator: Any) -> list[str]:
    """The parameters of SGD that the user has set."""
    return [name for name in SGD_DEFAULTS if getattr(estimator, name) is not None]


def choose_solver(estimator: Any, varying: Collection[str] = ()) -> SolverChoice:
    """The solver that an estimator's parameters ask for; `varying` names the parameters that a grid sets.

    solver="auto" means SGD if one of SGD's parameters is set, in the estimator or in the grid, or if the loss has no
    curvature; otherwise L-BFGS.
    """
    if estimator.solver != "auto":
        return SolverChoice(str(estimator.solver))
    asked_for = {*given_for_sgd(estimator), *varying}
    given = [name for name in SGD_DEFAULTS if name in asked_for]
    if given:
        return SolverChoice("sgd", f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} set")
    if not LOSSES[estimator.loss].has_curvature:
        return SolverChoice("sgd", f"loss={estimator.loss!r} has no curvature")
    return SolverChoice("lbfgs", "no parameter of SGD is set")


def sgd_settings(estimator: Any, sparse: bool = False) -> SgdSettings:
    """The settings of SGD that an estimator asks for, for dense or sparse features.

    Raises
    ------
    ValueError
        Momentum or nesterov is set, and the features are sparse.
    """
    given = {name: getattr(estimator, name) for name in SGD_DEFAULTS}
    defaults = SGD_DEFAULTS
    if sparse:
        defaults = {**SGD_DEFAULTS, "momentum": 0.0}
        if given["nesterov"]:
            raise ValueError(
                "nesterov=True is a kind of momentum, which SGD does not have for sparse X: each step would change all "
                "weights; leave nesterov out, or use solver='lbfgs'"
            )
        if given["momentum"]:
            raise ValueError(
                f"momentum={given['momentum']!r} would make each step of SGD change all weights, where sparse X needs "
                "to change only those of the features that occur; leave momentum out, or use solver='lbfgs'"
            )
    return SgdSettings(**{name: defaults[name] if value is None else value for name, value in given.items()})


def without_old_defaults(parameters: dict[str, Any]) -> dict[str, Any]:
    """Convert parameters that 0.1.0 stored: if all of SGD's were left at their defaults, they become None.

    Today a value that is set, even to the default, asks for SGD.
    """
    untouched = all(name in parameters and parameters[name] == value for name, value in SGD_DEFAULTS.items())
    return parameters | dict.fromkeys(SGD_DEFAULTS) if untouched else parameters
