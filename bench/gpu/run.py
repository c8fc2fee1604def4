"""Checks and measures a machine with an NVIDIA GPU, by one command, offline, in two phases.

right   every kernel against the reference, the tests that use a GPU, compute-sanitizer (under 5 minutes)
fast    ceilings, row kernel, passes, minibatches, fits and a sweep, beside other libraries (under 6 minutes)

Without a phase both run. Every case has a limit of seconds, and those that fail or take longer do not stop the others.
Results are written after each case: gpu.json has the GPU, its driver, all versions and every round, gpu.txt what tests
and sanitizers printed, gpu.log what libraries said; --label takes another name. The table at the end shows what is
aimed at on an H200 beside what was measured. Without --data the images are made, with the shape of CIFAR-10's. On a
machine without a GPU, `--stand-in --quick` shows whether every part works.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.common.harness import Benchmark, Contender, Progress, Result
from bench.gpu import right, targets
from bench.gpu.apart import Worker
from bench.gpu.cases import SECONDS, Case, all_cases
from bench.gpu.ceilings import PRECISIONS
from bench.gpu.contenders import CONTENDERS
from bench.gpu.device import device, facts, why_not

SHOWN = {"milliseconds": ".4g", "alone": ".4g", "gigabytes_per_second": ".0f", "passes": ".1f", "above": ".1e"}


class Gpu(Benchmark):
    """Runs one phase, or both."""

    name = "gpu"
    contenders = CONTENDERS
    examples = (
        "right --out results --label right             is everything right?",
        "fast --out results --label fast --data DIR    how fast is it? DIR holds CIFAR-10",
        "fast --case rows --case cifar                 some cases, by the start of their names",
        "--quick --stand-in                            without a GPU: does every part work?",
    )

    def __init__(self, phase: str = "") -> None:
        self.phase = phase

    def cases(self, quick: bool) -> Sequence[Case]:
        """Those of the phase."""
        return all_cases(self.phase, quick)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --stand-in."""
        words = "compute on the stand-in for CuPy that the tests have, whose kernels run on the CPU"
        parser.add_argument("--stand-in", action="store_true", help=words)

    def start(self) -> Result:
        """Notes the GPU, and when the time of a phase is over."""
        options = self.options
        log, self.printed = (options.path.with_suffix(suffix) for suffix in (".log", ".txt"))
        log.parent.mkdir(parents=True, exist_ok=True)
        for path in (log, self.printed):
            path.write_text("", encoding="utf-8")
        self.worker = Worker(options.stand_in, options.quick, options.data, log)
        self.begun: dict[str, float] = {}
        return {"settings": {"phase": self.phase or "both", "data": options.data is not None}, "gpu": facts()}

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """A check, or times by the worker; nothing after the time of the phase."""
        facts |= case.facts
        begun = self.begun.setdefault(case.phase, time.monotonic())
        if time.monotonic() - begun > SECONDS[case.phase]:
            reason = f"the phase has had its {SECONDS[case.phase]} seconds"
            yield from ((one.name, {"absent": reason}) for one in contenders)
            return
        if case.phase == "right":
            progress.doing("in a process of its own")
            yield right.measure(case, self.printed, self.options.stand_in)
            return
        results, found = self.worker.measure(case, contenders, progress.doing)
        facts |= found
        yield from ((one.name, results[one.name]) for one in contenders if one.name in results)

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        return "\n".join([f"{case.name}: {case.words}", *map(row, results)])

    def finish(self, found: Result, path: Path) -> None:
        """Prints the table, and keeps the targets with the results."""
        found["targets"] = targets.judged(found)
        print(targets.in_words(found), flush=True)

    def main(self, arguments: list[str]) -> int:
        """Runs the command where there is a GPU, or its stand-in."""
        stand_in, only_words = "--stand-in" in arguments, {"--list", "--help", "-h"} & set(arguments)
        if not only_words and (reason := why_not(stand_in)):
            print(f"no GPU to measure: {reason}", file=sys.stderr)
            return 1
        try:
            with device(stand_in and not only_words):
                return super().main(arguments)
        finally:
            if (worker := getattr(self, "worker", None)) is not None:
                worker.end()


def row(result: Result) -> str:
    """A contender's line of a case's table."""
    start = f"  {result['contender']:14s} "
    if reason := result.get("fault") or result.get("absent"):
        return start + (f"{reason}" if "fault" in result else f"absent: {reason}")
    numbers = (f"{name.replace('_', ' ')} {result[name]:{form}}" for name, form in SHOWN.items() if name in result)
    others = (f"{name} {result[name]}" for name in ("passed", "failed", "skipped", "file", "arrays") if name in result)
    ceilings = (name for name in ("copy", *PRECISIONS) if name in result)
    rates = (f"{name} {1e-12 * result[name]:.3g} T/s" for name in ceilings)
    return start + ", ".join([*numbers, *rates, *others, *filter(None, [result.get("note")])])


def main(arguments: list[str]) -> int:
    """The command: a phase may come first."""
    phase: Any = arguments[0] if arguments and arguments[0] in SECONDS else ""
    return Gpu(phase).main(arguments[1:] if phase else arguments)
