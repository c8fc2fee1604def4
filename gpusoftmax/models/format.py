"""The format of a model file: safetensors with a header that is read within limits and checked before anything else.

This module does not know what a model is. It handles texts and tensors of given names and types, and a SHA-256 over
all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular, size_of

Table = list[
    tuple[str, np.dtype[Any], tuple[int, ...]]
]  # name, type and shape of each tensor, in the order of the file
Types = tuple[type, ...]

FORMAT = "gpusoftmax-model"
KEYS = {"format", "format_version", "estimator", "objective", "classes", "parameters", "fitted", "versions", "sha256"}
# Version 2 has an encoder of tables. Models without one are of version 1, which older versions of gpusoftmax can read.
VERSIONS = {"1": KEYS, "2": KEYS | {"encoder"}}
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I32": np.dtype("<i4")}
REQUIRED = {"coef", "intercept"}
TENSORS = {
    "coef": ("F32", "F64"), "intercept": ("F32", "F64"), "shift": ("F64",), "scale": ("F64",),
    "encoder.mean": ("F64",), "encoder.scale": ("F64",), "encoder.hashes": ("I32",), "encoder.idf": ("F64",),
}  # fmt: skip

# Within these limits no header takes more than a second and 64 MB. JSON can take fifty times the memory of its text.
MOST_HEADER = 8 << 20  # bytes; 100,000 names of classes and 100,000 of features take 4 MB
MOST_ITEMS = 1 << 18  # commas, colons and opening brackets, including those in names
MOST_DIGITS = (
    20  # of a whole number, as many as 2^64 has; without its own limit, Python takes minutes for a million digits
)


def read_model_file(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Read the metadata and tensors of a file, and check their names and types and the SHA-256.

    Raises
    ------
    BadFileError
        The file is damaged or holds anything else. The message says what and where. Reading such a file takes at most
        a second and 64 MB beyond the memory for the tensors.
    OSError
        The file cannot be opened.
    """
    with open_regular(path) as file:
        with damage(path, "header"):
            metadata, table = read_header(file, size_of(file))
        with damage(path):
            tensors = _read_tensors(file, table)
            if metadata["sha256"] != digest(metadata, tensors):
                raise ValueError("the content does not match its SHA-256")
    return metadata, tensors


@contextmanager
def damage(path: Path, place: str = "") -> Iterator[None]:
    """Turn errors in the block into a BadFileError about the file."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise BadFileError(path, place=place, reason=str(error), expected="a model that save_model wrote") from error


def read_header(file: Any, size: int) -> tuple[dict[str, str], Table]:
    """Return the texts of the metadata, and a table of the tensors, checked against the size of the file.

    The safetensors library is not used, because it reads the whole file before it checks the header.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise ValueError(f"header length {length} in a file of {size} bytes: it does not begin like a model")
    if length > MOST_HEADER:
        raise ValueError(f"header of {length} bytes, more than {MOST_HEADER}; shorten names or history")
    header = parse(
        "header", file.read(length).decode("ascii")
    )  # save_model writes ASCII; decoded, each character takes one byte of memory
    metadata = header.pop("__metadata__", None) if type(header) is dict else None
    if type(metadata) is not dict or metadata.get("format") != FORMAT:
        raise ValueError("not a gpusoftmax model")
    version = metadata.get("format_version")
    if type(version) is not str or version not in VERSIONS:
        raise ValueError(
            f"format_version is {shown(version)}, not {' or '.join(map(repr, VERSIONS))}: a newer gpusoftmax may read "
            "it"
        )
    expect("metadata", metadata, dict.fromkeys(VERSIONS[version], (str,)))
    if not all(text.isascii() for text in metadata.values()):
        raise ValueError("characters beyond ASCII in the metadata")
    return metadata, _check_table(header, size - 8 - length)


def _check_table(header: dict[str, Any], size: int) -> Table:
    """Return the table of the tensors in a header, which must fill `size` bytes without gaps."""
    expect("tensors", header, dict.fromkeys(TENSORS, (dict,)), optional=TENSORS.keys() - REQUIRED)
    for name, entry in header.items():
        expect(name, entry, {"dtype": (str,), "shape": (list,), "data_offsets": (list,)})
        if any(type(number) is not int or number < 0 for number in entry["shape"] + entry["data_offsets"]):
            raise ValueError(f"{name} has shape {shown(entry['shape'])} at {shown(entry['data_offsets'])}")
        if len(entry["shape"]) > 2 or entry["dtype"] not in TENSORS[name]:
            raise ValueError(f"{name} has type {shown(entry['dtype'])} and shape {shown(entry['shape'])}")
    table: Table = []
    place = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        due = [place, place + math.prod(shape) * dtype.itemsize]
        if entry["data_offsets"] != due:
            raise ValueError(f"{name} of shape {shape} is at bytes {shown(entry['data_offsets'])}, not {due}")
        table.append((name, dtype, shape))
        place = due[1]
    if place != size:
        raise ValueError(f"{size} bytes of tensors, not {place}")
    return table


def _read_tensors(file: Any, table: Table) -> dict[str, Array]:
    """Read the tensors of a table from a file that is positioned at the first one."""
    tensors = {name: np.empty(shape, dtype) for name, dtype, shape in table}
    for name, tensor in tensors.items():
        if file.readinto(tensor) != tensor.nbytes:
            raise ValueError(f"it ends within {name}; was the file changed while it was read?")
    return tensors


def parse(what: str, text: str) -> Any:
    """Parse JSON within limits; `what` names the text in messages."""
    items = sum(map(text.count, ",:[{"))
    if items > MOST_ITEMS:
        raise ValueError(
            f"{what} has {items} commas, colons and brackets, more than {MOST_ITEMS}; shorten names or history"
        )
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON that save_model writes ({error})") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of pairs; refuse equal keys, since readers may disagree on which of them counts."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits, more than {MOST_DIGITS}")
    return int(text)


def expect(what: str, value: Any, types: Mapping[str, Types], optional: Set[str] = frozenset()) -> dict[str, Any]:
    """Return `value` if it is an object with these keys and with values of exactly these types (True is not an int)."""
    if type(value) is not dict:
        raise TypeError(f"{what} is a {type(value).__name__}, not an object")
    wrong = (value.keys() - types.keys()) | (types.keys() - value.keys() - optional)
    if wrong:
        raise ValueError(f"{what}: {shown(sorted(wrong))} missing or unknown")
    for name, each in value.items():
        if type(each) not in types[name]:
            raise TypeError(f"{what}: {name} is a {type(each).__name__}")
    return value


def digest(metadata: dict[str, str], tensors: dict[str, Array]) -> str:
    """Return the SHA-256 of all metadata but "sha256", and of the tensors, in hexadecimal."""
    found = hashlib.sha256()
    for key in sorted(metadata.keys() - {"sha256"}):
        found.update(f"{key} {len(metadata[key])} {metadata[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        found.update(tensor.reshape(-1).data)  # does not copy the data
    return found.hexdigest()
