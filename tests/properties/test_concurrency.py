"""Concurrent threads, processes and forks get the same bits as each alone, and nothing hangs at exit.

The pool and single operations are tested in tests/cpu/test_pool.py, Ctrl-C in test_interrupts.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.model_selection import GridSearchCV

from gpusoftmax import (
    DivergenceError,
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    gradient_check,
    linear_probe,
    loss_and_gradient,
    softmax_cross_entropy,
    train_cs231n,
)
from gpusoftmax.array import Backend
from gpusoftmax.cpu import row_blocks, threads
from gpusoftmax.cpu.threads import for_each, single_threaded_blas
from gpusoftmax.protocols.cs231n import sweep_cs231n
from tests.support.cases import noisy_classes, sweep_with
from tests.support.processes import HANGS, blas, blas_threads, forks, run_script, settings_of_blas

Bits = list[bytes]


def bits_of(*arrays: Any) -> Bits:
    return [np.ascontiguousarray(one).tobytes() for one in arrays]


def exact(seed: int, **common: Any) -> Bits:
    X, y = noisy_classes(seed)
    model = SoftmaxClassifier(**common).fit(X, y)
    return bits_of(model.coef_, model.intercept_, model.predict_proba(X))


def minibatches(seed: int, **common: Any) -> Bits:
    X, y = noisy_classes(seed)
    model = LinearSVMClassifier(solver="sgd", batch_size=100, max_iter=5, tol=0.0, **common).fit(X, y)
    return bits_of(model.coef_, model.intercept_, model.decision_function(X))


def swept(seed: int, **common: Any) -> Bits:
    result = sweep_with(*noisy_classes(seed), {"C": [0.01, 1.0]}, cv=2, scoring="log_loss", **common)
    return bits_of(result.trials.score, result.trials.objective, result.best_estimator_.coef_)


JOBS = [exact, minibatches, swept]


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of 64 rows, so that few rows keep several threads busy."""
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)


def at_once(n: int, work: Callable[[int], Any]) -> list[Any]:
    """work(0), ..., work(n - 1), each in a thread of its own, from the same moment on."""
    start = threading.Barrier(n)

    def run(i: int) -> Any:
        start.wait(HANGS)
        return work(i)

    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(run, range(n)))


# threads


@pytest.mark.slow
@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("n", [2, 4])
def test_threads_that_fit_at_once_get_the_bits_of_each_alone(cpu_backend: Backend, n: int) -> None:
    common = {"backend": cpu_backend.name, "n_threads": 3}

    def jobs(seed: int) -> dict[str, Bits]:  # each thread begins with another one
        return {job.__name__: job(seed, **common) for job in np.roll(JOBS, seed)}

    alone = [jobs(seed) for seed in range(n)]
    assert at_once(n, jobs) == alone


@pytest.mark.slow
@pytest.mark.usefixtures("small_leaves")
def test_threads_that_share_a_fitted_model_predict_the_bits_of_each_alone(cpu_backend: Backend) -> None:
    model = SoftmaxClassifier(backend=cpu_backend.name, n_threads=3).fit(*noisy_classes())

    def predict(seed: int) -> Bits:
        X = noisy_classes(seed)[0]
        return [bit for _ in range(20) for bit in bits_of(model.predict_proba(X), model.predict(X))]

    alone = [predict(seed) for seed in range(4)]
    assert at_once(4, predict) == alone


FIRST_CALLS = """
import sys, threading
import numpy as np
import gpusoftmax

rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 5)).astype(np.float32), rng.integers(0, 3, 300)
start, found = threading.Barrier(2), []

def first_call():
    start.wait(50)
    model = gpusoftmax.SoftmaxClassifier(backend=sys.argv[1], n_threads=2).fit(X, y)
    found.append((model.coef_.tobytes(), model.predict_proba(X).tobytes()))

threads = [threading.Thread(target=first_call) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
first_call = gpusoftmax.SoftmaxClassifier(backend=sys.argv[1], n_threads=1).fit(X, y)
assert found == [(first_call.coef_.tobytes(), first_call.predict_proba(X).tobytes())] * 2, len(found)
"""


@pytest.mark.slow
def test_the_first_calls_ever_may_come_from_two_threads_at_once(
    cpu_backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # so that both threads find nothing compiled
    monkeypatch.setenv("NUMBA_OPT", "0")  # takes half the time
    done = run_script(FIRST_CALLS, cpu_backend.name)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_caller_without_other_threads_does_all_runs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threads, "start_new_thread", refuse)
    found = for_each(lambda run: (run, threading.current_thread()), 5, 3)
    assert found == [(run, threading.current_thread()) for run in (range(1), range(1, 3), range(3, 5))]


def test_threads_of_the_pool_that_are_idle_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    for _ in range(100):
        for_each(lambda run: None, 3, 3)
    assert threads._pool.threads == 2


# the setting of BLAS


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_blas_is_held_by_whichever_thread_comes() -> None:
    def inside(i: int) -> set[int]:
        with single_threaded_blas():
            return blas_threads()

    inside(0)  # in the main thread, which threadpoolctl would obey alone from then on
    assert at_once(3, inside) == [{1}] * 3
    assert blas_threads() == {3}


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_the_last_one_out_restores_blas_from_another_thread_than_the_first_one_in() -> None:
    with ThreadPoolExecutor(1) as other:
        second = single_threaded_blas()
        with single_threaded_blas():
            other.submit(second.__enter__).result(HANGS)
        assert blas_threads() == {1}
        other.submit(second.__exit__, None, None, None).result(HANGS)
    assert blas_threads() == {3}


LIMITS = """
import threading
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from gpusoftmax import SoftmaxClassifier

def limited():
    with threadpool_limits(1, user_api="blas"):
        print({library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"})

X = np.random.default_rng(0).standard_normal((200, 5))
SoftmaxClassifier(n_threads=2, backend="numpy").fit(X, np.arange(200) % 3)
thread = threading.Thread(target=limited)
thread.start()
thread.join()
"""


@pytest.mark.slow
@blas
def test_after_a_fit_the_users_other_threads_can_limit_blas_themselves() -> None:
    """threadpoolctl obeyed the thread of the fit alone, and ignored all others, silently."""
    done = run_script(LIMITS)
    assert done.stdout == "{1}\n", done.stderr


X, Y = noisy_classes(n=90)
W, B = np.ones((7, 3)), np.zeros(3)
BAD = np.where(np.arange(90)[:, None] == 7, np.nan, X)


def stop(record: Any) -> None:
    raise LookupError


CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fit": lambda c: SoftmaxClassifier(**c).fit(X, Y, validation=(X, Y)),
    "fit by SGD": lambda c: SoftmaxClassifier(solver="sgd", max_iter=2, tol=0.0, **c).fit(X, Y),
    "fit of the hinge": lambda c: LinearSVMClassifier(loss="hinge", max_iter=2, tol=0.0, **c).fit(X, Y),
    "fit to soft labels": lambda c: SoftmaxClassifier(label_smoothing=0.1, **c).fit(X, np.eye(3)[Y]),
    "partial_fit": lambda c: SoftmaxClassifier(solver="sgd", **c).partial_fit(X, Y).partial_fit(X, Y),
    "predictions": lambda c: [
        getattr(SoftmaxClassifier(**c).fit(X, Y), name)(X) for name in ("predict", "predict_proba", "decision_function")
    ],
    "sweep": lambda c: sweep_with(X, Y, {"C": [0.1, 1.0]}, cv=2, out_of_fold=True, **c),
    "sweep by SGD": lambda c: sweep_with(X, Y, {"learning_rate": [0.1, 0.2]}, cv=2, max_iter=2, tol=0.0, **c),
    "SoftmaxClassifierCV": lambda c: SoftmaxClassifierCV(Cs=2, cv=2, **c).fit(X, Y).score(X, Y),
    "loss_and_gradient": lambda c: loss_and_gradient(X, Y, W, B, **c),
    "gradient_check": lambda c: gradient_check(X, Y, W, B, **c),
    "softmax_cross_entropy": lambda c: softmax_cross_entropy(X, Y),
    "linear_probe": lambda c: linear_probe(
        X, Y, X[:80], Y[:80], protocol="dinov2-linear", n_iterations=3, batch_size=9, **c
    ),
    "train_cs231n": lambda c: train_cs231n(X, Y, learning_rate=1e-3, reg=1.0, n_iterations=3, **c),
    "sweep_cs231n": lambda c: sweep_cs231n(X, Y, (X, Y), learning_rates=[1e-3], regs=[1.0], n_iterations=3, **c),
}  # fmt: skip
FAILURES: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception]]] = {
    "NaN": (lambda c: SoftmaxClassifier(**c).fit(BAD, Y), ValueError),
    "NaN in a prediction": (lambda c: SoftmaxClassifier(**c).fit(X, Y).predict(BAD), ValueError),
    "a callback's error": (lambda c: SoftmaxClassifier(callbacks=[stop], **c).fit(X, Y), LookupError),
    "divergence": (lambda c: SoftmaxClassifier(learning_rate=1e9, **c).fit(X, Y), DivergenceError),
    "an error in a sweep": (lambda c: sweep_with(X, Y, {"C": [1.0]}, cv=2, on_candidate=stop, **c), LookupError),
}


@blas
@pytest.mark.usefixtures("three_blas_threads", "small_leaves")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_blas_as_it_was(cpu_backend: Backend, name: str) -> None:
    before = settings_of_blas()
    CALLS[name]({"backend": cpu_backend.name, "n_threads": 2})
    assert settings_of_blas() | before == settings_of_blas()  # a first call may bring libraries


@blas
@pytest.mark.usefixtures("three_blas_threads", "small_leaves")
@pytest.mark.parametrize("name", FAILURES)
def test_a_call_that_fails_leaves_blas_as_it_was(cpu_backend: Backend, name: str) -> None:
    before, (call, error) = settings_of_blas(), FAILURES[name]
    with pytest.raises(error):
        call({"backend": cpu_backend.name, "n_threads": 2})
    assert settings_of_blas() | before == settings_of_blas()


@blas
@pytest.mark.usefixtures("three_blas_threads", "small_leaves")
def test_blas_is_held_during_passes_alone(cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, between, tree_over_leaves = list[set[int]](), list[set[int]](), row_blocks.tree_over_leaves

    def in_a_pass(*arguments: Any) -> Any:
        passes.append(blas_threads())
        return tree_over_leaves(*arguments)

    monkeypatch.setattr(row_blocks, "tree_over_leaves", in_a_pass)
    model = SoftmaxClassifier(
        backend=cpu_backend.name, n_threads=2, callbacks=[lambda record: between.append(blas_threads())]
    )
    with ThreadPoolExecutor(1) as other:  # not the first thread that limits BLAS
        other.submit(model.fit, X, Y).result(HANGS)
    assert [passes, between] == [[{1}] * len(passes), [{3}] * len(between)]
    assert passes
    assert between


# processes


@pytest.fixture
def workers_end() -> Iterator[None]:
    """joblib's wait for five minutes."""
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.mark.slow
@pytest.mark.usefixtures("workers_end")
@pytest.mark.parametrize("parallel", ["threading", "loky"])
def test_joblib_changes_no_bit(parallel: str) -> None:
    def model() -> SoftmaxClassifier:
        return SoftmaxClassifier(backend="cpu", n_threads=3)

    def search(n_jobs: int) -> Bits:
        found = GridSearchCV(model(), {"C": [0.01, 1.0]}, cv=2, scoring="neg_log_loss", n_jobs=n_jobs).fit(X, Y)
        scores = [found.cv_results_[f"split{i}_test_score"] for i in range(2)]
        return bits_of(*scores, found.best_estimator_.coef_)

    alone = search(1), [exact(seed, backend="cpu") for seed in range(4)]
    with parallel_config(backend=parallel, n_jobs=2):
        fitted = Parallel()(delayed(SoftmaxClassifier.fit)(model(), *noisy_classes(seed)) for seed in range(4))
        together = (
            search(2),
            [
                bits_of(one.coef_, one.intercept_, one.predict_proba(noisy_classes(seed)[0]))
                for seed, one in enumerate(fitted)
            ],
        )
    assert together == alone


CONTEXTS = """
import multiprocessing, sys
import numpy as np
from gpusoftmax import SoftmaxClassifier

rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 5)), rng.integers(0, 3, 300)
model = SoftmaxClassifier(backend="cpu", n_threads=2)
here = model.fit(X, y).coef_.tobytes(), model.predict_proba(X).tobytes()
with multiprocessing.get_context(sys.argv[1]).Pool(2) as processes:
    fitted = processes.starmap_async(SoftmaxClassifier.fit, [(model, X, y)] * 2, 1).get(50)
    found = processes.starmap_async(SoftmaxClassifier.predict_proba, [(one, X) for one in fitted], 1).get(50)
assert [(one.coef_.tobytes(), p.tobytes()) for one, p in zip(fitted, found)] == [here] * 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "context",
    [
        pytest.param("fork", marks=forks),
        pytest.param("forkserver", marks=forks),
        "spawn",
    ],
)
def test_processes_fit_and_predict_the_same_bits_however_they_are_started(context: str) -> None:
    done = run_script(CONTEXTS, context)
    assert done.returncode == 0, done.stderr


FORK = """
import os, signal, threading
import numpy as np
from gpusoftmax import SoftmaxClassifier
from gpusoftmax.cpu import column_sums, threads

threads.LEAF_ELEMENTS = 1  # leaves of 64 rows
rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 5)), rng.integers(0, 3, 300)

def bits(n_threads=3):
    model = SoftmaxClassifier(backend="cpu", n_threads=n_threads).fit(X, y)
    return model.coef_.tobytes(), model.predict_proba(X).tobytes()

def right_in_a_child(deeper):
    child = os.fork()
    if child == 0:
        signal.alarm(50)  # a child that waits for its parent's threads must not outlive the test
        os._exit(0 if bits() == expected and (not deeper or right_in_a_child(False)) else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

expected = bits(1)  # by this thread alone
assert threads._pool.threads == 0
"""
FORKS = {
    "before the pool has threads": "assert right_in_a_child(True)",
    "after it has": "bits(); assert right_in_a_child(True)",
    "in the middle of another thread's fit": """
reached, go, widen, found = threading.Event(), threading.Event(), column_sums.widen, []

def wait(*arguments):
    reached.set()
    go.wait(50)
    return widen(*arguments)

column_sums.widen = wait  # in the pass for the moments, in its threads
fit = threading.Thread(target=lambda: found.append(bits()))
fit.start()
reached.wait(50)
column_sums.widen = widen
right = right_in_a_child(True)
go.set()
fit.join()
assert right
assert found == [expected], "in the thread that was in the middle"
""",
    "while another thread takes a buffer": """
from gpusoftmax.cpu import packed

held, go = threading.Event(), threading.Event()

def hold():
    with packed.buffers.lock:
        held.set()
        go.wait(50)

thread = threading.Thread(target=hold)
thread.start()
held.wait(50)
right = right_in_a_child(True)
go.set()
thread.join()
assert right
""",
}


@pytest.mark.slow
@forks
@pytest.mark.parametrize("when", FORKS)
def test_a_forked_child_fits_and_predicts_and_so_does_its_own(when: str) -> None:
    done = run_script(f"{FORK}\n{FORKS[when]}\nassert bits() == expected, 'in the parent'")
    assert done.returncode == 0, done.stderr


# the interpreter's end

END = """
import atexit, sys, threading
import numpy as np
from gpusoftmax import SoftmaxClassifier
from gpusoftmax.cpu import threads

threads.LEAF_ELEMENTS = 1  # leaves of 64 rows
X, y = np.arange(600.0).reshape(300, 2) % 7, np.arange(300) % 3
reached = threading.Event()
model = SoftmaxClassifier(backend="cpu", n_threads=3)
endless = SoftmaxClassifier(
    backend="cpu", n_threads=3, batch_size="full", max_iter=10**9, tol=0.0, schedule="constant",
    callbacks=[lambda record: reached.set()],
)
"""
ENDS = {
    "in the middle of a daemon thread's fit": (
        "threading.Thread(target=endless.fit, args=(X, y), daemon=True).start(); reached.wait()",
        0,
        "",
    ),
    "while another thread begins a fit": (
        """
def later():
    threading.main_thread().join()
    print(model.fit(X, y).n_iter_ > 0)
threading.Thread(target=later).start()
""",
        0,
        "True\n",
    ),
    "by an exception within a fit": ("endless.set_params(callbacks=[lambda record: sys.exit(7)]).fit(X, y)", 7, ""),
    "with an exit handler that predicts and fits": (
        "model.fit(X, y); atexit.register(lambda: print(len(model.predict(X)), model.fit(X, y).n_iter_ > 0))",
        0,
        "300 True\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_ends_in_peace(how: str) -> None:
    script, code, printed = ENDS[how]
    done = run_script(END + script)
    assert (done.returncode, done.stdout, done.stderr) == (code, printed, "")
