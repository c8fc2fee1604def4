"""The arguments of the compiled kernels, grouped and named; see kernels.py.

Addresses are ints, and so are sizes and strides, in bytes. A *slab* is `width` features, which fill two vectors;
packed weights are (n_slabs, q, width), with zeros beyond the last feature, see tiles.py. K models with c classes each
have q = K c columns of scores.
"""

from __future__ import annotations

from typing import NamedTuple

from gpusoftmax._typing import Array


class Functions(NamedTuple):
    """The addresses of the functions of tiles.py and blocks.py that a pass calls; 0 for those that it does not call.

    Attributes
    ----------
    groups : ndarray of int64, (groups, 6)
        Groups of columns and the functions for them; see `tiles.groups`.
    add_doubles, add_numbers : int
        `add_vectors` for float64, and for the type of computation.
    """

    groups: Array
    look_up: int
    copy_features: int
    row_sums: int
    write_scores: int
    look_up_labels: int
    loss_rows: int
    clear: int
    sum_block: int
    add_doubles: int
    add_numbers: int


class Matrix(NamedTuple):
    """X (n, d), read where the user has it.

    Attributes
    ----------
    address : int
        The address of the first feature of the first row.
    row_stride, column_stride : int
        Bytes from row to row and from column to column. Features are contiguous if column_stride equals item_size.
    item_size : int
        Bytes of a feature.
    """

    address: int
    row_stride: int
    column_stride: int
    item_size: int


class Layout(NamedTuple):
    """The sizes of a problem, from which the layout of packed weights, sums and scratch memory follows.

    Attributes
    ----------
    d : int
        The number of features.
    n_slabs, direct : int
        The number of slabs, and of those that tiles read directly from X: full ones, from the first on, if features are
        contiguous.
    K, q : int
        The numbers of models and of columns of scores.
    size : int
        Bytes of a number in the type of computation.
    """

    d: int
    n_slabs: int
    direct: int
    K: int
    q: int
    size: int


class Rows(NamedTuple):
    """The rows of a pass, with their labels and weights.

    Attributes
    ----------
    indices : int
        The address of int64 row numbers, in the order of the pass; 0 stands for all rows of X in their order.
    labels, weights : int
        The addresses of int32 labels (n,) and of weights (n, K) in the type of computation, for all rows of X. The
        address of labels may be 0 if only scores are computed; 0 for weights means that all are 1.
    """

    indices: int
    labels: int
    weights: int


class Parts(NamedTuple):
    """The parts of a pass: leaves, batches of SGD, or blocks of scores.

    Attributes
    ----------
    bounds : ndarray of int64, (parts + 1,)
        Part i consists of the rows from bounds[i] to bounds[i + 1] of the pass.
    first, stop : int
        The parts that this call works on: first <= i < stop.
    """

    bounds: Array
    first: int
    stop: int


class Model(NamedTuple):
    """Packed weights (n_slabs, q, width) and intercepts (q,)."""

    W: Array
    b: Array


class Output(NamedTuple):
    """Memory that a pass writes to.

    Attributes
    ----------
    scratch : tuple of int
        The fields of `Scratch`.
    out : int
        The address of the result: scores (rows, q), or sums for each node of the summation tree, one after the other,
        see `kernels.sums_at`.
    nodes : ndarray of int64, (nodes, 2)
        Receives the level and the index of each node in `out`.
    """

    scratch: tuple[int, ...]
    out: int
    nodes: Array


class Steps(NamedTuple):
    """What steps of SGD need in addition to a gradient.

    Attributes
    ----------
    n : int
        Rows of the whole data set.
    weight_sums : ndarray of float64, (K,)
        Sums of the weights of all rows.
    shift : ndarray of float64, (n_slabs, width)
        What is subtracted from the features.
    inverse_scale : ndarray, (n_slabs, width)
        What the shifted features are multiplied by.
    factors : ndarray, (n_slabs, width)
        Factors of the penalty on each feature.
    strengths : ndarray of float64, (K,)
        The strength of each model's penalty.
    linear_W, linear_b : ndarray, (n_slabs, q, width) and float64 (q,)
        The linear term of the objective, times the scale; 0 slabs if there is none.
    rates : ndarray, (steps, K)
        Learning rates.
    momentum : ndarray, (K,)
    velocity_W, velocity_b : ndarray, (n_slabs, q, width) and (q,)
        Updated in place; 0 slabs if there is no momentum.
    nesterov, fit_intercept, penalize_intercept : bool
    folded_W, folded_b : ndarray, (n_slabs, q, width) and (q,)
        Memory for the model with shift and scale folded in.
    totals : ndarray of float64, (3, 2 K)
        Zeros, to whose first K columns each step adds its values, losses and accuracies, times the batch's rows.
        totals[:, K:] receives those of the first step.
    """

    n: int
    weight_sums: Array
    shift: Array
    inverse_scale: Array
    factors: Array
    strengths: Array
    linear_W: Array
    linear_b: Array
    rates: Array
    momentum: Array
    velocity_W: Array
    velocity_b: Array
    nesterov: bool
    fit_intercept: bool
    penalize_intercept: bool
    folded_W: Array
    folded_b: Array
    totals: Array


class Scratch(NamedTuple):
    """Addresses of the parts of a thread's scratch memory; `end` is that of the first byte after them.

    Attributes
    ----------
    table : int
        Addresses of the rows of a block, and of the block after it, which is prefetched.
    copies : int
        Addresses of the rows in `features`.
    labels, weights : int
        int32 (BLOCK,) and (K, BLOCK).
    accumulators : int
        Vectors (BLOCK, q); the elements of each add up to a score.
    scores : int
        (q, BLOCK); replaced by the gradients of the loss with respect to them.
    losses, correct : int
        float64 (K, BLOCK), added up over blocks.
    db : int
        (q, BLOCK), added up over blocks.
    features : int
        (BLOCK, copied slabs, width): features that the tiles cannot read where they are.
    """

    table: int
    copies: int
    labels: int
    weights: int
    accumulators: int
    scores: int
    losses: int
    correct: int
    db: int
    features: int
    end: int


class Sums(NamedTuple):
    """Addresses of the parts of sums over rows; `end` is that of the first byte after them.

    Attributes
    ----------
    losses, correct : int
        float64 (K,).
    db : int
        (q,).
    dW : int
        (n_slabs, q, width).
    """

    losses: int
    correct: int
    db: int
    dW: int
    end: int
