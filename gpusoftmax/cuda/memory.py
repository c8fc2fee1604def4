"""GPU memory: how much is free, moving arrays into it, and the error if they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.operations import Operations

ON_CUDA = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
FRACTION_ON_GPU = 0.8  # of its free memory, for rows and a pass: the rest is for the solver and for labels
EXPECTED_CLASSES = 1000


def free_bytes() -> int:
    """Return the free bytes of the current device: those of the driver, and those that CuPy's pool holds for reuse."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def has_room(X: Any, ops: Operations) -> bool:
    """Whether the current device has room for rows X, and for the passes over them; X has shape, dtype and nbytes.

    How many classes there are is not known yet.
    """
    (n, d), free = X.shape, free_bytes()
    needed = X.nbytes + ops.pass_bytes(X.dtype, n, d, 1, EXPECTED_CLASSES)
    fits = needed <= FRACTION_ON_GPU * free
    log.info(
        "rows: %d bytes, with a pass %d, of %d free ones of the GPU; they are %s",
        X.nbytes, needed, free, "copied there once" if fits else "copied to it in each pass, chunk by chunk",
    )  # fmt: skip
    return fits


def shortage(needed: int, what: str, remedy: str) -> MemoryError:
    """Return an error that says how much memory is missing."""
    free = free_bytes()
    return MemoryError(
        f"{what} {_size(needed)} of the GPU's memory, and {_size(free)} is free: {_size(max(needed - free, 0))} is "
        f"missing; {remedy}"
    )


def _size(n_bytes: int) -> str:
    for unit, name in ((2**30, "GB"), (2**20, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes / 2**10:.1f} kB"


def upload(x: Any) -> Any:
    """Return `x` on the current device. Arrays that are there already, also of PyTorch and JAX, are not copied.

    Raises
    ------
    MemoryError
        The array does not fit; the message says how much memory is missing.
    """
    import cupy

    if isinstance(x, cupy.ndarray) or not hasattr(x, "__dlpack_device__") or x.__dlpack_device__()[0] not in ON_CUDA:
        try:
            return cupy.asarray(x)
        except cupy.cuda.memory.OutOfMemoryError as error:
            cupy.get_default_memory_pool().free_all_blocks()
            what = f"an array of {x.shape[0]} x {x.size // max(x.shape[0], 1)} {x.dtype} takes"
            remedy = "pass float16 or uint8 features, X in a file (open_rows), or backend='cpu'"
            raise shortage(x.nbytes, what, remedy) from error
    return cupy.from_dlpack(
        x.detach() if hasattr(x, "detach") else x
    )  # PyTorch does not export tensors that require a gradient


def download(arrays: Sequence[Any]) -> list[Array]:
    """Return some small arrays on the host, in their own types; one copy brings all of them."""
    import cupy

    packed = cupy.asnumpy(cupy.concatenate([cupy.ascontiguousarray(x).reshape(-1) for x in arrays]))
    ends = np.cumsum([x.size for x in arrays])
    parts = np.split(packed, ends[:-1])
    return [part.astype(x.dtype).reshape(x.shape) for part, x in zip(parts, arrays, strict=True)]
