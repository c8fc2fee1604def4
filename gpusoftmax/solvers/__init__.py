"""Solvers share one shape: `init(objective, W, b) -> state` and `step(objective, state) -> state`; see `trainer`."""

from gpusoftmax.solvers.sgd import SGD, SGDState

__all__ = ["SGD", "SGDState"]
