"""From what a user passes to features: the checks of X, the kind of features, and the rows that have a weight."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, gpu_of
from gpusoftmax.checks.arrays import by_rows, check_features
from gpusoftmax.checks.sparse import check_sparse, is_sparse
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.cpu import facts
from gpusoftmax.cuda.copying import upload_rows
from gpusoftmax.cuda.memory import has_room
from gpusoftmax.features.base import Features
from gpusoftmax.features.cluster import ClusterFeatures
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.features.sparse import SparseFeatures, SparseMatrix
from gpusoftmax.features.streamed import StreamedFeatures
from gpusoftmax.rows.file_rows import Rows


def read_features(X: Any, backend: Backend, name: str = "X") -> Features:
    """Check a user's X and turn it into features on the backend's device; see `read_matrix`.

    Here, and nowhere else, the kind of features is chosen.
    """
    if isinstance(X, ClusterRows):
        return ClusterFeatures(X, backend)
    if isinstance(X, Rows):
        return _from_files(X, backend)
    if is_sparse(X):
        return SparseFeatures(SparseMatrix(check_sparse(X, name), backend), backend)
    return DenseFeatures(read_matrix(X, backend, name), backend)


def _from_files(X: Rows, backend: Backend) -> Features:
    """Make features of rows in files; on a GPU, they are copied there once if they fit.

    The results have the same bits either way.
    """
    if backend.gpu is not None and has_room(X, backend.ops):
        return DenseFeatures(upload_rows(X), backend)
    return StreamedFeatures(X, backend)


def read_matrix(X: Any, backend: Backend, name: str = "X") -> Array:
    """Check a user's X on the device that holds it, then move it to the backend's device if necessary.

    Returns
    -------
    ndarray, (n, d)
        In the type of X, if it is one that is read in place; else in float32 or float64.

    Raises
    ------
    ValueError, TypeError
        X is not a matrix of numbers; the message says what it is and what to pass.
    MemoryError
        X does not fit into the GPU's memory.
    """
    return backend.asarray(check_features(X, name, np.asarray if gpu_of(X) is None else backend.asarray))


def compile_kernels(X: Any, backend: Backend, n_classes: int) -> float:
    """Compile the kernels for gradients of the softmax loss and for scores, by computing both for the first row of X.

    Returns the seconds that this took; 0 on the CPU if nothing had to be compiled, since Numba caches kernels on disk.
    """
    uses_numba = backend.name == "cpu"  # other backends need no import of Numba, which takes a while
    started, before = time.perf_counter(), facts.compilations() if uses_numba else 0
    with backend.active():
        features = read_features(by_rows(X)[:1], backend)
        W = backend.xp.zeros((features.d, 1, n_classes), features.dtype)
        b = backend.xp.zeros((1, n_classes), features.dtype)
        features.gradient(backend.asarray(np.zeros(1, np.int32)), W, b, None, 0)
        features.scores(W, b)
        backend.synchronize()
    nothing_compiled = backend.gpu is None and (not uses_numba or facts.compilations() == before)
    return 0.0 if nothing_compiled else time.perf_counter() - started


def rows_with_weight(weights: Array | None, rows: Array | None = None) -> Array | None:
    """Numbers of those rows that have a non-zero weight for at least one model.

    Other rows are left out altogether. Multiplying their losses by 0 would not be enough: they would still be drawn
    into samples and minibatches, and 0 times an infinite loss is NaN.

    Parameters
    ----------
    weights : ndarray, (n,) or (n, K), or None
        Weights of all stored rows, on the host.
    rows : ndarray of int64, optional
        The rows to choose from; all stored rows by default.

    Returns
    -------
    ndarray of int64, or None
        `rows` itself, even None, if no weight is zero or there are no weights.
    """
    if weights is None:
        return rows
    has_weight: Array = (weights.reshape(len(weights), -1) != 0).any(axis=1)
    if has_weight.all():
        return rows
    return np.flatnonzero(has_weight) if rows is None else rows[has_weight[rows]]
