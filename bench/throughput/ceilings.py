"""What the machine can do at most, measured in the same run: reading, copying, and single-precision products.

    read    bytes of a float32 array a second, by dot products of it with itself (BLAS reads each number once)
    copy    bytes read and written a second
    sgemm   floating-point operations a second of square products

Each on one thread and on all: the best of several rounds before the cases and after them. A case's floor is the longer
of its bytes at `read` and its operations at `sgemm`, and a contender reaches the fraction of the ceiling that is this
floor over its time. Small cases, whose X stays in the caches, may go beyond `read`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.common.ours import backend_for
from bench.throughput.cases import Case

READ_BYTES, SIDE = 1 << 28, 2048  # far beyond the caches; a product of 36 ms at 480 GFLOP/s
ROUNDS, REST = 5, 0.15


def measure(available: int, quick: bool = False) -> dict[str, dict[str, float]]:
    """Ceilings by device ("cpu", and "gpu" where CuPy computes), in bytes and operations a second, as `read_1` for one
    thread and `read` for all."""
    size, side = (READ_BYTES // 16, SIDE // 2) if quick else (READ_BYTES, SIDE)
    rounds = 2 if quick else ROUNDS
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    rng = np.random.default_rng(0)
    left, right = rng.random((2, side, side), dtype=np.float32)
    product = np.empty_like(left)
    found: dict[str, float] = {}
    for threads, suffix in ((1, "_1"), (available, "")):
        sources, targets = np.array_split(source, threads), np.array_split(target, threads)
        with ThreadPoolExecutor(threads) as pool, threadpool_limits(1, "blas"):
            read = _best(lambda: list(pool.map(np.dot, sources, sources)), rounds)  # noqa: B023
            copy = _best(lambda: list(pool.map(np.copyto, targets, sources)), rounds)  # noqa: B023
        with threadpool_limits(threads, "blas"):
            multiply = _best(lambda: np.matmul(left, right, out=product), rounds)
        found |= {
            f"read{suffix}": source.nbytes / read,
            f"copy{suffix}": 2 * source.nbytes / copy,
            f"sgemm{suffix}": 2 * side**3 / multiply,
        }
    gpu = _gpu(rounds)
    return {"cpu": found, "gpu": gpu} if gpu else {"cpu": found}


def _best(work: Callable[[], Any], rounds: int) -> float:
    """Fewest seconds of a call; each round after a rest, in which BLAS's idle threads stop spinning."""
    fewest = np.inf
    for _ in range(rounds):
        time.sleep(REST)
        work()
        for _ in range(2):
            started = time.perf_counter()
            work()
            fewest = min(fewest, time.perf_counter() - started)
    return float(fewest)


def _gpu(rounds: int) -> dict[str, float]:
    """The ceilings of a GPU, by CuPy; empty without one."""
    from gpusoftmax.cuda.probe import probe

    if not probe().works:
        return {}
    backend = backend_for("cuda")
    xp = backend.xp
    with backend.active():
        source = xp.ones(1 << 28, np.float32)
        target = xp.empty_like(source)
        square = xp.ones((8192, 8192), np.float32)

        def timed(work: Callable[[], Any]) -> float:
            def waited_for() -> None:
                work()
                backend.synchronize()

            return _best(waited_for, rounds)

        found = {
            "read": source.nbytes / timed(lambda: xp.dot(source, source)),
            "copy": 2 * source.nbytes / timed(lambda: xp.copyto(target, source)),
            "sgemm": 2 * 8192**3 / timed(lambda: square @ square),
        }
    return found | {f"{name}_1": value for name, value in found.items()}  # a GPU has no single thread


def floor(case: Case, ceilings: dict[str, float]) -> tuple[float, str]:
    """The fewest seconds that a unit of the case can take, and which ceiling says so."""
    suffix = "_1" if case.threads == 1 else ""
    reading, computing = case.bytes / ceilings[f"read{suffix}"], case.flops / ceilings[f"sgemm{suffix}"]
    return (reading, "read") if reading >= computing else (computing, "sgemm")


def higher(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The higher of each ceiling of two measurements."""
    return {device: {name: max(value, other[device][name]) for name, value in one[device].items()} for device in one}
