"""The command line. Imports that take time are made inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Linear softmax classifiers and SVMs: one read of the data per step.

    `gpusoftmax train digits` trains on a data set that is already there. Exit codes: 0 done, 1 failed (the reason is
    on the standard error), 2 an option that is unknown or cannot be read, 130 interrupted.""",
)


GRID = [float(f"{10.0 ** (half / 2):.1g}") for half in range(-10, 7)]  # 1e-5, 3e-5, 1e-4, ..., 1e3
WORSE = 2  # values of C in a row that scored worse, after which weaker penalties are not tried any more


class Loss(StrEnum):
    """What --loss takes."""

    softmax = "softmax"
    hinge = "hinge"
    squared_hinge = "squared_hinge"


class SolverName(StrEnum):
    """What --solver takes."""

    auto = "auto"
    lbfgs = "lbfgs"
    sgd = "sgd"


class Scoring(StrEnum):
    """What --scoring takes."""

    accuracy = "accuracy"
    log_loss = "log_loss"
    loss = "loss"


class Rule(StrEnum):
    """What --rule takes."""

    best = "best"
    one_standard_error = "1se"


class Recipe(StrEnum):
    """What --recipe takes."""

    cs231n = "cs231n"


DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="digits or cifar10")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="for cifar10: the folder of the batches (cifar-10-batches-py or -bin) or its parent",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; results do not depend on them", show_default="all")
]
BackendName = Annotated[str, typer.Option("--backend", help="auto, cpu, numpy, cuda or cuda:N")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on the standard output, nothing else there")]


def _show(text: str, as_json: bool) -> None:
    """Words for a person: on the standard error where the standard output belongs to JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


@app.command(
    epilog="""Examples:

    gpusoftmax train digits

    gpusoftmax train cifar10 --data ~/data --save model.safetensors

    gpusoftmax train cifar10 --data ~/data --C 0.001

    gpusoftmax train cifar10 --data ~/data --recipe cs231n --loss hinge --seed 1

    gpusoftmax train digits --epochs 20 --batch-size 64

    JSON keys: dataset, estimator, recipe, C, l2 (both null with a recipe), path (a list of C, l2, objective,
    validation_loss, validation_accuracy, passes: how C was chosen; empty if it was given), edge (smallest or largest if
    the best C is at the end of what was tried, else empty), train_accuracy, validation_accuracy, test_accuracy, loss
    (the last training objective, nats for softmax), passes (with those that preconditioners took), stop_reason,
    fit_report (solver, reason, n_iter, passes, seconds, objective, tol, gradient_norm, intercept_gradient_norm, bound,
    why_no_bound, kept), seconds (choosing and training), backend, reason, threads, seed, model (path or null)."""
)
def train(
    dataset: DatasetName,
    data: Data = None,
    loss: Annotated[Loss, typer.Option(help="softmax, or a multiclass SVM with either hinge")] = Loss.softmax,
    recipe: Annotated[
        Recipe | None,
        typer.Option(help="a training described elsewhere; cs231n: the course's exercise (1500 steps of 200 raw rows)"),
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
        typer.Option(help="lbfgs: the exact optimum; sgd: minibatches; auto: sgd for the hinge and with its options"),
    ] = SolverName.auto,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes of SGD over the data", show_default="10")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="rows a step of SGD", show_default="256")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="of SGD", show_default="from the largest curvature")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="of everything that is random")] = 0,
    threads: Threads = None,
    backend: BackendName = "auto",
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="write the model (safetensors)")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train on a data set and print the accuracy on its training, validation and test rows.

    By default: softmax, features standardised (by folding: the data stay as they are), the optimum for the training
    rows, to a gradient of 1e-4, at the C with the smallest loss on the validation rows. With SGD (--solver sgd, --loss
    hinge, or any of its options): Nesterov momentum over 10 passes at C = 1, the learning rate found from the data and
    lowered along a cosine, the weights with the smallest validation loss kept.
    """
    from gpusoftmax.array import resolve
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.estimators import LinearSVMClassifier, SoftmaxClassifier
    from gpusoftmax.persist import save_model
    from gpusoftmax.problem import l2_from_C
    from gpusoftmax.progress import progress_display
    from gpusoftmax.recipes import train_cs231n
    from gpusoftmax.report import (
        accuracies,
        accuracies_in_words,
        dataset_in_words,
        path_of,
        penalty_in_words,
        step_in_words,
    )
    from gpusoftmax.search.result import SweepResult
    from gpusoftmax.search.sweeping import sweep

    if recipe is not None and solver is not SolverName.auto:
        raise ValueError(f"--solver cannot be changed with --recipe {recipe}, which fixes it; leave one out")
    for_sgd = {"--epochs": epochs, "--batch-size": batch_size, "--learning-rate": learning_rate}
    given = [name for name, value in for_sgd.items() if value is not None]
    if solver is SolverName.lbfgs and given:
        raise ValueError(f"{', '.join(given)} is for --solver sgd; leave it out, or leave out --solver lbfgs")
    if solver is SolverName.auto:
        solver = SolverName.sgd if given or loss is Loss.hinge else SolverName.lbfgs
    given += ["--C"] if C is not None else []
    if recipe is not None and given:
        raise ValueError(f"{', '.join(given)} cannot be changed with --recipe {recipe}, which fixes it; leave one out")
    if recipe is not None and loss is Loss.squared_hinge:
        raise ValueError(f"--recipe {recipe} knows --loss softmax and hinge")
    if save is not None and save.is_dir():  # before the work, not after it
        raise IsADirectoryError(f"--save {save} is a folder; name a file in it")
    if save is not None and not save.absolute().parent.is_dir():
        raise FileNotFoundError(f"--save {save}: the folder {save.absolute().parent} does not exist; make it first")
    device = resolve(backend, threads)
    loaded = load_dataset(dataset, data)
    _show(f"data    {dataset_in_words(loaded)}", as_json)
    _show(f"device  {device.device}, {device.n_threads} threads ({device.name}: {device.reason})", as_json)
    started = time.perf_counter()
    choice: SweepResult | None = None
    training, validation = (loaded.X_train, loaded.y_train), (loaded.X_validation, loaded.y_validation)
    if recipe is not None:
        progress = None if quiet else progress_display()
        model = train_cs231n(*training, loss=str(loss), seed=seed, backend=device, progress=progress)
    else:
        common: dict[str, Any] = {
            "loss": str(loss), "scaling": "standard", "solver": str(solver), "random_state": seed, "backend": device,
            "verbose": 0 if quiet else 1,
        }  # fmt: skip
        if solver is SolverName.lbfgs and C is None:
            choice = sweep(
                *training, {"C": GRID}, validation=validation, scoring="loss", patience=WORSE,
                on_candidate=lambda step: _show(step_in_words(step), as_json), **common,
            )  # fmt: skip
            model = choice.best_estimator_
        else:
            cls = SoftmaxClassifier if loss is Loss.softmax else LinearSVMClassifier
            model = cls(C=C, **common)
            if solver is SolverName.sgd:
                model.set_params(
                    schedule="cosine", max_iter=epochs or 10, batch_size=batch_size or "auto",
                    learning_rate="auto" if learning_rate is None else learning_rate,
                )  # fmt: skip
            model.fit(*training, validation=validation if solver is SolverName.sgd else None)
    seconds = time.perf_counter() - started
    measured = accuracies(model, loaded)
    if save is not None:
        save_model(model, save)
    strength, l2 = None, None
    if recipe is None:
        n, strength = len(loaded.y_train), model.C or 1.0
        l2 = l2_from_C(strength, n, len(model.classes_))
        _show(penalty_in_words(strength, l2, n, choice), as_json)
    stopped = model.stop_reason_ == "interrupted" or (choice is not None and choice.interrupted_)
    interrupted = " (interrupted)" if stopped else ""
    _show(f"loss    {model.loss_curve_[-1]:.4f} after {model.n_iter_} passes in {seconds:.2f} s{interrupted}", as_json)
    if model.fit_report_.bound is not None:
        _show(f"fit     {model.fit_report_}".replace("\n", "\n        "), as_json)
    _show(f"accuracy  {accuracies_in_words(measured)}", as_json)
    if save is not None:
        _show(f"saved   {save}", as_json)
    if as_json:
        result: dict[str, Any] = {
            "dataset": loaded.name, "estimator": type(model).__name__, "recipe": recipe,
            "C": strength, "l2": l2,
            "path": [] if choice is None else path_of(choice, len(loaded.y_train)),
            "edge": "" if choice is None else choice.edges_.get("C", ""),
            **measured, "fit_report": model.fit_report_.as_dict(),
            "loss": model.loss_curve_[-1], "passes": model.history_[-1].passes, "stop_reason": model.stop_reason_,
            "seconds": seconds, "backend": device.name, "reason": device.reason, "threads": device.n_threads,
            "seed": seed, "model": None if save is None else str(save),
        }  # fmt: skip
        print(json.dumps(result))
    if interrupted:
        raise typer.Exit(130)


@app.command(
    name="sweep",
    epilog="""Examples:

    gpusoftmax sweep digits --C 1e-3:1e2:11

    gpusoftmax sweep cifar10 --data ~/data --C 1e-5:1e-1:20 --cv 5 --out results

    gpusoftmax sweep cifar10 --data ~/data --C 1e-5:1e-1:20 --scoring log_loss --rule 1se --cv 5

    gpusoftmax sweep digits --learning-rate 1e-3:1:8 --C 0.01,0.1,1 --epochs 30 --halving 2

    A range START:STOP:COUNT has equal ratios. --out writes table.csv (every configuration), report.txt,
    model.safetensors (the best, fitted to all training rows) and scores.png, for one or two parameters that vary.
    Ctrl-C ends the sweep and keeps what is done.

    JSON keys: dataset, estimator, candidates (a list of their parameters, score, accuracy, loss, objective, passes,
    status), scoring, rule, splits, best (its parameters), score, ties (a list of indices), edges (parameter: smallest
    or largest), train_accuracy, validation_accuracy, test_accuracy, seconds, interrupted, backend, reason, threads,
    seed, files (a list of paths).""",
)
def sweep_command(
    dataset: DatasetName,
    data: Data = None,
    loss: Annotated[Loss, typer.Option(help="softmax, or a multiclass SVM with either hinge")] = Loss.softmax,
    C: Annotated[
        str | None,
        typer.Option(
            "--C", metavar="RANGE", help="START:STOP:COUNT or a list 0.1,1,10", show_default="1e-5 to 1e3; with SGD 1"
        ),
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option(metavar="RANGE", help="the same, of SGD", show_default="from the largest curvature")
    ] = None,
    momentum: Annotated[str | None, typer.Option(metavar="RANGE", help="the same, of SGD", show_default="0.9")] = None,
    cv: Annotated[
        int | None,
        typer.Option(min=2, help="folds of the training rows", show_default="the data set's validation rows"),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="the first training rows alone", show_default="all")] = None,
    scoring: Annotated[
        Scoring, typer.Option(help="what the best has most of; log_loss and loss count negated")
    ] = Scoring.accuracy,
    rule: Annotated[
        Rule, typer.Option(help="1se (with --cv): the strongest penalty within a standard error of the best")
    ] = Rule.best,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes of SGD over the data", show_default="10")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="rows a step of SGD", show_default="256")] = None,
    halving: Annotated[
        int | None, typer.Option(min=2, help="of SGD: keep 1 in so many at each rung, for as many times more passes")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="of everything that is random")] = 0,
    threads: Threads = None,
    backend: BackendName = "auto",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="a folder for table, model and plot")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train every combination of C, learning rate and momentum, on every fold, and print which is best.

    Features are standardised, by folding, each fold by its own rows. The exact solver goes along all values of C at
    once; a learning rate or momentum makes it SGD, whose configurations take their steps side by side.
    """
    from dataclasses import replace

    from gpusoftmax.array import resolve
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.report import accuracies, accuracies_in_words, dataset_in_words, write_sweep
    from gpusoftmax.search.grid import values_of
    from gpusoftmax.search.sweeping import sweep

    ranges = {"C": C, "learning_rate": learning_rate, "momentum": momentum}
    grid = {name: values_of(f"--{name.replace('_', '-')}", text) for name, text in ranges.items() if text is not None}
    options: dict[str, Any] = {
        name: value for name, value in {"batch_size": batch_size, "max_iter": epochs}.items() if value is not None
    }
    sgd = loss is Loss.hinge or bool(options) or "learning_rate" in grid or "momentum" in grid
    if sgd:
        options = {"max_iter": 10, "schedule": "cosine", "solver": "sgd", **options}
    if halving is not None and not sgd:
        raise ValueError(f"--halving {halving} is for SGD: give --learning-rate, --momentum or --epochs, too")
    if out is not None:  # before the work, not after it
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"--out {out} is a file; name a folder")
        out.mkdir(parents=True, exist_ok=True)
    device = resolve(backend, threads)
    loaded = load_dataset(dataset, data)
    X, y = loaded.X_train[:rows], loaded.y_train[:rows]
    if (seen := len(set(y.tolist()))) < len(loaded.class_names):
        raise ValueError(f"--rows {rows}: these rows hold {seen} of {len(loaded.class_names)} classes; take more")
    loaded = replace(loaded, X_train=X, y_train=y)
    _show(f"data    {dataset_in_words(loaded)}", as_json)
    _show(f"device  {device.device}, {device.n_threads} threads ({device.name}: {device.reason})", as_json)
    result = sweep(
        X, y, grid or {"C": [1.0] if sgd else GRID}, cv=cv,
        validation=None if cv else (loaded.X_validation, loaded.y_validation),
        scoring=str(scoring), rule=str(rule), halving=halving, verbose=0 if quiet else 1, loss=str(loss),
        scaling="standard", random_state=seed, backend=device, **options,
    )  # fmt: skip
    _show(result.report, as_json)
    measured = accuracies(result.best_estimator_, loaded)
    _show(f"accuracy  {accuracies_in_words(measured)}", as_json)
    files = [] if out is None else write_sweep(result, out, lambda text: _show(text, as_json))
    if as_json:
        print(
            json.dumps(
                {
                    "dataset": loaded.name, "estimator": type(result.best_estimator_).__name__,
                    "candidates": result.rows, "scoring": result.scoring, "rule": result.rule,
                    "splits": result.n_splits_, "best": result.best_params_, "score": result.best_score_,
                    "ties": result.ties_, "edges": result.edges_, **measured, "seconds": result.seconds_,
                    "interrupted": result.interrupted_, "backend": device.name, "reason": device.reason,
                    "threads": device.n_threads, "seed": seed, "files": [str(path) for path in files],
                }
            )
        )  # fmt: skip
    if result.interrupted_:
        raise typer.Exit(130)


@app.command(
    epilog="""Example:

    gpusoftmax evaluate model.safetensors cifar10 --data ~/data

    JSON keys: dataset, estimator, train_accuracy, validation_accuracy, test_accuracy, model."""
)
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a file that train --save wrote")],
    dataset: DatasetName,
    data: Data = None,
    threads: Threads = None,
    backend: BackendName = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a saved model on a data set."""
    from gpusoftmax.array import resolve
    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.persist import load_model
    from gpusoftmax.report import accuracies, accuracies_in_words, dataset_in_words

    estimator = load_model(model).set_params(backend=resolve(backend, threads))
    loaded = load_dataset(dataset, data)
    _show(f"data    {dataset_in_words(loaded)}", as_json)
    measured = accuracies(estimator, loaded)
    _show(f"accuracy  {accuracies_in_words(measured)}", as_json)
    if as_json:
        result = {"dataset": loaded.name, "estimator": type(estimator).__name__, **measured, "model": str(model)}
        print(json.dumps(result))


@app.command(
    epilog="JSON keys: versions, backend, reason, device, threads, blas (a list), vector_features (of the compiler)."
)
def info(threads: Threads = None, as_json: AsJson = False) -> None:
    """Show versions, the device that would compute and why, and the libraries beneath."""
    from gpusoftmax.info import describe, in_words

    facts = describe(threads)
    print(json.dumps(facts) if as_json else in_words(facts))


@app.command(
    epilog="""Examples:

    gpusoftmax gradcheck

    gpusoftmax gradcheck --loss hinge --l2 0.1 --checks 50

    JSON keys: loss, l2, worst (the largest relative error away from kinks), records (a list with coordinate, numeric,
    analytic, relative_error, near_kink)."""
)
def gradcheck(
    loss: Annotated[Loss, typer.Option(help="whose gradient")] = Loss.softmax,
    l2: Annotated[float, typer.Option(min=0, help="penalty on the mean objective")] = 0.0,
    checks: Annotated[int, typer.Option(min=1, help="coordinates to compare")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="of weights and coordinates")] = 0,
    backend: BackendName = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare analytic gradients on 500 digits with central differences, in float64.

    Fails (exit code 1) where a relative error exceeds 1e-5, tiny values and kinks of the hinges apart.
    """
    from dataclasses import asdict

    import numpy as np

    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.gradcheck import gradient_check

    digits = load_dataset("digits")
    rng = np.random.default_rng(seed)
    W, b = 0.01 * rng.standard_normal((digits.X_train.shape[1], 10)), 0.01 * rng.standard_normal(10)
    records = gradient_check(
        digits.X_train[:500],
        digits.y_train[:500],
        W,
        b,
        n_checks=checks,
        seed=seed,
        l2=l2,
        loss=str(loss),
        backend=backend,
    )
    for record in records:
        place = f"{record.coordinate[0]}[{', '.join(map(str, record.coordinate[1:]))}]"
        kink = "  near a kink" if record.near_kink else ""
        _show(
            f"{place:12s} numeric {record.numeric:+.9f}  analytic {record.analytic:+.9f}  "
            f"relative error {record.relative_error:.1e}{kink}",
            as_json,
        )
    worst = max((r.relative_error for r in records if not r.near_kink and abs(r.numeric) > 1e-4), default=0.0)
    if as_json:
        print(json.dumps({"loss": loss, "l2": l2, "worst": worst, "records": [asdict(r) for r in records]}))
    if worst > 1e-5:
        raise ValueError(f"the gradient of {loss} is wrong: relative error {worst:.1e}")


def main() -> None:
    """The entry point: a user's error is one line on the standard error, not a traceback."""
    from gpusoftmax.exceptions import BackendUnavailableError, DivergenceError

    logging.getLogger("gpusoftmax").addHandler(logging.StreamHandler())  # warnings, such as that Ctrl-C was heard
    try:
        app()
    except (ValueError, TypeError, OSError, MemoryError, BackendUnavailableError, DivergenceError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
