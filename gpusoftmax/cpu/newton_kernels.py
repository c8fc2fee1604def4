"""Newton systems of few rows: conjugate gradients in one call; see `operations.NewtonSystems`.

Rows come in blocks of BLOCK, so that every loop over rows has a fixed length and is vectorised. The features of a block
stay in the cache between the two products with them. Sums over rows are in float32 within a block, in float64 beyond.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gpusoftmax.cpu.compiling import compiled

BLOCK = 64
UNROLLED = 4  # columns that are multiplied at a time; the number of columns is a multiple


@register_jitable
def _multiply_rows(x, v, U):
    """U = v x for the features x (q, BLOCK) of a block, v (c, q) and U (c, BLOCK)."""
    for j in range(len(v)):
        u, w = U[j], v[j]
        for r in range(BLOCK):
            u[r] = 0
        for p in range(0, len(x), UNROLLED):
            x0, x1, x2, x3 = x[p], x[p + 1], x[p + 2], x[p + 3]
            w0, w1, w2, w3 = w[p], w[p + 1], w[p + 2], w[p + 3]
            for r in range(BLOCK):
                u[r] += (w0 * x0[r] + w1 * x1[r]) + (w2 * x2[r] + w3 * x3[r])


@register_jitable
def _curve_softmax(p, s, U, sums):
    """Replace U by s (diag(p) - p p') U for each row of a block."""
    for r in range(BLOCK):
        sums[r] = 0
    for j in range(len(p)):
        for r in range(BLOCK):
            sums[r] += p[j, r] * U[j, r]
    for j in range(len(p)):
        for r in range(BLOCK):
            U[j, r] = s[r] * p[j, r] * (U[j, r] - sums[r])


@register_jitable
def _curve_hinge(violated, labels, s, U):
    """Replace U by 2 s (diag(a) + A e_y e_y' - a e_y' - e_y a') U for each row of a block."""
    for r in range(BLOCK):
        own, total = U[labels[r], r], U.dtype.type(0)
        for j in range(len(violated)):
            u = 2 * s[r] * violated[j, r] * (U[j, r] - own)
            U[j, r] = u
            total += u
        U[labels[r], r] = -total


@register_jitable
def _add_products(x, U, out):
    """out += U x' for the features x (q, BLOCK) of a block and U (c, BLOCK); out (c, q) is float64."""
    zero = x.dtype.type(0)
    for j in range(len(out)):
        u, to = U[j], out[j]
        for p in range(0, len(x), UNROLLED):
            x0, x1, x2, x3 = x[p], x[p + 1], x[p + 2], x[p + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for r in range(BLOCK):
                s0 += u[r] * x0[r]
                s1 += u[r] * x1[r]
                s2 += u[r] * x2[r]
                s3 += u[r] * x3[r]
            to[p] += s0
            to[p + 1] += s1
            to[p + 2] += s2
            to[p + 3] += s3


@register_jitable
def _hessian_product(x, factors, labels, weights, penalty, v, v32, U, sums, out):
    """out = H v; U (c + 1, BLOCK), sums and v32, which have the columns of x, are scratch memory; v32 begins at 0."""
    sums[:] = 0
    for j in range(len(v)):
        for p in range(len(penalty)):
            v32[j, p] = v[j, p]
    for block in range(len(x)):
        _multiply_rows(x[block], v32, U)
        if len(labels):
            _curve_hinge(factors[block], labels[block], weights[block], U)
        else:
            _curve_softmax(factors[block], weights[block], U, U[len(v)])
        _add_products(x[block], U, sums)
    for j in range(len(v)):
        for p in range(len(penalty)):
            out[j, p] = sums[j, p] + penalty[p] * v[j, p]


@register_jitable
def _precondition(inverses, mean_inverse, v, out, mean, column):
    """out = M^-1 v; mean (2, q) and column (q,) are scratch memory."""
    c, q = v.shape
    mean[:] = 0
    for j in range(c):
        for p in range(q):
            mean[0, p] += v[j, p] / c
    for j in range(c):
        column[:] = 0
        for i in range(q):
            f, row = v[j, i] - mean[0, i], inverses[j, i]  # symmetric
            for p in range(q):
                column[p] += f * row[p]
        for p in range(q):
            out[j, p] = column[p]
            mean[1, p] += column[p] / c
    for j in range(c):
        for p in range(q):
            out[j, p] += mean[0, p] * mean_inverse[p] - mean[1, p]


@register_jitable
def _dot(a, b):
    total = 0.0
    for j in range(len(a)):
        for p in range(a.shape[1]):
            total += a[j, p] * b[j, p]
    return total


@compiled
def conjugate_gradients(x, factors, labels, weights, penalty, inverses, mean_inverse, g, eta, most, step, source):
    """Write the solution of H p = g to step (c, q), and return the number of products.

    See `operations.NewtonSystems`. The arrays of rows are in blocks: x (blocks, columns, BLOCK), factors (blocks, c, BLOCK),
    labels (blocks, BLOCK), or (0, 0) for softmax, and weights (blocks, BLOCK), which are 0 beyond the last row.
    """
    c, q = g.shape
    U, v32, sums = np.empty((c + 1, BLOCK), x.dtype), np.zeros((c, x.shape[1]), x.dtype), np.empty((c, x.shape[1]))
    mean, column = np.empty((2, q)), np.empty(q)
    r, z, v, Hv = g.copy(), np.empty_like(g), np.empty_like(g), np.empty_like(g)
    step[:] = 0
    _precondition(inverses, mean_inverse, r, z, mean, column)
    v[:] = z
    size = _dot(r, z)
    goal = eta * eta * size
    for products in range(1, most + 1):
        _hessian_product(x, factors, labels, weights, penalty, v, v32, U, sums, Hv)
        curved = _dot(v, Hv)
        if not curved > 0:  # only rounding errors are left
            return products
        a = size / curved
        for j in range(c):
            for p in range(q):
                step[j, p] += a * v[j, p]
                r[j, p] -= a * Hv[j, p]
        _precondition(inverses, mean_inverse, r, z, mean, column)
        before, size = size, _dot(r, z)
        if size <= goal:
            return products
        b = size / before
        for j in range(c):
            for p in range(q):
                v[j, p] = z[j, p] + b * v[j, p]
    return most
