"""The course's own classes, with its signatures, over this library's kernels.

They can replace `cs231n.classifiers.linear_classifier` in its notebooks. The bias is a row of W: add a column of ones
to X, as the notebooks do.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import get_backend
from gpusoftmax.checks.labels import check_class_indices, check_index_array
from gpusoftmax.checks.scalars import check_count, check_number
from gpusoftmax.features.read import read_features
from gpusoftmax.losses import LOSSES
from gpusoftmax.objective.functional import loss_and_gradient
from gpusoftmax.objective.objective import Objective
from gpusoftmax.penalties import L2

MOST_CLASSES = 1 << 20  # a label beyond is a mistake
REPORTED = 100  # iterations from one printed line to the next


class LinearClassifier:
    """A linear classifier that is trained by SGD, as in assignment 1; use `Softmax` or `LinearSVM`.

    Attributes
    ----------
    W : ndarray of float64, shape (D, C), or None
        The weights. The first call of `train` draws them, 0.001 times standard normal; another call goes on with them.
    """

    _loss: ClassVar[str]

    def __init__(self) -> None:
        self.W: Array | None = None

    def train(
        self,
        X: Any,
        y: Any,
        learning_rate: float = 1e-3,
        reg: float = 1e-5,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> list[float]:
        """Train by plain SGD.

        Each iteration draws `batch_size` rows with replacement and takes a step against the gradient of

            mean loss + reg sum(W * W)

        without 1/2, and with the row of the bias. Weights and rows come from NumPy's global generator, in the order of
        the course's loop: after np.random.seed(s) they are those of a solution that draws by np.random.choice.

        Parameters
        ----------
        X : array-like, (N, D)
            With a last column of ones for the bias.
        y : array-like of int, (N,)
            From 0 to C - 1.
        learning_rate, reg : float
            Not negative.
        num_iters, batch_size : int
            At least 1.
        verbose : bool
            Print the loss every 100 iterations.

        Returns
        -------
        list of float
            The loss of each iteration's batch, before its step.

        Raises
        ------
        ValueError, TypeError
            An argument cannot be used; the message names it. W is left unchanged.
        """
        check_number("learning_rate", learning_rate, least=0)
        check_number("reg", reg, least=0)
        check_count("num_iters", num_iters)
        check_count("batch_size", batch_size)
        backend = get_backend("auto")
        with backend.active():
            features = read_features(np.asarray(X), backend)
            y = np.asarray(y)
            check_index_array(y, features.n, features.n)
            classes = int(y.max()) + 1 if self.W is None else self.W.shape[1]
            labels = check_class_indices(y, features.n, min(classes, MOST_CLASSES))
            start = 0.001 * np.random.randn(features.d, classes) if self.W is None else self.W
            if start.shape[0] != features.d:
                raise ValueError(f"X has {features.d} columns, but W has {start.shape[0]} rows; pass the same features")
            objective = Objective(
                features=features,
                labels=backend.asarray(labels),
                n_classes=classes,
                weights=None,
                penalty=L2(backend.asarray(np.array([2.0 * reg]))),
                loss=LOSSES[self._loss],
            )
            W = backend.asarray(np.ascontiguousarray(start[:, None], features.dtype))
            b = backend.xp.zeros((1, classes), features.dtype)  # the bias is a row of W
            rate, history = features.dtype(learning_rate), []
            for iteration in range(num_iters):
                rows = np.random.choice(features.n, batch_size)
                found = objective.value_and_gradient(W, b, rows)
                W = W - rate * found.dW
                history.append(float(found.value[0]))
                if verbose and iteration % REPORTED == 0:
                    print(f"iteration {iteration} / {num_iters}: loss {history[-1]:f}")
            self.W = backend.to_numpy(W)[:, 0].astype(np.float64)
        return history

    def predict(self, X: Any) -> Array:
        """Predict the class with the largest score.

        Parameters
        ----------
        X : array-like, (N, D)

        Returns
        -------
        ndarray of int, (N,)

        Raises
        ------
        ValueError
            `train` was not called, or X has another number of columns.
        """
        W, X = self._trained(), np.asarray(X)
        if X.ndim != 2 or X.shape[1] != len(W):
            raise ValueError(f"X has shape {X.shape}, but W has {len(W)} rows; pass (N, {len(W)})")
        best: Array = (X @ W).argmax(axis=1)
        return best

    def loss(self, X_batch: Any, y_batch: Any, reg: float) -> tuple[float, Array]:
        """Compute the loss of a batch, and its gradient.

        Parameters
        ----------
        X_batch : array-like, (N, D)
        y_batch : array-like of int, (N,)
        reg : float
            Not negative.

        Returns
        -------
        loss : float
            mean loss + reg sum(W * W).
        dW : ndarray, (D, C)

        Raises
        ------
        ValueError, TypeError
            `train` was not called, or an argument cannot be used.
        """
        W = self._trained()
        value, dW, _ = loss_and_gradient(
            np.asarray(X_batch, np.float64), y_batch, W, np.zeros(W.shape[1]), l2=2 * reg, loss=self._loss
        )
        return value, dW

    def _trained(self) -> Array:
        if self.W is None:
            raise ValueError("W is None: call train, or set W to weights of shape (D, C)")
        return self.W


class LinearSVM(LinearClassifier):
    """The multiclass SVM of assignment 1: mean over rows of sum_{j != y} max(0, s_j - s_y + 1).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = np.column_stack([rng.normal(size=(60, 2)), np.ones(60)]), np.arange(60) % 3
    >>> np.random.seed(0)
    >>> svm = LinearSVM()
    >>> history = svm.train(X, y, learning_rate=0.1, reg=1e-3, num_iters=20, batch_size=10)
    >>> svm.W.shape, len(history)
    ((3, 3), 20)
    """

    _loss = "hinge"


class Softmax(LinearClassifier):
    """The softmax classifier of assignment 1: mean over rows of -log of the label's probability.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = np.column_stack([rng.normal(size=(60, 2)), np.ones(60)]), np.arange(60) % 3
    >>> np.random.seed(0)
    >>> softmax = Softmax()
    >>> history = softmax.train(X, y, learning_rate=0.1, reg=1e-3, num_iters=20, batch_size=10)
    >>> round(history[0], 2)  # ln 3
    1.1
    """

    _loss = "softmax"
