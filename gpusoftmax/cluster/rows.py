"""A matrix X whose rows are on a cluster, in partitions that begin where leaves of sums do."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.cluster.executor import AllWorkersReplacedError, Executor, Task, TaskError, Worker
from gpusoftmax.cluster.memo import Memo
from gpusoftmax.cluster.sums import sums_for
from gpusoftmax.cluster.tasks import Place, Take, each, identity
from gpusoftmax.exceptions import BackendUnavailableError, ClusterError

MOST_LOSSES = 3  # of all workers in one pass: what they compute may be what ends them


class Partition(NamedTuple):
    """The rows first <= i < stop of X; `handle` stands for them on the cluster, see `Executor.load`."""

    handle: Any
    first: int
    stop: int


class Source(Protocol):
    """Where the rows of X come from."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features, one that is read in place."""

    @property
    def chunks(self) -> list[int]:
        """Rows of each chunk in which the source has its rows."""

    def load(self, worker: Worker, cuts: list[int]) -> list[Any]:
        """Have a worker load the rows between consecutive cuts, (m,) increasing; returns m - 1 handles.

        Each stands for an ndarray or, if the rows are read in every pass, `operations.RowBlocks`.
        """

    def name(self, first: int, stop: int) -> str:
        """Name the chunk or the files that hold some rows, for messages."""


def partition_cuts(chunks: Sequence[int], step: int, workers: Sequence[Worker]) -> list[int]:
    """Where partitions begin, and n: near the chunks' boundaries, but at multiples of `step`, at least one per worker.

    Chunks that end at multiples of `step` remain as they are, unless there are fewer of them than workers. A boundary
    that has to be moved goes to a multiple of `step` times a power of two, so that partitions are few nodes of a tree.
    """
    n, cuts = sum(chunks), {0}
    most = max(n // len(workers), 1)  # rows
    first = 0
    for rows in chunks:
        pieces = max(1, round(rows / most))
        unit = step
        while 16 * unit * pieces <= rows:
            unit *= 2
        for piece in range(1, pieces + 1):
            cut = first + rows * piece // pieces
            cuts.add(cut if cut % step == 0 else round(cut / unit) * unit)
        first += rows
    return [*sorted(cut for cut in cuts if cut < n), n]


def ranges_of_workers(cuts: Sequence[int], workers: Sequence[Worker]) -> list[tuple[Worker, range]]:
    """Divide partitions among workers by their threads: to each worker consecutive ones, of about as many rows."""
    n, threads = cuts[-1], sum(worker.threads for worker in workers)
    found, start, before = [], 0, 0
    for worker in workers:
        before += worker.threads
        ideal = n * before / threads
        stop = bisect_left(cuts, ideal)
        if stop > start and cuts[stop] - ideal > ideal - cuts[stop - 1]:
            stop -= 1
        if stop > start:
            found.append((worker, range(start, stop)))
            start = stop
    return found


@dataclass(eq=False)
class ClusterRows:
    """X (n, d) on a cluster: its rows are loaded by the workers when they are first needed, and stay there.

    Attributes
    ----------
    executor : Executor
    source : Source
    backend : str
        The name of the backend that computes on the workers: "cpu", "numpy" or "cuda".
    """

    executor: Executor
    source: Source
    backend: str
    _step: int = 0
    _partitions: list[Partition] = field(default_factory=list)
    _columns: Memo = field(default_factory=Memo)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features."""
        return self.source.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def partitions(self, leaf: int) -> list[Partition]:
        """Return partitions that begin at leaves of so many rows; the same ones as before if they do so already."""
        step = math.lcm(leaf, sums_for(self.backend, 1).partition_unit(self.shape[1]))
        if not self._partitions or self._step % step:
            workers = self.executor.workers()
            self._partitions = []  # before others are loaded
            cuts, found = partition_cuts(self.source.chunks, step, workers), list[Partition]()
            for worker, own in ranges_of_workers(cuts, workers):
                edges = cuts[own.start : own.stop + 1]
                found += map(Partition, self.source.load(worker, edges), edges[:-1], edges[1:])
            self._step, self._partitions = step, found
        return self._partitions

    def run(self, function: Any, work: Any, leaf: int, *columns: Array | None) -> list[Any]:
        """Call `function(work, threads, backend, places, X, *columns)` on workers, for all partitions, in their order.

        Each call has some consecutive partitions, which begin at leaves of so many rows: what they have to be,
        their rows, and their parts of the `columns`. These have an entry for each row, and are sent once.

        Raises
        ------
        ClusterError
            The rows of a partition cannot be loaded, or a task has failed; the message names the rows. Or a worker has
            no GPU; the message names it.
        """
        for _ in range(MOST_LOSSES):
            try:
                return self._run(function, work, leaf, columns)
            except AllWorkersReplacedError:
                log.warning("all workers of the cluster were lost; the rows are loaded again on others")
                self._partitions = []
        raise ClusterError(
            f"all workers of the cluster were lost {MOST_LOSSES} times in one pass; look into their logs for why they "
            "ended, often a lack of memory: take more workers or smaller chunks, and fit again"
        )

    def _run(self, function: Any, work: Any, leaf: int, columns: Sequence[Array | None]) -> list[Any]:
        partitions = self.partitions(leaf)
        sent = [self._sent(column) for column in columns]
        cuts = [*(one.first for one in partitions), len(self)]
        given = ranges_of_workers(cuts, self.executor.workers())
        places = [Place(one.first, (one.stop - one.first, self.shape[1]), self.dtype) for one in partitions]
        lists = [places, [one.handle for one in partitions], *sent]
        tasks = [Task(worker, [self.backend, *(one[own.start : own.stop] for one in lists)]) for worker, own in given]
        try:
            return self.executor.run(function, work, tasks)
        except TaskError as error:
            if isinstance(error.__cause__, BackendUnavailableError):
                raise ClusterError(str(error.__cause__)) from error.__cause__
            own = given[error.task][1]
            failed = [partitions[i] for i in own if any(one is partitions[i].handle for one in error.handles)]
            what = "cannot be loaded" if failed else "cannot be computed with"
            failed = failed or [partitions[i] for i in own]
            rows = self._name(failed[0].first, failed[-1].stop)
            raise ClusterError(
                f"{rows} {what} on the cluster: {_words(error.__cause__)}; mend or leave out these rows, or see the "
                "workers' logs"
            ) from error.__cause__

    def _sent(self, column: Array | None) -> list[Any]:
        """Return handles of a column's parts, one for each partition; they are sent unless they have been already."""
        if column is None:
            return [None] * len(self._partitions)
        found = self._columns.get((column,), dict)
        if found.get("partitions") is not self._partitions:
            found.update(partitions=self._partitions, handles=self._send(column))
        handles: list[Any] = found["handles"]
        return handles

    def _send(self, column: Array) -> list[Any]:
        cuts = [*(one.first for one in self._partitions), len(self)]
        return [
            self.executor.load(worker, identity, np.array(column[cuts[i] : cuts[i + 1]], order="C"))
            for worker, own in ranges_of_workers(cuts, self.executor.workers())
            for i in own
        ]

    def _name(self, first: int, stop: int) -> str:
        return f"rows {first} to {stop - 1} of X ({self.source.name(first, stop)})"

    def __getitem__(self, rows: Any) -> Array:
        """Copy one row, by its number, or some rows, by row numbers (m,), in the order given, to this process."""
        numbers = np.atleast_1d(rows)
        order = np.argsort(numbers, kind="stable")
        found = np.empty((len(numbers), self.shape[1]), self.dtype)
        results = self.run(each, Take(numbers[order]), 1)
        parts = [part for result in results for part in result.values]
        found[order] = np.concatenate(parts)
        return found[0] if np.ndim(rows) == 0 else found


def _words(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if len(text) <= 300 else f"{type(error).__name__}: {text[:297]}..."
