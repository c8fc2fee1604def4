"""The cases of the two phases, in the order in which they run, and how many seconds each may take.

    right   are the kernels right on this machine?       program, tests, sanitizers
    fast    how fast are they?                           ceilings, rows, passes, steps, fits, a sweep

The fast ones are in the order of their importance: a run that is cut off still has the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.throughput import cases as throughput

RIGHT_KINDS = ("program", "tests", "sanitizer")
SECONDS = {"right": 300, "fast": 360}  # of each phase at most
ROW_BYTES = 1 << 29  # of scores in a case of rows: far beyond any cache
IMAGES = {"n": 49_000, "d": 3072, "c": 10}  # CIFAR-10's training images, as cs231n splits them
EMBEDDINGS = {"n": 1_281_167, "d": 1024, "c": 1000, "dtype": "float16"}  # ImageNet's, of a model with 1024 features
BATCH, STEPS = 200, 1500  # of the course's recipe
# of row kernels: classes on both sides of each change of variants, with rows that are not aligned among them
FLOAT32_CLASSES = (2, 10, 32, 64, 101, 256, 1000, 4096, 10_000, 32_768, 131_072)
BFLOAT16_CLASSES = (10, 256, 1000, 4096, 16_384, 131_072)
COMPARED = (10, 1000, 32_768)  # classes at which all contenders are measured, in float32
QUICK_ROWS = ("rows-10-float32", "rows-10-bfloat16", "rows-1000-float32", "rows-10-compared")


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes
    ----------
    kind : str
        What is done: program, tests, sanitizer, ceilings, rows, pass, steps, fit or sweep.
    seconds : float
        The limit of the case.
    n, d, c, dtype : int, int, int, str
        Rows, features, classes and the type of X; of rows: the type of the scores.
    Cs : tuple of float
        The values of C that are fitted.
    tool : str
        The tool of compute-sanitizer.
    """

    name: str
    words: str
    kind: str
    seconds: float
    n: int = 0
    d: int = 0
    c: int = 0
    dtype: str = "float32"
    Cs: tuple[float, ...] = ()
    tool: str = ""
    is_quick: bool = False
    needs_data = False

    @property
    def phase(self) -> str:
        """Right or fast."""
        return "right" if self.kind in RIGHT_KINDS else "fast"

    @property
    def itemsize(self) -> int:
        """Bytes of a feature, or of a score."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def facts(self) -> dict[str, Any]:
        """What the results say about the case."""
        shape = (
            {"n": self.n, "d": self.d, "c": self.c, "dtype": self.dtype, "itemsize": self.itemsize} if self.n else {}
        )
        return {"kind": self.kind, "seconds": self.seconds, **shape, **({"tool": self.tool} if self.tool else {})}

    def as_throughput(self) -> throughput.Case:
        """The case of `bench throughput` with this shape."""
        work = {"work": "step", "batch": 50 if self.is_quick else BATCH} if self.kind == "steps" else {}
        return throughput.Case(self.name, self.n, self.d, self.c, self.dtype, **work)

    def quick(self) -> Case:
        """The case with hardly any data: does it work?"""
        small = replace(self, is_quick=True, Cs=self.Cs[:: max(1, len(self.Cs) // 2)])
        if self.kind == "rows":
            return replace(small, n=16)
        return replace(small, n=min(self.n, 300), d=min(self.d, 24), c=min(self.c, 40))


def _rows(c: int, dtype: str, compared: bool = False) -> Case:
    size = 4 if dtype == "float32" else 2
    words = f"loss and gradient of rows of {c} scores in {dtype}{', all contenders' * compared}"
    name = f"rows-{c}-{'compared' if compared else dtype}"
    return Case(name, words, "rows", 18 if compared else 3, n=max(8, ROW_BYTES // (8 * c * size) * 8), c=c, dtype=dtype)


def _sanitizer(tool: str, seconds: float) -> Case:
    return Case(tool, f"compute-sanitizer's {tool} over the program", "sanitizer", seconds, tool=tool)


CASES = (
    Case("program", "every kernel in its variants, compared with the reference", "program", 40),
    Case("tests", "the tests that use a GPU", "tests", 120),
    _sanitizer("memcheck", 45),
    _sanitizer("racecheck", 50),
    _sanitizer("synccheck", 20),
    _sanitizer("initcheck", 20),
    Case("ceilings", "a copy, and products in float32, TF32 and bfloat16", "ceilings", 12),
    *(_rows(c, "float32") for c in FLOAT32_CLASSES),
    *(_rows(c, "bfloat16") for c in BFLOAT16_CLASSES),
    Case("cifar-f32", "value and gradient, CIFAR-10's shape, float32", "pass", 40, **IMAGES),
    Case("cifar-u8", "value and gradient, CIFAR-10's shape, uint8", "pass", 20, **IMAGES, dtype="uint8"),
    Case("minibatch", f"steps of {BATCH} rows, CIFAR-10's shape, float32", "steps", 30, **IMAGES),
    Case("cifar-fit", "exact fit of CIFAR-10, C = 3e-4", "fit", 50, **IMAGES, dtype="uint8", Cs=(3e-4,)),
    Case("imagenet-pass", "value and gradient, ImageNet's shape, float16", "pass", 35, **EMBEDDINGS),
    Case("imagenet-fit", "exact fit, ImageNet's shape, float16, C = 10", "fit", 45, **EMBEDDINGS, Cs=(10.0,)),
    Case(
        "cifar-sweep", "20 values of C of CIFAR-10, each fitted exactly", "sweep", 20, **IMAGES, dtype="uint8",
        Cs=tuple(np.logspace(-5, -1, 20).tolist()),
    ),
    *(_rows(c, "float32", compared=True) for c in COMPARED),
)  # fmt: skip


def all_cases(phase: str = "", quick: bool = False) -> list[Case]:
    """The cases of a phase, or of both."""
    found = [case for case in CASES if phase in ("", case.phase)]
    if not quick:
        return found
    return [case.quick() for case in found if case.kind != "rows" or case.name in QUICK_ROWS]
