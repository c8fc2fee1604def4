"""A race is found where there is one, and none where there is none: else clean kernels would mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.emulation.build import EmulationError, build, missing
from tests.support.emulation.races import ATOMIC, BEGINS, COPIED, READ, WRITE, Checked, Race, described

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def races(
    body: str, *, threads: int = 64, blocks: int = 1, cluster: int = 1, seed: int = 0, before: str = ""
) -> list[Race]:
    """The races of `body`, which has ints `in` and `out`, unsigned `flags`, all zeros, and x, the number of the thread.

    Its dynamic shared memory is ints `held`, of which a thread has four.
    """
    parameters = "int* in, int* out, unsigned* flags"
    declared = f'extern "C" __cluster_dims__({cluster}, 1, 1) __global__ void k({parameters});\n' if cluster > 1 else ""
    head = f'{before}\n{declared}extern "C" __global__ void k({parameters}) {{\nextern __shared__ int held[];\n'
    checked = Checked(build(f'{head}const int x = threadIdx.x;\n#line 1 "body.cu"\n{body}\n}}', races=True))
    arrays = [np.zeros(4096, np.int32), np.zeros(4096, np.int32), np.zeros(64, np.uint32)]
    checked.launch("k", (blocks,), (threads,), [a.ctypes.data for a in arrays], 16 * threads, seed)
    return checked.races


def only(found: list[Race]) -> Race:
    """The first of races that all are between the same two lines."""
    assert len({race.lines for race in found}) == 1, described(found)
    return found[0]


def test_a_read_without_the_barrier_after_the_write_is_found_in_every_order() -> None:
    body = "held[x] = x;\nBARRIER;\nout[x] = held[63 - x];"
    for seed in range(4):
        found = races(body.replace("BARRIER", ""), seed=seed)
        assert {race.nbytes for race in found} == {4}
        assert {race.block for race in found} == {0}
        assert sum(race.nbytes for race in found) == 256
        for race in found:
            assert {(side.line, side.kind) for side in (race.first, race.second)} == {
                ("body.cu:1", WRITE), ("body.cu:3", READ)
            }  # fmt: skip
            assert race.first.thread + race.second.thread == 63
            assert race.address == 4 * race.writers[0].thread
        assert not races(body.replace("BARRIER", "__syncthreads()"), seed=seed)


def test_a_write_without_the_barrier_after_the_read_is_found() -> None:
    body = "held[x] = x;\n__syncthreads();\nout[x] = held[63 - x];\nBARRIER;\nheld[x] = 1;"
    race = only(races(body.replace("BARRIER", ""), threads=64))
    assert {(side.line, side.kind) for side in (race.first, race.second)} == {("body.cu:3", READ), ("body.cu:5", WRITE)}
    assert not races(body.replace("BARRIER", "__syncthreads()"))


def test_two_writes_are_found_though_they_write_the_same() -> None:
    race = only(races("held[x / 2] = 1;", threads=2))
    assert [(side.thread, side.kind) for side in (race.first, race.second)] == [(0, WRITE), (1, WRITE)]
    assert len(races("held[0] = 1;", threads=2)) == 1


@pytest.mark.parametrize("between", ["", "y += __shfl_xor_sync(0xffffffffu, y, 1);"], ids=["nothing", "a shuffle"])
def test_lanes_that_exchange_without_syncwarp_are_found(between: str) -> None:
    body = f"int y = x;\nheld[x] = y;\n{between}\nout[x] = held[x ^ 1] + y;"
    race = only(races(body, threads=32))
    assert race.lines == {"body.cu:2", "body.cu:4"}
    assert race.first.thread ^ race.second.thread == 1


def test_syncwarp_orders_the_lanes_that_it_names() -> None:
    body = "held[x] = x;\nif (x < 16) __syncwarp(0xffffu);\nelse __syncwarp(0xffff0000u);\nout[x] = held[x ^ LANES];"
    assert not races(body.replace("LANES", "8"), threads=32)
    assert len(races(body.replace("LANES", "16"), threads=32)) == 32
    assert not races("held[x] = x;\n__syncwarp();\nout[x] = held[x ^ 31];")
    assert len(races("held[x] = x;\n__syncwarp();\nout[x] = held[x ^ 32];")) == 64


def test_order_is_passed_on() -> None:
    body = """
    if (x == 0) held[0] = 1;
    __syncwarp();
    if (x == 1) held[1] = held[0];
    __syncthreads();
    if (x == 63) out[0] = held[0] + held[1];
    """
    assert not races(body)
    assert len(races(body.replace("__syncwarp();", ""))) == 1


def test_bytes_beside_each_other_are_no_race() -> None:
    assert not races("((char*)held)[x] = 1;\nif (x % 2) ((short*)out)[x] = 1;\nelse ((char*)out)[2 * x] = 1;")
    race = only(races("if (x == 0) ((int*)out)[0] = 1;\nif (x == 33) ((char*)out)[3] = 1;"))
    assert (race.block, race.nbytes) == (None, 1)


def test_threads_of_different_blocks_race_in_global_memory_but_not_in_shared() -> None:
    assert not races("held[x] = blockIdx.x;\nout[64 * blockIdx.x + x] = held[x];", blocks=3)
    race = only(races("out[x] = 1;\n", blocks=2, threads=1))
    assert {side.block for side in (race.first, race.second)} == {0, 1}
    static = "__shared__ int own[64];\nown[x] = 1;\n__syncthreads();\nout[64 * blockIdx.x + x] = own[63 - x];"
    assert not races(static, blocks=3)
    assert {race.block for race in races(static.replace("__syncthreads();", ""), blocks=3)} == {0, 1, 2}


def test_reads_are_no_race_nor_are_atomic_operations() -> None:
    assert not races("out[x] = in[0] + in[x / 2];\natomicAdd(flags, 1u);\natomicMax(flags + 1, 2u);")
    race = only(races("atomicAdd(flags, 1u);\nif (x == 9) out[0] = flags[0];"))
    assert {side.kind for side in (race.first, race.second)} == {ATOMIC | WRITE, READ}
    assert races("out[x] = 1;\natomicAdd(flags, 1u);\nif (x == 0) out[1] = 2;"), "an atomic operation orders nothing"


def test_the_line_is_that_of_the_call_of_an_inlined_function() -> None:
    before = '#line 1 "before.cuh"\n__forceinline__ void put(int* p) {\n*p = 1;\n}'
    race = only(races("if (x < 2)\nput(out);", before=before))
    assert race.first.line == race.second.line == "before.cuh:2 < body.cu:2"
    assert "thread 0 of block 0 writes at before.cuh:2 < body.cu:2, and thread 1 of block 0 writes" in str(race)


# ---- copies beside the computation

COPY = """
emulation::copy_async(held + 4 * x, in + 4 * x, 16, 16);
emulation::commit_copies();
FIRST
emulation::wait_copies(0);
THEN
out[x] = held[4 * OTHER];
"""


def copies(first: str = "", then: str = "", other: str = "(x ^ 1)") -> list[Race]:
    return races(COPY.replace("FIRST", first).replace("THEN", then).replace("OTHER", other))


def test_a_copy_is_seen_by_its_thread_and_by_others_after_a_barrier_that_follows_the_wait() -> None:
    assert not copies(other="x")
    assert not copies(then="__syncthreads();")
    assert not copies(then="__syncwarp();")
    race = only(copies())
    assert {side.kind for side in (race.first, race.second)} == {COPIED | WRITE, READ}
    assert race.lines == {"body.cu:2", "body.cu:7"}


def test_a_barrier_before_the_wait_does_not_help() -> None:
    assert copies(first="__syncthreads();")
    # nor if there is another one after the read
    reads_early = COPY.replace("FIRST", "__syncthreads();\nout[x] = held[4 * (x ^ 1)];\n__syncthreads();")
    assert races(reads_early.replace("THEN", "__syncthreads();").replace("OTHER", "x"))


def test_an_own_copy_that_was_not_waited_for_is_found() -> None:
    race = only(copies(first="out[x] = held[4 * x];", other="x"))
    assert race.first.thread == race.second.thread
    assert copies(first="held[4 * x] = 1;", other="x")


def test_a_copy_over_what_others_may_still_read_is_found() -> None:
    body = """
    held[4 * x] = x;
    __syncthreads();
    out[x] = held[4 * (x ^ 1)];
    BARRIER
    emulation::copy_async(held + 4 * x, in, 16, 16);
    """
    race = only(races(body.replace("BARRIER", "")))
    assert {side.kind for side in (race.first, race.second)} == {COPIED | WRITE, READ}
    assert not races(body.replace("BARRIER", "__syncthreads();"))


def test_a_write_to_what_is_being_copied_is_found() -> None:
    assert copies(first="in[4 * x] = 1;", other="x")
    assert copies(first="__syncthreads();\nin[4 * (x ^ 1)] = 1;\n__syncthreads();", other="x")
    assert not copies(then="in[4 * x] = 1;", other="x")


# ---- clusters and flags

RING = """
const int rank = blockIdx.x % 2;
FIRST
emulation::store_in_cluster(held + x, rank ^ 1, x);
SECOND
out[64 * blockIdx.x + x] = held[x];
"""
MEET = "emulation::cluster_arrive();\nemulation::cluster_wait(__LINE__);"


def ring(first: str = MEET, second: str = MEET, seed: int = 0) -> list[Race]:
    return races(RING.replace("FIRST", first).replace("SECOND", second), blocks=4, cluster=2, seed=seed)


def test_a_store_to_another_block_is_seen_after_the_clusters_barrier() -> None:
    for seed in range(4):
        assert not ring(seed=seed)
        found = ring(second="__syncthreads();", seed=seed)
        assert {race.block for race in found} == {0, 1, 2, 3}
        for race in found:
            assert race.first.block ^ race.second.block == 1
            assert {race.writers[0].block, race.block} == {race.first.block, race.second.block}


def test_a_store_to_a_block_that_may_not_have_begun_is_found() -> None:
    for seed in range(4):
        found = ring(first="", seed=seed)
        assert BEGINS in {race.first.kind for race in found}


def test_what_a_thread_does_after_it_has_arrived_is_not_ordered_by_that() -> None:
    arrives_early = "emulation::cluster_arrive();\nemulation::store_in_cluster(held + x, rank ^ 1, x);\nWAIT"
    body = RING.replace("FIRST", MEET).replace("SECOND", arrives_early.replace("WAIT", MEET.partition("\n")[2]))
    assert races(body, blocks=2, cluster=2)


FLAG = """
if (blockIdx.x == 0) {
    out[x] = x;
    BEFORE
    if (x == 0) emulation::store_flag(flags, 1);
} else {
    if (x == 0)
        while (emulation::load_flag(flags) == 0) __nanosleep(40);
    AFTER
    in[x] = out[63 - x];
}
"""


def flag(before: str = "__syncthreads();", after: str = "__syncthreads();", seed: int = 0) -> list[Race]:
    return races(FLAG.replace("BEFORE", before).replace("AFTER", after), blocks=2, seed=seed)


def test_a_flag_orders_what_comes_before_its_store_and_after_its_load() -> None:
    for seed in range(4):
        assert not flag(seed=seed)
        assert flag(before="", seed=seed)
        assert flag(after="", seed=seed)


def test_a_flag_that_is_read_like_a_number_is_a_race() -> None:
    body = "if (x == 0) emulation::store_flag(flags, 1);\n__syncthreads();\nif (x == 1) flags[0] = 0;"
    assert not races(body)
    assert races(body, blocks=2)


def test_launches_are_in_order() -> None:
    checked = Checked(build('extern "C" __global__ void k(int* out) { out[0] = 1; }', races=True))
    out = np.zeros(1, np.int32)
    for _ in range(2):
        checked.launch("k", (1,), (1,), [out.ctypes.data])
    assert not checked.races


def test_too_many_threads_are_an_error() -> None:
    with pytest.raises(EmulationError, match="too many threads"):
        races("out[0] = 1;", blocks=1000)
