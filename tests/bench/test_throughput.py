"""The harness under bench/: its answers are right, it gives no time to who is wrong, and it judges as it says."""

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

from bench.common import compare, machine
from bench.throughput import cases, ceilings, figures
from bench.throughput import run as throughput
from bench.throughput.cases import Case, NotForThisError, Prepared, Problem
from bench.throughput.contenders import ours as contenders
from bench.throughput.contenders.ours import Contender
from bench.throughput.truth import truth
from gpusoftmax import reference, resolve

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    Case("f32", 130, 9, 4),
    Case("u8", 130, 9, 4, "uint8"),
    Case("f16-models", 130, 9, 4, "float16", K=3),
    Case("one-thread", 130, 9, 4, threads=1),
    Case("steps", 130, 9, 4, work="step", batch=32),
    Case("predictions", 130, 9, 4, work="predict"),
]


def by_name(name: str) -> Contender:
    """A contender."""
    (found,) = contenders.choose([name])
    return found


# ---- cases and the right answer


def test_cases_have_their_own_names_and_fit_into_memory() -> None:
    everything = cases.all_cases(16)
    assert len({case.name for case in everything}) == len(everything)
    assert max(case.bytes * case.n / case.rows for case in everything) < 1e9
    assert max(4 * case.n * case.K * case.c for case in everything) < 1e9  # a peer's scores


def test_cases_are_chosen_by_start_or_pattern() -> None:
    assert [case.name for case in cases.choose(["minibatch"])] == ["minibatch-200", "minibatch-4096"]
    assert [case.name for case in cases.choose(["*-u8"])] == ["cifar-u8", "predict-cifar-u8"]
    with pytest.raises(ValueError, match="fits no case"):
        cases.choose(["nothing"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_data_make_exp_overflow_without_the_maximum_of_the_row(dtype: str) -> None:
    problem = cases.make(Case("x", 2001, 300, 10, dtype))
    assert reference.scores(problem.X, problem.W, problem.b).max() > np.log(np.finfo(np.float32).max)


@pytest.mark.parametrize("case", [case for case in TINY if case.work == "gradient"], ids=lambda case: case.name)
def test_truth_is_the_reference(case: Case) -> None:
    p = cases.make(case)
    expected = reference.loss_and_gradient(p.X, p.y, p.W, p.b, l2=p.l2)
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
@pytest.mark.filterwarnings("default")  # a peer's deprecations are not ours
@pytest.mark.parametrize("name", [contender.name for contender in contenders.contenders()])
def test_contenders_are_right(name: str, case: Case) -> None:
    contender = by_name(name)
    if reason := contender.absent():
        pytest.skip(reason)
    problem = cases.make(case)
    try:
        prepared = contender.prepare(problem)
    except NotForThisError as reason:
        pytest.skip(str(reason))
    assert truth(problem).fault(prepared.read(prepared.call())) == ""
    prepared.call()  # steps go on


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("case", [TINY[0], TINY[4], TINY[5]], ids=lambda case: case.name)
def test_cuda_is_right(case: Case) -> None:
    problem = cases.make(case)
    prepared = by_name("cuda").prepare(problem)
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
    code = throughput.main([*arguments, "--rounds", "1", "--quick", "--out", str(folder)])
    return code, json.loads((folder / "throughput.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("hurried")
def test_a_run_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cases, "all_cases", lambda: [replace(TINY[0], memory=True), *TINY[1:]])
    monkeypatch.setattr(machine, "limited_to_avx2", lambda: False)
    code, found = run(tmp_path, "--contender", "numpy", "--contender", "hand", "--contender", "sklearn")
    assert code == 0
    assert [r["contender"] for r in found["results"]] == 6 * ["numpy", "hand", "sklearn"]
    assert all("milliseconds" in r or r.get("absent") for r in found["results"])
    first = found["results"][0]
    assert first["rows_per_second"] == pytest.approx(1e3 * 130 / first["milliseconds"])
    assert first["share_of_ceiling"] == pytest.approx(1e-10 * 4 * 130 * 9 * 4 / first["milliseconds"] * 1e3)
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
    assert compare.main([str(tmp_path / "throughput.json")] * 2) == 0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("ours", "expected"), [(True, 1), (False, 0)])
def test_who_is_wrong_has_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, ours: bool, expected: int
) -> None:
    numpy = by_name("numpy")

    def wrong(problem: Problem) -> Prepared:
        right = numpy.prepare(problem)

        def read(result: Any) -> Any:
            losses, dW, db = right.read(result)
            return losses, dW * (1 + 1e-3), db

        return Prepared(right.call, read)

    def broken(problem: Problem) -> Prepared:
        raise MemoryError("no room")

    monkeypatch.setattr(cases, "all_cases", lambda: TINY[:1])
    entrants = [Contender("wrong", "", ours, lambda: "", wrong), Contender("broken", "", False, lambda: "", broken)]
    monkeypatch.setattr(
        contenders, "contenders", lambda: [*entrants, Contender("gone", "", True, lambda: "why", wrong)]
    )
    monkeypatch.setattr(machine, "limited_to_avx2", lambda: False)
    code, found = run(tmp_path)
    assert code == expected
    assert not any("milliseconds" in result for result in found["results"])
    assert [result["fault"].split(":")[0] for result in found["results"]] == ["wrong", "failed"]
    assert found["absent"] == {"gone": "why"}
    assert "wrong: dW is off by 1.0e-03" in capsys.readouterr().out


def test_the_commands_explain_themselves(capsys: Any) -> None:
    command = [sys.executable, "-m", "bench.throughput.run", "--help"]
    assert "examples:" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for module in (compare, figures):
        with pytest.raises(SystemExit, match="0"):
            module.main(["--help"])
        assert "usage: python -m bench." in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--case", "no"], ["--contender", "no"], ["--rounds", "0"]])
def test_a_bad_command_line_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        throughput.main(arguments)


def test_list_names_cases_and_who_is_absent(capsys: Any) -> None:
    assert throughput.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "probe: value and gradient, 100000 x 768 x 1000" in shown
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
        {"case": "x", "contender": name, "ours": name != "peer"}
        | ({"fault": time} if isinstance(time, str) else {"milliseconds": time})
        for name, time in milliseconds.items()
    ]
    shape = dict.fromkeys(compare.SAME_CASE, 1)
    return {"cases": {"x": shape}, "results": rows, "machine": {"processor": "p"}}


@pytest.mark.parametrize(
    ("before", "after", "word", "worse"),
    [
        (10.0, 10.9, "same", False),  # a lot of milliseconds, a small share
        (0.1, 0.149, "same", False),  # a large share, few milliseconds
        (10.0, 11.1, "slower", True),
        (0.1, 0.16, "slower", True),
        (11.1, 10.0, "faster", False),
        (10.0, "wrong: loss", "wrong: loss", True),
    ],
)
def test_worse_is_both_relative_and_absolute(before: float, after: Any, word: str, worse: bool) -> None:
    (verdict,) = compare.judge(results(numba=before), results(numba=after))
    assert (verdict.word, verdict.worse) == (word, worse)


def test_peers_are_not_judged_and_who_left_is() -> None:
    verdicts = compare.judge(results(peer=1.0, numba=1.0, numpy=1.0), results(peer=9.0, numba=1.0, cuda=1.0))
    assert {v.contender: (v.word, v.worse) for v in verdicts} == {
        "peer": ("slower", False),
        "numba": ("same", False),
        "numpy": ("no time any more", True),
        "cuda": ("new", False),
    }


def test_compare_says_it_by_its_exit_code(tmp_path: Path, capsys: Any) -> None:
    fast, slow, other = (tmp_path / name for name in ("fast.json", "slow.json", "other.json"))
    fast.write_text(json.dumps(results(numba=10.0)), encoding="utf-8")
    slow.write_text(json.dumps(results(numba=20.0)), encoding="utf-8")
    changed = results(numba=10.0)
    changed["cases"]["x"]["n"] = 2
    other.write_text(json.dumps(changed), encoding="utf-8")
    assert compare.main([str(fast), str(slow)]) == 1
    assert "+100%  slower  <-- worse" in capsys.readouterr().out
    assert compare.main([str(slow), str(fast)]) == 0
    assert compare.main([str(fast), str(slow), "--relative", "2"]) == 0
    assert compare.main([str(fast), str(other)]) == 2
    assert "not the same case" in capsys.readouterr().err


# ---- the README


def tracked(factor: float = 1.0) -> dict[str, Any]:
    """A result file as the README's table needs it."""
    facts = {"cores": 2, "processor": "P", "vectors": "AVX2", "limited_to_avx2": False, "versions": {"numpy": "2.0"}}
    rows = [
        {"case": "cifar-f32", "contender": name, "ours": name == "numba", "milliseconds": factor * time}
        | {"share_of_ceiling": 0.5}
        for name, time in (("numba", 20.0), ("hand", 94.0))
    ]
    return {"machine": facts, "results": rows}


def test_the_readme_shows_the_tracked_results() -> None:
    assert figures.differences() == [], "run python -m bench.figures"


def test_a_stale_table_and_a_stale_figure_are_found(tmp_path: Path) -> None:
    readme, figure = tmp_path / "README.md", tmp_path / "figure.svg"
    readme.write_text(f"before\n{figures.BEGIN}{figures.END}after\n", encoding="utf-8")
    assert figures.differences(readme, tmp_path, figure) == []  # no results, nothing to show
    (tmp_path / "one.json").write_text(json.dumps(tracked()), encoding="utf-8")
    assert len(figures.differences(readme, tmp_path, figure)) == 2
    shown = figures.with_table(readme.read_text(encoding="utf-8"), figures.load(tmp_path))
    assert "| CIFAR-10, 49000 x 3072, 10 classes | **20** (50%) | 94 |" in shown
    assert (shown[:7], shown[-6:]) == ("before\n", "after\n")
    readme.write_text(shown, encoding="utf-8")
    figure.write_text(figures.digest(figures.load(tmp_path)), encoding="utf-8")
    assert figures.differences(readme, tmp_path, figure) == []
    (tmp_path / "one.json").write_text(json.dumps(tracked(2.0)), encoding="utf-8")
    assert len(figures.differences(readme, tmp_path, figure)) == 2


def test_the_figure_carries_the_digest_of_its_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shown = {"one": tracked(), "two": tracked(2.0)}
    figures.draw_readme(shown, tmp_path / "figure.svg")
    assert figures.digest(shown) in (tmp_path / "figure.svg").read_text(encoding="utf-8")
