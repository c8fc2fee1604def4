"""The process in which cases are measured: it takes a case a line, and says what it does and finds, a line each.

It is a process of its own because a kernel that touches memory which is not its own leaves a GPU's context unusable,
and because a library that hangs can be ended with it. `apart.py` starts it, and another one after such a case.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.harness import Contender, NotForThisError, Result
from bench.common.ours import BatchPlan
from bench.gpu import ceilings, clock, truth
from bench.gpu.cases import Case, all_cases
from bench.gpu.contenders import CONTENDERS, prepare
from bench.gpu.contenders.fits import Solver, tight
from bench.gpu.data import embeddings, images
from bench.gpu.device import device, free_memory
from bench.throughput import cases as throughput
from bench.throughput.contenders.base import Prepared
from bench.throughput.truth import truth as right_of

LADDER = (25, 50, 100, 200, 400, 800)  # iterations of solvers that do not stop by themselves
FRACTION = 0.3  # of a case's seconds that a contender may take for all of its fits
SHORT = 1.0  # seconds: shorter fits are made three times
NEAR_OURS = 2e-4  # relative: what our default tolerance may leave above the optimum

Say = Callable[..., None]


def serve(stand_in: bool, quick: bool, data: str | None) -> None:
    """Measure cases whose names and contenders come line by line on the standard input."""
    with _channel() as channel, device(stand_in):

        def say(**message: Any) -> None:
            print(json.dumps(message), file=channel, flush=True)

        known = {case.name: case for case in all_cases(quick=quick)}
        say(ready=True)
        for line in sys.stdin:
            request = json.loads(line)
            case = known[request["case"]]
            chosen = [one for one in CONTENDERS if one.name in request["contenders"]]
            MEASURES[case.kind](case, chosen, None if data is None else Path(data), say)
            _check_context()
            say(done=True)


@contextmanager
def _channel() -> Iterator[Any]:
    """The standard output for messages alone: what libraries print goes to the standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        yield channel


def _check_context() -> None:
    """Raise if a kernel has left the context unusable; and free what the case has used."""
    import cupy

    cupy.cuda.get_current_stream().synchronize()
    free_memory()


# ---- passes, steps and rows: what is called over and over


def measure_passes(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """Values and gradients over all rows, against float64 on the device."""
    import cupy

    problem = _throughput_problem(case, say)
    say(doing="the right answer")
    X, y = cupy.asarray(problem.X), cupy.asarray(problem.y)
    right = truth.gradient(problem, X, y)
    del X, y
    free_memory()
    _in_turns(case, contenders, problem, right, say)


def measure_steps(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """Steps of minibatches, against an epoch of them in float64."""
    problem = _throughput_problem(case, say)
    say(doing="the right answer")
    _in_turns(case, contenders, problem, right_of(problem), say)


def measure_rows(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """Rows of scores, against the reference."""
    say(doing="the right answer")
    problem = truth.rows_problem(case)
    _in_turns(case, contenders, problem, truth.rows_truth(problem), say)


def _throughput_problem(case: Case, say: Say) -> throughput.Problem:
    """The data of a pass: X with the values of `bench throughput`, or embeddings."""
    say(doing="data")
    same = case.as_throughput()
    if case.dtype != "float16":
        return throughput.make(same)
    X, y = embeddings(case.n, case.d, case.c)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((case.d, 1, case.c), dtype=np.float32)
    return throughput.Problem(same, X, y, W, np.zeros((1, case.c), np.float32), np.array([1e-3]), 0.0)


def _in_turns(case: Case, contenders: list[Contender], problem: Any, right: Any, say: Say) -> None:
    """Check each contender and measure it once; then take turns. After each round what is known is said."""
    ready: dict[str, Prepared] = {}
    results: dict[str, Result] = {}
    rounds: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}

    def measure(name: str) -> None:
        if name in ready:
            rounds[name].append(clock.one_round(ready[name], case.is_quick))
            results[name] |= clock.summary(rounds[name])
            results[name] |= rates(case, name, results[name]["milliseconds"])
        say(contender=name, result=results[name])

    for contender in contenders:
        name = contender.name
        say(doing="first call", contender=name)
        results[name], prepared = checked(prepare(name, case.kind), problem, right)
        if prepared is not None:
            ready[name] = prepared
        measure(name)
    for turn in range(1, 1 if case.is_quick else clock.ROUNDS):
        for name in ready:
            say(doing=f"round {turn + 1}", contender=name)
            measure(name)


def checked(run: Callable[[Any], Prepared], problem: Any, right: Any) -> tuple[Result, Prepared | None]:
    """Prepare a contender and compare its first result; None instead of what is not to be timed."""

    def first() -> Result:
        started = time.perf_counter()
        made.append(run(problem))
        result: Result = {"prepare": 1e3 * (time.perf_counter() - started), "note": made[0].note}
        started = time.perf_counter()
        raw = made[0].call()
        result["first_call"] = 1e3 * (time.perf_counter() - started)
        fault = right.fault(made[0].read(raw))
        return result | ({"fault": fault} if fault else {})

    made: list[Prepared] = []
    result = _attempt(first)
    return result, None if result.keys() & {"fault", "absent"} else made[0]


def rates(case: Case, contender: str, milliseconds: float) -> Result:
    """Bytes and operations a second of a call; of an epoch of steps the time of one of them."""
    seconds, same = 1e-3 * milliseconds, case.as_throughput()
    if case.kind == "rows":
        # ours also reads a label a row, and writes its loss and its best column
        a_row = 2 * case.c * case.itemsize + (12 if contender == "gpusoftmax" else 0)
        return {"gigabytes_per_second": 1e-9 * case.n * a_row / seconds}
    if case.kind == "steps":
        return {"milliseconds_a_step": milliseconds / BatchPlan(case.n, same.batch).steps_per_epoch}
    return {"gigabytes_per_second": 1e-9 * same.bytes / seconds, "gigaflops": 1e-9 * same.flops / seconds}


# ---- fits


def measure_fits(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """Exact fits: seconds to within 1e-4 of the optimum, relative, by the objective in float64."""
    problem = _fit_problem(case, data, say)
    (C,) = case.Cs
    say(doing="the optimum")
    lowest, results = problem.objective(C, *tight(problem, C)), {}
    for contender in contenders:
        name = contender.name
        say(doing="first fit", contender=name)
        run = partial(_one_fit, case, problem, lowest, prepare(name, case.kind), partial(say, contender=name))
        results[name] = _attempt(run)
        lowest = min(lowest, results[name].get("objective", lowest))
        say(contender=name, result=results[name])
        free_memory()
    for name, result in results.items():  # a later one may have been lower
        if "milliseconds" in result:
            result["above"] = result["objective"] / lowest - 1
            say(contender=name, result=with_fault(result, allowed(name == "gpusoftmax")))
    say(facts={"C": C, "lowest": lowest, "data": problem.origin})


def allowed(ours: bool) -> float:
    """How far above the optimum a fit may be, relative."""
    return NEAR_OURS if ours else truth.NEAR


def with_fault(result: Result, most: float) -> Result:
    """A result that is further from the optimum than allowed has a fault in place of its time."""
    if result["above"] <= most:
        return result
    words = f"wrong: {result['above']:.1e} above the optimum after {result['iterations'] or 'its'} iterations"
    return {name: value for name, value in result.items() if name != "milliseconds"} | {"fault": words}


def _fit_problem(case: Case, data: Path | None, say: Say) -> truth.FitProblem:
    say(doing="data")
    if case.dtype == "uint8":
        return truth.FitProblem(case, *images(data, case.n, case.d, case.c))
    return truth.FitProblem(case, *embeddings(case.n, case.d, case.c), "made, with ImageNet's shape")


def _attempt(work: Callable[[], Result]) -> Result:
    """A result, or why there is none."""
    try:
        return work()
    except NotForThisError as reason:
        return {"absent": str(reason)}
    except Exception as error:  # another version of a library may lack what is called; the others are still measured
        return {"fault": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def _one_fit(case: Case, problem: truth.FitProblem, lowest: float, prepare: Any, say: Say) -> Result:
    """The time of a fit; of solvers that do not stop, with the fewest iterations of a ladder that reach the optimum."""
    (C,) = case.Cs
    started = time.perf_counter()
    solver: Solver = prepare(problem)
    solver.fit(C, 2, None)
    first = {"first_call": 1e3 * (time.perf_counter() - started)}

    def attempt(iterations: int) -> Result:
        seconds, solution = _timed(lambda: solver.fit(C, iterations, None), case.is_quick)
        objective = problem.objective(C, *solver.read(solution))
        return {
            "milliseconds": 1e3 * seconds, "objective": objective, "above": objective / lowest - 1,
            **solver.about(solution),
        }  # fmt: skip

    return first | _climb(case, solver.stops, attempt, say)


def _climb(case: Case, stops: bool, attempt: Callable[[int], Result], say: Say) -> Result:
    """The first attempt that is near enough to the optimum, with more and more iterations while there is time."""
    begun = time.perf_counter()
    for iterations in (0,) if stops else LADDER:
        say(doing=f"{iterations or 'all'} iterations")
        started = time.perf_counter()
        result = attempt(iterations) | {"iterations": iterations}
        now = time.perf_counter()
        late = now - begun + 2 * (now - started) > FRACTION * case.seconds
        if result["above"] <= allowed(stops) or late:
            break
    return with_fault(result, allowed(stops))


def _timed(fit: Callable[[], Any], is_quick: bool) -> tuple[float, Any]:
    """Seconds of a fit and its solution; the median of three where it is short."""
    seconds = []
    while len(seconds) < 3 and (len(seconds) == 0 or (sum(seconds) < SHORT and not is_quick)):
        started = time.perf_counter()
        solution = fit()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2], solution


def measure_sweep(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """All values of C: ours in one call, the others one after the other, each started at the solution before."""
    problem = _fit_problem(case, data, say)
    Cs, drawn = case.Cs, sorted({0, len(case.Cs) // 2, len(case.Cs) - 1})
    say(doing="the optima")
    lowest = {i: problem.objective(Cs[i], *tight(problem, Cs[i])) for i in drawn}
    for contender in contenders:
        name = contender.name
        say(doing="the first value of C", contender=name)
        run = partial(_one_sweep, case, problem, lowest, prepare(name, case.kind), partial(say, contender=name))
        say(contender=name, result=_attempt(run))
        free_memory()
    say(facts={"checked": [Cs[i] for i in drawn], "lowest": list(lowest.values()), "data": problem.origin})


def _one_sweep(case: Case, problem: truth.FitProblem, lowest: dict[int, float], prepare: Any, say: Say) -> Result:
    started = time.perf_counter()
    solver: Solver = prepare(problem)
    solver.fit(case.Cs[0], 2, None)
    first = {"first_call": 1e3 * (time.perf_counter() - started)}

    def attempt(iterations: int) -> Result:
        if solver.path is None:
            found = _one_after_another(solver, problem, case.Cs, iterations)
        else:
            started = time.perf_counter()
            found = solver.path(case.Cs)
            found["milliseconds"] = 1e3 * (time.perf_counter() - started)
        return found | {"above": max(found["objectives"][i] / lowest[i] - 1 for i in lowest)}

    return first | _climb(case, solver.path is not None, attempt, say)


def _one_after_another(solver: Solver, problem: truth.FitProblem, Cs: tuple[float, ...], iterations: int) -> Result:
    """Objectives for all values of C, and the time of all fits."""
    solution, seconds, objectives = None, 0.0, []
    for C in Cs:
        started = time.perf_counter()
        solution = solver.fit(C, iterations, solution)
        seconds += time.perf_counter() - started
        objectives.append(problem.objective(C, *solver.read(solution)))
    return {"objectives": objectives, "milliseconds": 1e3 * seconds}


# ---- ceilings


def measure_ceilings(case: Case, contenders: list[Contender], data: Path | None, say: Say) -> None:
    """What the device can do."""
    say(doing="copy and products", contender="device")
    say(contender="device", result=ceilings.measure(**(ceilings.QUICK if case.is_quick else {})))


MEASURES: dict[str, Callable[[Case, list[Contender], Path | None, Say], None]] = {
    "ceilings": measure_ceilings,
    "rows": measure_rows,
    "pass": measure_passes,
    "steps": measure_steps,
    "fit": measure_fits,
    "sweep": measure_sweep,
}
