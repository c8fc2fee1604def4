"""Reliability diagrams: how often predictions are right, by how confident they are."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from gpusoftmax.checks.arrays import check_same_length
from gpusoftmax.checks.labels import encode_known_labels
from gpusoftmax.plots.figures import axes_for
from gpusoftmax.reliability import BINS, ReliabilityCurve, reliability_curve


class ReliabilityDisplay:
    """Accuracy by confidence, with the number of rows at each; probabilities that can be trusted lie on the diagonal.

    Parameters
    ----------
    curve : ReliabilityCurve
    name : str, optional
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Notes
    -----
    Source: C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML 2017.

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, load_digits
    >>> from gpusoftmax.plots import ReliabilityDisplay
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier().fit(*digits.parts["train"])
    >>> display = ReliabilityDisplay.from_estimator(model, *digits.parts["test"])
    >>> display.curve.error < 0.05
    True
    """

    def __init__(self, curve: ReliabilityCurve, name: str | None = None) -> None:
        self.curve, self.name = curve, name

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: Any, *, bins: int = BINS, ax: Any = None) -> Self:
        """Plot the calibration of a fitted classifier on rows that it was not trained on.

        Parameters
        ----------
        estimator : fitted classifier
            With predict_proba.
        X : array-like, (n, d)
        y : array-like, (n,)
            Labels, all among the classifier's classes.
        bins : int
            The number of bins of confidences.
        ax : matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ValueError
            A label is unknown, or lengths differ.
        AttributeError
            The classifier has no probabilities.
        ImportError
            matplotlib is not installed.
        """
        name = type(estimator).__name__
        return cls.from_predictions(
            y, estimator.predict_proba(X), classes=estimator.classes_, bins=bins, name=name, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        y: Any,
        probabilities: Any,
        *,
        classes: Any = None,
        bins: int = BINS,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Plot the calibration of given probabilities.

        Parameters
        ----------
        y : array-like, (n,)
            Labels.
        probabilities : array-like, (n, c)
        classes : array-like, (c,), optional
            The sorted labels of the columns. Default: the sorted labels of y.
        bins : int
            The number of bins of confidences.
        name : str, optional
            For the legend.
        ax : matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ValueError
            A label is unknown, or lengths differ.
        ImportError
            matplotlib is not installed.
        """
        P = np.asarray(probabilities)
        classes = np.unique(np.asarray(y)) if classes is None else np.asarray(classes)
        if P.ndim != 2 or P.shape[1] != len(classes):
            raise ValueError(
                f"probabilities has shape {P.shape} for {len(classes)} classes; pass a column for each, and classes if "
                "some are not in y"
            )
        labels = encode_known_labels(y, classes, "y", " of the columns")
        check_same_length("y", labels, len(P), "probabilities")
        return cls(reliability_curve(P.max(axis=1), P.argmax(axis=1) == labels, bins), name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        self.ax_ = ax = axes_for(ax, 4.8, 4.4)
        self.figure_ = ax.figure
        curve, edges = self.curve, self.curve.edges
        filled = curve.counts > 0
        fractions = curve.counts / curve.counts.sum()
        ax.bar(edges[:-1], fractions, np.diff(edges), align="edge", color="0.85", label="fraction of rows")
        ax.plot([0, 1], [0, 1], ":", color="0.4", label="perfectly calibrated")
        label = f"{self.name + ', ' if self.name else ''}calibration error {curve.error:.2%}"
        ax.plot(curve.confidence[filled], curve.accuracy[filled], "o-", markersize=4, label=label)
        ax.set(xlabel="confidence (probability of the prediction)", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        ax.legend(frameon=False, loc="upper left", fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
        return self
