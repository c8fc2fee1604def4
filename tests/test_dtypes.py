"""bfloat16 features: read as bits, with the results of the same numbers in float32."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, gradient_check, loss_and_gradient, softmax_cross_entropy
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_features
from gpusoftmax.dtypes import BFLOAT16, computation_dtype, widen
from tests.support.cases import blobs


def half(x: Any) -> tuple[Any, Any]:
    """x as ml_dtypes.bfloat16, and the same numbers as float32."""
    narrow = np.asarray(x).astype(ml_dtypes.bfloat16)
    return narrow, narrow.astype(np.float32)


def test_every_bfloat16_widens_to_its_number() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    assert widen(bits, np.float32).tobytes() == expected.tobytes()


def test_bfloat16_is_not_copied() -> None:
    X, _ = half(np.ones((4, 3)))
    bits = check_features(X)
    assert bits.dtype == BFLOAT16
    assert np.shares_memory(bits, X)
    assert computation_dtype(bits.dtype) == np.float32


def test_a_users_own_uint16_are_numbers() -> None:
    X = np.array([[1, 40_000]], np.uint16)
    assert check_features(X).tolist() == [[1.0, 40_000.0]]
    assert check_features(X).dtype == np.float32


@pytest.mark.parametrize("c", [3, 70], ids=["few columns", "many columns"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "every other"])
def test_bfloat16_features_give_the_float32_gradient(
    layout: str, c: int, backend: Backend, rng: np.random.Generator
) -> None:
    X, wide = half(rng.standard_normal((50, 9)))
    X = {"C": X, "Fortran": np.asfortranarray(X), "every other": np.repeat(X, 2, axis=0)[::2]}[layout]
    y, W, b = rng.integers(0, c, 50), rng.standard_normal((9, c)), rng.standard_normal(c)
    loss, dW, db = loss_and_gradient(X, y, W, b, backend=backend)
    expected = loss_and_gradient(wide, y, W, b, backend=backend)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(dW, expected[1], atol=1e-6)
    np.testing.assert_allclose(db, expected[2], atol=1e-6)


def test_a_fit_to_bfloat16_predicts_as_one_to_float32(backend: Backend) -> None:
    X, y = blobs(0)
    narrow, wide = half(X)
    options = {"max_iter": 5, "tol": 0, "backend": backend}
    ours, theirs = SoftmaxClassifier(**options).fit(narrow, y), SoftmaxClassifier(**options).fit(wide, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(narrow), theirs.predict_proba(wide), atol=1e-5)
    assert np.array_equal(ours.predict(narrow), theirs.predict(wide))


def test_bfloat16_validation_data_are_read_too(backend: Backend) -> None:
    X, y = blobs(0)
    narrow, wide = half(X)
    options = {"max_iter": 2, "tol": 0, "backend": backend}
    records = [SoftmaxClassifier(**options).fit(X, y, validation=(Xv, y)).history_[-1] for Xv in (narrow, wide)]
    assert records[0].validation_loss == pytest.approx(records[1].validation_loss, rel=1e-6)
    double = SoftmaxClassifier(**options).fit(X.astype(float), y, validation=(narrow, y)).history_[-1]
    assert double.validation_loss == pytest.approx(records[0].validation_loss, rel=1e-3)


def test_nan_in_bfloat16_is_found(backend: Backend) -> None:
    X, y = blobs(0)
    narrow, _ = half(X)
    narrow[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"X\[7, 2\] is nan"):
        SoftmaxClassifier(backend=backend).fit(narrow, y)


def test_bfloat16_logits_and_gradient_checks_are_of_their_numbers(rng: np.random.Generator) -> None:
    narrow, wide = half(rng.standard_normal((6, 4)))
    y = rng.integers(0, 4, 6)
    assert softmax_cross_entropy(narrow, y)[0] == softmax_cross_entropy(wide, y)[0]
    records = gradient_check(narrow, y, rng.standard_normal((4, 4)), np.zeros(4))
    assert max(record.relative_error for record in records) < 1e-6
