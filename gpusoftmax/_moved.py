"""Where modules of 0.1.0 are now: pickles name their classes by module, and have to go on loading."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "gpusoftmax.certificate": "gpusoftmax.solvers.certificate",
    "gpusoftmax.datasets.base": "gpusoftmax.files.dataset",
    "gpusoftmax.metrics": "gpusoftmax.reports.accuracy",
    "gpusoftmax.probes": "gpusoftmax.protocols.linear_probe",
    "gpusoftmax.recipes": "gpusoftmax.protocols.cs231n",
    "gpusoftmax.stream": "gpusoftmax.estimators.partial_fit",
}


class _Finder(MetaPathFinder, Loader):
    """Finds a module by its old name: one that has what the module has that took its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(MOVED[module.__name__])
        module.__getattr__ = lambda name: getattr(new, name)  # type: ignore[method-assign]


def register() -> None:
    """Let old names be imported. Python asks only where it finds no such module."""
    sys.meta_path.append(_Finder())
