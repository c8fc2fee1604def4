"""The table and figure of `throughput`, and the figures of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common.harness import Result, by_case
from bench.common.pages import Figures, Link, Results, legend, new_figure, rows, save, versions, where

# what the page shows; everything else is in the results
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
# their ceiling, a dense product, says nothing, and the figure leaves them out
SPARSE_CASES = {
    "text": "sparse like text, 20000 x 75000, 78 entries a row, 20",
    "one-hot": "sparse one-hot, 40000 x 100000, 7 entries a row, 20",
    "counts": "sparse counts, 40000 x 20000, 42 entries a row, 100",
}
LABELS = {
    "numba": "gpusoftmax", "numpy": "gpusoftmax, NumPy", "cuda": "gpusoftmax, CUDA", "cuda-plain": "CuPy by hand",
    "hand": "NumPy by hand", "sklearn": "scikit-learn", "torch": "PyTorch", "torch-compile": "torch.compile",
    "torch-cuda": "PyTorch, GPU", "jax": "JAX", "reference": "reference",
}  # fmt: skip
OURS = ("numba", "cuda")
SHOWN = [name for name in LABELS if name not in ("numpy", "reference")]
COLOURS = {
    "numba": "#c1121f", "cuda": "#780000", "numpy": "#f4a3a8", "hand": "#4c72b0", "sklearn": "#dd8452",
    "torch": "#55a868", "torch-compile": "#2d6a4f", "jax": "#8172b3", "cuda-plain": "#937860", "torch-cuda": "#64b5cd",
    "reference": "#999999",
}  # fmt: skip
AXES = {"n": "rows", "d": "features", "c": "classes", "models": "models", "threads": "threads"}

Times = dict[str, dict[str, float]]


def times(found: Result) -> Times:
    """Milliseconds by case and contender."""
    return {case: {name: r["milliseconds"] for name, r in row.items()} for case, row in by_case(found).items()}


def section(results: Results, link: Link) -> str:
    """Milliseconds of each case and contender, a row per result file and case. Empty without results."""
    if not results:
        return ""
    measured = [by_case(found) for found in results.values()]
    columns = [name for name in SHOWN if any(name in row for cases in measured for row in cases.values())]
    lines = [["", *(LABELS[name] for name in columns)]]
    for found, cases in zip(results.values(), measured, strict=True):
        lines.append([f"**{where(found)}**", *[""] * len(columns)])
        lines += [
            [words, *(_cell(cases[case].get(name), name, case in SHOWN_CASES) for name in columns)]
            for case, words in (SHOWN_CASES | SPARSE_CASES).items()
            if case in cases
        ]
    libraries = versions(next(iter(results.values())), "numpy", "scikit-learn", "torch", "jax", "numba")
    return "\n".join(
        [
            "## Speed",
            "",
            "Milliseconds of one value and gradient over all rows, unless the row says otherwise; in brackets the",
            "fraction that ours reaches of the most that the machine can do, measured in the same run. Incorrect",
            "results are not timed.",
            "",
            link.figure("throughput", "Times relative to gpusoftmax"),
            "",
            *rows(*lines),
            "",
            f"{libraries}. {link.how}.",
            "",
        ]
    )


def _cell(result: Result | None, name: str, with_ceiling: bool) -> str:
    if result is None:
        return "-"
    milliseconds = result["milliseconds"]
    shown = f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"
    if name not in OURS:
        return shown
    return f"**{shown}** ({result['fraction_of_ceiling']:.0%})" if with_ceiling else f"**{shown}**"


def shown(results: Results) -> Any:
    """The numbers of the figure."""
    return {
        stem: {case: times(found).get(case) for case in SHOWN_CASES} for stem, found in results.items() if _drawn(found)
    }


def _drawn(found: Result) -> bool:
    """Whether the figure shows a result file: not one of sparse cases alone."""
    return not by_case(found).keys().isdisjoint(SHOWN_CASES)


def _dots(axes: Any, measured: Times, words: dict[str, str]) -> None:
    """A line per case, a dot per contender: how many times as long as ours, which is at 1."""
    import matplotlib.ticker

    for place, case in enumerate(reversed(words)):
        row = measured[case]
        unit = next((row[name] for name in ("cuda", "numba", "numpy") if name in row), min(row.values()))
        for name in [name for name in LABELS if name in row]:
            size = 70 if name in OURS else 36
            axes.scatter(row[name] / unit, place, size, COLOURS[name], label=LABELS[name], alpha=0.9, zorder=3)
    axes.set_yticks(range(len(words)), list(reversed(words.values())), fontsize=9)
    axes.axvline(1, color="#c1121f", linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: Results, target: Path) -> None:
    """A panel per result file."""
    drawn = {stem: found for stem, found in results.items() if _drawn(found)}
    figure, (panels,) = new_figure(len(drawn), 1.5 + 4.5 * len(drawn), 1.4 + 0.38 * len(SHOWN_CASES), sharey=True)
    everywhere = [times(found) for found in drawn.values()]
    words = {case: text for case, text in SHOWN_CASES.items() if all(case in measured for measured in everywhere)}
    for axes, found, measured in zip(panels, drawn.values(), everywhere, strict=True):
        _dots(axes, {case: {k: v for k, v in row.items() if k in SHOWN} for case, row in measured.items()}, words)
        axes.set_title(where(found), fontsize=9)
        axes.set_xlabel("time relative to gpusoftmax")
    legend(figure, 6)
    save(figure, target, shown(results))


FIGURES = Figures({"throughput": section}, draw, shown)


# ---- one run


def draw_run(found: Result, target: Path) -> list[Path]:
    """Draws one run beside its results, as PNG and SVG: all cases, and how they scale. The files written."""
    measured = times(found)
    plain = {case: case for case in measured if not case.startswith("scaling-")}
    drawn = {}
    if plain:
        drawn[target], ((axes,),) = new_figure(1, 8, 1.6 + 0.36 * len(plain))
        _dots(axes, measured, plain)
        axes.set_xlabel("time relative to ours (left is faster)")
        axes.set_title(where(found), fontsize=9)
        legend(drawn[target], 5)
    if scaling := _scaling(found):
        figure, (panels,) = new_figure(len(scaling), 1 + 3.2 * len(scaling), 3.6)
        for axes, (group, lines) in zip(panels, scaling.items(), strict=True):
            for name, points in lines.items():
                xs, ys = zip(*sorted(points), strict=True)
                axes.plot(xs, ys, marker="o", markersize=3, color=COLOURS[name], label=LABELS[name])
            axes.set(xscale="log", yscale="log", xlabel=group, ylabel="rows/s")
            axes.grid(alpha=0.3)
        legend(figure, 6)
        drawn[target.with_name(f"{target.name}-scaling")] = figure
    written = []
    for path, figure in drawn.items():
        for suffix in (".png", ".svg"):
            written.append(path.with_name(path.name + suffix))
            figure.savefig(written[-1], dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
    return written


def _scaling(found: Result) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(size, rows a second) by group and contender."""
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for case, row in by_case(found).items():
        _, *parts = case.split("-")
        if case.startswith("scaling-"):
            lines = groups.setdefault(" ".join([AXES[parts[0]], *parts[2:]]), {})
            size = found["cases"][case]["n"] if parts[0] == "n" else int(parts[1])  # --quick has fewer rows
            for name, result in row.items():
                lines.setdefault(name, []).append((size, result["rows_per_second"]))
    return groups
