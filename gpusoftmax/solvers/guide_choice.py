"""Chooses the guides of a fit by its shape, and starts them."""

from __future__ import annotations

from typing import Any

from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.guides import Guides
from gpusoftmax.solvers.newton import HostRows, Newton
import os

def guided_start(objective: Objective, x: Any) -> tuple[Any, Guides]:
    """Return the points where training starts, (d + 1, K, c), and the guides of the models.

    A guide that begins at zero weights may move them; x is not changed.
    """
    if objective.loss.has_curvature and not objective.features.is_sparse and not os.environ.get("NO_NEWTON"):
        rows = HostRows.of(objective)
        return x, Guides([Newton(rows, k) for k in range(objective.n_models)])
    return x, Guides([None] * objective.n_models)
