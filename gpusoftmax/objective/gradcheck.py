"""Is an analytic gradient right? Central differences in float64, with the places where the hinges have none marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax import reference
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_coefficients, check_features, check_shift_and_scale
from gpusoftmax.checks.scalars import check_count, check_loss, check_number
from gpusoftmax.dtypes import widen
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.functional import loss_and_gradient


@dataclass(frozen=True)
class GradientRecord:
    """One coordinate.

    Attributes
    ----------
    coordinate : tuple
        ("W", feature, class) or ("b", class); with a model's index in between where W is (d, K, c).
    numeric, analytic : float
        (f(w + h) - f(w - h)) / (2 h), and what loss_and_gradient says.
    relative_error : float
        |numeric - analytic| / (|numeric| + |analytic|); 0 where the two differ by no more than the rounding error of a
        difference of losses, 2 eps |f| / h.
    near_kink : bool
        A hinge's margin changes sign within the step, so that the two may rightly differ.
    """

    coordinate: tuple[Any, ...]
    numeric: float
    analytic: float
    relative_error: float
    near_kink: bool


def gradient_check(
    X: Any,
    y: Any,
    W: Any,
    b: Any,
    *,
    n_checks: int = 10,
    h: float = 1e-5,
    seed: int = 0,
    l2: Any = 0.0,
    loss: str = "softmax",
    sample_weight: Any = None,
    shift: Any = None,
    scale: Any = None,
    penalize_intercept: bool = False,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
) -> list[GradientRecord]:
    """Compare `loss_and_gradient` with central differences at random coordinates of W and b.

        numeric = (f(w + h e) - f(w - h e)) / (2 h)

    All in float64, whatever X is: with h = 1e-5 float32 would compare rounding errors.

    Parameters
    ----------
    X : array-like of shape (n, d)
        See `loss_and_gradient` for this and the parameters that follow, up to `n_checks`.
    y : array-like of int, shape (n,)
    W : array-like of shape (d, c) or (d, K, c)
    b : array-like of shape (c,) or (K, c)
    l2 : float or array-like of shape (K,)
    loss : {"softmax", "hinge", "squared_hinge"}
    sample_weight : array-like of shape (n,) or (n, K), optional
    shift, scale : float or array-like of shape (d,), optional
    penalize_intercept : bool
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
    n_checks : int
        Coordinates, drawn without replacement; all of them if there are fewer.
    h : float
        Step.
    seed : int
        Of the draw.

    Returns
    -------
    list of GradientRecord
        Relative errors of a right gradient are below 1e-6, except near a kink.

    Raises
    ------
    ValueError, TypeError
        As `loss_and_gradient`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> records = gradient_check(rng.random((9, 4)), rng.integers(0, 3, 9), rng.random((4, 3)), rng.random(3))
    >>> max(record.relative_error for record in records) < 1e-6
    True
    """
    n_checks, h = check_count("n_checks", n_checks), check_number("h", h, least=0, above=True)
    check_count("seed", seed, least=0)
    check_loss(loss)
    X = widen(check_features(X))
    weights, bias, single = check_coefficients(W, b, X.shape[1])
    weights, bias = np.array(weights, np.float64), np.array(bias, np.float64)
    weights, bias = weights.copy(), bias.copy()  # they are written to below, and may be the caller's own
    options: dict[str, Any] = {
        "l2": l2, "loss": loss, "sample_weight": sample_weight, "shift": shift, "scale": scale,
        "penalize_intercept": penalize_intercept, "backend": backend, "n_threads": n_threads,
    }  # fmt: skip

    def value() -> Array:
        return np.asarray(loss_and_gradient(X, y, weights, bias, **options)[0])

    _, dW, db = loss_and_gradient(X, y, weights, bias, **options)
    labels = np.asarray(y)
    shift, scale = check_shift_and_scale(shift, scale, X.shape[1])
    folded = (X - (0.0 if shift is None else shift)) / (1.0 if scale is None else scale)
    scores = reference.scores(folded, weights, bias)
    total = weights.size + bias.size
    records = []
    for flat in np.random.default_rng(seed).choice(total, min(n_checks, total), replace=False):
        name, values, gradient = ("W", weights, dW) if flat < weights.size else ("b", bias, db)
        index = np.unravel_index(int(flat) - (0 if name == "W" else weights.size), values.shape)
        k, j = int(index[-2]), int(index[-1])
        old = values[index]
        values[index] = old + h
        above = value()[k]
        values[index] = old - h
        below = value()[k]
        values[index] = old
        numeric, analytic = float(above - below) / (2 * h), float(gradient[index])
        size, difference = abs(numeric) + abs(analytic), abs(numeric - analytic)
        noise = 2 * np.finfo(np.float64).eps * abs(float(above)) / h
        reach = h * np.abs(folded[:, index[0]]) if name == "W" else np.full(len(X), h)
        place = tuple(int(i) for i in index)
        records.append(
            GradientRecord(
                coordinate=(name, *(place[:-2] + place[-1:] if single else place)),
                numeric=numeric,
                analytic=analytic,
                relative_error=difference / size if difference > noise else 0.0,
                near_kink=not LOSSES[loss].is_smooth and _crosses_a_kink(scores[:, k], labels, j, reach),
            )
        )
    return records


def _crosses_a_kink(z: Array, labels: Array, j: int, reach: Array) -> bool:
    """Whether moving the scores of class j by up to `reach` (n,) makes a margin z_i - z_y + 1 change its sign."""
    rows = np.arange(len(z))
    margins = z - z[rows, labels][:, None] + 1.0
    margins[rows, labels] = np.inf
    nearest = np.where(labels == j, np.abs(margins).min(axis=1), np.abs(margins[:, j]))
    return bool(((nearest <= reach) & (reach > 0)).any())
