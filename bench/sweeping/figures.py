"""The tables and figure of `sweeping`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common.harness import Result, by_case
from bench.common.pages import Figures, Link, Results, new_figure, rows, save, seconds, versions, where

OURS, COLOUR, OTHERS = "gpusoftmax", "#c1121f", {"own": "#f4a3a8", "sklearn": "#dd8452", "torch": "#55a868"}
SEARCHES = ("cv", "minilm", "path", "cs231n")
MOST_LINEAR = 15.0  # times ours up to which bars are not on a logarithmic axis
LINES = {"pass": "a value and gradient of all rows", "step": "a minibatch step of 200 rows"}

Row = dict[str, Result]


def title(case: str, facts: Result) -> str:
    """What was done, with the sizes."""
    size, rows = facts["size"], facts["rows"]
    return {
        "cv": f"{size['Cs']} values of C x {size['folds']} folds, {rows} rows",
        "minilm": f"{len(facts['Cs'])} values of C x {size['folds']} folds, {rows} embeddings",
        "path": f"{size['Cs']} values of C, {rows} rows",
        "cs231n": f"cs231n's SGD, {size['side']} learning rates x {size['side']} regularizations, {rows} rows",
        "models": f"K models side by side, {rows} rows",
    }[case]


def time_cell(result: Result) -> str:
    """Seconds; of a contender that was stopped the budget, and how much was done."""
    if "over_budget" not in result:
        return seconds(result["seconds"])
    each = f", {seconds(result['seconds_each'])} s each" if "seconds_each" in result else ""
    return f"> {seconds(result['over_budget'])} ({result['done']} of {result['of']} done{each})"


def relative_cell(result: Result, ours: Result) -> str:
    """The time as a multiple of ours; of a contender that was stopped at least that."""
    if "seconds" not in ours:
        return "-"
    if "over_budget" in result:
        return f"> {seconds(result['over_budget'] / ours['seconds'])}"
    return seconds(result["seconds"] / ours["seconds"])


def choice_cell(result: Result, by: str, Cs: list[float]) -> str:
    """The C that was chosen, and how many steps of the grid it is from the converged models' choice."""
    if by == "log_loss" and "found_C" in result:
        return f"{result['found_C']:.2g}"
    if f"by_{by}" not in result:
        return "-"
    steps = result.get(f"steps_by_{by}", 0)
    return f"{Cs[result[f'by_{by}']]:.2g}" + (f" ({steps:+d})" if steps else "")


def searches_table(found: Result, measured: dict[str, Row]) -> list[str]:
    """A row per case and contender."""
    lines = [["", "seconds", "times ours", "best C by accuracy", "by log loss"]]
    for case in SEARCHES:
        if case in measured:
            lines.append([f"**{title(case, found['cases'][case])}**", *[""] * 4])
            for result in measured[case].values():
                cells = [result["words"], time_cell(result), relative_cell(result, measured[case].get(OURS, {}))]
                Cs = found["cases"][case]["Cs"]
                lines.append([*cells, *(choice_cell(result, by, Cs) for by in ("accuracy", "log_loss"))])
    return rows(*lines)


def models_table(row: Row) -> list[str]:
    """Milliseconds a model by K, and seconds of a path by its width."""
    lines = []
    if times := {LINES[name]: row[name]["milliseconds"] for name in LINES if row.get(name, {}).get("milliseconds")}:
        Ks = list(max(times.values(), key=len))
        cells = [[words, *(seconds(by_K[K]) if K in by_K else "-" for K in Ks)] for words, by_K in times.items()]
        lines += ["", *rows(["milliseconds a model, K =", *Ks], *cells)]
    if found := row.get("width", {}).get("seconds_by_width"):
        told = ", ".join(f"{seconds(value)} s with {width}" for width, value in found.items())
        lines += ["", f"The path by how many C's are solved side by side: {told}."]
    return lines


def section(results: Results, link: Link) -> str:
    """All of it. Empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    measured = by_case(found)
    peak = measured.get("path", {}).get(OURS, {}).get("peak_megabytes")
    memory = [] if peak is None else ["", f"Beside X the sweep over all rows takes {peak:.0f} MB at its peak."]
    return "\n".join(
        [
            "## Whole sweeps",
            "",
            "Seconds of everything that it takes to choose, on CIFAR-10 or embeddings. After `>`: stopped when the",
            "time was up, with so many models done. In brackets behind C: steps of the grid from the choice of",
            "converged models.",
            "",
            link.figure("sweeping", "Times relative to gpusoftmax"),
            "",
            *searches_table(found, measured),
            *models_table(measured.get("models", {})),
            *memory,
            "",
            f"{where(found)}, {versions(found, 'numpy', 'scikit-learn', 'torch')}. {link.how}.",
            "",
        ]
    )


def shown(results: Results) -> Any:
    """The numbers of the figure."""
    return [by_case(found) for found in results.values()]


def draw(results: Results, target: Path) -> None:
    """A panel of bars for each search, and one of the time a model takes against K."""
    found = next(iter(results.values()))
    measured = by_case(found)
    searches = [case for case in SEARCHES if "seconds" in measured.get(case, {}).get(OURS, {})]
    panels = [*searches, *(["models"] if "models" in measured else [])]
    figure, axes = new_figure(2, 11, 3.2 * -(-len(panels) // 2), rows=-(-len(panels) // 2))
    for place, case in enumerate(panels):
        one = axes[place // 2, place % 2]
        (_lines if case == "models" else _bars)(one, measured[case])
        one.set_title(title(case, found["cases"][case]), fontsize=9)
        one.spines[["top", "right"]].set_visible(False)
    for empty in axes.flat[len(panels) :]:
        empty.set_axis_off()
    figure.suptitle(where(found), fontsize=9)
    save(figure, target, shown(results))


def _bars(axes: Any, row: Row) -> None:
    ours = row[OURS]["seconds"]
    for place, (name, result) in enumerate(row.items()):
        stopped = "over_budget" in result
        length = result["over_budget" if stopped else "seconds"] / ours
        colour = COLOUR if name == OURS else OTHERS.get(name.split("-")[0], "#4c72b0")
        axes.barh(place, length, color=colour, alpha=0.5 if stopped else 1.0, hatch="//" if stopped else None)
        text = f" > {seconds(result['over_budget'])} s" if stopped else f" {seconds(result['seconds'])} s"
        axes.text(length, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(row)), [result["words"] for result in row.values()], fontsize=8)
    axes.invert_yaxis()
    lengths = [result.get("seconds", result.get("over_budget")) / ours for result in row.values()]
    if max(lengths) > MOST_LINEAR:
        axes.set(xscale="log", xlim=(min(lengths) / 2, 4 * max(lengths)))
    else:
        axes.set(xlim=(0, 1.25 * max(lengths)))
    axes.set_xlabel("time relative to gpusoftmax")


def _lines(axes: Any, row: Row) -> None:
    Ks: list[int] = []
    for (name, words), colour in zip(LINES.items(), (COLOUR, "#4c72b0"), strict=True):
        if times := row.get(name, {}).get("milliseconds"):
            Ks, values = list(map(int, times)), list(times.values())
            axes.plot(Ks, [value / values[0] for value in values], "o-", color=colour, label=words)
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.set(ylim=(0, None), xlabel="K", ylabel="time a model, relative to K = 1")
    axes.set_xscale("log", base=2)
    axes.set_xticks(Ks, list(map(str, Ks)))
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)


FIGURES = Figures({"sweeping": section}, draw, shown)
