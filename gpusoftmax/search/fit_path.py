"""`fit_path`: fits one classifier, whose penalty is chosen on held-out rows along the path from strong to weak."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from gpusoftmax.checkpoints.checkpoint import EVERY
from gpusoftmax.search.result import SweepResult
from gpusoftmax.search.sweep import sweep

PENALTIES = tuple(float(f"{10.0 ** (half / 2):.1g}") for half in range(-10, 7))  # 1e-5, 3e-5, 1e-4, ..., 1e3


def fit_path(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    validation: Any,
    Cs: Sequence[float] | str = PENALTIES,
    patience: int | None = 2,
    sample_weight: Any = None,
    verbose: int = 0,
    on_candidate: Callable[[dict[str, Any]], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = EVERY,
) -> SweepResult:
    """Fit a classifier with the C that has the smallest loss on validation rows; `gpusoftmax train` calls this.

    Models are fitted to their exact optima from strong penalties to weak ones. Each starts from a prediction made from
    those before it; see `sweep`. The search ends early once weaker penalties have become worse.

    Parameters
    ----------
    estimator : SoftmaxClassifier or LinearSVMClassifier
        Its parameters apply to all models, except for C; see `sweep`.
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, c)
        See `SoftmaxClassifier.fit`.
    validation : (X, y) or float
        Rows to choose C by: either validation data, which are not trained on, or a fraction of X to hold out,
        stratified. In the second case the chosen model is fitted again to all rows.
    Cs : sequence of float, or "auto"
        Values of C to try. Default: 1e-5, 3e-5, 1e-4, ..., 1e3. "auto": the values are found; see `sweep`.
    patience : int, optional
        Stop after this many values of C in a row that were worse than a smaller value; see `sweep`. None: try all
        values.
    sample_weight : array-like of shape (n,), optional
        Not negative.
    verbose : int
        1 shows progress on standard error.
    on_candidate : callable, optional
        Called after each C, with its row of the result's table.
    checkpoint : str or os.PathLike, optional
        A file from which an interrupted run continues; see `sweep`.
    checkpoint_every : float
        Seconds between two checkpoints.

    Returns
    -------
    SweepResult
        `best_estimator_` is the classifier, `best_params_["C"]` its C, and `edges_` says if C is at an end of the grid.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be used; the message names it and the fix.
    BadFileError, OSError, SystemExit
        See `sweep`; with a checkpoint only.

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
        {"C": Cs if isinstance(Cs, str) else list(Cs)},
        X,
        y,
        validation=validation,
        scoring="loss",
        patience=patience,
        sample_weight=sample_weight,
        verbose=verbose,
        on_candidate=on_candidate,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
