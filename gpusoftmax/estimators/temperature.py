"""Temperature scaling: one number that makes a fitted classifier's probabilities agree with validation rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.arrays import check_same_length, check_sample_weight
from gpusoftmax.checks.labels import encode_known_labels
from gpusoftmax.estimators.classifiers import SoftmaxClassifier
from gpusoftmax.estimators.prediction import Probabilities, on_host, outputs_for, weights_of

AT_ONCE = 1 << 20  # scores of the rows that are widened to float64 at a time
MOST_STEPS = 100  # Newton's method takes some 6


def scale_temperature(model: SoftmaxClassifier, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxClassifier:
    """Divide a fitted model's scores by the temperature T that minimises the log loss of validation rows.

        min over beta = 1 / T > 0 of  f(beta) = (1 / S) sum_i s_i (logsumexp(beta z_i) - beta z_{i, y_i})

    with the scores z_i (c,) of row i, and S = sum_i s_i. f is convex. Newton's method finds its minimum from

        f' = (1 / S) sum_i s_i (E_p[z_i] - z_{i, y_i}),    f'' = (1 / S) sum_i s_i Var_p[z_i],    p = softmax(beta z_i)

    Labels that are predicted do not change, only probabilities do.

    Parameters
    ----------
    model : SoftmaxClassifier
        Fitted, and not to these rows, on which it would be too confident.
    X : array-like or sparse matrix, (n, d)
        The features of validation rows, as for `SoftmaxClassifier.predict`.
    y : array-like, (n,)
        Their labels, all among the model's classes.
    sample_weight : array-like, (n,), optional
        s, not negative. Default: all ones.

    Returns
    -------
    SoftmaxClassifier
        A copy of the model with coef_ / T and intercept_ / T; its `temperature_` is T, until it is fitted again. Its
        fit_report_ and history_ are those of the fit before.

    Raises
    ------
    TypeError
        `model` has no probabilities.
    ValueError
        The loss has no minimum: every row is predicted correctly, so it falls with T for ever, or the scores of the
        labels are no larger than others; or the data cannot be used.
    sklearn.exceptions.NotFittedError
        `fit` was not called.

    Notes
    -----
    Source: C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML 2017.
    scikit-learn's CalibratedClassifierCV(method="temperature") does the same, with folds, for any classifier.

    Examples
    --------
    >>> from gpusoftmax import load_digits
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier(C=1000).fit(digits.X_train, digits.y_train)
    >>> scaled = scale_temperature(model, digits.X_validation, digits.y_validation)
    >>> scaled.temperature_ > 1  # the model was too confident
    True
    """
    if not isinstance(model, Probabilities):
        raise TypeError(
            f"model is a {type(model).__name__}, whose scores are not log-probabilities; pass a SoftmaxClassifier, or "
            "use scikit-learn's CalibratedClassifierCV"
        )
    scores = outputs_for(model, X, "scores", names_expected=False)
    n, c = scores.shape
    classes, coef, intercept = weights_of(model)
    order = np.argsort(classes)  # classes set by hand may be unsorted
    labels = order[encode_known_labels(on_host(y), classes[order], "y", " of the model")]
    check_same_length("y", labels, n)
    weights = check_sample_weight(on_host(sample_weight), n, 1, np.float64)
    s = np.ones(n) if weights is None else weights[:, 0]
    beta = _best_inverse_temperature(scores, labels, s / s.sum(), max(1, AT_ONCE // c))
    scaled = copy.copy(model)
    scaled.coef_, scaled.intercept_ = coef * coef.dtype.type(beta), intercept * intercept.dtype.type(beta)
    scaled.temperature_ = 1 / beta
    return scaled


def _best_inverse_temperature(scores: Array, labels: Array, fractions: Array, step: int) -> float:
    """Minimise f by Newton's method, with bisection where a step leaves the interval that holds the minimum.

    fractions (n,) are the rows' weights, with sum 1; `step` rows are widened to float64 at a time.
    """
    certain = fractions > 0
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    if (scores.max(axis=1)[certain] <= own[certain]).all():
        raise ValueError(
            "the log loss falls with the temperature for ever, since every row is predicted correctly; pass more rows, "
            "so that some are not"
        )
    if _slopes(scores, labels, fractions, step, 0.0)[0] >= 0:
        raise ValueError(
            "no temperature makes these probabilities better: the scores of the labels are no larger than those of "
            "other classes; check that y belongs to X"
        )
    beta, low, high = 1.0, 0.0, np.inf
    for _ in range(MOST_STEPS):
        slope, curvature = _slopes(scores, labels, fractions, step, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        new = beta - slope / curvature if curvature > 0 else np.inf
        if not low < new < high:
            new = 2 * beta if high == np.inf else (low + high) / 2
        if abs(new - beta) <= 4 * np.finfo(np.float64).eps * beta:
            break
        beta = float(new)
    return beta


def _slopes(scores: Array, labels: Array, fractions: Array, step: int, beta: float) -> tuple[float, float]:
    """Compute f' and f'' at beta."""
    slope = curvature = 0.0
    for first in range(0, len(scores), step):
        rows = slice(first, first + step)
        z = scores[rows].astype(np.float64)
        z -= np.take_along_axis(z, labels[rows, None], axis=1)  # so that the label's score is 0
        p = beta * z
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        mean = np.einsum("ij,ij->i", p, z)
        z -= mean[:, None]
        slope += float(fractions[rows] @ mean)
        curvature += float(fractions[rows] @ np.einsum("ij,ij,ij->i", p, z, z))
    return slope, curvature
