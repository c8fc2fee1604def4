"""Linear-probe protocols: the models they describe, chosen as they describe, never by the test rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from gpusoftmax import DivergenceError, linear_probe, load_digits, load_model, open_rows, save_model
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.protocols.linear_probe import ARBITRARY, GRIDS, SAME
from gpusoftmax.search.minibatch import Recipe
from tests.support.cases import sweep_with
from tests.support.installed import frames_of

PROTOCOLS = list(GRIDS)
LOGREG = ["clip", "dinov2-logreg"]
QUICK = {"dinov2-linear": {"n_iterations": 200, "batch_size": 64}}


@pytest.fixture(scope="module")
def rows() -> Any:
    """Digits: few rows to train on, so that not everything is right."""
    digits = load_digits()
    return {
        "X_train": digits.X_train[:300], "y_train": digits.y_train[:300], "X_test": digits.X_test,
        "y_test": digits.y_test, "validation": (digits.X_validation, digits.y_validation),
    }  # fmt: skip


def probe(rows: Any, protocol: str, **changes: Any) -> Any:
    return linear_probe(**{**rows, "protocol": protocol, **QUICK.get(protocol, {}), **changes})


def C_of(found: Any) -> float:
    return 1 / found.chosen if found.parameter == "lambda" else found.chosen


# the published grids


def test_the_grids_are_the_published_ones() -> None:
    name, values = GRIDS["clip"]
    assert (name, len(values), values[0], values[-1]) == ("lambda", 96, 1e-6, 1e6)
    np.testing.assert_allclose(np.diff(np.log10(values)), 12 / 95, rtol=1e-9)
    name, values = GRIDS["dinov2-logreg"]
    assert (name, len(values), values[0]) == ("C", 45, 1e-6)
    np.testing.assert_allclose(np.diff(np.log10(values)), 0.25, rtol=1e-9)
    assert (GRIDS["dinov2-linear"][0], len(GRIDS["dinov2-linear"][1])) == ("learning_rate", 13)


# the models


@pytest.mark.slow
@pytest.mark.parametrize("protocol", LOGREG)
def test_the_model_is_scikit_learns_for_training_and_validation_rows(protocol: str, rows: Any) -> None:
    found = probe(rows, protocol, tol=1e-6)
    X = np.concatenate([rows["X_train"], rows["validation"][0]]).astype(np.float64)
    y = np.concatenate([rows["y_train"], rows["validation"][1]])
    theirs = LogisticRegression(C=C_of(found), tol=1e-10, solver="newton-cholesky").fit(X, y)
    # gradients within 1e-6 of 0 and curvatures of some 1e-2
    np.testing.assert_allclose(found.estimator.predict_proba(X), theirs.predict_proba(X), atol=1e-3)
    assert found.refitted


@pytest.mark.slow
@pytest.mark.parametrize("protocol", LOGREG)
def test_the_validation_score_is_that_of_a_model_of_the_training_rows(protocol: str, rows: Any) -> None:
    # a tenth of the labels is wrong: otherwise the rows are separable, the weakest penalties are equally good, and tol
    # decides which model they give (on one processor 92% of the rows were right instead of 95%)
    y = rows["y_train"]
    noisy = rows | {"y_train": np.where(np.arange(len(y)) % 10 == 0, (y + 1) % 10, y)}
    found = probe(noisy, protocol, tol=1e-6)
    theirs = LogisticRegression(C=C_of(found), tol=1e-8, solver="newton-cholesky")
    theirs.fit(noisy["X_train"].astype(np.float64), noisy["y_train"])
    assert 1e-6 < C_of(found) < 1
    # either may be on the other side of a row that is close to the border
    assert found.validation_top_1 == pytest.approx(theirs.score(*rows["validation"]), abs=0.004)


def test_the_heads_are_those_of_plain_momentum_sgd(rows: Any) -> None:
    X, y, size, steps, seed = rows["X_train"].astype(np.float64), rows["y_train"], 50, 9, 3
    found = probe(rows | {"X_train": X}, "dinov2-linear", n_iterations=steps, batch_size=size, seed=seed)
    batches = [batch for epoch in (0, 1) for batch in BatchPlan(len(X), size, seed=seed).epoch(epoch)][:steps]
    for k, rate in list(enumerate(GRIDS["dinov2-linear"][1]))[:9]:  # the largest rates amplify rounding
        W, b = 0.01 * np.random.default_rng(seed).standard_normal((64, 10)), np.zeros(10)
        v, w = np.zeros_like(W), np.zeros_like(b)
        for t, batch in enumerate(batches):
            scores = X[batch] @ W + b
            g = np.exp(scores - scores.max(axis=1, keepdims=True))
            g /= g.sum(axis=1, keepdims=True)
            g[np.arange(size), y[batch]] -= 1
            v, w = 0.9 * v + X[batch].T @ g / size, 0.9 * w + g.mean(axis=0)
            lr = rate * size / 256 * (1 + np.cos(np.pi * t / steps)) / 2
            W, b = W - lr * v, b - lr * w
        head = found.sweep.models_[0, k]
        np.testing.assert_allclose(head.coef_.T, W - W.mean(axis=1, keepdims=True), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(head.intercept_, b, rtol=1e-9, atol=1e-12)
    assert not found.refitted


# the choice


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_best_validation_accuracy_is_chosen_and_of_equals_the_strongest_penalty(protocol: str, rows: Any) -> None:
    found = probe(rows, protocol)
    scores = found.sweep.trials.accuracy[0]
    good = [value for value, score in zip(found.values, scores, strict=True) if score == np.nanmax(scores)]
    assert found.chosen == (max(good) if protocol == "clip" else min(good))  # C and rates: the smallest
    assert sorted([found.chosen, *found.ties]) == sorted(good)
    assert found.validation_top_1 == np.nanmax(scores)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_test_rows_have_no_part_in_the_choice(protocol: str, rows: Any) -> None:
    found = probe(rows, protocol)
    other = probe(rows, protocol, y_test=np.roll(rows["y_test"], 1))
    assert found.chosen == other.chosen
    assert found.estimator.coef_.tobytes() == other.estimator.coef_.tobytes()
    assert found.test.top_1 != other.test.top_1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_are_those_of_the_estimator_on_the_test_rows(protocol: str, rows: Any) -> None:
    found = probe(rows, protocol)
    assert found.test.top_1 == found.estimator.score(rows["X_test"], rows["y_test"])
    assert found.test.k == 5
    assert found.test.top_1 <= found.test.top_k <= 1
    assert found.test.top_1 > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_validation_rows_that_are_the_test_rows_are_noticed(protocol: str, rows: Any) -> None:
    X, y = rows["X_test"], rows["y_test"]
    with pytest.warns(UserWarning, match="validation and test rows are the same"):
        found = probe(rows, protocol, validation=(X.copy(), y.tolist()))
    assert found.same_as_test
    assert SAME in found.report
    assert not probe(rows, protocol).same_as_test


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("validation", "share"), [(None, 0.1), (0.25, 0.25)])
def test_a_share_of_the_training_rows_is_held_out(protocol: str, validation: Any, share: float, rows: Any) -> None:
    found = probe(rows, protocol, validation=validation)
    aside = round(300 * share)
    assert found.sizes == {"train": 300 - aside, "validation": aside, "test": 300}
    assert found.drawn == share
    how = "without regard to classes" if protocol == "dinov2-logreg" else "by class"  # as published
    assert f"{aside} validation ({share:g} of the training rows, {how})" in found.report


@pytest.mark.slow
def test_what_is_held_out_is_trained_on_once_the_choice_is_made(rows: Any) -> None:
    found = probe(rows, "dinov2-logreg", validation=0.2, tol=1e-6)
    X = rows["X_train"].astype(np.float64)
    theirs = LogisticRegression(C=found.chosen, tol=1e-10, solver="newton-cholesky").fit(X, rows["y_train"])
    np.testing.assert_allclose(found.estimator.predict_proba(X), theirs.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize(
    ("values", "edge"), [([1e-6, 0.1], "largest"), ([0.1, 100.0], "smallest"), ([1e-6, 0.1, 100.0], "")]
)
def test_an_end_of_the_grid_is_flagged(values: Any, edge: str, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From C = 0.1 on the optimum has one accuracy, and the strongest of these penalties is chosen."""
    monkeypatch.setitem(GRIDS, "dinov2-logreg", ("C", values))
    found = probe(rows, "dinov2-logreg")
    assert (found.chosen, found.edge) == (0.1, edge)
    assert ("a better one may lie beyond it" in found.report) == bool(edge)


# the report


def test_the_report_says_splits_grid_choice_scores_and_source(rows: Any) -> None:
    found = probe(rows, "clip")
    text = str(found)
    assert repr(found) == f"<ProbeResult: clip, lambda = {found.chosen:.4g}, test top-1 {found.test.top_1:.2%}>"
    for words in (
        "clip: logistic regression", "Radford et al.", "300 training, 300 validation (given), 300 test; 64 features",
        "96 values of lambda, 1e-06 to 1e+06", f"lambda = {found.chosen:.4g} (C = {1 / found.chosen:.4g})",
        f"validation top-1 {found.validation_top_1:.2%}", "fitted to   training and validation rows",
        f"top-1 {found.test.top_1:.2%}  top-5 {found.test.top_k:.2%}  mean per class {found.test.mean_per_class:.2%}",
    ):  # fmt: skip
        assert words in text


def test_heads_that_diverge_are_counted(rows: Any) -> None:
    found = probe(rows, "dinov2-linear", X_train=rows["X_train"] * 100)
    lost = int((found.sweep.trials.status == "diverged").sum())
    assert lost > 0
    assert f"{lost} of 13 diverged" in found.report
    with pytest.raises(DivergenceError):
        probe(rows, "dinov2-linear", X_train=rows["X_train"] * 1e4)


@pytest.mark.slow
def test_solutions_that_are_short_of_tol_are_counted(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRIDS, "dinov2-logreg", ("C", [0.01, 0.1, 1.0]))
    with pytest.warns(ConvergenceWarning, match="rounding in float32"):  # of the refit
        found = probe(rows, "dinov2-logreg", tol=1e-12)  # DINOv2's
    assert "3 of 3 stopped above tol, because rounding allows no further progress" in found.report


@pytest.mark.parametrize("protocol", ["clip", "dinov2-linear"])
def test_features_may_stay_in_files(protocol: str, rows: Any, tmp_path: Path) -> None:
    def on_disk(name: str, X: Any) -> Any:
        np.save(tmp_path / name, X)
        return open_rows(tmp_path / name)

    (X, y), tol = rows["validation"], {} if protocol == "dinov2-linear" else {"tol": 1e-6}
    in_files = {
        "X_train": on_disk("train.npy", rows["X_train"]), "X_test": on_disk("test.npy", rows["X_test"]),
        "validation": (on_disk("validation.npy", X), y),
    }  # fmt: skip
    found, expected = probe(rows | in_files, protocol, **tol), probe(rows, protocol, **tol)
    assert (found.chosen, found.sizes) == (expected.chosen, expected.sizes)
    np.testing.assert_allclose(found.test.top_1, expected.test.top_1)
    with pytest.raises(TypeError, match=r"X_train is .*open_rows"):
        probe(rows | {"validation": in_files["validation"]}, protocol)


@pytest.mark.parametrize("changes", [{"refit": True}, {"halving": 2}, {"grid": {"C": [0.1, 1.0]}}], ids=str)
def test_a_recipe_is_for_a_sweep_by_sgd_that_fits_nothing_anew(changes: Any, rows: Any) -> None:
    recipe = Recipe(10, lambda d, c: (np.zeros((d, 1, c)), np.zeros((1, c))))
    grid = {"learning_rate": [1e-3, 1e-2]}
    with pytest.raises(ValueError, match="recipe=Recipe"):
        sweep_with(rows["X_train"], rows["y_train"], **{"grid": grid, "refit": False, "recipe": recipe, **changes})


@pytest.mark.slow
def test_progress_is_shown_on_the_standard_error(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe(rows, "clip", verbose=1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pass" in shown.err
    probe(rows, "clip")
    assert capsys.readouterr().err == ""


# what features may be


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("device", "protocol", "dtype"),
    [
        ("CPU", "clip", "float16"),
        *[
            ("CPU", protocol, dtype)
            for protocol in PROTOCOLS[1:]
            for dtype in ("float64", "float16", "bfloat16", "uint8")
        ],
        pytest.param("GPU", "dinov2-logreg", "bfloat16", marks=pytest.mark.emulated),
        pytest.param("GPU", "dinov2-linear", "float16", marks=pytest.mark.emulated),
    ],
    indirect=["device"],
)
def test_features_of_every_type(protocol: str, dtype: str, rows: Any) -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    some = {
        "X_train": rows["X_train"][:100].astype(kind), "y_train": rows["y_train"][:100],
        "X_test": rows["X_test"][:50].astype(kind), "y_test": rows["y_test"][:50],
        "validation": (rows["validation"][0][:60].astype(kind), rows["validation"][1][:60]),
    }  # fmt: skip
    found = probe(some, protocol, **({"n_iterations": 30} if protocol == "dinov2-linear" else {"tol": 1e-3}))
    assert found.test.top_1 > 0.6  # whole numbers up to 16 are the same in all types


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["clip", "dinov2-linear"])
def test_the_numbers_of_threads_does_not_matter(protocol: str, rows: Any) -> None:
    first, second = (probe(rows, protocol, n_threads=threads).estimator for threads in (1, 2))
    assert first.coef_.tobytes() == second.coef_.tobytes()


@pytest.mark.slow
def test_labels_may_be_names(rows: Any) -> None:
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    X, y = rows["validation"]
    found = probe(
        rows, "dinov2-logreg", y_train=names[rows["y_train"]], y_test=names[rows["y_test"]], validation=(X, names[y])
    )
    assert found.estimator.predict(rows["X_test"][:1])[0] in names
    assert found.test.top_1 > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_keep_their_names(library: str, rows: Any) -> None:
    frame, columns = frames_of(library).DataFrame, [f"f{i}" for i in range(64)]

    def framed(X: Any) -> Any:
        return frame(dict(zip(columns, X.T, strict=True)))

    X, y = rows["validation"]
    given = {"X_train": framed(rows["X_train"]), "X_test": framed(rows["X_test"]), "validation": (framed(X), y)}
    found = probe(rows | given, "dinov2-logreg")
    assert found.estimator.feature_names_in_.tolist() == columns
    assert found.test.top_1 == probe(rows, "dinov2-logreg").test.top_1
    with pytest.raises(ValueError, match=r"validation\[0\] has other columns"):
        probe(rows | given, "clip", validation=(framed(X)[columns[::-1]], y))
    with pytest.raises(TypeError, match=r"X_train is a DataFrame and validation\[0\] a ndarray"):
        probe(rows | given, "clip", validation=(X, y))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_on_a_gpu(protocol: str, rows: Any) -> None:
    import cupy

    X, y = rows["validation"]
    some = {
        "X_train": cupy.asarray(rows["X_train"][:100]), "y_train": cupy.asarray(rows["y_train"][:100]),
        "X_test": cupy.asarray(rows["X_test"][:50]), "y_test": cupy.asarray(rows["y_test"][:50]),
        "validation": (cupy.asarray(X[:60]), cupy.asarray(y[:60])),
    }  # fmt: skip
    found = probe(some, protocol, **({"n_iterations": 30} if protocol == "dinov2-linear" else {"tol": 1e-3}))
    assert found.estimator.coef_.dtype == np.float32
    assert found.test.top_1 > 0.6


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors(protocol: str, dtype: str, rows: Any) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    X, y = rows["validation"]
    given = {
        "X_train": torch.tensor(rows["X_train"]).to(kind), "X_test": torch.tensor(rows["X_test"]).to(kind),
        "validation": (torch.tensor(X).to(kind), torch.tensor(y)), "y_train": torch.tensor(rows["y_train"]),
    }  # fmt: skip
    assert probe(rows | given, protocol).test.top_1 == probe(rows, protocol).test.top_1


# few rows of each class


def few_shots(shots: int, c: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(shots)
    centers, y, y_test = rng.standard_normal((c, 16)), np.repeat(np.arange(c), shots), np.repeat(np.arange(c), 5)
    return {
        "X_train": centers[y] + 0.3 * rng.standard_normal((len(y), 16)), "y_train": y,
        "X_test": centers[y_test] + 0.3 * rng.standard_normal((len(y_test), 16)), "y_test": y_test,
    }  # fmt: skip


def quick(rows: Any, protocol: str) -> Any:
    options: dict[str, Any] = {"n_iterations": 20} if protocol == "dinov2-linear" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one row a class
        return linear_probe(**rows, protocol=protocol, **options)


@pytest.mark.slow
@pytest.mark.parametrize("shots", [1, 2, 4])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_few_rows_of_each_class_are_drawn_without_regard_to_classes(protocol: str, shots: int) -> None:
    rows, n = few_shots(shots), 12 * shots
    found = quick(rows, protocol)
    assert (found.drawn, found.by_class) == (0.1, False)
    assert found.sizes == {"train": n - n // 10, "validation": n // 10, "test": 60}
    assert f"{n // 10} validation (0.1 of the training rows, without regard to classes)" in found.report
    if found.refitted:  # to all rows: the choice may be poor, the model knows all classes
        assert found.test.top_1 > 0.8


@pytest.mark.slow
def test_dinov2_draws_without_regard_to_classes_as_published() -> None:
    rows = few_shots(20)
    assert {protocol: quick(rows, protocol).by_class for protocol in PROTOCOLS} == {
        "clip": True,
        "dinov2-logreg": False,
        "dinov2-linear": True,
    }


@pytest.mark.slow
def test_validation_rows_of_classes_without_training_rows_are_told() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = linear_probe(**few_shots(1), protocol="clip")
    assert ARBITRARY in [str(warning.message) for warning in caught]
    assert (found.unknown, found.validation_top_1) == (1, 0.0)
    assert "1 of 1 validation rows have classes without training rows, and count as wrong" in found.report


def test_too_few_rows_to_hold_any_out_are_refused_in_a_line() -> None:
    with pytest.raises(
        ValueError, match=r"^validation=0.1 of 8 training rows is less than one row; pass validation=\(X, y\), or"
    ):
        linear_probe(**few_shots(1, c=8), protocol="clip")


def test_a_batch_is_at_most_all_training_rows() -> None:
    rows = few_shots(2)  # 22 of 24 rows; a batch is 128 by default
    found = quick(rows, "dinov2-linear")
    assert found.estimator.batch_size == 22


# what is refused

REFUSED = {
    "protocol": ({"protocol": "moco"}, ValueError, "protocol='moco'"),
    "batch_size": ({"batch_size": 10}, ValueError, "batch_size=10 is for protocol 'dinov2-linear'"),
    "n_iterations": ({"n_iterations": 10}, ValueError, "n_iterations=10 is for protocol 'dinov2-linear'"),
    "tol": ({"protocol": "dinov2-linear", "tol": 1e-3}, ValueError, "tol=0.001 is for protocol 'clip'"),
    "tol negative": ({"tol": -1}, ValueError, "tol=-1"),
    "a batch too large": (
        {"protocol": "dinov2-linear", "batch_size": 400}, ValueError, "batch_size=400 is more than the 300",
    ),
    "n_iterations 0": ({"protocol": "dinov2-linear", "n_iterations": 0}, ValueError, "n_iterations=0"),
    "a fraction of 1": ({"validation": 1.0}, ValueError, "validation=1.0"),
    "a fraction as text": ({"validation": "10%"}, TypeError, "validation='10%'"),
    "no pair": ({"validation": (1, 2, 3)}, TypeError, "validation is a tuple"),
    "features of the test": ({"X_test": np.zeros((300, 3))}, ValueError, "X_test has 3 features, but X_train"),
    "labels of the test": ({"y_test": np.full(300, 99)}, ValueError, "y_test[0] is"),
    "length of the test": ({"y_test": np.zeros(3, int)}, ValueError, "y_test has length 3 but X_test has 300 rows"),
    "length of training": ({"y_train": np.arange(10)}, ValueError, "y_train has length 10"),
    "an unknown label": ({"validation": (np.zeros((1, 64)), [99])}, ValueError, "validation[1][0] is"),
    "seed": ({"seed": -1}, ValueError, "seed=-1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_argument_is_refused_by_its_own_name(case: Any, rows: Any) -> None:
    changes, error, words = case
    with pytest.raises(error) as caught:
        linear_probe(**{**rows, "protocol": "clip", **changes})
    assert words in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["clip", "dinov2-linear"])
def test_a_probes_model_is_saved(protocol: str, tmp_path: Path) -> None:
    digits = load_digits()
    options: dict[str, Any] = {"n_iterations": 30} if protocol == "dinov2-linear" else {}
    found = linear_probe(
        digits.X_train[:300], digits.y_train[:300], digits.X_test, digits.y_test, protocol=protocol, **options
    )
    save_model(found.estimator, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict(digits.X_test), found.estimator.predict(digits.X_test))
