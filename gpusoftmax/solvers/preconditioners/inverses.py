"""Inverses of M = a'a + diag(penalty), with a (m, d) the weighted rows of a sample, in the form that suits the shape.

`Cholesky`, `Woodbury`, `LowRank` and `Diagonal` are one inverse each. `GramInverse` and `Spectrum` hold a'a in a form
from which they make the inverse for any penalty.

    Cholesky    M^-1 = R'R, with R the inverse of M's Cholesky factor: d^2 entries
    Woodbury    the mean of the inverses from several samples of few rows
    LowRank     from eigenvectors: all of a sample of few rows (GramInverse), or those of most curvature (Spectrum)
    Diagonal    the diagonal of M alone
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend

RANK, OVERSAMPLING = 512, 64  # eigenvectors to use, and how many more to compute so that these are accurate
POWER_ITERATIONS = 2  # products with the matrix that refine the random start
# relative increases of the diagonal, in units of eps, tried in turn until Cholesky succeeds
JITTERS = 8.0 * 10.0 ** np.arange(6)


def inverse_factors(matrices: Iterable[tuple[Any, Any]], dtype: Any, backend: Backend) -> Iterator[Any]:
    """Invert the Cholesky factors of matrices in this type; see `operations.LinearAlgebra.inverse_factors`."""
    return backend.linalg.inverse_factors(matrices, tuple((float(np.finfo(dtype).eps) * JITTERS).tolist()))


def cholesky(M: Any, penalty: Any, backend: Backend) -> Any:
    """Compute R = L^-1, where L L' = M + diag(penalty), or None if that is not positive definite."""
    return next(inverse_factors([(M, penalty)], M.dtype, backend))


class Inverse(Protocol):
    """The inverse M^-1 for one class, or for all classes at once."""

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v for v (d, c)."""


@dataclass(frozen=True)
class Cholesky:
    """M^-1 = R'R, with R (d, d) the inverse of M's Cholesky factor: positive definite despite rounding errors."""

    R: Any
    backend: Backend  # on a CPU, its threads share the products

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        return self.backend.linalg.solve_factor(self.R, v)


@dataclass(frozen=True)
class LowRank:
    """M^-1 = D^-1/2 (I - V diag(shrink) V') D^-1/2, with V (d, m) orthonormal, D diagonal and `root` D^1/2."""

    root: Any
    V: Any
    shrink: Any
    backend: Backend | None = None  # on a CPU, its threads share the products; None: one thread

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        if self.backend is not None:
            return self.backend.linalg.solve_low_rank(self.root, self.V, self.shrink, v)
        u = v / self.root
        return (u - self.V @ (self.shrink * (self.V.T @ u))) / self.root


@dataclass(frozen=True)
class Woodbury:
    """M^-1 = mean_j (D^-1/2 (I - a_j'(a_j a_j' + ridge I)^-1 a_j) D^-1/2) / scale, over samples a_j (m, d).

    That is the mean of the inverses of D^1/2 (a_j'a_j / m + l2 I) D^1/2, with ridge = m l2 and scale = l2. `root` is
    D^1/2 (d, 1), and `a` (q m, d) holds all samples, which inverses for other penalties share. In place of the inverses
    of a_j a_j' + ridge I there are `factors` R_j (m, m), with R_j'R_j that inverse. Averaging takes off the noise of
    the samples, as one longer sample would, but takes m^2 d operations for each and none of d^3. What remains is a
    larger ridge (Derezinski, Bartan, Pilanci and Mahoney, "Debiasing distributed second order optimization with
    surrogate sketching and scaled regularization", 2020).
    """

    root: Any
    a: Any
    factors: list[Any]
    scale: float
    backend: Backend  # on a CPU, its threads share the products

    @property
    def nbytes(self) -> int:
        """Bytes that it does not share with others."""
        return sum(int(R.nbytes) for R in self.factors)

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        u, q = v / self.root, len(self.factors)
        if self.backend.queues_work:
            total = self._by_few_launches(u)
        else:  # the compiled passes take a third of the time of BLAS for so few columns
            total = self._by_passes(u) if self.backend.name == "cpu" else self._by_products(u)
        return (u - total / q) / (self.root * self.scale)

    @cached_property
    def _stacked(self) -> Any:
        """The factors as one array (q, m, m)."""
        return self.backend.xp.stack(self.factors)

    def _by_few_launches(self, u: Any) -> Any:
        """Do what `_by_passes` does, by products of all samples at a time."""
        xp, (q, m) = self.backend.xp, self._stacked.shape[:2]
        t = self._stacked @ (self.a @ u).reshape(q, m, -1)
        t = (t.transpose(0, 2, 1) @ self._stacked).transpose(0, 2, 1)
        return self.a.T @ xp.ascontiguousarray(t).reshape(q * m, -1)

    def _by_passes(self, u: Array) -> Array:
        """Sum a_j'(R_j'R_j) a_j u over the samples, in two passes over all of them."""
        ops, m = self.backend.ops, len(self.factors[0])
        t = ops.linear_scores(self.a, u[:, None], np.zeros((1, u.shape[1]), u.dtype))[:, 0]

        def work(run: range) -> None:
            for j in run:
                R, own = self.factors[j], slice(j * m, (j + 1) * m)
                t[own] = ((R @ t[own]).T @ R).T  # R.T @ (R @ t) takes longer

        self.backend.for_each(work, len(self.factors))
        found: Array = ops.column_products(self.a, t)
        return found

    def _by_products(self, u: Any) -> Any:
        """Do what `_by_passes` does, one sample after another in each thread."""
        m = len(self.factors[0])
        found: list[Any] = [None] * len(self.factors)

        def work(run: range) -> None:
            for j in run:
                R, a = self.factors[j], self.a[j * m : (j + 1) * m]
                found[j] = (((R @ (a @ u)).T @ R) @ a).T  # a.T @ t with few columns takes twice as long as t.T @ a

        self.backend.for_each(work, len(found))
        total = found[0]
        for one in found[1:]:
            total += one
        return total


@dataclass(frozen=True)
class Diagonal:
    """M^-1 = 1 / diagonal."""

    diagonal: Any

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        return v / self.diagonal


class GramInverse:
    """Inverses of a'a + diag(penalty) for many penalties; the work that they share is done once.

    Parameters
    ----------
    kind : {"cholesky", "low rank", "diagonal"}
    a : ndarray, (m, d)
        On the device, like `raw` and all that follows. Overwritten.
    raw : ndarray, (d,)
        Diagonal that a'a had before the mean was subtracted from the rows. An entry of a'a's diagonal that is tiny
        relative to it is a rounding error.
    backend : Backend
        Its threads share the products.

    Notes
    -----
    Whether a feature's curvature is only a rounding error is decided for each feature separately, so columns may differ
    in size. Such a curvature is replaced by a larger one: with almost none, L-BFGS would take huge steps in a direction
    in which the objective does not change.
    """

    def __init__(self, kind: str, a: Any, raw: Any, backend: Backend) -> None:
        self.kind, self.a, self.raw, self.backend, self.dtype = kind, a, raw, backend, a.dtype
        self.eps, xp = float(np.finfo(a.dtype).eps), backend.xp
        self.squares = backend.linalg.column_squares(a)
        self.finite = bool(xp.isfinite(self.squares).all())
        if kind == "cholesky" and self.finite:
            a /= xp.sqrt(self._without_zeros(self.squares)).astype(a.dtype)
            self.correlations = backend.linalg.gram(a)
            self.a = xp.empty((0, a.shape[1]), a.dtype)  # frees a; a view of it would keep its memory

    def _without_zeros(self, diagonal: Any) -> Any:
        """Replace entries of the diagonal that are only rounding errors, as of constant columns, by larger ones."""
        where, is_rounding = self.backend.xp.where, diagonal <= (8 * self.eps) ** 2 * self.raw
        return where(is_rounding, where(self.raw > 0, self.raw, 1.0), diagonal)

    def inverse(self, penalty: Array) -> Inverse:
        """Invert a'a + diag(penalty), for a penalty (d,) on the host."""
        dtype, eps, xp = self.dtype, self.eps, self.backend.xp
        if not (self.finite and np.isfinite(penalty).all()):  # nor will the first gradient be, and end the fit
            return Diagonal(xp.ones((len(penalty), 1), dtype))
        penalty = self.backend.asarray(penalty)
        diagonal = self._without_zeros(self.squares + penalty)
        if self.kind == "cholesky":
            squares = self._without_zeros(self.squares)
            R = cholesky(self.correlations, (diagonal - self.squares) / squares, self.backend)
            if R is not None:
                R /= xp.sqrt(squares).astype(dtype)
                return Cholesky(R, self.backend)
            log.info("preconditioner: Cholesky failed; the diagonal is used instead")
        if self.kind == "low rank":
            # a smaller root would disappear in the rounding errors of I - V diag(shrink) V'
            root = xp.sqrt(xp.maximum(penalty, 8 * eps * len(penalty) * diagonal))
            a = self.a / root.astype(dtype)
            values, U = self.backend.linalg.eigenpairs((a @ a.T).astype(np.float64))
            # those above the rounding errors are the last ones
            n_kept = int((values > 8 * eps * xp.maximum(values[-1], 1.0)).sum())
            kept = xp.arange(len(values) - n_kept, len(values))
            V = a.T @ (U[:, kept] / xp.sqrt(values[kept]))
            shrink = values[kept] / (1 + values[kept])
            return LowRank(*(part.astype(dtype) for part in (root[:, None], V, shrink[:, None])))
        return Diagonal(diagonal.astype(dtype)[:, None])


class Spectrum:
    """Inverses of a'a + l2 diag(factors) from the largest eigenpairs of one matrix, which serve every l2.

    With R = diag(factors), the largest eigenpairs (v, V) of S = R^-1/2 a'a R^-1/2, and t the mean of the other
    eigenvalues, S is approximated by V diag(v) V' + t (I - V V'). Then

        M = R^1/2 (S + l2 I) R^1/2,    M^-1 = R^-1/2 (I - V diag((v - t) / (v + l2)) V') / (t + l2) R^-1/2

    The eigenpairs come from a randomised range finder (Halko, Martinsson and Tropp, 2011, algorithm 4.4).

    Parameters
    ----------
    a : ndarray, (m, d)
        On the device. Overwritten.
    factors : ndarray, (d,)
        The penalty is l2 diag(factors); on the host.
    backend : Backend
        Its threads share the products.
    """

    def __init__(self, a: Any, factors: Array, backend: Backend) -> None:
        self.factors, self.backend, self.root = factors, backend, np.sqrt(factors)
        xp, linalg = backend.xp, backend.linalg
        a /= backend.asarray(self.root.astype(a.dtype))
        S = linalg.gram(a, whole=True)
        Q = backend.asarray(np.random.default_rng(0).standard_normal((len(S), RANK + OVERSAMPLING), a.dtype.type))
        for _ in range(POWER_ITERATIONS):
            Q = linalg.orthonormal(linalg.times(S, Q))
        values, U = linalg.eigenpairs(Q.T @ linalg.times(S, Q))
        largest, trace = backend.fetch(values[-RANK:], xp.trace(S, dtype=np.float64))
        largest, self.V = largest.astype(np.float64), xp.ascontiguousarray(Q @ U[:, -RANK:])
        rest = float(trace - largest.sum()) / (len(S) - RANK)
        # rounding errors of the largest eigenvalues remain in the rest, so a smaller tail would have no meaning
        self.tail = max(rest, 8 * float(np.finfo(a.dtype).eps) * float(largest[-1]))
        self.values = np.maximum(largest, self.tail)  # if the rank is below RANK, the smallest ones are rounding errors

    def inverse(self, penalty: Array) -> Inverse:
        """Invert a'a + diag(penalty), where the penalty, on the host, is l2 times the factors."""
        l2, (asarray, dtype) = float((penalty / self.factors).max()), (self.backend.asarray, self.V.dtype)
        root = self.root * np.sqrt(self.tail + l2)
        shrink = (self.values - self.tail) / (self.values + l2)
        root, shrink = (asarray(part.astype(dtype)[:, None]) for part in (root, shrink))
        return LowRank(root, self.V, shrink, self.backend)  # all inverses share V
