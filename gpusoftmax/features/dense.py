"""What X is: a dense matrix as the user gave it, seen through a shift and a scale that are never applied to it.

With x' = (x - shift) / scale, scores are x' W + b = x W' + b', where W' = W / scale and b' = b - (shift / scale) W.
So weights are folded once per pass, and a gradient dW' with respect to W' is unfolded once:
dW = (dW' - shift db) / scale. X stays uint8 or float16 and is neither copied nor standardised in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax.array import Backend
from gpusoftmax.dtypes import computation_dtype, widen

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DenseFeatures:
    """Rows of X, all or those that `rows` (int64) names, with shift and scale (d,) float64 or None; all on the device
    of `backend`. A row is known by its number in X, whichever rows there are."""

    X: Array
    backend: Backend
    shift: Array | None = None
    scale: Array | None = None
    rows: Array | None = None

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(self.X if self.rows is None else self.rows)

    @property
    def d(self) -> int:
        """Features."""
        return int(self.X.shape[1])

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The type of computation."""
        return computation_dtype(self.X.dtype)

    def fold(self, W: Array, b: Array) -> tuple[Array, Array]:
        """W (d, K, c) and b (K, c) of the scaled features, as W' and b' for X as it is."""
        folded = W if self.scale is None else (W / self.scale[:, None, None]).astype(self.dtype)
        if self.shift is None:
            return folded, b
        offset = self.shift if self.scale is None else self.shift / self.scale
        # in float64: for pixels around 120 the two terms are far larger than their difference
        product = (offset @ W.reshape(self.d, -1).astype(np.float64)).reshape(b.shape)
        return folded, (b - product).astype(self.dtype)

    def unfold(self, dW: Array, db: Array) -> Array:
        """The gradient with respect to W from that with respect to W' (overwritten) and db."""
        if self.shift is not None:
            dW -= self.shift.astype(dW.dtype)[:, None, None] * db
        if self.scale is not None:
            dW /= self.scale.astype(dW.dtype)[:, None, None]
        return dW

    def numbers(self, places: Array) -> Array:
        """The numbers in X of the rows at some places [0, n); on the host."""
        return places if self.rows is None else self.backend.to_numpy(self.rows)[places]

    def scaled(self, rows: Array) -> Array:
        """Scaled features of the rows with these numbers, float64 on the host."""
        to_numpy = self.backend.to_numpy
        x = widen(to_numpy(self.X[self.backend.asarray(rows)]))
        if self.shift is not None:
            x -= to_numpy(self.shift)
        if self.scale is not None:
            x /= to_numpy(self.scale)
        return x


def rows_that_count(weights: Array | None, rows: Array | None = None) -> Array | None:
    """The rows (their numbers in X; None for all) that have a weight other than 0, for some model at least.

    The rest is not visited. To multiply its losses by 0 would not do: it would still have a part in samples and
    minibatches, and 0 times what overflows is not 0.

    Parameters
    ----------
    weights : ndarray, (n,) or (n, K), or None
        Of all rows of X, on the host.
    rows : ndarray of int64, optional
        Those that are asked for.
    """
    if weights is None:
        return rows
    counts: Array = (weights.reshape(len(weights), -1) != 0).any(axis=1)
    if counts.all():
        return rows
    return np.flatnonzero(counts) if rows is None else rows[counts[rows]]
