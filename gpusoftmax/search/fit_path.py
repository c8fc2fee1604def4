"""`fit_path`: one classifier, its penalty chosen on held-out rows along the path from strong to weak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpusoftmax.search.result import SweepResult
from gpusoftmax.search.sweep import sweep

PENALTIES = tuple(float(f"{10.0 ** (half / 2):.1g}") for half in range(-10, 7))  # 1e-5, 3e-5, 1e-4, ..., 1e3


def fit_path(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    validation: Any,
    Cs: Sequence[float] = PENALTIES,
    patience: int | None = 2,
    sample_weight: Any = None,
    verbose: int = 0,
    on_candidate: Callable[[dict[str, Any]], Any] | None = None,
) -> SweepResult:
    """Fit a classifier with the C that has the smallest loss on validation rows: what `gpusoftmax train` does.

    Models are fitted one after another, from strong penalties to weak ones, each to its exact optimum, starting where
    those before it point to; see `sweep`. It ends early once weaker penalties have become worse.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        Its parameters hold for all models, but for C; see `sweep`.
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, c)
        As for `SoftmaxClassifier.fit`.
    validation : (X, y) or float
        Rows to choose by: the user's own, which are not trained on, or a fraction of X, stratified; the chosen model is
        then fitted again to all rows.
    Cs : sequence of float
        Values of C to try. Default: 1e-5, 3e-5, 1e-4, ..., 1e3.
    patience : int, optional
        After so many values of C in a row that were worse than a smaller one, larger ones are not tried. None: all are.
    sample_weight : array-like of shape (n,), optional
        Not negative.
    verbose : int
        1 shows progress on the standard error.
    on_candidate : callable, optional
        Called with a row of the result's table for each C that is done.

    Returns
    -------
    SweepResult
        `best_estimator_` is the classifier, `best_params_["C"]` its C, `edges_` says if that is at an end of the grid.

    Raises
    ------
    ValueError, TypeError
        An argument is not usable; the message names it and the fix.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from gpusoftmax import SoftmaxClassifier, fit_path
    >>> X, y = load_digits(return_X_y=True)
    >>> result = fit_path(SoftmaxClassifier(), X / 16, y, validation=0.2)
    >>> result.best_params_, result.edges_
    ({'C': 1.0}, {})
    """
    return sweep(
        estimator,
        {"C": list(Cs)},
        X,
        y,
        validation=validation,
        scoring="loss",
        patience=patience,
        sample_weight=sample_weight,
        verbose=verbose,
        on_candidate=on_candidate,
    )
