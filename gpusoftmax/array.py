"""The array module: which device computes, decided once, and what it can do.

`get_backend` returns a `Backend`, a small frozen object that is passed down explicitly. There is no global state and no
context variable: fits on different devices in different threads do not affect each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_count
from gpusoftmax.cpu import facts
from gpusoftmax.cpu.facts import CompiledFor
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.threads import (
    MOST_THREADS,
    Partial,
    available_threads,
    for_each,
    leaf_rows,
    single_threaded_blas,
    sum_over_leaves,
)
from gpusoftmax.cuda.memory import ON_CUDA
from gpusoftmax.cuda.probe import Probe, probe
from gpusoftmax.exceptions import BackendUnavailableError
from gpusoftmax.operations import Operations, SgdStretch

THREADS_VARIABLE = "GPUSOFTMAX_NUM_THREADS"
# of others, in this order: what joblib and dask set in their workers, so that these share the processors
THREADS_OF_OTHERS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Backend:
    """Where arrays live and who computes.

    Attributes
    ----------
    name : str
        "cpu" (fused Numba kernels and BLAS), "numpy" (BLAS and plain NumPy) or "cuda:<i>".
    reason : str
        Why this one, in words for a user.
    xp : module
        The array module: numpy or cupy.
    device : str
        The device in words.
    n_threads : int
        Threads of the CPU's operations.
    ops : Operations
        The fused operations.
    sgd_stretch : SgdStretch or None
        Several steps of SGD in one call, where the back end has that.
    precision : str
        Of float32 products: "highest", "high" or "medium", see `get_backend`.
    """

    name: str
    reason: str
    xp: ModuleType
    device: str
    n_threads: int
    ops: Operations
    sgd_stretch: SgdStretch | None = None
    precision: str = "highest"

    @property
    def gpu(self) -> int | None:
        """The index of the GPU, or None."""
        return int(self.name[5:]) if self.name.startswith("cuda:") else None

    def active(self) -> AbstractContextManager[Any]:
        """Makes this device the current one. Public functions enter it once; nothing below does again."""
        return nullcontext() if self.gpu is None else self.xp.cuda.Device(self.gpu)

    def asarray(self, x: Any) -> Any:
        """`x` as an array of this device; copied only if it is elsewhere. Tensors of PyTorch and JAX are taken over.

        Raises
        ------
        MemoryError
            The GPU does not hold it; says how much is missing.
        """
        if self.gpu is None:
            return np.asarray(x)
        from gpusoftmax.cuda.memory import upload

        return upload(x)

    def to_numpy(self, x: Any) -> Array:
        """A device array on the host; waits for it."""
        return np.asarray(x) if self.gpu is None else np.asarray(self.xp.asnumpy(self.asarray(x)))

    def on_host(self, x: Any) -> Any:
        """What a GPU holds, on the host; anything else as it is, not yet looked at."""
        return x if gpu_of(x) is None else self.to_numpy(x)

    def for_each(self, work: Callable[[range], Any], n_items: int) -> Sequence[Any]:
        """`work(run)` for consecutive runs of items, on the threads of the host; see `cpu.threads.for_each`."""
        return for_each(work, n_items, self.n_threads)

    def sum_over_rows(self, part: Callable[[slice], Partial], n: int, columns: int) -> Partial:
        """The sum of `part(rows)` over all n rows, on the threads of the host: the same bits for any number of them.

        Rows come in leaves, whose length follows from the number of columns, and are summed along a fixed tree.
        """
        step = leaf_rows(columns)

        def leaf(index: int) -> Partial:
            return part(slice(index * step, min((index + 1) * step, n)))

        return sum_over_leaves(leaf, -(-n // step), self.n_threads)

    @staticmethod
    def single_threaded_blas() -> AbstractContextManager[None]:
        """Holds the host's BLAS at one thread: its bits depend on their number, and its idle threads are in our way."""
        return single_threaded_blas()

    def synchronize(self) -> None:
        """Wait for all that was queued on the current stream."""
        if self.gpu is not None:
            self.xp.cuda.get_current_stream().synchronize()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and skops, which take no modules: what another process resolves anew."""
        return {"backend": self.name, "n_threads": self.n_threads, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Resolve what was asked for."""
        vars(self).update(vars(get_backend(**state)))


def default_threads() -> int:
    """How many threads there are where nobody says so; see `threads_and_origin`."""
    return threads_and_origin()[0]


def threads_and_origin() -> tuple[int, str]:
    """The threads of the CPU by default, and where the number comes from.

    GPUSOFTMAX_NUM_THREADS if it is set, else the processors that this process may use, or fewer if NUMBA_NUM_THREADS or
    OMP_NUM_THREADS says so. Those are not ours: values that are no numbers are left to their owners. "4,2" is four
    threads, with two within each.

    Raises
    ------
    ValueError
        GPUSOFTMAX_NUM_THREADS is no number of threads.
    """
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        available = available_threads()
        for name in THREADS_OF_OTHERS:
            limit = os.environ.get(name, "").partition(",")[0].strip()
            # longer ones cannot be read
            if limit.isascii() and limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= available:
                return int(limit), f"{name}={shown(os.environ[name])}"
        return available, "all processors of this process"
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(
            f"the environment variable {THREADS_VARIABLE}={text!r} is not a thread count; "
            f"set a whole number from 1 to {MOST_THREADS}, or unset it"
        )
    return int(text), f"{THREADS_VARIABLE}={text}"


def back_ends(n_threads: int | None = None) -> dict[str, tuple[bool, str]]:
    """Which back ends can be had on this machine: for each name whether, and why or why not."""
    gpu, cpu = probe(0), get_backend("cpu", n_threads)
    return {
        "cuda": (gpu.works, gpu.reason),
        "cpu": (cpu.name == "cpu", cpu.reason),
        "numpy": (True, "plain NumPy is always there"),
    }


def compiled_for() -> CompiledFor | None:
    """What the CPU's kernels are compiled for, and where they are kept; None without compiled kernels."""
    return facts.compiled_for() if get_backend("cpu").name == "cpu" else None


def compilations() -> int:
    """How many of the CPU's kernels were compiled in this process; those from the cache on disk do not count."""
    return facts.compilations() if get_backend("cpu").name == "cpu" else 0


def _compiled_kernels() -> tuple[ModuleType | None, str]:
    """The Numba kernels, or None and why there are none."""
    try:
        from gpusoftmax.cpu import kernels  # imports Numba: 0.3 s
    except ImportError as error:
        return None, f"no compiled kernels, since Numba cannot be imported ({error})"
    return kernels, "compiled kernels"


def get_backend(backend: str | Backend = "auto", n_threads: int | None = None, precision: str = "highest") -> Backend:
    """Decide who computes.

    Parameters
    ----------
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"} or Backend
        "auto" takes the GPU if a kernel compiles and runs on it, else the CPU, and says why; "cpu" means compiled
        kernels where Numba is installed, else NumPy; "numpy" means plain NumPy always. A Backend is returned as it is.
    n_threads : int, optional
        Threads on the CPU. Default: the environment's GPUSOFTMAX_NUM_THREADS, else all processors of this process, or
        as many as NUMBA_NUM_THREADS or OMP_NUM_THREADS allows, which joblib and dask set in their workers. Results do
        not depend on it.
    precision : {"highest", "high", "medium"}
        Of the products of float32, float16 and uint8 features on a GPU: float32 throughout; TF32 operands (10 bits of
        mantissa, relative error 5e-4 each); bfloat16 operands (7 bits, 4e-3 each). Sums are float32 always. The CPU
        computes in "highest" whatever is asked for.

    Returns
    -------
    Backend
        Its `name`, `reason`, `device` and `n_threads` say what was decided.

    Raises
    ------
    BackendUnavailableError
        A GPU was asked for by name and cannot be had; says why.
    ValueError
        An unknown name.
    """
    if isinstance(backend, Backend):
        return backend
    name = backend if isinstance(backend, str) else ""
    check_choice("precision", precision, ("highest", "high", "medium"))
    threads = default_threads() if n_threads is None else min(check_count("n_threads", n_threads), MOST_THREADS)
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdecimal()):
        index = int(name[5:] or 0)
        found = probe(index)
        if not found.works:
            raise BackendUnavailableError(
                f"backend={backend!r} cannot be had: {found.reason}; use backend='auto' or 'cpu'"
            )
        return _gpu(index, found, threads, precision)
    if name not in ("auto", "cpu", "numpy"):
        raise ValueError(f"backend={backend!r} is not known; use one of 'auto', 'cpu', 'numpy', 'cuda', 'cuda:<i>'")
    no_gpu = ""
    if name == "auto":
        found = probe(0)
        if found.works:
            return _gpu(0, found, threads, precision)
        no_gpu = f"; no GPU: {found.reason}"
    kernels, reason = (None, "asked for") if name == "numpy" else _compiled_kernels()
    if kernels is None:
        from gpusoftmax.cpu import fallback

        operations, where = CpuOperations(threads, fallback), "CPU, plain NumPy"
        return Backend("numpy", reason + no_gpu, np, where, threads, operations, precision=precision)
    operations = CpuOperations(threads, kernels)
    return Backend("cpu", reason + no_gpu, np, "CPU", threads, operations, operations, precision)


def _gpu(index: int, found: Probe, threads: int, precision: str) -> Backend:
    from gpusoftmax.cuda.ops import CudaOperations, array_module

    name = f"cuda:{index}"
    operations = CudaOperations(precision)
    device = f"{found.device}, {name}"
    return Backend(name, found.reason, array_module(), device, threads, operations, precision=precision)


def gpu_of(x: Any) -> int | None:
    """The GPU that holds x, or None for what is on the host: arrays tell by DLPack (NumPy, CuPy, PyTorch, JAX)."""
    if not hasattr(x, "__dlpack_device__"):
        return None
    kind, index = x.__dlpack_device__()
    return int(index) if int(kind) in ON_CUDA else None


def get_backend_for(backend: str | Backend, n_threads: int | None, **arrays: Any) -> Backend:
    """As `get_backend`, but an array that is on a GPU stays there and decides.

    Raises
    ------
    TypeError
        The arrays are on different devices, or elsewhere than `backend` says. Lists and numbers are nowhere yet.
    """
    places = {name: gpu_of(x) for name, x in arrays.items() if hasattr(x, "__dlpack_device__")}
    if all(place is None for place in places.values()):
        return get_backend(backend, n_threads)

    def words(place: int | None) -> str:
        return "the host" if place is None else f"cuda:{place}"

    if len(set(places.values())) > 1:
        listed = ", ".join(f"{name} on {words(place)}" for name, place in places.items())
        raise TypeError(
            f"the arrays are on different devices ({listed}); move them to one, with cupy.asarray or .get()"
        )
    (place,) = set(places.values())
    device = get_backend(words(place) if backend in ("auto", "cuda") else backend, n_threads)
    if device.gpu != place:
        raise TypeError(
            f"{', '.join(places)} on {words(place)}, but backend={backend!r}; use backend='auto', or X.get()"
        )
    return device
