"""Where a result comes from: machine, versions and environment, and the limits that `--avx2` sets."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpusoftmax.reports.machine import describe

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "jax", "jaxlib", "optax", "scikit-learn-intelex", "cupy-cuda13x", "cupy-cuda12x", "matplotlib")
PREFIXES = ("OPENBLAS_", "NUMBA_", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "XLA_", "JAX_", "NPY_", "GPUSOFTMAX_", "GOMP_")
HALVING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # what makes NumPy slower than the machine is
# the name alone keeps the host's AVX-512: Numba adds the features that it finds
AVX2_LIMITS = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


def avx2_environment(environment: dict[str, str]) -> dict[str, str]:
    """The environment that holds ours, NumPy and its BLAS, PyTorch and JAX to AVX2."""
    limited = {name: value for name, value in environment.items() if name not in HALVING} | AVX2_LIMITS
    others = [flag for flag in environment.get("XLA_FLAGS", "").split() if flag != AVX2_LIMITS["XLA_FLAGS"]]
    limited["XLA_FLAGS"] = " ".join([*others, AVX2_LIMITS["XLA_FLAGS"]])
    # PyTorch takes code that it compiled for AVX-512 from its cache whatever the limit, and with wrong results
    cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_avx2"
    return limited | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(_numpy_beyond_avx2()),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
    }


def _numpy_beyond_avx2() -> list[str]:
    """What NumPy's own loops (exp, sums) would choose above AVX2 on this processor."""
    from numpy._core import _multiarray_umath as umath

    dispatched = [name for name in umath.__cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
    return [name for name in dispatched if umath.__cpu_features__.get(name)]  # it warns about what is not there


def limited_to_avx2() -> bool:
    """Whether this process runs under those limits."""
    return all(value in os.environ.get(name, "") for name, value in AVX2_LIMITS.items())


def warnings() -> list[str]:
    """What makes times here not worth publishing."""
    found = []
    given = [name for name in HALVING if name in os.environ]
    if given and not limited_to_avx2():
        found.append(f"{' and '.join(given)} set: NumPy's products are slower than this machine allows; unset first")
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > 0.3 * cores:
        found.append(f"others use this machine (load {load:.1f} on {cores} cores): not for publishing")
    return found


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts() -> dict[str, Any]:
    """All of it, ready for JSON."""
    found = describe()
    del found["caches"]  # results name no folders of the machine
    for package in PACKAGES:
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            found["versions"][package] = "not installed"
    features = found["vector_features"]
    widest = next((name for name in ("avx512f", "avx2", "neon") if name in features), "unknown")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "vectors": {"avx512f": "AVX-512", "avx2": "AVX2", "neon": "NEON"}.get(widest, widest),
        "numpy_features": _numpy_features(),
        "limited_to_avx2": limited_to_avx2(),
        "environment": _environment(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        **found,
    }


def _environment() -> dict[str, str]:
    """The variables that steer arithmetic and threads, without folders."""
    steering = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(PREFIXES)}
    return {name: value for name, value in steering.items() if os.sep not in value}


def _numpy_features() -> list[str]:
    from numpy._core import _multiarray_umath as umath

    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def commit(checkout: Path = ROOT) -> str:
    """The version of the source, with a plus if files differ from it."""
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
