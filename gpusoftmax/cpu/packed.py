"""Passes over X by register tiles: X where it is, weights and gradients in packed slabs, buffers on boundaries.

The layouts are described in tiles.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.threads import TreeSum, for_each, leaf_rows, sum_of_trees
from gpusoftmax.dtypes import BFLOAT16
from gpusoftmax.operations import SgdSteps

ALIGNMENT = 64  # bytes: a line of the cache, and the longest vector
KEPT_BYTES = 64 << 20  # of buffers that wait for the next pass: fresh pages cost more than what is written to them

MARKERS = {np.dtype(np.float16): np.uint16(0), BFLOAT16: np.int16(0)}  # Numba lacks both


def aligned(n_bytes: int) -> Array:
    """Bytes that start at a multiple of ALIGNMENT; their content is arbitrary."""
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


def aligned_like(x: Array) -> Array:
    """An aligned array of the same shape and type."""
    return aligned(x.nbytes).view(x.dtype).reshape(x.shape)


class Buffers:
    """Buffers that are kept between passes. Any thread may take one; who took it gives it back."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing is kept, and nobody holds the lock."""
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
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a lock that a thread of its parent's held
    os.register_at_fork(after_in_child=buffers.forget)


@dataclass(frozen=True)
class View:
    """X (n, d) as the kernels take it.

    Attributes
    ----------
    X : ndarray
        Kept alive.
    address, row_stride, column_stride, item : int
        Bytes. Features lie side by side where column_stride is item; it is 0 where one column stands for all.
    d, n_slabs : int
    marker : scalar
        Carries the type.
    """

    X: Array
    address: int
    row_stride: int
    column_stride: int
    item: int
    d: int
    n_slabs: int
    marker: Any

    @classmethod
    def over(cls, X: Array, width: int) -> View:
        """`width`: features of a slab, two vectors."""
        d, (row_stride, column_stride) = X.shape[1], X.strides
        stride = X.itemsize if d == 1 else column_stride
        marker = MARKERS.get(X.dtype, X.dtype.type(0))
        return cls(X, X.ctypes.data, row_stride, stride, X.itemsize, d, -(-d // width), marker)

    @property
    def arguments(self) -> tuple[int, ...]:
        """The kernels' first arguments."""
        return self.address, self.row_stride, self.column_stride, self.item, self.d, self.n_slabs

    def pack(self, W: Array, width: int) -> Array:
        """W (d, q) in slabs (n_slabs, q, width), zero beyond the features."""
        q = W.shape[1]
        padded = np.zeros((self.n_slabs * width, q), W.dtype)
        padded[: self.d] = W
        packed = aligned(padded.nbytes).view(W.dtype).reshape(self.n_slabs, q, width)
        packed[...] = padded.reshape(self.n_slabs, width, q).transpose(0, 2, 1)
        return packed

    def unpack(self, packed: Array) -> Array:
        """The reverse, (d, q), copied."""
        n_slabs, q, width = packed.shape
        return packed.transpose(0, 2, 1).reshape(n_slabs * width, q)[: self.d].copy()


class Tiles:
    """X, W and b laid out for passes by register tiles. `kernels` is the module of that name."""

    def __init__(self, kernels: ModuleType, X: Array, W: Array, b: Array) -> None:
        self.kernels, self.dtype = kernels, W.dtype
        d, self.K, c = W.shape
        self.q, self.width = self.K * c, 2 * kernels.VECTOR // W.itemsize
        self.view = View.over(X, self.width)
        self.W = self.view.pack(W.reshape(d, self.q), self.width)
        self.b = b.reshape(self.q).copy()  # a read-only one would be another type, and compiled anew
        self.parts = kernels.partial_parts(self.q, self.K, W.itemsize, self.view.n_slabs)

    def visit(
        self,
        bounds: Array,
        parts: range,
        scratch: Array,
        partials: Array,
        *,
        loss: int = 0,
        rows: Array | None = None,
        labels: Array | None = None,
        weights: Array | None = None,
        nodes: Array | None = None,
        scores: int = 0,
        with_gradient: bool = True,
        steps: tuple[Any, ...] | None = None,
    ) -> int:
        """`kernels.visit`, with nothing for what is not given."""
        none, no_slabs = np.empty(0, self.dtype), np.empty((0, self.q, self.width), self.dtype)
        if steps is None:
            steps = (
                0, no_slabs, none, np.empty((0, self.width)), no_slabs[:, 0], no_slabs[:, 0], no_slabs, np.empty(0),
                np.empty(0), np.empty(0),
                none.reshape(0, self.K), none, False, False, False, no_slabs, none, np.empty((0, 0)),
            )  # fmt: skip
        given = [None if x is None else np.ascontiguousarray(x) for x in (rows, labels, weights)]
        addresses = [0 if x is None else x.ctypes.data for x in given]
        nodes = np.empty((0, 2), np.int64) if nodes is None else nodes
        count: int = self.kernels.visit(
            *self.view.arguments, self.q, self.K, self.dtype.itemsize, loss, *addresses, bounds, parts.start,
            parts.stop, self.W, self.b, scratch.ctypes.data, partials.ctypes.data, nodes, scores, with_gradient, *steps,
            self.view.marker, self.dtype.type(0), self.kernels.SOURCE,
        )  # fmt: skip
        return count

    def scratch(self) -> Array:
        """Memory for one thread's visit."""
        view, size = self.view, self.dtype.itemsize
        others = view.n_slabs - self.kernels.direct_slabs(view.d, view.column_stride == view.item, size)
        *_, copied, length = self.kernels.scratch_parts(self.q, self.K, size, others)
        scratch = buffers.take(length)
        scratch[copied:length] = 0
        return scratch

    def vector(self, x: Array | None, neutral: float, dtype: Any) -> Array:
        """One number a feature, packed (n_slabs, width); `neutral` for each if there are none."""
        column = np.full(self.view.d, neutral) if x is None else x
        return self.view.pack(column.astype(dtype)[:, None], self.width)[:, 0]


def sums_over_rows(
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
    tiles = Tiles(kernels, X, W, b)
    K, q, size, parts, dtype = tiles.K, tiles.q, W.itemsize, tiles.parts, W.dtype
    n = len(X) if rows is None else len(rows)
    bounds = np.append(np.arange(0, n, leaf_rows(W.shape[0])), n)
    n_leaves = len(bounds) - 1
    taken: list[Array] = []

    def run(leaves: range) -> TreeSum:
        scratch, sums = tiles.scratch(), buffers.take((2 * len(leaves).bit_length() + 1) * parts[-1])
        taken.extend((scratch, sums))
        nodes = np.empty((64, 2), np.int64)
        count = tiles.visit(
            bounds, leaves, scratch, sums, loss=loss, rows=rows, labels=labels, weights=weights, nodes=nodes,
            with_gradient=with_gradient,
        )  # fmt: skip
        tree = TreeSum()
        for i, (level, index) in enumerate(nodes[:count].tolist()):
            node = sums[i * parts[-1] : (i + 1) * parts[-1]]
            tree.nodes[level, index] = (
                node[: 8 * K].view(np.float64), node[parts[1] : parts[1] + 8 * K].view(np.float64),
                node[parts[2] : parts[2] + q * size].view(dtype),
                node[parts[3] : None if with_gradient else parts[3]].view(dtype),
            )  # fmt: skip
        return tree

    try:
        losses, correct, db, dW = sum_of_trees(for_each(run, n_leaves, n_threads), n_leaves)
        gradient = tiles.view.unpack(dW.reshape(-1, q, tiles.width)) if with_gradient else np.empty((0, q), dtype)
        return losses.copy(), correct.copy(), gradient, db.copy()
    finally:
        for buffer in taken:
            buffers.give(buffer)


def scorer(kernels: ModuleType, X: Array, W: Array, b: Array, rows: Array | None) -> Callable[[slice, Array], None]:
    """A function that writes the scores of a part of the rows into an array (at least as many rows, K, c)."""
    tiles = Tiles(kernels, X, W, b)
    item = W.shape[1] * W.shape[2] * W.itemsize

    def score(part: slice, out: Array) -> None:
        scratch = tiles.scratch()
        bounds = np.array([part.start, part.stop])
        # the kernel writes row i at the i-th row from the address
        address = out.ctypes.data - part.start * item
        tiles.visit(bounds, range(1), scratch, scratch, rows=rows, with_gradient=False, scores=address)
        buffers.give(scratch)

    return score


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
    steps: SgdSteps,
) -> tuple[Array, Array]:
    """One step for each batch, each no longer than a leaf; W, b and velocity are updated in place.

    -> totals (3, K): values, losses and accuracies, each times the batch's rows; and the first step's values (K,).
    """
    tiles = Tiles(kernels, X, W, b)
    d, K, _ = W.shape
    q, n, dtype, penalty = tiles.q, steps.n, W.dtype, steps.penalty
    moving = tiles.view.pack(velocity[0].reshape(d, q), tiles.width) if velocity else tiles.W[:0]
    moving_bias = velocity[1].reshape(q).copy() if velocity else tiles.b[:0]
    rows: Array | None = None if batches[0] is None else np.concatenate(batches)  # type: ignore[arg-type]
    bounds = np.cumsum([0, *(n if batch is None else len(batch) for batch in batches)])
    totals = np.zeros((3, 2 * K))
    inverse = None if steps.scale is None else 1 / steps.scale
    linear, linear_bias = tiles.W[:0], np.empty(0)
    if steps.linear_term is not None:
        T = steps.linear_term[0].reshape(d, q)
        if steps.scale is not None:  # infinite for constant columns, which have no part in T
            T = T * np.where(np.isfinite(steps.scale), steps.scale, 0.0)[:, None]
        linear, linear_bias = tiles.view.pack(T.astype(dtype), tiles.width), steps.linear_term[1].reshape(q).copy()
    scratch, sums = tiles.scratch(), buffers.take(tiles.parts[-1])
    settings = (
        n, moving, moving_bias, tiles.vector(steps.shift, 0.0, np.float64), tiles.vector(inverse, 1.0, dtype),
        tiles.vector(penalty.factors, 1.0, dtype), linear, linear_bias, steps.weight_sums, penalty.strengths,
        steps.rates, steps.momentum, steps.nesterov, steps.fit_intercept, penalty.on_intercept,
        aligned_like(tiles.W), np.empty_like(tiles.b), totals,
    )  # fmt: skip
    tiles.visit(
        bounds, range(len(batches)), scratch, sums, loss=loss, rows=rows, labels=labels, weights=weights, steps=settings
    )
    buffers.give(scratch)
    buffers.give(sums)
    W[...], b[...] = tiles.view.unpack(tiles.W).reshape(W.shape), tiles.b.reshape(b.shape)
    if velocity:
        velocity[0][...] = tiles.view.unpack(moving).reshape(W.shape)
        velocity[1][...] = moving_bias.reshape(b.shape)
    first = totals[0, K:] / (n if batches[0] is None else len(batches[0]))
    return totals[:, :K], first
