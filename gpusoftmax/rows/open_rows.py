"""`open_rows`: opens features in files, which may be larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_path
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.rows import file_rows
from gpusoftmax.rows.cache import columns_of, open_parquet, open_pickled_batch
from gpusoftmax.rows.file_rows import FileRows
from gpusoftmax.rows.flat_file import FlatFile
from gpusoftmax.rows.formats import open_cifar_batch, open_npy, open_safetensors
from gpusoftmax.rows.memory import check_memory_limit

CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


def open_rows(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    memory_limit: int | str | None = None,
    cache: str | os.PathLike[str] | None = None,
    name: str | Sequence[str] | None = None,
) -> FileRows:
    """Open features in files, without reading them into memory.

    What is returned is passed as X: to `fit`, `sweep`, `linear_probe`, predictions. The results have the same bits as
    with X in memory. Files that fit into memory are mapped: the system reads them once and keeps them as long as there
    is room. Larger ones are read anew in each pass, ahead of the computation, by other threads. Changing a file while
    it is used is an error that names the file and a row.

    Parameters
    ----------
    paths : path or sequence of paths
        One file, or several of which each has some of the rows, in this order, with the same number of features and the
        same type:

        - .npy: a matrix of any type that X may have, or images (n, ...), a row each;
        - .safetensors: a tensor;
        - .parquet: columns of numbers, or of lists of equal lengths, such as embeddings;
        - batches of CIFAR-10, binary or pickled, or the folder that holds them.
    memory_limit : int or str, optional
        Bytes that reading and the solver may take, such as "2GB". Files that are larger are not mapped, but read
        through three buffers, which take a quarter of the limit at most. It is at least 16 MiB. Default: what is
        available, by the system or the container (cgroup).
    cache : path, optional
        The folder for decoded copies of Parquet files and pickled batches, which are made once and take as much room as
        the features in memory. A copy belongs to the size and time of its file. Default: beside each file, under a name
        that begins with a dot.
    name : str or sequence of str, optional
        The tensor of a safetensors file, by default its only matrix. The columns of Parquet files, by default all; all
        files must have the same ones, and the order is that of the first.

    Returns
    -------
    FileRows
        With shape, dtype, nbytes and len. rows[:5] and rows[numbers] read rows; `select` leaves them in their files.

    Raises
    ------
    BadFileError
        A file is damaged, or not of a kind that is known; or files differ in their numbers of features or types.
    ValueError, TypeError
        An argument cannot be used; the message names it and the fix.
    OSError
        A file cannot be read, or a copy cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "features.npy")
    >>> np.save(path, np.arange(12, dtype=np.float32).reshape(4, 3))
    >>> rows = open_rows(path)
    >>> rows.shape, rows[1].tolist()
    ((4, 3), [3.0, 4.0, 5.0])
    """
    limit = check_memory_limit(memory_limit)
    folder = None if cache is None else check_path("cache", cache)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"cache={str(folder)!r} is not a folder; make it, or pass another one")
    if isinstance(paths, Iterator):  # such as that of Path.glob, whose order is the file system's
        raise TypeError(f"paths is a {type(paths).__name__}, which has no order of its own; pass sorted(...) of it")
    listed: list[Any] = [paths] if isinstance(paths, str | os.PathLike) else _listed(paths)
    if not listed:
        raise ValueError("paths is empty; pass at least one file")
    found = [path for one in listed for path in _batches(check_path("paths", one))]
    columns = _columns(name, [path for path in found if path.suffix.lower() == ".parquet"])
    files = [_open(path, folder, name, columns) for path in found]
    for file in files[1:]:
        if (file.d, file.dtype, file.bfloat16) != (files[0].d, files[0].dtype, files[0].bfloat16):
            expected = f"{files[0].d} features of {files[0].dtype}, as in {files[0].path}"
            raise BadFileError(file.path, reason=f"{file.d} features of {file.dtype}", expected=expected)
    if len(files) <= file_rows.MOST_OPEN:
        for file in files:
            file.keep_open()
    return FileRows(files, limit)


def _listed(paths: Any) -> list[Any]:
    try:
        return list(paths)
    except TypeError:
        raise TypeError(f"paths={shown(paths)} is a {type(paths).__name__}; pass a path, or a list of paths") from None


def _batches(path: Path) -> list[Path]:
    """The training batches in a folder of CIFAR-10, or the path itself."""
    if not path.is_dir():
        return [path]
    for suffix in (".bin", ""):
        found = [path / f"{batch}{suffix}" for batch in CIFAR_BATCHES]
        if all(batch.exists() for batch in found):
            return found
    expected = 'its files, as in open_rows(sorted(Path(folder).glob("*.npy"))), or the folder of CIFAR-10\'s batches'
    raise BadFileError(path, reason="is a folder", expected=expected)


def _columns(name: Any, tables: Sequence[Path]) -> list[str]:
    """The columns to read of Parquet files."""
    if name is None:
        return columns_of(tables)
    columns: list[Any] = [name] if isinstance(name, str) or not isinstance(name, Iterable) else list(name)
    if not columns or not all(isinstance(one, str) for one in columns):
        raise TypeError(f"name={shown(name)} does not name a tensor or columns; pass a string, or a list of strings")
    return columns


def _open(path: Path, cache: Path | None, name: str | Sequence[str] | None, columns: Sequence[str]) -> FlatFile:
    suffix = path.suffix.lower()
    if name is not None and suffix not in (".safetensors", ".parquet"):
        raise ValueError(
            f"name={shown(name)} is for safetensors and Parquet files, but {path} is neither; leave it out"
        )
    if suffix == ".npy":
        return open_npy(path)
    if suffix == ".safetensors":
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name={shown(name)} is not the name of one tensor of {path}; pass a string")
        return open_safetensors(path, name)
    if suffix == ".parquet":
        return open_parquet(path, columns, cache)
    if suffix == ".bin":
        return open_cifar_batch(path)
    if not suffix and path.name in (*CIFAR_BATCHES, "test_batch"):
        return open_pickled_batch(path, cache)
    expected = ".npy, .safetensors, .parquet or a batch of CIFAR-10; convert it, or load it into memory (load_data)"
    raise BadFileError(path, reason=f"rows cannot be read from {suffix or 'such'} files", expected=expected)
