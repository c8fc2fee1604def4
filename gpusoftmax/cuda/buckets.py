"""Which variant of kernels/row_loss.cu is used for which number of classes."""

from __future__ import annotations

from dataclasses import dataclass

# the kinds of kernels/common.cuh
FLOAT32, FLOAT16, BFLOAT16, FLOAT64, UINT8 = range(5)
ITEM_SIZE = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8, UINT8: 1}
SEGMENT = 16  # bytes of a load

FLAT, REGISTERS, STREAMED = range(3)  # where row_loss.cu holds a row

FLAT_MOST, FLAT_BYTES = 32, 128  # classes, and bytes, of a row that a thread has alone
FLAT_THREADS, FLAT_TILE = 128, 4096  # a block has the rows of its threads, or so many times more that they are 4 kB
# Threads of a row that is held in registers, and the most numbers that each has (doubles are two). With more, there are
# fewer warps that load while others compute.
LANES, MOST_NUMBERS = (4, 8, 16, *range(32, 1025, 32)), 32
REGISTER_THREADS = 256  # of a block, or of its one row if that has more
CLUSTER_LANES, MOST_SPREAD = 512, 8  # threads of each block, and the most blocks, of a row that is longer
STREAMED_THREADS = 512
SHARED_KEPT = 2 << 10  # bytes of shared memory of a block with REGISTERS beside the bias: row_loss.cu's KEPT


@dataclass(frozen=True)
class Variant:
    """One variant of the kernel; see the macros of kernels/row_loss.cu.

    Attributes
    ----------
    hold : int
        FLAT, REGISTERS or STREAMED.
    group : int
        Threads of a block that have a row together.
    items : int
        Segments of a thread, if they are held in registers, else 0.
    threads, rows : int
        Threads of a block, and its rows.
    columns, pack : int
        The number of classes, and how many of them a thread takes at a time from shared memory; 0 unless FLAT.
    aligned : bool
        Whether a segment belongs to one row; if FLAT, to one block.
    period : int
        How far apart a block's rows are, among those of one model, if REGISTERS; they all begin at the same place of a
        segment.
    spread : int
        Blocks that have a row together: a cluster, if there are more than one.
    """

    hold: int
    group: int
    items: int
    threads: int
    rows: int
    columns: int
    pack: int
    aligned: bool
    period: int
    spread: int = 1

    def macros(self) -> dict[str, int]:
        """The macros that select the variant in kernels/row_loss.cu."""
        return {
            "HOLD": self.hold, "GROUP": self.group, "ITEMS": self.items, "THREADS": self.threads, "ROWS": self.rows,
            "COLUMNS": self.columns, "PACK": self.pack, "ALIGNED": int(self.aligned), "PERIOD": self.period,
            "SPREAD": self.spread,
        }  # fmt: skip

    def shared_bytes(self, kind: int, biased: bool) -> int:
        """Return the bytes of dynamic shared memory, with a bias or without."""
        if self.hold != REGISTERS:
            return 0
        return SHARED_KEPT + (_bias_bytes(kind, self.group * self.items) if biased else 0)

    def blocks(self, rows: int, K: int) -> int:
        """Return how many blocks it takes for so many rows, of K models."""
        together = self.period * K if self.hold == REGISTERS else 1  # blocks whose rows lie between each other's
        return -(-rows // (self.rows * together)) * together * self.spread


def segments(kind: int, c: int, aligned: bool) -> int:
    """Return how many segments a row of c scores touches, at most."""
    width = SEGMENT // ITEM_SIZE[kind]
    return -(-(c + (0 if aligned else width - 1)) // width)


def choose(kind: int, c: int, address: int, shared: int, clusters: bool) -> Variant:
    """Return the variant for contiguous rows of c scores, the first of them at `address`.

    `shared` is the most bytes of shared memory that a block can have; `clusters`: whether the device has clusters.
    """
    size = ITEM_SIZE[kind]
    whole, aligned = address % SEGMENT == 0, (address % SEGMENT, c * size % SEGMENT) == (0, 0)
    # rows of 64 bytes or a multiple would meet in the same banks of shared memory
    if c <= FLAT_MOST and c * size <= FLAT_BYTES and not (aligned and c * size % 64 == 0):
        return _flat(c, size, whole)
    touched = segments(kind, c, aligned)
    most = MOST_NUMBERS * min(size, 4) // SEGMENT
    room = shared - SHARED_KEPT
    period = 1 if aligned else SEGMENT // size
    for lanes in LANES:
        items = -(-touched // lanes)  # as few as will do: the kernel's WHOLE
        if items <= most and _bias_bytes(kind, lanes * items) <= room:
            rows = max(1, REGISTER_THREADS // lanes)
            return Variant(REGISTERS, lanes, items, rows * lanes, rows, 0, 0, aligned, period)
    spread = -(-touched // (CLUSTER_LANES * most))
    items = -(-touched // (CLUSTER_LANES * spread))
    if clusters and spread <= MOST_SPREAD and _bias_bytes(kind, CLUSTER_LANES * items) <= room:
        return Variant(REGISTERS, CLUSTER_LANES, items, CLUSTER_LANES, 1, 0, 0, aligned, period, spread)
    return Variant(STREAMED, STREAMED_THREADS, 0, STREAMED_THREADS, 1, 0, 0, aligned, 1)


def _flat(c: int, size: int, aligned: bool) -> Variant:
    rows = FLAT_THREADS
    while rows * c * size < FLAT_TILE:
        rows *= 2
    pack = 1
    while aligned and 2 * pack * size <= SEGMENT and c % (2 * pack) == 0:
        pack *= 2
    return Variant(FLAT, 1, 0, FLAT_THREADS, rows, c, pack, aligned, 1)


def _bias_bytes(kind: int, n: int) -> int:
    """Return the bytes of the bias for n segments: a vector for each; with 16 bits two, and the room between them."""
    return (2 * n + 4 if ITEM_SIZE[kind] == 2 else n) * SEGMENT
