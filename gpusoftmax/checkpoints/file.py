"""The file of a checkpoint: two texts and any number of tensors, in the format of `files.tensors`.

    format           "gpusoftmax-checkpoint"
    format_version   "1"
    run              JSON: what identifies the run, by name; see `identity`
    values           JSON: the numbers, texts and lists of the tree, by path
    sha256           of all of the above, and of the tensors' names, types, shapes and bytes

A `Tree` is what a run keeps: dictionaries within dictionaries, whose leaves are arrays, numbers, texts, None, or lists
of these but arrays. In the file a path such as "running/solver/W" names a leaf.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.atomic import previous_of, write_atomically
from gpusoftmax.files.tensors import Layout, pieces

Tree = dict[str, Any]

CHECKPOINT = Layout(
    name="checkpoint",
    writer="a fit or sweep with checkpoint=",
    format="gpusoftmax-checkpoint",
    versions={"1": {"format", "format_version", "run", "values", "sha256"}},
    most_dimensions=4,
)
RETRIES = 10  # of a write that a signal interrupted


def write(path: Path, run: dict[str, Any], tree: Tree, *, keep_previous: bool = True) -> None:
    """Replace the checkpoint at `path` atomically, and keep the one before at `previous_of(path)`.

    Without `keep_previous`, the file there stays as it is: it is better than a damaged one at `path`.

    Raises
    ------
    OSError
        It cannot be written; the message names it, and says that the one before is intact.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, Array] = {}
    _flatten(tree, "", values, tensors)
    texts = {"format": CHECKPOINT.format, "format_version": "1", "run": json.dumps(run), "values": json.dumps(values)}
    content = pieces(texts, tensors)
    try:
        for _ in range(RETRIES - 1):
            try:
                return write_atomically(path, content, keep_previous=keep_previous)
            except InterruptedError:
                continue
        write_atomically(path, content, keep_previous=keep_previous)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the checkpoint cannot be written ({error.strerror}), and the one before is intact: run the same command "
            "again once this is mended, and it continues from there",
            str(path),
        ) from error


def read(path: Path) -> tuple[Path, dict[str, Any], Tree] | None:
    """Read the checkpoint at `path`, or the one before if that is damaged or missing; None if there is neither.

    Returns the file that was read, what identifies its run, and the tree.

    Raises
    ------
    BadFileError
        No checkpoint can be read, but there are files.
    OSError
        A file cannot be opened.
    """
    previous = previous_of(path)
    try:
        return path, *read_one(path)
    except FileNotFoundError:
        if not previous.exists():
            return None
        found = previous, *read_one(previous)
        log.warning("%s is missing; continuing from %s, the checkpoint before it", path, previous)
        return found
    except (BadFileError, OSError) as error:
        bad = error if isinstance(error, BadFileError) else _unreadable(path, error)
        try:
            found = previous, *read_one(previous)
        except (BadFileError, OSError):
            raise BadFileError(
                path, place=bad.place, reason=bad.reason,
                expected=f"{bad.expected}; pass another path, or delete it and {previous.name} to start anew",
            ) from error  # fmt: skip
        log.warning("%s; continuing from %s, the checkpoint before it", bad, previous)
        return found


def _unreadable(path: Path, error: OSError) -> BadFileError:
    """Return the error about a file that the disk fails to read; any other OSError is raised again."""
    if error.errno != errno.EIO:
        raise error
    return BadFileError(path, reason=str(error), expected="a file that can be read")


def read_one(path: Path) -> tuple[dict[str, Any], Tree]:
    """Read this file alone; returns what identifies its run, and the tree. See `read` for the errors."""
    texts, tensors = CHECKPOINT.read(path)
    with CHECKPOINT.damage(path, "metadata"):
        run, values = (CHECKPOINT.parse(name, texts[name]) for name in ("run", "values"))
        if type(run) is not dict or type(values) is not dict:
            raise TypeError("the metadata are no objects")
        tree: Tree = {}
        for leaf, value in [*values.items(), *tensors.items()]:
            _put(tree, leaf.split("/"), value)
    return run, tree


def _flatten(tree: Tree, path: str, values: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Sort the leaves of a tree into values and tensors, by path."""
    for name, value in tree.items():
        if isinstance(value, dict):
            _flatten(value, f"{path}{name}/", values, tensors)
        elif isinstance(value, np.ndarray):
            array = value.astype(np.uint8) if value.dtype == bool else value
            tensors[path + name] = array if array.ndim == 0 else np.ascontiguousarray(array)
        else:
            values[path + name] = value


def _put(tree: Tree, path: list[str], value: Any) -> None:
    """Put a leaf into a tree; a path must not go through another leaf."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if type(tree) is not dict:
            raise ValueError(f"{'/'.join(path)} is below a value")
    if path[-1] in tree:
        raise ValueError(f"{'/'.join(path)} occurs twice")
    tree[path[-1]] = value
