"""gpusoftmax train."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Recipe,
    Report,
    Seed,
    SolverName,
    Test,
    Text,
    Threads,
    Validation,
    app,
    check_output,
    check_report,
    checkpoint_arguments,
    compile_first,
    indented,
    load,
    print_json,
    scaling_for,
    show,
    write_report,
)

if TYPE_CHECKING:
    from gpusoftmax.search.result import SweepResult


@app.command(
    epilog="""Examples:

    gpusoftmax train digits

    gpusoftmax train flowers.csv --label species --drop id --save flowers.safetensors

    gpusoftmax train messung.txt.gz --label Art --delimiter tab --decimal ,

    gpusoftmax train news.csv --label topic --text title --text body --save news.safetensors

    gpusoftmax train X.npy,y.npy --test X_test.npy,y_test.npy

    gpusoftmax train reviews.svm --test reviews-test.svm

    gpusoftmax train cifar10 --data ~/data --save model.safetensors

    gpusoftmax train cifar10 --data ~/data --C 0.001

    gpusoftmax train flowers.csv --label species --calibrate --report flowers.html

    gpusoftmax train cifar10 --data ~/data --recipe cs231n --loss hinge --seed 1

    gpusoftmax train digits --epochs 20 --batch-size 64

    gpusoftmax train cifar10 --data ~/data --checkpoint run.ckpt --save model.safetensors

    JSON keys: dataset, label (where the labels in a file come from, or null), encoded (what became of the columns of a
    table with text or gaps, or null), estimator, recipe, C, l2 (both null with a recipe), path (how C was chosen: a
    list of C, l2, objective, validation_loss, validation_accuracy, passes; empty if C was given), edge (smallest or
    largest if the best C is at that end of the values tried, else empty), train_accuracy, validation_accuracy,
    test_accuracy, loss (the last training objective, nats for softmax; null if no pass was completed), passes
    (including those for preconditioners), stop_reason, temperature (null without --calibrate), fit_report (solver,
    reason, n_iter, passes, seconds, objective, tol, gradient_norm, intercept_gradient_norm, bound, why_no_bound, kept;
    null if Ctrl-C came before the last fit), seconds (choosing and training), seconds_by_phase (compiling, choosing,
    training), backend, reason, threads, seed, model, report (paths or null)."""
)
def train(
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
    recipe: Annotated[
        Recipe | None,
        typer.Option(
            help="train as published; cs231n: the exercise of that course (1500 steps of 200 rows, not scaled)"
        ),
    ] = None,
    C: Annotated[
        float | None,
        typer.Option(
            "--C",
            help="inverse strength of the penalty, as in scikit-learn",
            show_default="chosen on the validation rows; with SGD 1",
        ),
    ] = None,
    solver: Annotated[
        SolverName,
        typer.Option(
            help="lbfgs: exact optimum; sgd: minibatches; auto: sgd with --loss hinge or an option of SGD, else lbfgs"
        ),
    ] = SolverName.auto,
    epochs: Annotated[int | None, typer.Option(min=1, help="for SGD: passes over the data", show_default="10")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="for SGD: rows per step", show_default="256")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="for SGD: the learning rate", show_default="from the largest curvature")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    backend: BackendName = "auto",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="divide the scores by the temperature with the smallest loss on the validation rows"
        ),
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="write the model to this file (safetensors)")
    ] = None,
    report: Report = None,
    memory_limit: MemoryLimit = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="also print what the penalty corresponds to in other libraries")
    ] = False,
) -> None:
    """Train on a data set or a file, and print the accuracy on its training, validation and test rows.

    By default this trains softmax on standardised features with L-BFGS, until no entry of the gradient exceeds 1e-4,
    and chooses the C with the smallest loss on the validation rows. Sparse features are not scaled.

    With --solver sgd, --loss hinge, or an option of SGD, it trains by SGD with Nesterov momentum for 10 epochs, with
    C = 1 by default. The learning rate is found from the data and follows a cosine schedule, and the weights with the
    smallest validation loss are kept.

    If the data come from a file, a fifth of each class is held out as validation rows and another fifth as test rows,
    unless --validation and --test say otherwise.

    With --checkpoint FILE, a run that was interrupted, terminated or killed continues where it stopped when the same
    command is run again, and gives the same model. A run that is finished gives its result at once.
    """
    from gpusoftmax.array import get_backend
    from gpusoftmax.estimators.classifiers import LinearSVMClassifier, SoftmaxClassifier
    from gpusoftmax.estimators.problem import l2_from_C
    from gpusoftmax.estimators.solver_choice import choose_solver
    from gpusoftmax.progress import progress_display
    from gpusoftmax.reports.training import (
        accuracies,
        accuracies_in_words,
        choice_in_words,
        dataset_in_words,
        keep_names,
        path_of,
        penalty_elsewhere,
        penalty_in_words,
        step_in_words,
        with_encoder,
    )
    from gpusoftmax.search.fit_path import fit_path

    for_sgd = {"--epochs": epochs, "--batch-size": batch_size, "--learning-rate": learning_rate}
    given = [name for name, value in for_sgd.items() if value is not None]
    fixed = [*given, *(["--C"] if C is not None else []), *(["--solver"] if solver is not SolverName.auto else [])]
    if recipe is not None and fixed:
        raise ValueError(
            f"{', '.join(fixed)} cannot be changed with --recipe {recipe}, which determines it; leave one out"
        )
    if recipe is not None and loss not in (Loss.softmax, Loss.hinge):
        raise ValueError(f"--recipe {recipe} is for --loss softmax or hinge, not {loss}")
    if solver is SolverName.lbfgs and given:
        raise ValueError(f"{', '.join(given)} is for --solver sgd; leave it out, or leave out --solver lbfgs")
    if recipe is not None and checkpoint is not None:
        raise ValueError(f"--checkpoint is not for --recipe {recipe}, which takes a minute at most; leave one out")
    if calibrate and loss is not Loss.softmax:
        raise ValueError(f"--calibrate is for probabilities, which --loss {loss} does not have; leave it out")
    check_output("--save", save, dataset, validation, test)  # checked before the work rather than after it
    check_report(report, dataset, validation, test, outputs=(save,))
    kept = checkpoint_arguments(checkpoint, checkpoint_every, dataset, validation, test, save, report, as_json=as_json)
    resolved_backend = get_backend(backend, threads)
    options = FileOptions(label, drop, header, delimiter, decimal, category, text)
    loaded = load(dataset, data, download, options, validation, test, seed, quiet, memory_limit)
    show(f"data    {dataset_in_words(loaded)}", as_json)
    show(
        f"device  {resolved_backend.device}, {resolved_backend.n_threads} threads "
        f"({resolved_backend.name}: {resolved_backend.reason})",
        as_json,
    )
    cls = SoftmaxClassifier if loss is Loss.softmax else LinearSVMClassifier
    scaling = scaling_for(loaded)
    if scaling is None and recipe is None and loaded.encoder is None:
        show("scaling none, since the features are sparse", as_json)
    model: Any = cls(
        C=C, loss=str(loss), scaling=scaling, solver="sgd" if epochs is not None else str(solver), random_state=seed,
        backend=resolved_backend, batch_size=batch_size, learning_rate=learning_rate, verbose=0 if quiet else 1,
    )  # fmt: skip
    sgd = choose_solver(model).name == "sgd"
    training, held_out = loaded.parts["train"], loaded.parts.get("validation")
    choosing = recipe is None and not sgd and C is None
    if calibrate and held_out is None:
        raise ValueError("there are no validation rows to calibrate with; give --validation, or leave out --calibrate")
    if choosing and held_out is None:
        raise ValueError("there are no validation rows to choose C by; give --C, or use gpusoftmax sweep with --cv 5")
    compiling = compile_first(resolved_backend, training[0], len(loaded.class_names), as_json, quiet)
    started = time.perf_counter()
    choice: SweepResult | None = None
    if recipe is not None:
        from gpusoftmax.protocols.cs231n import train_cs231n

        progress = None if quiet else progress_display()
        model = train_cs231n(*training, loss=str(loss), seed=seed, backend=resolved_backend, progress=progress)
    elif choosing:
        choice = fit_path(
            model,
            *training,
            validation=held_out,
            on_candidate=lambda step: show(step_in_words(step), as_json),
            **kept,
        )
        model = choice.best_estimator_
    elif sgd:
        model.set_params(schedule="cosine", max_iter=10 if epochs is None else epochs)
        model.fit(*training, validation=held_out, **kept)
    else:
        model.fit(*training, **kept)
    seconds = time.perf_counter() - started
    fitted = getattr(model, "fit_report_", None)  # None if Ctrl-C came before the last fit
    in_training = seconds if choice is None else fitted.seconds if fitted is not None else 0.0
    temperature = None
    if calibrate and fitted is not None:
        model, temperature = _calibrated(model, held_out, as_json)
        if choice is not None:
            choice.best_estimator_ = model
    measured = accuracies(model, loaded)
    keep_names(model, loaded)
    if save is not None:
        from gpusoftmax.models import save_model

        save_model(with_encoder(model, loaded), save)
    strength, l2 = None, None
    if choice is not None:
        show(choice_in_words(choice, seconds - in_training), as_json)
    if recipe is None:
        n, strength = len(loaded.y_train), model.C or 1.0
        l2 = l2_from_C(strength, n, len(model.classes_))
        show(f"penalty {penalty_in_words(strength, l2)}", as_json)
        if verbose and l2:
            show(indented(f"        {penalty_elsewhere(l2, n)}"), as_json)
    stopped = model.stop_reason_ == "interrupted" or (choice is not None and choice.interrupted_)
    outcome = "interrupted before the last fit" if fitted is None else str(fitted)
    show(indented(f"fit     {outcome}"), as_json)
    show(f"accuracy  {accuracies_in_words(measured)}", as_json)
    if save is not None:
        show(f"saved   {save}", as_json)
    if report is not None:
        chosen = choice is not None and choice.best_estimator_ is not None
        write_report(choice if chosen else model, report, as_json, quiet, data=loaded)
    if as_json:
        last = model.history_[-1] if model.history_ else None  # None if Ctrl-C came within SGD's first epoch
        print_json(
            {
                "dataset": loaded.name, "label": loaded.label_name,
                "encoded": None if loaded.encoder is None else loaded.encoder.report_,
                "estimator": type(model).__name__, "recipe": recipe, "C": strength, "l2": l2,
                "path": [] if choice is None else path_of(choice, len(loaded.y_train)),
                "edge": "" if choice is None else choice.edges_.get("C", ""),
                **measured, "fit_report": None if fitted is None else fitted.as_dict(),
                "loss": last.objective if last else None, "passes": last.passes if last else 0,
                "stop_reason": model.stop_reason_, "temperature": temperature, "seconds": seconds,
                "seconds_by_phase": {
                    "compiling": compiling, "choosing": seconds - in_training, "training": in_training
                },
                "backend": resolved_backend.name, "reason": resolved_backend.reason,
                "threads": resolved_backend.n_threads, "seed": seed,
                "model": None if save is None else str(save),
                "report": None if report is None else str(report),
            }
        )  # fmt: skip
    if stopped:
        raise typer.Exit(130)


def _calibrated(model: Any, held_out: Any, as_json: bool) -> tuple[Any, float | None]:
    """Return the model with its best temperature, and that; the model as it is if none is best."""
    from gpusoftmax.estimators.temperature import scale_temperature
    from gpusoftmax.reports.accuracy import measure

    try:
        scaled = scale_temperature(model, *held_out)
    except ValueError as error:
        show(f"temperature  1, unchanged: {error}", as_json)
        return model, None
    before, after = (measure(one, *held_out) for one in (model, scaled))
    assert before.reliability is not None
    assert after.reliability is not None
    show(
        f"temperature  {scaled.temperature_:.4g}: validation log loss {before.log_loss:.4f} -> {after.log_loss:.4f}, "
        f"calibration error {before.reliability.error:.2%} -> {after.reliability.error:.2%}",
        as_json,
    )
    return scaled, scaled.temperature_
