"""`FileRows`: a matrix in files, as the rest of the library reads it: rows by number, or all of them block by block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.dataset import aligned_empty
from gpusoftmax.rows.flat_file import FlatFile
from gpusoftmax.rows.mapping import MappedFile, why_not_mapped
from gpusoftmax.rows.memory import available_memory
from gpusoftmax.rows.ring import BUFFER_BYTES, DEPTH, read_ahead

MOST_OPEN = 64  # files that are kept open; of more, each is opened when it is read, since processes may open few
MAPPED_BYTES = 64 << 20  # of the first block of a mapped file, after which it is checked whether the file is the same
CHECK_SECONDS = 0.5  # between two such checks, about
FRACTION_MAPPED = 0.8  # of the available memory: larger files are read through a ring
FRACTION_BUFFERS = 1 / 4  # of the memory limit: the rest is for the solver
GAP_BYTES = 256 << 10  # between two rows: reading on takes less time than another call
FRACTION_CACHED = 0.7  # of the available memory: what has been read of larger files is dropped from the system's cache


@dataclass(frozen=True, eq=False)
class FileRows:
    """A matrix X (n, d) in files, which `open_rows` opened; pass it as X.

    Attributes
    ----------
    files : sequence of FlatFile
        Each has some of the rows, one after the other.
    memory_limit : int, optional
        Bytes that reading and the solver may take.
    ndim : int
        2.
    """

    files: Sequence[FlatFile]
    memory_limit: int | None = None
    ndim: ClassVar[int] = 2
    _buffers: list[Array] = field(default_factory=list, repr=False)  # of the ring, between passes
    _maps: list[MappedFile] = field(default_factory=list, repr=False)

    def __reduce__(self) -> Any:
        return FileRows, (list(self.files), self.memory_limit)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix, (n, d)."""
        return int(self._starts[-1]), self.files[0].d

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the features as they are computed with; uint16 stands for the bits of bfloat16."""
        return self._dtype

    @cached_property
    def _dtype(self) -> np.dtype[Any]:
        return self.files[0].dtype

    @property
    def path(self) -> Path:
        """The first of the files."""
        return self.files[0].path

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in memory."""
        return len(self) * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return self.shape[1] * self.dtype.itemsize

    @property
    def ring_bytes(self) -> int:
        """Bytes of all buffers that rows are read into."""
        return DEPTH * self.buffer_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        names = ", ".join(str(one.path) for one in self.files[:3]) + ", ..." * (len(self.files) > 3)
        return f"<FileRows {self.shape[0]} x {self.shape[1]} {self.dtype}: {names}>"

    @cached_property
    def _starts(self) -> Array:
        """The number of the first row of each file, and n."""
        return np.cumsum([0, *(one.n for one in self.files)])

    @property
    def is_mapped(self) -> bool:
        """Whether the files are mapped to memory; otherwise they are read block by block."""
        return self._is_mapped

    @cached_property
    def _is_mapped(self) -> bool:
        limit = int(FRACTION_MAPPED * self.memory) if self.memory_limit is None else self.memory_limit
        size = sum(one.identity.size for one in self.files)
        why = why_not_mapped() or (f"{size} bytes are more than {limit}" if max(size, self.nbytes) > limit else "")
        if not why and len(self.files) > MOST_OPEN:
            why = f"a process should not keep {len(self.files)} files open"
        how = f"read through {DEPTH} buffers of {self.buffer_bytes} bytes: {why}" if why else "mapped to memory"
        log.info("rows: %d files with %d bytes are %s", len(self.files), size, how)
        return not why

    @property
    def in_one_array(self) -> bool:
        """Whether the rows can be used as `array`, like a matrix in memory."""
        return self.is_mapped and len(self.files) == 1 and self.files[0].is_in_place

    @property
    def array(self) -> Array:
        """The mapped rows, if they are `in_one_array`; call `check` after each use."""
        return self.files[0].numbers(self._mapped[0])

    @property
    def buffer_bytes(self) -> int:
        """Bytes of a buffer that rows are read into."""
        return int(min(BUFFER_BYTES, FRACTION_BUFFERS * self.memory / DEPTH))

    @property
    def memory(self) -> int:
        """Bytes that reading and the solver may take: the limit, or what is available."""
        return self._available if self.memory_limit is None else self.memory_limit

    @cached_property
    def _available(self) -> int:
        return available_memory()

    def __getitem__(self, rows: Any) -> Array:
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        rows = self._row_numbers(rows)
        if self.in_one_array or (np.diff(rows) > 0).all():
            found: Array = np.empty((len(rows), self.shape[1]), self.dtype)
            self._read_numbers(rows, found)
            return found
        numbers, places = np.unique(rows, return_inverse=True)
        return self[numbers][places]

    def _row_numbers(self, rows: Any) -> Array:
        """Return the row numbers (m,) that an index stands for, none negative.

        Raises
        ------
        IndexError
            It is no slice, row numbers or mask of n rows, or there are no such rows.
        """
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        if isinstance(rows, tuple):  # scikit-learn asks for X[rows, ...], to copy the rows of a fold
            raise IndexError(
                f"{len(rows)} indices for rows in files; pass one, such as rows[:5], which reads these rows, or leave "
                "them in their files by rows.select(numbers). To cross-validate, call sweep(..., cv=5) or "
                "SoftmaxClassifierCV; for tools that need an array pass rows[:], if it fits into memory"
            )
        numbers = np.asarray(rows)
        if numbers.dtype == np.bool_ and numbers.shape == (len(self),):
            return np.flatnonzero(numbers)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise IndexError(
                f"rows in files take a slice, row numbers (m,) or a mask ({len(self)},); got "
                f"{numbers.dtype} of shape {numbers.shape}"
            )
        numbers = numbers.astype(np.int64)  # n may be too large for the type, and differences of uint64 wrap around
        if len(numbers) and not (-len(self) <= numbers.min() and numbers.max() < len(self)):
            raise IndexError(f"row numbers go from 0 to {len(self) - 1}; got {numbers.min()} to {numbers.max()}")
        return numbers % len(self)

    def _read_numbers(self, numbers: Array, out: Array, scratch: Array | None = None) -> None:
        """Read rows by their numbers, which do not decrease, into `out`; those with small gaps between them at once.

        With the rows in the gaps they are read into `scratch`, an array of bytes, which is made if it is too small.
        """
        if self.in_one_array:
            np.take(self.array, numbers, axis=0, out=out, mode="clip")  # "raise" would make a copy
            self.check(int(numbers[0]) if len(numbers) else 0)
            return
        gap, longest = max(1, GAP_BYTES // self.row_bytes), max(1, self.buffer_bytes // self.row_bytes)
        a = 0
        while a < len(numbers):
            stop = a + int(np.searchsorted(numbers[a:], numbers[a] + longest))
            breaks = np.flatnonzero(np.diff(numbers[a:stop]) > gap)
            b = stop if not len(breaks) else a + int(breaks[0]) + 1
            first, m = int(numbers[a]), int(numbers[b - 1] - numbers[a]) + 1
            if m == b - a:
                self._read(first, out[a:b])
            else:
                size = m * self.row_bytes
                if scratch is None or len(scratch) < size:
                    scratch = aligned_empty((size,), np.uint8)
                covering = scratch[:size].view(self.dtype).reshape(m, self.shape[1])
                self._read(first, covering)
                np.take(covering, numbers[a:b] - first, axis=0, out=out[a:b], mode="clip")
            a = b

    def _read(self, first: int, out: Array) -> None:
        """Read the rows from `first` on into `out` (m, d), in `dtype`.

        Raises
        ------
        BadFileError
            A file was changed, truncated, replaced or removed since it was opened.
        OSError
            It cannot be read.
        """
        place = 0
        for i, part in self._parts(first, first + len(out)):
            file, rows = self.files[i], out[place : place + part.stop - part.start]
            file.check(part.start)
            if file.is_in_place:
                file.read(part.start, rows.view(file.stored))
            else:
                raw: Array = aligned_empty((len(rows), file.d), file.stored)
                file.read(part.start, raw)
                rows[...] = file.numbers(raw)
            place += len(rows)

    def select(self, numbers: Array) -> SelectedRows:
        """Return some rows as a matrix of its own; none is read.

        Parameters
        ----------
        numbers : ndarray of int, (m,)
            Their row numbers. Reading is slow unless they increase.

        Returns
        -------
        SelectedRows
            Shape (m, d).
        """
        return SelectedRows(self, np.asarray(numbers, np.int64))

    def blocks(self, step: int, within: int | None = None) -> Iterator[tuple[int, Array]]:
        """Read all rows in blocks, ahead of the caller.

        Parameters
        ----------
        step : int
            Each block but the last has a multiple of so many rows.
        within : int, optional
            No block goes across a multiple of this.

        Yields
        ------
        first : int
            The number of the block's first row.
        block : ndarray, (m, d)
            In the type `dtype`; it is overwritten when the next one is asked for.

        Raises
        ------
        BadFileError
            A file was changed, truncated, replaced or removed since it was opened.
        OSError
            It cannot be read.
        ValueError
            The memory limit is too small for three blocks of `step` rows.
        """
        if self.is_mapped:
            return self._mapped_blocks(step, within)
        ranges = block_ranges(len(self), step, within, self._rows_at_once(step))
        return read_ahead(ranges, self._read_range, self._bytes_at_once(step), self._buffers)

    def _rows_at_once(self, step: int) -> int:
        """How many rows a block has at most: a multiple of `step`."""
        size = MAPPED_BYTES if self.is_mapped else self.buffer_bytes
        return max(1, size // max(1, self.row_bytes * step)) * step

    def _bytes_at_once(self, step: int) -> int:
        needed = self._rows_at_once(step) * self.row_bytes
        limit = self.memory_limit
        if limit is not None and DEPTH * needed > limit:
            raise ValueError(
                f"memory_limit={limit} is too small: {DEPTH} buffers of {step} rows of {self.shape[1]} features take "
                f"{DEPTH * needed} bytes; pass a larger limit"
            )
        return needed

    def _read_range(self, first: int, stop: int, buffer: Array) -> Array:
        rows = buffer[: (stop - first) * self.row_bytes].view(self.dtype).reshape(stop - first, self.shape[1])
        self._read(first, rows)
        if self._passes_by:
            for i, part in self._parts(first, stop):
                self.files[i].drop_from_cache(part.start, part.stop)
        return rows

    @cached_property
    def _passes_by(self) -> bool:
        """Whether the files are so large that the system's cache would hold nothing of them for the next pass."""
        return not self.is_mapped and self.nbytes > FRACTION_CACHED * available_memory()

    def _parts(self, first: int, stop: int) -> Iterator[tuple[int, slice]]:
        """The files that rows are in, each with the numbers of these rows in it."""
        i = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < stop:
            start = int(self._starts[i])
            last = min(stop, start + self.files[i].n)
            if last > first:
                yield i, slice(first - start, last - start)
            first, i = last, i + 1

    def _mapped_blocks(self, step: int, within: int | None) -> Iterator[tuple[int, Array]]:
        first, most, borders = 0, self._rows_at_once(step), self._starts[1:-1].tolist()
        converted = not all(file.is_in_place for file in self.files)  # then a block takes memory of its own
        while first < len(self):
            stop, started = stop_of_block(first, len(self), step, within, most, borders), time.perf_counter()
            parts = list(self._parts(first, stop))
            if len(parts) == 1:
                (i, rows), *_ = parts
                yield first, self.files[i].numbers(self._mapped[i][rows])
            else:  # across two files
                yield first, self._read_range(first, stop, aligned_empty(((stop - first) * self.row_bytes,), np.uint8))
            for i, rows in parts:
                self._check_file(i, rows.start)
            seconds = time.perf_counter() - started
            # blocks take time to begin and to end, and a file that has changed should be noticed within a second
            if seconds < CHECK_SECONDS / 2 and not converted:
                most *= 2
            elif seconds > CHECK_SECONDS:
                most = max(most // 2 // step, 1) * step
            first = stop

    @property
    def _mapped(self) -> list[Array]:
        if not self._maps:
            self._maps.extend([MappedFile(file) for file in self.files])  # all at once: there may be other threads
        return [one.rows for one in self._maps]

    def are_in(self, path: Path) -> bool:
        """Tell whether rows are read from a file, by this or another name.

        Parameters
        ----------
        path : pathlib.Path
            It may be missing.

        Returns
        -------
        bool
        """
        return path.exists() and any(path.samefile(file.path) for file in self.files if file.path.exists())

    def check(self, row: int) -> None:
        """Check that no file has changed since it was opened.

        Parameters
        ----------
        row : int
            The number of a row that was read last, for the message.

        Raises
        ------
        BadFileError
            A file was changed, truncated, replaced or removed.
        """
        for i in range(len(self.files)):
            self._check_file(i, max(row - int(self._starts[i]), 0))

    def _check_file(self, i: int, row: int) -> None:
        file = self.files[i]
        if self._maps and (bad := self._maps[i].first_bad_row()) is not None:
            file.check(bad)
            raise BadFileError(file.path, place=f"row {bad}", reason="cannot be read", expected="a readable disk")
        file.check(row)


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """Some rows of a matrix in files, as a matrix of its own.

    Attributes
    ----------
    stored : FileRows
    numbers : ndarray of int64, (n,)
        The row numbers. Reading is slow unless they increase.
    """

    stored: FileRows
    numbers: Array
    ndim: ClassVar[int] = 2
    in_one_array: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.numbers), self.stored.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `FileRows`."""
        return self.stored.dtype

    @property
    def path(self) -> Path:
        """See `FileRows`."""
        return self.stored.path

    @property
    def memory(self) -> int:
        """See `FileRows`."""
        return self.stored.memory

    @property
    def buffer_bytes(self) -> int:
        """See `FileRows`."""
        return self.stored.buffer_bytes

    @property
    def is_mapped(self) -> bool:
        """See `FileRows`."""
        return self.stored.is_mapped

    @property
    def array(self) -> Array:
        """Not to be had: the rows are not in one array."""
        raise TypeError("selected rows are not in one array")

    @property
    def nbytes(self) -> int:
        """Bytes of these rows in memory."""
        return len(self) * self.stored.row_bytes

    @property
    def ring_bytes(self) -> int:
        """See `FileRows`."""
        return self.stored.ring_bytes

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Array:
        return self.stored[self.numbers[rows]]

    def select(self, numbers: Array) -> SelectedRows:
        """Return some of these rows, by their positions."""
        return SelectedRows(self.stored, self.numbers[numbers])

    def blocks(self, step: int, within: int | None = None) -> Iterator[tuple[int, Array]]:
        """Read all rows in blocks; see `operations.RowBlocks`."""
        # one half of a buffer is for the rows, the other for what is read between them
        most = max(step, self.buffer_bytes // 2 // max(1, self.stored.row_bytes) // step * step)
        half = most * self.stored.row_bytes

        def read(first: int, stop: int, buffer: Array) -> Array:
            numbers = self.numbers[first:stop]
            if (np.diff(numbers) < 0).any():
                return self.stored[numbers]
            rows = buffer[: len(numbers) * self.stored.row_bytes].view(self.dtype).reshape(len(numbers), self.shape[1])
            self.stored._read_numbers(numbers, rows, buffer[half:])
            return rows

        return read_ahead(block_ranges(len(self), step, within, most), read, 2 * half, self.stored._buffers)

    def are_in(self, path: Path) -> bool:
        """See `FileRows`."""
        return self.stored.are_in(path)

    def check(self, row: int) -> None:
        """See `FileRows`."""
        self.stored.check(int(self.numbers[row]))


Rows = FileRows | SelectedRows  # a matrix whose rows stay in files until they are read; see `operations.RowBlocks`


def block_ranges(n: int, step: int, within: int | None, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, stop) of n rows that begin at multiples of `step` and have at most `most` rows.

    None goes across a multiple of `within`.
    """
    first = 0
    while first < n:
        stop = stop_of_block(first, n, step, within, most)
        yield first, stop
        first = stop


def stop_of_block(first: int, n: int, step: int, within: int | None, most: int, borders: Sequence[int] = ()) -> int:
    """Return where a block that begins at `first` ends; see `block_ranges`.

    One that goes across a border has only `step` rows.
    """
    stop = min(first + most, n, n if within is None else (first // within + 1) * within)
    border = next((one for one in borders if first < one < stop), None)
    return stop if border is None else min(max(border // step * step, first + step), stop)
