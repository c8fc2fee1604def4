"""Features on a cluster: a dense matrix whose rows stay on the workers."""

from __future__ import annotations

from dataclasses import dataclass

from gpusoftmax.checks.arrays import not_finite
from gpusoftmax.cluster.ops import ClusterOperations
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.features.dense import DenseFeatures

SHARED_WEIGHT_BYTES = 1 << 30  # of the weights of rows that a sweep sends to the workers


@dataclass(frozen=True)
class ClusterFeatures(DenseFeatures):
    """X is `ClusterRows`, and the operations of the backend are `ClusterOperations`; see `Features`."""

    has_minibatches = False
    X: ClusterRows  # type: ignore[assignment]

    @property
    def ops(self) -> ClusterOperations:
        """The operations of the backend."""
        assert isinstance(self.backend.ops, ClusterOperations)
        return self.backend.ops

    @property
    def shared_weight_bytes(self) -> int:
        return SHARED_WEIGHT_BYTES

    @property
    def note(self) -> str:
        return self.ops.note()

    def check_finite(self, name: str = "X") -> None:
        if (found := self.ops.first_not_finite(self.X)) is not None:
            raise not_finite(name, *found)

    def largest(self, column: int) -> tuple[int, float]:
        return self.ops.largest(self.X, column)
