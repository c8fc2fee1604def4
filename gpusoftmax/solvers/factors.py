"""Inverses of kappa X'X + penalty, in the form that the shape allows, from the rows of a sample.

Cholesky    R with M^-1 = R'R, the inverse of M's triangular factor: d^2 numbers, n >= d
LowRank     eigenvectors of the sample: d m numbers, where rows are few
Diagonal    neither fits
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg

from gpusoftmax.array import Backend
from gpusoftmax.cpu.pool import for_each

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")

TILE = 256  # rows or columns of a triangle that one thread works on at a time
WORTH_SHARING = 1024  # d above which a solve is shared among threads
JITTERS = 8.0 * 10.0 ** np.arange(6)  # in units of rounding: it may leave the product indefinite by some of them


class Inverse(Protocol):
    """M^-1 of one class, or of all at once."""

    def solve(self, v: Any) -> Any:
        """M^-1 v for v (d, c)."""


@dataclass(frozen=True)
class Cholesky:
    """M^-1 = R' R with R (d, d), the inverse of M's Cholesky factor: positive definite whatever the rounding."""

    R: Any
    n_threads: int  # of the CPU, to share products among; 0 on a GPU

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        if self.n_threads == 0 or len(self.R) <= WORTH_SHARING:
            return self.R.T @ (self.R @ v)
        tiles = _tiles(len(self.R))
        u, solution = np.empty_like(v), np.empty_like(v)

        def forward(run: range) -> None:  # what is above the diagonal is zero
            for tile in (tiles[i] for i in run):
                np.matmul(self.R[tile, : tile.stop], v[: tile.stop], out=u[tile])

        def backward(run: range) -> None:
            for tile in (tiles[i] for i in run):
                np.matmul(self.R[tile.start :, tile].T, u[tile.start :], out=solution[tile])

        for_each(forward, len(tiles), self.n_threads)
        for_each(backward, len(tiles), self.n_threads)
        return solution


@dataclass(frozen=True)
class LowRank:
    """M^-1 = D^-1/2 (I - V diag(shrink) V') D^-1/2, V (d, m) orthonormal, D the penalty's diagonal."""

    root: Any
    V: Any
    shrink: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        u = v / self.root
        return (u - self.V @ (self.shrink * (self.V.T @ u))) / self.root


@dataclass(frozen=True)
class Diagonal:
    """M^-1 = 1 / diagonal."""

    diagonal: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        return v / self.diagonal


class Rows:
    """a (m, d), whose a'a is the data's part of M: the work that all penalties share is done once.

    Parameters
    ----------
    kind : {"cholesky", "low rank", "diagonal"}
    a : ndarray, (m, d)
        Overwritten.
    raw : ndarray, (d,)
        Diagonal of a'a before the rows were centred: what is 0 up to rounding is told by it.
    backend : Backend
        Where the inverse is to be.
    n_threads : int
        For the products.

    Notes
    -----
    What is too small for the type counts as rounding, feature by feature, so that columns may be of any sizes: there
    the curvature is taken to be larger, or a direction without any would be followed for ever.
    """

    def __init__(self, kind: str, a: Array, raw: Array, backend: Backend, n_threads: int) -> None:
        self.kind, self.a, self.raw, self.backend, self.dtype = kind, a, raw, backend, a.dtype
        self.n_threads = n_threads if backend.gpu is None else 0
        self.eps = float(np.finfo(a.dtype).eps)
        self.squares = np.einsum("ip,ip->p", a, a, dtype=np.float64)
        if kind == "cholesky" and np.isfinite(self.squares).all():
            a /= np.sqrt(self._living(self.squares)).astype(a.dtype)
            self.correlations = gram(a, n_threads)
            self.a = a[:0]  # its memory is not needed any more

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
                return Cholesky(asarray(R), self.n_threads)
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


def gram(a: Array, n_threads: int) -> Array:
    """The lower triangle of a'a (d, d), in tiles of columns: the same bits for any number of threads."""
    d = a.shape[1]
    product, tiles = np.zeros((d, d), a.dtype), _tiles(d)

    def work(run: range) -> None:
        for tile in (tiles[i] for i in run):
            np.matmul(a[:, tile.start :].T, a[:, tile], out=product[tile.start :, tile])

    for_each(work, len(tiles), n_threads)
    return product


def _tiles(d: int) -> list[slice]:
    """Runs of rows or columns of a triangle, long and short ones in turn, so that threads have about equal shares."""
    tiles = [slice(start, min(start + TILE, d)) for start in range(0, d, TILE)]
    return [tiles[i // 2 if i % 2 == 0 else len(tiles) - 1 - i // 2] for i in range(len(tiles))]
