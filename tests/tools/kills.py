"""Kills processes at random moments, over and over, and looks at what they leave. POSIX only.

    python -m tests.tools.kills saves --kills 100
    python -m tests.tools.kills fits --kills 200

"saves" kills a process that saves models. After each kill `load_model` has to give one of the two models that take
turns, bit for bit. Files beside it are counted, and have to be gone after one more save.

"fits" kills fits with a checkpoint, L-BFGS with new preconditioners and SGD in turn, and starts each again until it
ends. All that end have to have the coefficients of a fit that was left alone, by one SHA-256.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax import SoftmaxClassifier, load_model, save_model
from gpusoftmax.checkpoints import checkpoint as checkpoints
from gpusoftmax.solvers import sgd
from tests.support.cases import sha256

CLASSES, FEATURES = 5, 100_000  # 4 MB of weights, so that most of the time a save is under way
LATEST, LATEST_OF_FITS = 0.1, 0.4  # seconds: some saves, and some steps of a fit with a checkpoint after each
FITS = {  # each takes some tenths of a second, most of it to write checkpoints
    "L-BFGS": {"C": 1e5, "tol": 0.0, "max_iter": 60},
    "SGD": {"solver": "sgd", "batch_size": 64, "max_iter": 60, "tol": 0.0},
}


def forked(work: Callable[[], None]) -> int:
    """A process that does some work and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of this process, which the child does not have
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def killed_after(delay: float, child: int) -> bool:
    """Whether a process was still running after some seconds, and so was killed; it ends well otherwise."""
    until = time.monotonic() + delay
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def shared_counts() -> Any:
    """Two numbers that this process shares with its children."""
    return np.frombuffer(mmap.mmap(-1, 16), np.int64)


def two_models() -> list[Any]:
    """Models that differ in all their weights."""
    X, y = np.random.default_rng(0).standard_normal((20, FEATURES)), np.arange(20) % CLASSES
    return [SoftmaxClassifier(C=C, schedule="cosine", max_iter=1).fit(X, y) for C in (1.0, 0.1)]


def save_for_ever(models: list[Any], path: Path, count: Any) -> None:
    """Save the models in turn, and count the saves that have begun and ended."""
    for n in itertools.count():
        count[:] = n + 1, n
        save_model(models[n % 2], path)
        count[1] = n + 1


def kill_saves(kills: int, seed: int) -> str:
    """What was found, in a line.

    Raises
    ------
    AssertionError
        A save failed, a model was neither of the two, or a file stayed beside it.
    BadFileError
        A file was not whole.
    """
    models, delays = two_models(), np.random.default_rng(seed).uniform(0, LATEST, kills)
    count = shared_counts()
    within, saves, found, strays = 0, 0, [0, 0], set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(models[0], path)
        for delay in delays:
            count[:] = 0
            assert killed_after(delay, forked(lambda: save_for_ever(models, path, count)))
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


def noisy_rows() -> tuple[Any, Any]:
    """Rows on which L-BFGS renews its preconditioner."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((3000, 30)) * np.linspace(1, 30, 30)).astype(np.float32)
    return X, (X @ rng.standard_normal((30, 5)) * 0.3 + 0.3 * rng.gumbel(size=(3000, 5))).argmax(axis=1)


def fit_and_write(model: Any, rows: tuple[Any, Any], path: Path, result: Path, count: Any) -> None:
    """Fit with a checkpoint after each step, write the digest of the coefficients, and count the checkpoints."""
    write = checkpoints.write

    def counted(*arguments: Any, **options: Any) -> None:
        count[0] += 1
        write(*arguments, **options)
        count[1] += 1

    checkpoints.write = counted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge with tol=0
        model.fit(*rows, checkpoint=path, checkpoint_every=0.0)
    result.write_text(sha256(model.coef_, model.intercept_), encoding="utf-8")


def kill_fits(kills: int, seed: int) -> str:
    """What was found, in lines.

    Raises
    ------
    AssertionError
        A fit failed, or its coefficients differ from those of a fit that was left alone.
    """
    sgd.STRETCH_ROWS = 1000  # three steps an epoch
    rows, delays = noisy_rows(), np.random.default_rng(seed)
    count, lines = shared_counts(), []
    for name, parameters in FITS.items():
        model = SoftmaxClassifier(**parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = sha256((fitted := SoftmaxClassifier(**parameters).fit(*rows)).coef_, fitted.intercept_)
        killed, within, digests, wrote = 0, 0, list[str](), 0
        with tempfile.TemporaryDirectory() as folder:
            path, result = Path(folder) / "run.ckpt", Path(folder) / "sha256"
            while killed < kills // len(FITS) or not digests:
                count[:] = 0
                child = forked(partial(fit_and_write, model, rows, path, result, count))
                if killed_after(delays.uniform(0, LATEST_OF_FITS), child):
                    killed, within = killed + 1, within + int(count[0] > count[1])
                wrote += int(count[1])
                if result.exists():
                    digests.append(result.read_text(encoding="utf-8"))
                    for one in Path(folder).iterdir():
                        one.unlink()
        assert set(digests) == {alone}, (alone, digests)
        lines.append(
            f"{name}: {killed} kills, {within} of them within one of {wrote} checkpoints; {len(digests)} fits ended, "
            f"all with SHA-256 {alone[:16]}..., as a fit that was left alone"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("saves", "fits"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print({"saves": kill_saves, "fits": kill_fits}[options.what](options.kills, options.seed))
