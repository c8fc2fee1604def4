"""What a trained model can do, in numbers and in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax.datasets import Dataset
from gpusoftmax.estimators import LinearSVMClassifier, SoftmaxClassifier

SPLITS = ("train", "validation", "test")


def accuracies(estimator: SoftmaxClassifier | LinearSVMClassifier, dataset: Dataset) -> dict[str, float]:
    """Accuracy in [0, 1] on each of a data set's splits, as train_accuracy, validation_accuracy, test_accuracy."""
    return {
        f"{split}_accuracy": float(
            np.mean(estimator.predict(getattr(dataset, f"X_{split}")) == getattr(dataset, f"y_{split}"))
        )
        for split in SPLITS
    }


def accuracies_in_words(measured: dict[str, Any]) -> str:
    """One line for a person."""
    return "  ".join(f"{split} {measured[f'{split}_accuracy']:.2%}" for split in SPLITS)


def dataset_in_words(dataset: Dataset) -> str:
    """One line for a person."""
    rows = ", ".join(f"{len(getattr(dataset, f'y_{split}'))} {split}" for split in SPLITS)
    d, c = dataset.X_train.shape[1], len(dataset.class_names)
    return f"{dataset.name}: {rows} rows of {d} features ({dataset.X_train.dtype}), {c} classes"
