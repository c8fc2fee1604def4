"""Makes one objective of those over several folds, so that their models share each pass over X."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.features.read import rows_with_weight
from gpusoftmax.objective.objective import LinearTerm, Objective


def side_by_side(objectives: list[Objective]) -> Objective:
    """Make the objective of K models, from those of one model each over some rows of the same features.

    A model's weights are 0 for all rows that it does not have; a row that it has several times has as many times its
    weight. Rows that no model has are left out.
    """
    first, backend = objectives[0], objectives[0].backend
    features, dtype = first.features.select(None), first.features.dtype
    weights: Array = np.zeros((features.n, len(objectives)), dtype)
    for k, one in enumerate(objectives):
        rows = one.features.rows
        times = 1 if rows is None else np.bincount(backend.to_numpy(rows), minlength=features.n)
        weights[:, k] = times if one.weights is None else times * backend.to_numpy(one.weights)[:, 0]
    terms = [one.linear_term for one in objectives if one.linear_term is not None]
    concatenate = backend.xp.concatenate
    return replace(
        first,
        features=features.select(rows_with_weight(weights)),
        weights=backend.asarray(weights),
        penalty=first.penalty.with_strengths(backend.asarray(np.zeros(len(objectives)))),
        linear_term=LinearTerm(
            concatenate([one.T for one in terms], axis=1), concatenate([one.t for one in terms], axis=0)
        )
        if terms
        else None,
    )
