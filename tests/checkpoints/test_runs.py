"""Fits and sweeps that were cut off continue from their checkpoints with the same bits; other runs are refused."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from gpusoftmax import (
    BadFileError,
    DivergenceError,
    EarlyStopping,
    LinearSVMClassifier,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    fit_path,
    sweep,
)
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.checkpoints import checkpoint as checkpoints
from gpusoftmax.checkpoints.file import read, write
from gpusoftmax.checkpoints.identity import SAMPLED
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.files.atomic import previous_of
from gpusoftmax.solvers import LBFGS, SGD, lbfgs, sgd
from gpusoftmax.trainer import train
from tests.support.cases import objective_of, sha256, zeros_for
from tests.tools import kills

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)
X = (rng.standard_normal((600, 20)) * np.linspace(1, 30, 20)).astype(np.float32)
Y = (X @ rng.standard_normal((20, 4)) * 0.3 + 0.1 * rng.gumbel(size=(600, 4))).argmax(axis=1)
VALIDATION = X[:150], Y[:150]
WEIGHTS = np.arange(600) % 3
PROPORTIONS = rng.dirichlet(np.ones(3), 600)
WORDS = sparse.random(400, 600, 0.03, format="csr", random_state=0, dtype=np.float32)
TOPICS = (WORDS @ rng.standard_normal((600, 4)) + 0.1 * rng.gumbel(size=(400, 4))).argmax(axis=1)
FEW, FEW_Y = rng.standard_normal((60, 200)).astype(np.float32), np.arange(60) % 3


class CutOff(Exception):  # noqa: N818 - it stands for the end of a process
    """The end of a process, as a test has it."""


class Steps:
    """Counts the steps of all solvers, and cuts a run off before the one after `last`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.last = 0, 10**9
        for solver in (LBFGS, SGD):
            monkeypatch.setattr(solver, "step", self.counted(solver.step))

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(solver: Any, objective: Any, state: Any) -> Any:
            if self.made == self.last:
                raise CutOff
            self.made += 1
            return step(solver, objective, state)

        return counted

    def of(self, run: Callable[[], Any], last: int = 10**9) -> tuple[Any, int]:
        """What a run returns, or None if it is cut off, and how many steps it made."""
        self.made, self.last = 0, last
        try:
            return run(), self.made
        except CutOff:
            return None, self.made
        finally:
            self.last = 10**9


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps in each of SGD's epochs, early new preconditioners of L-BFGS, and no waiting for the disk."""
    monkeypatch.setattr(sgd, "STRETCH_ROWS", 200)
    monkeypatch.setattr(lbfgs, "STEPS_TO_GO", 4)
    monkeypatch.setattr(lbfgs, "REFRESH_COST_FACTOR", 0.0)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ckpt"


def bits_of_fit(model: Any) -> Any:
    """All of a fit that a continued one has to repeat."""
    history = [replace(record, seconds=0.0, rows_per_second=0.0) for record in model.history_]
    report = replace(model.fit_report_, seconds=0.0)
    return sha256(model.coef_, model.intercept_), history, report, model.n_iter_, model.stop_reason_


def bits_of_sweep(result: Any) -> Any:
    """All of a sweep that a continued one has to repeat."""
    trials = {
        name: np.nan_to_num(value, nan=-1.0).tolist() for name, value in vars(result.trials).items() if name != "status"
    }
    models = {key: sha256(model.coef_, model.intercept_) for key, model in result.models_.items()}
    best = None if result.best_estimator_ is None else bits_of_fit(result.best_estimator_)
    return trials, result.trials.status.tolist(), models, best, result.best_index_


def fit(model: Any, *data: Any, **named: Any) -> Callable[..., Any]:
    return lambda **kept: bits_of_fit(model.fit(*data, **named, **kept))


def swept(estimator: Any, grid: Any, *data: Any, **named: Any) -> Callable[..., Any]:
    return lambda **kept: bits_of_sweep(sweep(estimator, grid, *data, **named, **kept))


FITS = {
    "L-BFGS with a new preconditioner": fit(SoftmaxClassifier(C=1e6, tol=0, max_iter=40), X, Y),
    "L-BFGS of few rows": fit(SoftmaxClassifier(C=1e3, tol=1e-7, scaling="standard"), FEW, FEW_Y),
    "L-BFGS of sparse rows": fit(SoftmaxClassifier(C=1e4, tol=1e-8, max_iter=40), WORDS, TOPICS),
    "L-BFGS stopped early": fit(
        SoftmaxClassifier(C=1e5, tol=0, callbacks=[EarlyStopping(3)]), X, Y, validation=VALIDATION
    ),
    "L-BFGS of soft labels": fit(SoftmaxClassifier(C=10), X, PROPORTIONS, sample_weight=WEIGHTS),
    "SGD": fit(SoftmaxClassifier(solver="sgd", batch_size=64, max_iter=30), X, Y, validation=VALIDATION),
    "SGD of sparse rows": fit(SoftmaxClassifier(solver="sgd", max_iter=8), WORDS, TOPICS),
    "SGD of an SVM": fit(
        LinearSVMClassifier(loss="hinge", max_iter=8, class_weight="balanced"), X, Y, sample_weight=WEIGHTS
    ),
    "from a model": fit(
        SoftmaxClassifier(C=1e4, tol=1e-6), X, Y, start_from=SoftmaxClassifier(C=1.0, tol=0.1).fit(X, Y)
    ),
}
SWEEPS = {
    "along paths": swept(SoftmaxClassifier(scaling="standard"), {"C": [1e-3, 1e-1, 10, 1e4]}, X, Y, cv=3),
    "along paths that are found": swept(
        SoftmaxClassifier(), {"C": "auto", "class_weight": [None, "balanced"]}, X, Y, cv=2, scoring="log_loss"
    ),
    "along paths of sparse rows": swept(SoftmaxClassifier(tol=1e-6), {"C": [1, 1e3]}, WORDS, TOPICS, cv=2),
    "along paths of few rows": swept(
        SoftmaxClassifier(tol=1e-7, scaling="standard"),
        {"C": [1.0], "class_weight": [None, "balanced"]},
        FEW,
        FEW_Y,
        cv=2,
    ),
    "by SGD with halving": swept(
        SoftmaxClassifier(schedule="cosine", max_iter=4),
        {"C": [1, 1e2, 1e4], "learning_rate": [1e-4, 1e-3, 1e9]},
        X,
        Y,
        cv=2,
        halving=3,
    ),
    "SoftmaxClassifierCV": lambda **kept: bits_of_sweep(SoftmaxClassifierCV(Cs=4, cv=3).fit(X, Y, **kept).sweep_),
    "fit_path": lambda **kept: bits_of_sweep(fit_path(SoftmaxClassifier(), X, Y, validation=VALIDATION, **kept)),
}


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_every_backend_continues_with_the_same_bits(
    solver: str, backend: Backend, steps: Steps, tmp_path: Path
) -> None:
    model = SoftmaxClassifier(solver=solver, max_iter=6, tol=1e-3, backend=backend.name)
    runs = fit(model, X, Y, validation=VALIDATION), swept(model, {"C": [0.1, 1.0, 10.0]}, X, Y, cv=2)
    for number, run in enumerate(runs):
        alone, total = steps.of(run)
        for last in (total // 3, 2 * total // 3):
            kept = {"checkpoint": tmp_path / f"{number} {last}.ckpt", "checkpoint_every": 0.0}
            assert steps.of(lambda run=run, kept=kept: run(**kept), last) == (None, last)
            assert steps.of(lambda run=run, kept=kept: run(**kept)) == (alone, total - last)


RENEWING = (
    *("L-BFGS with a new preconditioner", "L-BFGS of sparse rows"),
    *("along paths of sparse rows", "along paths of few rows"),
)


@pytest.mark.parametrize("name", [*FITS, *(pytest.param(name, marks=pytest.mark.slow) for name in SWEEPS)])
def test_a_run_that_was_cut_off_continues_with_the_same_bits(name: str, steps: Steps, tmp_path: Path) -> None:
    run = (FITS | SWEEPS)[name]
    alone, total = steps.of(run)
    for last in {total // 3, 2 * total // 3, total - 1} if name in SWEEPS else {1, 2, total // 2, total - 1}:
        kept = {"checkpoint": tmp_path / f"{last}.ckpt", "checkpoint_every": 0.0}
        assert steps.of(lambda kept=kept: run(**kept), last) == (None, last)
        assert steps.of(lambda kept=kept: run(**kept)) == (alone, total - last)
        assert steps.of(lambda kept=kept: run(**kept)) == (alone, 0)  # it is finished


@pytest.mark.parametrize("name", RENEWING)
def test_these_runs_renew_their_preconditioners(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed, renew = [], LBFGS._renew
    monkeypatch.setattr(LBFGS, "_renew", lambda *arguments: renewed.append(name) or renew(*arguments))
    (FITS | SWEEPS)[name]()
    assert renewed


def test_a_run_may_be_cut_off_many_times_and_have_other_threads(steps: Steps, path: Path) -> None:
    def run(threads: int, **kept: Any) -> Any:
        return bits_of_fit(SoftmaxClassifier(C=1e6, tol=0, max_iter=50, n_threads=threads).fit(X, Y, **kept))

    alone, total = steps.of(lambda: run(2))
    for threads in [1, 2, 3] * 4:
        steps.of(lambda threads=threads: run(threads, checkpoint=path, checkpoint_every=0.0), 4)
    found, made = steps.of(lambda: run(1, checkpoint=path))
    assert found == alone
    assert made == total - 12 * 4


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_fits_that_are_killed_end_as_if_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # to fsync
    assert kills.kill_fits(kills=6, seed=0).count("as a fit that was left alone") == 2


# when it is written


def test_a_checkpoint_is_written_when_it_is_due_and_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoints, "write", lambda *arguments, **options: written.append(now[0]))

    def tick(record: Any) -> None:
        now[0] += 1.0

    SoftmaxClassifier(C=1e5, tol=0, max_iter=8, callbacks=[tick]).fit(X, Y, checkpoint=path, checkpoint_every=3.0)
    assert written == [3.0, 6.0, 9.0]
    assert not path.exists()


def test_a_diverged_fit_diverges_again_at_once(steps: Steps, path: Path) -> None:
    model = SoftmaxClassifier(solver="sgd", learning_rate=1e9)
    for most in (10**9, 0):
        with pytest.raises(DivergenceError, match="the learning rate is too large") as raised:
            steps.of(lambda: model.fit(X, Y, checkpoint=path), most)
        assert raised.value.result.reason == "diverged"


def test_callbacks_are_not_called_again_for_earlier_passes(steps: Steps, path: Path) -> None:
    seen: list[float] = []
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8, callbacks=[lambda record: seen.append(record.step)])
    steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 4)
    model.fit(X, Y, checkpoint=path)
    assert seen == [*range(1, 10)]


def test_the_seconds_of_a_continued_fit_include_those_before(
    steps: Steps, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8)
    steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 4)
    found = read(path)
    assert found is not None
    found[2]["running"]["account"]["seconds"] = 1000.0
    write(path, *found[1:])
    model.fit(X, Y, checkpoint=path)
    assert model.fit_report_.seconds > 1000
    assert [record.seconds > 1000 for record in model.history_] == [False] * 4 + [True] * 5


def test_on_candidate_hears_of_earlier_candidates_too(steps: Steps, path: Path) -> None:
    def run(heard: list[float], **kept: Any) -> Any:
        hear = lambda one: heard.append(one["C"])
        return sweep(SoftmaxClassifier(), {"C": [0.1, 1.0, 10.0]}, X, Y, cv=2, on_candidate=hear, **kept)

    kept = {"checkpoint": path, "checkpoint_every": 0.0}
    total = steps.of(lambda: run([]))[1]
    steps.of(lambda: run([], **kept), total - 3)
    run(heard := [], **kept)
    assert heard == [0.1, 1.0, 10.0]


def test_scores_that_change_from_run_to_run_are_noticed(path: Path) -> None:
    """A sweep that finds its penalties would otherwise take models for those of other penalties."""
    for sign in (1, -1):
        score = lambda model, X, y, sign=sign: sign * float(abs(model.coef_).max())
        run = partial(sweep, SoftmaxClassifier(), "auto", X, Y, cv=2, scoring=score, refit=False, checkpoint=path)
        if sign == 1:
            run()
    with pytest.raises(ValueError, match=r"a training with l2=\[.*\], where this run now has l2=.*equal scores"):
        run()


@pytest.mark.parametrize("finished", [False, True])
def test_a_training_with_other_penalties_is_not_continued(finished: bool, steps: Steps, path: Path) -> None:
    objective = objective_of(X, Y, get_backend("numpy"), l2=[0.1])

    def run(l2: float) -> Any:
        one = objective.for_penalties(np.array([l2]))
        kept = checkpoints.Checkpoint(path, 0.0, {})
        return train(one, LBFGS(5, 0.0), *zeros_for(one), checkpoint=kept)

    steps.of(lambda: run(0.1), 10**9 if finished else 3)
    with pytest.raises(ValueError, match=r"a training with l2=\[0\.1\], where this run now has l2=\[0\.2\]"):
        run(0.2)
    assert steps.of(lambda: run(0.1).step) == ((6, 0) if finished else (6, 3))


# Ctrl-C and SIGTERM


@pytest.fixture
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM as in a program that sets no handlers."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    after = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    assert after is signal.SIG_DFL


def after(passes: float, number: int) -> Callable[[Any], None]:
    """A callback that raises a signal after some passes."""
    return lambda record: signal.raise_signal(number) if passes <= record.passes < passes + 1 else None


PARAMETERS: dict[str, dict[str, Any]] = {
    "L-BFGS": {"C": 1e5, "tol": 0, "max_iter": 20},
    "SGD": {"solver": "sgd", "batch_size": 64, "max_iter": 8},
}


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("solver", PARAMETERS)
def test_ctrl_c_leaves_a_checkpoint_that_continues(solver: str, path: Path) -> None:
    parameters = PARAMETERS[solver]
    alone = SoftmaxClassifier(**parameters, callbacks=[after(99, 0)]).fit(X, Y)
    model = SoftmaxClassifier(**parameters, callbacks=[after(3, signal.SIGINT)]).fit(X, Y, checkpoint=path)
    assert model.stop_reason_ == "interrupted"
    assert bits_of_fit(model.fit(X, Y, checkpoint=path)) == bits_of_fit(alone)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("solver", PARAMETERS)
def test_sigterm_leaves_a_checkpoint_that_continues_and_exits_with_143(solver: str, path: Path) -> None:
    parameters = PARAMETERS[solver]
    alone = SoftmaxClassifier(**parameters, callbacks=[after(99, 0)]).fit(X, Y)
    model = SoftmaxClassifier(**parameters, callbacks=[after(3, signal.SIGTERM)])
    with pytest.raises(SystemExit) as raised:
        model.fit(X, Y, checkpoint=path)
    assert raised.value.code == 143
    assert not hasattr(model, "coef_")
    assert bits_of_fit(model.fit(X, Y, checkpoint=path)) == bits_of_fit(alone)


@pytest.mark.usefixtures("_signals")
def test_sigterm_in_the_last_pass_exits_with_a_finished_checkpoint(steps: Steps, path: Path) -> None:
    model = SoftmaxClassifier(
        C=1.0, callbacks=[after(SoftmaxClassifier(C=1.0).fit(X, Y).history_[-1].passes, signal.SIGTERM)]
    )
    with pytest.raises(SystemExit):
        model.fit(X, Y, checkpoint=path)
    assert steps.of(lambda: model.fit(X, Y, checkpoint=path), 0)[1] == 0
    assert model.stop_reason_ == "converged"


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_a_signal_ends_continues(number: int, path: Path) -> None:
    def run(act: bool, **kept: Any) -> Any:
        def raise_it(row: Any) -> None:
            if act and row["C"] == 1.0:
                signal.raise_signal(number)

        return sweep(SoftmaxClassifier(), {"C": [0.1, 1.0, 10.0]}, X, Y, cv=2, on_candidate=raise_it, **kept)

    if number == signal.SIGTERM:
        with pytest.raises(SystemExit):
            run(True, checkpoint=path)
    else:
        result = run(True, checkpoint=path)
        assert result.interrupted_
        assert result.best_estimator_ is not None
    assert bits_of_sweep(run(False, checkpoint=path)) == bits_of_sweep(run(False))


@pytest.mark.usefixtures("_signals")
def test_sigterm_is_left_alone_where_the_program_has_a_handler(path: Path) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    model = SoftmaxClassifier(**PARAMETERS["L-BFGS"], callbacks=[after(3, signal.SIGTERM)]).fit(X, Y, checkpoint=path)
    assert (heard, model.stop_reason_) == ([signal.SIGTERM], "finished")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_fit_in_another_thread_has_checkpoints_too(steps: Steps, path: Path) -> None:
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8)
    thread = threading.Thread(
        target=lambda: steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 4)
    )
    thread.start()
    thread.join()
    assert steps.of(lambda: model.fit(X, Y, checkpoint=path))[1] == 5


# other runs

OTHERS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "C": (r"C \(1\.0 there, 2\.0 here\)", lambda run: run["model"].set_params(C=2.0)),
    "class": ("estimator", lambda run: run.update(model=LinearSVMClassifier(C=1.0))),
    "solver": ("solver", lambda run: run["model"].set_params(solver="sgd")),
    "scaling": ("scaling", lambda run: run["model"].set_params(scaling=(np.ones(20), None))),
    "class weights": ("class_weight", lambda run: run["model"].set_params(class_weight={0: 2.0})),
    "seed": ("random_state", lambda run: run["model"].set_params(random_state=np.random.RandomState(1))),
    "early stopping": ("callbacks", lambda run: run["model"].set_params(callbacks=[EarlyStopping(7)])),
    "backend": ("backend", lambda run: run["model"].set_params(backend="numpy")),
    "columns": (r"X shape \(\[600, 20\] there, \[600, 19\] here\)", lambda run: run.update(X=X[:, 1:])),
    "values": ("X rows", lambda run: run.update(X=X + np.float32(0.5))),
    "type of X": (r"X dtype \('float32' there, 'float64' here\)", lambda run: run.update(X=X.astype(np.float64))),
    "size of X's type": ("X bytes", lambda run: run.update(X=X.astype(np.float16))),
    "kind of X": ("X kind", lambda run: run.update(X=sparse.csr_array(X))),
    "labels": ("y", lambda run: run.update(y=np.roll(Y, 1))),
    "names of classes": ("classes", lambda run: run.update(y=Y + 1)),
    "weights": ("sample_weight", lambda run: run["named"].update(sample_weight=WEIGHTS + 1)),
    "validation": ("validation X", lambda run: run["named"].update(validation=VALIDATION)),
    "start": ("start", lambda run: run["named"].update(start_from=SoftmaxClassifier().fit(X, Y))),
}


@pytest.mark.parametrize(("name", "change"), OTHERS.values(), ids=OTHERS)
def test_another_fit_is_refused_and_what_differs_is_named(
    name: str, change: Callable[[dict[str, Any]], Any], path: Path
) -> None:
    run: dict[str, Any] = {"model": SoftmaxClassifier(C=1.0), "X": X, "y": Y, "named": {}}
    run["model"].fit(X, Y, checkpoint=path)
    content = path.read_bytes()
    change(run)
    with pytest.raises(ValueError, match=f"belongs to another run: it differs in .*{name}") as raised:
        run["model"].fit(run["X"], run["y"], checkpoint=path, **run["named"])
    assert f"delete {path} and {path}.previous, or pass another path" in str(raised.value)
    assert path.read_bytes() == content


def test_other_libraries_or_another_machine_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SoftmaxClassifier().fit(X, Y, checkpoint=path)
    monkeypatch.setattr("gpusoftmax.checkpoints.identity.version", lambda name: "0.0")
    monkeypatch.setattr("gpusoftmax.checkpoints.identity.threadpool_info", list)
    with pytest.raises(ValueError, match=r"BLAS, version of gpusoftmax \('.*' there, '0\.0' here\)"):
        SoftmaxClassifier().fit(X, Y, checkpoint=path)


@pytest.mark.parametrize(
    "change",
    [
        {"cv": 3},
        {"scoring": "loss"},
        {"refit": False},
        {"rule": "1se"},
        {"patience": 1},
        {"sample_weight": WEIGHTS + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_sweep_is_refused(change: dict[str, Any], path: Path) -> None:
    common: dict[str, Any] = {"cv": 2, "checkpoint": path}
    sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, Y, **common)
    with pytest.raises(ValueError, match="belongs to another run"):
        sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, Y, **common | change)
    with pytest.raises(ValueError, match="grid"):
        sweep(SoftmaxClassifier(), {"C": [0.1, 2.0]}, X, Y, **common)


@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.parametrize("kind", ["fit", "sweep"])
def test_rows_that_changed_anywhere_are_noticed(kind: str, where: str, path: Path) -> None:
    def run(train: Any, held_out: Any) -> Any:
        arguments: dict[str, Any] = {"validation": (held_out, Y), "checkpoint": path}
        if kind == "fit":
            return SoftmaxClassifier(scaling=(np.zeros(20), None)).fit(train, Y, **arguments)
        return sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, train, Y, **arguments)

    run(X, X)
    digest = generator(0, NO_EPOCH).choice(len(X), SAMPLED, replace=False)
    changed = X.copy()
    changed[np.setdiff1d(np.arange(len(X)), digest)[0], 3] += 1
    name = "validation X rows" if where == "validation" else "X rows"
    with pytest.raises(ValueError, match=f"it differs in {name}"):
        run(*((X, changed) if where == "validation" else (changed, X)))


def test_a_sweep_is_no_fit(path: Path) -> None:
    SoftmaxClassifier().fit(X, Y, checkpoint=path)
    with pytest.raises(ValueError, match=r"differs in its kind \(fit there, sweep here\)\. To start anew"):
        sweep(SoftmaxClassifier(), {"C": [0.1, 1.0]}, X, Y, cv=2, checkpoint=path)


def test_a_random_state_in_the_same_state_continues(steps: Steps, path: Path) -> None:
    for made in (4, 5):
        model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8, random_state=np.random.RandomState(0))
        assert steps.of(lambda model=model: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), made)[1] == made


# damage and arguments


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(steps: Steps, path: Path) -> None:
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8)
    alone = bits_of_fit(model.fit(X, Y))
    steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 4)
    path.write_bytes(path.read_bytes()[:-1])
    before = previous_of(path).read_bytes()
    with pytest.warns(UserWarning, match=r"is damaged or missing; continuing from .*\.previous"):
        steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 1)
    assert previous_of(path).read_bytes() == before  # a damaged file does not take its place
    found, made = steps.of(lambda: bits_of_fit(model.fit(X, Y, checkpoint=path)))
    assert (found, made) == (alone, 5)


FORGED = {
    "no account": lambda tree: tree["running"].pop("account"),
    "a short history": lambda tree: tree["running"]["account"]["history"].update(passes=np.zeros(1)),
    "a best of another shape": lambda tree: tree["running"]["account"]["best"].update(W=np.zeros(3)),
    "negative seconds": lambda tree: tree["running"]["account"].update(seconds=-1.0),
    "a training as a number": lambda tree: tree.update(running=3),
    "results as a list": lambda tree: tree.update(finished=[1]),
    "results of other numbers": lambda tree: tree.update(finished={"1": {"x": 1}}),
    "an empty result": lambda tree: tree.update(finished={"0": {"x": 1}}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_checkpoint_is_refused_by_name(forge: Callable[[Any], Any], steps: Steps, path: Path) -> None:
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8)
    steps.of(lambda: model.fit(X, Y, checkpoint=path, checkpoint_every=0.0), 4)
    found = read(path)
    assert found is not None
    forge(found[2])
    write(path, *found[1:])
    with pytest.raises(BadFileError, match=r"run\.ckpt, content: "):
        model.fit(X, Y, checkpoint=path)


def test_a_folder_that_does_not_exist_is_named_before_any_work(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; make it first"):
        steps.of(lambda: SoftmaxClassifier().fit(X, Y, checkpoint=tmp_path / "nowhere" / "run.ckpt"), 0)


def test_a_folder_in_place_of_a_file_is_named_before_any_work(steps: Steps, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"is a folder; pass the name of a file in it"):
        steps.of(lambda: SoftmaxClassifier().fit(X, Y, checkpoint=tmp_path), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_every": 3.0}, "checkpoint_every=3.0 needs a file to write to"),
        ({"checkpoint": "x", "checkpoint_every": -1}, "checkpoint_every=-1 is out of range"),
        ({"checkpoint": "x", "checkpoint_every": "often"}, "checkpoint_every='often' is a str; pass a number"),
        ({"checkpoint": 3}, "checkpoint=3 is a int; pass a path"),
        ({"checkpoint": ""}, "checkpoint='' is not a path"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: dict[str, Any], message: str) -> None:
    for run in (SoftmaxClassifier().fit, lambda X, y, **kept: sweep(SoftmaxClassifier(), {"C": [1.0]}, X, y, **kept)):
        with pytest.raises((ValueError, TypeError), match=message.replace("(", r"\(")):
            run(X, Y, **arguments)


def test_too_many_models_are_refused_before_any_work(path: Path, steps: Steps) -> None:
    with pytest.raises(ValueError, match="holds at most 3000 models, and there are 700 configurations on 5 splits"):
        steps.of(lambda: sweep(SoftmaxClassifier(), {"C": np.geomspace(1e-3, 1, 700)}, X, Y, checkpoint=path), 0)


def test_a_failed_write_ends_the_fit_and_leaves_the_model_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SoftmaxClassifier(C=1e5, tol=0, max_iter=8)

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*run\.ckpt"):
        model.fit(X, Y, checkpoint=path, checkpoint_every=0.0)
    assert not hasattr(model, "coef_")
    assert list(path.parent.iterdir()) == []
