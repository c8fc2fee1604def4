"""Dense features: a matrix as the user passed it, in any supported type and with any strides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_finite_features
from gpusoftmax.dtypes import computation_dtype, from_bits, widen
from gpusoftmax.features.base import Features
from gpusoftmax.operations import SgdSteps

CHECKED_ROWS = 4096  # copied from a GPU at a time, if not finite: the host may not have room for all of X


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

    def with_scaling(self, shift: Array | None, scale: Array | None) -> DenseFeatures:
        shift, scale = (None if one is None else self.backend.asarray(one) for one in (shift, scale))
        return replace(self, shift=shift, scale=scale)

    def in_type_of(self, other: Features) -> DenseFeatures:
        return self if self.dtype == other.dtype else replace(self, X=from_bits(self.X).astype(other.dtype))

    def sample(self, rows: Array, dtype: Any = np.float64) -> Array:
        return self.backend.to_numpy(self.sample_on_device(rows, dtype))

    def sample_on_device(self, rows: Array, dtype: Any = np.float64) -> Any:
        x = from_bits(self.X[self.backend.asarray(rows)])
        x = self.backend.xp.ascontiguousarray(x, dtype=dtype)
        if self.shift is not None:
            x -= self.shift.astype(x.dtype)
        if self.scale is not None:
            x /= self.scale.astype(x.dtype)
        return x

    def copied(self, rows: Array) -> DenseFeatures:
        stored = self.X[self.backend.asarray(rows)]
        return DenseFeatures(self.backend.asarray(stored), self.backend, self.shift, self.scale)

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
        step = self.n_stored if self.backend.gpu is None else CHECKED_ROWS
        for first in range(0, self.n_stored, max(step, 1)):
            part = self.X[first : first + step]
            if not (self.backend.queues_work and self.backend.xp.isfinite(from_bits(part)).all()):
                check_finite_features(self.backend.to_numpy(part), name, first)

    def largest(self, column: int) -> tuple[int, float]:
        x = widen(self.backend.to_numpy(self.X[:, column]))
        row = int(abs(x).argmax())
        return row, float(x[row])

    def column_products(self, Q: Array, squared: bool = False) -> Array:
        return self.backend.ops.column_products(self.X, Q, squared, self.rows)

    def gram_of_columns(self, columns: Array, weights: Array, smallest: float) -> Array:
        used = np.flatnonzero(weights > smallest)
        numbers = self.backend.asarray(self.row_numbers(used))
        x = widen(self.backend.to_numpy(self.X[numbers])[:, columns])
        return np.asarray((x * weights[used][:, None]).T @ x)

    def pass_cost(self, c: int) -> float:
        return 4.0 * self.n * self.d * c

    def pass_bytes(self, K: int, c: int) -> int:
        return self.backend.ops.pass_bytes(self.X.dtype, self.n, self.d, K, c)
