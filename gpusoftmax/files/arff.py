"""Reading ARFF, Weka's format: SciPy reads the declarations of the columns; its rows are read as any table's are."""

from __future__ import annotations

import io
from typing import BinaryIO

from gpusoftmax.checks.messages import brief
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.csv_file import read_table
from gpusoftmax.files.dialect import BLANK, Dialect
from gpusoftmax.files.table import MOST_COLUMNS, Columns, Table
from gpusoftmax.files.text import Lines

COMMENT = "%"
KINDS = ("numeric", "nominal", "date")  # dates are words
MOST_DECLARATIONS = 1 << 20  # characters


def is_arff(sample: list[str]) -> bool:
    """Whether the first lines of a text begin an ARFF file."""
    first = next((line for line in sample if line.strip() and not line.lstrip().startswith(COMMENT)), "")
    return first.lstrip()[:10].lower().rstrip() == "@relation"


def read_arff(lines: Lines, file: BinaryIO, columns: Columns) -> Table:
    """Read a table with declared columns, each of numbers or of one of several words.

    Parameters
    ----------
    lines : Lines
        The lines of the file, none of which was read.
    file : binary file
        The open file.
    columns : Columns
        The columns to read.

    Returns
    -------
    Table
        The same as for `csv_file.read_csv`. If columns may be raw, those that are declared with words are text.

    Raises
    ------
    BadFileError
        A declaration or a row is malformed, or of a kind that is not supported: rows of sparse ARFF, and columns of
        strings and of relations. Dates are words.
    OSError
        It cannot be read.
    """
    # imported here because it takes a while
    from scipy.io.arff import ArffError, loadarff

    declarations: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > MOST_DECLARATIONS:
            raise lines.bad(f"more than {MOST_DECLARATIONS} characters of declarations", "fewer or shorter ones")
        declarations.append(line.rstrip("\r\n") + "\n")
        if line.strip().lower() == "@data":
            break
    try:
        declared = loadarff(io.StringIO("".join(declarations)))[1]
    except (ArffError, NotImplementedError, ValueError, StopIteration, IndexError) as error:
        expected = "ARFF with columns of numbers and of words in braces"
        raise BadFileError(
            lines.path, reason=f"a declaration is not read: {brief(error)}", expected=expected
        ) from error
    names, kinds = declared.names(), declared.types()
    if not 0 < len(names) <= MOST_COLUMNS:
        raise BadFileError(lines.path, reason=f"declares {len(names)} columns", expected=f"1 to {MOST_COLUMNS}")
    if other := next((name for name, kind in zip(names, kinds, strict=True) if kind not in KINDS), None):
        expected = f"columns of type {', '.join(KINDS)}"
        raise BadFileError(lines.path, place=f"column {other[:80]!r}", reason="is of another type", expected=expected)
    words = frozenset(i for i, kind in enumerate(kinds) if kind != "numeric")
    dialect = _dialect(lines, tuple(names), words)
    return read_table(lines, file, columns, dialect)


def _dialect(lines: Lines, names: tuple[str, ...], words: frozenset[int]) -> Dialect:
    """Find out how the rows are written, from the first of them."""
    if not lines.skip_blank():
        raise BadFileError(lines.path, reason="declarations without rows", expected="rows after @data")
    rows = [line for line in lines.peek(100, 1 << 16) if line.strip() and not line.lstrip().startswith(COMMENT)]
    first = rows[0] if rows else ""
    if first.lstrip().startswith("{"):
        expected = "a value for each column; or sparse features in svmlight's format"
        raise lines.bad("rows are sparse ARFF", expected, lines.number + 1)
    delimiter = "," if "," in first or len(names) == 1 else "\t" if "\t" in first else BLANK
    text = "".join(rows)
    if '"' in text and "'" in text:
        raise lines.bad("fields in both kinds of quotes", "one kind", lines.number + 1)
    return Dialect(delimiter, comment=COMMENT, names=names, quote='"' if '"' in text else "'", words=words)
