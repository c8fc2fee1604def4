"""Reading tables in text files: one row per line, fields separated by commas, semicolons, tabs, pipes or blanks."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from gpusoftmax.files.dialect import Dialect, records
from gpusoftmax.files.fields import TableBuilder, TextBelow
from gpusoftmax.files.layout import Layout, find_layout, holds_text
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.plain_rows import PlainReader
from gpusoftmax.files.table import Columns, Table
from gpusoftmax.files.text import MOST_LINE, Lines

AT_ONCE = 1 << 16  # fields converted at a time
SMALL = 4 << 20  # bytes of a file, or of its text, that are read without the kernel, which takes a while to load


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
    """Read all rows: those of small files by Python, most of large ones by the kernel."""
    lines.skip(layout.before)
    builder = TableBuilder(lines, layout, raw)
    rows = records(lines, layout.dialect, layout.width)
    kernel: PlainReader | None = None
    usual = max(1, AT_ONCE // layout.width)
    at_once, tries_kernel = usual, True
    while True:
        if tries_kernel and kernel is None and max(lines.size, lines.read + lines.at) > SMALL:
            try:
                kernel = PlainReader(builder)
            except ImportError:  # Numba is missing
                tries_kernel = False
        if kernel is not None:
            # Python reads the row that the kernel could not, and more and more if the kernel cannot read the next one
            at_once = 1 if kernel.read() else min(2 * at_once, usual)
        block, ends = [], []
        for row in islice(rows, at_once):
            block.append(row)
            ends.append(lines.number)
        if not block:
            return builder.table()
        builder.add(block, ends)


def _text_columns(lines: Lines, layout: Layout) -> frozenset[int]:
    """Return the positions of all features that hold text, by looking at all rows."""
    lines.skip(layout.before)
    text, rows = set(layout.text), records(lines, layout.dialect, layout.width)
    while block := list(islice(rows, max(1, AT_ONCE // layout.width))):
        text |= {i for i in layout.features if i not in text and holds_text(row[i].strip() for row in block)}
    return frozenset(text)


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
