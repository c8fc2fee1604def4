"""What a cluster has to do for a fit, as three methods; `dask_executor.py` has them for Dask, others can be added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol


class Worker(NamedTuple):
    """A process that computes, under the name by which the cluster knows it, with so many threads."""

    name: str
    threads: int


class Task(NamedTuple):
    """A call on a worker. Among the arguments, and in lists of them, there may be handles of loaded objects."""

    worker: Worker
    arguments: list[Any]


class TaskError(Exception):
    """A task has failed; the error is its `__cause__`.

    Attributes
    ----------
    task : int
        The index of the task.
    handles : sequence
        The handles of the objects that could not be loaded, if that is why the task failed.
    """

    def __init__(self, task: int, handles: Sequence[Any] = ()) -> None:
        super().__init__(task)
        self.task, self.handles = task, handles


class AllWorkersReplacedError(Exception):
    """All workers are others than those that loaded objects: what was loaded is lost."""


class Executor(Protocol):
    """A cluster that calls functions on its workers."""

    def workers(self) -> list[Worker]:
        """Return the workers that are there now, at least one; rows are given to them in this order.

        Raises
        ------
        ClusterError
            There has been none for some time.
        """

    def load(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have a worker call a pure function, and keep the result; returns a handle of it at once.

        A result that is lost together with its worker is computed again on another one.
        """

    def run(self, function: Callable[..., Any], common: Any, tasks: Sequence[Task]) -> list[Any]:
        """Call `function(common, threads, *arguments)` for each task, and return the results in that order.

        Handles are replaced by what they stand for. Each worker gets `common` once. Tasks of workers that are lost are
        run again on others.

        Raises
        ------
        TaskError
            A task has failed, or was lost several times.
        AllWorkersReplacedError
            All workers were lost and others have come, and the executor cannot load objects again by itself.
        ClusterError
            There has been no worker for some time.
        """
