"""Text about a sweep: its candidates, and the report that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import describe_candidate

SHOWN = 10  # the most candidates, and the most ties, that a report lists


def describe_status(column: Array) -> str:
    """A candidate's status on its splits, in a word or two."""
    done = int((column != "").sum())
    if 0 < done < len(column):
        return f"{done} of {len(column)} splits"
    return ", ".join(dict.fromkeys(str(status) or "not tried" for status in column))


def listed(items: Sequence[str], separator: str) -> str:
    """The first SHOWN items, and how many more there are."""
    more = [f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join([*items[:SHOWN], *more])


def report(result: Any) -> str:
    """The best candidates of a SweepResult with standard errors, and a note if the best is at an edge of the grid."""
    trials, means, errors = result.trials, result.mean_scores_, result.standard_errors_
    splits = f"{result.n_splits_} splits" if result.n_splits_ > 1 else "one validation set"
    solver = "L-BFGS" if result.estimators_ and result.estimators_[0].solver == "lbfgs" else "SGD"
    lines = [f"{len(means)} configurations on {splits}, {solver}, {result.seconds_:.1f} s; score: {result.scoring}"]
    undone = int(np.isnan(means).sum())
    if result.interrupted_ and undone:
        lines.append(f"interrupted: {undone} configurations were not done")
    if result.why_no_last_fit:
        lines.append(f"interrupted: {result.why_no_last_fit}")
    if getattr(result.best_estimator_, "stop_reason_", "") == "interrupted":
        lines.append("interrupted: the best one's fit to all rows was not completed")
    width = max(len(describe_candidate(one)) for one in result.candidates)
    for k in result.order_[:SHOWN].tolist():
        error = "" if np.isnan(errors[k]) else f" ± {errors[k]:.4f}"
        measured = (
            f"{means[k]:.4f}{error}  accuracy {trials.accuracy[:, k].mean():.2%}  loss {trials.loss[:, k].mean():.4f}  "
            f"{trials.passes[:, k].mean():.0f} passes"
        )
        if np.isnan(means[k]):
            measured = describe_status(trials.status[:, k])
        mark = "*" if k == result.best_index_ else " "
        lines.append(f"{mark} {describe_candidate(result.candidates[k]):<{width}}  {measured}")
    if len(means) > SHOWN:
        lines.append(f"  and {len(means) - SHOWN} more")
    rule = "best score" if result.rule == "best" else "strongest penalty within one standard error of the best"
    lines.append(f"chosen ({rule}): {describe_candidate(result.best_params_)}")
    if result.ties_:
        lines.append(f"same score: {listed([describe_candidate(result.candidates[k]) for k in result.ties_], '; ')}")
    lines += [
        f"{name} is the {end} value that was tried: a better one may lie beyond it"
        for name, end in result.edges_.items()
    ]
    return "\n".join(lines)
