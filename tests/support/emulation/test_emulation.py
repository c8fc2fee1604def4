"""The emulation refuses what CUDA forbids and shows errors in kernels: else agreement with it would mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax.cuda.buckets import FLOAT32
from gpusoftmax.cuda.compile import source
from tests.support.emulation.build import BuildError, Emulated, EmulationError, build, missing, sanitizer_environment

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def kernel(body: str, parameters: str = "int* out", before: str = "") -> Emulated:
    return build(f'{before}\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n')


def run(
    body: str, size: int = 64, *, block: tuple[int, ...] = (64,), grid: tuple[int, ...] = (1,), **options: Any
) -> Any:
    """What the kernel `body` leaves in int out[size]."""
    out = np.full(size, -1, np.int32)
    kernel(body).launch("k", grid, block, [out.ctypes.data], **options)
    return out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 32) __syncthreads();", "line 3, and thread 32 never reaches it"),
        ("if (threadIdx.x == 40) return;\n__syncthreads();", "line 4, and thread 40 never reaches it"),
        ("if (threadIdx.x < 32) __syncthreads();\nelse\n__syncthreads();", "never reaches it"),
        ("if (threadIdx.x % 2) __syncwarp();\nelse __syncthreads();", "which not every live lane"),
        ("out[0] = threadIdx.x < 9 ? __shfl_xor_sync(0xffffffffu, 1, 1) : 0;\n__syncwarp();", "which not every live"),
        ("if (threadIdx.x != 5) out[0] = __shfl_xor_sync(0xffffffffu, 1, 1);", "reads lane 5, which takes no part"),
        ("out[0] = __shfl_xor_sync(0xffffffffu, 1, 32);", "reads lane (32|63|..), which takes no part"),
    ],
)
def test_threads_that_do_not_meet_are_an_error(body: str, message: str) -> None:
    for seed in range(3):
        with pytest.raises(EmulationError, match=message):
            run(body, seed=seed)
    assert run("out[threadIdx.x] = 3;\n__syncthreads();")[63] == 3  # a failure leaves nothing behind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("*(double*)(out + 1) = 2;", "not aligned"),
        ("out[0] = 0x7fffffff - 1 + (int)threadIdx.x;", "sum that overflows"),
        ("out[0] = 0x7fffffff * (int)threadIdx.x;", "product that overflows"),
        ("int a[4] = {};\na[threadIdx.x] = 1;\nout[0] = a[threadIdx.x / 16];", "index outside its array"),
        ("__shared__ int a[32];\na[threadIdx.x] = 1;\nout[0] = a[0];", "index outside its array"),
        ("out[0] = 1 << threadIdx.x;", "shift by too much"),
    ],
)
def test_undefined_arithmetic_is_an_error(body: str, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        run(body)


@pytest.mark.parametrize(
    ("grid", "block", "arguments", "shared"),
    [
        ((0,), (32,), 1, 0),
        ((1, 65536), (32,), 1, 0),
        ((2**31,), (32,), 1, 0),
        ((1,), (1, 1, 65), 1, 0),
        ((1,), (256,), 1, 0),  # more than the launch bounds
        ((1,), (32,), 2, 0),
        ((1,), (32,), 0, 0),
        ((1,), (32,), 1, 228 << 10),
    ],
)
def test_launches_that_cuda_would_refuse(
    grid: tuple[int, ...], block: tuple[int, ...], arguments: int, shared: int
) -> None:
    emulated = build('extern "C" __global__ void __launch_bounds__(128)\nk(int* out) {}')
    with pytest.raises(EmulationError):
        emulated.launch("k", grid, block, [0] * arguments, shared)


def test_blocks_of_more_than_1024_threads_are_refused() -> None:
    with pytest.raises(EmulationError, match="takes blocks of up to 1024 threads, not 2048"):
        run("", block=(1024, 2))


def test_an_argument_that_does_not_fit_its_parameter_is_refused() -> None:
    emulated = kernel("", "int n, unsigned m")
    for arguments in ([2**31, 0], [0, -1], [0.5, 0]):
        with pytest.raises(EmulationError, match=r"k\('int', 'unsigned'\) got"):
            emulated.launch("k", (1,), (1,), arguments)


def test_parameters_are_resolved_to_their_types() -> None:
    emulated = kernel(
        "",
        "const real_t* __restrict__ a, half* b, unsigned long long* c, const unsigned char* d, long long e, "
        "unsigned f, int g, double h, float i",
        "typedef double real_t;\nstruct half { unsigned short bits; };",
    )
    assert emulated.parameters == {
        "k": [
            "double*", "half*", "unsigned long long*", "unsigned char*", "long long",
            "unsigned", "int", "double", "float",
        ]
    }  # fmt: skip


def test_arguments_arrive() -> None:
    out = np.zeros(5)
    emulated = kernel(
        "out[0] = a; out[1] = b; out[2] = c; out[3] = d; out[4] = e;",
        "double* out, int a, unsigned b, long long c, float d, double e",
    )
    emulated.launch("k", (1,), (1,), [out.ctypes.data, -1, 2**32 - 1, -(2**40), np.float32(0.1), 0.1])
    assert out.tolist() == [-1, 2**32 - 1, -(2**40), float(np.float32(0.1)), 0.1]


def test_two_kernels_and_dynamic_shared_memory_in_one_text() -> None:
    text = """
    extern "C" __global__ void first(int* out) { out[threadIdx.x] = 1; }
    extern "C" __global__ void second(int* out) {
        extern __shared__ int scratch[];
        scratch[threadIdx.x] = out[threadIdx.x] + threadIdx.x;
        __syncthreads();
        out[threadIdx.x] = scratch[blockDim.x - 1 - threadIdx.x];
    }
    """
    emulated, out = build(text), np.zeros(40, np.int32)
    emulated.launch("first", (1,), (40,), [out.ctypes.data])
    emulated.launch("second", (1,), (40,), [out.ctypes.data], 160)
    assert out.tolist() == list(range(40, 0, -1))


def test_threads_and_blocks_have_their_indices_in_every_order() -> None:
    body = """
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    __syncthreads();
    out[block * 60 + thread] = threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z
        + 1000 * blockIdx.x + 10000 * blockIdx.y + 100000 * blockIdx.z;
    """
    z, y, x, tz, ty, tx = np.indices((2, 3, 2, 3, 4, 5))
    expected = (tx + 10 * ty + 100 * tz + 1000 * x + 10000 * y + 100000 * z).ravel()
    for seed in range(4):
        assert np.array_equal(run(body, 720, block=(5, 4, 3), grid=(2, 3, 2), seed=seed), expected)


def test_the_seed_sets_the_order_of_blocks_warps_and_lanes() -> None:
    body = "out[atomicAdd(out + 255, 1) + 1] = blockIdx.x * 64 + threadIdx.x;"
    orders = {seed: run(body, 256, grid=(3,), seed=seed)[:192].tolist() for seed in range(4)}
    assert orders[0] == list(range(192))
    assert orders[1] == orders[0][::-1]
    assert sorted(orders[2]) == sorted(orders[3]) == orders[0]
    assert len({tuple(order) for order in orders.values()}) == 4
    assert run(body, 256, grid=(3,), blocks=(1, 1))[:64].tolist() == list(range(64, 128))


def test_lanes_shuffle_within_the_lanes_that_their_mask_names() -> None:
    body = """
    int x = threadIdx.x, y;
    if (x % 32 < 16) y = __shfl_xor_sync(0x0000ffffu, x, 3) + __shfl_xor_sync(0x0000ffffu, x, 8);
    else y = __shfl_xor_sync(0xffff0000u, x, 5);
    __syncwarp();
    out[x] = __shfl_xor_sync(0xffffffffu, y, 31);
    """
    x = np.arange(64)
    y = np.where(x % 32 < 16, (x ^ 3) + (x ^ 8), x ^ 5)
    for seed in range(6):
        assert np.array_equal(run(body, seed=seed), y[x ^ 31])


def test_shared_memory_starts_as_something_else_in_every_order() -> None:
    static = [run("__shared__ int a[64];\nout[threadIdx.x] = a[threadIdx.x];", seed=seed)[0] for seed in range(3)]
    body = "extern __shared__ int a[];\nout[threadIdx.x] = a[threadIdx.x];"
    dynamic = [run(body, shared_bytes=256, seed=seed)[0] for seed in range(3)]
    assert len(set(static)) == len(set(dynamic)) == 3
    second = run("__shared__ int a[1];\nif (blockIdx.x) out[0] = a[0];\na[0] = 5;", grid=(2,), block=(1,))
    assert second[0] == -1  # poisoned again before the second block; all bits set


# ---- copies beside the computation


def test_a_copy_is_there_when_the_thread_has_waited_for_it() -> None:
    body = """
    extern __shared__ int a[];
    int* mine = a + 8 * threadIdx.x;
    emulation::copy_async(mine, in, 16, 16);
    emulation::commit_copies();
    emulation::copy_async(mine + 4, in, 16, 8);
    emulation::commit_copies();
    WAIT
    for (int i = 0; i < 8; i++) out[i] = mine[i];
    """
    given = np.arange(1, 5, dtype=np.int32)
    for wait, expected in {
        "": [-1] * 8,
        "emulation::wait_copies(2);": [-1] * 8,
        "emulation::wait_copies(1);": [1, 2, 3, 4, -1, -1, -1, -1],
        "emulation::wait_copies(0);": [1, 2, 3, 4, 1, 2, 0, 0],
    }.items():
        out = np.zeros(8, np.int32)
        emulated = kernel(body.replace("WAIT", wait), "const int* in, int* out")
        emulated.launch("k", (1,), (2,), [given.ctypes.data, out.ctypes.data], 64)
        assert out.tolist() == expected
        assert emulated.copied_bytes == 2 * 24


@pytest.mark.parametrize(
    ("to", "size", "message"), [("a + 1", 16, "not a multiple"), ("a", 4, "copies 4 bytes, of which 8")]
)
def test_copies_that_cuda_would_refuse(to: str, size: int, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        run(f"extern __shared__ int a[];\nemulation::copy_async({to}, a + 4, {size}, 8);", shared_bytes=256)


# ---- blocks at the same time

RING = """
extern __shared__ int a[];
const int rank = blockIdx.x % 3;
emulation::cluster_arrive();
FIRST
emulation::store_in_cluster(a + threadIdx.x, (rank + 1) % 3, (int)(100 * blockIdx.x + threadIdx.x));
emulation::cluster_arrive();
SECOND
out[32 * blockIdx.x + threadIdx.x] = a[threadIdx.x];
"""
WAIT = "emulation::cluster_wait(__LINE__);"


def in_clusters(body: str, seed: int = 0, *, grid: int = 6, **options: Any) -> Any:
    """What clusters of three blocks of 32 threads leave in out[192]."""
    out = np.full(192, -1, np.int32)
    text = f"""
    extern "C" __cluster_dims__(3, 1, 1) __global__ void k(int* out);
    extern "C" __global__ void k(int* out) {{ {body} }}
    """
    build(text).launch("k", (grid,), (32,), [out.ctypes.data], 128, seed, **options)
    return out


def test_blocks_of_a_cluster_store_to_each_others_shared_memory() -> None:
    body = RING.replace("FIRST", WAIT).replace("SECOND", WAIT)
    block, thread = np.divmod(np.arange(192), 32)
    expected = 100 * (block // 3 * 3 + (block + 2) % 3) + thread
    for seed in range(6):
        assert np.array_equal(in_clusters(body, seed), expected)
    assert np.array_equal(in_clusters(body, blocks=(3, 3))[96:], expected[96:])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", WAIT, "arrives at the cluster's barrier again"),
        (WAIT + WAIT, WAIT, "without having arrived"),
        (WAIT, "if (rank == 1) return;\nemulation::cluster_arrive();", "arrives at the cluster's barrier again"),
        (WAIT, WAIT + "if (rank) emulation::cluster_arrive(), emulation::cluster_wait(0);", "other blocks"),
    ],
)
def test_a_cluster_whose_blocks_do_not_meet_is_an_error(first: str, second: str, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        in_clusters(RING.replace("FIRST", first).replace("SECOND", second))


def test_a_store_that_does_not_wait_for_the_other_block_to_begin_shows_in_some_order() -> None:
    body = RING.replace("emulation::cluster_arrive();\nFIRST\n", "").replace("SECOND", WAIT)
    right = in_clusters(RING.replace("FIRST", WAIT).replace("SECOND", WAIT))
    assert any(not np.array_equal(in_clusters(body, seed), right) for seed in range(6))


def test_clusters_that_cuda_would_refuse() -> None:
    for options in ({"grid": 5}, {"blocks": (1, 3)}, {"blocks": (0, 2)}):
        with pytest.raises(EmulationError, match="clusters of 3 blocks"):
            in_clusters("", **options)
    with pytest.raises(EmulationError, match="outside the shared memory"):
        in_clusters("extern __shared__ int a[];\nemulation::store_in_cluster(a + 32, 0, 1);")
    with pytest.raises(EmulationError, match="dynamic shared memory only"):
        in_clusters("__shared__ int a[32];\na[threadIdx.x] = 1;\nout[0] = a[0];")


def test_a_block_may_wait_for_the_flag_of_one_that_has_not_begun() -> None:
    body = """
    volatile int* flag = out;
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) *flag = 7;
        else
            while (*flag != 7) __nanosleep(20);
    }
    __syncthreads();
    out[1 + blockIdx.x] = *flag;
    """
    for seed in range(6):
        assert run(body, 8, grid=(4,), seed=seed)[1:5].tolist() == [7] * 4
    with pytest.raises(EmulationError, match="waits for other blocks, which wait, too"):
        run(body, grid=(4,), blocks=(1, 3))


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_barrier_shows_as_other_bits_in_another_order(which: int, rng: np.random.Generator) -> None:
    text = source("reduce.cu", {"SCORE": FLOAT32})  # two sums in a row go through the same scratch
    parts = text.split("__syncthreads();")
    assert len(parts) == 3, "common.cuh's reduce has its two barriers"
    mutant = "__syncthreads();".join([parts[0] + parts[1], parts[2]] if which == 0 else [parts[0], parts[1] + parts[2]])
    n = 3000
    losses, zeros = rng.standard_normal(n).astype(np.float32), np.zeros(n, np.int32)

    def results(text: str) -> set[bytes]:
        found = set()
        for seed in range(6):
            partials = np.zeros(2)
            addresses = [losses.ctypes.data, zeros.ctypes.data, zeros.ctypes.data, 0]
            build(text).launch("sum_rows", (1, 1), (256,), [*addresses, n, partials.ctypes.data], seed=seed)
            found.add(partials.tobytes())
        return found

    assert len(results(text)) == 1
    assert len(results(mutant)) > 1


def test_the_portable_switch_does_what_the_fast_one_does() -> None:
    text = """
    extern "C" __global__ void k(int* out) {
        __shared__ int a[64];
        a[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
        __syncthreads();
        out[threadIdx.x] = a[63 - threadIdx.x];
    }
    """
    for flags in ((), ("-DEMULATION_UCONTEXT",)):
        out = np.zeros(64, np.int32)
        for seed in range(3):
            build(text, flags=flags).launch("k", (3,), (64,), [out.ctypes.data], seed=seed)
            assert np.array_equal(out, (63 - np.arange(64)) ^ 1)


def test_a_text_that_does_not_compile_says_where() -> None:
    with pytest.raises(BuildError, match=r"row\.cu:7:"):
        build('#line 7 "row.cu"\nextern "C" __global__ void k(int* out) { out[0] = nothing; }')
    with pytest.raises(BuildError, match="no extern"):
        build("void f();")


def test_float_atomics_do_not_compile() -> None:
    with pytest.raises(BuildError):
        kernel("atomicAdd(out, 1.0f);", "float* out")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("out[threadIdx.x + 1] = 1;", "heap-buffer-overflow"),
        (
            "__shared__ int a[32];\nint* volatile p = a;\np[threadIdx.x] = 1;\n__syncthreads();\nout[0] = p[3];",
            "global-buffer",
        ),
        (
            "extern __shared__ int a[];\na[threadIdx.x + 1] = 1;\n__syncthreads();\nout[0] = a[3];",
            "heap-buffer-overflow",
        ),
        (
            "__syncthreads();\nint a[2] = {1, 2};\nint* volatile p = a;\nout[0] = p[threadIdx.x];",
            "stack-buffer-overflow",
        ),
        ("*(long long*)(out + 1) = 1;", "misaligned address"),
    ],
)
def test_the_sanitizers_find_what_they_should(body: str, found: str) -> None:
    code = f"""
import ctypes
from tests.support.emulation.build import build
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
text = 'extern "C" __global__ void k(int* out) {{' + {body!r} + '}}'
kernel = build(text, sanitize=True)
for seed in range(2):
    kernel.launch("k", (1,), (64,), [libc.malloc(ctypes.c_size_t(256))], 256, seed=seed)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=sanitizer_environment(),
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert found in done.stderr


# ---- tensor cores

TENSOR = """
struct half16 { unsigned short bits; };
static float widen(half16 x) {
    _Float16 y;
    __builtin_memcpy(&y, &x, 2);
    return y;
}
extern "C" __global__ void k(const unsigned* a, const unsigned* b, float* sums, int lanes) {
    if ((int)threadIdx.x >= lanes) return;
    a += 4 * threadIdx.x, b += 2 * threadIdx.x, sums += 4 * threadIdx.x;
    const unsigned mine[4] = {a[0], a[1], a[2], a[3]};
    emulation::multiply_add<half16>(sums, mine, b[0], b[1], __LINE__);
    emulation::multiply_add<half16>(sums, mine, b[0], b[1], __LINE__);
}
"""


def fragments(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    """Registers of the lanes, as PTX describes them for mma.m16n8k16, of a (16, 16), b (16, 8) and c (16, 8)."""
    own_a, own_b, own_c = (
        np.zeros((32, 4, 2), np.float16),
        np.zeros((32, 2, 2), np.float16),
        np.zeros((32, 4), np.float32),
    )
    for lane in range(32):
        group, within = divmod(lane, 4)
        for i in range(8):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            own_a[lane, i // 2, i % 2] = a[row, within * 2 + (i & 1) + (8 if i >= 4 else 0)]
        for i in range(4):
            own_b[lane, i // 2, i % 2] = b[within * 2 + (i & 1) + (8 if i >= 2 else 0), group]
            own_c[lane, i] = c[group if i < 2 else group + 8, within * 2 + (i & 1)]
    return own_a, own_b, own_c


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_tensor_cores_multiply_the_matrices_whose_parts_the_lanes_have(seed: int, rng: np.random.Generator) -> None:
    a, b = (rng.integers(-9, 10, shape).astype(np.float16) for shape in ((16, 16), (16, 8)))
    c = rng.integers(-9, 10, (16, 8)).astype(np.float32)
    *given, sums = (np.ascontiguousarray(x) for x in fragments(a, b, c))
    build(TENSOR).launch("k", (1,), (32,), [*(x.ctypes.data for x in (*given, sums)), 32], seed=seed)
    expected = c + 2 * (a.astype(np.float32) @ b.astype(np.float32))
    assert np.array_equal(sums, fragments(a, b, expected)[2])


def test_tensor_cores_cut_off_what_float32_does_not_hold() -> None:
    a, b = np.zeros((16, 16), np.float16), np.zeros((16, 8), np.float16)
    a[:, 0], b[0] = 1.5, 2.0**-24  # subnormal, and not lost where there is nothing larger
    for start, expected in ((1.0, 1.0), (-1.0, -1 + 2.0**-22), (0.0, 3 * 2.0**-24)):
        *given, sums = fragments(a, b, np.full((16, 8), start, np.float32))
        build(TENSOR).launch("k", (1,), (32,), [*(x.ctypes.data for x in (*given, sums)), 32])
        assert np.all(sums == np.float32(expected)), start


def test_a_product_that_lacks_lanes_is_an_error() -> None:
    *given, sums = fragments(*(np.zeros(shape, np.float16) for shape in ((16, 16), (16, 8), (16, 8))))
    with pytest.raises(EmulationError, match="lacks lanes"):
        build(TENSOR).launch("k", (1,), (32,), [*(x.ctypes.data for x in (*given, sums)), 31])
