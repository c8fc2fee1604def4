"""How long does it take to fit every configuration and fold over one X?

    cv        20 values of C x 5 folds on CIFAR-10's first 10,000 training rows
    minilm    19 values of C x 5 folds on 12,786 real embeddings of 384 features, 20 classes
    path      20 values of C on all 49,000, with the validation set
    cs231n    8 learning rates x 8 regularizations, 1500 steps of 200 rows: the same start and the same batches for all
    models    milliseconds a model by the number of models side by side, and a path by how many C's are side by side

Each contender has a process of its own, one after another, which loads the data, does a small problem of the same kind
as a warm-up, and then starts the clock. One that is not done when the time is up is stopped and has no time: how many
of its models were done is recorded, and nothing is extrapolated. Incorrect results are not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine
from bench.common.harness import REST, Benchmark, Progress, Result, add_before
from bench.common.memory import peak_of, resident
from bench.common.process import ready, run_apart
from bench.sweeping.cases import CASES, MINILM, Case, Problem, make
from bench.sweeping.contenders import CONTENDERS, Contender
from bench.sweeping.contenders.base import Outcome, Watch
from bench.sweeping.truth import NEAR, ROUNDING, Models, allowed, apart, distances, fault, truth_of

BUDGET = 900.0  # seconds of a contender's run
GRACE = 10.0  # seconds after which a contender that has not stopped by itself is stopped
SHORT, TIMES = 60.0, 3  # what takes less in all is run again, up to so many times, and the median counts


class Sweeping(Benchmark):
    """Runs the benchmark."""

    name = "sweeping"
    contenders = CONTENDERS
    examples = (
        "--list",
        "--quick                                                     a trial on digits, a minute",
        "--data DIR --out bench/results/sweeping --label NAME        everything, an hour",
        "--data DIR --out bench/results/sweeping --label NAME --case cv --add       one case; others stay",
    )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --budget and --before."""
        parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a run; default %(default)s")
        add_before(parser)

    def lacks(self, case: Case, data: Path | None) -> str:
        """The folder, or the file in it."""
        missing = bool(data and case.name == "minilm" and not (data / MINILM).exists())
        return f"needs {MINILM} in --data DIR" if missing else super().lacks(case, data)

    def start(self) -> Result:
        """The settings."""
        return {"settings": {"before": {name: machine.commit(path) for name, path in self.options.before}}}

    def cases(self, quick: bool) -> list[Case]:
        """All cases."""
        return [replace(case, needs_data=not quick) for case in CASES]

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """One contender after another."""
        progress.doing("the right answer")
        problem = make(case.name, self.options.data, self.options.quick)
        truth = truth_of(problem)
        facts |= {
            "rows": len(problem.y), "size": vars(problem.size), "budget": self.options.budget, "Cs": problem.Cs
        }  # fmt: skip
        if problem.has_folds or case.name == "path":
            facts |= {"truth": truth, "drawn": problem.drawn}
        for contender in contenders:
            progress.doing(contender.name)
            yield contender.name, measure(contender, problem, truth, self.options)

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        lines = [f"{case.name}: {case.words}, {facts['rows']} rows"]
        for result in results:
            notes = [
                f"{key} {result[key]}"
                for key in ("passes", "found_C", "threads", "steps_by_accuracy", "steps_by_log_loss")
                if key in result
            ]
            if result.get("peak_megabytes") is not None:
                notes.append(f"{result['peak_megabytes']:.0f} MB")
            if result.get("distances"):
                notes.append(f"distance {max(result['distances'].values()):.1e}")
            for key in ("milliseconds", "seconds_by_width"):
                if key in result:
                    notes.append(f"{key} " + ", ".join(f"{K}: {value:.3g}" for K, value in result[key].items()))
            lines.append(f"  {result['contender']:14s}{time_in_words(result):40s}  {'; '.join(notes)}")
        return "\n".join(lines)


def time_in_words(result: Result) -> str:
    """Seconds, or why there are none."""
    if "fault" in result:
        return f"fault: {result['fault']}"
    if "over_budget" in result:
        each = f", {result['seconds_each']:.3g} s each" if "seconds_each" in result else ""
        done = f", {result['done']} of {result['of']} done" if "done" in result else ""
        return f"> {result['over_budget']:g} s{done}{each}"
    return f"{result['seconds']:.3f} s"


def measure(contender: Contender, problem: Problem, truth: Any, options: argparse.Namespace) -> Result:
    """One contender's result; one that is wrong has no time."""
    result: Result = {"words": contender.words, "call": contender.call}
    of = len(problem.models)
    here = contender.name if contender.checkout is None else "gpusoftmax"  # as it is called in that process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data and str(options.data.absolute())
        time.sleep(REST)
        failure = run_apart(
            run_alone, [problem.case, here, data, options.quick, options.budget, name], folder,
            options.budget + GRACE, contender.checkout,
        )  # fmt: skip
        if not (folder / "result.json").exists():
            if failure:
                return result | {"fault": failure}
            tally = folder / "tally"
            done = tally.stat().st_size if tally.exists() else 0
            return result | {"over_budget": options.budget, "done": min(done, of), "of": of}
        numbers = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        models = read(folder / "models.npz")
        if numbers.pop("stopped"):
            result["over_budget"] = options.budget
            if not contender.once:
                done = (folder / "tally").stat().st_size
                each = numbers["rounds"][0] / max(done, 1)
                result |= {"done": done, "of": of, "seconds_each": each}
        else:
            result["seconds"] = statistics.median(numbers["rounds"])
    return checked(result | numbers, contender, problem, truth, models)


def checked(result: Result, contender: Contender, problem: Problem, truth: Any, models: Models) -> Result:
    """The result with distances from the truth, and steps of the grid from its choices; one that is wrong says why."""
    if problem.has_folds or problem.case == "path":
        found, limit = distances(problem, truth, models), allowed(problem) if contender.near else np.inf
        steps = {
            f"steps_{by}": result[by] - truth[by]
            for by in ("by_accuracy", "by_log_loss")
            if by in result and by in truth
        }
    elif problem.case == "cs231n":
        found, limit, steps = apart(truth, models), ROUNDING, {}
    else:
        found, limit, steps = result.get("apart", {}), NEAR, {}
        found = found if isinstance(found, dict) else {"all": found}
    result = result | steps | {"distances": found}
    if reason := fault(found, limit):
        times = ("seconds", "seconds_each", "milliseconds", "seconds_by_width")
        return {name: value for name, value in result.items() if name not in times} | {"fault": reason}
    return result


# ---- in a contender's own process


def run_alone(case: str, name: str, data: str | None, quick: bool, budget: float, folder: str) -> None:
    """Called in the new process."""
    warnings.simplefilter("ignore")  # that scikit-learn's solver has not converged in max_iter
    (contender,) = (one for one in CONTENDERS if one.name == name and case in one.cases)
    run(contender, make(case, Path(data) if data else None, quick), Path(folder), budget)


def run(contender: Contender, problem: Problem, folder: Path, budget: float) -> None:
    """Runs, and writes after each round what is known, so that it can be read when this process is stopped."""
    silent = Watch()
    silent.start()
    contender.run(problem.warm(), silent)()()
    watch = Watch(folder / "tally", budget)
    work = contender.run(problem, watch)
    ready()
    rounds: list[float] = []
    numbers: Result = {}
    while not rounds or (sum(rounds) + rounds[-1] < min(SHORT, budget) and len(rounds) < TIMES and not contender.once):
        time.sleep(REST)
        found: list[Any] = []

        def timed(found: list[Any] = found) -> None:
            watch.start()
            started = time.perf_counter()
            found.append(work())
            rounds.append(time.perf_counter() - started)

        if problem.case == "path":  # in other cases contenders have workers, which the high-water mark does not count
            numbers["peak_megabytes"] = peak_of(timed, resident())
        if not found:  # not asked for, or memory cannot be known here
            timed()
        if len(rounds) == 1:
            outcome: Outcome = found[0]()
            numbers |= outcome.numbers | {"stopped": watch.stopped}
            save(folder / "models.npz", outcome.models)
        told = json.dumps(numbers | {"rounds": rounds})
        (folder / "next").write_text(told, encoding="utf-8")
        (folder / "next").replace(folder / "result.json")


def save(path: Path, models: Models) -> None:
    """Writes weights and intercepts by the model's two numbers."""
    arrays = {
        f"{part}{i},{k}": array for (i, k), pair in models.items() for part, array in zip("Wb", pair, strict=True)
    }
    np.savez(path, **arrays)


def read(path: Path) -> Models:
    """What `save` wrote."""
    with np.load(path) as arrays:
        names = [tuple(map(int, name[1:].split(","))) for name in arrays if name[0] == "W"]
        return {(i, k): (arrays[f"W{i},{k}"], arrays[f"b{i},{k}"]) for i, k in names}


def main(arguments: list[str]) -> int:
    """The command."""
    return Sweeping().main(arguments)
