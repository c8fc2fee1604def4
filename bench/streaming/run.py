"""How fast is a pass over features in a file, mapped or read ahead through buffers, beside one in memory?

A pass is the loss and the gradient of all rows at one point. The file is in the system's cache, or was dropped from it
before each pass ("cold"; only Linux can be asked for that). `preadv` reads the file into three buffers by two threads
and computes nothing: what reading alone takes. Medians of --rounds, in turns. Losses and gradients must have the bits
of those in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.common.harness import Benchmark, Contender, Progress, Result, positive
from bench.common.pages import Figures, Link, Results, rows, seconds, versions, where

ROUNDS = 7
MEGABYTES = 1024
SLICE_ROWS = 4096  # written at a time
REST = 0.2  # seconds before each pass


@dataclass(frozen=True)
class Case:
    """Features of a type, and the number of classes."""

    name: str
    dtype: str
    d: int
    c: int
    cold: bool = False
    needs_data = False

    @property
    def words(self) -> str:
        """The case in words."""
        where_from = "from the disk" if self.cold else "in the system's cache"
        return f"{self.dtype} x {self.d}, {self.c} classes, {where_from}"


CASES = [
    Case("embeddings-2", "float16", 768, 2),
    Case("embeddings-10", "float16", 768, 10),
    Case("embeddings-100", "float16", 768, 100),
    Case("embeddings-1000", "float16", 768, 1000),
    Case("pixels-10", "uint8", 3072, 10),
    Case("embeddings-2-cold", "float16", 768, 2, cold=True),
    Case("embeddings-10-cold", "float16", 768, 10, cold=True),
]


class Data:
    """A file of features, the same in memory, labels, and a point."""

    def __init__(self, case: Case, folder: Path, megabytes: int) -> None:
        from gpusoftmax import get_backend, open_rows

        rng, size = np.random.default_rng(0), np.dtype(case.dtype).itemsize
        self.n = max(SLICE_ROWS, (megabytes << 20) // (case.d * size) // SLICE_ROWS * SLICE_ROWS)
        self.path, self.backend = folder / "X.npy", get_backend("cpu")
        part = rng.integers(0, 256, (SLICE_ROWS, case.d)) if size == 1 else rng.standard_normal((SLICE_ROWS, case.d))
        part = part.astype(case.dtype)
        written = np.lib.format.open_memmap(self.path, "w+", part.dtype, (self.n, case.d))
        for first in range(0, self.n, SLICE_ROWS):
            written[first : first + SLICE_ROWS] = np.roll(part, first // SLICE_ROWS, axis=1)
        written.flush()
        del written
        self.X = np.load(self.path)
        self.labels = rng.integers(0, case.c, self.n, dtype=np.int32)
        self.W = (rng.standard_normal((case.d, 1, case.c)) / (16 * case.d)).astype(np.float32)
        self.b = np.zeros((1, case.c), np.float32)
        self.mapped = open_rows(self.path)
        self.ring = open_rows(self.path, memory_limit=min(512 << 20, self.X.nbytes // 2))

    def drop(self) -> None:
        """Drop the file from the system's cache."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def gradient(self, X: Any) -> str:
        """A pass; returns the digest of its results."""
        found = self.backend.ops.linear_gradient(X, self.labels, self.W, self.b, None, 0)
        return hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in found)).hexdigest()


def by_preadv(data: Data) -> None:
    """Read the file as the ring does, and compute nothing."""
    for _ in data.ring.blocks(2048):
        pass


def by_numpy(data: Data) -> None:
    """What users write by hand: a memmap in chunks, two products for each."""
    X, c = np.load(data.path, mmap_mode="r"), data.W.shape[2]
    W, gradient, loss = data.W[:, 0], np.zeros((len(data.W), c), np.float32), 0.0
    for first in range(0, len(X), 8192):
        x, t = np.asarray(X[first : first + 8192], np.float32), data.labels[first : first + 8192]
        z = x @ W + data.b[0]
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True)
        own = np.arange(len(t))
        loss += float((np.log(total[:, 0]) - np.log(z[own, t])).sum())
        z /= total
        z[own, t] -= 1
        gradient += x.T @ z


CONTENDERS = (
    Contender("memory", "ours: X in memory", lambda data: data.gradient(data.X), ours=True),
    Contender("mapped", "ours: the file is mapped to memory", lambda data: data.gradient(data.mapped), ours=True),
    Contender("ring", "ours: read ahead through three buffers", lambda data: data.gradient(data.ring), ours=True),
    Contender("preadv", "reading alone, into the same buffers", by_preadv),
    Contender("numpy", "by hand: numpy.memmap in chunks, two products each", by_numpy),
)


class Streaming(Benchmark):
    """Runs the benchmark."""

    name = "streaming"
    contenders = CONTENDERS
    examples = ("--quick", "--case embeddings-10 --megabytes 4096", "--out bench/results/streaming --label NAME")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --rounds, --megabytes and --folder."""
        parser.add_argument("--rounds", type=positive, help=f"default {ROUNDS}, 1 with --quick")
        parser.add_argument("--megabytes", type=positive, help=f"of the file; default {MEGABYTES}, 64 with --quick")
        parser.add_argument("--folder", type=Path, metavar="DIR", help="for the file; default: the system's for these")

    def start(self) -> Result:
        """The settings."""
        self.rounds = self.options.rounds or (1 if self.options.quick else ROUNDS)
        self.megabytes = self.options.megabytes or (64 if self.options.quick else MEGABYTES)
        return {"settings": {"rounds": self.rounds, "megabytes": self.megabytes}}

    def cases(self, quick: bool) -> list[Case]:
        """All cases."""
        return CASES

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """Rounds in turns."""
        times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        bits: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(dir=self.options.folder) as folder:
            progress.doing("writing the file")
            data = Data(case, Path(folder), self.megabytes)
            facts |= {"n": data.n, "d": case.d, "c": case.c, "dtype": case.dtype, "bytes": data.X.nbytes}
            for number in range(-1, self.rounds):  # the first is not timed
                for contender in contenders:
                    progress.doing(f"round {number + 1}, {contender.name}")
                    if case.cold:
                        data.drop()
                    time.sleep(REST)
                    started = time.perf_counter()
                    found = contender.run(data)
                    if number >= 0:
                        times[contender.name].append(time.perf_counter() - started)
                    if contender.ours:
                        bits[contender.name] = found
            del data
        for contender in contenders:
            if contender.ours and bits[contender.name] != bits.get("memory", bits[contender.name]):
                yield contender.name, {"fault": "other bits than in memory"}
                continue
            taken = median(times[contender.name])
            yield contender.name, {
                "seconds": taken, "gigabytes a second": facts["bytes"] / taken / 1e9, "times": times[contender.name],
            }  # fmt: skip

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        lines = [f"{case.name}: {case.words}, {facts['bytes'] / 1e9:.2f} GB"]
        for result in results:
            speed = result.get("fault") or f"{result['seconds']:8.3f} s {result['gigabytes a second']:7.2f} GB/s"
            lines.append(f"  {result['contender']:10s} {speed}")
        return "\n".join(lines)


# ---- the table


def section(results: Results, link: Link) -> str:
    """A row for each case. Empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    speeds = {
        (one["case"], one["contender"]): one["gigabytes a second"] for one in found["results"] if "seconds" in one
    }
    lines = [["", *(contender.words for contender in CONTENDERS)]]
    for case in [one.name for one in CASES if one.name in found["cases"]]:
        cells = [speeds.get((case, contender.name)) for contender in CONTENDERS]
        lines.append([found["cases"][case]["words"], *("-" if one is None else seconds(one) for one in cells)])
    about = (
        "Gigabytes of features a second in a pass (loss and gradient) over a file of "
        f"{found['settings']['megabytes']} MB,\nmedians of {found['settings']['rounds']}."
    )
    load, cores = found["machine"]["load_at_start"], found["machine"]["cores"]
    if load and load > 0.3 * cores:
        about += f" There was a load of {load:.1f} on {cores} cores at the start."
    end = f"{where(found)}, {versions(found, 'numpy', 'numba')}. {link.how}."
    return "\n".join(["## Features in files", "", about, "", *rows(*lines), "", end, ""])


FIGURES = Figures({"streaming": section})


def main(arguments: list[str]) -> int:
    """The command."""
    return Streaming().main(arguments)
