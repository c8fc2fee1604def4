"""The course of a fit: loss and accuracy after each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from gpusoftmax.plots.figures import new_figure
from gpusoftmax.trainer import Record


class FitHistoryDisplay:
    """Loss and accuracy after each pass over the data, on the training rows and, where there are any, validation rows.

    Parameters
    ----------
    history : sequence of Record
        `history_` of a fitted classifier.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : pair of matplotlib Axes
        The first shows losses, the second accuracies.

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, load_digits
    >>> from gpusoftmax.plots import FitHistoryDisplay
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier(solver="sgd", max_iter=20).fit(*digits.parts["train"])
    >>> display = FitHistoryDisplay.from_estimator(model)
    """

    def __init__(self, history: Sequence[Record]) -> None:
        self.history = list(history)

    @classmethod
    def from_estimator(cls, estimator: Any, *, axes: Any = None) -> Self:
        """Plot the history of a fitted classifier.

        Parameters
        ----------
        estimator : SoftmaxClassifier or LinearSVMClassifier
            Fitted.
        axes : pair of matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        FitHistoryDisplay

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError
            The history is empty.
        ImportError
            matplotlib is not installed.
        """
        check_is_fitted(estimator, "history_")
        return cls(estimator.history_).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        axes : pair of matplotlib Axes, optional
            The axes to draw on. Default: those of a new figure.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            The history is empty.
        ImportError
            matplotlib is not installed.
        """
        if not self.history:
            raise ValueError("the history is empty: the fit was interrupted before its first pass ended")
        self.axes_ = tuple(new_figure(9.0, 3.6).subplots(1, 2) if axes is None else axes)
        self.figure_ = self.axes_[0].figure
        passes = [record.passes for record in self.history]
        validated = self.history[-1].validation_loss is not None
        for ax, name in zip(self.axes_, ("loss", "accuracy"), strict=True):
            curves = {"training": name}
            if name == "loss":
                curves["training, with penalty"] = "objective"
            if validated:
                curves["validation"] = f"validation_{name}"
            for label, field in curves.items():
                values = [getattr(record, field) for record in self.history]
                style = ":" if field == "objective" else "-"
                ax.plot(passes, values, style, marker="o" if len(passes) < 40 else None, markersize=3, label=label)
            ax.set(xlabel="passes over the training rows", ylabel=name)
            ax.legend(frameon=False)
            ax.spines[["top", "right"]].set_visible(False)
        return self
