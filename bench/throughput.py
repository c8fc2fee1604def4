#!/usr/bin/env python3
"""Rows a second of one value and gradient, for each back end that is here.

    python bench/throughput.py                      all cases
    python bench/throughput.py --case cifar --json out.json

A back end whose loss or gradient differs from the reference on the first rows has no time. Back ends take turns, each
after a rest of 0.15 s (BLAS's idle threads spin for 80 ms after a product, on a core that the next one needs) and a
warm-up call; the median is shown.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax import BackendUnavailableError, reference, resolve
from gpusoftmax.info import describe
from gpusoftmax.objective import loss_and_gradient

BACKENDS = ("cpu", "numpy", "cuda")
REST, ROUNDS, CALLS = 0.15, 5, 3


@dataclass(frozen=True)
class Case:
    """A shape: n rows of d features in dtype, c classes, K models."""

    name: str
    n: int
    d: int
    c: int
    dtype: str
    K: int = 1

    def data(self) -> tuple[Any, ...]:
        """X, y, W, b; pixels for uint8, else normal numbers with an outlier in each thousand."""
        rng = np.random.default_rng(0)
        if self.dtype == "uint8":
            X = rng.integers(0, 256, (self.n, self.d), dtype=np.uint8)
        else:
            X = rng.standard_normal((self.n, self.d), dtype=np.float32)
            X[::1000] *= 100
            X = X.astype(self.dtype)
        size = 1e-4 if self.dtype == "uint8" else 1e-2
        W = size * rng.standard_normal((self.d, self.K, self.c))
        return X, rng.integers(0, self.c, self.n), W, np.zeros((self.K, self.c))


CASES = [
    Case("cifar-f32", 49000, 3072, 10, "float32"),
    Case("cifar-u8", 49000, 3072, 10, "uint8"),
    Case("cifar-f16", 49000, 3072, 10, "float16"),
    Case("digits", 1797, 64, 10, "float32"),
    Case("mnist", 60000, 784, 10, "float32"),
    Case("probe", 100000, 768, 1000, "float32"),
    Case("tall", 2_000_000, 32, 5, "float32"),
    Case("models-4", 49000, 3072, 10, "uint8", 4),
]


def wrong(case: Case, backend: Any, X: Any, y: Any, W: Any, b: Any) -> str:
    """What is wrong with a back end on the first 300 rows; empty if nothing is."""
    rows = slice(0, 300)
    loss, dW, _ = loss_and_gradient(X[rows], y[rows], W, b, backend=backend)
    true_loss, true_dW, _ = reference.loss_and_gradient(X[rows], y[rows], W, b)
    error = np.linalg.norm(dW - true_dW) / np.linalg.norm(true_dW)
    if not np.allclose(loss, true_loss, rtol=1e-5) or error > 1e-5:
        return f"wrong: loss {loss} for {true_loss}, gradient off by {error:.1e}"
    return ""


def measure(case: Case, backends: dict[str, Any]) -> list[dict[str, Any]]:
    """One result per back end."""
    X, y, W, b = case.data()
    faults = {name: wrong(case, backend, X, y, W, b) for name, backend in backends.items()}
    seconds: dict[str, list[float]] = {name: [] for name, fault in faults.items() if not fault}
    for _ in range(ROUNDS):
        for name in seconds:
            time.sleep(REST)
            loss_and_gradient(X, y, W, b, backend=backends[name])
            for _ in range(CALLS):
                started = time.perf_counter()
                loss_and_gradient(X, y, W, b, backend=backends[name])
                seconds[name].append(time.perf_counter() - started)
    results = []
    for name in backends:
        result: dict[str, Any] = {"case": case.name, "backend": name, "fault": faults[name]}
        if name in seconds:
            median = float(np.median(seconds[name]))
            result |= {
                "milliseconds": 1e3 * median,
                "fastest": 1e3 * min(seconds[name]),
                "rows_per_second": case.n / median,
                "gigabytes_per_second": X.nbytes / median / 1e9,
                "gigaflops": 4e-9 * case.n * case.d * case.K * case.c / median,
            }
        results.append(result)
    return results


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", help="the start of a case's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    backends = {}
    for name in BACKENDS:
        try:
            backends[name] = resolve(name)
        except BackendUnavailableError as error:
            print(f"absent: {error}", file=sys.stderr)
    chosen = [case for case in CASES if not options.case or any(case.name.startswith(part) for part in options.case)]
    results = []
    print(f"{'case':10s} {'back end':9s} {'ms':>9s} {'rows/s':>12s} {'GB/s':>7s} {'GFLOP/s':>8s}")
    for case in chosen:
        for result in measure(case, backends):
            results.append(result)
            if result["fault"]:
                print(f"{result['case']:10s} {result['backend']:9s} {result['fault']}")
                continue
            print(
                f"{result['case']:10s} {result['backend']:9s} {result['milliseconds']:9.2f} "
                f"{result['rows_per_second']:12,.0f} {result['gigabytes_per_second']:7.2f} {result['gigaflops']:8.1f}",
                flush=True,
            )
    if options.json:
        facts = {"machine": platform.processor() or platform.machine(), **describe()}
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=1))
    if any(result["fault"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
