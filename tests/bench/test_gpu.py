"""`bench gpu` runs to its end without a GPU, in every part; what it takes for right is right, and limits hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.gpu import data, kernel_calls, right, targets, truth
from bench.gpu.apart import EndedError, OutOfTimeError, Worker, explain
from bench.gpu.cases import CASES, SECONDS, Case, all_cases
from bench.gpu.contenders import CONTENDERS, WORK
from bench.throughput import cases as throughput
from bench.throughput.truth import truth as right_of
from gpusoftmax import SoftmaxClassifier, reference
from gpusoftmax.cuda.compile import kernel_folder
from tests.support.emulation import build, standin

ROOT = Path(__file__).resolve().parents[2]
NEEDS_BUILDING = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
EMULATED = [pytest.mark.emulated, NEEDS_BUILDING]


def on_the_standin(*arguments: str) -> list[str]:
    """The command line of a quick run without a GPU."""
    return ["gpu", *arguments, "--quick", "--stand-in"]


# ---- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    """Both phases on the stand-in: the exit code, the results and their folder."""
    folder = tmp_path_factory.mktemp("gpu")
    code = main([*on_the_standin(), "--out", str(folder)])
    return code, json.loads((folder / "gpu.json").read_text(encoding="utf-8")), folder


@pytest.mark.emulated
@NEEDS_BUILDING
def test_every_part_runs_to_its_end_without_a_gpu(finished: tuple[int, dict[str, Any], Path]) -> None:
    code, found, folder = finished
    faults = [result for result in found["results"] if "fault" in result and result["ours"]]
    assert faults == [], (folder / "gpu.log").read_text(encoding="utf-8")[-3000:]
    assert code == 0
    assert list(found["cases"]) == [case.name for case in all_cases(quick=True)]
    measured = {(result["case"], result["contender"]): result for result in found["results"]}
    for case in all_cases(quick=True):
        if case.phase == "fast" and case.kind != "ceilings":
            assert measured[case.name, "gpusoftmax"]["milliseconds"] > 0
    assert measured["tests", "pytest"]["passed"] == 1
    assert measured["memcheck", "sanitizer"] == {
        "case": "memcheck", "contender": "sanitizer", "ours": True, "absent": "needs a GPU",
    }  # fmt: skip


@pytest.mark.emulated
@NEEDS_BUILDING
def test_the_results_say_where_they_come_from(finished: tuple[int, dict[str, Any], Path]) -> None:
    _, found, folder = finished
    assert found["gpu"]["stand_in"]
    assert found["machine"]["versions"]["numpy"] == np.__version__
    assert found["cases"]["cifar-fit"]["data"] == "made, with CIFAR-10's shape"
    assert {"copy", "float32", "tf32", "bfloat16"} < set(found["results"][-1 + _index(found, "ceilings")])
    assert {path.name for path in folder.iterdir()} == {"gpu.json", "gpu.csv", "gpu.log", "gpu.txt"}
    printed = (folder / "gpu.txt").read_text(encoding="utf-8")
    assert "0 wrong" in printed
    assert "1 passed" in printed


def _index(found: dict[str, Any], case: str) -> int:
    """One more than the place of the case's first result."""
    return [result["case"] for result in found["results"]].index(case) + 1


@pytest.mark.emulated
@NEEDS_BUILDING
def test_every_target_is_held_against_a_figure(finished: tuple[int, dict[str, Any], Path]) -> None:
    _, found, _ = finished
    assert len(found["targets"]) == 6
    assert all(row["measured"] > 0 and row["met"] is not None for row in found["targets"])
    words = targets.in_words(found)
    assert "times below mean nothing" in words
    assert all(row["target"] in words for row in found["targets"])


def test_without_a_gpu_it_says_why(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.gpu.run.why_not", lambda stand_in: "the GPU is on holiday")
    assert main(["gpu", "--quick", "--out", str(tmp_path)]) == 1
    assert "on holiday" in capsys.readouterr().err


def test_cases_and_contenders_are_listed_without_a_gpu(capsys: Any) -> None:
    assert main(["gpu", "fast", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "cifar-fit" in listed
    assert "memcheck" not in listed


# ---- limits


@pytest.mark.parametrize("phase", SECONDS)
def test_the_limits_of_a_phase_fit_its_time(phase: str) -> None:
    assert 0.9 * SECONDS[phase] < sum(case.seconds for case in all_cases(phase)) <= SECONDS[phase]
    assert sum(SECONDS.values()) < 15 * 60 - 120  # and what starts a machine


def test_every_case_has_a_contender_of_ours() -> None:
    for case in CASES:
        assert any(one.ours and case.name in one.cases for one in CONTENDERS), case.name


def test_every_contender_has_cases() -> None:  # without any, the harness would let it take part in all
    assert all(one.cases for one in CONTENDERS)
    assert set(WORK) <= {one.name for one in CONTENDERS}


def test_a_case_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path: Path, monkeypatch: Any) -> None:
    worker = Worker(True, True, None, tmp_path / "log")
    monkeypatch.setattr(Worker, "_start", lambda self: _program(self, "sleeps"))
    chosen = [one for one in CONTENDERS if one.name in ("gpusoftmax", "torch", "jax")]
    slow = Case("slow", "", "pass", 0.5)
    try:
        results, _ = worker.measure(slow, chosen, lambda text: None)
        assert worker.process is None
    finally:
        worker.end()
    assert results["gpusoftmax"] == {"milliseconds": 1.0}
    assert "time of the case" in results["torch"]["fault"]
    assert results["jax"]["absent"].startswith("not reached: torch was stopped")


def test_a_process_that_dies_leaves_its_last_words(tmp_path: Path, monkeypatch: Any) -> None:
    worker = Worker(True, True, None, tmp_path / "log")
    monkeypatch.setattr(Worker, "_start", lambda self: _program(self, "dies"))
    chosen = [one for one in CONTENDERS if one.name in ("gpusoftmax", "torch")]
    results, _ = worker.measure(Case("x", "", "pass", 20.0), chosen, lambda text: None)
    assert results["torch"]["fault"] == "ended with 7: illegal address"
    assert results["gpusoftmax"] == {"milliseconds": 1.0}


def _program(worker: Worker, end: str) -> None:
    """A process that measures one contender, begins with the next, and then sleeps or dies."""
    import subprocess
    import sys

    text = f"""
import sys, time
sys.stdin.readline()
print('{{"contender": "gpusoftmax", "result": {{"milliseconds": 1.0}}}}', flush=True)
print('{{"contender": "torch", "doing": "first call"}}', flush=True)
if "{end}" == "dies":
    print("illegal address", file=sys.stderr, flush=True)
    sys.exit(7)
time.sleep(60)
"""
    with worker.log.open("ab") as errors:
        worker.process = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    worker.buffer = b""


def test_the_fault_is_that_of_who_was_at_work() -> None:
    def explained(current: str, reason: EndedError) -> dict[str, Any]:
        results: dict[str, Any] = {"a": {"milliseconds": 1.0}, "b": {"milliseconds": 2.0}}
        explain(results, ["a", "b", "c"], current, reason)
        return results

    assert explained("b", OutOfTimeError("late"))["b"] == {"milliseconds": 2.0}  # of rounds that are done
    assert explained("b", EndedError("dead"))["b"] == {"fault": "dead"}
    assert explained("b", EndedError("dead"))["a"] == {"milliseconds": 1.0}
    assert explained("c", OutOfTimeError("late"))["c"] == {"fault": "late"}
    assert explained("", EndedError("dead"))["a"] == {"fault": "dead"}


def test_a_command_that_takes_too_long_is_a_fault(tmp_path: Path) -> None:
    import sys

    slow = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    assert "not done after 0" in right.run_for(0.3, slow, tmp_path / "out.txt")["fault"]
    bad = [sys.executable, "-c", "print('so it goes'); raise SystemExit(3)"]
    assert right.run_for(30, bad, tmp_path / "out.txt")["fault"] == "ended with 3: so it goes"


# ---- what is taken for right


def small_problem(dtype: str) -> throughput.Problem:
    """A problem of a pass."""
    return throughput.make(throughput.Case("x", 130, 9, 4, dtype))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["float32", "uint8", "float16"])
def test_the_truth_on_the_device_is_that_of_the_reference(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    monkeypatch.setattr(truth, "BLOCK", 50)
    problem = small_problem(dtype)
    found = truth.gradient(problem, cupy.asarray(problem.X), cupy.asarray(problem.y))
    for one, expected in zip(found.answer, right_of(problem).answer, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("gpu")
def test_the_objective_of_a_fit_is_scikit_learns(rng: np.random.Generator) -> None:
    case = Case("x", "", "fit", 1.0, 200, 6, 3, "uint8")
    problem = truth.FitProblem(case, *data.made_images(200, 6, 3), "made")
    W, b, n = rng.standard_normal((6, 3)), rng.standard_normal(3), 200
    X = (problem.X - problem.X.mean(axis=0)) / 64
    losses, _ = reference.row_loss(X @ W + b, problem.y, "softmax")
    assert problem.objective(0.5, W, b) == pytest.approx(losses.mean() + (W**2).sum() / (2 * 0.5 * n), rel=1e-12)
    np.testing.assert_allclose(problem.scaled.get(), X, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_are_wrong_have_a_fault(dtype: str) -> None:
    problem = truth.rows_problem(Case("x", "", "rows", 1.0, n=16, c=12, dtype=dtype))
    answer = truth.rows_truth(problem)
    assert answer.fault((answer.total, answer.G)) == ""
    assert "loss" in answer.fault((np.nan, answer.G))
    assert "gradient" in answer.fault((answer.total, np.where(answer.G == answer.G.max(), 0, answer.G)))
    assert problem.scores.max() > np.log(np.finfo(np.float32).max)


def test_made_images_overlap_and_are_the_same_each_time() -> None:
    X, y = data.made_images(6000, 48, 10)
    again, _ = data.made_images(6000, 48, 10)
    np.testing.assert_array_equal(X, again)
    accuracy = SoftmaxClassifier(C=1e-2, scaling="standard", backend="numpy").fit(X, y).score(X, y)
    assert 0.15 < accuracy < 0.7
    assert 10 < X.std() < 120


def test_made_embeddings_have_rows_of_length_one() -> None:
    X, y = data.embeddings(5000, 64, 20)
    assert X.dtype == np.float16
    assert np.linalg.norm(X.astype(np.float64), axis=1).mean() == pytest.approx(1.0, abs=0.1)
    assert set(np.unique(y)) == set(range(20))


# ---- the program that calls every kernel


@pytest.mark.usefixtures("gpu")
def test_the_program_launches_every_kernel() -> None:
    for call in kernel_calls.CALLS.values():
        assert all(right for _, right in call(True))
    folder = kernel_folder()
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.cu") if path.name != "probe.cu"}
    names = {name for text in texts.values() for _, name in build.KERNEL.findall(text)}
    if standin.state.launches:  # which a real GPU does not count
        assert names <= set(standin.state.launches)


def test_a_wrong_result_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(kernel_calls, "why_not", lambda stand_in: "")
    monkeypatch.setattr(kernel_calls, "CALLS", {"a": lambda quick: iter([("good", True), ("bad", False)])})
    assert kernel_calls.main(["--quick"]) == 1
    assert capsys.readouterr().out == "WRONG: a: bad\na: 2 checks\n1 wrong\n"


def test_a_call_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails(quick: bool) -> Any:
        yield "good", True
        raise RuntimeError("illegal address")

    monkeypatch.setattr(kernel_calls, "why_not", lambda stand_in: "")
    monkeypatch.setattr(kernel_calls, "CALLS", {"a": fails, "b": lambda quick: iter([("good", True)])})
    assert kernel_calls.main([]) == 1
    told = "WRONG: a, after 1 checks: RuntimeError: illegal address\na: 1 checks\nb: 1 checks\n1 wrong\n"
    assert capsys.readouterr().out == told


# ---- targets


def results(**milliseconds: float) -> dict[str, Any]:
    """A result file, with the times of ours, and of a copy and of two products as copy_... and two_...."""
    found: dict[str, Any] = {"cases": {}, "results": [], "gpu": {"stand_in": True}}
    names = {"copy": "copy", "two": "two-products"}
    for key, time in milliseconds.items():
        first, _, rest = key.partition("_")
        case = (rest if first in names else key).replace("_", "-")
        found["results"].append(
            {
                "case": case,
                "contender": names.get(first, "gpusoftmax"),
                "ours": True,
                "milliseconds": time,
                "gigabytes_per_second": 1 / time,
            }
        )
    return found


def met(found: dict[str, Any]) -> dict[str, Any]:
    """Whether each target that has a figure is met."""
    return {row["target"]: row["met"] for row in targets.judged(found) if row["met"] is not None}


def test_the_slowest_rows_decide() -> None:
    good = {
        "rows_1000_float32": 1.0,
        "copy_rows_1000_float32": 0.95,
        "rows_10_float32": 1.0,
        "copy_rows_10_float32": 0.85,
    }
    assert list(met(results(**good)).values()) == [True, True]
    slow = good | {"rows_4096_float32": 1.0, "copy_rows_4096_float32": 0.85}
    assert list(met(results(**slow)).values()) == [False, True]


def test_times_are_held_against_their_targets() -> None:
    found = results(cifar_u8=1.0, two_cifar_u8=4.0, cifar_fit=49.0)
    assert list(met(found).values()) == [False, True]
    found = results(cifar_f32=0.2)
    found["cases"]["cifar-f32"] = {"n": 49_000, "d": 3072, "itemsize": 4}
    found["results"].append({"case": "ceilings", "contender": "device", "ours": True, "copy": 4.3e12})
    assert list(met(found).values()) == [True]
    assert targets.judged(found)[2]["measured"] == pytest.approx(0.2e-3 * 4.3e12 / (49_000 * 3072 * 4))


def test_nothing_measured_is_not_missed() -> None:
    assert met(results()) == {}
