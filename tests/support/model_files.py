"""Small models, and what is in their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from gpusoftmax import SoftmaxClassifier
from gpusoftmax.files.tensors import digest

X = np.random.default_rng(0).standard_normal((40, 3))
CODES = np.arange(40) % 4
SHORT = {"schedule": "cosine", "max_iter": 4}


def fitted(cls: Any = SoftmaxClassifier, names: Any = ("ant", "bee", "cat"), **parameters: Any) -> Any:
    """A model of four passes whose labels are `names`."""
    names = np.asarray(names)
    return cls(**SHORT, **parameters).fit(X, names[CODES % len(names)], validation=(X, names[CODES % len(names)]))


def differences(a: Any, b: Any) -> list[str]:
    """Names of the parameters and fitted attributes in which two models differ; where a stream stands is not saved."""
    names = sorted((set(vars(a)) | set(vars(b))) - {"_stream"})
    missing = [name for name in names if not (hasattr(a, name) and hasattr(b, name))]
    return missing + [name for name in names if name not in missing and not equal(getattr(a, name), getattr(b, name))]


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal, arrays within tuples and NaN included."""
    try:
        np.testing.assert_equal(a, b)
    except AssertionError:
        return False
    return True


def header(path: Path) -> Any:
    """The JSON at the beginning of a safetensors file."""
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def signed(metadata: dict[str, str], tensors: dict[str, Any]) -> bytes:
    """A model file with a digest that fits, as an attacker would write it, or an earlier version."""
    return safetensors.numpy.save(tensors, {**metadata, "sha256": digest(metadata, tensors)})
