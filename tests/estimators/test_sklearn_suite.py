"""scikit-learn's own tests of LogisticRegression and LogisticRegressionCV, run with our classes.

Nothing is copied: the installed test module is imported, our classes replace its two, and its parametrizations are
expanded. docs/sklearn-tests.md lists the tests that do not apply, and why; every other one has to pass.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn

from gpusoftmax import SoftmaxClassifier, SoftmaxClassifierCV

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sklearn-tests.md").read_text(encoding="utf-8")
VERSION = "1.9"  # whose tests the page lists
if not sklearn.__version__.startswith(f"{VERSION}."):
    pytest.skip(f"docs/sklearn-tests.md is about scikit-learn {VERSION}", allow_module_level=True)
suite = pytest.importorskip("sklearn.linear_model.tests.test_logistic")

SAME_MINIMUM = ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")  # of the same objective; our solver finds it
STALLED = "ignore:.*rounding in float64 allows no further progress"
MARKS = {"test_logistic_regressioncv_class_weights": [pytest.mark.filterwarnings(STALLED)]}  # its tol is 1e-18
REFUSED = {"test_large_sparse_matrix": ("sag", "saga")}  # there, but not by us: indices of 64 bits
SEED = 42  # scikit-learn's default for global_random_seed
SHARED = ("tol", "fit_intercept", "class_weight", "random_state", "max_iter", "verbose")
KEPT = (*SHARED, "C", "warm_start")
KEPT_CV = (*SHARED, "Cs", "cv", "scoring", "refit")
NEUTRAL = {"dual": [False], "intercept_scaling": [1], "n_jobs": [None]}  # say what is the case here anyway

ParameterSet = type(pytest.param())


class NoCounterpartError(Exception):
    """An argument of scikit-learn's for which we have none."""


def ours(**arguments: Any) -> SoftmaxClassifier:
    """LogisticRegression(**arguments), made by us."""
    kept = with_counterparts(arguments, KEPT, NEUTRAL | {"l1_ratio": [0]})
    return SoftmaxClassifier(solver="lbfgs", **kept)


def ours_cv(**arguments: Any) -> SoftmaxClassifierCV:
    """LogisticRegressionCV(**arguments), made by us."""
    neutral = NEUTRAL | {"l1_ratios": [None, (0,), [0]], "use_legacy_attributes": [False]}
    return SoftmaxClassifierCV(**with_counterparts(arguments, KEPT_CV, neutral))


def with_counterparts(arguments: dict[str, Any], kept: tuple[str, ...], neutral: dict[str, Any]) -> dict[str, Any]:
    """Those that go on to ours, after a look at the others."""
    solver = arguments.pop("solver", "lbfgs")
    if solver not in SAME_MINIMUM:
        raise NoCounterpartError(f"solver={solver!r}")
    for name, value in arguments.items():
        if name not in kept and not (name in neutral and value in neutral[name]):
            raise NoCounterpartError(f"{name}={value!r}")
    return {name: value for name, value in arguments.items() if name in kept}


def applies(values: dict[str, Any]) -> bool:
    """Whether a case of a parametrization is about what we have."""
    lacking = values.get("solver") == "liblinear" or values.get("l1_ratio", 0) != 0
    return not (lacking or values.get("use_legacy_attributes", False))


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
        if not applies(values) or values.get("solver") in REFUSED.get(test.__name__, ()):
            continue
        label = "-".join(str(getattr(value, "__name__", value)) for value in values.values())
        yield pytest.param(
            test,
            values,
            id=f"{test.__name__}[{label}]",
            marks=[
                *(mark for mark in (suite.pytestmark, *marks) if mark.name in ("filterwarnings", "skipif")),
                *MARKS.get(test.__name__, []),
            ],
        )


TESTS = {name: test for name, test in vars(suite).items() if name.startswith("test_") and inspect.isfunction(test)}
RUN, APART = PAGE.split("## Not applicable")
LISTED = dict(re.findall(r"^- `(test_\w+)`(?:: `(\w+)` alone)?$", RUN, re.M))  # to the class that is replaced, or ""
PASSING = list(LISTED)
EXCLUDED = re.findall(r"^\| `(test_\w+)` \| \S", APART, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(("test", "values"), [case for name in PASSING if name in TESTS for case in cases(TESTS[name])])
def test_of_scikit_learn(test: Any, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    for name, make in (("LogisticRegression", ours), ("LogisticRegressionCV", ours_cv)):
        if LISTED[test.__name__] in ("", name):
            monkeypatch.setattr(suite, name, lambda make=make, **arguments: made.append(make(**arguments)) or made[-1])
    monkeypatch.setattr(suite, "SOLVERS", SAME_MINIMUM)
    seed = {"global_random_seed": SEED} if "global_random_seed" in inspect.signature(test).parameters else {}
    test(**values, **seed)
    assert made  # or it was a test of something else


def test_the_page_lists_each_test_once() -> None:
    assert sorted([*PASSING, *EXCLUDED]) == sorted(TESTS)


@pytest.mark.parametrize("name", PASSING)
def test_a_test_that_is_run_has_a_case_that_applies(name: str) -> None:
    assert list(cases(TESTS[name]))


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        *((make, one) for make in (ours, ours_cv) for one in ({"solver": "liblinear"}, {"penalty": "l2"})),
        *((make, one) for make in (ours, ours_cv) for one in ({"dual": True}, {"n_jobs": 1})),
        *((ours, one) for one in ({"l1_ratio": 0.5}, {"l1_ratio": None})),
        *((ours_cv, one) for one in ({"l1_ratios": (0, 1)}, {"use_legacy_attributes": True})),
    ],
)
def test_an_argument_without_a_counterpart_is_not_dropped(make: Any, arguments: Any) -> None:
    with pytest.raises(NoCounterpartError, match=next(iter(arguments))):
        make(**arguments)
