"""Who sweeps: ours, and what else one would do.

`make(problem, watch)` prepares outside the clock and returns the work that is timed; the work returns what is to be
asked, once the clock stands, for its Outcome.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.sweeping.cases import CLASSES, SCALE, SEED, Array, Problem
from bench.sweeping.truth import Models, choices
from gpusoftmax import SoftmaxClassifier, resolve
from gpusoftmax.estimators.problem import prepare
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.protocols.cs231n import train_cs231n
from gpusoftmax.search import exact
from gpusoftmax.search.sweep import sweep
from gpusoftmax.solvers.sgd import SGD
from gpusoftmax.trainer import train

ITERATIONS = 100  # scikit-learn's own limit
OURS = {"scaling": (None, SCALE), "solver": "lbfgs"}
TRIED = 20  # steps that numbers of threads are compared by
ROUNDS = 3  # of the part "models", whose medians count


@dataclass
class Outcome:
    """What a racer found: numbers for JSON, and those of the drawn models that it has, W (c, d) and b (c,)."""

    numbers: dict[str, Any] = field(default_factory=dict)
    models: Models = field(default_factory=dict)


@dataclass
class Watch:
    """Counts the models that are done, in a file so that others can count along, and says when the time is up."""

    tally: Path | None = None
    budget: float = float("inf")
    stopped: bool = False

    def start(self) -> None:
        """From here on."""
        self.started, self.stopped = time.perf_counter(), False
        if self.tally is not None:
            self.tally.write_bytes(b"")

    def tell(self, models: int = 1) -> None:
        """So many more are done."""
        count(self.tally, models)

    def enough(self) -> bool:
        """Whether the time is up: who asks, stops."""
        self.stopped = time.perf_counter() - self.started > self.budget
        return self.stopped


def count(tally: Path | None, models: int = 1) -> None:
    """A byte a model, which processes can append at once."""
    if tally is not None:
        with tally.open("ab") as file:
            file.write(b"." * models)


Work = Callable[[], Callable[[], Outcome]]
Make = Callable[[Problem, Watch], Work]


def plain(model: Any) -> tuple[Array, Array]:
    """W and b of the scaled features, from an estimator of ours on raw pixels."""
    return np.asarray(model.coef_, np.float64) * SCALE, np.asarray(model.intercept_, np.float64)


def measured(accuracy: Any, log_loss: Any) -> dict[str, Any]:
    """Choices, and the means (C's,) that they were made by."""
    means = {"accuracy": np.mean(accuracy, axis=0).tolist(), "log_loss": np.mean(log_loss, axis=0).tolist()}
    return choices(accuracy, log_loss) | means


def scores(model: Any, X: Array, y: Array) -> tuple[float, float]:
    """Accuracy and log loss, from one prediction."""
    P = model.predict_proba(X)
    of_targets = np.maximum(P[np.arange(len(y)), y], np.finfo(P.dtype).tiny)
    return float((P.argmax(axis=1) == y).mean()), float(-np.log(of_targets, dtype=np.float64).mean())


# ---- cv and path


def ours(problem: Problem, watch: Watch) -> Work:
    """One sweep; with the refit where there are folds."""

    def work() -> Callable[[], Outcome]:
        folds = problem.part == "cv"
        aside = {"cv": problem.size.folds} if folds else {"validation": (problem.X_validation, problem.y_validation)}
        found = sweep(problem.X, problem.y, {"C": problem.Cs}, refit=folds, **aside, **OURS)

        def outcome() -> Outcome:
            trials = found.trials
            numbers = measured(trials.accuracy, trials.loss) | {"passes": float(trials.passes.sum())}
            return Outcome(numbers, {model: plain(found.models_[model]) for model in problem.drawn})

        return outcome

    return work


def one_by_one(problem: Problem, watch: Watch) -> Work:
    """A fit for each C and fold, and at last, where there are folds, one for the best C."""

    def work() -> Callable[[], Outcome]:
        models, passes = {}, 0.0
        accuracy = np.full((len(problem.splits), problem.size.Cs), np.nan)
        log_loss = accuracy.copy()
        for i, k in problem.models:
            if watch.enough():
                break
            train_rows, held_out = problem.splits[i]
            whole = problem.part == "path"
            X, y = (problem.X, problem.y) if whole else (problem.X[train_rows], problem.y[train_rows])
            aside = (problem.X_validation, problem.y_validation)
            aside = aside if whole else (problem.X[held_out], problem.y[held_out])
            model = SoftmaxClassifier(C=problem.Cs[k], **OURS).fit(X, y)
            accuracy[i, k], log_loss[i, k] = scores(model, *aside)
            passes += model.fit_report_.passes
            if (i, k) in problem.drawn:
                models[i, k] = plain(model)
            watch.tell()
        if not watch.stopped and problem.part == "cv":
            best = choices(accuracy, log_loss)["by_accuracy"]
            SoftmaxClassifier(C=problem.Cs[best], **OURS).fit(problem.X, problem.y)
        found = {} if watch.stopped else measured(accuracy, log_loss)
        return lambda: Outcome(found | {"passes": passes}, models)

    return work


@dataclass(frozen=True)
class Scoring:
    """A scorer that counts along, wherever it is called."""

    tally: Path | None

    def __call__(self, model: Any, X: Array, y: Array) -> dict[str, float]:
        """scikit-learn's."""
        accuracy, log_loss = scores(model, X, y)
        count(self.tally)
        return {"accuracy": accuracy, "log_loss": -log_loss}


def grid_search(theirs: bool) -> Make:
    """scikit-learn's GridSearchCV, around its own LogisticRegression in two processes, or around our classifier."""

    def prepare_search(problem: Problem, watch: Watch) -> Work:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        model: Any = LogisticRegression(max_iter=ITERATIONS) if theirs else SoftmaxClassifier(**OURS)
        X = problem.scaled() if theirs else problem.X
        search = GridSearchCV(
            model, {"C": problem.Cs}, cv=problem.splits, n_jobs=os.cpu_count() if theirs else 1,
            scoring=Scoring(watch.tally), refit="accuracy",
        )  # fmt: skip

        def work() -> Callable[[], Outcome]:
            results = search.fit(X, problem.y).cv_results_
            tables = {
                name: sign * np.array([results[f"split{i}_test_{name}"] for i in range(len(problem.splits))])
                for name, sign in (("accuracy", 1), ("log_loss", -1))
            }
            return lambda: Outcome(measured(**tables))

        return work

    return prepare_search


def count_fits(tally: Path | None) -> None:
    """In a worker of scikit-learn's: count its calls of lbfgs, which tells nothing until a whole fold is done."""
    from sklearn.linear_model import _logistic

    check = _logistic._check_optimize_result

    def counted(*arguments: Any, **options: Any) -> Any:
        count(tally)
        return check(*arguments, **options)

    _logistic._check_optimize_result = counted


def logistic_cv(problem: Problem, watch: Watch) -> Work:
    """scikit-learn's LogisticRegressionCV: a path per fold, each C from the solution before it."""
    from joblib import parallel_config
    from sklearn.linear_model import LogisticRegressionCV

    X = problem.scaled()
    model = LogisticRegressionCV(
        Cs=problem.Cs, cv=problem.splits, max_iter=ITERATIONS, n_jobs=os.cpu_count(), solver="lbfgs",
        scoring="accuracy",
    )  # fmt: skip

    def work() -> Callable[[], Outcome]:
        with parallel_config(backend="loky", initializer=count_fits, initargs=(watch.tally,)):
            model.fit(X, problem.y)

        def outcome() -> Outcome:
            paths = model.coefs_paths_  # its form depends on the version
            if isinstance(paths, dict):
                paths = np.stack([paths[label] for label in model.classes_], axis=-2)
            paths = np.reshape(paths, (len(problem.splits), problem.size.Cs, CLASSES, -1)).astype(np.float64)
            tables = np.empty((2, *paths.shape[:2]))
            for i, (_, held_out) in enumerate(problem.splits):
                for k, W in enumerate(paths[i]):
                    tables[:, i, k] = scores(
                        _Linear(W[:, :-1], W[:, -1]), X[held_out].astype(np.float64), problem.y[held_out]
                    )
            numbers = {"at_max_iter": int((np.asarray(model.n_iter_) >= ITERATIONS).sum())}
            drawn = {(i, k): (paths[i, k, :, :-1], paths[i, k, :, -1]) for i, k in problem.drawn}
            return Outcome(measured(*tables) | numbers, drawn)

        return outcome

    return work


@dataclass(frozen=True)
class _Linear:
    """Weights that predict."""

    W: Array
    b: Array

    def predict_proba(self, X: Array) -> Array:
        """(n, c)."""
        z = X @ self.W.T + self.b
        P: Array = np.exp(z - z.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        return P


def adelie(problem: Problem, watch: Watch) -> Work:
    """adelie's cv_grpnet as a ridge: folds and penalties are of its own choice, as many as ours."""
    import adelie as ad

    X = np.asfortranarray(problem.scaled(np.float64))
    glm = ad.glm.multinomial(y=np.eye(CLASSES)[problem.y])

    def work() -> Callable[[], Outcome]:
        found = ad.cv.cv_grpnet(
            X=X, glm=glm, alpha=0.0, n_threads=os.cpu_count(), min_ratio=1e-4, lmda_path_size=problem.size.Cs,
            n_folds=problem.size.folds, seed=SEED, progress_bar=False,
        )  # fmt: skip
        return lambda: Outcome({"lmdas": found.lmdas.tolist(), "best_lmda": int(found.best_idx)})

    return work


# ---- cs231n


def course_objective(problem: Problem) -> Objective:
    """What `recipes.train_cs231n` minimises, for one model."""
    device = get_backend("auto")
    X = device.features(problem.X)
    mean = device.to_numpy(device.ops.column_moments(X, None)[0])
    estimator = SoftmaxClassifier(l2=1.0, penalize_intercept=True, scaling=(mean, None), solver="sgd", learning_rate=1)
    return prepare(estimator, device, X, problem.y, None, None).objective


def descend(
    objective: Objective, problem: Problem, pairs: list[tuple[float, float]], steps: int
) -> tuple[Array, Array]:
    """The recipe's steps for several pairs at once: W (d, K, c) and b (K, c)."""
    rates, regs = map(np.array, zip(*pairs, strict=True))
    plan, device = BatchPlan(len(problem.y), problem.size.batch, replacement=True, seed=SEED), objective.backend
    start = np.repeat(problem.start()[:, None], len(pairs), axis=1)
    solver = SGD(plan, steps, rates, 0.0, False, "constant", 0.0)
    result = train(
        objective.for_penalties(2 * regs), solver, device.asarray(start[:-1]), device.asarray(start[-1])
    )  # fmt: skip
    return device.to_numpy(result.W), device.to_numpy(result.b)


def side_by_side(problem: Problem) -> tuple[Array, Array]:
    """`recipes.train_cs231n` of all pairs at once: W (d, K, c) and b (K, c) of the centred pixels."""
    return descend(course_objective(problem), problem, problem.pairs, problem.size.steps)


def our_models(problem: Problem, watch: Watch) -> Work:
    """All pairs side by side."""

    def work() -> Callable[[], Outcome]:
        W, b = side_by_side(problem)
        return lambda: Outcome({}, {model: (W[:, model[1]].T, b[model[1]]) for model in problem.drawn})

    return work


def serially(problem: Problem, watch: Watch, run: Callable[[float, float], tuple[Array, Array]]) -> Outcome:
    """One pair after another, until the time is up."""
    models = {}
    for model in problem.models:
        if watch.enough():
            break
        found = run(*problem.pairs[model[1]])
        if model in problem.drawn:
            models[model] = found
        watch.tell()
    return Outcome({}, models)


def our_recipes(problem: Problem, watch: Watch) -> Work:
    """`train_cs231n` for each pair."""
    size = problem.size

    def run(rate: float, reg: float) -> tuple[Array, Array]:
        model = train_cs231n(
            problem.X, problem.y, seed=SEED, learning_rate=rate, reg=reg, n_iterations=size.steps,
            batch_size=size.batch,
        )  # fmt: skip
        return model.coef_, model.intercept_ + model.coef_.astype(np.float64) @ problem.mean

    def work() -> Callable[[], Outcome]:
        outcome = serially(problem, watch, run)
        return lambda: outcome

    return work


def student(X: Array, y: Array, W: Array, batches: list[Array], rate: float, reg: float) -> Array:
    """The course's loop as one would write it in NumPy: X (n, d + 1) with a column of ones, W (d + 1, c)."""
    for rows in batches:
        x, labels, each = X[rows], y[rows], np.arange(len(rows))
        scores = x @ W
        scores -= scores.max(axis=1, keepdims=True)
        P = np.exp(scores)
        P /= P.sum(axis=1, keepdims=True)
        _ = -np.log(P[each, labels]).mean() + reg * (W * W).sum()  # the loss, which it would plot
        P[each, labels] -= 1
        W = W - np.float32(rate) * (x.T @ P / np.float32(len(rows)) + np.float32(2 * reg) * W)
    return W


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """NumPy's products with so many."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


def quickest(run: Callable[[int], Any]) -> int:
    """One thread or all, whichever takes less time, after a call for warmth."""
    seconds = {}
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        run(threads)
        started = time.perf_counter()
        run(threads)
        seconds[threads] = time.perf_counter() - started
    return min(seconds, key=lambda threads: seconds[threads])


def numpy_recipes(problem: Problem, watch: Watch) -> Work:
    """The student's loop for each pair, with as many threads as suit it."""
    X = np.empty((len(problem.y), problem.X.shape[1] + 1), np.float32)
    X[:, :-1], X[:, -1] = problem.X - problem.mean.astype(np.float32), 1
    batches = problem.batches()

    def run(rate: float, reg: float, steps: int = problem.size.steps) -> tuple[Array, Array]:
        W = student(X, problem.y, problem.start(), batches[:steps], rate, reg)
        return W[:-1].T, W[-1]

    def attempt(threads: int) -> None:
        with blas_threads(threads):
            run(*problem.pairs[0], steps=TRIED)

    threads = quickest(attempt)

    def work() -> Callable[[], Outcome]:
        with blas_threads(threads):
            outcome = serially(problem, watch, run)
        outcome.numbers["threads"] = threads
        return lambda: outcome

    return work


def torch_heads(problem: Problem, watch: Watch) -> Work:
    """PyTorch: all pairs as one Linear, a loss and a learning rate for each of its heads."""
    import torch

    X = torch.from_numpy(problem.X - problem.mean.astype(np.float32))
    y = torch.from_numpy(problem.y)
    K, batches = len(problem.pairs), [torch.from_numpy(rows) for rows in problem.batches()]
    rates, regs = (
        torch.tensor(side, dtype=torch.float32).repeat_interleave(CLASSES) for side in zip(*problem.pairs, strict=True)
    )
    start = torch.from_numpy(problem.start().T).repeat(K, 1)  # (K c, d + 1): classes first, which suits its products

    def descend(steps: int) -> Any:
        heads = torch.nn.Linear(X.shape[1], K * CLASSES)
        with torch.no_grad():
            heads.weight.copy_(start[:, :-1])
            heads.bias.copy_(start[:, -1])
        kept = 1 - 2 * rates * regs
        for rows in batches[:steps]:
            scores = heads(X[rows]).view(-1, CLASSES)
            labels = y[rows].repeat_interleave(K)
            heads.zero_grad(set_to_none=True)
            (torch.nn.functional.cross_entropy(scores, labels, reduction="sum") / len(rows)).backward()
            with torch.no_grad():
                heads.weight.mul_(kept[:, None]).sub_(heads.weight.grad.mul_(rates[:, None]))
                heads.bias.mul_(kept).sub_(heads.bias.grad.mul_(rates))
        return heads

    def attempt(threads: int) -> None:
        torch.set_num_threads(threads)
        descend(TRIED)

    threads = quickest(attempt)
    torch.set_num_threads(threads)

    def work() -> Callable[[], Outcome]:
        heads = descend(problem.size.steps)
        W, b = heads.weight.detach().numpy(), heads.bias.detach().numpy()

        def of(k: int) -> slice:
            return slice(k * CLASSES, (k + 1) * CLASSES)

        return lambda: Outcome(
            {"threads": threads}, {model: (W[of(model[1])], b[of(model[1])]) for model in problem.drawn}
        )

    return work


# ---- models


def passes(problem: Problem, watch: Watch) -> Work:
    """One value and gradient over all rows."""
    device = get_backend("auto")
    d = problem.X.shape[1]
    base = Objective(
        DenseFeatures(device.features(problem.X), device, problem.mean, np.full(d, SCALE)),
        device.asarray(problem.y.astype(np.int32)), CLASSES, None, device.asarray(np.array([1e-3])),
        LOSSES["softmax"].code,
    )  # fmt: skip
    rng = np.random.default_rng(SEED)
    W = (0.01 * rng.standard_normal((d, max(problem.size.models), CLASSES))).astype(np.float32)
    values: dict[int, float] = {}

    def run(K: int) -> int:
        objective = base.for_penalties(np.full(K, 1e-3))
        weights = np.ascontiguousarray(W[:, :K])
        values[K] = float(objective.value_and_gradient(weights, np.zeros((K, CLASSES), np.float32)).value[0])
        return K

    def work() -> Callable[[], Outcome]:
        numbers = per_model(problem, watch, run)
        alone = values[problem.size.models[0]]
        numbers["apart"] = {str(K): abs(value / alone - 1) for K, value in values.items()}
        return lambda: Outcome(numbers)

    return work


def minibatch_steps(problem: Problem, watch: Watch) -> Work:
    """A minibatch step of the recipe, its share of the start included."""
    objective, steps = course_objective(problem), problem.size.model_steps

    def run(K: int) -> int:
        descend(objective, problem, [problem.pairs[k % len(problem.pairs)] for k in range(K)], steps)
        return K * steps

    def work() -> Callable[[], Outcome]:
        numbers = per_model(problem, watch, run)
        return lambda: Outcome(numbers)

    return work


def per_model(problem: Problem, watch: Watch, run: Callable[[int], int]) -> dict[str, Any]:
    """Milliseconds a model by the number of models side by side; `run` says among how many a call is shared.

    Medians of rounds in turn, after one that does not count; when the time is up, of the rounds that are done.
    """
    found: dict[int, list[float]] = {}
    for number in range(ROUNDS + 1):
        for K in problem.size.models:
            if watch.enough():
                break
            started = time.perf_counter()
            shared = run(K)
            if number:
                found.setdefault(K, []).append(1e3 * (time.perf_counter() - started) / shared)
    return {"milliseconds": {str(K): statistics.median(times) for K, times in found.items()}}


def widths(problem: Problem, watch: Watch) -> Work:
    """The path of C's, so many of them side by side."""

    def work() -> Callable[[], Outcome]:
        numbers: dict[str, Any] = {"seconds_by_width": {}, "passes_by_width": {}}
        best: Any = None
        for width in problem.size.widths:
            if watch.enough():
                break
            times = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                with mock.patch.object(exact, "width", lambda *_, width=width: width):
                    found = sweep(
                        problem.X, problem.y, {"C": problem.Cs}, refit=False, keep_models=False,
                        validation=(problem.X_validation, problem.y_validation), **OURS,
                    )  # fmt: skip
                times.append(time.perf_counter() - started)
                if watch.enough():
                    break
            objective = found.trials.objective[0]
            best = objective if best is None else np.minimum(best, objective)
            numbers["seconds_by_width"][str(width)] = statistics.median(times)
            numbers["passes_by_width"][str(width)] = float(found.trials.passes.mean())
            numbers["apart"] = float(abs(objective / best - 1).max())
        return lambda: Outcome(numbers)

    return work


# ---- all of them


@dataclass(frozen=True)
class Racer:
    """Who, in which part, and how it is called; who is `near` has to be within NEAR of the optimum.

    `once`: it takes medians itself.
    """

    part: str
    name: str
    words: str
    call: str
    make: Make
    needs: str = "sklearn"
    near: bool = False
    once: bool = False

    def absent(self) -> str:
        """Why it cannot take part, or empty."""
        return "" if find_spec(self.needs) else f"{self.needs} is not installed"


_FIT = "SoftmaxClassifier(C=C, scaling=(None, 64), solver='lbfgs').fit"
RACERS = (
    Racer("cv", "gpusoftmax", "gpusoftmax, sweep", "sweep(X, y, {'C': Cs}, cv=5, scaling=(None, 64))", ours, near=True),
    Racer("cv", "own-fits", "gpusoftmax, fit after fit", f"{_FIT} for each C and fold, at last on all rows",
          one_by_one, near=True),
    Racer("cv", "own-grid", "GridSearchCV around gpusoftmax", "GridSearchCV(SoftmaxClassifier(...), n_jobs=1)",
          grid_search(theirs=False)),
    Racer("cv", "sklearn-cv", "scikit-learn, LogisticRegressionCV",
          f"LogisticRegressionCV(Cs=Cs, cv=folds, max_iter={ITERATIONS}, solver='lbfgs', n_jobs=cores)", logistic_cv),
    Racer("cv", "sklearn-grid", "scikit-learn, GridSearchCV",
          f"GridSearchCV(LogisticRegression(max_iter={ITERATIONS}), cv=folds, n_jobs=cores)", grid_search(theirs=True)),
    Racer("cv", "adelie", "adelie, cv_grpnet", "cv_grpnet(X, multinomial(y), alpha=0, min_ratio=1e-4, n_threads=cores)",
          adelie, "adelie"),
    Racer("path", "gpusoftmax", "gpusoftmax, sweep",
          "sweep(X, y, {'C': Cs}, validation=(Xv, yv), refit=False, scaling=(None, 64))", ours, near=True),
    Racer("path", "own-fits", "gpusoftmax, fit after fit", f"{_FIT} for each C", one_by_one, near=True),
    Racer("cs231n", "gpusoftmax", "gpusoftmax, side by side", "SGD of 64 models on the same minibatches", our_models),
    Racer("cs231n", "own-runs", "gpusoftmax, run after run", "train_cs231n(X, y, learning_rate=..., reg=...) for each",
          our_recipes),
    Racer("cs231n", "torch", "PyTorch, 64 heads", "one Linear, a loss and a learning rate for each head", torch_heads,
          "torch"),
    Racer("cs231n", "numpy", "NumPy, run after run", "the course's loop, vectorised, float32, for each", numpy_recipes),
    Racer("models", "pass", "a value and gradient", "Objective.value_and_gradient", passes, once=True),
    Racer("models", "step", "a minibatch step", "SGD on 200 rows", minibatch_steps, once=True),
    Racer("models", "width", "a path, so many C's side by side", "sweep with exact.width", widths, once=True),
)  # fmt: skip


def choose(parts: list[str], names: list[str] | None) -> list[Racer]:
    """The parts' racers, all of them or by name.

    Raises
    ------
    ValueError
        A name is none of theirs.
    """
    found = [racer for racer in RACERS if racer.part in parts]
    for name in names or []:
        if name not in {racer.name for racer in found}:
            known = ", ".join(dict.fromkeys(racer.name for racer in found))
            raise ValueError(f"--racer {name!r} is not known; there are {known}")
    return [racer for racer in found if not names or racer.name in names]
