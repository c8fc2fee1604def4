"""Progress during training: lines in a pipe, a bar on a terminal."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpusoftmax import Record
from gpusoftmax.progress import Bar, Lines, RowTally, describe, progress_display

RECORD = Record(
    passes=1.0,
    step=4,
    objective=1.23456,
    loss=1.2,
    accuracy=0.512,
    validation_loss=None,
    validation_accuracy=None,
    learning_rate=0.1,
    seconds=0.5,
    rows_per_second=123456.7,
)
VALIDATED = replace(RECORD, validation_loss=1.34567, validation_accuracy=0.478)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns that knows colours, whatever the tests run in."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [1000.0]
    monkeypatch.setattr("gpusoftmax.progress.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("stream", "kind"), [(io.StringIO(), Lines), (Terminal(), Bar)])
def test_the_stream_decides_between_lines_and_a_bar(stream: Any, kind: type) -> None:
    display = progress_display(stream)
    display.close()
    assert isinstance(display, kind)


def test_the_standard_error_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert progress_display().stream is stream


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (RECORD, "objective 1.2346  accuracy 51.2%"),
        (VALIDATED, "objective 1.2346  accuracy 51.2%  validation loss 1.3457  accuracy 47.8%"),
    ],
)
def test_a_pass_in_words(record: Record, text: str) -> None:
    assert describe(record) == text


def test_of_several_models_the_best_of_each_measure_is_shown() -> None:
    several = replace(
        RECORD,
        objective=np.array([2.0, 1.0]),
        accuracy=np.array([0.25, 0.125]),
        validation_loss=np.array([4.0, 3.0]),
        validation_accuracy=np.array([0.5, 0.75]),
    )
    assert describe(several) == "objective 1.0000  accuracy 25.0%  validation loss 3.0000  accuracy 75.0%"


# lines


def test_a_line_says_where_training_is(clock: list[float]) -> None:
    stream = io.StringIO()
    Lines(stream).update(1.0, 10.0, RECORD)
    assert stream.getvalue() == "pass 1 of 10  objective 1.2346  accuracy 51.2%  123,457 rows/s\n"


def passes_shown(stream: io.StringIO) -> list[int]:
    return [int(number) for number in re.findall(r"^pass (\d+) of 10 ", stream.getvalue(), re.M)]


def test_the_first_pass_is_shown_at_once_and_others_every_two_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for number in range(1, 8):
        lines.update(number, 10.0, replace(RECORD, passes=float(number)))
        clock[0] += 0.75
    assert passes_shown(stream) == [1, 4, 7]  # at 0, 2.25 and 4.5 s


def test_the_last_pass_is_shown_at_the_end(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for number in (1, 2, 3):
        lines.update(number, 10.0, replace(RECORD, passes=float(number)))
    lines.close()
    assert passes_shown(stream) == [1, 3]


def test_no_pass_is_shown_twice(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.update(1.0, 10.0, RECORD)
    clock[0] += 5
    lines.close()
    assert passes_shown(stream) == [1]


def test_nothing_is_shown_before_the_first_pass(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.update(0.5, 10.0, None)
    lines.close()
    assert stream.getvalue() == ""


# the bar


def shown(terminal: Terminal) -> str:
    """What is on the terminal, without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


@pytest.mark.parametrize("record", [RECORD, VALIDATED], ids=["training", "validation"])
def test_a_bar_shows_the_pass_on_80_columns(record: Record, terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.update(2.0, 10.0, record)
    bar.close()
    assert "pass 2/10" in shown(terminal)


def test_a_bar_shows_the_objective(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.update(2.0, 10.0, RECORD)
    bar.close()
    assert "objective 1.2346  accuracy 51.2%" in shown(terminal)


def test_a_bar_says_when_the_first_pass_is_under_way(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.update(0.5, 10.0, None)
    bar.close()
    assert "first pass" in shown(terminal)


def test_a_closed_bar_gives_the_cursor_back(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.close()
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().rfind(visible) > terminal.getvalue().rfind(hidden) >= 0


def test_a_bar_shows_the_rate(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    bar = Bar(terminal)
    bar.update(2.0, 10.0, RECORD)
    bar.close()
    assert "123,457 rows/s" in shown(terminal)


# rows


def test_rows_are_counted_in_lines_every_two_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    tally = RowTally(1000, stream)
    for done in (100, 300, 500):
        clock[0] += 1.5
        tally.rows_done(done)
    tally.close()
    assert stream.getvalue() == "row 300 of 1000  100 rows/s\n"


def test_rows_are_counted_by_a_bar_on_a_terminal(terminal: Terminal, clock: list[float]) -> None:
    tally = RowTally(1000, terminal)
    clock[0] += 0.5
    tally.rows_done(300)
    tally.close()
    assert "row 300 of 1000" in shown(terminal)


# notebooks


@pytest.mark.slow
def test_a_notebook_shows_a_widget_and_no_lines() -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    pytest.importorskip("ipykernel")
    code = (
        "from gpusoftmax import SoftmaxClassifier, load_digits\n"
        "model = SoftmaxClassifier(verbose=1).fit(*load_digits().parts['train'])\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (cell,) = notebook.cells
    assert [output for output in cell.outputs if output.output_type in ("stream", "error")] == []
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell.outputs)
