"""Preconditioned L-BFGS: the exact optimum in some ten passes over the data, for K models side by side.

    x <- x - length direction,    direction = H g

H is the approximate inverse Hessian of L-BFGS (see `pairs`). It starts from M^-1, the inverse of a preconditioner M
(see `preconditioners.gram` and `preconditioners.hessian`).

`LBFGS.step` makes one pass over the data, which evaluates a trial point of every active model. If the trial is
accepted, the next direction is computed there; if it is rejected, the next trial is a shorter step in the same
direction. A model that has converged is removed from the arrays. Where the first preconditioner turns out to converge
slowly, as for confident models, a new one is made at the current point.

On a device whose work is queued, a step waits once. All that the host may need is queued before it decides whether
trials are accepted: also M^-1 g, and the inner products that the next direction takes. To scale the first
preconditioner takes no wait, but it changes these, so it is left to the beginning of the next step. Only a step that
makes another preconditioner waits more often.

If scores were stored, a rejected direction could be searched without further passes. That would not pay: a whole solve
rejects one or two trials, the second trial has always been accepted, and its pass yields the gradient, which is needed
anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.scalars import check_count
from gpusoftmax.objective.objective import Evaluation, Objective
from gpusoftmax.solvers.base import ActiveModels, SolverState, StopReason, checked_array, not_kept, per_model
from gpusoftmax.solvers.guide_choice import guided_start
from gpusoftmax.solvers.guides import Guides
from gpusoftmax.solvers.pairs import MEMORY, MEMORY_DIAGONALS, Pairs, Point, Products, inner_products
from gpusoftmax.solvers.preconditioners.base import Preconditioner, Preconditioners
from gpusoftmax.solvers.preconditioners.class_diagonal import CurvatureSums, from_sums, sums_at_point
from gpusoftmax.solvers.preconditioners.class_scaled import (
    ClassCurvatures,
    class_curvatures,
    scaled_for_classes,
    scales_first,
)
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.preconditioners.hessian import CLASS_DIAGONAL_COST, by_diagonals, is_full, refresh, refresh_cost

SUFFICIENT = 1e-4  # fraction of the decrease predicted by the slope that a step has to achieve (Armijo)
ROUNDINGS = 16  # largest relative rounding error of the objective and of the gradient, in units of eps
SHORTEST = 0.01  # below this step length a model is stuck if the predicted decrease is within rounding errors
VANISHING = 1e-38  # below this step length, which takes some 127 trials at most, a model is stuck in any case
# Fewest accepted points with one preconditioner: REFRESH_AFTER, and REFRESH_COST_FACTOR for each pass that the next one
# costs, so that making them never takes most of the time. They double with each new preconditioner of a model, apart
# from scaling the first. A guide has GUIDED_REFRESH_AFTER before it begins, or ends with a new preconditioner.
REFRESH_AFTER, GUIDED_REFRESH_AFTER, REFRESH_COST_FACTOR = 4, 8, 2.0
# A new preconditioner discards the stored pairs, so it is made only if at least STEPS_TO_GO steps remain at the pace so
# far; MANY_STEPS_TO_GO where it has an inverse for each class, which takes long, and before a guide that waits begins.
# With an objective below NEARLY_SEPARABLE of that at zero the guide begins sooner: few rows have curvature then.
STEPS_TO_GO, MANY_STEPS_TO_GO, NEARLY_SEPARABLE = 8, 24, 0.05
# Largest cost of the full Hessian, in passes, at which it is better than a guide that waits: 20 to 25 passes instead of
# 30 to 50 for 20,000 rows of 50 features and 5 classes.
CHEAP_HESSIAN = 4.0
SMALLEST_OBJECTIVE = 0.01  # lower limit of the objective by which a relative tol is multiplied
STALLED = 10  # accepted steps in a row that lower neither objective nor gradient: only rounding errors are left


@dataclass
class _Models(ActiveModels):
    """The active models, whose number is K here. Arrays except direction (d + 1, K, c) have one entry per model.

    The next trial point is x - length * direction, where x is that of `point`. A norm is the largest absolute entry of
    the gradient.
    """

    weight_sums: Array = per_model(kept=False)  # what the objective divides its sums over rows by
    preconditioner: Preconditioners = per_model(kept=False)
    point: Point = per_model()  # the last accepted points
    direction: Any = per_model(1)  # of the guide, or H g
    length: Array = per_model()
    slope: Array = per_model()  # g'direction: the rate at which the objective decreases at x
    value: Array = per_model()  # the objective at x
    start_norm: Array = per_model()  # at the start
    refresh_norm: Array = per_model()  # at the first point accepted with the present preconditioner
    smallest_norm: Array = per_model()  # the smallest so far
    stalled: Array = per_model()  # accepted steps in a row without progress
    refresh_age: Array = per_model()  # points accepted with the present preconditioner; the start counts as one
    refreshes: Array = per_model()  # how many times the preconditioner was replaced
    costs: Array = per_model()  # cost of the next preconditioner, in passes
    pairs: Pairs = per_model()
    guides: Guides = per_model()
    # H g and its slope at x, if a rejected trial ends a guide of some model
    own_direction: Any = per_model(1)
    own_slope: Array = per_model()
    # whether the preconditioner is scaled at the beginning of the next step, where the device's work is queued
    is_due: Array = per_model()
    starts_warm: Array = per_model(kept=False)  # whether the start is not zero
    # makes the second preconditioner, where the first was only the diagonal
    sample: GramSample | None = not_kept(default=None)


@dataclass
class LBFGSState(SolverState):
    """State of L-BFGS; see `SolverState` for the other attributes. gradient_norm and iterations are never None.

    Attributes
    ----------
    models : _Models
        The active models.
    """

    models: _Models = field(kw_only=True)
    gradient_norm: Array
    iterations: Array


@dataclass(frozen=True)
class LBFGS:
    """Preconditioned L-BFGS on the full batch.

    Attributes
    ----------
    max_iter : int
        Largest number of iterations (accepted steps) of each model.
    tol : float
        A model has converged when no entry of its gradient is larger than this in absolute value. The gradient is that
        of the objective with respect to the weights of the scaled features.
    seed : int
        Seed for the preconditioners' samples.
    sample : GramSample, optional
        The sample of an earlier solve over the same features, to save making it again.
    relative : bool
        For softmax: multiply tol by the objective, clipped to [0.01, 1]. Use it for models that are compared with each
        other: where a model classifies all rows correctly, the curvature vanishes, and the gradient can be small far
        from the optimum.
    """

    max_iter: int
    tol: float
    seed: int = 0
    sample: GramSample | None = None
    relative: bool = False
    may_stop_early = False  # it is meant to reach the optimum

    @property
    def passes(self) -> float:
        """Number of passes if all steps are taken and no trial is rejected: one at the start, one for each step."""
        return float(self.max_iter + 1)

    def init(self, objective: Objective, W: Array, b: Array) -> LBFGSState:
        """Return the state at W (d, K, c) and b (K, c), which are copied, with the first preconditioner."""
        K, unknown = objective.n_models, np.full(objective.n_models, np.nan)
        sample = self.sample or GramSample(objective, self.seed)
        sample.remembered = None
        preconditioner = sample.preconditioners(objective)
        zeros_like = objective.backend.xp.zeros_like
        x, guides = guided_start(objective, sample, preconditioner, objective.backend.xp.concatenate([W, b[None]]))
        leaves_guides = bool(guides.ended_by_rejection.any())
        # The first trial is the start itself, since the direction is zero; the huge value makes sure that it is
        # accepted.
        models = _Models(
            indices=np.arange(K),
            objective=objective,
            weight_sums=objective.weight_sums(),
            preconditioner=preconditioner,
            point=Point(x, zeros_like(x), zeros_like(x)),
            direction=zeros_like(x),
            length=np.ones(K),
            slope=np.zeros(K),
            value=np.full(K, 1e300),
            start_norm=np.full(K, np.nan),
            refresh_norm=np.full(K, np.nan),
            smallest_norm=np.full(K, np.inf),
            stalled=np.zeros(K, int),
            refresh_age=np.zeros(K, int),
            refreshes=np.zeros(K, int),
            costs=np.full(K, refresh_cost(objective) if sample.at_once else sample.cost),
            pairs=Pairs.none(x, objective.backend, MEMORY_DIAGONALS if by_diagonals(objective) else MEMORY),
            guides=guides,
            own_direction=zeros_like(x) if leaves_guides else None,
            own_slope=np.zeros(K),
            is_due=np.zeros(K, bool),
            starts_warm=_is_warm(objective, x),
            sample=None if sample.at_once else sample,
        )
        return LBFGSState(
            W=W.copy(),
            b=b.copy(),
            value=unknown.copy(),
            loss=unknown.copy(),
            accuracy=unknown.copy(),
            learning_rate=np.ones(K),
            start=unknown,
            reasons=[StopReason.RUNNING] * K,
            gradient_norm=np.full(K, np.inf),
            iterations=np.zeros(K, int),
            passes=0.0 if self.sample else (preconditioner.rows + guides.rows) / objective.features.n,
            models=models,
        )

    def step(self, objective: Objective, state: LBFGSState) -> LBFGSState:
        """Evaluate one trial point of each active model, in one pass over the data, and return the new state."""
        models = state.models
        with objective.backend.single_threaded_blas():
            self._step(state, models)
        state.step, state.passes, state.rows = state.step + 1, state.passes + 1, objective.features.n
        if all(state.reasons):
            worst = (one for one in (StopReason.FINISHED, StopReason.PRECISION) if one in state.reasons)
            state.reason = next(worst, StopReason.CONVERGED)
        return state

    def to_arrays(self, state: LBFGSState) -> dict[str, Any]:
        """See `Solver.to_arrays`; of the preconditioners, the points are kept at which they were made."""
        backend, points = state.models.objective.backend, state.models.preconditioner.points
        kept = state.to_arrays(backend)
        kept["points"] = {str(k): backend.to_numpy(point) for k, point in enumerate(points) if point is not None}
        kept["shared"] = self.to_share(backend)
        return kept

    def from_arrays(self, state: LBFGSState, kept: dict[str, Any]) -> LBFGSState:
        """See `Solver.from_arrays`; makes preconditioners again at the points where they were made."""
        of_all, points, shared = state.models.objective, kept.pop("points", {}), kept.pop("shared", {})
        state = state.from_arrays(kept, of_all.backend)
        models = state.models
        if points.keys() != {str(k) for k in np.flatnonzero(models.refreshes)}:
            raise ValueError("not one point for each preconditioner that was renewed")
        with of_all.backend.single_threaded_blas():
            for name, point in points.items():
                self._renew(models, int(name), _checked_point(of_all, point), int(models.refreshes[int(name)]) - 1)
        self.share(of_all, shared)
        return state

    def to_share(self, backend: Backend) -> dict[str, Any]:
        """See `Solver.to_share`: the point whose sums a shared sample makes later preconditioners from."""
        if self.sample is None or self.sample.remembered is None:
            return {}
        k, point = self.sample.remembered
        return {"model": k, "point": backend.to_numpy(point)}

    def share(self, objective: Objective, kept: dict[str, Any]) -> None:
        """See `Solver.share`."""
        if self.sample is None or not kept:
            return
        k = check_count("model", kept["model"], least=0)
        if k >= objective.n_models:
            raise ValueError(f"model {k} of {objective.n_models}")
        self.sample.remember_point(objective, k, _checked_point(objective, kept["point"]))

    def why_it_diverged(self, state: LBFGSState) -> str:
        """Explain that the start is the cause: no accepted step makes the objective infinite."""
        dtype = np.dtype(state.models.objective.features.dtype)
        return (
            "the objective is not finite at the start: the start weights, the penalty (C, l2) or the features are too "
            f"large for {dtype.name}. Start from smaller weights" + ", or pass X in float64" * (dtype != np.float64)
        )

    def end_diverged(self, state: LBFGSState, diverged: Array) -> None:
        """End the training of the models with True in `diverged` (K,), whose objective is not finite at the start."""
        ended = diverged[state.models.indices]
        state.models = state.end(state.models, ended, [StopReason.DIVERGED] * len(ended))
        if ended.all():
            state.reason = state.reason or StopReason.DIVERGED

    def _step(self, state: LBFGSState, models: _Models) -> None:
        objective = models.objective
        backend, eps = objective.backend, float(np.finfo(objective.features.dtype).eps)
        if models.is_due.any():
            state.passes += self._refresh(models, models.point.x, models.is_due) / objective.features.n
            models.is_due = np.zeros_like(models.is_due)
        trial = _trial(models)
        found = objective.value_and_gradient(trial[:-1], trial[-1], weight_sums=models.weight_sums)
        moved = models.guides.moved
        if state.step == 0 and moved.any() and (worse := _worse_than_zero(models, moved, found, backend)).any():
            back = backend.asarray(np.flatnonzero(worse))
            trial[:, back] = models.point.x[:, back] = 0
            models.guides, models.starts_warm = models.guides.without(worse), models.starts_warm & ~worse
            found = objective.value_and_gradient(trial[:-1], trial[-1], weight_sums=models.weight_sums)
            state.passes += 1
        g, *of_gradient = _gradient(found, models)
        measured = [found.value, found.loss, found.accuracy, *of_gradient]
        del found  # a gradient, of which there is a copy now
        begun = _begin(models, trial, g) if backend.queues_work else None
        fetched = backend.fetch(*measured, *(() if begun is None else begun.products.arrays))
        value, loss, accuracy, slope, size, *products = fetched
        size = size.astype(np.float64)
        if state.step == 0:
            state.start = value.copy()
        accepted, too_short = _accept_trials(models, value, slope, eps)
        left = ~accepted & models.guides.ended_by_rejection
        if left.any():
            _leave_guides(models, left)
            too_short &= ~left
        if state.step > 0:
            state.iterations[models.indices] += accepted
        out_of_steps = state.iterations[models.indices] >= self.max_iter
        norm = np.where(accepted, size, state.gradient_norm[models.indices])
        of_all = bool(accepted.all()) and len(accepted) == len(state.reasons)
        if of_all:
            state.W, state.b = trial[:-1], trial[-1]
        elif accepted.any():  # they may be views of the last trial, which is the point that the next pairs start from
            state.W, state.b = state.W.copy(), state.b.copy()
        for k in np.flatnonzero(accepted).tolist():
            index = models.indices[k]
            if not of_all:
                state.W[:, index], state.b[index] = trial[:-1, k], trial[-1, k]
            state.value[index], state.loss[index], state.accuracy[index] = value[k], loss[k], accuracy[k]
            state.gradient_norm[index], state.learning_rate[index] = norm[k], models.length[k]
        better = (value < models.value - eps * abs(models.value)) | (norm < 0.9 * models.smallest_norm)
        models.stalled = np.where(accepted, np.where(better, 0, models.stalled + 1), models.stalled)
        models.smallest_norm = np.minimum(models.smallest_norm, norm)
        models.start_norm = norm if state.step == 0 else models.start_norm
        models.refresh_norm = np.where(models.refresh_age == 0, norm, models.refresh_norm)
        models.value = np.where(accepted, value, models.value)
        converged = norm <= self._tolerances(models)
        stuck = too_short | (models.stalled >= STALLED)
        ended = converged | stuck | out_of_steps
        if accepted.any() and not ended.all():
            led, scales, begins = models.guides.leading, _would_scale(models), _would_begin(models)
            due = self._needs_refresh(models, scales, begins, eps)
            if state.step == 0 and scales.any():
                due |= self._starts_with_scaling(models) & scales
            due &= accepted & ~out_of_steps & (~led | models.guides.ended_by_rejection)
            begins &= due & ~scales
            if begins.any():
                models.guides.begin(begins)
                state.passes += 1  # they read the rows once
                due &= ~begins
            if due.any():
                models.guides = models.guides.without(due & led)
                if backend.queues_work:
                    models.is_due = due & scales
                    due &= ~scales
            if due.any():
                state.passes += self._refresh(models, trial, due) / objective.features.n
                begun = None
            if begun is None:
                begun = _begin(models, trial, g)
                products = backend.fetch(*begun.products.arrays)
            _update_directions(models, begun, products, accepted)
            # a model whose start is not finite has no slope: it has diverged, as the trainer finds out and tells
            stuck |= ~(models.slope > 0) & (accepted | (state.step > 0))
            ended |= stuck
        if ended.any():
            reasons = [
                StopReason.CONVERGED if converged[k] else StopReason.PRECISION if stuck[k] else StopReason.FINISHED
                for k in range(len(converged))
            ]
            state.models = state.end(models, ended, reasons)

    def _refresh(self, models: _Models, trial: Any, due: Array) -> float:
        """Make new preconditioners at accepted trial points of the models marked in `due`, and discard their pairs.

        Returns the number of rows that were read.
        """
        rows = 0.0
        for k in np.flatnonzero(due).tolist():
            if models.sample is not None and models.refreshes[k] == 0:
                models.costs[k] = refresh_cost(models.objective)
            rows += self._renew(models, k, trial[:, k].copy(), int(models.refreshes[k]))
            models.point.preconditioned_g[:, k] = models.preconditioner.by_model[k].solve(models.point.g[:, k])
            models.pairs.forget(k)
            models.refresh_age[k], models.refreshes[k] = -1, models.refreshes[k] + 1
        return rows

    def _renew(self, models: _Models, k: int, point: Any, n_refreshes: int) -> float:
        """Replace the preconditioner of model k by one made at a point (d + 1, c), after `n_refreshes` earlier ones.

        Returns the number of rows that were read. The result depends on nothing else, so that it is the same when it is
        made again for a checkpoint.
        """
        preconditioner: Preconditioner
        if models.sample is not None and n_refreshes == 0:
            preconditioner, rows = models.sample.preconditioner(models.objective, k), 0.0
        elif by_diagonals(models.objective):
            sums = sums_at_point(models.objective, k, point)
            log.info(
                "preconditioner: diagonals, with dense blocks of %d features",
                sum(len(one.features) for one in sums.dense_blocks),
            )
            preconditioner = from_sums(models.objective, k, sums)
            rows = CLASS_DIAGONAL_COST * models.objective.features.n
            self._remember(models, k, point, sums)
        elif n_refreshes == 0 and scales_first(models.objective):
            curvatures = class_curvatures(models.objective, k, point, self.seed)
            first = models.preconditioner.by_model[k]
            preconditioner, rows = scaled_for_classes(models.objective, k, curvatures, first), curvatures.rows
            self._remember(models, k, point, curvatures)
        else:
            preconditioner, rows = refresh(models.objective, k, point, self.seed, n_refreshes)
        models.preconditioner = models.preconditioner.replaced(k, preconditioner, point)
        return rows

    def _remember(self, models: _Models, k: int, point: Any, found: CurvatureSums | ClassCurvatures) -> None:
        """Let the shared sample remember what was found for model k at its point, if there is such a sample."""
        if self.sample is not None:
            self.sample.remember(models.objective, k, point, found)
            self.sample.remembered = int(models.indices[k]), point

    def _tolerances(self, models: _Models) -> Array:
        """Return the largest gradient norm at which each model has converged, (K,)."""
        relative = self.relative and models.objective.loss.gives_probabilities
        return self.tol * (np.clip(models.value, SMALLEST_OBJECTIVE, 1.0) if relative else np.ones(len(models.value)))

    def _starts_with_scaling(self, models: _Models) -> Array:
        """Find the models whose start is not zero, and for whose penalty the sample has no curvatures yet."""
        warm, l2 = models.starts_warm, models.objective.penalty_on_host.strengths
        return warm if self.sample is None else warm & ~self.sample.has_curvatures(l2)

    def _needs_refresh(self, models: _Models, scales: Array, begins: Array, eps: float) -> Array:
        """Find the models that need a new preconditioner, because many steps remain with the present one.

        `scales` and `begins` are those of `_would_scale` and `_would_begin`. The fewest points before that double with
        each new preconditioner of a model.
        """
        objective = models.objective
        costs = np.where(begins | scales, 0.0, models.costs)  # for a guide there is nothing to make
        after = np.where((begins | models.guides.leading) & ~scales, GUIDED_REFRESH_AFTER, REFRESH_AFTER)
        later = np.maximum(models.refreshes - scales_first(objective), 0)
        wait = np.maximum(after, REFRESH_COST_FACTOR * costs) * np.where(begins, 1.0, 2.0**later)
        old_enough: Array = models.refresh_age + 1 >= wait
        if not old_enough.any():
            return old_enough
        # A tol below the rounding error cannot be reached. With tol = 0, the target is halfway to the rounding error on
        # a log scale.
        tolerances = np.maximum(
            self._tolerances(models), (ROUNDINGS * eps if self.tol > 0 else np.sqrt(eps)) * models.start_norm
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            pace = np.log(models.refresh_norm / models.smallest_norm) / (models.refresh_age + 1)
            to_go = np.log(models.smallest_norm / tolerances) / pace
        blocks = not (is_full(objective) or by_diagonals(objective))
        many = ~scales & np.where(begins, ~_nearly_separable(models), blocks)
        far = np.where(many, MANY_STEPS_TO_GO, STEPS_TO_GO)
        return old_enough & ((to_go > far) | (pace <= 0))


def _nearly_separable(models: _Models) -> Array:
    """Whether each model's objective is so low that few rows have curvature left."""
    return models.value < NEARLY_SEPARABLE * models.objective.value_at_zero()


def _would_begin(models: _Models) -> Array:
    """Whether what comes next for each model is the guide that waits, and not a preconditioner.

    That is so where many passes' time would go into the full Hessian, or few rows have curvature.
    """
    cheap = is_full(models.objective) & (models.costs <= CHEAP_HESSIAN)
    return models.guides.waiting & (~cheap | _nearly_separable(models))


def _would_scale(models: _Models) -> Array:
    """Whether the next preconditioner of each model is the first one, scaled for its classes.

    A guide that waits suits a nearly separable model better. Where the first one is only a diagonal, the next comes
    from the sample, which takes long.
    """
    if models.sample is not None or not scales_first(models.objective):
        return np.zeros(len(models.value), bool)
    confident = models.guides.waiting & _nearly_separable(models)
    return ~models.guides.leading & (models.refreshes == 0) & ~confident


def _checked_point(objective: Objective, point: Any) -> Any:
    """Return a point (d + 1, c) from a checkpoint, on the device."""
    shape = (objective.features.d + 1, objective.n_classes)
    return objective.backend.asarray(checked_array("point", point, objective.features.dtype, shape))


def _accept_trials(models: _Models, value: Array, slope: Array, eps: float) -> tuple[Array, Array]:
    """Decide which trials are accepted (Armijo); the other models get a shorter step length.

    If the predicted decrease is within the rounding error of the objective, the slopes decide (Hager and Zhang, 2005).
    Returns two boolean arrays (K,): the trials that are accepted, and the models whose step has become too short.
    """
    predicted_decrease, noise = models.length * models.slope, eps * abs(models.value)
    flat = predicted_decrease <= ROUNDINGS * noise
    accepted = value <= models.value - SUFFICIENT * predicted_decrease + noise  # False for a value of NaN
    accepted |= flat & (abs(slope) < models.slope) & np.isfinite(value)
    too_short = ~accepted & ((flat & (models.length < SHORTEST)) | (models.length < VANISHING))
    if not accepted.all():
        shorter = _shorter(models.length, models.value, models.slope, value, slope)
        models.length = np.where(accepted, models.length, shorter)
    return accepted, too_short


def _is_warm(objective: Objective, x: Any) -> Array:
    """Tell for which models the start x is not zero, (K,) bool, if it matters; see `LBFGS._starts_with_scaling`."""
    if not scales_first(objective):
        return np.zeros(objective.n_models, bool)
    return objective.backend.to_numpy(abs(x).max(axis=(0, 2))) > 0


@dataclass(frozen=True)
class _Begun:
    """What is computed of the next directions before it is known which trials are accepted, on the device."""

    point: Point
    products: Products


def _begin(models: _Models, trial: Any, g: Any) -> _Begun:
    """Compute M^-1 g at the trial points, and the inner products that the next directions take."""
    backend = models.objective.backend
    point = Point(trial, g, models.preconditioner.apply(g, backend.xp))
    return _Begun(point, models.pairs.begin(models.point, point, backend))


def _update_directions(models: _Models, begun: _Begun, fetched: list[Array], accepted: Array) -> None:
    """At the accepted points, add pairs and compute new directions; the other models keep point and direction.

    `fetched` are the inner products, on the host.
    """
    backend = models.objective.backend
    models.refresh_age = models.refresh_age + accepted
    direction, slope = models.pairs.advance(begun.point, begun.products, fetched, accepted, backend)
    models.point = models.point.replace_where(accepted, begun.point, backend)
    if not accepted.all():
        direction = backend.xp.where(backend.asarray(accepted)[None, :, None], direction, models.direction)
    models.direction = direction
    models.slope = np.where(accepted, slope, models.slope)
    models.length = np.where(accepted, 1.0, models.length)
    if models.guides.present.any():
        _ask_guides(models, accepted)


def _ask_guides(models: _Models, accepted: Array) -> None:
    """Take the directions of the guides at the accepted points; those of L-BFGS are kept for when a guide ends."""
    backend = models.objective.backend
    if models.own_direction is not None:
        new = backend.asarray(accepted)[None, :, None]
        models.own_direction = backend.xp.where(new, models.direction, models.own_direction)
        models.own_slope = np.where(accepted, models.slope, models.own_slope)
    point, ended = models.point, np.zeros(len(accepted), bool)
    for k, guide in enumerate(models.guides.by_model):
        if guide is not None and accepted[k] and not guide.waits:
            found = guide.direction(point.x[:, k], point.g[:, k], point.preconditioned_g[:, k])
            if found is None:
                ended[k] = True
            else:
                models.direction[:, k], models.slope[k] = found
    if ended.any():
        models.guides = models.guides.without(ended)


def _leave_guides(models: _Models, left: Array) -> None:
    """Let L-BFGS take over from the guides of the models marked in `left`, whose trial was rejected."""
    for k in np.flatnonzero(left).tolist():
        models.direction[:, k] = models.own_direction[:, k]
        models.slope[k], models.length[k] = models.own_slope[k], 1.0
    models.guides = models.guides.without(left)


def _worse_than_zero(models: _Models, moved: Array, found: Evaluation, backend: Backend) -> Array:
    """Find the models that a guide has `moved` from zero weights to a point with a higher objective, (K,) bool."""
    return moved & ~(backend.to_numpy(found.value) < models.objective.value_at_zero())


def _trial(models: _Models) -> Any:
    """Compute the next trial points x - length direction, (d + 1, K, c), in a new array."""
    backend, x, direction = models.objective.backend, models.point.x, models.direction
    length = backend.asarray(models.length.astype(x.dtype)[None, :, None])
    trial = backend.xp.empty_like(x)

    def part(rows: slice) -> tuple[Array, ...]:
        trial[rows] = x[rows] - length * direction[rows]
        return ()

    backend.sum_over_blocks(part, len(x), x[0].size)
    return trial


def _gradient(found: Evaluation, models: _Models) -> tuple[Any, Any, Any]:
    """Return the gradient (d + 1, K, c), and for each model its inner product with the direction, and its norm.

    All are on the device.
    """
    backend, direction = models.objective.backend, models.direction
    g, d = backend.xp.empty_like(direction), len(found.dW)
    g[d] = found.db
    norms = [abs(g[d]).max(axis=1)]

    def part(rows: slice) -> tuple[Array, ...]:
        inside = slice(rows.start, min(rows.stop, d))
        if inside.stop > inside.start:
            g[inside] = found.dW[inside]
            norms.append(abs(g[inside]).max(axis=(0, 2)))
        return (inner_products(g[rows], direction[rows]),)

    (slope,) = backend.sum_over_blocks(part, d + 1, g[0].size)
    return g, slope, reduce(backend.xp.maximum, norms)


def _shorter(length: Array, value: Array, slope: Array, trial: Array, trial_slope: Array) -> Array:
    """Compute the step length after a rejected trial, between 0.1 and 0.5 of `length`.

    With f(l) the objective at x - l direction, it minimises the cubic that has the values and the slopes of f at 0,
    where f' = -slope, and at `length`, where f' = -trial_slope.
    """
    with np.errstate(all="ignore"):  # for a trial that overflowed the result is 0.1
        theta = 3 * (value - trial) / length - slope - trial_slope
        root = np.sqrt(np.maximum(theta**2 - slope * trial_slope, 0))
        fraction = 1 - (-trial_slope + root - theta) / (-trial_slope + slope + 2 * root)
    return length * np.clip(np.where(np.isfinite(fraction), fraction, 0.1), 0.1, 0.5)
