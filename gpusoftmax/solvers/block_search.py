"""Block search: a guide for few classes and many features, which searches a subspace on a sample of rows.

All classes share the directions D (d + 1, w): the columns of M^-1 G at the last BLOCKS points, with G (d + 1, c) the
gradient there, and that of the intercepts. The next trial point is x + D A, with A (w, c) the minimum of

    f_S(x + D A) + <D'(grad f - grad f_S)(x), A>

f_S is the objective over a sample S of the rows, none of them among those of the preconditioner M; the second term
makes its gradient that of f. So A mixes the directions of all classes, which takes care of the part of the Hessian that
couples them, and M only has to describe the features. One pass makes a step, as with L-BFGS, and CIFAR-10 takes about
two thirds of the steps.

With Phi = X_S D, the scores of S at x + D A are Z + Phi A, so that the search needs no product with X. D is orthonormal
in kappa Phi'diag(s) Phi + D'(l2 R) D; kappa is the loss's curvature at zero. Therefore a few steps of L-BFGS find A.

If the objective does not fall as the slope says, the sample is no guide there, and L-BFGS takes over for good.

The host decides after each evaluation of a search what to evaluate next, so a GPU is waited for some twenty times in a
step. Its passes are fast, so that only very long ones take longer than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import checked_array
from gpusoftmax.solvers.preconditioners.base import Preconditioner
from gpusoftmax.solvers.preconditioners.sample import penalty_curvature, weight_fractions
from gpusoftmax.solvers.preconditioners.woodbury import BLOCKS, OtherRows

EVALUATIONS, NEARNESS = 15, 0.1  # of a search: at most so many, and until the gradient is this fraction of the first
MEMORY = 10  # pairs of L-BFGS in a search
SUFFICIENT, SHORTER, SHORTEST = 1e-4, 0.4, 1e-4  # its line search: Armijo's fraction, and step lengths
DEPENDENT = 1e-7  # smallest eigenvalue of new directions, relative to the largest, that is kept
# With fewer rows than this for each unknown, the first search, on the sample alone, has a penalty of FIRST_RIDGE on A.
FIRST_ROWS, FIRST_RIDGE = 12, 0.3


# Flops of a pass from which fewer passes save more than the waits of a search take, on a device whose work is queued:
# predicted from EVALUATIONS waits of 0.1 ms, in which it does 4e9 flops each.
LEAST_QUEUED_PASS = 6e10


def is_worth_waiting(objective: Objective) -> bool:
    """Whether a pass takes longer than the waits of a search, which only a device has whose work is queued."""
    return not objective.backend.queues_work or objective.features.pass_cost(objective.n_classes) >= LEAST_QUEUED_PASS


class BlockSearch:
    """The guide of model k; see the module's docstring.

    Parameters
    ----------
    objective : Objective
    k : int
        Its model.
    others : OtherRows
        The rows S.
    """

    outlives_rejection = waits = False

    def __init__(self, objective: Objective, k: int, others: OtherRows) -> None:
        self.backend, self.loss, dtype = objective.backend, objective.loss, objective.features.dtype
        asarray, self.dtype = self.backend.asarray, dtype
        shares = weight_fractions(objective, k, others.numbers) * others.times
        features = others.features.with_scaling(objective.features.shift, objective.features.scale)
        of_model = replace(objective, weights=None).select(np.array([k]))
        self.weights = asarray((shares / shares.sum()).astype(dtype)[:, None])
        labels = objective.labels[asarray(others.numbers)]
        self.sampled = replace(of_model, features=features, labels=labels, weights=self.weights, total=None)
        d, c, self.kappa = features.d, objective.n_classes, objective.loss.curvature_at_zero(objective.n_classes)
        penalty = penalty_curvature(objective, k)
        penalty = np.append(penalty, np.zeros(d + 1 - len(penalty)))
        self.penalty = asarray(penalty.astype(dtype)[:, None])
        self.first = first = int(objective.has_free_intercept)  # directions that stay
        self.D, self.Phi = (
            self.backend.xp.zeros((d + 1, first), dtype),
            self.backend.xp.zeros((features.n, first), dtype),
        )
        self.D[-1], self.Phi[:] = self.kappa**-0.5, self.kappa**-0.5
        self.most = first + BLOCKS * c
        self.Z = self.backend.xp.zeros((features.n, c), dtype)
        self.A: Array = np.zeros((first, c))  # of the last search
        self.moved = False

    @np.errstate(over="ignore", invalid="ignore")  # the trainer reports infinite features
    def start(self, x: Any, preconditioner: Preconditioner) -> Any:
        """Return where to start instead of x (d + 1, c): elsewhere if x is zero."""
        if (x != 0).any():
            self.Z = self._scores(x)
            return x
        found = self.sampled.value_and_gradient(x[:-1, None], x[-1:])
        g = self.backend.xp.concatenate([found.dW[:, 0], found.db])
        self._add(preconditioner.solve(g))
        full = self._times(self.D.T, g)
        self.A = np.zeros_like(full)
        if not np.isfinite(full).all():
            return x
        self.A = self._search(full, FIRST_RIDGE if len(self.Z) < FIRST_ROWS * self.A.size else 0.0)
        self.moved = True
        return x + self.D @ self._on_device(self.A)

    def begin(self) -> None:
        """See `Guide`: it never waits."""

    @np.errstate(over="ignore", invalid="ignore")
    def direction(self, x: Any, g: Any, preconditioned_g: Any) -> tuple[Any, float] | None:
        """See `Guide`."""
        self.Z = self.Z + self.Phi @ self._on_device(self.A)
        self._add(preconditioned_g)
        full = self._times(self.D.T, g)
        self.A = self._search(full, 0.0)
        slope = -float((self.A * full).sum())
        return (self.D @ self._on_device(-self.A), slope) if slope > 0 else None

    def to_arrays(self, backend: Backend) -> dict[str, Any]:
        """See `Guide`."""
        arrays = {name: backend.to_numpy(getattr(self, name)) for name in ("D", "Phi", "Z")}
        return arrays | {"A": self.A, "moved": int(self.moved)}

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """See `Guide`."""
        w = len(kept["A"])
        if w > self.most:
            raise ValueError(f"{w} directions of at most {self.most}")
        shapes = {"D": (len(self.D), w), "Phi": (len(self.Z), w), "Z": self.Z.shape}
        for name, shape in shapes.items():
            setattr(self, name, backend.asarray(checked_array(name, kept[name], self.dtype, shape)))
        self.A = checked_array("A", kept["A"], np.float64, (w, self.Z.shape[1]))
        self.moved = bool(kept["moved"])
        return self

    def _on_device(self, small: Array) -> Any:
        return self.backend.asarray(small.astype(self.dtype))

    def _times(self, left: Any, right: Any) -> Array:
        """Return a product with few rows and columns, in float64 on the host; waits for the device."""
        return self.backend.to_numpy(left @ right).astype(np.float64)

    def _scores(self, x: Any) -> Any:
        """Scores of S for x (d + 1, columns): (m, columns)."""
        features, columns = self.sampled.features, self.backend.xp.ascontiguousarray(x)
        return features.scores(*features.fold(columns[:-1, None], columns[-1:]))[:, 0]

    def _curvature(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> Array:
        """Return kappa Phi'diag(s) Phi~ + D'(l2 R) D~, for D and Phi of some directions and of others."""
        (D, Phi), (D_other, Phi_other) = one, other
        return self._times((Phi * (self.kappa * self.weights)).T, Phi_other) + self._times(
            (D * self.penalty).T, D_other
        )

    def _add(self, new: Any) -> None:
        """Add directions (d + 1, c) at right angles to the others, and drop the oldest ones."""
        xp, first = self.backend.xp, self.first
        squares = self.backend.to_numpy((new * new).sum(axis=0)).astype(np.float64)
        new = new * self._on_device(1 / np.sqrt(np.maximum(squares, np.finfo(self.dtype).tiny)))
        phi = self._scores(new)
        for _ in range(2):  # once is not enough in the presence of rounding errors
            overlap = self._on_device(self._curvature((self.D, self.Phi), (new, phi)))
            new, phi = new - self.D @ overlap, phi - self.Phi @ overlap
        curvature = self._curvature((new, phi), (new, phi))
        if not np.isfinite(curvature).all():  # nor are the features of some row of the sample
            return
        values, vectors = np.linalg.eigh(curvature)
        kept = values > DEPENDENT * max(float(values[-1]), 1e-300)
        T = self._on_device(vectors[:, kept] / np.sqrt(values[kept]))
        D, Phi = xp.concatenate([self.D, new @ T], axis=1), xp.concatenate([self.Phi, phi @ T], axis=1)
        dropped = max(0, D.shape[1] - self.most)
        self.D, self.Phi = (xp.concatenate([one[:, :first], one[:, first + dropped :]], axis=1) for one in (D, Phi))

    def _search(self, full: Array, ridge: float) -> Array:
        """Return the A that minimises the objective of S with the gradient `full` (w, c) at 0, plus ridge |A|^2 / 2."""
        backend, xp, w, c = self.backend, self.backend.xp, *full.shape
        F = xp.concatenate([self.Phi, self.Z], axis=1)
        K = self._times((self.D * self.penalty).T, self.D) + ridge * np.eye(w)
        below, b = np.eye(c), xp.zeros((1, c), self.dtype)

        def of_sample(A: Array) -> tuple[float, Array]:
            W = self._on_device(np.vstack([A, below])[:, None])
            losses, _, dW, _ = backend.ops.linear_gradient(F, self.sampled.labels, W, b, self.weights, self.loss.code)
            losses, gradient = backend.fetch(losses, dW[:w, 0])
            return float(losses[0]), gradient.astype(np.float64)

        loss_at_zero, gradient_at_zero = of_sample(np.zeros((w, c)))
        correction = full - gradient_at_zero

        def value_and_gradient(A: Array) -> tuple[float, Array]:
            loss, gradient = of_sample(A)
            curved = K @ A
            return loss + float((A * (correction + 0.5 * curved)).sum()), gradient + correction + curved

        goal = NEARNESS * float(np.sqrt((full**2).sum()))
        return _minimise(value_and_gradient, loss_at_zero, full, goal)


def _minimise(value_and_gradient: Callable[[Array], tuple[float, Array]], f: float, g: Array, goal: float) -> Array:
    """Run L-BFGS from 0, where the value is f and the gradient g, until the norm of the gradient is at most `goal`.

    It ends after EVALUATIONS steps in any case.
    """
    x = np.zeros_like(g)
    pairs: list[tuple[Array, Array, float]] = []
    scale = 1.0
    for _ in range(EVALUATIONS):
        if not float((g * g).sum()) > goal**2:
            break
        r, shares = g.copy(), []
        for step, t, rho in reversed(pairs):
            shares.append(rho * float((step * r).sum()))
            r -= shares[-1] * t
        r *= scale
        for (step, t, rho), share in zip(pairs, reversed(shares), strict=True):
            r += (share - rho * float((t * r).sum())) * step
        slope, length = float((g * r).sum()), 1.0
        f_new, g_new = value_and_gradient(x - r)
        while not f_new <= f - SUFFICIENT * length * slope and length > SHORTEST:
            length *= SHORTER
            f_new, g_new = value_and_gradient(x - length * r)
        if not f_new <= f:
            break
        step, t = -length * r, g_new - g
        curved = float((step * t).sum())
        if curved > 0:
            pairs = [*pairs, (step, t, 1 / curved)][-MEMORY:]
            scale = curved / float((t * t).sum())
        x, f, g = x - length * r, f_new, g_new
    return x
