"""Guides: what proposes better directions than the pairs of L-BFGS, for one model each, as long as it can.

L-BFGS evaluates a trial point x - length direction of each model in each pass. At each accepted point a model's guide
is asked for the next direction. The pairs are collected all the same, so that L-BFGS can take over at any point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.solvers.base import Kept, checked_array


class Guide(Protocol):
    """Proposes directions for one model."""

    @property
    def outlives_rejection(self) -> bool:
        """Whether a shorter step in its direction is tried after a rejected trial.

        Otherwise L-BFGS takes over for good, with its own direction at the same point.
        """

    @property
    def waits(self) -> bool:
        """Whether it leaves the directions to L-BFGS until that turns out to converge slowly; see `begin`."""

    @property
    def moved(self) -> bool:
        """Whether it has moved the start from zero weights to a point that it found without a pass."""

    def begin(self) -> None:
        """Wait no longer. Only called while it `waits`."""

    def direction(self, x: Any, g: Any, preconditioned_g: Any) -> tuple[Any, float] | None:
        """Return a direction (d + 1, c) at x, and the inner product of g and the direction, which is positive.

        x, the gradient g there and M^-1 g are (d + 1, c), with the intercepts in the last row. None means that L-BFGS
        takes over for good.
        """

    def to_arrays(self, backend: Backend) -> dict[str, Any]:
        """Return what a checkpoint keeps; see `base.Kept`."""

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """Return this guide, which is as at the start, in the state that `to_arrays` returned."""


@dataclass(frozen=True)
class Guides(Kept):
    """The guides of K models.

    Attributes
    ----------
    by_model : list of Guide or None
        None for a model that L-BFGS directs itself.
    rows : int
        How many rows were read to make them.
    """

    by_model: list[Guide | None]
    rows: int = 0

    def select(self, models: Array) -> Guides:
        """Return the guides of some of the models."""
        return replace(self, by_model=[self.by_model[k] for k in models])

    def without(self, marked: Array) -> Guides:
        """Return the guides less those of the models with True in `marked` (K,)."""
        left = [None if gone else guide for guide, gone in zip(self.by_model, marked, strict=True)]
        return replace(self, by_model=left)

    @property
    def present(self) -> Array:
        """Which models have a guide, (K,) bool."""
        return np.array([guide is not None for guide in self.by_model])

    @property
    def moved(self) -> Array:
        """Which models have a guide that has moved the start, (K,) bool."""
        return np.array([guide is not None and guide.moved for guide in self.by_model])

    @property
    def leading(self) -> Array:
        """Which models have a guide that does not wait, (K,) bool."""
        return self.present & ~self.waiting

    @property
    def waiting(self) -> Array:
        """Which models have a guide that waits, (K,) bool."""
        return np.array([guide is not None and guide.waits for guide in self.by_model])

    def begin(self, marked: Array) -> None:
        """Let the guides of the models with True in `marked` (K,) begin, all of which wait."""
        for k in np.flatnonzero(marked).tolist():
            guide = self.by_model[k]
            assert guide is not None
            guide.begin()

    @property
    def ended_by_rejection(self) -> Array:
        """Which models have a guide that a rejected trial ends, (K,) bool."""
        return np.array([guide is not None and not guide.outlives_rejection for guide in self.by_model])

    def to_arrays(self, backend: Backend) -> dict[str, Any]:
        """See `Kept.to_arrays`."""
        guides = {str(k): guide.to_arrays(backend) for k, guide in enumerate(self.by_model) if guide is not None}
        return {"present": self.present.astype(np.int64), **guides}

    def from_arrays(self, kept: dict[str, Any], backend: Backend) -> Self:
        """See `Kept.from_arrays`; these are the guides at the start, of which some may have ended since."""
        present = checked_array("present", kept.get("present"), np.int64, (len(self.by_model),)).astype(bool)
        if (present & ~self.present).any() or kept.keys() != {"present", *map(str, np.flatnonzero(present))}:
            raise ValueError("guides that are not those of the start")
        found = [
            guide.from_arrays(kept[str(k)], backend) if guide is not None and present[k] else None
            for k, guide in enumerate(self.by_model)
        ]
        return replace(self, by_model=found)
