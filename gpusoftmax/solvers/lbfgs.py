"""L-BFGS with a preconditioner: the exact optimum in some ten passes over the data, for K models.

    direction = H g,    H = L-BFGS's inverse Hessian (Nocedal and Wright, 2006, algorithm 7.4) over H_0 = gamma M^-1
    gamma = s't / t'M^-1 t of the last pair of steps s and differences of gradients t;  M: see `curvature`, `hessian`

Each step is one pass, at the trial points of all models. A trial that is accepted starts the next direction; one that
is refused is tried again at a shorter step; a model that has converged leaves the arrays. Where the first
preconditioner turns out to be slow, as for confident models, a new one is made at the point reached.

The scores are not kept for a search along a refused step: in a whole solve one or two steps are refused, the second
trial was then always accepted, and its pass yields the gradient, which is needed anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.objective.objective import Objective
from gpusoftmax.solvers.base import ActiveModels, PerModel, SolverState, StopReason, per_model
from gpusoftmax.solvers.preconditioners.base import Preconditioners
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.solvers.preconditioners.hessian import is_full, refresh, refresh_cost

MEMORY = 10  # pairs
SUFFICIENT = 1e-4  # share of the slope by which a step has to bring the objective down (Armijo)
ROUNDINGS = 16  # by as many units in the last place values of the same point may differ
SHORTEST = 0.01  # steps that were refused down to here are refused for rounding's sake
VANISHING = 1e-38  # steps that were refused down to here, after 126 trials at most, are refused whatever the reason
REFRESH_AFTER = 8  # steps with a preconditioner, at least, before a new one
REFRESH_SHARE = 2.0  # and as many times what that costs, so that it never takes most of the time
SLOW, SLOW_FULL = (
    24,
    8,
)  # steps still to go, at the pace so far, for a new preconditioner: pairs of the old one are lost
LEAST = 0.01  # objective that a relative tol counts by
STALLED = 10  # accepted steps in a row that brought neither objective nor gradient down: rounding is all that is left


@dataclass
class _Pair(PerModel):
    """A step and the change of the gradient along it."""

    s: Any = per_model(1)
    t: Any = per_model(1)
    preconditioned_t: Any = per_model(1)  # M^-1 t
    rho: Array = per_model()  # 1 / s't, or 0 for a model that has no such pair


@dataclass
class _Models(ActiveModels):
    """The models that are still being trained: points are (d + 1, K, c), with the intercepts last; numbers (K,)."""

    preconditioner: Preconditioners = per_model()
    x: Any = per_model(1)
    g: Any = per_model(1)
    preconditioned_g: Any = per_model(1)  # M^-1 g
    direction: Any = per_model(1)
    length: Array = per_model()
    slope: Array = per_model()
    value: Array = per_model()
    first: Array = per_model()  # the gradient's norm at the start
    begun: Array = per_model()  # the same when the preconditioner was new
    smallest: Array = per_model()  # the same, its smallest so far
    stalled: Array = per_model()  # accepted steps in a row without progress
    gamma: Array = per_model()
    since: Array = per_model()  # steps with the present preconditioner
    refreshes: Array = per_model()  # new preconditioners so far
    costs: Array = per_model()  # of the next preconditioner, in passes
    pairs: list[_Pair] = per_model()
    sample: GramSample | None = None  # for the second preconditioner, if the first was not made from it


@dataclass
class LBFGSState(SolverState):
    """Where L-BFGS stands; see `SolverState`. gradient_norm and iterations are always there.

    Attributes
    ----------
    models : _Models
        The models that are still being trained.
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
        Steps of each model at most. The read at the start is none, nor is a trial that is refused.
    tol : float
        A model has converged when no entry of the gradient of its mean objective, in the coordinates of the scaled
        features, is larger.
    relative : bool
        For softmax tol counts relative to the objective where that is below 1, down to a hundredth: for models that are
        compared, since where all rows are right curvature vanishes, and a gradient can be small a long way from the
        optimum.
    seed : int
        Draws the preconditioners' samples.
    sample : GramSample, optional
        Of an earlier solve over the same features, whose work is then not done again.
    """

    max_iter: int
    tol: float
    seed: int = 0
    sample: GramSample | None = None
    relative: bool = False
    open_ended = False  # it stops by itself

    @property
    def passes(self) -> float:
        """Reads of the data if all steps are taken and none is refused: one at the start, and one a step."""
        return float(self.max_iter + 1)

    def init(self, objective: Objective, W: Array, b: Array) -> LBFGSState:
        """Start at W (d, K, c) and b (K, c), which are copied; makes the preconditioner."""
        K, nothing = objective.n_models, np.full(objective.n_models, np.nan)
        sample = self.sample or GramSample(objective, self.seed)
        preconditioner = sample.preconditioners(objective)
        x, zeros_like = objective.backend.xp.concatenate([W, b[None]]), objective.backend.xp.zeros_like
        models = _Models(  # a first trial that goes nowhere, from a value above all others, is always accepted
            numbers=np.arange(K),
            objective=objective,
            preconditioner=preconditioner,
            x=x,
            g=zeros_like(x),
            preconditioned_g=zeros_like(x),
            direction=zeros_like(x),
            length=np.ones(K),
            slope=np.zeros(K),
            value=np.full(K, 1e300),
            first=np.full(K, np.nan),
            begun=np.full(K, np.nan),
            smallest=np.full(K, np.inf),
            stalled=np.zeros(K, int),
            gamma=np.ones(K),
            since=np.zeros(K, int),
            refreshes=np.zeros(K, int),
            costs=np.full(K, refresh_cost(objective) if sample.at_once else sample.cost),
            pairs=[],
            sample=None if sample.at_once else sample,
        )
        return LBFGSState(
            W=W.copy(),
            b=b.copy(),
            value=nothing.copy(),
            loss=nothing.copy(),
            accuracy=nothing.copy(),
            learning_rate=np.ones(K),
            start=nothing,
            reasons=[StopReason.RUNNING] * K,
            gradient_norm=np.full(K, np.inf),
            iterations=np.zeros(K, int),
            passes=0.0 if self.sample else preconditioner.rows / objective.features.n,
            models=models,
        )

    def step(self, objective: Objective, state: LBFGSState) -> LBFGSState:
        """One pass: the trial points of all models that are still being trained."""
        models = state.models
        with objective.backend.single_threaded_blas():
            self._step(state, models)
        state.step, state.passes, state.rows = state.step + 1, state.passes + 1, objective.features.n
        if all(state.reasons):
            worst = (one for one in (StopReason.FINISHED, StopReason.PRECISION) if one in state.reasons)
            state.reason = next(worst, StopReason.CONVERGED)
        return state

    def give_up(self, state: LBFGSState, lost: Array) -> None:
        """End the models with a True in `lost` (K,): their objective is not finite."""
        ended = lost[state.models.numbers]
        state.models = state.end(state.models, ended, [StopReason.DIVERGED] * len(ended))
        if ended.all():
            state.reason = state.reason or StopReason.DIVERGED

    def _step(self, state: LBFGSState, models: _Models) -> None:
        objective = models.objective
        backend, eps = objective.backend, float(np.finfo(objective.features.dtype).eps)
        trial = models.x - _per_model(models.length, models) * models.direction
        found = objective.value_and_gradient(trial[:-1], trial[-1])
        g = backend.xp.concatenate([found.dW, found.db[None]])
        value, loss, accuracy = map(backend.to_numpy, (found.value, found.loss, found.accuracy))
        if state.step == 0:
            state.start = value.copy()
        accepted, given_up = _judge(models, value, _dot(g, models.direction, backend), eps)
        if state.step > 0:
            state.iterations[models.numbers] += accepted
        out_of_steps = state.iterations[models.numbers] >= self.max_iter
        size = backend.to_numpy(abs(g).max(axis=(0, 2))).astype(np.float64)
        norm = np.where(accepted, size, state.gradient_norm[models.numbers])
        for k in np.flatnonzero(accepted).tolist():
            number = models.numbers[k]
            state.W[:, number], state.b[number] = trial[:-1, k], trial[-1, k]
            state.value[number], state.loss[number], state.accuracy[number] = value[k], loss[k], accuracy[k]
            state.gradient_norm[number], state.learning_rate[number] = norm[k], models.length[k]
        better = (value < models.value - eps * abs(models.value)) | (norm < 0.9 * models.smallest)
        models.stalled = np.where(accepted, np.where(better, 0, models.stalled + 1), models.stalled)
        models.smallest = np.minimum(models.smallest, norm)
        models.first = norm if state.step == 0 else models.first
        models.begun = np.where(models.since == 0, norm, models.begun)
        models.value = np.where(accepted, value, models.value)
        if accepted.any():
            due = accepted & self._is_slow(models, eps) & ~out_of_steps
            if due.any():
                state.passes += _refresh(models, trial, due, self.seed) / objective.features.n
            _turn(models, trial, g, accepted)
        arrived = norm <= self._goal(models)
        stuck = given_up | (models.stalled >= STALLED) | ~(models.slope > 0)
        reasons = [
            StopReason.CONVERGED if arrived[k] else StopReason.PRECISION if stuck[k] else StopReason.FINISHED
            for k in range(len(arrived))
        ]
        state.models = state.end(models, arrived | stuck | out_of_steps, reasons)

    def _goal(self, models: _Models) -> Array:
        """The gradients (K,) that are small enough."""
        relative = self.relative and models.objective.loss.gives_probabilities
        return self.tol * (np.clip(models.value, LEAST, 1.0) if relative else np.ones(len(models.value)))

    def _is_slow(self, models: _Models, eps: float) -> Array:
        """Which models want a new preconditioner: it would pay, since they have far to go; each time less easily."""
        wait = np.maximum(REFRESH_AFTER, REFRESH_SHARE * models.costs) * 2.0**models.refreshes
        # without a tol, halfway to where rounding begins; a tol below rounding is not reached
        goal = np.maximum(self._goal(models), (ROUNDINGS * eps if self.tol > 0 else np.sqrt(eps)) * models.first)
        with np.errstate(divide="ignore", invalid="ignore"):
            pace = np.log(models.begun / models.smallest) / (models.since + 1)
            to_go = np.log(models.smallest / goal) / pace
        far = SLOW_FULL if is_full(models.objective) else SLOW
        return (models.since + 1 >= wait) & ((to_go > far) | (pace <= 0))


def _judge(models: _Models, value: Array, slope: Array, eps: float) -> tuple[Array, Array]:
    """Which trials are accepted (Armijo), and which models have nothing left to try; the lengths of the others shrink.

    Where what a step promises is lost in the value's rounding, the slopes decide (Hager and Zhang, 2005).
    """
    promised, noise = models.length * models.slope, eps * abs(models.value)
    flat = promised <= ROUNDINGS * noise
    accepted = value <= models.value - SUFFICIENT * promised + noise  # never where it is NaN
    accepted |= flat & (abs(slope) < models.slope) & np.isfinite(value)
    given_up = ~accepted & ((flat & (models.length < SHORTEST)) | (models.length < VANISHING))
    shorter = _shorter(models.length, models.value, models.slope, value, slope)
    models.length = np.where(accepted, models.length, shorter)
    return accepted, given_up


def _turn(models: _Models, trial: Any, g: Any, accepted: Array) -> None:
    """Pairs and new directions from the accepted points; models that were refused keep point and direction.

    Where curvature along a step is not positive beyond rounding, it leaves no pair.
    """
    backend = models.objective.backend
    models.since = models.since + accepted
    preconditioned_g = models.preconditioner.apply(g, backend.xp.empty_like(g))
    s, t, preconditioned_t = trial - models.x, g - models.g, preconditioned_g - models.preconditioned_g
    st, ss, tt = _dot(s, t, backend), _dot(s, s, backend), _dot(t, t, backend)
    usable = accepted & (st > 1e-10 * np.sqrt(ss * tt))
    if usable.any():
        rho = np.divide(1.0, st, out=np.zeros_like(st), where=usable)
        models.pairs = [*models.pairs, _Pair(s, t, preconditioned_t, rho)][-MEMORY:]
        size = _dot(t, preconditioned_t, backend)
        models.gamma = np.where(usable & (size > 0), st / np.where(size > 0, size, 1), models.gamma)
    models.x, models.g, models.preconditioned_g = (
        _chosen(accepted, new, old, backend)
        for new, old in ((trial, models.x), (g, models.g), (preconditioned_g, models.preconditioned_g))
    )
    models.direction = _chosen(accepted, _direction(models), models.direction, backend)
    models.slope = np.where(accepted, _dot(models.g, models.direction, backend), models.slope)
    models.length = np.where(accepted, 1.0, models.length)


def _refresh(models: _Models, trial: Any, due: Array, seed: int) -> int:
    """New preconditioners, made at the trial points; returns how many rows that took. The old pairs are dropped."""
    rows = 0
    for k in np.flatnonzero(due).tolist():
        if models.sample is not None and models.refreshes[k] == 0:
            preconditioner, read = models.sample.preconditioner(models.objective, k), 0
            models.costs[k] = refresh_cost(models.objective)
        else:
            preconditioner, read = refresh(models.objective, k, trial[:, k], seed, int(models.refreshes[k]))
        models.preconditioner = models.preconditioner.replaced(k, preconditioner)
        models.preconditioned_g[:, k] = preconditioner.solve(models.g[:, k])
        for pair in models.pairs:
            pair.rho[k] = 0.0
        models.since[k], models.refreshes[k], models.gamma[k] = -1, models.refreshes[k] + 1, 1.0
        rows += read
    return rows


def _direction(models: _Models) -> Any:
    """H g, by the two loops. M^-1 is applied to g alone, once a step: what the first loop takes off is known."""
    backend = models.objective.backend
    q, r = models.g.copy(), models.preconditioned_g.copy()
    alphas = []
    for pair in reversed(models.pairs):
        alpha = pair.rho * _dot(pair.s, q, backend)
        alphas.append(alpha)
        factor = _per_model(alpha, models)
        q -= factor * pair.t
        r -= factor * pair.preconditioned_t
    r *= _per_model(models.gamma, models)
    for pair, alpha in zip(models.pairs, reversed(alphas), strict=True):
        r += _per_model(alpha - pair.rho * _dot(pair.t, r, backend), models) * pair.s
    return r


def _per_model(numbers: Array, models: _Models) -> Any:
    """(K,) as (1, K, 1) on the device, to multiply points with."""
    return models.objective.backend.asarray(numbers.astype(models.x.dtype)[None, :, None])


def _chosen(models: Array, new: Any, old: Any, backend: Any) -> Any:
    """`new` for some of the models, `old` for the others."""
    return new if models.all() else backend.xp.where(backend.asarray(models)[None, :, None], new, old)


def _dot(u: Any, v: Any, backend: Any) -> Array:
    """Inner products per model, (K,) float64 on the host."""
    return np.asarray(backend.to_numpy((u * v).sum(axis=(0, 2), dtype=np.float64)))


def _shorter(length: Array, value: Array, slope: Array, trial: Array, trial_slope: Array) -> Array:
    """Where the cubic through both ends has its minimum, kept within a tenth and a half of the refused step.

    Along x - a direction the objective falls by `slope` at 0 and by `trial_slope` at `length`.
    """
    with np.errstate(all="ignore"):  # a trial that overflowed: a tenth
        theta = 3 * (value - trial) / length - slope - trial_slope
        root = np.sqrt(np.maximum(theta**2 - slope * trial_slope, 0))
        share = 1 - (-trial_slope + root - theta) / (-trial_slope + slope + 2 * root)
    return length * np.clip(np.where(np.isfinite(share), share, 0.1), 0.1, 0.5)
