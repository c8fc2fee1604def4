"""What the GPU can do at most, measured in the same run: a copy, and products of square matrices.

    copy       bytes read and written a second, between two arrays far beyond the caches
    float32, tf32, bfloat16    floating-point operations a second of cuBLAS, with the operands of each, into float32

Products are of random numbers: with zeros a GPU draws less power, and is faster than it is with data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
BYTES, SIDE, CALLS, ROUNDS = 1 << 31, 8192, 10, 3
QUICK = {"size": 1 << 16, "side": 64, "calls": 1, "rounds": 1}


def measure(size: int = BYTES, side: int = SIDE, calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, float]:
    """The ceilings, in bytes and operations a second."""
    return {"copy": _copy(size, calls, rounds), **_products(side, calls, rounds)}


def _copy(size: int, calls: int, rounds: int) -> float:
    import cupy

    source = cupy.zeros(size // 4, dtype=np.float32)
    target = cupy.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: cupy.copyto(target, source), calls, rounds)


def _products(side: int, calls: int, rounds: int) -> dict[str, float]:
    import cupy

    from gpusoftmax.cuda.blas import product

    square = cupy.asarray(np.random.default_rng(0).standard_normal((side, side), dtype=np.float32))
    out, found = cupy.empty_like(square), {}
    for name, precision in PRECISIONS.items():
        # bfloat16 by its bits: the upper half of those of float32
        operand = square if name != "bfloat16" else (square.view(np.uint32) >> 16).astype(np.uint16)

        def multiply(operand: Any = operand, precision: str = precision) -> None:
            product(operand, operand, out, precision=precision)

        found[name] = 2.0 * side**3 / seconds(multiply, calls, rounds)
    return found


def seconds(work: Callable[[], Any], calls: int, rounds: int) -> float:
    """Fewest seconds of a call, by events around several, after a round to warm up."""
    import cupy

    start, stop, fewest = cupy.cuda.Event(), cupy.cuda.Event(), np.inf
    for turn in range(rounds + 1):
        start.record()
        for _ in range(calls):
            work()
        stop.record()
        stop.synchronize()
        if turn > 0:
            fewest = min(fewest, 1e-3 * cupy.cuda.get_elapsed_time(start, stop) / calls)
    return float(fewest)
