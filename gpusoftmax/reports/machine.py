"""Facts about this machine for a bug report: versions, backends, threads and caches."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from gpusoftmax.array import available_backends, compiled_for, get_backend, threads_and_origin
from gpusoftmax.datasets.download import data_home

PACKAGES = (
    "gpusoftmax", "numpy", "numba", "scipy", "scikit-learn", "safetensors", "threadpoolctl", "cupy-cuda13x",
    "cupy-cuda12x", "pyarrow", "pooch", "matplotlib",
)  # fmt: skip


def describe(n_threads: int | None = None) -> dict[str, Any]:
    """Return versions, backends and whether they work, threads, BLAS, vector units and caches, for JSON."""
    backend = get_backend("auto", n_threads)
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    compiled = compiled_for()
    return {
        "versions": versions,
        "backend": backend.name,
        "reason": backend.reason,
        "device": backend.device,
        "threads": backend.n_threads,
        "threads_from": threads_and_origin()[1] if n_threads is None else "asked for",
        "backends": {
            name: f"{'yes' if works else 'no'}: {reason}"
            for name, (works, reason) in available_backends(n_threads).items()
        },
        "blas": [
            f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ],
        "vector_features": compiled.vector_features if compiled else [],
        "vector_bits": compiled.vector_bits if compiled else None,
        "caches": {
            "CPU kernels": compiled.folder if compiled else None,
            "GPU kernels": os.environ.get("CUPY_CACHE_DIR") or str(Path.home() / ".cupy" / "kernel_cache"),
            "data sets": str(data_home()),
        },
    }


def in_words(facts: dict[str, Any]) -> str:
    """Return the facts as text."""
    bits = f"{facts['vector_bits']} bits: " if facts["vector_bits"] else ""
    lines = [f"{name:14s} {value}" for name, value in facts["versions"].items()]
    lines += [
        f"{'computes':14s} {facts['backend']} ({facts['reason']})",
        f"{'device':14s} {facts['device']}, {facts['threads']} threads ({facts['threads_from']})",
        *(f"{'backend':14s} {name:6s} {why}" for name, why in facts["backends"].items()),
        f"{'BLAS':14s} {'; '.join(facts['blas']) or 'not found'}",
        f"{'vector units':14s} {bits}{', '.join(facts['vector_features']) or 'unknown'}",
        *(f"{name:14s} {folder or 'kept nowhere'}" for name, folder in facts["caches"].items()),
    ]
    return "\n".join(lines)
