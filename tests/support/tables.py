"""How tests compare tables, and read text with and without the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import csv_file
from gpusoftmax.files.csv_file import read_csv
from gpusoftmax.files.table import Columns, Table
from gpusoftmax.tables.columns import RawColumns


def facts(table: Table) -> Any:
    """All that a table consists of."""
    values = table.values
    if isinstance(values, RawColumns):
        parts = [(name, c.tobytes() if c.dtype.kind == "f" else c.tolist()) for name, c in values.columns.items()]
    else:
        parts = [(values.shape, values.dtype, values.tobytes())]
    y = None if table.y is None else table.y.tolist()
    return parts, y, table.feature_names, table.label, table.lines.tolist()


@contextmanager
def kernel(first: bool) -> Iterator[None]:
    """Let the kernel read all rows but the first, or none."""
    before = csv_file.SMALL, csv_file.AT_ONCE
    csv_file.SMALL, csv_file.AT_ONCE = (0, 1) if first else (1 << 60, before[1])
    try:
        yield
    finally:
        csv_file.SMALL, csv_file.AT_ONCE = before


def read_both_ways(path: Path, columns: Columns) -> Table:
    """Read a table by Python and by the kernel, which must agree; both raise BadFileError, or none."""
    found: list[Table | BadFileError] = []
    for first in (False, True):
        with kernel(first):
            try:
                found.append(read_csv(path, columns))
            except BadFileError as error:
                found.append(error)
    python, compiled = found
    if isinstance(python, BadFileError):
        assert isinstance(compiled, BadFileError), f"only Python says: {python}"
        raise compiled
    assert isinstance(compiled, Table), f"only the kernel says: {compiled}"
    assert facts(compiled) == facts(python)
    return compiled
