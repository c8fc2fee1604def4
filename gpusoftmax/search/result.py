"""The result of a sweep: a table of configurations, the best of them, and how certain the choice is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.search.words import describe_status, report

MEASURES = ("score", "accuracy", "loss", "objective", "passes")
DONE = ("converged", "precision", "finished")  # how training can end if nothing cut it short


@dataclass(eq=False)
class Trials:
    """Measurements of each candidate (columns) on each split (rows); NaN if not measured.

    Attributes
    ----------
    score, accuracy, loss : ndarray of float64, shape (splits, candidates)
        Measured on the held-out rows; the loss is the mean without penalty.
    objective : ndarray of float64, shape (splits, candidates)
        The training objective, with penalty.
    passes : ndarray of float64, shape (splits, candidates)
        Passes over the training rows.
    status : ndarray of str, shape (splits, candidates)
        "" if it was not tried; why training ended; "diverged"; "halved" if halving dropped it.
    """

    score: Array
    accuracy: Array
    loss: Array
    objective: Array
    passes: Array
    status: Array

    @classmethod
    def empty(cls, splits: int, candidates: int) -> Trials:
        """Trials in which nothing is measured yet."""
        measures = {name: np.full((splits, candidates), np.nan) for name in MEASURES}
        return cls(**measures, status=np.full((splits, candidates), "", dtype="U16"))

    def with_room(self, candidates: int) -> Trials:
        """These trials, and room for more candidates, which are not measured yet."""
        more = vars(Trials.empty(len(self.score), candidates))
        return Trials(**{name: np.concatenate([value, more[name]], axis=1) for name, value in vars(self).items()})

    def select(self, candidates: list[int]) -> Trials:
        """The trials of some candidates, in this order."""
        return Trials(**{name: value[:, candidates] for name, value in vars(self).items()})

    def means(self, k: int) -> dict[str, Any]:
        """A candidate's means over the splits, and its status as text."""
        means = {name: float(getattr(self, name)[:, k].mean()) for name in MEASURES}
        return {**means, "status": describe_status(self.status[:, k])}


@dataclass(eq=False, repr=False)
class SweepResult:
    """All configurations that a sweep tried, and the best of them.

    Attributes
    ----------
    candidates : list of dict
        The parameters of each configuration, in the grid's order. With "auto", those that were tried, each path from
        strong penalties to weak ones.
    trials : Trials
        The measurements on each split.
    scoring : str
        The name of the score; larger is better, so losses are negated.
    rule : {"best", "1se"}
    best_index_ : int
    best_params_ : dict
    best_score_ : float
        The best configuration's mean score over the splits.
    best_estimator_ : estimator
        Fitted to all rows of X with the best configuration; None with refit=False. If Ctrl-C prevented that fit: the
        model from `models_` if it was trained on all rows, otherwise None.
    ties_ : list of int
        Other candidates whose mean score equals the best one's, up to rounding. Among equal candidates, the one with
        the strongest penalty is chosen.
    edges_ : dict
        {"C": "largest"}: the best value is at that end of the grid, so a better one may lie beyond it.
    estimators_ : list of estimator
        An estimator for each candidate, not fitted.
    models_ : dict of estimator
        {(split, candidate): fitted estimator}, for predictions only; empty with keep_models=False.
    seconds_ : float
        The total time.
    interrupted_ : bool
        Whether Ctrl-C ended the sweep; candidates that were not done have NaN as scores.
    classes_ : ndarray of shape (c,)
    n_splits_ : int
    out_of_fold_ : pair of ndarray, or None
        `out_of_fold_predictions_` and `out_of_fold_probabilities_`.
    why_no_out_of_fold : str
        Why there are no out-of-fold predictions, or how to get them.
    why_no_last_fit : str
        Why the fit to all rows is missing; empty if it was made, or not asked for.
    """

    candidates: list[dict[str, Any]]
    trials: Trials
    scoring: str
    rule: str
    best_index_: int
    ties_: list[int]
    edges_: dict[str, str]
    classes_: Array
    estimators_: list[Any]
    seconds_: float = 0.0
    interrupted_: bool = False
    best_estimator_: Any = None
    models_: dict[tuple[int, int], Any] = field(default_factory=dict)
    out_of_fold_: tuple[Array, Array | None] | None = None
    why_no_out_of_fold: str = "pass out_of_fold=True to sweep"
    why_no_last_fit: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the models as a list: skops cannot store pairs as keys."""
        return {**vars(self), "models_": list(self.models_.items())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore that state, or one of 0.1.0, whose models are a dictionary."""
        vars(self).update(state, models_=dict(state["models_"]))

    @property
    def best_params_(self) -> dict[str, Any]:
        """The parameters of the chosen candidate."""
        return self.candidates[self.best_index_]

    @property
    def best_score_(self) -> float:
        """The mean score of the chosen candidate."""
        return float(self.mean_scores_[self.best_index_])

    @property
    def n_splits_(self) -> int:
        """How many times each candidate was trained."""
        return len(self.trials.score)

    @property
    def mean_scores_(self) -> Array:
        """(candidates,): means over the splits."""
        return self.trials.score.mean(axis=0)

    @property
    def order_(self) -> Array:
        """Candidates by falling mean score; the chosen one before its ties, those that halving dropped last."""
        halved = (self.trials.status == "halved").any(axis=0)
        scores = np.where(np.isnan(self.mean_scores_), -np.inf, self.mean_scores_)
        equals = np.arange(len(scores)) != self.best_index_
        return np.lexsort([equals, -scores, halved])

    @property
    def standard_errors_(self) -> Array:
        """(candidates,): standard errors of the means, from the scatter between splits; NaN for one split."""
        return standard_errors(self.trials.score)

    @property
    def out_of_fold_predictions_(self) -> Array:
        """(n,): labels, predicted for each row by the best candidate's model that was not trained on it."""
        return self._out_of_fold()[0]

    @property
    def out_of_fold_probabilities_(self) -> Array:
        """(n, c): probabilities, predicted for each row by the best candidate's model that was not trained on it."""
        probabilities = self._out_of_fold()[1]
        if probabilities is None:
            raise AttributeError("an SVM has no probabilities; out_of_fold_predictions_ are there")
        return probabilities

    def _out_of_fold(self) -> tuple[Array, Array | None]:
        if self.out_of_fold_ is None:
            raise AttributeError(f"there are no out-of-fold predictions: {self.why_no_out_of_fold}")
        return self.out_of_fold_

    @property
    def table(self) -> Any:
        """A pandas DataFrame, or without pandas a structured array, with a row for each candidate in the grid's order.

        Columns: the candidate's parameters; rank (1 is the best); score and its standard error; accuracy and loss on
        the held-out rows; objective (training, with penalty) and passes; status; and the score on each split.
        """
        columns = self._columns()
        try:
            import pandas
        except ImportError:
            arrays = [np.asarray(values) for values in columns.values()]
            kinds = [(name, array.dtype) for name, array in zip(columns, arrays, strict=True)]
            table = np.empty(len(self.candidates), kinds)
            for name, array in zip(columns, arrays, strict=True):
                table[name] = array
            return table
        return pandas.DataFrame(columns)

    def _columns(self) -> dict[str, Any]:
        trials, scores = self.trials, self.mean_scores_
        names = list(dict.fromkeys(name for candidate in self.candidates for name in candidate))
        columns: dict[str, Any] = {}
        for name in names:
            values = [candidate.get(name) for candidate in self.candidates]
            plain = all(isinstance(value, int | float) for value in values)
            columns[name] = np.array(values, float) if plain else [str(value) for value in values]
        order = self.order_
        ranks = np.empty(len(order), int)
        ranks[order] = np.arange(1, len(order) + 1)
        columns |= {
            "rank": ranks,
            "score": scores,
            "standard_error": self.standard_errors_,
            "accuracy": trials.accuracy.mean(axis=0),
            "loss": trials.loss.mean(axis=0),
            "objective": trials.objective.mean(axis=0),
            "passes": trials.passes.mean(axis=0),
            "status": [describe_status(column) for column in trials.status.T],
        }
        if self.n_splits_ > 1:
            columns |= {f"score_{i}": row for i, row in enumerate(trials.score)}
        return columns

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each candidate's parameters and means over the splits, for JSON; None where nothing was measured."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [
            one | {name: plain(value) for name, value in self.trials.means(k).items()}
            for k, one in enumerate(self.candidates)
        ]

    def to_csv(self, path: str | Path) -> None:
        """Write the table as comma-separated values.

        Parameters
        ----------
        path : str or os.PathLike
            The file to write.
        """
        import csv

        columns = self._columns()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as a Parquet file; needs pandas and pyarrow.

        Parameters
        ----------
        path : str or os.PathLike
            The file to write.

        Raises
        ------
        ImportError
            One of them is not installed.
        """
        try:
            import pandas
            import pyarrow  # noqa: F401 - pandas needs it to write Parquet
        except ImportError as error:
            raise ImportError(f"Parquet needs pandas and pyarrow ({error}); install them, or use to_csv") from error
        pandas.DataFrame(self._columns()).to_parquet(path)

    def plot(self, ax: Any = None) -> Any:
        """Plot scores over the parameter that varies, with standard errors, or a heat map over two; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on. Default: the axes of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        from gpusoftmax.plots.sweeps import SweepDisplay  # imported here, since most results are not plotted

        return SweepDisplay(self).plot(ax).ax_

    @property
    def report(self) -> str:
        """The result as text, to print."""
        return report(self)

    def __repr__(self) -> str:
        best = ", ".join(f"{name}={value!r}" for name, value in self.best_params_.items())
        return (
            f"<SweepResult: {len(self.candidates)} candidates x {self.n_splits_} splits, best {best}, "
            f"{self.scoring} {self.best_score_:.4g}>"
        )


def standard_errors(scores: Array) -> Array:
    """Standard errors of the means over the splits (rows); NaN for one split."""
    splits = len(scores)
    if splits < 2:
        return np.full(scores.shape[1], np.nan)
    error: Array = scores.std(axis=0, ddof=1) / np.sqrt(splits)
    return error


def choose(scores: Array, strengths: Array, rates: Array, rule: str) -> tuple[int, list[int]]:
    """Choose the best candidate; returns its index, and those of the candidates with an equal score.

    Parameters
    ----------
    scores : ndarray of shape (splits, candidates)
        NaN if not measured.
    strengths, rates : ndarray of shape (candidates,)
        The penalties and learning rates. Among candidates that are good enough by the rule, the strongest penalty is
        chosen, then the best score, then the smallest rate.
    rule : {"best", "1se"}
        "1se": a score at most one standard error below the best is good enough (Breiman et al., 1984; glmnet's
        lambda.1se).

    Raises
    ------
    ValueError
        No candidate was measured on every split.
    """
    means = scores.mean(axis=0)
    if np.isnan(means).all():
        raise ValueError("no candidate could be measured in every split")
    top = float(np.nanmax(means))
    enough = top - (float(standard_errors(scores)[int(np.nanargmax(means))]) if rule == "1se" else 0.0)
    equal = 4 * np.finfo(np.float64).eps * max(abs(top), 1.0)
    good = np.flatnonzero(means >= enough - equal)
    short = np.where(means[good] >= top - equal, 0.0, top - means[good])
    order = np.lexsort([rates[good], short, -strengths[good]])
    best = int(good[order[0]])
    ties = np.flatnonzero(abs(means - means[best]) <= equal)
    return best, [int(k) for k in ties if k != best]


def edges(candidates: list[dict[str, Any]], best: int) -> dict[str, str]:
    """For each parameter whose best value is the smallest or the largest that was tried: which of the two."""
    found = {}
    for name, value in candidates[best].items():
        if isinstance(value, bool | str) or not isinstance(value, int | float):
            continue
        tried = [one[name] for one in candidates if isinstance(one.get(name), int | float)]
        if min(tried) < max(tried) and value in (min(tried), max(tried)):
            found[name] = "smallest" if value == min(tried) else "largest"
    return found
