"""The thread pool, the order of summation, and BLAS limited to one thread.

A pass over the data is divided into *leaves*, runs of rows whose length depends only on the shape of the problem. Their
results are summed along a fixed binary tree, see `gpusoftmax.tree`. It does not matter which thread computes a leaf, or
when, so any number of threads gives the same bits.

The threads are our own, and run kernels that release the GIL. Numba's `parallel=True` is not used: the threading layer
that pip installs on macOS aborts the process if two Python threads enter it, and libgomp kills forked children.
"""

from __future__ import annotations

import functools
import os
import threading
from _thread import start_new_thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from gpusoftmax.tree import Partial, TreeSum

MOST_THREADS = 1024  # in the pool

# A leaf has FEW_ROWS, or as many rows as have EVEN_ELEMENTS features, up to MOST_ROWS; it has at most LEAF_ELEMENTS
# features. 10,000 rows of 384 were once 5 leaves, so that one of two threads waited for the other.
LEAF_ELEMENTS, EVEN_ELEMENTS = 1 << 21, 1 << 18
FEW_ROWS, MOST_ROWS = 1024, 2048
LEAF_MULTIPLE = 16  # rows that a kernel processes at a time
VECTOR_BLOCK = 1 << 17  # numbers of a vector in a block: with fewer, threads wait for the GIL (1 << 16: 5% slower)


def available_threads() -> int:
    """The number of processors that this process may use; affinity and container limits are respected."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return _cpu_count(frozenset(affinity), os.environ.get("LOKY_MAX_CPU_COUNT"))


@functools.cache
def _cpu_count(*_: object) -> int:
    """joblib's number of processors, for the affinity and the variable that it depends on.

    It also reads a container's limit from files, which would take most of the time of a prediction.
    """
    from joblib import cpu_count  # installed with scikit-learn; imported here because it takes 0.1 s

    return int(cpu_count())


class _Pool:
    """Threads that wait for tasks. A thread is started only if none is idle.

    concurrent.futures is not used for two reasons. Its pool accepts no tasks after the main thread has ended, when exit
    handlers may still predict. And its locks are Python code, which Ctrl-C can interrupt while they are held, so that
    all threads wait for ever; so are the locks in `threading.Thread.start`. The interpreter does not wait for our
    threads when it exits.
    """

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[None]]] = SimpleQueue()
        self.lock, self.threads, self.unfinished = threading.Lock(), 0, 0

    def take(self, task: Callable[[], None], ended: SimpleQueue[None]) -> bool:
        """Have a thread do the task and then put None into `ended`.

        Returns False if there is no thread for it, as in an interpreter that is shutting down.
        """
        with self.lock:
            if self.unfinished >= self.threads:
                if self.threads == MOST_THREADS:
                    return False
                try:
                    start_new_thread(self._work, ())
                except RuntimeError:
                    return False
                self.threads += 1
            self.unfinished += 1
        self.tasks.put((task, ended))
        return True

    def _work(self) -> None:
        while True:
            task, ended = self.tasks.get()
            task()
            with self.lock:  # before `ended`, so that whoever waits for it finds this thread idle
                self.unfinished -= 1
            ended.put(None)
            del task, ended  # they refer to the caller's arrays


_pool = _Pool()


def leaf_rows(d: int) -> int:
    """Rows of a leaf, which depend only on the number of features, never on the machine.

    A leaf has enough features to outweigh adding its gradient, and few enough rows for an even division among threads.
    """
    d = max(d, 1)
    rows = max(min(LEAF_ELEMENTS // d, max(EVEN_ELEMENTS // d, FEW_ROWS), MOST_ROWS), 64)
    return -(-rows // LEAF_MULTIPLE) * LEAF_MULTIPLE


def _runs(n_items: int, n_threads: int) -> list[range]:
    """Divide items into consecutive, nearly equal runs, at most one per thread."""
    k = max(1, min(n_items, n_threads))
    return [range(n_items * t // k, n_items * (t + 1) // k) for t in range(k)]


def for_each(work: Callable[[range], Any], n_items: int, n_threads: int) -> Sequence[Any]:
    """Call `work(run)` for consecutive runs of items, one run per thread; the caller's thread takes the first.

    An exception in any run, including Ctrl-C, is raised after all runs have ended, so that no thread still writes to
    the caller's arrays.
    """

    def quiet(run: range) -> Any:  # NumPy's error state is per thread; we report non-finite losses
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return work(run)

    runs = _runs(n_items, n_threads)
    if len(runs) == 1:
        return [quiet(runs[0])]
    results: list[Any] = [None] * len(runs)
    errors: list[BaseException] = []
    lock, ended, running, closed = threading.Lock(), SimpleQueue[None](), set[int](), False

    def elsewhere(place: int) -> None:
        with lock:
            if closed:
                return
            running.add(place)
        try:
            results[place] = quiet(runs[place])
        except BaseException as error:
            errors.append(error)
        running.remove(place)

    try:
        others = range(1, len(runs))
        own = [place for place in others if not _pool.take(functools.partial(elsewhere, place), ended)]
        for place in (0, *own):
            results[place] = quiet(runs[place])
        for _ in range(len(others) - len(own)):
            ended.get()
    finally:
        with lock:
            closed = True
        while running:  # after an exception
            with suppress(KeyboardInterrupt):  # an exception is being raised already
                ended.get()
    if errors:
        raise errors.pop()
    return results


def sum_over_leaves(leaf: Callable[[int], Partial], n_leaves: int, n_threads: int) -> Partial:
    """Sum `leaf(0), ..., leaf(n_leaves - 1)` along the tree, with the same bits for any `n_threads`."""

    return tree_over_leaves(leaf, range(n_leaves), n_threads).total(n_leaves)


def tree_over_leaves(leaf: Callable[[int], Partial], leaves: range, n_threads: int, before: int = 0) -> TreeSum:
    """Add `leaf(index)` for some leaves along the tree, as the leaf `before + index` of all."""

    def add_leaves(run: range) -> TreeSum:
        tree = TreeSum()
        for index in leaves[run.start : run.stop]:
            tree.add(0, before + index, leaf(index))
        return tree

    return TreeSum().merge(for_each(add_leaves, len(leaves), n_threads))


def sum_over_blocks(part: Callable[[slice], Partial], d: int, columns: int, n_threads: int) -> Partial:
    """Sum `part(rows)` over blocks of the d rows of some vectors that have `columns` numbers in a row."""
    step = max(1, VECTOR_BLOCK // max(columns, 1))
    if step >= d:
        return part(slice(0, d))

    def block(index: int) -> Partial:
        return part(slice(index * step, min((index + 1) * step, d)))

    return sum_over_leaves(block, -(-d // step), n_threads)


class _SingleThreadedBlas:
    """Limits BLAS to one thread while any caller is inside; the last one to leave restores what the first one found.

    OpenBLAS's bits depend on its number of threads, and its idle threads spin for some 80 ms after a product, on the
    cores that our own threads need. The setting applies to the whole process: if each of two overlapping callers saved
    and restored it, BLAS would be left at one thread for good.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[object] = set()
        self.found: list[tuple[Any, int]] = []  # libraries and the numbers of threads to restore
        self.controller: ThreadpoolController | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        me = object()
        try:
            self._enter(me)
            yield
        finally:
            try:
                self._leave(me)
            except BaseException:  # Ctrl-C in _leave: BLAS may still be at one thread
                self._leave(me)
                raise

    def _enter(self, me: object) -> None:
        with self.lock:
            if not self.inside:
                if self.controller is None:  # kept, because making one takes 190 us
                    import scipy.linalg.cython_blas  # noqa: F401 - loads a BLAS of its own, to be limited as well

                    self.controller = ThreadpoolController()
                if not self.found:
                    libraries = [one for one in self.controller.lib_controllers if one.user_api == "blas"]
                    self.found = [(library, library.num_threads) for library in libraries]
                for library, _ in self.found:
                    _limit(library, 1)
            self.inside.add(me)

    def _leave(self, me: object) -> None:
        with self.lock:
            self.inside.discard(me)
            if not self.inside:
                self.restore()

    def restore(self) -> None:
        """Set what was found; called again if Ctrl-C interrupted it."""
        for library, n_threads in self.found:
            _limit(library, n_threads)
        self.found = []


def _limit(library: Any, n_threads: int) -> None:
    """Set a library's number of threads, from any thread.

    From threadpoolctl 3.8 on its own method has an effect on OpenBLAS only in the thread that called it first.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


single_threaded_blas = _SingleThreadedBlas()


def _forget_after_fork() -> None:
    """Start afresh in a forked child, which has none of its parent's threads and would wait for them for ever."""
    global _pool
    _pool = _Pool()
    single_threaded_blas.lock = threading.Lock()
    single_threaded_blas.inside = set()
    single_threaded_blas.restore()  # the parent may be in the middle of a pass; the child is not


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forget_after_fork)
