"""Files of texts and tensors: safetensors with a header that is read within limits and checked before anything else.

This module does not know what a file means. Its `Layout` says which texts and tensors a kind of file has (models have
one in `models.format`, checkpoints in `checkpoints.file`); a SHA-256 covers all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular, size_of

# name, type and shape of each tensor, in the order of the file
Table = list[tuple[str, np.dtype[Any], tuple[int, ...]]]
Types = tuple[type, ...]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Within these limits no header takes more than a second and 64 MB. JSON can take fifty times the memory of its text.
MOST_HEADER = 8 << 20  # bytes; 100,000 names of classes and 100,000 of features take 4 MB
MOST_ITEMS = 1 << 18  # commas, colons and opening brackets, including those in names
# of a whole number, as many as 2^64 has; without its own limit, Python takes minutes for a million digits
MOST_DIGITS = 20


@dataclass(frozen=True)
class Layout:
    """What files of one kind hold.

    Attributes
    ----------
    name : str
        What a file of this kind is called in messages: "model".
    writer : str
        What writes such files.
    format : str
        The text "format" in the metadata.
    versions : dict of set of str
        The texts that the metadata have, by "format_version".
    tensors : dict of tuple of str, optional
        The types that each tensor may have; None allows tensors of any name, in any of DTYPES.
    required : set of str
        Tensors that must be there.
    most_dimensions : int
        The most dimensions that a tensor may have.
    too_long : str
        What to do about a header that is too long.
    """

    name: str
    writer: str
    format: str
    versions: Mapping[str, Set[str]]
    tensors: Mapping[str, tuple[str, ...]] | None = None
    required: Set[str] = frozenset()
    most_dimensions: int = 2
    too_long: str = ""

    def read(self, path: Path) -> tuple[dict[str, str], dict[str, Array]]:
        """Read the metadata and tensors of a file, and check their names and types and the SHA-256.

        Raises
        ------
        BadFileError
            The file is damaged or holds anything else. The message says what and where. Reading such a file takes at
            most a second and 64 MB beyond the memory for the tensors.
        OSError
            The file cannot be opened.
        """
        with open_regular(path) as file:
            with self.damage(path, "header"):
                metadata, table = self.read_header(file, size_of(file))
            with self.damage(path):
                tensors = _read_tensors(file, table)
                if metadata["sha256"] != digest(metadata, tensors):
                    raise ValueError("the content does not match its SHA-256")
        return metadata, tensors

    @contextmanager
    def damage(self, path: Path, place: str = "") -> Iterator[None]:
        """Turn errors in the block into a BadFileError about the file."""
        try:
            yield
        except (TypeError, ValueError, OverflowError) as error:
            expected = f"a {self.name} that {self.writer} wrote"
            raise BadFileError(path, place=place, reason=str(error), expected=expected) from error

    def read_header(self, file: Any, size: int) -> tuple[dict[str, str], Table]:
        """Return the texts of the metadata, and a table of the tensors, checked against the size of the file.

        The safetensors library is not used, because it reads the whole file before it checks the header.
        """
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError(f"header length {length} in a file of {size} bytes: it does not begin like a {self.name}")
        if length > MOST_HEADER:
            raise ValueError(f"header of {length} bytes, more than {MOST_HEADER}{self.too_long}")
        # it was written in ASCII; decoded, each character takes one byte of memory
        header = self.parse("header", file.read(length).decode("ascii"))
        metadata = header.pop("__metadata__", None) if type(header) is dict else None
        if type(metadata) is not dict or metadata.get("format") != self.format:
            raise ValueError(f"not a gpusoftmax {self.name}")
        version = metadata.get("format_version")
        if type(version) is not str or version not in self.versions:
            raise ValueError(
                f"format_version is {shown(version)}, not {' or '.join(map(repr, self.versions))}: a newer gpusoftmax "
                "may read it"
            )
        expect("metadata", metadata, dict.fromkeys(self.versions[version], (str,)))
        if not all(text.isascii() for text in metadata.values()):
            raise ValueError("characters beyond ASCII in the metadata")
        return metadata, self._check_table(header, size - 8 - length)

    def _check_table(self, header: dict[str, Any], size: int) -> Table:
        """Return the table of the tensors in a header, which must fill `size` bytes without gaps."""
        known = dict.fromkeys(header, tuple(DTYPES)) if self.tensors is None else self.tensors
        expect("tensors", header, dict.fromkeys(known, (dict,)), optional=known.keys() - self.required)
        for name, entry in header.items():
            expect(name, entry, {"dtype": (str,), "shape": (list,), "data_offsets": (list,)})
            if any(type(number) is not int or number < 0 for number in entry["shape"] + entry["data_offsets"]):
                raise ValueError(f"{name} has shape {shown(entry['shape'])} at {shown(entry['data_offsets'])}")
            if len(entry["shape"]) > self.most_dimensions or entry["dtype"] not in known[name]:
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

    def parse(self, what: str, text: str) -> Any:
        """Parse JSON within limits; `what` names the text in messages."""
        items = sum(map(text.count, ",:[{"))
        if items > MOST_ITEMS:
            raise ValueError(f"{what} has {items} commas, colons and brackets, more than {MOST_ITEMS}{self.too_long}")
        try:
            return json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_whole_number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{what} is not JSON that {self.writer} writes ({error})") from error


def pieces(metadata: dict[str, str], tensors: dict[str, Array]) -> list[Any]:
    """Return the bytes of a file as a list of buffers, without a copy of the tensors; adds the SHA-256.

    Tensors are C-contiguous and of one of DTYPES. Larger types come first, so that all are aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {**metadata, "sha256": digest(metadata, tensors)}}
    place = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    buffers = [tensors[name].reshape(-1).data for name in names if tensors[name].size]
    return [len(text).to_bytes(8, "little") + text, *buffers]


def _read_tensors(file: Any, table: Table) -> dict[str, Array]:
    """Read the tensors of a table from a file that is positioned at the first one."""
    tensors = {name: np.empty(shape, dtype) for name, dtype, shape in table}
    for name, tensor in tensors.items():
        if file.readinto(tensor) != tensor.nbytes:
            raise ValueError(f"it ends within {name}; was the file changed while it was read?")
    return tensors


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
