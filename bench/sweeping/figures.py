#!/usr/bin/env python3
"""README's table and figure of `bench.sweeping`, from the tracked results in bench/results/sweeping/*.json.

    python -m bench.sweeping_figures             write them into README.md and sweeping.svg
    python -m bench.sweeping_figures --check     is what stands there what the results say? (needs no matplotlib)

The table goes between marker comments. The figure carries a digest of the numbers that it shows.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from bench.solving.figures import seconds
from bench.throughput.figures import RESULTS, ROOT, between, command, load, new_figure, where

README = ROOT / "README.md"
FOLDER, FIGURE = RESULTS / "sweeping", RESULTS / "sweeping.svg"
BEGIN, END = "<!-- bench/sweeping_figures.py writes from here -->\n", "<!-- sweeping to here -->\n"
OURS, COLOUR, OTHERS = "gpusoftmax", "#c1121f", {"own": "#f4a3a8", "sklearn": "#dd8452", "torch": "#55a868"}
RACED = ("cv", "path", "cs231n")
MOST_LINEAR = 15.0  # times ours up to which bars are not on a logarithmic axis
LINES = {"pass": "a value and gradient of all rows", "step": "a minibatch step of 200 rows"}

Found = dict[str, Any]


def title(part: str, result: Found) -> str:
    """What was done, with the sizes that were."""
    size, rows = result["size"], result["rows"]
    return {
        "cv": f"{size['Cs']} values of C x {size['folds']} folds, {rows} rows",
        "path": f"{size['Cs']} values of C, {rows} rows",
        "cs231n": f"cs231n's SGD, {size['side']} learning rates x {size['side']} regularizations, {rows} rows",
        "models": f"K models side by side, {rows} rows",
    }[part]


def present(result: Found) -> dict[str, Found]:
    """Racers that took part and whose result is right."""
    return {name: e for name, e in result["racers"].items() if "absent" not in e and "fault" not in e}


def time_cell(entry: Found) -> str:
    """Seconds; of who was stopped the budget, and how much was done."""
    if "over_budget" not in entry:
        return seconds(entry["seconds"])
    each = f", {seconds(entry['seconds_each'])} s each" if "seconds_each" in entry else ""
    return f"> {seconds(entry['over_budget'])} ({entry['done']} of {entry['of']} done{each})"


def relative_cell(entry: Found, ours: Found) -> str:
    """Times ours; of who was stopped at least."""
    if "seconds" not in ours:
        return "-"
    if "over_budget" in entry:
        return f"> {seconds(entry['over_budget'] / ours['seconds'])}"
    return seconds(entry["seconds"] / ours["seconds"])


def choice_cell(entry: Found, by: str, Cs: list[float]) -> str:
    """The C that was chosen, and how many steps of the grid it is from the converged models' choice."""
    if f"by_{by}" not in entry:
        return "-"
    steps = entry.get(f"steps_by_{by}", 0)
    return f"{Cs[entry[f'by_{by}']]:.2g}" + (f" ({steps:+d})" if steps else "")


def race_table(parts: Found) -> list[str]:
    """A row per part and racer; Markdown."""
    lines = ["|  | seconds | times ours | best C by accuracy | by log loss |", "|---" * 5 + "|"]
    for part in RACED:
        if part not in parts:
            continue
        result, racers = parts[part], present(parts[part])
        lines.append(f"| **{title(part, result)}** |  |  |  |  |")
        for entry in racers.values():
            cells = [entry["words"], time_cell(entry), relative_cell(entry, racers.get(OURS, {}))]
            cells += [choice_cell(entry, by, result["Cs"]) for by in ("accuracy", "log_loss")]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def origin(found: Found) -> str:
    """Machine and versions."""
    versions = found["machine"]["versions"]
    names = [name for name in ("numpy", "scikit-learn", "torch") if versions.get(name, "not installed")[0].isdigit()]
    return ", ".join([where(found), *(f"{name} {versions[name]}" for name in names)])


def models_table(result: Found) -> list[str]:
    """Milliseconds a model by K, and seconds of a path by its width; Markdown."""
    racers, lines = present(result), []
    if rows := [name for name in LINES if racers.get(name, {}).get("milliseconds")]:
        Ks = list(max((racers[name]["milliseconds"] for name in rows), key=len))
        lines += ["", "| milliseconds a model, K = | " + " | ".join(Ks) + " |", "|---" * (len(Ks) + 1) + "|"]
        for name in rows:
            cells = [seconds(racers[name]["milliseconds"][K]) if K in racers[name]["milliseconds"] else "-" for K in Ks]
            lines.append(f"| {LINES[name]} | " + " | ".join(cells) + " |")
    if found := racers.get("width", {}).get("seconds_by_width"):
        told = ", ".join(f"{seconds(value)} s with {width}" for width, value in found.items())
        lines += ["", f"The path by how many C's are solved side by side: {told}."]
    return lines


def memory(parts: Found) -> list[str]:
    """What a sweep needs beside X."""
    peak = parts.get("path", {}).get("racers", {}).get(OURS, {}).get("peak_megabytes")
    return [] if peak is None else ["", f"Beside X the sweep over all rows takes {peak:.0f} MB at its peak."]


def readme_text(results: dict[str, Found]) -> str:
    """What stands in the README; empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    parts = found["parts"]
    return "\n".join(
        [
            "## Whole sweeps",
            "",
            "Seconds of everything that it takes to choose, on CIFAR-10. After `>`: stopped when the time was up, with",
            "so many models done. In brackets behind C: steps of the grid from the choice of converged models.",
            "",
            f"![Times relative to gpusoftmax]({FIGURE.relative_to(ROOT).as_posix()})",
            "",
            *race_table(parts),
            *models_table(parts.get("models", {"racers": {}})),
            *memory(parts),
            "",
            f"{origin(found)}. How it was measured: [bench/README.md](bench/README.md).",
            "",
        ]
    )


def digest(results: dict[str, Found]) -> str:
    """Of the numbers that the figure shows."""
    shown = [found["parts"] for found in results.values()]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def differences(readme: Path = README, folder: Path = FOLDER, figure: Path = FIGURE) -> list[str]:
    """What is not as the results say; empty if all is."""
    results, found = load(folder), []
    document = readme.read_text(encoding="utf-8")
    if between(document, BEGIN, END, readme_text(results)) != document:
        found.append(f"{readme.name}: the table is not that of the results")
    if results and not (figure.exists() and digest(results) in figure.read_text(encoding="utf-8")):
        found.append(f"{figure.name} is not that of the results")
    return found


def draw(results: dict[str, Found], target: Path) -> None:
    """A panel of bars for each part that is raced, and one of the time a model takes against K."""
    found = next(iter(results.values()))
    parts = found["parts"]
    raced = [part for part in RACED if "seconds" in present(parts.get(part, {"racers": {}})).get(OURS, {})]
    panels = [*raced, *(["models"] if "models" in parts else [])]
    figure, axes = new_figure(2, 11, 3.2 * -(-len(panels) // 2), rows=-(-len(panels) // 2))
    for place, part in enumerate(panels):
        one = axes[place // 2, place % 2]
        (_lines if part == "models" else _bars)(one, parts[part])
        one.set_title(title(part, parts[part]), fontsize=9)
        one.spines[["top", "right"]].set_visible(False)
    for empty in axes.flat[len(panels) :]:
        empty.set_axis_off()
    figure.suptitle(where(found), fontsize=9)
    figure.savefig(target, metadata={"Date": None, "Description": digest(results)})


def _bars(axes: Any, result: Found) -> None:
    racers = present(result)
    ours = racers[OURS]["seconds"]
    for place, (name, entry) in enumerate(racers.items()):
        stopped = "over_budget" in entry
        length = entry["over_budget" if stopped else "seconds"] / ours
        colour = COLOUR if name == OURS else OTHERS.get(name.split("-")[0], "#4c72b0")
        axes.barh(place, length, color=colour, alpha=0.5 if stopped else 1.0, hatch="//" if stopped else None)
        text = f" > {seconds(entry['over_budget'])} s" if stopped else f" {seconds(entry['seconds'])} s"
        axes.text(length, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(racers)), [entry["words"] for entry in racers.values()], fontsize=8)
    axes.invert_yaxis()
    lengths = [entry.get("seconds", entry.get("over_budget")) / ours for entry in racers.values()]
    if max(lengths) > MOST_LINEAR:
        axes.set(xscale="log", xlim=(min(lengths) / 2, 4 * max(lengths)))
    else:
        axes.set(xlim=(0, 1.25 * max(lengths)))
    axes.set_xlabel("time relative to gpusoftmax")


def _lines(axes: Any, result: Found) -> None:
    Ks: list[int] = []
    for (name, words), colour in zip(LINES.items(), (COLOUR, "#4c72b0"), strict=True):
        if times := present(result).get(name, {}).get("milliseconds"):
            Ks, values = list(map(int, times)), list(times.values())
            axes.plot(Ks, [value / values[0] for value in values], "o-", color=colour, label=words)
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.set(ylim=(0, None), xlabel="K", ylabel="time a model, relative to K = 1")
    axes.set_xscale("log", base=2)
    axes.set_xticks(Ks, list(map(str, Ks)))
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)


def write() -> None:
    """Tables and figure."""
    results = load(FOLDER)
    document = README.read_text(encoding="utf-8")
    README.write_text(between(document, BEGIN, END, readme_text(results)), encoding="utf-8")
    if results:
        draw(results, FIGURE)


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    return command("sweeping_figures", __doc__, differences, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
