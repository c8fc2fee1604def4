"""After how many passes over the data, and how many seconds, is each solver how near to the optimum?

All minimise the same objective in the same process, on the same arrays, one after another, each after a rest. While a
solver runs, the clock stops whenever its point is measured. The best known objective is where our solver ends, in
float64 if the data are small, or the lowest that any contender reached.

    warm    the second run in this process, or the only one where that takes more than 10 s
    cold    to 1e-4 in a process of its own, from its start, imports included; making the data does not count
    all-in  the warm seconds to 1e-4, divided by those of one pass of ours over X in the same run
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine
from bench.common.harness import REST, Benchmark, NotForThisError, Progress, Result, add_before, positive
from bench.common.process import run_apart
from bench.solving.cases import CASES, Case, Problem
from bench.solving.contenders import CONTENDERS, Contender
from bench.solving.truth import SHORT, EnoughError, Judge, Trace, best_known, in_float64, pass_seconds

NEARNESS = (1e-2, 1e-3, 1e-4, 1e-6)  # relative, above the best known objective
COLD_TO = "0.0001"
BUDGET, TIMES, LEAST = 80.0, 100.0, 5.0  # seconds of a run: at most, as many times ours, but at least
QUICK_BUDGET = 2.0
COLD = 30.0  # warm seconds up to which there is a cold run: above, imports do not count
POINTS = 150  # of a trace that are kept
ROUNDING = 1e-5  # relative, by which our objective may differ from that of NumPy in float64


class Solving(Benchmark):
    """Runs the benchmark."""

    name = "solving"
    contenders = CONTENDERS
    examples = (
        "--list",
        "--quick                                                   a trial, some minutes",
        "--case digits --contender gpusoftmax --contender sklearn-newton-cg",
        "--before DIR --before now=. --rounds 3 --case digits       two checkouts, each in a process of its own",
        "--data DIR --out bench/results/solving --label NAME        everything, over an hour on two cores",
    )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --budget, --rounds, --no-cold and --before."""
        parser.add_argument("--budget", type=float, help=f"seconds of a run; default {BUDGET:g}")
        words = "short runs are made so many times more, in turns, and the fastest counts; default %(default)s"
        parser.add_argument("--rounds", type=positive, default=1, help=words)
        add_before(parser)
        parser.add_argument("--no-cold", action="store_true", help="no cold runs; implied by --quick")

    def cases(self, quick: bool) -> list[Case]:
        """All cases; with few rows if they are quick."""
        return [case.quick() if quick else case for case in CASES]

    def lacks(self, case: Case, data: Path | None) -> str:
        """The folder, or the file in it."""
        missing = bool(data and case.file and not (data / case.file).exists())
        return f"needs {case.file} in --data DIR" if missing else super().lacks(case, data)

    def start(self) -> Result:
        """The settings."""
        self.budget = self.options.budget or (QUICK_BUDGET if self.options.quick else BUDGET)
        before = {name: machine.commit(path) for name, path in self.options.before}
        return {"settings": {"budget": self.budget, "times": TIMES, "rounds": self.options.rounds, "before": before}}

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """Runs all contenders that have the case's loss warm, then those that arrived soon enough cold."""
        contenders = [contender for contender in contenders if case.loss in contender.losses]
        problem = case.problem(self.options.data)
        judge = Judge(problem)
        best = best_known(judge)
        goal = best * (1 + min(NEARNESS) / 4)
        n, d = problem.X.shape
        facts |= {"n": n, "d": d, "c": problem.n_classes, "C": case.C, "dtype": problem.X.dtype.name}
        facts["pass_seconds"] = unit = pass_seconds(problem)
        traces, absent = self._traces(contenders, problem, judge, goal, progress)
        facts["best"] = best = min([best, *(trace.lowest for trace in traces.values())])
        for contender in contenders:
            if contender.name in absent:
                yield contender.name, {"absent": absent[contender.name]}
                continue
            result = evaluated(problem, traces[contender.name], best, contender.ours, unit)
            starts_cold = contender.traceable and contender.checkout is None
            near = result["warm"][COLD_TO] if "warm" in result and starts_cold else None
            if near and near[0] <= COLD and not (self.options.no_cold or self.options.quick):
                progress.doing(f"{contender.name}, cold")
                result["cold"] = cold_seconds(case, contender.name, self.options.data, near[1])
            yield contender.name, result

    def _traces(
        self, contenders: list[Contender], problem: Problem, judge: Judge, goal: float, progress: Progress
    ) -> tuple[dict[str, Trace], dict[str, str]]:
        """The runs that count, and why other contenders are absent: the best of the rounds, or the run before them."""
        traces: dict[str, Trace] = {}
        absent: dict[str, str] = {}
        budget = self.budget
        for contender in contenders:
            progress.doing(contender.name)
            if "gpusoftmax" in traces:
                budget = min(self.budget, max(LEAST, TIMES * traces["gpusoftmax"].points[-1][0]))
            try:
                traces[contender.name] = run(contender, problem, judge, goal, budget)
            except NotForThisError as reason:
                absent[contender.name] = str(reason)
        repeated = [one for one in contenders if one.name in traces and traces[one.name].points[-1][0] <= SHORT]
        for number in range(self.options.rounds):
            for contender in repeated:
                progress.doing(f"{contender.name}, round {number + 1}")
                again = run(contender, problem, judge, goal, budget)
                if number == 0 or again.rank > traces[contender.name].rank:
                    traces[contender.name] = again
        return traces, absent

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        lines = [f"{case.name}: {case.words}, best known {facts['best']:.9g}"]
        heads = "".join(f"{near:>20g}" for near in NEARNESS)
        lines.append(f"  {'seconds and passes to':26s}{heads}{'all-in, 1e-4':>14s}{'cold':>9s}")
        for result in results:
            start = f"  {result['contender']:26s}"
            if why := [f"{word}: {result[word]}" for word in ("absent", "fault") if word in result]:
                lines.append(start + why[0])
                continue
            cells = [f"{t[0]:10.4f} {t[1]:8.1f} " if t else f"{'-':>19s} " for t in result["warm"].values()]
            passes = result["all_in"][COLD_TO]
            last = f"{'-':>13s}" if passes is None else f"{passes:13.1f}"
            lines.append(start + "".join(cells) + last + (f"{result['cold']:9.3f}" if "cold" in result else ""))
        return "\n".join(lines)


def run(contender: Contender, problem: Problem, judge: Judge, goal: float, budget: float) -> Trace:
    """One run."""
    time.sleep(REST)
    trace = Trace(judge, goal, budget)
    if contender.checkout is None:
        silently(contender, problem, trace)
    else:
        run_elsewhere(contender, problem, trace)
    return trace


def silently(contender: Contender, problem: Problem, trace: Trace) -> None:
    """Runs until the trace has enough, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a tolerance of 0 was not reached
        with suppress(EnoughError):
            contender.run(problem, trace)


def evaluated(problem: Problem, trace: Trace, best: float, ours: bool, unit: float) -> Result:
    """A result: when which nearness was reached, in seconds and in units of a pass, and the trace.

    Our objective is our own word, so it is a fault if float64 does not confirm it; that of the others is the judge's.
    """
    result: Result = {}
    if trace.last is not None:
        end, exact = trace.points[-1][2], in_float64(problem, *trace.last)
        result = {"end": end, "end_in_float64": exact}
        if ours and not abs(exact / end - 1) <= ROUNDING:
            return result | {"fault": f"wrong: objective {end:.9g}, in float64 it is {exact:.9g}"}
    warm = reached(trace.points, best)
    all_in = {near: None if found is None else found[0] / unit for near, found in warm.items()}
    return {"warm": warm, "all_in": all_in, "points": thinned(trace.points)} | result


def reached(points: list[tuple[float, float, float]], best: float) -> dict[str, list[float] | None]:
    """Seconds and passes at which each nearness was reached."""
    found: dict[str, list[float] | None] = {}
    for near in NEARNESS:
        first = next((point for point in points if point[2] <= best * (1 + near)), None)
        found[f"{near:g}"] = None if first is None else [first[0], first[1]]
    return found


def thinned(points: list[tuple[float, float, float]]) -> list[list[float]]:
    """At most so many points, evenly over their number, the ends among them."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(POINTS, len(points))).astype(int))
    return [[float(f"{number:.9g}") for number in points[i]] for i in chosen]


# ---- another checkout


def run_elsewhere(contender: Contender, problem: Problem, trace: Trace) -> None:
    """A run of another checkout's solver in a process of its own, after one to warm up there."""
    case, data = problem.case, problem.data
    with tempfile.TemporaryDirectory() as folder:
        arguments = [case.name, case.rows, data and str(data.absolute()), trace.goal, trace.budget, folder]
        if failure := run_apart(run_there, arguments, Path(folder), checkout=contender.checkout):
            raise RuntimeError(f"{contender.name}: {failure}")
        with np.load(Path(folder) / "trace.npz") as found:
            if not Path(str(found["where"])).is_relative_to(contender.checkout.resolve()):
                raise RuntimeError(f"{contender.name}: gpusoftmax of {found['where']}, not of {contender.checkout}")
            trace.points, trace.last = list(map(tuple, found["points"].tolist())), (found["W"], found["b"])


def run_there(case_name: str, rows: int | None, data: str | None, goal: float, budget: float, folder: str) -> None:
    """Called in the new process: writes the trace, whose objectives are the solver's own."""
    import gpusoftmax

    (case,) = (case for case in CASES if case.name == case_name)
    problem = replace(case, rows=rows).problem(Path(data) if data else None)
    trace = Trace(Judge(problem), goal, budget)
    silently(CONTENDERS[0], problem, trace)
    if trace.points[-1][0] <= SHORT:
        time.sleep(REST)
        trace = Trace(Judge(problem), goal, budget)
        silently(CONTENDERS[0], problem, trace)
    assert trace.last is not None
    W, b = trace.last
    where = str(Path(gpusoftmax.__file__).resolve())
    np.savez(Path(folder) / "trace.npz", points=np.array(trace.points), W=W, b=b, where=where)


# ---- cold


class UntilPasses(Trace):
    """Ends after as many passes as an earlier run took. Solvers are deterministic, so nothing needs to be measured."""

    def show(self, passes: float, W: Any, b: Any, seconds: float | None = None) -> None:
        """A point."""
        self.add(passes, np.nan)

    def add(self, passes: float, value: float, seconds: float | None = None) -> None:
        """A point."""
        self.points.append((time.perf_counter() - self.started, passes, value))
        if passes >= self.goal:
            raise EnoughError


def cold_seconds(case: Case, name: str, data: Path | None, passes: float) -> float:
    """Seconds from the start of a process of its own to the end of so many passes, without making the data."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [case.name, case.rows, name, data and str(data.absolute()), passes, folder]
        time.sleep(REST)
        spawned = time.time()
        if failure := run_apart(run_cold, arguments, Path(folder)):
            raise RuntimeError(f"{name}, cold: {failure}")
        ended, making = map(float, (Path(folder) / "times").read_text(encoding="utf-8").split())
    return ended - spawned - making


def run_cold(case_name: str, rows: int | None, name: str, data: str | None, passes: float, folder: str) -> None:
    """Called in the new process: writes down when it ended, and how long making the data took."""
    (case,) = (case for case in CASES if case.name == case_name)
    (contender,) = (contender for contender in CONTENDERS if contender.name == name)
    started = time.perf_counter()
    problem = replace(case, rows=rows).problem(Path(data) if data else None)
    making = time.perf_counter() - started
    silently(contender, problem, UntilPasses(Judge(problem), passes, np.inf, once=True))
    (Path(folder) / "times").write_text(f"{time.time()} {making}", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """The command."""
    return Solving().main(arguments)
