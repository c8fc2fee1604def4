"""Solvers. Each has `init(objective, W, b) -> state` and `step(objective, state) -> state`, which `trainer` calls."""

from gpusoftmax.solvers.lbfgs import LBFGS, LBFGSState
from gpusoftmax.solvers.sgd import SGD, SGDState

__all__ = ["LBFGS", "SGD", "LBFGSState", "SGDState"]
