"""A matrix in memory that is handed out in blocks, as matrices are that are read from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array


@dataclass
class InBlocks:
    """See `operations.RowBlocks`; all blocks but the last have `leaves` times `step` rows, in one buffer."""

    X: Array
    leaves: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.X.shape[0], self.X.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.X.dtype

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: Any) -> Array:
        return self.X[rows]

    def blocks(self, step: int, within: int | None = None) -> Iterator[tuple[int, Array]]:
        first, n = 0, len(self.X)
        buffer = np.empty((self.leaves * step, self.X.shape[1]), self.X.dtype)
        while first < n:
            stop = min(first + len(buffer), n, n if within is None else (first // within + 1) * within)
            block = buffer[: stop - first]
            block[...] = self.X[first:stop]
            yield first, block
            block[...] = 77  # whoever still refers to it finds nonsense
            first = stop
