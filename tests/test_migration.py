"""docs/migration.md names each parameter and attribute of what it is about, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
CLASSES = [LogisticRegression, LogisticRegressionCV, SGDClassifier]
pytestmark = pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="the page is about scikit-learn 1.9")


def theirs(cls: Any) -> set[str]:
    """The names in the left columns of a class's section."""
    section = PAGE.split(f"## From scikit-learn's {cls.__name__}\n")[1].split("\n## ")[0]
    left = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return set(re.findall(r"`(\w+)", " ".join(left)))


@pytest.mark.parametrize("cls", CLASSES)
def test_each_parameter_has_a_row(cls: Any) -> None:
    assert set(cls().get_params()) - theirs(cls) == set()


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_fitted_attribute_has_a_row(cls: Any) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True)
    model = cls(max_iter=1000).fit(pandas.DataFrame(X / 10, columns=list("abcd")), y)
    fitted = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    assert fitted - theirs(cls) == set()


def test_the_example_runs() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
