"""The compiled kernels alone: float16 read as bits, and one compilation for any memory layout of X."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cases import DTYPES, LAYOUTS, random_problem, sha256

pytest.importorskip("numba")

from gpusoftmax.array import get_backend
from gpusoftmax.cpu import compiling, fallback, kernels, threads
from gpusoftmax.losses import LOSSES

pytestmark = pytest.mark.compiled

OPS = get_backend("cpu", n_threads=2).ops

GRADIENT = """
import hashlib, logging, numpy as np
logging.basicConfig(format="%(message)s")
from gpusoftmax import loss_and_gradient
X = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
value, dW, db = loss_and_gradient(X, [0, 1, 2, 0], np.eye(3), np.zeros(3), backend="cpu")
from gpusoftmax.cpu.facts import compilations
print(value.hex() + hashlib.sha256(dW.tobytes() + db.tobytes()).hexdigest(), compilations())
"""

FITS = """
import warnings, numpy as np
warnings.simplefilter("ignore")
from gpusoftmax import SoftmaxClassifier
from gpusoftmax.cpu import compiling
X, y, seen = np.arange(1200).reshape(30, 40) % 7, np.arange(30) % 3, set()
for kind, solver in (("uint8", "lbfgs"), ("float64", "lbfgs"), ("float64", "sgd")):
    SoftmaxClassifier(solver=solver, backend="cpu").fit(X.astype(kind), y)
    compiled = {one.py_func.__name__ for one in compiling.dispatchers if one.stats.cache_misses}
    compiled |= {name for one in compiling.emitters for name in one.compiled}
    print(*sorted(compiled - seen))
    seen |= compiled
"""


def start(code: str, cache: Path) -> subprocess.Popen[str]:
    """A Python process of its own, which keeps compiled kernels in `cache`."""
    # without optimisation compiling takes half the time
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "NUMBA_OPT": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def specialisations() -> int:
    """How many compiled functions this process has, for the types and sizes that it met."""
    by_numba = sum(len(function.signatures) for function in compiling.dispatchers)
    return by_numba + sum(len(function.addresses) for function in compiling.emitters)


@pytest.mark.parametrize("layout", ["C", "every other"])
def test_every_float16_is_read_as_numpy_reads_it(layout: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    X = halves[:, None] if layout == "C" else halves.repeat(2).reshape(-1, 2)[:, ::2]
    one = np.ones((1, 1, 2), np.float32)
    scores = OPS.linear_scores(X, one, np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(scores[:, 0, 0], halves.astype(np.float32))  # NaN equals NaN here


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_are_compiled_once_for_each_type_of_X(dtype: str, tmp_path: Path) -> None:
    def call(problem_layout: str) -> int:
        problem = random_problem(0, dtype=dtype, n=6, d=4, layout=problem_layout)
        X = problem.X
        if problem_layout == "memory-mapped":
            np.save(tmp_path / "X.npy", X)
            X = np.load(tmp_path / "X.npy", mmap_mode="r")
        OPS.linear_gradient(X, *problem.arguments[1:])
        OPS.linear_scores(X, problem.W, problem.b)
        return specialisations()

    call("C")  # read where they are, and
    compiled = call("every other")  # copied
    for layout in (*LAYOUTS, "memory-mapped"):
        assert call(layout) == compiled, layout


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_and_plain_row_loss_agree(loss: str, weighted: bool, rng: np.random.Generator) -> None:
    m, K, c = 50, 3, 7
    Z = (rng.integers(-160, 160, (m, K, c)) / 8).astype(np.float32)  # differences are exact; ties, and margins of 0
    labels = rng.integers(0, c, m, dtype=np.int32)
    weights = rng.random((m, K)).astype(np.float32) if weighted else np.empty((0, 0), np.float32)
    results = []
    for module in (kernels, fallback):
        z, losses, correct = Z.copy(), np.ones(K), np.ones(K)  # not zeros: both are to be added to
        module.row_loss(z, labels, weights, LOSSES[loss].code, losses, correct, module.SOURCE)
        results.append((z, losses, correct))
    # exp may differ by 2 ulp, sums of 7 terms by 3
    for compiled, plain in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=16 * np.finfo(np.float32).eps, atol=1e-37)


@pytest.mark.parametrize("c", [2, 3, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_a_rows_scores_do_not_depend_on_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, dtype: str, c: int
) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # leaves of 64 rows
    problem = random_problem(0, dtype=dtype, n=300, d=37, c=c)
    whole = OPS.linear_scores(problem.X, problem.W, problem.b)
    calls = [slice(0, 1), slice(5, 6), slice(299, 300), slice(3, 70), slice(100, 233), slice(None, None, -3)]
    for rows in (*calls, np.random.default_rng(0).permutation(300)):
        part = OPS.linear_scores(problem.X[rows], problem.W, problem.b)
        assert sha256(part) == sha256(whole[rows]), rows


def test_weights_labels_and_rows_may_lie_anyhow() -> None:
    problem = random_problem(0, n=40, d=5, c=3, K=2, weighted=True, n_rows=30)
    scattered = replace(
        problem,
        labels=np.repeat(problem.labels, 2)[::2],
        weights=np.broadcast_to(problem.weights[:, :1], (40, 2)),
        rows=np.repeat(problem.rows, 3)[::3],
    )
    tidy = replace(problem, weights=np.ascontiguousarray(scattered.weights))
    expected = OPS.linear_gradient(*tidy.arguments, tidy.rows)
    assert sha256(*OPS.linear_gradient(*scattered.arguments, scattered.rows)) == sha256(*expected)


def test_read_only_intercepts_are_not_compiled_anew() -> None:
    problem = random_problem(0)
    OPS.linear_gradient(*problem.arguments)
    compiled = specialisations()
    problem.b.setflags(write=False)
    OPS.linear_gradient(*problem.arguments)
    assert specialisations() == compiled


@pytest.mark.slow
def test_first_calls_of_several_processes_share_a_cache(tmp_path: Path) -> None:
    racing = [start(GRADIENT, tmp_path) for _ in range(2)]
    values = {process.communicate()[0].split()[0] for process in racing}
    later, errors = start(GRADIENT, tmp_path).communicate()
    value, compilations = later.split()
    assert (values, compilations, errors) == ({value}, "0", "")


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\x80\x05garbage" + content[9:],
    "of something else": lambda content: pickle.dumps(version("numba")) + pickle.dumps(7),
}


@pytest.fixture
def doubling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a function anew, as a new process would, whose compiled code is kept in tmp_path."""
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    compiling._say_once.cache_clear()
    yield lambda: compiling.compiled(importlib.import_module("doubling").double)
    del sys.modules["doubling"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_process_replaces_all_damaged_files_and_computes_the_same_bits(damage: Any, tmp_path: Path) -> None:
    first, _ = start(GRADIENT, tmp_path).communicate()
    for path in tmp_path.rglob("*.nb?"):
        path.write_bytes(damage(path.read_bytes()))
    second, errors = start(GRADIENT, tmp_path).communicate()
    third, no_errors = start(GRADIENT, tmp_path).communicate()
    assert second == first
    assert third.split() == [first.split()[0], "0"]
    assert "are damaged" in errors
    assert no_errors == ""


@pytest.mark.slow
def test_files_that_hold_another_function_are_replaced(tmp_path: Path) -> None:
    # two processes that compile at the same time may give one name to two files
    first, _ = start(GRADIENT, tmp_path).communicate()
    one, other = sorted(tmp_path.rglob("emitted-*add_vectors*.nbc"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    second, _ = start(GRADIENT, tmp_path).communicate()
    third, _ = start(GRADIENT, tmp_path).communicate()
    assert second.split() == [first.split()[0], "2"]
    assert third.split() == [first.split()[0], "0"]


@pytest.mark.slow
def test_a_fit_compiles_what_it_needs_and_shares_it_with_the_next(tmp_path: Path) -> None:
    output, errors = start(FITS, tmp_path).communicate()
    assert errors == ""
    of_bytes, of_doubles, of_steps = (line.split() for line in output.splitlines())
    assert "pass_over_rows" in of_bytes
    assert [name for name in of_bytes if "score_tiles" in name] == [
        "gpusoftmax_score_tiles_float32_float32_3", "gpusoftmax_score_tiles_uint8_float32_3",
    ]  # fmt: skip
    assert not any("fold" in name or "step" in name for name in of_bytes)
    assert of_doubles
    assert all(name.startswith("gpusoftmax_") and "float64" in name for name in of_doubles)
    assert {name.split("_")[1] for name in of_steps} == {"fold", "step"}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_files_of_compiled_kernels_are_made_anew(
    kind: str, damage: Any, doubling: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert doubling()(4) == 8
    (path,) = tmp_path.rglob(f"*.{kind}")
    path.write_bytes(damage(path.read_bytes()))
    function = doubling()
    assert (function(4), function(4.5)) == (8, 9.0)
    assert len([record for record in caplog.records if "are damaged" in record.message]) == 1
    later = doubling()
    assert (later(4), later(4.5)) == (8, 9.0)
    assert (sum(later.stats.cache_hits.values()), sum(later.stats.cache_misses.values())) == (2, 0)


def test_without_a_place_for_compiled_kernels_they_still_run(
    doubling: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert doubling()(4) == 8
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_a_full_disk_leaves_kernels_that_run(
    doubling: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_space(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._open_for_write", no_space)
    assert doubling()(4) == 8
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("d", [1, 3, 8, 17])
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_moments_of_columns_are_those_of_float64(dtype: str, d: int) -> None:
    rng = np.random.default_rng(d)
    for m in (1, 4, 6):
        x = (10 * rng.random((m, d))).astype("float32" if dtype == "bfloat16" else dtype)
        if dtype == "bfloat16":
            x = (x.view(np.uint32) >> 16).astype(np.uint16)
        s, centre = rng.random(m), rng.random(d)
        for layout in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
            found, expected, plain = np.ones((3, 2, d))
            kernels.add_moments(layout, s, centre, *found)
            fallback.add_moments(x, s, centre, *expected)
            fallback.add_moments(layout, s, centre, *plain)
            assert sha256(plain) == sha256(expected)
            # six sums of numbers up to 100
            np.testing.assert_allclose(found, expected, rtol=20 * np.finfo(np.float64).eps, atol=1e-14)
