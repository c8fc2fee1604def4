"""Sparse matrices of every kind become one canonical form, without copies where none are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from gpusoftmax.checks.sparse import check_sparse, is_sparse

DENSE = np.array([[0, 2.0, 0, 1], [0, 0, 0, 0], [3, 0, 5, 0]])


def csr(**arrays: Any) -> Any:
    """DENSE, with some of its arrays replaced after it is made."""
    found = sparse.csr_array(DENSE)
    for name, array in arrays.items():
        setattr(found, name, np.array(array))
    return found


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix])
def test_every_kind_becomes_csr(kind: str, container: Any) -> None:
    X = container(DENSE).asformat(kind)
    assert is_sparse(X)
    found = check_sparse(X)
    assert isinstance(found, sparse.csr_array)
    assert (found.toarray() == DENSE).all()
    assert (X.toarray() == DENSE).all()


@pytest.mark.parametrize("X", [DENSE, DENSE.tolist(), None, "text", np.array(DENSE, object)], ids=str)
def test_nothing_else_is_sparse(X: Any) -> None:
    assert not is_sparse(X)


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "bool"])
def test_canonical_matrices_share_their_arrays(dtype: str) -> None:
    X = sparse.csr_array(DENSE.astype(dtype))
    found = check_sparse(X)
    assert np.shares_memory(found.data, X.data)
    assert np.shares_memory(found.indices, X.indices)
    assert found.dtype == ("uint8" if dtype == "bool" else dtype)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int8", "float32"), ("uint16", "float32"), ("int32", "float64"), ("int64", "float64"), (">f4", "float32"),
     (">f8", "float64"), ("longdouble", "float64")],
)  # fmt: skip
def test_other_types_are_converted_as_those_of_arrays_are(dtype: str, expected: str) -> None:
    X = sparse.csr_array(DENSE)
    X.data = X.data.astype(dtype)
    found = check_sparse(X)
    assert found.dtype == expected
    assert found.dtype.isnative
    assert (found.toarray() == DENSE).all()


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("indptr", ["int32", "int64"])
@pytest.mark.parametrize("writeable", [True, False])
def test_a_matrix_out_of_order_is_left_as_it_is(container: Any, dtype: str, indptr: str, writeable: bool) -> None:
    X = container((np.array([4, 1, 2, 3, 5]).astype(dtype), [3, 0, 2, 2, 1], [0, 2, 5]), (2, 4))
    X.indptr = X.indptr.astype(indptr)  # as its users may assign it
    before = [array.copy() for array in (X.data, X.indices, X.indptr)]
    for array in (X.data, X.indices, X.indptr):
        array.setflags(write=writeable)
    found = check_sparse(X)
    dense = np.array([[1, 0, 0, 4], [0, 5, 5, 0]]) if dtype != "bool" else np.array([[1, 0, 0, 1], [0, 1, 2, 0]])
    assert (found.toarray() == dense).all()
    for array, old in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("flags", [True, False])
def test_unsorted_columns_and_duplicates_are_put_right_in_a_copy(flags: bool) -> None:
    X = csr(data=[1.0, 2.0, 4.0, 5.0, 3.0, -1.0], indices=[3, 1, 2, 2, 0, 2], indptr=[0, 2, 2, 6])
    X.has_sorted_indices = X.has_canonical_format = flags  # which may be wrong
    found = check_sparse(X)
    assert (found.indices.tolist(), found.data.tolist()) == ([1, 3, 0, 2], [2, 1, 3, 8])
    assert (X.indices.tolist(), X.data.tolist()) == ([3, 1, 2, 2, 0, 2], [1, 2, 4, 5, 3, -1])


@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
@pytest.mark.parametrize(("dtype", "value"), [("float64", 2.5), ("uint8", 200), ("int8", 100), ("bool", 1)])
def test_duplicates_are_added_up_without_overflow(kind: str, dtype: str, value: float) -> None:
    values = np.full(3, value).astype(dtype)
    indices, starts = np.array([1, 1, 1]), np.array([0, 3])
    X = {
        "coo": lambda: sparse.coo_array((values, (0 * indices, indices)), (1, 2)),
        "csr": lambda: sparse.csr_array((values, indices, starts), (1, 2)),
        "csc": lambda: sparse.csc_array((values, 0 * indices, [0, 0, 3]), (1, 2)),
    }[kind]()
    assert check_sparse(X).toarray().tolist() == [[0, 3 * value]]


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_small_values_take_one_byte_in_any_kind_and_order(kind: str, dtype: str) -> None:
    X = sparse.csr_array((np.ones(3, dtype), [2, 0, 1], [0, 2, 3]), (2, 3)).asformat(kind)
    found = check_sparse(X)
    assert found.dtype == np.uint8
    assert found.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]


def test_explicit_zeros_and_numbers_that_are_not_finite_stay() -> None:
    X = csr(data=[0.0, np.nan, np.inf, 1.0])
    np.testing.assert_array_equal(check_sparse(X).data, X.data)


def test_read_only_arrays_are_taken() -> None:
    X = sparse.csr_array(DENSE)
    for array in (X.data, X.indices, X.indptr):
        array.setflags(write=False)
    assert (check_sparse(X).toarray() == DENSE).all()


def test_pointers_and_indices_of_64_bits_are_taken() -> None:
    X = sparse.csr_array(DENSE)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    assert (check_sparse(X).toarray() == DENSE).all()


def test_spare_room_behind_the_entries_is_ignored() -> None:
    X = csr(data=[2.0, 1, 3, 5, np.nan, 7], indices=[1, 3, 0, 2, 99, -7])
    found = check_sparse(X)
    assert found.data[: found.indptr[-1]].tolist() == [2, 1, 3, 5]
    X.indices[:2] = 3, 1  # not in order
    assert check_sparse(X).data.tolist() == [1, 2, 3, 5]
    matrix = sparse.csr_matrix(DENSE)
    matrix.data = np.append(matrix.data, np.nan)
    assert check_sparse(matrix).data.tolist() == [2, 1, 3, 5]


DAMAGED = {
    "a column beyond the last": ({"indices": [1, 4, 0, 2]}, "entry 1 has the column number 4, but there are 4 columns"),
    "a negative column": ({"indices": [1, 3, -1, 2]}, "entry 2 has the column number -1"),
    "pointers that fall": ({"indptr": [0, 3, 2, 4]}, "its indptr must have 4 entries, start at 0, never fall"),
    "pointers beyond the entries": ({"indptr": [0, 2, 2, 9]}, "of which there are 4"),
    "pointers that start late": ({"indptr": [1, 2, 2, 4]}, "start at 0"),
    "too few pointers": ({"indptr": [0, 2, 4]}, "must have 4 entries"),
    "fewer values than columns": ({"data": [1.0, 2.0]}, "of which there are 2"),
    "indices that are not integers": ({"indices": [1.0, 3.0, 0.0, 2.0]}, "the first two integers"),
}


@pytest.mark.parametrize(("arrays", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_matrix_is_refused_before_anything_reads_it(arrays: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"validation is a damaged CSR matrix: .*{message}"):
        check_sparse(csr(**arrays), "validation")


@pytest.mark.parametrize("kind", ["csc", "coo", "bsr", "lil"])
def test_an_index_out_of_range_is_refused_in_other_kinds(kind: str) -> None:
    X = sparse.csr_array(DENSE).asformat(kind)
    if kind == "coo":
        X.coords[0][0] = 50
    elif kind == "lil":
        X.rows[0] = [1, 50]
    else:
        X.indices[0] = 50
    with pytest.raises(ValueError, match=r"X is a damaged (CSC|COO|BSR|LIL) matrix"):
        check_sparse(X)


BROKEN: dict[str, tuple[str, Any]] = {
    "LIL with more values than columns": ("lil", lambda X: X.data.__setitem__(0, [1.0, 2.0, 3.0])),
    "LIL with fewer values": ("lil", lambda X: X.data.__setitem__(0, [1.0])),
    "LIL with too few rows": ("lil", lambda X: setattr(X, "rows", X.rows[:2])),
    "COO with fractions": ("coo", lambda X: setattr(X, "coords", (X.coords[0] + 0.5, X.coords[1]))),
    "DIA with fractions": ("dia", lambda X: setattr(X, "offsets", X.offsets + 0.5)),
    "CSR with a list": ("csr", lambda X: setattr(X, "data", X.data.tolist())),
}


@pytest.mark.parametrize(("kind", "damage"), BROKEN.values(), ids=BROKEN)
def test_parts_that_do_not_fit_each_other_are_refused(kind: str, damage: Any) -> None:
    X = sparse.csr_array(DENSE).asformat(kind)
    damage(X)
    with pytest.raises(ValueError, match=f"X is a damaged {kind.upper()} matrix: "):
        check_sparse(X)


def test_a_matrix_of_another_library_is_refused_by_its_kind() -> None:
    class Other:
        tocsr, shape = None, (2, 2)

    with pytest.raises(TypeError, match=r"X is a .*Other, a sparse matrix of another library; pass X.tocsr\(\)"):
        check_sparse(Other())


def test_more_columns_than_32_bits_can_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2147483648 columns, more than the 2147483647 that are possible; hash the"):
        check_sparse(sparse.coo_array((np.ones(1), ([0], [5])), (2, 1 << 31)))


def test_data_frames_of_sparse_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame.sparse.from_spmatrix(sparse.csr_array(DENSE), columns=list("abcd"))
    assert is_sparse(frame)
    assert (check_sparse(frame).toarray() == DENSE).all()
    ones = frame.assign(b=pandas.arrays.SparseArray([1.0, 1.0, 0.0], fill_value=1.0))
    with pytest.raises(ValueError, match=r"X leaves out the value 1\.0 in the sparse column 'b', where"):
        check_sparse(ones)
    words = frame.assign(b=pandas.arrays.SparseArray(["x", "y", "x"], fill_value="x"))
    with pytest.raises(ValueError, match="in column 'b', which is not numeric"):
        check_sparse(words)
    assert not is_sparse(pandas.DataFrame(DENSE))
    mixed = frame.assign(e=pandas.arrays.SparseArray([True, False, True]))
    assert (check_sparse(mixed).toarray() == np.column_stack([DENSE, [1, 0, 1]])).all()
    flags = mixed[["e"]]
    assert check_sparse(flags).toarray().tolist() == [[1], [0], [1]]
