"""The losses: name, the code that kernels know them by, and curvature. Solvers and estimators ask this module.

A row with scores z (c,) and label y has the loss

    softmax        logsumexp(z) - z_y
    hinge          sum_{j != y} max(0, z_j - z_y + 1)          (Weston and Watkins, 1999)
    squared_hinge  sum_{j != y} max(0, z_j - z_y + 1)^2

CONTRIBUTING.md lists what a new loss needs, under "Where would I add ...?".
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from gpusoftmax._typing import Array


class RowHessians(Protocol):
    """Hessians C_i (c, c) of the losses of m rows with respect to their scores, each times the row's weight.

    Arrays are where the scores were that they come from.
    """

    def diagonal(self, j: int) -> Any:
        """Entry j, j of each C_i: (m,)."""

    def entries(self, j: int, k: int) -> Any:
        """Entry j, k of each C_i: (m,)."""

    def diagonals(self) -> Any:
        """The diagonal of each C_i: (m, c)."""

    def traces(self) -> Any:
        """The trace of each C_i: (m,)."""

    @property
    def factors(self) -> Any:
        """What determines C_i besides the row's weight and label: (m, c)."""

    def select(self, rows: Any, factors: Any) -> RowHessians:
        """Select some rows, and multiply each of their Hessians by a factor."""


class Loss(Protocol):
    """Properties of a loss that solvers need.

    A loss is not negative, does not change if the same number is added to all scores of a row, and has no parameters:
    kernels know it by its code alone.
    """

    @property
    def name(self) -> str:
        """Name that users pass."""

    @property
    def code(self) -> int:
        """Number that kernels know the loss by: its position in `LOSSES`."""

    @property
    def gives_probabilities(self) -> bool:
        """Whether scores are log-probabilities, up to a constant for each row."""

    @property
    def has_curvature(self) -> bool:
        """Whether the loss has useful second derivatives; the plain hinge, which is piecewise linear, has none."""

    @property
    def has_smooth_gradient(self) -> bool:
        """Whether the gradient has no kinks. The hinges' has one at a margin of 0; finite differences fail there."""

    def at_zero(self, c: int) -> float:
        """Loss of a row whose c scores are all zero."""

    def curvature_at_zero(self, c: int) -> float:
        """The kappa > 0 for which kappa I approximates a row's Hessian with respect to its scores, at zero weights.

        TypeError if the loss has no curvature.
        """

    def bound_row_hessians(self, V: Array, labels: Array) -> Array:
        """Compute U_i v_i for the rows v_i of V (m, c), where U_i bounds row i's Hessian for all scores.

        The result may be V itself.
        """

    def largest_row_curvature(self, c: int) -> float:
        """Largest eigenvalue of U_i."""

    def row_hessians(self, scores: Any, labels: Any, weights: Any, xp: ModuleType = np) -> RowHessians:
        """Hessians of rows with scores (m, c), labels (m,) and weights (m,), in the type of the scores, overwritten.

        `xp` is the module of the arrays: NumPy or CuPy. TypeError if the loss has no curvature.
        """

    def row_gradients(self, scores: Array, labels: Array) -> Array:
        """Replace scores (m, c) by the gradients of the rows' losses with respect to them; returns the scores."""


@dataclass(frozen=True)
class _SoftmaxHessians:
    """C_i = s_i (diag(p_i) - p_i p_i')."""

    weights: Array  # s (m,)
    p: Array  # (m, c)

    def diagonal(self, j: int) -> Array:
        p = self.p[:, j]
        return self.weights * (p * (1 - p))

    def entries(self, j: int, k: int) -> Array:
        return self.weights * self.p[:, j] * ((1.0 if j == k else 0.0) - self.p[:, k])

    def diagonals(self) -> Array:
        found = 1 - self.p
        found *= self.p
        found *= self.weights[:, None]
        return found

    @property
    def factors(self) -> Array:
        return self.p

    def traces(self) -> Array:
        return _sum_of_diagonals(self, self.p.shape[1])

    def select(self, rows: Array, factors: Array) -> _SoftmaxHessians:
        return _SoftmaxHessians(self.weights[rows] * factors, self.p[rows])


@dataclass(frozen=True)
class _SquaredHingeHessians:
    """C_i = 2 s_i (diag(a_i) + A_i e_y e_y' - a_i e_y' - e_y a_i').

    y is the row's label, e_y its unit vector. a_ij is 1 if class j != y violates its margin, else 0; A_i = sum_j a_ij.
    """

    weights: Array  # s (m,)
    violated: Array  # a (m, c)
    target: Array  # (m, c): 1 at the label, else 0

    def diagonal(self, j: int) -> Array:
        return self.weights * (2 * (self.violated[:, j] + self.violated.sum(axis=1) * self.target[:, j]))

    def entries(self, j: int, k: int) -> Array:
        if j == k:
            return self.diagonal(j)
        a, t = self.violated, self.target
        return -2 * self.weights * (a[:, j] * t[:, k] + a[:, k] * t[:, j])

    def diagonals(self) -> Array:
        a = self.violated
        return (2 * self.weights)[:, None] * (a + a.sum(axis=1)[:, None] * self.target)

    @property
    def factors(self) -> Array:
        return self.violated

    def traces(self) -> Array:
        return _sum_of_diagonals(self, self.violated.shape[1])

    def select(self, rows: Array, factors: Array) -> _SquaredHingeHessians:
        return _SquaredHingeHessians(self.weights[rows] * factors, self.violated[rows], self.target[rows])


def _sum_of_diagonals(hessians: RowHessians, c: int) -> Array:
    total = hessians.diagonal(0)
    for j in range(1, c):
        total += hessians.diagonal(j)
    return total


def _to_probabilities(scores: Any, xp: ModuleType = np) -> None:
    """Replace scores (m, c) by their softmax."""
    scores -= scores.max(axis=1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)


class Softmax:
    """Cross-entropy of the softmax of the scores, in nats."""

    name = "softmax"
    code = 0
    gives_probabilities = True
    has_curvature = True
    has_smooth_gradient = True

    def at_zero(self, c: int) -> float:
        """ln c."""
        return float(np.log(c))

    def curvature_at_zero(self, c: int) -> float:
        """1 / c: at equal probabilities the Hessian is (I - 11'/c) / c."""
        return 1.0 / c

    def bound_row_hessians(self, V: Array, labels: Array) -> Array:
        """U = (I - 11'/c) / 2, whatever the probabilities (Boehning, 1992)."""
        return (V - V.mean(axis=1, keepdims=True)) / 2

    def largest_row_curvature(self, c: int) -> float:
        """1/2."""
        return 0.5

    def row_hessians(self, scores: Any, labels: Any, weights: Any, xp: ModuleType = np) -> _SoftmaxHessians:
        """s (diag(p) - p p'), with the probabilities p."""
        _to_probabilities(scores, xp)
        return _SoftmaxHessians(weights, scores)

    def row_gradients(self, scores: Array, labels: Array) -> Array:
        """p - e_y, with the probabilities p."""
        _to_probabilities(scores)
        scores[np.arange(len(scores)), labels] -= 1
        return scores


class _MulticlassHinge:
    """What the two hinges have in common."""

    gives_probabilities = False
    has_smooth_gradient = False

    def at_zero(self, c: int) -> float:
        """c - 1: every other class violates its margin by 1."""
        return c - 1.0

    @staticmethod
    def _margins(scores: Any, labels: Any, xp: ModuleType = np) -> Any:
        """Replace scores (m, c) by the violations of margins, max(0, z_j - z_y + 1), and 0 for the label."""
        rows = xp.arange(len(scores))
        scores -= scores[rows, labels][:, None]
        scores += 1
        scores[rows, labels] = 0
        return xp.maximum(scores, 0, out=scores)


class Hinge(_MulticlassHinge):
    """The multiclass hinge."""

    name = "hinge"
    code = 1
    has_curvature = False

    def curvature_at_zero(self, c: int) -> float:
        """Raise TypeError, since there is none."""
        raise TypeError("the hinge has no curvature")

    def bound_row_hessians(self, V: Array, labels: Array) -> Array:
        """U = I. The hinge has no curvature; this only sets the size of SGD's first steps, which shrink later."""
        return V

    def largest_row_curvature(self, c: int) -> float:
        """1, the eigenvalue of U."""
        return 1.0

    def row_hessians(self, scores: Any, labels: Any, weights: Any, xp: ModuleType = np) -> RowHessians:
        """Raise TypeError, since there are none."""
        raise TypeError("the hinge has no curvature")

    def row_gradients(self, scores: Array, labels: Array) -> Array:
        """1 for each class that violates its margin, and the label's entry makes their sum zero."""
        margins = self._margins(scores, labels)
        np.copyto(margins, margins > 0)
        return _with_sum_zero(margins, labels)


class SquaredHinge(_MulticlassHinge):
    """The squared multiclass hinge."""

    name = "squared_hinge"
    code = 2
    has_curvature = True

    def curvature_at_zero(self, c: int) -> float:
        """4: the mean over labels, all as frequent, of the Hessian of a row with all margins violated, as at zero.

        With 1 for the vector of ones, a row's Hessian is 2 (I + c e_y e_y' - 1 e_y' - e_y 1'), and the mean of these is
        4 (I - 11'/c).
        """
        return 4.0

    def bound_row_hessians(self, V: Array, labels: Array) -> Array:
        """U_i: v -> 2 sum_{j != y} (v_j - v_y)(e_j - e_y), with all margins violated."""
        rows = np.arange(len(V))
        margins = V - V[rows, labels][:, None]
        margins[rows, labels] = -margins.sum(axis=1)
        return 2 * margins

    def largest_row_curvature(self, c: int) -> float:
        """2 c."""
        return 2.0 * c

    def row_hessians(self, scores: Any, labels: Any, weights: Any, xp: ModuleType = np) -> _SquaredHingeHessians:
        """2 s (diag(a) + A e_y e_y' - a e_y' - e_y a'), with the violated margins a."""
        target = xp.zeros_like(scores)
        target[xp.arange(len(scores)), labels] = 1
        margins = self._margins(scores, labels, xp)
        xp.copyto(margins, margins > 0)
        return _SquaredHingeHessians(weights, margins, target)

    def row_gradients(self, scores: Array, labels: Array) -> Array:
        """Twice each violation of a margin, and the label's entry makes their sum zero."""
        margins = self._margins(scores, labels)
        margins *= 2
        return _with_sum_zero(margins, labels)


def _with_sum_zero(gradients: Array, labels: Array) -> Array:
    """Set the entry of the label, which is zero, so that each row's sum is zero."""
    gradients[np.arange(len(gradients)), labels] = -gradients.sum(axis=1)
    return gradients


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (Softmax(), Hinge(), SquaredHinge())}
