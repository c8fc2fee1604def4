"""What a worker adds up with: its CPU, or its GPU; and how long the leaves of their sums are.

Each class has the same methods. Those that return lengths are functions of the shape alone, by which the client, which
needs no GPU, divides X and adds up what comes back. The others run on a worker. Nodes are NumPy arrays.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

from gpusoftmax._typing import Array
from gpusoftmax.array import get_backend
from gpusoftmax.cluster.memo import Memo
from gpusoftmax.cpu import column_sums as cpu_columns
from gpusoftmax.cpu import gradients as cpu_gradients
from gpusoftmax.cpu import threads as cpu_threads
from gpusoftmax.cpu.ops import SCORE_BLOCK, CpuOperations
from gpusoftmax.cuda import chunks
from gpusoftmax.cuda import column_sums as cuda_columns
from gpusoftmax.cuda import gradients as cuda_gradients
from gpusoftmax.cuda.copying import upload_rows
from gpusoftmax.cuda.memory import has_room, upload
from gpusoftmax.cuda.ops import CudaOperations, array_module
from gpusoftmax.cuda.probe import facts, pci_bus_id, probe
from gpusoftmax.exceptions import BackendUnavailableError
from gpusoftmax.tree import Nodes

ON_GPUS = "cuda"  # the backend of workers that compute on their GPUs


class Part(NamedTuple):
    """The rows of a partition, on the host; the number of the first; and the columns that go with them, as labels."""

    rows: Any
    first: int
    columns: list[Any]


@dataclass(frozen=True)
class CpuSums:
    """Sums by a CPU."""

    ops: CpuOperations

    def partition_unit(self, d: int) -> int:
        """Rows that a partition has a multiple of: scores are computed in blocks of their own."""
        return math.lcm(cpu_threads.leaf_rows(d), SCORE_BLOCK)

    def gradient_leaf(self, W: Array) -> int:
        """Rows of a leaf of `gradient`."""
        return cpu_gradients.gradient_leaf(self.ops.kernels, W)

    def moment_leaf(self, d: int) -> int:
        """Rows of a leaf of `moments`."""
        return cpu_threads.leaf_rows(d)

    def product_leaf(self, d: int, columns: int) -> int:
        """Rows of a leaf of `products`, for so many columns at a time."""
        return cpu_threads.leaf_rows(d)

    def columns_at_once(self, d: int, columns: int) -> int:
        """How many columns of `products` are computed in one pass, as in memory."""
        return max(1, cpu_gradients.LARGE_GRADIENT // (8 * d))

    def rows(self, X: Any) -> Any:
        """Rows as they are read; arrays that came from another process may not be aligned."""
        return np.require(X, requirements="A") if isinstance(X, np.ndarray) else X

    def array(self, x: Array) -> Any:
        """What came with the work, where it is computed with."""
        return np.require(x, requirements=("A", "W"))

    column = array

    def gradient(self, part: Part, W: Array, b: Array, loss: int, with_gradient: bool) -> Nodes:
        """Sum losses, correct weights and gradients; the columns are labels and weights."""
        labels, weights = part.columns
        W, b = self.array(W), self.array(b)
        if weights is not None and weights.shape[1] != b.shape[0]:
            weights = np.repeat(weights, b.shape[0], axis=1)
        sums = cpu_gradients.GradientSums(self.ops.kernels, self.ops.n_threads, W, b, loss, with_gradient)
        return sums.over(part.rows, labels, weights, first_row=part.first).parts()

    def moments(self, part: Part, centre: Array) -> Nodes:
        """Sum s, s (x - centre) and s (x - centre)^2; the column is s (m,), or None."""
        (s,) = part.columns
        sums = cpu_columns.moment_sums(self.ops.kernels, part.rows, s, centre, None, self.ops.n_threads, part.first)
        return sums.parts()

    def products(
        self, part: Part, coefficients: Callable[[slice], Any], columns: slice, dtype: Any, squared: bool
    ) -> Nodes:
        """Sum x_i^T q_i and q_i; `coefficients` returns q for some of the rows."""
        return cpu_columns.product_sums(
            self.ops.kernels, part.rows, coefficients, columns, dtype, squared, None, self.ops.n_threads, part.first
        ).parts()

    def scores(self, operation: str, part: Part, W: Array, b: Array) -> Array:
        """Return what one of `Operations` returns for all rows."""
        found: Array = getattr(self.ops, operation)(part.rows, self.array(W), self.array(b))
        return found


_on_gpu = Memo()  # by what is on the host, where the cluster keeps it


@dataclass(frozen=True)
class GpuSums:
    """Sums by the GPU of a worker's process, with the bits that this GPU gives for all of X in its memory.

    What the worker keeps from pass to pass is uploaded once: labels and weights always; rows if they fit beside a
    pass, else they are copied in each pass, chunk by chunk.
    """

    ops: CudaOperations

    def partition_unit(self, d: int) -> int:
        """Rows that a partition has a multiple of: the longest leaf of all; chunks of scores are not longer."""
        return chunks.leaf_rows(chunks.chunk_rows(d, 1))

    def gradient_leaf(self, W: Array) -> int:
        """Rows of a leaf of `gradient`."""
        return cuda_gradients.gradient_leaf(W)

    def moment_leaf(self, d: int) -> int:
        """Rows of a leaf of `moments`."""
        return self.product_leaf(d, 1)

    def product_leaf(self, d: int, columns: int) -> int:
        """Rows of a leaf of `products`, for so many columns at a time."""
        return chunks.leaf_rows(chunks.float64_rows(d, columns))

    def columns_at_once(self, d: int, columns: int) -> int:
        """How many columns of `products` are computed in one pass, as in memory: all."""
        return columns

    def rows(self, X: Any) -> Any:
        """Rows as they are looked at, on the host."""
        return X

    def array(self, x: Array) -> Any:
        """What came with the work, where it is computed with."""
        return upload(np.require(x, requirements=("A", "W")))

    def column(self, x: Array) -> Any:
        """What comes with the rows in every pass, where it is computed with."""
        return _on_gpu.get((x,), lambda: self.array(x))

    def _rows(self, X: Any) -> Any:
        """Rows on the GPU if there is room for them, else blocks of them."""
        in_blocks = HostRows(X) if isinstance(X, np.ndarray) else X
        uploaded = _on_gpu.get((X,), lambda: upload_rows(in_blocks) if has_room(in_blocks, self.ops) else None)
        return in_blocks if uploaded is None else uploaded

    def gradient(self, part: Part, W: Array, b: Array, loss: int, with_gradient: bool) -> Nodes:
        """See `CpuSums`."""
        (labels, weights), K = part.columns, b.shape[0]
        if weights is not None and weights.shape[1] != K:
            weights = array_module().repeat(weights, K, axis=1)
        sums = cuda_gradients.GradientSums(self.array(W), self.array(b), loss, with_gradient, self.ops.precision)
        return _to_host(sums.over(self._rows(part.rows), labels, weights, first_row=part.first).parts())

    def moments(self, part: Part, centre: Array) -> Nodes:
        """See `CpuSums`."""
        (s,) = part.columns
        sums = cuda_columns.moment_sums(self._rows(part.rows), s, self.array(centre), None, part.first)
        return _to_host(sums.parts())

    def products(
        self, part: Part, coefficients: Callable[[slice], Any], columns: slice, dtype: Any, squared: bool
    ) -> Nodes:
        """See `CpuSums`."""
        rows = self._rows(part.rows)
        sums = cuda_columns.product_sums(rows, coefficients, columns, dtype, squared, None, part.first)
        return _to_host(sums.parts())

    def scores(self, operation: str, part: Part, W: Array, b: Array) -> Array:
        """See `CpuSums`."""
        found = getattr(self.ops, operation)(self._rows(part.rows), self.array(W), self.array(b))
        on_host: Array = array_module().asnumpy(found)
        return on_host


def _to_host(nodes: Nodes) -> Nodes:
    return {place: tuple(map(array_module().asnumpy, node)) for place, node in nodes.items()}


@dataclass(eq=False)
class HostRows:
    """Rows in memory as `operations.RowBlocks`, for a GPU that has no room for them."""

    matrix: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features."""
        return self.matrix.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return self.matrix.nbytes

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: Any) -> Array:
        found: Array = self.matrix[rows]
        return found

    def blocks(self, step: int, within: int | None = None) -> Iterator[tuple[int, Array]]:
        """See `RowBlocks`."""
        most = within or max(len(self.matrix), 1)
        for first in range(0, len(self.matrix), most):
            yield first, self.matrix[first : first + most]


WorkerSums = CpuSums | GpuSums


def sums_for(backend: str, n_threads: int) -> WorkerSums:
    """Return the sums of workers whose backend is "cpu", "numpy" or "cuda", without looking for a GPU."""
    if backend == ON_GPUS:
        return GpuSums(CudaOperations())
    ops = get_backend(backend, n_threads).ops
    assert isinstance(ops, CpuOperations)
    return CpuSums(ops)


def sums_of_worker(backend: str, n_threads: int) -> WorkerSums:
    """Return what adds up in this process.

    Raises
    ------
    BackendUnavailableError
        It has no GPU, and was asked for it; the message names the process.
    """
    if backend == ON_GPUS and not (found := probe()).works:
        raise BackendUnavailableError(
            f"the worker {this_process()} has no GPU: {found.reason}; start one worker for each GPU, which sees it "
            "(CUDA_VISIBLE_DEVICES), and no others, or pass backend='cpu'"
        )
    return sums_for(backend, n_threads)


def this_process() -> str:
    """Name this process for messages."""
    return f"on {platform.node()} (process {os.getpid()})"


@cache
def fingerprint(backend: str) -> dict[str, str]:
    """Describe what decides about the bits of results in this process, by name."""
    found = {"machine": platform.machine(), "numpy": np.__version__}
    if backend == ON_GPUS:
        return found | {"backend": ON_GPUS} | facts()
    found["backend"] = get_backend(backend).name
    if found["backend"] == "cpu":
        from gpusoftmax.cpu.vectors import MACHINE

        found |= {"vectors": f"{MACHINE.name}, {8 * MACHINE.vector} bits", "numba": version("numba")}
    libraries = [one for one in threadpool_info() if one["user_api"] == "blas"]
    words = {" ".join(str(one.get(key)) for key in ("internal_api", "version", "architecture")) for one in libraries}
    return found | {"BLAS": ", ".join(sorted(words))}


def gpu_in_use(backend: str) -> str:
    """Name the GPU that this process computes with, by machine and place; empty if it computes on the CPU."""
    return f"{pci_bus_id()} on {platform.node()}" if backend == ON_GPUS else ""
