"""The executor for Dask: `Executor` over the futures of a `distributed.Client`. Imports it when it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpusoftmax.cluster.executor import Task, TaskError, Worker
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
        self.seen: dict[str, int] = {}  # names of workers, in the order in which they came

    def workers(self) -> list[Worker]:
        """See `Executor`."""
        deadline = time.monotonic() + self.timeout
        while not (found := self._workers()):
            if time.monotonic() > deadline:
                raise self._no_workers()
            time.sleep(0.1)
        for worker in sorted(found):
            self.seen.setdefault(worker.name, len(self.seen))
        return sorted(found, key=lambda worker: self.seen[worker.name])

    def _workers(self) -> list[Worker]:
        try:
            known = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(f"the Dask scheduler does not answer ({error}); start a cluster and fit again") from error
        return [Worker(name, one["nthreads"]) for name, one in known.items() if one["status"] == "running"]

    def _no_workers(self) -> ClusterError:
        return ClusterError(
            f"the Dask cluster has had no running worker for {self.timeout:g} s: start workers (cluster.scale(2), or `dask "
            "worker SCHEDULER`), look into their logs for why they ended, often a lack of memory, and fit again"
        )

    def load(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Executor`."""
        with _of_any_size():
            return self._submit(worker, function, *arguments)

    def _submit(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.client.submit(
            function, *arguments, workers=[worker.name], allow_other_workers=True, retries=RETRIES, pure=False
        )

    def compute(self, worker: Worker, delayed: list[Any]) -> list[Any]:
        """Have a worker compute objects of `dask.delayed`, and keep the results; returns handles."""
        futures: list[Any] = self.client.compute(
            delayed, workers=[worker.name], allow_other_workers=True, retries=RETRIES
        )
        return futures

    def run(self, function: Callable[..., Any], common: Any, tasks: Sequence[Task]) -> list[Any]:
        """See `Executor`."""
        with _of_any_size():
            sent = self.client.submit(identity, common, pure=False, retries=RETRIES)
        futures = [
            self._submit(worker, function, sent, worker.threads, *arguments) for worker, arguments in tasks
        ]
        self._wait(futures)
        for i, future in enumerate(futures):
            if future.status == "error":
                raise self._failure(i, future, tasks[i])
        results: list[Any] = self.client.gather(futures)
        return results

    def _wait(self, futures: list[Any]) -> None:
        """Wait until all are done. Raises if there is no worker for some time."""
        from distributed import CancelledError, wait

        alone_since = None
        while True:
            try:
                wait(futures, timeout=LOOK_AGAIN)
            except TimeoutError:
                alone_since = None if self._workers() else alone_since or time.monotonic()
                if alone_since is not None and time.monotonic() - alone_since > self.timeout:
                    self.client.cancel(futures, force=True)
                    raise self._no_workers() from None
            except CancelledError as error:
                raise ClusterError(
                    f"Dask has cancelled a task ({error}), as it does when the scheduler is restarted or the client is "
                    "closed; fit again"
                ) from error
            else:
                return

    @staticmethod
    def _failure(i: int, future: Any, task: Task) -> Exception:
        handles = [one for argument in task.arguments if isinstance(argument, list) for one in argument]
        lost = [one for one in handles if getattr(one, "status", "") == "error"]
        error = TaskError(i, lost[0] if lost else None)
        error.__cause__ = future.exception()
        return error


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Silence Dask's warning about large arguments, which says to scatter them."""
    import dask

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
        yield
