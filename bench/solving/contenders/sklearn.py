"""Who races: our solver through the estimator, and the solvers of others, traced without slowing them down.

A runner shows a Trace where it is; the trace measures the objective there while the clock stands still, and ends the
run, by raising EnoughError, when the goal is reached or the time is up. What solvers say of themselves does not count:
where rows are certain, losses in float32 are wrong by percents in some of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np

from bench.solving.cases import Problem
from bench.throughput.cases import NotForThisError
from gpusoftmax import SoftmaxClassifier, reference, resolve
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective

# iterations of those that tell nothing while they work; each is a fit of its own
LADDER = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 113, 160, 226, 320, 452, 640, 905, 1280, 2560, 5120)
ADAM_RATES, ADAM_BATCH = (3e-4, 3e-3), 1024
SMALL = 20_000_000  # features up to which the objective is measured in float64
MOST_HESSIAN = 2e9  # bytes
SHORT = 10.0  # seconds up to which a run is made twice


class EnoughError(Exception):
    """The goal is reached, or the time is up."""


@dataclass(frozen=True)
class Judge:
    """Measures the objective of a problem."""

    problem: Problem

    @cached_property
    def objective(self) -> Objective:
        """Over the features as peers see them."""
        problem, device = self.problem, get_backend("cpu")
        X = problem.scaled()
        X = X.astype(np.float64) if X.size <= SMALL else X
        return Objective(
            DenseFeatures(X, device), problem.y.astype(np.int32), problem.n_classes, None, np.array([problem.l2]),
            LOSSES["softmax"],
        )  # fmt: skip

    def __call__(self, W: Any, b: Any) -> float:
        """f at W (c, d) and b (c,) of the scaled features."""
        dtype = self.objective.features.dtype
        W, b = np.ascontiguousarray(W.T[:, None], dtype), np.ascontiguousarray(b[None], dtype)
        return float((self.objective.losses(W, b)[0] + self.objective.penalty(W, b))[0])


@dataclass
class Trace:
    """Where a solver was: seconds since it started, reads of X, objective; what is done while paused does not count."""

    judge: Judge
    goal: float
    budget: float
    points: list[tuple[float, float, float]] = field(default_factory=list)
    last: tuple[Any, Any] | None = None
    once: bool = False  # no second attempt
    started: float = field(default_factory=time.perf_counter)

    @property
    def lowest(self) -> float:
        """The smallest objective."""
        return min(point[2] for point in self.points)

    def show(self, reads: float, W: Any, b: Any, seconds: float | None = None) -> None:
        """A point W (c, d), b (c,); ends the run at the goal, or when the time is up."""
        with self.paused():
            seconds = time.perf_counter() - self.started if seconds is None else seconds
            self.last = np.array(W, np.float64), np.array(b, np.float64)
            value = self.judge(*self.last)
        self.add(reads, value, seconds)

    def add(self, reads: float, value: float, seconds: float | None = None) -> None:
        """A point whose objective is known."""
        self.points.append((time.perf_counter() - self.started if seconds is None else seconds, reads, value))
        if value <= self.goal or self.points[-1][0] > self.budget:
            raise EnoughError

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is not the solver's work."""
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before


Runner = Callable[[Problem, Trace], None]


def ours(problem: Problem, trace: Trace) -> None:
    """The estimator on X as it is, checks and preparation included; its own objective is the judge's."""

    def watch(record: Any) -> bool:
        try:
            trace.add(record.passes, float(record.objective))
        except EnoughError:
            return True
        return False

    model = SoftmaxClassifier(
        C=problem.case.C, scaling=problem.scaling, solver="lbfgs", tol=0.0, max_iter=5000, callbacks=[watch]
    )
    model.fit(problem.X, problem.y)
    shift, scale = (0.0, 1.0) if problem.scaling is None else problem.scaling
    coef = model.coef_.astype(np.float64)
    trace.last = coef * scale, model.intercept_ + coef @ np.broadcast_to(shift, problem.X.shape[1])


def scikit(solver: str) -> Runner:
    """One of scikit-learn's solvers that call LinearModelLoss, which is where they can be watched.

    What is quick runs once with all threads of BLAS and once with one, and the better run counts: on small problems the
    threads of NumPy's and SciPy's BLAS fight for the cores, and lbfgs takes ten times as long with them. A value or a
    gradient alone counts as half a read, as if both had been made in one, which flatters them.
    """
    reads = {
        "loss_gradient": 1.0, "loss": 0.5, "gradient": 0.5, "gradient_hessian": 1.0, "gradient_hessian_product": 0.5,
    }  # fmt: skip

    def run(problem: Problem, trace: Trace) -> None:
        from threadpoolctl import threadpool_limits

        with suppress(EnoughError):
            attempt(problem, trace)
        if trace.points[-1][0] < SHORT and not trace.once:
            second = replace(trace, points=[], last=None)
            with suppress(EnoughError), threadpool_limits(1, "blas"):
                attempt(problem, second)
            ranks = [(run.lowest <= run.goal, -run.points[-1][0]) for run in (trace, second)]
            if ranks[1] > ranks[0]:
                trace.points, trace.last = second.points, second.last

    def attempt(problem: Problem, trace: Trace) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.linear_model._linear_loss import LinearModelLoss

        size = problem.X.shape[1] * problem.n_classes
        if solver == "newton-cholesky" and 8.0 * size**2 > MOST_HESSIAN:
            raise NotForThisError(f"its Hessian would take {8e-9 * size**2:.0f} GB")
        X, done = problem.scaled(), 0.0

        def watched(method: str) -> Any:
            original = getattr(LinearModelLoss, method)

            def call(self: Any, coef: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal done
                result = original(self, coef, *args, **kwargs)
                done += reads[method]
                if method in ("loss_gradient", "loss"):
                    trace.show(done, *self.weight_intercept(coef))
                if method != "gradient_hessian_product":
                    return result
                gradient, product = result

                def counted(s: Any) -> Any:
                    nonlocal done
                    done += 1
                    return product(s)

                return gradient, counted

            return mock.patch.object(LinearModelLoss, method, call)

        model = LogisticRegression(C=problem.case.C, solver=solver, tol=1e-12, max_iter=100_000)
        trace.started = time.perf_counter()
        patches = [watched(method) for method in reads]
        for patch in patches:
            patch.start()
        try:
            model.fit(X, problem.y)
        finally:
            for patch in patches:
                patch.stop()

    return run


def laddered(estimator: Callable[[Problem, int], Any]) -> Runner:
    """For who tells nothing while it works: a fresh fit for each number of iterations, and the time of that fit.

    It ends when all fits together have taken the budget.
    """

    def run(problem: Problem, trace: Trace) -> None:
        X = problem.scaled()
        for iterations in LADDER:
            if sum(point[0] for point in trace.points) > trace.budget:
                break
            model = estimator(problem, iterations)
            started = time.perf_counter()
            model.fit(X, problem.y)
            seconds = time.perf_counter() - started
            trace.show(iterations, model.coef_, model.intercept_, seconds)

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
    # classes first: with features first each product takes four times as long
    W = torch.zeros(problem.n_classes, problem.X.shape[1], dtype=X.dtype, requires_grad=True)
    b = torch.zeros(problem.n_classes, dtype=X.dtype, requires_grad=True)

    def loss(rows: Any = None) -> Any:
        x, labels = (X, y) if rows is None else (X[rows], y[rows])
        scores = torch.nn.functional.linear(x, W, b)
        return torch.nn.functional.cross_entropy(scores, labels) + 0.5 * problem.l2 * (W * W).sum()

    return torch, W, b, loss


def torch_lbfgs(problem: Problem, trace: Trace) -> None:
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
        trace.show(reads, W.detach().numpy(), b.detach().numpy())
        return value

    trace.started = time.perf_counter()
    solver.step(closure)


def torch_adam(problem: Problem, trace: Trace) -> None:
    """PyTorch's Adam on minibatches, at the better of two rates; half of the time for each."""
    best: Trace | None = None
    for rate in ADAM_RATES:
        torch, W, b, loss = _torch(problem)
        torch.manual_seed(0)
        solver = torch.optim.Adam([W, b], lr=rate)
        run, epoch = Trace(trace.judge, trace.goal, trace.budget / 2), 0
        try:
            while True:
                for rows in torch.randperm(len(problem.y)).split(ADAM_BATCH):
                    solver.zero_grad()
                    loss(rows).backward()
                    solver.step()
                epoch += 1
                run.show(epoch, W.detach().numpy(), b.detach().numpy())
        except EnoughError:
            pass
        if best is None or run.lowest < best.lowest:
            best = run
    assert best is not None
    trace.points, trace.last = best.points, best.last


@dataclass(frozen=True)
class Racer:
    """Who, and how to run it; `needs` is the package that has to be there; not `traceable`: a trace is many runs."""

    name: str
    words: str
    run: Runner
    needs: str = "sklearn"
    traceable: bool = True

    def absent(self) -> str:
        """Why it cannot take part, or empty."""
        return "" if find_spec(self.needs) else f"{self.needs} is not installed"


RACERS = (
    Racer("gpusoftmax", "gpusoftmax", ours),
    Racer("sklearn-lbfgs", "scikit-learn, lbfgs", scikit("lbfgs")),
    Racer("sklearn-newton-cg", "scikit-learn, newton-cg", scikit("newton-cg")),
    Racer("sklearn-newton-cholesky", "scikit-learn, newton-cholesky", scikit("newton-cholesky")),
    Racer("sklearn-saga", "scikit-learn, saga", laddered(saga), traceable=False),
    Racer("intelex-lbfgs", "scikit-learn-intelex, lbfgs", laddered(intelex), "sklearnex", traceable=False),
    Racer("torch-lbfgs", "PyTorch, L-BFGS", torch_lbfgs, "torch"),
    Racer("torch-adam", "PyTorch, Adam", torch_adam, "torch", traceable=False),
)


def choose(names: list[str] | None) -> list[Racer]:
    """Racers by name; all of them without any.

    Raises
    ------
    ValueError
        A name is none of theirs.
    """
    known = {racer.name: racer for racer in RACERS}
    for name in names or []:
        if name not in known:
            raise ValueError(f"--racer {name!r} is not known; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(RACERS)
