"""Model files: everything comes back, nothing is executed, and no damage goes unnoticed."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
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

from gpusoftmax import BadFileError, EarlyStopping, LinearSVMClassifier, SoftmaxClassifier, load_model, save_model
from gpusoftmax.persist import atomic

X = np.random.default_rng(0).standard_normal((40, 3))
CODES = np.arange(40) % 4
SHORT = {"schedule": "cosine", "max_iter": 4}
posix = pytest.mark.skipif(os.name != "posix", reason="modes and the umask are POSIX's")


def fitted(cls: Any = SoftmaxClassifier, names: Any = ("ant", "bee", "cat"), **parameters: Any) -> Any:
    """A model of four passes whose labels are `names`."""
    names = np.asarray(names)
    return cls(**SHORT, **parameters).fit(X, names[CODES % len(names)], validation=(X, names[CODES % len(names)]))


def differences(a: Any, b: Any) -> list[str]:
    """Names of the parameters and fitted attributes in which two models differ; where a stream stands is not saved."""
    names = sorted((set(vars(a)) | set(vars(b))) - {"_stream"})
    missing = [name for name in names if not (hasattr(a, name) and hasattr(b, name))]
    return missing + [name for name in names if name not in missing and not equal(getattr(a, name), getattr(b, name))]


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal, arrays within tuples and NaN included."""
    try:
        np.testing.assert_equal(a, b)
    except AssertionError:
        return False
    return True


def header(path: Path) -> Any:
    """The JSON at the beginning of a safetensors file."""
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def assemble(text: str, data: bytes) -> bytes:
    """A safetensors file with this header."""
    encoded = text.encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


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


# atomic


class HalfWritten:
    """A file that fills the disk in the middle of a write."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(28, "No space left on device")


def fail(*arguments: Any) -> None:
    raise OSError(5, "Input/output error")


def interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


FAILURES = {
    "write": (atomic, "open", lambda path, mode: HalfWritten(open(path, mode)), OSError),  # noqa: SIM115
    "fsync": (os, "fsync", fail, OSError),
    "replace": (os, "replace", fail, OSError),
    "Ctrl-C at fsync": (os, "fsync", interrupt, KeyboardInterrupt),
    "Ctrl-C at replace": (os, "replace", interrupt, KeyboardInterrupt),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_save_leaves_the_old_file(failure: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, action, error = failure
    save_model(fitted(), path)
    old = path.read_bytes()
    monkeypatch.setattr(where, name, action, raising=False)
    with pytest.raises(error):
        save_model(fitted(C=0.1), path)
    assert path.read_bytes() == old


@pytest.mark.parametrize("there", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_save_leaves_no_stray_file(
    failure: Any, there: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, action, error = failure
    if there:
        path.write_bytes(b"old")
    monkeypatch.setattr(where, name, action, raising=False)
    with pytest.raises(error):
        save_model(fitted(), path)
    assert list(path.parent.iterdir()) == ([path] if there else [])


def test_a_save_leaves_no_stray_file(path: Path) -> None:
    save_model(fitted(), path)
    save_model(fitted(), path)
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_model(fitted(), tmp_path / "nowhere" / "model.safetensors")


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(umask: int, mode: int, path: Path) -> None:
    before = os.umask(umask)
    try:
        save_model(fitted(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == mode


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_a_replaced_file_keeps_its_mode(mode: int, path: Path) -> None:
    path.write_bytes(b"old")
    path.chmod(mode)
    save_model(fitted(), path)
    assert path.stat().st_mode & 0o7777 == mode


# damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes]:
    """A model with a bit of everything, and its file, the same in every run: without times, and with sorted keys."""
    model = fitted(
        C=math.inf, scaling=(np.arange(3.0), np.array([1.0, 0.5, 2.0])), class_weight={"ant": 2.0}, random_state=1
    )
    model.feature_names_in_ = np.array(["height", "width", "depth"], dtype=object)
    model.history_ = [replace(record, seconds=0.25, rows_per_second=160.0) for record in model.history_]
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_model(model, path)
    content = path.read_bytes()
    text = json.dumps(header(path), sort_keys=True)  # safetensors shuffles them
    return model, assemble(text + " " * (-len(text) % 8), content[8 + int.from_bytes(content[:8], "little") :])


def outcome(model: Any, content: bytes, path: Path) -> str:
    """What loading a damaged file comes to: "refused", "equal", or what is wrong."""
    path.write_bytes(content)
    try:
        loaded = load_model(path)
    except BadFileError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    changed = differences(model, loaded)
    return f"silently different: {', '.join(changed)}" if changed else "equal"


def test_a_truncated_file_is_refused(saved: tuple[Any, bytes], path: Path) -> None:
    model, content = saved
    lengths = sorted({*range(20), *np.linspace(0, len(content) - 1, 200).astype(int).tolist()})
    outcomes = {length: outcome(model, content[:length], path) for length in lengths}
    assert {length: what for length, what in outcomes.items() if what != "refused"} == {}


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"PK\x05\x06"])
def test_a_file_with_something_behind_it_is_refused(extra: bytes, saved: tuple[Any, bytes], path: Path) -> None:
    model, content = saved
    assert outcome(model, content + extra, path) == "refused"


@pytest.mark.parametrize("part", ["header", "tensors"])
def test_a_flipped_bit_never_goes_unnoticed(part: str, saved: tuple[Any, bytes], path: Path) -> None:
    model, content = saved
    border = 8 + int.from_bytes(content[:8], "little")
    first, last = (0, border) if part == "header" else (border, len(content))
    wrong = {}
    for bit in np.random.default_rng(0).choice(np.arange(8 * first, 8 * last), 300, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        what = outcome(model, bytes(damaged), path)
        if what not in ("refused", "equal"):
            wrong[f"byte {bit // 8}"] = what
    assert wrong == {}


@pytest.fixture
def forge(saved: tuple[Any, bytes], path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the saved model with other metadata or tensors, as an attacker would: with a digest that fits."""
    path.write_bytes(saved[1])
    metadata, tensors = header(path)["__metadata__"], safetensors.numpy.load(saved[1])
    monkeypatch.setattr("gpusoftmax.persist.model._digest", lambda *anything: metadata["sha256"])

    def write(changes: dict[str, Any] | None = None, others: dict[str, Any] | None = None) -> Path:
        texts = {**metadata, **(changes or {})}
        arrays = {**tensors, **(others or {})}
        path.write_bytes(
            safetensors.numpy.save(
                {name: array for name, array in arrays.items() if array is not None},
                {name: text for name, text in texts.items() if text is not None},
            )
        )
        return path

    write.metadata, write.tensors = metadata, tensors  # type: ignore[attr-defined]
    return write


def test_a_forged_file_without_changes_loads(forge: Any, saved: tuple[Any, bytes]) -> None:
    assert differences(load_model(forge()), saved[0]) == []


METADATA = {
    "another format": ({"format": "onnx"}, "not a gpusoftmax model"),
    "no format": ({"format": None}, "not a gpusoftmax model"),
    "a newer version": ({"format_version": "2"}, "version '2'; expected version 1; a newer gpusoftmax"),
    "no version": ({"format_version": None}, "version None"),
    "a key less": ({"objective": None}, "objective"),
    "a key more": ({"code": "import os"}, "code"),
    "an unknown estimator": ({"estimator": "Pipeline"}, "Pipeline"),
    "classes that are no JSON": ({"classes": "{"}, "metadata classes"),
    "classes that are null": ({"classes": "null"}, "inconsistent"),
    "classes out of order": ({"classes": '{"dtype": "str", "values": ["bee", "ant", "cat"]}'}, "sorted"),
    "a class twice": ({"classes": '{"dtype": "str", "values": ["ant", "ant", "cat"]}'}, "distinct"),
    "one class": ({"classes": '{"dtype": "str", "values": ["ant"]}'}, "at least two"),
    "fewer classes": ({"classes": '{"dtype": "str", "values": ["ant", "bee"]}'}, "for 2 classes"),
    "classes of objects": ({"classes": '{"dtype": "object", "values": ["ant", "bee", "cat"]}'}, "classes"),
    "classes in a table": ({"classes": '{"dtype": "int64", "values": [[1], [2], [3]]}'}, "classes"),
    "classes without a type": ({"classes": '{"values": [1, 2, 3]}'}, "dtype"),
    "classes beyond 64 bits": ({"classes": '{"dtype": "int64", "values": [1, 2, 99999999999999999999]}'}, "Overflow"),
    "a key twice in the classes": (
        {"classes": '{"dtype": "str", "values": ["ant", "bee", "cat"], "values": ["ant", "bee", "cow"]}'}, "twice"
    ),
    "deep JSON": ({"fitted": "[" * 100_000}, "metadata fitted"),
    "parameters in a list": ({"parameters": "[1]"}, "inconsistent"),
    "an unknown parameter": ({"parameters": '{"gamma": 1}'}, "gamma"),
    "a parameter out of range": ({"parameters": '{"max_iter": 0}'}, "max_iter=0"),
    "a parameter of objects": ({"parameters": '{"tol": {"eval": "1"}}'}, "parameter tol"),
    "an unknown loss": ({"parameters": '{"loss": "hinge"}'}, "loss='hinge'"),
    "nothing fitted": ({"fitted": "{}"}, "feature_names"),
    "history of something else": (
        {"fitted": '{"n_iter": 1, "stop_reason": "", "backend": "", "feature_names": null, "history": [{"a": 1}]}'},
        "inconsistent",
    ),
    "names of other features": (
        {"fitted": '{"n_iter": 1, "stop_reason": "", "backend": "", "feature_names": ["a"], "history": []}'},
        "1 feature names for 3 features",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", METADATA.values(), ids=METADATA.keys())
def test_forged_metadata_is_refused_with_a_reason(case: Any, forge: Any) -> None:
    changes, words = case
    with pytest.raises(BadFileError) as caught:
        load_model(forge(changes))
    assert words in str(caught.value)


TENSORS = {
    "no coef": ({"coef": None}, "coef"),
    "no intercept": ({"intercept": None}, "intercept"),
    "no shift": ({"shift": None}, "shift"),
    "one more": ({"velocity": np.zeros(3)}, "velocity"),
    "NaN in coef": ({"coef": np.full((3, 3), np.nan)}, "non-finite"),
    "infinity in intercept": ({"intercept": np.array([0.0, np.inf, 0.0])}, "non-finite"),
    "coef of float16": ({"coef": np.zeros((3, 3), np.float16)}, "float16"),
    "coef of integers": ({"coef": np.zeros((3, 3), np.int64)}, "int64"),
    "another type of intercept": ({"intercept": np.zeros(3, np.float32)}, "float32"),
    "a row less": ({"coef": np.zeros((2, 3))}, "(2, 3)"),
    "no features": ({"coef": np.zeros((3, 0))}, "(3, 0)"),
    "coef 1-D": ({"coef": np.zeros(9)}, "(9,)"),
    "a longer intercept": ({"intercept": np.zeros(4)}, "(4,)"),
    "a longer shift": ({"shift": np.zeros(5)}, "shift"),
    "NaN in scale": ({"scale": np.full(3, np.nan)}, "scale"),
    "a negative scale": ({"scale": np.full(3, -1.0)}, "scale"),
}


@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS.keys())
def test_forged_tensors_are_refused_with_a_reason(case: Any, forge: Any) -> None:
    others, words = case
    with pytest.raises(BadFileError) as caught:
        load_model(forge(None, others))
    assert words in str(caught.value)


def test_a_scaling_that_the_parameters_do_not_mention_is_refused(forge: Any) -> None:
    with pytest.raises(BadFileError):
        load_model(forge({"parameters": "{}"}))  # shift and scale are in the file all the same


@pytest.mark.parametrize("key", ["format", "sha256"])
def test_a_key_twice_in_the_header_is_refused(key: str, saved: tuple[Any, bytes], path: Path) -> None:
    length = 8 + int.from_bytes(saved[1][:8], "little")
    text = saved[1][8:length].decode()
    value = json.loads(text)["__metadata__"][key]
    doubled = text.replace('{"__metadata__": {', f'{{"__metadata__": {{"{key}": {json.dumps(value)}, ', 1)
    path.write_bytes(assemble(doubled, saved[1][length:]))
    with pytest.raises(BadFileError, match="twice"):
        load_model(path)


NOT_MODELS = {
    "empty": b"",
    "text": b"This is a README, and a rather short one at that.\n",
    "a pickle": pickle.dumps({"coef": [1.0]}),
    "a ZIP": b"PK\x03\x04" + bytes(200),
    "JSON": b'{"format": "gpusoftmax-model"}',
    "zeros": bytes(1000),
    "a header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "a header that is no object": assemble("[]", b""),
    "a header without metadata": assemble("{}", b""),
    "metadata that is a list": assemble('{"__metadata__": []}', b""),
    "metadata of numbers": assemble('{"__metadata__": {"format": 1}}', b""),
    "a header that is no UTF-8": (4).to_bytes(8, "little") + b'"\xff\xff"',
    "somebody else's tensors": safetensors.numpy.save({"weight": np.zeros((2, 2))}, {"format": "pt"}),
}


@pytest.mark.parametrize("content", NOT_MODELS.values(), ids=NOT_MODELS.keys())
def test_a_file_of_another_kind_is_refused_by_its_name(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="expected a model that save_model wrote") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_the_error_has_its_parts_as_attributes(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(BadFileError) as caught:
        load_model(path)
    assert (caught.value.path, caught.value.place) == (path, "byte 0")


@pytest.mark.parametrize("what", ["nothing", "a folder"])
def test_what_cannot_be_opened_is_an_oserror(what: str, path: Path) -> None:
    if what == "a folder":
        path.mkdir()
    with pytest.raises(OSError, match=path.name):
        load_model(path)


def test_loading_executes_and_imports_nothing(saved: tuple[Any, bytes], path: Path) -> None:
    path.write_bytes(saved[1])
    program = """
import sys
from gpusoftmax import load_model
import sklearn.utils.estimator_checks  # whatever scikit-learn itself imports late
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)))
load_model(sys.argv[1])
print([event for event, _ in seen if event in ("import", "exec", "compile", "pickle.find_class", "os.system",
    "subprocess.Popen", "socket.connect", "marshal.loads", "ctypes.dlopen")])
print([arguments[0] for event, arguments in list(seen) if event == "open"] == [sys.argv[1]])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["[]", "True"]
