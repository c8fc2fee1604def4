"""The command line with --memory-limit: features stay in their files, and the results are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpusoftmax import load_model
from tests.support.cases import blobs, sha256

LIMIT = ("--memory-limit", "20MB")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Rows in every form that can stay in files, by the name of the form."""
    X, y = blobs(0, n=400, d=6, c=3)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    save_file({"features": X}, tmp_path / "X.safetensors")
    forms = {"npy": f"{tmp_path / 'X.npy'},{tmp_path / 'y.npy'}"}
    forms["safetensors"] = f"{tmp_path / 'X.safetensors'},{tmp_path / 'y.npy'}"
    try:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"embedding": list(X), "label": y})
        pyarrow.parquet.write_table(table, tmp_path / "X.parquet")
        forms["parquet"] = str(tmp_path / "X.parquet")
    except ImportError:
        pass
    return forms


def bits(path: Path) -> str:
    model = load_model(path)
    return sha256(model.coef_, model.intercept_)


def test_models_have_the_same_bits(files: dict[str, str], run: Any, tmp_path: Path) -> None:
    first, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    expected = json.loads(run("train", files["npy"], "--save", first, "--quiet", "--json").out)
    for form in files.values():
        done = run("train", form, *LIMIT, "--save", other, "--quiet", "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert bits(other) == bits(first)
        assert {key: found[key] for key in ("C", "test_accuracy", "loss")} == {
            key: expected[key] for key in ("C", "test_accuracy", "loss")
        }


def test_evaluation_and_predictions_are_the_same(files: dict[str, str], run: Any, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    run("train", files["npy"], "--save", model, "--quiet")
    expected = json.loads(run("evaluate", model, files["npy"], "--json").out)
    X = files["npy"].partition(",")[0]
    run("predict", model, X, "--out", tmp_path / "expected.npy", "--probabilities")
    for form in files.values():
        found = json.loads(run("evaluate", model, form, *LIMIT, "--json").out)
        assert (found["accuracy"], found["log_loss"]) == (expected["accuracy"], expected["log_loss"])
        features = form.partition(",")[0]
        done = run("predict", model, features, *LIMIT, "--out", tmp_path / "found.npy", "--probabilities")
        assert done.code == 0, done.err
        assert sha256(np.load(tmp_path / "found.npy")) == sha256(np.load(tmp_path / "expected.npy"))


def test_a_sweep_reads_its_folds_from_files(files: dict[str, str], run: Any) -> None:
    options = ("--cv", 3, "--C", "0.01,0.1,1", "--quiet", "--json")
    expected, found = (json.loads(run("sweep", files["npy"], *options, *more).out) for more in ((), LIMIT))
    assert found["best"] == expected["best"]
    assert found["score"] == pytest.approx(expected["score"])


def test_what_would_have_to_be_read_into_memory_is_refused(files: dict[str, str], run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n2,1\n")
    done = run("train", tmp_path / "a.csv", *LIMIT)
    assert done.code == 1
    assert "has to be read into memory" in done.err
    done = run("train", files["npy"], "--memory-limit", "12 parrots")
    assert "memory_limit='12 parrots' is not a size" in done.err
    done = run("train", files["npy"], *LIMIT, "--delimiter", ";")
    assert "--delimiter is not for --memory-limit" in done.err
    assert "--memory-limit is for files of your own" in run("train", "digits", *LIMIT).err


def test_columns_without_names_cannot_be_dropped(files: dict[str, str], run: Any) -> None:
    done = run("train", files["npy"], "--drop", "a", *LIMIT)
    assert done.code != 0
    assert "have no names; save the file without them" in done.err
