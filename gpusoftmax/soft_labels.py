"""Soft labels at no cost per pass: a row with proportions p of the classes instead of one class y.

Where p sums to 1 its cross-entropy is that of the hard label y, any class, plus a term that is linear in the scores:

    logsumexp(z) - sum_j p_j z_j  =  (logsumexp(z) - z_y)  +  sum_j ([j = y] - p_j) z_j

So over all rows, with z = x' W + b, the objective is that of hard labels plus <T, W> + <t, b>, where

    T = (1 / S) sum_i s_i x'_i (e_{y_i} - p_i)',    t = (1 / S) sum_i s_i (e_{y_i} - p_i)

(d, K, c) and (K, c), are made once, in one read of X for smoothed labels and two for proportions. No pass and no kernel
knows of them. y is the largest proportion, so that accuracy means what one expects.

A minibatch's gradient plus the term of all rows is unbiased, with the noise of the hard labels: where a model is nearly
as undecided as its labels, that is more than the soft ones would make.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpusoftmax.objective import LinearTerm, Objective

Array = npt.NDArray[Any]


def row_sums(proportions: Array, class_weight: Array | None = None) -> Array:
    """sum_j P_ij w_j, (n,) float64; w is 1 if not given. By einsum: BLAS's bits would depend on its threads."""
    if class_weight is None:
        return np.asarray(proportions.sum(axis=1, dtype=np.float64))
    return np.asarray(np.einsum("ij,j->i", proportions, class_weight.astype(np.float64)))


def class_sums(proportions: Array, weights: Array) -> Array:
    """sum_i s_i P_ij, (c,) float64."""
    return np.asarray(np.einsum("i,ij->j", weights.astype(np.float64), proportions))


@np.errstate(over="ignore", invalid="ignore")  # infinite features: the trainer reports them
def soften(
    objective: Objective, proportions: Array | None = None, smoothing: float = 0.0, class_weight: Array | None = None
) -> Objective:
    """The same objective with softmax's soft labels.

        p_i = (1 - smoothing) q_i + smoothing / c,    q_ij = P_ij w_j / sum_k P_ik w_k,  or e_{y_i} without P

    Parameters
    ----------
    objective : Objective
        Of softmax, with hard labels and all weights.
    proportions : ndarray, (n, c), optional
        P, not negative, of any floating type, on the host. Never copied there.
    smoothing : float
        In [0, 1).
    class_weight : ndarray, (c,), optional
        w; a row without any weight has to be without one in the objective, too.
    """
    features, backend, c = objective.features, objective.backend, objective.n_classes
    ops, K, dtype = backend.ops, objective.n_models, features.dtype
    zeros = backend.xp.zeros((features.d, K, c), dtype=dtype), backend.xp.zeros((K, c), dtype=dtype)
    # at zero scores the gradient of a row is s_i (1 / c - e_{y_i})': what is wanted, but for what all classes share
    _, _, T, t = ops.linear_gradient(features.X, objective.labels, *zeros, objective.weights, objective.loss)
    T, t = T.astype(np.float64), t.astype(np.float64)
    if proportions is None:
        T, t = smoothing * T, smoothing * t
    else:
        total = row_sums(proportions, class_weight)[:, None]
        s = np.ones((features.n, K)) if objective.weights is None else backend.to_numpy(objective.weights)
        share = np.divide(s, total, out=np.zeros(s.shape), where=total > 0).astype(dtype)
        P, w = backend.asarray(proportions), np.ones(c) if class_weight is None else class_weight
        w = backend.asarray((1 - smoothing) * w)
        for k in range(K):
            sums, totals = ops.weighted_sums(features.X, P, backend.asarray(np.ascontiguousarray(share[:, k])))
            T[:, k] += sums * w
            t[k] += totals * w
    # the classes' sum is 0, but for rounding and proportions that sum to 1 not quite; else a shift of all scores would
    # change the objective, which would then have no minimum
    T, t = T - T.sum(axis=2)[:, :, None] / c, t - t.sum(axis=1)[:, None] / c
    share_of_sum = -1 / objective.weight_sums()
    T, t = share_of_sum[:, None] * T, share_of_sum[:, None] * t
    return replace(objective, linear_term=LinearTerm(features.unfold(T, t), t))
