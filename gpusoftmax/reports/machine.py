"""What would compute here, and why: the facts to put into a bug report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from gpusoftmax.array import get_backend, threads_and_origin
from gpusoftmax.cuda.probe import probe
from gpusoftmax.datasets.download import data_home

PACKAGES = (
    "gpusoftmax", "numpy", "numba", "scipy", "scikit-learn", "safetensors", "threadpoolctl", "cupy-cuda13x",
    "cupy-cuda12x", "pyarrow", "pooch", "matplotlib",
)  # fmt: skip
VECTOR_FEATURES = ("avx512f", "avx2", "fma", "f16c", "neon")


def describe(n_threads: int | None = None) -> dict[str, Any]:
    """Versions, back ends and why, threads, BLAS, vector units and caches, ready for JSON."""
    device = get_backend("auto", n_threads)
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    gpu, cpu = probe(), get_backend("cpu", n_threads)
    compiled = cpu.name == "cpu"
    return {
        "versions": versions,
        "backend": device.name,
        "reason": device.reason,
        "device": device.device,
        "threads": device.n_threads,
        "threads_from": threads_and_origin()[1] if n_threads is None else "asked for",
        "backends": {
            "cuda": f"{'yes' if gpu.works else 'no'}: {gpu.reason}",
            "cpu": f"{'yes' if compiled else 'no'}: {cpu.reason}",
            "numpy": "yes: plain NumPy is always there",
        },
        "blas": [
            f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ],
        "vector_features": _vector_features() if compiled else [],
        "vector_bits": _vector_bits() if compiled else None,
        "caches": {
            "CPU kernels": _cpu_kernels() if compiled else None,
            "GPU kernels": os.environ.get("CUPY_CACHE_DIR") or str(Path.home() / ".cupy" / "kernel_cache"),
            "data sets": str(data_home()),
        },
    }


def _vector_bits() -> int:
    """Of the vectors that the CPU's kernels are compiled for."""
    from gpusoftmax.cpu.vectors import MACHINE

    return 8 * MACHINE.vector


def _cpu_kernels() -> str | None:
    """Where Numba keeps what it compiled; None: nowhere, so that each process compiles anew."""
    from gpusoftmax.cpu.kernels import visit

    folder: str | None = visit.stats.cache_path
    return folder


def _vector_features() -> list[str]:
    """What Numba compiles for, which the environment may have set lower than the processor."""
    from numba.core.registry import cpu_target

    enabled = {flag[1:] for flag in cpu_target.target_context.codegen().magic_tuple()[2].split(",") if flag[:1] == "+"}
    return [name for name in VECTOR_FEATURES if name in enabled]


def in_words(facts: dict[str, Any]) -> str:
    """The same for a person."""
    bits = f"{facts['vector_bits']} bits: " if facts["vector_bits"] else ""
    lines = [f"{name:14s} {value}" for name, value in facts["versions"].items()]
    lines += [
        f"{'computes':14s} {facts['backend']} ({facts['reason']})",
        f"{'device':14s} {facts['device']}, {facts['threads']} threads ({facts['threads_from']})",
        *(f"{'back end':14s} {name:6s} {why}" for name, why in facts["backends"].items()),
        f"{'BLAS':14s} {'; '.join(facts['blas']) or 'not found'}",
        f"{'vector units':14s} {bits}{', '.join(facts['vector_features']) or 'unknown'}",
        *(f"{name:14s} {folder or 'kept nowhere'}" for name, folder in facts["caches"].items()),
    ]
    return "\n".join(lines)
