"""Writes the tables and figures that documents show, from the tracked results in bench/results/NAME/*.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import classes
from bench.common.harness import command_line
from bench.common.pages import FIGURES, PAGES, RESULTS, Link, between, digest, tracked
from bench.solving import figures as solving
from bench.starting import run as starting
from bench.streaming import run as streaming
from bench.sweeping import figures as sweeping
from bench.throughput import figures as throughput

PUBLISHED = {
    "throughput": throughput.FIGURES,
    "solving": solving.FIGURES,
    "sweeping": sweeping.FIGURES,
    "starting": starting.FIGURES,
    "streaming": streaming.FIGURES,
    "classes": classes.FIGURES,
}


def differences(
    name: str, pages: Mapping[str, Path] = PAGES, results: Path = RESULTS, figures: Path = FIGURES
) -> list[str]:
    """What documents show of a benchmark that is not what its results say; empty if all of it is."""
    found, published, stale = tracked(name, results), PUBLISHED[name], []
    for section, text in published.sections.items():
        document = pages[section].read_text(encoding="utf-8")
        if between(document, section, text(found, Link(pages[section]))) != document:
            stale.append(f"{pages[section].name}: the section {section} is not that of the results")
    drawn = figures / f"{name}.svg"
    if found and published.draw and not (drawn.exists() and digest(published.shown(found)) in drawn.read_text("utf-8")):
        stale.append(f"{drawn.name} is not that of the results")
    return stale


def write(name: str, pages: Mapping[str, Path] = PAGES, results: Path = RESULTS, figures: Path = FIGURES) -> None:
    """Writes what documents show of a benchmark."""
    found, published = tracked(name, results), PUBLISHED[name]
    for section, text in published.sections.items():
        document = pages[section].read_text(encoding="utf-8")
        pages[section].write_text(between(document, section, text(found, Link(pages[section]))), encoding="utf-8")
    if found and published.draw:
        published.draw(found, figures / f"{name}.svg")


def main(arguments: list[str]) -> int:
    """The command."""
    parser = command_line("figures", __doc__, ["", "--check"])
    parser.add_argument("--check", action="store_true", help="write nothing; the exit code is 1 if anything is stale")
    if not parser.parse_args(arguments).check:
        for name in PUBLISHED:
            write(name)
        return 0
    found = [line for name in PUBLISHED for line in differences(name)]
    for line in [*found, "run python -m bench figures"] if found else []:
        print(line)
    return int(bool(found))
