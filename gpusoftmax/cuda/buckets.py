"""Which variant of kernels/row_loss.cu is used for which number of classes."""

from __future__ import annotations

from dataclasses import dataclass

# the kinds of kernels/common.cuh
FLOAT32, FLOAT16, BFLOAT16, FLOAT64, UINT8 = range(5)
ITEM_SIZE = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8, UINT8: 1}
SEGMENT = 16  # bytes of a load

FLAT, REGISTERS, SHARED, STREAMED = range(4)  # where row_loss.cu holds a row

FLAT_MOST, FLAT_BYTES = 32, 128  # classes, and bytes, of a row that a thread has alone
FLAT_THREADS, FLAT_TILE = 128, 4096  # a block has the rows of its threads, or so many times more that they are 4 kB
# Lanes of a row that is held in registers, the most segments of a lane, and the most numbers (doubles are two). With
# more, a warp takes longer from its loads to its stores, and fewer warps are there that load meanwhile.
LANES = ((4, 4, 32), (8, 8, 32), (32, 16, 64))
ITEMS = (1, 2, 3, 4, 6, 8, 12, 16)  # segments of a lane
REGISTER_THREADS = 256
SHARED_THREADS = ((32 << 10, 256), (1 << 30, 512))  # bytes of a row, and threads
STREAMED_THREADS = 512
SHARED_KEPT = 2 << 10  # bytes of a block's shared memory that are not a row's
BLOCK_ROWS = 4  # that a block has one after another, where it has one at a time


@dataclass(frozen=True)
class Variant:
    """One variant of the kernel; see the macros of kernels/row_loss.cu.

    Attributes
    ----------
    hold : int
        FLAT, REGISTERS, SHARED or STREAMED.
    group : int
        Threads that have a row together.
    items : int
        Segments of a thread, if they are held in registers, else 0.
    threads, rows : int
        Threads of a block, and its rows.
    columns, pack : int
        The number of classes, and how many of them a thread takes at a time from shared memory; 0 unless FLAT.
    aligned : bool
        Whether a segment belongs to one row; if FLAT, to one block.
    """

    hold: int
    group: int
    items: int
    threads: int
    rows: int
    columns: int
    pack: int
    aligned: bool

    def macros(self) -> dict[str, int]:
        """The macros that select the variant in kernels/row_loss.cu."""
        return {
            "HOLD": self.hold, "GROUP": self.group, "ITEMS": self.items, "THREADS": self.threads, "ROWS": self.rows,
            "COLUMNS": self.columns, "PACK": self.pack, "ALIGNED": int(self.aligned),
        }  # fmt: skip

    def shared_bytes(self, kind: int, c: int) -> int:
        """Return the bytes of dynamic shared memory for rows of c classes."""
        return _held_bytes(segments(kind, c, self.aligned), self.threads) if self.hold == SHARED else 0


def segments(kind: int, c: int, aligned: bool) -> int:
    """Return how many segments a row of c scores touches, at most."""
    width = SEGMENT // ITEM_SIZE[kind]
    return -(-(c + (0 if aligned else width - 1)) // width)


def choose(kind: int, c: int, address: int, shared: int) -> Variant:
    """Return the variant for contiguous rows of c scores, the first of them at `address`.

    `shared` is the most bytes of shared memory that a block can have.
    """
    size = ITEM_SIZE[kind]
    whole, aligned = address % SEGMENT == 0, (address % SEGMENT, c * size % SEGMENT) == (0, 0)
    # rows of 64 bytes or a multiple would meet in the same banks of shared memory
    if c <= FLAT_MOST and c * size <= FLAT_BYTES and not (aligned and c * size % 64 == 0):
        return _flat(c, size, whole)
    touched = segments(kind, c, aligned)
    for lanes, most_segments, numbers in LANES:
        most = min(most_segments, numbers * min(size, 4) // SEGMENT)
        items = next((n for n in ITEMS if n * lanes >= touched), most + 1)
        if items <= most:
            rows = REGISTER_THREADS // lanes
            return Variant(REGISTERS, lanes, items, REGISTER_THREADS, rows, 0, 0, aligned)
    threads = next(threads for most, threads in SHARED_THREADS if touched * SEGMENT <= most)
    if _held_bytes(touched, threads) <= shared - SHARED_KEPT:
        return Variant(SHARED, threads, 0, threads, BLOCK_ROWS, 0, 0, aligned)
    return Variant(STREAMED, STREAMED_THREADS, 0, STREAMED_THREADS, BLOCK_ROWS, 0, 0, aligned)


def _flat(c: int, size: int, aligned: bool) -> Variant:
    rows = FLAT_THREADS
    while rows * c * size < FLAT_TILE:
        rows *= 2
    pack = 1
    while aligned and 2 * pack * size <= SEGMENT and c % (2 * pack) == 0:
        pack *= 2
    return Variant(FLAT, 1, 0, FLAT_THREADS, rows, c, pack, aligned)


def _held_bytes(touched: int, threads: int) -> int:
    return -(-touched // threads) * threads * SEGMENT
