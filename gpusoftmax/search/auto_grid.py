"""Which penalties a sweep tries if it is to find them itself, as with `grid="auto"`.

From the strongest penalty on, each is a tenth of the one before, until the scores on the held-out rows no longer gain.
Then the intervals on both sides of the best one are halved, in log C, until the difference from its neighbours is small
compared with the standard error of its score. The strongest penalty is one whose model is constant to within EXPLAINED:

    Let G be the gradient in W at the constant model, that is at W = 0 and the best intercepts b. The loss is convex, so
    at the optimum W* for a penalty l2 it is lower than that of the constant model by at most <G, -W*>. The objective is
    strongly convex, so ||W*|| <= ||G|| / l2. Together: the loss is lower by at most ||G||^2 / l2.

Features are centred where the intercept is free. For softmax, G is then the same for all b, and is computed at b = 0;
for the squared hinge that is only near it. glmnet users know the strongest penalty as lambda_max, and the fraction of
the loss by which a model is better than the constant one as the deviance that it explains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.estimators.problem import C_from_l2
from gpusoftmax.objective.objective import Objective
from gpusoftmax.search.result import choose, standard_errors

# Penalties are counted in steps, from strong to weak: C = 10 ** (step / STEPS), l2 = 10 ** (-step / STEPS). Whatever
# the data, the first are powers of ten, and the next lie half, a quarter and an eighth of a decade from them.
STEPS = 8
MOST_VALUES, EXPECTED_VALUES = 25, 12  # per path
EXPLAINED = 0.01  # of the constant model's loss: what the model with the strongest penalty explains at most
REMAINING = 0.001  # of that loss: with less left on the held-out rows, weaker penalties are not tried
ENOUGH = 0.25  # of the standard error: smaller differences in score do not count
PATIENCE = 2  # values in a row without a gain, after which weaker penalties are not tried


@dataclass(frozen=True)
class Tried:
    """The penalties that were tried on one path, in the order in which they were.

    Attributes
    ----------
    steps : ndarray of int, (m,)
    scores, losses : ndarray of float64, (splits, m)
        On the held-out rows; NaN for models that diverged. Larger scores are better.
    errors, loss_errors : ndarray of float64, (m,)
        Standard errors of the mean score and of the mean loss.
    finished : ndarray of bool, (m,)
        Whether a model was not within tol of its optimum after max_iter steps.
    """

    steps: Array
    scores: Array
    losses: Array
    errors: Array
    loss_errors: Array
    finished: Array


def value_at(name: str, step: int) -> float:
    """The value of "C" or "l2" at a step."""
    return float(10.0 ** ((step if name == "C" else -step) / STEPS))


def errors_of(values: Array, rows: int, accuracy: bool) -> Array:
    """Standard errors of the means of accuracies or losses over the splits (splits, m).

    With a single split they are those of a mean over its held-out rows: of an accuracy exactly, of a loss if it varies
    from row to row as much as its mean, as an exponential distribution does.
    """
    if len(values) > 1:
        return standard_errors(values)
    deviations = np.sqrt(values[0] * (1 - values[0])) if accuracy else abs(values[0])
    return deviations / math.sqrt(rows)


@dataclass(frozen=True)
class Constant:
    """The constant model: its loss, and the squared norm of G; of several models, the largest of each."""

    loss: float
    squared_norm: float


def at_constant(objective: Objective) -> Constant:
    """Measure the constant model in one pass over the data."""
    features, backend, K, c = objective.features, objective.backend, objective.n_models, objective.n_classes
    W, b = (backend.xp.zeros(shape, features.dtype) for shape in ((features.d, K, c), (K, c)))
    at_zero = objective.value_and_gradient(W, b)
    squares = backend.to_numpy(objective.penalty.squared_dual_norm(at_zero.dW, at_zero.db))
    loss = objective.value_at_zero()
    if objective.loss.gives_probabilities:  # with the best intercepts it is the entropy of the classes' fractions
        fractions = np.clip(1 / c - backend.to_numpy(at_zero.db).astype(np.float64), np.finfo(np.float64).tiny, 1)
        loss = float((-fractions * np.log(fractions)).sum(axis=1).max())
    return Constant(loss, float(squares.max()))


def first_step(name: str, constant: Constant, weight_sum: float, n_classes: int) -> int:
    """The step of the strongest penalty that is tried: a power of ten for the values of `name`.

    Where the features say nothing at all it is 1.
    """
    l2 = constant.squared_norm / (EXPLAINED * constant.loss)
    if not 0 < l2 < math.inf:
        return 0
    strength = C_from_l2(l2, weight_sum, n_classes) if name == "C" else 1 / l2
    return STEPS * math.floor(math.log10(strength))


def weaker(tried: Tried, first: int, patience: int, constant_loss: float) -> list[int]:
    """The next steps towards weaker penalties, all of which are needed before it may end; none if it has ended.

    It ends after `patience` values that are no gain in score, and none in loss: strong penalties often have the same
    accuracy. It also ends where a score is lower than the best by more than that one's standard error.
    """
    m = len(tried.steps)
    if not m:
        return [first]
    means = tried.scores.mean(axis=0)
    gains = _gains(means, tried.errors) | _gains(-tried.losses.mean(axis=0), tried.loss_errors)
    since = m - 1 - int(np.flatnonzero(gains)[-1]) if gains.any() else m
    best = int(np.nanargmax(means)) if not np.isnan(means).all() else m - 1
    ends = (
        since >= patience
        or (since and means[-1] < means[best] - tried.errors[best])
        or tried.losses[:, -1].mean() <= REMAINING * constant_loss
        or tried.finished[-1]
    )
    more = 0 if ends else min(patience - since, MOST_VALUES - m)
    return [int(tried.steps[-1]) + STEPS * (k + 1) for k in range(more)]


def _gains(means: Array, errors: Array) -> Array:
    """Whether each value is larger than the gain before it, by more than a part of the standard error."""
    gains, last = np.zeros(len(means), bool), -math.inf
    for k, (mean, error) in enumerate(zip(means, errors, strict=True)):
        if mean > last + ENOUGH * error:
            gains[k], last = True, mean
    return gains


def between(tried: Tried, rule: str) -> list[int]:
    """The next steps between those that were tried; none if the neighbours of the best are near enough.

    They halve the intervals next to the best one, and next to the one that `rule` chooses; see `result.choose`.
    """
    order = np.argsort(tried.steps)
    steps, scores, errors = tried.steps[order], tried.scores[:, order], tried.errors[order]
    means, strengths = scores.mean(axis=0), -steps
    found: set[int] = set()
    if np.isnan(means).all():
        return []
    for centre in {choose(scores, strengths, 0 * steps, one)[0] for one in ("best", rule)}:
        for low in (centre - 1, centre):
            if low < 0 or low + 1 == len(steps) or steps[low + 1] - steps[low] == 1:
                continue
            if abs(means[low] - means[low + 1]) > ENOUGH * errors[centre]:
                found.add(int(steps[low] + steps[low + 1]) // 2)
    return sorted(found)[: MOST_VALUES - len(steps)]
