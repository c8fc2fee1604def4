"""The benchmark of many classes runs every step of both contenders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import classes


def test_every_step_of_both_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "classes.json"
    assert classes.main(["--classes", "7", "--most-rows", "300", "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())["results"]
    assert (found["classes"], found["rows"]) == (7, 300)
    assert set(found["gpusoftmax"]) == set(classes.STEPS)
    assert set(found["scikit-learn"]) == set(classes.STEPS) - {"fit smoothed"}
    assert "| 7 | 300 |" in capsys.readouterr().out


def test_each_class_has_a_row() -> None:
    X, y = classes.data(500, 300)
    assert X.shape == (500, classes.FEATURES)
    assert len(np.unique(y)) == 500


def test_who_takes_too_long_is_stopped_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert classes.measured("gpusoftmax", 7, 300, budget=0.01) == {}
    assert "stopped after 0.01 s" in capsys.readouterr().err


def test_a_step_that_was_not_done_has_no_number() -> None:
    row = {"classes": 7, "rows": 300, "gpusoftmax": {"fit": 0.5}, "scikit-learn": {}}
    assert "| 0.5 / - | - / - |" in classes.table([row])
