"""Data to train on: known data sets, which examples and benchmarks use, and users' own files."""

from __future__ import annotations

from pathlib import Path

from gpusoftmax.datasets.cifar10 import load_cifar10
from gpusoftmax.datasets.digits import load_digits
from gpusoftmax.files.dataset import Dataset, aligned_empty
from gpusoftmax.files.load import SUFFIXES, load_data
from gpusoftmax.files.table import Table

__all__ = [
    "KNOWN",
    "SUFFIXES",
    "Dataset",
    "Table",
    "aligned_empty",
    "load_cifar10",
    "load_data",
    "load_dataset",
    "load_digits",
]

KNOWN = ("digits", "cifar10")


def load_dataset(name: str, data: str | Path | None = None, *, download: bool = False) -> Dataset:
    """Load a data set by its name.

    Parameters
    ----------
    name : {"digits", "cifar10"}
        The data set.
    data : str or pathlib.Path, optional
        The folder of its files; only for "cifar10", see `load_cifar10`.
    download : bool
        Download its files if they are missing; only for "cifar10".

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        The name is unknown, or `data` or `download` is given for digits.
    OSError, BadFileError, ImportError
        The same as for `load_cifar10`.
    """
    match name:
        case "digits":
            if data is not None or download:
                what = "download=True" if data is None else f"data={str(data)!r}"
                raise ValueError(f"{what}: digits comes with scikit-learn and needs no folder; leave it out")
            return load_digits()
        case "cifar10":
            return load_cifar10(data, download=download)
        case _:
            raise ValueError(
                f"name={name!r}: no data set has this name; known are {' and '.join(KNOWN)}, and your own files, whose "
                f"names end in {', '.join(SUFFIXES)}"
            )
