"""Whether other libraries can compute where they should; imported and asked in the process that measures."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any

from bench.common.harness import NotForThisError
from bench.gpu.device import is_stand_in


def torch_module(compiled: bool) -> Any:
    """PyTorch, if it finds the GPU."""
    import torch

    if not is_stand_in() and not torch.cuda.is_available():
        raise NotForThisError("PyTorch finds no GPU")
    if compiled and not is_stand_in() and find_spec("triton") is None:
        raise NotForThisError("torch.compile needs Triton, which is not installed")
    if compiled and is_stand_in() and not any(map(shutil.which, ("g++", "clang++"))):
        raise NotForThisError("torch.compile finds no C++ compiler")
    if compiled:
        torch._dynamo.reset()  # after eight shapes of one function it would fall back to eager without a word
    return torch


def jax_module() -> Any:
    """JAX, if it finds the GPU."""
    import jax

    if not is_stand_in() and jax.default_backend() == "cpu":
        raise NotForThisError("JAX finds no GPU")
    return jax
