"""What the features of a data set can do, whatever holds them: the one thing that the rest of the library knows of X.

An objective, a solver or an estimator asks for gradients, losses, scores, moments and samples of rows; only here is it
known that X is a dense array on some device. Another kind of features (sparse, streamed) is one more class.

Features are seen through a shift and a scale that are never applied to them. With x' = (x - shift) / scale, scores are

    x' W + b = x W' + b',    W' = W / scale,    b' = b - (shift / scale) W

so weights are folded once per pass, and a gradient dW' with respect to W' is unfolded once:
dW = (dW' - shift db) / scale. X stays uint8 or float16 and is neither copied nor standardised in memory.

Shapes: X (n, d), W (d, K, c), b (K, c), labels (n,), weights (n, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.operations import SgdSteps


class Features(ABC):
    """Rows of features, all or some of those that are stored, seen through a shift and a scale.

    A row keeps its number among all stored rows, whichever are selected; labels and weights are those of all of them.

    Attributes
    ----------
    backend : Backend
        Who computes, and where.
    shift, scale : ndarray of float64, (d,), or None
        On the device. A scale may be infinite: nothing is seen of that feature, and its weights count as zero.
    rows : ndarray of int64, or None
        The numbers of the selected rows, on the device; None: all.
    """

    backend: Backend
    shift: Array | None
    scale: Array | None
    rows: Array | None

    @property
    @abstractmethod
    def n_stored(self) -> int:
        """How many rows are stored."""

    @property
    @abstractmethod
    def d(self) -> int:
        """How many features a row has."""

    @property
    @abstractmethod
    def dtype(self) -> type[np.floating[Any]]:
        """The type of computation: float64 or float32."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that the stored features take."""

    @abstractmethod
    def select(self, rows: Array | None) -> Self:
        """The features of some rows, by their numbers (int64, on the host or the device); None: all stored rows."""

    @abstractmethod
    def seen_through(self, shift: Array | None, scale: Array | None) -> Self:
        """The same rows with another shift and scale (float64, on the host or the device)."""

    @abstractmethod
    def sample(self, rows: Array) -> Array:
        """Scaled features of the rows with these numbers: float64, C-contiguous, on the host."""

    @abstractmethod
    def moments(self, weights: Array | None, origin: int | None) -> tuple[Array, Array]:
        """Weighted mean and variance of each column, as stored; see `operations.Operations.column_moments`."""

    @abstractmethod
    def label_sums(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> tuple[Array, Array]:
        """Sums over rows of features times what their soft labels add; see `operations.Operations.label_sums`."""

    @abstractmethod
    def gradient(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Losses, correct counts, dW' and db at folded weights; see `operations.Operations.linear_gradient`.

        `rows`, numbers of a minibatch's rows on the device, take the place of the selected ones.
        """

    @abstractmethod
    def losses(self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        """Losses and correct counts at folded weights; see `operations.Operations.linear_losses`."""

    @abstractmethod
    def scores(self, W: Array, b: Array) -> Array:
        """Scores (n, K, c) at folded weights."""

    @abstractmethod
    def probabilities(self, W: Array, b: Array) -> Array:
        """The softmax of the scores, (n, K, c)."""

    @abstractmethod
    def best(self, W: Array, b: Array) -> Array:
        """The first class with the largest score, (n, K); see `operations.Operations.linear_best`."""

    @abstractmethod
    def sgd_steps(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any, batches: list[Any],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        """Several steps of SGD in one call, where the back end has that; see `operations.SgdStretch`."""

    @abstractmethod
    def check_finite(self, name: str = "X") -> None:
        """Raise a ValueError that names the first NaN or infinity, by row and column, if there is one."""

    @abstractmethod
    def largest(self, column: int) -> tuple[int, float]:
        """The row with the largest absolute value in a column, and that value."""

    @abstractmethod
    def pass_bytes(self, K: int, c: int) -> int:
        """Memory that a pass takes at most beside the features and the weights."""

    @property
    def n(self) -> int:
        """How many rows are selected."""
        return self.n_stored if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_stored, d)."""
        return self.n_stored, self.d

    def numbers(self, places: Array) -> Array:
        """The numbers of the rows at some places [0, n) among the selected ones; on the host."""
        return places if self.rows is None else self.backend.to_numpy(self.rows)[places]

    def fold(self, W: Array, b: Array) -> tuple[Array, Array]:
        """W' and b' for the features as they are stored, from W and b of the scaled ones."""
        folded = W if self.scale is None else (W / self.scale[:, None, None]).astype(self.dtype)
        if self.shift is None:
            return folded, b
        offset = self.shift if self.scale is None else self.shift / self.scale
        # in float64: for pixels around 120 the two terms are far larger than their difference
        product = (offset @ W.reshape(self.d, -1).astype(np.float64)).reshape(b.shape)
        return folded, (b - product).astype(self.dtype)

    def unfold(self, dW: Array, db: Array) -> Array:
        """The gradient with respect to W from that with respect to W', which is overwritten, and db."""
        if self.shift is not None:
            dW -= self.shift.astype(dW.dtype)[:, None, None] * db
        if self.scale is not None:
            dW /= self.scale.astype(dW.dtype)[:, None, None]
        return dW

    def scaled_weights(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """W (d, c) and b (c,) of the scaled features from (c, d) and (c,) of the stored ones; float64, on the host.

        Weights of features with an infinite scale are zero; their share of the scores goes into b.
        """
        b = intercept if self.shift is None else intercept + coef @ self.backend.to_numpy(self.shift)
        if self.scale is None:
            return coef.T, b
        scale = self.backend.to_numpy(self.scale)
        return coef.T * np.where(np.isfinite(scale), scale, 0.0)[:, None], b
