"""The benchmark `solving`: all solvers are measured right, and the documents say what was measured."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.common.harness import FORMAT, NotForThisError, Progress
from bench.common.pages import Link
from bench.figures import differences, write
from bench.solving import figures
from bench.solving import run as solving
from bench.solving.cases import CASES, Case, Problem, words
from bench.solving.contenders import CONTENDERS
from bench.solving.truth import EnoughError, Judge, Trace, best_known, in_float64
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


@pytest.fixture(scope="module")
def hinge() -> Problem:
    return Case("tiny", "tiny", 0.1, tiny, loss="squared_hinge").problem(None)


def test_cases_and_contenders_have_their_own_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)


@pytest.mark.parametrize("size", [1.0, 100.0], ids=["", "confident"])
def test_the_judge_measures_what_the_specification_says(
    size: float, problem: Problem, rng: np.random.Generator
) -> None:
    W, b = size * rng.standard_normal((3, 4)), rng.standard_normal(3)
    value, _, _ = reference.loss_and_gradient(
        problem.scaled().astype(np.float64), problem.y, W.T[:, None], b[None], l2=problem.l2
    )
    assert Judge(problem)(W, b) == pytest.approx(float(value[0]), rel=1e-10)
    assert in_float64(problem, W, b) == pytest.approx(float(value[0]), rel=1e-10)


def test_the_judge_knows_the_squared_hinge(hinge: Problem, rng: np.random.Generator) -> None:
    W, b = rng.standard_normal((3, 4)), rng.standard_normal(3)
    value, _, _ = reference.loss_and_gradient(
        hinge.scaled().astype(np.float64), hinge.y, W.T[:, None], b[None], l2=hinge.l2, loss="squared_hinge"
    )
    assert Judge(hinge)(W, b) == pytest.approx(float(value[0]), rel=1e-10)
    assert in_float64(hinge, W, b) == pytest.approx(float(value[0]), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_contender_reaches_the_optimum(contender: Any, loss: str, problem: Problem, hinge: Problem) -> None:
    if contender.absent() or loss not in contender.losses:
        pytest.skip(contender.absent() or "it has no such loss")
    problem = problem if loss == "softmax" else hinge
    judge = Judge(problem)
    best = best_known(judge)
    trace = solving.run(contender, problem, judge, goal=best * (1 + 1e-5), budget=30.0)
    seconds, passes, values = zip(*trace.points, strict=True)
    assert min(values) <= best * (1 + 1e-5)
    assert list(passes) == sorted(passes)
    assert all(second > 0 for second in seconds)
    assert trace.last is not None
    assert in_float64(problem, *trace.last) == pytest.approx(values[-1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_so_do_those_that_take_sparse_data(contender: Any) -> None:
    if contender.absent() or "softmax" not in contender.losses:
        pytest.skip(contender.absent() or "it has no softmax")
    (case,) = (case for case in CASES if case.name == "words")
    X, y, _ = words(None, n=300, d=90, c=3)
    problem = Problem(case, X, y, None)
    judge = Judge(problem)
    best = best_known(judge)
    try:
        trace = solving.run(contender, problem, judge, goal=best * (1 + 1e-5), budget=30.0)
    except NotForThisError as reason:
        pytest.skip(str(reason))
    assert trace.lowest <= best * (1 + 1e-5)
    assert in_float64(problem, *trace.last) == pytest.approx(trace.points[-1][2], rel=1e-5)


@pytest.mark.slow
def test_a_solver_whose_memory_would_not_suffice_is_absent() -> None:
    X, y = np.zeros((10, 3000), np.float32), np.arange(10)
    (newton,) = (one for one in CONTENDERS if one.name == "sklearn-newton-cholesky")
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
    monkeypatch.setattr("bench.solving.truth.time.perf_counter", lambda: next(clock))
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


@pytest.mark.slow
def test_a_run_writes_what_it_prints(tmp_path: Path) -> None:
    options = ["--case", "digits-1", "--contender", "gpusoftmax", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench", "solving", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "solving.json").read_text())
    (result,) = found["results"]
    assert found["cases"]["digits-1"]["best"] == pytest.approx(0.199526404, rel=1e-6)
    assert result["end_in_float64"] == pytest.approx(result["end"], rel=1e-9)
    assert result["cold"] > result["warm"]["0.0001"][0]
    assert f"{result['warm']['0.0001'][0]:.4f}" in done.stdout


def test_our_objective_is_a_fault_if_float64_does_not_confirm_it(problem: Problem) -> None:
    trace = Trace(Judge(problem), goal=0.0, budget=1e3, points=[(0.1, 1.0, 0.5)], last=(np.zeros((3, 4)), np.zeros(3)))
    result = solving.evaluated(problem, trace, 0.5, ours=True, unit=0.01)
    assert result["fault"] == f"wrong: objective 0.5, in float64 it is {np.log(3):.9g}"
    assert "warm" not in result
    trace.points = [(0.1, 1.0, float(np.log(3)))]
    result = solving.evaluated(problem, trace, float(np.log(3)), ours=True, unit=0.01)
    assert "fault" not in result
    assert result["all_in"]["0.0001"] == pytest.approx(10.0)  # 0.1 s of passes of 0.01 s


@pytest.mark.slow
def test_quick_takes_few_rows_and_starts_nothing_cold(tmp_path: Path) -> None:
    options = ["--quick", "--case", "separable", "--contender", "gpusoftmax", "--out", str(tmp_path)]
    assert main(["solving", *options]) == 0
    found = json.loads((tmp_path / "solving.json").read_text())
    assert found["cases"]["separable"]["n"] == 1000
    assert "cold" not in found["results"][0]


@pytest.mark.slow
def test_another_checkout_is_a_contender_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Here it is this one: the same passes to the same end, checked as ours are."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("gpusoftmax", "kernels"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quick", "--budget", "60", "--case", "digits-1", "--before", f"old={other}", "--out", str(tmp_path)]
    assert main(["solving", *options, "--contender", "gpusoftmax", "--contender", "old"]) == 0
    found = json.loads((tmp_path / "solving.json").read_text())
    ours, old = found["results"]
    assert (ours["contender"], old["contender"]) == ("gpusoftmax", "old")
    assert [near and near[1] for near in ours["warm"].values()] == [near and near[1] for near in old["warm"].values()]
    assert old["end"] == ours["end"]
    assert set(found["settings"]["before"]) == {"old"}


@pytest.mark.parametrize(
    ("before", "message"),
    [("/nowhere", "/nowhere has no folder gpusoftmax"), (f"sklearn-lbfgs={ROOT}", "is a contender's name")],
)
def test_what_is_no_checkout_is_refused(before: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["solving", "--list", "--before", before])
    assert message in capsys.readouterr().err


def test_the_best_of_several_rounds_counts(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 9.0, 0.5, 0.4, 0.3, 0.6])  # a warm-up of each, and two rounds in turns

    def run(contender: Any, problem: Any, judge: Any, goal: float, budget: float) -> Trace:
        return Trace(judge, goal, budget, points=[(next(seconds), 1.0, goal)])

    monkeypatch.setattr(solving, "run", run)
    benchmark = solving.Solving()
    benchmark.options, benchmark.budget = argparse.Namespace(rounds=2), 60.0
    traces, absent = benchmark._traces(list(CONTENDERS[:2]), problem, Judge(problem), 1.0, Progress(1))
    assert [trace.points[0][0] for trace in traces.values()] == [0.3, 0.4]
    assert absent == {}


def test_a_case_whose_file_is_not_there_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["solving", "--case", "minilm-10", "--data", str(tmp_path)])
    assert "left out: minilm-10 needs embeddings-minilm.npz in --data DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_cifar10_without_data_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["solving", "--case", "cifar10-1e-2"])
    assert "cifar10-1e-2: pass --data DIR" in capsys.readouterr().err
    options = ["--case", "cifar10-1e-2", "--case", "separable", "--contender", "gpusoftmax", "--quick"]
    assert main(["solving", *options, "--out", str(tmp_path)]) == 0
    assert "left out: cifar10-1e-2 needs --data DIR" in capsys.readouterr().err


# ---- documents


def found() -> Any:
    """Two cases, two contenders; a third one is absent."""

    def result(case: str, name: str, seconds: float, passes: float) -> Any:
        near = {key: [seconds, passes] for key in ("0.01", "0.001", "0.0001")} | {"1e-06": None}
        points = [[seconds / 2, passes / 2, 2.0], [seconds, passes, 1.00001]]
        all_in = {"0.0001": 10 * seconds}
        return {"case": case, "contender": name, "warm": near, "all_in": all_in, "points": points, "cold": 1.25}

    results = []
    for case in ("probe", "digits-100"):
        results += [result(case, "gpusoftmax", 0.5, 10), result(case, "sklearn-lbfgs", 20.0, 99)]
        results.append({"case": case, "contender": "torch-adam", "absent": "no"})
    cases = {case: {"words": f"words of {case}", "best": 1.0} for case in ("probe", "digits-100")}
    facts = {"cores": 2, "processor": "x", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    return {"format": FORMAT, "machine": facts, "cases": cases, "results": results}


def test_tables_show_seconds_and_passes_the_fastest_in_bold(tmp_path: Path) -> None:
    link = Link(tmp_path / "page.md")
    text = figures.section({"run": found()}, link)
    assert "| words of probe | **0.5 (10)** | 20 (99) | 5 |" in text
    assert "Adam" not in text
    page = figures.details({"run": found()}, link)
    assert "| 1e-06 | > 0.5 | > 20 |" in page
    assert "| words of digits-100 | 1.25 | 1.25 |" in page


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_stale_documents_are_found_and_written_anew(tmp_path: Path) -> None:
    pages = {section: tmp_path / f"{section}.md" for section in ("solving", "solving-details")}
    for section, path in pages.items():
        path.write_text(f"a\n<!-- python -m bench figures: {section} -->\nold\n<!-- end of {section} -->\nb\n")
    (tmp_path / "solving").mkdir()
    (tmp_path / "solving" / "run.json").write_text(json.dumps(found()))
    places: Any = "solving", pages, tmp_path, tmp_path
    assert [text.split()[0] for text in differences(*places)] == ["solving.md:", "solving-details.md:", "solving.svg"]
    write(*places)
    assert differences(*places) == []
