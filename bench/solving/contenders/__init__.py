"""Who is compared in `solving`: for each a function of a `Problem` and a `Trace`, in the order of the tables.

The function shows the trace each point that its solver reaches. The trace measures the objective there while the clock
stands still, and ends the run by raising EnoughError when the goal is reached or the time is up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench.common import harness
from bench.common.harness import lacks
from bench.solving.contenders import jax, ours, scipy, sklearn, torch

BOTH = ("softmax", "squared_hinge")


@dataclass(frozen=True)
class Contender(harness.Contender):
    """A solver, and the losses that it has. If it is not `traceable`, a trace is many runs, and none is timed cold."""

    traceable: bool = True
    losses: tuple[str, ...] = ("softmax",)


def lacks_any(*packages: str) -> Callable[[], str]:
    """Why a contender that needs these packages is absent."""
    return lambda: next(filter(None, (lacks(package)() for package in packages)), "")


def _sklearn(solver: str) -> Contender:
    return Contender(f"sklearn-{solver}", f"scikit-learn, {solver}", sklearn.watched_solver(solver))


CONTENDERS = (
    Contender("gpusoftmax", "gpusoftmax", ours.run, ours=True, losses=BOTH),
    *map(_sklearn, ("lbfgs", "newton-cg", "newton-cholesky")),
    Contender("sklearn-saga", "scikit-learn, saga", sklearn.laddered(sklearn.saga), traceable=False),
    Contender("intelex-lbfgs", "scikit-learn-intelex, lbfgs", sklearn.laddered(sklearn.intelex), lacks("sklearnex"),
              traceable=False),
    Contender("scipy-lbfgs", "SciPy, L-BFGS-B over NumPy", sklearn.better_of_threads(scipy.lbfgs),
              losses=("squared_hinge",)),
    Contender("jax-lbfgs", "JAX, optax's L-BFGS", jax.lbfgs, lacks_any("jax", "optax"), losses=BOTH),
    Contender("torch-lbfgs", "PyTorch, L-BFGS", torch.lbfgs, lacks("torch"), losses=BOTH),
    Contender("torch-adam", "PyTorch, Adam", torch.adam, lacks("torch"), traceable=False, losses=BOTH),
)  # fmt: skip
