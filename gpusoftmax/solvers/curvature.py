"""Approximate inverses of the objective's Hessian, from a sample of the rows: what preconditions L-BFGS.

At equal probabilities the Hessian of the mean softmax loss with respect to one class's weights is G / c, with G the
weighted Gram matrix of the features, and classes do not couple beyond a shift. So

    M_k = kappa G_k + l2_k diag(r),     G_k = (1 / S_k) sum_i s_ik (x_i - m_k)(x_i - m_k)'

kappa = 1 / c for softmax and 4 for the squared hinge. A free intercept absorbs the mean m_k: in the coordinates
b + m'W it does not couple with W, and its own curvature is kappa. A penalised one is one more feature that is 1.

    Cholesky    d up to FULL_FEATURES, n >= d: the triangular inverse, d^2 numbers
    LowRank     n < d, or d too large for that: eigenvectors of the sample, d m numbers
    Diagonal    neither fits

Rows are centred before the product: correcting an uncentred product makes Cholesky fail at weak penalties.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg

from gpusoftmax.batches import NO_EPOCH, generator
from gpusoftmax.cpu.pool import for_each, single_threaded_blas
from gpusoftmax.objective import Objective
from gpusoftmax.reference import LOSSES

Array = npt.NDArray[Any]

log = logging.getLogger("gpusoftmax")

FULL_FEATURES = 8192  # d up to which d x d matrices are made: 256 MB in float32
SAMPLE_PER_FEATURE, SMALLEST_SAMPLE = 2, 2048  # rows of the sample
LOW_RANK, LOW_RANK_ELEMENTS = 2048, 1 << 26  # rows of a low-rank sample at most, and its numbers
SMALLEST_LOW_RANK = 32  # with fewer, the diagonal
ROWS = 512  # of the sample that are looked at at a time
TILE = 256  # columns of the Gram matrix that one thread makes at a time
CURVATURES: dict[str, Callable[[int], float]] = {"softmax": lambda c: 1.0 / c, "squared_hinge": lambda c: 4.0}


class Inverse(Protocol):
    """M^-1 of one model."""

    def solve(self, v: Any) -> Any:
        """M^-1 v for v (d, c)."""


@dataclass(frozen=True)
class Cholesky:
    """M^-1 = R' R with R (d, d), the inverse of M's Cholesky factor: positive definite whatever the rounding."""

    R: Any

    def solve(self, v: Any) -> Any:
        """M^-1 v."""
        return self.R.T @ (self.R @ v)


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


@dataclass(frozen=True)
class Preconditioner:
    """M^-1 over K models, with the intercepts.

    Attributes
    ----------
    inverses : list of Inverse, one a model
    centres : list of (d, 1), one a model
        Means m_k of the sample, if there is a free intercept.
    kappa : float
    fit_intercept, penalize_intercept : bool
    rows : int
        Of the sample that was read.
    """

    inverses: list[Inverse]
    centres: list[Any]
    kappa: float
    fit_intercept: bool
    penalize_intercept: bool
    rows: int

    def apply(self, g: Any, out: Any) -> Any:
        """M^-1 g, both (d + 1, K, c) with the intercepts' part in the last row; -> out."""
        for k, inverse in enumerate(self.inverses):
            v = g[:, k]
            if self.penalize_intercept:
                out[:, k] = inverse.solve(v)
            elif self.fit_intercept:
                w = inverse.solve(v[:-1] - self.centres[k] * v[-1:])
                out[:-1, k] = w
                out[-1:, k] = v[-1:] / self.kappa - self.centres[k].T @ w
            else:
                out[:-1, k] = inverse.solve(v[:-1])
                out[-1:, k] = 0
        return out

    def of(self, models: list[int]) -> Preconditioner:
        """The same for some of the models."""
        centres = [self.centres[k] for k in models] if self.centres else []
        return replace(self, inverses=[self.inverses[k] for k in models], centres=centres)


@np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
def precondition(objective: Objective, seed: int) -> Preconditioner:
    """The preconditioner that fits the objective's shape, from a sample that `seed` draws; logged."""
    features, backend = objective.features, objective.backend
    n, d, dtype = features.n, features.d, features.dtype
    kappa = CURVATURES[LOSSES[objective.loss]](objective.n_classes)
    full = d <= FULL_FEATURES and n >= d
    wanted = max(SMALLEST_SAMPLE, SAMPLE_PER_FEATURE * d) if full else min(LOW_RANK, LOW_RANK_ELEMENTS // d)
    size = min(n, wanted if full else max(wanted, SMALLEST_LOW_RANK))
    rows = np.sort(generator(seed, NO_EPOCH + 1).choice(n, size, replace=False)) if size < n else np.arange(n)
    kind = "cholesky" if full else "low rank" if wanted >= size else "diagonal"
    s = None if objective.weights is None else backend.to_numpy(objective.weights)[rows].astype(np.float64)
    l2, factors = backend.to_numpy(objective.l2), objective.penalty_factors
    penalty = np.ones(d) if factors is None else backend.to_numpy(factors)
    if objective.penalize_intercept:
        penalty = np.append(penalty, 1.0)
    free = objective.fit_intercept and not objective.penalize_intercept
    log.info("preconditioner: %s, from %d of %d rows", kind, len(rows), n)
    inverses, centres, last = list[Inverse](), list[Any](), None
    with single_threaded_blas():
        for k in range(objective.n_models):
            weights = np.ones(len(rows)) if s is None else s[:, k]
            if weights.sum() == 0:  # none of this model's rows is in the sample
                weights = np.ones(len(rows))
            share = weights / weights.sum()
            key = l2[k], share.tobytes()  # neighbours with the same penalty and weights share a factor
            if key != last:
                a, mean, raw = _rows(objective, rows, share, kappa)
                inverse = _factor(kind, a, raw, l2[k] * penalty, backend)
                centre, last = backend.asarray(mean.astype(dtype)[:, None]), key
            inverses.append(inverse)
            if free:
                centres.append(centre)
    return Preconditioner(inverses, centres, kappa, objective.fit_intercept, objective.penalize_intercept, len(rows))


def _rows(objective: Objective, rows: Array, share: Array, kappa: float) -> tuple[Array, Array, Array]:
    """a (m, d): sqrt(kappa share_i) (x_i - centre), with a'a = kappa G; centre (d,); the diagonal of a'a uncentred.

    Block by block, since fresh memory for all rows in float64 costs more than the arithmetic.
    """
    features = objective.features
    blocks = [slice(start, start + ROWS) for start in range(0, len(rows), ROWS)]

    def block(of: slice) -> Array:
        x = features.sample(rows[of])
        return np.hstack([x, np.ones((len(x), 1))]) if objective.penalize_intercept else x

    d = features.d + objective.penalize_intercept
    mean, raw = np.zeros(d), np.zeros(d)
    for of in blocks:
        x = block(of)
        mean += share[of] @ x
        raw += kappa * (share[of] @ (x * x))
    free = objective.fit_intercept and not objective.penalize_intercept
    centre = mean if free else np.zeros_like(mean)
    a: Array = np.empty((len(rows), d), features.dtype)
    for of in blocks:
        np.multiply(np.sqrt(kappa * share[of])[:, None], block(of) - centre, out=a[of], casting="same_kind")
    return a, centre, raw


def _factor(kind: str, a: Array, raw: Array, penalty: Array, backend: Any) -> Inverse:
    """The inverse of a'a + diag(penalty), on the device; `raw` is that of `_rows`, and `a` is overwritten.

    What is too small for the type counts as rounding, feature by feature, so that columns may be of any sizes: there
    the curvature is taken to be larger, or a direction without any would be followed for ever.
    """
    dtype, eps = a.dtype, float(np.finfo(a.dtype).eps)
    squares = np.einsum("ip,ip->p", a, a, dtype=np.float64)
    diagonal = squares + penalty
    if not np.isfinite(diagonal).all():  # so will the first gradient be
        return Diagonal(backend.asarray(np.ones((len(diagonal), 1), dtype)))
    dead = diagonal <= (8 * eps) ** 2 * raw  # a constant column, without a penalty
    diagonal = np.where(dead, np.where(raw > 0, raw, 1.0), diagonal)
    root = np.sqrt(diagonal)
    if kind == "low rank":
        root = np.sqrt(np.maximum(penalty, 8 * eps * len(root) * diagonal))  # I - V V' loses what is below
        a /= root.astype(dtype)
        values, U = linalg.eigh((a @ a.T).astype(np.float64))
        kept = values > 8 * eps * max(float(values[-1]), 1.0)
        V = a.T @ (U[:, kept] / np.sqrt(values[kept]))
        shrink = values[kept] / (1 + values[kept])
        return LowRank(*(backend.asarray(part.astype(dtype)) for part in (root[:, None], V, shrink[:, None])))
    if kind == "cholesky":
        a /= root.astype(dtype)
        potrf, trtri = linalg.get_lapack_funcs(("potrf", "trtri"), dtype=dtype)
        for jitter in 8 * eps * 10.0 ** np.arange(6):  # rounding may leave the product indefinite by some eps
            M = _gram(a, backend.n_threads)
            M[np.diag_indices(len(M))] += np.where(dead, 1.0, penalty / diagonal + jitter).astype(dtype)
            # LAPACK's upper triangle is our lower one: column after column, so that it works in place
            U, failed = potrf(M.T, lower=0, clean=1, overwrite_a=1)
            if not failed:
                R = trtri(U, lower=0, overwrite_c=1)[0].T
                R /= root.astype(dtype)
                return Cholesky(backend.asarray(R))
        log.info("preconditioner: Cholesky failed; the diagonal instead")
    return Diagonal(backend.asarray(diagonal.astype(dtype)[:, None]))


def _gram(a: Array, n_threads: int) -> Array:
    """The lower triangle of a'a (d, d), in tiles of columns: the same bits for any number of threads."""
    d = a.shape[1]
    gram = np.zeros((d, d), a.dtype)
    n_tiles = -(-d // TILE)

    def work(run: range) -> None:
        for i in run:  # long and short columns take turns, so that runs are about equal
            start = TILE * (i // 2 if i % 2 == 0 else n_tiles - 1 - i // 2)
            tile = slice(start, min(start + TILE, d))
            np.matmul(a[:, start:].T, a[:, tile], out=gram[start:, tile])

    for_each(work, n_tiles, n_threads)
    return gram
