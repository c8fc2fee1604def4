"""The host code of the GPU backend, on a GPU or, without one, on the stand-in for CuPy with emulated kernels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

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
    sweep,
)
from gpusoftmax.cuda import chunks, compile, probe, sparse
from gpusoftmax.cuda.blas import product
from gpusoftmax.features import sparse as sparse_features
from gpusoftmax.features.read import read_features
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.operations import SparseRows
from gpusoftmax.penalties import L2
from gpusoftmax.solvers import block_search, newton
from gpusoftmax.solvers.block_search import BlockSearch
from gpusoftmax.solvers.preconditioners import class_diagonal, woodbury
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
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)  # chunks of 128 rows
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
CHUNKS = pytest.mark.parametrize(("n", "chunk_bytes"), [(9000, chunks.CHUNK_BYTES), (700, 1)], ids=["blocks", "chunks"])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@CHUNKS
def test_sums_per_model_over_blocks_and_chunks_of_rows(
    n: int, chunk_bytes: int, weighted: bool, picked: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    problem = random_problem(n, dtype=dtype, n=n, d=5, c=3, K=3, weighted=weighted, n_rows=n if picked else None)
    assert_gradient_is_right(problem, on_device(problem))


@CHUNKS
def test_scores_and_losses_over_blocks_and_chunks_of_rows(
    n: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
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


@pytest.mark.parametrize(
    "c", [3, 40, 20_000, 70_000, 140_000], ids=["flat", "registers", "block", "cluster", "streamed"]
)
@pytest.mark.parametrize(("score", "best"), [(np.nan, -1), (np.inf, -1), (-np.inf, 0)])
def test_a_row_without_a_largest_score_has_no_best_column(c: int, score: float, best: int) -> None:
    device = get_backend("cuda")
    X = device.asarray(np.ones((1, 1), np.float32))
    W, b = np.zeros((1, 1, c), np.float32), np.zeros((1, c), np.float32)
    b[0, 1] = score
    found = device.ops.linear_best(X, device.asarray(W), device.asarray(b)).get()
    assert found.tolist() == [[best]]


def test_an_unaligned_bias_is_added_to_rows_of_whole_segments() -> None:
    xp, rng = get_backend("cuda").xp, np.random.default_rng(0)
    X, W = rng.standard_normal((9, 4)).astype(np.float32), np.zeros((4, 1, 100), np.float32)
    b = rng.standard_normal(101).astype(np.float32)
    found = get_backend("cuda").ops.linear_probabilities(
        xp.asarray(X), xp.asarray(W), xp.asarray(b)[1:].reshape(1, 100)
    )
    powers = np.exp(b[1:].astype(np.float64))
    np.testing.assert_allclose(found.get(), np.broadcast_to(powers / powers.sum(), (9, 1, 100)), rtol=1e-5)


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
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
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
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
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


def test_block_search_ends_where_the_cpus_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(woodbury, "LEAST_PASS", 0.0)
    monkeypatch.setattr(woodbury, "FEWEST", 32)
    monkeypatch.setattr(block_search, "LEAST_QUEUED_PASS", 0.0)
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    given = problem("float64", n=900, d=110, c=2)
    asked = []
    original = BlockSearch.direction
    monkeypatch.setattr(BlockSearch, "direction", lambda *each: asked.append(1) or original(*each))  # type: ignore[func-returns-value]
    models = [
        SoftmaxClassifier(l2=1.0, tol=1e-8, scaling="standard", backend=backend).fit(given["X"], given["y"])
        for backend in ("cuda", "cpu")
    ]
    assert len(asked) > 6
    # both gradients are below 1e-8, and the curvature is above l2 = 1
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, atol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_newton_ends_where_the_cpus_does(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "begins_at_once", newton._suits)
    given, model = problem("float64", n=400, d=8, c=3), SoftmaxClassifier if loss == "softmax" else LinearSVMClassifier
    asked = []
    original = newton.Newton.direction
    monkeypatch.setattr(newton.Newton, "direction", lambda *each: asked.append(1) or original(*each))  # type: ignore[func-returns-value]
    coefs = [
        model(loss=loss, l2=0.1, tol=1e-8, scaling="standard", backend=backend).fit(given["X"], given["y"]).coef_
        for backend in ("cuda", "cpu")
    ]
    assert len(asked) > 4
    # both gradients are below 1e-8, and the curvature is above l2 = 0.1
    np.testing.assert_allclose(*coefs, atol=1e-6)


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


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("dtype", "terms", "bits"), [("float16", 2, 22), ("uint8", 2, 22), ("bfloat16", 3, 24)])
def test_narrow_features_are_multiplied_as_they_are(dtype: str, terms: int, bits: int) -> None:
    xp, rng, (n, d, c) = get_backend("cuda").xp, np.random.default_rng(0), (64, 40, 7)
    values = rng.integers(0, 256, (n, d))  # exact in each of the types
    X = (
        (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        if dtype == "bfloat16"
        else values.astype(dtype)
    )
    W = (rng.standard_normal((d, 1, c)) * 10.0 ** rng.uniform(-3, 3, (d, 1, c))).astype(np.float32)
    labels, zeros = rng.integers(0, c, n).astype(np.int32), np.zeros((1, c), np.float32)
    device = [xp.asarray(x) for x in (X, W, zeros)]
    before = len(standin.state.launches)
    scores = get_backend("cuda").ops.linear_scores(*device).get()[:, 0]
    launches = standin.state.launches[before:]
    assert launches.count("gemm") == terms
    assert launches.count("gather") == (dtype == "uint8")
    wide = W[:, 0].astype(np.float64)
    # a weight has so many bits, and a sum of d float32 numbers is off by d 2^-24 of their sizes at most
    assert_within(scores, values @ wide, (2.0**-bits + d * 2.0**-24) * (values @ np.abs(wide)), "scores")
    _, _, dW, _ = get_backend("cuda").ops.linear_gradient(*device[:1], xp.asarray(labels), *device[1:], None, 0)
    p = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    g = p / p.sum(axis=1, keepdims=True) - np.eye(c)[labels]
    assert_within(dW.get()[:, 0], values.T @ g, 1e-5 * (values.T @ np.abs(g)), "dW")


def test_what_does_not_fit_is_said_with_its_size(machine: Any) -> None:
    given = problem("float32", n=4000, c=33)
    machine.limit = sum(memory.size for memory in machine.alive) + given["X"].nbytes + 25_000
    message = r"4000 rows .* takes (.*) kB of the GPU's memory, and (.*) kB is free: (.*) kB is missing"
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
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 64 * 2000)
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
        patch.setattr(probe, "find_spec", lambda name: "found")

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

    def test_a_repeated_index_that_is_assigned_to(self) -> None:
        x = standin.full(4, 0.0)
        with pytest.raises(standin.StandinError, match="repeated"):
            x[standin.asarray(np.array([1, 1]))] = standin.full(2, 1.0)
        x[standin.asarray(np.array([1, 3]))] = standin.full(2, 1.0)
        assert x.get().tolist() == [0, 1, 0, 1]

    def test_a_product_beyond_an_array(self) -> None:
        import cupy

        a, b, out = (cupy.zeros(shape, dtype=np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
        with pytest.raises(standin.StandinError, match="not one array's"):
            product(SimpleNamespace(shape=(9, 3), dtype=a.dtype, data=a.data), b, cupy.zeros((9, 4), dtype=a.dtype))
        product(a, b, out)


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_every_name_of_the_standin_is_one_of_cupys() -> None:
    program = """
import cupy, cupyx, cupyx.scipy.linalg, json
from cupy_backends.cuda.libs import cublas, cusolver
import sys
missing = []
for path in json.loads(sys.argv[1]):
    others = {"cublas": cublas, "cusolver": cusolver, "cupyx": cupyx}
    owner = others.get(path[0], cupy)
    for name in path[1:] if path[0] in others else path:
        if not hasattr(owner, name):
            missing.append(path)
            break
        owner = getattr(owner, name)
print(json.dumps(missing))
"""
    names = standin._names()
    paths: list[list[str]] = [["cublas", name] for name in vars(standin.cublas)]
    paths += [["cusolver", name] for name in vars(standin.cusolver)]

    def walk(path: list[str], value: Any) -> None:
        paths.append(path)
        if isinstance(value, SimpleNamespace):
            for name, inner in vars(value).items():
                walk([*path, name], inner)

    for name, value in names.items():
        walk([name], value)
    paths += [["ndarray", name] for name in vars(standin.ndarray) if not name.startswith("_")]
    for kind in (standin.Stream, standin.Event):
        paths += [["cuda", kind.__name__, name] for name in vars(kind) if not name.startswith("_")]
    paths += [["cupyx", "empty_pinned"], ["cupyx", "scipy", "linalg", "solve_triangular"]]
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


# ---- sparse features

# values of a matrix: their type, or None for all ones; and the types of what it is multiplied with
SPARSE_TYPES = [("float64", "float64"), ("float32", "float32"), ("uint8", "float64"), (None, "float32")]


def sparse_matrix(n: int = 70, d: int = 2500, values: str | None = "float64", seed: int = 0) -> Any:
    """A csr_array whose first rows are full, so that they have several segments, and whose last one is empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 200, (n, d)) * (rng.random((n, d)) < 0.03)
    dense[0], dense[2], dense[3] = 1 + rng.integers(0, 200, (3, d))
    dense[3, 2 * sparse.SEGMENT + 1 :], dense[-1] = 0, 0
    X = csr_array(dense.astype(values or "float64"))
    if values is None:
        X.data[:] = 1
    elif values != "uint8":
        X.data -= X.dtype.type(100.5)
    return X


def on_both(X: Any, values: str | None = "float64") -> list[tuple[Any, SparseRows]]:
    """The CPU's and the GPU's backend, each with the matrix on its device."""
    data = None if values is None else X.data
    arrays = X.indptr.astype(np.int64), X.indices.astype(np.int32), data
    return [
        (device, SparseRows(*(None if a is None else device.asarray(a) for a in arrays), X.shape[1]))
        for device in (get_backend("cpu"), get_backend("cuda"))
    ]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("q", [1, 3, 20, 130])
@pytest.mark.parametrize(("values", "dtype"), SPARSE_TYPES)
def test_sparse_products_equal_the_cpus(values: str | None, dtype: str, q: int, squared: bool) -> None:
    X, rng = sparse_matrix(values=values), np.random.default_rng(1)
    M, bias = rng.standard_normal((X.shape[1], q)).astype(dtype), rng.standard_normal(q).astype(dtype)
    size, terms = abs(X.astype(np.float64)), np.diff(X.indptr)[:, None] + 3
    size = (size * size if squared else size) @ abs(M)
    for given, rows in ((None, None), (bias, None), (bias, np.array([3, 9, 3, 69, 0, 1]))):
        found = [
            device.to_numpy(
                device.ops.sparse_product(
                    A, device.asarray(M), None if given is None else device.asarray(given),
                    None if rows is None else device.asarray(rows), squared,
                )
            )
            for device, A in on_both(X, values)
        ]  # fmt: skip
        # each rounds every product and every sum once
        off = 2 * terms * float(np.finfo(dtype).eps) * (size + (0 if given is None else abs(given)))
        assert [one.dtype for one in found] == [dtype, dtype]
        assert_within(found[1], found[0], off if rows is None else off[rows], "product")


def test_a_part_of_a_sparse_matrix_is_multiplied_alone() -> None:
    device, A = on_both(X := sparse_matrix())[1]
    M = device.asarray(np.random.default_rng(1).standard_normal((X.shape[1], 3)))
    whole = device.ops.sparse_product(A, M).get()
    part = device.ops.sparse_product(replace(A, indptr=A.indptr[2:20]), M)
    assert part.get().tobytes() == whole[2:19].tobytes()
    none = device.ops.sparse_product(A, M, rows=device.asarray(np.empty(0, np.int64)))
    assert none.shape == (0, 3)


def test_the_segments_of_a_matrix_are_made_once() -> None:
    if get_backend("cuda").xp.ndarray is not standin.ndarray:
        pytest.skip("counted by the stand-in")
    device, A = on_both(X := sparse_matrix())[1]
    M = device.xp.ones((X.shape[1], 3))
    waits = []
    for _ in range(3):
        before = standin.state.synchronisations
        device.ops.sparse_product(A, M)
        waits.append(standin.state.synchronisations - before)
    assert waits == [1, 0, 0]
    cut = sparse.segments(A)
    assert cut is not None
    assert cut.long_rows.get().tolist() == [0, 2, 3]  # of 2500, 2500 and 2049 entries
    assert np.diff(cut.starts.get()).tolist() == [2, 2, 2]
    held = weakref.ref(cut)
    del cut, A
    assert held() is None


@pytest.mark.parametrize("values", ["float64", "float32", "uint8", None])
def test_sparse_column_sums_equal_the_cpus(values: str | None) -> None:
    X, rng = sparse_matrix(values=values), np.random.default_rng(1)
    weights, centre = rng.random(X.shape[1]), 10 * rng.standard_normal(X.shape[0])
    found = [
        device.to_numpy(device.ops.sparse_column_sums(A, device.asarray(weights), device.asarray(centre)))
        for device, A in on_both(X, values)
    ]
    x, there = abs(X.astype(np.float64)), csr_array((np.ones(X.nnz), X.indices, X.indptr), X.shape)
    square = 2 * (x * x) @ weights + 2 * (there @ weights) * centre**2  # not less than the sum of the squares
    size = np.stack([there @ weights, x @ weights, square], axis=1)
    assert_within(found[1], found[0], 2 * (np.diff(X.indptr)[:, None] + 4) * 2.0**-52 * size, "sums")


@pytest.mark.parametrize("chunk_bytes", [chunks.CHUNK_BYTES, 1], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("values", ["float64", "float32", "uint8", None])
def test_sparse_gram_matrices_equal_the_cpus(
    values: str | None, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    X, rng = sparse_matrix(n=200, values=values), np.random.default_rng(1)
    weights, columns = rng.random(200), rng.permutation(X.shape[1])[:40]
    smallest = float(np.sort(weights)[42])  # which leaves 157 rows: no multiple of a block's warps
    found = [device.ops.sparse_gram(A, weights, columns, smallest) for device, A in on_both(X, values)]
    assert type(found[1]) is np.ndarray
    x = abs(X.astype(np.float64)).toarray()[:, columns]
    off = 2 * 203 * 2.0**-52 * (x * weights[:, None]).T @ x
    assert_within(np.tril(found[1]), np.tril(found[0]), np.tril(off), "gram")
    nothing = on_both(X, values)[1]
    assert not nothing[0].ops.sparse_gram(nothing[1], weights, columns, 2.0).any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pairs_are_added_and_multiplied_as_by_numpy(dtype: str) -> None:
    xp, rng, eps = get_backend("cuda").xp, np.random.default_rng(0), float(np.finfo(dtype).eps)
    new, old, vectors = (rng.standard_normal((n, 500)).astype(dtype) for n in (3, 3, 6))
    moved = xp.asarray(vectors)
    on_device = [tuple(map(xp.asarray, one)) for one in (new, old)]
    products, norms = get_backend("cuda").ops.pair_products(*on_device, moved, 2)
    vectors[2], vectors[3] = new[0] - old[0], new[1] - old[1]
    np.testing.assert_array_equal(moved.get(), vectors)
    exact, t = vectors.astype(np.float64), (new[2] - old[2]).astype(np.float64)
    off = 502 * eps * np.stack([abs(exact) @ abs(t), abs(exact) @ abs(new[2])])
    assert_within(products.get(), np.stack([exact @ t, exact @ new[2]]), off, "inner products")
    np.testing.assert_allclose(norms.get(), [t @ t, exact[2] @ exact[2]], rtol=502 * eps)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sums_equal_numpys(dtype: str) -> None:
    xp, rng, found = get_backend("cuda").xp, np.random.default_rng(0), get_backend("cuda").ops
    Z, eps = rng.standard_normal((300, 5)).astype(dtype), float(np.finfo(dtype).eps)
    sums = found.column_sums(xp.asarray(Z))
    assert (sums.shape, sums.dtype) == ((5,), dtype)
    assert_within(sums.get(), Z.sum(axis=0, dtype=np.float64), 301 * eps * abs(Z).sum(axis=0), "sums")
    assert found.column_sums(xp.asarray(Z[:0])).get().tolist() == [0] * 5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("K", "c"), [(1, 3), (2, 40)])
def test_softmax_and_best_of_scores_equal_the_cpus(K: int, c: int, dtype: str) -> None:
    Z = 5 * np.random.default_rng(0).standard_normal((50, K, c)).astype(dtype)
    Z[3, 0, 1], Z[4, 0] = np.nan, 1.0
    cpu, gpu = get_backend("cpu"), get_backend("cuda")
    best = gpu.ops.best(gpu.asarray(Z))
    assert (best.shape, best.dtype) == ((50, K), np.int32)
    assert np.array_equal(best.get(), cpu.ops.best(Z.copy()))
    Z[3, 0, 1] = 0
    on_device = gpu.asarray(Z)
    gpu.ops.softmax(on_device)
    cpu.ops.softmax(Z)
    # exp's argument is up to 40 and rounded, c numbers are summed, and one divided
    np.testing.assert_allclose(on_device.get(), Z, rtol=2 * (40 + c + 4) * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("soft", [False, True])
def test_label_coefficients_equal_the_cpus(soft: bool) -> None:
    rng = np.random.default_rng(0)
    labels, weights, w = rng.integers(0, 4, 60).astype(np.int32), rng.random(60), rng.random(4)
    P = rng.random((60, 4)) if soft else None
    if P is not None:
        P[7], weights[7] = 0, 0
    cpu, gpu = get_backend("cpu"), get_backend("cuda")
    found = gpu.ops.label_coefficients(*map(gpu.asarray, (labels, weights, w)), None if P is None else gpu.asarray(P))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.get(), cpu.ops.label_coefficients(labels, weights, w, P), atol=16 * 2.0**-52)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize(("dtype", "of_Q"), [("float64", "float64"), ("float32", "float32"), ("uint8", "float32")])
def test_column_products_of_dense_rows_over_chunks(
    dtype: str, of_Q: str, picked: bool, squared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    X, rng = problem(dtype, n=500)["X"], np.random.default_rng(0)
    rows = rng.integers(0, 500, 333) if picked else None
    x = (X if rows is None else X[rows]).astype(np.float64)
    x, Q = x * x if squared else x, rng.standard_normal((len(x), 5)).astype(of_Q)
    device = get_backend("cuda")
    given = [None if a is None else device.asarray(a) for a in (X, Q, rows)]
    found = device.ops.column_products(given[0], given[1], squared, given[2])
    assert found.dtype == of_Q
    assert device.to_numpy(given[0]).tobytes() == X.tobytes()
    off = (len(x) + 2) * float(np.finfo(of_Q).eps) * (abs(x).T @ abs(Q))
    assert_within(found.get(), x.T @ Q.astype(np.float64), off, "products")


def several_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make panels of 64 rows, and segments of 8 entries, so that columns are cut, too."""
    monkeypatch.setattr(sparse_features, "SMALLEST_PANEL", 64)
    monkeypatch.setattr(sparse_features, "ENTRIES_PER_FEATURE", 0)
    monkeypatch.setattr(sparse, "SEGMENT", 8)


SELECTIONS = {
    "all": None,
    "some": np.arange(0, 300, 3),
    "in another order": np.random.default_rng(0).permutation(300)[:150],
    "repeated": np.sort(np.random.default_rng(0).integers(0, 300, 200)),
    "repeated, in another order": np.random.default_rng(0).integers(0, 300, 200),
    "of one panel": np.arange(70, 90),
}


@pytest.mark.parametrize("rows", SELECTIONS.values(), ids=SELECTIONS)
def test_every_sum_over_sparse_rows_equals_that_over_dense_ones(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    several_panels(monkeypatch)
    rng, d, K, c = np.random.default_rng(3), 40, 2, 5
    x = rng.standard_normal((300, d)) * (rng.random((300, d)) < 0.4)
    x[:, 0] = 1 + rng.random(300)  # a column without zeros
    labels, weights = rng.integers(0, c, 300).astype(np.int32), rng.random((300, K))
    W, b, w, P = rng.standard_normal((d, K, c)), rng.standard_normal((K, c)), rng.random(c), rng.random((300, c))
    Q = rng.standard_normal((300 if rows is None else len(rows), 3))
    gpu, cpu = get_backend("cuda"), get_backend("cpu")
    results = []
    for backend, X in ((gpu, csr_array(x)), (cpu, x)):
        labels_, s, W_, b_, w_, P_, Q_ = map(backend.asarray, (labels, weights, W, b, w, P, Q))
        features = read_features(X, backend).select(rows)
        losses, correct, dW, db = features.gradient(labels_, W_, b_, s, 0)
        mean, variance = features.moments(backend.asarray(weights[:, 0].copy()), 0)
        s1, ones = backend.asarray(weights[:, 1].copy()), backend.asarray(np.ones(300))
        found = {
            "losses": losses, "correct": correct, "dW": dW, "db": db, "mean": mean, "variance": variance,
            "losses alone": features.losses(labels_, W_, b_, s, 0)[0],
            "label sums": features.label_sums(labels_, s1, w_, P_)[0],
            "label totals": features.label_sums(labels_, ones, w_, None)[1],
            "products": features.column_products(Q_), "squares": features.column_products(Q_, squared=True),
            "scores": features.scores(W_, b_), "probabilities": features.probabilities(W_, b_),
            "best": features.best(W_, b_),
            "gram": np.tril(features.gram_of_columns(np.arange(0, d, 3), abs(Q[:, 0]), 0.0)),
        }  # fmt: skip
        results.append({name: backend.to_numpy(one) for name, one in found.items()})
    for name, expected in results[1].items():
        # sums over 300 rows of scores, which are sums over 40 features: relative to the largest, as in `errors`
        off = 2 * (300 + 40) * 2.0**-52 * max(1.0, float(abs(expected).max()))
        assert_within(results[0][name], expected, np.full(expected.shape, off), name)


def sparse_classes(dtype: str | None, n: int = 400, d: int = 600, c: int = 4) -> tuple[Any, Any]:
    """Sparse rows, one column of which has no zeros, and classes that they decide; None: all values are 1."""
    rng = np.random.default_rng(5)
    X = random_array((n, d), density=0.03, rng=rng, format="lil")
    X[:, 0] = 1 + rng.random(n)
    X = csr_array(X)
    X.data = X.data + rng.standard_normal(X.nnz)
    y = (X @ rng.standard_normal((d, c)) + rng.standard_normal((n, c))).argmax(axis=1)
    if dtype is None:
        X.data[:] = 1
    return X.astype(dtype or "float32"), y


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("dtype", ["float64", "float32", None])
def test_a_sparse_fit_ends_where_the_cpus_does(dtype: str | None, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    several_panels(monkeypatch)
    X, y = sparse_classes(dtype)
    cls, l2 = (SoftmaxClassifier if loss == "softmax" else LinearSVMClassifier), 0.5
    tol = 1e-9 if dtype == "float64" else 1e-5
    options: dict[str, Any] = {"l2": l2, "tol": tol, "fit_intercept": False, "scaling": None}
    gpu, cpu = (cls(**options, backend=name).fit(X, y) for name in ("cuda", "cpu"))
    # both gradients are at most tol an entry, and the objective is l2-strongly convex
    assert np.linalg.norm(gpu.coef_ - cpu.coef_) <= 2 * tol * np.sqrt(cpu.coef_.size) / l2
    assert np.array_equal(gpu.predict(X), cpu.predict(X))


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sparse_training_follows_the_cpus_course(dtype: str, solver: str) -> None:
    X, y = sparse_classes(dtype)
    curves = []
    for name in ("cuda", "cpu"):
        options = {"batch_size": 150} if solver == "sgd" else {}
        model = SoftmaxClassifier(
            solver=solver, max_iter=4, tol=0, scaling="standard", class_weight="balanced", random_state=0, backend=name,
            label_smoothing=0.1, **options,
        )  # fmt: skip
        model.fit(X, y, validation=(X[:50], y[:50]))
        curves.append([(r.objective, r.accuracy, r.validation_loss) for r in model.history_])
    np.testing.assert_allclose(*curves, rtol=1e-10 if dtype == "float64" else 1e-5)


def test_two_sparse_fits_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    several_panels(monkeypatch)
    X, y = sparse_classes("float32")
    coefs = [SoftmaxClassifier(max_iter=4, tol=0, backend="cuda").fit(X, y).coef_ for _ in range(2)]
    assert coefs[0].tobytes() == coefs[1].tobytes()


def test_a_sparse_sweep_equals_the_cpus() -> None:
    X, y = sparse_classes("float64", d=100)
    scores = [
        sweep(SoftmaxClassifier(tol=1e-8, backend=name), {"C": [0.01, 0.1]}, X, y, cv=3).mean_scores_
        for name in ("cuda", "cpu")
    ]
    assert np.array_equal(*scores)  # the same rows are classified correctly


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_diagonals_with_dense_blocks_equal_the_cpus(fit_intercept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_diagonal, "BLOCK_FEATURES", 8)
    X, y = sparse_classes("float64")
    rng = np.random.default_rng(0)
    point, v, shift = (0.1 * rng.standard_normal((601, 4)) for _ in range(3))
    found = []
    for backend in (get_backend("cuda"), get_backend("cpu")):
        features = read_features(X, backend)
        features = features.with_scaling(shift[:-1, 0], 1 + abs(shift[:-1, 1]))
        penalty = L2(backend.asarray(np.array([1e-4])))
        labels = backend.asarray(y.astype(np.int32))
        objective = Objective(features, labels, 4, None, penalty, LOSSES["softmax"], fit_intercept)
        sums = class_diagonal.sums_at_point(objective, 0, backend.asarray(point))
        made = class_diagonal.from_sums(objective, 0, sums)
        assert [len(one.features) for one in made.dense_blocks] == [8] * 4
        zero = class_diagonal.from_sums(objective, 0, class_diagonal.sums_at_zero(objective, 0))
        found.append([backend.to_numpy(one.solve(backend.asarray(v))) for one in (made, zero)])
    for gpu, cpu in zip(*found, strict=True):
        # the dense blocks' condition numbers are below 100, and at most 400 rows are summed
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=400 * 100 * 2.0**-52 * abs(cpu).max())


class CupyMatrix:
    """What gpusoftmax asks of a sparse matrix of CuPy."""

    __module__ = "cupyx.scipy.sparse._csr"

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.copies = matrix, 0
        self.data = get_backend("cuda").asarray(matrix.data)
        self.shape, self.dtype, self.format, self.nnz = matrix.shape, matrix.dtype, matrix.format, matrix.nnz

    def get(self) -> Any:
        self.copies += 1
        return self.matrix

    def tocsr(self) -> Any:
        raise AssertionError("it is converted on the host")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_matrices_of_cupy_are_copied_once_and_computed_where_they_are(kind: str) -> None:
    X, y = sparse_classes("float64", d=30)
    given = CupyMatrix(X.asformat(kind))
    model = SoftmaxClassifier(max_iter=2, tol=0).fit(given, y)
    assert given.copies == 1
    assert model.backend_.startswith("cuda:0")
    same = SoftmaxClassifier(max_iter=2, tol=0, backend="cuda").fit(X, y)
    assert model.coef_.tobytes() == same.coef_.tobytes()
    for method in ("predict", "predict_proba", "decision_function"):
        found = getattr(model, method)(given)
        assert isinstance(found, get_backend("cuda").xp.ndarray)
        np.testing.assert_array_equal(found.get(), getattr(same, method)(X))
    with pytest.raises(TypeError, match="X on cuda:0, but backend='cpu'"):
        SoftmaxClassifier(backend="cpu").fit(given, y)
