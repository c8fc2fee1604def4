"""Gram preconditioners, in every form, are the inverse of the curvature that they approximate."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.preconditioners import gram, inverses, woodbury
from gpusoftmax.solvers.preconditioners.base import Preconditioners, SharedBlock
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.preconditioners.inverses import Cholesky, Diagonal, LowRank, Woodbury
from tests.support.cases import INTERCEPTS, Array, objective_of

NUMPY = get_backend("numpy", n_threads=1)
SHAPES = {"cholesky": (40, 6), "low rank": (7, 20)}


def preconditioned(objective: Objective, seed: int) -> Preconditioners:
    """The first preconditioners of a solve."""
    return GramSample(objective, seed).preconditioners(objective)


def written_out(X: Array, share: Array, l2: float, kappa: float, intercept: str) -> Array:
    """kappa sum_i share_i [x_i, 1][x_i, 1]' + l2 diag(1, ..., 1, 0 or 1), inverted; zero for an intercept held at 0."""
    d = X.shape[1]
    rows = np.hstack([X, np.ones((len(X), 1))])
    M = kappa * rows.T @ (share[:, None] * rows) + l2 * np.eye(d + 1)
    if intercept == "free":
        M[d, d] -= l2
    if intercept == "none":
        inverse = np.zeros((d + 1, d + 1))
        inverse[:d, :d] = np.linalg.inv(M[:d, :d])
        return inverse
    return np.linalg.inv(M)


@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_it_inverts_the_curvature_at_equal_probabilities(
    kind: str, intercept: str, weighted: bool, loss: str, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    n, d = SHAPES[kind]
    c, l2 = 3, np.array([0.5, 0.02])
    X, shift, scale = rng.standard_normal((n, d)) + 1, rng.standard_normal(d), rng.random(d) + 0.5
    weights = rng.random((n, 2)) if weighted else None
    objective = objective_of(
        X, rng.integers(0, c, n), NUMPY, c=c, K=2, loss=loss, l2=l2, weights=weights, shift=shift, scale=scale,
        **INTERCEPTS[intercept],
    )  # fmt: skip
    sample = GramSample(objective, seed=0)
    with caplog.at_level(logging.INFO, "gpusoftmax"):
        preconditioner = Preconditioners([sample.preconditioner(objective, k) for k in range(2)], n, [None] * 2)
    assert f"preconditioner: {kind}, from {n} of {n} rows" in caplog.text
    g = rng.standard_normal((d + 1, 2, c))
    found = preconditioner.apply(g, np)
    for k in range(2):
        share = np.full(n, 1 / n) if weights is None else weights[:, k] / weights[:, k].sum()
        kappa = 1 / c if loss == "softmax" else 4.0
        inverse = written_out((X - shift) / scale, share, l2[k], kappa, intercept)
        # float64, and a condition of some hundreds
        np.testing.assert_allclose(found[:, k], inverse @ g[:, k], rtol=1e-9, atol=1e-9 * np.abs(inverse).max())


def test_without_memory_for_more_it_is_the_diagonal(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "FULL_FEATURES", 2)
    monkeypatch.setattr(gram, "LOW_RANK_ELEMENTS", 100)  # 25 rows of 4 features, fewer than are worth while
    X = rng.standard_normal((300, 4))
    preconditioner = preconditioned(objective_of(X, rng.integers(0, 3, 300), NUMPY, c=3, l2=0.1), seed=0)
    assert [type(of.inverse) for of in preconditioner.by_model if isinstance(of, SharedBlock)] == [Diagonal]
    assert preconditioner.rows == 32


@pytest.mark.parametrize(("n", "d", "c", "at_once"), [(3000, 50, 3, True), (40, 50, 3, False), (2100, 2000, 2, False)])
def test_a_preconditioners_that_costs_much_waits_until_the_diagonal_has_proved_slow(
    n: int, d: int, c: int, at_once: bool, rng: np.random.Generator
) -> None:
    X = rng.standard_normal((n, d), dtype=np.float32)
    objective = objective_of(X, np.arange(n) % c, NUMPY, c=c, l2=1e-7)  # too weak for inverses of few rows
    assert GramSample(objective, seed=0).at_once == at_once
    (first,) = preconditioned(objective, seed=0).by_model
    assert isinstance(first, SharedBlock)
    assert isinstance(first.inverse, Cholesky if at_once else Diagonal)


def test_a_sample_is_multiplied_once_for_many_penalties(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((60, 4)), rng.integers(0, 3, 60), NUMPY, c=3, l2=0.1)
    sample, other = GramSample(objective, seed=0), objective.for_penalties(np.array([3.0]))
    sample.preconditioners(objective)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram, "GramInverse", None)  # would be called
        found = sample.preconditioners(other)
    g = rng.standard_normal((5, 1, 3))
    expected = preconditioned(other, seed=0).apply(g, np)
    np.testing.assert_array_equal(found.apply(g, np), expected)


def test_a_part_of_the_models_keeps_its_own(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), NUMPY, c=3, K=3, l2=[0.1, 1.0, 10.0])
    preconditioner, g = preconditioned(objective, seed=0), rng.standard_normal((5, 3, 3))
    whole = preconditioner.apply(g, np)
    part = preconditioner.select([2, 0]).apply(g[:, [2, 0]], np)
    np.testing.assert_array_equal(part, whole[:, [2, 0]])


def test_models_alike_share_a_factor(rng: np.random.Generator) -> None:
    objective = objective_of(rng.standard_normal((30, 4)), rng.integers(0, 3, 30), NUMPY, c=3, K=3, l2=[0.1, 0.1, 1.0])
    first, second, third = preconditioned(objective, seed=0).by_model
    assert first.inverse is second.inverse
    assert second.inverse is not third.inverse


def test_folds_share_the_inverse_of_a_penalty(rng: np.random.Generator) -> None:
    whole = objective_of(rng.standard_normal((60, 4)), rng.integers(0, 3, 60), NUMPY, c=3, l2=0.1)
    sample = GramSample(whole, seed=0)
    folds = [replace(whole, features=replace(whole.features, rows=rows)) for rows in np.split(np.arange(60), 3)]
    first, second, third = (sample.preconditioners(fold).by_model[0].inverse for fold in folds)
    assert first is second is third


@pytest.mark.parametrize(
    ("columns", "penalties", "kind"), [("alike", 3, "cholesky"), ("alike", 4, "spectrum"), ("uneven", 4, "cholesky")]
)
def test_many_penalties_share_eigenpairs_unless_small_columns_would_be_lost(
    columns: str, penalties: int, kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "SPECTRUM_FEATURES", 5)
    monkeypatch.setattr(inverses, "RANK", 3)
    X = rng.standard_normal((40, 6)) * (10.0 ** np.arange(6) if columns == "uneven" else 1.0)
    objective = objective_of(X, rng.integers(0, 3, 40), NUMPY, c=3, l2=0.1)
    preconditioner = GramSample(objective, 0, penalties).preconditioner(objective, 0)
    assert isinstance(preconditioner, SharedBlock)
    assert isinstance(preconditioner.inverse, {"cholesky": Cholesky, "spectrum": LowRank}[kind])


@pytest.mark.parametrize(
    ("columns", "penalties", "kind"), [("alike", 3, Woodbury), ("alike", 4, LowRank), ("uneven", 4, Woodbury)]
)
def test_many_penalties_share_eigenpairs_rather_than_small_samples(
    columns: str, penalties: int, kind: type, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LEAST_PASS": 0.0, "FEWEST": 8, "WIDER": 1e12}.items():
        monkeypatch.setattr(woodbury, name, value)
    monkeypatch.setattr(gram, "SPECTRUM_FEATURES", 5)
    monkeypatch.setattr(inverses, "RANK", 3)
    X = rng.standard_normal((600, 110)) * (10.0 ** (np.arange(110) % 5) if columns == "uneven" else 1.0)
    objective = objective_of(X, rng.integers(0, 2, 600), NUMPY, c=2, l2=0.1)
    (made,) = GramSample(objective, 0, penalties).preconditioners(objective).by_model
    assert isinstance(made, SharedBlock)
    assert isinstance(made.inverse, kind)


@pytest.mark.parametrize("columns", ["constant", "repeated", "of very different sizes"])
def test_it_is_finite_and_positive_definite_whatever_the_columns(
    columns: str, rng: np.random.Generator, backend: Backend
) -> None:
    X = rng.standard_normal((50, 6)).astype(np.float32)
    if columns == "constant":
        X[:] = 1
    elif columns == "repeated":
        X[:, 1:] = X[:, :1]
    else:
        X *= 10.0 ** np.arange(-6, 6, 2, dtype=np.float32)
    preconditioner = preconditioned(objective_of(X, rng.integers(0, 3, 50), backend, c=3, l2=0.0), seed=0)  # no penalty
    for g in rng.standard_normal((5, 7, 1, 3)).astype(np.float32):
        moved: Any = backend.asarray(g)
        found = backend.to_numpy(preconditioner.apply(moved, backend.xp))
        assert float((g * found).sum(dtype=np.float64)) > 0


def test_a_model_whose_rows_all_weigh_nothing_in_the_sample_has_the_unweighted_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "SMALLEST_SAMPLE", 1)
    X, weights = rng.standard_normal((40, 2)), np.zeros((40, 1))
    labels = rng.integers(0, 3, 40)
    sampled = preconditioned(objective_of(X, labels, NUMPY, c=3, l2=0.1, weights=np.ones((40, 1))), seed=0)
    assert sampled.rows == 4
    weights[[i for i in range(40) if i not in _rows_of_the_sample(40, 4)]] = 1
    unweighted = preconditioned(objective_of(X, labels, NUMPY, c=3, l2=0.1, weights=weights), seed=0)
    g = rng.standard_normal((3, 1, 3))
    np.testing.assert_array_equal(unweighted.apply(g, np), sampled.apply(g, np))


def _rows_of_the_sample(n: int, size: int) -> list[int]:
    rng = np.random.Generator(np.random.Philox(key=np.array([0, 2**63 + 1], np.uint64)))
    return rng.choice(n, size, replace=False).tolist()
