"""Errors of this library beyond plain ValueErrors and TypeErrors and those of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BackendUnavailableError(RuntimeError):
    """The backend that was asked for is not available; the message says why and what to do."""


class DivergenceError(ArithmeticError):
    """Training diverged; the message says what to change.

    Attributes
    ----------
    result : TrainResult
        The training up to that point, with the best weights found: nothing is lost.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class BadFileError(ValueError):
    """A data or model file is damaged, or not of the expected kind.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    place : str
        Where in the file: a byte offset, a key or a line. Empty if the error concerns the whole file.
    reason : str
        What was found there.
    expected : str
        What would have been right.
    """

    def __init__(self, path: str | Path, *, reason: str, expected: str, place: str = "") -> None:
        self.path, self.place, self.reason, self.expected = Path(path), place, reason, expected
        where = f"{path}, {place}" if place else f"{path}"
        super().__init__(f"{where}: {reason}; expected {expected}")


class ClusterError(RuntimeError):
    """A cluster cannot do the work: it has no workers, or a task fails again and again; the message says what to do."""
