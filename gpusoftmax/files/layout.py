"""What the first rows of a table say about it: its dialect, its header, its columns and how numbers are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, pairwise

from gpusoftmax._log import log
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.dialect import Dialect, find_dialect, records
from gpusoftmax.files.numerals import decimal_of, is_number, is_value
from gpusoftmax.files.table import LABEL_NAMES, MOST_COLUMNS, Columns
from gpusoftmax.files.text import Lines
from gpusoftmax.tables.columns import NUMBER

MOST_AHEAD = 1 << 16  # fields that are looked at
TELLING = re.compile(r",|\.[^\n]*\.")  # a comma, or two points in a field, which tell something about decimals
FEW = 10  # rows, among which it may be by chance that none rises


@dataclass(frozen=True)
class Layout:
    """Where a table has what.

    Attributes
    ----------
    dialect : Dialect
        How it is written.
    before : int
        The number of lines above the first row.
    width : int
        The number of columns.
    names : tuple of str, or None
        Their names.
    label : int or None
        The position of the column of labels.
    features : list of int
        The positions of the features.
    text : frozenset of int
        The positions of the features that hold text, as far as the first rows show it.
    decimal : str or None
        The sign of decimals, as for `numerals.number`.
    guessed_row : bool
        Whether the first line is taken for a row only because nothing suggests a header.
    """

    dialect: Dialect
    before: int
    width: int
    names: tuple[str, ...] | None
    label: int | None
    features: list[int]
    text: frozenset[int]
    decimal: str | None
    guessed_row: bool

    def describe(self, i: int) -> str:
        """Return column i in words."""
        return f"column {i + 1}" + ("" if self.names is None else f" ({self.names[i][:80]!r})")


def find_layout(lines: Lines, columns: Columns, dialect: Dialect | None = None) -> Layout:
    """Find the layout of a table from its first rows, which are read; `dialect` is how it is written, if that is known.

    Raises
    ------
    BadFileError
        The first lines have several meanings that would give different tables, or none; or a column is missing.
    """
    dialect = find_dialect(lines, columns) if dialect is None else dialect
    before = lines.number
    rows = records(lines, dialect, 0 if dialect.names is None else len(dialect.names))
    first = [field.strip() for field in next(rows, [])]
    number = lines.number
    if not first:
        raise BadFileError(lines.path, reason="a header without rows", expected="a table with one row per line")
    if len(first) > MOST_COLUMNS:
        raise lines.bad(f"{len(first)} columns", f"at most {MOST_COLUMNS}")
    alone = len(first) == 1 and columns.delimiter is None and first[0] not in (columns.features or ())
    if alone and re.search(r"[\s|:]", first[0]):
        expected = "fields with commas, semicolons, tabs, pipes or blanks between them (or --delimiter)"
        raise lines.bad(f"one column, {first[0][:80]!r}", expected)
    below = [[field.strip() for field in row] for row in islice(rows, max(1, MOST_AHEAD // len(first)))]
    lines.number = number
    names = _names(lines, first, below, columns, dialect)
    if names is first:
        before = number
    else:
        below.insert(0, first)
    label, features = columns.choose(lines.path, first if names is None else names, names is not None)
    kinds = {i: [row[i] for row in below] for i in features}
    strings = {i for i in features if (str(i) if names is None else names[i]) in columns.as_strings}
    text = frozenset(i for i, fields in kinds.items() if columns.raw and (i in strings or _is_text(i, fields, dialect)))
    decimal = columns.decimal
    if decimal is None:
        decimal = _decimal(lines, [fields for i, fields in kinds.items() if i not in text])
    guessed = names is None and columns.header is None
    return Layout(
        dialect, before, len(first), None if names is None else tuple(names), label, features, text, decimal, guessed
    )


def _is_text(i: int, fields: list[str], dialect: Dialect) -> bool:
    return holds_text(fields) if dialect.words is None else i in dialect.words


def holds_text(fields: Iterable[str]) -> bool:
    """Whether a column holds something else than numbers, truth values and gaps."""
    return not all(not field or is_value(field) for field in set(fields))


def _decimal(lines: Lines, columns: list[list[str]]) -> str | None:
    """Return the sign of decimals that the columns of numbers show."""
    if not any(TELLING.search("\n".join(fields)) for fields in columns):
        return None
    numbers = [field for fields in columns if not holds_text(fields) for field in dict.fromkeys(fields)]
    decimal, doubtful = decimal_of([field for field in numbers if is_number(field)])
    if doubtful is not None:
        point, comma = doubtful.replace(",", ""), doubtful.replace(".", "").replace(",", ".")
        raise BadFileError(
            lines.path,
            reason=f"{doubtful!r} may be {point} or {comma}",
            expected="decimal='.' or decimal=',' (--decimal), which says what the comma is",
        )
    return decimal


def _names(
    lines: Lines, first: list[str], below: list[list[str]], columns: Columns, dialect: Dialect
) -> list[str] | None:
    """Return the names of the columns, or None if the first line is a row.

    The first line decides if it has requested names or no numbers. Otherwise it is compared with the rows below it.
    """
    if dialect.names is not None and columns.header is not False:
        return list(dialect.names)
    named = columns.header
    if named is None:
        named = _named_by_names(lines, first, columns)
    if named is None:
        named = _named_by_rows(first, below, columns)
        if named is None:
            raise lines.bad("these may be names or values", "header=True or header=False (--header or --no-header)")
        if named and all(map(is_number, first)):
            log.warning(
                "%s: the numbers in its first line are read as names (if they are a row, pass header=False or "
                "--no-header)",
                lines.path,
            )
    if not named and columns.header is None:
        log.warning(
            "%s has no header: its first line is read as a row (if it has names, pass header=True or --header)",
            lines.path,
        )
    if named and columns.header is None:
        _check_title(lines, first, below)
    return first if named else None


def _check_title(lines: Lines, first: list[str], below: list[list[str]]) -> None:
    """Refuse a first line that is followed by a header."""
    if len(below) < 3 or any(map(is_value, below[0])) or "" in below[0]:
        return
    if any(all(is_number(row[i]) for row in below[1:]) for i in range(len(first))):
        shown = [repr(",".join(row)[:80]) for row in (first, below[0])]
        reason = f"{shown[0]} and {shown[1]} below it may both be names"
        raise lines.bad(reason, "a single line of names; delete the one that is a title or has units")


def _named_by_names(lines: Lines, first: list[str], columns: Columns) -> bool | None:
    """Whether the first line is a header; None if its fields alone do not decide."""
    fields, asked = set(first), set(columns.features or ())
    if columns.label_name in fields:
        return True
    if columns.label is not None and not (columns.is_position and -len(first) <= int(columns.label) < len(first)):
        return True  # the column of labels is requested by name
    words = not any(map(is_value, first)) and not columns.raw  # a row of raw columns may hold words alone
    if words or not fields.isdisjoint(columns.drop) or (asked and asked <= fields):
        return True
    if len(fields) == len(first) and (known := asked & fields):  # names are unique, values often repeat
        if all(map(NUMBER.fullmatch, known)):
            lacking = ", ".join(map(repr, sorted(asked - fields)[:8]))
            expected = "the names of all requested columns, or header=False (--no-header) if it is a row"
            raise lines.bad(f"has some of the requested names, but not {lacking}", expected)
        return True
    return None


def _named_by_rows(first: list[str], below: list[list[str]], columns: Columns) -> bool | None:
    """Whether a first line is a header, judging by the rows below it; None if either is possible."""
    values = [{row[i] for row in below} for i in range(len(first))]
    new = [field not in own for field, own in zip(first, values, strict=True)]
    words = [i for i, field in enumerate(first) if not is_value(field)]
    if any(first[i].lower() in LABEL_NAMES and new[i] for i in words):
        return True
    if len(words) == len(first):
        return _named_by_words(values, new)
    numbers = [i for i, field in enumerate(first) if NUMBER.fullmatch(field)]
    steps = {b - a for a, b in pairwise(float(first[i]) for i in numbers)}
    counting = len(numbers) > 2 and steps == {1.0} and all(float(first[i]).is_integer() for i in numbers)
    fresh = all(new[i] for i in words)
    if counting and words and fresh:  # such as Letter,1,2,3 or age,2019,2020,2021
        return True
    if fresh and _alone_rises(first, below, numbers):
        return True
    if counting and len(numbers) == len(first) and float(first[0]) in (0, 1):
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
    whole = [first[i] for i in numbers if float(first[i]).is_integer()]
    return len(set(whole)) == len(numbers)  # names are unique


def _named_by_words(values: list[set[str]], new: list[bool]) -> bool | None:
    """Whether a first line of words is a header: rows repeat words of other rows."""
    if any(own and all(map(is_number, own)) for own in values) or all(new):
        return True
    return False if 2 * sum(new) <= len(new) else None


def _alone_rises(first: list[str], below: list[list[str]], numbers: list[int]) -> bool:
    """Whether the numbers of the first line rise, such as years, wavelengths or positions, and those of no row do.

    Three numbers rise by chance in a sixth of all rows. Then no other row does so in less than one of 250 tables with
    100 rows; five numbers, or equal steps, are that rare among fewer rows.
    """
    rising = [float(first[i]) for i in numbers]
    steps = [b - a for a, b in pairwise(rising)]
    if len(rising) < 3 or rising[0] < 0 or min(steps) <= 0:
        return False
    if len(below) < (FEW if len(rising) > 4 or len(set(steps)) == 1 else 10 * FEW):
        return False
    for row in below:
        fields = [row[i] for i in numbers]
        if all(map(NUMBER.fullmatch, fields)) and all(float(a) < float(b) for a, b in pairwise(fields)):
            return False
    return True
