"""How good a classifier is on some rows: how often right, among its first k guesses, class by class; how certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import by_rows, check_features, check_n_features, check_same_length
from gpusoftmax.checks.labels import encode_known_labels
from gpusoftmax.checks.scalars import check_count
from gpusoftmax.estimators.classifiers import Estimator
from gpusoftmax.estimators.prediction import on_host, outputs_for, weights_of

AT_ONCE = 1 << 22  # scores, or features, of the rows that are looked at at a time


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Shares of rows, in [0, 1].

    Attributes
    ----------
    top_1 : float
        Rows whose label has the largest score, the first class of equals: what `score` says.
    top_k : float
        Rows whose label is among the k largest scores.
    k : int
        At most the number of classes, with which every row would count.
    per_class : ndarray of shape (c,)
        Of the rows of each class, those that are right; NaN for a class without rows.
    log_loss : float or None
        The mean of -log p of the label's class, in nats; None for a classifier without probabilities.
    labels, predicted : ndarray of int, shape (n,)
        Each row's class, and the one with the largest score, as positions in classes_.
    """

    top_1: float
    top_k: float
    k: int
    per_class: Array
    log_loss: float | None
    labels: Array
    predicted: Array

    @property
    def mean_per_class(self) -> float:
        """The mean over the classes that have rows: scikit-learn's balanced accuracy."""
        return float(np.nanmean(self.per_class))

    @property
    def confusion(self) -> Array:
        """How many rows of each class (first axis) were taken for which (second), (c, c)."""
        c = len(self.per_class)
        return np.bincount(self.labels * c + self.predicted, minlength=c * c).reshape(c, c)


def places(scores: Array, labels: Array) -> Array:
    """How many classes come before the label's, (n,), in the order of scores (n, c), the first of equals first."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before: Array = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return before


def measure(estimator: Estimator, X: Any, y: Any, k: int = 5) -> Accuracies:
    """Accuracies of a fitted classifier, some rows at a time.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        Fitted.
    X : array-like of shape (n, d)
    y : array-like of shape (n,)
        Labels, all among the estimator's classes.
    k : int
        More than there are classes counts as all of them.

    Returns
    -------
    Accuracies

    Raises
    ------
    ValueError, TypeError
        An unknown label, another length than X, or features that do not fit.
    """
    check_count("k", k)
    classes, coef, _ = weights_of(estimator)
    c, d, order = len(classes), coef.shape[1], np.argsort(classes)  # set by hand, they may be in another order
    X = by_rows(X)
    if len(getattr(X, "shape", ())) != 2:
        check_features(X)
    check_n_features(X, d, owner=type(estimator).__name__)
    labels = order[encode_known_labels(on_host(y), classes[order], "y", " of the model")]
    n = X.shape[0]
    check_same_length("y", labels, n)
    k, step = min(k, c), max(1, AT_ONCE // max(c, d))
    certain = hasattr(estimator, "predict_log_proba")
    before, predicted = np.empty(n, np.int64), np.empty(n, np.int64)
    loss = 0.0
    for first in range(0, n, step):
        part = _safe_indexing(X, slice(first, first + step))
        scores = outputs_for(estimator, part, "scores", names_expected=False)
        rows = slice(first, first + len(scores))
        before[rows] = places(scores, labels[rows])
        predicted[rows] = scores.argmax(axis=1)
        if certain:
            below = scores.astype(np.float64)
            below -= below.max(axis=1, keepdims=True)
            own = np.take_along_axis(below, labels[rows, None], axis=1)[:, 0]
            loss += float((np.log(np.exp(below, out=below).sum(axis=1)) - own).sum())
    right = before == 0
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(labels, right, c) / np.bincount(labels, minlength=c)
    log_loss = loss / n if certain else None
    return Accuracies(float(right.mean()), float((before < k).mean()), k, per_class, log_loss, labels, predicted)
