"""The parts of gpusoftmax below its public API that the benchmarks call, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpusoftmax import SoftmaxClassifier, get_backend
from gpusoftmax.array import Backend, default_threads
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.read import read_features
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.penalties import L2
from gpusoftmax.search.sweep import sweep
from gpusoftmax.solvers import LBFGS
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import train

__all__ = ["LBFGS", "SGD", "Backend", "BatchPlan", "Objective", "backend_for", "default_threads",
           "objective_over", "sweep_over_C", "train"]  # fmt: skip


def backend_for(name: str, threads: int | None = None) -> Backend:
    """The backend of this name."""
    return get_backend(name, threads)


def objective_over(
    backend: Backend,
    X: Any,
    y: Any,
    n_classes: int,
    l2: Any,
    shift: Any = None,
    scale: Any = None,
    loss: str = "softmax",
) -> Objective:
    """The objective over X (n, d), dense or sparse, with l2 (K,)."""
    return Objective(
        features=read_features(X, backend).with_scaling(shift, scale),
        labels=backend.asarray(y.astype(np.int32)),
        n_classes=n_classes,
        weights=None,
        penalty=L2(backend.asarray(np.asarray(l2))),
        loss=LOSSES[loss],
    )


def sweep_over_C(X: Any, y: Any, Cs: Sequence[float], parameters: dict[str, Any], **options: Any) -> Any:
    """`gpusoftmax.sweep` over values of C, of a SoftmaxClassifier with these parameters."""
    return sweep(SoftmaxClassifier(**parameters), {"C": list(Cs)}, X, y, **options)
