"""Ctrl-C at any point leaves a usable or unchanged model, and restores signals, BLAS and threads.

The training loop's own handling is in tests/test_trainer.py, a sweep's in tests/search/test_sweep.py.
"""

from __future__ import annotations

import pkgutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from gpusoftmax import SoftmaxClassifier, SoftmaxClassifierCV, linear_probe, sweep, train_cs231n
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu import threads
from gpusoftmax.cpu.threads import for_each
from gpusoftmax.protocols.cs231n import sweep_cs231n
from gpusoftmax.search import runner
from gpusoftmax.solvers import sgd
from tests.support.cases import noisy_classes, sweep_with
from tests.support.installed import BACKENDS
from tests.support.processes import HANGS, run_script, settings_of_blas

X, Y = noisy_classes(n=200)
WIDER = np.hstack([X, X[:, :2] ** 2])


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_before(monkeypatch: pytest.MonkeyPatch, name: str, nth: int = 1) -> list[str]:
    """Ctrl-C as the function of this name is called for the nth time; the list tells of the calls so far."""
    function, calls = pkgutil.resolve_name(name), list[str]()

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == nth:
            press()
        return function(*arguments, **options)

    monkeypatch.setattr(name, pressed)
    return calls


def press_in_training(monkeypatch: pytest.MonkeyPatch, module: str, nth: int = 1) -> list[str]:
    """Ctrl-C after the first pass of the nth training that a module asks for."""
    train, calls = pkgutil.resolve_name(f"gpusoftmax.{module}.train"), list[str]()

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(module)
        own = [lambda record: press()] if len(calls) == nth else []
        return train(*arguments, **{**options, "callbacks": [*options.get("callbacks", ()), *own]})

    monkeypatch.setattr(f"gpusoftmax.{module}.train", pressed)
    return calls


def fitted_bits(backend: Backend) -> list[bytes]:
    model = SoftmaxClassifier(backend=backend.name, n_threads=3).fit(X, Y)
    return [one.tobytes() for one in (model.coef_, model.intercept_, model.predict_proba(X))]


# all CPU backends share the code of threads and signals, so the quick tests try the compiled one only
@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.compiled if name == "cpu" else pytest.mark.slow) for name in BACKENDS]
)
def cpu_backend(request: pytest.FixtureRequest) -> Backend:
    """Each CPU backend that works here."""
    return get_backend(request.param, n_threads=2)


@pytest.fixture
def unharmed(cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, three_blas_threads: None) -> Iterator[None]:
    """After the test all but the model is as ever. During it Ctrl-C is Python's own, as in a terminal."""
    monkeypatch.setattr(threads, "LEAF_ELEMENTS", 1)  # leaves of 64 rows
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    bits, blas = fitted_bits(cpu_backend), settings_of_blas()
    yield
    after = signal.signal(signal.SIGINT, handler)
    assert after is signal.default_int_handler
    assert settings_of_blas() == blas
    assert for_each(sum, 9, 3) == [3, 12, 21]
    assert fitted_bits(cpu_backend) == bits


# one model

LBFGS, SGD = "gpusoftmax.solvers.lbfgs.LBFGS", "gpusoftmax.solvers.sgd.SGD"
BEFORE_ANY = {
    "features are checked": "gpusoftmax.features.read.check_features",
    "labels are checked": "gpusoftmax.estimators.problem.encode_labels",
    "validation labels are checked": "gpusoftmax.estimators.problem.encode_known_labels",
    "moments are taken": "gpusoftmax.cpu.ops.CpuOperations.column_moments",
}
AFTER_ANY = {
    "weights are written": "gpusoftmax.estimators.fitting.set_weights",
    "the report is made": "gpusoftmax.estimators.fitting.FitReport",
    "the history is written": "gpusoftmax.estimators.fitting.set_history",
}
OUTSIDE = {  # of the passes: by solver
    "lbfgs": BEFORE_ANY
    | {
        "the sample is drawn": "gpusoftmax.solvers.lbfgs.GramSample",
        "its curvature is factored": "gpusoftmax.solvers.preconditioners.gram.GramInverse.inverse",
        "the certificate is worked out": "gpusoftmax.estimators.fitting.certify",
        "its intercepts are solved for": "gpusoftmax.solvers.certificate.best_intercept_change",
    }
    | AFTER_ANY,
    "sgd": BEFORE_ANY | {"the learning rate is found": "gpusoftmax.solvers.sgd.automatic_learning_rate"} | AFTER_ANY,
}
WITHIN = {
    "lbfgs": {
        "a step begins": f"{LBFGS}.step",
        "a pass": "gpusoftmax.cpu.ops.CpuOperations.linear_gradient",
        "the step is judged": "gpusoftmax.solvers.lbfgs._accept_trials",
        "the validation set is measured": "gpusoftmax.objective.objective.Objective.losses",
        "a line of history is written": "gpusoftmax.trainer._record",
    },
    "sgd": {
        "a stretch begins": f"{SGD}.step",
        "minibatches": "gpusoftmax.objective.objective.Objective.sgd_steps",
        "the end of an epoch": f"{SGD}._end_epoch",
        "the validation set is measured": "gpusoftmax.objective.objective.Objective.losses",
        "a line of history is written": "gpusoftmax.trainer._record",
    },
}


def cases(phases: dict[str, dict[str, str]]) -> Any:
    return pytest.mark.parametrize(
        ("solver", "place"),
        [
            pytest.param(solver, place, id=f"{solver}, {phase}")
            for solver, of in phases.items()
            for phase, place in of.items()
        ],
    )


def fit(model: SoftmaxClassifier, X: Any) -> SoftmaxClassifier:
    return model.fit(X, Y, validation=(X, Y))


def is_as_it_was(model: Any, before: dict[str, Any]) -> bool:
    return vars(model).keys() == before.keys() and all(vars(model)[name] is value for name, value in before.items())


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("known", [False, True], ids=["new", "fitted to other columns"])
@cases(OUTSIDE)
def test_ctrl_c_outside_the_passes_leaves_the_model_as_it_was(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, solver: str, place: str, known: bool
) -> None:
    model = SoftmaxClassifier(solver=solver, max_iter=8, tol=0.0, backend=cpu_backend.name, n_threads=3)
    if known:
        fit(model, WIDER)
    before = dict(vars(model))
    press_before(monkeypatch, place)
    with pytest.raises(KeyboardInterrupt):
        fit(model, X)
    assert is_as_it_was(model, before)


@pytest.mark.usefixtures("unharmed")
@cases(WITHIN)
def test_ctrl_c_within_the_passes_ends_them_with_a_model_that_predicts(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, solver: str, place: str
) -> None:
    press_before(monkeypatch, place, nth=3)
    model = SoftmaxClassifier(solver=solver, max_iter=8, tol=0.0, backend=cpu_backend.name, n_threads=3)
    fit(model, X)
    assert (model.stop_reason_, model.fit_report_.reason) == ("interrupted", "interrupted")
    assert len(model.history_) in (3, 4)  # the first step is not judged
    assert model.score(X, Y) > 0.5  # a third by chance


STREAM = {
    "features are checked": "gpusoftmax.features.read.check_features",
    "moments are taken": "gpusoftmax.cpu.ops.CpuOperations.column_moments",
    "the learning rate is found": "gpusoftmax.estimators.fitting.automatic_learning_rate",
    "weights are written": "gpusoftmax.estimators.fitting.set_weights",
    "the history is written": "gpusoftmax.estimators.fitting.set_history",
    "the velocity is kept": "gpusoftmax.estimators.classifiers.stream_after",
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("known", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("place", STREAM.values(), ids=STREAM)
def test_ctrl_c_outside_the_pass_of_partial_fit_leaves_the_model_as_it_was(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str, known: bool
) -> None:
    model = SoftmaxClassifier(solver="sgd", backend=cpu_backend.name, n_threads=3)
    if known:
        model.partial_fit(X, Y)
    before = dict(vars(model))
    press_before(monkeypatch, place)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(np.vstack([X, X]), np.append(Y, Y))
    assert is_as_it_was(model, before)
    model.partial_fit(X, Y)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_within_the_pass_of_partial_fit_counts_what_was_done(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 64)
    press_before(monkeypatch, f"{SGD}.step")
    model = SoftmaxClassifier(solver="sgd", batch_size=32, backend=cpu_backend.name, n_threads=3).partial_fit(X, Y)
    assert (model.stop_reason_, model.history_, model.weight_sum_) == ("interrupted", [], 200)
    assert model.score(X, Y) > 0.5
    assert model.partial_fit(X, Y).stop_reason_ == "finished"


@pytest.mark.usefixtures("unharmed")
def test_after_ctrl_c_before_the_first_pass_a_model_says_that_it_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    press_before(monkeypatch, BEFORE_ANY["moments are taken"])
    model = SoftmaxClassifier(backend="cpu")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_error_within_a_fit_leaves_the_model_as_it_was(error: type[BaseException]) -> None:
    def fail(record: Any) -> None:
        raise error

    model = SoftmaxClassifier(backend="cpu").fit(WIDER, Y)
    model.set_params(callbacks=[fail])
    before = dict(vars(model))
    with pytest.raises(error):
        model.fit(X, Y)
    assert is_as_it_was(model, before)


REFUSED = {  # a fit of other columns, and what is wrong with it
    "labels": {"y": Y[:5]},
    "weights": {"sample_weight": -np.ones(200)},
    "validation": {"validation": (X, Y)},
    "the model's own start": {},
    "the model's classes": {"X": X, "y": Y + 1},
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_a_fit_that_is_refused_leaves_the_model_as_it_was(arguments: Any) -> None:
    model = SoftmaxClassifier(backend="cpu", warm_start=True).fit(X, Y)
    before = dict(vars(model))
    with pytest.raises(ValueError):  # noqa: PT011 - which error is not the question
        model.fit(**{"X": WIDER, "y": Y, **arguments})
    assert is_as_it_was(model, before)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("operation", ["predict", "predict_proba", "decision_function"])
def test_ctrl_c_ends_a_prediction_at_once(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    model = SoftmaxClassifier(backend=cpu_backend.name, n_threads=3).fit(X, Y)
    press_before(monkeypatch, "gpusoftmax.cpu.ops.for_each")
    with pytest.raises(KeyboardInterrupt):
        getattr(model, operation)(X)


# the handler


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as the training loop gives Python's own handler back."""
    install = signal.signal

    def pressed(number: int, handler: Any) -> Any:
        if handler is signal.default_int_handler:
            monkeypatch.setattr("gpusoftmax.trainer.signal.signal", install)
            press()
        return install(number, handler)

    monkeypatch.setattr("gpusoftmax.trainer.signal.signal", pressed)


@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_at_the_last_moment_of_training_is_not_lost(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_last_moment(monkeypatch)
    assert SoftmaxClassifier(backend=cpu_backend.name).fit(X, Y).stop_reason_ == "interrupted"


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_a_second_ctrl_c_at_the_last_moment_leaves_pythons_own_handler(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_last_moment(monkeypatch)
    model = SoftmaxClassifier(backend=cpu_backend.name, callbacks=[lambda record: press()])
    try:
        model.fit(X, Y)
    except KeyboardInterrupt:
        assert not hasattr(model, "coef_")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# the pool


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to a thread")
@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_while_the_caller_waits_is_raised_after_all_runs_have_ended() -> None:
    """A run that was left alone wrote into buffers that the next pass had taken."""
    own, received, ended = threading.Event(), threading.Event(), list[int]()

    def interrupt(number: int, frame: Any) -> None:
        received.set()
        raise KeyboardInterrupt

    def work(run: range) -> None:
        if run.start == 0:
            ended.append(0)
            own.set()
            return
        own.wait(HANGS)
        while not received.is_set():  # once more where it came just before the caller waits, which wakes nobody
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            received.wait(1.0)
        sum(range(3_000_000))  # some 50 ms: longer than the caller takes to get away
        ended.append(run.start)

    signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            for_each(work, 2, 2)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert ended == [0, 1]


# many models

GRID = {"C": [0.01, 0.1, 1.0]}
RATES = {"learning_rate": [0.1, 0.03]}


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_before_a_sweep_has_anything_is_an_interrupt(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_in_training(monkeypatch, "search.exact", nth=2)  # the first candidate's second split
    with pytest.raises(KeyboardInterrupt):
        sweep(SoftmaxClassifier(backend=cpu_backend.name, n_threads=3), GRID, X, Y, cv=2)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "place", ["a pass", "gpusoftmax.search.exact.Path.start", "gpusoftmax.search.runner.SweepRun._measure"]
)
def test_ctrl_c_within_a_sweep_keeps_the_candidates_that_are_done(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    nth = 4  # the second candidate's second split
    if place == "a pass":
        press_in_training(monkeypatch, "search.exact", nth)
    else:
        press_before(monkeypatch, place, nth)
    result = sweep(SoftmaxClassifier(backend=cpu_backend.name, n_threads=3), GRID, X, Y, cv=2)
    assert (result.interrupted_, np.isnan(result.mean_scores_).tolist()) == (True, [False, True, True])
    assert (result.best_params_, result.best_estimator_.stop_reason_) == ({"C": 0.01}, "converged")


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_within_a_sweeps_last_fit_is_told(cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    press_in_training(monkeypatch, "estimators.solving")
    result = sweep(SoftmaxClassifier(tol=1e-9, backend=cpu_backend.name, n_threads=3), GRID, X, Y, cv=2)
    assert (result.interrupted_, result.best_estimator_.stop_reason_) == (True, "interrupted")
    assert "interrupted: the best one's fit to all rows was not completed" in result.report


AROUND = {  # the passes of a sweep's last fit: what Ctrl-C comes before
    "the choice": "gpusoftmax.search.sweep.choose",
    "out-of-fold predictions": "gpusoftmax.search.sweep.is_partition",
    "the last fit": "gpusoftmax.search.sweep.problem_of",
    "its certificate": "gpusoftmax.estimators.fitting.certify",
    "its publication": "gpusoftmax.estimators.solving.set_fitted",
}


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("place", AROUND.values(), ids=AROUND)
def test_ctrl_c_around_a_sweeps_last_fit_keeps_the_sweep(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str, solver: str
) -> None:
    if solver == "sgd" and place.endswith("certify"):
        pytest.skip("SGD has no certificate")
    common: dict[str, Any] = {"cv": 2, "solver": solver, "max_iter": 5, "tol": 0.0, "out_of_fold": True}
    common |= {"backend": cpu_backend.name, "n_threads": 3}
    whole = sweep_with(X, Y, GRID, **common)
    press_before(monkeypatch, place)
    result = sweep_with(X, Y, GRID, **common)
    assert (result.interrupted_, result.best_params_) == (True, whole.best_params_)
    assert result.trials.score.tolist() == whole.trials.score.tolist()
    assert result.best_estimator_ is None
    assert "interrupted: the best one's fit to all rows was not made" in result.report
    if place.endswith(("choose", "is_partition")):
        with pytest.raises(AttributeError, match="Ctrl-C came before they were made"):
            _ = result.out_of_fold_predictions_
    else:
        assert result.out_of_fold_predictions_.tolist() == whole.out_of_fold_predictions_.tolist()


@pytest.mark.usefixtures("unharmed")
def test_after_ctrl_c_a_model_of_all_rows_from_the_sweep_stands_in_for_the_last_fit(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    common: dict[str, Any] = {"validation": (X, Y), "backend": cpu_backend.name, "n_threads": 3}
    whole = sweep_with(X, Y, GRID, **common)
    press_before(monkeypatch, AROUND["its certificate"])
    result = sweep_with(X, Y, GRID, **common)
    assert "was not made, its model from the sweep is used" in result.report
    np.testing.assert_allclose(
        result.best_estimator_.predict_proba(X), whole.best_estimator_.predict_proba(X), atol=0.01
    )


@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_within_the_first_pass_of_a_sweep_by_sgd_counts_its_models_as_they_are(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 64)
    press_before(monkeypatch, f"{SGD}.step")
    common: dict[str, Any] = {"batch_size": 32, "backend": cpu_backend.name, "n_threads": 3}
    result = sweep_with(X, Y, RATES, validation=0.3, refit=False, **common)
    assert (result.interrupted_, result.trials.status.tolist()) == (True, [["interrupted"] * 2])
    assert result.best_score_ > 0.5


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("place", [0, 1], ids=["before the scores", "after the scores"])
def test_ctrl_c_as_a_rung_forgets_the_one_before_falls_back_to_that(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    class Measures:
        times = 0

        def __iter__(self) -> Iterator[str]:
            self.times += 1
            for i, name in enumerate(names):
                if self.times == 2 and i == place:  # the second rung
                    press()
                yield name

    names, grid = runner.MEASURES, {"learning_rate": [0.1, 0.03, 0.01]}
    monkeypatch.setattr(runner, "MEASURES", Measures())
    common: dict[str, Any] = {"cv": 2, "refit": False, "tol": 0.0, "backend": cpu_backend.name, "n_threads": 3}
    result = sweep_with(X, Y, grid, halving=3, max_iter=6, **common)
    first = sweep_with(X, Y, grid, max_iter=2, **common)
    assert result.interrupted_
    assert result.trials.score.tolist() == first.trials.score.tolist()


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("known", [False, True], ids=["new", "fitted to other columns"])
@pytest.mark.parametrize(
    "place",
    ["gpusoftmax.estimators.problem.encode_labels", "gpusoftmax.search.classifier_cv.np.mean"],
)
def test_ctrl_c_outside_the_passes_of_cross_validation_leaves_the_model_as_it_was(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str, known: bool
) -> None:
    model = SoftmaxClassifierCV([0.1, 1.0], cv=2, backend=cpu_backend.name, n_threads=3)
    if known:
        model.fit(WIDER, Y)
    model.set_params(refit=not place.endswith("mean"))  # of the folds' models
    before = dict(vars(model))
    press_before(monkeypatch, place)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert is_as_it_was(model, before)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("module", "nth", "words"),
    [
        ("search.exact", 3, "interrupted: C_ is the best of the 1 of 2 values that were done, Cs_$"),
        (
            "estimators.solving",
            1,
            "2 of 2 values that were done, Cs_; the last fit, to all rows, was not completed",
        ),
    ],
    ids=["on the path", "in the last fit"],
)
def test_ctrl_c_within_cross_validation_is_told_and_the_model_predicts(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, module: str, nth: int, words: str
) -> None:
    press_in_training(monkeypatch, module, nth)
    model = SoftmaxClassifierCV([0.1, 1.0], cv=2, tol=1e-9, backend=cpu_backend.name, n_threads=3)
    with pytest.warns(UserWarning, match=words):
        model.fit(X, Y)
    assert model.predict(X).shape == (200,)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("place", ["its certificate", "the last fit"])
def test_ctrl_c_around_the_last_fit_of_cross_validation_leaves_means_of_the_folds_models(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    common: dict[str, Any] = {"cv": 2, "backend": cpu_backend.name, "n_threads": 3}
    whole = SoftmaxClassifierCV([0.1, 1.0], **common).fit(X, Y)
    press_before(monkeypatch, AROUND[place])
    model = SoftmaxClassifierCV([0.1, 1.0], **common)
    with pytest.warns(
        UserWarning, match="to all rows, was not made: coef_ and intercept_ are means of the folds' models"
    ):
        model.fit(X, Y)
    assert (model.C_, model.scores_.tolist()) == (whole.C_, whole.scores_.tolist())
    k = model.Cs_.tolist().index(model.C_)
    folds = whole.coefs_paths_[:, 0, k]
    np.testing.assert_array_equal(model.coef_, folds[..., :-1].mean(axis=0))
    np.testing.assert_array_equal(model.intercept_, folds[..., -1].mean(axis=0))
    with pytest.raises(ValueError, match="Ctrl-C came before the fit to all rows"):
        model.to_sklearn()


COURSE: dict[str, Any] = {"n_iterations": 500, "batch_size": 40}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("place", [BEFORE_ANY["moments are taken"], "gpusoftmax.protocols.cs231n.recipe.set_fitted"])
def test_ctrl_c_outside_the_passes_of_the_course_is_an_interrupt(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    press_before(monkeypatch, place)
    with pytest.raises(KeyboardInterrupt):
        train_cs231n(X, Y, learning_rate=0.1, reg=1e-3, backend=cpu_backend.name, n_threads=3, **COURSE)


@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_within_the_passes_of_the_course_keeps_the_model(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_in_training(monkeypatch, "search.minibatch")
    model = train_cs231n(X, Y, learning_rate=0.1, reg=1e-3, backend=cpu_backend.name, n_threads=3, **COURSE)
    assert (model.stop_reason_, model.n_iter_) == ("interrupted", 1)
    assert model.predict(X).shape == (200,)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_ctrl_c_within_the_courses_sweep_keeps_its_models(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_in_training(monkeypatch, "search.minibatch")
    found = sweep_cs231n(
        X, Y, (X, Y), learning_rates=[0.1, 0.2], regs=[1e-3], backend=cpu_backend.name, n_threads=3, **COURSE
    )
    assert "interrupted: not all iterations were done" in found.report
    assert found.best_estimator.predict(X).shape == (200,)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("protocol", "module", "nth", "told"),
    [
        ("clip", "search.exact", 3, ["not all values were tried"]),
        ("clip", "estimators.solving", 1, ["training was not completed"]),
        ("dinov2-linear", "search.minibatch", 1, ["training was not completed"]),
    ],
    ids=["on the path", "in the last fit", "by SGD"],
)
def test_ctrl_c_within_a_linear_probe_is_told(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, protocol: str, module: str, nth: int, told: list[str]
) -> None:
    monkeypatch.setattr("gpusoftmax.protocols.linear_probe.TOL", 1e-9)
    press_in_training(monkeypatch, module, nth)
    found = linear_probe(X, Y, X[:90], Y[:90], protocol=protocol, backend=cpu_backend.name, n_threads=3)
    notes = [line.split("interrupted: ")[1] for line in found.report.splitlines() if "interrupted" in line]
    assert notes == told
    assert found.estimator.predict(X).shape == (200,)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("given", [False, True], ids=["drawn", "given"])
@pytest.mark.parametrize(
    "place", ["gpusoftmax.estimators.fitting.certify", "gpusoftmax.protocols.linear_probe.measure"]
)
def test_ctrl_c_around_the_last_fit_of_a_linear_probe_keeps_the_choice(
    cpu_backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str, given: bool
) -> None:
    common: dict[str, Any] = {"protocol": "dinov2-logreg", "backend": cpu_backend.name, "n_threads": 3}
    common |= {"validation": (X[:50], Y[:50])} if given else {}
    whole = linear_probe(X, Y, X[:90], Y[:90], **common)
    press_before(monkeypatch, place)
    found = linear_probe(X, Y, X[:90], Y[:90], **common)
    assert (found.chosen, found.test) == (whole.chosen, None)
    assert (found.estimator is None) == place.endswith("certify")
    assert ("the last fit was not made" in found.report) == place.endswith("certify")
    assert "interrupted: test rows were not measured" in found.report
    assert "interrupted" in repr(found)


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "command", [["train", "digits"], ["sweep", "digits", "--C", "0.1"], ["sweep", "digits", "--C", "1", "--cv", "2"]]
)
def test_ctrl_c_before_the_last_fit_of_a_command_tells_the_choice(
    monkeypatch: pytest.MonkeyPatch, command: list[str], tmp_path: Path, run: Any
) -> None:
    press_before(monkeypatch, AROUND["its certificate"])
    options = ["--quiet", "--backend", "cpu", "--json", *(["--out", str(tmp_path)] if command[0] == "sweep" else [])]
    result = run(*command, *options)
    told = result.json
    assert result.code == 130
    if command[0] == "train":
        assert (told["C"] > 0, told["fit_report"], told["test_accuracy"] > 0.9) == (True, None, True)
    else:
        assert (told["interrupted"], len(told["candidates"])) == (True, 1)
        assert ((told["test_accuracy"] is None), (tmp_path / "model.safetensors").exists()) == (
            ("--cv" in command), ("--cv" not in command),
        )  # fmt: skip


# any place

ANYWHERE = """
import faulthandler, signal, sys, warnings
import numpy as np
from threadpoolctl import threadpool_info
from gpusoftmax import SoftmaxClassifier, SoftmaxClassifierCV, sweep
from gpusoftmax.cpu import threads

faulthandler.dump_traceback_later(50, exit=True)
warnings.simplefilter("ignore")
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
threads.LEAF_ELEMENTS = 1  # leaves of 64 rows
rng = np.random.default_rng(0)
X, y = rng.standard_normal((200, 5)), rng.integers(0, 3, 200)
wider = np.hstack([X, X])
common = {"backend": "numpy", "n_threads": 3}
exact = SoftmaxClassifier(max_iter=20, **common)
sgd = SoftmaxClassifier(solver="sgd", max_iter=3, tol=0.0, **common)
cv = SoftmaxClassifierCV(Cs=[0.1, 1.0], cv=2, **common)
short = SoftmaxClassifier(max_iter=2, **common)
rates = {"learning_rate": [0.1, 0.03]}
prepare, act = {  # what makes the model as it was, and what Ctrl-C ends
    "fit": (lambda: exact.fit(wider, y > 0), lambda: exact.fit(X, y)),
    "fit by SGD": (lambda: sgd.fit(wider, y > 0), lambda: sgd.fit(X, y, validation=(X, y))),
    "partial_fit": (lambda: sgd.fit(X[:100], y[:100]), lambda: sgd.partial_fit(X, y)),
    "predict_proba": (lambda: exact.fit(X, y), lambda: exact.predict_proba(X)),
    "SoftmaxClassifierCV": (lambda: cv.fit(wider, y > 0), lambda: cv.fit(X, y)),
    "sweep": (lambda: exact, lambda: sweep(SoftmaxClassifier(**common), {"C": [0.1, 1.0]}, X, y, cv=2)),
    "sweep by SGD": (lambda: exact, lambda: sweep(short, rates, X, y, cv=2, halving=2)),
}[sys.argv[1]]
model = prepare()
before = dict(vars(model))

class Press:
    # where Python itself looks for signals: as a function is entered, and as one in C has ended
    def __init__(self, at):
        self.at, self.seen, self.where = at, 0, None

    def __call__(self, frame, event, argument):
        if event in ("call", "c_return"):
            self.seen += 1
            if self.seen == self.at:
                sys.setprofile(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)

def run(press=None):
    model.__dict__ = dict(before)
    threads._pool = threads._Pool()  # without threads, so that their start is among the places
    sys.setprofile(press)
    try:
        result = act()
    finally:
        sys.setprofile(None)
    fitted = getattr(result, "best_estimator_", model) or result.models_[0, result.best_index_]
    return fitted.coef_.tobytes(), np.isfinite(fitted.predict_proba(X)).all()

def settings():
    blas = [library["num_threads"] for library in threadpool_info()]
    return blas, signal.getsignal(signal.SIGINT) is signal.default_int_handler

def after(press):
    try:
        return [] if run(press)[1] else ["the model is not usable"]
    except KeyboardInterrupt:
        now = vars(model)
        as_it_was = now.keys() == before.keys() and all(now[name] is before[name] for name in now)
        return [] if as_it_was or now["coef_"].tobytes() == expected[0] else ["the model is half fitted"]

expected, calm, every, faults = run(), settings(), Press(0), []
run(every)
for at in np.unique(np.linspace(1, every.seen, int(sys.argv[2])).astype(int)).tolist():
    press = Press(at)
    faults += [(press.where, fault) for fault in after(press)]
    if settings() != calm:
        faults.append((press.where, "BLAS or the handler is changed", settings()))
        break
if run() != expected:
    faults.append("other bits afterwards")
print(*faults, sep="\\n", end="")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "places"),
    [
        ("fit", 20),
        ("fit by SGD", 20),
        ("partial_fit", 20),
        ("predict_proba", 100),
        ("SoftmaxClassifierCV", 15),
        ("sweep", 15),
        ("sweep by SGD", 15),
    ],
)
def test_ctrl_c_at_any_place_harms_nothing(what: str, places: int) -> None:
    done = run_script(ANYWHERE, what, str(places))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
