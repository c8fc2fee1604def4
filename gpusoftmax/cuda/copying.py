"""Copying rows from the host to the device: through pinned buffers, on a stream of its own, beside the computation.

A pass over rows that are not on the device has two buffers there, of a chunk each. While the kernels of one chunk run,
the rows of the next are copied to the other buffer. What waits for what:

- a kernel for the copies of its chunk (an event that the current stream waits for);
- a copy for the kernels that used the buffer before (an event that the stream of the copies waits for); at first, these
  are whatever was queued before the buffers were allocated: the memory may have been freed by what still uses it;
- the host, before it writes to a pinned buffer, for the copy from it; and at the end of a pass, for all copies.

Features travel in the type in which they are stored, and are converted on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cuda.memory import shortage
from gpusoftmax.operations import RowBlocks

PINNED_BYTES = 32 << 20  # of a pinned buffer
READ_ROWS = 32  # blocks have a multiple of them; every chunk has, too


def copied_chunks(X: RowBlocks, step: int) -> Iterator[tuple[int, Any]]:
    """Copy the rows of X to the device in chunks of `step`; yields the first row's number, and the chunk (m, d).

    What is queued on the current stream until the next chunk is asked for, still finds this one.
    """
    import cupy

    (n, d), computing = X.shape, cupy.cuda.get_current_stream()
    buffers = [cupy.empty((min(step, n), d), dtype=X.dtype) for _ in range(n_buffers(n, step))]
    released = [recorded(computing) for _ in buffers]  # what has used a buffer before
    with Copies(min(step, n), d, X.dtype) as copies:
        for first, block in X.blocks(READ_ROWS, step):
            turn, at = first // step % len(buffers), first % step
            if at == 0:
                copies.stream.wait_event(released[turn])
            filled = at + len(block)
            copies.copy(block, buffers[turn][at:filled])
            if filled == step or first + len(block) == n:
                computing.wait_event(recorded(copies.stream))
                yield first - at, buffers[turn][:filled]
                released[turn] = recorded(computing)


def upload_rows(X: RowBlocks) -> Any:
    """Return all rows of X on the current device, (n, d); waits until they are there.

    Raises
    ------
    MemoryError
        They do not fit; the message says how much memory is missing.
    """
    import cupy

    n, d = X.shape
    try:
        found = cupy.empty((n, d), dtype=X.dtype)
    except cupy.cuda.memory.OutOfMemoryError as error:
        cupy.get_default_memory_pool().free_all_blocks()
        raise shortage(n * d * X.dtype.itemsize, f"{n} x {d} {X.dtype} take", "use backend='cpu'") from error
    with Copies(n, d, X.dtype) as copies:
        copies.stream.wait_event(recorded(cupy.cuda.get_current_stream()))
        for first, block in X.blocks(READ_ROWS):
            copies.copy(block, found[first : first + len(block)])
    return found


def n_buffers(n: int, step: int) -> int:
    """Return the number of device buffers for n rows in chunks of `step`."""
    return 1 if n <= step else 2


def buffer_bytes(dtype: Any, n: int, d: int, step: int) -> int:
    """Return the bytes of the device buffers of `copied_chunks` for X (n, d)."""
    return n_buffers(n, step) * min(n, step) * d * np.dtype(dtype).itemsize


class Copies:
    """Copies of blocks of rows to the device, through two pinned buffers; a context, which waits for them at its end.

    Raises
    ------
    MemoryError
        The host gives no pinned memory.

    Attributes
    ----------
    stream : Stream
        The stream of the copies. It does not wait for the default stream.
    """

    def __init__(self, most_rows: int, d: int, dtype: Any) -> None:
        import cupy
        import cupyx

        self.rows = max(1, min(most_rows, PINNED_BYTES // (d * dtype.itemsize)))
        try:
            self.pinned: list[Array] = [cupyx.empty_pinned((self.rows, d), dtype) for _ in range(2)]
        except cupy.cuda.runtime.CUDARuntimeError as error:
            size = self.rows * d * dtype.itemsize
            raise MemoryError(
                f"copying rows to the GPU takes two buffers of {size} bytes of pinned memory, which the host does not "
                f"give ({error}); raise its limit of locked memory, or use backend='cpu'"
            ) from error
        self.copied = [cupy.cuda.Event(disable_timing=True) for _ in self.pinned]  # what a buffer held
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.turn = 0

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.synchronize()  # the pinned buffers are freed, and what the copies write to may be

    def copy(self, block: Array, out: Any) -> None:
        """Copy a block (m, d) from the host to `out` (m, d); it may be overwritten when this returns."""
        for first in range(0, len(block), self.rows):
            here = slice(first, min(first + self.rows, len(block)))
            copied, pinned = self.copied[self.turn], self.pinned[self.turn][: here.stop - here.start]
            copied.synchronize()
            pinned[...] = block[here]
            out[here].set(pinned, stream=self.stream)
            copied.record(self.stream)
            self.turn = 1 - self.turn


def recorded(stream: Any) -> Any:
    """Return an event after all that is queued on a stream."""
    import cupy

    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    return event
