"""Tables in text: a row a line, fields parted by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import encodings.utf_8_sig  # noqa: F401 - how a table is decoded; reading a file should import nothing
import io
import math
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.scalars import is_plain
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.table import GAPS, LABEL_NAMES, NUMBER, TRUTH, Columns, Table

T = TypeVar("T")

MOST_LINE = 4 << 20  # characters: 100,000 columns of 40; a line without an end must not fill the memory
MOST_COLUMNS = 100_000
MOST_NAME_LINES = 100  # of the header, where names in quotes have several
MOST_LABEL = 1000  # characters: an array of text takes the longest's room for each
SEPARATORS = ";\t,"  # of equally frequent ones the first: commas may be those of decimals
QUOTED = re.compile(r'(?:^|(?<=[;\t,]))"(?:[^"]|"")*("|\Z)')  # a field in quotes, or what there is of one
EXCEL = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*')  # how a table for Excel may name its separator, in a first line
INFINITE = ("inf", "infinity")
DIGITS = {text: str(int(truth)) for text, truth in TRUTH.items()}
AT_ONCE = 1 << 16  # fields that are converted at a time


def read_csv(path: Path, columns: Columns) -> Table:
    """Read a table of numbers, one column of which may hold labels.

    The first line is a header or a row as `columns.header` says, or else as it looks (`_header_and_rows`). Fields are
    separated by semicolons, tabs or commas, whichever the first line has most of outside quotes; in a .tsv by tabs; or
    by what a line "sep=;" before it says. They may be quoted. True and False are 1 and 0.

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
    with open_regular(path) as file, _long_fields():
        lines = _Lines(path, io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        rows = _rows(lines)
        first = next(rows, [])
        if not first:
            raise BadFileError(path, reason="is empty", expected="a table with a row a line")
        if len(first) > MOST_COLUMNS:
            raise lines.bad(f"{len(first)} columns", f"at most {MOST_COLUMNS}")
        first = [field.strip() for field in first]
        if len(first) == 1 and re.search(r"[\s|:]", first[0]) and first[0] not in (columns.features or ()):
            raise lines.bad(f"one column, {first[0][:80]!r}", "fields with commas, semicolons or tabs between them")
        start = lines.number
        named, rows = _header_and_rows(lines, first, rows, columns)
        lines.done, lines.unsure = (start, 0) if named else (0, start)
        label, features = columns.choose(path, first, named)
        names = [f"column {i + 1}" + (f" ({name[:80]!r})" if named else "") for i, name in enumerate(first)]
        X, labels, numbers = _features_and_labels(lines, rows, label, features, [names[i] for i in features])
    known = tuple(first[i] for i in features) if named else None
    return Table(X, labels, known, label if label is None or not named else first[label], numbers)


class _Lines:
    """The lines of a text, of bounded length.

    Attributes
    ----------
    number : int
        Of the line that was read last; lines count from 1.
    odd : int
        The last line with an underscore or a letter or digit that is not ASCII: Python's `float` reads some of these.
    done : int
        The last line whose fields were converted.
    unsure : int
        The first line, where it is taken for a row because nothing says that it is a header; else 0.
    """

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self.path, self.readline = path, text.readline
        self.number = self.odd = self.done = self.unsure = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number += 1
        try:
            line = self.readline(MOST_LINE)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]  # of a block of the file, which begins within this line
            self.number += before.count(b"\n") or before.count(b"\r")
            raise self.bad(
                f"byte {error.object[error.start]:#04x} is not UTF-8", "text in UTF-8 (Excel: CSV UTF-8)"
            ) from None
        if not line:
            raise StopIteration
        if len(line) >= MOST_LINE:
            raise self.bad(f"more than {MOST_LINE} characters", "a row a line")
        if "\0" in line:
            raise self.bad("a zero byte", "text")
        if "_" in line or not line.isascii():
            self.odd = self.number
        return line

    def bad(self, reason: str, expected: str) -> BadFileError:
        return BadFileError(self.path, place=f"line {self.number}", reason=reason, expected=expected)


_limit_lock, _readers, _limit_before = threading.Lock(), 0, 0


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields as long as a line may be; its limit is the process's, and is put back."""
    global _readers, _limit_before
    with _limit_lock:
        if not _readers:
            _limit_before = csv.field_size_limit()
            csv.field_size_limit(max(_limit_before, MOST_LINE))
        _readers += 1
    try:
        yield
    finally:
        with _limit_lock:
            _readers -= 1
            if not _readers:
                csv.field_size_limit(_limit_before)


def _rows(lines: _Lines) -> Iterator[list[str]]:
    """The fields of each line that is not blank; all lines have as many."""
    first = next((line for line in lines if line.strip()), "")
    excel = EXCEL.fullmatch(first)
    if excel:
        first = next((line for line in lines if line.strip()), "")
    head, began, size = [first], lines.number, len(first)
    while _is_open("".join(head)) and len(head) < MOST_NAME_LINES and size < MOST_LINE and (line := next(lines, "")):
        head.append(line)  # a name in quotes on several lines
        size += len(line)
    if excel or lines.path.suffix.lower() == ".tsv":
        delimiter = excel[1] if excel else "\t"
    else:
        delimiter = max(SEPARATORS, key=QUOTED.sub("", "".join(head)).count)
    reader = csv.reader(chain(_replayed(lines, enumerate(head, began)), lines), delimiter=delimiter, strict=True)
    width = 0
    while True:
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
        began = lines.number + 1


def _header_and_rows(
    lines: _Lines, first: list[str], rows: Iterator[list[str]], columns: Columns
) -> tuple[bool, Iterator[list[str]]]:
    """Whether the first line is a header; and all rows.

    Names that are asked for tell, and a first line without a number. Else the rows below tell: some of them, as many as
    are converted at a time.
    """
    number, named = lines.number, columns.header
    if named is None:
        named = _named_by_names(lines, first, columns)
    if named is None:
        ahead = [(lines.number, row) for row in islice(rows, max(1, AT_ONCE // len(first)))]
        rows = chain(_replayed(lines, ahead), rows)
        named = _named_by_rows(first, [row for _, row in ahead], columns)
        if named is None:
            lines.number = number
            raise lines.bad("these may be names or values", "header=True or header=False (--header or --no-header)")
        if not named:
            log.warning(
                "%s has no header: its first line is taken for a row (if it has names: header=True, --header)",
                lines.path,
            )
    return named, rows if named else chain(_replayed(lines, [(number, first)]), rows)


def _is_open(text: str) -> bool:
    """Whether it ends within quotes."""
    closings = [found[1] for found in QUOTED.finditer(text)]
    return bool(closings) and not closings[-1]


def _replayed(lines: _Lines, ahead: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Lines or rows that were read before, each with its line's number."""
    for lines.number, one in ahead:
        yield one


def _named_by_names(lines: _Lines, first: list[str], columns: Columns) -> bool | None:
    """Whether the first line is a header; None where its fields alone do not tell."""
    fields, asked = set(first), set(columns.features or ())
    if columns.label_name in fields:
        return True
    if columns.label is not None and not (columns.is_position and -len(first) <= int(columns.label) < len(first)):
        return True  # the labels' column is asked for by its name
    if not any(map(_is_value, first)) or not fields.isdisjoint(columns.drop) or (asked and asked <= fields):
        return True
    if len(fields) == len(first) and (known := asked & fields):  # names stand once each, values often twice
        if all(map(NUMBER.fullmatch, known)):
            lacking = ", ".join(map(repr, sorted(asked - fields)[:8]))
            expected = "names of all columns that are asked for, or header=False (--no-header) if it is a row"
            raise lines.bad(f"has some of the names that are asked for, and not {lacking}", expected)
        return True
    return None


def _named_by_rows(first: list[str], below: list[list[str]], columns: Columns) -> bool | None:
    """Whether a first line that has numbers in it is a header, by the rows below it; None where both may be."""
    values = [{row[i].strip() for row in below} for i in range(len(first))]
    new = [field not in own for field, own in zip(first, values, strict=True)]
    words = [i for i, field in enumerate(first) if not _is_value(field)]
    if any(first[i].lower() in LABEL_NAMES and new[i] for i in words):
        return True
    numbers = [float(field) for field in first if NUMBER.fullmatch(field)]
    steps = {b - a for a, b in pairwise(numbers)}
    counting = len(numbers) > 2 and steps == {1.0} and all(number.is_integer() for number in numbers)
    if counting and words and all(new[i] for i in words):  # as Letter,1,2,3 or age,2019,2020,2021
        return True
    if counting and len(numbers) == len(first) and numbers[0] in (0, 1):
        if len(first) >= 10 or any("." in value for own in values for value in own):  # columns that pandas numbered
            return True
        return None if len(first) > 3 else False
    label = columns.position(first)
    if label is None or label not in words or not new[label] or len(values[label]) == len(below):
        return False  # a label like those of other rows, or one of which nothing is known
    if all(map(NUMBER.fullmatch, values[label])):
        return True
    if any(i != label and new[i] and all(map(NUMBER.fullmatch, values[i])) for i in words):  # as age,2019,2021,kind
        return True
    if len(numbers) > 4 and (min(steps) > 0 or max(steps) < 0):  # as wavelengths
        return True
    distinct = len(set(numbers)) == len(numbers) and all(number.is_integer() for number in numbers)
    return None if distinct else False


def _is_value(field: str) -> bool:
    """Whether it is a number, or stands for one."""
    small = field.lower()
    return NUMBER.fullmatch(field) is not None or small in GAPS or small.lstrip("+-") in INFINITE or field in TRUTH


def _features_and_labels(
    lines: _Lines, rows: Iterator[list[str]], label: int | None, features: list[int], names: list[str]
) -> tuple[Array, Array | None, Array]:
    """All rows in numbers, converted some at a time; the text of their labels; and the lines that they end in."""
    labels: list[str] = []
    blocks: list[Array] = []
    ends: list[Array] = []
    block: list[tuple[str, ...]] = []
    numbers: list[int] = []  # of the lines that the block's rows end in
    choose = itemgetter(*features) if len(features) > 1 else lambda row: (row[features[0]],)
    at_once = max(1, AT_ONCE // len(features))
    for row in rows:
        if label is not None:
            text = row[label].strip()
            if not 0 < len(text) <= MOST_LABEL:
                found = f"a label of {len(text)} characters" if text else "no label"
                raise lines.bad(found, f"one in each row, of at most {MOST_LABEL} characters")
            labels.append(text)
        block.append(choose(row))
        numbers.append(lines.number)
        if len(block) == at_once:
            blocks.append(_convert(lines, block, numbers, names))
            ends.append(np.array(numbers))
            block, numbers = [], []
    if block:
        blocks.append(_convert(lines, block, numbers, names))
        ends.append(np.array(numbers))
    if not blocks:
        raise BadFileError(lines.path, reason="a header without rows", expected="a table with a row a line")
    return np.concatenate(blocks), None if label is None else np.array(labels), np.concatenate(ends)


def _convert(lines: _Lines, block: list[tuple[str, ...]], numbers: list[int], names: list[str]) -> Array:
    """Fields as numbers; the error is of the first that is no finite one."""
    fields, converted = block, None
    try:
        converted = np.array(fields, dtype=np.float64)
    except ValueError:  # which field it was is found below
        fields = [tuple(DIGITS.get(field.strip(), field) for field in row) for row in block]
        with suppress(ValueError):
            converted = np.array(fields, dtype=np.float64)
    odd = lines.odd > lines.done and not is_plain("".join(map("".join, fields)))
    if converted is None or odd or not np.isfinite(converted).all():
        for row, lines.number in zip(fields, numbers, strict=True):
            for name, field in zip(names, row, strict=True):
                # as `float` does, which takes the control characters of ASCII for no blanks
                number = field.strip(" \t\n\r\f\v" if field.isascii() else None)
                if not NUMBER.fullmatch(number) or not math.isfinite(float(number)):
                    found = repr(field[:80]) if field.strip() else "empty"
                    hint = "; if these are names, header=True (--header)" if lines.number == lines.unsure else ""
                    raise lines.bad(f"{name} is {found}", f"a finite number{_hint(field.strip(), '(' in name)}{hint}")
    assert converted is not None, "a block that was not converted has a field that cannot be"
    lines.done = numbers[-1]
    return converted


def _hint(field: str, named: bool) -> str:
    """What may help with a field that is no finite number, in a table whose columns have names or not."""
    if not field or _is_value(field):
        return "; fill it, or leave its row out"
    if re.fullmatch(r"-?[0-9]{1,3}([\s'][0-9]{3})+([.,][0-9]+)?", field):
        return ", with a point for decimals and no other separators"
    if re.fullmatch(r"[-+.0-9eE]+([\s|:][-+.0-9eE]+)+", field):
        return "; commas, semicolons or tabs part fields"
    if re.fullmatch(r"-?[0-9.]*,[0-9,]*", field):
        return ", with a point for decimals and no other separators"
    if not named:
        return "; the labels' column is named by label (--label); to be left out a column needs a name"
    return "; columns of text can be left out (drop, on the command line --drop NAME)"
