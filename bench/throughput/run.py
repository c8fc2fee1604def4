#!/usr/bin/env python3
"""How many rows a second does everybody read, and how near to the machine's ceiling is that?

Correctness before the clock: the whole result of each contender's first call is compared with float64 (`truth.py`);
one that is wrong has no time. Then all take turns, each after a rest of 0.15 s (BLAS's idle threads spin for 80 ms
after a product, on a core that the next one needs) and a warm-up call. Shown is the median over the rounds.

Exit code: 0; 1 if one of ours was wrong or failed; 2 if the command line is.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine, memory
from bench.throughput import cases, ceilings
from bench.throughput.cases import Case, NotForThisError, Prepared, Problem
from bench.throughput.contenders import ours as contenders
from bench.throughput.contenders.ours import Contender
from bench.throughput.truth import Truth, truth
from gpusoftmax.array import default_threads

EXAMPLES = """examples:
  python -m bench.throughput.run --list
  python -m bench.throughput.run --quick --case cifar --out look
  python -m bench.throughput.run --case 'scaling-threads*' --contender numba --contender torch
  python -m bench.throughput.run --avx2 --out bench/results --label avx2      what a laptop's vectors would do
  python -m bench.compare before.json after.json

Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE before measuring, and let nobody else use the machine."""

REST, ROUNDS, QUICK_ROUNDS = 0.15, 5, 2
FEWEST_CALLS, MOST_CALLS, SECONDS_A_ROUND, SLOW_CALL = 3, 200, 0.05, 1.0
COLUMNS = (
    *("case", "contender", "ours", "milliseconds", "fastest", "spread", "first_call", "prepare", "rows_per_second"),
    *("gigabytes_per_second", "gigaflops", "share_of_ceiling", "bound", "peak_megabytes", "fault", "absent", "note"),
)

Result = dict[str, Any]


class Display:
    """What is being done: one line that changes on a terminal, a line per case in a pipe."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()

    def case(self, name: str) -> None:
        """The next case begins."""
        self.done += 1
        self.name = name
        if not self.terminal:
            print(f"[{self.done}/{self.total}] {name} ({self._elapsed()})", file=sys.stderr, flush=True)

    def doing(self, text: str) -> None:
        """A part of it."""
        if self.terminal:
            line = f"[{self.done}/{self.total}] {self.name}: {text}  ({self._elapsed()})"
            print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room for the table."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d} so far"


# ---- one case


def check(contender: Contender, problem: Problem, right: Truth) -> tuple[Result, Prepared | None]:
    """The first call: prepared, made, compared. Nothing is prepared to be timed if it is wrong."""
    case = problem.case
    result: Result = {"case": case.name, "contender": contender.name, "ours": contender.ours}
    base = None
    try:
        if case.memory:  # what it loads and compiles once is not this case's memory
            contender.prepare(problem.first(64)).call()
            gc.collect()
            base = memory.resident()
        started = time.perf_counter()
        prepared = contender.prepare(problem)
        result["prepare"] = 1e3 * (time.perf_counter() - started)
        started = time.perf_counter()
        raw = prepared.call()
        result["first_call"] = 1e3 * (time.perf_counter() - started)
        result["note"] = prepared.note
        whole = prepared.rows in (None, case.n)
        fault = (right if whole else truth(problem.first(prepared.rows or 0))).fault(prepared.read(raw))
        del raw
        if case.memory and whole and not prepared.gpu:
            result["peak_megabytes"] = memory.peak_of(prepared.call, base)
    except NotForThisError as reason:
        return result | {"absent": str(reason)}, None
    except Exception as error:  # a peer of another version may lack what is called; the others still have a time
        fault = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if fault:
        return result | {"fault": fault}, None
    return result, prepared


def one_round(prepared: Prepared) -> float:
    """Median seconds of a call, after a rest and a warm-up call."""
    time.sleep(REST)
    started = time.perf_counter()
    prepared.call()
    warm_up = time.perf_counter() - started
    calls = 1 if warm_up > SLOW_CALL else min(MOST_CALLS, max(FEWEST_CALLS, int(SECONDS_A_ROUND / warm_up)))
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        prepared.call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def rates(case: Case, prepared: Prepared, seconds: list[float]) -> Result:
    """What a call of so many seconds (one number a round) comes to. A call visits all rows once, or the cut's."""
    visited = case.n if prepared.rows is None else prepared.rows
    unit = case.rows / visited  # of a call
    median = float(np.median(seconds))
    return {
        "milliseconds": 1e3 * unit * median,
        "fastest": 1e3 * unit * min(seconds),
        "spread": (max(seconds) - min(seconds)) / median,
        "rounds": [1e3 * unit * second for second in seconds],
        "rows_per_second": visited / median,
        "gigabytes_per_second": 1e-9 * case.bytes / (unit * median),
        "gigaflops": 1e-9 * case.flops / (unit * median),
        "device": "gpu" if prepared.gpu else "cpu",
    }


def with_share(result: Result, case: Case, limits: dict[str, dict[str, float]]) -> Result:
    """A result with its share of the ceiling, if it has a time."""
    if "milliseconds" not in result:
        return result
    floor, bound = ceilings.floor(case, limits[result["device"]])
    return result | {"share_of_ceiling": 1e3 * floor / result["milliseconds"], "bound": bound}


def measure(case: Case, entrants: list[Contender], rounds: int, display: Display) -> list[Result]:
    """One result per contender, in their order."""
    display.case(case.name)
    display.doing("data and the right answer")
    problem = cases.make(case)
    right = truth(problem)
    results, ready = [], {}
    for contender in entrants:
        display.doing(f"{contender.name}, first call")
        result, prepared = check(contender, problem, right)
        results.append(result)
        if prepared is not None:
            ready[contender.name] = prepared
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(rounds):
        for name, prepared in ready.items():
            display.doing(f"round {turn + 1} of {rounds}, {name}")
            seconds[name].append(one_round(prepared))
    display.clear()
    for result in results:
        if prepared := ready.get(result["contender"]):
            result |= rates(case, prepared, seconds[result["contender"]])
    return results


# ---- what is shown and written


def in_words(case: Case) -> str:
    """A case's line."""
    size = f"{case.n} x {case.d} x {case.c} {case.dtype}"
    models = f", {case.K} models" if case.K > 1 else ""
    work = {"gradient": "value and gradient", "predict": "predict", "step": f"a step of {case.batch} rows"}[case.work]
    threads = f", {case.threads} thread{'s' * (case.threads > 1)}" if case.threads else ""
    return f"{case.name}: {work}, {size}{models}{threads}"


HEADER = f"  {'':14s} {'ms':>9s} {'spread':>6s} {'rows/s':>12s} {'GB/s':>6s} {'GFLOP/s':>8s} {'ceiling':>8s}  {'':6s}"


def row(result: Result) -> str:
    """A contender's line."""
    start = f"  {result['contender']:14s} "
    if reason := result.get("fault") or result.get("absent"):
        return start + (reason if result.get("fault") else f"absent: {reason}")
    peak = result.get("peak_megabytes")
    extra = [f"peak {peak:.0f} MB above X"] if peak is not None else []
    return start + (
        f"{result['milliseconds']:9.3f} {result['spread']:6.0%} {result['rows_per_second']:12,.0f} "
        f"{result['gigabytes_per_second']:6.2f} {result['gigaflops']:8.1f} {result['share_of_ceiling']:8.0%}  "
        f"{result['bound']:6s}{'; '.join([*extra, result['note']] if result['note'] else extra)}"
    )


def describe_case(case: Case) -> Result:
    """A case in the result file."""
    names = ("n", "d", "c", "K", "dtype", "work", "batch", "threads", "flops", "bytes")
    return {name: getattr(case, name) for name in names}


def write(found: Result, folder: Path, stem: str) -> None:
    """JSON with everything; CSV with a line per result, machine and versions in each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    facts = found["machine"]
    versions = " ".join(f"{name}={value}" for name, value in facts["versions"].items() if value != "not installed")
    origin = {name: facts[name] for name in ("processor", "cores", "vectors", "commit", "date")}
    with open(folder / f"{stem}.csv", "w", newline="", encoding="utf-8") as file:
        shape = ("n", "d", "c", "K", "dtype", "work", "batch", "threads")
        table = csv.DictWriter(file, [*COLUMNS, *shape, *origin, "versions"], restval="", extrasaction="ignore")
        table.writeheader()
        for result in found["results"]:
            table.writerow(result | found["cases"][result["case"]] | origin | {"versions": versions})


def draw(found: Result, folder: Path, stem: str) -> None:
    """The figures, where matplotlib is."""
    try:
        from bench.throughput import figures

        written = figures.draw_run(found, folder / stem)
    except ImportError as error:
        print(f"no figure: {error}", file=sys.stderr)
        return
    print(f"figures: {', '.join(path.name for path in written)}", file=sys.stderr)


# ---- the command


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput.run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="start of a name, or a pattern; repeatable")
    parser.add_argument("--contender", action="append", metavar="NAME", help="by name; repeatable")
    parser.add_argument("--list", action="store_true", help="name the cases and the contenders, and stop")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: to try things out, not to publish")
    parser.add_argument("--rounds", type=int, help=f"how often all take turns; default {ROUNDS}")
    parser.add_argument("--avx2", action="store_true", help="run again with everybody held to AVX2 (x86 only)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), metavar="DIR", help="folder; default %(default)s"
    )
    parser.add_argument("--label", default="", help="name of the files; default throughput or throughput-avx2")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds has to be at least 1")
    if options.avx2 and platform.machine().lower() not in ("x86_64", "amd64"):
        parser.error(f"--avx2 is for x86 processors; this one is {platform.machine()}")
    try:
        options.cases = [case.quick() if options.quick else case for case in cases.choose(options.case)]
        options.contenders = contenders.choose(options.contender)
    except ValueError as error:
        parser.error(str(error))
    return options


def list_all(options: argparse.Namespace) -> None:
    """Cases and contenders, the absent ones with the reason."""
    for case in options.cases:
        print(in_words(case), f"; {case.flops / 1e9:.2f} GFLOP, {case.bytes / 1e6:.1f} MB", sep="")
    print()
    for contender in options.contenders:
        reason = contender.absent()
        print(f"{contender.name:14s} {contender.words}", f" (absent: {reason})" if reason else "", sep="")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    options = parse(arguments)
    if options.list:
        list_all(options)
        return 0
    if options.avx2 and not machine.limited_to_avx2():
        # the limits are read when libraries are loaded, and NumPy is
        command = [sys.executable, "-m", "bench.throughput.run", *(sys.argv[1:] if arguments is None else arguments)]
        path = os.pathsep.join(filter(None, [str(machine.ROOT), os.environ.get("PYTHONPATH")]))
        environment = machine.avx2_environment(dict(os.environ)) | {"PYTHONPATH": path}
        return subprocess.call(command, env=environment)
    for warning in machine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    absent = {contender.name: reason for contender in options.contenders if (reason := contender.absent())}
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}", file=sys.stderr)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    limits = ceilings.measure(default_threads(), options.quick)
    found: Result = {
        "format": 1,
        "machine": machine.facts(),
        "settings": {"quick": options.quick, "rounds": rounds, "rest": REST},
        "ceilings": limits,
        "absent": absent,
        "cases": {case.name: describe_case(case) for case in options.cases},
        "results": [],
    }
    stem = options.label or ("throughput-avx2" if machine.limited_to_avx2() else "throughput")
    for device, values in limits.items():
        print(f"ceilings, {device}: " + ", ".join(f"{name} {value / 1e9:.1f}" for name, value in values.items()))
    print("in GB/s and GFLOP/s; _1 is one thread\n")
    display = Display(len(options.cases))
    entrants = [contender for contender in options.contenders if contender.name not in absent]
    for case in options.cases:
        results = [with_share(result, case, limits) for result in measure(case, entrants, rounds, display)]
        found["results"] += results
        print("\n".join([in_words(case), HEADER, *map(row, results)]), end="\n\n", flush=True)
        write(found, options.out, stem)  # after each case: an interrupted run keeps what it has
    # a ceiling that somebody else's work had lowered would have flattered everybody
    found["ceilings"] = ceilings.higher(limits, ceilings.measure(default_threads(), options.quick))
    by_name = {case.name: case for case in options.cases}
    found["results"] = [with_share(r, by_name[r["case"]], found["ceilings"]) for r in found["results"]]
    write(found, options.out, stem)
    draw(found, options.out, stem)
    return int(any(result["ours"] and result.get("fault") for result in found["results"]))


if __name__ == "__main__":
    sys.exit(main())
