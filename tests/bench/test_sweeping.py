"""The benchmark `sweeping`: results are checked before they count, and the documents say what was measured."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.common import process
from bench.common.harness import FORMAT
from bench.common.pages import Link
from bench.figures import differences, write
from bench.sweeping import figures
from bench.sweeping import run as sweeping
from bench.sweeping.cases import CASES, SCALE, Problem, make
from bench.sweeping.contenders import CONTENDERS, Contender
from bench.sweeping.contenders.base import Outcome, Watch, count
from bench.sweeping.truth import NEAR, ROUNDING, apart, choices, descended, fault, truth_of, value_and_slope
from gpusoftmax import reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {case.name: make(case.name, None, quick=True) for case in CASES}


@pytest.fixture(scope="module")
def truths(problems: dict[str, Problem]) -> dict[str, Any]:
    return {case: truth_of(problem) for case, problem in problems.items()}


def options(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": True, "data": None, "budget": 60.0} | more)


def by_name(case: str, name: str) -> Contender:
    return next(one for one in CONTENDERS if one.name == name and case in one.cases)


def test_contenders_have_their_own_names_and_a_case() -> None:
    assert len({(contender.cases, contender.name) for contender in CONTENDERS}) == len(CONTENDERS)
    assert {case for contender in CONTENDERS for case in contender.cases} == {case.name for case in CASES}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--quick", "--case", "path", "--contender", "torch"], "--contender 'torch' is not known"),
        (["--case", "cv", "--contender", "gpusoftmax"], "cv: pass --data DIR"),
    ],
)
def test_a_case_has_its_own_contenders_and_all_of_it_needs_cifar10(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sweeping", *options])
    assert reason in capsys.readouterr().err


def test_the_drawn_models_come_first_in_an_order_of_all(problems: dict[str, Problem]) -> None:
    problem = problems["cv"]
    assert sorted(problem.models) == [(i, k) for i in range(problem.size.folds) for k in range(problem.size.Cs)]
    assert problem.models[: len(problem.drawn)] == problem.drawn


# ---- what is right


def test_the_objective_is_the_specifications(problems: dict[str, Problem], rng: np.random.Generator) -> None:
    problem, (i, k) = problems["cv"], problems["cv"].drawn[0]
    rows = problem.splits[i][0]
    W, b = rng.standard_normal((10, problem.X.shape[1])), rng.standard_normal(10)
    value, dW, db = reference.loss_and_gradient(
        problem.X[rows] / SCALE, problem.y[rows], W.T[:, None], b[None],
        l2=1 / (problem.Cs[k] * len(rows)),
    )  # fmt: skip
    found, slope = value_and_slope(problem, (i, k), W, b)
    assert found == pytest.approx(float(value[0]), rel=1e-10)
    assert slope == pytest.approx(max(abs(dW).max(), abs(db).max()), rel=1e-10)


def test_the_truth_is_converged(truths: dict[str, Any]) -> None:
    assert max(truths["cv"]["gradient"] + truths["path"]["gradient"]) <= 1e-6  # tol is meant for centred features


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # scikit-learn's, that 100 steps are few
@pytest.mark.parametrize(
    ("case", "contender"),
    [pytest.param(case, one, id=f"{case}-{one.name}") for one in CONTENDERS for case in one.cases if case != "models"],
)
def test_every_contender_finds_what_is_right(
    case: str, contender: Contender, problems: dict[str, Problem], truths: dict[str, Any], tmp_path: Path
) -> None:
    if contender.absent():
        pytest.skip(contender.absent())
    problem, watch = problems[case], Watch(tmp_path / "tally", 60.0)
    watch.start()
    outcome = contender.run(problem, watch)()()
    result = sweeping.checked({"seconds": 1.0} | outcome.numbers, contender, problem, truths[case], outcome.models)
    assert "fault" not in result
    if contender.name == "own-auto":  # whose values of C are its own
        best = min(problem.Cs, key=lambda C: abs(np.log(C / result["found_C"])))
        assert abs(problem.Cs.index(best) - truths[case]["by_log_loss"]) <= 1
    elif contender.name not in ("own-grid", "sklearn-grid", "adelie"):  # which keep no models
        assert len(result["distances"]) == len(problem.drawn)
        assert max(result["distances"].values()) < NEAR
    if problem.has_folds and contender.name not in ("adelie", "own-auto"):
        assert abs(result["steps_by_accuracy"]) <= 1
        assert abs(result["steps_by_log_loss"]) <= 1


def test_incorrect_results_are_not_timed(problems: dict[str, Problem], truths: dict[str, Any]) -> None:
    problem = problems["cv"]
    zero = {model: (np.zeros((10, problem.X.shape[1])), np.zeros(10)) for model in problem.drawn}
    result = sweeping.checked({"seconds": 1.0}, by_name("cv", "gpusoftmax"), problem, truths["cv"], zero)
    assert "from what float64 says" in result["fault"]
    assert "seconds" not in result

    problem = problems["cs231n"]
    longer = {model: (1.01 * W, b) for model, (W, b) in descended(problem).items()}
    result = sweeping.checked({"seconds": 1.0}, by_name("cs231n", "numpy"), problem, truths["cs231n"], longer)
    assert "fault" in result
    assert "seconds" not in result


def test_what_is_better_than_the_optimum_or_not_finite_is_wrong_too() -> None:
    assert fault({"a": 1e-5}, NEAR) == ""
    assert fault({"a": -1e-3}, NEAR)
    assert fault({"a": float("nan")}, ROUNDING)


def test_among_equal_scores_the_strongest_penalty_is_chosen() -> None:
    assert choices(np.array([[0.5, 0.7, 0.7]]), np.array([[0.2, 0.2, 0.3]])) == {"by_accuracy": 1, "by_log_loss": 0}


# ---- the run


def test_models_survive_their_file(tmp_path: Path) -> None:
    models = {(0, 3): (np.ones((2, 3)), np.zeros(2)), (4, 1): (np.zeros((2, 3)), np.ones(2))}
    sweeping.save(tmp_path / "models.npz", models)
    found = sweeping.read(tmp_path / "models.npz")
    assert apart({(0, 3): models[0, 3]}, found) == {"0,3": 0.0}
    assert list(found) == list(models)


def test_one_model_after_another_ends_when_the_time_is_up(problems: dict[str, Problem], tmp_path: Path) -> None:
    contender, watch = by_name("cs231n", "own-runs"), Watch(tmp_path / "tally", 0.0)
    work = contender.run(problems["cs231n"], watch)
    watch.start()
    time.sleep(0.01)
    assert work()().models == {}
    assert watch.stopped
    assert (tmp_path / "tally").stat().st_size == 0


@pytest.mark.slow
def test_a_contender_that_does_not_stop_is_stopped_and_counted(
    problems: dict[str, Problem], truths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_apart(function: Any, arguments: Any, folder: Path, budget: float, checkout: Any) -> str:
        assert (budget, checkout) == (60.0 + sweeping.GRACE, None)
        count(folder / "tally", 7)
        return ""

    monkeypatch.setattr(sweeping, "run_apart", run_apart)
    result = sweeping.measure(by_name("cv", "gpusoftmax"), problems["cv"], truths["cv"], options())
    assert (result["over_budget"], result["done"], result["of"]) == (60.0, 7, 12)
    assert "seconds" not in result
    assert sweeping.time_in_words(result) == "> 60 s, 7 of 12 done"


@pytest.mark.slow
def test_a_contender_that_fails_says_why(
    problems: dict[str, Problem], truths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda command, **more: start([sys.executable, "-c", "import nothing"], **more)
    )
    result = sweeping.measure(by_name("cv", "gpusoftmax"), problems["cv"], truths["cv"], options())
    assert result["fault"] == "ModuleNotFoundError: No module named 'nothing'"


@pytest.mark.slow
def test_short_runs_are_repeated(
    problems: dict[str, Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = Contender("idle", "", lambda problem, watch: lambda: lambda: Outcome({"passes": 1.0}))
    sweeping.run(idle, problems["path"], tmp_path, 60.0)
    told = json.loads((tmp_path / "result.json").read_text())
    assert len(told["rounds"]) == sweeping.TIMES
    assert told["passes"] == 1.0
    assert capsys.readouterr().out == "ready\n"


@pytest.mark.slow
def test_a_run_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "sweeping", "--quick", "--out", str(tmp_path)]
    command += ["--case", "path", "--case", "models", "--contender", "gpusoftmax", "--contender", "width"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "sweeping.json").read_text())
    path, width = found["results"]
    assert (path["case"], path["contender"], width["contender"]) == ("path", "gpusoftmax", "width")
    assert f"{path['seconds']:.3f} s" in done.stdout
    assert path["call"].startswith("sweep(")
    assert set(width["seconds_by_width"]) == {"1", "4"}


@pytest.mark.parametrize("name", ["pass", "step"])
def test_time_is_told_by_the_number_of_models(name: str, problems: dict[str, Problem]) -> None:
    watch = Watch()
    watch.start()
    numbers = by_name("models", name).run(problems["models"], watch)()().numbers
    assert list(numbers["milliseconds"]) == ["1", "2", "4"]


# ---- documents


def found() -> Any:
    """All cases, with few contenders."""
    size = {"Cs": 3, "folds": 2, "side": 2}
    ours = {"contender": "gpusoftmax", "words": "gpusoftmax, sweep", "seconds": 2.0}
    slow = {"contender": "sklearn-cv", "words": "slow", "over_budget": 900.0, "done": 3, "of": 6, "seconds_each": 301.0}
    chosen = {"by_accuracy": 1, "steps_by_accuracy": 0, "by_log_loss": 2, "steps_by_log_loss": 1}
    path = [ours | {"peak_megabytes": 123.4}, {"contender": "own-fits", "words": "fits", "seconds": 5.0}]
    results = {
        "cv": [ours | chosen, slow, {"contender": "adelie", "words": "adelie", "absent": "no"}],
        "path": path,
        "cs231n": path,
        "models": [
            {"contender": "pass", "words": "p", "milliseconds": {"1": 10.0, "2": 8.0}},
            {"contender": "step", "words": "s", "milliseconds": {"1": 1.0, "2": 0.6}},
            {"contender": "width", "words": "w", "seconds_by_width": {"1": 4.0, "20": 9.0}},
        ],
    }
    facts = {"cores": 2, "processor": "x", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    return {
        "format": FORMAT,
        "machine": facts,
        "cases": {case: {"rows": 100, "size": size, "Cs": [1e-3, 1e-2, 1e-1]} for case in results},
        "results": [{"case": case} | result for case, some in results.items() for result in some],
    }


def test_the_table_says_who_was_stopped_and_which_c_was_chosen(tmp_path: Path) -> None:
    text = figures.section({"run": found()}, Link(tmp_path / "page.md"))
    assert "| gpusoftmax, sweep | 2 | 1 | 0.01 | 0.1 (+1) |" in text
    assert "| slow | > 900 (3 of 6 done, 301 s each) | > 450 | - | - |" in text
    assert "| fits | 5 | 2.5 | - | - |" in text
    assert "| a minibatch step of 200 rows | 1 | 0.6 |" in text
    assert "4 s with 1, 9 s with 20." in text
    assert "123 MB" in text
    assert "adelie" not in text


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    assert figures.section({}, Link(tmp_path / "page.md")) == ""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_a_stale_document_is_found_and_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- python -m bench figures: sweeping -->\nold\n<!-- end of sweeping -->\nb\n")
    (tmp_path / "sweeping").mkdir()
    (tmp_path / "sweeping" / "run.json").write_text(json.dumps(found()))
    places: Any = "sweeping", {"sweeping": page}, tmp_path, tmp_path
    assert [text.split()[0] for text in differences(*places)] == ["page.md:", "sweeping.svg"]
    write(*places)
    assert differences(*places) == []
