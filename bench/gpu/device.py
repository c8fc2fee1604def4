"""The GPU that is measured: the machine's own, or the stand-in for CuPy that the tests have.

On the stand-in kernels run on the CPU, and so do the contenders that are installed: it shows that every part of the
command works on a machine without a GPU. Its times mean nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

QUERIED = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "mig.mode.current")
# beside those of bench/common/machine.py
PACKAGES = ("triton", "jax-cuda13-plugin", "cuml-cu13", "cuml-cu12", "nvidia-cublas", "nvidia-cuda-nvrtc")

_chosen = {"stand-in": False}


def is_stand_in() -> bool:
    """Whether this process uses the stand-in."""
    return _chosen["stand-in"]


@contextmanager
def device(stand_in: bool) -> Iterator[None]:
    """Within it CuPy is the stand-in, or what it is anyway."""
    if not stand_in:
        yield
        return
    from tests.support.emulation import standin

    _chosen["stand-in"] = True
    try:
        with standin.installed():
            yield
    finally:
        _chosen["stand-in"] = False


def why_not(stand_in: bool) -> str:
    """Why nothing can be measured here, or an empty string."""
    if stand_in:
        from tests.support.emulation.build import missing

        return missing() or ""
    from gpusoftmax.cuda.probe import probe

    found = probe()
    return "" if found.works else found.reason


def torch_device() -> str:
    """Where PyTorch computes."""
    return "cpu" if is_stand_in() else "cuda"


def facts() -> dict[str, Any]:
    """The GPU, its driver and their versions, for the results."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    found = {
        "name": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties.get("multiProcessorCount"),
        "memory_bytes": properties.get("totalGlobalMem"),
        "l2_bytes": properties.get("l2CacheSize"),
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "stand_in": is_stand_in(),
    }
    return found | ({} if is_stand_in() else _asked_of_the_driver())


def _version(package: str) -> str:
    """The version of a package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _asked_of_the_driver() -> dict[str, str]:
    """What nvidia-smi says; empty where it cannot be asked."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERIED, map(str.strip, done.stdout.strip().split(",")), strict=False))


def free_memory() -> None:
    """Give the memory that the pools of CuPy and PyTorch hold back to the device: each has a pool of its own."""
    import gc
    import sys

    gc.collect()
    sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and not is_stand_in():
        sys.modules["torch"].cuda.empty_cache()
