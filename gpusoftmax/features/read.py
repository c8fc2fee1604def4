"""From what a user passes to features: the checks of X, the kind of features, and the rows that count."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, gpu_of
from gpusoftmax.checks.arrays import check_features
from gpusoftmax.cpu import facts
from gpusoftmax.features.base import Features
from gpusoftmax.features.dense import DenseFeatures


def read_features(X: Any, backend: Backend, name: str = "X") -> Features:
    """Check a user's X and turn it into features on the backend's device; see `read_matrix`.

    Here, and nowhere else, the kind of features is chosen.
    """
    return DenseFeatures(read_matrix(X, backend, name), backend)


def read_matrix(X: Any, backend: Backend, name: str = "X") -> Array:
    """Check a user's X where it is, then move it to the backend's device if it is elsewhere.

    Raises
    ------
    ValueError, TypeError
        X is not a matrix of numbers; the message says what it is and what to pass.
    MemoryError
        X does not fit into the GPU's memory.
    """
    return backend.asarray(check_features(X, name, np.asarray if gpu_of(X) is None else backend.asarray))


def compile_kernels(X: Any, backend: Backend, n_classes: int) -> float:
    """Compile the kernels that passes over X need, by a pass over its first row; returns the seconds that took.

    Numba and CuPy cache compiled kernels on disk. If the CPU's kernels came from the cache, the result is 0.
    """
    numba = backend.name == "cpu"  # other backends have no use for it, and its import takes a while
    started, before = time.perf_counter(), facts.compilations() if numba else 0
    with backend.active():
        features = read_features(X[:1], backend)
        W = backend.xp.zeros((features.d, 1, n_classes), features.dtype)
        b = backend.xp.zeros((1, n_classes), features.dtype)
        features.gradient(backend.asarray(np.zeros(1, np.int32)), W, b, None, 0)
        features.scores(W, b)
        backend.synchronize()
    loaded = backend.gpu is None and (not numba or facts.compilations() == before)
    return 0.0 if loaded else time.perf_counter() - started


def rows_that_count(weights: Array | None, rows: Array | None = None) -> Array | None:
    """Numbers of the rows that have a non-zero weight for at least one model; None means all rows.

    Other rows are left out altogether. Multiplying their losses by 0 would not be enough: they would still be drawn
    into samples and minibatches, and 0 times an infinite loss is NaN.

    Parameters
    ----------
    weights : ndarray, (n,) or (n, K), or None
        Weights of all stored rows, on the host.
    rows : ndarray of int64, optional
        The rows to choose from.
    """
    if weights is None:
        return rows
    counts: Array = (weights.reshape(len(weights), -1) != 0).any(axis=1)
    if counts.all():
        return rows
    return np.flatnonzero(counts) if rows is None else rows[counts[rows]]
