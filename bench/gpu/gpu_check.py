"""Checks and measures a machine with an NVIDIA GPU, by one command, in under 8 minutes, offline.

Writes into the folder: machine.json (device, driver, versions), tests.txt (the GPU tests on real CuPy), sanitizer.txt
(compute-sanitizer's memcheck and racecheck, where it is installed), recipe.json, solver.json and sweep.json (the cs231n
recipe, the exact solver, and 20 values of C on "cuda" beside "cpu"), row_loss.json and row_loss.txt (GB/s of the row
kernel beside a copy of the bytes and PyTorch, if it is installed). Each part has a limit of time; one that does not
finish says so and the rest goes on. The exit code is 0 if all that ran was right.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.harness import command_line
from bench.common.machine import ROOT
from bench.common.ours import sweep_over_C

EXAMPLES = (
    "--data DIR --out results/           DIR holds cifar-10-batches-bin or -py",
    "--pack DIR sample.npz               a sample of CIFAR-10 (10 MB) that travels to such a machine",
    "--data sample.npz --out results/",
)
LIMITS = {"tests": 200, "sanitizer": 120, "recipe": 60, "solver": 30, "sweep": 60, "row_loss": 90}  # seconds
COLUMNS = (10, 100, 256, 1000, 1024, 4096, 16384, 32768, 131072)
BYTES = 1 << 29  # of scores a case: far beyond any cache
REPEATS = 20
TESTS = (
    *(
        "tests/cuda/test_host.py",
        "tests/objective/test_objective.py",
        "tests/estimators/test_estimators.py",
        "tests/protocols/test_cs231n.py",
    ),
    *(
        "tests/solvers/test_lbfgs.py",
        "tests/solvers/preconditioners/test_gram.py",
        "tests/solvers/test_certificate.py",
        "tests/search/test_sweep.py",
    ),
)
SANITIZED = """
import numpy as np
from gpusoftmax import loss_and_gradient
rng = np.random.default_rng(0)
for dtype in ("float32", "uint8"):
    for c in (3, 10, 33, 1000, 1025, 20000):
        X = (200 * rng.random((67, 20))).astype(dtype)
        loss_and_gradient(X, rng.integers(0, c, 67), np.zeros((20, c)), np.zeros(c), backend="cuda")
"""


def machine() -> dict[str, Any]:
    """Device, driver and versions."""
    import cupy

    from gpusoftmax.reports.machine import describe

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    facts = {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_bytes": properties["totalGlobalMem"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        import torch

        facts["torch"] = torch.__version__
    except ImportError:
        facts["torch"] = "not installed"
    return facts | describe()


def run(command: list[str], out: Path, seconds: float) -> bool:
    """Run a command with its output in a file; False if it failed or did not finish."""
    with open(out, "w", encoding="utf-8") as file:
        print("$", " ".join(command), file=file, flush=True)
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            print(f"not finished after {seconds:.0f} s", file=file)
            return False
    return code == 0


def check_tests(out: Path, data: Path | None) -> bool:
    """The tests that use a GPU, on real CuPy."""
    command = [sys.executable, "-m", "pytest", "-m", "", "-q", "-p", "no:cacheprovider", *TESTS]
    return run(command, out / "tests.txt", LIMITS["tests"])


def check_sanitizer(out: Path, data: Path | None) -> bool:
    """compute-sanitizer over every kind of row."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        (out / "sanitizer.txt").write_text("compute-sanitizer is not installed\n")
        return True
    right = True
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
        right &= run(command, out / f"sanitizer-{name}.txt", LIMITS["sanitizer"] / 2)
    return right


def images(data: Path) -> tuple[Any, ...]:
    """Training and test images and labels, from CIFAR-10's folder or a sample."""
    if data.suffix == ".npz":
        with np.load(data, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    from gpusoftmax import load_cifar10

    loaded = load_cifar10(data)
    return loaded.X_train, loaded.y_train, loaded.X_test, loaded.y_test


def check_recipe(out: Path, data: Path | None) -> bool:
    """The cs231n recipe on the GPU and on the CPU: the same losses, to rounding."""
    from gpusoftmax import train_cs231n

    if data is None:
        (out / "recipe.json").write_text('"no data: pass --data"\n')
        return True
    X, y, X_test, y_test = images(data)
    results = {}
    for backend in ("cuda", "cpu"):
        for loss in ("softmax", "hinge"):
            train_cs231n(X, y, loss=loss, n_iterations=10, backend=backend)  # compile
            started = time.perf_counter()
            model = train_cs231n(X, y, loss=loss, backend=backend)
            results[f"{backend} {loss}"] = {
                "seconds": time.perf_counter() - started,
                "test_accuracy": float((model.predict(X_test) == y_test).mean()),
                "loss_curve": model.loss_curve_,
            }
    (out / "recipe.json").write_text(json.dumps({"rows": len(y), **results}, indent=1))
    curves = [results[f"{backend} softmax"]["loss_curve"] for backend in ("cuda", "cpu")]
    return bool(np.allclose(*curves, rtol=1e-4))


def check_solver(out: Path, data: Path | None) -> bool:
    """The exact solver on the GPU and on the CPU: the same optimum, within what both prove."""
    from gpusoftmax import SoftmaxClassifier

    if data is None:
        (out / "solver.json").write_text('"no data: pass --data"\n')
        return True
    X, y, X_test, y_test = images(data)
    results = {}
    for backend in ("cuda", "cpu"):
        model = SoftmaxClassifier(C=1e-3, scaling="standard", backend=backend)
        for turn in ("cold", "warm"):
            started = time.perf_counter()
            model.fit(X, y)
            seconds = time.perf_counter() - started
            results[f"{backend} {turn}"] = {
                "seconds": seconds,
                "test_accuracy": float((model.predict(X_test) == y_test).mean()),
                **model.fit_report_.as_dict(),
            }
    (out / "solver.json").write_text(json.dumps({"rows": len(y), **results}, indent=1))
    cuda, cpu = (results[f"{backend} warm"] for backend in ("cuda", "cpu"))
    return abs(cuda["objective"] - cpu["objective"]) <= cuda["bound"] + cpu["bound"]


def check_sweep(out: Path, data: Path | None) -> bool:
    """20 values of C on the GPU, several side by side, and on the CPU: the same models, to what tol leaves."""
    from gpusoftmax.search import exact

    if data is None:
        (out / "sweep.json").write_text('"no data: pass --data"\n')
        return True
    X, y, X_test, y_test = images(data)
    Cs, widths = np.logspace(-5, -1, 20).tolist(), {"cpu": [1], "cuda": [1, 4, 20]}
    options = {"validation": (X_test, y_test), "refit": False}
    results, objectives, width = {}, [], exact.width
    for backend, tried in widths.items():
        for wide in tried:
            exact.width = lambda *shape, wide=wide: wide  # type: ignore[misc]
            for _ in range(2):
                found = sweep_over_C(X, y, Cs, {"scaling": "standard", "backend": backend}, **options)
            objectives.append(found.trials.objective[0])
            results[f"{backend}, {wide} side by side, warm"] = {
                "seconds": found.seconds_, "passes": found.trials.passes[0].tolist(), "chosen": found.best_params_,
                "objectives": objectives[-1].tolist(),
            }  # fmt: skip
    exact.width = width
    (out / "sweep.json").write_text(json.dumps({"rows": len(y), **results}, indent=1))
    return bool(np.allclose(objectives, objectives[0], rtol=2e-4))


def timed(work: Callable[[], Any]) -> float:
    """Median seconds of a call on the device."""
    import cupy

    start, stop, seconds = cupy.cuda.Event(), cupy.cuda.Event(), []
    for i in range(REPEATS + 3):
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if i >= 3:
            seconds.append(1e-3 * cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(seconds))


def check_row_loss(out: Path, data: Path | None) -> bool:
    """GB/s of the gradient in place, for few and many classes in float32 and bfloat16."""
    import cupy

    results = []
    for c in COLUMNS:
        for size in (4, 2):
            ours = measure_row_loss(c, size)
            cupy.get_default_memory_pool().free_all_blocks()  # PyTorch has a pool of its own
            results.append(ours | torch_row_loss(ours["rows"], c, size))
            print(results[-1], flush=True)
    (out / "row_loss.json").write_text(json.dumps(results, indent=1))
    columns = ("c", "type", "threads", "gigabytes_per_second", "copy", "torch_eager", "torch_compile")
    lines = ["  ".join(f"{name:>20s}" for name in columns)]
    for result in results:
        shown = [result.get(name, "absent") for name in columns]
        lines.append("  ".join(f"{x:20.0f}" if isinstance(x, float) else f"{x!s:>20s}" for x in shown))
    (out / "row_loss.txt").write_text("\n".join(lines) + "\n")
    return all(result["error"] < 1e-5 for result in results)


def measure_row_loss(c: int, size: int) -> dict[str, Any]:
    """One pass over the scores, read and written, after a check against the reference, beside a copy of them."""
    import cupy

    from gpusoftmax import reference
    from gpusoftmax.cuda.buckets import choose
    from gpusoftmax.cuda.compile import KINDS
    from gpusoftmax.cuda.row_losses import GRADIENT, no_bad_row, row_loss

    rng, bad_row = np.random.default_rng(c), no_bad_row()
    few = (3 * rng.standard_normal((8, c))).astype(np.float32)
    few[0, 0] = 50.0  # an outlier, so that a kernel without the maximum cannot pass
    few_labels = rng.integers(0, c, 8).astype(np.int32)
    stored = few if size == 4 else (few.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16 as its bits
    exact = few if size == 4 else (stored.astype(np.uint32) << 16).view(np.float32)
    losses, _ = row_loss(
        cupy.asarray(stored.reshape(8, 1, c)), None, cupy.asarray(few_labels), None, 0, GRADIENT, bad_row
    )
    expected = float(reference.row_loss(exact, few_labels, "softmax")[0].sum())
    error = abs(float(losses.sum()) - expected) / expected
    scores = cupy.tile(cupy.asarray(stored.reshape(8, 1, c)), (max(8, BYTES // (8 * c * size)), 1, 1))
    labels, other = cupy.zeros(len(scores), np.int32), cupy.empty_like(scores)
    seconds = timed(lambda: row_loss(scores, None, labels, None, 0, GRADIENT, bad_row))
    copied = timed(lambda: cupy.copyto(other, scores))
    result = {
        "c": c,
        "type": "float32" if size == 4 else "bfloat16",
        "rows": len(scores),
        "threads": choose(KINDS[scores.dtype], c, c, scores.data.ptr).group,
        "error": error,
        "gigabytes_per_second": 2 * scores.nbytes / seconds / 1e9,
        "copy": 2 * scores.nbytes / copied / 1e9,
    }
    return result


def torch_row_loss(rows: int, c: int, size: int) -> dict[str, float]:
    """PyTorch's speed, bytes counted as ours: forward and backward of its cross-entropy. Empty without it."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    dtype = torch.float32 if size == 4 else torch.bfloat16
    speeds = {}
    scores = torch.randn(rows, c, device="cuda", dtype=dtype, requires_grad=True)
    labels = torch.zeros(rows, device="cuda", dtype=torch.long)
    for name in ("eager", "compile"):
        function: Any = torch.nn.functional.cross_entropy
        function = torch.compile(function) if name == "compile" else function

        def step(function: Any = function) -> None:
            scores.grad = None
            function(scores, labels, reduction="sum").backward()

        seconds = []
        for i in range(8):
            torch.cuda.synchronize()
            started = time.perf_counter()
            step()
            torch.cuda.synchronize()
            if i >= 3:
                seconds.append(time.perf_counter() - started)
        speeds[f"torch_{name}"] = 2 * rows * c * size / float(np.median(seconds)) / 1e9
    return speeds


def pack(folder: Path, target: Path) -> None:
    """A sample of CIFAR-10: 2500 training and 1000 test images."""
    X, y, X_test, y_test = images(folder)
    np.savez_compressed(target, X_train=X[:2500], y_train=y[:2500], X_test=X_test[:1000], y_test=y_test[:1000])
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MB")


def main(arguments: list[str]) -> int:
    """Runs the parts, and prints which were right."""
    parser = command_line("gpu", __doc__, EXAMPLES)
    parser.add_argument("--data", type=Path, help="CIFAR-10's folder, or a sample that --pack made")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the results")
    parser.add_argument("--pack", nargs=2, type=Path, metavar=("DIR", "FILE"), help="make a sample and stop")
    parser.add_argument("--only", action="append", choices=list(LIMITS), help="a part; may be repeated")
    options = parser.parse_args(arguments)
    if options.pack:
        pack(*options.pack)
        return 0
    from gpusoftmax.cuda.probe import probe

    found = probe()
    if not found.works:
        print(f"no GPU to check: {found.reason}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "machine.json").write_text(json.dumps(machine(), indent=1))
    parts = {
        "tests": check_tests, "sanitizer": check_sanitizer, "recipe": check_recipe, "solver": check_solver,
        "sweep": check_sweep, "row_loss": check_row_loss,
    }  # fmt: skip
    verdicts = {}
    for name, part in parts.items():
        if options.only and name not in options.only:
            continue
        started = time.perf_counter()
        try:
            verdicts[name] = "right" if part(options.out, options.data) else "WRONG"
        except Exception as error:  # the other parts are still worth having
            verdicts[name] = f"WRONG: {type(error).__name__}: {error}"
        print(f"{name}: {verdicts[name]} ({time.perf_counter() - started:.0f} s)", flush=True)
    (options.out / "verdicts.json").write_text(json.dumps(verdicts, indent=1))
    return int(any(verdict != "right" for verdict in verdicts.values()))
