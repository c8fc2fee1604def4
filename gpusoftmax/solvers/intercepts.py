"""The intercepts that minimise the objective while the weights stay as they are: c unknowns, and no read of X.

    min over v of  phi(v) = sum_i s_i loss(z_i + v, y_i) + <t, v>,      sum_i s_i = 1

by Newton's method on scores z (n, c) that were kept. Each Newton system is solved by conjugate gradients, whose
products with the Hessian are one read of an (n, c) array. Where classes are few the Hessian at the start is formed and
factored, to precondition them. For thousands of classes that would take many times as long as the fit (n c^2 and
c^3 / 3 operations), and its diagonal has to do.

Source: Nocedal and Wright, "Numerical optimization", 2006, section 7.1 (line search Newton-CG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend

Partial = tuple[Array, ...]

ACCURACY = 0.01  # of a Newton step: the residual of its linear system, relative to the gradient
# operations of a matrix product that take as long as one number of `kept` in a product with the Hessian, and as one
# score's softmax in a read of X
READ, SOFTMAX = 50.0, 250.0
FORMED, MOST_FORMED = 20.0, 2048  # classes for which to form the Hessian takes as long as one read; at most
ROUNDING = 1e-14  # of a Hessian's entries, relative to its diagonal
NOTHING = 1e-30  # curvature that is none
FORMED_BLOCK = 1 << 21  # the same where the Hessian is formed: the (c, c) sum of a block is costly to add
BLOCK = 1 << 19  # numbers of an (n, c) array that are looked at at a time: fewer, and threads wait for the GIL


@dataclass(frozen=True)
class KeptRows:
    """What is known of the rows.

    Attributes
    ----------
    kept : ndarray, (n, c)
        Softmax: probabilities at v = 0. Squared hinge: scores.
    labels : ndarray of int, (n,)
    share : ndarray of float64, (n,)
        s: weights, of sum 1.
    slope : ndarray of float64, (c,)
        t.
    backend : Backend
        Whose threads are used.
    """

    kept: Array
    labels: Array
    share: Array
    slope: Array
    backend: Backend

    def sum(self, of_block: Callable[[slice], Partial], numbers: int = BLOCK) -> Partial:
        """The sums over all rows of what `of_block` returns for some of them, whose parts of `kept` hold so many
        numbers; the same bits for any thread count."""
        n, c = self.kept.shape
        block = max(1, numbers // c)

        def part(rows: slice) -> Partial:
            total, *others = (
                of_block(slice(first, min(first + block, rows.stop))) for first in range(rows.start, rows.stop, block)
            )
            for other in others:
                for one, more in zip(total, other, strict=True):
                    one += more
            return total

        return self.backend.sum_over_rows(part, n, c)


class Phi(Protocol):
    """phi, as Newton's method sees it."""

    def at(self, v: Array) -> tuple[float, Array]:
        """Phi and its gradient (c,) at v (c,), where the Hessian is taken from now on."""

    def times(self, x: Array) -> Array:
        """The Hessian times x (c,)."""

    def diagonal(self) -> Array:
        """The Hessian's diagonal (c,)."""

    def hessian(self) -> Array:
        """The Hessian (c, c)."""


class Softmax:
    """phi(v) = sum_i s_i log sum_j p_ij exp(v_j) - <q, v>, with q_j = sum_{i: y_i = j} s_i - t_j.

    This is phi less its value at v = 0, from the probabilities p there: no exponential but those of v. With
    u_i = sum_j p_ij exp(v_j) and m_j = exp(v_j) sum_i s_i p_ij / u_i

        gradient  m - q,        Hessian  diag(m) - sum_i (s_i / u_i^2) (p_i exp(v)) (p_i exp(v))'
    """

    def __init__(self, rows: KeptRows) -> None:
        self.rows = rows
        self.q = np.bincount(rows.labels, rows.share, rows.kept.shape[1]) - rows.slope
        self.factor = np.empty(len(rows.labels))  # s_i / u_i^2

    def at(self, v: Array) -> tuple[float, Array]:
        rows, top = self.rows, v.max()
        self.e = np.exp(v - top)

        def of_block(part: slice) -> Partial:
            p, s = rows.kept[part].astype(np.float64), rows.share[part]
            u = p @ self.e
            self.factor[part] = s / (u * u)
            return np.atleast_1d(s @ np.log(u)), (s / u) @ p

        value, masses = rows.sum(of_block)
        self.masses = self.e * masses
        found = float(value[0] + top - self.q @ v)
        return found if np.isfinite(found) else np.inf, self.masses - self.q  # -inf where some u underflows

    def times(self, x: Array) -> Array:
        rows, dtype = self.rows, self.rows.kept.dtype
        ex = (self.e * x).astype(dtype)

        def of_block(part: slice) -> Partial:  # in float32 it is five times as fast, and good enough for a direction
            p = rows.kept[part]
            return (((self.factor[part] * (p @ ex)).astype(dtype) @ p).astype(np.float64),)

        return self.masses * x - self.e * rows.sum(of_block)[0]

    def diagonal(self) -> Array:
        rows = self.rows

        def of_block(part: slice) -> Partial:
            p = rows.kept[part].astype(np.float64)
            return (self.factor[part] @ (p * p),)

        return self.masses - self.e**2 * rows.sum(of_block)[0]

    def hessian(self) -> Array:
        rows = self.rows

        def of_block(part: slice) -> Partial:
            p = rows.kept[part] * (np.sqrt(self.factor[part])[:, None] * self.e)
            return (p.T @ p,)

        return np.diag(self.masses) - rows.sum(of_block, FORMED_BLOCK)[0]


class SquaredHinge:
    """phi(v) = sum_i s_i sum_{j != y_i} max(0, z_ij + v_j - z_{i, y_i} - v_{y_i} + 1)^2 + <t, v>.

    A row's Hessian is 2 s_i (diag(a) + A e_y e_y' - a e_y' - e_y a'), with a_j = 1 for the classes j != y whose margin
    is violated, and A of them.
    """

    def __init__(self, rows: KeptRows) -> None:
        self.rows = rows
        self.active = np.empty(rows.kept.shape, np.bool_)

    def at(self, v: Array) -> tuple[float, Array]:
        rows = self.rows

        def of_block(part: slice) -> Partial:
            margins, s, y = rows.kept[part].astype(np.float64) + v, rows.share[part], rows.labels[part]
            index = np.arange(len(y))
            margins -= margins[index, y][:, None] - 1
            np.maximum(margins, 0, out=margins)
            margins[index, y] = 0
            np.greater(margins, 0, out=self.active[part])
            value = np.atleast_1d(s @ (margins * margins).sum(axis=1))
            margins[index, y] = -margins.sum(axis=1)
            return value, 2 * s @ margins

        value, gradient = rows.sum(of_block)
        return float(value[0] + rows.slope @ v), gradient + rows.slope

    def times(self, x: Array) -> Array:
        rows, c = self.rows, len(self.rows.slope)

        def of_block(part: slice) -> Partial:
            a, s, y = self.active[part].astype(np.float64), rows.share[part], rows.labels[part]
            own = x[y]
            targets = np.bincount(y, s * (a.sum(axis=1) * own - a @ x), c)
            return (x * (s @ a) - (s * own) @ a + targets,)

        return 2 * rows.sum(of_block)[0]

    def diagonal(self) -> Array:
        rows, c = self.rows, len(self.rows.slope)

        def of_block(part: slice) -> Partial:
            a, s = self.active[part].astype(np.float64), rows.share[part]
            return (s @ a + np.bincount(rows.labels[part], s * a.sum(axis=1), c),)

        return 2 * rows.sum(of_block)[0]

    def hessian(self) -> Array:
        rows, c = self.rows, len(self.rows.slope)
        coupled = np.zeros((c, c))
        for y in range(c):
            of_class = np.flatnonzero(rows.labels == y)
            coupled[y] = rows.share[of_class] @ self.active[of_class]
        return np.diag(self.diagonal()) - 2 * (coupled + coupled.T)


LOSSES: dict[str, Callable[[KeptRows], Phi]] = {"softmax": Softmax, "squared_hinge": SquaredHinge}


def affordable(reads: float, cost: float, n: int, c: int) -> int:
    """Products with the Hessian that take as long as so many reads of X, whose matrix products take `cost` operations
    each (`solvers.sample.read_cost`)."""
    return int(reads * (cost + SOFTMAX * n * c) / (READ * n * c))


def best_shift(rows: KeptRows, loss: str, size: float, most: int) -> tuple[Array, float] | None:
    """The v (c,) that minimises phi, and how much lower phi is there than at v = 0.

    Parameters
    ----------
    rows : KeptRows
    loss : {"softmax", "squared_hinge"}
    size : float
        The objective's value, by which its rounding is judged.
    most : int
        Products with the Hessian that it may take the time of. A value of phi, or the diagonal, counts as two.

    Returns
    -------
    v : ndarray of float64, (c,)
    fall : float
        Or None in place of both: not found within that.
    """
    phi, left = LOSSES[loss](rows), most
    # as far as the type of the kept numbers can tell: what a step promises is quadratic in the gradient
    noise = max(2 * np.finfo(np.float64).eps * size, (8.0 * float(np.finfo(rows.kept.dtype).eps)) ** 2)
    v, factor = np.zeros(len(rows.slope)), None
    with rows.backend.single_threaded_blas():
        start, gradient = phi.at(v)
        value = start
        if len(v) <= min(MOST_FORMED, FORMED * most / 16):
            factor, left = _factor(phi, len(v)), left - int(len(v) / FORMED)
        while left > 0:
            step, used = _newton_step(phi, gradient, factor, left)
            promised, length, left = float(gradient @ step), 1.0, left - used - 4
            there, slope = phi.at(v - step)
            while not there < value and promised * length > noise and left > 0:
                length, left = length / 2, left - 2
                there, slope = phi.at(v - length * step)
            if there < value:
                v, value, gradient = v - length * step, there, slope
            if promised * length <= noise:  # nothing but rounding left
                return v, start - value
    return None


def _factor(phi: Phi, c: int) -> Any:
    """Cholesky's of the Hessian, its diagonal scaled to ones; None where rounding leaves it indefinite."""
    diagonal, lift = _diagonal(phi)
    root = 1 / np.sqrt(diagonal)  # classes differ in size, and rounding would be that of the largest
    try:
        return linalg.cho_factor(root[:, None] * (phi.hessian() + lift / c) * root + c * ROUNDING * np.eye(c))
    except linalg.LinAlgError:
        return None


def _diagonal(phi: Phi) -> tuple[Array, float]:
    """The Hessian's diagonal (c,), nowhere zero, and the curvature that a shift of all classes is given.

    Adding the same to all classes changes nothing, and a class that nobody is near has no curvature.
    """
    diagonal = phi.diagonal()
    lift = max(float(diagonal.mean()), NOTHING)
    return np.maximum(diagonal, ROUNDING * lift), lift


def _newton_step(phi: Phi, gradient: Array, factor: Any, most: int) -> tuple[Array, int]:
    """The Hessian's inverse times the gradient, to ACCURACY, and how many products that took: at most `most`.

    Where a model is confident its curvature changes manifold on the way, but nearly as a whole for each class: so the
    factor of the first Hessian is scaled by the diagonal of this one.
    """
    (diagonal, lift), c, used = _diagonal(phi), len(gradient), 0
    root = np.sqrt(diagonal)

    def times(x: Array) -> Array:
        nonlocal used
        used += 1
        return phi.times(x) + lift * x.mean()

    def inverse(x: Array) -> Array:
        return x / diagonal if factor is None else linalg.cho_solve(factor, x / root) / root

    hessian, preconditioner = (LinearOperator((c, c), one, dtype=np.float64) for one in (times, inverse))
    return cg(hessian, gradient, rtol=ACCURACY, maxiter=most, M=preconditioner)[0], used
