"""Losses and gradients for few columns of scores, with one read of X: launches of few_classes.cu.

A launch sums leaves of some rows, and adds these along the tree of `gpusoftmax.tree`. Its sum is a node of that tree,
so how many rows a launch has does not change the bits. It has many where X is on the device, and the rows of a chunk
where X is copied there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax.cuda import buckets
from gpusoftmax.cuda.chunks import (
    Chunk,
    chunk_rows,
    count,
    for_each_chunk,
    is_on_device,
    leaf_rows,
    live_leaves,
)
from gpusoftmax.cuda.compile import CLUSTERS_SINCE, KINDS, NOTHING, capability, kernel, or_nothing
from gpusoftmax.cuda.row_losses import no_bad_row
from gpusoftmax.dtypes import BFLOAT16
from gpusoftmax.tree import Partial, TreeSum

MOST_SCORES = 16  # of a row: W and dW for more do not fit into registers
FEWEST_FEATURES = 128  # with fewer, too many threads of a warp would have none
MOST_THREADS = 128  # of a block: with 255 registers each, two such blocks run on a multiprocessor
MOST_SLICES = 8  # blocks that share the features: what a cluster may have on every GPU that has clusters
SEGMENT = buckets.SEGMENT  # bytes that a thread copies at once
RESERVED = 1 << 10  # bytes of shared memory that the device takes for itself for each block
LEAF_BYTES = 64 << 20  # of the leaves of a launch
NODES = 16  # that add_leaves adds up at a time
ADD_THREADS = 256
OLDEST_CAPABILITY = 80  # the first with copies to shared memory that run beside the computation
ALONE, CLUSTER, FLAGS = range(3)  # few_classes.cu's ways to exchange scores
TYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint8), BFLOAT16)
# Rows of a tile, and tiles in shared memory, the best first. Tensor cores take 16 rows.
TILES = ((8, 4), (8, 3), (4, 4), (4, 3), (2, 4), (2, 3))
TENSOR_TILES = ((16, 6), (16, 4), (16, 3), (16, 2))
PITCH_ROWS = 2  # tensor cores: rows of a tile that are there for the banks of shared memory alone


def multiprocessor_memory(arch: int) -> int:
    """Return the bytes of shared memory that the blocks on a multiprocessor have in common, from sm_80 on."""
    if arch in (80, 87):
        return 164 << 10
    return (228 if 90 <= arch < 120 else 100) << 10


def padded(scores: int) -> int:
    """Return a number of scores, rounded up to whole segments of 16 bytes."""
    return -(-scores // 4) * 4


@dataclass(frozen=True)
class Variant:
    """One variant of the kernel.

    Attributes
    ----------
    kind : int
        The kind of X.
    classes, models : int
        There are `classes` scores of a row under each model.
    features : int
        Features of a thread.
    threads : int
        Threads of a block.
    slices : int
        Blocks that share the features.
    exchange : int
        How these exchange scores: ALONE, CLUSTER or FLAGS.
    rows, stages : int
        Rows of a tile, and tiles in shared memory.
    leaf : int
        Rows of a leaf.
    """

    kind: int
    classes: int
    models: int
    features: int
    threads: int
    slices: int
    exchange: int
    rows: int
    stages: int
    leaf: int

    @property
    def scores(self) -> int:
        """Scores of a row."""
        return self.classes * self.models

    @property
    def padded(self) -> int:
        """Scores of a row, rounded up to whole segments of 16 bytes."""
        return padded(self.scores)

    @property
    def group(self) -> int:
        """float32: rows whose partial scores a thread has in registers at a time: up to 40 numbers, beside W and dW."""
        return max(rows for rows in (1, 2, 4, 8) if rows == 1 or (rows <= self.rows and rows * self.scores <= 40))

    @property
    def blocks(self) -> int:
        """Blocks on a multiprocessor, with 255 registers a thread."""
        return 2 * MOST_THREADS // self.threads

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block: few_classes.cu's struct Shared, which checks this sum."""
        ring_rows = self.rows + (PITCH_ROWS if by_tensor_cores(self.kind) else 0)
        ring = self.stages * ring_rows * self.threads * self.features * buckets.ITEM_SIZE[self.kind]
        tile = self.rows * self.scores
        numbers = self.rows * self.padded + 2 * (self.threads // 32 + self.slices) * tile
        numbers += self.leaf * (2 + 3 * self.models + 1) + self.padded + 4
        return -(-(ring + 4 * numbers) // 16) * 16

    def macros(self, loss: int) -> dict[str, int]:
        """Return the macros that select the variant in kernels/few_classes.cu."""
        return {
            "SOURCE": self.kind, "LOSS": loss, "CLASSES": self.classes, "MODELS": self.models,
            "FEATURES": self.features, "ROWS": self.rows, "GROUP": self.group, "STAGES": self.stages,
            "THREADS": self.threads, "SLICES": self.slices, "EXCHANGE": self.exchange, "LEAF": self.leaf,
            "BLOCKS": self.blocks, "SHARED": self.shared,
        }  # fmt: skip


def by_tensor_cores(kind: int) -> bool:
    """Whether tensor cores multiply features of this kind: all but float32, for which they have too few bits."""
    return kind != buckets.FLOAT32


def _tiles(kind: int) -> tuple[tuple[int, int], ...]:
    """Return the tiles to choose from, the best first."""
    return TENSOR_TILES if by_tensor_cores(kind) else TILES


def rows_of_leaf(kind: int) -> int:
    """Return the rows of a leaf: no more than a chunk has, and enough for X to be much larger than the leaves' sums."""
    return 256 if by_tensor_cores(kind) else 128


def thread_features(kind: int, scores: int) -> int:
    """Return the features of a thread: W and dW for them stay in its registers."""
    return 8 if not by_tensor_cores(kind) and scores <= 12 else 4


def slices(kind: int, d: int, scores: int) -> int:
    """Return the number of blocks that share d features."""
    return -(-d // (MOST_THREADS * thread_features(kind, scores)))


def suits(dtype: Any, d: int, K: int, c: int, precision: str) -> bool:
    """Whether gradients of K c scores from d features of this type are computed here, on the current device.

    Lower precisions than the highest are left to products, whose speed they are for.
    """
    q, dtype = K * c, np.dtype(dtype)
    if dtype not in TYPES or precision != "highest" or not 2 <= c <= q <= MOST_SCORES or d < FEWEST_FEATURES:
        return False
    fits = d * dtype.itemsize % SEGMENT == 0 and slices(KINDS[dtype], d, q) <= MOST_SLICES
    return fits and capability() >= OLDEST_CAPABILITY


def choose(kind: int, d: int, K: int, c: int, arch: int) -> Variant:
    """Return the variant for d features of a kind on a device of compute capability `arch`, 90 for 9.0.

    How features are divided among threads and blocks, which decides about bits, depends on the shape alone.
    """
    q = K * c
    features, blocks = thread_features(kind, q), slices(kind, d, q)
    threads = 32 * -(-d // (32 * features * blocks))
    exchange = ALONE if blocks == 1 else CLUSTER if arch >= CLUSTERS_SINCE else FLAGS
    variants = [
        Variant(kind, c, K, features, threads, blocks, exchange, *tile, rows_of_leaf(kind)) for tile in _tiles(kind)
    ]
    memory = multiprocessor_memory(arch)
    fitting = [one for one in variants if one.blocks * (one.shared + RESERVED) <= memory]
    alone = [one for one in variants if one.shared + RESERVED <= memory]
    return (fitting or alone)[0]


def _leaf_bytes(d: int, q: int, K: int) -> int:
    """Return the bytes of the sums of a leaf: dW, db and totals."""
    return (d * q + padded(q)) * 4 + 16 * K


def launch_rows(kind: int, d: int, K: int, c: int) -> int:
    """Return the rows of a launch, if X is on the device: a power of two of leaves."""
    q = K * c
    leaves = max(1, LEAF_BYTES // _leaf_bytes(d, q, K))
    return min(rows_of_leaf(kind) << (leaves.bit_length() - 1), leaf_rows(chunk_rows(d, q)))


def pass_bytes(dtype: Any, n: int, d: int, K: int, c: int) -> int:
    """Return what `gradient_tree` allocates for n rows, an upper bound; an X that is copied is not counted."""
    kind, q = KINDS[np.dtype(dtype)], K * c
    step = launch_rows(kind, d, K, c)
    whole = leaf_rows(chunk_rows(d, q))
    small = min(step, chunk_rows(d, q))  # if X is not on the device
    nodes = live_leaves(-(-n // whole)) + live_leaves(-(-min(n, whole) // small))
    node = (d + 1) * q * 4 + 16 * K
    leaves = -(-min(n, step) // rows_of_leaf(kind))
    exchanged = leaves * slices(kind, d, q) * (2 * max(rows for rows, _ in _tiles(kind)) * q * 4 + 4) + 4
    return nodes * node + leaves * _leaf_bytes(d, q, K) + d * q * 4 + exchanged + 8


def _in_place(X: Any) -> bool:
    """Whether the kernel can read X where it is: whole segments, at multiples of their size."""
    aligned = X.data.ptr % SEGMENT == 0 and X.strides[0] % SEGMENT == 0
    return aligned and X.strides[1] == X.dtype.itemsize


def _rows_of(chunk: Chunk, readable: bool) -> tuple[Any, Any, Any]:
    """Return a matrix that the kernel can read, the chunk's rows in it (None: all), and `chunk.picked`."""
    if chunk.rows is None:
        x = chunk.array[chunk.start : chunk.start + len(chunk)]
        return x if readable else x.copy(), None, chunk.picked
    numbers = chunk.rows[chunk.here]
    return (chunk.array, numbers, numbers) if readable else (chunk.array[numbers], None, numbers)


def gradient_tree(
    W: Any, b: Any, loss: int, X: Any, labels: Any, weights: Any, rows: Any = None, first_row: int = 0
) -> TreeSum:
    """Sum over rows; see `gradients.GradientSums.over`. A node has totals (K, 2), and dW and db in (d + 1, K c)."""
    (d, K, c), n, kind = W.shape, count(X, rows), KINDS[X.dtype]
    q = K * c
    whole, step = leaf_rows(chunk_rows(d, q)), launch_rows(kind, d, K, c)
    in_place = is_on_device(X) and _in_place(X)
    if not in_place:  # there is a copy of each chunk
        step = min(step, chunk_rows(d, q))
    launch = _Launch(choose(kind, d, K, c, capability()), W, b, loss, -(-min(n, step) // rows_of_leaf(kind)))
    tree, launches = TreeSum(), TreeSum()

    def work(chunk: Chunk) -> None:
        x, numbers, picked = _rows_of(chunk, in_place or not is_on_device(X))
        node = launch(x, numbers, labels[picked], None if weights is None else weights[picked])
        launches.add(0, chunk.first % whole // step, node)
        if chunk.stop % whole == 0 or chunk.stop == n:
            begun = chunk.first // whole * whole
            total = launches.total(-(-(chunk.stop - begun) // step))
            tree.add(0, (first_row + begun) // whole, total)

    for_each_chunk(work, X, rows, step)
    return tree


class _Launch:
    """Launches at one point W (d, K, c), b (K, c) or None, with room for the sums of so many leaves."""

    def __init__(self, variant: Variant, W: Any, b: Any, loss: int, n_leaves: int) -> None:
        import cupy

        self.variant, self.d, self.bias, self.bad_row = variant, W.shape[0], b, no_bad_row()
        q, macros = variant.scores, variant.macros(loss)
        self.W = cupy.ascontiguousarray(W.reshape(self.d, q).T)
        self.sums = cupy.empty((n_leaves, self.d * q + variant.padded), dtype=np.float32)
        self.totals = cupy.empty((n_leaves, variant.models, 2), dtype=np.float64)
        shape = n_leaves, 2, variant.slices, variant.rows * q
        self.exchanged = cupy.empty(shape, dtype=np.float32) if variant.exchange == FLAGS else NOTHING
        self.few_classes = kernel("few_classes.cu", "few_classes", **macros)
        self.few_classes.max_dynamic_shared_size_bytes = variant.shared
        self.add_leaves = kernel("few_classes.cu", "add_leaves", **macros)

    def __call__(self, x: Any, rows: Any, labels: Any, weights: Any) -> Partial:
        """Return totals and sums over all rows of x (m, d), or over `rows` of it; labels and weights are theirs."""
        import cupy

        variant, m = self.variant, len(labels)
        n_leaves = -(-m // variant.leaf)
        n_flags = 1 + n_leaves * variant.slices
        flags = cupy.zeros(n_flags, dtype=np.uint32) if variant.exchange == FLAGS else NOTHING
        self.few_classes(
            (n_leaves * variant.slices,),
            (variant.threads,),
            (
                x, np.int64(x.strides[0] // x.dtype.itemsize), or_nothing(rows), self.W, or_nothing(self.bias), labels,
                or_nothing(weights), np.int64(m), np.int32(self.d), self.sums, self.totals, self.exchanged, flags,
                self.bad_row,
            ),
            shared_mem=variant.shared,
        )  # fmt: skip
        return self._add_up(n_leaves)

    def _add_up(self, n_leaves: int) -> Partial:
        """Add the leaves along the tree, NODES at a time."""
        import cupy

        K, q, step = self.variant.models, self.variant.scores, 1
        totals, sums = cupy.empty((K, 2), dtype=np.float64), cupy.empty((self.d + 1, q), dtype=np.float32)
        columns = -(-((self.d + 1) * q + 2 * K) // ADD_THREADS)
        while True:
            groups = -(-n_leaves // (step * NODES))
            to = (NOTHING, NOTHING) if groups > 1 else (sums, totals)
            numbers = np.int32(n_leaves), np.int32(step), np.int32(self.d)
            self.add_leaves((columns, groups), (ADD_THREADS,), (self.sums, self.totals, *numbers, *to))
            if groups == 1:
                return totals, sums
            step *= NODES
