"""Model files: safetensors with a described header. Nothing in one is ever executed, and none refers to another file.

Tensors: `coef` (c, d), or (1, d) for two classes, and `intercept` (c,) or (1,), in raw feature space; `shift` and
`scale` if the estimator was given them. The metadata, all of it text:

    format           "gpusoftmax-model"
    format_version   "1"
    estimator        "SoftmaxClassifier" or "LinearSVMClassifier"
    objective        the equation that was minimised, in words, with its numbers
    classes          JSON: {"dtype": ..., "values": [...]}
    parameters       JSON: the constructor's
    fitted           JSON: n_iter, stop_reason, backend, feature_names, history, fit_report, weight_sum
    versions         JSON: of gpusoftmax, numpy, python
    sha256           of all of the above and of the tensors' names, types, shapes and bytes
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from sklearn.utils.validation import check_is_fitted

from gpusoftmax.array import Backend
from gpusoftmax.certificate import FitReport
from gpusoftmax.estimators import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.exceptions import BadFileError
from gpusoftmax.persist.atomic import write_atomically
from gpusoftmax.trainer import Record
from gpusoftmax.validation import check_number, check_shift_and_scale

Array = npt.NDArray[Any]

FORMAT, FORMAT_VERSION = "gpusoftmax-model", 1
ESTIMATORS = {cls.__name__: cls for cls in (SoftmaxClassifier, LinearSVMClassifier)}
MOST_HEADER = 64 << 20  # bytes; 100,000 class names and feature names are 4 MB
KEYS = {"format", "format_version", "estimator", "objective", "classes", "parameters", "fitted", "versions", "sha256"}
LABEL_TYPES = {"bool", "str", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def save_model(estimator: SoftmaxClassifier | LinearSVMClassifier, path: str | Path) -> None:
    """Write a fitted estimator as one safetensors file, replacing an old one atomically.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        Fitted. Its callbacks are not saved, of a RandomState only that there was one, and a back end on a GPU as
        "auto", so that the model predicts on a machine without one. partial_fit goes on from the weights and their S;
        velocity, and mean and variance of the rows so far, are not saved: let the next call bring many rows.
    path : path-like
        Where to; ".safetensors" by custom.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        `fit` was not called.
    TypeError
        Not one of our estimators, or labels of a type that cannot be stored.
    OSError
        It cannot be written; a file that was there is intact.
    """
    if type(estimator).__name__ not in ESTIMATORS:
        inner = "; of a SoftmaxClassifierCV its sweep_.best_estimator_" if hasattr(estimator, "sweep_") else ""
        raise TypeError(f"estimator is a {type(estimator).__name__}; pass one of {', '.join(ESTIMATORS)}{inner}")
    check_is_fitted(estimator)
    tensors = {"coef": estimator.coef_, "intercept": estimator.intercept_}
    if isinstance(estimator.scaling, tuple):
        for name, value in zip(("shift", "scale"), estimator.scaling, strict=True):
            if value is not None:
                tensors[name] = np.asarray(value, np.float64)
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    names = getattr(estimator, "feature_names_in_", None)
    fitted = {
        "n_iter": estimator.n_iter_,
        "stop_reason": estimator.stop_reason_,
        "backend": estimator.backend_,
        "feature_names": None if names is None else [str(name) for name in names],
        **({"fit_report": estimator.fit_report_.as_dict()} if hasattr(estimator, "fit_report_") else {}),
        **({"weight_sum": estimator.weight_sum_} if hasattr(estimator, "weight_sum_") else {}),
        "history": [record.as_dict() for record in estimator.history_],
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "estimator": type(estimator).__name__,
        "objective": _objective_in_words(estimator),
        "classes": json.dumps(_encode_classes(estimator.classes_)),
        "parameters": json.dumps(_encode_parameters(estimator)),
        "fitted": json.dumps(fitted),
        "versions": json.dumps(
            {"gpusoftmax": version("gpusoftmax"), "numpy": np.__version__, "python": platform.python_version()}
        ),
    }
    metadata["sha256"] = _digest(metadata, tensors)
    write_atomically(Path(path), safetensors.numpy.save(tensors, metadata))


def load_model(path: str | Path) -> SoftmaxClassifier | LinearSVMClassifier:
    """Read a model file into a fitted estimator, executing nothing.

    Parameters
    ----------
    path : path-like
        A file that `save_model` wrote.

    Returns
    -------
    SoftmaxClassifier or LinearSVMClassifier

    Raises
    ------
    BadFileError
        Not a model file, damaged, or written by a newer version; says what and where.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    content = path.read_bytes()
    metadata = _read_metadata(path, content)
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadFileError(path, reason=f"damaged tensors ({error})", expected="a whole safetensors file") from error

    def part(key: str) -> Any:
        try:
            return json.loads(metadata[key], object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise BadFileError(path, place=f"metadata {key}", reason=str(error), expected="JSON") from error

    if metadata["sha256"] != _digest(metadata, tensors):
        raise BadFileError(path, reason="the content does not match its SHA-256", expected="an undamaged file")
    try:
        return _restore(metadata["estimator"], part("classes"), part("parameters"), part("fitted"), tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadFileError(
            path,
            reason=f"inconsistent content ({type(error).__name__}: {error})",
            expected="a file that save_model wrote",
        ) from error


def _read_metadata(path: Path, content: bytes) -> dict[str, str]:
    """The header's texts, checked to be ours and of a version that we know."""
    expected = "a model that save_model wrote"
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(len(content) - 8, MOST_HEADER):
        raise BadFileError(
            path, place="byte 0", reason=f"header length {length} of {len(content)} bytes", expected=expected
        )
    try:
        header = json.loads(content[8 : 8 + length], object_pairs_hook=_without_duplicates)
        metadata = header["__metadata__"]
        fits = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFileError(
            path, place="header", reason=f"{type(error).__name__}: {error}", expected=expected
        ) from error
    if not fits or metadata.get("format") != FORMAT:
        raise BadFileError(path, place="header", reason="not a gpusoftmax model", expected=expected)
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise BadFileError(
            path,
            place="format_version",
            reason=f"version {metadata.get('format_version')!r}",
            expected=f"version {FORMAT_VERSION}; a newer gpusoftmax may read it",
        )
    if set(metadata) != KEYS:
        raise BadFileError(
            path, place="header", reason=f"keys {sorted(set(metadata) ^ KEYS)} missing or unknown", expected=expected
        )
    return metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may disagree on which of two equal keys counts."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _restore(
    name: str, classes: dict[str, Any], parameters: dict[str, Any], fitted: dict[str, Any], tensors: dict[str, Array]
) -> SoftmaxClassifier | LinearSVMClassifier:
    estimator = ESTIMATORS[name](**_decode_parameters(parameters, tensors))
    estimator._check_parameters()
    estimator.classes_ = _decode_classes(classes)
    coef, intercept = tensors["coef"], tensors["intercept"]
    rows = 1 if len(estimator.classes_) == 2 else len(estimator.classes_)
    if coef.ndim != 2 or coef.shape[0] != rows or coef.shape[1] == 0 or intercept.shape != (rows,):
        raise ValueError(f"coef {coef.shape} and intercept {intercept.shape} for {len(estimator.classes_)} classes")
    sides = estimator.scaling if isinstance(estimator.scaling, tuple) else (None, None)
    expected = {"coef", "intercept"} | {
        name for name, side in zip(("shift", "scale"), sides, strict=True) if side is not None
    }
    if set(tensors) != expected:
        raise ValueError(f"tensors {sorted(tensors)} where {sorted(expected)} were expected")
    check_shift_and_scale(sides[0], sides[1], coef.shape[1])
    if coef.dtype not in (np.float32, np.float64) or intercept.dtype != coef.dtype:
        raise ValueError(f"coef of {coef.dtype} and intercept of {intercept.dtype}")
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("non-finite coefficients")
    estimator.coef_, estimator.intercept_ = coef, intercept
    estimator.n_features_in_ = coef.shape[1]
    if fitted["feature_names"] is not None:
        estimator.feature_names_in_ = np.array([str(name) for name in fitted["feature_names"]], dtype=object)
        if len(estimator.feature_names_in_) != coef.shape[1]:
            raise ValueError(f"{len(estimator.feature_names_in_)} feature names for {coef.shape[1]} features")
    estimator.n_iter_ = int(fitted["n_iter"])
    estimator.stop_reason_, estimator.backend_ = str(fitted["stop_reason"]), str(fitted["backend"])
    if "fit_report" in fitted:  # files from before there was one
        estimator.fit_report_ = FitReport(**fitted["fit_report"])
    if "weight_sum" in fitted:
        estimator.weight_sum_ = check_number("weight_sum", fitted["weight_sum"], least=0, above=True)
    estimator.history_ = [Record(**record) for record in fitted["history"]]
    estimator.loss_curve_ = [float(record.objective) for record in estimator.history_]
    return estimator


def _objective_in_words(estimator: SoftmaxClassifier | LinearSVMClassifier) -> str:
    strength = f"l2 = {estimator.l2!r}" if estimator.l2 is not None else f"l2 = 1 / (C S), C = {estimator.C or 1.0!r}"
    norm = "||W||^2 + ||b||^2" if estimator.penalize_intercept else "||W||^2"
    smoothed = f" of labels smoothed by {float(estimator.label_smoothing)!r}" if estimator.label_smoothing else ""
    return (
        f"mean {estimator.loss} loss{smoothed} + (l2 / 2) ({norm}), {strength}, "
        f"scaling = {_kind_of_scaling(estimator.scaling)}"
    )


def _kind_of_scaling(scaling: Any) -> str:
    return "shift and scale given" if isinstance(scaling, tuple) else repr(scaling)


def _digest(metadata: dict[str, str], tensors: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"sha256"}):
        digest.update(f"{key} {len(metadata[key])} {metadata[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _encode_classes(classes: Array) -> dict[str, Any]:
    array = np.asarray(classes)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        array = array.astype(str)
    kind = "str" if array.dtype.kind == "U" else array.dtype.name
    if kind not in LABEL_TYPES:
        raise TypeError(f"labels of dtype {array.dtype} cannot be stored; use integers, floats, booleans or strings")
    return {"dtype": kind, "values": array.tolist()}


def _decode_classes(classes: dict[str, Any]) -> Array:
    if classes["dtype"] not in LABEL_TYPES:
        raise ValueError(f"classes of dtype {classes['dtype']!r}")
    array = np.array(classes["values"], dtype=classes["dtype"])
    if array.ndim != 1 or len(array) < 2 or not (array[:-1] < array[1:]).all():
        raise ValueError("classes are not at least two sorted, distinct labels")
    return array


def _encode_parameters(estimator: SoftmaxClassifier | LinearSVMClassifier) -> dict[str, Any]:
    """The constructor's parameters as JSON; what JSON cannot hold is written as a tagged object."""
    encoded = {}
    for name, value in estimator.get_params(deep=False).items():
        if name == "callbacks":
            continue
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Backend):
            value = value.name
        if name == "backend" and str(value).startswith("cuda"):
            value = "auto"  # who trained is in `fitted`; the machine that loads may have no GPU
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


def _decode_parameters(parameters: dict[str, Any], tensors: dict[str, Array]) -> dict[str, Any]:
    decoded = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            if name == "scaling":
                present = [bool(side) for side in value["tensors"]]
                value = tuple(
                    (tensors[key] if tensors[key].ndim else float(tensors[key])) if there else None
                    for key, there in zip(("shift", "scale"), present, strict=True)
                )
            elif name == "class_weight":
                value = {label: float(weight) for label, weight in value["pairs"]}
            elif value == {"infinite": True}:
                value = math.inf
            else:
                raise ValueError(f"parameter {name} is {value}")
        decoded[name] = value
    return decoded
