"""Runs a sweep: trains every candidate on every split, and measures it on the held-out rows."""

from __future__ import annotations

import copy
import itertools
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
from gpusoftmax.checkpoints.checkpoint import Checkpoint
from gpusoftmax.estimators.fitting import set_history, set_weights
from gpusoftmax.estimators.partial_fit import Moments, Stream
from gpusoftmax.estimators.prediction import on_host, record_columns
from gpusoftmax.estimators.problem import Data, Problem, held_out, l2_of, objective_for
from gpusoftmax.estimators.solver_choice import sgd_settings
from gpusoftmax.exceptions import DivergenceError
from gpusoftmax.features.read import rows_with_weight
from gpusoftmax.objective.objective import Objective
from gpusoftmax.progress import Tally
from gpusoftmax.rows.file_rows import Rows
from gpusoftmax.search import auto_grid, exact, minibatch
from gpusoftmax.search.grid import penalty_to_find
from gpusoftmax.search.result import DONE, MEASURES, Trials
from gpusoftmax.search.scoring import Scoring
from gpusoftmax.search.side_by_side import side_by_side
from gpusoftmax.search.splits import Split
from gpusoftmax.solvers.base import StopReason
from gpusoftmax.solvers.preconditioners.gram import GramSample
from gpusoftmax.trainer import Record, TrainResult

EVERY_SPLIT = -1  # in place of a split's number


@dataclass(frozen=True)
class _Problem:
    """What is trained at the same time: the model of one split, or those of several splits side by side.

    Attributes
    ----------
    splits : list of int
    objective, held_out : Objective
        Over the training rows and over the held-out rows, with a model for each of the splits.
    totals : list of float
        S, the sum of the weights of the training rows, for each of the splits.
    sampled : Objective
        That of one model, over the rows from which preconditioners are made.
    """

    splits: list[int]
    objective: Objective
    held_out: Objective
    totals: list[float]
    sampled: Objective


@dataclass(frozen=True)
class _Paths:
    """The paths of exact solutions over all splits.

    Attributes
    ----------
    problems : list of _Problem
    paths : list of Path
        That of each problem.
    sample : GramSample
        The sample that all share.
    width : int
        How many penalties to solve at the same time.
    """

    problems: list[_Problem]
    paths: list[exact.Path]
    sample: GramSample
    width: int


@dataclass
class SweepRun:
    """A sweep under way: what to do, and the results so far.

    Attributes
    ----------
    given_X, y, validation
        What scorers get: X as the user passed it, if rows can be taken from it, see `by_rows`; the labels; and the
        validation data (X, y).
    data : Data
    splits : list of Split
    candidates : list of dict
    estimators : list
        An estimator for each candidate. `along_new_paths` adds candidates and estimators.
    scoring : Scoring
    keep_models : bool
    seed : int
    tally : Tally or None
    on_candidate : callable or None
        Called after each candidate with its parameters and its means over the splits.
    recipe : Recipe or None
        The recipe that SGD follows.
    checkpoint : Checkpoint or None
        Keeps the trainings; those that it has are not made again, but measured.
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
    checkpoint: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.trials = Trials.empty(len(self.splits), len(self.candidates))
        self.models: dict[tuple[int, int], Any] = {}
        self.samples: dict[int, GramSample] = {}
        self.moments: dict[tuple[int, str], Moments | None] = {}  # by split and class weight: each costs some passes
        self.last_rung: tuple[Trials, dict[tuple[int, int], Any]] | None = None
        self.done = 0

    def along_paths(self, patience: int | None) -> None:
        """Find the exact solutions from strong penalties to weak ones, on a path for each split and class weight."""
        for group in self._groups():
            order = [group[i] for i in np.argsort(-self.strengths()[group], kind="stable")]
            paths = self._paths(self.estimators[order[0]], len(order))
            for start in range(0, len(order), paths.width):
                self._solve(order[start : start + paths.width], paths)
                if patience is not None and self._worse(order[: start + paths.width]) >= patience:
                    self.done += len(self.splits) * len(order[start + paths.width :])
                    break

    def along_new_paths(self, open_candidates: list[Any], estimators: list[Any], patience: int, rule: str) -> None:
        """Find the penalties of candidates that have none, and the exact solutions for these; see `auto_grid`."""
        for candidate, estimator in zip(open_candidates, estimators, strict=True):
            start = len(self.candidates)
            try:
                self._find_penalties(candidate, estimator, patience, rule)
            finally:
                self._sort(start)

    def _find_penalties(self, candidate: dict[str, Any], estimator: Any, patience: int, rule: str) -> None:
        """Try penalties from strong to weak, and then those between."""
        start, steps, name = len(self.candidates), list[int](), str(penalty_to_find(candidate))
        paths = self._paths(estimator, auto_grid.EXPECTED_VALUES)
        constant = auto_grid.at_constant(paths.problems[0].objective)
        first = auto_grid.first_step(name, constant, paths.problems[0].totals[0], len(self.data.classes))

        def solve(more: list[int]) -> None:
            steps.extend(more)
            self._solve(
                self._add([candidate | {name: auto_grid.value_at(name, step)} for step in more], estimator), paths
            )

        while more := auto_grid.weaker(self._tried(start, steps), first, patience, constant.loss):
            solve(more[: paths.width])
        while more := auto_grid.between(self._tried(start, steps), rule):
            solve(more)

    def _add(self, candidates: list[dict[str, Any]], estimator: Any) -> list[int]:
        """Add candidates, whose estimators have all other parameters of this one; returns their numbers."""
        first, trials = len(self.candidates), self.trials.with_room(len(candidates))
        estimators = [clone(estimator).set_params(**candidate) for candidate in candidates]
        # in one statement, which Ctrl-C does not cut in two
        self.trials, self.candidates, self.estimators = (
            trials, [*self.candidates, *candidates], [*self.estimators, *estimators]
        )  # fmt: skip
        return list(range(first, first + len(candidates)))

    def _tried(self, start: int, steps: list[int]) -> auto_grid.Tried:
        """What is known of the candidates from number `start` on, which are at these steps."""
        trials, validation, rows = self.trials, self.data.validation, self.splits[0].held_out
        n_held_out = len(rows) if rows is not None else 0 if validation is None else validation[0].n
        scores, losses = trials.score[:, start:], trials.loss[:, start:]
        return auto_grid.Tried(
            np.array(steps), scores, losses, auto_grid.errors_of(scores, n_held_out, self.scoring.name == "accuracy"),
            auto_grid.errors_of(losses, n_held_out, False), (trials.status[:, start:] == "finished").any(axis=0),
        )  # fmt: skip

    def _sort(self, start: int) -> None:
        """Sort the candidates from number `start` on from strong penalties to weak ones."""
        order = [*range(start), *(start + np.argsort(-self.strengths()[start:], kind="stable")).tolist()]
        models = {(i, to): self.models[i, k] for to, k in enumerate(order) for i in range(len(self.splits))
                  if (i, k) in self.models}  # fmt: skip
        samples = {to: self.samples[k] for to, k in enumerate(order) if k in self.samples}
        trials, candidates, estimators = (
            self.trials.select(order), [self.candidates[k] for k in order], [self.estimators[k] for k in order]
        )  # fmt: skip
        self.trials, self.candidates, self.estimators, self.models, self.samples = (
            trials, candidates, estimators, models, samples
        )  # fmt: skip

    def _paths(self, estimator: Any, penalties: int) -> _Paths:
        """Paths of an estimator's models; `penalties` is how many penalties to expect."""
        problems = self._problems(estimator)
        objective, features, c = problems[0].objective, problems[0].objective.features, len(self.data.classes)
        sample = GramSample(problems[0].sampled, self.seed, penalties, share_gram=True)
        paths = [
            exact.Path(one.objective, sample, int(estimator.max_iter), float(estimator.tol), self.seed, self.checkpoint)
            for one in problems
        ]
        itemsize = np.dtype(features.dtype).itemsize
        if len(problems) < len(self.splits):
            budget = features.shared_weight_bytes
            width = exact.shared_width(len(self.splits), c, features.n_stored, itemsize, budget)
        else:
            weighted = 0 if objective.weights is None else features.n_stored
            width = exact.width(self.data.backend, features.d, c, weighted, itemsize)
        log.info("sweep: %d penalties, %d at the same time, on %d splits", penalties, width, len(self.splits))
        return _Paths(problems, paths, sample, width)

    def _solve(self, candidates: list[int], paths: _Paths) -> None:
        """Find the exact solutions of candidates, as many at the same time as fit, and measure them."""
        self.samples |= dict.fromkeys(candidates, paths.sample)
        for start in range(0, len(candidates), paths.width):
            chunk = candidates[start : start + paths.width]
            for problem, path in zip(paths.problems, paths.paths, strict=True):
                l2 = self._l2(chunk, problem)
                try:
                    result = path.solve(l2, RunProgress(self, problem.splits, chunk))
                except DivergenceError:  # the penalty is too strong for the type of computation
                    self._forget(problem.splits, chunk, "diverged")
                    self.done += l2.size
                else:
                    self._measure(chunk, problem, l2, result)
            self._report(chunk)

    def by_sgd(self, halving: int | None) -> None:
        """Train configurations together on the same minibatches, in several rungs with halving."""
        left, passes = list(range(len(self.candidates))), int(self.estimators[0].max_iter)
        rungs = 1 if halving is None else 1 + int(math.log(len(left), halving) + 1e-9)
        for rung in reversed(range(rungs)):
            budget = max(1, math.ceil(passes / (halving or 1) ** rung))
            self.last_rung = copy.deepcopy(self.trials), dict(self.models)
            self._forget(slice(None), left, "")  # scores from different numbers of epochs cannot be compared
            for group in self._groups():
                self._train([k for k in group if k in left], budget, last=rung == 0)
            if rung and halving is not None:
                means = self.trials.score.mean(axis=0)[left]
                order = np.argsort(-means, kind="stable")  # NaN comes last
                kept = sorted(left[i] for i in order[: max(1, len(left) // halving)])
                dropped = [k for k in left if k not in kept]
                self.trials.status[:, dropped] = "halved"
                self.done += len(self.splits) * len(dropped)
                self._report(dropped)
                left = kept

    def _train(self, group: list[int], passes: int, last: bool) -> None:
        """Train a group for `passes` epochs from zero, and record its scores; `last` is False before the last rung."""
        has_weights = self.data.weights is not None or any(self.estimators[k].class_weight is not None for k in group)
        weighted = len(self.data.labels) if has_weights else 0
        width = minibatch.width(self.data.features.d, len(self.data.classes), weighted)
        log.info("sweep: %d configurations for %d epochs of SGD, up to %d together", len(group), passes, width)
        for start in range(0, len(group), width):
            chunk = group[start : start + width]
            estimators = [clone(self.estimators[k]).set_params(max_iter=passes) for k in chunk]
            for i in range(len(self.splits)):
                problem = self._split_problem(i, self.estimators[chunk[0]])
                l2, before = self._l2(chunk, problem), self.done
                try:
                    result = minibatch.train_group(
                        estimators, problem.objective, l2[:, 0], RunProgress(self, [i], chunk), self.recipe,
                        self.checkpoint,
                    )  # fmt: skip
                except DivergenceError:
                    self._forget([i], chunk, "diverged")
                else:
                    self._measure(chunk, problem, l2, result)
                self.done = before + len(chunk) * last
            if last:
                self._report(chunk)

    def _groups(self) -> list[list[int]]:
        """Groups of candidates with equal row weights and coordinates.

        If SGD finds its own learning rate, the coordinates depend on l2, by which it scales the features.
        """

        def key(k: int) -> tuple[Any, ...]:
            one = self.estimators[k]
            automatic = one.solver == "sgd" and sgd_settings(one).learning_rate == "auto"
            return repr(one.class_weight), automatic, (one.C, one.l2) if automatic else None

        groups: dict[Any, list[int]] = {}
        for k in range(len(self.candidates)):
            groups.setdefault(key(k), []).append(k)
        return list(groups.values())

    def _split_problem(self, i: int, estimator: Any) -> _Problem:
        """The problem that an estimator solves on split i."""
        split = self.splits[i]
        key = i, repr(estimator.class_weight)
        objective, total, self.moments[key] = objective_for(estimator, self.data, split.train, self.moments.get(key))
        return _Problem([i], objective, held_out(objective, self.data, split.held_out), [total], objective)

    def _problems(self, estimator: Any) -> list[_Problem]:
        """The problems that an estimator solves: one for each split, or one for all if they share passes over X."""
        features, splits = self.data.features, self.splits
        weight_bytes = 2 * len(splits) * features.n_stored * np.dtype(features.dtype).itemsize  # also of held-out rows
        shared = weight_bytes <= features.shared_weight_bytes and not any(split.train is None for split in splits)
        if not shared or isinstance(estimator.scaling, str):  # then each split has a scale of its own
            return [self._split_problem(i, estimator) for i in range(len(splits))]
        key = EVERY_SPLIT, repr(estimator.class_weight)
        sampled, _, moments = objective_for(estimator, self.data, None, self.moments.get(key))
        self.moments[key] = moments
        found = [objective_for(estimator, self.data, split.train, moments) for split in splits]
        trained = [objective for objective, _, _ in found]
        left_out = [held_out(one, self.data, split.held_out) for one, split in zip(trained, splits, strict=True)]
        totals = [total for _, total, _ in found]
        return [_Problem(list(range(len(splits))), side_by_side(trained), side_by_side(left_out), totals, sampled)]

    def _l2(self, candidates: Iterable[int], problem: _Problem) -> Array:
        """Penalties (candidates, splits) for the training rows of the problem's splits."""
        estimators, c = [self.estimators[k] for k in candidates], len(self.data.classes)
        return np.array([[l2_of(one, total, c) for total in problem.totals] for one in estimators])

    def strengths(self) -> Array:
        """(candidates,): the penalties l2 for all rows of X."""
        data = self.data
        total = float(len(data.labels) if data.weights is None else data.weights.sum(dtype=np.float64) * data.unit)
        return np.array([l2_of(one, total, len(data.classes)) for one in self.estimators])

    def _forget(self, splits: Any, candidates: list[int], status: str) -> None:
        """Erase the measurements of candidates on some splits."""
        trials, place = self.trials, splits if isinstance(splits, slice) else np.array(splits)[:, None]
        for name in MEASURES:  # the score first: after Ctrl-C within this loop, it alone could still be chosen
            getattr(trials, name)[place, candidates] = np.nan
        trials.status[place, candidates] = status

    def _measure(self, candidates: list[int], problem: _Problem, l2: Array, result: TrainResult) -> None:
        """Measure trained models, which are those of the first candidate on all splits of the problem, and so on."""
        interrupted = result.reason == StopReason.INTERRUPTED
        if interrupted and self.estimators[candidates[0]].solver == "lbfgs":  # it has not reached its optimum
            raise KeyboardInterrupt
        strengths = l2.reshape(-1)
        held_out = problem.held_out.for_penalties(strengths)
        losses, accuracies = held_out.backend.fetch(*held_out.losses(result.W, result.b))
        # there is no history if Ctrl-C came within the first pass
        values = np.atleast_1d(result.history[-1].objective) if result.history else np.full(len(strengths), np.nan)
        for place, (k, i) in enumerate(itertools.product(candidates, problem.splits)):
            if result.reasons[place] not in (*DONE, StopReason.INTERRUPTED):
                self._forget([i], [k], result.reasons[place])
                continue
            if not np.isfinite(losses[place]):
                problem.held_out.features.check_finite("validation[0]" if self.splits[i].held_out is None else "X")
            self._record(i, k, problem, float(strengths[place]), result.for_model(place), (
                values[place], losses[place], accuracies[place],
            ))  # fmt: skip
        self.done += len(strengths)
        if interrupted:
            raise KeyboardInterrupt

    def _record(
        self, i: int, k: int, problem: _Problem, l2: float, result: TrainResult, measured: tuple[float, float, float]
    ) -> None:
        """Record candidate k's model of split i, with its objective, and its loss and accuracy on the held-out rows."""
        trials, (value, loss, accuracy) = self.trials, measured
        score = self.scoring.from_measures(loss, accuracy)
        if self.scoring.function is not None or self.keep_models:
            model = self._model(k, problem, problem.totals[problem.splits.index(i)], l2, result)
            if self.scoring.function is not None:
                score = self._score(i, model)
            if self.keep_models:
                self.models[i, k] = model
        # written together, so that Ctrl-C leaves either all measurements of a model or none
        trials.status[i, k], trials.passes[i, k] = result.reasons[0], result.passes
        trials.objective[i, k], trials.loss[i, k] = value, loss
        trials.accuracy[i, k], trials.score[i, k] = accuracy, score

    def _model(self, k: int, trained: _Problem, total: float, l2: float, result: TrainResult) -> Any:
        """The candidate's fitted estimator; without a fit report, because its bound would take more passes."""
        model, data = self.estimator(k), self.data
        strengths = data.backend.asarray(np.array([l2]))
        objective = trained.objective
        objective = replace(objective, penalty=objective.penalty.with_strengths(strengths))
        problem = Problem(objective, None, data.classes, data.backend, Stream(data.classes, total))
        set_weights(model, objective, data.classes, result.W, result.b)
        set_history(model, problem, result)
        return model

    def estimator(self, k: int) -> Any:
        """The candidate's estimator, not fitted, but with the number and names of the features."""
        return self.with_columns(self.estimators[k])

    def with_columns(self, estimator: Any) -> Any:
        """A copy of an estimator with the number and names of the features."""
        copied = clone(estimator)
        record_columns(copied, self.given_X, self.data.features)
        return copied

    def _score(self, i: int, model: Any) -> float:
        """The score of a model by the user's scorer."""
        assert self.scoring.function is not None
        rows: Any = self.splits[i].held_out
        if rows is None:
            assert self.data.validation is not None
            labels = self.data.classes[self.data.validation[1]]
            return float(self.scoring.function(model, on_host(self.validation[0]), labels))
        weights: dict[str, Any] = {}
        if self.data.weights is not None and self.scoring.uses_weights:
            rows = rows_with_weight(self.data.weights, rows)
            s, unit = self.data.weights[rows], self.data.unit
            weights = {"sample_weight": s if unit == 1 else s.astype(np.float64) * unit}
        X = self.host_X
        held_out_X = X.select(rows) if isinstance(X, Rows) else _safe_indexing(X, rows)
        return float(self.scoring.function(model, held_out_X, self.y[rows], **weights))

    @cached_property
    def host_X(self) -> Any:
        """X for scorers, which work on the host: a data frame, an array or a tensor."""
        return on_host(self.given_X)

    def has_any(self) -> bool:
        """Whether any candidate was trained to the end and measured on every split."""
        return not bool(np.isnan(self.eligible.mean(axis=0)).all())

    @property
    def eligible(self) -> Array:
        """(splits, candidates): the scores of candidates that can be chosen, NaN elsewhere."""
        scores: Array = np.where(self.trials.status == "halved", np.nan, self.trials.score)
        return scores

    def fall_back(self) -> None:
        """Go back to the last complete rung, if the interrupted rung has measured no candidate on every split."""
        if self.last_rung is not None and not self.has_any():
            self.trials, self.models = self.last_rung

    def _worse(self, order: list[int]) -> int:
        """How many candidates at the end of `order` scored worse than the best of them."""
        means = self.trials.score.mean(axis=0)[order]
        if np.isnan(means).all():
            return 0
        return len(order) - 1 - int(np.flatnonzero(means >= np.nanmax(means))[-1])

    def _report(self, done: list[int]) -> None:
        """Call on_candidate for candidates that are done."""
        if self.on_candidate is not None:
            for k in done:
                self.on_candidate(self.candidates[k] | self.trials.means(k))

    def progress_text(self, splits: list[int], running: list[int]) -> str:
        """What is running, and the best score so far."""
        first = ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                          for name, value in self.candidates[running[0]].items())  # fmt: skip
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        where = f"split {splits[0] + 1} of {len(self.splits)}" if len(splits) == 1 else f"all {len(splits)} splits"
        text = f"{first}{more}, {where}"
        means = self.trials.score.mean(axis=0)
        if not np.isnan(means).all():
            best = np.nanmax(means)
            text += (
                f"; best {self.scoring.name} so far {-best if self.scoring.name in ('loss', 'log_loss') else best:.4g}"
            )
        return text


@dataclass
class RunProgress:
    """Shows the progress of training some candidates on some splits as part of the whole sweep."""

    run: SweepRun
    splits: list[int]
    candidates: list[int]

    def update(self, passes: float, total: float, record: Record | None) -> None:
        """See trainer.Progress."""
        if self.run.tally is not None:
            fraction = min(passes / total, 1.0) if self.run.estimators[0].solver == "sgd" else 0.0
            done = self.run.done + fraction * len(self.candidates) * len(self.splits)
            self.run.tally.update(done, f"{self.run.progress_text(self.splits, self.candidates)}; pass {passes:.0f}")

    def close(self) -> None:
        """See trainer.Progress; does nothing, because the tally shows the whole sweep."""
