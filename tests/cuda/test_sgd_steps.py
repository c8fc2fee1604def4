"""Stretches of SGD on a GPU or, without one, on the stand-in: they are what separate steps are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.cuda import sgd_steps
from tests.support.emulation import standin

pytestmark = pytest.mark.usefixtures("gpu")


def data(dtype: str, n: int = 430, d: int = 48, c: int = 5) -> tuple[Any, Any]:
    """More rows than two batches of 200, of more features than a block has, and not a multiple of that."""
    rng = np.random.default_rng(n + d + c)
    y = rng.integers(0, c, n)
    X = 100 + 20 * rng.standard_normal((c, d))[y] + 30 * rng.standard_normal((n, d))
    return np.clip(X, 0, 255).astype(dtype), y


def fitted(dtype: str = "float32", *, svm: bool = False, shape: dict[str, int] | None = None, **options: Any) -> Any:
    X, y = data(dtype, **(shape or {}))
    settings: dict[str, Any] = {"solver": "sgd", "max_iter": 3, "tol": 0, "batch_size": 200, "scaling": "standard"}
    cls = LinearSVMClassifier if svm else SoftmaxClassifier
    weights = np.random.default_rng(0).random(len(y)) if options.pop("weighted", False) else None
    return cls(**{**settings, **options}, backend="cuda").fit(X, y, weights)


def one_by_one(monkeypatch: pytest.MonkeyPatch, dtype: str = "float32", **options: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(sgd_steps, "MOST_COLUMNS", 0)
        return fitted(dtype, **options)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "unscaled": {"scaling": None},
    "cosine": {"schedule": "cosine"},
    "weighted": {"weighted": True, "class_weight": "balanced"},
    "no intercept": {"fit_intercept": False},
    "penalised": {"l2": 0.5},
    "svm": {"svm": True},
    "squared": {"svm": True, "loss": "squared_hinge"},
    "features in vectors of 4": {"shape": {"d": 64}},
    "features one_by_one": {"shape": {"d": 47}},
    "many classes": {"shape": {"c": 31}},
    "one batch more than whole ones": {"shape": {"n": 600}},
    "a batch of all rows but few": {"batch_size": 429},
    "several_blocks of rows": {"batch_size": 400, "shape": {"n": 1000}},
}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_stretch_is_what_separate_steps_are(
    options: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, apart = fitted(dtype, **options), one_by_one(monkeypatch, dtype, **options)
    for name in ("objective", "loss", "accuracy"):
        found, expected = ([getattr(r, name) for r in model.history_] for model in (together, apart))
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=name)
    size = np.abs(apart.coef_).max()
    np.testing.assert_allclose(together.coef_, apart.coef_, atol=1e-4 * size)
    np.testing.assert_allclose(together.intercept_, apart.intercept_, atol=1e-3)


def test_a_stretch_is_launched_as_a_graph(machine: Any) -> None:
    fitted(batch_size=40)
    names = {"score_parts", "row_gradients", "update", "add_totals"}
    steps = machine.launches.count("update")
    # 430 rows are 10 batches of 40 and one of 30; the first of each epoch, and the last, are launched one by one
    assert (steps, machine.graphs) == (33, 27)
    assert all(machine.launches.count(name) == steps for name in names)
    first = machine.launches.index("score_parts")
    assert set(machine.launches[first : first + 4 * 11]) == names


def test_steps_one_by_one_have_the_bits_of_a_graph(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = fitted(batch_size=40)
    graphs = machine.graphs

    def refuse(stream: Any) -> None:
        raise standin.CUDARuntimeError(900)

    monkeypatch.setattr(standin.Stream, "begin_capture", refuse)
    single = fitted(batch_size=40)
    assert machine.graphs == graphs > 0
    assert single.coef_.tobytes() == repeated.coef_.tobytes()


def test_the_bits_do_not_depend_on_the_order_of_threads(machine: Any) -> None:
    found = []
    for seed in range(6):
        machine.seed = seed
        found.append(fitted(batch_size=100, momentum=0.9, max_iter=1))
    assert all(one.coef_.tobytes() == other.coef_.tobytes() for one, other in pairwise(found))
    assert len({one.history_[-1].objective for one in found}) == 1


@pytest.mark.parametrize(
    "options", [{"shape": {"c": 33}}, {"batch_size": 430}], ids=["too many columns", "all rows at once"]
)
def test_what_does_not_suit_goes_step_by_step(options: dict[str, Any], machine: Any) -> None:
    fitted(max_iter=1, **options)
    assert "score_parts" not in machine.launches


def test_float64_goes_step_by_step(machine: Any) -> None:
    X, y = data("float64")
    SoftmaxClassifier(solver="sgd", max_iter=1, tol=0, batch_size=40, backend="cuda").fit(X, y)
    assert "score_parts" not in machine.launches
