"""Figures and axes to draw on."""

from __future__ import annotations

import math
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """An empty figure; width and height are in inches.

    In a notebook, or wherever pyplot has been imported, it is one of pyplot's, so that it shows itself.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    import sys

    options: dict[str, Any] = {"figsize": (width, height), "layout": "constrained"}
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        return pyplot.figure(**options)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plots need matplotlib ({error}); pip install matplotlib") from error
    return Figure(**options)


def axes_for(axes: Any, width: float = 6.4, height: float = 4.0) -> Any:
    """The axes that a user passes, or those of a new figure."""
    return new_figure(width, height).add_subplot() if axes is None else axes


def draw_images(images: Any, titles: list[str], columns: int, figure: Any, inches: float, fontsize: str) -> list[Any]:
    """Draw images with titles in rows of `columns`, in a new figure or in the one that a user passes; return the axes.

    images (n, h, w) or (n, h, w, 3) are in [0, 1]. Titles are no formulas, whatever they hold.
    """
    n = len(images)
    rows = math.ceil(n / columns)
    if figure is None:
        figure = new_figure(inches * min(n, columns), (inches + 0.3) * rows)
    every = figure.subplots(rows, min(n, columns), squeeze=False).ravel().tolist()
    for ax in every:
        ax.set_axis_off()
    for ax, image, title in zip(every[:n], images, titles, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=fontsize, parse_math=False)
    return every[:n]
