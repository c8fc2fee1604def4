"""How much memory there is for reading: what is available, and limits as users write them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax.checks.messages import shown

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SMALLEST_LIMIT = 16 << 20  # bytes
CGROUPS = Path("/sys/fs/cgroup")


def check_memory_limit(value: Any) -> int | None:
    """Return a limit in bytes, from a number or from text such as "512MB" or "1.5GiB"; None stays None.

    Raises
    ------
    ValueError, TypeError
        It is not such a limit, or too small to read anything.
    """
    if value is None:
        return None
    given, fix = value, f"memory_limit={shown(value)} is not a size; pass bytes, or text such as '512MB' or '2GiB'"
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?|)b?\s*", value.lower())
        if found is None:
            raise ValueError(fix)
        value = float(found[1]) * UNITS[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer):
        raise TypeError(fix)
    if not (math.isfinite(value) and value >= SMALLEST_LIMIT):
        raise ValueError(f"memory_limit={shown(given)} is too small; pass at least {SMALLEST_LIMIT >> 20} MiB")
    return int(value)


def available_memory() -> int:
    """Bytes that this process can still take: the system's available memory, or less if a cgroup limits it."""
    return min([_system(), *(max(limit - used, 0) for limit, used in _cgroups())])


def _system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return 2 << 30


def _cgroups() -> Iterator[tuple[int, int]]:
    """The limit of each cgroup above this process that has one, and what counts against it and cannot be dropped."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, limit, usage, cached = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, cached = CGROUPS / "memory", "memory.limit_in_bytes", "total_inactive_file"
            usage = "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if root in (place, *place.parents):
                found = _limit_and_usage(place, limit, usage, cached)
                if found is not None:
                    yield found


def _limit_and_usage(folder: Path, limit: str, usage: str, cached: str) -> tuple[int, int] | None:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if not most.isdecimal():  # "max"
            return None
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(most), int((folder / usage).read_text(encoding="ascii")) - int(statistics.get(cached, 0))
    except (OSError, ValueError):  # in a container the path is that of the host
        return None
