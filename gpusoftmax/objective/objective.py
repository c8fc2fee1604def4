"""The objective of K models: its value and gradient in one pass over the data.

    f_k(W, b) = (1 / S_k) sum_i s_ik loss(x_i W_k + b_k, y_i)  +  (l2_k / 2) ||W_k||^2,     S_k = sum_i s_ik

Here x_i are the shifted and scaled features. The formula leaves out three things: the factors r_p of the penalty (see
`penalties`), the linear term of soft labels (see `soft_labels`), and `Objective.total`, which replaces S if given.

Shapes: X (n, d); y (n,) class indices in [0, c); W (d, K, c), so that W.reshape(d, K*c) can enter a matrix product;
b (K, c); weights s (n_stored, K), not negative, for all stored rows; l2 (K,). The loss is a mean, in nats for softmax.
The intercepts are penalised only on request; they are then part of the norm. dW and db have the shapes of W and b.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend
from gpusoftmax.features.base import Features
from gpusoftmax.losses import Loss
from gpusoftmax.operations import SgdSteps
from gpusoftmax.penalties import L2

NO_ROWS = slice(0, 0)


@dataclass(frozen=True)
class Evaluation:
    """The objective of K models at one point, over all selected rows or estimated from a minibatch.

    All arrays are on the device; a GPU may still be computing them.

    Attributes
    ----------
    value, loss : ndarray of float64, (K,)
        The objective with the penalty, and the mean loss without it.
    accuracy : ndarray of float64, (K,)
        Weighted fraction of the rows that are classified correctly. That of a minibatch is an unbiased estimate, which
        may exceed 1.
    dW, db : ndarray of the type of the computation, (d, K, c) and (K, c)
        The gradient of `value`.
    """

    value: Array
    loss: Array
    accuracy: Array
    dW: Array
    db: Array


@dataclass(frozen=True)
class LinearTerm:
    """The term <T, W> + <t, b> that soft labels add to each model's objective with hard labels; see `soft_labels`.

    It is in float64, so that it adds no rounding error: it can nearly cancel the loss of the hard labels.

    Attributes
    ----------
    T : ndarray of float64, (d, K, c)
        Coefficients of the weights W of the scaled features.
    t : ndarray of float64, (K, c)
        Coefficients of the intercepts.
    """

    T: Array
    t: Array

    def value(self, W: Array, b: Array) -> Array:
        """Value of the term, (K,) float64."""
        value: Array = (self.T * W).sum(axis=(0, 2)) + (self.t * b).sum(axis=1)
        return value


@dataclass(frozen=True)
class Objective:
    """The objective f of K models; all arrays are on the device.

    Attributes
    ----------
    features : Features
        The rows to train on, with shift and scale.
    labels : ndarray of int32, (n_stored,)
        Class indices of all stored rows.
    n_classes : int
        c.
    weights : ndarray of the type of the computation, (n_stored, K), or None
        s, for all stored rows; None means all ones.
    penalty : L2
        The penalty of each model; the number of its strengths is K. Its factors express the user's penalty in the
        coordinates of the scaled features.
    loss : Loss
        The loss of a row, one of `losses.LOSSES`.
    fit_intercept : bool
        Whether the intercepts are trained; if not, db is zero.
    linear_term : LinearTerm, optional
        Added to the objective and to the loss; in the coordinates of the scaled features.
    total : ndarray of float64, (K,), optional
        S, if it is not the sum of the weights of the selected rows. For rows that are part of a stream it is n times
        the mean weight of the stream.
    """

    features: Features
    labels: Array
    n_classes: int
    weights: Array | None
    penalty: L2
    loss: Loss
    fit_intercept: bool = True
    linear_term: LinearTerm | None = None
    total: Array | None = None

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return self.features.backend

    @property
    def n_models(self) -> int:
        """Number of models, K."""
        return len(self.penalty.strengths)

    @property
    def has_free_intercept(self) -> bool:
        """Whether there is an intercept that is not penalised."""
        return self.fit_intercept and not self.penalty.on_intercept

    @cached_property
    def penalty_on_host(self) -> L2:
        """The penalty with its arrays on the host, which are copied there once; `select` takes them along."""
        return self.penalty.moved(self.backend.to_numpy)

    def for_penalties(self, strengths: Array) -> Objective:
        """Repeat the objectives of all models, in their order, for other strengths of the penalties, on the host.

        There is a strength for each model of the result, so their number is a multiple of the number of models.
        """
        times, weights, term = len(strengths) // self.n_models, self.weights, self.linear_term

        def repeated(array: Array, axis: int) -> Array:
            return array if times == 1 else self.backend.xp.concatenate([array] * times, axis=axis)

        return replace(
            self,
            penalty=self.penalty.with_strengths(self.backend.asarray(strengths)),
            weights=None if weights is None else repeated(weights, 1),
            linear_term=term and LinearTerm(repeated(term.T, 1), repeated(term.t, 0)),
        )

    def select(self, models: Array) -> Objective:
        """Select some of the models by their indices, on the host."""
        index, weights, term = self.backend.asarray(models), self.weights, self.linear_term

        def take(array: Array, axis: int) -> Array:
            return self.backend.xp.take(array, index, axis=axis)

        selected = replace(
            self,
            penalty=self.penalty.with_strengths(take(self.penalty.strengths, 0)),
            weights=None if weights is None else take(weights, 1),
            linear_term=term and LinearTerm(take(term.T, 1), take(term.t, 0)),
            total=None if self.total is None else take(self.total, 0),
        )
        if "penalty_on_host" in vars(self):
            on_host = self.penalty_on_host
            vars(selected)["penalty_on_host"] = on_host.with_strengths(on_host.strengths[models])
        return selected

    def weight_sums(self) -> Array:
        """S (K,), float64: `total` if it is given, else the sums of the weights over the selected rows."""
        if self.total is not None:
            return self.total
        if self.weights is None:
            return self.backend.xp.full(self.n_models, float(self.features.n))
        rows = self.features.rows
        return (self.weights if rows is None else self.weights[rows]).sum(axis=0, dtype=np.float64)

    def value_at_zero(self) -> float:
        """Objective at W = 0 and b = 0, the same for all models; holds if S is the sum of the weights."""
        return self.loss.at_zero(self.n_classes)

    @np.errstate(over="ignore", invalid="ignore")  # the caller sees a non-finite loss instead of a warning
    def value_and_gradient(
        self, W: Array, b: Array, rows: Array | None = None, weight_sums: Array | None = None
    ) -> Evaluation:
        """Evaluate the objective in one pass over the selected rows, or over a minibatch B of |B| rows.

        `rows` (|B|,), int64, are the numbers of the minibatch's rows among all stored rows. With g_i for the gradient
        of row i's loss, the loss of a minibatch has the gradient n / (|B| S) sum_{i in B} s_i g_i, an unbiased estimate
        of that over all n selected rows. The linear term covers all rows and so adds no noise. Callers that evaluate
        often can pass the result of `weight_sums()`, so that it is not computed again.
        """
        features = self.features
        W_folded, b_folded = features.fold(W, b)
        losses, correct, dW, db = features.gradient(self.labels, W_folded, b_folded, self.weights, self.loss.code, rows)
        row_scale = 1.0 / (self.weight_sums() if weight_sums is None else weight_sums)
        if rows is not None:
            row_scale = row_scale * (features.n / len(rows))
        row_scale_in_type, term = row_scale.astype(features.dtype), self.linear_term
        db *= row_scale_in_type[:, None]
        of_weights, linear = features.finish_gradient(
            dW, db, W, row_scale_in_type, self.penalty, None if term is None else term.T
        )
        loss = losses * row_scale
        if term is not None and linear is not None:
            db += term.t
            loss = loss + linear + (term.t * b).sum(axis=1)
        value = loss + of_weights
        if self.penalty.on_intercept:
            of_intercepts = self.penalty.restricted(NO_ROWS, intercepts=True)
            of_intercepts.add_gradient(W[NO_ROWS], b, dW[NO_ROWS], db)
            value = value + of_intercepts.value(W[NO_ROWS], b)
        if not self.fit_intercept:
            db[:] = 0
        return Evaluation(value, loss, correct * row_scale, dW, db)

    def sgd_steps(
        self, W: Array, b: Array, velocity: Any, batches: list[Any], weight_sums: Array, rates: Array, momentum: Array,
        nesterov: bool,
    ) -> tuple[Array, Array] | None:  # fmt: skip
        """Take several SGD steps in one call, or do nothing and return None; see `operations.SgdStretch`.

        W (d, K, c), b (K, c) and `velocity`, a pair of arrays of these shapes or None, are updated in place. There is
        one batch of row numbers, int64, for each step; None means all selected rows. `weight_sums` (K,) is the result
        of `weight_sums()`, `rates` are (steps, K) and `momentum` is (K,). Returns totals (3, K) and the objectives (K,)
        of the first step.
        """
        features, term = self.features, self.linear_term
        steps = SgdSteps(
            n=features.n,
            shift=features.shift,
            scale=features.scale,
            penalty=self.penalty,
            weight_sums=weight_sums,
            rates=rates,
            momentum=momentum,
            nesterov=nesterov,
            fit_intercept=self.fit_intercept,
            linear_term=None if term is None else (term.T, term.t),
        )
        return features.sgd_steps(self.labels, W, b, self.weights, self.loss.code, velocity, batches, steps)

    def losses(self, W: Array, b: Array) -> tuple[Array, Array]:
        """Mean loss (K,) without the penalty, and accuracy (K,), both weighted by s and float64."""
        W_folded, b_folded = self.features.fold(W, b)
        losses, correct = self.features.losses(self.labels, W_folded, b_folded, self.weights, self.loss.code)
        sums = self.weight_sums()
        loss = losses / sums if self.linear_term is None else losses / sums + self.linear_term.value(W, b)
        return loss, correct / sums
