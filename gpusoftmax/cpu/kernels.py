"""Serial kernels that release the GIL: passes over rows by register tiles.

`write_scores`, `sum_leaves`, `sum_products` and `sgd_steps` are Python functions over one compiled function,
`pass_over_rows`. Their arguments are the NamedTuples of arguments.py, which the compiled functions pass on. Three
things shaped this:

* Compiling takes time, nearly all of it Numba's: with the loops over numbers in these functions, and for each type of
  features again, five times as long as now. So the functions here only decide what comes next. They have integers
  alone, and are compiled once for all types. Whatever handles numbers is in tiles.py, blocks.py and dense_sgd.py. It is
  compiled for the types and the widths that occur, in 10 to 100 ms each, and called by its address.
* A call has to be cheap: 64 rows take 0.1 ms in all. Numba recognises NamedTuples slowly: such a call took 10 us,
  against 2 us with 41 positional arguments and 3 us with plain tuples. So plain tuples are passed, and named inside.
* Numba specialises by type. Features are read through an address and two strides in bytes, so that read-only,
  memory-mapped and sliced arrays share one compilation; so do all numbers of classes and models.

compiling.py has the decorators `compiled` and `emitted`, and says what holds for all kernels.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, register_jitable

from gpusoftmax._typing import Array
from gpusoftmax.cpu.arguments import (
    Functions,
    Layout,
    Matrix,
    Model,
    Options,
    Output,
    Parts,
    Rows,
    Scratch,
    Steps,
    Sums,
)
from gpusoftmax.cpu.blocks import add_vectors, clear, copy_features, look_up, look_up_labels, read_scores, sum_block
from gpusoftmax.cpu.blocks import write_scores as block_scores
from gpusoftmax.cpu.compiling import SOURCE, call, compiled
from gpusoftmax.cpu.compiling import compilations as compilations
from gpusoftmax.cpu.dense_sgd import fold, step
from gpusoftmax.cpu.moment_kernels import add_moments as add_moments
from gpusoftmax.cpu.newton_kernels import HessianProduct as HessianProduct
from gpusoftmax.cpu.row_losses import row_loss as row_loss
from gpusoftmax.cpu.sparse_kernels import gram_of_columns as gram_of_columns
from gpusoftmax.cpu.sparse_kernels import multiply_rows as multiply_rows
from gpusoftmax.cpu.sparse_kernels import sum_columns as sum_columns
from gpusoftmax.cpu.sparse_sgd import take_sparse_steps as take_sparse_steps
from gpusoftmax.cpu.tiles import (
    BLOCK,
    COPIED_GRADIENT,
    COPIED_SCORES,
    COUNT,
    FIRST,
    GRADIENT,
    SCORES,
    column_groups,
    loss_rows,
    row_sums,
)
from gpusoftmax.cpu.vector_kernels import RUN as RUN
from gpusoftmax.cpu.vector_kernels import finish_gradient as finish_gradient
from gpusoftmax.cpu.vector_kernels import fold_weights as fold_weights
from gpusoftmax.cpu.vector_kernels import pair_products as pair_products
from gpusoftmax.cpu.vector_kernels import solve_diagonals as solve_diagonals
from gpusoftmax.cpu.vectors import MACHINE

COMPILED = True  # unlike fallback.py
WRITE_SCORES, SUM_LOSSES, SUM_GRADIENTS, SUM_PRODUCTS, TAKE_STEPS = range(5)  # the jobs of pass_over_rows
VECTOR = MACHINE.vector
CHUNK = 8  # slabs that are multiplied at a time
ALIGNMENT = 64  # bytes: buffers, and the parts of scratch memory, begin at multiples of this
# Bytes in the table of addresses from a row's entry to that of the row to prefetch. Scores and gradients both prefetch
# the same lines: on AVX-512 and AVX2 that was at least as fast as either alone, and predictions have scores only.
# Prefetching row after row, half of them with the scores and half with the gradient, made a pass over CIFAR-10 in
# float32 7% faster on AVX-512, but 2 to 5% slower on AVX2, and 3% slower with 32 features.
PREFETCH = 8 * BLOCK


@cache
def functions_for(
    dtype: np.dtype[Any], computed: np.dtype[Any], q: int, direct: bool, copied: bool, loss: int | None,
    gradient: bool, options: Options | None,
) -> Functions:  # fmt: skip
    """The functions for features of type `dtype` and q columns, compiled if necessary.

    direct, copied: whether there are slabs that are read from X, and that are copied. loss: a code, or None if scores
    are written or, with `gradient`, read. gradient: whether there is a gradient. options: None if there are no steps of
    SGD.
    """
    marker, number = from_dtype(dtype), from_dtype(computed)
    found = {
        "groups": column_groups(q, marker, number, direct, copied, gradient),
        "look_up": look_up.address(),
        "row_sums": row_sums.address(computed=number),
    }
    if copied:
        found["copy_features"] = copy_features.address(marker=marker, computed=number)
    if loss is None and not gradient:
        found["write_scores"] = block_scores.address(computed=number)
    else:
        found["clear"] = clear.address()
        found["sum_block"] = sum_block.address(computed=number)
        if loss is None:
            found["read_scores"] = read_scores.address(computed=number)
        else:
            found["look_up_labels"] = look_up_labels.address(computed=number)
            found["loss_rows"] = loss_rows.address(computed=number, loss=loss)
    if options is not None:
        found["fold"] = fold.address(computed=number)
        found["step"] = step.address(computed=number, **options._asdict())
    elif gradient or loss is not None:
        found["add_doubles"] = add_vectors.address(computed=types.float64)
        found["add_numbers"] = add_vectors.address(computed=number)
    return Functions(**found)


@intrinsic
def _named(typing, values, kind):
    """Convert a plain tuple to the NamedTuple `kind`."""
    named = types.NamedTuple(tuple(values), kind.instance_class)

    def emit(context, builder, signature, args):
        elements = cgutils.unpack_tuple(builder, args[0])
        return impl_ret_borrowed(context, builder, named, context.make_tuple(builder, named, elements))

    return named(values, kind), emit


@register_jitable
def _aligned(n_bytes):
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@lru_cache(maxsize=64)
def scratch_of(layout: Layout) -> Scratch:
    """The parts of scratch memory, by their distance in bytes from its beginning."""
    K, q, size = layout.K, layout.q, layout.size
    sizes = (
        2 * BLOCK * 8, BLOCK * 8, 4 * BLOCK, K * BLOCK * size, BLOCK * q * VECTOR, q * BLOCK * size, K * BLOCK * 8,
        K * BLOCK * 8, q * BLOCK * size, BLOCK * (layout.n_slabs - layout.direct) * 2 * VECTOR,
    )  # fmt: skip
    return Scratch(*accumulate(map(_aligned, sizes), initial=0))


@register_jitable
def sums_at(address, layout):
    """The parts of sums that begin at an address."""
    correct = address + _aligned(8 * layout.K)
    db = correct + _aligned(8 * layout.K)
    dW = db + _aligned(layout.q * layout.size)
    return Sums(address, correct, db, dW, dW + layout.n_slabs * layout.q * 2 * VECTOR)


@register_jitable
def _add_scores(functions, copied, table, n_slabs, slab_bytes, layout, W, accumulators, fresh, ahead):
    """Add to the accumulators what n_slabs slabs contribute to the scores of the rows whose addresses are in `table`.

    copied: whether these are copies. slab_bytes: bytes from slab to slab. fresh: 1 if the accumulators start at zero.
    ahead: bytes in the table from a row's entry to that of the row to prefetch, or 0.
    """
    groups, q = functions.groups, layout.q
    for chunk in range(0, n_slabs, CHUNK):
        slabs = min(CHUNK, n_slabs - chunk)
        for g in range(len(groups)):
            j = groups[g, FIRST]
            call(
                groups[g, COPIED_SCORES] if copied else groups[g, SCORES],
                (
                    table, chunk * slab_bytes, W + (chunk * q + j) * 2 * VECTOR, accumulators + j * BLOCK * VECTOR,
                    slabs, q, fresh if chunk == 0 else 0, ahead if g == 0 else 0,
                ),
            )  # fmt: skip


@register_jitable
def _look_up_rows(functions, X, layout, rows, scratch, first, m, last):
    """Look up the block of m rows from `first` on, and copy what the tiles cannot read where it is.

    `last` is the number of rows of the whole pass.
    """
    call(functions.look_up, (X.address, X.row_stride, rows.indices, first, m, last, scratch.table))
    direct, copied = layout.direct, layout.n_slabs - layout.direct
    if copied:  # before the others are read, because that walks through the rows in order
        call(
            functions.copy_features,
            (
                scratch.table, scratch.copies, scratch.features, direct * (2 * VECTOR // layout.size), layout.d,
                X.column_stride, copied * 2 * VECTOR,
            ),
        )  # fmt: skip


@register_jitable
def _block_scores(functions, X, layout, W, b, scratch):
    """Compute the scores of the rows that `_look_up_rows` found; W and b are addresses."""
    q, size, accumulators, groups = layout.q, layout.size, scratch.accumulators, functions.groups
    direct, copied = layout.direct, layout.n_slabs - layout.direct
    width = 2 * VECTOR // size
    _add_scores(functions, False, scratch.table, direct, width * X.item_size, layout, W, accumulators, 1, PREFETCH)
    _add_scores(
        functions, True, scratch.copies, copied, 2 * VECTOR, layout, W + direct * q * 2 * VECTOR, accumulators,
        0 if direct else 1, 0,
    )  # fmt: skip
    for g in range(len(groups)):
        j = groups[g, FIRST]
        call(
            functions.row_sums,
            (accumulators + j * BLOCK * VECTOR, groups[g, COUNT], b + j * size, scratch.scores + j * BLOCK * size),
        )


@register_jitable
def _block_losses(functions, layout, rows, scratch, first, m):
    """Replace the scores of the m rows from `first` on by the gradients of the loss; add to losses, correct and db."""
    K, c, size = layout.K, layout.q // layout.K, layout.size
    call(
        functions.look_up_labels,
        (rows.indices, rows.labels, rows.weights, first, m, K, scratch.labels, scratch.weights),
    )
    for k in range(K):
        call(
            functions.loss_rows,
            (
                scratch.scores + k * c * BLOCK * size, scratch.labels, scratch.weights + k * BLOCK * size, c,
                scratch.losses + k * BLOCK * 8, scratch.correct + k * BLOCK * 8, scratch.db + k * c * BLOCK * size,
            ),
        )  # fmt: skip


@register_jitable
def _block_gradient(functions, layout, scratch, m, dW, fresh):
    """Add sum_i g_i x_i over a block's first m rows to dW, or write it there if fresh; g comes from `_block_losses`."""
    q, column, groups = layout.q, 2 * VECTOR, functions.groups
    direct, copied = layout.direct, layout.n_slabs - layout.direct
    for index in range(len(groups)):
        j = groups[index, FIRST]
        g, out = scratch.scores + j * BLOCK * layout.size, dW + j * column
        if direct:
            ahead = PREFETCH if index == 0 else 0
            call(groups[index, GRADIENT], (scratch.table, g, out, m, direct, q, fresh, ahead))
        if copied:
            rest = out + direct * q * column
            call(groups[index, COPIED_GRADIENT], (scratch.copies, g, rest, m, copied, q, fresh, 0))


@register_jitable
def _add_leaf(functions, layout, output, count, leaf, with_gradient):
    """Take the sums of a leaf, behind `count` nodes in output.out, into the tree; return how many nodes there are then.

    While the last node is the right sibling of the one before, the two are added; see `tree.TreeSum`.
    """
    nodes, parts = output.nodes, sums_at(0, layout)
    stop = parts.end if with_gradient else parts.dW
    level, index = 0, leaf
    while count > 0 and nodes[count - 1, 0] == level and index % 2 == 1 and nodes[count - 1, 1] == index - 1:
        left, right = output.out + (count - 1) * parts.end, output.out + count * parts.end
        call(functions.add_doubles, (left, right, parts.db))
        call(functions.add_numbers, (left + parts.db, right + parts.db, stop - parts.db))
        count, level, index = count - 1, level + 1, index // 2
    nodes[count, 0], nodes[count, 1] = level, index
    return count + 1


@compiled
def pass_over_rows(job, functions, X, layout, rows, parts, W, b, steps, output, source):
    """Do the job of `write_scores`, `sum_leaves`, `sum_products` or `sgd_steps`; call those instead.

    Groups of arguments are plain tuples, with the fields of the classes in arguments.py. W, b and steps are addresses;
    for `sum_products`, W is that of the coefficients.
    """
    functions, X, layout = _named(functions, Functions), _named(X, Matrix), _named(layout, Layout)
    rows, parts, output = _named(rows, Rows), _named(parts, Parts), _named(output, Output)
    scratch, length, count = _named(output.scratch, Scratch), sums_at(0, layout).end, 0
    first, last = parts.bounds[parts.first], parts.bounds[-1]
    for part in range(parts.first, parts.stop):
        start, stop = parts.bounds[part], parts.bounds[part + 1]
        sums = sums_at(output.out + count * length, layout)
        if job == TAKE_STEPS:
            call(functions.fold, (steps,))
        if job != WRITE_SCORES:
            call(functions.clear, (scratch.losses, scratch.features))
        for row in range(start, stop, BLOCK):
            m = min(BLOCK, stop - row)
            _look_up_rows(functions, X, layout, rows, scratch, row, m, last)
            if job == SUM_PRODUCTS:
                given = W + row * layout.q * layout.size
                call(functions.read_scores, (given, m, layout.q, scratch.scores, scratch.db))
            else:
                _block_scores(functions, X, layout, W, b, scratch)
            if job == WRITE_SCORES:
                out = output.out + (row - first) * layout.q * layout.size
                call(functions.write_scores, (scratch.scores, m, layout.q, out))
                continue
            if job != SUM_PRODUCTS:
                _block_losses(functions, layout, rows, scratch, row, m)
            if job != SUM_LOSSES:
                _block_gradient(functions, layout, scratch, m, sums.dW, 1 if row == start else 0)
        if job == WRITE_SCORES:
            continue
        call(
            functions.sum_block,
            (scratch.losses, scratch.correct, scratch.db, layout.K, layout.q, sums.losses, sums.correct, sums.db),
        )
        if job == TAKE_STEPS:
            call(functions.step, (steps, sums.losses, sums.correct, sums.db, sums.dW, stop - start, part))
        else:
            count = _add_leaf(functions, layout, output, count, part, job != SUM_LOSSES)
    return count


def _pass(job, functions, X, layout, rows, parts, W, b, steps, output):
    return pass_over_rows(
        job, tuple(functions), tuple(X), tuple(layout), tuple(rows), tuple(parts), W, b, steps, tuple(output), SOURCE
    )


def write_scores(
    functions: Functions, X: Matrix, layout: Layout, rows: Rows, parts: Parts, model: Model, output: Output
) -> None:
    """Write the scores of the rows of some parts to output.out (rows of these parts, q). Labels are not needed."""
    _pass(WRITE_SCORES, functions, X, layout, rows, parts, model.W.ctypes.data, model.b.ctypes.data, 0, output)


def sum_leaves(
    functions: Functions, X: Matrix, layout: Layout, rows: Rows, parts: Parts, model: Model, output: Output,
    with_gradient: bool,
) -> int:  # fmt: skip
    """Sum over parts, which are leaves, along the tree of `tree.TreeSum` as far as it lies within them.

    Writes the sums of each remaining node to output.out, its level and index to output.nodes, and returns the number of
    these nodes. Without a gradient, dW is not written.
    """
    job = SUM_GRADIENTS if with_gradient else SUM_LOSSES
    return _pass(job, functions, X, layout, rows, parts, model.W.ctypes.data, model.b.ctypes.data, 0, output)


def sum_products(
    functions: Functions, X: Matrix, layout: Layout, rows: Rows, parts: Parts, coefficients: Array, output: Output
) -> int:
    """Sum x_i q_i^T and q_i over parts, as `sum_leaves` does with the gradients of the loss in place of q_i.

    `coefficients` are q (rows of the pass, columns), contiguous and of the type of computation.
    """
    return _pass(SUM_PRODUCTS, functions, X, layout, rows, parts, coefficients.ctypes.data, 0, 0, output)


def sgd_steps(
    functions: Functions, X: Matrix, layout: Layout, rows: Rows, parts: Parts, steps: Steps, output: Output
) -> None:
    """Take one step of SGD for each part, which is a batch; see `solvers.SGD`.

    Updates the model and the velocity in place, and adds to the totals. output.out holds one batch's sums meanwhile.
    """
    fields = np.array(steps)
    _pass(TAKE_STEPS, functions, X, layout, rows, parts, steps.folded_W, steps.folded_b, fields.ctypes.data, output)
