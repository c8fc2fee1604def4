"""From what a user passes to rows on a cluster. Dask is imported only if its objects are passed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gpusoftmax.array import Backend, get_backend, get_backend_for
from gpusoftmax.checks.arrays import check_features
from gpusoftmax.checks.messages import counted, shown
from gpusoftmax.checks.scalars import check_pair
from gpusoftmax.cluster.dask_executor import DaskExecutor
from gpusoftmax.cluster.executor import Executor
from gpusoftmax.cluster.ops import ClusterOperations
from gpusoftmax.cluster.rows import ClusterRows, Source
from gpusoftmax.cluster.sources import DaskArray, RowFiles, array_of_futures
from gpusoftmax.cluster.sums import ON_GPUS, sums_for
from gpusoftmax.rows.file_rows import Rows

ACCEPTED = "a dask array or data frame, a list of futures of arrays, or the rows of open_rows"


class Placed(NamedTuple):
    """What `place` returns: X on the cluster, and the other arguments of `fit` on the client."""

    rows: Any
    y: Any
    sample_weight: Any
    validation: Any
    backend: Backend


def is_dask(X: Any) -> bool:
    """Whether X is a collection of Dask."""
    return callable(getattr(X, "__dask_graph__", None))


def are_futures(X: Any) -> bool:
    """Whether X is a list of futures of `distributed`."""
    return isinstance(X, list | tuple) and len(X) > 0 and all(_is_future(one) for one in X)


def _is_future(x: Any) -> bool:
    return type(x).__module__.startswith("distributed.") and type(x).__name__ == "Future"


def computed(y: Any) -> Any:
    """Compute a collection of Dask; anything else is returned as it is."""
    return y.compute() if is_dask(y) else y


def frame_or_array(X: Any) -> Any:
    """Return an empty data frame with the columns of a dask data frame; anything else as it is."""
    return X._meta if is_dask(X) and hasattr(X, "columns") else X


def place(
    X: Any, y: Any, sample_weight: Any, validation: Any, client: Any, backend: str | Backend, n_threads: int | None
) -> Placed:
    """Prepare a fit: on a cluster if X is there, or if a client was passed; else return everything as it is.

    The backend, as users pass it, is that of this process, or of the workers: "cuda" are then their GPUs, and anything
    else their CPUs, "auto" included. The client computes on its CPU.

    X may be `ClusterRows`, with any executor; then the other arguments are not Dask's.

    Nothing is computed with X yet, unless it is a data frame, whose rows are counted. y, weights and the labels for
    validation are collected on the client.

    Raises
    ------
    ValueError, TypeError
        There is no client, or X is nothing that a cluster has; or the backend is one that clusters do not have.
    BackendUnavailableError
        X is not on a cluster, and the GPU that was asked for is not available.
    ClusterError
        The cluster has no workers.
    """
    if isinstance(X, ClusterRows):
        return Placed(X, y, sample_weight, validation, cluster_backend(backend, X.executor, n_threads))
    if client is None and not (is_dask(X) or are_futures(X)):
        return Placed(X, y, sample_weight, validation, get_backend_for(backend, n_threads, X=X))
    executor = DaskExecutor(client_for(client))
    placed = cluster_backend(backend, executor, n_threads)
    on_workers = placed.ops.backend  # type: ignore[attr-defined]
    rows = ClusterRows(executor, source_of(X, "X", executor), on_workers)
    if validation is not None:
        check_pair("validation", validation)
        Xv, yv = validation
        if is_dask(Xv) or are_futures(Xv) or isinstance(Xv, Rows):
            Xv = ClusterRows(executor, source_of(Xv, "validation[0]", executor), on_workers)
        validation = Xv, collected(yv, executor)
    y, sample_weight = collected(y, executor), collected(sample_weight, executor)
    return Placed(rows, y, sample_weight, validation, placed)


def cluster_backend(backend: str | Backend, executor: Executor, n_threads: int | None = None) -> Backend:
    """The backend of a client, its CPU, with operations that leave X on the cluster, whose backend is `backend`."""
    on_workers = _workers_backend(backend)
    client = get_backend("cpu" if on_workers in ("auto", ON_GPUS) else backend, n_threads)
    on_workers = on_workers if on_workers == ON_GPUS else client.name
    workers = executor.workers()
    operations = ClusterOperations(
        client.n_threads,
        client.ops.kernels,  # type: ignore[attr-defined]
        on_workers,
        sums_for(on_workers, client.n_threads),
    )
    device = client.device
    if on_workers == ON_GPUS:
        reason = f"for the solver; sums over rows on the GPUs of {counted(len(workers), 'worker')}"
        device = f"{device} and GPUs of workers"
    else:
        threads = sum(worker.threads for worker in workers)
        reason = f"{client.reason}, on {counted(len(workers), 'worker')} with {counted(threads, 'thread')}"
    return replace(client, reason=reason, device=device, ops=operations, sgd_stretch=None)


def _workers_backend(backend: str | Backend) -> str:
    """Return the name of the backend that the workers are asked for: "cuda", or that of a CPU, or "auto"."""
    name, precision = (backend.name, backend.precision) if isinstance(backend, Backend) else (backend, "highest")
    if not str(name).startswith("cuda"):
        return name
    if name not in (ON_GPUS, "cuda:0"):
        raise ValueError(
            f"backend={shown(name)} is a GPU of one machine, and each worker of a cluster computes with the first one "
            "that it sees (CUDA_VISIBLE_DEVICES); pass backend='cuda'"
        )
    if precision != "highest":
        raise ValueError(f"precision={precision!r} is not for clusters yet; pass backend='cuda', or fit on one machine")
    return ON_GPUS


def client_for(client: Any) -> Any:
    """Return the client, or the current one of this process; raise if there is none, or if it is closed."""
    import distributed

    if client is None:
        try:
            return distributed.get_client()
        except ValueError:
            raise ValueError(
                "X is on a Dask cluster, and there is no client; create one, distributed.Client(LocalCluster()) for "
                "this machine or Client(address), and pass client=..., or pass X.compute() if it fits into memory"
            ) from None
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise TypeError(f"client={shown(client)} is not a distributed.Client (not an asynchronous one); pass one")
    if client.status != "running":
        raise ValueError(f"client is {client.status}; create one, distributed.Client(address), and pass client=...")
    return client


def source_of(X: Any, name: str, executor: DaskExecutor) -> Source:
    """Check X as far as that is possible without computing it, and return where its rows come from."""
    if are_futures(X):
        X = array_of_futures(X, name, executor)
    elif not is_dask(X):
        if isinstance(X, Rows):
            return RowFiles(X, executor)
        raise TypeError(f"{name} is a {type(X).__name__}, and client=... needs {ACCEPTED}; leave client out")
    elif hasattr(X, "to_dask_array"):
        if hasattr(X, "columns"):
            check_features(X._meta_nonempty, name)  # names a column of text
        X = X.to_dask_array(lengths=True)
    array = X
    if not hasattr(array, "rechunk"):
        raise TypeError(f"{name} is a {type(X).__name__}; pass {ACCEPTED}")
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}. Expected 2D array, got {array.ndim}D array instead")
    if isinstance(array._meta, np.ma.MaskedArray):
        raise ValueError(f"{name} has masked chunks, and the numbers under the masks would be used; fill them")
    if not isinstance(array._meta, np.ndarray):
        kind = type(array._meta)
        raise TypeError(
            f"{name} has chunks of {kind.__module__}.{kind.__name__}, which clusters do not compute with yet; make "
            f"them NumPy arrays ({name}.map_blocks(...)), or fit on one machine"
        )
    n, d = array.shape
    if np.isnan(n):
        raise ValueError(f"{name} has chunks of unknown length; call {name}.compute_chunk_sizes() first")
    dtype = check_features(np.zeros((min(n, 1), d), array.dtype), name).dtype
    return DaskArray(array.rechunk({1: -1}).astype(dtype), executor)


def collected(y: Any, executor: DaskExecutor) -> Any:
    """Return labels or weights on the client, from Dask's collections or lists of futures; anything else as it is."""
    if is_dask(y):
        return executor.client.compute(y).result()
    if are_futures(y):
        return np.concatenate(executor.client.gather(list(y)))
    return y
