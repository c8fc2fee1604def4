"""What is done with weights and gradients before and after a pass, on every backend, beside its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu.threads import VECTOR_BLOCK
from gpusoftmax.operations import Diagonals
from gpusoftmax.penalties import L2
from tests.support.cases import hosted, sha256

K, C = 2, 3
SIZES = {"small": 5, "large": VECTOR_BLOCK // (K * C) * 2 + 7}  # large: three blocks, and compiled functions
PARTS = [
    pytest.param(shifted, scaled, id=f"{'shift' * shifted or 'no shift'}, {'scale' * scaled or 'no scale'}")
    for shifted in (False, True)
    for scaled in (False, True)
]


@pytest.fixture
def backend(backend: Backend) -> Backend:
    """Every backend in turn; its operations take and return NumPy arrays."""
    return hosted(backend)


def problem(d: int, dtype: Any, shifted: bool, scaled: bool) -> dict[str, Any]:
    """Random arguments; one feature is dropped, where there is a scale."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, d)
    scale[1] = np.inf
    return {
        "W": rng.standard_normal((d, K, C)).astype(dtype),
        "shift": rng.standard_normal(d) if shifted else None,
        "scale": scale if scaled else None,
    }


def explicit(given: dict[str, Any]) -> tuple[Any, Any, Any]:
    """W, shift and scale in float64, with zeros and ones where there is none."""
    d = len(given["W"])
    shift = np.zeros(d) if given["shift"] is None else given["shift"]
    scale = np.ones(d) if given["scale"] is None else given["scale"]
    return given["W"].astype(np.float64), shift[:, None, None], scale[:, None, None]


@pytest.mark.parametrize(("shifted", "scaled"), PARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", SIZES.values(), ids=SIZES)
def test_weights_are_folded(d: int, dtype: Any, shifted: bool, scaled: bool, backend: Backend) -> None:
    given = problem(d, dtype, shifted, scaled)
    folded, offset = backend.ops.fold(given["W"], given["shift"], given["scale"])
    W, shift, scale = explicit(given)
    assert folded.dtype == dtype
    np.testing.assert_allclose(folded, W / scale, rtol=np.finfo(dtype).eps)  # rounded once
    if not shifted:
        assert offset is None
        return
    terms = shift * W / scale
    # sums of d terms in float64, in any order
    assert (abs(offset - terms.sum(axis=0)) <= d * np.finfo(np.float64).eps * abs(terms).sum(axis=0)).all()


@pytest.mark.parametrize("factors", [False, True], ids=["equal", "factors"])
@pytest.mark.parametrize("linear", [False, True], ids=["no T", "T"])
@pytest.mark.parametrize(("shifted", "scaled"), PARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", SIZES.values(), ids=SIZES)
def test_a_gradient_is_finished(
    d: int, dtype: Any, shifted: bool, scaled: bool, linear: bool, factors: bool, backend: Backend
) -> None:
    given, rng, eps = problem(d, dtype, shifted, scaled), np.random.default_rng(1), np.finfo(dtype).eps
    sums, db = rng.standard_normal((d, K, C)).astype(dtype), rng.standard_normal((K, C)).astype(dtype)
    row_scale, l2 = np.array([0.5, 0.01], dtype), np.array([0.1, 2.0])
    r, T = rng.uniform(0.5, 2, d) if factors else None, rng.standard_normal((d, K, C)) if linear else None
    dW = sums.copy()
    value, product = backend.ops.finish_gradient(
        dW, db, given["W"], row_scale, given["shift"], given["scale"], L2(l2, r, on_intercept=True), T
    )
    W, shift, scale = explicit(given)
    ridge = W if r is None else r[:, None, None] * W
    terms = [row_scale[:, None] * sums.astype(np.float64) / scale, -shift * db / scale, l2[:, None] * ridge]
    terms += [] if T is None else [T]
    # each term is rounded some four times, and so are the sums of them
    assert (abs(dW - sum(terms)) <= 8 * eps * sum(map(abs, terms))).all()  # type: ignore[operator]
    # terms that are rounded twice, added up in float64
    np.testing.assert_allclose(value, l2 / 2 * (ridge * W).sum(axis=(0, 2)), rtol=2 * eps + d * C * 1.2e-16)
    if T is None:
        assert product is None
    else:
        assert (abs(product - (T * W).sum(axis=(0, 2))) <= d * C * 1.2e-16 * abs(T * W).sum(axis=(0, 2))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [7, 30_000], ids=["small", "large"])
def test_a_pair_is_added_and_multiplied_with_all_vectors(length: int, dtype: Any, backend: Backend) -> None:
    rng, eps = np.random.default_rng(0), float(np.finfo(dtype).eps)
    new, old = (tuple(rng.standard_normal((3, length)).astype(dtype)) for _ in range(2))
    room = rng.standard_normal((6, length + 3)).astype(dtype)
    vectors = room[:, 1 : length + 1]  # a block of longer vectors
    before = vectors.astype(np.float64)
    products, norms = backend.ops.pair_products(new, old, vectors, 2)
    before[2], before[3] = new[0] - old[0], new[1] - old[1]
    np.testing.assert_array_equal(vectors, before)
    t, g = (new[2] - old[2]).astype(np.float64), new[2].astype(np.float64)
    for found, one in zip(products, (t, g), strict=True):
        # sums of as many terms in this type, in any order
        assert (abs(found - before @ one) <= (length + 2) * eps * (abs(before) @ abs(one))).all()
    np.testing.assert_allclose(norms, [t @ t, before[2] @ before[2]], rtol=(length + 2) * eps)


@pytest.mark.parametrize("centred", [False, True], ids=["no centre", "centre"])
@pytest.mark.parametrize("shared", [False, True], ids=["a diagonal for each class", "one for all"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", SIZES.values(), ids=SIZES)
def test_diagonals_are_applied_less_the_mean(d: int, dtype: Any, shared: bool, centred: bool, backend: Backend) -> None:
    rng, eps = np.random.default_rng(0), float(np.finfo(dtype).eps)
    shape = (d, 1 if shared else C)
    inverse, mean_inverse = rng.uniform(0.5, 2, shape).astype(dtype), rng.uniform(0.5, 2, (d, 1)).astype(dtype)
    centre = rng.standard_normal(shape).astype(dtype) if centred else None
    v, out = rng.standard_normal((d, K, C)).astype(dtype)[:, 1], np.empty((d, C), dtype)
    own = rng.standard_normal(C).astype(dtype)
    sums = backend.ops.solve_diagonals(Diagonals(inverse, centre, mean_inverse), v, own, out)
    exact = v.astype(np.float64)
    mean, middle = exact.mean(axis=1, keepdims=True), np.zeros((d, 1)) if centre is None else centre.astype(np.float64)
    z = (exact - mean - middle * own) * inverse
    # some ten roundings of numbers that are not larger than these
    size = (abs(exact).max(axis=1, keepdims=True) * 2 + abs(middle * own)).max(axis=1, keepdims=True) * 2 * 2
    assert (abs(out - (z - z.mean(axis=1, keepdims=True) + mean * mean_inverse)) <= 10 * eps * size).all()
    assert (abs(sums - (middle * z).sum(axis=0)) <= (d + 10) * eps * (abs(middle) * size).sum(axis=0)).all()


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_threads_change_no_bit(name: str) -> None:
    given, found = problem(SIZES["large"], np.float32, True, True), set()
    for threads in (1, 2, 3):
        ops, dW = get_backend(name, threads).ops, given["W"].copy()
        db, row_scale = np.ones((K, C), np.float32), np.ones(K, np.float32)
        ends = ops.finish_gradient(dW, db, given["W"], row_scale, given["shift"], given["scale"], L2(np.ones(K)), None)
        W, out = given["W"].reshape(-1, 2 * C), np.empty((len(dW) * K // 2, 2 * C), np.float32)
        sums = ops.solve_diagonals(Diagonals(abs(W), W, W[:, :1].copy()), W, W[0].copy(), out)
        found.add(sha256(*ops.fold(given["W"], given["shift"], given["scale"]), dW, ends[0], sums, out))
    assert len(found) == 1


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_without_shift_or_scale_no_weight_is_copied(name: str) -> None:
    W = np.ones((SIZES["large"], K, C), np.float32)
    folded, offset = get_backend(name, 1).ops.fold(W, None, None)
    assert np.shares_memory(folded, W)
    assert offset is None


def test_shift_scale_and_factors_may_lie_anyhow(cpu_backend: Backend) -> None:
    d, ops = SIZES["large"], cpu_backend.ops
    W, db, row_scale = np.ones((d, K, C), np.float32), np.ones((K, C), np.float32), np.ones(K, np.float32)
    column = np.random.default_rng(0).uniform(1, 2, (d, 2))[:, 0]
    found = []
    for shift, scale in ((column, np.broadcast_to(64.0, d)), (column.copy(), np.full(d, 64.0))):
        dW = W.copy()
        value, _ = ops.finish_gradient(dW, db, W, row_scale, shift, scale, L2(np.ones(K), shift), None)
        found.append(sha256(*ops.fold(W, shift, scale), dW, value))
    assert found[0] == found[1]


def test_weights_that_are_read_only_or_no_block_of_memory_are_taken_as_they_are(cpu_backend: Backend) -> None:
    given = problem(SIZES["large"], np.float32, True, True)
    tidy, shift, scale = given["W"], given["shift"], given["scale"]
    scattered = np.repeat(tidy, 2, axis=1)[:, ::2]
    for one in (scattered, scale, shift):
        one.setflags(write=False)
    expected = sha256(*cpu_backend.ops.fold(tidy, shift, scale))
    assert sha256(*cpu_backend.ops.fold(scattered, shift, scale)) == expected
    gradients = [tidy.copy(), np.repeat(tidy, 2, axis=1)[:, ::2]]
    db, row_scale = np.ones((K, C), np.float32), np.ones(K, np.float32)
    for dW, W in zip(gradients, (tidy, scattered), strict=True):
        cpu_backend.ops.finish_gradient(dW, db, W, row_scale, shift, scale, L2(np.ones(K)), None)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-6, atol=1e-6)
