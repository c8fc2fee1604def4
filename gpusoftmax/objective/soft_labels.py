"""Soft labels: rows with proportions p of the classes instead of one class y, at no extra cost per pass.

If p sums to 1, the cross-entropy is that of a hard label y, which may be any class, plus a term linear in the scores:

    logsumexp(z) - sum_j p_j z_j  =  (logsumexp(z) - z_y)  +  sum_j ([j = y] - p_j) z_j

Over all rows, with z = x' W + b, the objective is therefore that of the hard labels plus <T, W> + <t, b>, where

    T = (1 / S) sum_i s_i x'_i^T (e_{y_i} - p_i),    t = (1 / S) sum_i s_i (e_{y_i} - p_i)

Here x' is a row of scaled features, and e_y a row that is 1 at class y and 0 elsewhere. T (d, K, c) and t (K, c) are
computed once before training, in one pass over the data for each model (two if proportions are smoothed as well). They
are in float64, because an error in them would move the optimum. Later passes need only the hard labels. y is the class
with the largest proportion, so that accuracy has its usual meaning and T is small.

The gradient of a minibatch is that of its hard labels, plus the linear term of all rows. It is unbiased, but it varies
from minibatch to minibatch as with hard labels, by p(z) - e_y for each row. With the soft labels of the minibatch that
would be p(z) - p, which is smaller if the model predicts the proportions well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.objective.objective import LinearTerm, Objective


def row_sums(proportions: Array, class_weight: Array | None = None) -> Array:
    """Weighted sum of each row's proportions, sum_j P_ij w_j: (n,) float64; w is 1 by default.

    It uses einsum, because with BLAS the last bits of a product depend on the number of threads.
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
    """Give a softmax objective soft labels p_i.

        p_i = (1 - smoothing) q_i + smoothing / c,    q_ij = P_ij w_j / sum_k P_ik w_k,  or e_{y_i} without P

    Parameters
    ----------
    objective : Objective
        Has the softmax loss, hard labels, and weights that already include the class weights.
    proportions : ndarray, (n, c), optional
        P for all stored rows, not negative, of any floating type, on the host. It is used without a copy on the CPU,
        and copied to a GPU.
    smoothing : float
        Fraction of each label that is spread over all classes, in [0, 1).
    class_weight : ndarray, (c,), optional
        w, not negative; all ones by default. Rows whose P w sums to 0 must have weight 0 in the objective.

    Returns
    -------
    Objective
        The same objective with the linear term of the soft labels, which replaces any that it had.
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
    # Remove what rounding left: the exact sums over the classes are zero. Otherwise adding a constant to all scores
    # would change the objective, which would then have no minimum.
    T, t = T - T.sum(axis=2)[:, :, None] / c, t - t.sum(axis=1)[:, None] / c
    inverse_sums = 1 / objective.weight_sums()
    T, t = inverse_sums[:, None] * T, inverse_sums[:, None] * t
    return replace(objective, linear_term=LinearTerm(features.unfold(T, t), t))
