"""Dense features: a matrix as the user passed it, in any supported type and with any strides."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, gpu_of
from gpusoftmax.checks.arrays import check_features, check_finite_features
from gpusoftmax.cpu import facts
from gpusoftmax.dtypes import computation_dtype, from_bits, widen
from gpusoftmax.features.base import Features
from gpusoftmax.operations import SgdSteps


@dataclass(frozen=True)
class DenseFeatures(Features):
    """X (n_stored, d) on the device of `backend`; see `Features`."""

    X: Array
    backend: Backend
    shift: Array | None = None
    scale: Array | None = None
    rows: Array | None = None

    @property
    def n_stored(self) -> int:
        return len(self.X)

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    @property
    def dtype(self) -> type[np.floating[Any]]:
        return computation_dtype(self.X.dtype)

    @property
    def nbytes(self) -> int:
        return int(self.X.nbytes)

    def select(self, rows: Array | None) -> DenseFeatures:
        return replace(self, rows=None if rows is None else self.backend.asarray(rows))

    def seen_through(self, shift: Array | None, scale: Array | None) -> DenseFeatures:
        shift, scale = (None if one is None else self.backend.asarray(one) for one in (shift, scale))
        return replace(self, shift=shift, scale=scale)

    def in_type_of(self, other: Features) -> DenseFeatures:
        """Convert X where needed, so that the computation has the type that it has with `other` (another data set)."""
        return self if self.dtype == other.dtype else replace(self, X=from_bits(self.X).astype(other.dtype))

    def sample(self, rows: Array) -> Array:
        to_numpy = self.backend.to_numpy
        x = widen(to_numpy(self.X[self.backend.asarray(rows)]))
        if self.shift is not None:
            x -= to_numpy(self.shift)
        if self.scale is not None:
            x /= to_numpy(self.scale)
        return x

    def moments(self, weights: Array | None, origin: int | None) -> tuple[Array, Array]:
        return self.backend.ops.column_moments(self.X, weights, self.rows, origin)

    def label_sums(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> tuple[Array, Array]:
        return self.backend.ops.label_sums(self.X, labels, weights, class_weight, proportions, self.rows)

    def gradient(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        rows = self.rows if rows is None else rows
        return self.backend.ops.linear_gradient(self.X, labels, W, b, weights, loss, rows)

    def losses(self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        return self.backend.ops.linear_losses(self.X, labels, W, b, weights, loss, self.rows)

    def scores(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_scores(self.X, W, b, self.rows)

    def probabilities(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_probabilities(self.X, W, b, self.rows)

    def best(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_best(self.X, W, b, self.rows)

    def sgd_steps(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any, batches: list[Any],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        stretch = self.backend.sgd_stretch
        if stretch is None:
            return None
        batches = [self.rows if rows is None else rows for rows in batches]
        return stretch.sgd_steps(self.X, labels, W, b, weights, loss, velocity, batches, steps)

    def check_finite(self, name: str = "X") -> None:
        check_finite_features(self.backend.to_numpy(self.X), name)

    def largest(self, column: int) -> tuple[int, float]:
        x = widen(self.backend.to_numpy(self.X[:, column]))
        row = int(abs(x).argmax())
        return row, float(x[row])

    def pass_bytes(self, K: int, c: int) -> int:
        return self.backend.ops.pass_bytes(self.X.dtype, self.n, self.d, K, c)


def read_features(X: Any, backend: Backend, name: str = "X") -> DenseFeatures:
    """Check a user's X and turn it into features on the backend's device; see `read_matrix`."""
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
