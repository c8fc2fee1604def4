"""The stand-in keeps Fortran order where CuPy does, so that host code which assumes C order fails here, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.emulation import standin

COLUMNS_FIRST = np.asfortranarray(np.arange(6.0).reshape(2, 3))
RESULTS: dict[str, tuple[Any, str]] = {
    "array": (standin.array, "F"),
    "array in C's order": (lambda x: standin.array(x, order="C"), "C"),
    "asarray": (standin.asarray, "C"),
    "astype": (lambda x: standin.array(x).astype(np.float32), "F"),
    "copy": (lambda x: standin.array(x).copy(), "C"),
    "arithmetic": (lambda x: standin.array(x) + 0.0, "C"),
}


@pytest.mark.parametrize(("make", "order"), RESULTS.values(), ids=RESULTS)
def test_an_array_has_the_order_that_cupy_gives_it(make: Any, order: str) -> None:
    made = make(COLUMNS_FIRST)
    size = made.dtype.itemsize
    assert made.strides == ((size, 2 * size) if order == "F" else (3 * size, size))


@pytest.mark.parametrize("make", [make for make, _ in RESULTS.values()], ids=RESULTS)
def test_the_order_does_not_change_the_values(make: Any) -> None:
    np.testing.assert_array_equal(make(COLUMNS_FIRST).get(), COLUMNS_FIRST)
