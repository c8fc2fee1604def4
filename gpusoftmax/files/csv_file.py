"""Reading tables in text files: one row per line, fields separated by commas, semicolons, tabs, pipes or blanks."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpusoftmax.files.dialect import BLANK, Dialect, records
from gpusoftmax.files.fields import PlainRows, TableBuilder, TextBelow
from gpusoftmax.files.layout import Layout, find_layout, holds_text
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.table import Columns, Table
from gpusoftmax.files.text import MOST_LINE, Lines

AT_ONCE = 1 << 16  # fields converted at a time
SMALL = 4 << 20  # bytes that are read without the kernel, which takes a while to load
MOST_ODD = 1 << 12  # fields in each block that the kernel hands back


def read_csv(path: Path, columns: Columns) -> Table:
    """Read a table of numbers, one column of which may hold labels.

    The content decides how the table is written, not the name of the file; `columns` may say it as well. Where two
    answers are possible and would give different tables, the file is refused. See `files.dialect`, `files.layout` and
    `files.text`. True and False are read as 1 and 0.

    Parameters
    ----------
    path : pathlib.Path
        A text file, plain or compressed by gzip or xz.
    columns : Columns
        The columns to read.

    Returns
    -------
    Table
        X as float64, or raw columns if there may be text and gaps; y as text without surrounding blanks, or None.

    Raises
    ------
    BadFileError
        A line has too few or too many fields, a field that should be a finite number is not one (the message says in
        which line and column), or a column is missing.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file:
        return read_table(Lines(path, file), file, columns)


def read_table(lines: Lines, file: BinaryIO, columns: Columns, dialect: Dialect | None = None) -> Table:
    """Read a table as `read_csv` does, from lines.

    Parameters
    ----------
    lines : Lines
        The lines of a file; the table begins with the next one.
    file : binary file
        The open file.
    columns : Columns
        The columns to read.
    dialect : Dialect or None
        How the table is written, if that is known.

    Returns
    -------
    Table
        The same as for `read_csv`.
    """
    with _long_fields():
        layout = find_layout(lines, columns, dialect)
        try:
            return _read(lines.again(file), layout, columns.raw)
        except TextBelow:
            layout = replace(layout, text=_text_columns(lines.again(file), layout))
            return _read(lines.again(file), layout, columns.raw)


def _read(lines: Lines, layout: Layout, raw: bool) -> Table:
    """Read all rows: those near the start by Python, all others by the kernel if there is one and it can read them."""
    lines.skip(layout.before)
    builder = TableBuilder(lines, layout, raw)
    rows = records(lines, layout.dialect, layout.width)
    usual = at_once = max(1, AT_ONCE // layout.width)
    kernel: _Kernel | None = None
    while True:
        block, ends = [], []
        for row in islice(rows, at_once):
            block.append(row)
            ends.append(lines.number)
        if not block:
            return builder.table()
        builder.add(block, ends)
        if lines.read + lines.at > SMALL and layout.dialect.delimiter.isascii():
            kernel = kernel or _kernel_for(builder)
        if kernel is not None:
            # Python reads the row that the kernel could not, and more and more if the kernel cannot read the next one
            at_once = 1 if kernel.read_into(builder) else min(2 * at_once, usual)


def _text_columns(lines: Lines, layout: Layout) -> frozenset[int]:
    """Return the positions of all features that hold text, by looking at all rows."""
    lines.skip(layout.before)
    text, rows = set(layout.text), records(lines, layout.dialect, layout.width)
    while block := list(islice(rows, max(1, AT_ONCE // layout.width))):
        text |= {i for i in layout.features if i not in text and holds_text(row[i].strip() for row in block)}
    return frozenset(text)


def _kernel_for(builder: TableBuilder) -> _Kernel | None:
    """Return the kernel for a table, or None where Numba is missing."""
    try:
        return _Kernel(builder)
    except ImportError:
        return None


class _Kernel:
    """The compiled reader of plain rows, and what it has to know about a table."""

    def __init__(self, builder: TableBuilder) -> None:
        from gpusoftmax.cpu.text_kernels import SKIPPED, Style, read_plain_rows

        layout = builder.layout
        dialect = layout.dialect
        texts = [*([] if layout.label is None else [layout.label]), *builder.texts]
        self._read: Any = read_plain_rows
        self._counts, self._width = (len(builder.numbers), len(texts)), layout.width
        self._roles = np.full(layout.width, SKIPPED)
        self._roles[builder.numbers] = np.arange(len(builder.numbers))
        self._roles[texts] = -2 - np.arange(len(texts))
        blanks = dialect.delimiter == BLANK
        signs = {
            "delimiter": dialect.delimiter, "other": "\t" if blanks else dialect.delimiter,
            "blank": " " if blanks or dialect.delimiter == "\t" else "\t",
            "point": layout.decimal or ".", "quote": dialect.quote, "comment": dialect.comment or "\0",
        }  # fmt: skip
        codes = {name: np.uint8(ord(sign)) for name, sign in signs.items()}
        self._style = Style(**codes, trailing=dialect.trailing, longest=MOST_LINE)
        self._odd = np.empty((MOST_ODD, 4), np.int64)

    def read_into(self, builder: TableBuilder) -> int:
        """Read plain rows until one is not plain, or until the end of the block; return how many they were."""
        lines = builder.lines
        if not lines.fill():
            return 0
        most = (len(lines.block) - lines.at) // self._width + 1
        values = np.empty((most, self._counts[0]))
        spans = np.empty((most, self._counts[1], 2), np.int64)
        count, n_odd, at = self._read(lines.block, lines.at, self._roles, self._style, values, spans, self._odd)
        if count:
            ends = np.arange(lines.number + 1, lines.number + 1 + count)
            rows = PlainRows(lines.block, values[:count].copy(), spans[:count], self._odd[:n_odd])
            builder.add_plain(rows, ends)
            lines.at, lines.number = at, lines.number + count
        return count


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
