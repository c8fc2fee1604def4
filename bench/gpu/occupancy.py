"""How many blocks of threads a multiprocessor holds at a time, and what keeps it from holding more.

The limits are those of the CUDA C++ Programming Guide ("Technical Specifications per Compute Capability").
"""

from __future__ import annotations

from dataclasses import dataclass

from gpusoftmax.cuda.few_classes import RESERVED, multiprocessor_memory

WARP = 32
REGISTERS = 65536  # of a multiprocessor, on every architecture here
REGISTERS_AT_A_TIME = 256  # given to a warp
WARPS_AT_A_TIME = 4  # given registers together: there are four schedulers
SHARED_AT_A_TIME = 128  # bytes


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor.

    Attributes
    ----------
    shared : int
        Bytes of shared memory for all blocks.
    reserved : int
        Bytes of it that the system takes for each block.
    """

    threads: int
    blocks: int
    shared: int
    reserved: int


MULTIPROCESSORS = {
    75: Multiprocessor(1024, 16, 64 << 10, 0),
    80: Multiprocessor(2048, 32, multiprocessor_memory(80), RESERVED),
    90: Multiprocessor(2048, 32, multiprocessor_memory(90), RESERVED),
    100: Multiprocessor(2048, 32, multiprocessor_memory(100), RESERVED),
    120: Multiprocessor(1536, 24, multiprocessor_memory(120), RESERVED),
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks that a multiprocessor holds at a time, and the resource of which there is no more."""

    blocks: int
    limit: str  # "threads", "blocks", "registers" or "shared memory"


def occupancy(arch: int, threads: int, registers: int, shared: int) -> Occupancy:
    """Return how many blocks fit that have so many threads, registers a thread and bytes of shared memory."""
    own, warps = MULTIPROCESSORS[arch], -(-threads // WARP)
    of_a_warp = _up(registers * WARP, REGISTERS_AT_A_TIME)
    fitting = {
        "threads": own.threads // (warps * WARP),
        "registers": REGISTERS // of_a_warp // WARPS_AT_A_TIME * WARPS_AT_A_TIME // warps,
        "shared memory": own.shared // max(1, _up(shared + own.reserved, SHARED_AT_A_TIME)),
        "blocks": own.blocks,
    }
    limit = min(fitting, key=lambda name: fitting[name])
    return Occupancy(fitting[limit], limit)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
