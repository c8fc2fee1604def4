"""Every kernel moves the bytes that its equation needs and no more, in whole sectors, without conflicts of banks.

The text of row_loss.cu is launched by the package's own code, on the stand-in for CuPy, with numbers of classes on both
sides of each limit: so every variant that it can choose is looked at, whatever the table of variants says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpusoftmax.cuda import few_classes, row_losses, sgd_steps
from gpusoftmax.cuda.buckets import BFLOAT16, FLAT, FLOAT16, FLOAT32, FLOAT64, STREAMED, UINT8, choose
from gpusoftmax.cuda.compile import source
from gpusoftmax.cuda.few_classes import ALONE, CLUSTER, FLAGS
from gpusoftmax.cuda.sparse import SEGMENT, layout
from gpusoftmax.dtypes import BFLOAT16 as BFLOAT16_DTYPE
from gpusoftmax.dtypes import computation_dtype
from tests.support.emulation import standin
from tests.support.emulation.build import build, missing
from tests.support.emulation.traffic import Traffic, Watched

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SECTOR = 32
SOFTMAX, HINGE = 0, 1
SCORES = {
    FLOAT32: np.dtype(np.float32), FLOAT16: np.dtype(np.float16), BFLOAT16: BFLOAT16_DTYPE,
    FLOAT64: np.dtype(np.float64),
}  # fmt: skip
NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT64: "float64", UINT8: "uint8"}
KINDS = pytest.mark.parametrize("kind", SCORES, ids=NAMES.get)


@pytest.fixture
def cupy() -> Any:
    """The stand-in, on which the package's own code runs even where there is a GPU."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with standin.installed():
        import cupy

        yield cupy


def classes(aligned: bool) -> list[int]:
    """Numbers of classes: few, and then each half as large again; rows of whole sectors, or not even whole segments."""
    if not aligned:
        return [3, 5, 7, 11, 19, 31, *(16 * n + 1 for n in _growing(2, 2400))]
    return [16, 32, *(16 * n for n in _growing(3, 2400))]


def _growing(n: int, most: int) -> list[int]:
    found = []
    while n <= most:
        found.append(n)
        n = max(n + 1, n * 3 // 2)
    return found


def launched(
    cupy: Any, kind: int, c: int, m: int, loss: int = SOFTMAX, mode: int = row_losses.GRADIENT, biased: bool = False
) -> Callable[[], dict[str, tuple[int, int]]]:
    """Return a call of row_loss for m rows of c classes, which returns the arrays that it uses."""
    dtype = SCORES[kind]
    real = computation_dtype(dtype)
    bits = np.linspace(-2, 2, m * c).astype(np.float32)
    host = (bits.view(np.uint32) >> 16).astype(dtype) if kind == BFLOAT16 else bits.astype(dtype)
    Z = cupy.asarray(host.reshape(m, 1, c))
    # one target for all rows: then it shows conflicts of banks of the rows alone
    labels = cupy.asarray(np.full(m, c // 2, np.int32))
    weights = cupy.asarray(np.ones(m, real))
    bad_row = row_losses.no_bad_row()
    b = cupy.asarray(np.linspace(-1, 1, c, dtype=real)[None]) if biased else None

    def call() -> dict[str, tuple[int, int]]:
        losses, best = row_losses.row_loss(Z, b, labels, weights, loss, mode, bad_row)
        used = {"scores": Z, "labels": labels, "weights": weights, "losses": losses, "best": best, "bad_row": bad_row}
        used |= {"bias": b} if biased else {}
        return {name: (array.data.ptr, array.nbytes) for name, array in used.items()}

    return call


def variants(cupy: Any, monkeypatch: pytest.MonkeyPatch, kind: int, aligned: bool) -> dict[int, dict[str, int]]:
    """The largest number of classes of each variant that row_loss chooses, and its macros."""
    largest: dict[tuple[tuple[str, int], ...], int] = {}
    chosen: list[dict[str, int]] = []

    def kernel(file: str, name: str, **macros: int) -> Any:
        chosen.append(macros)
        return lambda *args, **options: None

    with monkeypatch.context() as patch:
        patch.setattr(row_losses, "kernel", kernel)
        for c in classes(aligned):
            launched(cupy, kind, c, 1)()
            largest[tuple(sorted(chosen[-1].items()))] = c
    return {c: dict(macros) for macros, c in largest.items()}


def watched(monkeypatch: pytest.MonkeyPatch, call: Callable[[], dict[str, tuple[int, int]]]) -> Traffic:
    """The traffic of the one kernel that a call launches."""
    built: list[Watched] = []

    def watch(text: str, optimise: str) -> Watched:
        built.append(Watched(build(text, count=True)))
        return built[-1]

    with monkeypatch.context() as patch:
        patch.setattr(standin, "build", watch)
        arrays = call()
    (one,) = built
    return one.traffic(**arrays)


def reads_twice(macros: dict[str, int]) -> bool:
    """Whether a variant is for rows that fit nowhere: it reads them again to write them."""
    return macros["HOLD"] == STREAMED


def rows_for(c: int) -> int:
    """Some rows: whole blocks where rows are short."""
    return 256 if c <= 64 else 64 if c <= 600 else 8 if c <= 2048 else 2


@KINDS
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
def test_rows_are_read_and_written_once(cupy: Any, monkeypatch: pytest.MonkeyPatch, kind: int, aligned: bool) -> None:
    size = SCORES[kind].itemsize
    real = np.dtype(computation_dtype(SCORES[kind])).itemsize
    found = variants(cupy, monkeypatch, kind, aligned)
    assert len(found) > 8
    for c, macros in found.items():
        m = rows_for(c)
        counted = watched(monkeypatch, launched(cupy, kind, c, m))
        scores, minimum, name = counted.arrays["scores"], m * c * size, f"{c} classes, {macros}"
        passes = 2 if reads_twice(macros) else 1
        # unless rows are whole segments, a segment more at each end
        extra = 0 if aligned else passes * m * 2 * 16
        assert passes * minimum <= scores.read.nbytes <= passes * minimum + extra, name
        assert minimum <= scores.read.distinct <= minimum + 2 * 16, name  # beyond the first row and the last
        # the gradient of the target may be written after the others
        assert scores.write.distinct == minimum, name
        assert minimum <= scores.write.nbytes <= minimum + m * size, name
        for array, each in (("labels", 4), ("weights", real)):
            assert counted.arrays[array].read.distinct == m * each, f"{array}, {name}"
            assert counted.arrays[array].write.nbytes == 0, f"{array}, {name}"
        for array, each in (("losses", real), ("best", 4)):
            assert counted.arrays[array].write.nbytes == m * each, f"{array}, {name}"
            assert counted.arrays[array].read.nbytes == 0, f"{array}, {name}"
        assert counted.arrays["bad_row"].read.nbytes == counted.arrays["bad_row"].write.nbytes == 0, name
        if aligned:
            assert scores.read.sectors == scores.read.ideal_sectors, name
            assert scores.write.sectors <= scores.write.ideal_sectors + m, name  # each target is a part of one
        # rows of a multiple of 32 bytes begin in a few places of the banks, and 16-bit numbers of odd rows apart
        meet = macros["HOLD"] == FLAT and (c * size % 32 == 0 or size == 2)
        assert (counted.shared.conflicts == 0) or meet, name
        assert counted.shared.wavefronts <= 4 * counted.shared.ideal_wavefronts, name


@KINDS
@pytest.mark.parametrize("mode", [row_losses.LOSSES, row_losses.PROBABILITIES], ids=["losses", "probabilities"])
def test_losses_write_no_scores_and_probabilities_all(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, kind: int, mode: int
) -> None:
    for c in (16, 96, 1008, 3008):
        m = rows_for(c)
        scores = watched(monkeypatch, launched(cupy, kind, c, m, mode=mode)).arrays["scores"]
        assert scores.read.distinct == m * c * SCORES[kind].itemsize
        assert scores.write.distinct == (0 if mode == row_losses.LOSSES else scores.read.distinct)


@KINDS
@pytest.mark.parametrize("c", [96, 97, 1008, 1009, 3001])
def test_a_block_reads_its_bias_once(cupy: Any, monkeypatch: pytest.MonkeyPatch, kind: int, c: int) -> None:
    m = 2 * rows_for(c)
    counted = watched(monkeypatch, launched(cupy, kind, c, m, biased=True))
    bias = counted.arrays["bias"]
    blocks = choose(kind, c, 0, 99 << 10, clusters=True).blocks(m, 1)
    assert bias.read.nbytes == blocks * c * np.dtype(computation_dtype(SCORES[kind])).itemsize
    assert bias.write.nbytes == 0
    assert counted.shared.conflicts == 0


@pytest.mark.parametrize("c", [16, 96, 1008, 3008])
def test_a_hinge_reads_a_row_no_more_often(cupy: Any, monkeypatch: pytest.MonkeyPatch, c: int) -> None:
    m = rows_for(c)
    softmax, hinge = (
        watched(monkeypatch, launched(cupy, FLOAT32, c, m, loss)).arrays["scores"].read for loss in (SOFTMAX, HINGE)
    )
    assert hinge == softmax


# ---- the other kernels


class Launch:
    """Arrays in memory, by name, and the kernels of a text that are launched on them."""

    def __init__(self, text: str, **arrays: np.ndarray[Any, Any] | None) -> None:
        self._watched = Watched(build(text, count=True))
        self._arrays = {name: _aligned(array) for name, array in arrays.items() if array is not None}
        self._absent = [name for name, array in arrays.items() if array is None]

    def __call__(self, name: str, grid: tuple[int, ...], *arguments: Any, threads: int = 256, shared: int = 0) -> None:
        """Launch a kernel; arguments are names of arrays, or numbers."""
        addresses = {name: array.ctypes.data for name, array in self._arrays.items()} | dict.fromkeys(self._absent, 0)
        values = [addresses[one] if isinstance(one, str) else one for one in arguments]
        self._watched.launch(name, grid, (threads,), values, shared)

    def traffic(self) -> Traffic:
        """The traffic of all launches."""
        return self._watched.traffic(
            **{name: (array.ctypes.data, array.nbytes) for name, array in self._arrays.items()}
        )


def _aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that begins at a multiple of 128 bytes."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    at = -memory.ctypes.data % 128
    copy = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "in-order"])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("target", [FLOAT32, BFLOAT16, FLOAT64], ids=NAMES.get)
@pytest.mark.parametrize("kind", [UINT8, FLOAT16, FLOAT32], ids=NAMES.get)
def test_gathering_moves_each_element_once(kind: int, target: int, width: int, indexed: bool) -> None:
    m, d = 12, 256
    dtypes = SCORES | {UINT8: np.dtype(np.uint8)}
    launch = Launch(
        source("gather.cu", {"SOURCE": kind, "TARGET": target, "WIDTH": width}),
        X=np.ones((20, d), dtypes[kind]),
        rows=np.arange(m)[::-1].copy() if indexed else None,
        out=np.zeros((m, d), dtypes[target]),
    )
    launch("gather", (m * d // (256 * width),), "X", d, "rows", 0 if indexed else 3, m, d, "out")
    arrays = launch.traffic().arrays
    read, written = arrays["X"].read, arrays["out"].write
    assert (read.nbytes, read.sectors) == (m * d * dtypes[kind].itemsize, read.ideal_sectors)
    assert (written.nbytes, written.sectors) == (m * d * dtypes[target].itemsize, written.ideal_sectors)
    assert read.requests == written.requests == m * d // (32 * width)
    if indexed:
        assert arrays["rows"].read.distinct == 8 * m


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("kind", [FLOAT32, FLOAT64], ids=NAMES.get)
def test_sums_of_rows_read_each_loss_once(kind: int, K: int) -> None:
    n, blocks = 5120, 2
    launch = Launch(
        source("reduce.cu", {"SCORE": kind}),
        losses=np.ones((n, K), SCORES[kind]), best=np.ones((n, K), np.int32), labels=np.ones(n, np.int32),
        weights=np.ones((n, K), SCORES[kind]), partials=np.zeros((blocks, K, 2)), totals=np.zeros((K, 2)),
    )  # fmt: skip
    launch("sum_rows", (blocks, K), "losses", "best", "labels", "weights", n, "partials")
    launch("add_partials", (K,), "partials", blocks, "totals")
    counted = launch.traffic()
    arrays, size = counted.arrays, SCORES[kind].itemsize
    for name, each in (("losses", size), ("weights", size), ("best", 4)):
        assert arrays[name].read.nbytes == n * K * each
        # models lie beside each other, and a block has one of them
        assert arrays[name].read.sectors <= K * arrays[name].read.ideal_sectors
    assert arrays["labels"].read.nbytes == K * 4 * n
    assert arrays["labels"].read.sectors == arrays["labels"].read.ideal_sectors
    assert arrays["partials"].write.nbytes == arrays["partials"].read.nbytes == blocks * K * 16
    assert arrays["totals"].write.nbytes == arrays["totals"].read.nbytes == K * 16
    assert counted.shared.conflicts == 0
    assert counted.barriers == 4 * (blocks * K + K)  # two sums a block, two barriers each


@pytest.mark.parametrize("q", [1, 8, 32, 64, 130])
@pytest.mark.parametrize("kind", [FLOAT32, UINT8], ids=NAMES.get)
def test_a_sparse_product_reads_each_entry_once_and_its_row_of_the_matrix(kind: int, q: int) -> None:
    lengths, width = [32, 64, 0, 320, 32, 96, 64, 32, 128], 400
    indptr, rng = np.cumsum([0, *lengths]), np.random.default_rng(0)
    n, entries, (lanes, columns) = len(lengths), int(indptr[-1]), layout(q)
    dtype = np.dtype(np.uint8) if kind == UINT8 else SCORES[kind]
    launch = Launch(
        source("sparse.cu", {
            "VALUE": kind, "SCORE": FLOAT32, "SQUARED": 0, "LANES": lanes, "COLUMNS": columns, "SEGMENT": SEGMENT,
        }),
        indptr=indptr, indices=rng.integers(0, width, entries).astype(np.int32), values=np.ones(entries, dtype),
        M=np.ones((width, q), np.float32), out=np.zeros((n, q), np.float32), nothing=None,
    )  # fmt: skip
    parts = -(-q // (lanes * columns))
    launch(
        "multiply_rows", (-(-n // 8), parts), "indptr", "indices", "values", "M", "nothing", "nothing", n, q,
        "nothing", "nothing", 0, "nothing", "out",
    )  # fmt: skip
    arrays = launch.traffic().arrays
    for name, each in (("indices", 4), ("values", dtype.itemsize)):
        assert arrays[name].read.nbytes == parts * entries * each
        assert arrays[name].read.sectors == arrays[name].read.ideal_sectors
    # a request has entries whose columns may be equal: their row of M is then read once
    assert (entries * q * 4) * 0.8 <= arrays["M"].read.nbytes <= entries * q * 4
    if q * 4 % SECTOR == 0:
        assert arrays["M"].read.sectors == arrays["M"].read.ideal_sectors
    assert arrays["out"].write.nbytes == n * q * 4
    if q * 4 % SECTOR == 0:
        assert arrays["out"].write.sectors == arrays["out"].write.ideal_sectors
    assert arrays["indptr"].read.distinct == 8 * (n + 1)


NO_BAD_ROW = np.array([2**64 - 1], np.uint64)


@pytest.mark.parametrize(
    ("d", "K", "c", "capability", "exchange"),
    [(512, 1, 10, 90, ALONE), (1032, 1, 10, 90, CLUSTER), (1032, 1, 10, 80, FLAGS), (256, 8, 2, 90, ALONE)],
    ids=["alone", "cluster", "flags", "models"],
)
def test_a_gradient_for_few_classes_reads_x_once(d: int, K: int, c: int, capability: int, exchange: int) -> None:
    n, q, variant = 150, K * c, few_classes.choose(FLOAT32, d, K, c, capability)
    leaves, slices, rows = -(-n // variant.leaf), variant.slices, variant.rows
    assert variant.exchange == exchange
    launch = Launch(
        source("few_classes.cu", variant.macros(SOFTMAX)),
        X=np.ones((n, d), np.float32), rows=np.arange(n)[::-1], W=np.ones((q, d), np.float32), b=np.ones(q, np.float32),
        labels=np.ones(n, np.int32), weights=np.ones((n, K), np.float32),
        leaves=np.zeros((leaves, d * q + variant.padded), np.float32), leaf_totals=np.zeros((leaves, K, 2)),
        exchanged=np.zeros((leaves, 2, slices, rows * q), np.float32), flags=np.zeros(1 + leaves * slices, np.uint32),
        bad_row=NO_BAD_ROW, sums=np.zeros((d + 1, q), np.float32), totals=np.zeros((K, 2)),
    )  # fmt: skip
    launch(
        "few_classes", (leaves * slices,), "X", d, "rows", "W", "b", "labels", "weights", n, d, "leaves", "leaf_totals",
        "exchanged", "flags", "bad_row", threads=variant.threads, shared=variant.shared,
    )  # fmt: skip
    counted = launch.traffic()
    arrays = counted.arrays
    assert (arrays["X"].read.nbytes, arrays["X"].read.distinct) == (n * d * 4, n * d * 4)
    assert arrays["W"].read.nbytes == leaves * d * q * 4
    assert arrays["leaves"].write.nbytes == leaves * (d + 1) * q * 4
    assert arrays["leaf_totals"].write.nbytes == leaves * K * 16
    for name in ("X", "W"):
        assert arrays[name].read.sectors == arrays[name].read.ideal_sectors, name
    # the sums of every other leaf begin in the middle of a sector if padded rows are not whole ones
    assert arrays["leaves"].write.sectors <= 1.05 * arrays["leaves"].write.ideal_sectors
    for name, each in (("rows", 8), ("labels", 4), ("weights", 4 * K)):
        assert arrays[name].read.nbytes == slices * n * each, name
    for name in ("X", "rows", "W", "b", "labels", "weights", "bad_row"):
        assert arrays[name].write.nbytes == 0, name

    tiles = -(-variant.leaf // rows) + -(-(n - variant.leaf) // rows)
    given = slices * tiles * rows * q * 4  # by each block to one block, or to memory
    assert arrays["exchanged"].write.nbytes == (given if exchange == FLAGS else 0)
    assert counted.peers.nbytes == (given * (slices - 1) if exchange == CLUSTER else 0)
    if exchange == FLAGS:  # threads without a row read the last one again
        assert slices * given <= arrays["exchanged"].read.nbytes <= 1.5 * slices * given
    else:
        assert arrays["flags"].read.requests == arrays["flags"].write.requests == 0
    # partial scores that a lane keeps two of; and, once a leaf, weights and losses of rows under several models
    assert counted.shared.conflicts <= (0.02 if K == 1 else 0.12) * counted.shared.wavefronts


def test_leaves_are_read_once_and_added() -> None:
    d, n_leaves, variant = 128, 40, few_classes.choose(FLOAT32, 128, 1, 10, 90)
    q = variant.scores
    launch = Launch(
        source("few_classes.cu", variant.macros(SOFTMAX)),
        leaves=np.zeros((n_leaves, d * q + variant.padded), np.float32), leaf_totals=np.zeros((n_leaves, 1, 2)),
        sums=np.zeros((d + 1, q), np.float32), totals=np.zeros((1, 2)), nothing=None,
    )  # fmt: skip
    columns, node = -(-((d + 1) * q + 2) // 256), (d + 1) * q * 4
    launch("add_leaves", (columns, 3), "leaves", "leaf_totals", n_leaves, 1, d, "nothing", "nothing")
    launch("add_leaves", (columns, 1), "leaves", "leaf_totals", n_leaves, few_classes.NODES, d, "sums", "totals")
    arrays = launch.traffic().arrays
    assert arrays["leaves"].read.nbytes == (n_leaves + 3) * node
    assert arrays["leaves"].write.nbytes == 3 * node
    assert arrays["sums"].write.nbytes == node
    assert arrays["leaf_totals"].read.nbytes == (n_leaves + 3) * 16
    assert arrays["leaves"].read.sectors <= 1.2 * arrays["leaves"].read.ideal_sectors  # leaves are not whole sectors


@pytest.mark.parametrize(
    ("kind", "d", "K", "c", "m", "width"),
    [(FLOAT32, 96, 1, 10, 200, 4), (UINT8, 96, 2, 3, 264, 16), (FLOAT32, 63, 1, 32, 64, 1)],
    ids=["vectors", "bytes", "one by one"],
)
def test_a_step_of_sgd_reads_x_and_its_gradients_twice(kind: int, d: int, K: int, c: int, m: int, width: int) -> None:
    n, q, dtype = 500, K * c, (SCORES | {UINT8: np.dtype(np.uint8)})[kind]
    parts, blocks = -(-d // sgd_steps.PART), -(-m // sgd_steps.BLOCK_ROWS)
    macros = {
        "SOURCE": kind, "LOSS": SOFTMAX, "CLASSES": c, "COLUMNS": q, "WIDTH": width, "SHIFTED": 0, "SCALED": 0,
        "NESTEROV": 0, "FIT_INTERCEPT": 1, "PENALIZE_INTERCEPT": 0,
    }  # fmt: skip
    launch = Launch(
        source("sgd_steps.cu", macros),
        X=np.ones((n, d), dtype), rows=np.random.default_rng(0).permutation(n)[:m], labels=np.ones(n, np.int32),
        weights=np.ones((n, K), np.float32), W=np.ones((d, q), np.float32), b=np.ones(q, np.float32),
        of_W=np.ones((d, q), np.float32), of_b=np.ones(q, np.float32), strengths=np.ones(K), weight_sums=np.ones(K),
        rates=np.ones((1, K), np.float32), momentum=np.ones(K, np.float32), step=np.zeros(1, np.int32),
        parts=np.zeros((parts, q, m), np.float32), offsets=np.zeros((parts, q)), gradients=np.zeros((m, q), np.float32),
        sums_b=np.zeros((blocks, q), np.float32), losses=np.zeros((blocks, K, 2)), norms=np.zeros((parts, K)),
        totals=np.zeros((3, K)), first=np.zeros(K), nothing=None,
    )  # fmt: skip
    numbered, grid = ("X", d, "rows", m, d), (parts, -(-m // sgd_steps.THREADS))
    launch("score_parts", grid, m, *numbered, "W", "nothing", "nothing", "step", "parts", "offsets")
    x = launch.traffic().arrays["X"].read
    assert x.nbytes == x.distinct == m * d * dtype.itemsize
    assert x.requests == -(-m // 32) * d // width
    # each lane has a part of a sector of its own row; the rest is asked for next, and is in the first-level cache
    assert x.sectors == m * d // width

    launch(
        "row_gradients", (blocks,), m, "rows", m, d, "labels", "weights", "b", "step", "parts", "offsets", "gradients",
        "sums_b", "losses",
    )  # fmt: skip
    launch(
        "update", (parts,), m, *numbered, n, "gradients", "sums_b", "nothing", "nothing", "strengths", "nothing",
        "weight_sums", "rates", "momentum", "step", "W", "b", "of_W", "of_b", "norms",
    )  # fmt: skip
    launch(
        "add_totals", (1,), m, d, n, "losses", "norms", "strengths", "weight_sums", "step", "totals", "first",
        threads=32,
    )  # fmt: skip
    counted = launch.traffic()
    arrays = counted.arrays
    assert arrays["X"].read.nbytes == 2 * m * d * dtype.itemsize
    if d % 32 == 0:
        assert arrays["X"].read.sectors == x.sectors + m * d * dtype.itemsize // 32
    assert arrays["parts"].read.nbytes == arrays["parts"].write.nbytes == m * q * parts * 4
    assert arrays["gradients"].read.nbytes == parts * m * q * 4
    assert arrays["gradients"].write.nbytes == m * q * 4
    for name in ("parts", "gradients"):
        for access in (arrays[name].read, arrays[name].write):
            assert access.sectors == access.ideal_sectors, name
    assert arrays["W"].read.distinct == d * q * 4
    for name in ("W", "of_W"):
        assert arrays[name].write.nbytes == d * q * 4, name
    assert arrays["of_W"].read.nbytes == d * q * 4
    assert (arrays["labels"].read.nbytes, arrays["weights"].read.nbytes) == (4 * m, 4 * K * m)
    assert arrays["losses"].write.nbytes == arrays["losses"].read.nbytes == blocks * K * 16
    assert arrays["norms"].write.nbytes == arrays["norms"].read.nbytes == parts * K * 8
    assert arrays["b"].write.nbytes == 4 * q
    # losses of a row, two doubles; and where a warp has numbers of more than one feature or row
    assert counted.shared.conflicts <= 0.05 * counted.shared.wavefronts


@pytest.mark.parametrize(("target", "terms"), [(FLOAT16, 2), (BFLOAT16, 3)], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("width", [1, 4])
def test_splitting_reads_each_number_once_and_writes_its_terms(target: int, terms: int, width: int) -> None:
    n = 3072 if width == 4 else 3000
    launch = Launch(
        source("split.cu", {"TARGET": target, "TERMS": terms, "WIDTH": width}),
        x=np.ones(n, np.float32), bits=np.zeros(1, np.uint32), terms=np.zeros((terms, n), np.uint16),
        scalars=np.zeros(3, np.float32),
    )  # fmt: skip
    launch("largest", (-(-n // 1024),), "x", n, "bits")
    launch("split", (-(-n // (256 * width)),), "x", n, "bits", "terms", "scalars")
    arrays = launch.traffic().arrays
    read, written = arrays["x"].read, arrays["terms"].write
    assert (read.nbytes, read.sectors) == (2 * n * 4, read.ideal_sectors)
    assert written.nbytes == n * terms * 2
    assert written.sectors == written.ideal_sectors if n % 16 == 0 else written.sectors <= 1.25 * written.ideal_sectors
    assert arrays["bits"].read.distinct == 4
    assert arrays["scalars"].write.nbytes == 12
