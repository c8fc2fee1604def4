"""What a warp does on its way through a kernel's machine code: from the control codes of the instructions.

Since Volta each instruction of 128 bits says how the hardware is to schedule it. Bits 105 to 125: the clocks until the
warp's next instruction (4 bits), a hint (1), the scoreboard that is released when the result is there (3; 7: none), the
one that is released when the operands have been read (3), and a mask of scoreboards to wait for (6). So the listing
shows which loads are on their way at the same time, which no source shows: a load and its first use are wherever the
compiler puts them. Copies to shared memory (LDGSTS) have no result to wait for: LDGDEPBAR closes a group of them, and
DEPBAR waits until no more than some number of groups are on their way.

`Kernel` finds the way, `Kernel.trace` the instructions along it, and `costs` plays them for a single warp. The way is,
among all without loops, that which loads and stores most, in the widest pieces; of these that which computes most with
floating-point numbers, and of these the shortest. That is the way of a row's inside: its edges are loaded in narrow
pieces, and labels and divisions of integers are handled elsewhere. Loops on it are repeated as often as they must be to
move all of a block's bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

WIDE = 16  # bytes of the widest access
NO_SCOREBOARD = 7
# Clocks until a result is there (estimates for Ampere to Blackwell; see the tables of Jia et al., arXiv 1804.06826, for
# Volta). What is not named here and has a scoreboard (conversions, exponentials, special registers) takes OTHER.
LATENCY = {"SHFL": 24, "LDS": 30, "LDC": 30, "ULDC": 30, "LDCU": 30, "BAR": 30}
OTHER = 20
MEMORY = ("LDG", "ATOMG", "RED", "ATOM")  # wait for the memory of the device

ARITHMETIC = ("FADD", "FMUL", "FFMA", "FMNMX", "DADD", "DMUL", "DFMA")
MEETING = ("BAR", "SHFL", "DEPBAR")  # of threads, or of a thread with its copies

_CODE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s*/\*\s*0x([0-9a-f]{16})\s*\*/")
_BITS = re.compile(r"/\*\s*0x([0-9a-f]{16})\s*\*/\s*$")
_LABEL = re.compile(r"\s*([.$\w]+):\s*$")
_TARGET = re.compile(r"`\(([^)]+)\)")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes
    ----------
    guard : str
        The predicate under which it is executed ("@P0", "@!UP1"), or "".
    name : str
        With its modifiers: "LDG.E.128".
    clocks : int
        Until the warp's next instruction.
    scoreboard : int or None
        Released when the result is there.
    waits : tuple of int
        Scoreboards that it waits for.
    """

    guard: str
    name: str
    operands: str
    clocks: int
    scoreboard: int | None
    waits: tuple[int, ...]

    @cached_property
    def kind(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @cached_property
    def width(self) -> int:
        """Bytes that it moves for a thread, if it loads or stores."""
        bits = re.search(r"\.[US]?(8|16|64|128|256)\b", self.name)
        return int(bits.group(1)) // 8 if bits else 4

    @property
    def target(self) -> str | None:
        """The label to which it may branch."""
        found = _TARGET.search(self.operands)
        return found.group(1) if found else None


@dataclass
class _Block:
    """Instructions without a branch between them."""

    instructions: list[Instruction] = field(default_factory=list)
    after: list[int] = field(default_factory=list)  # numbers of blocks

    def moving(self, falls_through: bool) -> list[Instruction]:
        """Return accesses and meetings, without those under the predicate that decides how the block is left."""
        guard = self.instructions[-1].guard if self.instructions[-1].kind == "BRA" else ""
        not_done = "" if not guard else guard if falls_through else _opposite(guard)
        return [one for one in self._accesses if not not_done or one.guard != not_done]

    @cached_property
    def work(self) -> int:
        """Instructions that compute with floating-point numbers."""
        return sum(one.kind in ARITHMETIC or one.name == "MUFU.EX2" for one in self.instructions)

    @cached_property
    def _accesses(self) -> list[Instruction]:
        return [one for one in self.instructions if one.kind in _Moved._fields or one.kind in MEETING]


@dataclass(frozen=True)
class Work:
    """What a block of threads moves at a time, from which follows how often its loops are repeated.

    Attributes
    ----------
    tile : int
        Bytes that the threads load together.
    threads : int
        That share it.
    tiles : int
        That they load one after another: how often a loop around other loops is repeated.
    """

    tile: int
    threads: int
    tiles: int = 1

    @property
    def segments(self) -> int:
        """The widest accesses that a thread needs for its part of a tile."""
        return -(-self.tile // (self.threads * WIDE))


class Step(NamedTuple):
    """An instruction on the way; `part` is below 1 where a loop is left in the middle of its last time."""

    instruction: Instruction
    part: float


class _Moved(NamedTuple):
    """Widest accesses since threads last met."""

    LDG: int = 0
    LDGSTS: int = 0
    LDS: int = 0
    STS: int = 0
    STG: int = 0


class _Way(NamedTuple):
    """A way to a block: what it moves, its work, its instructions (negative), and the way without its last block."""

    gain: int
    work: int
    length: int
    before: _Way | None
    number: int


class Kernel:
    """The machine code of one kernel.

    Parameters
    ----------
    text : str
        Its section of the listing of `nvdisasm -c -hex`.
    """

    def __init__(self, text: str) -> None:
        self.instructions, labels = _read(text)
        self._blocks = _blocks(self.instructions, labels)
        back = _back_edges(self._blocks)
        loops = _loops(self._blocks, back)
        self._loops = list(loops.values())
        self._after = _forward(self._blocks, back, loops)

    def widths(self, kind: str) -> Counter[int]:
        """Count the loads (LDG) or stores (STG) of global memory by their bytes, LDGSTS as loads."""
        kinds = (kind, "LDGSTS") if kind == "LDG" else (kind,)
        return Counter(one.width for one in self.instructions if one.kind in kinds)

    def trace(self, work: Work | None = None) -> list[Step]:
        """Return what a warp executes, with loops as often as the work needs; without work, once."""
        steps = self._repeated(self._way(work), work)
        return [Step(one, part) for number, part in steps for one in self._blocks[number].instructions]

    def _way(self, work: Work | None) -> list[int]:
        """Return the blocks along the way, each once; see the top.

        Between two meetings of threads (barriers, shuffles, waits for copies) a thread moves its part of the tile once.
        So of an unrolled loop, and what goes on after it in smaller steps, no more is gone through than that takes.
        """
        enough = work.segments if work else 1 << 30
        best: dict[int, dict[_Moved, _Way]] = {0: {_Moved(): _Way(0, 0, 0, None, 0)}}
        ends: list[_Way] = []
        for number in reversed(_last_first(self._after)):
            block = self._blocks[number]
            for moved, way in best[number].items():
                here = _Way(way.gain, way.work + block.work, way.length - len(block.instructions), way, number)
                if not self._after[number]:
                    ends.append(here)
                for other in self._after[number]:
                    now, gain = self._move(number, other, moved, enough)
                    new = here._replace(gain=way.gain + gain)
                    known = best.setdefault(other, {}).get(now)
                    if known is None or new[:3] > known[:3]:
                        best[other][now] = new
        at: _Way | None = max(ends, key=lambda way: way[:3])
        found = []
        while at is not None and at.before is not None:
            found.append(at.number)
            at = at.before
        return found[::-1]

    def _move(self, number: int, after: int, moved: _Moved, enough: int) -> tuple[_Moved, int]:
        """Return what was moved since threads met, after a block that is left for another, and what that is worth."""
        counts, gain = moved._asdict(), 0
        loops = [loop for loop in self._loops if number in loop]
        for one in self._blocks[number].moving(after == number + 1):
            if one.kind in MEETING:
                counts = _Moved()._asdict()
            elif one.width < WIDE:
                gain += one.width**2
            else:
                # a loop that moves no more at a time than there is does it as often as it takes
                step = enough if loops and self._wide_in(min(loops, key=len))[one.kind] <= enough < 1 << 30 else 1
                step = min(step, enough - counts[one.kind])
                counts[one.kind] += step
                gain += step * WIDE**2
        return _Moved(**counts), gain

    def _wide_in(self, loop: frozenset[int]) -> Counter[str]:
        return self._moved(sorted(loop), loop)

    def _repeated(
        self, way: list[int], work: Work | None, outside: frozenset[int] | None = None
    ) -> list[tuple[int, float]]:
        """Repeat the loops in a part of the way, which is the inside of the loop `outside`; blocks with their part."""
        spans, at = [], 0
        inner = [loop for loop in self._loops if outside is None or loop < outside]
        while at < len(way):
            here = [loop for loop in inner if way[at] in loop]
            if here:
                loop = max(here, key=len)
                end = at
                while end < len(way) and way[end] in loop:
                    end += 1
                spans.append((at, end, loop))
                at = end
            else:
                at += 1
        moved = [self._moved(way[first:end], loop) for first, end, loop in spans]
        result: list[tuple[int, float]] = []
        at = 0
        for number, (first, end, loop) in enumerate(spans):
            result += [(block, 1.0) for block in way[at:first]]
            times, part = self._times(number, moved, work, loop)
            result += [(block, part * of_it) for block, of_it in self._repeated(way[first:end], work, loop)] * times
            at = end
        return result + [(block, 1.0) for block in way[at:]]

    def _moved(self, body: list[int], loop: frozenset[int]) -> Counter[str]:
        """Count the widest accesses of a loop's own body by their kinds."""
        nested = [other for other in self._loops if other < loop]
        own = [number for number in body if not any(number in other for other in nested)]
        return Counter(
            one.kind
            for number in own
            for one in self._blocks[number].instructions
            if one.kind in _Moved._fields and one.width >= WIDE
        )

    def _times(
        self, number: int, moved: list[Counter[str]], work: Work | None, loop: frozenset[int]
    ) -> tuple[int, float]:
        """Return how often a loop is repeated, and which part of it is executed on average."""
        if work is None:
            return 1, 1.0
        mine = moved[number]
        if any(other < loop and self._moved(sorted(other), other) for other in self._loops):
            return work.tiles, 1.0
        if not mine:
            return 1, 1.0
        beside = [moved[other] for other in (number - 1, number + 1) if 0 <= other < len(moved)]
        if any(set(other) == set(mine) and max(other.values()) > max(mine.values()) for other in beside):
            return 1, 1.0  # what an unrolled loop beside this one leaves
        at_a_time = max(mine.values())
        times = max(1, -(-work.segments // at_a_time))
        return times, min(1.0, work.tile / (work.threads * WIDE) / (times * at_a_time))


def kernels(listing: str) -> dict[str, Kernel]:
    """Return the kernels of a listing by their names."""
    sections = re.findall(r"\.section\s+\.text\.(\w+),(.*?)(?=\.section\s+\.text\.|\Z)", listing, re.S)
    return {name: Kernel(text) for name, text in sections}


# ---- the way of a warp


def _read(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Return instructions, and the numbers of those that labels stand before."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(found)
        if code := _CODE.match(line):
            bits = _BITS.search(next(lines))
            if bits is None:
                raise ValueError(f"an instruction without its second half: {line}")
            control = int(bits.group(1), 16) >> 41
            guard, name, operands = re.fullmatch(  # type: ignore[union-attr]
                r"(?:(@!?U?P\w+)\s+)?([\w.]+)\s*(.*)", code.group(2), re.S
            ).groups()
            scoreboard = control >> 5 & 7
            found.append(
                Instruction(
                    guard or "",
                    "NOP" if guard == "@!PT" else name,  # such loads fill gaps
                    operands,
                    control & 15,
                    None if scoreboard == NO_SCOREBOARD else scoreboard,
                    tuple(number for number in range(6) if control >> 11 >> number & 1),
                )
            )
    return found, labels


def _ends(one: Instruction) -> bool:
    return one.kind in ("BRA", "BRX", "EXIT", "RET", "JMP")


def _opposite(guard: str) -> str:
    return guard.replace("!", "") if "!" in guard else guard.replace("@", "@!")


def _conditional(one: Instruction) -> bool:
    before_target = one.operands.partition("`")[0]
    return bool(re.search(r"@!?U?P(?!T)", one.guard) or re.search(r"\bU?P\d", before_target))


def _blocks(instructions: Sequence[Instruction], labels: dict[str, int]) -> list[_Block]:
    starts = {0, *labels.values(), *(i + 1 for i, one in enumerate(instructions) if _ends(one))}
    bounds = sorted(start for start in starts if start < len(instructions))
    number_at = {start: number for number, start in enumerate(bounds)}
    blocks = []
    for number, (start, end) in enumerate(zip(bounds, [*bounds[1:], len(instructions)], strict=True)):
        block = _Block(list(instructions[start:end]))
        last = block.instructions[-1]
        # a warp whose lanes are together does not take these branches, and subroutines return
        apart = last.kind == "BRA" and re.search(r"\.(DIV|CONV)\b", last.name)
        if not _ends(last) or _conditional(last) or apart:
            block.after += [number + 1] if number + 1 < len(bounds) else []
        if last.kind in ("BRA", "JMP", "BRX") and not apart:
            block.after += [number_at[labels[name]] for name in _TARGET.findall(last.operands) if name in labels]
        blocks.append(block)
    return blocks


def _loops(blocks: list[_Block], back: list[tuple[int, int]]) -> dict[int, frozenset[int]]:
    """Return the natural loops, as numbers of blocks, by their first block."""
    before: dict[int, list[int]] = {}
    for number, block in enumerate(blocks):
        for after in block.after:
            before.setdefault(after, []).append(number)
    bodies: dict[int, set[int]] = {}
    for end, start in back:
        body, waiting = bodies.setdefault(start, {start}), [end]
        while waiting:
            number = waiting.pop()
            if number not in body:
                body.add(number)
                waiting += before.get(number, [])
    return {start: frozenset(body) for start, body in bodies.items()}


def _back_edges(blocks: list[_Block]) -> list[tuple[int, int]]:
    """Return the branches to a block that is on the way to them."""
    found, seen = [], set()
    on_the_way: list[int] = []
    waiting: list[tuple[int, bool]] = [(0, False)]
    while waiting:
        number, done = waiting.pop()
        if done:
            on_the_way.pop()
            continue
        if number in seen:
            continue
        seen.add(number)
        on_the_way.append(number)
        waiting.append((number, True))
        for after in blocks[number].after:
            if after in on_the_way:
                found.append((number, after))
            elif after not in seen:
                waiting.append((after, False))
    return found


def _forward(blocks: list[_Block], back: list[tuple[int, int]], loops: dict[int, frozenset[int]]) -> list[list[int]]:
    """Return where blocks lead without branches back, which go to where their loop goes on."""
    after = [[other for other in block.after if (number, other) not in back] for number, block in enumerate(blocks)]
    for number, start in back:
        after[number] += _exits(blocks, back, loops, start)
    return [list(dict.fromkeys(others)) for others in after]


def _exits(blocks: list[_Block], back: set[tuple[int, int]], loops: dict[int, frozenset[int]], start: int) -> list[int]:
    """Return where a warp is after the loop from `start`; beyond a loop around it if that begins anew then."""
    found = []
    for inside in loops[start]:
        for other in blocks[inside].after:
            if other not in loops[start]:
                found += _exits(blocks, back, loops, other) if (inside, other) in back else [other]
    return found


def _last_first(after: list[list[int]]) -> list[int]:
    """Order blocks so that each comes after those to which it leads."""
    order, seen = [], set()
    waiting = [(0, False)]
    while waiting:
        number, done = waiting.pop()
        if done:
            order.append(number)
        elif number not in seen:
            seen.add(number)
            waiting.append((number, True))
            waiting += [(other, False) for other in after[number]]
    return order


# ---- a warp alone


@dataclass(frozen=True)
class Costs:
    """What a warp takes on its way.

    Attributes
    ----------
    instructions : float
        That it issues.
    clocks : float
        From its start to its end, if it is alone and memory answers at once.
    rounds : float
        How often it waits for memory, one wait after another.
    wavefronts : int
        Accesses of 128 bytes to shared memory; a shuffle is one.
    in_flight : int
        The most bytes of global memory that a thread has asked for and not yet waited for.
    before_wait : int
        The most wide loads before the first wait for one of them.
    shuffles, barriers : int
        That it executes.
    """

    instructions: float
    clocks: float
    rounds: float
    wavefronts: float
    in_flight: int
    before_wait: int
    shuffles: int
    barriers: int


def costs(trace: Sequence[Step]) -> Costs:
    """Return what a warp takes for these instructions."""
    far = 1 << 20  # clocks: so long that nothing else matters
    alone, waiting = _played(trace, 0), _played(trace, far)
    in_flight, before_wait = _in_flight(trace)
    return Costs(
        instructions=sum(part for _, part in trace),
        clocks=alone,
        rounds=round((waiting - alone) / far, 2),
        wavefronts=sum(part * _wavefronts(one) for one, part in trace),
        in_flight=round(in_flight),
        before_wait=before_wait,
        shuffles=sum(one.kind == "SHFL" for one, _ in trace),
        barriers=sum(one.kind == "BAR" for one, _ in trace),
    )


def _wavefronts(one: Instruction) -> int:
    """Return the wavefronts in shared memory, without conflicts of banks."""
    if one.kind == "SHFL":
        return 1
    return max(1, one.width // 4) if one.kind in ("LDS", "STS", "LDGSTS") else 0


def _played(trace: Iterable[Step], memory: int) -> float:
    """Return the clocks of a warp alone, with a latency of memory."""
    now = 0.0
    ready: dict[int, float] = {}  # when a scoreboard will be released
    copies = 0.0  # when those of the open group will have arrived
    groups: list[float] = []
    for one, part in trace:
        for scoreboard in one.waits:
            now = max(now, ready.pop(scoreboard, 0))
        if one.kind == "DEPBAR":
            arrived, groups = _split_groups(one, groups)
            now = max([now, *arrived])
        elif one.kind == "LDGSTS":
            copies = now + memory
        elif one.kind == "LDGDEPBAR":
            groups.append(copies)
        if one.scoreboard is not None:
            latency = memory if one.kind in MEMORY else LATENCY.get(one.kind, OTHER)
            ready[one.scoreboard] = max(ready.get(one.scoreboard, 0), now + latency)
        now += part * (LATENCY["BAR"] if one.kind == "BAR" else max(1, one.clocks))
    return now


def _split_groups(one: Instruction, groups: list[float]) -> tuple[list[float], list[float]]:
    """Return the groups of copies that have arrived after DEPBAR.LE SB0, 0x1, and the last, which need not have."""
    count = re.search(r"0x([0-9a-f]+)", one.operands)
    at = max(0, len(groups) - (int(count.group(1), 16) if count else 0))
    return groups[:at], groups[at:]


def _in_flight(trace: Iterable[Step]) -> tuple[float, int]:
    """Return the most bytes that are asked for and not waited for, and the most wide loads before a wait for one."""
    most = copied = 0.0
    most_loads = loads = 0
    flying: dict[int, float] = {}  # bytes by scoreboard
    wide: set[int] = set()  # scoreboards of wide loads
    groups: list[float] = []
    for one, part in trace:
        if one.kind == "DEPBAR" and groups:
            _, groups = _split_groups(one, groups)
            loads = 0
        for scoreboard in one.waits:
            if flying.pop(scoreboard, 0) and scoreboard in wide:
                loads, wide = 0, set()
        if one.kind == "LDG" and one.scoreboard is not None:
            flying[one.scoreboard] = flying.get(one.scoreboard, 0) + part * one.width
            if one.width >= WIDE:
                loads += 1
                wide.add(one.scoreboard)
        elif one.kind == "LDGSTS":
            copied += part * one.width
            loads += one.width >= WIDE
        elif one.kind == "LDGDEPBAR":
            groups.append(copied)
            copied = 0
        most = max(most, sum(flying.values()) + copied + sum(groups))
        most_loads = max(most_loads, loads)
    return most, most_loads
