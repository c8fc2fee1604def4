"""`RawColumns`, the columns of a table whose fields are not all numbers, from files and from data frames."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import by_rows, column_names
from gpusoftmax.checks.messages import shown

GAPS = ("na", "n/a", "nan", "?", "-", "null", "none")  # in lower case: ways to write that a value is missing
TRUTH = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")  # a whole number with a point
SINGLE = (bool, int, float, np.bool_, np.integer, np.floating)


class BadColumnError(ValueError):
    """A column that cannot be used.

    Attributes
    ----------
    column : str
        Its name.
    row : int or None
        The row that shows why, counted from 0.
    reason, expected : str
        What is wrong, and what there should be.
    """

    def __init__(self, column: str, reason: str, expected: str, row: int | None = None) -> None:
        place = "" if row is None else f" in row {row}"
        super().__init__(f"column {shown(column)} {reason}{place}; expected {expected}")
        self.column, self.row, self.reason, self.expected = column, row, reason, expected


def is_gap(field: str) -> bool:
    """Whether a field says that its value is missing: it is empty, or one of GAPS."""
    word = field.strip().lower()
    return not word or word in GAPS


def string_of(field: str) -> str | None:
    """Return a field without surrounding blanks; None if it is a gap.

    A truth value becomes "True" or "False", and 1.0 becomes 1: a table that goes from a data frame to a file and back
    may change in this.
    """
    if is_gap(field):
        return None
    text = field.strip()
    if text in TRUTH:
        return str(TRUTH[text])
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


@dataclass(frozen=True, eq=False)
class RawColumns:
    """The columns of a table, whose fields need not be numbers.

    Attributes
    ----------
    columns : dict of str to ndarray of shape (n,)
        In the order of the table, or in that in which they were requested. A column of numbers, truth values and gaps
        is float64, with NaN for gaps; any other is an object array of what `string_of` returns. A column without a name
        is called by its position in the table: "0", "1" and so on.
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
    """Whether X is a data frame, a pyarrow table, a dict of columns or RawColumns, rather than a matrix."""
    return isinstance(X, RawColumns | Mapping) or column_names(X) is not None


def names_of(X: Any) -> list[str]:
    """Return the names of the columns of a table; "0", "1" and so on for an array."""
    names: Any = X.columns if isinstance(X, RawColumns) else X if isinstance(X, Mapping) else column_names(X)
    if names is None:
        names = range(np.shape(X)[1] if np.ndim(X) == 2 else 0)
    return list(map(str, names))


def as_columns(X: Any, as_strings: Set[str] = frozenset(), only: Set[str] | None = None) -> RawColumns:
    """Return the columns of a table.

    Parameters
    ----------
    X : RawColumns, data frame, pyarrow table, mapping of names to columns, or array-like of shape (n, d)
        The columns of an array are named "0", "1" and so on.
    as_strings : set of str
        Names of columns that become strings, also if they hold numbers.
    only : set of str, optional
        Names of the columns to return, where they exist; others are not looked at.

    Returns
    -------
    RawColumns
        None, NaN, empty text, and words such as "NA" and "?" are gaps. A column of objects of which all are numbers, or
        text that says numbers, holds numbers; truth values are 1 and 0.

    Raises
    ------
    TypeError
        X is no table, or a column is not one of single values.
    BadColumnError
        A column holds dates, or values that are neither numbers nor text.
    ValueError
        Two columns have the same name or different lengths, or there are no rows.
    """
    if isinstance(X, RawColumns):
        found = {name: column for name, column in X.columns.items() if only is None or name in only}
        strings = {name: to_strings(column) for name, column in found.items() if name in as_strings}
        return RawColumns(found | strings, X.named)
    names = names_of(X)
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"X has two columns {shown(twice)}; rename one")
    columns = {
        name: _column(name, values, name in as_strings)
        for name, values in _columns_of(X, names)
        if only is None or name in only
    }
    table = RawColumns(columns, is_table(X))
    if 0 in table.shape and (only is None or columns):
        raise ValueError(f"X is empty, of shape {table.shape}; pass at least one row and one column")
    if len(lengths := {len(column) for column in columns.values()}) > 1:
        raise ValueError(
            f"X has columns of {' and '.join(map(str, sorted(lengths)))} rows; pass columns of equal length"
        )
    return table


def _columns_of(X: Any, names: list[str]) -> Iterable[tuple[str, Any]]:
    """Return names and values of the columns: of data frames as series of narwhals."""
    if isinstance(X, Mapping):
        return zip(names, X.values(), strict=True)
    if not is_table(X):
        array = np.ma.asanyarray(X) if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
        if array.ndim != 2:
            raise TypeError(f"X has shape {array.shape}; pass a data frame, or rows and columns")
        return zip(names, array.T, strict=True)
    import narwhals as nw  # imported here because it takes a while

    if hasattr(X, "set_axis"):  # pandas, whose names may be numbers or tuples, which narwhals refuses
        X = X.set_axis(names, axis=1)
    try:
        frame = nw.from_native(by_rows(X), eager_only=True)
    except TypeError:
        raise TypeError(f"X is a {type(X).__name__}; pass a data frame (of a lazy frame X.collect())") from None
    return ((name, frame[name]) for name in names)


def _column(name: str, values: Any, as_strings: bool) -> Array:
    """Return a column of RawColumns from an array, a sequence, or a series of narwhals."""
    if hasattr(values, "is_null") and hasattr(values, "drop_nulls"):
        return _from_series(name, values, as_strings)
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise TypeError(f"column {shown(name)} of X is {shown(values)}; pass its values, one for each row")
    gaps = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = values if isinstance(values, np.ndarray) else _as_array(values)
    if array.ndim != 1:
        raise TypeError(f"column {shown(name)} of X has shape {array.shape}; pass one value for each row")
    array = np.asarray(array)
    if array.dtype.kind in "Mm":
        raise dates_are_refused([name], array)
    column = _from_numbers(array, as_strings) if array.dtype.kind in "fiub" else _from_objects(name, array, as_strings)
    if gaps is not None and gaps.any():
        column[gaps] = None if column.dtype == object else np.nan
    return column


def _as_array(values: Any) -> Array:
    """Return a sequence as an array: of numbers if all are, else of objects, so that none is converted to text."""
    if all(isinstance(value, SINGLE) for value in values):
        return np.asarray(values)
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def _from_series(name: str, series: Any, as_strings: bool) -> Array:
    import narwhals as nw

    dtype = series.dtype
    if dtype.is_temporal():
        raise dates_are_refused([name], series.drop_nulls().to_list())
    if dtype.is_decimal():
        series, dtype = series.cast(nw.Float64), nw.Float64
    if not dtype.is_numeric() and dtype != nw.Boolean:
        keep = as_strings or dtype in (nw.Categorical, nw.Enum)
        array = np.empty(len(series), object)
        array[:] = series.to_list()
        return _from_objects(name, array, keep)
    if not series.is_null().any():
        return _from_numbers(series.to_numpy(), as_strings)
    known = ~series.is_null().to_numpy().astype(bool)
    column = np.full(len(series), None, object) if as_strings else np.full(len(series), np.nan)
    column[known] = _from_numbers(series.drop_nulls().to_numpy(), as_strings)
    return column


def _from_numbers(array: Array, as_strings: bool) -> Array:
    """Return numbers or truth values as float64, or as strings that have the digits of their own type."""
    if not as_strings:
        return array.astype(np.float64)
    strings = np.empty(len(array), object)
    strings[:] = list(map(string_of, array.astype(str).tolist()))
    return strings


def _from_objects(name: str, array: Array, keep_strings: bool) -> Array:
    strings = np.empty(len(array), object)
    for row, value in enumerate(array.tolist()):
        if isinstance(value, str):
            strings[row] = string_of(value)
        elif value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which is not imported here
            strings[row] = None
        elif isinstance(value, SINGLE) or type(value).__name__ == "Decimal":
            strings[row] = string_of(str(value))
        elif hasattr(value, "isoformat"):
            raise dates_are_refused([name], [value])
        else:
            raise BadColumnError(name, f"holds {shown(value)}, a {type(value).__name__},", "numbers or text", row)
    return strings if keep_strings else numbers_or_strings(strings)


def dates_are_refused(names: list[str], examples: Iterable[Any]) -> BadColumnError:
    """Return the error about columns of dates."""
    example = next(iter(examples), None)
    such = "" if example is None else f", such as {shown(str(example))}"
    others = f", and so do {', '.join(map(shown, names[1:8]))}" if len(names) > 1 else ""
    options = " ".join(f"--drop {shlex.quote(name)}" for name in names[:8])
    return BadColumnError(
        names[0],
        f"holds dates or times{such}{others}",
        "numbers made of them (year, month, weekday, days since a start), or that they are left out (drop, on the "
        f"command line {options})",
    )


def numbers_or_strings(column: Array) -> Array:
    """Return a column as float64 if every field is a finite number, a truth value or a gap."""
    if column.dtype != object:
        return column
    numbers: dict[str | None, float] = {None: math.nan}
    for text in set(column.tolist()) - {None}:
        value = number_of(text)
        if value is None:
            return column
        numbers[text] = value
    return np.array([numbers[text] for text in column.tolist()])


def number_of(text: str) -> float | None:
    """Return the finite number or truth value that a string says; None if it says none."""
    if text in TRUTH:
        return float(TRUTH[text])
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def to_strings(column: Array) -> Array:
    """Return a column as strings; whole numbers have no point."""
    return column if column.dtype == object else _from_numbers(column, True)
