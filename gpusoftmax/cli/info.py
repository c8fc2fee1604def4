"""gpusoftmax info and gradcheck."""

from __future__ import annotations

from typing import Annotated

import typer

from gpusoftmax.cli.options import AsJson, BackendName, Loss, Threads, app, print_json, show


@app.command(
    epilog="""Examples:

    gpusoftmax info

    gpusoftmax info --json

    JSON keys: versions, backend, reason, device, threads, threads_from (in words), backends (a dict: cuda, cpu, numpy,
    each with yes or no and why), blas (a list), vector_features (of the compiler), vector_bits (null without compiled
    kernels), caches (a dict: where kernels and data sets are kept)."""
)
def info(threads: Threads = None, as_json: AsJson = False) -> None:
    """Show versions, the device that would compute and why, and the libraries beneath."""
    from gpusoftmax.reports.machine import describe, in_words

    facts = describe(threads)
    if as_json:
        print_json(facts)
    else:
        print(in_words(facts))


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
