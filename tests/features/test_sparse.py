"""Sparse features give the results of dense ones, to rounding, and the same bits for any number of threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from gpusoftmax import reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.features import sparse
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.features.read import read_features
from gpusoftmax.features.sparse import SparseFeatures, SparseMatrix
from gpusoftmax.losses import LOSSES
from tests.support.cases import (
    DETERMINISTIC,
    Problem,
    answer,
    assert_within,
    random_problem,
    score_bound,
    sha256,
)

Array = np.ndarray[Any, Any]


def sparse_problem(seed: int, density: float = 0.3, ones: bool = False, **options: Any) -> Problem:
    """A problem most of whose features are zero; some rows and columns are empty. With `ones`, the others are 1."""
    problem = random_problem(seed, **options)
    rng = np.random.default_rng(seed + 1)
    X = np.ascontiguousarray(problem.X) * (rng.random(problem.X.shape) < density).astype(problem.X.dtype)
    X[rng.random(len(X)) < 0.1] = 0
    X[:, rng.random(X.shape[1]) < 0.1] = 0
    return replace(problem, X=(X != 0).astype(X.dtype) if ones else X)


def features_of(problem: Problem, backend: Backend) -> SparseFeatures:
    found = read_features(csr_array(problem.X), backend)
    assert isinstance(found, SparseFeatures)
    return found.select(problem.rows)


@pytest.fixture
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts even small problems into panels."""
    monkeypatch.setattr(sparse, "SMALLEST_PANEL", 16)
    monkeypatch.setattr(sparse, "ENTRIES_PER_FEATURE", 0)


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float64", "float32", "uint8"]),
    ones=st.booleans(),
    n=st.integers(1, 60),
    d=st.sampled_from([1, 3, 17, 64]),
    c=st.sampled_from([2, 3, 5, 10, 57, 130]),
    K=st.integers(1, 3),
    loss=st.sampled_from(list(LOSSES)),
    weighted=st.booleans(),
    n_rows=st.one_of(st.none(), st.integers(1, 70)),
)
@DETERMINISTIC
@pytest.mark.usefixtures("small_panels")
def test_sums_over_rows_are_those_of_the_reference(backend: Backend, seed: int, **options: Any) -> None:
    problem = sparse_problem(seed, **options)
    expected, allowed = answer(problem)
    features, asarray = features_of(problem, backend), backend.asarray
    arguments = [None if x is None else asarray(x) for x in (problem.labels, problem.W, problem.b, problem.weights)]
    losses, correct, dW, db = map(backend.to_numpy, features.gradient(*arguments, problem.loss))
    assert (dW.dtype, db.dtype, losses.dtype) == (problem.W.dtype, problem.W.dtype, np.float64)
    for name, found in (("losses", losses), ("correct", correct), ("dW", dW), ("db", db)):
        assert_within(found, getattr(expected, name), getattr(allowed, name), name)
    alone = features.losses(*arguments, problem.loss)
    assert_within(backend.to_numpy(alone[0]), expected.losses, allowed.losses, "losses")
    assert_within(backend.to_numpy(alone[1]), expected.correct, allowed.correct, "correct")


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
@pytest.mark.parametrize("rows", [None, 25], ids=["all rows", "some rows"])
def test_scores_probabilities_and_best_classes(backend: Backend, dtype: str, ones: bool, rows: int | None) -> None:
    problem = sparse_problem(3, dtype=dtype, ones=ones, n=40, d=20, c=7, K=2, n_rows=rows)
    features, W, b = features_of(problem, backend), backend.asarray(problem.W), backend.asarray(problem.b)
    picked = np.arange(40) if problem.rows is None else problem.rows
    Z = reference.scores(problem.X[picked].astype(np.float64), problem.W.astype(np.float64), problem.b.astype(float))
    off = score_bound(problem)[picked]
    assert_within(backend.to_numpy(features.scores(W, b)), Z, off)
    p = np.exp(Z - Z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    # exp of a score that is off, and some 10 roundings of the exponential and the sum
    relative = np.expm1(2 * off.max(axis=2, keepdims=True) + 10 * np.finfo(W.dtype).eps)
    assert_within(backend.to_numpy(features.probabilities(W, b)), p, relative * p)
    top = np.sort(Z, axis=2)
    clear = top[:, :, -1] - top[:, :, -2] > 2 * off.max(axis=2)
    assert (backend.to_numpy(features.best(W, b)) == Z.argmax(axis=2))[clear].all()


def test_best_classes_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = sparse_problem(5, n=50, d=9, c=4)
    features = features_of(problem, get_backend("auto", 2))
    expected = features.best(problem.W, problem.b)
    monkeypatch.setattr(sparse, "SCORE_BYTES", 7 * problem.b.nbytes)
    assert (features.best(problem.W, problem.b) == expected).all()
    chosen = features.select(np.array([40, 3, 3, 17] * 5))
    assert (chosen.best(problem.W, problem.b) == expected[[40, 3, 3, 17] * 5]).all()


def test_a_selection_in_any_order_with_repeated_rows_counts_each_of_them(backend: Backend, small_panels: None) -> None:
    problem = sparse_problem(7, n=50, d=12, c=3, dtype="float64")
    rows = np.array([30, 2, 2, 49, 17, 2, 16, 30])
    by_weight = np.bincount(rows, minlength=50).astype(float)[:, None]
    selected, weighted = features_of(replace(problem, rows=rows), backend), features_of(problem, backend)
    labels, W, b, s = map(backend.asarray, (problem.labels, problem.W, problem.b, by_weight))
    for found, expected in zip(
        selected.gradient(labels, W, b, None, 0), weighted.gradient(labels, W, b, s, 0), strict=True
    ):
        # the same terms in another order: some 50 roundings of numbers of about 1
        np.testing.assert_allclose(backend.to_numpy(found), backend.to_numpy(expected), atol=50 * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("K", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(dtype: str, K: int, small_panels: None) -> None:
    problem = sparse_problem(11, n=300, d=40, c=20, K=K, dtype=dtype, weighted=True)

    def digest(n_threads: int) -> str:
        features = features_of(problem, get_backend("auto", n_threads))
        centred = features.with_scaling(np.full(40, 0.5), np.full(40, 2.0))
        W, b = centred.fold(problem.W, problem.b)
        sums = features.gradient(problem.labels, W, b, problem.weights, 0)
        weights = np.ascontiguousarray(problem.weights[:, 0]).astype(float)
        return sha256(*sums, *features.moments(weights, None), features.scores(W, b), features.probabilities(W, b))

    assert len({digest(n_threads) for n_threads in (1, 2, 3, 7)}) == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_moments_count_the_zeros(
    backend: Backend, dtype: str, selected: bool, weighted: bool, small_panels: None
) -> None:
    rng = np.random.default_rng(2)
    problem = sparse_problem(13, n=70, d=11, dtype=dtype)
    X = np.ascontiguousarray(problem.X)
    X[:, 3] = 3  # a column that is constant
    features = read_features(csr_array(X), backend)
    rows = np.sort(rng.choice(70, 40, replace=False)) if selected else np.arange(70)
    s = rng.random(70) + 0.1 if weighted else np.ones(70)
    features = features.select(rows) if selected else features
    mean, variance = map(backend.to_numpy, features.moments(backend.asarray(s) if weighted else None, None))
    x, w = X[rows].astype(np.float64), s[rows] / s[rows].sum()
    sizes = abs(x).max(axis=0) + 1
    # float64 sums of 70 terms: 70 roundings at most, each relative to the largest entry or its square
    assert_within(mean, w @ x, 70 * np.finfo(float).eps * sizes, "mean")
    assert_within(variance, w @ (x - w @ x) ** 2, 70 * np.finfo(float).eps * sizes**2, "variance")
    assert variance[3] <= (70 * np.finfo(float).eps * 3) ** 2  # recognised as constant, whatever the weights


def test_the_variance_of_numbers_far_from_zero_keeps_its_digits() -> None:
    x = 1e6 + np.random.default_rng(0).standard_normal(500)
    features = read_features(csr_array(x[:, None]), get_backend("auto", 1))
    _, variance = features.moments(None, None)
    # relative error: the mean of numbers of 1e6 is off by 1e-10, and that is squared
    assert variance[0] == pytest.approx(x.var(), rel=1e-9)


def test_sums_of_label_differences_and_of_columns(backend: Backend, small_panels: None) -> None:
    problem = sparse_problem(17, n=60, d=10, c=4, dtype="float64")
    rng, asarray = np.random.default_rng(0), backend.asarray
    P, s, w = rng.random((60, 4)), rng.random(60), np.array([1.0, 2.0, 0.5, 1.0])
    P /= P.sum(axis=1, keepdims=True)
    rows = np.array([5, 59, 5, 31, 12])
    dense = DenseFeatures(asarray(problem.X), backend).select(rows)
    found, expected = features_of(replace(problem, rows=rows), backend), dense
    for proportions in (None, asarray(P)):
        arguments = asarray(problem.labels), asarray(s), asarray(w), proportions
        for one, other in zip(found.label_sums(*arguments), expected.label_sums(*arguments), strict=True):
            np.testing.assert_allclose(*map(backend.to_numpy, (one, other)), atol=1e-13)  # 5 terms of about 1
    Q = asarray(rng.random((5, 3)))
    for squared in (False, True):
        one, other = found.column_products(Q, squared), expected.column_products(Q, squared)
        np.testing.assert_allclose(*map(backend.to_numpy, (one, other)), atol=1e-13)


@pytest.mark.parametrize("ones", [False, True])
def test_gram_matrices_of_some_columns(backend: Backend, ones: bool) -> None:
    problem = sparse_problem(19, n=60, d=10, dtype="float32", ones=ones)
    columns, rows = np.array([8, 1, 5]), np.array([3, 3, 40, 20, 59])
    weights = np.array([1.0, 2.0, 0.5, 1e-9, 3.0])
    for features in (features_of(problem, backend), DenseFeatures(backend.asarray(problem.X), backend)):
        found = features.select(rows).gram_of_columns(columns, weights, 1e-8)
        x = problem.X[rows[weights > 1e-8]][:, columns].astype(float)
        expected = (x * weights[weights > 1e-8, None]).T @ x
        np.testing.assert_allclose(np.tril(found), np.tril(expected), rtol=1e-12)


def test_sampled_rows_are_shifted_and_scaled(backend: Backend) -> None:
    problem = sparse_problem(23, n=30, d=8, dtype="float32")
    shift, scale, rows = np.linspace(0, 1, 8), np.linspace(1, 2, 8), np.array([29, 0, 7, 7])
    features = features_of(problem, backend).with_scaling(shift, scale)
    expected = (problem.X[rows].astype(np.float64) - shift) / scale
    assert (features.sample(rows) == expected).all()


def test_nan_in_rows_that_are_not_selected_has_no_effect(backend: Backend, small_panels: None) -> None:
    problem = sparse_problem(29, n=40, d=6, c=3, dtype="float32")
    X = np.ascontiguousarray(problem.X)
    X[20], X[33, 2] = np.nan, np.inf
    rows = np.setdiff1d(np.arange(40), [20, 33])
    labels, W, b = map(backend.asarray, (problem.labels, problem.W, problem.b))
    clean = features_of(replace(problem, rows=rows), backend)
    features = read_features(csr_array(X), backend)
    with pytest.raises(ValueError, match=r"Input X contains NaN: X\[20, 0\] is nan"):
        features.check_finite()
    again = features.select(rows).select(np.array([20]))  # replaces the earlier selection
    assert np.isnan(backend.to_numpy(again.scores(W, b))).all()
    features = features.select(rows)
    for found, expected in zip(
        features.gradient(labels, W, b, None, 0), clean.gradient(labels, W, b, None, 0), strict=True
    ):
        np.testing.assert_array_equal(*map(backend.to_numpy, (found, expected)))


def test_the_first_entry_that_is_not_finite_is_named_by_row_and_column() -> None:
    X = csr_array((np.array([1.0, np.inf, np.nan]), np.array([1, 2, 0]), np.array([0, 1, 1, 3])), (3, 4))
    features = read_features(X, get_backend("auto", 1))
    with pytest.raises(ValueError, match=r"validation contains NaN: validation\[2, 0\]"):
        features.check_finite("validation")


def test_the_largest_entry_of_a_column() -> None:
    X = csr_array(np.array([[0.0, 2.0, 0.0], [1.0, -5.0, 0.0], [0.0, 3.0, 0.0]]))
    features = read_features(X, get_backend("auto", 1))
    assert (features.largest(1), features.largest(2), features.largest(0)) == ((1, -5.0), (0, 0.0), (1, 1.0))


def test_features_of_another_type_are_computed_in_the_type_of_the_first(backend: Backend) -> None:
    problem = sparse_problem(31, n=20, d=5, dtype="uint8", ones=True)
    narrow = features_of(problem, backend)
    assert narrow.dtype == np.float32
    assert narrow.X.on_host.values is None  # ones are not stored
    wide = narrow.in_type_of(DenseFeatures(backend.asarray(np.ones((2, 5))), backend))
    assert wide.dtype == np.float64
    W, b = backend.asarray(problem.W.astype(np.float64)), backend.asarray(problem.b.astype(np.float64))
    expected = reference.scores(problem.X.astype(float), problem.W.astype(float), problem.b.astype(float))
    np.testing.assert_allclose(backend.to_numpy(wide.scores(W, b)), expected, rtol=1e-13, atol=1e-13)


def test_panels_depend_on_the_shape_and_the_entries_alone() -> None:
    X = csr_array((np.ones(9000), np.zeros(9000, int), np.arange(9001)), (9000, 50))
    narrow = SparseMatrix(X, get_backend("auto", 3))
    assert narrow.panels == [slice(0, 4096), slice(4096, 8192), slice(8192, 9000)]
    wide = csr_array((np.ones(9000), np.zeros(9000, int), np.arange(9001)), (9000, 5000))
    assert SparseMatrix(wide, get_backend("auto", 3)).panels == [slice(0, 9000)]


def test_bytes_include_the_columns_once_they_are_made() -> None:
    features = features_of(sparse_problem(37, n=50, d=6, dtype="float32"), get_backend("auto", 1))
    entries, before = len(features.X.on_host.indices), features.nbytes
    assert before == 8 * entries + 8 * 51
    features.moments(None, None)
    assert features.nbytes == 2 * 8 * entries + 8 * 51 + 8 * 7


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "bool"])
def test_entries_are_read_in_place(dtype: str) -> None:
    X = csr_array(3 * np.eye(5, dtype=np.float64)).astype(dtype)
    X.data[0], X.indptr = 0, X.indptr.astype(np.int64)  # as matrices with many entries have it
    found = read_features(X, get_backend("auto", 1)).X.on_host
    assert np.shares_memory(found.values, X.data)
    assert np.shares_memory(found.indices, X.indices)
    assert np.shares_memory(found.indptr, X.indptr)
