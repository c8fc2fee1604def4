"""The output of the commands `evaluate` and `predict`: accuracies as JSON and as text, and predictions as files."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.reports.accuracy import Accuracies

MOST_CONFUSION = 200  # classes of a confusion matrix in JSON
MOST_SHOWN = 20  # classes in a table and a confusion matrix as text
MOST_NAME = 20  # characters of a class's name


def evaluation(found: Accuracies, classes: Array) -> dict[str, Any]:
    """Return a model's accuracies on some rows for JSON, with None in place of NaN."""
    c = len(classes)
    right = found.labels[found.labels == found.predicted]
    hits, rows, taken = (np.bincount(codes, minlength=c) for codes in (right, found.labels, found.predicted))
    with np.errstate(invalid="ignore"):
        precision, f1 = hits / taken, 2 * hits / (rows + taken)
    numbers = zip(*(x.tolist() for x in (classes, rows, precision, found.per_class, f1)), strict=True)
    keys = "name", "rows", "precision", "recall", "f1"
    return {
        "rows": len(found.labels),
        "accuracy": found.top_1,
        "top_k": found.top_k,
        "k": found.k,
        "balanced_accuracy": found.mean_per_class,
        "log_loss": found.log_loss,
        "brier_score": found.brier,
        "calibration_error": None if found.reliability is None else found.reliability.error,
        "classes": [
            {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in zip(keys, row, strict=True)
            }
            for row in numbers
        ],
        "confusion": found.confusion.tolist() if c <= MOST_CONFUSION else None,
    }


def evaluation_in_words(result: dict[str, Any], found: Accuracies) -> str:
    """Return the evaluation as text: with all classes, or only the worst if there are many."""
    names = [printable(one["name"]) for one in result["classes"]]
    lines = [f"accuracy  {result['accuracy']:.2%} of {result['rows']} rows"]
    if result["k"] < len(names):
        lines.append(f"top-{result['k']:<5d} {result['top_k']:.2%}")
    lines.append(f"balanced  {result['balanced_accuracy']:.2%} (mean of the classes' recalls)")
    if result["log_loss"] is not None:
        lines.append(f"log loss  {result['log_loss']:.4f} nats")
        lines.append(f"Brier     {result['brier_score']:.4f} (0 is best, 2 worst)")
        lines.append(
            f"ECE       {result['calibration_error']:.2%} (expected calibration error: |accuracy - confidence|)"
        )
    order = list(range(len(names)))
    if len(names) > MOST_SHOWN:
        order.sort(key=lambda j: math.inf if result["classes"][j]["recall"] is None else result["classes"][j]["recall"])
        order = order[:MOST_SHOWN]
    heading = "class" if len(order) == len(names) else f"the worst {len(order)} of {len(names)}"
    width = max(len(heading), *(len(names[j]) for j in order))
    lines += ["", f"{heading:{width}s}  {'rows':>7s}  precision  recall     F1"]
    for j in order:
        one = result["classes"][j]
        shares = (f"{'-' if one[key] is None else format(one[key], '.3f'):>{w}s}" for key, w in
                  (("precision", 9), ("recall", 6), ("f1", 5)))  # fmt: skip
        lines.append(f"{names[j]:{width}s}  {one['rows']:7d}  " + "  ".join(shares))
    lines += ["", *(_matrix(names, found) if len(names) <= MOST_SHOWN else _confused(names, found))]
    return "\n".join(lines)


def printable(name: Any, most: int = MOST_NAME) -> str:
    """Return the name of a class for a terminal: short, and without control characters."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _matrix(names: list[str], found: Accuracies) -> list[str]:
    """Return the confusion matrix as lines of text: a line for each class, a column for each prediction."""
    confusion = found.confusion
    short = [printable(name, max(6, min(MOST_NAME, 90 // len(names)))) for name in names]
    cell = max(len(str(confusion.max())), *map(len, short))
    width = max(len("taken for"), *map(len, names))
    return [f"{'taken for':{width}s}  " + " ".join(f"{name:>{cell}s}" for name in short)] + [
        f"{name:{width}s}  " + " ".join(f"{count or '·':>{cell}}" for count in row)
        for name, row in zip(names, confusion.tolist(), strict=True)
    ]


def most_confused(names: list[str], found: Accuracies, n: int) -> list[tuple[str, str, int]]:
    """Return the n most frequent confusions: the class, what it is taken for, and how often."""
    wrong, c = found.labels != found.predicted, len(names)
    pairs, counts = np.unique(found.labels[wrong] * c + found.predicted[wrong], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:n].tolist()
    return [(names[pairs[i] // c], names[pairs[i] % c], int(counts[i])) for i in most]


def _confused(names: list[str], found: Accuracies) -> list[str]:
    """Return lines on the ten most frequent confusions of two classes."""
    return [
        f"{label} taken for {predicted} {count} times" for label, predicted, count in most_confused(names, found, 10)
    ] or ["no row was taken for another class"]


def predictions_as_csv(labels: Array, probabilities: Array | None, classes: Array) -> str:
    """Return CSV with a header and a line per row: the predicted label, and the probability of each class if given."""
    text = io.StringIO()
    # csv leaves carriage returns unquoted if lines end in "\n", but readers take them for the end of a line
    returns = any("\r" in str(label) for label in classes.tolist())
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)
    if probabilities is None:
        writer.writerow(["prediction"])
        writer.writerows([label] for label in labels.tolist())
    else:
        writer.writerow(["prediction", *classes.tolist()])
        rows = zip(labels.tolist(), probabilities, strict=True)
        writer.writerows([label, *(f"{p:.9g}" for p in row.tolist())] for label, row in rows)
    return text.getvalue()


def predictions_as_npy(values: Array) -> bytes:
    """Return labels (n,) or probabilities (n, c) as the content of a .npy file without pickles."""
    file = io.BytesIO()
    np.save(file, values.astype(str) if values.dtype.kind == "O" else values, allow_pickle=False)
    return file.getvalue()
