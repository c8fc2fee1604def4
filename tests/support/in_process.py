"""A cluster without processes: the three methods of an executor, and rows that it loads."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cluster.executor import Task, TaskError, Worker
from gpusoftmax.cluster.rows import ClusterRows


@dataclass(eq=False)
class Loaded:
    """The handle of an object: how to make it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keeps: bool = False
    kept: Any = None

    def get(self) -> Any:
        if self.kept is not None:
            return self.kept
        found = sent(self.function(*self.arguments))
        self.kept = found if self.keeps else None
        return found


def sent(x: Any) -> Any:
    """Pickle and unpickle; arrays come out as they do on another machine: read-only, and not aligned."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(x, protocol=5, buffer_callback=buffers.append)
    raw = [b"x" + buffer.raw().tobytes() for buffer in buffers]
    return pickle.loads(data, buffers=[memoryview(one)[1:] for one in raw])


@dataclass
class InProcess:
    """An executor whose workers are names; `before_run` is called before each run, and may change them.

    Objects are loaded again for each run, unless it `keeps` them.
    """

    names: list[str]
    threads: int = 1
    before_run: Callable[[InProcess], None] = lambda executor: None
    runs: list[list[Task]] = field(default_factory=list)
    loads: int = 0
    keeps: bool = False

    def workers(self) -> list[Worker]:
        return [Worker(name, self.threads) for name in self.names]

    def load(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        self.loads += 1
        return Loaded(function, arguments, self.keeps)

    def run(self, function: Callable[..., Any], common: Any, tasks: Sequence[Task]) -> list[Any]:
        self.before_run(self)
        self.runs.append(list(tasks))
        return [sent(self._result(i, function, common, task)) for i, task in enumerate(tasks)]

    def _result(self, i: int, function: Callable[..., Any], common: Any, task: Task) -> Any:
        try:
            arguments = [self._got(argument) for argument in task.arguments]
            return function(sent(common), task.worker.threads, *arguments)
        except LoadError as error:
            raise TaskError(i, [error.handle]) from error.__cause__
        except Exception as error:
            raise TaskError(i) from error

    def _got(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self._got(one) for one in x]
        if not isinstance(x, Loaded):
            return sent(x)
        try:
            return x.get()
        except Exception as error:
            raise LoadError(x) from error


class LoadError(Exception):
    """What `handle` stands for cannot be loaded."""

    def __init__(self, handle: Loaded) -> None:
        super().__init__()
        self.handle = handle


@dataclass
class Rows:
    """The source of rows in memory, in chunks of given lengths; rows from `bad` on cannot be loaded."""

    X: Any
    executor: InProcess
    chunks: list[int]
    wrap: Callable[[Array], Any] = lambda part: part
    bad: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.X.shape[0], self.X.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.X.dtype

    def load(self, worker: Worker, cuts: list[int]) -> list[Any]:
        return [self.executor.load(worker, self._part, a, b) for a, b in pairwise(cuts)]

    def _part(self, first: int, stop: int) -> Any:
        if self.bad is not None and first <= self.bad < stop:
            raise OSError("the disk is gone")
        return self.wrap(self.X[first:stop])

    def name(self, first: int, stop: int) -> str:
        return f"part {first}"


def on_cluster(X: Array, workers: int = 2, chunks: list[int] | None = None, **options: Any) -> ClusterRows:
    """X on a cluster in this process; by default in chunks of about a fifth."""
    executor = options.pop("executor", None) or InProcess([f"worker {i}" for i in range(workers)])
    step = -(-len(X) // 5)
    chunks = chunks or [min(step, len(X) - i) for i in range(0, len(X), step)]
    backend = options.pop("backend", "cpu")
    return ClusterRows(executor, Rows(X, executor, chunks, **options), backend)
