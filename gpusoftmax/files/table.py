"""What a table of a user's holds, and which of its columns are asked for."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.exceptions import BadFileError

LABEL_NAMES = ("label", "labels", "class", "target", "y")  # of the column with the labels, if no other is named
COORDINATES = {"x", "y", "z"}  # together they are a place, and y is no label
NAMELESS = re.compile(r"|Unnamed: [0-9]+(\.[0-9]+)?|__index_level_[0-9]+__")  # and as pandas calls such columns
GAPS = ("na", "n/a", "nan", "?", "-", "null", "none")  # in small letters, as others write that something is missing
TRUTH = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of features, with labels if there are any.

    Attributes
    ----------
    values : ndarray, (n, d)
        The features.
    y : ndarray, (n,), or None
        Of a text file, text as it stands there.
    feature_names : tuple of str, length d, or None
        The columns' names, if the file has any.
    label : str, int or None
        The labels' column: its name, or its position if it has none.
    lines : ndarray, (n,), or None
        Of a text file, the line that each row ends in.
    """

    values: Array
    y: Array | None = None
    feature_names: tuple[str, ...] | None = None
    label: str | int | None = None
    lines: Array | None = None

    @property
    def label_name(self) -> str | None:
        """Where the labels are from, in words."""
        return f"column {self.label + 1}" if isinstance(self.label, int) else self.label

    def place(self, row: int) -> str:
        """Where a row is in its file, for messages."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are asked for.

    Attributes
    ----------
    label : str, int or None
        The labels' column: a name, or a position from 0, negative from the end, which may be text; None: the one that
        is called as LABEL_NAMES say.
    need_label : bool
        Whether a table without such a column is refused.
    features : tuple of str, or None
        Names of the columns to read, in this order, where the table has names; None: all others.
    drop : tuple of str
        Names of columns to leave out, whatever is in them.
    header : bool or None
        Whether the first line of a text has names; None: as it looks.
    label_name : str or None
        What the labels' column is called in another file of the same table: where a table has it, it is that one.
    """

    label: str | int | None = None
    need_label: bool = True
    features: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    header: bool | None = None
    label_name: str | None = None

    @property
    def is_position(self) -> bool:
        """Whether the label may be a position."""
        return isinstance(self.label, int) or re.fullmatch(r"-?[0-9]{1,9}", self.label or "") is not None

    def choose(
        self, path: Path, names: list[str], named: bool = True, index: Set[str] = frozenset()
    ) -> tuple[int | None, list[int]]:
        """Positions of the labels' column, if there is one, and of the features'.

        Parameters
        ----------
        path : pathlib.Path
            The table's file, for messages.
        names : list of str
            What the columns are called, or with named=False what the first row has in them.
        named : bool
            Whether they have names.
        index : set of str
            Columns that are a data frame's index. They are left out with a warning, as are columns without a name,
            unless they are asked for.

        Raises
        ------
        BadFileError
            Two columns have one name, one that is asked for is not there, or no features are left.
        """

        def bad(reason: str, expected: str) -> BadFileError:
            shown = ", ".join(names[:20])[:400] + (", ..." if len(names) > 20 else "")
            return BadFileError(path, reason=f"{reason} {len(names)} columns: {shown}", expected=expected)

        place = {name: i for i, name in enumerate(names)} if named else {}
        if lacking := [name for name in (*self.drop, *(self.features or ()) * named) if name not in place]:
            similar = difflib.get_close_matches(lacking[0], names, 1) if named else []
            hint = f" (did you mean {similar[0]!r}?)" if similar else "" if named else ", and a header"
            raise bad(f"no {', '.join(map(repr, lacking[:8]))} among", f"columns of these names{hint}")
        label = self._label(names, place)
        if label is None and (self.need_label or self.label is not None):
            sought = "column of labels is certain" if self.label is None else f"{self.label!r}"
            similar = difflib.get_close_matches(str(self.label), names, 1) if named else []
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise bad(f"no {sought} among", f"the labels' name or position (label, on the command line --label){hint}")
        if label is not None and names[label] in self.drop:
            raise bad(f"{names[label]!r} is the labels' and dropped, of", "either")
        if named and self.features is not None:
            features = [place[name] for name in self.features]
            if label in features:  # a position, in a file whose columns have another order
                raise bad(f"the labels' column is the feature {names[label]!r} of", "the labels' column, by its name")
            if both := set(self.features) & set(self.drop):
                raise bad(f"{min(both)[:80]!r} is a feature of the model and dropped, of", "either")
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
            raise bad("no features among", "some beside the labels")
        counts = Counter(names) if named else Counter()
        used = [*features, *([] if label is None else [label])]
        if twice := next((names[i] for i in used if counts[names[i]] > 1), None):
            raise bad(f"two are called {twice[:80]!r} of", "each name once")
        return label, features

    def position(self, names: list[str]) -> int | None:
        """The position of the labels' column among those of these names, if it is certain."""
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
