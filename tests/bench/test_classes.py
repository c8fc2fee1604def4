"""The benchmark of many classes measures every step of both contenders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import classes
from bench.__main__ import main
from bench.common.pages import Link


@pytest.mark.slow
def test_every_step_of_both_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classes", "--quick", "--case", "10", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "classes.json").read_text())
    assert found["cases"]["10"]["rows"] == 300
    ours, theirs = found["results"]
    assert (ours["contender"], theirs["contender"]) == ("gpusoftmax", "sklearn")
    assert set(classes.STEPS) <= set(ours)
    assert set(classes.STEPS) - {"fit smoothed"} <= set(theirs)
    assert "10: 10 classes, 300 rows" in capsys.readouterr().out
    assert "| 10 | 300 |" in classes.section({"run": found}, Link(tmp_path / "page.md"))


def test_each_class_has_a_row() -> None:
    X, y = classes.Case(500, 300).data()
    assert X.shape == (500, classes.FEATURES)
    assert len(np.unique(y)) == 500


@pytest.mark.slow
def test_a_contender_that_takes_too_long_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--case", "10", "--contender", "gpusoftmax", "--budget", "0.01", "--out", str(tmp_path)]
    assert main(["classes", *options]) == 0
    assert "stopped after 0.01 s" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "classes.json").read_text())["results"]
    assert not set(classes.STEPS) & set(result)


def test_a_step_that_was_not_done_has_no_number(tmp_path: Path) -> None:
    facts = {"cores": 2, "processor": "P", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    found = {
        "machine": facts,
        "cases": {"7": {"rows": 300}},
        "results": [{"case": "7", "contender": "gpusoftmax", "fit": 0.5}],
    }
    assert "| 7 | 300 | 0.5 / - | - / - |" in classes.section({"run": found}, Link(tmp_path / "page.md"))
