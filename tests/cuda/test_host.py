"""The host code of the GPU backend, on a GPU or, without one, on the stand-in for CuPy with emulated kernels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpusoftmax import (
    BackendUnavailableError,
    LinearSVMClassifier,
    SoftmaxClassifier,
    get_backend,
    load_digits,
    load_model,
    loss_and_gradient,
    reference,
    save_model,
    softmax_cross_entropy,
)
from gpusoftmax.cuda import compile, ops, probe
from gpusoftmax.cuda.blas import product
from gpusoftmax.losses import LOSSES
from tests.support.cases import Problem, answer, assert_within, random_problem, score_bound
from tests.support.emulation import standin

pytestmark = pytest.mark.usefixtures("gpu")


def problem(dtype: Any, n: int = 101, d: int = 12, K: int = 1, c: int = 4) -> dict[str, Any]:
    """A random problem of features between 0 and 8."""
    rng = np.random.default_rng(n + d + K + c)
    return {
        "X": (8 * rng.random((n, d))).astype(dtype),
        "y": rng.integers(0, c, n),
        "W": 0.1 * rng.standard_normal((d, K, c)),
        "b": rng.standard_normal((K, c)),
    }


def errors(found: Any, expected: Any) -> float:
    """The largest error of loss, dW and db, each relative to the largest entry of what was expected."""
    return max(float(np.abs(np.asarray(f) - e).max() / np.abs(e).max()) for f, e in zip(found, expected, strict=True))


# products of 12 terms and sums over 101 rows: a few eps of the type of computation
TOLERANCE = {"float64": 1e-13, "float32": 3e-6, "float16": 3e-6, "uint8": 3e-6}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("K", "c"), [(1, 2), (1, 4), (3, 5), (1, 33), (1, 130)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_loss_and_gradient_equal_the_reference(loss: str, K: int, c: int, dtype: str) -> None:
    given = problem(dtype, K=K, c=c)
    weights = np.random.default_rng(1).random((101, K))
    options: dict[str, Any] = {"loss": loss, "l2": 0.3, "shift": 4.0, "scale": 2.0, "penalize_intercept": True}
    found = loss_and_gradient(**given, **options, sample_weight=weights, backend="cuda")
    expected = reference.loss_and_gradient(**given, **options, weights=weights)
    if loss == "softmax" or dtype == "float64":  # at a margin of zero a hinge's gradient jumps by one row's share
        assert errors(found, expected) < TOLERANCE[dtype]
    else:
        assert errors(found[:1], expected[:1]) < TOLERANCE[dtype]


@pytest.mark.parametrize("layout", ["columns first", "every other row", "every other column", "reversed"])
def test_strided_features_equal_their_copy(layout: str) -> None:
    given = problem("float32", n=40, d=8)
    wide = np.repeat(np.repeat(given["X"], 2, axis=0), 2, axis=1)
    views = {
        "columns first": np.asfortranarray(given["X"]),
        "every other row": np.repeat(given["X"], 2, axis=0)[::2],
        "every other column": wide[::2, ::2],
        "reversed": given["X"][::-1][::-1, ::-1][:, ::-1],
    }
    plain = loss_and_gradient(**given, backend="cuda")
    strided = loss_and_gradient(**{**given, "X": views[layout]}, backend="cuda")
    assert errors(strided, plain) == 0


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_chunks_are_summed_to_the_whole(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(dtype, n=700)
    monkeypatch.setattr(ops, "CHUNK_BYTES", 1)  # chunks of 128 rows
    found = loss_and_gradient(**given, backend="cuda")
    assert errors(found, reference.loss_and_gradient(**given)) < TOLERANCE[dtype]


def on_device(problem: Problem) -> list[Any]:
    """The arguments of Operations.linear_gradient."""
    asarray = get_backend("cuda").xp.asarray
    return [x if x is None or isinstance(x, int) else asarray(x) for x in (*problem.arguments, problem.rows)]


def assert_gradient_is_right(problem: Problem, arguments: list[Any]) -> None:
    found = get_backend("cuda").ops.linear_gradient(*arguments)
    expected, allowed = answer(problem)
    for name, x in zip(("losses", "correct", "dW", "db"), found, strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)


# more rows than a block of reduce.cu sums, in one chunk; and many chunks of 128 rows
CHUNKS = pytest.mark.parametrize(("n", "chunk_bytes"), [(9000, ops.CHUNK_BYTES), (700, 1)], ids=["blocks", "chunks"])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@CHUNKS
def test_sums_per_model_over_blocks_and_chunks_of_rows(
    n: int, chunk_bytes: int, weighted: bool, picked: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", chunk_bytes)
    problem = random_problem(n, dtype=dtype, n=n, d=5, c=3, K=3, weighted=weighted, n_rows=n if picked else None)
    assert_gradient_is_right(problem, on_device(problem))


@CHUNKS
def test_scores_and_losses_over_blocks_and_chunks_of_rows(
    n: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", chunk_bytes)
    problem = random_problem(n, dtype="uint8", n=n, d=5, c=3, K=3, weighted=True)
    *arguments, _ = on_device(problem)
    X, _, W, b, _, _ = arguments
    scores = get_backend("cuda").ops.linear_scores(X, W, b)
    assert_within(scores.get(), reference.scores(problem.X, problem.W, problem.b), score_bound(problem), "scores")
    true = reference.scores(problem.X, problem.W, problem.b)
    assert np.array_equal(get_backend("cuda").ops.linear_best(X, W, b).get(), true.argmax(axis=2))
    powers = np.exp(true - true.max(axis=2, keepdims=True))
    probabilities = get_backend("cuda").ops.linear_probabilities(X, W, b).get()
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=2, keepdims=True), rtol=1e-5)
    expected, allowed = answer(problem)
    for name, x in zip(("losses", "correct"), get_backend("cuda").ops.linear_losses(*arguments), strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)


@pytest.mark.parametrize("c", [3, 40, 2000, 20_000], ids=["lanes", "warp", "block", "online"])
@pytest.mark.parametrize(("score", "best"), [(np.nan, -1), (np.inf, -1), (-np.inf, 0)])
def test_a_row_without_a_largest_score_has_no_best_column(c: int, score: float, best: int) -> None:
    device = get_backend("cuda")
    X = device.asarray(np.ones((1, 1), np.float32))
    W, b = np.zeros((1, 1, c), np.float32), np.zeros((1, c), np.float32)
    b[0, 1] = score
    found = device.ops.linear_best(X, device.asarray(W), device.asarray(b)).get()
    assert found.tolist() == [[best]]


# how many columns there are, and which of them are the features, in which rows
VIEWS = {
    "all columns but one": (8, np.s_[:, :7]),
    "columns of an even width": (12, np.s_[:, 1:9]),
    "columns of an odd width": (13, np.s_[:, :8]),
    "every other column": (16, np.s_[:, ::2]),
    "every other row": (8, np.s_[::2]),
    "rows backwards": (8, np.s_[::-1]),
}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize(("width", "view"), VIEWS.values(), ids=VIEWS)
def test_a_view_on_the_device_is_its_values(width: int, view: Any, picked: bool, dtype: str) -> None:
    wide = random_problem(0, dtype=dtype, n=60, d=width).X
    problem = random_problem(1, dtype=dtype, n=len(wide[view]), d=wide[view].shape[1], n_rows=50 if picked else None)
    problem = replace(problem, X=wide[view])
    X = get_backend("cuda").xp.asarray(wide)[view]
    assert_gradient_is_right(problem, [X, *on_device(problem)[1:]])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_moments_far_from_zero_over_chunks_of_rows(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", 1)
    xp, rng = get_backend("cuda").xp, np.random.default_rng(0)
    X, weights = 1e6 + rng.standard_normal((500, 3)), rng.random(500)
    mean, variance = get_backend("cuda").ops.column_moments(xp.asarray(X), xp.asarray(weights) if weighted else None)
    s = weights if weighted else np.ones(500)
    center = np.average(X, axis=0, weights=s)
    np.testing.assert_allclose(mean.get(), center, rtol=1e-14)
    np.testing.assert_allclose(variance.get(), np.average((X - center) ** 2, axis=0, weights=s), rtol=1e-9)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_label_sums_over_chunks_of_rows(dtype: str, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", 1)
    asarray, rng, given = get_backend("cuda").xp.asarray, np.random.default_rng(0), problem(dtype, n=500)
    X, labels, weights, w, P = given["X"], given["y"], rng.random(500), rng.random(4), rng.random((500, 4))
    arguments = [asarray(x) for x in (X, labels.astype(np.int32), weights, w)]
    found = get_backend("cuda").ops.label_sums(*arguments, asarray(P) if soft else None)
    p = P * w / (P * w).sum(axis=1, keepdims=True) if soft else 0.25
    z = weights[:, None] * (np.eye(4)[labels] - p)
    assert errors([x.get() for x in found], [X.T.astype(np.float64) @ z, z.sum(axis=0)]) < TOLERANCE["float64"]


def test_two_runs_have_the_same_bits() -> None:
    given = problem("float32", n=700, c=33)
    first, second = (loss_and_gradient(**given, backend="cuda") for _ in range(2))
    assert [np.asarray(x).tobytes() for x in first] == [np.asarray(x).tobytes() for x in second]


def test_weights_count_as_repeated_rows() -> None:
    given = problem("float32", n=60)
    times = np.random.default_rng(0).integers(0, 4, 60)
    repeated = {**given, "X": np.repeat(given["X"], times, axis=0), "y": np.repeat(given["y"], times)}
    weighted = loss_and_gradient(**given, sample_weight=times, backend="cuda")
    assert errors(weighted, loss_and_gradient(**repeated, backend="cuda")) < 1e-5


@pytest.mark.parametrize(("precision", "bound"), [("high", 2.0**-11), ("medium", 2.0**-8)])
def test_a_lower_precision_stays_within_its_bound(precision: str, bound: float) -> None:
    given = problem("float32", n=300, d=64, c=33)
    device = get_backend("cuda", precision=precision)
    found, expected = loss_and_gradient(**given, backend=device), reference.loss_and_gradient(**given)
    # each operand is off by at most `bound`; two of them a product, two products in a row
    assert 1e-7 < errors(found, expected) < 4 * bound


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("schedule", ["adaptive", "cosine"])
def test_training_follows_the_cpus_course(loss: str, dtype: str, schedule: str) -> None:
    digits = load_digits()
    X = digits.X_train.astype(dtype)
    validation = (digits.X_validation.astype(dtype), digits.y_validation)
    cls = SoftmaxClassifier if loss == "softmax" else LinearSVMClassifier
    curves = []
    for backend in ("cuda", "cpu"):
        model = cls(max_iter=3, tol=0, schedule=schedule, scaling="standard", backend=backend)
        model.fit(X, digits.y_train, validation=validation)
        curves.append([(r.objective, r.accuracy, r.validation_loss) for r in model.history_])
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_sample_and_class_weights_reach_the_device() -> None:
    digits = load_digits()
    weights = np.random.default_rng(0).random(len(digits.y_train))
    options: dict[str, Any] = {"max_iter": 2, "tol": 0, "class_weight": {3: 5.0}, "batch_size": 300}
    coefs = [
        SoftmaxClassifier(**options, backend=name).fit(digits.X_train, digits.y_train, weights).coef_
        for name in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(*coefs, rtol=1e-3, atol=1e-6)


def test_a_model_trained_on_a_gpu_is_numpy_and_loads_without_one(tmp_path: Path) -> None:
    digits = load_digits()
    model = SoftmaxClassifier(max_iter=1, tol=0, backend="cuda").fit(digits.X_train, digits.y_train)
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors").set_params(backend="cpu")
    assert type(model.coef_) is np.ndarray
    np.testing.assert_allclose(
        loaded.decision_function(digits.X_test), model.decision_function(digits.X_test), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("as_object", [False, True], ids=["name", "Backend"])
def test_a_model_trained_on_a_gpu_predicts_where_there_is_none(
    as_object: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_digits()
    backend = get_backend("cuda") if as_object else "cuda:0"
    model = SoftmaxClassifier(max_iter=1, tol=0, backend=backend).fit(digits.X_train, digits.y_train)
    save_model(model, tmp_path / "m.safetensors")
    monkeypatch.setattr("gpusoftmax.array.probe", lambda index: probe.Probe(False, "there is no NVIDIA driver"))
    loaded = load_model(tmp_path / "m.safetensors")
    np.testing.assert_allclose(loaded.coef_ @ digits.X_test.T, model.coef_ @ digits.X_test.T)
    assert loaded.predict(digits.X_test).shape == digits.y_test.shape


def test_arrays_on_the_device_stay_there() -> None:
    xp, given = get_backend("cuda").xp, problem("float32", n=30)
    on_device = {name: xp.asarray(x) for name, x in given.items()}
    loss, dW, db = loss_and_gradient(**on_device)
    assert (type(dW), type(db), type(loss)) == (xp.ndarray, xp.ndarray, np.ndarray)
    assert errors((loss, dW.get(), db.get()), reference.loss_and_gradient(**given)) < TOLERANCE["float32"]


def test_scores_on_the_device_give_a_gradient_there() -> None:
    xp = get_backend("cuda").xp
    Z, y = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32), np.arange(20) % 5
    loss, gradient = softmax_cross_entropy(xp.asarray(Z), xp.asarray(y))
    losses, expected = reference.row_loss(Z, y, "softmax")
    assert abs(loss - losses.mean()) < 1e-6
    np.testing.assert_allclose(gradient.get(), expected / 20, atol=1e-7)


def test_a_bad_label_on_the_device_is_reported_with_its_row() -> None:
    xp = get_backend("cuda").xp
    labels = np.array([0, 1, 7, 2, -1])
    with pytest.raises(ValueError, match=r"labels\[2\] is 7, but there are 3 classes"):
        softmax_cross_entropy(xp.zeros((5, 3), dtype=np.float32), xp.asarray(labels))


def test_a_bad_label_is_found_under_any_number_of_models() -> None:
    xp = get_backend("cuda").xp
    labels = np.array([0, 1, 2, 9, 0], np.int32)
    with pytest.raises(ValueError, match=r"labels\[3\] is 9, but there are 4 classes"):
        get_backend("cuda").ops.row_loss(xp.zeros((5, 3, 4), dtype=np.float32), xp.asarray(labels), None, 0)


@pytest.mark.parametrize("name", ["y", "W", "b"])
def test_arrays_on_different_devices_are_a_type_error(name: str) -> None:
    xp, given = get_backend("cuda").xp, problem("float32")
    with pytest.raises(TypeError, match=f"{name} on the host"):
        loss_and_gradient(**{k: v if k == name else xp.asarray(v) for k, v in given.items()})


def test_arrays_elsewhere_than_the_backend_are_a_type_error() -> None:
    xp, given = get_backend("cuda").xp, problem("float32")
    with pytest.raises(TypeError, match="cuda:0, but backend='cpu'"):
        loss_and_gradient(**{k: xp.asarray(v) for k, v in given.items()}, backend="cpu")


def test_the_backend_survives_pickling_and_cloning() -> None:
    import pickle

    from sklearn.base import clone

    device = get_backend("cuda", precision="high")
    again = pickle.loads(pickle.dumps(device))
    assert (again.name, again.precision) == (device.name, "high")
    assert clone(SoftmaxClassifier(backend=device)).backend.name == device.name


def test_a_step_does_not_wait_for_the_device() -> None:
    if get_backend("cuda").xp.ndarray is not standin.ndarray:
        pytest.skip("counted by the stand-in")
    digits = load_digits()
    counts = []
    for batch_size in (600, 60):  # 2 steps an epoch, and 20
        before = standin.state.synchronisations
        SoftmaxClassifier(max_iter=2, tol=0, batch_size=batch_size, backend="cuda").fit(digits.X_train, digits.y_train)
        counts.append(standin.state.synchronisations - before)
    assert counts[0] == counts[1]


@pytest.fixture
def machine(gpu: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in's machine, where the GPU is one."""
    if get_backend("cuda").xp.ndarray is not standin.ndarray:
        pytest.skip("needs a machine that can be made to fail")
    import cupy

    tries = count(1)

    def memory_pool() -> Any:  # emptied after each failure: a test of what never gives up is to fail, not to hang
        assert next(tries) < 20, "out of memory again and again"
        return SimpleNamespace(free_all_blocks=lambda: None, free_bytes=lambda: 0)

    monkeypatch.setattr(cupy, "get_default_memory_pool", memory_pool)
    return standin.state


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("precision", "rounded"), [("highest", 1 + 2**-9 + 2**-12), ("high", 1 + 2**-9), ("medium", 1.0)]
)
def test_every_product_of_features_is_in_the_precision_asked_for(precision: str, rounded: float) -> None:
    device = get_backend("cuda", precision=precision)
    xp, n, d = device.xp, 40, 8
    X = xp.full((n, d), 1 + 2**-9 + 2**-12, dtype=np.float32)  # all other operands are exact in bfloat16
    labels, zeros, b = xp.zeros(n, dtype=np.int32), xp.zeros((d, 1, 2), dtype=np.float32), xp.zeros((1, 2), np.float32)
    ones = xp.ones((d, 1, 2), dtype=np.float32)
    ones[:, :, 0] = 0.0
    _, _, dW, _ = device.ops.linear_gradient(X, labels, zeros, b, None, 0)
    assert np.array_equal(dW.get(), np.broadcast_to([-n / 2 * rounded, n / 2 * rounded], (d, 1, 2)))
    assert np.array_equal(device.ops.linear_scores(X, ones, b).get(), np.broadcast_to([0, d * rounded], (n, 1, 2)))
    losses, _ = device.ops.linear_losses(X, labels, ones, b, None, 0)
    np.testing.assert_allclose(losses.get(), n * np.log1p(np.exp(d * rounded)), rtol=1e-6)


def test_a_chunk_that_does_not_fit_is_halved(machine: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    given = problem("float32", n=4000, c=33)
    monkeypatch.setattr(ops, "CHUNK_BYTES", 4 * 33 * 4000)
    machine.limit = sum(memory.size for memory in machine.alive) + given["X"].nbytes + 400_000
    found = loss_and_gradient(**given, backend="cuda")
    assert "trying again with chunks of 1920 rows" in caplog.text  # half of 3968, in 128s
    assert errors(found, reference.loss_and_gradient(**given)) < TOLERANCE["float32"]


def test_a_chunk_of_label_sums_that_does_not_fit_is_halved(
    machine: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    device, X = get_backend("cuda"), problem("uint8", n=4000)["X"]
    monkeypatch.setattr(ops, "CHUNK_BYTES", 4 * 12 * 2000)
    given = [device.asarray(x) for x in (X, np.zeros(4000, np.int32), np.ones(4000), np.ones(2))]
    machine.limit = sum(memory.size for memory in machine.alive) + 50_000
    sums, totals = device.ops.label_sums(*given, None)
    assert "trying again with chunks of" in caplog.text
    np.testing.assert_allclose(sums.get(), np.outer(X.sum(axis=0, dtype=float), [0.5, -0.5]), rtol=1e-12)
    assert totals.get().tolist() == [2000.0, -2000.0]


def test_what_does_not_fit_at_all_is_said_with_its_size(machine: Any) -> None:
    given = problem("float32", n=4000, c=33)
    machine.limit = sum(memory.size for memory in machine.alive) + given["X"].nbytes + 25_000
    message = r"at 128 rows a time, (.*) kB of the GPU's memory, and (.*) kB is free: (.*) kB is missing"
    with pytest.raises(MemoryError, match=message) as caught:
        loss_and_gradient(**given, backend="cuda")
    needed, free, missing = map(float, re.search(message, str(caught.value)).groups())  # type: ignore[union-attr]
    assert missing == pytest.approx(needed - free, abs=0.11)
    assert 0 < free < needed


def test_features_that_do_not_fit_are_said_with_what_is_missing(machine: Any) -> None:
    given = problem("float32", n=60_000, c=3)
    machine.limit = sum(memory.size for memory in machine.alive) + 2**20
    with pytest.raises(MemoryError, match=r"60000 x 12 float32 takes 2\.7 MB .* 1\.0 MB is free: 1\.\d MB is missing"):
        loss_and_gradient(**given, backend="cuda")


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_the_memory_of_a_pass_is_known_beforehand(
    dtype: str, precision: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "CHUNK_BYTES", 4 * 64 * 2000)
    n, d, K, c = 5000, 64, 2, 33
    device = get_backend("cuda", precision=precision)
    computed = np.float64 if dtype == "float64" else np.float32
    X, labels = device.xp.ones((n, d), dtype=dtype), device.xp.zeros(n, dtype=np.int32)
    W, b = device.xp.zeros((d, K, c), dtype=computed), device.xp.zeros((K, c), dtype=computed)
    before = sum(memory.size for memory in machine.alive)
    machine.peak = 0
    device.ops.linear_gradient(X, labels, W, b, None, 0)
    predicted = device.ops.pass_bytes(X.dtype, n, d, K, c)
    assert 0.9 * predicted < machine.peak - before <= predicted


@pytest.mark.usefixtures("machine")
def test_a_fit_says_its_memory_beforehand(caplog: Any) -> None:
    given = problem("uint8", n=300, c=3)
    with caplog.at_level("INFO", "gpusoftmax"):
        SoftmaxClassifier(max_iter=1, tol=0, backend="cuda").fit(given["X"], given["y"])
    assert re.search(r"memory: X takes 0\.0 MB; a pass over it at most 0\.\d MB more, and weights", caplog.text)


def test_losses_alone_take_no_memory_for_a_gradient(machine: Any) -> None:
    device, d = get_backend("cuda"), 5000
    X, labels = device.xp.ones((4, d), dtype=np.float32), device.xp.zeros(4, dtype=np.int32)
    W, b = device.xp.zeros((d, 1, 10), dtype=np.float32), device.xp.zeros((1, 10), dtype=np.float32)
    before = sum(memory.size for memory in machine.alive)
    machine.peak = 0
    device.ops.linear_losses(X, labels, W, b, None, 0)
    assert machine.peak - before < W.nbytes / 2


class Tensor:
    """What gpusoftmax asks of a PyTorch tensor on a GPU: NumPy cannot read it, and while it wants a gradient nobody."""

    __module__ = "torch"

    def __init__(self, array: Any, dtype: str, wants_gradient: bool = True) -> None:
        self.array, self.dtype, self.wants_gradient = array, dtype, wants_gradient

    def detach(self) -> Tensor:
        return Tensor(self.array, self.dtype, False)

    def view(self, dtype: str) -> Tensor:
        return Tensor(self.array.view(dtype), f"torch.{dtype}", self.wants_gradient)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, stream: int) -> Any:
        assert stream == standin.state.stream, "the consumer's stream is to wait for the producer's"
        if self.wants_gradient or self.dtype == "torch.bfloat16":
            raise BufferError(f"cannot export {self.dtype}")
        return self.array

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.usefixtures("machine")
def test_torch_tensors_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem("float32")
    expected = loss_and_gradient(**given, backend="cpu")
    device = get_backend("cuda")
    given = {name: Tensor(device.asarray(x), f"torch.{x.dtype}") for name, x in given.items()}
    X = given["X"].array
    loss, dW, _ = loss_and_gradient(**given)
    assert isinstance(dW, device.xp.ndarray)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    assert device.asarray(given["X"]).data.ptr == X.data.ptr
    model = SoftmaxClassifier(max_iter=2, tol=0).fit(given["X"], given["y"])
    assert "cuda:0" in model.backend_
    assert isinstance(model.predict(given["X"]), device.xp.ndarray)


@pytest.mark.usefixtures("machine")
def test_bfloat16_tensors_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(int16="int16"))  # type: ignore[misc]
    given = problem("float32")
    bits = (given["X"].view(np.uint32) >> 16).astype(np.uint16)
    given["X"] = (bits.astype(np.uint32) << 16).view(np.float32)
    expected = loss_and_gradient(**given, backend="cpu")
    device = get_backend("cuda")
    given = {name: device.asarray(x) for name, x in given.items()} | {
        "X": Tensor(device.asarray(bits), "torch.bfloat16")
    }
    loss, dW, db = loss_and_gradient(**given)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(dW.get(), expected[1], atol=1e-5)
    np.testing.assert_allclose(db.get(), expected[2], atol=1e-6)
    logits = Tensor(device.asarray(bits[:, :4]), "torch.bfloat16")
    expected = softmax_cross_entropy((bits[:, :4].astype(np.uint32) << 16).view(np.float32), given["y"].get())
    assert softmax_cross_entropy(logits, given["y"])[0] == pytest.approx(expected[0], rel=1e-6)


def test_memory_is_freed_after_an_exception(machine: Any) -> None:
    given = problem("float32", n=4000, c=33)
    before = sum(memory.size for memory in machine.alive)
    machine.limit = before + given["X"].nbytes + 25_000
    with pytest.raises(MemoryError):
        loss_and_gradient(**given, backend="cuda")
    assert sum(memory.size for memory in machine.alive) == before


def test_another_device_computes_on_its_own_memory(machine: Any) -> None:
    given = problem("float32")
    found = loss_and_gradient(**given, backend="cuda:1")
    assert errors(found, reference.loss_and_gradient(**given)) < TOLERANCE["float32"]


@pytest.mark.usefixtures("machine")
def test_each_device_has_its_own_compiled_kernels() -> None:
    import cupy

    from gpusoftmax.cuda.compile import kernel

    found = []
    for index in (0, 1, 0):
        with cupy.cuda.Device(index):
            found.append(kernel("probe.cu", "probe", SCORE=0))
    assert found[0] is found[2]
    assert found[0] is not found[1]


def test_a_device_that_is_not_there_is_named(machine: Any) -> None:
    with pytest.raises(BackendUnavailableError, match=r"backend='cuda:7' cannot be had: there is no device 7"):
        get_backend("cuda:7")


@pytest.mark.usefixtures("machine")
def test_auto_takes_a_gpu_that_computes() -> None:
    assert get_backend("auto").name == "cuda:0"


def faults() -> dict[str, Any]:
    """How to break a machine, and what is to be said about it."""

    def runtime(**changes: Any) -> Any:
        def apply(cupy: Any, patch: pytest.MonkeyPatch) -> None:
            for name, value in changes.items():
                patch.setattr(cupy.cuda.runtime, name, value)

        return apply

    def status(number: int) -> Any:
        def fail() -> None:
            raise standin.CUDARuntimeError(number)

        return fail

    def compiler(message: str, error: Any = standin.CompileException) -> Any:
        def apply(cupy: Any, patch: pytest.MonkeyPatch) -> None:
            def fail(**options: Any) -> None:
                raise error(message)

            patch.setattr(cupy, "RawModule", fail)

        return apply

    def wrong_result(cupy: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(standin.RawKernel, "__call__", lambda self, grid, block, args: None)

    def two_installed(cupy: Any, patch: pytest.MonkeyPatch) -> None:
        both = [SimpleNamespace(metadata={"Name": name}) for name in ("cupy-cuda12x", "numpy", "cupy_cuda13x")]
        patch.setattr(probe.metadata, "distributions", lambda: both)

    def not_installed(cupy: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(probe, "find_spec", lambda name: None)

    def broken(cupy: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(sys.modules, "cupy", None)
        patch.setattr(probe, "find_spec", lambda name: "found")

    old = {"name": "Quadro K2000", "major": 3, "minor": 0}
    return {
        "not installed": (not_installed, r"CuPy is not installed: pip install 'gpusoftmax\[cuda13\]'"),
        "two installed": (two_installed, r"several CuPy packages are installed \(cupy-cuda12x, cupy-cuda13x\)"),
        "broken": (broken, "CuPy cannot be imported"),
        "no driver": (runtime(driverGetVersion=lambda: 0), "there is no NVIDIA driver"),
        "driver too old": (
            runtime(driverGetVersion=lambda: 12020, getDeviceCount=status(35)),
            r"too old: it supports CUDA 12.2, CuPy needs 13.0",
        ),
        "no device": (runtime(getDeviceCount=status(100)), "the NVIDIA driver sees no device"),
        "forked": (runtime(getDeviceCount=status(3)), "before this process was forked; use the spawn"),
        "something else": (runtime(getDeviceCount=status(999)), "the device does not compute .*999"),
        "too old a device": (runtime(getDeviceProperties=lambda i: old), "Quadro K2000 has compute capability 3.0"),
        "architecture dropped": (
            compiler("nvrtc: error: invalid value for --gpu-architecture (-arch)"),
            "does not compile on this machine|no longer supports this device's architecture",
        ),
        "no compiler": (compiler("libnvrtc.so.13: cannot open", OSError), "compiler or its headers are missing"),
        "no headers": (
            compiler('cannot open source file "cuda.h"', RuntimeError), "compiler or its headers are missing"
        ),
        "wrong result": (wrong_result, "gave a wrong result"),
    }  # fmt: skip


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("fault", faults())
def test_each_reason_for_no_gpu_is_told_apart(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    breaking, words = faults()[fault]
    breaking(cupy, monkeypatch)
    probe._probe.cache_clear()
    compile._compiled.cache_clear()
    with pytest.raises(BackendUnavailableError, match=words):
        get_backend("cuda")
    assert get_backend("auto").name != "cuda:0"
    assert "; no GPU: " in get_backend("auto").reason


@pytest.mark.usefixtures("machine")
def test_a_mistake_in_a_kernel_is_shown_as_the_compiler_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from gpusoftmax.cuda.compile import kernel

    def fail(self: Any, name: str) -> None:
        raise standin.CompileException("row_loss.cu(12): error: expected a ';'")

    monkeypatch.setattr(cupy.RawModule, "get_function", fail)
    with pytest.raises(RuntimeError, match=r"row_loss.cu \(LOSS=0\) does not compile[^$]*row_loss.cu\(12\)"):
        kernel("row_loss.cu", "row_loss", LOSS=0)


@pytest.mark.usefixtures("machine")
class TestStandin:
    """The stand-in notices what CuPy lets pass."""

    def test_arrays_do_not_mix_with_numpys(self) -> None:
        with pytest.raises(TypeError, match="mix"):
            standin.asarray([1.0]) + np.ones(1)

    def test_an_argument_too_few(self) -> None:
        import cupy

        module = cupy.RawModule(code='extern "C" __global__ void f(int* x, int n) { x[0] = n; }')
        with pytest.raises(standin.StandinError, match="2 parameters, and got 1"):
            module.get_function("f")((1,), (1,), (standin.full(1, 0, np.int32),))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((np.zeros(4, np.int32), np.int32(1)), "is a ndarray"),
            ((standin.full(4, 0, np.int64), np.int32(1)), "int64"),
            ((standin.full((4, 4), 0, np.int32)[:, 1], np.int32(1)), "not contiguous"),
            ((standin.full(4, 0, np.int32), 1), "taken as they are"),
            ((standin.full(4, 0, np.int32), np.int64(1)), "taken as they are"),
        ],
        ids=["host memory", "another type", "a strided view", "a Python number", "a wider number"],
    )
    def test_an_argument_that_cupy_takes_as_it_is(self, arguments: Any, words: str) -> None:
        import cupy

        module = cupy.RawModule(code='extern "C" __global__ void f(int* x, int n) { x[0] = n; }')
        with pytest.raises(standin.StandinError, match=words):
            module.get_function("f")((1,), (1,), arguments)

    def test_a_write_outside_an_array(self) -> None:
        import cupy

        module = cupy.RawModule(code='extern "C" __global__ void f(int* x, int n) { x[n] = 1; }')
        with pytest.raises(standin.StandinError, match="outside an array"):
            module.get_function("f")((1,), (1,), (standin.full(4, 0, np.int32), np.int32(4)))

    def test_fresh_memory_is_poisoned(self) -> None:
        import cupy

        assert np.isnan(cupy.empty(3, dtype=np.float32).get()).all()

    def test_a_product_beyond_an_array(self) -> None:
        import cupy

        a, b, out = (cupy.zeros(shape, dtype=np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
        with pytest.raises(standin.StandinError, match="not one array's"):
            product(SimpleNamespace(shape=(9, 3), dtype=a.dtype, data=a.data), b, cupy.zeros((9, 4), dtype=a.dtype))
        product(a, b, out)


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_every_name_of_the_standin_is_one_of_cupys() -> None:
    program = """
import cupy, json
from cupy_backends.cuda.libs import cublas
import sys
missing = []
for path in json.loads(sys.argv[1]):
    owner = cublas if path[0] == "cublas" else cupy
    for name in path[1:] if path[0] == "cublas" else path:
        if not hasattr(owner, name):
            missing.append(path)
            break
        owner = getattr(owner, name)
print(json.dumps(missing))
"""
    names = standin._names()
    paths: list[list[str]] = [["cublas", name] for name in vars(standin.cublas)]

    def walk(path: list[str], value: Any) -> None:
        paths.append(path)
        if isinstance(value, SimpleNamespace):
            for name, inner in vars(value).items():
                walk([*path, name], inner)

    for name, value in names.items():
        walk([name], value)
    paths += [["ndarray", name] for name in vars(standin.ndarray) if not name.startswith("_")]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(paths)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(done.stdout) == []


def test_predictions_are_where_the_features_are() -> None:
    xp, digits = get_backend("cuda").xp, load_digits()
    X = xp.asarray(digits.X_train)
    model = SoftmaxClassifier(max_iter=2, tol=0).fit(X, xp.asarray(digits.y_train))
    host = SoftmaxClassifier(max_iter=2, tol=0, backend="cuda").fit(digits.X_train, digits.y_train)
    for method in ("predict", "predict_proba", "decision_function"):
        found = getattr(model, method)(X)
        assert type(found) is xp.ndarray
        np.testing.assert_array_equal(found.get(), getattr(host, method)(digits.X_train))
