"""The parts of gpusoftmax below its public API that the benchmarks call, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpusoftmax import reference, resolve
from gpusoftmax.array import Backend, default_threads
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.objective.objective import Objective
from gpusoftmax.search.sweep import sweep
from gpusoftmax.solvers import LBFGS
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import train

__all__ = ["LBFGS", "SGD", "Backend", "BatchPlan", "Objective", "backend_for", "default_threads", "softmax",
           "sweep_over_C", "train"]  # fmt: skip


def backend_for(name: str, threads: int | None = None) -> Backend:
    """The backend of this name."""
    return resolve(name, threads)


def softmax(
    backend: Backend, X: Any, y: Any, n_classes: int, l2: Any, shift: Any = None, scale: Any = None
) -> Objective:
    """The softmax objective over X (n, d), which is on the backend's device already, with l2 (K,)."""
    return Objective(
        features=DenseFeatures(X, backend, shift, scale),
        labels=backend.asarray(y.astype(np.int32)),
        n_classes=n_classes,
        weights=None,
        l2=backend.asarray(np.asarray(l2)),
        loss=reference.LOSSES.index("softmax"),
    )


def sweep_over_C(X: Any, y: Any, Cs: Sequence[float], **options: Any) -> Any:
    """`gpusoftmax.sweep` over values of C."""
    return sweep(X, y, {"C": list(Cs)}, **options)
