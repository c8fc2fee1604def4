"""Chooses the guides of a fit by its shape and its preconditioners, and starts them."""

from __future__ import annotations

from typing import Any

from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import newton
from gpusoftmax.solvers.block_search import BlockSearch, is_worth_waiting
from gpusoftmax.solvers.guides import Guide, Guides
from gpusoftmax.solvers.preconditioners.base import Preconditioners
from gpusoftmax.solvers.preconditioners.gram import GramSample


def guided_start(
    objective: Objective, sample: GramSample, preconditioners: Preconditioners, x: Any
) -> tuple[Any, Guides]:
    """Return the points where training starts, (d + 1, K, c), and the guides of the models.

    A guide that begins at zero weights may move them; x is not changed.
    """
    guides: list[Guide | None] = list(newton.guides(objective))
    if newton.begins_at_once(objective):
        return x, Guides(guides, objective.features.n)
    moved, rows = x.copy(), 0
    searched = preconditioners.by_model if is_worth_waiting(objective) else []
    with objective.backend.single_threaded_blas():
        for k, preconditioner in enumerate(searched):
            others = sample.other_rows(preconditioner)
            if others is not None:
                guide = guides[k] = BlockSearch(objective, k, others)
                moved[:, k], rows = guide.start(x[:, k], preconditioner), len(others.numbers)
    return moved, Guides(guides, rows)
