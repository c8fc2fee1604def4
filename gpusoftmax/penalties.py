"""The penalties: value, gradient, proximal operator and strong convexity.

A penalty is added to the mean loss. It acts on the weights W (d, K, c) of K models and, on request, on the intercepts
b (K, c) of features as the user scaled them. Where SGD scales features further by itself, each feature p gets a factor
r_p, with which the penalty stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpusoftmax._typing import Array


@dataclass(frozen=True)
class L2:
    """Half the squared norm of each model's weights, times its strength l2.

        g_k(W, b) = (l2_k / 2) (sum_p r_p ||W_pk||^2 + ||b_k||^2),    the last term only if `on_intercept`

    Attributes
    ----------
    strengths : ndarray of float64, (K,)
        l2 of each model, not negative; on the device, like the factors.
    factors : ndarray of float64, (d,), optional
        r; all ones by default.
    on_intercept : bool
        Whether the intercepts are penalised.
    """

    strengths: Array
    factors: Array | None = None
    on_intercept: bool = False

    def value(self, W: Array, b: Array) -> Array:
        """Value of the penalty, g (K,), float64."""
        norm = (W * self._times_factors(W)).sum(axis=(0, 2), dtype=np.float64)
        if self.on_intercept:
            norm += (b * b).sum(axis=1, dtype=np.float64)
        value: Array = 0.5 * self.strengths * norm
        return value

    def add_gradient(self, W: Array, b: Array, dW: Array, db: Array) -> None:
        """Add the gradient in place: dW += l2 r W, and db += l2 b if `on_intercept`; in the type of W."""
        l2 = self.strengths.astype(W.dtype)[:, None]
        dW += l2 * self._times_factors(W)
        if self.on_intercept:
            db += l2 * b

    def prox(self, W: Array, b: Array, step: Array) -> tuple[Array, Array]:
        """Proximal operator for steps (K,): argmin over V, v of g(V, v) + (||V - W||^2 + ||v - b||^2) / (2 step).

        For this penalty it is W_pk / (1 + step_k l2_k r_p), and b_k / (1 + step_k l2_k) if `on_intercept`.
        """
        shrink = step * self.strengths
        r = 1.0 if self.factors is None else self.factors[:, None]
        shrunk = (W / (1 + shrink * r)[..., None]).astype(W.dtype)
        return shrunk, (b / (1 + shrink)[:, None]).astype(b.dtype) if self.on_intercept else b

    def strong_convexity(self) -> Array:
        """Constant mu (K,) of strong convexity, in the norm whose dual `squared_dual_norm` computes."""
        return self.strengths

    def squared_dual_norm(self, dW: Array, db: Array) -> Array:
        """Squared dual norm of a gradient: sum_p ||dW_pk||^2 / r_p, plus ||db_k||^2 if `on_intercept`; (K,) float64.

        With strong convexity mu, f - f* <= squared_dual_norm / (2 mu) if intercepts that are not penalised are optimal.
        """
        squares = (dW * dW).sum(axis=2, dtype=np.float64)
        if self.factors is not None:
            squares = squares / self.factors[:, None]
        total: Array = squares.sum(axis=0)
        if self.on_intercept:
            total = total + (db * db).sum(axis=1, dtype=np.float64)
        return total

    def relative_diagonal(self, d: int) -> Array:
        """Diagonal of the Hessian of g_k, divided by l2_k: r (d,), or, if `on_intercept`, (d + 1,) with a 1 at the end.

        The penalty's arrays have to be on the host; see `moved`.
        """
        factors = np.ones(d) if self.factors is None else self.factors
        return np.append(factors, 1.0) if self.on_intercept else factors

    def is_zero(self) -> Array:
        """Whether the penalty of each model is zero for all weights, (K,)."""
        zero: Array = self.strengths == 0
        return zero

    def largest_curvature(self) -> Array:
        """Largest eigenvalue of the Hessian with respect to W, (K,)."""
        return self.strengths if self.factors is None else self.strengths * self.factors.max()

    def moved(self, move: Callable[[Array], Array]) -> L2:
        """Return a copy with each array replaced by `move(array)`, for example with `Backend.to_numpy`."""
        return replace(
            self, strengths=move(self.strengths), factors=None if self.factors is None else move(self.factors)
        )

    def restricted(self, rows: slice, intercepts: bool) -> L2:
        """Return the penalty of some rows of W, and of the intercepts only if `intercepts` and `on_intercept`."""
        factors = None if self.factors is None else self.factors[rows]
        return replace(self, factors=factors, on_intercept=self.on_intercept and intercepts)

    def with_strengths(self, strengths: Array) -> L2:
        """Return a copy with other strengths, (K,)."""
        return replace(self, strengths=strengths)

    def _times_factors(self, W: Array) -> Array:
        """Multiply W by the factors: r W."""
        return W if self.factors is None else self.factors.astype(W.dtype)[:, None, None] * W
