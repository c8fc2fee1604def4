"""How far from its optimum a model can be at most: what a solver that has ended can prove.

The objective is l2-strongly convex in W, so where the free intercept is at its optimum for W,

    f(W, b) - f*  <=  sum_p ||dW_p||^2 / (2 l2 r_p)

(Nesterov, "Introductory lectures on convex optimization", 2004, theorem 2.1.10, for min_b f(W, b)). Elsewhere the right
side proves nothing: it can be a thirtieth of the left. So b is solved for first, by Newton's method on scores that were
kept, without a further read, and what f falls by on the way is added. A penalised intercept is one more weight.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import counted
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.intercepts import KeptRows, affordable, best_shift
from gpusoftmax.solvers.preconditioners.sample import read_cost, row_shares

KEPT = 1 << 24  # scores that are kept: 64 MB in float32
SHARE, FEWEST_READS = 1 / 3, 4.0  # of the fit's passes that the intercepts may take the time of; or at least


@dataclass(frozen=True)
class FitReport:
    """How a fit ended, and what is proved about where.

    Attributes
    ----------
    solver : {"lbfgs", "sgd"}
    reason : str
        See `trainer.TrainResult`.
    n_iter : int
        Steps of L-BFGS, passes of SGD: at most max_iter.
    passes : float
        All reads of the data: at the start, at each point that was tried, and of the rows that preconditioners were
        made from.
    seconds : float
        Of the fit: all passes, with their preparation, and the work on this report.
    objective : float
        Training objective of the model that was kept, in nats for softmax; SGD's is the mean over its last pass.
    tol : float
        What was asked for.
    gradient_norm : float or None
        Largest absolute entry of the objective's gradient at the model that was kept, in the coordinates of the
        scaled and, with a free intercept, centred features; SGD does not measure it.
    intercept_gradient_norm : float or None
        Largest entry of the intercept's gradient where the bound was taken: it has to be next to nothing.
    bound : float or None
        f - f* is at most this, rounding of the gradient and of the objective apart.
    why_no_bound : str
        Empty if there is one.
    kept : float or None
        With a validation set: the pass whose weights were kept, to which all of the above but the reason belongs.
    why_solver : str
        Why solver="auto" meant this solver; empty if the solver was named.
    """

    solver: str
    reason: str
    n_iter: int
    passes: float
    seconds: float
    objective: float
    tol: float
    gradient_norm: float | None
    intercept_gradient_norm: float | None
    bound: float | None
    why_no_bound: str
    kept: float | None = None
    why_solver: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report as a plain dictionary, ready for JSON.

        Returns
        -------
        dict
            From each attribute's name to its value.
        """
        return asdict(self)

    def __str__(self) -> str:
        taken = [counted(self.n_iter, "step")] if self.solver == "lbfgs" else []
        after = ", ".join([*taken, f"{counted(self.passes, 'pass')} over the data"])
        lines = [f"{self.solver}: {self.reason} after {after} in {self.seconds:.2f} s"]
        if self.kept is not None:
            lines.append(f"kept: the weights of pass {self.kept:g}, which had the smallest validation loss")
        if self.gradient_norm is not None:
            lines.append(f"largest entry of the gradient {self.gradient_norm:.2g} (tol {self.tol:g})")
        if self.bound is not None:
            lines.append(f"objective {self.objective:.8g}, at most {self.bound:.1e} above its optimum")
        else:
            lines.append(f"objective {self.objective:.8g}; no bound on its distance: {self.why_no_bound}")
        if self.why_solver:
            lines.append(f"solver='auto' chose {self.solver}: {self.why_solver}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Certificate:
    """What holds at a point; see FitReport."""

    objective: float
    gradient_norm: float | None
    intercept_gradient_norm: float | None
    bound: float | None
    why_no_bound: str


@dataclass(frozen=True)
class Measured:
    """Objective, loss, and the largest entry of the gradient at some weights, each (K,) float64 on the host."""

    value: Array
    loss: Array
    gradient_norm: Array


def certify(
    objective: Objective, W: Array, b: Array, passes: float = 100.0, known: Measured | None = None
) -> list[Certificate]:
    """The certificate of each model at W (d, K, c) and b (K, c): one read of X, or with a free intercept two.

    There is no bound without a penalty. With a free intercept there is none for more scores than are kept, nor where
    the best intercept would take more time than SHARE of the `passes` over X that the fit took. What is `known` at W
    and b spares another read.
    """
    backend, K = objective.backend, objective.n_models
    here = None
    if known is None or not objective.has_free_intercept:
        here = objective.value_and_gradient(W, b)
    if known is None:
        assert here is not None
        norm = np.maximum(
            backend.to_numpy(abs(here.dW).max(axis=(0, 2))), backend.to_numpy(abs(here.db).max(axis=1))
        ).astype(np.float64)
        known = Measured(backend.to_numpy(here.value), backend.to_numpy(here.loss), norm)
    mu = backend.to_numpy(objective.penalty.strong_convexity())
    n_scores = objective.features.n * K * objective.n_classes
    left, bounds, whys = [None] * K, [None] * K, [""] * K
    if (mu <= 0).any():
        whys = ["without a penalty there is none"] * K
    elif objective.has_free_intercept and n_scores > KEPT:
        whys = [f"{n_scores} scores are more than the {KEPT} that are kept"] * K
    else:
        falls = np.zeros(K)
        if objective.has_free_intercept:
            best, falls, whys = _best_intercepts(objective, W, b, known, passes)
            here = objective.value_and_gradient(W, backend.asarray(best.astype(b.dtype)))
            left = backend.to_numpy(abs(here.db).max(axis=1)).tolist()
            limit = float(np.sqrt(np.finfo(b.dtype).eps))
            off = f"the intercept's gradient is still above {limit:.1g} at the best one that was found"
            whys = [why or off * (not residual <= limit) for why, residual in zip(whys, left, strict=True)]
        assert here is not None
        with np.errstate(over="ignore"):
            norms = objective.penalty.squared_dual_norm(here.dW, here.db)
            proved = falls + backend.to_numpy(norms) / (2 * mu)
        bounds = np.minimum(proved, known.value).tolist()  # no objective is below 0
    return [
        Certificate(value, norm, None if why else residual, None if why else bound, why)
        for value, norm, residual, bound, why in zip(
            known.value.tolist(), known.gradient_norm.tolist(), left, bounds, whys, strict=True
        )
    ]


def _best_intercepts(
    objective: Objective, W: Array, b: Array, known: Measured, passes: float
) -> tuple[Array, Array, list[str]]:
    """The intercepts (K, c) that minimise f for these W, float64; what f falls by from b (K,); and per model why they
    are not known, or "". All on the host."""
    backend, features, c = objective.backend, objective.features, objective.n_classes
    folded = features.fold(W, b)
    keep = features.probabilities if objective.loss.gives_probabilities else features.scores
    kept, places = backend.to_numpy(keep(*folded)), np.arange(features.n)
    labels = backend.to_numpy(objective.labels)[features.numbers(places)]
    best = backend.to_numpy(b).astype(np.float64)
    falls, whys = np.zeros(len(best)), [""] * len(best)
    slopes = np.zeros_like(best) if objective.linear_term is None else backend.to_numpy(objective.linear_term.t)
    reads = max(FEWEST_READS, SHARE * passes)
    most = affordable(reads, read_cost(features.n, features.d, c), features.n, c)
    for k in range(len(best)):
        if known.loss[k] <= np.finfo(np.float64).eps * known.value[k]:
            continue  # no intercept lowers it by more than rounding
        shares = row_shares(objective, k, features.numbers(places))
        rows = KeptRows(kept[:, k], labels, shares, slopes[k], backend)
        found = best_shift(rows, objective.loss.name, float(known.value[k]), most)
        if found is None:
            whys[k] = f"to find the intercept's optimum takes more than {SHARE:.0%} of the fit's time"
        else:
            best[k] += found[0]
            falls[k] = found[1]
    return best, falls, whys
