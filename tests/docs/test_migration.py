"""docs/migration.md covers every parameter and attribute of the classes that it compares with ours."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.model_selection import GridSearchCV

from gpusoftmax import SoftmaxClassifier, SoftmaxClassifierCV, sweep

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
X, Y = load_iris(return_X_y=True)
OURS: dict[Any, Any] = {  # what has their parameters, and how an object with their attributes comes to be
    LogisticRegression: (SoftmaxClassifier, lambda X, y: SoftmaxClassifier().fit(X, y)),
    LogisticRegressionCV: (SoftmaxClassifierCV, lambda X, y: SoftmaxClassifierCV(Cs=2).fit(X, y)),
    SGDClassifier: (SoftmaxClassifier, lambda X, y: SoftmaxClassifier(solver="sgd").fit(X, y)),
    GridSearchCV: (sweep, lambda X, y: sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, y)),
}
pytestmark = [
    pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="the page is about scikit-learn 1.9"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def make(cls: Any) -> Any:
    return cls(LogisticRegression(max_iter=1000), {"C": [1.0]}) if cls is GridSearchCV else cls(max_iter=1000)


def rows(cls: Any) -> list[list[str]]:
    """Both columns of a class's tables."""
    section = PAGE.split(f"## From scikit-learn's {cls.__name__}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]


def names(texts: Any) -> set[str]:
    """Those that begin code."""
    return set(re.findall(r"`(\w+)", " ".join(texts)))


@pytest.mark.parametrize("cls", OURS)
def test_each_parameter_has_a_row(cls: Any) -> None:
    assert set(make(cls).get_params(deep=False)) - names(row[0] for row in rows(cls)) == set()


@pytest.mark.parametrize("cls", OURS)
def test_each_fitted_attribute_has_a_row(cls: Any) -> None:
    pandas = pytest.importorskip("pandas")
    model = make(cls).fit(pandas.DataFrame(X / 10, columns=list("abcd")), Y)
    fitted = {name for name in dir(model) if name.endswith("_") and not name.startswith("_")}
    assert fitted - names(row[0] for row in rows(cls)) == set()


@pytest.mark.parametrize("cls", OURS)
def test_what_is_the_same_is_there(cls: Any) -> None:
    pandas = pytest.importorskip("pandas")
    maker, fit = OURS[cls]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few values of C, the largest of which is far from converged
        model = fit(pandas.DataFrame(X / 10, columns=list("abcd")), Y)
    same = names(row[0] for row in rows(cls) if re.match("same|as `SoftmaxClassifier`", row[1]))
    assert same - {*inspect.signature(maker).parameters, *dir(model)} == set()


@pytest.mark.parametrize("cls", [LogisticRegressionCV, GridSearchCV])
def test_each_of_our_parameters_is_in_a_row(cls: Any) -> None:
    named = {"X", "y", *(word for row in rows(cls) for word in re.findall(r"\w+", " ".join(row)))}
    assert set(inspect.signature(OURS[cls][0]).parameters) - {"parameters"} - named == set()
