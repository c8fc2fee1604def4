"""`Checkpoint`: what the trainer and the estimators know of a checkpoint.

A run trains once (a fit) or many times, always in the same order (a sweep). Its checkpoint keeps the results of the
trainings that are finished, and the state of the one under way. To continue, the run is started again from the
beginning: `trainer.train` then returns a finished result instead of training, and continues from the state where there
is one. All else (scores, the choice of the best, the next starts) follows from these results, and is not kept.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from gpusoftmax._log import log
from gpusoftmax.checkpoints.file import CHECKPOINT, Tree, read, write
from gpusoftmax.checkpoints.identity import differences
from gpusoftmax.checks.messages import warn_user
from gpusoftmax.checks.scalars import check_number, check_path
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.files.atomic import previous_of

EVERY = 60.0  # seconds between two checkpoints, by default
MOST_TRAININGS = 3000  # results in a file, so that its header stays within the limits of `files.tensors`
TERMINATED = 128 + signal.SIGTERM  # the exit status of a process that was terminated, as shells report it


class Checkpoint:
    """The checkpoint of a run, which continues it if there is a file.

    Parameters
    ----------
    path : Path
        The file.
    every : float
        Seconds after which the next checkpoint is due.
    run : dict
        What identifies the run; see `identity`.

    Attributes
    ----------
    is_open : bool
        Whether trainings are still kept; not after Ctrl-C, where a run ends otherwise than it would by itself.
    terminated : bool
        Whether SIGTERM was received: the run has to save a checkpoint and to call `exit_if_terminated`.

    Raises
    ------
    ValueError
        The file belongs to another run; the message says what differs.
    BadFileError
        There is a file, but neither it nor the one before can be read.
    OSError
        The folder does not exist, the path is that of a folder, or the file cannot be opened.
    """

    def __init__(self, path: Path, every: float, run: dict[str, Any]) -> None:
        self.path, self.every, self.run = path, every, run
        self.is_open, self.terminated = True, False
        self._results: list[Tree] = []
        self._running: Tree | None = None
        self._next = 0  # the number of the next training
        self._has_news = False  # a result that the file does not have
        if not path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint={str(path)!r}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise IsADirectoryError(f"checkpoint={str(path)!r} is a folder; pass the name of a file in it")
        self._source = path  # the file that was read: the one before, if that at `path` is damaged
        if (found := read(path)) is not None:
            self._source, kept, tree = found
            if differs := differences(kept, run):
                raise ValueError(
                    f"checkpoint={str(path)!r} is there, but belongs to another run: it differs in "
                    f"{', '.join(differs)}. To start anew, delete {path} and {previous_of(path)}, or pass another path"
                )
            self._restore(tree)
            if self._source != path:
                warn_user(f"{path} is damaged or missing; continuing from {self._source}, the one before", UserWarning)
        self._saved_at = time.monotonic()

    def _restore(self, tree: Tree) -> None:
        with self.reading():
            finished, self._running = tree.get("finished", {}), tree.get("running")
            self._results = [_branch(finished, str(i)) for i in range(len(finished))]
            if self._running is not None:
                self._running = _branch(tree, "running")
        words = "a training under way" if self._running else "none under way"
        log.info("continuing from %s: %d trainings finished, %s", self._source, len(self._results), words)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors in the block, which uses what was read, into a BadFileError about the file."""
        with CHECKPOINT.damage(self._source, "content"):
            try:
                yield
            except (LookupError, AttributeError) as error:
                raise ValueError(f"parts are missing or of another kind: {error!r}") from error

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep what the block trains: a checkpoint is written at its end, and on SIGTERM.

        SIGTERM is left alone if the program has a handler of its own, and in threads other than the main one. A second
        one ends the program at once.

        Raises
        ------
        SystemExit
            SIGTERM was received, and the checkpoint is written.
        """
        with self._terminable():
            try:
                yield
            except (KeyboardInterrupt, DivergenceError):
                self._save_news()
                raise
            self._save_news()
        self.exit_if_terminated()

    @contextmanager
    def _terminable(self) -> Iterator[None]:
        def handler(number: int, frame: Any) -> None:
            self.terminated = True
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def exit_if_terminated(self) -> None:
        """End the program if SIGTERM was received; call it when the file has all that was trained."""
        if not self.terminated:
            return
        log.warning("terminated: %s holds what was done; the same command continues from there", self.path)
        raise SystemExit(TERMINATED)

    def recall(self) -> Tree | None:
        """Begin the next training: return its result if it is finished, or None."""
        if self.terminated:
            self._save_news()
            self.exit_if_terminated()
        self._next += 1
        return self._results[self._next - 1] if self._next <= len(self._results) else None

    def resume(self) -> Tree | None:
        """Return the state of the training that `recall` has begun, if it was under way."""
        running, self._running = self._running, None
        return running

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved_at >= self.every

    def finish(self, result: Tree) -> None:
        """Add the result of a training; the file has it once the next checkpoint is due, or at the end of the run."""
        self._results.append(result)
        self._has_news = True
        if self.due():
            self._save_news()

    def save(self, running: Tree | None = None) -> None:
        """Write the results so far, and the state of the training under way."""
        tree: Tree = {"finished": {str(i): result for i, result in enumerate(self._results)}}
        tree = tree if running is None else tree | {"running": running}
        write(self.path, self.run, tree, keep_previous=self._source == self.path)
        self._source = self.path
        self._has_news, self._saved_at = False, time.monotonic()

    def close(self) -> None:
        """Keep no more trainings."""
        self.is_open = False

    def _save_news(self) -> None:
        if self._has_news:
            self.save()


def check_checkpoint(checkpoint: Any, every: Any) -> tuple[Path | None, float]:
    """Return the path and the seconds that a user passed.

    Raises
    ------
    ValueError, TypeError
        One of them cannot be used, or there are seconds without a path.
    """
    seconds = check_number("checkpoint_every", every, least=0)
    if checkpoint is None:
        if seconds != EVERY:
            raise ValueError(f"checkpoint_every={every!r} needs a file to write to; pass checkpoint='run.ckpt', too")
        return None, seconds
    return check_path("checkpoint", checkpoint), seconds


def keeping(checkpoint: Checkpoint | None) -> AbstractContextManager[None]:
    """`Checkpoint.keeping`, which does nothing without a checkpoint."""
    return nullcontext() if checkpoint is None else checkpoint.keeping()


def _branch(tree: Tree, name: str) -> Tree:
    """Return a part of a tree that is not a leaf."""
    branch = tree.get(name)
    if type(branch) is not dict:
        raise TypeError(f"{name} is missing, or a {type(branch).__name__}")
    return branch
