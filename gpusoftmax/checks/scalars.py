"""Checks of single values: choices, numbers, counts, flags, paths, seeds and callbacks."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax.checks.messages import shown
from gpusoftmax.losses import LOSSES, Loss


def is_plain(text: str) -> bool:
    """Whether a text has no underscores and no characters beyond ASCII.

    Python's `float` and `int` accept 1_000 and digits of other scripts as numbers; other programs do not.
    """
    return text.isascii() and "_" not in text


def check_choice(name: str, value: Any, choices: Sequence[str], hint: str = "") -> str:
    """Return `value` if it is one of `choices`; otherwise raise, with `hint` at the end of the message."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={shown(value)} is not known; use one of {', '.join(map(repr, choices))}{hint}")
    return value


def check_loss(loss: Any) -> Loss:
    """Return the loss with this name."""
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
    """Return `value` as a float if it is a finite number in [least, most].

    `above` excludes the lower end and `below` the upper one. `words` replaces the description of the range in the
    message.
    """
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
    """Return `value` as an int if it is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass a whole number")
    if value < least:
        raise ValueError(f"{name}={shown(value)} is out of range; it must be at least {least}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass True or False")
    return bool(value)


def check_verbose(value: Any) -> int:
    """Return `verbose` as an int of at least 0. True counts as 1; scikit-learn has levels above 1, too."""
    return check_count("verbose", int(value) if isinstance(value, bool) else value, least=0)


def check_path(name: str, value: Any) -> Path:
    """Return `value` as a Path if it is a path object or a string."""
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; pass a path, as text or pathlib.Path")
    if not path or "\0" in path:
        raise ValueError(f"{name}={shown(path)} is not a path; pass the name of a file or folder")
    return Path(path)


def check_pair(name: str, value: Any) -> None:
    """Raise unless `value` is a pair (X, y)."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise TypeError(f"{name} is a {type(value).__name__}{size}; pass a pair (X, y)")


def check_learning_rate(value: Any, hint: str = "") -> float | str:
    """Return a learning rate: "auto" or a positive number. `hint` ends the message about any other string."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"learning_rate={shown(value)} is not known; use 'auto' or a positive number{hint}")
        return value
    return check_number("learning_rate", value, least=0, above=True)


def check_batch_size(value: Any) -> int | str:
    """Return a batch size: "auto", "full" or a positive whole number."""
    if isinstance(value, str):
        if value not in ("auto", "full"):
            raise ValueError(f"batch_size={shown(value)} is not known; use 'auto', 'full' or a positive whole number")
        return value
    return check_count("batch_size", value)


def check_random_seed(random_state: Any) -> int:
    """Return a seed: 0 for None, a whole number itself, or a number drawn from a RandomState."""
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
    """Raise unless `callbacks` is a sequence of functions, or of objects that make one for each fit (`fresh`)."""
    if callable(callbacks) or isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks={shown(callbacks)} is not a sequence; pass a list, even for a single function")
    for item in callbacks:
        if not callable(item) and not hasattr(item, "fresh"):
            raise TypeError(
                f"callbacks holds {shown(item)}, which cannot be called; pass functions of one argument, a Record"
            )
