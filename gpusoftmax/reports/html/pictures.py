"""Images in a report, as data in the page."""

from __future__ import annotations

import base64
import io

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.plots.images import as_images, on_unit_scale


def data_uri(image: Array) -> str:
    """An image (h, w) or (h, w, 3) with values in [0, 1] as a PNG in the page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(255 * image).astype(np.uint8)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def templates(coef: Array, shape: tuple[int, ...]) -> list[str]:
    """The weights of each class as an image, all on one scale."""
    return [data_uri(image) for image in on_unit_scale(as_images(coef, shape))]


def thumbnails(rows: Array, shape: tuple[int, ...]) -> list[str]:
    """Rows of pixels as images: bytes as they are, other types on one scale."""
    images = as_images(rows, shape)
    return [data_uri(image) for image in (images / 255 if images.dtype == np.uint8 else on_unit_scale(images))]
