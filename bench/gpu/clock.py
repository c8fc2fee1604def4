"""How long a call takes on the GPU: several are queued one after another, and waited for once.

So the time is that of the device where it is slower than the host that queues, and else that of the host; a solver,
which asks for one pass after another, waits as long. The time of a call alone, waited for, is in the results, too.
"""

from __future__ import annotations

import time

import numpy as np

from bench.common.harness import Result
from bench.throughput.contenders.base import Prepared

ROUNDS = 5
SECONDS_A_ROUND, FEWEST, MOST = 0.06, 3, 400


def one_round(prepared: Prepared, quick: bool) -> tuple[float, float]:
    """Seconds of a call among queued ones, and of a call alone; after a call to warm up."""
    queue = prepared.queue or prepared.call
    prepared.call()
    started = time.perf_counter()
    prepared.call()
    alone = time.perf_counter() - started
    calls = 1 if quick else min(MOST, max(FEWEST, int(SECONDS_A_ROUND / alone)))
    if alone > SECONDS_A_ROUND:
        return alone, alone
    started = time.perf_counter()
    for _ in range(calls):
        result = queue()
    prepared.wait(result)
    return (time.perf_counter() - started) / calls, alone


def summary(rounds: list[tuple[float, float]]) -> Result:
    """Medians over rounds, in milliseconds, and every round."""
    queued, alone = zip(*rounds, strict=True)
    median = float(np.median(queued))
    return {
        "milliseconds": 1e3 * median,
        "fastest": 1e3 * min(queued),
        "spread": (max(queued) - min(queued)) / median,
        "alone": 1e3 * float(np.median(alone)),
        "rounds": [1e3 * seconds for seconds in queued],
    }
