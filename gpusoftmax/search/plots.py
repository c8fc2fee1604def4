"""Plots of a sweep's results, with matplotlib."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from gpusoftmax.search.words import describe_candidate

LARGE = 10.0  # a parameter's axis is logarithmic if the ratio of its largest and smallest value exceeds this


def plot(result: Any, ax: Any = None) -> Any:
    """Plot the mean scores of a SweepResult: a curve with standard errors over one number, a heat map over two.

    Parameters that vary but are not numbers give a curve for each combination of their values.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        No number varies, or too many parameters do.
    """
    table = result.candidates
    names = list(dict.fromkeys(name for one in table for name in one))
    varying = [name for name in names if len({repr(one.get(name)) for one in table}) > 1]
    numbers = [name for name in varying if all(_is_number(one.get(name)) for one in table)]
    others = [name for name in varying if name not in numbers]
    if not numbers or len(numbers) > 2 or (len(numbers) == 2 and others):
        raise ValueError(
            f"a plot needs one or two numbers that vary, and this sweep varies {', '.join(varying) or 'nothing'}; plot "
            "from result.table"
        )
    if ax is None:
        ax = new_figure(6.4, 4.0).add_subplot()
    if len(numbers) == 2:
        heat_map(ax, table, _comparable(result), numbers, result.best_params_, f"{_label(result)}; ○ chosen")
    else:
        _curves(result, numbers[0], others, ax)
    return ax


def new_figure(width: float, height: float) -> Any:
    """An empty figure; width and height are in inches.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plots need matplotlib ({error}); pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(result: Any) -> Any:
    """Mean scores, with NaN for candidates that halving dropped: they were trained for fewer epochs."""
    return np.where((result.trials.status == "halved").any(axis=0), np.nan, result.mean_scores_)


def _label(result: Any) -> str:
    return f"{result.scoring}, negated" if "loss" in result.scoring else result.scoring


def _curves(result: Any, name: str, others: list[str], ax: Any) -> None:
    lines: dict[str, list[int]] = {}
    for k, one in enumerate(result.candidates):
        lines.setdefault(
            ", ".join(f"{other} = {textwrap.shorten(str(one.get(other)), 30)}" for other in others), []
        ).append(k)
    means, errors = _comparable(result), result.standard_errors_
    for label, members in lines.items():
        # C = inf cannot be drawn
        drawn = (k for k in members if np.isfinite([means[k], result.candidates[k][name]]).all())
        order = sorted(drawn, key=lambda k: result.candidates[k][name])
        x = [result.candidates[k][name] for k in order]
        bars = None if result.n_splits_ < 2 else errors[order]
        ax.errorbar(x, means[order], bars, marker="o", markersize=3, capsize=2, linewidth=1, label=label or None)
    best = result.best_index_
    ax.plot(
        result.candidates[best][name], means[best], "o", color="black", fillstyle="none", markersize=10,
        label=f"chosen: {textwrap.shorten(describe_candidate(result.candidates[best]), 50)}",
    )  # fmt: skip
    values = [one[name] for one in result.candidates if np.isfinite(one[name])]
    if min(values) > 0 and max(values) > LARGE * min(values):
        ax.set_xscale("log")
    held_out = f"mean of {result.n_splits_} folds, ± a standard error" if result.n_splits_ > 1 else "on held-out rows"
    ax.set(xlabel=name, ylabel=f"{_label(result)} ({held_out})")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def heat_map(ax: Any, candidates: Any, scores: Any, names: list[str], best: Any, title: str) -> None:
    """Draw scores over two parameters, `names` (across, up), with a ring around the best candidate."""
    x, y = names
    columns, rows = (sorted({one[name] for one in candidates}) for name in names)
    grid = np.full((len(rows), len(columns)), np.nan)
    for one, score in zip(candidates, scores, strict=True):
        grid[rows.index(one[y]), columns.index(one[x])] = score
    image = ax.imshow(grid, origin="lower", aspect="auto", cmap="viridis")
    for color, width in (("black", 4), ("white", 1.5)):  # visible on dark and on bright colours
        ax.plot(
            columns.index(best[x]), rows.index(best[y]), "o", color=color, fillstyle="none", markersize=12,
            markeredgewidth=width,
        )  # fmt: skip
    ax.set_xticks(range(len(columns)), [f"{value:.3g}" for value in columns], rotation=45, ha="right")
    ax.set_yticks(range(len(rows)), [f"{value:.3g}" for value in rows])
    ax.set(xlabel=x, ylabel=y, title=title)
    ax.figure.colorbar(image, ax=ax)
