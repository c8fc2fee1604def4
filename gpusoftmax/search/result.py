"""What a sweep found: a table of configurations, the best of them, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.search.words import report, status_in_words

MEASURES = ("score", "accuracy", "loss", "objective", "passes")
DONE = ("converged", "precision", "finished")  # how a training that was not cut off ends


@dataclass(eq=False)
class Trials:
    """What was measured of each candidate (columns) in each split (rows); NaN where it was not.

    Attributes
    ----------
    score, accuracy, loss : ndarray of float64, shape (splits, candidates)
        On the rows held out; the loss is the mean without penalty.
    objective : ndarray of float64, shape (splits, candidates)
        The training objective, with penalty.
    passes : ndarray of float64, shape (splits, candidates)
        Reads of the training rows.
    status : ndarray of str, shape (splits, candidates)
        "" before it is tried; why its training ended; "diverged"; "halved" if others were better early on.
    """

    score: Array
    accuracy: Array
    loss: Array
    objective: Array
    passes: Array
    status: Array

    @classmethod
    def empty(cls, splits: int, candidates: int) -> Trials:
        """Nothing is measured yet."""
        measures = {name: np.full((splits, candidates), np.nan) for name in MEASURES}
        return cls(**measures, status=np.full((splits, candidates), "", dtype="U16"))

    def means(self, k: int) -> dict[str, Any]:
        """A candidate's means over the splits, and its status in words."""
        means = {name: float(getattr(self, name)[:, k].mean()) for name in MEASURES}
        return {**means, "status": status_in_words(self.status[:, k])}


@dataclass(eq=False, repr=False)
class SweepResult:
    """All configurations that a sweep tried, and the best.

    Attributes
    ----------
    candidates : list of dict
        What was set for each, in the grid's order.
    trials : Trials
        What was measured, split by split.
    scoring : str
        What `best_score_` and the scores are; larger is better, so that losses are negative.
    rule : {"best", "1se"}
    best_index_ : int
    best_params_ : dict
    best_score_ : float
        The mean over the splits.
    best_estimator_ : estimator
        Fitted to all rows of X with the best configuration; None with refit=False. Where Ctrl-C came before or after
        the passes of that fit: the model from `models_`, if all rows were its training rows, else None.
    ties_ : list of int
        Other candidates whose mean score is as good as the best one's, to rounding. Of equals, the one with the
        strongest penalty is taken.
    edges_ : dict
        {"C": "largest"}: the best value is at that end of the grid, so that a better one may lie beyond it.
    estimators_ : list of estimator
        One a candidate, not fitted.
    models_ : dict of estimator
        {(split, candidate): fitted}, for predictions alone; empty with keep_models=False.
    seconds_ : float
        All of it.
    interrupted_ : bool
        Whether Ctrl-C ended it; candidates that were not done have NaN for scores.
    classes_ : ndarray of shape (c,)
    n_splits_ : int
    out_of_fold_ : pair of ndarray, or None
        `out_of_fold_predictions_` and `out_of_fold_probabilities_`.
    why_no_out_of_fold : str
        What to do to have them.
    why_no_last_fit : str
        Empty if there was none to make, or it was made.
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
        """For pickle and skops, which knows no pairs as keys: the models as a list."""
        return {**vars(self), "models_": list(self.models_.items())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From that, or from the dictionary that 0.1.0 wrote."""
        vars(self).update(state, models_=dict(state["models_"]))

    @property
    def best_params_(self) -> dict[str, Any]:
        """The chosen candidate."""
        return self.candidates[self.best_index_]

    @property
    def best_score_(self) -> float:
        """Its mean score."""
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
        """Candidates from the largest mean score to the smallest, the chosen one first of equals, halved ones last."""
        halved = (self.trials.status == "halved").any(axis=0)
        scores = np.where(np.isnan(self.mean_scores_), -np.inf, self.mean_scores_)
        equals = np.arange(len(scores)) != self.best_index_
        return np.lexsort([equals, -scores, halved])

    @property
    def standard_errors_(self) -> Array:
        """(candidates,): of the means, from the scatter between splits; NaN for one split."""
        return standard_errors(self.trials.score)

    @property
    def out_of_fold_predictions_(self) -> Array:
        """(n,): of each row, the label that the best candidate's model predicts that has not seen it."""
        return self._out_of_fold()[0]

    @property
    def out_of_fold_probabilities_(self) -> Array:
        """(n, c): of each row, the probabilities of the best candidate's model that has not seen it."""
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
        """One row a candidate, in the grid's order: a pandas DataFrame, or without pandas a structured array.

        Columns: the candidate's parameters; rank (1 is the best); score and its standard error; accuracy and loss on
        the rows held out; objective (training, with penalty) and passes; status; and the score of each split.
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
            "status": [status_in_words(column) for column in trials.status.T],
        }
        if self.n_splits_ > 1:
            columns |= {f"score_{i}": row for i, row in enumerate(trials.score)}
        return columns

    @property
    def rows(self) -> list[dict[str, Any]]:
        """For JSON: each candidate's parameters, with its means over the splits; None where nothing was measured."""

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
            Where to.
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
            Where to.

        Raises
        ------
        ImportError
            One of them is not installed.
        """
        try:
            import pandas
            import pyarrow  # noqa: F401 - what pandas writes Parquet with
        except ImportError as error:
            raise ImportError(f"Parquet needs pandas and pyarrow ({error}); install them, or use to_csv") from error
        pandas.DataFrame(self._columns()).to_parquet(path)

    def plot(self, ax: Any = None) -> Any:
        """Scores over the parameter that varies, with standard errors, or a heat map over two; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to; a new figure's otherwise.

        Returns
        -------
        matplotlib Axes
        """
        from gpusoftmax.search.plots import plot

        return plot(self, ax)

    @property
    def report(self) -> str:
        """The outcome in words."""
        return report(self)

    def __repr__(self) -> str:
        best = ", ".join(f"{name}={value!r}" for name, value in self.best_params_.items())
        return (
            f"<SweepResult: {len(self.candidates)} candidates x {self.n_splits_} splits, best {best}, "
            f"{self.scoring} {self.best_score_:.4g}>"
        )


def standard_errors(scores: Array) -> Array:
    """Of the means over splits (rows); NaN for one."""
    splits = len(scores)
    if splits < 2:
        return np.full(scores.shape[1], np.nan)
    error: Array = scores.std(axis=0, ddof=1) / np.sqrt(splits)
    return error


def choose(scores: Array, strengths: Array, rates: Array, rule: str) -> tuple[int, list[int]]:
    """The best candidate, and those that are as good.

    Parameters
    ----------
    scores : ndarray of shape (splits, candidates)
        NaN: not measured.
    strengths, rates : ndarray of shape (candidates,)
        Of penalties and learning rates: of equals the strongest penalty is taken, then the best, then the smallest
        rate.
    rule : {"best", "1se"}
        "1se": the strongest penalty whose score is at most a standard error below the best one's (Breiman et al., 1984;
        glmnet's lambda.1se).

    Raises
    ------
    ValueError
        Nothing was measured in all splits.
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
    """Of each number that varies: whether the best one is the smallest or the largest that was tried."""
    found = {}
    for name, value in candidates[best].items():
        if isinstance(value, bool | str) or not isinstance(value, int | float):
            continue
        tried = [one[name] for one in candidates if isinstance(one.get(name), int | float)]
        if min(tried) < max(tried) and value in (min(tried), max(tried)):
            found[name] = "smallest" if value == min(tried) else "largest"
    return found
