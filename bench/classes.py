#!/usr/bin/env python3
"""How do time and memory grow with the number of classes, from fit to model file?

For each number of classes c, ours and scikit-learn's LogisticRegression each run in a process of their own, on the same
Gaussian clusters: 32 features in float32 and two rows a class, but at least 4000 and at most `--most-rows` rows. Each
step of the work is timed once, after a warm-up on 300 rows:

    fit             to tol 1e-4, C = 1, the certificate included
    fit smoothed    with label_smoothing=0.1 (ours alone)
    predict, predict_proba    of all rows
    measure         accuracy, top-5, recall of each class and log loss, of all rows
    save, load      the model file: safetensors, joblib's for scikit-learn

Memory is what the process's high-water mark rises by during the fit. Who takes longer than `--budget` seconds for one
number of classes is stopped; the steps that were done count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine

CLASSES = (2, 10, 100, 1000, 3000, 10000, 20000)
FEATURES, LEAST_ROWS = 32, 4000
NAMES = ("gpusoftmax", "scikit-learn")
STEPS = ("fit", "fit MB", "fit smoothed", "predict", "predict_proba", "measure", "save", "load", "file MB")


def data(c: int, most_rows: int) -> tuple[Any, Any]:
    """Rows of Gaussian clusters, and their labels; each class has at least one row."""
    rng, n = np.random.default_rng(0), max(c, min(most_rows, max(LEAST_ROWS, 2 * c)))
    y = np.arange(n) % c
    X = rng.standard_normal((c, FEATURES))[y] + rng.standard_normal((n, FEATURES))
    return X.astype(np.float32), y


def steps_of_ours(X: Any, y: Any, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Ours, step by step."""
    from gpusoftmax import SoftmaxClassifier, load_model, save_model
    from gpusoftmax.reports.accuracy import measure

    model = SoftmaxClassifier()
    yield "fit", lambda: model.fit(X, y)
    yield "predict", lambda: model.predict(X)
    yield "predict_proba", lambda: model.predict_proba(X)
    yield "measure", lambda: measure(model, X, y)
    yield "save", lambda: save_model(model, path)
    yield "load", lambda: load_model(path)
    yield "fit smoothed", lambda: SoftmaxClassifier(label_smoothing=0.1).fit(X, y)


def steps_of_sklearn(X: Any, y: Any, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """scikit-learn's, step by step."""
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score

    model = LogisticRegression(max_iter=1000)

    def measure() -> None:
        p = model.predict_proba(X)
        predicted = model.classes_[p.argmax(axis=1)]
        accuracy_score(y, predicted)
        recall_score(y, predicted, average=None)
        log_loss(y, p)
        if len(model.classes_) > 5:
            top_k_accuracy_score(y, p, k=5)

    yield "fit", lambda: model.fit(X, y)
    yield "predict", lambda: model.predict(X)
    yield "predict_proba", lambda: model.predict_proba(X)
    yield "measure", measure
    yield "save", lambda: joblib.dump(model, path)
    yield "load", lambda: joblib.load(path)


def work(name: str, c: int, most_rows: int) -> None:
    """All steps, in this process: a line of JSON on the standard output after each."""
    warnings.simplefilter("ignore")  # that classes are many
    steps = steps_of_ours if name == NAMES[0] else steps_of_sklearn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        some, labels = data(3, LEAST_ROWS)
        for _, step in steps(some[:300], labels[:300], path):  # imports and compilation
            step()
        X, y = data(c, most_rows)
        for step_name, step in steps(X, y, path):
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            step()
            found = {step_name: time.perf_counter() - started}
            if step_name == "fit":
                found["fit MB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            if step_name == "save":
                found["file MB"] = path.stat().st_size / 2**20
            print(json.dumps(found), flush=True)


def measured(name: str, c: int, most_rows: int, budget: float) -> dict[str, float]:
    """What `work` found in a process of its own, as far as it came within `budget` seconds."""
    command = [sys.executable, "-m", "bench.classes", "--work", name, "--classes", str(c)]
    try:
        done = subprocess.run(
            [*command, "--most-rows", str(most_rows)],
            cwd=machine.ROOT,
            capture_output=True,
            timeout=budget,
            check=False,
        )
        lines, error = done.stdout, done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    except subprocess.TimeoutExpired as late:
        lines, error = late.stdout or b"", [f"stopped after {budget:g} s"]
    found: dict[str, float] = {}
    for line in lines.decode().splitlines():
        found |= json.loads(line)
    if error:
        print(f"{name}, {c} classes: {error[0]}", file=sys.stderr)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown: a row for each number of classes, ours / scikit-learn's in each cell."""
    head = ["classes", "rows", *(f"{step}{'' if step.endswith('MB') else ', s'}" for step in STEPS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for one in results:
        cells = [" / ".join(_number(one[name].get(step)) for name in NAMES) for step in STEPS]
        lines.append("| " + " | ".join([str(one["classes"]), str(one["rows"]), *cells]) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, action="append", help="how many; give it again for more")
    parser.add_argument("--most-rows", type=int, default=20000, help="rows, unless classes are more (default: 20000)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for a number of classes (default: 300)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--work", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    counts = options.classes or list(CLASSES)
    if options.work:
        work(options.work, counts[0], options.most_rows)
        return 0
    for warning in machine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    facts, results = machine.facts(), []
    for c in counts:
        found = {name: measured(name, c, options.most_rows, options.budget) for name in NAMES}
        results.append({"classes": c, "rows": len(data(c, options.most_rows)[1]), **found})
        print(table(results[-1:]), flush=True)
    print(table(results))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
