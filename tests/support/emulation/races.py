"""Accesses to the same byte that nothing puts in order, found while a kernel runs on the CPU.

    checked = Checked(build(text, races=True))
    checked.launch("row_loss", (blocks,), (256,), [scores.ctypes.data, ...])
    assert not checked.races

See races.h for what orders accesses, and for what is not modelled. A race is found whatever the order in which threads
run, as long as they make these accesses.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.emulation.build import Emulated

ADDR2LINE = "addr2line"  # of the binutils, without which the compiler does not work either
GLOBAL = 2**64 - 1
READ, WRITE, ATOMIC, COPIED, BEGINS = 0, 1, 2, 4, 8  # bits of a kind
KINDS = {
    READ: "reads", WRITE: "writes", ATOMIC | READ: "reads a flag", ATOMIC | WRITE: "changes atomically",
    COPIED | READ: "copies from there", COPIED | WRITE: "copies to there",
    BEGINS: "begins before or after the access",
}  # fmt: skip
_SIDE = [(name, "u4") for name in ("thread", "time", "kind", "site")]
RACE = np.dtype([("address", "u8"), ("block", "u8"), ("first", _SIDE), ("second", _SIDE), ("size", "u4"), ("_", "u4")])
MOST = 1 << 16  # that are kept


@dataclass(frozen=True)
class Side:
    """One of the two accesses.

    Attributes
    ----------
    block, thread : int
        Number of the block in the grid, and of the thread in the block.
    kind : int
        A key of KINDS.
    line : str
        File and line of the kernel's text: where the access is, and behind "<" where that function was called.
    """

    block: int
    thread: int
    kind: int
    line: str

    def __str__(self) -> str:
        return f"thread {self.thread} of block {self.block} {KINDS[self.kind]} at {self.line}"


@dataclass(frozen=True)
class Race:
    """Two accesses, the first of which was first by chance.

    Attributes
    ----------
    kernel : str
        Its name.
    address, nbytes : int
        Where: in global memory, or counted from the start of a block's shared memory.
    block : int or None
        The block whose shared memory it is; None for global memory.
    """

    kernel: str
    address: int
    nbytes: int
    block: int | None
    first: Side
    second: Side

    @property
    def lines(self) -> frozenset[str]:
        """Where the two are; one line if it is the same."""
        return frozenset({self.first.line, self.second.line})

    @property
    def writers(self) -> tuple[Side, ...]:
        """The sides that write."""
        return tuple(side for side in (self.first, self.second) if side.kind & WRITE)

    def __str__(self) -> str:
        memory = "global memory" if self.block is None else f"the shared memory of block {self.block}"
        return (
            f"{self.kernel}: {self.nbytes} bytes of {memory} at {self.address:#x}: {self.first}, and {self.second}, "
            "and nothing puts these in order"
        )


class Checked:
    """Kernels that were built with `races`, whose launches are looked at; otherwise as `Emulated`.

    Attributes
    ----------
    races : list of Race
        Of all launches.
    """

    def __init__(self, emulated: Emulated) -> None:
        self._emulated, self.parameters = emulated, emulated.parameters
        self._library = emulated.library
        self._library.races_size.restype = ctypes.c_size_t
        self._library.races_found.restype = ctypes.c_void_p
        self.races: list[Race] = []

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], *rest: Any, **options: Any) -> None:
        """See `Emulated.launch`."""
        self._emulated.launch(name, grid, block, *rest, **options)
        if count := min(self._library.races_size(), MOST):
            raw = ctypes.string_at(self._library.races_found(), count * RACE.itemsize)
            self.races += _races(name, np.frombuffer(raw, RACE), int(np.prod(block)), self._library._name)


def described(races: Iterable[Race]) -> str:
    """Return a line for each pair of places in the text, with the first of their races."""
    found: dict[tuple[Any, ...], list[Race]] = {}
    for race in races:
        found.setdefault((race.kernel, race.lines), []).append(race)
    return "\n".join(f"{some[0]}" + (f" ({len(some)} such)" if len(some) > 1 else "") for some in found.values())


def _races(name: str, found: Any, n_threads: int, library: str) -> list[Race]:
    """Turn what races.h has noted down into races."""
    sites = np.unique(np.concatenate([found["first"]["site"], found["second"]["site"]]))
    lines = dict(zip(sites.tolist(), _lines(library, sites.tolist()), strict=True))

    def side(one: Any) -> Side:
        block, thread = divmod(int(one["thread"]), n_threads)
        return Side(block, thread, int(one["kind"]), lines[int(one["site"])])

    return [
        Race(
            name,
            int(one["address"]),
            int(one["size"]),
            None if one["block"] == GLOBAL else int(one["block"]),
            side(one["first"]),
            side(one["second"]),
        )
        for one in found
    ]


def _lines(library: str, sites: Sequence[int]) -> list[str]:
    """Return file and line of the call before each of these places, and of the calls of functions that were inlined."""
    addresses = [hex(site - 1) for site in sites]
    done = subprocess.run(
        [ADDR2LINE, "-i", "-a", "-e", library, *addresses], capture_output=True, text=True, check=True
    )
    lines: list[list[str]] = []
    for line in done.stdout.splitlines():
        if line.startswith("0x"):
            lines.append([])
        else:
            lines[-1].append(line.rsplit("/", 1)[-1].split(" (")[0])
    return [" < ".join(some) for some in lines]
