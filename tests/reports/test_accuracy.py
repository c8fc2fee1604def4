"""Accuracies compared with a count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.reports import accuracy
from gpusoftmax.reports.accuracy import measure, places

N, D = 90, 4


@pytest.fixture
def fitted(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A model that is wrong often, and rows with labels in words."""
    X = rng.normal(size=(N, D))
    y = np.array(list("abcdefg"))[rng.integers(0, 7, N)]
    y[:7] = list("abcdefg")
    return SoftmaxClassifier(C=0.1).fit(X, y), X, y


def by_hand(scores: Any, label: int, k: int) -> bool:
    """Whether a stable sort of one row's scores, the largest first, has the label among its first k."""
    order = sorted(range(len(scores)), key=lambda j: -scores[j])
    return label in order[:k]


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_places_are_those_of_a_stable_sort(k: int, rng: np.random.Generator) -> None:
    scores = rng.integers(0, 4, (200, 7)).astype(float)  # equal ones abound
    labels = rng.integers(0, 7, 200).astype(np.int32)
    expected = [by_hand(row, int(label), k) for row, label in zip(scores, labels, strict=True)]
    assert (places(scores, labels) < k).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns(k: int, fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    found = measure(model, X, y, k)
    assert found.top_k == top_k_accuracy_score(y, model.predict_proba(X), k=k, labels=model.classes_)
    assert (found.top_1, found.k) == (model.score(X, y), k)


def test_the_mean_per_class_is_scikit_learns(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    found = measure(model, X, y)
    right = model.predict(X) == y
    np.testing.assert_array_equal(found.per_class, [right[y == label].mean() for label in model.classes_])
    assert found.mean_per_class == pytest.approx(balanced_accuracy_score(y, model.predict(X)), rel=1e-14)


def test_a_class_without_rows_does_not_count(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    kept = y != "c"
    found = measure(model, X[kept], y[kept])
    assert np.isnan(found.per_class).tolist() == [False, False, True, False, False, False, False]
    assert found.mean_per_class == pytest.approx(np.nanmean(found.per_class))


def test_pieces_do_not_change_anything(fitted: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(*fitted)
    monkeypatch.setattr(accuracy, "AT_ONCE", 50)  # 7 rows at a time
    parts = measure(*fitted)
    assert (parts.top_1, parts.top_k) == (whole.top_1, whole.top_k)
    np.testing.assert_array_equal(parts.per_class, whole.per_class)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_two_classes(cls: Any, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(N, D)), rng.integers(0, 2, N)
    model = cls().fit(X, y)
    found = measure(model, X, y)
    assert (found.top_1, found.top_k, found.k) == (model.score(X, y), 1.0, 2)


@pytest.mark.usefixtures("device")
def test_every_device(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    assert measure(model.set_params(backend="auto"), X.astype(np.float32), y).top_1 == model.score(X, y)


def test_wrong_rows_are_refused(fitted: tuple[Any, Any, Any]) -> None:
    model, X, y = fitted
    with pytest.raises(ValueError, match="y has length 89"):
        measure(model, X, y[1:])
    with pytest.raises(ValueError, match=r"y\[0\] is .*'z'"):
        measure(model, X, ["z", *y[1:]])
    with pytest.raises(ValueError, match="k=0"):
        measure(model, X, y, 0)
