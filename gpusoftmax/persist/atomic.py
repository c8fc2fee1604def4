"""Files that are either the old or the new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by a file with this content.

    Written beside it, flushed to the disk, then renamed over it: a crash at any point leaves the old file, and a failed
    write leaves no stray one. The mode is that of the file replaced, or the umask's (a temporary file's own mode, 0600,
    would lock colleagues out).

    Raises
    ------
    OSError
        The folder does not exist, is full, or is read-only; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, path.stat().st_mode & 0o7777)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself is on disk only with its folder; Windows cannot open one
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
