#!/usr/bin/env python3
"""After how many reads of the data, and how many seconds, is whose solver how near to the optimum?

All solve the same objective in the same process, on the same arrays, one after another, each after a rest. While a
solver runs, the clock stops whenever its point is measured. The best known objective is that of our solver at its
end, in float64 where the data are small, or what any racer reached, if it is lower.

    warm    the second run in this process
    cold    to 1e-4 in a process of its own, from its start on, imports included; making the data apart

Exit code: 0; 1 if our own end is not what float64 says it is; 2 if the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine
from bench.solving.cases import Case, Problem, choose
from bench.solving.contenders.sklearn import SHORT, EnoughError, Judge, Racer, Trace
from bench.solving.contenders.sklearn import choose as choose_racers
from bench.throughput.cases import NotForThisError

EXAMPLES = """examples:
  python -m bench.solving.run --list
  python -m bench.solving.run --case digits --racer gpusoftmax --racer sklearn-newton-cg
  python -m bench.solving.run --data ~/data --out bench/results/solving --label NAME     all, half an hour on two cores
  python -m bench.solving_figures                                                   README's table and figure

Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE before measuring, and let nobody else use the machine."""

NEARNESS = (1e-2, 1e-3, 1e-4, 1e-6)  # relative, above the best known objective
BUDGET, TIMES, LEAST = 80.0, 100.0, 5.0  # seconds of a run: at most, as many times ours, but at least
COLD = 30.0  # warm seconds up to which there is a cold run: above, imports do not count
REST = 0.5
POINTS = 150  # of a trace that are kept

Result = dict[str, Any]


def run(racer: Racer, problem: Problem, judge: Judge, goal: float, budget: float) -> Trace:
    """One run."""
    time.sleep(REST)
    trace = Trace(judge, goal, budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a tolerance of 0 was not reached
        with suppress(EnoughError):
            racer.run(problem, trace)
    return trace


def in_float64(problem: Problem, W: Any, b: Any) -> float:
    """f in plain float64 NumPy, W (c, d) and b (c,): who says so otherwise is wrong."""
    X, total = problem.scaled(), 0.0
    for start in range(0, len(X), 4096):
        z = X[start : start + 4096].astype(np.float64) @ W.T + b
        labels = problem.y[start : start + 4096]
        margins = z - z[np.arange(len(z)), labels][:, None]  # the target's is 0 to the last digit
        margins[np.arange(len(z)), labels] = -np.inf
        top = np.maximum(margins.max(axis=1), 0.0)
        others = np.exp(margins - top[:, None]).sum(axis=1)
        total += float((top + np.where(top > 0, np.log(others + np.exp(-top)), np.log1p(others))).sum())
    return total / len(X) + 0.5 * problem.l2 * float((W * W).sum())


def best_known(problem: Problem, judge: Judge) -> float:
    """Our solver's end, in float64 if the data are small."""
    from gpusoftmax.solvers import LBFGS
    from gpusoftmax.trainer import train

    objective = judge.objective
    dtype, shape = objective.features.dtype, (1, problem.n_classes)
    start = np.zeros((objective.features.d, *shape), dtype), np.zeros(shape, dtype)
    return float(train(objective, LBFGS(2000, 0.0), *start).history[-1].objective)


def reached(points: list[tuple[float, float, float]], best: float) -> dict[str, list[float] | None]:
    """Seconds and reads at which each nearness was reached."""
    found: dict[str, list[float] | None] = {}
    for near in NEARNESS:
        first = next((point for point in points if point[2] <= best * (1 + near)), None)
        found[f"{near:g}"] = None if first is None else [first[0], first[1]]
    return found


def thinned(points: list[tuple[float, float, float]]) -> list[list[float]]:
    """At most so many points, evenly over their number, the ends among them."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(POINTS, len(points))).astype(int))
    return [[float(f"{number:.9g}") for number in points[i]] for i in chosen]


def race(case: Case, racers: list[Racer], data: Path | None, budget: float, cold: bool) -> Result:
    """One case: everybody's run, and what it comes to."""
    problem = case.problem(data)
    judge = Judge(problem)
    best = best_known(problem, judge)
    goal = best * (1 + min(NEARNESS) / 4)
    n, d = problem.X.shape
    result: Result = {
        "case": case.name, "words": case.words, "n": n, "d": d, "c": problem.n_classes, "C": case.C,
        "dtype": problem.X.dtype.name, "racers": {},
    }  # fmt: skip
    traces: dict[str, Trace] = {}
    known = {racer.name: racer for racer in racers}
    for racer in racers:
        entry: Result = {}
        result["racers"][racer.name] = entry
        if reason := racer.absent():
            entry["absent"] = reason
            continue
        try:
            allowed = budget
            if "gpusoftmax" in traces:
                allowed = min(budget, max(LEAST, TIMES * traces["gpusoftmax"].points[-1][0]))
            traces[racer.name] = run(racer, problem, judge, goal, allowed)
            if traces[racer.name].points[-1][0] <= SHORT:
                traces[racer.name] = run(racer, problem, judge, goal, allowed)
        except NotForThisError as reason:
            entry["absent"] = str(reason)
            continue
        print(f"  {racer.name}: {traces[racer.name].points[-1][0]:.2f} s", file=sys.stderr, flush=True)
    best = min(best, *(trace.lowest for trace in traces.values()))
    result["best"] = best
    for name, trace in traces.items():
        entry = result["racers"][name]
        entry |= {"warm": reached(trace.points, best), "points": thinned(trace.points)}
        if trace.last is not None:
            entry["end"], entry["end_in_float64"] = trace.points[-1][2], in_float64(problem, *trace.last)
        near = entry["warm"]["0.0001"]
        if cold and near and near[0] <= COLD and known[name].traceable:
            entry["cold"] = cold_seconds(case, name, data, near[1])
    return result


class UntilReads(Trace):
    """Ends after as many reads as a run before took; solvers are deterministic, so that nothing has to be measured."""

    def show(self, reads: float, W: Any, b: Any, seconds: float | None = None) -> None:
        """A point."""
        self.add(reads, np.nan)

    def add(self, reads: float, value: float, seconds: float | None = None) -> None:
        """A point."""
        self.points.append((time.perf_counter() - self.started, reads, value))
        if reads >= self.goal:
            raise EnoughError


def cold_seconds(case: Case, name: str, data: Path | None, reads: float) -> float:
    """From the start of a process of its own to the end of so many reads; making the data apart."""
    command = [sys.executable, "-m", "bench.solving.run", "--cold", name, "--case", case.name, "--reads", repr(reads)]
    command += [] if data is None else ["--data", str(data.absolute())]
    time.sleep(REST)
    spawned = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=machine.ROOT)
    ended, making = map(float, done.stdout.split())
    return ended - spawned - making


def run_cold(options: argparse.Namespace) -> int:
    """What `cold_seconds` starts: prints when it ended, and how long the data took."""
    (case,), (racer,) = options.cases, choose_racers([options.cold])
    started = time.perf_counter()
    problem = case.problem(options.data)
    making = time.perf_counter() - started
    trace = UntilReads(Judge(problem), options.reads, np.inf, once=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(EnoughError):
            racer.run(problem, trace)
    print(time.time(), making)
    return 0


# ---- what is shown


def in_words(result: Result) -> str:
    """A case's table."""
    lines = [f"{result['case']}: {result['words']}, best known {result['best']:.9g}"]
    heads = "".join(f"{near:>20g}" for near in NEARNESS)
    lines.append(f"  {'seconds and reads to, relative':26s}{heads}{'cold, 1e-4':>12s}")
    for name, entry in result["racers"].items():
        if "absent" in entry:
            lines.append(f"  {name:26s}absent: {entry['absent']}")
            continue
        cells = [f"{t[0]:10.4f} {t[1]:8.1f} " if t else f"{'-':>19s} " for t in entry["warm"].values()]
        cold = f"{entry['cold']:12.3f}" if "cold" in entry else ""
        lines.append(f"  {name:26s}" + "".join(cells) + cold)
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.solving.run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="start of a name, or a pattern; repeatable")
    parser.add_argument("--racer", action="append", metavar="NAME", help="by name; repeatable")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of CIFAR-10; without it these cases are left")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a run at most; default %(default)s")
    parser.add_argument("--no-cold", action="store_true", help="no runs in processes of their own")
    parser.add_argument("--list", action="store_true", help="name the cases and the racers, and stop")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--label", default="solving", help="name of the file; default %(default)s")
    parser.add_argument("--cold", help=argparse.SUPPRESS)  # what cold_seconds starts
    parser.add_argument("--reads", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        options.cases, options.racers = choose(options.case), choose_racers(options.racer)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    options = parse(arguments)
    if options.list:
        for item in (*options.cases, *options.racers):
            print(f"{item.name:26s} {item.words}")
        return 0
    if options.cold:
        return run_cold(options)
    for warning in machine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    found: Result = {
        "format": 1,
        "machine": machine.facts(),
        "settings": {"budget": options.budget, "times": TIMES},
        "results": [],
    }
    wrong = False
    for case in options.cases:
        if case.needs_data and options.data is None:
            print(f"left out: {case.name} needs --data DIR", file=sys.stderr)
            continue
        result = race(case, options.racers, options.data, options.budget, not options.no_cold)
        found["results"].append(result)
        print(in_words(result), end="\n\n", flush=True)
        mine = result["racers"].get("gpusoftmax", {})
        wrong |= "end" in mine and abs(mine["end_in_float64"] / mine["end"] - 1) > 1e-5
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{options.label}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
