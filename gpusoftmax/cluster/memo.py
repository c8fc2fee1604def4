"""Results that are kept as long as what they were made from."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


class Memo:
    """Results of a function of some objects, such as arrays, kept as long as all of these live."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, ...], Any] = {}

    def get(self, of: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return the result for these objects or None, made by `make` if they were not seen before."""
        key = tuple(id(one) for one in of)
        if key not in self.found:
            self.found[key] = make()
            for one in of:
                if one is not None:
                    weakref.finalize(one, self.found.pop, key, None)
        return self.found[key]
