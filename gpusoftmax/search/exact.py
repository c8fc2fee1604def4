"""A path: the exact solutions of one objective from strong penalties to weak ones.

A solution W(l2) is smooth in log l2. Each solve starts from the polynomial through the last three solutions (Park and
Hastie, 2007, start from a tangent), which leaves four reads or so where a start from zero takes fifteen and a start
from the last solution eight; the curvature of the sample's product serves all of them.

Tried, and no better: adding to the starts on other folds what the polynomial had missed on the first one (477 reads for
458), pairs of L-BFGS from the solve before (992 for 962), and a curvature for each class (82 for 84).

CIFAR-10, 20 penalties from C = 1e-5 to 0.1: one by one along the path 101 reads of one model; in pairs 75 of two, which
take longer; all side by side 33 of twenty. So a CPU, whose time goes with the number of models, takes one at a time. A
GPU takes as many as fit, because few columns leave it idle (not measured on a GPU).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.solvers.lbfgs import LBFGS, MEMORY
from gpusoftmax.solvers.preconditioners.gram import SPECTRUM_FEATURES, GramSample
from gpusoftmax.trainer import Progress, TrainResult, train

NODES = 3  # solutions that a polynomial goes through
# in log l2, at least: nearer ones differ by little more than what tol leaves, which the polynomial enlarges
APART = 0.4
FARTHEST = 1.5  # distances of its last nodes that the polynomial is followed for
LONGEST = float(np.log(10.0))  # and at most
REMEMBERED = 8  # solutions
MOST_BYTES = 1 << 30  # of the models side by side on a GPU


def width(backend: Backend, d: int, c: int, weighted: int, itemsize: int) -> int:
    """How many models are solved side by side; `weighted` rows of X have weights, which each model has a copy of."""
    if backend.gpu is None:
        return 1
    vectors = 3 * MEMORY + 10  # pairs with their images, points and gradients
    inverse = d * d if d <= SPECTRUM_FEATURES else 0
    return max(1, MOST_BYTES // ((vectors * (d + 1) * c + inverse + weighted) * itemsize))


@dataclass
class Path:
    """Solutions of an objective for one penalty after another.

    Attributes
    ----------
    objective : Objective
        Of one model; its l2 does not count.
    sample : GramSample
        Over the same X, of these rows or of all.
    max_iter, tol, seed
        As an estimator's, but that tol counts relative to objectives below 1: predicted starts of weak penalties, where
        all rows are right, have small gradients, and would be taken for solutions of twice the held-out loss.
    nodes : list of (log l2, W (d, c), b (c,))
        The last solutions; l2 > 0.
    """

    objective: Objective
    sample: GramSample
    max_iter: int
    tol: float
    seed: int
    nodes: list[tuple[float, Any, Any]] = field(default_factory=list)

    def solve(self, l2: Array, progress: Progress | None = None) -> TrainResult:
        """The models with these penalties (K,), side by side. Weaker ones than before come later."""
        K, backend = len(l2), self.objective.backend
        starts = [self.start(float(penalty)) for penalty in l2]
        W, b = (
            backend.xp.stack(parts, axis=axis) for parts, axis in zip(zip(*starts, strict=True), (1, 0), strict=True)
        )
        result = train(
            self.objective.for_penalties(l2),
            LBFGS(self.max_iter, self.tol, self.seed, self.sample, relative=True),
            W,
            b,
            progress=progress,
        )
        for k in range(K):
            if l2[k] > 0 and result.reasons[k] != StopReason.INTERRUPTED:
                log = float(np.log(l2[k]))
                others = [node for node in self.nodes if node[0] != log]
                self.nodes = [*others, (log, result.W[:, k].copy(), result.b[k].copy())][-REMEMBERED:]
        return result

    def start(self, l2: float) -> tuple[Any, Any]:
        """Where the solution may be: on the polynomial if that is near, else the last one, or zero."""
        features, c, xp = self.objective.features, self.objective.n_classes, self.objective.backend.xp
        if not self.nodes:
            return xp.zeros((features.d, c), features.dtype), xp.zeros(c, features.dtype)
        nodes = _spread(self.nodes)
        logs = np.array([node[0] for node in nodes])
        shares = _lagrange(logs, float(np.log(l2))) if l2 > 0 else np.append(np.zeros(len(logs) - 1), 1.0)
        W, b = (
            sum(features.dtype(share) * node[part] for share, node in zip(shares, nodes, strict=True))
            for part in (1, 2)
        )
        return W, b


def _spread(nodes: list[Any]) -> list[Any]:
    """The last node, and earlier ones APART from each other."""
    chosen = nodes[-1:]
    for node in reversed(nodes[:-1]):
        if abs(node[0] - chosen[0][0]) >= APART and len(chosen) < NODES:
            chosen = [node, *chosen]
    return chosen


def _lagrange(nodes: Array, at: float) -> Array:
    """The weights of the nodes' values in their polynomial at a point; the last one's alone where that is too far."""
    shares = np.zeros(len(nodes))
    shares[-1] = 1.0
    while len(nodes) > 1:
        gaps = abs(np.diff(nodes))
        if abs(at - nodes[-1]) <= min(FARTHEST * gaps.min(), LONGEST):
            differences = nodes[:, None] - nodes
            np.fill_diagonal(differences, 1.0)
            ratios = (at - nodes) / differences
            np.fill_diagonal(ratios, 1.0)
            shares[-len(nodes) :] = ratios.prod(axis=1)
            break
        nodes = nodes[1:]
    return shares
