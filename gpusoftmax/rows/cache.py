"""Files that have to be decoded, such as Parquet: once, into a .npy file that is kept for the next time.

Decoding Parquet takes ten times as long as reading plain numbers, and a fit reads all rows some ten times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import readable
from gpusoftmax.checks.messages import shown
from gpusoftmax.datasets import pickled
from gpusoftmax.datasets.cifar10 import read_file
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.atomic import write_atomically
from gpusoftmax.files.npy import header_of
from gpusoftmax.files.parquet import as_matrix, parquet_file
from gpusoftmax.rows.flat_file import FlatFile
from gpusoftmax.rows.formats import open_npy

if os.name == "posix":  # Windows has no such locks
    import fcntl

DECODED_BYTES = 32 << 20  # decoded at a time
VERSION = "1"  # of how files are decoded


def decoded(path: Path, key: str, cache: Path | None, decode: Callable[[], Decoded]) -> FlatFile:
    """Open the decoded copy of a file; make it first if there is none for the file's present size and time, and `key`.

    Raises
    ------
    OSError
        The copy cannot be written; the message says where, and to pass `cache`.
    """
    status = os.stat(path)
    text = "\n".join([VERSION, str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), key])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = path.parent if cache is None else cache
    copy = folder / f".{path.name[:100]}.{digest}.npy"
    with _alone_with(path):
        if (kept := _kept(copy)) is not None:
            return kept
        found = decode()
        log.info("rows: %s is decoded into %s, %d x %d %s", path, copy, found.n, found.d, found.dtype)
        try:
            write_atomically(copy, found.content)
        except OSError as error:
            raise OSError(
                error.errno, f"the decoded rows of {path} cannot be written ({error.strerror}); pass cache=FOLDER",
                str(copy),
            ) from error  # fmt: skip
    return open_npy(copy)


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Wait until no other thread or process decodes this file: a copy that is in use must not be replaced."""
    with path.open("rb") as file:
        if os.name == "posix":
            with suppress(OSError):  # not every file system has locks; then whoever comes first has to open it again
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _kept(copy: Path) -> FlatFile | None:
    """Open a copy that was made before; None if there is none that can be read."""
    try:
        return open_npy(copy)
    except FileNotFoundError:
        return None
    except BadFileError as error:
        log.warning("%s; the copy is made again", error)
        return None


class Decoded:
    """A matrix (n, d) that is decoded part by part; `parts()` yields arrays (m, d) of the type `dtype`."""

    def __init__(self, n: int, d: int, dtype: Any, parts: Callable[[], Iterator[Array]]) -> None:
        self.n, self.d, self.dtype, self.parts = n, d, np.dtype(dtype), parts

    def content(self) -> Iterator[bytes | memoryview]:
        """Yield the parts of a .npy file."""
        yield header_of(self.dtype, (self.n, self.d))
        rows = 0
        for part in self.parts():
            rows += len(part)
            yield memoryview(np.ascontiguousarray(part, self.dtype).reshape(-1).view(np.uint8).data)
        if rows != self.n:
            raise ValueError(f"{rows} rows were decoded, not {self.n}")


def columns_of(paths: Sequence[Path]) -> list[str]:
    """Return the columns of Parquet files, in the order of the first file.

    Raises
    ------
    BadFileError, ImportError, OSError
        A file has other columns than the first, or see `files.parquet.read_parquet`.
    """
    found = list[str]()
    for path in paths:
        with parquet_file(path) as file:
            names = list(file.schema_arrow.names)
        found = found or names
        if sorted(names) != sorted(found):
            expected = f"those of {paths[0]}, {shown(found)}, or name=[...] for some that all files have"
            raise BadFileError(path, reason=f"has the columns {shown(names)}", expected=expected)
    return found


def open_parquet(path: Path, columns: Sequence[str], cache: Path | None) -> FlatFile:
    """Open the decoded copy of some columns of a Parquet file; lists of equal lengths give a feature each.

    Raises
    ------
    BadFileError, ImportError, OSError
        See `files.parquet.read_parquet`, and `decoded`.
    """
    with parquet_file(path) as file:
        names = list(columns)
        if missing := [name for name in names if name not in file.schema_arrow.names]:
            expected = f"one of {shown(list(file.schema_arrow.names))}"
            raise BadFileError(path, reason=f"has no column {shown(missing[0])}", expected=expected)
        key = f"{file.schema_arrow.to_string()}\n{names}"

    def decode() -> Decoded:
        with parquet_file(path) as file:
            n = file.metadata.num_rows
            if not n:
                raise BadFileError(path, reason="no rows", expected="a table with rows")
            first = next(_batches(path, file, names, 1))
        rows = max(1, DECODED_BYTES // max(1, first.shape[1] * first.dtype.itemsize))

        def parts() -> Iterator[Array]:
            with parquet_file(path) as file:
                for part in _batches(path, file, names, rows):
                    if part.shape[1] != first.shape[1]:
                        reason, expected = "lists of different lengths", "lists of the same length in all rows"
                        raise BadFileError(path, reason=reason, expected=expected)
                    yield part

        return Decoded(n, first.shape[1], first.dtype, parts)

    return decoded(path, key, cache, decode)


def _batches(path: Path, file: Any, names: list[str], rows: int) -> Iterator[Array]:
    import pyarrow

    for batch in file.iter_batches(rows, columns=names, use_threads=False):
        yield readable(as_matrix(path, pyarrow.Table.from_batches([batch]), names)[0])


def open_pickled_batch(path: Path, cache: Path | None) -> FlatFile:
    """Open the decoded copy of a pickled batch of CIFAR-10, which is read without unpickling it.

    Raises
    ------
    BadFileError, OSError
        It is not such a batch; or see `decoded`.
    """

    def decode() -> Decoded:
        pixels, _ = pickled.read_batch(read_file(path), path, 10_000)
        return Decoded(len(pixels), pixels.shape[1], np.uint8, lambda: iter([pixels]))

    return decoded(path, "cifar10", cache, decode)
