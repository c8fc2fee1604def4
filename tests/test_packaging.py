"""Wheel and sdist: their contents, and an installation where paths are awkward and nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
OF_OTHERS = "PYTHONPATH", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"  # variables that lead to other folders


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program's output; it succeeds."""
    inherited = {key: value for key, value in os.environ.items() if key not in OF_OTHERS}
    ours = {"PYTHONUTF8": "1", "NUMBA_OPT": "0"}  # without optimisation compiling takes half the time
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=inherited | ours | environment, capture_output=True, encoding="utf-8",
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files(folder: Path) -> set[str]:
    """All files below a folder of the checkout, but those that Python leaves there."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


# what is in them


def test_the_wheel_holds_the_package_and_the_kernels_and_nothing_else(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert held == files(Path("gpusoftmax")) | {f"gpusoftmax/{name}" for name in files(Path("kernels"))}


@pytest.mark.parametrize("name", ["py.typed", "__init__.pyi", "kernels/common.cuh", "kernels/row_loss.cu"])
def test_the_wheel_holds(name: str, distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    assert f"gpusoftmax/{name}" in contents(wheel)


def test_the_sdist_gives_the_wheel_that_the_checkout_gives(distributions: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = distributions.glob("*.whl"), distributions.glob("*.tar.gz")
    run(sys.executable, "-m", "tarfile", "-e", sdist, tmp_path, cwd=tmp_path)
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=source)
    assert contents(tmp_path / wheel.name) == contents(wheel)


def test_the_sdist_holds_all_that_its_tests_need(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive}
    needed = {name for folder in ("tests", "bench", "docs", "notebooks", "kernels") for name in files(Path(folder))}
    assert needed | {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml", "pyproject.toml"} <= held


# installed, and not


KERNELS = """
from gpusoftmax.cuda.compile import kernel_folder, source
print(kernel_folder())
assert source("row_loss.cu", {"C": 3}).startswith("#define C 3\\n")
"""


def train_save_and_evaluate(*gpusoftmax: str | Path, backend: str, cwd: Path, **environment: str) -> None:
    """The command line; the model's file does what the model did."""
    accuracies = []
    for command in (
        ["train", "digits", "--save", "modèle 1.safetensors"],
        ["evaluate", "modèle 1.safetensors", "digits"],
    ):
        done = run(*gpusoftmax, *command, "--backend", backend, "--json", cwd=cwd, **environment)
        accuracies.append(json.loads(done.stdout)["test_accuracy"])
    assert accuracies[0] == accuracies[1] > 0.9


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder to work in, with an awkward name, too."""
    folder = tmp_path / "trabajo ñ"
    folder.mkdir()
    return folder


def scripts(environment: Path) -> Path:
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(environment)}))


def test_an_installed_wheel_trains_saves_and_evaluates(environment: Path, elsewhere: Path) -> None:
    train_save_and_evaluate(scripts(environment) / "gpusoftmax", backend="cpu", cwd=elsewhere)


def test_an_installed_wheel_finds_its_kernels(environment: Path, elsewhere: Path) -> None:
    found = run(scripts(environment) / "python", "-c", KERNELS, cwd=elsewhere).stdout.strip()
    assert Path(found).parts[-2:] == ("gpusoftmax", "kernels")


@pytest.fixture
def read_only(environment: Path, tmp_path: Path) -> Iterator[Path]:
    """A home that cannot be written to, and neither can the installed package."""
    home = tmp_path / "home"
    home.mkdir()
    (package,) = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)})).glob("gpusoftmax")
    for cache in package.rglob("__pycache__"):
        shutil.rmtree(cache)
    folders = [home, package, *(path for path in package.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield home
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="modes bind nobody here")
def test_where_nothing_can_be_written_it_works_and_says_what_that_costs(
    environment: Path, elsewhere: Path, read_only: Path
) -> None:
    pytest.importorskip("numba")
    bound: list[str] = []
    if os.geteuid() == 0:  # whom modes do not bind while it has this capability
        if shutil.which("setpriv") is None:
            pytest.skip("root writes everywhere, and setpriv is not here")
        bound = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    done = run(*bound, scripts(environment) / "gpusoftmax", "train", "digits", cwd=elsewhere, HOME=str(read_only))
    assert done.stderr.count("set NUMBA_CACHE_DIR to a writable folder") == 1


@pytest.fixture
def clone(dependencies: Path, tmp_path: Path) -> dict[str, str]:
    """The environment variables with which Python imports from a clone that was not installed."""
    for folder in ("gpusoftmax", "kernels"):
        shutil.copytree(CHECKOUT / folder, tmp_path / "clone" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return {"PYTHONPATH": f"{tmp_path / 'clone'}{os.pathsep}{dependencies}"}


CLONE = sys.executable, "-S"  # without this Python's own packages, where gpusoftmax is installed


def test_a_clone_that_was_not_installed_trains_saves_and_evaluates(clone: dict[str, str], elsewhere: Path) -> None:
    train_save_and_evaluate(*CLONE, "-m", "gpusoftmax", backend="numpy", cwd=elsewhere, **clone)


def test_a_clone_that_was_not_installed_finds_its_kernels(clone: dict[str, str], elsewhere: Path) -> None:
    found = run(*CLONE, "-c", KERNELS, cwd=elsewhere, **clone).stdout.strip()
    assert Path(found).parts[-2:] == ("clone", "kernels")


def test_a_clone_that_was_not_installed_has_no_version(clone: dict[str, str], elsewhere: Path) -> None:
    program = "import gpusoftmax; print(gpusoftmax.__version__)"
    assert run(*CLONE, "-c", program, cwd=elsewhere, **clone).stdout == "0+unknown\n"
