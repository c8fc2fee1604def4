"""What a user may pass wrongly, through the public functions: the error's type, and what its message says.

A message has to name the argument, show the offending value where there is one, and hint at the fix.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import DataConversionWarning, NotFittedError

from gpusoftmax import (
    BackendUnavailableError,
    EarlyStopping,
    LinearSVMClassifier,
    SoftmaxClassifier,
    gradient_check,
    loss_and_gradient,
    resolve,
    softmax_cross_entropy,
)

ROWS, FEATURES, CLASSES = 12, 3, 3
X = np.random.default_rng(0).standard_normal((ROWS, FEATURES))
Y = np.arange(ROWS) % CLASSES
W, B = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)
LOGITS, LABELS = np.zeros((3, 2)), np.array([0, 1, 0])
EITHER = (ValueError, TypeError)

ESTIMATORS = [
    pytest.param(SoftmaxClassifier, id="softmax"),
    pytest.param(LinearSVMClassifier, id="svm"),
]


def changed(array: Any, index: Any, value: Any, dtype: Any = None) -> Any:
    """A copy with one entry replaced."""
    copy = np.array(array, dtype=dtype)
    copy[index] = value
    return copy


def objects(entry: Any) -> Any:
    """X as Python objects, with X[3, 1] replaced."""
    return changed(X, (3, 1), entry, object)


def gradient(**changes: Any) -> Callable[[], Any]:
    """A call of loss_and_gradient, to be made later."""
    arguments = {"X": X, "y": Y, "W": W, "b": B, **changes}
    return lambda: loss_and_gradient(**arguments)


def entropy(**changes: Any) -> Callable[[], Any]:
    """A call of softmax_cross_entropy, to be made later."""
    arguments = {"logits": LOGITS, "labels": LABELS, **changes}
    return lambda: softmax_cross_entropy(**arguments)


def fit(cls: Any = SoftmaxClassifier, *, data: dict[str, Any] | None = None, **parameters: Any) -> Callable[[], Any]:
    """A fit of three passes, to be made later; `data` replaces arguments of fit."""
    arguments = {"X": X, "y": Y, **(data or {})}
    return lambda: cls(**{"max_iter": 3, "schedule": "cosine", **parameters}).fit(**arguments)


def predict(features: Any) -> Callable[[], Any]:
    """A prediction of a model that has seen X, to be made later."""
    return lambda: fit()().predict(features)


def refuses(call: Callable[[], Any], error: Any, name: str, *words: str) -> None:
    """The call raises, and the message has the argument's name as a word, and all of `words`."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message), f"no {name!r} in {message!r}"
    assert [word for word in words if word not in message] == [], message


# every entry: the call, the type of the error, the argument's name, the value found, words of the fix
FUNCTIONS = {
    "label -1": (gradient(y=changed(Y, 2, -1)), ValueError, "y[2]", "-1", "0 to 2"),
    "label c": (gradient(y=changed(Y, 2, 3)), ValueError, "y[2]", "is 3,", "0 to 2"),
    "float labels": (gradient(y=Y.astype(float)), TypeError, "y", "float64", "y.astype(int)"),
    "boolean labels": (gradient(y=Y > 0), TypeError, "y", "bool", "integers"),
    "labels too short": (gradient(y=Y[:5]), ValueError, "y", "5", "12 rows"),
    "labels in a column": (gradient(y=Y[:, None]), ValueError, "y", "(12, 1)", "(12,)"),
    "X empty": (gradient(X=X[:0], y=Y[:0]), ValueError, "X", "(0, 3)", "minimum of 1"),
    "X without features": (gradient(X=X[:, :0]), ValueError, "X", "(12, 0)", "minimum of 1"),
    "X 1-D": (gradient(X=X[:, 0]), ValueError, "X", "(12,)", "X.reshape(-1, 1)"),
    "X 3-D": (gradient(X=X[:, :, None]), ValueError, "X", "(12, 3, 1)", "X.reshape(len(X), -1)"),
    "X of strings": (gradient(X=X.astype(str)), ValueError, "X", "<U", "encode"),
    "X ragged": (gradient(X=[[1.0, 2.0], [3.0]], y=[0, 1]), EITHER, "X"),
    "X complex": (gradient(X=X + 1j), ValueError, "X", "complex128", "X.real"),
    "X sparse": (gradient(X=scipy.sparse.csr_array(X)), TypeError, "X", "sparse", "X.toarray()"),
    "X of objects": (gradient(X=objects("red")), TypeError, "X[3, 1]", "'red'", "encode"),
    "W of another d": (gradient(W=W[:2]), ValueError, "W", "(2, 3)", "(3, classes)"),
    "W 1-D": (gradient(W=W[0]), ValueError, "W", "(3,)", "(3, classes)"),
    "W of one class": (gradient(W=W[:, :1], b=B[:1]), ValueError, "W", "(3, 1)", "at least two"),
    "W of strings": (gradient(W=W.astype(str)), TypeError, "W", "<U", "real numbers"),
    "W complex": (gradient(W=W + 1j), TypeError, "W", "complex128", "real numbers"),
    "b too short": (gradient(b=B[:2]), ValueError, "b", "(2,)", "(3,)"),
    "b of objects": (gradient(b=B.astype(object)), TypeError, "b", "object", "real numbers"),
    "loss unknown": (gradient(loss="log"), ValueError, "loss", "'log'", "'softmax', 'hinge', 'squared_hinge'"),
    "backend unknown": (gradient(backend="gpu"), ValueError, "backend", "'gpu'", "'auto', 'cpu', 'numpy', 'cuda'"),
    "backend None": (gradient(backend=None), ValueError, "backend", "None", "'auto'"),
    "no such GPU": (gradient(backend="cuda:99"), BackendUnavailableError, "backend", "'cuda:99'", "backend='auto'"),
    "l2 negative": (gradient(l2=-1), ValueError, "l2", "-1", "at least 0"),
    "l2 NaN": (gradient(l2=np.nan), ValueError, "l2", "nan", "finite"),
    "l2 a string": (gradient(l2="1"), TypeError, "l2", "'1'", "pass a number"),
    "l2 for other models": (gradient(l2=[1.0, 2.0]), ValueError, "l2", "(2,)", "(1,)"),
    "weights too short": (gradient(sample_weight=np.ones(5)), ValueError, "sample_weight", "5", "12 rows"),
    "weights for other models": (gradient(sample_weight=np.ones((12, 2))), ValueError, "sample_weight", "(12, 2)"),
    "weight negative": (
        gradient(sample_weight=changed(np.ones(12), 4, -2)), ValueError, "sample_weight[4]", "-2.0", "not negative"
    ),
    "weight NaN": (
        gradient(sample_weight=changed(np.ones(12), 4, np.nan)), ValueError, "sample_weight[4]", "nan", "finite"
    ),
    "weights sum to 0": (gradient(sample_weight=np.zeros(12)), ValueError, "sample_weight", "zero", "at least one"),
    "weight a number": (gradient(sample_weight=2.0), ValueError, "sample_weight", "2.0", "(12,)"),
    "weights of strings": (gradient(sample_weight=["a"] * 12), EITHER, "sample_weight", "'a'"),
    "shift too short": (gradient(shift=np.ones(2)), ValueError, "shift", "(2,)", "(3,)"),
    "shift NaN": (gradient(shift=np.nan), ValueError, "shift", "NaN", "finite"),
    "shift a string": (gradient(shift="mean"), EITHER, "shift", "'mean'"),
    "scale negative": (gradient(scale=[1.0, -2.0, 1.0]), ValueError, "scale[1]", "negative", "standard deviations"),
    "penalize_intercept": (gradient(penalize_intercept="yes"), TypeError, "penalize_intercept", "'yes'", "True or"),
    "n_threads 0": (gradient(n_threads=0), ValueError, "n_threads", "=0 ", "at least 1"),
    "n_threads 1.5": (gradient(n_threads=1.5), TypeError, "n_threads", "1.5", "whole number"),
    "logits of one class": (entropy(logits=LOGITS[:, :1]), ValueError, "logits", "(3, 1)", "at least two"),
    "logits 1-D": (entropy(logits=LOGITS[:, 0]), ValueError, "logits", "(3,)", "logits.reshape"),
    "logits empty": (entropy(logits=LOGITS[:0], labels=[]), ValueError, "logits", "(0, 2)", "minimum of 1"),
    "target 2 of 2": (entropy(labels=[0, 2, 0]), ValueError, "labels[1]", "is 2,", "0 to 1"),
    "target -1": (entropy(labels=[0, 1, -1]), ValueError, "labels[2]", "-1", "0 to 1"),
    "float targets": (entropy(labels=[0.0, 1.0, 0.0]), TypeError, "labels", "float64", "labels.astype(int)"),
    "targets too short": (entropy(labels=[0, 1]), ValueError, "labels", "2", "logits has 3 rows"),
    "target weight": (
        entropy(sample_weight=[1.0, -1.0, 1.0]), ValueError, "sample_weight[1]", "-1.0", "not negative"
    ),
    "n_checks 0": (lambda: gradient_check(X, Y, W, B, n_checks=0), ValueError, "n_checks", "=0 ", "at least 1"),
    "h 0": (lambda: gradient_check(X, Y, W, B, h=0), ValueError, "h", "=0 ", "greater than 0"),
    "h NaN": (lambda: gradient_check(X, Y, W, B, h=np.nan), ValueError, "h", "nan", "finite"),
    "patience 0": (lambda: EarlyStopping(patience=0), ValueError, "patience", "=0 ", "at least 1"),
    "stopping tol": (lambda: EarlyStopping(tol=-1), ValueError, "tol", "-1", "at least 0"),
    "resolve a number": (lambda: resolve(3), ValueError, "backend", "3", "'auto'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_a_function_refuses_with_name_value_and_fix(case: Any) -> None:
    refuses(*case)


PARAMETERS = {
    "max_iter 0": ({"max_iter": 0}, ValueError, "max_iter", "=0 ", "at least 1"),
    "max_iter 1.5": ({"max_iter": 1.5}, TypeError, "max_iter", "1.5", "whole number"),
    "max_iter True": ({"max_iter": True}, TypeError, "max_iter", "True", "whole number"),
    "tol negative": ({"tol": -1e-3}, ValueError, "tol", "-0.001", "at least 0"),
    "tol None": ({"tol": None}, TypeError, "tol", "None", "pass a number"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size", "=0 ", "at least 1"),
    "batch_size a word": ({"batch_size": "big"}, ValueError, "batch_size", "'big'", "'auto', 'full'"),
    "batch_size 1.5": ({"batch_size": 1.5}, TypeError, "batch_size", "1.5", "whole number"),
    "learning_rate 0": ({"learning_rate": 0}, ValueError, "learning_rate", "=0 ", "greater than 0"),
    "learning_rate a word": ({"learning_rate": "fast"}, ValueError, "learning_rate", "'fast'", "'auto'"),
    "learning_rate inf": ({"learning_rate": np.inf}, ValueError, "learning_rate", "inf", "finite"),
    "momentum 1": ({"momentum": 1}, ValueError, "momentum", "=1 ", "less than 1"),
    "momentum negative": ({"momentum": -0.5}, ValueError, "momentum", "-0.5", "at least 0"),
    "nesterov": ({"nesterov": None}, TypeError, "nesterov", "None", "True or False"),
    "schedule": ({"schedule": "linear"}, ValueError, "schedule", "'linear'", "'adaptive'", "'cosine'"),
    "solver": ({"solver": "adam"}, ValueError, "solver", "'adam'", "'sgd'", "'lbfgs'"),
    "SGD's batch_size": ({"solver": "lbfgs", "batch_size": 8}, ValueError, "batch_size=8", "solver='sgd'", "'auto'"),
    "SGD's momentum": ({"solver": "lbfgs", "momentum": 0.5}, ValueError, "momentum=0.5", "solver='sgd'", "0.9"),
    "scaling a word": ({"scaling": "minmax"}, ValueError, "scaling", "'minmax'", "'standard'"),
    "scaling a list": ({"scaling": [0.0, 1.0]}, ValueError, "scaling", "[0.0, 1.0]", "a pair (shift, scale)"),
    "scaling of three": ({"scaling": (1, 2, 3)}, ValueError, "scaling", "(1, 2, 3)", "a pair (shift, scale)"),
    "scaling's shift": ({"scaling": (np.ones(2), None)}, ValueError, "shift", "(2,)", "(3,)"),
    "scaling's scale": ({"scaling": (None, -1.0)}, ValueError, "scale[0]", "negative", "standard deviations"),
    "C negative": ({"C": -1}, ValueError, "C", "-1", "greater than 0"),
    "C 0": ({"C": 0.0}, ValueError, "C", "0.0", "greater than 0"),
    "C NaN": ({"C": np.nan}, ValueError, "C", "nan", "greater than 0"),
    "C a string": ({"C": "1"}, TypeError, "C", "'1'", "pass a number"),
    "C several": ({"C": np.array([1.0, 2.0])}, EITHER, "C", "array([1., 2.])", "number"),
    "l2 negative": ({"l2": -1}, ValueError, "l2", "-1", "at least 0"),
    "l2 NaN": ({"l2": np.nan}, ValueError, "l2", "nan", "finite"),
    "C and l2": ({"C": 1.5, "l2": 0.25}, ValueError, "C", "1.5", "l2=0.25", "pass one"),
    "fit_intercept": ({"fit_intercept": 1}, TypeError, "fit_intercept", "1", "True or False"),
    "no intercept to penalise": (
        {"fit_intercept": False, "penalize_intercept": True},
        ValueError, "penalize_intercept", "True", "fit_intercept=True",
    ),
    "verbose negative": ({"verbose": -1}, ValueError, "verbose", "-1", "at least 0"),
    "verbose a word": ({"verbose": "loud"}, EITHER, "verbose", "'loud'", "whole number"),
    "verbose None": ({"verbose": None}, TypeError, "verbose", "None", "whole number"),
    "verbose 0.5": ({"verbose": 0.5}, TypeError, "verbose", "0.5", "whole number"),
    "callbacks a function": ({"callbacks": print}, TypeError, "callbacks", "print", "pass a list"),
    "callbacks a stopper": ({"callbacks": EarlyStopping()}, TypeError, "callbacks", "EarlyStopping", "pass a list"),
    "callbacks None": ({"callbacks": None}, TypeError, "callbacks", "None", "pass a list"),
    "callbacks not callable": ({"callbacks": [5]}, TypeError, "callbacks", "5", "functions of one argument"),
    "a stopper alone": ({"callbacks": [EarlyStopping()]}, ValueError, "EarlyStopping", "validation=(X, y)"),
    "n_threads 0": ({"n_threads": 0}, ValueError, "n_threads", "=0 ", "at least 1"),
    "n_threads a string": ({"n_threads": "2"}, TypeError, "n_threads", "'2'", "whole number"),
    "backend unknown": ({"backend": "gpu"}, ValueError, "backend", "'gpu'", "'auto', 'cpu'"),
    "no such GPU": ({"backend": "cuda:99"}, BackendUnavailableError, "backend", "'cuda:99'", "backend='auto'"),
    "class_weight a word": ({"class_weight": "even"}, ValueError, "class_weight", "'even'", "'balanced'"),
    "class_weight of strangers": ({"class_weight": {7: 2.0}}, ValueError, "class_weight", "[0, 1, 2]"),
    "class_weight negative": ({"class_weight": {0: -1.0}}, ValueError, "class_weight", "-1.0", "not negative"),
    "class_weight all 0": ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, "class_weight", "zero", "positive"),
    "random_state a word": ({"random_state": "dice"}, EITHER, "random_state", "'dice'"),
    "random_state too large": ({"random_state": 2**70}, ValueError, "random_state", str(2**70)),
}  # fmt: skip


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("case", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_fit_refuses_a_parameter_with_name_value_and_fix(cls: Any, case: Any) -> None:
    parameters, *expected = case
    refuses(fit(cls, **parameters), *expected)


@pytest.mark.parametrize(
    ("cls", "loss", "known"),
    [
        (SoftmaxClassifier, "hinge", ["'softmax'"]),
        (SoftmaxClassifier, None, ["'softmax'"]),
        (LinearSVMClassifier, "softmax", ["'squared_hinge'", "'hinge'"]),
        (LinearSVMClassifier, "log", ["'squared_hinge'", "'hinge'"]),
    ],
)
def test_fit_refuses_a_loss_that_is_not_the_estimators(cls: Any, loss: Any, known: list[str]) -> None:
    refuses(fit(cls, loss=loss), ValueError, "loss", repr(loss), *known)


DATA = {
    "y too short": ({"y": Y[:5]}, ValueError, "y", "5", "12 rows"),
    "y None": ({"y": None}, ValueError, "y", "None", "requires y to be passed"),
    "y of one class": ({"y": np.full(12, 4)}, ValueError, "y", "4", "at least two classes"),
    "y continuous": ({"y": X[:, 0]}, ValueError, "y", "continuous", "discrete classes"),
    "y 2-D": ({"y": np.stack([Y, Y], axis=1)}, ValueError, "y", "(12, 2)", "one label per row"),
    "y NaN": ({"y": changed(Y, 3, np.nan, float)}, ValueError, "y[3]", "nan", "drop"),
    "y complex": ({"y": Y + 1j}, ValueError, "y", "complex128", "not supported"),
    "X empty": ({"X": X[:0], "y": []}, ValueError, "X", "(0, 3)", "minimum of 1"),
    "X without features": ({"X": X[:, :0]}, ValueError, "X", "(12, 0)", "minimum of 1"),
    "X 1-D": ({"X": X[:, 0]}, ValueError, "X", "(12,)", "X.reshape(-1, 1)"),
    "X 3-D": ({"X": X[:, :, None]}, ValueError, "X", "(12, 3, 1)", "X.reshape(len(X), -1)"),
    "X None": ({"X": None}, EITHER, "X", "2D array"),
    "X of strings": ({"X": X.astype(str)}, ValueError, "X", "<U", "encode"),
    "X complex": ({"X": X + 1j}, ValueError, "X", "complex128", "X.real"),
    "X of dates": ({"X": X.astype("M8[s]")}, ValueError, "X", "datetime64", "encode"),
    "X of objects": ({"X": objects("red")}, TypeError, "X[3, 1]", "'red'", "encode"),
    "X sparse": ({"X": scipy.sparse.csr_matrix(X)}, TypeError, "X", "sparse", "X.toarray()"),
    "weights too short": ({"sample_weight": np.ones(5)}, ValueError, "sample_weight", "5", "12 rows"),
    "weight negative": (
        {"sample_weight": changed(np.ones(12), 4, -2)}, ValueError, "sample_weight[4]", "-2.0", "not negative"
    ),
    "weight NaN": (
        {"sample_weight": changed(np.ones(12), 4, np.nan)}, ValueError, "sample_weight[4]", "nan", "finite"
    ),
    "weights sum to 0": ({"sample_weight": np.zeros(12)}, ValueError, "sample_weight", "zero", "at least one"),
    "weight a number": ({"sample_weight": 2.0}, ValueError, "sample_weight", "2.0", "(12,)"),
    "weights of strings": ({"sample_weight": ["a"] * 12}, EITHER, "sample_weight", "'a'"),
    "validation no pair": ({"validation": X}, TypeError, "validation", "ndarray", "a pair (X, y)"),
    "validation of three": ({"validation": (X, Y, Y)}, EITHER, "validation", "a pair (X, y)"),
    "validation too short": ({"validation": (X, Y[:4])}, ValueError, "validation[1]", "4", "12 rows"),
    "validation of other features": (
        {"validation": (X[:, :2], Y)}, ValueError, "validation[0]", "2 features", "expecting 3 features"
    ),
    "validation of strangers": ({"validation": (X, Y + 1)}, ValueError, "validation[1][2]", "3", "not among"),
    "validation of texts": ({"validation": (X, Y.astype(str))}, ValueError, "validation[1][0]", "'0'", "not among"),
    "validation without labels": ({"validation": (X, None)}, EITHER, "validation[1]", "None"),
    "validation 1-D": ({"validation": (X[:, 0], Y)}, ValueError, "validation[0]", "(12,)", "reshape"),
}  # fmt: skip


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("case", DATA.values(), ids=DATA.keys())
def test_fit_refuses_data_with_name_value_and_fix(cls: Any, case: Any) -> None:
    data, *expected = case
    refuses(fit(cls, data=data), *expected)


PREDICTION = {
    "other features": (X[:, :2], ValueError, "X", "2 features", "expecting 3 features"),
    "1-D": (X[0], ValueError, "X", "(3,)", "X.reshape(1, -1)"),
    "3-D": (X[:, :, None], ValueError, "X", "(12, 3, 1)", "X.reshape(len(X), -1)"),
    "empty": (X[:0], ValueError, "X", "(0, 3)", "minimum of 1"),
    "sparse": (scipy.sparse.csr_array(X), TypeError, "X", "sparse", "X.toarray()"),
    "strings": (X.astype(str), ValueError, "X", "<U", "encode"),
    "objects": (objects("red"), TypeError, "X[3, 1]", "'red'", "encode"),
}


@pytest.mark.parametrize("case", PREDICTION.values(), ids=PREDICTION.keys())
def test_predict_refuses_data_with_name_value_and_fix(case: Any) -> None:
    features, *expected = case
    refuses(predict(features), *expected)


@pytest.mark.parametrize("method", ["predict", "decision_function", "predict_proba", "predict_log_proba", "score"])
def test_an_unfitted_model_says_to_call_fit(method: str) -> None:
    call = getattr(SoftmaxClassifier(), method)
    refuses(lambda: call(X, Y) if method == "score" else call(X), NotFittedError, "fit", "SoftmaxClassifier")


# X is not scanned beforehand: these are found once a loss or a score comes out non-finite


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"scaling": "standard"},
        {"batch_size": 5},
        {"fit_intercept": False},
        {"penalize_intercept": True, "learning_rate": 0.1},
    ],
    ids=["default", "standard", "minibatches", "no intercept", "penalised"],
)
def test_fit_names_the_first_entry_that_is_not_finite(dtype: Any, value: float, kind: str, parameters: Any) -> None:
    features = changed(X, (5, 1), value, dtype)
    refuses(fit(data={"X": features}, **parameters), ValueError, "X[5, 1]", kind, "impute")


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_fit_names_the_first_entry_of_the_validation_set_that_is_not_finite(value: float, kind: str) -> None:
    held_out = changed(X, (5, 1), value)
    refuses(fit(data={"validation": (held_out, Y)}), ValueError, "validation[0][5, 1]", kind)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_predict_names_the_first_entry_that_is_not_finite(dtype: Any, value: float, kind: str) -> None:
    refuses(predict(changed(X, (5, 1), value, dtype)), ValueError, "X[5, 1]", kind, "impute")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_loss_and_gradient_returns_a_loss_that_is_not_finite_for_such_features(value: float) -> None:
    weights = np.arange(9.0).reshape(3, 3)  # no zeros where they count: 0 x inf would be NaN all the same
    loss, _, _ = loss_and_gradient(changed(X, (5, 1), value), Y, weights, B)
    assert not np.isfinite(loss)


# what looks odd and is accepted


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_column_of_labels_warns_and_fits_as_the_flat_labels_do(cls: Any) -> None:
    with pytest.warns(DataConversionWarning, match=r"y has shape \(12, 1\); pass y.ravel\(\)"):
        from_column = fit(cls, data={"y": Y[:, None]})()
    np.testing.assert_array_equal(from_column.coef_, fit(cls)().coef_)


def test_the_warning_about_a_column_of_labels_points_at_the_users_line() -> None:
    with pytest.warns(DataConversionWarning) as caught:
        SoftmaxClassifier(max_iter=3, schedule="cosine").fit(X, Y[:, None])
    assert caught[0].filename == __file__


WHOLE = np.round(10 * X) + 40  # exact in every type below
SAME_NUMBERS = {
    "objects": WHOLE.astype(object),
    "lists": WHOLE.tolist(),
    "int64": WHOLE.astype(np.int64),
    "uint32": WHOLE.astype(np.uint32),
    "big-endian": WHOLE.astype(">f8"),
    "Fortran order": np.asfortranarray(WHOLE),
    "every second row": np.repeat(WHOLE, 2, axis=0)[::2],
    "reversed": WHOLE[::-1, ::-1].copy()[::-1, ::-1],
    "a field of packed records": np.rec.fromarrays([np.zeros(36, np.int8), WHOLE.ravel()], names="a,b").b.reshape(
        12, 3
    ),
}


@pytest.mark.parametrize("features", SAME_NUMBERS.values(), ids=SAME_NUMBERS.keys())
def test_the_same_numbers_in_another_form_give_the_same_model(features: Any) -> None:
    expected = fit(data={"X": WHOLE})().coef_
    # other strides may take another way through BLAS when the learning rate is found: rounding, of three steps
    np.testing.assert_allclose(fit(data={"X": features})().coef_, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int16, np.uint16])
def test_small_integers_and_booleans_give_the_bits_of_float32(dtype: Any) -> None:
    features = (WHOLE > 40).astype(dtype)
    expected = fit(data={"X": features.astype(np.float32)})().coef_
    np.testing.assert_array_equal(fit(data={"X": features})().coef_, expected)


def test_boolean_features_are_not_copied() -> None:
    from gpusoftmax.validation import check_features

    features = X > 0
    assert np.shares_memory(check_features(features), features)


@pytest.mark.parametrize("scale", [0.0, [0.0, 2.0, 0.0]])
def test_a_scale_of_zero_counts_as_one(scale: Any) -> None:
    weights = np.arange(9.0).reshape(3, 3)
    as_one = np.where(np.asarray(scale) == 0, 1.0, scale)
    value = loss_and_gradient(X, Y, weights, B, scale=scale)[0]
    assert value == loss_and_gradient(X, Y, weights, B, scale=as_one)[0]


@pytest.mark.parametrize("text", ["many", "0", "-1", "1.5", "1025"])
def test_a_thread_count_in_the_environment_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", text)
    refuses(fit(), ValueError, "GPUSOFTMAX_NUM_THREADS", repr(text), "from 1 to 1024")
