"""Whole fits on the GPU backend follow those on the CPU: the same rows in the same order, and the same losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier, load_cifar10, load_digits, train_cs231n
from gpusoftmax.objective.objective import Objective

ESTIMATORS = [
    pytest.param(SoftmaxClassifier, {}, id="softmax"),
    pytest.param(LinearSVMClassifier, {}, id="squared hinge"),
    pytest.param(LinearSVMClassifier, {"loss": "hinge"}, id="hinge"),
]


class Course(NamedTuple):
    """A record of a fit, step by step."""

    rows: list[list[int]]
    values: list[float]  # of the objective
    model: Any

    @property
    def bits(self) -> bytes:
        """The bytes of all results."""
        return np.array(self.values).tobytes() + self.model.coef_.tobytes() + self.model.intercept_.tobytes()


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Course]:
    """Trains, and says what each step visited and measured."""
    honest, honest_steps = Objective.value_and_gradient, Objective.sgd_steps
    steps: list[tuple[list[int], float]] = []

    def spy(objective: Objective, W: Any, b: Any, rows: Any, sums: Any) -> Any:
        result, to_numpy = honest(objective, W, b, rows, sums), objective.backend.to_numpy
        steps.append((to_numpy(rows).tolist(), float(to_numpy(result.value)[0])))
        return result

    def spy_on_steps(
        objective: Objective, W: Any, b: Any, velocity: Any, batches: Any, sums: Any, rates: Any, *options: Any
    ) -> Any:
        to_numpy, sums_of_steps, first = objective.backend.to_numpy, 0.0, None
        for i, rows in enumerate(batches):  # one at a time, so that each one's value is seen
            result = honest_steps(objective, W, b, velocity, [rows], sums, rates[i : i + 1], *options)
            if result is None:
                return None  # steps are taken by value_and_gradient
            steps.append((to_numpy(rows).tolist(), float(to_numpy(result[0])[0, 0]) / len(rows)))
            sums_of_steps, first = result[0] + sums_of_steps, result[1] if first is None else first
        return sums_of_steps, first

    def run(train: Callable[[str], Any], backend: str) -> Course:
        steps.clear()
        model = train(backend)
        return Course([rows for rows, _ in steps], [value for _, value in steps], model)

    monkeypatch.setattr(Objective, "value_and_gradient", spy)
    monkeypatch.setattr(Objective, "sgd_steps", spy_on_steps)
    return run


def digits_quick_start(backend: str) -> Any:
    """What `gpusoftmax train digits` trains."""
    digits = load_digits()
    model = SoftmaxClassifier(scaling="standard", schedule="cosine", max_iter=10, random_state=0, backend=backend)
    return model.fit(digits.X_train, digits.y_train, validation=(digits.X_validation, digits.y_validation))


@pytest.fixture(scope="module")
def cifar10(cifar10_folder: Path) -> Any:
    """The data set, loaded once for this module."""
    return load_cifar10(cifar10_folder)


@pytest.fixture(params=["softmax", "hinge"])
def recipe(request: pytest.FixtureRequest, cifar10: Any) -> Callable[..., Any]:
    """The first 25 steps of the cs231n recipe, on the first 5000 images."""

    def train(backend: str) -> Any:
        X, y = cifar10.X_train[:5000], cifar10.y_train[:5000]
        return train_cs231n(X, y, loss=request.param, n_iterations=25, backend=backend)

    return train


def assert_one_course(found: Course, expected: Course) -> None:
    """The same rows in the same order; losses to 1e-5, relative."""
    assert found.rows == expected.rows
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)


@pytest.mark.usefixtures("gpu")
def test_the_digits_quick_start_takes_the_cpus_course(follow: Any) -> None:
    found, expected = follow(digits_quick_start, "cuda"), follow(digits_quick_start, "cpu")
    assert len(expected.rows) == 50  # ten passes of 1197 rows, 256 at a time
    assert_one_course(found, expected)


@pytest.mark.usefixtures("gpu")
def test_the_digits_quick_start_validates_as_the_cpu_does(follow: Any) -> None:
    curves = [
        [(record.validation_loss, record.validation_accuracy) for record in digits_quick_start(backend).history_]
        for backend in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.usefixtures("gpu")
def test_the_first_steps_of_the_cifar10_recipe_follow_the_cpu_and_repeat(recipe: Any, follow: Any) -> None:
    found, expected = follow(recipe, "cuda"), follow(recipe, "cpu")
    assert [len(rows) for rows in expected.rows] == [200] * 25
    assert_one_course(found, expected)
    assert follow(recipe, "cuda").bits == found.bits


@pytest.mark.usefixtures("gpu")
def test_two_digits_quick_starts_have_the_same_bits(follow: Any) -> None:
    first, second = (follow(digits_quick_start, "cuda").bits for _ in range(2))
    assert first == second


@pytest.fixture
def small(rng: np.random.Generator) -> tuple[Any, Any]:
    """40 rows, 3 features, 3 classes that overlap."""
    y = np.arange(40) % 3
    return rng.standard_normal((40, 3)) + 0.7 * y[:, None], y


def test_a_backend_object_may_be_passed(backend: Any, small: tuple[Any, Any]) -> None:
    model = SoftmaxClassifier(backend=backend, schedule="cosine", max_iter=4).fit(*small)
    assert model.backend_ == f"{backend.name}: {backend.reason}"


@pytest.mark.parametrize(("cls", "parameters"), ESTIMATORS)
def test_backends_agree(cls: Any, parameters: Any, backend: Any, small: tuple[Any, Any]) -> None:
    settings = {"schedule": "constant", "learning_rate": 0.1, "max_iter": 20, "tol": 0.0, **parameters}
    model = cls(backend=backend, **settings).fit(*small)
    # 20 steps in float64, in another order of summation; a hinge's kink could only be met by accident
    np.testing.assert_allclose(model.coef_, cls(backend="numpy", **settings).fit(*small).coef_, atol=1e-12)
