"""The protocol of features: solvers and objectives work with any kind that keeps it, and know of no array behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from gpusoftmax.array import Backend, get_backend
from gpusoftmax.features.base import Features
from gpusoftmax.features.batches import BatchPlan
from gpusoftmax.features.dense import DenseFeatures
from gpusoftmax.objective.soft_labels import with_soft_labels
from gpusoftmax.solvers import LBFGS, SGD
from gpusoftmax.solvers.certificate import certify
from tests.support.cases import blobs, objective_of, run, sha256

FORWARDED = (
    *("gradient", "losses", "scores", "probabilities", "best", "sgd_steps"),
    *("sample", "moments", "label_sums", "check_finite", "largest", "pass_bytes"),
    *("column_products", "gram_of_columns", "pass_cost"),
)


def forwarded(name: str) -> Any:
    return lambda self, *arguments, **options: getattr(self.inner, name)(*arguments, **options)


@dataclass(frozen=True)
class OtherFeatures(Features):
    """Another kind of features: all that the protocol asks for, and no X."""

    inner: DenseFeatures
    backend: Backend
    shift: Any
    scale: Any
    rows: Any
    n_stored = property(lambda self: self.inner.n_stored)
    d = property(lambda self: self.inner.d)
    dtype = property(lambda self: self.inner.dtype)
    nbytes = property(lambda self: self.inner.nbytes)
    locals().update({name: forwarded(name) for name in FORWARDED})

    @classmethod
    def like(cls, dense: DenseFeatures) -> OtherFeatures:
        return cls(dense, dense.backend, dense.shift, dense.scale, dense.rows)

    def select(self, rows: Any) -> OtherFeatures:
        return self.like(self.inner.select(rows))

    def copied(self, rows: Any) -> OtherFeatures:
        return self.like(self.inner.copied(rows))

    def in_type_of(self, other: Features) -> OtherFeatures:
        return self.like(self.inner.in_type_of(other))

    def with_scaling(self, shift: Any, scale: Any) -> OtherFeatures:
        return self.like(self.inner.with_scaling(shift, scale))


@pytest.fixture
def objective() -> Any:
    """An objective over some of the rows, with weights, shift, scale and soft labels."""
    X, y = blobs(0, n=150, d=6, c=4)
    rng = np.random.default_rng(1)
    found = objective_of(
        X, y, get_backend("auto", 2), l2=[0.01, 0.1], K=2, weights=rng.random((150, 2)).astype(np.float32),
        shift=X.mean(axis=0).astype(float), scale=X.std(axis=0).astype(float),
    )  # fmt: skip
    found = replace(found, features=found.features.select(np.arange(0, 150, 2)))
    return with_soft_labels(found, smoothing=0.1)


@pytest.mark.parametrize("solver", [LBFGS(50, 1e-6), SGD(BatchPlan(75, 16), steps=30)], ids=["L-BFGS", "SGD"])
def test_solvers_ask_features_for_what_the_protocol_has_and_nothing_else(solver: Any, objective: Any) -> None:
    other = replace(objective, features=OtherFeatures.like(objective.features))
    expected, found = run(solver, objective), run(solver, other)
    assert found.reason == expected.reason
    assert sha256(found.W, found.b, found.value) == sha256(expected.W, expected.b, expected.value)


def test_so_does_the_certificate(objective: Any) -> None:
    other = replace(objective, features=OtherFeatures.like(objective.features))
    state = run(LBFGS(50, 1e-6), objective)
    assert certify(other, state.W, state.b) == certify(objective, state.W, state.b)


def test_so_do_soft_labels(objective: Any) -> None:
    hard = replace(objective, linear_term=None)
    found = with_soft_labels(replace(hard, features=OtherFeatures.like(hard.features)), smoothing=0.1)
    expected = objective.linear_term
    assert sha256(found.linear_term.T, found.linear_term.t) == sha256(expected.T, expected.t)


def test_weights_of_raw_features_become_those_of_scaled_ones() -> None:
    X, _ = blobs(0, n=20, d=3)
    features = DenseFeatures(X, get_backend("numpy", 1)).with_scaling(np.ones(3), np.array([2.0, np.inf, 0.5]))
    coef, intercept = np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])
    W, b = features.scaled_weights(coef, intercept)
    scaled = (X - 1) / np.array([2.0, np.inf, 0.5])
    constant = coef[:, 1] * (X[:, 1:2] - 1)  # the feature of which nothing is seen
    assert scaled @ W + b == pytest.approx(X @ coef.T + intercept - constant, rel=1e-5)
