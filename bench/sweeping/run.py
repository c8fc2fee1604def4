#!/usr/bin/env python3
"""How long does it take to fit every configuration and fold over one X, whoever does it?

    cv        20 values of C x 5 folds on CIFAR-10's first 10,000 training rows
    path      20 values of C on all 49,000, with the validation set
    cs231n    8 learning rates x 8 regularizations, 1500 steps of 200 rows: the same start and the same batches for all
    models    milliseconds a model by the number of models side by side, and a path by how many C's are side by side

Each racer has a process of its own, one after another, which loads the data, does a little of the same for warmth, and
then starts the clock. Who is not done when the time is up is stopped, and has no time: how many of its models were
done is recorded, and nothing is extrapolated.

Exit code: 0; 1 if a result is wrong or a racer failed; 2 if the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine
from bench.common.memory import peak_of, resident
from bench.sweeping.cases import PARTS, Problem, make
from bench.sweeping.contenders.ours import Outcome, Racer, Watch, choose
from bench.sweeping.truth import NEAR, ROUNDING, Models, apart, converged, descended, distances, fault

EXAMPLES = """examples:
  python -m bench.sweeping.run --list
  python -m bench.sweeping.run --quick                                        a trial on digits, a minute
  python -m bench.sweeping.run --data ~/data --out bench/results/sweeping/2-cores.json --label "2 cores"
  python -m bench.sweeping.run --data ~/data --part cv --budget 900 --out ...  one part; others in the file stay
  python -m bench.sweeping_figures                                        README's table and the figure

Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE before measuring, and let nobody else use the machine."""

BUDGET = 900.0  # seconds of a racer's run
GRACE = 10.0  # seconds after which who has not stopped by itself is stopped
SHORT, TIMES = 60.0, 3  # what takes less in all is run again, up to so many times, and the median counts
REST = 0.5

Result = dict[str, Any]


# ---- in a racer's own process


def run(racer: Racer, problem: Problem, folder: Path, budget: float) -> None:
    """Runs, and writes after each of them what is known, for whoever reads it when this process is stopped."""
    silent = Watch()
    silent.start()
    racer.make(problem.warm(), silent)()()
    watch = Watch(folder / "tally", budget)
    work = racer.make(problem, watch)
    print("ready", flush=True)
    rounds: list[float] = []
    numbers: Result = {}
    while not rounds or (sum(rounds) + rounds[-1] < min(SHORT, budget) and len(rounds) < TIMES and not racer.once):
        time.sleep(REST)
        found: list[Any] = []

        def timed(found: list[Any] = found) -> None:
            watch.start()
            started = time.perf_counter()
            found.append(work())
            rounds.append(time.perf_counter() - started)

        if racer.part == "path":  # the others' peers have processes of their own, which the mark does not count
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
    """Weights and intercepts by the model's two numbers."""
    arrays = {
        f"{part}{i},{k}": array for (i, k), pair in models.items() for part, array in zip("Wb", pair, strict=True)
    }
    np.savez(path, **arrays)


def read(path: Path) -> Models:
    """What `save` wrote."""
    with np.load(path) as arrays:
        names = [tuple(map(int, name[1:].split(","))) for name in arrays if name[0] == "W"]
        return {(i, k): (arrays[f"W{i},{k}"], arrays[f"b{i},{k}"]) for i, k in names}


# ---- in the race's


def race(racer: Racer, options: argparse.Namespace, problem: Problem, truth: Any) -> Result:
    """One racer's run and what it comes to; a result that is wrong has no time."""
    entry: Result = {"words": racer.words, "call": racer.call}
    if reason := racer.absent():
        return entry | {"absent": reason}
    of = len(problem.models)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell = wait(racer, options, folder)
        if not (folder / "result.json").exists():
            if tell:
                return entry | {"fault": tell}
            tally = folder / "tally"
            done = tally.stat().st_size if tally.exists() else 0
            return entry | {"over_budget": options.budget, "done": min(done, of), "of": of}
        numbers = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        models = read(folder / "models.npz")
        if numbers.pop("stopped"):
            entry["over_budget"] = options.budget
            if not racer.once:
                done = (folder / "tally").stat().st_size
                each = numbers["rounds"][0] / max(done, 1)
                entry |= {"done": done, "of": of, "seconds_each": each}
        else:
            entry["seconds"] = statistics.median(numbers["rounds"])
    entry |= numbers
    checked(entry, racer, problem, truth, models)
    return entry


def checked(entry: Result, racer: Racer, problem: Problem, truth: Any, models: Models) -> None:
    """Distances from the truth, and steps from its choices; what is wrong loses its time and says why."""
    if racer.part in ("cv", "path"):
        entry["distances"], limit = distances(problem, truth, models), NEAR if racer.near else np.inf
        for by in ("by_accuracy", "by_log_loss"):
            if by in entry and by in truth:
                entry[f"steps_{by}"] = entry[by] - truth[by]
    elif racer.part == "cs231n":
        entry["distances"], limit = apart(truth, models), ROUNDING
    else:
        found = entry.get("apart", {})
        entry["distances"], limit = found if isinstance(found, dict) else {"all": found}, NEAR
    if reason := fault(entry["distances"], limit):
        entry["fault"] = reason
        for name in ("seconds", "seconds_each", "milliseconds", "seconds_by_width"):
            entry.pop(name, None)


def wait(racer: Racer, options: argparse.Namespace, folder: Path) -> str:
    """Run the racer in its own process until it ends or is stopped, with all of its workers; what it died of, or ''."""
    command = [
        sys.executable, "-m", "bench.sweeping.run", "--run", str(folder), "--part", racer.part, "--racer", racer.name,
        "--budget", repr(options.budget),
    ]  # fmt: skip
    command += ["--quick"] if options.quick else []
    command += [] if options.data is None else ["--data", str(options.data.absolute())]
    time.sleep(REST)
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, cwd=machine.ROOT, start_new_session=True
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()  # empty: it died before
            process.wait(options.budget + GRACE if ready else None)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if process.returncode and lines else f"it ended with {process.returncode}"


def truth_of(problem: Problem) -> Any:
    """What the part's results are held against."""
    if problem.part in ("cv", "path"):
        return converged(problem)
    return descended(problem) if problem.part == "cs231n" else None


# ---- what is shown


def in_words(part: str, result: Result) -> str:
    """A part's table."""
    lines = [f"{part}: {PARTS[part]}, {result['rows']} rows"]
    for name, entry in result["racers"].items():
        notes = [
            f"{key} {entry[key]}"
            for key in ("passes", "threads", "steps_by_accuracy", "steps_by_log_loss")
            if key in entry
        ]
        if entry.get("peak_megabytes") is not None:
            notes.append(f"{entry['peak_megabytes']:.0f} MB")
        if entry.get("distances"):
            notes.append(f"distance {max(entry['distances'].values()):.1e}")
        for key in ("milliseconds", "seconds_by_width"):
            if key in entry:
                notes.append(f"{key} " + ", ".join(f"{K}: {value:.3g}" for K, value in entry[key].items()))
        lines.append(f"  {name:14s}{time_in_words(entry):40s}  {'; '.join(notes)}")
    return "\n".join(lines)


def time_in_words(entry: Result) -> str:
    """Seconds, or why there are none."""
    for reason in ("absent", "fault"):
        if reason in entry:
            return f"{reason}: {entry[reason]}"
    if "over_budget" in entry:
        each = f", {entry['seconds_each']:.3g} s each" if "seconds_each" in entry else ""
        done = f", {entry['done']} of {entry['of']} done" if "done" in entry else ""
        return f"> {entry['over_budget']:g} s{done}{each}"
    return f"{entry['seconds']:.3f} s"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sweeping.run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS, metavar="NAME", help="cv, path, cs231n, models")
    parser.add_argument("--racer", action="append", metavar="NAME", help="by name; repeatable")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of CIFAR-10")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a run at most; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows and models: does it work?")
    parser.add_argument("--list", action="store_true", help="name the racers, and stop")
    parser.add_argument("--out", type=Path, default=Path("bench-out/sweeping.json"), metavar="FILE")
    parser.add_argument("--label", default="", help="what the machine is called in the file")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # what `wait` starts
    options = parser.parse_args(arguments)
    options.part = options.part or list(PARTS)
    if not (options.quick or options.data or options.list):
        parser.error("the race is on CIFAR-10: pass --data DIR, or --quick for a trial on digits")
    try:
        options.racers = choose(options.part, options.racer)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    options = parse(arguments)
    if options.list:
        for racer in options.racers:
            print(f"{racer.part:8s} {racer.name:14s} {racer.words}: {racer.call}")
        return 0
    if options.run:
        warnings.simplefilter("ignore")  # that scikit-learn's solver has not converged in max_iter
        (racer,) = options.racers
        run(racer, make(racer.part, options.data, options.quick), options.run, options.budget)
        return 0
    for warning in machine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    found: Result = {"format": 1, "parts": {}}
    if options.out.exists():
        found = json.loads(options.out.read_text(encoding="utf-8"))
    found |= {"label": options.label or found.get("label", ""), "machine": machine.facts(), "quick": options.quick}
    wrong = False
    for part in dict.fromkeys(options.part):
        problem = make(part, options.data, options.quick)
        truth = truth_of(problem)
        result: Result = {
            "rows": len(problem.y), "size": vars(problem.size), "budget": options.budget, "Cs": problem.Cs,
            "commit": machine.commit(), "date": time.strftime("%Y-%m-%d"), "racers": {},
        }  # fmt: skip
        if part in ("cv", "path"):
            result |= {"truth": truth, "drawn": problem.drawn}
        found["parts"][part] = result
        for racer in options.racers:
            if racer.part == part:
                entry = race(racer, options, problem, truth)
                result["racers"][racer.name] = entry
                wrong |= "fault" in entry
                print(f"  {part} {racer.name}: {time_in_words(entry)}", file=sys.stderr, flush=True)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(in_words(part, result), end="\n\n", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
