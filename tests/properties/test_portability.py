"""Other processors, operating systems and consoles, as far as one machine can imitate them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installed import BACKENDS

# as if this processor had no more: Numba keeps the features of the host unless they are named, too
PROCESSORS = {
    "this one": {},
    "AVX2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe",
    },
    "128-bit vectors": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
WIDER = {"this one": (), "AVX2": ("zmm",), "128-bit vectors": ("ymm", "zmm")}  # registers that the processor lacks


def run(program: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a Python process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, errors="replace", check=False,
        timeout=300, cwd=cwd, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# processors


AGAINST_NUMPY = """
import sys
import numpy as np
from gpusoftmax import get_backend
from gpusoftmax.cpu.facts import compilations

compiled, plain = get_backend("cpu", 2).ops, get_backend("numpy", 2).ops
rng = np.random.default_rng(0)
for n, d, K, c in ((4, 3, 1, 3), (37, 300, 1, 10), (21, 40, 3, 2), (50, 70, 1, 130)):
    X, W = rng.standard_normal((n, d), np.float32), rng.standard_normal((d, K, c), np.float32) / 10
    b, labels = rng.standard_normal((K, c), np.float32), rng.integers(0, c, n, dtype=np.int32)
    pairs = [(one.linear_scores(X, W, b),) for one in (compiled, plain)]
    pairs += [one.linear_gradient(X, labels, W, b, None, loss) for loss in range(3) for one in (compiled, plain)]
    for ours, theirs in zip(pairs[::2], pairs[1::2]):
        for found, expected in zip(ours, theirs):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
print(compilations() > 0)
"""


@pytest.mark.slow
@pytest.mark.skipif("cpu" not in BACKENDS, reason="Numba is not installed")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_kernels_from_the_cache_compute_what_numpy_does(processor: str, tmp_path: Path) -> None:
    # LLVM makes them otherwise than those that the process has just compiled, and with AVX2 a score was missing
    from gpusoftmax.cpu.vectors import MACHINE

    if processor == MACHINE.name:
        pytest.skip("this processor is such a one")
    if processor != "this one" and not MACHINE.name.startswith("AVX"):
        pytest.skip(f"this processor, which has {MACHINE.name}, cannot stand in for one with {processor}")
    environment = PROCESSORS[processor] | {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert [run(AGAINST_NUMPY, *WIDER[processor], **environment) for _ in range(2)] == ["True\n", "False\n"]


# systems

POSIX = (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_TMPFILE", "fork", "geteuid", "getuid", "mkfifo",
    "process_cpu_count", "register_at_fork", "sched_getaffinity", "sysconf",
)  # fmt: skip

WITHOUT = """
import os, sys

backend, *names = sys.argv[1:]
for name in {*names} & {*dir(os)}:
    delattr(os, name)
for module in ("grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
from gpusoftmax import SoftmaxClassifier, load_digits, load_model, save_model, sweep

digits = load_digits()
model = SoftmaxClassifier(backend=backend).fit(digits.X_train, digits.y_train)
save_model(model, "model.safetensors")
assert (load_model("model.safetensors").predict(digits.X_test) == model.predict(digits.X_test)).all()
result = sweep(SoftmaxClassifier(backend=backend), {"C": [0.1, 1.0]}, digits.X_train, digits.y_train, cv=3)
result.to_csv("sweep.csv")
print(model.backend_.partition(":")[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_only_posix_has_is_not_needed(backend: str, tmp_path: Path) -> None:
    assert run(WITHOUT, backend, *POSIX, cwd=tmp_path, PYTHONWARNINGS="ignore").strip() == backend


# consoles

COMMANDS = (
    ["--help"], ["train", "--help"], ["info"], ["train", "digits", "--save", "model.safetensors"],
    ["evaluate", "model.safetensors", "digits"],
    ["sweep", "digits", "--C", "0.1:1:2", "--cv", "3"],
)  # fmt: skip

COMMAND_LINE = """
import json, sys
from gpusoftmax.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["gpusoftmax", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""


@pytest.mark.slow
def test_what_is_printed_fits_the_code_page_of_a_western_windows(tmp_path: Path) -> None:
    run(COMMAND_LINE, json.dumps(COMMANDS), cwd=tmp_path, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
