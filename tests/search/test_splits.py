"""Splits: the meanings of cv and validation, and invalid values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from gpusoftmax.search.splits import Split, is_partition, make_splits

Y = np.arange(30) % 3


def pairs(splits: list[Split]) -> list[Any]:
    return [(split.train.tolist(), split.held_out.tolist()) for split in splits]  # type: ignore[union-attr]


@pytest.mark.parametrize(("cv", "folds"), [(None, 5), (3, 3), (np.int64(3), 3)])
def test_a_number_is_stratified_folds_that_are_not_shuffled(cv: Any, folds: int) -> None:
    expected = [(a.tolist(), b.tolist()) for a, b in StratifiedKFold(folds).split(Y, Y)]
    assert pairs(make_splits(cv, None, Y, seed=0)) == expected


def test_a_splitter_splits() -> None:
    cv = KFold(4, shuffle=True, random_state=1)
    assert pairs(make_splits(cv, None, Y, 0)) == [(a.tolist(), b.tolist()) for a, b in cv.split(Y)]


def test_a_splitter_gets_the_groups() -> None:
    groups = np.arange(30) // 5
    for split in make_splits(GroupKFold(3), None, Y, 0, groups=groups):
        assert not set(groups[split.train]) & set(groups[split.held_out])


def test_pairs_of_numbers_or_masks_are_taken_as_they_are() -> None:
    mask = np.zeros(30, bool)
    mask[20:] = True
    assert pairs(make_splits([(range(20), mask), ([3, -1], [0])], None, Y, 0)) == [
        (list(range(20)), list(range(20, 30))),
        ([3, 29], [0]),
    ]


def test_a_share_is_held_out_at_random_but_stratified() -> None:
    (split,), (other,), (again,) = (make_splits(None, 0.2, Y, seed) for seed in (0, 1, 0))
    assert np.bincount(Y[split.held_out]).tolist() == [2, 2, 2]
    assert sorted([*split.train, *split.held_out]) == list(range(30))  # type: ignore[misc]
    assert pairs([split]) == pairs([again]) != pairs([other])


def test_a_validation_set_leaves_all_rows_for_training() -> None:
    assert make_splits(None, (np.zeros((3, 2)), [0, 1, 2]), Y, 0) == [Split(None, None)]


@pytest.mark.parametrize(
    ("cv", "validation", "groups", "error", "message"),
    [
        (5, 0.2, None, ValueError, "cv and validation are both given"),
        (1, None, None, ValueError, "cv=1 is out of range"),
        ("five", None, None, TypeError, "cv='five' is a str; pass a number of folds"),
        (2.5, None, None, TypeError, "cv=2.5 is a float"),
        (40, None, None, ValueError, r"cv=StratifiedKFold\(n_splits=40.* cannot split these 30 rows .*fewer folds"),
        (GroupKFold(3), None, None, ValueError, "cv=GroupKFold.* cannot split these 30 rows .*needs groups"),
        (
            None,
            0.01,
            None,
            ValueError,
            r"validation=0\.01 cannot split these 30 rows .*\(X, y\), another fraction, or cv=",
        ),
        (None, 1.5, None, ValueError, "validation=1.5 is out of range"),
        (None, np.zeros((3, 2)), None, TypeError, "validation is a ndarray; pass a pair"),
        ([], None, None, ValueError, "cv holds no splits"),
        ([(range(9),)], None, None, TypeError, "cv split 0 is not a pair"),
        ([([0.5], [1])], None, None, TypeError, "cv split 0 has dtype float64"),
        ([([], [1])], None, None, ValueError, "cv split 0 has no rows"),
        ([([0], [30])], None, None, ValueError, "cv split 0 names row 30, but X has 30 rows"),
        ([([0], [1])], None, Y, ValueError, "groups is for a splitter"),
    ],
)
def test_what_is_no_split_is_refused(cv: Any, validation: Any, groups: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make_splits(cv, validation, Y, 0, groups=groups)


def test_folds_that_hold_out_each_row_once_are_a_partition() -> None:
    assert is_partition(make_splits(3, None, Y, 0), 30)
    assert not is_partition(make_splits(3, None, Y, 0)[:2], 30)
    assert not is_partition(make_splits(None, (Y, Y), Y, 0), 30)


@pytest.mark.parametrize("options", [{"cv": None, "validation": 0.1}, {"cv": 5, "validation": None}], ids=str)
def test_what_cannot_be_split_is_told_in_few_words_however_many_classes_there_are(options: Any) -> None:
    with pytest.raises(ValueError, match="cannot split") as caught:
        make_splits(**options, y=np.arange(1000), seed=0)
    assert len(str(caught.value)) < 350
