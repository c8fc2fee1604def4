"""Who is compared on a GPU: for each kind of case a function from its problem to what is timed.

    rows      a `RowsProblem` to a `Prepared`, whose results are the total loss and the gradient of the first rows
    pass      a `Problem` of `bench throughput` to a `Prepared`; `steps` likewise
    fit       a `FitProblem` to a `Solver`; `sweep` likewise

`torch-compile` comes last, since nothing else can take as long to start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.common.harness import Contender, lacks
from bench.gpu.cases import CASES
from bench.gpu.contenders import fits, passes, rows

Work = Callable[[Any], Any]

WORK: dict[str, dict[str, Work]] = {
    "device": {},
    "gpusoftmax": {
        "rows": rows.ours, "pass": passes.ours, "steps": passes.ours, "fit": fits.ours, "sweep": fits.ours,
    },
    "copy": {"rows": rows.copy},
    "two-products": {"pass": passes.two_products},
    "cupy": {"pass": passes.by_hand},
    "torch": {
        "rows": partial(rows.torch, compiled=False), "pass": partial(passes.torch, compiled=False),
        "steps": partial(passes.torch, compiled=False), "fit": partial(fits.torch, compiled=False),
        "sweep": partial(fits.torch, compiled=False),
    },
    "jax": {"rows": rows.jax, "pass": passes.jax, "steps": passes.jax, "fit": fits.jax, "sweep": fits.jax},
    "sklearn": {"fit": fits.sklearn, "sweep": fits.sklearn},
    "cuml": {"fit": fits.cuml, "sweep": fits.cuml},
    "torch-compile": {
        "rows": partial(rows.torch, compiled=True), "pass": partial(passes.torch, compiled=True),
        "steps": partial(passes.torch, compiled=True), "fit": partial(fits.torch, compiled=True),
    },
}  # fmt: skip
# those that have too little time for it
LEFT_OUT = {"imagenet-fit": ("sklearn", "torch-compile")}
ONLY_COMPARED = ("torch", "jax", "torch-compile")  # of rows, in the cases that are called so


def cases_of(name: str) -> tuple[str, ...]:
    """The names of the cases in which a contender takes part."""
    kinds = WORK[name]
    return tuple(
        case.name
        for case in CASES
        if case.kind in kinds
        and name not in LEFT_OUT.get(case.name, ())
        and not (case.kind == "rows" and name in ONLY_COMPARED and "compared" not in case.name)
    )


def _contender(name: str, words: str, package: str = "", ours: bool = False) -> Contender:
    absent = lacks(package) if package else str
    return Contender(name, words, lambda problem: None, absent, ours=ours, cases=cases_of(name))


def _machine(name: str, words: str, kind: str) -> Contender:
    """What measures or checks the machine, and has cases of its own."""
    names = tuple(case.name for case in CASES if case.kind == kind)
    return Contender(name, words, lambda problem: None, ours=True, cases=names)


CONTENDERS = (
    _machine("kernels", "ours: the program that calls every kernel", "program"),
    _machine("pytest", "ours: the tests that use a GPU", "tests"),
    _machine("sanitizer", "ours: the program under compute-sanitizer", "sanitizer"),
    _machine("device", "ours: what CuPy and cuBLAS reach", "ceilings"),
    _contender("gpusoftmax", "ours", ours=True),
    _contender("copy", "ours: a copy of the scores by CuPy", ours=True),
    _contender("two-products", "ours: X as float32, and two products of cuBLAS", ours=True),
    _contender("cupy", "CuPy by hand, no kernels of ours"),
    _contender("torch", "PyTorch eager; L-BFGS of its own", "torch"),
    _contender("jax", "JAX, jit, highest precision; L-BFGS of optax", "jax"),
    _contender("sklearn", "scikit-learn's LogisticRegression on the GPU, by its array API", "sklearn"),
    _contender("cuml", "cuML's LogisticRegression", "cuml"),
    _contender("torch-compile", "PyTorch, torch.compile", "torch"),
)


def prepare(name: str, kind: str) -> Work:
    """What a contender does in cases of a kind."""
    return WORK[name][kind]
