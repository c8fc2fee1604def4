"""ARFF, Weka's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import arff
from gpusoftmax.files.arff import is_arff
from gpusoftmax.files.load import load_data, read_parts
from gpusoftmax.files.table import Columns

DECLARED = """% Trees
@RELATION trees

@attribute length NUMERIC
@attribute 'width (cm)' real
@attribute hue {red,'dark blue',green}
@attribute class {ash, birch}

@DATA
"""
ROWS = "1,2.5,red,ash\n% remeasured\n3,?,'dark blue',birch\n5,6.5,green,ash\n"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def write_and_read(content: str, columns: Columns | None = None, name: str = "a.arff") -> Any:
        (tmp_path / name).write_text(content, encoding="utf-8")
        [table] = read_parts(tmp_path / name, Columns() if columns is None else columns).values()
        return table

    return write_and_read


@pytest.mark.parametrize("name", ["a.arff", "a.txt", "a"])
def test_numbers_and_labels_are_read(name: str, read: Any) -> None:
    table = read(DECLARED + ROWS.replace("?", "4"), Columns(drop=("hue",)), name)
    assert (table.values.tolist(), table.y.tolist()) == ([[1, 2.5], [3, 4], [5, 6.5]], ["ash", "birch", "ash"])
    assert (table.feature_names, table.label, table.lines.tolist()) == (("length", "width (cm)"), "class", [10, 12, 13])


def test_words_and_gaps_are_raw_columns(read: Any) -> None:
    columns = read(DECLARED + ROWS, Columns(raw=True)).values.columns
    assert columns["hue"].tolist() == ["red", "dark blue", "green"]
    np.testing.assert_array_equal(columns["width (cm)"], [2.5, np.nan, 6.5])


def test_words_that_are_numbers_are_words(read: Any) -> None:
    text = "@relation r\n@attribute size {1,2}\n@attribute class {a,b}\n@data\n1,a\n2,b\n"
    assert read(text, Columns(raw=True)).values.columns["size"].tolist() == ["1", "2"]


@pytest.mark.parametrize("delimiter", [",", ", ", "\t", "  "])
def test_rows_may_have_tabs_and_blanks(delimiter: str, read: Any) -> None:
    text = "@relation r\n@attribute a real\n@attribute class {x,y}\n@data\n1,x\n2,y\n"
    head, rows = text.split("@data\n")
    assert read(f"{head}@data\n{rows.replace(',', delimiter)}").values.tolist() == [[1], [2]]


def test_a_table_in_arff_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(DECLARED + ROWS.replace("?", "4") * 5, encoding="utf-8")
    assert load_data(tmp_path / "a.arff", drop=["hue"], validation=0, test=0).X_train.shape == (15, 2)


BAD = {
    "text among numbers": (DECLARED + ROWS.replace("1", "one"), r"line 10: column 1 \('length'\) is 'one'"),
    "too few fields": (DECLARED + ROWS.replace(",red", ""), "line 10: 3 fields; expected 4"),
    "sparse rows": (DECLARED + "{0 1, 3 ash}\n", "line 10: rows are sparse ARFF"),
    "no rows": (DECLARED, "declarations without rows"),
    "comments alone": (DECLARED + "% none\n", "without rows"),
    "strings": (DECLARED.replace("real", "string") + ROWS, "a declaration is not read: String attributes"),
    "relations": (DECLARED.replace("real", "relational") + ROWS, "declaration is not read|of another type"),
    "an unknown type": (DECLARED.replace("real", "other") + ROWS, "a declaration is not read"),
    "no data": ("@relation r\n@attribute a real\n", "without rows|not read"),
    "no columns": ("@relation r\n@data\n1\n", "declares 0 columns"),
    "two kinds of quotes": (DECLARED + ROWS + "1,2,\"red\",ash\n", "both kinds of quotes"),
}  # fmt: skip


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_arff_is_refused(text: str, message: str, raw: bool, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(text, Columns(raw=raw, drop=() if raw else ("hue",)))


def test_declarations_without_an_end_are_refused(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arff, "MOST_DECLARATIONS", 100)
    with pytest.raises(BadFileError, match="more than 100 characters of declarations"):
        read(DECLARED + ROWS)


@pytest.mark.parametrize("text", ["@relation\n", "% a\n\n @RELATION x\n", "@Relation\tx\n"])
def test_its_first_line_tells(text: str) -> None:
    assert is_arff(text.splitlines(keepends=True))


@pytest.mark.parametrize("text", ["relation,a\n", "@relations,a\n", "%\n", ""])
def test_other_first_lines_are_those_of_tables(text: str) -> None:
    assert not is_arff(text.splitlines(keepends=True))
