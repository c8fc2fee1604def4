"""Replays how checkpoints are written up to every point at which the power may fail, as SQLite's crash tests do. POSIX.

    python -m tests.tools.crashes --saves 8

The calls of some saves are recorded. A disk after a crash has all calls up to some point, except that of those that
were not flushed any may be missing: links, renames and removals each as a whole, writes also in part, or as zeros of
the right length. Every such disk has to give the last checkpoint that was complete, or the one under way; and after one
more save that one, and no file besides.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.checkpoints import file as checkpoint_file
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files import atomic
from gpusoftmax.files.atomic import PREVIOUS
from tests.support.system import System

NAME = "run.ckpt"
KINDS = ("this one", "without O_TMPFILE")
# mistakes in atomic.py, each of which the replay has to notice: the text, and what takes its place
MUTANTS = {
    "the file is not flushed": ("        os.fsync(fd)\n        yield fd", "        yield fd"),
    "the folder is not flushed": ("    _sync_folder(path.parent)\n", ""),
    "the last file is removed first": ("        os.replace(path, kept)\n", "        os.unlink(path)\n"),
}
Disk = tuple[tuple[str, bytes], ...]  # the files and what is in them, by name


@dataclass(frozen=True)
class Call:
    """A call that changes the disk: what it does to which file, or what it flushes.

    Attributes
    ----------
    kind : {"write", "names", "flush", "flush names"}
    file : int
        The number of the file, for "write" and "flush".
    start, data : int, bytes
        What is written, and where.
    names : dict
        For "names": what these names stand for from now on, the number of a file or None.
    """

    kind: str
    file: int = -1
    start: int = 0
    data: bytes = b""
    names: dict[str, int | None] = field(default_factory=dict)


class Recorder(System):
    """Records the calls that change a folder; `now` is what its names stand for."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        super().__init__(kind, monkeypatch, module)
        self.calls: list[Call] = []
        self.files: dict[int, int] = {}  # the number of the file by its descriptor
        self.ends: dict[int, int] = {}
        self.now: dict[str, int | None] = {}

    def call(self, name: str, function: Any, *arguments: Any, **options: Any) -> Any:
        result = super().call(name, function, *arguments, **options)
        if name == "open":
            self._open(result, Path(arguments[0]), arguments[1])
        elif name == "write":
            number = self.files[arguments[0]]
            data = bytes(arguments[1][:result])
            self.calls.append(Call("write", number, self.ends[number], data))
            self.ends[number] += result
        elif name == "fsync":
            number = self.files.get(arguments[0], -1)
            self.calls.append(Call("flush names") if number < 0 else Call("flush", number))
        elif name == "link":
            self._rename({Path(arguments[1]).name: self.files[options["src_dir_fd"]]})
        elif name == "replace":
            before, after = (Path(one).name for one in arguments[:2])
            self._rename({after: self.now[before], before: None})
        elif name == "unlink":
            self._rename({Path(arguments[0]).name: None})
        return result

    def _open(self, descriptor: int, path: Path, flags: int) -> None:
        self.files.pop(descriptor, None)
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed and flags & unnamed == unnamed:
            self.files[descriptor] = len(self.ends)
        elif flags & os.O_CREAT:
            self.files[descriptor] = len(self.ends)
            self._rename({path.name: len(self.ends)})
        if descriptor in self.files:
            self.ends[self.files[descriptor]] = 0

    def _rename(self, names: dict[str, int | None]) -> None:
        self.calls.append(Call("names", names=names))
        self.now |= names


def disks(calls: list[Call]) -> Iterator[Disk]:
    """Every disk that a crash after these calls may leave."""
    names, data = _unflushed(calls)
    for made in itertools.product((True, False), repeat=len(names)):
        kept: dict[str, int | None] = {}
        for i, call in enumerate(calls):
            if call.kind == "names" and (i not in names or made[names.index(i)]):
                kept |= call.names
        visible = {name: number for name, number in kept.items() if number is not None}
        open_writes = [i for i in data if calls[i].file in visible.values()]
        for fates in itertools.product(("made", "lost", "torn", "zeros"), repeat=len(open_writes)):
            fate = dict(zip(open_writes, fates, strict=True))
            yield tuple(sorted((name, _content(calls, number, fate)) for name, number in visible.items()))


def _unflushed(calls: list[Call]) -> tuple[list[int], list[int]]:
    """Which calls that change names, and which writes, are not flushed."""
    names: list[int] = []
    data: list[int] = []
    for i, call in enumerate(calls):
        if call.kind == "names":
            names.append(i)
        elif call.kind == "flush names":
            names = []
        elif call.kind == "write":
            data.append(i)
        else:
            data = [j for j in data if calls[j].file != call.file]
    return names, data


def _content(calls: list[Call], number: int, fate: dict[int, str]) -> bytes:
    content = b""
    for i, call in enumerate(calls):
        if call.kind != "write" or call.file != number or fate.get(i) == "lost":
            continue
        part = call.data[: len(call.data) // 2] if fate.get(i) == "torn" else call.data
        part = bytes(len(part)) if fate.get(i) == "zeros" else part
        content = content.ljust(call.start, b"\0")
        content = content[: call.start] + part + content[call.start + len(part) :]
    return content


def tree(number: int) -> Any:
    """What the checkpoint of this number keeps."""
    return {"number": number, "array": np.arange(300.0) + number}


def number_of(path: Path) -> int:
    """The number of the checkpoint that is found at `path`, every number of which is right; 0 if there is none."""
    found = checkpoint_file.read(path)
    if found is None:
        return 0
    number = found[2]["number"]
    np.testing.assert_array_equal(found[2]["array"], tree(number)["array"])
    return int(number)


def recorded(kind: str, saves: int, module: Any, folder: Path) -> tuple[list[Call], list[int]]:
    """The calls of some saves, and after how many calls each was complete."""
    with pytest.MonkeyPatch.context() as patched:
        recorder, complete = Recorder(kind, patched, module), []
        for number in range(1, saves + 1):
            checkpoint_file.write(folder / NAME, {}, tree(number))
            complete.append(len(recorder.calls))
    return recorder.calls, complete


def mutant(name: str) -> Any:
    """A copy of atomic.py with a mistake."""
    old, new = MUTANTS[name]
    source = Path(atomic.__file__).read_text(encoding="utf-8")
    assert source.count(old) >= 1
    module = types.ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), vars(module))
    return module


def run(saves: int, module: Any = atomic) -> tuple[int, int]:
    """Replay some saves; returns how many crashes were looked at, and how many disks these left that differ.

    Raises
    ------
    AssertionError
        A disk gives a checkpoint that is too old, or none, or one more save leaves a file besides.
    BadFileError
        A disk gives no checkpoint, but an error.
    """
    crashes, seen = 0, set[tuple[int, Disk]]()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint_file, "write_atomically", module.write_atomically)
        for kind in KINDS:
            folder = Path(name) / kind.replace("/", "")
            folder.mkdir()
            calls, complete = recorded(kind, saves, module, folder)
            for end in range(len(calls) + 1):
                done = sum(number <= end for number in complete)
                for disk in disks(calls[:end]):
                    crashes += 1
                    if (done, disk) not in seen:
                        seen.add((done, disk))
                        _check(disk, done, Path(name) / "crashed")
    return crashes, len(seen)


def _check(disk: Disk, done: int, folder: Path) -> None:
    """Look at a disk that a crash has left after `done` saves were complete."""
    folder.mkdir()
    for name, content in disk:
        (folder / name).write_bytes(content)
    path = folder / NAME
    assert number_of(path) in (done, done + 1), f"after {done} saves: {[name for name, _ in disk]}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)  # nothing can tell, and it takes its time
        checkpoint_file.write(path, {}, tree(99))
    assert number_of(path) == 99
    assert {one.name for one in folder.iterdir()} <= {NAME, NAME + PREVIOUS}
    for one in folder.iterdir():
        one.unlink()
    folder.rmdir()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=8)
    crashes, different = run(parser.parse_args().saves)
    print(f"{crashes} crashes, {different} different disks: each gives the last whole checkpoint or the next one")
    for name in MUTANTS:
        try:
            run(2, mutant(name))
        except (AssertionError, BadFileError) as error:
            print(f"if {name}: noticed ({type(error).__name__}: {str(error)[:90]})")
        else:
            raise SystemExit(f"if {name}: not noticed")
