"""The errors of this library that are not plain ValueErrors, TypeErrors, or scikit-learn's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BackendUnavailableError(RuntimeError):
    """A back end was asked for by name and cannot be had; the message says why and what to do."""


class DivergenceError(ArithmeticError):
    """Training ran away; the message says what to change.

    Attributes
    ----------
    result : TrainResult
        Everything up to that point, with the best weights that were seen: nothing is lost.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class BadFileError(ValueError):
    """A data or model file is not what it should be.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    place : str
        Where in it: a byte offset, a key, a line. Empty if it is the whole file.
    reason : str
        What was found there.
    expected : str
        What would have been right.
    """

    def __init__(self, path: str | Path, *, reason: str, expected: str, place: str = "") -> None:
        self.path, self.place, self.reason, self.expected = Path(path), place, reason, expected
        where = f"{path}, {place}" if place else f"{path}"
        super().__init__(f"{where}: {reason}; expected {expected}")
