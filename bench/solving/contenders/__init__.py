"""Who is compared in `solving`: for each a function of a `Problem` and a `Trace`, in the order of the tables.

The function shows the trace each point that its solver reaches. The trace measures the objective there while the clock
stands still, and ends the run by raising EnoughError when the goal is reached or the time is up.
"""

from dataclasses import dataclass

from bench.common import harness
from bench.common.harness import lacks
from bench.solving.contenders import ours, sklearn, torch


@dataclass(frozen=True)
class Contender(harness.Contender):
    """A solver; where it is not `traceable` a trace is many runs, and none of them is timed cold."""

    traceable: bool = True


def _sklearn(solver: str) -> Contender:
    return Contender(f"sklearn-{solver}", f"scikit-learn, {solver}", sklearn.watched_solver(solver))


CONTENDERS = (
    Contender("gpusoftmax", "gpusoftmax", ours.run, ours=True),
    *map(_sklearn, ("lbfgs", "newton-cg", "newton-cholesky")),
    Contender("sklearn-saga", "scikit-learn, saga", sklearn.laddered(sklearn.saga), traceable=False),
    Contender("intelex-lbfgs", "scikit-learn-intelex, lbfgs", sklearn.laddered(sklearn.intelex), lacks("sklearnex"),
              traceable=False),
    Contender("torch-lbfgs", "PyTorch, L-BFGS", torch.lbfgs, lacks("torch")),
    Contender("torch-adam", "PyTorch, Adam", torch.adam, lacks("torch"), traceable=False),
)  # fmt: skip
