"""The handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

import numpy as np

from gpusoftmax.files.dataset import Dataset, aligned_empty

_SEED = 0
_TRAIN_ROWS, _VALIDATION_ROWS = 1197, 300


def load_digits() -> Dataset:
    """Load the 1797 handwritten digits of 8x8 pixels.

    The rows are shuffled by `numpy.random.RandomState(0).permutation(1797)`: the first 1197 are for training, the next
    300 for validation, the last 300 for testing.

    Returns
    -------
    Dataset
        X is float32 of shape (n, 64) with values from 0 to 16; the three parts are views of one 64-byte-aligned buffer.
        y is int64. The classes are "0" to "9", and feature_shape is (1, 8, 8).

    Notes
    -----
    Source: `sklearn.datasets.load_digits`, which is the test set of E. Alpaydin and C. Kaynak, Optical Recognition of
    Handwritten Digits, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import (
        load_digits as sklearn_digits,  # imported here because importing scikit-learn takes 0.6 s
    )

    images, labels = sklearn_digits(return_X_y=True)
    # NumPy guarantees that RandomState's stream stays the same, unlike that of a Generator (NEP 19)
    order = np.random.RandomState(_SEED).permutation(len(labels))
    X = aligned_empty(images.shape, np.float32)
    X[:] = images[order]
    y = labels[order].astype(np.int64)
    train = slice(0, _TRAIN_ROWS)
    validation = slice(_TRAIN_ROWS, _TRAIN_ROWS + _VALIDATION_ROWS)
    test = slice(_TRAIN_ROWS + _VALIDATION_ROWS, None)
    return Dataset(
        name="digits",
        X_train=X[train],
        y_train=y[train],
        X_validation=X[validation],
        y_validation=y[validation],
        X_test=X[test],
        y_test=y[test],
        class_names=tuple("0123456789"),
        feature_shape=(1, 8, 8),
    )
