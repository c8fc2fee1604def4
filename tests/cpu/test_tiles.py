"""The functions that register tiles are made of, and the tiles compiled for older processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")
pytestmark = pytest.mark.compiled

from numba import types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

from gpusoftmax.cpu import tiles, vectors  # noqa: E402

HASWELL = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"


def compiled(function: Any) -> Any:
    """A function of V, applied to each number of an array."""

    @intrinsic
    def apply(typing: Any, x: Any) -> Any:
        return x(x), lambda context, b, signature, args: function(vectors.V(b, args[0])).value

    @numba.njit
    def loop(x: Any) -> Any:
        out = np.empty_like(x)
        for i in range(len(x)):
            out[i] = apply(x[i])
        return out

    return loop


def units_off(found: Any, expected: Any) -> float:
    """The largest error in units of the last place of float32."""
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32))))


def test_exp_is_right_to_about_a_unit_of_the_last_place() -> None:
    x = -np.concatenate([np.linspace(0, 87.3365, 1_000_001), np.geomspace(1e-30, 1, 1001)]).astype(np.float32)
    assert units_off(compiled(vectors.exponential)(x), np.exp(x.astype(np.float64))) <= 1.05


def test_exp_of_what_is_no_ordinary_score() -> None:
    x = np.array([0.0, -87.4, -1e4, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(compiled(vectors.exponential)(x), np.array([1, 0, 0, 0, np.nan], np.float32))


def test_log_is_right_to_a_unit_of_the_last_place() -> None:
    x = np.concatenate([np.linspace(1, 4, 1_000_001), np.geomspace(4, 3e38, 100_001)]).astype(np.float32)[1:]
    assert units_off(compiled(vectors.logarithm)(x), np.log(x.astype(np.float64))) <= 1.0


def test_log1p_keeps_the_digits_of_a_confident_row() -> None:
    x = np.concatenate([np.geomspace(1e-37, 1e6, 1_000_001), np.linspace(0.3, 3, 100_001)]).astype(np.float32)
    assert units_off(compiled(vectors.logarithm_1p)(x), np.log1p(x.astype(np.float64))) <= 2.0


@pytest.mark.parametrize("function", [vectors.logarithm, vectors.logarithm_1p])
def test_log_of_what_is_no_ordinary_sum_is_no_number(function: Any) -> None:
    assert not np.isfinite(compiled(function)(np.array([np.inf, np.nan], np.float32))).any()


def test_tiles_fit_the_registers() -> None:
    for name, vector, registers in (("AVX-512", 64, 32), ("AVX2", 32, 16), ("NEON", 16, 32), ("other", 16, 16)):
        machine = vectors.Machine(name, vector, registers, True, True)
        assert 2 * machine.columns + 2 + 1 <= registers  # a gradient tile: two vectors of features, one weight
        for columns in range(1, machine.columns + 1):
            rows = machine.rows(columns)
            assert rows * columns + rows + 1 <= registers
            assert tiles.BLOCK % rows == 0


SCRIPT = """
import sys
import numpy as np
from gpusoftmax import get_backend
from gpusoftmax.cpu import compiling, kernels, vectors

name, most = sys.argv[1:3]
assert vectors.MACHINE.name == name, vectors.MACHINE
rng = np.random.default_rng(0)
for dtype in sys.argv[3:]:
    for n, d, c, K in ((37, 100, 11, 1), (21, 1024, 3, 2), (16, 5, 2, 1)):
        X = (rng.integers(0, 256, (n, d)) if dtype == "uint8" else rng.standard_normal((n, d))).astype(dtype)
        W = (rng.standard_normal((d, K, c)) / 100).astype(np.float64 if dtype == "float64" else np.float32)
        b, labels = np.ones((K, c), W.dtype), rng.integers(0, c, n, dtype=np.int32)
        for loss in range(3):
            backends = (get_backend(backend, 2).ops for backend in ("cpu", "numpy"))
            ours, plain = (operations.linear_gradient(X, labels, W, b, None, loss) for operations in backends)
            for found, expected in zip(ours, plain):
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
texts = [text for one in compiling.dispatchers for text in one.inspect_asm().values()]
texts += [library.get_asm_str() for one in compiling.emitters for library in one.compiled.values()]
assert any(most in text for text in texts)
for wider in {"xmm": ("ymm", "zmm"), "ymm": ("zmm",), "zmm": ()}[most]:
    assert not any(wider in text for text in texts), wider
"""


@pytest.mark.slow
@pytest.mark.skipif(not vectors.MACHINE.name.startswith("AVX"), reason="stands in for processors of the same family")
@pytest.mark.parametrize(
    ("cpu", "features", "name", "registers"),
    [
        pytest.param(
            "haswell", HASWELL, "AVX2", "ymm", id="AVX2",
            marks=pytest.mark.skipif(vectors.MACHINE.name == "AVX2", reason="this processor is such a one"),
        ),
        pytest.param("x86-64", "+sse2", "128-bit vectors", "xmm", id="SSE2"),
    ],
)  # fmt: skip
def test_tiles_for_an_older_processor_compute_the_same(
    cpu: str, features: str, name: str, registers: str, tmp_path: Path
) -> None:
    # float32 is in tests/properties/test_portability.py, compiled and from the cache
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, registers, "uint8", "float16"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_kernels_of_another_text_are_not_taken_from_the_cache() -> None:
    from gpusoftmax.cpu import kernels

    name = str(numba.typeof(kernels.SOURCE))
    assert name.startswith("Source(")
    assert isinstance(numba.typeof(kernels.SOURCE), types.Opaque)
    assert all(numba.typeof(kernels.SOURCE) in signature for signature in kernels.pass_over_rows.signatures)
