"""Equivalent forms of valid input give the same model. Invalid input is in tests/properties/test_errors.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, loss_and_gradient

X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.arange(12) % 3
WHOLE = np.round(10 * X) + 40  # exact in every type below
SAME_NUMBERS = {
    "objects": WHOLE.astype(object),
    "lists": WHOLE.tolist(),
    "int64": WHOLE.astype(np.int64),
    "uint32": WHOLE.astype(np.uint32),
    "big-endian": WHOLE.astype(">f8"),
    "Fortran order": np.asfortranarray(WHOLE),
    "every second row": np.repeat(WHOLE, 2, axis=0)[::2],
    "reversed": WHOLE[::-1, ::-1].copy()[::-1, ::-1],
    "a field of packed records": np.rec.fromarrays([np.zeros(36, np.int8), WHOLE.ravel()], names="a,b").b.reshape(
        12, 3
    ),
}


def fit(features: Any) -> SoftmaxClassifier:
    return SoftmaxClassifier(max_iter=3, schedule="cosine").fit(features, Y)


@pytest.mark.parametrize("features", SAME_NUMBERS.values(), ids=SAME_NUMBERS.keys())
def test_the_same_numbers_in_another_form_give_the_same_model(features: Any) -> None:
    expected = fit(WHOLE).coef_
    # other strides may take another way through BLAS when the learning rate is found: rounding, of three steps
    np.testing.assert_allclose(fit(features).coef_, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16])
def test_small_integers_give_the_bits_of_float32(dtype: Any) -> None:
    features = (WHOLE > 40).astype(dtype)
    expected = fit(features.astype(np.float32)).coef_
    np.testing.assert_array_equal(fit(features).coef_, expected)


@pytest.mark.parametrize("scale", [0.0, [0.0, 2.0, 0.0]])
def test_a_scale_of_zero_counts_as_one(scale: Any) -> None:
    weights = np.arange(9.0).reshape(3, 3)
    as_one = np.where(np.asarray(scale) == 0, 1.0, scale)
    value = loss_and_gradient(X, Y, weights, np.zeros(3), scale=scale)[0]
    assert value == loss_and_gradient(X, Y, weights, np.zeros(3), scale=as_one)[0]
