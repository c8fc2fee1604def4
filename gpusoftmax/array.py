"""The array module: which device computes, decided once, and what it can do.

`resolve` returns a `Backend`, a small frozen object that is passed down explicitly. There is no global and no context
variable: two fits on two devices in two threads do not meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.pool import MOST_THREADS, available_threads
from gpusoftmax.exceptions import BackendUnavailableError
from gpusoftmax.validation import check_count

Array = npt.NDArray[Any]

THREADS_VARIABLE = "GPUSOFTMAX_NUM_THREADS"


class Operations(Protocol):
    """The fused operations that every back end has, with the same names and arguments.

    Arrays are the device's own. X (n, d) is float64, float32, float16 or uint8, with any strides; W (d, K, c) and b
    (K, c) are float64 for float64 X, else float32; labels (n,) int64 in [0, c); weights (n, K) in the type of W, or
    None for all ones; loss is an index in reference.LOSSES. Sums are over rows, not means; losses and correct counts
    are float64. Nothing is checked here.
    """

    def linear_gradient(
        self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int, rows: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """One read of X, or of `rows` (int64 indices into it).

        Returns losses (K,) = sum_i s_ik loss_ik; correct (K,) = sum of s_ik over rows whose largest score (the first
        of equals) is the target's; dW (d, K, c) = sum_i s_ik x_i g_ik; db (K, c) = sum_i s_ik g_ik, where g is the
        gradient of the loss with respect to the scores x_i W_k + b_k.
        """

    def linear_losses(self, X: Any, labels: Any, W: Any, b: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """The losses and correct counts of linear_gradient alone."""

    def linear_scores(self, X: Any, W: Any, b: Any) -> Any:
        """Scores (n, K, c) = x_i W_k + b_k. A row's bits do not depend on which other rows are in the call."""

    def row_loss(self, Z: Any, labels: Any, weights: Any, loss: int) -> tuple[Any, Any]:
        """Scores Z (m, K, c) to s_ik g_ik in place; returns losses (K,) and correct (K,) as linear_gradient does."""

    def column_moments(self, X: Any, weights: Any) -> tuple[Any, Any]:
        """Weighted mean (d,) and variance (d,) of the columns of X, float64; weights (n,) or None."""


@dataclass(frozen=True)
class Backend:
    """Where arrays live and who computes.

    Attributes
    ----------
    name : str
        "cpu" (fused Numba kernels and BLAS) or "numpy" (BLAS and plain NumPy).
    reason : str
        Why this one, in words for a user.
    xp : module
        The array module: numpy.
    device : str
        The device in words.
    n_threads : int
        Threads of the operations.
    ops : Operations
        The fused operations.
    """

    name: str
    reason: str
    xp: ModuleType
    device: str
    n_threads: int
    ops: Operations
    asarray: Callable[..., Any] = np.asarray
    to_numpy: Callable[[Any], Array] = np.asarray
    synchronize: Callable[[], None] = lambda: None


def default_threads() -> int:
    """GPUSOFTMAX_NUM_THREADS if it is set, else the processors that this process may use."""
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return available_threads()
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(
            f"the environment variable {THREADS_VARIABLE}={text!r} is not a thread count; "
            f"set a whole number from 1 to {MOST_THREADS}, or unset it"
        )
    return int(text)


def _compiled_kernels() -> tuple[ModuleType | None, str]:
    """The Numba kernels, or None and why there are none."""
    try:
        from gpusoftmax.cpu import kernels  # imports Numba: 0.3 s
    except ImportError as error:
        return None, f"no compiled kernels, since Numba cannot be imported ({error})"
    return kernels, "compiled kernels"


def resolve(backend: str | Backend = "auto", n_threads: int | None = None) -> Backend:
    """Decide who computes.

    Parameters
    ----------
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"} or Backend
        "auto" takes the best that is there and says why; "cpu" means compiled kernels where Numba is installed, else
        NumPy; "numpy" means plain NumPy always. A Backend is returned as it is.
    n_threads : int, optional
        Threads on the CPU. Default: the environment's GPUSOFTMAX_NUM_THREADS, else all processors of this process.
        Results do not depend on it.

    Raises
    ------
    BackendUnavailableError
        A GPU was asked for by name and cannot be had.
    ValueError
        An unknown name.
    """
    if isinstance(backend, Backend):
        return backend
    name = backend if isinstance(backend, str) else ""
    threads = default_threads() if n_threads is None else min(check_count("n_threads", n_threads), MOST_THREADS)
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdecimal()):
        raise BackendUnavailableError(
            f"backend={backend!r} cannot be had: this version of gpusoftmax computes on the CPU only; "
            "use backend='auto' or 'cpu'"
        )
    if name not in ("auto", "cpu", "numpy"):
        raise ValueError(f"backend={backend!r} is not known; use one of 'auto', 'cpu', 'numpy', 'cuda', 'cuda:<i>'")
    kernels, reason = (None, "asked for") if name == "numpy" else _compiled_kernels()
    if kernels is None:
        from gpusoftmax.cpu import fallback

        return Backend("numpy", reason, np, "CPU, plain NumPy", threads, CpuOperations(threads, fallback))
    if name == "auto":
        reason += "; no GPU: this version of gpusoftmax computes on the CPU only"
    return Backend("cpu", reason, np, "CPU", threads, CpuOperations(threads, kernels))
