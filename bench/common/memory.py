"""Peak memory of a call above what was there before: the high-water mark of the process, from Linux.

tracemalloc sees NumPy but neither PyTorch nor JAX. Writing 5 to clear_refs sets the mark back to the present size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _megabytes(name: str) -> float:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} has no {name}")


def resident() -> float | None:
    """Megabytes in memory now, after what was freed went back to the system; None where Linux does not say."""
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return _megabytes("VmRSS")
    except OSError:
        return None


def peak_of(work: Callable[[], Any], base: float | None) -> float | None:
    """Megabytes above `base` at the highest point of a call; None where that cannot be known."""
    if base is None:
        return None
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:  # a sandbox may forbid it
        return None
    work()
    return max(_megabytes("VmHWM") - base, 0.0)
