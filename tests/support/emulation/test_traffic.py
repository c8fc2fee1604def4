"""The counts of memory traffic are right where they are known: else what tests say of kernels by them means nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.emulation.build import build, missing
from tests.support.emulation.traffic import Traffic, Watched

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

BEFORE = "struct alignas(16) Four { int x[4]; };\nstruct alignas(8) Two { int x[2]; };\n"


def array(size: int, skip: int = 0) -> Any:
    """Ints that begin `skip` of them beyond a multiple of 128 bytes."""
    memory = np.zeros(size + 64, np.int32)
    at = -memory.ctypes.data % 128 // 4 + skip
    return memory[at : at + size]


def traffic(body: str, *, threads: int = 64, blocks: int = 1, skip: int = 0, seed: int = 0, shared: int = 0) -> Traffic:
    """What `body` does with the arrays a and out; x is the number of the thread."""
    watched = Watched(
        build(
            f'{BEFORE}extern "C" __global__ void k(const int* a, int* out) {{\nconst int x = threadIdx.x;\n{body}\n}}',
            count=True,
        )
    )
    a, out = array(8192, skip), array(8192)
    watched.launch("k", (blocks,), (threads,), [a.ctypes.data, out.ctypes.data], shared, seed)
    return watched.traffic(a=(a.ctypes.data, a.nbytes), out=(out.ctypes.data, out.nbytes))


@pytest.mark.parametrize(
    ("body", "skip", "nbytes", "sectors", "ideal"),
    [
        ("out[x] = a[x];", 0, 128, 4, 4),
        ("out[x] = a[x];", 1, 128, 5, 4),
        ("out[x] = a[2 * x];", 0, 128, 8, 4),
        ("out[x] = a[8 * x];", 0, 128, 32, 4),
        ("out[x] = a[63 - x];", 0, 128, 4, 4),
        ("out[x] = a[5];", 0, 4, 1, 1),
        ("out[x] = a[x / 4];", 0, 32, 1, 1),
        ("out[x] = ((const Two*)a)[x].x[1];", 0, 128, 8, 4),  # a part of a struct is loaded alone
        ("Two t = ((const Two*)a)[x];\nout[x] = t.x[0] + t.x[1];", 0, 256, 8, 8),
        ("Four t = ((const Four*)a)[x];\nout[x] = t.x[0] + t.x[3];", 0, 512, 16, 16),
        ("Four t = *reinterpret_cast<const Four*>(a + 8 * x);\nout[x] = t.x[1];", 0, 512, 32, 16),
        ("Four t;\nmemcpy(&t, a + 4 * x, 16);\nout[x] = t.x[0] + t.x[3];", 0, 512, 16, 16),
        ("out[x] = ((const short*)a)[x];", 0, 64, 2, 2),
        ("out[x] = ((const char*)a)[x];", 0, 32, 1, 1),
    ],
)
def test_a_warps_request_is_counted_in_sectors(body: str, skip: int, nbytes: int, sectors: int, ideal: int) -> None:
    for seed in range(3):
        counted = traffic(body, skip=skip, seed=seed)
        read = counted.arrays["a"].read
        assert (read.requests, read.nbytes, read.sectors, read.ideal_sectors) == (2, 2 * nbytes, 2 * sectors, 2 * ideal)
        assert read.sectors_per_request == sectors
        written = counted.arrays["out"].write
        assert (written.requests, written.nbytes, written.sectors, written.lanes) == (2, 256, 8, 64)
        assert (counted.read, counted.written) == (2 * nbytes, 256)
        assert counted.active_lanes == 32
        assert counted.arrays["a"].write == counted.arrays["out"].read
        assert counted.arrays["a"].write.requests == 0


def test_a_vector_is_stored_at_once() -> None:
    written = traffic("Four t = {{x, x, x, x}};\n((Four*)out)[x] = t;", threads=32).arrays["out"].write
    assert (written.requests, written.nbytes, written.sectors) == (1, 512, 16)


def test_what_several_requests_read_is_counted_for_each_and_once() -> None:
    read = (
        traffic("for (int i = 0; i < 3; i++) { out[x] += a[x]; out[x] ^= a[x]; }", threads=32, blocks=2)
        .arrays["a"]
        .read
    )
    assert (read.requests, read.nbytes, read.distinct) == (12, 12 * 128, 128)


def test_each_visit_of_a_loop_and_each_call_is_a_request_of_its_own() -> None:
    body = """
    int sum = 0;
    for (int i = 0; i < 4; i++) sum += a[32 * i + x];
    for (int i = x; i < 128; i += 32) sum += a[i];
    out[x] = sum;
    """
    read = traffic(body, threads=32).arrays["a"].read
    assert (read.requests, read.sectors_per_request) == (8, 4)


def test_lanes_that_take_no_part_are_left_out() -> None:
    counted = traffic("if (x % 2) out[x] = a[x];\nelse out[x] = 1;", threads=32)
    assert counted.arrays["a"].read.lanes == 16
    assert counted.active_lanes == 16
    half = traffic("if (x < 8) out[x] = 1;", threads=32)
    assert (half.active_lanes, half.arrays["out"].write.sectors) == (8, 1)


@pytest.mark.parametrize(
    ("index", "wavefronts", "ideal"),
    [
        ("x", 1, 1), ("2 * x", 2, 1), ("4 * x", 4, 1), ("32 * x", 32, 1), ("33 * x", 1, 1), ("3 * x", 1, 1),
        ("0", 1, 1), ("x / 2 * 32", 16, 1),
    ],
)  # fmt: skip
def test_two_words_of_one_bank_are_a_conflict(index: str, wavefronts: int, ideal: int) -> None:
    body = f"__shared__ int held[1056];\nheld[x] = 1;\n__syncthreads();\nout[x] = held[{index}];"
    counted = traffic(body, threads=32).shared
    assert counted.requests == 2
    assert (counted.wavefronts, counted.ideal_wavefronts) == (1 + wavefronts, 1 + ideal)
    assert counted.conflicts == wavefronts - ideal


@pytest.mark.parametrize(
    ("kind", "index", "wavefronts"),
    [
        ("Two", "x", 2),
        ("Four", "x", 4),
        ("Four", "2 * x", 8),
        ("Four", "3 * x", 4),
        ("Two", "5 * x", 2),
        ("Two", "0", 2),
    ],
)
def test_wide_accesses_of_shared_memory_take_a_wavefront_for_each_part_of_the_warp(
    kind: str, index: str, wavefronts: int
) -> None:
    body = f"extern __shared__ {kind} held[];\n{kind} t = held[{index}];\nout[x] = t.x[0] + t.x[1];"
    counted = traffic(body, threads=32, shared=4096).shared
    assert (counted.requests, counted.wavefronts, counted.lanes) == (1, wavefronts, 32)


def test_barriers_and_shuffles_are_counted() -> None:
    body = """
    int y = x;
    for (int i = 1; i < 32; i *= 2) {
        y += __shfl_xor_sync(0xffffffffu, y, i);
        __syncthreads();
    }
    out[x] = y;
    """
    counted = traffic(body, threads=64, blocks=3)
    assert (counted.barriers, counted.shuffles) == (15, 30)


def test_an_atomic_operation_reads_and_writes() -> None:
    out = traffic("atomicAdd(out + x % 8, 1);", threads=32).arrays["out"]
    assert (out.read.nbytes, out.write.nbytes, out.read.lanes) == (32, 32, 32)


def test_what_a_thread_keeps_for_itself_is_no_traffic() -> None:
    body = "int held[64];\nfor (int i = 0; i < 64; i++) held[i] = i * x;\nint* volatile p = held;\nout[x] = p[x % 64];"
    counted = traffic(body)
    assert counted.read == 0
    assert counted.written == 256
    assert counted.shared.requests == 0


def test_an_access_to_no_array_is_an_error() -> None:
    watched = Watched(build('extern "C" __global__ void k(int* out) { out[threadIdx.x] = 1; }', count=True))
    out = array(64)
    watched.launch("k", (1,), (64,), [out.ctypes.data])
    with pytest.raises(ValueError, match="32 accesses to none of the arrays"):
        watched.traffic(out=(out.ctypes.data, 128))


def test_stores_to_another_block_of_a_cluster_are_counted_apart() -> None:
    text = """
    extern "C" __cluster_dims__(2, 1, 1) __global__ void k(int* out);
    extern "C" __global__ void k(int* out) {
        extern __shared__ int held[];
        emulation::cluster_arrive();
        emulation::cluster_wait(__LINE__);
        for (int b = 0; b < 2; b++) emulation::store_in_cluster(held + 32 * (blockIdx.x % 2) + threadIdx.x, b, 1);
        emulation::cluster_arrive();
        emulation::cluster_wait(__LINE__);
        out[32 * blockIdx.x + threadIdx.x] = held[threadIdx.x] + held[32 + threadIdx.x];
    }
    """
    watched, out = Watched(build(text, count=True)), array(128)
    watched.launch("k", (4,), (32,), [out.ctypes.data], 256)
    counted = watched.traffic(out=(out.ctypes.data, out.nbytes))
    assert (out == 2).all()
    assert (counted.peers.requests, counted.peers.nbytes) == (4, 512)
    assert counted.shared.requests == 4 + 8  # stores to the own block, and loads
    assert counted.arrays["out"].write.nbytes == 512
