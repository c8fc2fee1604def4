"""Diagonals for each class, with dense blocks for some features: against the blocks of the exact Hessian."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.features.read import read_features
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers import LBFGS
from gpusoftmax.solvers.preconditioners import class_diagonal
from gpusoftmax.solvers.preconditioners.class_diagonal import ClassDiagonal, from_sums, sums_at_point, sums_at_zero
from gpusoftmax.solvers.preconditioners.gram import GramSample
from tests.support.cases import INTERCEPTS, objective_of, run

Array = np.ndarray[Any, Any]
N, D, C, L2 = 80, 12, 4, 0.05


def problem(backend: Backend, loss: str = "softmax", scaled: bool = False, **options: Any) -> tuple[Objective, Array]:
    """A sparse objective with weights, and X scaled in float64."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D)) * (rng.random((N, D)) < 0.3)
    y, s = rng.integers(0, C, N), rng.random((N, 1)) + 0.1
    free = options.get("fit_intercept", True) and not options.get("penalize_intercept", False)
    shift = X.mean(axis=0) if scaled or free else None
    scale = np.linspace(0.5, 2, D) if scaled else None
    dense = objective_of(X, y, backend, c=C, loss=loss, l2=L2, weights=s, shift=shift, scale=scale, **options)
    features = read_features(csr_array(X), backend).with_scaling(shift, scale)
    x = (X - (0 if shift is None else shift)) / (1 if scale is None else scale)
    return replace(dense, features=features), x


def blocks(objective: Objective, x: Array, point: Array) -> list[Array]:
    """For each class, the Hessian over the weights of scaled features and, if it is trained, the intercept."""
    s = objective.backend.to_numpy(objective.weights)[:, 0]
    free, penalised = objective.has_free_intercept, objective.penalty.on_intercept
    scores = x @ point[:-1] + point[-1]
    labels = objective.backend.to_numpy(objective.labels)
    curvature = objective.loss.row_hessians(scores, labels, s / s.sum())
    rows = np.hstack([x, np.ones((N, 1))]) if free or penalised else x
    penalty = L2 * np.append(np.ones(D), 1.0 if penalised else 0.0)[: rows.shape[1]]
    return [rows.T @ (rows * curvature.diagonal(j)[:, None]) + np.diag(penalty) for j in range(C)]


def without_mean(v: Array) -> Array:
    return v - v.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_with_all_features_in_dense_blocks_it_is_the_inverse_of_the_blocks(
    backend: Backend, loss: str, intercept: str, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the projections: M^-1 v = P B^-1 P v + (mean over classes) / penalty."""
    monkeypatch.setattr(class_diagonal, "BLOCK_CURVATURE", -1.0)
    objective, x = problem(backend, loss, scaled, **INTERCEPTS[intercept])
    rng = np.random.default_rng(1)
    point, v = rng.standard_normal((D + 1, C)), rng.standard_normal((D + 1, C))
    if intercept == "none":
        point[-1], v[-1] = 0, 0
    found = from_sums(objective, 0, sums_at_point(objective, 0, backend.asarray(point)))
    solution = backend.to_numpy(found.solve(backend.asarray(v)))
    expected, projected = np.zeros_like(v), without_mean(v)
    for j, B in enumerate(blocks(objective, x, point)):
        if intercept == "penalised":  # the intercept stays apart from the weights
            B[:-1, -1] = B[-1, :-1] = 0
        expected[: len(B), j] = np.linalg.solve(B, projected[: len(B), j])
    expected = without_mean(expected)
    expected[:D] += v[:D].mean(axis=1, keepdims=True) / L2
    if intercept == "penalised":
        expected[-1] += v[-1].mean() / L2
    np.testing.assert_allclose(solution, expected, rtol=1e-8, atol=1e-8)


def test_without_dense_blocks_it_is_the_inverse_of_the_centred_diagonals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_diagonal, "BLOCK_CURVATURE", np.inf)
    objective, x = problem(get_backend("auto", 2))
    point, v = np.random.default_rng(1).standard_normal((2, D + 1, C))
    found = from_sums(objective, 0, sums_at_point(objective, 0, point))
    expected, projected = np.zeros_like(v), without_mean(v)
    for j, B in enumerate(blocks(objective, x, point)):
        t, m = B[-1, -1], B[-1, :-1] / B[-1, -1]
        diagonal = np.diagonal(B)[:-1] - t * m**2
        expected[:-1, j] = (projected[:-1, j] - m * projected[-1, j]) / diagonal
        expected[-1, j] = projected[-1, j] / t - m @ expected[:-1, j]
    expected = without_mean(expected)
    expected[:-1] += v[:-1].mean(axis=1, keepdims=True) / L2
    np.testing.assert_allclose(found.solve(v), expected, rtol=1e-9, atol=1e-9)


def test_at_zero_weights_it_is_made_of_the_variances() -> None:
    objective, x = problem(get_backend("auto", 2))
    s = objective.weights[:, 0] / objective.weights.sum()
    variance = s @ (x - s @ x) ** 2
    found = from_sums(objective, 0, sums_at_zero(objective, 0))
    np.testing.assert_allclose(found.diagonals.inverse[:, 0], 1 / (variance / C + L2), rtol=1e-9)
    assert found.dense_blocks == []


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_it_is_symmetric_and_positive(backend: Backend, intercept: str) -> None:
    objective, _ = problem(backend, scaled=True, **INTERCEPTS[intercept])
    rng = np.random.default_rng(1)
    found = from_sums(objective, 0, sums_at_point(objective, 0, backend.asarray(rng.standard_normal((D + 1, C)))))
    u, v = rng.standard_normal((2, D + 1, C))
    solve = lambda w: backend.to_numpy(found.solve(backend.asarray(w)))
    assert (solve(u) * v).sum() == pytest.approx((u * solve(v)).sum(), rel=1e-10)
    assert (solve(u) * u).sum() > 0


def test_features_that_never_occur_and_classes_without_rows_do_no_harm() -> None:
    X = csr_array((np.ones(3, np.float32), [0, 1, 1], [0, 1, 2, 3]), (3, 5))
    objective = objective_of(X.toarray(), np.array([0, 1, 0]), get_backend("auto", 1), c=3, l2=0.0)
    objective = replace(objective, features=read_features(X, get_backend("auto", 1)))
    for sums in (sums_at_zero(objective, 0), sums_at_point(objective, 0, np.zeros((6, 3), np.float32))):
        found = from_sums(objective, 0, sums)
        assert np.isfinite(found.solve(np.ones((6, 3), np.float32))).all()


def test_a_dense_block_has_the_features_of_most_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_diagonal, "BLOCK_FEATURES", 3)
    monkeypatch.setattr(class_diagonal, "BLOCK_CURVATURE", -1.0)
    objective, _ = problem(get_backend("auto", 2))
    sums = sums_at_point(objective, 0, np.zeros((D + 1, C)))
    for j, block in enumerate(sums.dense_blocks):
        assert sorted(np.argsort(-sums.squares[:, j])[:3]) == block.features.tolist()


def test_later_solves_start_from_the_sums_at_an_earlier_solution() -> None:
    objective, _ = problem(get_backend("auto", 2))
    sample = GramSample(objective, 0)
    sample.kind, sample.at_once = "variances", True  # what it is with many features
    before = sample.preconditioners(objective).by_model[0]
    assert isinstance(before, ClassDiagonal)
    assert before.diagonals.inverse.shape == (D, 1)
    sample.remember(objective, 0, np.ones((D + 1, C)), sums_at_point(objective, 0, np.ones((D + 1, C))))
    after = sample.preconditioners(objective).by_model[0]
    assert isinstance(after, ClassDiagonal)
    assert after.diagonals.inverse.shape == (D, C)


def text_like(n: int, d: int) -> tuple[Any, Array]:
    """Rows of words with the frequencies of a language, and labels that depend on them."""
    rng = np.random.default_rng(0)
    words = np.minimum((d ** rng.random((n, 12))).astype(int) - 1, d - 1)
    X = csr_array((np.ones(words.size), (np.repeat(np.arange(n), 12), words.ravel())), (n, d))
    X.sum_duplicates()
    return X, (X @ rng.standard_normal((d, 3)) + rng.gumbel(size=(n, 3))).argmax(axis=1)


@pytest.mark.slow
def test_it_saves_passes_where_features_are_many() -> None:
    """With the variances alone, it takes half as many passes again, or more."""
    X, y = text_like(2000, 3000)
    backend = get_backend("auto", 2)
    features = read_features(X, backend)
    objective = objective_of(np.ones((2, 1)), y, backend, c=3, l2=1e-4)
    objective = replace(objective, features=features.with_scaling(features.moments(None, None)[0], None))
    sample = GramSample(objective, 0)
    assert sample.kind == "variances"
    renewed = run(LBFGS(300, 1e-6), objective)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpusoftmax.solvers.lbfgs.REFRESH_AFTER", 1000)
        plain = run(LBFGS(300, 1e-6), objective)
    assert renewed.reason == plain.reason == "converged"
    assert renewed.passes < 0.7 * plain.passes
    np.testing.assert_allclose(renewed.value, plain.value, rtol=1e-6)
