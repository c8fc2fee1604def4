"""gpusoftmax evaluate and predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpusoftmax.cli.options import (
    AsJson,
    BackendName,
    Data,
    DatasetName,
    Decimal,
    Delimiter,
    Download,
    Drop,
    FileOptions,
    Header,
    Label,
    MemoryLimit,
    ModelFile,
    Quiet,
    Report,
    Threads,
    app,
    check_no_folder,
    check_output,
    check_report,
    counting_rows,
    is_file,
    print_data,
    print_json,
    reading,
    show,
    source,
    write_report,
)

if TYPE_CHECKING:
    from gpusoftmax.files.table import Columns, Table

AT_ONCE = 1 << 24  # features, or scores, of the rows that are predicted before the next progress is shown


@app.command(
    epilog="""Examples:

    gpusoftmax evaluate flowers.safetensors more-flowers.csv --label species

    gpusoftmax evaluate model.safetensors cifar10 --data ~/data

    gpusoftmax evaluate flowers.safetensors more-flowers.data --label -1 --no-header --delimiter blank

    gpusoftmax evaluate model.safetensors X_test.npy,y_test.npy --top 3 --json

    gpusoftmax evaluate flowers.safetensors more-flowers.csv --label species --report flowers.html

    gpusoftmax evaluate model.safetensors reviews-test.svm

    gpusoftmax evaluate model.safetensors embeddings.npy,labels.npy --memory-limit 2GB

    JSON keys: dataset, label (where the labels in a file come from, or null), estimator, model, train_accuracy,
    validation_accuracy, test_accuracy (null for parts that do not exist), part (what all other keys describe: test, or
    rows for a file without parts), rows, accuracy, top_k, k, balanced_accuracy, log_loss (nats), brier_score,
    calibration_error (these three null for an SVM), classes (a list of name, rows, precision, recall, f1), confusion (a
    list of rows, one for each true class; null for more than 200 classes), report (path or null)."""
)
def evaluate(
    model: ModelFile,
    dataset: DatasetName,
    data: Data = None,
    download: Download = False,
    label: Label = None,
    drop: Drop = None,
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    top: Annotated[
        int,
        typer.Option(
            "--top", min=1, help="k of top-k accuracy: a row is right if its label is among the k largest scores"
        ),
    ] = 5,
    report: Report = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    backend: BackendName = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a saved model on a data set, or on all rows of a file.

    Prints accuracy, top-k accuracy, log loss, calibration, precision and recall of each class, and which classes are
    confused.
    """
    from gpusoftmax.array import get_backend
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.files.load import known_labels, path_of_labels
    from gpusoftmax.models import load_model
    from gpusoftmax.models.safetensors import without_encoder
    from gpusoftmax.reports.accuracy import measure
    from gpusoftmax.reports.evaluation import evaluation, evaluation_in_words, printable
    from gpusoftmax.reports.training import SPLITS, accuracies_in_words

    check_report(report, model, dataset)
    whole = load_model(model)
    encoder, estimator = without_encoder(whole)
    estimator.set_params(backend=get_backend(backend, threads))
    options = FileOptions(label, drop, header, delimiter, decimal)
    known: Any = None
    if memory_limit is not None:
        options.refuse_for_rows()
    if is_file(dataset):
        check_no_folder(dataset, data, download)
        tables = _read(dataset, _columns(options), quiet, estimator, encoder, memory_limit)
        path = path_of_labels(source(dataset))
        label_name = next(iter(tables.values())).label_name
        parts: dict[str, Any] = {
            name: (table.values, known_labels(table, estimator.classes_, path, "of the model"))
            for name, table in tables.items()
        }
    else:
        options.refuse(dataset, **{"--memory-limit": memory_limit is not None})
        label_name = None
        with reading(dataset, quiet):
            known = load_dataset(dataset, data, download=download)
        parts = dict(known.parts)
    measured = {}
    for name, (X, y) in parts.items():
        with counting_rows(X.shape[0], quiet) as on_rows:
            measured[name] = measure(estimator, X, y, top, on_rows)
    part = "test" if "test" in measured else next(iter(measured))
    part_accuracies = {f"{name}_accuracy": measured[name].top_1 if name in measured else None for name in SPLITS}
    result = evaluation(measured[part], estimator.classes_)
    show(f"data      {dataset}: {', '.join(f'{len(y)} {name}' for name, (_, y) in parts.items())}", as_json)
    if label_name is not None:
        show(f"labels    {printable(label_name, 80)}", as_json)
    if len(parts) > 1:
        show(f"parts     {accuracies_in_words(part_accuracies)}; all further results are for the {part} rows", as_json)
    show(evaluation_in_words(result, measured[part]), as_json)
    if report is not None:
        write_report(whole, report, as_json, quiet, data=known or parts[part], title=Path(dataset).name)
    if as_json:
        about = {"dataset": dataset, "label": label_name, "estimator": type(estimator).__name__, "model": str(model)}
        about["report"] = None if report is None else str(report)
        print_json({**about, **part_accuracies, "part": part, **result})


@app.command(
    epilog="""Examples:

    gpusoftmax predict flowers.safetensors new.csv

    gpusoftmax predict flowers.safetensors new.csv --probabilities --out predictions.csv

    gpusoftmax predict model.safetensors X.npy --out labels.npy

    gpusoftmax predict model.safetensors reviews.svm

    gpusoftmax predict model.safetensors embeddings.parquet --memory-limit 2GB --out labels.npy

    If the model was trained on columns with names, they are found by name, in any order; other columns are ignored.
    In an .svm file each row begins with a label, which is ignored, too: write 0 where it is not known.

    JSON keys: data, estimator, model, rows, counts (a dict: how many rows of each label), out (path or null),
    predictions (a list; null with --out), probabilities (a list for each row; null with --out or without
    --probabilities), classes (a list, in the order of probabilities)."""
)
def predict(
    model: ModelFile,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="rows to classify: text (.csv, .arff, .svm ...), .parquet, .npz or .npy"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="write a .csv file, or a .npy file of labels or probabilities",
            show_default="print",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="also give the probability of each class")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="COLUMN", help="a column of labels to ignore, by name or position"),
    ] = None,
    drop: Drop = None,
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    backend: BackendName = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Classify the rows of a file with a saved model: prints or writes one line of CSV per row, or writes .npy."""
    import numpy as np

    from gpusoftmax.array import get_backend
    from gpusoftmax.files.atomic import write_atomically
    from gpusoftmax.models import load_model
    from gpusoftmax.models.safetensors import without_encoder
    from gpusoftmax.reports.evaluation import predictions_as_csv, predictions_as_npy

    if out is not None and out.suffix.lower() not in (".csv", ".npy"):
        raise ValueError(f"--out {out} is of unknown kind; name a .csv or .npy file")
    check_output("--out", out, file, model)
    encoder, estimator = without_encoder(load_model(model))
    estimator.set_params(backend=get_backend(backend, threads))
    if probabilities and not hasattr(estimator, "predict_proba"):
        raise ValueError(f"--probabilities: an SVM ({model}) has none; leave it out, or train with --loss softmax")
    options = FileOptions(label, drop, header, delimiter, decimal)
    if memory_limit is not None:
        options.refuse_for_rows()
    columns = replace(_columns(options), need_label=False)
    tables = _read(str(file), columns, quiet, estimator, encoder, memory_limit)
    if len(tables) > 1:
        raise ValueError(
            f"{file} holds the parts {', '.join(tables)}; save the rows to classify as a file of their own"
        )
    [table] = tables.values()
    if encoder is None:  # the model is given arrays, and would warn that they have no names
        vars(estimator).pop("feature_names_in_", None)
    if label is None and table.label is not None and not quiet:
        show(f"note    {table.label_name!r} is taken for a column of labels, by its name, and ignored", as_json=True)
    with counting_rows(table.values.shape[0], quiet) as on_rows:
        labels, class_probabilities = _predictions(estimator, table.values, probabilities, on_rows)
    if out is None:
        if not as_json:
            print_data(predictions_as_csv(labels, class_probabilities, estimator.classes_))
    elif out.suffix.lower() == ".npy":
        write_atomically(out, predictions_as_npy(labels if class_probabilities is None else class_probabilities))
    else:
        write_atomically(out, predictions_as_csv(labels, class_probabilities, estimator.classes_).encode())
    names, counts = np.unique(labels, return_counts=True)
    if out is not None:
        show(f"saved   {len(labels)} rows to {out}", as_json)
    if as_json:
        printed = out is None
        result = {
            "data": str(file), "estimator": type(estimator).__name__, "model": str(model), "rows": len(labels),
            "counts": dict(zip(map(str, names), counts.tolist(), strict=True)), "out": None if printed else str(out),
            "predictions": labels.tolist() if printed else None,
            "probabilities": class_probabilities.tolist() if printed and class_probabilities is not None else None,
            "classes": estimator.classes_.tolist(),
        }  # fmt: skip
        print_json(result)


def _predictions(estimator: Any, X: Any, probabilities: bool, on_rows: Callable[[int], Any]) -> tuple[Any, Any | None]:
    """The label of each row and, if asked for, its probabilities, in parts, with the number of rows that are done."""
    import numpy as np

    n, d = X.shape
    step = max(1, AT_ONCE // max(d, len(estimator.classes_)))
    labels, found = [], []
    for first in range(0, n, step):
        part = X if step >= n else X[first : min(first + step, n)]
        labels.append(estimator.predict(part))
        if probabilities:
            found.append(estimator.predict_proba(part))
        on_rows(min(first + step, n))
    return np.concatenate(labels), np.concatenate(found) if probabilities else None


def _columns(options: FileOptions) -> Columns:
    """Return the columns that a command's options name."""
    from gpusoftmax.files.load import check_written
    from gpusoftmax.files.table import Columns

    check_written(options.separator, options.decimal)
    return Columns(
        options.label, drop=tuple(options.drop or ()), header=options.header, delimiter=options.separator,
        decimal=options.decimal,
    )  # fmt: skip


def _read(
    file: str, columns: Columns, quiet: bool, estimator: Any, encoder: Any, memory_limit: str | None
) -> dict[str, Table]:
    """The parts of a file, encoded, with the columns that the model needs, found by name if the model has names."""
    from gpusoftmax.files.load import as_raw, check_label, naming, path_of_labels, read_parts
    from gpusoftmax.rows.load import read_rows

    check_label(columns.label, source(file))
    if encoder is None:
        names = getattr(estimator, "feature_names_in_", None)
    else:
        names = encoder.used_columns if hasattr(encoder, "feature_names_in_") else None
        columns = replace(columns, raw=True, as_strings=_strings(encoder, columns))
    features = None if names is None else tuple(names)
    if memory_limit is not None and encoder is not None:
        raise ValueError("--memory-limit is not for a model of a table with text or gaps; leave it out")
    with reading(file, quiet):
        columns = replace(columns, features=features, n_features=estimator.coef_.shape[1])
        if memory_limit is None:
            tables = read_parts(source(file), columns)
        else:
            tables = read_rows(source(file), columns, memory_limit)
    if names is None and not quiet and any(table.feature_names is not None for table in tables.values()):
        show("note    the model has no column names: columns are used in the file's order", as_json=True)
    if encoder is None:
        return tables
    encoded = {}
    for part, table in tables.items():
        with naming(path_of_labels(source(file)), table):
            encoded[part] = replace(table, values=encoder.transform(as_raw(table.values, table.feature_names)))
    return encoded


def _strings(encoder: Any, columns: Columns) -> frozenset[str]:
    """Return the names of the columns to read as strings; without names, their positions in the file."""
    of_strings: frozenset[str] = encoder.string_columns
    if hasattr(encoder, "feature_names_in_"):
        return of_strings
    label = int(columns.label) if columns.label is not None and columns.is_position else None
    features = [
        i for i in range(len(encoder.columns_) + (label is not None)) if i != label
    ]  # the last one, if negative
    return frozenset(str(i) for i, name in zip(features, encoder.columns_, strict=False) if name in of_strings)
