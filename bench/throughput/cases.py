"""The cases, what each of them moves and computes, and its data.

A case counts what the problem itself needs, whatever a contender does:

    work       unit that is timed                       flops              bytes
    gradient   one value and gradient over all rows     4 n d K c          X once
    step       one minibatch step of B rows             4 B d K c          the B rows once
    predict    the arg max of the scores of all rows    2 n d K c          X once

Only the entries of a sparse X count: 4 K c flops for each, and the bytes of its value and of its column, 4. X is in the
type in which it is given. W, the gradient and the labels are left out: they are small beside X in all cases but the
wide and the sparse ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Array = npt.NDArray[Any]

QUICK_ELEMENTS = 3_000_000  # features of a case under --quick
MOMENTUM = 0.9  # of minibatch steps


@dataclass(frozen=True)
class Case:
    """n rows of d features in dtype, c classes, K models; `threads` None means all of the machine."""

    name: str
    n: int
    d: int
    c: int
    dtype: str = "float32"
    K: int = 1
    work: str = "gradient"
    batch: int = 0
    threads: int | None = None
    memory: bool = False
    entries: int = 0  # of a row, if X is sparse
    needs_data = False

    @property
    def words(self) -> str:
        """The case in words."""
        step = f"a step of {self.batch} rows"
        work = {"gradient": "value and gradient", "predict": "predict", "step": step}[self.work]
        models = f", {self.K} models" if self.K > 1 else ""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        sparse = f" sparse, {self.entries} entries a row" if self.entries else ""
        return f"{work}, {self.n} x {self.d} x {self.c} {self.dtype}{sparse}{models}{threads}"

    @property
    def rows(self) -> int:
        """Rows of the unit that is timed."""
        return min(self.batch, self.n) if self.work == "step" else self.n

    @property
    def flops(self) -> float:
        """Floating-point operations of a unit."""
        return (2.0 if self.work == "predict" else 4.0) * self.rows * (self.entries or self.d) * self.K * self.c

    @property
    def bytes(self) -> float:
        """Bytes of X that a unit has to read."""
        size = np.dtype(self.dtype).itemsize
        return float(self.rows * (self.entries * (size + 4) if self.entries else self.d * size))

    def quick(self) -> Case:
        """The case with few rows, for trying things out."""
        return replace(self, n=max(min(self.n, 64), min(self.n, QUICK_ELEMENTS // (self.entries or self.d))))


@dataclass(frozen=True)
class Problem:
    """The data: X (n, d), an array or a csr_array, y (n,) int64, W (d, K, c) and b (K, c) float32, l2 (K,), and the
    rate of minibatch steps."""

    case: Case
    X: Array
    y: Array
    W: Array
    b: Array
    l2: Array
    rate: float

    def first(self, rows: int) -> Problem:
        """The first rows alone."""
        n = min(rows, self.case.n)
        return replace(self, case=replace(self.case, n=n), X=self.X[:n], y=self.y[:n])


def make(case: Case) -> Problem:
    """Data with outliers, so that a kernel that is wrong about large scores cannot pass.

    Scores are of size 1, and some 100 in one row of a thousand, where exp overflows without the row's maximum.
    """
    rng = np.random.default_rng(0)
    n, d, K, c = case.n, case.d, case.K, case.c
    if case.entries:
        return _sparse(case, rng)
    W = rng.standard_normal((d, K, c), dtype=np.float32)
    if case.dtype == "uint8":
        W *= 1 / (128 * np.sqrt(d))
        X = rng.integers(0, 256, (n, d), dtype=np.uint8)
        X[:, 0], W[0, :, 0] = 0, 0.5  # a pixel that is white in the outliers alone, where the first class scores 127
        X[::1000, 0] = 255
    else:
        W *= 1 / np.sqrt(d)
        X = np.empty((n, d), case.dtype)
        for start in range(0, n, 1 << 14):  # by blocks: float32 numbers for all of a float16 X would double the memory
            X[start : start + (1 << 14)] = rng.standard_normal((min(1 << 14, n - start), d), dtype=np.float32)
        X[::1000] *= np.asarray(100, case.dtype)
    y = rng.integers(0, c, n)
    # a quarter of 1 / (mean squared norm of a row): far from diverging, and far from standing still
    sample = X[: 1 << 12].astype(np.float64)
    rate = 0.25 / max(float(np.einsum("ip,ip->i", sample, sample).mean()), 1.0)
    b = (0.1 * rng.standard_normal((K, c))).astype(np.float32)
    return Problem(case, X, y, W, b, 1e-3 * np.arange(1.0, K + 1), rate)


def _sparse(case: Case, rng: np.random.Generator) -> Problem:
    """Features with the frequencies of words, in no order; the rows of `make`'s outliers have entries of 100."""
    n, d, K, c = case.n, case.d, case.K, case.c
    places = rng.permutation(d)[np.minimum((d ** rng.random((n, 2 * case.entries))).astype(np.int64), d - 1)]
    places.sort(axis=1)
    new = np.ones(places.shape, bool)
    new[:, 1:] = places[:, 1:] != places[:, :-1]
    new &= new.cumsum(axis=1) <= case.entries  # a few rows have fewer entries
    indptr = np.append(0, np.cumsum(new.sum(axis=1)))
    values = np.ones(indptr[-1], case.dtype) if case.dtype == "uint8" else rng.random(indptr[-1], np.float32) + 0.5
    X = csr_array((values, places[new].astype(np.int32), indptr), (n, d))
    if case.dtype != "uint8":
        for row in range(0, n, 1000):
            X.data[indptr[row] : indptr[row + 1]] *= 100
    W = rng.standard_normal((d, K, c), dtype=np.float32) / np.float32(np.sqrt(case.entries))
    b = (0.1 * rng.standard_normal((K, c))).astype(np.float32)
    return Problem(case, X, rng.integers(0, c, n), W, b, 1e-3 * np.arange(1.0, K + 1), 0.25 / case.entries)


def thread_counts(available: int) -> list[int]:
    """1, 2, 4, ... and all."""
    powers = [1 << i for i in range(available.bit_length()) if 1 << i < available]
    return [*powers, available]


def all_cases(available: int | None = None) -> list[Case]:
    """Every case, in the order in which they run; thread counts follow the machine's processors."""
    available = available or os.cpu_count() or 1
    cifar = {"n": 49000, "d": 3072, "c": 10}
    cases = [
        Case("cifar-f32", **cifar),
        Case("cifar-u8", **cifar, dtype="uint8"),
        Case("cifar-f16", **cifar, dtype="float16"),
        Case("digits", 1797, 64, 10),
        Case("mnist", 60000, 784, 10),
        Case("probe", 100_000, 768, 1000, memory=True),
        Case("wide", 20_000, 512, 5000, memory=True),
        Case("tall", 2_000_000, 32, 5),
        Case("text", 20_000, 75_000, 20, entries=78, memory=True),
        Case("one-hot", 40_000, 100_000, 20, "uint8", entries=7),
        Case("counts", 40_000, 20_000, 100, entries=42),
        *(Case(f"models-{K}", **cifar, dtype="uint8", K=K) for K in (1, 4, 16)),
        *(Case(f"minibatch-{batch}", **cifar, work="step", batch=batch) for batch in (200, 4096)),
        Case("predict-cifar", **cifar, work="predict"),
        Case("predict-cifar-u8", **cifar, dtype="uint8", work="predict"),
        Case("predict-probe", 100_000, 768, 1000, work="predict"),
        Case("predict-row", 1, 64, 10, work="predict"),
        *(Case(f"scaling-n-{n}", n, 512, 10) for n in (200, 2000, 20_000, 200_000)),
        *(Case(f"scaling-d-{d}", 20_000, d, 10) for d in (32, 500, 2048, 8192)),
        *(Case(f"scaling-c-{c}", 20_000, 512, c) for c in (2, 10, 64, 65, 100, 1000)),
        *(Case(f"scaling-models-{K}", 20_000, 512, 10, K=K) for K in (1, 2, 4, 8, 16, 64)),
    ]
    for threads in thread_counts(available):
        cases.append(Case(f"scaling-threads-{threads}-cifar", **cifar, threads=threads))
        cases.append(Case(f"scaling-threads-{threads}-probe", 100_000, 768, 1000, threads=threads))
    return cases
