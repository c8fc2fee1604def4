"""Which variant of kernels/row_loss.cu takes which number of classes. The table stands here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

# the kinds of kernels/common.cuh
FLOAT32, FLOAT16, BFLOAT16, FLOAT64, UINT8 = range(5)
ITEM_SIZE = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8, UINT8: 1}

SMALL_THREADS = 256  # a block where several rows share it
HELD_BYTES = 64  # that a thread of a block-a-row variant holds in registers: with 128, 1024 threads spill

SMALL = ((4, 4, 1), (8, 4, 2), (16, 8, 2), (32, 8, 4))  # (most classes, lanes a row, elements a lane)
WARP_HELD = (4, 8, 16, 32)  # numbers a thread holds where a warp has a row: up to 1024 classes (float64: 512)
BLOCK_GROUPS = (128, 256, 512, 1024)  # threads a row: up to 16384 classes (float64: 8192)


@dataclass(frozen=True)
class Bucket:
    """One variant.

    Attributes
    ----------
    most : int
        The largest row that it holds, in elements from the first 16-byte boundary at or before the row; 0: any.
    group : int
        Threads a row.
    items : int
        Loads a thread; 0: as many as it takes, twice (online).
    width : int
        Elements a load.
    threads : int
        Threads a block.
    """

    most: int
    group: int
    items: int
    width: int
    threads: int

    @property
    def rows(self) -> int:
        """Rows a block."""
        return self.threads // self.group

    def macros(self) -> dict[str, int]:
        """What kernels/row_loss.cu calls them."""
        return {"GROUP": self.group, "ITEMS": self.items, "WIDTH": self.width, "THREADS": self.threads}


def buckets(kind: int) -> list[Bucket]:
    """All variants for scores of a kind, smallest first; the last one takes any row."""
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
    """The variant for rows of c scores that are `stride` elements apart, the first one at `address`.

    Rows that do not all start at a 16-byte boundary may reach up to width - 1 elements further.
    """
    for bucket in buckets(kind):
        aligned = bucket.width == 1 or (address % 16 == 0 and stride % bucket.width == 0)
        if bucket.most == 0 or c + (0 if aligned else bucket.width - 1) <= bucket.most:
            return bucket
    raise AssertionError("the last bucket takes any row")
