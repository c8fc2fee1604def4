"""Where the rows of a fit on a cluster come from: Dask's collections, futures, and files that all workers can read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from gpusoftmax.checks.messages import shown
from gpusoftmax.cluster.dask_executor import DaskExecutor
from gpusoftmax.cluster.executor import Executor, Worker
from gpusoftmax.rows.file_rows import Rows


@dataclass(frozen=True)
class DaskArray:
    """Rows of a dask array, with one chunk of columns."""

    array: Any
    executor: DaskExecutor

    @property
    def shape(self) -> tuple[int, int]:
        n, d = self.array.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def chunks(self) -> list[int]:
        return [int(rows) for rows in self.array.chunks[0]]

    def load(self, worker: Worker, cuts: list[int]) -> list[Any]:
        edges = np.cumsum([0, *self.chunks]).tolist()
        if set(cuts) <= set(edges) and edges.index(cuts[-1]) - edges.index(cuts[0]) == len(cuts) - 1:
            first = edges.index(cuts[0])  # whole chunks: if they are in memory, they are not copied
            blocks = self.array.to_delayed()[first : first + len(cuts) - 1, 0]
        else:
            part = self.array[cuts[0] : cuts[-1]].rechunk((tuple(np.diff(cuts).tolist()), (self.shape[1],)))
            blocks = part.to_delayed()[:, 0]
        # the user's own tasks in memory are not tied to a worker
        return self.executor.compute(None if self.is_persisted else worker, list(blocks))

    @cached_property
    def is_persisted(self) -> bool:
        """Whether the chunks are results that the cluster has, or is computing, already."""
        from distributed import futures_of

        return bool(futures_of(self.array))

    def name(self, first: int, stop: int) -> str:
        edges = np.cumsum([0, *self.chunks])
        a, b = np.searchsorted(edges, first, "right") - 1, np.searchsorted(edges, stop, "left") - 1
        return f"chunk {a} of the dask array" if a == b else f"chunks {a} to {b} of the dask array"


@dataclass(frozen=True)
class RowFiles:
    """Rows in files that every worker reads for itself, in each pass."""

    rows: Rows
    executor: Executor

    @property
    def shape(self) -> tuple[int, int]:
        n, d = self.rows.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.rows.dtype
        return dtype

    @property
    def chunks(self) -> list[int]:
        n, pieces = len(self.rows), 4 * len(self.executor.workers())
        return [n * (i + 1) // pieces - n * i // pieces for i in range(pieces)]

    def load(self, worker: Worker, cuts: list[int]) -> list[Any]:
        return [self.executor.load(worker, _range, self.rows, first, stop) for first, stop in pairwise(cuts)]

    def name(self, first: int, stop: int) -> str:
        return shown(self.rows)


def _range(rows: Any, first: int, stop: int) -> Any:
    """Return a range of rows as a matrix of its own."""
    return rows.select(np.arange(first, stop))


def array_of_futures(futures: Any, name: str, executor: DaskExecutor) -> Any:
    """Make a dask array of futures of arrays (rows, d), one below the other."""
    import dask.array
    from dask.delayed import delayed

    shapes = executor.client.gather(executor.client.map(_shape_and_dtype, list(futures), pure=False))
    for i, (shape, _) in enumerate(shapes):
        if shape is None:
            raise TypeError(f"{name}[{i}] is not a future of a NumPy array; pass futures of arrays (rows, d)")
        if len(shape) != 2 or shape[1] != shapes[0][0][1]:
            raise ValueError(f"{name}[{i}] has shape {shape}; pass futures of arrays (rows, d), all with the same d")
    blocks = [
        dask.array.from_delayed(delayed(future), shape, dtype)
        for future, (shape, dtype) in zip(futures, shapes, strict=True)
    ]
    return dask.array.concatenate(blocks)


def _shape_and_dtype(x: Any) -> tuple[tuple[int, ...] | None, Any]:
    if not isinstance(x, np.ndarray):
        return None, None
    return tuple(x.shape), x.dtype
