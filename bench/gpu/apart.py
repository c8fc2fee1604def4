"""Has cases measured in another process, `worker.py`, and ends it when a case takes too long.

What a process has said before it died or was ended is kept, so that a case whose third contender hangs still has the
results of the first two. The next case gets a new process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.common.harness import Contender, Result
from bench.common.machine import ROOT
from bench.gpu.cases import Case

START = 60.0  # seconds that a process may take until it is ready
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX would take three quarters of the GPU's memory
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # and would multiply float32 in TF32
    "SCIPY_ARRAY_API": "1",  # scikit-learn asks for it
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else it starts a process for each core first, which takes longer
}

Message = dict[str, Any]


class EndedError(Exception):
    """The process ended by itself; the text says why."""


class OutOfTimeError(EndedError):
    """The process was not done when the time of the case was over."""


class Worker:
    """A process that measures cases. It starts with the first one, and whoever made it calls `end`."""

    def __init__(self, stand_in: bool, quick: bool, data: Path | None, log: Path) -> None:
        self.arguments = [stand_in, quick, None if data is None else str(data.absolute())]
        self.log = log
        self.process: Any = None

    def measure(
        self, case: Case, contenders: list[Contender], doing: Callable[[str], None]
    ) -> tuple[dict[str, Result], Result]:
        """The results of contenders by name, and facts about the case."""
        results: dict[str, Result] = {}
        facts: Result = {}
        current = ""
        try:
            if self.process is None:
                self._start()
            deadline = time.monotonic() + case.seconds
            self._send({"case": case.name, "contenders": [one.name for one in contenders]})
            while not (message := self._next(deadline)).get("done"):
                if "result" in message:
                    results[message["contender"]] = message["result"]
                elif "facts" in message:
                    facts |= message["facts"]
                else:
                    current = message.get("contender", "")
                    doing(" ".join(filter(None, (current, message["doing"]))))
        except EndedError as reason:
            self.end()
            explain(results, [one.name for one in contenders], current, reason)
        return results, facts

    # ---- the process

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # -P: the working directory is not searched
        command = [
            sys.executable, "-P", "-m", "bench.common.process", "bench.gpu.worker:serve", json.dumps(self.arguments)
        ]  # fmt: skip
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT,
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        self.buffer = b""
        self._next(time.monotonic() + START)  # it is ready

    def _send(self, request: Message) -> None:
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise EndedError(self._last_words()) from None

    def _next(self, deadline: float) -> Message:
        """The next message; EndedError if there is none before the deadline."""
        source = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise OutOfTimeError("was stopped when the time of the case was over")
            received = os.read(source, 1 << 16)
            if not received:
                raise EndedError(self._last_words())
            self.buffer += received
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def _last_words(self) -> str:
        """Why the process ended by itself."""
        self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"ended with {self.process.returncode}: {lines[-1] if lines else 'without a word'}"

    def end(self) -> None:
        """End the process; the next case gets a new one."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                stream.close()
        self.process = None


def explain(results: dict[str, Result], names: list[str], current: str, reason: EndedError) -> None:
    """Add to the results of a case why contenders have none, or no right ones.

    The fault is that of the contender that was at work; of all, if it was none's turn. Out of time, it keeps the times
    that it has.
    """
    for name in names:
        if name == current or not current:
            if name not in results or not isinstance(reason, OutOfTimeError):
                results[name] = {"fault": str(reason)}
        else:
            results.setdefault(name, {"absent": f"not reached: {current} {reason}"})
