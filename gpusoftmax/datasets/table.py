"""What a table of a user's holds, and which of its columns are asked for."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpusoftmax.exceptions import BadFileError

LABEL_NAMES = ("label", "labels", "class", "target", "y")  # of the column with the labels, if no other is named


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of features, with labels if there are any.

    Attributes
    ----------
    X : ndarray, (n, d)
    y : ndarray, (n,), or None
        Of a text file, text as it stands there.
    feature_names : tuple of str, length d, or None
        The columns' names, if the file has any.
    """

    X: NDArray[Any]
    y: NDArray[Any] | None = None
    feature_names: tuple[str, ...] | None = None


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
        Names of columns to leave out.
    """

    label: str | int | None = None
    need_label: bool = True
    features: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()

    @property
    def is_position(self) -> bool:
        """Whether the label may be a position."""
        return isinstance(self.label, int) or re.fullmatch(r"-?[0-9]{1,9}", self.label or "") is not None

    def choose(self, path: Path, names: list[str], named: bool = True) -> tuple[int | None, list[int]]:
        """Positions of the labels' column, if there is one, and of the features'.

        Parameters
        ----------
        path : pathlib.Path
            The table's file, for messages.
        names : list of str
            What the columns are called, or with named=False what the first row has in them.
        named : bool
            Whether they have names.

        Raises
        ------
        BadFileError
            Two columns have one name, one that is asked for is not there, or no features are left.
        """

        def bad(reason: str, expected: str) -> BadFileError:
            shown = ", ".join(names[:20])[:400] + (", ..." if len(names) > 20 else "")
            return BadFileError(path, reason=f"{reason} {len(names)} columns: {shown}", expected=expected)

        if named and len(set(names)) < len(names):
            [(twice, _)] = Counter(names).most_common(1)
            raise bad(f"two are called {twice[:80]!r} of", "each name once")
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
        out = {place[name] for name in self.drop} | {label}
        if named and self.features is not None:
            features = [place[name] for name in self.features]
            if label in features:  # a position, in a file whose columns have another order
                raise bad(f"the labels' column is the feature {names[label]!r} of", "the labels' column, by its name")
        else:
            features = [i for i in range(len(names)) if i not in out]
        if not features:
            raise bad("no features among", "some beside the labels")
        return label, features

    def _label(self, names: list[str], place: dict[str, int]) -> int | None:
        if isinstance(self.label, str) and self.label in place:
            return place[self.label]
        if self.label is not None:
            position = int(self.label) if self.is_position else len(names)
            return position % len(names) if -len(names) <= position < len(names) else None
        found = [i for name, i in place.items() if name.lower() in LABEL_NAMES]
        return found[0] if len(found) == 1 else None
