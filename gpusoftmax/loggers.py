"""Callbacks that write the record of each pass elsewhere: to a CSV file, to TensorBoard, or to MLflow."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpusoftmax.checks.scalars import check_flag, check_path
from gpusoftmax.trainer import MEASURES, Record

COLUMNS = ("passes", "step", *MEASURES, "seconds", "rows_per_second")


class CsvLogger:
    """Writes a line for each pass over the data to a CSV file.

    The columns are the attributes of `Record`; of several models side by side, each has a line, and `model` its number.
    Each line is on disk before the next pass begins, so that the file can be followed while a fit runs.

    Parameters
    ----------
    path : str or os.PathLike
        The file. It is replaced when a fit begins.
    append : bool
        Add to the file instead: for a fit that continues from a checkpoint, or for several calls of `partial_fit`.

    Raises
    ------
    TypeError
        `path` is not a path, or `append` is neither True nor False.

    Examples
    --------
    >>> import tempfile
    >>> from gpusoftmax import CsvLogger, SoftmaxClassifier, load_digits
    >>> path = Path(tempfile.mkdtemp()) / "fit.csv"
    >>> model = SoftmaxClassifier(callbacks=[CsvLogger(path)]).fit(*load_digits().parts["train"])
    >>> path.read_text().splitlines()[0]
    'model,passes,step,objective,loss,accuracy,validation_loss,validation_accuracy,learning_rate,seconds,rows_per_second'
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = check_path("path", path), check_flag("append", append)

    def fresh(self) -> Callable[[Record], None]:
        """Create the callback of one fit, which opens the file at its first record.

        Returns
        -------
        callable
            Takes the `Record` of each pass. It raises OSError if the file cannot be written.
        """
        return _CsvFile(self.path, self.append)


class _CsvFile:
    def __init__(self, path: Path, append: bool) -> None:
        self.path, self.append = path, append
        self.file: Any = None

    def __call__(self, record: Record) -> None:
        if self.file is None:
            headed = self.append and self.path.exists() and self.path.stat().st_size > 0
            self.file = self.path.open("a" if self.append else "w", newline="", encoding="utf-8")
            self.writer = csv.writer(self.file)
            if not headed:
                self.writer.writerow(["model", *COLUMNS])
        for k in range(np.size(record.objective)):
            row = record.for_model(k).as_dict()
            self.writer.writerow([k, *("" if row[name] is None else row[name] for name in COLUMNS)])
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class TensorBoardLogger:
    """Writes losses and accuracies of each pass for TensorBoard; needs tensorboardX, or torch and tensorboard.

    The scalars are `loss/training`, `loss/objective`, `loss/validation`, `accuracy/training`, `accuracy/validation`,
    `learning_rate` and `rows_per_second`, by `Record.step`. Several models side by side have a scalar each, such as
    `loss/training/0`. `tensorboard --logdir FOLDER` shows them.

    Parameters
    ----------
    folder : str or os.PathLike
        Where to write; made if necessary. Give each fit its own, such as "runs/C=0.1".

    Raises
    ------
    ImportError
        Neither tensorboardX nor torch with tensorboard is installed.
    TypeError
        `folder` is not a path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = check_path("folder", folder)
        _summary_writer()

    def fresh(self) -> Callable[[Record], None]:
        """Create the callback of one fit.

        Returns
        -------
        callable
            Takes the `Record` of each pass.
        """
        return _Summaries(_summary_writer()(str(self.folder)))


def _summary_writer() -> Any:
    """The class that writes TensorBoard's files."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"TensorBoardLogger needs tensorboardX, or torch and tensorboard ({error}); pip install tensorboardX"
            ) from error
    return SummaryWriter


class _Summaries:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def __call__(self, record: Record) -> None:
        for name, value in measures_of(record).items():
            self.writer.add_scalar(name, value, record.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MlflowLogger:
    """Logs losses and accuracies of each pass as metrics of MLflow; needs mlflow or mlflow-skinny.

    The metrics have the names of `TensorBoardLogger`, by `Record.step`. They go to the active run; without one, a run
    is started for each fit, and ended with it. To keep the model, too, call `mlflow.sklearn.log_model`.

    Parameters
    ----------
    run_name : str, optional
        The name of runs that are started here.

    Raises
    ------
    ImportError
        MLflow is not installed.
    """

    def __init__(self, run_name: str | None = None) -> None:
        self.run_name = run_name
        _mlflow()

    def fresh(self) -> Callable[[Record], None]:
        """Create the callback of one fit.

        Returns
        -------
        callable
            Takes the `Record` of each pass.
        """
        return _Metrics(_mlflow(), self.run_name)


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise ImportError(f"MlflowLogger needs MLflow ({error}); pip install mlflow-skinny") from error
    return mlflow


class _Metrics:
    def __init__(self, mlflow: Any, run_name: str | None) -> None:
        self.mlflow, self.run_name, self.started = mlflow, run_name, False

    def __call__(self, record: Record) -> None:
        if self.mlflow.active_run() is None:
            self.mlflow.start_run(run_name=self.run_name)
            self.started = True
        self.mlflow.log_metrics(measures_of(record), step=record.step)

    def close(self) -> None:
        if self.started:
            self.mlflow.end_run()


def measures_of(record: Record) -> dict[str, float]:
    """Return a record's numbers by the names of `TensorBoardLogger`, without those that are missing."""
    named = {
        "loss/training": record.loss,
        "loss/objective": record.objective,
        "loss/validation": record.validation_loss,
        "accuracy/training": record.accuracy,
        "accuracy/validation": record.validation_accuracy,
        "learning_rate": record.learning_rate,
        "rows_per_second": record.rows_per_second,
    }
    found: dict[str, float] = {}
    for name, value in named.items():
        if value is None:
            continue
        if np.ndim(value) == 0:
            found[name] = float(value)
        else:
            found |= {f"{name}/{k}": float(one) for k, one in enumerate(value)}
    return found
