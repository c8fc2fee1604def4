"""Exact fits: ours to its own tolerance, and the others with as many iterations as they are told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.harness import NotForThisError
from bench.common.ours import sweep_over_C
from bench.gpu.contenders.availability import jax_module, torch_module
from bench.gpu.device import is_stand_in, torch_device
from bench.gpu.truth import FitProblem

Array = npt.NDArray[Any]

PAIRS = 10  # of L-BFGS
Model = tuple[Array, Array]  # W (d, c) and b (c,) of the scaled features, on the host


@dataclass(frozen=True)
class Solver:
    """A contender that is ready to fit a problem.

    Attributes
    ----------
    fit : callable
        `fit(C, iterations, start)` returns a solution when it is there; the solution before may be the start, or None.
    read : callable
        From a solution to a Model.
    stops : bool
        It stops by itself, and takes no number of iterations.
    about : callable
        What the results say about a solution.
    path : callable or None
        All values of C in one call, where a contender has such a call: their objectives.
    """

    fit: Callable[[float, int, Any], Any]
    read: Callable[[Any], Model]
    stops: bool = False
    about: Callable[[Any], dict[str, Any]] = lambda solution: {}
    path: Callable[[tuple[float, ...]], dict[str, Any]] | None = None


def ours(problem: FitProblem) -> Solver:
    """The estimator on X as it is stored, on the device, with its default tolerance."""
    from gpusoftmax import SoftmaxClassifier

    parameters = {"scaling": problem.scaling, "backend": "cuda"}
    X, y = problem.on_device[0], problem.y

    def fit(C: float, iterations: int, start: Any) -> Any:
        return SoftmaxClassifier(C=C, **parameters).fit(X, y)

    def read(model: Any) -> Model:
        coef, scaled = model.coef_.astype(np.float64), problem.shift is not None
        shift = problem.shift if scaled else np.zeros(coef.shape[1])
        return (coef * problem.scale).T, model.intercept_ + coef @ shift

    def about(model: Any) -> dict[str, Any]:
        report = model.fit_report_
        return {"passes": report.passes, "bound": report.bound, "reason": str(report.reason)}

    def path(Cs: tuple[float, ...]) -> dict[str, Any]:
        # the first rows stand in for held-out ones: scores are not compared, and the time is that of scoring
        held_out = problem.X[: len(y) // 5], y[: len(y) // 5]
        found = sweep_over_C(X, y, Cs, parameters, validation=held_out, refit=False)
        return {
            "objectives": found.trials.objective[0].tolist(), "passes": float(found.trials.passes[0].sum()),
        }  # fmt: skip

    return Solver(fit, read, stops=True, about=about, path=path)


def tight(problem: FitProblem, C: float) -> Model:
    """Our solution with a tolerance far below the default: what is near it is near the optimum."""
    from gpusoftmax import SoftmaxClassifier

    model = SoftmaxClassifier(C=C, scaling=problem.scaling, backend="cuda", tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in float32 it may not get there
        return ours(problem).read(model.fit(problem.on_device[0], problem.y))


def torch(problem: FitProblem, compiled: bool) -> Solver:
    """PyTorch's L-BFGS with its line search, on the full batch; X as float32, converted outside the clock."""
    torch = torch_module(compiled)
    X = _tensor(torch, problem)
    y = torch.from_numpy(problem.y).to(torch_device())
    n, d, c = len(problem.y), X.shape[1], problem.n_classes

    def loss(W: Any, b: Any, l2: Any) -> Any:
        scores = torch.nn.functional.linear(X, W, b)
        return torch.nn.functional.cross_entropy(scores, y) + 0.5 * l2 * (W * W).sum()

    objective: Any = torch.compile(loss, dynamic=False) if compiled else loss

    def fit(C: float, iterations: int, start: Any) -> Any:
        l2 = torch.tensor(1.0 / (C * n), device=torch_device())
        if start is None:
            start = (torch.zeros(c, d, device=torch_device()), torch.zeros(c, device=torch_device()))
        W, b = (array.detach().clone().requires_grad_() for array in start)
        solver = torch.optim.LBFGS(
            [W, b], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=0, tolerance_change=0,
            history_size=PAIRS, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Any:
            solver.zero_grad()
            value = objective(W, b, l2)
            value.backward()
            return value

        solver.step(closure)
        if torch_device() == "cuda":
            torch.cuda.synchronize()
        return W, b

    return Solver(fit, lambda found: (found[0].detach().cpu().numpy().T, found[1].detach().cpu().numpy()))


def _tensor(torch: Any, problem: FitProblem) -> Any:
    """X of the fit where PyTorch computes; on a GPU without a copy."""
    return torch.from_numpy(problem.scaled.get()) if is_stand_in() else torch.from_dlpack(problem.scaled)


def jax(problem: FitProblem) -> Solver:
    """L-BFGS of optax with its zoom line search, each step one compiled function."""
    jax = jax_module()
    try:
        import optax
    except ImportError as error:
        raise NotForThisError("optax is not installed") from error
    import jax.numpy as jnp

    X = jnp.asarray(problem.scaled.get())
    y, n, c = jnp.asarray(problem.y.astype(np.int32)), len(problem.y), problem.n_classes

    def value_of(weights: Any, X: Any, y: Any, l2: Any) -> Any:
        W, b = weights
        scores = X @ W.T + b
        own = jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(scores, axis=1) - own).mean() + 0.5 * l2 * (W * W).sum()

    solver = optax.lbfgs(memory_size=PAIRS)

    @jax.jit
    def step(weights: Any, state: Any, X: Any, y: Any, l2: Any) -> Any:
        def objective(weights: Any) -> Any:
            return value_of(weights, X, y, l2)

        value, slope = optax.value_and_grad_from_state(objective)(weights, state=state)
        updates, state = solver.update(slope, state, weights, value=value, grad=slope, value_fn=objective)
        return optax.apply_updates(weights, updates), state

    def fit(C: float, iterations: int, start: Any) -> Any:
        weights = start or (jnp.zeros((c, X.shape[1]), X.dtype), jnp.zeros(c, X.dtype))
        state, l2 = solver.init(weights), jnp.float32(1.0 / (C * n))
        for _ in range(iterations):
            weights, state = step(weights, state, X, y, l2)
        return jax.block_until_ready(weights)

    return Solver(fit, lambda found: (np.asarray(found[0]).T, np.asarray(found[1])))


def sklearn(problem: FitProblem) -> Solver:
    """Its array API, on PyTorch's tensors where that is installed, else on CuPy's arrays; L-BFGS itself is SciPy's.

    It says which of them in the results.
    """
    import sklearn as package
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils import get_tags

    if not get_tags(LogisticRegression()).array_api_support:
        raise NotForThisError(f"scikit-learn {package.__version__} has no array API in LogisticRegression")
    kind, X, y = _arrays_for_sklearn(problem)

    def fit(C: float, iterations: int, start: Any) -> Any:
        model = LogisticRegression(C=C, solver="lbfgs", tol=1e-12, max_iter=iterations)
        if start is not None:
            model.warm_start = True
            for name in ("coef_", "intercept_", "classes_"):
                setattr(model, name, getattr(start, name))
        with package.config_context(array_api_dispatch=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is what it is told to
            return model.fit(X, y)

    def read(model: Any) -> Model:
        return _on_host(model.coef_).T, _on_host(model.intercept_)

    return Solver(fit, read, about=lambda model: {"arrays": kind})


def _arrays_for_sklearn(problem: FitProblem) -> tuple[str, Any, Any]:
    """Which arrays, X and y on the device."""
    try:
        torch = torch_module(compiled=False)
    except (ImportError, NotForThisError):
        if is_stand_in():
            return "NumPy", problem.scaled.get(), problem.y
        return "CuPy", problem.scaled, problem.on_device[1]
    return "PyTorch", _tensor(torch, problem), torch.from_numpy(problem.y).to(torch_device())


def _on_host(array: Any) -> Array:
    if hasattr(array, "get"):
        return np.asarray(array.get())
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def cuml(problem: FitProblem) -> Solver:
    """cuML's quasi-Newton solver."""
    if is_stand_in():
        raise NotForThisError("cuML needs a GPU")
    from cuml.linear_model import LogisticRegression

    X, y = problem.scaled, problem.on_device[1].astype(np.float32)

    def fit(C: float, iterations: int, start: Any) -> Any:
        return LogisticRegression(C=C, tol=1e-12, max_iter=iterations, output_type="numpy").fit(X, y)

    def read(model: Any) -> Model:
        return np.asarray(model.coef_).T, np.asarray(model.intercept_)

    return Solver(fit, read)
