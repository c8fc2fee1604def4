"""Parts of error messages and warnings: values shown briefly, numbers with their nouns, and where a warning points."""

from __future__ import annotations

import re
import reprlib
import sys
import warnings
from typing import Any

import numpy as np


class _Short(reprlib.Repr):
    """A repr that shows series, data frames, tables and data sets by type and size, without their contents."""

    def repr_instance(self, x: Any, level: int) -> str:
        own = isinstance(x, np.ndarray | np.generic) or not hasattr(type(x), "__array__")
        if own or getattr(x, "shape", None) == ():
            return super().repr_instance(x, level)
        shape = getattr(x, "shape", None)
        size = f" of shape {tuple(shape)}" if shape is not None else f" of {len(x)}" if hasattr(x, "__len__") else ""
        return f"<{type(x).__name__}{size}>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 100
MOST_QUOTED = 150  # characters quoted from another library's message

NOT_NUMERIC = "which is not numeric; encode it as numbers first (make_table_classifier does so for tables)"


def shown(value: Any) -> str:
    """Return the repr of a value for a message: on one line, and short even if the value is large."""
    return re.sub(r"\s*\n\s*", " ", _SHORT.repr(value))


def brief(error: BaseException) -> str:
    """Return another library's error message on one line, cut off if it is long: it may list all classes, say."""
    text = " ".join(str(error).split())
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


def counted(number: float, noun: str) -> str:
    """Return a number with its noun in the singular or plural, such as "1 step" or "2.5 passes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{round(number, 1):g} {noun if number == 1 else plural}"


def describe_value(value: Any) -> str:
    """Return a parameter's value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_candidate(candidate: dict[str, Any]) -> str:
    """Return a sweep's candidate, its parameters and their values, as text."""
    return ", ".join(f"{name} = {describe_value(value)}" for name, value in candidate.items())


def warn_user(message: str, category: type[Warning]) -> None:
    """Issue a warning that points to the line of code outside this library from which it was called."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gpusoftmax":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
