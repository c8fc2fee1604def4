"""How tests offer hostile files to a loader: what it may do, and how much time and memory it may take."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpusoftmax.exceptions import BadFileError

SECONDS = 1.0  # of processor time, so that other work on the machine does not count
BYTES = 64 << 20

_events: list[tuple[str, tuple[Any, ...]]] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None:
        _events.append((event, arguments))


sys.addaudithook(_listen)  # for good: Python has no way to take one away


@contextmanager
def audited() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """Every audit event (PEP 578) of the block, as (name, arguments)."""
    global _events
    _events = found = []
    try:
        yield found
    finally:
        _events = None


FORBIDDEN = ("import", "exec", "os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pickle.", "marshal.", "urllib.")


def forbidden(events: list[tuple[str, tuple[Any, ...]]], path: Path) -> list[str]:
    """What no load may do: import, execute, start a process, look elsewhere, or open `path` twice or another file."""
    # (name, whether by os.open: `open` with an opener tells of both; a number is a descriptor that is open already)
    opened = [(str(a[0]), a[1] is None) for name, a in events if name == "open" and not isinstance(a[0], int)]
    wrong = [name for name, _ in events if name.startswith(FORBIDDEN)]
    wrong += [f"open {name}" for name, _ in opened if name != str(path)]
    return wrong + [f"open {name} again" for name, by_os in set(opened) if opened.count((name, by_os)) > 1]


def assert_refused(load: Callable[[Path], Any], path: Path, match: str = "") -> BadFileError:
    """`load` raises BadFileError within a second and 64 MB, having opened nothing but `path`, and that once."""
    # A reader that makes many objects sets off Python's garbage collector, which looks at every object that is alive.
    # Those of some 10,000 tests took it a second: they are not the reader's cost. conftest.py froze them once, here go
    # those that came since; to unfreeze would give all of them back.
    gc.collect()
    gc.freeze()
    started = time.process_time()
    with audited() as events, pytest.raises(BadFileError, match=match or None) as caught:
        load(path)
    if sys.gettrace() is None:  # under a tracer, as coverage's, the time is not the reader's own
        assert time.process_time() - started < SECONDS
    assert forbidden(events, path) == []
    tracemalloc.start()
    try:
        with pytest.raises(BadFileError):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BYTES
    return caught.value
