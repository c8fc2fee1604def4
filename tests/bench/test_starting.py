"""The benchmark of starts times new processes, and compares the bits of their models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("numba")

from bench.__main__ import main
from bench.common.pages import Link
from bench.starting import run


@pytest.mark.slow
def test_new_processes_are_timed_with_and_without_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--case", "sparse-sgd", "--contender", "filled", "--contender", "sklearn"]
    assert main(["starting", *options, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "starting.json").read_text())
    assert [result["contender"] for result in found["results"]] == ["filled", "sklearn"]
    assert all(result[step] > 0 for result in found["results"] for step in run.TIMES)
    assert "sparse features, SGD" in capsys.readouterr().out
    assert "| sparse features, SGD | - | - |" in run.section({"run": found}, Link(tmp_path / "page.md"))


def test_medians_of_the_rounds_count() -> None:
    rounds = [dict.fromkeys(run.TIMES, seconds) for seconds in (1.0, 5.0, 2.0)]
    assert run.summary(rounds, differ=False) == dict.fromkeys(run.TIMES, 2.0) | {"rounds": rounds}


def test_models_of_other_bits_are_not_timed() -> None:
    assert set(run.summary([dict.fromkeys(run.TIMES, 1.0)], differ=True)) == {"fault"}


def test_a_process_that_fails_is_a_fault(tmp_path: Path) -> None:
    assert "no_such_type" in run.start("ours", run.Case("no_such_type"), tmp_path)["fault"]
