"""Blocks of rows: how a pass goes through X, whether it is in memory or is read from files bit by bit.

This is the only place in `cpu` that knows the difference. A matrix in memory is one block. Any other has a method
`blocks`, see `operations.RowBlocks`, which yields one block after another. Blocks begin at the boundaries of leaves, so
that the sums are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.cpu.threads import tree_over_leaves
from gpusoftmax.tree import Partial, TreeSum


class Block(NamedTuple):
    """Rows that are in memory, out of all rows of a pass.

    Attributes
    ----------
    first, stop : int
        The block has the rows at the positions first <= i < stop of the pass.
    array : ndarray
        The rows at these positions or, if there are row numbers, all rows.
    rows : ndarray of int64, or None
        The row numbers at all positions of the pass; None means that position i is row i - first of `array`.
    """

    first: int
    stop: int
    array: Array
    rows: Array | None

    def take(self, start: int, stop: int) -> Array:
        """Return the rows at the positions start <= i < stop; a view if there are no row numbers."""
        return (
            self.array[start - self.first : stop - self.first]
            if self.rows is None
            else self.array[self.rows[start:stop]]
        )

    def leaf(self, index: int, step: int) -> slice:
        """Return the positions of the leaf `index` of the pass, if a leaf has `step` rows."""
        return slice(index * step, min((index + 1) * step, self.stop))

    def leaves(self, step: int) -> range:
        """Return the indices of the block's leaves in the pass."""
        return range(self.first // step, -(-self.stop // step))


def blocks(X: Any, rows: Array | None, step: int, within: int | None = None) -> Iterator[Block]:
    """Go through all rows of X, or through `rows` of a matrix in memory, in blocks that begin at multiples of `step`.

    If `within` is given, a multiple of `step`, no block of a matrix that is not in memory goes across a multiple of it.
    A block's rows are overwritten when the next block is asked for.
    """
    if isinstance(X, np.ndarray):
        yield Block(0, len(X) if rows is None else len(rows), X, rows)
        return
    assert rows is None, "a selection of such rows is another matrix"
    for first, array in X.blocks(step, within):
        yield Block(first, first + len(array), array, None)


def picked(rows: Array | None, part: slice) -> Any:
    """The index of some positions of a pass in arrays with an entry for each row of X."""
    return part if rows is None else rows[part]


def tree_over_rows(
    leaf: Callable[[Block, slice], Partial], X: Any, rows: Array | None, step: int, n_threads: int, before: int = 0
) -> TreeSum:
    """Sum `leaf(block, positions)` over leaves of `step` rows; `before` leaves of a longer pass come before X."""
    tree = TreeSum()
    for block in blocks(X, rows, step):

        def sums(index: int, block: Block = block) -> Partial:
            return leaf(block, block.leaf(index, step))

        tree.merge([tree_over_leaves(sums, block.leaves(step), n_threads, before)])
    return tree
