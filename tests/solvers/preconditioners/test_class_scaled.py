"""The Gram matrix is scaled for each class by its curvature at the current point."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, sweep
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners.class_scaled import ClassScaled, class_curvatures, scaled_for_classes
from gpusoftmax.solvers.preconditioners.gram import GramSample
from tests.support.cases import INTERCEPTS, Array, objective_of

NUMPY = get_backend("numpy", n_threads=1)
D, C = 5, 3


def problem(rng: np.random.Generator, intercept: str, backend: Backend = NUMPY) -> tuple[Objective, Array]:
    """60 weighted rows of D features, shifted and scaled, and a point at which the classes differ in curvature."""
    objective = objective_of(
        rng.standard_normal((60, D)) + 1, rng.integers(0, C, 60), backend, c=C, l2=0.02, weights=rng.random((60, 1)),
        shift=rng.standard_normal(D), scale=rng.random(D) + 0.5, **INTERCEPTS[intercept],
    )  # fmt: skip
    point = rng.standard_normal((D + 1, C))
    if intercept == "none":
        point[-1] = 0
    return objective, point


def scaled_at(objective: Objective, point: Array) -> ClassScaled:
    first = GramSample(objective, 0).preconditioners(objective).by_model[0]
    return scaled_for_classes(objective, 0, class_curvatures(objective, 0, point, seed=0), first)


def curvatures_of(objective: Objective, point: Array) -> tuple[Array, Array]:
    """t (C,) and m (D, C), by their definition."""
    x = objective.features.sample(np.arange(60))
    scores = x @ point[:-1] + point[-1]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    s = objective.weights / objective.weights.sum()
    h = s * p * (1 - p)
    return h.sum(axis=0), x.T @ h / h.sum(axis=0)


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_each_class_has_the_inverse_of_its_curvature_between_projections(
    intercept: str, rng: np.random.Generator
) -> None:
    objective, point = problem(rng, intercept)
    first = GramSample(objective, 0).preconditioners(objective).by_model[0]
    totals, means = curvatures_of(objective, point)
    variance = objective.features.sample(np.arange(60)).var(axis=0).mean()
    r = 0.02  # of the penalty, for which all features, and a penalised intercept, are alike
    v = rng.standard_normal((D + 1, C))
    if intercept == "none":
        v[-1] = 0
    common = v.mean(axis=1, keepdims=True)
    own = v - common
    factors = (variance / C + r) / (totals * variance + r)
    if intercept == "free":
        solution = first.inverse.solve(own[:-1] - means * own[-1:]) * factors
        expected = np.vstack([solution, own[-1] / totals - (means * solution).sum(axis=0)])
    elif intercept == "penalised":
        expected = first.inverse.solve(own) * factors
    else:
        expected = np.vstack([first.inverse.solve(own[:-1]) * factors, np.zeros((1, C))])
    expected -= expected.mean(axis=1, keepdims=True)
    size = D + 1 if intercept == "penalised" else D
    expected[:size] += common[:size] / r  # what classes share knows the penalty alone
    # means and sums of 60 numbers in float64, in another order
    np.testing.assert_allclose(scaled_at(objective, point).solve(v), expected, rtol=1e-10, atol=1e-10)


def test_it_is_symmetric_and_positive(rng: np.random.Generator) -> None:
    objective, point = problem(rng, "free")
    preconditioner = scaled_at(objective, point)
    units = np.eye((D + 1) * C).reshape(-1, D + 1, C)
    inverse = np.stack([preconditioner.solve(unit).reshape(-1) for unit in units])
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12 * abs(inverse).max())
    values = np.linalg.eigvalsh(inverse)
    assert values[0] > -1e-12 * values[-1]  # 0 along the mean of the intercepts, which changes no loss
    assert values[1] > 1e-6 * values[-1]


def test_a_class_without_curvature_has_a_finite_inverse(rng: np.random.Generator) -> None:
    objective, point = problem(rng, "free")
    point[-1, 0] = -1000.0  # never chosen
    assert np.isfinite(scaled_at(objective, point).solve(rng.standard_normal((D + 1, C)))).all()


def test_it_is_alike_on_all_backends(backend: Backend) -> None:
    solutions = []
    for device in (NUMPY, backend):
        objective, point = problem(np.random.default_rng(0), "free", device)
        point = device.asarray(point)
        solutions.append(device.to_numpy(scaled_at(objective, point).solve(point)))
    np.testing.assert_allclose(*solutions, rtol=1e-10, atol=1e-10)


def uneven(rng: np.random.Generator, n: int = 4000, d: int = 60, c: int = 40) -> tuple[Array, Array]:
    """Rows of classes that overlap, some of which have many more rows than others."""
    y = rng.choice(c, n, p=np.arange(1, c + 1) / (c * (c + 1) / 2))
    X = rng.standard_normal((n, d)) * np.logspace(0, -1.5, d)
    return (X + 0.5 * rng.standard_normal((c, d))[y] * np.logspace(0, -1.5, d)).astype(np.float32), y


def test_classes_of_different_sizes_take_fewer_passes_with_it(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = uneven(rng)
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        scaled = SoftmaxClassifier(C=10.0, max_iter=200).fit(X, y)
    assert "preconditioner: scaled for each class, from 4000 of 4000 rows" in caplog.text
    monkeypatch.setattr("gpusoftmax.solvers.lbfgs.STEPS_TO_GO", 10**9)
    plain = SoftmaxClassifier(C=10.0, max_iter=200).fit(X, y)
    assert scaled.fit_report_.passes < 0.8 * plain.fit_report_.passes
    # both are within tol = 1e-4 of stationary
    np.testing.assert_allclose(scaled.fit_report_.objective, plain.fit_report_.objective, rtol=1e-3)


def test_the_folds_of_a_sweep_share_curvatures_of_each_penalty(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    X, y = uneven(rng, n=4003)  # the folds differ by a row
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        sweep(SoftmaxClassifier(), {"C": [0.003, 0.01, 0.03]}, X, y, cv=4, refit=False)
    assert caplog.text.count("scaled for each class") == 2  # the first solutions start from zero, and are near
