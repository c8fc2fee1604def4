"""Scores by which models are compared; larger is better."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from sklearn import get_config

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown

NEGATIVE_LOSSES = ("log_loss", "neg_log_loss", "loss")


@dataclass(frozen=True)
class Scoring:
    """How models are scored. Scores without a function come from the loss and accuracy that are measured anyway.

    Attributes
    ----------
    name : str
        The name for tables and axes.
    function : callable or None
        (fitted estimator, X, y) -> float, as scikit-learn's scorers.
    """

    name: str
    function: Callable[..., Any] | None = None

    def with_classes(self, classes: Array) -> Self:
        """Pass the labels of all classes to the scorer, if it takes them: the held-out rows may lack some classes.

        scikit-learn's LogisticRegressionCV does the same.
        """
        metric = getattr(
            self.function, "_score_func", None
        )  # a function of (y, predictions), in scikit-learn's scorers
        parameters = {} if metric is None else inspect.signature(metric).parameters
        if "labels" not in parameters:
            return self
        positive = {"pos_label": classes[1]} if "pos_label" in parameters and len(classes) == 2 else {}
        scorer: Any = copy.copy(self.function)
        scorer._kwargs = {"labels": classes, **positive, **scorer._kwargs}
        return replace(self, function=scorer)

    @property
    def uses_weights(self) -> bool:
        """Whether sample_weight is passed on: not if a function does not take it, and not if metadata routing is
        enabled and the scorer does not request it."""
        routing = getattr(self.function, "get_metadata_routing", None)
        if routing is None and self.function is not None:
            taken = inspect.signature(self.function).parameters.values()
            return any(one.name == "sample_weight" or one.kind is one.VAR_KEYWORD for one in taken)
        if routing is None or not get_config()["enable_metadata_routing"]:
            return True
        return routing().score.requests.get("sample_weight") is not False

    def from_measures(self, loss: float, accuracy: float) -> float:
        """The score from the mean loss and the accuracy on the held-out rows."""
        return accuracy if self.name == "accuracy" else -loss


def make_scoring(scoring: Any, softmax: bool) -> Scoring:
    """Interpret the argument `scoring` of `sweep`.

    Raises
    ------
    ValueError, TypeError
        There is no such scorer, it is a metric and not a scorer, or log_loss is asked of a classifier without
        probabilities.
    """
    if scoring is None:
        return Scoring("accuracy")
    if callable(scoring):
        name = getattr(scoring, "__name__", "score")
        if next(iter(inspect.signature(scoring).parameters), None) == "y_true":
            raise ValueError(
                f"scoring={name} is a metric of (y_true, y_pred), not a scorer of (estimator, X, y); pass its name, or "
                f"sklearn.metrics.make_scorer({name})"
            )
        return Scoring(name, scoring)
    if scoring in ("log_loss", "neg_log_loss") and not softmax:
        raise ValueError(
            f"scoring={scoring!r} needs probabilities, which an SVM does not have; use 'accuracy' or 'loss'"
        )
    if scoring in ("accuracy", *NEGATIVE_LOSSES):
        return Scoring(str(scoring))
    if not isinstance(scoring, str):
        raise TypeError(
            f"scoring={shown(scoring)} is a {type(scoring).__name__}; use 'accuracy', 'log_loss', 'loss', the name of "
            "one of scikit-learn's scorers, or a function of (estimator, X, y)"
        )
    from sklearn.metrics import get_scorer  # imported here because it takes a while

    try:
        return Scoring(scoring, get_scorer(scoring))
    except ValueError:
        raise ValueError(
            f"scoring={shown(scoring)} is not known; use 'accuracy', 'log_loss', 'loss', or one of the names that "
            "sklearn.metrics.get_scorer_names() lists"
        ) from None
