"""Users' own data files: which rows and labels they give, and which rows are held out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.load import as_numbers, held_out, known_labels, load_data, read_parts, training_labels
from gpusoftmax.files.table import Columns, Table

N, KINDS = 30, np.array(["ash", "birch", "cedar"])


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[Any, Any]:
    """Features that are all different, and labels in words, ten of each."""
    return rng.standard_normal((N, 4)).astype(np.float32), np.repeat(KINDS, N // 3)


def write_csv(path: Path, X: Any, y: Any, names: str = "a,b,c,d") -> Path:
    lines = [",".join([*map(str, row), str(label)]) for row, label in zip(X.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join([f"{names},label", *lines]), encoding="utf-8")
    return path


def write_npz(path: Path, X: Any, y: Any) -> Path:
    np.savez(path, X=X, y=y)
    return path


def write_pair(path: Path, X: Any, y: Any) -> tuple[Path, Path]:
    pair = path.with_suffix(".X.npy"), path.with_suffix(".y.npy")
    np.save(pair[0], X)
    np.save(pair[1], y)
    return pair


def write_parquet(path: Path, X: Any, y: Any) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({**{f"x{i}": column for i, column in enumerate(X.T)}, "label": y.tolist()}), path)
    return path


WRITERS = {"own.csv": write_csv, "own.npz": write_npz, "own": write_pair, "own.parquet": write_parquet}
every_kind = pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=["csv", "npz", "npy", "parquet"])


def all_rows(data: Any) -> tuple[Any, Any]:
    """Those of all parts, in the order of their first feature."""
    X, y = (np.concatenate([part[i] for part in data.parts.values()]) for i in (0, 1))
    order = np.argsort(X[:, 0])
    return X[order], y[order]


@every_kind
def test_every_row_is_in_one_part_with_its_label(name: str, write: Any, rows: Any, tmp_path: Path) -> None:
    X, y = all_rows(load_data(write(tmp_path / name, *rows)))
    order = np.argsort(rows[0][:, 0])
    np.testing.assert_allclose(X, rows[0][order], rtol=1e-6)
    np.testing.assert_array_equal(y, rows[1][order])


@every_kind
def test_the_type_is_the_files_own(name: str, write: Any, rows: Any, tmp_path: Path) -> None:
    expected = np.float64 if name == "own.csv" else np.float32
    assert load_data(write(tmp_path / name, *rows)).X_train.dtype == expected


def test_a_fifth_of_each_class_is_held_out_for_each_part(rows: Any, tmp_path: Path) -> None:
    data = load_data(write_npz(tmp_path / "a.npz", *rows))
    sizes = {name: [int((y == kind).sum()) for kind in KINDS] for name, (_, y) in data.parts.items()}
    assert sizes == {"train": [6, 6, 6], "validation": [2, 2, 2], "test": [2, 2, 2]}


def test_shares_are_obeyed(rows: Any, tmp_path: Path) -> None:
    data = load_data(write_npz(tmp_path / "a.npz", *rows), validation=0.1, test=0.5)
    assert {name: len(y) for name, (_, y) in data.parts.items()} == {"train": 12, "validation": 3, "test": 15}


def test_a_share_of_zero_leaves_a_part_empty(rows: Any, tmp_path: Path) -> None:
    data = load_data(write_npz(tmp_path / "a.npz", *rows), validation=0, test=0)
    assert list(data.parts) == ["train"]
    np.testing.assert_array_equal(data.X_train, rows[0])
    assert (data.X_test.shape, data.y_test.shape) == ((0, 4), (0,))


def test_the_seed_decides_which_rows_are_held_out(rows: Any, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", *rows)
    same, again, other = load_data(path, seed=1), load_data(path, seed=1), load_data(path, seed=2)
    np.testing.assert_array_equal(same.X_test, again.X_test)
    assert not np.array_equal(same.X_test, other.X_test)


def test_the_rows_held_out_never_change() -> None:
    parts = held_out(np.arange(20) % 2, {"validation": 0.2, "test": 0.1}, seed=0)
    assert {name: found.tolist() for name, found in parts.items()} == {
        "validation": [1, 4, 10, 11],
        "test": [9, 16],
        "train": [0, 2, 3, 5, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19],
    }


@every_kind
def test_files_of_their_own_hold_validation_and_test_rows(name: str, write: Any, rows: Any, tmp_path: Path) -> None:
    X, y = rows
    (tmp_path / "v").mkdir()
    sources = [write(tmp_path / f"{i}{name}", X[i::3], y[i::3]) for i in range(3)]
    data = load_data(sources[0], validation=sources[1], test=sources[2])
    for i, (own_X, own_y) in enumerate(data.parts.values()):
        np.testing.assert_allclose(own_X, X[i::3], rtol=1e-6)
        np.testing.assert_array_equal(own_y, y[i::3])


def test_columns_of_another_file_are_found_by_name(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    train = write_csv(tmp_path / "train.csv", X, y)
    test = write_csv(tmp_path / "test.csv", X[:, [3, 1, 0, 2]], y, "d,b,a,c")
    data = load_data(train, validation=0, test=test)
    np.testing.assert_array_equal(data.X_test, data.X_train)
    assert data.feature_names == ("a", "b", "c", "d")


def test_dropped_columns_are_dropped_from_every_file(rows: Any, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", *rows)
    data = load_data(train, test=train, drop=["b"])
    assert (data.feature_names, data.X_test.shape) == (("a", "c", "d"), (N, 3))


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "y_train", "X_test", "y_test"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("features_training", "target_training", "features_testing", "target_testing"),
    ],
)
def test_an_archive_may_hold_its_parts(names: Any, rows: Any, tmp_path: Path) -> None:
    X, y = rows
    np.savez(tmp_path / "a.npz", **dict(zip(names, (X[::2], y[::2], X[1::2], y[1::2]), strict=True)))
    data = load_data(tmp_path / "a.npz", validation=0)
    np.testing.assert_array_equal(data.X_train, X[::2])
    np.testing.assert_array_equal(data.X_test, X[1::2])
    np.testing.assert_array_equal(data.y_test, y[1::2])


@pytest.mark.parametrize("names", [("X", "y"), ("pixels", "label"), ("embeddings", "kind")])
def test_an_archive_of_any_names_is_understood(names: tuple[str, str], rows: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **dict(zip(names, rows, strict=True)), counts=np.arange(3))
    data = load_data(tmp_path / "a.npz", label="kind" if names[1] == "kind" else None, validation=0, test=0)
    np.testing.assert_array_equal(data.X_train, rows[0])
    np.testing.assert_array_equal(data.y_train, rows[1])


def test_images_are_flattened_and_a_column_of_labels_is_one(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    data = load_data(write_npz(tmp_path / "a.npz", X.reshape(N, 2, 2), y[:, None]), validation=0, test=0)
    np.testing.assert_array_equal(data.X_train, X)
    np.testing.assert_array_equal(data.y_train, y)


@pytest.mark.parametrize(
    ("text", "kind", "labels"),
    [
        (["1", "-2", "30"], "i", [1, -2, 30]),
        (["1", "2.0", "3"], "f", [1.0, 2.0, 3.0]),
        (["1.1", "1.10"], "U", ["1.1", "1.10"]),
        (["123456789012345678", "1.0"], "U", ["123456789012345678", "1.0"]),
        (["1", "2", "x"], "U", ["1", "2", "x"]),
        (["007", "8", "9"], "U", ["007", "8", "9"]),
        (["1_0", "8"], "U", ["1_0", "8"]),
        (["\u0661", "8"], "U", ["\u0661", "8"]),
        (["1" + 30 * "0"], "U", ["1" + 30 * "0"]),
    ],
)
def test_labels_in_text_become_numbers_if_all_can(text: Any, kind: str, labels: Any) -> None:
    found = as_numbers(np.array(text))
    assert (found.tolist(), found.dtype.kind) == (labels, kind)


X1 = np.ones((1, 1))


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        ([0, 1], ["1", "0"], [1, 0]),
        ([0, 1], ["1.0", "0."], [1, 0]),
        ([0.0, 1.0], ["1", "0"], [1.0, 0.0]),
        (["0", "1"], ["1", "0"], ["1", "0"]),
        (["0", "1"], [1, 0], ["1", "0"]),
        ([False, True], ["True", "FALSE"], [True, False]),
        ([0, 1], np.array([1, 0], np.uint8), [1, 0]),
    ],
)
def test_labels_take_the_type_of_known_classes(classes: Any, labels: Any, expected: Any) -> None:
    found = known_labels(Table(X1, np.array(labels)), np.array(classes), Path("a.csv"), "of the model")
    assert (found.tolist(), found.dtype) == (expected, np.array(classes).dtype)


@pytest.mark.parametrize("stray", ["unknown", "NA", "9", "1_0", "01"])
@pytest.mark.parametrize("option", ["validation", "test"])
def test_a_label_that_no_training_row_has_is_refused_by_line(option: str, stray: str, tmp_path: Path) -> None:
    rows = [f"{i},{i % 3}" for i in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["a,label", *rows]), encoding="utf-8")
    (tmp_path / "b.csv").write_text("\n".join(["a,label", *rows[:9], f"1,{stray}", *rows]), encoding="utf-8")
    message = rf"b\.csv, line 11: label '{stray}' is not among the 3 classes of the training rows, \[0, 1, 2\]"
    with pytest.raises(BadFileError, match=message):
        load_data(tmp_path / "a.csv", **{option: tmp_path / "b.csv"})


def test_an_unknown_label_of_an_archives_part_is_refused_by_row(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    np.savez(tmp_path / "a.npz", X_train=X, y_train=y, X_test=X[:3], y_test=np.array(["ash", "oak", "elm"]))
    with pytest.raises(BadFileError, match="row 1: label 'oak' is not among the 3 classes"):
        load_data(tmp_path / "a.npz")


def test_an_unknown_label_of_a_pair_is_told_with_the_file_of_labels(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    pair = write_pair(tmp_path / "b", X[:2], np.array(["ash", "oak"]))
    with pytest.raises(BadFileError, match=r"b\.y\.npy, row 1: label 'oak'"):
        load_data(write_npz(tmp_path / "a.npz", X, y), test=pair)


GAPS = ["NA", "N/A", "NaN", "nan", "?", "-", "null", "None"]
NOT_CLASSES: dict[str, Any] = {
    **{f"{gap} among numbers": (["1", "2", gap, "1"], f"row 2: label '{re.escape(gap)}'") for gap in GAPS},
    "an empty text": (["x", "", "y"], "row 1: label ''; expected a label in each row"),
    "blanks": (["x", "y", " "], "row 2: label ' '; expected a label in each row"),
    "parts of numbers in text": (["1", "2.0", "1.55", "1.45"], "row 2: label '1.55'; expected classes: whole numbers"),
    "parts of numbers": ([1.0, 2.5, 3.5], r"row 1: label 2\.5; expected classes: whole numbers, or names"),
    "NaN": ([1.0, float("nan"), 3.5], "row 1: label nan; expected a label in each row"),
    "infinity": ([1.0, float("inf")], "row 1: label inf; expected classes"),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "message"), NOT_CLASSES.values(), ids=NOT_CLASSES.keys())
def test_labels_that_are_no_classes_are_refused_by_row(labels: Any, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        training_labels(Table(X1, np.array(labels)), Path("a.npz"))


@pytest.mark.parametrize("gap", GAPS)
def test_words_for_gaps_among_words_are_told_of(gap: str, caplog: pytest.LogCaptureFixture) -> None:
    y = np.array(["mild", gap, "severe", gap])
    assert training_labels(Table(X1, y), Path("a.npz")).tolist() == y.tolist()
    assert f"the label of 2 rows is '{gap}', a class of its own" in caplog.text


def test_a_stray_word_among_numbers_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    labels = training_labels(Table(X1, np.array(["1", "2", "oops", "1"])), Path("a.npz"))
    assert labels.tolist() == ["1", "2", "oops", "1"]
    assert "a.npz, row 2: label 'oops' is not a number, so all labels are read as text" in caplog.text


@pytest.mark.parametrize("labels", [["1a", "2b", "3"], ["x", "y"], ["7", "8"], ["007", "8"]])
def test_ordinary_labels_are_not_told_of(labels: Any, caplog: pytest.LogCaptureFixture) -> None:
    training_labels(Table(X1, np.array(labels)), Path("a.npz"))
    assert caplog.text == ""


@every_kind
def test_gaps_among_labels_of_numbers_are_refused_in_every_kind_of_file(
    name: str, write: Any, rows: Any, tmp_path: Path
) -> None:
    y = np.array(["1", "2", "3"], "U3")[np.arange(N) % 3]
    y[[7, 9]] = "NaN"
    with pytest.raises(BadFileError, match=f"{'line 9' if name == 'own.csv' else 'row 7'}: label 'NaN'"):
        load_data(write(tmp_path / name, rows[0], y))


# NaN in a table is a gap, which is encoded
@pytest.mark.parametrize(
    ("name", "value"),
    [("own.npz", np.nan), ("own", np.nan), ("own.npz", -np.inf), ("own", -np.inf), ("own.parquet", -np.inf)],
)
def test_a_feature_that_is_not_finite_is_refused_by_its_row_in_the_file(
    name: str, value: float, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusoftmax.files.load.ROWS_AT_ONCE", 8)
    X, y = rows
    X[21, 2] = value
    column = "'x2'" if name == "own.parquet" else "2"
    with pytest.raises(BadFileError, match=f"row 21: column {column} is {value}; expected a finite number"):
        load_data(WRITERS[name](tmp_path / name, X, y))


@pytest.mark.parametrize(("first", "last"), [(0, 30), (5, 35)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_column_that_counts_rows_in_any_order_is_told_of(
    first: int, last: int, shuffled: bool, rows: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    X, y = rows
    X[:, 1] = np.random.default_rng(0).permutation(np.arange(first, last)) if shuffled else np.arange(first, last)
    load_data(write_csv(tmp_path / "a.csv", X, y))
    assert caplog.text.count("numbers the rows and is used as a feature") == caplog.text.count("column 'b'") == 1


@every_kind
def test_the_labels_origin_is_named(name: str, write: Any, rows: Any, tmp_path: Path) -> None:
    expected = {"own.npz": "y", "own": None}.get(name, "label")
    assert load_data(write(tmp_path / name, *rows)).label_name == expected


REFUSED: dict[str, Any] = {
    "no features": (lambda X, y: {"y": y}, {}, r"holds y \(30,\); expected an array of features"),
    "no labels": (lambda X, y: {"X": X}, {}, r"holds X \(30, 4\); expected .* one of labels"),
    "two arrays of features": (lambda X, y: {"a": X, "b": X, "y": y}, {}, r"holds a \(30, 4\), b"),
    "parts and more": (lambda X, y: {"X": X, "y": y, "X_test": X, "y_test": y}, {}, "holds X"),
    "test rows alone": (lambda X, y: {"X_test": X, "y_test": y}, {}, "expected training rows"),
    "labels of another length": (lambda X, y: {"X": X, "y": y[:7]}, {}, r"labels of shape \(7,\); expected .* 30 rows"),
    "one-hot labels": (lambda X, y: {"X": X, "y": X}, {}, r"labels of shape \(30, 4\)"),
    "features in a line": (lambda X, y: {"X": y, "y": y}, {}, r"features of shape \(30,\)"),
    "test rows twice": (
        lambda X, y: {"X_train": X, "y_train": y, "X_test": X, "y_test": y}, {"test": "b.csv"},
        "test='b.csv': .* already holds test rows; leave one of them out",
    ),
    "two arrays of one name": (lambda X, y: {"X": X, "x": X, "y": y}, {}, "two arrays are 'x' of the rows part"),
    "two arrays of one part": (lambda X, y: {"X_val": X, "X_valid": X, "X": X, "y": y}, {}, "of the validation part"),
    "a part without labels": (
        lambda X, y: {"X_train": X, "y_train": y, "X_test": X}, {}, "features of the test part, but no labels"
    ),
    "a label of booleans": (lambda X, y: {"X": X, "y": y}, {"label": True}, "label=True is a bool"),
    "columns to drop in a number": (lambda X, y: {"X": X, "y": y}, {"drop": 5}, "drop=5 is not a list of names"),
    "a position of an array": (lambda X, y: {"X": X, "y": y}, {"label": 1}, "label=1 is a position"),
    "columns without names": (lambda X, y: {"X": X, "y": y}, {"drop": ["a"]}, r"drop=\['a'\]"),
    "a share of one": (lambda X, y: {"X": X, "y": y}, {"test": 1.0}, "test=1.0 is out of range"),
    "shares of all": (lambda X, y: {"X": X, "y": y}, {"test": 0.5, "validation": 0.5}, "nothing to train on"),
    "a share of no row": (lambda X, y: {"X": X, "y": y}, {"test": 0.01}, r"test=0\.01: .* the largest class has 10"),
    "a negative seed": (lambda X, y: {"X": X, "y": y}, {"seed": -1}, "seed=-1 is out of range"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_used_is_refused(arrays: Any, options: Any, message: str, rows: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(*rows))
    with pytest.raises((TypeError, ValueError), match=message):
        load_data(tmp_path / "a.npz", **options)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (3, {}, "train=3 is a int; pass a path"),
        (None, {}, "train=None is a NoneType; pass a path"),
        (("X.npy",), {}, r"train is a tuple of 1; pass a pair \(features, labels\)"),
        (("X.npy", 3), {}, r"train\[1\]=3 is a int"),
        ("", {}, "train='' is not a path"),
        ("a\0b", {}, "is not a path"),
    ],
)
def test_a_source_that_is_no_path_is_refused(train: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        load_data(train, **options)


def test_features_without_labels_are_refused(rows: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows[0])
    with pytest.raises(BadFileError, match=r"features without labels; expected a pair of files, a\.npy and one"):
        load_data(tmp_path / "a.npy")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"a\.xlsx: is of kind \.xlsx; expected one of \.npz, \.npy, \.csv"):
        load_data(tmp_path / "a.xlsx")


def test_test_rows_of_other_features_are_refused(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    train, test = write_npz(tmp_path / "a.npz", X, y), write_npz(tmp_path / "b.npz", X[:, :3], y)
    with pytest.raises(BadFileError, match=r"b\.npz: 3 features; expected 4, as for training"):
        load_data(train, test=test)


def test_labels_by_position_are_no_feature_of_training(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    train, test = write_csv(tmp_path / "a.csv", X, y), tmp_path / "b.csv"
    test.write_text("kind,a,b,c,d\nash,1,2,3,4\n", encoding="utf-8")
    with pytest.raises(BadFileError, match=r"b\.csv: the column of labels is the feature 'd' of 5 columns"):
        load_data(train, label=4, test=test)


@pytest.mark.slow
def test_a_label_in_digits_is_a_column_of_that_name_or_else_a_position(tmp_path: Path) -> None:
    for header, X in (("2023,a,b", [[2, 3]]), ("x,a,b", [[1, 3]])):
        (tmp_path / "a.csv").write_text(f"{header}\n1,2,3\n", encoding="utf-8")
        label = "2023" if header.startswith("2023") else "1"
        assert load_data(tmp_path / "a.csv", label=label, validation=0, test=0).X_train.tolist() == X


def test_labels_of_a_part_are_named_with_or_without_it(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    np.savez(tmp_path / "a.npz", X_train=X, kind_train=y, X_test=X, kind_test=y)
    for label in ("kind", "kind_train"):
        assert len(load_data(tmp_path / "a.npz", label=label).y_test) == N


def test_a_file_without_a_column_of_training_is_refused(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    train, test = write_csv(tmp_path / "a.csv", X, y), write_csv(tmp_path / "b.csv", X[:, :3], y, "a,b,d")
    with pytest.raises(BadFileError, match=r"b\.csv: no 'c' among 4 columns"):
        load_data(train, test=test)


def test_a_model_trains_on_what_was_loaded(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    data = load_data(write_csv(tmp_path / "a.csv", X + 5 * np.eye(4)[np.repeat(range(3), N // 3)], y))
    assert SoftmaxClassifier().fit(*data.parts["train"]).score(*data.parts["test"]) == 1.0


def test_arrays_of_a_raw_file_are_mapped_and_read_in_place(rows: Any, tmp_path: Path) -> None:
    X, y = rows
    X.tofile(tmp_path / "X.raw")
    mapped = np.memmap(tmp_path / "X.raw", np.float32, "r", shape=X.shape)
    np.testing.assert_array_equal(SoftmaxClassifier().fit(mapped, y).coef_, SoftmaxClassifier().fit(X, y).coef_)


def test_labels_by_position_are_found_by_their_name_in_other_files(tmp_path: Path) -> None:
    """A second column of classes behind them, such as old predictions, must not be taken for them."""
    rows = [f"{i % 5},{i % 7},{'uv'[i % 2]}" for i in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["a,b,kind", *rows]))
    old = [f"{row},{'vu'[i % 2]}" for i, row in enumerate(rows)]
    (tmp_path / "test.csv").write_text("\n".join(["a,b,kind,old", *old]))
    found = load_data(tmp_path / "train.csv", label=-1, test=tmp_path / "test.csv", validation=0)
    assert found.y_test.tolist() == ["u", "v"] * 20
    (tmp_path / "bare.csv").write_text("\n".join(rows))  # without names the position counts
    assert load_data(tmp_path / "train.csv", label=-1, test=tmp_path / "bare.csv", validation=0).y_test[1] == "v"


def test_the_labels_of_training_are_certain_in_other_files(tmp_path: Path) -> None:
    rows = [f"{i % 5},{'uv'[i % 2]}" for i in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["a,label", *rows]))
    (tmp_path / "test.csv").write_text("\n".join(["a,label,y", *(f"{row},3" for row in rows)]))
    found = load_data(tmp_path / "train.csv", test=tmp_path / "test.csv", validation=0)
    assert found.y_test.tolist() == ["u", "v"] * 20


def test_a_column_of_labels_is_refused_where_there_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ones((8, 2)))
    np.save(tmp_path / "y.npy", np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"label='kind': .*X\.npy has no column of labels; leave it out"):
        load_data((tmp_path / "X.npy", tmp_path / "y.npy"), label="kind")
    np.savez(tmp_path / "p.npz", X=np.ones((8, 2)))
    with pytest.raises(BadFileError, match="an array 'kind', as label says"):
        read_parts(tmp_path / "p.npz", Columns("kind", need_label=False))


def test_true_is_one_label_however_it_is_written(tmp_path: Path) -> None:
    def written(name: str, words: list[str]) -> Path:
        (tmp_path / name).write_text(
            "\n".join(["a,label", *(f"{i},{words[i % len(words)]}" for i in (3, 1, 2, 0) * 5)])
        )
        return tmp_path / name

    mixed = load_data(written("mixed.csv", ["True", "False", "TRUE", "FALSE"]), validation=0, test=0)
    assert mixed.class_names == ("False", "True")
    excel = written("excel.csv", ["TRUE", "FALSE"])
    found = load_data(written("pandas.csv", ["True", "False"]), test=excel, validation=0)
    assert set(found.y_test) == {"True", "False"}
