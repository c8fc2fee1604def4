"""The specification: every operation in plain float64 NumPy, first as loops, then vectorised.

None of it is fast. Tests compare each fast path with it; in the library only `gradient_check` uses it. The objective
of model k, for rows i and classes j, with z_ikj = sum_p (x_ip - shift_p) / scale_p W_pkj + b_kj, is

    f_k = (1 / S_k) sum_i s_ik loss(z_ik, y_i)  +  (l2_k / 2) ||W_k||^2,     S_k = sum_i s_ik

    softmax        logsumexp(z) - z_y
    hinge          sum_{j != y} max(0, z_j - z_y + 1)
    squared_hinge  sum_{j != y} max(0, z_j - z_y + 1)^2

For softmax with soft labels, where p_j is the proportion of class j in a row's label and sum_j p_j = 1, the loss is
logsumexp(z) - sum_j p_j z_j.

The loss is a mean, in nats; the 1/2 belongs to the penalty; `penalize_intercept` adds (l2_k / 2) ||b_k||^2. The
multiclass hinge loss is that of Weston and Watkins, 1999.
Shapes: X (n, d), y (n,) or (n, c) for soft labels, W (d, K, c), b (K, c), s (n,) or (n, K), l2 (K,). A gradient has the
shape of the array that it belongs to.
"""

from __future__ import annotations

import math

import numpy as np

from gpusoftmax._typing import Array


def row_loss_loops(z: list[float], y: int, loss: str) -> tuple[float, list[float]]:
    """Compute the loss of one row of scores and its gradient, one number at a time.

    The label's class is left out of the sum over classes: p_y - 1 loses all digits once the model is confident, and
    -others / (others + e_y) does not.
    """
    others = [j for j in range(len(z)) if j != y]
    gradient = [0.0] * len(z)
    if loss == "softmax":
        top = max(z)
        e = [math.exp(v - top) for v in z]
        rest = math.fsum(e[j] for j in others)
        for j in others:
            gradient[j] = e[j] / (rest + e[y])
        gradient[y] = -rest / (rest + e[y])
        # z_y - top is 0, or NaN where both are infinite
        value = math.log1p(rest) + (z[y] - top) if z[y] == top else (top - z[y]) + math.log(rest + e[y])
        return value, gradient
    margins = {j: max(z[j] - z[y] + 1.0, 0.0) for j in others}  # in this order NaN stays: max(0.0, NaN) is 0.0
    power = {"hinge": 1, "squared_hinge": 2}[loss]
    for j, margin in margins.items():
        gradient[j] = (1.0 if margin > 0 else margin) if power == 1 else 2.0 * margin
    gradient[y] = -math.fsum(gradient[j] for j in others)
    return math.fsum(margin**power for margin in margins.values()), gradient


def soft_row_loss_loops(z: list[float], p: list[float]) -> tuple[float, list[float]]:
    """Compute the softmax loss of one row of scores with soft label p, and its gradient, one number at a time."""
    top = max(z)
    total = math.fsum(math.exp(v - top) for v in z)
    value = math.log(total) + math.fsum(p[j] * (top - z[j]) for j in range(len(z)))
    return value, [math.exp(z[j] - top) / total - p[j] for j in range(len(z))]


def loss_and_gradient_loops(
    X: Array,
    y: Array,
    W: Array,
    b: Array,
    *,
    l2: Array,
    loss: str,
    weights: Array,
    shift: Array,
    scale: Array,
    penalize_intercept: bool,
) -> tuple[Array, Array, Array]:
    """Compute the objective and its gradients by loops over models, rows, classes and features; see the module."""
    n, d = X.shape
    _, K, c = W.shape
    f, dW, db = np.zeros(K), np.zeros((d, K, c)), np.zeros((K, c))
    for k in range(K):
        total = math.fsum(weights[:, k])
        for i in range(n):
            x = [(float(X[i, p]) - shift[p]) / scale[p] for p in range(d)]
            z = [math.fsum(x[p] * W[p, k, j] for p in range(d)) + b[k, j] for j in range(c)]
            soft = y.ndim == 2
            value, gradient = soft_row_loss_loops(z, y[i].tolist()) if soft else row_loss_loops(z, int(y[i]), loss)
            share = weights[i, k] / total
            f[k] += share * value
            for j in range(c):
                db[k, j] += share * gradient[j]
                for p in range(d):
                    dW[p, k, j] += share * gradient[j] * x[p]
        for j in range(c):
            for p in range(d):
                f[k] += 0.5 * l2[k] * W[p, k, j] ** 2
                dW[p, k, j] += l2[k] * W[p, k, j]
            if penalize_intercept:
                f[k] += 0.5 * l2[k] * b[k, j] ** 2
                db[k, j] += l2[k] * b[k, j]
    return f, dW, db


def row_loss(Z: Array, y: Array, loss: str) -> tuple[Array, Array]:
    """Compute the losses (m,) of the rows of Z (m, c) with labels y (m,), and the gradient (m, c) of their sum."""
    Z = np.asarray(Z, np.float64)
    rows = np.arange(len(Z))
    target = Z[rows, y]
    with np.errstate(invalid="ignore", divide="ignore"):  # scores may be -inf or NaN; the loss is then not finite
        if loss == "softmax":
            top = Z.max(axis=1)
            G = np.exp(Z - top[:, None])
            e_y = G[rows, y]
            G[rows, y] = 0.0
            rest = G.sum(axis=1)
            losses = np.where(target == top, np.log1p(rest) + (target - top), (top - target) + np.log(rest + e_y))
            G[rows, y] = -rest
            G /= (rest + e_y)[:, None]
            return losses, G
        margins = np.maximum(Z - target[:, None] + 1.0, 0.0)
        margins[rows, y] = 0.0
        if loss == "hinge":
            losses, G = margins.sum(axis=1), np.where(margins > 0, 1.0, margins)  # a NaN margin stays NaN
        elif loss == "squared_hinge":
            losses, G = (margins**2).sum(axis=1), 2.0 * margins
        else:
            raise ValueError(f"the reference has no loss {loss!r}")
        G[rows, y] = -G.sum(axis=1)
        return losses, G


def soft_row_loss(Z: Array, P: Array) -> tuple[Array, Array]:
    """Compute softmax losses (m,) of rows Z (m, c) with soft labels P (m, c), and the gradient (m, c) of their sum."""
    shifted = np.asarray(Z, np.float64) - np.max(Z, axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1)
    return np.log(total) - (P * shifted).sum(axis=1), e / total[:, None] - P


def scores(X: Array, W: Array, b: Array, shift: Array | float = 0.0, scale: Array | float = 1.0) -> Array:
    """Compute the scores (n, K, c) of every row under every model."""
    folded = (np.asarray(X, np.float64) - shift) / scale
    return np.einsum("ip,pkj->ikj", folded, np.asarray(W, np.float64)) + b


def loss_and_gradient(
    X: Array,
    y: Array,
    W: Array,
    b: Array,
    *,
    l2: Array | float = 0.0,
    loss: str = "softmax",
    weights: Array | None = None,
    shift: Array | float = 0.0,
    scale: Array | float = 1.0,
    penalize_intercept: bool = False,
) -> tuple[Array, Array, Array]:
    """Compute the objective f (K,) and its gradients dW (d, K, c) and db (K, c); see the module for the equation."""
    n, (_, K, c) = len(X), W.shape
    W, b = np.asarray(W, np.float64), np.asarray(b, np.float64)
    s = np.ones((n, K)) if weights is None else np.broadcast_to(np.reshape(weights, (n, -1)), (n, K))
    s = s / s.sum(axis=0)
    folded = (np.asarray(X, np.float64) - shift) / scale
    Z = np.einsum("ip,pkj->ikj", folded, W) + b
    each, labels = Z.reshape(n * K, c), np.repeat(y, K, axis=0)
    losses, G = soft_row_loss(each, labels) if labels.ndim == 2 else row_loss(each, labels, loss)
    G = G.reshape(n, K, c) * s[:, :, None]
    penalty = np.broadcast_to(np.asarray(l2, np.float64), (K,))
    f = (losses.reshape(n, K) * s).sum(axis=0) + 0.5 * penalty * (W**2).sum(axis=(0, 2))
    dW = np.einsum("ip,ikj->pkj", folded, G) + penalty[:, None] * W
    db = G.sum(axis=0)
    if penalize_intercept:
        f += 0.5 * penalty * (b**2).sum(axis=1)
        db += penalty[:, None] * b
    return f, dW, db
