"""No kernel has two accesses to the same byte that nothing puts in order, whatever the order in which threads run.

What is looked for is in tests/support/emulation/races.h. The package's own code launches the kernels on the stand-in
for CuPy, so that they have the blocks and the memory that they have on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from gpusoftmax import SoftmaxClassifier, get_backend, loss_and_gradient
from gpusoftmax.cuda import buckets, few_classes, row_losses
from gpusoftmax.cuda.buckets import FLAT, FLOAT16, FLOAT32, FLOAT64, REGISTERS, SEGMENT, STREAMED
from gpusoftmax.cuda.compile import KINDS
from gpusoftmax.cuda.probe import probe
from gpusoftmax.operations import SparseRows
from tests.support.emulation import standin
from tests.support.emulation.build import KERNEL, build, missing
from tests.support.emulation.races import Checked, Race, described

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

KERNELS = Path(__file__).parents[2] / "kernels"
SOFTMAX, SQUARED_HINGE = 0, 2
SCORES = {FLOAT32: np.float32, FLOAT16: np.float16, FLOAT64: np.float64}


class Found:
    """The races of all launches so far."""

    def __init__(self) -> None:
        self._checked: list[Checked] = []

    def build(self, text: str, optimise: str) -> Checked:
        """Take the place of the stand-in's `build`."""
        self._checked.append(Checked(build(text, races=True)))
        return self._checked[-1]

    @property
    def races(self) -> list[Race]:
        """All of them."""
        return [race for checked in self._checked for race in checked.races]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[Found]:
    """The races of what is launched on the stand-in, which is there even where there is a GPU."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    found = Found()
    with standin.installed(), monkeypatch.context() as patch:
        patch.setattr(standin, "build", found.build)
        yield found


# ---- row_loss.cu


@dataclass(frozen=True)
class Rows:
    """Rows of scores: a variant of row_loss.cu is chosen for their number of classes."""

    hold: int
    c: int
    m: int
    kind: int = FLOAT32
    loss: int = SOFTMAX
    mode: int = row_losses.GRADIENT
    models: int = 1

    def __str__(self) -> str:
        name = {FLAT: "flat", REGISTERS: "registers", STREAMED: "streamed"}[self.hold]
        return f"{name}-{self.models}x{self.c}-{np.dtype(SCORES[self.kind])}-loss{self.loss}-mode{self.mode}"


ROWS = [
    Rows(FLAT, 10, 300),
    Rows(FLAT, 7, 200, FLOAT16, SQUARED_HINGE),
    Rows(REGISTERS, 64, 37),
    Rows(REGISTERS, 65, 37, loss=SQUARED_HINGE),
    Rows(REGISTERS, 33, 70, FLOAT16),
    Rows(REGISTERS, 900, 10, FLOAT16),
    Rows(REGISTERS, 65, 40, models=2),
    Rows(REGISTERS, 2400, 6, loss=SQUARED_HINGE),
    Rows(REGISTERS, 3001, 6),
    Rows(REGISTERS, 3001, 6, mode=row_losses.LOSSES, models=3),
    Rows(REGISTERS, 2051, 5, FLOAT16),
    Rows(REGISTERS, 40_000, 2, loss=SQUARED_HINGE),
    Rows(REGISTERS, 40_001, 3),
    Rows(REGISTERS, 17_000, 2, FLOAT64),
    Rows(STREAMED, 140_000, 2, loss=SQUARED_HINGE),
    Rows(STREAMED, 140_001, 3),
    Rows(STREAMED, 70_000, 2, FLOAT64),
]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_what_threads_of_row_loss_use_is_in_order(rows: Rows, found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    m, c = rows.m, rows.c
    variants: list[buckets.Variant] = []
    chosen = buckets.choose

    def choose(*given: Any) -> buckets.Variant:
        variants.append(chosen(*given))
        return variants[-1]

    monkeypatch.setattr(buckets, "choose", choose)
    n, K = m // rows.models, rows.models
    Z = cupy.asarray(np.linspace(-2, 2, m * c).astype(SCORES[rows.kind]).reshape(n, K, c))
    bias = cupy.asarray(np.ones((K, c), np.float64 if rows.kind == FLOAT64 else np.float32))
    labels = np.arange(n, dtype=np.int32) * 7 % c
    labels[n // 2] = c  # a bad one
    bad_row = row_losses.no_bad_row()
    row_losses.row_loss(Z, bias, cupy.asarray(labels), None, rows.loss, rows.mode, bad_row)
    (variant,) = variants
    assert variant.hold == rows.hold
    assert bad_row.get() == n // 2 * K
    races = [race for race in found.races if not _unused(race, Z.data.ptr, rows)]
    assert not races, described(races)


def _unused(race: Race, start: int, rows: Rows) -> bool:
    """Whether the race is for bytes that are read, but not used, as row_loss.cu says.

    Rows that are not whole segments share them with their neighbours, which may be writing theirs.
    """
    if race.block is not None or len(race.writers) != 1:
        return False
    size = np.dtype(SCORES[rows.kind]).itemsize
    first = race.address // SEGMENT * SEGMENT - start
    row, end = max(first, 0) // (rows.c * size), (first + SEGMENT - 1) // (rows.c * size)
    return (row != end or first < 0) and race.nbytes < SEGMENT


# ---- the other kernels: work that launches them


@dataclass(frozen=True)
class Work:
    """Calls of the library, and the kernels that they launch."""

    call: Callable[..., object]
    kernels: tuple[str, ...]
    arguments: tuple[Any, ...] = ()


def one_read(dtype: str, d: int, K: int, c: int, capability: tuple[int, int], loss: str = "softmax") -> None:
    """A gradient for few columns of scores: two whole leaves, and a part of one."""
    standin.state.capability = capability
    rng, n = np.random.default_rng(0), 2 * few_classes.rows_of_leaf(KINDS[np.dtype(dtype)]) + 7
    X, y = rng.random((n, d)).astype(dtype), rng.integers(0, c, n)
    W, b = rng.standard_normal((d, K, c)) / d, rng.standard_normal((K, c))
    loss_and_gradient(X, y, W, b, loss=loss, backend="cuda")


def steps(dtype: str, d: int, batch_size: int, **options: Any) -> None:
    """An epoch of SGD, some batches of it whole."""
    rng, n = np.random.default_rng(0), 150
    X, y = (8 * rng.random((n, d))).astype(dtype), rng.integers(0, 3, n)
    settings: dict[str, Any] = {"solver": "sgd", "max_iter": 1, "tol": 0, "scaling": "standard"} | options
    SoftmaxClassifier(**settings, batch_size=batch_size, backend="cuda").fit(X, y)


def scores(dtype: str, precision: str = "highest") -> None:
    """A product with features of a narrow type, for which the weights are split."""
    backend = get_backend("cuda", precision=precision)
    xp, (n, d, c) = backend.xp, (64, 40, 33)
    X, W, b = np.ones((n, d), dtype), np.ones((d, 1, c), np.float32), np.zeros((1, c), np.float32)
    backend.ops.linear_scores(*(xp.asarray(x) for x in (X, W, b)))


def sums(n: int, K: int) -> None:
    """Sums of losses over more rows than a block has."""
    import cupy

    losses, best = cupy.asarray(np.ones(n * K, np.float32)), cupy.asarray(np.ones(n * K, np.int32))
    row_losses.add_up(losses, best, cupy.asarray(np.ones(n, np.int32)), None, cupy.zeros((K, 2)))


def sparse(values: str | None, q: int) -> None:
    """Products, sums of columns and a Gram matrix, with rows of more than one segment."""
    rng, (n, width) = np.random.default_rng(4), (5, 2100)
    A = csr_array(((rng.random((n, width)) < 0.6) * rng.integers(1, 9, (n, width))).astype(values or "float32"))
    backend = get_backend("cuda")
    places = [backend.asarray(x.astype(t)) for x, t in ((A.indptr, np.int64), (A.indices, np.int32))]
    rows = SparseRows(*places, None if values is None else backend.asarray(A.data), width)
    weights, centre = backend.asarray(rng.random(width)), backend.asarray(rng.standard_normal(n))
    with backend.active():
        backend.ops.sparse_product(rows, backend.asarray(rng.standard_normal((width, q)).astype(np.float32)))
        backend.ops.sparse_column_sums(rows, weights, centre)
        backend.ops.sparse_gram(rows, rng.random(n), rng.permutation(width)[:20], 0.0)


ONE_READ = "few_classes", "add_leaves"
STEP = "score_parts", "row_gradients", "update", "add_totals"
SPARSE = "multiply_rows", "sum_columns", "add_segments", "fill_columns"
WORK = {
    # a variant more of few_classes.cu is a line more: type, features, models, classes, capability, loss
    "few classes, a block": Work(one_read, ONE_READ, ("float32", 256, 1, 10, (9, 0))),
    "few classes, a cluster": Work(one_read, ONE_READ, ("float32", 1028, 1, 10, (9, 0))),
    "few classes, flags": Work(one_read, ONE_READ, ("float32", 1028, 1, 10, (8, 0), "squared_hinge")),
    "few classes, models": Work(one_read, ONE_READ, ("float32", 516, 3, 5, (8, 0))),
    "few classes, halves on tensor cores": Work(one_read, ONE_READ, ("float16", 256, 1, 10, (9, 0), "hinge")),
    "few classes, bytes on tensor cores": Work(one_read, ONE_READ, ("uint8", 528, 1, 10, (8, 0))),
    "steps": Work(lambda: steps("float32", 48, 70, momentum=0.9, nesterov=True), STEP),
    "steps, penalised intercepts": Work(lambda: steps("float32", 64, 70, penalize_intercept=True), STEP),
    "steps on bytes": Work(lambda: steps("uint8", 47, 40, scaling=None), STEP),
    "terms of two": Work(scores, ("largest", "split", "gather"), ("uint8",)),
    "terms of three": Work(scores, ("gather",), ("float32", "medium")),
    "sums of rows": Work(sums, ("sum_rows", "add_partials"), (5000, 2)),
    "sparse": Work(sparse, SPARSE, ("float32", 3)),
    "sparse ones": Work(sparse, SPARSE, (None, 40)),
    "probe": Work(lambda: probe(), ("probe",)),
}  # fmt: skip


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_what_threads_do_is_in_order(work: Work, found: Found) -> None:
    work.call(*work.arguments)
    assert set(work.kernels) <= set(standin.state.launches)
    assert not found.races, described(found.races)


def test_all_kernels_are_looked_at() -> None:
    texts = [path.read_text(encoding="utf-8") for path in KERNELS.glob("*.cu")]
    names = {name for text in texts for _, name in KERNEL.findall(text)}
    assert names == {"row_loss", *(name for work in WORK.values() for name in work.kernels)}
