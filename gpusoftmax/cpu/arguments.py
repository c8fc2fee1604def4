"""The arguments of the compiled kernels, grouped and named; see kernels.py.

Addresses are ints, and so are sizes and strides, in bytes. A *slab* is `width` features, which fill two vectors;
packed weights are (n_slabs, q, width), with zeros beyond the last feature, see tiles.py. K models with c classes each
have q = K c columns of scores.
"""

from __future__ import annotations

from typing import NamedTuple

from gpusoftmax._typing import Array


class Functions(NamedTuple):
    """The addresses of the functions that a pass calls, or 0, from tiles.py, blocks.py and dense_sgd.py.

    Attributes
    ----------
    groups : ndarray of int64, (groups, 6)
        Groups of columns and the functions for them; see `tiles.column_groups`.
    add_doubles, add_numbers : int
        `add_vectors` for float64, and for the type of computation.
    """

    groups: Array
    look_up: int
    row_sums: int
    copy_features: int = 0
    write_scores: int = 0
    read_scores: int = 0
    look_up_labels: int = 0
    loss_rows: int = 0
    clear: int = 0
    sum_block: int = 0
    add_doubles: int = 0
    add_numbers: int = 0
    fold: int = 0
    step: int = 0


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


class Options(NamedTuple):
    """What kind of steps of SGD are taken: with a linear term of the objective, with momentum (a velocity), ..."""

    linear: bool
    velocity: bool
    nesterov: bool
    fit_intercept: bool
    penalize_intercept: bool


class Steps(NamedTuple):
    """What steps of SGD need in addition to a gradient: sizes, and addresses of arrays.

    Attributes
    ----------
    n : int
        Rows of the whole data set.
    K, q, n_slabs : int
        Those of `Layout`.
    W, b : int
        Packed weights (n_slabs, q, width) and intercepts (q,), updated in place.
    folded_W, folded_b : int
        Memory for the model with shift and scale folded in.
    weight_sums : int
        float64 (K,), sums of the weights of all rows.
    shift : int
        float64 (n_slabs, width), what is subtracted from the features.
    inverse_scale : int
        (n_slabs, width), what the shifted features are multiplied by.
    factors : int
        (n_slabs, width), factors of the penalty on each feature.
    strengths : int
        float64 (K,), the strength of each model's penalty.
    linear_W, linear_b : int
        (n_slabs, q, width) and float64 (q,): the linear term of the objective, times the scale.
    rates : int
        (steps, K), learning rates.
    momentum : int
        (K,).
    velocity_W, velocity_b : int
        (n_slabs, q, width) and (q,), updated in place.
    totals : int
        float64 (3, 2 K), zeros, to whose first K columns each step adds its values, losses and accuracies, times the
        batch's rows. totals[:, K:] receives those of the first step.
    """

    n: int
    K: int
    q: int
    n_slabs: int
    W: int
    b: int
    folded_W: int
    folded_b: int
    weight_sums: int
    shift: int
    inverse_scale: int
    factors: int
    strengths: int
    linear_W: int
    linear_b: int
    rates: int
    momentum: int
    velocity_W: int
    velocity_b: int
    totals: int


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
