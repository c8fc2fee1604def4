"""ONNX files, served by onnxruntime, against the classifiers that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, load_cifar10, make_table_classifier, save_onnx

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def served(model: Any, X: Any, path: Path, **options: Any) -> dict[str, Any]:
    """What onnxruntime computes from the model's file, by the names of the outputs."""
    save_onnx(model, path / "model.onnx", **options)
    session = runtime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": X}), strict=True))


def rows(rng: np.random.Generator, dtype: str, n: int = 300, d: int = 12) -> Any:
    X = rng.normal(100, 50, (n, d))
    return X.clip(0, 255).astype(dtype) if dtype == "uint8" else X.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8"])
@pytest.mark.parametrize("c", [2, 5])
def test_labels_and_probabilities_are_those_of_the_model(
    dtype: str, c: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    X, y = rows(rng, dtype), rng.integers(0, c, 300)
    model = SoftmaxClassifier(scaling="standard").fit(X, y)
    found = served(model, X, tmp_path, input_type=dtype)
    assert list(found) == ["label", "probabilities"]
    assert found["label"].dtype == np.int64
    np.testing.assert_array_equal(found["label"], model.predict(X))
    # the model computes in float32, the file in float64: scores of some hundred terms differ by some 100 eps
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [["ash", "birch", "cedar"], [10, 20, 30], [False, True], [1.0, 2.0, 4.0]],
    ids=["str", "int", "bool", "float"],
)
def test_labels_keep_their_type(labels: list[Any], rng: np.random.Generator, tmp_path: Path) -> None:
    X, y = rows(rng, "float32"), np.array(labels)[rng.integers(0, len(labels), 300)]
    model = SoftmaxClassifier(scaling="standard").fit(X, y)
    assert served(model, X, tmp_path)["label"].tolist() == model.predict(X).tolist()


def test_an_svm_has_scores(rng: np.random.Generator, tmp_path: Path) -> None:
    X, y = rows(rng, "float32"), rng.integers(0, 3, 300)
    model = LinearSVMClassifier(scaling="standard").fit(X, y)
    found = served(model, X, tmp_path)
    assert list(found) == ["label", "scores"]
    np.testing.assert_allclose(found["scores"], model.decision_function(X), atol=1e-4)


def test_names_of_features_are_in_the_file(rng: np.random.Generator, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(rng, "float32", d=2), columns=["length", "width"])
    save_onnx(SoftmaxClassifier().fit(frame, rng.integers(0, 2, 300)), tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["feature_names"] == '["length", "width"]'


def test_a_pipeline_is_refused(tmp_path: Path) -> None:
    model = make_table_classifier().fit({"a": ["x", "y", "x", "y"]}, [0, 1, 0, 1])
    with pytest.raises(TypeError, match=r"model is a Pipeline.*encode the table"):
        save_onnx(model, tmp_path / "model.onnx")


def test_a_wrong_type_of_input_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    model = SoftmaxClassifier().fit(rows(rng, "float32"), rng.integers(0, 2, 300))
    with pytest.raises(ValueError, match="input_type='int8'"):
        save_onnx(model, tmp_path / "model.onnx", input_type="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_thousand_classes(rng: np.random.Generator, tmp_path: Path) -> None:
    X, y = rng.normal(size=(2000, 32)).astype(np.float32), np.arange(2000) % 1000
    model = SoftmaxClassifier(max_iter=3, tol=0.1).fit(X, y)
    found = served(model, X, tmp_path)
    np.testing.assert_array_equal(found["label"], model.predict(X))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-6)


@pytest.mark.cifar10
def test_cifar10_from_bytes(cifar10_folder: Path, tmp_path: Path) -> None:
    data = load_cifar10(cifar10_folder)
    model = SoftmaxClassifier(C=1e-3, scaling="standard").fit(data.X_train, data.y_train)
    found = served(model, data.X_test, tmp_path, input_type="uint8")
    np.testing.assert_array_equal(found["label"], model.predict(data.X_test))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(data.X_test), atol=1e-6)
