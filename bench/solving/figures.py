"""The tables and figure of `solving`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common.harness import Result, by_case
from bench.common.pages import PAGES, Figures, Link, Results, legend, new_figure, rows, save, seconds, versions, where

LABELS = {
    "gpusoftmax": "gpusoftmax", "before": "before", "first": "first",
    "sklearn-lbfgs": "lbfgs", "sklearn-newton-cg": "newton-cg",
    "sklearn-newton-cholesky": "newton-cholesky", "sklearn-saga": "saga", "intelex-lbfgs": "intelex, lbfgs",
    "scipy-lbfgs": "SciPy, L-BFGS-B", "jax-lbfgs": "JAX, L-BFGS",
    "torch-lbfgs": "PyTorch, L-BFGS", "torch-adam": "PyTorch, Adam",
}  # fmt: skip
COLOURS = {
    "gpusoftmax": "#c1121f", "before": "#f4a3a8", "first": "#d9b8bb",
    "sklearn-lbfgs": "#dd8452", "sklearn-newton-cg": "#4c72b0",
    "sklearn-newton-cholesky": "#64b5cd", "sklearn-saga": "#937860", "intelex-lbfgs": "#8172b3",
    "scipy-lbfgs": "#bbbbbb", "jax-lbfgs": "#ccb974",
    "torch-lbfgs": "#55a868", "torch-adam": "#2d6a4f",
}  # fmt: skip
DRAWN = {
    "cifar10-1e-2": "CIFAR-10, C = 0.01",
    "probe": "embeddings, 100000 x 768, 100 classes",
    "digits-100": "digits, C = 100",
}
OURS = "gpusoftmax"
SHOWN = 1e-8  # relative distances down to which curves are drawn


def cells(row: dict[str, Result], names: list[str], near: str) -> list[str]:
    """For each contender seconds, and passes over the data in brackets; the fastest in bold."""
    fastest = min((row[name]["warm"][near][0] for name in row if row[name]["warm"][near]), default=None)
    found = []
    for name in names:
        reached = row[name]["warm"][near] if name in row else None
        if reached is None:
            found.append(f"> {seconds(row[name]['points'][-1][0])}" if name in row else "-")
        else:
            text = f"{seconds(reached[0])} ({reached[1]:.0f})"
            found.append(f"**{text}**" if reached[0] == fastest else text)
    return found


def all_in_cell(row: dict[str, Result]) -> str:
    """How many of our passes would take as long as our way to 1e-4."""
    found = row.get(OURS, {}).get("all_in", {}).get("0.0001")
    return "-" if found is None else f"{found:.3g}"


def _names(measured: dict[str, dict[str, Result]], key: str) -> list[str]:
    """Contenders that have such a number in any case."""
    return [name for name in LABELS if any(key in row.get(name, {}) for row in measured.values())]


def origin(found: Result) -> str:
    """Machine and versions."""
    jax = ["jax"] if any(result["contender"] == "jax-lbfgs" for result in found["results"]) else []
    return f"{where(found)}; {versions(found, 'numpy', 'scikit-learn', 'scikit-learn-intelex', *jax, 'torch')}"


def section(results: Results, link: Link) -> str:
    """Seconds to 1e-4 of all cases. Empty without results."""
    if not results:
        return ""
    details = PAGES["solving-details"]
    lines = [
        "Seconds to 1e-4 above the optimum, relative, warm, preparation included; in brackets passes over the",
        "data, with the rows that a preconditioner is made from. `lbfgs` to `saga` are scikit-learn's. After `>`:",
        "not there when it ended or the time was up.",
        "",
        link.figure("solving", "Distance from the optimum"),
        "",
    ]
    for found in results.values():
        measured = by_case(found)
        names = _names(measured, "warm")
        all_in = any("all_in" in row.get(OURS, {}) for row in measured.values())
        table = [
            [found["cases"][case]["words"], *cells(row, names, "0.0001"), *[all_in_cell(row)] * all_in]
            for case, row in measured.items()
        ]
        heads = ["", *(LABELS[name] for name in names), *["all-in"] * all_in]
        lines += [*rows(heads, *table), ""]
        if all_in:
            lines += ["All-in: our seconds, in those of one of our passes over the data.", ""]
        lines += [f"{origin(found)}.", ""]
    lines += [
        f"{link.how}; nearer to the optimum and further away,",
        f"cold starts, and when to take which solver: [{details.stem.replace('-', ' ')}]({link(details)}).",
        "",
    ]
    return "\n".join(lines)


def details(results: Results, link: Link) -> str:
    """Seconds to several distances, warm, and to 1e-4, cold. Empty without results."""
    if not results:
        return ""
    return "\n".join(text for found in results.values() for text in _details_of(found))


def _details_of(found: Result) -> list[str]:
    """The lines of one result."""
    measured = by_case(found)
    words = {case: found["cases"][case]["words"] for case in measured}
    names, started = _names(measured, "warm"), _names(measured, "cold")
    lines = [["to, relative", *(LABELS[name] for name in names)]]
    for case, row in measured.items():
        lines.append([f"**{words[case]}**", *[""] * len(names)])
        lines += [[near, *cells(row, names, near)] for near in ("0.001", "0.0001", "1e-06")]
    text = [*rows(*lines), "", f"{origin(found)}.", ""]
    if not started:
        return text
    cold = [["", *(LABELS[name] for name in started)]]
    for case, row in measured.items():
        times = (row.get(name, {}).get("cold") for name in started)
        cold.append([words[case], *("-" if time is None else seconds(time) for time in times)])
    words_of_cold = "Cold, to 1e-4: seconds from the start of a new process, imports included, without making the data."
    return [*text, words_of_cold, "", *rows(*cold), ""]


def shown(results: Results) -> Any:
    """The numbers of the figure, which is that of the first result."""
    return [{case: by_case(found).get(case) for case in DRAWN} for found in list(results.values())[:1]]


def draw(results: Results, target: Path) -> None:
    """Relative distance from the optimum, against passes and against seconds: a column per case."""
    found = next(iter(results.values()))
    measured = by_case(found)
    cases = [case for case in DRAWN if case in measured]
    figure, panels = new_figure(len(cases), 1 + 3.6 * len(cases), 6.4, rows=2)
    for column, case in enumerate(cases):
        best = found["cases"][case]["best"]
        for row, axes in enumerate(panels[:, column]):
            for name in reversed([name for name in LABELS if name in measured[case]]):
                lowest, xs, ys = float("inf"), [], []
                for point in measured[case][name]["points"]:
                    lowest = min(lowest, point[2])
                    xs.append(point[1 - row])
                    ys.append(max(lowest / best - 1, SHOWN))
                ours = name == "gpusoftmax"
                label = f"scikit-learn, {LABELS[name]}" if name.startswith("sklearn") else LABELS[name]
                axes.plot(xs, ys, color=COLOURS[name], label=label, linewidth=2.4 if ours else 1.3, zorder=3 + ours)
            axes.set(xscale="log", yscale="log", ylim=(SHOWN, 10), xlabel="seconds" if row else "passes over the data")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, column].set_title(DRAWN[case], fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("(f - f*) / f*")
    legend(figure, 4)
    save(figure, target, shown(results))


FIGURES = Figures({"solving": section, "solving-details": details}, draw, shown)
