"""Soft labels: rows with proportions p of the classes instead of one class y, at no extra cost per pass.

If p sums to 1, the cross-entropy is that of a hard label y, which may be any class, plus a term linear in the scores:

    logsumexp(z) - sum_j p_j z_j  =  (logsumexp(z) - z_y)  +  sum_j ([j = y] - p_j) z_j

Over all rows, with z = x' W + b, the objective is therefore that of the hard labels plus <T, W> + <t, b>, where

    T = (1 / S) sum_i s_i x'_i (e_{y_i} - p_i)',    t = (1 / S) sum_i s_i (e_{y_i} - p_i)

T (d, K, c) and t (K, c) are computed once before training, in one pass over the data for each model (two if proportions
are smoothed as well). They are in float64, because an error in them would move the optimum. Later passes need only the
hard labels. y is the class with the largest proportion, so that accuracy has its usual meaning and T is small.

A minibatch's gradient plus the linear term of all rows is unbiased, with the noise of the hard labels. That is more
noise than soft labels would have where a model's probabilities are nearly as undecided as its labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.objective.objective import LinearTerm, Objective


def row_sums(proportions: Array, class_weight: Array | None = None) -> Array:
    """Weighted sum of each row's proportions, sum_j P_ij w_j: (n,) float64; w is 1 by default.

    It uses einsum, because the bits of a BLAS product depend on the number of its threads.
    """
    if class_weight is None:
        return np.asarray(proportions.sum(axis=1, dtype=np.float64))
    return np.asarray(np.einsum("ij,j->i", proportions, class_weight.astype(np.float64)))


def class_sums(proportions: Array, weights: Array) -> Array:
    """Weighted sum of each class's proportions, sum_i s_i P_ij: (c,) float64."""
    return np.asarray(np.einsum("i,ij->j", weights.astype(np.float64), proportions))


@np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
def with_soft_labels(
    objective: Objective, proportions: Array | None = None, smoothing: float = 0.0, class_weight: Array | None = None
) -> Objective:
    """Give a softmax objective soft labels.

        p_i = (1 - smoothing) q_i + smoothing / c,    q_ij = P_ij w_j / sum_k P_ik w_k,  or e_{y_i} without P

    Parameters
    ----------
    objective : Objective
        Has the softmax loss, hard labels, and weights that already include the class weights.
    proportions : ndarray, (n, c), optional
        P for all rows of X, not negative, of any floating type, on the host, where it is not copied.
    smoothing : float
        Fraction of each label that is spread over all classes, in [0, 1).
    class_weight : ndarray, (c,), optional
        w. A row whose classes all have weight 0 must have weight 0 in the objective, too.
    """
    features, backend, K, c = objective.features, objective.backend, objective.n_models, objective.n_classes
    w = backend.asarray(np.ones(c) if class_weight is None else class_weight.astype(np.float64))
    # e_y - p = smoothing (e_y - 1 / c) + (1 - smoothing) (e_y - q)
    parts = [(smoothing, None)] if smoothing or proportions is None else []
    if proportions is not None:
        parts.append((1 - smoothing, backend.asarray(proportions)))
    T, t = backend.xp.zeros((features.d, K, c)), backend.xp.zeros((K, c))
    for k in range(K):
        s = backend.xp.ones(features.n_stored) if objective.weights is None else objective.weights[:, k]
        for fraction, P in parts:
            sums, totals = features.label_sums(objective.labels, s, w, P)
            T[:, k] += fraction * sums
            t[k] += fraction * totals
    # Remove what rounding left of the sum over classes. Otherwise adding a constant to all scores would change the
    # objective, which would then have no minimum.
    T, t = T - T.sum(axis=2)[:, :, None] / c, t - t.sum(axis=1)[:, None] / c
    scale = 1 / objective.weight_sums()
    T, t = scale[:, None] * T, scale[:, None] * t
    return replace(objective, linear_term=LinearTerm(features.unfold(T, t), t))
