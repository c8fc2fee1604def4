"""How well probabilities are calibrated: reliability curves and the calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpusoftmax._typing import Array

BINS = 15  # of confidences, as in Guo et al. (2017)


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """How often predictions are right, by how confident they are.

    The confidence of a row is the probability of its predicted class. Rows are divided into bins of equal width over
    [0, 1]; a row on an edge belongs to the bin below.

    Attributes
    ----------
    counts : ndarray of int, shape (bins,)
        Rows in each bin.
    confidence : ndarray of float64, shape (bins,)
        Their mean confidence; NaN in a bin without rows.
    accuracy : ndarray of float64, shape (bins,)
        The fraction of them that is predicted correctly; NaN in a bin without rows.

    Notes
    -----
    Source: C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML 2017.
    """

    counts: Array
    confidence: Array
    accuracy: Array

    @property
    def edges(self) -> Array:
        """The edges of the bins, (bins + 1,)."""
        return np.linspace(0.0, 1.0, len(self.counts) + 1)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over the rows of |accuracy - confidence| of their bin."""
        gaps = abs(np.nan_to_num(self.accuracy) - np.nan_to_num(self.confidence))
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability_curve(confidence: Array, right: Array, bins: int = BINS) -> ReliabilityCurve:
    """Return the curve of rows with a confidence (n,) in [0, 1], of which those in `right` (n,) are correct."""
    inside = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(inside, minlength=bins)
    with np.errstate(invalid="ignore"):
        means, accuracy = (np.bincount(inside, values, bins) / counts for values in (confidence, right))
    return ReliabilityCurve(counts, means, accuracy)
