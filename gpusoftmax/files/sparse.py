"""Reading sparse features: text in svmlight's format, and archives that `scipy.sparse.save_npz` wrote."""

from __future__ import annotations

import io
import re
from array import array
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import brief
from gpusoftmax.checks.sparse import MOST_COLUMNS, check_sparse, row_of
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.table import Columns, Table
from gpusoftmax.files.text import BLOCK, TextReader

MOST_LINE = 2 << 20  # bytes: 100,000 entries of 20 each; an endless line must not fill the memory
MOST_LABEL = (1 << 53) - 1  # beyond it two whole numbers may be the same float64
SVMLIGHT = re.compile(r"[-+.0-9eE]++(?:[ \t]++(?:qid|[0-9]++):[^\s:]++)*+\s*+(?:#.*\s*)?")
BASE = re.compile(rb"\s*# Column indices are (zero|one)-based\s*")  # as `sklearn.datasets.dump_svmlight_file` writes it
ZERO_BASED = '"# Column indices are zero-based"'
ROW = "LABEL COLUMN:VALUE COLUMN:VALUE ..., with the columns in rising order"

MATRIX = {"format", "shape", "data"}  # members of every archive of a sparse matrix
INDICES = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
MOST_ROWS = 4 << 20  # rows without an entry take no place in a file of CSC or COO, but 8 bytes in memory


def is_svmlight(sample: list[str]) -> bool:
    """Whether the first lines of a text are rows in the format of SVMlight and LIBSVM."""
    rows = [line for line in sample if line.strip() and not line.lstrip().startswith("#")][:3]
    return any(":" in row for row in rows) and all(map(SVMLIGHT.fullmatch, rows))


def read_svmlight(path: Path, columns: Columns) -> Table:
    """Read a text file as `read_svmlight_from` does."""
    with open_regular(path) as file:
        return read_svmlight_from(path, file, columns)


def read_svmlight_from(path: Path, file: BinaryIO, columns: Columns) -> Table:
    """Read text in the format of SVMlight and LIBSVM: on each line a label, and the entries that are not zero.

    Columns count from 0 or from 1. A file says which with the comment "# Column indices are zero-based" (or one-based)
    above its rows; otherwise `columns.base` says it; otherwise columns count from 0 if a column 0 occurs, else from 1.
    Query ids (qid:) are ignored.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    file : binary file
        The open file, which may be compressed.
    columns : Columns
        `n_features` and `base` say how many columns there are, and the number of the first one.

    Returns
    -------
    Table
        values is a csr_array of float64; y is int64 if all labels are whole numbers, else float64.

    Raises
    ------
    BadFileError
        A line is not a row in this format, a value is not finite, or a column is out of range; the message says in
        which line.
    OSError
        It cannot be read.
    """
    # imported here because both take a while
    from scipy.sparse import csr_array
    from sklearn.datasets import load_svmlight_file

    lines = _Lines(path, io.BufferedReader(TextReader(path, file), BLOCK))
    try:
        found, y = load_svmlight_file(lines, dtype=np.float64, zero_based=True)
    except BadFileError:
        raise
    except (ValueError, OverflowError) as error:
        raise lines.why_not_a_row(error) from error
    if not lines.ends:
        raise BadFileError(path, reason="no rows", expected=f"a row on each line: {ROW}")
    data, indices, indptr, numbers = found.data, found.indices, found.indptr, np.array(lines.ends)

    def bad(entry: int, reason: str, expected: str) -> BadFileError:
        return BadFileError(path, place=f"line {numbers[row_of(entry, indptr)]}", reason=reason, expected=expected)

    if not len(indices) and columns.n_features is None:
        raise BadFileError(path, reason="no features", expected=f"rows with entries: {ROW}")
    base, d = columns.base if lines.base is None else lines.base, columns.n_features
    lowest, highest = (int(indices.min()), int(indices.max())) if len(indices) else (1, 0)
    if base is None:
        base = min(lowest, 1)
        if base == 1 and d is not None and 0 < highest < d:
            log.warning(
                "%s: columns are counted from 1, because neither column 0 nor column %d occurs; if they count from 0, "
                "begin the file with the line %s",
                path,
                d,
                ZERO_BASED,
            )
    if lowest < base:
        first = "columns from 1, as its comment says" if lines.base else "columns from 1, as in training"
        expected = f"{first}; if columns count from 0, begin all files with the line {ZERO_BASED}"
        raise bad(int(indices.argmin()), "column 0", expected)
    most = MOST_COLUMNS if d is None else d
    if highest - base >= most:
        whose = "" if d is None else f" for {d} features, as for training"
        raise bad(int(indices.argmax()), f"column {highest}", f"at most {most - 1 + base}{whose}")
    small = np.int32 if len(data) <= MOST_COLUMNS else np.int64
    indices, indptr = (indices - base).astype(small), indptr.astype(small)
    X = csr_array((data, indices, indptr), shape=(len(numbers), highest + 1 - base if d is None else d))
    table = Table(X, _whole(y, path, numbers), lines=numbers, base=base)
    check_sparse_finite(table, path)
    return table


def _whole(y: Array, path: Path, numbers: Array) -> Array:
    """Convert labels to integers if all are whole numbers; else return them as they are, which `load_data` refuses."""
    large = np.isfinite(y) & (np.abs(y) > MOST_LABEL)
    if large.any():
        row = int(large.argmax())
        expected = f"whole numbers of at most {MOST_LABEL}, the largest that are read exactly"
        raise BadFileError(path, place=f"line {numbers[row]}", reason=f"label {y[row]:.17g}", expected=expected)
    return y.astype(np.int64) if (y == np.floor(y)).all() and np.isfinite(y).all() else y


class _Lines(io.RawIOBase):
    """A text file whose lines are of limited length; keeps the numbers of those that hold rows.

    Attributes
    ----------
    number, line : int, bytes
        The last line that was read, and its number, counted from 1.
    ends : array of int
        The numbers of the lines that hold a row.
    base : int or None
        The number of the first column, if a comment above the rows says it.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.number, self.line = path, file, 0, b""
        self.ends = array("q")
        self.base: int | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined]

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line, whatever `size` is."""
        self.line = line = self.file.readline(MOST_LINE + 1)
        self.number += 1
        if len(line) > MOST_LINE:
            raise self.bad(f"longer than {MOST_LINE} bytes", "a shorter line for each row")
        row = line.partition(b"#")[0]
        if b"_" in row:  # Python reads 1_000 as a number; other programs do not
            raise self.bad("an underscore", f"numbers without one: {ROW}")
        if row.strip():
            self.ends.append(self.number)
        elif not self.ends and (found := BASE.fullmatch(line)):
            self.base = int(found[1] == b"one")
        return line

    def bad(self, reason: str, expected: str) -> BadFileError:
        """Make an error about the last line that was read."""
        return BadFileError(self.path, place=f"line {self.number}", reason=reason, expected=expected)

    def why_not_a_row(self, error: Exception) -> BadFileError:
        """Say what is wrong with the last line that was read, which scikit-learn refused with `error`."""
        label, *entries = self.line.partition(b"#")[0].split() or [b""]
        if b":" in label:
            return self.bad(f"no label before {_text(label)}", f"{ROW}; write 0 for a label that is not known")
        if b"," in label:
            return self.bad(f"several labels, {_text(label)}", "one label for each row")
        if isinstance(error, OverflowError):  # all entries before the one that is too large were read
            entries = entries[1:] if entries[0].startswith(b"qid") else entries
            large = next(entry for entry in entries if abs(int(entry.partition(b":")[0])) > MOST_COLUMNS)
            return self.bad(f"the column of {_text(large)}", f"a whole number from 0 to {MOST_COLUMNS}")
        if (without := next((entry for entry in entries if b":" not in entry), None)) is not None:
            return self.bad(f"{_text(without)} is not COLUMN:VALUE", ROW)
        return self.bad(brief(error), ROW)


def _text(word: bytes) -> str:
    """Return a word of a file for a message: short, and without control characters."""
    return repr(word[:80].decode("ascii", "backslashreplace"))


def check_sparse_finite(table: Table, path: Path) -> None:
    """Raise if an entry of sparse features is NaN or infinite, naming its place in the file."""
    X: Any = table.values
    finite = np.isfinite(X.data)
    if not finite.all():
        entry = int(finite.argmin())
        reason = f"column {X.indices[entry] + (table.base or 0)} is {X.data[entry]}"
        expected = "a finite number; fill it, or leave out its row"
        raise BadFileError(path, place=table.place(row_of(entry, X.indptr)), reason=reason, expected=expected)


def with_matrix(arrays: dict[str, Array], path: Path) -> dict[str, Any]:
    """Put the sparse matrix X in the place of the arrays of which `scipy.sparse.save_npz` makes one.

    Parameters
    ----------
    arrays : dict of str to ndarray
        The members of a .npz.
    path : pathlib.Path
        Their file, for messages.

    Returns
    -------
    dict of str to ndarray or csr_array
        The arrays that belong to no matrix, and X as `checks.sparse.check_sparse` returns it; or `arrays`, if they hold
        no sparse matrix.

    Raises
    ------
    BadFileError
        The matrix is damaged, or is a block or diagonal matrix (bsr, dia).
    """
    if not arrays.keys() >= MATRIX:
        return arrays
    from scipy.sparse import coo_array, csc_array, csr_array

    def bad(reason: str) -> BadFileError:
        return BadFileError(path, reason=reason, expected="scipy.sparse.save_npz of a csr, csc or coo matrix")

    kind = arrays["format"].tolist()  # bytes; text in files of SciPy before 1.0
    kind = kind.decode("ascii", "backslashreplace") if isinstance(kind, bytes) else str(kind)
    if kind in ("bsr", "dia"):
        raise bad(f"a sparse matrix of format {kind}; save X.tocsr()")
    if kind not in INDICES:
        raise bad(f"a sparse matrix of format {kind[:40]!r}")
    names = ("coords",) if kind == "coo" and "coords" in arrays else INDICES[kind]
    if missing := [name for name in names if name not in arrays]:
        raise bad(f"a sparse matrix without {missing[0]!r}")
    if "X" in arrays:
        raise bad("a sparse matrix beside an array 'X'")
    data, shape, indices = arrays["data"], arrays["shape"], [arrays[name] for name in names]
    whole = all(one.dtype.kind in "iu" for one in (shape, *indices))
    if not whole or shape.shape != (2,) or data.dtype.kind not in "biuf" or data.ndim != 1:
        about = ", ".join(f"{name} {arrays[name].shape} {arrays[name].dtype}" for name in ("shape", "data", *names))
        raise bad(f"a damaged sparse matrix: {about}")
    n, d = map(int, shape)
    if kind != "csr" and n > max(MOST_ROWS, sum(one.nbytes for one in (data, *indices))):
        raise bad(f"a sparse matrix that claims {n} rows, but has {len(data)} entries")
    half = data.dtype.kind == "f" and data.dtype.itemsize < 4
    data = data.astype(np.float32 if half else data.dtype.newbyteorder("="))  # SciPy's conversions take neither
    try:
        if kind == "coo":
            X = coo_array((data, tuple(indices[0] if names == ("coords",) else indices)), shape=(n, d))
        else:
            X = (csr_array if kind == "csr" else csc_array)((data, *indices), shape=(n, d))
        matrix = check_sparse(X)
    except (ValueError, TypeError, OverflowError) as error:
        raise bad(str(error)) from error
    used = MATRIX | {*names, "_is_array"}
    return {"X": matrix, **{name: array for name, array in arrays.items() if name not in used}}
