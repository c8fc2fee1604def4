"""The interface of a backend: the operations that each must have, and one that is optional.

This module holds types only. Backends and their callers import it; it imports neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.penalties import L2


class Operations(Protocol):
    """The fused operations that every backend has.

    Arrays are on the backend's device. X (n, d) is float64, float32, float16, bfloat16 (as bits in uint16) or uint8,
    with any strides; W (d, K, c) and b (K, c) are float64 for float64 X, else float32; labels (n,) are int32 in [0, c);
    weights (n, K) have the type of W, or are None for all ones; loss is the code of one of `losses.LOSSES`. Sums are
    over rows, not means; losses and correct counts are float64. `rows` are int64 indices of the rows of X to use, in
    that order; None means all rows. Labels and weights always cover all rows. Arguments are not checked.
    """

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Compute losses, correct counts and gradients in one pass over X, or over `rows`.

        Returns losses (K,) = sum_i s_ik loss_ik; correct (K,) = sum of s_ik over the rows whose largest score (the
        first, if several are equal) is the target's; dW (d, K, c) = sum_i s_ik x_i g_ik; db (K, c) = sum_i s_ik g_ik.
        Here g is the gradient of the loss with respect to the scores x_i W_k + b_k.
        """

    def linear_losses(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any]:
        """Compute only the losses and correct counts of `linear_gradient`."""

    def linear_scores(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Scores (n, K, c) = x_i W_k + b_k. On the CPU a row's bits do not depend on the rows after it."""

    def linear_probabilities(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Softmax of each row's scores, (n, K, c)."""

    def linear_best(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Index of the first class with the largest score, (n, K) int32; -1 if NaN or infinite scores leave none."""

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Replace scores Z (m, K, c) by s_ik g_ik; returns losses (K,) and correct (K,) as in `linear_gradient`."""

    def column_moments(self, X: Any, weights: Any, rows: Any = None, origin: int | None = None) -> tuple[Any, Any]:
        """Weighted mean (d,) and variance (d,) of the columns of X, float64; weights (n,) or None.

        The features of one row are subtracted before squaring, so that the digits do not cancel. It is the first row,
        or the row with the number `origin` in X, for callers whose first row has almost no weight.
        """

    def label_sums(
        self, X: Any, labels: Any, weights: Any, class_weight: Any, proportions: Any, rows: Any = None
    ) -> tuple[Any, Any]:
        """Sum the differences between hard and soft labels over the rows, with and without the features; in float64.

        Returns sum_i s_i x_i (e_{y_i} - p_i)', (d, c), and sum_i s_i (e_{y_i} - p_i), (c,), where
        p_ij = P_ij w_j / sum_k P_ik w_k, with proportions P (n, c), of any floating type and strides, and class_weight
        w (c,), float64. Without proportions (None), p_ij is 1 / c. The weights s (n,) must be 0 where a row's P w is 0.
        """

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        """Upper limit on the bytes that `linear_gradient` takes for n rows, with its results but without X and W."""


@dataclass(frozen=True)
class SgdSteps:
    """Settings of several SGD steps, one for each minibatch; see `solvers.SGD`.

    Attributes
    ----------
    n : int
        Number of rows of the data.
    shift, scale : ndarray of float64, (d,), or None
        Shift and scale of the features.
    penalty : L2
    weight_sums : ndarray of float64, (K,)
        Sums of the weights over all rows.
    rates : ndarray, (steps, K)
        Learning rates of the steps.
    momentum : ndarray, (K,)
    nesterov, fit_intercept : bool
    linear_term : pair of ndarray of float64, (d, K, c) and (K, c), or None
        T and t of `objective.LinearTerm`.
    """

    n: int
    shift: Array | None
    scale: Array | None
    penalty: L2
    weight_sums: Array
    rates: Array
    momentum: Array
    nesterov: bool
    fit_intercept: bool
    linear_term: tuple[Array, Array] | None = None

    def select(self, models: slice) -> SgdSteps:
        """Select some of the models."""
        return replace(
            self, penalty=self.penalty.with_strengths(self.penalty.strengths[models]),
            weight_sums=self.weight_sums[models], rates=np.ascontiguousarray(self.rates[:, models]),
            momentum=self.momentum[models],
            linear_term=self.linear_term and (self.linear_term[0][:, models], self.linear_term[1][models]),
        )  # fmt: skip


class SgdStretch(Protocol):
    """An optional capability of a backend: several SGD steps in one call.

    It helps if steps are so short that calling them one by one would take most of the time.
    """

    def sgd_steps(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any, steps: SgdSteps
    ) -> tuple[Any, Any] | None:
        """Take one step for each batch (row indices, or None for all rows); if steps are long, do nothing, return None.

        W, b and velocity (a pair of arrays of the same shapes, or None) are updated in place. Returns totals (3, K),
        the sums over the batches of the values, losses and accuracies of `Objective.value_and_gradient`, each times the
        batch's number of rows; and the values (K,) of the first step. The other arguments are those of `Operations`.
        """
