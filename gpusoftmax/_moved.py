"""New places of modules of version 0.1.0. A pickle names the modules of its classes, and old pickles have to load."""

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
    """An importer of modules by their old names. Such a module looks up its attributes in the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(MOVED[module.__name__])
        module.__getattr__ = lambda name: getattr(new, name)  # type: ignore[method-assign]


def register() -> None:
    """Make the old names importable. Python asks the last finder only for modules that no other finder knows."""
    sys.meta_path.append(_Finder())
