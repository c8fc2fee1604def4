"""The executor for Dask: `Executor` over the futures of a `distributed.Client`. Imports it when it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from gpusoftmax.cluster.executor import AllWorkersReplacedError, Task, TaskError, Worker
from gpusoftmax.cluster.tasks import identity
from gpusoftmax.exceptions import ClusterError

TIMEOUT = 60.0  # seconds without any worker after which a fit ends
LOOK_AGAIN = 2.0  # seconds after which to look whether there still are workers
RETRIES = 2  # of a task that has raised an error; Dask itself repeats those of lost workers


class DaskExecutor:
    """Runs tasks by a `distributed.Client`.

    Nothing is scattered: data that were scattered to a worker are lost together with it. What is sent is the argument
    of a task, so that Dask can repeat the task.
    """

    def __init__(self, client: Any) -> None:
        self.client, self.timeout = client, TIMEOUT
        self.loaded: WeakSet[Any] = WeakSet()  # futures that are tied to workers
        self.seen: dict[str, int] = {}  # names of workers, in the order in which they came
        self.last: set[str] = set()  # names of those that were there last

    def workers(self) -> list[Worker]:
        """See `Executor`."""
        deadline = time.monotonic() + self.timeout
        while not (found := self._workers()):
            if time.monotonic() > deadline:
                raise self._no_workers()
            time.sleep(0.1)
        self.last = {worker.name for worker in found}
        for worker in sorted(found):
            self.seen.setdefault(worker.name, len(self.seen))
        return sorted(found, key=lambda worker: self.seen[worker.name])

    def _workers(self) -> list[Worker]:
        try:
            known = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"the Dask scheduler does not answer ({error}); start a cluster and fit again"
            ) from error
        return [Worker(name, one["nthreads"]) for name, one in known.items() if one["status"] == "running"]

    def _no_workers(self) -> ClusterError:
        return ClusterError(
            f"the Dask cluster has had no running worker for {self.timeout:g} s: start workers (cluster.scale(2), or "
            "`dask worker SCHEDULER`), look into their logs for why they ended, often a lack of memory, and fit again"
        )

    def load(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Executor`."""
        with _without_size_warning():
            future = self._submit(worker, function, *arguments)
        self.loaded.add(future)
        return future

    def _submit(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.client.submit(
            function, *arguments, workers=[worker.name], allow_other_workers=True, retries=RETRIES, pure=False
        )

    def compute(self, worker: Worker | None, delayed: list[Any]) -> list[Any]:
        """Have a worker, or any, compute objects of `dask.delayed`, and keep the results; returns handles."""
        where = {} if worker is None else {"workers": [worker.name], "allow_other_workers": True}
        futures: list[Any] = self.client.compute(delayed, retries=RETRIES, **where)
        if worker is not None:
            self.loaded.update(futures)
        return futures

    def run(self, function: Callable[..., Any], common: Any, tasks: Sequence[Task]) -> list[Any]:
        """See `Executor`."""
        from distributed import CancelledError

        with _without_size_warning():
            sent = self.client.submit(identity, common, pure=False, retries=RETRIES)
        futures = [self._submit(worker, function, sent, worker.threads, *arguments) for worker, arguments in tasks]
        try:
            self._wait(futures)
            if any(future.status == "error" for future in futures):
                raise self._failure(futures, tasks, sent)
            results: list[Any] = self.client.gather(futures)
        except CancelledError as error:
            raise ClusterError(
                f"Dask has cancelled a task ({error}), as it does when the scheduler is restarted or the client is "
                "closed; fit again"
            ) from error
        return results

    def _wait(self, futures: list[Any]) -> None:
        """Wait until all tasks are done, or will never be."""
        from distributed import wait

        alone_since = None
        while True:
            try:
                wait(futures, timeout=LOOK_AGAIN)
            except TimeoutError:
                if there := {worker.name for worker in self._workers()}:
                    # Tasks for which there was no worker at all are never given to others than those they were meant
                    # for, although we allow others. Under the same name they could not be meant for others.
                    if alone_since is not None and there.isdisjoint(self.last):
                        self.client.cancel([*futures, *self.loaded], force=True)
                        raise AllWorkersReplacedError from None
                    alone_since = None if there & self.last else time.monotonic()
                else:
                    alone_since = alone_since or time.monotonic()
                    if time.monotonic() - alone_since > self.timeout:
                        self.client.cancel(futures, force=True)
                        raise self._no_workers() from None
            else:
                return

    @staticmethod
    def _failure(futures: list[Any], tasks: Sequence[Task], sent: Any) -> TaskError:
        """The error for the first object that could not be loaded, or else for the first task that failed."""
        failed = [i for i, future in enumerate(futures) if future.status == "error"]
        found = TaskError(failed[0])
        found.__cause__ = futures[failed[0]].exception()
        for i in failed:
            handles = [one for argument in tasks[i].arguments if isinstance(argument, list) for one in argument]
            errors = {one: one.exception() for one in handles if getattr(one, "status", "") == "error"}
            # what was sent to all is not to blame for the end of a worker, although it was lost with it
            errors = {one: error for one, error in errors.items() if getattr(error, "task", None) != sent.key}
            if errors:
                found = TaskError(i, list(errors))
                found.__cause__ = next(iter(errors.values()))
                break
        return found


@contextmanager
def _without_size_warning() -> Iterator[None]:
    """Silence Dask's warning about large arguments, which says to scatter them."""
    import dask

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
        yield
