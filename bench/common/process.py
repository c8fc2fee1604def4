"""Runs a function of the benchmarks in a process of its own, and ends it with its workers when its time is up."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.common.machine import ROOT


def run_apart(
    function: Callable[..., Any],
    arguments: list[Any],
    folder: Path,
    budget: float | None = None,
    checkout: Path | None = None,
) -> str:
    """Calls the function with arguments (as JSON has them) in a new process; it leaves its results in files.

    The budget in seconds begins when the function calls `ready`. What the process says on its standard error is in
    `folder`. With a checkout, gpusoftmax is the one in that folder, and the benchmarks are these.

    Returns
    -------
    str
        Why the process failed; empty if it ended well or was stopped.
    """
    target = f"{function.__module__}:{function.__name__}"
    if checkout is None:
        return _run_apart(target, arguments, folder, budget, [str(ROOT)])
    with tempfile.TemporaryDirectory() as alone:  # a folder with bench/ and nothing else of this checkout
        (Path(alone) / "bench").symlink_to(ROOT / "bench", target_is_directory=True)
        return _run_apart(target, arguments, folder, budget, [alone, str(checkout.absolute())])


def _run_apart(target: str, arguments: list[Any], folder: Path, budget: float | None, path: list[str]) -> str:
    # -P: the working directory is not searched
    command = [sys.executable, "-P", "-m", "bench.common.process", target, json.dumps(arguments)]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, *inherited])}
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, env=environment, start_new_session=True
        )  # fmt: skip
        assert process.stdout is not None
        try:
            process.stdout.readline()  # empty if it ended before it was ready
            process.wait(budget)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "" if process.returncode == 0 else lines[-1] if lines else f"it ended with {process.returncode}"


def ready() -> None:
    """Called in the new process: the budget begins."""
    print("ready", flush=True)


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    getattr(importlib.import_module(module), name)(*json.loads(sys.argv[2]))
