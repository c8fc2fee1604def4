"""The facts for a bug report: complete, true, and ready for JSON."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pytest

from gpusoftmax import info, resolve
from gpusoftmax.info import describe, in_words


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Of this machine."""
    return describe()


def test_the_facts_are_these(facts: dict[str, Any]) -> None:
    assert list(facts) == ["versions", "backend", "reason", "device", "threads", "blas", "vector_features"]


def test_the_facts_fit_into_json(facts: dict[str, Any]) -> None:
    assert json.loads(json.dumps(facts)) == facts


def test_versions_are_those_installed(facts: dict[str, Any]) -> None:
    expected = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gpusoftmax": version("gpusoftmax"),
        "scikit-learn": version("scikit-learn"),
    }
    assert {name: facts["versions"][name] for name in expected} == expected


def test_a_package_that_is_not_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(info, "version", absent)
    assert {describe()["versions"][package] for package in info.PACKAGES} == {"not installed"}


def test_the_back_end_is_the_automatic_one(facts: dict[str, Any]) -> None:
    device = resolve("auto")
    assert (facts["backend"], facts["reason"], facts["device"]) == (device.name, device.reason, device.device)


def test_the_number_of_threads_is_the_callers() -> None:
    assert describe(3)["threads"] == 3


def test_the_number_of_threads_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", "5")
    assert describe()["threads"] == 5


def test_without_numba_there_are_no_vector_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "resolve", lambda name, n_threads: resolve("numpy", n_threads))
    assert describe()["vector_features"] == []


def test_vector_features_are_known_ones(facts: dict[str, Any]) -> None:
    assert set(facts["vector_features"]) <= set(info.VECTOR_FEATURES)


FACTS = {
    "versions": {"python": "3.12.1", "numpy": "2.1.0"},
    "backend": "cpu",
    "reason": "compiled kernels",
    "device": "CPU",
    "threads": 4,
    "blas": ["openblas 0.3.30 (Zen)", "mkl 2025 (AVX2)"],
    "vector_features": ["avx2", "fma"],
}


def test_the_facts_in_words() -> None:
    assert in_words(FACTS).splitlines() == [
        "python         3.12.1",
        "numpy          2.1.0",
        "back end       cpu (compiled kernels)",
        "device         CPU, 4 threads",
        "BLAS           openblas 0.3.30 (Zen); mkl 2025 (AVX2)",
        "vector units   avx2, fma",
    ]


@pytest.mark.parametrize(
    ("name", "line"), [("blas", "BLAS           not found"), ("vector_features", "vector units   unknown")]
)
def test_what_is_not_known_is_said_to_be(name: str, line: str) -> None:
    assert line in in_words({**FACTS, name: []}).splitlines()
