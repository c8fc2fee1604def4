"""The kernel that reads plain rows: it reads exactly what Python reads, to the last bit."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import csv_file
from gpusoftmax.files.csv_file import read_csv
from gpusoftmax.files.fields import TableBuilder
from gpusoftmax.files.table import Columns
from tests.support.tables import kernel, read_both_ways

pytest.importorskip("numba")
pytestmark = pytest.mark.compiled

SWAPPED = Columns(None, False, ("b", "a"))
LAST, RAW = Columns(-1), Columns(-1, raw=True)


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., Any]:
    """Reads a text by Python and by the kernel, which must agree; returns the table, or the error."""

    def read(content: str | bytes, columns: Columns = LAST) -> Any:
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            return read_both_ways(path, columns)
        except BadFileError as error:
            return error

    return read


def rows_of(numbers: list[str]) -> str:
    return "a,kind\n0,x\n" + "".join(f"{number},x\n" for number in numbers)


def test_numbers_are_rounded_to_the_nearest(both: Any, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 1 << 63, 3000).tolist()
    numbers = [repr(value) for b in bits if np.isfinite(value := struct.unpack("d", struct.pack("Q", b))[0])]
    numbers += [f"{value:.18e}" for value in rng.standard_normal(1000)]
    numbers += [f"{value:.{k}f}" for k in (0, 1, 4, 9, 17) for value in (rng.standard_normal(300) * 10.0**k)]
    numbers += [f"{w}e{q}" for w, q in zip(rng.integers(1, 1 << 62, 3000), rng.integers(-345, 289, 3000), strict=True)]
    halves = [2 * int(m) + 1 for m in rng.integers(1 << 52, 1 << 53, 500)]
    numbers += (
        [str(half) for half in halves] + [f"{half}e-1" for half in halves] + [f"{half * 5}e-1" for half in halves]
    )
    numbers += [str(half + k) for half in halves[:50] for k in (-1, 1)]
    table = both(rows_of(numbers))
    assert table.values[1:, 0].tolist() == [float(number) for number in numbers]


NUMBERS = [
    "0", "-0", "+0.0", "00", "1.", ".5", "-.5e-3", "1e5", "1E+05", "1e-0", "0e999", "0.000e-99999", "9007199254740993",
    "18446744073709551615", "18446744073709551616", "9999999999999999999", "00000000000000000000001.5", " 7", "7 ",
    "\t7\t ", "0.00000000000000000000000000012345678901234567", "2.2250738585072014e-308", "2.2250738585072011e-308",
    "5e-324", "4.9e-324", "1e-400", "1.7976931348623157e308", "True", "false", '"8"', '" 8 "', "1e0000000005", "1e22",
    "1e23", "\x0b3\x0c", "0.1", "0.3", "123456789012345678901234567890", "3.14159265358979323846264338327950288",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_every_form_of_a_number_is_read(number: str, both: Any) -> None:
    table = both(rows_of([number, "1"]))
    assert table.values.shape == (3, 1)
    assert np.signbit(table.values[1, 0]) == number.strip().startswith("-")


@pytest.mark.parametrize(
    "field",
    ["", " ", "-", "+", ".", "e5", "1e", "1e+", "--1", "1-", "1..2", "1e5.", "0x1", "1_0", "1d5", "inf", "nan", "1e999",
     "1e99999", "NA", "\u0661", "1 2", "1\u00a02", '"1', '1"', '"1"2', '""', '"1""2"', "1,", '"1\n2"',
     "+-1", "'1'", "1#"],
)  # fmt: skip
@pytest.mark.parametrize("columns", [LAST, RAW, Columns(-1, decimal=","), Columns(-1, decimal=".")])
def test_what_is_no_number_is_refused_alike(field: str, columns: Columns, both: Any) -> None:
    both(f"a,b,kind\n1,2,x\n3,4,y\n{field},6,z\n7,8,x\n", columns)
    both(f"a;b;kind\n1;2;x\n3;4;y\n6;{field};z\n7;8;x\n", columns)


LINES = {
    "blank lines": "a,b,kind\n1,2,x\n\n3,4,y\n \n\n5,6,z\n",
    "comments": "a,b,kind\n1,2,x\n# so\n3,4,y\n  # on\n5,6,z\n",
    "Windows": "a,b,kind\r\n1,2,x\r\n3,4,y\r\n",
    "old Mac": "a,b,kind\r1,2,x\r3,4,y\r",
    "ends that differ": "a,b,kind\r\n1,2,x\n3,4,y\r5,6,z",
    "quotes": 'a,b,kind\n1,2,"x, y"\n"3",4,"y"\n5,6,"a ""b"""\n7,8,"two\nlines"\n9,0,z"z\n',
    "tabs": "a\tb\tkind\n1\t 2\tx\n3\t4 \ty\n",
    "blanks": "a b  kind\n1  2 x\n 3\t4 y  \n\t5 6 \"z  z\"\n7 8 z\"z \"\n",
    "delimiters at the ends": "a,b,kind\n1,2,x,\n3,4,y,\n5,6,z\n",
    "decimal commas": "a;b;kind\n1,5;2;x\n3.500,25;4;y\n1.000;1e3;z\n",
    "thousands": 'a;b;kind\n1,234.5;2;x\n3.5;4,000;y\n"1,000";5;z\n',
    "words that are not English": "a;b;größe\n1;2;süß\n3;4;\u00a0weit\u3000\n",
    "a label that is missing": "a,b,kind\n1,2,x\n3,4,\n",
    "too few fields": "a,b,kind\n1,2,x\n3,4\n",
    "too many fields": "a,b,kind\n1,2,x\n3,4,y,z\n",
    "a quote without an end": 'a,b,kind\n1,2,x\n3,4,"y\n5,6,z\n',
    "gaps": "a,b,kind\n1,2,x\nNA,,y\n?,6,z\n",
    "words": "a,b,kind\nred,2,x\nNA,,y\nblue,6,z\nred,7,y\n",
    "words below numbers": "a,b,kind\n1,2,x\n02,4,y\nblue,6,z\nred,7,y\n",
    "no end of the last line": "a,b,kind\n1,2,x\n3,4,y",
}  # fmt: skip


@pytest.mark.parametrize("columns", [LAST, RAW, Columns("b"), Columns(-1, drop=("a",)), Columns(None, False), SWAPPED])
@pytest.mark.parametrize("content", LINES.values(), ids=LINES.keys())
def test_rows_are_read_alike_however_they_are_written(content: str, columns: Columns, both: Any) -> None:
    both(content, columns)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "  \t"])
def test_rows_between_others_are_read_by_the_kernel(
    delimiter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    add, add_plain = TableBuilder.add, TableBuilder.add_plain
    monkeypatch.setattr(TableBuilder, "add", lambda s, b, e: counts.append(-len(b)) or add(s, b, e))
    monkeypatch.setattr(TableBuilder, "add_plain", lambda s, rows: counts.append(len(rows.ends)) or add_plain(s, rows))
    content = "a,b,kind\n" + "1,5.5,x\n" * 50 + '2,5.5,"""x"\n' + "3,5.5,x\n" * 50
    (tmp_path / "a.csv").write_text(content.replace(",", delimiter), encoding="utf-8")
    with kernel(first=True):
        table = read_csv(tmp_path / "a.csv", LAST)
    assert table.values.tolist() == [[1, 5.5]] * 50 + [[2, 5.5]] + [[3, 5.5]] * 50
    assert counts == [50, -1, 50]


@pytest.mark.slow
def test_a_large_table_is_read_by_the_kernel_and_is_exact(both: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    X = rng.standard_normal((20_000, 30)).astype(np.float32)
    text = "\n".join(",".join(map(repr, row)) + f",k{i % 7}" for i, row in enumerate(X.tolist()))
    (tmp_path / "large.csv").write_text(text, encoding="utf-8")
    assert len(text) > csv_file.SMALL
    table = read_csv(tmp_path / "large.csv", LAST)
    np.testing.assert_array_equal(table.values, X)
    assert table.y.tolist() == [f"k{i % 7}" for i in range(len(X))]
    with open(tmp_path / "large.csv", "a", encoding="utf-8") as file:
        file.write("\n" + "1," * 12 + "x" + ",1" * 17 + ",k")
    with pytest.raises(BadFileError, match="line 20001: column 13 is 'x'"):
        read_csv(tmp_path / "large.csv", LAST)


def test_without_numba_python_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpusoftmax.cpu.text_kernels", None)
    (tmp_path / "a.csv").write_text("a,kind\n" + "1,x\n" * 5, encoding="utf-8")
    with kernel(first=True):
        assert read_csv(tmp_path / "a.csv", LAST).values.tolist() == [[1]] * 5
