"""Who races: our solvers through the estimator, and the solvers of others, each traced without slowing it down.

A runner solves a problem and tells a Trace what its objective is at which time. The trace ends it, by raising
EnoughError, when the goal is reached or the time is up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from bench.solving_cases import Problem
from gpusoftmax import SoftmaxClassifier

LADDER = [1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 113, 160, 226, 320, 452, 640, 905, 1280, 2560, 5120]
ADAM_RATES, ADAM_BATCH = (3e-4, 3e-3), 1024


class EnoughError(Exception):
    """The goal is reached, or the time is up."""


@dataclass
class Trace:
    """What a solver told: seconds since it started, reads of X, objective; pauses do not count."""

    goal: float
    budget: float
    points: list[tuple[float, float, float]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, reads: float, value: float, seconds: float | None = None) -> None:
        """A point; ends the run at the goal, or when the time is up."""
        self.points.append((time.perf_counter() - self.started if seconds is None else seconds, reads, float(value)))
        if value <= self.goal or self.points[-1][0] > self.budget:
            raise EnoughError

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is not the solver's work."""
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before


Runner = Callable[[Problem, Trace], tuple[Any, Any] | None]  # gives back W (c, d) and b, where there are any


def ours(problem: Problem, trace: Trace) -> tuple[Any, Any]:
    """The estimator, checks and preparation included, on X as it is."""

    def watch(record: Any) -> bool:
        try:
            trace.add(record.passes, record.objective)
        except EnoughError:
            return True
        return False

    model = SoftmaxClassifier(
        C=problem.case.C, scaling=problem.scaling, solver="lbfgs", tol=0.0, max_iter=5000, callbacks=[watch]
    )
    model.fit(problem.X, problem.y)
    scale = 1 if problem.scaling is None else problem.scaling[1]
    shift = 0 if problem.scaling is None else problem.scaling[0]
    return model.coef_ * scale, model.intercept_ + model.coef_ @ np.broadcast_to(shift, problem.X.shape[1])


def scikit(solver: str) -> Runner:
    """One of scikit-learn's solvers that call LinearModelLoss, which tells the objective and counts the reads."""

    def run(problem: Problem, trace: Trace) -> tuple[Any, Any] | None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.linear_model._linear_loss import LinearModelLoss

        X = problem.scaled()
        reads = 0.0

        def spied(method: str, cost: float, tells: bool) -> Any:
            original = getattr(LinearModelLoss, method)

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal reads
                result = original(self, *args, **kwargs)
                reads += cost
                if method == "gradient_hessian_product":
                    gradient, product = result

                    def counted(s: Any) -> Any:
                        nonlocal reads
                        reads += 1
                        return product(s)

                    return gradient, counted
                if tells:
                    trace.add(reads, result[0] if isinstance(result, tuple) else result)
                return result

            return mock.patch.object(LinearModelLoss, method, call)

        # reads as if each were made once for value and gradient, which flatters them
        model = LogisticRegression(C=problem.case.C, solver=solver, tol=1e-12, max_iter=100_000)
        trace.started = time.perf_counter()
        with (
            spied("loss_gradient", 1, True),
            spied("loss", 0.5, True),
            spied("gradient", 0.5, False),
            spied("gradient_hessian", 1, False),
            spied("gradient_hessian_product", 0.5, False),
        ):
            model.fit(X, problem.y)
        return model.coef_, model.intercept_

    return run


def laddered(estimator: Callable[[Problem, int], Any]) -> Runner:
    """For who tells nothing while it works: a fresh fit for each number of iterations, the time of that fit alone."""

    def run(problem: Problem, trace: Trace) -> tuple[Any, Any]:
        X, best = problem.scaled(), None
        for iterations in LADDER:
            model = estimator(problem, iterations)
            started = time.perf_counter()
            model.fit(X, problem.y)
            seconds = time.perf_counter() - started
            best = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
            value = objective(X, problem, *best)
            try:
                trace.add(iterations, value, seconds)
            except EnoughError:
                break
        assert best is not None
        return best

    return run


def saga(problem: Problem, iterations: int) -> Any:
    """scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=problem.case.C, solver="saga", tol=0.0, max_iter=iterations, random_state=0)


def intelex(problem: Problem, iterations: int) -> Any:
    """scikit-learn-intelex's lbfgs."""
    from sklearnex.linear_model import LogisticRegression

    return LogisticRegression(C=problem.case.C, solver="lbfgs", tol=1e-12, max_iter=iterations)


def _torch(problem: Problem) -> Any:
    import torch

    X = torch.from_numpy(np.ascontiguousarray(problem.scaled()))
    y = torch.from_numpy(problem.y.astype(np.int64))
    W = torch.zeros(problem.X.shape[1], problem.n_classes, dtype=X.dtype, requires_grad=True)
    b = torch.zeros(problem.n_classes, dtype=X.dtype, requires_grad=True)

    def loss(rows: Any = None) -> Any:
        x, labels = (X, y) if rows is None else (X[rows], y[rows])
        return torch.nn.functional.cross_entropy(torch.addmm(b, x, W), labels) + 0.5 * problem.l2 * (W * W).sum()

    return torch, W, b, loss


def torch_lbfgs(problem: Problem, trace: Trace) -> tuple[Any, Any]:
    """PyTorch's L-BFGS with its line search, on the full batch."""
    torch, W, b, loss = _torch(problem)
    solver = torch.optim.LBFGS(
        [W, b], max_iter=100_000, max_eval=100_000, tolerance_grad=0, tolerance_change=0, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    reads = 0

    def closure() -> Any:
        nonlocal reads
        solver.zero_grad()
        value = loss()
        value.backward()
        reads += 1
        trace.add(reads, float(value))
        return value

    trace.started = time.perf_counter()
    solver.step(closure)
    return W.detach().numpy().T, b.detach().numpy()


def torch_adam(problem: Problem, trace: Trace) -> tuple[Any, Any]:
    """PyTorch's Adam on minibatches; the objective is measured once an epoch, outside the clock. The better rate."""
    best: list[tuple[float, float, float]] = []
    for rate in ADAM_RATES:
        torch, W, b, loss = _torch(problem)
        torch.manual_seed(0)
        solver = torch.optim.Adam([W, b], lr=rate)
        run, epoch = Trace(trace.goal, trace.budget), 0
        try:
            while True:
                for rows in torch.randperm(len(problem.y)).split(ADAM_BATCH):
                    solver.zero_grad()
                    loss(rows).backward()
                    solver.step()
                epoch += 1
                with run.paused(), torch.no_grad():
                    value = float(loss())
                run.add(epoch, value)
        except EnoughError:
            pass
        if not best or min(point[2] for point in run.points) < min(point[2] for point in best):
            best, found = run.points, (W.detach().numpy().T, b.detach().numpy())
    trace.points[:] = best
    return found


def objective(X: Any, problem: Problem, W: Any, b: Any) -> float:
    """f in float64, W (c, d) and b (c,) of the scaled features."""
    total = 0.0
    for start in range(0, len(X), 4096):
        rows = slice(start, start + 4096)
        z = X[rows].astype(np.float64) @ W.T + b
        z -= z.max(axis=1, keepdims=True)
        target = z[np.arange(len(z)), problem.y[rows]]
        total += float((np.log(np.exp(z).sum(axis=1)) - target).sum())
    return total / len(X) + 0.5 * problem.l2 * float((W.astype(np.float64) ** 2).sum())


@dataclass(frozen=True)
class Contender:
    """Who, and how to run it; `needs` is the package that has to be there."""

    name: str
    words: str
    run: Runner
    needs: str = "sklearn"


CONTENDERS = (
    Contender("gpusoftmax", "solver='lbfgs'", ours),
    *(Contender(f"sklearn-{name}", f"scikit-learn, {name}", scikit(name)) for name in
      ("lbfgs", "newton-cg", "newton-cholesky")),
    Contender("sklearn-saga", "scikit-learn, saga: a fit per number of epochs", laddered(saga)),
    Contender("intelex-lbfgs", "scikit-learn-intelex: a fit per number of iterations", laddered(intelex), "sklearnex"),
    Contender("torch-lbfgs", "PyTorch, L-BFGS, strong Wolfe", torch_lbfgs, "torch"),
    Contender("torch-adam", f"PyTorch, Adam, {ADAM_BATCH} rows a step", torch_adam, "torch"),
)  # fmt: skip


def race(contender: Contender, problem: Problem, goal: float, budget: float) -> tuple[Trace, tuple[Any, Any] | None]:
    """One run."""
    trace = Trace(goal, budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the tolerance of 0 was not reached
        try:
            found = contender.run(problem, trace)
        except EnoughError:
            found = None
    return trace, found
