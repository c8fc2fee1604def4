"""Tables in text: a row a line, fields parted by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import encodings.utf_8_sig  # noqa: F401 - how a table is decoded; reading a file should import nothing
import io
import logging
import math
import re
from collections.abc import Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusoftmax.datasets.table import Columns, Table
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import open_regular

log = logging.getLogger("gpusoftmax")

MOST_LINE = 4 << 20  # characters: 100,000 columns of 40; a line without an end must not fill the memory
MOST_COLUMNS = 100_000
MOST_LABEL = 1000  # characters: an array of text takes the longest's room for each
GAPS = ("na", "n/a", "?", "-", "null", "none")  # as others write that a number is missing
AT_ONCE = 1 << 16  # fields that are converted at a time


def read_csv(path: Path, columns: Columns) -> Table:
    """Read a table of numbers, one column of which may hold labels.

    The first line is a header if the labels' column is asked for by name, or else if it has neither a number nor a gap
    ("NA", "?") in it. Its most frequent of semicolon, tab and comma parts the fields of the file, in a .tsv the tab.
    Fields may be quoted.

    Parameters
    ----------
    path : pathlib.Path
        Text in UTF-8.
    columns : Columns
        What is asked for.

    Returns
    -------
    Table
        X float64; y text without blanks around it, or None.

    Raises
    ------
    BadFileError
        A line has too few or too many fields, or one that is no finite number, where one belongs; says which line and
        column. Or a column is not there.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file:
        lines = _Lines(path, io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        rows = _rows(lines)
        first = next(rows, [])
        if not first:
            raise BadFileError(path, reason="is empty", expected="a table with a row a line")
        if len(first) > MOST_COLUMNS:
            raise lines.bad(f"{len(first)} columns", f"at most {MOST_COLUMNS}")
        first = [field.strip() for field in first]
        by_name = columns.label is not None and (columns.label in first or not columns.is_position)
        named = by_name or not any(_is_number(field) or field.lower() in GAPS for field in first)
        if not named:
            log.warning("%s has no header: its first line is taken for a row", path)
        label, features = columns.choose(path, first, named)
        names = [f"column {i + 1}" + (f" ({name[:80]!r})" if named else "") for i, name in enumerate(first)]
        X, labels = _features_and_labels(
            lines, rows if named else chain([first], rows), label, features, [names[i] for i in features]
        )
    return Table(X, labels, tuple(first[i] for i in features) if named else None)


class _Lines:
    """The lines of a text, of bounded length, and the number of the last one."""

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self.path, self.text, self.number = path, text, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number += 1
        try:
            line = self.text.readline(MOST_LINE)
        except UnicodeDecodeError as error:
            raise self.bad(
                f"byte {error.object[error.start]:#04x} is not UTF-8", "text in UTF-8 (Excel: CSV UTF-8)"
            ) from None
        if not line:
            raise StopIteration
        if len(line) >= MOST_LINE:
            raise self.bad(f"more than {MOST_LINE} characters", "a row a line")
        if "\0" in line:
            raise self.bad("a zero byte", "text")
        return line

    def bad(self, reason: str, expected: str) -> BadFileError:
        return BadFileError(self.path, place=f"line {self.number}", reason=reason, expected=expected)


def _rows(lines: _Lines) -> Iterator[list[str]]:
    """The fields of each line that is not blank; all lines have as many."""
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if lines.path.suffix.lower() == ".tsv" else max(";\t,", key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    width = 0
    while True:
        began = lines.number + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            lines.number = began  # where the quotes were opened, not where the text ended
            raise lines.bad(str(error), "fields without quotes, or each within a pair of them") from None
        if row is None:
            return
        if row:
            width = width or len(row)
            if len(row) != width:
                raise lines.bad(f"{len(row)} fields", f"{width}, as in the first line")
            yield row


def _features_and_labels(
    lines: _Lines, rows: Iterator[list[str]], label: int | None, features: list[int], names: list[str]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """All rows in numbers, converted some at a time, and the text of their labels."""
    labels: list[str] = []
    blocks: list[NDArray[Any]] = []
    block: list[tuple[str, ...]] = []
    numbers: list[int] = []  # of the lines that the block's rows end in
    choose = itemgetter(*features) if len(features) > 1 else lambda row: (row[features[0]],)
    for row in rows:
        if label is not None:
            labels.append(row[label].strip())
            if not 0 < len(labels[-1]) <= MOST_LABEL:
                found = f"a label of {len(labels[-1])} characters" if labels[-1] else "no label"
                raise lines.bad(found, f"one in each row, of at most {MOST_LABEL} characters")
        block.append(choose(row))
        numbers.append(lines.number)
        if len(block) * len(features) >= AT_ONCE:
            blocks.append(_convert(lines, block, numbers, names))
            block, numbers = [], []
    if block:
        blocks.append(_convert(lines, block, numbers, names))
    if not blocks:
        raise BadFileError(lines.path, reason="a header without rows", expected="a table with a row a line")
    return np.concatenate(blocks), None if label is None else np.array(labels)


def _convert(lines: _Lines, block: list[tuple[str, ...]], numbers: list[int], names: list[str]) -> NDArray[Any]:
    """Fields as numbers; the error is of the first that is no finite one."""
    try:
        converted = np.array(block, dtype=np.float64)
        if np.isfinite(converted).all():
            return converted
    except ValueError:
        pass  # which field it was is found below
    for row, lines.number in zip(block, numbers, strict=True):
        for name, field in zip(names, row, strict=True):
            if not _is_number(field) or not math.isfinite(float(field)):
                found = repr(field[:80]) if field.strip() else "empty"
                raise lines.bad(f"{name} is {found}", f"a finite number{_hint(field.strip())}")
    raise AssertionError("a block that was not converted has a field that cannot be")


def _hint(field: str) -> str:
    """What may help with a field that is no number."""
    if not field:
        return "; fill it, or leave its row out"
    if re.fullmatch(r"-?[0-9.]*,[0-9,]*", field):
        return ", with a point for decimals and no other separators"
    return "; columns of text can be left out (drop, on the command line --drop NAME)"


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
