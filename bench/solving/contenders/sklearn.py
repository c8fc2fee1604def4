"""The solvers of scikit-learn and scikit-learn-intelex, traced without slowing them down."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest import mock

from bench.common.harness import NotForThisError
from bench.solving.cases import Problem
from bench.solving.truth import SHORT, EnoughError, Trace

# iterations of solvers that cannot be watched; each is a fit of its own
LADDER = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 113, 160, 226, 320, 452, 640, 905, 1280, 2560, 5120)
MOST_HESSIAN = 2e9  # bytes

Runner = Callable[[Problem, Trace], None]


def better_of_threads(attempt: Runner) -> Runner:
    """A solver in NumPy and SciPy, of whose short runs the better counts: with all threads of BLAS, or with one.

    On small problems the threads of NumPy's and SciPy's BLAS fight for the cores, and lbfgs takes ten times as long
    with them.
    """

    def run(problem: Problem, trace: Trace) -> None:
        from threadpoolctl import threadpool_limits

        with suppress(EnoughError):
            attempt(problem, trace)
        if trace.points[-1][0] < SHORT and not trace.once:
            second = replace(trace, points=[], last=None)
            with suppress(EnoughError), threadpool_limits(1, "blas"):
                attempt(problem, second)
            if second.rank > trace.rank:
                trace.points, trace.last = second.points, second.last

    return run


def watched_solver(solver: str) -> Runner:
    """One of scikit-learn's solvers that call LinearModelLoss, which is where they can be watched.

    A value or a gradient alone counts as half a pass, as if both had been made in one, which flatters them.
    """
    passes = {
        "loss_gradient": 1.0, "loss": 0.5, "gradient": 0.5, "gradient_hessian": 1.0, "gradient_hessian_product": 0.5,
    }  # fmt: skip

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
                done += passes[method]
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
        patches = [watched(method) for method in passes]
        for patch in patches:
            patch.start()
        try:
            model.fit(X, problem.y)
        finally:
            for patch in patches:
                patch.stop()

    return better_of_threads(attempt)


def laddered(estimator: Callable[[Problem, int], Any]) -> Runner:
    """A solver that cannot be watched: a fresh fit for each number of iterations, and the time of that fit.

    The run ends when all fits together have taken the budget.
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
    """scikit-learn's saga."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=problem.case.C, solver="saga", tol=0.0, max_iter=iterations, random_state=0)


def intelex(problem: Problem, iterations: int) -> Any:
    """scikit-learn-intelex's lbfgs."""
    from sklearnex.linear_model import LogisticRegression

    return LogisticRegression(C=problem.case.C, solver="lbfgs", tol=1e-12, max_iter=iterations)
