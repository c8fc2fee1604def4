"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpusoftmax import cli
from gpusoftmax._log import log
from gpusoftmax.array import Backend, get_backend
from gpusoftmax.cpu.threads import single_threaded_blas
from gpusoftmax.cuda.probe import Probe, probe
from tests.support.commands import Result
from tests.support.emulation import build, standin
from tests.support.installed import BACKENDS

CIFAR10_VARIABLE = "GPUSOFTMAX_CIFAR10"
# backends to parametrise fixtures with
ON_CPU = [pytest.param(name, marks=pytest.mark.compiled if name == "cpu" else ()) for name in BACKENDS]
ON_GPU = pytest.mark.emulated
FIXTURE_MARKS = {"gpu": "emulated", "real_gpu": "gpu", "compiled": "compiled", "cifar10_folder": "cifar10"}
CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Set what child processes inherit, those of pytest-xdist included."""
    # gpusoftmax, bench and tests of this checkout, as pytest's `pythonpath` does here
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(CHECKOUT), *inherited]))
    # one folder of CUDA kernels built for the CPU, kept for the next run: .pytest_cache/d/kernels
    if (cache := getattr(config, "cache", None)) is not None:
        os.environ.setdefault(build.CACHE_VARIABLE, str(cache.mkdir("kernels")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use, before pytest selects by mark."""
    for item in items:
        for fixture, mark in FIXTURE_MARKS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through the objects of some 10,000 tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def gpu() -> Iterator[None]:
    """A GPU: the machine's own, or else CuPy's stand-in, whose kernels run on the CPU."""
    real = probe().works
    if not real and (reason := build.missing()):
        pytest.skip(reason)
    with nullcontext() if real else standin.installed():
        yield


@pytest.fixture
def machine(gpu: None) -> Any:
    """The stand-in's machine, where the GPU is one."""
    if get_backend("cuda").xp.ndarray is not standin.ndarray:
        pytest.skip("needs a machine that can be made to fail")
    return standin.state


@pytest.fixture
def real_gpu() -> None:
    """A GPU of this machine; the test is skipped where none works."""
    if not (found := probe()).works:
        pytest.skip(f"needs a GPU: {found.reason}")


@pytest.fixture
def compiled() -> None:
    """Compiled kernels: in NumPy's products the bits of a model depend on how many stand beside it."""
    if "cpu" not in BACKENDS:
        pytest.skip("Numba is not installed")


@pytest.fixture(params=ON_CPU)
def cpu_backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend of the CPU, in turn: for what only they have, as leaves and threads."""
    return get_backend(request.param, n_threads=2)


@pytest.fixture(params=[*ON_CPU, pytest.param("cuda", marks=ON_GPU)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, in turn."""
    if request.param == "cuda":
        request.getfixturevalue("gpu")
    return get_backend(request.param, n_threads=2)


@pytest.fixture(params=["CPU", pytest.param("GPU", marks=ON_GPU)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What backend="auto" takes: each kind of device, in turn."""
    if request.param == "GPU":
        request.getfixturevalue("gpu")
    else:
        monkeypatch.setattr("gpusoftmax.array.probe", lambda index: Probe(False, "this test is of the CPU"))


@pytest.fixture
def three_blas_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """BLAS set to three threads, as a user might; the setting must be back after every call."""
    # other tests may have loaded more BLAS libraries since the controller was made
    monkeypatch.setattr(single_threaded_blas, "controller", None)
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded, so that a failure can be repeated."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cifar10_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds cifar-10-batches-bin and cifar-10-batches-py.

    From the environment's GPUSOFTMAX_CIFAR10, or made from ../shared/data where a checkout has that beside it.
    """
    if given := os.environ.get(CIFAR10_VARIABLE):
        return Path(given)
    maker = CHECKOUT.parent / "shared" / "data" / "make_cifar10.py"
    if not maker.exists():
        pytest.skip(f"CIFAR-10 is not here: set {CIFAR10_VARIABLE} to the folder that holds cifar-10-batches-bin")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(maker), str(folder)], check=True)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `gpusoftmax ...` in this process, through main()."""
    monkeypatch.setenv("COLUMNS", "200")  # so that messages are not wrapped
    monkeypatch.setenv("TERM", "dumb")  # nor coloured

    def command(*arguments: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["gpusoftmax", *map(str, arguments)])
        # each call adds a handler; with hundreds of them, on streams that are closed, a warning takes a second
        monkeypatch.setattr(log, "handlers", list(log.handlers))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return Result(exit_.value.code or 0, *capsys.readouterr())

    return command


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist of this checkout."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("distributions")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from all that is installed but gpusoftmax."""
    folder = tmp_path_factory.mktemp("dependencies")
    try:
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "gpusoftmax" not in path.name:
                (folder / path.name).symlink_to(path)
    except OSError as error:
        pytest.skip(f"links cannot be made: {error}")  # on Windows, for ordinary users
    return folder


@pytest.fixture(scope="session")
def environment(distributions: Path, dependencies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, in a folder whose name has a space and is not ASCII."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("environment") / "été 数据"
    venv.create(folder, symlinks=os.name == "posix")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (wheel,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (packages / "dependencies.pth").write_text(str(dependencies), encoding="utf-8")
    return folder
