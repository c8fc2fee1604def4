"""A matrix that lies in a file as plain numbers, at equal distances, and reading some of its rows."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import readable
from gpusoftmax.dtypes import BFLOAT16
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.dataset import aligned_empty
from gpusoftmax.files.open import open_regular


class Identity(NamedTuple):
    """What tells a file from another one of the same name, or from itself after a change."""

    size: int
    changed: int  # nanoseconds

    @staticmethod
    def of(status: os.stat_result) -> Identity:
        """Return the identity of a file with this status."""
        return Identity(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class FlatFile:
    """A matrix (n, d) in a file.

    Attributes
    ----------
    path : pathlib.Path
    n, d : int
    stored : numpy.dtype
        The type of the numbers in the file, in either byte order.
    offset : int
        Bytes before the first number.
    row_stride, column_stride : int
        Bytes from row to row, and from column to column; one of them is contiguous.
    identity : Identity
        That of the file when it was opened.
    bfloat16 : bool
        Whether uint16 in the file are the bits of bfloat16.
    """

    path: Path
    n: int
    d: int
    stored: np.dtype[Any]
    offset: int
    row_stride: int
    column_stride: int
    identity: Identity
    bfloat16: bool = False
    _kept: list[Any] = field(default_factory=list, repr=False)  # the open file, if it is kept open
    _places: set[tuple[int, int]] = field(default_factory=set, repr=False)  # device and inode, once they are known

    def __reduce__(self) -> Any:
        fields = (
            self.path, self.n, self.d, self.stored, self.offset, self.row_stride, self.column_stride, self.identity,
            self.bfloat16,
        )  # fmt: skip
        return FlatFile, fields

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the rows in memory, one that is read in place."""
        return self.numbers(np.empty((0, 1), self.stored)).dtype

    @property
    def is_in_place(self) -> bool:
        """Whether the numbers in the file need no conversion, and lie where numbers of their type may lie."""
        stored, item = np.empty((1, 1), self.stored), self.stored.itemsize
        aligned = all(place % item == 0 for place in (self.offset, self.row_stride, self.column_stride))
        return aligned and bool(np.shares_memory(self.numbers(stored), stored))

    @property
    def row_bytes(self) -> int:
        """Bytes of the numbers of a row."""
        return self.d * self.stored.itemsize

    def numbers(self, stored: Array) -> Array:
        """Convert numbers from the file to `dtype`, or return them as they are."""
        return stored.view(BFLOAT16) if self.bfloat16 else readable(stored)

    def keep_open(self) -> None:
        """Open the file once, for all reads to come; otherwise each read opens it."""
        file = self._open()
        weakref.finalize(self, file.close)
        self._kept.append(file)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file for the time of the block, unless it is kept open; yields its descriptor.

        Raises
        ------
        BadFileError
            The file is no longer the one that was looked at first.
        OSError
            It cannot be opened.
        """
        if self._kept:
            yield self._kept[0].fileno()
            return
        with self._open() as file:
            yield file.fileno()

    def _open(self) -> BinaryIO:
        self.check(0)
        return open_regular(self.path)

    def check(self, row: int) -> None:
        """Raise unless the file is as it was when it was opened; `row` is what was read when this was found.

        Raises
        ------
        BadFileError
            It was changed, truncated, replaced or removed.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise self._changed(row, "was removed while it was used") from None
        if status.st_size < self.identity.size:
            words = f"was truncated from {self.identity.size} to {status.st_size} bytes while it was used"
            raise self._changed(row, words)
        place = status.st_dev, status.st_ino
        if self._places and place not in self._places:
            raise self._changed(row, "was replaced while it was used")
        if Identity.of(status) != self.identity:
            raise self._changed(row, "was changed after it was opened")
        self._places.add(place)

    def _changed(self, row: int, words: str) -> BadFileError:
        expected = "a file that stays as it is until the fit has ended; open it again with open_rows"
        return BadFileError(self.path, place=f"row {row}", reason=f"the file {words}", expected=expected)

    def read(self, first: int, out: Array) -> None:
        """Read the rows from `first` on into `out` (m, d), in the stored type; its rows or columns are contiguous.

        Raises
        ------
        BadFileError
            The file ends before.
        OSError
            It cannot be read; the message names the first of these rows.
        """
        item = self.stored.itemsize
        if self.column_stride != item:  # column by column
            for j in range(self.d):
                column = aligned_empty((len(out),), self.stored)
                self._fill(self.offset + j * self.column_stride + first * item, column, first)
                out[:, j] = column
        elif self.row_stride == self.row_bytes and out.flags.c_contiguous:
            self._fill(self.offset + first * self.row_stride, out, first)
        else:  # something lies between the rows
            raw = aligned_empty((len(out) * self.row_stride - (self.row_stride - self.row_bytes),), np.uint8)
            self._fill(self.offset + first * self.row_stride, raw, first)
            out[...] = self._view(raw.ctypes.data, len(out), raw)

    def view(self, mapped: Array) -> Array:
        """Return the matrix in a file that is mapped to memory, as an array of bytes."""
        return self._view(mapped.ctypes.data + self.offset, self.n, mapped)

    def _view(self, address: int, n: int, owner: Array) -> Array:
        start = address - owner.ctypes.data
        strides = (self.row_stride, self.column_stride)
        return np.ndarray((n, self.d), self.stored, owner.data, start, strides)

    def _fill(self, offset: int, out: Array, row: int) -> None:
        """Read bytes from `offset` on into an array, whose first number is in `row`."""
        view, filled = memoryview(out.reshape(-1).view(np.uint8).data), 0
        with self.opened() as descriptor:
            while filled < len(view):
                at = row + filled // max(self.row_bytes, 1)
                try:
                    n = _read_at(descriptor, view[filled:], offset + filled)
                except OSError as error:
                    words = f"row {at} of the features cannot be read: {error.strerror}"
                    raise OSError(error.errno, words, str(self.path)) from error
                if n == 0:
                    self.check(at)
                    expected = f"{self.n} rows of {self.d} features"
                    raise BadFileError(self.path, place=f"row {at}", reason="the file ends", expected=expected)
                filled += n

    def drop_from_cache(self, first: int, stop: int) -> None:
        """Let the system drop rows that have been read from its cache, where they would displace other things."""
        if hasattr(os, "posix_fadvise") and self.column_stride == self.stored.itemsize:
            start = self.offset + first * self.row_stride
            with self.opened() as descriptor:
                os.posix_fadvise(descriptor, start, (stop - first) * self.row_stride, os.POSIX_FADV_DONTNEED)


def _read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Read at an offset, at most as many bytes as the view has; returns how many were read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    with open(os.dup(descriptor), "rb", buffering=0) as file:  # on Windows; the position is that of the descriptor
        file.seek(offset)
        return file.readinto(view) or 0
