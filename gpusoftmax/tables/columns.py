"""`RawColumns`, the columns of a table whose fields are not all numbers, from files and from data frames."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown

GAPS = ("na", "n/a", "nan", "?", "-", "null", "none")  # in lower case: ways to write that a value is missing
TRUTH = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_gap(field: str) -> bool:
    """Whether a field says that its value is missing: it is empty, or one of GAPS."""
    word = field.strip().lower()
    return not word or word in GAPS


@dataclass(frozen=True, eq=False)
class RawColumns:
    """The columns of a table, whose fields need not be numbers.

    Attributes
    ----------
    columns : dict of str to ndarray of shape (n,)
        In the order of the table, or in that in which they were requested. A column of numbers, truth values and gaps
        is float64, with NaN for gaps; any other is an object array of str, with None for gaps. Columns without names
        are called "0", "1" and so on, counted among the features.
    named : bool
        Whether the table itself gives the names.
    """

    columns: dict[str, Array]
    named: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return len(self), len(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, rows: Any) -> RawColumns:
        """Return the rows that a slice or an array of row numbers selects."""
        return RawColumns({name: column[rows] for name, column in self.columns.items()}, self.named)


def is_table(X: Any) -> bool:
    """Whether X is a data frame, a pyarrow table or RawColumns, rather than a matrix of numbers."""
    return isinstance(X, RawColumns | Mapping) or hasattr(X, "columns") or hasattr(X, "column_names")


def as_columns(X: Any, as_text: Set[str] = frozenset(), name: str = "X") -> RawColumns:
    """Return the columns of a table.

    Parameters
    ----------
    X : RawColumns, data frame, pyarrow table, mapping of names to columns, or array-like of shape (n, d)
        The columns of an array are named "0", "1" and so on.
    as_text : set of str
        Names of columns whose text stays text, also if it says numbers.
    name : str
        The name of the argument, for messages.

    Returns
    -------
    RawColumns
        Text is without surrounding blanks. None, NaN, empty text, and words such as "NA" and "?" are gaps. A column of
        objects of which all are numbers, or text that says numbers, holds numbers; truth values are 1 and 0.

    Raises
    ------
    TypeError
        X is no table, or a column holds values of another type, such as dates.
    ValueError
        Two columns have the same name, or there are no rows.
    """
    if isinstance(X, RawColumns):
        return X
    columns: dict[str, Array] = {}
    for key, values, are_categories in _columns_of(X, name):
        if key in columns:
            raise ValueError(f"{name} has two columns {shown(key)}; rename one")
        columns[key] = _column(values, f"column {shown(key)} of {name}", are_categories or key in as_text)
    found = RawColumns(columns, is_table(X))
    if 0 in found.shape:
        raise ValueError(f"{name} is empty, of shape {found.shape}; pass at least one row and one column")
    return found


def _columns_of(X: Any, name: str) -> Iterable[tuple[str, Any, bool]]:
    """Yield name and values of each column, and whether it is one of categories."""
    if isinstance(X, Mapping):
        yield from ((str(key), values, False) for key, values in X.items())
    elif is_table(X):
        import narwhals as nw  # imported here because it takes a while

        frame = nw.from_native(X, eager_only=True)
        if len(set(map(str, frame.columns))) < len(frame.columns):
            twice = next(one for one in frame.columns if frame.columns.count(one) > 1)
            raise ValueError(f"{name} has two columns {shown(twice)}; rename one")
        for key in frame.columns:
            series = frame[key]
            if series.dtype.is_temporal():
                raise TypeError(f"column {shown(key)} of {name} {dates_are_refused(shown(series[0]), str(key))}")
            numeric = series.dtype.is_numeric() or series.dtype == nw.Boolean
            values = series.to_list() if not numeric or series.is_null().any() else series.to_numpy()
            yield str(key), values, series.dtype in (nw.Categorical, nw.Enum)
    else:
        array = np.asarray(X)
        if array.ndim != 2:
            raise TypeError(f"{name} has shape {array.shape}; pass a data frame, or rows and columns")
        yield from ((str(i), array[:, i], False) for i in range(array.shape[1]))


def dates_are_refused(example: str, column: str) -> str:
    """Return the end of a message about a column of dates."""
    return (
        f"holds dates or times, such as {example}; make numbers of them (year, month, weekday, days since a start), or "
        f"leave the column out (drop, on the command line --drop {shlex.quote(column)})"
    )


def _column(values: Any, place: str, keep_text: bool) -> Array:
    """Return float64 with NaN for gaps, or an object array of text with None for gaps."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    texts = np.empty(len(values), object)
    for i, value in enumerate(values):
        texts[i] = _text(value, place)
    return texts if keep_text else numbers_or_text(texts)


def _text(value: Any, place: str) -> str | None:
    if isinstance(value, str | np.str_):
        return None if is_gap(value) else str(value).strip()
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which is not imported here
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise ValueError(f"{place} is infinite in a row; pass a finite number, or a gap")
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    raise TypeError(f"{place} holds {shown(value)}, a {type(value).__name__}; pass numbers or text")


def numbers_or_text(texts: Array) -> Array:
    """Return a column of text as float64 if every field is a number, a truth value or a gap, and not all are gaps."""
    numbers: dict[str | None, float] = {None: math.nan}
    for text in set(texts.tolist()) - {None}:
        if text not in TRUTH and not NUMBER.fullmatch(text):
            return texts
        numbers[text] = float(TRUTH.get(text, text))
    return np.array([numbers[text] for text in texts.tolist()]) if len(numbers) > 1 else texts


def as_text(column: Array) -> Array:
    """Return a column as an object array of text, with None for gaps; whole numbers are written without a point."""
    if column.dtype == object:
        return column
    texts = np.empty(len(column), object)
    for i, value in enumerate(column.tolist()):
        texts[i] = _text(value, "")
    return texts
