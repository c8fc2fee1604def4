"""What share of a copy's bandwidth a kernel can reach, and what keeps it from more: predicted, from its machine code.

A device moves bytes no faster than the slowest of

- **copy**: what a copy reaches on it.
- **latency**: multiprocessors x blocks that one holds x bytes of a block / T. T is the time of a warp that is alone:
  the clocks of its instructions, shuffles and barriers, and each wait for memory. A wait takes 0.60 us, and up to
  0.77 us more the nearer the memory is to its limit: 0.60 + 0.77 rho^2 with rho = bandwidth / copy.
- **issue**: four instructions of warps a clock.
- **shared memory**: 128 bytes a clock, of which a shuffle of a warp takes 128.

The two numbers of the wait are from one published curve (tests/bench/test_gpu_model.py has it, and other published
figures that the model was not made from). Not in the model: a launch, the last blocks of a grid, caches, conflicts of
banks, exponentials (16 a clock), and that limits that are near each other add up. So a share is an upper bound, and 100
means that nothing here is known to be in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.gpu.machine_code import Costs
from bench.gpu.occupancy import WARP

WAIT, QUEUE = 0.60e-6, 0.77e-6  # seconds
ISSUED = 4  # instructions of warps a clock
SHARED_BYTES = 128  # a clock


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes
    ----------
    clock : float
        Clocks a second.
    copy : float
        Bytes a second, read and written, of a copy.
    source : str
        Where `copy` is from.
    """

    name: str
    arch: int
    multiprocessors: int
    clock: float
    copy: float
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device("A100", 80, 108, 1.41e9, 1.75e12, "estimated: 86% of the 2.04 TB/s of the 80 GB model's data sheet"),
        Device(
            "H100", 90, 132, 1.98e9, 3.02e12,
            "reads at 2885 and writes at 3175 GB/s, Dao-AILab/quack AI/global_memory_coalescing_notes.md",
        ),
        Device("GH200", 90, 132, 1.98e9, 3.174e12, "RRZE-HPC/gpu-benches gpu-stream/gh200.txt"),
        Device("H200", 90, 132, 1.98e9, 4.3e12, "90% of the 4.8 TB/s of the data sheet, as on the others"),
        Device("B200", 100, 148, 1.965e9, 6.55e12, "elementwise operations, NVIDIA/cccl pull request 7391"),
        Device("RTX 5090", 120, 170, 2.41e9, 1.6e12, "estimated: 90% of the 1.79 TB/s of the data sheet"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What a device can reach.

    Attributes
    ----------
    limits : dict
        Bytes a second by what limits them.
    """

    limits: dict[str, float]

    @property
    def limit(self) -> str:
        """What binds."""
        return min(self.limits, key=lambda name: self.limits[name])

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.limits[self.limit]

    @property
    def share(self) -> float:
        """The part of the bandwidth of a copy that is reached."""
        return self.bandwidth / self.limits["copy"]


def predict(device: Device, costs: Costs, blocks: int, threads: int, moved: int, useful: float = 1.0) -> Prediction:
    """Predict the bandwidth of a kernel.

    Parameters
    ----------
    costs : Costs
        What one warp of a block takes.
    blocks : int
        That a multiprocessor holds.
    threads : int
        Threads of a block.
    moved : int
        Bytes that a block must read and write.
    useful : float
        The part of the bytes that it does read and write which it must.
    """
    warps = -(-threads // WARP)
    per_clock = device.multiprocessors * device.clock * moved / warps
    return Prediction(
        {
            "copy": device.copy * useful,
            "latency": _latency_bound(device, costs, blocks, moved),
            "issue": per_clock * ISSUED / costs.instructions if costs.instructions else float("inf"),
            "shared memory": per_clock / costs.wavefronts if costs.wavefronts else float("inf"),
        }
    )


def _latency_bound(device: Device, costs: Costs, blocks: int, moved: int) -> float:
    """Return the bandwidth at which resident bytes / T(bandwidth) is that bandwidth."""
    resident = device.multiprocessors * blocks * moved

    def time(bandwidth: float) -> float:
        wait = WAIT + QUEUE * (bandwidth / device.copy) ** 2
        return costs.clocks / device.clock + costs.rounds * wait

    low, high = 0.0, 10 * device.copy
    for _ in range(60):  # bandwidth x T grows with the bandwidth
        middle = (low + high) / 2
        low, high = (middle, high) if middle * time(middle) < resident else (low, middle)
    return low
