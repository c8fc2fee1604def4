"""Sums of features and of their squares for each column, in float64, from features of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types

from gpusoftmax._typing import Array
from gpusoftmax.cpu.compiling import SOURCE, call, compiled, emitted
from gpusoftmax.cpu.tiles import STORED, to_number
from gpusoftmax.cpu.vectors import FLOATS, I64, MACHINE, SIZES, V, like, load, loop, only_if, splat, store

ROWS = 4  # that are added before the sums are written


@emitted
def moment_rows(b, x, row_stride, weights, centre, first, second, d, *, marker, rows):
    """Add s_i (x_ip - centre_p) to first_p, and s_i (x_ip - centre_p)^2 to second_p, for some rows from address x on.

    The others are addresses, too: of weights s (rows,), and of centre, first and second (d,), all in float64.
    """
    double, lanes, item = FLOATS[types.float64], MACHINE.vector // 8, SIZES[marker]
    x_rows = [b.add(x, b.mul(row_stride, I64(i))) for i in range(rows)]
    s = [load(b, b.add(weights, I64(8 * i)), double, 8) for i in range(rows)]

    def widened(at: Any, kind: Any) -> V:
        raw = load(b, at, like(kind, STORED[marker]), item)
        if marker in (types.float64, types.uint8):
            return V(b, to_number(b, raw, marker, types.float64))
        return V(b, b.fpext(to_number(b, raw, marker, types.float32), kind))

    def columns(kind: Any, start: Any, stop: Any, step: int) -> None:
        every = [V(b, splat(b, w, kind) if isinstance(kind, ir.VectorType) else w) for w in s]

        def column(p: Any, _: list[Any]) -> list[Any]:
            places = [b.add(base, b.mul(p, I64(8))) for base in (centre, first, second)]
            middle, one, two = (V(b, load(b, place, kind, 8)) for place in places)
            for row, weight in zip(x_rows, every, strict=True):
                distance = widened(b.add(row, b.mul(p, I64(item))), kind) - middle
                weighted = distance * weight
                one, two = one + weighted, weighted.fma(distance, two)
            store(b, one.value, places[1], 8)
            store(b, two.value, places[2], 8)
            return []

        only_if(b, b.sub(stop, start), lambda: loop(b, start, stop, step, [], column))

    whole = b.and_(d, I64(-lanes))
    columns(ir.VectorType(double, lanes), I64(0), whole, lanes)
    columns(double, whole, d, 1)


@compiled
def _add_moments(several, one, x, row_stride, n_rows, weights, centre, first, second, d, source):
    """Call `moment_rows` for all rows; `several` and `one` are its addresses for ROWS rows and for one."""
    together = n_rows - n_rows % ROWS
    for i in range(0, together, ROWS):
        call(several, (x + i * row_stride, row_stride, weights + 8 * i, centre, first, second, d))
    for i in range(together, n_rows):
        call(one, (x + i * row_stride, row_stride, weights + 8 * i, centre, first, second, d))


def add_moments(x: Array, weights: Array, centre: Array, first: Array, second: Array) -> None:
    """Add sum_i s_i (x_i - centre) and sum_i s_i (x_i - centre)^2 to first and second (d,), for x (m, d).

    bfloat16 is uint16, as bits. All others are float64 and contiguous.
    """
    if x.shape[1] > 1 and x.strides[1] != x.itemsize:
        x = np.ascontiguousarray(x)
    marker = from_dtype(x.dtype)
    several, one = (moment_rows.address(marker=marker, rows=rows) for rows in (ROWS, 1))
    addresses = [array.ctypes.data for array in (weights, centre, first, second)]
    _add_moments(several, one, x.ctypes.data, x.strides[0], len(x), *addresses, x.shape[1], SOURCE)
