"""Stochastic gradient descent with momentum, for K models that share minibatches.

    v <- momentum v + g,    W <- W - lr v            (Nesterov: W <- W - lr (g + momentum v))

g is the minibatch gradient of the objective, including the penalty (Sutskever et al., 2013, written as in PyTorch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import hstack

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.features.batches import NO_EPOCH, BatchPlan, generator
from gpusoftmax.losses import Loss
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import ActiveModels, SolverState, StopReason, not_kept, per_model

SCHEDULES = ("adaptive", "constant", "step", "cosine", "inverse")
STRETCH_ROWS = 1 << 16  # rows in one call of `SGD.step`; between two calls, the trainer checks for Ctrl-C
# The learning rate is lowered, or training ends, after PATIENCE epochs without progress, but at least PATIENT_STEPS
# steps: momentum makes the objective oscillate for some epochs or, where these are short, for some steps.
PATIENCE, PATIENT_STEPS = 5, 20
ADAPT_BY, ADAPTATIONS = 5.0, 2  # "adaptive" divides the learning rate by ADAPT_BY, at most ADAPTATIONS times in a row
CURVATURE_ROWS = 1024  # rows from which the automatic learning rate is computed


@dataclass
class _Models(ActiveModels):
    """The active models. Arrays except W, b and velocity have one entry per model."""

    W: Any = per_model(1)
    b: Any = per_model(0)
    velocity: tuple[Any, Any] | None = per_model((1, 0))
    base_rate: Array = per_model()  # learning rate, before the factor of the schedule
    momentum: Array = per_model()
    weight_sums: Any = per_model(kept=False)
    epoch_value: Array = per_model()  # sum of the objective over the rows of the current epoch so far
    best_value: Array = per_model()  # mean objective of the last epoch that made progress
    last_value: Array = per_model()  # mean objective of the last epoch
    stalled_epochs: Array = per_model()  # epochs since the last progress


@dataclass
class SGDState(SolverState):
    """State of SGD; see `SolverState` for the other attributes.

    Attributes
    ----------
    models : _Models
        The active models.
    batches : pair of int and list
        The current epoch, counted from 0, and the rows of its minibatches, on the device.
    """

    models: _Models = field(kw_only=True)
    batches: tuple[int, list[Array | None]] = not_kept(default=(-1, []))


@dataclass(frozen=True)
class SGD:
    """Minibatch or full-batch SGD.

    Attributes
    ----------
    plan : BatchPlan
        The rows of each step.
    steps : int
        Total number of minibatches.
    learning_rate : float, (K,) or "auto"
        Learning rate for the weights of the scaled features. "auto": 1 / largest curvature; see
        `automatic_learning_rate`.
    momentum : float or (K,)
        In [0, 1).
    nesterov : bool
        Whether to use Nesterov momentum.
    schedule : {"adaptive", "constant", "step", "cosine", "inverse"}
        "adaptive" divides a model's learning rate by 5 whenever its objective has not decreased by `tol` in five
        epochs, at most twice in a row without progress. It also sets the velocity to zero after an epoch in which the
        objective rose. The other schedules multiply the learning rate by a factor that depends on the fraction p of the
        steps and the number e of epochs that are done:

            constant  1        step  0.1^floor(3 p)        cosine  (1 + cos(pi p)) / 2        inverse  1 / (1 + e)
    tol : float
        The decrease of the objective that counts as progress. Training of a model ends when its objective has not
        decreased by this much in five epochs ("adaptive": in fifteen, after two reductions of the learning rate).
        "step" and "cosine" always take all steps, and so do the others with tol=0. With fewer than four steps in an
        epoch, five epochs are replaced by 20 steps.
    epochs_before : int
        For rows that arrive in parts (partial_fit): the number of earlier epochs. e and the order of the rows continue
        from there.
    velocity : pair of ndarray, optional
        v at the start, (d, K, c) and (K, c), which is updated in place. Default: zeros.
    """

    plan: BatchPlan
    steps: int
    learning_rate: float | Array | str = "auto"
    momentum: float | Array = 0.9
    nesterov: bool = True
    schedule: str = "adaptive"
    tol: float = 1e-4
    epochs_before: int = 0
    velocity: tuple[Array, Array] | None = None

    @property
    def passes(self) -> float:
        """Number of epochs if all steps are taken."""
        return self.steps / self.plan.steps_per_epoch

    @property
    def may_stop_early(self) -> bool:
        """Whether it makes sense to stop early: not with "step" and "cosine", whose schedules need all steps."""
        return self.schedule not in ("step", "cosine")

    @property
    def patience(self) -> int:
        """Epochs without progress after which a model ends; "adaptive" tries lower learning rates first."""
        return self._epochs_to_wait * (1 + ADAPTATIONS) if self.schedule == "adaptive" else self._epochs_to_wait

    @property
    def _epochs_to_wait(self) -> int:
        """Epochs without progress after which the learning rate is lowered or the model ends."""
        return max(PATIENCE, -(-PATIENT_STEPS // self.plan.steps_per_epoch))

    def init(self, objective: Objective, W: Array, b: Array) -> SGDState:
        """Return the state at W (d, K, c) and b (K, c), which are copied."""
        K, xp, unknown = objective.n_models, objective.backend.xp, np.full(objective.n_models, np.nan)
        if isinstance(self.learning_rate, str):
            rate = automatic_learning_rate(objective, self.plan)
        else:
            rate = np.broadcast_to(np.asarray(self.learning_rate, np.float64), (K,)).copy()
        velocity = None
        if np.any(np.asarray(self.momentum) > 0):
            velocity = self.velocity or (xp.zeros_like(W), xp.zeros_like(b))
        models = _Models(
            indices=np.arange(K),
            objective=objective,
            W=W.copy(),
            b=b.copy(),
            velocity=velocity,
            base_rate=rate,
            momentum=np.broadcast_to(np.asarray(self.momentum, W.dtype), (K,)).copy(),
            weight_sums=objective.weight_sums(),
            epoch_value=np.zeros(K),
            best_value=np.full(K, np.inf),
            last_value=np.full(K, np.inf),
            stalled_epochs=np.zeros(K, int),
        )
        return SGDState(
            W=models.W,
            b=models.b,
            value=unknown.copy(),
            loss=unknown.copy(),
            accuracy=unknown.copy(),
            learning_rate=rate.copy(),
            start=unknown,
            reasons=[StopReason.RUNNING] * K,
            models=models,
        )

    def step(self, objective: Objective, state: SGDState) -> SGDState:
        """Go through a stretch of minibatches: to the end of the epoch, but at most about STRETCH_ROWS rows."""
        models, per_epoch = state.models, self.plan.steps_per_epoch
        epoch, first = divmod(state.step, per_epoch)
        stop = min(per_epoch, first + max(1, STRETCH_ROWS // self.plan.size), first + self.steps - state.step)
        if state.batches[0] != epoch:
            state.batches = (epoch, _on_device(self.plan.epoch(self.epochs_before + epoch), objective))
        backend, indices = objective.backend, models.indices
        factors = np.array([self._factor(step) for step in range(state.step, state.step + stop - first)])
        rates = (factors[:, None] * models.base_rate).astype(state.W.dtype)
        batches = state.batches[1][first:stop]
        n_rows = [objective.features.n if rows is None else len(rows) for rows in batches]
        result = models.objective.sgd_steps(
            models.W, models.b, models.velocity, batches, models.weight_sums, rates, models.momentum, self.nesterov
        )
        if result is None:
            result = self._steps(models, batches, backend.asarray(rates), backend.asarray(models.momentum))
        totals, first_values = result
        if state.step == 0:
            state.start = backend.to_numpy(first_values)
        state.step, state.rows = state.step + len(batches), sum(n_rows)
        sums = backend.to_numpy(totals)  # waits for the device
        state.value[indices], state.loss[indices], state.accuracy[indices] = sums / state.rows
        state.learning_rate[indices] = models.base_rate * factors[-1]
        if models.W is not state.W:
            for k, index in enumerate(indices.tolist()):
                state.W[:, index], state.b[index] = models.W[:, k], models.b[k]
        state.passes = state.step / per_epoch
        models.epoch_value = models.epoch_value + sums[0]
        if state.step % per_epoch == 0:
            self._end_epoch(state)
        if state.step >= self.steps and not state.reason:
            state.reason = StopReason.FINISHED
        return state

    def to_arrays(self, state: SGDState) -> dict[str, Any]:
        """See `Solver.to_arrays`; the minibatches follow from the plan and the number of steps."""
        return state.to_arrays(state.models.objective.backend)

    def from_arrays(self, state: SGDState, kept: dict[str, Any]) -> SGDState:
        """See `Solver.from_arrays`."""
        shared = len(kept.get("models", {}).get("indices", ())) == len(state.reasons)
        state = state.from_arrays(kept, state.models.objective.backend)
        if not (state.step < self.steps or state.reason):
            raise ValueError(f"{state.step} of {self.steps} steps, and no reason to stop")
        if shared:  # until the first model ends, the arrays of all models are those of the active ones
            state.W, state.b = state.models.W, state.models.b
        return state

    def to_share(self, backend: Backend) -> dict[str, Any]:
        """See `Solver.to_share`: nothing."""
        return {}

    def share(self, objective: Objective, kept: dict[str, Any]) -> None:
        """See `Solver.share`."""

    def why_it_diverged(self, state: SGDState) -> str:
        """Explain that the learning rate is too large, and what to use instead."""
        rate = ", ".join(f"{r:.3g}" for r in np.unique(state.learning_rate))
        return (
            f"the objective grew to {np.max(state.value):.3g} after {state.step} steps with learning_rate={rate}: the "
            "learning rate is too large for the features or for the penalty. Use a learning_rate ten times smaller, or "
            "learning_rate='auto'; a larger C; or scaling='standard'"
        )

    def end_diverged(self, state: SGDState, diverged: Array) -> None:
        """End the training of the models with True in `diverged` (K,)."""
        _end(state, diverged[state.models.indices], StopReason.DIVERGED)

    def _steps(self, models: _Models, batches: list[Any], rates: Any, momentum: Any) -> tuple[Any, Any]:
        """Take the steps one by one, where the backend cannot take them in one call; does not wait for the device."""
        objective, xp, momentum = models.objective, models.objective.backend.xp, momentum[:, None]
        totals, first_values = xp.zeros((3, objective.n_models)), None
        for rate, rows in zip(rates, batches, strict=True):
            result = objective.value_and_gradient(models.W, models.b, rows, models.weight_sums)
            first_values = result.value if first_values is None else first_values
            n_rows = objective.features.n if rows is None else len(rows)
            totals += n_rows * xp.stack([result.value, result.loss, result.accuracy])
            velocities = models.velocity or (result.dW, result.db)
            for parameter, gradient, velocity in zip(
                (models.W, models.b), (result.dW, result.db), velocities, strict=True
            ):
                if models.velocity is not None:
                    velocity *= momentum
                    velocity += gradient
                    direction = gradient + momentum * velocity if self.nesterov else velocity
                else:
                    direction = gradient
                parameter -= rate[:, None] * direction
        return totals, first_values

    def _end_epoch(self, state: SGDState) -> None:
        """Lower the learning rate of models without progress, and end those that still make none after that.

        If a model's objective rose over the epoch, its velocity is first set to zero: once momentum has carried a model
        beyond the optimum, it would take many epochs to return (restart by function value, O'Donoghue and Candes,
        2015).
        """
        models, adaptive = state.models, self.schedule == "adaptive"
        value = models.epoch_value / self.plan.rows_per_epoch
        if adaptive and models.velocity is not None:
            for k in np.flatnonzero(value > models.last_value).tolist():
                models.velocity[0][:, k], models.velocity[1][k] = 0, 0
        models.epoch_value, models.last_value = np.zeros_like(value), value
        progress = value < models.best_value - self.tol
        models.stalled_epochs = np.where(progress, 0, models.stalled_epochs + 1)
        models.best_value = np.where(progress, value, models.best_value)
        if adaptive:
            waits, rest = np.divmod(models.stalled_epochs, self._epochs_to_wait)
            # At most ADAPTATIONS times, even with tol=0, where training of a model does not end. Its best value may
            # come from an early oscillation and never be reached again; the rate would then be divided until it is
            # zero.
            stuck = (rest == 0) & (waits > 0) & (waits <= ADAPTATIONS)
            models.base_rate = np.where(stuck, models.base_rate / ADAPT_BY, models.base_rate)
        if self.tol > 0 and self.may_stop_early:
            _end(state, models.stalled_epochs >= self.patience, StopReason.CONVERGED)

    def _factor(self, step: int) -> float:
        p = step / self.steps
        if self.schedule == "step":
            return float(0.1 ** math.floor(3 * p))
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * p))
        if self.schedule == "inverse":
            return 1 / (1 + self.epochs_before + step / self.plan.steps_per_epoch)
        return 1.0


def _end(state: SGDState, ended: Array, reason: StopReason) -> None:
    """End the training of the active models with True in `ended`, and the whole training if none remains."""
    state.models = state.end(state.models, ended, [reason] * len(ended))
    if ended.all():
        converged = StopReason.CONVERGED in state.reasons
        state.reason = StopReason.CONVERGED if converged else StopReason.DIVERGED


def _on_device(batches: list[Array | None], objective: Objective) -> list[Any]:
    """Upload the row numbers of all minibatches of an epoch at once."""
    if batches[0] is None:
        return [None]
    order = objective.backend.asarray(objective.features.row_numbers(np.concatenate(batches)))  # type: ignore[arg-type]
    stops = np.cumsum([0, *map(len, batches)])  # type: ignore[arg-type]
    return [order[start:stop] for start, stop in zip(stops[:-1].tolist(), stops[1:].tolist(), strict=True)]


def automatic_learning_rate(objective: Objective, plan: BatchPlan) -> Array:
    """Compute a learning rate that is safe for any weights: 1 / (largest curvature of the objective), (K,).

    The Hessian of the mean loss with respect to (W, b) is at most H = (1 / S) sum_i s_i (x_i x_i') (x) U_i, where (x)
    is the Kronecker product, x_i has a 1 appended, and U_i is the loss's bound on its Hessian with respect to the
    scores of the row (`losses.Loss.bound_row_hessians`).

    The largest eigenvalue of H is found by power iteration on a sample of rows. Two terms are added to it: the
    curvature of the penalty, and (1 / S) sum_i s_i |x_i|^2 u / B, with u the largest eigenvalue that any U_i can have,
    because the curvature of a minibatch of B rows can be larger than that of all rows.
    """
    n, c = objective.features.n, objective.n_classes
    rng = generator(plan.seed, NO_EPOCH)
    rows = objective.features.row_numbers(np.sort(rng.choice(n, min(n, CURVATURE_ROWS), replace=False)))
    x = objective.features.sample_matrix(rows)
    if objective.fit_intercept:
        ones = np.ones((len(rows), 1))
        x = np.hstack([x, ones]) if isinstance(x, np.ndarray) else hstack([x, ones], format="csr")
    labels = objective.backend.to_numpy(objective.labels)[rows]
    all_weights = None if objective.weights is None else objective.backend.to_numpy(objective.weights)[rows]
    sums = objective.backend.to_numpy(objective.weight_sums())
    start = rng.standard_normal((x.shape[1], c))  # the same for all models: a model's rate depends on no other model
    with (
        objective.backend.single_threaded_blas(),
        np.errstate(over="ignore", invalid="ignore"),
    ):  # the trainer reports infinite features
        curvature = np.array(
            [
                _largest_curvature(
                    x, labels, np.ones(len(rows)) if all_weights is None else all_weights[:, k] * (n / sums[k]),
                    c, objective.loss, plan.size, start,
                )
                for k in range(objective.n_models)
            ]
        )  # fmt: skip
    curvature += objective.penalty_on_host.largest_curvature()
    usable = np.isfinite(curvature) & (curvature > 0)
    return np.divide(1.0, curvature, out=np.ones_like(curvature), where=usable)  # without curvature any rate is safe


def _largest_curvature(x: Any, labels: Array, s: Array, c: int, loss: Loss, batch: int, V: Array) -> float:
    """Compute the largest eigenvalue of H, plus the term for minibatches; V (d, c) is a random start.

    d includes the intercept's column of ones. x (m, d) may be sparse.
    """
    largest = 0.0
    for _ in range(30):
        size = np.linalg.norm(V)
        if size == 0 or not np.isfinite(size):
            break
        V = x.T @ (loss.bound_row_hessians(x @ (V / size), labels) * (s / len(s))[:, None])
        previous, largest = largest, float(np.linalg.norm(V))
        if abs(largest - previous) < 1e-3 * largest:
            break
    squares = np.einsum("ip,ip->i", x, x) if isinstance(x, np.ndarray) else (x * x).sum(axis=1)
    return largest + loss.largest_row_curvature(c) * float(squares @ s) / len(s) / batch
