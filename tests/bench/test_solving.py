"""The race of solvers under bench/: all are measured right, and the documents say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.solving import figures as solving_figures
from bench.solving import run as solving
from bench.solving.cases import CASES, Case, Problem, choose
from bench.solving.contenders.sklearn import RACERS, EnoughError, Judge, Racer, Trace
from bench.solving.contenders.sklearn import choose as choose_racers
from bench.throughput.cases import NotForThisError
from gpusoftmax import reference

ROOT = Path(__file__).resolve().parents[2]


def tiny(folder: Path | None) -> Any:
    """Three overlapping classes, offset and scaled."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    X = rng.standard_normal((3, 4))[y] + rng.standard_normal((200, 4))
    return 64 * X + 120, y, (np.full(4, 120.0), np.full(4, 64.0))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Case("tiny", "tiny", 0.1, tiny).problem(None)


def test_cases_and_racers_have_their_own_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({racer.name for racer in RACERS}) == len(RACERS)


def test_a_whole_name_chooses_one_case_and_its_start_several() -> None:
    assert [case.name for case in choose(["digits-1"])] == ["digits-1"]
    assert [case.name for case in choose(["digits"])] == ["digits-1", "digits-100"]
    with pytest.raises(ValueError, match="fits no case"):
        choose(["nothing"])
    with pytest.raises(ValueError, match="is not known"):
        choose_racers(["nobody"])


@pytest.mark.parametrize("size", [1.0, 100.0], ids=["", "confident"])
def test_the_judge_measures_what_the_specification_says(
    size: float, problem: Problem, rng: np.random.Generator
) -> None:
    W, b = size * rng.standard_normal((3, 4)), rng.standard_normal(3)
    value, _, _ = reference.loss_and_gradient(
        problem.scaled().astype(np.float64), problem.y, W.T[:, None], b[None], l2=problem.l2
    )
    assert Judge(problem)(W, b) == pytest.approx(float(value[0]), rel=1e-10)
    assert solving.in_float64(problem, W, b) == pytest.approx(float(value[0]), rel=1e-10)


@pytest.mark.parametrize("racer", RACERS, ids=lambda racer: racer.name)
def test_every_racer_reaches_the_optimum(racer: Racer, problem: Problem) -> None:
    if racer.absent():
        pytest.skip(racer.absent())
    judge = Judge(problem)
    best = solving.best_known(problem, judge)
    trace = solving.run(racer, problem, judge, goal=best * (1 + 1e-5), budget=30.0)
    seconds, reads, values = zip(*trace.points, strict=True)
    assert min(values) <= best * (1 + 1e-5)
    assert list(reads) == sorted(reads)
    assert all(second > 0 for second in seconds)
    assert trace.last is not None
    assert solving.in_float64(problem, *trace.last) == pytest.approx(values[-1], rel=1e-5)


def test_a_solver_whose_memory_would_not_suffice_is_absent() -> None:
    X, y = np.zeros((10, 3000), np.float32), np.arange(10)
    (newton,) = choose_racers(["sklearn-newton-cholesky"])
    with pytest.raises(NotForThisError, match="Hessian would take 7 GB"):
        solving.run(newton, Problem(CASES[0], X, y, None), Judge(Problem(CASES[0], X, y, None)), 0.0, 1.0)


def test_a_trace_ends_at_the_goal_and_when_the_time_is_up(problem: Problem) -> None:
    trace = Trace(Judge(problem), goal=1.0, budget=1e3)
    trace.add(1, 2.0)
    with pytest.raises(EnoughError):
        trace.add(2, 1.0)
    with pytest.raises(EnoughError):
        Trace(Judge(problem), goal=1.0, budget=0.0).add(1, 2.0)


def test_what_is_done_while_paused_does_not_count(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 6.0, 7.0])  # the pause begins, it ends, the point
    monkeypatch.setattr("bench.solving.contenders.sklearn.time.perf_counter", lambda: next(clock))
    trace = Trace(Judge(problem), goal=-1.0, budget=1e3, started=0.0)
    with trace.paused():
        pass
    trace.add(1, 2.0)
    assert trace.points[0][0] == 2.0


def test_nearness_is_reached_by_the_first_point_below() -> None:
    found = solving.reached([(0.1, 1, 2.0), (0.2, 2, 1.005), (0.3, 3, 1.00001)], 1.0)
    assert found == {"0.01": [0.2, 2], "0.001": [0.3, 3], "0.0001": [0.3, 3], "1e-06": None}


def test_long_traces_are_thinned_and_keep_their_ends() -> None:
    points = [(float(i), float(i), 1.0) for i in range(1000)]
    kept = solving.thinned(points)
    assert len(kept) == solving.POINTS
    assert (kept[0][0], kept[-1][0]) == (0.0, 999.0)
    assert solving.thinned(points[:3]) == [list(point) for point in points[:3]]


def test_a_run_writes_what_it_prints(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench.solving.run",
        "--case",
        "digits-1",
        "--racer",
        "gpusoftmax",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "solving.json").read_text())["results"]
    entry = result["racers"]["gpusoftmax"]
    assert result["best"] == pytest.approx(0.199526404, rel=1e-6)
    assert entry["end_in_float64"] == pytest.approx(entry["end"], rel=1e-9)
    assert entry["cold"] > entry["warm"]["0.0001"][0]
    assert f"{entry['warm']['0.0001'][0]:.4f}" in done.stdout


def test_cifar10_without_data_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert solving.main(["--case", "cifar10-1e-2"]) == 0
    assert "left out: cifar10-1e-2 needs --data DIR" in capsys.readouterr().err


# ---- documents


def found() -> Any:
    """Two cases, three racers, one of them absent."""

    def entry(seconds: float, reads: float) -> Any:
        near = {key: [seconds, reads] for key in ("0.01", "0.001", "0.0001")} | {"1e-06": None}
        return {"warm": near, "points": [[seconds / 2, reads / 2, 2.0], [seconds, reads, 1.00001]], "cold": 1.25}

    racers = {"gpusoftmax": entry(0.5, 10), "sklearn-lbfgs": entry(20.0, 99), "torch-adam": {"absent": "no"}}
    results = [
        {"case": case, "words": f"words of {case}", "best": 1.0, "racers": racers} for case in ("probe", "digits-100")
    ]
    facts = {"cores": 2, "processor": "x", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    return {"machine": facts, "results": results}


def test_tables_show_seconds_and_reads_the_fastest_in_bold() -> None:
    text = solving_figures.readme_text({"run": found()})
    assert "| words of probe | **0.5 (10)** | 20 (99) |" in text
    page = solving_figures.page_text({"run": found()})
    assert "| 1e-06 | > 0.5 | > 20 |" in page
    assert "| words of digits-100 | 1.25 | 1.25 |" in page


def test_the_documents_say_what_the_results_say() -> None:
    assert solving_figures.differences() == []


def test_stale_documents_are_found(tmp_path: Path) -> None:
    documents = [tmp_path / "README.md", tmp_path / "page.md"]
    for path in documents:
        path.write_text(f"a\n{solving_figures.BEGIN}old\n{solving_figures.END}b\n")
    (tmp_path / "run.json").write_text(json.dumps(found()))
    differing = solving_figures.differences(*documents, tmp_path, tmp_path / "figure.svg")
    assert [text.split()[0] for text in differing] == ["README.md:", "page.md:", "figure.svg"]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_the_figure_of_the_race_carries_the_digest_of_its_numbers(tmp_path: Path) -> None:
    results = {"run": found()}
    solving_figures.draw(results, tmp_path / "figure.svg")
    assert solving_figures.digest(results) in (tmp_path / "figure.svg").read_text()
