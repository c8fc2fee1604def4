"""What a fit on a GPU moves between host and device, and how often it waits: counted by the stand-in for CuPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, get_backend, load_cifar10, sweep
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.objective import Objective
from gpusoftmax.penalties import L2
from gpusoftmax.solvers import LBFGS, newton
from gpusoftmax.solvers.preconditioners import gram, hessian, inverses, woodbury
from tests.support.emulation import standin

pytestmark = pytest.mark.usefixtures("machine")

# A step of L-BFGS without its preconditioner: at most so many launches, CuPy's own included. One pass is part of it.
MOST_LAUNCHES, MOST_LAUNCHES_OF_A_PASS = 120, 40


@dataclass(frozen=True)
class Counts:
    """What was counted between two moments; copies by their bytes."""

    launches: list[str]
    uploads: list[int]
    downloads: list[int]
    waits: int


def counted(work: Callable[[], Any]) -> tuple[Any, Counts]:
    """Do the work; returns its result, and what it took."""
    state = standin.state
    lists, waits = (state.launches, state.uploads, state.downloads), state.synchronisations
    before = [len(one) for one in lists]
    result = work()
    new = [one[start:] for one, start in zip(lists, before, strict=True)]
    return result, Counts(*new, state.synchronisations - waits)  # type: ignore[arg-type]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Counts]:
    """What each step of L-BFGS takes, from now on."""
    found: list[Counts] = []
    original = LBFGS.step

    def step(self: LBFGS, objective: Any, state: Any) -> Any:
        result, counts = counted(lambda: original(self, objective, state))
        found.append(counts)
        return result

    monkeypatch.setattr(LBFGS, "step", step)
    return found


@pytest.fixture(autouse=True)
def _as_for_large_data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guides and preconditioners as for data whose passes take long: Newton steps are for small data."""
    if "cifar10_folder" in request.fixturenames:
        return
    monkeypatch.setattr(newton, "MOST_OPERATIONS", 0.0)
    monkeypatch.setattr(woodbury, "LEAST_PASS", 0.0)
    monkeypatch.setattr(woodbury, "FEWEST", 32)
    monkeypatch.setattr(gram, "SMALLEST_SAMPLE", 500)
    monkeypatch.setattr(hessian, "FULL_SIZE", 0)


def images(n: int = 3000, d: int = 110, c: int = 2, dtype: str = "uint8") -> tuple[Any, Any]:
    """Few classes that overlap, in many features, as CIFAR-10 has."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % c
    x = rng.standard_normal((n, d)) + rng.standard_normal((c, d))[y] * 0.4
    return np.clip(30 * x + 120, 0, 255).astype(dtype), y


def most_bytes(d: int, c: int) -> int:
    """The largest download that is allowed: three times as many numbers as the weights have, in float64.

    For `images` that is less than a label for each row, or half of a (d, d) matrix in float32.
    """
    return 3 * 8 * (d + 1) * c


# how to get each preconditioner, and what the log says of it
PRECONDITIONERS: dict[str, tuple[dict[str, Any], str]] = {
    "of small samples": ({}, r"mean of \d inverses"),
    "Gram matrix": ({"woodbury.LEAST_PASS": 1e15}, "preconditioner: cholesky, from"),
    "diagonal": ({"woodbury.LEAST_PASS": 1e15, "gram.AFFORDABLE_PASSES": 0}, "preconditioner: diagonal, from"),
}


def patch(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    modules = {"woodbury": woodbury, "gram": gram, "hessian": hessian, "inverses": inverses}
    for name, value in settings.items():
        module, _, constant = name.partition(".")
        monkeypatch.setattr(modules[module], constant, value)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
@pytest.mark.parametrize(("settings", "words"), PRECONDITIONERS.values(), ids=PRECONDITIONERS)
def test_a_fit_keeps_rows_and_matrices_on_the_device_and_a_step_waits_once(
    settings: dict[str, Any], words: str, cls: Any, weighted: bool, steps: list[Counts],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    patch(monkeypatch, settings)
    X, y = images()
    model = cls(l2=0.3 if cls is SoftmaxClassifier else 8.0, scaling="standard", backend="cuda", solver="lbfgs")
    weights = np.random.default_rng(0).random(len(y)) if weighted else None
    with caplog.at_level("INFO", "gpusoftmax"):
        _, whole = counted(lambda: model.fit(X, y, weights))
    assert re.search(words, caplog.text)
    assert model.fit_report_.bound is not None
    assert model.stop_reason_ == "converged"
    assert len(steps) > 5
    # the weights of the rows that a sample is drawn from come to the host, and nothing else with a number for each row
    assert max(whole.downloads) <= (8 * len(y) if weighted else most_bytes(X.shape[1], 2)) < X.nbytes / 10
    for one in steps:
        assert (one.waits, len(one.downloads)) == (1, 1)
        assert one.downloads[0] < 1000
        assert max(one.uploads) <= 8 * len(y)  # the numbers of a sample's rows, in a step that makes a preconditioner
    scaled = "scaled for each class" in caplog.text
    large = [one for one in steps if max(one.uploads) > 1000 or len(one.launches) > MOST_LAUNCHES]
    assert len(large) <= scaled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("l2", "words"), [(None, "preconditioner: cholesky, from"), (0.05, r"mean of \d inverses")], ids=["C=1", "l2=0.05"]
)
def test_a_fit_to_cifar10_keeps_its_images_on_the_device_and_a_step_waits_once(
    l2: float | None, words: str, cifar10_folder: Path, steps: list[Counts], caplog: pytest.LogCaptureFixture
) -> None:
    """A third of its images, which take a minute here, and none of the limits that other tests lower."""
    data = load_cifar10(cifar10_folder)
    X = data.X_train[:16_000].astype(np.float32)  # uint8 would take long to convert here
    y = data.y_train[:16_000]
    model = SoftmaxClassifier(l2=l2, scaling="standard", backend="cuda")
    with caplog.at_level("INFO", "gpusoftmax"):
        _, whole = counted(lambda: model.fit(X, y))
    assert re.search(words, caplog.text)
    assert model.stop_reason_ == "converged"
    assert model.fit_report_.bound is not None
    assert max(whole.downloads) == 4 * (3072 + 1) * 10  # weights and intercepts, at the end
    assert max(sorted(whole.uploads)[:-1]) <= 8 * len(y)  # after X, a label or the number of a row for each
    for one in steps:
        assert (one.waits, len(one.downloads)) == (1, 1)
        assert one.downloads[0] < 1000


KINDS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "cholesky": ((3000, 110), {}),
    "low rank": ((100, 200), {}),
    "diagonal": ((3000, 110), {"gram.FULL_FEATURES": 20, "gram.LOW_RANK_ELEMENTS": 2000}),
    "spectrum": ((3000, 110), {"gram.SPECTRUM_FEATURES": 50, "inverses.RANK": 20}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_preconditioner_of_any_kind_is_made_on_the_device_in_a_few_waits(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (n, d), settings = KINDS[kind]
    patch(monkeypatch, settings)
    objective = objective_on_device(*images(n, d, dtype="float32"), 2)
    sample = gram.GramSample(objective, 0, penalties=9)
    with caplog.at_level("INFO", "gpusoftmax"):
        _, made = counted(lambda: sample.preconditioner(objective, 0))
    assert f"preconditioner: {kind}, from" in caplog.text
    assert made.waits <= 4
    assert max(made.downloads) <= 8 * d


def test_a_preconditioner_that_is_scaled_for_each_class_costs_no_wait(
    steps: list[Counts], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(woodbury, "LEAST_PASS", 1e15)
    X, y = images(dtype="float32")
    y[::7] = 2  # a small class
    with caplog.at_level("INFO", "gpusoftmax"):
        SoftmaxClassifier(C=100.0, tol=0, max_iter=12, scaling="standard", backend="cuda").fit(X / 60, y)
    assert "scaled for each class" in caplog.text
    assert {one.waits for one in steps} == {1}


@pytest.mark.parametrize("full_size", [2000, 0], ids=["full", "block-diagonal"])
def test_a_hessian_is_made_on_the_device_from_curvatures_that_come_to_the_host(
    full_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hessian, "FULL_SIZE", full_size)
    X, y = images(d=20, c=3, dtype="float32")
    objective = objective_on_device(X, y, 3)
    point = objective.backend.xp.zeros((21, 3), dtype=np.float32)
    _, made = counted(lambda: hessian.refresh(objective, 0, point, seed=0, n_refreshes=0))
    assert max(made.downloads) <= 8 * len(y)  # a number for each row that may be drawn
    assert made.waits <= (3 if full_size else 4 * 3 + 1)


def objective_on_device(X: Any, y: Any, c: int) -> Objective:
    from gpusoftmax.features.read import read_features

    backend = get_backend("cuda")
    penalty = L2(backend.asarray(np.array([0.1])))
    labels = backend.asarray(y.astype(np.int32))
    return Objective(read_features(X, backend), labels, c, None, penalty, LOSSES["softmax"])


def test_a_pass_uploads_and_downloads_nothing() -> None:
    X, y = images()
    objective = objective_on_device(X, y, 2)
    xp, sums = objective.backend.xp, objective.weight_sums()
    W, b = xp.zeros((110, 1, 2), dtype=np.float32), xp.zeros((1, 2), dtype=np.float32)
    _, one = counted(lambda: objective.value_and_gradient(W, b, weight_sums=sums))
    assert (one.uploads, one.downloads, one.waits) == ([], [], 0)
    assert len(one.launches) <= MOST_LAUNCHES_OF_A_PASS


def test_many_penalties_share_eigenvectors_that_stay_on_the_device(
    steps: list[Counts], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patch(monkeypatch, {"woodbury.LEAST_PASS": 1e15, "gram.SPECTRUM_FEATURES": 50, "inverses.RANK": 20})
    X, y = images(dtype="float32")
    with caplog.at_level("INFO", "gpusoftmax"):
        estimator = SoftmaxClassifier(tol=1e-3, backend="cuda")
        _, whole = counted(lambda: sweep(estimator, {"C": np.logspace(-4, -1, 4)}, X / 60, y, cv=2))
    assert "preconditioner: spectrum, from" in caplog.text
    assert {one.waits for one in steps} == {1}
    # the numbers of a fold's rows, which come back once for each fold
    assert max(whole.downloads) <= 8 * len(y)


def test_predictions_on_held_out_rows_stay_on_the_device() -> None:
    X, y = images()
    model = SoftmaxClassifier(l2=0.3, scaling="standard", max_iter=3, tol=0, backend="cuda")
    _, whole = counted(lambda: model.fit(X[:2000], y[:2000], validation=(X[2000:], y[2000:])))
    assert max(whole.downloads) <= most_bytes(110, 2)
