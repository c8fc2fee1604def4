"""What `partial_fit` keeps from call to call: minibatch SGD over rows that come in parts.

A call makes one pass over its rows. Each row counts relative to the mean weight of all rows so far, and coordinates
follow the mean and the variance of all of them, so that a call may bring few rows, even a single one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpusoftmax._typing import Array


@dataclass(frozen=True)
class Moments:
    """Of some rows: how many, the sum of their weights, and the mean and variance (d,) of their columns, float64."""

    rows: int
    weight: float
    mean: Array
    variance: Array

    def joined(self, other: Moments) -> Moments:
        """Of the rows of both."""
        weight = self.weight + other.weight
        share, step = other.weight / weight, other.mean - self.mean
        return Moments(
            self.rows + other.rows,
            weight,
            self.mean + share * step,
            (1 - share) * self.variance + share * other.variance + share * (1 - share) * step**2,
        )


@dataclass(frozen=True)
class Stream:
    """Where a stream of rows stands.

    Attributes
    ----------
    classes : ndarray, (c,), optional
        All labels that it may bring. None before the first rows: those in them.
    weight_before : float
        Of rows whose moments are not known.
    calls : int
        Parts so far; a fit that came before is none.
    moments : Moments, optional
        Of the rows so far, a fit's included.
    rate, rate_rows, rate_batch : float, int, int
        The last automatic learning rate, and the rows seen and the batch size when it was made.
    last_step : pair of ndarray, optional
        The velocity times the learning rate: a step of the weights (c, d) and intercepts (c,) in raw feature space,
        where it means the same whatever the coordinates of the next call.
    """

    classes: Array | None
    weight_before: float = 0.0
    calls: int = 0
    moments: Moments | None = None
    rate: float | None = None
    rate_rows: int = 0
    rate_batch: int = 0
    last_step: tuple[Array, Array] | None = None

    @property
    def mean_weight(self) -> float:
        """Of a row."""
        assert self.moments is not None
        return self.moments.weight / self.moments.rows

    @property
    def rows(self) -> int:
        """Rows with known moments."""
        return 0 if self.moments is None else self.moments.rows

    @property
    def weight(self) -> float:
        """S: of all rows that the model has seen."""
        return self.weight_before + (0.0 if self.moments is None else self.moments.weight)

    def with_rows(self, classes: Array, moments: Moments) -> Stream:
        """With the rows of one more call."""
        joined = moments if self.moments is None else self.moments.joined(moments)
        return replace(self, classes=classes, calls=self.calls + 1, moments=joined)

    def wants_a_rate(self, batch: int) -> bool:
        """Whether a new learning rate is worth its cost, which is that of many passes over a thousand rows.

        Only once the rows seen have doubled; and where batches are smaller, and so noisier, than it was made for.
        """
        return self.rate is None or self.rows >= 2 * self.rate_rows or batch < self.rate_batch
