"""Plots of a sweep's results: curves with standard errors, or a heat map."""

from __future__ import annotations

import textwrap
from typing import Any, Self

import numpy as np

from gpusoftmax.checks.messages import describe_candidate
from gpusoftmax.plots.figures import axes_for

LARGE = 10.0  # a parameter's axis is logarithmic if the ratio of its largest and smallest value exceeds this


class SweepDisplay:
    """The mean scores of a sweep: a curve with standard errors over one number, a heat map over two.

    Parameters that vary but are not numbers give a curve for each combination of their values.

    Parameters
    ----------
    result : SweepResult

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, load_digits, sweep
    >>> from gpusoftmax.plots import SweepDisplay
    >>> digits = load_digits()
    >>> result = sweep(SoftmaxClassifier(), {"C": [1e-3, 1e-2, 0.1, 1]}, *digits.parts["train"], cv=5)
    >>> display = SweepDisplay.from_result(result)
    """

    def __init__(self, result: Any) -> None:
        self.result = result

    @classmethod
    def from_result(cls, result: Any, *, ax: Any = None) -> Self:
        """Plot a result of `sweep`.

        Parameters
        ----------
        result : SweepResult
        ax : matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        SweepDisplay

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            No number varies, or too many parameters do.
        """
        return cls(result).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            No number varies, or too many parameters do.
        """
        result, table = self.result, self.result.candidates
        numbers, others = what_varies(table)
        varying = [*numbers, *others]
        if not numbers or len(numbers) > 2 or (len(numbers) == 2 and others):
            raise ValueError(
                f"a plot needs one or two numbers that vary, and this sweep varies {', '.join(varying) or 'nothing'}; "
                "plot from result.table"
            )
        self.ax_ = axes_for(ax)
        self.figure_ = self.ax_.figure
        if len(numbers) == 2:
            title = f"{score_label(result)}; ○ chosen"
            heat_map(self.ax_, table, _comparable(result), numbers, result.best_params_, title)
        else:
            _curves(result, numbers[0], others, self.ax_)
        return self


def what_varies(candidates: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The parameters with more than one value: those whose values are all numbers, and the others."""
    names = list(dict.fromkeys(name for one in candidates for name in one))
    varying = [name for name in names if len({repr(one.get(name)) for one in candidates}) > 1]
    numbers = [name for name in varying if all(_is_number(one.get(name)) for one in candidates)]
    return numbers, [name for name in varying if name not in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(result: Any) -> Any:
    """Mean scores, with NaN for candidates that halving dropped: they were trained for fewer epochs."""
    return np.where((result.trials.status == "halved").any(axis=0), np.nan, result.mean_scores_)


def score_label(result: Any) -> str:
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
    ax.set(xlabel=name, ylabel=f"{score_label(result)} ({held_out})")
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
