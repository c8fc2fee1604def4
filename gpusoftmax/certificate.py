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
import numpy.typing as npt

from gpusoftmax.cpu.pool import single_threaded_blas
from gpusoftmax.objective import Objective
from gpusoftmax.reference import LOSSES
from gpusoftmax.validation import counted

Array = npt.NDArray[Any]

KEPT = 1 << 24  # scores that are kept: 64 MB in float32
ROWS = 8192  # of them that are looked at at a time
NEWTON_STEPS, HALVINGS = 30, 20


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
        Of the solver: all passes, with its preparation.
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
        return "\n".join(lines)


@dataclass(frozen=True)
class Certificate:
    """What holds at a point; see FitReport."""

    objective: float
    gradient_norm: float | None
    intercept_gradient_norm: float | None
    bound: float | None
    why_no_bound: str


def certify(objective: Objective, W: Array, b: Array) -> list[Certificate]:
    """The certificate of each model at W (d, K, c) and b (K, c): one read of X, two with a free intercept.

    There is no bound without a penalty, and with a free intercept none for more scores than are kept.
    """
    backend, K = objective.backend, objective.n_models
    here = objective.value_and_gradient(W, b)
    values = backend.to_numpy(here.value)
    norms = np.maximum(
        backend.to_numpy(abs(here.dW).max(axis=(0, 2))), backend.to_numpy(abs(here.db).max(axis=1))
    ).tolist()
    l2 = backend.to_numpy(objective.l2)
    n_scores = objective.features.n * K * objective.n_classes
    left: list[Any] = [None] * K
    bounds: list[Any] = [None] * K
    why = ""
    if (l2 <= 0).any():
        why = "without a penalty there is none"
    elif objective.has_free_intercept and n_scores > KEPT:
        why = f"{n_scores} scores are more than the {KEPT} that are kept"
    else:
        there, falls = here, np.zeros(K)
        if objective.has_free_intercept:
            best, falls = _best_intercepts(objective, W, b)
            there = objective.value_and_gradient(W, backend.asarray(best.astype(b.dtype)))
            left = backend.to_numpy(abs(there.db).max(axis=1)).tolist()
        with np.errstate(over="ignore"):
            proved = falls + _squared_norms(objective, there.dW, there.db) / (2 * l2)
        bounds = np.minimum(proved, values).tolist()  # no objective is below 0
    return [Certificate(*numbers, why) for numbers in zip(values.tolist(), norms, left, bounds, strict=True)]


def _squared_norms(objective: Objective, dW: Any, db: Any) -> Array:
    """sum_p ||dW_p||^2 / r_p per model, with db in it if the intercept is penalised; (K,) float64."""
    with np.errstate(over="ignore"):
        squares = objective.backend.to_numpy((dW * dW).sum(axis=2, dtype=np.float64))
    if objective.penalty_factors is not None:
        squares = squares / objective.backend.to_numpy(objective.penalty_factors)[:, None]
    total: Array = squares.sum(axis=0)
    if objective.penalize_intercept:
        total = total + objective.backend.to_numpy((db * db).sum(axis=1, dtype=np.float64))
    return total


def _best_intercepts(objective: Objective, W: Array, b: Array) -> tuple[Array, Array]:
    """The intercepts (K, c) that minimise f for these W, and what f falls by from b (K,); float64, on the host."""
    backend, features = objective.backend, objective.features
    W_folded, b_folded = features.fold(W, b)
    scores = backend.to_numpy(backend.ops.linear_scores(features.X, W_folded, b_folded, features.rows))
    rows, start = features.numbers(np.arange(features.n)), backend.to_numpy(b).astype(np.float64)
    labels = backend.to_numpy(objective.labels)[rows]
    weights = None if objective.weights is None else backend.to_numpy(objective.weights)[rows].astype(np.float64)
    best, falls = start.copy(), np.zeros(len(start))
    term = objective.linear_term
    slopes = np.zeros_like(start) if term is None else backend.to_numpy(term.t)
    with single_threaded_blas():
        for k in range(len(start)):
            s = np.ones(len(labels)) if weights is None else weights[:, k]
            shift, falls[k] = _newton(scores[:, k], labels, s / s.sum(), LOSSES[objective.loss], slopes[k])
            best[k] += shift
    return best, falls


def _newton(z: Array, y: Array, share: Array, loss: str, slope: Array) -> tuple[Array, float]:
    """The b (c,) that minimises sum_i share_i loss(z_i + b, y_i) + <slope, b>, and by how much, from b = 0."""
    b = np.zeros(z.shape[1])
    here = first = _loss(z, y, share, b, loss, slope)
    for _ in range(NEWTON_STEPS):
        value, gradient, hessian = here
        # a shift of all classes changes nothing: with any curvature along it the step has no part there
        lifted = hessian + max(float(np.trace(hessian)), np.finfo(np.float64).tiny) / len(b)
        lifted[np.diag_indices(len(b))] *= 1 + 1e-12  # a class that nobody is near has none either
        step = np.linalg.lstsq(lifted, gradient, rcond=1e-14)[0]
        if gradient @ step <= 2 * np.finfo(np.float64).eps * abs(value):
            break  # nothing but rounding left
        for halving in range(HALVINGS):
            there = _loss(z, y, share, b - step * 0.5**halving, loss, slope)
            if there[0] < value:
                break
        else:
            break
        b, here = b - step * 0.5**halving, there
    return b, first[0] - here[0]


def _loss(z: Array, y: Array, share: Array, b: Array, loss: str, slope: Array) -> tuple[float, Array, Array]:
    """sum_i share_i loss(z_i + b, y_i) + <slope, b> with its gradient (c,) and Hessian (c, c)."""
    c = z.shape[1]
    value, gradient, hessian = float(slope @ b), slope.copy(), np.zeros((c, c))
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        own, s = y[rows], share[rows]
        index = np.arange(len(own))
        scores = z[rows].astype(np.float64) + b
        if loss == "softmax":
            scores -= scores.max(axis=1, keepdims=True)
            p = np.exp(scores)
            total = p.sum(axis=1)
            value += float(s @ (np.log(total) - scores[index, own]))
            p /= total[:, None]
            hessian += np.diag(s @ p) - (s[:, None] * p).T @ p
            p[index, own] -= 1
            gradient += s @ p
        else:
            margins = np.maximum(scores - scores[index, own][:, None] + 1, 0)
            margins[index, own] = 0
            value += float(s @ (margins * margins).sum(axis=1))
            active = (margins > 0).astype(np.float64)
            target = np.zeros_like(active)
            target[index, own] = 1
            coupled = 2 * (s[:, None] * active).T @ target
            hessian += np.diag(2 * s @ (active + active.sum(axis=1, keepdims=True) * target)) - coupled - coupled.T
            margins[index, own] = -margins.sum(axis=1)
            gradient += 2 * s @ margins
    return value, gradient, hessian
