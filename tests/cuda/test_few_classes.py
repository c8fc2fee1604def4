"""Gradients with one read of X: the kernel in six orders of threads, and the host code on the stand-in for CuPy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpusoftmax import get_backend, loss_and_gradient, reference
from gpusoftmax.cuda import chunks, few_classes
from gpusoftmax.cuda.buckets import BFLOAT16, FLOAT16, FLOAT32, ITEM_SIZE, UINT8
from gpusoftmax.cuda.compile import source
from gpusoftmax.cuda.few_classes import ALONE, CLUSTER, FLAGS, MOST_SCORES, MOST_SLICES, NODES, Variant, choose, suits
from gpusoftmax.cuda.gradients import GradientSums, gradient_leaf
from gpusoftmax.losses import LOSSES
from gpusoftmax.tree import TreeSum
from tests.support.blocks import InBlocks
from tests.support.cases import Problem, answer, assert_within, random_problem, sha256
from tests.support.emulation import build as emulation
from tests.support.emulation import standin
from tests.support.guarded import SANITIZED, Guarded, Sparse, in_every_order

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.missing() is not None, reason=str(emulation.missing())),
]

Array = np.ndarray[Any, Any]
NO_BAD_ROW = 2**64 - 1
NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", UINT8: "uint8"}
DTYPES = {FLOAT32: np.float32, FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16, UINT8: np.uint8}
EXCHANGES = {ALONE: "alone", CLUSTER: "cluster", FLAGS: "flags"}
SOFTMAX, HINGE, SQUARED_HINGE = range(3)


# ---- the kernel


@dataclass(frozen=True)
class Case:
    """A variant with few threads, d features that do not fill its blocks, and the losses to try."""

    variant: Variant
    d: int
    losses: tuple[int, ...] = (SOFTMAX,)

    def __str__(self) -> str:
        v = self.variant
        return f"{NAMES[v.kind]}-{v.models}x{v.classes}-{EXCHANGES[v.exchange]}-{v.slices}"

    @property
    def stored(self) -> int:
        """Bytes of a feature."""
        return ITEM_SIZE[self.variant.kind]


def case(
    classes: int = 3,
    models: int = 1,
    exchange: int = ALONE,
    slices: int = 1,
    *,
    d: int,
    kind: int = FLOAT32,
    threads: int = 32,
    rows: int = 4,
    stages: int = 3,
    losses: tuple[int, ...] = (SOFTMAX,),
) -> Case:
    features = few_classes.thread_features(kind, classes * models)
    rows = 16 if few_classes.by_tensor_cores(kind) else rows
    return Case(Variant(kind, classes, models, features, threads, slices, exchange, rows, stages, leaf=16), d, losses)


ALL_LOSSES = (SOFTMAX, HINGE, SQUARED_HINGE)
CASES = [
    case(10, d=500, threads=64, rows=8, losses=ALL_LOSSES),
    case(10, 1, CLUSTER, 3, d=748, losses=ALL_LOSSES),
    case(10, 1, FLAGS, 2, d=748, threads=64, losses=ALL_LOSSES),
    case(2, d=256, stages=4, losses=(HINGE,)),
    case(16, 1, CLUSTER, 2, d=252),
    case(2, 8, d=128, losses=(SOFTMAX, SQUARED_HINGE)),
    case(5, 3, CLUSTER, 2, d=132, losses=(SOFTMAX, HINGE)),
    case(2, 5, FLAGS, 2, d=260, rows=8, losses=(SQUARED_HINGE,)),
    case(3, 2, CLUSTER, 2, d=300, threads=96, rows=2),
    case(10, 1, CLUSTER, 2, d=240, kind=UINT8, losses=ALL_LOSSES),
    case(10, 1, CLUSTER, 3, d=376, kind=FLOAT16, losses=(HINGE,)),
    case(10, 1, CLUSTER, 2, d=248, kind=BFLOAT16, losses=(SOFTMAX, SQUARED_HINGE)),
    case(7, 1, FLAGS, 2, d=400, kind=UINT8, threads=64, stages=4),
    case(8, 1, ALONE, 1, d=240, kind=BFLOAT16, threads=64),
    case(13, 1, ALONE, 1, d=112, kind=UINT8),
    case(7, 2, ALONE, 1, d=120, kind=FLOAT16),
]


def case_problem(case: Case, loss: int, n: int, *, weighted: bool = True, n_rows: int | None = None) -> Problem:
    dtype = {FLOAT16: "float16", UINT8: "uint8"}.get(case.variant.kind, "float32")
    c, K = case.variant.classes, case.variant.models
    problem = random_problem(
        n + loss, dtype=dtype, n=n, d=case.d, c=c, K=K, loss=list(LOSSES)[loss], weighted=weighted, n_rows=n_rows
    )
    if case.variant.kind == BFLOAT16:
        problem = replace(problem, X=problem.X.astype(ml_dtypes.bfloat16).astype(np.float32))
    return problem


@dataclass(frozen=True)
class Result:
    losses: Array
    correct: Array
    dW: Array
    db: Array
    bad_row: int
    read: int  # bytes of X

    @property
    def bits(self) -> bytes:
        return b"".join(x.tobytes() for x in (self.losses, self.correct, self.dW, self.db))


def emulated(variant: Variant, loss: int) -> emulation.Emulated:
    return emulation.build(source("few_classes.cu", variant.macros(loss)), sanitize=SANITIZED)


def address(array: Guarded | None) -> int:
    return 0 if array is None else array.address


def run(case: Case, problem: Problem, *, parts: list[tuple[int, int]] | None = None) -> Result:
    """The sums of a problem; with `parts`, those leaves (first, how many) are launched one after another."""
    variant, (n, d) = case.variant, problem.X.shape
    n = n if problem.rows is None else len(problem.rows)
    q, K, n_leaves = variant.scores, variant.models, -(-n // variant.leaf)
    X = problem.X.astype(DTYPES[variant.kind])
    stride = d + 16 // case.stored
    picked = slice(None) if problem.rows is None else problem.rows
    weights = None if problem.weights is None else problem.weights[picked]
    inputs = {
        "X": Guarded(X, stride=stride),
        "rows": None if problem.rows is None else Guarded(problem.rows),
        "W": Guarded(np.ascontiguousarray(problem.W.reshape(d, q).T).ravel()),
        "b": Guarded(problem.b.ravel()),
        "labels": Guarded(problem.labels[picked].astype(np.int32)),
        "weights": None if weights is None else Guarded(np.ascontiguousarray(weights).ravel()),
    }
    exchanged = n_leaves * 2 * variant.slices * variant.rows * q
    out = {
        "leaves": Guarded(np.full((n_leaves, d * q + variant.padded), np.nan, np.float32)),
        "leaf_totals": Guarded(np.full((n_leaves, 2 * K), np.nan)),
        "exchanged": Guarded(np.full(exchanged, np.nan, np.float32)),
        "flags": Guarded(np.zeros(1 + n_leaves * variant.slices, np.uint32)),
        "bad_row": Guarded(np.array([NO_BAD_ROW], np.uint64)),
        "sums": Guarded(np.full((d + 1, q), np.nan, np.float32)),
        "totals": Guarded(np.full((K, 2), np.nan)),
    }
    kernel, read = emulated(variant, problem.loss), []

    def launch(seed: int) -> None:
        at = {name: address(array) for name, array in inputs.items()}
        arguments = [
            at["X"], stride, at["rows"], at["W"], at["b"], at["labels"], at["weights"], n, d, out["leaves"].address,
            out["leaf_totals"].address, out["exchanged"].address, out["flags"].address, out["bad_row"].address,
        ]  # fmt: skip
        blocks = [None] if parts is None else [(a * variant.slices, m * variant.slices) for a, m in parts]
        total = 0
        for some in blocks:
            grid = (n_leaves * variant.slices,)
            kernel.launch("few_classes", grid, (variant.threads,), arguments, variant.shared, seed, blocks=some)
            total += kernel.copied_bytes
        read.append(total)
        # what a block of a leaf has in common with others depends on which number it took
        out["exchanged"].values[...] = 0
        out["flags"].values[...] = 0
        step = 1
        while step < n_leaves or step == 1:
            nodes = -(-n_leaves // step)
            last = nodes <= NODES
            to = [out["sums"].address, out["totals"].address] if last else [0, 0]
            kernel.launch(
                "add_leaves",
                (-(-((d + 1) * q + 2 * K) // 256), -(-nodes // NODES)),
                (256,),
                [out["leaves"].address, out["leaf_totals"].address, n_leaves, step, d, *to],
                seed=seed,
            )
            step *= NODES

    found = in_every_order(out, launch)
    for given in inputs.values():
        if given is not None:
            assert given.memory.tobytes() == given.before.tobytes(), "an input was written"
    assert len(set(read)) == 1
    totals, sums = found["totals"], found["sums"]
    return Result(
        totals[:, 0],
        totals[:, 1],
        sums[:-1].reshape(problem.W.shape),
        sums[-1].reshape(problem.b.shape),
        int(found["bad_row"][0, 0]),
        read[0],
    )


def assert_right(result: Result, problem: Problem) -> None:
    expected, allowed = answer(problem)
    for name in ("losses", "correct", "dW", "db"):
        assert_within(getattr(result, name), getattr(expected, name), getattr(allowed, name), name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_agree_with_the_reference_and_x_is_read_once(case: Case) -> None:
    for loss in case.losses:
        n = 2 * case.variant.leaf + 7
        problem = case_problem(case, loss, n, weighted=loss != HINGE)
        result = run(case, problem)
        assert_right(result, problem)
        assert result.bad_row == NO_BAD_ROW
        assert result.read == n * case.d * case.stored


BY_TENSOR_CORES = [case for case in CASES if few_classes.by_tensor_cores(case.variant.kind)]
EVERY_WAY = pytest.mark.parametrize("case", [*CASES[:3], *BY_TENSOR_CORES[:3]], ids=str)


@EVERY_WAY
def test_rows_by_number_may_repeat(case: Case) -> None:
    problem = case_problem(case, SOFTMAX, 20, n_rows=41)
    assert_right(run(case, problem), problem)


@EVERY_WAY
@pytest.mark.parametrize("n", [1, 4, 5, 16, 17], ids=lambda n: f"{n} rows")
def test_a_few_rows(case: Case, n: int) -> None:
    problem = case_problem(case, SOFTMAX, n)
    assert_right(run(case, problem), problem)


@pytest.mark.parametrize("case", BY_TENSOR_CORES[:3], ids=str)
def test_numbers_that_are_not_finite_leave_the_others_a_scale_of_their_own(case: Case) -> None:
    problem = case_problem(case, SQUARED_HINGE, 20)
    problem = replace(problem, X=np.abs(problem.X), labels=np.zeros(20, np.int32))
    expected = run(case, problem)
    W = problem.W.copy()
    W[3, 0, 1] = np.inf  # with 10 classes, the last one has the same lanes
    result = run(case, replace(problem, W=W))
    others = np.delete(np.arange(case.variant.classes), [0, 1])
    # the scale of W is another one
    np.testing.assert_allclose(
        result.dW[..., others], expected.dW[..., others], rtol=1e-4, atol=1e-4 * np.abs(expected.dW).max()
    )
    assert not np.isfinite(result.dW[..., [0, 1]]).any()


@pytest.mark.parametrize("case", BY_TENSOR_CORES[:3], ids=str)
def test_stages_and_the_way_of_exchange_do_not_change_the_bits_of_tensor_cores(case: Case) -> None:
    problem = case_problem(case, SOFTMAX, 70)
    variants = [replace(case.variant, exchange=how, stages=n) for how, n in ((CLUSTER, 3), (CLUSTER, 6), (FLAGS, 4))]
    assert len({run(replace(case, variant=variant), problem).bits for variant in variants}) == 1


@pytest.mark.parametrize("case", BY_TENSOR_CORES[:3], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6])
def test_weights_and_gradients_of_any_size_keep_their_digits(case: Case, size: float) -> None:
    problem = case_problem(case, SOFTMAX, 20)
    given = [np.float32(x) for x in (problem.W * min(size, 1), problem.weights * size)]
    problem = replace(problem, W=given[0], weights=given[1])
    result, (expected, _) = run(case, problem), answer(problem)
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(result.dW, expected.dW, rtol=0, atol=1e-5 * np.abs(expected.dW).max())


@pytest.mark.parametrize("case", BY_TENSOR_CORES, ids=str)
def test_every_digit_of_a_weight_counts(case: Case) -> None:
    """The loss and the gradient of one row with one feature are those of single numbers: hinges add weights up."""
    c, K, d = case.variant.classes, case.variant.models, case.d
    rng = np.random.default_rng(3)
    X, W = np.zeros((1, d), np.float32), np.zeros((d, K, c), np.float32)
    X[0, 17] = 1
    W[17, :, 1:] = rng.uniform(1000, 2000, (K, c - 1))
    weights = rng.random((1, K)).astype(np.float32)
    problem = Problem(X, np.zeros(1, np.int32), W, np.zeros((K, c), np.float32), weights, HINGE)
    result = run(case, problem)
    np.testing.assert_allclose(result.losses, weights[0] * (W[17].astype(np.float64) + 1)[:, 1:].sum(axis=1), rtol=5e-7)
    np.testing.assert_allclose(result.dW[17, :, 1:], np.repeat(weights.T, c - 1, axis=1), rtol=2.0**-22)


def test_tiles_groups_stages_and_the_way_of_exchange_do_not_change_the_bits() -> None:
    bits = set()
    base = CASES[1]
    problem = case_problem(base, SOFTMAX, 70)
    for exchange, rows, stages in ((CLUSTER, 2, 3), (CLUSTER, 4, 4), (CLUSTER, 8, 3), (FLAGS, 4, 3), (FLAGS, 8, 5)):
        variant = replace(base.variant, exchange=exchange, rows=rows, stages=stages)
        bits.add(run(replace(base, variant=variant), problem).bits)
    assert len(bits) == 1


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_leaves_may_be_computed_in_any_order_and_number_at_a_time(case: Case) -> None:
    problem = case_problem(case, SOFTMAX, 4 * case.variant.leaf + 3)
    together = run(case, problem)
    assert run(case, problem, parts=[(3, 2), (0, 1), (2, 1), (1, 1)]).bits == together.bits


@EVERY_WAY
def test_bad_labels_are_reported_and_their_rows_left_out(case: Case) -> None:
    problem = case_problem(case, SOFTMAX, 37)
    labels, weights = problem.labels.copy(), problem.weights.copy()
    labels[[20, 30]] = -1, case.variant.classes
    weights[[20, 30]] = 1
    result = run(case, replace(problem, labels=labels, weights=weights))
    assert result.bad_row == 20
    assert np.isnan(result.losses).all()
    weights[[20, 30]] = 0
    expected, allowed = answer(replace(problem, weights=weights))
    for name in ("correct", "dW", "db"):
        assert_within(getattr(result, name), getattr(expected, name), getattr(allowed, name), name)


@EVERY_WAY
@pytest.mark.parametrize("loss", ALL_LOSSES, ids=list(LOSSES))
def test_what_is_not_finite_shows_in_every_sum(case: Case, loss: int) -> None:
    problem = case_problem(case, loss, 20, weighted=False)
    for value in (np.nan, np.inf):
        X, W = problem.X.copy(), problem.W.copy()
        if case.variant.kind == UINT8:  # whose features are finite
            X[17, -1], W[-1, 0, 2] = 1, value
        else:
            X[17, -1] = value
        result = run(case, replace(problem, X=X, W=W))
        assert np.isnan(result.losses).all()
        assert np.isnan(result.dW).any()


@EVERY_WAY
def test_the_gradient_of_a_confident_row_keeps_its_digits(case: Case) -> None:
    variant, d = case.variant, case.d
    W, b = np.zeros((d, 1, variant.classes), np.float32), np.zeros((1, variant.classes), np.float32)
    b[0, 4], X = 30, np.ones((1, d), np.float32)
    problem = Problem(X, np.array([4], np.int32), W, b, None, SOFTMAX)
    result, others = run(case, problem), (variant.classes - 1) * np.exp(-30.0)
    np.testing.assert_allclose(result.losses, others, rtol=1e-6)
    np.testing.assert_allclose(result.dW[:, 0, 4], -others, rtol=1e-6)
    np.testing.assert_allclose(result.db[0, 0], np.exp(-30.0), rtol=1e-6)
    assert result.correct == 1


@EVERY_WAY
def test_of_equal_scores_the_first_is_the_best(case: Case) -> None:
    variant, d = case.variant, case.d
    W, b = np.zeros((d, 1, variant.classes), np.float32), np.zeros((1, variant.classes), np.float32)
    b[0, [2, 5]] = 1
    labels = np.array([2, 5, 0, 2], np.int32)
    result = run(case, Problem(np.ones((4, d), np.float32), labels, W, b, None, SOFTMAX))
    assert result.correct == 2


@pytest.mark.parametrize("n_leaves", [1, 2, 3, 15, 16, 17, 40, 300])
def test_leaves_are_added_along_the_tree(n_leaves: int, rng: np.random.Generator) -> None:
    d, variant = 4, case(3, 2, d=4).variant
    q, K = variant.scores, variant.models
    leaves = rng.standard_normal((n_leaves, d * q + variant.padded)).astype(np.float32)
    totals = rng.standard_normal((n_leaves, 2 * K))
    tree = TreeSum()
    for i in range(n_leaves):
        tree.add(0, i, (leaves[i].copy(), totals[i].copy()))
    expected, expected_totals = tree.total(n_leaves)
    out = {
        "leaves": Guarded(leaves), "totals": Guarded(totals), "sums": Guarded(np.zeros((d + 1, q), np.float32)),
        "sum of totals": Guarded(np.zeros(2 * K)),
    }  # fmt: skip
    kernel = emulated(variant, SOFTMAX)

    def launch(seed: int) -> None:
        for step in (1, NODES, NODES**2):
            groups = -(-n_leaves // (step * NODES))
            to = [out["sums"].address, out["sum of totals"].address] if groups == 1 else [0, 0]
            arguments = [out["leaves"].address, out["totals"].address, n_leaves, step, d, *to]
            kernel.launch("add_leaves", (1, groups), (256,), arguments, seed=seed)
            if groups == 1:
                break

    found = in_every_order(out, launch)
    assert np.array_equal(found["sums"][:d], expected[: d * q].reshape(q, d).T)
    assert np.array_equal(found["sums"][d], expected[d * q : d * q + q])
    assert np.array_equal(found["sum of totals"][0], expected_totals)


@pytest.mark.parametrize("row", [2**31 // 256 + 1, 2**32 // 256 + 1, 2**31 + 5])
def test_rows_beyond_32_bits(row: int, rng: np.random.Generator) -> None:
    one = case(3, d=256, kind=UINT8, threads=64)
    problem = case_problem(one, SOFTMAX, 1)
    near = run(one, problem)
    far = Sparse(row * 256, problem.X)
    W, rows = np.ascontiguousarray(problem.W.reshape(256, 3).T), np.array([row])
    leaf, totals, bad_row = np.zeros(256 * 3 + 4, np.float32), np.zeros(2), np.array([NO_BAD_ROW], np.uint64)
    arrays = [W, problem.b, problem.labels, problem.weights]
    emulated(one.variant, SOFTMAX).launch(
        "few_classes",
        (1,),
        (64,),
        [
            far.start, 256, rows.ctypes.data, *(a.ctypes.data for a in arrays), 1, 256, leaf.ctypes.data,
            totals.ctypes.data, 0, 0, bad_row.ctypes.data,
        ],
        one.variant.shared,
    )  # fmt: skip
    assert np.array_equal(leaf[: 256 * 3].reshape(3, 256).T, near.dW[:, 0])


@pytest.mark.skipif(SANITIZED, reason="this is that process")
def test_nothing_is_found_by_the_sanitizers_in_some_of_that() -> None:
    chosen = "x_is_read_once and (float32-1x10 or uint8-1x10)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, __file__],
        env={**emulation.sanitizer_environment(), "GPUSOFTMAX_SANITIZED": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert " passed" in done.stdout


# ---- which variant


@pytest.mark.parametrize("capability", [80, 86, 87, 89, 90, 100, 103, 120])
@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
def test_every_variant_holds_its_features_and_fits_into_shared_memory(kind: int, capability: int) -> None:
    memory = few_classes.multiprocessor_memory(capability)
    counts = [(K, c) for K in range(1, 9) for c in range(2, MOST_SCORES + 1) if K * c <= MOST_SCORES]
    for d in (128, 256, 784, 1024, 1032, 3072, 4096, 8192):
        for K, c in counts:
            if d * ITEM_SIZE[kind] % 16 or few_classes.slices(kind, d, K * c) > MOST_SLICES:
                continue
            variant = choose(kind, d, K, c, capability)
            assert d <= variant.slices * variant.threads * variant.features < d + 32 * variant.features * variant.slices
            assert variant.threads <= few_classes.MOST_THREADS
            assert variant.slices <= 8  # of a cluster
            assert (variant.exchange == ALONE) == (variant.slices == 1)
            if variant.slices > 1:
                assert (variant.exchange == CLUSTER) == (capability >= 90)
            assert variant.rows % variant.group == 0
            assert variant.leaf % variant.rows == 0
            # one block, or as many as registers allow; with tiles of 16 rows, where there is much memory
            all_fit = K == 1 and (kind == FLOAT32 or 90 <= capability < 120)
            assert (variant.blocks if all_fit else 1) * (variant.shared + few_classes.RESERVED) <= memory


def test_bits_do_not_depend_on_what_is_chosen_by_the_device() -> None:
    for d, c in ((3072, 10), (784, 10), (512, 2), (4096, 16)):
        found = {
            (v.features, v.threads, v.slices, v.leaf)
            for capability in (80, 89, 90, 120)
            for v in [choose(FLOAT32, d, 1, c, capability)]
        }
        assert len(found) == 1


@pytest.mark.usefixtures("gpu")
def test_shapes_and_types_that_it_suits() -> None:
    assert suits(np.float32, 3072, 1, 10, "highest")
    assert suits(np.uint8, 784, 8, 2, "highest")
    assert suits(np.float16, 4096, 1, 16, "highest")
    for dtype, d, K, c, precision in [
        (np.float64, 3072, 1, 10, "highest"),
        (np.float32, 3072, 1, 10, "high"),
        (np.float32, 3072, 1, 17, "highest"),
        (np.float32, 3072, 3, 6, "highest"),
        (np.float32, 64, 1, 10, "highest"),
        (np.float32, 3070, 1, 10, "highest"),
        (np.uint8, 3080, 1, 10, "highest"),
        (np.float16, 3076, 1, 10, "highest"),
        (np.float32, 8196, 1, 10, "highest"),
        (np.float32, 4100, 1, 16, "highest"),
        (np.float16, 4104, 1, 10, "highest"),
        (np.float32, 3072, 1, 1, "highest"),
    ]:
        assert not suits(dtype, d, K, c, precision)


# ---- the host code

CHUNK, LEAF, D = 256, 512, 260


@pytest.fixture
def small_chunks(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 256 rows, leaves of 512 in the tree of passes, and launches of 512 rows."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", CHUNK)
    monkeypatch.setattr(chunks, "LEAF_ROWS", LEAF)
    monkeypatch.setattr(few_classes, "LEAF_BYTES", 4 * few_classes._leaf_bytes(D, 9, 3))


def gradient(problem: Problem, X: Any = None, precision: str = "highest") -> Any:
    backend = get_backend("cuda", precision=precision)
    asarray = backend.xp.asarray
    given = [x if x is None or isinstance(x, int) else asarray(x) for x in (*problem.arguments, problem.rows)]
    return backend.ops.linear_gradient(given[0] if X is None else X, *given[1:])


def host_problem(n: int, dtype: str = "float32", **options: Any) -> Problem:
    return random_problem(
        n, dtype=dtype, n=n, d=D if dtype == "float32" else D - D % 16, c=3, K=3, **{"weighted": True, **options}
    )


def bits(results: Any) -> str:
    return sha256(*(x.get() for x in results))


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)], ids=["80", "89", "90", "120"])
@pytest.mark.parametrize(("dtype", "d"), [("float32", 260), ("float32", 3072), ("uint8", 1040), ("float16", 1200)])
def test_the_host_code_equals_the_reference(dtype: str, d: int, capability: tuple[int, int], machine: Any) -> None:
    machine.capability = capability
    rng = np.random.default_rng(d)
    X = (8 * rng.random((300, d))).astype(dtype)
    given = {
        "X": X, "y": rng.integers(0, 4, 300), "W": rng.standard_normal((d, 2, 4)) / d, "b": rng.standard_normal((2, 4)),
    }  # fmt: skip
    options: dict[str, Any] = {"l2": 0.3, "shift": 4.0, "scale": 2.0}
    weights = rng.random((300, 2))
    found = loss_and_gradient(**given, **options, sample_weight=weights, backend="cuda")
    expected = reference.loss_and_gradient(**given, **options, weights=weights)
    assert "few_classes" in machine.launches
    assert "gemm" not in machine.launches
    for f, e in zip(found, expected, strict=True):
        assert np.abs(np.asarray(f) - e).max() < 2e-5 * np.abs(e).max()


def test_devices_without_such_copies_use_products(machine: Any) -> None:
    machine.capability = (7, 5)
    problem = host_problem(50)
    found, (expected, allowed) = gradient(problem), answer(problem)
    assert "few_classes" not in machine.launches
    assert_within(found[2].get(), expected.dW, allowed.dW)


def test_lower_precisions_use_products(machine: Any) -> None:
    gradient(host_problem(50), precision="high")
    assert "few_classes" not in machine.launches


SIZES = [100, CHUNK, 2 * LEAF, 3 * LEAF + 2 * CHUNK + 17]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n", SIZES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_sums_over_launches_and_leaves_are_right(loss: str, n: int, machine: Any) -> None:
    problem = host_problem(n, loss=loss)
    found, (expected, allowed) = gradient(problem), answer(problem)
    assert machine.launches.count("few_classes") == -(-n // 512)
    for name, x in zip(("losses", "correct", "dW", "db"), found, strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)


@pytest.mark.parametrize("n", [16 * 128, 19 * 128 + 5])
def test_a_launch_may_have_more_leaves_than_are_added_at_a_time(n: int, machine: Any) -> None:
    problem = random_problem(0, n=n, d=128, c=2, weighted=True)
    found, (expected, allowed) = gradient(problem), answer(problem)
    assert machine.launches.count("few_classes") == 1
    for name, x in zip(("losses", "correct", "dW", "db"), found, strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["float32", "uint8", "float16"])
@pytest.mark.parametrize("n", SIZES, ids=str)
def test_the_bits_are_the_same_wherever_the_rows_are(n: int, dtype: str, machine: Any) -> None:
    problem = host_problem(n, dtype)
    xp, width = get_backend("cuda").xp, problem.X.shape[1]
    wide = np.zeros((2 * n, width + 16 // problem.X.itemsize), dtype)
    wide[::2, :width] = problem.X
    odd = xp.empty(problem.X.size + 1, dtype=problem.X.dtype)
    odd[1:] = xp.asarray(problem.X).reshape(-1)
    places = {
        "one block": InBlocks(problem.X, 1000),
        "many blocks": InBlocks(problem.X, 1),
        "every other row": xp.asarray(wide)[::2, :width],
        "every other column": xp.asarray(np.repeat(problem.X, 2, axis=1))[:, ::2],
        "an odd address": odd[1:].reshape(n, width),
        "columns first": xp.array(np.asfortranarray(problem.X), order="K"),
    }
    expected = bits(gradient(problem))
    for name, X in places.items():
        machine.launches.clear()
        assert bits(gradient(problem, X)) == expected, name
        assert "few_classes" in machine.launches


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_rows_by_number_have_the_bits_of_their_copy(dtype: str) -> None:
    problem = host_problem(200, dtype, n_rows=700)
    rows = problem.rows
    copy = replace(problem, X=problem.X[rows], labels=problem.labels[rows], weights=problem.weights[rows], rows=None)
    xp = get_backend("cuda").xp
    assert bits(gradient(problem)) == bits(gradient(copy))
    columns_first = xp.array(np.asfortranarray(problem.X), order="K")
    assert bits(gradient(problem, columns_first)) == bits(gradient(copy))


@pytest.mark.usefixtures("small_chunks")
def test_parts_of_the_rows_add_up_to_the_same_bits() -> None:
    n = SIZES[-1]
    problem, backend = host_problem(n), get_backend("cuda")
    X, labels, W, b, s, loss = (backend.asarray(x) if isinstance(x, np.ndarray) else x for x in problem.arguments)
    sums, step, tree = GradientSums(W, b, loss, True, "highest"), 2 * gradient_leaf(W), TreeSum()
    for first in range(0, n, step):
        own = slice(first, first + step)
        some: Any = X[own] if first else InBlocks(problem.X[own])
        for place, node in sums.over(some, labels[own], s[own], first_row=first).parts().items():
            tree.add(*place, node)
    losses, correct, dW, db = tree.total(-(-n // gradient_leaf(W)))
    found = losses, correct, dW.reshape(W.shape), db.reshape(b.shape)
    assert bits(found) == bits(gradient(problem))


@pytest.mark.usefixtures("small_chunks")
def test_orders_of_threads_do_not_change_the_bits(machine: Any) -> None:
    problem, found = host_problem(300), set()
    for seed in range(3):
        machine.seed = seed
        found.add(bits(gradient(problem)))
    assert len(found) == 1


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["flags", "cluster"])
@pytest.mark.parametrize("n", [500, 3000])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_pass_takes_no_more_memory_than_it_says(dtype: str, n: int, capability: Any, machine: Any) -> None:
    machine.capability = capability
    d, K, c, backend = 1040, 1, 10, get_backend("cuda")
    X = backend.asarray(np.ones((n, d), dtype))
    W, b = backend.xp.zeros((d, K, c), dtype=np.float32), backend.xp.zeros((K, c), dtype=np.float32)
    labels = backend.xp.zeros(n, dtype=np.int32)
    before = sum(one.size for one in machine.alive)
    machine.peak = 0
    backend.ops.linear_gradient(X, labels, W, b, None, SOFTMAX)
    assert (
        machine.peak - before
        <= few_classes.pass_bytes(dtype, n, d, K, c)
        <= backend.ops.pass_bytes(X.dtype, n, d, K, c)
    )
    assert machine.peak - before > 0.5 * few_classes.pass_bytes(dtype, n, d, K, c)


def test_memory_that_runs_short_is_an_error_that_says_so(machine: Any) -> None:
    problem = host_problem(300)
    get = get_backend("cuda").xp.asarray
    given = [x if x is None or isinstance(x, int) else get(x) for x in problem.arguments]
    machine.limit = sum(one.size for one in machine.alive) + 1000
    with pytest.raises(MemoryError, match=r"beside X and the weights, a pass over 300 rows .* missing"):
        get_backend("cuda").ops.linear_gradient(*given)


def test_the_standin_refuses_more_shared_memory_than_was_asked_for_or_there_is(machine: Any) -> None:
    kernel, n = standin.RawKernel('extern "C" __global__ void k(int n) {}', "k"), np.int32(1)
    with pytest.raises(standin.CUDARuntimeError):
        kernel((1,), (32,), (n,), shared_mem=(48 << 10) + 1)
    kernel.max_dynamic_shared_size_bytes = 64 << 10
    kernel((1,), (32,), (n,), shared_mem=64 << 10)
    machine.capability = (8, 9)
    with pytest.raises(standin.CUDARuntimeError):
        kernel.max_dynamic_shared_size_bytes = 100 << 10


def test_many_models_of_halves_fit_where_a_block_has_least_shared_memory(machine: Any) -> None:
    machine.capability = (8, 9)
    problem = random_problem(0, dtype="float16", n=40, d=3072, c=2, K=8, weighted=True)
    found, (expected, allowed) = gradient(problem), answer(problem)
    assert "few_classes" in machine.launches
    for name, x in zip(("losses", "correct", "dW", "db"), found, strict=True):
        assert_within(x.get(), getattr(expected, name), getattr(allowed, name), name)
