"""Turns a bus error within a mapped file into a mark that can be asked for, in place of the end of the process.

If a file is truncated while it is mapped, or its disk fails, the next read of such a page raises the signal SIGBUS, by
default the end of the process. Python cannot handle it: its handlers run later, and the instruction would be repeated
for ever. The handler here is machine code: it puts pages of zeros in the place of those that cannot be read, up to the
end of the mapping, and notes the first address. Whoever reads the mapping asks afterwards whether that happened, and
discards the result. Bus errors anywhere else go to the handler that was there before.

Linux on 64 bits only, where siginfo_t has the address at byte 16.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
import threading
from typing import Any

import numpy as np
from numba import cfunc, int64

from gpusoftmax.cpu.compiling import call, peek, poke

MOST = 4096  # mappings at a time
NOTHING = np.iinfo(np.int64).max
FAULT_ADDRESS = 16  # bytes into siginfo_t
SA_SIGINFO, SA_ONSTACK = 0x4, 0x08000000
PROT_READ, MAP_PRIVATE_FIXED_ANONYMOUS = 0x1, 0x32
WORDS = 3  # of a mapping in the table: start, stop, and the first address that could not be read


class _SigAction(ctypes.Structure):
    """struct sigaction of glibc and musl on 64 bits."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def is_supported() -> bool:
    """Whether bus errors can be handled on this system."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64") and sys.maxsize > 1 << 32


class _Handler:
    """The handler of this process, and the table of the mappings that it watches."""

    def __init__(self) -> None:
        self.lock, self.table = threading.Lock(), np.zeros((MOST, WORDS), np.int64)
        self.before, self.own, self.libc = _SigAction(), _SigAction(), ctypes.CDLL(None, use_errno=True)
        self.function: Any = None

    def install(self) -> None:
        """Install the handler, unless it is the present one."""
        if self.function is None:
            addresses = [
                ctypes.cast(function, ctypes.c_void_p).value for function in (self.libc.mmap, self.libc.sigaction)
            ]
            self.function = _compile(self.table.ctypes.data, *addresses, ctypes.addressof(self.before))
            self.own.handler, self.own.flags = self.function.address, SA_SIGINFO | SA_ONSTACK
        present = _SigAction()
        self._sigaction(None, present)
        if present.handler != self.own.handler:
            self._sigaction(self.own, self.before)

    def _sigaction(self, new: _SigAction | None, old: _SigAction) -> None:
        if self.libc.sigaction(int(signal.SIGBUS), None if new is None else ctypes.byref(new), ctypes.byref(old)):
            raise OSError(ctypes.get_errno(), "sigaction failed for SIGBUS")


def _compile(table: int, map_address: int, sigaction_address: int, before: int) -> Any:
    """Compile the handler; the addresses become constants of it."""
    page, words, number_of_signal = os.sysconf("SC_PAGE_SIZE"), 8 * WORDS, int(signal.SIGBUS)

    @cfunc("void(int64, int64, int64)", nopython=True)  # an int of C is passed like int64
    def on_bus_error(number: int, info: int, context: int) -> None:
        address = peek(info + FAULT_ADDRESS, int64(0))
        for entry in range(table, table + MOST * words, words):
            stop = peek(entry + 8, int64(0))
            if peek(entry, int64(0)) <= address and address < stop:
                first = address - address % page
                call(map_address, (first, stop - first, PROT_READ, MAP_PRIVATE_FIXED_ANONYMOUS, -1, 0))
                if address < peek(entry + 16, int64(0)):
                    poke(entry + 16, address)
                return
        call(sigaction_address, (number_of_signal, before, 0))  # the instruction is repeated, and ends there

    return on_bus_error


_handler = _Handler()


class Watched:
    """Watches a mapped range of memory from `start` to `stop`, until `forget`."""

    def __init__(self, start: int, stop: int) -> None:
        page = mmap.PAGESIZE
        with _handler.lock:
            _handler.install()
            free = np.flatnonzero(_handler.table[:, 1] == 0)
            if not len(free):
                raise OSError(f"{MOST} files are mapped already")
            self.entry = _handler.table[int(free[0])]
            self.entry[:] = start, 0, NOTHING
            self.entry[1] = -(-stop // page) * page

    def first_bad(self) -> int | None:
        """Return the first address that could not be read so far, or None."""
        found = int(self.entry[2])
        return None if found == NOTHING else found

    def forget(self) -> None:
        """End watching; before the range is unmapped."""
        self.entry[1] = 0
