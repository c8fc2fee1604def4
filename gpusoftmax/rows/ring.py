"""Reading ahead: a ring of buffers, which other threads fill while the caller computes with one of them."""

from __future__ import annotations

from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.files.dataset import aligned_empty

DEPTH = 3  # buffers: one that is computed with, two that are being filled
BUFFER_BYTES = 32 << 20  # of one buffer; smaller ones with more readers were slower

Read = Callable[[int, int, Array], Array]


def read_ahead(
    ranges: Iterable[tuple[int, int]], read: Read, buffer_bytes: int, kept: list[Array]
) -> Iterator[tuple[int, Array]]:
    """Yield (first, rows) for each range (first, stop) of rows, while the next ones are being read.

    `read(first, stop, buffer)` reads the rows into a buffer of bytes, and returns them as a view of it or as a copy.
    What was yielded is overwritten when the next is asked for.

    The buffers are taken from `kept`, if they have this size, and left there: the system takes time to give out memory.
    """
    buffers = [_buffer(kept, buffer_bytes) for _ in range(DEPTH)]
    free = list(buffers)
    under_way: deque[tuple[int, Array, _Reading]] = deque()
    try:
        for first, stop in ranges:
            buffer = free.pop()
            under_way.append((first, buffer, _Reading(partial(read, first, stop, buffer))))
            if not free:
                yield under_way[0][0], under_way[0][2].result()
                free.append(under_way.popleft()[1])
        while under_way:
            yield under_way[0][0], under_way[0][2].result()
            under_way.popleft()
    finally:
        for _, _, reading in under_way:  # they write to the buffers, and use the files
            reading.wait()
        kept[:] = buffers


def _buffer(kept: list[Array], n_bytes: int) -> Array:
    """Take a buffer of this size from `kept`, or make one."""
    try:
        buffer = kept.pop()  # another thread may have taken the last one
    except IndexError:
        return aligned_empty((n_bytes,), np.uint8)
    return buffer if len(buffer) == n_bytes else aligned_empty((n_bytes,), np.uint8)


class _Reading:
    """Work in a thread of its own; not a `threading.Thread`, whose locks Ctrl-C can interrupt while they are held."""

    def __init__(self, work: Callable[[], Array]) -> None:
        self.work, self.ended, self.found = work, SimpleQueue[None](), list[Array | BaseException]()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self.found.append(self.work())
        except BaseException as error:  # `result` raises it
            self.found.append(error)
        self.ended.put(None)

    def wait(self) -> Array | BaseException:
        """Wait for the end of the work; returns its result, or the exception that ended it."""
        if not self.found:  # what is in the queue is lost if Ctrl-C comes when it has just been taken
            self.ended.get()
        return self.found[0]

    def result(self) -> Array:
        """Wait for the end of the work; returns its result, or raises the exception that ended it."""
        found = self.wait()
        if isinstance(found, BaseException):
            raise found
        return found
