"""Products with the Hessian of few rows, in one call; see `operations.RowCurvature`.

Rows come in blocks of BLOCK, so that every loop over rows has a fixed length and is vectorised, and the features of a
block stay in the cache between the two products with them. Sums are in float32 within a block, in float64 beyond.

It is one function without slices: divided into functions, it took four times as long to compile.
"""

from __future__ import annotations

from gpusoftmax.cpu.compiling import compiled

BLOCK = 64
UNROLLED = 4  # columns that are multiplied at a time; their number is a multiple


@compiled
def hessian_product(x, factors, labels, weights, v, U, of_rows, out, source):
    """Add sum_i s_i C_i v x_i x_i' to out (c, columns), float64.

    x is (blocks, columns, BLOCK), factors (blocks, c, BLOCK), labels (blocks, BLOCK), or (0, 0) for softmax, weights
    (blocks, BLOCK), and v (c, columns). U (c, BLOCK) and of_rows (BLOCK,) are scratch memory.
    """
    c, columns, zero = v.shape[0], x.shape[1], x.dtype.type(0)
    for block in range(x.shape[0]):
        for j in range(c):  # U = v x
            for r in range(BLOCK):
                U[j, r] = zero
            for p in range(0, columns, UNROLLED):
                w0, w1, w2, w3 = v[j, p], v[j, p + 1], v[j, p + 2], v[j, p + 3]
                for r in range(BLOCK):
                    U[j, r] += (w0 * x[block, p, r] + w1 * x[block, p + 1, r]) + (
                        w2 * x[block, p + 2, r] + w3 * x[block, p + 3, r]
                    )
        for r in range(BLOCK):
            of_rows[r] = zero
        if len(labels):  # squared hinge: U = 2 s (diag(a) + A e_y e_y' - a e_y' - e_y a') U
            for r in range(BLOCK):
                y, s = labels[block, r], 2 * weights[block, r]
                own, total = U[y, r], zero
                for j in range(c):
                    u = s * factors[block, j, r] * (U[j, r] - own)
                    U[j, r] = u
                    total += u
                U[y, r] = -total
        else:  # softmax: U = s (diag(p) - p p') U
            for j in range(c):
                for r in range(BLOCK):
                    of_rows[r] += factors[block, j, r] * U[j, r]
            for j in range(c):
                for r in range(BLOCK):
                    U[j, r] = weights[block, r] * factors[block, j, r] * (U[j, r] - of_rows[r])
        for j in range(c):  # out += U x'
            for p in range(columns):
                total = zero
                for r in range(BLOCK):
                    total += U[j, r] * x[block, p, r]
                out[j, p] += total
