"""Products and decompositions of dense matrices on the CPU: BLAS products in tiles, and LAPACK.

`operations.LinearAlgebra` documents names and arguments, once for all backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from gpusoftmax._typing import Array
from gpusoftmax.cpu.threads import for_each

TILE = 256  # rows or columns of a triangle that one thread works on at a time
COLUMNS = 64  # of a product, that one thread works on at a time
WORTH_SHARING = 1024  # for larger d, threads share the product with a factor
SHARED_VECTORS, SHARED_ROWS = 128, 512  # eigenvectors, and their rows, that one thread multiplies with at a time


@dataclass(frozen=True)
class CpuLinearAlgebra:
    """Linear algebra with `n_threads` threads; the bits are the same for any number of them."""

    n_threads: int

    def gram(self, a: Array, whole: bool = False) -> Array:
        d = a.shape[1]
        product, tiles = np.zeros((d, d), a.dtype), _tiles(d)

        def work(run: range) -> None:
            for tile in (tiles[i] for i in run):
                np.matmul(a[:, tile.start :].T, a[:, tile], out=product[tile.start :, tile])
                if whole:
                    product[tile, tile.stop :] = product[tile.stop :, tile].T

        for_each(work, len(tiles), self.n_threads)
        return product

    def column_squares(self, a: Array) -> Array:
        squares: Array = np.einsum("ip,ip->p", a, a, dtype=np.float64)
        return squares

    def times(self, S: Array, Q: Array) -> Array:
        product = np.empty_like(Q)
        tiles = _slices(Q.shape[1], COLUMNS)

        def work(run: range) -> None:
            for tile in (tiles[i] for i in run):
                np.matmul(S, np.ascontiguousarray(Q[:, tile]), out=product[:, tile])

        for_each(work, len(tiles), self.n_threads)
        return product

    def inverse_factors(
        self, matrices: Iterable[tuple[Array, Array]], jitters: tuple[float, ...]
    ) -> Iterator[Array | None]:
        return (_inverse_factor(M, penalty, jitters) for M, penalty in matrices)

    def solve_factor(self, R: Array, v: Array) -> Array:
        if len(R) <= WORTH_SHARING:
            solution: Array = R.T @ (R @ v)
            return solution
        tiles = _tiles(len(R))
        u, solution = np.empty_like(v), np.empty_like(v)

        def forward(run: range) -> None:  # R is zero above the diagonal
            for tile in (tiles[i] for i in run):
                np.matmul(R[tile, : tile.stop], v[: tile.stop], out=u[tile])

        def backward(run: range) -> None:
            for tile in (tiles[i] for i in run):
                np.matmul(R[tile.start :, tile].T, u[tile.start :], out=solution[tile])

        for_each(forward, len(tiles), self.n_threads)
        for_each(backward, len(tiles), self.n_threads)
        return solution

    def solve_low_rank(self, root: Array, V: Array, shrink: Array, v: Array) -> Array:
        u: Array = v / root
        if len(V) <= WORTH_SHARING:
            solution: Array = (u - V @ (shrink * (V.T @ u))) / root
            return solution
        columns, rows = _slices(V.shape[1], SHARED_VECTORS), _slices(len(V), SHARED_ROWS)
        w = np.empty((V.shape[1], v.shape[1]), v.dtype)

        def inward(run: range) -> None:
            for part in (columns[i] for i in run):
                np.matmul(V[:, part].T, u, out=w[part])
                w[part] *= shrink[part]

        def outward(run: range) -> None:
            for part in (rows[i] for i in run):
                u[part] -= V[part] @ w
                u[part] /= root[part]

        for_each(inward, len(columns), self.n_threads)
        for_each(outward, len(rows), self.n_threads)
        return u

    def eigenpairs(self, M: Array) -> tuple[Array, Array]:
        values, vectors = linalg.eigh(M)
        return values, vectors

    def orthonormal(self, Q: Array) -> Array:
        basis: Array = linalg.qr(Q, mode="economic", overwrite_a=True, check_finite=False)[0]
        return basis

    def class_sums(self, labels: Array, values: Array, c: int) -> Array:
        return np.bincount(labels, values, c)

    def class_products(self, labels: Array, weights: Array, A: Array, c: int) -> Array:
        products = np.zeros((c, A.shape[1]))
        for y in range(c):
            of_class = np.flatnonzero(labels == y)
            products[y] = weights[of_class] @ A[of_class]
        return products


def _inverse_factor(M: Array, penalty: Array, jitters: tuple[float, ...]) -> Array | None:
    potrf, trtri = linalg.get_lapack_funcs(("potrf", "trtri"), dtype=M.dtype)
    size = np.diagonal(M) + penalty
    for jitter in jitters:
        shifted = M.copy()
        shifted[np.diag_indices(len(M))] = (size * (1 + jitter)).astype(M.dtype)
        # LAPACK stores matrices by columns: its upper triangle is our lower one, so no copy is needed
        U, failed = potrf(shifted.T, lower=0, clean=1, overwrite_a=1)
        if not failed:
            R: Array = trtri(U, lower=0, overwrite_c=1)[0].T
            return R
    return None


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _tiles(d: int) -> list[slice]:
    """Tiles of a triangle's rows or columns, large and small ones in turn, so that threads get about equal work."""
    tiles = _slices(d, TILE)
    return [tiles[i // 2 if i % 2 == 0 else len(tiles) - 1 - i // 2] for i in range(len(tiles))]
