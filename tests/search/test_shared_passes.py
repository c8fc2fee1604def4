"""Sweeps over rows in files: the models of all folds share each pass, and are those of a sweep in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit

from gpusoftmax import SoftmaxClassifier, open_rows, sweep
from gpusoftmax.cpu import threads
from gpusoftmax.rows import file_rows
from gpusoftmax.rows.file_rows import FileRows, SelectedRows
from tests.support.cases import blobs

N, D = 700, 6
CS = {"C": [0.01, 0.1, 1.0]}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """X in memory and in a file that is not mapped, and labels."""
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)
    monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
    X, y = blobs(0, n=N, d=D, c=4, apart=0.7)
    np.save(tmp_path / "X.npy", X.astype(np.float64))  # so that results differ by the tolerance alone
    return X.astype(np.float64), open_rows(tmp_path / "X.npy"), y


OPTIONS: dict[str, dict[str, Any]] = {
    "folds": {"cv": 3},
    "class weights": {"cv": 3, "estimator": {"class_weight": "balanced"}},
    "sample weights": {"cv": 3, "sample_weight": np.random.default_rng(0).integers(0, 3, N) + (np.arange(N) % 9 > 0)},
    "smoothed labels": {"cv": 3, "estimator": {"label_smoothing": 0.2}},
    "a penalised intercept": {"cv": 3, "estimator": {"penalize_intercept": True}},
    "scales of their own": {"cv": 3, "estimator": {"scaling": "standard"}},
    "splits that overlap": {"cv": ShuffleSplit(2, test_size=0.3, random_state=0)},
    "rows drawn twice": {"cv": [(np.random.default_rng(0).integers(0, 500, 600), np.arange(500, N))]},
    "a fraction held out": {"validation": 0.25},
    "another loss to choose by": {"cv": 3, "scoring": "log_loss", "rule": "1se"},
    "a scorer": {"cv": 3, "scoring": "f1_macro"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_sweep_over_files_finds_the_models_of_one_in_memory(rows: Any, name: str) -> None:
    X, streamed, y = rows
    options = dict(OPTIONS[name])
    estimator = SoftmaxClassifier(backend="cpu", tol=1e-9, max_iter=500, **options.pop("estimator", {}))
    expected = sweep(estimator, CS, X, y, **options)
    found = sweep(estimator, CS, streamed, y, **options)
    assert found.best_params_ == expected.best_params_
    for key, model in expected.models_.items():
        # strongly convex: gradients of 1e-9 leave less than 1e-9 / l2, and l2 is at least 1 / (C S)
        np.testing.assert_allclose(found.models_[key].coef_, model.coef_, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.models_[key].intercept_, model.intercept_, rtol=0, atol=1e-5)
    measures = ["loss", "accuracy", "score"]
    np.testing.assert_allclose(found.table[measures], expected.table[measures], rtol=1e-5)


def test_all_folds_and_penalties_share_each_pass(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, streamed, y = rows
    passes, blocks = list[Any](), FileRows.blocks

    def counted(self: FileRows, step: int, within: int | None = None) -> Any:
        passes.append(self)
        return blocks(self, step, within)

    def selected(self: SelectedRows, step: int, within: int | None = None) -> Any:
        raise AssertionError("some rows alone were read")

    monkeypatch.setattr(FileRows, "blocks", counted)
    monkeypatch.setattr(SelectedRows, "blocks", selected)
    result = sweep(SoftmaxClassifier(backend="cpu"), CS, streamed, y, cv=5, refit=False)
    trained = result.table["passes"].max()
    assert len(passes) <= trained + 3  # and one for the moments, one for the losses of the held-out rows


def test_folds_take_turns_where_their_weights_would_not_fit(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, streamed, y = rows
    monkeypatch.setattr(FileRows, "memory", 8 * 4 * N * 5)  # a quarter is for the weights of 5 folds, once
    found = sweep(SoftmaxClassifier(backend="cpu"), CS, streamed, y, cv=5)
    assert found.best_params_ == sweep(SoftmaxClassifier(backend="cpu"), CS, X, y, cv=5).best_params_


def test_out_of_fold_predictions_are_made_from_files(rows: Any) -> None:
    X, streamed, y = rows
    estimator = SoftmaxClassifier(backend="cpu", tol=1e-9, max_iter=500)
    found, expected = (sweep(estimator, CS, one, y, cv=4, out_of_fold=True) for one in (streamed, X))
    np.testing.assert_allclose(found.out_of_fold_probabilities_, expected.out_of_fold_probabilities_, rtol=0, atol=1e-5)


def test_minibatches_are_swept_over_files(rows: Any) -> None:
    _, streamed, y = rows
    estimator = SoftmaxClassifier(backend="cpu", solver="sgd", max_iter=20, tol=0)
    found = sweep(estimator, {"learning_rate": [0.01, 0.1]}, streamed, y, cv=3)
    assert found.table["accuracy"].max() > 0.6
