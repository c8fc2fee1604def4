"""A program that fits on Dask clusters of this machine, and prints what it found as JSON.

`tests/cluster/test_dask.py` runs it as a process of its own: there warnings are no errors, and pytest's hooks do not
meet those of Dask. Run it by hand with `python -m tests.support.dask_cluster NAME ...`, where the names are those of
functions below, or without a name for all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax import SoftmaxClassifier, open_rows
from gpusoftmax.cluster import dask_executor
from tests.support.cases import sha256

N, D, CLASSES = 30_000, 32, 10
MODEL: dict[str, Any] = {"backend": "cpu", "tol": 1e-5}


def data(n: int = N, d: int = D, c: int = CLASSES) -> tuple[Any, Any]:
    """Rows whose labels depend on a linear function of them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(np.float32)
    scores = X @ (rng.standard_normal((d, c)) / d**0.5)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def bits(model: Any) -> str:
    """The digest of a model's weights."""
    return sha256(model.coef_, model.intercept_)


@contextmanager
def cluster_of(workers: int, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A cluster of processes with one thread each, and its client."""
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "silence_logs": 50} | options
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers)
        yield cluster, client


def message(function: Any, *arguments: Any, **options: Any) -> str:
    """The type and the message of the error that a call raises; empty if it raises none."""
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def inputs() -> dict[str, Any]:
    """Fit every kind of X, with labels of several kinds; predict; provoke errors. One cluster serves all."""
    import dask
    import dask.array as da

    dask.config.set({"dataframe.convert-string": False})
    import dask.dataframe as dd
    import pandas as pd

    X, y = data()
    words = np.array([f"class {i}" for i in range(CLASSES)])[y]
    expected = SoftmaxClassifier(**MODEL).fit(X, words)
    found: dict[str, Any] = {"in memory": bits(expected)}
    x = da.from_array(X, chunks=(7_000, 20))
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(D)]).assign(label=words)
    table = dd.from_pandas(frame, npartitions=5)
    found["no client"] = message(SoftmaxClassifier(**MODEL).fit, x, words)
    found["output file"] = message(expected.predict_proba, x, out="probabilities.npy")
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), cluster_of(2) as (_, client):
        futures = client.scatter([X[:9_000], X[9_000:9_000], X[9_000:]])
        empty = da.concatenate([x[:5_000], x[:0], x[5_000:]])
        features = table.drop(columns="label")
        cases = {
            "dask array": (x, words),
            "persisted": (x.rechunk((7_000, -1)).persist(), words),
            "labels in a dask array": (x, da.from_array(words, chunks=4_000)),
            "futures": (futures, client.scatter([words[:20_000], words[20_000:]])),
            "empty chunk": (empty, words),
            "data frame": (features, table["label"]),
            "sorted labels": None,
        }
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "a.npy", X[:10_000])
            np.save(Path(folder) / "b.npy", X[10_000:])
            files = open_rows([Path(folder) / "a.npy", Path(folder) / "b.npy"])
            found["files"] = bits(SoftmaxClassifier(**MODEL).fit(files, words, client=client))
        order = np.argsort(y, kind="stable")  # each label is on one worker only
        cases["sorted labels"] = da.from_array(X[order], chunks=(7_000, D)), words[order]
        found["sorted in memory"] = bits(SoftmaxClassifier(**MODEL).fit(X[order], words[order]))
        for name, (rows, labels) in cases.items():
            model = SoftmaxClassifier(**MODEL).fit(rows, labels, client=client)
            found[name] = bits(model)
        found["note"] = model.fit_report_.note
        model = SoftmaxClassifier(**MODEL).fit(features, table["label"])
        found["names"] = model.feature_names_in_.tolist()[:2]
        found["lazy"] = {}
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            lazy = getattr(expected, method)(x)
            whole = getattr(expected, method)(X)
            chunks = lazy.compute()
            assert lazy.shape == whole.shape, method
            assert lazy.dtype == whole.dtype == chunks.dtype, method
            found["lazy"][method] = bool(
                np.allclose(chunks, whole) if whole.dtype.kind == "f" else (chunks == whole).all()
            )
        found["frame predicts"] = bool(
            (model.predict(features).compute() == model.predict(frame[frame.columns[:-1]])).all()
        )
        found["score"] = [expected.score(x, da.from_array(words, chunks=999)), expected.score(X, words)]
        found["sparse"] = message(SoftmaxClassifier(**MODEL).fit, x.map_blocks(_sparse, dtype=np.float32), words)
        found["unknown"] = message(SoftmaxClassifier(**MODEL).fit, x[x[:, 0] > 0], words)
        found["in-memory X"] = message(SoftmaxClassifier(**MODEL).fit, X, words, client=client)
        masked = da.ma.masked_greater(x, 1)
        found["masked"] = message(SoftmaxClassifier(**MODEL).fit, masked, words)
        found["text"] = message(SoftmaxClassifier(**MODEL).fit, table, words)
        found["no arrays"] = message(SoftmaxClassifier(**MODEL).fit, [client.submit(int, 3)], words)
        shorter = x.map_blocks(_without_last, dtype=np.float32, chunks=x.chunks, meta=x._meta)
        found["other rows"] = message(SoftmaxClassifier(**MODEL).fit, shorter, words)
        poisoned = da.concatenate(
            [x[:14_000], x[14_000:21_000].map_blocks(_poison, dtype=np.float32, meta=x._meta), x[21_000:]]
        )
        found["poisoned"] = message(SoftmaxClassifier(**MODEL).fit, poisoned, words)
        found["large arguments"] = _warnings_of(
            SoftmaxClassifier(**MODEL), da.zeros((200_000, 4)), np.arange(200_000) % 40
        )
        dask_executor.TIMEOUT = 10.0  # if no worker starts again
        last = x[28_000:].map_blocks(_kill, dtype=np.float32, meta=x._meta)
        found["deadly"] = message(SoftmaxClassifier(**MODEL).fit, da.concatenate([x[:28_000], last]), words)
    found["closed client"] = message(SoftmaxClassifier(**MODEL).fit, x, words, client=client)
    return found


def _warnings_of(model: Any, X: Any, y: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.set_params(max_iter=1).fit(X, y, sample_weight=np.ones(len(y)))
    return [str(one.message) for one in caught if "Sending large graph" in str(one.message)]


def _without_last(block: Any) -> Any:
    return block[:-1]


def _sparse(block: Any) -> Any:
    from scipy.sparse import csr_array

    return csr_array(block)


def _poison(block: Any) -> Any:
    raise OSError("no such bucket")


class At:
    """A callback of a fit that calls functions at given passes."""

    def __init__(self, **actions: Any) -> None:
        self.actions = {int(name[4:]): action for name, action in actions.items()}
        self.seconds = [time.perf_counter()]

    def __call__(self, record: Any) -> None:
        self.seconds.append(time.perf_counter())
        if (action := self.actions.pop(record.step, None)) is not None:
            action()


def _kill_in_a_moment(client: Any) -> None:
    """Kill one worker process some milliseconds from now, in the middle of the next pass."""
    from threading import Timer

    pids = list(client.run(os.getpid).values())
    Timer(0.01, os.kill, (pids[0], signal.SIGKILL)).start()


def _end() -> None:
    """End this worker a moment later, when it has answered."""
    from threading import Timer

    Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL)).start()


def workers() -> dict[str, Any]:
    """1, 2 and 3 workers; a kill, a join and a retirement during a fit; tasks a pass."""
    import dask.array as da
    from distributed import SchedulerPlugin

    class Counter(SchedulerPlugin):
        """Counts tasks that come to the scheduler."""

        def __init__(self) -> None:
            self.count = 0

        def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
            self.count += finish == "processing"

    X, y = data()
    found: dict[str, Any] = {"in memory": bits(SoftmaxClassifier(**MODEL).fit(X, y))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with cluster_of(2) as (cluster, client):
            x = da.from_array(X, chunks=(7_000, D))
            found["2"] = bits(SoftmaxClassifier(**MODEL).fit(x, y))
            counter, passes = Counter(), []
            cluster.scheduler.add_plugin(counter)
            SoftmaxClassifier(**MODEL, callbacks=[lambda record: passes.append(counter.count)]).fit(x, y)
            found["tasks a pass"] = int(np.median(np.diff(passes)))  # for a new preconditioner there are some more
            killed = At(pass3=lambda: _kill_in_a_moment(client))
            found["killed"] = bits(SoftmaxClassifier(**MODEL, callbacks=[killed]).fit(x, y))
            found["seconds"] = np.round(np.diff(killed.seconds), 3).tolist()
            client.wait_for_workers(2)
            moves = At(
                pass2=lambda: (cluster.scale(3), client.wait_for_workers(3)),
                pass6=lambda: client.retire_workers(workers=sorted(client.scheduler_info(n_workers=-1)["workers"])[:1]),
            )
            found["moved"] = bits(SoftmaxClassifier(**MODEL, callbacks=[moves]).fit(x, y))
            found["at the end"] = len(client.scheduler_info(n_workers=-1)["workers"])
            all_killed = At(pass3=lambda: client.run(_end, on_error="ignore"))
            found["all killed"] = bits(SoftmaxClassifier(**MODEL, callbacks=[all_killed]).fit(x, y))
            dask_executor.TIMEOUT = 2.0
            lost = At(pass2=lambda: cluster.scale(0))
            found["all lost"] = message(SoftmaxClassifier(**MODEL, callbacks=[lost]).fit, x, y)
    with cluster_of(1) as (_, client):
        found["1"] = bits(SoftmaxClassifier(**MODEL).fit(da.from_array(X, chunks=(7_000, D)), y))
    return found


def _kill(block: Any) -> Any:
    if len(block):
        os.kill(os.getpid(), signal.SIGKILL)
    return block


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    functions = {"inputs": inputs, "workers": workers}
    names = sys.argv[1:] or list(functions)
    print(json.dumps({name: functions[name]() for name in names}, indent=1))
