"""Where documents show results, and what all of their tables and figures share.

A section of a page stands between two marker comments. A figure carries a digest of the numbers that it shows, so that
one of older results is found out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.harness import Result, load
from bench.common.machine import ROOT

RESULTS = ROOT / "bench" / "results"
FIGURES = RESULTS  # the folder of NAME.svg
PAGES = {  # of each section; if a page moves, this is what changes
    "throughput": ROOT / "docs" / "benchmarks.md",
    "solving": ROOT / "docs" / "benchmarks.md",
    "solving-details": ROOT / "docs" / "which-solver.md",
    "sweeping": ROOT / "docs" / "benchmarks.md",
    "starting": ROOT / "docs" / "benchmarks.md",
    "streaming": ROOT / "docs" / "benchmarks.md",
    "classes": ROOT / "bench" / "README.md",
}

Results = dict[str, Result]


@dataclass(frozen=True)
class Link:
    """Links from a page."""

    page: Path

    def __call__(self, target: Path) -> str:
        """The path of a file as the page links to it."""
        return Path(os.path.relpath(target, self.page.parent)).as_posix()

    def figure(self, name: str, words: str) -> str:
        """A figure, in Markdown."""
        return f"![{words}]({self(FIGURES / name)}.svg)"

    @property
    def how(self) -> str:
        """The sentence that leads to the explanations."""
        readme = ROOT / "bench" / "README.md"
        return f"How it was measured: [bench/README.md]({self(readme)})"


@dataclass(frozen=True)
class Figures:
    """What a benchmark publishes.

    Attributes
    ----------
    sections : mapping
        Names of sections, and functions from the results and a Link to their Markdown.
    draw : callable or None
        Draws the results into an SVG file.
    shown : callable
        The numbers that the drawing shows.
    """

    sections: Mapping[str, Callable[[Results, Link], str]]
    draw: Callable[[Results, Path], None] | None = None
    shown: Callable[[Results], Any] = lambda results: None


def tracked(name: str, folder: Path = RESULTS) -> Results:
    """The tracked results of a benchmark by name of their file."""
    return {path.stem: load(path) for path in sorted((folder / name).glob("*.json"))}


def digest(shown: Any) -> str:
    """A digest of numbers."""
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def between(document: str, section: str, text: str) -> str:
    """The document with this text as the section.

    Raises
    ------
    ValueError
        The section's markers are not there.
    """
    begin, end = f"<!-- python -m bench figures: {section} -->\n", f"<!-- end of {section} -->\n"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document has to have {begin.strip()} and {end.strip()} once, on lines of their own")
    before, rest = document.split(begin)
    return before + begin + text + end + rest.split(end)[1]


# ---- words


def seconds(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def where(found: Result) -> str:
    """The machine in a few words."""
    facts = found["machine"]
    limited = ", held to AVX2" if facts["limited_to_avx2"] else ""
    return f"{facts['cores']} cores of {facts['processor']}, {facts['vectors']}{limited}"


def versions(found: Result, *names: str) -> str:
    """The versions of those libraries that were installed."""
    known = found["machine"]["versions"]
    return ", ".join(f"{name} {known[name]}" for name in names if known.get(name, "not installed")[0].isdigit())


def rows(*lines: list[str]) -> list[str]:
    """A table in Markdown, from its header and its lines of cells."""
    head, *rest = ("| " + " | ".join(cells) + " |" for cells in lines)
    return [head, "|---" * len(lines[0]) + "|", *rest]


# ---- drawings


def new_figure(columns: int, width: float, height: float, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure that looks the same wherever it is drawn, and its axes (rows, columns)."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpusoftmax"
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)


def legend(figure: Any, columns: int) -> None:
    """One legend for all axes, below them."""
    unique: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            unique.setdefault(label, handle)
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def save(figure: Any, target: Path, shown: Any) -> None:
    """Writes an SVG file that carries the digest of the numbers that it shows."""
    figure.savefig(target, metadata={"Date": None, "Description": digest(shown)})
