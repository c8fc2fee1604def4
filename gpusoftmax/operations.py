"""The interface of a backend: the operations that each must have, and one that is optional.

This module holds types only. Backends and their callers import it; it imports neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.penalties import L2


@dataclass(frozen=True, eq=False)
class SparseRows:
    """The entries of a sparse matrix, row by row. For a matrix stored by columns, they are the rows of its transpose.

    Attributes
    ----------
    indptr : ndarray of int64, (n + 1,)
        Row i has the entries indptr[i] <= k < indptr[i + 1].
    indices : ndarray of int32, (entries,)
        The column of each entry, in [0, width); increasing within a row.
    values : ndarray of float64, float32 or uint8, (entries,), or None
        None means that all are 1.
    width : int
        The number of columns.
    """

    indptr: Any
    indices: Any
    values: Any
    width: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the entries and of indptr."""
        return int(self.indptr.nbytes + self.indices.nbytes + (0 if self.values is None else self.values.nbytes))


@dataclass(frozen=True, eq=False)
class Diagonals:
    """The inverses of c diagonal matrices, which are applied to the columns of v (d, c) less their mean.

    Attributes
    ----------
    inverse : ndarray, (d, c) or (d, 1)
        (d, 1) stands for the same diagonal in all columns. All arrays are C-contiguous, and of the type of v.
    centre : ndarray of the shape of `inverse`, or None
        None stands for zeros.
    mean_inverse : ndarray, (d, 1)
        The inverse of the diagonal matrix that is applied to the mean of the columns.
    """

    inverse: Any
    centre: Any
    mean_inverse: Any

    def part(self, rows: slice) -> Diagonals:
        """Return the diagonals of some of the d rows."""
        return Diagonals(
            self.inverse[rows], None if self.centre is None else self.centre[rows], self.mean_inverse[rows]
        )


class RowBlocks(Protocol):
    """A matrix X (n, d) that is not in memory as a whole: its rows are read in blocks, in their order."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features in a block, one that is read in place."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, rows: Any) -> Array:
        """Read one row, by its number, or some rows, by a slice or by row numbers (m,), in the order given."""

    def blocks(self, step: int, within: int | None = None) -> Iterator[tuple[int, Array]]:
        """Read all rows in blocks; yields the number of the first row, and the block (m, d) on the host.

        Each block but the last has a multiple of `step` rows, and none goes across a multiple of `within`. A block is
        overwritten when the next one is asked for.
        """


class Operations(Protocol):
    """The fused operations that every backend has.

    Arrays are on the backend's device. X (n, d) is float64, float32, float16, bfloat16 (as bits in uint16) or uint8,
    with any strides, or `RowBlocks`, for which there are no `rows`; W (d, K, c) and b (K, c) are float64 for float64 X,
    else float32; labels (n,) are int32 in [0, c); weights (n, K) have the type of W, or are None for all ones; loss is
    the code of one of `losses.LOSSES`. `rows` (m,) are int64 indices of the rows of X to use, in that order; None means
    all rows, and then m is n. Labels and weights always cover all n rows. Losses, correct counts and gradients are sums
    over the rows used, not means; losses and correct counts are float64, other results have the type of W unless
    something else is said. Arguments are not checked, except that the `row_loss` of CUDA checks the labels.
    """

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Compute losses, correct counts and gradients in one pass over the rows used.

        Returns losses (K,) = sum_i s_ik loss_ik; correct (K,) = sum of s_ik over the rows whose largest score (the
        first, if several are equal) is the target's; dW (d, K, c) = sum_i s_ik x_i g_ik; db (K, c) = sum_i s_ik g_ik.
        Here g is the gradient of the loss with respect to the scores x_i W_k + b_k.
        """

    def linear_losses(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any]:
        """Compute only the losses and correct counts of `linear_gradient`."""

    def linear_scores(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Scores (m, K, c) = x_i W_k + b_k.

        On the CPU a row's scores are the same to the last bit whatever rows follow.
        """

    def linear_probabilities(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Softmax of each row's scores, (m, K, c)."""

    def linear_best(self, X: Any, W: Any, b: Any, rows: Any = None) -> Any:
        """Index of the first class with the largest score, (m, K) int32.

        It is -1 if a score of the row is NaN or the largest is infinite.
        """

    def pair_products(self, new: tuple[Any, ...], old: tuple[Any, ...], vectors: Any, pair: int) -> tuple[Any, Any]:
        """Write x - x_old and u - u_old to vectors[pair] and vectors[pair + 1], and compute inner products.

        new and old are (x, u, g), of C-contiguous arrays (length,); vectors (m, length) have their type and contiguous
        rows. Returns the inner products of all vectors with t = g - g_old and with g, (2, m), and those of t with
        itself and of x - x_old with itself, (2,); on the device, in float64, or on a GPU in the type of the vectors.
        """

    def solve_diagonals(self, diagonals: Diagonals, v: Any, own: Any, out: Any) -> Any:
        """Multiply the columns of v (d, c) by the inverses of diagonal matrices, and write the result to out (d, c).

        With m the mean of a row of v over its columns, and own (c,),

            z = (v - m - centre own) inverse,    out = z - (mean of z over its columns) + m mean_inverse

        Returns the sums of centre z over the rows, (c,): on the CPU in float64, else in the type of v; zeros without a
        centre. The rows of v and out are contiguous.
        """

    def column_sums(self, Z: Any) -> Any:
        """Sum the rows of Z (m, q): (q,), in its type."""

    def label_coefficients(self, labels: Any, weights: Any, class_weight: Any, proportions: Any) -> Any:
        """Compute s_i (e_{y_i} - p_i) for m rows, (m, c) float64; see `label_sums`. All arguments have m rows."""

    def softmax(self, Z: Any) -> None:
        """Replace the scores Z (m, K, c), C-contiguous, by the softmax of each row's, in place."""

    def best(self, Z: Any) -> Any:
        """Do what `linear_best` does, for scores Z (m, K, c) that are known already; they may be overwritten."""

    def sparse_product(self, A: SparseRows, M: Any, bias: Any = None, rows: Any = None, squared: bool = False) -> Any:
        """Compute A M + bias, (n, q), in the type of M: float64, or float32 if the values are not float64.

        M (A.width, q) is C-contiguous; bias (q,) has its type, or is None for zeros. With `rows`, (m,), int64, only
        these rows of A are used, in that order. With `squared`, the values of A are squared. The bits of a row of the
        result depend only on the entries of that row.
        """

    def sparse_column_sums(self, columns: SparseRows, weights: Any, centre: Any) -> Any:
        """Sum over the entries x of each column, with the weights s of their rows; (d, 3) float64.

        `columns` are the rows of the transpose, d in number; weights (n,) and centre (d,) are float64. The sums are
        those of s, of s x and of s (x - centre)^2.
        """

    def sparse_gram(self, rows: SparseRows, weights: Any, columns: Any, smallest: float) -> Any:
        """Compute sum_i s_i x_i x_i' over some columns of a sparse matrix, (k, k) float64; only its lower triangle.

        Weights s (n,), float64, and the result are on the host. Rows whose weight is at most `smallest` are left out.
        `columns` (k,) are numbers of columns, without repetition.
        """

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Replace the scores Z by s_ik g_ik; returns losses (K,) and correct (K,) as in `linear_gradient`.

        Z (m, K, c) is float32 or float64 and C-contiguous. There are labels (m,) and weights (m, K), in the type of Z
        or None, for exactly its rows.
        """

    def column_moments(self, X: Any, weights: Any, rows: Any = None, origin: int | None = None) -> tuple[Any, Any]:
        """Weighted mean (d,) and variance (d,) of the columns of X over the rows used, float64; weights (n,) or None.

        Before squaring, the features of one row are subtracted, so that the digits do not cancel. That is row `origin`
        of X, or by default the first of the rows used, which is a poor choice if it has almost no weight.
        """

    def label_sums(
        self, X: Any, labels: Any, weights: Any, class_weight: Any, proportions: Any, rows: Any = None
    ) -> tuple[Any, Any]:
        """Sum the differences between hard and soft labels over the rows used, with and without the features.

        Returns sum_i s_i x_i^T (e_{y_i} - p_i), (d, c), and sum_i s_i (e_{y_i} - p_i), (c,), in float64. e_y (c,)
        is 1 at class y and 0 elsewhere, and p_ij = P_ij w_j / sum_k P_ik w_k, with proportions P (n, c), of any
        floating type and strides, and class_weight w (c,), float64. If proportions is None, p_ij is 1 / c. The weights
        are s (n,), and must be 0 for rows whose sum over P w is 0.
        """

    def column_products(self, X: Any, Q: Any, squared: bool = False, rows: Any = None) -> Any:
        """Compute sum_i x_i^T q_i over the rows used, (d, columns), for Q (m, columns), in the type of Q.

        Q has a row for each of the rows used. With `squared`, the features of x_i are squared.
        """

    def fold(self, W: Any, shift: Any, scale: Any) -> tuple[Any, Any]:
        """Convert weights for shifted and scaled features to weights for stored ones, before a pass.

        Returns W' = W / scale, (d, K, c), and sum_p shift_p W_p / scale_p, (K, c) float64: the intercepts of the stored
        features are b less this. shift and scale are (d,) float64, or None for zeros and ones. Without a scale W' is W
        itself; without a shift the sum is None.
        """

    def finish_gradient(
        self, dW: Any, db: Any, W: Any, row_scale: Any, shift: Any, scale: Any, penalty: L2, T: Any
    ) -> tuple[Any, Any]:
        """Turn the sum over the rows into the gradient of the objective with respect to W, in place, after a pass.

            dW  <-  (row_scale dW - shift db) / scale + T + l2 r W

        dW and W (d, K, c), and db (K, c), times row_scale already; row_scale (K,) has their type; T (d, K, c), float64,
        is the linear term, or None. Returns the penalty of the weights (K,) and <T, W> (K,) or None, float64.
        """

    def pass_bytes(self, dtype: Any, n: int, d: int, K: int, c: int) -> int:
        """Upper bound on the memory, in bytes, that `linear_gradient` takes for n rows of X in the type `dtype`.

        It includes the results, but not X and W.
        """


class LinearAlgebra(Protocol):
    """Products and decompositions of dense matrices, from which preconditioners are made.

    Arrays are on the backend's device, and float32 or float64. A GPU does not wait unless something is said about it.
    """

    def gram(self, a: Any, whole: bool = False) -> Any:
        """Compute the lower triangle of a'a, (d, d), for a (m, d), C- or Fortran-contiguous.

        The rest is anything, or with `whole` the upper triangle.
        """

    def column_squares(self, a: Any) -> Any:
        """Sum the squares of each column of a (m, d): (d,) float64."""

    def times(self, S: Any, Q: Any) -> Any:
        """Compute S Q."""

    def inverse_factors(self, matrices: Iterable[tuple[Any, Any]], jitters: tuple[float, ...]) -> Iterator[Any]:
        """Invert Cholesky factors: for each pair of M (d, d) and penalty (d,), give R = L^-1 or None.

        L L' = M + diag(penalty), with the diagonal times 1 + jitter, for the first of `jitters` with which there is a
        factor. None stands for a matrix that is not positive definite even so. Only the lower triangle of M is read. A
        CPU asks for the next pair when the factor before has been used; a GPU waits once for all, but again for each
        jitter.
        """

    def solve_factor(self, R: Any, v: Any) -> Any:
        """Compute R'R v for a lower triangle R (d, d) and v (d, c)."""

    def solve_low_rank(self, root: Any, V: Any, shrink: Any, v: Any) -> Any:
        """Compute D^-1/2 (I - V diag(shrink) V') D^-1/2 v, with `root` (d, 1) for D^1/2, V (d, m) and shrink (m, 1)."""

    def eigenpairs(self, M: Any) -> tuple[Any, Any]:
        """Return the eigenvalues (d,), increasing, and eigenvectors (d, d) of a symmetric matrix."""

    def orthonormal(self, Q: Any) -> Any:
        """Return an orthonormal basis (d, m) of the columns of Q (d, m), which may be overwritten."""

    def class_sums(self, labels: Any, values: Any, c: int) -> Any:
        """Sum values (m,), float64, over the rows of each class: (c,). The labels (m,) are in [0, c)."""

    def class_products(self, labels: Any, weights: Any, A: Any, c: int) -> Any:
        """Sum s_i a_i over the rows of each class, (c, q) float64, for weights s (m,), float64, and A (m, q), bool."""


@dataclass(frozen=True)
class SgdSteps:
    """Settings of several SGD steps, one for each minibatch; see `solvers.SGD`.

    Attributes
    ----------
    n : int
        Number of rows to train on. The sums over a minibatch of m rows are multiplied by n / m.
    shift, scale : ndarray of float64, (d,), or None
        Shift and scale of the features; None means none. W and b belong to the scaled features.
    penalty : L2
        The penalty of each model.
    weight_sums : ndarray of float64, (K,)
        What the weighted sums over all n rows are divided by; see `objective.Objective.weight_sums`.
    rates : ndarray of the type of W, (steps, K)
        Learning rates of the steps.
    momentum : ndarray of the type of W, (K,)
        Momentum of each model: the part of the velocity that a step keeps. Not used without a velocity.
    nesterov : bool
        Whether the momentum is Nesterov's.
    fit_intercept : bool
        Whether the intercepts are trained; if not, b does not change.
    linear_term : pair of ndarray of float64, (d, K, c) and (K, c), or None
        T and t of `objective.LinearTerm`.
    """

    n: int
    shift: Array | None
    scale: Array | None
    penalty: L2
    weight_sums: Array
    rates: Array
    momentum: Array
    nesterov: bool
    fit_intercept: bool
    linear_term: tuple[Array, Array] | None = None

    def select(self, models: slice) -> SgdSteps:
        """Select some of the models."""
        return replace(
            self, penalty=self.penalty.with_strengths(self.penalty.strengths[models]),
            weight_sums=self.weight_sums[models], rates=np.ascontiguousarray(self.rates[:, models]),
            momentum=self.momentum[models],
            linear_term=self.linear_term and (self.linear_term[0][:, models], self.linear_term[1][models]),
        )  # fmt: skip


@dataclass(frozen=True)
class RowCurvature:
    """The Hessian sum_i s_i kron(x_i x_i', C_i) of a sum of losses over few rows, in blocks of 64 rows.

    C_i is diag(p_i) - p_i p_i' for softmax; that of the squared hinge is in `losses`. What is missing in the last
    block, and beyond the q columns of features, is zero. All arrays are C-contiguous: kernels read them by their
    addresses.

    Attributes
    ----------
    x : ndarray of float32, (blocks, columns, 64)
        The features; `columns` is q rounded up to a multiple of 4.
    factors : ndarray of float32, (blocks, c, 64)
        The probabilities p, or 1 for each class that violates its margin and else 0.
    labels : ndarray of int32, (blocks, 64), or None
        Class indices; None for softmax.
    weights : ndarray of float32, (blocks, 64)
        s.
    """

    x: Array
    factors: Array
    labels: Array | None
    weights: Array


class HessianProducts(Protocol):
    """A capability of backends on the host: products with the Hessian of few rows."""

    def hessian_product(self, curvature: RowCurvature) -> Callable[[Array], Array]:
        """Return what multiplies the Hessian by v (c, q), float64, with a row for each class, and returns (c, q)."""


class SgdStretch(Protocol):
    """An optional capability of a backend: stretches of SGD.

    A stretch is several minibatch steps taken in one call; it helps where steps are so short that the overhead of
    separate calls would dominate.
    """

    def sgd_steps(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any, steps: SgdSteps
    ) -> tuple[Any, Any] | None:
        """Take one step for each batch; if the steps are long, do nothing and return None.

        A batch holds int64 indices of rows, or is None for all rows. W, b and velocity (a pair of arrays of the same
        shapes, or None) are updated in place. Returns totals (3, K), the sums over the batches of the values, losses
        and accuracies of `Objective.value_and_gradient`, each times the batch's number of rows; and the values (K,) of
        the first step; both are float64. The other arguments are those of `Operations`.
        """

    def sparse_sgd_steps(
        self, A: SparseRows, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any,
        steps: SgdSteps,
    ) -> tuple[Any, Any] | None:  # fmt: skip
        """Do what `sgd_steps` does for sparse rows.

        It does nothing and returns None if a step would have to change all weights in another way than by a common
        factor: with a velocity, a shift, a linear term, or factors of the penalty.
        """
