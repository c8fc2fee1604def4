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

import pytest

from bench.gpu import kernel_table
from gpusoftmax.cuda.compile import kernel_folder, source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernel_table.missing() is not None, reason=str(kernel_table.missing())),
]

ARCHITECTURES = kernel_table.ARCHITECTURES
Job = tuple[Any, int]
_row_loss = [v for v in kernel_table.VARIANTS if v.file == "row_loss.cu"]
_rest = [v for v in kernel_table.VARIANTS if v.file != "row_loss.cu"]
# One of the three losses for each bucket, each in turn; `python -m bench kernels` compiles all of them.
JOBS: list[Job] = [
    (v, ARCHITECTURES[i // 9 % len(ARCHITECTURES)]) for i, v in enumerate(_row_loss) if i % 3 == (i // 3 + i // 39) % 3
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
    assert kernel_table.differences({job: found}) == [], "run python -m bench kernels"


def test_every_bucket_is_compiled_and_every_loss_and_type_meets_every_architecture() -> None:
    def bucket(variant: Any) -> Any:
        return variant.file, frozenset(macro for macro in variant.macros if macro[0] != "LOSS")

    assert {bucket(variant) for variant, _ in JOBS} == {bucket(variant) for variant in kernel_table.VARIANTS}
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
    for number, bucket in enumerate(kernel_table.buckets(kernel_table.FLOAT16)):
        # losses and architectures in turn: each loss is compiled for every bucket in mode 0, in the table
        loss = number % 3 if mode == 1 else 0
        macros = {"SCORE": kernel_table.FLOAT16, "LOSS": loss, "MODE": mode, "BEST": best, **bucket.macros()}
        code, log = kernel_table.cubin(source("row_loss.cu", macros), ARCHITECTURES[number % len(ARCHITECTURES)])
        assert code.startswith(b"\x7fELF")
        spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
        assert spilled
        assert max(spilled) <= kernel_table.MOST_SPILLED


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
    variant = Wide("k.cu", ("k",), (("THREADS", 1024),), load=16)
    found = kernel_table.faults(variant, 90, kernel_table.compiled(variant, 90))
    assert len(found) == 2
    assert "spills" in found[0]
    assert "no 16-byte loads" in found[1]
