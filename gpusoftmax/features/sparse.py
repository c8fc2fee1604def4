"""Sparse features: a matrix of which only the entries that are not zero are stored.

X is stored twice, by rows for scores and by columns for gradients; both are the same product of a sparse matrix with a
dense one, `operations.Operations.sparse_product`. Shift and scale are folded into the weights as for any features, so
that centred features stay sparse.

The rows are cut into panels, for each of which the columns are stored on their own. The panels' gradients are summed
along a fixed tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import not_finite
from gpusoftmax.checks.sparse import row_of
from gpusoftmax.cpu.threads import sum_over_leaves
from gpusoftmax.dtypes import computation_dtype
from gpusoftmax.features.base import Features
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.operations import SgdSteps, SparseRows
from gpusoftmax.tree import Partial

SMALLEST_PANEL = 4096  # rows
# Entries of a panel for each feature, so that adding up the panels' gradients takes a small part of a pass.
ENTRIES_PER_FEATURE = 64
SCORE_BYTES = 32 << 20  # bytes of scores that are held to find the largest of each row
# Cost of a pass for each entry and column of W, in flops of a matrix product. An entry takes 4 flops, but the time of
# 19, since it fetches a row of W (20 columns, two AVX2 cores).
FLOPS_PER_ENTRY = 19.0


class SparseMatrix:
    """X (n, d) on the device of a backend: by rows, and, once a gradient or a moment needs them, by columns.

    Parameters
    ----------
    csr : scipy.sparse.csr_array
        Canonical; see `checks.sparse.check_sparse`.
    backend : Backend
    dtype : type, optional
        Type of the computation; by default float64 for values in float64, else float32.

    Attributes
    ----------
    backend, dtype
        As passed.
    on_host, rows : SparseRows
        The rows, on the host and on the device.
    panels : list of slice
        Consecutive runs of rows.
    row_panels, columns : list of SparseRows
        The rows and the columns of each panel, on the device. In `columns`, row numbers start at 0 in each panel.
    finite : ndarray of bool, (entries,), or None
        Which values are finite, on the host; None if all are.
    original : SparseMatrix
        The matrix before `with_zeros_outside`.
    """

    def __init__(self, csr: Any, backend: Backend, dtype: Any = None) -> None:
        self.original = self  # before `with_zeros_outside`
        self.backend, self.dtype = backend, computation_dtype(csr.dtype) if dtype is None else dtype
        end, values = int(csr.indptr[-1]), csr.data
        values = values[:end].astype(np.float64, copy=False) if self.dtype == np.float64 else values[:end]
        self.on_host = SparseRows(
            np.ascontiguousarray(csr.indptr, np.int64),
            np.ascontiguousarray(csr.indices[:end], np.int32),
            None if (values == 1).all() else np.ascontiguousarray(values),
            int(csr.shape[1]),
        )
        self.rows = _moved(self.on_host, backend)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.on_host), self.on_host.width

    @property
    def nbytes(self) -> int:
        """Bytes on the device, with the columns only if they are there already."""
        columns = self.columns if "columns" in vars(self) else []
        return self.rows.nbytes + sum(panel.nbytes for panel in columns)

    @cached_property
    def panels(self) -> list[slice]:
        n, d = self.shape
        step, entries = SMALLEST_PANEL, len(self.on_host.indices)
        while step < n and step * entries < ENTRIES_PER_FEATURE * n * d:
            step *= 2
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    @cached_property
    def row_panels(self) -> list[SparseRows]:
        """The rows of each panel, on the device; a backend may keep what it learns about them."""
        return [replace(self.rows, indptr=self.rows.indptr[rows.start : rows.stop + 1]) for rows in self.panels]

    @cached_property
    def columns(self) -> list[SparseRows]:
        A, columns = self.on_host, []
        for rows in self.panels:
            entries = slice(int(A.indptr[rows.start]), int(A.indptr[rows.stop]))
            indptr = A.indptr[rows.start : rows.stop + 1] - entries.start
            values = None if A.values is None else A.values[entries]
            csc = _as_csr(values, A.indices[entries], indptr, A.width).tocsc()
            panel = SparseRows(
                csc.indptr.astype(np.int64), csc.indices.astype(np.int32, copy=False),
                None if values is None else csc.data, len(indptr) - 1,
            )  # fmt: skip
            columns.append(_moved(panel, self.backend))
        return columns

    def in_type(self, dtype: Any) -> SparseMatrix:
        """Return the same matrix, to be computed in another type."""
        A = self.on_host
        values = None if A.values is None else A.values.astype(dtype)
        return SparseMatrix(_as_csr(values, A.indices, A.indptr, A.width), self.backend, dtype)

    @cached_property
    def finite(self) -> Array | None:
        """Which values are finite, on the host; None if all are."""
        values = self.on_host.values
        finite = None if values is None or values.dtype.kind != "f" else np.isfinite(values)
        return None if finite is None or finite.all() else finite

    def with_zeros_outside(self, rows: Array) -> SparseMatrix:
        """Return the same matrix with zeros for NaN and infinity in all but some rows.

        Otherwise the product with a whole column would multiply them by 0, which gives NaN.
        """
        A = self.on_host
        if self.finite is None or A.values is None:
            return self
        kept = np.zeros(len(A), bool)
        kept[rows] = True
        values = np.where(self.finite | np.repeat(kept, np.diff(A.indptr)), A.values, 0).astype(A.values.dtype)
        found = SparseMatrix(_as_csr(values, A.indices, A.indptr, A.width), self.backend, self.dtype)
        found.original = self
        return found


def _as_csr(values: Array | None, indices: Array, indptr: Array, width: int) -> Any:
    """A csr_array over these arrays; None for values stands for ones."""
    from scipy.sparse import csr_array

    values = np.ones(len(indices), np.uint8) if values is None else values
    return csr_array((values, indices, indptr), (len(indptr) - 1, width))


def _moved(A: SparseRows, backend: Backend) -> SparseRows:
    """Return the matrix on the device of `backend`."""
    if backend.gpu is None:
        return A
    values = None if A.values is None else backend.asarray(A.values)
    return SparseRows(backend.asarray(A.indptr), backend.asarray(A.indices), values, A.width)


@dataclass(frozen=True)
class _Part:
    """The selected rows that lie in one panel.

    Attributes
    ----------
    panel : int
        The panel's index.
    positions : slice or ndarray of int64
        Their positions among all selected rows.
    rows : ndarray of int64, or None
        Their row numbers, not decreasing; None means all rows of the panel.
    repeated : SparseRows or None
        If some rows are selected several times: a matrix of ones, (rows of the panel, m), by which they are summed. On
        a GPU `add.at` would sum in any order.
    """

    panel: int
    positions: Any
    rows: Array | None
    repeated: SparseRows | None


@dataclass(frozen=True)
class SparseFeatures(Features):
    """A sparse X (n_stored, d) on the device of `backend`; see `Features`."""

    is_sparse = True
    X: SparseMatrix
    backend: Backend
    shift: Array | None = None
    scale: Array | None = None
    rows: Array | None = None

    @property
    def n_stored(self) -> int:
        return self.X.shape[0]

    @property
    def d(self) -> int:
        return self.X.shape[1]

    @property
    def dtype(self) -> type[np.floating[Any]]:
        dtype: type[np.floating[Any]] = self.X.dtype
        return dtype

    @property
    def nbytes(self) -> int:
        return self.X.nbytes

    def select(self, rows: Array | None) -> SparseFeatures:
        X = self.X.original
        if rows is None:
            return replace(self, X=X, rows=None)
        X = X if X.finite is None else X.with_zeros_outside(self.backend.to_numpy(rows))
        return replace(self, X=X, rows=self.backend.asarray(rows))

    def with_scaling(self, shift: Array | None, scale: Array | None) -> SparseFeatures:
        shift, scale = (None if one is None else self.backend.asarray(one) for one in (shift, scale))
        return replace(self, shift=shift, scale=scale)

    def in_type_of(self, other: Features) -> SparseFeatures:
        return self if self.dtype == other.dtype else replace(self, X=self.X.in_type(other.dtype))

    def copied(self, rows: Array) -> DenseFeatures:
        return DenseFeatures(self.backend.asarray(self.sample(rows, self.dtype)), self.backend)

    def sample(self, rows: Array, dtype: Any = np.float64) -> Array:
        A, rows = self.X.on_host, self.backend.to_numpy(rows)
        counts = A.indptr[rows + 1] - A.indptr[rows]
        ends = np.cumsum(counts)
        entries = np.arange(int(counts.sum())) + np.repeat(A.indptr[rows] - ends + counts, counts)
        x = np.zeros((len(rows), self.d), dtype)
        x[np.repeat(np.arange(len(rows)), counts), A.indices[entries]] = 1.0 if A.values is None else A.values[entries]
        return self.shifted_and_scaled(x)

    def sample_matrix(self, rows: Array) -> Any:
        if self.shift is not None:
            return self.sample(rows)
        A = self.X.on_host
        x = _as_csr(A.values, A.indices, A.indptr, A.width)[self.backend.to_numpy(rows)].astype(np.float64)
        return x if self.scale is None else x * (1 / self.backend.to_numpy(self.scale))

    def moments(self, weights: Array | None, origin: int | None) -> tuple[Array, Array]:
        xp, (n, d) = self.backend.xp, self.shape
        s = xp.ones(n) if weights is None else weights.astype(np.float64)
        if self.rows is not None:
            rows, on_host = map(self.backend.to_numpy, (self.rows, s))
            s = self.backend.asarray(np.bincount(rows, on_host[rows], n))
        total = float(s.sum())
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks for infinite features
            weight, linear, _ = self._column_sums(s, xp.zeros(d))
            mean = linear / total
            # the weight of the zeros, which are not stored; a difference within rounding errors counts as none
            left_out = xp.where(total - weight > n * np.finfo(np.float64).eps * total, total - weight, 0.0)
            variance = (self._column_sums(s, mean)[2] + left_out * (mean * mean)) / total
        return mean, variance

    def _column_sums(self, s: Array, centre: Array) -> Any:
        """Sums of `operations.Operations.sparse_column_sums` over all panels, (3, d)."""
        ops, panels, columns = self.backend.ops, self.X.panels, self.X.columns

        def panel(index: int) -> Partial:
            return (ops.sparse_column_sums(columns[index], s[panels[index]], centre),)

        return sum_over_leaves(panel, len(panels), 1)[0].T

    def label_sums(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> tuple[Array, Array]:
        rows, ops = self.rows, self.backend.ops
        picked: Any = slice(None) if rows is None else rows
        soft = None if proportions is None else proportions[picked]
        z = ops.label_coefficients(labels[picked], weights[picked], class_weight, soft)
        return self.column_products(z), z.sum(axis=0)

    def column_products(self, Q: Array, squared: bool = False) -> Any:
        """Sum q_i x_i over the selected rows, (d, columns), for Q (n, columns), before shift and scale.

        With `squared`, the entries of x_i are squared.
        """
        ops, parts = self.backend.ops, self._parts

        def panel(index: int) -> Partial:
            part = parts[index]
            q = self._spread(Q[part.positions], part)
            return (ops.sparse_product(self.X.columns[part.panel], q, squared=squared),)

        return sum_over_leaves(panel, len(parts), 1)[0]

    @cached_property
    def _parts(self) -> list[_Part]:
        """The selected rows, panel by panel.

        Rows that are selected in another order than the stored one are put into that order.
        """
        panels = self.X.panels
        if self.rows is None:
            return [_Part(index, panel, None, None) for index, panel in enumerate(panels)]
        rows = self.backend.to_numpy(self.rows)
        order = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows, kind="stable")
        ordered = rows if order is None else rows[order]
        cuts = np.searchsorted(ordered, [panel.start for panel in panels] + [self.n_stored])
        asarray, parts = self.backend.asarray, []
        for index, (a, b) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
            if a == b:
                continue
            here, repeated = np.ascontiguousarray(ordered[a:b]), None
            if (here[1:] == here[:-1]).any():
                panel = panels[index]
                indptr = np.searchsorted(here, np.arange(panel.start, panel.stop + 1)).astype(np.int64)
                repeated = _moved(SparseRows(indptr, np.arange(b - a, dtype=np.int32), None, b - a), self.backend)
            positions = slice(a, b) if order is None else asarray(order[a:b])
            parts.append(_Part(index, positions, asarray(here), repeated))
        return parts

    def _spread(self, Z: Array, part: _Part) -> Any:
        """Return Z (m, q), of the rows of a part, as rows of its panel: zeros for other rows, sums of repeated ones."""
        if part.rows is None:
            return Z
        if part.repeated is not None:
            return self.backend.ops.sparse_product(part.repeated, Z)
        panel = self.X.panels[part.panel]
        spread = self.backend.xp.zeros((panel.stop - panel.start, Z.shape[1]), Z.dtype)
        spread[part.rows - panel.start] = Z
        return spread

    def gradient(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        features = self if rows is None else self.select(rows)
        losses, correct, dW, db = features._sums(labels, W, b, weights, loss, True)
        return losses, correct, dW.reshape(W.shape), db.reshape(b.shape)

    def losses(self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        losses, correct = self._sums(labels, W, b, weights, loss, False)
        return losses, correct

    def _sums(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, with_gradient: bool
    ) -> tuple[Array, ...]:
        """Sum losses and correct weights (K,) over the panels, and with a gradient also dW (d, K c) and db (K c,)."""
        ops, parts = self.backend.ops, self._parts
        K, c = b.shape
        M = self.backend.xp.ascontiguousarray(W).reshape(W.shape[0], -1)
        bias = self.backend.xp.ascontiguousarray(b).reshape(-1)

        def panel(index: int) -> Partial:
            part = parts[index]
            picked = self.X.panels[part.panel] if part.rows is None else part.rows
            A = self.X.row_panels[part.panel] if part.rows is None else self.X.rows
            Z = ops.sparse_product(A, M, bias, part.rows)
            s = None if weights is None else weights[picked]
            losses, correct = ops.row_loss(Z.reshape(-1, K, c), labels[picked], s, loss)
            if not with_gradient:
                return losses, correct
            dW = ops.sparse_product(self.X.columns[part.panel], self._spread(Z, part))
            return losses, correct, dW, ops.column_sums(Z)

        return sum_over_leaves(panel, len(parts), 1)

    def scores(self, W: Array, b: Array) -> Array:
        return self._scores(self._all_rows, W, b)

    def _scores(self, rows: Any, W: Array, b: Array) -> Any:
        """Compute the scores (m, K, c) of some rows, given as a slice or as numbers."""
        A, numbers, contiguous = self.X.rows, rows, self.backend.xp.ascontiguousarray
        if isinstance(rows, slice):
            numbers = None
            if rows != slice(0, self.n_stored):
                A = replace(A, indptr=A.indptr[rows.start : rows.stop + 1])
        M, bias = contiguous(W).reshape(W.shape[0], -1), contiguous(b).reshape(-1)
        Z = self.backend.ops.sparse_product(A, M, bias, numbers)
        return Z.reshape(len(Z), *b.shape)

    @property
    def _all_rows(self) -> Any:
        return slice(0, self.n_stored) if self.rows is None else self.rows

    def probabilities(self, W: Array, b: Array) -> Array:
        Z = self.scores(W, b)
        self.backend.ops.softmax(Z)
        return Z

    def best(self, W: Array, b: Array) -> Array:
        step = max(1, SCORE_BYTES // (b.size * b.itemsize))
        out = self.backend.xp.empty((self.n, b.shape[0]), np.int32)
        for first in range(0, self.n, step):
            rows = slice(first, min(first + step, self.n))
            chosen = rows if self.rows is None else self.rows[rows]
            out[rows] = self.backend.ops.best(self._scores(chosen, W, b))
        return out

    def sgd_steps(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any, batches: list[Any],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        stretch = self.backend.sgd_stretch
        if stretch is None:
            return None
        batches = [self.rows if rows is None else rows for rows in batches]
        return stretch.sparse_sgd_steps(self.X.rows, labels, W, b, weights, loss, velocity, batches, steps)

    def check_finite(self, name: str = "X") -> None:
        A, finite = self.X.on_host, self.X.finite
        if finite is not None and A.values is not None:
            entry = int(finite.argmin())
            raise not_finite(name, row_of(entry, A.indptr), int(A.indices[entry]), A.values[entry])

    def largest(self, column: int) -> tuple[int, float]:
        A = self.X.on_host
        entries = np.flatnonzero(A.indices == column)
        if not len(entries):
            return 0, 0.0
        values = np.ones(len(entries)) if A.values is None else A.values[entries].astype(np.float64)
        place = int(abs(values).argmax())
        return row_of(int(entries[place]), A.indptr), float(values[place])

    def pass_bytes(self, K: int, c: int) -> int:
        q, size = K * c, np.dtype(self.dtype).itemsize
        rows = self.X.panels[0].stop
        gradients = 1 + int(np.ceil(np.log2(len(self.X.panels) + 1)))  # one for each level of the tree
        scores = size * q * rows * (1 if self.rows is None else 2)
        labels = (4 + size * K) * rows  # those of the panel, and their weights
        parts = 32 * max(rows, self.d)  # how much work comes before each row or column, to divide it among threads
        return scores + labels + parts + size * q * (self.d + 1) * gradients

    def gram_of_columns(self, columns: Array, weights: Array, smallest: float) -> Array:
        s = weights if self.rows is None else np.bincount(self.backend.to_numpy(self.rows), weights, self.n_stored)
        return self.backend.ops.sparse_gram(self.X.rows, s, columns, smallest)

    def pass_cost(self, c: int) -> float:
        return FLOPS_PER_ENTRY * len(self.X.on_host.indices) * c * self.n / self.n_stored
