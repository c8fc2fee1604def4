"""What would compute here, and why: the facts to put into a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from threadpoolctl import threadpool_info

from gpusoftmax.array import resolve

PACKAGES = ("gpusoftmax", "numpy", "numba", "scikit-learn", "safetensors", "threadpoolctl")
VECTOR_FEATURES = ("avx512f", "avx2", "fma", "f16c", "neon")


def describe(n_threads: int | None = None) -> dict[str, Any]:
    """Versions, back end, threads, BLAS and vector units, ready for JSON."""
    device = resolve("auto", n_threads)
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "backend": device.name,
        "reason": device.reason,
        "device": device.device,
        "threads": device.n_threads,
        "blas": [
            f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ],
        "vector_features": _vector_features() if device.name == "cpu" else [],
    }


def _vector_features() -> list[str]:
    """What Numba compiles for, which the environment may have set lower than the processor."""
    from numba.core.registry import cpu_target

    enabled = {flag[1:] for flag in cpu_target.target_context.codegen().magic_tuple()[2].split(",") if flag[:1] == "+"}
    return [name for name in VECTOR_FEATURES if name in enabled]


def in_words(facts: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [f"{name:14s} {value}" for name, value in facts["versions"].items()]
    lines += [
        f"{'back end':14s} {facts['backend']} ({facts['reason']})",
        f"{'device':14s} {facts['device']}, {facts['threads']} threads",
        f"{'BLAS':14s} {'; '.join(facts['blas']) or 'not found'}",
        f"{'vector units':14s} {', '.join(facts['vector_features']) or 'unknown'}",
    ]
    return "\n".join(lines)
