"""A stand-in for the few CuPy names that gpusoftmax/cuda uses, over host memory; kernels run by `build`.

It is stricter than CuPy, so that a mistake of the host code shows on a machine without a GPU: its arrays do not mix
with NumPy's, fresh memory is poisoned, every array lies between guard zones that are looked at after each launch and
product, and a kernel's arguments are checked in number, pointer type, scalar width, contiguity and device. A name that
is not here does not exist; tests/cuda/test_host.py asserts that each one exists in the real CuPy.

Work on several streams is run in the order in which it is queued, but for copies from the host, which are run as late
as they may be: when something waits for them. So whoever reads too early finds poison, and what is written to a pinned
buffer too early is what is copied. Beyond that, clocks tell which work is known to have ended when other work begins;
memory that two streams use, of which neither has waited for the other, is an error, and so is memory that is freed
while another stream than that of its allocation may use it.

`state` counts what costs time on a GPU: launches by name, the bytes of each copy to and from the device, and how often
the host waits. Work of CuPy's own, such as a sum of two arrays, counts as one launch, though CuPy may need more.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import re
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.support.emulation.build import EmulationError, build

GUARD = 64  # bytes on either side of an array
GUARD_BYTE, POISON_BYTE = 0xA5, 0xFF  # 0xFF...: NaN to a float, -1 to an int
TYPES = {
    "float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "long long": np.int64,
    "unsigned long long": np.uint64, "unsigned char": np.uint8, "float16": np.float16, "bfloat16": np.uint16,
}  # fmt: skip


# Bytes of shared memory that a block may ask for, by compute capability (CUDA C++ Programming Guide).
MOST_SHARED = {(7, 5): 64 << 10, (8, 0): 163 << 10, (8, 7): 163 << 10, (8, 6): 99 << 10, (8, 9): 99 << 10}


def most_shared() -> int:
    """Return the bytes of shared memory that a block of the device may ask for."""
    major = state.capability[0]
    return MOST_SHARED.get(state.capability, (99 if major >= 12 else 227) << 10)


class StandinError(AssertionError):
    """Host code did what CuPy would let pass, or answer with a wrong result."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class CompileException(Exception):  # noqa: N818
    """cupy.cuda.compiler.CompileException."""


_Clock = Counter[int]  # for each stream, how much of its work is known to have ended


class _State:
    """The state of the emulated machine."""

    def __init__(self) -> None:
        self.device, self.devices = 0, 2
        self.limit: int | None = None  # bytes of device memory
        self.stream = 7  # the current one's address
        self.streams = {None: _Clock()}  # by address, what each has waited for; the host's is None
        self.races: list[str] = []
        self.seed = 0  # the order in which threads run
        self.capability = (9, 0)
        self.optimise = "-O2"
        self.alive: weakref.WeakSet[_Memory] = weakref.WeakSet()
        self.peak = 0  # bytes of device memory
        self.launches: list[str] = []  # by name
        self.uploads: list[int] = []  # bytes of each copy to the device
        self.downloads: list[int] = []  # and from it
        self.synchronisations = 0
        self.pointer_modes = [0] * self.devices  # of cuBLAS
        self.current: list[Stream] = []  # that `with` made the current ones
        self.captured: list[Callable[[], None]] | None = None  # the launches of a graph that is being made
        self.graphs = 0  # launched


state = _State()


def _used() -> int:
    """Bytes of device memory."""
    return sum(memory.size for memory in state.alive)


class _Memory:
    """Bytes between guard zones; aligned as CuPy's pool aligns."""

    def __init__(self, size: int) -> None:
        if state.captured is not None:
            raise StandinError("memory is allocated while a graph is made, which would keep its address")
        used = _used()
        state.peak = max(state.peak, used + size)
        if state.limit is not None and used + size > state.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes (allocated so far: {used} bytes)")
        self.size, self.device = size, state.device
        self.owner = state.stream
        # fresh memory comes from a pool: what was queued before on this stream may still use it
        self.uses: _Clock = Counter({state.stream: _clock(state.stream)[state.stream]})
        self.machine = state.streams
        self.raw = np.full(size + 2 * GUARD + 512, GUARD_BYTE, np.uint8)
        self.start = -(self.raw.ctypes.data + GUARD) % 512 + GUARD
        self.raw[self.start : self.start + size] = POISON_BYTE
        state.alive.add(self)

    def use(self, stream: int) -> None:
        """Note that work which is queued on a stream uses this memory."""
        clock = _clock(stream)
        clock[stream] += 1
        for other, last in self.uses.items():
            if other != stream and clock[other] < last:
                state.races.append(f"stream {stream} uses memory that stream {other} may still use")
        self.uses[stream] = clock[stream]

    def __del__(self) -> None:
        if getattr(self, "machine", None) is state.streams:  # else it is of another test
            for other, last in self.uses.items():
                if other != self.owner and _clock(self.owner)[other] < last:
                    state.races.append(f"memory of stream {self.owner} is freed, but stream {other} may still use it")

    def intact(self) -> bool:
        before, after = self.raw[: self.start], self.raw[self.start + self.size :]
        return bool((before == GUARD_BYTE).all() and (after == GUARD_BYTE).all())


def _clock(stream: int | None) -> _Clock:
    """What a stream has waited for; work that is queued now begins after what the host has waited for."""
    clock = state.streams.setdefault(stream, Counter())
    clock |= state.streams[None]
    return clock


def _wait() -> None:
    """Let the host wait for the current stream."""
    state.synchronisations += 1
    state.streams[None] |= _clock(state.stream)


def check_guards() -> None:
    """Raise if anything was written outside an array, or used by two streams at the same time."""
    if state.races:
        raise StandinError("; ".join(state.races))
    if not all(memory.intact() for memory in state.alive):
        raise StandinError("something was written outside an array")


class ndarray:  # noqa: N801
    """Device memory as an array."""

    __array_priority__ = 100

    def __init__(self, host: Any, memory: _Memory) -> None:
        self._array, self._memory = host, memory

    @property
    def _host(self) -> Any:
        """The numbers, for work on the current stream; what is known without them is asked of `_array`."""
        self._memory.use(state.stream)
        return self._array

    @classmethod
    def _new(cls, shape: Any, dtype: Any, order: Any = "C") -> ndarray:
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        dtype = np.dtype(dtype)
        memory = _Memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        bytes_ = memory.raw[memory.start : memory.start + memory.size]
        return cls(bytes_.view(dtype).reshape(shape, order=order), memory)

    @classmethod
    def _from(cls, host: Any, order: str = "C", name: str = "elementwise") -> ndarray:
        """The result of a launch; it is C-contiguous, or keeps ("K") the order of a Fortran-contiguous array."""
        state.launches.append(name)
        return cls._filled_with(host, order)

    @classmethod
    def _uploaded(cls, host: Any, order: str = "C") -> ndarray:
        """A copy of the host's array."""
        state.uploads.append(np.asarray(host).nbytes)
        return cls._filled_with(host, order)

    @classmethod
    def _filled_with(cls, host: Any, order: str) -> ndarray:
        host = np.asarray(host)
        kept = "F" if order == "F" or (order == "K" and host.flags.fnc) else "C"
        array = cls._new(host.shape, host.dtype, kept)
        array._host[...] = host
        return array

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or any(isinstance(x, np.ndarray) and x.ndim for x in inputs) or kwargs:
            raise TypeError(f"{ufunc.__name__} of a device array and a NumPy array")
        return ndarray._from(ufunc(*[_plain(x) for x in inputs]))

    T = property(lambda self: ndarray(self._array.T, self._memory))
    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    strides = property(lambda self: self._array.strides)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._array.flags.c_contiguous))
    data = property(lambda self: SimpleNamespace(ptr=self._array.ctypes.data))
    device = property(lambda self: SimpleNamespace(id=self._memory.device))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3}

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        if _has_arrays(key):
            parts = key if isinstance(key, tuple) else (key,)
            if any(isinstance(part, np.ndarray | list) for part in parts):
                raise TypeError("a device array is indexed by device arrays, integers and slices")
            if any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
                _wait()  # for how many are True
            plain = tuple(_plain(part) for part in parts)
            return ndarray._from(self._host[plain], name="gather")  # a copy
        view = self._array[key]
        if not isinstance(view, np.ndarray):  # a number, of which there is a view without dimensions
            view = self._array[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        return ndarray(view, self._memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = list(key) if isinstance(key, tuple) else [key]
        for i, part in enumerate(parts):
            if isinstance(part, np.ndarray | list):
                raise TypeError("a device array is indexed by device arrays, integers and slices")
            if isinstance(part, ndarray):
                parts[i] = _plain(part)
                if part.dtype.kind not in "iu":
                    raise StandinError("a mask is assigned to by where")
        arrays = [part.reshape(-1) for part in parts if isinstance(part, np.ndarray)]
        if arrays and len(np.unique(np.stack(arrays), axis=1).T) < arrays[0].size:
            raise StandinError("which of the values for an index that is repeated stays is not defined")
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("a NumPy array is assigned to a device array")
        state.launches.append("copy")
        self._host[tuple(parts)] = _plain(value)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def get(self) -> Any:
        """A host copy; waits for the device."""
        _wait()
        state.downloads.append(self.nbytes)
        return self._host.copy()

    def set(self, host: Any, stream: Stream | None = None) -> None:
        """Copy from the host: with a stream, when something waits for it, and only from pinned memory."""
        if host.shape != self.shape or host.dtype != self.dtype or not self.flags.c_contiguous:
            raise StandinError(f"{host.dtype} {host.shape} is copied to {self.dtype} {self.shape}")
        state.uploads.append(host.nbytes)
        if stream is None:
            self._host[...] = host
            return
        if not isinstance(host, _Pinned) or not host.flags.c_contiguous:
            raise StandinError("a copy from memory that is not pinned is not asynchronous")
        self._memory.use(stream.ptr)
        host.uses[stream.ptr] = _clock(stream.ptr)[stream.ptr]
        stream._copies.append(lambda: np.copyto(self._array, host))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        """NumPy's astype."""
        return self if not copy and self.dtype == dtype else ndarray._from(self._host.astype(dtype), "K")

    def copy(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host)

    def reshape(self, *shape: Any) -> ndarray:
        """NumPy's method of this name, without a copy."""
        reshaped = self._array.reshape(*shape)
        if self.size and not np.shares_memory(reshaped, self._array):
            raise StandinError("this reshape copies")
        return ndarray(reshaped, self._memory)

    def transpose(self, *axes: int) -> ndarray:
        """A view with the axes in another order."""
        return ndarray(self._array.transpose(*axes), self._memory)

    def view(self, dtype: Any) -> ndarray:
        """The same bytes as another type of the same size."""
        return ndarray(self._array.view(dtype), self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.sum(axis=axis, dtype=dtype, keepdims=keepdims), name="sum")

    def mean(self, axis: Any = None, dtype: Any = None) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.mean(axis=axis, dtype=dtype), name="mean")

    def var(self, axis: Any = None) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.var(axis=axis), name="var")

    def max(self, axis: Any = None, keepdims: bool = False) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.max(axis=axis, keepdims=keepdims), name="max")

    def any(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.any(), name="any")

    def all(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.all(), name="all")

    def argmax(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.argmax(), name="argmax")

    def __abs__(self) -> ndarray:
        return ndarray._from(abs(self._host))

    def __neg__(self) -> ndarray:
        return ndarray._from(-self._host)

    def __invert__(self) -> ndarray:
        return ndarray._from(~self._host)


def _binary(name: str) -> Any:
    def method(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError(f"Unsupported type {type(other)}: a device array does not mix with NumPy's")
        with np.errstate(all="ignore"):  # a GPU does not warn
            return ndarray._from(getattr(self._host, name)(_plain(other)), name=name.strip("_"))

    return method


def _in_place(name: str) -> Any:
    def method(self: ndarray, other: Any) -> ndarray:
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError(f"Unsupported type {type(other)}: a device array does not mix with NumPy's")
        state.launches.append(name.strip("_"))
        with np.errstate(all="ignore"):
            getattr(self._host, name)(_plain(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "lshift", "rshift", "or", "and"):
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _binary(f"__r{_name}__"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))

for _name in ("eq", "ne", "lt", "le", "gt", "ge"):  # without these, == would compare identities, and give a bool
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))


def _plain(x: Any) -> Any:
    if isinstance(x, ndarray):
        if x._memory.device != state.device:
            raise StandinError(f"an array of device {x._memory.device} is used while {state.device} is current")
        return x._host
    return x


def _has_arrays(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(part, np.ndarray | ndarray | list) for part in parts)


class RawKernel:
    """A kernel of a RawModule."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.emulated = build(text, optimise=state.optimise)
        if name not in self.emulated.parameters:
            raise CUDARuntimeError(500)
        self.types = self.emulated.parameters[name]
        listed = re.search(rf"\b{name}\s*\(([^;{{]*?)\)\s*\{{", text)
        assert listed is not None
        self.names = [part.split()[-1].lstrip("*&") for part in listed.group(1).split(",")]
        self._most_shared = 48 << 10

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes of dynamic shared memory that a launch may have."""
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes: int) -> None:
        if nbytes > most_shared():
            raise CUDARuntimeError(1)
        self._most_shared = nbytes

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if not isinstance(grid, tuple) or not isinstance(block, tuple) or not isinstance(args, tuple):
            raise TypeError("grid, block and args are tuples")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDARuntimeError(1)
        if len(args) != len(self.types):
            raise StandinError(f"{self.name} has {len(self.types)} parameters, and got {len(args)} arguments")
        values = [self._check(i, arg) for i, arg in enumerate(args)]
        if state.captured is not None:
            state.captured.append(lambda: self(grid, block, args, shared_mem=shared_mem))
            return
        self.emulated.launch(self.name, grid, block, values, shared_mem, state.seed)
        state.launches.append(self.name)
        check_guards()

    def _check(self, i: int, arg: Any) -> Any:
        type_, what = self.types[i], f"argument {i} of {self.name} ({self.types[i]} {self.names[i]})"
        if type_.endswith("*"):
            if isinstance(arg, np.uint64) and arg == 0:
                return 0
            if not isinstance(arg, ndarray):
                raise StandinError(f"{what} is a {type(arg).__name__}")
            if arg.dtype != TYPES[type_[:-1]]:
                raise StandinError(f"{what} is of {arg.dtype}")
            rows_apart = (
                i + 1 < len(self.names) and self.names[i + 1] == "stride" and arg.strides[-1] == arg.dtype.itemsize
            )
            if not arg.flags.c_contiguous and not rows_apart:
                raise StandinError(f"{what} is not contiguous, which CuPy does not look at")
            return _plain(arg).ctypes.data
        if not isinstance(arg, np.generic) or arg.dtype != TYPES[type_]:
            raise StandinError(f"{what} is {arg!r} of {type(arg).__name__}: its bytes are taken as they are")
        return arg.item()


class RawModule:
    """Text that is compiled when a function is asked for."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if backend != "nvrtc" or not isinstance(options, tuple):
            raise StandinError(f"backend={backend!r}, options={options!r}")
        self.code = code

    def get_function(self, name: str) -> RawKernel:
        """The kernel of that name."""
        return RawKernel(self.code, name)


_DATA_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 10: np.int32, 14: np.uint16}


def _operand(pointer: int, type_: int, rows: int, leading: int) -> Any:
    """Device memory as cuBLAS sees it, column by column, transposed: (columns, leading)."""
    dtype = np.dtype(_DATA_TYPES[type_])
    size = rows * leading * dtype.itemsize
    for memory in state.alive:
        low = memory.raw.ctypes.data + memory.start
        if low <= pointer and pointer + size <= low + memory.size:
            if memory.device != state.device:
                raise StandinError("a product reads another device's memory")
            memory.use(state.stream)
            at = pointer - memory.raw.ctypes.data
            return memory.raw[at : at + size].view(dtype).reshape(rows, leading)
    raise StandinError(f"a product touches {size} bytes at {pointer:#x}, which are not one array's")


def _to_float(x: Any, compute: int) -> Any:
    if x.dtype == np.float16:
        return x.astype(np.float32)
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    if compute == cublas.CUBLAS_COMPUTE_32F_FAST_TF32:
        bits = x.view(np.uint32)
        return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).astype(np.uint32).view(np.float32)
    return x


def gemmEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
    B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """C = alpha op(A) op(B) + beta C, column-major."""
    if handle != 1000 + state.device or algo != cublas.CUBLAS_GEMM_DEFAULT:
        raise StandinError("the handle is another device's, or the algorithm is unknown")
    if (Ctype == 1) != (computeType == cublas.CUBLAS_COMPUTE_64F) or (Atype, Btype) not in {
        (0, 0),
        (1, 1),
        (2, 2),
        (14, 14),
    }:
        raise StandinError(f"cuBLAS has no product of types {Atype}, {Btype}, {Ctype} computed in {computeType}")
    if lda < (k if transa else m) or ldb < (n if transb else k) or ldc < m or min(m, n, k) < 1:
        raise StandinError(f"leading dimensions {lda}, {ldb}, {ldc} for m, n, k = {m}, {n}, {k}")
    if state.pointer_modes[state.device] == cublas.CUBLAS_POINTER_MODE_DEVICE:
        one, other = (_operand(pointer, Ctype, 1, 1)[0, 0] for pointer in (alpha, beta))
    else:
        one, other = (_number(pointer, _DATA_TYPES[Ctype]) for pointer in (alpha, beta))
    a = _to_float(_operand(A, Atype, m if transa else k, lda), computeType)[:, : k if transa else m]
    b = _to_float(_operand(B, Btype, k if transb else n, ldb), computeType)[:, : n if transb else k]
    c = _operand(C, Ctype, n, ldc)[:, :m]
    with np.errstate(all="ignore"):
        product = (b.T if transb else b) @ (a.T if transa else a)
        c[...] = one * product if other == 0 else one * product + other * c
    state.launches.append("gemm")
    check_guards()


def _set_pointer_mode(handle: int, mode: int) -> None:
    """Say where alpha and beta are: on the host, mode 0, or on the device."""
    state.pointer_modes[handle - 1000] = mode


def _check_handle(handle: int, base: int) -> None:
    if handle != base + state.device:
        raise StandinError("the handle is another device's, or another library's")


def _number(pointer: int, dtype: Any) -> Any:
    import ctypes

    if any(memory.raw.ctypes.data <= pointer < memory.raw.ctypes.data + len(memory.raw) for memory in state.alive):
        raise StandinError("cuBLAS takes a number on the device for one on the host")
    return np.frombuffer(ctypes.string_at(pointer, np.dtype(dtype).itemsize), dtype)[0]


def _syrk(type_: int) -> Any:
    def syrk(
        handle: int, uplo: int, trans: int, n: int, k: int, alpha: int, A: int, lda: int, beta: int, C: int, ldc: int
    ) -> None:
        """One triangle of C = alpha op(A) op(A)' + beta C, column-major; the other stays as it is."""
        _check_handle(handle, 1000)
        if uplo not in (0, 1) or lda < (k if trans else n) or ldc < n or min(n, k) < 1:
            raise StandinError(f"syrk with uplo, lda, ldc, n, k = {uplo}, {lda}, {ldc}, {n}, {k}")
        a = _operand(A, type_, n if trans else k, lda)[:, : k if trans else n]  # transposed: its rows are A's columns
        c = _operand(C, type_, n, ldc)[:, :n]
        one, other = (_number(pointer, _DATA_TYPES[type_]) for pointer in (alpha, beta))
        with np.errstate(all="ignore"):
            product = one * (a @ a.T if trans else a.T @ a)
            product += 0 if other == 0 else other * c
        # c is transposed, so that column-major's upper triangle is the lower one
        c[...] = np.where(np.tri(n, dtype=bool) if uplo == 1 else np.tri(n, dtype=bool).T, product, c)
        state.launches.append("syrk")
        check_guards()

    return syrk


def _potrf(type_: int) -> Any:
    def potrf(handle: int, uplo: int, n: int, A: int, lda: int, workspace: int, size: int, info: int) -> None:
        """Cholesky's factor in one triangle, column-major; `info` is the order of the first minor that is not positive.

        The matrix then holds anything. NaN is no reason for it to stop.
        """
        _check_handle(handle, 2000)
        if uplo not in (0, 1) or lda < n or size < n:
            raise StandinError(f"potrf with uplo, lda, size, n = {uplo}, {lda}, {size}, {n}")
        _operand(workspace, type_, 1, size)
        (found,) = _operand(info, 10, 1, 1)
        a = _operand(A, type_, n, lda)[:, :n]
        M = a if uplo == 1 else a.T  # its lower triangle counts
        failed = 0
        with np.errstate(all="ignore"):
            for j in range(n):
                pivot = M[j, j] - M[j, :j] @ M[j, :j]
                if pivot <= 0:
                    failed = j + 1
                    break
                M[j, j] = np.sqrt(pivot)
                M[j + 1 :, j] = (M[j + 1 :, j] - M[j + 1 :, :j] @ M[j, :j]) / M[j, j]
        found[0] = failed
        state.launches.append("potrf")
        check_guards()

    return potrf


def _buffer_size(handle: int, uplo: int, n: int, A: int, lda: int) -> int:
    _check_handle(handle, 2000)
    return 2 * n + 1


cusolver = SimpleNamespace(
    spotrf=_potrf(0), dpotrf=_potrf(1), spotrf_bufferSize=_buffer_size, dpotrf_bufferSize=_buffer_size
)
cublas = SimpleNamespace(
    ssyrk=_syrk(0), dsyrk=_syrk(1), CUBLAS_FILL_MODE_LOWER=0, CUBLAS_FILL_MODE_UPPER=1,
    gemmEx=gemmEx, setPointerMode=_set_pointer_mode, CUBLAS_POINTER_MODE_HOST=0, CUBLAS_POINTER_MODE_DEVICE=1,
    CUBLAS_OP_N=0, CUBLAS_OP_T=1, CUBLAS_COMPUTE_32F=68, CUBLAS_COMPUTE_32F_FAST_TF32=77,
    CUBLAS_COMPUTE_64F=70, CUBLAS_GEMM_DEFAULT=-1,
)  # fmt: skip


class Device:
    """A device; `with` makes it the current one."""

    def __init__(self, index: int) -> None:
        if not 0 <= index < state.devices:
            raise CUDARuntimeError(101)
        self.id, self._before = index, []  # type: ignore[var-annotated]
        self.pci_bus_id = f"0000:0{index}:00.0"

    def __enter__(self) -> Device:
        self._before.append(state.device)
        state.device = self.id
        return self

    def __exit__(self, *args: Any) -> None:
        state.device = self._before.pop()


class _Pinned(np.ndarray):
    """Pinned memory on the host."""

    uses: _Clock  # by copies

    def __array_finalize__(self, of: Any) -> None:
        self.uses = getattr(of, "uses", Counter())

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_unused(self.uses, "written to")
        super().__setitem__(key, value)


def _check_unused(uses: _Clock, what: str) -> None:
    for stream, last in uses.items():
        if state.streams[None][stream] < last:
            state.races.append(f"pinned memory is {what}, but a copy on stream {stream} may still read it")


def empty_pinned(shape: Any, dtype: Any = np.float64) -> Any:
    """NumPy's empty, in pinned memory; poisoned."""
    pinned = np.empty(shape, dtype).view(_Pinned)
    pinned.view(np.uint8)[...] = POISON_BYTE
    weakref.finalize(pinned, _check_unused, pinned.uses, "freed")
    return pinned


class Stream:
    """A stream; what is copied on it from the host is run when something waits for it."""

    def __init__(self, *, non_blocking: bool = False, ptr: int | None = None) -> None:
        if ptr is None and not non_blocking:
            raise StandinError("a blocking stream waits for the default one, which may be the one to run beside")
        self.ptr = max(state.stream, *filter(None, state.streams), 0) + 1 if ptr is None else ptr
        self._copies: deque[Callable[[], None]] = deque()
        self._ran = 0
        _clock(self.ptr)

    def _run(self, until: int) -> None:
        """Run the copies before the number `until`."""
        while self._ran < until:
            self._copies.popleft()()
            self._ran += 1

    def wait_event(self, event: Event) -> None:
        """Begin what is queued from now on only after the event."""
        event._run()
        clock = _clock(self.ptr)
        clock |= event._clock

    def __enter__(self) -> Stream:
        state.current.append(self)
        self._before, state.stream = state.stream, self.ptr
        return self

    def __exit__(self, *args: Any) -> None:
        state.current.pop()
        state.stream = self._before

    def begin_capture(self) -> None:
        """Keep what is launched from now on for a graph, instead of running it."""
        if state.stream != self.ptr:
            raise StandinError("launches are queued on another stream than that which is captured")
        state.captured = []

    def end_capture(self) -> Graph:
        """The graph of what was launched."""
        found, state.captured = state.captured, None
        assert found is not None
        return Graph(found)

    def synchronize(self) -> None:
        """Let the host wait for all that is queued."""
        self._run(self._ran + len(self._copies))
        state.streams[None] |= _clock(self.ptr)


class Graph:
    """Launches that are repeated together."""

    def __init__(self, launches: list[Callable[[], None]]) -> None:
        self.launches = launches

    def launch(self, stream: Stream) -> None:
        """Run them on a stream."""
        before, state.stream = state.stream, stream.ptr
        for launch in self.launches:
            launch()
        state.stream = before
        state.graphs += 1


class Event:
    """What has been queued on a stream when it was recorded; nothing before that."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self._clock: _Clock = Counter()
        self._run: Callable[[], None] = lambda: None
        self._is_timed, self._seconds = not disable_timing, 0.0

    def record(self, stream: Stream | None = None) -> None:
        """Take what is queued on the stream now; by default on the current one."""
        self._seconds = time.perf_counter()
        stream = stream or sys.modules["cupy"].cuda.get_current_stream()
        until = stream._ran + len(stream._copies)
        self._clock, self._run = _clock(stream.ptr).copy(), lambda: stream._run(until)

    def synchronize(self) -> None:
        """Let the host wait for it."""
        self._run()
        state.streams[None] |= self._clock


def get_elapsed_time(start: Event, stop: Event) -> float:
    """Milliseconds from one event to another, for which the host has waited."""
    if not (start._is_timed and stop._is_timed) or not (start._seconds and stop._seconds):
        raise CUDARuntimeError(400)
    for stream, last in stop._clock.items():
        if state.streams[None][stream] < last:
            raise CUDARuntimeError(600)
    return 1e3 * (stop._seconds - start._seconds)


def asarray(x: Any, dtype: Any = None) -> ndarray:
    """Onto the current device; as it is if it is there."""
    if isinstance(x, ndarray):
        if x._memory.device != state.device:
            return ndarray._from(x._host)
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    return ndarray._uploaded(np.asarray(x, dtype))


def ascontiguousarray(x: Any, dtype: Any = None) -> ndarray:
    """A C-contiguous device array."""
    x = asarray(x, dtype)
    return x if x.flags.c_contiguous else ndarray._from(x._host)


def array(x: Any, dtype: Any = None, order: str = "K") -> ndarray:
    """A new device array."""
    if isinstance(x, ndarray):
        return ndarray._from(np.array(_plain(x), dtype=dtype, order=order), order)
    return ndarray._uploaded(np.array(x, dtype=dtype, order=order), order)


def from_dlpack(x: Any) -> ndarray:
    """Another library's tensor, whose memory is shared: only what exports itself is taken."""
    if not x.__dlpack_device__()[0] == 2:
        raise BufferError("the array is not on a GPU")
    shared = x.__dlpack__(stream=state.stream)
    return ndarray(shared._host, shared._memory)


def asnumpy(x: Any) -> Any:
    """To the host."""
    return x.get() if isinstance(x, ndarray) else np.asarray(x)


def _filled(value: Any) -> Any:
    def create(shape: Any, dtype: Any = np.float64) -> ndarray:
        return full(shape, value, dtype)

    return create


def full(shape: Any, value: Any, dtype: Any = None) -> ndarray:
    """NumPy's function of this name."""
    return ndarray._from(np.full(shape, value, dtype), name="fill")


def _function(name: str) -> Any:
    """NumPy's function of this name, of one or two arrays; with `out` for elementwise ones."""
    numpys = getattr(np, name)

    def function(*arrays: Any, out: ndarray | None = None, **options: Any) -> ndarray:
        if any(isinstance(x, np.ndarray) and x.ndim for x in arrays):
            raise TypeError(f"Unsupported type: {name} of a NumPy array")
        with np.errstate(all="ignore"):
            if out is None:
                return ndarray._from(numpys(*map(_plain, arrays), **options), name=name)
            state.launches.append(name)
            numpys(*map(_plain, arrays), out=_plain(out), **options)
        return out

    return function


def copyto(out: ndarray, values: ndarray) -> None:
    """NumPy's function of this name."""
    state.launches.append("copy")
    np.copyto(_plain(out), _plain(values))


def as_strided(x: ndarray, shape: Any, strides: Any) -> ndarray:
    """A view with any shape and strides; what it reads is not checked, as in CuPy."""
    return ndarray(np.lib.stride_tricks.as_strided(x._array, shape, strides), x._memory)


def eigh(M: ndarray) -> tuple[ndarray, ndarray]:
    """The eigenpairs of a symmetric matrix, from its lower triangle; the vectors are Fortran-contiguous."""
    values, vectors = np.linalg.eigh(_plain(M))
    return ndarray._from(values, name="syevd"), ndarray._filled_with(vectors, "F")


def qr(M: ndarray, mode: str = "reduced") -> tuple[ndarray, ndarray]:
    """The factors of a matrix; Q is Fortran-contiguous."""
    Q, R = np.linalg.qr(_plain(M), mode)
    return ndarray._from(Q, "F", name="geqrf"), ndarray._filled_with(R, "C")


def solve_triangular(a: ndarray, b: ndarray, *, lower: bool = False, overwrite_b: bool = False) -> ndarray:
    """SciPy's function of this name. NaN and infinity are not looked for; only one triangle of `a` is read."""
    from scipy.linalg import solve_triangular as scipys

    with np.errstate(all="ignore"):
        found = scipys(_plain(a), _plain(b), lower=lower, check_finite=False)
    if overwrite_b:
        _plain(b)[...] = np.nan
    return ndarray._from(found, "F", name="trsm")


def multiply(x: Any, y: Any, out: ndarray) -> ndarray:
    """NumPy's function of this name, with `out`."""
    state.launches.append("mul")
    np.multiply(_plain(x), _plain(y), out=_plain(out))
    return out


FUNCTIONS = ("maximum", "greater", "sqrt", "exp", "log", "square", "isfinite", "diag", "diagonal", "tril", "trace")


def _names() -> dict[str, Any]:
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: state.device,
        getDeviceCount=lambda: state.devices,
        getDeviceProperties=lambda index: {
            "name": b"Stand-in",
            "sharedMemPerBlockOptin": most_shared(),
            "major": state.capability[0],
            "minor": state.capability[1],
        },
        memGetInfo=lambda: (max(0, (state.limit or 1 << 40) - _used()), state.limit or 1 << 40),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
    )
    stream = Stream(ptr=state.stream)
    cuda = SimpleNamespace(
        Device=Device,
        runtime=runtime,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        compiler=SimpleNamespace(CompileException=CompileException),
        device=SimpleNamespace(
            get_cublas_handle=lambda: 1000 + state.device, get_cusolver_handle=lambda: 2000 + state.device
        ),
        get_current_stream=lambda: state.current[-1] if state.current else stream,
        Stream=Stream,
        Event=Event,
        get_elapsed_time=get_elapsed_time,
        set_allocator=lambda allocator: None,
    )
    return {
        "__version__": "0.0",
        "ndarray": ndarray,
        "RawModule": RawModule,
        "cuda": cuda,
        "asarray": asarray,
        "ascontiguousarray": ascontiguousarray,
        "array": array,
        "asnumpy": asnumpy,
        "empty": lambda shape, dtype=np.float64: ndarray._new(shape, dtype),
        "zeros": _filled(0),
        "ones": _filled(1),
        "full": full,
        "from_dlpack": from_dlpack,
        "zeros_like": lambda x: _filled(0)(x.shape, x.dtype),
        "empty_like": lambda x: ndarray._new(x.shape, x.dtype),
        "concatenate": lambda arrays, axis=0: ndarray._from(np.concatenate([_plain(x) for x in arrays], axis=axis)),
        "where": _function("where"),
        "take": lambda x, index, axis: ndarray._from(np.take(_plain(x), index._host, axis=axis)),
        "repeat": lambda x, repeats, axis=None: ndarray._from(np.repeat(_plain(x), repeats, axis=axis)),
        "stack": lambda arrays, axis=0: ndarray._from(np.stack([_plain(x) for x in arrays], axis=axis)),
        "multiply": multiply,
        "copyto": copyto,
        **{name: _function(name) for name in FUNCTIONS},
        "arange": lambda *bounds, dtype=None: ndarray._from(np.arange(*bounds, dtype=dtype), name="arange"),
        "eye": lambda n, dtype=np.float64: ndarray._from(np.eye(n, dtype=dtype), name="eye"),
        "linalg": SimpleNamespace(eigh=eigh, qr=qr),
        "lib": SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=as_strided)),
        "tile": lambda x, times: ndarray._from(np.tile(_plain(x), times)),
        "get_default_memory_pool": lambda: SimpleNamespace(free_all_blocks=lambda: None, free_bytes=lambda: 0),
    }


@contextlib.contextmanager
def installed() -> Iterator[_State]:
    """The stand-in as the module cupy, on a fresh machine; kernels and probes remember nothing across it."""
    from gpusoftmax.cuda import compile, probe

    def forget() -> None:
        compile._compiled.cache_clear()
        compile._properties.cache_clear()
        probe._probe.cache_clear()

    modules = {}
    for name in (
        "cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.linalg", "cupy_backends", "cupy_backends.cuda",
        "cupy_backends.cuda.libs",
    ):  # fmt: skip
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        modules[name] = module
    state.__init__()  # type: ignore[misc]
    vars(modules["cupy"]).update(_names())
    modules["cupyx"].empty_pinned = empty_pinned  # type: ignore[attr-defined]
    modules["cupyx.scipy.linalg"].solve_triangular = solve_triangular  # type: ignore[attr-defined]
    modules["cupy_backends.cuda.libs"].cublas = cublas  # type: ignore[attr-defined]
    modules["cupy_backends.cuda.libs"].cusolver = cusolver  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    forget()
    try:
        yield state
        check_guards()
    finally:
        forget()
        for name, module in before.items():  # type: ignore[assignment]
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


__all__ = ["EmulationError", "StandinError", "installed", "state"]
