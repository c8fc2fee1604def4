"""Passes over rows that are not on the GPU: the same bits as with X there, copies that run beside, and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, get_backend, load_digits
from gpusoftmax.cuda import chunks, copying, gradients, memory
from gpusoftmax.cuda.chunks import chunk_rows, float64_rows, leaf_rows
from gpusoftmax.cuda.column_sums import moment_sums, moments_from, product_sums
from gpusoftmax.cuda.gradients import GradientSums, gradient_leaf
from gpusoftmax.dtypes import computation_dtype
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.features.read import read_features
from gpusoftmax.features.streamed import StreamedFeatures
from gpusoftmax.rows import file_rows
from gpusoftmax.rows.open_rows import open_rows
from gpusoftmax.tree import TreeSum
from tests.support.blocks import InBlocks
from tests.support.cases import DTYPES, Problem, answer, assert_within, random_problem, sha256
from tests.support.emulation import standin

pytestmark = pytest.mark.usefixtures("small_chunks")

D = 12
CHUNK, LEAF = 128, 256
SIZES = {"part of a chunk": 100, "a chunk": CHUNK, "chunks": 3 * LEAF, "chunks and a part": 5 * LEAF + CHUNK + 17}


@pytest.fixture
def small_chunks(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 rows, leaves of 256, and pinned buffers of 20 rows of 12 float32 numbers."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "LEAF_ROWS", LEAF)
    monkeypatch.setattr(copying, "PINNED_BYTES", 20 * D * 4)


def problem_with(n: int, dtype: str = "float32", K: int = 1, weighted: bool = True) -> Problem:
    if dtype != "bfloat16":
        return random_problem(n, dtype=dtype, n=n, d=D, c=3, K=K, weighted=weighted)
    problem = random_problem(n, n=n, d=D, c=3, K=K, weighted=weighted)
    return replace(problem, X=(problem.X.view(np.uint32) >> 16).astype(np.uint16))


def operations(problem: Problem) -> dict[str, Callable[[Any], Any]]:
    """Every operation that goes through all rows, as a function of X."""
    backend, rng, n = get_backend("cuda"), np.random.default_rng(0), len(problem.X)
    ops, K = backend.ops, problem.b.shape[0]
    _, labels, W, b, s, loss = (backend.asarray(x) if isinstance(x, np.ndarray) else x for x in problem.arguments)
    Q, P, w = (backend.asarray(x) for x in (rng.standard_normal((n, 3)), rng.random((n, 3)), rng.random(3)))
    doubles = backend.asarray(rng.random(n))
    return {
        "gradient": lambda X: ops.linear_gradient(X, labels, W, b, s, loss),
        "losses": lambda X: ops.linear_losses(X, labels, W, b, s, loss),
        "scores": lambda X: (ops.linear_scores(X, W, b),),
        "probabilities": lambda X: (ops.linear_probabilities(X, W, b),),
        "best": lambda X: (ops.linear_best(X, W, b),),
        "moments": lambda X: ops.column_moments(X, doubles if K > 1 else None, None, n // 2),
        "moments about the first row": lambda X: ops.column_moments(X, doubles),
        "label sums": lambda X: ops.label_sums(X, labels, doubles, w, P if K > 1 else None),
        "products": lambda X: (ops.column_products(X, Q),),
        "squares": lambda X: (ops.column_products(X, Q, squared=True),),
    }


def bits(results: Any) -> str:
    return sha256(*map(get_backend("cuda").to_numpy, results))


# ---- the same bits, wherever the rows are


@pytest.mark.parametrize("together", [1, 3, 1000], ids=["32 rows", "96 rows", "all rows"])
@pytest.mark.parametrize("n", SIZES.values(), ids=SIZES)
def test_every_operation_gives_the_same_bits_for_rows_in_blocks(n: int, together: int) -> None:
    problem = problem_with(n)
    X = get_backend("cuda").asarray(problem.X)
    for name, operation in operations(problem).items():
        assert bits(operation(InBlocks(problem.X, together))) == bits(operation(X)), name


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_blocks_of_every_type_give_the_same_bits(dtype: str, K: int, weighted: bool) -> None:
    problem = problem_with(2 * LEAF + 17, dtype, K, weighted)
    X = get_backend("cuda").asarray(problem.X)
    for name, operation in operations(problem).items():
        assert bits(operation(InBlocks(problem.X, 3))) == bits(operation(X)), name


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_blocks_give_the_same_bits_at_every_precision(precision: str) -> None:
    problem, backend = problem_with(LEAF + 17), get_backend("cuda", precision=precision)
    arguments = [backend.asarray(x) if isinstance(x, np.ndarray) else x for x in problem.arguments]
    found = backend.ops.linear_gradient(InBlocks(problem.X), *arguments[1:])
    assert bits(found) == bits(backend.ops.linear_gradient(*arguments))


def test_an_array_at_an_odd_address_gives_the_bits_of_an_aligned_one() -> None:
    problem, xp = problem_with(CHUNK), get_backend("cuda").xp
    wide = xp.empty(CHUNK * D + 1, dtype=np.float32)
    wide[1:] = xp.asarray(problem.X).reshape(-1)
    X = wide[1:].reshape(CHUNK, D)
    chunk = next(chunks.chunks(X, None, CHUNK))
    assert X.data.ptr % chunks.ALIGNMENT
    assert chunk.converted(X.dtype).data.ptr % chunks.ALIGNMENT == 0
    assert xp.asnumpy(chunk.converted(X.dtype)).tobytes() == problem.X.tobytes()


# ---- chunks and leaves


@pytest.mark.parametrize("n", SIZES.values(), ids=SIZES)
def test_sums_along_the_tree_are_right(n: int) -> None:
    problem = problem_with(n, K=2)
    expected, allowed = answer(problem)
    found = operations(problem)["gradient"](InBlocks(problem.X))
    for name, x in zip(("losses", "correct", "dW", "db"), found, strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)


@pytest.mark.parametrize(("d", "columns"), [(3072, 10), (1024, 1000), (1, 1), (5, 70_000), (10_000_000, 2)])
def test_chunks_and_leaves_are_powers_of_two_so_that_leaves_are_made_of_chunks(
    d: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 256 << 20)
    monkeypatch.setattr(chunks, "LEAF_ROWS", 1 << 17)
    for step in (chunk_rows(d, columns), float64_rows(d, columns)):
        assert step & (step - 1) == 0
        assert step % copying.READ_ROWS == 0
        assert leaf_rows(step) % step == 0
        assert step * max(d, columns) < 2**31
    assert chunk_rows(d, columns) == chunks.SMALLEST_CHUNK or 4 * chunk_rows(d, columns) * max(d, columns) <= 256 << 20


def added(parts: Any, n_leaves: int) -> Any:
    tree = TreeSum()
    for nodes in parts:
        for place, node in nodes.items():
            tree.add(*place, node)
    return tree.total(n_leaves)


def test_gradients_over_parts_of_the_rows_add_up_to_the_same_bits() -> None:
    n = SIZES["chunks and a part"]
    problem, backend = problem_with(n, K=2), get_backend("cuda")
    X, labels, W, b, s, loss = (backend.asarray(x) if isinstance(x, np.ndarray) else x for x in problem.arguments)
    sums, step, parts = GradientSums(W, b, loss, True, "highest"), 2 * gradient_leaf(W), []
    for first in range(0, n, step):
        own = slice(first, first + step)
        some: Any = X[own] if first else InBlocks(problem.X[own])
        parts.append(sums.over(some, labels[own], s[own], first_row=first).parts())
    losses, correct, dW, db = added(reversed(parts), -(-n // gradient_leaf(W)))
    assert bits((losses, correct, dW.reshape(W.shape), db.reshape(b.shape))) == bits(operations(problem)["gradient"](X))


def test_moments_and_products_over_parts_of_the_rows_add_up_to_the_same_bits() -> None:
    n = SIZES["chunks and a part"]
    problem, backend = problem_with(n), get_backend("cuda")
    X, centre = backend.asarray(problem.X), backend.asarray(problem.X[0].astype(np.float64))
    Q = backend.asarray(np.random.default_rng(0).standard_normal((n, 3)))
    moments, products = [], []
    for first in range(0, n, 2 * LEAF):
        own = slice(first, first + 2 * LEAF)
        moments.append(moment_sums(X[own], None, centre, None, first).parts())
        coefficients = partial(type(Q).__getitem__, Q[own])
        products.append(product_sums(X[own], coefficients, slice(0, 3), Q.dtype, False, None, first).parts())
    assert bits(moments_from(added(moments, -(-n // LEAF)), centre)) == bits(backend.ops.column_moments(X, None))
    assert bits((added(products, -(-n // LEAF))[0],)) == bits((backend.ops.column_products(X, Q),))


# ---- copies run beside the computation; the stand-in finds what does not wait for what it needs


def test_copies_wait_for_the_kernels_that_used_their_buffer_and_for_no_later_ones(machine: Any) -> None:
    computing, ends = machine.stream, []
    X = InBlocks(problem_with(6 * CHUNK).X, 2)
    with closing(copying.copied_chunks(X, CHUNK)) as found:
        for i, (_, chunk) in enumerate(found):
            (copies,) = (stream for stream in machine.streams if stream not in (None, computing))
            waited_for = machine.streams[copies][computing]
            if i >= 2:
                assert ends[i - 2] <= waited_for < ends[i - 1]
            assert machine.streams[None][computing] < min(ends[-1:], default=1 << 62)  # the host waits for no kernel
            chunk += 1  # a kernel
            ends.append(machine.streams[computing][computing])


def test_a_pass_that_is_left_early_waits_for_its_copies(machine: Any) -> None:
    X = InBlocks(problem_with(6 * CHUNK).X)
    with closing(copying.copied_chunks(X, CHUNK)) as found:
        next(found)
    del found
    standin.check_guards()


def test_what_was_freed_by_running_kernels_is_not_overwritten_by_copies(machine: Any) -> None:
    backend = get_backend("cuda")
    _ = backend.xp.ones(5) + 1.0  # queued before
    problem = problem_with(CHUNK)
    assert np.array_equal(copying.upload_rows(InBlocks(problem.X)).get(), problem.X)
    standin.check_guards()


# ---- memory


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
@pytest.mark.parametrize("in_blocks", [False, True], ids=["on the device", "in blocks"])
@pytest.mark.parametrize("n", [500, 8 * LEAF])
def test_the_memory_of_a_pass_is_known_beforehand(
    n: int, in_blocks: bool, dtype: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "ROUNDING_BYTES", 0)
    d, K, c, backend = 400, 2, 33, get_backend("cuda")
    computed = computation_dtype(np.dtype(dtype))
    X = np.ones((n, d), dtype)
    given: Any = InBlocks(X) if in_blocks else backend.asarray(X)
    labels = backend.xp.zeros(n, dtype=np.int32)
    W, b = backend.xp.zeros((d, K, c), dtype=computed), backend.xp.zeros((K, c), dtype=computed)
    before = sum(one.size for one in machine.alive)
    machine.peak = 0
    backend.ops.linear_gradient(given, labels, W, b, None, 0)
    predicted = backend.ops.pass_bytes(X.dtype, n, d, K, c) + chunks.copy_bytes(given, CHUNK)
    assert 0.99 * predicted < machine.peak - before <= predicted + 8  # bad_row


@pytest.fixture
def failing(machine: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the allocation of this number from now on fail, and no other."""
    allocate, left = standin._Memory.__init__, [0]

    def fail(self: Any, size: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise standin.OutOfMemoryError("this one fails")
        allocate(self, size)

    monkeypatch.setattr(standin._Memory, "__init__", fail)
    return lambda number: left.__setitem__(0, number)


@pytest.mark.parametrize("in_blocks", [False, True], ids=["on the device", "in blocks"])
def test_memory_that_runs_short_anywhere_is_an_error_and_changes_no_bits(
    in_blocks: bool, machine: Any, failing: Callable[[int], None]
) -> None:
    problem = problem_with(LEAF + 17)
    X: Any = InBlocks(problem.X) if in_blocks else get_backend("cuda").asarray(problem.X)
    for name, operation in operations(problem).items():
        expected, before = bits(operation(X)), sum(one.size for one in machine.alive)
        for number in count(1):
            failing(number)
            found = message = None
            try:
                found = operation(X)
            except MemoryError as error:
                message = str(error)
            assert (found is None) == (message is not None)
            if message is None:
                failing(0)
                break
            assert re.search(r"beside X and the weights, a pass over 273 rows .* missing", message), name
            assert sum(one.size for one in machine.alive) == before, (name, number)
        assert number > 1
        assert bits(found) == expected, name
        del found


def test_memory_that_is_just_enough_gives_the_bits_of_ample_memory(machine: Any) -> None:
    problem = problem_with(3 * LEAF)
    operation, X = operations(problem)["gradient"], get_backend("cuda").asarray(problem.X)
    ample, before = bits(operation(X)), sum(one.size for one in machine.alive)
    machine.limit = before + get_backend("cuda").ops.pass_bytes(problem.X.dtype, len(X), D, 1, 3)
    assert bits(operation(X)) == ample


def test_pinned_memory_that_the_host_does_not_give_is_an_error(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupyx

    def fail(shape: Any, dtype: Any) -> None:
        raise standin.CUDARuntimeError(2)

    monkeypatch.setattr(cupyx, "empty_pinned", fail)
    problem = problem_with(LEAF)
    with pytest.raises(MemoryError, match=r"two buffers of 960 bytes of pinned memory.* raise its limit"):
        operations(problem)["gradient"](InBlocks(problem.X))


# ---- features in files


@pytest.fixture
def digits_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "digits.npy", load_digits().X_train.astype(np.uint8))
    return tmp_path / "digits.npy"


@pytest.fixture
def through_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "this test reads through the ring")


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows fit into the GPU's memory."""
    monkeypatch.setattr(memory, "FRACTION_ON_GPU", 0.0)


def test_rows_that_fit_are_copied_once(digits_file: Path, caplog: Any) -> None:
    with caplog.at_level("INFO", "gpusoftmax"):
        features = read_features(open_rows(digits_file), get_backend("cuda"))
    assert isinstance(features, DenseFeatures)
    assert "copied there once" in caplog.text
    assert np.array_equal(features.X.get(), np.load(digits_file))


def test_rows_stay_in_their_file_where_a_pass_would_not_fit_beside_them(
    digits_file: Path, machine: Any, caplog: Any
) -> None:
    backend, n = get_backend("cuda"), len(np.load(digits_file))
    needed = n * 64 + backend.ops.pass_bytes(np.dtype(np.uint8), n, 64, 1, memory.EXPECTED_CLASSES)
    found = []
    for room in (1.01, 0.99):
        machine.limit = sum(one.size for one in machine.alive) + int(room * needed / memory.FRACTION_ON_GPU)
        with caplog.at_level("INFO", "gpusoftmax"):
            found.append(type(read_features(open_rows(digits_file), backend)))
        machine.limit = None
    assert found == [DenseFeatures, StreamedFeatures]
    assert "copied to it in each pass, chunk by chunk" in caplog.text


@pytest.mark.usefixtures("too_large", "through_a_ring")
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_streamed_features_have_the_bits_of_dense_ones(digits_file: Path, some: bool) -> None:
    backend, rng, digits = get_backend("cuda"), np.random.default_rng(0), load_digits()
    n, d, c = *digits.X_train.shape, 10
    asarray: Any = backend.asarray
    labels, s = asarray(digits.y_train.astype(np.int32)), asarray(rng.random((n, 1)).astype(np.float32))
    W, b = (asarray(rng.standard_normal(shape).astype(np.float32)) for shape in ((d, 1, c), (1, c)))
    rows = np.sort(rng.permutation(n)[: n // 2]) if some else None
    m, w, doubles = n if rows is None else len(rows), asarray(rng.random(c)), asarray(rng.random(n))
    Q, batch = asarray(rng.standard_normal((m, 3))), asarray(rng.permutation(n)[:100])
    streamed = read_features(open_rows(digits_file), backend).select(rows)
    dense = DenseFeatures(asarray(np.load(digits_file)), backend).select(rows)
    assert isinstance(streamed, StreamedFeatures)
    for name, found in {
        "gradient": lambda X: X.gradient(labels, W, b, s, 0),
        "gradient of a minibatch": lambda X: X.gradient(labels, W, b, s, 0, batch),
        "losses": lambda X: X.losses(labels, W, b, None, 0),
        "scores": lambda X: (X.scores(W, b),),
        "probabilities": lambda X: (X.probabilities(W, b),),
        "best": lambda X: (X.best(W, b),),
        "moments": lambda X: X.moments(doubles, None if rows is None else int(rows[3])),
        "label sums": lambda X: X.label_sums(labels, doubles, w, None),
        "products": lambda X: (X.column_products(Q, squared=True),),
        "sample": lambda X: (X.sample(batch),),
        "gram": lambda X: (X.gram_of_columns(np.arange(3, 40), np.ones(m), 0.0),),
        "largest": lambda X: X.largest(5),
    }.items():
        if name in ("gram",):  # sums on the host, over other blocks of rows
            np.testing.assert_allclose(found(streamed)[0], found(dense)[0], rtol=1e-12)
        else:
            assert bits(found(streamed)) == bits(found(dense)), name
    assert streamed.shared_weight_bytes == 0
    assert streamed.pass_bytes(1, c) == dense.pass_bytes(1, c) + copying.buffer_bytes(np.uint8, m, d, CHUNK)


@pytest.mark.usefixtures("too_large")
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "through a ring"])
def test_a_fit_on_streamed_rows_has_the_bits_of_one_on_the_device(
    digits_file: Path, mapped: bool, request: pytest.FixtureRequest
) -> None:
    if not mapped:
        request.getfixturevalue("through_a_ring")
    digits = load_digits()
    options: dict[str, Any] = {"backend": "cuda", "max_iter": 4, "tol": 0, "random_state": 0}
    dense = SoftmaxClassifier(**options).fit(np.load(digits_file), digits.y_train)
    streamed = SoftmaxClassifier(**options).fit(open_rows(digits_file), digits.y_train)
    assert streamed.coef_.tobytes() == dense.coef_.tobytes()
    assert streamed.intercept_.tobytes() == dense.intercept_.tobytes()
    found = [model.predict_proba(X) for model, X in ((dense, np.load(digits_file)), (streamed, open_rows(digits_file)))]
    assert bits(found[:1]) == bits(found[1:])


@pytest.mark.usefixtures("too_large", "through_a_ring")
def test_sgd_trains_on_streamed_rows(digits_file: Path) -> None:
    digits = load_digits()
    model = SoftmaxClassifier(backend="cuda", solver="sgd", max_iter=3, tol=0, batch_size=200, random_state=0)
    model.fit(open_rows(digits_file), digits.y_train)
    assert model.score(digits.X_train.astype(np.uint8), digits.y_train) > 0.9
