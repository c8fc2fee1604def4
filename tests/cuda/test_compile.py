"""Every CUDA kernel compiled by NVRTC, without a GPU: no spills, wide loads, the table of kernels/README.md.

Each combination of bucket, type and loss is compiled for one architecture, in rotation; `python -m bench kernels`
compiles all of them for all architectures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bench.gpu import compiler, kernel_table
from gpusoftmax.cuda.compile import kernel_folder, source
from gpusoftmax.cuda.few_classes import choose

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernel_table.missing() is not None, reason=str(kernel_table.missing())),
]

ARCHITECTURES = kernel_table.ARCHITECTURES
Job = tuple[Any, int]
_rows: dict[tuple[str, ...], list[Any]] = {}
for _variant in kernel_table.VARIANTS:
    if _variant.file == "row_loss.cu":
        _rows.setdefault(_variant.row, []).append(_variant)
_rest = [v for v in kernel_table.VARIANTS if v.file != "row_loss.cu"]
# One loss and one architecture for each row of the table, in turn; `python -m bench kernels` compiles all of them.
JOBS: list[Job] = [
    (variants[i % len(variants)], ARCHITECTURES[i % len(ARCHITECTURES)]) for i, variants in enumerate(_rows.values())
] + [(v, ARCHITECTURES[i % len(ARCHITECTURES)]) for i, v in enumerate(_rest)]


@pytest.fixture(scope="module")
def facts() -> Iterator[dict[Job, Future[Any]]]:
    """All of JOBS, compiled on all cores while the first are looked at."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {job: pool.submit(kernel_table.compiled, *job) for job in JOBS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job[0]} sm_{job[1]}".replace(" ", "-"))
def test_a_kernel_compiles_without_spills_and_with_wide_loads(job: Job, facts: dict[Job, Future[Any]]) -> None:
    found = facts[job].result()
    assert kernel_table.faults(*job, found) == []
    assert kernel_table.unexpected({job: found}) == []
    assert kernel_table.differences({job: found}) == [], "run python -m bench kernels"


def test_every_row_of_the_table_is_compiled_and_every_loss_and_type_meets_every_architecture() -> None:
    assert {(variant.file, variant.row) for variant, _ in JOBS} == {(v.file, v.row) for v in kernel_table.VARIANTS}
    for loss in range(3):
        assert {arch for variant, arch in JOBS if ("LOSS", loss) in variant.macros} == set(ARCHITECTURES)
        for scores in ("float32", "float16", "bfloat16", "float64"):
            assert any(variant.row[0] == scores and ("LOSS", loss) in variant.macros for variant, _ in JOBS)
    for scores in ("float32", "float16", "bfloat16", "float64"):
        assert {arch for variant, arch in JOBS if variant.row[0] == scores} == set(ARCHITECTURES)


def test_every_kernel_file_has_a_table() -> None:
    assert {path.name for path in kernel_folder().glob("*.cu")} == set(kernel_table.TABLES)


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("best", [0, 1])
def test_other_modes_compile_too(mode: int, best: int) -> None:
    half = [variants for row, variants in _rows.items() if row[0] == "float16"]
    for number, variants in enumerate(half):
        # losses and architectures in turn: each loss is compiled for every row in mode 0, in the table
        variant = variants[number % 3 if mode == 1 else 0]
        macros = {**dict(variant.macros), "MODE": mode, "BEST": best, "BIAS": number % 2}
        code, log = kernel_table.cubin(source("row_loss.cu", macros), ARCHITECTURES[number % len(ARCHITECTURES)])
        assert code.startswith(b"\x7fELF")
        spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
        assert spilled
        assert max(spilled) <= kernel_table.MOST_SPILLED


def test_the_blocks_that_share_features_are_a_cluster_and_copy_16_bytes_at_a_time() -> None:
    variant = choose(kernel_table.FLOAT32, 3072, 1, 10, 90)
    code, _ = kernel_table.cubin(source("few_classes.cu", variant.macros(0)), 90)
    attribute = b"\x04\x3d\x0c\x00"  # EIATTR_CTA_PER_CLUSTER, which has 12 bytes
    assert attribute + np.array([variant.slices, 1, 1], np.uint32).tobytes() in code
    assert set(re.findall(r"LDGSTS\S*", compiler.listing(code))) == {"LDGSTS.E.BYPASS.128"}


# ---- what follows from the machine code


def looked_at(scores: str, classes: int, arch: int) -> tuple[Any, Any, Any]:
    """The softmax of so many classes: its variant, its facts, and its task of the largest number of classes."""
    for variants in _rows.values():
        sizes = [task.classes for task in variants[0].tasks]
        if variants[0].row[0] == scores and sizes[0] <= classes <= sizes[-1]:
            (fact,) = kernel_table.compiled(variants[0], arch).values()
            return variants[0], fact, len(sizes) - 1
    raise AssertionError(f"no variant is for {classes} classes")


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_a_row_of_a_thousand_classes_is_loaded_before_anything_waits(arch: int) -> None:
    variant, fact, number = looked_at("float32", 1000, arch)
    assert sum(n for size, n in fact.loads.items() if size >= 16) >= 8
    short = variant.row[:2] in kernel_table.KNOWN_SHORT
    assert (fact.costs[number].before_wait >= 8) != short


def test_the_limits_of_a_variant_are_where_the_table_says() -> None:
    variant, fact, number = looked_at("float32", 1000, 90)
    figures = kernel_table.figures(variant, 90, fact, number)
    assert figures.occupancy.limit == "registers"
    assert figures.occupancy.blocks == 65536 // (variant.threads * (-(-fact.registers // 8) * 8))
    # read and written in a clock: what four instructions of 32 lanes are enough for
    assert figures.prediction is not None
    per_element = variant.tasks[number].moved / variant.tasks[number].elements
    issue = 132 * 1.98e9 * 128 / figures.an_element * per_element
    assert figures.prediction.limits["issue"] == pytest.approx(issue, rel=0.01)
    assert 20 < figures.an_element < 60


def test_a_variant_that_falls_short_and_is_not_known_to_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = next(v for v in kernel_table.VARIANTS if v.row[0] == "float32" and v.tasks[0].classes > 200)
    results = {(variant, 90): kernel_table.compiled(variant, 90)}
    monkeypatch.setattr(kernel_table, "KNOWN_SHORT", frozenset())
    monkeypatch.setattr(kernel_table, "LEAST_IN_FLIGHT", 1 << 20)
    assert any("bytes in flight" in line for line in kernel_table.unexpected(results))
    monkeypatch.setattr(kernel_table, "LEAST_SHARE", 1.01)
    assert any("of a copy, for" in line for line in kernel_table.unexpected(results))
    monkeypatch.setattr(kernel_table, "LEAST_IN_FLIGHT", 0)
    monkeypatch.setattr(kernel_table, "LEAST_SHARE", 0.0)
    assert kernel_table.unexpected(results) == []
    monkeypatch.setattr(kernel_table, "KNOWN_SHORT", frozenset({variant.row[:2]}))
    assert kernel_table.unexpected(results) == []  # other losses and architectures may fall short
    everything = {
        (v, arch): results[variant, 90]
        for v in kernel_table.VARIANTS
        if v.row[:2] == variant.row[:2]
        for arch in ARCHITECTURES
    }
    assert "take it out of KNOWN_SHORT" in kernel_table.unexpected(everything)[0]


def test_an_error_names_the_file_and_its_own_line() -> None:
    text = source("probe.cu", {}).replace("(int)threadIdx.x", "nothing")
    with pytest.raises(RuntimeError, match=r'probe\.cu\(5\): error: identifier "nothing" is undefined'):
        kernel_table.cubin(text, 90)


def test_a_row_that_spills_or_loads_narrowly_is_found() -> None:
    text = """extern "C" __global__ void __launch_bounds__(1024) k(float* x) {
        float row[200];
        for (int i = 0; i < 200; i++) row[i] = x[threadIdx.x + i * 1024];
        for (int i = 0; i < 200; i++) x[threadIdx.x + i * 1024] = row[(i * 7 + (int)x[0]) % 200];
    }"""

    class Wide(kernel_table.Variant):  # type: ignore[misc]
        text = ""

    Wide.text = text
    variant = Wide("k.cu", ("k",), (), load=16, threads=1024)
    found = kernel_table.faults(variant, 90, kernel_table.compiled(variant, 90))
    assert len(found) == 2
    assert "spills" in found[0]
    assert "no 16-byte loads" in found[1]
