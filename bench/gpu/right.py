"""The phase `right`: the program that calls every kernel, alone and under compute-sanitizer, and the tests.

Each is a process of its own. What all of them print goes to one file beside the results.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from bench.common.harness import Result
from bench.common.machine import ROOT
from bench.gpu.cases import Case

TESTS = (
    "tests/cuda/test_host.py", "tests/cuda/test_device.py", "tests/cuda/test_blocks.py", "tests/cuda/test_fits.py",
    "tests/objective", "tests/solvers", "tests/estimators/test_estimators.py", "tests/protocols/test_cs231n.py",
    "tests/search/test_sweep.py", "tests/features",
)  # fmt: skip
QUICK_TESTS = ("tests/cuda/test_host.py", "-k", "test_two_runs_have_the_same_bits")
PROCESSES = 8  # of pytest-xdist, where it is installed: each has a context on the GPU
FINDING = 9  # compute-sanitizer's exit code if it found something
TOOL = "compute-sanitizer"
TOOL_FOLDER = "/usr/local/cuda/bin"  # where the CUDA toolkit puts it, if the PATH does not say


def measure(case: Case, out: Path, stand_in: bool) -> tuple[str, Result]:
    """The contender of a case, and its result; `out` is the file for what is printed."""
    if case.kind == "tests":
        return "pytest", check_tests(case, out)
    if case.kind == "sanitizer":
        return "sanitizer", check_sanitizer(case, out, stand_in)
    return "kernels", check_program(case, out, stand_in)


def program(case: Case, stand_in: bool) -> list[str]:
    """The command that calls every kernel."""
    options = ["--stand-in"] * stand_in + ["--quick"] * case.is_quick
    return [sys.executable, "-P", "-m", "bench.gpu.kernel_calls", *options]


def check_program(case: Case, out: Path, stand_in: bool) -> Result:
    """The program alone."""
    return run_for(case.seconds, program(case, stand_in), out)


def check_sanitizer(case: Case, out: Path, stand_in: bool) -> Result:
    """The program under a tool."""
    tool = shutil.which(TOOL) or shutil.which(TOOL, path=TOOL_FOLDER)
    if stand_in:
        return {"absent": "needs a GPU"}
    if tool is None:
        return {"absent": f"{TOOL} is not installed"}
    options = ["--tool", case.tool, "--error-exitcode", str(FINDING), "--print-limit", "50"]
    # CuPy's pool would put arrays side by side, where a write beyond one of them is not seen
    command = [tool, *options, *program(case, stand_in), "--no-pool"]
    return run_for(case.seconds, command, out)


def check_tests(case: Case, out: Path) -> Result:
    """The tests that use a GPU, on real CuPy where that works; without any plugin that happens to be installed."""
    parallel = find_spec("xdist") is not None and not case.is_quick
    options = ["-p", "xdist.plugin", "-n", str(PROCESSES)] if parallel else []
    chosen = QUICK_TESTS if case.is_quick else TESTS
    command = [
        sys.executable, "-m", "pytest", "-q", "-m", "emulated or gpu", "-p", "no:cacheprovider", "--tb=short",
        *options, *chosen,
    ]  # fmt: skip
    if find_spec("pytest") is None:
        return {"absent": "pytest is not installed"}
    result = run_for(case.seconds, command, out, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    counted = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", _last_line(out))
    return result | {word: int(number) for number, word in counted}


def run_for(seconds: float, command: list[str], out: Path, environment: dict[str, str] | None = None) -> Result:
    """Run a command, its output added to a file; a fault if it fails or is not done in time."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.monotonic()
    with out.open("a", encoding="utf-8") as file:
        named = (Path(part).name if os.path.isabs(part) else part for part in command)  # no folders of the machine
        print("\n$", " ".join(named), file=file, flush=True)
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path} | (environment or {}),
        )  # fmt: skip
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    result: Result = {"seconds_taken": time.monotonic() - started, "file": out.name}
    if code is None:
        return result | {"fault": f"not done after {seconds:.0f} s; see {out.name}"}
    return result | ({} if code == 0 else {"fault": f"ended with {code}: {_last_line(out)}"})


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"
