"""What the losses say of themselves is what the specification's numbers say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax import reference
from gpusoftmax.cpu import fallback
from gpusoftmax.losses import LOSSES, Loss

CURVED = [loss for loss in LOSSES.values() if loss.has_curvature]
M, C = 40, 5


def named(loss: Loss) -> str:
    return loss.name


@pytest.fixture
def rows() -> tuple[Any, Any, Any]:
    """Scores (m, c) away from the kinks of the hinges, labels and weights."""
    rng = np.random.default_rng(0)
    return 2 * rng.standard_normal((M, C)), rng.integers(0, C, M), rng.random(M) + 0.5


def differences(loss: Loss, scores: Any, labels: Any, h: float = 1e-6) -> Any:
    """The Hessian of each row's loss, (m, c, c), by central differences of the specification's gradient."""
    columns = []
    for j in range(C):
        step = h * np.eye(C)[j]
        up, down = (reference.row_loss(scores + sign * step, labels, loss.name)[1] for sign in (1, -1))
        columns.append((up - down) / (2 * h))
    return np.stack(columns, axis=2)


def matrices(loss: Loss, scores: Any, labels: Any, weights: Any) -> Any:
    hessians = loss.row_hessians(scores.copy(), labels, weights)
    return np.stack([np.stack([hessians.entries(j, k) for k in range(C)], axis=1) for j in range(C)], axis=1)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=named)
def test_the_code_is_what_the_kernels_know_a_loss_by(loss: Loss) -> None:
    assert LOSSES[loss.name] is loss
    assert (
        {"softmax": fallback.SOFTMAX, "hinge": fallback.HINGE, "squared_hinge": fallback.SQUARED_HINGE}[loss.name]
        == loss.code
        == list(LOSSES).index(loss.name)
    )


@pytest.mark.parametrize("loss", LOSSES.values(), ids=named)
@pytest.mark.parametrize("c", [2, 7])
def test_the_loss_of_zero_scores(loss: Loss, c: int) -> None:
    assert loss.at_zero(c) == pytest.approx(reference.row_loss(np.zeros((1, c)), np.zeros(1, int), loss.name)[0][0])


@pytest.mark.parametrize("loss", CURVED, ids=named)
def test_row_hessians_are_the_derivatives_of_the_gradient(loss: Loss, rows: tuple[Any, Any, Any]) -> None:
    scores, labels, weights = rows
    expected = weights[:, None, None] * differences(loss, scores, labels)
    assert matrices(loss, *rows) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("loss", CURVED, ids=named)
def test_diagonals_traces_and_selections_agree_with_the_entries(loss: Loss, rows: tuple[Any, Any, Any]) -> None:
    scores, labels, weights = rows
    whole, hessians = matrices(loss, *rows), loss.row_hessians(scores.copy(), labels, weights)
    diagonals = np.stack([hessians.diagonal(j) for j in range(C)], axis=1)
    assert diagonals == pytest.approx(np.einsum("ijj->ij", whole))
    assert hessians.traces() == pytest.approx(np.einsum("ijj->i", whole))
    some, factors = np.array([3, 0, 17]), np.array([1.0, 2.0, 0.5])
    assert hessians.select(some, factors).entries(1, 2) == pytest.approx(factors * whole[some, 1, 2])


@pytest.mark.parametrize("loss", CURVED, ids=named)
def test_the_bound_is_above_every_hessian_and_has_the_largest_eigenvalue(
    loss: Loss, rows: tuple[Any, Any, Any]
) -> None:
    scores, labels, _ = rows
    hessians, V = matrices(loss, scores, labels, np.ones(M)), np.random.default_rng(1).standard_normal((M, C))
    bounds = np.stack([loss.bound_row_hessians(np.tile(np.eye(C)[j], (M, 1)), labels) for j in range(C)], axis=2)
    assert (np.linalg.eigvalsh(bounds - hessians) >= -1e-12).all()
    assert np.linalg.eigvalsh(bounds).max() == pytest.approx(loss.largest_row_curvature(C))
    assert np.einsum("ijk,ik->ij", bounds, V) == pytest.approx(loss.bound_row_hessians(V.copy(), labels))


def test_the_softmax_has_its_curvature_at_zero_along_all_differences_of_classes() -> None:
    at_zero = matrices(LOSSES["softmax"], np.zeros((1, C)), np.zeros(1, int), np.ones(1))[0]
    assert np.linalg.eigvalsh(at_zero)[1:] == pytest.approx(LOSSES["softmax"].curvature_at_zero(C))


def test_the_hinge_has_no_curvature() -> None:
    with pytest.raises(TypeError, match="no curvature"):
        LOSSES["hinge"].curvature_at_zero(C)
    with pytest.raises(TypeError, match="no curvature"):
        LOSSES["hinge"].row_hessians(np.zeros((1, C)), np.zeros(1, int), np.ones(1))
