"""Data sets whose features stay in files: what `files.load` does, where memory is limited."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.dataset import Dataset
from gpusoftmax.files.load import WHOLE, Source, check_nothing_to_drop, load_with
from gpusoftmax.files.npy import read_npy
from gpusoftmax.files.parquet import read_labels
from gpusoftmax.files.table import Columns, Table
from gpusoftmax.rows.open_rows import open_rows

STAYS_IN_FILES = "a .parquet file, or a pair (features.npy or features.safetensors, labels.npy), if memory is limited"


def load_rows(
    train: Source, memory_limit: str | int, *, label: str | int | None, drop: Sequence[str],
    validation: Source | float, test: Source | float, seed: int,
) -> Dataset:  # fmt: skip
    """Load the labels of files, and open their features; see `files.load.load_data` and `open_rows`.

    Raises
    ------
    BadFileError
        A file is of a kind that has to be read into memory; or see `load_data`.
    ValueError, TypeError, ImportError, OSError
        See `load_data`.
    """
    read = partial(read_rows, memory_limit=memory_limit)
    return load_with(
        read, train, label=label, drop=drop, header=None, delimiter=None, decimal=None, kinds=None,
        validation=validation, test=test, seed=seed,
    )  # fmt: skip


def read_rows(source: Source, columns: Columns, memory_limit: str | int) -> dict[str, Table]:
    """Do what `files.load.read_parts` does, without reading the features."""
    if isinstance(source, tuple):
        check_nothing_to_drop(Path(source[0]), columns)
        rows, y = open_rows(source[0], memory_limit), read_npy(Path(source[1]))
        if y.shape != (len(rows),):
            expected = f"one label for each of {len(rows)} rows"
            raise BadFileError(source[1], reason=f"labels of shape {y.shape}", expected=expected)
        return {WHOLE: Table(rows, y)}
    path = Path(source)
    if path.suffix.lower() == ".parquet":
        features, labels, label = read_labels(path, columns)
        rows = open_rows(path, memory_limit, name=features)
        names = tuple(features) if len(features) == rows.shape[1] else None  # lists have no names for each element
        return {WHOLE: Table(rows, labels, names, label)}
    if columns.need_label or path.suffix.lower() not in (".npy", ".safetensors"):
        raise BadFileError(path, reason="has to be read into memory", expected=STAYS_IN_FILES)
    check_nothing_to_drop(path, columns)
    return {WHOLE: Table(open_rows(path, memory_limit))}
