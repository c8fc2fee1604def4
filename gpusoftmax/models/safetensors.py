"""Saving models as safetensors files, and loading them. Nothing in a file is executed, and none refers to another file.

Tensors: `coef` (c, d), or (1, d) for two classes, and `intercept` (c,) or (1,), in raw feature space; `shift` and
`scale` if the estimator was given them. The metadata are texts:

    format           "gpusoftmax-model"
    format_version   "1", or "2" with an encoder
    estimator        "SoftmaxClassifier" or "LinearSVMClassifier"
    objective        the equation that was minimised, in words, with its numbers
    classes          JSON: {"dtype": ..., "values": [...]}
    parameters       JSON: those of the constructor
    encoder          JSON: a `TableEncoder`, if the model has one; see `encoders`
    fitted           JSON: n_iter, stop_reason, backend, feature_names, history, fit_report, weight_sum
    versions         JSON: the versions of gpusoftmax, numpy and python
    sha256           of all of the above, and of the tensors' names, types, shapes and bytes
"""

from __future__ import annotations

import io
import json
import math
import platform
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

import gpusoftmax
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_shift_and_scale
from gpusoftmax.checks.messages import shown
from gpusoftmax.checks.scalars import check_choice, check_count, check_number, check_path, check_random_seed
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.parameters import check_parameters
from gpusoftmax.estimators.prediction import weights_of
from gpusoftmax.estimators.solver_choice import without_old_defaults
from gpusoftmax.files.atomic import write_atomically
from gpusoftmax.files.tensors import Types, digest, expect
from gpusoftmax.models.encoders import decode_encoder, encode_encoder
from gpusoftmax.models.format import FORMAT, MODEL
from gpusoftmax.solvers.certificate import FitReport
from gpusoftmax.trainer import Record

if TYPE_CHECKING:
    from gpusoftmax.tables.encoder import TableEncoder

ESTIMATORS = {cls.__name__: cls for cls in (SoftmaxClassifier, LinearSVMClassifier)}
LABEL_TYPES = {"bool", "str", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
MOST_HISTORY = 1 << 12  # records of the history; they take a third of MOST_ITEMS
MOST_WORD = 100  # characters of a parameter that is text
MOST_LABELS = 16 << 20  # bytes of the array of labels, each as large as the longest; more is allowed if coef is larger

NUMBER = (int, float)
TYPES: dict[Any, Types] = {
    "str": (str,),
    "int": (int,),
    "float": NUMBER,
    "float | None": (*NUMBER, type(None)),
    "Any": (*NUMBER, type(None)),  # a single model has a number here, not an array
}
TAGGED = {"C", "class_weight", "scaling"}  # parameters that may be objects
RECORD, REPORT = ({field.name: TYPES[field.type] for field in fields(cls)} for cls in (Record, FitReport))
FITTED: dict[str, Types] = {
    "n_iter": (int,),
    "stop_reason": (str,),
    "backend": (str,),
    "feature_names": (list, type(None)),
    "fit_report": (dict,),
    "weight_sum": NUMBER,
    "temperature": NUMBER,
    "history": (list,),
}
# keys that files of earlier versions do not have
LATER = {"fit_report", "weight_sum", "temperature", "kept", "why_solver", "note"}


def save_model(estimator: SoftmaxClassifier | LinearSVMClassifier | Pipeline, path: str | Path) -> None:
    """Write a fitted estimator as one safetensors file, replacing an old one atomically.

    Parameters
    ----------
    estimator : SoftmaxClassifier, LinearSVMClassifier, or Pipeline of a TableEncoder and one of these
        A fitted estimator. Its callbacks are not saved. Of a RandomState, only the fact that there was one is saved. A
        GPU backend is saved as "auto", so that the model can predict on a machine without a GPU. After loading,
        partial_fit continues from the weights and S, the sum of the sample weights so far. The velocity and the mean
        and variance of the rows so far are not saved, so the next call should get many rows. If the history is longer
        than 4096 passes, every second one is saved, or every third, and so on, always including the last.
    path : str or os.PathLike
        Where to save the model; by convention, the name ends in ".safetensors".

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.
    TypeError
        `estimator` is of another class, its labels are of a type that cannot be stored, or `path` is not a path.
    ValueError
        `load_model` would refuse the file: weights are not finite, parameters were set to invalid values after the fit,
        or there are more than some 150,000 names of classes and features.
    OSError
        The file cannot be written. An old file is intact.
    """
    path = check_path("path", path)
    encoder, estimator = without_encoder(estimator)
    if type(estimator).__name__ not in ESTIMATORS:
        inner = "; for a SoftmaxClassifierCV, pass its sweep_.best_estimator_" if hasattr(estimator, "sweep_") else ""
        raise TypeError(
            f"estimator is a {type(estimator).__name__}; pass one of {', '.join(ESTIMATORS)}, or a Pipeline of a "
            f"TableEncoder and one of these{inner}"
        )
    check_is_fitted(estimator)
    labels, coef, intercept = weights_of(estimator)
    dtype = np.result_type(coef, intercept, np.float32)  # if set by hand, they may be of different types, or integers
    tensors = {"coef": coef.astype(dtype), "intercept": intercept.astype(dtype)}
    if isinstance(estimator.scaling, tuple):
        for name, value in zip(("shift", "scale"), estimator.scaling, strict=True):
            if value is not None:
                tensors[name] = np.asarray(value, np.float64)
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    names = getattr(estimator, "feature_names_in_", None)
    fitted = {
        "n_iter": getattr(estimator, "n_iter_", 0),
        "stop_reason": getattr(estimator, "stop_reason_", ""),
        "backend": getattr(estimator, "backend_", ""),
        "feature_names": None if names is None else [str(name) for name in names],
        **({"fit_report": estimator.fit_report_.as_dict()} if hasattr(estimator, "fit_report_") else {}),
        **({"weight_sum": estimator.weight_sum_} if hasattr(estimator, "weight_sum_") else {}),
        **({"temperature": estimator.temperature_} if hasattr(estimator, "temperature_") else {}),
        "history": [record.as_dict() for record in thinned(getattr(estimator, "history_", []), MOST_HISTORY)],
    }
    described = None
    if encoder is not None:
        check_is_fitted(encoder, "numbers_")
        described, own = encode_encoder(encoder)
        tensors |= {name: np.ascontiguousarray(tensor) for name, tensor in own.items()}
    metadata = {
        "format": FORMAT,
        "format_version": "1" if encoder is None else "2",
        "estimator": type(estimator).__name__,
        "objective": _objective_in_words(estimator),
        "classes": json.dumps(_encode_classes(labels)),
        "parameters": json.dumps(_encode_parameters(estimator)),
        "fitted": json.dumps(fitted),
        "versions": json.dumps(
            {"gpusoftmax": gpusoftmax.__version__, "numpy": np.__version__, "python": platform.python_version()}
        ),
        **({} if described is None else {"encoder": json.dumps(described)}),
    }
    metadata["sha256"] = digest(metadata, tensors)
    content = safetensors.numpy.save(tensors, metadata)
    try:
        MODEL.read_header(io.BytesIO(content), len(content))
        again = without_encoder(_restore(metadata, tensors))[1]
        if not np.array_equal(again.classes_, labels):  # NumPy and JSON change some strings
            raise ValueError(f"labels {shown(labels)} would come back as {shown(again.classes_)}")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"estimator cannot be saved, since its file could not be loaded again: {error}") from error
    write_atomically(path, content)


def load_model(path: str | Path) -> SoftmaxClassifier | LinearSVMClassifier | Pipeline:
    """Read a model file into a fitted estimator, executing nothing.

    Parameters
    ----------
    path : str or os.PathLike
        A file that `save_model` wrote.

    Returns
    -------
    SoftmaxClassifier, LinearSVMClassifier, or Pipeline of a TableEncoder and one of these
        A Pipeline predicts for raw tables as they were trained on, or for their encoded features.

    Raises
    ------
    BadFileError
        It is not a model file, is damaged, or was written by a newer version. The message says what is wrong and where.
        Reading such a file takes less than a second and 64 MB beyond the memory for the tensors.
    OSError
        The file cannot be opened.
    TypeError
        `path` is not a path.
    """
    path = check_path("path", path)
    metadata, tensors = MODEL.read(path)
    with MODEL.damage(path, "metadata"):
        return _restore(metadata, tensors)


def without_encoder(estimator: Any) -> tuple[TableEncoder | None, Any]:
    """Split a Pipeline of a TableEncoder and a classifier; anything else has no encoder."""
    if not isinstance(estimator, Pipeline) or len(estimator.steps) != 2:
        return None, estimator
    from gpusoftmax.tables.encoder import TableEncoder  # imported here because it takes a while

    (_, encoder), (_, classifier) = estimator.steps
    return (encoder, classifier) if isinstance(encoder, TableEncoder) else (None, estimator)


def _restore(metadata: dict[str, str], tensors: dict[str, Array]) -> SoftmaxClassifier | LinearSVMClassifier | Pipeline:
    """Return the estimator that the metadata and tensors of a file describe."""
    estimator = _restore_classifier(metadata, tensors)
    if "encoder" not in metadata:
        if foreign := [name for name in tensors if name.startswith("encoder.")]:
            raise ValueError(f"tensor {foreign[0]} without an encoder")
        return estimator
    from gpusoftmax.estimators.table_classifier import table_pipeline  # imported here because it takes a while

    encoder = decode_encoder(MODEL.parse("encoder", metadata["encoder"]), tensors)
    if (found := encoder.n_features) != estimator.n_features_in_:
        raise ValueError(f"an encoder of {found} features for {estimator.n_features_in_}")
    return table_pipeline(encoder, estimator)


def _restore_classifier(metadata: dict[str, str], tensors: dict[str, Array]) -> SoftmaxClassifier | LinearSVMClassifier:
    name = metadata["estimator"]
    if name not in ESTIMATORS:
        raise ValueError(f"estimator {shown(name)} is none of {', '.join(ESTIMATORS)}")
    parameters, classes, fitted = (MODEL.parse(key, metadata[key]) for key in ("parameters", "classes", "fitted"))
    estimator = ESTIMATORS[name](**_decode_parameters(ESTIMATORS[name], parameters, tensors))
    _check_parameters(estimator)
    coef, intercept = tensors["coef"], tensors["intercept"]
    estimator.classes_ = _decode_classes(classes, max(MOST_LABELS, coef.nbytes))
    c, d = len(estimator.classes_), coef.shape[1] if coef.ndim == 2 else 0
    rows = 1 if c == 2 else c
    if coef.shape != (rows, d) or d == 0 or intercept.shape != (rows,) or intercept.dtype != coef.dtype:
        raise ValueError(
            f"coef {coef.shape} of {coef.dtype} and intercept {intercept.shape} of {intercept.dtype} for {c} classes"
        )
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("coef or intercept holds NaN or infinity")
    sides = estimator.scaling if isinstance(estimator.scaling, tuple) else (None, None)
    check_shift_and_scale(sides[0], sides[1], d)
    estimator.coef_, estimator.intercept_, estimator.n_features_in_ = coef, intercept, d
    _restore_fitted(estimator, expect("fitted", fitted, FITTED, optional=LATER))
    return estimator


def _check_parameters(estimator: SoftmaxClassifier | LinearSVMClassifier) -> None:
    """Check the constructor's parameters as `fit` does, including those that it checks elsewhere."""
    check_parameters(estimator)
    check_random_seed(estimator.random_state)
    check_choice("backend", estimator.backend, ("auto", "cpu", "numpy"))
    if estimator.n_threads is not None:
        check_count("n_threads", estimator.n_threads)
    if estimator.class_weight != "balanced" and not isinstance(estimator.class_weight, dict | None):
        raise ValueError(f"class_weight={shown(estimator.class_weight)} is not known")


def _restore_fitted(estimator: SoftmaxClassifier | LinearSVMClassifier, fitted: dict[str, Any]) -> None:
    """Set the fitted attributes that the metadata describe."""
    names = fitted["feature_names"]
    if names is not None:
        if len(names) != estimator.n_features_in_ or any(type(name) is not str for name in names):
            raise ValueError(f"feature_names {shown(names)} for {estimator.n_features_in_} features")
        estimator.feature_names_in_ = np.array(names, dtype=object)
    estimator.n_iter_ = check_count("n_iter", fitted["n_iter"], least=0)
    estimator.stop_reason_, estimator.backend_ = fitted["stop_reason"], fitted["backend"]
    if "fit_report" in fitted:
        estimator.fit_report_ = FitReport(**expect("fit_report", fitted["fit_report"], REPORT, optional=LATER))
    if "weight_sum" in fitted:
        estimator.weight_sum_ = check_number("weight_sum", fitted["weight_sum"], least=0, above=True)
    if "temperature" in fitted:
        estimator.temperature_ = check_number("temperature", fitted["temperature"], least=0, above=True)
    estimator.history_ = [Record(**expect("history", record, RECORD)) for record in fitted["history"]]
    estimator.loss_curve_ = [float(record.objective) for record in estimator.history_]


def thinned(history: list[Record], most: int) -> list[Record]:
    """Thin a history to at most so many records at equal distances; the last one is always kept."""
    return history[:: -max(1, -(-len(history) // most))][::-1]


def _objective_in_words(estimator: SoftmaxClassifier | LinearSVMClassifier) -> str:
    """Describe the objective that was minimised, for people who look into the file."""
    strength = f"l2 = {estimator.l2!r}" if estimator.l2 is not None else f"l2 = 1 / (C S), C = {estimator.C or 1.0!r}"
    norm = "||W||^2 + ||b||^2" if estimator.penalize_intercept else "||W||^2"
    smoothed = f" of labels smoothed by {float(estimator.label_smoothing)!r}" if estimator.label_smoothing else ""
    return (
        f"mean {estimator.loss} loss{smoothed} + (l2 / 2) ({norm}), {strength}, "
        f"scaling = {_kind_of_scaling(estimator.scaling)}"
    )


def _kind_of_scaling(scaling: Any) -> str:
    return "shift and scale given" if isinstance(scaling, tuple) else repr(scaling)


def _encode_classes(classes: Array) -> dict[str, Any]:
    array = np.asarray(classes)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        array = array.astype(str)
    kind = "str" if array.dtype.kind == "U" else array.dtype.name
    if kind not in LABEL_TYPES:
        raise TypeError(f"labels of dtype {array.dtype} cannot be stored; use integers, floats, booleans or strings")
    return {"dtype": kind, "values": array.tolist()}


def _decode_classes(classes: Any, most: int) -> Array:
    expect("classes", classes, {"dtype": (str,), "values": (list,)})
    dtype, values = classes["dtype"], classes["values"]
    if dtype not in LABEL_TYPES:
        raise ValueError(f"classes of dtype {shown(dtype)}")
    label = type(np.zeros((), dtype).item())
    if len(values) < 2 or any(type(value) is not label for value in values):
        raise ValueError(f"classes {shown(values)} are not at least two labels of type {dtype}")
    longest = max(map(len, values)) if dtype == "str" else 0
    if 4 * longest * len(values) > most:
        raise ValueError(f"{len(values)} classes with names of up to {longest} characters; shorten the longest")
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    changed = any(array.item(i) != value for i, value in enumerate(values))  # without a second list of them all
    if changed or not (array[:-1] < array[1:]).all():
        raise ValueError(f"classes {shown(values)} are not sorted, distinct labels of type {dtype}")
    return array


def _encode_parameters(estimator: SoftmaxClassifier | LinearSVMClassifier) -> dict[str, Any]:
    """Return the constructor's parameters for JSON; a value that JSON cannot hold becomes an object describing it."""
    encoded = {}
    for name, value in estimator.get_params(deep=False).items():
        if name == "callbacks":
            continue
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Backend):
            value = value.name
        if name == "backend" and str(value).startswith("cuda"):
            value = "auto"  # the machine that loads it may have no GPU; `fitted` says which backend trained it
        if name == "scaling" and isinstance(value, tuple):
            value = {"tensors": [side is not None for side in value]}
        elif name == "class_weight" and isinstance(value, dict):
            value = {"pairs": [[getattr(k, "item", lambda k=k: k)(), float(v)] for k, v in value.items()]}
        elif name == "random_state" and not isinstance(value, int | None):
            value = None
        elif value == math.inf:
            value = {"infinite": True}
        encoded[name] = value
    return encoded


def _decode_parameters(cls: Any, parameters: Any, tensors: dict[str, Array]) -> dict[str, Any]:
    """Return the constructor's parameters from JSON; a file of an earlier version may lack some."""
    names = cls().get_params(deep=False).keys() - {"callbacks"}
    scalars: Types = (type(None), bool, int, float, str)
    types = {name: (*scalars, dict) if name in TAGGED else scalars for name in names}
    decoded = dict(expect("parameters", parameters, types, optional=names))
    for name, value in decoded.items():
        if isinstance(value, str) and len(value) > MOST_WORD:
            raise ValueError(f"{name}={shown(value)} has {len(value)} characters")
    if type(decoded.get("C")) is dict:
        if decoded["C"] != {"infinite": True}:
            raise ValueError(f"C={shown(decoded['C'])} is not known")
        decoded["C"] = math.inf
    return without_old_defaults(decoded) | {
        "scaling": _decode_scaling(decoded.get("scaling"), tensors),
        "class_weight": _decode_class_weight(decoded.get("class_weight")),
    }


def _decode_scaling(scaling: Any, tensors: dict[str, Array]) -> Any:
    sides, said = [tensors.get(name) for name in ("shift", "scale")], [False, False]
    if type(scaling) is dict:
        said = expect("scaling", scaling, {"tensors": (list,)})["tensors"]
        scaling = tuple(float(side) if side is not None and side.ndim == 0 else side for side in sides)
    if said != [side is not None for side in sides]:
        raise ValueError(f"scaling={shown(scaling)} with the tensors {', '.join(tensors)}")
    return scaling


def _decode_class_weight(class_weight: Any) -> Any:
    if type(class_weight) is not dict:
        return class_weight
    pairs = expect("class_weight", class_weight, {"pairs": (list,)})["pairs"]
    weights = {label: check_number("class_weight", weight, least=0) for label, weight in pairs}
    if len(weights) != len(pairs) or any(type(label) not in (str, int, float, bool) for label in weights):
        raise ValueError(f"class_weight={shown(pairs)} is not a list of distinct labels with one weight each")
    return weights
