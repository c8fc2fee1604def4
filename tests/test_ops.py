"""The fused operations of every backend compared with the reference, and results that must not change by a bit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from gpusoftmax import reference
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu import fallback, gradients, ops, threads
from gpusoftmax.cpu.ops import CpuOperations
from gpusoftmax.cpu.threads import leaf_rows, single_threaded_blas
from gpusoftmax.cuda import chunks as cuda_chunks
from gpusoftmax.losses import LOSSES
from tests.support.cases import (
    DETERMINISTIC,
    DTYPES,
    Problem,
    answer,
    assert_within,
    hosted,
    laid_out,
    problems,
    random_problem,
    row_answer,
    score_bound,
    sha256,
)

SOFTMAX = LOSSES["softmax"].code


@pytest.fixture
def backend(backend: Backend) -> Backend:
    """Every backend in turn; its operations take and return NumPy arrays."""
    return hosted(backend)


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of 64 rows, or of four times the columns; on a GPU, chunks of 128 (column_moments: 32)."""
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)
    monkeypatch.setattr(gradients, "BLAS_LEAF", 1)
    monkeypatch.setattr(cuda_chunks, "CHUNK_BYTES", 1)


def assert_gradient_is_right(backend: Backend, problem: Problem, lost: Any = 0.0) -> None:
    """`lost` is what dW may be off beyond the rounding of float32."""
    losses, correct, dW, db = backend.ops.linear_gradient(*problem.arguments, problem.rows)
    expected, allowed = answer(problem)
    assert (losses.dtype, correct.dtype, dW.dtype, db.dtype) == (float, float, problem.W.dtype, problem.W.dtype)
    assert dW.shape == problem.W.shape
    assert_within(losses, expected.losses, allowed.losses, "losses")
    assert_within(correct, expected.correct, allowed.correct, "correct")
    assert_within(dW, expected.dW, allowed.dW + lost, "dW")
    assert_within(db, expected.db, allowed.db, "db")


def lost_in_halves(problem: Problem) -> Any:
    """What dW loses where gradients become two float16: the second is off by 2^-39 of the largest gradient."""
    if problem.X.dtype not in (np.float16, np.uint8):
        return 0.0
    rows = slice(None) if problem.rows is None else problem.rows
    X, y = problem.X[rows].astype(np.float64), problem.labels[rows]
    Z, (_, K, c) = reference.scores(X, problem.W, problem.b), problem.W.shape
    G = reference.row_loss(Z.reshape(-1, c), np.repeat(y, K), list(LOSSES)[problem.loss])[1].reshape(-1, K, c)
    if problem.weights is not None:
        G = G * problem.weights[rows][:, :, None]
    return 2.0**-39 * np.abs(G).max(initial=0.0) * np.abs(X).sum(axis=0)[:, None, None]


@pytest.mark.slow
@given(problem=problems())
@settings(DETERMINISTIC, max_examples=3000)
def test_linear_gradient_equals_the_reference(cpu_backend: Backend, problem: Problem) -> None:
    assert_gradient_is_right(cpu_backend, problem)


@pytest.mark.slow
@given(problem=problems())
@settings(DETERMINISTIC, max_examples=300)
def test_linear_gradient_on_a_gpu_equals_the_reference(gpu: None, problem: Problem) -> None:
    assert_gradient_is_right(hosted(get_backend("cuda")), problem, lost_in_halves(problem))


# n, d, c, K at, and next to, the lengths in which rows are visited; the leaves' stand for a GPU's chunks of 128, too
BOUNDARIES = [
    *[pytest.param(n, 3, 3, 1, 1, id=f"leaf of 64, n={n}") for n in (63, 64, 65, 127, 128, 129, 64 * 5 + 1)],
    *[pytest.param(n, 3, 260, 1, 1, id=f"leaf of 64, many columns, n={n}") for n in (63, 64, 65, 129)],
    *[pytest.param(n, 40, 3, 1, None, id=f"block of 16 rows, n={n}") for n in (1, 15, 16, 17, 33)],
    *[pytest.param(9, d, 3, 1, None, id=f"slabs of 8, 16 or 32, d={d}") for d in (7, 8, 9, 15, 17, 31, 32, 33, 63, 65)],
    *[pytest.param(9, d, 3, 1, None, id=f"chunks of 8 slabs, d={d}") for d in (64, 65, 128, 129, 255, 256, 257, 513)],
    *[pytest.param(9, 3, c, 1, None, id=f"columns of a tile, c={c}") for c in (2, 4, 5, 6, 9, 10, 11, 20, 21, 30)],
    *[pytest.param(n, 3, 260, 1, None, id=f"BLAS block of 512, n={n}") for n in (511, 512, 513, 1025)],
    *[pytest.param(9, 3, c, 1, None, id=f"few columns or many, c={c}") for c in (111, 112, 113, 255, 256, 257)],
    *[pytest.param(9, 3, c, 2, None, id=f"few columns or many, two models, c={c}") for c in (56, 57, 128, 129)],
]


@pytest.mark.parametrize("offset", range(1, 17))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_start_anywhere_are_read_right(cpu_backend: Backend, dtype: str, offset: int) -> None:
    """Whether vectors begin on a line of the cache or cross one."""
    problem = random_problem(offset, dtype=dtype, n=21, d=1024, c=3, weighted=True, n_rows=30)
    memory = np.empty(problem.X.size + 128, problem.X.dtype)
    start = -(memory.ctypes.data // memory.itemsize) % 64 + offset
    X = memory[start : start + problem.X.size].reshape(problem.X.shape)
    X[...] = problem.X
    assert_gradient_is_right(cpu_backend, replace(problem, X=X))
    assert_gradient_is_right(cpu_backend, replace(problem, X=X, rows=None))


@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize("columns", [1, 3, 64])
def test_threads_that_share_the_columns_of_a_gradient_give_the_same(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, columns: int, picked: bool
) -> None:
    monkeypatch.setattr(gradients, "LARGE_GRADIENT", 0)
    monkeypatch.setattr(gradients, "LARGE_LEAF", 128)
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # a leaf of 64 rows, which is doubled once
    monkeypatch.setattr(gradients, "BLAS_LEAF", 1)
    monkeypatch.setattr(gradients, "TILE_COLUMNS", columns)
    monkeypatch.setattr(gradients, "SCORE_BYTES", 1)  # 64 rows at a time
    problem = random_problem(1, n=150, d=7, c=57, K=5, weighted=True, n_rows=170 if picked else None)
    operations = [get_backend(cpu_backend.name, n_threads).ops for n_threads in (1, 2, 7)]
    for operation in operations:
        assert_gradient_is_right(replace(cpu_backend, ops=operation), problem)
    assert len({sha256(*operation.linear_gradient(*problem.arguments, problem.rows)) for operation in operations}) == 1


@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize(("n", "d", "c", "K", "leaf_elements"), BOUNDARIES)
def test_linear_gradient_is_right_next_to_every_boundary(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, n: int, d: int, c: int, K: int, leaf_elements: int, picked: bool
) -> None:
    if leaf_elements is not None:
        monkeypatch.setattr(threads, "LEAF_ELEMENTS", leaf_elements)
        monkeypatch.setattr(cuda_chunks, "CHUNK_BYTES", 1)
    rows = n if picked else None
    assert_gradient_is_right(backend, random_problem(n, n=n, d=d, c=c, K=K, weighted=True, n_rows=rows))


@given(problem=problems(n_rows=None))
@DETERMINISTIC
def test_linear_losses_are_those_of_linear_gradient(cpu_backend: Backend, problem: Problem) -> None:
    losses, correct = cpu_backend.ops.linear_losses(*problem.arguments)
    expected = cpu_backend.ops.linear_gradient(*problem.arguments)
    np.testing.assert_array_equal(losses, expected[0])
    np.testing.assert_array_equal(correct, expected[1])


@pytest.mark.parametrize("classes", [3, 300], ids=["few columns", "many columns"])
@pytest.mark.parametrize(
    "operation", ["linear_losses", "linear_scores", "linear_probabilities", "linear_best", "column_moments"]
)
def test_an_operation_on_some_rows_is_the_operation_on_a_copy_of_them(
    backend: Backend, operation: str, classes: int
) -> None:
    problem = random_problem(2, n=300, d=9, c=classes, K=2, weighted=True, n_rows=170)
    assert problem.rows is not None
    X, labels, W, b, weights, loss = problem.arguments
    rows = problem.rows
    arguments: dict[str, tuple[Any, Any]] = {
        "linear_losses": ((X, labels, W, b, weights, loss), (X[rows], labels[rows], W, b, weights[rows], loss)),
        "column_moments": ((X, weights[:, 0]), (X[rows], weights[rows, 0])),
    }
    of_all, of_copy = arguments.get(operation, ((X, W, b), (X[rows], W, b)))
    call = getattr(backend.ops, operation)
    np.testing.assert_array_equal(call(*of_all, rows), call(*of_copy))


@given(problem=problems(n_rows=None, loss="softmax", weighted=False))
@settings(DETERMINISTIC, max_examples=300)
def test_linear_scores_equal_the_reference(backend: Backend, problem: Problem) -> None:
    scores = backend.ops.linear_scores(problem.X, problem.W, problem.b)
    assert scores.dtype == problem.W.dtype
    assert_within(scores, reference.scores(problem.X, problem.W, problem.b), score_bound(problem))


@given(
    m=st.integers(1, 40),
    c=st.sampled_from([2, 3, 7, 64, 65, 300]),
    K=st.integers(1, 3),
    loss=st.sampled_from(list(LOSSES)),
    dtype=st.sampled_from(["float32", "float64"]),
    weighted=st.booleans(),
    spread=st.sampled_from([1.0, 20.0, 100.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(DETERMINISTIC, max_examples=200)
def test_row_loss_equals_the_reference(
    backend: Backend, m: int, c: int, K: int, loss: str, dtype: str, weighted: bool, spread: float, seed: int
) -> None:
    problem = random_problem(
        seed, dtype=dtype, n=m, d=1, c=c, K=K, loss=loss, weighted=weighted, spread=spread, size=1.0
    )
    # eighths: differences of such scores are exact, so that every digit of the results counts, and there are ties
    Z = np.round(8 * reference.scores(problem.X, problem.W, problem.b)).astype(dtype) / 8
    info = np.finfo(dtype)
    exact = np.zeros(Z.shape)
    losses, G, losses_off, G_off = row_answer(Z, exact, problem.labels, problem.loss, info.eps, info.tiny)
    s = np.ones((m, K)) if problem.weights is None else problem.weights.astype(np.float64)
    found = backend.ops.row_loss(gradient := Z.astype(dtype), problem.labels, problem.weights, problem.loss)
    assert_within(gradient, G * s[:, :, None], (G_off + info.eps * np.abs(G)) * s[:, :, None], "gradient")
    assert_within(found[0], (losses * s).sum(axis=0), ((losses_off + 4 * info.eps * losses) * s).sum(axis=0), "losses")
    right = Z.argmax(axis=2) == problem.labels[:, None]  # the first of equals
    np.testing.assert_allclose(found[1], (right * s).sum(axis=0), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("ahead", [10.0, 17.0, 40.0, 80.0, 1e4])
def test_a_confident_row_keeps_the_digits_of_its_gradient(backend: Backend, dtype: str, c: int, ahead: float) -> None:
    # one-hot rows: scores are the weights, exactly, and row i is confident of class i
    X, labels = np.eye(3, dtype=dtype), np.arange(3, dtype=np.int32)
    W = (np.arange(3 * c) % 5 / 8).reshape(3, 1, c).astype(dtype)
    W[labels, 0, labels] = W[labels, 0].max(axis=1) + ahead
    b = np.zeros((1, c), dtype)
    losses, correct, dW, _ = backend.ops.linear_gradient(X, labels, W, b, None, SOFTMAX)
    expected_losses, expected = reference.row_loss(W[:, 0], labels, "softmax")
    # exp of a difference is off by 1 + |difference| / 2 ulp at most: 6e-6 in float32 where the target is 80 ahead
    digits = (8 + ahead) * np.finfo(dtype).eps
    np.testing.assert_allclose(dW[:, 0], expected, rtol=digits, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(losses[0], expected_losses.sum(), rtol=digits, atol=np.finfo(dtype).tiny)
    assert correct.tolist() == [3.0]


@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_a_margin_of_exactly_zero_is_inactive(backend: Backend, loss: str, c: int) -> None:
    W = np.full((1, 1, c), -5.0, np.float32)
    W[0, 0, :3] = 2.0, 1.0, 1.5  # of class 0: margin 0 of class 1, 0.5 of class 2
    X, b = np.ones((1, 1), np.float32), np.zeros((1, c), np.float32)
    losses, _, dW, db = backend.ops.linear_gradient(X, np.zeros(1, np.int32), W, b, None, LOSSES[loss].code)
    value, slope = (0.5, 1.0) if loss == "hinge" else (0.25, 1.0)
    assert losses.tolist() == [value]
    np.testing.assert_array_equal(dW[0, 0], [-slope, 0.0, slope] + [0.0] * (c - 3))
    np.testing.assert_array_equal(db, dW[0])


@pytest.mark.parametrize("c", [3, 70])
def test_of_equal_scores_the_first_is_the_answer(backend: Backend, c: int) -> None:
    X, W, b = np.ones((2, 1), np.float32), np.zeros((1, 1, c), np.float32), np.zeros((1, c), np.float32)
    _, correct = backend.ops.linear_losses(X, np.array([0, 1], np.int32), W, b, None, SOFTMAX)
    assert correct.tolist() == [1.0]


NON_FINITE = {
    "NaN at the target": (np.nan, 0.0, 1.0),
    "NaN at another class": (0.0, np.nan, 1.0),
    "NaN at the last class": (0.0, 1.0, np.nan),
    "+inf at another class": (0.0, 1.0, np.inf),
    "target at -inf": (-np.inf, 0.0, 1.0),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", NON_FINITE)
@pytest.mark.parametrize("c", [3, 70])
def test_scores_without_an_answer_give_a_non_finite_loss(backend: Backend, c: int, case: str, loss: str) -> None:
    Z = np.zeros((2, 1, c), np.float32)
    Z[1, 0, [0, 1, c - 1]] = NON_FINITE[case]
    losses, _ = backend.ops.row_loss(Z, np.zeros(2, np.int32), None, LOSSES[loss].code)
    assert not np.isfinite(losses).any()


def test_softmax_with_the_target_at_plus_infinity_has_a_non_finite_loss(backend: Backend) -> None:
    Z = np.array([[[np.inf, 0.0, 1.0]]], np.float32)
    losses, _ = backend.ops.row_loss(Z, np.zeros(1, np.int32), None, SOFTMAX)
    assert not np.isfinite(losses).any()


def test_a_class_at_minus_infinity_has_no_probability(backend: Backend) -> None:
    Z = np.array([[[1.0, -np.inf, 1.0]]], np.float32)
    losses, _ = backend.ops.row_loss(Z, np.zeros(1, np.int32), None, SOFTMAX)
    assert Z[0, 0].tolist() == [-0.5, 0.0, 0.5]
    assert losses[0] == pytest.approx(np.log(2), rel=1e-6)


@given(
    problem=problems(n_rows=None, c=2, K=1, loss="softmax", spread=1.0),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
)
@settings(DETERMINISTIC, max_examples=300)
def test_column_moments_equal_the_definition(backend: Backend, problem: Problem, offset: float) -> None:
    X = problem.X + np.float64(offset) if problem.X.dtype == np.float64 else problem.X
    weights = None if problem.weights is None else problem.weights[:, 0]
    if weights is not None and not weights.any():
        weights = weights + 1
    mean, variance = backend.ops.column_moments(X, weights)
    x = X.astype(np.float64)
    expected = np.average(x, axis=0, weights=weights)
    # n roundings of either sign, relative to the distances from the first row; `expected` is rounded too
    reach = np.abs(x - x[0]).max(axis=0)
    rounding = 8 * np.sqrt(len(x)) * np.finfo(np.float64).eps
    mean_rounding = rounding * (reach + np.abs(expected))
    assert_within(mean, expected, mean_rounding, "mean")
    expected = np.average((x - expected) ** 2, axis=0, weights=weights)
    assert_within(variance, expected, rounding * reach**2 + mean_rounding**2, "variance")


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("weighted", [False, True])
def test_column_moments_are_right_over_many_leaves(backend: Backend, weighted: bool) -> None:
    problem = random_problem(0, dtype="uint8", n=64 * 5 + 7, d=300, weighted=weighted)
    weights = None if problem.weights is None else problem.weights[:, 0]
    mean, variance = backend.ops.column_moments(problem.X, weights)
    expected = np.average(problem.X, axis=0, weights=weights)
    np.testing.assert_allclose(mean, expected, rtol=1e-13)
    np.testing.assert_allclose(variance, np.average((problem.X - expected) ** 2, axis=0, weights=weights), rtol=1e-12)


def test_the_variance_of_a_constant_column_is_zero(backend: Backend) -> None:
    _, variance = backend.ops.column_moments(np.full((100, 2), 0.1, np.float32), np.linspace(0, 1, 100))
    assert variance.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("width", ["float64", "float32", "float16", "none"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "every other"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_label_sums_equal_the_definition(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, dtype: str, layout: str, width: str
) -> None:
    n, d, c = 64 * 5 + 7, 9, 11
    monkeypatch.setattr(ops, "LARGE_GRADIENT", 8 * d * 4)  # four columns at a time
    problem = random_problem(0, dtype=dtype, n=n, d=d, c=c, weighted=True, layout=layout)
    rng, weights = np.random.default_rng(1), problem.weights[:, 0].copy()
    class_weight, P = rng.random(c), rng.random((n, c))
    P[0], weights[0] = 0.0, 0.0  # a row without any class has to be without weight
    P = None if width == "none" else laid_out(P.astype(width), layout)
    found = backend.ops.label_sums(problem.X, problem.labels, weights, class_weight, P)
    p = np.full((n, c), 1 / c) if P is None else P.astype(np.float64) * class_weight
    p[weights > 0] /= p[weights > 0].sum(axis=1, keepdims=True)
    x, z = problem.X.astype(np.float64), weights[:, None].astype(np.float64) * (np.eye(c)[problem.labels] - p)
    rounding = 4 * np.sqrt(n) * np.finfo(np.float64).eps  # n roundings of either sign, relative to the sizes
    assert {array.dtype for array in found} == {np.dtype(np.float64)}
    assert_within(found[0], x.T @ z, rounding * (abs(x).T @ abs(z)), "sums")
    assert_within(found[1], z.sum(axis=0), rounding * abs(z).sum(axis=0), "totals")


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("picked", [False, True], ids=["all rows", "picked rows"])
@pytest.mark.parametrize("c", [5, 70])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_gradient_has_the_same_bits_for_any_number_of_threads(
    cpu_backend: Backend, dtype: str, c: int, picked: bool
) -> None:
    n = 9 * leaf_rows(7) + 17
    problem = random_problem(0, dtype=dtype, n=n, d=7, c=c, weighted=picked, n_rows=n if picked else None)

    def digest(n_threads: int) -> str:
        return sha256(*get_backend(cpu_backend.name, n_threads).ops.linear_gradient(*problem.arguments, problem.rows))

    assert {digest(n_threads) for n_threads in (1, 2, 3, 7)} == {digest(1)}


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("operation", ["row_loss", "column_moments", "label_sums"])
def test_sums_over_rows_have_the_same_bits_for_any_number_of_threads(cpu_backend: Backend, operation: str) -> None:
    problem = random_problem(0, n=64 * 9 + 17, d=7, weighted=True)

    def digest(n_threads: int) -> str:
        operations = get_backend(cpu_backend.name, n_threads).ops
        if operation == "column_moments":
            return sha256(*operations.column_moments(problem.X, problem.weights[:, 0]))
        if operation == "label_sums":
            s, P = problem.weights[:, 0], np.abs(problem.X)
            return sha256(*operations.label_sums(problem.X, problem.labels, s, np.ones(7), P))
        Z = problem.X[:, None, :].copy()
        return sha256(*operations.row_loss(Z, problem.labels, problem.weights, SOFTMAX), Z)

    assert {digest(n_threads) for n_threads in (1, 2, 3, 7)} == {digest(1)}


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("c", [2, 10, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_a_rows_scores_do_not_depend_on_the_rows_after_it(cpu_backend: Backend, dtype: str, c: int) -> None:
    problem = random_problem(0, dtype=dtype, n=700, d=37, c=c)
    whole = cpu_backend.ops.linear_scores(problem.X, problem.W, problem.b)
    for n_threads in (1, 3):
        operations = get_backend(cpu_backend.name, n_threads).ops
        for m in (1, 2, 5, 63, 64, 65, 233, 699):
            part = operations.linear_scores(problem.X[:m], problem.W, problem.b)
            assert sha256(part) == sha256(whole[:m]), f"{m} rows, {n_threads} threads"


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def watched_operations(at_each_block: Any) -> CpuOperations:
    """Operations that call a function in the middle of each block, as the kernel that they are given."""

    def row_loss(*arguments: Any) -> None:
        at_each_block()
        fallback.row_loss(*arguments)

    return CpuOperations(2, SimpleNamespace(COMPILED=False, SOURCE=None, row_loss=row_loss))


@pytest.fixture
def three_blas_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A setting of the caller; other tests may have loaded more BLAS libraries since the controller was made."""
    monkeypatch.setattr(single_threaded_blas, "controller", None)
    with threadpool_limits(3, user_api="blas"):
        yield


blas = pytest.mark.skipif(not blas_threads(), reason="threadpoolctl does not know this BLAS")


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_a_call_runs_blas_on_one_thread_and_leaves_the_callers_setting() -> None:
    seen: list[set[int]] = []
    watched_operations(lambda: seen.append(blas_threads())).linear_gradient(*random_problem(0).arguments)
    assert (seen, blas_threads()) == ([{1}], {3})


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_an_exception_in_a_call_leaves_the_callers_setting_of_blas() -> None:
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        watched_operations(fail).linear_gradient(*random_problem(0).arguments)
    assert blas_threads() == {3}


@blas
@pytest.mark.usefixtures("three_blas_threads")
def test_overlapping_calls_leave_the_callers_setting_of_blas() -> None:
    meeting = threading.Barrier(2)  # either call is inside while the other is
    operations = watched_operations(lambda: meeting.wait(60))
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(operations.linear_gradient, *random_problem(0).arguments) for _ in range(2)]
        for call in calls:
            call.result()
    assert blas_threads() == {3}


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize("c", [5, 70])
def test_calls_from_several_threads_do_not_disturb_each_other(cpu_backend: Backend, c: int) -> None:
    tasks = [random_problem(seed, n=3 * leaf_rows(7), d=7, c=c) for seed in range(4)]
    alone = [sha256(*cpu_backend.ops.linear_gradient(*task.arguments)) for task in tasks]
    meeting = threading.Barrier(4)

    def call(task: Problem) -> list[str]:
        meeting.wait(60)
        return [sha256(*cpu_backend.ops.linear_gradient(*task.arguments)) for _ in range(10)]

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(call, tasks)) == [[digest] * 10 for digest in alone]


def test_arguments_are_left_as_they_are(backend: Backend) -> None:
    problem = random_problem(0, weighted=True, n_rows=7)
    before = sha256(*problem.arguments[:5], problem.rows)
    backend.ops.linear_gradient(*problem.arguments, problem.rows)
    backend.ops.linear_losses(*problem.arguments)
    backend.ops.linear_scores(problem.X, problem.W, problem.b)
    backend.ops.column_moments(problem.X, problem.weights[:, 0])
    backend.ops.label_sums(problem.X, problem.labels, problem.weights[:, 0], np.ones(4), problem.X)
    assert sha256(*problem.arguments[:5], problem.rows) == before
