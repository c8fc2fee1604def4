"""What identifies a run: a checkpoint is continued only by the same run, on the same kind of machine.

An identity is a dictionary of short texts, numbers and digests by name, which JSON can hold. Of X it has digests of a
few rows and of the moments of all columns, which the `Features` interface gives for any kind of features.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from gpusoftmax._typing import Array
from gpusoftmax.array import Backend, compiled_for
from gpusoftmax.features.base import Features
from gpusoftmax.features.batches import NO_EPOCH, generator
from gpusoftmax.objective.objective import Objective

SAMPLED = 64  # rows of X in the digest
LIBRARIES = ("gpusoftmax", "numpy", "scipy", "numba", "cupy-cuda13x", "cupy-cuda12x")  # which may change bits
MOST_NAMES = 6  # in a message
SHOWN = 60  # characters of a value in a message


def digest_of(*values: Any) -> str:
    """Return a SHA-256 of arrays (their types, shapes and bytes), texts and numbers, in hexadecimal."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype != object:
            found.update(f"{value.dtype.str} {value.shape} ".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            found.update(f"{type(value).__name__} {value!r} ".encode())
    return found.hexdigest()


def identity_of_features(features: Features, moments: tuple[Array, Array] | None = None) -> dict[str, Any]:
    """Identify features by their kind, shape, type and size, by some of the selected rows, and by moments of all.

    `moments` are the mean and the variance (d,) of the columns; unless they are known, this takes a pass over X.
    """
    moments = moments or features.moments(None, None)
    to_numpy = features.backend.to_numpy
    positions = generator(0, NO_EPOCH).choice(features.n, min(SAMPLED, features.n), replace=False)
    rows = features.sample_matrix(features.row_numbers(np.sort(positions)))
    arrays = [rows] if isinstance(rows, np.ndarray) else [rows.data, rows.indices, rows.indptr]
    scaling = [None if one is None else to_numpy(one) for one in (features.shift, features.scale)]
    return {
        "kind": type(features).__name__,
        "shape": list(features.shape),
        "number of rows": features.n,
        "dtype": np.dtype(features.dtype).name,
        "bytes": features.nbytes,
        "rows": digest_of(*arrays, *scaling, *map(to_numpy, moments)),
    }


def identity_of_objective(objective: Objective, moments: tuple[Array, Array] | None = None) -> dict[str, Any]:
    """Identify the data of an objective, by the names under which users pass them; see `identity_of_features`."""
    to_numpy, term = objective.backend.to_numpy, objective.linear_term

    def digest(*arrays: Any) -> str:
        return digest_of(*(None if one is None else to_numpy(one) for one in arrays))

    rows = objective.features.rows
    return {
        **{f"X {name}": value for name, value in identity_of_features(objective.features, moments).items()},
        "y": digest(objective.labels, *(() if term is None else (term.T, term.t))),
        "sample_weight": digest(objective.weights, rows),
        "penalty": digest(objective.penalty.strengths, objective.penalty.factors),
    }


def identity_of_machine(backend: Backend) -> dict[str, Any]:
    """Identify what decides the bits of results: the backend, its vector units, BLAS, and versions of libraries."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    compiled = compiled_for() if backend.name == "cpu" else None
    return {
        "backend": backend.name,
        "precision": backend.precision,
        "device": backend.device,
        "vector units": None if compiled is None else [compiled.vector_bits, *compiled.vector_features],
        "BLAS": _blas(),
        **{f"version of {name}": number for name, number in versions.items()},
    }


def _blas() -> list[str]:
    """Name the BLAS libraries of NumPy and SciPy; if these share one of the system, all that are loaded."""
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    own = [library for library in found if any(name in library["filepath"] for name in ("numpy", "scipy"))]
    return sorted(
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in own or found
    )


def differences(kept: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in words in what two identities differ: in the kind of run, or by name in up to MOST_NAMES things."""
    if kept.get("run") != now.get("run"):
        return [f"its kind ({kept.get('run')} there, {now.get('run')} here)"]

    def words(value: Any) -> str:
        text = repr(value)
        return f"{text[: SHOWN - 3]}..." if len(text) > SHOWN else text

    names = [name for name in now | kept if kept.get(name) != now.get(name)]
    found = [_difference(name, words(kept.get(name)), words(now.get(name))) for name in names[:MOST_NAMES]]
    return found + [f"{len(names) - MOST_NAMES} more"] * (len(names) > MOST_NAMES)


def _difference(name: str, before: str, now: str) -> str:
    if len(before) >= SHOWN or len(now) >= SHOWN:  # digests say nothing to a reader
        return name
    return f"{name} ({before} there, {now} here)"
