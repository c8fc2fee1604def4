"""What a back end computes: the operations that each has, and the one that only some have.

Types alone: back ends and what is built on them import this module, which imports neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.penalties import L2


class Operations(Protocol):
    """The fused operations that every back end has, with the same names and arguments.

    Arrays are the device's own. X (n, d) is float64, float32, float16, bfloat16 (as bits in uint16) or uint8, with any
    strides; W (d, K, c) and b (K, c) are float64 for float64 X, else float32; labels (n,) int32 in [0, c); weights
    (n, K) in the type of W, or None for all ones; loss is the code of one of `losses.LOSSES`. Sums are over rows, not
    means; losses and correct counts are float64. `rows`, where an operation has it, are int64 indices of the rows of X
    that are visited, in that order; labels and weights stay those of all rows. None: all. Nothing is checked here.
    """

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """One read of X, or of `rows`.

        Returns losses (K,) = sum_i s_ik loss_ik; correct (K,) = sum of s_ik over rows whose largest score (the first
        of equals) is the target's; dW (d, K, c) = sum_i s_ik x_i g_ik; db (K, c) = sum_i s_ik g_ik, where g is the
        gradient of the loss with respect to the scores x_i W_k + b_k.
        """

    def linear_losses(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any]:
        """The losses and correct counts of linear_gradient alone."""

    def linear_scores(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Scores (n, K, c) = x_i W_k + b_k. On the CPU a row's bits do not depend on which rows follow it."""

    def linear_probabilities(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """The softmax of each row's scores, (n, K, c)."""

    def linear_best(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """The first column with the largest score, (n, K) int32; -1 where there is none: NaN or infinite scores."""

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Scores Z (m, K, c) to s_ik g_ik in place; returns losses (K,) and correct (K,) as linear_gradient does."""

    def column_moments(self, X: Any, weights: Any, rows: Any = None, origin: int | None = None) -> tuple[Any, Any]:
        """Weighted mean (d,) and variance (d,) of the columns of X, float64; weights (n,) or None.

        Squares are of differences from one row, so that they do not cancel: the first, or that with the number `origin`
        in X, if the first has next to no weight.
        """

    def label_sums(
        self, X: Any, labels: Any, weights: Any, class_weight: Any, proportions: Any, rows: Any = None
    ) -> tuple[Any, Any]:
        """sum_i s_i x_i (e_{y_i} - p_i)', (d, c), and sum_i s_i (e_{y_i} - p_i), (c,); all in float64.

        p_ij = P_ij w_j / sum_k P_ik w_k, of proportions P (n, c), of any floating type and strides, and class_weight w
        (c,), float64; 1 / c without proportions (None). s, the weights, (n,); 0 where a row's P w is 0.
        """

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        """Memory that linear_gradient takes at most for n rows of a type, its results included: bytes above X and W."""


@dataclass(frozen=True)
class SgdSteps:
    """Steps of SGD, one for each of some batches, beside the data, weights and loss; see `solvers.SGD`.

    Attributes
    ----------
    n : int
        Rows of the data.
    shift, scale : ndarray of float64, (d,), or None
        Of the features.
    penalty : L2
    weight_sums : ndarray of float64, (K,)
        Sums of all rows' weights.
    rates : ndarray, (steps, K)
        Learning rates.
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
        """The steps of some of the models."""
        return replace(
            self, penalty=self.penalty.with_strengths(self.penalty.strengths[models]),
            weight_sums=self.weight_sums[models], rates=np.ascontiguousarray(self.rates[:, models]),
            momentum=self.momentum[models],
            linear_term=self.linear_term and (self.linear_term[0][:, models], self.linear_term[1][models]),
        )  # fmt: skip


class SgdStretch(Protocol):
    """What a back end may have beside `Operations`: several steps of SGD in one call.

    It pays where steps are so short that a call for each would take most of the time.
    """

    def sgd_steps(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any, steps: SgdSteps
    ) -> tuple[Any, Any] | None:
        """One step for each of the batches (row indices, or None for all rows), or None, and no step, where steps are
        long.

        W, b and velocity (a pair like them, or None) are updated in place. Returns totals (3, K): the values, losses
        and accuracies of `Objective.value_and_gradient`, each times the batch's rows; and the values (K,) of the first
        step. The other arguments are those of `Operations`.
        """
