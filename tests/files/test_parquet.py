"""Parquet tables, and the message where pyarrow is not installed."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.parquet import read_parquet
from gpusoftmax.files.table import Columns

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DEFAULT = Columns()


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def write_and_read(columns: dict[str, Any], wanted: Columns = DEFAULT) -> Any:
        parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        return read_parquet(tmp_path / "a.parquet", wanted)

    return write_and_read


@pytest.mark.parametrize(
    ("dtypes", "expected"), [(("f4", "f4"), "f4"), (("u1", "u1"), "u1"), (("f4", "i4"), "f8"), (("?", "?"), "?")]
)
def test_the_smallest_type_that_holds_all_columns_is_taken(dtypes: Any, expected: str, read: Any) -> None:
    table = read({"a": np.ones(2, dtypes[0]), "b": np.zeros(2, dtypes[1]), "label": ["x", "y"]})
    assert (table.values.dtype, table.values.tolist()) == (np.dtype(expected), [[1, 0], [1, 0]])
    assert (table.feature_names, table.y.tolist()) == (("a", "b"), ["x", "y"])


def test_labels_may_be_numbers_or_a_dictionary(read: Any) -> None:
    assert read({"a": [1.0, 2], "label": [3, 4]}).y.tolist() == [3, 4]
    assert read({"a": [1.0, 2], "label": pyarrow.array(["x", "y"]).dictionary_encode()}).y.tolist() == ["x", "y"]


@pytest.mark.parametrize("kind", [pyarrow.list_(pyarrow.float32()), pyarrow.list_(pyarrow.float32(), 3)])
def test_a_column_of_lists_is_a_matrix(kind: Any, read: Any) -> None:
    table = read({"embedding": pyarrow.array([[1, 2, 3], [4, 5, 6]], kind), "label": [0, 1]})
    assert (table.values.tolist(), table.values.dtype) == ([[1, 2, 3], [4, 5, 6]], np.float32)


def test_elements_of_lists_have_names_beside_other_columns(read: Any) -> None:
    table = read({"e": [[1.0, 2.0], [4.0, 5.0]], "age": [7.0, 8.0], "label": [0, 1]})
    assert (table.values.tolist(), table.feature_names) == ([[1, 2, 7], [4, 5, 8]], ("e[0]", "e[1]", "age"))
    assert table.label == "label"


def test_elements_of_lists_are_found_by_name_whatever_else_there_is(read: Any) -> None:
    asked = Columns(need_label=False, features=("e[1]", "age", "e[0]", "x[0]"))
    columns = {
        "text": ["p", "q"],
        "age": [7.0, 8.0],
        "e": [[1.0, 2.0], [4.0, 5.0]],
        "x[0]": [3.0, 6.0],
        "x": [[9], [9]],
    }
    table = read(columns, asked)
    assert (table.values.tolist(), table.feature_names) == ([[2, 7, 1, 3], [5, 8, 4, 6]], asked.features)
    with pytest.raises(BadFileError, match=r"has no 'e\[2\]'; expected all 3 features"):
        read(columns, Columns(need_label=False, features=("e[0]", "e[1]", "e[2]")))


@pytest.mark.parametrize(
    "dropped",
    [
        pyarrow.array(["p", None]),
        pyarrow.array([[1.0], [1.0, 2.0]]),
        pyarrow.array([{"a": 1}, None]),
        pyarrow.array([b"\xff", b""]),
        pyarrow.array([None, None]),
    ],
    ids=["text with gaps", "ragged lists", "structures", "bytes", "nothing"],
)
def test_dropped_columns_may_hold_anything(dropped: Any, read: Any) -> None:
    assert read({"a": [1.0, 2.0], "b": dropped, "label": [0, 1]}, Columns(drop=("b",))).values.tolist() == [[1], [2]]
    assert read({"a": [1.0, 2.0], "b": dropped}, Columns(need_label=False, features=("a",))).values.tolist() == [
        [1],
        [2],
    ]


def test_it_is_read_without_threads(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # threads of pyarrow that outlive an error abort the process, one time in thirty
    asked: list[Any] = []
    read_all, begin = parquet.ParquetFile.read, parquet.ParquetFile.__init__
    monkeypatch.setattr(
        parquet.ParquetFile, "read", lambda *a, **o: asked.append(o["use_threads"]) or read_all(*a, **o)
    )
    monkeypatch.setattr(
        parquet.ParquetFile, "__init__", lambda *a, **o: asked.append(o["pre_buffer"]) or begin(*a, **o)
    )
    read({"a": [1.0], "label": [0]})
    assert asked == [False, False]


BAD: dict[str, Any] = {
    "text": ({"a": ["p", "q"], "label": [0, 1]}, "column 'a': is of type string; expected numbers.*drop"),
    "a gap": ({"a": [1.0, None], "label": [0, 1]}, "column 'a', row 1: is missing"),
    "a missing label": ({"a": [1.0, 2.0], "label": ["x", None]}, "column 'label', row 1: is missing"),
    "dates": ({"a": np.array(["2020", "2021"], "M8[s]"), "label": [0, 1]}, "column 'a': is of type timestamp"),
    "lists of two lengths": ({"a": [[1.0], [1.0, 2.0]], "label": [0, 1]}, "different lengths"),
    "lists with missing values": ({"a": [[1.0], [None]], "label": [0, 1]}, "lists with missing values"),
    "lists of text": ({"a": [["p"], ["q"]], "label": [0, 1]}, "expected numbers"),
    "a structure": ({"a": [{"x": 1}], "label": [0]}, "column 'a': is of type struct"),
    "labels of bytes": ({"a": [1.0], "label": [b"\xff"]}, "column 'label': is of type binary; expected labels"),
    "labels of lists": ({"a": [1.0], "label": [[1]]}, "column 'label': is of type list"),
    "a label without an end": ({"a": [1.0], "label": ["x" * 1001]}, "a label of 1001; expected labels of at most 1000"),
    "no rows": ({"a": np.ones(0), "label": np.ones(0)}, "no rows"),
    "no label": ({"a": [1.0], "b": [2.0]}, "no column that is clearly the labels among 2 columns: a, b"),
}


@pytest.mark.parametrize(("columns", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_table_of_numbers_is_refused_by_column(columns: Any, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(columns)


@pytest.mark.parametrize("name", [None, "key"])
def test_an_index_of_pandas_is_no_feature(name: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "label": list("xyz")}).iloc[[2, 0, 1]]
    frame.rename_axis(name).to_parquet(tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet", DEFAULT).feature_names == ("a",)
    assert f"({name or '__index_level_0__'!r}) is taken for row numbers and left out" in caplog.text


def test_an_index_of_pandas_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.0, 2.0]}, index=pandas.Index([7, 8], name="key")).to_parquet(tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet", Columns("key")).y.tolist() == [7, 8]
    assert read_parquet(tmp_path / "a.parquet", Columns(None, False, ("key",))).values.tolist() == [[7], [8]]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"no parquet at all"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(BadFileError, match="expected a parquet file"):
        read_parquet(tmp_path / "a.parquet", DEFAULT)


def test_a_file_cut_off_anywhere_is_refused(read: Any, tmp_path: Path) -> None:
    read({"a": np.arange(5.0), "label": [0, 1, 0, 1, 0]})
    whole = (tmp_path / "a.parquet").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.parquet").write_bytes(whole[:length])
        with pytest.raises(BadFileError):
            read_parquet(tmp_path / "a.parquet", DEFAULT)


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'gpusoftmax\[parquet\]', or save the table as \.csv"):
        read_parquet(tmp_path / "a.parquet", DEFAULT)


def test_decimals_and_views_of_text_are_read(tmp_path: Path) -> None:
    """Columns of the types that databases write."""
    a = pyarrow.array([Decimal("1.50"), Decimal("-2.25")])
    table = pyarrow.table({"a": a, "label": pyarrow.array(["x", "y"], pyarrow.string_view())})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_parquet(tmp_path / "t.parquet", Columns())
    assert found.values.tolist() == [[1.5], [-2.25]]
    assert found.y is not None
    assert found.y.tolist() == ["x", "y"]


def test_raw_columns_are_numbers_with_gaps_or_text(read: Any) -> None:
    table = read(
        {
            "text": ["red", None, " - "], "kind": pyarrow.array(["p", "q", "p"]).dictionary_encode(),
            "count": [1, None, 3], "nan": [1.0, float("nan"), 2.0], "nothing": pyarrow.array([None] * 3),
            "label": [0, 1, 1],
        },
        Columns(raw=True),
    )  # fmt: skip
    columns = table.values.columns
    assert (columns["text"].tolist(), columns["kind"].tolist()) == (["red", None, None], ["p", "q", "p"])
    np.testing.assert_array_equal(columns["count"], [1, np.nan, 3])
    np.testing.assert_array_equal(columns["nan"], [1, np.nan, 2])
    assert np.isnan(columns["nothing"]).all()
    assert (table.values.shape, table.y.tolist()) == ((3, 5), [0, 1, 1])


def test_plain_numbers_are_a_matrix_even_if_raw_columns_are_wanted(read: Any) -> None:
    assert read({"a": [1.0, 2.0], "label": [0, 1]}, Columns(raw=True)).values.tolist() == [[1], [2]]
