"""A type checker's view of a user's program that imports the installed package."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import gpusoftmax

pytest.importorskip("mypy")
pytestmark = pytest.mark.slow

# an assert_type that does not hold is an error, and so is a "type: ignore" behind which nothing is wrong
PROGRAM = """\
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import gpusoftmax as g
from gpusoftmax.array import Backend
from gpusoftmax.datasets import Dataset

Array = npt.NDArray[Any]
X, y, W, b = np.zeros((9, 2)), np.zeros(9), np.zeros((2, 3)), np.zeros(3)
learned = g.SoftmaxClassifier(C=0.1, callbacks=[g.EarlyStopping(patience=3)]).fit(X, y)
assert_type(learned, g.SoftmaxClassifier)
assert_type(learned.partial_fit(X, y), g.SoftmaxClassifier)
assert_type(learned.fit(X, y, checkpoint="run.ckpt", checkpoint_every=60.0), g.SoftmaxClassifier)
assert_type(learned.predict(X), Array)
assert_type(learned.predict_proba(X), Array)
assert_type(learned.decision_function(X), Array)
assert_type(learned.score(X, y), float)
assert_type(g.LinearSVMClassifier(loss="hinge").fit(X, y), g.LinearSVMClassifier)
assert_type(g.SoftmaxClassifierCV([0.1, 1.0]).fit(X, y), g.SoftmaxClassifierCV)
assert_type(g.load_digits(), Dataset)
assert_type(g.load_cifar10("folder"), Dataset)
assert_type(g.load_data("table.csv"), Dataset)
assert_type(g.open_rows(["a.npy", "b.npy"], memory_limit="2GB"), g.FileRows)
assert_type(learned.predict_proba(g.open_rows("X.npy"), out="p.npy"), Array)
# scikit-learn's Pipeline has no type
assert_type(g.load_model("model"), g.SoftmaxClassifier | g.LinearSVMClassifier | Any)
g.save_model(learned, "model")
assert_type(g.TableEncoder(kinds={"a": "category"}).fit({"a": [1, 2]}), g.TableEncoder)
assert_type(g.make_table_classifier(g.SoftmaxClassifier(), min_frequency=3), Any)
assert_type(g.loss_and_gradient(X, y, W, b), tuple[Any, Array, Array])
assert_type(g.softmax_cross_entropy(X, y), tuple[float, Array])
assert_type(g.gradient_check(X, y, W, b), list[g.GradientRecord])
assert_type(g.gradient_check(X, y, W, b)[0].relative_error, float)
assert_type(g.get_backend("cpu"), Backend)
swept = g.sweep(g.SoftmaxClassifier(), {"C": [0.1]}, X, y, checkpoint="sweep.ckpt")
assert_type(swept, g.SweepResult)
assert_type(swept.best_score_, float)
assert_type(g.fit_path(g.SoftmaxClassifier(), X, y, validation=(X, y)), g.SweepResult)
assert_type(g.linear_probe(X, y, X, y, protocol="clip"), g.ProbeResult)
assert_type(g.train_cs231n(X, y), g.SoftmaxClassifier | g.LinearSVMClassifier)
assert_type(g.sweep_cs231n(X, y, (X, y), learning_rates=[0.1], regs=[0.1]), g.CourseSweep)
g.report(swept, "page.html", data=(X, y))
g.save_onnx(learned, "model.onnx", input_type="uint8")
assert_type(g.scale_temperature(learned, X, y), g.SoftmaxClassifier)
g.SoftmaxClassifier(callbacks=[g.CsvLogger("fit.csv"), g.TensorBoardLogger("runs"), g.MlflowLogger(run_name="a")])
assert_type(g.__version__, str)


def stop(record: g.Record) -> bool:
    assert_type(record.passes, float)
    return True


def bound(report: g.FitReport) -> str:
    return report.reason


g.SoftmaxClassifier(callbacks=[stop])
try:
    pass
except g.DivergenceError as error:
    print(error.result)
except g.BackendUnavailableError as unavailable:
    assert_type(unavailable, g.BackendUnavailableError)
except g.BadFileError as bad:
    assert_type(bad.reason, str)
except g.ClusterError as lost:
    assert_type(lost, g.ClusterError)

g.SoftmaxClassifier(learning_rates=0.1)  # type: ignore[call-arg]
g.SoftmaxClassifier(C="strong")  # type: ignore[arg-type]
g.sweep(X, y, {"C": [0.1]})  # type: ignore[call-arg]
g.loss_and_gradient(X, y)  # type: ignore[call-arg]
g.save_model("model", learned)  # type: ignore[arg-type]
g.get_backend(0)  # type: ignore[arg-type]
g.SoftmaxRegressor  # type: ignore[attr-defined]
"""


@pytest.fixture(scope="module")
def checked(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """mypy's messages about PROGRAM, and about a line for each public name, from outside the package."""
    folder = tmp_path_factory.mktemp("user")
    names = [f"reveal_type(g.{name})" for name in gpusoftmax.__all__]
    (folder / "program.py").write_text("\n".join([PROGRAM, *names, ""]), encoding="utf-8")
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(environment)})) / "python"
    options = ["--strict", "--warn-unreachable", "--no-error-summary", "--python-executable", str(python)]
    mypy = [sys.executable, "-m", "mypy", *options, "--cache-dir", str(folder / "cache"), "program.py"]
    done = subprocess.run(mypy, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_program_is_typed_as_it_should_and_its_mistakes_are_found(checked: list[str]) -> None:
    assert [line for line in checked if "Revealed type" not in line] == []


def test_no_public_name_is_untyped(checked: list[str]) -> None:
    types = [found[1] for line in checked if (found := re.search(r'Revealed type is "(.*)"', line))]
    assert len(types) == len(gpusoftmax.__all__)
    assert "Any" not in types


def test_the_program_uses_every_public_name() -> None:
    assert {name for name in gpusoftmax.__all__ if not re.search(rf"\bg\.{name}\b", PROGRAM)} == set()
