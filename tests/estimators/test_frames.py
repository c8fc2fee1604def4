"""pandas and polars frames: feature names are recorded and checked; values and labels are those of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, SoftmaxClassifierCV
from gpusoftmax.checks.arrays import check_features
from tests.support.installed import frames_of
from tests.support.marks import cpu_only, on_each_device

# every test runs on the CPU and on a GPU: "auto" takes it
pytestmark = on_each_device

NAMES = np.array(["ash", "birch", "cedar"])
ROWS = 40
CODES = np.arange(ROWS) % 3
COLUMNS = ["a", "b", "c"]


@pytest.fixture(params=["pandas", "polars"])
def library(request: pytest.FixtureRequest) -> Any:
    """pandas and polars, in turn."""
    return frames_of(request.param)


@pytest.fixture
def X(rng: np.random.Generator) -> Any:
    """40 rows, 3 features."""
    return 10 * rng.standard_normal((ROWS, 3)) + CODES[:, None]


def frame_with(library: Any, X: Any, columns: list[str] = COLUMNS) -> Any:
    return library.DataFrame(dict(zip(columns, X.T, strict=True)))


def bits(model: Any) -> bytes:
    return bytes(model.coef_.tobytes() + model.intercept_.tobytes())


# features


@cpu_only
@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int16, np.uint8, np.bool_])
def test_a_frame_gives_the_bits_of_its_values(library: Any, cls: Any, dtype: Any, X: Any) -> None:
    X = np.abs(X).astype(dtype)
    frame = frame_with(library, X)
    model, expected = cls(scaling="standard").fit(frame, CODES), cls(scaling="standard").fit(X, CODES)
    assert model.feature_names_in_.tolist() == COLUMNS
    assert bits(model) == bits(expected)
    assert model.decision_function(frame).tobytes() == expected.decision_function(X).tobytes()


def test_a_fit_to_an_array_forgets_the_columns_of_the_fit_before(library: Any, X: Any) -> None:
    model = SoftmaxClassifier().fit(frame_with(library, X), CODES).fit(X[:, :2], CODES)
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 2


def test_columns_of_several_types_become_one(library: Any, X: Any) -> None:
    columns = [X[:, 0], X[:, 1].astype(np.int32), X[:, 2] > 0]
    frame = library.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    expected = SoftmaxClassifier().fit(np.stack(columns, axis=1), CODES)
    np.testing.assert_array_equal(SoftmaxClassifier().fit(frame, CODES).coef_, expected.coef_)


@pytest.mark.parametrize(
    ("method", "labels"),
    [("predict", ()), ("decision_function", ()), ("predict_proba", ()), ("score", (CODES,)), ("partial_fit", (CODES,))],
)
def test_columns_in_another_order_are_refused(library: Any, method: str, labels: Any, X: Any) -> None:
    frame = frame_with(library, X)
    model = SoftmaxClassifier().fit(frame, CODES)
    with pytest.raises(ValueError, match="same order"):
        getattr(model, method)(frame[["c", "b", "a"]], *labels)


def test_a_validation_set_has_the_columns_of_training(library: Any, X: Any) -> None:
    frame = frame_with(library, X)
    with pytest.raises(ValueError, match="same order"):
        SoftmaxClassifier().fit(frame, CODES, validation=(frame[["c", "b", "a"]], CODES))


def test_other_columns_are_named(library: Any, X: Any) -> None:
    model = SoftmaxClassifier().fit(frame_with(library, X), CODES)
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- z\n"):
        model.predict(frame_with(library, X, ["a", "b", "z"]))


def test_a_frame_of_one_library_is_as_good_as_one_of_the_other(X: Any) -> None:
    pandas, polars = frames_of("pandas"), frames_of("polars")
    model = SoftmaxClassifier().fit(frame_with(pandas, X), CODES)
    assert model.predict(frame_with(polars, X)).tolist() == model.predict(frame_with(pandas, X)).tolist()


def test_an_array_after_a_frame_and_a_frame_after_an_array_warn(library: Any, X: Any) -> None:
    frame = frame_with(library, X)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        SoftmaxClassifier().fit(X, CODES).predict(frame)
    for predictor in (SoftmaxClassifier(), LinearSVMClassifier(), SoftmaxClassifierCV(Cs=[1.0])):
        with pytest.warns(UserWarning, match="X does not have valid feature names") as caught:
            predictor.fit(frame, CODES).predict(X)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_column_that_is_no_number_is_named(library: Any, X: Any) -> None:
    frame = library.DataFrame({"a": X[:, 0], "tree": NAMES[CODES]})
    with pytest.raises(TypeError, match=r"X\[0, 1\] \(column 'tree'\) is 'ash': .*encode categories"):
        SoftmaxClassifier().fit(frame, CODES)


def test_a_frame_without_numeric_columns_is_refused(library: Any) -> None:
    with pytest.raises(TypeError, match=r"X\[0, 0\] \(column 'tree'\) is 'ash': .*encode categories"):
        SoftmaxClassifier().fit(library.DataFrame({"tree": NAMES[CODES]}), CODES)
    days = library.DataFrame({"day": np.arange(ROWS).astype("M8[D]")})
    with pytest.raises(ValueError, match=r"X has dtype datetime64.* not numeric; encode it as numbers first"):
        SoftmaxClassifier().fit(days, CODES)


def test_a_gap_is_named(library: Any) -> None:
    frame = library.DataFrame({"a": [1.0, None] * 20})
    with pytest.raises(ValueError, match=r"Input X contains NaN: X\[1, 0\] is nan; impute or drop it"):
        SoftmaxClassifier().fit(frame, CODES)


def test_a_gap_among_nullable_integers_is_named(X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": pandas.array([1, None] * 20, dtype="Int64")})
    with pytest.raises(TypeError, match=r"X\[1, 1\] \(column 'b'\) is <NA>: .*fill gaps"):
        SoftmaxClassifier().fit(frame, CODES)


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "boolean"])
def test_nullable_columns_without_gaps_are_numbers(dtype: str, X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    values = (X > 0) if dtype == "boolean" else X.astype(int)
    model = SoftmaxClassifier().fit(pandas.DataFrame(values, columns=COLUMNS, dtype=dtype), CODES)
    np.testing.assert_allclose(model.coef_, SoftmaxClassifier().fit(values, CODES).coef_, rtol=0.01, atol=1e-3)


NUMBERS = {
    "bool": ("bool", np.float64), "boolean": ("boolean", np.float64), "Int64": ("Int64", np.float64),
    "Float32": ("Float32", np.float64), "category": ("category", np.float64),
    "int64[pyarrow]": ("int64[pyarrow]", np.float64), "float[pyarrow]": ("float[pyarrow]", np.float64),
    "bool[pyarrow]": ("bool[pyarrow]", np.float64),
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "found"), NUMBERS.values(), ids=NUMBERS.keys())
def test_a_frame_of_numbers_is_never_one_of_objects(
    dtype: str, found: Any, X: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("gpusoftmax.checks.arrays._numbers_from_objects", None)
    frame = pandas.DataFrame(X, columns=COLUMNS).assign(flag=pandas.Series((X[:, 0] > 0).astype(int)).astype(dtype))
    array = check_features(frame)
    np.testing.assert_array_equal(array, np.column_stack([X, X[:, 0] > 0]))
    assert array.dtype == found


@pytest.mark.parametrize(("others", "found"), [("f4", "f4"), ("f2", "f2"), ("u1", "f8"), ("i8", "f8"), ("f8", "f8")])
def test_booleans_take_the_type_of_floating_point_of_the_others(others: str, found: str, X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.abs(X).astype(others)).assign(flag=X[:, 0] > 0)
    assert check_features(frame).dtype == found


@pytest.mark.slow
def test_many_columns_of_several_types_are_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    wide = pandas.DataFrame(np.eye(2, 10_000)).astype({0: bool, 9_999: "Int64"})
    np.testing.assert_array_equal(check_features(wide), np.eye(2, 10_000))


def test_sparse_columns_beside_dense_ones_are_refused(X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": pandas.arrays.SparseArray(X[:, 1])})
    with pytest.raises(TypeError, match=r"sparse columns, but column 'a' is dense \(float64\); pass X.astype\(pandas"):
        SoftmaxClassifier().fit(frame, CODES)
    SoftmaxClassifier().fit(frame.astype(float), CODES)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_dates_among_numbers_are_refused_by_their_name(kind: str, X: Any) -> None:
    frame = pytest.importorskip("pandas").DataFrame({"a": X[:, 0], "day": np.arange(ROWS).astype("M8[us]")})
    if kind != "pandas":
        other = pytest.importorskip(kind)
        frame = other.table(frame) if kind == "pyarrow" else other.from_pandas(frame)
    with pytest.raises((TypeError, ValueError), match=r"column '?day'?.*encode"):
        SoftmaxClassifier().fit(frame, CODES)


@pytest.mark.parametrize("kind", ["pandas", "polars", "table", "batch"])
def test_no_message_prints_a_column(kind: str, X: Any) -> None:
    columns = {"a": X[:, 0], "tree": NAMES[CODES]}
    pyarrow = pytest.importorskip("pyarrow")
    make = {"table": pyarrow.table, "batch": pyarrow.RecordBatch.from_pydict}.get(kind)
    frame = pytest.importorskip(kind).DataFrame(columns) if make is None else make(columns)
    labels = frame["tree"]
    mistakes: list[Any] = [
        lambda: SoftmaxClassifier().fit(frame, CODES), lambda: SoftmaxClassifier().fit(X, CODES, labels),
        lambda: SoftmaxClassifier().fit(X, CODES).score(X, labels), lambda: SoftmaxClassifier().fit(labels, CODES),
        lambda: SoftmaxClassifier(C=labels).fit(X, CODES), lambda: SoftmaxClassifier().fit(X, frame),
        lambda: SoftmaxClassifier().fit({"a": labels}, CODES),
    ]  # fmt: skip
    for mistake in mistakes:
        with pytest.raises((TypeError, ValueError)) as caught:
            mistake()
        assert str(caught.value).count("birch") + str(caught.value).count("cedar") == 0
        assert len(str(caught.value)) < 400


def test_an_empty_frame_is_refused(library: Any) -> None:
    with pytest.raises(ValueError, match="X is empty"):
        SoftmaxClassifier().fit(library.DataFrame({}), [])


def test_a_lazy_frame_is_to_be_collected(X: Any) -> None:
    polars = pytest.importorskip("polars")
    lazy = frame_with(polars, X).lazy()
    model = SoftmaxClassifier().fit(X, CODES)
    for entry in (lambda: SoftmaxClassifier().fit(lazy, CODES), lambda: model.predict(lazy)):
        with pytest.raises(TypeError, match=r"X is a LazyFrame\. .*X.collect\(\)"):
            entry()


# labels and weights


PANDAS_LABELS = {
    "strings": (NAMES, "str"), "nullable strings": (NAMES, "string"), "strings as objects": (NAMES, object),
    "categories": (NAMES, "category"), "categories of numbers": ([4, 2, 7], "category"),
    "integers": ([4, 2, 7], "int16"), "nullable integers": ([4, 2, 7], "Int64"),
    "nullable floats": ([4.0, 2.0, 7.0], "Float64"), "booleans": ([True, False, False], "bool"),
    "nullable booleans": ([True, False, False], "boolean"),
}  # fmt: skip
POLARS_LABELS = {
    "strings": (NAMES, "String"), "categories": (NAMES, "Categorical"), "integers": ([4, 2, 7], "Int16"),
    "unsigned": ([4, 2, 7], "UInt8"), "booleans": ([True, False, False], "Boolean"),
}  # fmt: skip


def check_labels(X: Any, labels: Any, values: Any) -> None:
    """Trained on a series, the model has the classes and predictions of the list of its values."""
    model, expected = SoftmaxClassifier().fit(X, labels), SoftmaxClassifier().fit(X, values)
    assert model.classes_.tolist() == sorted(set(values))
    assert model.predict(X).tolist() == expected.predict(X).tolist()
    assert model.score(X, labels) == expected.score(X, values)
    assert model.partial_fit(X, labels).classes_.tolist() == expected.classes_.tolist()
    again = SoftmaxClassifier().fit(X, labels, validation=(X, labels))
    assert again.history_[0].validation_accuracy is not None


@cpu_only
@pytest.mark.parametrize(("names", "dtype"), PANDAS_LABELS.values(), ids=PANDAS_LABELS.keys())
def test_labels_may_be_a_series_of_pandas(names: Any, dtype: Any, X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    values = np.asarray(names)[CODES].tolist()
    check_labels(X, pandas.Series(values, dtype=dtype, index=range(7, 7 + ROWS)), values)


@pytest.mark.parametrize(("names", "dtype"), POLARS_LABELS.values(), ids=POLARS_LABELS.keys())
def test_labels_may_be_a_series_of_polars(names: Any, dtype: str, X: Any) -> None:
    polars = pytest.importorskip("polars")
    values = np.asarray(names)[CODES].tolist()
    check_labels(X, polars.Series(values, dtype=getattr(polars, dtype)), values)


LABELS_IN_THEIR_TYPE = {
    "booleans as objects": (np.array([True, False], object), np.bool_),
    "NumPy's booleans as objects": (np.array([np.True_, np.False_], object), np.bool_),
    "integers as objects": (np.array([4, 2], object), np.int64), "booleans": (np.array([True, False]), np.bool_),
    "text of variable length": (np.array(["ash", "birch"], np.dtypes.StringDType()), np.object_),
    "text": (np.array(["ash", "birch"]), np.str_),
}  # fmt: skip


@pytest.mark.parametrize(("names", "kind"), LABELS_IN_THEIR_TYPE.values(), ids=LABELS_IN_THEIR_TYPE.keys())
def test_labels_come_back_in_their_type(names: Any, kind: Any, X: Any) -> None:
    labels = names[CODES % 2]
    model = SoftmaxClassifier().fit(X, labels)
    assert model.classes_.dtype.type is kind
    assert model.predict(X).dtype.type is kind
    assert model.score(X, labels) == (model.predict(X) == labels).mean()


def test_booleans_of_a_series_with_gaps_dropped_come_back_as_booleans() -> None:
    pandas = pytest.importorskip("pandas")
    y = pandas.Series([True, False, None] * 9).dropna()
    predicted = SoftmaxClassifier().fit(np.arange(18.0)[:, None], y).predict([[0.0]])
    assert predicted.dtype == np.bool_


@pytest.mark.parametrize("dtype", ["boolean", "Int8", "Float32", "bool[pyarrow]", "int8[pyarrow]"])
def test_nullable_labels_come_back_as_what_they_hold(dtype: str, X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    y = pandas.Series(CODES % 2).astype(dtype)
    held = {"b": np.bool_, "I": np.int8, "i": np.int8, "F": np.float32}[dtype[0]]
    assert SoftmaxClassifier().fit(X, y).predict(X).dtype == held


@pytest.mark.parametrize("dtype", ["str", "string", "category", object, "Int64", "boolean", "float64"])
def test_a_missing_label_is_named(dtype: Any, X: Any) -> None:
    pandas = pytest.importorskip("pandas")
    names: Any = {"Int64": [4, 2], "boolean": [True, False], "float64": [1.0, 2.0]}.get(dtype, ["ash", "birch"])
    y = pandas.Series([*names, None, *(names * ROWS)][:ROWS], dtype=dtype)
    with pytest.raises(ValueError, match=r"y\[2\] is (nan|None|<NA>); drop rows without a label"):
        SoftmaxClassifier().fit(X, y)


def test_a_missing_label_of_polars_is_named(X: Any) -> None:
    polars = pytest.importorskip("polars")
    for names in (["ash", "birch"], [1, 2]):
        y = polars.Series([*names, None, *(names * ROWS)][:ROWS])
        with pytest.raises(ValueError, match=r"y\[2\] is (nan|None); drop rows without a label"):
            SoftmaxClassifier().fit(X, y)


def test_weights_may_be_a_series(library: Any, X: Any) -> None:
    weights = np.arange(ROWS) + 0.5
    model = SoftmaxClassifier().fit(X, CODES, library.Series(weights))
    assert bits(model) == bits(SoftmaxClassifier().fit(X, CODES, weights))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_column_of_vectors_is_told_from_text(library: str) -> None:
    module = frames_of(library)
    vectors = [np.array([0.0, 1.0]), np.array([1.0, 2.0])]
    frame = module.DataFrame({"emb": vectors})
    with pytest.raises(TypeError, match=r"column 'emb'\) is .*: a vector where a number belongs; stack vectors"):
        SoftmaxClassifier().fit(frame, [0, 1])
