"""Kills a process that saves models over and over, at random moments, and looks at what it leaves. POSIX only.

    python -m tests.tools.killed_saves --kills 100 --seed 0

After each kill `load_model` has to give one of the two models that take turns, bit for bit. Files beside it are
counted, and have to be gone after one more save.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax import SoftmaxClassifier, load_model, save_model

CLASSES, FEATURES = 5, 100_000  # 4 MB of weights, so that most of the time a save is under way
LATEST = 0.1  # seconds: some saves


def two_models() -> list[Any]:
    """Models that differ in all their weights."""
    X, y = np.random.default_rng(0).standard_normal((20, FEATURES)), np.arange(20) % CLASSES
    return [SoftmaxClassifier(C=C, schedule="cosine", max_iter=1).fit(X, y) for C in (1.0, 0.1)]


def start_saving(models: list[Any], path: Path, count: Any) -> int:
    """A process that saves the models in turn for ever, and counts the saves that it has begun and ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of this process, which the child does not have
        child = os.fork()
    if child == 0:
        try:
            for n in itertools.count():
                count[:] = n + 1, n
                save_model(models[n % 2], path)
                count[1] = n + 1
        finally:
            os._exit(1)
    return child


def run(kills: int, seed: int) -> str:
    """What was found, in a line.

    Raises
    ------
    AssertionError
        A save failed, a model was neither of the two, or a file stayed beside it.
    BadFileError
        A file was not whole.
    """
    models, delays = two_models(), np.random.default_rng(seed).uniform(0, LATEST, kills)
    count = np.frombuffer(mmap.mmap(-1, 16), np.int64)  # shared with the child
    within, saves, found, strays = 0, 0, [0, 0], set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(models[0], path)
        for delay in delays:
            count[:] = 0
            child = start_saving(models, path, count)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            begun, ended = count.tolist()
            within, saves = within + (begun > ended), saves + ended
            loaded = load_model(path)
            same = [loaded.C == model.C and loaded.coef_.tobytes() == model.coef_.tobytes() for model in models]
            assert sum(same) == 1
            found[same.index(True)] += 1
            strays.update(set(os.listdir(folder)) - {path.name})
        save_model(models[0], path)
        assert os.listdir(folder) == [path.name]
    return (
        f"{kills} kills, {within} of them within a save, after {saves} whole ones: {found[0]} times the one model, "
        f"{found[1]} times the other, each bit for bit; stray files: {len(strays)}, after one more save 0"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    print(run(**vars(parser.parse_args())))
