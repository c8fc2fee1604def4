"""How a table is written: what stands between its fields, and which lines are comments."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.numerals import is_number, is_value
from gpusoftmax.files.table import MOST_COLUMNS, Columns
from gpusoftmax.files.text import SIGNS_OF_BLANK, Lines

BLANK = " "  # as a delimiter: any number of blanks and tabs
DELIMITERS = "\t|;,"  # text has tabs and pipes less often than semicolons, and these less often than commas
NAMES = {"\t": "tabs", "|": "pipes", ";": "semicolons", ",": "commas", BLANK: "blanks"}
OPTIONS = {"\t": "tab", BLANK: "blank"}  # what users write for those that cannot be seen
MOST_ROW_LINES = 10_000  # a quote without an end should not make a row of the rest of the file
SAMPLE_LINES, SAMPLE_BYTES = 100, 1 << 16
EXCEL = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*')  # a first line in which a table for Excel may name its delimiter
QUOTED = re.compile(r'(?:^|(?<=[;\t,|]))"(?:[^"]++|"")*+("|\Z)')  # a quoted field, even if its closing quote is missing
BLANKS = re.compile(r'("(?:[^"]++|"")*+")|[ \t]++')
# numbers with a delimiter between them: no field, but several
SEVERAL = re.compile(r"[-+.0-9eE]++(?:[\s,;|]++[-+.0-9eE]++)++")


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes
    ----------
    delimiter : str
        The character between fields; BLANK for any number of blanks and tabs.
    trailing : bool
        Whether each row ends with a delimiter.
    comment : str
        What comments begin with; empty if there are none.
    names : tuple of str, or None
        The names of the columns, if they stand above the rows in a comment or in declarations.
    quote : str
        The character around fields that hold delimiters.
    words : frozenset of int, or None
        The columns that are declared to hold words, while all others hold numbers; None if columns are not declared.
    """

    delimiter: str
    trailing: bool = False
    comment: str = "#"
    names: tuple[str, ...] | None = None
    quote: str = '"'
    words: frozenset[int] | None = None

    def is_comment(self, line: str) -> bool:
        """Whether a line that begins a row is a comment."""
        return bool(self.comment) and line.lstrip().startswith(self.comment)

    def commented(self, line: str) -> list[str]:
        """Return the fields of a comment, as if it were a row."""
        return [field.strip() for field in self.fields(line.strip().lstrip(self.comment))]

    def fields(self, line: str) -> list[str]:
        """Part a single line."""
        return next(csv.reader([self.prepared(line)], delimiter=self.delimiter, quotechar=self.quote), [])

    def prepared(self, line: str) -> str:
        """Return a line with one blank in the place of several, if blanks are the delimiter."""
        if self.delimiter != BLANK:
            return line
        return BLANKS.sub(lambda found: found[1] or BLANK, line.strip(" \t\r\n"))


@dataclass(frozen=True)
class _Reading:
    """What the first lines of a table are with some delimiter.

    Attributes
    ----------
    widths : list of int
        How many fields each row has.
    trailing : bool
        Whether each row but the first, which may be a header, ends with an empty field.
    broken : bool
        Whether quotes are misplaced, or fields hold several numbers, as with a wrong delimiter.
    """

    dialect: Dialect
    widths: list[int]
    trailing: bool
    broken: bool

    @property
    def width(self) -> int:
        return self.widths[-1] if self.widths else 0

    @property
    def is_even(self) -> bool:
        """Whether all rows have the same number of fields, at least two; a header may lack the last delimiter."""
        return self.has_even_rows and self.width - self.widths[0] in (0, int(self.trailing))

    @property
    def has_even_rows(self) -> bool:
        """Whether all rows but the first have the same number of fields, at least two."""
        return not self.broken and self.width > 1 and len(set(self.widths[1:])) <= 1


def find_dialect(lines: Lines, columns: Columns) -> Dialect:
    """Find out how a table is written, from its first lines; a line such as "sep=;" above it is read.

    Raises
    ------
    BadFileError
        There are no lines, the first is a title, or two delimiters would give different tables.
    """
    asked, sample = columns.delimiter, _first_lines(lines)
    if excel := EXCEL.fullmatch(sample[0]):
        next(lines)
        asked, sample = asked or excel[1], _first_lines(lines)
    rows = [line for line in sample if not Dialect(BLANK).is_comment(line)] or sample
    _check_width(lines, rows[0], asked)
    reading = _read(rows, asked) if asked else _choose(lines, rows)
    if reading.width > 1 and not reading.is_even and reading.has_even_rows and len(reading.widths) > 2:
        raise _title(lines, rows, reading)
    return _with_comments(sample, rows, reading)


def _first_lines(lines: Lines) -> list[str]:
    """Return the first lines that are not blank, without reading them."""
    if not lines.skip_blank():
        raise BadFileError(lines.path, reason="is empty", expected="a table with one row per line")
    return [line for line in lines.peek(SAMPLE_LINES, SAMPLE_BYTES) if line.strip(SIGNS_OF_BLANK)]


def _check_width(lines: Lines, first: str, asked: str | None) -> None:
    """Refuse more columns than a table may have, before they are parted."""
    most = max(map(first.count, asked or DELIMITERS))
    if most >= MOST_COLUMNS and (most := max(map(QUOTED.sub("", first).count, asked or DELIMITERS))) >= MOST_COLUMNS:
        raise lines.bad(f"{most + 1} columns", f"at most {MOST_COLUMNS}", lines.number + 1)


def _read(rows: list[str], delimiter: str) -> _Reading:
    """Read the first lines of a table with some delimiter."""
    dialect = Dialect(delimiter)
    widths, empty, broken = [], [], False
    reader = csv.reader(map(dialect.prepared, rows), delimiter=delimiter, strict=True)
    try:
        for row in filter(None, reader):
            widths.append(len(row))
            empty.append(not row[-1].strip())
            broken = broken or any(_is_several(field.strip(), delimiter) for field in row)
    except csv.Error as error:
        broken = broken or "unexpected end of data" not in str(error)  # a field may continue below the sample
    return _Reading(dialect, widths, bool(empty) and all(empty[1:] or empty), broken)


def _is_several(field: str, delimiter: str) -> bool:
    """Whether a field was not parted as it should be."""
    if delimiter == BLANK and any(other in field for other in DELIMITERS) and not is_number(field):
        return True
    return SEVERAL.fullmatch(field) is not None and not is_number(field)


def _choose(lines: Lines, rows: list[str]) -> _Reading:
    """Return the reading with the delimiter that fits."""
    occurring = [delimiter for delimiter in DELIMITERS if any(delimiter in row for row in rows[:2])]
    readings = [_read(rows, delimiter) for delimiter in occurring]
    fitting = [reading for reading in readings if reading.is_even]
    if not fitting:
        blanks = _read(rows, BLANK)
        if blanks.is_even:
            return blanks
        titled = [reading for reading in (*readings, blanks) if reading.has_even_rows and len(reading.widths) > 2]
        if titled:
            return max(titled, key=lambda reading: reading.width)
        text = QUOTED.sub("", rows[0])
        most = max(reversed(DELIMITERS), key=text.count)  # of as many commas as semicolons, the commas are decimal
        most = ";" if text.count(";") == text.count(most) > 0 else most
        return _read(rows, most if text.count(most) else ",")
    best = fitting[0]
    if other := next((reading for reading in fitting[1:] if reading.width >= best.width), None):
        found = [f"{NAMES[r.dialect.delimiter]} ({r.width} columns)" for r in (best, other)]
        expected = f"delimiter={best.dialect.delimiter!r} or {other.dialect.delimiter!r} (--delimiter)"
        raise lines.bad(f"fields may be separated by {found[0]} or by {found[1]}", expected, lines.number + 1)
    return best


def _title(lines: Lines, rows: list[str], reading: _Reading) -> BadFileError:
    """Make an error about a first line that has another number of fields than all lines below."""
    first, width = reading.widths[0], reading.width
    shown = [repr(row.rstrip("\r\n")[:80]) for row in rows[:2]]
    count = "1 field" if first == 1 else f"{first} fields"
    return lines.bad(
        f"{count} in {shown[0]}, but {width} in each line below, such as {shown[1]}",
        "a name for each column; if it is a title, delete it",
        lines.number + 1,
    )


def _with_comments(sample: list[str], rows: list[str], reading: _Reading) -> Dialect:
    """Return the dialect of a reading, once it is known whether lines that begin with # are comments."""
    dialect = Dialect(reading.dialect.delimiter, reading.trailing)
    marked = [line for line in sample if dialect.is_comment(line)]
    full = [line for line in marked if len(dialect.commented(line)) == reading.width > 1]
    if marked and (rows is sample or (len(full) == len(marked) >= len(rows))):
        return replace(dialect, comment="")  # as in a column of colours
    above = sample[: sample.index(rows[0])]
    if above and above[-1] in full and any(map(is_value, dialect.fields(rows[0]))):
        names = dialect.commented(above[-1])
        if not any(map(is_value, names)):
            return replace(dialect, names=tuple(names[: reading.width - reading.trailing]))
    return dialect


def records(lines: Lines, dialect: Dialect, width: int = 0) -> Iterator[list[str]]:
    """Yield the fields of each row. All rows must have the same number of fields, `width` if it is not 0.

    Raises
    ------
    BadFileError
        A row has another number of fields, or misplaced quotes; or a line may be a comment or a row.
    """
    blank = "\r\n" if width == 1 else " \r\n"
    begins, began, rows = True, lines.number + 1, 0

    def source() -> Iterator[str]:
        nonlocal begins, began
        for line in lines:
            if begins:
                began = lines.number
                if not line.strip(blank):
                    lines.skip_blank(blank)
                    continue
                if dialect.is_comment(line):
                    _check_comment(lines, dialect, line, width, rows)
                    continue
            elif lines.number - began >= MOST_ROW_LINES:
                expected = "a quote at the end of each field that begins with one"
                raise lines.bad(f"a row of more than {MOST_ROW_LINES} lines", expected, began)
            begins = False
            yield dialect.prepared(line)

    reader = csv.reader(source(), delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True)
    while True:
        begins = True
        try:
            row = next(reader, None)
        except csv.Error as error:
            # the line where the quotes were opened, not where the file ended
            raise lines.bad(str(error), "fields without quotes, or in a pair of quotes each", began) from None
        if row is None:
            return
        if not row:
            continue
        rows += 1
        if dialect.trailing and len(row) > 1 and not row[-1].strip() and len(row) != width:
            row.pop()
        width = width or len(row)
        if len(row) != width:
            raise lines.bad(f"{len(row)} fields", f"{width}, as in the first line")
        yield row


def _check_comment(lines: Lines, dialect: Dialect, line: str, width: int, rows: int) -> None:
    """Refuse a line that begins with # if it may be a row."""
    fields = dialect.commented(line)
    if (
        width > 1
        and len(fields) - (dialect.trailing and len(fields) > width) == width
        and (rows or any(map(is_value, fields)))
    ):
        expected = "a comment with fewer fields, or a row whose first field is in quotes; or delete the line"
        raise lines.bad(f"{line.strip()[:80]!r} may be a comment or a row", expected)
