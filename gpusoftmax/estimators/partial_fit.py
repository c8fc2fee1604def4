"""The state that `partial_fit` keeps between calls: minibatch SGD over rows that arrive in parts.

A call makes one pass over its rows. Row weights are relative to the mean weight of all rows so far, and the coordinates
follow the mean and the variance of all of them, so that a call may pass few rows, even a single one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpusoftmax._typing import Array


@dataclass(frozen=True)
class Moments:
    """Moments of some rows: their number, the sum of their weights, and their mean and variance (d,), in float64."""

    rows: int
    weight: float
    mean: Array
    variance: Array

    def joined(self, other: Moments) -> Moments:
        """The moments of the rows of both."""
        weight = self.weight + other.weight
        fraction, step = other.weight / weight, other.mean - self.mean
        return Moments(
            self.rows + other.rows,
            weight,
            self.mean + fraction * step,
            (1 - fraction) * self.variance + fraction * other.variance + fraction * (1 - fraction) * step**2,
        )


@dataclass(frozen=True)
class Stream:
    """The state of a stream of rows.

    Attributes
    ----------
    classes : ndarray, (c,), optional
        All labels that may occur. None before the first rows, if their labels are to be all.
    weight_before : float
        The sum of the weights of earlier rows whose moments are not known.
    calls : int
        Calls of partial_fit so far; an earlier fit does not count.
    moments : Moments, optional
        Moments of the rows so far, including those of a fit.
    rate, rate_rows, rate_batch : float, int, int
        The last automatic learning rate, and the rows seen and the batch size when it was determined.
    last_step : pair of ndarray, optional
        The velocity times the learning rate: a step of the weights (c, d) and intercepts (c,) for unscaled features,
        because the next call may use other coordinates.
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
        """The mean weight of the rows with known moments."""
        assert self.moments is not None
        return self.moments.weight / self.moments.rows

    @property
    def rows(self) -> int:
        """The number of rows with known moments."""
        return 0 if self.moments is None else self.moments.rows

    @property
    def weight(self) -> float:
        """S: the sum of the weights of all rows that the model has seen."""
        return self.weight_before + (0.0 if self.moments is None else self.moments.weight)

    def with_rows(self, classes: Array, moments: Moments) -> Stream:
        """The stream after one more call, with rows that have these moments."""
        joined = moments if self.moments is None else self.moments.joined(moments)
        return replace(self, classes=classes, calls=self.calls + 1, moments=joined)

    def needs_new_rate(self, batch: int) -> bool:
        """Whether to determine the learning rate again, which costs many passes over a thousand rows.

        True once the number of rows has doubled, or if batches are smaller, and so noisier, than those before.
        """
        return self.rate is None or self.rows >= 2 * self.rate_rows or batch < self.rate_batch
