"""Loading CIFAR-10 from its official files, pickled or binary, unpacked or as archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpusoftmax.checks.scalars import check_flag, check_path
from gpusoftmax.datasets import pickled
from gpusoftmax.datasets.download import OfficialFile, data_home, fetch
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.archive import read_members
from gpusoftmax.files.dataset import Dataset, aligned_empty
from gpusoftmax.files.open import open_regular, size_of

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
OFFICIAL = OfficialFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    # the page above gives the MD5 of the same file: c58f30108f718f92721af3b95e74349a
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    size=170_498_071,
)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEATURE_SHAPE = (3, 32, 32)

_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_BATCH_ROWS = 10_000
_VALIDATION_ROWS = 1_000
_MAX_NAMES_BYTES = 4096
MOST_BYTES = 48 * 2**20  # of a batch; pickled ones have up to 44.8 MB


def load_cifar10(folder: str | Path | None = None, *, download: bool = False) -> Dataset:
    """Load CIFAR-10 with the split of the course cs231n.

    Of the 50000 rows of data_batch_1 to data_batch_5, the first 49000 are for training and the last 1000 for
    validation; the 10000 rows of test_batch are for testing. Pickled files are read without unpickling them: see
    `gpusoftmax.datasets.pickled`.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        cifar-10-batches-bin, cifar-10-batches-py, cifar-10-binary.tar.gz or cifar-10-python.tar.gz, or the folder that
        holds any of them. If it holds several, the first in this order is read, which is the fastest. Archives need not
        be unpacked. Default: the environment variable GPUSOFTMAX_DATA, else gpusoftmax_data in the home folder.
    download : bool
        If there are no such files, download cifar-10-python.tar.gz (163 MB) from its author's site into the folder and
        check its SHA-256. Needs pooch.

    Returns
    -------
    Dataset
        X is uint8 of shape (n, 3072), channel-major (all red, all green, all blue, each 32x32 row by row) and aligned
        to 64 bytes; X_train and X_validation are views of one buffer. y is int64. The class names are those in
        batches.meta.txt or batches.meta, if there is such a file. feature_shape is (3, 32, 32).

    Raises
    ------
    FileNotFoundError
        No such folder or archive holds all six batches. The message lists what is missing and what to do.
    BadFileError
        A file is damaged or not of the expected kind.
    ConnectionError
        The download failed. The message says which file to put where.
    ImportError
        pooch is needed and not installed. The message says which file to put where.
    TypeError
        `folder` is not a path, or `download` is neither True nor False.

    Notes
    -----
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    check_flag("download", download)
    folder = data_home() if folder is None else check_path("folder", folder)
    try:
        place, layout = _find(folder)
    except FileNotFoundError:
        if not download:
            raise
        place, layout = fetch(OFFICIAL, folder), _LAYOUTS[-1]
    starts = {f"{name}{layout.suffix}": i * _BATCH_ROWS for i, name in enumerate(_BATCHES)}
    names: tuple[str, ...] = CLASS_NAMES
    lacking = set(starts)
    for path, content in _files(place, layout):
        if path.name == layout.names:
            names = layout.read_names(content, path)
            _check_printable(names, path)
        elif path.name in starts:
            batch = layout.read_batch(content, path, _BATCH_ROWS)
            if len(lacking) == len(starts):  # memory is allocated only after a batch was read successfully
                X, y = _room(5 * _BATCH_ROWS)
                X_test, y_test = _room(_BATCH_ROWS)
            lacking.discard(path.name)
            start = starts[path.name]
            rows = slice(start % len(y), start % len(y) + _BATCH_ROWS)
            own_X, own_y = (X, y) if start < len(y) else (X_test, y_test)
            own_X[rows], own_y[rows] = batch
    if lacking:
        raise BadFileError(place, reason=f"lacks {', '.join(sorted(lacking))}", expected="all six batches of CIFAR-10")
    split = len(y) - _VALIDATION_ROWS
    return Dataset(
        name="cifar10",
        X_train=X[:split],
        y_train=y[:split],
        X_validation=X[split:],
        y_validation=y[split:],
        X_test=X_test,
        y_test=y_test,
        class_names=names,
        feature_shape=FEATURE_SHAPE,
    )


def read_file(path: Path) -> bytes:
    """Read a whole file, which must not exceed MOST_BYTES, the limit for a batch of CIFAR-10."""
    with open_regular(path) as file:
        if size_of(file) > MOST_BYTES:
            raise BadFileError(path, reason=f"{size_of(file)} bytes", expected=f"at most {MOST_BYTES} bytes")
        return file.read()


def read_binary_batch(content: bytes, path: Path, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one binary batch: `rows` records of a label byte and 3072 pixel bytes.

    Parameters
    ----------
    content : bytes
        The content of a file such as cifar-10-batches-bin/data_batch_1.bin.
    path : pathlib.Path
        The name of the file, for messages.
    rows : int
        How many records it has to hold; 10000 in the official files.

    Returns
    -------
    X : ndarray of uint8, shape (rows, 3072)
        The images, channel-major; a view of the records, and so not contiguous.
    y : ndarray of int64, shape (rows,)
        The classes, 0 to 9.

    Raises
    ------
    BadFileError
        The file has another size, or a label is above 9.
    """
    record = 1 + pickled.COLUMNS
    if len(content) != rows * record:
        expected = f"{rows * record} bytes: {rows} records of {record}"
        raise BadFileError(path, reason=f"{len(content)} bytes", expected=expected)
    records = np.frombuffer(content, np.uint8).reshape(rows, record)
    labels = records[:, 0]
    if labels.max() >= pickled.CLASSES:
        row = int(labels.argmax())
        raise BadFileError(path, place=f"byte {row * record}", reason=f"label {labels[row]}", expected="a label 0..9")
    return records[:, 1:], labels.astype(np.int64)


def read_text_names(content: bytes, path: Path) -> tuple[str, ...]:
    """Read the names of the ten classes from batches.meta.txt, one per line.

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
        It is not a short ASCII text of ten lines, not counting empty ones, such as the last of the official file.
    """
    expected = f"ten lines of ASCII with one name each, in at most {_MAX_NAMES_BYTES} bytes"
    if len(content) > _MAX_NAMES_BYTES:
        raise BadFileError(path, reason=f"{len(content)} bytes", expected=expected)
    try:
        names = tuple(line for line in content.decode("ascii").splitlines() if line)
    except UnicodeDecodeError as error:
        raise BadFileError(path, place=f"byte {error.start}", reason="not ASCII", expected=expected) from error
    if len(names) != pickled.CLASSES:
        raise BadFileError(path, reason=f"{len(names)} names", expected=expected)
    return names


@dataclass(frozen=True)
class _Layout:
    """How one of the two official archives stores the batches."""

    folder: str
    archive: str
    suffix: str
    names: str
    read_batch: Callable[[bytes, Path, int], tuple[NDArray[np.uint8], NDArray[np.int64]]]
    read_names: Callable[[bytes, Path], tuple[str, ...]]


_LAYOUTS = (  # in order of preference
    _Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        ".bin",
        "batches.meta.txt",
        read_binary_batch,
        read_text_names,
    ),
    _Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "",
        "batches.meta",
        pickled.read_batch,
        pickled.read_class_names,
    ),
)


def _find(folder: Path) -> tuple[Path, _Layout]:
    """Return the first folder or archive that holds all six batches, and its layout."""
    lacks = ""
    for layout in _LAYOUTS:
        for place in (folder / layout.folder, folder):
            missing = [name for batch in _BATCHES if not (place / (name := f"{batch}{layout.suffix}")).is_file()]
            if not missing:
                return place, layout
            if len(missing) < len(_BATCHES):
                lacks += f"\n  {place} lacks {', '.join(missing)}"
    for layout in _LAYOUTS:
        for place in (folder / layout.archive, folder):
            if place.name == layout.archive and place.is_file():
                return place, layout
    archives = " or ".join(layout.archive for layout in _LAYOUTS)
    raise FileNotFoundError(
        f"CIFAR-10 is not in {folder}: it holds neither all six batches nor {archives}.{lacks}\n"
        f"Download {OFFICIAL.url} ({OFFICIAL.size >> 20} MB) into {folder} without unpacking it, or let gpusoftmax do "
        f"that: --download on the command line, load_cifar10(download=True) in Python. About the data: {URL}"
    )


def _files(place: Path, layout: _Layout) -> Iterator[tuple[Path, bytes]]:
    """Yield the path and content of each file in a folder or archive that belongs to CIFAR-10."""
    if place.is_dir():
        for name in (layout.names, *(f"{batch}{layout.suffix}" for batch in _BATCHES)):
            path = place / name
            if path.is_file():
                yield path, read_file(path)
    else:
        for name, content in read_members(place, MOST_BYTES):
            if Path(name).parent == Path(layout.folder):
                yield place / name, content


def _room(rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Allocate images and labels."""
    return aligned_empty((rows, pickled.COLUMNS), np.uint8), np.empty(rows, np.int64)


def _check_printable(names: tuple[str, ...], path: Path) -> None:
    for name in names:
        if not name.isprintable():  # an escape sequence could control the terminal
            raise BadFileError(path, reason=f"class name {name[:40]!r}", expected="printable class names")
