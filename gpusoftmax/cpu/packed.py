"""Passes over X by register tiles: packs weights, unpacks gradients, and calls the kernels with reused buffers.

X is read where it is. tiles.py describes the layouts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.arguments import (
    Functions,
    Layout,
    Matrix,
    Model,
    Options,
    Output,
    Parts,
    Rows,
    Scratch,
    Steps,
    Sums,
)
from gpusoftmax.cpu.threads import for_each, leaf_rows
from gpusoftmax.operations import SgdSteps
from gpusoftmax.tree import Nodes, Partial, TreeSum

ALIGNMENT = 64  # bytes of a cache line, and of the longest vector
KEPT_BYTES = 64 << 20  # kept for the next pass, because a new page of memory costs more than writing to it

NO_NODES = np.empty((0, 2), np.int64)


def aligned(n_bytes: int) -> Array:
    """Uninitialised bytes that start at a multiple of ALIGNMENT."""
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


def aligned_like(x: Array) -> Array:
    """An uninitialised, aligned array of the shape and type of x."""
    return aligned(x.nbytes).view(x.dtype).reshape(x.shape)


class Buffers:
    """Buffers that are kept between passes. Any thread may take one, and gives it back after use."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all buffers, and replace the lock."""
        self.lock, self.kept = threading.Lock(), list[Array]()

    def take(self, n_bytes: int) -> Array:
        """Return an aligned buffer of at least n_bytes."""
        with self.lock:
            fitting = [i for i, buffer in enumerate(self.kept) if n_bytes <= len(buffer) <= 2 * n_bytes + 4096]
            if fitting:
                return self.kept.pop(fitting[-1])
        return aligned(n_bytes)

    def give(self, buffer: Array) -> None:
        """Keep a buffer for later; the oldest ones are dropped when there are too many."""
        with self.lock:
            self.kept.append(buffer)
            while sum(map(len, self.kept)) > KEPT_BYTES:
                self.kept.pop(0)


buffers = Buffers()
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a lock that a thread of its parent holds
    os.register_at_fork(after_in_child=buffers.forget)


def vector_pair(kernels: ModuleType, dtype: Any) -> int:
    """Numbers of a type that two vectors hold, which are the features of a slab."""
    return int(2 * kernels.VECTOR // np.dtype(dtype).itemsize)


def unpack(packed: Array, d: int) -> Array:
    """Undo `Tiles.pack`; returns a copy (d, q)."""
    n_slabs, q, width = packed.shape
    return packed.transpose(0, 2, 1).reshape(n_slabs * width, q)[:d].copy()


class Tiles:
    """X, W and b laid out for passes by register tiles. `kernels` is the module of that name."""

    def __init__(self, kernels: ModuleType, X: Array, W: Array, b: Array) -> None:
        self.kernels, self.dtype = kernels, W.dtype
        d, K, c = W.shape
        self.width = vector_pair(kernels, W.dtype)
        row_stride, column_stride = X.strides
        self.kept = X  # the matrix has only its address
        self.matrix = Matrix(X.ctypes.data, row_stride, X.itemsize if d == 1 else column_stride, X.itemsize)
        direct = d // self.width if self.matrix.column_stride == X.itemsize else 0
        self.layout = Layout(d, -(-d // self.width), direct, K, K * c, W.itemsize)
        # b is copied because steps of SGD change it
        self.model = Model(self.pack(W.reshape(d, K * c)), b.reshape(K * c).copy())

    @property
    def sums(self) -> Sums:
        """The places of the sums of a node, relative to its start."""
        found: Sums = self.kernels.sums_at(0, self.layout)
        return found

    def pack(self, W: Array) -> Array:
        """Pack W (d, q) into slabs (n_slabs, q, width), with zeros beyond the last feature."""
        (d, q), n_slabs, width = W.shape, self.layout.n_slabs, self.width
        packed = aligned(n_slabs * q * width * W.itemsize).view(W.dtype).reshape(n_slabs, q, width)
        full = d // width  # slabs
        packed[:full] = W[: full * width].reshape(full, width, q).transpose(0, 2, 1)
        if full < n_slabs:
            packed[full] = 0
            packed[full, :, : d - full * width] = W[full * width :].T
        return packed

    def pack_vector(self, x: Array | None, neutral: float, dtype: Any) -> Array:
        """Pack x (d,) into (n_slabs, width); if x is None, every number is `neutral`."""
        column = np.full(self.layout.d, neutral) if x is None else x
        return self.pack(column.astype(dtype)[:, None])[:, 0]

    def functions(self, loss: int | None, gradient: bool, options: Options | None = None) -> Functions:
        """The functions that a pass calls; see `kernels.functions_for`."""
        n_slabs, direct = self.layout.n_slabs, self.layout.direct
        functions: Functions = self.kernels.functions_for(
            self.kept.dtype, self.dtype, self.layout.q, direct > 0, direct < n_slabs, loss, gradient, options
        )
        return functions

    def scratch(self) -> tuple[Array, tuple[int, ...]]:
        """Take scratch memory for a thread's pass from `buffers`; returns it and the addresses of its parts."""
        offsets: Scratch = self.kernels.scratch_of(self.layout)
        scratch = buffers.take(offsets.end)
        scratch[offsets.features : offsets.end] = 0
        start = scratch.ctypes.data
        return scratch, tuple(start + offset for offset in offsets)


def rows_of(
    indices: Array | None, labels: Array | None = None, weights: Array | None = None
) -> tuple[Rows, list[Array | None]]:
    """The `Rows` of a pass, and the arrays whose addresses they hold, to be kept until the pass has ended."""
    arrays = [None if x is None else np.ascontiguousarray(x) for x in (indices, labels, weights)]
    addresses = [0 if x is None else x.ctypes.data for x in arrays]
    return Rows(*addresses), arrays


class PackedSums:
    """Sums over rows by register tiles, at one point W, b; rows are added block by block, along the tree.

    The nodes of the tree are kept in the layout of the tiles. Those of a block lie in buffers, out of which they are
    only copied when another block follows.
    """

    def __init__(self, kernels: ModuleType, W: Array, b: Array, loss: int, with_gradient: bool, n_threads: int) -> None:
        self.kernels, self.W, self.b, self.loss, self.n_threads = kernels, W, b, loss, n_threads
        self.with_gradient = with_gradient
        self.tree, self.taken = TreeSum(), list[Array]()

    def add(self, X: Array, labels: Array, weights: Array | None, rows: Array | None, first_leaf: int) -> None:
        """Add all rows of X, or `rows`, of which the first begins the leaf `first_leaf`."""
        tiles = Tiles(self.kernels, X, self.W, self.b)
        functions = tiles.functions(self.loss, self.with_gradient)
        passed, _kept = rows_of(rows, labels, weights)

        def sum_leaves(parts: Parts, output: Output) -> int:
            found: int = self.kernels.sum_leaves(
                functions, tiles.matrix, tiles.layout, passed, parts, tiles.model, output, self.with_gradient
            )
            return found

        self._add(tiles, len(X) if rows is None else len(rows), first_leaf, sum_leaves)

    def _add(self, tiles: Tiles, n: int, first_leaf: int, sum_leaves: Callable[[Parts, Output], int]) -> None:
        self._let_go_of_buffers()
        layout, sums, dtype, step = tiles.layout, tiles.sums, self.W.dtype, leaf_rows(tiles.layout.d)
        leaves = np.arange(-first_leaf, -(-n // step) + 1)  # those before the first have no rows here
        bounds = np.minimum(step * np.maximum(leaves, 0), n)

        def run(own: range) -> TreeSum:
            (scratch, places), out = tiles.scratch(), buffers.take((2 * len(own).bit_length() + 1) * sums.end)
            self.taken.extend((scratch, out))
            nodes = np.empty((64, 2), np.int64)
            parts = Parts(bounds, first_leaf + own.start, first_leaf + own.stop)
            count = sum_leaves(parts, Output(places, out.ctypes.data, nodes))
            tree = TreeSum()
            for i, (level, index) in enumerate(nodes[:count].tolist()):
                node = out[i * sums.end : (i + 1) * sums.end]
                tree.nodes[level, index] = (
                    node[sums.losses : sums.losses + 8 * layout.K].view(np.float64),
                    node[sums.correct : sums.correct + 8 * layout.K].view(np.float64),
                    node[sums.dW : sums.end if self.with_gradient else sums.dW].view(dtype),
                    node[sums.db : sums.db + layout.q * layout.size].view(dtype),
                )
            return tree

        self.tree.merge(for_each(run, -(-n // step), self.n_threads))

    def total(self, n_leaves: int) -> Partial:
        """Return the sums over all leaves: losses (K,), correct (K,), dW (d, K c), or empty, and db (K c,)."""
        try:
            return self._unpacked(self.tree.total(n_leaves))
        finally:
            self._give_buffers()

    def parts(self) -> Nodes:
        """Return the sums so far, each as in `total`; see `TreeSum.parts`."""
        try:
            return {place: self._unpacked(node) for place, node in self.tree.nodes.items()}
        finally:
            self._give_buffers()

    def _unpacked(self, node: Partial) -> Partial:
        losses, correct, dW, db = node
        q, width = len(db), vector_pair(self.kernels, self.W.dtype)
        gradient = unpack(dW.reshape(-1, q, width), len(self.W)) if self.with_gradient else dW.reshape(0, q)
        return losses.copy(), correct.copy(), gradient, db.copy()

    def _let_go_of_buffers(self) -> None:
        if self.taken:
            self.tree.nodes = {place: tuple(map(np.copy, node)) for place, node in self.tree.nodes.items()}
            self._give_buffers()

    def _give_buffers(self) -> None:
        while self.taken:
            buffers.give(self.taken.pop())


class PackedProducts(PackedSums):
    """Sums of x_i q_i^T, (d, columns), and q_i by register tiles, in place of gradients."""

    def __init__(self, kernels: ModuleType, d: int, columns: int, dtype: Any, n_threads: int) -> None:
        nothing: Array = np.zeros((d, 1, columns), dtype)
        super().__init__(kernels, nothing, nothing[0], 0, True, n_threads)

    def add_products(self, X: Array, coefficients: Array, rows: Array | None, first_leaf: int) -> None:
        """Add all rows of X, or `rows`, with their coefficients; the first of them begins the leaf `first_leaf`."""
        tiles = Tiles(self.kernels, X, self.W, self.b)
        functions, given = tiles.functions(None, True), np.ascontiguousarray(coefficients)
        passed, _kept = rows_of(rows)

        def sum_products(parts: Parts, output: Output) -> int:
            found: int = self.kernels.sum_products(functions, tiles.matrix, tiles.layout, passed, parts, given, output)
            return found

        self._add(tiles, len(given), first_leaf, sum_products)

    def _unpacked(self, node: Partial) -> Partial:
        return super()._unpacked(node)[2:]


def scorer(kernels: ModuleType, X: Array, W: Array, b: Array, rows: Array | None) -> Callable[[slice, Array], None]:
    """Return a function that writes the scores of a slice of the rows to the first rows of an array (rows, K, c)."""
    tiles = Tiles(kernels, X, W, b)
    functions = tiles.functions(None, False)
    passed, kept = rows_of(rows)

    def score(part: slice, out: Array, _kept: Any = kept) -> None:
        scratch, places = tiles.scratch()
        kernels.write_scores(
            functions, tiles.matrix, tiles.layout, passed, Parts(np.array([part.start, part.stop]), 0, 1), tiles.model,
            Output(places, out.ctypes.data, NO_NODES),
        )  # fmt: skip
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
    """Take one step for each batch, none of which is longer than a leaf; W, b and velocity are updated in place.

    Returns totals (3, K): values, losses and accuracies, each times the batch's rows; and the first step's values (K,).
    """
    tiles = Tiles(kernels, X, W, b)
    d, K, _ = W.shape
    q, n, dtype, penalty, model = tiles.layout.q, steps.n, W.dtype, steps.penalty, tiles.model
    indices: Array | None = None if batches[0] is None else np.concatenate(batches)  # type: ignore[arg-type]
    passed, _kept = rows_of(indices, labels, weights)
    bounds = np.cumsum([0, *(n if batch is None else len(batch) for batch in batches)])
    arrays = {
        "W": model.W,
        "b": model.b,
        "folded_W": aligned_like(model.W),
        "folded_b": np.empty_like(model.b),
        "weight_sums": np.ascontiguousarray(steps.weight_sums, np.float64),
        "shift": tiles.pack_vector(steps.shift, 0.0, np.float64),
        "inverse_scale": tiles.pack_vector(None if steps.scale is None else 1 / steps.scale, 1.0, dtype),
        "factors": tiles.pack_vector(penalty.factors, 1.0, dtype),
        "strengths": np.ascontiguousarray(penalty.strengths, np.float64),
        "rates": np.ascontiguousarray(steps.rates, dtype),
        "momentum": np.ascontiguousarray(steps.momentum, dtype),
        "totals": np.zeros((3, 2 * K)),
    }
    if steps.linear_term is not None:
        T = steps.linear_term[0].reshape(d, q)
        if steps.scale is not None:  # infinite for constant columns, where T is not used
            T = T * np.where(np.isfinite(steps.scale), steps.scale, 0.0)[:, None]
        arrays["linear_W"] = tiles.pack(T.astype(dtype))
        arrays["linear_b"] = steps.linear_term[1].reshape(q).astype(np.float64)
    if velocity is not None:
        arrays["velocity_W"] = tiles.pack(velocity[0].reshape(d, q))
        arrays["velocity_b"] = velocity[1].reshape(q).copy()
    addresses = dict.fromkeys(Steps._fields, 0) | {name: array.ctypes.data for name, array in arrays.items()}
    sizes = {"n": n, "K": K, "q": q, "n_slabs": tiles.layout.n_slabs}
    options = Options(
        steps.linear_term is not None, velocity is not None, steps.nesterov, steps.fit_intercept, penalty.on_intercept
    )
    (scratch, places), sums = tiles.scratch(), buffers.take(tiles.sums.end)
    kernels.sgd_steps(
        tiles.functions(loss, True, options), tiles.matrix, tiles.layout, passed, Parts(bounds, 0, len(batches)),
        Steps(**(addresses | sizes)), Output(places, sums.ctypes.data, NO_NODES),
    )  # fmt: skip
    buffers.give(scratch)
    buffers.give(sums)
    W[...], b[...] = unpack(model.W, d).reshape(W.shape), model.b.reshape(b.shape)
    if velocity is not None:
        velocity[0][...] = unpack(arrays["velocity_W"], d).reshape(W.shape)
        velocity[1][...] = arrays["velocity_b"].reshape(b.shape)
    totals = arrays["totals"]
    return totals[:, :K], totals[0, K:] / (n if batches[0] is None else len(batches[0]))
