"""Reading plain rows of a table by a compiled kernel, and handing over what the kernel leaves to Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.files.dialect import BLANK
from gpusoftmax.files.fields import PlainRows, TableBuilder
from gpusoftmax.files.text import MOST_LINE

MOST_ODD = 1 << 12  # fields of a block that are not plain numbers


class PlainReader:
    """The kernel, and what it has to know about a table.

    Parameters
    ----------
    builder : TableBuilder
        Takes the rows.

    Raises
    ------
    ImportError
        Numba is not installed.
    """

    def __init__(self, builder: TableBuilder) -> None:
        from gpusoftmax.cpu import text_kernels

        self._builder, self._kernels = builder, text_kernels
        layout, dialect = builder.layout, builder.layout.dialect
        self._roles = np.full(layout.width, text_kernels.SKIPPED)
        self._roles[builder.numbers] = np.arange(len(builder.numbers))
        self._roles[builder.words] = -2 - np.arange(len(builder.words))
        between = " \t" if dialect.delimiter == BLANK else dialect.delimiter
        signs = {
            "delimiter": between[0], "other": between[-1],
            "space": "\0" if " " in between else " ", "tab": "\0" if "\t" in between else "\t",
            "point": layout.decimal or ".", "quote": dialect.quote, "comment": dialect.comment or "\0",
        }  # fmt: skip
        codes = {name: np.uint8(ord(sign)) for name, sign in signs.items()}
        self._style = text_kernels.Style(**codes, trailing=dialect.trailing, longest=MOST_LINE)
        self._words = text_kernels.no_words()  # type: ignore[no-untyped-call]
        self._known: list[int] = []  # for each word of the kernel its number in the table
        self._odd = np.empty((MOST_ODD, 4), np.int64)

    def read(self) -> int:
        """Read plain rows until one is not plain, or until the end of the block; return how many they were."""
        lines = self._builder.lines
        if not lines.fill():
            return 0
        block, t = lines.block, len(self._builder.words)
        most = (len(block) - lines.at) // len(self._roles) + 1
        values = np.empty((most, len(self._builder.numbers)))
        codes, spans = np.empty((most, t), np.int64), np.empty((most, t, 2), np.int64)
        read: Any = self._kernels.read_plain_rows
        count, n_odd, at = read(
            block, lines.at, self._roles, self._style, values, self._words, codes, spans, self._odd
        )  # fmt: skip
        if count:
            odd = [(row, j, block[begin:end].decode()) for row, j, begin, end in self._odd[:n_odd].tolist()]
            ends = np.arange(lines.number + 1, lines.number + 1 + count)
            words = self._numbered(block, codes[:count], spans[:count])
            self._builder.add_plain(PlainRows(values[:count], words, odd, ends))
            lines.at, lines.number = at, lines.number + count
        return int(count)

    def _numbered(self, block: bytes, codes: Array, spans: Array) -> Array:
        """Return the words of the rows as numbers of the table."""
        store, places = self._words.store, self._words.ends
        for i in range(len(self._known), int(self._words.count[0])):
            self._known.append(self._builder.code(store[places[i] : places[i + 1]].tobytes().decode()))
        found = np.array([*self._known, 0])[codes]  # NO_WORD takes the last
        for row, k in np.argwhere(codes == self._kernels.NO_WORD).tolist():
            begin, end = spans[row, k].tolist()
            found[row, k] = self._builder.code(block[begin:end].decode())
        return found
