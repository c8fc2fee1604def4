"""Certificates: a proved upper bound on the distance of a model's objective from its optimum.

The objective f is strongly convex in W: with constant l2 r_p in row p, where r are the penalty's factors. If the
unpenalised intercept b is optimal for W, then

    f(W, b) - f*  <=  sum_p ||dW_p||^2 / (2 l2 r_p)

with dW the gradient (Nesterov, "Introductory lectures on convex optimization", 2004, theorem 2.1.10, for min_b f(W,
b)). For any other b the inequality need not hold: the right side can be a thirtieth of the left. Therefore the optimal
b for W is found first, by Newton's method on stored scores. The bound at W and the given b is then the bound at the
optimal b, plus the difference of f between the two. A penalised intercept counts as one more row of W.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import counted
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.intercepts import PHIS, StoredRows, affordable, best_intercept_change
from gpusoftmax.solvers.preconditioners.sample import fractions_on_device, pass_cost

MOST_SCORES = 1 << 24  # largest number of scores to store: 64 MB in float32
# Solving for the intercepts may take as long as this fraction of the fit's passes, or as FEWEST_PASSES passes,
# whichever is longer.
TIME_FRACTION, FEWEST_PASSES = 1 / 3, 4.0


@dataclass(frozen=True)
class FitReport:
    """Report on a fit: how it ended, and how far from the optimum it is at most.

    Attributes
    ----------
    solver : {"lbfgs", "sgd"}
    reason : str
        Why the fit ended; see `trainer.TrainResult`.
    n_iter : int
        Iterations of L-BFGS, or epochs of SGD: at most max_iter.
    passes : float
        Passes over the data. For L-BFGS: one at the start, one for each trial point, and a fraction of one for the rows
        from which preconditioners were made.
    seconds : float
        Time of the fit: preparation, all passes, and the work on this report.
    objective : float
        Training objective of the returned model, in nats for softmax. For SGD it is the mean over the last epoch.
    tol : float
        The tolerance that the user asked for.
    gradient_norm : float or None
        Largest absolute entry of the objective's gradient at the returned model, in the coordinates of the features
        after scaling and, with an unpenalised intercept, centring. None for SGD, which does not compute it.
    intercept_gradient_norm : float or None
        Largest absolute entry of the intercept's gradient at the point where the bound was computed. The bound requires
        that it is close to zero.
    bound : float or None
        Upper bound on f - f*, apart from rounding of the gradient and the objective.
    why_no_bound : str
        Why there is no bound; empty if there is one.
    kept : float or None
        With a validation set: the pass whose weights were kept. For L-BFGS the objective, the gradient norms and the
        bound are those of these weights. The other attributes, and SGD's objective, are those of the whole fit.
    why_solver : str
        Why solver="auto" chose this solver; empty if the user named the solver.
    note : str
        What is unusual about how it was computed, such as workers of a cluster that differ from each other.
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
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Convert the report to a plain dictionary, ready for JSON.

        Returns
        -------
        dict
            The attributes by name.
        """
        return asdict(self)

    def __str__(self) -> str:
        iterations = [counted(self.n_iter, "iteration")] if self.solver == "lbfgs" else []
        after = ", ".join([*iterations, f"{counted(self.passes, 'pass')} over the data"])
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
        if self.note:
            lines.append(f"note: {self.note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Certificate:
    """Certificate of one model at one point; see `FitReport` for the attributes."""

    objective: float
    gradient_norm: float | None
    intercept_gradient_norm: float | None
    bound: float | None
    why_no_bound: str


@dataclass(frozen=True)
class Measured:
    """Objective, loss and largest absolute entry of the gradient at some weights, each (K,) float64 on the host."""

    value: Array
    loss: Array
    gradient_norm: Array


def certify(
    objective: Objective, W: Array, b: Array, passes: float = 100.0, known: Measured | None = None
) -> list[Certificate]:
    """Certify each model at W (d, K, c) and b (K, c), in one pass, or three with an unpenalised intercept.

    With an unpenalised intercept, another pass computes the scores from which its best value is found. There is no
    bound then if the loss has no solver for the intercepts, if there are more than MOST_SCORES scores, or if the solver
    would take too long compared with the fit's `passes` or does not come close enough. Without a penalty, even of one
    model, there is none. A caller that has already measured the objective at W and b passes it as `known`.
    """
    backend, K = objective.backend, objective.n_models
    evaluation = None
    if known is None or not objective.has_free_intercept:
        evaluation = objective.value_and_gradient(W, b)
    if known is None:
        assert evaluation is not None
        norm = backend.xp.maximum(abs(evaluation.dW).max(axis=(0, 2)), abs(evaluation.db).max(axis=1))
        value, loss, norm = backend.fetch(evaluation.value, evaluation.loss, norm)
        known = Measured(value, loss, norm.astype(np.float64))
    mu = objective.penalty_on_host.strong_convexity()
    n_scores = objective.features.n * K * objective.n_classes
    residuals, bounds, reasons = [None] * K, [None] * K, [""] * K
    if (mu <= 0).any():
        reasons = ["a bound requires a penalty"] * K
    elif objective.has_free_intercept and objective.loss.name not in PHIS:
        reasons = [f"a bound requires the best intercepts, and {objective.loss.name} has no solver for them"] * K
    elif objective.has_free_intercept and n_scores > MOST_SCORES:
        reasons = [f"a bound requires {n_scores} stored scores, and at most {MOST_SCORES} are stored"] * K
    else:
        decreases = np.zeros(K)
        if objective.has_free_intercept:
            best, decreases, reasons = _best_intercepts(objective, W, b, known, passes)
            evaluation = objective.value_and_gradient(W, backend.asarray(best.astype(b.dtype)))
            residuals = backend.to_numpy(abs(evaluation.db).max(axis=1)).tolist()
            limit = float(np.sqrt(np.finfo(b.dtype).eps))
            message = f"the intercept's gradient is still above {limit:.1g} at the best intercept that was found"
            reasons = [
                why or message * (not residual <= limit) for why, residual in zip(reasons, residuals, strict=True)
            ]
        assert evaluation is not None
        with np.errstate(over="ignore"):
            norms = objective.penalty.squared_dual_norm(evaluation.dW, evaluation.db)
            proved = decreases + backend.to_numpy(norms) / (2 * mu)
        bounds = np.minimum(proved, known.value).tolist()  # since no objective is negative
    return [
        Certificate(value, norm, None if why else residual, None if why else bound, why)
        for value, norm, residual, bound, why in zip(
            known.value.tolist(), known.gradient_norm.tolist(), residuals, bounds, reasons, strict=True
        )
    ]


def _best_intercepts(
    objective: Objective, W: Array, b: Array, known: Measured, passes: float
) -> tuple[Array, Array, list[str]]:
    """Find the intercepts that minimise f for the given W.

    Returns, on the host, the intercepts (K, c), float64; how much lower f is there than at b, (K,); and for each model
    the reason why its intercepts were not found, or "".
    """
    backend, features, c = objective.backend, objective.features, objective.n_classes
    folded = features.fold(W, b)
    scores_or_probabilities = features.probabilities if objective.loss.gives_probabilities else features.scores
    stored, rows = scores_or_probabilities(*folded), features.rows
    rows = backend.xp.arange(features.n) if rows is None else rows
    labels = objective.labels[rows]
    best = backend.to_numpy(b).astype(np.float64)
    decreases, reasons = np.zeros(len(best)), [""] * len(best)
    slopes = np.zeros_like(best) if objective.linear_term is None else backend.to_numpy(objective.linear_term.t)
    pass_budget = max(FEWEST_PASSES, TIME_FRACTION * passes)
    max_products = affordable(pass_budget, pass_cost(objective), features.n, c)
    for k in range(len(best)):
        if known.loss[k] <= np.finfo(np.float64).eps * known.value[k]:
            continue  # no intercept lowers the loss by more than its rounding error
        fractions = fractions_on_device(objective, k, rows)
        stored_rows = StoredRows(stored[:, k], labels, fractions, slopes[k], backend)
        found = best_intercept_change(stored_rows, objective.loss.name, float(known.value[k]), max_products)
        if found is None:
            reasons[k] = "finding the best intercept would take too much of the fit's time"
        else:
            best[k] += found[0]
            decreases[k] = found[1]
    return best, decreases, reasons
