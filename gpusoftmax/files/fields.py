"""From the fields of a table to its columns: numbers, labels and text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.scalars import is_plain
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.layout import Layout
from gpusoftmax.files.numerals import is_value, number
from gpusoftmax.files.table import MOST_LABEL, Table
from gpusoftmax.files.text import Lines
from gpusoftmax.tables.columns import RawColumns, is_gap, string_of

MOST_KNOWN = 1 << 16  # different words that are kept, so that a column of a few takes a pointer a row


class TextBelow(Exception):  # noqa: N818 - says where to begin again, and never leaves this folder
    """A column that holds numbers in its first rows holds text further down."""


class PlainRows(NamedTuple):
    """Rows in which a kernel has read the plain numbers and has found the words.

    Attributes
    ----------
    values : ndarray of shape (n, d)
        The numbers.
    codes : ndarray of shape (n, t)
        The words, as numbers of `TableBuilder.code`: of the labels, if there are any, and of each column of text.
    odd : list of (int, int, str)
        The fields of numbers that are not plain: row, column in `values`, and the field.
    ends : ndarray of shape (n,)
        The numbers of the lines that the rows end in.
    """

    values: Array
    codes: Array
    odd: list[tuple[int, int, str]]
    ends: Array

    def select(self, i: int) -> PlainRows:
        """Return row i alone."""
        odd = [(0, j, field) for row, j, field in self.odd if row == i]
        return PlainRows(self.values[i : i + 1], self.codes[i : i + 1], odd, self.ends[i : i + 1])


class _Growing:
    """An array to which rows are added, in its own memory, so that it never is there twice."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._array, self._count = np.empty((0, *shape), dtype), 0

    def add(self, rows: Any) -> None:
        count = self._count + len(rows)
        if count > len(self._array):
            self._resize(max(count, self._count * 5 // 4))
        self._array[self._count : count] = rows
        self._count = count

    def finished(self) -> Array:
        self._resize(self._count)
        return self._array

    def _resize(self, count: int) -> None:
        self._array.resize((count, *self._array.shape[1:]), refcheck=False)  # no one else has seen it


class TableBuilder:
    """Collects the rows of a table.

    Parameters
    ----------
    lines : Lines
        The lines that are read, for messages.
    layout : Layout
        Where the table has what.
    raw : bool
        Whether numbers may have gaps. If text occurs in a column of numbers, TextBelow is raised.

    Attributes
    ----------
    numbers, words : list of int
        The positions of the columns of numbers, and of those of words: the labels, if there are any, and text.
    """

    def __init__(self, lines: Lines, layout: Layout, raw: bool) -> None:
        self.lines, self.layout, self.raw = lines, layout, raw
        self._has_labels = layout.label is not None
        self.numbers = [i for i in layout.features if i not in layout.text]
        self.words = [*([] if layout.label is None else [layout.label])]
        self.words += [i for i in layout.features if i in layout.text]
        self._choose = _chooser(self.numbers)
        self._values = _Growing((len(self.numbers),), np.float64)
        self._codes = _Growing((len(self.words),), np.int32)
        self._ends = _Growing((), np.int64)
        self._code: dict[str, int] = {}
        self._no_labels: dict[int, int] = {}  # the sizes of words that are empty or too long to be labels
        self._odd: dict[str, float] = {}
        self._first_end = 0

    def code(self, field: str) -> int:
        """Return the number of a word, which is kept once."""
        word = field.strip()
        code = self._code.get(word)
        if code is None:
            code = self._code[word] = len(self._code)
            if not 0 < len(word) <= MOST_LABEL:
                self._no_labels[code] = len(word)
        return code

    def add(self, rows: list[list[str]], ends: list[int]) -> None:
        """Add rows, which end in the lines with the numbers `ends`; an error is about the first bad row."""
        self._first_end = self._first_end or ends[0]
        try:
            self._add(rows, ends)
        except BadFileError:
            for row, end in zip(rows, ends, strict=True):
                self._add([row], [end])
            raise

    def add_plain(self, rows: PlainRows) -> None:
        """Add rows that a kernel has read; an error is about the first bad row."""
        try:
            self._add_plain(rows)
        except BadFileError:
            for i in range(len(rows.ends)):
                self._add_plain(rows.select(i))
            raise

    def _add(self, rows: list[list[str]], ends: list[int]) -> None:
        code = self.code
        codes = np.array([[code(row[i]) for i in self.words] for row in rows], np.int32)
        self._check_labels(codes, ends)
        chosen = [self._choose(row) for row in rows]
        values = self._plain(chosen)
        if values is None:
            values = np.array(
                [
                    [self._number(i, field, end) for i, field in zip(self.numbers, row, strict=True)]
                    for row, end in zip(chosen, ends, strict=True)
                ]
            )
        self._values.add(values)
        self._codes.add(codes)
        self._ends.add(ends)

    def _add_plain(self, rows: PlainRows) -> None:
        self._check_labels(rows.codes, rows.ends)
        for row, j, field in rows.odd:
            rows.values[row, j] = self._number(self.numbers[j], field, rows.ends[row])
        self._values.add(rows.values)
        self._codes.add(rows.codes)
        self._ends.add(rows.ends)

    def _check_labels(self, codes: Array, ends: Sequence[int] | Array) -> None:
        if not self._has_labels or not self._no_labels:
            return
        wrong = np.isin(codes[:, 0], list(self._no_labels))
        if wrong.any():
            row = int(wrong.argmax())
            size = self._no_labels[int(codes[row, 0])]
            found = f"a label of {size} characters" if size else "no label"
            raise self.lines.bad(found, f"one in each row, of at most {MOST_LABEL} characters", int(ends[row]))

    def table(self) -> Table:
        """Return the rows as a table."""
        layout, ends = self.layout, self._ends.finished()
        if not len(ends):
            raise BadFileError(
                self.lines.path, reason="a header without rows", expected="a table with one row per line"
            )
        codes, words = self._codes.finished(), list(self._code)
        labels = _labels(codes[:, 0], words) if self._has_labels else None
        values: Any = self._values.finished()
        names = None if layout.names is None else tuple(layout.names[i] for i in layout.features)
        if layout.text or (self.raw and np.isnan(values).any()):
            values = self._raw(values, codes, words, names)
        label = layout.label if layout.label is None or layout.names is None else layout.names[layout.label]
        return Table(values, labels, names, label, ends)

    def _raw(self, numbers: Array, codes: Array, words: list[str], names: Sequence[str] | None) -> RawColumns:
        shown = np.array([*map(string_of, words), None], dtype=object)
        columns: dict[int, Array] = {i: numbers[:, k] for k, i in enumerate(self.numbers)}
        columns |= {i: shown[codes[:, k]] for k, i in enumerate(self.words)}
        known = names or list(map(str, self.layout.features))
        named = {name: columns[i] for name, i in zip(known, self.layout.features, strict=True)}
        return RawColumns(named, names is not None)

    def _plain(self, rows: list[tuple[str, ...]]) -> Array | None:
        """Convert fields to numbers; None if some are not plain numbers, which Python or NumPy may accept."""
        if self.layout.decimal == ",":
            return None
        try:
            converted = np.array(rows, dtype=np.float64)
        except ValueError:
            return None
        return converted if is_plain("".join(chain.from_iterable(rows))) and np.isfinite(converted).all() else None

    def _number(self, i: int, field: str, end: int) -> float:
        """Convert a field of column i to a finite number, or to NaN for a gap if there may be gaps."""
        value = self._odd.get(field)
        if value is None:
            found = number(field, self.layout.decimal)
            if found is not None and math.isfinite(found):
                value = found
            elif self.raw and is_gap(field):
                value = math.nan
            elif self.raw and self.layout.dialect.words is None and not is_value(field.strip()):
                raise TextBelow
            else:
                raise self._no_number(i, field, end)
            if len(self._odd) < MOST_KNOWN:
                self._odd[field] = value
        return value

    def _no_number(self, i: int, field: str, end: int) -> BadFileError:
        layout = self.layout
        found = repr(field[:80]) if field.strip() else "empty"
        hint = _hint(field.strip()[:80], layout.names is not None)
        if layout.guessed_row and end == self._first_end:
            hint += "; if these are names, header=True (--header)"
        return self.lines.bad(f"{layout.describe(i)} is {found}", f"a finite number{hint}", end)


def _labels(codes: Array, words: list[str]) -> Array:
    """Return the words with the numbers `codes` as an array of text, no wider than the longest of them."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(words)))
    place = np.zeros(len(words), np.int32)
    place[used] = np.arange(len(used))
    return np.array([words[code] for code in used.tolist()])[place[codes]]


def _chooser(positions: list[int]) -> Any:
    """Return a function that takes some fields of a row."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda row: tuple(row[i] for i in positions)


def _hint(field: str, named: bool) -> str:
    """Return advice about a field that is not a finite number; `named` says whether the table's columns have names."""
    if re.fullmatch(r"-?[0-9.]*,[0-9.,]*", field):
        return "; decimal=',' (--decimal ,) or decimal='.' says what its comma is"
    if not field or is_value(field):
        return "; fill it, or leave out its row"
    if re.fullmatch(r"-?[0-9]{1,3}([\s'][0-9]{3})+([.,][0-9]+)?", field):
        return ", with a point for decimals and no other separators"
    if re.fullmatch(r"[-+.0-9eE]+([\s|:;]+[-+.0-9eE]+)+", field):
        return "; delimiter (--delimiter) says what separates fields"
    if not named:
        return "; label (--label) says which column holds the labels; only columns with names can be left out"
    return "; columns of text can be left out (drop, on the command line --drop NAME)"
