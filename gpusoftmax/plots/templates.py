"""Weights as images: what each class of a linear classifier looks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.estimators.prediction import weights_of
from gpusoftmax.plots.figures import draw_images
from gpusoftmax.plots.images import as_images, check_image_shape, on_unit_scale

COLUMNS = 5  # images in a row


class WeightTemplatesDisplay:
    """The weights of each class as an image, all on one scale: (w - min) / (max - min) over all classes.

    Parameters
    ----------
    templates : ndarray of float64, shape (k, h, w) or (k, h, w, 3)
        In [0, 1].
    names : sequence of str, length k

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One for each template.

    Examples
    --------
    >>> from gpusoftmax import SoftmaxClassifier, load_digits
    >>> from gpusoftmax.plots import WeightTemplatesDisplay
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier().fit(*digits.parts["train"])
    >>> display = WeightTemplatesDisplay.from_estimator(model)
    >>> len(display.axes_)
    10
    """

    def __init__(self, templates: Array, names: Sequence[str]) -> None:
        self.templates, self.names = templates, list(names)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        image_shape: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        figure: Any = None,
    ) -> Self:
        """Plot the weights of a fitted linear classifier.

        Parameters
        ----------
        estimator : fitted classifier
            With classes_, coef_ (c, d), or (1, d) for two classes, and intercept_. With two classes there is one
            template, of classes_[1] against classes_[0].
        image_shape : sequence of int, optional
            (h, w), (channels, h, w) or (h, w, channels): how the d features are laid out. Default: a square in grey.
        names : sequence of str, optional
            Names of the classes. Default: classes_.
        figure : matplotlib Figure or SubFigure, optional
            What to draw on. Default: a new figure.

        Returns
        -------
        WeightTemplatesDisplay

        Raises
        ------
        ValueError
            The features are no image of this shape, or there are more or fewer names than classes.
        ImportError
            matplotlib is not installed.
        """
        classes, coef, _ = weights_of(estimator)
        names = check_names(names, classes)
        images = as_images(coef, check_image_shape(image_shape, coef.shape[1]))
        return cls(on_unit_scale(images), names[-len(images) :]).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the templates in rows of five.

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
        self.axes_ = draw_images(self.templates, self.names, COLUMNS, figure, 1.4, "small")
        self.figure_ = self.axes_[0].figure
        return self


def check_names(names: Sequence[str] | None, classes: Array) -> list[str]:
    """Return a name for each class: those given, or the labels.

    Raises
    ------
    ValueError
        There are more or fewer names than classes.
    """
    if names is None:
        return [str(label) for label in classes.tolist()]
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) != len(classes):
        raise ValueError(f"names={shown(names)} is not a list of {len(classes)} names; pass one for each of classes_")
    return [str(name) for name in names]
