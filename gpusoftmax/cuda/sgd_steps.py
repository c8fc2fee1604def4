"""Stretches of SGD for few classes: four launches a step, which a CUDA graph repeats.

A step of 200 rows moves so little that its launches, one by one from Python, would take many times as long as the
kernels. So they are captured once for each stretch, in a graph of a step that reads from memory which one it is. The
last, shorter batch of an epoch is launched by itself, and so are all where no graph can be made: the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax.cuda.chunks import is_on_device
from gpusoftmax.cuda.compile import KINDS, kernel, or_nothing
from gpusoftmax.cuda.copying import recorded
from gpusoftmax.operations import SgdSteps, SparseRows

THREADS, PART, BLOCK_ROWS = 256, 32, 32  # of sgd_steps.cu
MOST_COLUMNS = 32  # that a thread can add up in registers
MOST_ROWS = 2048  # of a batch: with more, a step is long enough for launches of its own
MOST_SCRATCH = 64 << 20  # bytes


@dataclass(frozen=True)
class CudaSgdStretch:
    """See `operations.SgdStretch`."""

    def sgd_steps(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any, steps: SgdSteps
    ) -> tuple[Any, Any] | None:
        """Take steps of up to 2048 rows and 32 columns, in float32, over rows on the device."""
        sizes = [0 if rows is None else len(rows) for rows in batches]
        if not _suits(X, W, batches, sizes, steps):
            return None
        size, n_equal = sizes[0], sum(one == sizes[0] for one in sizes)
        stretch = _Stretch.of(X, labels, W, b, weights, loss, velocity, batches[0], size, steps)
        stretch.repeat(size, n_equal)
        for rest in sizes[n_equal:]:
            stretch.take(rest)
        return stretch.totals, stretch.first

    def sparse_sgd_steps(
        self, A: SparseRows, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, batches: Any,
        steps: SgdSteps,
    ) -> None:  # fmt: skip
        """Do nothing: sparse rows are read in full by each step."""
        return


def _suits(X: Any, W: Any, batches: Any, sizes: list[int], steps: SgdSteps) -> bool:
    """Whether steps are taken here. Over all rows they are passes, whether the rows are numbered or not."""
    d, K, c = W.shape
    if 0 in sizes or steps.n in sizes or steps.linear_term is not None or W.dtype != np.float32 or not is_on_device(X):
        return False
    if X.strides[1] != X.itemsize or X.strides[0] % X.itemsize or X.strides[0] < 0:
        return False
    largest, follow = max(sizes), all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]
    scratch = -(-d // PART) * largest * K * c * 4
    return follow and K * c <= MOST_COLUMNS and largest <= MOST_ROWS and scratch <= MOST_SCRATCH and _adjacent(batches)


def _adjacent(batches: Any) -> bool:
    """Whether each batch begins in memory where the one before ends, as slices of an epoch's order do."""
    ends = [rows.data.ptr + rows.nbytes for rows in batches]
    return all(rows.data.ptr == end for rows, end in zip(batches[1:], ends[:-1], strict=True))


@dataclass(frozen=True)
class _Launch:
    """A launch for batches of any size m: the kernel, its blocks for m rows, and its arguments after m."""

    function: Any
    blocks: Callable[[int], tuple[int, ...]]
    threads: int
    arguments: tuple[Any, ...]

    def __call__(self, m: int) -> None:
        self.function(self.blocks(m), (self.threads,), (np.int32(m), *self.arguments))


@dataclass(frozen=True)
class _Stretch:
    """The launches of a step, and what they add up."""

    launches: list[_Launch]
    totals: Any
    first: Any

    @classmethod
    def of(
        cls, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, velocity: Any, rows: Any, size: int,
        steps: SgdSteps,
    ) -> _Stretch:  # fmt: skip
        """Prepare steps of at most `size` rows; `rows` begins with the row numbers of the first batch."""
        import cupy

        (d, K, c), item, penalty = W.shape, X.itemsize, steps.penalty
        q, parts, blocks, stride = K * c, -(-d // PART), -(-size // BLOCK_ROWS), X.strides[0] // item
        whole = X.data.ptr % 16 == X.strides[0] % 16 == d * item % 16 == 0
        macros = {
            "SOURCE": KINDS[X.dtype], "LOSS": loss, "CLASSES": c, "COLUMNS": q, "WIDTH": 16 // item if whole else 1,
            "SHIFTED": int(steps.shift is not None), "SCALED": int(steps.scale is not None),
            "NESTEROV": int(steps.nesterov), "FIT_INTERCEPT": int(steps.fit_intercept),
            "PENALIZE_INTERCEPT": int(penalty.on_intercept),
        }  # fmt: skip
        single, double = np.dtype(np.float32), np.dtype(np.float64)
        scores, offsets = cupy.empty((parts, q, size), dtype=single), cupy.empty((parts, q), dtype=double)
        gradients, sums_b = cupy.empty((size, q), dtype=single), cupy.empty((blocks, q), dtype=single)
        losses, norms = cupy.empty((blocks, K, 2), dtype=double), cupy.empty((parts, K), dtype=double)
        totals, first, step = cupy.zeros((3, K)), cupy.zeros(K), cupy.zeros(1, dtype=np.int32)
        rates, momentum = cupy.asarray(steps.rates), cupy.asarray(steps.momentum)
        shift, scale, factors = (or_nothing(x) for x in (steps.shift, steps.scale, penalty.factors))
        of_W, of_b = (or_nothing(x) for x in velocity or (None, None))
        batch, n, features = np.int32(size), np.int64(steps.n), np.int32(d)
        numbered = X, np.int64(stride), rows, batch, features

        def launch(name: str, blocks: Callable[[int], tuple[int, ...]], *arguments: Any, threads: int = THREADS) -> Any:
            return _Launch(kernel("sgd_steps.cu", name, **macros), blocks, threads, arguments)

        launches = [
            launch(
                "score_parts", lambda m: (parts, -(-m // THREADS)), *numbered, W, shift, scale, step, scores, offsets
            ),
            launch(
                "row_gradients", lambda m: (-(-m // BLOCK_ROWS),), rows, batch, features, labels, or_nothing(weights),
                b, step, scores, offsets, gradients, sums_b, losses,
            ),
            launch(
                "update", lambda m: (parts,), *numbered, n, gradients, sums_b, shift, scale, penalty.strengths, factors,
                steps.weight_sums, rates, momentum, step, W, b, of_W, of_b, norms,
            ),
            launch(
                "add_totals", lambda m: (1,), features, n, losses, norms, penalty.strengths, steps.weight_sums, step,
                totals, first, threads=32,
            ),
        ]  # fmt: skip
        return cls(launches, totals, first)

    def take(self, m: int) -> None:
        """Take the next step, of m rows, by launches of its own."""
        for launch in self.launches:
            launch(m)

    def repeat(self, m: int, times: int) -> None:
        """Take so many steps of m rows: the first by launches, which load the kernels, the others by a graph."""
        import cupy

        self.take(m)
        if times == 1:
            return
        current, stream = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
        stream.wait_event(recorded(current))
        with stream:
            graph = self._captured(m, stream)
            for _ in range(times - 1):
                if graph is None:
                    self.take(m)
                else:
                    graph.launch(stream)
        current.wait_event(recorded(stream))

    def _captured(self, m: int, stream: Any) -> Any:
        """Return a graph of a step of m rows, or None if CUDA makes none."""
        import cupy

        try:
            stream.begin_capture()
            self.take(m)
            return stream.end_capture()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            log.info("steps are launched one by one, since there is no CUDA graph of them: %s", error)
            return None
