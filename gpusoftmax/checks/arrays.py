"""Checks of arrays of numbers: features, coefficients, sample weights, shift and scale."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import NOT_NUMERIC, brief, shown
from gpusoftmax.checks.sparse import check_sparse, is_sparse
from gpusoftmax.dtypes import BFLOAT16, widen

READ_IN_PLACE = (np.float64, np.float32, np.float16, np.uint8)  # types that need no conversion; nor does bfloat16


def as_array(name: str, value: Any, fix: str, asarray: Callable[[Any], Any] = np.asarray) -> Any:
    """Return `value` as an array; the error names the argument and ends with `fix`."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        place = ", ".join(map(str, np.argwhere(value.mask)[0]))
        raise ValueError(
            f"{name}[{place}] is masked, and the number under the mask would be used; fill it, or drop its row"
        )
    try:
        return asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={shown(value)} is not an array ({brief(error)}); {fix}") from None


def as_floats(name: str, value: Any) -> Array:
    """Return `value` as a float64 array; the error names the argument."""
    array = as_array(name, value, "pass numbers")
    try:
        if array.dtype.kind in "cmMSU":
            raise TypeError(f"dtype {array.dtype}")
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name}={shown(value)} is not numeric; pass numbers ({brief(error)})") from None


def column_names(X: Any) -> list[Any] | None:
    """Return the column names of a data frame or table, and None for anything without column names."""
    names = getattr(X, "column_names", None)  # pyarrow: its `columns` are the data
    names = getattr(X, "columns", None) if names is None else names
    return None if names is None else list(names)


def by_rows(X: Any, name: str = "X") -> Any:
    """Return X in a form whose rows can be indexed by number.

    Data frames, arrays, tensors, and rows that stay in files are returned as they are, and sparse matrices as canonical
    CSR. Lists and data sets in files (h5py, zarr) are read into an array, once. A single value is returned as it is,
    since `check_features` raises a better error for it.
    """
    if _is_of(X, "gpusoftmax.rows.file_rows", "FileRows", "SelectedRows"):
        return X
    if is_sparse(X) and not hasattr(X, "columns"):
        return check_sparse(X, name)
    if _is_of(X, "pyarrow", "RecordBatch"):
        return sys.modules["pyarrow"].Table.from_batches([X])
    if hasattr(X, "columns") or hasattr(X, "__dlpack_device__"):
        return X
    array = as_array(name, X, "pass rows of numbers, all of equal length")
    return X if array.ndim == 0 else array


def _is_of(X: Any, library: str, *types: str) -> bool:
    """Whether X is an instance of one of a library's types; does not import the library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(X, tuple(getattr(module, one) for one in types))


def _columns_as_array(X: Any, name: str) -> Any:
    """Convert a pandas data frame of numbers to an array with a single copy, where NumPy would make one of objects.

    Anything else is returned as it is. Dates in polars and pyarrow tables raise, since NumPy would take them for
    numbers.
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
    """Do what `_columns_as_array` describes for a pandas data frame.

    Boolean columns take the type of the other columns if that is a floating-point type.
    """
    dtypes = list(frame.dtypes)
    types = set(dtypes)
    kinds = {dtype.categories.dtype.kind if hasattr(dtype, "categories") else dtype.kind for dtype in types}
    plain = all(isinstance(dtype, np.dtype) for dtype in types)
    if not kinds <= set("fiub") or (plain and (kinds == {"b"} or "b" not in kinds)):
        return frame  # NumPy makes numbers of it, or objects, whose check names the first bad entry
    for place, dtype in enumerate(dtypes):
        nullable = not isinstance(dtype, np.dtype) and not hasattr(dtype, "categories")
        if nullable and (column := frame.iloc[:, place]).hasnans:
            row = int(column.isna().to_numpy().argmax())
            raise TypeError(
                f"Input {name} contains NaN: {name}[{row}, {place}] (column {shown(frame.columns[place])}) is "
                f"{column.iloc[row]}: fill gaps first, drop the row, or use make_table_classifier"
            )
    common = np.result_type(*types) if plain else np.dtype(np.float64)
    return frame.to_numpy(common if common.kind == "f" else np.float64)


def check_features(X: Any, name: str = "X", asarray: Callable[[Any], Any] = np.asarray) -> Array:
    """Return X as a 2-D array of a type that the kernels read; a view wherever the type allows it.

    `asarray` converts X to an array of NumPy's, or of the device that holds X. float64, float32, float16, bfloat16
    (from PyTorch, JAX or ml_dtypes) and uint8 stay as they are, whatever their strides. Booleans are viewed as uint8;
    other integers of up to 16 bits become float32, and wider ones float64 (exact up to 2^53). Object arrays of numbers
    become float64, as in scikit-learn, and so do data frames with nullable or Arrow columns. NaN and infinity are not
    checked here: that would take another pass over the data.
    """
    if is_sparse(X):
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray() if it fits in memory")
    array, half = (X, False) if type(X) is np.ndarray else _as_matrix(X, name, asarray)
    if array.dtype.kind == "V":
        half = half or array.dtype.name == "bfloat16"  # the type of ml_dtypes, which JAX uses
    if half:
        array = array.view(BFLOAT16)
    if array.dtype.kind == "c":
        raise ValueError(
            f"{name} has dtype {array.dtype}. Complex data not supported; pass {name}.real or np.abs({name})"
        )
    if array.ndim == 0:
        raise TypeError(
            f"{name} is a {type(X).__name__}. Expected 2D array, got scalar array instead: {shown(X)}; pass an array "
            f"or a data frame (read a file first, or pass open_rows(path); of a lazy frame pass {name}.collect())"
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
    return array if half else readable(array)


def _as_matrix(X: Any, name: str, asarray: Callable[[Any], Any]) -> tuple[Any, bool]:
    """Convert X to an array; also returns whether these are the bits of PyTorch's bfloat16, which NumPy lacks."""
    half = False
    if type(X).__module__.partition(".")[0] == "torch":
        readable = X.detach()
        if half := str(getattr(readable, "dtype", "")) == "torch.bfloat16":
            readable = readable.view(sys.modules["torch"].int16)
    else:
        readable = _columns_as_array(X, name)
    return as_array(name, readable, "pass rows of numbers, all of equal length", asarray), half


def readable(array: Array) -> Array:
    """Convert an array of numbers to a type, byte order and alignment that the kernels read."""
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.type not in READ_IN_PLACE:
        narrow = array.dtype.kind in "iu" and array.dtype.itemsize <= 2
        with np.errstate(over="ignore"):  # from a type wider than float64; the infinity is found later, like any other
            return array.astype(np.float32 if narrow else np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    if any(stride % array.dtype.itemsize for stride in array.strides) or not getattr(array.flags, "aligned", True):
        return array.copy()  # a field of a packed record, which is not aligned
    return array


def _numbers_from_objects(array: Array, name: str, columns: list[Any] | None) -> Array:
    """Convert an array of objects to float64; the error names the first entry that cannot be converted."""
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
                    "encode categories and fill gaps first, or use make_table_classifier"
                ) from None
        raise


def check_n_features(X: Any, expected: int, name: str = "X", owner: str = "the model") -> None:
    """Raise unless X has as many columns as the training data had."""
    if X.shape[1] != expected:
        raise ValueError(
            f"{name} has {X.shape[1]} features, but {owner} is expecting {expected} features as input; pass the same "
            "columns"
        )


def check_finite_features(X: Array, name: str = "X", first_row: int = 0) -> None:
    """Raise an error that names the first NaN or infinity of X; called when a loss or score is not finite.

    `first_row` is the number of the first row of X, if X is part of a longer matrix.
    """
    if (found := first_not_finite(X)) is not None:
        row, column, value = found
        raise not_finite(name, first_row + row, column, value)


def first_not_finite(X: Array) -> tuple[int, int, float] | None:
    """Return row, column and value of the first NaN or infinity of X, or None."""
    if X.dtype.kind != "f" and X.dtype != BFLOAT16:
        return None
    for start in range(0, len(X), 1024):
        x = widen(X[start : start + 1024])
        finite = np.isfinite(x)
        if not finite.all():
            row, column = np.argwhere(~finite)[0].tolist()
            return start + row, column, float(x[row, column])
    return None


def not_finite(name: str, row: int, column: int, value: float) -> ValueError:
    """Return the error for an entry that is NaN or infinite."""
    kind = "NaN" if np.isnan(value) else "infinity"
    return ValueError(
        f"Input {name} contains {kind}: {name}[{row}, {column}] is {value}; impute or drop it first "
        "(sklearn.impute.SimpleImputer, or make_table_classifier)"
    )


def check_same_length(name: str, array: Any, n: int, other: str = "X") -> None:
    """Raise unless `array` has one entry for each of the n rows of X."""
    if len(array) != n:
        raise ValueError(
            f"{name} has length {len(array)} but {other} has {n} rows; pass one entry for each. Found input variables "
            f"with inconsistent numbers of samples: [{n}, {len(array)}]"
        )


def check_sample_weight(
    weights: Any, n: int, K: int, dtype: npt.DTypeLike, name: str = "sample_weight", other: str = "X"
) -> Array | None:
    """Return sample weights as (n, K), or None for None.

    They must be finite and not negative, with a positive sum for every model.
    """
    if weights is None:
        return None
    array = as_floats(name, weights)
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
    with np.errstate(over="ignore"):  # in the conversion or the sum; checked below
        table = np.array(table, dtype=dtype, order="C")  # a copy: kernels are compiled again for read-only arrays
        sums = table.sum(axis=0, dtype=np.float64)
    if not sums.all():
        raise ValueError(f"{name} sums to zero in {table.dtype}; at least one row needs a positive weight")
    if not np.isfinite(sums).all():
        raise ValueError(f"{name} sums to {sums.max()} in {table.dtype}; pass smaller weights")
    return table


def check_per_model(name: str, value: Any, K: int, least: float = 0.0) -> Array:
    """Return one number for each model, (K,) float64, from a scalar or an array (K,)."""
    array = as_array(name, value, f"pass a number, or one for each of {K} models")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}={shown(value)} is not numeric; pass a number, or one for each of {K} models")
    if array.shape not in ((), (K,)):
        raise ValueError(f"{name} has shape {array.shape}; pass a number, or one for each of {K} models, shape ({K},)")
    table = np.broadcast_to(array.astype(np.float64), (K,)).copy()
    if not (np.isfinite(table) & (table >= least)).all():
        raise ValueError(f"{name}={shown(value)} is out of range; it must be finite and at least {least:g}")
    return table


def check_coefficients(W: Any, b: Any, d: int, asarray: Callable[[Any], Any] = np.asarray) -> tuple[Any, Any, bool]:
    """Return W as (d, K, c) and b as (K, c), and whether they came without the axis of models, as (d, c) and (c,)."""
    for name, value in (("W", W), ("b", b)):
        if is_sparse(value):
            raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray()")
    weights, bias = (as_array(name, value, "pass real numbers", asarray) for name, value in (("W", W), ("b", b)))
    for name, value, array in (("W", W, weights), ("b", b, bias)):
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}={shown(value)} has dtype {array.dtype}; pass real numbers")
    if weights.ndim not in (2, 3) or weights.shape[0] != d:
        raise ValueError(
            f"W has shape {weights.shape}; pass ({d}, classes) or ({d}, models, classes): X has {d} features"
        )
    if weights.shape[-1] < 2:
        raise ValueError(f"W has shape {weights.shape}, with one class only; pass at least two columns")
    if bias.shape != weights.shape[1:]:
        raise ValueError(f"b has shape {bias.shape}; for W of shape {weights.shape} pass {weights.shape[1:]}")
    single = weights.ndim == 2
    if single:
        weights, bias = weights[:, None, :], bias[None, :]
    return weights, bias, single


def check_shift_and_scale(shift: Any, scale: Any, d: int, owner: str = "") -> tuple[Array | None, Array | None]:
    """Return shift and scale of the features, each (d,) float64 or None; a scale of 0 (a constant column) becomes 1.

    `owner` is put before their names in messages: the parameter that they are part of.
    """

    def vector(name: str, value: Any, least: float, fix: str) -> Array | None:
        if value is None:
            return None
        array = as_floats(name, value)
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
