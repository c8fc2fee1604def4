"""Steps of SGD on sparse rows, which touch only the weights of the features that occur in them.

    W <- (1 - lr l2) W - lr G

The gradient G of a minibatch is sparse, but the penalty changes every weight. During a call, the weights are therefore
a W, with one number a for each model and the array W: the penalty changes only a, and the gradient only the rows of
features that occur (Shalev-Shwartz, Singer and Srebro, 2007). The squared norm of the weights, which the objective
needs, is updated in float64.

Momentum, and a shift of the features, would change every weight in each step; steps with them are not taken here.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gpusoftmax.cpu.compiling import as_type, compiled, element, value_at
from gpusoftmax.cpu.row_losses import hinge_row, softmax_row
from gpusoftmax.cpu.tiles import SOFTMAX, SQUARED_HINGE

SMALLEST_SCALE = 1e-4  # of a: below it W is multiplied by a, so that its numbers do not overflow


@register_jitable
def _norm(W, k):
    total = 0.0
    for p in range(W.shape[0]):
        for j in range(W.shape[2]):
            total += np.float64(W[p, k, j]) * np.float64(W[p, k, j])
    return total


@register_jitable
def _multiply(W, k, factor):
    for p in range(W.shape[0]):
        for j in range(W.shape[2]):
            W[p, k, j] *= factor


@compiled
def take_sparse_steps(
    indptr, indices, values, labels, weights, W, b, first_model, stop_model, rows, bounds, inverse_scale, loss, n,
    weight_sums, strengths, rates, fit_intercept, penalize_intercept, totals, marker, source,
):  # fmt: skip
    """Take a step for each batch rows[bounds[t]:bounds[t + 1]] for some of the models, in place; see `solvers.SGD`.

    indptr, indices and values are those of `sparse_kernels.multiply_rows`; labels (stored rows,) are int32, rows and
    bounds int64. weights (stored rows, K) and inverse_scale (d,) may be empty, for ones. n, weight_sums (K,) and
    strengths (K,) are those of `operations.SgdSteps`; rates (steps, K) have the type of W (d, K, c) and b (K, c). Adds
    the sums of `operations.SgdStretch` to totals (4, K); the last row is the objective of the first step.
    """
    c, zero = W.shape[2], W.dtype.type(0)
    longest = 0
    for t in range(len(bounds) - 1):
        longest = max(longest, bounds[t + 1] - bounds[t])
    Z, db = np.empty((longest, c), W.dtype), np.empty(c, W.dtype)
    for k in range(first_model, stop_model):
        a, norm = 1.0, _norm(W, k)
        for t in range(len(bounds) - 1):
            m, value, correct = bounds[t + 1] - bounds[t], 0.0, 0.0
            fraction = n / (m * weight_sums[k])
            for j in range(c):
                db[j] = zero
            for i in range(m):
                row = rows[bounds[t] + i]
                z = Z[i]
                for j in range(c):
                    z[j] = zero
                for e in range(element(indptr, row, np.int64(0)), element(indptr, row + 1, np.int64(0))):
                    p = element(indices, e, np.int32(0))
                    x = as_type(value_at(values, e, marker), zero)
                    if len(inverse_scale) > 0:
                        x *= inverse_scale[p]
                    for j in range(c):
                        z[j] += x * W[p, k, j]
                for j in range(c):
                    z[j] = as_type(a, zero) * z[j] + b[k, j]
                s = weights[row, k] if len(weights) > 0 else W.dtype.type(1)
                if loss == SOFTMAX:
                    one, right = softmax_row(z, labels[row], s)
                else:
                    one, right = hinge_row(z, labels[row], s, loss == SQUARED_HINGE)
                value += s * one
                correct += s if right else 0.0
                for j in range(c):
                    db[j] += z[j]
            mean, strength, rate = value * fraction, strengths[k], np.float64(rates[t, k])
            penalised = norm
            if penalize_intercept:
                for j in range(c):
                    penalised += np.float64(b[k, j]) * np.float64(b[k, j])
            objective = mean + 0.5 * strength * penalised
            totals[0, k] += m * objective
            totals[1, k] += m * mean
            totals[2, k] += m * correct * fraction
            if t == 0:
                totals[3, k] = objective
            decay = 1.0 - rate * strength
            a *= decay
            norm *= decay * decay
            if abs(a) < SMALLEST_SCALE:
                _multiply(W, k, as_type(a, zero))
                a = 1.0
            step = rate * fraction / a
            for i in range(m):
                row = rows[bounds[t] + i]
                for e in range(element(indptr, row, np.int64(0)), element(indptr, row + 1, np.int64(0))):
                    p = element(indices, e, np.int32(0))
                    x = as_type(value_at(values, e, marker), zero)
                    if len(inverse_scale) > 0:
                        x *= inverse_scale[p]
                    x *= as_type(step, zero)
                    for j in range(c):
                        old = np.float64(W[p, k, j])
                        W[p, k, j] -= x * Z[i, j]
                        norm += a * a * (np.float64(W[p, k, j]) - old) * (np.float64(W[p, k, j]) + old)
            if fit_intercept:
                for j in range(c):
                    slope = db[j] * as_type(fraction, zero)
                    if penalize_intercept:
                        slope += as_type(strength, zero) * b[k, j]
                    b[k, j] -= rates[t, k] * slope
        _multiply(W, k, as_type(a, zero))
