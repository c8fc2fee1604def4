"""Compiling functions with Numba: the cache on disk, its key, and access to memory by address.

Kernels are cached on disk, so they must not be closures over other jitted functions.

Compile options: `contract` and `reassoc` let products fuse and row sums vectorise. Never use `fastmath=True`: it makes
the result undefined for NaN and infinite scores, which must give a non-finite loss.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import NativeValue, intrinsic, models, register_jitable, register_model, typeof_impl, unbox

from gpusoftmax._log import log
from gpusoftmax.cpu.vectors import pointer

FAST = {"contract", "reassoc"}


@cache
def _say_once(text: str) -> None:
    log.warning(text)


class _KernelsOnDisk(FunctionCache):
    """Numba's cache on disk, which recovers from damaged files: a full disk or a power cut can truncate them.

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


def compiled(function):
    """Apply `njit`, with a cache on disk: beside this file, in the user's cache folder, or in NUMBA_CACHE_DIR."""
    dispatcher = njit(nogil=True, fastmath=FAST)(function)
    try:
        dispatcher._cache = _KernelsOnDisk(function)  # as cache=True does with Numba's own
    except RuntimeError:  # package and home are read-only, as in many containers
        _say_once(
            "compiled kernels cannot be saved, so each process spends some seconds compiling them; set NUMBA_CACHE_DIR "
            "to a writable folder"
        )
    return dispatcher


class Source:
    """An argument whose type contains a hash of this folder's source, so that the cache on disk tells versions apart.

    Numba's cache checks only the date and the length of a function's own file. After a change of tiles.py it used the
    old tiles, with a new layout of memory; and all files of a wheel have the same date.
    """


class _SourceType(types.Opaque):
    def __init__(self):
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        super().__init__(f"Source({digest.hexdigest()[:16]})")


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
