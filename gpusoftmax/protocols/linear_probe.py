"""Linear probes: measure how good features are, by published protocols.

docs/linear-probes.md says for each protocol what is as published, and what differs.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, get_backend_for, gpu_of
from gpusoftmax.checks.arrays import by_rows, check_n_features, check_same_length, column_names
from gpusoftmax.checks.labels import encode_known_labels, encode_labels
from gpusoftmax.checks.scalars import check_choice, check_count, check_number, check_pair, check_verbose
from gpusoftmax.estimators.classifiers import SoftmaxClassifier
from gpusoftmax.estimators.prediction import has_columns
from gpusoftmax.features.read import read_matrix
from gpusoftmax.reports.accuracy import measure
from gpusoftmax.rows.file_rows import FileRows, Rows
from gpusoftmax.search.minibatch import Recipe
from gpusoftmax.search.result import SweepResult
from gpusoftmax.search.splits import make_splits
from gpusoftmax.search.sweep import sweep
from gpusoftmax.search.words import listed

SOURCES = {
    "clip": "Radford et al., Learning transferable visual models from natural language supervision, 2021, A.3",
    "dinov2-logreg": "github.com/facebookresearch/dinov2, dinov2/eval/log_regression.py",
    "dinov2-linear": "github.com/facebookresearch/dinov2, dinov2/eval/linear.py",
}
METHODS = {
    "clip": "logistic regression with an L2 penalty, L-BFGS",
    "dinov2-logreg": "logistic regression with an L2 penalty, L-BFGS",
    "dinov2-linear": "softmax heads by SGD, momentum 0.9, no penalty, cosine schedule",
}
GRIDS = {  # the parameter that varies, and its values
    "clip": ("lambda", np.logspace(-6, 6, 96).tolist()),
    "dinov2-logreg": ("C", (10 ** np.linspace(-6, 5, 45)).tolist()),
    "dinov2-linear": (
        "learning_rate", [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1],
    ),
}  # fmt: skip
NOTES = {  # reasons to stop that the report mentions
    "diverged": "diverged",
    "precision": "stopped above tol, because rounding allows no further progress: pass features in float64",
    "finished": "were not within tol after 1000 iterations",
}
MOST_ITERATIONS = 1000  # of L-BFGS
TOL = 1e-4
BATCH, ITERATIONS = 128, 12500  # of SGD: 10 "epochs" of 1250 iterations
REFERENCE_BATCH = 256  # the batch size that the learning rates are published for
START = 0.01  # standard deviation of the heads' initial weights
HELD_OUT = 0.1  # fraction of the training rows
COMPARED = 4096  # rows that are compared at a time


@dataclass(eq=False, repr=False)
class ProbeResult:
    """The result of a linear probe.

    Attributes
    ----------
    protocol : str
    sizes : dict
        Numbers of rows: {"train": ..., "validation": ..., "test": ...}; train excludes the validation rows.
    drawn : float or None
        The fraction of the training rows that was held out for validation; None if the user passed validation rows.
    by_class : bool
        Whether the held-out rows were drawn class by class, rather than without regard to classes.
    unknown : int
        The number of validation rows whose class has no training rows: no model can classify them correctly.
    parameter : {"lambda", "C", "learning_rate"}
        The parameter that the protocol varies.
    values : list of float
        Its values as published: learning rates before they are multiplied by batch size / 256.
    chosen : float
        The value with the largest validation top-1; among equals the strongest penalty, or the smallest learning rate.
    edge : {"", "smallest", "largest"}
        The end of the grid at which the chosen value is, if any: a better one may lie beyond it.
    ties : list of float
        Other values with the same validation top-1.
    n_features : int
    sweep : SweepResult
        All models that were tried: `sweep.table`, `sweep.plot()`. Its C is 1 / lambda.
    validation_top_1 : float
        The validation top-1 of the chosen model, before any refit.
    refitted : bool
        Whether the protocol fits `estimator` again to training and validation rows.
    estimator : SoftmaxClassifier
        Fitted; None if Ctrl-C came before the fit.
    test : Accuracies
        top_1, top_k (k = 5, or the number of classes if that is smaller), per_class, mean_per_class; None if Ctrl-C
        came before the test rows were measured.
    same_as_test : bool
        Whether validation and test rows are the same: the choice has then used the test rows, and `test` is too good.
    seconds : float
        The total time.
    """

    protocol: str
    sizes: dict[str, int]
    drawn: float | None
    by_class: bool
    unknown: int
    parameter: str
    values: list[float]
    chosen: float
    edge: str
    ties: list[float]
    n_features: int
    sweep: SweepResult
    refitted: bool
    estimator: Any
    test: Any
    same_as_test: bool
    seconds: float

    @property
    def validation_top_1(self) -> float:
        """The validation top-1 of the chosen model, before any refit."""
        return self.sweep.best_score_

    @property
    def report(self) -> str:
        """The protocol, its source, rows, grid, choice and scores as text, to print."""
        how = "by class" if self.by_class else "without regard to classes"
        origin = "given" if self.drawn is None else f"{self.drawn:.3g} of the training rows, {how}"
        d, c = self.n_features, len(self.sweep.classes_)
        chosen = f"{self.parameter} = {self.chosen:.4g}" + (
            f" (C = {1 / self.chosen:.4g})" * (self.parameter == "lambda")
        )
        lines = [
            f"protocol    {self.protocol}: {METHODS[self.protocol]}",
            f"source      {SOURCES[self.protocol]}",
            f"rows        {self.sizes['train']} training, {self.sizes['validation']} validation ({origin}), "
            f"{self.sizes['test']} test; {d} features, {c} classes",
            f"grid        {len(self.values)} values of {self.parameter}, {min(self.values):g} to {max(self.values):g}",
            f"chosen      {chosen}, validation top-1 {self.validation_top_1:.2%}",
        ]
        if self.ties:
            lines.append(f"same score  {listed([f'{value:.4g}' for value in self.ties], ', ')}")
        if self.edge:
            lines.append(
                f"note        {self.chosen:.4g} is the {self.edge} value that was tried: a better one may lie beyond it"
            )
        status = self.sweep.trials.status
        for reason, note in NOTES.items():
            count = int((status == reason).sum())
            if count and not (reason == "finished" and self.protocol == "dinov2-linear"):
                lines.append(f"note        {count} of {len(self.values)} {note}")
        if (status == "").any():
            lines.append("note        interrupted: not all values were tried")
        if self.estimator is None:
            lines.append("note        interrupted: the last fit was not made")
        elif self.estimator.stop_reason_ == "interrupted":
            lines.append("note        interrupted: training was not completed")
        if self.test is None:
            lines.append("note        interrupted: test rows were not measured")
        if self.unknown:
            lines.append(
                f"note        {self.unknown} of {self.sizes['validation']} validation rows have classes without "
                "training rows, and count as wrong"
            )
        if self.same_as_test:
            lines.append(f"note        {SAME}")
        rows = "training and validation rows" if self.refitted else "training rows"
        if self.estimator is not None:
            lines.append(f"fitted to   {rows}, {self.seconds:.1f} s in all")
        if self.test is not None:
            lines.append(
                f"test        top-1 {self.test.top_1:.2%}  top-{self.test.k} {self.test.top_k:.2%}  "
                f"mean per class {self.test.mean_per_class:.2%}"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report

    def __repr__(self) -> str:
        test = "interrupted" if self.test is None else f"test top-1 {self.test.top_1:.2%}"
        return f"<ProbeResult: {self.protocol}, {self.parameter} = {self.chosen:.4g}, {test}>"


ARBITRARY = (
    "no class of the validation rows has training rows, so the choice is meaningless: pass validation=(X, y), or more "
    "rows of each class"
)
SAME = "validation and test rows are the same: the choice has used the test set, so its scores are too good"


def linear_probe(
    X_train: Any,
    y_train: Any,
    X_test: Any,
    y_test: Any,
    *,
    protocol: str,
    validation: Any = None,
    batch_size: int | None = None,
    n_iterations: int | None = None,
    tol: float | None = None,
    seed: int = 0,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
    verbose: int = 0,
) -> ProbeResult:
    """Train a linear classifier on features, choose its one parameter on validation rows, and measure it on test rows.

    With the mean loss of n rows, z_i = x_i W + b, and no scaling of the features:

        clip            min  sum_i loss(z_i, y_i) + (lambda / 2) ||W||^2,  96 lambdas from 1e-6 to 1e6; refitted to
                        training and validation rows with the best of them
        dinov2-logreg   min  C sum_i loss(z_i, y_i) + (1 / 2) ||W||^2,  C = 10^-6 ... 10^5, 45 values; refitted, too
        dinov2-linear   v <- 0.9 v + g,  W <- W - lr (batch_size / 256) (1 + cos(pi t / T)) / 2 v,  13 learning rates
                        trained together on the same batches

    The choice uses only the top-1 accuracy on the validation rows. The first two protocols follow a path of exact
    solutions, see `sweep`.

    Parameters
    ----------
    X_train, X_test : array-like of shape (n, d), or what `open_rows` returns
        Features: float64, float32, float16, bfloat16 and uint8 are read in place. Computations are in float64 for
        float64 features, otherwise in float32.
    y_train, y_test : array-like of shape (n,)
        Labels of any type.
    protocol : {"clip", "dinov2-logreg", "dinov2-linear"}
    validation : (X, y) or float, optional
        Rows to choose by, or the fraction of the training rows to hold out, drawn with `seed`. Default: 0.1. Held-out
        rows are drawn class by class, except that for "dinov2-logreg", as published, and if a class has too few rows,
        they are drawn without regard to classes. If rows are passed and the protocol refits, it does so to a copy that
        joins the training and validation rows.
    batch_size, n_iterations : int, optional
        For "dinov2-linear". Default: 128, or all training rows if there are fewer, and 12,500.
    tol : float, optional
        For the other two: a solution is accepted once no entry of the gradient of the mean loss is larger. Default:
        1e-4.
    seed : int
        Seed of the held-out rows, and of SGD's initial weights and batches.
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
        See `get_backend`.
    n_threads : int, optional
        See `get_backend`.
    verbose : int
        1 shows progress on standard error.

    Returns
    -------
    ProbeResult
        print() shows a report.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be used; the message names it and the fix.
    DivergenceError
        All heads of "dinov2-linear" diverged: the features are too large.

    Warns
    -----
    UserWarning
        Validation and test rows are the same, or no class of the validation rows has training rows.
    ConvergenceWarning
        Models are not within `tol` after 1000 iterations.

    Notes
    -----
    Sources: Radford et al., 2021, appendix A.3; github.com/facebookresearch/dinov2, dinov2/eval/log_regression.py and
    linear.py. What differs from them is listed in docs/linear-probes.md.
    """
    started = time.perf_counter()
    parameter, values = GRIDS[check_choice("protocol", protocol, tuple(GRIDS))]
    by_sgd = protocol == "dinov2-linear"
    _check_for(by_sgd, protocol, batch_size, n_iterations, tol)
    check_count("seed", seed, least=0)
    check_verbose(verbose)
    X_train, X_test = by_rows(X_train, "X_train"), by_rows(X_test, "X_test")
    given = isinstance(validation, tuple | list)
    if given:
        check_pair("validation", validation)
        validation = by_rows(validation[0], "validation[0]"), validation[1]
        _check_can_be_joined(X_train, validation[0])
    elif validation is not None:
        check_number("validation", validation, least=0, most=1, above=True, below=True)
    drawn = None if given else HELD_OUT if validation is None else float(validation)
    resolved_backend = get_backend_for(backend, n_threads, X_train=X_train, X_test=X_test)
    with resolved_backend.active():
        train, test = (_matrix(X, resolved_backend, name) for X, name in ((X_train, "X_train"), (X_test, "X_test")))
        check_n_features(test, train.shape[1], "X_test", "X_train")
        y_train, y_test = map(resolved_backend.on_host, (y_train, y_test))
        classes, labels = encode_labels(y_train, len(train), name="y_train")
        test_labels = encode_known_labels(y_test, classes, "y_test", " of y_train")
        check_same_length("y_test", test_labels, len(test), "X_test")
        same, cv, by_class, unknown = False, None, False, 0
        if drawn is None:
            same = _same(resolved_backend, validation, test, test_labels, classes)
            n_validation, n_train = len(validation[0]), len(train)
        else:
            by_class = protocol != "dinov2-logreg" and _can_stratify(drawn, labels)
            kept, held_out = _draw(drawn, labels, seed, by_class)
            cv, n_validation, n_train = [(kept, held_out)], len(held_out), len(kept)
            unknown = int((~np.isin(labels[held_out], labels[kept])).sum())
        n_test, d = test.shape
        del train, test  # frees GPU memory: sweep uploads the rows again
    if same:
        warnings.warn(f"{SAME}: pass other rows, or a fraction of the training rows, as validation", stacklevel=2)
    if unknown == n_validation:
        warnings.warn(ARBITRARY, stacklevel=2)
    options: dict[str, Any] = {
        "cv": cv, "validation": validation if given else None, "verbose": verbose,
    }  # fmt: skip
    common: dict[str, Any] = {"random_state": seed, "backend": backend, "n_threads": n_threads}
    if by_sgd:
        size = batch_size or min(BATCH, n_train)
        if size > n_train:
            raise ValueError(f"batch_size={size} is more than the {n_train} training rows; pass a smaller batch_size")
        estimator = SoftmaxClassifier(
            l2=0.0, penalize_intercept=True, momentum=0.9, nesterov=False, schedule="cosine", batch_size=size, **common
        )
        grid = {"learning_rate": [rate * size / REFERENCE_BATCH for rate in values]}
        recipe = Recipe(n_iterations or ITERATIONS, _normal(seed))
        found = sweep(estimator, grid, X_train, y_train, refit=False, recipe=recipe, **options)
        model = found.models_[0, found.best_index_]
    else:
        grid = {"C": [1 / value for value in values] if parameter == "lambda" else values}
        estimator = SoftmaxClassifier(max_iter=MOST_ITERATIONS, tol=TOL if tol is None else tol, **common)
        found = sweep(estimator, grid, X_train, y_train, refit=not given, keep_models=False, **options)
        model = found.best_estimator_
    test_measured = None
    try:
        if given and not by_sgd:
            estimator = clone(found.estimators_[found.best_index_]).set_params(verbose=verbose)
            with resolved_backend.active():
                X = _joined(resolved_backend, X_train, validation[0])
            y = resolved_backend.on_host(validation[1])
            validation_labels = encode_known_labels(y, classes, "validation[1]", " of y_train")
            model = estimator.fit(X, classes[np.concatenate([labels, validation_labels])])
        if model is not None:
            test_measured = measure(model, X_test, y_test)
    except KeyboardInterrupt:  # keep the choice, and the model if it was fitted
        found.interrupted_ = True
    sizes = {"train": n_train, "validation": n_validation, "test": n_test}
    best = found.best_index_
    ends = {min(values): "smallest", max(values): "largest"}
    return ProbeResult(
        protocol, sizes, drawn, by_class, unknown, parameter, values, values[best], ends.get(values[best], ""),
        [values[k] for k in found.ties_], d, found, not by_sgd, model, test_measured, same,
        time.perf_counter() - started,
    )  # fmt: skip


def _check_for(by_sgd: bool, protocol: str, batch_size: Any, n_iterations: Any, tol: Any) -> None:
    """Refuse arguments that the protocol does not use, rather than ignore them."""
    for_sgd = {"batch_size": batch_size, "n_iterations": n_iterations}
    for name, value in ({"tol": tol} if by_sgd else for_sgd).items():
        if value is not None:
            users = "'clip' and 'dinov2-logreg'" if by_sgd else "'dinov2-linear'"
            raise ValueError(f"{name}={value!r} is for protocol {users}; leave it out for {protocol!r}")
    for name, value in for_sgd.items():
        if value is not None:
            check_count(name, value)
    if tol is not None:
        check_number("tol", tol, least=0)


def _can_stratify(fraction: float, labels: Array) -> bool:
    """Whether each class can have training and held-out rows, and there are enough of both for all classes."""
    counts, n = np.bincount(labels), len(labels)
    held_out = math.ceil(fraction * n)
    return bool(counts.min() > 1) and len(counts) <= min(held_out, n - held_out)


def _draw(fraction: float, labels: Array, seed: int, by_class: bool) -> tuple[Array, Array]:
    """Row numbers of the training rows, and of the held-out rows."""
    if by_class:
        (split,) = make_splits(None, fraction, labels, seed)
        assert split.train is not None
        assert split.held_out is not None
        return split.train, split.held_out
    count = math.floor(fraction * len(labels) + 1e-9)  # 0.29 * 100 is a little less than 29
    if count == 0:
        raise ValueError(
            f"validation={fraction!r} of {len(labels)} training rows is less than one row; pass validation=(X, y), or "
            "a larger fraction"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(order[count:]), np.sort(order[:count])


def _normal(seed: int) -> Callable[[int, int], tuple[Array, Array]]:
    """The initial weights of DINOv2's heads: small random numbers, and intercepts of zero."""

    def start(d: int, c: int) -> tuple[Array, Array]:
        return START * np.random.default_rng(seed).standard_normal((d, 1, c)), np.zeros((1, c))

    return start


def _matrix(X: Any, backend: Backend, name: str) -> Any:
    """The rows of X, whose shape is checked; those in files stay there."""
    return X if isinstance(X, Rows) else read_matrix(X, backend, name)


def _same(backend: Backend, validation: Any, test: Array, test_labels: Array, classes: Array) -> bool:
    """Whether the validation rows are the test rows; usually the first rows already differ."""
    X, y = _matrix(validation[0], backend, "validation[0]"), backend.on_host(validation[1])
    if X.shape != test.shape or X.dtype != test.dtype:
        return False
    if not np.array_equal(encode_known_labels(y, classes, "validation[1]", " of y_train"), test_labels):
        return False
    parts = (slice(first, first + COMPARED) for first in range(0, len(test), COMPARED))
    return all(np.array_equal(backend.to_numpy(X[part]), backend.to_numpy(test[part])) for part in parts)


def _joined(backend: Backend, first: Any, second: Any) -> Any:
    """The rows of both, in the same kind of container: an array, a tensor or a data frame."""
    if isinstance(first, FileRows):
        return FileRows([*first.files, *second.files], first.memory_limit)
    library: Any = sys.modules[type(first).__module__.partition(".")[0]]
    if has_columns(first):
        join = library.concat_tables if library.__name__ == "pyarrow" else library.concat
        return join([first, second])
    if _is_tensor(first):
        return library.cat([first, second])
    xp = np if gpu_of(first) is None else backend.xp
    return xp.concatenate([xp.asarray(first), xp.asarray(second)])


def _is_tensor(X: Any) -> bool:
    return type(X).__module__.partition(".")[0] == "torch"


def _check_can_be_joined(first: Any, second: Any) -> None:
    """Check that the rows of both can be joined."""
    if any(isinstance(X, Rows) for X in (first, second)):
        types = {type(first), type(second)}
        if types != {FileRows} or (first.dtype, first.shape[1]) != (second.dtype, second.shape[1]):
            raise TypeError(
                f"X_train is a {type(first).__name__} and validation[0] a {type(second).__name__}; pass both from "
                "open_rows, with the same features and the same type"
            )
        return
    if (has_columns(first) or _is_tensor(first)) and type(second) is not type(first):
        raise TypeError(
            f"X_train is a {type(first).__name__} and validation[0] a {type(second).__name__}; pass both in the same "
            "type"
        )
    if has_columns(first) and column_names(first) != column_names(second):
        raise ValueError("validation[0] has other columns than X_train, or in another order; pass the same columns")
