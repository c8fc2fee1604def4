"""A preconditioner for very many features: a diagonal for each class, with a dense block for a few features.

The Hessian's block for class j is sum_i C_ijj x_i x_i' + l2 diag(r), where C_ijj is the curvature of row i, see
`hessian`. With tens of thousands of features it cannot be stored. Nor can it be made from a sample of rows: in text,
most features occur in so few rows that a sample misses them. But its diagonal can be computed from all rows, in one and
a half passes:

    s1_j = sum_i C_ijj x_i,    s2_j = sum_i C_ijj x_i^2,    t_j = sum_i C_ijj

With the mean m_j = s1_j / t_j, the diagonal is s2_j - t_j m_j^2 + l2 r. The features with the most curvature occur
together in many rows, so the diagonal alone is a poor approximation for them. Each class has a dense block for them.

At zero weights all classes share the diagonal kappa variance + l2 r, with kappa the loss's curvature at zero.

Only sparse features have this preconditioner. Tried on dense ones with more than 8192 columns, it took half as many
passes as the present ones with weak penalties, and up to twice as many with strong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.operations import Diagonals
from gpusoftmax.solvers.preconditioners.inverses import cholesky
from gpusoftmax.solvers.preconditioners.sample import hessians_at, penalty_curvature

BLOCK_FEATURES = 256  # the most features in the dense block of a class
# Least curvature of a feature in a dense block, relative to that of the penalty: where the penalty is most of the
# curvature, other features matter little. 1 to 3 took as few passes as 0 on one-hot data, and on tf-idf dense blocks
# are then empty.
BLOCK_CURVATURE = 3.0
BLOCK_ELEMENTS = 1 << 24  # the most entries of all dense blocks: 64 MB in float32
SMALLEST_CURVATURE = 1e-7  # relative to the largest of a class: rows with less are left out of the dense blocks


@dataclass(frozen=True)
class DenseBlock:
    """The block of M for some features of a class: its inverse is R'R."""

    features: Any  # (k,), in increasing order
    R: Any  # (k, k)


@dataclass(frozen=True)
class ClassDiagonal:
    """M^-1 for diagonal matrices, with dense blocks in place of a part of them.

    Weights and intercepts are coupled by the centre m_j of each class, as `base` describes. The mean over the classes
    is removed before and after, as `base.BlockDiagonal` does.

    Attributes
    ----------
    diagonals : Diagonals
        Of the weights. The centre is None without an unpenalised intercept. Along the mean over the classes only the
        penalty has curvature; mean_inverse is 0 without a penalty.
    intercepts : ndarray, (c,)
        One over the curvature of the intercepts; 0 if they are not trained.
    mean_intercept : float
        One over the curvature along the mean of the intercepts, or 0.
    dense_blocks : list of DenseBlock
        One for each class, or empty.
    backend : Backend
    """

    diagonals: Diagonals
    intercepts: Any
    mean_intercept: float
    dense_blocks: list[DenseBlock]
    backend: Backend

    def solve(self, v: Any) -> Any:
        """Compute M^-1 v for v (d + 1, c), with the intercepts in the last row."""
        D, mean = self.diagonals, v[-1].mean()
        own, solution = v[-1] - mean, self.backend.xp.empty(v.shape, v.dtype)
        sums = self.backend.ops.solve_diagonals(D, v[:-1], own, solution[:-1])
        for j, block in enumerate(self.dense_blocks):
            if len(block.features):
                self._solve_block(j, block, v, own, solution, sums)
        intercepts = own * self.intercepts - sums * (self.intercepts != 0)
        solution[-1] = intercepts - intercepts.mean() + mean * self.mean_intercept
        return solution

    def _solve_block(self, j: int, block: DenseBlock, v: Any, own: Any, solution: Any, sums: Any) -> None:
        """Put the dense block of class j in place of its part of the diagonal, in the solution and in the sums."""
        chosen, centre = block.features, self.diagonals.centre
        rows, inverse, part = v[chosen], self.diagonals.inverse[chosen][:, j], solution[chosen]
        w = rows[:, j] - rows.sum(axis=1) / len(own)
        if centre is not None:
            middle = centre[chosen][:, j]
            w -= middle * own[j]
        change = block.R.T @ (block.R @ w) - inverse * w
        part -= change[:, None] / len(own)
        part[:, j] += change
        solution[chosen] = part
        if centre is not None:
            sums[j] += middle @ change


@dataclass(frozen=True)
class BlockSums:
    """sum_i C_ijj x_i x_i' over the features of a class's dense block, before shift and scale; on the host.

    Only the lower triangle of `gram` (k, k) is right.
    """

    features: Array
    gram: Array


@dataclass(frozen=True)
class CurvatureSums:
    """The sums over rows from which the preconditioner for any penalty is made; on the host, before shift and scale.

    Attributes
    ----------
    squares, linear : ndarray, (d, c)
        s2 and s1; or (d, 1), the same for all classes.
    total : ndarray, (c,) or (1,)
        t.
    dense_blocks : list of BlockSums
        One for each class, or none.
    """

    squares: Array
    linear: Array
    total: Array
    dense_blocks: list[BlockSums]


def sums_at_zero(objective: Objective, k: int) -> CurvatureSums:
    """Compute the sums of model k at zero weights from the moments of its rows; there are no dense blocks."""
    features, backend, c = objective.features, objective.backend, objective.n_classes
    weights = None if objective.weights is None else objective.weights[:, k]
    mean, variance = backend.fetch(*features.moments(weights, None))
    kappa = objective.loss.curvature_at_zero(c)
    return CurvatureSums((variance + mean**2)[:, None] * kappa, mean[:, None] * kappa, np.array([kappa]), [])


def sums_at_point(objective: Objective, k: int, point: Any) -> CurvatureSums:
    """Compute the sums of model k at its point (d + 1, c), over all rows."""
    features, backend, c = objective.features, objective.backend, objective.n_classes
    numbers = features.row_numbers(np.arange(features.n))
    hessians = hessians_at(objective, k, point, features, numbers)
    curvatures = backend.to_numpy(backend.xp.stack([hessians.diagonal(j) for j in range(c)]))
    Q = backend.asarray(np.ascontiguousarray(curvatures.T, features.dtype))
    squares, linear = (backend.to_numpy(features.column_products(Q, squared)) for squared in (True, False))
    return CurvatureSums(squares, linear, curvatures.sum(axis=1), _block_sums(objective, k, curvatures, squares))


def _block_sums(objective: Objective, k: int, curvatures: Array, squares: Array) -> list[BlockSums]:
    """Choose the features of each class's dense block, and compute its sums; curvatures (c, n) and squares (d, c)."""
    features, backend, c = objective.features, objective.backend, objective.n_classes
    _, scale = _shift_and_scale(objective)
    least = BLOCK_CURVATURE * penalty_curvature(objective, k)[: features.d] * scale**2
    size = min(BLOCK_FEATURES, int(np.sqrt(BLOCK_ELEMENTS / c)))
    blocks: list[Any] = [None] * c

    def work(run: range) -> None:
        for j in run:
            column, q = squares[:, j], curvatures[j]
            chosen = np.flatnonzero(column > least)
            if len(chosen) > size:
                largest = np.argpartition(-column[chosen] / scale[chosen] ** 2, size)[:size]
                chosen = np.sort(chosen[largest])
            smallest = SMALLEST_CURVATURE * float(q.max())
            blocks[j] = BlockSums(
                chosen, features.gram_of_columns(chosen, q, smallest) if len(chosen) else np.empty((0, 0))
            )

    backend.for_each_on_device(work, c)
    return blocks


def _shift_and_scale(objective: Objective) -> tuple[Array, Array]:
    """Return shift (d,) and scale (d,) on the host, with zeros and ones where there is none."""
    features, to_numpy = objective.features, objective.backend.to_numpy
    shift = np.zeros(features.d) if features.shift is None else to_numpy(features.shift)
    return shift, np.ones(features.d) if features.scale is None else to_numpy(features.scale)


def from_sums(objective: Objective, k: int, sums: CurvatureSums) -> ClassDiagonal:
    """Make the preconditioner of model k from sums over rows, which may be those of another penalty."""
    backend, free, dtype = objective.backend, objective.has_free_intercept, objective.features.dtype
    penalty, d = penalty_curvature(objective, k), objective.features.d
    total = np.where(sums.total > np.finfo(dtype).tiny, sums.total, 1.0)  # of a class without curvature: any
    intercepts = np.zeros(objective.n_classes)
    if objective.fit_intercept:
        intercepts[:] = 1 / (total + (0.0 if free else penalty[-1]))
    mean_curvature = penalty if objective.penalty.on_intercept else np.append(penalty, 0.0)
    mean_inverse = np.divide(1.0, mean_curvature, out=np.zeros(d + 1), where=mean_curvature > 0)
    shift, scale = _shift_and_scale(objective)
    inverse, centre = _diagonals(objective, sums, total, penalty, shift, scale)
    return ClassDiagonal(
        diagonals=Diagonals(
            inverse=backend.asarray(inverse),
            centre=backend.asarray(centre) if free else None,
            mean_inverse=backend.asarray(mean_inverse[:-1, None].astype(dtype)),
        ),
        intercepts=backend.asarray(intercepts.astype(dtype)),
        mean_intercept=float(mean_inverse[-1]),
        dense_blocks=[
            _dense_block(objective, j, sums, total, penalty, shift, scale) for j in range(len(sums.dense_blocks))
        ],
        backend=backend,
    )


def _diagonals(
    objective: Objective, sums: CurvatureSums, total: Array, penalty: Array, shift: Array, scale: Array
) -> tuple[Array, Array]:
    """Compute one over the diagonal, and the centre, each (d, c) or (d, 1); `total` is without zeros."""
    free, dtype = objective.has_free_intercept, objective.features.dtype
    inverse, eps = np.empty(sums.squares.shape, dtype), float(np.finfo(dtype).eps)
    centre = np.empty_like(inverse)

    def part(chosen: slice) -> tuple[Array, ...]:
        s1, s2, a, s = (x[chosen].astype(np.float64) for x in (sums.linear, sums.squares, shift, scale))
        a, s = a[:, None], s[:, None]
        middle = s1 / total if free else a
        centred = (s2 - 2 * middle * s1 + middle**2 * sums.total) / s**2
        s2 /= s**2
        centred = np.where(centred <= 8 * eps * s2, s2, centred)  # only a rounding error is left
        diagonal = centred + penalty[chosen, None]
        inverse[chosen] = 1 / np.where(diagonal > 0, diagonal, 1.0)
        centre[chosen] = (middle - a) / s
        return ()

    objective.backend.sum_over_blocks(part, *inverse.shape)
    return inverse, centre


def _dense_block(
    objective: Objective, j: int, sums: CurvatureSums, total: Array, penalty: Array, shift: Array, scale: Array
) -> DenseBlock:
    """Invert the dense block of class j; it is empty if rounding errors prevent that."""
    backend, block = objective.backend, sums.dense_blocks[j]
    chosen, a, s = block.features, shift[block.features], scale[block.features]
    s1 = sums.linear[chosen, j].astype(np.float64)
    if objective.has_free_intercept:
        middle, mixed = s1 / total[j], np.zeros((len(a), len(a)))
    else:
        middle, mixed = a, np.outer(s1 - sums.total[j] * a, a)
    M = block.gram - sums.total[j] * np.outer(middle, middle) - mixed - mixed.T
    R = cholesky(M / np.outer(s, s), penalty[chosen], backend.on_this_host()) if len(chosen) else None
    if R is None:
        chosen, R = chosen[:0], np.empty((0, 0))
    return DenseBlock(backend.asarray(chosen), backend.asarray(R.astype(objective.features.dtype)))
