#!/usr/bin/env python3
"""The README's table and figure, from the tracked results in bench/results/*.json; and the figures of one run.

    python -m bench.figures             write both
    python -m bench.figures --check     is what stands there what the results say? (needs no matplotlib)

The table goes between two marker comments of the README. The figure carries a digest of the numbers that it shows, so
that a figure of older results is found out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS, README = ROOT / "bench" / "results", ROOT / "README.md"
FIGURE = RESULTS / "figure.svg"
BEGIN, END = "<!-- bench/figures.py writes from here -->\n", "<!-- to here -->\n"
# the README's choice; everything else is in the results
SHOWN_CASES = {
    "cifar-f32": "CIFAR-10, 49000 x 3072, 10 classes",
    "cifar-u8": "the same in uint8",
    "models-4": "the same, 4 models at once",
    "mnist": "MNIST's shape, 60000 x 784, 10",
    "probe": "linear probe, 100000 x 768, 1000",
    "wide": "many classes, 20000 x 512, 5000",
    "tall": "tall, 2000000 x 32, 5",
    "minibatch-200": "a step of 200 rows of CIFAR-10",
    "predict-cifar": "CIFAR-10, predict",
}
LABELS = {
    "numba": "gpusoftmax", "numpy": "gpusoftmax, NumPy", "cuda": "gpusoftmax, CUDA", "cuda-plain": "CuPy by hand",
    "hand": "NumPy by hand", "sklearn": "scikit-learn", "torch": "PyTorch", "torch-compile": "torch.compile",
    "torch-cuda": "PyTorch, GPU", "jax": "JAX", "reference": "reference",
}  # fmt: skip
SHOWN = ("numba", "cuda", "cuda-plain", "hand", "sklearn", "torch", "torch-compile", "torch-cuda", "jax")
COLOURS = {
    "numba": "#c1121f", "cuda": "#780000", "numpy": "#f4a3a8", "hand": "#4c72b0", "sklearn": "#dd8452",
    "torch": "#55a868", "torch-compile": "#2d6a4f", "jax": "#8172b3", "cuda-plain": "#937860", "torch-cuda": "#64b5cd",
    "reference": "#999999",
}  # fmt: skip
AXES = {"n": "rows", "d": "features", "c": "classes", "models": "models", "threads": "threads"}

Found = dict[str, Any]


def load(folder: Path = RESULTS) -> dict[str, Found]:
    """Tracked results by name of their file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def times(found: Found) -> dict[str, dict[str, float]]:
    """Milliseconds by case and contender; who has no time is not in it."""
    table: dict[str, dict[str, float]] = {}
    for result in found["results"]:
        if "milliseconds" in result:
            table.setdefault(result["case"], {})[result["contender"]] = result["milliseconds"]
    return table


# ---- the README's table


def where(found: Found) -> str:
    """The machine in a few words."""
    facts = found["machine"]
    limited = ", held to AVX2" if facts["limited_to_avx2"] else ""
    return f"{facts['cores']} cores of {facts['processor']}, {facts['vectors']}{limited}"


def table(results: dict[str, Found]) -> str:
    """Milliseconds of each case and contender, a row per result file and case; Markdown. Empty without results."""
    if not results:
        return ""
    columns = [
        name for name in SHOWN if any(name in row for found in results.values() for row in times(found).values())
    ]
    lines = [
        "## Speed",
        "",
        "Milliseconds of one value and gradient over all rows, unless the row says otherwise; in brackets our share of",
        "the most that the machine can do, measured in the same run. A contender whose result is wrong has no time.",
        "",
        f"![Times relative to gpusoftmax]({FIGURE.relative_to(ROOT).as_posix()})",
        "",
        "| " + " | ".join(["", *(LABELS[name] for name in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for found in results.values():
        measured = times(found)
        shares = {(r["case"], r["contender"]): r.get("share_of_ceiling") for r in found["results"]}
        lines.append(f"| **{where(found)}** |" + " |" * len(columns))
        for case, words in SHOWN_CASES.items():
            if case in measured:
                cells = [_cell(measured[case].get(name), shares.get((case, name)), name) for name in columns]
                lines.append("| " + " | ".join([words, *cells]) + " |")
    versions = next(iter(results.values()))["machine"]["versions"]
    named = ("numpy", "scikit-learn", "torch", "jax", "numba")
    listed = ", ".join(f"{name} {versions[name]}" for name in named if versions.get(name, "not installed")[0].isdigit())
    lines += ["", f"{listed}. How it was measured, and the other cases: [bench/README.md](bench/README.md).", ""]
    return "\n".join(lines)


def _cell(milliseconds: float | None, share: float | None, name: str) -> str:
    if milliseconds is None:
        return "-"
    shown = f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"
    return f"**{shown}** ({share:.0%})" if share is not None and name in ("numba", "cuda") else shown


def digest(results: dict[str, Found]) -> str:
    """Of the numbers that the figure shows."""
    shown = {stem: {case: times(found).get(case) for case in SHOWN_CASES} for stem, found in results.items()}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def between(document: str, begin: str, end: str, text: str) -> str:
    """The document with this text between two markers.

    Raises
    ------
    ValueError
        The markers are not there.
    """
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document has to have {begin.strip()} and {end.strip()} once, on lines of their own")
    before, rest = document.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def with_table(text: str, results: dict[str, Found]) -> str:
    """The README with the table that the results make."""
    return between(text, BEGIN, END, table(results))


def differences(readme: Path = README, folder: Path = RESULTS, figure: Path = FIGURE) -> list[str]:
    """What is not as the results say; empty if all is."""
    results, text, found = load(folder), readme.read_text(encoding="utf-8"), []
    if with_table(text, results) != text:
        found.append(f"{readme.name}: the table is not that of the results")
    if results and not (figure.exists() and digest(results) in figure.read_text(encoding="utf-8")):
        found.append(f"{figure.name} is not that of the results")
    return found


# ---- figures


def _dots(axes: Any, measured: dict[str, dict[str, float]], words: dict[str, str]) -> None:
    """A line per case, a dot per contender: how many times as long as we take; ours is at 1."""
    import matplotlib.ticker

    for place, case in enumerate(reversed(words)):
        row = measured[case]
        unit = next((row[name] for name in ("cuda", "numba", "numpy") if name in row), min(row.values()))
        for name in [name for name in LABELS if name in row]:
            size = 70 if name in ("numba", "cuda") else 36
            axes.scatter(row[name] / unit, place, size, COLOURS[name], label=LABELS[name], alpha=0.9, zorder=3)
    axes.set_yticks(range(len(words)), list(reversed(words.values())), fontsize=9)
    axes.axvline(1, color="#c1121f", linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Any, columns: int) -> None:
    unique: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            unique.setdefault(label, handle)
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def new_figure(columns: int, width: float, height: float, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure that looks the same wherever it is drawn, and its axes (rows, columns)."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpusoftmax"
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)


def draw_readme(results: dict[str, Found], target: Path) -> None:
    """The README's figure: a panel per result file."""
    figure, (panels,) = new_figure(len(results), 1.5 + 4.5 * len(results), 1.4 + 0.38 * len(SHOWN_CASES), sharey=True)
    everywhere = [times(found) for found in results.values()]
    words = {case: text for case, text in SHOWN_CASES.items() if all(case in measured for measured in everywhere)}
    for axes, found, measured in zip(panels, results.values(), everywhere, strict=True):
        shown = {case: {k: v for k, v in row.items() if k in SHOWN} for case, row in measured.items()}
        _dots(axes, shown, words)
        axes.set_title(where(found), fontsize=9)
        axes.set_xlabel("time relative to gpusoftmax")
    legend(figure, 6)
    figure.savefig(target, metadata={"Date": None, "Description": digest(results)})


def draw_run(found: Found, target: Path) -> list[Path]:
    """Figures of one run beside its results, as PNG and SVG: all cases, and how they scale. The files written."""
    measured = times(found)
    plain = {case: case for case in measured if not case.startswith("scaling-")}
    written = []
    if plain:
        figure, ((axes,),) = new_figure(1, 8, 1.6 + 0.36 * len(plain))
        _dots(axes, measured, plain)
        axes.set_xlabel("time relative to ours (left is faster)")
        axes.set_title(where(found), fontsize=9)
        legend(figure, 5)
        written += _save(figure, target)
    if scaling := _scaling(found):
        figure, (panels,) = new_figure(len(scaling), 1 + 3.2 * len(scaling), 3.6)
        for axes, (group, lines) in zip(panels, scaling.items(), strict=True):
            for name, points in lines.items():
                xs, ys = zip(*sorted(points), strict=True)
                axes.plot(xs, ys, marker="o", markersize=3, color=COLOURS[name], label=LABELS[name])
            axes.set(xscale="log", yscale="log", xlabel=group, ylabel="rows/s")
            axes.grid(alpha=0.3)
        legend(figure, 6)
        written += _save(figure, target.with_name(f"{target.name}-scaling"))
    return written


def _scaling(found: Found) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(size, rows a second) by group and contender."""
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for result in found["results"]:
        _, *parts = result["case"].split("-")
        if result["case"].startswith("scaling-") and "milliseconds" in result:
            group = " ".join([AXES[parts[0]], *parts[2:]])
            lines = groups.setdefault(group, {})
            size = found["cases"][result["case"]]["n"] if parts[0] == "n" else int(parts[1])  # --quick has fewer rows
            lines.setdefault(result["contender"], []).append((size, result["rows_per_second"]))
    return groups


def _save(figure: Any, target: Path) -> list[Path]:
    paths = [target.with_name(target.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def command(
    name: str, about: str | None, differences: Callable[[], list[str]], write: Callable[[], None],
    arguments: list[str] | None,
) -> int:  # fmt: skip
    """Write, or check; the exit code is 1 if something is not as the results say."""
    prog = f"python -m bench.{name}"
    parser = argparse.ArgumentParser(prog=prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args(arguments).check:
        write()
        return 0
    found = differences()
    for line in [*found, f"run {prog}"] if found else []:
        print(line)
    return int(bool(found))


def write() -> None:
    """README's table and figure."""
    results = load()
    README.write_text(with_table(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    if results:
        draw_readme(results, FIGURE)


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    return command("figures", __doc__, differences, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
