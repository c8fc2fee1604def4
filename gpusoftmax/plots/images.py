"""Rows of features as images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.checks.scalars import check_count

COLOURS = 3  # channels of an image in colour


def check_image_shape(image_shape: Sequence[int] | None, d: int) -> tuple[int, ...]:
    """Return the shape of a row as an image, for rows of d features.

    Parameters
    ----------
    image_shape : sequence of int, optional
        (h, w), or with one or three channels (channels, h, w) or (h, w, channels), as the features are laid out.
        Default: a square image in grey, if d is a square number.

    Raises
    ------
    ValueError, TypeError
        The shape has another number of pixels, or is that of no image.
    """
    if image_shape is None:
        side = math.isqrt(d)
        if side * side != d:
            raise ValueError(f"{d} features are no square image; pass image_shape, such as (3, 32, 32) or (28, 28)")
        return (side, side)
    if not isinstance(image_shape, tuple | list):
        raise TypeError(f"image_shape={image_shape!r} is no shape; pass a tuple, such as (28, 28)")
    shape = tuple(check_count("image_shape", side) for side in image_shape)
    if math.prod(shape) != d:
        raise ValueError(f"image_shape={shape} has {math.prod(shape)} pixels, but there are {d} features")
    if len(shape) == 2 or (len(shape) == 3 and {shape[0], shape[-1]} & {1, COLOURS}):
        return shape
    raise ValueError(
        f"image_shape={shape} is that of no image; pass (h, w), or (channels, h, w) or (h, w, channels) with 1 or 3 "
        "channels"
    )


def as_images(rows: Array, shape: tuple[int, ...]) -> Array:
    """Return rows (k, d) as images (k, h, w), or (k, h, w, 3) in colour; `shape` comes from `check_image_shape`."""
    images = rows.reshape(-1, *shape)
    if len(shape) == 3:
        if shape[0] in (1, COLOURS):
            images = np.moveaxis(images, 1, -1)
        if images.shape[-1] == 1:
            images = images[..., 0]
    return images


def on_unit_scale(images: Array) -> Array:
    """Map all images to [0, 1] with one scale: (x - min) / (max - min), as the course does with templates."""
    images = images.astype(np.float64)
    least, most = images.min(), images.max()
    return (images - least) / (most - least) if most > least else np.full_like(images, 0.5)
