"""Threads, the order of summation, and BLAS held at one thread.

Rows are visited in *leaves*, runs of rows whose length depends on the shape of the problem alone. Their results are
summed along a fixed binary tree: leaf 2i with leaf 2i + 1, and so on upwards; a node without a right sibling moves up
as it is. Who computed a leaf, and when, does not matter, so any number of threads gives the same bits.

The threads are our own and run kernels that release the GIL. Numba's `parallel=True` is not used: the threading layer
that pip installs on a Mac aborts the process when two Python threads enter it, and libgomp kills forked children.
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

from gpusoftmax._typing import Array

Partial = tuple[Array, ...]  # sums over some rows, in arrays that their holder may overwrite

MOST_THREADS = 1024  # of the shared pool

LEAF_ELEMENTS = 1 << 21  # features a leaf: 688 rows of CIFAR-10, 0.4 ms of work, enough leaves for 16 cores
LEAF_ROWS = 2048  # at most
LEAF_MULTIPLE = 16  # rows that a kernel takes at a time


def available_threads() -> int:
    """The processors that this process may use: affinity and container limits are respected."""
    from joblib import cpu_count  # comes with scikit-learn; imported late because it takes 0.1 s

    return int(cpu_count())


class _Pool:
    """Threads that wait for tasks; one is started only when no idle one is left.

    Not concurrent.futures: its pool takes nothing more once the main thread has ended, where exit handlers still
    predict, and its locks are Python code, which Ctrl-C can leave locked, with all threads waiting for ever. So are
    those in which `threading.Thread.start` waits. The interpreter does not wait for our threads at its end.
    """

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[None]]] = SimpleQueue()
        self.lock, self.threads, self.unfinished = threading.Lock(), 0, 0

    def take(self, task: Callable[[], None], ended: SimpleQueue[None]) -> bool:
        """Do it, then tell `ended`; False where there is no thread for it, as in an interpreter that shuts down."""
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
            with self.lock:  # first, so that who is told finds this thread idle
                self.unfinished -= 1
            ended.put(None)
            del task, ended  # they hold the caller's arrays


_pool = _Pool()


def leaf_rows(d: int) -> int:
    """Rows of a leaf: a function of the shape alone, never of the machine.

    Enough features to outweigh the addition of a leaf's gradient, and few enough rows to share them out fairly.
    """
    rows = min(max(LEAF_ELEMENTS // max(d, 1), 64), LEAF_ROWS)
    return -(-rows // LEAF_MULTIPLE) * LEAF_MULTIPLE


class TreeSum:
    """Adds partial results along the fixed tree, holding at most one of them per level.

    >>> tree = TreeSum()
    >>> for leaf in range(5):
    ...     tree.add(0, leaf, (np.array([float(leaf)]),))
    >>> tree.total(5)[0].item()
    10.0
    """

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], Partial] = {}

    def add(self, level: int, index: int, partial: Partial) -> None:
        """Take in the node `index` of `level` (leaves are level 0), and merge upwards while siblings are complete."""
        while (sibling := self.nodes.pop((level, index ^ 1), None)) is not None:
            left, right = (partial, sibling) if index % 2 == 0 else (sibling, partial)
            for total, part in zip(left, right, strict=True):
                total += part
            partial, level, index = left, level + 1, index // 2
        self.nodes[level, index] = partial

    def total(self, n_leaves: int) -> Partial:
        """The sum of all leaves; all of them must have been added."""
        level, width = 0, n_leaves
        while width > 1:
            if width % 2 == 1 and (last := self.nodes.pop((level, width - 1), None)) is not None:
                self.add(level + 1, width // 2, last)  # no right sibling
            level, width = level + 1, (width + 1) // 2
        return self.nodes.pop((level, 0))


def _runs(n_items: int, n_threads: int) -> list[range]:
    """Consecutive, nearly equal, non-empty runs of items, at most one per thread."""
    k = max(1, min(n_items, n_threads))
    return [range(n_items * t // k, n_items * (t + 1) // k) for t in range(k)]


def for_each(work: Callable[[range], Any], n_items: int, n_threads: int) -> Sequence[Any]:
    """`work(run)` for consecutive runs of items, one run per thread; the caller's thread takes the first.

    An exception of any run, Ctrl-C among them, is raised after all runs have ended, so that nobody still writes to the
    caller's arrays.
    """

    def quiet(run: range) -> Any:  # NumPy's error state belongs to a thread; a non-finite loss is what we report
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return work(run)

    runs = _runs(n_items, n_threads)
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
            with suppress(KeyboardInterrupt):  # one is on its way
                ended.get()
    if errors:
        raise errors.pop()
    return results


def sum_over_leaves(leaf: Callable[[int], Partial], n_leaves: int, n_threads: int) -> Partial:
    """The tree sum of `leaf(0), ..., leaf(n_leaves - 1)`; the same bits for any `n_threads`."""

    def visit(run: range) -> TreeSum:
        tree = TreeSum()
        for index in run:
            tree.add(0, index, leaf(index))
        return tree

    return sum_of_trees(for_each(visit, n_leaves, n_threads), n_leaves)


def sum_of_trees(trees: Sequence[TreeSum], n_leaves: int) -> Partial:
    """The sum of all leaves, of which each tree has some."""
    total, *others = trees
    for tree in others:
        for (level, index), partial in tree.nodes.items():
            total.add(level, index, partial)
    result: Partial = total.total(n_leaves)
    return result


class _SingleThreadedBlas:
    """Holds BLAS at one thread while anybody is inside; the last one out restores what the first one found.

    OpenBLAS's bits depend on its thread count, and its idle workers spin for some 80 ms after a product, on the cores
    that our own threads need. The setting belongs to the process: saved and restored by each of two overlapping
    callers it would end up at one thread for good.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[object] = set()
        self.found: list[tuple[Any, int]] = []  # libraries, and what they are to be set to again
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
            except BaseException:  # Ctrl-C within it left BLAS at one thread
                self._leave(me)
                raise

    def _enter(self, me: object) -> None:
        with self.lock:
            if not self.inside:
                if self.controller is None:  # 190 us a time, so it is kept
                    import scipy.linalg.cython_blas  # noqa: F401 - brings a BLAS of its own, which is to be held, too

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
        """What was found; once more where that was cut short."""
        for library, n_threads in self.found:
            _limit(library, n_threads)
        self.found = []


def _limit(library: Any, n_threads: int) -> None:
    """From threadpoolctl 3.8 on OpenBLAS obeys the thread alone that limited it first; all others it ignores."""
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


single_threaded_blas = _SingleThreadedBlas()


def _forget_after_fork() -> None:
    """Threads do not survive a fork: a child that waited for its parent's would wait for ever."""
    global _pool
    _pool = _Pool()
    single_threaded_blas.lock = threading.Lock()
    single_threaded_blas.inside = set()
    single_threaded_blas.restore()  # the parent was in the middle of a pass; the child is not


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forget_after_fork)
