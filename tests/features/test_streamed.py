"""Features in files: everything that is computed with them has the bits of what is computed with them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import SoftmaxClassifier, open_rows
from gpusoftmax.array import Backend
from gpusoftmax.cpu import threads
from gpusoftmax.features import streamed as streamed_module
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.features.read import read_features
from gpusoftmax.features.streamed import StreamedFeatures
from gpusoftmax.objective.objective import Objective
from gpusoftmax.rows import file_rows
from gpusoftmax.solvers import SGD
from tests.support.cases import DTYPES, blobs, objective_of, random_problem, run, sha256

N, D, C = 64 * 9 + 17, 7, 5


@pytest.fixture(autouse=True, params=["mapped", "ring", "shards"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files are mapped, or read through buffers of a leaf of 64 rows; shards are, too."""
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)
    if request.param != "mapped":
        monkeypatch.setattr(file_rows, "why_not_mapped", lambda: "a test")
        monkeypatch.setattr(file_rows, "BUFFER_BYTES", 1)
    return str(request.param)


def on_disk(X: Any, folder: Path, how: str) -> Any:
    cuts = [0, len(X) // 3, len(X) // 3 + 1, len(X)] if how == "shards" else [0, len(X)]
    paths = [folder / f"{i}.npy" for i in range(len(cuts) - 1)]
    for path, first, stop in zip(paths, cuts[:-1], cuts[1:], strict=True):
        np.save(path, X[first:stop])
    return open_rows(paths)


@pytest.fixture
def both(tmp_path: Path, cpu_backend: Backend, how: str) -> Any:
    """A problem, and features of its X in memory and in files, shifted and scaled."""

    def make(dtype: str = "float32", selected: bool = False, c: int = C) -> Any:
        problem = random_problem(0, dtype=dtype, n=N, d=D, c=c, weighted=True)
        found = []
        for features in (
            DenseFeatures(problem.X, cpu_backend),
            read_features(on_disk(problem.X, tmp_path, how), cpu_backend),
        ):
            features = features.with_scaling(np.linspace(0, 1, D), np.linspace(1, 2, D))
            found.append(features.select(np.flatnonzero(np.arange(N) % 5 < 4)) if selected else features)
        assert isinstance(found[1], StreamedFeatures)
        return problem, *found

    return make


def results(problem: Any, features: Any) -> dict[str, Any]:
    """Everything that features compute, by name."""
    arguments = problem.labels, problem.W, problem.b, problem.weights, problem.loss
    Q, s = np.random.default_rng(1).random((2, features.n, 3)), problem.weights[:, 0]
    batch = np.random.default_rng(2).permutation(N)[:50]
    origin = int(features.row_numbers(np.array([3]))[0])
    return {
        "gradient": features.gradient(*arguments),
        "minibatch": features.gradient(*arguments, rows=batch),
        "losses": features.losses(*arguments),
        "scores": [features.scores(problem.W, problem.b)],
        "probabilities": [features.probabilities(problem.W, problem.b)],
        "best": [features.best(problem.W, problem.b)],
        "moments": features.moments(None, None),
        "weighted moments": features.moments(s, origin),
        "label sums": features.label_sums(problem.labels, s, np.ones(problem.W.shape[2]), None),
        "products": [features.column_products(Q[0])],
        "squares": [features.column_products(Q[0], squared=True)],
        "sample": [features.sample(np.array([0, 3, 500, N - 1, 3]))],
        "largest": [np.array(features.largest(2))],
    }


@pytest.mark.parametrize("selected", [False, True], ids=["all rows", "some rows"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_features_in_files_compute_has_the_same_bits(both: Any, dtype: str, selected: bool) -> None:
    problem, dense, streamed = both(dtype, selected)
    expected, found = results(problem, dense), results(problem, streamed)
    assert {name for name in expected if sha256(*expected[name]) != sha256(*found[name])} == set()


def test_so_do_products_for_many_classes(both: Any) -> None:
    problem, dense, streamed = both(c=300)
    expected, found = results(problem, dense), results(problem, streamed)
    assert {name for name in expected if sha256(*expected[name]) != sha256(*found[name])} == set()


def test_the_gram_matrix_of_some_columns_is_the_same_up_to_rounding(both: Any) -> None:
    problem, dense, streamed = both(selected=True)
    arguments = np.array([1, 4]), problem.weights[: dense.n, 0].astype(float), 0.0
    np.testing.assert_allclose(streamed.gram_of_columns(*arguments), dense.gram_of_columns(*arguments), rtol=1e-12)


def test_the_parts_of_features_predict_what_all_predict(both: Any) -> None:
    problem, dense, streamed = both()
    expected = dense.scores(problem.W, problem.b)
    for features in (dense, streamed):
        parts = [part.scores(problem.W, problem.b) for part in features.in_parts(128)]
        assert max(map(len, parts)) <= 128
        assert sha256(np.concatenate(parts)) == sha256(expected)


def test_nan_is_found_with_its_row(tmp_path: Path, cpu_backend: Backend, how: str) -> None:
    X = np.zeros((N, D), np.float32)
    X[400, 3] = np.nan
    with pytest.raises(ValueError, match=r"X\[400, 3\] is nan"):
        read_features(on_disk(X, tmp_path, how), cpu_backend).check_finite()
    with pytest.raises(ValueError, match=r"X\[400, 3\] is nan"):
        SoftmaxClassifier(backend=cpu_backend.name).fit(on_disk(X, tmp_path, how), np.arange(N) % 3)


def test_minibatches_take_the_steps_that_they_take_in_memory(tmp_path: Path, cpu_backend: Backend, how: str) -> None:
    X, y = blobs(0, n=N, d=D, c=3)
    dense = objective_of(X, y, cpu_backend, weights=np.random.default_rng(0).random((N, 1)).astype(np.float32))
    streamed = Objective(**{**vars(dense), "features": read_features(on_disk(X, tmp_path, how), cpu_backend)})
    plan = BatchPlan(N, 16, blocks=(10, 4))
    solver = SGD(plan, steps=3 * plan.steps_per_epoch, learning_rate=0.1)
    expected, found = run(solver, dense), run(solver, streamed)
    assert sha256(found.W, found.b, found.value) == sha256(expected.W, expected.b, expected.value)


def test_a_fit_over_files_has_the_bits_of_one_in_memory(tmp_path: Path, cpu_backend: Backend, how: str) -> None:
    X, y = blobs(0, n=N, d=D, c=3)
    s, validation = np.random.default_rng(0).integers(0, 3, N), (X[:50], y[:50])
    for options in ({}, {"scaling": "standard"}, {"penalize_intercept": True}, {"label_smoothing": 0.1}):
        model = SoftmaxClassifier(backend=cpu_backend.name, **options)
        model.fit(X, y, sample_weight=s, validation=validation)
        expected = sha256(model.coef_, model.intercept_)
        model.fit(on_disk(X, tmp_path, how), y, sample_weight=s, validation=validation)
        assert sha256(model.coef_, model.intercept_) == expected, options
        assert (model.predict(on_disk(X, tmp_path, how)) == model.predict(X)).all()


def test_predictions_are_written_to_a_file_with_the_same_bits(tmp_path: Path, cpu_backend: Backend, how: str) -> None:
    X, y = blobs(0, n=N, d=D, c=3)
    model = SoftmaxClassifier(backend=cpu_backend.name).fit(X, y)
    rows = on_disk(X, tmp_path, how)
    for method in (model.predict_proba, model.predict_log_proba, model.decision_function):
        found = method(rows, out=tmp_path / "out.npy")
        assert sha256(np.array(found)) == sha256(method(X))
        assert sha256(np.load(tmp_path / "out.npy")) == sha256(method(X))
    with pytest.raises(ValueError, match="out="):
        model.predict_proba(rows, out=tmp_path / "out.csv")


def test_predictions_do_not_replace_the_features(tmp_path: Path, cpu_backend: Backend, how: str) -> None:
    X, y = blobs(0, n=N, d=D, c=3)
    rows = on_disk(X, tmp_path, how)
    link = tmp_path / "link.npy"
    link.symlink_to(rows.path)
    for path in (rows.path, link):
        with pytest.raises(ValueError, match=r"out=.* is one of the files that X is read from"):
            SoftmaxClassifier(backend=cpu_backend.name).fit(X, y).predict_proba(rows, out=path)
    assert (rows[:] == X).all()


def test_sgd_warns_of_files_that_are_sorted_by_label(
    tmp_path: Path, cpu_backend: Backend, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_module, "SHUFFLED_BYTES", 4 * D * 20)  # blocks of 20 rows
    X, y = blobs(0, n=N, d=D, c=3)
    rows, order = on_disk(X, tmp_path, how), np.argsort(y, kind="stable")
    model = SoftmaxClassifier(backend=cpu_backend.name, solver="sgd", max_iter=1, tol=0)
    model.fit(rows, y)  # no warning: warnings are errors
    if how != "mapped":
        with pytest.warns(UserWarning, match="the rows in the files are sorted"):
            model.fit(rows, y[order])
