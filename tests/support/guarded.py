"""Memory for kernels under test, which shows what they write where they must not, and launches in every order."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]

SANITIZED = bool(os.environ.get("GPUSOFTMAX_SANITIZED"))  # is this a process under AddressSanitizer?
SEEDS = range(2) if SANITIZED else range(6)
GUARD = 0xA5  # bytes that no kernel may touch


class Guarded:
    """An array `skip` elements past a 64-byte boundary; memory around it, and between its rows, must stay as it is."""

    def __init__(self, values: Array, *, stride: int | None = None, skip: int = 0, whole: int = 1) -> None:
        """The memory ends with the last element, or at the next multiple of `whole` bytes."""
        rows, c = values.shape if values.ndim == 2 else (1, values.size)
        size, stride = values.itemsize, stride or c
        n_bytes = ((rows - 1) * stride + c) * size  # what lies beyond is not ours
        n_bytes += -(skip * size + n_bytes) % whole
        # under AddressSanitizer the end of the allocation is the best guard there is
        memory = np.full(64 + skip * size + n_bytes + (0 if SANITIZED else 64), GUARD, np.uint8)
        at = -memory.ctypes.data % 64 + skip * size
        self.values = np.lib.stride_tricks.as_strided(
            memory[at:].view(np.uint8)[: size * c].view(values.dtype), (rows, c), (stride * size, size)
        )
        self.values[...] = values.reshape(rows, c)
        self.address = memory.ctypes.data + at
        self.memory = memory
        self.before = memory.copy()
        covered = np.zeros(len(memory), bool)
        for row in range(rows):
            covered[at + row * stride * size :][: c * size] = True
        self.outside = ~covered

    def read(self) -> Array:
        """The values now, contiguous; raises if anything else was written."""
        assert np.array_equal(self.memory[self.outside], self.before[self.outside]), "written outside the array"
        return self.values.copy()

    def reset(self) -> None:
        self.memory[:] = self.before


def in_every_order(arrays: dict[str, Guarded], launch: Callable[[int], None]) -> dict[str, Array]:
    """Arrays after a launch, which must have the same bits for every seed."""
    first: dict[str, Array] = {}
    for seed in SEEDS:
        for array in arrays.values():
            array.reset()
        launch(seed)
        now = {name: array.read() for name, array in arrays.items()}
        first = first or now
        for name, values in now.items():
            assert values.tobytes() == first[name].tobytes(), f"{name}: other bits with seed {seed}"
    return first


class Sparse:
    """Address space of which only the end has memory: an array's values, `before` bytes from `start`.

    A kernel that computes a large index in 32 bits lands in the emptiness, before `start` if it comes out negative, and
    its results are wrong.
    """

    def __init__(self, before: int, values: Array) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        try:
            memory = mmap.mmap(-1, 2 * before + values.nbytes, flags=flags)
        except OSError as error:
            pytest.skip(f"no {before / 2**29:.0f} GB of address space: {error}")
        whole = np.frombuffer(memory, np.uint8)
        self.start = whole.ctypes.data + before
        self.values = whole[2 * before :].view(values.dtype)
        self.values[...] = values.ravel()
