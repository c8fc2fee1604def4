"""Every check of what a user passes, and its message; nothing below checks again.

A message names the argument, the value that was found, and what to do. Where scikit-learn has a customary wording
for the same fault, ours contains it, because tools match on it.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax._typing import Array
from gpusoftmax.dtypes import BFLOAT16, widen
from gpusoftmax.losses import LOSSES, Loss

PROPORTIONS_TOLERANCE = 1e-3  # of the sum of a row's: float16 and numbers with three digits pass
READ_IN_PLACE = ("float64", "float32", "float16", "uint8")  # feature types that are never copied; and bfloat16

NOT_NUMERIC = "which is not numeric; encode it as numbers first"


class _Short(reprlib.Repr):
    """Shows series, data frames, tables and data sets by type and size, not by contents."""

    def repr_instance(self, x: Any, level: int) -> str:
        own = isinstance(x, np.ndarray | np.generic) or not hasattr(type(x), "__array__")
        if own or getattr(x, "shape", None) == ():
            return super().repr_instance(x, level)
        shape = getattr(x, "shape", None)
        size = f" of shape {tuple(shape)}" if shape is not None else f" of {len(x)}" if hasattr(x, "__len__") else ""
        return f"<{type(x).__name__}{size}>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 100
MOST_QUOTED = 150  # characters of another library's message


def shown(value: Any) -> str:
    """A value as messages have it: on one line, and short, however large it is."""
    return re.sub(r"\s*\n\s*", " ", _SHORT.repr(value))


def brief(error: BaseException) -> str:
    """What another library says, on one line and short: it may list all classes, or the text of a cell."""
    text = " ".join(str(error).split())
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


def counted(number: float, noun: str) -> str:
    """A number with its noun, as in "1 step" and "2.5 passes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{round(number, 1):g} {noun if number == 1 else plural}"


def _as_array(name: str, value: Any, fix: str, asarray: Callable[[Any], Any] = np.asarray) -> Any:
    """`value` as an array, or an error with its name."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        place = ", ".join(map(str, np.argwhere(value.mask)[0]))
        raise ValueError(f"{name}[{place}] is masked, and the number below would be taken; fill it, or drop its row")
    try:
        return asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={shown(value)} is no array ({brief(error)}); {fix}") from None


def _as_floats(name: str, value: Any) -> Array:
    """`value` as float64, or an error with its name."""
    array = _as_array(name, value, "pass numbers")
    try:
        if array.dtype.kind in "cmMSU":
            raise TypeError(f"dtype {array.dtype}")
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name}={shown(value)} is not numeric; pass numbers ({brief(error)})") from None


def is_plain(text: str) -> bool:
    """Whether it has nothing that Python's `float` and `int` read as part of a number, and other programs do not:
    underscores, and digits that are not ASCII."""
    return text.isascii() and "_" not in text


def check_choice(name: str, value: Any, choices: Sequence[str], hint: str = "") -> str:
    """`value` if it is one of `choices`; `hint` ends the message."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={shown(value)} is not known; use one of {', '.join(map(repr, choices))}{hint}")
    return value


def check_loss(loss: Any) -> Loss:
    """The loss with this name."""
    return LOSSES[check_choice("loss", loss, list(LOSSES))]


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: bool = False,
    below: bool = False,
    words: str = "",
) -> float:
    """A finite real number in [least, most]; `above` and `below` exclude the ends."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass a number")
    number = float(value)
    excluded = (above and number == least) or (below and number == most)
    if not math.isfinite(number) or not least <= number <= most or excluded:
        low = "" if least == -math.inf else f"{'greater than' if above else 'at least'} {least:g}"
        high = "" if most == math.inf else f"{'less than' if below else 'at most'} {most:g}"
        wanted = " and ".join(filter(None, (low, high))) or "finite"
        raise ValueError(f"{name}={shown(value)} is out of range; {words or f'it must be finite and {wanted}'}")
    return number


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass a whole number")
    if value < least:
        raise ValueError(f"{name}={shown(value)} is out of range; it must be at least {least}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass True or False")
    return bool(value)


def check_verbose(value: Any) -> int:
    """How much is told: 0 or 1, more in scikit-learn; True is 1."""
    return check_count("verbose", int(value) if isinstance(value, bool) else value, least=0)


def check_path(name: str, value: Any) -> Path:
    """A path, or its text."""
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass a path, as text or pathlib.Path")
    if not path or "\0" in path:
        raise ValueError(f"{name}={shown(path)} is no path; pass the name of a file or folder")
    return Path(path)


def check_pair(name: str, value: Any) -> None:
    """Rows with their labels."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise TypeError(f"{name} is a {type(value).__name__}{size}; pass a pair (X, y)")


def column_names(X: Any) -> list[Any] | None:
    """The names of the columns of a data frame or table; None for what has none."""
    names = getattr(X, "column_names", None)  # of pyarrow, whose `columns` are the data
    names = getattr(X, "columns", None) if names is None else names
    return None if names is None else list(names)


def by_rows(X: Any, name: str = "X") -> Any:
    """X as rows can be taken from it by their numbers: data frames, arrays and tensors as they are.

    Lists, and data sets of files (h5py, zarr), are read into an array, once. What is no rows comes back as it is:
    `check_features` says why.
    """
    if _is_of(X, "pyarrow", "RecordBatch"):
        return sys.modules["pyarrow"].Table.from_batches([X])
    if hasattr(X, "columns") or hasattr(X, "__dlpack_device__"):
        return X
    array = _as_array(name, X, "pass rows of numbers, all of equal length")
    return X if array.ndim == 0 else array


def _is_of(X: Any, library: str, *types: str) -> bool:
    """Whether X is of one of these types, without importing their library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(X, tuple(getattr(module, one) for one in types))


def _columns_as_array(X: Any, name: str) -> Any:
    """A data frame whose columns are numbers, of which NumPy would make an array of objects, as numbers in one copy.

    Anything else comes back as it is. Columns that NumPy would take for numbers, but are none, are refused.
    """
    dates: Any = None
    if _is_of(X, "polars", "DataFrame"):
        dates = (column for column, dtype in X.schema.items() if dtype.is_temporal())
    elif _is_of(X, "pyarrow", "Table", "RecordBatch"):
        is_temporal = sys.modules["pyarrow"].types.is_temporal
        dates = (place for place, dtype in enumerate(X.schema.types) if is_temporal(dtype))
    if dates is not None and (column := next(dates, None)) is not None:
        dtype, label = np.asarray(X[column]).dtype, column if isinstance(column, str) else X.column_names[column]
        raise ValueError(f"{name} has dtype {dtype} in column {shown(label)}, {NOT_NUMERIC}")
    return _frame_as_array(X, name) if _is_of(X, "pandas", "DataFrame") else X


def _frame_as_array(frame: Any, name: str) -> Any:
    """As `_columns_as_array`, of pandas. Boolean columns go with the others' type, if that is of floating point."""
    dtypes = list(frame.dtypes)
    for column, dtype in zip(frame.columns, dtypes, strict=True):
        if _is_of(dtype, "pandas", "SparseDtype"):
            raise TypeError(
                f"{name} has the sparse column {shown(column)} of {dtype}; pass {name}.astype(float) if it fits in "
                "memory"
            )
    types = set(dtypes)
    kinds = {dtype.categories.dtype.kind if hasattr(dtype, "categories") else dtype.kind for dtype in types}
    plain = all(isinstance(dtype, np.dtype) for dtype in types)
    if not kinds <= set("fiub") or (plain and (kinds == {"b"} or "b" not in kinds)):
        return frame  # an array of objects, whose first entry that is no number is named; or of numbers
    for place, dtype in enumerate(dtypes):
        nullable = not isinstance(dtype, np.dtype) and not hasattr(dtype, "categories")
        if nullable and (column := frame.iloc[:, place]).hasnans:
            row = int(column.isna().to_numpy().argmax())
            raise TypeError(
                f"Input {name} contains NaN: {name}[{row}, {place}] (column {shown(frame.columns[place])}) is "
                f"{column.iloc[row]}: fill gaps first, or drop the row"
            )
    common = np.result_type(*types) if plain else np.dtype(np.float64)
    return frame.to_numpy(common if common.kind == "f" else np.float64)


def check_features(X: Any, name: str = "X", asarray: Callable[[Any], Any] = np.asarray) -> Array:
    """X as a 2-D array of a type that the kernels read; a view wherever the type allows it.

    `asarray` makes an array of it: NumPy's, or that of the device that holds X. float64, float32, float16, bfloat16
    (of PyTorch, JAX or ml_dtypes) and uint8 stay as they are, whatever their strides. Booleans are seen as uint8; other
    integers of up to 16 bits become float32, wider ones float64 (exactly, up to 2^53); object arrays of numbers
    become float64, as in scikit-learn, and so do data frames with nullable or Arrow columns. NaN and infinity are not
    looked for: that would be a second read of the data.
    """
    if hasattr(X, "tocsr") or (hasattr(X, "nnz") and hasattr(X, "toarray")):
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray() if it fits in memory")
    tensor: Any = X.detach() if type(X).__module__.partition(".")[0] == "torch" else None
    half = str(getattr(tensor, "dtype", "")) == "torch.bfloat16"  # unknown to NumPy: its bits are taken
    if tensor is None:
        readable = _columns_as_array(X, name)
    else:
        readable = tensor.view(sys.modules["torch"].int16) if half else tensor
    array = _as_array(name, readable, "pass rows of numbers, all of equal length", asarray)
    half = half or array.dtype.name == "bfloat16"  # of ml_dtypes, and so of JAX
    if half:
        array = array.view(BFLOAT16)
    if array.dtype.kind == "c":
        raise ValueError(
            f"{name} has dtype {array.dtype}. Complex data not supported; pass {name}.real or np.abs({name})"
        )
    if array.ndim == 0:
        raise TypeError(
            f"{name} is a {type(X).__name__}. Expected 2D array, got scalar array instead: {shown(X)}; pass an array "
            f"or a data frame (read a file first; of a lazy frame pass {name}.collect())"
        )
    if array.dtype.kind == "O":
        array = _numbers_from_objects(array, name, column_names(X))
    if array.dtype.kind not in "fiub":
        if array.dtype.kind == "V":
            fix = f"numpy.lib.recfunctions.structured_to_unstructured({name})"
            raise ValueError(f"{name} holds records of {shown(array.dtype)}, {NOT_NUMERIC} ({fix})")
        raise ValueError(f"{name} has dtype {array.dtype}, {NOT_NUMERIC}")
    if array.ndim != 2:
        fix = (
            f"{name}.to_frame() if it is one feature"
            if hasattr(X, "to_frame")
            else f"{name}.reshape(-1, 1) if it is one feature, {name}.reshape(1, -1) if it is one sample, "
            f"{name}.reshape(len({name}), -1) if it holds images"
        )
        raise ValueError(
            f"{name} has shape {array.shape}. Expected 2D array, got {array.ndim}D array instead. Reshape your data: "
            + fix
        )
    for length, entry, fix in zip(array.shape, ("sample", "feature"), ("row", "column"), strict=True):
        if length == 0:
            raise ValueError(
                f"Found array with 0 {entry}(s) (shape={array.shape}) while a minimum of 1 is required: {name} is "
                f"empty; pass at least one {fix}"
            )
    return array if half else _readable(array)


def _readable(array: Array) -> Array:
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.name not in READ_IN_PLACE:
        narrow = array.dtype.kind in "iu" and array.dtype.itemsize <= 2
        with np.errstate(over="ignore"):  # of longer types than float64: infinity is found where any other is
            return array.astype(np.float32 if narrow else np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    if any(stride % array.dtype.itemsize for stride in array.strides) or not getattr(array.flags, "aligned", True):
        return array.copy()  # a field of a packed record: not on its type's boundary
    return array


def _numbers_from_objects(array: Array, name: str, columns: list[Any] | None) -> Array:
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        for index in np.ndindex(array.shape):
            column = "" if columns is None else f" (column {shown(columns[index[-1]])})"
            entry = f"{name}[{', '.join(map(str, index))}]{column} is {shown(array[index])}"
            try:
                array[tuple(slice(i, i + 1) for i in index)].astype(np.float64)
            except OverflowError:
                raise ValueError(f"{entry}, more than float64 holds; scale the numbers first") from None
            except (TypeError, ValueError):
                if np.ndim(array[index]):
                    raise TypeError(
                        f"{name} has dtype object, and {entry}: a vector where a number belongs; stack vectors into "
                        "columns first, as in numpy.stack(df['embedding'])"
                    ) from None
                raise TypeError(
                    f"{name} has dtype object, and {entry}: the argument must be a string-free array of numbers; "
                    "encode categories and fill gaps first"
                ) from None
        raise


def check_n_features(X: Any, expected: int, name: str = "X", owner: str = "the model") -> None:
    """X, an array or features, has as many columns as training had."""
    if X.shape[1] != expected:
        raise ValueError(
            f"{name} has {X.shape[1]} features, but {owner} is expecting {expected} features as input; pass the same "
            "columns"
        )


def check_finite_features(X: Array, name: str = "X") -> None:
    """Raise for the first NaN or infinity of X, by row and column; called once a loss or score came out non-finite."""
    if X.dtype.kind != "f" and X.dtype != BFLOAT16:
        return
    for start in range(0, len(X), 1024):
        x = widen(X[start : start + 1024])
        finite = np.isfinite(x)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            value = x[row, column]
            kind = "NaN" if np.isnan(value) else "infinity"
            raise ValueError(
                f"Input {name} contains {kind}: {name}[{start + row}, {column}] is {value}; impute or drop it first "
                "(sklearn.impute.SimpleImputer)"
            )


def check_same_length(name: str, array: Any, n: int, other: str = "X") -> None:
    """One entry of `array` per row of X."""
    if len(array) != n:
        raise ValueError(
            f"{name} has length {len(array)} but {other} has {n} rows; pass one entry for each. Found input variables "
            f"with inconsistent numbers of samples: [{n}, {len(array)}]"
        )


def check_class_indices(y: Any, n: int, c: int, name: str = "y", other: str = "X") -> Array:
    """Labels (n,) as int32 class indices in [0, c)."""
    array = _as_labels(y, name, f"one class index per row, shape ({n},)")
    check_index_array(array, n, c, name, other)
    wrong = (array < 0) | (array >= c)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{name}[{row}] is {array[row]}, but there are {c} classes; class indices go from 0 to {c - 1}"
        )
    return np.array(array, dtype=np.int32)  # a copy: for a read-only array kernels would compile anew


def check_index_array(array: Any, n: int, c: int, name: str = "y", other: str = "X") -> None:
    """Integers, one per row of X. Of an array on a GPU that is all that can be seen without waiting."""
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; pass one class index per row, shape ({n},)")
    check_same_length(name, array, n, other)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; pass integers from 0 to {c - 1} ({name}.astype(int))")


def _as_labels(y: Any, name: str, wanted: str = "one label per row") -> Array:
    """`y` as an array, whatever it holds."""
    array = _as_array(name, y, f"pass {wanted}")
    if array.ndim == 0:
        raise ValueError(f"{name}={shown(y)} is a {type(y).__name__}, and {name} should be a 1d array; pass {wanted}")
    if array.ndim == 1 and array.dtype.kind == "U" and isinstance(y, list | tuple):
        array = array if all(isinstance(label, str) for label in y) else np.array(y, dtype=object)  # else NaN is "nan"
    return array


def check_labels(y: Any, name: str, n: int | None = None, column_warns: bool = False) -> Array:
    """Labels (n,) of any type, none of them missing; n is not known to all who ask."""
    array = _as_labels(y, name)
    if array.ndim == 2 and array.shape[1] == 1:
        if column_warns:
            _warn_of_a_column(y, name, array.shape)
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {array.shape} instead; pass one label per row"
        )
    if n is not None:
        check_same_length(name, array, n)
    if array.dtype.kind == "T":
        array = array.astype(object)  # NumPy's text of variable length, which scikit-learn does not take for labels
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"{name} has dtype {array.dtype}. Complex data not supported; pass {name}.real, or names")
    if kind == "V":
        raise ValueError(f"{name} holds records of {shown(array.dtype)}; pass the field that holds the labels")
    if kind == "O" and all(isinstance(label, bool | np.bool_) for label in array):
        return array.astype(bool)
    if kind == "O" and all(isinstance(label, numbers.Integral) for label in array):
        try:
            return array.astype(np.int64)  # whole numbers that came with strings, as from a data frame's row
        except OverflowError:
            raise ValueError(f"{name}={shown(y)} needs more than 64 bits; pass {name}.astype(str)") from None
    if kind in "OfmM":
        missing = np.array([_is_missing(label) for label in array]) if kind == "O" else ~np.isfinite(array)
        if missing.any():
            row, other = int(missing.argmax()), "infinity" if kind == "f" else "another missing label"
            raise ValueError(
                f"Input {name} contains NaN or {other}: {name}[{row}] is {array[row]}; drop rows without a label"
            )
    return array


def warn_user(message: str, category: type[Warning]) -> None:
    """A warning that points at the line which called this library, through however many of its functions."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gpusoftmax":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _warn_of_a_column(y: Any, name: str, shape: tuple[int, ...]) -> None:
    """One label per row was expected."""
    from sklearn.exceptions import DataConversionWarning

    columns = column_names(y)
    fix = f"{name}.ravel()" if hasattr(y, "ravel") else f"np.ravel({name})"
    fix = fix if columns is None else f"{name}[{shown(columns[0])}]"
    warn_user(
        f"A column-vector y was passed when a 1d array was expected: {name} has shape {shape}; pass {fix}",
        DataConversionWarning,
    )


def encode_labels(y: Any, n: int, classes: Array | None = None, name: str = "y") -> tuple[Array, Array]:
    """The sorted distinct labels (c,), or `classes`, and each row's index among them (n,) int32.

    Labels may be of any type.
    """
    from sklearn.utils.multiclass import check_classification_targets

    array = check_labels(y, name, n, column_warns=True)
    if classes is not None:
        return classes, _codes(array, classes, name, " of the first call of partial_fit", "pass all of them there")
    try:
        with np.errstate(invalid="ignore"):  # of floats that no integer type holds
            check_classification_targets(array)
        classes, codes = np.unique(array, return_inverse=True)
    except ValueError as error:
        row = int((array % 1 != 0).argmax()) if array.dtype.kind == "f" else 0
        label = shown(array.tolist()[row])
        raise ValueError(
            f"{name}[{row}] is {label}, which is no class; pass discrete classes ({brief(error)})"
        ) from None
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in array})
        fix = f"{name}.astype(str)"
        if hasattr(y, "asstr"):  # of h5py
            fix = f"{name}.asstr()[:]"
        elif kinds == ["bytes"]:
            fix = f"[label.decode() for label in {name}]"
        raise TypeError(
            f"{name} holds labels of types {', '.join(kinds)}; pass labels of one type, text or numbers: {fix} "
            f"({brief(error)})"
        ) from None
    if len(classes) < 2:
        raise ValueError(
            f"{name} holds 1 class, {shown(classes.tolist()[0])}; this classifier can't train when only one class is "
            "present: pass rows of at least two classes"
        )
    return classes, codes.astype(np.int32)


def _is_missing(label: Any) -> bool:
    """None, NaN, or pandas.NA, of which nothing can be asked."""
    return label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and math.isnan(label))


def encode_proportions(
    y: Any, n: int, loss: str, name: str = "y", known: Array | None = None, other: str = "X"
) -> tuple[Array, Array, Array | None] | None:
    """Soft labels: classes (c,), each row's largest one (n,) int32, and the proportions (n, c); None for hard labels.

    Classes are 0 to c - 1, or the sorted names of a data frame's columns; `known` ones if there are any. Where each row
    is all of one class, proportions are None: these are hard labels in another form.
    """
    array = _as_labels(y, name)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "fiubO":
        return None
    if not LOSSES[loss].gives_probabilities:
        raise ValueError(
            f"{name} has shape {array.shape}: soft labels, proportions of classes, need loss='softmax' "
            f"(SoftmaxClassifier), since a margin has one right class; pass one label per row, shape ({n},)"
        )
    check_same_length(name, array, n, other)
    if array.dtype not in (np.float64, np.float32, np.float16):
        array = _as_floats(name, array)
    columns = column_names(y)
    if columns is not None:
        names = np.array(columns)
        if names.ndim != 1 or len(np.unique(names)) != len(names) or len({type(one) for one in columns}) > 1:
            raise ValueError(f"{name} has columns {shown(columns)}; pass one per class, with its name, of one type")
        order = np.argsort(names)
        names = names[order]
        if (order[1:] < order[:-1]).any():
            array = array[:, order]
    else:
        names = np.arange(array.shape[1]) if known is None else known
    classes = names if known is None else known
    if array.shape[1] != len(classes) or (names != classes).any():
        raise ValueError(
            f"{name} has {array.shape[1]} columns, but y has {len(classes)} classes; pass a column for each of "
            f"{shown(classes.tolist())}"
        )
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}; proportions of classes must be finite and not negative"
        )
    sums = array.sum(axis=1, dtype=np.float64)
    off = abs(sums - 1) > PROPORTIONS_TOLERANCE
    if off.any():
        row = int(off.argmax())
        raise ValueError(
            f"{name} has shape {array.shape}, and {name}[{row}] sums to {sums[row]:g}: pass one label per row, shape "
            f"({n},), or the proportions of its classes, which sum to 1 within {PROPORTIONS_TOLERANCE:g} "
            f"({name} / {name}.sum(axis=1, keepdims=True)); more than one label for a row is not possible"
        )
    one_hot = (sums == 1).all() and (array.max(axis=1) == 1).all()
    return classes, array.argmax(axis=1).astype(np.int32), None if one_hot else array


def encode_known_labels(y: Any, classes: Array, name: str, hint: str = " of y") -> Array:
    """Indices among `classes` of labels that must all be known, such as those of a validation set."""
    return _codes(check_labels(y, name), classes, name, hint)


def _codes(
    array: Array, classes: Array, name: str, hint: str, fix: str = "drop such rows, or train on some, too"
) -> Array:
    """Each label's index among `classes`, (n,) int32."""
    try:
        codes = np.minimum(np.searchsorted(classes, array), len(classes) - 1)
    except TypeError:  # labels that cannot be compared with ours: look at each
        codes = np.array([next((k for k, known in enumerate(classes) if known == label), 0) for label in array])
    unknown = classes[codes] != array
    if unknown.any():
        row = int(unknown.argmax())
        label = array[row : row + 1].tolist()[0]
        raise ValueError(
            f"{name}[{row}] is {shown(label)}, which is not among the {len(classes)} classes{hint}, "
            f"{shown(classes.tolist())}; {fix}"
        )
    return codes.astype(np.int32)


def check_classes(classes: Any) -> Array:
    """Labels that a stream may bring, sorted."""
    return encode_labels(classes, np.size(classes), name="classes")[0]


def check_sample_weight(
    weights: Any, n: int, K: int, dtype: npt.DTypeLike, name: str = "sample_weight", other: str = "X"
) -> Array | None:
    """Weights as (n, K), finite and not negative, with a positive sum for every model; None stays None."""
    if weights is None:
        return None
    array = _as_floats(name, weights)
    if array.ndim == 0:
        raise ValueError(f"{name}={shown(weights)} is one number; pass one weight per row, shape ({n},)")
    check_same_length(name, array, n, other)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != K):
        raise ValueError(
            f"{name} has shape {array.shape}. Sample weights must be 1D array or scalar: pass shape ({n},)"
            + f", or ({n}, {K})" * (K > 1)
        )
    table = np.broadcast_to(array.reshape(n, -1), (n, K))
    wrong = ~(np.isfinite(table) & (table >= 0))
    if wrong.any():
        row, k = np.argwhere(wrong)[0]
        raise ValueError(f"{name}[{row}] is {table[row, k]}; weights must be finite and not negative")
    with np.errstate(over="ignore"):  # of the type, or of the sum
        table = np.array(table, dtype=dtype, order="C")  # a copy: for a read-only array kernels would compile anew
        sums = table.sum(axis=0, dtype=np.float64)
    if not sums.all():
        raise ValueError(f"{name} sums to zero in {table.dtype}; at least one row needs a positive weight")
    if not np.isfinite(sums).all():
        raise ValueError(f"{name} sums to {sums.max()} in {table.dtype}; pass smaller weights")
    return table


def check_per_model(name: str, value: Any, K: int, least: float = 0.0) -> Array:
    """One number for every model (K,) float64, from a scalar or (K,)."""
    array = _as_array(name, value, f"pass a number, or one for each of {K} models")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}={shown(value)} is not numeric; pass a number, or one for each of {K} models")
    if array.shape not in ((), (K,)):
        raise ValueError(f"{name} has shape {array.shape}; pass a number, or one for each of {K} models, shape ({K},)")
    table = np.broadcast_to(array.astype(np.float64), (K,)).copy()
    if not (np.isfinite(table) & (table >= least)).all():
        raise ValueError(f"{name}={shown(value)} is out of range; it must be finite and at least {least:g}")
    return table


def check_coefficients(W: Any, b: Any, d: int, asarray: Callable[[Any], Any] = np.asarray) -> tuple[Any, Any, bool]:
    """W as (d, K, c), b as (K, c); and whether a single model came without its axis, as (d, c) and (c,)."""
    weights, bias = (_as_array(name, value, "pass real numbers", asarray) for name, value in (("W", W), ("b", b)))
    for name, value, array in (("W", W, weights), ("b", b, bias)):
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}={shown(value)} has dtype {array.dtype}; pass real numbers")
    if weights.ndim not in (2, 3) or weights.shape[0] != d:
        raise ValueError(
            f"W has shape {weights.shape}; pass ({d}, classes) or ({d}, models, classes): X has {d} features"
        )
    if weights.shape[-1] < 2:
        raise ValueError(f"W has shape {weights.shape}, one class; at least two are needed")
    if bias.shape != weights.shape[1:]:
        raise ValueError(f"b has shape {bias.shape}; for W of shape {weights.shape} pass {weights.shape[1:]}")
    single = weights.ndim == 2
    if single:
        weights, bias = weights[:, None, :], bias[None, :]
    return weights, bias, single


def check_shift_and_scale(shift: Any, scale: Any, d: int, owner: str = "") -> tuple[Array | None, Array | None]:
    """Shift and scale of the features as (d,) float64; a scale of 0 (a constant column) counts as 1.

    `owner` is put before their names: the parameter that they are parts of.
    """

    def vector(name: str, value: Any, least: float, fix: str) -> Array | None:
        if value is None:
            return None
        array = _as_floats(name, value)
        if array.shape not in ((), (d,)):
            raise ValueError(f"{name} has shape {array.shape}; pass a number, or one per feature, shape ({d},)")
        table = np.broadcast_to(array, (d,)).copy()
        wrong = ~(np.isfinite(table) & (table >= least))
        if wrong.any():
            j = int(wrong.argmax())
            raise ValueError(f"{name}[{j}] is {table[j]}; pass {fix}")
        return table

    shift = vector(f"{owner}shift", shift, -math.inf, "finite numbers")
    scale = vector(f"{owner}scale", scale, 0.0, "standard deviations, finite and not negative")
    if scale is not None:
        scale[scale == 0] = 1.0
    return shift, scale


def check_learning_rate(value: Any, hint: str = "") -> float | str:
    """ "auto" or a positive number; `hint` ends the message about another string."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"learning_rate={shown(value)} is not known; use 'auto' or a positive number{hint}")
        return value
    return check_number("learning_rate", value, least=0, above=True)


def check_batch_size(value: Any) -> int | str:
    """ "auto", "full" or a positive whole number."""
    if isinstance(value, str):
        if value not in ("auto", "full"):
            raise ValueError(f"batch_size={shown(value)} is not known; use 'auto', 'full' or a positive whole number")
        return value
    return check_count("batch_size", value)


def check_random_seed(random_state: Any) -> int:
    """A seed from None (0), a whole number, or a RandomState, which moves on."""
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, bool) or not isinstance(random_state, numbers.Integral):
        raise ValueError(f"random_state={shown(random_state)} is not known; pass None, a whole number or a RandomState")
    if not 0 <= int(random_state) < 2**63:
        raise ValueError(
            f"random_state={shown(random_state)} is out of range; it must be at least 0 and less than 2^63"
        )
    return int(random_state)


def check_callbacks(callbacks: Any) -> None:
    """A sequence of functions, or of objects that make one for each fit."""
    if callable(callbacks) or isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks={shown(callbacks)} is not a sequence; pass a list, also for one function")
    for item in callbacks:
        if not callable(item) and not hasattr(item, "fresh"):
            raise TypeError(
                f"callbacks holds {shown(item)}, which cannot be called; pass functions of one argument, a Record"
            )
