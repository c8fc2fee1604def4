"""Serial Numba kernels for the solver's vectors: weights, gradients, steps, and what is computed from them.

They are bound by memory, so each reads and writes an array once. Arrays are given by addresses, which is cheap. `size`
is the number of bytes of a number in the vectors' type. Runs and rows are added up in that type, their sums in float64.
compiling.py has the decorator `compiled`, and says what holds for all kernels.
"""

from __future__ import annotations

import numpy as np
from numba import carray
from numba.extending import register_jitable

from gpusoftmax.cpu.compiling import as_type, compiled, element, peek, pointer_to

RUN = 2048  # numbers of a vector in a run: with those of the others, it stays in the first-level cache


@compiled
def fold_weights(W, shift, scale, folded, offset, n_rows, zero, source):
    """Write W / scale to `folded`, and add sum_p shift_p W_p / scale_p to `offset` (q,), float64.

    The others are addresses of n_rows rows: of W and folded (d, q), in the type of `zero`, and of shift and scale (d,),
    float64, each 0 if there is none; without a scale `folded` is not written.
    """
    q = len(offset)
    weights = carray(pointer_to(W, zero), (n_rows, q))
    out = carray(pointer_to(folded, zero), (n_rows, q))
    for p in range(n_rows):
        s = peek(scale + 8 * p, 1.0) if scale != 0 else 1.0
        if scale != 0:
            for j in range(q):
                out[p, j] = weights[p, j] / s
        if shift != 0:
            a = peek(shift + 8 * p, 1.0) / s
            for j in range(q):
                offset[j] += a * weights[p, j]


@compiled
def finish_gradient(dW, W, columns, shift, scale, factors, T, sums, n_rows, source):
    """dW <- (row_scale dW - shift db) / scale + T + l2 r W, and add r W^2 and T W to `sums` (2, q), float64.

    `columns` (3, q), in the type of dW: row_scale, db and l2 of each column. The others are addresses of n_rows rows:
    of dW and W (d, q), in that type; of shift, scale and the factors r (d,), and of T (d, q), float64, each 0 if there
    is none.
    """
    q = sums.shape[1]
    zero = columns[0, 0]
    gradient = carray(pointer_to(dW, zero), (n_rows, q))
    weights = carray(pointer_to(W, zero), (n_rows, q))
    linear = carray(pointer_to(T, 1.0), (n_rows, q))
    for p in range(n_rows):
        for j in range(q):
            gradient[p, j] *= columns[0, j]
        if shift != 0:
            a = as_type(peek(shift + 8 * p, 1.0), zero)
            for j in range(q):
                gradient[p, j] -= a * columns[1, j]
        if scale != 0:
            s = as_type(peek(scale + 8 * p, 1.0), zero)
            for j in range(q):
                gradient[p, j] /= s
        r = as_type(peek(factors + 8 * p, 1.0) if factors != 0 else 1.0, zero)
        for j in range(q):
            scaled = r * weights[p, j]
            sums[0, j] += scaled * weights[p, j]
            gradient[p, j] += columns[2, j] * scaled
        if T != 0:
            for j in range(q):
                sums[1, j] += linear[p, j] * weights[p, j]
                gradient[p, j] += linear[p, j]


@register_jitable
def _subtract(a, b, out, n, zero):
    """Write the n differences of numbers at two addresses to a third."""
    first, second = carray(pointer_to(a, zero), (n,)), carray(pointer_to(b, zero), (n,))
    result = carray(pointer_to(out, zero), (n,))
    for j in range(n):
        result[j] = first[j] - second[j]


@compiled
def pair_products(x, x_old, u, u_old, g, g_old, vectors, stride, pair, length, t, out, norms, size, source):
    """Add a pair to some vectors, and compute inner products; see `operations.Operations.pair_products`.

    Adds them to `out` (2, m) and `norms` (2,), float64. The others are addresses of `length` numbers of the type of t,
    the buffer (RUN,): `vectors` that of m vectors, each of which begins `stride` bytes after the one before.
    """
    zero = t[0]
    for start in range(0, length, RUN):
        n = min(RUN, length - start)
        at = start * size
        _subtract(x + at, x_old + at, vectors + pair * stride + at, n, zero)
        _subtract(u + at, u_old + at, vectors + (pair + 1) * stride + at, n, zero)
        gs, before = carray(pointer_to(g + at, zero), (n,)), carray(pointer_to(g_old + at, zero), (n,))
        s = carray(pointer_to(vectors + pair * stride + at, zero), (n,))
        tt, ss = as_type(0.0, zero), as_type(0.0, zero)
        for j in range(n):
            t[j] = gs[j] - before[j]
        for j in range(n):
            tt += t[j] * t[j]
            ss += s[j] * s[j]
        norms[0] += tt
        norms[1] += ss
        for i in range(out.shape[1]):
            v = carray(pointer_to(vectors + i * stride + at, zero), (n,))
            with_t, with_g = as_type(0.0, zero), as_type(0.0, zero)
            for j in range(n):
                with_t += v[j] * t[j]
                with_g += v[j] * gs[j]
            out[0, i] += with_t
            out[1, i] += with_g


@compiled
def solve_diagonals(v, stride, inverse, centre, width, mean_inverse, own, out, out_stride, sums, n_rows, size, source):
    """Compute z and its projection for rows of v; see `operations.Operations.solve_diagonals`.

    Adds sum_p centre_p z_p to `sums` (c,), float64. The others are addresses of n_rows rows, in the type of own (c,):
    of v and out, whose rows begin `stride` and `out_stride` bytes after each other; of inverse and centre (d, width),
    where width is c, or 1 for the same number in all columns, and centre is 0 if there is none; and of mean_inverse
    (d,).
    """
    c = len(own)
    z = np.empty_like(own)
    zero = own[0]
    fraction = as_type(1 / c, zero)
    each = 1 if width == c else 0
    for p in range(n_rows):
        row = carray(pointer_to(v + p * stride, zero), (c,))
        solution = carray(pointer_to(out + p * out_stride, zero), (c,))
        scales = carray(pointer_to(inverse + p * width * size, zero), (width,))
        mean = as_type(0.0, zero)
        for j in range(c):
            mean += row[j]
        mean *= fraction
        total = as_type(0.0, zero)
        if centre != 0:
            middle = carray(pointer_to(centre + p * width * size, zero), (width,))
            for j in range(c):
                z[j] = (row[j] - mean - middle[j * each] * own[j]) * scales[j * each]
                sums[j] += middle[j * each] * z[j]
        else:
            for j in range(c):
                z[j] = (row[j] - mean) * scales[j * each]
        for j in range(c):
            total += z[j]
        added = mean * element(mean_inverse, p, zero) - total * fraction
        for j in range(c):
            solution[j] = z[j] + added
