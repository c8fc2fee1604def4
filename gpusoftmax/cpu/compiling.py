"""Compiling functions: the cache on disk, its key, calls of functions and access to memory by address.

Kernels are compiled by Numba (`compiled`), or written as LLVM operations (`emitted`). Numba compiles a function that
another one calls once by itself and again in each function around it, down to machine code, and that takes most of its
time. So what is large and hot is emitted: it is compiled once, alone, and kernels call it by its address.

Kernels are cached on disk, so they must not be closures over other jitted functions.

Compile options: `contract` and `reassoc` let products fuse and row sums vectorise. Never use `fastmath=True`: it makes
the result undefined for NaN and infinite scores, which must give a non-finite loss.
"""

from __future__ import annotations

import hashlib
import inspect
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache, NullCache, make_library_cache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu_options import FastMathOptions
from numba.core.fastmathpass import rewrite_module
from numba.core.registry import cpu_target
from numba.extending import NativeValue, intrinsic, models, register_jitable, register_model, typeof_impl, unbox

from gpusoftmax._log import log
from gpusoftmax.cpu.vectors import I64, pointer

FAST = {"contract", "reassoc"}

dispatchers, emitters = [], []  # all functions that `compiled` and `emitted` have decorated


@cache
def _say_once(text: str) -> None:
    log.warning(text)


class _Recovering:
    """A cache on disk that recovers from damaged files: a full disk or a power cut can truncate them.

    Numba itself would raise an error in this process and in each later one, until somebody deletes the file.
    """

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle can raise any exception
            _say_once(f"compiled kernels in {self.cache_path} are damaged ({error!r}); they are compiled again")
            with suppress(OSError):  # the disk is still full; save_overload will say so
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _say_once(f"compiled kernels cannot be saved in {self.cache_path} ({error!r}); free some space there")


class _FunctionsOnDisk(_Recovering, FunctionCache):
    """The cache of functions that Numba compiles."""


class _EmittedOnDisk(_Recovering, make_library_cache("emitted")):
    """The cache of functions that are written as LLVM operations."""


def _cache_for(function, kind):
    """The cache on disk for a function: beside this file, in the user's cache folder, or in NUMBA_CACHE_DIR."""
    try:
        return kind(function)
    except RuntimeError:  # package and home are read-only, as in many containers
        _say_once(
            "compiled kernels cannot be saved, so each process spends some seconds compiling them; set NUMBA_CACHE_DIR "
            "to a writable folder"
        )
        return NullCache()


def compiled(function):
    """Apply `njit`, with a cache on disk."""
    dispatcher = njit(nogil=True, fastmath=FAST)(function)
    dispatcher._cache = _cache_for(function, _FunctionsOnDisk)  # as cache=True does with Numba's own
    dispatchers.append(dispatcher)
    return dispatcher


class emitted:  # noqa: N801 - a decorator
    """A function of int64 arguments, written as LLVM operations, that compiled code calls by its address; see `call`.

    Decorates a function emit(b, *arguments, **key) that emits the operations with the LLVM builder b. It is compiled
    for each key, its keyword-only arguments: types and constants.
    """

    def __init__(self, emit):
        self.emit, self.addresses, self.compiled = emit, {}, {}  # by name: addresses, libraries compiled here
        kinds = [parameter.kind for parameter in inspect.signature(emit).parameters.values()]
        self.n_arguments = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) - 1
        self.cache = _cache_for(emit, _EmittedOnDisk)
        emitters.append(self)

    def address(self, **key):
        """The address of the function for a key; compiles it, or loads it from the cache on disk."""
        name = "_".join(["gpusoftmax", self.emit.__name__, *map(str, key.values())])
        found = self.addresses.get(name)
        return self._load(name, key) if found is None else found

    @global_compiler_lock
    def _load(self, name, key):
        if name not in self.addresses:
            context = cpu_target.target_context
            library = self.cache.load_overload((name, DIGEST), context)
            # processes that write to a cache at the same time can give a file's name to two functions
            address = library.get_pointer_to_function(name) if library is not None and library.name == name else 0
            if address == 0:
                library = self._compile(context.codegen().create_library(name), key)
                address = library.get_pointer_to_function(name)
                self.cache.save_overload((name, DIGEST), library)
            self.addresses[name] = address
        return self.addresses[name]

    def _compile(self, library, key):
        module = library.create_ir_module(library.name)
        kind = ir.FunctionType(ir.VoidType(), [I64] * self.n_arguments)
        function = ir.Function(module, kind, library.name)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        self.emit(b, *function.args, **key)
        b.ret_void()
        rewrite_module(module, FastMathOptions(FAST))
        library.enable_object_caching()
        library.add_ir_module(module)
        library.finalize()
        self.compiled[library.name] = library
        return library


@intrinsic
def call(typing, address, arguments):
    """Call an `emitted` function at an address with a tuple of integers."""

    def emit(context, builder, signature, args):
        values = cgutils.unpack_tuple(builder, args[1])
        values = [context.cast(builder, x, kind, types.int64) for x, kind in zip(values, arguments, strict=True)]
        function = ir.FunctionType(ir.VoidType(), [I64] * len(values))
        builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), emit


def compilations() -> int:
    """How many functions have been compiled in this process, rather than loaded from the cache on disk."""
    return sum(sum(one.stats.cache_misses.values()) for one in dispatchers) + sum(len(one.compiled) for one in emitters)


def _digest():
    """A hash of this folder's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


DIGEST = _digest()


class Source:
    """An argument whose type contains DIGEST, so that the cache on disk tells versions of the source apart.

    Numba's cache checks only the date and the length of a function's own file. After a change of tiles.py it used the
    old tiles, with a new layout of memory; and all files of a wheel have the same date.
    """


class _SourceType(types.Opaque):
    def __init__(self):
        super().__init__(f"Source({DIGEST})")


_SOURCE_TYPE = _SourceType()
SOURCE = Source()
register_model(_SourceType)(models.OpaqueModel)


@typeof_impl.register(Source)
def _typeof_source(value, context):
    return _SOURCE_TYPE


@unbox(_SourceType)
def _unbox_source(kind, value, context):
    return NativeValue(context.context.get_dummy_value())


@intrinsic
def pointer_to(typing, address, marker):
    """Convert an address to a pointer to numbers of the type of `marker`."""

    def emit(context, builder, signature, args):
        return pointer(builder, args[0], context.get_value_type(marker))

    return types.CPointer(marker)(types.int64, marker), emit


@intrinsic
def peek(typing, address, like):
    """Read a number of the type of `like` at an address."""

    def emit(context, builder, signature, args):
        return builder.load(pointer(builder, args[0], context.get_value_type(like)))

    return like(types.int64, like), emit


@intrinsic
def element(typing, address, index, like):
    """Read element `index` of an array at an address, of numbers of the type of `like`."""

    def emit(context, builder, signature, args):
        place = pointer(builder, args[0], context.get_value_type(like))
        return builder.load(builder.gep(place, [args[1]]))

    return like(types.int64, types.int64, like), emit


@intrinsic
def poke(typing, address, value):
    """Write a number to an address."""

    def emit(context, builder, signature, args):
        builder.store(args[1], pointer(builder, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(types.int64, value), emit


@intrinsic
def as_type(typing, number, like):
    """Convert a float64 to the type of `like`."""

    def emit(context, builder, signature, args):
        return context.cast(builder, args[0], types.float64, like)

    return like(types.float64, like), emit


@register_jitable
def value_at(values, k, marker):
    """Read the value of entry k of a sparse matrix as float64; 1 where `values`, an address, is 0."""
    return np.float64(element(values, k, marker)) if values != 0 else 1.0
