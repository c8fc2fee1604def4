"""Reading Apache Parquet files with pyarrow, an optional dependency."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.table import MOST_COLUMNS, MOST_LABEL, Columns, Table, bad_column
from gpusoftmax.tables.columns import BadColumnError, as_columns


def read_parquet(path: Path, columns: Columns) -> Table:
    """Read a table, one column of which may hold labels.

    Only read Parquet files that you trust: the format is large, and pyarrow reads it in C++.

    Parameters
    ----------
    path : pathlib.Path
        A file with columns of numbers or booleans, or of lists of these with equal lengths, such as embeddings. Each
        element of a list is a feature of its own: NAME[0], NAME[1] and so on. Columns of text and gaps are read where
        `columns.raw` is True and no column holds lists.
    columns : Columns
        The columns to read.

    Returns
    -------
    Table
        X in the smallest type that holds all columns, or RawColumns; y as integers, floats, booleans or text, or None.

    Raises
    ------
    BadFileError
        It is not a Parquet file; or a column does not hold numbers or has missing values.
    ImportError
        pyarrow is not installed.
    OSError
        It cannot be read.
    """
    with parquet_file(path) as file:
        return _read(path, file, columns)


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """Open a file as a pyarrow ParquetFile, and turn pyarrow's errors in the block into BadFileError.

    Raises
    ------
    BadFileError
        It is not a Parquet file, or is damaged.
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
            # no threads: some outlive an error, and abort the process if they release a Python file while it exits
            yield pyarrow.parquet.ParquetFile(file, pre_buffer=False)
    except BadFileError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # raised by the system, not by pyarrow
            raise
        raise BadFileError(path, reason=str(error).splitlines()[0][:200], expected="a parquet file") from error


def read_labels(path: Path, columns: Columns) -> tuple[list[str], Array | None, str | None]:
    """Read the labels of a table alone.

    Parameters
    ----------
    path : pathlib.Path
    columns : Columns
        See `read_parquet`.

    Returns
    -------
    tuple
        The names of the columns of features, the labels, and the name of their column; None for both if it has none.

    Raises
    ------
    BadFileError, ImportError, OSError
        See `read_parquet`.
    """
    with parquet_file(path) as file:
        features, label = _chosen(path, file, columns)
        if label is None:
            return features, None, None
        return features, _column(path, file.read(columns=[label], use_threads=False), label, labels=True), label


def _chosen(path: Path, file: Any, columns: Columns) -> tuple[list[str], str | None]:
    """Return the names of the columns of features, and of the column of labels or None."""
    schema = file.schema_arrow
    # pandas stores the index of a data frame as a column
    index = {name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
    names = list(schema.names)
    if not file.metadata.num_rows:
        raise BadFileError(path, reason="no rows", expected="a table with rows")
    if columns.features is not None:  # request elements of lists by the names of the lists
        known = set(names)
        columns = replace(columns, features=tuple(dict.fromkeys(_column_of(name, known) for name in columns.features)))
    label, positions = columns.choose(path, names, index=index)
    return [names[i] for i in positions], None if label is None else names[label]


def _read(path: Path, file: Any, columns: Columns) -> Table:
    asked = columns.features
    features, label = _chosen(path, file, columns)
    wanted = features if label is None else [*features, label]
    table = file.read(columns=wanted, use_threads=False)  # other columns are not read
    y = None if label is None else _column(path, table, label, labels=True)
    raw = columns.raw and any(name in columns.as_strings or _is_raw(table.column(name)) for name in features)
    if raw and not any(_is_list(table.schema.field(name).type) for name in features):
        try:
            values = as_columns(table.select(features), columns.as_strings)
        except (BadColumnError, TypeError) as error:
            raise bad_column(path, error) from error
        return Table(values, y, tuple(features), label)
    X, found = as_matrix(path, table, features)
    if asked is not None and tuple(found) != asked:
        place = {name: i for i, name in enumerate(found)}
        if missing := [name for name in asked if name not in place]:
            raise BadFileError(path, reason=f"has no {missing[0][:80]!r}", expected=f"all {len(asked)} features")
        X, found = X[:, [place[name] for name in asked]], list(asked)
    # lists may give more names than a table may have columns, too many for a model file
    return Table(X, y, tuple(found) if len(found) <= MOST_COLUMNS else None, label)


def as_matrix(path: Path, table: Any, names: Sequence[str]) -> tuple[Array, list[str]]:
    """Return columns of numbers, and of lists of numbers, as a matrix, and the names of its columns.

    Raises
    ------
    BadFileError
        A column holds anything else, or has missing values; or lists have different lengths.
    """
    parts, found = [], []
    for name in names:
        is_list = _is_list(table.schema.field(name).type)
        parts.append(_lists(path, table, name) if is_list else _column(path, table, name)[:, None])
        found += [f"{name}[{i}]" for i in range(parts[-1].shape[1])] if is_list else [name]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), found


def _is_list(kind: Any) -> bool:
    import pyarrow

    kinds = pyarrow.types
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _column_of(feature: str, names: set[str]) -> str:
    """Return the column that holds a feature: the one of this name, or the list of which it is an element."""
    element = re.fullmatch(r"(.*)\[[0-9]+\]", feature, re.DOTALL)
    return element[1] if feature not in names and element and element[1] in names else feature


def _is_raw(column: Any) -> bool:
    """Whether a column holds text, or has gaps."""
    import pyarrow.compute

    kinds = pyarrow.types
    if kinds.is_floating(column.type) and not column.null_count:
        return bool(pyarrow.compute.any(pyarrow.compute.is_nan(column)).as_py())
    return bool(column.null_count) or kinds.is_null(column.type) or _is_text(column.type)


def _is_text(kind: Any) -> bool:
    """Whether a type is that of text, or of a dictionary of text."""
    import pyarrow

    kinds = pyarrow.types
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _column(path: Path, table: Any, name: str, labels: bool = False) -> Array:
    """Return a column of numbers, or of labels, which may also be text."""
    import pyarrow

    column, kinds = table.column(name), pyarrow.types
    place = f"column {name[:80]!r}"
    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    text = _is_text(kind)
    if kinds.is_decimal(kind):
        column, kind = column.cast(pyarrow.float64()), pyarrow.float64()
    if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or (labels and text)):
        numbers = "numbers; leave out columns of text (drop or --drop; with open_rows, name the others: name=[...])"
        expected = "labels: numbers or text" if labels else numbers
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


def _lists(path: Path, table: Any, name: str) -> Array:
    """Return a column of lists of numbers as a matrix with one list per row."""
    import pyarrow.compute

    column = table.column(name).combine_chunks()
    lengths = pyarrow.compute.list_value_length(column)
    if column.null_count or len(lengths.unique()) != 1:
        reason = "lists that are missing or of different lengths"
        raise BadFileError(
            path, place=f"column {name[:80]!r}", reason=reason, expected="lists of the same length in all rows"
        )
    values = column.flatten()
    if values.null_count:
        raise BadFileError(
            path, place=f"column {name[:80]!r}", reason="lists with missing values", expected="only numbers"
        )
    flat = values.to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in "biuf":
        raise BadFileError(path, place=f"column {name[:80]!r}", reason=f"is of {column.type}", expected="numbers")
    return flat.reshape(len(column), -1)
