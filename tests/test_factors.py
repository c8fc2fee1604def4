"""Inverses of a sample's Gram matrix with a penalty, in each form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import resolve
from gpusoftmax.solvers.factors import Cholesky, Diagonal, LowRank, Rows, cholesky, gram

NUMPY = resolve("numpy", n_threads=1)


@pytest.mark.parametrize(("kind", "form"), [("cholesky", Cholesky), ("low rank", LowRank)])
@pytest.mark.parametrize("penalty", [0.5, 1e-3])
def test_one_sample_serves_many_penalties(kind: str, form: Any, penalty: float, rng: np.random.Generator) -> None:
    a = rng.standard_normal((30, 6) if kind == "cholesky" else (4, 9))
    d = a.shape[1]
    factors, v = rng.random(d) + 0.5, rng.standard_normal((d, 2))
    rows = Rows(kind, a.copy(), np.ones(d), NUMPY, 1)
    for l2 in (penalty, 10 * penalty):
        inverse = rows.inverse(l2 * factors)
        assert isinstance(inverse, form)
        np.testing.assert_allclose(inverse.solve(v), np.linalg.solve(a.T @ a + np.diag(l2 * factors), v), rtol=1e-9)


def test_the_diagonal_form_is_the_diagonal(rng: np.random.Generator) -> None:
    a, v = rng.standard_normal((7, 3)), rng.standard_normal((3, 2))
    inverse = Rows("diagonal", a.copy(), np.ones(3), NUMPY, 1).inverse(np.array([0.0, 1.0, 2.0]))
    assert isinstance(inverse, Diagonal)
    np.testing.assert_allclose(inverse.solve(v), v / ((a**2).sum(axis=0) + np.arange(3))[:, None])


def test_the_factor_of_a_matrix_that_is_not_positive_is_none() -> None:
    assert cholesky(np.diag([1.0, -1.0]), np.zeros(2)) is None
    R = cholesky(np.array([[4.0, 99.0], [1.0, 2.0]]), np.array([0.0, 1.0]))  # what is above the diagonal is not read
    assert R is not None
    np.testing.assert_allclose(R.T @ R, np.linalg.inv([[4.0, 1.0], [1.0, 3.0]]), rtol=1e-12)


def test_rounding_that_makes_it_indefinite_is_lifted(rng: np.random.Generator) -> None:
    """A product of rank one in float32 has eigenvalues below zero by some units of rounding."""
    M = np.outer(*[rng.standard_normal(50).astype(np.float32)] * 2)
    assert np.linalg.eigvalsh(M.astype(np.float64)).min() < 0
    R = cholesky(M / np.sqrt(np.outer(np.diag(M), np.diag(M))), np.zeros(50))
    assert R is not None
    assert np.isfinite(R).all()


def test_the_gram_matrix_has_the_same_bits_at_any_thread_count(rng: np.random.Generator) -> None:
    a = rng.standard_normal((70, 1000)).astype(np.float32)
    grams = [gram(a, threads) for threads in (1, 2, 7)]
    np.testing.assert_allclose(np.tril(grams[0]), np.tril(a.T @ a), rtol=1e-4, atol=1e-4)
    assert len({np.tril(product).tobytes() for product in grams}) == 1


def test_a_solve_that_threads_share_is_right_and_has_the_same_bits_at_any_thread_count(
    rng: np.random.Generator,
) -> None:
    R, v = np.tril(rng.standard_normal((1500, 1500))), rng.standard_normal((1500, 3))
    solutions = [Cholesky(R, threads).solve(v) for threads in (1, 2, 7)]
    np.testing.assert_allclose(solutions[0], R.T @ (R @ v), rtol=1e-9, atol=1e-9)
    assert len({solution.tobytes() for solution in solutions}) == 1
