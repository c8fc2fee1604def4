"""Files of users, opened so that none can make a program wait, or read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from gpusoftmax.exceptions import BadFileError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read bytes from; a pipe, on which it would wait, or a device, which may have no end, is refused.

    Raises
    ------
    BadFileError
        It is no regular file.
    OSError
        It does not exist, or may not be read.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller's to close
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise BadFileError(path, reason=f"is {kind}", expected="a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has neither the flag nor pipes in folders


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size
