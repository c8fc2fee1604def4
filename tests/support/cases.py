"""Random problems for the numerical core, their float64 answers, and how far rounding may take a fast path from them.

A bound is worked out per number from the data, as an error analysis would, so that it is tight where the answer is
well determined (confident rows, exact data) and wide only where it is not (huge scores, a margin next to its kink).
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, SweepResult, reference, sweep
from gpusoftmax.array import Backend
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Evaluation, Objective
from gpusoftmax.operations import Diagonals
from gpusoftmax.penalties import L2
from gpusoftmax.solvers import LBFGS
from gpusoftmax.solvers.certificate import certify

Array = npt.NDArray[Any]

# the `backend` fixture is frozen, so that examples cannot influence each other through it
DETERMINISTIC = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

DTYPES = ("float64", "float32", "float16", "uint8")
LAYOUTS = ("C", "Fortran", "reversed", "every other", "read-only", "repeated row", "repeated column")
# typical features: ordinary, large and small; float16's largest number is 65504, and below 6.1e-5 it is subnormal
SIZES = {"float64": (1.0, 1e4, 1e-3), "float32": (1.0, 1e4, 1e-3), "float16": (1.0, 2e4, 6e-6), "uint8": (100.0,)}

INTERCEPTS = {
    "free": {},
    "penalised": {"penalize_intercept": True},
    "none": {"fit_intercept": False},
}


@dataclass(frozen=True)
class Problem:
    """The arguments of Operations.linear_gradient."""

    X: Array
    labels: Array
    W: Array
    b: Array
    weights: Array | None
    loss: int
    rows: Array | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.X, self.labels, self.W, self.b, self.weights, self.loss


@dataclass(frozen=True)
class Sums:
    """Results of linear_gradient, or how much each of them may be off."""

    losses: Array
    correct: Array
    dW: Array
    db: Array


def laid_out(X: Array, layout: str) -> Array:
    """X with other strides or flags and the same values, but that "repeated row" and "repeated column" repeat one."""
    n, d = X.shape
    if layout == "Fortran":
        return np.asfortranarray(X)
    if layout == "reversed":
        return X[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "every other":
        wide = np.full((2 * n, 3 * d), 77, X.dtype)  # what a wrong stride would read
        wide[::2, 1::3] = X
        return wide[::2, 1::3]
    if layout == "repeated row":
        return np.broadcast_to(X[0].copy(), (n, d))  # stride 0, read-only
    if layout == "repeated column":
        return np.broadcast_to(X[:, :1].copy(), (n, d))
    X = X.copy()
    X.setflags(write=layout != "read-only")
    return X


def random_problem(
    seed: int,
    *,
    dtype: str = "float32",
    n: int = 9,
    d: int = 4,
    c: int = 3,
    K: int = 1,
    loss: str = "softmax",
    weighted: bool = False,
    n_rows: int | None = None,
    layout: str = "C",
    size: float | None = None,
    spread: float = 1.0,
) -> Problem:
    """Features of about `size`, scores of about `spread`; a weight in three is zero, rows may repeat."""
    rng = np.random.default_rng(seed)
    size = SIZES[dtype][0] if size is None else size
    if dtype == "uint8":
        X = rng.integers(0, 256, (n, d)).astype(dtype)
    else:
        X = np.clip(size * rng.standard_normal((n, d)), -65504, 65504).astype(dtype)
    computed = np.float64 if dtype == "float64" else np.float32
    weights = None
    if weighted:
        weights = (rng.random((n, K)) * 3 * (rng.random((n, K)) < 2 / 3)).astype(computed)
    return Problem(
        X=laid_out(X, layout),
        labels=rng.integers(0, c, n, dtype=np.int32),
        W=(spread / (size * np.sqrt(d)) * rng.standard_normal((d, K, c))).astype(computed),
        b=(spread * rng.standard_normal((K, c))).astype(computed),
        weights=weights,
        loss=LOSSES[loss].code,
        rows=None if n_rows is None else rng.integers(0, n, n_rows),
    )


@st.composite
def problems(draw: Any, **fixed: Any) -> Problem:
    """Any small problem; `fixed` arguments of random_problem are not drawn."""
    dtype = fixed.get("dtype") or draw(st.sampled_from(DTYPES))
    drawn = {
        "n": st.integers(1, 40),
        "d": st.sampled_from([1, 2, 3, 5, 17, 64]),
        "c": st.sampled_from([2, 3, 5, 10, 57, 257]),  # above 256 columns the products are BLAS's
        "K": st.integers(1, 3),
        "loss": st.sampled_from(list(LOSSES)),
        "weighted": st.booleans(),
        "n_rows": st.one_of(st.none(), st.integers(1, 50)),
        "layout": st.sampled_from(LAYOUTS),
        "size": st.sampled_from(SIZES[dtype]),
        "spread": st.sampled_from([1.0, 20.0, 1e4]),
    }
    values = {name: fixed[name] if name in fixed else draw(strategy) for name, strategy in drawn.items()}
    return random_problem(draw(st.integers(0, 2**32 - 1)), dtype=dtype, **values)


def answer(problem: Problem) -> tuple[Sums, Sums]:
    """Results of linear_gradient in float64, and bounds on a fast path's distance from them."""
    rows = np.arange(len(problem.X)) if problem.rows is None else problem.rows
    X, labels = problem.X[rows].astype(np.float64), problem.labels[rows]
    W, b = problem.W.astype(np.float64), problem.b.astype(np.float64)
    m, K = len(X), W.shape[1]
    eps, tiny = np.finfo(problem.W.dtype).eps, np.finfo(problem.W.dtype).tiny
    s = np.ones((m, K)) if problem.weights is None else problem.weights[rows].astype(np.float64)
    Z = reference.scores(X, W, b)
    off = score_bound(problem)[rows]
    losses, G, losses_off, G_off = row_answer(Z, off, labels, problem.loss, eps, tiny)
    G, G_off = G * s[:, :, None], G_off * s[:, :, None]

    def backward(g: Array) -> Array:
        return np.einsum("ip,ikj->pkj", np.abs(X), g)

    top = np.sort(Z, axis=2)
    close = top[:, :, -1] - top[:, :, -2] <= 2 * off.max(axis=2)  # either may come out as the larger
    sum_eps = 4 * np.sqrt(m + 2) * eps  # m roundings of either sign, relative to the sum of sizes; margin 4
    right = Z.argmax(axis=2) == labels[:, None]
    expected = Sums((losses * s).sum(axis=0), (right * s).sum(axis=0), np.einsum("ip,ikj->pkj", X, G), G.sum(axis=0))
    allowed = Sums(
        (losses_off * s).sum(axis=0) + 4 * eps * (losses * s).sum(axis=0),
        (close * s).sum(axis=0) + 4 * np.sqrt(m) * np.finfo(np.float64).eps * s.sum(axis=0),
        backward(G_off) + sum_eps * backward(np.abs(G)) + m * tiny,
        G_off.sum(axis=0) + sum_eps * np.abs(G).sum(axis=0) + m * tiny,
    )
    return expected, allowed


def score_bound(problem: Problem) -> Array:
    """How much scores (n, K, c) may be off: d + 1 roundings of either sign, each eps times the size of the terms."""
    sizes = reference.scores(np.abs(problem.X.astype(np.float64)), np.abs(problem.W), np.abs(problem.b))
    d = problem.X.shape[1]
    return 4 * np.sqrt(d + 2) * np.finfo(problem.W.dtype).eps * sizes


def row_answer(
    Z: Array, off: Array, labels: Array, loss: int, eps: float, tiny: float
) -> tuple[Array, Array, Array, Array]:
    """Losses (m, K) and gradients (m, K, c) of scores Z (m, K, c) that may be off by `off`, and bounds on both."""
    m, K, c = Z.shape
    name = list(LOSSES)[loss]
    losses, G = reference.row_loss(Z.reshape(m * K, c), np.repeat(labels, K), name)
    losses, G = losses.reshape(m, K), G.reshape(m, K, c)
    sums = 4 * np.sqrt(c) * eps
    if name == "softmax":
        # exp(z - max z): the difference is rounded (beyond 110 nothing is left in float32), and so is exp itself
        far = np.minimum(Z.max(axis=2) - Z.min(axis=2), 110.0)
        relative = np.expm1(np.minimum(2 * off.max(axis=2) + eps * far + 8 * eps + sums, 10.0))
        # a loss of log1p(others) has the relative error of others; any other loss is more than ln 2
        return losses, G, 3 * relative * losses + tiny, relative[:, :, None] * np.abs(G) + tiny
    t = labels[:, None, None]
    z_t, off_t = (np.take_along_axis(a, np.broadcast_to(t, (m, K, 1)), axis=2) for a in (Z, off))
    margins = Z - z_t + 1
    off = off + off_t + 2 * eps * (np.abs(Z) + np.abs(z_t) + 1)
    others = np.arange(c) != t
    active = others & (margins > -off)
    if name == "hinge":
        loss_off = np.where(active, off, 0.0)
        G_off = np.where(others & (np.abs(margins) <= off), 1.0, 0.0)
    else:
        loss_off = np.where(active, 2 * np.abs(margins) * off + off**2, 0.0)
        G_off = np.where(active, 2 * off, 0.0)
    G_off = G_off + 2 * eps * np.abs(G)
    np.put_along_axis(G_off, np.broadcast_to(t, (m, K, 1)), 0.0, axis=2)
    target_off = G_off.sum(axis=2, keepdims=True) + sums * np.abs(G).sum(axis=2, keepdims=True)
    np.put_along_axis(G_off, np.broadcast_to(t, (m, K, 1)), target_off, axis=2)
    return losses, G, loss_off.sum(axis=2) + (sums + 2 * eps) * losses, G_off


def assert_within(actual: Any, expected: Any, allowed: Any, what: str = "") -> None:
    """Every number within its own bound; NaN is within none."""
    excess = np.abs(np.asarray(actual, np.float64) - expected)
    wrong = ~(excess <= allowed)
    if np.any(wrong):
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        numbers = (np.broadcast_to(a, wrong.shape)[at] for a in (actual, expected, allowed))
        raise AssertionError("{}{}: {} instead of {}, allowed is {}".format(what, list(at), *numbers))


def assert_aligned(X: Array) -> None:
    """Contiguous, and starting at a multiple of 64 bytes."""
    assert X.flags.c_contiguous
    assert X.ctypes.data % 64 == 0


def sha256(*arrays: Array) -> str:
    """One digest of the bytes of all arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# the argument that an operation writes to
WRITTEN = {"row_loss": 0, "finish_gradient": 0, "pair_products": 2, "solve_diagonals": 3}


class HostedOperations:
    """Operations of a backend for tests that hold NumPy arrays: arguments go to its device, and results come back."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        backend, operation = self._backend, getattr(self._backend.ops, name)

        def call(*arguments: Any) -> Any:
            with backend.active():
                moved = [self._moved(x) for x in arguments]
                results = operation(*moved)
                if name in WRITTEN:
                    arguments[WRITTEN[name]][...] = backend.to_numpy(moved[WRITTEN[name]])
                if isinstance(results, tuple):
                    return tuple(None if one is None else backend.to_numpy(one) for one in results)
                return backend.to_numpy(results)

        return call

    def _moved(self, x: Any) -> Any:
        if isinstance(x, L2):
            return x.moved(self._backend.asarray)
        if isinstance(x, Diagonals):
            return Diagonals(*(self._moved(one) for one in (x.inverse, x.centre, x.mean_inverse)))
        if isinstance(x, tuple):
            return tuple(map(self._moved, x))
        # unlike asarray, array keeps Fortran's order
        return self._backend.xp.array(x) if isinstance(x, np.ndarray) else x


def hosted(backend: Backend) -> Backend:
    """The backend, with operations that take and return NumPy arrays."""
    return backend if backend.gpu is None else replace(backend, ops=HostedOperations(backend))


def objective_of(
    X: Array,
    labels: Array,
    backend: Backend,
    *,
    c: int | None = None,
    K: int = 1,
    loss: str = "softmax",
    l2: Any = 0.0,
    weights: Array | None = None,
    shift: Array | None = None,
    scale: Array | None = None,
    penalize_intercept: bool = False,
    penalty_factors: Array | None = None,
    **flags: Any,
) -> Objective:
    """An Objective as the estimators build it, on the backend's device."""
    X, y, s, penalties, shift, scale = (
        None if array is None else backend.asarray(array)
        for array in (
            X, labels.astype(np.int32), weights, np.broadcast_to(np.asarray(l2, np.float64), (K,)).copy(), shift, scale
        )
    )  # fmt: skip
    return Objective(
        DenseFeatures(X, backend, shift, scale),
        y,
        int(labels.max()) + 1 if c is None else c,
        s,
        L2(penalties, None if penalty_factors is None else backend.asarray(penalty_factors), penalize_intercept),
        LOSSES[loss],
        **flags,
    )


def sweep_with(X: Any, y: Any, grid: Any, **arguments: Any) -> SweepResult:
    """`sweep`, whose arguments and the estimator's parameters come together."""
    own = {name: arguments.pop(name) for name in inspect.signature(sweep).parameters if name in arguments}
    svm = arguments.get("loss", "softmax") != "softmax"
    return sweep((LinearSVMClassifier if svm else SoftmaxClassifier)(**arguments), grid, X, y, **own)


def zeros_for(objective: Objective) -> tuple[Array, Array]:
    """W (d, K, c) and b (K, c) of zeros in the type of computation, on the objective's device."""
    K, c, features = objective.n_models, objective.n_classes, objective.features
    asarray = objective.backend.asarray
    return asarray(np.zeros((features.d, K, c), features.dtype)), asarray(np.zeros((K, c), features.dtype))


def evaluated(objective: Objective, W: Any, b: Any, rows: Any = None) -> Evaluation:
    """value_and_gradient of NumPy arrays or the device's own, as NumPy arrays."""
    backend = objective.backend
    rows = None if rows is None else backend.asarray(rows)
    return on_host(objective.value_and_gradient(backend.asarray(W), backend.asarray(b), rows), backend)


def run(solver: Any, objective: Objective, W: Any = None, b: Any = None) -> Any:
    """A solver's state at its end, from W and b or from zeros, as NumPy arrays."""
    start = zeros_for(objective) if W is None else map(objective.backend.asarray, (W, b))
    state = solver.init(objective, *start)
    while not state.reason:
        state = solver.step(objective, state)
    return on_host(state, objective.backend)


def assert_bounds_hold(objective: Objective) -> None:
    """Certificates on the way to the optimum are above the true distances, and next to nothing at the end."""
    backend = objective.backend
    optimum = run(LBFGS(500, tol=1e-11), objective).value
    for passes in (1, 3, 8, 500):
        state = run(LBFGS(passes, tol=1e-11), objective)
        for k, found in enumerate(certify(objective, backend.asarray(state.W), backend.asarray(state.b))):
            assert found.bound is not None
            assert state.value[k] - optimum[k] <= found.bound + 1e-14
            assert found.objective == pytest.approx(state.value[k], rel=1e-12)
            if passes == 500:
                assert found.bound < 1e-12


def on_host(record: Any, backend: Backend) -> Any:
    """A dataclass with its arrays as NumPy's."""
    if backend.gpu is None:
        return record
    arrays = {name: x for name, x in vars(record).items() if isinstance(x, backend.xp.ndarray)}
    return replace(record, **{name: backend.to_numpy(x) for name, x in arrays.items()})


def noisy_classes(seed: int = 0, n: int = 400) -> tuple[Any, Any]:
    """Three classes that a linear model tells apart but for noise: X (n, 7) and y (n,)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 7))
    return X, (X @ rng.standard_normal((7, 3)) + rng.standard_normal((n, 3))).argmax(axis=1)


def blobs(seed: int, *, n: int = 120, d: int = 5, c: int = 3, apart: float = 2.0) -> tuple[Array, Array]:
    """Gaussian clusters, one per class: X (n, d) float32 and y (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n, dtype=np.int32)
    return (apart * rng.standard_normal((c, d))[y] + rng.standard_normal((n, d))).astype(np.float32), y
