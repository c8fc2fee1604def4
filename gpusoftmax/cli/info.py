"""gpusoftmax info and gradcheck."""

from __future__ import annotations

from typing import Annotated

import typer

from gpusoftmax.cli.options import AsJson, BackendName, Loss, Threads, app, print_json, show


@app.command(
    epilog="""Examples:

    gpusoftmax info

    gpusoftmax info --json

    gpusoftmax info --penalty 0.01 --rows 49000

    The JSON of --penalty has the keys C, l2, rows and classes.

    JSON keys: versions, backend, reason, device, threads, threads_from (where the number of threads comes from),
    backends (a dict: for cuda, cpu and numpy, yes or no and why), blas (a list), vector_features (those that the
    compiler uses), vector_bits (null without compiled kernels), caches (a dict: the folders of compiled kernels and
    data sets)."""
)
def info(
    threads: Threads = None,
    as_json: AsJson = False,
    penalty: Annotated[
        float | None,
        typer.Option("--penalty", metavar="C", help="print instead what this C corresponds to in other libraries"),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="with --penalty: the number of training rows")
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=2, help="with --penalty: the number of classes")] = 3,
) -> None:
    """Show versions, the backend that "auto" selects and why, and the libraries in use."""
    from gpusoftmax.checks.scalars import check_number
    from gpusoftmax.estimators.problem import l2_from_C
    from gpusoftmax.reports.machine import describe, in_words
    from gpusoftmax.reports.training import penalty_elsewhere

    if penalty is not None:
        if rows is None:
            raise ValueError(f"--penalty {penalty:g} depends on the number of training rows; give --rows as well")
        l2 = l2_from_C(check_number("--penalty", penalty, least=0, above=True), rows, classes)
        if as_json:
            print_json({"C": penalty, "l2": l2, "rows": rows, "classes": classes})
        else:
            print(penalty_elsewhere(l2, rows))
        return
    if rows is not None:
        raise ValueError("--rows is for --penalty; leave it out, or give both")
    facts = describe(threads)
    if as_json:
        print_json(facts)
    else:
        print(in_words(facts))


@app.command(
    epilog="""Examples:

    gpusoftmax gradcheck

    gpusoftmax gradcheck --loss hinge --l2 0.1 --checks 50

    JSON keys: loss, l2, worst (the largest relative error, except near kinks), records (a list with coordinate,
    numeric, analytic, relative_error, near_kink)."""
)
def gradcheck(
    loss: Annotated[Loss, typer.Option(help="the loss whose gradient is checked")] = Loss.softmax,
    l2: Annotated[float, typer.Option(min=0, help="strength of the penalty on the mean loss")] = 0.0,
    checks: Annotated[int, typer.Option(min=1, help="number of coordinates to compare")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="seed of the random weights and coordinates")] = 0,
    backend: BackendName = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare analytic gradients with central differences on 500 digits, in float64.

    Exits with code 1 if a relative error exceeds 1e-5; tiny values, and points near a kink of a hinge, are ignored.
    """
    from dataclasses import asdict

    import numpy as np

    from gpusoftmax.datasets import load_dataset
    from gpusoftmax.objective.gradcheck import gradient_check

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
        show(
            f"{place:12s} numeric {record.numeric:+.9f}  analytic {record.analytic:+.9f}  "
            f"relative error {record.relative_error:.1e}{kink}",
            as_json,
        )
    worst = max((r.relative_error for r in records if not r.near_kink and abs(r.numeric) > 1e-4), default=0.0)
    if as_json:
        print_json({"loss": loss, "l2": l2, "worst": worst, "records": [asdict(r) for r in records]})
    if worst > 1e-5:
        raise ValueError(f"the gradient of {loss} is wrong: relative error {worst:.1e}")
