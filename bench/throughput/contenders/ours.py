"""Who takes part: our back ends, and the peers of `peers.py` and `frameworks.py`, as functions over the same arrays.

A contender prepares a problem (conversions, copies to a device, what is compiled ahead: all outside the clock, but
timed and stated) and gives back a call: one unit of work, or an epoch of minibatch steps, which returns when its
result is there. `read` brings a result into the layout of `truth.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.throughput.cases import MOMENTUM, NotForThisError, Prepared, Problem
from bench.throughput.contenders import by_hand as peers
from bench.throughput.contenders import torch as frameworks
from bench.throughput.truth import Answer
from gpusoftmax import BackendUnavailableError, SoftmaxClassifier, reference, resolve
from gpusoftmax.array import Backend
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.sgd import SGD

REFERENCE_WORK = 20_000_000  # n d K c of the cut that the reference visits: a tenth of a second


@dataclass(frozen=True)
class Contender:
    """`absent` is why it cannot take part on this machine, or empty; `prepare` may raise NotForThisError for a case."""

    name: str
    words: str
    ours: bool
    absent: Callable[[], str]
    prepare: Callable[[Problem], Prepared]


# ---- our back ends


@cache
def _absent(name: str) -> str:
    try:
        found = get_backend(name)
    except BackendUnavailableError as error:
        return str(error)
    return "" if found.name.split(":")[0] == name else found.reason  # "cpu" falls back to NumPy without Numba


def _ours(problem: Problem, name: str) -> Prepared:
    backend = get_backend(name, problem.case.threads)
    kinds = {"gradient": _our_gradient, "step": _our_steps, "predict": _our_predictions}
    with backend.active():
        return kinds[problem.case.work](problem, backend)


def _objective(problem: Problem, backend: Backend) -> Objective:
    return Objective(
        features=DenseFeatures(backend.asarray(problem.X), backend),
        labels=backend.asarray(problem.y.astype(np.int32)),
        n_classes=problem.case.c,
        weights=None,
        l2=backend.asarray(problem.l2),
        loss=LOSSES["softmax"],
    )


def _our_gradient(problem: Problem, backend: Backend) -> Prepared:
    """What a solver asks for in each step: labels were checked, and X was moved, once per fit."""
    objective = _objective(problem, backend)
    W, b = backend.asarray(problem.W), backend.asarray(problem.b)

    def call() -> Any:
        with backend.active():
            result = objective.value_and_gradient(W, b)
            backend.synchronize()
            return result

    def read(result: Any) -> Answer:
        return tuple(map(backend.to_numpy, (result.value, result.dW, result.db)))

    return Prepared(call, read, gpu=backend.gpu is not None)


def _our_steps(problem: Problem, backend: Backend) -> Prepared:
    """The solver that the trainer runs, epoch after epoch."""
    objective, case = _objective(problem, backend), problem.case
    plan = BatchPlan(case.n, case.batch)
    solver = SGD(
        plan, steps=1 << 40, learning_rate=problem.rate, momentum=MOMENTUM, nesterov=False, schedule="constant"
    )
    zero = [backend.asarray(np.zeros_like(array)) for array in (problem.W, problem.b)]
    state = solver.init(objective, *zero)

    def call() -> Any:
        with backend.active():
            stop = state.step + plan.steps_per_epoch
            while state.step < stop:
                solver.step(objective, state)
            backend.synchronize()
            return state

    def read(state: Any) -> Answer:
        return tuple(map(backend.to_numpy, (state.W, state.b)))

    return Prepared(call, read, gpu=backend.gpu is not None)


def _our_predictions(problem: Problem, backend: Backend) -> Prepared:
    """The estimator's predict, checks included."""
    if problem.case.K > 1:
        raise NotForThisError("an estimator is one model")
    model = SoftmaxClassifier(backend=backend)
    model.classes_, model.n_features_in_ = np.arange(problem.case.c), problem.case.d
    model.coef_, model.intercept_ = np.ascontiguousarray(problem.W[:, 0].T), problem.b[0]
    X = backend.asarray(problem.X)
    return Prepared(lambda: model.predict(X), lambda result: (backend.to_numpy(result),), gpu=backend.gpu is not None)


def _reference(problem: Problem) -> Prepared:
    """The specification: float64, and no products by BLAS; on a cut, or one call would take minutes."""
    case = problem.case
    if case.work == "step":
        raise NotForThisError("has no steps")
    cut = problem.first(max(1, REFERENCE_WORK // (case.d * case.K * case.c)))
    note = f"time of the first {cut.case.n} rows, scaled" if cut.case.n < case.n else ""
    if case.work == "predict":
        return Prepared(
            lambda: reference.scores(cut.X, cut.W, cut.b).argmax(axis=2), lambda best: (best,), note, rows=cut.case.n
        )
    return Prepared(
        lambda: reference.loss_and_gradient(cut.X, cut.y, cut.W, cut.b, l2=cut.l2), tuple, note, rows=cut.case.n
    )


# ---- the table


def _ours_named(name: str, words: str, backend: str) -> Contender:
    return Contender(name, words, True, lambda: _absent(backend), lambda problem: _ours(problem, backend))


def contenders() -> list[Contender]:
    """Everyone, in the order of the tables."""
    return [
        Contender("reference", "ours: the specification, float64 NumPy", True, lambda: "", _reference),
        _ours_named("numpy", "ours: backend='numpy'", "numpy"),
        _ours_named("numba", "ours: backend='cpu', compiled kernels", "cpu"),
        _ours_named("cuda", "ours: backend='cuda', CUDA kernels", "cuda"),
        Contender("cuda-plain", "CuPy by hand, no kernels of ours", True, lambda: _absent("cuda"), peers.cupy_by_hand),
        Contender("hand", "NumPy by hand", False, lambda: "", peers.numpy_by_hand),
        Contender("sklearn", "scikit-learn's own loss and predict", False, lambda: "", peers.sklearn),
        Contender("torch", "PyTorch eager", False, frameworks.no_torch, frameworks.torch_eager),
        Contender("torch-compile", "PyTorch, torch.compile", False, frameworks.no_compiler, frameworks.torch_compiled),
        Contender("torch-cuda", "PyTorch eager on the GPU", False, frameworks.no_torch_gpu, frameworks.torch_gpu),
        Contender("jax", "JAX, jit", False, frameworks.no_jax, frameworks.jax_jit),
    ]


def choose(patterns: list[str] | None) -> list[Contender]:
    """Contenders by name, or all of them.

    Raises
    ------
    ValueError
        A name is not known.
    """
    everyone = contenders()
    names = [contender.name for contender in everyone]
    if unknown := [name for name in patterns or [] if name not in names]:
        raise ValueError(f"--contender {unknown[0]!r} is not known; there are {', '.join(names)}")
    return [contender for contender in everyone if not patterns or contender.name in patterns]
