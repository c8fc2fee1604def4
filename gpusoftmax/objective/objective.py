"""Value and gradient of the objective over K models: fold, pass, sum, unfold, penalty.

    f_k(W, b) = (1 / S_k) sum_i s_ik loss(x_i W_k + b_k, y_i)  +  (l2_k / 2) ||W_k||^2,     S_k = sum_i s_ik

X (n, d); y (n,) class index in [0, c); W (d, K, c), so that W.reshape(d, K*c) is what a matrix product wants; b (K, c);
s (n,) or (n, K) weights >= 0; l2 (K,). The loss is a mean in nats. The intercept is penalised only if asked for; it is
then part of the norm. A gradient has the layout of what it is the gradient of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax.array import Backend, get_backend_for, gpu_of
from gpusoftmax.checks.validation import (
    check_class_indices,
    check_coefficients,
    check_flag,
    check_index_array,
    check_loss,
    check_per_model,
    check_sample_weight,
    check_shift_and_scale,
)
from gpusoftmax.cpu.packed import Descent
from gpusoftmax.dtypes import computation_dtype, from_bits, weights_in_type
from gpusoftmax.features.dense import DenseFeatures, rows_that_count
from gpusoftmax.losses import LOSSES, Loss

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """The objective at one point, for K models: value (K,) with the penalty, loss (K,) without it, accuracy (K,) in
    [0, 1], all float64; dW (d, K, c) and db (K, c). All on the device, and not waited for."""

    value: Array
    loss: Array
    accuracy: Array
    dW: Array
    db: Array


@dataclass(frozen=True)
class LinearTerm:
    """What soft labels add to the objective of hard ones, <T, W> + <t, b> for each model; see `soft_labels`.

    In float64, so that it adds no rounding to the loss: where the two nearly cancel, that would be all that is left.

    Attributes
    ----------
    T : ndarray of float64, (d, K, c)
    t : ndarray of float64, (K, c)
    """

    T: Array
    t: Array

    def value(self, W: Array, b: Array) -> Array:
        """(K,) float64."""
        value: Array = (self.T * W).sum(axis=(0, 2)) + (self.t * b).sum(axis=1)
        return value


@dataclass(frozen=True)
class Objective:
    """f over K models; all arrays on the device.

    Attributes
    ----------
    features : DenseFeatures
        X, its shift and its scale.
    labels : ndarray of int32
        Class indices of all rows of X.
    n_classes : int
        c.
    weights : ndarray, (rows of X, K), or None
        s; None means all ones.
    l2 : ndarray of float64, (K,)
        Penalties.
    loss : Loss
    fit_intercept, penalize_intercept : bool
        Without an intercept db is zero.
    penalty_factors : ndarray of float64, (d,), optional
        r: the penalty is (l2 / 2) sum_p r_p ||W_p||^2. For solving in coordinates other than those of the penalty.
    linear_term : LinearTerm, optional
        Added to f, and to the loss; in the coordinates of the scaled features.
    total : ndarray of float64, (K,), optional
        S, where it is not the sum of these weights: for rows that are part of a stream, n times its mean weight.
    """

    features: DenseFeatures
    labels: Array
    n_classes: int
    weights: Array | None
    l2: Array
    loss: Loss
    fit_intercept: bool = True
    penalize_intercept: bool = False
    penalty_factors: Array | None = None
    linear_term: LinearTerm | None = None
    total: Array | None = None

    @property
    def backend(self) -> Backend:
        """Who computes."""
        return self.features.backend

    @property
    def n_models(self) -> int:
        """K."""
        return len(self.l2)

    def for_penalties(self, l2: Array) -> Objective:
        """Of one model, the same for as many side by side as there are penalties (K,), on the host."""
        repeat, K, weights, term = self.backend.xp.repeat, len(l2), self.weights, self.linear_term
        return replace(
            self,
            l2=self.backend.asarray(l2),
            weights=None if weights is None else repeat(weights, K, axis=1),
            linear_term=term and LinearTerm(repeat(term.T, K, axis=1), repeat(term.t, K, axis=0)),
        )

    @property
    def has_free_intercept(self) -> bool:
        """Whether there is an intercept without a penalty."""
        return self.fit_intercept and not self.penalize_intercept

    def of(self, models: Array) -> Objective:
        """The same for some of the models."""
        xp, index, weights, term = self.backend.xp, self.backend.asarray(models), self.weights, self.linear_term
        return replace(
            self,
            l2=xp.take(self.l2, index, axis=0),
            weights=None if weights is None else xp.take(weights, index, axis=1),
            linear_term=term and LinearTerm(xp.take(term.T, index, axis=1), xp.take(term.t, index, axis=0)),
            total=None if self.total is None else xp.take(self.total, index, axis=0),
        )

    def weight_sums(self) -> Array:
        """S (K,)."""
        if self.total is not None:
            return self.total
        if self.weights is None:
            return self.backend.xp.full(self.n_models, float(self.features.n))
        rows = self.features.rows
        return (self.weights if rows is None else self.weights[rows]).sum(axis=0, dtype=np.float64)

    def value_at_zero(self) -> float:
        """f(0), the same for all models."""
        return self.loss.at_zero(self.n_classes)

    def penalty(self, W: Array, b: Array) -> Array:
        """(l2_k / 2) ||W_k||^2, (K,) float64, with b in the norm if the intercept is penalised."""
        norm = (W * self._penalised(W)).sum(axis=(0, 2), dtype=np.float64)
        if self.penalize_intercept:
            norm += (b * b).sum(axis=1, dtype=np.float64)
        penalty: Array = 0.5 * self.l2 * norm
        return penalty

    def _penalised(self, W: Array) -> Array:
        """r W."""
        return W if self.penalty_factors is None else self.penalty_factors.astype(W.dtype)[:, None, None] * W

    @np.errstate(over="ignore", invalid="ignore")  # a non-finite loss is the report
    def value_and_gradient(
        self, W: Array, b: Array, rows: Array | None = None, sums: Array | None = None
    ) -> Evaluation:
        """One read of X, or of the rows of a minibatch B, whose numbers in X `rows` are.

        A minibatch's gradient is n / (|B| S) sum_{i in B} s_i g_i, an unbiased estimate of the whole, to which the
        linear term, that of all rows, adds no noise; `sums` is `weight_sums()`, for callers that ask often.
        """
        features = self.features
        W_folded, b_folded = features.fold(W, b)
        losses, correct, dW, db = self.backend.ops.linear_gradient(
            features.X, self.labels, W_folded, b_folded, self.weights, self.loss.code,
            features.rows if rows is None else rows,
        )  # fmt: skip
        share = 1.0 / (self.weight_sums() if sums is None else sums)
        if rows is not None:
            share = share * (features.n / len(rows))
        factor = share.astype(features.dtype)[:, None]
        dW *= factor
        db *= factor
        dW = features.unfold(dW, db)
        loss = losses * share
        if self.linear_term is not None:
            dW += self.linear_term.T
            db += self.linear_term.t
            loss = loss + self.linear_term.value(W, b)
        l2 = self.l2.astype(features.dtype)[:, None]
        dW += l2 * self._penalised(W)
        if not self.fit_intercept:
            db[:] = 0
        elif self.penalize_intercept:
            db += l2 * b
        return Evaluation(loss + self.penalty(W, b), loss, correct * share, dW, db)

    def sgd_steps(
        self, W: Array, b: Array, velocity: Any, batches: list[Any], sums: Array, rates: Array, momentum: Array,
        nesterov: bool,
    ) -> Any:  # fmt: skip
        """Steps of SGD in one call, if the back end has that for this shape; see `array.Operations.sgd_steps`."""
        features, term = self.features, self.linear_term
        descent = Descent(
            features.n,
            features.shift,
            features.scale,
            self.penalty_factors,
            self.l2,
            sums,
            rates,
            momentum,
            nesterov,
            self.fit_intercept,
            self.penalize_intercept,
            None if term is None else (term.T, term.t),
        )
        return self.backend.ops.sgd_steps(
            features.X, self.labels, W, b, self.weights, self.loss.code, velocity,
            [features.rows if rows is None else rows for rows in batches], descent,
        )  # fmt: skip

    def losses(self, W: Array, b: Array) -> tuple[Array, Array]:
        """Mean loss (K,), without penalty, and accuracy (K,), weighted by s."""
        W_folded, b_folded = self.features.fold(W, b)
        losses, correct = self.backend.ops.linear_losses(
            self.features.X, self.labels, W_folded, b_folded, self.weights, self.loss.code, self.features.rows
        )
        sums = self.weight_sums()
        loss = losses / sums if self.linear_term is None else losses / sums + self.linear_term.value(W, b)
        return loss, correct / sums


def loss_and_gradient(
    X: Any,
    y: Any,
    W: Any,
    b: Any,
    *,
    l2: Any = 0.0,
    loss: str = "softmax",
    sample_weight: Any = None,
    shift: Any = None,
    scale: Any = None,
    penalize_intercept: bool = False,
    backend: str | Backend = "auto",
    n_threads: int | None = None,
) -> tuple[Any, Array, Array]:
    """The regularised mean loss of a linear classifier and its gradient, in one read of X.

    With x' = (x - shift) / scale and scores z_i = x'_i W + b,

        f(W, b) = (1 / S) sum_i s_i loss(z_i, y_i) + (l2 / 2) ||W||^2,    S = sum_i s_i

    where loss is logsumexp(z) - z_y ("softmax"), sum_{j != y} max(0, z_j - z_y + 1) ("hinge", Weston and Watkins
    1999), or the same terms squared ("squared_hinge"). K models side by side share the read.

    Parameters
    ----------
    X : array-like, (n, d)
        float64, float32, float16, bfloat16 and uint8 are read in place; NaN and infinity give a non-finite loss.
    y : array-like of int, (n,)
        Class indices in [0, c).
    W : array-like, (d, c) or (d, K, c)
        Weights of the scaled features. Computation is in float64 if X is float64, else in float32.
    b : array-like, (c,) or (K, c)
        Intercepts.
    l2 : float or (K,)
        Penalty, not negative.
    loss : {"softmax", "hinge", "squared_hinge"}
    sample_weight : array-like, (n,) or (n, K), optional
        s, finite and not negative.
    shift, scale : float or (d,), optional
        Folded into the weights; a scale of 0 counts as 1.
    penalize_intercept : bool
        Add (l2 / 2) ||b||^2.
    backend : {"auto", "cpu", "numpy", "cuda", "cuda:<i>"}
    n_threads : int, optional
        CPU threads; the result has the same bits for any number. Default: as of `get_backend`.

    Returns
    -------
    loss : float, or float64 (K,)
        f in nats.
    dW, db : ndarray
        Gradients, shaped as W and b.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range or of the wrong shape or type; the message names it and the fix.
    BackendUnavailableError
        A GPU was asked for and cannot be had.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3, dtype=np.float32), np.array([0, 1, 2])
    >>> loss, dW, db = loss_and_gradient(X, y, np.zeros((3, 3)), np.zeros(3))
    >>> round(loss, 6)  # ln 3
    1.098612
    """
    device = get_backend_for(backend, n_threads, X=X, y=y, W=W, b=b, sample_weight=sample_weight)
    on_device = gpu_of(X) is not None  # then the results stay there, too
    with device.active():
        X = device.features(X)
        n, d = X.shape
        dtype = computation_dtype(X.dtype)
        weights, bias, single = check_coefficients(W, b, d, device.asarray if on_device else np.asarray)
        weights, bias = (device.xp.array(device.asarray(array), dtype=dtype, order="C") for array in (weights, bias))
        _, K, c = weights.shape
        y, sample_weight = map(device.on_host, (y, sample_weight))
        s, _ = weights_in_type(check_sample_weight(sample_weight, n, K, np.float64), dtype)
        rows = rows_that_count(s)
        shift, scale = (
            None if side is None else device.asarray(side) for side in check_shift_and_scale(shift, scale, d)
        )
        objective = Objective(
            features=DenseFeatures(X, device, shift, scale, None if rows is None else device.asarray(rows)),
            labels=device.asarray(check_class_indices(y, n, c)),
            n_classes=c,
            weights=None if s is None else device.asarray(s),
            l2=device.asarray(check_per_model("l2", l2, K)),
            loss=check_loss(loss),
            penalize_intercept=check_flag("penalize_intercept", penalize_intercept),
        )
        result = objective.value_and_gradient(weights, bias)
        value = device.to_numpy(result.value)
        dW, db = (result.dW, result.db) if on_device else (device.to_numpy(result.dW), device.to_numpy(result.db))
        return (float(value[0]), dW[:, 0], db[0]) if single else (value, dW, db)


def softmax_cross_entropy(logits: Any, labels: Any, *, sample_weight: Any = None) -> tuple[float, Array]:
    """Mean softmax cross-entropy of given logits, and its gradient with respect to them.

        loss = (1 / S) sum_i s_i (logsumexp(z_i) - z_{i, y_i}),    gradient_ij = (s_i / S) (softmax(z_i)_j - [j = y_i])

    The target is kept apart from the sum, so that a confident row's gradient keeps its digits.

    Parameters
    ----------
    logits : array-like, (n, c)
        float64 stays float64, everything else is computed in float32. -inf is legal where it is not the target's.
    labels : array-like of int, (n,)
        Class indices in [0, c).
    sample_weight : array-like, (n,), optional
        s, finite and not negative.

    Returns
    -------
    loss : float
        In nats. NaN or +inf logits, or a target at -inf, make it non-finite.
    gradient : ndarray, (n, c)

    Raises
    ------
    ValueError, TypeError
        An argument is out of range or of the wrong shape or type.

    Examples
    --------
    >>> loss, gradient = softmax_cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 6), gradient.tolist()
    (0.693147, [[0.5, -0.5]])
    """
    on_device = gpu_of(logits) is not None
    device = get_backend_for("auto" if on_device else "cpu", None, logits=logits, labels=labels)
    with device.active():
        scores = from_bits(device.features(logits, "logits"))
        n, c = scores.shape
        if c < 2:
            raise ValueError(f"logits has shape {scores.shape}, one class; at least two are needed")
        dtype = computation_dtype(scores.dtype)
        gradient = device.xp.array(scores, dtype=dtype, order="C")
        weights = check_sample_weight(device.on_host(sample_weight), n, 1, np.float64, other="logits")
        weights, _ = weights_in_type(weights, dtype)
        if weights is not None and not weights.all():  # what does not count may be NaN
            gradient = device.xp.where(device.asarray(weights > 0), gradient, dtype(0))
        if on_device:
            targets = device.asarray(labels)
            check_index_array(targets, n, c, "labels", "logits")
            targets = targets.astype(np.int32)  # the kernel itself reports one that is no class
        else:
            targets = check_class_indices(labels, n, c, "labels", "logits")
        s = None if weights is None else device.asarray(weights)
        losses, _ = device.ops.row_loss(gradient.reshape(n, 1, c), targets, s, LOSSES["softmax"].code)
        total = float(n) if weights is None else float(weights.sum(dtype=np.float64))
        gradient /= dtype(total)
        return float(device.to_numpy(losses)[0] / total), gradient
