"""Reading tables in text files: one row per line, with fields separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import encodings.utf_8_sig  # noqa: F401 - decodes a table, and reading a file should not import modules
import io
import math
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.scalars import is_plain
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.table import GAPS, LABEL_NAMES, NUMBER, TRUTH, Columns, RawColumns, Table, is_gap

T = TypeVar("T")

MOST_LINE = 4 << 20  # characters: 100,000 columns of 40 each; an endless line must not fill the memory
MOST_COLUMNS = 100_000
MOST_NAME_LINES = 100  # lines of a header: quoted names may contain line breaks
MOST_LABEL = 1000  # characters: in an array of text each label takes as much memory as the longest
SEPARATORS = ";\t,"  # if several are equally frequent, the first counts: commas may be decimal commas
QUOTED = re.compile(r'(?:^|(?<=[;\t,]))"(?:[^"]|"")*("|\Z)')  # a quoted field, even if its closing quote is missing
EXCEL = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*')  # a first line in which a table for Excel may name its separator
INFINITE = ("inf", "infinity")
DIGITS = {text: str(int(truth)) for text, truth in TRUTH.items()}
AT_ONCE = 1 << 16  # fields converted at a time


def read_csv(path: Path, columns: Columns) -> Table:
    """Read a table of numbers, one column of which may hold labels.

    `columns.header` says whether the first line is a header or a row; by default its content decides
    (`_header_and_rows`). Fields may be quoted. They are separated by whichever of semicolons, tabs and commas is most
    frequent in the first line outside quotes; in a .tsv file by tabs; or, after a line such as "sep=;" at the top, by
    what it names. True and False are read as 1 and 0.

    Parameters
    ----------
    path : pathlib.Path
        A text file in UTF-8.
    columns : Columns
        The columns to read.

    Returns
    -------
    Table
        X as float64; y as text without surrounding blanks, or None.

    Raises
    ------
    BadFileError
        A line has too few or too many fields, a field that should be a finite number is not one (the message says in
        which line and column), or a column is missing.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file, _long_fields():
        lines = _Lines(path, io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        rows = _rows(lines)
        first = next(rows, [])
        if not first:
            raise BadFileError(path, reason="is empty", expected="a table with one row per line")
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
        known = tuple(first[i] for i in features) if named else None
        words = [names[i] for i in features]
        if columns.raw:
            X, labels, numbers = _raw_features_and_labels(lines, rows, label, features, words, known)
        else:
            X, labels, numbers = _features_and_labels(lines, rows, label, features, words)
    return Table(X, labels, known, label if label is None or not named else first[label], numbers)


class _Lines:
    """The lines of a text file, each of limited length.

    Attributes
    ----------
    number : int
        The number of the last line that was read, counted from 1.
    odd : int
        The last line with an underscore or a character beyond ASCII, some of which Python's `float` accepts.
    done : int
        The last line whose fields were converted.
    unsure : int
        The first line, if it is taken for a row only because nothing suggests a header; otherwise 0.
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
            before = error.object[: error.start]  # the part before the bad byte of a block that begins in this line
            self.number += before.count(b"\n") or before.count(b"\r")
            raise self.bad(
                f"byte {error.object[error.start]:#04x} is not UTF-8", "text in UTF-8 (Excel: CSV UTF-8)"
            ) from None
        if not line:
            raise StopIteration
        if len(line) >= MOST_LINE:
            raise self.bad(f"more than {MOST_LINE} characters", "one row per line")
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
    """Let the csv module read fields as long as MOST_LINE. The module's limit is global and is restored afterwards."""
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
    """Yield the fields of each line that is not blank. All lines must have the same number of fields."""
    first = next((line for line in lines if line.strip()), "")
    excel = EXCEL.fullmatch(first)
    if excel:
        first = next((line for line in lines if line.strip()), "")
    head, began, size = [first], lines.number, len(first)
    while _is_open("".join(head)) and len(head) < MOST_NAME_LINES and size < MOST_LINE and (line := next(lines, "")):
        head.append(line)  # a quoted name that continues on the next line
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
            lines.number = began  # the line where the quotes were opened, not where the file ended
            raise lines.bad(str(error), "fields without quotes, or in a pair of quotes each") from None
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
    """Return whether the first line is a header, and an iterator over all rows.

    The first line decides if it has requested names or no numbers. Otherwise it is compared with the first rows below
    it, as many as are converted at a time.
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
                "%s has no header: its first line is read as a row (if it has names, pass header=True or --header)",
                lines.path,
            )
    return named, rows if named else chain(_replayed(lines, [(number, first)]), rows)


def _is_open(text: str) -> bool:
    """Whether a text ends inside quotes."""
    closings = [found[1] for found in QUOTED.finditer(text)]
    return bool(closings) and not closings[-1]


def _replayed(lines: _Lines, ahead: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yield lines or rows that were read ahead, and set `lines.number` to the number of each."""
    for lines.number, one in ahead:
        yield one


def _named_by_names(lines: _Lines, first: list[str], columns: Columns) -> bool | None:
    """Whether the first line is a header; None if its fields alone do not decide."""
    fields, asked = set(first), set(columns.features or ())
    if columns.label_name in fields:
        return True
    if columns.label is not None and not (columns.is_position and -len(first) <= int(columns.label) < len(first)):
        return True  # the column of labels is requested by name
    if not any(map(_is_value, first)) or not fields.isdisjoint(columns.drop) or (asked and asked <= fields):
        return True
    if len(fields) == len(first) and (known := asked & fields):  # names are unique, values often repeat
        if all(map(NUMBER.fullmatch, known)):
            lacking = ", ".join(map(repr, sorted(asked - fields)[:8]))
            expected = "the names of all requested columns, or header=False (--no-header) if it is a row"
            raise lines.bad(f"has some of the requested names, but not {lacking}", expected)
        return True
    return None


def _named_by_rows(first: list[str], below: list[list[str]], columns: Columns) -> bool | None:
    """Whether a first line with numbers in it is a header, judging by the rows below it; None if either is possible."""
    values = [{row[i].strip() for row in below} for i in range(len(first))]
    new = [field not in own for field, own in zip(first, values, strict=True)]
    words = [i for i, field in enumerate(first) if not _is_value(field)]
    if any(first[i].lower() in LABEL_NAMES and new[i] for i in words):
        return True
    numbers = [float(field) for field in first if NUMBER.fullmatch(field)]
    steps = {b - a for a, b in pairwise(numbers)}
    counting = len(numbers) > 2 and steps == {1.0} and all(number.is_integer() for number in numbers)
    if counting and words and all(new[i] for i in words):  # such as Letter,1,2,3 or age,2019,2020,2021
        return True
    if counting and len(numbers) == len(first) and numbers[0] in (0, 1):
        if len(first) >= 10 or any("." in value for own in values for value in own):  # columns numbered by pandas
            return True
        return None if len(first) > 3 else False
    label = columns.position(first)
    if label is None or label not in words or not new[label] or len(values[label]) == len(below):
        return False  # the label occurs in other rows, too, or tells nothing
    if all(map(NUMBER.fullmatch, values[label])):
        return True
    if any(
        i != label and new[i] and all(map(NUMBER.fullmatch, values[i])) for i in words
    ):  # such as age,2019,2021,kind
        return True
    if len(numbers) > 4 and (min(steps) > 0 or max(steps) < 0):  # such as wavelengths
        return True
    distinct = len(set(numbers)) == len(numbers) and all(number.is_integer() for number in numbers)
    return None if distinct else False


def _is_value(field: str) -> bool:
    """Whether a field is a number, a gap, an infinity or a truth value."""
    small = field.lower()
    return NUMBER.fullmatch(field) is not None or small in GAPS or small.lstrip("+-") in INFINITE or field in TRUTH


def _features_and_labels(
    lines: _Lines, rows: Iterator[list[str]], label: int | None, features: list[int], names: list[str]
) -> tuple[Array, Array | None, Array]:
    """Return all rows as numbers, the text of their labels, and the number of the line that each row ends in."""
    labels: list[str] = []
    blocks: list[Array] = []
    ends: list[Array] = []
    block: list[tuple[str, ...]] = []
    numbers: list[int] = []  # the lines that the rows of the block end in
    choose = itemgetter(*features) if len(features) > 1 else lambda row: (row[features[0]],)
    at_once = max(1, AT_ONCE // len(features))
    for row in rows:
        if label is not None:
            labels.append(_label(lines, row[label]))
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
        raise BadFileError(lines.path, reason="a header without rows", expected="a table with one row per line")
    return np.concatenate(blocks), None if label is None else np.array(labels), np.concatenate(ends)


def _raw_features_and_labels(
    lines: _Lines,
    rows: Iterator[list[str]],
    label: int | None,
    features: list[int],
    words: list[str],
    known: tuple[str, ...] | None,
) -> tuple[Any, Array | None, Array]:
    """Return what `_features_and_labels` returns, but RawColumns if some field is neither number nor truth value."""
    labels: list[str] = []
    columns: list[list[str]] = [[] for _ in features]
    seen: list[dict[str, str]] = [{} for _ in features]
    numbers: list[int] = []
    for row in rows:
        if label is not None:
            labels.append(_label(lines, row[label]))
        for column, own, i in zip(columns, seen, features, strict=True):
            field = row[i].strip()
            column.append(own.setdefault(field, field))
        numbers.append(lines.number)
    if not numbers:
        raise BadFileError(lines.path, reason="a header without rows", expected="a table with one row per line")
    found = {}
    for i, (column, own) in enumerate(zip(columns, seen, strict=True)):
        found[str(i) if known is None else known[i]] = _raw_column(lines, column, own, words[i], numbers)
    X = np.column_stack(list(found.values())) if all(one.dtype.kind == "f" for one in found.values()) else None
    plain = X is not None and not np.isnan(X).any()
    return X if plain else RawColumns(found), None if label is None else np.array(labels), np.array(numbers)


def _raw_column(lines: _Lines, column: list[str], distinct: Iterable[str], name: str, numbers: list[int]) -> Array:
    """Convert a column to numbers with NaN for gaps, or to text with None for gaps."""
    gaps = set(filter(is_gap, distinct))
    if not all(field in gaps or _is_value(field) for field in distinct):
        return np.array([None if field in gaps else field for field in column], dtype=object)
    values = {field: math.nan if field in gaps else float(DIGITS.get(field, field)) for field in distinct}
    if infinite := [field for field, value in values.items() if math.isinf(value)]:
        row = min(map(column.index, infinite))
        lines.number = numbers[row]
        raise lines.bad(f"{name} is {column[row][:80]!r}", "a finite number; fill it, or leave out its row")
    return np.array([values[field] for field in column])


def _label(lines: _Lines, field: str) -> str:
    """Return the text of a label without surrounding blanks."""
    text = field.strip()
    if not 0 < len(text) <= MOST_LABEL:
        found = f"a label of {len(text)} characters" if text else "no label"
        raise lines.bad(found, f"one in each row, of at most {MOST_LABEL} characters")
    return text


def _convert(lines: _Lines, block: list[tuple[str, ...]], numbers: list[int], names: list[str]) -> Array:
    """Convert fields to numbers; the error names the first that is not a finite number."""
    fields, converted = block, None
    try:
        converted = np.array(fields, dtype=np.float64)
    except ValueError:  # the loop below finds out which field it was
        fields = [tuple(DIGITS.get(field.strip(), field) for field in row) for row in block]
        with suppress(ValueError):
            converted = np.array(fields, dtype=np.float64)
    odd = lines.odd > lines.done and not is_plain("".join(map("".join, fields)))
    if converted is None or odd or not np.isfinite(converted).all():
        for row, lines.number in zip(fields, numbers, strict=True):
            for name, field in zip(names, row, strict=True):
                # as `float` does, to which control characters of ASCII are not blanks
                number = field.strip(" \t\n\r\f\v" if field.isascii() else None)
                if not NUMBER.fullmatch(number) or not math.isfinite(float(number)):
                    found = repr(field[:80]) if field.strip() else "empty"
                    hint = "; if these are names, header=True (--header)" if lines.number == lines.unsure else ""
                    raise lines.bad(f"{name} is {found}", f"a finite number{_hint(field.strip(), '(' in name)}{hint}")
    assert converted is not None, "if the block was not converted, the loop above found the field"
    lines.done = numbers[-1]
    return converted


def _hint(field: str, named: bool) -> str:
    """Return advice about a field that is not a finite number; `named` says whether the table's columns have names."""
    if not field or _is_value(field):
        return "; fill it, or leave out its row"
    if re.fullmatch(r"-?[0-9]{1,3}([\s'][0-9]{3})+([.,][0-9]+)?", field):
        return ", with a point for decimals and no other separators"
    if re.fullmatch(r"[-+.0-9eE]+([\s|:][-+.0-9eE]+)+", field):
        return "; fields are separated by commas, semicolons or tabs"
    if re.fullmatch(r"-?[0-9.]*,[0-9,]*", field):
        return ", with a point for decimals and no other separators"
    if not named:
        return "; label (--label) says which column holds the labels; only columns with names can be left out"
    return "; columns of text can be left out (drop, on the command line --drop NAME)"
