"""gpusoftmax sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gpusoftmax.cli.options import (
    FRACTION,
    AsJson,
    BackendName,
    Category,
    Checkpoint,
    CheckpointEvery,
    Data,
    DatasetName,
    Decimal,
    Delimiter,
    Download,
    Drop,
    FileOptions,
    Header,
    Label,
    Loss,
    MemoryLimit,
    Quiet,
    Report,
    Rule,
    Scoring,
    Seed,
    Test,
    Text,
    Threads,
    Validation,
    app,
    check_output,
    check_report,
    checkpoint_arguments,
    compile_first,
    is_file,
    load,
    print_json,
    scaling_for,
    show,
    write_report,
)


@app.command(
    name="sweep",
    epilog="""Examples:

    gpusoftmax sweep digits --C 1e-3:1e2:11

    gpusoftmax sweep flowers.csv --label species --cv 5 --out results

    gpusoftmax sweep cifar10 --data ~/data --C 1e-5:1e-1:20 --cv 5 --out results

    gpusoftmax sweep cifar10 --data ~/data --C 1e-5:1e-1:20 --scoring log_loss --rule 1se --cv 5

    gpusoftmax sweep cifar10 --data ~/data --C auto --scoring log_loss --cv 5

    gpusoftmax sweep digits --learning-rate 1e-3:1:8 --C 0.01,0.1,1 --epochs 30 --halving 2

    gpusoftmax sweep cifar10 --data ~/data --cv 5 --checkpoint sweep.ckpt --out results

    gpusoftmax sweep digits --cv 5 --report digits.html

    A range START:STOP:COUNT has equal ratios. --C auto finds the values: C grows by factors of ten from where the model
    is constant until the score no longer gains; then the intervals next to the best C are halved until the scores of
    its neighbours are within a quarter of the standard error. --out writes table.csv (all configurations), report.txt,
    model.safetensors (the best one, fitted to all training rows) and, if one or two parameters vary, scores.png. Ctrl-C
    ends the sweep and keeps the results so far.

    JSON keys: dataset, label (where the labels in a file come from, or null), encoded (what became of the columns of a
    table with text or gaps, or null), estimator, candidates (a list with the parameters, score, accuracy, loss,
    objective, passes and status of each), scoring, rule, splits, best (parameters of the best candidate), score, ties
    (a list of indices), edges (parameter: smallest or largest), train_accuracy, validation_accuracy, test_accuracy,
    seconds, interrupted, report (path or null), backend, reason, threads, seed, files (a list of paths).""",
)
def sweep_command(
    dataset: DatasetName,
    data: Data = None,
    download: Download = False,
    label: Label = None,
    drop: Drop = None,
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    category: Category = None,
    text: Text = None,
    validation: Validation = FRACTION,
    test: Test = FRACTION,
    loss: Annotated[Loss, typer.Option(help="softmax, or a multiclass SVM with hinge or squared_hinge")] = Loss.softmax,
    C: Annotated[
        str | None,
        typer.Option(
            "--C",
            metavar="RANGE",
            help="inverse strength of the penalty: START:STOP:COUNT, a list such as 0.1,1,10, or auto: find the values",
            show_default="1e-5 to 1e3; with SGD 1",
        ),
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(
            metavar="RANGE", help="for SGD: learning rates, written like --C", show_default="from the largest curvature"
        ),
    ] = None,
    momentum: Annotated[
        str | None, typer.Option(metavar="RANGE", help="for SGD: values, written like --C", show_default="0.9")
    ] = None,
    cv: Annotated[
        int | None,
        typer.Option(
            min=2, help="score on this many folds of the training rows", show_default="score on the validation rows"
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=2, help="use only this many training rows", show_default="all")
    ] = None,
    scoring: Annotated[
        Scoring, typer.Option(help="the score to maximise; log_loss and loss are negated")
    ] = Scoring.accuracy,
    rule: Annotated[
        Rule, typer.Option(help="1se (with --cv): choose the strongest penalty within one standard error of the best")
    ] = Rule.best,
    epochs: Annotated[int | None, typer.Option(min=1, help="for SGD: passes over the data", show_default="10")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="for SGD: rows per step", show_default="256")] = None,
    halving: Annotated[
        int | None,
        typer.Option(
            min=2, help="for SGD: keep the best 1 in N after a few epochs, train them N times longer, and repeat"
        ),
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    backend: BackendName = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="write the table, model and plot to this folder")
    ] = None,
    report: Report = None,
    memory_limit: MemoryLimit = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train every combination of C, learning rate and momentum on every fold, and print the best.

    Features are standardised with the training rows of each fold, unless they are sparse. Tables with text or gaps are
    encoded once, with all training rows. By default the solver is L-BFGS, which finds the exact optimum for each C.
    With --learning-rate, --momentum or --epochs it is SGD, which trains all configurations together.

    With --checkpoint FILE, a sweep that was interrupted, terminated or killed continues where it stopped when the same
    command is run again, and gives the same result. Models that were trained before are only measured again.
    """
    from dataclasses import replace

    from gpusoftmax.array import get_backend
    from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
    from gpusoftmax.estimators.solver_choice import choose_solver
    from gpusoftmax.reports.training import (
        SPLITS,
        SWEEP_FILES,
        accuracies,
        accuracies_in_words,
        dataset_in_words,
        keep_names,
        write_sweep,
    )
    from gpusoftmax.search.fit_path import PENALTIES
    from gpusoftmax.search.grid import AUTO, values_of
    from gpusoftmax.search.sweep import sweep

    ranges = {"C": C, "learning_rate": learning_rate, "momentum": momentum}
    grid: dict[str, Any] = {
        name: AUTO if name == "C" and text == AUTO else values_of(f"--{name.replace('_', '-')}", text)
        for name, text in ranges.items()
        if text is not None
    }
    cls = SoftmaxClassifier if loss is Loss.softmax else LinearSVMClassifier
    resolved_backend = get_backend(backend, threads)
    estimator = cls(
        loss=str(loss), solver="auto" if epochs is None else "sgd", batch_size=batch_size,
        random_state=seed, backend=resolved_backend,
    )  # fmt: skip
    sgd = choose_solver(estimator, grid).name == "sgd"
    if sgd:
        estimator.set_params(max_iter=10 if epochs is None else epochs, schedule="cosine")
    if sgd and C == AUTO:
        raise ValueError(
            "--C auto is for L-BFGS; leave out --learning-rate, --momentum, --epochs and --loss hinge, or give values"
        )
    if halving is not None and not sgd:
        raise ValueError(f"--halving {halving} is for SGD: give --learning-rate, --momentum or --epochs as well")
    if out is not None:  # checked before the work rather than after it
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"--out {out} is a file; name a folder")
        out.mkdir(parents=True, exist_ok=True)
        for name in SWEEP_FILES:
            check_output("--out", out / name, dataset, validation, test)
    check_report(report, dataset, validation, test)
    kept = checkpoint_arguments(checkpoint, checkpoint_every, dataset, validation, test, report, as_json=as_json)
    if cv is not None and validation == FRACTION and is_file(dataset):
        validation = "0"  # the folds replace it
    options = FileOptions(label, drop, header, delimiter, decimal, category, text)
    loaded = load(dataset, data, download, options, validation, test, seed, quiet, memory_limit)
    estimator.set_params(scaling=scaling_for(loaded))
    X, y = loaded.X_train, loaded.y_train
    if rows is not None:
        X, y = X[:rows], y[:rows]
    if (found := len(set(y.tolist()))) < len(loaded.class_names):
        raise ValueError(f"--rows {rows}: these rows hold {found} of {len(loaded.class_names)} classes; take more")
    loaded = replace(loaded, X_train=X, y_train=y)
    held_out = loaded.parts.get("validation")
    if cv is None and held_out is None:
        raise ValueError("there are no validation rows to score on; give --validation, or --cv 5")
    show(f"data    {dataset_in_words(loaded)}", as_json)
    show(
        f"device  {resolved_backend.device}, {resolved_backend.n_threads} threads "
        f"({resolved_backend.name}: {resolved_backend.reason})",
        as_json,
    )
    compile_first(resolved_backend, X, len(loaded.class_names), as_json, quiet)
    result = sweep(
        estimator, grid or {"C": [1.0] if sgd else PENALTIES}, X, y, cv=cv, validation=None if cv else held_out,
        scoring=str(scoring), rule=str(rule), halving=halving, verbose=0 if quiet else 1, **kept,
    )  # fmt: skip
    show(result.report, as_json)
    measured: dict[str, Any] = dict.fromkeys(f"{split}_accuracy" for split in SPLITS)
    if result.best_estimator_ is not None:  # None if Ctrl-C came before it was fitted
        measured = accuracies(result.best_estimator_, loaded)
        keep_names(result.best_estimator_, loaded)
        show(f"accuracy  {accuracies_in_words(measured)}", as_json)
    files = [] if out is None else write_sweep(result, loaded, out, lambda text: show(text, as_json))
    if report is not None and result.best_estimator_ is None:
        show("report  none: the sweep was interrupted before its best model was fitted", as_json)
    elif report is not None:
        write_report(result, report, as_json, quiet, data=loaded)
        files.append(report)
    if as_json:
        print_json(
            {
                "dataset": loaded.name, "label": loaded.label_name,
                "encoded": None if loaded.encoder is None else loaded.encoder.report_,
                "estimator": type(result.estimators_[0]).__name__,
                "candidates": result.rows, "scoring": result.scoring, "rule": result.rule,
                "splits": result.n_splits_, "best": result.best_params_, "score": result.best_score_,
                "ties": result.ties_, "edges": result.edges_, **measured, "seconds": result.seconds_,
                "interrupted": result.interrupted_,
                "report": None if report is None else str(report), "backend": resolved_backend.name,
                "reason": resolved_backend.reason, "threads": resolved_backend.n_threads, "seed": seed,
                "files": [str(path) for path in files],
            }
        )  # fmt: skip
    if result.interrupted_:
        raise typer.Exit(130)
