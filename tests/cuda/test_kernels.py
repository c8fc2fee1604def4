"""The CUDA kernels' own text, run on the CPU in six orders of threads, against the reference.

Every launch is repeated in each order, and its results must have the same bits in all of them. Bounds on the error are
worked out per number by cases.row_answer, from the type of computation; storing a narrow result adds half a unit of its
last place, and the smallest subnormal.

With GPUSOFTMAX_SANITIZED set, a part of the same cases under AddressSanitizer and UndefinedBehaviorSanitizer: the last
test starts that in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpusoftmax.cuda.buckets import (
    BFLOAT16,
    FLAT,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    REGISTERS,
    STREAMED,
    UINT8,
    Variant,
    choose,
    segments,
)  # fmt: skip
from gpusoftmax.cuda.compile import source
from gpusoftmax.cuda.sparse import ONES, SEGMENT, layout
from gpusoftmax.losses import LOSSES
from tests.support.cases import assert_within, row_answer
from tests.support.emulation import build as emulation
from tests.support.emulation.build import MOST_SHARED_BYTES
from tests.support.guarded import SANITIZED, Guarded, Sparse, in_every_order

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.missing() is not None, reason=str(emulation.missing())),
]

Array = np.ndarray[Any, Any]

GRADIENT, LOSSES_ONLY, PROBABILITIES = range(3)
SOFTMAX, HINGE, SQUARED_HINGE = range(3)
NO_BAD_ROW = 2**64 - 1

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


def row_loss_text(
    kind: int, variant: Variant, loss: int = SOFTMAX, mode: int = GRADIENT, best: bool = True, biased: bool = False
) -> str:
    flags = {"LOSS": loss, "MODE": mode, "BEST": int(best), "BIAS": int(biased)}
    return source("row_loss.cu", {"SCORE": kind, **flags, **variant.macros()})


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
    aligned: bool = True  # the first row begins at a multiple of 16 bytes
    shared: int = MOST_SHARED_BYTES  # bytes that a block may have
    spread: int = 0  # blocks of a row, which then have few threads; 0: as is chosen
    n: int = 0  # rows; 0: more than a block takes, and not a multiple of that

    @property
    def skip(self) -> int:
        """Elements between a 16-byte boundary and the first row."""
        return 0 if self.aligned else 1

    @property
    def variant(self) -> Variant:
        if self.spread:
            return cluster(self.kind, self.c, self.aligned, self.spread)
        return choose(self.kind, self.c, self.skip * STORED[self.kind].itemsize, self.shared, clusters=True)

    @property
    def rows(self) -> int:
        return self.n or self.variant.rows + 3

    def texts(self) -> list[str]:
        return [row_loss_text(self.kind, self.variant, loss, self.mode, self.best) for loss in self.losses]

    def __str__(self) -> str:
        mode = ("gradient", "losses", "probabilities")[self.mode]
        spread = f"-{self.spread}-blocks" if self.spread else ""
        return f"{NAMES[self.kind]}-{self.c}-{mode}-{'aligned' if self.aligned else 'unaligned'}{spread}"


def cluster(kind: int, c: int, aligned: bool, spread: int) -> Variant:
    """A variant for blocks of 64 threads that have a row together: long rows have 512."""
    size = STORED[kind].itemsize
    aligned = aligned and c * size % 16 == 0
    items = -(-segments(kind, c, aligned) // (64 * spread))
    return Variant(REGISTERS, 64, items, 64, 1, 0, 0, aligned, 1 if aligned else 16 // size, spread)


def sparse_text(value: int, score: int, q: int = 32, squared: bool = False) -> str:
    lanes, columns = layout(q)
    macros = {"LANES": lanes, "COLUMNS": columns, "SEGMENT": SEGMENT, "SQUARED": int(squared)}
    return source("sparse.cu", {"VALUE": value, "SCORE": score, **macros})


# one number of classes for each way to hold a row
LADDER = {
    "flat": Case(FLOAT32, 10, (0, 1, 2)),
    "registers": Case(FLOAT32, 301, (0, 1, 2), aligned=False),
    "block": Case(FLOAT32, 3001, (0, 1, 2), aligned=False),
    "cluster": Case(FLOAT32, 1003, (0, 1, 2), aligned=False, spread=3),
    "streamed": Case(FLOAT32, 3003, (0, 1, 2), aligned=False, shared=0),
}
LADDER_CASES = pytest.mark.parametrize("case", LADDER.values(), ids=LADDER)
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


@dataclass(frozen=True)
class Product:
    """A sparse matrix, with values of a kind, times a matrix of q columns of another kind."""

    value: int
    score: int
    q: int
    squared: bool = False

    def texts(self) -> list[str]:
        return [sparse_text(self.value, self.score, self.q, self.squared)]

    def __str__(self) -> str:
        value = NAMES.get(self.value, "ones")
        return f"{value}-{NAMES[self.score]}-{self.q}{'-squared' if self.squared else ''}"


_ahead: dict[str, Future[emulation.Emulated]] = {}


@pytest.fixture(scope="module", autouse=True)
def _build_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the selected tests need is built on all cores, in their order, while the first of them run."""
    chosen = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    values = [value for item in chosen if hasattr(item, "callspec") for value in item.callspec.params.values()]
    texts = dict.fromkeys(
        text for value in values if isinstance(value, Case | Pair | Product) for text in value.texts()
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        _ahead.update((text, pool.submit(emulation.build, text, sanitize=SANITIZED)) for text in texts)
        yield
        pool.shutdown(cancel_futures=True)
    _ahead.clear()


def emulated(text: str) -> emulation.Emulated:
    return _ahead[text].result() if text in _ahead else emulation.build(text, sanitize=SANITIZED)


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
    real, variant = computed(case.kind), case.variant
    inputs = [
        None if a is None else Guarded(np.ascontiguousarray(a, dtype).ravel())
        for a, dtype in ((bias, real), (labels, np.int32), (weights, real))
    ]
    out = {
        "scores": Guarded(Z.astype(STORED[case.kind]), skip=case.skip, whole=16),
        "losses": Guarded(np.full(rows, 7, real)),
        "best": Guarded(np.full(rows, -7, np.int32)),
        "bad_row": Guarded(np.array([bad_row], np.uint64)),
    }
    kernel = emulated(row_loss_text(case.kind, variant, loss, case.mode, case.best, bias is not None))
    bias_at, labels_at, weights_at = (0 if a is None else a.address for a in inputs)

    def launch(seed: int) -> None:
        kernel.launch(
            "row_loss",
            (variant.blocks(rows, K),),
            (variant.threads,),
            [
                out["scores"].address, bias_at, labels_at, weights_at, rows, c, K, out["losses"].address,
                out["best"].address, out["bad_row"].address,
            ],
            shared_bytes=variant.shared_bytes(case.kind, bias is not None),
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


def boundaries(kind: int, aligned: bool) -> list[int]:
    """Numbers of classes on either side of steps of the ladder, and some for which a thread has a row.

    The steps are those between few threads of a row, and between their segments where they are four.
    """

    def step(c: int) -> Any:
        variant = choose(kind, c, 0 if aligned else STORED[kind].itemsize, MOST_SHARED_BYTES, clusters=True)
        return variant.aligned, min(variant.group, 96), variant.items if variant.group == 4 else 0

    steps = [c for c in range(33, 2200) if step(c) != step(c + 1) and step(c)[0] == step(c + 1)[0]]
    return sorted({2, 3, 4, 7, 8, 16, 17, 20, 32, 33, 3001, 20_000} | {c + more for c in steps for more in (0, 1)})


def boundary_cases() -> list[Case]:
    found = {}
    for kind in SCORE_KINDS:
        for aligned in (True, False):
            for c in boundaries(kind, aligned):
                case = Case(kind, c, aligned=aligned)
                number = len({one.variant for one in found.values() if one.kind == kind} - {case.variant})
                loss = (number + kind) % (2 if kind == FLOAT16 and c > 5000 else 3)  # its squared hinge is out of range
                found[kind, c, aligned] = Case(kind, c, (loss,), aligned=aligned)
    cases = list(found.values())
    cases += [Case(FLOAT32, c, (0,), LOSSES_ONLY, aligned=c % 2 == 0) for c in (9, 10, 300, 301, 3000, 3001, 60_000)]
    cases += [Case(kind, 200_000, n=2) for kind in (FLOAT32, FLOAT16)]
    cases += [Case(FLOAT32, 3003, (0,), LOSSES_ONLY, shared=0)]
    # the last block has nothing, and the one before a part, or each has all that it can have
    cases += [Case(kind, 1024 + more, (more % 3,), spread=4) for kind in SCORE_KINDS for more in (1, 4, 1024)]
    cases += [Case(kind, 1037, (kind % 3,), aligned=False, spread=2) for kind in SCORE_KINDS]
    cases += [Case(FLOAT32, 1029, (2,), LOSSES_ONLY, spread=8), Case(FLOAT32, 40_001, aligned=False, n=3)]
    if SANITIZED:
        kept = {4: True, 17: False, 33: True, 513: False, 3001: False, 60_001: False}  # number of classes: aligned
        cases = [Case(FLOAT32, c, aligned=aligned) for c, aligned in kept.items()]
        cases += [Case(BFLOAT16, c, aligned=False) for c in (33, 513, 20_000)]
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
        for c in ((10, 300) if SANITIZED else (2, 7, 10, 20, 100, 300, 1001, 3000, 60_000))
    ]
    + [Case(FLOAT32, 1001, mode=PROBABILITIES, best=False, spread=2)]
    + [Case(kind, 3003, mode=PROBABILITIES, best=False, shared=0) for kind in (FLOAT32, FLOAT16)],
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


@pytest.mark.parametrize("case", [Case(FLOAT16, 101), Case(BFLOAT16, 3001)], ids=str)
def test_rows_of_16_bits_that_are_not_whole_segments_have_a_narrow_bias(case: Case, rng: np.random.Generator) -> None:
    Z, bias = rng.standard_normal((6, case.c)), rng.standard_normal((3, case.c)).astype(np.float32)
    check_row_loss(case, Z, rng.integers(0, case.c, 2), SOFTMAX, bias=bias, K=3)


@pytest.mark.parametrize(
    "case",
    [Case(FLOAT32, 101), Case(FLOAT32, 301), Case(BFLOAT16, 100), Case(FLOAT16, 1001), Case(FLOAT64, 33)],
    ids=str,
)
@pytest.mark.parametrize("K", [1, 3])
def test_a_block_has_rows_of_one_model_that_begin_at_one_place(case: Case, K: int, rng: np.random.Generator) -> None:
    variant = case.variant
    assert variant.rows > 1
    assert variant.period == 16 // STORED[case.kind].itemsize
    rows = variant.rows * variant.period * K + 3 * K  # so that some blocks are full, and some nearly empty
    Z = rng.standard_normal((rows, case.c))
    bias = rng.standard_normal((K, case.c)).astype(computed(case.kind))
    check_row_loss(case, Z, rng.integers(0, case.c, rows // K), SOFTMAX, bias=bias, K=K)


@pytest.mark.parametrize(
    "case",
    [Case(FLOAT32, 3000, shared=8 << 10), Case(BFLOAT16, 3001, shared=8 << 10), Case(FLOAT64, 1500, shared=8 << 10)],
    ids=str,
)
def test_a_bias_that_does_not_fit_into_shared_memory_is_read_from_the_device(
    case: Case, rng: np.random.Generator
) -> None:
    assert case.variant.hold == STREAMED
    Z, bias = rng.standard_normal((6, case.c)), rng.standard_normal((3, case.c)).astype(computed(case.kind))
    check_row_loss(case, Z, rng.integers(0, case.c, 2), SOFTMAX, bias=bias, K=3)


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("kind", SCORE_KINDS, ids=NAMES.get)
def test_blocks_that_share_a_row_have_their_parts_of_the_bias(
    kind: int, aligned: bool, rng: np.random.Generator
) -> None:
    case = Case(kind, 1032 if aligned else 1037, aligned=aligned, spread=3)
    assert case.variant.aligned == aligned
    Z, bias = rng.standard_normal((6, case.c)), rng.standard_normal((3, case.c)).astype(computed(kind))
    check_row_loss(case, Z, rng.integers(0, case.c, 2), SOFTMAX, bias=bias, K=3)


@pytest.mark.parametrize("case", [Case(FLOAT32, 100), Case(BFLOAT16, 512), Case(FLOAT64, 2050)], ids=str)
def test_rows_of_whole_segments_have_a_whole_bias(case: Case, rng: np.random.Generator) -> None:
    Z = rng.standard_normal((6, case.c))
    bias = rng.standard_normal((3, case.c)).astype(computed(case.kind))
    assert case.variant.aligned
    check_row_loss(case, Z, rng.integers(0, case.c, 2), SOFTMAX, bias=bias, K=3)


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
    for c in (*range(2, 2300), 4095, 4096, 8191, 20_000, 60_000, 200_000):
        for skip in range(width):
            variant = choose(kind, c, skip * size, MOST_SHARED_BYTES, clusters=True)
            if variant.hold == FLAT:
                assert not (variant.aligned and skip)
                assert variant.pack == 1 or skip % variant.pack == c % variant.pack == 0
                assert variant.rows * c % width == 0  # so that all tiles begin as the first does
                continue
            starts = [(skip + row * c) % width for row in range(width)]
            touched = max(-(-(start + c) // width) for start in starts)
            assert segments(kind, c, variant.aligned) >= touched
            assert not (variant.aligned and any([*starts, c % width]))
            if variant.hold == REGISTERS:
                assert variant.items * variant.group * variant.spread >= touched
                assert variant.rows * variant.group == variant.threads
                assert len({starts[row * variant.period % width] for row in range(width)}) == 1
                if variant.spread > 1:
                    assert variant.rows == 1
                    continue
                # the kernel's WHOLE
                whole = variant.items - 1 - (not variant.aligned)
                assert all((start + c) // width >= whole * variant.group for start in starts)


@pytest.mark.parametrize("kind", SCORE_KINDS, ids=NAMES.get)
def test_no_bias_is_staged_in_shared_memory_that_the_device_lacks(kind: int) -> None:
    size, most = computed(kind).itemsize, 16_384 if kind == FLOAT64 else 32_768
    for shared in (48 << 10, 99 << 10, 227 << 10):
        variants = {c: choose(kind, c, 0, shared, clusters=False) for c in range(40, 70_000, 8)}
        held = [c for c, variant in variants.items() if variant.hold == REGISTERS]
        assert all(c * size + 2048 <= variants[c].shared_bytes(kind, True) <= shared for c in held)
        assert max(held) == most or max(held) * size > shared - (8 << 10)
        assert variants[max(held) + 8].hold == STREAMED


@pytest.mark.parametrize("kind", SCORE_KINDS, ids=NAMES.get)
def test_longer_rows_are_spread_over_a_cluster_where_there_are_any(kind: int) -> None:
    most, size = 65_536 if kind == FLOAT64 else 131_072, computed(kind).itemsize
    for c in (most // 4 + 8, most // 2, most):
        variant = choose(kind, c, 0, MOST_SHARED_BYTES, clusters=True)
        assert (variant.hold, variant.group, variant.threads) == (REGISTERS, 512, 512)
        assert 1 < variant.spread <= 8
        assert variant.shared_bytes(kind, True) >= 2048 + c * size // variant.spread
        assert variant.blocks(10, 1) == 10 * variant.spread
        assert choose(kind, c, 0, MOST_SHARED_BYTES, clusters=False).hold == STREAMED
    assert choose(kind, most + 8, 0, MOST_SHARED_BYTES, clusters=True).hold == STREAMED
    assert choose(kind, most, 0, 48 << 10, clusters=True).hold == STREAMED  # the bias has no room


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


# ---- split.cu


def run_split(x: Array, target: int, terms: int, width: int = 4, *, scaled: bool = True) -> tuple[Array, float]:
    """The terms (terms, n) of x (n,) in float64, and their scale."""
    n = x.size
    kernel = emulated(source("split.cu", {"TARGET": target, "TERMS": terms, "WIDTH": width}))
    given = Guarded(x.astype(np.float32), skip=0 if width == 4 else 1)
    out = {
        "bits": Guarded(np.zeros(1, np.uint32)),
        "terms": Guarded(np.zeros(terms * n, STORED[target]), skip=0 if width == 4 else 1),
        "scalars": Guarded(np.full(3, np.nan, np.float32)),
    }

    def launch(seed: int) -> None:
        bits = out["bits"].address if scaled else 0
        if scaled:
            kernel.launch("largest", (-(-n // 1024),), (256,), [given.address, n, bits], seed=seed)
        grid = (-(-n // (256 * width)),)
        kernel.launch(
            "split", grid, (256,), [given.address, n, bits, out["terms"].address, out["scalars"].address], seed=seed
        )

    found = in_every_order(out, launch)
    scale, zero, one = found["scalars"][0]
    assert (zero, one) == (0, 1)
    return found["terms"].reshape(terms, n).astype(np.float64), float(scale)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize(("n", "width"), [(4, 4), (3000, 4), (7, 1), (3001, 1)])
def test_two_halves_have_22_bits_of_numbers_of_any_size(
    n: int, width: int, size: float, rng: np.random.Generator
) -> None:
    x = (size * rng.standard_normal(n) * 10.0 ** rng.uniform(-6, 0, n)).astype(np.float32)
    x[-1] = 3 * np.abs(x).max()  # the last number of a thread
    terms, scale = run_split(x, FLOAT16, 2, width)
    assert np.log2(scale) == np.round(np.log2(scale))
    assert 2**14 <= np.abs(x).max() / scale < 2**15
    # a term is rounded by at most 2^-11 of itself, and where it is subnormal by half of 2^-24
    assert_within(scale * terms.sum(axis=0), x.astype(np.float64), 2.0**-22 * np.abs(x) + 2.0**-25 * scale, "sum")


def test_three_bfloat16_are_a_float32(rng: np.random.Generator) -> None:
    x = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-25, 30, 5000)).astype(np.float32)
    terms, scale = run_split(x, BFLOAT16, 3, scaled=False)
    assert scale == 1
    assert np.array_equal(terms.sum(axis=0), x.astype(np.float64))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_finite_in_terms(bad: float) -> None:
    terms, scale = run_split(np.array([1.0, bad, 2.0, 0.0], np.float32), FLOAT16, 2)
    with np.errstate(invalid="ignore"):
        assert np.isfinite(scale * terms.sum(axis=0)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_terms_of_almost_nothing_are_numbers(value: float) -> None:
    terms, scale = run_split(np.full(8, value, np.float32), FLOAT16, 2)
    assert scale > 0
    assert np.allclose(scale * terms.sum(axis=0), value, atol=1e-40)


# ---- sparse.cu


@dataclass(frozen=True)
class Entries:
    """The rows of a sparse matrix with `width` columns. Column 0 has no entries: it is what idle lanes would read."""

    indptr: Array
    indices: Array
    values: Array | None
    width: int

    @classmethod
    def random(cls, lengths: list[int], value: int, rng: np.random.Generator, whole: bool = True) -> Entries:
        """Rows of these lengths, with `whole` of small integers, whose sums have no rounding errors."""
        width = max(lengths) + 50
        indices = [1 + np.sort(rng.choice(width - 1, length, replace=False)) for length in lengths]
        n = sum(lengths)
        drawn = rng.integers(0 if value == UINT8 else -4, 5, n) if whole else 3 * rng.standard_normal(n)
        values = None if value == ONES else drawn.astype(STORED[value])
        return cls(np.cumsum([0, *lengths]), np.concatenate(indices).astype(np.int32), values, width)

    def dense(self) -> Array:
        x = np.zeros((len(self.indptr) - 1, self.width))
        rows = np.repeat(np.arange(len(x)), np.diff(self.indptr))
        x[rows, self.indices] = 1 if self.values is None else self.values
        return x

    def guarded(self) -> list[Guarded | None]:
        values = None if self.values is None else Guarded(self.values)
        return [Guarded(self.indptr.astype(np.int64)), Guarded(self.indices), values]


def address(array: Guarded | None) -> int:
    return 0 if array is None else array.address


@dataclass(frozen=True)
class Cut:
    """The segments of long rows, made in a plain loop."""

    rows: list[int]
    firsts: list[int]
    long_rows: list[int]
    starts: list[int]

    @classmethod
    def of(cls, indptr: Array) -> Cut:
        cut = cls([], [], [], [0])
        for row, (first, stop) in enumerate(zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)):
            more = list(range(first + SEGMENT, stop, SEGMENT))
            cut.rows.extend([row] * len(more))
            cut.firsts.extend(more)
            if more:
                cut.long_rows.append(row)
                cut.starts.append(len(cut.rows))
        return cut

    def guarded(self) -> list[Guarded | None]:
        lists = self.rows, self.firsts, self.long_rows, self.starts
        return [Guarded(np.array(one, np.int64)) if one else None for one in lists]


def run_product(case: Product, A: Entries, M: Array, bias: Array | None = None, rows: Array | None = None) -> Array:
    """A M + bias through the kernels, as cuda/sparse.py calls them."""
    real = computed(case.score)
    n, q = len(A.indptr) - 1 if rows is None else len(rows), M.shape[1]
    cut = Cut.of(A.indptr) if rows is None else Cut([], [], [], [0])
    n_extra, n_long, (lanes, columns) = len(cut.rows), len(cut.long_rows), layout(q)
    entries, segments = A.guarded(), cut.guarded()
    given = [
        Guarded(M.astype(real).ravel()),
        None if bias is None else Guarded(bias.astype(real)),
        None if rows is None else Guarded(rows.astype(np.int64)),
    ]
    out = {
        "out": Guarded(np.full(n * q, np.nan, real)),
        "partials": Guarded(np.full(max(1, n_extra * q), np.nan, real)),
    }
    kernel = emulated(sparse_text(case.value, case.score, q, case.squared))

    def launch(seed: int) -> None:
        at = [address(a) for a in (*entries, *given, *segments)]
        kernel.launch(
            "multiply_rows",
            (-(-(n + n_extra) // 8), -(-q // (lanes * columns))),
            (256,),
            [*at[:6], n, q, *at[6:8], n_extra, out["partials"].address, out["out"].address],
            seed=seed,
        )
        if n_long:
            kernel.launch(
                "add_segments",
                (-(-n_long * q // 256),),
                (256,),
                [out["partials"].address, *at[8:], n_long, q, at[4], out["out"].address],
                seed=seed,
            )

    result = in_every_order(out, launch)["out"].reshape(n, q)
    for one in (*entries, *given, *segments):
        assert one is None or one.memory.tobytes() == one.before.tobytes(), "an input was written"
    return result


# on both sides of a warp's 32 entries and of a segment's 1024; more rows than a block has warps; after each row more
# entries than a kernel could take too many
LENGTHS = [0, 1, 31, 32, 33, 2 * SEGMENT + 1, 7, SEGMENT - 1, SEGMENT, SEGMENT + 1, 64, 3, SEGMENT, 0]
PRODUCTS = [Product(FLOAT32, FLOAT32, q) for q in (1, 2, 3, 8, 9, 20, 32, 33, 100, 130)]
PRODUCTS += [
    Product(value, score, 3, squared)
    for value in (FLOAT64, FLOAT32, UINT8, ONES)
    for score in (FLOAT64, FLOAT32)
    for squared in (False, True)
    if value != FLOAT64 or score == FLOAT64
    if (value, score, squared) != (FLOAT32, FLOAT32, False)
]
PRODUCTS += [Product(ONES, FLOAT64, 20), Product(UINT8, FLOAT32, 33, True), Product(FLOAT64, FLOAT64, 100)]
if SANITIZED:
    PRODUCTS = [Product(FLOAT32, FLOAT32, 33), Product(UINT8, FLOAT64, 3, True), Product(ONES, FLOAT64, 20)]


def whole_numbers(case: Product, A: Entries, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """M, with NaN for the column without entries, and bias of small integers; the dense matrix without that column."""
    M, bias = (rng.integers(-8, 9, shape).astype(np.float64) for shape in ((A.width, case.q), case.q))
    M[0] = np.nan
    x = A.dense()[:, 1:]
    return M, bias, x * x if case.squared else x


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_rows_are_multiplied_in_segments(case: Product, rng: np.random.Generator) -> None:
    A = Entries.random(LENGTHS, case.value, rng)
    M, bias, x = whole_numbers(case, A, rng)
    assert np.array_equal(run_product(case, A, M), x @ M[1:])
    assert np.array_equal(run_product(case, A, M, bias), x @ M[1:] + bias)


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_chosen_rows_are_multiplied_in_their_order(case: Product, rng: np.random.Generator) -> None:
    A = Entries.random(LENGTHS, case.value, rng)
    M, bias, x = whole_numbers(case, A, rng)
    rows = np.array([9, 5, 5, 0, 13, 3, 8, 1, 5, 2])
    assert np.array_equal(run_product(case, A, M, bias, rows), (x @ M[1:] + bias)[rows])


@pytest.mark.parametrize("case", PRODUCTS[:: 1 if SANITIZED else 3], ids=str)
def test_the_bits_of_a_product_depend_on_the_rows_entries_alone(case: Product, rng: np.random.Generator) -> None:
    A = Entries.random(LENGTHS, case.value, rng, whole=case.value == UINT8)
    M, bias = rng.standard_normal((A.width, case.q)), rng.standard_normal(case.q)
    real = computed(case.score)
    M, bias = M.astype(real).astype(np.float64), bias.astype(real).astype(np.float64)
    cut = run_product(case, A, M, bias)
    for rows in (np.arange(len(LENGTHS)), np.array([5]), np.array([8, 9, 5, 4])):
        assert run_product(case, A, M, bias, rows).tobytes() == cut[rows].tobytes()
    x = A.dense()
    x = x * x if case.squared else x
    # each term and each addition is rounded once
    off = (np.array(LENGTHS)[:, None] + 3) * float(np.finfo(real).eps) * (abs(x) @ abs(M) + abs(bias))
    assert_within(cut, x @ M + bias, off, "product")


@pytest.mark.parametrize("case", PRODUCTS[:3], ids=str)
def test_a_part_of_indptr_is_a_part_of_the_rows(case: Product, rng: np.random.Generator) -> None:
    A = Entries.random(LENGTHS, case.value, rng)
    M, bias, x = whole_numbers(case, A, rng)
    end = A.indptr[10]  # of memory, too: the sanitizers see what is read beyond it
    part = Entries(A.indptr[4:11], A.indices[:end], None if A.values is None else A.values[:end], A.width)
    assert np.array_equal(run_product(case, part, M, bias), (x @ M[1:] + bias)[4:10])


def run_column_sums(value: int, A: Entries, weights: Array, centre: Array) -> Array:
    """Sums of each row of A (n, 3), as cuda/sparse.py calls the kernels."""
    n, cut = len(A.indptr) - 1, Cut.of(A.indptr)
    n_extra, n_long = len(cut.rows), len(cut.long_rows)
    given = [*A.guarded(), Guarded(weights), Guarded(centre), *cut.guarded()]
    out = {"out": Guarded(np.full(n * 3, np.nan)), "partials": Guarded(np.full(max(1, n_extra * 3), np.nan))}
    kernel = emulated(sparse_text(value, FLOAT64))

    def launch(seed: int) -> None:
        at, (to, partials) = [address(a) for a in given], (out[name].address for name in ("out", "partials"))
        grid = (-(-(n + n_extra) // 8),)
        kernel.launch("sum_columns", grid, (256,), [*at[:5], n, *at[5:7], n_extra, partials, to], seed=seed)
        if n_long:
            grid = (-(-n_long * 3 // 256),)
            kernel.launch("add_segments", grid, (256,), [partials, *at[7:], n_long, 3, 0, to], seed=seed)

    result = in_every_order(out, launch)["out"].reshape(n, 3)
    for one in given:
        assert one is None or one.memory.tobytes() == one.before.tobytes(), "an input was written"
    return result


@pytest.mark.parametrize("value", [UINT8] if SANITIZED else [FLOAT64, FLOAT32, UINT8, ONES])
def test_columns_are_summed_in_segments(value: int, rng: np.random.Generator) -> None:
    A = Entries.random(LENGTHS, value, rng)
    weights, centre = (rng.integers(-3, 4, n).astype(np.float64) for n in (A.width, len(LENGTHS)))
    weights[0] = np.nan
    x, there = A.dense()[:, 1:], np.zeros((len(LENGTHS), A.width), bool)
    there[np.repeat(np.arange(len(LENGTHS)), LENGTHS), A.indices] = True
    s, there = weights[1:], there[:, 1:]
    expected = [there @ s, x @ s, (there * (x - centre[:, None]) ** 2) @ s]
    assert np.array_equal(run_column_sums(value, A, weights, centre), np.stack(expected, axis=1))


@pytest.mark.parametrize("value", [UINT8] if SANITIZED else [FLOAT64, FLOAT32, UINT8, ONES])
def test_chosen_columns_are_filled_into_a_dense_matrix(value: int, rng: np.random.Generator) -> None:
    A = Entries.random([0, 1, 70, 33, 200, 5, 32, 9, 0, 100], value, rng)
    columns = rng.permutation(A.width)[:57]
    place = np.full(A.width, -1, np.int32)
    place[columns] = np.arange(57)
    rows = np.array([4, 2, 2, 8, 9, 1, 3, 5, 7, 4])
    given = [*A.guarded(), Guarded(place), Guarded(rows)]
    out = {"out": Guarded(np.zeros(10 * 57))}
    kernel = emulated(sparse_text(value, FLOAT64))

    def launch(seed: int) -> None:
        arguments = [*(address(a) for a in given), 10, 57, out["out"].address]
        kernel.launch("fill_columns", (2,), (256,), arguments, seed=seed)

    assert np.array_equal(in_every_order(out, launch)["out"].reshape(10, 57), A.dense()[rows][:, columns])


# ---- beyond 2^31


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize(
    ("case", "beyond"),
    [(Case(FLOAT32, 3), "rows"), *((replace(case, aligned=True), "scores") for case in LADDER.values())],
    ids=["rows", *LADDER],
)
def test_rows_beyond_32_bits(case: Case, beyond: str, K: int, rng: np.random.Generator) -> None:
    c, variant = case.c, case.variant
    # a multiple of the width as well, so that rows begin where they do from zero
    step = variant.rows * 4 * K
    first = 2**32 // (1 if beyond == "rows" else c) // step * step + step
    n = 48  # rows from there on
    Z, bias = rng.standard_normal((n, c)).astype(np.float32), rng.standard_normal((K, c)).astype(np.float32)
    labels, weights = rng.integers(0, c, n // K).astype(np.int32), rng.random(n).astype(np.float32)
    from_zero = run_row_loss(case, Z, labels, weights=weights, bias=bias, K=K)  # the same rows, numbered so
    scores = Sparse(first * c * 4, Z)
    spread = Sparse(first // K * 4, labels), Sparse(first * 4, weights)
    losses, best = Sparse(first * 4, np.zeros(n, np.float32)), Sparse(first * 4, np.zeros(n, np.int32))
    bad_row = np.array([NO_BAD_ROW], np.uint64)
    total = first + n
    grid = variant.blocks(total, K)
    emulated(row_loss_text(FLOAT32, variant, biased=True)).launch(
        "row_loss",
        (grid,),
        (variant.threads,),
        [
            scores.start, bias.ctypes.data, spread[0].start, spread[1].start, total, c, K, losses.start,
            best.start, bad_row.ctypes.data,
        ],
        shared_bytes=variant.shared_bytes(FLOAT32, True),
        blocks=(first // variant.rows * variant.spread, grid - first // variant.rows * variant.spread),
    )  # fmt: skip
    assert scores.values.tobytes() == from_zero.scores.tobytes()
    assert losses.values.tobytes() == from_zero.losses.tobytes()
    assert best.values.tobytes() == from_zero.best.tobytes()
    assert bad_row[0] == NO_BAD_ROW


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
def test_numbers_are_split_beyond_32_bits() -> None:
    first = 2**32 + 1024
    x, out = Sparse(first * 4, np.full(4, 3.0, np.float32)), Sparse(first * 2, np.zeros(4, np.float16))
    scalars, bits = np.zeros(3, np.float32), np.array([0], np.uint32)
    kernel = emulated(source("split.cu", {"TARGET": FLOAT16, "TERMS": 1, "WIDTH": 4}))
    block = first // 1024
    kernel.launch("largest", (block + 1,), (256,), [x.start, first + 4, bits.ctypes.data], blocks=(block, 1))
    assert bits.view(np.float32) == 3
    at = [x.start, first + 4, bits.ctypes.data, out.start, scalars.ctypes.data]
    kernel.launch("split", (block + 1,), (256,), at, blocks=(block, 1))
    assert np.array_equal(out.values, np.full(4, 3 * 2.0**13, np.float16))


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


# each of these would be another number in 32 bits
FAR = [2**31 + 70, 2**32 + 70]


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("entry", FAR)
def test_sparse_entries_beyond_32_bits(entry: int, rng: np.random.Generator) -> None:
    lengths, q = [3, SEGMENT + 1, 40], 3
    A = Entries.random(lengths, UINT8, rng)
    assert A.values is not None
    indices, values = Sparse(entry * 4, A.indices), Sparse(entry, A.values)
    indptr, M = A.indptr.astype(np.int64) + entry, rng.integers(-8, 9, (A.width, q)).astype(np.float32)
    at = [indptr.ctypes.data, indices.start, values.start]
    rows, firsts = np.array([1]), np.array([entry + 3 + SEGMENT])
    extra, x = [rows.ctypes.data, firsts.ctypes.data, 1], A.dense()
    partials, out = np.zeros((1, q), np.float32), np.zeros((3, q), np.float32)
    to = [partials.ctypes.data, out.ctypes.data]
    emulated(sparse_text(UINT8, FLOAT32, q)).launch(
        "multiply_rows", (1, 1), (256,), [*at, M.ctypes.data, 0, 0, 3, q, *extra, *to]
    )
    out[1] += partials[0]
    assert np.array_equal(out, x @ M)
    weights, zeros = rng.integers(0, 9, A.width).astype(np.float64), np.zeros(3)
    partials, sums = np.zeros((1, 3)), np.zeros((3, 3))
    to = [partials.ctypes.data, sums.ctypes.data]
    kernel = emulated(sparse_text(UINT8, FLOAT64))
    kernel.launch("sum_columns", (1,), (256,), [*at, weights.ctypes.data, zeros.ctypes.data, 3, *extra, *to])
    sums[1] += partials[0]
    assert np.array_equal(sums[:, 1], x @ weights)
    place, all_rows, filled = np.arange(A.width, dtype=np.int32), np.arange(3), np.zeros(x.shape)
    addresses = place.ctypes.data, all_rows.ctypes.data
    kernel.launch("fill_columns", (1,), (256,), [*at, *addresses, 3, A.width, filled.ctypes.data])
    assert np.array_equal(filled, x)


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("far", FAR)
def test_sparse_rows_beyond_32_bits(far: int, rng: np.random.Generator) -> None:
    q, n = 3, far // 8 * 8 + 5  # the last block has five warps with rows
    A = Entries.random([2, 30, 0, 70, 1], UINT8, rng)
    assert A.values is not None
    M = rng.integers(-8, 9, (A.width, q)).astype(np.float32)
    indptr, out = Sparse((n - 5) * 8, A.indptr.astype(np.int64)), Sparse((n - 5) * q * 4, np.zeros((5, q), np.float32))
    at = [indptr.start, A.indices.ctypes.data, A.values.ctypes.data]
    last = ((n - 5) // 8, 1)
    kernel = emulated(sparse_text(UINT8, FLOAT32, q))
    arguments = [*at, M.ctypes.data, 0, 0, n, q, 0, 0, 0, 0, out.start]
    kernel.launch("multiply_rows", (-(-n // 8), 1), (256,), arguments, blocks=last)
    assert np.array_equal(out.values.reshape(5, q), A.dense() @ M)
    rows, picked = np.array([n - 2]), np.zeros((1, q), np.float32)
    arguments = [*at, M.ctypes.data, 0, rows.ctypes.data, 1, q, 0, 0, 0, 0, picked.ctypes.data]
    kernel.launch("multiply_rows", (1, 1), (256,), arguments)
    assert np.array_equal(picked[0], A.dense()[3] @ M)
    weights, centre = rng.integers(0, 9, A.width).astype(np.float64), Sparse((n - 5) * 8, np.zeros(5))
    sums, kernel = Sparse((n - 5) * 24, np.zeros((5, 3))), emulated(sparse_text(UINT8, FLOAT64))
    arguments = [*at, weights.ctypes.data, centre.start, n, 0, 0, 0, 0, sums.start]
    kernel.launch("sum_columns", (-(-n // 8),), (256,), arguments, blocks=last)
    assert np.array_equal(sums.values.reshape(5, 3)[:, 1], A.dense() @ weights)
    column = A.indices[0]
    place = np.where(np.arange(A.width) == column, 0, -1).astype(np.int32)
    rows, filled = Sparse((n - 5) * 8, np.arange(n - 5, n)), Sparse((n - 5) * 8, np.zeros(5))
    arguments = [*at, place.ctypes.data, rows.start, n, 1, filled.start]
    kernel.launch("fill_columns", (-(-n // 8),), (256,), arguments, blocks=last)
    assert np.array_equal(filled.values, A.dense()[:, column])


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("far", FAR)
def test_picked_rows_and_partial_sums_beyond_32_bits(far: int, rng: np.random.Generator) -> None:
    q = 3
    index = far // q
    M, out = Sparse(index * q * 4, rng.random(q).astype(np.float32)), np.zeros(q, np.float32)
    indptr, indices = np.array([0, 1]), np.array([index], np.int32)
    arguments = [indptr.ctypes.data, indices.ctypes.data, 0, M.start, 0, 0, 1, q, 0, 0, 0, 0, out.ctypes.data]
    emulated(sparse_text(ONES, FLOAT32, q)).launch("multiply_rows", (1, 1), (256,), arguments)
    assert np.array_equal(out, M.values)
    # the partial sums of warp number n + s, where s q is large, and then their addition
    s = far // q // 8 * 8
    partials = Sparse(s * q * 4, np.zeros(q, np.float32))
    rows, firsts = Sparse(s * 8, np.array([1])), Sparse(s * 8, np.array([0]))
    indptr = np.array([0, 0, 1, *[1] * 6])
    arguments = [indptr.ctypes.data, indices.ctypes.data, 0, M.start, 0, 0, 8, q, rows.start, firsts.start, s + 1]
    emulated(sparse_text(ONES, FLOAT32, q)).launch(
        "multiply_rows", (s // 8 + 2, 1), (256,), [*arguments, partials.start, 0], blocks=(s // 8 + 1, 1)
    )
    assert np.array_equal(partials.values, M.values)
    total = Sparse(index * q * 4, np.ones(q, np.float32))
    long_rows, starts = np.array([index]), np.array([s, s + 1])
    arguments = [partials.start, long_rows.ctypes.data, starts.ctypes.data, 1, q, 0, total.start]
    emulated(sparse_text(ONES, FLOAT32, q)).launch("add_segments", (1,), (256,), arguments)
    assert np.array_equal(total.values, M.values + np.float32(1))


@pytest.mark.skipif(SANITIZED, reason="the sanitizers have nothing to add")
@pytest.mark.parametrize("far", FAR)
def test_long_rows_and_filled_rows_beyond_32_bits(far: int) -> None:
    q = 256
    i = far // q + 1  # the last long row, whose numbers are far in the grid
    partials, total = Sparse(i * q * 4, np.ones(q, np.float32)), Sparse(i * q * 4, np.ones(q, np.float32))
    long_rows, starts = Sparse(i * 8, np.array([i])), Sparse(i * 8, np.array([i, i + 1]))
    arguments = [partials.start, long_rows.start, starts.start, i + 1, q, 0, total.start]
    emulated(sparse_text(ONES, FLOAT32)).launch("add_segments", (i + 1,), (256,), arguments, blocks=(i, 1))
    assert np.all(total.values == 2)
    n = i // 8 * 8 + 1
    rows, out = Sparse((n - 1) * 8, np.array([0])), Sparse((n - 1) * q * 8, np.zeros(q))
    indptr, indices, place = np.array([0, 1]), np.array([2], np.int32), np.arange(q, dtype=np.int32)
    arguments = [indptr.ctypes.data, indices.ctypes.data, 0, place.ctypes.data, rows.start, n, q, out.start]
    kernel = emulated(sparse_text(ONES, FLOAT64))
    kernel.launch("fill_columns", (-(-n // 8),), (256,), arguments, blocks=(n // 8, 1))
    assert np.array_equal(np.flatnonzero(out.values), [2])


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
