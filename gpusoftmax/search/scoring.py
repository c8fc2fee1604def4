"""What models are compared by: larger is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.metrics import get_scorer

NEGATIVE_LOSSES = ("log_loss", "neg_log_loss", "loss")


@dataclass(frozen=True)
class Scoring:
    """How a score is had. Those without a function come from the pass that measures loss and accuracy anyway.

    Attributes
    ----------
    name : str
        For tables and axes.
    function : callable or None
        (fitted estimator, X, y) -> float, as scikit-learn's scorers.
    """

    name: str
    function: Callable[..., Any] | None = None

    def of(self, loss: float, accuracy: float) -> float:
        """From the mean loss and the accuracy on the rows held out."""
        return accuracy if self.name == "accuracy" else -loss


def make_scoring(scoring: Any, softmax: bool) -> Scoring:
    """From sweep's argument.

    Raises
    ------
    ValueError, TypeError
        No such scorer, or log_loss for a classifier without probabilities.
    """
    if callable(scoring):
        return Scoring(getattr(scoring, "__name__", "score"), scoring)
    if scoring in ("log_loss", "neg_log_loss") and not softmax:
        raise ValueError(f"scoring={scoring!r} needs probabilities, which an SVM has not; use 'accuracy' or 'loss'")
    if scoring in ("accuracy", *NEGATIVE_LOSSES):
        return Scoring(str(scoring))
    if not isinstance(scoring, str):
        raise TypeError(
            f"scoring={scoring!r} is a {type(scoring).__name__}; use 'accuracy', 'log_loss', 'loss', the name of one "
            "of scikit-learn's scorers, or a function of (estimator, X, y)"
        )
    return Scoring(scoring, get_scorer(scoring))
