"""Plans of row indices: a function of the seed and the epoch alone, whatever the device and the thread count.

The full batch is one batch of all rows, in their own order, for which no indices are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpusoftmax._typing import Array

NO_EPOCH = 1 << 63  # numbers of streams from here on belong to no epoch


def generator(seed: int, stream: int) -> np.random.Generator:
    """Random numbers of an epoch, or of another use of the same seed; streams are independent of each other."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


@dataclass(frozen=True)
class BatchPlan:
    """Minibatches of n rows.

    Attributes
    ----------
    n : int
        Rows of the data.
    batch_size : int
        Rows a batch; more than n counts as n.
    replacement : bool
        Draw each batch independently with replacement, as numpy.random.choice does by default, instead of visiting a
        new permutation every epoch (which reaches a given loss in fewer steps).
    seed : int
        Of all randomness.
    """

    n: int
    batch_size: int
    replacement: bool = False
    seed: int = 0

    @property
    def size(self) -> int:
        """Rows of a batch, clipped to n."""
        return min(self.batch_size, self.n)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until as many rows were visited as there are."""
        return -(-self.n // self.size)

    @property
    def rows_per_epoch(self) -> int:
        """Rows visited in an epoch: n, or a little more with replacement."""
        return self.steps_per_epoch * self.size if self.replacement else self.n

    def epoch(self, index: int) -> list[Array | None]:
        """The batches of one epoch: int64 row indices, or None for all rows. A last, shorter batch is kept."""
        steps, size = self.steps_per_epoch, self.size
        rng = generator(self.seed, index)
        if self.replacement:
            return list(rng.integers(0, self.n, (steps, size)))
        if size == self.n:
            return [None]
        order = rng.permutation(self.n)
        return [order[i * size : (i + 1) * size] for i in range(steps)]
