"""Inverses of kappa X'X + penalty, in the form that the shape allows, from the rows of a sample.

Cholesky    R with M^-1 = R'R, the inverse of M's triangular factor: d^2 numbers, n >= d
LowRank     eigenvectors of the sample: d m numbers, where rows are few, or of its product, which serve every penalty
Diagonal    neither fits
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
WORTH_SHARING = 1024  # d above which a solve is shared among threads
RANK, MORE = 512, 64  # eigenvectors that are kept, and looked for: a few more make the last ones better
POWERS = 2  # of the matrix that sharpen a random start
JITTERS = 8.0 * 10.0 ** np.arange(6)  # in units of rounding: it may leave the product indefinite by some of them


class Inverse(Protocol):
    """M^-1 of one class, or of all at once."""

    def solve(self, v: Any) -> Any:
        """M^-1 v for v (d, c)."""


@dataclass(frozen=True)
class Cholesky:
    """M^-1 = R' R with R (d, d), the inverse of M's Cholesky factor: positive definite whatever the rounding."""

    R: Any
    backend: Backend  # a CPU's threads share the products

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        if self.backend.gpu is not None or len(self.R) <= WORTH_SHARING:
            return self.R.T @ (self.R @ v)
        tiles = _tiles(len(self.R))
        u, solution = np.empty_like(v), np.empty_like(v)

        def forward(run: range) -> None:  # what is above the diagonal is zero
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
    """M^-1 = D^-1/2 (I - V diag(shrink) V') D^-1/2, V (d, m) orthonormal, D the penalty's diagonal."""

    root: Any
    V: Any
    shrink: Any
    backend: Backend | None = None  # a CPU's threads share the products, where there is one

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
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
class Diagonal:
    """M^-1 = 1 / diagonal."""

    diagonal: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        return v / self.diagonal


class GramInverse:
    """a (m, d), whose a'a is the data's part of M: the work that all penalties share is done once.

    Parameters
    ----------
    kind : {"cholesky", "low rank", "diagonal"}
    a : ndarray, (m, d)
        Overwritten.
    raw : ndarray, (d,)
        Diagonal of a'a before the rows were centred: what is 0 up to rounding is told by it.
    backend : Backend
        Where the inverse is to be; its threads share the products.

    Notes
    -----
    What is too small for the type counts as rounding, feature by feature, so that columns may be of any sizes: there
    the curvature is taken to be larger, or a direction without any would be followed for ever.
    """

    def __init__(self, kind: str, a: Array, raw: Array, backend: Backend) -> None:
        self.kind, self.a, self.raw, self.backend, self.dtype = kind, a, raw, backend, a.dtype
        self.eps = float(np.finfo(a.dtype).eps)
        self.squares = np.einsum("ip,ip->p", a, a, dtype=np.float64)
        if kind == "cholesky" and np.isfinite(self.squares).all():
            a /= np.sqrt(self._living(self.squares)).astype(a.dtype)
            self.correlations = gram(a, backend)
            self.a = np.empty((0, a.shape[1]), a.dtype)  # not needed any more; a view would keep its memory

    def _living(self, diagonal: Array) -> Array:
        """The diagonal; where it is nothing but rounding (a constant column without a penalty), one that is not."""
        dead = diagonal <= (8 * self.eps) ** 2 * self.raw
        return np.where(dead, np.where(self.raw > 0, self.raw, 1.0), diagonal)

    def inverse(self, penalty: Array) -> Inverse:
        """Of a'a + diag(penalty), on the device."""
        dtype, eps, asarray = self.dtype, self.eps, self.backend.asarray
        diagonal = self.squares + penalty
        if not np.isfinite(diagonal).all():  # so will the first gradient be
            return Diagonal(asarray(np.ones((len(diagonal), 1), dtype)))
        diagonal = self._living(diagonal)
        if self.kind == "cholesky":
            living = self._living(self.squares)
            R = cholesky(self.correlations, (diagonal - self.squares) / living)
            if R is not None:
                R /= np.sqrt(living).astype(dtype)
                return Cholesky(asarray(R), self.backend)
            log.info("preconditioner: Cholesky failed; the diagonal instead")
        if self.kind == "low rank":
            root = np.sqrt(np.maximum(penalty, 8 * eps * len(penalty) * diagonal))  # I - V V' loses what is below
            a = self.a / root.astype(dtype)
            values, U = linalg.eigh((a @ a.T).astype(np.float64))
            kept = values > 8 * eps * max(float(values[-1]), 1.0)
            V = a.T @ (U[:, kept] / np.sqrt(values[kept]))
            shrink = values[kept] / (1 + values[kept])
            return LowRank(*(asarray(part.astype(dtype)) for part in (root[:, None], V, shrink[:, None])))
        return Diagonal(asarray(diagonal.astype(dtype)[:, None]))


class Spectrum:
    """a (m, d), whose a'a is the data's part of M, by its largest eigenpairs: one set serves every l2.

    With S = R^-1/2 a'a R^-1/2 = V diag(v) V' + a tail that is taken to be t I, R = diag(factors),

        M = R^1/2 (S + l2 I) R^1/2,    M^-1 = R^-1/2 (I - V diag((v - t) / (v + l2)) V') / (t + l2) R^-1/2

    The eigenpairs come from a randomised range finder (Halko, Martinsson and Tropp, 2011, algorithm 4.4).

    Parameters
    ----------
    a : ndarray, (m, d)
        Overwritten.
    factors : ndarray, (d,)
        The penalty is l2 diag(factors).
    backend : Backend
        Where the inverse is to be; its threads share the products.
    """

    def __init__(self, a: Array, factors: Array, backend: Backend) -> None:
        self.factors, self.backend, self.root = factors, backend, np.sqrt(factors)
        a /= self.root.astype(a.dtype)
        S = np.tril(gram(a, backend))
        S += np.tril(S, -1).T
        Q = np.random.default_rng(0).standard_normal((len(S), RANK + MORE), a.dtype.type)
        for _ in range(POWERS):
            Q = linalg.qr(_times(S, Q, backend), mode="economic", overwrite_a=True, check_finite=False)[0]
        values, U = linalg.eigh(Q.T @ _times(S, Q, backend), check_finite=False)
        largest, self.V = values[-RANK:].astype(np.float64), np.ascontiguousarray(Q @ U[:, -RANK:])
        rest = float(np.trace(S, dtype=np.float64) - largest.sum()) / (len(S) - RANK)
        # V V' takes off what is largest up to rounding alone: below that there is no tail
        self.tail = max(rest, 8 * float(np.finfo(a.dtype).eps) * float(largest[-1]))
        self.values = np.maximum(largest, self.tail)  # of a rank below RANK the last are rounding, of either sign

    def inverse(self, penalty: Array) -> Inverse:
        """Of a'a + diag(penalty), on the device; penalty = l2 factors."""
        l2, (asarray, dtype) = float((penalty / self.factors).max()), (self.backend.asarray, self.V.dtype)
        root = self.root * np.sqrt(self.tail + l2)
        shrink = (self.values - self.tail) / (self.values + l2)
        root, shrink = (asarray(part.astype(dtype)[:, None]) for part in (root, shrink))
        return LowRank(root, self.on_device, shrink, self.backend)

    @cached_property
    def on_device(self) -> Any:
        """V, which all inverses share."""
        return self.backend.asarray(self.V)


def _times(S: Array, Q: Array, backend: Backend) -> Array:
    """S Q in tiles of columns, as `gram`."""
    product = np.empty_like(Q)
    tiles = _slices(Q.shape[1], MORE)

    def work(run: range) -> None:
        for tile in (tiles[i] for i in run):
            np.matmul(S, np.ascontiguousarray(Q[:, tile]), out=product[:, tile])

    backend.for_each(work, len(tiles))
    return product


def cholesky(M: Array, more: Array) -> Array | None:
    """R = L^-1, where L L' is M + diag(more), from the lower triangle of M, which stays; None if it is not positive."""
    potrf, trtri = linalg.get_lapack_funcs(("potrf", "trtri"), dtype=M.dtype)
    size = np.diagonal(M) + more
    for jitter in float(np.finfo(M.dtype).eps) * JITTERS:
        shifted = M.copy()
        shifted[np.diag_indices(len(M))] = (size * (1 + jitter)).astype(M.dtype)
        # LAPACK's upper triangle is our lower one: column after column, so that it works in place
        U, failed = potrf(shifted.T, lower=0, clean=1, overwrite_a=1)
        if not failed:
            R: Array = trtri(U, lower=0, overwrite_c=1)[0].T
            return R
    return None


def gram(a: Array, backend: Backend) -> Array:
    """The lower triangle of a'a (d, d), in tiles of columns: the same bits for any number of threads."""
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
    """Runs of rows or columns of a triangle, long and short ones in turn, so that threads have about equal shares."""
    tiles = _slices(d, TILE)
    return [tiles[i // 2 if i % 2 == 0 else len(tiles) - 1 - i // 2] for i in range(len(tiles))]
