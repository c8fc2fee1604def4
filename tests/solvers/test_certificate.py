"""Certificates: the bound is above the true distance to the optimum, wherever a fit stopped."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from gpusoftmax import LinearSVMClassifier, SoftmaxClassifier
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.solvers import LBFGS, certificate
from gpusoftmax.solvers.certificate import certify
from tests.support.cases import Array, assert_bounds_hold, blobs, evaluated, objective_of, run

NUMPY = get_backend("numpy", n_threads=1)
INTERCEPTS = [{}, {"penalize_intercept": True}, {"fit_intercept": False}]


@pytest.mark.parametrize("options", INTERCEPTS, ids=["free", "penalised", "none"])
@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bound_holds_wherever_a_fit_ends(
    loss: str, weighted: bool, options: Any, cpu_backend: Backend, rng: np.random.Generator
) -> None:
    X, y = blobs(0, n=120, d=5, c=4)
    weights = rng.random((120, 2)) if weighted else None
    factors = rng.random(5) + 0.5
    objective = objective_of(
        X.astype(np.float64), y, cpu_backend, K=2, loss=loss, l2=[0.3, 0.01], weights=weights,
        penalty_factors=factors,
        **options,
    )  # fmt: skip
    assert_bounds_hold(objective)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_an_intercept_that_is_off_does_not_deceive_it(loss: str) -> None:
    """With W at its optimum for a wrong b the gradient of W alone vanishes, and proves nothing."""
    X, y = blobs(1, n=200, d=3, c=3)
    objective = objective_of(X.astype(np.float64), y, NUMPY, loss=loss, l2=0.1)
    optimum = run(LBFGS(500, tol=1e-11), objective)
    fixed = objective_of(X.astype(np.float64), y, NUMPY, loss=loss, l2=0.1, fit_intercept=False)
    held = run(
        LBFGS(500, tol=1e-11), fixed, np.zeros((3, 1, 3)), np.array([[3.0, 0.0, -3.0]])
    )  # its b stays where it is
    (found,) = certify(objective, held.W, held.b)
    distance = float(evaluated(objective, held.W, held.b).value[0] - optimum.value[0])
    assert distance > 0.1
    assert found.bound is not None
    assert found.intercept_gradient_norm is not None
    assert found.bound >= distance
    assert found.intercept_gradient_norm < 1e-9


def test_scores_that_are_too_many_to_keep_give_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "MOST_SCORES", 100)
    X, y = blobs(2)
    objective = objective_of(X, y, NUMPY, l2=0.1)
    (found,) = certify(objective, np.zeros((X.shape[1], 1, 3), np.float32), np.zeros((1, 3), np.float32))
    assert found.bound is None
    assert "at most 100 are stored" in found.why_no_bound


def test_a_loss_whose_intercepts_nothing_solves_for_gets_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(certificate.PHIS, "softmax")
    X, y = blobs(2)
    model = SoftmaxClassifier(backend="numpy").fit(X, y)
    assert model.fit_report_.bound is None
    assert "has no solver for them" in str(model.fit_report_)
    assert SoftmaxClassifier(backend="numpy", fit_intercept=False).fit(X, y).fit_report_.bound is not None


def test_without_a_penalty_there_is_no_bound() -> None:
    X, y = blobs(3)
    model = SoftmaxClassifier(l2=0.0, backend="numpy").fit(X, y)
    assert model.fit_report_.bound is None
    assert "requires a penalty" in model.fit_report_.why_no_bound
    assert "no bound" in str(model.fit_report_)


def test_a_class_without_rows_that_weigh_anything_is_no_trouble() -> None:
    X, y = blobs(4, n=90, c=3)
    model = SoftmaxClassifier(backend="numpy", max_iter=300, tol=1e-5).fit(X, y, sample_weight=(y != 2).astype(float))
    assert model.fit_report_.bound is not None


@pytest.mark.parametrize("cls", [SoftmaxClassifier, LinearSVMClassifier])
def test_the_report_of_a_fit_is_plain_data_and_words(cls: Any) -> None:
    X, y = blobs(5)
    model = cls(backend="numpy").fit(X, y)
    report = model.fit_report_
    assert (report.solver, report.reason, report.n_iter, report.tol) == ("lbfgs", "converged", model.n_iter_, 1e-4)
    assert report.passes >= model.n_iter_ + 1  # few rows are all in the sample
    assert report.gradient_norm <= 1e-4
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert "above its optimum" in str(report)


def test_sgd_reports_what_it_knows() -> None:
    X, y = blobs(6)
    report = SoftmaxClassifier(solver="sgd", tol=1e-2, backend="numpy").fit(X, y).fit_report_
    assert (report.solver, report.gradient_norm, report.bound) == ("sgd", None, None)
    assert "SGD" in str(report)


def test_the_time_of_the_certificate_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*arguments: Any) -> Any:
        time.sleep(0.2)
        return certify(*arguments)

    monkeypatch.setattr("gpusoftmax.estimators.fitting.certify", slowly)
    X, y = blobs(5)
    assert SoftmaxClassifier(backend="numpy").fit(X, y).fit_report_.seconds > 0.2


def test_an_intercept_that_is_not_at_its_optimum_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(5)
    monkeypatch.setattr(certificate, "best_intercept_change", lambda rows, *_: (np.ones(3) * [0, 0, 1], 0.0))
    report = SoftmaxClassifier(backend="numpy").fit(X, y).fit_report_
    assert report.bound is None
    assert "intercept's gradient is still above" in report.why_no_bound


def test_the_report_is_of_the_weights_that_are_kept() -> None:
    """With a validation set these are not the last ones."""
    X, y = blobs(7, n=300, apart=0.3)
    held_out: tuple[Array, Array] = blobs(8, n=100, apart=0.1)
    model = SoftmaxClassifier(C=1e4, tol=1e-6, backend="numpy").fit(X, y, validation=held_out)
    objectives = [record.objective for record in model.history_]
    best = int(np.argmin([record.validation_loss for record in model.history_]))
    assert best < len(objectives) - 1
    assert model.fit_report_.kept == model.history_[best].passes
    assert f"kept: the weights of pass {model.history_[best].passes:g}" in str(model.fit_report_)
    assert model.fit_report_.objective == pytest.approx(objectives[best], rel=1e-6)


def test_the_bound_is_never_above_the_objective() -> None:
    """With next to no penalty the gradient proves nothing, but no objective is below 0."""
    X, y = blobs(9)
    report = SoftmaxClassifier(C=1e12, max_iter=3, tol=0.0, backend="numpy").fit(X, y).fit_report_
    assert report.bound == report.objective
