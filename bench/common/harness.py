"""The harness of all benchmarks: it chooses cases and contenders, has them measured, shows results and writes them.

A benchmark is a subclass of `Benchmark`. Its words: a *case* is what is done, a *contender* is who does it, the *truth*
is what a result is checked against, and *figures* are the tables and drawings that documents show.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.common import machine

REST = 0.5  # seconds before each run of the benchmarks whose runs are long
FORMAT = 2
EXIT_CODES = "\nExit code: 0; 1 if a result of ours is wrong; 2 if the command line is; 130 after Ctrl-C."

Result = dict[str, Any]


class NotForThisError(Exception):
    """A contender cannot do a case; the text says why."""


def lacks(package: str) -> Callable[[], str]:
    """Why a contender that needs the package is absent; the answer is empty if it is installed."""
    return lambda: "" if find_spec(package) else f"{package} is not installed"


@dataclass(frozen=True)
class Contender:
    """Who is compared.

    Attributes
    ----------
    run : callable
        What the benchmark calls, with one signature for all of its contenders.
    absent : callable
        Why the contender cannot take part on this machine, or an empty string.
    cases : tuple of str
        The cases that the contender takes part in; empty for all.
    checkout : Path or None
        The folder of another gpusoftmax, which runs in a process of its own; None for this one.
    """

    name: str
    words: str
    run: Callable[..., Any]
    absent: Callable[[], str] = lambda: ""
    ours: bool = False
    cases: tuple[str, ...] = ()
    checkout: Path | None = None


class Benchmark:
    """What a benchmark tells the harness, and what it does for it.

    The docstring of its module is the description in `--help`. A case has `name`, `words` and `needs_data`: whether it
    needs the folder that `--data` names.
    """

    name = ""
    contenders: Sequence[Any] = ()  # in the order of the tables
    examples: Sequence[str] = ()
    options: argparse.Namespace  # set before anything below but `cases` and `add_options` is called

    def cases(self, quick: bool) -> Sequence[Any]:
        """All cases, in the order in which they run."""
        raise NotImplementedError

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Options of this benchmark alone."""

    def lacks(self, case: Any, data: Path | None) -> str:
        """What a case lacks, to be told to the user; empty if it can run."""
        return "needs --data DIR" if case.needs_data and data is None else ""

    def start(self) -> Result:
        """Called once before the first case: what the result file holds beside the cases and their results."""
        return {"settings": {}}

    def measure(
        self, case: Any, contenders: list[Any], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """Yields contenders' names and results, and puts into `facts` what the file has to say about the case.

        A result that is wrong has a `fault` and no times. One that a contender cannot give has the reason as `absent`.
        """
        raise NotImplementedError

    def table(self, case: Any, facts: Result, results: list[Result]) -> str:
        """The results of a case, to be printed."""
        raise NotImplementedError

    def finish(self, found: Result, path: Path) -> None:
        """Called once after the last case, before the file is written for the last time."""

    # ---- the command

    def main(self, arguments: list[str]) -> int:
        """Runs the command. The exit code is 0, or 1 if a result of ours is wrong, or 130 after Ctrl-C."""
        self.options = options = self._parse(arguments)
        if options.list:
            self._list()
            return 0
        if options.avx2 and not machine.limited_to_avx2():  # the limits are read when libraries are loaded
            path = os.pathsep.join(filter(None, [str(machine.ROOT), os.environ.get("PYTHONPATH")]))
            environment = machine.avx2_environment(dict(os.environ)) | {"PYTHONPATH": path}
            return subprocess.call([sys.executable, "-m", "bench", self.name, *arguments], env=environment)
        for warning in machine.warnings():
            print(f"warning: {warning}", file=sys.stderr)
        found: Result = {}
        progress = Progress(len(options.cases))
        try:
            found = self._begin()
            for case in options.cases:
                self._one_case(case, found, progress)
            self.finish(found, options.path)
        except KeyboardInterrupt:
            progress.clear()
            kept = f"; what is done is in {options.path}" if found.get("results") else ""
            print(f"interrupted{kept}", file=sys.stderr)
            return 130
        write(found, options.path)
        print(f"results: {options.path}", file=sys.stderr)
        return int(any(result["ours"] and "fault" in result for result in found["results"]))

    def _begin(self) -> Result:
        options = self.options
        found: Result = {"format": FORMAT, "benchmark": self.name, "machine": machine.facts()} | self.start()
        found["settings"] |= {"quick": options.quick}
        found |= {"absent": {}, "cases": {}, "results": []}
        for contender in options.contenders:
            if reason := contender.absent():
                found["absent"][contender.name] = reason
                print(f"absent: {contender.name}: {reason}", file=sys.stderr)
        if kept := options.kept:
            measured, asked = {case.name for case in options.cases}, {one.name for one in options.contenders}
            found["absent"] |= {name: reason for name, reason in kept["absent"].items() if name not in asked}
            found["cases"] = {name: facts for name, facts in kept["cases"].items() if name not in measured}
            found["results"] = [result for result in kept["results"] if result["case"] not in measured]
        return found

    def _one_case(self, case: Any, found: Result, progress: Progress) -> None:
        progress.case(case.name)
        facts = found["cases"][case.name] = {
            "words": case.words, "commit": machine.commit(), "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        known = {c.name: c for c in self.options.contenders if not c.cases or case.name in c.cases}
        present = [contender for name, contender in known.items() if name not in found["absent"]]
        results = []
        for name, measured in self.measure(case, present, facts, progress):
            results.append({"case": case.name, "contender": name, "ours": known[name].ours} | measured)
            found["results"].append(results[-1])
            write(found, self.options.path)  # after each result, so that an interrupted run keeps them
        progress.clear()
        print(self.table(case, facts, results), end="\n\n", flush=True)

    def _list(self) -> None:
        for case in self.options.cases:
            print(f"{case.name:26s} {case.words}{' (needs --data DIR)' * case.needs_data}")
        print()
        for contender in self.options.contenders:
            reason, only = contender.absent(), ", ".join(contender.cases)
            words = f"{only}: {contender.words}" if only else contender.words
            print(f"{contender.name:26s} {words}{f' (absent: {reason})' if reason else ''}")

    def _parse(self, arguments: list[str]) -> argparse.Namespace:
        parser = command_line(self.name, (sys.modules[self.__module__].__doc__ or "") + EXIT_CODES, self.examples)
        add = parser.add_argument
        add("--case", action="append", metavar="NAME", help="a name, the start of names, or a pattern; repeatable")
        add("--contender", action="append", metavar="NAME", help="chosen as cases are; repeatable")
        add("--list", action="store_true", help="list cases and contenders, the absent ones with the reason, and stop")
        add("--quick", action="store_true", help="little data: does it work? Not for publishing")
        add("--data", type=Path, metavar="DIR", help="folder of CIFAR-10, for the cases that need it")
        add("--out", type=Path, default=Path("bench-out"), metavar="DIR", help="for results; default %(default)s")
        add("--label", default="", metavar="NAME", help="name of the result files; default: the benchmark's")
        add("--add", action="store_true", help="keep the other cases of result files that are there already")
        add("--avx2", action="store_true", help="start again with every library held to AVX2 (x86 only)")
        self.add_options(parser)
        options = parser.parse_args(arguments)
        if options.avx2 and platform.machine().lower() not in ("x86_64", "amd64"):
            parser.error(f"--avx2 is for x86 processors; this one is {platform.machine()}")
        stem = options.label or self.name + "-avx2" * machine.limited_to_avx2()
        options.path = options.out / f"{stem}.json"
        try:
            cases = choose("case", self.cases(options.quick), options.case)
            names = {case.name for case in cases}
            contenders = with_checkouts(self.contenders, getattr(options, "before", []))
            able = [one for one in contenders if not one.cases or names & set(one.cases)]
            options.contenders = choose("contender", able, options.contender)
            options.kept = load(options.path) if options.add and options.path.exists() else None
        except ValueError as error:
            parser.error(str(error))
        if options.kept and options.kept["settings"]["quick"] != options.quick:
            parser.error(f"--add: {options.path} holds {'a full' if options.quick else 'a --quick'} run")
        lacking = {case.name: "" if options.list else self.lacks(case, options.data) for case in cases}
        options.cases = [case for case in cases if not lacking[case.name]]
        if not options.cases and not options.data:
            parser.error(f"{', '.join(lacking)}: pass --data DIR, the folder of CIFAR-10")
        for name, reason in lacking.items():
            if reason:
                print(f"left out: {name} {reason}", file=sys.stderr)
        if not options.cases:
            parser.error("there is no case left to run")
        return options


def add_before(parser: argparse.ArgumentParser) -> None:
    """Adds --before to a benchmark's options."""
    add, words = parser.add_argument, "another checkout of gpusoftmax, as a contender of this name; repeatable"
    add("--before", action="append", default=[], type=_checkout, metavar="[NAME=]DIR", help=words)


def _checkout(text: str) -> tuple[str, Path]:
    """The name and the folder of a checkout."""
    name, _, folder = text.rpartition("=")
    path = Path(folder).expanduser()
    if not (path / "gpusoftmax").is_dir():
        raise argparse.ArgumentTypeError(f"{folder} has no folder gpusoftmax")
    return name or "before", path


def with_checkouts(contenders: Sequence[Any], checkouts: list[tuple[str, Path]]) -> list[Any]:
    """The contenders, and after each "gpusoftmax" the same of other checkouts.

    Raises
    ------
    ValueError
        Two have the same name.
    """
    names = [name for name, _ in checkouts]
    if taken := {name for name in names if names.count(name) > 1 or name in {one.name for one in contenders}}:
        raise ValueError(f"--before: {', '.join(sorted(taken))} is a contender's name; pass NAME=DIR with another one")
    found: list[Any] = []
    for one in contenders:
        found.append(one)
        if one.name == "gpusoftmax":
            found += [
                replace(one, name=name, words=f"{one.words}, {name} ({machine.commit(path)})", checkout=path)
                for name, path in checkouts
            ]
    return found


def positive(text: str) -> int:
    """A type of options: a whole number above zero."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def command_line(name: str, about: str | None, examples: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of `python -m bench NAME`."""
    lines = "".join(f"\n  python -m bench {name} {example}".rstrip() for example in examples)
    return argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=about,
        epilog=f"examples:{lines}" if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def choose(kind: str, items: Sequence[Any], patterns: list[str] | None) -> list[Any]:
    """Items by name, else by the start of the name or by pattern (`*`); all of them without patterns.

    Raises
    ------
    ValueError
        A pattern fits no item.
    """
    chosen: list[Any] = []
    for pattern in patterns or ["*"]:
        found = [item for item in items if item.name == pattern]
        found = found or [item for item in items if item.name.startswith(pattern) or fnmatch(item.name, pattern)]
        if not found:
            names = ", ".join(dict.fromkeys(item.name for item in items))
            raise ValueError(f"--{kind} {pattern!r} is not known; there are {names}")
        chosen += found
    return [item for item in items if item in chosen]


class Progress:
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
        """A part of the case begins."""
        if self.terminal:
            line = f"[{self.done}/{self.total}] {self.name}: {text}  ({self._elapsed()})"
            print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Makes room for other output."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d} so far"


# ---- result files


def write(found: Result, path: Path) -> None:
    """JSON with everything, and beside it CSV with a line for each result: its numbers, case, machine and versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    facts = found["machine"]
    versions = " ".join(f"{name}={value}" for name, value in facts["versions"].items() if value != "not installed")
    origin = {name: facts[name] for name in ("processor", "cores", "vectors")} | {"versions": versions}
    first = {"case": "", "contender": ""}  # and where a case and a result have the same name, the result's
    lines = [_flat(first | found["cases"][result["case"]] | result) | origin for result in found["results"]]
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, dict.fromkeys(name for line in lines for name in line), restval="")
        table.writeheader()
        table.writerows(lines)


def _flat(record: Result, prefix: str = "") -> Result:
    """The numbers and texts of a record, those of records in it with both names; lists are in the JSON alone."""
    flat: Result = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat


def load(path: Path) -> Result:
    """A result file.

    Raises
    ------
    ValueError
        The file is none, or of another format.
    """
    found: Result = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a result file of format {FORMAT}")
    return found


def by_case(found: Result) -> dict[str, dict[str, Result]]:
    """The results of a file by case and contender, those left out that are absent or wrong."""
    table: dict[str, dict[str, Result]] = {}
    for result in found["results"]:
        if "absent" not in result and "fault" not in result:
            table.setdefault(result["case"], {})[result["contender"]] = result
    return table
