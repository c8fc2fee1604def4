"""The pairs of L-BFGS: H g is that of the definition, for each model alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gpusoftmax import get_backend
from gpusoftmax.array import Backend
from gpusoftmax.cpu.threads import VECTOR_BLOCK
from gpusoftmax.solvers.pairs import MEMORY, Pairs, Point
from tests.support.cases import sha256

D, C = 5, 3


def quadratic(rng: np.random.Generator) -> Any:
    """A positive definite Hessian."""
    root = rng.standard_normal((D * C, D * C))
    return root @ root.T + np.eye(D * C)


def inverse_hessian(steps: list[Any], changes: list[Any], inverse: Any) -> Any:
    """H by its recursion, in full."""
    H = (steps[-1] @ changes[-1]) / (changes[-1] @ inverse @ changes[-1]) * inverse
    for s, t in zip(steps[-MEMORY:], changes[-MEMORY:], strict=True):
        V = np.eye(len(s)) - np.outer(t, s) / (s @ t)
        H = V.T @ H @ V + np.outer(s, s) / (s @ t)
    return H


def points(backend: Backend, x: Any, hessians: list[Any], inverses: list[Any]) -> Point:
    """The points x (K, D C) as a solver has them, on the objectives x'A x / 2."""

    def vectors(rows: list[Any]) -> Any:
        return backend.asarray(np.stack([row.reshape(D, C) for row in rows], axis=1))

    g = [A @ row for A, row in zip(hessians, x, strict=True)]
    return Point(vectors(x), vectors(g), vectors([M @ row for M, row in zip(inverses, g, strict=True)]))


def advance(pairs: Pairs, old: Point, new: Point, accepted: Any, backend: Backend) -> tuple[Any, Any]:
    """Add the pair from `old` to `new`, as a step of the solver does."""
    products = pairs.begin(old, new, backend)
    return pairs.advance(new, products, backend.fetch(*products.arrays), accepted, backend)


@pytest.mark.parametrize("n_pairs", [1, 3, MEMORY, MEMORY + 4])
def test_the_direction_is_that_of_the_recursion(n_pairs: int, backend: Backend, rng: np.random.Generator) -> None:
    K = 2
    hessians, inverses = [quadratic(rng) for _ in range(K)], [np.linalg.inv(quadratic(rng)) for _ in range(K)]
    track = rng.standard_normal((n_pairs + 1, K, D * C))
    pairs = Pairs.none(backend.asarray(np.zeros((D, K, C))), backend)
    for old, new in pairwise(track):
        both = (points(backend, list(one), hessians, inverses) for one in (old, new))
        direction, slope = advance(pairs, *both, np.ones(K, bool), backend)
    found = backend.to_numpy(direction)
    for k in range(K):
        steps = [new[k] - old[k] for old, new in pairwise(track)]
        H = inverse_hessian(steps, [hessians[k] @ s for s in steps], inverses[k])
        g = hessians[k] @ track[-1, k]
        np.testing.assert_allclose(found[:, k].ravel(), H @ g, rtol=1e-9, atol=1e-9)
        assert slope[k] == pytest.approx(g @ H @ g, rel=1e-9)


@pytest.mark.parametrize("finite", [True, False])
def test_a_model_whose_trial_was_rejected_keeps_its_pairs(finite: bool, backend: Backend) -> None:
    rng = np.random.default_rng(1)
    hessians, inverses = [quadratic(rng) for _ in range(2)], [np.eye(D * C)] * 2
    track = rng.standard_normal((5, 2, D * C))
    both, alone = (Pairs.none(backend.asarray(np.zeros((D, K, C))), backend) for K in (2, 1))
    bad = points(backend, list(track[4]), hessians, inverses)
    if not finite:
        bad.x[:, 1], bad.g[:, 1], bad.preconditioned_g[:, 1] = np.nan, np.inf, np.nan
    at = [points(backend, list(one), hessians, inverses) for one in track]
    second = [points(backend, [one[1]], hessians[1:], inverses[1:]) for one in track]
    for i in (0, 1):
        advance(both, at[i], at[i + 1], np.ones(2, bool), backend)
        advance(alone, second[i], second[i + 1], np.ones(1, bool), backend)
    with np.errstate(invalid="ignore"):
        advance(both, at[2], bad, np.array([True, False]), backend)
    found, slopes = advance(both, at[2], at[3], np.array([False, True]), backend)
    expected, slope = advance(alone, second[2], second[3], np.ones(1, bool), backend)
    assert slopes[1] == pytest.approx(slope[0], rel=1e-9)
    np.testing.assert_allclose(backend.to_numpy(found)[:, 1], backend.to_numpy(expected)[:, 0], rtol=1e-9)


def test_a_step_against_the_curvature_gives_no_pair(backend: Backend) -> None:
    rng = np.random.default_rng(2)
    old, new = (points(backend, [rng.standard_normal(D * C)], [-np.eye(D * C)], [np.eye(D * C)]) for _ in range(2))
    pairs = Pairs.none(old.x, backend)
    direction, _ = advance(pairs, old, new, np.ones(1, bool), backend)
    assert (pairs.slots, pairs.gamma.tolist()) == ([], [1.0])
    assert sha256(backend.to_numpy(direction)) == sha256(backend.to_numpy(new.preconditioned_g))


def test_pairs_that_are_forgotten_leave_the_preconditioner_alone(backend: Backend) -> None:
    rng = np.random.default_rng(3)
    A, M = [quadratic(rng)], [np.eye(D * C)]
    first, second = (points(backend, [rng.standard_normal(D * C)], A, M) for _ in range(2))
    pairs = Pairs.none(first.x, backend)
    advance(pairs, first, second, np.ones(1, bool), backend)
    pairs.forget(0)
    direction, _ = advance(pairs, second, second, np.ones(1, bool), backend)  # no step, so no new pair
    np.testing.assert_allclose(backend.to_numpy(direction), backend.to_numpy(second.preconditioned_g), rtol=1e-15)


@pytest.mark.parametrize("d", [1, VECTOR_BLOCK - 1, 3 * VECTOR_BLOCK + 1])
def test_blocks_cover_every_row_once_and_give_the_same_bits_at_any_thread_count(d: int) -> None:
    x, found = np.random.default_rng(0).standard_normal(d), set()
    for threads in (1, 2, 3):
        seen = np.zeros(d, int)

        def part(rows: slice, seen: Any = seen) -> tuple[Any, ...]:
            seen[rows] += 1
            return (np.atleast_1d(x[rows].sum()),)

        found.add(sha256(*get_backend("numpy", threads).sum_over_blocks(part, d, 1)))
        assert (seen == 1).all()
    assert len(found) == 1
