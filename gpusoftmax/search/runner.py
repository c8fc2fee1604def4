"""The work of a sweep: every candidate trained on every split, and measured on what that holds out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from gpusoftmax._log import log
from gpusoftmax._typing import Array
from gpusoftmax.estimators.fitting import set_history, set_weights
from gpusoftmax.estimators.partial_fit import Moments, Stream
from gpusoftmax.estimators.prediction import on_host, record_columns
from gpusoftmax.estimators.problem import Data, Problem, held_out, l2_of, objective_for
from gpusoftmax.estimators.solver_choice import sgd_settings
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.features.dense import rows_that_count
from gpusoftmax.objective.objective import Objective
from gpusoftmax.progress import Tally
from gpusoftmax.search import exact, minibatch
from gpusoftmax.search.result import DONE, MEASURES, Trials
from gpusoftmax.search.scoring import Scoring
from gpusoftmax.search.splits import Split
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.trainer import Record, TrainResult


@dataclass(frozen=True)
class _Posed:
    """What is minimised on a split, what that holds out, and S of its training rows."""

    objective: Objective
    held_out: Objective
    total: float


@dataclass
class SweepRun:
    """What is asked for, and what is done so far.

    Attributes
    ----------
    given_X, y, validation
        For scorers: X as the user passed it, if rows can be taken from it, see `by_rows`; labels; X and y.
    data : Data
    splits : list of Split
    candidates : list of dict
    estimators : list
        One a candidate.
    scoring : Scoring
    keep_models : bool
    seed : int
    tally : Tally or None
    on_candidate : callable or None
        Told of each candidate that is done: its parameters, with its means over the splits.
    recipe : Recipe or None
        Of SGD.
    """

    given_X: Any
    y: Any
    validation: Any
    data: Data
    splits: list[Split]
    candidates: list[dict[str, Any]]
    estimators: list[Any]
    scoring: Scoring
    keep_models: bool
    seed: int
    tally: Tally | None
    on_candidate: Callable[[dict[str, Any]], Any] | None
    recipe: minibatch.Recipe | None = None

    def __post_init__(self) -> None:
        self.trials = Trials.empty(len(self.splits), len(self.candidates))
        self.models: dict[tuple[int, int], Any] = {}
        self.samples: dict[int, GramSample] = {}
        self.moments: dict[tuple[int, str], Moments | None] = {}  # by split and class weight: some reads of X each
        self.last_rung: tuple[Trials, dict[tuple[int, int], Any]] | None = None
        self.done = 0

    def along_paths(self, patience: int | None) -> None:
        """The exact solutions, from strong penalties to weak ones; one path for each split and class weight."""
        for group in self._alike():
            order = [group[i] for i in np.argsort(-self.strengths()[group], kind="stable")]
            first = self.estimators[order[0]]
            posed = [self._posed(i, order[0]) for i in range(len(self.splits))]
            objective, features, c = posed[0].objective, posed[0].objective.features, len(self.data.classes)
            sample = GramSample(objective, self.seed, len(order), alike=True)
            self.samples |= dict.fromkeys(group, sample)
            paths = [
                exact.Path(one.objective, sample, int(first.max_iter), float(first.tol), self.seed) for one in posed
            ]
            weighted = 0 if objective.weights is None else features.n_stored
            wide = exact.width(self.data.backend, features.d, c, weighted, np.dtype(features.dtype).itemsize)
            log.info("sweep: %d penalties, %d side by side, on %d splits", len(order), wide, len(self.splits))
            for start in range(0, len(order), wide):
                some = order[start : start + wide]
                for i, path in enumerate(paths):
                    l2 = self._l2(some, posed[i].total)
                    try:
                        result = path.solve(l2, RunProgress(self, i, some))
                    except DivergenceError:  # a penalty too strong for the type
                        self._forget(i, some, "diverged")
                        self.done += len(some)
                    else:
                        self._measure(i, some, posed[i], l2, result)
                self._tell(some)
                if patience is not None and self._worse(order[: start + wide]) >= patience:
                    self.done += len(self.splits) * len(order[start + wide :])
                    break

    def by_sgd(self, halving: int | None) -> None:
        """Configurations side by side on the same minibatches, in rungs if they are halved."""
        left, passes = list(range(len(self.candidates))), int(self.estimators[0].max_iter)
        rungs = 1 if halving is None else 1 + int(math.log(len(left), halving) + 1e-9)
        for rung in reversed(range(rungs)):
            budget = max(1, math.ceil(passes / (halving or 1) ** rung))
            self.last_rung = copy.deepcopy(self.trials), dict(self.models)
            self._forget(slice(None), left, "")  # scores of different budgets do not compare
            for group in self._alike():
                self._train([k for k in group if k in left], budget, last=rung == 0)
            if rung and halving is not None:
                means = self.trials.score.mean(axis=0)[left]
                order = np.argsort(-means, kind="stable")  # NaN comes last
                kept = sorted(left[i] for i in order[: max(1, len(left) // halving)])
                gone = [k for k in left if k not in kept]
                self.trials.status[:, gone] = "halved"
                self.done += len(self.splits) * len(gone)
                self._tell(gone)
                left = kept

    def _train(self, group: list[int], passes: int, last: bool) -> None:
        """So many passes from zero; scores count as the candidates' own, also if they are not the last."""
        has_weights = self.data.weights is not None or any(self.estimators[k].class_weight is not None for k in group)
        weighted = len(self.data.labels) if has_weights else 0
        wide = minibatch.width(self.data.features.d, len(self.data.classes), weighted)
        log.info("sweep: %d configurations for %d passes of SGD, up to %d side by side", len(group), passes, wide)
        for start in range(0, len(group), wide):
            some = group[start : start + wide]
            estimators = [clone(self.estimators[k]).set_params(max_iter=passes) for k in some]
            for i in range(len(self.splits)):
                posed = self._posed(i, some[0])
                l2, before = self._l2(some, posed.total), self.done
                try:
                    result = minibatch.train_group(
                        estimators, posed.objective, l2, RunProgress(self, i, some), self.recipe
                    )
                except DivergenceError:
                    self._forget(i, some, "diverged")
                else:
                    self._measure(i, some, posed, l2, result)
                self.done = before + len(some) * last
            if last:
                self._tell(some)

    def _alike(self) -> list[list[int]]:
        """Candidates that share weights and coordinates: SGD balances features by l2 where it finds its own rate."""

        def key(k: int) -> tuple[Any, ...]:
            one = self.estimators[k]
            automatic = one.solver == "sgd" and sgd_settings(one).learning_rate == "auto"
            return repr(one.class_weight), automatic, (one.C, one.l2) if automatic else None

        groups: dict[Any, list[int]] = {}
        for k in range(len(self.candidates)):
            groups.setdefault(key(k), []).append(k)
        return list(groups.values())

    def _posed(self, i: int, k: int) -> _Posed:
        """Split i as candidate k sees it."""
        split, estimator = self.splits[i], self.estimators[k]
        key = i, repr(estimator.class_weight)
        objective, total, self.moments[key] = objective_for(estimator, self.data, split.train, self.moments.get(key))
        return _Posed(objective, held_out(objective, self.data, split.held_out), total)

    def _l2(self, some: Iterable[int], total: float) -> Array:
        """Penalties of candidates for rows whose weights sum to `total`."""
        return np.array([l2_of(self.estimators[k], total, len(self.data.classes)) for k in some])

    def strengths(self) -> Array:
        """(candidates,): penalties, for all of X."""
        data = self.data
        total = float(len(data.labels) if data.weights is None else data.weights.sum(dtype=np.float64) * data.unit)
        return self._l2(range(len(self.candidates)), total)

    def _forget(self, i: Any, some: list[int], status: str) -> None:
        """Nothing is known of these models on split i."""
        trials = self.trials
        for name in MEASURES:  # the score first: with one left, Ctrl-C here would leave a candidate that can be chosen
            getattr(trials, name)[i, some] = np.nan
        trials.status[i, some] = status

    def _measure(self, i: int, some: list[int], posed: _Posed, l2: Array, result: TrainResult) -> None:
        """Scores of models that were trained on split i."""
        interrupted = result.reason == StopReason.INTERRUPTED
        if interrupted and self.estimators[some[0]].solver == "lbfgs":  # short of its optimum
            raise KeyboardInterrupt
        trials, aside, to_numpy = self.trials, posed.held_out, self.data.backend.to_numpy
        losses, accuracies = map(to_numpy, aside.for_penalties(l2).losses(result.W, result.b))
        # none yet where Ctrl-C came within the first pass
        values = np.atleast_1d(result.history[-1].objective) if result.history else np.full(len(some), np.nan)
        for place, k in enumerate(some):
            if result.reasons[place] not in (*DONE, StopReason.INTERRUPTED):
                self._forget(i, [k], result.reasons[place])
                continue
            if not np.isfinite(losses[place]):
                aside.features.check_finite("validation[0]" if self.splits[i].held_out is None else "X")
            score = self.scoring.from_measures(losses[place], accuracies[place])
            if self.scoring.function is not None or self.keep_models:
                model = self._model(k, posed, float(l2[place]), result.for_model(place))
                if self.scoring.function is not None:
                    score = self._score(i, model)
                if self.keep_models:
                    self.models[i, k] = model
            # all at once, so that Ctrl-C leaves a model known or unknown
            trials.status[i, k], trials.passes[i, k] = result.reasons[place], result.passes
            trials.objective[i, k], trials.loss[i, k] = values[place], losses[place]
            trials.accuracy[i, k], trials.score[i, k] = accuracies[place], score
        self.done += len(some)
        if interrupted:
            raise KeyboardInterrupt

    def _model(self, k: int, posed: _Posed, l2: float, result: TrainResult) -> Any:
        """The candidate's estimator with what its training left; without a report, whose bound would take reads."""
        model, data = self.estimator(k), self.data
        strengths = data.backend.asarray(np.array([l2]))
        own = replace(posed.objective, penalty=posed.objective.penalty.with_strengths(strengths))
        problem = Problem(own, None, data.classes, data.backend, Stream(data.classes, posed.total))
        set_weights(model, own, data.classes, result.W, result.b)
        set_history(model, problem, result)
        return model

    def estimator(self, k: int) -> Any:
        """The candidate's, not fitted, but with the features' number and names."""
        estimator = clone(self.estimators[k])
        record_columns(estimator, self.given_X, self.data.features)
        return estimator

    def _score(self, i: int, model: Any) -> float:
        """By the user's scorer."""
        assert self.scoring.function is not None
        rows = self.splits[i].held_out
        if rows is None:
            assert self.data.validation is not None
            labels = self.data.classes[self.data.validation[1]]
            return float(self.scoring.function(model, on_host(self.validation[0]), labels))
        weights = {}
        if self.data.weights is not None and self.scoring.weighs:
            rows = rows_that_count(self.data.weights, rows)
            s, unit = self.data.weights[rows], self.data.unit
            weights = {"sample_weight": s if unit == 1 else s.astype(np.float64) * unit}
        return float(self.scoring.function(model, _safe_indexing(self.host_X, rows), self.y[rows], **weights))

    @cached_property
    def host_X(self) -> Any:
        """X for scorers, which know no GPU: a data frame, an array or a tensor."""
        return on_host(self.given_X)

    def has_any(self) -> bool:
        """Whether any candidate was measured on every split, to its end."""
        return not bool(np.isnan(self.eligible.mean(axis=0)).all())

    @property
    def eligible(self) -> Array:
        """(splits, candidates): the scores of those that can be chosen, NaN elsewhere."""
        scores: Array = np.where(self.trials.status == "halved", np.nan, self.trials.score)
        return scores

    def fall_back(self) -> None:
        """To the last whole rung, where the one that was interrupted has measured nothing to its end."""
        if self.last_rung is not None and not self.has_any():
            self.trials, self.models = self.last_rung

    def _worse(self, order: list[int]) -> int:
        """How many of these candidates, from the last one back, scored worse than the best of them."""
        means = self.trials.score.mean(axis=0)[order]
        if np.isnan(means).all():
            return 0
        return len(order) - 1 - int(np.flatnonzero(means >= np.nanmax(means))[-1])

    def _tell(self, some: list[int]) -> None:
        if self.on_candidate is not None:
            for k in some:
                self.on_candidate(self.candidates[k] | self.trials.means(k))

    def in_words(self, i: int, some: list[int]) -> str:
        """What is running, and the best so far."""
        one = ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                        for name, value in self.candidates[some[0]].items())  # fmt: skip
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        text = f"{one}{more}, split {i + 1} of {len(self.splits)}"
        means = self.trials.score.mean(axis=0)
        if not np.isnan(means).all():
            best = np.nanmax(means)
            text += (
                f"; best {self.scoring.name} so far {-best if self.scoring.name in ('loss', 'log_loss') else best:.4g}"
            )
        return text


@dataclass
class RunProgress:
    """Progress within the training of some candidates on split i, as a part of the whole."""

    run: SweepRun
    i: int
    some: list[int]

    def update(self, passes: float, total: float, record: Record | None) -> None:
        """See trainer.Progress."""
        if self.run.tally is not None:
            share = min(passes / total, 1.0) if self.run.estimators[0].solver == "sgd" else 0.0
            done = self.run.done + share * len(self.some)
            self.run.tally.update(done, f"{self.run.in_words(self.i, self.some)}; pass {passes:.0f}")

    def close(self) -> None:
        """See trainer.Progress: the tally goes on."""
