"""The reference implementation: its loops compared with vectorised code, mpmath and numeric gradients."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusoftmax import reference
from gpusoftmax.losses import LOSSES
from tests.support.cases import DETERMINISTIC

EPS = np.finfo(np.float64).eps


def options_of(rng: np.random.Generator, n: int, d: int, K: int, penalize_intercept: bool = True) -> dict[str, Any]:
    """One of every option of loss_and_gradient, as arrays of full shape."""
    weights = rng.random((n, K)) * (rng.random((n, K)) < 0.8)
    weights[0] = 1.0  # never all zero
    return {
        "l2": rng.random(K),
        "weights": weights,
        "shift": rng.standard_normal(d),
        "scale": 0.5 + rng.random(d),
        "penalize_intercept": penalize_intercept,
    }


@given(
    n=st.integers(1, 6),
    d=st.integers(1, 4),
    c=st.integers(2, 5),
    K=st.integers(1, 3),
    loss=st.sampled_from(list(LOSSES)),
    spread=st.sampled_from([1.0, 10.0, 300.0]),
    penalize_intercept=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@DETERMINISTIC
def test_loops_equal_vectorised_code(
    n: int, d: int, c: int, K: int, loss: str, spread: float, penalize_intercept: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, d)), rng.integers(0, c, n)
    W, b = spread * rng.standard_normal((d, K, c)), rng.standard_normal((K, c))
    options = options_of(rng, n, d, K, penalize_intercept)
    slow = reference.loss_and_gradient_loops(X, y, W, b, loss=loss, **options)
    fast = reference.loss_and_gradient(X, y, W, b, loss=loss, **options)
    # a score is off by some 10 eps of the size of its terms, which exp turns into a relative error
    largest = np.abs(W).max() * d * 10 + 2
    for a, e in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, e, rtol=100 * EPS * largest, atol=100 * EPS * largest)


@given(
    n=st.integers(1, 6),
    c=st.integers(2, 5),
    K=st.integers(1, 3),
    spread=st.sampled_from([1.0, 10.0, 300.0]),
    seed=st.integers(0, 2**32 - 1),
)
@DETERMINISTIC
def test_loops_equal_vectorised_code_for_soft_labels(n: int, c: int, K: int, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, P = rng.standard_normal((n, 3)), rng.dirichlet(np.ones(c), n)
    W, b = spread * rng.standard_normal((3, K, c)), rng.standard_normal((K, c))
    options = options_of(rng, n, 3, K)
    slow = reference.loss_and_gradient_loops(X, P, W, b, loss="softmax", **options)
    fast = reference.loss_and_gradient(X, P, W, b, **options)
    largest = np.abs(W).max() * 3 * 10 + 2  # as above
    for a, e in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, e, rtol=100 * EPS * largest, atol=100 * EPS * largest)


def test_a_soft_label_is_the_mean_of_hard_ones(rng: np.random.Generator) -> None:
    Z, P = 3 * rng.standard_normal((8, 4)), rng.dirichlet(np.ones(4), 8)
    losses, G = reference.soft_row_loss(Z, P)
    hard = [reference.row_loss(Z, np.full(8, j), "softmax") for j in range(4)]
    np.testing.assert_allclose(losses, sum(P[:, j] * hard[j][0] for j in range(4)), rtol=1e-14)
    np.testing.assert_allclose(G, sum(P[:, j, None] * hard[j][1] for j in range(4)), atol=1e-15)


@pytest.mark.parametrize("ahead", [100.0, 40.0, 17.0, 0.0, -17.0, -40.0, -100.0])
@pytest.mark.parametrize("function", ["loops", "vectorised"])
def test_softmax_of_a_confident_row_has_all_its_digits(function: str, ahead: float, rng: np.random.Generator) -> None:
    c, y = 7, 2
    z = rng.standard_normal(c)
    z[y] = np.delete(z, y).max() + ahead
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(v)) for v in z]
        total = mpmath.fsum(e)
        others = mpmath.fsum(v for j, v in enumerate(e) if j != y)
        loss = mpmath.log1p(others / e[y])
        gradient = [-others / total if j == y else v / total for j, v in enumerate(e)]
        if function == "loops":
            value, slope = reference.row_loss_loops(z.tolist(), y, "softmax")
        else:
            values, slopes = reference.row_loss(z[None], np.array([y]), "softmax")
            value, slope = values[0], slopes[0].tolist()
        # exp of a difference of 100 is off by 100 eps / 2 = 1e-14
        for a, e in zip([value, *slope], [loss, *gradient], strict=True):
            assert abs(mpmath.mpf(a) / e - 1) < 1e-13


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_value(loss: str, rng: np.random.Generator) -> None:
    n, d, c, K, h = 8, 4, 5, 2, 1e-5
    X, y = rng.standard_normal((n, d)), rng.integers(0, c, n)
    parameters = {"W": rng.standard_normal((d, K, c)), "b": rng.standard_normal((K, c))}
    options = options_of(rng, n, d, K)

    def value() -> Any:
        return reference.loss_and_gradient(X, y, **parameters, loss=loss, **options)[0]

    _, dW, db = reference.loss_and_gradient(X, y, **parameters, loss=loss, **options)
    for name, gradient in (("W", dW), ("b", db)):
        array = parameters[name]
        for index in np.ndindex(array.shape):
            old, k = array[index], index[-2]
            array[index] = old + h
            above = value()[k]
            array[index] = old - h
            below = value()[k]
            array[index] = old
            # rounding: eps * f / h = 1e-10; truncation: h^2 f''' / 6 = 1e-10; no margin of this draw is within h of 0
            assert (above - below) / (2 * h) == pytest.approx(gradient[index], abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_models_side_by_side_equal_single_models(loss: str, rng: np.random.Generator) -> None:
    n, d, c, K = 9, 4, 3, 3
    X, y = rng.standard_normal((n, d)), rng.integers(0, c, n)
    W, b = rng.standard_normal((d, K, c)), rng.standard_normal((K, c))
    options = options_of(rng, n, d, K)
    f, dW, db = reference.loss_and_gradient(X, y, W, b, loss=loss, **options)
    for k in range(K):
        one = {**options, "l2": options["l2"][k : k + 1], "weights": options["weights"][:, k]}
        alone = reference.loss_and_gradient(X, y, W[:, k : k + 1], b[k : k + 1], loss=loss, **one)
        for a, e in zip((f[k : k + 1], dW[:, k : k + 1], db[k : k + 1]), alone, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-13, atol=1e-14)  # einsum may sum in another order


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_three_equals_the_row_three_times(loss: str, rng: np.random.Generator) -> None:
    n, d, c = 9, 4, 3
    X, y = rng.standard_normal((n, d)), rng.integers(0, c, n)
    W, b = rng.standard_normal((d, 1, c)), rng.standard_normal((1, c))
    times = rng.integers(0, 4, n)
    weighted = reference.loss_and_gradient(X, y, W, b, loss=loss, weights=times, l2=0.1)
    repeated = reference.loss_and_gradient(X.repeat(times, axis=0), y.repeat(times), W, b, loss=loss, l2=0.1)
    for a, e in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-13, atol=1e-14)


def test_a_class_at_minus_infinity_has_no_probability() -> None:
    z = [1.0, -np.inf, 2.0]
    without = reference.row_loss_loops([1.0, 2.0], 0, "softmax")
    values, slopes = reference.row_loss(np.array([z]), np.array([0]), "softmax")
    for value, slope in (reference.row_loss_loops(z, 0, "softmax"), (values[0], slopes[0])):
        assert slope[1] == 0
        assert (value, [slope[0], slope[2]]) == without


NON_FINITE = {
    "NaN at the target": [np.nan, 0.0, 1.0],
    "NaN at another class": [0.0, np.nan, 1.0],
    "NaN at the last class": [0.0, 1.0, np.nan],
    "+inf at another class": [0.0, np.inf, 1.0],
    "target at -inf": [-np.inf, 0.0, 1.0],
    "all at -inf": [-np.inf, -np.inf, -np.inf],
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", NON_FINITE)
@pytest.mark.parametrize("function", ["loops", "vectorised"])
def test_scores_without_an_answer_give_a_non_finite_loss(function: str, case: str, loss: str) -> None:
    assert not np.isfinite(loss_of_row(function, NON_FINITE[case], loss))


@pytest.mark.parametrize("function", ["loops", "vectorised"])
def test_softmax_with_the_target_at_plus_infinity_has_a_non_finite_loss(function: str) -> None:
    assert not np.isfinite(loss_of_row(function, [np.inf, 0.0, 1.0], "softmax"))


def loss_of_row(function: str, z: list[float], loss: str) -> float:
    """The loss of a row whose target is class 0."""
    if function == "loops":
        return reference.row_loss_loops(z, 0, loss)[0]
    return float(reference.row_loss(np.array([z]), np.array([0]), loss)[0][0])
