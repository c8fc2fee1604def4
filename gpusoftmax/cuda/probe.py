"""Finding out whether a GPU works, and if not, telling the user why and what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

OLDEST_COMPUTE_CAPABILITY = 75  # Turing, the oldest that CUDA 13 compiles for

INSUFFICIENT_DRIVER, NO_DEVICE, NOT_INITIALISED = 35, 100, 3  # cudaError_t


@dataclass(frozen=True)
class Probe:
    """The result of a probe: whether a kernel ran, on which GPU or why not, and the name of the device."""

    works: bool
    reason: str
    device: str = ""


def probe(index: int = 0) -> Probe:
    """Try GPU `index`: import CuPy, ask the driver, compile a kernel and run it. The result is cached."""
    return _probe(index, os.getpid())


@cache
def _probe(index: int, process: int) -> Probe:
    if find_spec("cupy") is None:
        return Probe(False, "CuPy is not installed: pip install 'gpusoftmax[cuda13]', or [cuda12] for an older driver")
    installed = sorted({name for d in metadata.distributions() if (name := _cupy_name(d))})
    if len(installed) > 1:
        return Probe(
            False,
            f"several CuPy packages are installed ({', '.join(installed)}), which conflict: uninstall all, install one",
        )
    try:
        import cupy
    except Exception as error:  # a broken binary may raise anything, and the CPU can be used instead
        return Probe(False, f"CuPy cannot be imported ({type(error).__name__}: {error})")
    try:
        return _try_device(cupy, index)
    except Exception as error:  # driver, runtime and compiler each have their own errors
        return Probe(False, _explain(error))


def _cupy_name(distribution: metadata.Distribution) -> str:
    name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
    return name if name == "cupy" or name.startswith("cupy-cuda") or name.startswith("cupy-rocm") else ""


def _try_device(cupy: Any, index: int) -> Probe:
    runtime = cupy.cuda.runtime
    driver = runtime.driverGetVersion()
    if driver == 0:
        return Probe(False, "there is no NVIDIA driver")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            needed = runtime.runtimeGetVersion()
            return Probe(
                False,
                f"the NVIDIA driver is too old: it supports CUDA {_version(driver)}, CuPy needs {_version(needed)}; "
                "update the driver, or install gpusoftmax[cuda12]",
            )
        if error.status == NO_DEVICE:
            return Probe(False, "the NVIDIA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)")
        raise
    if index >= count:
        return Probe(False, f"there is no device {index}: the driver sees {count}")
    properties = runtime.getDeviceProperties(index)
    name = properties["name"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    capability = 10 * properties["major"] + properties["minor"]
    if capability < OLDEST_COMPUTE_CAPABILITY:
        return Probe(
            False,
            f"{name} has compute capability {capability / 10}, below {OLDEST_COMPUTE_CAPABILITY / 10}: not supported",
        )
    from gpusoftmax.cuda.compile import kernel

    with cupy.cuda.Device(index):
        out = cupy.zeros(32, dtype="int32")
        kernel("probe.cu", "probe", SCORE=0)((1,), (32,), (out,))
        if cupy.asnumpy(out).tolist() != list(range(32)):
            return Probe(False, f"a kernel ran on {name} and gave a wrong result")
    return Probe(True, f"a kernel compiled and ran on {name}", name)


def facts(index: int = 0) -> dict[str, str]:
    """Describe what decides about the bits of GPU `index`, which works, by name."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(index)
    name = properties["name"]
    return {
        "GPU": name.decode() if isinstance(name, bytes) else str(name),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "CuPy": cupy.__version__,
        "CUDA of the driver": _version(runtime.driverGetVersion()),
        "CUDA runtime": _version(runtime.runtimeGetVersion()),
    }


def pci_bus_id(index: int = 0) -> str:
    """Return where GPU `index` is in this machine."""
    import cupy

    return str(cupy.cuda.Device(index).pci_bus_id)


def _explain(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if getattr(error, "status", None) == NOT_INITIALISED:
        return f"CUDA was started before this process was forked; use the spawn start method ({text})"
    lowered = text.lower()
    if "architecture" in lowered:
        return f"the CUDA compiler no longer supports this device's architecture ({text})"
    if "nvrtc" in lowered or "could not open source file" in lowered or "cannot open source file" in lowered:
        return f"the CUDA compiler or its headers are missing: pip install 'gpusoftmax[cuda13]' brings them ({text})"
    return f"the device does not compute ({text})"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
