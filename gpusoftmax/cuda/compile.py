"""Finding the text of kernels, compiling them when they are first used, and keeping them for each device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax.cuda import buckets
from gpusoftmax.dtypes import BFLOAT16

OPTIONS = ("-std=c++17",)  # CuPy adds -ftz=true and the architecture
PACKAGE = Path(__file__).resolve().parents[1]
NOTHING = np.uint64(0)  # a null pointer
CLUSTERS_SINCE = 90  # compute capability
SHARED_UNASKED = 48 << 10  # bytes of dynamic shared memory that a kernel gets without max_dynamic_shared_size_bytes

KINDS = {
    np.dtype(np.float32): buckets.FLOAT32,
    np.dtype(np.float16): buckets.FLOAT16,
    np.dtype(np.float64): buckets.FLOAT64,
    np.dtype(np.uint8): buckets.UINT8,
    BFLOAT16: buckets.BFLOAT16,
}


def kernel_folder() -> Path:
    """Return the folder of the CUDA text: in the package if installed from a wheel, next to it in a clone.

    Raises
    ------
    FileNotFoundError
        It is in neither place; the message names both.
    """
    places = [PACKAGE / "kernels", PACKAGE.parent / "kernels"]
    for place in places:
        if (place / "common.cuh").is_file():
            return place
    raise FileNotFoundError(f"the CUDA kernels are in neither {places[0]} nor {places[1]}; reinstall gpusoftmax")


@cache
def _text(file: str) -> str:
    return (kernel_folder() / file).read_text(encoding="utf-8")


def source(file: str, macros: Mapping[str, int]) -> str:
    """Return the text to compile: macros, common.cuh and the file.

    Compiler messages have the line numbers of these files.
    """
    defines = "".join(f"#define {name} {value}\n" for name, value in sorted(macros.items()))
    return f'{defines}#line 1 "common.cuh"\n{_text("common.cuh")}#line 1 "{file}"\n{_text(file)}'


@cache
def _compiled(device: int, file: str, name: str, macros: tuple[tuple[str, int], ...]) -> Any:
    import cupy

    module = cupy.RawModule(code=source(file, dict(macros)), options=OPTIONS, backend="nvrtc")
    try:
        return module.get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        variant = ", ".join(f"{key}={value}" for key, value in macros)
        raise RuntimeError(f"the CUDA kernel {file} ({variant}) does not compile on this machine:\n{error}") from error


def kernel(file: str, name: str, **macros: int) -> Any:
    """Return a compiled kernel for the current device, to be called as kernel(grid, block, arguments).

    CuPy does not check the types of arguments, so sizes must be NumPy scalars of the width of the parameter; a Python
    float would be passed as the bytes of a double.
    """
    import cupy

    return _compiled(cupy.cuda.runtime.getDevice(), file, name, tuple(sorted(macros.items())))


def shared_memory() -> int:
    """Return the most bytes of shared memory that a block can have on the current device."""
    import cupy

    return int(_properties(cupy.cuda.runtime.getDevice())["sharedMemPerBlockOptin"])


def capability() -> int:
    """Return the compute capability of the current device: 90 for 9.0."""
    import cupy

    found = _properties(cupy.cuda.runtime.getDevice())
    return 10 * int(found["major"]) + int(found["minor"])


def has_clusters() -> bool:
    """Return whether blocks of the current device can be a cluster."""
    return capability() >= CLUSTERS_SINCE


@cache
def _properties(device: int) -> dict[str, Any]:
    import cupy

    found: dict[str, Any] = cupy.cuda.runtime.getDeviceProperties(device)
    return found


def or_nothing(x: Any) -> Any:
    """Return a null pointer for None, and anything else as it is."""
    return NOTHING if x is None else x
