"""The package as a whole: what importing it loads, what it exports, and which module may import which."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import gpusoftmax

ROOT = Path(gpusoftmax.__file__).parent
TESTS = Path(__file__).parent

# a module imports from its own folder and from earlier lines; a name stands for a folder, or for a module beside them
LAYERS = [
    {"_log", "_typing", "exceptions"},
    {"dtypes", "reference", "losses", "penalties", "reliability", "tree", "_moved"},
    {"operations"},
    {"epilogue"},
    {"checks", "cpu", "cuda"},
    {"tables"},
    {"array", "files"},
    {"datasets"},
    {"rows"},
    {"cluster"},
    {"features"},
    {"objective"},
    {"checkpoints"},
    {"solvers"},
    {"trainer"},
    {"loggers", "progress"},
    {"estimators"},
    {"plots"},
    {"models", "search"},
    {"reports"},
    {"protocols"},
    {"cli"},
    {"__main__"},
]
USES_NUMBA = {
    "cpu.blocks", "cpu.bus_errors", "cpu.compiling", "cpu.dense_sgd", "cpu.facts", "cpu.kernels", "cpu.row_losses",
    "cpu.moment_kernels", "cpu.newton_kernels", "cpu.sparse_kernels",
    "cpu.sparse_sgd", "cpu.text_kernels", "cpu.tiles", "cpu.vector_kernels", "cpu.vectors",
}  # fmt: skip


def module_name(path: Path) -> str:
    """The name of a file's module below gpusoftmax: "models.format"; of a package, its own: "models"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name: path for path in sorted(ROOT.rglob("*.py")) if (name := module_name(path))}


def layer(name: str) -> int:
    """The place in LAYERS of a module's folder."""
    return next(i for i, folders in enumerate(LAYERS) if name.partition(".")[0] in folders)


def imports(tree: ast.AST) -> list[str]:
    """The full names of all modules that a file imports, anywhere in it; for `from a import b`, a.b."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own_imports(source: str) -> set[str]:
    """The modules below gpusoftmax that a file imports."""
    found = set()
    for target in imports(ast.parse(source)):
        if target.startswith("gpusoftmax."):
            below = target.removeprefix("gpusoftmax.")
            while below not in FILES and "." in below:  # from a module, a name
                below = below.rpartition(".")[0]
            found.add(below)
    return found


def late_imports(name: str, source: str) -> list[str]:
    """What the module `name` imports from a later folder, or from another one of its own layer."""
    folder = name.partition(".")[0]
    return sorted(
        other for other in own_imports(source) if other.partition(".")[0] != folder and layer(other) >= layer(name)
    )


def third_parties(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


# imports run one way


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_its_own_folder_and_earlier_ones_only(name: str) -> None:
    assert late_imports(name, FILES[name].read_text(encoding="utf-8")) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # a package's own name is left out: its __init__ may collect names from its modules, which do not use them
    graph = {
        name: {other for other in own_imports(path.read_text(encoding="utf-8")) if not name.startswith(f"{other}.")}
        for name, path in FILES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("name", "source", "late"),
    [
        ("array", "from gpusoftmax.features.dense import DenseFeatures", ["features.dense"]),
        ("array", "def f():\n    import gpusoftmax.estimators", ["estimators"]),
        ("trainer", "from gpusoftmax import cli", ["cli"]),
        ("cpu.threads", "from gpusoftmax.cpu.ops import leaf_rows", []),
        ("checks.arrays", "from gpusoftmax.cpu import threads", ["cpu.threads"]),
        ("models.safetensors", "from gpusoftmax.files.atomic import write_atomically", []),
    ],
)
def test_the_rule_tells_late_imports_from_early_ones(name: str, source: str, late: list[str]) -> None:
    assert late_imports(name, source) == late


def test_every_folder_has_one_place() -> None:
    folders = [folder for layer in LAYERS for folder in layer]
    assert sorted(folders) == sorted({name.partition(".")[0] for name in FILES})


@pytest.mark.parametrize(
    "name", [name for name in FILES if not name.startswith(("cpu", "cuda", "array", "cluster", "features"))]
)
def test_the_backends_are_behind_the_array_module_and_the_features(name: str) -> None:
    backends = {
        other for other in own_imports(FILES[name].read_text(encoding="utf-8")) if other[:4] in ("cpu.", "cuda")
    }
    no_backends = {"files.plain_rows": {"cpu.text_kernels"}, "rows.mapping": {"cpu.bus_errors"}}
    assert backends == no_backends.get(name, set())


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("features")])
def test_no_module_but_the_features_looks_at_their_array(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "X"]
    assert [node.lineno for node in found if ast.unparse(node) != "alt.X"] == []  # Altair's axis


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("cuda")])
def test_cupy_is_imported_by_the_gpus_half_alone(name: str) -> None:
    assert third_parties(ast.parse(FILES[name].read_text(encoding="utf-8"))).isdisjoint({"cupy", "cupyx"})


@pytest.mark.parametrize("name", [name for name in FILES if name not in USES_NUMBA])
def test_numba_is_imported_by_the_kernels_alone(name: str) -> None:
    assert third_parties(ast.parse(FILES[name].read_text(encoding="utf-8"))).isdisjoint({"numba", "llvmlite"})


def test_the_facts_about_compiled_kernels_import_numba_when_asked_only() -> None:
    tree = ast.parse(FILES["cpu.facts"].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "numba" not in third_parties(ast.Module(at_once, []))


@pytest.mark.slow
def test_no_test_imports_another_test() -> None:
    # what two of them need belongs in tests/support
    found = {
        (path.relative_to(TESTS).as_posix(), name)
        for path in TESTS.rglob("test_*.py")
        for name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if name.startswith("tests.") and ".test_" in name
    }
    assert found == set()


# what importing costs


HEAVY = ["numpy", "numba", "llvmlite", "scipy", "sklearn", "joblib", "safetensors", "threadpoolctl", "cupy"]


def loaded_modules(program: str, *arguments: str) -> set[str]:
    """The modules that a program has loaded when it ends."""
    report = "import atexit, json, sys; atexit.register(lambda: print('\\n' + json.dumps([*sys.modules])))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded(program: str, *arguments: str) -> set[str]:
    """The top-level modules that a program has loaded when it ends."""
    return {name.partition(".")[0] for name in loaded_modules(program, *arguments)}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import gpusoftmax").isdisjoint([*HEAVY, "typer", "rich"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["gradcheck", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded("from gpusoftmax.cli import main; main()", *arguments).isdisjoint(HEAVY)


@pytest.mark.slow
def test_training_loads_only_what_it_uses() -> None:
    found = loaded_modules("from gpusoftmax.cli import main; main()", "train", "digits", "--backend", "numpy")
    unused = {
        "sklearn.metrics",
        "sklearn.model_selection",
        "sklearn.linear_model",
        "safetensors",
        "matplotlib",
        "numba",
    }
    assert found.isdisjoint({*unused, "gpusoftmax.models", "gpusoftmax.protocols"})


@pytest.mark.parametrize("program", ["gpusoftmax.BadFileError", "gpusoftmax.__version__", "dir(gpusoftmax)"])
def test_a_light_name_loads_nothing_heavy(program: str) -> None:
    assert loaded(f"import gpusoftmax; {program}").isdisjoint(HEAVY)


@pytest.mark.slow
def test_numba_is_loaded_when_it_is_needed_only() -> None:
    names = "loss_and_gradient, get_backend, SoftmaxClassifier, load_cifar10"
    assert "numba" not in loaded(f"from gpusoftmax import {names}")


@pytest.mark.slow
def test_the_numpy_back_end_never_loads_numba() -> None:
    program = """
import numpy as np
from gpusoftmax import SoftmaxClassifier
X = np.random.default_rng(0).standard_normal((20, 3))
SoftmaxClassifier(backend="numpy", schedule="cosine", max_iter=1).fit(X, np.arange(20) % 2).predict(X)
"""
    assert "numba" not in loaded(program)


# what is exported


def stub_names() -> set[str]:
    """The public names of __init__.pyi."""
    names = set()
    for node in ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


def test_the_stub_has_the_names_of_the_package() -> None:
    assert stub_names() == set(gpusoftmax.__all__)


def test_the_stub_names_the_module_that_the_package_takes_a_name_from() -> None:
    tree = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    sources = {
        alias.name: node.module.removeprefix("gpusoftmax.")
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sources == gpusoftmax._EXPORTS


def test_the_old_name_of_get_backend_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"gpusoftmax.resolve is now gpusoftmax.get_backend"):
        assert gpusoftmax.resolve is gpusoftmax.get_backend


@pytest.mark.parametrize("name", gpusoftmax.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(gpusoftmax, name) is not None


@pytest.mark.parametrize("name", sorted(gpusoftmax._EXPORTS))
def test_every_name_is_documented(name: str) -> None:
    assert (getattr(gpusoftmax, name).__doc__ or "").strip()


@pytest.mark.parametrize("name", sorted(gpusoftmax._EXPORTS))
def test_a_name_is_the_one_of_its_module(name: str) -> None:
    module = importlib.import_module(f"gpusoftmax.{gpusoftmax._EXPORTS[name]}")
    assert getattr(gpusoftmax, name) is getattr(module, name)


def test_no_module_hides_a_name() -> None:
    # importing gpusoftmax.x binds x in the package, in place of a function of that name
    assert {name.partition(".")[0] for name in FILES} & set(gpusoftmax.__all__) == set()


def test_all_is_sorted_and_without_repetition() -> None:
    assert gpusoftmax.__all__ == sorted(set(gpusoftmax.__all__))


def test_dir_lists_the_public_names() -> None:
    assert dir(gpusoftmax) == gpusoftmax.__all__


def test_a_star_import_brings_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from gpusoftmax import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(gpusoftmax.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gpusoftmax' has no attribute 'SoftmaxRegressor'"):
        gpusoftmax.SoftmaxRegressor  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert gpusoftmax.__version__ == version("gpusoftmax")


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "py.typed").exists()


# silence


@pytest.mark.slow
def test_the_library_is_silent_where_logging_is_not_set_up() -> None:
    # Ctrl-C is logged as a warning, which Python prints itself where no handler is found
    program = """
import signal
import numpy as np
from gpusoftmax import SoftmaxClassifier
X = np.random.default_rng(0).standard_normal((20, 3))
signal.signal(signal.SIGINT, signal.default_int_handler)
model = SoftmaxClassifier(callbacks=[lambda record: signal.raise_signal(signal.SIGINT)]).fit(X, np.arange(20) % 2)
assert model.stop_reason_ == "interrupted"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")
