"""Linear softmax classifiers: one pass over the data per step, with the same calls on a laptop and an NVIDIA GPU.

Names are imported when they are first used, so that `import gpusoftmax` is quick. `__init__.pyi` declares them for type
checkers; a test compares the two.
"""

from importlib import import_module
from typing import Any

from gpusoftmax._moved import register

_RENAMED = {"resolve": "get_backend"}
_EXPORTS = {
    "BackendUnavailableError": "exceptions",
    "BadFileError": "exceptions",
    "ClusterError": "exceptions",
    "CourseSweep": "protocols.cs231n",
    "CsvLogger": "loggers",
    "DivergenceError": "exceptions",
    "EarlyStopping": "trainer",
    "FileRows": "rows.file_rows",
    "FitReport": "solvers.certificate",
    "GradientRecord": "objective.gradcheck",
    "LinearSVMClassifier": "estimators.classifiers",
    "MlflowLogger": "loggers",
    "ProbeResult": "protocols.linear_probe",
    "Record": "trainer",
    "SoftmaxClassifier": "estimators.classifiers",
    "SoftmaxClassifierCV": "search.classifier_cv",
    "SweepResult": "search.result",
    "TableEncoder": "tables.encoder",
    "TensorBoardLogger": "loggers",
    "fit_path": "search.fit_path",
    "get_backend": "array",
    "gradient_check": "objective.gradcheck",
    "linear_probe": "protocols.linear_probe",
    "load_cifar10": "datasets",
    "load_data": "files.load",
    "load_digits": "datasets",
    "load_model": "models",
    "loss_and_gradient": "objective.functional",
    "make_table_classifier": "estimators.table_classifier",
    "open_rows": "rows.open_rows",
    "report": "reports.html",
    "save_model": "models",
    "save_onnx": "models.onnx",
    "scale_temperature": "estimators.temperature",
    "softmax_cross_entropy": "objective.functional",
    "sweep": "search.sweep",
    "sweep_cs231n": "protocols.cs231n",
    "train_cs231n": "protocols.cs231n",
}

__all__ = sorted([*_EXPORTS, "__version__"])

register()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("gpusoftmax")
        except PackageNotFoundError:
            return "0+unknown"  # a source checkout that is not installed
    if name in _RENAMED:
        import warnings

        warnings.warn(f"gpusoftmax.{name} is now gpusoftmax.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        return __getattr__(_RENAMED[name])
    if name not in _EXPORTS:
        raise AttributeError(f"module 'gpusoftmax' has no attribute {name!r}")
    value = getattr(import_module(f"gpusoftmax.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
