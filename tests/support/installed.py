"""Backends and libraries that are installed here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import sklearn
from sklearn.preprocessing import StandardScaler

BACKENDS = ["cpu", "numpy"] if find_spec("numba") else ["numpy"]


def frames_of(name: str) -> Any:
    """pandas or polars; a skip if it is absent, or too new for this scikit-learn to see names in its frames."""
    library = pytest.importorskip(name)
    if not hasattr(StandardScaler().fit(library.DataFrame({"a": [1.0, 2.0]})), "feature_names_in_"):
        pytest.skip(f"scikit-learn {sklearn.__version__} does not know the frames of {name} {library.__version__}")
    return library
