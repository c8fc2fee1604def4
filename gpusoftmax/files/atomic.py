"""Files that are either the old or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if os.name == "posix":  # Windows has no such locks, and needs none: it removes no file that somebody has open
    import fcntl

LABEL = 100  # bytes of a file's name in those of its temporaries: a name has 255 at most, and 143 with eCryptfs
UNSUPPORTED = errno.EOPNOTSUPP, errno.ENOTSUP  # two on macOS
# without O_TMPFILE, hard links or /proc, or where they are forbidden; what else these say is met again by name
NO_UNNAMED_FILES = {
    errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EXDEV, *UNSUPPORTED,
}  # fmt: skip
NO_LOCK = {errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOSYS, *UNSUPPORTED}  # held by another, or unknown here
# of Windows, which opens no folder, of one that may not be read, of SMB and the like: PostgreSQL goes on then, too
NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, *UNSUPPORTED}


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path`, or the file that it is a symlink to, by a file with this content.

    Written beside it, flushed to the disk, then renamed over it: a crash at any point leaves the old file, and a failed
    write leaves no stray one. What a killed process leaves, of which there is next to nothing on Linux, the next call
    for the same file removes. The mode is that of the file replaced, or the umask's (a temporary file's own mode, 0600,
    would lock colleagues out). Of several processes that write one file each succeeds, and one of them is the last.

    Raises
    ------
    FileExistsError
        There is something else than a file, such as a folder or a device.
    OSError
        The folder does not exist, is full, or is read-only; the old file is intact, unless it was the rename itself
        that could not be flushed.
    """
    if os.path.islink(path):
        path = Path(os.path.realpath(path))  # a rename would put the file in the link's place
    mode = _mode(path)
    _remove_strays(path)
    if not _replaced_by_unnamed(path, content, mode):
        _replace_by_named(path, content, mode)
    _sync_folder(path.parent)


def _mode(path: Path) -> int | None:
    """The permissions of the file that is to be replaced, if there is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # root could replace /dev/null
        raise FileExistsError(errno.EEXIST, "is no regular file and is not replaced; pass another path", str(path))
    return stat.S_IMODE(mode)


def _remove_strays(path: Path) -> None:
    """Remove temporary files whose writers are dead: those that nobody has locked, or on Windows open."""
    pattern = re.compile(re.escape(_label(path)) + r"[0-9a-f]{16}\.tmp")
    names: list[str] = []
    with suppress(PermissionError):  # to write to a folder one need not be allowed to read it
        names = os.listdir(path.parent)
    for stray in map(path.with_name, filter(pattern.fullmatch, names)):
        with suppress(FileNotFoundError, PermissionError):  # its writer was at its end; it is somebody else's
            _remove_if_abandoned(stray)


def _remove_if_abandoned(stray: Path) -> None:
    if os.name != "posix":
        os.unlink(stray)
        return
    with _opened(stray, os.O_RDWR) as fd:  # NFS gives no lock for a file that is open for reading alone
        if _lock(fd):
            os.unlink(stray)


def _replaced_by_unnamed(path: Path, content: bytes, mode: int | None) -> bool:
    """As `_replace_by_named`, if possible, by a file that has no name until it is whole: Linux drops it if killed."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        with _temporary(path) as temporary, _written(path.parent, os.O_TMPFILE, content, mode) as fd:
            # both arguments, since without them Python calls link, which would link to the link in /proc
            os.link(f"/proc/self/fd/{fd}", temporary, src_dir_fd=fd, follow_symlinks=True)
            os.replace(temporary, path)
    except OSError as error:
        if error.errno in NO_UNNAMED_FILES:
            return False
        raise
    return True


def _replace_by_named(path: Path, content: bytes, mode: int | None) -> None:
    """Write a temporary file and rename it.

    Again, if another process took it for a stray: in the instants before it is locked, and between closing and
    renaming, for Windows renames no open file.
    """
    while True:
        with _temporary(path) as temporary:
            new = os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with _written(temporary, new, content, mode):
                pass
            with suppress(FileNotFoundError):
                os.replace(temporary, path)
                return


def _label(path: Path) -> str:
    """How the names of a file's temporaries begin."""
    return f".{path.name.encode(errors='ignore')[:LABEL].decode(errors='ignore')}."


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that nothing has; if the block fails, nothing has it afterwards."""
    temporary = path.with_name(f"{_label(path)}{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def _written(where: Path, flags: int, content: bytes, mode: int | None) -> Iterator[int]:
    """A new file, locked, with its content on the disk; nobody else reads it before it has its mode."""
    with _opened(where, os.O_RDWR | flags, 0o666 if mode is None else 0o600) as fd:
        _lock(fd)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if mode is not None and os.name == "posix":  # Windows knows read-only alone, and would not replace such a file
            os.fchmod(fd, mode)
        os.fsync(fd)
        yield fd


@contextmanager
def _opened(path: Path, flags: int, mode: int = 0) -> Iterator[int]:
    """A file descriptor; errors of what is done with it, which know its number alone, name the path."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Whether a lock was to be had that lasts until `fd` is closed, which the end of its process does, too."""
    if os.name != "posix":
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCK:
            return False
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk: it is there only with its folder."""
    try:
        with _opened(folder, os.O_RDONLY) as fd:
            os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
