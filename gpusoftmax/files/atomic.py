"""Atomic replacement of a file: whatever happens, its old or its new content is there, never a part of it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if os.name == "posix":  # Windows has no such locks and needs none: it does not remove a file that is open
    import fcntl

LABEL = 100  # bytes of a file's name in its temporary files' names: limits are 255 for a name, 143 with eCryptfs
UNSUPPORTED = errno.EOPNOTSUPP, errno.ENOTSUP  # two different numbers on macOS
# O_TMPFILE, hard links or /proc are missing or forbidden. Any other cause of these shows again with a named file
NO_UNNAMED_FILES = {
    errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EXDEV, *UNSUPPORTED,
}  # fmt: skip
NO_LOCK = {errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOSYS, *UNSUPPORTED}  # locked by another, or unsupported
# Windows cannot open folders, some cannot be read, and SMB and the like do not flush them: PostgreSQL goes on, too
NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, *UNSUPPORTED}
PREVIOUS = ".previous"  # what the name of the file that was replaced gets at its end, if it is kept


# bytes, a list of buffers, or a function that returns its buffers one after the other, and may be called twice
Pieces = Sequence[Any] | Callable[[], Iterable[Any]]
Content = bytes | Pieces


def previous_of(path: Path) -> Path:
    """Return where `write_atomically` keeps the file that it replaced."""
    if os.path.islink(path):
        path = Path(os.path.realpath(path))
    return path.with_name(path.name + PREVIOUS)


def write_atomically(path: Path, content: Content, *, keep_previous: bool = False) -> None:
    """Replace `path`, or the file that it links to, by a file with this content.

    The new file is written next to the old one, flushed to disk and renamed over it. A crash at any point leaves the
    old file intact, and a failed write leaves no temporary file. A killed process may leave one (rarely on Linux); the
    next call for the same file removes it. The mode is that of the replaced file, or else follows the umask (a
    temporary file's own mode, 0600, would lock colleagues out). If several processes write the same file, all succeed,
    and the last one wins.

    With `keep_previous`, the replaced file is first renamed to `previous_of(path)`, in place of the one there. A crash
    between the two renames leaves no file at `path`, but this one.

    Raises
    ------
    FileExistsError
        `path` is not a regular file but, for example, a folder or a device.
    OSError
        The folder does not exist, its disk is full, or it is read-only. The old file is intact, unless only flushing
        the rename failed.
    """
    if os.path.islink(path):
        path = Path(os.path.realpath(path))  # a rename would replace the link itself
    mode = _mode(path)
    _remove_strays(path)
    pieces = [content] if isinstance(content, bytes) else content
    kept = previous_of(path) if keep_previous and mode is not None else None
    if not _replaced_by_unnamed(path, pieces, mode, kept):
        _replace_by_named(path, pieces, mode, kept)
    _sync_folder(path.parent)


def _mode(path: Path) -> int | None:
    """Return the permissions of the file to be replaced, or None if there is no such file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # root could replace /dev/null
        raise FileExistsError(errno.EEXIST, "is not a regular file and is not replaced; pass another path", str(path))
    return stat.S_IMODE(mode)


def _remove_strays(path: Path) -> None:
    """Remove temporary files whose writers have died: those that no process has locked (on Windows: has open)."""
    pattern = re.compile(re.escape(_label(path)) + r"[0-9a-f]{16}\.tmp")
    names: list[str] = []
    with suppress(PermissionError):  # a folder may be writable without being readable
        names = os.listdir(path.parent)
    for stray in map(path.with_name, filter(pattern.fullmatch, names)):
        with suppress(FileNotFoundError, PermissionError):  # its writer has just renamed it; another user owns it
            _remove_if_abandoned(stray)


def _remove_if_abandoned(stray: Path) -> None:
    if os.name != "posix":
        os.unlink(stray)
        return
    with _opened(stray, os.O_RDWR) as fd:  # NFS does not lock a file that is open for reading only
        if _lock(fd):
            os.unlink(stray)


def _replaced_by_unnamed(path: Path, content: Pieces, mode: int | None, kept: Path | None) -> bool:
    """Replace `path` by a file that has no name until it is complete; return False where that is not possible.

    Linux drops such a file if the process is killed.
    """
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        with _temporary(path) as temporary, _written(path.parent, os.O_TMPFILE, content, mode) as fd:
            # with these two arguments Python calls linkat, which follows the link in /proc; link would not
            os.link(f"/proc/self/fd/{fd}", temporary, src_dir_fd=fd, follow_symlinks=True)
            _put_in_place(temporary, path, kept)
    except OSError as error:
        if error.errno in NO_UNNAMED_FILES:
            return False
        raise
    return True


def _replace_by_named(path: Path, content: Pieces, mode: int | None, kept: Path | None) -> None:
    """Write a temporary file and rename it to `path`.

    Start again if another process has removed the file as abandoned. That can happen just before it is locked, and
    between closing and renaming it (it is closed first because Windows does not rename an open file).
    """
    while True:
        with _temporary(path) as temporary:
            new = os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with _written(temporary, new, content, mode):
                pass
            with suppress(FileNotFoundError):
                _put_in_place(temporary, path, kept)
                return


def _put_in_place(temporary: Path, path: Path, kept: Path | None) -> None:
    """Rename the temporary file to `path`, after `path` to `kept`; if that fails, `path` gets its file back."""
    if kept is None:
        os.replace(temporary, path)
        return
    with suppress(FileNotFoundError):  # it was removed meanwhile
        os.replace(path, kept)
    try:
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.replace(kept, path)
        raise


def _label(path: Path) -> str:
    """Return how the names of a file's temporary files begin."""
    return f".{path.name.encode(errors='ignore')[:LABEL].decode(errors='ignore')}."


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield an unused name next to `path`; if the block fails, remove the file of that name."""
    temporary = path.with_name(f"{_label(path)}{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def _written(where: Path, flags: int, content: Pieces, mode: int | None) -> Iterator[int]:
    """Create a file, lock it, and write its content to disk; nobody else can read it before it has its mode."""
    with _opened(where, os.O_RDWR | flags, 0o666 if mode is None else 0o600) as fd:
        _lock(fd)
        for piece in content() if callable(content) else content:
            rest = memoryview(piece).cast("B")
            while rest:
                rest = rest[os.write(fd, rest) :]
        if mode is not None and os.name == "posix":  # Windows only has read-only, and would not replace such a file
            os.fchmod(fd, mode)
        os.fsync(fd)
        yield fd


@contextmanager
def _opened(path: Path, flags: int, mode: int = 0) -> Iterator[int]:
    """Open a file descriptor, and put the path into errors raised in the block, which know only the number."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Try to lock a file until `fd` is closed, at the latest when the process ends; return whether that succeeded."""
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
    """Flush a folder to disk; without that, a rename in it may be lost."""
    try:
        with _opened(folder, os.O_RDONLY) as fd:
            os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
