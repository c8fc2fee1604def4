"""Model files with an encoder of tables: a loaded one equals the saved one, and forged ones are refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpusoftmax import BadFileError, SoftmaxClassifier, load_model, make_table_classifier, save_model
from gpusoftmax.models.format import KEYS
from tests.support.hostile import assert_refused
from tests.support.model_files import header, signed

N = 30
RAW: dict[str, list[Any]] = {
    "island": [("Biscoe", "Dream", "Biscoe", "Ünst", "Dream")[i % 5] for i in range(N - 1)] + ["rare"],
    "sex": [("male", "female", None)[i % 3] for i in range(N)],
    "bill": [None if i % 7 == 3 else 30.0 + i for i in range(N)],
    "note": [f"rain and snow {('today', 'tomorrow')[i % 2]} near rock {i}" for i in range(N)],
    "id": [f"N{i}" for i in range(N)],
}
Y = np.arange(N) % 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is to be written."""
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Any:
    """A fitted model with columns of every kind, saved at `path`."""
    with pytest.warns(UserWarning, match="'id' is left out"):
        model = make_table_classifier(SoftmaxClassifier(C=3), n_hashes=1 << 10, kinds={"bill": "number"}).fit(RAW, Y)
    save_model(model, path)
    return model


def test_a_loaded_model_predicts_the_same_bits_for_raw_tables_and_for_features(saved: Any, path: Path) -> None:
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded.predict_proba(RAW), saved.predict_proba(RAW))
    Z, again = (model["encoder"].transform(RAW) for model in (saved, loaded))
    assert (Z != again).nnz == 0
    np.testing.assert_array_equal(loaded.predict_proba(Z), saved.predict_proba(RAW))
    unseen = {name: column[:2] for name, column in RAW.items()} | {"island": ["Torgersen", None], "sex": ["?", "x"]}
    np.testing.assert_array_equal(loaded.predict_proba(unseen), saved.predict_proba(unseen))
    assert loaded["encoder"].left_out_ == saved["encoder"].left_out_
    assert saved["encoder"].left_out_.keys() == {"id"}
    assert loaded["encoder"].get_params() == saved["encoder"].get_params()


def test_a_loaded_model_can_be_saved_again(saved: Any, path: Path, tmp_path: Path) -> None:
    save_model(load_model(path), tmp_path / "again")
    np.testing.assert_array_equal(load_model(tmp_path / "again").predict_proba(RAW), saved.predict_proba(RAW))


def test_models_without_an_encoder_are_of_the_version_that_older_releases_read(path: Path) -> None:
    save_model(SoftmaxClassifier().fit(np.eye(9), np.arange(9) % 3), path)
    assert header(path)["__metadata__"]["format_version"] == "1"
    assert header(path)["__metadata__"].keys() == KEYS


def test_a_model_of_an_array_of_objects_comes_back(path: Path) -> None:
    X = np.array([RAW["island"], RAW["bill"]], dtype=object).T
    model = make_table_classifier().fit(X, Y)
    save_model(model, path)
    np.testing.assert_array_equal(load_model(path).predict_proba(X), model.predict_proba(X))


def test_other_pipelines_are_refused(path: Path) -> None:
    model = make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(np.eye(9), np.arange(9) % 3)
    with pytest.raises(TypeError, match=r"estimator is a Pipeline; pass one of .* or a Pipeline of a TableEncoder and"):
        save_model(model, path)


def test_long_names_take_no_memory_when_a_model_is_loaded(path: Path) -> None:
    table = {"x" * 100_000: [f"v{i % 500}" for i in range(1000)]}
    save_model(make_table_classifier().fit(table, np.arange(1000) % 2), path)
    tracemalloc.start()
    load_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # with the names of all features it was 50 MB


FORGED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "encoder is not JSON"),
    "a list": ([], "encoder is a list, not an object"),
    "nothing": ({}, "encoder: .*missing"),
    "a key more": ({"code": "import os"}, "'code'. missing or unknown"),
    "an unknown kind": ({"parameters": {"kinds": {"bill": "eval"}, "min_frequency": 2, "n_hashes": 9}}, "not known"),
    "parameters of text": ({"parameters": {"kinds": None, "min_frequency": "2", "n_hashes": 9}}, "min_frequency is"),
    "no frequency": ({"parameters": {"kinds": None, "min_frequency": 0, "n_hashes": 9}}, "min_frequency=0"),
    "columns twice": ({"columns": ["bill", "bill"]}, "columns .* are not distinct names"),
    "columns that are numbers": ({"columns": [1, 2]}, "columns .* are not distinct names"),
    "a column less": ({"columns": ["island", "sex", "bill", "note"]}, "of which .* are used"),
    "another number of means": ({"numbers": {"names": [], "gaps": []}}, r"encoder.mean \(1,\)"),
    "gaps that are numbers": ({"numbers": {"names": ["bill"], "gaps": [1]}}, "gaps .* of 1 columns"),
        "values twice": ({"categories": [{"name": "sex", "values": ["a", "a"], "has_rare": True}]}, "not sorted and"),
    "values out of order": ({"categories": [{"name": "sex", "values": ["b", "a"], "has_rare": True}]}, "not sorted"),
    "a gap that is first": ({"categories": [{"name": "sex", "values": [None, "a"], "has_rare": True}]}, "of 'sex'"),
    "values that are numbers": ({"categories": [{"name": "sex", "values": [1], "has_rare": True}]}, "of 'sex'"),
    "a flag of text": ({"categories": [{"name": "sex", "values": ["a"], "has_rare": "no"}]}, "has_rare is a str"),
    "more hashes": ({"texts": [{"name": "note", "n_hashes": 1024, "used": 10**9}]}, "encoder.hashes"),
    "hashes beyond": ({"texts": [{"name": "note", "n_hashes": 2, "used": None}]}, "used is a NoneType"),
    "too many hashes": ({"texts": [{"name": "note", "n_hashes": 2**40, "used": 3}]}, "n_hashes 1099511627776"),
    "a reason that is none": ({"left_out": {"id": 1}}, "left_out holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED.values(), ids=FORGED.keys())
def test_forged_encoders_are_refused(case: Any, saved: Any, path: Path) -> None:
    changes, words = case
    metadata, tensors = header(path)["__metadata__"], safetensors.numpy.load(path.read_bytes())
    whole = json.loads(metadata["encoder"])
    forged = changes if isinstance(changes, str) else json.dumps({**whole, **changes} if changes else changes)
    path.write_bytes(signed({**metadata, "encoder": forged}, tensors))
    assert_refused(load_model, path, words)


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "no mean": ({"encoder.mean": None}, "encoder.mean"),
    "a scale of zero": ({"encoder.scale": np.zeros(1)}, "not positive"),
    "a scale of almost zero": ({"encoder.scale": np.full(1, 1e-320)}, "cannot be used"),
    "a scale that is infinite": ({"encoder.scale": np.full(1, np.inf)}, "cannot be used"),
    "a mean of another type": ({"encoder.mean": np.zeros(1, np.float32)}, "encoder.mean has type 'F32'"),
    "hashes out of order": ({"encoder.hashes": None}, "encoder.hashes"),
    "an idf of NaN": ({"encoder.idf": np.nan}, "encoder.idf"),
    "a negative idf": ({"encoder.idf": -1.0}, "encoder.idf"),
}


@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS.keys())
def test_forged_tensors_of_an_encoder_are_refused(case: Any, saved: Any, path: Path) -> None:
    changes, words = case
    metadata, tensors = header(path)["__metadata__"], safetensors.numpy.load(path.read_bytes())
    for name, tensor in changes.items():
        if tensor is None and name == "encoder.hashes":
            tensors[name] = tensors[name][::-1].copy()
        elif tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor if isinstance(tensor, np.ndarray) else np.full_like(tensors[name], tensor)
    path.write_bytes(signed(metadata, tensors))
    assert_refused(load_model, path, words)


def test_an_encoder_of_another_number_of_features_is_refused(saved: Any, path: Path) -> None:
    metadata, tensors = header(path)["__metadata__"], safetensors.numpy.load(path.read_bytes())
    tensors["coef"] = tensors["coef"][:, 1:].copy()
    path.write_bytes(signed(metadata, tensors))
    assert_refused(load_model, path, "an encoder of .* features for")


def test_any_flipped_bit_is_refused(saved: Any, path: Path) -> None:
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, 8 * len(content), 300).tolist():
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            loaded = load_model(path)
        except BadFileError:
            continue
        np.testing.assert_array_equal(loaded.predict_proba(RAW), saved.predict_proba(RAW))
