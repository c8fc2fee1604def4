"""A matrix in memory that is handed out in blocks, as matrices are that are read from files, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from tests.support.cases import Problem


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


def operations_over_rows(problem: Problem) -> dict[str, Any]:
    """Every operation that goes through all rows, as a function of the operations and of X."""
    n, s, rng = len(problem.X), problem.weights[:, 0], np.random.default_rng(0)
    Q, P, w = rng.standard_normal((n, 3)), rng.random((n, 4)), np.ones(4)
    labels, own = problem.labels % 4, (problem.W, problem.b)
    return {
        "gradient": lambda ops, X: ops.linear_gradient(X, *problem.arguments[1:]),
        "losses": lambda ops, X: ops.linear_losses(X, *problem.arguments[1:]),
        "scores": lambda ops, X: (ops.linear_scores(X, *own),),
        "probabilities": lambda ops, X: (ops.linear_probabilities(X, *own),),
        "best": lambda ops, X: (ops.linear_best(X, *own),),
        "moments": lambda ops, X: ops.column_moments(X, s, None, 3),
        "label sums": lambda ops, X: ops.label_sums(X, labels, s, w, P),
        "products": lambda ops, X: (ops.column_products(X, Q),),
        "squares": lambda ops, X: (ops.column_products(X, Q, squared=True),),
    }
