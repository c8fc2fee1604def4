"""Values and numbers as error messages and warnings show them."""

from __future__ import annotations

import re
import reprlib
import sys
import warnings
from typing import Any

import numpy as np


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


def warn_user(message: str, category: type[Warning]) -> None:
    """A warning that points at the line which called this library, through however many of its functions."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gpusoftmax":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
