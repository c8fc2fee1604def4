"""Chunks of rows: how a pass goes through X, and how its sums are cut, so that their bits depend on the shape alone.

A chunk is what one product takes; its number of rows is a power of two. A leaf is one chunk or several that follow each
other, and has a gradient of its own, to which its chunks are added in their order. The leaves are added along the tree,
see `gpusoftmax.tree`. How many rows a chunk and a leaf have follows from the numbers of features and of columns. It
does not depend on the GPU, nor on how much of its memory is free: a pass that does not fit is an error, and never
another sum.

Matrices on the device are read in place. Any other has a method `blocks`, see `operations.RowBlocks`; `copying` copies
its chunks to the device while the ones before are computed. They hold the same rows, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax.cuda.compile import KINDS, NOTHING, kernel
from gpusoftmax.cuda.copying import buffer_bytes, copied_chunks
from gpusoftmax.cuda.memory import shortage
from gpusoftmax.tree import Partial, TreeSum

CHUNK_BYTES = 256 << 20  # of scores, and of converted features: 65536 rows of 1024 float32 numbers
SMALLEST_CHUNK = 128  # rows
LEAF_ROWS = 1 << 17  # the fewest of a leaf: adding its gradient to another takes no noticeable time
ALIGNMENT = 16  # bytes: cuBLAS may take another kernel for operands at other addresses, and give other bits


def chunk_rows(d: int, columns: int) -> int:
    """Return the rows of a chunk: a power of two, which depends on the shape alone."""
    widest = max(d, columns, 1)
    return _power_of_two(max(SMALLEST_CHUNK, min(CHUNK_BYTES // (4 * widest), (2**31 - 1) // widest)))


def float64_rows(d: int, columns: int) -> int:
    """Return the rows of a chunk where several arrays of float64 are needed at a time."""
    return chunk_rows(d, columns) // 4


def leaf_rows(step: int) -> int:
    """Return the rows of a leaf whose chunks have `step` rows, a power of two."""
    return max(step, LEAF_ROWS)


def live_leaves(n_leaves: int) -> int:
    """Return how many sums are held at most, if so many leaves are added along the tree one by one."""
    return n_leaves.bit_length()


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows on the device, out of all rows of a pass.

    Attributes
    ----------
    first, stop : int
        The chunk has the rows at the positions first <= i < stop of the pass.
    array : ndarray
        A device array that has these rows.
    start : int
        The row of `array` at the position `first`, if there are no row numbers.
    rows : ndarray of int64, or None
        The row numbers at all positions of the pass; None means that they follow each other.
    """

    first: int
    stop: int
    array: Any
    start: int
    rows: Any

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def here(self) -> slice:
        """The positions of the chunk."""
        return slice(self.first, self.stop)

    @property
    def picked(self) -> Any:
        """The index of the chunk's rows in arrays with an entry for each row of X."""
        return picked(self.rows, self.here)

    def converted(self, target: np.dtype[Any]) -> Any:
        """Return the rows (m, d), contiguous and in type `target`."""
        at = self.start if self.rows is None else self.first
        return converted(self.array, self.rows, at, self.stop - self.first, target)


def picked(rows: Any, part: slice) -> Any:
    """Return the index of some positions of a pass in arrays with an entry for each row of X."""
    return part if rows is None else rows[part]


def count(X: Any, rows: Any) -> int:
    """Return the number of rows of a pass."""
    return len(X) if rows is None else len(rows)


def is_on_device(X: Any) -> bool:
    """Whether X is an array on the device; else it is `RowBlocks`."""
    import cupy

    return isinstance(X, cupy.ndarray)


def copy_bytes(X: Any, step: int) -> int:
    """Return the bytes of the buffers on the device that `chunks` allocates for X."""
    return 0 if is_on_device(X) else buffer_bytes(X.dtype, len(X), X.shape[1], step)


def chunks(X: Any, rows: Any, step: int) -> Generator[Chunk, None, None]:
    """Go through all rows of X, or through `rows` of a matrix on the device, in chunks of `step` rows.

    A chunk's rows may be overwritten once the next chunk has been asked for; what is queued on the current stream until
    then still finds them.
    """
    if is_on_device(X):
        n = count(X, rows)
        for first in range(0, n, step):
            yield Chunk(first, min(first + step, n), X, first, rows)
    else:
        assert rows is None, "a selection of such rows is another matrix"
        for first, array in copied_chunks(X, step):
            yield Chunk(first, first + len(array), array, 0, None)


def for_each_chunk(work: Callable[[Chunk], None], X: Any, rows: Any, step: int) -> None:
    """Call `work(chunk)` for all chunks; what it allocates is freed before the next."""
    with closing(chunks(X, rows, step)) as found:  # copies have ended when it is closed
        for chunk in found:
            work(chunk)


def tree_over_chunks(
    new_leaf: Callable[[], Partial],
    add: Callable[[Chunk, Partial, float], None],
    X: Any,
    rows: Any,
    step: int,
    first_row: int = 0,
) -> TreeSum:
    """Sum over chunks of `step` rows; the first row has the number `first_row` in a longer pass.

    That is a multiple of `leaf_rows(step)`. `add(chunk, leaf, beta)` adds the sums over a chunk to a leaf's arrays,
    which are multiplied by `beta` before: 0 for the first chunk, so that they need no values, else 1.
    """
    n, length = count(X, rows), leaf_rows(step)
    tree, leaf, before = TreeSum(), list[Partial](), first_row // length

    def work(chunk: Chunk) -> None:
        is_first = chunk.first % length == 0
        if is_first:
            leaf.append(new_leaf())
        add(chunk, leaf[0], 0.0 if is_first else 1.0)
        if chunk.stop % length == 0 or chunk.stop == n:
            tree.add(0, before + chunk.first // length, leaf.pop())

    for_each_chunk(work, X, rows, step)
    return tree


@contextmanager
def explained(needed: int, what: str, X: Any) -> Iterator[None]:
    """Turn a shortage of GPU memory into an error that says how much is missing for a pass over X.

    Raises
    ------
    MemoryError
        Something did not fit. There is no second try: smaller chunks would change the bits.
    """
    import cupy

    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        cupy.get_default_memory_pool().free_all_blocks()
        from_file = "read X from a file (open_rows), " if is_on_device(X) else ""
        remedy = f"{from_file}use fewer models at a time, or backend='cpu'"
        raise shortage(needed, f"beside X and the weights, a pass over {what} takes", remedy) from error


def converted(X: Any, rows: Any, first: int, m: int, target: np.dtype[Any]) -> Any:
    """Return rows [first, first + m) of X, or of those in `rows`, contiguous and in type `target`."""
    import cupy

    d, size = X.shape[1], X.dtype.itemsize
    if rows is None and target == X.dtype and X.flags.c_contiguous and X.data.ptr % ALIGNMENT == 0:
        return X[first : first + m]
    if X.strides[1] != size or X.strides[0] % size:
        X = cupy.ascontiguousarray(X[first : first + m] if rows is None else X[rows[first : first + m]])
        rows, first = None, 0
        if target == X.dtype:
            return X
    stride = X.strides[0] // size
    out = cupy.empty((m, d), dtype=target)
    wide = d % 4 == 0 and stride % 4 == 0 and X.data.ptr % (4 * size) == 0
    width = 4 if wide else 1
    gather = kernel("gather.cu", "gather", SOURCE=KINDS[X.dtype], TARGET=KINDS[target], WIDTH=width)
    indices = NOTHING if rows is None else rows[first : first + m]
    gather(
        (-(-m * d // (256 * width)),),
        (256,),
        (X, np.int64(stride), indices, np.int64(first), np.uint32(m), np.uint32(d), out),
    )
    return out
