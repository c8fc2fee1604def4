"""Child processes, and the thread settings of BLAS."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

HANGS = 60  # seconds after which a child process counts as hung; it needs about one
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def blas_threads() -> set[int]:
    """Number of threads that the loaded BLAS libraries may use."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


blas = pytest.mark.skipif(not blas_threads(), reason="threadpoolctl does not know this BLAS")


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=HANGS, check=False
    )


def settings_of_blas() -> dict[str, int]:
    """Number of threads of each BLAS and OpenMP library that is loaded, by its file."""
    return {library["filepath"]: library["num_threads"] for library in threadpool_info()}
