"""The operations of a backend whose X is on a cluster; `operations.Operations` documents names and arguments.

Labels, weights and other columns with an entry for each row are on the client, as NumPy arrays, and are sent to the
workers once. Whatever has no X is computed on the client, and so are passes over an X that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import warn_user
from gpusoftmax.cluster.memo import Memo
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.cluster.sums import ON_GPUS, WorkerSums, fingerprint
from gpusoftmax.cluster.tasks import (
    FirstNotFinite,
    Gradient,
    LabelSums,
    Largest,
    Lookup,
    Moments,
    Products,
    Result,
    Scores,
    Sums,
    add_up,
    each,
)
from gpusoftmax.cpu.column_sums import moments_from
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.dtypes import widen
from gpusoftmax.tree import Partial, TreeSum


@dataclass(frozen=True, eq=False)
class ClusterOperations(CpuOperations):
    """The operations of a client: on X that are `ClusterRows` by its cluster, on other arrays by itself.

    Attributes
    ----------
    backend : str
        The name of the workers' backend: "cpu", "numpy" or "cuda".
    sums : CpuSums or GpuSums
        What the workers add up with, of which the client asks the lengths of leaves.
    differences : set of str
        In what the workers that have answered differ from the client, or GPUs from the first one that has answered, as
        far as bits may depend on it.
    """

    backend: str
    sums: WorkerSums
    differences: set[str] = field(default_factory=set)
    _masked: Memo = field(default_factory=Memo)
    _expected: dict[str, str] = field(default_factory=dict)
    _shared: set[str] = field(default_factory=set)

    def note(self) -> str:
        """What may make bits differ from those of a fit in memory; empty if nothing was found."""
        if not self.differences:
            return ""
        other = "each other" if self.backend == ON_GPUS else "the client"
        return (
            f"workers differ from {other} ({', '.join(sorted(self.differences))}): the last bits of results may "
            "depend on which worker computes what"
        )

    def linear_gradient(
        self, X: Any, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        if not isinstance(X, ClusterRows):
            return super().linear_gradient(X, labels, W, b, weights, loss, rows)
        losses, correct, dW, db = self._gradient(X, labels, weights, rows, Gradient(W, b, loss, True))
        return losses, correct, dW.reshape(W.shape), db.reshape(b.shape)

    def linear_losses(
        self, X: Any, labels: Array, W: Array, b: Array, weights: Array | None, loss: int, rows: Array | None = None
    ) -> tuple[Array, Array]:
        if not isinstance(X, ClusterRows):
            return super().linear_losses(X, labels, W, b, weights, loss, rows)
        losses, correct, _, _ = self._gradient(X, labels, weights, rows, Gradient(W, b, loss, False))
        return losses, correct

    def _gradient(
        self, X: ClusterRows, labels: Array, weights: Array | None, rows: Array | None, work: Gradient
    ) -> Partial:
        leaf = self.sums.gradient_leaf(work.W)
        weights = self._weights_of(weights, rows, len(X), work.W.dtype)
        return self._sum(X, leaf, work, labels, weights)

    def _weights_of(self, weights: Array | None, rows: Array | None, n: int, dtype: Any) -> Array | None:
        """Return the weights with zeros for rows that are not used: no worker has to know about the selection."""
        if rows is None:
            return weights

        def masked() -> Array:
            times = np.bincount(rows, minlength=n).astype(dtype)
            return times[:, None] if weights is None else (weights.T * times).T

        found: Array = self._masked.get((weights, rows), masked)
        return found

    def _sum(self, X: ClusterRows, leaf: int, work: Sums, *columns: Array | None) -> Partial:
        """Sum over all rows, along the tree over leaves of so many rows."""
        tree = TreeSum()
        for nodes in self._run(X, leaf, add_up, work, columns):
            for (level, index), node in nodes.items():
                tree.add(level, index, tuple(np.require(part, requirements=("A", "W")) for part in node))
        return tree.total(-(-len(X) // leaf))

    def _look_up(self, X: ClusterRows, work: Lookup) -> list[Any]:
        """Look something up in all partitions, in their order."""
        return [value for values in self._run(X, 1, each, work, ()) for value in values]

    def _run(self, X: ClusterRows, leaf: int, function: Any, work: Any, columns: tuple[Array | None, ...]) -> list[Any]:
        if X.backend != self.backend and ON_GPUS in (X.backend, self.backend):
            raise ValueError(
                f"X is on workers of backend={X.backend!r}, and backend={self.backend!r} was asked for: sums of CPUs "
                "and GPUs cannot be mixed; pass the same for both"
            )
        found: list[Result] = X.run(function, work, leaf, *columns)
        self._warn_of_shared_gpus(found)
        if not self._expected:
            self._expected.update(found[0].computed_by if self.backend == ON_GPUS else fingerprint(self.backend))
        for result in found:
            self._compare(result.computed_by)
        return [result.values for result in found]

    def _warn_of_shared_gpus(self, results: list[Result]) -> None:
        """Warn, once for each GPU, if several of the processes that have computed use it."""
        for gpu in {one.gpu for one in results} - {"", *self._shared}:
            processes = sorted({one.process for one in results if one.gpu == gpu})
            if len(processes) > 1:
                self._shared.add(gpu)
                warn_user(
                    f"the workers {', '.join(processes)} share the GPU {gpu}, where they wait for each other and share "
                    "its memory; start one worker for each GPU, as dask_cuda.LocalCUDACluster() does",
                    UserWarning,
                )

    def _compare(self, there: dict[str, str]) -> None:
        here = self._expected
        new = {
            f"{name} {there.get(name)} instead of {here.get(name)}"
            for name in sorted({*here, *there})
            if here.get(name) != there.get(name)
        } - self.differences
        if new:
            self.differences.update(new)
            warn_user(self.note(), UserWarning)

    def linear_scores(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        if not isinstance(X, ClusterRows):
            return super().linear_scores(X, W, b, rows)
        return self._for_rows(X, Scores("linear_scores", W, b), rows)

    def linear_probabilities(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        if not isinstance(X, ClusterRows):
            return super().linear_probabilities(X, W, b, rows)
        return self._for_rows(X, Scores("linear_probabilities", W, b), rows)

    def linear_best(self, X: Any, W: Array, b: Array, rows: Array | None = None) -> Array:
        if not isinstance(X, ClusterRows):
            return super().linear_best(X, W, b, rows)
        return self._for_rows(X, Scores("linear_best", W, b), rows)

    def _for_rows(self, X: ClusterRows, work: Scores, rows: Array | None) -> Array:
        found: Array = np.concatenate(self._look_up(X, work))
        return found if rows is None else found[rows]

    def column_moments(
        self, X: Any, weights: Array | None, rows: Array | None = None, origin: int | None = None
    ) -> tuple[Array, Array]:
        if not isinstance(X, ClusterRows):
            return super().column_moments(X, weights, rows, origin)
        leaf = self.sums.moment_leaf(X.shape[1])
        weights = self._weights_of(weights, rows, len(X), np.float64)
        if weights is not None:
            weights = weights.reshape(-1)
        centre = widen(X[origin if origin is not None else 0 if rows is None else int(rows[0])])
        return moments_from(self._sum(X, leaf, Moments(centre), weights), centre)

    def label_sums(
        self, X: Any, labels: Array, weights: Array, class_weight: Array, proportions: Array | None,
        rows: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        if not isinstance(X, ClusterRows):
            return super().label_sums(X, labels, weights, class_weight, proportions, rows)
        masked = self._weights_of(weights, rows, len(X), np.float64)
        return self._by_columns(
            X, len(class_weight), lambda part: LabelSums(class_weight, part), labels, masked, proportions
        )

    def column_products(self, X: Any, Q: Array, squared: bool = False, rows: Array | None = None) -> Array:
        if not isinstance(X, ClusterRows):
            return super().column_products(X, Q, squared, rows)
        if rows is not None:
            stored = np.zeros((len(X), Q.shape[1]), Q.dtype)
            np.add.at(stored, rows, Q)
            Q = stored
        return self._by_columns(X, Q.shape[1], lambda part: Products(part, squared), Q)[0]

    def _by_columns(
        self, X: ClusterRows, c: int, work_for: Callable[[slice], Sums], *columns: Array | None
    ) -> tuple[Array, Array]:
        d = X.shape[1]
        width = self.sums.columns_at_once(d, c)
        passes = [slice(first, min(first + width, c)) for first in range(0, c, width)]

        def leaf(part: slice) -> int:
            return self.sums.product_leaf(d, part.stop - part.start)

        parts = [self._sum(X, leaf(part), work_for(part), *columns) for part in passes]
        sums, totals = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return sums, totals

    def first_not_finite(self, X: ClusterRows) -> tuple[int, int, float] | None:
        """Return row, column and value of the first NaN or infinity, or None."""
        return next((found for found in self._look_up(X, FirstNotFinite()) if found is not None), None)

    def largest(self, X: ClusterRows, column: int) -> tuple[int, float]:
        """Return the row and the value of the entry of a column that is largest in absolute value."""
        found: tuple[int, float] = max(self._look_up(X, Largest(column)), key=lambda entry: abs(entry[1]))
        return found
