"""Dense features that stay in files, from which each pass reads them block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_finite_features
from gpusoftmax.cuda import copying
from gpusoftmax.cuda.chunks import chunk_rows
from gpusoftmax.dtypes import computation_dtype, widen
from gpusoftmax.features.base import Features
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.operations import SgdSteps
from gpusoftmax.rows.file_rows import Rows

PART_MULTIPLE = 64  # rows; see Features.in_parts
READ_ROWS = 1 << 12  # rows at a time where blocks may begin anywhere
SHUFFLED_BYTES = 1 << 20  # of a block whose place in the order SGD shuffles; less if memory is short
BLOCKS_AT_ONCE = 64  # blocks whose rows are shuffled together


class _Window:
    """Blocks of rows that are in memory for SGD, which takes rows from many blocks again and again."""

    def __init__(self) -> None:
        self.numbers, self.rows = np.empty(0, np.int64), np.empty((0, 0))

    def holding(self, stored: Rows, blocks: Array, size: int) -> tuple[Array, Array]:
        """Return the row numbers of these blocks of `size` rows, increasing, and the rows; reads what is missing."""
        wanted = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        wanted = wanted[wanted < len(stored)]
        if not np.array_equal(wanted, self.numbers):
            rows: Array = np.empty((len(wanted), stored.shape[1]), stored.dtype)
            kept, own, theirs = np.intersect1d(self.numbers, wanted, assume_unique=True, return_indices=True)
            if len(kept):
                rows[theirs] = self.rows[own]
            missing = np.setdiff1d(wanted, kept, assume_unique=True)
            rows[np.searchsorted(wanted, missing)] = stored[missing]
            self.numbers, self.rows = wanted, rows
        return self.numbers, self.rows


@dataclass(frozen=True)
class StreamedFeatures(Features):
    """X (n_stored, d) in files; see `Features`. The results have the bits of those for the same X in memory."""

    stored: Rows
    backend: Backend
    shift: Array | None = None
    scale: Array | None = None
    rows: Array | None = None
    _window: _Window = field(default_factory=_Window, repr=False)

    @property
    def n_stored(self) -> int:
        return len(self.stored)

    @property
    def d(self) -> int:
        return self.stored.shape[1]

    @property
    def dtype(self) -> type[np.floating[Any]]:
        return computation_dtype(self.stored.dtype)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes

    def select(self, rows: Array | None) -> StreamedFeatures:
        return replace(self, rows=None if rows is None else self.backend.asarray(rows))

    def with_scaling(self, shift: Array | None, scale: Array | None) -> StreamedFeatures:
        shift, scale = (None if one is None else self.backend.asarray(one) for one in (shift, scale))
        return replace(self, shift=shift, scale=scale)

    def in_type_of(self, other: Features) -> StreamedFeatures:
        if self.dtype != other.dtype:
            names = np.dtype(self.dtype).name, np.dtype(other.dtype).name
            raise TypeError(
                f"the validation rows in {self.stored.path} are computed in {names[0]}, the training rows in "
                f"{names[1]}; write both in the same type"
            )
        return self

    @cached_property
    def _used(self) -> Rows:
        """The selected rows."""
        return self.stored if self.rows is None else self.stored.select(self.backend.to_numpy(self.rows))

    def _own(self, array: Array | None) -> Any:
        """The entries of the selected rows, from an array with an entry for each stored row."""
        return array if array is None or self.rows is None else array[self.rows]

    def sample(self, rows: Array, dtype: Any = np.float64) -> Array:
        return self.shifted_and_scaled(widen(self.stored[self.backend.to_numpy(rows)], dtype))

    def copied(self, rows: Array) -> DenseFeatures:
        stored = self.backend.asarray(self.stored[self.backend.to_numpy(rows)])
        return DenseFeatures(stored, self.backend, self.shift, self.scale)

    def moments(self, weights: Array | None, origin: int | None) -> tuple[Array, Array]:
        if origin is not None and self.rows is not None:
            origin = int(np.flatnonzero(self.backend.to_numpy(self.rows) == origin)[0])
        return self.backend.ops.column_moments(self._used, self._own(weights), None, origin)

    def label_sums(
        self, labels: Array, weights: Array, class_weight: Array, proportions: Array | None
    ) -> tuple[Array, Array]:
        labels, weights, proportions = map(self._own, (labels, weights, proportions))
        return self.backend.ops.label_sums(self._used, labels, weights, class_weight, proportions)

    def gradient(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        ops = self.backend.ops
        if rows is not None:
            numbers, x = self._in_memory([rows])
            at, asarray = self._places(numbers, rows), self.backend.asarray
            s = None if weights is None else weights[rows]
            return ops.linear_gradient(asarray(x[at]), labels[rows], W, b, s, loss)
        return ops.linear_gradient(self._used, self._own(labels), W, b, self._own(weights), loss)

    def losses(self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int) -> tuple[Array, Array]:
        return self.backend.ops.linear_losses(self._used, self._own(labels), W, b, self._own(weights), loss)

    def scores(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_scores(self._used, W, b)

    def probabilities(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_probabilities(self._used, W, b)

    def best(self, W: Array, b: Array) -> Array:
        return self.backend.ops.linear_best(self._used, W, b)

    def in_parts(self, most: int) -> Iterator[Features]:
        for _, block in self._used.blocks(PART_MULTIPLE):
            for first in range(0, len(block), most):
                part = self.backend.asarray(block[first : first + most])
                yield DenseFeatures(part, self.backend, self.shift, self.scale)

    def sgd_steps(
        self, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, velocity: Any, batches: list[Any],
        steps: SgdSteps,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        stretch = self.backend.sgd_stretch
        if stretch is None or any(rows is None for rows in batches):
            return None
        numbers, x = self._in_memory(batches)
        places = [self._places(numbers, rows) for rows in batches]
        own = slice(None) if numbers is None else numbers
        s = None if weights is None else weights[own]
        found = stretch.sgd_steps(x, labels[own], W, b, s, loss, velocity, places, steps)
        self.stored.check(0 if numbers is None else int(numbers[0]))
        return found

    def _in_memory(self, batches: list[Any]) -> tuple[Array | None, Array]:
        """Return row numbers, increasing, that include those of the batches, and these rows, in memory or mapped.

        None instead of the numbers stands for all rows.
        """
        if self.stored.in_one_array:
            return None, self.stored.array
        rows = np.concatenate([self.backend.to_numpy(one) for one in batches])
        size = self._block_rows
        numbers, x = self._window.holding(self.stored, np.unique(rows // size), size)
        return None if len(numbers) == self.n_stored else numbers, x

    def _places(self, numbers: Array | None, rows: Any) -> Array:
        """The places of some rows among `numbers`; see `_in_memory`."""
        rows = self.backend.to_numpy(rows)
        return rows if numbers is None else np.searchsorted(numbers, rows)

    @property
    def _block_rows(self) -> int:
        most = self.stored.memory // (8 * BLOCKS_AT_ONCE)  # an eighth of the memory for the blocks that are shuffled
        return max(1, min(SHUFFLED_BYTES, most) * self.n_stored // max(self.nbytes, 1))

    @property
    def shared_weight_bytes(self) -> int:
        on_gpu = self.backend.gpu is not None  # there it is the penalties that share passes
        return 0 if on_gpu or self.stored.is_mapped else self.stored.memory // 4

    @property
    def shuffled_blocks(self) -> tuple[int, int] | None:
        return None if self.stored.in_one_array else (self._block_rows, BLOCKS_AT_ONCE)

    def check_finite(self, name: str = "X") -> None:
        for first, x in self.stored.blocks(READ_ROWS):
            check_finite_features(x, name, first)

    def largest(self, column: int) -> tuple[int, float]:
        row, value = 0, 0.0
        for first, x in self.stored.blocks(READ_ROWS):
            values = widen(x[:, column])
            place = int(abs(values).argmax())
            if abs(values[place]) > abs(value):
                row, value = first + place, float(values[place])
        return row, value

    def column_products(self, Q: Array, squared: bool = False) -> Array:
        return self.backend.ops.column_products(self._used, Q, squared)

    def gram_of_columns(self, columns: Array, weights: Array, smallest: float) -> Array:
        used, G = np.flatnonzero(weights > smallest), np.zeros((len(columns), len(columns)))
        numbers = self.row_numbers(used)
        for first in range(0, len(used), READ_ROWS):
            part = slice(first, first + READ_ROWS)
            x = widen(self.stored[numbers[part]])[:, columns]
            G += (x * weights[used[part]][:, None]).T @ x
        return G

    def pass_cost(self, c: int) -> float:
        return 4.0 * self.n * self.d * c

    def pass_bytes(self, K: int, c: int) -> int:
        if self.backend.gpu is not None:  # of its memory
            buffers = copying.buffer_bytes(self.stored.dtype, self.n, self.d, chunk_rows(self.d, K * c))
        else:
            buffers = 0 if self.stored.is_mapped else self.stored.ring_bytes
        return buffers + self.backend.ops.pass_bytes(self.stored.dtype, self.n, self.d, K, c)
