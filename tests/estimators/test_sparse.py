"""The estimators on sparse matrices: the models of the same data in dense arrays, and never a dense copy."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from gpusoftmax import (
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    gradient_check,
    load_model,
    loss_and_gradient,
    save_model,
    sweep,
)
from gpusoftmax.reports.accuracy import measure
from tests.support.cases import sha256

Array = np.ndarray[Any, Any]
N, D = 300, 40


@pytest.fixture(scope="module")
def data() -> tuple[Any, Array]:
    """A sparse X in float64, and labels that depend on it."""
    rng = np.random.default_rng(0)
    X = sparse.random_array((N, D), density=0.15, rng=rng, format="csr")
    X.data[:] = rng.standard_normal(X.nnz)
    return X, np.array(list("abcd"))[(2 * X @ rng.standard_normal((D, 4)) + rng.gumbel(size=(N, 4))).argmax(axis=1)]


WEIGHTS = np.random.default_rng(1).random(N) * (np.arange(N) % 3 > 0)
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), N)
PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "by default": ({}, {}),
    "strong penalty": ({"C": 0.01}, {}),
    "weak penalty": ({"C": 100}, {}),
    "standardised": ({"scaling": "standard"}, {}),
    "shifted and scaled": ({"scaling": (0.1, 2.0)}, {}),
    "penalised intercept": ({"penalize_intercept": True}, {}),
    "no intercept": ({"fit_intercept": False}, {}),
    "sample weights": ({}, {"sample_weight": WEIGHTS}),
    "class weights": ({"class_weight": "balanced"}, {}),
    "smoothed labels": ({"label_smoothing": 0.1}, {}),
    "soft labels": ({}, {"y": SOFT}),
    "two classes": ({}, {"y": np.arange(N) % 7 > 2}),
    "squared hinge": ({"loss": "squared_hinge"}, {}),
}


@pytest.mark.parametrize(("parameters", "arguments"), PARAMETERS.values(), ids=PARAMETERS)
def test_the_model_is_that_of_a_dense_array(data: Any, parameters: Any, arguments: Any) -> None:
    X, y = data[0], arguments.get("y", data[1])
    weights = arguments.get("sample_weight")
    cls = LinearSVMClassifier if "loss" in parameters else SoftmaxClassifier
    found = cls(tol=1e-10, **parameters).fit(X, y, weights)
    expected = cls(tol=1e-10, **parameters).fit(X.toarray(), y, weights)
    # tol and the penalty's curvature l2 bound the distance of either from the optimum, far below this
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-5 * abs(expected.coef_).max())
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-5)
    np.testing.assert_allclose(found.decision_function(X), expected.decision_function(X.toarray()), atol=1e-4)
    assert (found.predict(X) == expected.predict(X)).mean() > 0.99
    assert found.score(X, found.predict(X)) == 1
    assert found.n_features_in_ == D
    if hasattr(found, "predict_proba"):
        np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-5)
        np.testing.assert_allclose(np.exp(found.predict_log_proba(X)), found.predict_proba(X), atol=1e-12)


def test_scikit_learn_finds_the_same_model(data: Any) -> None:
    X, y = data
    ours = SoftmaxClassifier(C=3, tol=1e-10).fit(X, y)
    theirs = LogisticRegression(C=3, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.to_sklearn().predict_proba(X), ours.predict_proba(X), atol=1e-12)


def test_the_certificate_bounds_the_distance_from_the_optimum(data: Any) -> None:
    X, y = data
    report = SoftmaxClassifier(tol=1e-3).fit(X, y).fit_report_
    best = SoftmaxClassifier(tol=1e-11).fit(X, y).fit_report_
    assert 0 <= report.objective - best.objective <= report.bound


def test_a_weight_of_two_is_a_repeated_row(data: Any) -> None:
    X, y = data
    twice = np.arange(N) % 5 == 0
    weighted = SoftmaxClassifier(tol=1e-10).fit(X, y, 1.0 + twice)
    repeated = SoftmaxClassifier(tol=1e-10).fit(sparse.vstack([X, X[twice]]), np.append(y, y[twice]))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_any_number_of_threads_gives_the_same_model(data: Any, dtype: str) -> None:
    X = (10 * abs(data[0])).astype(dtype)
    models = [SoftmaxClassifier(n_threads=n).fit(X, data[1]) for n in (1, 2, 3, 7)]
    assert models[0].coef_.dtype == np.float32
    assert len({sha256(model.coef_, model.intercept_, model.predict_proba(X)) for model in models}) == 1


def test_validation_data_may_be_sparse_or_dense(data: Any) -> None:
    X, y = data
    histories = [
        SoftmaxClassifier(max_iter=5, tol=0).fit(X, y, validation=(held_out[:50], y[:50])).history_
        for held_out in (X, X.toarray())
    ]
    first, second = ([record.validation_loss for record in history] for history in histories)
    assert first == pytest.approx(second)


def test_training_can_start_from_a_model_with_sparse_coefficients(data: Any) -> None:
    X, y = data
    model = SoftmaxClassifier().fit(X, y)
    again = SoftmaxClassifier().fit(X, y, start_from=pickle.loads(pickle.dumps(model)).sparsify())
    assert again.n_iter_ == 0


def test_coefficients_can_be_stored_sparse(data: Any, tmp_path: Path) -> None:
    X, y = data
    X = sparse.hstack([X, sparse.csr_array((N, 1000))]).tocsr()  # features that never occur
    model = SoftmaxClassifier().fit(X, y)
    expected, dense = model.predict_proba(X), model.coef_
    assert model.sparsify() is model
    assert model.coef_.nnz == 4 * D
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    save_model(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_model(tmp_path / "model.safetensors").predict_proba(X), expected)
    np.testing.assert_array_equal(model.densify().coef_, dense)


def test_a_search_finds_what_it_finds_in_a_dense_array(data: Any) -> None:
    X, y = data
    grid = {"C": [0.1, 1.0, 10.0]}
    found = sweep(SoftmaxClassifier(tol=1e-7), grid, X, y, cv=3)
    expected = sweep(SoftmaxClassifier(tol=1e-7), grid, X.toarray(), y, cv=3)
    assert found.best_params_ == expected.best_params_
    model = SoftmaxClassifierCV(Cs=[0.1, 1.0, 10.0], cv=3).fit(sparse.coo_array(X), y)
    assert model.C_ == expected.best_params_["C"]
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize(
    "scaling", [None, "standard", (None, np.linspace(0.5, 2, D))], ids=["none", "standard", "given"]
)
def test_stochastic_gradient_descent_nears_the_optimum(data: Any, scaling: Any) -> None:
    X, y = data
    found = SoftmaxClassifier(solver="sgd", batch_size="full", scaling=scaling, C=0.1, max_iter=500, tol=0).fit(X, y)
    best = SoftmaxClassifier(scaling=scaling, C=0.1, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(found.coef_, best.coef_, atol=1e-4 * abs(best.coef_).max())


def test_momentum_and_a_shift_are_refused_by_name(data: Any) -> None:
    X, y = data
    with pytest.raises(ValueError, match=r"momentum=0\.9 would make each step of SGD change all weights"):
        SoftmaxClassifier(momentum=0.9).fit(X, y)
    with pytest.raises(ValueError, match="nesterov=True is a kind of momentum, which SGD does not have for sparse X"):
        SoftmaxClassifier(nesterov=True).fit(X, y)
    with pytest.raises(ValueError, match="scaling='standard' shifts the features, so each step"):
        SoftmaxClassifier(solver="sgd", scaling="standard", penalize_intercept=True).fit(X, y)
    assert SoftmaxClassifier(momentum=0.0, max_iter=2, tol=0).fit(X, y).n_iter_ == 2


def test_a_stream_of_hashed_text_can_be_learned() -> None:
    texts = ["a red apple", "a green pear", "the red cherry", "the green grape"] * 50
    labels = [text.split()[1] for text in texts]
    hashed = HashingVectorizer(n_features=2**12, dtype=np.float32).transform(texts)
    model = SoftmaxClassifier(l2=1e-4)
    for start in range(0, 200, 40):
        model.partial_fit(hashed[start : start + 40], labels[start : start + 40], classes=["green", "red"])
    assert model.score(hashed, labels) == 1
    assert (model.fit_report_.solver, model.fit_report_.why_solver) == ("sgd", "partial_fit takes steps of SGD")


def test_gradients_of_sparse_and_dense_matrices_agree(data: Any) -> None:
    X, y = data
    codes, rng = np.unique(y, return_inverse=True)[1], np.random.default_rng(3)
    W, b = rng.standard_normal((D, 4)), rng.standard_normal(4)
    for found, expected in zip(
        loss_and_gradient(X, codes, W, b, l2=0.1), loss_and_gradient(X.toarray(), codes, W, b, l2=0.1), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
    assert max(record.relative_error for record in gradient_check(X[:50], codes[:50], W, b)) < 1e-6


def test_accuracies_are_computed_in_parts_whose_size_follows_from_the_classes(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data
    model = SoftmaxClassifier().fit(X, y)
    monkeypatch.setattr("gpusoftmax.reports.accuracy.AT_ONCE", 4 * 70)  # 70 rows of scores
    assert measure(model, sparse.coo_array(X), y, 2).top_1 == pytest.approx(model.score(X, y))


TEXTS = ["red apples and pears", "blue skies, red suns", "pears are green", "green grass, blue sky"] * 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bags_of_words_in_a_pipeline(dtype: str) -> None:
    labels = ["fruit", "sky", "fruit", "sky"] * 10
    model = make_pipeline(TfidfVectorizer(dtype=np.dtype(dtype).type), SoftmaxClassifier(C=10)).fit(TEXTS, labels)
    assert model.predict(["apples and pears"]).tolist() == ["fruit"]
    assert model[-1].coef_.dtype == dtype


def test_encoded_columns_of_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"colour": ["red", "blue", "green", "red"] * 10, "size": np.arange(40.0)})
    encode = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough", sparse_threshold=1.0)
    y = frame["colour"] == "red"
    model = make_pipeline(encode, SoftmaxClassifier(C=100)).fit(frame, y)
    assert sparse.issparse(encode.fit_transform(frame))
    assert model.score(frame, y) == 1


def test_data_frames_of_sparse_columns_keep_their_names(data: Any) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = data
    frame = pandas.DataFrame.sparse.from_spmatrix(X, columns=[f"word {i}" for i in range(D)])
    model = SoftmaxClassifier().fit(frame, y)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.score(frame, y) == SoftmaxClassifier().fit(X, y).score(X, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])


def test_a_matrix_of_zeros_has_the_priors_for_a_model() -> None:
    y = np.repeat([0, 1, 2], [10, 20, 30])
    model = SoftmaxClassifier(tol=1e-9).fit(sparse.csr_array((60, 7)), y)
    assert (model.coef_ == 0).all()
    assert model.predict_proba(sparse.csr_array((1, 7)))[0] == pytest.approx([1 / 6, 1 / 3, 1 / 2])


def test_nan_in_held_out_rows_is_found_as_in_a_dense_array(data: Any) -> None:
    X, y = data[0].copy(), data[1]
    X.data[: X.indptr[10]] = np.nan
    folds = [(np.arange(10, N), np.arange(10))]
    for form in (X, X.toarray()):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            sweep(SoftmaxClassifier(), {"C": [1.0, 2.0]}, form, y, cv=folds)


def test_nan_in_rows_without_weight_does_not_matter(data: Any) -> None:
    X, y = data[0].copy(), data[1]
    expected = SoftmaxClassifier().fit(X[10:], y[10:])
    X.data[: X.indptr[10]] = np.nan
    weights = (np.arange(N) >= 10).astype(float)
    np.testing.assert_allclose(SoftmaxClassifier().fit(X, y, weights).coef_, expected.coef_, atol=1e-4)
    with pytest.raises(ValueError, match=r"Input X contains NaN: X\[0, \d+\] is nan"):
        SoftmaxClassifier().fit(X, y)


def test_more_features_than_the_memory_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusoftmax.estimators.problem.physical_memory", lambda: 16.0 * 2**30)
    X = sparse.csr_array((np.ones(4), ([0, 1, 2, 3], [0, 5, 5, 2**31 - 2])), (4, 2**31 - 1), dtype=np.float32)
    with pytest.raises(MemoryError, match=r"X has 2147483647 features, and there are 2 classes: .* 320 GiB in all"):
        SoftmaxClassifier().fit(X, [0, 1, 0, 1])


MEMORY = """
import resource, sys
import numpy as np
from scipy.sparse import csr_array
from gpusoftmax import SoftmaxClassifier

n, d, c = 20_000, 10_000_000, 2
rng = np.random.default_rng(0)
indices = np.sort(rng.integers(0, d, (n, 50), dtype=np.int32), axis=1)
indices[:, 0] = np.arange(n) % 5
X = csr_array((np.ones(n * 50, np.float32), indices.ravel(), np.arange(0, n * 50 + 1, 50)), (n, d))
y = indices[:, 0] > 2
SoftmaxClassifier(n_threads=1).fit(X[:100, :100], y[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = SoftmaxClassifier(max_iter=12, tol=1e-3, n_threads=1).fit(X, y)
entries, weights = 8 * X.nnz, 4 * (d + 1) * c
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, entries, weights, model.score(X, y))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_ten_million_hashed_features_are_never_made_dense() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=600)
    grown, entries, weights, score = map(float, done.stdout.split())
    assert score == 1
    # vectors of L-BFGS, moments and the arrays of a pass, each of the size of the weights; a dense X is 100 times more
    assert grown <= 2.2 * entries + 28 * weights
