"""Checks of labels, hard and soft, and their encoding as class indices."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import as_array, as_floats, check_same_length, column_names
from gpusoftmax.checks.messages import brief, shown, warn_user
from gpusoftmax.losses import LOSSES

PROPORTIONS_TOLERANCE = 1e-3  # how far a row's sum may be from 1: float16 and numbers rounded to three digits pass


def check_class_indices(y: Any, n: int, c: int, name: str = "y", other: str = "X") -> Array:
    """Return labels (n,) as int32 class indices, which must be in [0, c)."""
    array = _as_labels(y, name, f"one class index per row, shape ({n},)")
    check_index_array(array, n, c, name, other)
    check_index_range(array, c, name)
    return np.array(array, dtype=np.int32)  # a copy: kernels are compiled again for read-only arrays


def check_index_array(array: Any, n: int, c: int, name: str = "y", other: str = "X") -> None:
    """Raise unless `array` holds integers, one for each row of X; see `check_index_range` for their values."""
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; pass one class index per row, shape ({n},)")
    check_same_length(name, array, n, other)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; pass integers from 0 to {c - 1} ({name}.astype(int))")


def check_index_range(array: Any, c: int, name: str = "y") -> None:
    """Raise unless all integers of `array` (n,), on any device, are in [0, c); waits for the device.

    Call it before the integers are narrowed: as int32, 2^32 would be class 0.
    """
    wrong = (array < 0) | (array >= c)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{name}[{row}] is {int(array[row])}, but there are {c} classes; class indices go from 0 to {c - 1}"
        )


def _as_labels(y: Any, name: str, wanted: str = "one label per row") -> Array:
    """Return `y` as an array of one or more dimensions and any type."""
    array = as_array(name, y, f"pass {wanted}")
    if array.ndim == 0:
        raise ValueError(f"{name}={shown(y)} is a {type(y).__name__}, and {name} should be a 1d array; pass {wanted}")
    if array.ndim == 1 and array.dtype.kind == "U" and isinstance(y, list | tuple):
        array = (
            array if all(isinstance(label, str) for label in y) else np.array(y, dtype=object)
        )  # or NaN would be "nan"
    return array


def check_labels(y: Any, name: str, n: int | None = None, column_warns: bool = False) -> Array:
    """Return labels (n,) of any type; raise if one is missing, or if n is given and their number differs."""
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
        array = array.astype(object)  # NumPy's StringDType, which scikit-learn does not accept as labels
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"{name} has dtype {array.dtype}. Complex data not supported; pass {name}.real, or names")
    if kind == "V":
        raise ValueError(f"{name} holds records of {shown(array.dtype)}; pass the field that holds the labels")
    if kind == "O" and all(isinstance(label, bool | np.bool_) for label in array):
        return array.astype(bool)
    if kind == "O" and all(isinstance(label, numbers.Integral) for label in array):
        try:
            return array.astype(np.int64)  # whole numbers that were stored beside strings, as in a row of a data frame
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


def _warn_of_a_column(y: Any, name: str, shape: tuple[int, ...]) -> None:
    """Warn, as scikit-learn does, that labels came as a column."""
    from sklearn.exceptions import DataConversionWarning

    columns = column_names(y)
    fix = f"{name}.ravel()" if hasattr(y, "ravel") else f"np.ravel({name})"
    fix = fix if columns is None else f"{name}[{shown(columns[0])}]"
    warn_user(
        f"A column-vector y was passed when a 1d array was expected: {name} has shape {shape}; pass {fix}",
        DataConversionWarning,
    )


def encode_labels(y: Any, n: int, classes: Array | None = None, name: str = "y") -> tuple[Array, Array]:
    """Return the classes (c,) and each row's class index (n,) int32.

    The classes are `classes`, or else the sorted distinct labels. Labels may be of any type.
    """
    from sklearn.utils.multiclass import check_classification_targets

    array = check_labels(y, name, n, column_warns=True)
    if classes is not None:
        return classes, _codes(array, classes, name, " of the first call of partial_fit", "pass all of them there")
    integers = array.dtype.kind in "biu"
    try:
        if not integers:
            with np.errstate(invalid="ignore"):  # floats that no integer type can hold
                check_classification_targets(array)
        classes, codes = np.unique(array, return_inverse=True)
        if integers and 2 * len(classes) > n:  # then scikit-learn may warn of a regression problem
            check_classification_targets(array)
    except ValueError as error:
        row = int((array % 1 != 0).argmax()) if array.dtype.kind == "f" else 0
        label = shown(array.tolist()[row])
        raise ValueError(
            f"{name}[{row}] is {label}, which is not a class; pass discrete classes ({brief(error)})"
        ) from None
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in array})
        fix = f"{name}.astype(str)"
        if hasattr(y, "asstr"):  # a data set of h5py
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
    """Whether a label is None, NaN or pandas.NA, which has no truth value (hence the test of its name)."""
    return label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and math.isnan(label))


def encode_proportions(
    y: Any, n: int, loss: str, name: str = "y", known: Array | None = None, other: str = "X"
) -> tuple[Array, Array, Array | None] | None:
    """Return classes (c,), each row's largest class (n,) int32 and proportions (n, c) of soft labels.

    Returns None if `y` holds hard labels. The classes are `known` if given, else the sorted column names of a data
    frame, else 0 to c - 1. The proportions are None if every row belongs to a single class: these are hard labels in
    one-hot form.
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
        array = as_floats(name, array)
    columns = column_names(y)
    if columns is not None:
        names = np.array(columns)
        if names.ndim != 1 or len(np.unique(names)) != len(names) or len({type(one) for one in columns}) > 1:
            raise ValueError(
                f"{name} has columns {shown(columns)}; pass one per class, named after it, with names of one type"
            )
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
    """Return class indices of labels that must all be among `classes`, such as those of a validation set."""
    return _codes(check_labels(y, name), classes, name, hint)


def _codes(
    array: Array, classes: Array, name: str, hint: str, fix: str = "drop such rows, or include some in training"
) -> Array:
    """Return each label's index among `classes`, (n,) int32; raise for a label that is not among them."""
    try:
        codes = np.minimum(np.searchsorted(classes, array), len(classes) - 1)
    except TypeError:  # labels that cannot be ordered together with the classes: compare one by one
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
    """Return the classes that partial_fit is told to expect, sorted."""
    return encode_labels(classes, np.size(classes), name="classes")[0]
