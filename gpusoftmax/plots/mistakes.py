"""The images that a classifier gets wrong with the most confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.labels import encode_known_labels
from gpusoftmax.checks.scalars import check_count
from gpusoftmax.plots.figures import draw_images
from gpusoftmax.plots.images import as_images, check_image_shape, on_unit_scale
from gpusoftmax.plots.templates import check_names

COLUMNS = 6  # images in a row


class MistakesDisplay:
    """Wrongly classified images, the most confident mistakes first.

    Parameters
    ----------
    images : ndarray, (k, h, w) or (k, h, w, 3)
        In [0, 1].
    labels, predicted : sequences of str, length k
        Names of the true and of the predicted class.
    confidence : ndarray, (k,)
        The probability of the prediction. If the classifier has no probabilities: how far its score is above that of
        the label.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One for each image.

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, load_digits
    >>> from gpusoftmax.plots import MistakesDisplay
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier().fit(*digits.parts["train"])
    >>> display = MistakesDisplay.from_estimator(model, *digits.parts["test"], n=6)
    >>> len(display.axes_)
    6
    """

    def __init__(self, images: Array, labels: Sequence[str], predicted: Sequence[str], confidence: Array) -> None:
        self.images, self.labels, self.predicted = images, list(labels), list(predicted)
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        n: int = 18,
        image_shape: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        figure: Any = None,
    ) -> Self:
        """Plot the most confident mistakes of a fitted classifier.

        Parameters
        ----------
        estimator : fitted classifier
            With predict_proba or decision_function.
        X : ndarray, (rows, d)
            Images that it was not trained on.
        y : array-like, (rows,)
            Their labels, all among the classifier's classes.
        n : int
            How many mistakes to show, at most.
        image_shape : sequence of int, optional
            (h, w), (channels, h, w) or (h, w, channels): how the d features are laid out. Default: a square in grey.
        names : sequence of str, optional
            Names of the classes. Default: classes_.
        figure : matplotlib Figure or SubFigure, optional
            What to draw on. Default: a new figure.

        Returns
        -------
        MistakesDisplay

        Raises
        ------
        ValueError
            A label is unknown, there is no mistake to show, or the features are no image of this shape.
        ImportError
            matplotlib is not installed.
        """
        check_count("n", n)
        names = check_names(names, estimator.classes_)
        labels = encode_known_labels(y, estimator.classes_, "y", " of the model")
        predicted, confidence = predicted_with_confidence(estimator, X, labels)
        rows = most_confident_mistakes(labels, predicted, confidence, n)
        if not len(rows):
            raise ValueError("there is no mistake to show: every row is predicted correctly")
        X = np.asarray(X)
        images = as_images(X[rows], check_image_shape(image_shape, X.shape[1]))
        scaled = images / 255 if images.dtype == np.uint8 else on_unit_scale(images)
        true, taken_for = ([names[j] for j in codes[rows]] for codes in (labels, predicted))
        return cls(scaled, true, taken_for, confidence[rows]).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the images in rows of six.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            What to draw on. Default: a new figure.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        mistakes = zip(self.labels, self.predicted, self.confidence, strict=True)
        titles = [f"{label}\ntaken for {predicted}\n{confidence:.2f}" for label, predicted, confidence in mistakes]
        self.axes_ = draw_images(self.images, titles, COLUMNS, figure, 1.6, "x-small")
        self.figure_ = self.axes_[0].figure
        return self


def predicted_with_confidence(estimator: Any, X: Any, labels: Array) -> tuple[Array, Array]:
    """Return the predicted class of each row (n,), and the confidence that `MistakesDisplay` describes (n,)."""
    if hasattr(estimator, "predict_proba"):
        P = np.asarray(estimator.predict_proba(X))
        return P.argmax(axis=1), P.max(axis=1)
    scores = np.asarray(estimator.decision_function(X))
    if scores.ndim == 1:  # of two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return scores.argmax(axis=1), scores.max(axis=1) - np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]


def most_confident_mistakes(labels: Array, predicted: Array, confidence: Array, n: int) -> Array:
    """Return the rows of the n mistakes with the largest confidence, the largest first."""
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")[:n]]
