"""CSV tables: what is read; anything but a table of numbers is refused with its line and column."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import csv_file
from gpusoftmax.files.csv_file import read_csv
from gpusoftmax.files.table import Columns

DEFAULT, ANY = Columns(), Columns(need_label=False)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes a text, or bytes, and reads it."""

    def write_and_read(content: str | bytes, columns: Columns = DEFAULT) -> Any:
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_csv(path, columns)

    return write_and_read


def test_a_table_with_a_header_gives_features_labels_and_names(read: Any) -> None:
    table = read("a,species,b\n1,ash,2\n3.5,birch,-4e2\n", Columns("species"))
    np.testing.assert_array_equal(table.values, [[1, 2], [3.5, -400]])
    assert (table.values.dtype, table.y.tolist(), table.feature_names) == (np.float64, ["ash", "birch"], ("a", "b"))


@pytest.mark.parametrize("name", ["label", "Labels", "CLASS", "target", "y"])
def test_a_column_with_a_usual_name_holds_the_labels(name: str, read: Any) -> None:
    assert read(f"a,{name}\n1,ash\n").y.tolist() == ["ash"]


@pytest.mark.parametrize(
    ("position", "labels", "X"), [(0, ["1"], [[2, 3]]), (-1, ["3"], [[1, 2]]), (1, ["2"], [[1, 3]])]
)
@pytest.mark.parametrize("header", ["", "a,b,c\n"])
def test_a_position_names_the_labels_with_and_without_a_header(
    header: str, position: int, labels: Any, X: Any, read: Any
) -> None:
    table = read(f"{header}1,2,3\n", Columns(position))
    assert (table.y.tolist(), table.values.tolist(), table.feature_names is None) == (labels, X, not header)


def test_a_header_of_numbers_is_one_if_the_label_is_named(read: Any) -> None:
    table = read("0,1,kind\n5,6,ash\n", Columns("kind"))
    assert (table.values.tolist(), table.feature_names) == ([[5, 6]], ("0", "1"))


def test_labels_may_be_absent_where_none_are_needed(read: Any) -> None:
    table = read("1,2\n3,4\n", ANY)
    assert (table.values.tolist(), table.y) == ([[1, 2], [3, 4]], None)


def test_columns_are_taken_by_name_in_the_order_asked_for_and_others_left_out(read: Any) -> None:
    table = read("remark,b,a\nhello,1,2\n", Columns(need_label=False, features=("a", "b")))
    assert (table.values.tolist(), table.feature_names) == ([[2, 1]], ("a", "b"))


def test_dropped_columns_may_hold_anything(read: Any) -> None:
    table = read("id,a,note,label\nx7,1,,ash\n", Columns(drop=("id", "note")))
    assert (table.values.tolist(), table.feature_names, table.y.tolist()) == ([[1]], ("a",), ["ash"])


def test_a_first_row_with_a_gap_is_no_header(read: Any) -> None:
    with pytest.raises(BadFileError, match="line 1: column 1 is 'NA'"):
        read("NA,ash\n1,birch\n", Columns(-1))


def test_a_tsv_is_parted_by_tabs_whatever_its_header_holds(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a, in m, or so\tlabel\n1\tash\n", encoding="utf-8")
    assert read_csv(tmp_path / "a.tsv", DEFAULT).feature_names == ("a, in m, or so",)


def test_a_blank_first_line_does_not_decide_what_parts_fields(read: Any) -> None:
    assert read("\n\na;b;label\n1;2;x\n").values.tolist() == [[1, 2]]


ROWS = "".join(f"{i % 7},{i % 3}.5,{i % 5},k{i % 3}\n" for i in range(30))  # three columns, and labels in words
DIGITS = "".join(f"{i % 7},{i % 3},{i % 5},{i % 4}\n" for i in range(30))
NEVER_RISING = "".join(f"{9 + i % 7},{i % 3},{i % 5},{i % 4}\n" for i in range(30))
WORDS = NEVER_RISING.replace("\n", ",k0\n") + "1,0,0,0,k1\n"
HEADERS: dict[str, Any] = {
    "years over a usual name": ("2019,2020,2021,label\n" + ROWS, Columns(), True),
    "years over a usual name by position": ("2019,2020,2030,label\n" + ROWS, Columns(-1), True),
    "scattered numbers over a usual name": ("7,3,5,Target\n" + ROWS, Columns(), True),
    "names that are known": ("2,9,4,kind\n" + ROWS, Columns(need_label=False, features=("4", "2")), True),
    "names that are known, over numbers": ("2,9,4,7\n" + DIGITS, Columns("-1", features=("4", "2", "9")), True),
    "a name that is dropped": ("2,9,4,kind\n" + ROWS, Columns("-1", drop=("9",)), True),
    "numbers that count, and a new word": ("Letter,1,2,3\nT,2,8,3\nI,2,8,3\nT,4,4,1\n", Columns(0), True),
    "exponents": ("1e3,2e3,4e3,kind\n" + ROWS.replace("k", ""), Columns(-1), True),
    "a word over numbers": ("age,2019,2025,kind\n" + ROWS, Columns(-1), True),
    "a word over labels of numbers": ("7,3,5,kind\n" + DIGITS, Columns(-1), True),
    "rising numbers": ("0.5,0.7,0.8,1.2,1.3,kind\n" + "1,1,2,1,1,a\n1,2,1,1,1,b\n" * 5, Columns(-1), True),
    "a label that never occurs again": ("7,3,5,kind\n" + ROWS, Columns(-1), True),
    "years": ("2019,2020,2021,2022\n" + NEVER_RISING, Columns(-1), True),
    "four numbers that rise, over many rows": ("3,7,12,40\n" + NEVER_RISING * 4, Columns(-1), True),
    "numbers of pandas over parts": ("0,1,2,3\n" + DIGITS.replace(",1,", ",1.5,"), Columns(-1), True),
    "numbers of pandas over pixels": ("0,1,2,3,4,5,6,7,8,9,10\n0,7,3,1,0,9,0,7,3,1,0\n", Columns(-1), True),
    "pandas' index and numbers": (",0,1,2,3\n" + DIGITS.replace("\n", "\n5,")[:-2].join(["5,", ""]), Columns(-1), True),
    "a row of numbers": (DIGITS, Columns(-1), False),
    "a row of numbers and a word": (ROWS, Columns(-1), False),
    "a row whose label is new, with values that repeat": ("2,2,1,new\n" + ROWS, Columns(-1), False),
    "a row with a value like a position": ("1,0,2,0\n" + DIGITS, Columns("0"), False),
    "a row with a value like a negative position": ("-1,0,2,3\n" + DIGITS, Columns("-1"), False),
    "a row whose label is a usual name": ("1,7,3,y\n1,2,3,n\n5,2,3,y\n", Columns(-1), False),
    "four numbers that rise, over a few rows": ("3,7,12,40\n" + NEVER_RISING, Columns(-1), False),
    "numbers that rise, and a word that occurs again": ("3,7,12,40,k0\n" + WORDS * 4, Columns(-1), False),
    "numbers that rise as those of another row": ("3,7,12,40\n" + NEVER_RISING * 4 + "1,2,9,40\n", Columns(-1), False),
    "a row of few numbers that count": ("1,2,3\n4,5,6\n", Columns(-1), False),
    "a row of booleans": ("True,False,x\nTrue,True,y\n", Columns(-1), False),
    "a row of known names that repeat": ("0,1,1,0\n" + DIGITS, Columns(None, False, ("0", "7", "8", "9")), False),
    "as it is said, a header": ("7,3,5,6\n" + DIGITS, Columns(-1, header=True), True),
    "as it is said, a row": ("0,1,2,3\n" + DIGITS.replace(",1,", ",1.5,"), Columns(-1, header=False), False),
}  # fmt: skip


@pytest.mark.parametrize(("content", "columns", "named"), HEADERS.values(), ids=HEADERS.keys())
def test_a_first_line_is_a_header_where_names_or_rows_below_say_so(
    content: str, columns: Columns, named: bool, read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = read(content, columns)
    assert (table.feature_names is not None, len(table.values)) == (named, content.count("\n") - named)
    assert ("has no header: its first line is read as a row" in caplog.text) == (not named and columns.header is None)


@pytest.mark.parametrize(
    ("first", "columns", "message"),
    [
        ("0,1,2,3\n", Columns(-1), "line 1: these may be names or values; expected header=True or .*--no-header"),
        (
            "0.5,9,2,7\n",
            Columns(need_label=False, features=("9", "8")),
            "line 1: has some of the requested names.* not '8'",
        ),
    ],
)
def test_a_first_line_that_may_be_either_is_refused(first: str, columns: Columns, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(first + (ROWS if "kind" in first else DIGITS), columns)


def test_a_word_in_a_first_row_may_be_a_name(read: Any) -> None:
    with pytest.raises(
        BadFileError, match=r"line 1: column 1 is 'age'.*; if these are names, header=True \(--header\)"
    ):
        read("age,2019,2025\n1,2,3\n", ANY)


@pytest.mark.slow
def test_rows_that_were_looked_at_for_a_header_keep_their_lines(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "AT_ONCE", 16)
    table = read(f"\n1,2,2,k0\n\n{ROWS}", Columns(-1))
    assert table.lines.tolist() == [2, *range(4, 34)]
    with pytest.raises(BadFileError, match=r"line 5: column 1 is '1_0'"):
        read(f"\n1,2,2,k0\n\n0,1,1,k1\n1_0,1,1,k0\n{ROWS}", Columns(-1))


@pytest.mark.parametrize("field", ["6_1", "\u0661", "\uff11", "1_000.5", "1e1_0", "_1"])
@pytest.mark.parametrize("at_once", [1, 6, 1 << 16])
def test_numbers_are_written_in_ascii_without_underscores(
    field: str, at_once: int, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "AT_ONCE", at_once)
    with pytest.raises(BadFileError, match=r"line 4: column 2 \('b_1'\) is"):
        read(f"a_1,b_1,label\n1,2,k_\u00e9\n1,2,k_2\n3,{field},k_3\n1,2,k_4\n")


def test_signs_that_are_no_numbers_may_be_in_names_labels_and_dropped_columns(read: Any) -> None:
    table = read("a_1,b,label\n1,x_\u0661,k_1\n2,y_1,\u0661\n", Columns(drop=("b",)))
    assert (table.values.tolist(), table.y.tolist()) == ([[1], [2]], ["k_1", "\u0661"])


@pytest.mark.parametrize("true", ["True", "true", "TRUE", " True "])
def test_booleans_are_one_and_zero(true: str, read: Any) -> None:
    table = read(f"a,red,label\n1,{true},x\n2,False,y\n3,1,y\n")
    assert table.values.tolist() == [[1, 1], [2, 0], [3, 1]]


@pytest.mark.parametrize("text", ["word " * 30_000, '"' + "word, " * 30_000 + '"'], ids=["plain", "quoted"])
def test_a_long_field_that_is_dropped_does_not_matter(text: str, read: Any) -> None:
    assert read(f"a,text,label\n1,{text},x\n2,b,y\n", Columns(drop=("text",))).values.tolist() == [[1], [2]]


def test_names_of_dropped_columns_may_stand_twice(read: Any) -> None:
    assert read("a,b,b,label\n1,p,q,x\n", Columns(drop=("b",))).values.tolist() == [[1]]
    assert read("a,b,b,label\n1,p,q,x\n", Columns(need_label=False, features=("a",))).values.tolist() == [[1]]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_a_column_without_a_name_is_left_out_with_a_warning(
    name: str, read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = read(f"{name},a,label\n8,1,x\n6,2,y\n")
    assert (table.values.tolist(), table.feature_names) == ([[1], [2]], ("a",))
    assert "is taken for row numbers and left out" in caplog.text


def test_columns_that_end_in_a_separator_are_left_out(read: Any) -> None:
    assert read("a;label;;\n1;x;;\n2;y;;\n").values.tolist() == [[1], [2]]


def test_a_column_without_a_name_that_is_asked_for_is_taken(read: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert read(",a\n8,1\n", Columns(need_label=False, features=("", "a"))).values.tolist() == [[8, 1]]
    assert read(",a,label\n8,1,x\n", Columns(drop=("",))).values.tolist() == [[1]]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        '"size;cm","price;EUR",label\n1,2,x\n',
        '"a ""b;"" c";"income (USD; net; 2020)";label\n1;2;x\n',
        '"a\tb\tc",b,label\n1,2,x\n',
        '"a;b\n;c;d",b,label\n1,2,x\n',
        '"a\u2028b";b;label\n1;2;x\n',
        "sep=;\na;b,c;label\n1;2;x\n",
        '\ufeff"sep=|"\r\na|b;c|label\r\n1|2|x\r\n',
        "sep=\t\na\tb,c\tlabel\n1\t2\tx\n",
    ],
)
def test_separators_are_found_outside_quotes_or_as_the_file_says(text: str, read: Any) -> None:
    table = read(text)
    assert (table.values.tolist(), table.y.tolist()) == ([[1, 2]], ["x"])


def test_a_quote_within_a_name_opens_nothing(read: Any) -> None:
    table = read('height 5",b;c,label\n1,2,x\n3,4,y\n')
    assert (table.feature_names, table.lines.tolist()) == (('height 5"', "b;c"), [2, 3])


def test_lines_are_counted_after_a_name_on_several(read: Any) -> None:
    assert read('"a;b\n;c;d",b,label\n1,2,x\n\n3,4,y\n').lines.tolist() == [3, 5]


@pytest.mark.parametrize("first", ["a b label", "a:b:label"])
def test_a_separator_that_is_not_known_is_told_of(first: str, read: Any) -> None:
    message = rf"line 1: one column, '{re.escape(first)}'; expected fields with commas, .*--delimiter"
    with pytest.raises(BadFileError, match=message):
        read(f"{first}\n1|2|x\n")


def test_coordinates_are_no_labels(read: Any) -> None:
    with pytest.raises(BadFileError, match="no column that is clearly the labels among 4 columns: x, y, z, kind"):
        read("x,y,z,kind\n1,2,3,4\n")
    assert read("x,y\n1,2\n").y.tolist() == ["2"]


def test_a_feature_of_a_usual_name_is_no_label(read: Any) -> None:
    table = read("x,y,class\n1,2,3\n", Columns(need_label=False, features=("x", "y")))
    assert (table.values.tolist(), table.y.tolist()) == ([[1, 2]], ["3"])


def test_a_table_without_a_header_is_told_of(read: Any, caplog: pytest.LogCaptureFixture) -> None:
    read("1,2\n", ANY)
    assert "has no header: its first line is read as a row" in caplog.text


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_commas_semicolons_and_tabs_part_fields(delimiter: str, read: Any) -> None:
    table = read("a,b,label\n1,2,ash\n".replace(",", delimiter))
    assert (table.values.tolist(), table.y.tolist()) == ([[1, 2]], ["ash"])


@pytest.mark.parametrize(
    "text",
    [
        "a,b,label\r\n1,2,ash\r\n",
        "a,b,label\r1,2,ash\r",
        "a,b,label\n1,2,ash",
        "\ufeffa,b,label\n1,2,ash\n",
        "a,b,label\n\n1,2,ash\n\n",
        ' a , b ,label\n 1,\t2 , "ash"\n'.replace(' "ash"', "ash "),
        '"a","b","label"\n"1","2","ash"\n',
    ],
    ids=["Windows", "old Mac", "no last newline", "byte order mark", "blank lines", "blanks", "quotes"],
)
def test_the_same_table_in_another_dress_is_the_same(text: str, read: Any) -> None:
    table = read(text)
    assert (table.values.tolist(), table.y.tolist(), table.feature_names) == ([[1, 2]], ["ash"], ("a", "b"))


def test_a_quoted_field_may_hold_commas_quotes_and_newlines(read: Any) -> None:
    assert read('a,label\n1,"ash, ""old""\nand tall"\n').y.tolist() == ['ash, "old"\nand tall']


def test_many_rows_are_converted_in_parts(read: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(csv_file, "AT_ONCE", 7)
    X = rng.standard_normal((20, 3))
    table = read("a,b,c,label\n" + "".join(f"{a!r},{b!r},{c!r},k{i}\n" for i, (a, b, c) in enumerate(X.tolist())))
    np.testing.assert_array_equal(table.values, X)
    assert table.y.tolist() == [f"k{i}" for i in range(20)]


BAD = {
    "too few fields": ("a,b,label\n1,2,x\n3,y\n", "line 3: 2 fields; expected 3"),
    "too many fields": ("a,b,label\n1,2,x,9\n", "line 2: 4 fields; expected 3"),
    "text": ("a,b,label\n1,2,x\n3,foo,y\n", r"line 3: column 2 \('b'\) is 'foo'; expected a finite number.*--drop"),
    "NaN": ("a,b,label\nnan,2,x\n", r"line 2: column 1 \('a'\) is 'nan'"),
    "infinity": ("a,b,label\n1,2,x\n1,-inf,x\n", r"line 3: column 2 \('b'\) is '-inf'"),
    "overflow": ("a,b,label\n1,1e999,x\n", r"line 2: column 2 \('b'\) is '1e999'"),
    "a control character": ("a,b,label\n1,\x1f1,x\n", r"line 2: column 2 \('b'\) is '\\x1f1'"),
    "hexadecimal": ("a,b,label\n1,0x10,x\n", "line 2: column 2 .* is '0x10'"),
    "empty field": ("a,b,label\n1, ,x\n", r"line 2: column 2 \('b'\) is empty; .*fill it"),
    "decimal comma below": ("a;label\n" + "1;x\n" * 70_000 + "2,5;x\n", "column 1 .* is '2,5'; .*--decimal"),
    "a label without an end": (f"a,label\n1,{'x' * 1001}\n", "line 2: a label of 1001 characters; .* at most 1000"),
    "a gap in a first row": ("NA,ash,x\n1,2,3\n", "no column that is clearly the labels"),
    "no label": ("a,b,label\n1,2,x\n1,2,\n", "line 3: no label"),
    "after a line in two": ('a,b,label\n1,2,"x\ny"\n1,q,z\n', "line 4: column 2"),
    "unclosed quote": ('a,b,label\n1,2,x\n1,2,"y\n1,2,z\n', "line 3: unexpected end of data; expected .* quotes"),
    "quote within": ('a,b,label\n1,2,"x"y\n', "line 2: ',' expected after '\"'"),
    "no header": ("1,2,x\n3,4,y\n", "no column that is clearly the labels among 3 columns: 1, 2, x; .*--label"),
    "a name twice": ("a,a,label\n1,2,x\n", "two are named 'a'"),
    "labels alone": ("label\nx\n", "no features"),
    "nothing": ("", "is empty"),
    "blank lines alone": ("\n\n\n", "is empty"),
    "signs that are blank to Python alone": ("\n\x1c\x85\n", "control|one column|no column|clearly"),
    "a header alone": ("a,b,label\n", "a header without rows"),
    "a zero byte": ("a,b,label\n1,\0,x\n", "line 2: a zero byte"),
    "a row of too many lines": ('a,label\n1,"x' + "\n" * 10_001 + 'x"\n', "line 2: a row of more than 10000 lines"),
    "a field longer than a line may be": ('a,label\n1,"' + ("x" * 999 + "\n") * 5000 + '"\n', "line 2: field larger"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_table_of_numbers_is_refused_by_place(content: Any, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(content)


def test_a_line_of_a_later_part_is_counted_from_the_first(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "AT_ONCE", 4)
    with pytest.raises(BadFileError, match=r"line 12: column 1 \('a'\) is 'x'"):
        read("a,label\n" + "1,k\n" * 10 + "x,k\n" + "1,k\n" * 5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns("kind"), "no 'kind' among 3 columns: a, b, label"),
        (Columns(3), "no 3 among 3 columns"),
        (Columns(-4), "no -4 among 3 columns"),
        (Columns(drop=("c",)), "no 'c' among 3 columns"),
        (Columns(features=("a", "z")), "no 'z' among 3 columns"),
        (Columns(drop=("a", "b")), "no features among 3 columns"),
    ],
)
def test_a_column_that_is_not_there_is_said_with_those_that_are(columns: Columns, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read("a,b,label\n1,2,x\n", columns)


def test_more_columns_than_any_table_has_are_refused(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.files.dialect.MOST_COLUMNS", 3)
    with pytest.raises(BadFileError, match="line 1: 4 columns; expected at most 3"):
        read("1,2,3,4\n", ANY)


def test_a_line_without_an_end_is_refused(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.files.text.MOST_LINE", 100)
    with pytest.raises(BadFileError, match="line 2: more than 100 bytes"):
        read("a,b\n" + "1," * 100, ANY)


def test_the_limit_of_the_csv_module_is_left_as_it_is(read: Any) -> None:
    before = csv.field_size_limit()
    read("a,label\n1,x\n")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("field", "hint"),
    [("NA", "fill it"), ("NaN", "fill it"), ("-inf", "fill it"), ("1e999", "fill it"), ("1 000", "point for decimals"),
     ("text", "columns of text can be left out")],
)  # fmt: skip
def test_the_advice_is_that_for_what_stands_there(tmp_path: Path, field: str, hint: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(f"a,b,label\n1,2,x\n{field},4,y\n")
    with pytest.raises(BadFileError, match=hint):
        read_csv(file, Columns())


def test_without_names_no_column_is_advised_to_be_dropped_by_name(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("1,2,x\n3,4,y\n")
    with pytest.raises(BadFileError, match="says which column holds the labels"):
        read_csv(file, Columns(need_label=False))


# text and gaps


RAW = Columns(raw=True)


def test_raw_columns_are_numbers_with_gaps_or_text(read: Any) -> None:
    table = read("a,c,b,label\n1,red,NA,x\n2,-,True,y\n3, blue,4.5,x\n", RAW)
    columns = table.values.columns
    assert (list(columns), table.values.shape, table.y.tolist()) == (["a", "c", "b"], (3, 3), ["x", "y", "x"])
    assert columns["a"].tolist() == [1, 2, 3]
    assert columns["c"].tolist() == ["red", None, "blue"]
    np.testing.assert_array_equal(columns["b"], [np.nan, 1, 4.5])
    assert (columns["b"].dtype, columns["c"].dtype, table.place(1)) == (np.float64, object, "line 3")


def test_a_table_of_plain_numbers_is_a_matrix_even_if_raw_columns_are_wanted(read: Any) -> None:
    assert read("a,b,label\n1,True,x\n2,3,y\n", RAW).values.tolist() == [[1, 1], [2, 3]]


def test_raw_columns_without_a_header_are_named_by_their_positions(read: Any) -> None:
    table = read("1,x,red\n2,y,blue\n3,x,red\n", Columns(1, header=False, raw=True))
    assert {name: column.tolist() for name, column in table.values.columns.items()} == {
        "0": [1, 2, 3],
        "2": ["red", "blue", "red"],
    }


def test_an_infinity_among_raw_numbers_is_refused_but_is_a_word_among_words(read: Any) -> None:
    with pytest.raises(BadFileError, match=r"line 3: column 1 \('a'\) is 'inf'"):
        read("a,label\nNA,x\ninf,y\n", RAW)
    assert read("a,label\ninf,x\nred,y\n", RAW).values.columns["a"].tolist() == ["inf", "red"]
