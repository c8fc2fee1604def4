"""Labels that are suspicious: what scikit-learn warns of or refuses."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.utils.multiclass import check_classification_targets

from gpusoftmax.checks.labels import encode_labels


def told(function: Any, *arguments: Any) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64])
@pytest.mark.parametrize("classes", [2, 10, 11, 12, 13, 20])
@pytest.mark.parametrize("n", [20, 21, 22, 23, 24])
def test_labels_that_are_mostly_distinct_warn_where_scikit_learn_does(n: int, classes: int, dtype: Any) -> None:
    y = (np.arange(n) % classes).astype(dtype)
    assert told(encode_labels, y, n) == told(check_classification_targets, y)


def test_numbers_between_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y\[1\] is 0.5, which is not a class"):
        encode_labels(np.array([0.0, 0.5, 1.0]), 3)
