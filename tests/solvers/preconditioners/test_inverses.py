"""Inverses of a sample's Gram matrix plus a penalty, in each form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import get_backend
from gpusoftmax.solvers.preconditioners import inverses
from gpusoftmax.solvers.preconditioners.inverses import (
    Cholesky,
    Diagonal,
    GramInverse,
    LowRank,
    Spectrum,
    cholesky,
    gram,
)

NUMPY = get_backend("numpy", n_threads=1)


@pytest.mark.parametrize(("kind", "form"), [("cholesky", Cholesky), ("low rank", LowRank)])
@pytest.mark.parametrize("penalty", [0.5, 1e-3])
def test_one_sample_serves_many_penalties(kind: str, form: Any, penalty: float, rng: np.random.Generator) -> None:
    a = rng.standard_normal((30, 6) if kind == "cholesky" else (4, 9))
    d = a.shape[1]
    factors, v = rng.random(d) + 0.5, rng.standard_normal((d, 2))
    rows = GramInverse(kind, a.copy(), np.ones(d), NUMPY)
    for l2 in (penalty, 10 * penalty):
        inverse = rows.inverse(l2 * factors)
        assert isinstance(inverse, form)
        np.testing.assert_allclose(inverse.solve(v), np.linalg.solve(a.T @ a + np.diag(l2 * factors), v), rtol=1e-9)


def test_the_diagonal_form_is_the_diagonal(rng: np.random.Generator) -> None:
    a, v = rng.standard_normal((7, 3)), rng.standard_normal((3, 2))
    inverse = GramInverse("diagonal", a.copy(), np.ones(3), NUMPY).inverse(np.array([0.0, 1.0, 2.0]))
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
    grams = [gram(a, get_backend("numpy", threads)) for threads in (1, 2, 7)]
    np.testing.assert_allclose(np.tril(grams[0]), np.tril(a.T @ a), rtol=1e-4, atol=1e-4)
    assert len({np.tril(product).tobytes() for product in grams}) == 1


def test_a_solve_that_threads_share_is_right_and_has_the_same_bits_at_any_thread_count(
    rng: np.random.Generator,
) -> None:
    R, v = np.tril(rng.standard_normal((1500, 1500))), rng.standard_normal((1500, 3))
    solutions = [Cholesky(R, get_backend("numpy", threads)).solve(v) for threads in (1, 2, 7)]
    np.testing.assert_allclose(solutions[0], R.T @ (R @ v), rtol=1e-9, atol=1e-9)
    assert len({solution.tobytes() for solution in solutions}) == 1


@pytest.mark.parametrize("l2", [0.0, 0.1, 10.0])
def test_a_spectrum_inverts_what_its_eigenpairs_and_an_even_tail_make_up(
    l2: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverses, "RANK", 3)
    d, r = 100, rng.random(100) + 0.5
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    S = basis * np.append([50.0, 20.0, 10.0], np.full(d - 3, 0.02)) @ basis.T
    a = np.linalg.cholesky(S).T * np.sqrt(r)
    inverse = Spectrum(a.copy(), r, NUMPY).inverse(l2 * r)
    v = rng.standard_normal((d, 2))
    expected = np.linalg.solve(a.T @ a + l2 * np.diag(r), v)
    # two powers leave (0.02 / 10)^2 of the tail in the vectors, which counts by its square
    np.testing.assert_allclose(inverse.solve(v), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_a_spectrum_is_positive_definite_in_float32_however_weak_the_penalty(rng: np.random.Generator) -> None:
    a = (rng.standard_normal((2000, 600)) * 10.0 ** -np.linspace(0, 3, 600)).astype(np.float32)
    inverse = Spectrum(a, np.ones(600), NUMPY).inverse(np.full(600, 1e-12))
    for v in rng.standard_normal((20, 600, 1)).astype(np.float32):
        assert float((v * inverse.solve(v)).sum(dtype=np.float64)) > 0


@pytest.mark.slow
def test_a_spectrum_has_the_same_bits_at_any_thread_count(rng: np.random.Generator) -> None:
    a = rng.standard_normal((700, 640)).astype(np.float32)
    spectra = [Spectrum(a.copy(), np.ones(640), get_backend("numpy", threads)) for threads in (1, 2, 7)]
    assert len({spectrum.V.tobytes() + spectrum.values.tobytes() for spectrum in spectra}) == 1


@pytest.mark.slow
def test_a_spectrum_of_low_rank_is_positive_definite() -> None:
    """Beyond the rank eigenvalues are rounding, of either sign."""
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((900, 20)) @ rng.standard_normal((20, 700))).astype(np.float32)
    for l2 in (1e-3, 1e-8):
        inverse = Spectrum(a.copy(), np.ones(700), NUMPY).inverse(np.full(700, l2))
        for v in rng.standard_normal((20, 700, 1)).astype(np.float32):
            assert float((v * inverse.solve(v)).sum(dtype=np.float64)) > 0


def test_a_low_rank_solve_that_threads_share_is_right_and_has_the_same_bits_at_any_thread_count(
    rng: np.random.Generator,
) -> None:
    V, v = np.linalg.qr(rng.standard_normal((1500, 300)))[0], rng.standard_normal((1500, 3))
    root, shrink = rng.random((1500, 1)) + 0.5, rng.random((300, 1))
    backends = [None, *(get_backend("numpy", threads) for threads in (1, 2, 7))]
    solutions = [LowRank(root, V, shrink, backend).solve(v) for backend in backends]
    np.testing.assert_allclose(solutions[1], solutions[0], rtol=1e-10, atol=1e-12)
    assert len({solution.tobytes() for solution in solutions[1:]}) == 1
