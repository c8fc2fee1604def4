"""Splits: which rows each model is trained on, and which rows it is measured on."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import brief, shown
from gpusoftmax.checks.scalars import check_count, check_number

FOLDS = 5  # if neither cv nor validation is passed, as in scikit-learn


@dataclass(frozen=True)
class Split:
    """Row numbers (int64), which do not decrease.

    train=None means all rows; held_out=None means the validation data that the user passed.
    """

    train: Array | None
    held_out: Array | None


def make_splits(cv: Any, validation: Any, y: Array, seed: int, X: Any = None, groups: Any = None) -> list[Split]:
    """Make the splits that the arguments of `sweep` ask for.

    Raises
    ------
    ValueError, TypeError
        cv and validation are both given, or one of them cannot be used; a split has no rows, or rows that do not exist.
    """
    if cv is not None and validation is not None:
        raise ValueError("cv and validation are both given; pass one: folds of X, or rows to measure all models on")
    n = len(y)
    if groups is not None and not hasattr(cv, "split"):
        raise ValueError("groups is for a splitter that uses it, such as GroupKFold; pass one as cv")
    if isinstance(validation, tuple | list):
        return [Split(None, None)]
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit  # imported here: it takes a while

    if validation is not None:
        if np.ndim(validation) or hasattr(validation, "columns"):
            raise TypeError(
                f"validation is a {type(validation).__name__}; pass a pair (X, y), or a fraction such as 0.1"
            )
        fraction = check_number("validation", validation, least=0, most=1, above=True, below=True)
        cv = StratifiedShuffleSplit(1, test_size=fraction, random_state=seed % 2**32)
    cv = FOLDS if cv is None else cv
    if isinstance(cv, numbers.Integral):
        cv = StratifiedKFold(check_count("cv", cv, least=2))
    if hasattr(cv, "split") and not isinstance(cv, str):
        try:
            pairs: Any = list(cv.split(np.zeros((n, 1)) if X is None else X, y, groups))
        except ValueError as error:  # more folds than rows of a class, groups that are missing or too few
            if validation is not None:
                raise ValueError(
                    f"validation={validation!r} cannot split these {n} rows class by class ({brief(error)}); pass "
                    f"validation=(X, y), another fraction, or cv=ShuffleSplit(1, test_size={validation!r}), which does "
                    "not look at classes"
                ) from None
            raise ValueError(
                f"cv={shown(cv)} cannot split these {n} rows ({brief(error)}); pass fewer folds, or "
                "KFold(shuffle=True), which does not look at classes; a group splitter needs groups, one for each row"
            ) from None
    elif hasattr(cv, "__iter__") and not isinstance(cv, str):
        pairs = cv
    else:
        raise TypeError(
            f"cv={cv!r} is a {type(cv).__name__}; pass a number of folds, one of scikit-learn's splitters, or a list "
            "of pairs of row numbers (training, held out)"
        )
    splits = [Split(*(_rows(part, n, f"cv split {i}") for part in _pair(pair, i))) for i, pair in enumerate(pairs)]
    if not splits:
        raise ValueError("cv holds no splits; pass at least one pair of row numbers (training, held out)")
    return splits


def _pair(pair: Any, i: int) -> Any:
    if not hasattr(pair, "__len__") or len(pair) != 2:
        raise TypeError(f"cv split {i} is not a pair; pass row numbers as (training, held out)")
    return pair


def _rows(part: Any, n: int, name: str) -> Array:
    """Row numbers in [0, n) from row numbers, which may be negative, or a mask."""
    rows = np.asarray(part)
    if rows.dtype == np.bool_ and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.size == 0:
        raise ValueError(f"{name} has no rows to train on, or none held out")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {rows.dtype} and shape {rows.shape}; pass row numbers, or a mask ({n},)")
    rows = rows.astype(np.int64)
    if rows.min() < -n or rows.max() >= n:
        raise ValueError(f"{name} names row {rows.max() if rows.max() >= n else rows.min()}, but X has {n} rows")
    rows = rows % n
    # in increasing order, X is read in its order; otherwise rows from files would be read again for each block
    return rows if (np.diff(rows) >= 0).all() else np.sort(rows)


def is_partition(splits: list[Split], n: int) -> bool:
    """Whether each of n rows is held out exactly once."""
    held_out = [split.held_out for split in splits if split.held_out is not None]
    return len(held_out) == len(splits) and np.array_equal(np.sort(np.concatenate(held_out)), np.arange(n))
