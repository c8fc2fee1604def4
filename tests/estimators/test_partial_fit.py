"""partial_fit: the result does not depend on how the rows are divided among calls."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from gpusoftmax import (
    DivergenceError,
    EarlyStopping,
    LinearSVMClassifier,
    SoftmaxClassifier,
    load_digits,
    load_model,
    save_model,
)
from gpusoftmax.array import Backend
from gpusoftmax.estimators.partial_fit import Moments

ESTIMATORS = [
    pytest.param(SoftmaxClassifier, {}, id="softmax"),
    pytest.param(LinearSVMClassifier, {}, id="squared hinge"),
    pytest.param(LinearSVMClassifier, {"loss": "hinge"}, id="hinge"),
]


def bits(model: Any) -> bytes:
    return bytes(model.coef_.tobytes() + model.intercept_.tobytes())


@pytest.fixture
def small(rng: np.random.Generator) -> tuple[Any, Any]:
    """40 rows, 3 features of different sizes, 3 classes that overlap."""
    y = np.arange(40) % 3
    return (rng.standard_normal((40, 3)) + 0.7 * y[:, None]) * [1.0, 10.0, 0.1] + 5, y


# what a call does


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("settings", [
    {}, {"learning_rate": 1e-4}, {"penalize_intercept": True}, {"fit_intercept": False}, {"momentum": 0.0},
    {"scaling": (5.0, [1.0, 10.0, 0.1])}, {"nesterov": False, "schedule": "inverse"}, {"batch_size": "full"},
], ids=str)  # fmt: skip
def test_calls_with_all_rows_are_passes_of_fit(
    settings: Any, classes: int, cls: Any, parameters: Any, small: tuple[Any, Any]
) -> None:
    X, y = small[0], small[1] % classes
    settings = {"l2": 0.01, "batch_size": 8, "schedule": "constant", **parameters, **settings}
    whole = cls(solver="sgd", max_iter=3, tol=0.0, **settings).fit(X, y)
    parts = cls(**settings)
    for _ in range(3):
        parts.partial_fit(X, y)
    # rounding alone: the means of the same rows, once and three times, and weights folded between calls
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-9, atol=1e-11 * abs(whole.coef_).max())
    np.testing.assert_allclose(parts.intercept_, whole.intercept_, rtol=1e-9, atol=1e-9)
    assert parts.weight_sum_ == 3 * whole.weight_sum_


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_shuffled_parts_of_digits_are_learned_as_well_as_all_at_once(
    cls: Any, parameters: Any, backend: Backend, rng: np.random.Generator
) -> None:
    digits = load_digits()
    X, y = digits.X_train, digits.y_train
    parts = cls(l2=1 / len(y), backend=backend, **parameters)
    for _ in range(5):
        for rows in np.array_split(rng.permutation(len(y)), 8):
            parts.partial_fit(X[rows], y[rows], classes=np.arange(10))
    whole = cls(l2=1 / len(y), max_iter=20, schedule="cosine", backend=backend, **parameters).fit(X, y)
    # 300 rows carry a standard error of 0.011
    assert parts.score(digits.X_test, digits.y_test) > whole.score(digits.X_test, digits.y_test) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_one_row_at_a_time_will_do(cls: Any, parameters: Any) -> None:
    digits = load_digits()
    model = cls(**parameters)
    for x, label in zip(digits.X_train[:600], digits.y_train[:600], strict=True):
        model.partial_fit(x[None], [label], classes=range(10))
    assert model.score(digits.X_test, digits.y_test) > 0.7


@pytest.mark.slow
def test_columns_of_very_different_sizes_are_no_trouble(rng: np.random.Generator) -> None:
    X = rng.standard_normal((2000, 4)) * [1e-4, 1.0, 1e3, 1e-2] + [0, 0, 1e4, 3]
    y = (X @ [1e4, 1.0, 1e-3, 1e2] - 310 > 0).astype(int)
    model = SoftmaxClassifier(l2=1e-9)
    for _ in range(5):
        for rows in np.array_split(rng.permutation(2000), 40):
            model.partial_fit(X[rows], y[rows], classes=[0, 1])
    assert model.score(X, y) > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("how", ["sample_weight", "class_weight"])
def test_a_weight_counts_where_rows_come_one_by_one(how: str, rng: np.random.Generator) -> None:
    X, y = np.ones((300, 1)), np.arange(300) % 2  # nothing to learn but the frequencies
    weights = np.where(y == 1, 9.0, 1.0)
    model = SoftmaxClassifier(l2=0.0, learning_rate=0.05, momentum=0.0)
    model.set_params(class_weight={0: 1.0, 1: 9.0} if how == "class_weight" else None)
    for x, label, weight in zip(X, y, weights, strict=True):
        model.partial_fit(x[None], [label], [0, 1], [weight] if how == "sample_weight" else None)
    # 9 of 10; the last steps swing it by some 0.05
    assert model.predict_proba(X[:1])[0, 1] == pytest.approx(0.9, abs=0.06)


def test_C_counts_all_rows_so_far(small: tuple[Any, Any]) -> None:
    X, y = small
    by_C, by_l2 = SoftmaxClassifier(C=0.5), SoftmaxClassifier()
    for call in (1, 2, 3):
        by_C.partial_fit(X, y)
        by_l2.set_params(l2=1 / (0.5 * 40 * call)).partial_fit(X, y)
    assert bits(by_C) == bits(by_l2)
    assert by_C.weight_sum_ == 120


def test_moments_of_parts_are_those_of_the_whole(rng: np.random.Generator) -> None:
    X, s = rng.standard_normal((50, 3)) + 4, rng.random(50)

    def moments(rows: slice) -> Moments:
        x, w = X[rows], s[rows]
        mean = np.average(x, axis=0, weights=w)
        return Moments(len(x), w.sum(), mean, np.average((x - mean) ** 2, axis=0, weights=w))

    joined, whole = moments(slice(0, 7)).joined(moments(slice(7, 50))), moments(slice(0, 50))
    assert (joined.rows, joined.weight) == (50, pytest.approx(whole.weight))
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(joined.variance, whole.variance, rtol=1e-12)


@pytest.mark.usefixtures("device")
def test_parts_may_be_of_different_types(small: tuple[Any, Any]) -> None:
    X, y = np.clip(np.round((small[0] - 5) * [20, 2, 200] + 120), 0, 255), small[1]
    model, exact = SoftmaxClassifier(l2=0.01), SoftmaxClassifier(l2=0.01)
    for dtype in (np.float32, np.uint8, np.float64):
        model.partial_fit(X.astype(dtype), y)
        exact.partial_fit(X, y)
    assert model.coef_.dtype == np.float64  # of the last part
    np.testing.assert_allclose(model.coef_, exact.coef_, rtol=1e-4, atol=1e-6)


# where it starts and what it says


def test_it_goes_on_from_a_fit(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(C=1.0).fit(X, y)
    before = model.score(X, y)
    model.partial_fit(X[:1], y[:1])  # one row does not undo 40: C still counts them
    assert model.weight_sum_ == 41
    assert model.score(X, y) > before - 0.1


def test_a_fit_forgets_the_stream(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier().partial_fit(X, y).fit(X, y)
    assert bits(model) == bits(SoftmaxClassifier().fit(X, y))
    assert bits(model.partial_fit(X, y)) == bits(SoftmaxClassifier().fit(X, y).partial_fit(X, y))


def test_the_history_is_of_the_last_call(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(batch_size=10).partial_fit(*small).partial_fit(*small)
    assert (model.n_iter_, len(model.history_), model.history_[0].step) == (1, 1, 4)
    assert (model.stop_reason_, model.fit_report_.solver) == ("finished", "sgd")


def test_each_call_takes_another_order(small: tuple[Any, Any]) -> None:
    X, y = small
    seen = []
    for seed in (0, 0, 1):
        model = SoftmaxClassifier(batch_size=8, learning_rate=0.01, momentum=0.0, l2=0.0, random_state=seed)
        seen.append(bits(model.partial_fit(X, y)))
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.usefixtures("device")
def test_callbacks_are_told_of_each_call(small: tuple[Any, Any]) -> None:
    seen: list[Any] = []
    SoftmaxClassifier(callbacks=[seen.append]).partial_fit(*small).partial_fit(*small)
    assert [record.passes for record in seen] == [1, 1]


def test_early_stopping_says_that_it_has_no_validation_set(small: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="EarlyStopping needs a validation set"):
        SoftmaxClassifier(callbacks=[EarlyStopping()]).partial_fit(*small)


# classes


def test_the_first_call_may_lack_a_class(small: tuple[Any, Any]) -> None:
    X, y = small
    names = np.array(["ash", "birch", "cedar"])
    model = SoftmaxClassifier().partial_fit(X[y == 1], names[y[y == 1]], classes=["cedar", "ash", "birch"])
    assert model.classes_.tolist() == names.tolist()
    assert model.partial_fit(X, names[y]).predict(X).dtype == names.dtype


def test_without_classes_they_are_those_of_the_first_rows(small: tuple[Any, Any]) -> None:
    assert SoftmaxClassifier().partial_fit(*small).partial_fit(small[0][:1], [2]).classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1], r"classes=\[0, 1\] is not the same as on last call to partial_fit or fit, was: \[0, 1, 2\]; leave"),
        ([0, 1, 3], r"classes=\[0, 1, 3\] is not the same"),
        (["a", "b", "c"], r"classes=\['a', 'b', 'c'\] is not the same"),
        ([0], r"classes holds 1 class, 0"),
        (3, r"classes should be a 1d array"),
        ([0.0, np.nan], r"Input classes contains NaN or infinity: classes\[1\]"),
    ],
)
def test_other_classes_are_refused(classes: Any, message: str, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier().partial_fit(*small)
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(*small, classes=classes)
    assert bits(model) == before


@pytest.mark.parametrize("label", [3, -1, "a"])
def test_a_label_that_is_no_class_is_refused(label: Any, small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y\[1\] is .*not among the 3 classes.*first call of partial_fit"):
        model.partial_fit(X[:2], np.array([0, label], dtype=object))


# what is refused


def test_another_number_of_features_is_refused(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier().partial_fit(*small)
    with pytest.raises(ValueError, match="X has 2 features, but SoftmaxClassifier is expecting 3 features"):
        model.partial_fit(small[0][:, :2], small[1])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scaling": "standard"}, r"scaling='standard' needs .*pass scaling=\(shift, scale\)"),
        ({"class_weight": "balanced"}, r"class_weight='balanced' is not supported for partial_fit.*pass a dict"),
        ({"schedule": "cosine"}, r"schedule='cosine' is for passes over the same rows.*use 'constant'"),
        ({"schedule": "adaptive"}, r"schedule='adaptive' is for passes over the same rows"),
        ({"momentum": 1.0}, r"momentum=1.0 is out of range"),
    ],
    ids=str,
)
def test_what_needs_all_rows_at_once_is_refused(parameters: Any, message: str, small: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        SoftmaxClassifier(**parameters).partial_fit(*small)


def test_the_exact_solver_has_no_partial_fit(small: tuple[Any, Any]) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as caught:
        SoftmaxClassifier(solver="lbfgs").partial_fit(*small)
    assert "use solver='auto' or 'sgd'" in str(caught.value.__cause__)


def test_after_divergence_the_model_is_as_it_was(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(batch_size=4, l2=0.1).partial_fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(DivergenceError, match="learning_rate"):
        model.set_params(learning_rate=1e6).partial_fit(X, y)
    assert bits(model.set_params(learning_rate="auto").partial_fit(X, y)) == bits(twin.partial_fit(X, y))


@pytest.mark.usefixtures("device")
def test_a_feature_that_is_not_finite_is_named(small: tuple[Any, Any]) -> None:
    X, y = small[0].copy(), small[1]
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X\[3, 1\] is nan"):
        SoftmaxClassifier().partial_fit(X, y)


# reproducibility


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_the_number_of_threads_does_not_change_a_bit(
    cls: Any, parameters: Any, monkeypatch: pytest.MonkeyPatch, small: tuple[Any, Any]
) -> None:
    monkeypatch.setattr("gpusoftmax.cpu.threads.LEAF_ELEMENTS", 1)
    X, y = np.tile(small[0], (8, 1)).astype(np.float32), np.tile(small[1], 8)
    models = []
    for threads in (1, 2, 7):
        model = cls(n_threads=threads, backend="cpu", batch_size=100, **parameters)
        for first in (0, 150, 300):
            model.partial_fit(X[first : first + 150], y[first : first + 150], classes=[0, 1, 2])
        models.append(bits(model))
    assert len(set(models)) == 1


def test_a_pickled_model_goes_on_where_it_was_and_a_clone_anew(small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(batch_size=8).partial_fit(*small)
    twin = pickle.loads(pickle.dumps(model))
    assert bits(twin.partial_fit(*small)) == bits(model.partial_fit(*small))
    assert not hasattr(clone(model), "_stream")


def test_a_saved_model_knows_how_many_rows_it_has_seen(small: tuple[Any, Any], tmp_path: Path) -> None:
    save_model(SoftmaxClassifier().partial_fit(*small), tmp_path / "model")
    model = load_model(tmp_path / "model").partial_fit(*small)
    assert model.weight_sum_ == 80
    del model.weight_sum_, model._stream  # as from a file of an earlier version
    with pytest.raises(ValueError, match="which C needs; pass l2"):
        model.partial_fit(*small)
    model.set_params(l2=0.1).partial_fit(*small)


@pytest.mark.slow
def test_many_passes_in_parts_come_near_the_optimum(small: tuple[Any, Any]) -> None:
    X, y = small
    model = SoftmaxClassifier(l2=1 / 40)
    for _ in range(200):
        for rows in (slice(0, 20), slice(20, 40)):
            model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    exact = LogisticRegression(tol=1e-8, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), exact.predict_proba(X), atol=0.1)
