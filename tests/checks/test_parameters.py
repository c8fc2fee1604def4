"""Unknown parameters: the message names the class and the parameter to use instead."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, SoftmaxClassifierCV, sweep
from gpusoftmax.checks.parameters import INSTEAD, SOLVERS

OURS = [SoftmaxClassifier, LinearSVMClassifier, SoftmaxClassifierCV]
CUML = {
    *("penalty", "tol", "C", "fit_intercept", "class_weight", "max_iter", "linesearch_max_iter", "verbose"),
    *("l1_ratio", "solver", "handle", "output_type", "penalty_normalized", "lbfgs_memory"),
}
THEIRS = CUML.union(
    *(cls().get_params() for cls in (LogisticRegression, LogisticRegressionCV, LinearSVC)), {"multi_class"}
)
X, Y = [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]


@pytest.mark.parametrize("cls", OURS)
def test_each_parameter_of_other_libraries_is_ours_or_has_something_in_its_place(cls: Any) -> None:
    of_sgd = set() if cls is SoftmaxClassifierCV else set(SGDClassifier().get_params())
    assert (THEIRS | of_sgd) - set(cls().get_params()) - set(INSTEAD) == set()


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_unknown_argument_names_the_class_and_the_arguments(cls: Any, method: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{cls.__name__}\.{method}: .*'weights'; its arguments are X, y, .*sample_weight"
    ):
        getattr(cls(), method)(X, Y, weights=Y)


@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize(
    ("name", "words"),
    [("penalty", "of strength C or l2"), ("n_jobs", "n_threads"), ("max_itr", "did you mean max_iter")],
)
def test_an_unknown_parameter_names_the_class_and_what_takes_its_place(cls: Any, name: str, words: str) -> None:
    with pytest.raises(TypeError, match=f"^{cls.__name__} has no parameter '{name}': .*{words}"):
        cls(**{name: 1})
    with pytest.raises(ValueError, match=f"^Invalid parameter '{name}' for estimator {cls.__name__}: .*{words}"):
        cls().set_params(**{name: 1})


@pytest.mark.parametrize("cls", OURS)
def test_an_unknown_parameter_that_nothing_is_near_to_gets_them_all(cls: Any) -> None:
    with pytest.raises(TypeError, match=f"it has {', '.join(inspect.signature(cls).parameters)}$"):
        cls(frobnicate=1)


@pytest.mark.parametrize("cls", OURS)
def test_a_parameter_without_its_name_is_refused(cls: Any) -> None:
    values = [3, 1.0] if cls is SoftmaxClassifierCV else [1.0]
    with pytest.raises(TypeError, match=rf"^{cls.__name__} takes its parameters by name, .*; 1\.0 has no name"):
        cls(*values)


@pytest.mark.parametrize("cls", OURS)
def test_the_signature_is_seen_by_scikit_learn_and_by_people(cls: Any) -> None:
    names = list(inspect.signature(cls).parameters)
    assert sorted(names) == sorted(cls().get_params())
    assert clone(cls(max_iter=7)).set_params(tol=0.5).get_params() == cls(max_iter=7, tol=0.5).get_params()


def test_a_class_that_inherits_has_parameters_of_its_own() -> None:
    class Mine(SoftmaxClassifier):
        def __init__(self, *, C: float | None = None, extra: int = 1) -> None:
            super().__init__(C=C)
            self.extra = extra

    assert clone(Mine(C=2.0, extra=3)).extra == 3


@pytest.mark.parametrize(
    "name",
    sorted({"penalty", *GridSearchCV(None, {}).get_params()} - {"cv", "estimator", "refit", "scoring", "verbose"}),
)
def test_sweep_says_what_takes_the_place_of_an_argument(name: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"sweep has no argument '{name}': {INSTEAD[name]}")):
        sweep(SoftmaxClassifier(), {"C": [1.0]}, X, Y, **{name: 1})


def test_sweep_says_that_a_parameter_is_the_estimators() -> None:
    with pytest.raises(
        TypeError, match=r"no argument 'scaling': .*sweep\(SoftmaxClassifier\(scaling=\.\.\.\), grid, X, y\)"
    ):
        sweep(SoftmaxClassifier(), {"C": [1.0]}, X, Y, scaling="standard")


@pytest.mark.parametrize("given", [X, {"C": [1.0]}, SoftmaxClassifier], ids=["X", "the grid", "a class"])
def test_sweep_says_in_which_order_it_takes_estimator_grid_and_data(given: Any) -> None:
    with pytest.raises(TypeError, match=r"pass the estimator, the grid, and then the data, as in sweep"):
        sweep(given, Y, {"C": [1.0]}, X)


@pytest.mark.parametrize("parameters", [{"callbacks": [print]}, {"warm_start": True}], ids=str)
def test_sweep_refuses_what_only_fit_can_do(parameters: Any) -> None:
    with pytest.raises(ValueError, match="is for fit, not for a sweep"):
        sweep(SoftmaxClassifier(**parameters), {"C": [1.0]}, X, Y)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_of_other_libraries_is_named(solver: str) -> None:
    with pytest.raises(ValueError, match=f"solver='{solver}' is not known; .*; 'auto' is an exact solver"):
        SoftmaxClassifier(solver=solver).fit(X, Y)


@pytest.mark.parametrize(
    ("cls", "parameters", "words"),
    [
        (SoftmaxClassifier, {"loss": "log_loss"}, "that is 'softmax'"),
        (SoftmaxClassifier, {"loss": "hinge"}, "LinearSVMClassifier has it"),
        (LinearSVMClassifier, {"loss": "softmax"}, "SoftmaxClassifier has it"),
        (SoftmaxClassifier, {"learning_rate": "optimal"}, "'auto' finds it"),
        (SoftmaxClassifier, {"learning_rate": "invscaling"}, "schedule='inverse'"),
    ],
)
def test_a_value_of_other_libraries_is_explained(cls: Any, parameters: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"is not known; use .*; {words}"):
        cls(**parameters).fit(X, Y)
