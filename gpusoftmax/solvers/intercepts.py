"""The intercepts that minimise the objective for fixed weights: c unknowns, found without a pass over the data.

    min over v of  phi(v) = sum_i s_i loss(z_i + v, y_i) + <t, v>,      sum_i s_i = 1

v is the change of the intercepts, z (n, c) the scores, s the weights of the rows, and t the linear term of the
objective. The minimum is found by Newton's method. Each Newton system is solved by conjugate gradients, where a product
with the Hessian reads an (n, c) array once. With few classes, the Hessian at the start is formed and factored, and
serves as the preconditioner. With thousands of classes that would take many times as long as the fit (n c^2 and c^3 / 3
operations), so the diagonal of the Hessian is used instead.

The scores stay on the device. What has c or c^2 numbers is on the host, so a GPU is waited for in each evaluation and
in each product.

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

ACCURACY = 0.01  # residual of a Newton step's linear system, relative to the gradient
# Costs in flops of a matrix product. PRODUCT_COST: multiplying the Hessian by a vector, for each stored entry.
# SOFTMAX_COST: the softmax in a pass over the data, for each score.
PRODUCT_COST, SOFTMAX_COST = 50.0, 250.0
CLASSES_PER_PRODUCT = 20.0  # forming the Hessian costs as much as c / CLASSES_PER_PRODUCT products with it
MOST_FORMED = 2048  # largest number of classes for which the Hessian is formed
FORMED_EACH_STEP = 40  # up to so many classes it is formed for each step, which takes no longer than two products
HESSIAN_ROUNDING = 1e-14  # rounding error of the Hessian's entries, relative to its diagonal
SMALLEST_CURVATURE = 1e-30  # replaces a curvature of zero
BLOCK = 1 << 19  # entries of a block of rows; with smaller blocks, threads would wait for each other at the GIL
FORMED_BLOCK = 1 << 21  # the same while the Hessian is formed: larger, because each block adds a (c, c) array


@dataclass(frozen=True)
class StoredRows:
    """Stored scores or probabilities of the rows, with their labels and weights.

    Attributes
    ----------
    stored : ndarray, (n, c)
        Softmax: probabilities at v = 0. Squared hinge: scores at v = 0. On the device, like what follows.
    labels : ndarray of int, (n,)
    fractions : ndarray of float64, (n,)
        s: the weights divided by their sum.
    slope : ndarray of float64, (c,)
        t, on the host.
    backend : Backend
        Its threads share the work.
    """

    stored: Any
    labels: Any
    fractions: Any
    slope: Array
    backend: Backend

    def sum(self, block_sums: Callable[[slice], Partial], block_entries: int = BLOCK) -> list[Array]:
        """Sum the arrays that `block_sums` returns for each block of rows; the same bits for any number of threads.

        A block has at most `block_entries` entries of `stored`, and at least one row; where work is queued, a single
        block has all rows. The sums are on the host.
        """
        n, c = self.stored.shape
        block = n if self.backend.queues_work else max(1, block_entries // c)

        def part(rows: slice) -> Partial:
            total, *others = (
                block_sums(slice(first, min(first + block, rows.stop))) for first in range(rows.start, rows.stop, block)
            )
            for other in others:
                for one, more in zip(total, other, strict=True):
                    one += more
            return total

        return self.backend.fetch(*self.backend.sum_over_rows(part, n, c))

    def of_classes(self, values: Any, labels: Any) -> Any:
        """Sum values (m,) over the rows of each class, (c,), on the device."""
        return self.backend.linalg.class_sums(labels, values, len(self.slope))


class Phi(Protocol):
    """The function phi and its derivatives. `evaluate` sets the point v at which the other methods give the Hessian."""

    def evaluate(self, v: Array) -> tuple[float, Array]:
        """Return phi and its gradient (c,) at v (c,)."""

    def hessian_product(self, x: Array) -> Array:
        """Return the product of the Hessian and x (c,)."""

    def diagonal(self) -> Array:
        """Return the diagonal of the Hessian, (c,)."""

    def hessian(self) -> Array:
        """Return the Hessian, (c, c)."""


class Softmax:
    """phi(v) = sum_i s_i log sum_j p_ij exp(v_j) - <q, v>, with q_j = sum_{i: y_i = j} s_i - t_j.

    This is phi(v) - phi(0) of the module, expressed in the probabilities p at v = 0, so that only the c entries of v
    need exponentials. With u_i = sum_j p_ij exp(v_j) and m_j = exp(v_j) sum_i s_i p_ij / u_i

        gradient  m - q,        Hessian  diag(m) - sum_i (s_i / u_i^2) (p_i exp(v)) (p_i exp(v))'
    """

    def __init__(self, rows: StoredRows) -> None:
        self.rows, self.xp, self.asarray = rows, rows.backend.xp, rows.backend.asarray
        self.q = rows.backend.to_numpy(rows.of_classes(rows.fractions, rows.labels)) - rows.slope
        self.factor = self.xp.empty(len(rows.labels))  # s_i / u_i^2

    def evaluate(self, v: Array) -> tuple[float, Array]:
        rows, xp, top = self.rows, self.xp, v.max()
        self.e = np.exp(v - top)
        e = self.asarray(self.e)

        def block_sums(part: slice) -> Partial:
            p, s = rows.stored[part].astype(np.float64), rows.fractions[part]
            u = p @ e
            self.factor[part] = s / (u * u)
            return (s @ xp.log(u)).reshape(1), (s / u) @ p

        value, masses = rows.sum(block_sums)
        self.masses = self.e * masses
        phi = float(value[0] + top - self.q @ v)
        return phi if np.isfinite(phi) else np.inf, self.masses - self.q  # phi is -inf if some u underflows

    def hessian_product(self, x: Array) -> Array:
        rows, dtype = self.rows, self.rows.stored.dtype
        ex = self.asarray((self.e * x).astype(dtype))

        def block_sums(part: slice) -> Partial:  # float32 takes a fifth of the time, and is accurate enough here
            p = rows.stored[part]
            return (((self.factor[part] * (p @ ex)).astype(dtype) @ p).astype(np.float64),)

        return self.masses * x - self.e * rows.sum(block_sums)[0]

    def diagonal(self) -> Array:
        rows = self.rows

        def block_sums(part: slice) -> Partial:
            p = rows.stored[part].astype(np.float64)
            return (self.factor[part] @ (p * p),)

        return self.masses - self.e**2 * rows.sum(block_sums)[0]

    def hessian(self) -> Array:
        rows, xp, e = self.rows, self.xp, self.asarray(self.e)

        def block_sums(part: slice) -> Partial:
            p = rows.stored[part] * (xp.sqrt(self.factor[part])[:, None] * e)
            return (p.T @ p,)

        return np.diag(self.masses) - rows.sum(block_sums, FORMED_BLOCK)[0]


class SquaredHinge:
    """phi(v) = sum_i s_i sum_{j != y_i} max(0, z_ij + v_j - z_{i, y_i} - v_{y_i} + 1)^2 + <t, v>.

    A row's Hessian is 2 s_i (diag(a) + A e_y e_y' - a e_y' - e_y a'). There a_j is 1 for the classes j != y whose
    margin is violated, else 0; A = sum_j a_j; and e_y is the unit vector of the row's class.
    """

    def __init__(self, rows: StoredRows) -> None:
        self.rows, self.xp, self.asarray = rows, rows.backend.xp, rows.backend.asarray
        self.active = self.xp.empty(rows.stored.shape, np.bool_)

    def evaluate(self, v: Array) -> tuple[float, Array]:
        rows, xp, change = self.rows, self.xp, self.asarray(v)

        def block_sums(part: slice) -> Partial:
            margins, s, y = rows.stored[part].astype(np.float64) + change, rows.fractions[part], rows.labels[part]
            index = xp.arange(len(y))
            margins -= margins[index, y][:, None] - 1
            xp.maximum(margins, 0, out=margins)
            margins[index, y] = 0
            xp.greater(margins, 0, out=self.active[part])
            value = (s @ (margins * margins).sum(axis=1)).reshape(1)
            margins[index, y] = -margins.sum(axis=1)
            return value, 2 * s @ margins

        value, gradient = rows.sum(block_sums)
        return float(value[0] + rows.slope @ v), gradient + rows.slope

    def hessian_product(self, x: Array) -> Array:
        rows, moved = self.rows, self.asarray(x)

        def block_sums(part: slice) -> Partial:
            a, s, y = self.active[part].astype(np.float64), rows.fractions[part], rows.labels[part]
            own = moved[y]
            targets = rows.of_classes(s * (a.sum(axis=1) * own - a @ moved), y)
            return (moved * (s @ a) - (s * own) @ a + targets,)

        return 2 * rows.sum(block_sums)[0]

    def diagonal(self) -> Array:
        rows = self.rows

        def block_sums(part: slice) -> Partial:
            a, s = self.active[part].astype(np.float64), rows.fractions[part]
            return (s @ a + rows.of_classes(s * a.sum(axis=1), rows.labels[part]),)

        return 2 * rows.sum(block_sums)[0]

    def hessian(self) -> Array:
        rows = self.rows
        coupled = rows.backend.linalg.class_products(rows.labels, rows.fractions, self.active, len(rows.slope))
        coupled = rows.backend.to_numpy(coupled)
        return np.diag(self.diagonal()) - 2 * (coupled + coupled.T)


PHIS: dict[str, Callable[[StoredRows], Phi]] = {"softmax": Softmax, "squared_hinge": SquaredHinge}


def affordable(passes: float, cost: float, n: int, c: int) -> int:
    """Return the number of products with the Hessian that take as long as `passes` passes over the data.

    `cost` is the cost of one pass in operations; see `preconditioners.sample.pass_cost`.
    """
    return int(passes * (cost + SOFTMAX_COST * n * c) / (PRODUCT_COST * n * c))


def best_intercept_change(
    rows: StoredRows, loss: str, objective_value: float, max_products: int
) -> tuple[Array, float] | None:
    """Find the v (c,) that minimises phi, and how much lower phi is there than at v = 0.

    Parameters
    ----------
    rows : StoredRows
    loss : {"softmax", "squared_hinge"}
    objective_value : float
        Value of the objective, from which its rounding error is estimated.
    max_products : int
        Limit on the work, counted in products with the Hessian. An evaluation of phi counts as two products, and so
        does the diagonal of the Hessian.

    Returns
    -------
    (v, decrease) : (ndarray of float64 (c,), float), or None
        None if the minimum was not found within the limit.
    """
    phi, products_left = PHIS[loss](rows), max_products
    # A predicted decrease up to `noise` is only rounding. The decrease is quadratic in the gradient, whose error is
    # about 8 eps of the type of the stored numbers; hence the square.
    noise = max(2 * np.finfo(np.float64).eps * objective_value, (8.0 * float(np.finfo(rows.stored.dtype).eps)) ** 2)
    v, factor = np.zeros(len(rows.slope)), None
    with rows.backend.single_threaded_blas():
        start, gradient = phi.evaluate(v)
        value = start
        if len(v) <= min(MOST_FORMED, CLASSES_PER_PRODUCT * max_products / 16):  # at most a sixteenth of the work
            factor, products_left = _factor(phi, len(v)), products_left - int(len(v) / CLASSES_PER_PRODUCT)
        while products_left > 0:
            if len(v) <= FORMED_EACH_STEP and v.any():
                factor = _factor(phi, len(v))
            step, used = _newton_step(phi, gradient, factor, products_left)
            predicted_decrease, length, products_left = float(gradient @ step), 1.0, products_left - used - 4
            trial_value, trial_gradient = phi.evaluate(v - step)
            while not trial_value < value and predicted_decrease * length > noise and products_left > 0:
                length, products_left = length / 2, products_left - 2
                trial_value, trial_gradient = phi.evaluate(v - length * step)
            if trial_value < value:
                v, value, gradient = v - length * step, trial_value, trial_gradient
            if predicted_decrease * length <= noise:
                return v, start - value
    return None


def _factor(phi: Phi, c: int) -> Any:
    """Factor the Hessian, scaled to a unit diagonal; None if rounding makes it indefinite."""
    diagonal, shift_curvature = _diagonal(phi)
    root = 1 / np.sqrt(diagonal)  # unscaled, rounding errors of frequent classes would hide the entries of rare ones
    try:
        return linalg.cho_factor(
            root[:, None] * (phi.hessian() + shift_curvature / c) * root + c * HESSIAN_ROUNDING * np.eye(c)
        )
    except linalg.LinAlgError:
        return None


def _diagonal(phi: Phi) -> tuple[Array, float]:
    """Return the diagonal of the Hessian (c,), made positive, and the curvature to add along a shift of all classes.

    phi does not change if the same number is added to all entries of v, so it has no curvature in that direction. It
    has none either for a class whose probability is negligible in every row.
    """
    diagonal = phi.diagonal()
    shift_curvature = max(float(diagonal.mean()), SMALLEST_CURVATURE)
    return np.maximum(diagonal, HESSIAN_ROUNDING * shift_curvature), shift_curvature


def _newton_step(phi: Phi, gradient: Array, factor: Any, max_products: int) -> tuple[Array, int]:
    """Solve for the Newton step to ACCURACY; returns it and the number of products used, at most `max_products`.

    For a confident model the Hessian changes by large factors between steps, but mostly by one factor for each class.
    The preconditioner is therefore the Cholesky factor of the first Hessian, scaled by the diagonal of the present one.
    """
    (diagonal, shift_curvature), c, used = _diagonal(phi), len(gradient), 0
    root = np.sqrt(diagonal)
    if factor is not None and c <= FORMED_EACH_STEP:
        return linalg.cho_solve(factor, gradient / root) / root, 2

    def product(x: Array) -> Array:
        nonlocal used
        used += 1
        return phi.hessian_product(x) + shift_curvature * x.mean()

    def inverse(x: Array) -> Array:
        return x / diagonal if factor is None else linalg.cho_solve(factor, x / root) / root

    hessian, preconditioner = (LinearOperator((c, c), one, dtype=np.float64) for one in (product, inverse))
    return cg(hessian, gradient, rtol=ACCURACY, maxiter=max_products, M=preconditioner)[0], used
