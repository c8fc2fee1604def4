"""Products and sums of sparse matrices on the CPU: against NumPy in float64, at every edge of the kernels."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu.sparse_kernels import MOST_VECTORS, SEGMENT
from gpusoftmax.cpu.vectors import MACHINE
from gpusoftmax.operations import SparseRows
from tests.support.cases import assert_within, sha256

Array = np.ndarray[Any, Any]
TYPES = [
    ("float64", "float64"), ("float64", "float32"), ("float64", "uint8"), ("float64", None), ("float32", "float32"),
    ("float32", "uint8"), ("float32", None),
]  # fmt: skip
# one number, less and more than a vector, as many vectors as are summed at a time, and one more
LENGTHS = sorted({1, 2, 3, 20, *(MOST_VECTORS * MACHINE.vector // 4 + i for i in (-1, 0, 1))})


def sparse_rows(X: Any, values: str | None) -> SparseRows:
    """The entries of a csr_array, with values of this type, or all 1."""
    stored = None if values is None else X.data.astype(values)
    return SparseRows(X.indptr.astype(np.int64), X.indices.astype(np.int32), stored, X.shape[1])


def matrix(n: int, d: int, density: float, values: str | None, seed: int = 0) -> tuple[SparseRows, Array]:
    """A random sparse matrix, and the same one as an array in float64."""
    rng = np.random.default_rng(seed)
    X = random_array((n, d), density=density, rng=rng, format="csr")
    X.data[:] = 1 if values is None else rng.integers(1, 200, X.nnz)
    return sparse_rows(X, values), X.toarray()


def bound(X: Array, M: Array, eps: float) -> Array:
    """How much a product may be off: m + 1 roundings of either sign, each eps times the sum of the sizes; margin 4."""
    terms = (X != 0).sum(axis=1)[:, None]
    return 4 * np.sqrt(terms + 2) * eps * (abs(X) @ abs(M) + 1)


@pytest.mark.parametrize(("computed", "values"), TYPES)
@pytest.mark.parametrize("q", LENGTHS)
def test_products_are_those_of_the_dense_matrix(
    cpu_backend: Backend, computed: str, values: str | None, q: int
) -> None:
    A, X = matrix(90, 40, 0.15, values)
    rng, eps = np.random.default_rng(1), np.finfo(computed).eps
    M, bias = rng.standard_normal((40, q)).astype(computed), rng.standard_normal(q).astype(computed)
    product, allowed = cpu_backend.ops.sparse_product, bound(X, M, eps) + eps * abs(bias)
    found = product(A, M, bias)
    assert found.dtype == M.dtype
    assert_within(found, X @ M.astype(float) + bias, allowed, "with bias")
    assert_within(product(A, M), X @ M.astype(float), allowed, "without bias")
    rows = np.array([89, 3, 3, 0])
    assert_within(product(A, M, bias, rows), (X @ M.astype(float) + bias)[rows], allowed[rows], "some rows")
    assert_within(product(A, M, squared=True), (X * X) @ M.astype(float), bound(X * X, M, eps), "squared")
    part = SparseRows(A.indptr[20:71], A.indices, A.values, A.width)
    assert_within(product(part, M), (X @ M.astype(float))[20:70], allowed[20:70], "a slice of rows")


@pytest.mark.compiled
@pytest.mark.parametrize("entries", [SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 1])
@pytest.mark.parametrize("q", [1, 20])
def test_long_rows_are_summed_in_segments(entries: int, q: int) -> None:
    """Bit by bit: each segment in the order of its entries, and the segments one after another."""
    rng = np.random.default_rng(2)
    x, M = rng.standard_normal(entries).astype(np.float32), rng.standard_normal((entries, q)).astype(np.float32)
    bias = np.ones(q, np.float32)
    product = get_backend("cpu", 1).ops.sparse_product
    found = product(sparse_rows(csr_array(x[None]), "float32"), M, bias)
    expected = bias[None]
    for start in range(0, entries, SEGMENT):
        part = slice(start, start + SEGMENT)
        expected = product(sparse_rows(csr_array(x[None, part]), "float32"), M[part], expected[0])
    assert (found == expected).all()


def test_rows_without_entries_are_the_bias(cpu_backend: Backend) -> None:
    A, bias = sparse_rows(csr_array((5, 4)), "float32"), np.arange(3, dtype=np.float32)
    M = np.full((4, 3), np.nan, np.float32)
    assert (cpu_backend.ops.sparse_product(A, M, bias) == bias).all()
    assert (cpu_backend.ops.sparse_product(A, M) == 0).all()


def test_infinite_and_nan_values_stay_in_their_rows(cpu_backend: Backend) -> None:
    X = csr_array(np.array([[1.0, np.nan, 0], [2.0, 0, 0], [0, 0, np.inf]], np.float32))
    found = cpu_backend.ops.sparse_product(sparse_rows(X, "float32"), np.ones((3, 9), np.float32))
    assert np.isnan(found[0]).all()
    assert (found[1] == 2).all()
    assert np.isinf(found[2]).all()


@pytest.mark.compiled
@pytest.mark.parametrize("q", [2, 20, 100])
def test_any_number_of_threads_gives_the_same_products(q: int) -> None:
    A, _ = matrix(500, 60, 0.2, "float32")
    M = np.random.default_rng(0).standard_normal((60, q)).astype(np.float32)
    assert len({sha256(get_backend("auto", n).ops.sparse_product(A, M)) for n in (1, 2, 3, 7)}) == 1


@pytest.mark.parametrize("values", ["float64", "float32", "uint8", None])
def test_sums_over_the_entries_of_columns(cpu_backend: Backend, values: str | None) -> None:
    columns, X = matrix(40, 70, 0.3, values, seed=3)
    rng = np.random.default_rng(4)
    s, centre = rng.random(70), rng.random(40)
    there = X != 0
    found = cpu_backend.ops.sparse_column_sums(columns, s, centre)
    expected = np.stack([there @ s, X @ s, (there * (X - centre[:, None]) ** 2) @ s], axis=1)
    np.testing.assert_allclose(found, expected, rtol=70 * np.finfo(float).eps)  # positive sums of 70 terms at most
    assert sha256(found) == sha256(get_backend(cpu_backend.name, 3).ops.sparse_column_sums(columns, s, centre))


@pytest.mark.parametrize("values", ["float64", "float32", "uint8", None])
def test_gram_matrices_leave_out_light_rows(cpu_backend: Backend, values: str | None) -> None:
    A, X = matrix(70, 40, 0.3, values, seed=5)
    s, columns = np.random.default_rng(6).random(70), np.array([30, 2, 17, 8])
    found = cpu_backend.ops.sparse_gram(A, s, columns, 0.5)
    x = X[s > 0.5][:, columns]
    expected = (x * s[s > 0.5, None]).T @ x
    np.testing.assert_allclose(np.tril(found), np.tril(expected), rtol=70 * np.finfo(float).eps)


@pytest.mark.compiled
def test_entries_beyond_32_bits() -> None:
    """Rows whose entries lie far behind 2^32, in memory that is reserved and, but for a few pages, never touched."""
    far = 2**32 + 5
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, 4 * (far + 100), flags=flags)
    except (AttributeError, OSError) as error:
        pytest.skip(f"no 16 GB of address space: {error}")
    indices = np.frombuffer(memory, np.int32)
    indices[far : far + 3] = [1, 3, 2]
    A = SparseRows(np.array([far, far + 2, far + 3]), indices, None, 4)
    M = np.arange(80, dtype=np.float32).reshape(4, 20)
    found = get_backend("cpu", 2).ops.sparse_product(A, M)
    assert (found == np.stack([M[1] + M[3], M[2]])).all()
