"""What workers do for a fit: functions that they call, and the work that these are given, which is sent to them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol

import numpy as np
from threadpoolctl import threadpool_info

from gpusoftmax._typing import Array
from gpusoftmax.array import get_backend
from gpusoftmax.checks.arrays import first_not_finite
from gpusoftmax.cpu.column_sums import moment_sums, product_sums
from gpusoftmax.cpu.gradients import GradientSums
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.row_blocks import blocks
from gpusoftmax.dtypes import widen
from gpusoftmax.tree import Nodes, TreeSum

BLOCK = 1024  # rows that are looked at together


class Result(NamedTuple):
    """What a task returns: the nodes of a tree of sums, or a value for each partition, and where it was computed."""

    values: Any
    computed_by: dict[str, str]


class Place(NamedTuple):
    """What a partition has to be: the number of its first row, its shape, and its type."""

    first: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]


class Part(NamedTuple):
    """The rows of a partition, the number of the first, and the columns that go with them, such as labels."""

    rows: Any
    first: int
    columns: list[Any]


class Sums(Protocol):
    """Sums over rows, as nodes of the tree of all rows."""

    def over(self, ops: CpuOperations, part: Part) -> Nodes:
        """Sum over the rows of a partition."""


class Lookup(Protocol):
    """Something to look up in the rows of a partition."""

    def within(self, ops: CpuOperations, part: Part) -> Any:
        """Look it up in the rows of a partition."""


def add_up(work: Sums, threads: int, backend: str, places: list[Place], X: list[Any], *columns: list[Any]) -> Result:
    """Sum over partitions; returns the nodes of the tree that their sums make together."""
    ops, tree = _operations(backend, threads), TreeSum()
    for part in _parts(places, X, columns):
        for (level, index), node in work.over(ops, part).items():
            tree.add(level, index, node)
    return Result(tree.parts(), fingerprint(backend))


def each(work: Lookup, threads: int, backend: str, places: list[Place], X: list[Any], *columns: list[Any]) -> Result:
    """Look something up in each partition."""
    ops = _operations(backend, threads)
    return Result([work.within(ops, part) for part in _parts(places, X, columns)], fingerprint(backend))


def identity(x: Any) -> Any:
    """Return x; as a task it puts x on a worker, from where it can be sent to others."""
    return x


def _operations(backend: str, threads: int) -> CpuOperations:
    ops = get_backend(backend, threads).ops
    assert isinstance(ops, CpuOperations)
    return ops


def _parts(places: list[Place], X: list[Any], columns: Sequence[list[Any]]) -> list[Part]:
    """The partitions of a task. Arrays that came from another process may be read-only and not aligned."""
    for place, x in zip(places, X, strict=True):
        if (tuple(x.shape), x.dtype) != (place.shape, place.dtype):  # the kernels would read beyond its end
            raise ValueError(
                f"a partition has shape {tuple(x.shape)} and type {x.dtype}, but X says {place.shape} and {place.dtype}"
            )
    return [
        Part(
            np.require(x, requirements="A") if isinstance(x, np.ndarray) else x, place.first,
            [None if column[i] is None else np.require(column[i], requirements=("A", "W")) for column in columns],
        )
        for i, (place, x) in enumerate(zip(places, X, strict=True))
    ]  # fmt: skip


@cache
def fingerprint(backend: str) -> dict[str, str]:
    """Describe what decides about the bits of results in this process, by name."""
    found = {"machine": platform.machine(), "numpy": np.__version__, "backend": get_backend(backend).name}
    if found["backend"] == "cpu":
        from gpusoftmax.cpu.vectors import MACHINE

        found |= {"vectors": f"{MACHINE.name}, {8 * MACHINE.vector} bits", "numba": version("numba")}
    libraries = [one for one in threadpool_info() if one["user_api"] == "blas"]
    words = {" ".join(str(one.get(key)) for key in ("internal_api", "version", "architecture")) for one in libraries}
    return found | {"BLAS": ", ".join(sorted(words))}


@dataclass(frozen=True)
class Gradient:
    """Losses, correct weights and gradients at W (d, K, c) and b (K, c); the columns are labels and weights."""

    W: Array
    b: Array
    loss: int
    with_gradient: bool

    def over(self, ops: CpuOperations, part: Part) -> Nodes:
        """See `Sums`."""
        labels, weights = part.columns
        W, b = (np.require(x, requirements=("A", "W")) for x in (self.W, self.b))
        if weights is not None and weights.shape[1] != b.shape[0]:
            weights = np.repeat(weights, b.shape[0], axis=1)
        sums = GradientSums(ops.kernels, ops.n_threads, W, b, self.loss, self.with_gradient)
        return sums.over(part.rows, labels, weights, first_row=part.first).parts()


@dataclass(frozen=True)
class Moments:
    """Sums of s, s (x - centre) and s (x - centre)^2; the column is s (m,)."""

    centre: Array

    def over(self, ops: CpuOperations, part: Part) -> Nodes:
        """See `Sums`."""
        return moment_sums(part.rows, part.columns[0], self.centre, None, ops.n_threads, part.first).parts()


@dataclass(frozen=True)
class LabelSums:
    """Some columns of the sums of `Operations.label_sums`; the columns are labels, weights and proportions."""

    class_weight: Array
    columns: slice

    def over(self, ops: CpuOperations, part: Part) -> Nodes:
        """See `Sums`."""
        labels, weights, proportions = part.columns

        def coefficients(here: slice) -> Array:
            soft = None if proportions is None else proportions[here]
            return ops.label_coefficients(labels[here], weights[here], self.class_weight, soft)

        sums = product_sums(part.rows, coefficients, self.columns, np.float64, False, None, ops.n_threads, part.first)
        return sums.parts()


@dataclass(frozen=True)
class Products:
    """Some columns of the sums of x_i^T q_i and q_i; the column is q (m, columns)."""

    columns: slice
    squared: bool

    def over(self, ops: CpuOperations, part: Part) -> Nodes:
        """See `Sums`."""
        (Q,) = part.columns
        sums = product_sums(
            part.rows, lambda here: Q[here], self.columns, Q.dtype, self.squared, None, ops.n_threads, part.first
        )
        return sums.parts()


@dataclass(frozen=True)
class Scores:
    """Scores, probabilities or best classes of all rows: `operation` is the name of one of `Operations`."""

    operation: str
    W: Array
    b: Array

    def within(self, ops: CpuOperations, part: Part) -> Array:
        """See `Lookup`."""
        W, b = (np.require(x, requirements=("A", "W")) for x in (self.W, self.b))
        return getattr(ops, self.operation)(part.rows, W, b)


@dataclass(frozen=True)
class Take:
    """The rows with the given numbers (m,), which increase."""

    numbers: Array

    def within(self, ops: CpuOperations, part: Part) -> Array:
        """See `Lookup`."""
        start, stop = np.searchsorted(self.numbers, [part.first, part.first + len(part.rows)])
        return part.rows[self.numbers[start:stop] - part.first]


@dataclass(frozen=True)
class FirstNotFinite:
    """The place and the value of the first NaN or infinity, or None."""

    def within(self, ops: CpuOperations, part: Part) -> tuple[int, int, float] | None:
        """See `Lookup`."""
        for block in blocks(part.rows, None, BLOCK):
            if (found := first_not_finite(block.array)) is not None:
                row, column, value = found
                return part.first + block.first + row, column, value
        return None


@dataclass(frozen=True)
class Largest:
    """The row and the value of the entry of a column that is largest in absolute value; None without rows."""

    column: int

    def within(self, ops: CpuOperations, part: Part) -> tuple[int, float]:
        """See `Lookup`."""
        best = (part.first, 0.0)
        for block in blocks(part.rows, None, BLOCK):
            x = widen(block.array[:, self.column])
            row = int(abs(x).argmax())
            if not abs(x[row]) <= abs(best[1]):
                best = part.first + block.first + row, float(x[row])
        return best
