"""Inverses of a sample's Gram matrix plus a penalty, in each form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.solvers.preconditioners import inverses
from gpusoftmax.solvers.preconditioners.inverses import (
    Cholesky,
    Diagonal,
    GramInverse,
    LowRank,
    Spectrum,
    cholesky,
    inverse_factors,
)

NUMPY = get_backend("numpy", n_threads=1)


def test_a_whole_gram_matrix_has_both_triangles(rng: np.random.Generator, backend: Backend) -> None:
    a = rng.standard_normal((20, 700))  # several tiles, and a part of one
    found = backend.to_numpy(backend.linalg.gram(backend.asarray(a), whole=True))
    np.testing.assert_allclose(found, a.T @ a, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "form"), [("cholesky", Cholesky), ("low rank", LowRank)])
@pytest.mark.parametrize("penalty", [0.5, 1e-3])
def test_one_sample_serves_many_penalties(
    kind: str, form: Any, penalty: float, rng: np.random.Generator, backend: Backend
) -> None:
    a = rng.standard_normal((30, 6) if kind == "cholesky" else (4, 9))
    d, asarray = a.shape[1], backend.asarray
    factors, v = rng.random(d) + 0.5, rng.standard_normal((d, 2))
    rows = GramInverse(kind, asarray(a.copy()), asarray(np.ones(d)), backend)
    for l2 in (penalty, 10 * penalty):
        inverse = rows.inverse(l2 * factors)
        assert isinstance(inverse, form)
        expected = np.linalg.solve(a.T @ a + np.diag(l2 * factors), v)
        np.testing.assert_allclose(backend.to_numpy(inverse.solve(asarray(v))), expected, rtol=1e-9)


def test_the_diagonal_form_is_the_diagonal(rng: np.random.Generator) -> None:
    a, v = rng.standard_normal((7, 3)), rng.standard_normal((3, 2))
    inverse = GramInverse("diagonal", a.copy(), np.ones(3), NUMPY).inverse(np.array([0.0, 1.0, 2.0]))
    assert isinstance(inverse, Diagonal)
    np.testing.assert_allclose(inverse.solve(v), v / ((a**2).sum(axis=0) + np.arange(3))[:, None])


@pytest.mark.parametrize("kind", ["cholesky", "low rank", "diagonal"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_leave_the_identity(
    kind: str, bad: float, rng: np.random.Generator, backend: Backend
) -> None:
    a = rng.standard_normal((7, 3))
    a[2, 1] = bad
    inverse = GramInverse(kind, backend.asarray(a), backend.asarray(np.ones(3)), backend).inverse(np.ones(3))
    v = rng.standard_normal((3, 2))
    np.testing.assert_array_equal(backend.to_numpy(inverse.solve(backend.asarray(v))), v)


def test_the_factor_of_a_matrix_that_is_not_positive_is_none(backend: Backend) -> None:
    asarray = backend.asarray
    assert cholesky(asarray(np.diag([1.0, -1.0])), asarray(np.zeros(2)), backend) is None
    # what is above the diagonal is not read
    R = cholesky(asarray(np.array([[4.0, 99.0], [1.0, 2.0]])), asarray(np.array([0.0, 1.0])), backend)
    assert R is not None
    R = backend.to_numpy(R)
    np.testing.assert_allclose(R.T @ R, np.linalg.inv([[4.0, 1.0], [1.0, 3.0]]), rtol=1e-12)


@pytest.mark.usefixtures("gpu")
def test_nan_that_cusolver_lets_pass_is_no_factor() -> None:
    device = get_backend("cuda")
    M = np.eye(3)
    M[1, 0] = np.nan
    assert cholesky(device.asarray(M), device.asarray(np.ones(3)), device) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_several_matrices_each_has_its_factor(dtype: str, rng: np.random.Generator, backend: Backend) -> None:
    """One is not positive definite, one only with a larger jitter, and one is empty."""
    a = rng.standard_normal((9, 4))
    singular = np.outer(a[0], a[0])
    singular /= np.sqrt(np.outer(np.diag(singular), np.diag(singular)))
    given = [(a.T @ a, np.ones(4)), (-np.eye(3), np.zeros(3)), (singular, -1e-13 * np.ones(4)), (np.eye(0), np.ones(0))]
    moved = [(backend.asarray(M.astype(dtype)), backend.asarray(penalty)) for M, penalty in given]
    first, none, lifted, empty = inverse_factors(moved, dtype, backend)
    assert none is None
    assert first.dtype == dtype
    R = backend.to_numpy(first)
    expected = np.linalg.inv(given[0][0] + np.eye(4))
    np.testing.assert_allclose(R.T @ R, expected, rtol=0, atol=100 * float(np.finfo(dtype).eps) * abs(expected).max())
    assert not np.triu(R, 1).any()
    assert np.isfinite(backend.to_numpy(lifted)).all()
    assert empty.shape == (0, 0)


def test_rounding_that_makes_it_indefinite_is_lifted(rng: np.random.Generator, backend: Backend) -> None:
    """A product of rank one in float32 has eigenvalues below zero by some units of rounding."""
    M = np.outer(*[rng.standard_normal(50).astype(np.float32)] * 2)
    assert np.linalg.eigvalsh(M.astype(np.float64)).min() < 0
    M /= np.sqrt(np.outer(np.diag(M), np.diag(M)))
    R = cholesky(backend.asarray(M), backend.asarray(np.zeros(50)), backend)
    assert R is not None
    assert np.isfinite(backend.to_numpy(R)).all()


@pytest.mark.parametrize("layout", ["by rows", "by columns", "every other column"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_equal_numpys(dtype: str, layout: str, rng: np.random.Generator, backend: Backend) -> None:
    a, linalg, to_numpy = rng.standard_normal((70, 300)).astype(dtype), backend.linalg, backend.to_numpy
    moved = backend.asarray(a)
    if layout == "by columns":
        a, moved = a.T, moved.T
    elif layout == "every other column":
        a, moved = a[:, ::2], moved[:, ::2]
    exact = a.astype(np.float64)
    off = 2 * (len(a) + 2) * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.tril(to_numpy(linalg.gram(moved))), np.tril(exact.T @ exact), atol=off * (abs(exact).T @ abs(exact)).max()
    )
    np.testing.assert_allclose(to_numpy(linalg.column_squares(moved)), (exact**2).sum(axis=0), rtol=off)
    Q, S, square = rng.standard_normal((40, 5)).astype(dtype), exact[:40, :40], moved[:40, :40]
    product = to_numpy(linalg.times(square, backend.asarray(Q)))
    np.testing.assert_allclose(product, S @ Q, atol=off * (abs(S) @ abs(Q)).max())


def test_decompositions_are_those_of_the_matrix(rng: np.random.Generator, backend: Backend) -> None:
    A = rng.standard_normal((8, 5))
    M, asarray, to_numpy, linalg = A.T @ A, backend.asarray, backend.to_numpy, backend.linalg
    values, vectors = map(to_numpy, linalg.eigenpairs(asarray(M)))
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(vectors * values @ vectors.T, M, atol=1e-12)
    Q = to_numpy(linalg.orthonormal(asarray(A.copy())))
    np.testing.assert_allclose(Q.T @ Q, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(Q @ (Q.T @ A), A, atol=1e-12)


def test_sums_by_class_equal_those_of_a_loop(rng: np.random.Generator, backend: Backend) -> None:
    labels, s, A = rng.integers(0, 4, 200).astype(np.int32), rng.random(200), rng.random((200, 6)) < 0.3
    moved = [backend.asarray(one) for one in (labels, s, A)]
    of_class = [labels == y for y in range(5)]  # none has the last one
    sums, products = backend.linalg.class_sums(*moved[:2], 5), backend.linalg.class_products(*moved, 5)
    np.testing.assert_allclose(backend.to_numpy(sums), [s[here].sum() for here in of_class], rtol=1e-13)
    np.testing.assert_allclose(backend.to_numpy(products), [s[here] @ A[here] for here in of_class], rtol=1e-13)


def test_the_gram_matrix_has_the_same_bits_at_any_thread_count(rng: np.random.Generator) -> None:
    a = rng.standard_normal((70, 1000)).astype(np.float32)
    grams = [get_backend("numpy", threads).linalg.gram(a) for threads in (1, 2, 7)]
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
