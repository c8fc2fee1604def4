"""Which rows each minibatch has. That depends on the plan and the epoch, not on the device or the number of threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpusoftmax._typing import Array

NO_EPOCH = 1 << 63  # epochs use the stream numbers below this one, all other random draws this one and higher


def generator(seed: int, stream: int) -> np.random.Generator:
    """Random generator of a seed and a stream: an epoch's number, or NO_EPOCH + i for what belongs to no epoch.

    Streams are independent of each other.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


@dataclass(frozen=True)
class BatchPlan:
    """Minibatches of n rows.

    Attributes
    ----------
    n : int
        Number of rows to choose from: the selected ones.
    batch_size : int
        Rows in a batch. If it is n or more, and without replacement, an epoch is one batch of all rows in stored order.
    replacement : bool
        Draw each batch independently with replacement, as numpy.random.choice does by default. Otherwise each epoch
        goes through all rows in a new random order; a given loss is then reached in fewer steps.
    seed : int
        Seed of all random draws.
    blocks : pair of int, optional
        Shuffle in two levels, for rows that are read from files: the rows of a block, and the number of blocks that are
        in memory together. The order of the blocks is random, and so is the order of the rows of each such group of
        blocks. Source: Xu et al., "In-database machine learning with CorgiPile", SIGMOD 2022.
    """

    n: int
    batch_size: int
    replacement: bool = False
    seed: int = 0
    blocks: tuple[int, int] | None = None

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
        """Batches of one epoch, each int64 positions in [0, n), or None for all rows. The last one may be shorter."""
        steps, size = self.steps_per_epoch, self.size
        rng = generator(self.seed, index)
        if self.replacement:
            return list(rng.integers(0, self.n, (steps, size)))
        if size == self.n:
            return [None]
        order = rng.permutation(self.n) if self.blocks is None else self._by_blocks(rng, *self.blocks)
        return [order[i * size : (i + 1) * size] for i in range(steps)]

    def _by_blocks(self, rng: np.random.Generator, rows: int, together: int) -> Array:
        """A random order of all positions, in which those of `together` blocks of `rows` each stay together."""
        firsts = rng.permutation(-(-self.n // rows)) * rows
        groups = []
        for place in range(0, len(firsts), together):
            positions = (firsts[place : place + together, None] + np.arange(rows)).reshape(-1)
            groups.append(rng.permutation(positions[positions < self.n]))
        return np.concatenate(groups)
