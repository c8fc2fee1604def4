"""Occupancy as the programming guide has it, and the model of bandwidth beside published measurements."""

from __future__ import annotations

import itertools

import pytest

from bench.gpu.machine_code import Costs
from bench.gpu.model import DEVICES, predict
from bench.gpu.occupancy import Occupancy, occupancy


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks", "limit"),
    [
        (90, 256, 32, 0, 8, "threads"),
        (90, 256, 33, 0, 6, "registers"),  # 40 x 32 a warp: 51, and so 48 warps
        (90, 256, 64, 0, 4, "registers"),
        (90, 256, 255, 0, 1, "registers"),
        (90, 1024, 64, 0, 1, "registers"),
        (90, 128, 40, 48 << 10, 4, "shared memory"),
        (80, 128, 40, 48 << 10, 3, "shared memory"),
        (120, 128, 40, 48 << 10, 2, "shared memory"),
        (120, 512, 32, 0, 3, "threads"),
        (90, 32, 16, 0, 32, "blocks"),
        (120, 32, 16, 0, 24, "blocks"),
        (75, 256, 32, 0, 4, "threads"),
        (90, 512, 168, 0, 0, "registers"),  # cannot be launched
    ],
)
def test_occupancy(arch: int, threads: int, registers: int, shared: int, blocks: int, limit: str) -> None:
    assert occupancy(arch, threads, registers, shared) == Occupancy(blocks, limit)


def warp(*, instructions: int = 0, clocks: float = 0, rounds: float = 1, wavefronts: int = 0) -> Costs:
    return Costs(instructions, clocks, rounds, wavefronts, in_flight=0, before_wait=0, shuffles=0, barriers=0)


# ---- published measurements. Where a kernel's machine code is not known, only its waits for memory are given.

# RRZE-HPC/gpu-benches gpu-stream/gh200.txt, copy with one load of 8 bytes a thread: kB resident, GB/s. The two numbers
# of the wait are from these five, so that this says how well two numbers describe them, and no more.
GH200_COPY = ((2, 854), (4, 1397), (8, 2269), (12, 2854), (16, 3174))


@pytest.mark.parametrize(("resident", "measured"), GH200_COPY)
def test_a_copy_by_the_bytes_that_are_resident(resident: int, measured: int) -> None:
    blocks, threads = resident // 2, 256  # of 2 kB
    found = predict(DEVICES["GH200"], warp(), blocks, threads, moved=2 * 8 * threads)
    assert found.bandwidth == pytest.approx(1e9 * measured, rel=0.08)
    assert found.limit == "latency"


# Dao-AILab/quack media/2025-07-10-membound-sol.md, H100, softmax, float32, 16384 x 131072: TB/s of one read and one
# write of each score. QuACK's clusters of four blocks of 256 threads keep a row in shared memory, a quarter each. What
# torch.compile makes reads it twice.
INSTRUCTIONS = 20  # an element, assumed: the model must not care


def softmax_on_h100(passes: int) -> float:
    elements, threads = 131072 // 4, 256
    instructions = INSTRUCTIONS * elements // threads
    found = predict(
        DEVICES["H100"],
        warp(instructions=instructions, clocks=2 * instructions, rounds=passes, wavefronts=3 * elements // threads),
        1,
        threads,
        moved=8 * elements,
        useful=2 / (passes + 1),
    )
    assert found.limit == "copy"
    return found.bandwidth


def test_a_row_that_is_read_once_and_one_that_is_read_twice() -> None:
    assert softmax_on_h100(passes=1) == pytest.approx(3.01e12, rel=0.02)
    assert softmax_on_h100(passes=2) == pytest.approx(2.0e12, rel=0.02)


# ---- what binds


def test_what_binds_is_named() -> None:
    device = DEVICES["H200"]

    def limit(costs: Costs, blocks: int = 8) -> str:
        return predict(device, costs, blocks, 256, moved=256 * 32).limit

    assert limit(warp(instructions=100)) == "copy"
    assert limit(warp(instructions=100, rounds=8)) == "latency"
    assert limit(warp(instructions=100), blocks=1) == "latency"
    assert limit(warp(instructions=2000)) == "issue"
    assert limit(warp(instructions=100, wavefronts=500)) == "shared memory"


def test_a_row_kernel_at_the_issue_limit() -> None:
    # 62 instructions an element are what an H200 issues while it copies a float32, and 31 for a bfloat16
    for size, budget in ((4, 62.4), (2, 31.2)):
        per_thread = 32
        found = predict(
            DEVICES["H200"], warp(instructions=int(budget * per_thread)), 1000, 256, moved=2 * size * per_thread * 256
        )
        assert found.limits["issue"] == pytest.approx(found.limits["copy"], rel=0.01)


def test_memory_near_its_limit_answers_later() -> None:
    device = DEVICES["H200"]
    shares = [predict(device, warp(), blocks, 256, moved=2 * 2048).share for blocks in range(1, 9)]
    gains = [later - earlier for earlier, later in itertools.pairwise(shares)]
    assert all(gain > 0 for gain in gains)
    assert gains == sorted(gains, reverse=True)
