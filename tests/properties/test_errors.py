"""Invalid input: each mistake raises one error that names the argument, its value and the fix, and changes no state.

Input that is unusual but valid gives the result of its plain form.
"""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import DataConversionWarning, NotFittedError

from gpusoftmax import (
    BackendUnavailableError,
    EarlyStopping,
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    get_backend,
    gradient_check,
    linear_probe,
    load_cifar10,
    loss_and_gradient,
    save_model,
    softmax_cross_entropy,
    sweep,
    sweep_cs231n,
    train_cs231n,
)
from gpusoftmax.checks.arrays import check_features
from gpusoftmax.cuda.probe import Probe
from tests.support.installed import frames_of

ROWS, FEATURES, CLASSES = 12, 3, 3
X = np.random.default_rng(0).standard_normal((ROWS, FEATURES))
Y = np.arange(ROWS) % CLASSES
W, B = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)
LOGITS, LABELS = np.zeros((3, 2)), np.array([0, 1, 0])
ONES, SOFT = np.ones(ROWS), np.full((ROWS, CLASSES), 1 / CLASSES)
RAGGED = [[1.0], [1.0, 2.0]] * 6
LONG = "x" * 100_000
NO_GPU = "CuPy is not installed: pip install 'gpusoftmax[cuda13]'"

# ways in: each makes a call that succeeds, unless an argument is changed to one that it refuses


def fit(model: Any, **changes: Any) -> Any:
    """A fit of three passes; `changes` are of the constructor or of fit."""
    of_fit = ("X", "y", "sample_weight", "validation", "start_from")
    data = {"X": X, "y": Y, **{name: changes.pop(name) for name in of_fit if name in changes}}
    return model.set_params(**{"max_iter": 3, "schedule": "cosine", **changes}).fit(**data)


def softmax(**changes: Any) -> Any:
    return fit(SoftmaxClassifier(), **changes)


def svm(**changes: Any) -> Any:
    return fit(LinearSVMClassifier(), **changes)


def partial_fit(**changes: Any) -> Any:
    return SoftmaxClassifier().partial_fit(**{"X": X, "y": Y, **changes})


def gradient(**changes: Any) -> Any:
    return loss_and_gradient(**{"X": X, "y": Y, "W": W, "b": B, **changes})


def check(**changes: Any) -> Any:
    return gradient_check(**{"X": X, "y": Y, "W": W, "b": B, **changes})


def entropy(**changes: Any) -> Any:
    return softmax_cross_entropy(**{"logits": LOGITS, "labels": LABELS, **changes})


def grid(**changes: Any) -> Any:
    given = {"X": X, "y": Y, "grid": {"C": [0.1, 1.0]}, "cv": None if "validation" in changes else 3}
    given |= changes
    own = {name: given.pop(name) for name in inspect.signature(sweep).parameters if name in given}
    return sweep(SoftmaxClassifier(**given), **own).best_estimator_


def classifier_cv(**changes: Any) -> Any:
    data = {"X": X, "y": Y, **{name: changes.pop(name) for name in ("X", "y", "sample_weight") if name in changes}}
    return SoftmaxClassifierCV(**{"Cs": [0.1, 1.0], "cv": 3, **changes}).fit(**data)


def course(**changes: Any) -> Any:
    return train_cs231n(**{"X": X, "y": Y, "n_iterations": 2, "batch_size": 4, **changes})


def course_grid(**changes: Any) -> Any:
    given = {"X": X, "y": Y, "validation": (X, Y), "learning_rates": [1e-3], "regs": [1.0]}
    return sweep_cs231n(**{**given, "n_iterations": 2, "batch_size": 4, **changes}).best_estimator


def probe(**changes: Any) -> Any:
    rows = {"X_train": X.repeat(4, axis=0), "y_train": Y.repeat(4), "X_test": X, "y_test": Y}
    return linear_probe(**{**rows, "protocol": "clip", **changes})


def predict(**changes: Any) -> Any:
    return softmax().predict(changes["X"])


def predict_proba(**changes: Any) -> Any:
    return softmax().predict_proba(changes["X"])


def predict_cv(**changes: Any) -> Any:
    return classifier_cv().predict(changes["X"])


def score(**changes: Any) -> Any:
    return softmax().score(**{"X": X, "y": Y, **changes})


def unfitted(cls: Any, method: str) -> Any:
    return getattr(cls(), method)(*(X, Y) if method == "score" else (X,))


def without_gpu(entry: Any) -> Any:
    with patch("gpusoftmax.array.probe", lambda index: Probe(False, NO_GPU)):
        return entry(backend="cuda")


def changed(array: Any, index: Any, value: Any, dtype: Any = None) -> Any:
    """A copy with one entry replaced."""
    copy = np.array(array, dtype=dtype)
    copy[index] = value
    return copy


def objects(entry: Any) -> Any:
    """X as Python objects, with X[3, 1] replaced."""
    return changed(X, (3, 1), entry, object)


def damaged_csr(indices: list[int]) -> Any:
    """X as a sparse matrix whose first columns are replaced."""
    sparse = scipy.sparse.csr_array(X)
    sparse.indices[: len(indices)] = indices
    return sparse


def linear(coef: Any, classes: Any) -> Any:
    """A fitted linear classifier, as far as start_from looks at it."""
    return SimpleNamespace(classes_=classes, coef_=coef, intercept_=np.zeros(len(coef)))


class OnMps:
    """A tensor of PyTorch whose memory NumPy cannot read."""

    def detach(self) -> OnMps:
        return self

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu()")


OnMps.__module__ = "torch"

FITS = (softmax, svm)
OBJECTIVES = (gradient, check)
SWEEPS = (grid, classifier_cv, course, course_grid)
LEARNERS = (*FITS, partial_fit, *SWEEPS)
PREDICTORS = (predict, predict_proba, score)
WITH_X = (*OBJECTIVES, *LEARNERS, *PREDICTORS)
SPARSE = [call for call in WITH_X if call not in (course, course_grid)]
WITH_BACKEND = (*OBJECTIVES, *FITS, *SWEEPS, probe, get_backend)

# every row: ways in, what is changed, the type of the error, and what the message has: name, value and fix
TABLE: dict[str, tuple[Any, ...]] = {
    # labels that are no class indices
    "labels -1": (OBJECTIVES, {"y": changed(Y, 2, -1)}, ValueError, "y[2]", "is -1,", "go from 0 to 2"),
    "labels c": (OBJECTIVES, {"y": changed(Y, 2, 3)}, ValueError, "y[2]", "is 3,", "go from 0 to 2"),
    "labels float": (OBJECTIVES, {"y": Y.astype(float)}, TypeError, "y", "float64", "y.astype(int)"),
    "labels boolean": (OBJECTIVES, {"y": Y > 0}, TypeError, "y", "bool", "integers from 0 to 2"),
    "labels of text": (OBJECTIVES, {"y": Y.astype(str)}, TypeError, "y", "<U", "integers from 0 to 2"),
    "labels in a column": (OBJECTIVES, {"y": Y[:, None]}, ValueError, "y", "(12, 1)", "shape (12,)"),
    "labels soft": (OBJECTIVES, {"y": SOFT}, ValueError, "y", "(12, 3)", "shape (12,)"),
    "labels None": (OBJECTIVES, {"y": None}, ValueError, "y", "NoneType", "one class index per row"),
    "labels ragged": (OBJECTIVES, {"y": RAGGED}, ValueError, "y", "[1.0, 2.0]", "one class index per row"),
    "labels beyond int64": (
        OBJECTIVES, {"y": np.full(ROWS, 2**63, np.uint64)}, ValueError, "y[0]", str(2**63), "go from 0 to 2",
    ),
    "target -1": ([entropy], {"labels": [0, 1, -1]}, ValueError, "labels[2]", "is -1,", "go from 0 to 1"),
    "target c": ([entropy], {"labels": [0, 2, 0]}, ValueError, "labels[1]", "is 2,", "go from 0 to 1"),
    "target float": ([entropy], {"labels": [0.0, 1.0, 0.0]}, TypeError, "labels", "float64", "labels.astype(int)"),
    "target None": ([entropy], {"labels": None}, ValueError, "labels", "NoneType", "one class index per row"),
    # NaN and infinity
    "NaN features": (LEARNERS, {"X": changed(X, (5, 1), np.nan)}, ValueError, "X[5, 1]", "nan", "impute"),
    "inf features": (LEARNERS, {"X": changed(X, (5, 1), np.inf)}, ValueError, "X[5, 1]", "inf;", "impute"),
    "inf column": (FITS, {"X": changed(X, np.s_[:, 1], np.inf)}, ValueError, "X[0, 1]", "inf;", "impute"),
    "NaN at predict": (PREDICTORS, {"X": changed(X, (5, 1), np.nan)}, ValueError, "X[5, 1]", "nan", "impute"),
    "inf at predict": (PREDICTORS, {"X": changed(X, (5, 1), np.inf)}, ValueError, "X[5, 1]", "inf;", "impute"),
    "features beyond float64": (
        FITS, {"X": changed(X, (5, 1), np.longdouble("1e4000"), np.longdouble)}, ValueError, "X[5, 1]", "inf;", "impute"
    ),
    "features masked": (WITH_X, {"X": np.ma.masked_less(X, -2.3)}, ValueError, "X[4, 0]", "masked", "drop its row"),
    "validation NaN": (
        (*FITS, grid, course_grid), {"validation": (changed(X, (5, 1), np.nan), Y)},
        ValueError, "validation[0][5, 1]", "nan", "impute",
    ),
    # mismatched lengths
    "y too short": ((*OBJECTIVES, *LEARNERS, score), {"y": Y[:5]}, ValueError, "y", "length 5", "one entry for each"),
    "y empty": (LEARNERS, {"y": []}, ValueError, "y", "length 0", "12 rows; pass one entry for each"),
    "y in a row": (
        [softmax, partial_fit, *SWEEPS], {"y": Y[None]},
        ValueError, "y", "length 1", "12 rows; pass one entry for each",
    ),
    "y_train too short": ([probe], {"y_train": Y}, ValueError, "y_train", "length 12", "one entry for each"),
    "targets too short": ([entropy], {"labels": [0, 1]}, ValueError, "labels", "length 2", "logits has 3 rows; pass"),
    "weights too short": (
        (*OBJECTIVES, *FITS, partial_fit, grid, classifier_cv, score), {"sample_weight": np.ones(5)},
        ValueError, "sample_weight", "length 5", "X has 12 rows; pass one entry for each",
    ),
    "target weights too short": (
        [entropy], {"sample_weight": [1.0]}, ValueError, "sample_weight", "length 1", "logits has 3 rows; pass one",
    ),
    "validation too short": (
        (*FITS, grid, course_grid), {"validation": (X, Y[:4])},
        ValueError, "validation[1]", "length 4", "validation[0] has 12 rows; pass one entry for each",
    ),
    "soft validation too short": (
        [softmax], {"validation": (X, SOFT[:4])}, ValueError, "validation[1]", "length 4", "validation[0] has 12 rows",
    ),
    # one class
    "one class": (LEARNERS, {"y": np.full(ROWS, 4)}, ValueError, "y", "1 class, 4", "at least two classes"),
    "one class of a long name": (FITS, {"y": [LONG] * ROWS}, ValueError, "y", "1 class, 'xx", "at least two classes"),
    "one class in y_train": ([probe], {"y_train": [7] * 48}, ValueError, "y_train", "1 class, 7", "at least two"),
    "one class in W": (OBJECTIVES, {"W": W[:, :1], "b": B[:1]}, ValueError, "W", "(3, 1)", "pass at least two columns"),
    "one class in logits": ([entropy], {"logits": LOGITS[:, :1]}, ValueError, "logits", "(3, 1)", "two columns"),
    # empty
    "X empty": (WITH_X, {"X": X[:0]}, ValueError, "X", "(0, 3)", "minimum of 1 is required: X is empty; pass at least"),
    "X without features": (WITH_X, {"X": X[:, :0]}, ValueError, "X", "(12, 0)", "pass at least one column"),
    "logits empty": ([entropy], {"logits": LOGITS[:0]}, ValueError, "logits", "(0, 2)", "pass at least one row"),
    "validation empty": (FITS, {"validation": (X[:0], Y[:0])}, ValueError, "validation[0]", "(0, 3)", "at least one"),
    # the number of features
    "features at predict": (
        (*PREDICTORS, predict_cv), {"X": X[:, :2]}, ValueError, "X", "2 features", "expecting 3 features as input; pass"
    ),
    "features of validation": (
        (*FITS, grid, course_grid), {"validation": (X[:, :2], Y)},
        ValueError, "validation[0]", "2 features", "expecting 3 features as input; pass the same columns",
    ),
    "features of the test": ([probe], {"X_test": X[:, :2]}, ValueError, "X_test", "2 features", "expecting 3 features"),
    "features of start_from": (
        FITS, {"start_from": linear(W[:2].T, Y[:3])}, ValueError, "X", "3 features", "has 2; fit from zero instead",
    ),
    # X that is no table
    "X 1-D": (WITH_X, {"X": X[:, 0]}, ValueError, "X", "(12,)", "X.reshape(-1, 1) if it is one feature"),
    "X 3-D": (WITH_X, {"X": X[:, :, None]}, ValueError, "X", "(12, 3, 1)", "X.reshape(len(X), -1) if it holds images"),
    "a row at predict": (PREDICTORS, {"X": X[0]}, ValueError, "X", "(3,)", "X.reshape(1, -1) if it is one sample"),
    "logits 1-D": ([entropy], {"logits": LOGITS[:, 0]}, ValueError, "logits", "(3,)", "logits.reshape(-1, 1)"),
    "validation 1-D": (FITS, {"validation": (X[:, 0], Y)}, ValueError, "validation[0]", "(12,)", "reshape(-1, 1)"),
    "X ragged": (WITH_X, {"X": RAGGED}, ValueError, "X", "[1.0, 2.0]", "rows of numbers, all of equal length"),
    "X None": (WITH_X, {"X": None}, TypeError, "X", "NoneType", "pass an array or a data frame"),
    "X a number": (FITS, {"X": 3.0}, TypeError, "X", "float. Expected 2D array, got scalar array", "pass an array"),
    "X a file's name": (WITH_X, {"X": "data.csv"}, TypeError, "X", "'data.csv'", "read a file first"),
    "X a path": (FITS, {"X": Path("data.csv")}, TypeError, "X", "Path('data.csv')", "read a file first"),
    "X a dictionary": (WITH_X, {"X": {"a": X[:, 0]}}, TypeError, "X", "dict", "pass an array or a data frame"),
    "X a set": (FITS, {"X": {1.0, 2.0}}, TypeError, "X", "set", "pass an array or a data frame"),
    "X a generator": (FITS, {"X": (row for row in X)}, TypeError, "X", "generator", "pass an array or a data frame"),
    "X on another device": (FITS, {"X": OnMps()}, ValueError, "X", "mps:0", "Use Tensor.cpu()"),
    "logits sparse": (
        [entropy], {"logits": scipy.sparse.csr_array(LOGITS)}, TypeError, "logits", "sparse", "logits.toarray()",
    ),
    "X sparse in the course's recipe": (
        [course, course_grid], {"X": scipy.sparse.csr_array(X)}, TypeError, "X", "sparse", "X.toarray()",
    ),
    "W sparse": (
        [gradient, check], {"W": scipy.sparse.csr_array(W)}, TypeError, "W", "sparse", "W.toarray()",
    ),
    "X sparse with a damaged index": (
        SPARSE, {"X": damaged_csr([0, 9, 1])}, ValueError, "X", "column number 9, but there are 3", "build it again",
    ),
    "X sparse with a negative index": (
        SPARSE, {"X": damaged_csr([0, -1, 1])}, ValueError, "X", "column number -1", "build it again",
    ),
    "X sparse and complex": (
        SPARSE, {"X": scipy.sparse.csr_array(X * 1j)}, ValueError, "X", "complex128", "pass X.real or abs(X)",
    ),
    "X sparse and 1-D": (
        SPARSE, {"X": scipy.sparse.coo_array(X[0])}, ValueError, "X", "(3,)", "X.reshape(1, -1) if it is one sample",
    ),
    "X sparse without rows": (
        SPARSE, {"X": scipy.sparse.csr_array((0, 3))}, ValueError, "X", "0 sample(s)", "at least one row",
    ),
    # X that is not numeric
    "object X": (WITH_X, {"X": objects("red")}, TypeError, "X[3, 1]", "'red'", "encode categories"),
    "object X after text of digits": (
        FITS, {"X": changed(objects("red"), (0, 0), "1.5")}, TypeError, "X[3, 1]", "'red'", "encode categories",
    ),
    "object X of long text": (FITS, {"X": objects(LONG)}, TypeError, "X[3, 1]", "'xxx", "encode categories"),
    "object X of lists": (FITS, {"X": objects([1, 2])}, TypeError, "X[3, 1]", "[1, 2]", "stack vectors into columns"),
    "object X of huge integers": (FITS, {"X": objects(10**400)}, ValueError, "X[3, 1]", "is 1000", "scale the numbers"),
    "object X of complex": (FITS, {"X": objects(1j)}, TypeError, "X[3, 1]", "1j", "encode categories"),
    "complex X": (WITH_X, {"X": X + 1j}, ValueError, "X", "complex128. Complex data not supported", "X.real"),
    "string X": (WITH_X, {"X": X.astype(str)}, ValueError, "X", "<U", "encode it as numbers first"),
    "X of bytes": (FITS, {"X": X.astype("S")}, ValueError, "X", "|S", "encode it as numbers first"),
    "X of dates": (WITH_X, {"X": X.astype("M8[s]")}, ValueError, "X", "datetime64", "encode it as numbers first"),
    "X structured": (FITS, {"X": np.zeros(ROWS, "f8,f8")}, ValueError, "X", "'<f8'", "encode it as numbers first"),
    "X of records": (
        (*LEARNERS, *PREDICTORS), {"X": np.rec.fromarrays(X.T, names="a,b,c")},
        ValueError, "X", "holds records of dtype", "numpy.lib.recfunctions.structured_to_unstructured(X)",
    ),
    "y of records": (
        FITS, {"y": np.rec.fromarrays([Y], names="kind")}, ValueError, "y", "'kind'", "pass the field that holds",
    ),
    "string logits": ([entropy], {"logits": LOGITS.astype(str)}, ValueError, "logits", "<U", "encode it as numbers"),
    # W and b
    "W of another d": (OBJECTIVES, {"W": W[:2]}, ValueError, "W", "(2, 3)", "pass (3, classes)"),
    "W 1-D": (OBJECTIVES, {"W": W[0]}, ValueError, "W", "(3,)", "pass (3, classes)"),
    "W 4-D": (OBJECTIVES, {"W": W[:, None, None]}, ValueError, "W", "(3, 1, 1, 3)", "pass (3, classes)"),
    "W of strings": (OBJECTIVES, {"W": W.astype(str)}, TypeError, "W", "<U", "pass real numbers"),
    "W complex": (OBJECTIVES, {"W": W + 1j}, TypeError, "W", "complex128", "pass real numbers"),
    "W None": (OBJECTIVES, {"W": None}, TypeError, "W", "None", "pass real numbers"),
    "W ragged": (OBJECTIVES, {"W": RAGGED}, ValueError, "W", "[1.0, 2.0]", "pass real numbers"),
    "b too short": (OBJECTIVES, {"b": B[:2]}, ValueError, "b", "(2,)", "pass (3,)"),
    "b a number": (OBJECTIVES, {"b": 0.0}, ValueError, "b", "()", "pass (3,)"),
    "b of objects": (OBJECTIVES, {"b": B.astype(object)}, TypeError, "b", "object", "pass real numbers"),
    # what is not known
    "loss": (
        OBJECTIVES, {"loss": "log"}, ValueError, "loss", "'log'", "use one of 'softmax', 'hinge', 'squared_hinge'",
    ),
    "loss of many": (OBJECTIVES, {"loss": np.full(9, "hinge")}, ValueError, "loss", "array(['hinge'", "use one of"),
    "loss of an SVM": ([softmax], {"loss": "hinge"}, ValueError, "loss", "'hinge'", "use one of 'softmax'"),
    "loss None": ([softmax], {"loss": None}, ValueError, "loss", "None", "use one of 'softmax'"),
    "loss of softmax": ([svm], {"loss": "softmax"}, ValueError, "loss", "'softmax'", "'squared_hinge', 'hinge'"),
    "loss of neither": ([svm], {"loss": "log"}, ValueError, "loss", "'log'", "'squared_hinge', 'hinge'"),
    "loss of the course": (
        (course, course_grid), {"loss": "squared_hinge"}, ValueError, "loss", "'squared_hinge'", "'softmax', 'hinge'",
    ),
    "backend": (WITH_BACKEND, {"backend": "gpu"}, ValueError, "backend", "'gpu'", "'auto', 'cpu', 'numpy', 'cuda'"),
    "backend below 0": (WITH_BACKEND, {"backend": "cuda:-1"}, ValueError, "backend", "'cuda:-1'", "'cuda', 'cuda:<i>'"),
    "backend None": (WITH_BACKEND, {"backend": None}, ValueError, "backend", "None", "use one of 'auto'"),
    "backend a number": ([get_backend], {"backend": 3}, ValueError, "backend", "=3 ", "use one of 'auto'"),
    "a GPU that is not there": (
        WITH_BACKEND, {"backend": "cuda:99"}, BackendUnavailableError, "backend", "'cuda:99'", "use backend='auto' or",
    ),
    **{
        f"no GPU for {entry.__name__}": (
            [without_gpu], {"entry": entry},
            BackendUnavailableError, "backend", f"'cuda' cannot be had: {NO_GPU}", "use backend='auto' or 'cpu'",
        )
        for entry in WITH_BACKEND
    },
    "precision": ([get_backend], {"precision": "x"}, ValueError, "precision", "'x'", "'highest', 'high', 'medium'"),
    "solver": ((*FITS, grid), {"solver": "adam"}, ValueError, "solver", "'adam'", "'auto', 'lbfgs', 'sgd'"),
    "solver None": (FITS, {"solver": None}, ValueError, "solver", "None", "'auto', 'lbfgs', 'sgd'"),
    "schedule": (
        (*FITS, grid), {"schedule": "linear"},
        ValueError, "schedule", "'linear'", "'auto', 'adaptive', 'constant', 'step', 'cosine'",
    ),
    "SGD's batch_size": (
        FITS, {"solver": "lbfgs", "batch_size": 8}, ValueError, "batch_size", "=8 is for solver='sgd'",
        "leave batch_size out",
    ),
    "SGD's momentum": (
        FITS, {"solver": "lbfgs", "momentum": 0.5}, ValueError, "momentum", "=0.5 is for solver='sgd'",
        "leave momentum out",
    ),
    "protocol": ([probe], {"protocol": "moco"}, ValueError, "protocol", "'moco'", "'clip', 'dinov2-logreg'"),
    "rule": ((grid, classifier_cv), {"rule": "2se"}, ValueError, "rule", "'2se'", "use one of 'best', '1se'"),
    # penalties
    "l2 negative": (OBJECTIVES, {"l2": -1}, ValueError, "l2", "-1", "finite and at least 0"),
    "l2 NaN": (OBJECTIVES, {"l2": np.nan}, ValueError, "l2", "nan", "finite and at least 0"),
    "l2 infinite": (OBJECTIVES, {"l2": np.inf}, ValueError, "l2", "inf", "finite and at least 0"),
    "l2 a string": (OBJECTIVES, {"l2": "1"}, TypeError, "l2", "'1'", "pass a number"),
    "l2 None": (OBJECTIVES, {"l2": None}, TypeError, "l2", "None", "pass a number"),
    "l2 for other models": (OBJECTIVES, {"l2": [1.0, 2.0]}, ValueError, "l2", "(2,)", "shape (1,)"),
    "l2 ragged": (OBJECTIVES, {"l2": RAGGED}, ValueError, "l2", "[1.0, 2.0]", "pass a number"),
    "l2 of a fit negative": (FITS, {"l2": -1}, ValueError, "l2", "-1", "finite and at least 0"),
    "l2 of a fit NaN": (FITS, {"l2": np.nan}, ValueError, "l2", "nan", "finite and at least 0"),
    "l2 of a fit a million": (FITS, {"l2": [1.0] * 10**6}, TypeError, "l2", "[1.0, 1.0", "pass a number"),
    "C negative": (FITS, {"C": -1}, ValueError, "C", "-1", "greater than 0"),
    "C 0": (FITS, {"C": 0.0}, ValueError, "C", "=0.0 ", "greater than 0; math.inf means no penalty"),
    "C NaN": (FITS, {"C": np.nan}, ValueError, "C", "nan", "greater than 0"),
    "C a string": (FITS, {"C": "1"}, TypeError, "C", "'1'", "pass a number"),
    "C several": (FITS, {"C": np.array([1.0, 2.0])}, TypeError, "C", "array([1., 2.])", "pass a number"),
    "C several on lines": (FITS, {"C": np.ones((9, 9))}, TypeError, "C", "array([[1., 1., 1.", "pass a number"),
    "C of a grid negative": ([grid], {"grid": {"C": [1.0, -1.0]}}, ValueError, "C", "-1.0", "greater than 0"),
    "C of a grid a string": ([grid], {"grid": {"C": ["0.1"]}}, TypeError, "C", "'0.1'", "pass a number"),
    "Cs negative": ([classifier_cv], {"Cs": [-1.0]}, ValueError, "C", "-1.0", "greater than 0"),
    "Cs 0": ([classifier_cv], {"Cs": 0}, ValueError, "Cs", "=0 ", "at least 1"),
    "Cs a string": (
        [classifier_cv], {"Cs": "10"}, TypeError, "Cs", "'10'", "pass a list of values, how many, or 'auto'",
    ),
    "C and l2": (FITS, {"C": 1.5, "l2": 0.25}, ValueError, "C", "=1.5 and l2=0.25", "pass one: l2 = 1 / (C * n)"),
    "C and l2 of a grid": (
        [grid], {"grid": {"C": [1.0], "l2": [1.0]}}, ValueError, "grid", "both C and l2", "pass one of them",
    ),
    "reg negative": ([course], {"reg": -1}, ValueError, "reg", "-1", "at least 0"),
    "regs negative": ([course_grid], {"regs": [-1]}, ValueError, "regs[0]", "-1", "at least 0"),
    # weights
    "weight negative": (
        (*OBJECTIVES, *FITS, partial_fit, grid, score), {"sample_weight": changed(ONES, 4, -2)},
        ValueError, "sample_weight[4]", "-2.0", "must be finite and not negative",
    ),
    "weight NaN": (
        (*OBJECTIVES, *FITS, partial_fit, grid, score), {"sample_weight": changed(ONES, 4, np.nan)},
        ValueError, "sample_weight[4]", "nan", "must be finite and not negative",
    ),
    "target weight negative": (
        [entropy], {"sample_weight": [1.0, -1.0, 1.0]}, ValueError, "sample_weight[1]", "-1.0", "not negative",
    ),
    "weights sum to zero": (
        (*OBJECTIVES, *FITS, partial_fit, grid, score), {"sample_weight": 0 * ONES},
        ValueError, "sample_weight", "sums to zero", "at least one row needs a positive weight",
    ),
    "features whose squares overflow": (
        FITS, {"X": changed(X, (5, 1), 1e200)},
        ValueError, "X[5, 1]", "1e+200: the squares", "divide the column by its",
    ),
    "weights too large": (FITS, {"sample_weight": 1e308 * ONES}, ValueError, "sample_weight", "inf", "smaller weights"),
    "weight a number": (
        (*OBJECTIVES, *FITS), {"sample_weight": 2.0},
        ValueError, "sample_weight", "2.0", "one weight per row, shape (12,)",
    ),
    "weights of strings": (
        (*OBJECTIVES, *FITS), {"sample_weight": ["1"] * ROWS}, TypeError, "sample_weight", "'1'", "pass numbers",
    ),
    "weights a word": (FITS, {"sample_weight": "balanced"}, TypeError, "sample_weight", "'balanced'", "pass numbers"),
    "weights a dictionary": (FITS, {"sample_weight": {0: 2.0}}, TypeError, "sample_weight", "{0: 2.0}", "pass numbers"),
    "weights complex": (FITS, {"sample_weight": ONES + 1j}, TypeError, "sample_weight", "complex128", "pass numbers"),
    "weights of dates": (FITS, {"sample_weight": ONES.astype("M8[s]")}, TypeError, "sample_weight", "1970", "numbers"),
    "weights ragged": (FITS, {"sample_weight": RAGGED}, ValueError, "sample_weight", "[1.0, 2.0]", "pass numbers"),
    "weights masked": (
        FITS, {"sample_weight": np.ma.masked_array(ONES, X[:, 0] > 1)},
        ValueError, "sample_weight[2]", "masked", "fill it",
    ),
    "weights for other models": (
        (*OBJECTIVES, *FITS), {"sample_weight": np.ones((ROWS, 2))},
        ValueError, "sample_weight", "(12, 2). Sample weights must be 1D array or scalar", "pass shape (12,)",
    ),
    "class_weight a word": (
        FITS, {"class_weight": "even"},
        ValueError, "class_weight", "'even'", "pass None, 'balanced'",
    ),
    "class_weight a list": (
        (*FITS, grid), {"class_weight": [1.0, 2.0, 3.0]}, ValueError, "class_weight", "[1.0, 2.0, 3.0]", "a dictionary",
    ),
    "class_weight a number": (FITS, {"class_weight": 2.0}, ValueError, "class_weight", "=2.0 ", "a dictionary"),
    "class_weight of strangers": (
        (*FITS, grid), {"class_weight": {7: 2.0}}, ValueError, "class_weight", "{7: 2.0}", "for the classes [0, 1, 2]",
    ),
    "class_weight of texts": (
        FITS, {"class_weight": {0: "a"}},
        ValueError, "class_weight", "{0: 'a'}", "a dictionary from classes to numbers",
    ),
    "class_weight negative": (
        FITS, {"class_weight": {0: -1.0}}, ValueError, "class_weight[0]", "-1.0", "must be finite and not negative",
    ),
    "class_weight NaN": (
        FITS, {"class_weight": {0: np.nan}}, ValueError, "class_weight[0]", "nan", "must be finite and not negative",
    ),
    "class_weight all 0": (
        FITS, {"class_weight": {0: 0, 1: 0, 2: 0}},
        ValueError, "class_weight", "sums to zero", "needs a positive weight",
    ),
    "class_weight too large": (
        FITS, {"class_weight": {0: 1e308, 1: 1e308, 2: 1e308}}, ValueError, "class_weight", "sums to inf", "smaller",
    ),
    # not fitted
    **{
        f"unfitted {method}": (
            [unfitted], {"cls": cls, "method": method}, NotFittedError, cls.__name__, "is not fitted yet", "Call 'fit'",
        )
        for cls, method in (
            (SoftmaxClassifier, "predict"), (LinearSVMClassifier, "decision_function"),
            (SoftmaxClassifierCV, "predict_proba"), (SoftmaxClassifier, "predict_log_proba"),
            (SoftmaxClassifier, "score"),
        )
    },
    # y
    "continuous y": (LEARNERS, {"y": X[:, 0]}, ValueError, "y[0]", "0.12573", "pass discrete classes"),
    "continuous y at score": ([score], {"y": X[:, 0]}, ValueError, "y", "0.12573", "pass labels of the same type"),
    "text y at score": ([score], {"y": Y.astype(str)}, ValueError, "y", "'0'", "pass labels of the same type"),
    "soft y at score": ([score], {"y": SOFT}, ValueError, "y", "(12, 3)", "pass one label per row"),
    "y None": ((*LEARNERS, score), {"y": None}, ValueError, "y", "NoneType", "y should be a 1d array; pass one label"),
    "y a word": (
        LEARNERS, {"y": "label"},
        ValueError, "y", "'label'", "y should be a 1d array; pass one label per row",
    ),
    "y a number": (FITS, {"y": 3}, ValueError, "y", "=3 ", "y should be a 1d array; pass one label per row"),
    "y 0-D": (FITS, {"y": np.array(3)}, ValueError, "y", "array(3)", "y should be a 1d array; pass one label per row"),
    "y a dictionary": (FITS, {"y": {"a": Y}}, ValueError, "y", "dict", "pass one label per row"),
    "y a generator": (FITS, {"y": (label for label in Y)}, ValueError, "y", "generator", "pass one label per row"),
    "y sparse": (FITS, {"y": scipy.sparse.csr_array(SOFT)}, ValueError, "y", "csr_array", "pass one label per row"),
    "y 3-D": (FITS, {"y": SOFT[:, :, None]}, ValueError, "y", "(12, 3, 1)", "pass one label per row"),
    "y of two columns": (FITS, {"y": np.stack([Y, Y], axis=1)}, ValueError, "y", "(12, 2)", "pass one label per row"),
    "y ragged": ((*LEARNERS, score), {"y": RAGGED}, ValueError, "y", "[1.0, 2.0]", "pass one label per row"),
    "y NaN": ((*LEARNERS, score), {"y": changed(Y, 3, np.nan, float)}, ValueError, "y[3]", "nan", "drop rows without"),
    "y inf": (FITS, {"y": changed(Y, 3, np.inf, float)}, ValueError, "y[3]", "inf;", "drop rows without a label"),
    "y with None": (LEARNERS, {"y": [0, 1, None] * 4}, ValueError, "y[2]", "is None", "drop rows without a label"),
    "y of text with NaN": (LEARNERS, {"y": ["a", "b", np.nan] * 4}, ValueError, "y[2]", "is nan", "drop rows without"),
    "y of dates with NaT": (
        FITS, {"y": changed(Y.astype("M8[D]"), 3, None)}, ValueError, "y[3]", "is NaT", "drop rows without a label",
    ),
    "y masked": (
        (*OBJECTIVES, *LEARNERS, score), {"y": np.ma.masked_equal(Y, 1)}, ValueError, "y[1]", "masked", "drop its row",
    ),
    "y mixed": (LEARNERS, {"y": ["a", "b", 3] * 4}, TypeError, "y", "types int, str", "labels of one type"),
    "y mixed objects": (
        FITS, {"y": np.array(["a", "b", 3] * 4, object)}, TypeError, "y", "types int, str", "y.astype(str)",
    ),
    "y of bytes": (FITS, {"y": Y.astype("S")}, TypeError, "y", "types bytes_", "text or numbers: y.astype(str)"),
    "y of bytes as objects": (
        FITS, {"y": Y.astype("S").astype(object)}, TypeError, "y", "types bytes;", "[label.decode() for label in y]",
    ),
    "y with a list": (FITS, {"y": changed(Y, 0, [1], object)}, ValueError, "y[0]", "is [1],", "pass discrete classes"),
    "y of complex": (LEARNERS, {"y": Y + 1j}, ValueError, "y", "complex128. Complex data not supported", "pass y.real"),
    "y of objects": (FITS, {"y": [{}] * ROWS}, ValueError, "y[0]", "{}", "pass discrete classes"),
    "y of huge integers": (
        FITS, {"y": [10**30, 1, 2] * 4},
        ValueError, "y", "[1000", "more than 64 bits; pass y.astype",
    ),
    "y of unsigned and signed": (FITS, {"y": [2**63, -1, 2] * 4}, ValueError, "y[0]", "e+18", "pass discrete classes"),
    "soft y negative": ([softmax], {"y": SOFT - [1, 0, -1]}, ValueError, "y[0, 0]", "is -0.6", "not negative"),
    "soft y of sum 1.5": ([softmax], {"y": 1.5 * SOFT}, ValueError, "y[0]", "sums to 1.5", "sum to 1 within 0.001"),
    "soft y of an SVM": ([svm], {"y": SOFT}, ValueError, "y", "(12, 3)", "need loss='softmax'"),
    "classes of other labels": (
        [partial_fit], {"classes": [0, 1]}, ValueError, "y[2]", "is 2,", "pass all of them there",
    ),
    "classes a word": ([partial_fit], {"classes": "012"}, ValueError, "classes", "'012'", "pass one label per row"),
    "y_test of strangers": (
        [probe], {"y_test": Y + 1}, ValueError, "y_test[2]", "is 3,", "of y_train, [0, 1, 2]; drop such rows",
    ),
    # validation
    "validation no pair": (
        (*FITS, course_grid), {"validation": X},
        TypeError, "validation", "ndarray", "a pair (X, y)",
    ),
    "validation of three": (
        (*FITS, grid, course_grid, probe), {"validation": (X, Y, Y)},
        TypeError, "validation", "tuple of 3", "pass a pair (X, y)",
    ),
    "validation a share": (
        (*FITS, course_grid), {"validation": 0.1}, TypeError, "validation", "float", "pass a pair (X, y)",
    ),
    "validation a share of 1": ([grid], {"validation": 1.0}, ValueError, "validation", "1.0", "less than 1"),
    "validation of strangers": (
        (*FITS, grid, course_grid), {"validation": (X, Y + 1)},
        ValueError, "validation[1][2]", "is 3,", "of y, [0, 1, 2]; drop such rows, or include some in training",
    ),
    "validation of texts": (
        FITS, {"validation": (X, Y.astype(str))}, ValueError, "validation[1][0]", "is '0',", "of y, [0, 1, 2]",
    ),
    "validation without labels": (
        FITS, {"validation": (X, None)}, ValueError, "validation[1]", "NoneType", "pass one label per row",
    ),
    "validation without X": (FITS, {"validation": (None, Y)}, TypeError, "validation[0]", "NoneType", "pass an array"),
    "validation of one number": (FITS, {"validation": (X, 1)}, ValueError, "validation[1]", "=1 ", "one label per row"),
    "validation ragged": (
        FITS, {"validation": (X, RAGGED)},
        ValueError, "validation[1]", "[1.0, 2.0]", "one label per",
    ),
    "validation of two columns": (
        FITS, {"validation": (X, Y.astype(str).reshape(6, 2))},
        ValueError, "validation[1]", "(6, 2)", "pass one label per row",
    ),
    "validation NaN in labels": (
        FITS, {"validation": (X, changed(Y, 3, np.nan, float))}, ValueError, "validation[1][3]", "nan", "drop rows",
    ),
    # parameters
    "max_iter 0": (FITS, {"max_iter": 0}, ValueError, "max_iter", "=0 ", "at least 1"),
    "max_iter 1.5": (FITS, {"max_iter": 1.5}, TypeError, "max_iter", "1.5", "whole number"),
    "max_iter True": (FITS, {"max_iter": True}, TypeError, "max_iter", "True", "whole number"),
    "max_iter a string": (FITS, {"max_iter": "100"}, TypeError, "max_iter", "'100'", "whole number"),
    "tol negative": (FITS, {"tol": -1e-3}, ValueError, "tol", "-0.001", "at least 0"),
    "tol NaN": (FITS, {"tol": np.nan}, ValueError, "tol", "nan", "finite and at least 0"),
    "tol None": (FITS, {"tol": None}, TypeError, "tol", "None", "pass a number"),
    "batch_size 0": (FITS, {"batch_size": 0}, ValueError, "batch_size", "=0 ", "at least 1"),
    "batch_size a word": (
        FITS, {"batch_size": "big"},
        ValueError, "batch_size", "'big'", "'auto', 'full' or a positive",
    ),
    "batch_size 1.5": (FITS, {"batch_size": 1.5}, TypeError, "batch_size", "1.5", "whole number"),
    "learning_rate 0": (FITS, {"learning_rate": 0}, ValueError, "learning_rate", "=0 ", "greater than 0"),
    "learning_rate a word": (FITS, {"learning_rate": "fast"}, ValueError, "learning_rate", "'fast'", "use 'auto' or"),
    "learning_rate inf": (FITS, {"learning_rate": np.inf}, ValueError, "learning_rate", "inf", "finite"),
    "learning_rates a number": (
        [course_grid], {"learning_rates": 1e-7},
        TypeError, "learning_rates", "1e-07", "a list",
    ),
    "momentum 1": (FITS, {"momentum": 1}, ValueError, "momentum", "=1 ", "less than 1"),
    "momentum negative": (FITS, {"momentum": -0.5}, ValueError, "momentum", "-0.5", "at least 0"),
    "nesterov": (FITS, {"nesterov": 1}, TypeError, "nesterov", "=1 ", "True or False"),
    "fit_intercept": (FITS, {"fit_intercept": 1}, TypeError, "fit_intercept", "=1 ", "True or False"),
    "fit_intercept a word": (
        (*FITS, grid, classifier_cv), {"fit_intercept": "yes"}, TypeError, "fit_intercept", "'yes'", "True or False",
    ),
    "penalize_intercept": (
        OBJECTIVES, {"penalize_intercept": "yes"}, TypeError, "penalize_intercept", "'yes'", "True or False",
    ),
    "no intercept to penalise": (
        FITS, {"fit_intercept": False, "penalize_intercept": True},
        ValueError, "penalize_intercept", "=True", "needs fit_intercept=True",
    ),
    "label_smoothing 1": ([softmax], {"label_smoothing": 1}, ValueError, "label_smoothing", "=1 ", "less than 1"),
    "label_smoothing a word": (FITS, {"label_smoothing": "a"}, TypeError, "label_smoothing", "'a'", "pass a number"),
    "scaling a word": (FITS, {"scaling": "minmax"}, ValueError, "scaling", "'minmax'", "'standard'"),
    "scaling a list": (FITS, {"scaling": [0.0, 1.0]}, ValueError, "scaling", "[0.0, 1.0]", "a pair (shift, scale)"),
    "scaling of three": (FITS, {"scaling": (1, 2, 3)}, ValueError, "scaling", "(1, 2, 3)", "a pair (shift, scale)"),
    "scaling's shift": (FITS, {"scaling": (np.ones(2), None)}, ValueError, "scaling's shift", "(2,)", "shape (3,)"),
    "scaling's shift NaN": (
        FITS, {"scaling": (np.nan, None)},
        ValueError, "scaling's shift[0]", "nan", "finite numbers",
    ),
    "scaling's scale": (
        FITS, {"scaling": (None, -1.0)},
        ValueError, "scaling's scale[0]", "-1.0", "standard deviations",
    ),
    "shift too short": (OBJECTIVES, {"shift": np.ones(2)}, ValueError, "shift", "(2,)", "shape (3,)"),
    "shift NaN": (OBJECTIVES, {"shift": [0.0, np.nan, 0.0]}, ValueError, "shift[1]", "nan", "pass finite numbers"),
    "shift a string": (OBJECTIVES, {"shift": "mean"}, TypeError, "shift", "'mean'", "pass numbers"),
    "shift ragged": (OBJECTIVES, {"shift": RAGGED}, ValueError, "shift", "[1.0, 2.0]", "pass numbers"),
    "scale negative": (OBJECTIVES, {"scale": [1.0, -2.0, 1.0]}, ValueError, "scale[1]", "-2.0", "standard deviations"),
    "scale NaN": (OBJECTIVES, {"scale": [1.0, np.nan, 1.0]}, ValueError, "scale[1]", "nan", "standard deviations"),
    "scale a column": (OBJECTIVES, {"scale": np.ones((3, 1))}, ValueError, "scale", "(3, 1)", "shape (3,)"),
    "verbose negative": (FITS, {"verbose": -1}, ValueError, "verbose", "-1", "at least 0"),
    "verbose a word": (FITS, {"verbose": "yes"}, TypeError, "verbose", "'yes'", "whole number"),
    "verbose a word for a search": (
        (grid, classifier_cv, probe), {"verbose": "yes"}, TypeError, "verbose", "'yes'", "whole number",
    ),
    "refit a word": ((grid, classifier_cv), {"refit": "no"}, TypeError, "refit", "'no'", "True or False"),
    "keep_models a word": ([grid], {"keep_models": "no"}, TypeError, "keep_models", "'no'", "True or False"),
    "out_of_fold a word": ([grid], {"out_of_fold": "no"}, TypeError, "out_of_fold", "'no'", "True or False"),
    "warm_start a word": (FITS, {"warm_start": "no"}, TypeError, "warm_start", "'no'", "True or False"),
    "download a word": ([load_cifar10], {"download": "no"}, TypeError, "download", "'no'", "True or False"),
    "verbose None": (FITS, {"verbose": None}, TypeError, "verbose", "None", "whole number"),
    "verbose 0.5": (FITS, {"verbose": 0.5}, TypeError, "verbose", "0.5", "whole number"),
    "callbacks a function": (FITS, {"callbacks": print}, TypeError, "callbacks", "print", "pass a list"),
    "callbacks a stopper": (
        FITS, {"callbacks": EarlyStopping()},
        TypeError, "callbacks", "EarlyStopping", "pass a list",
    ),
    "callbacks None": (FITS, {"callbacks": None}, TypeError, "callbacks", "None", "pass a list"),
    "callbacks not callable": (
        FITS, {"callbacks": [5]},
        TypeError, "callbacks", "holds 5", "functions of one argument",
    ),
    "a stopper alone": (
        FITS, {"callbacks": [EarlyStopping()]}, ValueError, "EarlyStopping", "validation set", "validation=(X, y)",
    ),
    "patience 0": ([EarlyStopping], {"patience": 0}, ValueError, "patience", "=0 ", "at least 1"),
    "stopping tol": ([EarlyStopping], {"tol": -1}, ValueError, "tol", "-1", "at least 0"),
    "n_threads 0": (WITH_BACKEND, {"n_threads": 0}, ValueError, "n_threads", "=0 ", "at least 1"),
    "n_threads negative": (FITS, {"n_threads": -1}, ValueError, "n_threads", "-1", "at least 1"),
    "n_threads 2.5": (WITH_BACKEND, {"n_threads": 2.5}, TypeError, "n_threads", "2.5", "whole number"),
    "n_threads a string": (FITS, {"n_threads": "2"}, TypeError, "n_threads", "'2'", "whole number"),
    "random_state a word": (
        FITS, {"random_state": "dice"},
        ValueError, "random_state", "'dice'", "None, a whole number",
    ),
    "random_state a Generator": (
        FITS, {"random_state": np.random.default_rng(0)}, ValueError, "random_state", "Generator", "a RandomState",
    ),
    "random_state 1.5": (FITS, {"random_state": 1.5}, ValueError, "random_state", "1.5", "None, a whole number"),
    "random_state negative": (FITS, {"random_state": -1}, ValueError, "random_state", "-1", "at least 0"),
    "random_state too large": (FITS, {"random_state": 2**70}, ValueError, "random_state", str(2**70), "less than 2^63"),
    "seed a word": ((check, course, course_grid, probe), {"seed": "a"}, TypeError, "seed", "'a'", "whole number"),
    "seed negative": ((check, course, course_grid, probe), {"seed": -1}, ValueError, "seed", "-1", "at least 0"),
    "start_from unfitted": (
        FITS, {"start_from": SoftmaxClassifier()},
        ValueError, "start_from", "a SoftmaxClassifier without", "pass a fitted linear classifier",
    ),
    "start_from an array": (
        FITS, {"start_from": W}, ValueError, "start_from", "ndarray", "pass a fitted linear classifier",
    ),
    "start_from of other classes": (
        FITS, {"start_from": linear(W, Y[:3] + 1)}, ValueError, "y", "[1, 2, 3]", "fit from zero instead",
    ),
    "n_checks 0": ([check], {"n_checks": 0}, ValueError, "n_checks", "=0 ", "at least 1"),
    "h 0": ([check], {"h": 0}, ValueError, "h", "=0 ", "greater than 0"),
    "h NaN": ([check], {"h": np.nan}, ValueError, "h", "nan", "finite"),
    "n_iterations 0": ((course, course_grid), {"n_iterations": 0}, ValueError, "n_iterations", "=0 ", "at least 1"),
    # sweeps
    "grid None": ([grid], {"grid": None}, TypeError, "grid", "None", "pass a dictionary of lists"),
    "grid a word": ([grid], {"grid": "C"}, TypeError, "grid", "'C'", "pass a dictionary of lists"),
    "grid empty": ([grid], {"grid": {}}, ValueError, "grid", "is empty", "pass at least one name"),
    "grid without values": (
        [grid], {"grid": {"C": []}},
        ValueError, "grid['C']", "is empty", "pass at least one value",
    ),
    "grid of one value": ([grid], {"grid": {"C": 0.1}}, TypeError, "grid['C']", "0.1", "pass a list of values"),
    "grid of a word": ([grid], {"grid": {"C": "0.1"}}, TypeError, "grid['C']", "'0.1'", "pass a list of values"),
    "grid of what cannot vary": (
        [grid], {"grid": {"gamma": [1]}},
        ValueError, "grid", "'gamma'", "it has C, l2, learning_rate",
    ),
    "grid of class_weight": (
        [grid], {"grid": {"class_weight": [{7: 1.0}]}}, ValueError, "class_weight", "{7: 1.0}", "the classes [0, 1, 2]",
    ),
    "cv 1": ((grid, classifier_cv), {"cv": 1}, ValueError, "cv", "=1 ", "at least 2"),
    "cv a word": ((grid, classifier_cv), {"cv": "5"}, TypeError, "cv", "'5'", "pass a number of folds"),
    "cv of rows that are not there": (
        [grid], {"cv": [([0], [99])]},
        ValueError, "cv split 0", "row 99", "X has 12 rows",
    ),
    "scoring a number": ((grid, classifier_cv), {"scoring": 3}, TypeError, "scoring", "=3 ", "use 'accuracy'"),
    # files
    "a model that is none": (
        [save_model], {"estimator": None, "path": "model"},
        TypeError, "estimator", "NoneType", "pass one of SoftmaxClassifier",
    ),
    "a folder without CIFAR-10": (
        [load_cifar10], {"folder": "nowhere"}, FileNotFoundError, "CIFAR-10", "nowhere", "Download https:",
    ),
}  # fmt: skip

CASES = {f"{words}, {entry.__name__}": (entry, *case) for words, (entries, *case) in TABLE.items() for entry in entries}
REFITS = {words: case for words, case in CASES.items() if case[0] in FITS}


@pytest.mark.parametrize(("entry", "changes", "error", "name", "value", "fix"), CASES.values(), ids=CASES.keys())
def test_a_mistake_gets_one_error_with_name_value_and_fix(
    entry: Any, changes: Any, error: Any, name: str, value: str, fix: str
) -> None:
    with pytest.raises(error) as caught:
        entry(**changes)
    message, raised_in = str(caught.value), caught.traceback[-1].frame.f_globals["__name__"]
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message), f"no {name!r} in {message!r}"
    assert [words for words in (value, fix) if words not in message] == [], message
    assert len(message) < 1000
    assert raised_in.startswith("gpusoftmax.") or error is NotFittedError, f"of {raised_in}: {message}"
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "a foreign error is shown before it"


@pytest.mark.parametrize(("entry", "changes", "error"), [case[:3] for case in REFITS.values()], ids=REFITS.keys())
def test_a_refusal_leaves_model_and_data_as_they_were(entry: Any, changes: Any, error: Any) -> None:
    def fitted_attributes() -> bytes:
        return pickle.dumps(
            {name: value for name, value in vars(model).items() if name.endswith("_") or name[0] == "_"}
        )

    model = entry()
    parameters, scores, before = model.get_params(), model.decision_function(X), fitted_attributes()
    arrays = [array for array in (X, Y, *changes.values()) if isinstance(array, np.ndarray)]
    contents = [array.tobytes() for array in arrays]
    with pytest.raises(error):
        fit(model, **changes)
    assert fitted_attributes() == before
    np.testing.assert_array_equal(model.set_params(**parameters).decision_function(X), scores)
    assert [array.tobytes() for array in arrays] == contents


def test_a_refusal_of_rows_with_other_features_leaves_those_that_the_model_knows() -> None:
    model = softmax()
    with pytest.raises(ValueError, match="y holds 1 class"):
        fit(model, X=X[:, :2], y=np.zeros(ROWS))
    np.testing.assert_array_equal(model.predict(X), softmax().predict(X))


# X is not scanned beforehand: what is not finite is found once a loss or a score is not

NOT_FINITE = [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
WAYS_TO_FIT = {
    "default": {}, "standard": {"scaling": "standard"}, "minibatches": {"batch_size": 5},
    "no intercept": {"fit_intercept": False}, "penalised": {"penalize_intercept": True, "learning_rate": 0.1},
    "exact": {"schedule": "auto"},
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("value", "kind"), NOT_FINITE)
@pytest.mark.parametrize("parameters", WAYS_TO_FIT.values(), ids=WAYS_TO_FIT.keys())
def test_fit_names_the_first_entry_that_is_not_finite(dtype: Any, value: float, kind: str, parameters: Any) -> None:
    with pytest.raises(ValueError, match=rf"Input X contains {kind}: X\[5, 1\] is .*; impute"):
        softmax(X=changed(X, (5, 1), value, dtype), **parameters)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("value", "kind"), NOT_FINITE)
@pytest.mark.parametrize("entry", [predict, predict_proba])
def test_predict_names_the_first_entry_that_is_not_finite(entry: Any, dtype: Any, value: float, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"Input X contains {kind}: X\[5, 1\] is .*; impute"):
        entry(X=changed(X, (5, 1), value, dtype))


@pytest.mark.parametrize(("value", "kind"), NOT_FINITE)
def test_fit_names_the_first_entry_of_the_validation_set_that_is_not_finite(value: float, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"Input validation\[0\] contains {kind}: validation\[0\]\[5, 1\]"):
        softmax(validation=(changed(X, (5, 1), value), Y))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_loss_and_gradient_returns_a_loss_that_is_not_finite_for_such_features(value: float) -> None:
    weights = np.arange(9.0).reshape(3, 3)  # no zeros where they count: 0 x inf would be NaN all the same
    loss, _, _ = gradient(X=changed(X, (5, 1), value), W=weights)
    assert not np.isfinite(loss)


@pytest.mark.parametrize("text", ["many", "0", "-1", "1.5", "1025"])
def test_a_thread_count_in_the_environment_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"GPUSOFTMAX_NUM_THREADS='{text}' is not a .* from 1 to 1024"):
        softmax()


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("columns", [["c", "b", "a"], ["a", "b", "z"]])
def test_a_frame_of_other_columns_is_refused_with_the_fix(library: str, columns: list[str]) -> None:
    frames = frames_of(library)
    model = softmax(X=frames.DataFrame(dict(zip("abc", X.T, strict=True))))
    with pytest.raises(
        ValueError, match=r"should match those that were passed(.|\n)*Pass the columns feature_names_in_"
    ):
        model.predict(frames.DataFrame(dict(zip(columns, X.T, strict=True))))


# what only looks wrong


@pytest.mark.parametrize("kind", ["array", "pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("entry", LEARNERS)
def test_a_column_of_labels_is_the_flat_labels_with_one_warning_at_the_users_line(entry: Any, kind: str) -> None:
    column, fix = Y[:, None], "y.ravel()"
    if kind == "pyarrow":
        column, fix = pytest.importorskip("pyarrow").table({"tree": Y}), "y['tree']"
    elif kind != "array":
        column, fix = frames_of(kind).DataFrame({"tree": Y}), "y['tree']"
    with pytest.warns(DataConversionWarning) as caught:
        model = entry(y=column)
    assert [warning.filename for warning in caught] == [__file__]
    assert f"y has shape (12, 1); pass {fix}" in str(caught[0].message)
    np.testing.assert_array_equal(model.coef_, entry().coef_)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("entry", LEARNERS)
def test_a_column_of_a_frame_is_its_labels_without_a_warning(entry: Any, library: str) -> None:
    np.testing.assert_array_equal(entry(y=frames_of(library).Series(Y)).coef_, entry().coef_)


@pytest.mark.parametrize("entry", LEARNERS)
def test_boolean_features_give_the_bits_of_float32(entry: Any) -> None:
    np.testing.assert_array_equal(entry(X=X > 0).coef_, entry(X=(X > 0).astype(np.float32)).coef_)


@pytest.mark.parametrize("entry", LEARNERS)
def test_an_array_without_masked_entries_is_its_data(entry: Any) -> None:
    np.testing.assert_array_equal(entry(X=np.ma.masked_array(X), y=np.ma.masked_array(Y)).coef_, entry().coef_)


def test_boolean_features_are_not_copied() -> None:
    features = X > 0
    assert np.shares_memory(check_features(features), features)
