"""The data sets of the examples, benchmarks and command line."""

from __future__ import annotations

from pathlib import Path

from gpusoftmax.datasets.base import Dataset, aligned_empty
from gpusoftmax.datasets.cifar10 import load_cifar10
from gpusoftmax.datasets.digits import load_digits

__all__ = ["Dataset", "aligned_empty", "load_cifar10", "load_dataset", "load_digits"]


def load_dataset(name: str, data: str | Path | None = None) -> Dataset:
    """Load a data set by its name on the command line.

    Parameters
    ----------
    name : {"digits", "cifar10"}
        The data set.
    data : str or pathlib.Path, optional
        The folder of its files: needed for "cifar10", meaningless for "digits".

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If the name is unknown, or `data` is missing where it is needed or given where it is not.
    FileNotFoundError, BadFileError
        As `load_cifar10`.
    """
    match name:
        case "digits":
            if data is not None:
                raise ValueError(
                    f"data: digits comes with scikit-learn and is read from no folder, but got {str(data)!r}"
                )
            return load_digits()
        case "cifar10":
            if data is None:
                raise ValueError(
                    "data: cifar10 needs `--data DIR`, naming the folder that holds cifar-10-batches-py or "
                    "cifar-10-batches-bin"
                )
            return load_cifar10(data)
        case _:
            raise ValueError(f"name: no data set is called {name!r}; the known ones are digits and cifar10")
