"""Where the rows lie in a file: .npy, safetensors, and the batches of CIFAR-10. Only headers are read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpusoftmax.checks.messages import shown
from gpusoftmax.datasets.pickled import COLUMNS as PIXELS
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.npy import read_header
from gpusoftmax.files.open import open_regular, size_of
from gpusoftmax.rows.flat_file import FlatFile, Identity

MOST_HEADER = 16 << 20  # bytes of a safetensors header; 100,000 tensors take about 10 MB
SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def open_npy(path: Path) -> FlatFile:
    """Find the rows of a .npy file, in C or Fortran order; of an array with more than two axes, the first.

    Raises
    ------
    BadFileError
        It is not a .npy file of numbers, or its size differs from what its header says.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file:
        dtype, fortran, shape, offset = read_header(file, path, "", "biuf")
        return _flat(path, file, shape, dtype, offset, fortran)


def open_safetensors(path: Path, name: str | None) -> FlatFile:
    """Find the rows of a tensor in a safetensors file: the one of this name, or the only one with two axes or more.

    Raises
    ------
    BadFileError
        It is not a safetensors file; there is no such tensor; or there are several, and no name.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file:
        size, length = size_of(file), int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MOST_HEADER):
            raise BadFileError(
                path, place="header", reason=f"a header of {length} bytes in a file of {size}", expected="safetensors"
            )
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {key: _entry(value) for key, value in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"its header is not that of safetensors ({type(error).__name__})"
            raise BadFileError(path, place="header", reason=reason, expected="safetensors") from error
        matrices = [key for key, (_, shape, _) in tensors.items() if len(shape) >= 2]
        if name is None and len(matrices) != 1:
            expected = f"the name of a tensor, as in open_rows(..., name={shown((matrices or ['features'])[0])})"
            raise BadFileError(path, reason=f"holds the matrices {shown(matrices)}", expected=expected)
        key = matrices[0] if name is None else name
        if key not in tensors:
            raise BadFileError(path, reason=f"has no tensor {shown(key)}", expected=f"one of {shown(list(tensors))}")
        kind, shape, (start, stop) = tensors[key]
        place = f"tensor {shown(key)}"
        if kind not in SAFETENSORS_TYPES:
            expected = f"one of {', '.join(SAFETENSORS_TYPES)}"
            raise BadFileError(path, place=place, reason=f"is of type {shown(kind)}", expected=expected)
        dtype = np.dtype(SAFETENSORS_TYPES[kind])
        if not 0 <= start <= stop <= size - 8 - length or stop - start != math.prod(shape) * dtype.itemsize:
            reason = f"shape {shown(shape)} of {kind} at bytes {start} to {stop} of {size - 8 - length}"
            raise BadFileError(path, place=place, reason=reason, expected="offsets that fit the shape and the file")
        return _flat(path, file, shape, dtype, 8 + length + start, bfloat16=kind == "BF16", end=8 + length + stop)


def _entry(value: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    shape, (start, stop) = value["shape"], value["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise ValueError(shape)
    return str(value["dtype"]), tuple(shape), (start, stop)


def open_cifar_batch(path: Path) -> FlatFile:
    """Find the images of a binary batch of CIFAR-10: 3072 bytes each, after a byte with the label.

    Raises
    ------
    BadFileError
        The size of the file is not that of a whole number of images.
    OSError
        It cannot be read.
    """
    record = 1 + PIXELS
    with open_regular(path) as file:
        size = size_of(file)
        if size == 0 or size % record:
            raise BadFileError(path, reason=f"{size} bytes", expected=f"records of {record} bytes, as in CIFAR-10")
        identity = Identity.of(os.fstat(file.fileno()))
        return FlatFile(path, size // record, PIXELS, np.dtype(np.uint8), 1, record, 1, identity)


def _flat(
    path: Path, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, fortran: bool = False,
    bfloat16: bool = False, end: int | None = None,
) -> FlatFile:  # fmt: skip
    """Describe an array of an open file; it ends at `end`, or with the file."""
    n, d, item = (shape[0] if shape else 0), math.prod(shape[1:]), dtype.itemsize
    if len(shape) < 2 or n == 0 or d == 0 or (fortran and len(shape) > 2):
        expected = "a matrix (n, d) with rows and columns, or images (n, ...) in C order"
        raise BadFileError(path, reason=f"an array of shape {shown(shape)}", expected=expected)
    held = (size_of(file) if end is None else end) - offset
    if held != n * d * item:
        reason = f"{held} bytes follow a header that says shape {shown(shape)} of {dtype}"
        raise BadFileError(path, reason=reason, expected=f"{n * d * item} bytes")
    row_stride, column_stride = (item, n * item) if fortran and n > 1 and d > 1 else (d * item, item)
    identity = Identity.of(os.fstat(file.fileno()))
    return FlatFile(path, n, d, dtype, offset, row_stride, column_stride, identity, bfloat16)
