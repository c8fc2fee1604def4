"""Build the text of CUDA kernels with g++ behind cuda_cpu.h, and launch them on the CPU, in an order that a seed sets.

emulated = build(source("row_loss.cu", macros))
emulated.launch("row_loss", (blocks, 1, 1), (256, 1, 1), [scores.ctypes.data, ...], seed=3)
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HEADER = Path(__file__).with_name("cuda_cpu.h")
HEADERS = HEADER, HEADER.with_name("traffic.h"), HEADER.with_name("races.h")
CACHE_VARIABLE = "GPUSOFTMAX_EMULATION_CACHE"
COMPILER = os.environ.get("CXX", "g++")
# -w: the tests that look for warnings do it with a CUDA compiler
FLAGS = (
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-w",
    "-g1",
)
# without a library: cuda_cpu.h has the handlers
CHECKS = ("-DEMULATION_CHECKS", "-fsanitize=alignment,bounds,signed-integer-overflow,shift", "-Wl,--as-needed")
SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fsanitize-sections=cuda_shared",  # redzones around shared memory
    "-fno-omit-frame-pointer",
)
# a call before each access, see traffic.h; with memcpy inlined there would be none
COUNTED = ("-fsanitize=thread", "-fno-builtin-memcpy")
RACES = (*COUNTED, "-DEMULATION_RACES")

MOST_SHARED_BYTES = 227 << 10  # what a block may opt in to on sm_90, the most of all
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS = (1024, 1024, 64)

KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\(([^)]*)\))?\s*(\w+)\s*\(')
# a declaration before the kernel's definition
CLUSTER = re.compile(r'extern "C" __cluster_dims__\((\w+), 1, 1\) __global__ void (\w+)\(')
DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:alignas\(\d+\)\s+|__align__\(\d+\)\s+)?(\w+)\s+(\w+)\s*\[\s*\]\s*;"
)

# of one argument, in a slot of 8 bytes
SLOTS = {
    "int": "i4x",
    "unsigned": "I4x",
    "long long": "q",
    "unsigned long long": "Q",
    "long": "q",
    "unsigned long": "Q",
    "float": "f4x",
    "double": "d",
    "bool": "?7x",
}


class EmulationError(RuntimeError):
    """A launch that CUDA would refuse, or a kernel that does what CUDA leaves undefined."""


class BuildError(RuntimeError):
    """g++ does not compile the text; the message is its own."""


def missing() -> str | None:
    """Why kernels cannot run here, or None."""
    if sys.platform != "linux":
        return "kernels are run on the CPU on Linux only"
    if shutil.which(COMPILER) is None:
        return f"there is no {COMPILER} to build kernels with"
    return None


class Emulated:
    """The kernels of one text.

    Attributes
    ----------
    parameters : dict of str to list of str
        Types of each kernel's parameters: "float*", "long long", "unsigned", ..., without const.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        # PyDLL keeps the interpreter's lock: a shared object runs one launch at a time
        self.library = library = ctypes.PyDLL(str(path))
        library.emulation_parameters.restype = ctypes.c_char_p
        library.emulation_stacks_size.restype = ctypes.c_size_t
        library.emulation_copied_bytes.restype = ctypes.c_ulonglong
        self._copied_bytes = library.emulation_copied_bytes
        self._launch = library.emulation_launch
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [
            ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t,
            ctypes.c_uint, ctypes.c_ulonglong, ctypes.c_ulonglong, ctypes.c_void_p,
        ]  # fmt: skip
        self._stacks = _stacks(library.emulation_stacks_size())
        self._dims = (ctypes.c_uint * 3)(), (ctypes.c_uint * 3)()
        self._index = {name: i for i, name in enumerate(names)}
        self._most_threads = {name: library.emulation_most_threads(i) for name, i in self._index.items()}
        self.parameters = {
            name: [_plain(t) for t in library.emulation_parameters(i).decode().split(";")[:-1]]
            for name, i in self._index.items()
        }
        self._pack = {
            name: struct.Struct("<" + "".join("Q" if t.endswith("*") else SLOTS[t] for t in types)).pack
            for name, types in self.parameters.items()
        }

    @property
    def copied_bytes(self) -> int:
        """Bytes that the last launch read by copies beside the computation."""
        return int(self._copied_bytes())

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared_bytes: int = 0,
        seed: int = 0,
        *,
        blocks: tuple[int, int] | None = None,
    ) -> None:
        """Run a kernel.

        Parameters
        ----------
        grid, block : up to three int
        args : sequence
            An address (None: null) for a pointer, an int or a float for a number.
        seed : int
            The order of blocks, warps and lanes: 0 forward, 1 reverse, others random.
        blocks : (first, count), optional
            Only these blocks of the grid, numbered along x first.

        Raises
        ------
        EmulationError
            Limits of a launch; a barrier that not every thread reaches; a warp operation that not every lane reaches;
            a misaligned access, an index outside its array, an int that overflows.
        """
        which, types = self._index[name], self.parameters[name]
        if len(args) != len(types):
            raise EmulationError(f"{name} has {len(types)} parameters, and got {len(args)} arguments")
        n_blocks = _fill(self._dims[0], grid, MOST_BLOCKS, f"{name}'s grid")
        n_threads = _fill(self._dims[1], block, MOST_THREADS, f"{name}'s block")
        if n_threads > self._most_threads[name]:
            raise EmulationError(f"{name} takes blocks of up to {self._most_threads[name]} threads, not {n_threads}")
        if not 0 <= shared_bytes <= MOST_SHARED_BYTES:
            raise EmulationError(f"{name} asks for {shared_bytes} bytes of shared memory")
        try:
            slots = self._pack[name](*(0 if a is None else a for a in args))
        except struct.error as error:
            raise EmulationError(f"{name}{tuple(types)} got {tuple(args)}: {error}") from error
        first, count = blocks or (0, n_blocks)
        problem = self._launch(which, *self._dims, slots, len(slots), shared_bytes, seed, first, count, self._stacks)
        if problem is not None:
            raise EmulationError(problem.decode())


def build(
    text: str,
    *,
    sanitize: bool = False,
    count: bool = False,
    races: bool = False,
    optimise: str = "-O0",
    flags: Sequence[str] = (),
) -> Emulated:
    """The kernels of a CUDA text, ready to run; built once per text and flags.

    By default nothing is optimised: most kernels take longer to build than to run in a test.

    With `count`, for tests.support.emulation.traffic: all accesses to memory are noted down.

    With `races`, for tests.support.emulation.races: it is noted down which of them nothing puts in order.

    With `sanitize`, under AddressSanitizer and UndefinedBehaviorSanitizer: this process must have been started in
    `sanitizer_environment()`, and ends at the first finding.
    """
    if sanitize and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        raise EmulationError("a sanitized kernel runs only in a process started in sanitizer_environment()")
    names = [name for _, name in KERNEL.findall(text)]
    if not names:
        raise BuildError('the text has no extern "C" __global__ kernel')
    kind = SANITIZERS if sanitize else RACES if races else COUNTED if count else CHECKS
    options = (*FLAGS, *kind, optimise, *flags)
    return _load(_compile(text, options), tuple(names))


@cache
def _load(path: Path, names: tuple[str, ...]) -> Emulated:
    return Emulated(path, names)


def _compile(text: str, options: Sequence[str]) -> Path:
    def make(target: Path) -> None:
        unit = target.with_suffix(".cpp")
        unit.write_text(_unit(text), encoding="utf-8")
        folders = [f"-I{_precompiled_header(options).parent}", f"-I{HEADER.parent}"]
        compiled = target.with_suffix(".o")
        try:
            if "-fsanitize=thread" in options:  # linked without the option, and so without the sanitizer's library
                _run_compiler(*options, *folders, "-c", str(unit), "-o", str(compiled))
                _run_compiler("-shared", str(compiled), "-o", str(target))
            else:
                _run_compiler(*options, *folders, str(unit), "-o", str(target))
        finally:
            unit.unlink(missing_ok=True)
            compiled.unlink(missing_ok=True)

    return _built_once(_folder() / f"{_key(text, options)}.so", make)


def _precompiled_header(options: Sequence[str]) -> Path:
    """Compile cuda_cpu.h for a kernel's options: to read it takes half of the time of a kernel's build."""
    own = [one for one in options if one != "-shared" and not one.startswith("-Wl")]

    def make(target: Path) -> None:
        _run_compiler(*own, "-x", "c++-header", str(HEADER), "-o", str(target))

    return _built_once(_folder() / f"{_key(own)}.header" / f"{HEADER.name}.gch", make)


def _key(*parts: Any) -> str:
    """Name in the cache of what is built from these, with these headers and this compiler."""
    headers = [header.read_bytes() for header in HEADERS]
    return hashlib.sha256(repr((*parts, *headers, COMPILER)).encode()).hexdigest()[:32]


def _built_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return a file of the cache; if it is not there, `make` writes it to the path that it is given."""
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with _locked(target):  # another process of the tests may be building it
            if not target.exists():
                unfinished = target.with_suffix(f".{os.getpid()}.tmp")
                try:
                    make(unfinished)
                    os.replace(unfinished, target)
                finally:
                    unfinished.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock on a file of the cache, among threads and processes; the system releases that of a dead one."""
    import fcntl  # here: Windows lacks it, and imports this module to learn that it cannot build

    with open(target.with_suffix(".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run_compiler(*arguments: str) -> None:
    # without the sanitizers' LD_PRELOAD: the compiler would run under it, too
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise BuildError(done.stderr[:8000])


def _unit(text: str) -> str:
    table = "".join(
        f'    emulation::describe<{name}>("{name}", emulation::threads_of({bounds or MOST_THREADS[0]}), '
        f"CLUSTER_OF_{name}, {name}),\n"
        for bounds, name in KERNEL.findall(text)
    )
    alone = "".join(
        f"#ifndef CLUSTER_OF_{name}\n#define CLUSTER_OF_{name} 1\n#endif\n" for _, name in KERNEL.findall(text)
    )
    text = CLUSTER.sub(r'extern "C" void \2(\n#define CLUSTER_OF_\2 \1\n', text)
    text = DYNAMIC_SHARED.sub(r"\1* \2 = emulation::dynamic_shared<\1>();", text)
    return (
        f'#include "cuda_cpu.h"\n#line 1 "kernel.cu"\n{text}\n'
        f"{alone}const emulation::Kernel emulation::kernels[] = {{\n{table}}};\n"
    )


_temporary: list[tempfile.TemporaryDirectory[str]] = []
_one_at_a_time = threading.Lock()  # two threads that build at first would make two folders


def _folder() -> Path:
    """The cache of built kernels: the folder that the environment names, or one that is deleted with this process."""
    if given := os.environ.get(CACHE_VARIABLE):
        Path(given).mkdir(parents=True, exist_ok=True)
        return Path(given)
    with _one_at_a_time:
        if not _temporary:
            _temporary.append(tempfile.TemporaryDirectory(prefix="gpusoftmax-kernels-"))
        return Path(_temporary[0].name)


@cache
def _stacks(size: int) -> Any:
    """All fibers' stacks: in common, since one launch runs at a time."""
    return (ctypes.c_char * size).from_buffer(mmap.mmap(-1, size))


def _plain(demangled: str) -> str:
    return re.sub(r"\bunsigned int\b", "unsigned", demangled.replace(" const", ""))


def _fill(target: Any, dims: Sequence[int], most: Sequence[int], what: str) -> int:
    full = (*dims, 1, 1, 1)[:3]
    if not 1 <= len(dims) <= 3 or not all(1 <= size <= limit for size, limit in zip(full, most, strict=True)):
        raise EmulationError(f"{what} {tuple(dims)} is outside (1 .. {most[0]}, 1 .. {most[1]}, 1 .. {most[2]})")
    target[:] = full
    return full[0] * full[1] * full[2]


def sanitizer_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that may run kernels built with `sanitize`."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        library = Path(found.stdout.strip()).resolve()
        if not library.exists():
            raise EmulationError(f"{COMPILER} has no {name}")
        libraries.append(str(library))
    return {
        **environment,
        "LD_PRELOAD": " ".join(libraries),
        # Python does not free everything; fibers' frames are no leaks either
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
