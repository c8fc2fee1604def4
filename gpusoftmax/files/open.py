"""Opening users' files so that none can make the program wait, or read forever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from gpusoftmax.exceptions import BadFileError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading bytes. Pipes, on which reading may wait, and devices, which may never end, are refused.

    Raises
    ------
    BadFileError
        It is not a regular file.
    OSError
        It does not exist or cannot be read.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise BadFileError(path, reason=f"is {kind}", expected="a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has neither the flag nor pipes in folders


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size
