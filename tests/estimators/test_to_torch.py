"""to_torch: a layer of PyTorch with the scores of the classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("c", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_layer_has_the_scores(cls: Any, c: int, dtype: Any, rng: np.random.Generator) -> None:
    X, y = rng.normal(3, 2, (200, 5)).astype(dtype), rng.integers(0, c, 200)
    model = cls(scaling="standard").fit(X, y)
    layer = model.to_torch()
    with torch.no_grad():
        scores = layer(torch.tensor(X)).numpy()
    assert (layer.in_features, layer.out_features, scores.dtype) == (5, c, dtype)
    expected = model.decision_function(X)
    found = scores[:, 1] if c == 2 else scores
    np.testing.assert_allclose(found, expected, atol=200 * np.finfo(dtype).eps * abs(expected).max())
    np.testing.assert_array_equal(model.classes_[scores.argmax(axis=1)], model.predict(X))


def test_probabilities_are_the_softmax(rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 2, 200)
    model = SoftmaxClassifier().fit(X, y)
    p = torch.softmax(model.to_torch()(torch.tensor(X)), dim=1).detach().numpy()
    np.testing.assert_allclose(p, model.predict_proba(X), atol=1e-14)
