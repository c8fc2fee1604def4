"""Sums along a fixed binary tree: whoever computes its leaves, and in whatever order, the bits are the same.

Leaf 2i is added to leaf 2i + 1, and so on upwards; a node without a right sibling moves up unchanged. Arrays may be on
any device.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpusoftmax._typing import Array

Partial = tuple[Array, ...]  # sums over some rows, in arrays that whoever has them may overwrite
Nodes = dict[tuple[int, int], Partial]  # sums by their level and index in the tree


class TreeSum:
    """Adds partial results along the fixed tree, and keeps only those whose sibling is missing.

    >>> import numpy as np
    >>> tree = TreeSum()
    >>> for leaf in range(5):
    ...     tree.add(0, leaf, (np.array([float(leaf)]),))
    >>> tree.total(5)[0].item()
    10.0
    """

    def __init__(self) -> None:
        self.nodes: Nodes = {}

    def add(self, level: int, index: int, partial: Partial) -> None:
        """Add the node `index` of `level` (leaves are level 0), and merge upwards as long as there is a sibling."""
        while (sibling := self.nodes.pop((level, index ^ 1), None)) is not None:
            left, right = (partial, sibling) if index % 2 == 0 else (sibling, partial)
            for total, part in zip(left, right, strict=True):
                total += part
            partial, level, index = left, level + 1, index // 2
        self.nodes[level, index] = partial

    def merge(self, trees: Iterable[TreeSum]) -> TreeSum:
        """Add the nodes of other trees, which have other leaves of the same sum; returns this tree."""
        for tree in trees:
            for (level, index), partial in tree.nodes.items():
                self.add(level, index, partial)
        return self

    def parts(self) -> Nodes:
        """Return the sums so far by (level, index); together they cover the leaves that have been added."""
        return self.nodes

    def total(self, n_leaves: int) -> Partial:
        """Return the sum of all leaves, each of which must have been added."""
        level, width = 0, n_leaves
        while width > 1:
            if width % 2 == 1 and (last := self.nodes.pop((level, width - 1), None)) is not None:
                self.add(level + 1, width // 2, last)  # no right sibling
            level, width = level + 1, (width + 1) // 2
        return self.nodes.pop((level, 0))
