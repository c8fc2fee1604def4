"""adelie's cv_grpnet as a ridge: folds and penalties are of its own choice, as many as ours."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from bench.sweeping.cases import SEED, Problem
from bench.sweeping.contenders.base import Outcome, Watch, Work


def cv(problem: Problem, watch: Watch) -> Work:
    """Cross-validation of a path."""
    import adelie as ad

    X = np.asfortranarray(problem.scaled(np.float64))
    glm = ad.glm.multinomial(y=np.eye(problem.n_classes)[problem.y])

    def work() -> Callable[[], Outcome]:
        found = ad.cv.cv_grpnet(
            X=X, glm=glm, alpha=0.0, n_threads=os.cpu_count(), min_ratio=1e-4, lmda_path_size=len(problem.Cs),
            n_folds=problem.size.folds, seed=SEED, progress_bar=False,
        )  # fmt: skip
        return lambda: Outcome({"lmdas": found.lmdas.tolist(), "best_lmda": int(found.best_idx)})

    return work
