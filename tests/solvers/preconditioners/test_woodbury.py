"""The mean of inverses from small samples: what it is the inverse of, which rows it is made from, when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import get_backend
from gpusoftmax.solvers.preconditioners import woodbury
from gpusoftmax.solvers.preconditioners.woodbury import WoodburySamples, suits_block_search
from tests.support.cases import Array, objective_of

NUMPY = get_backend("numpy", n_threads=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of few rows, and of data whose passes take no time."""
    monkeypatch.setattr(woodbury, "FEWEST", 8)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 0.0)


def objective_with(rng: np.random.Generator, n: int = 300, d: int = 40, backend: Any = NUMPY, **options: Any) -> Any:
    X = rng.standard_normal((n, d)) @ np.diag(np.linspace(0.5, 2.0, d)) + 3.0
    dtype = options.pop("dtype", np.float64)
    return objective_of(X.astype(dtype), np.arange(n) % 2, backend, c=2, **options)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])  # by products, and by compiled passes
@pytest.mark.parametrize("options", [{}, {"penalize_intercept": True}, {"fit_intercept": False}])
def test_it_is_the_mean_of_the_inverses_of_the_samples(
    rng: np.random.Generator, options: dict[str, bool], backend: str
) -> None:
    l2 = 0.5
    objective = objective_with(rng, l2=l2, backend=get_backend(backend, n_threads=2), **options)
    samples = WoodburySamples(objective, 0, seed=0)
    inverse = samples.inverse(l2)
    assert inverse is not None
    q, m = len(inverse.factors), len(inverse.factors[0])
    assert q == woodbury.SAMPLES
    d = objective.features.d + ("penalize_intercept" in options)
    expected: Array = np.zeros((d, d))
    for j in range(q):
        x = objective.features.sample(samples.drawn[j * m : (j + 1) * m])
        x = np.hstack([x, np.ones((m, 1))])[:, :d] - samples.centre
        expected += np.linalg.inv(x.T @ x / (2 * m) + l2 * np.diag(samples.factors)) / q  # kappa is 1/2
    v = rng.standard_normal((d, 3))
    # the condition number of the matrices is below 1e3
    np.testing.assert_allclose(inverse.solve(v), expected @ v, rtol=1e-11, atol=1e-11)


def test_samples_are_disjoint_and_grow_until_the_ridge_is_small(rng: np.random.Generator) -> None:
    samples = WoodburySamples(objective_with(rng, n=2000), 0, seed=0)
    assert len(set(samples.drawn.tolist())) == len(samples.drawn) <= 1000  # half of the rows are left
    strong, weak = samples.inverse(3.0), samples.inverse(0.4)
    assert strong is not None
    assert weak is not None
    assert len(weak.factors[0]) > len(strong.factors[0])
    assert samples.inverse(1e-6) is None  # even half as many rows as features would be too few


def test_it_does_not_depend_on_earlier_calls(rng: np.random.Generator) -> None:
    objective, v = objective_with(rng, dtype=np.float32), rng.standard_normal((40, 2)).astype(np.float32)
    alone, after = WoodburySamples(objective, 0, seed=3), WoodburySamples(objective, 0, seed=3)
    after.inverse(0.05)
    after.inverse(5.0)
    one, other = alone.inverse(0.3), after.inverse(0.3)
    assert one is not None
    assert other is not None
    assert one.solve(v).tobytes() == other.solve(v).tobytes()


def test_rows_are_drawn_in_proportion_to_their_weights(rng: np.random.Generator) -> None:
    weights: Array = np.ones((300, 1))
    weights[7], weights[100:200] = 100.0, 0.0
    objective = objective_with(rng, weights=weights)
    drawn = WoodburySamples(objective, 0, seed=0).drawn
    assert not ((drawn >= 100) & (drawn < 200)).any()
    assert abs((drawn == 7).sum() - len(drawn) / 2.99) <= 1  # it has 100 of 299


def test_the_other_rows_are_not_in_the_samples_but_of_every_class(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(woodbury, "FEWEST_OTHERS", 200)
    monkeypatch.setattr(woodbury, "OTHERS_PER_UNKNOWN", 1)
    n = 4000
    y = np.where(np.arange(n) < 10, 1, 0)  # a class of ten rows, of which hardly one would be drawn
    objective = objective_of(rng.standard_normal((n, 40)), y, NUMPY, c=2)
    samples = WoodburySamples(objective, 0, seed=0)
    others = samples.other_rows
    assert not np.isin(others.numbers, samples.drawn).any()
    left = np.setdiff1d(np.flatnonzero(y == 1), samples.drawn)
    assert set(left[:8]) <= set(others.numbers.tolist()) or (y[others.numbers] == 1).sum() >= min(len(left), 5)
    np.testing.assert_allclose(others.times.sum(), n - len(samples.drawn), rtol=0.2)  # they stand for those left
    np.testing.assert_array_equal(others.features.sample(np.arange(5)), objective.features.sample(others.numbers[:5]))


def test_features_of_very_different_sizes_keep_their_curvature_in_float32(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ridge that is large enough for the largest feature would hide the small ones."""
    monkeypatch.setattr(woodbury, "WIDER", 1e12)  # take it, whatever the penalty
    sizes = np.logspace(-3, 3, 40)
    X = rng.standard_normal((600, 40)) * sizes
    l2 = 1e-6
    objective = objective_of(X.astype(np.float32), np.arange(600) % 2, NUMPY, c=2, l2=l2)
    inverse = WoodburySamples(objective, 0, seed=0).inverse(l2)
    assert inverse is not None
    found = inverse.solve(np.eye(40, dtype=np.float32))
    diagonal = np.diag(found)
    assert (np.linalg.eigvalsh((found + found.T) / 2 / np.sqrt(np.outer(diagonal, diagonal))) > 0).all()
    assert diagonal[0] > 0.5 / (l2 + 0.5 * sizes[0] ** 2)  # as if the others were not there


def test_threads_do_not_change_its_bits(rng: np.random.Generator) -> None:
    X, v = rng.standard_normal((900, 60), dtype=np.float32), rng.standard_normal((60, 2)).astype(np.float32)
    found = set()
    for threads in (1, 2, 7):
        backend = get_backend("numpy", n_threads=threads)
        inverse = WoodburySamples(objective_of(X, np.arange(900) % 2, backend, c=2), 0, seed=0).inverse(0.3)
        assert inverse is not None
        found.add(inverse.solve(v).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize(("d", "c", "n", "suits"), [(100, 2, 300, True), (80, 2, 300, False), (100, 2, 90, False)])
def test_it_is_for_few_classes_and_many_features(rng: np.random.Generator, d: int, c: int, n: int, suits: bool) -> None:
    objective = objective_of(rng.standard_normal((n, d)), np.arange(n) % c, NUMPY, c=c)
    assert suits_block_search(objective) == suits


def test_it_is_for_passes_that_take_longer_than_a_search(rng: np.random.Generator) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(woodbury, "LEAST_PASS", 1e12)
        assert not suits_block_search(objective_with(rng, d=100))
