"""Fit one problem in every way that X can be passed in, and compare the bits of the models.

Prints a line for each way with the SHA-256 of coef_ and intercept_: X in memory, mapped, read ahead, in shards, from
Parquet, by one thread and by two; on a cluster of one, two and three workers, of which one is killed, joins or retires
in mid-fit; and continued from a checkpoint after kills at random times. The exit code is 1 if any two differ.

    python -m tests.tools.same_bits
    python -m tests.tools.same_bits --kills 200
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax import SoftmaxClassifier, open_rows

N, D, C = 120_000, 256, 20
FIT = """
import sys
import numpy as np
from gpusoftmax import SoftmaxClassifier, open_rows

X, y, checkpoint, out = sys.argv[1:]
model = SoftmaxClassifier(C=1.0).fit(open_rows(X), np.load(y), checkpoint=checkpoint, checkpoint_every=0.05)
np.savez(out, coef=model.coef_, intercept=model.intercept_)
"""


def write(folder: Path) -> Any:
    """Write the data in every form; returns the labels."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D)).astype(np.float16)
    scores = X.astype(np.float32) @ (0.2 * rng.standard_normal((D, C)).astype(np.float32))
    y = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    for i, part in enumerate(np.array_split(np.arange(N), [N // 3 + 5, N // 2])):
        np.save(folder / f"shard-{i}.npy", X[part])
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return y
    flat = pyarrow.array(X.reshape(-1))
    table = pyarrow.table({"x": pyarrow.FixedSizeListArray.from_arrays(flat, D)})
    pyarrow.parquet.write_table(table, folder / "X.parquet", row_group_size=10_000)
    return y


def bits(model: Any) -> str:
    """The SHA-256 of a model's coefficients and intercepts."""
    return digest(model.coef_, model.intercept_)


def digest(coef: Any, intercept: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(coef).tobytes() + np.ascontiguousarray(intercept).tobytes()).hexdigest()


def local_ways(folder: Path, y: Any) -> dict[str, Callable[[], str]]:
    """Fits on this machine, by name."""
    shards = sorted(folder.glob("shard-*.npy"))
    forms: dict[str, Callable[[], Any]] = {
        "in memory": lambda: np.load(folder / "X.npy"),
        "mapped": lambda: open_rows(folder / "X.npy"),
        "read ahead": lambda: open_rows(folder / "X.npy", memory_limit="20MB"),
        "shards, mapped": lambda: open_rows(shards),
        "shards, read ahead": lambda: open_rows(shards, memory_limit="20MB"),
    }
    if (folder / "X.parquet").exists():
        forms["parquet"] = lambda: open_rows(folder / "X.parquet")

    def fit(form: Callable[[], Any], threads: int) -> str:
        return bits(SoftmaxClassifier(C=1.0, n_threads=threads).fit(form(), y))

    return {
        f"{name}, {threads} thread{'s' * (threads > 1)}": lambda form=form, threads=threads: fit(form, threads)  # type: ignore[misc]
        for name, form in forms.items()
        for threads in (1, 2)
    }


@contextmanager
def cluster(n_workers: int) -> Iterator[tuple[Any, Any]]:
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=n_workers, silence_logs=50, **options) as found, Client(found) as client:
        client.wait_for_workers(n_workers)
        yield found, client


def kill_one(_: Any, client: Any) -> None:
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


def join(local: Any, client: Any) -> None:
    local.scale(len(client.scheduler_info()["workers"]) + 1)


def retire(_: Any, client: Any) -> None:
    client.retire_workers([next(iter(client.scheduler_info()["workers"]))])


def cluster_ways(folder: Path, y: Any) -> dict[str, Callable[[], str]]:
    """Fits on clusters, by name."""

    def fit(n_workers: int, event: Callable[[Any, Any], None] | None) -> str:
        with cluster(n_workers) as (local, client):

            def callback(record: Any) -> None:
                if event is not None and len(model_passes) == 2:
                    event(local, client)
                model_passes.append(record)

            model_passes: list[Any] = []
            model = SoftmaxClassifier(C=1.0, callbacks=[callback])
            return bits(model.fit(open_rows(folder / "X.npy"), y, client=client))

    return {
        **{f"cluster of {n}": lambda n=n: fit(n, None) for n in (1, 2, 3)},  # type: ignore[misc]
        "cluster of 2, one killed": lambda: fit(2, kill_one),
        "cluster of 1, one joins": lambda: fit(1, join),
        "cluster of 3, one retires": lambda: fit(3, retire),
    }


def resumed(folder: Path, kills: int, rng: random.Random) -> Iterator[str]:
    """Kill a fit from a checkpoint at random times; yields the bits of each fit that came to its end."""
    done, checkpoint, out = 0, folder / "run.ckpt", folder / "out.npz"
    while done < kills:
        arguments = [str(folder / "X.npy"), str(folder / "y.npy"), str(checkpoint), str(out)]
        process = subprocess.Popen([sys.executable, "-c", FIT, *arguments])
        try:
            process.wait(timeout=rng.uniform(0.3, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            continue
        if process.returncode:
            raise SystemExit(f"a fit from a checkpoint failed with exit code {process.returncode}")
        with np.load(out) as found:
            yield digest(found["coef"], found["intercept"])
        for path in (checkpoint, checkpoint.with_name("run.ckpt.previous")):
            path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.same_bits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="of fits from a checkpoint; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills; default %(default)s")
    options = parser.parse_args(arguments)
    found = set[str]()

    def show(name: str, sha: str, seconds: float) -> None:
        found.add(sha)
        print(f"{name:30s} {sha}  {seconds:5.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        y = write(folder)
        for way, fit in (local_ways(folder, y) | cluster_ways(folder, y)).items():
            started = time.perf_counter()
            show(way, fit(), time.perf_counter() - started)
        started, ends = time.perf_counter(), 0
        for sha in resumed(folder, options.kills, random.Random(options.seed)):
            ends += 1
            if ends == 1 or sha not in found:
                show("continued after kills", sha, time.perf_counter() - started)
        print(f"{options.kills} kills, {ends} fits ended")
    print("the same bits" if len(found) == 1 else f"{len(found)} DIFFERENT models")
    return int(len(found) != 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
