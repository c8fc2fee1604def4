"""Check of analytic gradients by central differences in float64; coordinates near a kink of a hinge are marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusoftmax import reference
from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.checks.arrays import check_coefficients, check_features, check_shift_and_scale
from gpusoftmax.checks.scalars import check_count, check_loss, check_number
from gpusoftmax.checks.sparse import check_sparse, is_sparse
from gpusoftmax.dtypes import widen
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.functional import loss_and_gradient


@dataclass(frozen=True)
class GradientRecord:
    """Result of a gradient check at one coordinate.

    Attributes
    ----------
    coordinate : tuple
        ("W", feature, class) or ("b", class). If W is (d, K, c), the model's index comes before the class.
    numeric, analytic : float
        The derivative of the objective f with respect to this coordinate w: (f(w + h) - f(w - h)) / (2 h), with all
        other coordinates fixed, and the result of `loss_and_gradient`.
    relative_error : float
        |numeric - analytic| / (|numeric| + |analytic|); 0 where the two differ by no more than 2 eps |f| / h, the
        rounding error of `numeric` (eps is that of float64).
    near_kink : bool
        Whether a hinge's margin may change its sign within the step; then the two may differ although both are right.
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

    where w holds all numbers of W and b, and e is 1 at the coordinate and 0 elsewhere. Everything is computed in
    float64, whatever the type of X: with h = 1e-5, float32 would compare rounding errors.

    Parameters
    ----------
    X, y, W, b, l2, loss, sample_weight, shift, scale, penalize_intercept, backend, n_threads
        See `loss_and_gradient`; arrays must be on the host. A sparse X must fit into memory as a dense array, too.
    n_checks : int
        At least 1: how many coordinates to check, drawn without replacement; all of them if there are fewer.
    h : float
        Step of the differences, greater than 0.
    seed : int
        Seed of the draw, not negative.

    Returns
    -------
    list of GradientRecord
        One record for each coordinate. Relative errors of a correct gradient are below 1e-6, except near a kink.

    Raises
    ------
    ValueError
        `n_checks`, `h` or `seed` is out of range, or see `loss_and_gradient`.
    TypeError
        `n_checks` or `seed` is not an integer, or `h` is not a number, or see `loss_and_gradient`.
    MemoryError, BackendUnavailableError
        See `loss_and_gradient`.

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
    X = check_sparse(X).astype(np.float64) if is_sparse(X) else widen(check_features(X))
    weights, bias, single = check_coefficients(W, b, X.shape[1])
    weights, bias = np.array(weights, np.float64), np.array(bias, np.float64)  # copies, since they are changed below
    options: dict[str, Any] = {
        "l2": l2, "loss": loss, "sample_weight": sample_weight, "shift": shift, "scale": scale,
        "penalize_intercept": penalize_intercept, "backend": backend, "n_threads": n_threads,
    }  # fmt: skip

    def value() -> Array:
        return np.asarray(loss_and_gradient(X, y, weights, bias, **options)[0])

    _, dW, db = loss_and_gradient(X, y, weights, bias, **options)
    labels = np.asarray(y)
    shift, scale = check_shift_and_scale(shift, scale, X.shape[1])
    dense = X.toarray() if is_sparse(X) else X
    scaled = (dense - (0.0 if shift is None else shift)) / (1.0 if scale is None else scale)
    scores = reference.scores(scaled, weights, bias)
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
        reach = h * np.abs(scaled[:, index[0]]) if name == "W" else np.full(len(scaled), h)
        position = tuple(int(i) for i in index)
        records.append(
            GradientRecord(
                coordinate=(name, *(position[:-2] + position[-1:] if single else position)),
                numeric=numeric,
                analytic=analytic,
                relative_error=difference / size if difference > noise else 0.0,
                near_kink=not LOSSES[loss].has_smooth_gradient and _crosses_a_kink(scores[:, k], labels, j, reach),
            )
        )
    return records


def _crosses_a_kink(z: Array, labels: Array, j: int, reach: Array) -> bool:
    """Whether a margin z_m - z_y + 1, m != y, of a row may change its sign if the row's z_j moves by up to `reach`.

    z (n, c) are the scores, `labels` (n,) the classes y, and `reach` (n,) a distance for each row. All margins of a row
    depend on z_j if j is its label, else only that of class j.
    """
    rows = np.arange(len(z))
    margins = z - z[rows, labels][:, None] + 1.0
    margins[rows, labels] = np.inf
    nearest = np.where(labels == j, np.abs(margins).min(axis=1), np.abs(margins[:, j]))
    return bool(((nearest <= reach) & (reach > 0)).any())
