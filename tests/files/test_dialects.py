"""How tables are written: delimiters, decimals, comments, titles, delimiters at the ends of lines."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.csv_file import read_csv
from gpusoftmax.files.load import load_data, read_parts
from gpusoftmax.files.numerals import decimal_of, number
from gpusoftmax.files.table import Columns

LAST = Columns(-1)
RAW = Columns(-1, raw=True)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes a text, or bytes, and reads it."""

    def write_and_read(content: str | bytes, columns: Columns = LAST, name: str = "table.csv") -> Any:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_csv(path, columns)

    return write_and_read


PLAIN = "a,b,kind\n1,2.5,ash\n-3,4.5,birch\n5,6.5,ash\n"
X, Y = [[1, 2.5], [-3, 4.5], [5, 6.5]], ["ash", "birch", "ash"]
SAME = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "pipes": PLAIN.replace(",", "|"),
    "blanks": PLAIN.replace(",", " "),
    "several blanks and tabs": PLAIN.replace(",", "  \t ").replace("\n", "  \n  "),
    "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "decimal commas among blanks": PLAIN.replace(",", " ").replace(".", ","),
    "decimal commas in quotes": 'a,b,kind\n1,"2,5",ash\n-3,"4,5",birch\n5,"6,5",ash\n',
    "comments": "# from the garden\n" + PLAIN.replace("-3", "# remeasured\n-3"),
    "a comment with commas": "# trees, by, name\n" + PLAIN,
    "a header in a comment": "# " + PLAIN,
    "a header in a comment, with blanks": "# " + PLAIN.replace(",", " "),
    "delimiters at the ends of rows": PLAIN.replace("ash\n", "ash,\n").replace("birch\n", "birch,\n"),
    "delimiters at the ends of all lines": PLAIN.replace("\n", ",\n"),
    "UTF-16": PLAIN.encode("utf-16"),
    "gzip": gzip.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode()),
    "gzip of UTF-16 with semicolons": gzip.compress(PLAIN.replace(",", ";").encode("utf-16")),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "a mark": "\ufeff" + PLAIN,
    "quotes": PLAIN.replace("ash", '"ash"').replace("a,b", '"a","b"').replace("1", '"1"'),
    "Excel": "sep=|\n" + PLAIN.replace(",", "|"),
}


@pytest.mark.parametrize("name", ["a.csv", "a.data", "a.txt", "a.tsv", "adult"])
@pytest.mark.parametrize("content", SAME.values(), ids=SAME.keys())
def test_a_table_is_the_same_however_it_is_written(content: Any, name: str, read: Any) -> None:
    table = read(content, LAST, name)
    assert (table.values.tolist(), table.y.tolist(), table.feature_names) == (X, Y, ("a", "b"))


def test_every_kind_of_text_is_found_by_its_content(tmp_path: Path) -> None:
    for name in ("adult.test", "iris.data", "plain"):
        (tmp_path / name).write_text(PLAIN.replace(",", " "), encoding="utf-8")
        [table] = read_parts(tmp_path / name, LAST).values()
        assert table.values.tolist() == X


def test_a_table_without_a_header_may_be_written_with_blanks(read: Any) -> None:
    table = read('18.0   8   307.0\t"chevrolet malibu"\n15.0   8   350.0\t"buick  320"\n16.   8  304\t"amc"\n')
    assert table.values.tolist() == [[18, 8, 307], [15, 8, 350], [16, 8, 304]]
    assert table.y.tolist() == ["chevrolet malibu", "buick  320", "amc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red;ash,blue\ngreen;oak,black\n", r"by semicolons \(2 columns\) or by commas \(2 columns\); .*--delimiter"),
        ("1,k1;k2,ash\n2,k3;k4,oak\n", r"line 1: .*semicolons \(2 columns\) or by commas \(3 columns\)"),
        ("\t1,2,x\n\t3,4,y\n", r"line 1: .*tabs \(2 columns\) or by commas \(3 columns\); expected delimiter='\\t' or"),
        ("\nx|p,y\nz|q,w\n", r"line 2: .*pipes \(2 columns\) or by commas \(2 columns\)"),
    ],
)  # fmt: skip
def test_two_delimiters_that_fit_are_refused_with_both(text: str, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(text)


def test_a_delimiter_that_is_asked_for_is_taken(read: Any) -> None:
    columns = Columns(-1, delimiter=",", header=False, raw=True)
    table = read("1,k1;k2,ash\n2,k3;k4,oak\n", columns)
    assert table.values.columns["1"].tolist() == ["k1;k2", "k3;k4"]
    assert read("1:2:x\n3:4:y\n", Columns(-1, delimiter=":")).values.tolist() == [[1, 2], [3, 4]]
    assert read("sep=,\n1;2;x\n3;4;y\n", Columns(-1, delimiter=";")).values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", ["Smith, J\t1\tash\nBrown, A\t2\toak\n", '"Smith; J",1,ash\n"Brown; A",2,oak\n'])
def test_delimiters_within_text_are_text(text: str, read: Any) -> None:
    assert read(text, Columns(-1, header=False, raw=True)).values.columns["1"].tolist() == [1, 2]


TITLES = {
    "a title": ("Some of the trees\n" + PLAIN, r"line 1: 1 field in 'Some of the trees', but 3 .* such as 'a,b,kind'"),
    "a title with commas": ("Trees, 2020\n" + PLAIN, r"line 1: 2 fields in 'Trees, 2020', but 3 .*title, delete it"),
    "a title with as many commas": ("Trees, shrubs, herbs\n" + PLAIN, r"1: 'Trees,shrubs,herbs' and 'a,b,kind' below"),
    "units": ("a,b,kind\ncm,kg,tree\n1,2,ash\n3,4,oak\n", r"'a,b,kind' and 'cm,kg,tree' below it may both be names"),
    "names of all but the row names": ("a,kind\n" + "r1,1,ash\nr2,2,oak\n", r"2 fields in 'a,kind', but 3 in each"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TITLES.values(), ids=TITLES.keys())
def test_a_title_is_no_header(text: str, message: str, read: Any) -> None:
    with pytest.raises(BadFileError, match=message):
        read(text, Columns("kind"))


def test_a_line_that_may_be_a_comment_or_a_row_is_refused(read: Any) -> None:
    for text in ("a,b,kind\n1,2,x\n#3,4,y\n5,6,x\n", "a,b,kind\n" + "1,2,x\n" * 200 + "#3,4,y\n"):
        with pytest.raises(BadFileError, match="'#3,4,y' may be a comment or a row"):
            read(text)


def test_a_column_of_colours_has_no_comments(read: Any) -> None:
    table = read("hue,a,kind\n#ff0000,1,x\n#00ff00,2,y\n", RAW)
    assert table.values.columns["hue"].tolist() == ["#ff0000", "#00ff00"]


def test_lines_are_counted_with_comments(read: Any) -> None:
    assert read("# one\n\n# two\na,kind\n1,x\n# three\n2,y\n").lines.tolist() == [5, 7]


def test_a_gap_before_a_delimiter_at_the_end_is_a_gap(read: Any) -> None:
    with pytest.raises(BadFileError, match="line 3: no label"):
        read("a,b,kind,\n1,2,x,\n1,2,,\n")


# decimals


NUMBERS = {
    "1.5": (1.5, 1.5, None), "1,5": (None, None, 1.5), "1,234": (None, 1234, 1.234), "1.234": (1.234, 1.234, 1234),
    "1,234,567": (None, 1234567, None), "1.234.567": (None, None, 1234567), "1,234.5": (None, 1234.5, None),
    "1.234,5": (None, None, 1234.5), "-12,345e2": (None, -1234500, -1234.5), "0,123": (None, None, 0.123),
    "12,34,567": (None,) * 3, "1,2345": (None, None, 1.2345), ",5": (None, None, 0.5), "5,": (None, None, 5),
    ".5": (0.5, 0.5, None), "1234,567": (None, None, 1234.567), "7": (7, 7, 7), " 7\t": (7, 7, 7), "": (None,) * 3,
    "True": (1, 1, 1), "1_0": (None,) * 3, "\u0661": (None,) * 3, "1.2.3": (None,) * 3, ",": (None,) * 3,
}  # fmt: skip


@pytest.mark.parametrize(("field", "values"), NUMBERS.items(), ids=NUMBERS.keys())
def test_a_number_is_what_its_sign_of_decimals_says(field: str, values: Any) -> None:
    assert tuple(number(field, decimal) for decimal in (None, ".", ",")) == values


@pytest.mark.parametrize(
    ("fields", "decimal"),
    [
        (["1.5", "2"], None), (["1.234"], None), (["1", "2"], None), (["2,5"], ","), (["1,234", "2,5"], ","),
        (["1.234", "2,5"], ","), (["1.234.567", "1.000"], ","), (["1,234", "2.5"], "."), (["1,234,567", "1,000"], "."),
        (["1,234.5"], "."),
    ],
)  # fmt: skip
def test_the_sign_of_decimals_is_told_by_all_numbers(fields: list[str], decimal: str | None) -> None:
    assert decimal_of(fields) == (decimal, None)


def test_a_number_that_may_be_two_is_refused_with_both(read: Any) -> None:
    message = r"'1,234' may be 1234 or 1.234; expected decimal='.' or decimal=',' \(--decimal\)"
    with pytest.raises(BadFileError, match=message):
        read("a;kind\n1,234;x\n5,678;y\n")
    with pytest.raises(BadFileError, match=r"'2,5' may be 25 or 2\.5"):
        read("a;b;kind\n2,5;2.5;x\n")
    assert read("a;kind\n1,234;x\n", Columns(-1, decimal=",")).values.tolist() == [[1.234]]
    assert read("a;kind\n1,234;x\n", Columns(-1, decimal=".")).values.tolist() == [[1234]]


def test_decimal_commas_within_text_do_not_count(read: Any) -> None:
    columns = read("a;b;kind\n2.5;1,5 m;x\n3.5;2,5 m;y\n", RAW).values.columns
    assert (columns["a"].tolist(), columns["b"].tolist()) == ([2.5, 3.5], ["1,5 m", "2,5 m"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "ab"}, "delimiter='ab' does not separate fields; pass one character"),
        ({"delimiter": ""}, "delimiter='' does not"), ({"delimiter": "x"}, "delimiter='x'"),
        ({"delimiter": '"'}, "delimiter="), ({"delimiter": "\n"}, "delimiter="), ({"delimiter": 1}, "delimiter=1"),
        ({"delimiter": "\u00a7"}, "delimiter="), ({"decimal": "'"}, "decimal=.* is not known; pass '.' or ','"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data("a.csv", **options)


def test_validation_rows_are_written_as_training_rows_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;kind\n" + "1,234;x\n5,678;y\n" * 5, encoding="utf-8")
    (tmp_path / "b.csv").write_text("kind;a\nx;1,000\n", encoding="utf-8")
    data = load_data(tmp_path / "a.csv", label="kind", decimal=",", validation=tmp_path / "b.csv", test=0)
    assert data.X_validation.tolist() == [[1]]
    np.savez(tmp_path / "c.npz", X=[[1.0]], kind=["x"])
    data = load_data(tmp_path / "a.csv", label="kind", decimal=",", validation=tmp_path / "c.npz", test=0)
    assert data.X_validation.tolist() == [[1]]
    with pytest.raises(ValueError, match=r"decimal=',': .*c\.npz is not a table in a text file; leave it out"):
        load_data(tmp_path / "c.npz", decimal=",")


# headers over text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hue,form,kind\nred,round,x\nblue,long,y\nred,long,x\n", True),
        ("red,long,x\nred,round,x\nblue,long,y\n", False),
        ("p,x,s\n" + "p,x,t\ne,x,s\n" * 5, False),
        ("hue,form,kind\nred,1,x\nblue,2,y\n", True),
    ],
)
def test_a_first_line_of_words_is_a_row_if_its_words_occur_again(text: str, named: bool, read: Any) -> None:
    assert (read(text, RAW).feature_names is not None) == named


def test_a_first_line_of_words_some_of_which_occur_again_is_refused(read: Any) -> None:
    with pytest.raises(BadFileError, match="line 1: these may be names or values"):
        read("hue,form,long,kind\nred,round,long,x\nblue,long,wide,y\n", RAW)


# text further down


@pytest.mark.parametrize("at_once", [1, 4, 1 << 16])
def test_text_below_numbers_makes_a_column_of_text(at_once: int, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.files.csv_file.AT_ONCE", at_once)
    monkeypatch.setattr("gpusoftmax.files.layout.MOST_AHEAD", at_once)
    rows = "007,1,x\n" * 9 + "008,NA,y\nold,3,x\n009,,y\n"
    columns = read("zip,b,kind\n" + rows, RAW).values.columns
    assert columns["zip"].tolist() == ["007"] * 9 + ["008", "old", "009"]
    np.testing.assert_array_equal(columns["b"], [1] * 9 + [np.nan, 3, np.nan])
