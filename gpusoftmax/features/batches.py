"""Plans of minibatches. They depend on the seed and the epoch alone, not on the device or the number of threads.

The full batch is a single batch of all rows in their stored order; it needs no indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpusoftmax._typing import Array

NO_EPOCH = 1 << 63  # epochs use the stream numbers below this one; other random draws use those from here on


def generator(seed: int, stream: int) -> np.random.Generator:
    """Random generator for one epoch, or for another use of the same seed. Streams are independent of each other."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


@dataclass(frozen=True)
class BatchPlan:
    """Minibatches of n rows.

    Attributes
    ----------
    n : int
        Number of rows of the data.
    batch_size : int
        Rows in a batch, at most n.
    replacement : bool
        Draw each batch independently with replacement, as numpy.random.choice does by default. Otherwise each epoch
        goes through a new permutation of the rows, which reaches a given loss in fewer steps.
    seed : int
        Seed of all random draws.
    """

    n: int
    batch_size: int
    replacement: bool = False
    seed: int = 0

    @property
    def size(self) -> int:
        """Rows in a batch: batch_size, but at most n."""
        return min(self.batch_size, self.n)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: just enough for n rows."""
        return -(-self.n // self.size)

    @property
    def rows_per_epoch(self) -> int:
        """Rows used in an epoch: n, or a little more with replacement, where every batch is full."""
        return self.steps_per_epoch * self.size if self.replacement else self.n

    def epoch(self, index: int) -> list[Array | None]:
        """Batches of one epoch, each int64 row indices or None for all rows. A shorter last batch is kept."""
        steps, size = self.steps_per_epoch, self.size
        rng = generator(self.seed, index)
        if self.replacement:
            return list(rng.integers(0, self.n, (steps, size)))
        if size == self.n:
            return [None]
        order = rng.permutation(self.n)
        return [order[i * size : (i + 1) * size] for i in range(steps)]
