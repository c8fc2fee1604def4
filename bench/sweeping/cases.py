"""The cases, their sizes and data, and the models that are drawn to be checked.

cv        values of C x folds on CIFAR-10's first rows
minilm    values of C x folds on real embeddings
path      values of C on all training rows, with a validation set
cs231n    learning rates x regularizations of cs231n's recipe: SGD on the same minibatches
models    K models side by side, K growing
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.ours import BatchPlan

Array = npt.NDArray[Any]

SCALE = 64.0  # what pixels are divided by
SEED, DRAWN = 0, 3  # of what is drawn; how many models of a case are checked
CLASSES = 10
MINILM = "embeddings-minilm.npz"


@dataclass(frozen=True)
class Case:
    """A case; it needs CIFAR-10 unless it is quick."""

    name: str
    words: str
    needs_data: bool = True


FOLDS = ("cv", "minilm")  # cases of values of C x folds
CASES = (
    Case("cv", "values of C x folds"),
    Case("minilm", "values of C x folds, embeddings"),
    Case("path", "values of C, one validation set"),
    Case("cs231n", "learning rates x regularizations, SGD"),
    Case("models", "K models side by side"),
)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    cv_rows: int = 10_000
    rows: int = 49_000
    Cs: int = 20
    minilm_Cs: int = 19
    folds: int = 5
    side: int = 8
    steps: int = 1500
    batch: int = 200
    models: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    model_steps: int = 100
    widths: tuple[int, ...] = (1, 2, 4, 20)


FULL = Size()
QUICK = Size(600, 800, 4, 4, 3, 2, 30, 50, (1, 2, 4), 5, (1, 4))
WARM = Size(300, 300, 2, 2, 2, 1, 2, 50, (1,), 2, (1,))  # of the warm-up before the clock starts


@dataclass(frozen=True)
class Problem:
    """The data of a case, by its name: X (n, d), labels y (n,) from 0, and such a pair to validate on.

    X is pixels in uint8, or embeddings in float16; `scale` is what it is divided by.
    """

    case: str
    X: Array
    y: Array
    validation: tuple[Array, Array]
    size: Size

    def warm(self) -> Problem:
        """A small problem of the same kind."""
        rows = min(len(self.y), WARM.rows)
        size = replace(WARM, side=self.size.side)  # code is compiled for the number of models
        return replace(self, X=self.X[:rows], y=self.y[:rows], size=size)

    @property
    def scale(self) -> float:
        """What X is divided by."""
        return 1.0 if self.X.dtype.kind == "f" else SCALE

    @property
    def n_classes(self) -> int:
        """c."""
        return int(self.y.max()) + 1

    @property
    def has_folds(self) -> bool:
        """Whether models are fitted to folds, and the best C to all rows at last."""
        return self.case in FOLDS

    @cached_property
    def Cs(self) -> list[float]:
        """From strong penalties to weak ones."""
        first, last = (-3, 3) if self.X.dtype.kind == "f" else (-5, -1)
        number = self.size.minilm_Cs if self.case == "minilm" else self.size.Cs
        return [float(C) for C in np.logspace(first, last, number)]

    @cached_property
    def splits(self) -> list[tuple[Any, Array]]:
        """Rows to train on and rows held out; of a path all rows, and none."""
        if not self.has_folds:
            return [(np.arange(len(self.y)), np.arange(0))]
        from sklearn.model_selection import StratifiedKFold

        return list(StratifiedKFold(self.size.folds).split(self.X, self.y))

    @cached_property
    def pairs(self) -> list[tuple[float, float]]:
        """Learning rates and regularizations; the largest rate is below 2 / curvature of raw pixels: none diverges."""
        side = self.size.side
        return [(float(rate), float(reg)) for rate in np.logspace(-8, -6.4, side) for reg in np.logspace(3, 5, side)]

    @cached_property
    def models(self) -> list[tuple[int, int]]:
        """All models (split, number of C), or (0, number of the pair), in an order that the seed draws.

        A contender that is stopped has thus done a fair sample. The first few models are those that are checked.
        """
        count = len(self.pairs) if self.case == "cs231n" else len(self.Cs)
        every = [(i, k) for i in range(len(self.splits)) for k in range(count)]
        return [every[i] for i in np.random.default_rng(SEED).permutation(len(every))]

    @property
    def drawn(self) -> list[tuple[int, int]]:
        """The models that are checked."""
        return self.models[:DRAWN]

    def scaled(self, dtype: Any = np.float32) -> Array:
        """X / SCALE, for contenders that fold no scaling."""
        return self.X.astype(dtype) / dtype(self.scale)

    @cached_property
    def mean(self) -> Array:
        """The mean of the training rows, (d,) float64."""
        mean: Array = self.X.mean(axis=0)
        return mean

    def batches(self) -> list[Array]:
        """The rows of each step of the recipe, as `train_cs231n` draws them."""
        plan = BatchPlan(len(self.y), self.size.batch, replacement=True, seed=SEED)
        epochs = range(-(-self.size.steps // plan.steps_per_epoch))
        every: list[Any] = [rows for epoch in epochs for rows in plan.epoch(epoch)]
        return every[: self.size.steps]

    def start(self) -> Array:
        """Weights (d + 1, c) that each model of the recipe starts from, the bias last."""
        found: Array = 0.001 * np.random.default_rng(SEED).standard_normal((self.X.shape[1] + 1, 1, CLASSES))[:, 0]
        return found.astype(np.float32)


def make(case: str, folder: Path | None, quick: bool) -> Problem:
    """A case's data: CIFAR-10 or MINILM, or without a folder scikit-learn's digits, enough to try everything on."""
    size = QUICK if quick else FULL
    if folder is not None and case == "minilm":
        with np.load(folder / MINILM) as found:
            X, y, test = found["X"], found["y"].astype(np.int64), found["test"]
        rows = size.cv_rows if quick else None
        return Problem(case, X[~test][:rows], y[~test][:rows], (X[test], y[test]), size)
    if folder is not None:
        from gpusoftmax import load_cifar10

        found = load_cifar10(folder)
        X, y, validation = found.X_train, found.y_train, (found.X_validation, found.y_validation)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        X, y = (15 * digits.data).astype(np.uint8), digits.target
        X, y, validation = X[:1500], y[:1500], (X[1500:], y[1500:])
    rows = size.cv_rows if case in FOLDS else size.rows
    return Problem(case, X[:rows], y[:rows].astype(np.int64), validation, size)
