"""Shift and scale folded into the weights give the results of features that were really scaled."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusoftmax.array import get_backend
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.features.read import compile_kernels
from tests.support.cases import DETERMINISTIC, DTYPES, random_problem

BACKEND = get_backend("numpy", n_threads=1)
SHIFTED = [(False, False), (True, False), (False, True), (True, True)]


def scaled_problem(dtype: str, shifted: bool, scaled: bool, seed: int) -> tuple[DenseFeatures, np.ndarray]:
    """Features with shift and scale, and the same features scaled in float64."""
    X = random_problem(seed, dtype=dtype, n=12, d=5).X
    x = X.astype(np.float64)
    shift = x.mean(axis=0) if shifted else None
    scale = x.std(axis=0) if scaled else None
    explicit = (x - (0 if shift is None else shift)) / (1 if scale is None else scale)
    return DenseFeatures(X, BACKEND, shift, scale), explicit


@given(
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(SHIFTED),
    K=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@DETERMINISTIC
def test_folded_weights_give_the_scores_of_scaled_features(
    dtype: str, kind: tuple[bool, bool], K: int, seed: int
) -> None:
    features, explicit = scaled_problem(dtype, *kind, seed)
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((5, K, 3)).astype(features.dtype)
    b = rng.standard_normal((K, 3)).astype(features.dtype)
    folded, offset = features.fold(W, b)
    assert (folded.dtype, offset.dtype) == (W.dtype, b.dtype)
    x, w = features.X.astype(np.float64), folded.astype(np.float64)
    found = np.einsum("ip,pkj->ikj", x, w) + offset
    # W' and b' are rounded once: relative to the size of their terms, margin 8
    sizes = np.einsum("ip,pkj->ikj", np.abs(x), np.abs(w)) + np.abs(offset) + 1
    expected = np.einsum("ip,pkj->ikj", explicit, W.astype(np.float64)) + b
    assert (np.abs(found - expected) <= 8 * np.finfo(W.dtype).eps * sizes).all()


@given(
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(SHIFTED),
    K=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
@DETERMINISTIC
def test_an_unfolded_gradient_is_that_of_scaled_features(
    dtype: str, kind: tuple[bool, bool], K: int, seed: int
) -> None:
    features, explicit = scaled_problem(dtype, *kind, seed)
    G = np.random.default_rng(seed).standard_normal((12, K, 3))
    x = features.X.astype(np.float64)
    dW, db = np.einsum("ip,ikj->pkj", x, G).astype(features.dtype), G.sum(axis=0).astype(features.dtype)
    # dW', db and shift are rounded once: relative to the size of their terms, margin 8
    scale = 1 if features.scale is None else features.scale[:, None, None]
    shift = 0 if features.shift is None else np.abs(features.shift)[:, None, None]
    sizes = (np.einsum("ip,ikj->pkj", np.abs(x), np.abs(G)) + shift * np.abs(G).sum(axis=0)) / scale
    found = features.unfold(dW, db)
    assert found.dtype == features.dtype
    expected = np.einsum("ip,ikj->pkj", explicit, G)
    assert (np.abs(found - expected) <= 8 * np.finfo(features.dtype).eps * sizes).all()


@pytest.mark.parametrize("kind", SHIFTED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_is_scaled_in_float64(dtype: str, kind: tuple[bool, bool]) -> None:
    features, explicit = scaled_problem(dtype, *kind, 0)
    rows = np.array([3, 0, 3, 11])
    np.testing.assert_allclose(features.sample(rows), explicit[rows], rtol=1e-15)


def test_folding_leaves_the_weights_as_they_are() -> None:
    features, _ = scaled_problem("float32", True, True, 0)
    W, b = np.ones((5, 1, 3), np.float32), np.ones((1, 3), np.float32)
    features.fold(W, b)
    assert (W == 1).all()
    assert (b == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_know_their_shape_and_the_type_of_computation(dtype: str) -> None:
    features = DenseFeatures(np.zeros((4, 7), dtype), BACKEND)
    computed = np.float64 if dtype == "float64" else np.float32
    assert (features.n, features.d, features.dtype) == (4, 7, computed)


@pytest.mark.slow
def test_a_backend_without_numba_has_no_kernels_to_compile_and_does_not_import_it() -> None:
    program = """
import sys
import numpy as np
from gpusoftmax import get_backend
from gpusoftmax.features.read import compile_kernels
assert compile_kernels(np.ones((3, 2)), get_backend("numpy"), 3) == 0
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.usefixtures("compiled")
def test_kernels_that_are_there_take_no_time_to_compile() -> None:
    X = np.ones((3, 2))
    compile_kernels(X, get_backend("cpu"), 3)
    assert compile_kernels(X, get_backend("cpu"), 3) == 0
