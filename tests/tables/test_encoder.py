"""Tables of numbers, categories and text as features, beside what scikit-learn makes of the columns one by one."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from gpusoftmax import SoftmaxClassifier, TableEncoder, make_table_classifier
from gpusoftmax.tables.columns import as_columns
from gpusoftmax.tables.encoder import MOST_DENSE

N = 40


def table(n: int = N) -> dict[str, list[Any]]:
    """A table with a column of each kind."""
    rng = np.random.default_rng(0)
    words = ["rain", "snow", "sun", "wind", "fog", "hail"]
    return {
        "island": rng.choice(["Biscoe", "Dream", "Torgersen"], n).tolist(),
        "bill": [None if i % 9 == 2 else float(v) for i, v in enumerate(rng.normal(40, 5, n))],
        "year": (2007 + rng.integers(0, 3, n)).tolist(),
        "sex": [("male", "female", None)[i % 3] for i in range(n)],
        "note": [f"today {' and '.join(rng.choice(words, 3))} near rock number {i}" for i in range(n)],
    }


def without_text(n: int = N) -> dict[str, list[Any]]:
    return {name: column for name, column in table(n).items() if name != "note"}


def feature(encoder: TableEncoder, Z: Any, name: str) -> Any:
    """The column of a feature of this name, dense."""
    column = Z[:, encoder.get_feature_names_out().tolist().index(name)]
    return column.toarray().ravel() if hasattr(column, "toarray") else column


def test_numbers_are_standardised_and_gaps_are_the_mean_with_an_indicator() -> None:
    encoder, raw = TableEncoder(), without_text()
    Z = encoder.fit_transform(raw)
    bill = np.array([np.nan if v is None else v for v in raw["bill"]])
    gaps = np.isnan(bill)
    expected = np.where(gaps, 0, (bill - np.nanmean(bill)) / np.nanstd(bill))
    np.testing.assert_allclose(feature(encoder, Z, "bill"), expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(feature(encoder, Z, "bill is missing"), gaps)
    assert "year is missing" not in encoder.get_feature_names_out()


def test_a_gap_that_training_did_not_have_is_the_mean() -> None:
    encoder = TableEncoder().fit(without_text())
    Z = encoder.transform(without_text() | {"year": [None] * N})
    np.testing.assert_array_equal(feature(encoder, Z, "year"), np.zeros(N))


def test_categories_have_an_indicator_for_each_value_and_for_gaps() -> None:
    encoder, raw = TableEncoder(), without_text()
    Z = encoder.fit_transform(raw)
    for value in ("Biscoe", "Dream", "Torgersen"):
        np.testing.assert_array_equal(feature(encoder, Z, f"island={value}"), np.array(raw["island"]) == value)
    np.testing.assert_array_equal(feature(encoder, Z, "sex is missing"), [value is None for value in raw["sex"]])


def test_rare_values_share_an_indicator_with_unseen_ones() -> None:
    raw = {"place": ["a"] * 5 + ["b"] * 4 + ["c", "d", "e"]}
    encoder = TableEncoder(min_frequency=2)
    Z = encoder.fit_transform(raw)
    assert encoder.get_feature_names_out().tolist() == ["place=a", "place=b", "place is rare or new"]
    np.testing.assert_array_equal(Z[:, 2], [0] * 9 + [1] * 3)
    np.testing.assert_array_equal(encoder.transform({"place": ["z", "a"]}), [[0, 0, 1], [1, 0, 0]])


def test_columns_of_mostly_rare_values_are_left_out() -> None:
    raw = {"price": [f"{i}.50 EUR" for i in range(28)] + ["1.00 EUR"] * 12, "kind": ["a", "b"] * 20}
    with pytest.warns(UserWarning, match=r"'price' is left out: most of its 29 values occur in fewer than 2 rows"):
        assert TableEncoder().fit(raw).left_out_.keys() == {"price"}


def test_without_rare_values_an_unseen_one_has_zeros_alone() -> None:
    encoder = TableEncoder().fit({"place": ["a", "a", "b", "b"]})
    np.testing.assert_array_equal(encoder.transform({"place": ["z", "b"]}), [[0, 0], [0, 1]])


def test_text_is_the_tf_idf_of_words_and_pairs_that_occur_in_two_rows() -> None:
    raw = {"note": table()["note"]}
    encoder = TableEncoder(n_hashes=1 << 12)
    Z = encoder.fit_transform(raw)
    vectorizer = HashingVectorizer(n_features=1 << 12, ngram_range=(1, 2), alternate_sign=False, norm=None)
    counts = vectorizer.transform(raw["note"]).toarray()
    counts = counts[:, (counts > 0).sum(axis=0) >= 2]
    expected = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    np.testing.assert_allclose(Z.toarray(), expected, rtol=1e-6)
    assert Z.dtype == np.float32
    assert encoder.transform({"note": ["nothing known", None]}).nnz == 0


def test_kinds_are_found_and_can_be_given() -> None:
    found = TableEncoder().fit(table())
    assert found.numbers_.names == ("bill", "year")
    assert found.categories_.names == ("island", "sex")
    assert [one.name for one in found.texts_] == ["note"]
    given = TableEncoder(kinds={"year": "category", "island": "text"}).fit(table())
    assert "year=2008" in given.get_feature_names_out()
    assert [one.name for one in given.texts_] == ["island", "note"]


def test_identifiers_and_empty_columns_are_left_out_with_a_warning() -> None:
    raw = without_text() | {
        "id": [f"N{i}" for i in range(N)],
        "nothing": [None] * N,
        "same": ["x"] * N,
        "dots": ["..."] * N,
    }
    raw["dots"][0] = ", . ; : !"
    with pytest.warns(UserWarning, match="left out") as warned:
        encoder = TableEncoder(kinds={"dots": "text"}).fit(raw)
    said = " ".join(str(one.message) for one in warned)
    assert (
        "'id' is left out: it has as many values as rows, so it is likely an identifier (if it is text: kinds" in said
    )
    assert encoder.left_out_.keys() == {"id", "nothing", "same", "dots"}
    assert not any(name.startswith(("id", "nothing", "same", "dots")) for name in encoder.get_feature_names_out())
    encoder.transform(without_text())  # they are not needed


@pytest.mark.parametrize("date", ["2020-01-02", "2020-01-02 10:30:00", "1/2/2020", "02.01.2020", "10:30", "2020/01/02"])
def test_dates_are_refused_by_name(date: str) -> None:
    with pytest.raises(
        ValueError, match=r"column 'when' holds dates or times, such as .*, and so do 'then'; .*--drop then"
    ):
        TableEncoder().fit(without_text() | {"when": [date] * N, "then": [date] * N})
    TableEncoder(kinds={"when": "category"}).fit(without_text() | {"when": [date, None] * (N // 2)})


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_of_every_library_give_the_same_features(library: str) -> None:
    frames = pytest.importorskip(library)
    make = frames.table if library == "pyarrow" else frames.DataFrame
    encoder = TableEncoder().fit(table())
    found, expected = encoder.transform(make(table())), encoder.transform(table())
    assert (found != expected).nnz == 0
    assert (
        TableEncoder().fit(make(table())).get_feature_names_out().tolist() == encoder.get_feature_names_out().tolist()
    )


def test_columns_of_objects_that_are_numbers_are_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "words": ["1", "2.5", "NA"],
            "mixed": pandas.Series([1, "2", None], dtype=object),
            "flag": [True, False, True],
            "nullable": pandas.array([1, None, 3], dtype="Int64"),
            "codes": pandas.Categorical(["1", "2", "1"]),
        }
    )
    columns = as_columns(frame).columns
    np.testing.assert_array_equal(columns["words"], [1, 2.5, np.nan])
    np.testing.assert_array_equal(columns["mixed"], [1, 2, np.nan])
    np.testing.assert_array_equal(columns["flag"], [1, 0, 1])
    np.testing.assert_array_equal(columns["nullable"], [1, np.nan, 3])
    assert columns["codes"].tolist() == ["1", "2", "1"]


def test_many_features_are_sparse() -> None:
    assert isinstance(TableEncoder().fit_transform(without_text()), np.ndarray)
    values = [f"v{i}" for i in range(MOST_DENSE + 1)] * 2
    Z = TableEncoder().fit_transform({"place": values})
    assert Z.shape == (len(values), MOST_DENSE + 1)
    assert Z.nnz == len(values)


def test_a_pipeline_predicts_for_tables_and_for_their_features() -> None:
    raw, y = table(), np.arange(N) % 3 == 0
    model = make_table_classifier(SoftmaxClassifier(C=10), n_hashes=1 << 12).fit(raw, y)
    Z = model["encoder"].transform(raw)
    np.testing.assert_array_equal(model.predict_proba(raw), model.predict_proba(Z))
    assert model["encoder"].n_hashes == 1 << 12
    clone(model).fit(raw, y)


def test_a_model_of_an_array_takes_arrays_by_position() -> None:
    X = np.array([["a", 1.0], ["b", 2.0], ["a", None], ["b", 4.0]], dtype=object)
    encoder = TableEncoder().fit(X)
    assert encoder.get_feature_names_out().tolist() == ["1", "1 is missing", "0=a", "0=b"]
    codes = np.array([["01", 1.0], ["02", 2.0], ["1", 0.0], ["01", 1.0]] * 2, dtype=object)
    coded = TableEncoder(kinds={"0": "category"}).fit(codes)
    np.testing.assert_array_equal(
        coded.transform(codes)[:, 1:], np.tile([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], (2, 1))
    )
    with pytest.warns(UserWarning, match="columns count by position"):
        found = encoder.transform({"first": X[:, 0], "second": X[:, 1]})
    np.testing.assert_array_equal(found, encoder.transform(X))
    with pytest.raises(ValueError, match=r"X has 3 columns; pass 2, as in training"):
        encoder.transform(X[:, [0, 1, 1]])
    assert not hasattr(encoder, "feature_names_in_")


def test_fields_are_checked_by_name() -> None:
    encoder = TableEncoder().fit(without_text())
    with pytest.raises(ValueError, match=r"column 'bill' is 'long' in row 1; expected a number, as in training"):
        encoder.transform(without_text() | {"bill": [1.0, "long"] + [2.0] * (N - 2)})
    for infinite in ([np.inf] * N, np.full(N, np.inf), ["inf"] * N):
        with pytest.raises(ValueError, match=r"column 'bill' is '?inf'? in row 0; expected a (finite )?number"):
            encoder.transform(without_text() | {"bill": infinite})
    with pytest.raises(ValueError, match=r"X has no column 'sex'; pass all columns of training"):
        encoder.transform({name: column for name, column in without_text().items() if name != "sex"})
    with pytest.raises(ValueError, match=r"X is a ndarray of shape \(2, 3\), without names; pass a data frame with"):
        encoder.transform(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"column 'sex' holds \[1\], a list, in row 0; expected numbers or text"):
        encoder.transform(without_text() | {"sex": [[1]] * N})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kinds": {"sx": "category"}}, "there is no column 'sx', as kinds says; there are"),
        ({"kinds": {"sex": "words"}}, r"kinds\['sex'\]='words'"),
        ({"min_frequency": 0}, "min_frequency=0"),
        ({"n_hashes": 0}, "n_hashes=0"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableEncoder(**parameters).fit(without_text())


def test_a_table_without_usable_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="no column is usable: 'id': it has as many values as rows"):
        TableEncoder().fit({"id": [f"N{i}" for i in range(N)]})
    with pytest.raises(ValueError, match=r"X is empty, of shape \(0, 1\)"):
        TableEncoder().fit({"id": []})


def test_the_report_says_what_became_of_the_columns() -> None:
    assert TableEncoder().fit(without_text()).report_ == (
        "1 column of numbers; bill: 5 gaps as the mean; island: 3 values as indicators; sex: 2 values as indicators, "
        "13 gaps"
    )


def test_frames_are_read_without_importing_their_libraries() -> None:
    before = set(sys.modules)
    TableEncoder().fit_transform(without_text())
    assert not {"pandas", "polars", "pyarrow"} & (set(sys.modules) - before)


# what a file, a frame and a Parquet table say alike


def spellings() -> dict[str, list[Any]]:
    """Columns of which files and frames have their own spellings."""
    return {
        "flag": [True, False, True, False] * 5,
        "code": [1, 2, 3, 1] * 5,
        "half": [0.5, 1.0, 0.5, 2.0] * 5,
        "word": ["True", "false", "x", "1.0"] * 5,
        "digits": ["01", "02", "10", "01"] * 5,
    }


@pytest.mark.parametrize("kinds", [None, {"flag": "category", "code": "category", "half": "category"}])
def test_a_table_is_encoded_alike_from_every_library_and_from_text(kinds: Any) -> None:
    pandas, polars, pyarrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    raw = spellings()
    frame = pandas.DataFrame(raw)
    text = {name: [str(value) for value in column] for name, column in raw.items()}
    encoder = TableEncoder(kinds=kinds).fit(frame)
    expected = encoder.transform(frame)
    forms = frame.convert_dtypes(), polars.DataFrame(raw), pyarrow.table(raw), raw, text, pandas.DataFrame(text)
    for form in forms:
        np.testing.assert_array_equal(encoder.transform(form), expected)
        assert TableEncoder(kinds=kinds).fit(form).get_feature_names_out().tolist() == (
            encoder.get_feature_names_out().tolist()
        )


def test_categories_keep_the_digits_of_their_own_type() -> None:
    table = {"id": np.array([2**53, 2**53 + 1] * 3), "part": np.array([0.1, 0.2, 0.3] * 2, np.float32)}
    encoder = TableEncoder(kinds={"id": "category", "part": "category"}).fit(table)
    names = encoder.get_feature_names_out().tolist()
    assert names == [f"id={2**53}", f"id={2**53 + 1}", "part=0.1", "part=0.2", "part=0.3"]


def test_a_stray_word_among_numbers_is_refused_by_its_place() -> None:
    column: list[Any] = [str(i / 7) for i in range(50)]
    column[17] = "missing"
    with pytest.raises(ValueError, match=r"column 'x' is 'missing' in row 17; expected a number or a gap, since 49 of"):
        TableEncoder().fit({"x": column})
    TableEncoder(kinds={"x": "text"}).fit({"x": column})


def test_an_array_is_never_guessed_to_be_raw_or_encoded() -> None:
    table = {"a": [1.0, 2.0, 3.0], "b": [3.0, 1.0, 2.0]}
    encoder = TableEncoder().fit(table)
    with pytest.raises(ValueError, match=r"without names; pass a data frame .*call the classifier alone"):
        encoder.transform(np.array(list(table.values())).T)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": [1, 2, 3], "b": [5]}, "columns of 1 and 3 rows"),
        ({"a": "123"}, "column 'a' of X is '123'; pass its values"),
        ({"a": 5}, "column 'a' of X is 5; pass its values"),
        ({"a": np.ones((2, 2))}, r"column 'a' of X has shape \(2, 2\)"),
        ({1: [1, 2], "1": [3, 4]}, "two columns '1'"),
        (np.zeros((2, 2, 2)), "X has shape"),
    ],
)
def test_tables_of_odd_shapes_are_refused(table: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TableEncoder().fit(table)


def test_a_mask_marks_gaps() -> None:
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    np.testing.assert_array_equal(as_columns({"a": masked}).columns["a"], [1, np.nan, 3])


def test_names_that_are_numbers_or_tuples_are_written_as_text() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.arange(6.0).reshape(3, 2))
    assert TableEncoder().fit(frame).get_feature_names_out().tolist() == ["0", "1"]
    with pytest.raises(ValueError, match="two columns '1'"):
        TableEncoder().fit(pandas.DataFrame([[1, 2]], columns=[1, "1"]))
    nested = pandas.DataFrame([[1, 2], [2, 3]], columns=pandas.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))
    assert TableEncoder().fit(nested).n_features_in_ == 2


def test_columns_that_are_not_used_are_not_looked_at() -> None:
    encoder = TableEncoder().fit(without_text())
    encoder.transform(without_text() | {"when": [np.datetime64("2020-01-01")] * N, "list": [[1]] * N})


def test_a_fit_that_fails_changes_nothing() -> None:
    encoder = TableEncoder().fit(without_text())
    before = encoder.left_out_, encoder.columns_
    with pytest.raises(ValueError, match="dates"):
        encoder.fit({"id": [f"N{i}" for i in range(N)], "when": ["2020-01-01"] * N})
    assert (encoder.left_out_, encoder.columns_) == before
