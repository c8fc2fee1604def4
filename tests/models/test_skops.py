"""Models saved with skops: the loaded model predicts, and goes on training, as the saved one does."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpusoftmax import EarlyStopping, LinearSVMClassifier, SoftmaxClassifier, SoftmaxClassifierCV, get_backend, sweep

skops_io = pytest.importorskip("skops.io")

Y = np.arange(60) % 3
X = np.random.default_rng(0).standard_normal((60, 3)) + Y[:, None]
CV = SoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3)
MODELS: dict[str, Any] = {
    "softmax": lambda: SoftmaxClassifier().fit(X, Y),
    "SVM": lambda: LinearSVMClassifier().fit(X, Y),
    "a stream": lambda: SoftmaxClassifier().partial_fit(X, Y),
    "a stream of an SVM": lambda: LinearSVMClassifier().partial_fit(X, Y),
    "validation and callbacks": lambda: SoftmaxClassifier(callbacks=[EarlyStopping()]).fit(X, Y, validation=(X, Y)),
    "a backend": lambda: SoftmaxClassifier(backend=get_backend("cpu", 1)).fit(X, Y),
    "class weights": lambda: SoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 1.0}).fit(X, Y),
    "CV": lambda: CV.fit(X, Y),
    "CV without a refit": lambda: SoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3, refit=False).fit(X, Y),
    "a pipeline": lambda: make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(X, Y),
    "a pipeline of CV": lambda: make_pipeline(StandardScaler(), CV).fit(X, Y),
}  # fmt: skip


def again(model: Any) -> Any:
    """Saved and loaded, once a user has looked at the types."""
    data = skops_io.dumps(model)
    return skops_io.loads(data, trusted=skops_io.get_untrusted_types(data=data))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_model_comes_back(make: Any) -> None:
    model = make()
    loaded = again(model)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert pickle.loads(pickle.dumps(model)).predict(X).tolist() == model.predict(X).tolist()


def test_a_stream_goes_on() -> None:
    model = SoftmaxClassifier().partial_fit(X, Y)
    np.testing.assert_allclose(again(model).partial_fit(X, Y).coef_, model.partial_fit(X, Y).coef_, rtol=1e-10)


@pytest.mark.parametrize("copied", [again, lambda result: pickle.loads(pickle.dumps(result))], ids=["skops", "pickle"])
def test_a_sweep_keeps_its_models_by_split_and_candidate(copied: Any) -> None:
    result = sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, Y, cv=3)
    loaded = copied(result)
    assert list(loaded.models_) == list(result.models_)
    np.testing.assert_array_equal(loaded.models_[2, 1].coef_, result.models_[2, 1].coef_)
    assert loaded.report == result.report


def test_a_pickle_that_holds_models_as_a_dictionary_is_read() -> None:
    result = sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, Y, cv=3)
    older = object.__new__(type(result))
    older.__setstate__(dict(vars(result)))
    assert older.models_ == result.models_
