"""Fits whose rows are on a cluster: the bits of fits in memory, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, open_rows, sweep
from gpusoftmax.cluster.rows import ClusterRows
from gpusoftmax.cluster.sources import RowFiles
from gpusoftmax.cpu import threads
from gpusoftmax.exceptions import ClusterError
from tests.support.blocks import InBlocks
from tests.support.cases import blobs, sha256
from tests.support.in_process import InProcess, on_cluster

N, D, CLASSES = 700, 6, 4


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # 64 rows


@pytest.fixture
def data() -> Any:
    X, y = blobs(0, n=N, d=D, c=CLASSES)
    return X.astype(np.float32), y


def bits(model: Any) -> str:
    return sha256(model.coef_, model.intercept_)


FITS: dict[str, tuple[Any, dict[str, Any]]] = {
    "default": ({}, {}),
    "strong": ({"C": 1e-3, "tol": 1e-6}, {}),
    "standardised": ({"scaling": "standard"}, {}),
    "scaled": ({"scaling": (1.0, 2.0)}, {}),
    "no intercept": ({"fit_intercept": False}, {}),
    "penalised intercept": ({"penalize_intercept": True}, {}),
    "class weights": ({"class_weight": "balanced"}, {}),
    "sample weights": ({}, {"sample_weight": np.linspace(0.1, 2.0, N)}),
    "smoothed labels": ({"label_smoothing": 0.1}, {}),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_has_the_bits_of_a_fit_in_memory(name: str, data: Any) -> None:
    X, y = data
    parameters, options = FITS[name]
    expected = SoftmaxClassifier(backend="cpu", n_threads=2, **parameters).fit(X, y, **options)
    for workers in (1, 3):
        found = SoftmaxClassifier(backend="cpu", **parameters).fit(on_cluster(X, workers), y, **options)
        assert bits(found) == bits(expected), workers
        assert found.fit_report_.passes == expected.fit_report_.passes
        assert found.fit_report_.bound == pytest.approx(expected.fit_report_.bound)
        assert found.fit_report_.note == ""


def test_soft_labels_have_the_bits_of_a_fit_in_memory(data: Any) -> None:
    X, y = data
    P = np.full((N, CLASSES), 0.1, np.float32) + 0.6 * np.eye(CLASSES, dtype=np.float32)[y]
    model = SoftmaxClassifier(backend="cpu", class_weight="balanced")
    expected = bits(model.fit(X, P))
    assert bits(model.fit(on_cluster(X), P)) == expected


@pytest.mark.parametrize("way", ["bare", "weighted"])
def test_a_squared_hinge_has_the_bits_of_a_fit_in_memory(way: str, data: Any) -> None:
    X, y = data
    options = {"sample_weight": np.linspace(0.1, 2.0, N)} if way == "weighted" else {}
    model = LinearSVMClassifier(backend="cpu")
    expected = bits(model.fit(X, y, **options))
    assert bits(model.fit(on_cluster(X), y, **options)) == expected


def test_rows_that_workers_read_in_every_pass_have_the_bits_of_a_fit_in_memory(data: Any) -> None:
    X, y = data
    expected = bits(SoftmaxClassifier(backend="cpu").fit(X, y))
    assert bits(SoftmaxClassifier(backend="cpu").fit(on_cluster(X, wrap=InBlocks), y)) == expected


def test_files_that_workers_read_have_the_bits_of_a_fit_in_memory(data: Any, tmp_path: Path) -> None:
    X, y = data
    np.save(tmp_path / "a.npy", X[:300])
    np.save(tmp_path / "b.npy", X[300:])
    executor = InProcess(["a", "b", "c"])
    stored = open_rows([tmp_path / "a.npy", tmp_path / "b.npy"])
    rows = ClusterRows(executor, RowFiles(stored, executor), "cpu")
    expected = bits(SoftmaxClassifier(backend="cpu").fit(X, y))
    assert bits(SoftmaxClassifier(backend="cpu").fit(rows, y)) == expected
    assert {len(run) for run in executor.runs} == {3}


def test_a_fit_whose_cluster_was_lost_continues_from_its_checkpoint(data: Any, tmp_path: Path) -> None:
    X, y = data
    model, path = SoftmaxClassifier(backend="cpu", tol=1e-6), tmp_path / "run.ckpt"
    whole = on_cluster(X)
    expected = bits(model.fit(whole, y))

    def lose(executor: InProcess) -> None:
        if len(executor.runs) == 12:
            raise ClusterError("lost")

    lost = InProcess(["a", "b"], before_run=lose)
    with pytest.raises(ClusterError):
        model.fit(on_cluster(X, executor=lost), y, checkpoint=path, checkpoint_every=0)
    rows = on_cluster(X, 3)
    assert bits(model.fit(rows, y, checkpoint=path)) == expected
    assert len(rows.executor.runs) < len(whole.executor.runs)  # type: ignore[attr-defined]


def test_a_start_and_validation_work_as_in_memory(data: Any) -> None:
    X, y = data
    start = SoftmaxClassifier(backend="cpu", C=0.1).fit(X, y)
    expected = SoftmaxClassifier(backend="cpu").fit(X, y, validation=(X[:99], y[:99]), start_from=start)
    for Xv in (X[:99], on_cluster(X[:99])):
        found = SoftmaxClassifier(backend="cpu").fit(on_cluster(X), y, validation=(Xv, y[:99]), start_from=start)
        assert bits(found) == bits(expected)
        assert found.history_[-1].validation_loss == expected.history_[-1].validation_loss


def test_rows_without_weight_are_left_out(data: Any) -> None:
    X, y = data
    X = X.astype(np.float64)
    s = np.where(np.arange(N) % 3 == 0, 0.0, 1.0)
    model = SoftmaxClassifier(backend="cpu", tol=1e-8)
    expected = model.fit(X, y, s).coef_
    np.testing.assert_allclose(model.fit(on_cluster(X), y, s).coef_, expected, atol=1e-6)


def test_workers_that_come_and_go_during_a_fit_do_not_change_its_bits(data: Any) -> None:
    X, y = data
    expected = bits(SoftmaxClassifier(backend="cpu", tol=1e-6).fit(X, y))
    phases = iter([["a", "b"]] * 4 + [["a"]] * 3 + [["a", "c", "d"]] * 100)

    def change(executor: InProcess) -> None:
        executor.names = next(phases)

    executor = InProcess(["a", "b"], before_run=change)
    found = SoftmaxClassifier(backend="cpu", tol=1e-6).fit(on_cluster(X, executor=executor), y)
    assert bits(found) == expected
    assert {len(run) for run in executor.runs} == {1, 2, 3}


def test_a_fit_sends_its_labels_once_and_the_rows_never(data: Any) -> None:
    X, y = data
    rows = on_cluster(X, 2)
    SoftmaxClassifier(backend="cpu").fit(rows, y)
    assert rows.executor.loads == 2 * len(rows.partitions(64))  # type: ignore[attr-defined]


# refused


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (SoftmaxClassifier(solver="sgd"), "solver='sgd'"),
        (SoftmaxClassifier(batch_size=32), "batch_size is set"),
        (LinearSVMClassifier(loss="hinge"), "loss='hinge' has no curvature"),
    ],
)
def test_minibatches_are_refused_with_what_to_use_instead(model: Any, why: str, data: Any) -> None:
    X, y = data
    rows = on_cluster(X)
    with pytest.raises(ValueError, match=f"X is on a cluster, where there are no minibatches: {why}.* use solver='lbf"):
        model.fit(rows, y)
    assert rows.executor.loads == 0  # type: ignore[attr-defined]


def test_labels_are_checked_before_anything_is_sent(data: Any) -> None:
    X, y = data
    rows = on_cluster(X)
    for labels, message in ((y[:-1], "y has length 699 but X has 700 rows"), (0 * y, "holds 1 class")):
        with pytest.raises(ValueError, match=message):
            SoftmaxClassifier().fit(rows, labels)
    assert rows.executor.loads == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named_by_row_and_column(bad: float, data: Any) -> None:
    X, y = data
    X[500, 2] = bad
    with pytest.raises(ValueError, match=r"X\[500, 2\]"):
        SoftmaxClassifier(backend="cpu").fit(on_cluster(X), y)


def test_a_column_that_overflows_is_named(data: Any) -> None:
    X, y = data
    X[500, 2] = 1e38
    with pytest.raises(ValueError, match=r"X\[500, 2\] is 1e\+38"):
        SoftmaxClassifier(backend="cpu").fit(on_cluster(X), y)


def test_a_model_is_as_it_was_after_a_failure(data: Any) -> None:
    X, y = data
    model = SoftmaxClassifier(backend="cpu").fit(X, y)
    before = bits(model)
    with pytest.raises(RuntimeError, match="rows 576 to 699 of X"):
        model.fit(on_cluster(X, bad=650), y)
    assert bits(model) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X)


# sweeps


def test_a_sweep_finds_what_it_finds_in_memory(data: Any) -> None:
    X, y = data
    X, grid = X.astype(np.float64), {"C": [0.01, 0.1, 1.0]}
    estimator = SoftmaxClassifier(backend="cpu", tol=1e-9)
    expected = sweep(estimator, grid, X, y, cv=3, keep_models=True, out_of_fold=True)
    rows = on_cluster(X, 2)
    found = sweep(estimator, grid, rows, y, cv=3, keep_models=True, out_of_fold=True)
    np.testing.assert_allclose(found.trials.loss, expected.trials.loss, rtol=1e-6)
    np.testing.assert_array_equal(found.trials.accuracy, expected.trials.accuracy)
    assert found.best_params_ == expected.best_params_
    np.testing.assert_allclose(found.best_estimator_.coef_, expected.best_estimator_.coef_, atol=1e-5)
    np.testing.assert_array_equal(found.out_of_fold_predictions_, expected.out_of_fold_predictions_)


def test_the_models_of_all_folds_and_penalties_share_passes(data: Any) -> None:
    X, y = data
    rows, grid = on_cluster(X), {"C": [0.01, 0.1, 1.0]}
    found = sweep(SoftmaxClassifier(backend="cpu"), grid, rows, y, cv=3, refit=False)
    assert len(rows.executor.runs) < found.trials.passes.sum() / 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("scoring", ["f1_macro", lambda model, X, y: 0.0])
def test_a_score_that_is_no_sum_over_rows_is_refused(scoring: Any, data: Any) -> None:
    X, y = data
    with pytest.raises(ValueError, match="pass 'accuracy', 'log_loss' or 'loss', which are sums over rows"):
        sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, on_cluster(X), y, scoring=scoring)


def test_a_sweep_of_minibatches_is_refused(data: Any) -> None:
    X, y = data
    with pytest.raises(ValueError, match="there are no minibatches"):
        sweep(SoftmaxClassifier(solver="sgd"), {"learning_rate": [0.1, 1.0]}, on_cluster(X), y)
