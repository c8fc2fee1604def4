"""The choice of the backend: `get_backend` decides once what computes and on which device.

It returns a `Backend`, a small frozen object that is passed down explicitly. There is no global state and no context
variable: fits on different devices in different threads do not affect each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_count
from gpusoftmax.checks.sparse import is_sparse_on_gpu
from gpusoftmax.cpu import facts
from gpusoftmax.cpu.facts import CompiledFor
from gpusoftmax.cpu.linear_algebra import CpuLinearAlgebra
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.threads import (
    MOST_THREADS,
    available_threads,
    for_each,
    leaf_rows,
    single_threaded_blas,
    sum_over_blocks,
    sum_over_leaves,
)
from gpusoftmax.cuda.memory import ON_CUDA
from gpusoftmax.cuda.probe import Probe, probe
from gpusoftmax.exceptions import BackendUnavailableError
from gpusoftmax.operations import LinearAlgebra, Operations, SgdStretch
from gpusoftmax.tree import Partial

THREADS_VARIABLE = "GPUSOFTMAX_NUM_THREADS"
# variables of other libraries, in order of precedence; joblib and dask set them in their workers, which share the CPU
THREADS_OF_OTHERS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Backend:
    """A backend: the device that holds the arrays, and the operations on them.

    Attributes
    ----------
    name : str
        "cpu" (fused Numba kernels and BLAS), "numpy" (BLAS and plain NumPy) or "cuda:<i>".
    reason : str
        Why this backend was chosen, in words for a user.
    xp : module
        The array module: numpy or cupy.
    device : str
        Description of the device.
    n_threads : int
        Number of threads on the CPU.
    ops : Operations
        The fused operations.
    sgd_stretch : SgdStretch or None
        Several SGD steps in one call; None if the backend does not offer this.
    precision : str
        Precision of float32 products: "highest", "high" or "medium", see `get_backend`.
    """

    name: str
    reason: str
    xp: ModuleType
    device: str
    n_threads: int
    ops: Operations
    sgd_stretch: SgdStretch | None = None
    precision: str = "highest"

    @cached_property
    def gpu(self) -> int | None:
        """The index of the GPU, or None."""
        return int(self.name[5:]) if self.name.startswith("cuda:") else None

    @cached_property
    def linalg(self) -> LinearAlgebra:
        """Products and decompositions of dense matrices."""
        if self.gpu is None:
            return CpuLinearAlgebra(self.n_threads)
        from gpusoftmax.cuda.linear_algebra import CudaLinearAlgebra

        return CudaLinearAlgebra()

    @property
    def queues_work(self) -> bool:
        """Whether operations are queued, so that to look at a number is to wait for all that was queued before.

        It then pays to queue first what will probably be needed, and to look at all numbers together; see `fetch`.
        """
        return self.gpu is not None

    def active(self) -> AbstractContextManager[Any]:
        """Make this device the current one, as a context manager. Public functions enter it; internal ones do not."""
        return nullcontext() if self.gpu is None else self.xp.cuda.Device(self.gpu)

    def asarray(self, x: Any) -> Any:
        """Convert `x` to an array on this device; it is copied only if it is elsewhere. Takes PyTorch and JAX tensors.

        Raises
        ------
        MemoryError
            `x` does not fit into the GPU's memory; the message says how much is missing.
        """
        if self.gpu is None:
            return np.asarray(x)
        from gpusoftmax.cuda.memory import upload

        return upload(x)

    def to_numpy(self, x: Any) -> Array:
        """Convert an array on the device to a NumPy array; waits until it is computed."""
        return np.asarray(x) if self.gpu is None else np.asarray(self.xp.asnumpy(self.asarray(x)))

    def fetch(self, *arrays: Any) -> list[Array]:
        """Convert arrays on the device to NumPy arrays, as `to_numpy` does, but wait once and copy once for all."""
        if self.gpu is None:
            return [np.asarray(x) for x in arrays]
        from gpusoftmax.cuda.memory import download

        return download(arrays)

    def on_host(self, x: Any) -> Any:
        """Copy `x` to the host if it is on a GPU; anything else is returned as it is, without conversion."""
        return x if gpu_of(x) is None else self.to_numpy(x)

    def for_each(self, work: Callable[[range], Any], n_items: int) -> Sequence[Any]:
        """Call `work(run)` for consecutive runs of items on the host's threads; see `cpu.threads.for_each`."""
        return for_each(work, n_items, self.n_threads)

    def for_each_on_device(self, work: Callable[[range], Any], n_items: int) -> Sequence[Any]:
        """Call `work` as `for_each` does, with arrays of this device; for a GPU, in the caller's thread alone.

        Other threads would have to set their current CUDA device first.
        """
        return for_each(work, n_items, self.n_threads if self.gpu is None else 1)

    def sum_over_rows(self, part: Callable[[slice], Partial], n: int, columns: int) -> Partial:
        """Sum `part(rows)` over all n rows of arrays on this device.

        On the host threads share the work, with the same bits for any number of them: the rows are cut into leaves,
        whose length depends on the number of columns, and summed along a fixed tree. A GPU has one part, of all rows.
        """
        if self.gpu is not None:
            return part(slice(0, n))
        step = leaf_rows(columns)

        def leaf(index: int) -> Partial:
            return part(slice(index * step, min((index + 1) * step, n)))

        return sum_over_leaves(leaf, -(-n // step), self.n_threads)

    def sum_over_blocks(self, part: Callable[[slice], Partial], d: int, columns: int) -> Partial:
        """Sum `part(rows)` over blocks of the d rows of some vectors (d, K, c), with K c = `columns` numbers in a row.

        It is for work that is bound by memory: several operations on a block read it from the cache. On the host
        threads share the blocks, and the bits are the same for any number of threads. A GPU has one block, of all rows.
        """
        return part(slice(0, d)) if self.gpu is not None else sum_over_blocks(part, d, columns, self.n_threads)

    @staticmethod
    def single_threaded_blas() -> AbstractContextManager[None]:
        """Limit the host's BLAS to one thread, as a context manager.

        The bits of its results depend on the number of its threads, and its waiting threads slow down ours.
        """
        return single_threaded_blas()

    def on_this_host(self) -> Backend:
        """Return this backend, or that of the host if it is a GPU's; which has `HessianProducts`."""
        return self if self.gpu is None else get_backend("cpu", self.n_threads)

    def synchronize(self) -> None:
        """Wait until the work queued on the current stream is done."""
        if self.gpu is not None:
            self.xp.cuda.get_current_stream().synchronize()

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of `get_backend`, because pickle and skops cannot store modules."""
        return {"backend": self.name, "n_threads": self.n_threads, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Call `get_backend` again, in the process that loads the object."""
        vars(self).update(vars(get_backend(**state)))


def default_threads() -> int:
    """Default number of threads; see `threads_and_origin`."""
    return threads_and_origin()[0]


def threads_and_origin() -> tuple[int, str]:
    """Default number of threads on the CPU, and where the number comes from.

    GPUSOFTMAX_NUM_THREADS if it is set; else the number of processors that this process may use, or fewer if
    NUMBA_NUM_THREADS or OMP_NUM_THREADS says so. These two belong to other libraries, so values that are not numbers
    are ignored here. "4,2" means four threads, each with two nested ones.

    Raises
    ------
    ValueError
        GPUSOFTMAX_NUM_THREADS is not a valid number of threads.
    """
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        available = available_threads()
        for name in THREADS_OF_OTHERS:
            limit = os.environ.get(name, "").partition(",")[0].strip()
            # int() refuses very long texts
            if limit.isascii() and limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= available:
                return int(limit), f"{name}={shown(os.environ[name])}"
        return available, "all processors of this process"
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(
            f"the environment variable {THREADS_VARIABLE}={text!r} is not a thread count; "
            f"set a whole number from 1 to {MOST_THREADS}, or unset it"
        )
    return int(text), f"{THREADS_VARIABLE}={text}"


def available_backends(n_threads: int | None = None) -> dict[str, tuple[bool, str]]:
    """Check which backends are available on this machine; maps each name to whether it is, and why."""
    gpu, cpu = probe(0), get_backend("cpu", n_threads)
    return {
        "cuda": (gpu.works, gpu.reason),
        "cpu": (cpu.name == "cpu", cpu.reason),
        "numpy": (True, "plain NumPy is always there"),
    }


def compiled_for() -> CompiledFor | None:
    """Target of the compiled CPU kernels, and where they are cached; None without compiled kernels."""
    return facts.compiled_for() if get_backend("cpu").name == "cpu" else None


def _compiled_kernels() -> tuple[ModuleType | None, str]:
    """Import the Numba kernels; returns them, or None, and an explanation."""
    try:
        from gpusoftmax.cpu import kernels  # imports Numba: 0.3 s
    except ImportError as error:
        return None, f"no compiled kernels, since Numba cannot be imported ({error})"
    return kernels, "compiled kernels"


def get_backend(backend: str | Backend = "auto", n_threads: int | None = None, precision: str = "highest") -> Backend:
    """Choose the backend.

    Parameters
    ----------
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"} or Backend
        "auto" chooses the GPU if a kernel compiles and runs on it, else the CPU; `reason` says why. "cpu" means
        compiled kernels if Numba is installed, else NumPy; "numpy" always means plain NumPy. A Backend is returned
        unchanged.
    n_threads : int, optional
        Number of threads on the CPU. Default: the environment variable GPUSOFTMAX_NUM_THREADS, else all processors of
        this process, or as many as NUMBA_NUM_THREADS or OMP_NUM_THREADS allows, which joblib and dask set in their
        workers. Results do not depend on it.
    precision : {"highest", "high", "medium"}
        Precision of matrix products on a GPU, unless features are float64. "highest": float32 operands; features of 8
        and 16 bits stay as they are, and weights and gradients become sums of 16-bit numbers (22 bits of mantissa,
        relative error 2.4e-7, with bfloat16 features 24 bits). "high": TF32 operands (10 bits, 5e-4 each); "medium":
        bfloat16 operands (7 bits, 4e-3 each). Sums are always float32. The CPU always computes in float32.

    Returns
    -------
    Backend
        Its `name`, `reason`, `device` and `n_threads` describe the choice.

    Raises
    ------
    BackendUnavailableError
        The requested GPU is not available; the message says why.
    ValueError
        The name is unknown.
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
    from gpusoftmax.cuda.sgd_steps import CudaSgdStretch

    name, stretch = f"cuda:{index}", CudaSgdStretch()
    operations = CudaOperations(precision)
    device = f"{found.device}, {name}"
    return Backend(name, found.reason, array_module(), device, threads, operations, stretch, precision)


def gpu_of(x: Any) -> int | None:
    """Index of the GPU that holds x, or None if x is on the host; asks by DLPack (NumPy, CuPy, PyTorch, JAX).

    A sparse matrix of CuPy is where its values are.
    """
    if is_sparse_on_gpu(x):
        x = x.data
    if not hasattr(x, "__dlpack_device__"):
        return None
    kind, index = x.__dlpack_device__()
    return int(index) if int(kind) in ON_CUDA else None


def get_backend_for(backend: str | Backend, n_threads: int | None, **arrays: Any) -> Backend:
    """Choose the backend for given arrays: like `get_backend`, but arrays that are on a GPU decide.

    Raises
    ------
    TypeError
        The arrays are on different devices, or not on that of `backend`. Lists and numbers fit any device.
    """
    places = {name: gpu_of(x) for name, x in arrays.items() if hasattr(x, "__dlpack_device__") or is_sparse_on_gpu(x)}
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
    chosen = get_backend(words(place) if backend in ("auto", "cuda") else backend, n_threads)
    if chosen.gpu != place:
        raise TypeError(
            f"{', '.join(places)} on {words(place)}, but backend={backend!r}; use backend='auto', or X.get()"
        )
    return chosen
