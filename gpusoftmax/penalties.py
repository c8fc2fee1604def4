"""The penalties: value, gradient, proximal operator, strong convexity. Everything else asks this module about them.

A penalty is added to the mean loss. It acts on weights W (d, K, c) of K models and, where it says so, on the
intercepts b (K, c). Penalties are chosen in the coordinates of the user's features; solvers work in scaled ones, where
feature p may have a factor r_p of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpusoftmax._typing import Array


@dataclass(frozen=True)
class L2:
    """The squared norm of each model's weights.

        g_k(W, b) = (l2_k / 2) (sum_p r_p ||W_pk||^2 + ||b_k||^2),    the last term only with `on_intercept`

    Attributes
    ----------
    strengths : ndarray of float64, (K,)
        l2 of each model, not negative; on the device, like factors.
    factors : ndarray of float64, (d,), optional
        r; all ones by default.
    on_intercept : bool
        Whether the intercepts are penalised.
    """

    strengths: Array
    factors: Array | None = None
    on_intercept: bool = False

    def value(self, W: Array, b: Array) -> Array:
        """g (K,), float64."""
        norm = (W * self._times_factors(W)).sum(axis=(0, 2), dtype=np.float64)
        if self.on_intercept:
            norm += (b * b).sum(axis=1, dtype=np.float64)
        value: Array = 0.5 * self.strengths * norm
        return value

    def add_gradient(self, W: Array, b: Array, dW: Array, db: Array) -> None:
        """dW += l2 r W, and db += l2 b with `on_intercept`; in the type of W."""
        l2 = self.strengths.astype(W.dtype)[:, None]
        dW += l2 * self._times_factors(W)
        if self.on_intercept:
            db += l2 * b

    def prox(self, W: Array, b: Array, step: Array) -> tuple[Array, Array]:
        """The proximal operator, for steps (K,): argmin over V, v of g(V, v) + (||V - W||^2 + ||v - b||^2) / (2 step).

        For this penalty W_pk / (1 + step_k l2_k r_p), and b_k / (1 + step_k l2_k) with `on_intercept`.
        """
        shrink = step * self.strengths
        r = 1.0 if self.factors is None else self.factors[:, None]
        shrunk = (W / (1 + shrink * r)[..., None]).astype(W.dtype)
        return shrunk, (b / (1 + shrink)[:, None]).astype(b.dtype) if self.on_intercept else b

    def strong_convexity(self) -> Array:
        """mu (K,): g is mu-strongly convex in the norm that `squared_dual_norm` is dual to."""
        return self.strengths

    def squared_dual_norm(self, dW: Array, db: Array) -> Array:
        """sum_p ||dW_pk||^2 / r_p, and + ||db_k||^2 with `on_intercept`; (K,) float64.

        With strong convexity mu it bounds the distance from the optimum: f - f* <= squared_dual_norm / (2 mu).
        """
        squares = (dW * dW).sum(axis=2, dtype=np.float64)
        if self.factors is not None:
            squares = squares / self.factors[:, None]
        total: Array = squares.sum(axis=0)
        if self.on_intercept:
            total = total + (db * db).sum(axis=1, dtype=np.float64)
        return total

    def diagonal(self, d: int) -> Array:
        """r (d,), or (d + 1,) with `on_intercept`, whose 1 comes last: the Hessian of g_k is l2_k diag(r); on the host.

        The arrays have to be on the host, see `moved`.
        """
        factors = np.ones(d) if self.factors is None else self.factors
        return np.append(factors, 1.0) if self.on_intercept else factors

    def largest_curvature(self) -> Array:
        """The largest eigenvalue of the Hessian with respect to W, (K,)."""
        return self.strengths if self.factors is None else self.strengths * self.factors.max()

    def moved(self, move: Callable[[Array], Array]) -> L2:
        """The same penalty with its arrays on another device."""
        return replace(
            self, strengths=move(self.strengths), factors=None if self.factors is None else move(self.factors)
        )

    def with_strengths(self, strengths: Array) -> L2:
        """The same penalty for models of these strengths (K,)."""
        return replace(self, strengths=strengths)

    def _times_factors(self, W: Array) -> Array:
        """r W."""
        return W if self.factors is None else self.factors.astype(W.dtype)[:, None, None] * W
