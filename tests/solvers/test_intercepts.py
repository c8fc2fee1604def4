"""The intercepts that minimise the objective for given weights, from stored scores."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from gpusoftmax.array import get_backend
from gpusoftmax.reference import row_loss
from gpusoftmax.solvers import intercepts
from gpusoftmax.solvers.certificate import certify
from gpusoftmax.solvers.intercepts import PHIS, StoredRows, best_intercept_change
from tests.support.cases import Array, objective_of

BOTH = pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
AS_LONG_AS_IT_TAKES = 1 << 30  # products


def rows_of(
    loss: str, seed: int, n: int = 60, c: int = 5, dtype: Any = np.float64, threads: int = 1
) -> tuple[Any, Any]:
    """Random rows, some with a weight of zero, and phi in plain NumPy."""
    rng = np.random.default_rng(seed)
    z, y = 2 * rng.standard_normal((n, c)).astype(dtype), rng.integers(0, c, n)
    s = rng.random(n) * (rng.random(n) > 0.2)
    s /= s.sum()
    t = 0.01 * rng.standard_normal(c)
    t -= t.mean()  # of soft labels: a shift of all classes changes nothing
    p = np.exp(z - z.max(axis=1, keepdims=True))
    stored = (p / p.sum(axis=1, keepdims=True)) if loss == "softmax" else z

    def phi(v: Array) -> tuple[float, Array]:
        losses, gradient = row_loss(z + v, y, loss)
        return float(s @ losses + t @ v), s @ gradient + t

    return StoredRows(stored, y, s, t, get_backend("numpy", threads)), phi


@BOTH
def test_the_gradient_and_hessian_are_those_of_the_loss(loss: str) -> None:
    rows, phi = rows_of(loss, 0)
    v, x = np.random.default_rng(1).standard_normal((2, 5))
    found = PHIS[loss](rows)
    start = found.evaluate(np.zeros(5))[0]
    value, gradient = found.evaluate(v)
    assert value - start == pytest.approx(phi(v)[0] - phi(np.zeros(5))[0], rel=1e-12)
    np.testing.assert_allclose(gradient, phi(v)[1], atol=1e-14)
    step = 1e-6  # the difference is exact to step^2, and to eps / step
    difference = (phi(v + step * x)[1] - phi(v - step * x)[1]) / (2 * step)
    np.testing.assert_allclose(found.hessian_product(x), difference, atol=1e-8)
    hessian = found.hessian()
    np.testing.assert_allclose(hessian @ x, found.hessian_product(x), atol=1e-14)
    np.testing.assert_allclose(np.diag(hessian), found.diagonal(), atol=1e-15)


@BOTH
@pytest.mark.parametrize("formed", [intercepts.CLASSES_PER_PRODUCT, 0.0], ids=["factored", "diagonal"])
def test_it_finds_the_minimum(loss: str, formed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intercepts, "CLASSES_PER_PRODUCT", formed)
    for seed in range(3):
        rows, phi = rows_of(loss, seed)
        found = best_intercept_change(rows, loss, 1.0, AS_LONG_AS_IT_TAKES)
        assert found is not None
        expected = minimize(phi, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9})
        assert abs(phi(found[0])[1]).max() < 1e-7
        assert found[1] == pytest.approx(phi(np.zeros(5))[0] - expected.fun, abs=1e-12)


def test_probabilities_of_float32_suffice() -> None:
    rows, phi = rows_of("softmax", 3, dtype=np.float32)
    found = best_intercept_change(rows, "softmax", 1.0, AS_LONG_AS_IT_TAKES)
    assert found is not None
    assert abs(phi(found[0])[1]).max() < 1e-6  # a few units in the last place of float32


@BOTH
def test_it_gives_up_where_it_would_take_too_long(loss: str) -> None:
    rows, _ = rows_of(loss, 4)
    assert best_intercept_change(rows, loss, 1.0, 3) is None


@BOTH
def test_the_bits_do_not_depend_on_the_number_of_threads(loss: str) -> None:
    n = 5000  # three leaves
    one, three = (
        best_intercept_change(rows_of(loss, 5, n, threads=threads)[0], loss, 1.0, AS_LONG_AS_IT_TAKES)
        for threads in (1, 3)
    )
    assert one is not None
    assert three is not None
    assert one[0].tobytes() == three[0].tobytes()
    assert one[1] == three[1]


def test_a_certificate_of_many_classes_takes_no_memory_that_grows_with_their_square() -> None:
    n, d, c = 200, 4, 3000
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, d)), rng.integers(0, c, n)
    objective = objective_of(X, y, get_backend("numpy", n_threads=1), c=c, l2=0.1)
    W, b = 0.01 * rng.standard_normal((d, 1, c)), np.zeros((1, c))
    certify(objective, W, b)  # imports
    tracemalloc.start()
    try:
        certify(objective, W, b)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 8 * n * c  # four arrays of scores; one of (c, c) alone would be 15
