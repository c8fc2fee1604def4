"""Reliability curves, compared with a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gpusoftmax.reliability import reliability_curve


def test_a_row_on_an_edge_belongs_to_the_bin_below() -> None:
    curve = reliability_curve(np.array([0.0, 0.5, 0.500001, 1.0]), np.array([True, False, True, True]), bins=2)
    assert curve.counts.tolist() == [2, 2]
    np.testing.assert_allclose(curve.confidence, [0.25, 0.7500005])
    np.testing.assert_allclose(curve.accuracy, [0.5, 1.0])
    np.testing.assert_allclose(curve.edges, [0, 0.5, 1])


def test_the_error_is_the_mean_gap_over_the_rows(rng: np.random.Generator) -> None:
    confidence, right, bins = rng.random(500) * 0.5 + 0.3, rng.random(500) < 0.6, 10
    by_hand = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            by_hand += inside.sum() * abs(right[inside].mean() - confidence[inside].mean()) / 500
    assert reliability_curve(confidence, right, bins).error == pytest.approx(by_hand, rel=1e-12)


def test_a_bin_without_rows_is_not_a_number_and_does_not_count() -> None:
    curve = reliability_curve(np.array([0.9, 0.95]), np.array([True, False]), bins=4)
    assert np.isnan(curve.accuracy).tolist() == [True, True, True, False]
    assert curve.error == pytest.approx(0.425)
