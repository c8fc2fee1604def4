"""The stand-in keeps Fortran order where CuPy does, so that host code which assumes C order fails here, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.emulation import standin

COLUMNS_FIRST = np.asfortranarray(np.arange(6.0).reshape(2, 3))
RESULTS: dict[str, tuple[Any, str]] = {
    "array": (standin.array, "F"),
    "array in C's order": (lambda x: standin.array(x, order="C"), "C"),
    "asarray": (standin.asarray, "C"),
    "astype": (lambda x: standin.array(x).astype(np.float32), "F"),
    "copy": (lambda x: standin.array(x).copy(), "C"),
    "arithmetic": (lambda x: standin.array(x) + 0.0, "C"),
}


@pytest.mark.parametrize(("make", "order"), RESULTS.values(), ids=RESULTS)
def test_an_array_has_the_order_that_cupy_gives_it(make: Any, order: str) -> None:
    made = make(COLUMNS_FIRST)
    size = made.dtype.itemsize
    assert made.strides == ((size, 2 * size) if order == "F" else (3 * size, size))


@pytest.mark.parametrize("make", [make for make, _ in RESULTS.values()], ids=RESULTS)
def test_the_order_does_not_change_the_values(make: Any) -> None:
    np.testing.assert_array_equal(make(COLUMNS_FIRST).get(), COLUMNS_FIRST)


# work on two streams: what waits for what

ROWS = np.arange(6.0).reshape(2, 3)


class Pipeline:
    """A pinned buffer that is copied to the device on a stream of its own."""

    def __init__(self) -> None:
        self.pinned, self.device = standin.empty_pinned((2, 3)), standin.ndarray._new((2, 3), np.float64)
        self.copies, self.computing = standin.Stream(non_blocking=True), standin.Stream(ptr=standin.state.stream)

    def after(self, stream: Any) -> Any:
        """An event after what is queued on a stream."""
        event = standin.Event(disable_timing=True)
        event.record(stream)
        return event

    def copy(self) -> None:
        self.pinned[...] = ROWS
        self.device.set(self.pinned, stream=self.copies)


@pytest.fixture
def pipeline() -> Any:
    with standin.installed():
        one = Pipeline()
        one.copies.wait_event(one.after(one.computing))
        yield one
        one.copies.synchronize()
        standin.state.races.clear()


def test_work_that_waits_for_a_copy_finds_it(pipeline: Any) -> None:
    pipeline.copy()
    pipeline.computing.wait_event(pipeline.after(pipeline.copies))
    np.testing.assert_array_equal((pipeline.device + 0.0).get(), ROWS)
    standin.check_guards()


def test_work_that_does_not_wait_for_a_copy_is_found(pipeline: Any) -> None:
    pipeline.copy()
    assert np.isnan((pipeline.device + 0.0).get()).all()
    with pytest.raises(standin.StandinError, match="may still use"):
        standin.check_guards()


@pytest.mark.parametrize("waits", [True, False])
def test_a_copy_waits_for_work_that_uses_the_memory(pipeline: Any, waits: bool) -> None:
    pipeline.copy()
    pipeline.copies.synchronize()
    pipeline.device += 1.0
    if waits:
        pipeline.copies.wait_event(pipeline.after(pipeline.computing))
    pipeline.copy()
    assert bool(standin.state.races) is not waits


def test_a_copy_to_fresh_memory_waits_for_what_was_queued_before() -> None:
    with standin.installed() as machine:
        _ = standin.ndarray._new(3, np.float64) + 1.0
        one = Pipeline()
        one.copy()
        one.copies.synchronize()
        assert "may still use" in machine.races.pop()


@pytest.mark.parametrize("waits", [True, False])
def test_a_pinned_buffer_is_written_to_after_the_copy_from_it(pipeline: Any, waits: bool) -> None:
    pipeline.copy()
    copied = pipeline.after(pipeline.copies)
    pipeline.computing.wait_event(copied)  # which tells the host nothing
    if waits:
        copied.synchronize()
    pipeline.pinned[:1] = 0.0
    assert bool(standin.state.races) is not waits


@pytest.mark.parametrize("what", ["pinned", "device"])
@pytest.mark.parametrize("waits", [True, False])
def test_memory_is_freed_after_the_copy(pipeline: Any, what: str, waits: bool) -> None:
    pipeline.copy()
    copied = pipeline.after(pipeline.copies)
    if waits:
        copied.synchronize()
    copied._run()  # what is queued holds the memory here, but not on a GPU
    setattr(pipeline, what, None)
    assert bool(standin.state.races) is not waits


def test_a_copy_from_ordinary_memory_is_refused(pipeline: Any) -> None:
    with pytest.raises(standin.StandinError, match="not pinned"):
        pipeline.device.set(ROWS, stream=pipeline.copies)


# what a benchmark uses


def test_the_time_between_events_is_known_once_the_host_has_waited() -> None:
    with standin.installed():
        start, stop = standin.Event(), standin.Event()
        with pytest.raises(standin.CUDARuntimeError):
            standin.get_elapsed_time(start, stop)  # neither is recorded
        start.record()
        (standin.asarray(ROWS) + 0.0).copy()
        stop.record()
        with pytest.raises(standin.CUDARuntimeError):
            standin.get_elapsed_time(start, stop)
        stop.synchronize()
        assert standin.get_elapsed_time(start, stop) > 0


def test_pairs_of_indices_pick_and_change_single_numbers() -> None:
    with standin.installed():
        x, rows, columns = (standin.asarray(a) for a in (ROWS, np.array([0, 1]), np.array([2, 2])))
        assert x[rows, columns].get().tolist() == [2, 5]
        x[rows, columns] -= 1.0  # the column occurs twice, but no pair does
        assert x.get()[:, 2].tolist() == [1, 4]
        with pytest.raises(standin.StandinError, match="repeated"):
            x[columns - 2, columns] = 0.0


def test_what_costs_time_on_a_gpu_is_counted() -> None:
    with standin.installed() as machine:
        x = standin.asarray(np.ones((3, 4), np.float32))
        assert (machine.uploads, machine.downloads, machine.synchronisations, machine.launches) == ([48], [], 0, [])
        y = x + x
        y *= 2.0
        y[0] = x[1]
        assert machine.launches == ["add", "imul", "copy"]
        assert float(y.sum()) == 4.0 + 2 * 4 * 4.0
        y.get()
        assert (machine.downloads, machine.synchronisations) == ([4, 48], 2)
        _ = y[:, 0][y[:, 0] > 1.0]  # how many are chosen is not known before
        assert machine.synchronisations == 3
        assert machine.uploads == [48]


@pytest.mark.parametrize("value", [np.ones(4, np.float32), None], ids=["a NumPy array", "by a mask"])
def test_what_cupy_does_not_assign_or_what_waits_is_refused(value: Any) -> None:
    with standin.installed():
        x = standin.asarray(np.ones((3, 4), np.float32))
        if value is None:
            with pytest.raises(standin.StandinError, match="mask"):
                x[x > 0] = 1.0
        else:
            with pytest.raises(TypeError, match="NumPy"):
                x[0] = value


@pytest.mark.parametrize("pivot", [1.0, -1.0, np.nan])
def test_a_factor_says_where_a_matrix_is_not_positive_but_nothing_of_nan(pivot: float) -> None:
    with standin.installed():
        L = standin.asarray(np.diag([4.0, pivot, 9.0]))
        info, workspace = standin.full(1, 7, np.int32), standin.full(7, 0.0)
        standin.cusolver.dpotrf(2000, 1, 3, L.data.ptr, 3, workspace.data.ptr, 7, info.data.ptr)
        assert info.get().tolist() == [2 if pivot < 0 else 0]
        assert float(L[0, 0]) == 2.0
        # the rest of a matrix that is not positive is left over, and NaN goes on to the last entry
        np.testing.assert_equal(float(L[2, 2]), {1.0: 3.0, -1.0: 9.0}.get(pivot, np.nan))
