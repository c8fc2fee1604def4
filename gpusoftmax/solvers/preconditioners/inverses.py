"""Inverses of M = a'a + diag(penalty), with a (m, d) the weighted rows of a sample, in the form that suits the shape.

`Cholesky`, `Woodbury`, `LowRank` and `Diagonal` are one inverse each. `GramInverse` and `Spectrum` hold a'a in a form
from which they make the inverse for any penalty.

    Cholesky    M^-1 = R'R, with R the inverse of M's Cholesky factor: d^2 entries
    Woodbury    the mean of the inverses from several samples of few rows
    LowRank     from eigenvectors: all of a sample of few rows (GramInverse), or those of most curvature (Spectrum)
    Diagonal    the diagonal of M alone
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import linalg

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend

TILE = 256  # rows or columns of a triangle that one thread works on at a time
WORTH_SHARING = 1024  # for larger d, threads share a solve
RANK, OVERSAMPLING = 512, 64  # eigenvectors to use, and how many more to compute so that these are accurate
POWER_ITERATIONS = 2  # products with the matrix that refine the random start
# relative increases of the diagonal, in units of eps, tried in turn until Cholesky succeeds
JITTERS = 8.0 * 10.0 ** np.arange(6)


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
        if self.backend.gpu is not None or len(self.R) <= WORTH_SHARING:
            return self.R.T @ (self.R @ v)
        tiles = _tiles(len(self.R))
        u, solution = np.empty_like(v), np.empty_like(v)

        def forward(run: range) -> None:  # R is zero above the diagonal
            for tile in (tiles[i] for i in run):
                np.matmul(self.R[tile, : tile.stop], v[: tile.stop], out=u[tile])

        def backward(run: range) -> None:
            for tile in (tiles[i] for i in run):
                np.matmul(self.R[tile.start :, tile].T, u[tile.start :], out=solution[tile])

        self.backend.for_each(forward, len(tiles))
        self.backend.for_each(backward, len(tiles))
        return solution


@dataclass(frozen=True)
class LowRank:
    """M^-1 = D^-1/2 (I - V diag(shrink) V') D^-1/2, with V (d, m) orthonormal, D diagonal and `root` D^1/2."""

    root: Any
    V: Any
    shrink: Any
    backend: Backend | None = None  # on a CPU, its threads share the products; None: one thread

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v."""
        u = v / self.root
        if self.backend is None or self.backend.gpu is not None or len(self.V) <= WORTH_SHARING:
            return (u - self.V @ (self.shrink * (self.V.T @ u))) / self.root
        columns, rows = _slices(self.V.shape[1], RANK // 4), _slices(len(self.V), WORTH_SHARING // 2)
        w = np.empty((self.V.shape[1], v.shape[1]), v.dtype)

        def inward(run: range) -> None:
            for part in (columns[i] for i in run):
                np.matmul(self.V[:, part].T, u, out=w[part])
                w[part] *= self.shrink[part]

        def outward(run: range) -> None:
            for part in (rows[i] for i in run):
                u[part] -= self.V[part] @ w
                u[part] /= self.root[part]

        self.backend.for_each(inward, len(columns))
        self.backend.for_each(outward, len(rows))
        return u


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
        # the compiled passes take a third of the time of BLAS for so few columns; a GPU's may round more than float32
        total = self._by_passes(u) if self.backend.name == "cpu" else self._by_products(u)
        return (u - total / q) / (self.root * self.scale)

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

        self.backend.for_each_on_device(work, len(found))
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
        Overwritten.
    raw : ndarray, (d,)
        Diagonal that a'a had before the mean was subtracted from the rows. An entry of a'a's diagonal that is tiny
        relative to it is a rounding error.
    backend : Backend
        The inverse is put on its device; its threads share the products.

    Notes
    -----
    Whether a feature's curvature is only a rounding error is decided for each feature separately, so columns may differ
    in size. Such a curvature is replaced by a larger one: with almost none, L-BFGS would take huge steps in a direction
    in which the objective does not change.
    """

    def __init__(self, kind: str, a: Array, raw: Array, backend: Backend) -> None:
        self.kind, self.a, self.raw, self.backend, self.dtype = kind, a, raw, backend, a.dtype
        self.eps = float(np.finfo(a.dtype).eps)
        self.squares = np.einsum("ip,ip->p", a, a, dtype=np.float64)
        if kind == "cholesky" and np.isfinite(self.squares).all():
            a /= np.sqrt(self._without_zeros(self.squares)).astype(a.dtype)
            self.correlations = gram(a, backend)
            self.a = np.empty((0, a.shape[1]), a.dtype)  # frees a; a view of it would keep its memory

    def _without_zeros(self, diagonal: Array) -> Array:
        """Replace entries of the diagonal that are only rounding errors, as of constant columns, by larger ones."""
        is_rounding = diagonal <= (8 * self.eps) ** 2 * self.raw
        return np.where(is_rounding, np.where(self.raw > 0, self.raw, 1.0), diagonal)

    def inverse(self, penalty: Array) -> Inverse:
        """Invert a'a + diag(penalty); the result is on the device."""
        dtype, eps, asarray = self.dtype, self.eps, self.backend.asarray
        diagonal = self.squares + penalty
        if not np.isfinite(diagonal).all():  # the first gradient will not be finite either, and end the fit
            return Diagonal(asarray(np.ones((len(diagonal), 1), dtype)))
        diagonal = self._without_zeros(diagonal)
        if self.kind == "cholesky":
            squares = self._without_zeros(self.squares)
            R = cholesky(self.correlations, (diagonal - self.squares) / squares)
            if R is not None:
                R /= np.sqrt(squares).astype(dtype)
                return Cholesky(asarray(R), self.backend)
            log.info("preconditioner: Cholesky failed; the diagonal is used instead")
        if self.kind == "low rank":
            # a smaller root would disappear in the rounding errors of I - V diag(shrink) V'
            root = np.sqrt(np.maximum(penalty, 8 * eps * len(penalty) * diagonal))
            a = self.a / root.astype(dtype)
            values, U = linalg.eigh((a @ a.T).astype(np.float64))
            kept = values > 8 * eps * max(float(values[-1]), 1.0)
            V = a.T @ (U[:, kept] / np.sqrt(values[kept]))
            shrink = values[kept] / (1 + values[kept])
            return LowRank(*(asarray(part.astype(dtype)) for part in (root[:, None], V, shrink[:, None])))
        return Diagonal(asarray(diagonal.astype(dtype)[:, None]))


class Spectrum:
    """Inverses of a'a + l2 diag(factors) from the largest eigenpairs of one matrix, which serve every l2.

    With R = diag(factors), the largest eigenpairs (v, V) of S = R^-1/2 a'a R^-1/2, and t the mean of the other
    eigenvalues, S is approximated by V diag(v) V' + t (I - V V'). Then

        M = R^1/2 (S + l2 I) R^1/2,    M^-1 = R^-1/2 (I - V diag((v - t) / (v + l2)) V') / (t + l2) R^-1/2

    The eigenpairs come from a randomised range finder (Halko, Martinsson and Tropp, 2011, algorithm 4.4).

    Parameters
    ----------
    a : ndarray, (m, d)
        Overwritten.
    factors : ndarray, (d,)
        The penalty is l2 diag(factors).
    backend : Backend
        The inverse is put on its device; its threads share the products.
    """

    def __init__(self, a: Array, factors: Array, backend: Backend) -> None:
        self.factors, self.backend, self.root = factors, backend, np.sqrt(factors)
        a /= self.root.astype(a.dtype)
        S = np.tril(gram(a, backend))
        S += np.tril(S, -1).T
        Q = np.random.default_rng(0).standard_normal((len(S), RANK + OVERSAMPLING), a.dtype.type)
        for _ in range(POWER_ITERATIONS):
            Q = linalg.qr(_times(S, Q, backend), mode="economic", overwrite_a=True, check_finite=False)[0]
        values, U = linalg.eigh(Q.T @ _times(S, Q, backend), check_finite=False)
        largest, self.V = values[-RANK:].astype(np.float64), np.ascontiguousarray(Q @ U[:, -RANK:])
        rest = float(np.trace(S, dtype=np.float64) - largest.sum()) / (len(S) - RANK)
        # rounding errors of the largest eigenvalues remain in the rest, so a smaller tail would have no meaning
        self.tail = max(rest, 8 * float(np.finfo(a.dtype).eps) * float(largest[-1]))
        self.values = np.maximum(largest, self.tail)  # if the rank is below RANK, the smallest ones are rounding errors

    def inverse(self, penalty: Array) -> Inverse:
        """Invert a'a + diag(penalty), where the penalty is l2 times the factors; the result is on the device."""
        l2, (asarray, dtype) = float((penalty / self.factors).max()), (self.backend.asarray, self.V.dtype)
        root = self.root * np.sqrt(self.tail + l2)
        shrink = (self.values - self.tail) / (self.values + l2)
        root, shrink = (asarray(part.astype(dtype)[:, None]) for part in (root, shrink))
        return LowRank(root, self.on_device, shrink, self.backend)

    @cached_property
    def on_device(self) -> Any:
        """The eigenvectors V on the device; all inverses share them."""
        return self.backend.asarray(self.V)


def _times(S: Array, Q: Array, backend: Backend) -> Array:
    """Compute S Q in tiles of columns: the same bits for any number of threads."""
    product = np.empty_like(Q)
    tiles = _slices(Q.shape[1], OVERSAMPLING)

    def work(run: range) -> None:
        for tile in (tiles[i] for i in run):
            np.matmul(S, np.ascontiguousarray(Q[:, tile]), out=product[:, tile])

    backend.for_each(work, len(tiles))
    return product


def cholesky(M: Array, penalty: Array) -> Array | None:
    """Compute R = L^-1, where L L' = M + diag(penalty), from the lower triangle of M, which is not changed.

    Returns None if the matrix is not positive definite.
    """
    potrf, trtri = linalg.get_lapack_funcs(("potrf", "trtri"), dtype=M.dtype)
    size = np.diagonal(M) + penalty
    for jitter in float(np.finfo(M.dtype).eps) * JITTERS:
        shifted = M.copy()
        shifted[np.diag_indices(len(M))] = (size * (1 + jitter)).astype(M.dtype)
        # LAPACK stores matrices by columns: its upper triangle is our lower one, so no copy is needed
        U, failed = potrf(shifted.T, lower=0, clean=1, overwrite_a=1)
        if not failed:
            R: Array = trtri(U, lower=0, overwrite_c=1)[0].T
            return R
    return None


def gram(a: Array, backend: Backend) -> Array:
    """Compute the lower triangle of a'a (d, d) in tiles of columns: the same bits for any number of threads."""
    d = a.shape[1]
    product, tiles = np.zeros((d, d), a.dtype), _tiles(d)

    def work(run: range) -> None:
        for tile in (tiles[i] for i in run):
            np.matmul(a[:, tile.start :].T, a[:, tile], out=product[tile.start :, tile])

    backend.for_each(work, len(tiles))
    return product


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _tiles(d: int) -> list[slice]:
    """Tiles of a triangle's rows or columns, large and small ones in turn, so that threads get about equal work."""
    tiles = _slices(d, TILE)
    return [tiles[i // 2 if i % 2 == 0 else len(tiles) - 1 - i // 2] for i in range(len(tiles))]
