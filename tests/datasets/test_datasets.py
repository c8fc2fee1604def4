"""Data sets by name, the digits, and the alignment of loaded arrays."""

from __future__ import annotations

import numpy as np
import pytest

from gpusoftmax.cli.options import KNOWN as KNOWN_TO_THE_SHELL
from gpusoftmax.datasets import KNOWN, load_dataset, load_digits
from gpusoftmax.files.dataset import aligned_empty
from tests.support.cases import assert_aligned


def test_digits_have_the_documented_shapes_and_dtypes():
    data = load_digits()
    for X, y, rows in (
        (data.X_train, data.y_train, 1197),
        (data.X_validation, data.y_validation, 300),
        (data.X_test, data.y_test, 300),
    ):
        assert (X.shape, X.dtype) == ((rows, 64), np.float32)
        assert (y.shape, y.dtype) == ((rows,), np.int64)
        assert_aligned(X)
        assert (X.min(), X.max()) == (0, 16)
        assert set(y) == set(range(len(data.class_names)))


def test_digits_use_every_sample_once_with_its_label():
    from sklearn.datasets import load_digits as sklearn_digits

    data = load_digits()
    ours = np.vstack([data.X_train, data.X_validation, data.X_test])
    labels = np.hstack([data.y_train, data.y_validation, data.y_test])
    images, target = sklearn_digits(return_X_y=True)
    assert sorted(map(tuple, np.column_stack([ours, labels]))) == sorted(map(tuple, np.column_stack([images, target])))


def test_the_split_of_digits_never_changes():
    data = load_digits()
    assert data.y_train[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    assert data.y_test[:10].tolist() == [8, 8, 2, 2, 2, 9, 8, 8, 3, 6]


@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (1000, 100)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_an_aligned_array_starts_on_a_cache_line(shape, dtype):
    array = aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.writeable
    assert_aligned(array)


def test_an_aligned_array_may_be_empty():
    assert aligned_empty((0, 3), np.float32).shape == (0, 3)


def test_an_aligned_array_of_negative_size_is_refused():
    with pytest.raises(ValueError, match="no dimension may be negative"):
        aligned_empty((-1, 4), np.float32)


def test_an_aligned_array_of_objects_is_refused():
    with pytest.raises(TypeError):
        aligned_empty((4,), object)


def test_digits_are_found_by_name():
    assert load_dataset("digits").name == "digits"


def test_digits_refuse_a_folder():
    with pytest.raises(ValueError, match="data='somewhere': digits comes with scikit-learn"):
        load_dataset("digits", "somewhere")


def test_an_unknown_data_set_is_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"'mnist'.*digits and cifar10, and your own files.*\.csv"):
        load_dataset("mnist")


def test_the_shell_is_offered_every_name():
    assert KNOWN_TO_THE_SHELL == KNOWN
