"""The harness under bench/ and the benchmark `throughput`: answers are right, and incorrect results are not timed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import COMMANDS, main
from bench.common import compare, harness, machine
from bench.common.harness import Contender, NotForThisError
from bench.common.pages import between
from bench.common.process import run_apart
from bench.figures import differences, write
from bench.throughput import cases, ceilings
from bench.throughput import run as throughput
from bench.throughput.cases import Case, Problem
from bench.throughput.contenders import CONTENDERS
from bench.throughput.contenders.base import Prepared
from bench.throughput.truth import truth
from gpusoftmax import get_backend, reference

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    Case("f32", 130, 9, 4),
    Case("u8", 130, 9, 4, "uint8"),
    Case("f16-models", 130, 9, 4, "float16", K=3),
    Case("one-thread", 130, 9, 4, threads=1),
    Case("steps", 130, 9, 4, work="step", batch=32),
    Case("predictions", 130, 9, 4, work="predict"),
    Case("sparse", 130, 60, 4, entries=9),
    Case("sparse-ones", 130, 60, 4, "uint8", entries=9),
    Case("sparse-predictions", 130, 60, 4, entries=9, work="predict"),
]


def by_name(name: str) -> Contender:
    """A contender."""
    return next(contender for contender in CONTENDERS if contender.name == name)


# ---- cases and the right answer


def test_cases_have_their_own_names_and_fit_into_memory() -> None:
    everything = cases.all_cases(16)
    assert len({case.name for case in everything}) == len(everything)
    assert max(case.bytes * case.n / case.rows for case in everything) < 1e9
    assert max(4 * case.n * case.K * case.c for case in everything) < 1e9  # the scores of contenders that keep them


def test_cases_are_chosen_by_name_start_or_pattern() -> None:
    def chosen(*patterns: str) -> list[str]:
        return [case.name for case in harness.choose("case", cases.all_cases(), list(patterns))]

    assert chosen("minibatch") == ["minibatch-200", "minibatch-4096"]
    assert chosen("*-u8") == ["cifar-u8", "predict-cifar-u8"]
    assert chosen("models-1") == ["models-1"]
    assert chosen("digits", "cifar-u8", "cifar") == ["cifar-f32", "cifar-u8", "cifar-f16", "digits"]
    assert len(chosen()) == len(cases.all_cases())
    with pytest.raises(ValueError, match="--case 'nothing' is not known; there are cifar-f32"):
        chosen("nothing")


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_data_make_exp_overflow_without_the_maximum_of_the_row(dtype: str) -> None:
    problem = cases.make(Case("x", 2001, 300, 10, dtype))
    assert reference.scores(problem.X, problem.W, problem.b).max() > np.log(np.finfo(np.float32).max)


@pytest.mark.parametrize("case", [case for case in TINY if case.work == "gradient"], ids=lambda case: case.name)
def test_truth_is_the_reference(case: Case) -> None:
    p = cases.make(case)
    X = p.X.toarray() if case.entries else p.X
    expected = reference.loss_and_gradient(X, p.y, p.W, p.b, l2=p.l2)
    for found, right in zip(truth(p).answer, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-14)


def test_truth_sees_one_row_that_is_left_out() -> None:
    p = cases.make(Case("tall", 100_000, 8, 3))
    short = replace(p, X=p.X[:-1], y=p.y[:-1], case=replace(p.case, n=p.case.n - 1))
    assert "wrong" in truth(p).fault(truth(short).answer)
    assert truth(p).fault(truth(p).answer) == ""


def test_truth_takes_nan_for_wrong() -> None:
    right = truth(cases.make(TINY[0]))
    losses, dW, db = right.answer
    assert "dW" in right.fault((losses, np.full_like(dW, np.nan), db))
    assert "loss" in right.fault((np.full_like(losses, np.nan), dW, db))


# ---- contenders


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
@pytest.mark.filterwarnings("default")  # deprecations of other libraries are not ours
@pytest.mark.parametrize(
    "name",
    [  # those of Numba are compiled for seconds
        pytest.param(one.name, marks=pytest.mark.slow if one.name.startswith("numba") else ()) for one in CONTENDERS
    ],
)
def test_contenders_are_right(name: str, case: Case) -> None:
    contender = by_name(name)
    if reason := contender.absent():
        pytest.skip(reason)
    problem = cases.make(case)
    try:
        prepared = contender.run(problem)
    except NotForThisError as reason:
        pytest.skip(str(reason))
    assert truth(problem).fault(prepared.read(prepared.call())) == ""
    prepared.call()  # steps go on


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("case", [TINY[0], TINY[4], TINY[5]], ids=lambda case: case.name)
def test_cuda_is_right(case: Case) -> None:
    problem = cases.make(case)
    prepared = by_name("cuda").run(problem)
    assert prepared.gpu
    assert truth(problem).fault(prepared.read(prepared.call())) == ""


# ---- the run


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rests, and ceilings that cost nothing."""
    monkeypatch.setattr(throughput, "REST", 0.0)
    limits = {"cpu": dict.fromkeys(("read", "read_1", "copy", "copy_1", "sgemm", "sgemm_1"), 1e10)}
    monkeypatch.setattr(ceilings, "measure", lambda *_: limits)


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command in this process, and what it wrote."""
    code = main(["throughput", *arguments, "--rounds", "1", "--quick", "--out", str(folder)])
    return code, json.loads((folder / "throughput.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_run_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cases, "all_cases", lambda: [replace(TINY[0], memory=True), *TINY[1:6]])
    monkeypatch.setattr(machine, "limited_to_avx2", lambda: False)
    code, found = run(tmp_path, "--contender", "numpy", "--contender", "hand", "--contender", "sklearn")
    assert code == 0
    assert [r["contender"] for r in found["results"]] == 6 * ["numpy", "hand", "sklearn"]
    assert all("milliseconds" in r or r.get("absent") for r in found["results"])
    first = found["results"][0]
    assert first["rows_per_second"] == pytest.approx(1e3 * 130 / first["milliseconds"])
    assert first["fraction_of_ceiling"] == pytest.approx(1e-10 * 4 * 130 * 9 * 4 / first["milliseconds"] * 1e3)
    if sys.platform == "linux":
        assert first["peak_megabytes"] >= 0
    assert found["machine"]["versions"]["numpy"] == np.__version__
    with open(tmp_path / "throughput.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 18
    assert f"numpy={np.__version__}" in lines[0]["versions"]
    assert "value and gradient, 130 x 9 x 4 float32" in capsys.readouterr().out
    if find_spec("matplotlib"):
        assert (tmp_path / "throughput.png").exists()
    assert main(["compare", *[str(tmp_path / "throughput.json")] * 2]) == 0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("ours", "expected"), [(True, 1), (False, 0)])
def test_incorrect_results_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, ours: bool, expected: int
) -> None:
    numpy = by_name("numpy")

    def wrong(problem: Problem) -> Prepared:
        right = numpy.run(problem)

        def read(result: Any) -> Any:
            losses, dW, db = right.read(result)
            return losses, dW * (1 + 1e-3), db

        return Prepared(right.call, read)

    def broken(problem: Problem) -> Prepared:
        raise MemoryError("no room")

    monkeypatch.setattr(cases, "all_cases", lambda: TINY[:1])
    found_here = [Contender("wrong", "", wrong, ours=ours), Contender("broken", "", broken)]
    gone = Contender("gone", "", wrong, lambda: "why", ours=True)
    monkeypatch.setattr(throughput.Throughput, "contenders", [*found_here, gone])
    monkeypatch.setattr(machine, "limited_to_avx2", lambda: False)
    code, found = run(tmp_path)
    assert code == expected
    assert not any("milliseconds" in result for result in found["results"])
    assert [result["fault"].split(":")[0] for result in found["results"]] == ["wrong", "failed"]
    assert found["absent"] == {"gone": "why"}
    assert "wrong: dW is off by 1.0e-03" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_is_done_and_another_can_add_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Interrupted(harness.Benchmark):
        name = "throughput"
        interrupted = True

        def cases(self, quick: bool) -> list[Case]:
            return TINY[:2]

        def measure(self, case: Case, *_: Any) -> Any:
            if case is TINY[1] and self.interrupted:
                raise KeyboardInterrupt
            yield "one", {"seconds": 1.0}

        def table(self, case: Case, facts: Any, results: list[Any]) -> str:
            return f"{case.name}: {len(results)} results"

    monkeypatch.setattr(machine, "limited_to_avx2", lambda: False)
    monkeypatch.setattr(Interrupted, "contenders", [Contender("one", "", Case)])
    options = ["--quick", "--out", str(tmp_path)]
    assert Interrupted().main(options) == 130
    path = tmp_path / "throughput.json"
    assert str(path) in capsys.readouterr().err
    assert [result["case"] for result in harness.load(path)["results"]] == ["f32"]
    Interrupted.interrupted = False
    assert Interrupted().main([*options, "--add", "--case", "u8"]) == 0
    found = harness.load(path)
    assert [result["case"] for result in found["results"]] == ["f32", "u8"]
    assert set(found["cases"]) == {"f32", "u8"}
    assert Interrupted().main([*options, "--case", "u8"]) == 0
    assert [result["case"] for result in harness.load(path)["results"]] == ["u8"]
    with pytest.raises(SystemExit, match="2"):
        Interrupted().main(["--add", "--out", str(tmp_path)])
    assert "holds a --quick run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_is_ended_with_its_time_and_says_why_it_failed(tmp_path: Path) -> None:
    sleeper = "from bench.common.process import ready; import time; ready(); time.sleep(60)"
    assert run_apart(exec, [sleeper], tmp_path, 0.2) == ""
    assert run_apart(exec, ["import nothing"], tmp_path) == "ModuleNotFoundError: No module named 'nothing'"
    assert run_apart(exec, ["import os; os._exit(3)"], tmp_path) == "it ended with 3"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_by_examples(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: python -m bench {name}" in shown
    assert f"examples:\n  python -m bench {name}" in shown


def test_the_command_names_its_benchmarks(capsys: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert main(["nothing"]) == 2
    assert "throughput" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--case", "no"], ["--contender", "no"], ["--rounds", "0"]])
def test_a_bad_command_line_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["throughput", *arguments])


def test_list_names_cases_and_absent_contenders(capsys: Any) -> None:
    assert main(["throughput", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "value and gradient, 100000 x 768 x 1000 float32" in shown
    assert get_backend("auto").gpu is not None or "(absent: backend='cuda'" in shown


# ---- the machine and its ceilings


def test_avx2_holds_everybody_and_drops_what_slows_numpy() -> None:
    limited = machine.avx2_environment({"OPENBLAS_L2_SIZE": "512", "XLA_FLAGS": "--other", "HOME": "x"})
    assert "OPENBLAS_L2_SIZE" not in limited
    assert limited["HOME"] == "x"
    assert limited["XLA_FLAGS"] == "--other --xla_cpu_max_isa=AVX2"
    assert limited["NUMBA_CPU_NAME"] == "haswell"
    assert machine.avx2_environment(limited) == limited


def test_what_is_recorded_of_the_machine_names_no_folder() -> None:
    assert str(Path.home()) not in json.dumps(machine.facts())
    assert "caches" not in machine.facts()


def test_what_halves_numpy_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    assert "OPENBLAS_L2_SIZE" in machine.warnings()[0]


def test_a_floor_is_the_longer_of_reading_and_computing() -> None:
    case, limits = Case("x", 1000, 100, 10), {"read": 1e9, "sgemm": 1e12, "read_1": 1e8, "sgemm_1": 1e6}
    assert ceilings.floor(case, limits) == (4e-4, "read")
    assert ceilings.floor(replace(case, threads=1), limits) == (4.0, "sgemm")


# ---- the judge


def results(**milliseconds: Any) -> dict[str, Any]:
    """A result file of one case; a contender's time, or its fault."""
    rows = [
        {"case": "x", "contender": name, "ours": name != "other"}
        | ({"fault": time} if isinstance(time, str) else {"milliseconds": time})
        for name, time in milliseconds.items()
    ]
    shape = dict.fromkeys(compare.SAME_CASE, 1)
    return {"format": harness.FORMAT, "cases": {"x": shape}, "results": rows, "machine": {"processor": "p"}}


@pytest.mark.parametrize(
    ("before", "after", "word", "worse"),
    [
        (10.0, 10.9, "same", False),  # many milliseconds, a small fraction
        (0.1, 0.149, "same", False),  # a large fraction, few milliseconds
        (10.0, 11.1, "slower", True),
        (0.1, 0.16, "slower", True),
        (11.1, 10.0, "faster", False),
        (10.0, "wrong: loss", "wrong: loss", True),
    ],
)
def test_worse_is_both_relative_and_absolute(before: float, after: Any, word: str, worse: bool) -> None:
    (verdict,) = compare.judge(results(numba=before), results(numba=after))
    assert (verdict.word, verdict.worse) == (word, worse)


def test_others_are_not_judged_and_a_lost_time_is() -> None:
    verdicts = compare.judge(results(other=1.0, numba=1.0, numpy=1.0), results(other=9.0, numba=1.0, cuda=1.0))
    assert {v.contender: (v.word, v.worse) for v in verdicts} == {
        "other": ("slower", False),
        "numba": ("same", False),
        "numpy": ("no time any more", True),
        "cuda": ("new", False),
    }


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"seconds": 2.0, "milliseconds": {"1": 5.0}}, 2000.0),
        ({"warm": {"0.0001": [0.5, 3.0]}}, 500.0),
        ({"warm": {"0.0001": None}}, None),
        ({"fit": 0.25, "predict": 1.0}, 250.0),
        ({"milliseconds": 7.0}, 7.0),
        ({"absent": "why"}, None),
    ],
)
def test_each_benchmark_has_one_time_that_is_compared(times: Any, expected: float | None) -> None:
    assert compare.milliseconds(times) == expected


def test_compare_says_it_by_its_exit_code(tmp_path: Path, capsys: Any) -> None:
    fast, slow, other = (tmp_path / name for name in ("fast.json", "slow.json", "other.json"))
    fast.write_text(json.dumps(results(numba=10.0)), encoding="utf-8")
    slow.write_text(json.dumps(results(numba=20.0)), encoding="utf-8")
    changed = results(numba=10.0)
    changed["cases"]["x"]["n"] = 2
    other.write_text(json.dumps(changed), encoding="utf-8")
    assert main(["compare", str(fast), str(slow)]) == 1
    assert "+100%  slower  <-- worse" in capsys.readouterr().out
    assert main(["compare", str(slow), str(fast)]) == 0
    assert main(["compare", str(fast), str(slow), "--relative", "2"]) == 0
    assert main(["compare", str(fast), str(other)]) == 2
    assert "not the same case" in capsys.readouterr().err


# ---- documents


def tracked(factor: float = 1.0) -> dict[str, Any]:
    """A result file as the table needs it."""
    facts = {"cores": 2, "processor": "P", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    rows = [
        {"case": "cifar-f32", "contender": name, "ours": name == "numba", "milliseconds": factor * time}
        | {"fraction_of_ceiling": 0.5}
        for name, time in (("numba", 20.0), ("hand", 94.0))
    ]
    return {"format": harness.FORMAT, "machine": facts, "results": rows}


def test_the_documents_show_the_tracked_results() -> None:
    assert main(["figures", "--check"]) == 0, "run python -m bench figures"


def test_a_section_needs_its_markers() -> None:
    with pytest.raises(ValueError, match="python -m bench figures: speed"):
        between("nothing", "speed", "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="draws")
def test_a_stale_table_and_a_stale_figure_are_found_and_written_anew(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results"
    (results / "throughput").mkdir(parents=True)
    places: Any = "throughput", {"throughput": page}, results, tmp_path
    marks = "<!-- python -m bench figures: throughput -->\n", "<!-- end of throughput -->\n"
    page.write_text(f"before\n{marks[0]}{marks[1]}after\n", encoding="utf-8")
    assert differences(*places) == []  # no results, nothing to show
    for factor in (1.0, 2.0):
        (results / "throughput" / "one.json").write_text(json.dumps(tracked(factor)), encoding="utf-8")
        assert [line.split()[0] for line in differences(*places)] == ["page.md:", "throughput.svg"]
        write(*places)
        assert differences(*places) == []
        text = page.read_text(encoding="utf-8")
        assert f"| CIFAR-10, 49000 x 3072, 10 classes | **{20 * factor:g}** (50%) | {94 * factor:g} |" in text
        assert (text[:7], text[-6:]) == ("before\n", "after\n")
