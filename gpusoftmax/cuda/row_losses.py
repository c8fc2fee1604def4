"""The loss of single rows, and its sums over rows: launches of row_loss.cu and reduce.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpusoftmax.cuda import buckets
from gpusoftmax.cuda.compile import KINDS, NOTHING, SHARED_UNASKED, has_clusters, kernel, or_nothing, shared_memory
from gpusoftmax.dtypes import computation_dtype

ROWS_A_SUM = 4096  # reduce.cu's ROWS_A_BLOCK
SUM_THREADS = 256
GRADIENT, LOSSES, PROBABILITIES = range(3)  # row_loss.cu's modes
SOFTMAX = 0
NO_BAD_ROW = 2**64 - 1


def no_bad_row() -> Any:
    """Return what `row_loss` lowers to the first row with a bad label, (1,)."""
    import cupy

    return cupy.full(1, NO_BAD_ROW, dtype=np.uint64)


def row_loss(
    Z: Any, b: Any, labels: Any, weights: Any, loss: int, mode: int, bad_row: Any, best: bool = True
) -> tuple[Any, Any]:
    """Turn scores Z (m, K, c), C-contiguous, into weighted gradients or probabilities, in place.

    Returns the losses (m K,) and the best columns (m K,) if `best`. `bad_row` (1,) is lowered to the first row with a
    bad label; it is not looked at.
    """
    import cupy

    m, K, c = Z.shape
    rows = m * K
    kind, computed = KINDS[Z.dtype], computation_dtype(Z.dtype)
    address = Z.data.ptr if b is None else Z.data.ptr | b.data.ptr  # a multiple of 16 bytes if both are
    variant = buckets.choose(kind, c, address, shared_memory(), has_clusters())
    losses = cupy.empty(rows, dtype=computed)
    columns = cupy.empty(rows, dtype=np.int32) if best else NOTHING
    flags = {"LOSS": loss, "MODE": mode, "BEST": int(best), "BIAS": int(b is not None)}
    launch = kernel("row_loss.cu", "row_loss", SCORE=kind, **flags, **variant.macros())
    shared = variant.shared_bytes(kind, b is not None)
    if shared > SHARED_UNASKED:
        launch.max_dynamic_shared_size_bytes = shared
    launch(
        (variant.blocks(rows, K),),
        (variant.threads,),
        (
            Z, or_nothing(b), or_nothing(labels), or_nothing(weights),
            np.int64(rows), np.int32(c), np.int32(K), losses, columns, bad_row,
        ),
        shared_mem=shared,
    )  # fmt: skip
    return losses, columns


def add_up(losses: Any, best: Any, labels: Any, weights: Any, totals: Any) -> None:
    """Add the weighted losses and correct counts of rows (m K,) to totals (K, 2), in a fixed order."""
    import cupy

    m, K = len(labels), len(totals)
    kind, blocks = KINDS[losses.dtype], -(-m // ROWS_A_SUM)
    partials = cupy.empty((blocks, K, 2), dtype=np.float64)
    sum_rows = kernel("reduce.cu", "sum_rows", SCORE=kind)
    sum_rows((blocks, K), (SUM_THREADS,), (losses, best, labels, or_nothing(weights), np.int64(m), partials))
    add_partials = kernel("reduce.cu", "add_partials", SCORE=kind)
    add_partials((K,), (SUM_THREADS,), (partials, np.int32(blocks), totals))


def bytes_of(m: int, K: int, itemsize: int) -> int:
    """Return the bytes that `row_loss` and `add_up` allocate for m rows."""
    return m * K * (itemsize + 4) + -(-m // ROWS_A_SUM) * K * 16
