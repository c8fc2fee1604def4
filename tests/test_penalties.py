"""L2: its value is the specification's, and what it says of itself follows from its value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import reference
from gpusoftmax.penalties import L2

D, K, C = 4, 2, 3
STRENGTHS = np.array([0.5, 2.0])


@pytest.fixture(params=[False, True], ids=["free intercept", "penalised intercept"])
def on_intercept(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["equal", "factors"])
def penalty(request: pytest.FixtureRequest, on_intercept: bool) -> L2:
    factors = np.array([0.5, 1.0, 2.0, 4.0]) if request.param else None
    return L2(STRENGTHS, factors, on_intercept)


def points(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((D, K, C)), rng.standard_normal((K, C))


def test_without_factors_it_is_the_penalty_of_the_specification(on_intercept: bool) -> None:
    (W, b), X, y = points(0), np.ones((5, D)), np.array([0, 1, 2, 0, 1])
    found = L2(STRENGTHS, on_intercept=on_intercept).value(W, b)
    with_it, without = (
        reference.loss_and_gradient(X, y, W, b, l2=l2, penalize_intercept=on_intercept)[0] for l2 in (STRENGTHS, 0.0)
    )
    assert found == pytest.approx(with_it - without)


def test_the_gradient_is_added_and_is_that_of_the_value(penalty: L2) -> None:
    (W, b), (V, v), h = points(0), points(1), 1e-6
    dW, db = np.ones_like(W), np.ones_like(b)
    penalty.add_gradient(W, b, dW, db)
    slope = ((dW - 1) * V).sum(axis=(0, 2)) + ((db - 1) * v).sum(axis=1)
    difference = (penalty.value(W + h * V, b + h * v) - penalty.value(W - h * V, b - h * v)) / (2 * h)
    assert slope == pytest.approx(difference, rel=1e-8)


def test_the_penalties_of_some_rows_and_of_the_intercepts_add_up(penalty: L2) -> None:
    W, b = points(0)
    dW, db = np.zeros_like(W), np.zeros_like(b)
    value = penalty.restricted(slice(0, 0), intercepts=True).value(W[:0], b)
    penalty.restricted(slice(0, 0), intercepts=True).add_gradient(W[:0], b, dW[:0], db)
    for rows in (slice(0, 1), slice(1, D)):
        part = penalty.restricted(rows, intercepts=False)
        value = value + part.value(W[rows], b)
        part.add_gradient(W[rows], b, dW[rows], db)
    expected = np.zeros_like(W), np.zeros_like(b)
    penalty.add_gradient(W, b, *expected)
    assert value == pytest.approx(penalty.value(W, b))
    np.testing.assert_array_equal(dW, expected[0])
    np.testing.assert_array_equal(db, expected[1])


def test_the_proximal_operator_minimises_what_it_says(penalty: L2) -> None:
    (W, b), step = points(0), np.array([0.3, 1.5])

    def f(V: Any, v: Any) -> Any:
        distance = ((V - W) ** 2).sum(axis=(0, 2)) + ((v - b) ** 2).sum(axis=1)
        return penalty.value(V, v) + distance / (2 * step)

    best = penalty.prox(W, b, step)
    assert best[0].dtype == W.dtype
    for seed in range(5):
        move = points(seed + 1)
        for size in (1e-3, -1e-3, 1.0):
            assert (f(best[0] + size * move[0], best[1] + size * move[1]) > f(*best)).all()


def test_the_dual_norm_and_the_strong_convexity_bound_the_distance_from_the_optimum(penalty: L2) -> None:
    """For the penalty plus a linear function, whose optimum is known, the bound is an equality."""
    (W, b), (T, t) = points(0), points(1)
    t = t if penalty.on_intercept else 0 * t
    r = np.ones(D) if penalty.factors is None else penalty.factors
    best = -T / (r[:, None] * STRENGTHS)[:, :, None], -t / STRENGTHS[:, None]

    def f(W: Any, b: Any) -> Any:
        return penalty.value(W, b) + (T * W).sum(axis=(0, 2)) + (t * b).sum(axis=1)

    dW, db = T.copy(), t.copy()
    penalty.add_gradient(W, b, dW, db)
    bound = penalty.squared_dual_norm(dW, db) / (2 * penalty.strong_convexity())
    assert f(W, b) - f(*best) == pytest.approx(bound)


def test_diagonal_and_largest_curvature_are_those_of_its_hessian(penalty: L2) -> None:
    r = np.ones(D) if penalty.factors is None else penalty.factors
    assert penalty.relative_diagonal(D).tolist() == [*r, *([1.0] if penalty.on_intercept else [])]
    assert penalty.largest_curvature().tolist() == (STRENGTHS * r.max()).tolist()


def test_it_is_zero_without_strength() -> None:
    assert L2(np.array([0.0, 0.5])).is_zero().tolist() == [True, False]


def test_it_can_be_moved_and_given_other_strengths(penalty: L2) -> None:
    moved = penalty.moved(lambda x: x.astype(np.float32)).with_strengths(np.array([1.0]))
    assert moved.strengths.tolist() == [1.0]
    assert moved.on_intercept == penalty.on_intercept
    assert (moved.factors is None) == (penalty.factors is None)
    assert moved.factors is None or moved.factors.dtype == np.float32
