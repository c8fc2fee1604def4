"""What a contender gives to be timed, and what several contenders need for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common.harness import NotForThisError
from bench.throughput.cases import Problem


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready for a case: conversions, copies to a device and compilation ahead are done.

    Attributes
    ----------
    call : callable
        Passes once over the first `rows` rows (None: all), in one unit of work or an epoch of steps, and returns when
        its result is there.
    read : callable
        Brings a result into the layout of `truth.py`.
    note : str
        What a reader of its time has to know.
    gpu : bool
        Where it computes, and so which ceilings it has.
    queue : callable or None
        What `call` does, but it may return while a GPU still computes the result.
    wait : callable
        Waits until a result of `queue` is there, and with it all that was queued before.
    """

    call: Callable[[], Any]
    read: Callable[[Any], tuple[Any, ...]]
    note: str = ""
    rows: int | None = None
    gpu: bool = False
    queue: Callable[[], Any] | None = None
    wait: Callable[[Any], Any] = lambda result: None


def queued(
    queue: Callable[[], Any], wait: Callable[[Any], Any], read: Callable[[Any], tuple[Any, ...]], **options: Any
) -> Prepared:
    """A contender whose work can be queued: its `call` queues it and waits."""

    def call() -> Any:
        result = queue()
        wait(result)
        return result

    return Prepared(call, read, queue=queue, wait=wait, **options)


def conversion_note(problem: Problem) -> str:
    """The note of a contender that computes on float32."""
    return "" if problem.X.dtype == np.float32 else "X as float32, converted outside the clock"


def needs_dense(problem: Problem) -> None:
    """Raise if X is sparse."""
    if problem.case.entries:
        raise NotForThisError("takes no sparse X")


def rows_of(index: Any) -> Any:
    """A batch of a plan as an index."""
    return slice(None) if index is None else index


def blas_threads(threads: int | None) -> Callable[[], AbstractContextManager[Any]]:
    """A context that holds BLAS at a number of threads; None leaves it alone."""
    if threads is None:
        return nullcontext
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()
    return lambda: controller.limit(limits=threads)
