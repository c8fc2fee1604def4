"""The file of a checkpoint: what comes back, errors at every call, crashes at every point, and damaged files."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpusoftmax.checkpoints.file import CHECKPOINT, RETRIES, read, read_one, write
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.files.tensors import pieces
from tests.support.hostile import assert_refused
from tests.support.system import SYSTEMS, System, files, silent
from tests.tools import crashes
from tests.tools.crashes import number_of, tree

RUN = {"C": 0.1, "X": "abc"}
OURS = {"run.ckpt", "run.ckpt.previous"}
posix = pytest.mark.skipif(os.name != "posix", reason="the replay is of POSIX's calls")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to write."""
    return tmp_path / "run.ckpt"


def written(path: Path, *numbers: int) -> Path:
    for number in numbers:
        write(path, RUN, tree(number))
    return path


# what comes back


def test_a_tree_comes_back_with_types_shapes_and_bits(path: Path) -> None:
    given: dict[str, Any] = {
        "a": {"b": {"F32": np.float32([[1.5, np.nan], [-0.0, np.inf]]), "I64": np.arange(3)}, "c": [1, "x", None]},
        "empty": np.empty((0, 3)),
        "one": np.array(2.5),
        "numbers": {"pi": 3.141592653589793, "inf": float("inf"), "whole": 2**62, "flag": True, "none": None},
        "flags": np.array([True, False]),
        "view": np.arange(12.0).reshape(3, 4)[:, ::2],
    }
    write(path, RUN, given)
    found = read(path)
    assert found is not None
    where, run, back = found
    assert (where, run) == (path, RUN)
    assert back.pop("flags").tolist() == [1, 0]  # the reader knows which are flags
    del given["flags"]
    np.testing.assert_equal(back, given)
    assert back["a"]["b"]["F32"].tobytes() == given["a"]["b"]["F32"].tobytes()


def test_the_file_is_one_of_safetensors(path: Path) -> None:
    np.testing.assert_array_equal(load_file(written(path, 1))["array"], tree(1)["array"])


def test_without_files_there_is_nothing(path: Path) -> None:
    assert read(path) is None


def test_the_last_two_are_kept(path: Path) -> None:
    written(path, 1, 2, 3)
    assert (number_of(path), number_of(path.with_name("run.ckpt.previous"))) == (3, 2)
    assert set(files(path.parent)) == OURS


def test_a_link_stays_one_and_both_files_are_beside_its_target(path: Path) -> None:
    folder = path.parent / "elsewhere"
    folder.mkdir()
    path.symlink_to("elsewhere/target")
    written(path, 1, 2)
    assert path.is_symlink()
    assert {one.name for one in folder.iterdir()} == {"target", "target.previous"}
    (folder / "target").unlink()
    assert number_of(path) == 1


# errors while it is written

HARMLESS = ("close", "unlink", "listdir")  # calls that need no disk or memory, or need not succeed


def attempts(
    system: System, folder: Path, failure: Callable[[str, int], BaseException | None]
) -> Iterator[tuple[Path, BaseException | None]]:
    """Write the third checkpoint over and over, until no call fails; each time where, and what was raised.

    `failure` is what a call of this name raises, given the number of calls from the one whose turn it is to this one.
    """
    for at in itertools.count():
        (folder / str(at)).mkdir()
        path, calls, raised = written(folder / str(at) / "run.ckpt", 1, 2), list[str](), None

        def hear(name: str, *arguments: Any, at: int = at, calls: list[str] = calls) -> None:
            calls.append(name)
            if (error := failure(name, len(calls) - 1 - at)) is not None:
                raise error

        system.hear = hear
        try:
            write(path, RUN, tree(3))
        except (OSError, MemoryError) as error:
            raised = error
        system.hear = silent
        assert set(files(path.parent)) <= OURS
        yield path, raised
        if len(calls) <= at:
            break


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full disk", "I/O error"])
def test_an_error_at_any_call_leaves_the_last_checkpoint_and_no_other_file(
    number: int, lasting: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(name: str, since: int) -> BaseException | None:
        fails = since == 0 or (lasting and since > 0 and name not in HARMLESS)
        return OSError(number, os.strerror(number)) if fails else None

    messages = []
    for path, raised in attempts(System(kind, monkeypatch), tmp_path, failure):
        assert number_of(path) in (2, 3) if raised else number_of(path) == 3
        messages += [(str(path), str(raised), getattr(raised, "errno", 0))] if raised else []
    assert len(messages) >= 5
    for name, message, code in messages:
        assert code == number
        assert name in message
        assert "run the same command again" in message


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_lack_of_memory_at_any_call_leaves_a_checkpoint_and_no_other_file(
    lasting: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(name: str, since: int) -> BaseException | None:
        return MemoryError() if name not in HARMLESS and (since == 0 or (lasting and since > 0)) else None

    found = [number_of(path) for path, _ in attempts(System(kind, monkeypatch), tmp_path, failure)]
    assert set(found[:-1]) <= {2, 3}
    assert found[-1] == 3


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_call_that_a_signal_interrupts_is_made_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(name: str, since: int) -> BaseException | None:
        return InterruptedError(errno.EINTR, os.strerror(errno.EINTR)) if since == 0 else None

    for path, raised in attempts(System(kind, monkeypatch), tmp_path, failure):
        assert raised is None
        assert number_of(path) == 3


def test_calls_that_are_always_interrupted_are_an_error_in_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, 1)
    tries = list[str]()

    def hear(name: str, *arguments: Any) -> None:
        if name == "write":
            tries.append(name)
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    System("this one", monkeypatch).hear = hear
    with pytest.raises(InterruptedError, match="the one before is intact"):
        write(path, RUN, tree(2))
    assert len(tries) == RETRIES
    assert number_of(path) == 1


# crashes


@posix
def test_every_crash_leaves_the_last_checkpoint_or_the_next() -> None:
    _, different = crashes.run(saves=4)
    assert different >= 500


@posix
@pytest.mark.parametrize("name", crashes.MUTANTS)
def test_the_replay_of_crashes_notices_a_mistake(name: str) -> None:
    with pytest.raises((AssertionError, BadFileError)):
        crashes.run(2, crashes.mutant(name))


# damage


def test_of_a_damaged_checkpoint_the_one_before_is_read_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert number_of(path) == 1
    assert "run.ckpt, header: " in caplog.text
    assert "run.ckpt.previous, the checkpoint before it" in caplog.text


def test_of_a_missing_checkpoint_the_one_before_is_read_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, 1, 2).unlink()
    with caplog.at_level(logging.WARNING):
        assert number_of(path) == 1
    assert "run.ckpt is missing; continuing from" in caplog.text


def test_of_a_checkpoint_that_the_disk_cannot_read_the_one_before_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, 1, 2)
    own = type(CHECKPOINT).read

    def fail(layout: Any, asked: Path) -> Any:
        if asked == path:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return own(layout, asked)

    monkeypatch.setattr(type(CHECKPOINT), "read", fail)
    assert number_of(path) == 1


@pytest.mark.parametrize("previous", ["damaged", "missing"])
def test_a_damaged_checkpoint_without_another_is_named(previous: str, path: Path) -> None:
    written(path, 1, 2)
    path.write_bytes(b"x" * 100)
    if previous == "damaged":
        path.with_name("run.ckpt.previous").write_bytes(b"")
    else:
        path.with_name("run.ckpt.previous").unlink()
    with pytest.raises(BadFileError, match=r"run\.ckpt, header: .*delete it and run.ckpt.previous to start anew"):
        read(path)


def forged(path: Path, values: str, tensors: dict[str, Any] | None = None, run: str = "{}") -> Path:
    texts = {"format": CHECKPOINT.format, "format_version": "1", "run": run, "values": values}
    path.write_bytes(b"".join(map(bytes, pieces(texts, tensors or {}))))
    return path


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ('{"a": 1, "a/b": 2}', "a/b is below a value"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ("[1]", "the metadata are no objects"),
        ("[" * 100_000, "not JSON"),
        ('{"x": ' + "1" * 1000 + "}", "1000 digits"),
        ("{", "not JSON"),
    ],
)
def test_forged_values_are_refused(values: str, reason: str, path: Path) -> None:
    assert_refused(read_one, forged(path, values), reason)


def test_a_tensor_below_a_value_is_refused(path: Path) -> None:
    with pytest.raises(BadFileError, match="a/b is below a value"):
        read(forged(path, '{"a": 1}', {"a/b": np.zeros(2)}))


def test_every_changed_byte_is_noticed(path: Path) -> None:
    content = written(path, 1).read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(BadFileError):
            read(path)
