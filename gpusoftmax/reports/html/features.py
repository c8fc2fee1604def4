"""What a classifier of named features looks for, and why it decided as it did on single rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from gpusoftmax._typing import Array
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.rows.file_rows import Rows

MOST_WEIGHTS = 10  # for a class and against it
MOST_REASONS = 3  # features that speak for a wrong prediction
MOST_ROWS = 10_000  # from which the sizes of columns are estimated


def rows_at(X: Any, rows: Any) -> Any:
    """Some rows of X, as `by_rows` returns it: an array, or a sparse matrix."""
    if is_sparse(X) or isinstance(X, np.ndarray | Rows):
        return X[rows]
    return np.asarray(_safe_indexing(X, rows))


def centres_and_sizes(X: Any) -> tuple[Array, Array]:
    """The mean and the standard deviation of each column, (d,), over the first MOST_ROWS rows.

    For sparse X they are 0 and the root mean square: a feature that does not occur says nothing.
    """
    some = rows_at(X, slice(0, MOST_ROWS))
    if is_sparse(some):
        squares: Any = some.multiply(some)
        sizes = np.sqrt(np.asarray(squares.mean(axis=0), np.float64)).reshape(-1)
        return np.zeros(len(sizes)), sizes
    dense = np.asarray(some, np.float64)
    return dense.mean(axis=0), dense.std(axis=0)


def largest_weights(coef: Array, sizes: Array, names: list[str]) -> list[dict[str, list[tuple[str, float]]]]:
    """For each row of coef (k, d), the names of the features that speak most for the class and against it.

    The effect of a feature is weight x size: what a typical change of it adds to the score. Those without effect are
    left out.
    """
    found = []
    for effects in coef * sizes:
        order = np.argsort(-effects, kind="stable")
        ends = {"for": order[:MOST_WEIGHTS], "against": order[::-1][:MOST_WEIGHTS]}
        sign = {"for": 1, "against": -1}
        found.append(
            {
                side: [(names[j], float(effects[j])) for j in chosen.tolist() if sign[side] * effects[j] > 0]
                for side, chosen in ends.items()
            }
        )
    return found


def reasons(lead: Array, x: Any, centres: Array, names: list[str]) -> list[tuple[str, float]]:
    """The features of a row x (1, d) that add most to the score of its prediction above that of its label.

    lead (d,) is the difference of the weights of these two classes. What counts is how far the row is from the centres
    (d,) of the columns.
    """
    row = np.asarray(x.toarray() if is_sparse(x) else x, np.float64).reshape(-1)
    added = lead * (row - centres)
    order = np.argsort(-added, kind="stable")[:MOST_REASONS]
    return [(names[j], float(added[j])) for j in order.tolist() if added[j] > 0]
