"""Tables of Apache Parquet, by pyarrow, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusoftmax.datasets.csv_file import MOST_LABEL
from gpusoftmax.datasets.table import Columns, Table
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import open_regular


def read_parquet(path: Path, columns: Columns) -> Table:
    """Read a table of numbers, one column of which may hold labels.

    Parquet is a large format, and pyarrow reads it in C++: unlike the other formats, read only files that you trust.

    Parameters
    ----------
    path : pathlib.Path
        Columns of numbers or booleans, or one column of lists of equal length, such as embeddings.
    columns : Columns
        What is asked for.

    Returns
    -------
    Table
        X of the smallest type that holds all columns; y integers, floats, booleans or text, or None.

    Raises
    ------
    BadFileError
        Not such a file; a column that is no number, or has gaps.
    ImportError
        pyarrow is not installed.
    OSError
        It cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{path}: parquet needs pyarrow; pip install 'gpusoftmax[parquet]', or save the table as .csv or .npz"
        ) from error
    try:
        with open_regular(path) as file:
            return _read(path, pyarrow.parquet.read_table(file), columns)
    except BadFileError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not pyarrow's
            raise
        raise BadFileError(path, reason=str(error).splitlines()[0][:200], expected="a parquet file") from error


def _read(path: Path, table: Any, columns: Columns) -> Table:
    # of pandas, which keeps its row numbers as a column
    index = {name for name in (table.schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
    names = [name for name in table.column_names if name not in index]
    if not table.num_rows:
        raise BadFileError(path, reason="no rows", expected="a table with rows")
    label, positions = columns.choose(path, names)
    y = None if label is None else _column(path, table, names[label], labels=True)
    features = [names[i] for i in positions]
    if len(features) == 1 and "list" in str(table.schema.field(features[0]).type):
        return Table(_lists(path, table, features[0]), y)
    X = np.column_stack([_column(path, table, name) for name in features])
    return Table(X, y, tuple(features))


def _column(path: Path, table: Any, name: str, labels: bool = False) -> NDArray[Any]:
    import pyarrow

    column, kinds = table.column(name), pyarrow.types
    place = f"column {name[:80]!r}"
    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    text = kinds.is_string(kind) or kinds.is_large_string(kind)
    if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or (labels and text)):
        expected = "labels: numbers or text" if labels else "numbers; columns of text can be left out (drop, --drop)"
        raise BadFileError(path, place=place, reason=f"is of type {column.type}", expected=expected)
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise BadFileError(path, place=f"{place}, row {row}", reason="is missing", expected="a value in each row")
    if not text:
        return np.asarray(column.to_numpy())
    words = column.to_pylist()
    if max(map(len, words)) > MOST_LABEL:
        expected = f"labels of at most {MOST_LABEL} characters"
        raise BadFileError(path, place=place, reason=f"a label of {max(map(len, words))}", expected=expected)
    return np.array(words, dtype=str)


def _lists(path: Path, table: Any, name: str) -> NDArray[Any]:
    """A column of lists as rows."""
    import pyarrow.compute

    column = table.column(name).combine_chunks()
    lengths = pyarrow.compute.list_value_length(column)
    if column.null_count or len(lengths.unique()) != 1:
        reason = "lists that are missing or of different lengths"
        raise BadFileError(path, place=f"column {name[:80]!r}", reason=reason, expected="one length in all rows")
    values = column.flatten()
    if values.null_count:
        raise BadFileError(path, place=f"column {name[:80]!r}", reason="lists with gaps", expected="numbers alone")
    flat = values.to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in "biuf":
        raise BadFileError(path, place=f"column {name[:80]!r}", reason=f"is of {column.type}", expected="numbers")
    return flat.reshape(len(column), -1)
