"""Choosing a backend, and that all backends offer the same operations."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import gpusoftmax.cpu
from gpusoftmax import array
from gpusoftmax.array import (
    THREADS_OF_OTHERS,
    THREADS_VARIABLE,
    Backend,
    Operations,
    get_backend,
    get_backend_for,
    threads_and_origin,
)
from gpusoftmax.cpu import fallback
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.threads import MOST_THREADS, available_threads
from gpusoftmax.cuda.ops import CudaOperations
from gpusoftmax.cuda.probe import Probe
from gpusoftmax.exceptions import BackendUnavailableError
from tests.support.installed import BACKENDS

needs_numba = pytest.mark.skipif("cpu" not in BACKENDS, reason="Numba is not installed")


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where `import numba` fails."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "gpusoftmax.cpu.kernels", raising=False)
    monkeypatch.delattr(gpusoftmax.cpu, "kernels", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, whatever this machine has."""
    monkeypatch.setattr(array, "probe", lambda index: Probe(False, f"device {index} is made of wood"))


@needs_numba
@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_compiled_kernels_are_used_where_numba_is_installed(name: str) -> None:
    backend = get_backend(name)
    assert backend.name == "cpu"
    assert backend.reason.startswith("compiled kernels")


@pytest.mark.usefixtures("no_gpu")
def test_auto_says_why_there_is_no_gpu() -> None:
    assert get_backend("auto").reason.endswith("; no GPU: device 0 is made of wood")


def test_who_asks_for_the_cpu_is_told_nothing_about_gpus() -> None:
    assert "GPU" not in get_backend("cpu").reason


def test_numpy_is_plain_numpy_although_numba_may_be_installed() -> None:
    backend = get_backend("numpy")
    assert (backend.name, backend.ops.kernels) == ("numpy", fallback)


@pytest.mark.usefixtures("no_numba", "no_gpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_numba_numpy_computes_and_says_why(name: str) -> None:
    backend = get_backend(name)
    assert (backend.name, backend.ops.kernels) == ("numpy", fallback)
    assert "Numba cannot be imported" in backend.reason


def test_a_backend_is_returned_as_it_is() -> None:
    backend = get_backend("numpy", n_threads=3)
    assert get_backend(backend) is backend


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:", "cuda:x", "cuda:-1", "torch", None, 0])
def test_an_unknown_name_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ValueError, match="is not known; use one of 'auto', 'cpu', 'numpy', 'cuda', 'cuda:<i>'"):
        get_backend(name)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_a_gpu_that_cannot_be_had_is_an_error_that_says_why_and_what_to_do(name: str, index: int) -> None:
    message = f"backend='{name}' cannot be had: device {index} is made of wood; use backend='auto' or 'cpu'"
    with pytest.raises(BackendUnavailableError, match=message):
        get_backend(name)


@pytest.mark.parametrize("precision", ["single", "", None])
def test_an_unknown_precision_is_refused_with_the_known_ones(precision: Any) -> None:
    with pytest.raises(ValueError, match=r"precision=.* is not known; use one of 'highest', 'high', 'medium'"):
        get_backend("numpy", precision=precision)


def test_a_backend_survives_pickling(backend: Backend) -> None:
    again = pickle.loads(pickle.dumps(backend))
    assert again == backend


class OnGpu:
    """All that is looked at to see where an array is."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index  # kDLCUDA


@pytest.mark.parametrize("other", [OnGpu(1), np.zeros(3)], ids=["two GPUs", "GPU and host"])
def test_arrays_on_different_devices_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match=r"different devices \(X on cuda:0, y on (cuda:1|the host)\)"):
        get_backend_for("auto", None, X=OnGpu(0), y=other, b=[1, 2, 3])


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_an_array_on_a_gpu_is_not_moved_to_the_host_unasked(name: str) -> None:
    with pytest.raises(TypeError, match=f"X on cuda:0, but backend='{name}'; use backend='auto', or X.get()"):
        get_backend_for(name, None, X=OnGpu(0))


def test_arrays_on_the_host_and_lists_go_where_one_says() -> None:
    assert get_backend_for("numpy", 3, X=np.zeros(3), y=[1, 2]) == get_backend("numpy", 3)


@pytest.mark.parametrize("n_threads", [1, 3, np.int64(5)])
def test_the_thread_count_reaches_the_operations(n_threads: Any) -> None:
    backend = get_backend("numpy", n_threads)
    assert (backend.n_threads, backend.ops.n_threads) == (n_threads, n_threads)


@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_bad_thread_count_is_refused_by_name(n_threads: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"n_threads={n_threads}"):
        get_backend("numpy", n_threads)


def test_more_threads_than_the_pool_has_count_as_the_pool() -> None:
    assert get_backend("numpy", 10**6).n_threads == MOST_THREADS


@pytest.mark.parametrize("text", ["3", " 3 ", "03"])
def test_the_environment_sets_the_default_thread_count(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    assert get_backend("numpy").n_threads == 3


def test_an_argument_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert get_backend("numpy", 2).n_threads == 2


@pytest.mark.parametrize("text", [None, "", "  "])
def test_without_a_setting_all_processors_are_used(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    if text is None:
        monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(THREADS_VARIABLE, text)
    for name in THREADS_OF_OTHERS:
        monkeypatch.delenv(name, raising=False)
    assert get_backend("numpy").n_threads == available_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not limit processes to processors")
def test_the_default_thread_count_follows_the_processors_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    assert available_threads() <= len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight processors, and an environment that says nothing of threads."""
    monkeypatch.setattr(array, "available_threads", lambda: 8)
    for name in (THREADS_VARIABLE, *THREADS_OF_OTHERS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", THREADS_OF_OTHERS)
@pytest.mark.parametrize(("text", "expected"), [("4", 4), (" 4 ", 4), ("4,2", 4), ("8", 8)])
def test_workers_take_the_threads_that_joblib_and_dask_leave_them(
    name: str, text: str, expected: int, eight: pytest.MonkeyPatch
) -> None:
    eight.setenv(name, text)
    assert threads_and_origin() == (expected, f"{name}={text!r}")
    eight.setenv(THREADS_VARIABLE, "5")
    assert threads_and_origin() == (5, f"{THREADS_VARIABLE}=5")


@pytest.mark.parametrize("text", ["abc", "", "0", "-1", "1.5", "64", ",2", "²", "9" * 5000])
def test_what_is_no_limit_in_the_variables_of_others_is_left_to_them(text: str, eight: pytest.MonkeyPatch) -> None:
    for name in THREADS_OF_OTHERS:
        eight.setenv(name, text)
    assert threads_and_origin() == (8, "all processors of this process")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "2 3", "1_0", "²", "\u0663"])
def test_a_bad_setting_in_the_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{THREADS_VARIABLE}='{text}' is not a thread count"):
        get_backend("numpy")


OPERATIONS = [name for name in vars(Operations) if not name.startswith("_")]


@pytest.mark.parametrize("operations", [CpuOperations, CudaOperations])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_the_arguments_of_the_protocol(name: str, operations: type) -> None:
    def arguments(owner: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(owner, name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert arguments(operations) == arguments(Operations)


@pytest.mark.parametrize(
    ("operations", "more"),
    [(CpuOperations, ["sgd_steps", "sparse_sgd_steps", "hessian_product"]), (CudaOperations, [])],
    ids=["CPU", "CUDA"],
)
def test_a_back_end_has_no_operation_outside_the_protocols(operations: type, more: list[str]) -> None:
    public = {name for name, value in vars(operations).items() if not name.startswith("_") and callable(value)}
    assert public == {*OPERATIONS, *more}
