"""The race of sweeps under bench/: results are checked before they count, and the documents say what was measured."""

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

from bench.sweeping import figures as sweeping_figures
from bench.sweeping import run as sweeping
from bench.sweeping.cases import PARTS, SCALE, Problem, make
from bench.sweeping.contenders import ours as sweeping_peers
from bench.sweeping.contenders.ours import RACERS, Outcome, Racer, Watch, choose
from bench.sweeping.truth import NEAR, ROUNDING, apart, choices, descended, fault, value_and_slope
from gpusoftmax import reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {part: make(part, None, quick=True) for part in PARTS}


@pytest.fixture(scope="module")
def truths(problems: dict[str, Problem]) -> dict[str, Any]:
    return {part: sweeping.truth_of(problem) for part, problem in problems.items()}


def options(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": True, "data": None, "budget": 60.0} | more)


def test_racers_have_their_own_names_and_a_part() -> None:
    assert len({(racer.part, racer.name) for racer in RACERS}) == len(RACERS)
    assert {racer.part for racer in RACERS} == set(PARTS)


def test_racers_are_chosen_by_part_and_name() -> None:
    assert [racer.words for racer in choose(["cs231n"], ["torch"])] == ["PyTorch, 64 heads"]
    with pytest.raises(ValueError, match="is not known"):
        choose(["path"], ["torch"])


def test_all_of_it_needs_cifar10() -> None:
    with pytest.raises(ValueError, match="--data DIR"):
        make("cv", None, quick=False)


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


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # scikit-learn's, that 100 steps are few
@pytest.mark.parametrize("racer", [r for r in RACERS if r.part != "models"], ids=lambda r: f"{r.part}-{r.name}")
def test_every_racer_finds_what_is_right(
    racer: Racer, problems: dict[str, Problem], truths: dict[str, Any], tmp_path: Path
) -> None:
    if racer.absent():
        pytest.skip(racer.absent())
    problem, watch = problems[racer.part], Watch(tmp_path / "tally", 60.0)
    watch.start()
    outcome = racer.make(problem, watch)()()
    entry: Any = {"seconds": 1.0} | outcome.numbers
    sweeping.checked(entry, racer, problem, truths[racer.part], outcome.models)
    assert "fault" not in entry
    if racer.name not in ("own-grid", "sklearn-grid", "adelie"):  # which keep no models
        assert len(entry["distances"]) == len(problem.drawn)
        assert max(entry["distances"].values()) < NEAR
    if racer.part == "cv" and racer.name != "adelie":
        assert abs(entry["steps_by_accuracy"]) <= 1
        assert abs(entry["steps_by_log_loss"]) <= 1


def test_a_wrong_result_has_no_time(problems: dict[str, Problem], truths: dict[str, Any]) -> None:
    problem, (racer,) = problems["cv"], choose(["cv"], ["gpusoftmax"])
    zero = {model: (np.zeros((10, problem.X.shape[1])), np.zeros(10)) for model in problem.drawn}
    entry: Any = {"seconds": 1.0}
    sweeping.checked(entry, racer, problem, truths["cv"], zero)
    assert "from what float64 says" in entry["fault"]
    assert "seconds" not in entry

    problem, (racer,) = problems["cs231n"], choose(["cs231n"], ["numpy"])
    longer = {model: (1.01 * W, b) for model, (W, b) in descended(problem).items()}
    entry = {"seconds": 1.0}
    sweeping.checked(entry, racer, problem, truths["cs231n"], longer)
    assert "fault" in entry


def test_what_is_better_than_the_optimum_or_not_finite_is_wrong_too() -> None:
    assert fault({"a": 1e-5}, NEAR) == ""
    assert fault({"a": -1e-3}, NEAR)
    assert fault({"a": float("nan")}, ROUNDING)


def test_of_equal_scores_the_strongest_penalty_is_chosen() -> None:
    assert choices(np.array([[0.5, 0.7, 0.7]]), np.array([[0.2, 0.2, 0.3]])) == {"by_accuracy": 1, "by_log_loss": 0}


# ---- the race


def test_models_survive_their_file(tmp_path: Path) -> None:
    models = {(0, 3): (np.ones((2, 3)), np.zeros(2)), (4, 1): (np.zeros((2, 3)), np.ones(2))}
    sweeping.save(tmp_path / "models.npz", models)
    found = sweeping.read(tmp_path / "models.npz")
    assert apart({(0, 3): models[0, 3]}, found) == {"0,3": 0.0}
    assert list(found) == list(models)


def test_who_makes_one_after_another_stops_when_the_time_is_up(problems: dict[str, Problem], tmp_path: Path) -> None:
    (racer,), watch = choose(["cs231n"], ["own-runs"]), Watch(tmp_path / "tally", 0.0)
    work = racer.make(problems["cs231n"], watch)
    watch.start()
    time.sleep(0.01)
    assert work()().models == {}
    assert watch.stopped
    assert (tmp_path / "tally").stat().st_size == 0


def test_who_does_not_stop_is_stopped_and_counted(
    problems: dict[str, Problem], truths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(racer: Racer, options: argparse.Namespace, folder: Path) -> str:
        sweeping_peers.count(folder / "tally", 7)
        return ""

    monkeypatch.setattr(sweeping, "wait", wait)
    (racer,) = choose(["cv"], ["gpusoftmax"])
    entry = sweeping.race(racer, options(), problems["cv"], truths["cv"])
    assert (entry["over_budget"], entry["done"], entry["of"]) == (60.0, 7, 12)
    assert "seconds" not in entry
    assert sweeping.time_in_words(entry) == "> 60 s, 7 of 12 done"


def test_the_process_of_a_racer_is_ended_after_its_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweeping, "GRACE", 0.0)
    script = "import time; print('ready', flush=True); time.sleep(60)"
    start = subprocess.Popen
    monkeypatch.setattr(
        sweeping.subprocess, "Popen", lambda command, **more: start([sys.executable, "-c", script], **more)
    )
    assert sweeping.wait(RACERS[0], options(budget=0.5), tmp_path) == ""


def test_a_racer_that_fails_says_why(
    problems: dict[str, Problem], truths: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(
        sweeping.subprocess, "Popen", lambda command, **more: start([sys.executable, "-c", "import nothing"], **more)
    )
    entry = sweeping.race(RACERS[0], options(), problems["cv"], truths["cv"])
    assert entry["fault"] == "ModuleNotFoundError: No module named 'nothing'"


def test_short_runs_are_repeated(
    problems: dict[str, Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    racer = Racer("path", "idle", "", "", lambda problem, watch: lambda: lambda: Outcome({"passes": 1.0}))
    sweeping.run(racer, problems["path"], tmp_path, 60.0)
    told = json.loads((tmp_path / "result.json").read_text())
    assert len(told["rounds"]) == sweeping.TIMES
    assert told["passes"] == 1.0
    assert capsys.readouterr().out == "ready\n"


def test_a_run_writes_what_it_prints_and_keeps_other_parts(tmp_path: Path) -> None:
    out = tmp_path / "sweeping.json"
    out.write_text(json.dumps({"format": 1, "parts": {"cv": {"kept": True}}}))
    command = [sys.executable, "-m", "bench.sweeping.run", "--quick", "--out", out, "--label", "name"]
    command += ["--part", "path", "--part", "models", "--racer", "gpusoftmax", "--racer", "width"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["label"] == "name"
    assert found["parts"]["cv"] == {"kept": True}
    entry = found["parts"]["path"]["racers"]["gpusoftmax"]
    assert f"{entry['seconds']:.3f} s" in done.stdout
    assert entry["call"].startswith("sweep(")
    assert set(found["parts"]["models"]["racers"]["width"]["seconds_by_width"]) == {"1", "4"}


@pytest.mark.parametrize("name", ["pass", "step"])
def test_time_is_told_by_the_number_of_models(name: str, problems: dict[str, Problem]) -> None:
    (racer,), watch = choose(["models"], [name]), Watch()
    watch.start()
    numbers = racer.make(problems["models"], watch)()().numbers
    assert list(numbers["milliseconds"]) == ["1", "2", "4"]


# ---- documents


def found() -> Any:
    """All parts, of few racers."""
    size = {"Cs": 3, "folds": 2, "side": 2}
    ours = {"words": "gpusoftmax, sweep", "seconds": 2.0}
    slow = {"words": "slow", "over_budget": 900.0, "done": 3, "of": 6, "seconds_each": 301.0}
    chosen = {"by_accuracy": 1, "steps_by_accuracy": 0, "by_log_loss": 2, "steps_by_log_loss": 1}
    cv = {"gpusoftmax": ours | chosen, "sklearn-cv": slow, "adelie": {"words": "adelie", "absent": "no"}}
    path = {"gpusoftmax": ours | {"peak_megabytes": 123.4}, "own-fits": {"words": "fits", "seconds": 5.0}}
    models = {
        "pass": {"words": "p", "milliseconds": {"1": 10.0, "2": 8.0}},
        "step": {"words": "s", "milliseconds": {"1": 1.0, "2": 0.6}},
        "width": {"words": "w", "seconds_by_width": {"1": 4.0, "20": 9.0}},
    }
    parts = {
        part: {"rows": 100, "size": size, "Cs": [1e-3, 1e-2, 1e-1], "racers": racers}
        for part, racers in {"cv": cv, "path": path, "cs231n": path, "models": models}.items()
    }
    facts = {"cores": 2, "processor": "x", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    return {"machine": facts, "parts": parts}


def test_the_table_says_who_was_stopped_and_which_c_was_chosen() -> None:
    text = sweeping_figures.readme_text({"run": found()})
    assert "| gpusoftmax, sweep | 2 | 1 | 0.01 | 0.1 (+1) |" in text
    assert "| slow | > 900 (3 of 6 done, 301 s each) | > 450 | - | - |" in text
    assert "| fits | 5 | 2.5 | - | - |" in text
    assert "| a minibatch step of 200 rows | 1 | 0.6 |" in text
    assert "4 s with 1, 9 s with 20." in text
    assert "123 MB" in text
    assert "adelie" not in text


def test_without_results_nothing_is_claimed() -> None:
    assert sweeping_figures.readme_text({}) == ""


def test_the_document_says_what_the_results_say() -> None:
    assert sweeping_figures.differences() == []
    assert sweeping_figures.main(["--check"]) == 0


def test_a_stale_document_is_found(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"a\n{sweeping_figures.BEGIN}old\n{sweeping_figures.END}b\n")
    (tmp_path / "run.json").write_text(json.dumps(found()))
    differing = sweeping_figures.differences(document, tmp_path, tmp_path / "figure.svg")
    assert [text.split()[0] for text in differing] == ["README.md:", "figure.svg"]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_the_figure_carries_the_digest_of_its_numbers(tmp_path: Path) -> None:
    results = {"run": found()}
    sweeping_figures.draw(results, tmp_path / "figure.svg")
    assert sweeping_figures.digest(results) in (tmp_path / "figure.svg").read_text()
