"""scikit-learn's own tests of LogisticRegression, with SoftmaxClassifier in its place.

Nothing of them is copied: the installed module is imported, the name LogisticRegression in it is replaced, and its
parametrizations are expanded. docs/sklearn-tests.md says which tests do not apply, and why; each other one has to pass.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.utils.fixes import COO_CONTAINERS, CSR_CONTAINERS

from gpusoftmax import SoftmaxClassifier

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "sklearn-tests.md").read_text(encoding="utf-8")
VERSION = "1.9"  # whose tests the page lists
if not sklearn.__version__.startswith(f"{VERSION}."):
    pytest.skip(f"docs/sklearn-tests.md is about scikit-learn {VERSION}", allow_module_level=True)
suite = pytest.importorskip("sklearn.linear_model.tests.test_logistic")

SAME_MINIMUM = ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")  # of the same objective; our solver finds it
SEED = 42  # scikit-learn's default for global_random_seed
KEPT = ("C", "tol", "fit_intercept", "class_weight", "random_state", "max_iter", "verbose", "warm_start")


ParameterSet = type(pytest.param())


class NoCounterpartError(Exception):
    """An argument of scikit-learn's for which we have none."""


def ours(**arguments: Any) -> SoftmaxClassifier:
    """LogisticRegression(**arguments), made by us."""
    solver = arguments.pop("solver", "lbfgs")
    neutral = {"l1_ratio": 0, "dual": False, "intercept_scaling": 1, "n_jobs": None}
    for name, value in arguments.items():
        if name not in KEPT and not (name in neutral and value == neutral[name]):
            raise NoCounterpartError(f"{name}={value!r}")
    if solver not in SAME_MINIMUM:
        raise NoCounterpartError(f"solver={solver!r}")
    return SoftmaxClassifier(solver="lbfgs", **{name: arguments[name] for name in KEPT if name in arguments})


def dense(X: Any, dtype: Any = None) -> Any:
    """In place of a sparse container."""
    return np.array(X, dtype=dtype)


def translated(value: Any) -> Any:
    if value is LogisticRegression:
        return ours
    return dense if any(value is container for container in (*CSR_CONTAINERS, *COO_CONTAINERS)) else value


def applies(values: dict[str, Any]) -> bool:
    """Whether a case of a parametrization is about what we have."""
    lacking = values.get("solver") == "liblinear" or values.get("l1_ratio", 0) != 0
    cross_validation = values.get("problem") == "cv" or any(value is LogisticRegressionCV for value in values.values())
    return not (lacking or cross_validation)


def cases(test: Any) -> Iterator[Any]:
    """Each case of a test's parametrizations, as pytest would run it."""
    marks = getattr(test, "pytestmark", [])
    axes = []
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, rows = mark.args
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        axis = []
        for row in rows:
            values = row.values if isinstance(row, ParameterSet) else (row,) if len(names) == 1 else row
            axis.append(dict(zip(names, values, strict=True)))
        axes.append(axis)
    for chosen in itertools.product(*axes):
        values = {name: value for part in chosen for name, value in part.items()}
        if not applies(values):
            continue
        label = "-".join(str(getattr(value, "__name__", value)) for value in values.values())
        yield pytest.param(
            test,
            {name: translated(value) for name, value in values.items()},
            id=f"{test.__name__}[{label}]",
            marks=[suite.pytestmark, *(mark for mark in marks if mark.name in ("filterwarnings", "skipif"))],
        )


TESTS = {name: test for name, test in vars(suite).items() if name.startswith("test_") and inspect.isfunction(test)}
RUN, APART = PAGE.split("## Not applicable")
PASSING = re.findall(r"^- `(test_\w+)`", RUN, re.M)
EXCLUDED = re.findall(r"^\| `(test_\w+)` \| \S", APART, re.M)


@pytest.mark.parametrize(("test", "values"), [case for name in PASSING if name in TESTS for case in cases(TESTS[name])])
def test_of_scikit_learn(test: Any, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SoftmaxClassifier] = []

    def make(**arguments: Any) -> SoftmaxClassifier:
        made.append(ours(**arguments))
        return made[-1]

    monkeypatch.setattr(suite, "LogisticRegression", make)
    monkeypatch.setattr(suite, "SOLVERS", SAME_MINIMUM)
    values = {name: make if value is ours else value for name, value in values.items()}
    if "global_random_seed" in inspect.signature(test).parameters:
        values["global_random_seed"] = SEED
    test(**values)
    assert made  # or it was a test of something else


def test_the_page_lists_each_test_once() -> None:
    assert sorted([*PASSING, *EXCLUDED]) == sorted(TESTS)


@pytest.mark.parametrize("name", PASSING)
def test_a_test_that_is_run_has_a_case_that_applies(name: str) -> None:
    assert list(cases(TESTS[name]))


@pytest.mark.parametrize(
    "arguments", [{"solver": "liblinear"}, {"penalty": "l2"}, {"l1_ratio": 0.5}, {"dual": True}, {"n_jobs": 1}], ids=str
)
def test_an_argument_without_a_counterpart_is_not_dropped(arguments: Any) -> None:
    with pytest.raises(NoCounterpartError, match=next(iter(arguments))):
        ours(**arguments)
