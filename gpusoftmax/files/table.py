"""`Table`, the content of a user's table, and `Columns`, which of its columns to read."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.tables.columns import BadColumnError

LABEL_NAMES = ("label", "labels", "class", "target", "y")  # names of the column of labels, if none is requested
COORDINATES = {"x", "y", "z"}  # in a table with all three, y is a coordinate and not a label
NAMELESS = re.compile(
    r"|Unnamed: [0-9]+(\.[0-9]+)?|__index_level_[0-9]+__"
)  # or as pandas names columns without a name

MOST_COLUMNS = 100_000
MOST_LABEL = 1000  # characters: in an array of text each label takes as much memory as the longest


def bad_column(path: Path, error: Exception, table: Table | None = None) -> BadFileError:
    """Return an error about a column as one about the file that it comes from, with the place of the row."""
    if not isinstance(error, BadColumnError):
        return BadFileError(path, reason=str(error), expected="columns of numbers or text")
    at = None if error.row is None else f"row {error.row}" if table is None else table.place(error.row)
    place = f"column {error.column[:80]!r}"
    return BadFileError(
        path, place=place if at is None else f"{at}, {place}", reason=error.reason, expected=error.expected
    )


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of features, with their labels if there are any.

    Attributes
    ----------
    values : ndarray, scipy.sparse.csr_array or RawColumns of shape (n, d)
        The features; RawColumns only where `Columns.raw` asks for them.
    y : ndarray of shape (n,), or None
        The labels; from a text file, unconverted text.
    feature_names : tuple of str, length d, or None
        The columns' names, if the file has any.
    label : str, int or None
        The column of labels: its name, or its position if it has none.
    lines : ndarray of shape (n,), or None
        For a text file, the number of the line that each row ends in.
    base : int or None
        For sparse features in a text file, the number of the first column, 0 or 1.
    """

    values: Any
    y: Array | None = None
    feature_names: tuple[str, ...] | None = None
    label: str | int | None = None
    lines: Array | None = None
    base: int | None = None

    @property
    def label_name(self) -> str | None:
        """The column of labels in words."""
        return f"column {self.label + 1}" if isinstance(self.label, int) else self.label

    def place(self, row: int) -> str:
        """Say where a row is in its file, for messages."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read.

    Attributes
    ----------
    label : str, int or None
        The column of labels: its name or its position, counted from 0, or from the end if negative. A position may be
        given as text. None: the column whose name is one of LABEL_NAMES.
    need_label : bool
        Whether to refuse a table without such a column.
    features : tuple of str, or None
        Names of the columns to read as features, in this order, if the table has names; None: all other columns.
    drop : tuple of str
        Names of columns to leave out, whatever they contain.
    header : bool or None
        Whether the first line of a text file holds names; None: decided by its content.
    delimiter : str or None
        What separates the fields of a text file: one character, where a blank stands for any number of blanks and tabs;
        None: decided by its content.
    decimal : str or None
        The sign of decimals in a text file, "." or ","; the other one may part groups of three digits. None: decided by
        its content.
    label_name : str or None
        Name of the column of labels in another file of the same data set; a column of this name takes precedence.
    n_features, base : int or None
        For sparse features in a text file: how many columns there are, and the number of the first one, 0 or 1. None:
        decided by the file.
    raw : bool
        Whether to return columns of text and columns with gaps as RawColumns; otherwise they are refused. A table of
        plain numbers is a matrix in any case, unless there is a column in `as_strings`.
    as_strings : frozenset of str
        Names of columns whose fields stay strings even if all are numbers, where `raw` is True. A column of a file
        without a header is named by its position, "0", "1" and so on.
    """

    label: str | int | None = None
    need_label: bool = True
    features: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    header: bool | None = None
    delimiter: str | None = None
    decimal: str | None = None
    label_name: str | None = None
    n_features: int | None = None
    base: int | None = None
    raw: bool = False
    as_strings: frozenset[str] = frozenset()

    @property
    def is_position(self) -> bool:
        """Whether `label` can be read as a position."""
        return isinstance(self.label, int) or re.fullmatch(r"-?[0-9]{1,9}", self.label or "") is not None

    def choose(
        self, path: Path, names: list[str], named: bool = True, index: Set[str] = frozenset()
    ) -> tuple[int | None, list[int]]:
        """Return the position of the column of labels, or None, and the positions of the features.

        Parameters
        ----------
        path : pathlib.Path
            The file of the table, for messages.
        names : list of str
            Names of the columns, or the fields of the first row if named=False.
        named : bool
            Whether the columns have names.
        index : set of str
            Columns that hold the index of a data frame. Unless requested, they are left out with a warning, and so are
            columns without a name.

        Raises
        ------
        BadFileError
            Two columns to read have the same name, a requested column is missing, or no features are left.
        """

        def bad(reason: str, expected: str) -> BadFileError:
            shown = ", ".join(names[:20])[:400] + (", ..." if len(names) > 20 else "")
            return BadFileError(path, reason=f"{reason} {len(names)} columns: {shown}", expected=expected)

        place = {name: i for i, name in enumerate(names)} if named else {}
        if lacking := [name for name in (*self.drop, *(self.features or ()) * named) if name not in place]:
            similar = difflib.get_close_matches(lacking[0], names, 1) if named else []
            hint = f" (did you mean {similar[0]!r}?)" if similar else "" if named else ", and a header"
            raise bad(f"no {', '.join(map(repr, lacking[:8]))} among", f"columns with these names{hint}")
        label = self._label(names, place)
        if label is None and (self.need_label or self.label is not None):
            sought = "column that is clearly the labels" if self.label is None else f"{self.label!r}"
            similar = difflib.get_close_matches(str(self.label), names, 1) if named else []
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise bad(
                f"no {sought} among",
                f"the name or position of the column of labels (label, on the command line --label){hint}",
            )
        if label is not None and names[label] in self.drop:
            raise bad(f"{names[label]!r} is both the column of labels and dropped, of", "one or the other")
        if named and self.features is not None:
            features = [place[name] for name in self.features]
            if label in features:  # the label is a position, and the columns of this file are in another order
                raise bad(
                    f"the column of labels is the feature {names[label]!r} of", "the name of the column of labels"
                )
            if both := set(self.features) & set(self.drop):
                raise bad(f"{min(both)[:80]!r} is both a feature of the model and dropped, of", "one or the other")
        else:
            drop = set(self.drop)
            features = [i for i, name in enumerate(names) if i != label and not (named and name in drop)]
            nameless = {i for i in features if named and (names[i] in index or NAMELESS.fullmatch(names[i]))}
            if nameless:
                first = min(nameless)
                which = f"column {first + 1} ({names[first][:80]!r})" if names[first] else f"column {first + 1}"
                others = f" (and {len(nameless) - 1} others)" if len(nameless) > 1 else ""
                log.warning("%s: %s%s is taken for row numbers and left out; name it to use it", path, which, others)
                features = [i for i in features if i not in nameless]
        if not features:
            raise bad("no features among", "at least one column beside the labels")
        counts = Counter(names) if named else Counter()
        used = [*features, *([] if label is None else [label])]
        if twice := next((names[i] for i in used if counts[names[i]] > 1), None):
            raise bad(f"two are named {twice[:80]!r} of", "each name once")
        return label, features

    def position(self, names: list[str]) -> int | None:
        """Return the position of the column of labels among columns of these names, or None if it is uncertain."""
        return self._label(names, {name: i for i, name in enumerate(names)})

    def _label(self, names: list[str], place: dict[str, int]) -> int | None:
        if self.label_name in place:
            return place[self.label_name]
        if isinstance(self.label, str) and self.label in place:
            return place[self.label]
        if self.label is not None:
            position = int(self.label) if self.is_position else len(names)
            return position % len(names) if -len(names) <= position < len(names) else None
        taken = set(self.features or ()) if place else set()
        usual = [i for i, name in enumerate(names) if place and name.lower() in LABEL_NAMES and name not in taken]
        if len(usual) != 1 or (
            names[usual[0]] in "Yy" and not taken and {name.lower() for name in names} >= COORDINATES
        ):
            return None
        return usual[0]
