"""The facts for a bug report: complete, true, and serialisable as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusoftmax import array, get_backend
from gpusoftmax.cpu.facts import VECTOR_FEATURES
from gpusoftmax.cuda.probe import probe
from gpusoftmax.reports import machine
from gpusoftmax.reports.machine import describe, in_words


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """The facts of this machine."""
    return describe()


def test_the_facts_are_these(facts: dict[str, Any]) -> None:
    assert list(facts) == [
        "versions", "backend", "reason", "device", "threads", "threads_from", "backends", "blas", "vector_features",
        "vector_bits", "caches",
    ]  # fmt: skip


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

    monkeypatch.setattr(machine, "version", absent)
    assert {describe()["versions"][package] for package in machine.PACKAGES} == {"not installed"}


def test_the_back_end_is_the_automatic_one(facts: dict[str, Any]) -> None:
    device = get_backend("auto")
    assert (facts["backend"], facts["reason"], facts["device"]) == (device.name, device.reason, device.device)


def test_the_number_of_threads_is_the_callers() -> None:
    assert describe(3)["threads"] == 3


def test_the_number_of_threads_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_NUM_THREADS", "5")
    assert describe()["threads"] == 5


def test_without_numba_there_are_no_vectors_and_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "get_backend", lambda name, n_threads=None: get_backend("numpy", n_threads))
    facts = describe()
    assert (facts["vector_features"], facts["vector_bits"], facts["caches"]["CPU kernels"]) == ([], None, None)


def test_each_back_end_is_there_or_says_why_not(facts: dict[str, Any]) -> None:
    assert list(facts["backends"]) == ["cuda", "cpu", "numpy"]
    assert facts["backends"]["cuda"] == f"{'yes' if probe().works else 'no'}: {probe().reason}"
    assert facts["backends"]["cpu"] == f"{'yes' if find_spec('numba') else 'no'}: {get_backend('cpu').reason}"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("numba"), reason="Numba is not installed")
def test_the_width_of_vectors_and_the_place_of_kernels_are_numbas(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpusoftmax.cpu.vectors import MACHINE

    assert facts["vector_bits"] == 8 * MACHINE.vector
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "gpusoftmax", "info", "--json"], env=environment, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["caches"]["CPU kernels"].startswith(str(tmp_path))


def test_data_sets_and_gpu_kernels_are_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSOFTMAX_DATA", "here")
    monkeypatch.setenv("CUPY_CACHE_DIR", "there")
    caches = describe()["caches"]
    assert (caches["data sets"], caches["GPU kernels"]) == ("here", "there")


def test_vector_features_are_known_ones(facts: dict[str, Any]) -> None:
    assert set(facts["vector_features"]) <= set(VECTOR_FEATURES)


FACTS = {
    "versions": {"python": "3.12.1", "numpy": "2.1.0"},
    "backend": "cpu",
    "reason": "compiled kernels",
    "device": "CPU",
    "threads": 4,
    "threads_from": "all processors of this process",
    "backends": {"cuda": "no: no driver", "cpu": "yes: compiled kernels"},
    "blas": ["openblas 0.3.30 (Zen)", "mkl 2025 (AVX2)"],
    "vector_features": ["avx2", "fma"],
    "vector_bits": 256,
    "caches": {"CPU kernels": None, "data sets": "~/data"},
}


def test_the_facts_in_words() -> None:
    assert in_words(FACTS).splitlines() == [
        "python         3.12.1",
        "numpy          2.1.0",
        "computes       cpu (compiled kernels)",
        "device         CPU, 4 threads (all processors of this process)",
        "backend        cuda   no: no driver",
        "backend        cpu    yes: compiled kernels",
        "BLAS           openblas 0.3.30 (Zen); mkl 2025 (AVX2)",
        "vector units   256 bits: avx2, fma",
        "CPU kernels    kept nowhere",
        "data sets      ~/data",
    ]


def test_where_the_number_of_threads_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUSOFTMAX_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (describe()["threads"], describe()["threads_from"]) == (1, "OMP_NUM_THREADS='1'")
    assert (describe(3)["threads"], describe(3)["threads_from"]) == (3, "asked for")


@pytest.mark.parametrize(
    ("name", "line"), [("blas", "BLAS           not found"), ("vector_features", "vector units   unknown")]
)
def test_what_is_not_known_is_said_to_be(name: str, line: str) -> None:
    assert line in in_words({**FACTS, name: [], "vector_bits": None}).splitlines()
