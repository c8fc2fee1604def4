"""What workers do for a fit: functions that they call, and the work that these are given, which is sent to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import first_not_finite
from gpusoftmax.cluster.sums import Part, WorkerSums, fingerprint, gpu_in_use, sums_of_worker, this_process
from gpusoftmax.cpu.row_blocks import blocks
from gpusoftmax.dtypes import widen
from gpusoftmax.tree import Nodes, TreeSum

BLOCK = 1024  # rows that are looked at together


class Result(NamedTuple):
    """What a task returns: the nodes of a tree of sums, or a value for each partition, and where it was computed.

    `computed_by` is its `fingerprint`, `process` names the process, and `gpu` the GPU, or is empty.
    """

    values: Any
    computed_by: dict[str, str]
    process: str
    gpu: str


class Place(NamedTuple):
    """What a partition has to be: the number of its first row, its shape, and its type."""

    first: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]


class Sums(Protocol):
    """Sums over rows, as nodes of the tree of all rows."""

    def over(self, sums: WorkerSums, part: Part) -> Nodes:
        """Sum over the rows of a partition."""


class Lookup(Protocol):
    """Something to look up in the rows of a partition."""

    def within(self, sums: WorkerSums, part: Part) -> Any:
        """Look it up in the rows of a partition."""


def add_up(work: Sums, threads: int, backend: str, places: list[Place], X: list[Any], *columns: list[Any]) -> Result:
    """Sum over partitions; returns the nodes of the tree that their sums make together."""
    sums, tree = sums_of_worker(backend, threads), TreeSum()
    for part in _parts(sums, places, X, columns):
        for (level, index), node in work.over(sums, part).items():
            tree.add(level, index, node)
    return _result(tree.parts(), backend)


def each(work: Lookup, threads: int, backend: str, places: list[Place], X: list[Any], *columns: list[Any]) -> Result:
    """Look something up in each partition."""
    sums = sums_of_worker(backend, threads)
    return _result([work.within(sums, part) for part in _parts(sums, places, X, columns)], backend)


def _result(values: Any, backend: str) -> Result:
    return Result(values, fingerprint(backend), this_process(), gpu_in_use(backend))


def identity(x: Any) -> Any:
    """Return x; as a task it puts x on a worker, from where it can be sent to others."""
    return x


def _parts(sums: WorkerSums, places: list[Place], X: list[Any], columns: Sequence[list[Any]]) -> list[Part]:
    """The partitions of a task."""
    for place, x in zip(places, X, strict=True):
        if (tuple(x.shape), x.dtype) != (place.shape, place.dtype):  # the kernels would read beyond its end
            raise ValueError(
                f"a partition has shape {tuple(x.shape)} and type {x.dtype}, but X says {place.shape} and {place.dtype}"
            )
    return [
        Part(sums.rows(x), place.first, [None if column[i] is None else sums.column(column[i]) for column in columns])
        for i, (place, x) in enumerate(zip(places, X, strict=True))
    ]


@dataclass(frozen=True)
class Gradient:
    """Losses, correct weights and gradients at W (d, K, c) and b (K, c); the columns are labels and weights."""

    W: Array
    b: Array
    loss: int
    with_gradient: bool

    def over(self, sums: WorkerSums, part: Part) -> Nodes:
        """See `Sums`."""
        return sums.gradient(part, self.W, self.b, self.loss, self.with_gradient)


@dataclass(frozen=True)
class Moments:
    """Sums of s, s (x - centre) and s (x - centre)^2; the column is s (m,)."""

    centre: Array

    def over(self, sums: WorkerSums, part: Part) -> Nodes:
        """See `Sums`."""
        return sums.moments(part, self.centre)


@dataclass(frozen=True)
class LabelSums:
    """Some columns of the sums of `Operations.label_sums`; the columns are labels, weights and proportions."""

    class_weight: Array
    columns: slice

    def over(self, sums: WorkerSums, part: Part) -> Nodes:
        """See `Sums`."""
        labels, weights, proportions = part.columns
        class_weight = sums.array(self.class_weight)

        def coefficients(here: slice) -> Array:
            soft = None if proportions is None else proportions[here]
            return sums.ops.label_coefficients(labels[here], weights[here], class_weight, soft)

        return sums.products(part, coefficients, self.columns, np.dtype(np.float64), False)


@dataclass(frozen=True)
class Products:
    """Some columns of the sums of x_i^T q_i and q_i; the column is q (m, columns)."""

    columns: slice
    squared: bool

    def over(self, sums: WorkerSums, part: Part) -> Nodes:
        """See `Sums`."""
        (Q,) = part.columns
        return sums.products(part, lambda here: Q[here], self.columns, Q.dtype, self.squared)


@dataclass(frozen=True)
class Scores:
    """Scores, probabilities or best classes of all rows: `operation` is the name of one of `Operations`."""

    operation: str
    W: Array
    b: Array

    def within(self, sums: WorkerSums, part: Part) -> Array:
        """See `Lookup`."""
        return sums.scores(self.operation, part, self.W, self.b)


@dataclass(frozen=True)
class Take:
    """The rows with the given numbers (m,), which increase."""

    numbers: Array

    def within(self, sums: WorkerSums, part: Part) -> Array:
        """See `Lookup`."""
        start, stop = np.searchsorted(self.numbers, [part.first, part.first + len(part.rows)])
        return part.rows[self.numbers[start:stop] - part.first]


@dataclass(frozen=True)
class FirstNotFinite:
    """The place and the value of the first NaN or infinity, or None."""

    def within(self, sums: WorkerSums, part: Part) -> tuple[int, int, float] | None:
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

    def within(self, sums: WorkerSums, part: Part) -> tuple[int, float]:
        """See `Lookup`."""
        best = (part.first, 0.0)
        for block in blocks(part.rows, None, BLOCK):
            x = widen(block.array[:, self.column])
            row = int(abs(x).argmax())
            if not abs(x[row]) <= abs(best[1]):
                best = part.first + block.first + row, float(x[row])
        return best
