#!/usr/bin/env python3
"""Tables and figure of `bench.solving`, from the tracked results in bench/results/solving/*.json.

    python -m bench.solving_figures             write them into README.md, docs/which-solver.md and solving.svg
    python -m bench.solving_figures --check     is what stands there what the results say? (needs no matplotlib)

Tables go between marker comments. The figure carries a digest of the numbers that it shows.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from bench.throughput.figures import RESULTS, ROOT, between, command, legend, load, new_figure, where

README, PAGE = ROOT / "README.md", ROOT / "docs" / "which-solver.md"
FOLDER, FIGURE = RESULTS / "solving", RESULTS / "solving.svg"
BEGIN, END = "<!-- bench/solving_figures.py writes from here -->\n", "<!-- solving to here -->\n"
LABELS = {
    "gpusoftmax": "gpusoftmax", "sklearn-lbfgs": "lbfgs", "sklearn-newton-cg": "newton-cg",
    "sklearn-newton-cholesky": "newton-cholesky", "sklearn-saga": "saga", "intelex-lbfgs": "intelex, lbfgs",
    "torch-lbfgs": "PyTorch, L-BFGS", "torch-adam": "PyTorch, Adam",
}  # fmt: skip
COLOURS = {
    "gpusoftmax": "#c1121f", "sklearn-lbfgs": "#dd8452", "sklearn-newton-cg": "#4c72b0",
    "sklearn-newton-cholesky": "#64b5cd", "sklearn-saga": "#937860", "intelex-lbfgs": "#8172b3",
    "torch-lbfgs": "#55a868", "torch-adam": "#2d6a4f",
}  # fmt: skip
DRAWN = {
    "cifar10-1e-2": "CIFAR-10, C = 0.01",
    "probe": "embeddings, 100000 x 768, 100 classes",
    "digits-100": "digits, C = 100",
}
SHOWN = 1e-8  # relative distances down to which curves are drawn

Found = dict[str, Any]


def seconds(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cell(entry: Found, near: str) -> str:
    """Seconds, and reads of the data in brackets."""
    if "absent" in entry:
        return "-"
    found = entry["warm"][near]
    if found is None:
        return f"> {seconds(entry['points'][-1][0])}"
    return f"{seconds(found[0])} ({found[1]:.0f})"


def table(found: Found, nearness: list[str]) -> list[str]:
    """A row per case and nearness, a column per racer; Markdown."""
    racers = [name for name in LABELS if any("warm" in r["racers"].get(name, {}) for r in found["results"])]
    head = "to, relative" if len(nearness) > 1 else ""
    lines = [f"| {head} | " + " | ".join(LABELS[name] for name in racers) + " |", "|---" * (len(racers) + 1) + "|"]
    for result in found["results"]:
        if len(nearness) > 1:
            lines.append(f"| **{result['words']}** |" + " |" * len(racers))
        for near in nearness:
            entries = [result["racers"].get(name, {"absent": ""}) for name in racers]
            reached = [e["warm"][near][0] for e in entries if "absent" not in e and e["warm"][near]]
            cells = []
            for entry in entries:
                text = cell(entry, near)
                fastest = "absent" not in entry and entry["warm"][near] and entry["warm"][near][0] == min(reached)
                cells.append(f"**{text}**" if fastest else text)
            head = f"{float(near):g}" if len(nearness) > 1 else result["words"]
            lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return lines


def origin(found: Found) -> str:
    """Machine and versions."""
    versions = found["machine"]["versions"]
    names = ("numpy", "scikit-learn", "scikit-learn-intelex", "torch")
    listed = ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name, "not installed")[0].isdigit())
    return f"{where(found)}; {listed}"


def readme_text(results: dict[str, Found]) -> str:
    """What stands in the README; empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    return "\n".join(
        [
            "Seconds to 1e-4 above the optimum, relative, warm, preparation included; in brackets reads of the",
            "data, with the rows that a preconditioner is made from. `lbfgs` to `saga` are scikit-learn's. After `>`:",
            "not there when it ended or the time was up.",
            "",
            f"![Distance from the optimum]({FIGURE.relative_to(ROOT).as_posix()})",
            "",
            *table(found, ["0.0001"]),
            "",
            f"{origin(found)}. How it was measured: [bench/README.md](bench/README.md); nearer and further from the",
            "optimum, cold starts, and when to take which solver: [docs/which-solver.md](docs/which-solver.md).",
            "",
        ]
    )


def page_text(results: dict[str, Found]) -> str:
    """What stands in the page; empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    lines = [*table(found, ["0.001", "0.0001", "1e-06"]), "", f"{origin(found)}."]
    cold = [
        (r["words"], {n: e["cold"] for n, e in r["racers"].items() if "cold" in e}) for r in found["results"]
    ]  # fmt: skip
    names = [name for name in LABELS if any(name in times for _, times in cold)]
    lines += [
        "",
        "Cold, to 1e-4: seconds from the start of a new process, imports included, making the data apart.",
        "",
    ]
    lines += ["| | " + " | ".join(LABELS[name] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for words, times in cold:
        cells = [seconds(times[name]) if name in times else "-" for name in names]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def digest(results: dict[str, Found]) -> str:
    """Of the numbers that the figure shows."""
    shown = [[r for r in found["results"] if r["case"] in DRAWN] for found in results.values()]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def differences(readme: Path = README, page: Path = PAGE, folder: Path = FOLDER, figure: Path = FIGURE) -> list[str]:
    """What is not as the results say; empty if all is."""
    results, found = load(folder), []
    for path, text in ((readme, readme_text(results)), (page, page_text(results))):
        document = path.read_text(encoding="utf-8")
        if between(document, BEGIN, END, text) != document:
            found.append(f"{path.name}: the table is not that of the results")
    if results and not (figure.exists() and digest(results) in figure.read_text(encoding="utf-8")):
        found.append(f"{figure.name} is not that of the results")
    return found


def draw(results: dict[str, Found], target: Path) -> None:
    """Relative distance from the optimum, against reads and against seconds: a column per case."""
    found = next(iter(results.values()))
    by_name = {result["case"]: result for result in found["results"]}
    cases = [case for case in DRAWN if case in by_name]
    figure, panels = new_figure(len(cases), 1 + 3.6 * len(cases), 6.4, rows=2)
    for column, case in enumerate(cases):
        result = by_name[case]
        for row, axes in enumerate(panels[:, column]):
            for name in reversed([name for name in LABELS if "points" in result["racers"].get(name, {})]):
                points = result["racers"][name]["points"]
                lowest, xs, ys = float("inf"), [], []
                for point in points:
                    lowest = min(lowest, point[2])
                    xs.append(point[1 - row])
                    ys.append(max(lowest / result["best"] - 1, SHOWN))
                ours = name == "gpusoftmax"
                label = LABELS[name] if name.startswith(("gpu", "torch", "intel")) else f"scikit-learn, {LABELS[name]}"
                axes.plot(xs, ys, color=COLOURS[name], label=label, linewidth=2.4 if ours else 1.3, zorder=3 + ours)
            axes.set(xscale="log", yscale="log", ylim=(SHOWN, 10), xlabel="seconds" if row else "reads of the data")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, column].set_title(DRAWN[case], fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("(f - f*) / f*")
    legend(figure, 4)
    figure.savefig(target, metadata={"Date": None, "Description": digest(results)})


def write() -> None:
    """Tables and figure."""
    results = load(FOLDER)
    for path, text in ((README, readme_text(results)), (PAGE, page_text(results))):
        path.write_text(between(path.read_text(encoding="utf-8"), BEGIN, END, text), encoding="utf-8")
    if results:
        draw(results, FIGURE)


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    return command("solving_figures", __doc__, differences, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
