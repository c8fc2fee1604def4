"""The configurations that a sweep tries: every combination of the values in a grid.

"auto" in place of a list for C or l2 leaves the choice of the values to the sweep; see `auto_grid`.
"""

from __future__ import annotations

import inspect
import itertools
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone

from gpusoftmax.checks.parameters import in_place_of
from gpusoftmax.checks.scalars import is_plain
from gpusoftmax.estimators.classifiers import Estimator, SoftmaxClassifier
from gpusoftmax.estimators.parameters import check_parameters
from gpusoftmax.estimators.solver_choice import choose_solver

ON_ONE_AXIS = ("C", "l2", "learning_rate", "momentum", "class_weight")
PENALTY_NAMES = ("C", "l2")
AUTO = "auto"


def combinations(grid: Any) -> list[dict[str, Any]]:
    """Every combination of a grid's values, the last name's changing fastest; several grids one after another.

    AUTO is such a value, too; the grid AUTO means AUTO for C.

    Raises
    ------
    TypeError, ValueError
        The grid is not a dictionary of sequences, names something that cannot vary within a sweep, or is empty; or some
        of its combinations have AUTO, and others do not.
    """
    found: list[dict[str, Any]] = []
    grid = {"C": AUTO} if _is_auto(grid) else grid
    for part in grid if isinstance(grid, list | tuple) else [grid]:
        if not isinstance(part, Mapping):
            raise TypeError(
                f"grid={reprlib.repr(grid)} is a {type(grid).__name__}; pass a dictionary of lists, such as "
                "{'C': [0.01, 0.1, 1]}, a list of such dictionaries, or 'auto'"
            )
        for name, values in part.items():
            if name not in inspect.signature(SoftmaxClassifier).parameters:
                raise ValueError(f"grid has {name!r}, which is not a parameter: {in_place_of(name, ON_ONE_AXIS)}")
            if name not in ON_ONE_AXIS:
                raise ValueError(
                    f"grid has {name!r}, but only {', '.join(ON_ONE_AXIS)} can vary within one sweep; set {name} of "
                    "the estimator, and sweep once for each of its values"
                )
            if name in PENALTY_NAMES and _is_auto(values):
                continue
            if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
                raise TypeError(f"grid[{name!r}]={values!r} is a {type(values).__name__}; pass a list of values")
            if len(values) == 0:
                raise ValueError(f"grid[{name!r}] is empty; pass at least one value")
            if any(np.ndim(value) for value in values):  # a matrix, or a list within a list
                raise TypeError(f"grid[{name!r}]={reprlib.repr(values)} is not a list of single values; pass one")
        if set(PENALTY_NAMES) <= set(part):
            raise ValueError("grid has both C and l2, which say the same thing; pass one of them")
        if not part:
            raise ValueError("grid is empty; pass at least one name with its values, such as {'C': [0.01, 0.1, 1]}")
        found += [dict(zip(part, values, strict=True)) for values in itertools.product(*map(_plain, part.values()))]
    if not found:
        raise ValueError("grid is empty; pass at least one dictionary, such as {'C': [0.01, 0.1, 1]}")
    if len({penalty_to_find(one) is None for one in found}) > 1:
        raise ValueError("grid has 'auto' in some dictionaries and lists in others; sweep once for each kind")
    return [one for i, one in enumerate(found) if one not in found[:i]]


def _is_auto(values: Any) -> bool:
    return isinstance(values, str) and values == AUTO


def penalty_to_find(candidate: dict[str, Any]) -> str | None:
    """The name, "C" or "l2", whose values the sweep is to find; None if the candidate has a value."""
    return next((name for name in PENALTY_NAMES if _is_auto(candidate.get(name))), None)


def _plain(values: Any) -> list[Any]:
    """The values, with NumPy's numbers converted to Python's; AUTO is the only value then."""
    if _is_auto(values):
        return [AUTO]
    return [value.item() if hasattr(value, "item") else value for value in values]


def values_of(name: str, text: str) -> list[float]:
    """Parse numbers on the command line: START:STOP:COUNT, with equal ratios, or a list with commas.

    Raises
    ------
    ValueError
        The text is neither.
    """
    try:
        if not is_plain(text):
            raise ValueError
        if ":" in text:
            start, stop, count = (kind(part) for kind, part in zip((float, float, int), text.split(":"), strict=True))
            if not (start > 0 and stop > 0 and count > 1):
                raise ValueError
            return [float(f"{value:.6g}") for value in np.geomspace(start, stop, count)]
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{name} {text!r} is not a range of numbers; write START:STOP:COUNT, such as 1e-5:1e-1:20 (ends greater "
            "than 0, two values or more), or a list such as 0.1,1,10"
        ) from None


def configured(estimator: Estimator, candidates: list[dict[str, Any]]) -> list[Any]:
    """An estimator for each candidate, all with the same solver: L-BFGS unless one of them needs SGD.

    A penalty that is to be found is left out.

    Raises
    ------
    ValueError, TypeError
        A parameter cannot be used, as in an estimator's `fit`; or a penalty is to be found, and the solver is SGD.
    """
    estimators = []
    for candidate in candidates:
        given = {name: value for name, value in candidate.items() if name != penalty_to_find(candidate)}
        estimators.append(clone(estimator).set_params(**given))
    varying = {name for candidate in candidates for name in candidate}
    sgd = any(choose_solver(one, varying).name == "sgd" for one in estimators)
    if sgd and any(penalty_to_find(candidate) for candidate in candidates):
        why = next(choose_solver(one, varying).why for one in estimators) or "solver='sgd'"
        raise ValueError(f"'auto' in a grid is for L-BFGS, and {why}, which means SGD; pass values of C")
    for one in estimators:
        if one.solver == "auto":
            one.set_params(solver="sgd" if sgd else "lbfgs")
        check_parameters(one)
    return estimators
