"""What the CPU kernels are compiled for, and where they are cached."""

from __future__ import annotations

from dataclasses import dataclass

VECTOR_FEATURES = ("avx512f", "avx2", "fma", "f16c", "neon")


@dataclass(frozen=True)
class CompiledFor:
    """The target of the compiled kernels.

    Attributes
    ----------
    vector_bits : int
        The length of a vector.
    vector_features : list of str
        The vector extensions in use. Environment variables may have turned off others that the processor has.
    folder : str or None
        The cache of compiled kernels; None if there is none, so that each process compiles them again.
    """

    vector_bits: int
    vector_features: list[str]
    folder: str | None


def compilations() -> int:
    """How often Numba has compiled a kernel in this process, rather than loaded it from the cache on disk."""
    from gpusoftmax.cpu import kernels

    return kernels.compilations()


def compiled_for() -> CompiledFor:
    """The target that Numba compiles for on this machine.

    Raises
    ------
    ImportError
        Numba is not installed.
    """
    from numba.core.registry import cpu_target

    from gpusoftmax.cpu.kernels import pass_over_rows
    from gpusoftmax.cpu.vectors import MACHINE

    enabled = {flag[1:] for flag in cpu_target.target_context.codegen().magic_tuple()[2].split(",") if flag[:1] == "+"}
    return CompiledFor(
        8 * MACHINE.vector, [name for name in VECTOR_FEATURES if name in enabled], pass_over_rows.stats.cache_path
    )
