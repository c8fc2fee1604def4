"""Reading NumPy's files, .npy and .npz, without `numpy.load`.

The size that a header claims is compared with the size of the file before memory is allocated. `numpy.load` allocates
first (a file of 80 bytes may claim 32 GiB), and raises whatever its parser happens to raise. Arrays of objects, which
are stored as pickles, and structured arrays are refused.

Source: NumPy Enhancement Proposal 1, https://numpy.org/neps/nep-0001-npy-format.html.
"""

from __future__ import annotations

import ast
import encodings.cp437  # noqa: F401 - names in a zip archive may use it, and reading a file should not import modules
import errno
import io
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.dataset import aligned_empty
from gpusoftmax.files.open import open_regular, size_of

KINDS = "biufU"  # booleans, numbers, and text, for labels
SPARSE_FORMAT = "format"  # the array in which scipy.sparse.save_npz names the kind of a matrix, as bytes
HEADER = 128  # bytes of the headers that are written here
MOST_HEADER = 10_000  # bytes, as in NumPy
MOST_DIRECTORY = 1 << 20  # bytes of a zip archive's list of members: some 20,000 of them
# zeros shrink to a thousandth of their size, real data to no less than a hundredth; a small archive does no harm
MOST_RATIO, LARGE = 200, 32 << 20
CHUNK = 1 << 20
ZIP_ERRORS = (  # RuntimeError: an encrypted member
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
    OverflowError, OSError,
)  # fmt: skip


def header_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the beginning of a .npy file with an array in C order, up to the first number."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"


def read_npy(path: Path) -> Array:
    """Read a .npy file.

    Parameters
    ----------
    path : pathlib.Path
        A file of format version 1 to 3 that holds numbers, booleans or text, in either byte order, C or Fortran order.

    Returns
    -------
    ndarray
        Loaded into memory, aligned to 64 bytes, with the type and order of the file.

    Raises
    ------
    BadFileError
        It is not a .npy file, or its size differs from what its header says.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file:
        return _read_array(file, size_of(file), path, "")


def read_npz(path: Path) -> dict[str, Array]:
    """Read all arrays of a .npz file, compressed or not.

    Parameters
    ----------
    path : pathlib.Path
        What `numpy.savez` or `numpy.savez_compressed` wrote.

    Returns
    -------
    dict of str to ndarray
        The arrays by name, without ".npy"; each as `read_npy` returns it.

    Raises
    ------
    BadFileError
        It is not a .npz file; it is damaged; it has members that are not arrays, occur twice or are encrypted; or it
        unpacks to more than 32 MiB and more than 200 times its size.
    OSError
        It cannot be read.
    """
    arrays: dict[str, Array] = {}
    with open_regular(path) as file, _zip_errors(path), zipfile.ZipFile(_Cautious(file, path)) as archive:
        members = archive.infolist()
        whole, packed = sum(one.file_size for one in members), sum(one.compress_size for one in members)
        if whole > max(LARGE, MOST_RATIO * min(packed, size_of(file))):
            expected = f"at most {MOST_RATIO} times as much; if you trust it, unpack it and pass the .npy files"
            raise BadFileError(path, reason=f"unpacks from {packed} to {whole} bytes", expected=expected)
        for member in members:
            name = member.filename.removesuffix(".npy")
            place = f"member {member.filename[:80]!r}"
            if not member.filename.endswith(".npy"):
                raise BadFileError(path, place=place, reason="not a .npy file", expected="members named NAME.npy")
            if name in arrays:
                raise BadFileError(path, place=place, reason="occurs twice", expected="each name once")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reason, expected = f"packed by method {member.compress_type}", "numpy.savez or numpy.savez_compressed"
                raise BadFileError(path, place=place, reason=reason, expected=expected)
            if member.compress_size > size_of(file):
                reason, expected = f"{member.compress_size} bytes of {size_of(file)}", "an undamaged archive"
                raise BadFileError(path, place=place, reason=reason, expected=expected)
            with archive.open(member) as content:
                kinds = f"{KINDS}S" if name == SPARSE_FORMAT else KINDS
                arrays[name] = _read_array(content, member.file_size, path, place, kinds)
                if content.read(1):  # reading up to the end makes zipfile compare the checksum
                    raise BadFileError(
                        path, place=place, reason="longer than its header says", expected="an undamaged archive"
                    )
    return arrays


class _Cautious(io.RawIOBase):
    """A file that refuses large reads: zipfile reads an archive's directory in one piece, however long it is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = size_of(self.file) - self.file.tell()
        if size > MOST_DIRECTORY:
            expected = f"at most {MOST_DIRECTORY} bytes"
            raise BadFileError(self.path, reason=f"a directory of {size} bytes", expected=expected)
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    """Turn whatever zipfile and zlib raise for a bad archive into a BadFileError."""
    try:
        yield
    except BadFileError:
        raise
    except ZIP_ERRORS as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek to before the start of the file
            raise
        raise BadFileError(
            path, reason=str(error) or type(error).__name__, expected="a zip archive of .npy files (numpy.savez)"
        ) from error


def _read_array(file: IO[bytes], size: int, path: Path, place: str, kinds: str = KINDS) -> Array:
    """Read the array of an open .npy file of `size` bytes; its type must be of one of `kinds`."""
    dtype, fortran, shape, start = read_header(file, path, place, kinds)
    count = math.prod(shape)  # a Python integer, which cannot overflow
    if count * dtype.itemsize != size - start:
        raise BadFileError(
            path,
            place=place,
            reason=f"{size - start} bytes follow a header that says shape {shown(shape)} of {dtype}",
            expected=f"{count * dtype.itemsize} bytes",
        )
    flat = aligned_empty((count,), dtype)
    view = memoryview(flat.view(np.uint8).data)
    filled = 0
    while filled < len(view):
        n = file.readinto(view[filled : filled + CHUNK])  # type: ignore[attr-defined]
        if not n:
            raise BadFileError(path, place=place, reason=f"ends after {start + filled} bytes", expected=f"{size} bytes")
        filled += n
    if dtype.kind == "U":
        letters = flat.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((letters > sys.maxunicode) | ((letters >= 0xD800) & (letters < 0xE000))).any():
            raise BadFileError(path, place=place, reason="text that is not Unicode", expected="an undamaged file")
    return flat.reshape(shape, order="F" if fortran else "C")


def read_header(
    file: IO[bytes], path: Path, place: str, kinds: str
) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return the type, whether the array is in Fortran order, its shape, and where the data begin."""
    expected = "a .npy file of numbers or text (numpy.save of an array that holds no objects)"

    def bad(reason: str) -> BadFileError:
        return BadFileError(path, place=place or "header", reason=reason, expected=expected)

    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise bad("does not begin like a .npy file")
    if start[6] not in (1, 2, 3):
        raise bad(f"format version {start[6]}.{start[7]}")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MOST_HEADER:
        raise bad(f"a header of {length} bytes")
    text = file.read(length)
    if len(text) < length:
        raise bad("ends within its header")
    try:
        header = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin-1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise bad(f"its header cannot be read ({type(error).__name__})") from error
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise bad("its header does not say descr, fortran_order and shape")
    descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 32:
        raise bad(f"shape {shown(shape)}")
    if not isinstance(fortran, bool):
        raise bad("fortran_order is neither True nor False")
    if not isinstance(descr, str):
        raise bad("a structured type: rows of named fields; save the fields as one array of numbers")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, SyntaxError, Warning) as error:  # a Warning under `python -W error`
        raise bad(f"type {descr[:40]!r}") from error
    if dtype.kind == "O":
        raise bad("an array of objects, which would have to be unpickled; save numbers or text (X.astype(float))")
    if dtype.kind not in kinds or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise bad(f"type {descr[:40]!r}")
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise bad(f"type {descr[:40]!r}, which differs between machines; save float64")
    return dtype, fortran, shape, 8 + width + length
