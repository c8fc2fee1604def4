"""What a kernel asks of memory, counted while it runs on the CPU.

    watched = Watched(build(text, count=True))
    watched.launch("row_loss", (blocks,), (256,), [scores.ctypes.data, ...])
    traffic = watched.traffic(scores=(scores.ctypes.data, scores.nbytes), ...)
    traffic.array("scores").read.sectors_per_request

Accesses become requests as on a GPU: lanes of a warp that are at the same place of the code at the same time. "The same
time" is counted: the k-th time that a lane is there belongs to the k-th time of the others. Where lanes go different
ways through a loop, this pairs visits that a GPU may not pair.

A warp's request moves whole sectors of 32 bytes between a multiprocessor and the L2 cache, however few bytes of them it
needs. In shared memory it takes a wavefront for 32 different banks of 4 bytes: for 8 bytes a lane one for each half of
the warp, for 16 bytes one for each quarter, and more if lanes need different words of the same bank.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.emulation.build import Emulated

Array = np.ndarray[Any, Any]

WARP, SECTOR, WORD, BANKS, SEGMENT = 32, 32, 4, 32, 16
READ, WRITE, BARRIER, SHUFFLE = range(4)
GLOBAL, SHARED, _, PEER = range(4)
EVENT = np.dtype(
    [("address", "u8"), ("site", "u8"), *((name, "u4") for name in ("size", "block", "thread", "kind", "space", "_"))]
)


@dataclass(frozen=True)
class Access:
    """Requests of one kind: reads or writes.

    Attributes
    ----------
    requests : int
        How many there are: each is of a warp.
    nbytes : int
        Bytes, each once a request: lanes that read the same address share it.
    distinct : int
        Bytes, each once a launch: what a perfect cache would move.
    sectors, ideal_sectors : int
        What all requests touch, and the fewest that hold as many bytes.
    lanes : int
        That took part, of all requests.
    """

    requests: int
    nbytes: int
    distinct: int
    sectors: int
    ideal_sectors: int
    lanes: int

    @property
    def sectors_per_request(self) -> float:
        """Sectors that a warp's request touches."""
        return self.sectors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class ArrayTraffic:
    """What was read from an array of global memory, and written to it."""

    read: Access
    write: Access


@dataclass(frozen=True)
class SharedTraffic:
    """Requests of shared memory, reads and writes together.

    Attributes
    ----------
    wavefronts, ideal_wavefronts : int
        What they take, and what they would take if no two words of a wavefront were in one bank.
    """

    requests: int
    wavefronts: int
    ideal_wavefronts: int
    lanes: int

    @property
    def conflicts(self) -> int:
        """Wavefronts that banks with two words cost."""
        return self.wavefronts - self.ideal_wavefronts


@dataclass(frozen=True)
class Traffic:
    """What launches did.

    Attributes
    ----------
    arrays : dict
        By the names that were given.
    peers : Access
        Stores to the shared memory of other blocks of a cluster.
    barriers, shuffles : int
        How often blocks and warps meet.
    active_lanes : float
        Mean lanes of all requests and shuffles of warps.
    """

    arrays: dict[str, ArrayTraffic]
    shared: SharedTraffic
    peers: Access
    barriers: int
    shuffles: int
    active_lanes: float

    @property
    def read(self) -> int:
        """Bytes that were read from global memory."""
        return sum(array.read.nbytes for array in self.arrays.values())

    @property
    def written(self) -> int:
        """Bytes that were written to global memory."""
        return sum(array.write.nbytes for array in self.arrays.values())


class Watched:
    """Kernels that were built with `count`, whose launches are recorded; otherwise as `Emulated`."""

    def __init__(self, emulated: Emulated) -> None:
        self._emulated, self.parameters = emulated, emulated.parameters
        library = emulated.library
        library.traffic_size.restype = ctypes.c_size_t
        library.traffic_events.restype = ctypes.c_void_p
        self._library = library
        self.launches: list[Array] = []  # the events of each

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], *rest: Any, **options: Any) -> None:
        """See `Emulated.launch`."""
        self._library.traffic_forget()
        self._emulated.launch(name, grid, block, *rest, **options)
        count = self._library.traffic_size()
        if count == ctypes.c_size_t(-1).value:
            raise MemoryError("the events of a launch do not fit into memory")
        raw = ctypes.string_at(self._library.traffic_events(), count * EVENT.itemsize) if count else b""
        self.launches.append(np.frombuffer(raw, EVENT))

    def traffic(self, **arrays: tuple[int, int]) -> Traffic:
        """Sum up all launches; `arrays` has address and bytes of each array of global memory.

        Raises
        ------
        ValueError
            An access is to none of them. Whole segments of 16 bytes belong to the array that has a part of them.
        """
        return summed(self.launches, arrays)


def summed(launches: Sequence[Array], arrays: dict[str, tuple[int, int]]) -> Traffic:
    """Sum up the events of launches; see `Watched.traffic`."""
    requests = np.concatenate([_requests(events, number) for number, events in enumerate(launches)])
    memory = requests[requests["kind"] <= WRITE]
    in_global, in_shared = memory[memory["space"] == GLOBAL], memory[memory["space"] == SHARED]
    found, known = {}, np.zeros(len(in_global), bool)
    for name, (start, nbytes) in arrays.items():
        first, end = start // SEGMENT * SEGMENT, -(-(start + nbytes) // SEGMENT) * SEGMENT
        here = (in_global["address"] >= first) & (in_global["address"] + in_global["size"] <= end) & ~known
        known |= here
        mine = in_global[here]
        found[name] = ArrayTraffic(_access(mine[mine["kind"] == READ]), _access(mine[mine["kind"] == WRITE]))
    if not known.all():
        raise ValueError(f"{int((~known).sum())} accesses to none of the arrays, such as {in_global[~known][0]}")
    shuffles, barriers = requests[requests["kind"] == SHUFFLE], requests[requests["kind"] == BARRIER]
    together = np.concatenate([memory, shuffles])
    return Traffic(
        found,
        _shared(in_shared),
        _access(memory[memory["space"] == PEER]),
        len(_distinct(barriers["launch"], barriers["block"], barriers["site"], barriers["visit"])[0]),
        len(_distinct(shuffles["request"])[0]),
        len(together) / max(1, len(_distinct(together["request"])[0])),
    )


def _requests(events: Array, launch: int) -> Array:
    """Add to the events of a launch which request of a warp each belongs to."""
    more = [("launch", "u8"), ("visit", "u8"), ("request", "u8")]
    found = np.zeros(len(events), [*EVENT.descr, *more])
    for name in EVENT.names or ():
        found[name] = events[name]
    found["launch"] = launch
    found["visit"] = _counted(events["block"], events["thread"], events["site"], events["kind"])
    warp = events["thread"] // WARP
    found["request"] = _numbered(events["block"], warp, events["site"], events["kind"], found["visit"]) + (launch << 40)
    return found


def _numbered(*columns: Array) -> Array:
    """Number rows so that equal ones have one number."""
    order = np.lexsort(columns)
    result = np.empty(len(order), np.uint64)
    result[order] = np.cumsum(_starts(order, columns)) - 1
    return result


def _counted(*columns: Array) -> Array:
    """Number rows that are equal 0, 1, 2, ... in their order."""
    order = np.lexsort(columns)
    here = np.arange(len(order))
    result = np.empty(len(order), np.uint64)
    result[order] = here - np.maximum.accumulate(np.where(_starts(order, columns), here, 0))
    return result


def _distinct(*columns: Array) -> tuple[Array, ...]:
    """Return each row once, sorted by the last column, then by the one before it, ..."""
    order = np.lexsort(columns)
    kept = order[_starts(order, columns)]
    return tuple(column[kept] for column in columns)


def _starts(order: Array, columns: Sequence[Array]) -> Array:
    """Return which rows, put in order, differ from the one before."""
    starts = np.ones(len(order), bool)
    for i, column in enumerate(columns):
        there = column[order]
        starts[1:] = (there[1:] != there[:-1]) | (starts[1:] if i else False)
    return starts


def _pieces(events: Array, size: int, *columns: Array) -> tuple[Array, ...]:
    """Return the pieces of `size` bytes that events touch, and columns beside them: each row once, see `_distinct`."""
    first = events["address"] // size
    count = ((events["address"] + events["size"] - 1) // size - first + 1).astype(np.int64)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    numbers = np.repeat(first, count) + within.astype(np.uint64)
    return _distinct(numbers, *(np.repeat(column, count) for column in columns))


def _runs(*columns: Array) -> Array:
    """Return the lengths of runs of equal rows."""
    starts = np.flatnonzero(_starts(np.arange(len(columns[0])), columns))
    return np.diff(np.append(starts, len(columns[0])))


def _access(events: Array) -> Access:
    if not len(events):
        return Access(0, 0, 0, 0, 0, 0)
    _, request = _pieces(events, 1, events["request"])
    nbytes = _runs(request)
    return Access(
        requests=len(nbytes),
        nbytes=int(nbytes.sum()),
        distinct=len(_pieces(events, 1)[0]),
        sectors=len(_pieces(events, SECTOR, events["request"])[0]),
        ideal_sectors=int((-(-nbytes // SECTOR)).sum()),
        lanes=len(events),
    )


def _shared(events: Array) -> SharedTraffic:
    if not len(events):
        return SharedTraffic(0, 0, 0, 0)
    # lanes whose words go through in one wavefront: 32, 16 or 8
    phase = events["thread"] % WARP * np.maximum(events["size"], WORD) // (WARP * WORD)
    word, phase, request = _pieces(events, WORD, phase, events["request"])
    order = np.lexsort((word % BANKS, phase, request))
    bank, phase, request = word[order] % BANKS, phase[order], request[order]
    deep = _runs(bank, phase, request)  # words of each bank
    first = np.cumsum(deep) - deep
    per_phase = _runs(phase[first], request[first])
    starts = np.cumsum(per_phase) - per_phase
    return SharedTraffic(
        requests=len(_distinct(events["request"])[0]),
        wavefronts=int(np.maximum.reduceat(deep, starts).sum()),
        ideal_wavefronts=len(per_phase),
        lanes=len(events),
    )
