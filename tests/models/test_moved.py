"""Models and pickles that version 0.1.0 saved still load, although modules have moved since."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from gpusoftmax import SoftmaxClassifier, load_model
from gpusoftmax._moved import MOVED

DATA = Path(__file__).parents[1] / "data"
X = load_iris(return_X_y=True)[0]
OBJECTS = ["softmax", "svm", "stream", "stopped", "cv", "sweep", "probe", "backend"]


@pytest.fixture(scope="module")
def saved() -> Any:
    """The objects of a pickle that 0.1.0 wrote, and what they predicted for iris."""
    with (DATA / "objects-0.1.0.pickle").open("rb") as file:
        return pickle.load(file)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_that_was_pickled_by_0_1_0_predicts_as_it_did(name: str, saved: Any) -> None:
    objects, predictions = saved
    assert list(objects) == OBJECTS
    if name == "backend":
        assert objects[name].name == "cpu"
        return
    model = {"sweep": "best_estimator_", "probe": "estimator"}.get(name)
    model = objects[name] if model is None else getattr(objects[name], model)
    np.testing.assert_array_equal(model.predict(X), predictions[name])


def test_a_stream_that_was_pickled_by_0_1_0_goes_on(saved: Any) -> None:
    model = saved[0]["stream"]
    assert model.partial_fit(X, load_iris(return_X_y=True)[1]).n_iter_ == 1


def test_a_model_file_of_0_1_0_predicts_as_its_model_did(saved: Any) -> None:
    model = load_model(DATA / "softmax-0.1.0.safetensors")
    assert isinstance(model, SoftmaxClassifier)
    np.testing.assert_array_equal(model.predict(X), saved[1]["softmax"])


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_can_be_imported_by_its_old_name(old: str, new: str) -> None:
    name = next(name for name, value in vars(importlib.import_module(new)).items() if isinstance(value, type))
    assert getattr(importlib.import_module(old), name) is getattr(importlib.import_module(new), name)


def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("gpusoftmax.nothing")
