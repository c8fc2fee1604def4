"""How long does a new process take until its first model is fitted?

Each contender imports its library and fits a small model (2000 rows, 64 features, 10 classes), in a process of its own.
Ours does so with an empty cache of compiled kernels, with one that a fit of another type of features has filled, and
with one that the same fit has filled. Medians of --rounds, in turns. Models must have the same bits whether their
kernels were compiled or come from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.common.harness import Benchmark, Contender, Progress, Result, positive
from bench.common.pages import Figures, Link, Results, rows, seconds, versions, where

ROUNDS = 5
STEPS = ("import", "first fit", "second fit")
TIMES = tuple(f"{step}{clock}" for step in STEPS for clock in ("", " cpu"))
PROGRAM = Path(__file__).with_name("program.py")


@dataclass(frozen=True)
class Case:
    """A type of features and a solver."""

    kind: str
    solver: str = "lbfgs"
    needs_data = False

    @property
    def name(self) -> str:
        """The type, and the solver if it is not L-BFGS."""
        return self.kind if self.solver == "lbfgs" else f"{self.kind}-{self.solver}"

    @property
    def words(self) -> str:
        """The case in words."""
        return f"{self.kind} features, {'L-BFGS' if self.solver == 'lbfgs' else 'SGD'}"


CASES = [
    *(Case(kind) for kind in ("uint8", "float16", "float32", "float64", "sparse")),
    *(Case(kind, "sgd") for kind in ("uint8", "float32", "float64", "sparse")),
]


def start(library: str, case: Case, cache: Path) -> Result:
    """What a new process measures, whose kernels are cached in the folder `cache`."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), library, case.kind, case.solver],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"fault": f"failed: {done.stderr.strip().splitlines()[-1]}"}
    found: Result = json.loads(done.stdout)
    return found


def cache_after(case: Case, folder: Path) -> Path:
    """A cache in which a fit has left its kernels; it is made once in the folder."""
    cache = folder / case.name
    if not cache.exists():
        start("ours", case, cache)
    return cache


def empty(case: Case, folder: Path) -> Result:
    """Ours, on a machine that has compiled nothing."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        return start("ours", case, Path(cache))


def another(case: Case, folder: Path) -> Result:
    """Ours, where another type of features has been fitted: float64, or float32 before float64."""
    other = Case("float32" if case.kind == "float64" else "float64", case.solver)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        shutil.copytree(cache_after(other, folder), cache, dirs_exist_ok=True)
        return start("ours", case, Path(cache))


def filled(case: Case, folder: Path) -> Result:
    """Ours, where the same has been fitted before."""
    return start("ours", case, cache_after(case, folder))


def sklearn(case: Case, folder: Path) -> Result:
    """scikit-learn, which has nothing to compile."""
    return start("sklearn", case, folder)


CONTENDERS = (
    Contender("empty", "ours: an empty cache of compiled kernels", empty, ours=True),
    Contender("another", "ours: a cache filled by another type of features", another, ours=True),
    Contender("filled", "ours: a cache filled by the same fit", filled, ours=True),
    Contender("sklearn", "scikit-learn's LogisticRegression", sklearn),
)


class Starting(Benchmark):
    """Runs the benchmark."""

    name = "starting"
    contenders = CONTENDERS
    examples = ("--quick --case uint8", "--out bench/results/starting --label NAME       everything, ten minutes")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --rounds."""
        parser.add_argument("--rounds", type=positive, help=f"default {ROUNDS}, 1 with --quick")

    def start(self) -> Result:
        """How many rounds there are."""
        self.rounds = self.options.rounds or (1 if self.options.quick else ROUNDS)
        return {"settings": {"rounds": self.rounds}}

    def cases(self, quick: bool) -> list[Case]:
        """All cases, which are small in any case."""
        return CASES

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """Rounds in turns."""
        facts |= {"kind": case.kind, "solver": case.solver}
        found: dict[str, list[Result]] = {contender.name: [] for contender in contenders}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(self.rounds):
                for contender in contenders:
                    progress.doing(f"round {number + 1}, {contender.name}")
                    found[contender.name].append(contender.run(case, Path(folder)))
        bits = {one.get("bits") for contender in contenders if contender.ours for one in found[contender.name]}
        for contender in contenders:
            yield contender.name, summary(found[contender.name], contender.ours and len(bits) > 1)

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        lines = [f"{case.name}: {case.words}", f"  {'seconds':14s}" + "".join(f"{step:>16s}" for step in STEPS)]
        for result in results:
            cells = "".join(f"{both(result, step):>16s}" for step in STEPS)
            lines.append(f"  {result['contender']:14s}{cells}  {result.get('fault', '')}")
        return "\n".join(lines)


def summary(rounds: list[Result], differ: bool) -> Result:
    """Medians of some rounds, or the fault of one."""
    faults = [one["fault"] for one in rounds if "fault" in one]
    if faults or differ:
        return {"fault": faults[0] if faults else "compiled kernels and those from the cache give other bits"}
    return {time: median(one[time] for one in rounds) for time in TIMES} | {"rounds": rounds}


# ---- the table


def section(results: Results, link: Link) -> str:
    """A row for each case. Empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    results_of = {(result["case"], result["contender"]): result for result in found["results"]}
    lines = [["", "first fit, nothing compiled", "another type compiled", "from the cache", "second fit", "import",
              "scikit-learn: import", "first fit"]]  # fmt: skip
    for case in [one.name for one in CASES if one.name in found["cases"]]:
        of = {contender.name: results_of.get((case, contender.name), {}) for contender in CONTENDERS}
        ours = [both(of[name], "first fit") for name in ("empty", "another", "filled")]
        ours += [both(of["filled"], "second fit"), both(of["filled"], "import")]
        lines.append(
            [found["cases"][case]["words"], *ours, both(of["sklearn"], "import"), both(of["sklearn"], "first fit")]
        )
    about = (
        "Seconds of a new process that imports a library and fits a small model, 2000 rows of 64 features\n"
        f"in 10 classes, medians of {found['settings']['rounds']}; in brackets those of processor time."
    )
    load, cores = found["machine"]["load_at_start"], found["machine"]["cores"]
    if load and load > 0.3 * cores:
        about += f" Others used the machine: a load of {load:.0f} on {cores} cores."
    end = f"{where(found)}, {versions(found, 'numpy', 'numba', 'scikit-learn')}. {link.how}."
    return "\n".join(["## The first fit of a process", "", about, "", *rows(*lines), "", end, ""])


def both(result: Result, step: str) -> str:
    """Seconds, and in brackets those of processor time; a dash without a result."""
    return f"{seconds(result[step])} ({seconds(result[f'{step} cpu'])})" if step in result else "-"


FIGURES = Figures({"starting": section})


def main(arguments: list[str]) -> int:
    """The command."""
    return Starting().main(arguments)
