"""Loading users' own files into training, validation and test rows."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_count, check_number, check_path
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.arff import is_arff, read_arff
from gpusoftmax.files.csv_file import read_table
from gpusoftmax.files.dataset import Dataset
from gpusoftmax.files.npy import read_npy, read_npz
from gpusoftmax.files.numerals import DECIMALS
from gpusoftmax.files.open import open_regular
from gpusoftmax.files.parquet import read_parquet
from gpusoftmax.files.sparse import check_sparse_finite, is_svmlight, read_svmlight_from, with_matrix
from gpusoftmax.files.table import LABEL_NAMES, Columns, Table, bad_column
from gpusoftmax.files.text import Lines
from gpusoftmax.tables.columns import GAPS, NUMBER, TRUTH, BadColumnError, RawColumns, numbers_or_strings

if TYPE_CHECKING:
    from gpusoftmax.tables.encoder import TableEncoder

Source = str | Path | tuple[str | Path, str | Path]

ARRAYS, PARQUET, SVMLIGHT = (".npz", ".npy"), ".parquet", (".svm", ".svmlight", ".libsvm")
SUFFIXES = (*ARRAYS, ".csv", ".tsv", ".txt", ".data", ".arff", PARQUET, *SVMLIGHT)  # other files are read as text, too
COMPRESSED = (".gz", ".xz")  # may follow the suffix of a text
FEATURE_NAMES = ("x", "features", "data", "images", "embeddings")  # names of the array of features in a .npz
PARTS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
ROWS_AT_ONCE = 1024  # rows checked for NaN and infinity at a time
SAMPLE = 100, 1 << 16  # lines and bytes of a text file that tell of what kind it is
WHOLE = "rows"  # the only part of a file without separate parts
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # 007 is not one but a name: as an integer it would become 7
WHOLE_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.0*)?")  # exact in float64; 1.10 and 1.1 are two names


def load_data(
    train: Source,
    *,
    label: str | int | None = None,
    drop: Sequence[str] = (),
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    kinds: Mapping[str, str] | None = None,
    validation: Source | float = 0.2,
    test: Source | float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Load your own data from files, split into training, validation and test rows.

    Parameters
    ----------
    train : str or os.PathLike, or pair of these
        A table with a column of labels (.parquet or text), arrays in a .npz, or a pair (features.npy, labels.npy). What
        a text file holds is decided by its content, whatever its name: a table with commas, semicolons, tabs, pipes or
        blanks between its fields, ARFF, or sparse features in the format of SVMlight and LIBSVM. It may be compressed
        by gzip or xz, and be UTF-8, UTF-16 or Latin-1. A .npz may hold X and y, or parts, such as X_train, y_train,
        X_test, y_test. Features of more than two dimensions, such as images, are flattened to one row per sample.
        Sparse features come from text or from a pair (features.npz, labels.npy), where `scipy.sparse.save_npz` wrote
        the features.
    label : str or int, optional
        The column of labels, by name or by position (counted from 0, or from the end if negative), or the name of the
        array of labels in a .npz. By default the one named label, labels, class, target or y.
    drop : sequence of str
        Columns of a table to leave out, such as row numbers and remarks. Their contents are not read.
    header : bool, optional
        Whether the first line of a text file holds the names of the columns. By default its content decides: it is a
        header if it has requested names or usual names of labels, other words above columns of numbers, or numbers that
        rise as those of no row do. An ambiguous line is refused.
    delimiter : str, optional
        The character between the fields of a text file, such as ";" or "\\t"; " " means any number of blanks and tabs.
        By default the content decides, and a file that gives different tables with different delimiters is refused.
    decimal : {".", ","}, optional
        The sign of decimals in a text file; the other one may part groups of three digits, as in 1,234.5 or 1.234,5. By
        default the content decides, and a file in which 1,234 may be either is refused.
    kinds : dict of str to {"number", "category", "text"}, optional
        The kinds of some columns of a table, where they are not what `TableEncoder` takes them for.
    validation, test : str or os.PathLike, pair of these, or float
        A file with these rows, with the same columns as `train`; or the fraction of the training rows to hold out for
        them, in [0, 1), taken from each class and rounded down. A fraction is ignored if `train` itself holds these
        rows.
    seed : int
        The seed for choosing rows to hold out.

    Returns
    -------
    Dataset
        Labels are integers if all of them are written as integers, else text. `feature_names` and `label_name` are the
        names of the columns, if they have any. X is float64 if it comes from a text file, else of the file's own type.
        Sparse features are a `scipy.sparse.csr_array`. If a table has gaps or columns of text, its features come from a
        `TableEncoder` that is fitted to the training rows, and is the data set's `encoder`.

    Raises
    ------
    BadFileError
        A file is damaged or not of the expected kind; a label is missing, or is a number that is not whole; or a
        validation or test row has a label that no training row has. The message says where and why.
    ValueError, TypeError
        An argument is not usable.
    ImportError
        A file is a .parquet and pyarrow is not installed.
    OSError
        A file cannot be read.

    Notes
    -----
    Memory-mapped arrays (`numpy.memmap`) need no loading: pass them to an estimator, which reads them in place.

    Columns without a name and the index of a data frame are left out with a warning. Words for a missing value ("NA",
    "?", "none") are refused if the other labels are numbers. If these are words, they count as a class, with a warning.

    The columns of an svmlight file count from 0 if a column 0 occurs in it, else from 1. The validation and test files
    are read with the number of columns and the base of the training file. A comment above the rows, "# Column indices
    are zero-based" (or one-based), says how a file counts, whatever occurs in it.
    """
    return load_with(
        read_parts, train, label=label, drop=drop, header=header, delimiter=delimiter, decimal=decimal, kinds=kinds,
        validation=validation, test=test, seed=seed,
    )  # fmt: skip


def load_with(
    read: Callable[[Source, Columns], dict[str, Table]], train: Source, *, label: str | int | None,
    drop: Sequence[str], header: bool | None, delimiter: str | None, decimal: str | None,
    kinds: Mapping[str, str] | None, validation: Source | float, test: Source | float, seed: int,
) -> Dataset:  # fmt: skip
    """Do what `load_data` does, with another function to read files than `read_parts`."""
    check_count("seed", seed, least=0)
    if isinstance(label, bool) or not isinstance(label, str | numbers.Integral | None):
        raise TypeError(f"label={shown(label)} is a {type(label).__name__}; pass a column's name or position")
    drop = (drop,) if isinstance(drop, str) else drop
    if not isinstance(drop, Sequence) or not all(isinstance(name, str) for name in drop):
        raise TypeError(f"drop={shown(drop)} is not a list of names; pass the names of the columns to leave out")
    if not isinstance(header, bool | None):
        raise TypeError(f"header={shown(header)} is a {type(header).__name__}; pass True, False or None")
    check_written(delimiter, decimal)
    train, kinds = _paths("train", train), dict(kinds or {})
    columns = Columns(
        label if isinstance(label, str | None) else int(label), drop=tuple(drop), header=header, delimiter=delimiter,
        decimal=decimal, raw=True, as_strings=frozenset(name for name, kind in kinds.items() if kind != "number"),
    )  # fmt: skip
    check_label(columns.label, train)
    parts = read(train, columns)
    if WHOLE in parts:
        parts["train"] = parts.pop(WHOLE)
    if "train" not in parts:
        raise BadFileError(_path(train), reason=f"holds {', '.join(parts)} rows", expected="training rows (X_train)")
    written: dict[str, Any] = {"header": header, "delimiter": delimiter, "decimal": decimal}
    paths, shares = dict.fromkeys(parts, path_of_labels(train)), dict[str, float]()
    for name, given in (("validation", validation), ("test", test)):
        if isinstance(given, float | int | np.number):
            share = check_number(name, given, least=0, most=1, below=True)
            if name not in parts:
                shares[name] = share
        elif name in parts:
            raise ValueError(f"{name}={str(given)!r}: {_path(train)} already holds {name} rows; leave one of them out")
        else:
            given = _paths(name, given)
            found_label = parts["train"].label
            own = Columns(
                columns.label if has_label_column(given) else None,
                features=parts["train"].feature_names,
                **(written if _kind(_path(given)) not in (*ARRAYS, PARQUET, *SVMLIGHT) else {}),
                label_name=found_label if isinstance(found_label, str) else None,
                n_features=parts["train"].values.shape[1],
                base=parts["train"].base,
                raw=isinstance(parts["train"].values, RawColumns),
                as_strings=string_columns(parts["train"].values),
            )
            found_parts = read(given, own)
            if len(found_parts) > 1:
                raise ValueError(
                    f"{name}={str(given)!r} holds the parts {', '.join(found_parts)}; pass a file with a single part"
                )
            [parts[name]], paths[name] = found_parts.values(), path_of_labels(given)
            if (d := parts["train"].values.shape[1]) != (found := parts[name].values.shape[1]):
                raise BadFileError(_path(given), reason=f"{found} features", expected=f"{d}, as for training")
    if sum(shares.values()) >= 1:
        raise ValueError(f"validation={validation} and test={test} leave nothing to train on; hold out less")
    _check_finite(parts["train"], _path(train))
    labels = training_labels(parts["train"], path_of_labels(train))
    classes = np.unique(labels)
    for name, part in parts.items():
        y = labels if name == "train" else known_labels(part, classes, paths[name], "of the training rows")
        parts[name] = replace(part, y=y)
    whole = parts["train"]
    _tell_of_oddities(whole, labels, _path(train))
    for name, rows in held_out(labels, {name: share for name, share in shares.items() if share}, seed).items():
        if not len(rows):
            largest = np.unique(labels, return_counts=True)[1].max()
            raise ValueError(
                f"{name}={shares[name]:g}: that fraction of each class, rounded down, is no row at all, since the "
                f"largest class has {largest}; pass a file, {name}=0, or at least {math.ceil(1 / shares[name])} rows "
                "of a class"
            )
        ends = None if whole.lines is None else whole.lines[rows]
        parts[name] = replace(whole, values=_some(whole.values, rows), y=labels[rows], lines=ends)
    encoder, X = _encoded(parts, paths, kinds)
    none = Table(X["train"][:0], labels[:0])
    parts = {name: replace(part, values=X[name]) for name, part in parts.items()}
    return Dataset(
        name=_path(train).name,
        X_train=parts["train"].values,
        y_train=_labels(parts["train"]),
        X_validation=parts.get("validation", none).values,
        y_validation=_labels(parts.get("validation", none)),
        X_test=parts.get("test", none).values,
        y_test=_labels(parts.get("test", none)),
        class_names=tuple(map(str, classes)),
        feature_shape=None,
        feature_names=whole.feature_names if encoder is None else tuple(encoder.get_feature_names_out()),
        label_name=whole.label_name,
        encoder=encoder,
    )


def _encoded(
    parts: dict[str, Table], paths: dict[str, Path], kinds: dict[str, str]
) -> tuple[TableEncoder | None, dict[str, Any]]:
    """Encode the rows of all parts, if those of training are not a matrix of numbers or kinds are given."""
    values = {name: part.values for name, part in parts.items()}
    if not isinstance(values["train"], RawColumns) and not kinds:
        return None, values
    from gpusoftmax.tables.encoder import TableEncoder  # imported here because it takes a while

    if is_sparse(values["train"]):
        raise ValueError(f"kinds={shown(kinds)} is for tables, and the features are sparse; leave it out")
    tables = {name: as_raw(part, parts["train"].feature_names) for name, part in values.items()}
    train = tables["train"]
    # held-out rows may have made strings of a column of numbers
    typed = {name: column if name in kinds else numbers_or_strings(column) for name, column in train.columns.items()}
    encoder, encoded = TableEncoder(kinds=kinds or None), {}
    with naming(paths["train"], parts["train"]):
        encoded["train"] = encoder.fit_transform(RawColumns(typed, train.named))
    for name in tables.keys() - {"train"}:
        with naming(paths.get(name, paths["train"]), parts[name]):
            encoded[name] = encoder.transform(tables[name])
    return encoder, encoded


@contextmanager
def naming(path: Path, table: Table) -> Iterator[None]:
    """Turn an error about a column of a table into one about the file that it comes from."""
    try:
        yield
    except BadColumnError as error:
        raise bad_column(path, error, table) from error


def as_raw(values: Any, names: Sequence[str] | None) -> RawColumns:
    """Return the features of a table as RawColumns, also if they are a matrix of numbers."""
    if isinstance(values, RawColumns):
        return values
    columns = [values[:, j].astype(np.float64) for j in range(values.shape[1])]
    known = map(str, range(len(columns))) if names is None else names
    return RawColumns(dict(zip(known, columns, strict=True)), names is not None)


def string_columns(values: Any) -> frozenset[str]:
    """Return the names of the columns of strings, which hold strings in other files of the same data, too."""
    columns = values.columns.items() if isinstance(values, RawColumns) else ()
    return frozenset(name for name, column in columns if column.dtype == object)


def has_label_column(source: Source) -> bool:
    """Whether labels are a column of a table or a named array, rather than a file of their own."""
    return not isinstance(source, tuple) and _kind(_path(source)) not in (".npy", *SVMLIGHT)


def check_label(label: str | int | None, source: Source) -> None:
    """Raise if a column of labels is named for a source that has no such column."""
    if label is not None and not has_label_column(source):
        raise ValueError(f"label={label!r}: {_path(source)} has no column of labels; leave it out")


def read_parts(source: Source, columns: Columns) -> dict[str, Table]:
    """Read the rows of a file, or of a pair of files.

    Parameters
    ----------
    source : str or os.PathLike, or pair of these
        A file or files, as for `load_data`.
    columns : Columns
        The columns to read; for arrays and sparse features, which have no column names, only the labels.

    Returns
    -------
    dict of str to Table
        "train", "validation" and "test" for a .npz with such parts, otherwise "rows".

    Raises
    ------
    BadFileError, ValueError, OSError, ImportError
        The same as for `load_data`.
    """
    path = _path(source)
    kind = _kind(path)
    if kind not in SUFFIXES and not path.is_file():
        found = "is a folder" if path.is_dir() else f"is of kind {kind or 'unknown'}"
        raise BadFileError(path, reason=found, expected=f"one of {', '.join(SUFFIXES)}; save it as one of them")
    if kind in (*ARRAYS, PARQUET, *SVMLIGHT):
        _check_no_text_table(path, columns)
    if kind in (*ARRAYS, *SVMLIGHT):
        check_nothing_to_drop(path, columns)
    if isinstance(source, tuple):
        X = _sparse_matrix(path) if kind == ".npz" else read_npy(path)
        return {WHOLE: _table(X, read_npy(Path(source[1])), path, Path(source[1]))}
    if kind not in (*ARRAYS, PARQUET):
        return {WHOLE: _read_text(path, kind, columns)}
    if kind == PARQUET:
        return {WHOLE: read_parquet(path, columns)}
    if kind == ".npz":
        return _parts_of_npz(path, columns)
    if kind == ".npy" and columns.need_label:
        expected = f"a pair of files, {path.name} and one with the labels"
        raise BadFileError(path, reason="features without labels", expected=expected)
    return {WHOLE: _table(read_npy(path), None, path)}


def _kind(path: Path) -> str:
    """Return the suffix of a file, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def _read_text(path: Path, kind: str, columns: Columns) -> Table:
    """Read a text file, whose content says whether it is svmlight, ARFF or another table."""
    with open_regular(path) as file:
        if kind in SVMLIGHT:
            return read_svmlight_from(path, file, columns)
        lines = Lines(path, file)
        sample = lines.peek(*SAMPLE)
        if is_svmlight(sample):
            if columns.label is not None:
                raise ValueError(f"label={columns.label!r}: {path} has no column of labels; leave it out")
            _check_no_text_table(path, columns)
            check_nothing_to_drop(path, columns)
            return read_svmlight_from(path, file, columns)
        return (read_arff if is_arff(sample) else read_table)(lines, file, columns)


def _check_no_text_table(path: Path, columns: Columns) -> None:
    """Refuse what says how a table is written, if the file is none in a text file."""
    for name in ("header", "delimiter", "decimal"):
        if (value := getattr(columns, name)) is not None:
            raise ValueError(f"{name}={value!r}: {path} is not a table in a text file; leave it out")


def check_nothing_to_drop(path: Path, columns: Columns) -> None:
    """Refuse columns to leave out by name, for a file whose columns have no names."""
    if columns.drop:
        raise ValueError(
            f"drop={list(columns.drop)!r}: the columns of {path} have no names; save the file without them"
        )


def check_written(delimiter: Any, decimal: Any) -> None:
    """Check what says how a table is written: a character that may stand between fields, and the sign of decimals."""
    known = isinstance(delimiter, str) and len(delimiter) == 1 and delimiter.isascii()
    if delimiter is not None and (not known or delimiter.isalnum() or delimiter in "\"'\r\n\0.+-"):
        expected = "pass one character, such as ';' or '\\t'"
        raise ValueError(f"delimiter={shown(delimiter)} does not separate fields; {expected}")
    if decimal not in (None, *DECIMALS):
        raise ValueError(f"decimal={shown(decimal)} is not known; pass '.' or ','")


def known_labels(table: Table, classes: Array, path: Path, whose: str) -> Array:
    """Return the labels (n,) of a table in the type of `classes`, among which all of them must be.

    Raises
    ------
    BadFileError
        A label is not among the classes; the message says in which row.
    """
    distinct, first, codes = np.unique(_labels(table), return_index=True, return_inverse=True)
    known = {label: label for label in classes.tolist()}
    text = distinct.dtype.kind == "U"
    if all(label in TRUTH for label in known):  # True, true and TRUE are the same class
        known |= {other: label for label in classes.tolist() for other in TRUTH if TRUTH[other] is TRUTH[label]}
    read: Callable[[Any], Any] = (
        str if classes.dtype.kind in "OU" else TRUTH.get if text and classes.dtype.kind == "b" else
        _number if text else lambda label: label
    )  # fmt: skip
    labels = [known.get(read(label)) for label in distinct.tolist()]
    if unknown := [row for label, row in zip(labels, first.tolist(), strict=True) if label is None]:
        row = min(unknown)
        raise BadFileError(
            path,
            place=table.place(row),
            reason=f"label {shown(_labels(table)[row].item())} is not among the {len(classes)} classes {whose}, "
            f"{shown(classes.tolist())}",
            expected="one of them; drop such rows, or include some in training",
        )
    return np.array(labels, classes.dtype)[codes]


def training_labels(table: Table, path: Path) -> Array:
    """Return the labels (n,) of the training rows, which define the classes.

    Text becomes integers, or whole floats, if all labels can be converted.

    Raises
    ------
    BadFileError
        A label is missing, or is a number that is not whole; the message says in which row.
    """
    y = _labels(table)

    def bad(row: int, expected: str) -> BadFileError:
        return BadFileError(path, place=table.place(row), reason=f"label {shown(y[row].item())}", expected=expected)

    missing, whole = "a label in each row; leave out rows without one", "classes: whole numbers, or names"
    if y.dtype.kind == "f":
        wrong = ~np.isfinite(y) | (y != np.floor(y))
        if wrong.any():
            row = int(wrong.argmax())
            raise bad(row, missing if np.isnan(y[row]) else whole)
    if y.dtype.kind != "U":
        return y
    distinct, firsts, counts = np.unique(y, return_index=True, return_counts=True)
    # such as True from Python beside TRUE from Excel
    if len(distinct) > 2 and all(label in TRUTH for label in distinct.tolist()):
        return np.array([str(TRUTH[label]) for label in y.tolist()])
    words = [label.strip() for label in distinct.tolist()]
    number = np.array([NUMBER.fullmatch(word) is not None for word in words])
    gap = np.array([word.lower() in GAPS for word in words])
    empty = np.array([not word for word in words])
    if empty.any() or (gap.any() and number.any() and (number | gap).all()):
        raise bad(firsts[empty if empty.any() else gap].min(), missing)
    if number.all():
        part = np.array([not float(word).is_integer() for word in words])
        if part.any():
            raise bad(firsts[part].min(), whole)
    for word, count in zip(distinct[gap].tolist(), counts[gap], strict=True):
        log.warning(
            "%s: the label of %d rows is %r, a class of its own; if it means a missing label, leave these rows out",
            path,
            count,
            word,
        )
    stray = ~(number | gap)
    if stray.any() and counts[number].sum() > len(y) / 2:
        row = firsts[stray].min()
        log.warning(
            "%s, %s: label %r is not a number, so all labels are read as text", path, table.place(row), y[row].item()
        )
    return as_numbers(y)


def as_numbers(y: Array) -> Array:
    """Convert text to integers, or to whole floats, if every label is written as one; else return it as it is."""
    text = set(y.tolist())
    if all(INTEGER.fullmatch(label) for label in text):
        return y.astype(np.int64)
    return y.astype(np.float64) if all(WHOLE_FLOAT.fullmatch(label) for label in text) else y


def _number(text: str) -> int | float | None:
    """Convert a text to a whole number, as `as_numbers` does; None for any other text."""
    return int(text) if INTEGER.fullmatch(text) else float(text) if WHOLE_FLOAT.fullmatch(text) else None


def held_out(labels: Array, shares: dict[str, float], seed: int) -> dict[str, Array]:
    """Choose rows for each part in `shares`, and return their sorted indices; "train" gets the remaining rows.

    A part gets its fraction of each class, rounded down.
    """
    if not shares:
        return {}
    # NumPy guarantees that both streams stay the same, unlike those of a Generator (NEP 19)
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).permutation(len(labels))
    codes = np.unique(labels, return_inverse=True)[1][order]
    counts = np.bincount(codes)
    place = np.empty(len(labels), np.int64)  # the position of a row among the rows of its class, in that order
    place[np.argsort(codes, kind="stable")] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    sizes = [np.floor(counts * share + 1e-9).astype(np.int64) for share in shares.values()]
    part = (place >= np.cumsum(sizes, axis=0)[:, codes]).sum(axis=0)
    return {name: np.sort(order[part == i]) for i, name in enumerate((*shares, "train"))}


def _check_finite(table: Table, path: Path) -> None:
    """Raise for NaN and infinity, naming the row of the file; a later fit to some of the rows would not know it."""
    if is_sparse(table.values):
        check_sparse_finite(table, path)
        return
    if _in_files(table.values):
        return  # the fit says which row and column it is, after a pass over them that it makes anyway
    if isinstance(table.values, RawColumns) or table.values.dtype.kind != "f":
        return  # the columns of a table were checked while they were read
    for start in range(0, len(table.values), ROWS_AT_ONCE):
        finite = np.isfinite(table.values[start : start + ROWS_AT_ONCE])
        if not finite.all():
            row, j = np.argwhere(~finite)[0]
            name = f"column {j}" if table.feature_names is None else f"column {table.feature_names[j][:80]!r}"
            reason = f"{name} is {table.values[start + row, j]}"
            expected = "a finite number; fill it, or leave out its row"
            raise BadFileError(path, place=table.place(start + row), reason=reason, expected=expected)


def _tell_of_oddities(table: Table, labels: Array, path: Path) -> None:
    """Warn of what is not an error but seldom intended."""
    names, counts = np.unique(labels, return_counts=True)
    if (counts == 1).any():
        log.warning("%s: %r is the class of a single row", path, str(names[counts.argmin()]))
    if table.feature_names is None or is_sparse(table.values) or _in_files(table.values):
        return
    for name, column in as_raw(table.values, table.feature_names).columns.items():
        if column.dtype != object and _counts_rows(column):
            log.warning("%s: column %r numbers the rows and is used as a feature; leave it out with drop", path, name)


def _counts_rows(column: Array) -> bool:
    """Whether a column holds consecutive whole numbers, in any order, as row numbers are.

    Among few rows they must be in order, since they may be consecutive by chance.
    """
    n = len(column)
    if n < 3 or column[0] % 1 or float(column.max()) - float(column.min()) != n - 1:
        return False
    return bool((column[1:] - column[:-1] == 1).all() or (n > 10 and (np.diff(np.sort(column)) == 1).all()))


def _sparse_matrix(path: Path) -> Any:
    """Read the sparse matrix of a .npz whose labels are in a file of their own."""
    arrays = with_matrix(read_npz(path), path)
    if not is_sparse(arrays.get("X")):
        expected = "a sparse matrix (scipy.sparse.save_npz), or a pair of .npy files, or X and y in one .npz alone"
        raise BadFileError(path, reason=f"holds {_names(arrays)}", expected=expected)
    return arrays["X"]


def _names(arrays: dict[str, Array]) -> str:
    """Return the names of arrays with their shapes, for messages."""
    return ", ".join(f"{name[:40]} {array.shape}" for name, array in list(arrays.items())[:12]) or "no arrays"


def _parts_of_npz(path: Path, columns: Columns) -> dict[str, Table]:
    """Read the parts of a .npz, recognised by the names of its arrays."""
    label = columns.label
    if columns.is_position:
        raise ValueError(f"label={label} is a position, but the arrays of {path} have names; pass one of them")
    arrays = with_matrix(read_npz(path), path)
    if arrays.keys() == {"X"} and is_sparse(arrays["X"]) and columns.need_label:
        expected = f"a pair of files, {path.name} and a .npy with the labels"
        raise BadFileError(path, reason="sparse features without labels", expected=expected)
    parts: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        part = next((PARTS[word] for word in name.lower().split("_") if word in PARTS), WHOLE)
        if _stem(name) in parts.setdefault(part, {}):
            reason = f"two arrays are {_stem(name)!r} of the {part} part, one of them {name[:40]!r}"
            raise BadFileError(path, reason=reason, expected="one of each")
        parts[part][_stem(name)] = array
    labels = LABEL_NAMES if label is None else (_stem(str(label)),)
    if label is not None and not any(labels[0] in own for own in parts.values()):
        reason = f"holds {', '.join(name[:40] for name in list(arrays)[:12])}"
        raise BadFileError(path, reason=reason, expected=f"an array {label!r}, as label says")
    tables = {}
    for part, own in parts.items():
        X = _only(own, lambda name, _: name in FEATURE_NAMES) or _only(own, lambda _, array: array.ndim > 1)
        y = _only(own, lambda name, _: name in labels)
        if X is not None and (y is not None or not columns.need_label):
            tables[part] = replace(_table(own[X], None if y is None else own[y], path), label=y)
        elif X is not None and part != WHOLE:
            raise BadFileError(path, reason=f"features of the {part} part, but no labels", expected="both")
    if not tables or (WHOLE in tables and len(tables) > 1):
        wanted = "an array of features (X) and one of labels (y, or the one that label names), or several _train, _test"
        raise BadFileError(path, reason=f"holds {_names(arrays)}", expected=wanted)
    return tables


def _stem(name: str) -> str:
    """Return an array's name in lower case, without the word for its part."""
    return "_".join(word for word in name.lower().split("_") if word not in PARTS)


def _only(arrays: dict[str, Array], wanted: Any) -> str | None:
    """Return the name of the array for which `wanted` is true, or None unless there is exactly one."""
    found = [name for name, array in arrays.items() if wanted(name, array)]
    return found[0] if len(found) == 1 else None


def _table(X: Array, y: Array | None, path: Path, labels: Path | None = None) -> Table:
    """Make a table of arrays: features are flattened to two dimensions, and labels must have one entry per row."""
    if X.ndim < 2 or X.dtype.kind == "U" or 0 in X.shape:
        expected = "numbers in rows, shape (n, d)"
        raise BadFileError(path, reason=f"features of shape {X.shape} and type {X.dtype}", expected=expected)
    if y is not None:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.shape != X.shape[:1]:
            expected = f"one label for each of {X.shape[0]} rows"
            raise BadFileError(labels or path, reason=f"labels of shape {y.shape}", expected=expected)
    return Table(X if is_sparse(X) else X.reshape(len(X), -1), y)


def _some(values: Any, rows: Array) -> Any:
    """Return some rows of the features of a table; of features that stay in files, without reading them."""
    return values.select(rows) if _in_files(values) else values[rows]


def _in_files(values: Any) -> bool:
    """Whether features stay in files, from where they are read when they are used."""
    return hasattr(values, "select")


def _labels(table: Table) -> Array:
    assert table.y is not None
    return table.y


def _paths(name: str, source: Any) -> Source:
    """Check an argument that is a path or a pair of paths."""
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise TypeError(f"{name} is a {type(source).__name__} of {len(source)}; pass a pair (features, labels)")
        return check_path(f"{name}[0]", source[0]), check_path(f"{name}[1]", source[1])
    return check_path(name, source)


def path_of_labels(source: Source) -> Path:
    """Return the file that holds the labels."""
    return Path(source[1] if isinstance(source, tuple) else source)


def _path(source: Source) -> Path:
    return Path(source[0] if isinstance(source, tuple) else source)
