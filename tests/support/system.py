"""The module `os` as several operating systems have it, with errors where a test wants them, for atomic writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpusoftmax.files import atomic

SHORT_WRITE = 1100  # bytes that one write takes at most

SYSTEMS: dict[str, dict[str, Any]] = {
    "this one": {},
    "without O_TMPFILE": {"O_TMPFILE": None},
    "without /proc": {"link": FileNotFoundError(errno.ENOENT, "No such file or directory")},
    "Windows": {"name": "nt", "O_TMPFILE": None, "fchmod": None},
}


class System:
    """The module `os` as a system has it, in `files.atomic` or a copy of it; `hear` is told of each call beforehand."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch, module: Any = atomic) -> None:
        self.changes = SYSTEMS[kind]
        self.hear: Callable[..., None] = silent
        self.in_use: dict[int, str] = {}
        monkeypatch.setattr(module, "os", self)
        if os.name == "posix":
            monkeypatch.setattr(module.fcntl, "flock", partial(self.call, "flock", module.fcntl.flock))

    def __getattr__(self, name: str) -> Any:
        value = self.changes.get(name, getattr(os, name))
        if value is None:
            raise AttributeError(name)
        if isinstance(value, OSError):
            value = partial(fail, value)
        return partial(self.call, name, value) if callable(value) else value

    def call(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if name == "close":
            del self.in_use[arguments[0]]
        try:
            self.hear(name, *arguments)
        except OSError:
            if name == "close":
                function(*arguments)  # as Linux does, whatever it reports
            raise
        if self.name == "nt":
            self.refuse_as_windows(name, *arguments)
        if name == "write":
            arguments = arguments[0], arguments[1][:SHORT_WRITE]
        if name == "fsync":
            return None  # no test could tell, and it takes its time
        result = function(*arguments, **options)
        if name == "open":
            self.in_use[result] = str(arguments[0])
        return result

    def refuse_as_windows(self, name: str, *arguments: Any) -> None:
        """Neither rename nor remove what is open, nor open a folder."""
        taken = name in ("unlink", "replace") and str(arguments[0]) in self.in_use.values()
        if taken or (name == "open" and os.path.isdir(arguments[0])):
            raise PermissionError(errno.EACCES, "Permission denied", str(arguments[0]))


def silent(name: str, *arguments: Any) -> None:
    pass


def fail(error: OSError, *arguments: Any, **options: Any) -> None:
    raise error


def failing(*names: str, number: int) -> Callable[..., None]:
    """Hears calls and lets those of these names fail."""

    def hear(name: str, *arguments: Any) -> None:
        if name in names:
            raise OSError(number, os.strerror(number), *map(str, arguments[:1] if name == "open" else ()))

    return hear


def once(name: str, action: Callable[..., None]) -> Callable[..., None]:
    """Hears calls and takes action before the first of this name."""
    pending = [action]

    def hear(heard: str, *arguments: Any) -> None:
        if heard == name and pending:
            pending.pop()(*arguments)

    return hear


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder."""
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}
