"""Linear softmax classifiers: one read of the data per step, the same call on a laptop and on an NVIDIA GPU.

Names are imported when they are first used, so that `import gpusoftmax` is quick. `__init__.pyi` tells type checkers
what they are; a test keeps the two equal.
"""

import logging
from importlib import import_module
from typing import Any

_EXPORTS = {
    "BackendUnavailableError": "exceptions",
    "BadFileError": "exceptions",
    "CourseSweep": "recipes",
    "DivergenceError": "exceptions",
    "EarlyStopping": "trainer",
    "FitReport": "certificate",
    "GradientRecord": "gradcheck",
    "LinearSVMClassifier": "estimators",
    "ProbeResult": "probes",
    "Record": "trainer",
    "SoftmaxClassifier": "estimators",
    "SoftmaxClassifierCV": "search.classifier_cv",
    "SweepResult": "search.result",
    "gradient_check": "gradcheck",
    "linear_probe": "probes",
    "load_cifar10": "datasets",
    "load_data": "datasets",
    "load_digits": "datasets",
    "load_model": "persist",
    "loss_and_gradient": "objective",
    "resolve": "array",
    "save_model": "persist",
    "softmax_cross_entropy": "objective",
    "sweep": "search.sweeping",
    "sweep_cs231n": "recipes",
    "train_cs231n": "recipes",
}

__all__ = sorted([*_EXPORTS, "__version__"])

logging.getLogger("gpusoftmax").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("gpusoftmax")
        except PackageNotFoundError:
            return "0+unknown"  # a clone that was not installed
    if name not in _EXPORTS:
        raise AttributeError(f"module 'gpusoftmax' has no attribute {name!r}")
    value = getattr(import_module(f"gpusoftmax.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
