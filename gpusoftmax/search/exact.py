"""Follows the regularisation path: the exact solutions of one objective from strong penalties to weak ones.

The solution W(l2) is smooth in log l2. Each solve starts from the value at l2 of the polynomial through the nearest
three solutions (Park and Hastie, 2007, start from a tangent). It then needs about four passes, where a start from zero
needs fifteen and a start from the last solution eight. One preconditioner, from the Gram matrix of a sample, serves
all.

Tried, and no better: correcting the starts on other folds by the polynomial's error on the first fold (477 passes
instead of 458), keeping the L-BFGS pairs of the previous solve (992 instead of 962), and a preconditioner for each
class (82 instead of 84).

On CIFAR-10, with 20 penalties from C = 1e-5 to 0.1: one at a time, 101 passes with one model; two at a time, 75 passes
with two models, which takes longer; all at once, 33 passes with twenty. On a CPU, where a pass takes time in proportion
to the number of models, penalties are therefore solved one at a time. On a GPU as many as fit are solved at once,
because few columns leave it idle (not measured on a GPU).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.solvers.lbfgs import LBFGS
from gpusoftmax.solvers.pairs import MEMORY
from gpusoftmax.solvers.preconditioners.gram import SPECTRUM_FEATURES, GramSample
from gpusoftmax.trainer import Progress, TrainResult, train

NODES = 3  # solutions that the polynomial goes through
# least distance of these in log l2: closer solutions differ mainly by their error within tol, which extrapolation
# amplifies
APART = 0.4
FARTHEST = 1.5  # how far to extrapolate, as a multiple of the smallest distance between the nodes
LONGEST = 1.001 * float(np.log(10.0))  # and how far at most, in log l2: a factor of ten, in spite of rounding
REMEMBERED = 8  # solutions that are kept
# Columns of scores of models that share a pass over rows from files: with more, computing takes longer than reading.
SHARED_COLUMNS = 100
MOST_BYTES = 1 << 30  # memory of the models that are solved at the same time on a GPU


def shared_width(folds: int, c: int, n: int, itemsize: int, weight_bytes: int) -> int:
    """How many penalties to solve at the same time where the folds share passes over rows that are read from files.

    The weights of the training rows and of the held-out rows are kept, and copied for each penalty.
    """
    return max(1, min(SHARED_COLUMNS // (folds * c), weight_bytes // (folds * n * itemsize) - 2))


def width(backend: Backend, d: int, c: int, weighted: int, itemsize: int) -> int:
    """How many models to solve at the same time; each keeps a copy of the weights of `weighted` rows."""
    if backend.gpu is None:
        return 1
    vectors = 2 * MEMORY + 10  # pairs, points and gradients
    inverse = d * d if d <= SPECTRUM_FEATURES else 0
    return max(1, MOST_BYTES // ((vectors * (d + 1) * c + inverse + weighted) * itemsize))


@dataclass
class Path:
    """Solves an objective for one penalty after another.

    Attributes
    ----------
    objective : Objective
        For one model, or for F models that are solved side by side, such as those of F folds; its l2 is not used.
    sample : GramSample
        A sample of the same X, of these rows or of all.
    max_iter, tol, seed
        As for an estimator, except that tol is relative to the objective where that is below 1. Otherwise, with weak
        penalties and all rows classified correctly, the predicted starts already have small gradients, and would be
        accepted as solutions with twice the held-out loss.
    checkpoint : Checkpoint, optional
        That of the sweep.
    nodes : list of (log l2, W (d, F, c), b (F, c))
        The last solutions; l2 > 0 is that of the first model.
    """

    objective: Objective
    sample: GramSample
    max_iter: int
    tol: float
    seed: int
    checkpoint: Checkpoint | None = None
    nodes: list[tuple[float, Any, Any]] = field(default_factory=list)

    def solve(self, l2: Array, progress: Progress | None = None) -> TrainResult:
        """Solve for these penalties (K, F), or (K,) for one model, at the same time.

        Call with strong penalties first; penalties between those that were solved for may follow.

        The models of the result are those of the first row of `l2`, then those of the second, and so on.
        """
        F, backend = self.objective.n_models, self.objective.backend
        l2 = l2.reshape(-1, F)
        starts = [self.start(float(penalties[0])) for penalties in l2]
        W, b = (
            backend.xp.concatenate(parts, axis=axis)
            for parts, axis in zip(zip(*starts, strict=True), (1, 0), strict=True)
        )
        result = train(
            self.objective.for_penalties(l2.reshape(-1)),
            LBFGS(self.max_iter, self.tol, self.seed, self.sample, relative=True),
            W,
            b,
            progress=progress,
            checkpoint=self.checkpoint,
        )
        for k, penalties in enumerate(l2):
            models = slice(k * F, (k + 1) * F)
            if penalties[0] > 0 and not {StopReason.INTERRUPTED, StopReason.DIVERGED} & set(result.reasons[models]):
                log = float(np.log(penalties[0]))
                others = [node for node in self.nodes if node[0] != log]
                self.nodes = [*others, (log, result.W[:, models].copy(), result.b[models].copy())][-REMEMBERED:]
        return result

    def start(self, l2: float) -> tuple[Any, Any]:
        """Predict the solutions (d, F, c) and (F, c) for a penalty of the first model.

        They are the polynomial's values if l2 is near enough, else the last solutions, or zero.
        """
        features, c, xp = self.objective.features, self.objective.n_classes, self.objective.backend.xp
        if not self.nodes:
            F = self.objective.n_models
            return xp.zeros((features.d, F, c), features.dtype), xp.zeros((F, c), features.dtype)
        at = float(np.log(l2)) if l2 > 0 else min(node[0] for node in self.nodes)
        nodes = _nearest(self.nodes, at)
        weights = _lagrange(np.array([node[0] for node in nodes]), at)
        W, b = (
            sum(features.dtype(weight) * node[part] for weight, node in zip(weights, nodes, strict=True))
            for part in (1, 2)
        )
        return W, b


def _nearest(nodes: list[Any], at: float) -> list[Any]:
    """The nearest nodes to `at` that are at least APART from each other, the nearest last."""
    chosen: list[Any] = []
    for node in sorted(nodes, key=lambda node: abs(node[0] - at)):
        if len(chosen) < NODES and all(abs(node[0] - other[0]) >= APART for other in chosen):
            chosen = [node, *chosen]
    return chosen


def _lagrange(nodes: Array, at: float) -> Array:
    """Lagrange weights of the nodes' values at a point, to which the last node is the nearest.

    If it is too far away, the last node has all the weight.
    """
    weights = np.zeros(len(nodes))
    weights[-1] = 1.0
    while len(nodes) > 1:
        gaps = np.diff(np.sort(nodes))
        if abs(at - nodes[-1]) <= min(FARTHEST * gaps.min(), LONGEST):
            differences = nodes[:, None] - nodes
            np.fill_diagonal(differences, 1.0)
            ratios = (at - nodes) / differences
            np.fill_diagonal(ratios, 1.0)
            weights[-len(nodes) :] = ratios.prod(axis=1)
            break
        nodes = nodes[1:]
    return weights
