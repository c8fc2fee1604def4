"""Matrix products written into parts of arrays by SciPy's BLAS, compared with NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusoftmax.cpu.blas import product
from tests.support.cases import assert_within


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), [(7, 5, 3), (1, 9, 4), (6, 1, 1), (1, 1, 1), (130, 70, 90)])
def test_a_product_goes_into_some_columns(
    m: int, k: int, n: int, transposed: bool, beta: float, dtype: Any, rng: np.random.Generator
) -> None:
    a = rng.standard_normal((k, m + 2) if transposed else (m, k + 2)).astype(dtype)[:, 1:-1]
    b = rng.standard_normal((k, n + 3)).astype(dtype)[:, 1:-2]
    whole = np.full((m, n + 4), 7, dtype)
    out = whole[:, 2:-2]
    out[...] = np.nan if beta == 0 else 1
    product(a, b, out, transpose_a=transposed, beta=beta)
    left, right = (a.T if transposed else a).astype(np.float64), b.astype(np.float64)
    allowed = (k + 2) * np.finfo(dtype).eps * (np.abs(left) @ np.abs(right) + beta)  # the worst that rounding can do
    assert_within(out, left @ right + beta, allowed)
    assert (whole[:, [0, 1, -2, -1]] == 7).all()
