"""Passes over X by register tiles: X where it is, weights and gradients in packed slabs, buffers on boundaries.

The layouts are described in tiles.py. `kernels` is that module, or what has its functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax.cpu.pool import TreeSum, for_each, leaf_rows, sum_of_trees
from gpusoftmax.dtypes import BFLOAT16

Array = npt.NDArray[Any]

ALIGNMENT = 64  # bytes: a line of the cache, and the longest vector
LONG = 16  # slabs from which on it pays to put the slabs' starts on vector boundaries: two more slabs are copied
KEPT_BYTES = 64 << 20  # of buffers that wait for the next pass: fresh pages cost more than what is written to them

MARKERS = {np.dtype(np.float16): np.uint16(0), BFLOAT16: np.int16(0)}  # Numba lacks both


def aligned(n_bytes: int) -> Array:
    """Bytes that start at a multiple of ALIGNMENT; their content is arbitrary."""
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


class Buffers:
    """Buffers that are kept between passes. Any thread may take one; who took it gives it back."""

    def __init__(self) -> None:
        self.lock, self.kept = threading.Lock(), list[Array]()

    def take(self, n_bytes: int) -> Array:
        """At least n_bytes, aligned."""
        with self.lock:
            fitting = [i for i, buffer in enumerate(self.kept) if n_bytes <= len(buffer) <= 2 * n_bytes + 4096]
            if fitting:
                return self.kept.pop(fitting[-1])
        return aligned(n_bytes)

    def give(self, buffer: Array) -> None:
        """Back for the next one; the oldest ones go when there are too many."""
        with self.lock:
            self.kept.append(buffer)
            while sum(map(len, self.kept)) > KEPT_BYTES:
                self.kept.pop(0)


buffers = Buffers()


@dataclass(frozen=True)
class View:
    """X (n, d) as the kernels take it.

    Attributes
    ----------
    X : ndarray
        Kept alive.
    address, row_stride, column_stride, item : int
        Bytes; column_stride is 0 where features lie side by side.
    lead : int
        Elements between the first slab's start and the first feature.
    d, n_slabs : int
    marker : scalar
        Carries the type.
    """

    X: Array
    address: int
    row_stride: int
    column_stride: int
    item: int
    lead: int
    d: int
    n_slabs: int
    marker: Any

    @classmethod
    def of(cls, X: Array, width: int) -> View:
        """`width`: features of a slab, two vectors."""
        d, item, vector = X.shape[1], X.itemsize, width // 2 * X.itemsize
        address, (row_stride, column_stride) = X.ctypes.data, X.strides
        side_by_side = column_stride == item or d == 1
        off = address % vector
        lead = 0
        if off and off % item == 0 and row_stride % vector == 0 and side_by_side and d >= LONG * width:
            lead = width - (vector - off) // item
        marker = MARKERS.get(X.dtype, X.dtype.type(0))
        n_slabs = -(-(lead + d) // width)
        return cls(X, address, row_stride, 0 if side_by_side else column_stride, item, lead, d, n_slabs, marker)

    @property
    def arguments(self) -> tuple[int, ...]:
        """The kernels' first arguments."""
        return self.address, self.row_stride, self.column_stride, self.item, self.lead, self.d, self.n_slabs

    def scratch(self, kernels: ModuleType, q: int, K: int, size: int) -> Array:
        """Memory for one thread's visit."""
        first, last = kernels.direct_slabs(self.d, self.n_slabs, self.lead, self.column_stride == 0, size)
        *_, features, length = kernels.scratch_parts(q, K, size, self.n_slabs - (last - first))
        scratch = buffers.take(length)
        scratch[features:length] = 0
        return scratch

    def pack(self, W: Array, width: int) -> Array:
        """W (d, q) in slabs (n_slabs, q, width), zero beyond the features."""
        q = W.shape[1]
        padded = np.zeros((self.n_slabs * width, q), W.dtype)
        padded[self.lead : self.lead + self.d] = W
        packed = aligned(padded.nbytes).view(W.dtype).reshape(self.n_slabs, q, width)
        packed[...] = padded.reshape(self.n_slabs, width, q).transpose(0, 2, 1)
        return packed

    def unpack(self, packed: Array) -> Array:
        """The reverse, (d, q), copied."""
        n_slabs, q, width = packed.shape
        return packed.transpose(0, 2, 1).reshape(n_slabs * width, q)[self.lead : self.lead + self.d].copy()


def visit(
    kernels: ModuleType,
    X: Array,
    labels: Array,
    W: Array,
    b: Array,
    weights: Array | None,
    loss: int,
    rows: Array | None,
    with_gradient: bool,
    n_threads: int,
) -> tuple[Array, Array, Array, Array]:
    """Losses (K,), correct (K,), dW (d, K c), empty without a gradient, and db (K c,), summed over rows."""
    d, K, c = W.shape
    q, size, n = K * c, W.itemsize, len(X) if rows is None else len(rows)
    width = 2 * kernels.VECTOR // size
    view = View.of(X, width)
    packed, bias = view.pack(W.reshape(d, q), width), np.ascontiguousarray(b.reshape(q))
    step = leaf_rows(d, q)
    n_leaves = -(-n // step)
    parts = kernels.partial_parts(q, K, size, view.n_slabs if with_gradient else 0)
    addresses = [0 if x is None else x.ctypes.data for x in (rows, labels, weights)]
    taken: list[Array] = []

    def run(leaves: range) -> TreeSum:
        scratch = view.scratch(kernels, q, K, size)
        sums = buffers.take((2 * len(leaves).bit_length() + 1) * parts[-1])
        taken.extend((scratch, sums))
        nodes = np.empty((64, 2), np.int64)
        count = kernels.visit_leaves(
            *view.arguments, q, K, size, loss, *addresses, n, leaves.start, leaves.stop, step,
            packed.ctypes.data, bias.ctypes.data, scratch.ctypes.data, sums.ctypes.data, nodes.ctypes.data,
            with_gradient, view.marker, W.dtype.type(0),
        )  # fmt: skip
        tree = TreeSum()
        for i, (level, index) in enumerate(nodes[:count].tolist()):
            node = sums[i * parts[-1] : (i + 1) * parts[-1]]
            tree.nodes[level, index] = (
                node[: 8 * K].view(np.float64), node[parts[1] : parts[1] + 8 * K].view(np.float64),
                node[parts[2] : parts[2] + q * size].view(W.dtype), node[parts[3] :].view(W.dtype),
            )  # fmt: skip
        return tree

    try:
        losses, correct, db, dW = sum_of_trees(for_each(run, n_leaves, n_threads), n_leaves)
        gradient = view.unpack(dW.reshape(-1, q, width)) if with_gradient else np.empty((0, q), W.dtype)
        return losses.copy(), correct.copy(), gradient, db.copy()
    finally:
        for buffer in taken:
            buffers.give(buffer)


def scorer(kernels: ModuleType, X: Array, W: Array, b: Array) -> Callable[[slice, Array], None]:
    """A function that writes the scores of some rows of X into an array (at least as many rows, K, c)."""
    d, K, c = W.shape
    q, size = K * c, W.itemsize
    width = 2 * kernels.VECTOR // size
    view = View.of(X, width)
    packed, bias = view.pack(W.reshape(d, q), width), np.ascontiguousarray(b.reshape(q))

    def score(rows: slice, out: Array) -> None:
        scratch = view.scratch(kernels, q, 1, size)
        address, *others = view.arguments
        kernels.score_rows(
            address + rows.start * view.row_stride, *others, q, size, rows.stop - rows.start, packed.ctypes.data,
            bias.ctypes.data, scratch.ctypes.data, out.ctypes.data, view.marker, W.dtype.type(0),
        )  # fmt: skip
        buffers.give(scratch)

    return score


@dataclass(frozen=True)
class Descent:
    """What steps of SGD need to know beside X, labels, weights and loss; see `solvers.SGD`.

    Attributes
    ----------
    shift, scale : ndarray of float64, (d,), or None
        Of the features.
    factors : ndarray of float64, (d,), or None
        Of the penalty.
    l2, sums : ndarray of float64, (K,)
        Penalties, and sums of all rows' weights.
    rates : ndarray, (steps, K)
    momentum : ndarray, (K,)
    nesterov, fit_intercept, penalize_intercept : bool
    """

    shift: Array | None
    scale: Array | None
    factors: Array | None
    l2: Array
    sums: Array
    rates: Array
    momentum: Array
    nesterov: bool
    fit_intercept: bool
    penalize_intercept: bool


def sgd_steps(
    kernels: ModuleType,
    X: Array,
    labels: Array,
    W: Array,
    b: Array,
    weights: Array | None,
    loss: int,
    velocity: tuple[Array, Array] | None,
    batches: list[Array | None],
    descent: Descent,
) -> tuple[Array, Array]:
    """One step for each batch, each no longer than a leaf; W, b and velocity are updated in place.

    -> totals (3, K): values, losses and accuracies, each times the batch's rows; and the first step's values (K,).
    """
    d, K, c = W.shape
    q, size, n = K * c, W.itemsize, len(X)
    width = 2 * kernels.VECTOR // size
    view = View.of(X, width)

    def vector(x: Array | None, neutral: float, dtype: Any = W.dtype) -> Array:  # one number a feature
        column = np.full(d, neutral) if x is None else x
        return view.pack(column.astype(dtype)[:, None], width)[:, 0]

    inverse = None if descent.scale is None else 1 / descent.scale
    packed = view.pack(W.reshape(d, q), width)
    bias = np.ascontiguousarray(b.reshape(q))
    moving = view.pack(velocity[0].reshape(d, q), width) if velocity else np.empty((0, q, width), W.dtype)
    moving_bias = np.ascontiguousarray(velocity[1].reshape(q)) if velocity else np.empty(0, W.dtype)
    rows: Array | None = None if batches[0] is None else np.concatenate(batches)  # type: ignore[arg-type]
    lengths = [n if batch is None else len(batch) for batch in batches]
    starts = np.cumsum([0, *lengths])
    totals, first = np.zeros((3, K)), np.zeros(K)
    scratch = view.scratch(kernels, q, K, size)
    sums = buffers.take(kernels.partial_parts(q, K, size, view.n_slabs)[-1])
    folded = aligned(packed.nbytes).view(W.dtype).reshape(packed.shape)
    addresses = [0 if x is None else x.ctypes.data for x in (rows, labels, weights)]
    kernels.sgd_steps(
        *view.arguments, q, K, size, loss, *addresses, int(starts[-1]), starts, n, descent.sums, descent.l2,
        descent.rates, descent.momentum, descent.nesterov, descent.fit_intercept, descent.penalize_intercept,
        packed, bias, moving, moving_bias, vector(descent.shift, 0.0, np.float64), vector(inverse, 1.0),
        vector(descent.factors, 1.0), folded, np.empty_like(bias), scratch.ctypes.data, sums.ctypes.data, totals, first,
        view.marker, W.dtype.type(0),
    )  # fmt: skip
    buffers.give(scratch)
    buffers.give(sums)
    W[...], b[...] = view.unpack(packed).reshape(W.shape), bias.reshape(b.shape)
    if velocity:
        velocity[0][...] = view.unpack(moving).reshape(W.shape)
        velocity[1][...] = moving_bias.reshape(b.shape)
    return totals, first
