"""How many rows a second does each contender process, and how near is that to what the machine can do at most?

The whole result of each contender's first call is compared with float64 (truth.py). Incorrect results are not timed.
Then all contenders take turns, each after a rest of 0.15 s (BLAS's idle threads spin for 80 ms after a product, on a
core that the next contender needs) and a warm-up call. The tables show medians over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.common import memory
from bench.common.harness import Benchmark, Contender, NotForThisError, Progress, Result, positive
from bench.common.ours import default_threads
from bench.throughput import cases, ceilings
from bench.throughput.cases import Case, Problem
from bench.throughput.contenders import CONTENDERS
from bench.throughput.contenders.base import Prepared
from bench.throughput.truth import Truth, truth

REST, ROUNDS, QUICK_ROUNDS = 0.15, 5, 2
FEWEST_CALLS, MOST_CALLS, SECONDS_A_ROUND, SLOW_CALL = 3, 200, 0.05, 1.0
FACTS = ("n", "d", "c", "K", "dtype", "work", "batch", "threads", "flops", "bytes")
HEADER = f"  {'':14s} {'ms':>9s} {'spread':>6s} {'rows/s':>12s} {'GB/s':>6s} {'GFLOP/s':>8s} {'ceiling':>8s}"


class Throughput(Benchmark):
    """Runs the benchmark."""

    name = "throughput"
    contenders = CONTENDERS
    examples = (
        "--list",
        "--quick --case cifar --out look",
        "--case 'scaling-threads*' --contender numba --contender torch",
        "--out bench/results/throughput --label NAME         everything, an hour on two cores",
        "--avx2 --label NAME-avx2                            what a laptop's vectors would do",
    )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --rounds."""
        parser.add_argument("--rounds", type=positive, help=f"how often all take turns; default {ROUNDS}")

    def cases(self, quick: bool) -> list[Case]:
        """All cases; with few rows if they are quick."""
        return [case.quick() if quick else case for case in cases.all_cases()]

    def start(self) -> Result:
        """Measures the ceilings."""
        self.rounds = self.options.rounds or (QUICK_ROUNDS if self.options.quick else ROUNDS)
        self.limits = ceilings.measure(default_threads(), self.options.quick)
        for device, values in self.limits.items():
            print(f"ceilings, {device}: " + ", ".join(f"{name} {value / 1e9:.1f}" for name, value in values.items()))
        print("in GB/s and GFLOP/s; _1 is one thread\n")
        return {"settings": {"rounds": self.rounds, "rest": REST}, "ceilings": self.limits}

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """Checks all contenders, then times those that are right, in turns."""
        facts |= {name: getattr(case, name) for name in FACTS}
        progress.doing("data and the right answer")
        problem = cases.make(case)
        right = truth(problem)
        results: dict[str, Result] = {}
        ready: dict[str, Prepared] = {}
        for contender in contenders:
            progress.doing(f"{contender.name}, first call")
            results[contender.name], prepared = check(contender, problem, right)
            if prepared is not None:
                ready[contender.name] = prepared
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        for turn in range(self.rounds):
            for name, prepared in ready.items():
                progress.doing(f"round {turn + 1} of {self.rounds}, {name}")
                seconds[name].append(one_round(prepared))
        for name, prepared in ready.items():
            results[name] |= rates(case, prepared, seconds[name])
            results[name] |= fraction(results[name], case, self.limits)
        yield from results.items()

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        return "\n".join([f"{case.name}: {case.words}", HEADER, *map(row, results)])

    def finish(self, found: Result, path: Path) -> None:
        """Measures the ceilings again: if other work lowered one at first, it would flatter every contender."""
        limits = ceilings.higher(self.limits, ceilings.measure(default_threads(), self.options.quick))
        found["ceilings"] = limits
        measured = {case.name: case for case in self.options.cases}
        for result in found["results"]:
            if result["case"] in measured and "milliseconds" in result:
                result |= fraction(result, measured[result["case"]], limits)
        try:
            from bench.throughput.figures import draw_run

            written = draw_run(found, path.with_suffix(""))
        except ImportError as error:
            print(f"no figure: {error}", file=sys.stderr)
        else:
            print(f"figures: {', '.join(path.name for path in written)}", file=sys.stderr)


def check(contender: Contender, problem: Problem, right: Truth) -> tuple[Result, Prepared | None]:
    """Prepares the contender, makes its first call and compares the result; None instead of what is not to be timed."""
    case = problem.case
    result: Result = {}
    base = None
    try:
        if case.memory:  # what it loads and compiles once is not this case's memory
            contender.run(problem.first(64)).call()
            gc.collect()
            base = memory.resident()
        started = time.perf_counter()
        prepared = contender.run(problem)
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
    except Exception as error:  # another version of a library may lack what is called; the others are still measured
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
    """Times and rates of a call that took so many seconds (one number a round) for all rows, or for those of a cut."""
    rows = case.n if prepared.rows is None else prepared.rows
    unit = case.rows / rows  # of a call
    median = float(np.median(seconds))
    return {
        "milliseconds": 1e3 * unit * median,
        "fastest": 1e3 * unit * min(seconds),
        "spread": (max(seconds) - min(seconds)) / median,
        "rounds": [1e3 * unit * second for second in seconds],
        "rows_per_second": rows / median,
        "gigabytes_per_second": 1e-9 * case.bytes / (unit * median),
        "gigaflops": 1e-9 * case.flops / (unit * median),
        "device": "gpu" if prepared.gpu else "cpu",
    }


def fraction(result: Result, case: Case, limits: dict[str, dict[str, float]]) -> Result:
    """The fraction of the ceiling that a time reaches, and which ceiling it is."""
    floor, bound = ceilings.floor(case, limits[result["device"]])
    return {"fraction_of_ceiling": 1e3 * floor / result["milliseconds"], "bound": bound}


def row(result: Result) -> str:
    """A contender's line of the table."""
    start = f"  {result['contender']:14s} "
    if reason := result.get("fault") or result.get("absent"):
        return start + (reason if result.get("fault") else f"absent: {reason}")
    peak = result.get("peak_megabytes")
    extra = [f"peak {peak:.0f} MB above X"] if peak is not None else []
    return start + (
        f"{result['milliseconds']:9.3f} {result['spread']:6.0%} {result['rows_per_second']:12,.0f} "
        f"{result['gigabytes_per_second']:6.2f} {result['gigaflops']:8.1f} {result['fraction_of_ceiling']:8.0%}  "
        f"{result['bound']:6s}{'; '.join([*extra, result['note']] if result['note'] else extra)}"
    )


def main(arguments: list[str]) -> int:
    """The command."""
    return Throughput().main(arguments)
