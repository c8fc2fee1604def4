"""The command line. Slow imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings

from gpusoftmax._log import log
from gpusoftmax.cli.info import gradcheck, info
from gpusoftmax.cli.measure import evaluate, predict
from gpusoftmax.cli.options import app
from gpusoftmax.cli.sweep import sweep_command
from gpusoftmax.cli.train import train

ORDER = ("train", "evaluate", "predict", "sweep", "info", "gradcheck")  # the order in the help
app.registered_commands.sort(key=lambda command: ORDER.index(command.name or getattr(command.callback, "__name__", "")))

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # names from files must not send control codes to the terminal

__all__ = ["app", "evaluate", "gradcheck", "info", "main", "predict", "sweep_command", "train"]


def _printable(message: object) -> str:
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], str(message))


def _print_warning(message: Warning | str, *_: object) -> None:
    """Print a warning without the source line that it comes from."""
    print(f"warning: {_printable(message)}", file=sys.stderr)


def main() -> None:
    """Run a command. An error that the user can fix is printed as one line on standard error, without a traceback."""
    from gpusoftmax.exceptions import BackendUnavailableError, DivergenceError

    for stream in (sys.stdout, sys.stderr):  # if the locale cannot encode a character, such as ±, print ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    log.addHandler(logging.StreamHandler())  # prints warnings, such as that Ctrl-C was received
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]
            app(prog_name="gpusoftmax")
    except (
        ValueError, TypeError, OSError, MemoryError, ImportError, BackendUnavailableError, DivergenceError,
    ) as error:  # fmt: skip
        print(f"error: {_printable(error)}", file=sys.stderr)
        sys.exit(1)
