"""Model files: a loaded model equals the saved one, and a model that cannot be restored is not saved.

Bad files are in tests/properties/test_hostile_models.py.
"""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from gpusoftmax import EarlyStopping, LinearSVMClassifier, SoftmaxClassifier, load_model, save_model
from tests.support.model_files import CODES, SHORT, X, differences, fitted, header, signed
from tests.tools import kills


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is to be written."""
    return tmp_path / "model.safetensors"


# there and back


MODELS = {
    "default": {},
    "two classes": {"names": ["no", "yes"]},
    "hinge": {"cls": LinearSVMClassifier, "loss": "hinge"},
    "squared hinge": {"cls": LinearSVMClassifier},
    "SVM of two": {"cls": LinearSVMClassifier, "names": ["no", "yes"]},
    "integers": {"names": [-3, 2**40, 7]},
    "unsigned": {"names": np.array([1, 2**64 - 1], np.uint64)},
    "floats": {"names": [0.0, 1e15, -1.0]},
    "booleans": {"names": [True, False]},
    "strings beyond ASCII": {"names": ["Ärger", "日本", "quote\"and\\", ""]},
    "strings as objects": {"names": np.array(["b", "a", "c"], object)},
    "standard": {"scaling": "standard"},
    "arrays as scaling": {"scaling": (np.arange(3.0), np.array([1.0, 0.5, 2.0]))},
    "numbers as scaling": {"scaling": (1.5, 2)},
    "a shift alone": {"scaling": (np.arange(3.0), None)},
    "a scale alone": {"scaling": (None, 0.5)},
    "no shift, no scale": {"scaling": (None, None)},
    "class weights": {"class_weight": {"ant": 2.0, "cat": 0.5}},
    "class weights of integers": {"names": [4, 5, 6], "class_weight": {4: 2.0, 6: 0.5}},
    "class weights of NumPy's": {"names": [4, 5, 6], "class_weight": {np.int64(4): np.float32(2.0)}},
    "balanced": {"class_weight": "balanced"},
    "smoothed labels": {"label_smoothing": 0.1},
    "smoothed labels, NumPy's": {"label_smoothing": np.float32(0.25)},
    "C infinite": {"C": math.inf},
    "C infinite of NumPy's": {"C": np.float64(np.inf)},
    "C": {"C": 0.3},
    "l2": {"l2": 0},
    "every other parameter": {
        "fit_intercept": True, "penalize_intercept": True, "tol": 0.0, "batch_size": 7, "learning_rate": 0.25,
        "momentum": 0.5, "nesterov": False, "random_state": 3, "backend": "numpy", "n_threads": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
def test_everything_comes_back(settings: Any, path: Path) -> None:
    model = fitted(**settings)
    save_model(model, path)
    assert differences(model, load_model(path)) == []


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
def test_scores_have_the_same_bits(settings: Any, path: Path) -> None:
    model = fitted(**settings)
    save_model(model, path)
    assert load_model(path).decision_function(X).tobytes() == model.decision_function(X).tobytes()


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
def test_predictions_are_the_same_labels(settings: Any, path: Path) -> None:
    model = fitted(**settings)
    save_model(model, path)
    assert load_model(path).predict(X).tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS.keys())
def test_a_loaded_model_can_be_fitted_again(settings: Any, path: Path) -> None:
    model = fitted(**settings)
    save_model(model, path)
    y = model.predict(X)
    y[: len(model.classes_)] = model.classes_  # all of them
    again = clone(load_model(path)).fit(X, y)
    np.testing.assert_array_equal(again.coef_, clone(model).fit(X, y).coef_)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_the_type_of_the_weights_comes_back(dtype: Any, path: Path) -> None:
    save_model(SoftmaxClassifier(**SHORT).fit((50 * abs(X)).astype(dtype), CODES), path)
    assert load_model(path).coef_.dtype == (np.float64 if dtype == np.float64 else np.float32)


def test_feature_names_come_back(path: Path) -> None:
    model = fitted()
    model.feature_names_in_ = np.array(["a", "bé", "c"], dtype=object)  # as fitting a data frame leaves them
    save_model(model, path)
    assert load_model(path).feature_names_in_.tolist() == ["a", "bé", "c"]


def test_without_feature_names_there_are_none_afterwards(path: Path) -> None:
    save_model(fitted(), path)
    assert not hasattr(load_model(path), "feature_names_in_")


def test_a_random_state_object_comes_back_as_none(path: Path) -> None:
    save_model(fitted(random_state=np.random.RandomState(3)), path)
    assert load_model(path).random_state is None


def test_a_seed_of_numpys_comes_back_as_a_number(path: Path) -> None:
    save_model(fitted(random_state=np.int64(3)), path)
    assert load_model(path).random_state == 3


def test_callbacks_do_not_come_back(path: Path) -> None:
    save_model(fitted(callbacks=[EarlyStopping(), lambda record: None]), path)
    assert load_model(path).callbacks == ()


def test_a_backend_object_comes_back_as_its_name(cpu_backend: Any, path: Path) -> None:
    save_model(fitted(backend=cpu_backend), path)
    assert load_model(path).backend == cpu_backend.name


def test_a_path_may_be_a_string(path: Path) -> None:
    save_model(fitted(), str(path))
    assert differences(load_model(str(path)), load_model(path)) == []


@pytest.mark.slow
@given(
    names=st.one_of(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
                 min_size=2, max_size=6, unique=True),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True),
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_labels_come_back(names: list[Any], path: Path) -> None:
    rows = np.resize(np.arange(len(names)), 12)
    model = SoftmaxClassifier(backend="numpy", **SHORT).fit(X[:12], np.array(names)[rows])
    save_model(model, path)
    assert load_model(path).classes_.tolist() == sorted(names)


def test_other_programs_can_read_the_tensors(path: Path) -> None:
    model = fitted(scaling=(np.arange(3.0), None))
    save_model(model, path)
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == ["coef", "intercept", "shift"]
    np.testing.assert_array_equal(tensors["coef"], model.coef_)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "mean softmax loss + (l2 / 2) (||W||^2), l2 = 1 / (C S), C = 1.0, scaling = None"),
        ({"l2": 0.5, "penalize_intercept": True}, "mean softmax loss + (l2 / 2) (||W||^2 + ||b||^2), l2 = 0.5"),
        ({"cls": LinearSVMClassifier, "scaling": (0.0, None)}, "squared_hinge"),
        ({"scaling": (0.0, None)}, "scaling = shift and scale given"),
        ({"label_smoothing": np.float64(0.1)}, "mean softmax loss of labels smoothed by 0.1 + (l2 / 2)"),
    ],
)
def test_the_objective_is_written_in_words(settings: Any, words: str, path: Path) -> None:
    save_model(fitted(**settings), path)
    assert words in header(path)["__metadata__"]["objective"]


# what cannot be saved


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_an_unfitted_model_is_refused(cls: Any, path: Path) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        save_model(cls(), path)


@pytest.mark.parametrize("thing", [LogisticRegression(), {}, None, SoftmaxClassifier])
def test_a_foreign_object_is_refused(thing: Any, path: Path) -> None:
    with pytest.raises(TypeError, match=r"estimator is a .*; pass one of SoftmaxClassifier, LinearSVMClassifier"):
        save_model(thing, path)


@pytest.mark.parametrize("thing", [SoftmaxClassifier(), LogisticRegression()])
def test_a_refusal_leaves_no_file(thing: Any, path: Path) -> None:
    with pytest.raises((TypeError, NotFittedError)):
        save_model(thing, path)
    assert list(path.parent.iterdir()) == []


def test_labels_that_cannot_be_stored_are_named(path: Path) -> None:
    model = fitted()
    model.classes_ = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[D]")
    with pytest.raises(TypeError, match=r"labels of dtype datetime64\[D\] cannot be stored; use integers"):
        save_model(model, path)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("coef_", np.full((3, 3), np.nan), "NaN"),
        ("intercept_", np.array([0.0, np.inf, 0.0]), "infinity"),
        ("max_iter", 0, "max_iter=0"),
        ("backend", "abacus", "backend='abacus'"),
        ("classes_", np.array(["a\0", "b", "c"], object), "come back as"),  # NumPy drops zeros at the end of strings
        ("classes_", np.array(["a", "b", "\ud83d" + "\ude00"]), "come back as"),  # in JSON one letter
        ("classes_", np.array(["a" * 3_000_000, "b", "c"]), "names of up to 3000000 characters; shorten"),
        ("classes_", np.array(["a", "b", "c"])[::-1], "sorted"),
        ("feature_names_in_", np.array(["x" * 3_000_000] * 3, object), "more than 8388608; shorten names or history"),
        ("n_iter_", 10**30, "31 digits"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(attribute: str, value: Any, words: str, path: Path) -> None:
    model = fitted()
    setattr(model, attribute, value)
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=f"estimator cannot be saved.*{words}"):
        save_model(model, path)
    assert path.read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.parametrize(("passes", "kept"), [(1, 1), (4096, 4096), (4097, 2049), (50_000, 3847)])
def test_of_a_long_history_records_at_equal_distances_are_kept_and_the_last(passes: int, kept: int, path: Path) -> None:
    model = fitted()
    model.history_ = [replace(model.history_[0], step=i) for i in range(passes)]
    save_model(model, path)
    steps = [record.step for record in load_model(path).history_]
    assert (len(steps), steps[-1], len(set(np.diff(steps)))) == (kept, passes - 1, min(kept - 1, 1))


@pytest.mark.parametrize("call", [lambda path: save_model(fitted(), path), load_model], ids=["save", "load"])
@pytest.mark.parametrize(
    ("path", "words"), [(None, "path=None is a NoneType"), (3, "path=3 is a int"), ("", "not a path")]
)
def test_what_is_no_path_is_refused(call: Any, path: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call(path)


def test_names_of_many_classes_can_be_saved(path: Path) -> None:
    model = fitted()
    model.classes_ = np.array([f"class, or number: {i:06d}" for i in range(60_000)])
    model.coef_, model.intercept_ = np.zeros((60_000, 3)), np.zeros(60_000)
    save_model(model, path)
    assert differences(load_model(path), model) == []


# what stays if something goes wrong while a model is written: tests/files/test_atomic.py has the rest


def test_a_save_that_fails_leaves_the_old_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = fitted()
    save_model(model, path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path.parent}"):
        save_model(fitted(C=0.1), path)
    assert differences(load_model(path), model) == []
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="fork is POSIX's")
def test_a_process_that_is_killed_leaves_a_whole_model() -> None:
    assert kills.kill_saves(kills=8, seed=0).endswith("after one more save 0")


# files of earlier versions


def test_a_file_of_an_earlier_version_loads(path: Path) -> None:
    model = fitted()
    save_model(model, path)
    metadata = header(path)["__metadata__"]
    parameters, training = json.loads(metadata["parameters"]), json.loads(metadata["fitted"])
    del parameters["label_smoothing"], training["fit_report"], training["weight_sum"]
    changed = {**metadata, "parameters": json.dumps(parameters), "fitted": json.dumps(training)}
    path.write_bytes(signed(changed, safetensors.numpy.load_file(path)))
    del model.fit_report_, model.weight_sum_
    assert differences(load_model(path), model) == []


def test_a_report_of_an_earlier_version_loads(path: Path) -> None:
    model = fitted()
    save_model(model, path)
    metadata = header(path)["__metadata__"]
    training = json.loads(metadata["fitted"])
    del training["fit_report"]["kept"]
    path.write_bytes(signed({**metadata, "fitted": json.dumps(training)}, safetensors.numpy.load_file(path)))
    assert load_model(path).fit_report_ == replace(model.fit_report_, kept=None)
