"""Reading the pickled files of CIFAR-10 without unpickling them.

An unpickler calls whatever functions a file names, so that opening a downloaded file means running it. The official
files contain very little: a dict, lists, small integers, strings, and one array of bytes. This module interprets only
the opcodes for these, as `pickletools.genops` decodes them. A global becomes a symbol, not an object; nothing is
imported, looked up or called.

There are two generations of files, both of protocol 2: the official ones, written by Python 2's cPickle, and those that
Python 3 writes with a current NumPy. Bytes are a `str` in the first and `_codecs.encode(text, "latin1")` in the second;
here both become a `str` with one character per byte.

Sources: https://docs.python.org/3/library/pickletools.html and the comments of Lib/pickletools.py for the opcodes;
A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html, for the contents.
"""

from __future__ import annotations

import encodings.raw_unicode_escape  # noqa: F401 - pickletools uses it, and reading a file should not import modules
import io
import pickletools
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusoftmax.exceptions import BadFileError

COLUMNS = 3 * 32 * 32
CLASSES = 10

# Official files have up to 90,152 opcodes. An opcode adds at most one value to the stack or one entry to the memo, and
# none of the opcodes interpreted here copies a container. So MAX_OPCODES also limits the stack, the memo, the depth of
# nesting and the total size of all containers.
MAX_OPCODES = 200_000


def read_batch(content: bytes, path: Path, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one pickled batch.

    Parameters
    ----------
    content : bytes
        The content of a file such as cifar-10-batches-py/data_batch_1.
    path : pathlib.Path
        The name of the file, for messages.
    rows : int
        How many images it has to hold; 10000 in the official files.

    Returns
    -------
    X : ndarray of uint8, shape (rows, 3072)
        The images, channel-major; read-only.
    y : ndarray of int64, shape (rows,)
        The classes, 0 to 9.

    Raises
    ------
    BadFileError
        The file is anything but a batch of that many images.
    """
    batch = _read_dict(content, path, {"batch_label", "labels", "data", "filenames"})
    _check_strings(path, "batch_label", [batch["batch_label"]], 1)
    _check_strings(path, "filenames", batch["filenames"], rows)
    return _pixels(path, batch["data"], rows), _labels(path, batch["labels"], rows)


def read_class_names(content: bytes, path: Path) -> tuple[str, ...]:
    """Read the names of the ten classes from batches.meta.

    Parameters
    ----------
    content : bytes
        The content of the file.
    path : pathlib.Path
        The name of the file, for messages.

    Returns
    -------
    tuple of str, length 10
        The names, in the order of the labels.

    Raises
    ------
    BadFileError
        The file is anything but a pickled dict with ten names under 'label_names'.
    """
    names = _read_dict(content, path, {"num_cases_per_batch", "label_names", "num_vis"})["label_names"]
    _check_strings(path, "label_names", names, CLASSES)
    return tuple(names)


class _Symbol(Enum):
    """A global that the official files name. It stands for the object; the object itself is never loaded."""

    RECONSTRUCT = auto()
    NDARRAY = auto()
    DTYPE = auto()
    UINT8 = auto()  # not a global, but the result of calling DTYPE
    ENCODE = auto()
    BYTES = auto()


_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # up to NumPy 1
    "numpy._core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # since NumPy 2
    "numpy ndarray": _Symbol.NDARRAY,
    "numpy dtype": _Symbol.DTYPE,
    "_codecs encode": _Symbol.ENCODE,  # how Python 3 writes bytes in protocol 2 ...
    "__builtin__ bytes": _Symbol.BYTES,  # ... and empty ones
}


@dataclass
class _Array:
    """A two-dimensional uint8 array in C order, as described by the file."""

    shape: tuple[int, int] | None = None
    pixels: str = ""


class _Interpreter:
    """An interpreter for the part of the pickle language that the official files use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}  # a dict, because the file chooses the indices, up to 2**32 - 1

    def run(self, data: bytes) -> object:
        stream = io.BytesIO(data)  # a read past its end is cut short; a file object would allocate that much first
        operations = pickletools.genops(stream)
        for _ in range(MAX_OPCODES):
            self.position = stream.tell()
            try:
                opcode, argument, _ = next(operations)
            except (ValueError, Warning) as error:  # Warning: a backslash in a global's name, under `python -W error`
                raise self.bad(str(error)[:200]) from None
            if opcode.name == "STOP":
                [value] = self.pop(1)
                if self.stack or self.below or self.position + 1 != len(data):
                    raise self.bad("STOP, but values or bytes are left over")
                return value
            self.step(opcode.name, argument)
        raise self.bad(f"more than {MAX_OPCODES} opcodes")

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise self.bad(f"{opcode} of memo entry {argument}, which does not exist")
                self.push(self.memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING" | "NONE":
                self.push(argument)  # None for NONE, which has no argument
            case "NEWTRUE" | "NEWFALSE":
                self.push(opcode == "NEWTRUE")
            case "EMPTY_DICT":
                self.push({})
            case "EMPTY_LIST":
                self.push([])
            case "EMPTY_TUPLE":
                self.push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.push(tuple(self.pop(int(opcode[-1]))))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                self.push(tuple(self.pop_to_mark()))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.update(self.pop(2))
            case "SETITEMS":
                self.update(self.pop_to_mark())
            case "GLOBAL":
                if argument not in _GLOBALS:
                    raise self.bad(f"unexpected global {argument[:80]!r}")
                self.push(_GLOBALS[argument])
            case "REDUCE":
                self.push(self.call(*self.pop(2)))
            case "BUILD":
                self.build(self.pop(1)[0])
            case "PROTO":
                if argument != 2:
                    raise self.bad(f"protocol {argument}")
            case _:
                raise self.bad(f"unexpected opcode {opcode}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if not self.stack:
            raise self.bad("an opcode that needs a value where there is none")
        return self.stack[-1]

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise self.bad(f"an opcode that needs {count} values where there are {len(self.stack)}")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise self.bad("an opcode that needs a MARK where there is none")
        values, self.stack = self.stack, self.below.pop()
        return values

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.bad(f"values appended to {_kind(target)}")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        target, keys = self.top(), values[::2]
        if not isinstance(target, dict) or len(values) % 2:
            raise self.bad(f"{len(values)} keys and values put into {_kind(target)}")
        # only strings are hashed: hashing nested tuples may take time exponential in their depth
        if not all(isinstance(key, str) for key in keys):
            raise self.bad("a key that is not a string")
        target.update(zip(keys, values[1::2], strict=True))

    def call(self, function: object, arguments: object) -> object:
        """Return a symbol for the result of one of the four calls in official files; refuse any other call."""
        match function, arguments:
            case _Symbol.ENCODE, tuple((str(text), "latin1")):
                return text
            case _Symbol.BYTES, tuple(()):
                return ""
            case _Symbol.RECONSTRUCT, tuple((_Symbol.NDARRAY, tuple((0,)), "b")):
                return _Array()
            case _Symbol.DTYPE, tuple(("u1", 0, 1)):  # or False and True, which equal them
                return _Symbol.UINT8
        raise self.bad(f"unexpected call of {_kind(function)}")

    def build(self, state: object) -> None:
        """Set the state of the value on top of the stack."""
        match self.top(), state:
            case _Symbol.UINT8, tuple((3, "|", None, None, None, -1, -1, 0)):
                pass  # the state that every dtype "u1" has
            case _Array(shape=None) as array, tuple(
                (1, tuple((int(rows), int(columns))), _Symbol.UINT8, 0, str(pixels))
            ):
                array.shape, array.pixels = (rows, columns), pixels
            case target, _:
                raise self.bad(f"unexpected state of {_kind(target)}")

    def bad(self, reason: str) -> BadFileError:
        return BadFileError(
            self.path, place=f"byte {self.position}", reason=reason, expected="an official pickle of CIFAR-10"
        )


def _read_dict(content: bytes, path: Path, keys: set[str]) -> dict[str, Any]:
    value = _Interpreter(path).run(content)
    if not isinstance(value, dict):
        raise BadFileError(path, reason=f"holds {_kind(value)}", expected="a dict")
    if value.keys() != keys:
        wrong = ", ".join(repr(key[:40]) for key in sorted(value.keys() ^ keys)[:8])
        raise BadFileError(path, reason=f"missing or unknown keys {wrong}", expected=f"exactly {sorted(keys)}")
    return value


def _check_strings(path: Path, key: str, strings: object, count: int) -> None:
    if not isinstance(strings, list) or len(strings) != count:
        raise BadFileError(path, place=f"key {key!r}", reason=_kind(strings), expected=f"a list of {count} strings")
    for item in strings:
        if not isinstance(item, str):
            raise BadFileError(path, place=f"key {key!r}", reason=f"holds {_kind(item)}", expected="a string")


def _labels(path: Path, labels: object, rows: int) -> NDArray[np.int64]:
    if not isinstance(labels, list) or len(labels) != rows:
        raise BadFileError(path, place="key 'labels'", reason=_kind(labels), expected=f"a list of {rows} labels")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < CLASSES:  # not isinstance, which would accept True
            reason = str(label) if isinstance(label, int) else _kind(label)
            raise BadFileError(path, place=f"key 'labels', item {row}", reason=reason, expected="an integer 0..9")
    return np.array(labels, np.int64)


def _pixels(path: Path, array: object, rows: int) -> NDArray[np.uint8]:
    expected = f"a uint8 array of shape {(rows, COLUMNS)}"
    if not isinstance(array, _Array) or array.shape != (rows, COLUMNS) or len(array.pixels) != rows * COLUMNS:
        raise BadFileError(path, place="key 'data'", reason=_kind(array), expected=expected)
    try:
        pixels = array.pixels.encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadFileError(
            path, place=f"key 'data', pixel {error.start}", reason="not a byte", expected=expected
        ) from None
    return np.frombuffer(pixels, np.uint8).reshape(array.shape)


def _kind(value: object) -> str:
    """Describe a value in a few words; not by its repr, which may take exponential time and space."""
    match value:
        case _Array():
            return f"array of shape {value.shape} with {len(value.pixels)} bytes"
        case _Symbol():
            return value.name
        case list() | dict() | tuple() | str():
            return f"{type(value).__name__} of length {len(value)}"
        case _:
            return type(value).__name__
