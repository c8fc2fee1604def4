"""Sparse features in files: svmlight text, and matrices that `scipy.sparse.save_npz` wrote."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file

from gpusoftmax import SoftmaxClassifier, load_data
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.load import read_parts
from gpusoftmax.files.sparse import MOST_LABEL, MOST_ROWS, is_svmlight, read_svmlight
from gpusoftmax.files.table import Columns

N, D = 30, 7
Y = np.arange(N) % 3


@pytest.fixture
def X(rng: np.random.Generator) -> Any:
    """Values with few digits, so that text holds them exactly; the first and the last column have entries."""
    dense = np.where(rng.random((N, D)) < 0.4, rng.integers(-8, 9, (N, D)) / 4, 0)
    dense[0, [0, -1]] = 1
    return scipy.sparse.csr_array(dense)


def write_svmlight(folder: Path, X: Any, y: Any, name: str = "own", zero_based: bool = False) -> Path:
    path = folder / f"{name}.svm"
    dump_svmlight_file(X, y, str(path), zero_based=zero_based)
    return path


def write_pair(folder: Path, X: Any, y: Any, name: str = "own") -> tuple[Path, Path]:
    scipy.sparse.save_npz(folder / f"{name}.npz", X)
    np.save(folder / f"{name}-y.npy", y)
    return folder / f"{name}.npz", folder / f"{name}-y.npy"


def write_archive(folder: Path, X: Any, y: Any, name: str = "own") -> Path:
    """The members of a sparse matrix, and y."""
    path = folder / f"{name}.npz"
    np.savez(
        path,
        format=np.array(b"csr"),
        shape=X.shape,
        data=X.data,
        indices=X.indices,
        indptr=X.indptr,
        _is_array=True,
        y=y,
    )
    return path


def text(folder: Path, content: str | bytes, name: str = "a.svm") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


every_kind = pytest.mark.parametrize(
    "write", [write_svmlight, write_pair, write_archive], ids=["svmlight", "pair", "archive"]
)


def assert_same(found: Any, expected: Any) -> None:
    assert isinstance(found, scipy.sparse.csr_array)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


# every kind of file


@every_kind
def test_all_rows_are_read_with_their_labels(write: Any, X: Any, tmp_path: Path) -> None:
    data = load_data(write(tmp_path, X, Y), validation=0, test=0)
    assert_same(data.X_train, X)
    np.testing.assert_array_equal(data.y_train, Y)
    assert (data.y_train.dtype, data.X_train.indices.dtype) == (np.int64, np.int32)
    assert (data.X_test.shape, list(data.parts)) == ((0, D), ["train"])
    assert "30 train rows of 7 features, 3 classes" in repr(data)


@every_kind
def test_the_same_rows_are_held_out_as_from_dense_files(write: Any, X: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "dense.npz", X=X.toarray(), y=Y)
    sparse, dense = load_data(write(tmp_path, X, Y), seed=5), load_data(tmp_path / "dense.npz", seed=5)
    assert list(sparse.parts) == ["train", "validation", "test"]
    for (found, y), (expected, expected_y) in zip(sparse.parts.values(), dense.parts.values(), strict=True):
        np.testing.assert_array_equal(found.toarray(), expected)
        np.testing.assert_array_equal(y, expected_y)


@every_kind
def test_files_of_their_own_hold_validation_and_test_rows(write: Any, X: Any, tmp_path: Path) -> None:
    keep = np.ones((N, D))
    keep[1::3, [0, -1]] = keep[2::3, [0, -1]] = 0  # the first and the last column have entries in training alone
    X = scipy.sparse.csr_array(X.toarray() * keep)
    sources = [write(tmp_path, X[i::3], Y[i * 10 : i * 10 + 10], str(i)) for i in range(3)]
    data = load_data(sources[0], validation=sources[1], test=sources[2])
    for i, (found, _) in enumerate(data.parts.values()):
        assert_same(found, X[i::3])


@every_kind
def test_more_columns_than_in_training_are_refused_by_file(write: Any, X: Any, tmp_path: Path) -> None:
    train = write(tmp_path, X[:, :5], Y, "train")
    with pytest.raises(BadFileError, match=r"test\.(svm, line 1: column 7|npz: 7 features).*5.*, as for training"):
        load_data(train, test=write(tmp_path, X, Y, "test"))


@every_kind
def test_a_model_trains_on_what_was_loaded(write: Any, X: Any, tmp_path: Path) -> None:
    data = load_data(write(tmp_path, X, Y), validation=0, test=0)
    model = SoftmaxClassifier(C=1.0, backend="numpy").fit(*data.parts["train"])
    dense = SoftmaxClassifier(C=1.0, backend="numpy").fit(X.toarray(), Y)
    np.testing.assert_allclose(model.coef_, dense.coef_, atol=1e-3)


@pytest.mark.parametrize("write", [write_svmlight, write_pair], ids=["svmlight", "pair"])
@pytest.mark.parametrize(
    "options", [{"label": "y"}, {"drop": ["a"]}, {"header": True}], ids=["label", "drop", "header"]
)
def test_options_for_tables_are_refused(write: Any, options: dict[str, Any], X: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
        load_data(write(tmp_path, X, Y), **options)


# svmlight


@pytest.mark.parametrize("suffix", ["svm", "svmlight", "libsvm", "SVM"])
def test_every_suffix_is_known(suffix: str, tmp_path: Path) -> None:
    path = text(tmp_path, "0 1:1\n1 2:1\n", f"a.{suffix}")
    assert load_data(path, validation=0, test=0).X_train.toarray().tolist() == [[1, 0], [0, 1]]


def test_comments_query_ids_and_empty_rows_are_read_as_svmlight_does(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf# a comment\n+1 1:2 3:-.5e1 # another\r\n\n-1 qid:4 2:1\n 0\n"
    table = read_svmlight(text(tmp_path, content), Columns())
    assert table.values.toarray().tolist() == [[2, 0, -5], [0, 1, 0], [0, 0, 0]]
    assert (table.y.tolist(), table.lines.tolist()) == ([1, -1, 0], [2, 4, 5])


@pytest.mark.parametrize("zero_based", [False, True])
def test_columns_count_from_0_or_from_1(zero_based: bool, X: Any, tmp_path: Path) -> None:
    table = read_svmlight(write_svmlight(tmp_path, X, Y, zero_based=zero_based), Columns())
    assert_same(table.values, X)
    assert table.base == int(not zero_based)


@pytest.mark.parametrize("zero_based", [False, True])
def test_other_files_count_columns_as_training_does(zero_based: bool, X: Any, tmp_path: Path) -> None:
    """Their smallest column does not decide: the first row of the test file has no entry in column 0."""
    train = write_svmlight(tmp_path, X, Y, zero_based=zero_based)
    assert_same(
        load_data(train, test=text(tmp_path, "1 3:1\n")).X_test, scipy.sparse.csr_array(np.eye(D)[[2 + zero_based]])
    )


def test_a_column_0_is_refused_if_training_counts_from_1(X: Any, tmp_path: Path) -> None:
    train = write_svmlight(tmp_path, X, Y)
    with pytest.raises(BadFileError, match=r"a\.svm, line 2: column 0; expected columns from 1, as in training; if"):
        load_data(train, test=text(tmp_path, "1 3:1\n1 0:1\n"))


def test_a_comment_says_how_columns_count(X: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.svm"
    dump_svmlight_file(X[:, 1:], Y, str(path), zero_based=True, comment="as scikit-learn writes it")
    path.write_bytes(path.read_bytes().replace(b" 0:", b" 1:0 #"))
    table = read_svmlight(path, Columns(base=1))
    assert (table.base, table.values.shape[1]) == (0, D - 1)
    one_based = text(tmp_path, "# Column indices are one-based\n1 1:1 2:1\n", "b.svm")
    assert read_svmlight(one_based, Columns(base=0)).values.toarray().tolist() == [[1, 1]]
    with pytest.raises(BadFileError, match="line 2: column 0; expected columns from 1, as its comment says"):
        read_svmlight(text(tmp_path, "# Column indices are one-based\n1 0:1\n"), Columns())


@pytest.mark.parametrize(
    ("content", "warns"),
    [
        ("1 2:1\n", True),
        ("1 3:1\n", False),
        ("1 0:1\n", False),
        ("# Column indices are zero-based\n1 2:1\n", False),
        ("1\n", False),
    ],
)
def test_an_uncertain_first_column_is_told_of(
    content: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_svmlight(text(tmp_path, content), Columns(n_features=3))
    assert ("columns are counted from 1, because neither column 0 nor column 3 occurs" in caplog.text) == warns


def test_rows_without_entries_have_the_columns_of_training(tmp_path: Path) -> None:
    for base in (0, 1, None):
        table = read_svmlight(text(tmp_path, "1\n0\n"), Columns(n_features=1, base=base))
        assert table.values.toarray().tolist() == [[0], [0]]


def test_the_last_column_that_is_possible_costs_nothing(tmp_path: Path) -> None:
    table = read_svmlight(text(tmp_path, "1 1:1\n0 2147483647:1\n"), Columns())
    assert (table.values.shape, table.values.indices.tolist()) == ((2, 2**31 - 1), [0, 2**31 - 2])


@pytest.mark.parametrize("labels", [["1.5", "2"], ["nan", "2"], ["inf", "1"]])
def test_labels_that_are_no_whole_numbers_are_refused_by_line(labels: list[str], tmp_path: Path) -> None:
    path = text(tmp_path, "# comment\n" + "".join(f"{label} 1:1\n" for label in labels))
    with pytest.raises(BadFileError, match=f"line 2: label {labels[0]}; expected"):
        load_data(path)


def test_whole_labels_are_integers_however_they_are_written(tmp_path: Path) -> None:
    y = read_svmlight(text(tmp_path, f"+1 1:1\n-1.0 1:1\n-0 1:1\n{MOST_LABEL} 1:1\n1e3 1:1\n"), Columns()).y
    assert (y.dtype, y.tolist()) == (np.int64, [1, -1, 0, MOST_LABEL, 1000])


ROWS = {
    "no label": ("1:1 2:1", "no label before '1:1'; expected LABEL .*; write 0 for a label that is not known"),
    "several labels": ("1,2 1:1", "several labels, '1,2'; expected one label for each row"),
    "a label in words": ("good 1:1", "could not convert string to float: b'good'"),
    "a label too large to be exact": (f"{2**53} 1:1", "label 9007199254740992; expected whole numbers of at most"),
    "no value": ("1 2", "'2' is not COLUMN:VALUE; expected LABEL"),
    "a value in words": ("1 2:x", "could not convert string to float: b'x'"),
    "a column in words": ("1 x:2", "invalid literal for int.*b'x'"),
    "a negative column": ("1 -1:2", "Invalid index -1"),
    "columns in falling order": ("1 2:1 1:1", "should be sorted and unique"),
    "a column twice": ("1 2:1 2:1", "should be sorted and unique"),
    "a column beyond 2^31": ("1 1:1 9999999999999:1 x", "the column of '9999999999999:1'; expected .* to 2147483647"),
    "a column beyond 2^31 behind a query id": ("1 qid:1 2147483648:1", "the column of '2147483648:1'"),
    "one column too many": ("1 0:1 2147483647:1", "column 2147483647; expected at most 2147483646$"),
    "NaN": ("1 1:1 2:nan", "column 2 is nan; expected a finite number"),
    "infinity": ("1 2:-1e999", "column 2 is -inf; expected a finite number"),
    "an underscore": ("1 1_0:2", "an underscore; expected numbers without one"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "message"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_refused_by_line(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=rf"a\.svm, line 3: .*{message}"):
        load_data(text(tmp_path, f"1 1:1 # 1_0\n# x\n{row}\n0 1:1\n"))


@pytest.mark.parametrize(
    ("content", "message"), [("", "no rows"), ("# 1 1:1\n\n", "no rows"), ("1\n0\n", "no features")]
)
def test_a_file_without_rows_or_features_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=rf"a\.svm: {message}; expected"):
        load_data(text(tmp_path, content))


SVM = "".join(f"{i % 2} 1:{i}.5 3:1\n" for i in range(20))


@pytest.mark.parametrize("name", ["a.txt", "a9a", "a.t", "a.csv", "a.svm.gz", "a.xz"])
def test_the_content_says_what_is_sparse(name: str, tmp_path: Path) -> None:
    pack = {"gz": gzip.compress, "xz": lzma.compress}.get(name[-2:], bytes)
    (tmp_path / name).write_bytes(pack(f"# a comment\n\n{SVM}".encode()))
    assert load_data(tmp_path / name, validation=0, test=0).X_train.shape == (20, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 0}, "label=0: .* has no column of labels; leave it out"),
        ({"drop": ["a"]}, "the columns of .* have no names"),
        ({"header": True}, "header=True: .* is not a table in a text file"),
        ({"delimiter": " "}, "delimiter=' ': .* is not a table in a text file"),
        ({"decimal": ","}, "decimal=',': .* is not a table in a text file"),
    ],
)
def test_what_is_said_of_a_table_is_refused_for_sparse_text(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(text(tmp_path, SVM, "a.txt"), **options)


@pytest.mark.parametrize("table", ["a b\n1:2 0\n", "time,label\n10:30,1\n", "1 10:30:15\n", "1 2\n", "1:1 2:1\n"])
def test_a_table_with_colons_is_no_sparse_text(table: str) -> None:
    assert not is_svmlight(table.splitlines(keepends=True))


# scipy.sparse.save_npz


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("container", ["array", "matrix"])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f8", "f8"), ("f4", "f4"), ("u1", "u1"), ("?", "u1"), ("i2", "f4"), ("i8", "f8"), ("u4", "f8")],
)
def test_a_saved_matrix_is_read(kind: str, container: str, dtype: str, expected: str, X: Any, tmp_path: Path) -> None:
    X = getattr(scipy.sparse, f"{kind}_{container}")(abs(X).ceil().astype(dtype))
    found = load_data(write_pair(tmp_path, X, Y), validation=0, test=0).X_train
    assert_same(found, X.astype(expected))
    assert found.dtype == expected


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", [">f8", ">f4", "f2"])
def test_values_that_scipy_does_not_compute_with_are_converted(kind: str, dtype: str, X: Any, tmp_path: Path) -> None:
    X = X.asformat(kind)
    write_pair(tmp_path, X, Y)
    with np.load(tmp_path / "own.npz") as members:
        foreign = {name: array.astype(">i8") if array.dtype.kind == "i" else array for name, array in members.items()}
    np.savez(tmp_path / "own.npz", **{**foreign, "data": X.data.astype(dtype)})
    found = load_data((tmp_path / "own.npz", tmp_path / "own-y.npy"), validation=0, test=0).X_train
    assert_same(found, X)
    assert found.dtype == {">f8": np.float64}.get(dtype, np.float32)


@pytest.mark.parametrize("kind", ["csr", "coo"])
def test_coordinates_and_formats_in_text_are_read(kind: str, X: Any, tmp_path: Path) -> None:
    """SciPy before 1.0 names the format in text; a later SciPy may save the coordinates of COO in one array."""
    X = X.asformat(kind)
    indices = {"indices": X.indices, "indptr": X.indptr} if kind == "csr" else {"coords": np.stack(X.coords)}
    np.savez(tmp_path / "a.npz", format=np.array(kind), shape=X.shape, data=X.data, y=Y, **indices)
    assert_same(load_data(tmp_path / "a.npz", validation=0, test=0).X_train, X)


def test_duplicates_are_added_and_columns_sorted(tmp_path: Path) -> None:
    X = scipy.sparse.coo_array(([1.0, 2.0, 4.0], ([0, 0, 0], [2, 0, 2])), shape=(1, 3))
    table = read_parts(write_pair(tmp_path, X, [1]), Columns())["rows"]
    assert (table.values.indices.tolist(), table.values.data.tolist()) == ([0, 2], [2, 5])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_row_and_column(value: float, X: Any, tmp_path: Path) -> None:
    X = X.tolil()
    X[21, 2] = value
    with pytest.raises(BadFileError, match=rf"own\.npz, row 21: column 2 is {value}; expected a finite number"):
        load_data(write_pair(tmp_path, X.tocsr(), Y))


def test_features_without_labels_are_enough_to_predict(X: Any, tmp_path: Path) -> None:
    path = write_pair(tmp_path, X, Y)[0]
    assert_same(read_parts(path, Columns(need_label=False))["rows"].values, X)
    with pytest.raises(BadFileError, match=r"sparse features without labels; expected a pair of files, own\.npz and"):
        load_data(path)


@pytest.mark.parametrize("kind", ["bsr", "dia"])
def test_blocks_and_diagonals_are_refused(kind: str, X: Any, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=rf"a sparse matrix of format {kind}; save X.tocsr\(\); expected"):
        load_data(write_pair(tmp_path, X.asformat(kind), Y))


def test_dense_arrays_in_the_archive_of_a_pair_are_refused(X: Any, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, X, Y)
    np.savez(pair[0], X=X.toarray(), y=Y)
    with pytest.raises(BadFileError, match=r"holds X \(30, 7\), y \(30,\); expected a sparse matrix"):
        load_data(pair)


def test_labels_of_another_length_are_refused(X: Any, tmp_path: Path) -> None:
    with pytest.raises(
        BadFileError, match=r"own-y\.npy: labels of shape \(29,\); expected one label for each of 30 rows"
    ):
        load_data(write_pair(tmp_path, X, Y[1:]))


GOOD = {
    "format": b"csr", "shape": [2, 3], "data": [1.0, 2.0], "indices": [0, 2], "indptr": [0, 1, 2], "y": [0, 1],
}  # fmt: skip
COO = {"format": b"coo", "shape": [2, 3], "data": [1.0, 2.0], "row": [0, 1], "col": [0, 2], "y": [0, 1]}
CSC = {**GOOD, "format": b"csc", "shape": [3, 2]}
DAMAGED: dict[str, Any] = {
    "a column out of range": ({**GOOD, "indices": [0, 3]}, "entry 1 has the column number 3, but there are 3"),
    "a negative column": ({**GOOD, "indices": [-1, 2]}, "entry 0 has the column number -1"),
    "a column that wraps": ({**GOOD, "indices": np.array([2**64 - 1, 2], np.uint64)}, "the column number -1"),
    "a pointer out of range": ({**GOOD, "indptr": [0, 1, 9]}, "expected scipy.sparse.save_npz"),
    "falling pointers": ({**GOOD, "indptr": [0, 3, 2]}, "expected scipy.sparse.save_npz"),
    "a first pointer": ({**GOOD, "indptr": [1, 1, 2]}, "expected scipy.sparse.save_npz"),
    "too few pointers": ({**GOOD, "indptr": [0, 2]}, "expected scipy.sparse.save_npz"),
    "columns of floats": ({**GOOD, "indices": [0.0, 2.0]}, r"damaged sparse matrix: .*indices \(2,\) float64"),
    "columns in two dimensions": ({**GOOD, "indices": [[0, 2]]}, "expected scipy.sparse.save_npz"),
    "values in two dimensions": ({**GOOD, "data": [[1.0, 2.0]]}, r"damaged sparse matrix: .*data \(1, 2\)"),
    "values in text": ({**GOOD, "data": ["a", "b"]}, "damaged sparse matrix"),
    "fewer values than columns": ({**GOOD, "data": [1.0]}, "expected scipy.sparse.save_npz"),
    "a shape of three": ({**GOOD, "shape": [2, 3, 1]}, "damaged sparse matrix"),
    "a shape of floats": ({**GOOD, "shape": [2.0, 3.0]}, "damaged sparse matrix"),
    "a negative shape": ({**GOOD, "shape": [2, -3]}, "expected scipy.sparse.save_npz"),
    "no columns": ({**GOOD, "shape": [2, 0]}, "expected scipy.sparse.save_npz"),
    "too many columns": ({**GOOD, "shape": [2, 2**31]}, "X has 2147483648 columns, more than the 2147483647"),
    "no pointers": ({name: GOOD[name] for name in GOOD if name != "indptr"}, "without 'indptr'"),
    "an unknown format": ({**GOOD, "format": b"evil"}, "a sparse matrix of format 'evil'"),
    "a format beyond ASCII": ({**GOOD, "format": b"\xff\x1b"}, "a sparse matrix of format"),
    "several formats": ({**GOOD, "format": [b"csr", b"csc"]}, "a sparse matrix of format"),
    "a format in numbers": ({**GOOD, "format": 7}, "a sparse matrix of format '7'"),
    "an array beside it": ({**GOOD, "X": np.eye(2)}, "beside an array 'X'"),
    "COO with a row out of range": ({**COO, "row": [0, 2]}, "expected scipy.sparse.save_npz"),
    "COO with a negative column": ({**COO, "col": [0, -2]}, "expected scipy.sparse.save_npz"),
    "COO of two lengths": ({**COO, "row": [0]}, "expected scipy.sparse.save_npz"),
    "COO that claims rows": ({**COO, "shape": [2**40, 3]}, "claims 1099511627776 rows, but has 2 entries"),
    "COO that claims a few rows too many": ({**COO, "shape": [MOST_ROWS + 1, 3]}, "claims 4194305 rows"),
    "COO with coordinates of three dimensions": ({**COO, "coords": np.zeros((3, 2), int)}, "expected scipy.sparse"),
    "CSC with a row out of range": ({**CSC, "indices": [0, 3]}, "entry 1 has the row number 3, but there are 3 rows"),
    "CSC that claims rows": ({**CSC, "shape": [2**62, 2]}, "claims 4611686018427387904 rows"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_matrix_is_refused(members: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **members)
    with pytest.raises(BadFileError, match=rf"a\.npz: .*{message}"):
        load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("members", [GOOD, COO, CSC], ids=["csr", "coo", "csc"])
def test_undamaged_ones_are_not(members: Any, tmp_path: Path) -> None:
    members = {**members, "y": np.arange(members["shape"][0])}
    np.savez(tmp_path / "a.npz", **members)
    assert load_data(tmp_path / "a.npz", validation=0, test=0).X_train.nnz == 2
