"""The CUDA kernels' own text, run on the CPU in six orders of threads, against the reference.

Every launch is repeated in each order, and its results must have the same bits in all of them. Bounds on the error are
worked out per number by cases.row_answer, from the type of computation; storing a narrow result adds half a unit of its
last place, and the smallest subnormal.

With GPUSOFTMAX_SANITIZED set, a part of the same cases under AddressSanitizer and UndefinedBehaviorSanitizer: the last
test starts that in a process of its own.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpusoftmax.cuda.buckets import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, UINT8, Bucket, buckets, choose
from gpusoftmax.cuda.compile import source
from gpusoftmax.losses import LOSSES
from tests.support.cases import assert_within, row_answer
from tests.support.emulation import build as emulation

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.missing() is not None, reason=str(emulation.missing())),
]

Array = np.ndarray[Any, Any]

SANITIZED = bool(os.environ.get("GPUSOFTMAX_SANITIZED"))
SEEDS = range(2) if SANITIZED else range(6)
GRADIENT, LOSSES_ONLY, PROBABILITIES = range(3)
SOFTMAX, HINGE, SQUARED_HINGE = range(3)
NO_BAD_ROW = 2**64 - 1
GUARD = 0xA5  # bytes that no kernel may touch

STORED = {
    FLOAT32: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    FLOAT64: np.dtype(np.float64),
    UINT8: np.dtype(np.uint8),
}
NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT64: "float64", UINT8: "uint8"}
SCORE_KINDS = (FLOAT32, FLOAT16, BFLOAT16, FLOAT64)


def computed(kind: int) -> np.dtype[Any]:
    return np.dtype(np.float64 if kind == FLOAT64 else np.float32)


# ---- what is built


def row_loss_text(kind: int, bucket: Bucket, loss: int = SOFTMAX, mode: int = GRADIENT, best: bool = True) -> str:
    return source("row_loss.cu", {"SCORE": kind, "LOSS": loss, "MODE": mode, "BEST": int(best), **bucket.macros()})


def gather_text(kind: int, target: int, width: int) -> str:
    return source("gather.cu", {"SOURCE": kind, "TARGET": target, "WIDTH": width})


@dataclass(frozen=True)
class Case:
    """What a test is parametrised with: rows of c scores of a kind, with a layout, in one or more variants."""

    kind: int
    c: int
    losses: tuple[int, ...] = (SOFTMAX,)
    mode: int = GRADIENT
    best: bool = True
    aligned: bool = False
    n: int = 0  # rows; 0: more than a block takes, and not a multiple of that

    @property
    def stride(self) -> int:
        width = 16 // STORED[self.kind].itemsize
        return (self.c + width - 1) // width * width + (width if self.aligned else 1 + self.c % 2)

    @property
    def skip(self) -> int:
        """Elements between a 16-byte boundary and the first row."""
        return 0 if self.aligned else 1

    @property
    def bucket(self) -> Bucket:
        return choose(self.kind, self.c, self.stride, self.skip * STORED[self.kind].itemsize)

    @property
    def rows(self) -> int:
        return self.n or self.bucket.rows + 3

    def texts(self) -> list[str]:
        return [row_loss_text(self.kind, self.bucket, loss, self.mode, self.best) for loss in self.losses]

    def __str__(self) -> str:
        mode = ("gradient", "losses", "probabilities")[self.mode]
        return f"{NAMES[self.kind]}-{self.c}-{mode}-{'aligned' if self.aligned else 'unaligned'}"


# one number of classes for each way to hold a row
LADDER = {"lanes": 10, "warp": 300, "block": 3000, "online": 20000}
LADDER_CASES = pytest.mark.parametrize("case", [Case(FLOAT32, c, (0, 1, 2)) for c in LADDER.values()], ids=LADDER)
LOSS_CASES = pytest.mark.parametrize("loss", range(3), ids=LOSSES)


@dataclass(frozen=True)
class Pair:
    """A conversion by gather."""

    source: int
    target: int

    def texts(self) -> list[str]:
        return [gather_text(self.source, self.target, width) for width in (1, 4)]

    def __str__(self) -> str:
        return f"{NAMES[self.source]}-{NAMES[self.target]}"


_ahead: dict[str, Future[emulation.Emulated]] = {}


@pytest.fixture(scope="module", autouse=True)
def _build_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the selected tests need is built on all cores, in their order, while the first of them run."""
    chosen = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    values = [value for item in chosen if hasattr(item, "callspec") for value in item.callspec.params.values()]
    texts = dict.fromkeys(text for value in values if isinstance(value, Case | Pair) for text in value.texts())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        _ahead.update((text, pool.submit(emulation.build, text, sanitize=SANITIZED)) for text in texts)
        yield
        pool.shutdown(cancel_futures=True)
    _ahead.clear()


def emulated(text: str) -> emulation.Emulated:
    return _ahead[text].result() if text in _ahead else emulation.build(text, sanitize=SANITIZED)


# ---- memory with guards


class Guarded:
    """An array `skip` elements past a 64-byte boundary; memory around it, and between its rows, must stay as it is."""

    def __init__(self, values: Array, *, stride: int | None = None, skip: int = 0) -> None:
        rows, c = values.shape if values.ndim == 2 else (1, values.size)
        size, stride = values.itemsize, stride or c
        n_bytes = ((rows - 1) * stride + c) * size  # up to the last element: what lies beyond is not ours
        # under AddressSanitizer the end of the allocation is the best guard there is
        memory = np.full(64 + skip * size + n_bytes + (0 if SANITIZED else 64), GUARD, np.uint8)
        at = -memory.ctypes.data % 64 + skip * size
        self.values = np.lib.stride_tricks.as_strided(
            memory[at:].view(np.uint8)[: size * c].view(values.dtype), (rows, c), (stride * size, size)
        )
        self.values[...] = values.reshape(rows, c)
        self.address = memory.ctypes.data + at
        self.memory = memory
        self.before = memory.copy()
        covered = np.zeros(len(memory), bool)
        for row in range(rows):
            covered[at + row * stride * size :][: c * size] = True
        self.outside = ~covered

    def read(self) -> Array:
        """The values now, contiguous; raises if anything else was written."""
        assert np.array_equal(self.memory[self.outside], self.before[self.outside]), "written outside the array"
        return self.values.copy()

    def reset(self) -> None:
        self.memory[:] = self.before


def in_every_order(arrays: dict[str, Guarded], launch: Callable[[int], None]) -> dict[str, Array]:
    """Arrays after a launch, which must have the same bits for every seed."""
    first: dict[str, Array] = {}
    for seed in SEEDS:
        for array in arrays.values():
            array.reset()
        launch(seed)
        now = {name: array.read() for name, array in arrays.items()}
        first = first or now
        for name, values in now.items():
            assert values.tobytes() == first[name].tobytes(), f"{name}: other bits with seed {seed}"
    return first


# ---- row_loss.cu


@dataclass(frozen=True)
class RowResult:
    scores: Array  # (rows, c)
    losses: Array  # (rows,)
    best: Array
    bad_row: int


def run_row_loss(
    case: Case,
    Z: Array,
    labels: Array | None,
    loss: int = SOFTMAX,
    *,
    weights: Array | None = None,
    bias: Array | None = None,
    K: int = 1,
    bad_row: int = NO_BAD_ROW,
) -> RowResult:
    """Z (rows, c) through the kernel, laid out as the case says."""
    rows, c = Z.shape
    real, bucket = computed(case.kind), case.bucket
    inputs = [
        None if a is None else Guarded(np.ascontiguousarray(a, dtype).ravel())
        for a, dtype in ((bias, real), (labels, np.int32), (weights, real))
    ]
    out = {
        "scores": Guarded(Z.astype(STORED[case.kind]), stride=case.stride, skip=case.skip),
        "losses": Guarded(np.full(rows, 7, real)),
        "best": Guarded(np.full(rows, -7, np.int32)),
        "bad_row": Guarded(np.array([bad_row], np.uint64)),
    }
    kernel = emulated(row_loss_text(case.kind, bucket, loss, case.mode, case.best))
    bias_at, labels_at, weights_at = (0 if a is None else a.address for a in inputs)

    def launch(seed: int) -> None:
        kernel.launch(
            "row_loss",
            (-(-rows // bucket.rows),),
            (bucket.threads,),
            [
                out["scores"].address, case.stride, bias_at, labels_at, weights_at, rows, c, K, out["losses"].address,
                out["best"].address, out["bad_row"].address,
            ],
            seed=seed,
        )  # fmt: skip

    result = in_every_order(out, launch)
    for given in inputs:
        if given is not None:
            assert given.memory.tobytes() == given.before.tobytes(), "an input was written"
    return RowResult(result["scores"], result["losses"][0], result["best"][0], int(result["bad_row"][0, 0]))


def check_row_loss(
    case: Case,
    Z: Array,
    labels: Array,
    loss: int,
    *,
    weights: Array | None = None,
    bias: Array | None = None,
    K: int = 1,
) -> None:
    """Losses, gradients and best columns of Z (rows, c) against the reference; labels (rows / K,)."""
    rows, c = Z.shape
    real = computed(case.kind)
    eps, tiny = np.finfo(real).eps, np.finfo(real).tiny
    seen = Z.astype(STORED[case.kind]).astype(real)
    off = np.zeros((rows // K, K, c))
    if bias is not None:
        seen = (seen.reshape(-1, K, c) + bias.astype(real)).reshape(rows, c)  # rounded as the kernel does
    result = run_row_loss(case, Z, labels, loss, weights=weights, bias=bias, K=K)
    losses, G, losses_off, G_off = row_answer(
        seen.astype(np.float64).reshape(-1, K, c), off, labels, loss, float(eps), float(tiny)
    )
    assert result.bad_row == NO_BAD_ROW
    assert_within(result.losses, losses.ravel(), losses_off.ravel(), "loss")
    if case.best:
        assert np.array_equal(result.best, seen.argmax(axis=1))
    else:
        assert np.all(result.best == -7)
    if case.mode == LOSSES_ONLY:
        assert result.scores.tobytes() == Z.astype(STORED[case.kind]).tobytes()
        return
    s = np.ones(rows) if weights is None else weights.astype(np.float64)
    G, G_off = (a.reshape(rows, c) * s[:, None] for a in (G, G_off))
    assert_within(result.scores, G, stored_bound(case.kind, G, G_off), "gradient")


def stored_bound(kind: int, exact: Array, off: Array) -> Array:
    """How far a stored number may be from the exact one, if it may be `off` before it is stored."""
    if STORED[kind] == computed(kind):
        return off
    info = ml_dtypes.finfo(STORED[kind])
    return off + (np.abs(exact) + off) * float(info.eps) / 2 + float(info.smallest_subnormal)


def boundaries(kind: int) -> list[int]:
    """Numbers of classes on either side of every step of the ladder."""
    limits = [bucket.most for bucket in buckets(kind)]
    near = {limit + step for limit in limits if limit for step in (-1, 0, 1)}
    return sorted(near | {2, 3, 4, 5, 8, 9, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 20000} - {1})


def boundary_cases() -> list[Case]:
    cases = []
    for kind in SCORE_KINDS:
        table = buckets(kind)
        for c in boundaries(kind):
            for aligned in (False, True):
                case = Case(kind, c, aligned=aligned)
                step = table.index(case.bucket)
                # float32 has every loss at every step; the others' own code is in conversions and widths
                losses = (
                    (0, 1, 2) if kind == FLOAT32 else (0, 1 + step % 2) if kind == FLOAT64 else ((step + kind) % 3,)
                )
                cases.append(Case(kind, c, losses, aligned=aligned))
                if kind == FLOAT32:
                    cases.append(Case(kind, c, (step % 3,), LOSSES_ONLY, aligned=aligned))
    cases += [Case(kind, 200_000, n=2) for kind in (FLOAT32, FLOAT16)]
    if SANITIZED:
        kept = {2: True, 9: False, 33: True, 513: False, 1025: False, 20000: False}  # number of classes: aligned
        cases = [
            case
            for case in cases
            if kept.get(case.c) == case.aligned and case.mode == GRADIENT
            if case.kind == FLOAT32 or (case.kind == BFLOAT16 and case.c in (33, 513, 20000))
        ]
        cases = [Case(case.kind, case.c, case.losses[:1], aligned=case.aligned) for case in cases]
    return cases


@pytest.mark.parametrize("case", boundary_cases(), ids=str)
def test_every_step_of_the_ladder_agrees_with_the_reference(case: Case, rng: np.random.Generator) -> None:
    for loss in case.losses:
        Z = 3 * rng.standard_normal((case.rows, case.c))
        labels = rng.integers(0, case.c, case.rows)
        weights = rng.random(case.rows) * (rng.random(case.rows) < 0.8) if loss % 2 == 0 else None
        real = computed(case.kind)
        check_row_loss(case, Z, labels, loss, weights=None if weights is None else weights.astype(real))


@pytest.mark.parametrize(
    "case",
    [
        Case(kind, c, mode=PROBABILITIES, best=False, aligned=bool(c % 2))
        for kind in ((FLOAT32,) if SANITIZED else (FLOAT32, FLOAT16, FLOAT64))
        for c in ((10, 300) if SANITIZED else (2, 7, 10, 20, 100, 300, 1001, 3000, 20000))
    ],
    ids=str,
)
def test_probabilities_need_no_labels(case: Case, rng: np.random.Generator) -> None:
    Z = 3 * rng.standard_normal((case.rows, case.c))
    result = run_row_loss(case, Z, None)
    exact = Z.astype(STORED[case.kind]).astype(np.float64)
    p = np.exp(exact - exact.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    eps = float(np.finfo(computed(case.kind)).eps)
    far = np.ptp(exact, axis=1, keepdims=True)  # exp's argument is rounded
    assert_within(result.scores, p, stored_bound(case.kind, p, p * eps * (far + 8 + 4 * np.sqrt(case.c))))
    assert result.bad_row == NO_BAD_ROW
    assert np.all(result.best == -7)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@LADDER_CASES
def test_rows_of_several_models_share_labels_and_have_their_own_bias(
    case: Case, biased: bool, weighted: bool, rng: np.random.Generator
) -> None:
    rows, K, c = 21, 3, case.c
    Z = rng.standard_normal((rows, c))
    labels = rng.integers(0, c, rows // K)
    bias = rng.standard_normal((K, c)).astype(np.float32) if biased else None
    weights = rng.random(rows).astype(np.float32) if weighted else None
    check_row_loss(case, Z, labels, SOFTMAX, weights=weights, bias=bias, K=K)


@LOSS_CASES
@LADDER_CASES
def test_extreme_but_legal_scores(case: Case, loss: int, rng: np.random.Generator) -> None:
    c = case.c
    Z = rng.standard_normal((9, c))
    labels = rng.integers(1, c, 9)
    Z[0] *= 1e4
    Z[1] -= 1e4
    Z[2] = 0.0
    Z[3, : c // 2] = -np.inf
    labels[3] = c - 1
    Z[4] = -np.inf  # all but the target
    Z[4, labels[4]] = 3.0
    Z[5, labels[5]] = -1e4
    Z[6, labels[6]] = 1e4
    Z[7] = np.linspace(-1e4, 1e4, c)  # the largest last
    Z[8] = np.linspace(1e4, -1e4, c)  # and first
    check_row_loss(case, Z, labels, loss)


@LOSS_CASES
@LADDER_CASES
def test_a_score_that_is_not_finite_shows_in_its_row_and_in_no_other(
    case: Case, loss: int, rng: np.random.Generator
) -> None:
    rows, c = 16, case.c
    Z = rng.standard_normal((rows, c))
    labels = rng.integers(1, c - 1, rows)
    Z[1, 0] = np.nan
    Z[3, c - 1] = np.nan
    Z[5, labels[5]] = np.nan
    Z[7, 0] = np.inf
    Z[9, labels[9]] = -np.inf
    Z[11] = -np.inf
    Z[13] = np.nan
    wrong = [1, 3, 5, 7, 9, 11, 13]
    if loss == SOFTMAX:
        Z[15, labels[15]] = np.inf  # to a hinge a target at +inf is as good as can be
        wrong.append(15)
    result = run_row_loss(case, Z, labels, loss)
    assert not np.any(np.isfinite(result.losses[wrong]))
    right = [row for row in range(rows) if row not in wrong]
    losses, G, losses_off, G_off = row_answer(
        Z[right].astype(np.float32).astype(np.float64)[:, None], np.zeros((len(right), 1, c)), labels[right], loss,
        float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny),
    )  # fmt: skip
    assert_within(result.losses[right], losses[:, 0], losses_off[:, 0], "loss")
    assert_within(result.scores[right], G[:, 0], G_off[:, 0], "gradient")


@LADDER_CASES
def test_the_gradient_of_a_confident_row_keeps_its_digits(case: Case, rng: np.random.Generator) -> None:
    # differences of multiples of 1/8 are exact, so that what is left is exp's rounding, and the sum's
    Z = rng.integers(-16, 17, (8, case.c)) / 8.0
    labels = rng.integers(0, case.c, 8)
    ahead = np.array([17.0, 40.0] * 4)
    Z[np.arange(8), labels] = Z.max(axis=1) + ahead
    result = run_row_loss(case, Z, labels)
    losses, G, _, _ = row_answer(Z[:, None], np.zeros((8, 1, case.c)), labels, SOFTMAX, 0.0, 0.0)
    assert_within(result.scores, G[:, 0], 1e-6 * np.abs(G[:, 0]), "gradient")
    assert_within(result.losses, losses[:, 0], 1e-6 * losses[:, 0], "loss")


@LADDER_CASES
def test_the_first_of_equal_scores_is_the_best(case: Case, rng: np.random.Generator) -> None:
    c = case.c
    Z = rng.integers(-1, 2, (40, c)).astype(np.float64)
    Z[0], Z[1], Z[2] = 0.0, -0.0, -np.inf
    Z[3] = -1.0
    Z[3, [c - 2, c - 1]] = 5.0
    Z[2, 0] = Z[2, 1] = 1.0
    result = run_row_loss(case, Z, np.zeros(40))
    assert np.array_equal(result.best, Z.argmax(axis=1))


@LADDER_CASES
def test_a_bad_label_is_reported_and_its_row_left_alone(case: Case, rng: np.random.Generator) -> None:
    c = case.c
    Z = rng.standard_normal((12, c)).astype(np.float32)
    labels = rng.integers(0, c, 12)
    labels[[3, 5, 8, 11]] = -1, c, 2**31 - 1, -(2**31)
    bad = np.isin(np.arange(12), [3, 5, 8, 11])
    result = run_row_loss(case, Z, labels)
    assert result.bad_row == 3
    assert result.scores[bad].tobytes() == Z[bad].tobytes()
    assert np.array_equal(np.isnan(result.losses), bad)
    good = run_row_loss(case, Z, np.where(bad, 0, labels))
    assert result.scores[~bad].tobytes() == good.scores[~bad].tobytes()
    assert run_row_loss(case, Z, labels, bad_row=1).bad_row == 1  # what an earlier chunk found


@pytest.mark.parametrize("kind", SCORE_KINDS, ids=NAMES.get)
def test_the_chosen_variant_holds_every_row_wherever_it_starts(kind: int) -> None:
    size = STORED[kind].itemsize
    width = 16 // size
    for c in boundaries(kind):
        for stride in range(c, c + width):
            for skip in range(width):
                bucket = choose(kind, c, stride, skip * size)
                before = max((skip + row * stride) % bucket.width for row in range(width))
                assert bucket.most == 0 or before + c <= bucket.most, (c, stride, skip, bucket)


# ---- reduce.cu


def run_reduce(
    losses: Array, best: Array | None, labels: Array | None, weights: Array | None, totals: Array, kind: int
) -> Array:
    """totals (K, 2) after adding rows (n, K), as cuda/ops.py calls it."""
    n, K = losses.shape
    blocks = -(-n // 4096)
    kernel = emulated(source("reduce.cu", {"SCORE": kind}))
    given = [None if a is None else Guarded(np.ascontiguousarray(a).ravel()) for a in (losses, best, labels, weights)]
    out = {"partials": Guarded(np.full(blocks * K * 2, np.nan)), "totals": Guarded(totals.ravel())}

    def launch(seed: int) -> None:
        addresses = [0 if a is None else a.address for a in given]
        kernel.launch("sum_rows", (blocks, K), (256,), [*addresses, n, out["partials"].address], seed=seed)
        kernel.launch("add_partials", (K,), (256,), [out["partials"].address, blocks, out["totals"].address], seed=seed)

    return in_every_order(out, launch)["totals"].reshape(K, 2)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("n", "K", "kind"), [(1, 1, FLOAT32), (255, 3, FLOAT64), (4096, 1, FLOAT32), (9000, 3, FLOAT32), (4097, 2, FLOAT64)]
)
def test_row_losses_are_summed_per_model(
    n: int, K: int, kind: int, weighted: bool, counted: bool, rng: np.random.Generator
) -> None:
    real = computed(kind)
    losses = rng.exponential(size=(n, K)).astype(real)
    weights = rng.random((n, K)).astype(real) if weighted else None
    labels = rng.integers(0, 3, n).astype(np.int32) if counted else None
    best = rng.integers(0, 3, (n, K)).astype(np.int32) if counted else None
    before = rng.standard_normal((K, 2))
    totals = run_reduce(losses, best, labels, weights, before, kind)
    s = np.ones((n, K)) if weights is None else weights.astype(np.float64)
    hits = 0.0 * s if labels is None or best is None else (best == labels[:, None]) * s
    expected = before + np.stack([(losses * s).sum(axis=0), hits.sum(axis=0)], axis=1)
    assert_within(totals, expected, 4 * np.sqrt(n) * np.finfo(np.float64).eps * (np.abs(expected) + np.abs(before)))


def test_chunks_of_row_losses_add_up_in_their_order(rng: np.random.Generator) -> None:
    chunks = [rng.exponential(size=(5000, 2)).astype(np.float32) for _ in range(2)]
    alone = [run_reduce(chunk, None, None, None, np.zeros((2, 2)), FLOAT32) for chunk in chunks]
    totals = run_reduce(chunks[1], None, None, None, alone[0], FLOAT32)
    assert np.array_equal(totals, alone[0] + alone[1])


# ---- gather.cu

# double to half would round twice, and nothing is converted to bytes
PAIRS = [
    Pair(kind, target)
    for kind in STORED
    for target in SCORE_KINDS
    if kind != FLOAT64 or target in (FLOAT32, FLOAT64)
    if not SANITIZED or (kind, target) in ((UINT8, FLOAT32), (FLOAT16, BFLOAT16), (FLOAT64, FLOAT64))
]


def run_gather(
    X: Array, target: int, width: int, *, rows: Array | None = None, first: int = 0, m: int, stride: int, skip: int = 0
) -> Array:
    """m rows of X (n, d), laid out with gaps, converted."""
    (kind,) = [kind for kind, dtype in STORED.items() if dtype == X.dtype]
    d = X.shape[1]
    kernel = emulated(gather_text(kind, target, width))
    given = Guarded(X, stride=stride, skip=skip)
    index = None if rows is None else Guarded(rows.astype(np.int64))
    out = {"out": Guarded(np.zeros(m * d, STORED[target]))}

    def launch(seed: int) -> None:
        kernel.launch(
            "gather",
            (-(-m * d // (256 * width)),),
            (256,),
            [given.address, stride, 0 if index is None else index.address, first, m, d, out["out"].address],
            seed=seed,
        )

    return in_every_order(out, launch)["out"].reshape(m, d)


def ordinary(kind: int, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    if kind == UINT8:
        return rng.integers(0, 256, shape).astype(np.uint8)
    return (100 * rng.standard_normal(shape)).astype(STORED[kind])


def converted(X: Array, target: int) -> Array:
    """Convert as the kernel does: through float32, except from doubles."""
    wide = X if X.dtype == np.float64 else X.astype(np.float32)
    return wide.astype(STORED[target])


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_rows_are_gathered_by_index_or_in_order(pair: Pair, rng: np.random.Generator) -> None:
    for width, d, stride, skip in ((1, 7, 9, 3), (1, 1, 1, 1), (4, 12, 16, 0), (4, 4, 4, 4)):
        X = ordinary(pair.source, (50, d), rng)
        rows = rng.integers(0, 50, 131)  # with repeats, and more than one block at d = 7 and 12
        expected = converted(X, pair.target)
        by_index = run_gather(X, pair.target, width, rows=rows, m=131, stride=stride, skip=skip)
        assert by_index.tobytes() == expected[rows].tobytes()
        in_order = run_gather(X, pair.target, width, first=9, m=41, stride=stride, skip=skip)
        assert in_order.tobytes() == expected[9:].tobytes()


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16], ids=NAMES.get)
def test_every_half_is_widened_exactly(kind: int) -> None:
    X = np.arange(65536).astype(np.uint16).view(STORED[kind]).reshape(256, 256)
    wide = run_gather(X, FLOAT32, 1, m=256, stride=256)
    expected = X.astype(np.float32)
    number = ~np.isnan(expected)
    assert wide[number].tobytes() == expected[number].tobytes()  # the sign of zero, too
    assert np.all(np.isnan(wide[~number]))


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16], ids=NAMES.get)
def test_floats_are_narrowed_to_the_nearest_and_ties_to_even(kind: int) -> None:
    halves = np.arange(65536).astype(np.uint16).view(STORED[kind]).astype(np.float32)
    halves = np.unique(halves[np.isfinite(halves)])
    middle = (halves[1:] / 2 + halves[:-1] / 2).astype(np.float32)  # exact: a float has digits enough
    largest = np.float32(np.finfo(np.float32).max)
    special = np.array(
        [np.inf, -np.inf, np.nan, 65519.99, 65520, 1e9, largest, -largest, 1e-45, -1e-45, -0.0], np.float32
    )
    with np.errstate(over="ignore"):
        near = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
        X = np.concatenate([halves, middle, *near, special])
        X = np.resize(X, (-(-len(X) // 256), 256))
        expected = X.astype(STORED[kind])
    narrow = run_gather(X, kind, 1, m=len(X), stride=256)
    number = ~np.isnan(X)
    assert narrow[number].tobytes() == expected[number].tobytes()
    assert np.all(np.isnan(narrow[~number].astype(np.float32)))


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16], ids=NAMES.get)
def test_every_nan_stays_one_when_it_is_narrowed(kind: int) -> None:
    bits = [0x7F800001, 0x7F80FFFF, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF]  # rounded as numbers: infinity, or -0
    X = np.array([bits, [b | 0x80000000 for b in bits]], np.uint32).view(np.float32)
    narrow = run_gather(X, kind, 1, m=2, stride=5)
    assert np.all(np.isnan(narrow.astype(np.float32)))


# ---- beyond 2^31


class Sparse:
    """Address space of which only the end has memory: an array's values, `before` bytes from `start`.

    A kernel that computes a large index in 32 bits lands in the emptiness, before `start` if it comes out negative, and
    its results are wrong.
    """

    def __init__(self, before: int, values: Array) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        try:
            memory = mmap.mmap(-1, 2 * before + values.nbytes, flags=flags)
        except OSError as error:
            pytest.skip(f"no {before / 2**29:.0f} GB of address space: {error}")
        whole = np.frombuffer(memory, np.uint8)
        self.start = whole.ctypes.data + before
        self.values = whole[2 * before :].view(values.dtype)
        self.values[...] = values.ravel()


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("K", [1, 3])
def test_row_numbers_beyond_32_bits(K: int, rng: np.random.Generator) -> None:
    c = 3
    case = Case(FLOAT32, c)
    rows_a_block = case.bucket.rows
    first = 2**32 // rows_a_block * rows_a_block + 3
    first += -first % K  # under model 0
    n = 48  # rows from there on
    Z, bias = rng.standard_normal((n, c)).astype(np.float32), rng.standard_normal((K, c)).astype(np.float32)
    labels, weights = rng.integers(0, c, n // K).astype(np.int32), rng.random(n).astype(np.float32)
    from_zero = run_row_loss(Case(FLOAT32, c), Z, labels, weights=weights, bias=bias, K=K)  # the same rows, numbered so
    scores = Sparse(first * c * 4, Z)
    spread = Sparse(first // K * 4, labels), Sparse(first * 4, weights)
    losses, best = Sparse(first * 4, np.zeros(n, np.float32)), Sparse(first * 4, np.zeros(n, np.int32))
    bad_row = np.array([NO_BAD_ROW], np.uint64)
    total = first + n
    grid = -(-total // rows_a_block)
    emulated(row_loss_text(FLOAT32, case.bucket)).launch(
        "row_loss",
        (grid,),
        (case.bucket.threads,),
        [
            scores.start, c, bias.ctypes.data, spread[0].start, spread[1].start, total, c, K, losses.start, best.start,
            bad_row.ctypes.data,
        ],
        blocks=(first // rows_a_block, grid - first // rows_a_block),
    )  # fmt: skip
    assert scores.values.tobytes() == from_zero.scores.tobytes()
    assert losses.values.tobytes() == from_zero.losses.tobytes()
    assert best.values.tobytes() == from_zero.best.tobytes()
    assert bad_row[0] == NO_BAD_ROW


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("c", [10, 300])
def test_strides_beyond_32_bits(c: int, rng: np.random.Generator) -> None:
    stride = 2**32 + 5  # an int would take it for 5
    bucket = choose(FLOAT32, c, stride, 0)
    Z = rng.standard_normal((1, c)).astype(np.float32)
    far = Sparse(stride * 4, Z)
    labels = np.array([0, c - 1], np.int32)
    losses, best, bad_row = np.zeros(2, np.float32), np.zeros(2, np.int32), np.array([NO_BAD_ROW], np.uint64)
    emulated(row_loss_text(FLOAT32, bucket)).launch(
        "row_loss",
        (-(-2 // bucket.rows),),
        (bucket.threads,),
        [
            far.start, stride, 0, labels.ctypes.data, 0, 2, c, 1, losses.ctypes.data, best.ctypes.data,
            bad_row.ctypes.data,
        ],
    )  # fmt: skip
    expected = run_row_loss(Case(FLOAT32, c), Z, np.array([c - 1]))
    assert losses[1] == pytest.approx(expected.losses[0], rel=1e-6)
    assert np.allclose(far.values, expected.scores[0], rtol=1e-6, atol=1e-7)
    assert losses[0] == pytest.approx(np.log(c), rel=1e-6)  # row 0, at the start, is zeros


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
def test_sums_of_rows_beyond_32_bits(rng: np.random.Generator) -> None:
    K, n = 3, 1000
    block = 2**32 // 4096 + 1
    first = block * 4096
    losses = rng.exponential(size=(n, K)).astype(np.float32)
    labels, best = rng.integers(0, 3, n).astype(np.int32), rng.integers(0, 3, (n, K)).astype(np.int32)
    far = Sparse(first * K * 4, losses), Sparse(first * K * 4, best), Sparse(first * 4, labels)
    partials = Sparse(block * K * 16, np.zeros((K, 2)))
    kernel = emulated(source("reduce.cu", {"SCORE": FLOAT32}))
    for k in range(K):  # the grid's last block of each model: blocks are numbered along x first
        kernel.launch(
            "sum_rows",
            (block + 1, K),
            (256,),
            [*(a.start for a in far), 0, first + n, partials.start],
            blocks=(k * (block + 1) + block, 1),
        )
    expected = np.stack([losses.sum(axis=0, dtype=np.float64), (best == labels[:, None]).sum(axis=0)], axis=1)
    assert np.allclose(partials.values.reshape(K, 2), expected, rtol=1e-12)


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
def test_sums_of_partials_beyond_32_bits(rng: np.random.Generator) -> None:
    K, blocks = 2**28 + 1, 9  # the last block's partials of the last model are number 2 * 9 * K > 2^32
    here = rng.random(2)
    partials, totals = Sparse(((blocks - 1) * K + K - 1) * 16, here), Sparse((K - 1) * 16, np.array([1.0, 2.0]))
    kernel = emulated(source("reduce.cu", {"SCORE": FLOAT32}))
    kernel.launch("add_partials", (K,), (256,), [partials.start, blocks, totals.start], blocks=(K - 1, 1))
    assert np.array_equal(totals.values, here + np.array([1.0, 2.0]))


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("row", [2**31 // 3 + 1, 2**32 // 3 + 1, 2**31 + 5, 2**32 + 5])
def test_gathered_rows_beyond_32_bits(row: int, indexed: bool, rng: np.random.Generator) -> None:
    d = 3
    X = rng.integers(1, 256, (1, d)).astype(np.uint8)
    far = Sparse(row * d, X)
    rows = np.array([row], np.int64)
    out = np.zeros(d, np.float32)
    emulated(gather_text(UINT8, FLOAT32, 1)).launch(
        "gather",
        (1,),
        (256,),
        [far.start, d, rows.ctypes.data if indexed else 0, 0 if indexed else row, 1, d, out.ctypes.data],
    )
    assert np.array_equal(out, X[0])


# ---- probe.cu


def test_the_probe_kernel_counts() -> None:
    out = {"out": Guarded(np.zeros(32, np.int32))}
    kernel = emulated(source("probe.cu", {"SCORE": FLOAT32}))
    result = in_every_order(out, lambda seed: kernel.launch("probe", (1,), (32,), [out["out"].address], seed=seed))
    assert np.array_equal(result["out"][0], np.arange(32))


# ---- all of that under the sanitizers


@pytest.mark.skipif(SANITIZED, reason="this is that process")
def test_nothing_is_found_by_the_sanitizers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**emulation.sanitizer_environment(), "GPUSOFTMAX_SANITIZED": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert " passed" in done.stdout
