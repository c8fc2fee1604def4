"""How do time and memory grow with the number of classes, from fit to model file?

For each number of classes, each contender runs in a process of its own on the same Gaussian clusters: 32 features in
float32 and two rows a class, but at least 4000 and at most 20,000 rows. Each step of the work is timed once, after a
warm-up on 300 rows:

    fit             to tol 1e-4, C = 1, the certificate included
    fit smoothed    with label_smoothing=0.1 (ours alone)
    predict, predict_proba    of all rows
    measure         accuracy, top-5, recall of each class and log loss, of all rows
    save, load      the model file: safetensors, joblib's for scikit-learn

Memory is what the process's high-water mark rises by during the fit. A contender that takes longer than `--budget`
seconds for one number of classes is stopped; the steps that were done count.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.harness import Benchmark, Contender, Progress, Result
from bench.common.pages import Figures, Link, Results, rows, seconds, versions, where
from bench.common.process import ready, run_apart

CLASSES = (2, 10, 100, 1000, 3000, 10000, 20000)
FEATURES, LEAST_ROWS, MOST_ROWS, QUICK_ROWS = 32, 4000, 20000, 300
STEPS = ("fit", "fit MB", "fit smoothed", "predict", "predict_proba", "measure", "save", "load", "file MB")
SHOWN = ("fit", "fit MB", "predict", "predict_proba", "measure")  # in the document
BUDGET = 300.0


@dataclass(frozen=True)
class Case:
    """A number of classes; rows are at most `most_rows`, unless classes are more."""

    classes: int
    most_rows: int = MOST_ROWS
    needs_data = False

    @property
    def name(self) -> str:
        """The number."""
        return str(self.classes)

    @property
    def words(self) -> str:
        """The case in words."""
        return f"{self.classes} classes, {self.rows} rows"

    @property
    def rows(self) -> int:
        """The number of rows; each class has at least one."""
        return max(self.classes, min(self.most_rows, max(LEAST_ROWS, 2 * self.classes)))

    def data(self) -> tuple[Any, Any]:
        """Rows of Gaussian clusters, and their labels."""
        rng = np.random.default_rng(0)
        y = np.arange(self.rows) % self.classes
        X = rng.standard_normal((self.classes, FEATURES))[y] + rng.standard_normal((self.rows, FEATURES))
        return X.astype(np.float32), y


def ours(X: Any, y: Any, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Our steps."""
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


def sklearn(X: Any, y: Any, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """scikit-learn's steps."""
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


CONTENDERS = (
    Contender("gpusoftmax", "SoftmaxClassifier", ours, ours=True),
    Contender("sklearn", "scikit-learn's LogisticRegression", sklearn),
)


class Classes(Benchmark):
    """Runs the benchmark."""

    name = "classes"
    contenders = CONTENDERS
    examples = ("--quick --case 10", "--out bench/results/classes --label NAME       everything, half an hour")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds --budget."""
        parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a run; default %(default)s")

    def cases(self, quick: bool) -> list[Case]:
        """All cases; with few rows, and none with many classes, if they are quick."""
        return [Case(c, QUICK_ROWS) for c in CLASSES if c <= QUICK_ROWS] if quick else list(map(Case, CLASSES))

    def measure(
        self, case: Case, contenders: list[Contender], facts: Result, progress: Progress
    ) -> Iterator[tuple[str, Result]]:
        """One contender after another."""
        facts |= {"classes": case.classes, "rows": case.rows, "budget": self.options.budget}
        for contender in contenders:
            progress.doing(contender.name)
            yield contender.name, measure(contender, case, self.options.budget)

    def table(self, case: Case, facts: Result, results: list[Result]) -> str:
        """A line per contender."""
        lines = [f"{case.name}: {case.words}", f"  {'seconds':14s}" + "".join(f"{step:>15s}" for step in STEPS)]
        for result in results:
            cells = "".join(f"{number(result.get(step)):>15s}" for step in STEPS)
            lines.append(f"  {result['contender']:14s}{cells}  {result.get('note', '')}")
        return "\n".join(lines)


def measure(contender: Contender, case: Case, budget: float) -> Result:
    """What `run_alone` found in a process of its own, as far as it came."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found"
        arguments = [contender.name, case.classes, case.most_rows, folder]
        failure = run_apart(run_alone, arguments, Path(folder), budget)
        lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    result: Result = {}
    for line in lines:
        result |= json.loads(line)
    if failure:
        result["fault"] = f"failed: {failure}"
    elif not result.pop("ended", False):
        result["note"] = f"stopped after {budget:g} s"
    return result


def run_alone(name: str, classes: int, most_rows: int, folder: str) -> None:
    """Called in the new process: does all steps, and writes down a line after each."""
    ready()
    warnings.simplefilter("ignore")  # that classes are many
    (steps,) = (contender.run for contender in CONTENDERS if contender.name == name)
    path = Path(folder) / "model.safetensors"
    some, labels = Case(3).data()
    for _, step in steps(some[:300], labels[:300], path):  # imports and compilation
        step()
    X, y = Case(classes, most_rows).data()
    with open(Path(folder) / "found", "w", encoding="utf-8") as file:
        for step_name, step in steps(X, y, path):
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            step()
            found = {step_name: time.perf_counter() - started}
            if step_name == "fit":
                found["fit MB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            if step_name == "save":
                found["file MB"] = path.stat().st_size / 2**20
            print(json.dumps(found), file=file, flush=True)
        print(json.dumps({"ended": True}), file=file, flush=True)


# ---- the table


def section(results: Results, link: Link) -> str:
    """A row for each number of classes, ours / scikit-learn's in each cell. Empty without results."""
    if not results:
        return ""
    found = next(iter(results.values()))
    results_of = {(result["case"], result["contender"]): result for result in found["results"]}
    units = (f"{step.removesuffix(' MB')}, {'MB' if 'MB' in step else 's'}" for step in SHOWN)
    lines = [["classes", "rows", *units]]
    for case, facts in found["cases"].items():
        both = [results_of.get((case, contender.name), {}) for contender in CONTENDERS]
        cells = [" / ".join(number(result.get(step)) for result in both) for step in SHOWN]
        lines.append([case, str(facts["rows"]), *cells])
    return "\n".join([*rows(*lines), "", f"{where(found)}, {versions(found, 'numpy', 'scikit-learn')}.", ""])


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else seconds(value)


FIGURES = Figures({"classes": section})


def main(arguments: list[str]) -> int:
    """The command."""
    return Classes().main(arguments)
