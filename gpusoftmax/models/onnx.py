"""Fitted classifiers as ONNX files, which onnxruntime and others serve without Python or this library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import gpusoftmax
from gpusoftmax._typing import Array
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_path
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.prediction import LinearPredictor, Probabilities, weights_of, with_all_classes
from gpusoftmax.files.atomic import write_atomically

OPSET, IR_VERSION = 17, 8  # of 2022: what reads them is older than any supported Python
INPUT_TYPES = ("float32", "float64", "float16", "uint8")
MOST_BYTES = 2**31 - 2**20  # of a file of protocol buffers


def save_onnx(model: SoftmaxClassifier | LinearSVMClassifier, path: str | Path, *, input_type: str = "float32") -> None:
    """Write a fitted classifier as an ONNX file, replacing an old one atomically.

        scores = X coef_' + intercept_,    label = classes_[argmax scores],    probabilities = softmax(scores)

    Shift and scale of the training are part of coef_ and intercept_, so X is raw. Scores are computed in float64, and
    so agree with those of the classifier however large the features are.

    Parameters
    ----------
    model : SoftmaxClassifier or LinearSVMClassifier
        Fitted.
    path : str or os.PathLike
        The file, such as "model.onnx".
    input_type : {"float32", "float64", "float16", "uint8"}
        The type of X, which is converted in the graph: with "uint8", pixels can be sent as they are.

    Raises
    ------
    ImportError
        onnx is not installed.
    TypeError
        `model` is another object, such as a Pipeline: the text and the categories of a table have to be encoded
        outside, by its TableEncoder; or its labels have a type that ONNX does not have.
    ValueError
        `input_type` is another one, or the file would be larger than 2 GiB.
    sklearn.exceptions.NotFittedError
        `fit` was not called.
    OSError
        The file cannot be written; the old one is intact.

    Notes
    -----
    The input is X (n, d). The outputs have the names of scikit-learn's converter without a ZipMap: label (n,), int64 or
    strings as in classes_, and probabilities (n, c) in float32, or scores (n, c) for an SVM. Opset 17.

    Examples
    --------
    >>> import tempfile
    >>> from gpusoftmax import load_digits, save_onnx
    >>> digits = load_digits()
    >>> model = SoftmaxClassifier().fit(digits.X_train, digits.y_train)
    >>> save_onnx(model, Path(tempfile.mkdtemp()) / "digits.onnx")
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError(f"save_onnx needs onnx ({error}); pip install onnx") from error
    if not isinstance(model, LinearPredictor):
        raise TypeError(
            f"model is a {type(model).__name__}; pass a SoftmaxClassifier or LinearSVMClassifier. That is a Pipeline's "
            "last step; encode the table with its TableEncoder before the features are sent"
        )
    path = check_path("path", path)
    check_choice("input_type", input_type, INPUT_TYPES)
    classes, coef, intercept = weights_of(model)
    labels, label_type = _labels(classes, TensorProto)
    coef, intercept = with_all_classes(coef, intercept)
    if 8 * coef.size > MOST_BYTES:
        raise ValueError(f"coef_ has {coef.size} numbers, more than an ONNX file of 2 GiB holds; use save_model")
    certain = isinstance(model, Probabilities)
    constants = {
        "coef": np.ascontiguousarray(coef.T, np.float64), "intercept": intercept.astype(np.float64), "classes": labels
    }  # fmt: skip
    last = "probabilities" if certain else "scores"
    nodes = [
        helper.make_node("Cast", ["X"], ["features"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["features", "coef"], ["products"]),
        helper.make_node("Add", ["products", "intercept"], ["sums"]),
        helper.make_node("ArgMax", ["sums"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["classes", "best"], ["label"]),
        *([helper.make_node("Softmax", ["sums"], ["outputs"], axis=1)] if certain else []),
        helper.make_node("Cast", ["outputs" if certain else "sums"], [last], to=TensorProto.FLOAT),
    ]
    types = {
        "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
        "uint8": TensorProto.UINT8,
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "gpusoftmax",
        [helper.make_tensor_value_info("X", types[input_type], ["n", coef.shape[1]])],
        [
            helper.make_tensor_value_info("label", label_type, ["n"]),
            helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", len(classes)]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="gpusoftmax",
        producer_version=gpusoftmax.__version__,
    )  # fmt: skip
    names = getattr(model, "feature_names_in_", None)
    described = {"estimator": type(model).__name__}
    if names is not None:
        described["feature_names"] = json.dumps([str(name) for name in names])
    helper.set_model_props(made, described)
    onnx.checker.check_model(made)
    write_atomically(path, made.SerializeToString())


def _labels(classes: Array, types: Any) -> tuple[Array, int]:
    """Return the labels as ONNX has them, and their type there: integers as int64, strings, or as they are."""
    if classes.dtype.kind in "iu" and np.can_cast(classes.dtype, np.int64):
        return classes.astype(np.int64), types.INT64
    if classes.dtype.kind in "OU" and all(isinstance(label, str) for label in classes.tolist()):
        return classes.astype(object), types.STRING
    if classes.dtype == bool:
        return classes, types.BOOL
    if classes.dtype in (np.float32, np.float64):
        return classes, types.FLOAT if classes.dtype == np.float32 else types.DOUBLE
    raise TypeError(
        f"classes_ {shown(classes.tolist())} are of a type that ONNX does not have; use integers or strings"
    )
