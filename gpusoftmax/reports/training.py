"""Reports on a training: its data, penalty and accuracies, and the files that a sweep writes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax.checks.sparse import is_sparse
from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.estimators.problem import l2_from_C
from gpusoftmax.files.dataset import Dataset
from gpusoftmax.reports.evaluation import printable
from gpusoftmax.search.result import SweepResult

SWEEP_FILES = ("table.csv", "report.txt", "model.safetensors", "scores.png")
SPLITS = ("train", "validation", "test")


def accuracies(estimator: SoftmaxClassifier | LinearSVMClassifier, dataset: Dataset) -> dict[str, float | None]:
    """Return the accuracy in [0, 1] on each part of a data set: train_accuracy, validation_accuracy, test_accuracy.

    The accuracy on a part without rows is None.
    """
    measured: dict[str, float | None] = dict.fromkeys((f"{split}_accuracy" for split in SPLITS), None)
    for split, (X, y) in dataset.parts.items():
        measured[f"{split}_accuracy"] = float(np.mean(estimator.predict(X) == y))
    return measured


def accuracies_in_words(measured: dict[str, Any]) -> str:
    """Return the accuracies as a line of text."""
    known = {split: measured[f"{split}_accuracy"] for split in SPLITS}
    return "  ".join(f"{split} {accuracy:.2%}" for split, accuracy in known.items() if accuracy is not None)


def dataset_in_words(dataset: Dataset) -> str:
    """Return a line of text on a data set, and further lines on its columns and labels if they have names."""
    rows = ", ".join(f"{len(y)} {split}" for split, (_, y) in dataset.parts.items())
    X: Any = dataset.X_train
    d, c = X.shape[1], len(dataset.class_names)
    names = (dataset.feature_names or ()) if dataset.encoder is None else dataset.encoder.columns_
    shown = ", ".join(printable(name, 80) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    columns = f"\ncolumns {shown}" if names else ""
    if dataset.encoder is not None:
        encoded = textwrap.wrap(f"encoded {printable(dataset.encoder.report_, 1000)}", 110, subsequent_indent=" " * 8)
        columns += "\n" + "\n".join(encoded)
    labels = "" if dataset.label_name is None else f"\nlabels  {printable(dataset.label_name, 80)}"
    kind = str(X.dtype) + (f", sparse: {X.nnz / X.shape[0]:.1f} entries per row" if is_sparse(X) else "")
    return f"{dataset.name}: {rows} rows of {d} features ({kind}), {c} classes{columns}{labels}"


def keep_names(estimator: SoftmaxClassifier | LinearSVMClassifier, dataset: Dataset) -> None:
    """Set the feature names of a model that was fitted to arrays, so that `predict` can find the columns by name."""
    if dataset.feature_names is not None and dataset.encoder is None:
        estimator.feature_names_in_ = np.array(dataset.feature_names, dtype=object)


def with_encoder(estimator: SoftmaxClassifier | LinearSVMClassifier, dataset: Dataset) -> Any:
    """Return what `save_model` is to write: the estimator, or a Pipeline with the encoder of its data."""
    if dataset.encoder is None:
        return estimator
    from gpusoftmax.estimators.table_classifier import table_pipeline  # imported here because it takes a while

    return table_pipeline(dataset.encoder, estimator)


def step_in_words(step: dict[str, Any]) -> str:
    """Return a line of text on a value of C that was tried."""
    return (
        f"C = {step['C']:<7g} validation loss {step['loss']:.4f}  accuracy {step['accuracy']:.2%}  "
        f"({step['passes']:.0f} passes)"
    )


def path_of(choice: SweepResult, n: int) -> list[dict[str, float]]:
    """Return the results for each C that was tried on n rows, from strong to weak penalties, for JSON."""
    trials = choice.trials
    return [
        {
            "C": one["C"],
            "l2": l2_from_C(one["C"], n, len(choice.classes_)),
            "objective": trials.objective[0, k],
            "validation_loss": trials.loss[0, k],
            "validation_accuracy": trials.accuracy[0, k],
            "passes": trials.passes[0, k],
        }
        for k, one in enumerate(choice.candidates)
        if trials.status[0, k]
    ]


def choice_in_words(choice: SweepResult, seconds: float) -> str:
    """Return a line of text on the C that was chosen, and a warning if it is the smallest or largest that was tried."""
    tried = int((choice.trials.status[0] != "").sum())
    text = (
        f"chosen  C = {choice.best_params_['C']:g}, which has the smallest validation loss of {tried} values, in "
        f"{seconds:.2f} s"
    )
    if edge := choice.edges_.get("C"):
        text += f"\n        it is the {edge} that was tried, so the best may lie beyond it: try others with --C"
    return text


def penalty_in_words(C: float, l2: float) -> str:
    """Return the penalty as C, which refers to the sum of the losses, and as l2, which refers to their mean."""
    return "none" if l2 == 0 else f"C = {C:g}, l2 = {l2:.4g}"


def penalty_elsewhere(l2: float, n: int) -> str:
    """Translate a penalty l2 on the mean loss of n rows into the parameters of other libraries."""
    return (
        f"C = {1 / (l2 * n):.4g} in scikit-learn and cuML, or with two classes {2 / (l2 * n):.4g}\n"
        f"l2 = {l2:.4g} on the mean loss: SGDClassifier's alpha, and glmnet's lambda on standardised features\n"
        f"weight_decay = {l2:.4g} in PyTorch, and reg = {l2 / 2:.4g} in cs231n, with the intercept penalised as well\n"
        f"lambda = {l2 * n:.4g} in CLIP, on the sum of {n} losses with a factor 1/2, and {l2 * n / 2:.4g} in "
        "linear_eval, without it"
    )


def write_sweep(result: SweepResult, dataset: Dataset, folder: Path, show: Callable[[str], Any]) -> list[Path]:
    """Write the table, report, best model and plot of a sweep on a data set into a folder, and return their paths.

    `show` is called with a line of text on what was saved, and one if there is no plot.
    """
    table, words, model, plot = files = [folder / name for name in SWEEP_FILES]
    result.to_csv(table)
    words.write_text(result.report + "\n", encoding="utf-8")
    if result.best_estimator_ is None:  # interrupted by Ctrl-C before it was fitted
        model.unlink(missing_ok=True)  # left by an earlier sweep
        files.remove(model)
    else:
        from gpusoftmax.models import save_model  # imported here, since not every training is saved

        save_model(with_encoder(result.best_estimator_, dataset), model)
    try:
        result.plot().figure.savefig(plot, dpi=150)
    except (ImportError, ValueError) as error:
        show(f"plot    none: {error}")
        plot.unlink(missing_ok=True)  # left by an earlier sweep
        files.remove(plot)
    show("saved   " + "  ".join(map(str, files)))
    return files
