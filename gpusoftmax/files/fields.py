"""From the fields of a table to its columns: numbers, labels and text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
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
from gpusoftmax.tables.columns import RawColumns, is_gap

MOST_KNOWN = 1 << 16  # different words that are kept, so that a column of a few takes a pointer a row


class TextBelow(Exception):  # noqa: N818 - says where to begin again, and never leaves this folder
    """A column that holds numbers in its first rows holds text further down."""


class PlainRows(NamedTuple):
    """Rows in which a kernel has read the plain numbers.

    Attributes
    ----------
    block : bytes
        The text in which the places are.
    values : ndarray of shape (n, d)
        The numbers.
    spans : ndarray of shape (n, t, 2)
        Where the fields of text begin and end: of the labels, if there are any, and of each column of text.
    odd : ndarray of shape (m, 4)
        The fields of numbers that are not plain: row, column in `values`, and where the field begins and ends.
    """

    block: bytes
    values: Array
    spans: Array
    odd: Array

    def select(self, i: int) -> PlainRows:
        """Return row i alone."""
        odd = self.odd[self.odd[:, 0] == i] - [i, 0, 0, 0]
        return PlainRows(self.block, self.values[i : i + 1], self.spans[i : i + 1], odd)


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
    """

    def __init__(self, lines: Lines, layout: Layout, raw: bool) -> None:
        self.lines, self.layout, self.raw = lines, layout, raw
        self.numbers = [i for i in layout.features if i not in layout.text]
        self.texts = [i for i in layout.features if i in layout.text]
        self._choose = _chooser(self.numbers)
        self._blocks: list[Array] = []
        self._ends: list[Array] = []
        self._labels: list[str] = []
        self._words: list[list[str | None]] = [[] for _ in self.texts]
        self._known: list[dict[str, str | None]] = [{} for _ in self.texts]
        self._odd: dict[str, float] = {}
        self._first_end = 0

    def add(self, rows: list[list[str]], ends: list[int]) -> None:
        """Add rows, which end in the lines with the numbers `ends`; an error is about the first bad row."""
        try:
            self._add(rows, ends)
        except BadFileError:
            for row, end in zip(rows, ends, strict=True):
                self._add([row], [end])
            raise

    def add_plain(self, rows: PlainRows, ends: Array) -> None:
        """Add rows that a kernel has read, but for the fields that are not plain numbers."""
        try:
            self._add_plain(rows, ends)
        except BadFileError:
            for i in range(len(ends)):
                self._add_plain(rows.select(i), ends[i : i + 1])
            raise

    def _add(self, rows: list[list[str]], ends: list[int]) -> None:
        self._first_end = self._first_end or ends[0]
        if self.layout.label is not None:
            self._add_labels([row[self.layout.label] for row in rows], ends)
        for k, i in enumerate(self.texts):
            self._add_words(k, (row[i] for row in rows))
        chosen = [self._choose(row) for row in rows]
        block = self._plain(chosen)
        if block is None:
            block = np.array(
                [
                    [self._number(i, field, end) for i, field in zip(self.numbers, row, strict=True)]
                    for row, end in zip(chosen, ends, strict=True)
                ]
            )
        self._blocks.append(block)
        self._ends.append(np.array(ends))

    def _add_plain(self, rows: PlainRows, ends: Array) -> None:
        spans = rows.spans.tolist()
        if self.layout.label is not None:
            self._add_labels([rows.block[begin:end].decode() for (begin, end), *_ in spans], ends)
        for k in range(len(self.texts)):
            column = k + (self.layout.label is not None)
            self._add_words(k, (rows.block[row[column][0] : row[column][1]].decode() for row in spans))
        for row, j, begin, end in rows.odd.tolist():
            rows.values[row, j] = self._number(self.numbers[j], rows.block[begin:end].decode(), ends[row])
        self._blocks.append(rows.values)
        self._ends.append(ends)

    def table(self) -> Table:
        """Return the rows as a table."""
        layout = self.layout
        if not self._blocks:
            raise BadFileError(
                self.lines.path, reason="a header without rows", expected="a table with one row per line"
            )
        ends = np.concatenate(self._ends)
        labels = None if layout.label is None else np.array(self._labels)
        self._labels.clear()
        values: Any = np.concatenate(self._blocks)
        self._blocks.clear()
        names = None if layout.names is None else tuple(layout.names[i] for i in layout.features)
        if self.texts or (self.raw and np.isnan(values).any()):
            values = self._raw(values, names)
        label = layout.label if layout.label is None or layout.names is None else layout.names[layout.label]
        return Table(values, labels, names, label, ends)

    def _raw(self, numbers: Array, names: Sequence[str] | None) -> RawColumns:
        columns: dict[int, Array] = {i: numbers[:, k] for k, i in enumerate(self.numbers)}
        for i, words in zip(self.texts, self._words, strict=True):
            columns[i] = np.array(words, dtype=object)
        known = names or list(map(str, range(len(columns))))
        named = {name: columns[i] for name, i in zip(known, self.layout.features, strict=True)}
        return RawColumns(named, names is not None)

    def _add_labels(self, fields: list[str], ends: Sequence[int] | Array) -> None:
        for field, end in zip(fields, ends, strict=True):
            text = field.strip()
            if not 0 < len(text) <= MOST_LABEL:
                found = f"a label of {len(text)} characters" if text else "no label"
                raise self.lines.bad(found, f"one in each row, of at most {MOST_LABEL} characters", end)
            self._labels.append(text)

    def _add_words(self, k: int, fields: Iterable[str]) -> None:
        known, words = self._known[k], self._words[k]
        for field in fields:
            if field not in known:
                word = None if is_gap(field) else field.strip()
                if len(known) < MOST_KNOWN:
                    known[field] = word
                words.append(word)
            else:
                words.append(known[field])

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
        hint = _hint(field.strip(), layout.names is not None)
        if layout.guessed_row and end == self._first_end:
            hint += "; if these are names, header=True (--header)"
        return self.lines.bad(f"{layout.describe(i)} is {found}", f"a finite number{hint}", end)


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
