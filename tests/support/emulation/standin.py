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
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import re
import sys
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
        self.optimise = "-O2"
        self.alive: weakref.WeakSet[_Memory] = weakref.WeakSet()
        self.peak = 0  # bytes of device memory
        self.launches: list[str] = []
        self.synchronisations = 0


state = _State()


def _used() -> int:
    """Bytes of device memory."""
    return sum(memory.size for memory in state.alive)


class _Memory:
    """Bytes between guard zones; aligned as CuPy's pool aligns."""

    def __init__(self, size: int) -> None:
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
    def _from(cls, host: Any, order: str = "C") -> ndarray:
        """A copy; CuPy's results are C-contiguous, unless they keep ("K") the order of a Fortran-contiguous array."""
        host = np.asarray(host)
        kept = "F" if order == "K" and host.flags.fnc else "C"
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
        if isinstance(key, ndarray):
            return ndarray._from(self._host[key._host])  # a gathered copy
        if _has_arrays(key):
            raise TypeError("a device array is indexed by device arrays, integers and slices")
        view = self._array[key]
        return ndarray(view if isinstance(view, np.ndarray) else self._array[key, ...], self._memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = list(key) if isinstance(key, tuple) else [key]
        for i, part in enumerate(parts):
            if isinstance(part, np.ndarray | list):
                raise TypeError("a device array is indexed by device arrays, integers and slices")
            if isinstance(part, ndarray):
                parts[i] = _plain(part)
                if part.dtype.kind not in "iu" or len(np.unique(parts[i])) < part.size:
                    raise StandinError("which of the values for an index that is repeated stays is not defined")
        self._host[tuple(parts)] = _plain(value)

    def __float__(self) -> float:
        _wait()
        return float(self._host)

    def __int__(self) -> int:
        _wait()
        return int(self._host)

    def __bool__(self) -> bool:
        _wait()
        return bool(self._host)

    def get(self) -> Any:
        """A host copy; waits for the device."""
        _wait()
        return self._host.copy()

    def set(self, host: Any, stream: Stream | None = None) -> None:
        """Copy from the host: with a stream, when something waits for it, and only from pinned memory."""
        if host.shape != self.shape or host.dtype != self.dtype or not self.flags.c_contiguous:
            raise StandinError(f"{host.dtype} {host.shape} is copied to {self.dtype} {self.shape}")
        if stream is None:
            self._host[...] = host
            return
        if not isinstance(host, _Pinned) or not host.flags.c_contiguous:
            raise StandinError("a copy from memory that is not pinned is not asynchronous")
        self._memory.use(stream.ptr)
        host.uses[stream.ptr] = _clock(stream.ptr)[stream.ptr]
        stream._copies.append(lambda: np.copyto(self._array, host))

    def astype(self, dtype: Any) -> ndarray:
        """NumPy's astype; always a copy."""
        return ndarray._from(self._host.astype(dtype), "K")

    def copy(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host)

    def reshape(self, *shape: Any) -> ndarray:
        """NumPy's method of this name, without a copy."""
        reshaped = self._array.reshape(*shape)
        if self.size and not np.shares_memory(reshaped, self._array):
            raise StandinError("this reshape copies")
        return ndarray(reshaped, self._memory)

    def view(self, dtype: Any) -> ndarray:
        """The same bytes as another type of the same size."""
        return ndarray(self._array.view(dtype), self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device

    def sum(self, axis: Any = None, dtype: Any = None) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.sum(axis=axis, dtype=dtype))

    def mean(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.mean())

    def max(self, axis: Any = None) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.max(axis=axis))

    def any(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.any())

    def argmax(self) -> ndarray:
        """NumPy's function of this name."""
        return ndarray._from(self._host.argmax())

    def __abs__(self) -> ndarray:
        return ndarray._from(abs(self._host))


def _binary(name: str) -> Any:
    def method(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError(f"Unsupported type {type(other)}: a device array does not mix with NumPy's")
        with np.errstate(all="ignore"):  # a GPU does not warn
            return ndarray._from(getattr(self._host, name)(_plain(other)))

    return method


def _in_place(name: str) -> Any:
    def method(self: ndarray, other: Any) -> ndarray:
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError(f"Unsupported type {type(other)}: a device array does not mix with NumPy's")
        with np.errstate(all="ignore"):
            getattr(self._host, name)(_plain(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv", "matmul", "lshift", "or"):
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
        listed = re.search(rf"\b{name}\s*\((.*?)\)\s*\{{", text, re.S)
        assert listed is not None
        self.names = [part.split()[-1].lstrip("*&") for part in listed.group(1).split(",")]

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if not isinstance(grid, tuple) or not isinstance(block, tuple) or not isinstance(args, tuple):
            raise TypeError("grid, block and args are tuples")
        if len(args) != len(self.types):
            raise StandinError(f"{self.name} has {len(self.types)} parameters, and got {len(args)} arguments")
        values = [self._check(i, arg) for i, arg in enumerate(args)]
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


_DATA_TYPES = {0: np.float32, 1: np.float64, 14: np.uint16}


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
    if (Ctype == 1) != (computeType == cublas.CUBLAS_COMPUTE_64F) or (Atype, Btype) not in {(0, 0), (1, 1), (14, 14)}:
        raise StandinError(f"cuBLAS has no product of types {Atype}, {Btype}, {Ctype} computed in {computeType}")
    if lda < (k if transa else m) or ldb < (n if transb else k) or ldc < m or min(m, n, k) < 1:
        raise StandinError(f"leading dimensions {lda}, {ldb}, {ldc} for m, n, k = {m}, {n}, {k}")
    scalar = np.dtype(_DATA_TYPES[Ctype])
    import ctypes

    one, other = (np.frombuffer(ctypes.string_at(pointer, scalar.itemsize), scalar)[0] for pointer in (alpha, beta))
    a = _to_float(_operand(A, Atype, m if transa else k, lda), computeType)[:, : k if transa else m]
    b = _to_float(_operand(B, Btype, k if transb else n, ldb), computeType)[:, : n if transb else k]
    c = _operand(C, Ctype, n, ldc)[:, :m]
    with np.errstate(all="ignore"):
        product = (b.T if transb else b) @ (a.T if transa else a)
        c[...] = one * product if other == 0 else one * product + other * c
    state.launches.append("gemm")
    check_guards()


cublas = SimpleNamespace(
    gemmEx=gemmEx, CUBLAS_OP_N=0, CUBLAS_OP_T=1, CUBLAS_COMPUTE_32F=68, CUBLAS_COMPUTE_32F_FAST_TF32=77,
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

    def synchronize(self) -> None:
        """Let the host wait for all that is queued."""
        self._run(self._ran + len(self._copies))
        state.streams[None] |= _clock(self.ptr)


class Event:
    """What has been queued on a stream when it was recorded; nothing before that."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self._clock: _Clock = Counter()
        self._run: Callable[[], None] = lambda: None

    def record(self, stream: Stream) -> None:
        """Take what is queued on the stream now."""
        until = stream._ran + len(stream._copies)
        self._clock, self._run = _clock(stream.ptr).copy(), lambda: stream._run(until)

    def synchronize(self) -> None:
        """Let the host wait for it."""
        self._run()
        state.streams[None] |= self._clock


def asarray(x: Any, dtype: Any = None) -> ndarray:
    """Onto the current device; as it is if it is there."""
    if isinstance(x, ndarray):
        if x._memory.device != state.device:
            return ndarray._from(x._host)
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    return ndarray._from(np.asarray(x, dtype))


def ascontiguousarray(x: Any, dtype: Any = None) -> ndarray:
    """A C-contiguous device array."""
    x = asarray(x, dtype)
    return x if x.flags.c_contiguous else ndarray._from(x._host)


def array(x: Any, dtype: Any = None, order: str = "K") -> ndarray:
    """A new device array."""
    host = _plain(x) if isinstance(x, ndarray) else x
    return ndarray._from(np.array(host, dtype=dtype, order=order), order)


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
        new = ndarray._new(shape, dtype)
        new._host[...] = value
        return new

    return create


def full(shape: Any, value: Any, dtype: Any = None) -> ndarray:
    """NumPy's function of this name."""
    return ndarray._from(np.full(shape, value, dtype))


def multiply(x: Any, y: Any, out: ndarray) -> ndarray:
    """NumPy's function of this name, with `out`."""
    np.multiply(_plain(x), _plain(y), out=_plain(out))
    return out


def _names() -> dict[str, Any]:
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: state.device,
        getDeviceCount=lambda: state.devices,
        getDeviceProperties=lambda index: {"name": b"Stand-in", "major": 9, "minor": 0},
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
        device=SimpleNamespace(get_cublas_handle=lambda: 1000 + state.device),
        get_current_stream=lambda: stream,
        Stream=Stream,
        Event=Event,
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
        "where": lambda chosen, x, y: ndarray._from(np.where(chosen._host, _plain(x), _plain(y))),
        "take": lambda x, index, axis: ndarray._from(np.take(_plain(x), index._host, axis=axis)),
        "repeat": lambda x, repeats, axis: ndarray._from(np.repeat(_plain(x), repeats, axis=axis)),
        "stack": lambda arrays, axis=0: ndarray._from(np.stack([_plain(x) for x in arrays], axis=axis)),
        "multiply": multiply,
        "maximum": lambda x, y: ndarray._from(np.maximum(_plain(x), _plain(y))),
        "get_default_memory_pool": lambda: SimpleNamespace(free_all_blocks=lambda: None, free_bytes=lambda: 0),
    }


@contextlib.contextmanager
def installed() -> Iterator[_State]:
    """The stand-in as the module cupy, on a fresh machine; kernels and probes remember nothing across it."""
    from gpusoftmax.cuda import compile, probe

    def forget() -> None:
        compile._compiled.cache_clear()
        probe._probe.cache_clear()

    modules = {}
    for name in ("cupy", "cupyx", "cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs"):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        modules[name] = module
    state.__init__()  # type: ignore[misc]
    vars(modules["cupy"]).update(_names())
    modules["cupyx"].empty_pinned = empty_pinned  # type: ignore[attr-defined]
    modules["cupy_backends.cuda.libs"].cublas = cublas  # type: ignore[attr-defined]
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
