"""Progress displays: a bar on a terminal, plain lines in a pipe or a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TextIO

import numpy as np

from gpusoftmax.trainer import Progress, Record

SECONDS_BETWEEN_LINES = 2.0


def progress_display(stream: TextIO | None = None, brief: bool = False) -> Progress:
    """Choose a bar or lines for a stream (default: standard error); `brief` leaves less on it, for one of many fits."""
    stream = sys.stderr if stream is None else stream
    return Bar(stream, brief) if is_interactive(stream) else Lines(stream, brief)


def is_interactive(stream: TextIO) -> bool:
    """Whether a bar can be shown: on a terminal, or in a notebook, where that takes ipywidgets."""
    return stream.isatty() or (stream is sys.stderr and _in_notebook())


def _in_notebook() -> bool:
    """Whether the program runs in a notebook that can show widgets."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel") and find_spec("ipywidgets") is not None


def _file_for_bars(stream: TextIO) -> TextIO | None:
    """What a Console of rich writes to: the stream, or in a notebook what it finds itself, which are widgets."""
    return stream if stream.isatty() else None


def describe(record: Record) -> str:
    """Describe one pass in words; for several models, the best value of each measure."""

    def best(value: Any, pick: Any) -> float:
        return float(pick(value))

    text = f"objective {best(record.objective, np.nanmin):.4f}  accuracy {best(record.accuracy, np.nanmax):.1%}"
    if record.validation_loss is not None:
        text += (
            f"  validation loss {best(record.validation_loss, np.nanmin):.4f}"
            f"  accuracy {best(record.validation_accuracy, np.nanmax):.1%}"
        )
    return text


def rate(record: Record) -> str:
    """The rows per second of a pass, in words."""
    return f"{record.rows_per_second:,.0f} rows/s"


class Tally:
    """Count of finished models, or of other things: a bar, which is removed at the end, or a line every two seconds.

    The total is None if it is not known before.
    """

    def __init__(self, total: int | None, stream: TextIO | None = None, what: str = "model") -> None:
        self.stream, self.of_total = sys.stderr if stream is None else stream, "" if total is None else f" of {total}"
        self.what, self.printed, self.bar = what, time.monotonic(), None
        if is_interactive(self.stream):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.table import Column

            self.bar = Progress(
                TextColumn(f"{what} {{task.fields[done]}}{self.of_total}", table_column=Column(no_wrap=True)),
                TextColumn("{task.description}", table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1)),
                BarColumn(bar_width=10),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=_file_for_bars(self.stream)),
                transient=True,
            )
            self.task = self.bar.add_task("starting", total=total, done=0)
            self.bar.start()

    def update(self, done: float, text: str) -> None:
        """Show how many models are done; a fraction counts."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=text, done=int(done))
        elif time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(f"{self.what} {int(done)}{self.of_total}  {text}", file=self.stream, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()


class RowTally(Tally):
    """Count of rows that are predicted or measured, with their rate and the time left."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        super().__init__(total, stream, "row")
        self.started = time.monotonic()

    def rows_done(self, done: int) -> None:
        """Show how many rows are done."""
        seconds = time.monotonic() - self.started
        self.update(done, f"{done / seconds:,.0f} rows/s" if seconds > 0 else "")


@contextmanager
def waiting(text: str, quiet: bool = False) -> Iterator[None]:
    """Show a spinner with the time passed while the body runs; nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(text, total=None)
        yield


class Lines:
    """Lines of text: for the first pass, every two seconds, and for the last pass; `brief`: only every two seconds."""

    def __init__(self, stream: TextIO, brief: bool = False) -> None:
        self.stream, self.brief, self.total = stream, brief, 0.0
        self.printed = time.monotonic() if brief else 0.0
        self.last: Record | None = None
        self.shown: Record | None = None

    def update(self, passes: float, total: float, record: Record | None) -> None:
        """See trainer.Progress."""
        self.last, self.total = record, total
        if record is not None and time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self._print(record)

    def close(self) -> None:
        """See trainer.Progress."""
        if not self.brief and self.last is not None and self.last is not self.shown:
            self._print(self.last)

    def _print(self, record: Record) -> None:
        self.shown, self.printed = record, time.monotonic()
        print(
            f"pass {round(record.passes, 1):g} of {self.total:g}  {describe(record)}  {rate(record)}",
            file=self.stream,
            flush=True,
        )


class Bar:
    """A bar with the time left, if all passes are needed; `brief`: it is removed at the end."""

    def __init__(self, stream: TextIO, brief: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        self.bar = Progress(
            TextColumn("pass {task.fields[passes]}", table_column=Column(no_wrap=True, min_width=14)),
            TextColumn("{task.description}", table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1)),
            BarColumn(bar_width=10),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(file=_file_for_bars(stream)),
            transient=brief,
        )
        self.task = self.bar.add_task("starting", total=None, passes="0")
        self.bar.start()

    def update(self, passes: float, total: float, record: Record | None) -> None:
        """See trainer.Progress."""
        text = "first pass" if record is None else f"{describe(record)}  {rate(record)}"
        self.bar.update(self.task, completed=passes, total=total, description=text, passes=f"{passes:.0f}/{total:g}")

    def close(self) -> None:
        """See trainer.Progress."""
        self.bar.stop()
