"""The `Features` interface: what the rest of the library can ask of X, however X is stored.

Objectives, solvers and estimators ask for gradients, losses, scores, moments and samples of rows. Only this folder
knows how X is stored. Another kind of features (say streamed ones) starts as one more subclass; CONTRIBUTING.md lists
what else it needs, under "Where would I add ...?".

Features have a shift and a scale, which are never applied to X itself. With x' = (x - shift) / scale, scores are

    x' W + b = x W' + b',    W' = W / scale,    b' = b - (shift / scale) W

so the weights are folded once per pass over the data, and the gradient dW' with respect to W' is unfolded once:
dW = (dW' - shift db) / scale. X stays uint8 or float16; no standardised copy of it is made.

Shapes: X (n, d), W (d, K, c), b (K, c), labels (n,), weights (n, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from gpusoftmax import epilogue
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.operations import SgdSteps
from gpusoftmax.penalties import L2


class Features(ABC):
    """All or some of the stored rows of X, with the shift and the scale of each feature.

    Row numbers index the stored rows, even if only some are selected. Labels and weights, too, cover all stored rows.

    Attributes
    ----------
    is_sparse : bool
        Whether X is stored as a sparse matrix. A sample of rows then misses most of the features.
    has_minibatches : bool
        Whether minibatches can be taken of the rows, as SGD does.
    backend : Backend
        The backend that does the computing; all arrays are on its device.
    shift, scale : ndarray of float64, (d,), or None
        On the device. A feature with an infinite scale is dropped: its scaled values are zero, and its weights have no
        effect (folded they are W / inf = 0).
    rows : ndarray of int64, or None
        Numbers of the selected rows, on the device; None means all rows.
    """

    is_sparse: ClassVar[bool] = False
    has_minibatches: ClassVar[bool] = True
    backend: Backend
    shift: Array | None
    scale: Array | None
    rows: Array | None

    @property
    @abstractmethod
    def n_stored(self) -> int:
        """Number of stored rows."""

    @property
    @abstractmethod
    def d(self) -> int:
        """Number of features in a row."""

    @property
    @abstractmethod
    def dtype(self) -> type[np.floating[Any]]:
        """Type of the computation: float64 or float32."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the stored features take."""

    @property
    def note(self) -> str:
        """What a user should know about how results were computed; empty if nothing is unusual."""
        return ""

    @abstractmethod
    def select(self, rows: Array | None) -> Self:
        """Return these features with other rows selected: row numbers (m,), int64, on the host or the device.

        None selects all stored rows. Any earlier selection is replaced.
        """

    @abstractmethod
    def with_scaling(self, shift: Array | None, scale: Array | None) -> Self:
        """Return these features with another shift and scale, (d,) float64 or None, on the host or the device.

        The selection of rows is kept.
        """

    @abstractmethod
    def in_type_of(self, other: Features) -> Self:
        """Convert X if needed, so that these features (another data set) are computed in the type of `other`."""

    @abstractmethod
    def sample(self, rows: Array, dtype: Any = np.float64) -> Array:
        """Copy the rows with these numbers (m,) to the host, shifted and scaled: (m, d) of `dtype`, C-contiguous.

        In float32, a shift that is large relative to the spread of a feature adds an error to all its values alike.
        """

    def sample_on_device(self, rows: Array, dtype: Any = np.float64) -> Any:
        """Return what `sample` returns, for row numbers on the host, as an array on the device."""
        return self.backend.asarray(self.sample(rows, dtype))

    @abstractmethod
    def copied(self, rows: Array) -> Features:
        """Copy the rows with these numbers (m,), on the host, to memory: features of m rows on the same device.

        They have the shift and the scale of these.
        """

    def sample_matrix(self, rows: Array) -> Any:
        """Return what `sample` returns; as a SciPy sparse array if features are sparse, and not shifted."""
        return self.sample(rows)

    @abstractmethod
    def moments(self, weights: Array | None, origin: int | None) -> tuple[Array, Array]:
        """Weighted mean and variance of each column over the selected rows, before shift and scale: (d,) float64 each.

        See `operations.Operations.column_moments`. Sparse features do not need the `origin`.
        """

    @abstractmethod
    def label_sums(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> tuple[Array, Array]:
        """Add up the differences between hard and soft labels over the selected rows: times x, and alone.

        See `operations.Operations.label_sums`.
        """

    @abstractmethod
    def gradient(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Sums over rows at folded weights: losses and correct weights (K,), dW' (d, K, c) and db (K, c).

        See `operations.Operations.linear_gradient`; `loss` is a code of `losses.py`.

        If `rows` is given (numbers of a minibatch's rows, on the device), it replaces the selection.
        """

    @abstractmethod
    def losses(self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        """Sums of losses and correct weights (K,) at folded weights; see `operations.Operations.linear_losses`."""

    @abstractmethod
    def scores(self, W: Array, b: Array) -> Array:
        """Scores (n, K, c) at folded weights."""

    @abstractmethod
    def probabilities(self, W: Array, b: Array) -> Array:
        """Softmax of the scores, (n, K, c)."""

    @abstractmethod
    def best(self, W: Array, b: Array) -> Array:
        """Class with the largest score, the first if several are equal: (n, K) int32; -1 where it is undefined.

        See `operations.Operations.linear_best`.
        """

    @abstractmethod
    def sgd_steps(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any, batches: list[Any],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        """Take several SGD steps in one call, or return None: then they have to be taken one by one.

        It is None if the backend has no such call, or if steps are so long that it would not help; see
        `operations.SgdStretch`.
        """

    def in_parts(self, most: int) -> Iterator[Features]:
        """Go through the selected rows in order, as features of at most `most` rows each, a multiple of 64.

        What is computed for the rows of a part has the bits of what is computed for all rows.
        """
        for first in range(0, self.n, most):
            yield self.select(self.row_numbers(np.arange(first, min(first + most, self.n))))

    @property
    def shared_weight_bytes(self) -> int:
        """Bytes that the row weights of models may take so that they share passes; 0 if passes need not be shared.

        Models of different folds share a pass if each has its own weights for all rows, which are 0 outside its fold.
        That pays where most of the time of a pass goes into reading X.
        """
        return 0

    @property
    def shuffled_blocks(self) -> tuple[int, int] | None:
        """How SGD shuffles rows that it cannot take from anywhere: the rows of a block, and the blocks taken together.

        None if it can take any row at any time; see `batches.BatchPlan`.
        """
        return None

    @abstractmethod
    def check_finite(self, name: str = "X") -> None:
        """Look for NaN and infinity in all stored rows.

        Raises
        ------
        ValueError
            There is one; the message calls X `name`, and says the row and the column of the first.
        """

    @abstractmethod
    def largest(self, column: int) -> tuple[int, float]:
        """Find the entry of a column that is largest in absolute value; return its row number and its value.

        It is looked for in all stored rows, before shift and scale.
        """

    @abstractmethod
    def column_products(self, Q: Array, squared: bool = False) -> Array:
        """Compute sum_i x_i' Q_i over the selected rows, (d, columns), for Q (n, columns) on the device.

        x_i is a row before shift and scale; with `squared`, its features are squared. The result has the type of Q.
        """

    @abstractmethod
    def gram_of_columns(self, columns: Array, weights: Array, smallest: float) -> Array:
        """Compute sum_i s_i x_i x_i' over some columns (k,) of the selected rows, (k, k) float64, on the host.

        The weights s (n,), float64, are on the host, too; rows whose weight is at most `smallest` may be left out. x_i
        is a row before shift and scale. Only the lower triangle has to be right.
        """

    @abstractmethod
    def pass_cost(self, c: int) -> float:
        """Estimate the time of one model's pass over the selected rows, in flops of a matrix product."""

    @abstractmethod
    def pass_bytes(self, K: int, c: int) -> int:
        """Upper bound on the bytes that a pass over the selected rows allocates besides X and the weights."""

    @property
    def n(self) -> int:
        """Number of selected rows."""
        return self.n_stored if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the stored matrix, (n_stored, d)."""
        return self.n_stored, self.d

    def row_numbers(self, positions: Array) -> Array:
        """Convert positions among the selected rows, in [0, n), to row numbers; on the host."""
        return positions if self.rows is None else self._rows_on_host[positions]

    @cached_property
    def _rows_on_host(self) -> Array:
        """The numbers of the selected rows on the host, where they are copied once."""
        return self.backend.to_numpy(self.rows)

    def shifted_and_scaled(self, x: Array) -> Array:
        """Shift and scale some rows (m, d), float64 or float32 on the host, in place; returns them."""
        to_numpy = self.backend.to_numpy
        if self.shift is not None:
            x -= to_numpy(self.shift).astype(x.dtype)
        if self.scale is not None:
            x /= to_numpy(self.scale).astype(x.dtype)
        return x

    def fold(self, W: Array, b: Array) -> tuple[Array, Array]:
        """Convert W and b for the scaled features to W' and b' for the stored ones."""
        folded, offset = self.backend.ops.fold(W, self.shift, self.scale)
        if folded.dtype != self.dtype:
            folded = folded.astype(self.dtype)
        return folded, b if offset is None else (b - offset).astype(self.dtype)

    def unfold(self, dW: Array, db: Array) -> Array:
        """Return the gradient with respect to W, from that with respect to W' (`dW`, overwritten) and db."""
        epilogue.unfold(dW, db, self.shift, self.scale)
        return dW

    def finish_gradient(
        self, dW: Array, db: Array, W: Array, row_scale: Array, penalty: L2, T: Array | None
    ) -> tuple[Array, Array | None]:
        """Turn the sum dW over the rows, with respect to W', into the gradient of the objective, in place.

        See `operations.Operations.finish_gradient`.
        """
        return self.backend.ops.finish_gradient(dW, db, W, row_scale, self.shift, self.scale, penalty, T)

    def scaled_weights(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Convert weights (c, d) and (c,) for the stored features to W (d, c) and b (c,) for the scaled ones.

        All are float64, on the host. This undoes `fold`. A feature with an infinite scale gets weights of zero; what it
        adds to the scores where x = shift, coef * shift, is included in b.
        """
        b = intercept if self.shift is None else intercept + coef @ self.backend.to_numpy(self.shift)
        if self.scale is None:
            return coef.T, b
        scale = self.backend.to_numpy(self.scale)
        return coef.T * np.where(np.isfinite(scale), scale, 0.0)[:, None], b
