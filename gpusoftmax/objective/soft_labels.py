"""Soft labels at no cost per pass: a row with proportions p of the classes instead of one class y.

Where p sums to 1 its cross-entropy is that of the hard label y, any class, plus a term that is linear in the scores:

    logsumexp(z) - sum_j p_j z_j  =  (logsumexp(z) - z_y)  +  sum_j ([j = y] - p_j) z_j

So over all rows, with z = x' W + b, the objective is that of hard labels plus <T, W> + <t, b>, where

    T = (1 / S) sum_i s_i x'_i (e_{y_i} - p_i)',    t = (1 / S) sum_i s_i (e_{y_i} - p_i)

(d, K, c) and (K, c), are made once, in one read of X for each model (two for proportions that are smoothed, too), and
in float64: an error in them would move the optimum. No pass over rows knows of them. y is the largest proportion, so
that accuracy means what one expects and T is small.

A minibatch's gradient plus the term of all rows is unbiased, with the noise of the hard labels: where a model is nearly
as undecided as its labels, that is more than the soft ones would make.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.objective.objective import LinearTerm, Objective


def row_sums(proportions: Array, class_weight: Array | None = None) -> Array:
    """sum_j P_ij w_j, (n,) float64; w is 1 if not given. By einsum: BLAS's bits would depend on its threads."""
    if class_weight is None:
        return np.asarray(proportions.sum(axis=1, dtype=np.float64))
    return np.asarray(np.einsum("ij,j->i", proportions, class_weight.astype(np.float64)))


def class_sums(proportions: Array, weights: Array) -> Array:
    """sum_i s_i P_ij, (c,) float64."""
    return np.asarray(np.einsum("i,ij->j", weights.astype(np.float64), proportions))


@np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
def with_soft_labels(
    objective: Objective, proportions: Array | None = None, smoothing: float = 0.0, class_weight: Array | None = None
) -> Objective:
    """The same objective with softmax's soft labels.

        p_i = (1 - smoothing) q_i + smoothing / c,    q_ij = P_ij w_j / sum_k P_ik w_k,  or e_{y_i} without P

    Parameters
    ----------
    objective : Objective
        Of softmax, with hard labels and all weights, those of classes included.
    proportions : ndarray, (n, c), optional
        P of all rows of X, not negative, of any floating type, on the host. Never copied there.
    smoothing : float
        In [0, 1).
    class_weight : ndarray, (c,), optional
        w; a row without any weight has to be without one in the objective, too.
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
    # the classes' sum is 0 but for rounding; else a shift of all scores would change the objective, without a minimum
    T, t = T - T.sum(axis=2)[:, :, None] / c, t - t.sum(axis=1)[:, None] / c
    scale = 1 / objective.weight_sums()
    T, t = scale[:, None] * T, scale[:, None] * t
    return replace(objective, linear_term=LinearTerm(features.unfold(T, t), t))
