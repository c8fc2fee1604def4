"""Measures of a classifier on given rows: accuracies, confusions, log loss and calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import by_rows, check_features, check_n_features, check_same_length
from gpusoftmax.checks.labels import encode_known_labels
from gpusoftmax.checks.scalars import check_count
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.estimators.classifiers import Estimator
from gpusoftmax.estimators.prediction import on_host, outputs_for, weights_of
from gpusoftmax.reliability import ReliabilityCurve, reliability_curve
from gpusoftmax.rows.file_rows import Rows

AT_ONCE = 1 << 22  # scores, or features, of the rows that are evaluated at a time


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Accuracies as fractions of rows, in [0, 1], and measures of the probabilities.

    Attributes
    ----------
    top_1 : float
        Fraction of rows whose label has the largest score (of equal scores the first counts), as returned by `score`.
    top_k : float
        Fraction of rows whose label is among the k largest scores.
    k : int
        The k of top_k, at most the number of classes.
    per_class : ndarray of shape (c,)
        Fraction of the rows of each class that are predicted correctly; NaN for a class without rows.
    log_loss : float or None
        The mean of -log p over the rows, in nats, where p is the probability of the label; None for a classifier
        without probabilities.
    brier : float or None
        The Brier score: the mean over the rows of sum_j (p_j - [j is the label])^2, from 0 to 2; None for a classifier
        without probabilities.
    labels, predicted : ndarray of int, shape (n,)
        The class of each row and the predicted class, as positions in classes_.
    confidence : ndarray of float64, shape (n,), or None
        The probability of the predicted class; None for a classifier without probabilities.
    lead : ndarray of float64, shape (n,)
        How far the score of the prediction is above that of the label; 0 where they are the same.
    """

    top_1: float
    top_k: float
    k: int
    per_class: Array
    log_loss: float | None
    brier: float | None
    labels: Array
    predicted: Array
    confidence: Array | None
    lead: Array

    @property
    def mean_per_class(self) -> float:
        """The mean of per_class over the classes that have rows: scikit-learn's balanced accuracy."""
        return float(np.nanmean(self.per_class))

    @property
    def confusion(self) -> Array:
        """The number of rows of each class (first axis) predicted as each class (second axis), (c, c)."""
        c = len(self.per_class)
        return np.bincount(self.labels * c + self.predicted, minlength=c * c).reshape(c, c)

    @cached_property
    def reliability(self) -> ReliabilityCurve | None:
        """Accuracy by confidence; its `error` is the calibration error. None for a classifier without probabilities."""
        if self.confidence is None:
            return None
        return reliability_curve(self.confidence, self.labels == self.predicted)


def places(scores: Array, labels: Array) -> Array:
    """Return how many classes rank above each row's label (n,) by scores (n, c); of equal scores the first wins."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before: Array = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return before


def measure(
    estimator: Estimator, X: Any, y: Any, k: int = 5, on_rows: Callable[[int], Any] | None = None
) -> Accuracies:
    """Measure a fitted classifier on rows with known labels, some of them at a time.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        A fitted classifier.
    X : array-like of shape (n, d)
        The features.
    y : array-like of shape (n,)
        The labels, all among the estimator's classes.
    k : int
        The k of the top-k accuracy; limited to the number of classes.
    on_rows : callable, optional
        Called with the number of rows that are done, after each part of them.

    Returns
    -------
    Accuracies

    Raises
    ------
    ValueError, TypeError
        A label is unknown, `y` and `X` differ in length, or the features are not those of the estimator.
    """
    check_count("k", k)
    classes, coef, _ = weights_of(estimator)
    c, d, order = len(classes), coef.shape[1], np.argsort(classes)  # classes set by hand may be unsorted
    X = by_rows(X)
    if len(getattr(X, "shape", ())) != 2:
        check_features(X)
    check_n_features(X, d, owner=type(estimator).__name__)
    labels = order[encode_known_labels(on_host(y), classes[order], "y", " of the model")]
    n = X.shape[0]
    check_same_length("y", labels, n)
    k, step = min(k, c), max(1, AT_ONCE // (c if is_sparse(X) else max(c, d)))
    certain = hasattr(estimator, "predict_log_proba")
    before, predicted = np.empty(n, np.int64), np.empty(n, np.int64)
    confidence, lead = np.empty(n), np.empty(n)
    loss = brier = 0.0
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        part = X[rows] if isinstance(X, Rows) else _safe_indexing(X, rows)
        scores = outputs_for(estimator, part, "scores", names_expected=False)
        before[rows] = places(scores, labels[rows])
        predicted[rows] = scores.argmax(axis=1)
        p = scores.astype(np.float64)
        p -= p.max(axis=1, keepdims=True)
        own = np.take_along_axis(p, labels[rows, None], axis=1)[:, 0]
        lead[rows] = -own
        if certain:
            total = np.exp(p, out=p).sum(axis=1)
            confidence[rows] = 1 / total
            loss += float((np.log(total) - own).sum())
            p /= total[:, None]
            brier += float((np.einsum("ij,ij->i", p, p) - 2 * np.exp(own) / total + 1).sum())
        if on_rows is not None:
            on_rows(rows.stop)
    right = before == 0
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(labels, right, c) / np.bincount(labels, minlength=c)
    return Accuracies(
        top_1=float(right.mean()),
        top_k=float((before < k).mean()),
        k=k,
        per_class=per_class,
        log_loss=loss / n if certain else None,
        brier=brier / n if certain else None,
        labels=labels,
        predicted=predicted,
        confidence=confidence if certain else None,
        lead=lead,
    )
