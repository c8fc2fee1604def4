"""The table that says which variant of kernels/row_loss.cu is used for which number of classes."""

from __future__ import annotations

from dataclasses import dataclass

# the kinds of kernels/common.cuh
FLOAT32, FLOAT16, BFLOAT16, FLOAT64, UINT8 = range(5)
ITEM_SIZE = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8, UINT8: 1}

SMALL_THREADS = 256  # threads per block where several rows share a block
HELD_BYTES = 64  # held in registers by a thread where a block has one row; with 128, blocks of 1024 threads spill

SMALL = ((4, 4, 1), (8, 4, 2), (16, 8, 2), (32, 8, 4))  # (most classes, lanes per row, elements per lane)
WARP_HELD = (4, 8, 16, 32)  # numbers per thread where a warp has one row: up to 1024 classes (float64: 512)
BLOCK_GROUPS = (128, 256, 512, 1024)  # threads per row: up to 16384 classes (float64: 8192)


@dataclass(frozen=True)
class Bucket:
    """One variant of the kernel.

    Attributes
    ----------
    most : int
        The longest row that it can hold, in elements, counted from the last 16-byte boundary at or before the start of
        the row; 0: no limit.
    group : int
        Threads per row.
    items : int
        Loads per thread; 0: as many as needed, in two passes over the row (online).
    width : int
        Elements per load.
    threads : int
        Threads per block.
    """

    most: int
    group: int
    items: int
    width: int
    threads: int

    @property
    def rows(self) -> int:
        """Rows per block."""
        return self.threads // self.group

    def macros(self) -> dict[str, int]:
        """The macros that select the variant in kernels/row_loss.cu."""
        return {"GROUP": self.group, "ITEMS": self.items, "WIDTH": self.width, "THREADS": self.threads}


def buckets(kind: int) -> list[Bucket]:
    """Return all variants for scores of a kind, in order of row length; the last one takes any row."""
    width = 16 // ITEM_SIZE[kind]
    computed = 8 if kind == FLOAT64 else 4  # bytes of a number in a register
    held = HELD_BYTES // computed
    table = [Bucket(most, lanes, items, 1, SMALL_THREADS) for most, lanes, items in SMALL]
    table += [
        Bucket(32 * numbers, 32, numbers // width, width, SMALL_THREADS)
        for numbers in WARP_HELD
        if width <= numbers <= 2 * held
    ]
    table += [Bucket(group * held, group, held // width, width, group) for group in BLOCK_GROUPS]
    return [*table, Bucket(0, 1024, 0, width, 1024)]


def choose(kind: int, c: int, stride: int, address: int) -> Bucket:
    """Return the variant for rows of c scores that are `stride` elements apart, the first of them at `address`.

    If some rows do not start at a 16-byte boundary, a row may end up to width - 1 elements later, counted from such a
    boundary.
    """
    for bucket in buckets(kind):
        aligned = bucket.width == 1 or (address % 16 == 0 and stride % bucket.width == 0)
        if bucket.most == 0 or c + (0 if aligned else bucket.width - 1) <= bucket.most:
            return bucket
    raise AssertionError("the last bucket takes any row")
