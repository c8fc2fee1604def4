"""The data: CIFAR-10's images where the user has them, else images and embeddings that are made in a few seconds.

A rented machine has the repository and nothing else. What is made has the shape and roughly the spectrum of what it
stands for, which is what decides about time: the columns of images go together, and classes overlap.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK = 4096  # rows that one thread makes at a time
FACTORS, BRIGHTNESS, CONTRAST, GRAIN, SCALE = 192, 120, 60.0, 8.0, 64.0
APART = 0.1  # of embeddings: how far class means are from 0, in units of the noise
CLASSES_APART = 0.12  # of images, likewise: about half of them are then classified right, as with CIFAR-10


def images(folder: Path | None, n: int, d: int, c: int) -> tuple[Array, Array, str]:
    """X (n, d) uint8, labels (n,) from 0, and where they come from: CIFAR-10 in a folder, or made."""
    if folder is not None:
        from gpusoftmax import load_cifar10

        found = load_cifar10(folder)
        return found.X_train[:n, :d], found.y_train[:n].astype(np.int64), "CIFAR-10"
    return *made_images(n, d, c), "made, with CIFAR-10's shape"


def made_images(n: int, d: int, c: int) -> tuple[Array, Array]:
    """Sums of smooth waves, of which the slow ones are strong, with grain; classes differ in the waves' means."""
    rng = np.random.default_rng(0)
    y, X, k = rng.integers(0, c, n), np.empty((n, d), np.uint8), min(d, FACTORS)
    strengths = CONTRAST / (1 + np.arange(k)) ** 0.75
    waves = (strengths[:, None] * np.cos(np.pi * np.outer(np.arange(k), np.arange(d) + 0.5) / d)).astype(np.float32)
    means = (CLASSES_APART * rng.standard_normal((c, k))).astype(np.float32)

    def fill(rows: slice, own: np.random.Generator) -> None:
        factors = means[y[rows]] + own.standard_normal((len(y[rows]), k), dtype=np.float32)
        pixels = factors @ waves + own.standard_normal((len(factors), d), dtype=np.float32) * np.float32(GRAIN)
        X[rows] = np.clip(pixels + BRIGHTNESS, 0, 255)

    _in_blocks(fill, n)
    return X, y


def embeddings(n: int, d: int, c: int) -> tuple[Array, Array]:
    """X (n, d) float16, rows of length about 1, and labels (n,): class means and noise."""
    rng = np.random.default_rng(1)
    y, X = rng.integers(0, c, n), np.empty((n, d), np.float16)
    means = (APART * rng.standard_normal((c, d))).astype(np.float32)

    def fill(rows: slice, own: np.random.Generator) -> None:
        noise = own.standard_normal((len(y[rows]), d), dtype=np.float32)
        X[rows] = (means[y[rows]] + noise) / np.float32(np.sqrt(d))

    _in_blocks(fill, n)
    return X, y


def _in_blocks(fill: Callable[[slice, np.random.Generator], None], n: int) -> None:
    """Fill blocks of rows on all cores, each from a generator of its own."""

    def work(first: int) -> None:
        fill(slice(first, min(first + BLOCK, n)), np.random.default_rng([2, first]))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(work, range(0, n, BLOCK)))
