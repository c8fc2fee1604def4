"""Atomic writes, with an error or the end of the process at every system call."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpusoftmax.files import atomic
from gpusoftmax.files.atomic import write_atomically
from tests.support.system import SYSTEMS, System, failing, files, once, silent

OLD, NEW, NEWER = b"old", b"new" * 1000, b"newer" * 1000
posix = pytest.mark.skipif(os.name != "posix", reason="modes, locks and fork are POSIX's")

ON_POSIX = [kind for kind in SYSTEMS if kind != "Windows"]
BY_NAME = [kind for kind in SYSTEMS if kind != "this one"]
UNNAMED = hasattr(os, "O_TMPFILE")  # so that "this one" drops what a killed process has begun


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> System:
    """Each system, in turn."""
    return System(request.param, monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to write."""
    return tmp_path / "model"


def folder_with(content: dict[str, bytes], folder: Path) -> Path:
    """A new folder with these files."""
    folder.mkdir()
    for name, each in content.items():
        (folder / name).write_bytes(each)
    return folder


def leave_stray(path: Path) -> Path:
    """What a killed writer of `path` left."""
    stray = path.with_name(f"{atomic._label(path)}{'0' * 16}.tmp")
    stray.write_bytes(b"half")
    return stray


# errors


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full disk", "I/O error"])
@pytest.mark.parametrize("old", [{}, {"model": OLD}], ids=["new", "replaced"])
def test_an_error_at_any_call_leaves_the_old_file_and_no_other(
    old: dict[str, bytes], number: int, lasting: bool, system: System, tmp_path: Path
) -> None:
    for at in itertools.count(1):
        path = folder_with(old, tmp_path / str(at)) / "model"
        stray = leave_stray(path)
        calls: list[str] = []

        def hear(name: str, *arguments: Any, at: int = at, calls: list[str] = calls) -> None:
            calls.append(name)
            still = lasting and len(calls) > at and name not in ("close", "unlink")  # which need no disk
            if len(calls) == at or still:
                raise OSError(number, os.strerror(number))

        system.hear = hear
        raised = None
        try:
            write_atomically(path, NEW)
        except OSError as error:
            raised = error.errno
        assert raised == (number if len(calls) >= at else None)
        stray.unlink(missing_ok=True)  # its removal may have been what failed
        assert files(path.parent) == ({"model": NEW} if "replace" in calls[: at - 1] else old)
        if raised is None:
            break  # each call has failed once
    assert {"open", "write", "fsync", "replace", "close"} <= set(calls)
    assert calls.count("write") % 3 == 0


def test_an_error_of_a_descriptor_names_the_folder(system: System, path: Path) -> None:
    system.hear = failing("write", number=errno.ENOSPC)
    with pytest.raises(OSError, match=f"No space left on device: '{path.parent}"):
        write_atomically(path, NEW)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_is_not_to_be_written_is_named(number: int, system: System, path: Path) -> None:
    path.write_bytes(OLD)
    system.hear = failing("open", number=number)
    with pytest.raises(OSError, match=f"'{path.parent}"):
        write_atomically(path, NEW)
    assert files(path.parent) == {"model": OLD}


def test_a_folder_that_is_not_there_is_named(system: System, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "model", NEW)


def test_a_rename_that_fails_leaves_the_old_file_and_no_other(system: System, path: Path) -> None:
    path.write_bytes(OLD)
    system.hear = failing("replace", number=errno.EACCES)  # taken for a system without unnamed files
    with pytest.raises(PermissionError):
        write_atomically(path, NEW)
    assert files(path.parent) == {"model": OLD}


@pytest.mark.parametrize("at", ["open", "write", "fsync", "replace"])
def test_ctrl_c_leaves_the_old_file_and_no_other(at: str, system: System, path: Path) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    path.write_bytes(OLD)
    system.hear = once(at, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, NEW)
    assert files(path.parent) == {"model": OLD}


@posix
@pytest.mark.parametrize("kind", ["this one", "without O_TMPFILE"])
@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_flushed_is_an_error_unless_none_can_be(
    number: int, raised: bool, kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(kind, monkeypatch)
    # the last fsync is the folder's: the first is before the rename
    system.hear = once("replace", lambda *names: setattr(system, "hear", failing("fsync", number=number)))
    with pytest.raises(OSError, match=f"'{path.parent}'") if raised else nullcontext():
        write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW}


@posix
def test_what_is_no_file_is_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FileExistsError, match="not a regular file and is not replaced; pass another path"):
        write_atomically(path, NEW)
    assert path.is_fifo()


def test_a_folder_is_not_replaced(system: System, path: Path) -> None:
    path.mkdir()
    with pytest.raises(FileExistsError, match=str(path)):
        write_atomically(path, NEW)
    assert list(path.parent.iterdir()) == [path]


# the end of the process


def forked(action: Callable[[], None]) -> int:
    """How a child ends that takes an action: 0, or minus a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process wait; the child has none
        child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@posix
@pytest.mark.parametrize("kind", ON_POSIX)
@pytest.mark.parametrize("old", [{}, {"model": OLD}], ids=["new", "replaced"])
def test_a_process_killed_at_any_call_leaves_one_whole_file_and_no_other_once_it_is_saved_again(
    old: dict[str, bytes], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(kind, monkeypatch)
    calls: list[str] = []
    system.hear = lambda name, *arguments: calls.append(name)
    write_atomically(folder_with(old, tmp_path / "to count") / "model", NEW)
    left = []
    for at, call in enumerate(calls):
        path = folder_with(old, tmp_path / str(at)) / "model"
        made = itertools.count()

        def hear(name: str, *arguments: Any, at: int = at, made: Any = made) -> None:
            if next(made) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        system.hear = hear
        assert forked(partial(write_atomically, path, NEW)) == -signal.SIGKILL
        found = files(path.parent)
        assert found.pop("model", None) == (NEW if "replace" in calls[:at] else old.get("model"))
        left += [call] * len(found)
        system.hear = silent
        write_atomically(path, NEWER)
        assert files(path.parent) == {"model": NEWER}
    if kind == "this one" and UNNAMED:
        assert left == ["replace"]  # the file has its first name by then, and not its last


@pytest.mark.slow
@posix
@pytest.mark.parametrize("kind", ON_POSIX)
def test_processes_that_write_one_file_all_succeed(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    System(kind, monkeypatch)
    contents = [bytes([65 + i]) * 5000 for i in range(4)]

    def write_often(content: bytes) -> None:
        for _ in range(30):
            write_atomically(path, content)
            if path.read_bytes() not in contents:
                os._exit(2)

    def all_at_once() -> None:
        children = []
        for content in contents:
            if (child := os.fork()) == 0:
                os._exit(forked(partial(write_often, content)))
            children.append(child)
        os._exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))

    assert forked(all_at_once) == 0
    assert path.read_bytes() in contents
    assert list(path.parent.iterdir()) == [path]


# strays


@pytest.mark.parametrize(
    ("kind", "call"), [*itertools.product(SYSTEMS, ["write", "fsync"]), *([("this one", "replace")] if UNNAMED else [])]
)
def test_a_file_that_another_write_is_at_work_on_stays(
    kind: str, call: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(kind, monkeypatch)
    gone: list[Path] = []

    def write_another(*arguments: Any) -> None:
        there = set(path.parent.iterdir())
        write_atomically(path, NEWER)
        gone.extend(there - set(path.parent.iterdir()))

    system.hear = once(call, write_another)
    write_atomically(path, NEW)
    assert gone == []
    assert files(path.parent) == {"model": NEW}


@pytest.mark.parametrize(("kind", "call"), [*itertools.product(BY_NAME, ["replace"]), ("without O_TMPFILE", "flock")])
def test_a_file_that_another_write_took_for_a_stray_is_written_again(
    kind: str, call: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(kind, monkeypatch)
    removed = []

    def remove(*arguments: Any) -> None:
        removed.extend(path.parent.iterdir())
        for stray in removed:
            stray.unlink()

    system.hear = once(call, remove)
    write_atomically(path, NEW)
    assert len(removed) == 1
    assert files(path.parent) == {"model": NEW}


def test_a_stray_is_removed(system: System, path: Path) -> None:
    leave_stray(path)
    write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW}


@pytest.mark.parametrize(
    "name",
    [
        ".model.0000.tmp",
        ".model.zzzzzzzzzzzzzzzz.tmp",
        ".other.0000000000000000.tmp",
        "model.0000000000000000.tmp",
        ".model.x.0000000000000000.tmp",
    ],
)
def test_other_files_stay(name: str, system: System, path: Path) -> None:
    path.with_name(name).write_bytes(b"mine")
    write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW, name: b"mine"}


@posix
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_without_locks_nothing_is_taken_for_a_stray(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    System("this one", monkeypatch).hear = failing("flock", number=number)
    stray = leave_stray(path)
    write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW, stray.name: b"half"}


def test_a_stray_of_somebody_else_is_left_to_them(system: System, path: Path) -> None:
    stray = leave_stray(path)

    def hear(name: str, *arguments: Any) -> None:
        if name in ("open", "unlink") and arguments[0] == stray:
            raise PermissionError(errno.EACCES, "Permission denied", str(stray))

    system.hear = hear
    write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW, stray.name: b"half"}


def test_a_folder_that_may_not_be_listed_can_be_written_to(system: System, path: Path) -> None:
    system.hear = failing("listdir", number=errno.EACCES)
    write_atomically(path, NEW)
    assert files(path.parent) == {"model": NEW}


# what the new file has of the old one


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(umask: int, mode: int, path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(path, NEW)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == mode


@posix
@pytest.mark.parametrize("kind", ["this one", "without O_TMPFILE"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o444])
def test_a_replaced_file_keeps_its_mode(mode: int, kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(OLD)
    path.chmod(mode)
    System(kind, monkeypatch)
    write_atomically(path, NEW)
    assert path.stat().st_mode & 0o7777 == mode


@posix
def test_nobody_else_reads_a_secret_file_while_it_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    system = System("without O_TMPFILE", monkeypatch)
    system.hear = once("write", lambda fd, content: modes.append(os.fstat(fd).st_mode & 0o77))
    path.write_bytes(OLD)
    path.chmod(0o600)
    write_atomically(path, NEW)
    assert modes == [0]


@posix
@pytest.mark.parametrize("old", [{}, {"target": OLD}], ids=["dangling", "to a file"])
def test_a_symlink_stays_one_and_its_target_is_written(old: dict[str, bytes], system: System, path: Path) -> None:
    folder = path.parent / "elsewhere"
    folder.mkdir()
    for name, content in old.items():
        (folder / name).write_bytes(content)
    path.symlink_to("link")
    path.with_name("link").symlink_to("elsewhere/target")
    write_atomically(path, NEW)
    assert (os.readlink(path), os.readlink(path.with_name("link"))) == ("link", "elsewhere/target")
    assert files(folder) == {"target": NEW}


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "x" * 99 + "ä" * 50, "with space, and ü.bin"])
def test_a_long_name_has_temporaries_too(name: str, system: System, tmp_path: Path) -> None:
    leave_stray(tmp_path / name)
    write_atomically(tmp_path / name, NEW)
    assert files(tmp_path) == {name: NEW}


def test_a_name_that_is_no_text_will_do(system: System, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.model")
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW


def test_a_relative_path_will_do(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically(Path("model"), NEW)
    assert files(tmp_path) == {"model": NEW}


def test_nothing_can_be_written(system: System, path: Path) -> None:
    write_atomically(path, b"")
    assert files(path.parent) == {"model": b""}
