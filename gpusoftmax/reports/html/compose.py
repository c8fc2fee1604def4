"""`report`: what is known of a fitted model or a sweep, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

import gpusoftmax
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, get_backend_for
from gpusoftmax.checkpoints.identity import identity_of_features
from gpusoftmax.checks.arrays import by_rows
from gpusoftmax.checks.messages import describe_value
from gpusoftmax.checks.scalars import check_pair, check_path
from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.estimators.prediction import LinearPredictor, weights_of, with_all_classes
from gpusoftmax.features.read import read_features
from gpusoftmax.files.atomic import write_atomically
from gpusoftmax.files.dataset import Dataset
from gpusoftmax.models.safetensors import thinned, without_encoder
from gpusoftmax.plots.images import check_image_shape
from gpusoftmax.plots.mistakes import most_confident_mistakes
from gpusoftmax.plots.sweeps import what_varies
from gpusoftmax.plots.templates import check_names
from gpusoftmax.reports.accuracy import Accuracies, measure
from gpusoftmax.reports.evaluation import evaluation, most_confused
from gpusoftmax.reports.html import charts, features, pictures
from gpusoftmax.reports.html.page import render, require_packages
from gpusoftmax.reports.machine import describe
from gpusoftmax.search.result import SweepResult

MOST_IMAGES, MOST_ROWS = 24, 12  # mistakes that are shown
MOST_CLASSES, MOST_TEMPLATES = 30, 100  # classes whose weights are listed, or are shown as images
MOST_POINTS, MOST_LISTED = 300, 50  # passes of a fit that are drawn, and that are listed
MOST_CONFUSIONS = 20  # pairs of classes that are listed where the matrix is too large to draw


def report(
    what: Any,
    path: str | Path,
    *,
    data: Dataset | tuple[Any, Any] | None = None,
    names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    title: str | None = None,
    command: str | None = None,
) -> None:
    """Write a report on a fitted model, or on a sweep and its best model, as one HTML file.

    It shows how the fit went and how near the optimum it is; how C was chosen; accuracies, the confusion matrix and
    measures of each class; whether probabilities can be trusted; what the model looks for; its most confident mistakes;
    and settings, versions and a fingerprint of the data. The page can be read on a phone, in print, in the dark, by
    keyboard and by a screen reader. It loads nothing from elsewhere.

    Parameters
    ----------
    what : SoftmaxClassifier, LinearSVMClassifier, SweepResult, or Pipeline of a TableEncoder and a classifier
        Fitted.
    path : str or os.PathLike
        The file; an old one is replaced atomically.
    data : Dataset or (X, y), optional
        Rows to measure the model on, which it was not trained on. A Dataset gives its test rows, or else its validation
        rows, and names of classes and features. Without data, there is nothing about predictions.
    names : sequence of str, optional
        Names of the classes. Default: those of the data set, or classes_.
    image_shape : sequence of int, optional
        (h, w), (channels, h, w) or (h, w, channels), if rows are images. Default: that of the data set.
    title : str, optional
        Default: the name of the data set or of the estimator.
    command : str, optional
        What to run to repeat it, as text.

    Raises
    ------
    ImportError
        Altair, vl-convert-python, Jinja2 or Pillow is missing: pip install 'gpusoftmax[report]'.
    TypeError, ValueError
        `what` is something else, or an argument does not fit it.
    sklearn.exceptions.NotFittedError
        The model is not fitted.
    OSError
        The file cannot be written; the old one is intact.

    Examples
    --------
    >>> import tempfile
    >>> from gpusoftmax import SoftmaxClassifier, load_digits, report, sweep
    >>> digits = load_digits()
    >>> result = sweep(SoftmaxClassifier(), {"C": [1e-3, 0.1, 10]}, digits.X_train, digits.y_train, cv=5)
    >>> report(result, Path(tempfile.mkdtemp()) / "digits.html", data=digits)
    """
    require_packages()
    path = check_path("path", path)
    subject = _subject(what, data, names, image_shape)
    measured = None if subject.rows is None else measure(subject.model, *subject.rows)
    content: dict[str, Any] = {
        "title": title or subject.title,
        "subtitle": _subtitle(subject),
        "tiles": _tiles(subject, measured),
        "fit": _fit(subject.model),
        "choice": None if subject.result is None else _choice(subject.result),
        "errors": None if measured is None else _errors(subject, measured),
        "calibration": None if measured is None or measured.reliability is None else _calibration(measured),
        "templates": _templates(subject),
        "weights": _weights(subject),
        "mistakes": None if measured is None else _mistakes(subject, measured),
        "repeat": _repeat(subject, command),
        "version": gpusoftmax.__version__,
    }
    write_atomically(path, render(content).encode())


@dataclass(frozen=True)
class _Subject:
    """What a report is about.

    Attributes
    ----------
    model : SoftmaxClassifier or LinearSVMClassifier
    result : SweepResult or None
    title : str
    names : list of str
        Names of the classes.
    rows : (X, y) or None
        The rows to measure on, as the model sees them.
    part : str
        What these rows are called.
    shape : tuple of int or None
        The shape of a row as an image, if rows are images.
    features : list of str
        Names of the features, or their numbers.
    """

    model: Any
    result: SweepResult | None
    title: str
    names: list[str]
    rows: tuple[Any, Any] | None
    part: str
    shape: tuple[int, ...] | None
    features: list[str]

    @cached_property
    def columns(self) -> tuple[Array, Array]:
        """Centres and sizes of the columns of the rows; see `features.centres_and_sizes`."""
        assert self.rows is not None
        return features.centres_and_sizes(self.rows[0])


def _subject(what: Any, data: Any, names: Any, image_shape: Any) -> _Subject:
    """Check the arguments of `report`, and put together what they say."""
    result = what if isinstance(what, SweepResult) else None
    if result is not None:
        what = result.best_estimator_
        if what is None:
            raise ValueError("what has no best_estimator_: call sweep with refit=True, or pass a fitted classifier")
    encoder, model = without_encoder(what)
    if not isinstance(model, LinearPredictor):
        raise TypeError(
            f"what is a {type(what).__name__}; pass a fitted SoftmaxClassifier or LinearSVMClassifier, a table "
            "classifier, or what sweep returns"
        )
    check_is_fitted(model)
    classes, coef, _ = weights_of(model)
    known, rows, part = None, None, "rows"
    if isinstance(data, Dataset):
        known = data
        part = next(name for name in ("test", "validation", "train") if name in data.parts)
        rows, encoder = data.parts[part], data.encoder or encoder
        if names is None and len(data.class_names) == len(classes):
            names = data.class_names
        image_shape = data.feature_shape if image_shape is None else image_shape
    elif data is not None:
        check_pair("data", data)
        rows = data[0] if encoder is None else encoder.transform(data[0]), data[1]
    rows = None if rows is None else (by_rows(rows[0]), rows[1])
    if rows is not None and np.shape(rows[1])[0] == 0:
        raise ValueError("data has no rows; pass some that the model can be measured on")
    d = coef.shape[1]
    named: Any = None if known is None else known.feature_names
    if named is None:
        named = getattr(model, "feature_names_in_", None)
    if encoder is not None and encoder.n_features == d:
        named = encoder.get_feature_names_out()
    return _Subject(
        model=model,
        result=result,
        title=type(model).__name__ if known is None else known.name,
        names=check_names(names, classes),
        rows=rows,
        part=f"{part} rows" if known is not None else part,
        shape=None if image_shape is None or encoder is not None else check_image_shape(image_shape, d),
        features=[f"feature {j}" for j in range(d)] if named is None or len(named) != d else [*map(str, named)],
    )


def _subtitle(subject: _Subject) -> str:
    """A line about the model and the rows."""
    _, coef, _ = weights_of(subject.model)
    text = f"{type(subject.model).__name__}, {coef.shape[1]} features, {len(subject.names)} classes"
    return text if subject.rows is None else f"{text}; measured on {subject.rows[0].shape[0]} {subject.part}"


def _tiles(subject: _Subject, measured: Accuracies | None) -> list[tuple[str, str, str]]:
    """The most important figures: name, value, and what it means."""
    tiles = []
    if measured is not None:
        tiles.append(("accuracy", f"{measured.top_1:.2%}", f"of {len(measured.labels)} {subject.part}"))
        if measured.k < len(subject.names):
            tiles.append((f"top-{measured.k} accuracy", f"{measured.top_k:.2%}", "label among the largest scores"))
        tiles.append(("balanced accuracy", f"{measured.mean_per_class:.2%}", "mean of the classes' recalls"))
        if measured.log_loss is not None and measured.reliability is not None:
            tiles.append(("log loss", f"{measured.log_loss:.4f}", "nats; smaller is better"))
            tiles.append(("calibration error", f"{measured.reliability.error:.2%}", "mean of |accuracy - confidence|"))
    found, temperature = getattr(subject.model, "fit_report_", None), getattr(subject.model, "temperature_", None)
    if temperature is not None:
        tiles.append(("temperature", f"{temperature:.4g}", "scores were divided by it"))
    if found is not None and found.bound is not None:
        about = "proved bound on the objective" + ", before the temperature" * (temperature is not None)
        tiles.append(("distance from the optimum", f"≤ {found.bound:.1e}", about))
    return tiles


def _fit(model: Any) -> dict[str, Any] | None:
    """How the fit went."""
    history, found = getattr(model, "history_", []), getattr(model, "fit_report_", None)
    if not history and found is None:
        return None
    return {
        "words": "" if found is None else str(found),
        "curves": [(name, charts.curves(thinned(history, MOST_POINTS), name)) for name in ("loss", "accuracy")]
        if len(history) > 1
        else [],
        "columns": ["passes", "objective", "loss", "accuracy", "validation loss", "validation accuracy"],
        "rows": [
            [
                f"{one.passes:.4g}",
                *(
                    "" if value is None else f"{value:.5f}"
                    for value in (one.objective, one.loss, one.accuracy, one.validation_loss, one.validation_accuracy)
                ),
            ]
            for one in thinned(history, MOST_LISTED)
        ],
    }


def _choice(result: SweepResult) -> dict[str, Any]:
    """How the sweep chose."""
    numbers, others = what_varies(result.candidates)
    chart = None
    if len(numbers) == 1 and not others:
        chart = charts.choice(result, numbers[0])
    elif len(numbers) == 2 and not others:
        chart = charts.scores_over_two(result, numbers)
    parameters = list(dict.fromkeys(name for one in result.candidates for name in one))
    means, errors = result.mean_scores_, result.standard_errors_
    return {
        "words": result.report,
        "chart": chart,
        "columns": [*parameters, "score", "standard error", "accuracy", "loss", "passes"],
        "rows": [
            {
                "chosen": k == result.best_index_,
                "cells": [
                    *(describe_value(result.candidates[k].get(name)) for name in parameters),
                    *(
                        "" if np.isnan(value) else form % value
                        for form, value in (
                            ("%.5f", means[k]),
                            ("%.5f", errors[k]),
                            ("%.4f", result.trials.accuracy[:, k].mean()),
                            ("%.5f", result.trials.loss[:, k].mean()),
                            ("%.0f", result.trials.passes[:, k].mean()),
                        )
                    ),
                ],
            }
            for k in result.order_.tolist()
        ],
    }


def _errors(subject: _Subject, measured: Accuracies) -> dict[str, Any]:
    """Which classes are confused, and measures of each."""
    names, found = subject.names, evaluation(measured, np.array(subject.names, dtype=object))
    counts = measured.confusion if len(names) <= charts.MOST_IN_MATRIX else None
    return {
        "figures": found,
        "matrix": None if counts is None else charts.confusion(counts, names),
        "counts": None if counts is None else counts.tolist(),
        "names": names,
        "pairs": most_confused(names, measured, MOST_CONFUSIONS),
    }


def _calibration(measured: Accuracies) -> dict[str, Any]:
    """Whether the probabilities can be trusted."""
    curve = measured.reliability
    assert curve is not None
    edges = curve.edges
    return {
        "error": curve.error,
        "brier": measured.brier,
        "chart": charts.reliability(curve),
        "rows": [
            [f"{edges[i]:.0%} to {edges[i + 1]:.0%}", str(int(n)), f"{confidence:.1%}", f"{accuracy:.1%}"]
            for i, (n, confidence, accuracy) in enumerate(
                zip(curve.counts, curve.confidence, curve.accuracy, strict=True)
            )
            if n
        ],
    }


def _templates(subject: _Subject) -> list[tuple[str, str]] | None:
    """Names of classes and images of their weights."""
    if subject.shape is None:
        return None
    _, coef, _ = weights_of(subject.model)
    images = pictures.templates(coef[:MOST_TEMPLATES], subject.shape)
    return list(zip(subject.names[-len(coef) :], images, strict=False))


def _weights(subject: _Subject) -> dict[str, Any] | None:
    """The features with the largest effects on each class."""
    if subject.shape is not None:
        return None
    _, coef, _ = weights_of(subject.model)
    sizes = np.ones(coef.shape[1]) if subject.rows is None else subject.columns[1]
    found = features.largest_weights(coef[:MOST_CLASSES], sizes, subject.features)
    largest = max((abs(effect) for one in found for side in one.values() for _, effect in side), default=1.0)
    return {
        "measured": subject.rows is not None,
        "largest": largest,
        "classes": list(zip(subject.names[-len(coef) :], found, strict=False)),
        "left_out": max(0, len(coef) - MOST_CLASSES),
    }


def _mistakes(subject: _Subject, measured: Accuracies) -> dict[str, Any] | None:
    """The most confident mistakes, as images or as rows."""
    assert subject.rows is not None
    confidence = measured.lead if measured.confidence is None else measured.confidence
    most = MOST_ROWS if subject.shape is None else MOST_IMAGES
    rows = most_confident_mistakes(measured.labels, measured.predicted, confidence, most)
    if not len(rows):
        return None
    X = subject.rows[0]
    entries = [
        {
            "row": int(row),
            "label": subject.names[measured.labels[row]],
            "predicted": subject.names[measured.predicted[row]],
            "confidence": f"{confidence[row]:.1%}" if measured.confidence is not None else f"{confidence[row]:.3g}",
        }
        for row in rows.tolist()
    ]
    if subject.shape is not None and not is_sparse(X):
        for entry, image in zip(entries, pictures.thumbnails(features.rows_at(X, rows), subject.shape), strict=True):
            entry["image"] = image
    else:
        coef, _ = with_all_classes(*weights_of(subject.model)[1:])
        centres, _ = subject.columns
        for entry, row in zip(entries, rows.tolist(), strict=True):
            lead = coef[measured.predicted[row]] - coef[measured.labels[row]]
            entry["reasons"] = features.reasons(
                lead, features.rows_at(X, slice(row, row + 1)), centres, subject.features
            )
    certain = measured.confidence is not None
    return {"entries": entries, "certain": certain, "total": int((measured.labels != measured.predicted).sum())}


def _repeat(subject: _Subject, command: str | None) -> dict[str, Any]:
    """Settings, versions and data."""
    facts = describe()
    parameters = {
        name: value
        for name, value in subject.model.get_params(deep=False).items()
        if name not in ("callbacks", "verbose")
    }
    return {
        "command": command,
        "settings": [(name, _short(value)) for name, value in parameters.items()],
        "machine": [
            ("computed by", getattr(subject.model, "backend_", facts["backend"])),
            ("device", f"{facts['device']}, {facts['threads']} threads"),
            *((name, value) for name, value in facts["versions"].items() if value != "not installed"),
        ],
        "data": [] if subject.rows is None else _data(subject),
    }


def _short(value: Any) -> str:
    text = value.name if isinstance(value, Backend) else describe_value(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _data(subject: _Subject) -> list[tuple[str, str]]:
    """The rows that the model was measured on."""
    assert subject.rows is not None
    X, _ = subject.rows
    backend = get_backend_for("auto", None, X=X)
    with backend.active():
        known = identity_of_features(read_features(X, backend))
    return [
        ("measured on", subject.part),
        ("rows", str(known["number of rows"])),
        ("features", f"{known['shape'][1]}, {X.dtype if hasattr(X, 'dtype') else known['dtype']}"),
        ("fingerprint", f"SHA-256 {known['rows'][:16]} (of some rows and of moments of the columns)"),
    ]
