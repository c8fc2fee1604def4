"""Which back end computes, and that all of them offer the same operations."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS

import gpusoftmax.cpu
from gpusoftmax.array import THREADS_VARIABLE, Operations, resolve
from gpusoftmax.cpu import fallback
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.pool import MOST_THREADS, available_threads
from gpusoftmax.exceptions import BackendUnavailableError

needs_numba = pytest.mark.skipif("cpu" not in BACKENDS, reason="Numba is not installed")


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where `import numba` fails."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "gpusoftmax.cpu.kernels", raising=False)
    monkeypatch.delattr(gpusoftmax.cpu, "kernels", raising=False)


@needs_numba
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_compiled_kernels_are_used_where_numba_is_installed(name: str) -> None:
    backend = resolve(name)
    assert backend.name == "cpu"
    assert backend.reason.startswith("compiled kernels")


@needs_numba
def test_auto_says_why_there_is_no_gpu() -> None:
    assert "no GPU" in resolve("auto").reason


def test_numpy_is_plain_numpy_although_numba_may_be_installed() -> None:
    backend = resolve("numpy")
    assert (backend.name, backend.ops.kernels) == ("numpy", fallback)


@pytest.mark.usefixtures("no_numba")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_numba_numpy_computes_and_says_why(name: str) -> None:
    backend = resolve(name)
    assert (backend.name, backend.ops.kernels) == ("numpy", fallback)
    assert "Numba cannot be imported" in backend.reason


def test_a_backend_is_returned_as_it_is() -> None:
    backend = resolve("numpy", n_threads=3)
    assert resolve(backend) is backend


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:", "cuda:x", "cuda:-1", "torch", None, 0])
def test_an_unknown_name_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ValueError, match="is not known; use one of 'auto', 'cpu', 'numpy', 'cuda', 'cuda:<i>'"):
        resolve(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:12"])
def test_a_gpu_that_cannot_be_had_is_an_error_that_says_what_to_do(name: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"backend='{name}' cannot be had.*use backend='auto' or 'cpu'"):
        resolve(name)


@pytest.mark.parametrize("n_threads", [1, 3, np.int64(5)])
def test_the_thread_count_reaches_the_operations(n_threads: Any) -> None:
    backend = resolve("numpy", n_threads)
    assert (backend.n_threads, backend.ops.n_threads) == (n_threads, n_threads)


@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_bad_thread_count_is_refused_by_name(n_threads: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"n_threads={n_threads}"):
        resolve("numpy", n_threads)


def test_more_threads_than_the_pool_has_count_as_the_pool() -> None:
    assert resolve("numpy", 10**6).n_threads == MOST_THREADS


@pytest.mark.parametrize("text", ["3", " 3 ", "03"])
def test_the_environment_sets_the_default_thread_count(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    assert resolve("numpy").n_threads == 3


def test_an_argument_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert resolve("numpy", 2).n_threads == 2


@pytest.mark.parametrize("text", [None, "", "  "])
def test_without_a_setting_all_processors_are_used(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    if text is None:
        monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(THREADS_VARIABLE, text)
    assert resolve("numpy").n_threads == available_threads()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "2 3", "²"])
def test_a_bad_setting_in_the_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{THREADS_VARIABLE}='{text}' is not a thread count"):
        resolve("numpy")


OPERATIONS = [name for name in vars(Operations) if not name.startswith("_")]


@pytest.mark.parametrize("operations", [CpuOperations])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_the_arguments_of_the_protocol(name: str, operations: type) -> None:
    def arguments(owner: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(owner, name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert arguments(operations) == arguments(Operations)


@pytest.mark.parametrize("operations", [CpuOperations])
def test_a_back_end_has_no_operation_outside_the_protocol(operations: type) -> None:
    public = {name for name, value in vars(operations).items() if not name.startswith("_") and callable(value)}
    assert public == set(OPERATIONS)
